"""Lists of classes with colours, and labels that show classes as colours."""

import layouts_folder
import numpy as np
import pytest
from PIL import Image

from minifcn import data
from minifcn.data.colours import classes_text, read_classes

SKY, ROAD, CAR, WHITE = (70, 130, 180), (128, 64, 128), (0, 0, 142), (255, 255, 255)
CODED = np.array([[SKY, ROAD, CAR], [ROAD, WHITE, SKY]], np.uint8)
NUMBERS = np.array([[0, 1, 2], [1, 255, 0]], np.uint8)
TEXT = "sky 70 130 180\nroad 128 64 128\nmy car 0 0 142\nignore 255 255 255\n"


@pytest.fixture
def root(tmp_path):
    """A folder with one RGB label."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text(TEXT)
    Image.fromarray(CODED).save(tmp_path / "images" / "a.png")
    Image.fromarray(CODED).save(tmp_path / "labels" / "a.png")
    return tmp_path


def label_of(root, **options):
    return data.folder(root, "all", **options)[0].label


def test_colours_become_classes(root):
    dataset = data.folder(root, "all")
    assert dataset.classes == ("sky", "road", "my car")
    np.testing.assert_array_equal(dataset.palette, [SKY, ROAD, CAR])
    label = dataset[0].label
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, NUMBERS)


def test_the_same_labels_in_numbers_and_in_colours(tmp_path):
    specs = (
        layouts_folder.make_folder(tmp_path / "1"),
        layouts_folder.make_colour_folder(tmp_path / "2"),
    )
    plain, coloured = (data.open_dataset(spec, "all") for spec in specs)
    for one, other in zip(plain, coloured, strict=True):
        np.testing.assert_array_equal(one.label, other.label)


def test_a_table_instead_of_a_list(root):
    (root / "classes.txt").unlink()
    rows = ["R,G,B,Name", "70,130,180,sky", "128,64,128,road", '0,0,142,"car, parked"']
    (root / "classes.csv").write_text("\r\n".join([*rows, "255,255,255,ignore"]))
    dataset = data.folder(root, "all")
    assert dataset.classes == ("sky", "road", "car, parked")
    np.testing.assert_array_equal(dataset[0].label, NUMBERS)


def test_list_and_table(root):
    (root / "classes.csv").write_text("name,r,g,b\n")
    with pytest.raises(data.DataError, match=r"has both classes\.txt and classes\.csv: remove one"):
        data.folder(root, "all")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky 1 2 3\nroad\n", "'road' has no colour, but other classes have one"),
        ("sky 1 2 3\nroad 4 5 256\n", "'road 4 5 256': a colour must be three numbers from 0 to"),
        ("sky 1 2 3\nroad 1 2 3\n", r"colour \(1, 2, 3\) is given twice: each colour must be uni"),
        ("sky 1 2 3\nsky 1 2 4\n", "class 'sky' is named twice"),
        ("sky 1 2 3\nignore 0 0 0\n", "names 1 classes"),
        ("sky\nroad\nignore\n", "'ignore' is no class: leave out the line"),
    ],
)
def test_bad_list(root, text, message):
    (root / "classes.txt").write_text(text)
    with pytest.raises(data.DataError, match=message):
        data.folder(root, "all")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line is '': it must be 'name,r,g,b'"),
        ("sky,70,130,180\n", "the first line is 'sky,70,130,180': it must be"),
        ("name,r,g,b\nsky,1,2\n", "'sky,1,2': each line must be a name and three numbers"),
        ("name,r,g,b\nsky,1,2,red\n", "'sky,1,2,red': a colour must be three numbers"),
    ],
)
def test_bad_table(root, text, message):
    (root / "classes.txt").unlink()
    (root / "classes.csv").write_text(text)
    with pytest.raises(data.DataError, match=message):
        data.folder(root, "all")


def test_a_name_may_hold_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("zone 1\nzone 2 3\n1 2 3\n")
    table = read_classes(tmp_path / "classes.txt")
    assert table.head.classes == ("zone 1", "zone 2 3", "1 2 3")
    assert table.colours is None


def test_written_list_is_read_again(tmp_path):
    head = data.Head(("sky", "my road"), np.array([SKY, ROAD], np.uint8))
    (tmp_path / "classes.txt").write_text(classes_text(head))
    again = read_classes(tmp_path / "classes.txt").head
    assert again.classes == head.classes
    np.testing.assert_array_equal(again.palette, head.palette)
    same = data.Head(("sky", "my road"), np.array([SKY, SKY], np.uint8))
    assert classes_text(same) == "sky\nmy road\n"


def test_unknown_colour(root):
    wrong = CODED.copy()
    wrong[1, 1] = wrong[1, 2] = (127, 64, 130)
    Image.fromarray(wrong).save(root / "labels" / "a.png")
    message = (
        r"a\.png: colour \(127, 64, 130\) at row 1, column 1 \(2 such pixels\) is the colour of no "
        r"class; the nearest is \(128, 64, 128\), 'road': labels must not be smoothed"
    )
    with pytest.raises(data.DataError, match=message):
        label_of(root)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 254)])
def test_unknown_colour_before_and_after_all_known_ones(root, colour):
    wrong = CODED.copy()
    wrong[0, 0] = colour
    Image.fromarray(wrong).save(root / "labels" / "a.png")
    with pytest.raises(data.DataError, match="at row 0, column 0"):
        label_of(root)


def test_rgb_label_without_colours_says_where_they_belong(root):
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    message = r"of mode RGB \(colours are not numbers: give each class its colour in classes\.txt"
    with pytest.raises(data.DataError, match=message):
        label_of(root)


def test_jpeg_label(root):
    Image.fromarray(CODED).save(root / "labels" / "a.png", format="JPEG")
    with pytest.raises(data.DataError, match=r"a\.png: JPEG changes pixel values"):
        label_of(root)


def test_alpha_channel(root):
    alpha = np.full((2, 3, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([CODED, alpha], axis=2)).save(root / "labels" / "a.png")
    np.testing.assert_array_equal(label_of(root), NUMBERS)
    alpha[1, 2] = 100
    Image.fromarray(np.concatenate([CODED, alpha], axis=2)).save(root / "labels" / "a.png")
    with pytest.raises(data.DataError, match=r"transparent at row 1, column 2 \(alpha 100\)"):
        label_of(root)


@pytest.mark.parametrize("options", [{"ignore": "0"}, {"values": "0:0"}])
def test_options_for_numbers_with_rgb_labels(root, options):
    with pytest.raises(data.DataError, match="the options ignore and values are for labels that"):
        label_of(root, **options)


class TestPalettes:
    """An image with a palette says one thing by its indices and one by its colours."""

    def save(self, root, numbers, palette):
        data.save_label(root / "labels" / "a.png", numbers, np.array(palette, np.uint8))

    def test_indices_that_agree_with_the_colours(self, root):
        self.save(root, NUMBERS, [SKY, ROAD, CAR])
        np.testing.assert_array_equal(label_of(root), NUMBERS)

    def test_ignored_pixels_may_be_shown_in_the_colour_of_a_class(self, root):
        """As `save_label` does: what is ignored is black, and here so is class 0."""
        (root / "classes.txt").write_text("sky 0 0 0\nroad 128 64 128\nmy car 0 0 142\n")
        self.save(root, NUMBERS, [(0, 0, 0), ROAD, CAR])
        np.testing.assert_array_equal(label_of(root), NUMBERS)

    def test_other_colours_say_nothing(self, root):
        self.save(root, NUMBERS, data.voc_palette(3))
        np.testing.assert_array_equal(label_of(root), NUMBERS)

    def test_gray_has_no_colours(self, root):
        Image.fromarray(NUMBERS).save(root / "labels" / "a.png")
        np.testing.assert_array_equal(label_of(root), NUMBERS)

    def test_colours_of_other_classes_are_refused(self, root):
        """As programs write that make files small."""
        self.save(root, np.where(NUMBERS == 255, 3, 2 - NUMBERS), [CAR, ROAD, SKY, WHITE])
        message = (
            r"a\.png: pixels with the palette index 0 are shown in \(0, 0, 142\), the colour of "
            r"'my car' \(class 2\): add \?codes=colours if the colours are right, \?codes=numbers"
        )
        with pytest.raises(data.DataError, match=message):
            label_of(root)
        np.testing.assert_array_equal(label_of(root, codes="colours"), NUMBERS)
        with pytest.raises(data.DataError, match="label value 3 at row 1, column 1"):
            label_of(root, codes="numbers")

    def test_numbers_may_be_asked_for(self, root):
        self.save(root, 2 - NUMBERS % 255, [CAR, ROAD, SKY])
        np.testing.assert_array_equal(label_of(root, codes="numbers"), 2 - NUMBERS % 255)
        np.testing.assert_array_equal(label_of(root, ignore="7"), 2 - NUMBERS % 255)

    def test_unknown_colours_if_colours_are_asked_for(self, root):
        self.save(root, NUMBERS, [SKY, ROAD, (1, 2, 3), WHITE])
        with pytest.raises(data.DataError, match=r"colour \(1, 2, 3\) at row 0, column 2"):
            label_of(root, codes="colours")
