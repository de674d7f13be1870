"""Images and labels listed in a CSV file, and what each mistake in it says."""

import pickle

import layouts_folder
import numpy as np
import pytest
from PIL import Image

from minifcn import data


@pytest.fixture
def root(tmp_path):
    """Three pairs, and a file that lists them: beside it, below it and in another folder."""
    top = tmp_path / "lists"
    label = np.array([[0, 1], [2, 255]], np.uint8)
    for place in ("one.png", "deep/two.png", "../three.png"):
        for kind in ("photos", "masks"):
            file = top / kind / place
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(file)
        (top / "photos" / place).replace((top / "photos" / place).with_suffix(".bmp"))
        Image.fromarray(label).save(top / "masks" / place)
    (top / "classes.txt").write_text("sky\nroad\ncar\n")
    write(top, "image,label", *PAIRS)
    return top


PAIRS = (
    "photos/one.bmp,masks/one.png",
    "photos/deep/two.bmp,masks/deep/two.png",
    "photos/../three.bmp,masks/../three.png",
)


def write(top, *lines):
    (top / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")


def open_it(top, split="all", **options):
    return data.pairs(top / "pairs.csv", split, **options)


def names(dataset):
    return [sample.name for sample in dataset]


def test_pairs(root):
    dataset = data.open_dataset(f"csv:{root / 'pairs.csv'}", "train")
    assert names(dataset) == ["photos/one", "photos/deep/two", "photos/three"]
    assert dataset.classes == ("sky", "road", "car")
    np.testing.assert_array_equal(dataset[0].label, [[0, 1], [2, 255]])
    assert data.splits_of(f"csv:{root / 'pairs.csv'}") == ["train", "all"]


def test_the_layout_in_the_tests(tmp_path):
    spec = layouts_folder.make_csv(tmp_path / "my Daten ä")
    assert data.splits_of(spec) == ["train", "val", "all"]
    for split, expected in layouts_folder.FOLDER_NAMES.items():
        dataset = pickle.loads(pickle.dumps(data.open_dataset(spec, split)))
        assert names(dataset) == [f"data/images/{name}" for name in expected]
    assert len(data.open_dataset(spec, "all")) == 6


@pytest.mark.parametrize("divider", [";", "\t"])
def test_other_dividers_and_quotes(root, divider):
    rows = ("image,label,split", *(f"{pair},x" for pair in PAIRS))
    cells = ([f'"{cell}"' for cell in row.split(",")] for row in rows[1:])
    write(root, rows[0].replace(",", divider), *map(divider.join, cells))
    assert len(open_it(root, "x")) == 3


def test_spelling_of_the_first_line_and_a_byte_order_mark(root):
    write(root, "\ufeffImage, Label", *PAIRS)
    assert len(open_it(root)) == 3


def test_names_of_images_elsewhere(root):
    """A sample's name begins in no folder, leads out of none, and is unique."""
    other = root.parent / "photos"
    other.mkdir()
    (other / "one.png").write_bytes((root / "masks" / "one.png").read_bytes())
    absolute = root / "photos" / "deep" / "two.bmp"
    label = "masks/one.png"
    write(root, "image,label", PAIRS[0], f"../photos/one.png,{label}", f"{absolute},{label}")
    found = names(open_it(root))
    assert found[:2] == ["photos/one", "photos/one_2"]
    assert found[2] == absolute.with_suffix("").as_posix().lstrip("/")


def test_split_lists_beside_it(root):
    (root / "val.txt").write_text("photos/one\n")
    assert names(open_it(root, "val")) == ["photos/one"]
    assert names(open_it(root, "train")) == ["photos/deep/two", "photos/three"]
    assert data.splits_of(f"csv:{root / 'pairs.csv'}") == ["train", "val", "all"]


def test_options_of_labels_and_another_list_of_classes(root):
    (root / "classes.txt").rename(root.parent / "kinds.txt")
    found = open_it(root, classes="../kinds.txt", values="0:2,1:1,2:0")[0].label
    np.testing.assert_array_equal(found, [[2, 1], [0, 255]])


def test_missing_list_of_classes(root):
    (root / "classes.txt").unlink()
    with pytest.raises(data.DataError, match=r"no classes\.txt beside it.*or add \?classes=FILE"):
        open_it(root)
    with pytest.raises(data.DataError, match=r"kinds\.txt: no such file"):
        open_it(root, classes="kinds.txt")


def test_missing_file_shows_what_it_looks_like(tmp_path):
    with pytest.raises(
        data.DataError, match=r"pairs\.csv: no such file; a list of pairs"
    ) as caught:
        open_it(tmp_path)
    assert "image,label,split\n" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "the first line is ''; it must be as here"),
        (["photos/one.bmp,masks/one.png"], "the first line is 'photos/one.bmp,masks/one.png'"),
        (["image,label"], "lists no images"),
        (
            ["image,label", "a.png"],
            "entry 2 is 'a.png': it must hold image,label, none of them emp",
        ),
        (["image,label,split", "a.png,b.png,"], "entry 2 is 'a.png,b.png,': it must hold"),
        (["image,label", "a.png,b.png", "a.png,c.png"], "'a.png' is listed twice: entries 2, 3"),
        (["image,label", "a.png,b.png"], r"a\.png: no such image file"),
        (["image,label", "photos/one.bmp,b.png"], r"b\.png: no such label file"),
    ],
)
def test_bad_file(root, lines, message):
    write(root, *lines)
    with pytest.raises(data.DataError, match=message):
        open_it(root)


def test_unknown_split(root):
    write(root, "image,label,split", f"{PAIRS[0]},train", f"{PAIRS[1]},test")
    with pytest.raises(
        data.DataError, match="unknown split 'val': the column split has train, test"
    ):
        open_it(root, "val")


def test_image_in_both_splits_by_two_ways(root):
    again = PAIRS[0].replace("photos/", "photos/deep/../")
    write(root, "image,label,split", f"{PAIRS[0]},train", f"{again},val")
    with pytest.raises(data.DataError, match=r"train and val share 1 image, '.*one\.bmp' first"):
        open_it(root, "val")


def test_masks_of_0_and_255(root):
    (root / "classes.txt").write_text("back\nfront\n")
    mask = Image.fromarray(np.array([[0, 255]], np.uint8))
    for line in PAIRS:
        mask.save(root / line.split(",")[1])
    with pytest.raises(data.DataError, match="labels hold 0 and 255 only"):
        open_it(root)
