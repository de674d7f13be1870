"""The pages in docs/ and the site made of them: links, pictures, examples, quoted messages."""

import doctest
import fnmatch
import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minifcn as mf
from minifcn import data, memory, models, recipes
from minifcn.evaluation import one_class_warning
from minifcn.flow import Undrawn
from minifcn.metrics import ConfusionMatrix
from minifcn.shapes import CoordinateMap
from minifcn.step import NotFiniteStepError, check_loss

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ALSO = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
ALSO += [ROOT / folder / "README.md" for folder in ("notebooks", "notebooks/data", "benchmarks")]
TEXTS = sorted((ROOT / "notebooks" / "text").glob("*.md"))


def called(path):
    return str(path.relative_to(ROOT))


def outside_fences(text):
    """Return a page without its code, in which brackets are no links."""
    return re.sub(r"^(```|:::).*?^\1$|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)


# Links and pictures


@pytest.mark.parametrize("page", PAGES + ALSO + TEXTS, ids=called)
def test_files_that_are_linked_exist(page):
    folder = page.parent.parent if page in TEXTS else page.parent  # a notebook lies one up
    links = re.findall(r"\]\(([^)\s]+)\)", outside_fences(page.read_text(encoding="utf-8")))
    paths = [link.partition("#")[0] for link in links if "://" not in link]
    missing = [path for path in paths if path and not (folder / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES + ALSO, ids=called)
def test_pictures_have_a_description(page):
    assert "![](" not in page.read_text(encoding="utf-8")


def listed(page):
    """Return the files that a page's tables of contents name, patterns resolved."""
    found = set()
    for body in re.findall(
        r"^```{toctree}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    ):
        for entry in (line for line in body.splitlines() if line and not line.startswith(":")):
            place = (page.parent / entry).parent.resolve()
            stems = [p for p in place.iterdir() if p.suffix in (".md", ".ipynb")]
            found |= {p for p in stems if fnmatch.fnmatchcase(p.stem, Path(entry).name)}
    return found


def test_all_pages_and_notebooks_can_be_reached():
    first = ROOT / "docs" / "index.md"
    reached, todo = {first}, [first]
    while todo:
        new = listed(todo.pop()) - reached
        reached |= new
        todo += [page for page in new if page.suffix == ".md"]
    notebooks = set((ROOT / "notebooks").glob("*.ipynb"))
    assert {*PAGES, *notebooks} - reached == set()


# Examples


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_examples(page):
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```python\n(>>>.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text[: found.start()].count("\n") + 1
        example = doctest.DocTestParser().get_doctest(found[1], {}, page.name, str(page), line)
        assert doctest.DocTestRunner().run(example).failed == 0


def test_there_are_examples():
    with_one = [p for p in PAGES if "```python\n>>>" in p.read_text(encoding="utf-8")]
    assert {p.stem for p in with_one} >= {"convolution", "lrn", "winograd", "coordinates", "start"}


# Troubleshooting

TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def test_all_symptoms_are_there_and_can_be_jumped_to():
    numbers = [int(n) for n in re.findall(r"^### (\d+)\. ", TROUBLE, re.MULTILINE)]
    places = [int(n) for n in re.findall(r"^\(ts-(\d+)\)=$", TROUBLE, re.MULTILINE)]
    jumps = {int(n) for n in re.findall(r"\(#ts-(\d+)\)", TROUBLE)}
    assert sorted(numbers) == list(range(1, 31))
    assert places == numbers
    assert jumps == set(numbers)


def _zeros():
    net = models.fcn32s(4, "small")
    net.conv3_1.weight.data[...] = 0
    models.check_loaded(net)


def _heavy_rate():
    recipe = replace(recipes.heavy()["fcn32s"], lr=1e-4)
    recipes.check_rate(recipe, 128 * 128)


def _crop():
    models.fcn32s(4, "vgg16", width=0.0625, padding=1)


def _half_a_pixel():
    up = CoordinateMap.conv(3, 32) >> CoordinateMap.conv_transpose(64, 32)
    up.offset(CoordinateMap())


def _fc6():
    source = models.vgg16(10, width=0.125, image_size=64)
    models.transplant(models.fcn32s(5, "vgg16", width=0.125), source)


@pytest.mark.parametrize("cause", [_zeros, _heavy_rate, _crop, _half_a_pixel, _fc6])
def test_quoted_errors_are_the_real_ones(cause):
    with pytest.raises(mf.Error) as raised:
        cause()
    assert str(raised.value) in TROUBLE


def test_quoted_loss_error_is_the_real_one():
    with pytest.raises(NotFiniteStepError) as raised:
        check_loss(float("nan"), 4, ["34s-056w", "00n-114e", "..."], lr=30.0)
    start, end = "conv2d made nan of x (8, 24, 48, 48)", "of the images alone each does so"
    cause = TROUBLE[TROUBLE.index(start) : TROUBLE.index(end) + len(end)]
    assert str(raised.value.explained(cause, in_images=False, in_a_row=1)) in TROUBLE


def test_quoted_warning_is_the_real_one():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 1, 2, 0]]), np.zeros((1, 4), int))
    assert one_class_warning(matrix, ["water", "forest", "barren"]) in TROUBLE


def test_quoted_memory_is_the_real_one():
    net = models.fcn8s(21, "vgg16", rng=Undrawn())
    line, _ = memory.advice(net, 500, 500, 1)
    assert line.partition(";")[0] in TROUBLE


@pytest.mark.parametrize(
    ("folder", "mode", "ending", "value"),
    [
        ("f", "L", "png", 2),
        ("g", "L", "jpg", 0),
        ("n", "RGB", "png", (128, 0, 0)),
        ("h", "L", "png", 255),
    ],
)
def test_quoted_faults_of_labels_are_the_real_ones(
    tmp_path, monkeypatch, folder, mode, ending, value
):
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "labels"):
        Path(folder, kind).mkdir(parents=True)
    Path(folder, "classes.txt").write_text("a\nb\n")
    name = "1" if folder == "g" else "0"
    Image.new("RGB", (50, 40)).save(f"{folder}/images/{name}.jpg")
    label = Image.new(mode, (50, 40))
    label.putpixel((3, 0), value)
    label.save(f"{folder}/labels/{name}.{ending}")
    with pytest.raises(mf.Error) as raised:
        data.open_dataset(f"folder:{folder}", "train")[0]
    said = re.sub(r"\(\d+ such pixels?\)", "(643 such pixels)", str(raised.value))
    assert said in TROUBLE


# The site


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drawings_are_those_that_the_script_makes(tmp_path, monkeypatch):
    drawings = load("drawings")
    monkeypatch.setattr(drawings, "OUT", tmp_path)
    drawings.main()
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    stored = {n: (ROOT / "docs" / "images" / n).read_text(encoding="utf-8") for n in made}
    assert len(made) == 3
    assert made == stored


@pytest.fixture
def site(tmp_path):
    pytest.importorskip("sphinx", reason="the extra 'docs' is not installed")
    (tmp_path / "a.html").write_text('<h1 id="top">A</h1><a href="b.html#end">b</a>')
    (tmp_path / "b.html").write_text('<p id="end"><a href="a.html">a</a><a href="#end">here</a>')
    return tmp_path


def test_a_site_without_faults(site):
    assert list(load("build").faults(site)) == []


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ('<a href="c.html">c</a>', "b.html: no such file: c.html"),
        ('<img src="d.png" alt="A dog.">', "b.html: no such file: d.png"),
        ('<a href="a.html#no">a</a>', "b.html: no such place: a.html#no"),
        ('<a href="#no">here</a>', "b.html: no such place: #no"),
        ('<img src="data:," >', "b.html: no alt text: data:,"),
        ('<img src="a.html" alt="a.html">', "b.html: no alt text: a.html"),
    ],
)
def test_faults_of_a_site(site, more, fault):
    with (site / "b.html").open("a") as page:
        page.write(more)
    assert list(load("build").faults(site)) == [fault]


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path):
    for name in ("sphinx", "myst_nb", "furo", "latex2mathml"):
        pytest.importorskip(name, reason="the extra 'docs' is not installed")
    command = [sys.executable, "docs/build.py", "--out", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for page in ("index", "docs/index", "docs/api/functional", "notebooks/00_segment_a_picture"):
        assert (tmp_path / "site" / f"{page}.html").is_file()
