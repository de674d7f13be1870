"""The commands about data: what they print, write, and with which exit code."""

import base64
import importlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from layouts_nyud import make_nyud, make_siftflow
from PIL import Image
from test_data_check import CLASSES, Samples, a_folder, a_sample
from test_report import NASTY, Page

from minifcn import cli, data
from minifcn.contact_sheet import choose, size_text, write_contact_sheet
from minifcn.data import DataError, Head, check
from minifcn.data.sources import SOURCES, example
from minifcn.data.tally import Tally
from minifcn.sample_pictures import sample_pictures, sample_sheet, stream_pictures

DOCS = Path(__file__).parent.parent / "docs" / "data"


@pytest.fixture
def run(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["data", *map(str, arguments)])
        return (caught.value.code or 0, *capsys.readouterr())

    return run


def fails(result, *parts):
    assert result[:2] == (2, "")
    assert result[2].startswith("minifcn: error: ")
    assert result[2].count("\n") == 1
    for part in parts:
        assert str(part) in result[2]


def pictures_in(page):
    """Return the pictures in a page, in order."""
    addresses = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)
    return [(kind, Image.open(io.BytesIO(base64.b64decode(text)))) for kind, text in addresses]


# minifcn data check


def test_check_of_the_bundled_data(run):
    code, out, err = run("check", "landcover")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["train", "181", "-", "181", "128", "x", "128"] in lines
    assert ["red", "71.86", "61.75", "76.93", "62.97"] in lines
    assert any(line[:5] == ["water", "25.1", "%", "174", "22.5"] for line in lines)
    assert out.endswith("landcover: 240 samples in 2 splits: no errors, no warnings\n")


def test_check_with_errors(run, tmp_path):
    spec = a_folder(tmp_path)
    bad = tmp_path / "labels" / "train é 1.png"
    bad.write_bytes(b"")
    code, out, err = run("check", f"{spec}?split=train", "--workers", 0)
    assert (code, err) == (1, "")
    assert f"error (train): {bad}: not an image: the file is empty" in out.splitlines()
    assert out.endswith("3 samples in 1 split: 1 error, no warnings\n")


def test_check_with_warnings_only(run, tmp_path, monkeypatch):
    source = SOURCES["folder"]._replace(published={"train": 1112})
    monkeypatch.setitem(SOURCES, "folder", source)
    code, out, _ = run("check", a_folder(tmp_path))
    assert code == 0
    assert "warning (train): 3 images, but 1112 were published" in out
    assert " share 3 samples" not in out  # that all has what train has goes without saying


def test_check_counts_what_splits_share(run, tmp_path):
    spec = a_folder(tmp_path, train=None, val=None, two=None)
    (tmp_path / "two.txt").write_text("two é 0\ntrain é 1\n", "utf-8")
    assert "train and two share 1 samples" in run("check", spec)[1].splitlines()


def test_check_misses_held_out_images(run, tmp_path):
    spec = a_folder(tmp_path)
    assert "held-out" not in run("check", spec)[1]
    for file in ("train.txt", "val.txt"):
        (tmp_path / file).unlink()
    told = "warning (train, all): no split has held-out images: a net needs some that it does not"
    assert told in run("check", spec)[1]
    assert told not in run("check", f"{spec}?split=all")[1]  # one is asked for, and no more


def test_check_says_how_many_more_are_bad(run, tmp_path):
    spec = a_folder(tmp_path, **{f"train{i}": None for i in range(8)})
    for file in (tmp_path / "labels").iterdir():
        file.write_bytes(b"")
    code, out, _ = run("check", f"{spec}?split=all")
    assert code == 1
    assert "... and 4 more bad samples" in out
    assert "24 errors" in out


def test_check_writes_json_and_a_page(run, tmp_path):
    numbers, page = tmp_path / "numbers.json", tmp_path / "check.html"
    code, out, _ = run("check", "shapes?split=val", "--json", numbers, "--out", page)
    assert (code, f"samples to look at: {page}" in out) == (0, True)
    assert json.loads(numbers.read_text())["splits"]["val"]["images"] == 50
    assert "Data check: shapes?split=val" in Page(page.read_text("utf-8")).text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["check.html", "numbers.json"]


def test_check_looks_first_whether_it_can_write(run, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("minifcn.data.check"), "check", None)
    fails(run("check", "shapes", "--out", tmp_path / "no" / "check.html"), "does not exist")
    fails(run("check", "shapes", "--json", tmp_path), "it is a folder")


def test_check_of_no_data(run):
    fails(run("check", "nothing"), "nothing", "landcover")
    code, out, _ = run("check", "shapes?split=test")
    assert code == 1
    assert "error (test): shapes has no split 'test'" in out


@pytest.mark.parametrize("make", [make_nyud, make_siftflow])
def test_check_and_show_other_channels_and_labels(run, tmp_path, make):
    spec = make(tmp_path / "data")
    spec += "?input=color+hha" if make is make_nyud else ""
    out = tmp_path / "out"
    out.mkdir()
    code, text, _ = run("check", spec, "--out", out / "check.html")
    assert code == 0, text
    assert ("hha 3" if make is make_nyud else "geo class") in text
    assert Page((out / "check.html").read_text("utf-8")).tags.count("img") > 3
    assert run("show", spec, "--out", out / "sample.png")[0] == 0
    assert data.read_image(out / "sample.png").shape[1] > 3 * 384


# The page


def test_the_page_shows_some_of_each_split_and_every_class(tmp_path):
    dataset = Samples([a_sample(number, 0) for number in range(100)])
    dataset[57] = a_sample(57, 1)
    report = check({"train": dataset, "val": Samples([a_sample(n) for n in range(200, 205)])})
    chosen = choose(report, 20, np.random.default_rng(0))
    assert sum(split == "train" for split, _ in chosen) <= 20 + 2
    assert sum(split == "val" for split, _ in chosen) >= 3
    assert chosen["train", 57] == ["land"]
    assert [split for (split, _), classes in chosen.items() if "ice" in classes] == ["val"]
    assert choose(report, 20, np.random.default_rng(1)).keys() != chosen.keys()


def test_labels_on_the_page_have_their_exact_colours(tmp_path):
    report = check({"train": Samples([a_sample(0)])})
    assert write_contact_sheet(tmp_path / "check.html", report) == 1
    found = pictures_in((tmp_path / "check.html").read_text("utf-8"))
    assert [kind for kind, _ in found] == ["jpeg", "png", "jpeg"]
    colours = np.asarray(found[1][1])
    np.testing.assert_array_equal(colours[0], data.voc_palette(3))
    assert colours[1, 2].tolist() == [224, 224, 192]


def test_pictures_on_the_page_are_small(tmp_path):
    class Large(Samples):
        def __getitem__(self, index):
            noise = np.random.default_rng(index).integers(0, 256, (300, 450, 3), np.uint8)
            return data.Sample(noise, noise[:, :, 0] % 3, str(index))

    report = check({"train": Large([None] * 60)}, workers=0)
    assert write_contact_sheet(tmp_path / "check.html", report) <= 43
    page = (tmp_path / "check.html").read_text("utf-8")
    assert len(page) < 3e6
    found = pictures_in(page)
    assert {picture.size for _, picture in found} == {(200, 133)}
    colours = {colour for _, colour in found[1][1].getcolors()}
    assert colours == {tuple(colour) for colour in data.voc_palette(3).tolist()}


def test_texts_on_the_page_are_escaped(tmp_path):
    head = {NASTY: Head((NASTY, "land", "ice"), data.voc_palette(3))}
    bad = data.Sample(*a_sample(1)[:2], NASTY)._replace(label=np.uint8([[9]]))
    dataset = Samples([a_sample(0, name=NASTY), bad], head)
    report = check({NASTY: dataset})
    report.source = NASTY
    write_contact_sheet(tmp_path / "check.html", report)
    page = (tmp_path / "check.html").read_text("utf-8")
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert "<script" not in page
    assert parsed.text.count(NASTY) >= 6
    assert "http" not in page


def test_the_page_lists_what_is_wrong(tmp_path):
    dataset = Samples([a_sample(0), a_sample(1)._replace(label=np.uint8([[9]]))])
    write_contact_sheet(tmp_path / "check.html", check({"train": dataset}))
    text = Page((tmp_path / "check.html").read_text("utf-8")).text
    assert "Error (train): s1: label is uint8" in text
    assert "2 samples in 1 split: 1 error, no warnings" in text


def test_the_page_of_data_of_which_nothing_can_be_read(tmp_path):
    dataset = Samples([a_sample(1)._replace(label=np.uint8([[9]]))])
    with pytest.raises(DataError, match="nothing to show"):
        write_contact_sheet(tmp_path / "check.html", check({"train": dataset}))


def test_sizes_are_told_in_a_line():
    tally = Tally("train", Samples([]))
    assert size_text(tally) == ""
    tally.sizes.update([(4, 6)])
    assert size_text(tally) == "4 x 6"
    tally.sizes.update([(2, 9), (8, 7)])
    assert size_text(tally) == "2 x 6 to 8 x 9, median 4 x 7, 3 different"


# minifcn data show


def test_show_a_sample_by_number(run, tmp_path):
    code, out, _ = run(
        "show", "shapes", "--split", "val", "--index", 3, "--out", tmp_path / "a.png"
    )
    assert code == 0
    assert out.splitlines()[0] == "3  val-0003  64 x 64 pixels (height x width)"
    sample = data.shapes("val")[3]
    expected = np.asarray(sample_sheet([sample], data.shapes("val")))
    np.testing.assert_array_equal(data.read_image(tmp_path / "a.png"), expected)


def test_show_a_sample_by_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = a_folder(tmp_path / "data")
    code, out, _ = run("show", f"{spec}?split=val", "--name", "val é 2")
    assert (code, out.splitlines()[0][:10]) == (0, "2  val é 2")
    assert [file.name for file in tmp_path.glob("*.png")] == ["folder-val-val é 2.png"]


def test_show_several(run, tmp_path):
    out = tmp_path / "some.png"
    code, text, err = run("show", "shapes?split=val", "--index", 48, "--count", 5, "--out", out)
    assert (code, err) == (0, "minifcn: shapes val ends with sample 49\n")
    assert [line[:2] for line in text.splitlines()[:2]] == ["48", "49"]
    assert data.read_image(out).shape[0] > 2 * 256


def test_the_name_of_a_picture_stays_in_this_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = Samples([a_sample(0, name="../a\\b/c")])
    monkeypatch.setattr(data, "open_dataset", lambda *_: dataset)
    assert run("show", "shapes")[0] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["shapes-train-.._a_b_c.png"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("shapes", "--index", 200), "shapes train has 200 samples, 0 to 199"),
        (("shapes", "--name", "train-003"), "similar: train-0"),
        (("shapes", "--name", "?"), "the first is train-0000"),
        (("shapes", "--name", "x", "--index", 1), "give one of them"),
        (("shapes?split=val", "--split", "train"), "names the split val already"),
        (("shapes", "--split", "test"), "shapes has no split 'test'"),
    ],
)
def test_what_cannot_be_shown(run, arguments, part):
    fails(run("show", *arguments), part)


def test_pictures_of_other_channels():
    image = np.zeros((2, 2, 8), np.float32)
    image[0, 0] = (300, 99.6, -5, 8.5, 1, 2, 3, 7)
    image[1, 1, 7] = -7
    found = stream_pictures(image, {"": 4, "hha": 3, "depth": 1})
    assert list(found) == ["image", "channel 4", "hha", "depth"]
    pixels = {title: np.asarray(picture)[0, 0].tolist() for title, picture in found.items()}
    assert pixels["image"] == [255, 100, 0]
    assert pixels["channel 4"] == pixels["depth"] == [255] * 3
    assert np.asarray(found["depth"])[0, 1].tolist() == [128] * 3
    assert pixels["hha"] == [1, 2, 3]


def test_pictures_of_several_kinds_of_labels():
    heads = {name: Head(CLASSES, data.voc_palette(3)) for name in ("what", "where")}
    image, label, name = a_sample(0)
    sample = data.Sample(image, np.stack([label, label * 0], axis=2), name)
    found = sample_pictures(sample, Samples([sample], heads))
    titles = ["image", "what label", "what overlay", "where label", "where overlay"]
    assert list(found) == titles
    assert not np.asarray(found["where label"]).any()
    assert np.asarray(found["what label"]).any()


# minifcn data list


def test_list_names_every_kind(run):
    code, out, _ = run("list")
    assert code == 0
    for kind, source in SOURCES.items():
        assert example(kind) in out.splitlines()
        assert source.about, "say in sources.py what it is"
        assert f"    {source.about}." in out.splitlines()
    assert "Images as published: train 381, val 414, trainval 795, test 654." in out


def test_help_shows_examples(run):
    for command in ("check", "show", "list"):
        assert f"minifcn data {command}" in run(command, "--help")[1]


def test_every_kind_has_a_page():
    text = (DOCS / "README.md").read_text("utf-8")
    for kind in SOURCES:
        assert re.search(rf"^\| `{kind}(:|`)", text, re.MULTILINE), kind
    for page in re.findall(r"\]\(([^)]+)\)", text):
        assert (DOCS / page).is_file(), page
