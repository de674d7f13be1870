"""A folder of one's own images and labels, and what each mistake in it says."""

import numpy as np
import pytest
from PIL import Image

from minifcn import data


@pytest.fixture
def root(tmp_path):
    """Four images of 4 x 6 pixels with labels of three classes."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("sky\nroad\nmy car\n")
    for number, stem in enumerate("abcd"):
        image = np.full((4, 6, 3), 10 * number, np.uint8)
        label = np.full((4, 6), number % 3, np.uint8)
        label[0, 0] = 255
        Image.fromarray(image).save(tmp_path / "images" / f"{stem}.png")
        Image.fromarray(label).save(tmp_path / "labels" / f"{stem}.png")
    return tmp_path


def names(dataset):
    return [sample.name for sample in dataset]


def test_samples(root):
    dataset = data.folder(root, "all")
    assert names(dataset) == ["a", "b", "c", "d"]
    assert dataset.classes == ("sky", "road", "my car")
    np.testing.assert_array_equal(dataset.palette, data.voc_palette(3))
    image, label, _ = dataset[1]
    np.testing.assert_array_equal(image, np.full((4, 6, 3), 10))
    assert label[0, 0] == 255
    assert (label.ravel()[1:] == 1).all()
    np.testing.assert_array_equal(data.count_pixels(dataset), [46, 23, 23])


def test_open_dataset_finds_it(root):
    assert len(data.open_dataset(f"folder:{root}", "train")) == 4


@pytest.mark.parametrize(
    ("lists", "split", "expected"),
    [
        ({}, "train", "abcd"),
        ({"train": "d\na\n"}, "train", "da"),
        ({"train": "d\na\n"}, "val", "bc"),
        ({"val": "c\r\n\r\n"}, "val", "c"),
        ({"val": "c"}, "train", "abd"),
        ({"train": "a", "val": "b"}, "train", "a"),
        ({"train": "a", "val": "b"}, "val", "b"),
        ({"train": "a", "test": "\ufeffd"}, "test", "d"),
        ({"train": "a"}, "all", "abcd"),
    ],
)
def test_splits(root, lists, split, expected):
    for name, text in lists.items():
        (root / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
    assert names(data.folder(root, split)) == list(expected)


def test_other_files_are_passed_over(root):
    (root / "images" / "Thumbs.db").touch()
    (root / "images" / "._a.png").touch()
    assert len(data.folder(root, "all")) == 4


def test_missing_folder_shows_the_layout(tmp_path):
    with pytest.raises(data.DataError, match=r"none is not a folder") as caught:
        data.folder(tmp_path / "none", "train")
    for part in ("classes.txt", "images/NAME.jpg", "labels/NAME.png", "train.txt", "val.txt"):
        assert part in str(caught.value)


@pytest.mark.parametrize("part", ["classes.txt", "images", "labels"])
def test_missing_part_is_named(root, part):
    (root / part).rename(root / "elsewhere")
    with pytest.raises(data.DataError, match=rf"has no {part}; a data set folder looks like this"):
        data.folder(root, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names 0 classes: there must be 2 to 255"),
        ("sky\n", "names 1 classes"),
        ("sky\nroad\nsky\n", "class 'sky' is named twice"),
    ],
)
def test_bad_class_list(root, text, message):
    (root / "classes.txt").write_text(text)
    with pytest.raises(data.DataError, match=message):
        data.folder(root, "train")


def test_class_list_in_another_encoding(root):
    (root / "classes.txt").write_bytes("Straße\nHimmel\n".encode("latin-1"))
    with pytest.raises(data.DataError, match=r"classes\.txt: not UTF-8 text: byte 4"):
        data.folder(root, "train")


def test_no_images(root):
    for file in (root / "images").iterdir():
        file.unlink()
    with pytest.raises(data.DataError, match="images: holds no images"):
        data.folder(root, "train")


def test_two_images_for_one_label(root):
    Image.new("RGB", (6, 4)).save(root / "images" / "a.jpg")
    with pytest.raises(data.DataError, match=r"would share one label, labels/a\.png"):
        data.folder(root, "train")


def test_missing_label(root):
    (root / "labels" / "c.png").unlink()
    with pytest.raises(data.DataError, match=r"c\.png: no such label file for the image .*c\.png"):
        data.folder(root, "train")


def test_empty_split(root):
    (root / "val.txt").write_text("\n")
    with pytest.raises(data.DataError, match="split 'val' is empty"):
        data.folder(root, "val")


def test_no_held_out_images(root):
    with pytest.raises(data.DataError, match=r"no val\.txt: write one"):
        data.folder(root, "val")


def test_unknown_split(root):
    (root / "test.txt").write_text("a")
    with pytest.raises(
        data.DataError, match=r"unknown split 'tset'.*known are all, test, train, val"
    ):
        data.folder(root, "tset")


@pytest.mark.parametrize(
    ("line", "message"),
    [("e", "'e' is no image in"), ("a.png", r"'a.png' is no image in .* \(leave out the file end")],
)
def test_split_with_an_unknown_name(root, line, message):
    (root / "train.txt").write_text(f"a\n{line}\n")
    with pytest.raises(data.DataError, match=message):
        data.folder(root, "train")


@pytest.mark.parametrize("split", ["train", "val"])
def test_held_out_images_among_the_training_images(root, split):
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\nb\n")
    with pytest.raises(data.DataError, match=r"1 names stand in both .* 'b' first"):
        data.folder(root, split)


def test_label_value_out_of_range(root):
    label = np.zeros((4, 6), np.uint8)
    label[2, 5] = label[3, 0] = 3
    Image.fromarray(label).save(root / "labels" / "b.png")
    message = (
        r"b\.png: label value 3 at row 2, column 5 \(2 such pixels\): with 3 classes the values "
        "must be 0 to 2, or 255"
    )
    with pytest.raises(data.DataError, match=message):
        data.folder(root, "train")[1]


def test_label_of_another_size(root):
    Image.new("L", (4, 6)).save(root / "labels" / "b.png")
    with pytest.raises(data.DataError, match=r"label is 6 x 4, its image b\.png is 4 x 6"):
        data.folder(root, "train")[1]


def test_rgb_label(root):
    Image.new("RGB", (6, 4)).save(root / "labels" / "b.png")
    with pytest.raises(data.DataError, match=r"b\.png: image is of mode RGB"):
        data.folder(root, "train")[1]


def test_damaged_image(root):
    (root / "images" / "b.png").write_bytes(b"\x89PNG")
    with pytest.raises(data.DataError, match=r"images.b\.png: not an image"):
        data.folder(root, "train")[1]


def test_counting_finds_the_bad_file(root):
    Image.new("RGB", (6, 4)).save(root / "labels" / "d.png")
    with pytest.raises(data.DataError, match=r"d\.png: image is of mode RGB"):
        data.count_pixels(data.folder(root, "train"))
