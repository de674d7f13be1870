"""SIFT Flow as it lies on disk: two kinds of labels, and what can be wrong with them."""

import pickle

import numpy as np
import pytest
import scipy.io
from layouts_nyud import SCENES, SIFTFLOW, make_siftflow, save_mat
from PIL import Image

from minifcn import data
from minifcn.data import DataError, siftflow
from minifcn.data.siftflow import NOT_LABELLED, SIFTFLOW_PUBLISHED, siftflow_splits
from minifcn.data.sources import open_dataset, splits_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a folder that no test changes."""
    root = tmp_path_factory.mktemp("data") / "SIFT Flow"
    make_siftflow(root)
    return root


@pytest.fixture
def own(tmp_path):
    """Return a folder for a test to change."""
    make_siftflow(tmp_path)
    return tmp_path


def stored(root, folder, name):
    return scipy.io.loadmat(root / folder / SCENES / f"{name}.mat")["S"].astype(int)


# --- what is read


def test_classes():
    assert len(data.SIFTFLOW_CLASSES) == len(set(data.SIFTFLOW_CLASSES)) == 33
    assert list(data.SIFTFLOW_CLASSES) == sorted(data.SIFTFLOW_CLASSES)
    assert data.SIFTFLOW_GEOMETRY == ("sky", "horizontal", "vertical")


def test_a_specification_opens_it(whole):
    spec = f"siftflow:{whole}"
    assert [sample.name for sample in open_dataset(spec, "trainval")] == list(SIFTFLOW["trainval"])
    assert len(open_dataset(f"{spec}?split=test&labels=geometric").classes) == 3
    assert splits_of(spec) == ["trainval", "test"]


def test_both_kinds_of_labels(whole):
    dataset = siftflow(whole, "test")
    heads = data.heads_of(dataset)
    assert {name: len(head.classes) for name, head in heads.items()} == {
        "sem": 33,
        "geo": 3,
    }
    assert dataset.classes == data.SIFTFLOW_CLASSES
    for image, label, name in dataset:
        assert image.shape == (60, 60, 3)
        assert label.dtype == np.uint8
        semantic, geometric = label[:, :, 0], label[:, :, 1]
        before = stored(whole, "SemanticLabels", name)
        np.testing.assert_array_equal(semantic, np.where(before == 0, 255, before - 1))
        before = stored(whole, "GeoLabels", name)
        np.testing.assert_array_equal(geometric, np.where(before == -1, 255, before - 1))
    assert {0, 1, 2, 255} == set(np.unique(geometric).tolist())


@pytest.mark.parametrize(("kind", "place", "count"), [("semantic", 0, 33), ("geometric", 1, 3)])
def test_one_kind_of_labels(whole, kind, place, count):
    dataset = siftflow(whole, "test", kind)
    assert list(data.heads_of(dataset)) == [""]
    assert len(dataset.classes) == len(dataset.palette) == count
    both = siftflow(whole, "test")
    np.testing.assert_array_equal(dataset[1].label, both[1].label[:, :, place])


def test_one_kind_needs_no_files_of_the_other(own):
    (own / "GeoLabels").rename(own / "unused")
    assert len(siftflow(own, "test", "semantic")) == 3
    with pytest.raises(DataError, match=f"has no GeoLabels/{SCENES}; expected"):
        siftflow(own, "test")


def test_published_preparation(whole):
    dataset = siftflow(whole, "test")
    file = whole / f"Images/{SCENES}/coast_natu975.jpg"
    pixels = np.asarray(Image.open(file)).astype(np.float64)
    x = data.presets_of(dataset)["published"](dataset[0].image)
    expected = pixels[:, :, ::-1] - [114.578, 115.294, 108.353]
    np.testing.assert_allclose(x, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)
    assert data.presets_of(dataset)["unit"] == data.UNIT


@pytest.mark.parametrize("labels", ["both", "semantic", "geometric"])
def test_it_can_be_sent_to_another_process(whole, labels):
    dataset = siftflow(whole, "test", labels)
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[2].label, dataset[2].label)


# --- splits


def test_published_sizes():
    assert SIFTFLOW_PUBLISHED == {"trainval": 2486, "test": 200}


def test_splits_that_overlap(own):
    (own / "test.txt").write_text("coast_natu975\r\nforest_bost101\r\n", newline="")
    for split in ("trainval", "test"):
        with pytest.raises(DataError, match="share 1 image, 'forest_bost101' first"):
            siftflow(own, split)


@pytest.mark.parametrize("name", NOT_LABELLED)
def test_images_that_were_never_labelled(own, name):
    with (own / "trainval.txt").open("a") as file:
        file.write(f"\n{name}\n")
    message = f"trainval.txt: '{name}' was never labelled, so the published lists leave it out"
    with pytest.raises(DataError, match=message):
        siftflow(own, "trainval")
    assert len(siftflow(own, "test")) == 3


def test_lists_of_another_publication(own):
    (own / "TestSet1.txt").write_text(f"{SCENES}\\coast_natu975.jpg\n")
    with pytest.raises(DataError, match=r"TestSet1.txt: .* is a path: each line must be the name"):
        siftflow(own, "TestSet1")
    assert siftflow_splits(own) == ["trainval", "test"]


def test_unknown_split(whole):
    with pytest.raises(DataError, match=r"unknown split 'val': .* known are test, trainval"):
        siftflow(whole, "val")


# --- what can be wrong


def test_missing_folder(tmp_path):
    for call in (siftflow_splits, lambda path: siftflow(path, "test")):
        with pytest.raises(DataError, match=r"none is not a folder; expected is:") as caught:
            call(tmp_path / "none")
        assert f"{tmp_path}/none/\n" in str(caught.value)
        assert f"SemanticLabels/{SCENES}/NAME.mat" in str(caught.value)
        assert "Tighe and Lazebnik" in str(caught.value)


def test_unknown_labels(whole):
    message = "unknown labels 'sem': choose one of both, semantic, geometric"
    with pytest.raises(DataError, match=message):
        siftflow(whole, "test", "sem")


@pytest.mark.parametrize("folder", ["SemanticLabels", "GeoLabels"])
def test_missing_label(own, folder):
    (own / folder / SCENES / "coast_natu975.mat").unlink()
    with pytest.raises(DataError, match=f"{folder}.*no such label file, for 'coast_natu975' of"):
        siftflow(own, "test")


@pytest.mark.parametrize(
    ("folder", "value", "rule"),
    [
        ("SemanticLabels", 34, "1 to 33 for the 33 classes, or 0 for"),
        ("SemanticLabels", -1, "1 to 33 for the 33 classes, or 0 for"),
        ("GeoLabels", 4, "1 to 3 for the 3 classes, or -1 or 0 for"),
        ("GeoLabels", -2, "1 to 3 for the 3 classes, or -1 or 0 for"),
    ],
)
def test_label_values_that_are_no_class(own, folder, value, rule):
    labels = stored(own, folder, "coast_natu975").astype(np.int16)
    labels[6, 8] = value
    save_mat(own / folder / SCENES / "coast_natu975.mat", S=labels)
    message = f"{folder}.*coast_natu975.mat: label value {value} at row 6, column 8 .* {rule}"
    with pytest.raises(DataError, match=message):
        siftflow(own, "test")[0]


def test_void_of_minus_1_and_0_is_ignored_in_any_type(own):
    """As uint8 - 1, which is 255 for 0, -1 would be 254; as float it would stay -2."""
    labels = np.array([[-1, 0, 1], [1, 2, 3]]).repeat(20, axis=1).repeat(30, axis=0)
    for dtype in (np.int8, np.int16, np.float64):
        save_mat(own / "GeoLabels" / SCENES / "coast_natu975.mat", S=labels.astype(dtype))
        read = siftflow(own, "test", "geometric")[0].label
        assert read[0, ::20].tolist() == [255, 255, 0]
        assert read[30, ::20].tolist() == [0, 1, 2]


def test_labels_that_do_not_fit_their_image(own):
    save_mat(own / "GeoLabels" / SCENES / "coast_natu975.mat", S=np.ones((60, 59), np.int16))
    with pytest.raises(DataError, match=r"GeoLabels.*label is 60 x 59, .*coast_natu975.jpg is 60"):
        siftflow(own, "test")[0]
