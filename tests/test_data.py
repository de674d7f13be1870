"""The bundled land cover tiles, the drawn shapes, and data sets by name."""

import csv
import hashlib
import importlib

import numpy as np
import pytest

from minifcn import data
from minifcn.backend import Error

LANDCOVER = importlib.import_module("minifcn.data.landcover")  # the name is also a function's
CLASSES = 8


@pytest.fixture(scope="module")
def build():
    return importlib.import_module("minifcn.data.landcover.build")


@pytest.fixture(scope="module")
def tiles():
    with (LANDCOVER.FOLDER / "tiles.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_landcover_image_is_the_original_file():
    content = (LANDCOVER.FOLDER / "blue_marble.jpg").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    assert found == "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8"


@pytest.mark.parametrize(("split", "count"), [("train", 181), ("val", 59)])
def test_landcover_samples(split, count):
    dataset = data.landcover(split)
    assert len(dataset) == count
    assert len(dataset.classes) == len(dataset.palette) == CLASSES
    for index in (0, count // 2, count - 1):
        image, label, name = dataset[index]
        assert image.shape == (128, 128, 3)
        assert label.shape == (128, 128)
        assert image.dtype == label.dtype == np.uint8
        assert set(np.unique(label)) <= {*range(CLASSES), 255}
        assert name
    with pytest.raises(IndexError):
        dataset[count]


def test_landcover_tiles_cannot_be_changed_by_accident():
    image, label, _ = data.landcover("val")[0]
    for array in (image, label):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0


def test_landcover_splits_share_no_pixel_and_no_longitude(tiles):
    taken = {"train": np.zeros((2700, 5400), int), "val": np.zeros((2700, 5400), int)}
    for tile in tiles:
        y, x, size = (int(tile[key]) for key in ("row", "column", "size"))
        taken[tile["split"]][y : y + size, x : x + size] += 1
    assert taken["train"].max() == taken["val"].max() == 1  # nor do tiles of one split overlap
    columns = {split: covered.any(axis=0) for split, covered in taken.items()}
    assert not (columns["train"] & columns["val"]).any()


def test_landcover_names_are_unique(tiles):
    assert len({tile["name"] for tile in tiles}) == len(tiles)


def test_landcover_classes_have_similar_shares():
    shares = []
    for split in ("train", "val"):
        counts = data.count_pixels(data.landcover(split))
        shares.append(counts / counts.sum())
    assert min(shares[0].min(), shares[1].min()) > 0.03
    assert np.abs(shares[0] - shares[1]).max() < 0.03


def test_landcover_labels_lie_on_the_image():
    """Water must match blue pixels best where it lies, not one or two pixels beside it."""
    image, label = LANDCOVER.whole_map()
    rows = slice(300, 2200, 3)
    blue = image[rows, :, 2].astype(int) - image[rows, :, 0] > 8
    water = label == 0
    agreement = {
        (dy, dx): np.mean(np.roll(water, (dy, dx), axis=(0, 1))[rows] == blue)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert max(agreement, key=agreement.get) == (0, 0)
    assert agreement[0, 0] > 0.985


def test_landcover_is_still_a_function_after_its_build_script_is_imported():
    importlib.import_module("minifcn.data.landcover.build")
    assert len(data.landcover("val")) == 59


def test_landcover_of_an_unknown_split():
    with pytest.raises(data.DataError, match=r"no split 'test': choose one of train, val"):
        data.landcover("test")


class TestBuild:
    """The steps that made the labels, on small arrays."""

    def test_merge_maps_each_igbp_class(self, build):
        merged = build.merge_classes(np.arange(17, dtype=np.uint8))
        expected = [0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 255, 5, 255, 5, 6, 7]
        np.testing.assert_array_equal(merged, expected)

    def test_resample_takes_the_label_at_the_pixel_centre(self, build):
        labels = np.arange(4)[:, None] * 10 + np.arange(8)[None, :]
        # 3 rows out of 4: centres at 2/3, 2 and 10/3 of a row, so rows 0, 2 and 3.
        np.testing.assert_array_equal(build.resample_nearest(labels, 3, 8)[:, 0], [0, 20, 30])

    def test_majority_removes_a_speck_of_land(self, build):
        labels = np.full((7, 7), 1, np.uint8)
        labels[3, 3] = 4
        np.testing.assert_array_equal(build.majority(labels), np.full((7, 7), 1))

    def test_majority_keeps_water_and_ignored_pixels_and_lone_islands(self, build):
        labels = np.zeros((7, 7), np.uint8)
        labels[3, 3] = 4
        labels[0, 0] = 255
        np.testing.assert_array_equal(build.majority(labels), labels)

    def test_majority_keeps_the_own_class_on_a_tie(self, build):
        labels = np.zeros((1, 2), np.uint8)
        labels[0] = [5, 2]
        np.testing.assert_array_equal(build.majority(labels), labels)

    def test_white_land_is_ignored_near_the_poles_only(self, build):
        labels = np.array([[1, 6, 1]] * 3, np.uint8)  # rows at 60 degrees north, 0, 60 south
        image = np.full((3, 3, 3), 200, np.uint8)
        image[:, 2] = 100
        cleaned = build.ignore_seasonal_snow(labels, image)
        np.testing.assert_array_equal(cleaned, [[255, 6, 1], [1, 6, 1], [255, 6, 1]])

    def test_shifted_labels_are_refused(self, build):
        image, label = LANDCOVER.whole_map()
        with pytest.raises(SystemExit, match=r"not \(0, 0\)"):
            build.check_registration(np.roll(label, 1, axis=1), image, reach=1)

    def test_a_changed_file_is_refused(self, build, tmp_path):
        (tmp_path / "bmng.jpg").write_bytes(b"another image")
        with pytest.raises(SystemExit, match="expected 10f5389b"):
            build.read_checked(tmp_path / "bmng.jpg", "/bmng.jpg", build.JPEG_SHA256)

    def test_the_table_of_tiles_follows_from_the_labels(self, build, tiles):
        chosen = build.choose_tiles(LANDCOVER.whole_map()[1])
        assert [list(map(str, tile)) for tile in chosen] == [list(t.values()) for t in tiles]


def test_shapes_are_the_same_each_time_and_differ_between_samples_splits_and_seeds():
    first, again = data.shapes("train", length=3)[1], data.shapes("train", length=5)[1]
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    others = (
        data.shapes("train", length=3)[0],
        data.shapes("val", length=3)[1],
        data.shapes("train", length=3, seed=1)[1],
    )
    for other in others:
        assert (first.image != other.image).any()
        assert (first.label != other.label).any()


def test_shapes_hold_every_class():
    dataset = data.shapes("train", length=20, size=32)
    assert dataset[0].image.shape == (32, 32, 3)
    assert (data.count_pixels(dataset) > 500).all()


def test_shapes_end_a_loop():
    assert len(list(data.shapes("val", length=3))) == 3
    np.testing.assert_array_equal(data.shapes("val")[-1].label, data.shapes("val")[49].label)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "no split 'test': choose one of train, val"),
        ({"split": "val", "length": 0}, "length is 0: it must be at least 1"),
        ({"split": "val", "size": 8}, "size is 8: it must be at least 16"),
        ({"split": "val", "seed": -1}, "seed is -1: it must be at least 0"),
    ],
)
def test_shapes_with_wrong_arguments(arguments, message):
    with pytest.raises(data.DataError, match=message):
        data.shapes(**arguments)


def test_open_dataset_by_name(tmp_path):
    assert data.open_dataset("landcover", "val").name == "landcover val"
    assert data.open_dataset("shapes", "train").name == "shapes train"
    with pytest.raises(data.DataError, match="is not a folder"):
        data.open_dataset(f"folder:{tmp_path / 'none'}", "train")


@pytest.mark.parametrize("spec", ["citiscapes", "citiscapes:PATH?split=val", ""])
def test_open_dataset_lists_what_is_known(spec):
    with pytest.raises(data.DataError, match=r"unknown data set .*: known are landcover") as caught:
        data.open_dataset(spec, "train")
    for known in ("shapes", "folder:PATH", "csv:PATH", "voc:PATH", "camvid:PATH"):
        assert f" {known}" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "example"),
    [
        ("folder:", "folder:PATH"),
        ("folder", "folder:PATH"),
        ("cityscapes?labels=ids", "cityscapes:PATH"),
        ("landcover:PATH", "landcover"),
    ],
)
def test_open_dataset_tells_whether_there_must_be_a_path(spec, example):
    with pytest.raises(data.DataError) as caught:
        data.open_dataset(spec, "train")
    assert str(caught.value) == f"data set {spec!r}: it must be given as {example}"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("colour=red", "'colour=red' is no option of folder: it has split=..., images=..., labels"),
        ("ignore", "'ignore' is no option of folder"),
        ("ignore=", "'ignore=' is no option of folder"),
        ("ignore=1&ignore=2", "ignore is given twice"),
    ],
)
def test_open_dataset_with_wrong_options(query, message):
    with pytest.raises(data.DataError, match=message):
        data.open_dataset(f"folder:PATH?{query}", "train")


def test_open_dataset_without_a_split_tells_which_there_are():
    with pytest.raises(data.DataError, match="name a split of it: train, val"):
        data.open_dataset("shapes")


def test_a_split_in_the_name_of_a_data_set_goes_first():
    assert data.open_dataset("shapes?split=val", "train").name == "shapes val"


def test_data_errors_are_errors_of_the_library():
    assert issubclass(data.DataError, Error)
    assert issubclass(data.DataError, ValueError)
