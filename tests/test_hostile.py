"""What an attacker would try: bombs, names that lead elsewhere, names that are HTML or escapes."""

import ast
import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
import time
import tracemalloc
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import minifcn
from minifcn import Error, data, display, models, nn, weights
from minifcn.autograd import Tensor
from minifcn.cli import main
from minifcn.data import DataError
from minifcn.data.convert import convert
from minifcn.data.images import most_pixels, read_size
from minifcn.data.mat import read_mat
from minifcn.data.names import UnsafeNameError, file_parts
from minifcn.json_file import JsonError, parse_json, read_json
from minifcn.metrics import ConfusionMatrix
from minifcn.notebook import curves, graph
from minifcn.plain_text import HIDDEN
from minifcn.predict import PredictionError, labelled, plan, predict_files
from minifcn.prediction_folder import FolderError, PredictionFolder
from minifcn.prepare import check_folder
from minifcn.progress import new_table, print_table
from minifcn.report import Example, Report, Row, write_report
from minifcn.terminal import Shielded
from minifcn.weights import Loaded, WeightsError
from tests import hostile_files
from tests.foreign_files import safetensors, safetensors_parts

PACKAGE = Path(minifcn.__file__).parent
LABEL = np.array([[0, 1], [1, 0]], np.uint8)
ESCAPE = "\x1b[2J"


def run(*arguments):
    """Run a command line; return its exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0


# ---- bombs and absurd sizes ----------------------------------------------------------------------

BOMBS = hostile_files.bombs()


@pytest.mark.parametrize("what", [name for name in BOMBS if "pixels" in name or "row" in name])
def test_an_image_of_too_many_pixels(tmp_path, what):
    path = tmp_path / "a.png"
    path.write_bytes(BOMBS[what])
    start = time.perf_counter()
    tracemalloc.start()
    try:
        for reader in (data.read_image, data.read_label, read_size):
            with pytest.raises(DataError, match=r"at most 250000000 are read|cannot be read: "):
                reader(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5


def test_long_texts_in_an_image_are_not_unpacked(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(BOMBS["a png with a long text"])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="too large"):
            data.read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_postscript_is_a_program_and_not_an_image(tmp_path):
    """Pillow would start Ghostscript for it."""
    path = tmp_path / "a.jpg"
    path.write_bytes(BOMBS["a postscript program"])
    with pytest.raises(DataError, match=r"of no known image format \(.*PNG"):
        data.read_image(path)


def test_the_limit_can_be_set(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"P6 14000 14000 255 ")  # more than Pillow alone takes
    assert read_size(path) == (14_000, 14_000)
    monkeypatch.setenv("MINIFCN_MAX_PIXELS", "195999999")
    with pytest.raises(DataError, match=r"14000 x 14000 .* at most 195999999 are .*MAX_PIXELS"):
        read_size(path)


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "9" * 50])
def test_a_limit_that_is_no_number(monkeypatch, text):
    monkeypatch.setenv("MINIFCN_MAX_PIXELS", text)
    with pytest.raises(DataError, match=r"MINIFCN_MAX_PIXELS is '.*': it must be a number of pix"):
        most_pixels()


def test_the_limit_of_the_program_around_is_left_alone(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(hostile_files.saved("P", "GIF"))
    before = Image.MAX_IMAGE_PIXELS
    readers = [
        threading.Thread(target=lambda: [data.read_image(path) for _ in range(40)])
        for _ in range(4)
    ]
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_limit_that_another_thread_sets_meanwhile(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(BOMBS["a png of 4 billion pixels"])
    module = sys.modules[read_size.__module__]
    monkeypatch.setattr(module, "_pillow_limit", lambda pixels: contextlib.nullcontext())
    with pytest.raises(DataError, match=r"a\.png: cannot be read: Image size \(4225000000 pix"):
        read_size(path)


def test_matlab_files(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"S": np.zeros((400, 300), np.uint8)}, do_compression=True)
    assert read_mat(path, "S").shape == (400, 300)
    monkeypatch.setenv("MINIFCN_MAX_PIXELS", "119999")
    with pytest.raises(DataError, match="S has 120000 numbers, and at most 119999 are read"):
        read_mat(path, "S")


def test_a_matlab_file_that_crashes_its_reader(tmp_path, monkeypatch):
    """The process that reads ends; the next file is read by another."""
    path, worker = tmp_path / "a.mat", tmp_path / "worker.py"
    scipy.io.savemat(path, {"S": np.eye(2)})
    worker.write_text("import os, sys; sys.stdin.readline(); os.abort()")
    module = sys.modules[read_mat.__module__]
    module._reader().close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "WORKER", worker)
        with pytest.raises(DataError, match=r"a\.mat: .* it crashed SciPy \(status -6\): fetch"):
            read_mat(path, "S")
        worker.write_text("import time; time.sleep(60)")
        patch.setattr(module, "TIME_LIMIT", 0.3)
        with pytest.raises(DataError, match="it took more than 0 s"):
            read_mat(path, "S")
    assert read_mat(path, "S").tolist() == [[1, 0], [0, 1]]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_to_all_processes_leaves_the_reader_of_matlab_files_at_work(tmp_path):
    """The run that asks it stops by itself then, and must not take the file for a damaged one."""
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"S": np.eye(2)})
    reader = sys.modules[read_mat.__module__]._reader()
    for number in (signal.SIGINT, signal.SIGTERM):
        read_mat(path, "S")
        process = reader._process
        process.send_signal(number)
        time.sleep(0.1)
        assert read_mat(path, "S").shape == (2, 2)
        assert reader._process is process


def test_lists_that_are_long_or_wide(tmp_path):
    """None of it takes time that grows with the square."""
    start = time.process_time()
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "images" / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "labels" / "a.png")
    classes, train, table = (tmp_path / n for n in ("classes.txt", "train.txt", "pairs.csv"))
    spec = f"folder:{tmp_path}"
    classes.write_text("".join(f"{i}\n" for i in range(100_000)))
    with pytest.raises(DataError, match="names 100000 classes: there must be 2 to 255"):
        data.open_dataset(spec, "train")
    classes.write_text(f"a\n{'b' * 5_000_000}\n")
    with pytest.raises(
        DataError, match=r"class 'b+'\.\.\. has a name of 5,000,000 letters: it may"
    ):
        data.open_dataset(spec, "train")
    classes.write_text("a\nb\n")
    train.write_text("".join(f"{i}\n" for i in range(100_000)) + "99999\n")
    with pytest.raises(DataError, match="'99999' is listed twice"):
        data.open_dataset(spec, "train")
    table.write_text("image,label" + ",x" * 1_000_000 + "\n")
    with pytest.raises(DataError, match="the first line is") as caught:
        data.open_dataset(f"csv:{table}", "train")
    assert len(str(caught.value)) < 2000
    table.write_text(f'image,label\n"{"x" * 200_000}",b\n')
    with pytest.raises(DataError, match="no CSV file: field larger than field limit"):
        data.open_dataset(f"csv:{table}", "train")
    with train.open("wb") as file:
        file.truncate(80 << 20)
    with pytest.raises(DataError, match="83886080 bytes: a list of names may have 67108864"):
        data.open_dataset(spec, "train")
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "fcn8s", "--size", "99999999"), "an image may have 250,000,000"),
        (("info", "fcn8s", "--size", "9" * 5000), "it must be a number of pixels"),
        (("info", "fcn8s", "--classes", "99999999"), "GB to make, and .* GB of memory are free"),
        (("train", "--widths", "99999999,1,1,1,1"), "GB to make, and .* GB of memory are free"),
        (("train", "--widths", "9" * 5000), "from 1 to 999,999,999"),
        (("train", "--batch-size", "99999999"), "batch_size=99999999 must be at most 65,536"),
        (("train", "--crop", "99999999"), "crop=99999999 must be at most 16,384"),
        (("train", "--padding", "99999999"), "from 0 to 9999"),
        (("train", "--scale", "1,1e9"), "up to 100"),
        (("train", "--steps", "9" * 30), "from 1 to 999,999,999"),
    ],
)
def test_absurd_numbers_on_the_command_line(tmp_path, capsys, arguments, message):
    if arguments[0] == "train":
        arguments += ("--data", "shapes", "--out", tmp_path / "out")
    start = time.perf_counter()
    assert run(*arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert time.perf_counter() - start < 10
    assert not list(tmp_path.glob("out/*/*.safetensors"))


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", "", "[1,]", "\0"])
def test_json_of_no_use(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(JsonError, match=r"config\.json: (not JSON|its lists or objects)"):
        read_json(tmp_path / "config.json")
    with pytest.raises(JsonError):
        parse_json(text, "here")
    with pytest.raises(Error, match="was not written by a training run"):
        check_folder(tmp_path)


def test_json_that_is_no_text_or_very_long(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b'"\xff"')
    with pytest.raises(JsonError, match="not UTF-8 text: byte 1 cannot be read"):
        read_json(path)
    monkeypatch.setattr("minifcn.json_file.LARGEST", 2)
    with pytest.raises(JsonError, match="larger than"):
        read_json(path)


# ---- names ---------------------------------------------------------------------------------------

OUTSIDE = ["../x", "a/../../x", "/x", "C:\\x", "C:x", "\\\\host\\x", "a\\..\\..\\x", "..", "", "."]
OUTSIDE += ["a\0b", ESCAPE, "a\nb", "x" * 250, "é" * 130, "\udcff"]
INSIDE = [".hidden", "a b", "ü/ß", "~root", "-rf", "a//b", "./c", "CON", "x" * 240, "a.", "$(id)"]


def samples_named(*names):
    """Return a data set without files whose images have these names."""
    dataset = data.shapes("val", length=len(names))
    dataset.items = [data.Item(name, (), ()) for name in names]
    return dataset


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_names_that_no_file_may_have(tmp_path, name):
    with pytest.raises(UnsafeNameError) as caught:
        file_parts(name)
    assert str(caught.value).isprintable()
    with pytest.raises(UnsafeNameError):
        PredictionFolder(tmp_path / "a" / "out", samples_named(name))
    with pytest.raises(UnsafeNameError):
        plan([samples_named(name)], tmp_path / "a" / "out")
    folder = PredictionFolder(tmp_path / "a" / "b", data.shapes("val"))
    with pytest.raises(UnsafeNameError):
        folder.save(name, {"": LABEL})
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", INSIDE, ids=ascii)
def test_odd_names_that_are_good(tmp_path, name):
    PredictionFolder(tmp_path, data.shapes("val")).save(name, {"": LABEL})
    (job,) = plan([samples_named(name)], tmp_path)
    (file,) = job.result.labels.values()
    assert files_in(tmp_path) == [str(file.relative_to(tmp_path))]


@given(st.text(alphabet="ab./\\:~\0\x1b é-", max_size=12))
def test_any_name_stays_inside_or_is_refused(name):
    folder = Path("/nowhere/out")
    try:
        parts = file_parts(name)
    except UnsafeNameError:
        return
    assert not Path(*parts).is_absolute()
    assert folder in folder.joinpath(*parts).resolve().parents


@pytest.mark.parametrize("pair", [("sea", "SEA"), ("e\u0301", "é"), ("a/b", "A/b")])
def test_names_that_are_one_on_some_systems(tmp_path, pair):
    folder = PredictionFolder(tmp_path, data.shapes("val"))
    folder.save(pair[0], {"": LABEL})
    with pytest.raises(FolderError, match=r"both .* and .* would be written here"):
        folder.save(pair[1], {"": LABEL})
    with pytest.raises(PredictionError, match="would both be written to"):
        plan([samples_named(*pair)], tmp_path / "out")


class Named(list):
    """A data set of given samples."""

    name, classes, palette, ignore_index = "odd", ("a", "b"), data.voc_palette(2), 255


@pytest.mark.parametrize("names", [*[(name,) for name in OUTSIDE], ("a", "A")], ids=ascii)
def test_a_converted_data_set_stays_in_its_folder(tmp_path, monkeypatch, names):
    image = np.zeros((2, 2, 3), np.uint8)
    odd = Named(data.Sample(image, LABEL, name) for name in names)
    module = sys.modules[convert.__module__]
    monkeypatch.setattr(module, "open_dataset", lambda spec, split: odd)
    with pytest.raises(DataError):
        convert("shapes", tmp_path / "a" / "out", splits=["val"])
    assert [path for path in files_in(tmp_path) if "classes" not in path] == []


@pytest.mark.parametrize("made", ["predict", "folder", "convert"])
def test_links_in_the_output_folder_are_not_followed(tmp_path, made):
    """A folder that is a link to elsewhere is refused; a file that is one is replaced."""
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (elsewhere / "file").write_text("mine")
    if made == "convert":
        (out / "classes.txt").write_text("background\ncircle\nsquare\ntriangle\n")
        (out / "images").symlink_to(elsewhere)
        with pytest.raises(DataError):
            convert("shapes", out, splits=["val"])
        return
    (out / "day").symlink_to(elsewhere)
    (out / "x.png").symlink_to(elsewhere / "file")
    if made == "folder":
        folder = PredictionFolder(out, data.shapes("val"))
        folder.save("x", {"": LABEL})
        with pytest.raises(UnsafeNameError, match=r"leads to .*elsewhere/a\.png, which is not in"):
            folder.save("day/a", {"": LABEL})
    else:
        net = models.fcn32s(2, "small", widths=(1,) * 5, rng=np.random.default_rng(0))
        loaded = Loaded(net, ("a", "b"), data.voc_palette(2), data.UNIT, "")
        Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
        predict_files(loaded, [tmp_path / "x.jpg"], out)
        with pytest.raises(UnsafeNameError, match="leads to"):
            plan([samples_named("day/a")], out)
    assert not (out / "x.png").is_symlink()
    assert (elsewhere / "file").read_text() == "mine"
    assert files_in(elsewhere) == ["file"]


def test_a_run_that_says_it_is_elsewhere(tmp_path, monkeypatch):
    """What is resumed is written into the folder that was named, whatever is noted there."""
    monkeypatch.chdir(tmp_path)
    small = ("--widths", "1,1,1,1,1", "--stages", "32s", "--steps", "2", "--batch-size", "1")
    assert run("train", "--data", "shapes", "--out", "run", "--crop", "32", *small) == 0
    (tmp_path / "run" / "metrics.json").unlink()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["given"] |= {"out": str(tmp_path / "elsewhere"), "overwrite": True, "odd": 1}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert run("train", "--resume", "--out", "run") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_heads_of_a_weight_file_become_names_of_files(tmp_path):
    """So a made-up file must not lead elsewhere by them."""
    heads = {"sem": 2, "geo": 2}
    net = models.fcn32s(heads, "small", widths=(1,) * 5, rng=np.random.default_rng(0))
    path = tmp_path / "own.safetensors"
    facts = {"classes": "abcd", "palette": data.voc_palette(4), "preprocessing": data.UNIT}
    weights.save(net, path, **facts)
    whole, numbers = safetensors_parts(path.read_bytes())
    for head in ("../../geo", "/geo", "", ESCAPE):
        header = json.loads(whole)
        told = json.loads(header["__metadata__"]["model"])
        told["num_classes"] = {"sem": 2, head: 2}
        header["__metadata__"]["model"] = json.dumps(told)
        path.write_bytes(safetensors(header, numbers))
        with pytest.raises(WeightsError, match="damaged header: "):
            weights.load(path)
    with pytest.raises(UnsafeNameError):
        plan([tmp_path / "a.png"], tmp_path / "out", ["sem", "../../geo"])


# ---- pages and terminals -------------------------------------------------------------------------

TAG = "<script>alert(1)</script>\"'&"
FILE = "<img src=x onerror=alert(1)>\"'&"  # no slash: it is a file's name
URL = "javascript:alert(1)"
ATTRIBUTES = {"alt", "aria-label", "title"}  # where names stand in attributes


class Page(HTMLParser):
    """A page, parsed: it fails for anything that would run."""

    def __init__(self, text, names):
        super().__init__()
        self.texts, self.told = [], []
        self.feed(text)
        self.close()
        whole = "".join(self.texts)
        for name in names:
            assert name in whole, f"{name} is not shown"
        for drawing in re.findall("<svg.*?</svg>", text, re.DOTALL):
            ET.fromstring(drawing)

    def handle_starttag(self, tag, attrs):
        bad = {"script", "iframe", "object", "embed", "link", "base", "form", "foreignobject"}
        assert tag not in bad, tag
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name in ATTRIBUTES or "javascript:" not in (value or "").lower(), value
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("data:image/"), value
            if name in ATTRIBUTES:
                self.told.append(value)

    def handle_data(self, text):
        self.texts.append(text)


@pytest.fixture
def odd_folder(tmp_path):
    """A data set whose classes and files have names that are HTML."""
    root = tmp_path / f"set {FILE}"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    (root / "classes.txt").write_text(f"{TAG}\n[red]b[/red]\n{URL}\n")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        name = f"{split} {FILE}"
        (root / f"{split}.txt").write_text(f"{name}\n")
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(
            root / "images" / f"{name}.png"
        )
        label = np.repeat(np.arange(40, dtype=np.uint8)[:, None] % 3, 40, axis=1)
        data.save_label(root / "labels" / f"{name}.png", label, data.voc_palette(3))
    return root


def test_pages_of_the_commands(odd_folder, tmp_path, capsys, monkeypatch):
    """Of a training, of its comparison, of a data check and of an evaluation."""
    monkeypatch.chdir(tmp_path)
    spec, out = f"folder:{odd_folder}", f"run {FILE}"
    small = ("--widths", "1,1,1,1,1", "--stages", "32s", "--steps", "2", "--batch-size", "1")
    assert run("train", "--data", spec, "--out", out, "--crop", "32", *small) == 0
    best = tmp_path / out / "fcn32s" / "best.safetensors"
    assert run("runs", out, "--compare", "runs.html") == 0
    assert run("data", "check", spec, "--out", "check.html", "--workers", "0") in (0, 1)
    files = ("--sheet", "worst.html", "--confusion", "confusion.png", "--worst", "3")
    assert run("evaluate", best, "--data", spec, *files) == 0
    shown = capsys.readouterr().out
    assert TAG in shown
    assert "[red]b[/red]" in shown, "taken for a colour"
    pages = {
        f"{out}/report.html": [TAG, URL, "[red]b[/red]"],
        "runs.html": [FILE],
        "check.html": [TAG, URL, FILE],
        "worst.html": [TAG, URL, FILE],
    }
    for file, names in pages.items():
        Page((tmp_path / file).read_text("utf-8"), names)


def test_page_of_the_demo(tmp_path):
    classes = (TAG, URL)
    matrix = ConfusionMatrix(2)
    matrix.update(LABEL, LABEL)
    picture = Image.new("RGB", (4, 4))
    report = Report(
        *(TAG, TAG, [Row(TAG, matrix, 1.0)], classes, data.voc_palette(2), {TAG: [1.0, 0.5]}),
        [Example(FILE, TAG, {TAG: picture})],
        {TAG: TAG},
    )
    write_report(tmp_path / "a.html", report)
    page = Page((tmp_path / "a.html").read_text("utf-8"), [*classes, FILE])
    assert any(FILE in told for told in page.told)


def test_what_notebooks_show():
    palette, names = data.voc_palette(2), (TAG, URL)
    net = models.fcn32s(2, "small", widths=(1,) * 5, rng=np.random.default_rng(0))
    loaded = Loaded(net, names, palette, data.UNIT, "")
    Page(labelled(loaded, np.zeros((9, 9, 3), np.uint8))._repr_html_(), [])
    Page(
        display.Labelled(np.zeros((2, 2, 3), np.uint8), LABEL, names, palette)._repr_html_(), names
    )

    class Odd(nn.Module):
        pass

    Odd.__name__ = TAG
    Page(Odd()._repr_html_(), [TAG])
    x = Tensor(np.ones(2), requires_grad=True)
    for drawing in (curves([1.0], {TAG: [(1, 0.5)]}, name=TAG), graph(x * 2, **{TAG: x})):
        Page(drawing.svg, [])
        assert TAG in "".join(ET.fromstring(drawing.svg).itertext())


def test_classes_and_images_with_control_characters_are_refused(tmp_path, odd_folder):
    (odd_folder / "classes.txt").write_text(f"a\nb{ESCAPE}\nc\n")
    with pytest.raises(DataError, match=r"class 'b\\x1b\[2J' has a control character") as caught:
        data.open_dataset(f"folder:{odd_folder}", "train")
    assert not HIDDEN.search(str(caught.value).removeprefix(str(odd_folder)))
    item = data.Item(f"a{ESCAPE}", (), ())
    with pytest.raises(DataError, match=r"odd: image 'a\\x1b\[2J' has a control character"):
        data.Files("odd", [item], ["a", "b"])
    with pytest.raises(DataError, match="image '' is empty"):
        data.Files("odd", [item._replace(name="")], ["a", "b"])


def test_no_escape_reaches_the_terminal(tmp_path, capsys):
    path = tmp_path / f"a{ESCAPE}\udcff.png"
    path.write_text("no image")
    net = models.fcn32s(2, "small", widths=(1,) * 5, rng=np.random.default_rng(0))
    file = tmp_path / "own.safetensors"
    facts = {"classes": ("a", "b"), "palette": data.voc_palette(2), "preprocessing": data.UNIT}
    weights.save(net, file, origin=f"from {ESCAPE} elsewhere", **facts)
    assert run("info", file) == 0
    assert run("predict", file, path, "--out", tmp_path / "out") == 2
    assert run("data", "check", f"folder:{path}") == 2
    with pytest.raises(SystemExit):
        main(["train", "--data", "shapes", "--out", str(path), "--steps", "1"])
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said
    assert r"a\x1b[2J\udcff.png" in said
    assert r"from \x1b[2J elsewhere" in said


def test_a_stream_that_cannot_write_all_letters():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    print(f"é{ESCAPE}\tx\ry", file=Shielded(stream))
    stream.flush()
    assert stream.buffer.getvalue() == b"\\xe9\\x1b[2J\tx\\ry\n"


def test_tables_show_names_letter_by_letter(capsys):
    table = new_table("[b]head[/b]", f">{ESCAPE}")
    table.add_row("[red]road[/red] :smile:", f"{ESCAPE}]8;;http://x")
    print_table(table)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert {"[b]head[/b]", "[red]road[/red]", ":smile:"} <= set(out.split())


# ---- code is not run -----------------------------------------------------------------------------

FORBIDDEN = {"eval", "exec", "compile", "__import__", "breakpoint", "os.system", "os.popen"}
FORBIDDEN |= {"torch.load", "subprocess.getoutput", "subprocess.getstatusoutput"}
MODULES = {"pickle", "marshal", "shelve", "dill", "yaml", "ctypes", "code", "runpy", "xmlrpc"}
ALLOWED = {  # pickles between the processes of one run; libraries of this machine, by fixed names
    "data/workers.py": {"pickle"},
    "parallel/mpi.py": {"pickle"},
    "kernels/heap.py": {"ctypes"},
    "kernels/cuda/cublas.py": {"ctypes"},
}


def called(node):
    """Return the dotted name of what a call calls."""
    parts, target = [], node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    return ".".join(reversed([*parts, target.id])) if isinstance(target, ast.Name) else ""


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_that_is_read_can_run(path):
    """No pickles, no eval, no shell. Of PyTorch's pickles see test_torch_files.py."""
    place, tree = str(path.relative_to(PACKAGE)), ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        assert not MODULES & {name.split(".")[0] for name in names} - ALLOWED.get(place, set())
        if isinstance(node, ast.Call):
            options = {word.arg for word in node.keywords}
            assert called(node) not in FORBIDDEN
            assert not options & {"shell", "allow_pickle"}, "the defaults are what is wanted"
