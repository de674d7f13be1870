"""Cityscapes with either kind of label files."""

import pickle

import layouts_folder
import numpy as np
import pytest
from PIL import Image

from minifcn import data

NOT_SCORED = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)


@pytest.fixture
def root(tmp_path):
    layouts_folder.make_cityscapes(tmp_path)
    return tmp_path


def stored(root, name, split="val", kind="labelIds"):
    return root / "gtFine" / split / name.split("_")[0] / f"{name}_gtFine_{kind}.png"


def test_classes():
    ids = [label_id for label_id, _ in data.CITYSCAPES_CLASSES.values()]
    assert len(ids) == 19
    assert sorted([*ids, *NOT_SCORED]) == list(range(34))
    assert data.CITYSCAPES_CLASSES["car"] == (26, (0, 0, 142))


def test_label_ids(root):
    dataset = pickle.loads(pickle.dumps(data.open_dataset(f"cityscapes:{root}", "train")))
    assert len(dataset) == 4
    assert dataset.classes == tuple(data.CITYSCAPES_CLASSES)
    for image, label, name in dataset:
        raw = np.asarray(Image.open(stored(root, name, "train")))
        assert image.shape == (*raw.shape, 3)
        np.testing.assert_array_equal(label == 255, np.isin(raw, NOT_SCORED))
        for number, (label_id, _) in enumerate(data.CITYSCAPES_CLASSES.values()):
            np.testing.assert_array_equal(label == number, raw == label_id)
    assert data.splits_of(f"cityscapes:{root}") == ["train", "val"]


def test_training_numbers_are_taken_where_they_are(root):
    by_ids = data.cityscapes(root, "val")
    for _, label, name in by_ids:
        # Other numbers than the ids say, so that it shows which were read.
        flipped = np.where(label == 255, 255, 18 - np.minimum(label, 18)).astype(np.uint8)
        Image.fromarray(flipped).save(stored(root, name, kind="labelTrainIds"))
    for split in ("auto", "trainids"):
        found = data.open_dataset(f"cityscapes:{root}?labels={split}", "val")[1].label
        np.testing.assert_array_equal(found[found < 255], 18 - by_ids[1].label[found < 255])
    again = data.cityscapes(root, "val", labels="ids")[1].label
    np.testing.assert_array_equal(again, by_ids[1].label)


def test_id_that_does_not_exist(root):
    name = data.cityscapes(root, "val")[0].name
    Image.fromarray(np.full((40, 70), 34, np.uint8)).save(stored(root, name))
    with pytest.raises(data.DataError, match=r"labelIds\.png: label value 34 at row 0, column 0"):
        data.cityscapes(root, "val")[0]


def test_training_number_that_does_not_exist(root):
    name = data.cityscapes(root, "val")[0].name
    Image.fromarray(np.full((40, 70), 19, np.uint8)).save(stored(root, name, kind="labelTrainIds"))
    with pytest.raises(data.DataError, match=r"lindau_000001.*_labelTrainIds.*1 files of 2"):
        data.cityscapes(root, "val")
    other = data.cityscapes(root, "val", labels="ids")[1].name
    Image.fromarray(np.full((40, 70), 19, np.uint8)).save(stored(root, other, kind="labelTrainIds"))
    with pytest.raises(data.DataError, match=r"labelTrainIds\.png: label value 19 at row 0"):
        data.cityscapes(root, "val")[0]


def test_test_images_have_no_labels(root):
    with pytest.raises(data.DataError, match=r"test images are not published.* use val"):
        data.cityscapes(root, "test")


def test_unknown_split(root):
    with pytest.raises(data.DataError, match="no split 'trainval': there is train, val"):
        data.cityscapes(root, "trainval")


def test_unknown_kind_of_labels(root):
    with pytest.raises(
        data.DataError, match="labels=colour: it must be one of auto, ids, trainids"
    ):
        data.cityscapes(root, "val", labels="colour")


def test_missing_label(root):
    stored(root, "lindau_000000_000019").unlink()
    with pytest.raises(data.DataError, match=r"lindau_000000_000019_gtFine_labelIds\.png: no such"):
        data.cityscapes(root, "val")


def test_images_missing(root):
    for file in (root / "leftImg8bit" / "val").glob("*/*.png"):
        file.unlink()
    with pytest.raises(data.DataError, match=r"val: holds no files CITY/ID_leftImg8bit\.png"):
        data.cityscapes(root, "val")


def test_missing_folder_shows_the_layout(root, tmp_path):
    with pytest.raises(data.DataError, match="none is not a folder") as caught:
        data.cityscapes(tmp_path / "none", "train")
    for part in ("leftImg8bit/SPLIT/CITY", "gtFine/SPLIT/CITY", "cityscapes-dataset.com"):
        assert part in str(caught.value)
    (root / "gtFine").rename(root / "gtCoarse")
    with pytest.raises(data.DataError, match="has no gtFine; Cityscapes looks like this"):
        data.cityscapes(root, "train")
