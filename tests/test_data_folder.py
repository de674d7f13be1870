"""A folder of one's own images and labels, its options, and what each mistake in it says."""

import pickle
import unicodedata

import layouts_folder
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
    with pytest.raises(data.DataError, match=r"val\.txt: the split is empty"):
        data.folder(root, "val")


def test_no_held_out_images(root):
    with pytest.raises(data.DataError, match=r"no val\.txt: write one"):
        data.folder(root, "val")


def test_unknown_split(root):
    (root / "test.txt").write_text("a")
    with pytest.raises(data.DataError, match=r"unknown split 'tset'.*known are train, test, all"):
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
    with pytest.raises(data.DataError, match=r"share 1 image, 'b' first"):
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


def test_label_counted_from_one_gets_a_hint(root):
    Image.fromarray(np.full((4, 6), 3, np.uint8)).save(root / "labels" / "b.png")
    with pytest.raises(data.DataError, match=r"label value 3 .* count the classes from 1, not"):
        data.folder(root, "train")[1]


def test_the_layout_in_the_tests(tmp_path):
    """Names with spaces, dots and other letters, CRLF lists, JPEG and PNG, borders of 255."""
    spec = layouts_folder.make_folder(tmp_path / "my Daten ä")
    assert data.splits_of(spec) == ["train", "val", "all"]
    for split, expected in layouts_folder.FOLDER_NAMES.items():
        dataset = pickle.loads(pickle.dumps(data.open_dataset(spec, split)))
        assert names(dataset) == expected
        for image, label, _ in dataset:
            assert image.shape == (*label.shape, 3)
            assert (label[:2] == 255).all()
            assert set(np.unique(label[2:])) == {0, 1, 2}


def test_links(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("links")
    (elsewhere / "linked").symlink_to(root, target_is_directory=True)
    (root / "images" / "d.png").rename(elsewhere / "photo.png")
    (root / "images" / "d.png").symlink_to(elsewhere / "photo.png")
    assert names(data.folder(elsewhere / "linked", "all")) == ["a", "b", "c", "d"]


def test_names_whose_accents_are_written_in_another_way(root):
    """File systems and editors have two ways to write such letters."""
    for part in ("images", "labels"):
        (root / part / "a.png").rename(root / part / (unicodedata.normalize("NFD", "ä") + ".png"))
    (root / "train.txt").write_text(unicodedata.normalize("NFC", "ä"), encoding="utf-8")
    assert len(data.folder(root, "train")) == 1


def test_other_folders_and_names_of_labels(root):
    (root / "images").rename(root / "rgb")
    (root / "labels").rename(root / "masks")
    for file in sorted((root / "masks").iterdir()):
        file.rename(file.with_name(f"{file.stem}_L.png"))
    spec = f"folder:{root}?images=rgb&labels=masks&label_suffix=_L"
    assert names(data.open_dataset(spec, "all")) == ["a", "b", "c", "d"]
    assert data.splits_of(spec) == ["train", "all"]


@pytest.mark.parametrize(
    ("there", "options", "message"),
    [
        ("c_mask.png", {}, r"there is c_mask\.png: add \?label_suffix=_mask"),
        ("c.jpg", {}, r"there is c\.jpg: JPEG changes pixel values, so labels must be PNG files"),
        ("c.tif", {}, r"there is c\.tif$"),
    ],
)
def test_missing_label_with_another_beside_it(root, there, options, message):
    (root / "labels" / "c.png").rename(root / "labels" / there)
    with pytest.raises(data.DataError, match=message):
        data.folder(root, "train", **options)


def test_label_suffix_that_labels_do_not_have(root):
    with pytest.raises(data.DataError, match=r"there is a\.png: leave out label_suffix"):
        data.folder(root, "train", label_suffix="_mask")


def test_subfolders(root):
    for part in ("images", "labels"):
        (root / part / "north" / "far").mkdir(parents=True)
        (root / part / "b.png").rename(root / part / "north" / "b.png")
        (root / part / "c.png").rename(root / part / "north" / "far" / "a.png")
    (root / "images" / "north" / "back").symlink_to(root / "images")  # must not end in a circle
    (root / "val.txt").write_text("north/far/a\n")
    options = {"recursive": "yes"}
    assert names(data.folder(root, "all", **options)) == ["a", "d", "north/b", "north/far/a"]
    assert names(data.folder(root, "train", **options)) == ["a", "d", "north/b"]
    assert names(data.folder(root, "val", **options)) == ["north/far/a"]


def test_images_in_subfolders_only(root):
    (root / "images").rename(root / "camera")
    (root / "images").mkdir()
    (root / "camera").rename(root / "images" / "camera")
    with pytest.raises(data.DataError, match=r"holds no images .*: add \?recursive=yes"):
        data.folder(root, "train")
    with pytest.raises(data.DataError, match="recursive=true: it must be yes or no"):
        data.folder(root, "train", recursive="true")


def test_a_text_file_that_is_no_list_is_no_split(root):
    (root / "README.txt").write_bytes("Fotos für später".encode("latin-1"))
    (root / "test.txt").write_text("a\n")
    assert data.splits_of(f"folder:{root}") == ["train", "test", "all"]
    assert len(data.folder(root, "train")) == 4


def test_name_listed_twice(root):
    (root / "train.txt").write_text("a\nb\na\n")
    with pytest.raises(data.DataError, match=r"train\.txt: 'a' is listed twice"):
        data.folder(root, "train")


def relabel(root, label):
    for stem in "abcd":
        Image.fromarray(label).save(root / "labels" / f"{stem}.png")


LABEL = np.zeros((4, 6), np.uint8)
LABEL[0], LABEL[1], LABEL[2] = 1, 2, 255


def test_ignored_values(root):
    relabel(root, LABEL)
    found = data.open_dataset(f"folder:{root}?ignore=0,2", "train")[0].label
    np.testing.assert_array_equal(found[:, 0], [1, 255, 255, 255])


def test_16_bit_labels_with_a_large_value_to_ignore(root):
    relabel(root, np.where(LABEL == 255, 65535, LABEL.astype(np.uint16)))
    found = data.folder(root, "train", ignore="65535")[0].label
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, LABEL)
    with pytest.raises(data.DataError, match=r"a\.png: label value 65535 at row 2, column 0"):
        data.folder(root, "train")[0]


def test_values_that_stand_for_classes(root):
    relabel(root, LABEL * np.uint8(60))  # 0, 60, 120, and 255 * 60 is 196 in 8 bits
    found = data.open_dataset(f"folder:{root}?values=0:2,60:1,120:0&ignore=196", "train")[0].label
    np.testing.assert_array_equal(found[:, 0], [1, 0, 255, 2])


def test_value_without_a_class(root):
    relabel(root, LABEL)
    message = (
        r"a\.png: label value 2 at row 1, column 0 \(6 such pixels\) is not among the values that "
        r"were given a class \(0, 1\), and not ignored"
    )
    with pytest.raises(data.DataError, match=message):
        data.folder(root, "train", values="0:0,1:1")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": "0"}, "'0' must be VALUE:CLASS, with a class number from 0 to 2"),
        ({"values": "0:3"}, "'0:3' must be VALUE:CLASS"),
        ({"values": "0:0,0:1"}, "the value 0 is given twice"),
        ({"values": "-1:0"}, "values: '-1' is no label value: it must be a number from 0 to 65535"),
        ({"ignore": "void"}, "ignore: 'void' is no label value"),
        ({"ignore": "65536"}, "ignore: '65536' is no label value"),
        ({"ignore": "1", "values": "1:0"}, "the label value 1 has a class .* and is to be ignored"),
        ({"codes": "rgb"}, "codes=rgb: it must be one of auto, numbers, colours"),
        ({"codes": "colours"}, "codes=colours: the list of classes names no colours"),
    ],
)
def test_wrong_options(root, options, message):
    with pytest.raises(data.DataError, match=message):
        data.folder(root, "train", **options)


class TestMasks:
    """Two classes, as 0 and 255: taken as they are, nothing but class 0 would be learnt."""

    @pytest.fixture
    def masks(self, root):
        (root / "classes.txt").write_text("back\nfront\n")
        relabel(root, np.where(LABEL == 1, 255, 0).astype(np.uint8))
        return root

    def test_refused_with_both_ways_out(self, masks):
        message = (
            r"labels hold 0 and 255 only.* so 'front' is nowhere: if 255 is 'front', add "
            r"\?values=0:0,255:1; if not, \?values=0:0,1:1"
        )
        with pytest.raises(data.DataError, match=message):
            data.folder(masks, "train")

    def test_values(self, masks):
        found = data.folder(masks, "train", values="0:0,255:1")[0].label
        np.testing.assert_array_equal(found[:, 0], [1, 0, 0, 0])
        found = data.folder(masks, "train", values="0:0,1:1")[0].label
        np.testing.assert_array_equal(found[:, 0], [255, 0, 0, 0])

    def test_one_label_with_class_1_is_enough(self, masks):
        Image.fromarray(np.ones((4, 6), np.uint8)).save(masks / "labels" / "d.png")
        assert data.folder(masks, "train")[0].label[0, 0] == 255

    def test_background_only_is_no_mistake_in_the_files(self, masks):
        relabel(masks, np.zeros((4, 6), np.uint8))
        assert len(data.folder(masks, "train")) == 4

    def test_a_bad_file_is_found_when_it_is_read(self, masks):
        (masks / "labels" / "a.png").write_bytes(b"")
        dataset = data.folder(masks, "train")
        with pytest.raises(data.DataError, match=r"a\.png: not an image"):
            dataset[0]
