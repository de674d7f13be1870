"""Predictions as files: where they go, and where they must not go."""

import numpy as np
import pytest
from PIL import Image

from minifcn import data
from minifcn.data import Files, Head, Item
from minifcn.data.names import UnsafeNameError
from minifcn.files import WriteError
from minifcn.prediction_folder import FolderError, PredictionFolder

LABEL = np.array([[0, 1], [2, 1]], np.uint8)
HEADS = {
    "sem": Head(("a", "b", "c"), data.voc_palette(3)),
    "geo": Head(("up",), np.ones((1, 3), np.uint8)),
}


@pytest.fixture
def dataset(tmp_path):
    """Three images and their labels in ``set/images`` and ``set/labels``."""
    items = []
    for name in ("one", "day 1/two", "drei für"):
        image, label = (tmp_path / "set" / kind / f"{name}.png" for kind in ("images", "labels"))
        for file in (image, label):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(LABEL).save(file)
        items.append(Item(name, (image,), (label,)))
    return Files("three images", items, ["a", "b", "c"])


def files_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_predictions_are_read_back_as_they_were(tmp_path, dataset):
    folder = PredictionFolder(tmp_path / "new" / "out", dataset)
    for item in dataset.items:
        folder.save(item.name, {"": LABEL})
    assert files_in(tmp_path / "new" / "out") == ["day 1/two.png", "drei für.png", "one.png"]
    for name in ("one", "day 1/two", "drei für"):
        file = tmp_path / "new" / "out" / f"{name}.png"
        np.testing.assert_array_equal(data.read_label(file), LABEL)
        with Image.open(file) as picture:
            assert picture.mode == "P"
            assert picture.getpalette()[:9] == data.voc_palette(3).ravel().tolist()


def test_an_earlier_run_is_replaced(tmp_path, dataset):
    for label in (LABEL, LABEL[::-1]):
        PredictionFolder(tmp_path / "out", dataset).save("one", {"": label})
        np.testing.assert_array_equal(data.read_label(tmp_path / "out" / "one.png"), label)


def test_several_kinds_of_labels(tmp_path):
    dataset = data.shapes("val")
    dataset.heads = HEADS
    PredictionFolder(tmp_path, dataset).save("x", {"sem": LABEL, "geo": np.zeros_like(LABEL)})
    assert files_in(tmp_path) == ["geo/x.png", "sem/x.png"]
    np.testing.assert_array_equal(data.read_label(tmp_path / "sem" / "x.png"), LABEL)
    with Image.open(tmp_path / "geo" / "x.png") as picture:
        assert picture.getpalette()[:3] == [1, 1, 1]


@pytest.mark.parametrize(("layout", "number"), [("voc", 6), ("voc-comp5", 5)])
def test_the_layout_of_the_voc_server(tmp_path, dataset, layout, number):
    PredictionFolder(tmp_path / "out", dataset, layout, "test").save("2008_000006", {"": LABEL})
    place = f"results/VOC2012/Segmentation/comp{number}_test_cls/2008_000006.png"
    assert files_in(tmp_path / "out") == [place]


def test_another_layout(tmp_path, dataset):
    with pytest.raises(FolderError, match="layout 'coco': use plain, voc or voc-comp5"):
        PredictionFolder(tmp_path / "out", dataset, "coco")


NAMES = ["../x", "a/../../x", "..", "", ".", "/x", "C:x", "C:\\x", "a\\..\\x", "\\x", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out_of_the_folder(tmp_path, dataset, name):
    (tmp_path / "out").mkdir()
    folder = PredictionFolder(tmp_path / "out", dataset)
    with pytest.raises(UnsafeNameError, match=r"image name .*( leads out of|a control character)"):
        folder.save(name, {"": LABEL})
    assert not (tmp_path / "x.png").exists()
    assert files_in(tmp_path / "out") == []


def test_bad_names_are_found_before_the_work(tmp_path, dataset):
    dataset.items.append(dataset.items[0]._replace(name="../one"))
    with pytest.raises(UnsafeNameError, match=r"image name '../one'"):
        PredictionFolder(tmp_path / "out", dataset)
    assert not (tmp_path / "out").exists()


def test_a_link_that_leads_out_of_the_folder(tmp_path, dataset):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "day 1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeNameError, match=r"leads to .*elsewhere/two.png, which is not in"):
        PredictionFolder(tmp_path / "out", dataset)


@pytest.mark.parametrize("place", ["set", "set/images", "set/labels", "set/labels/day 1", "link"])
def test_the_folders_of_the_data(tmp_path, dataset, place):
    (tmp_path / "link").symlink_to(tmp_path / "set")
    before = files_in(tmp_path)
    with pytest.raises(FolderError, match="choose another folder for"):
        PredictionFolder(tmp_path / place, dataset)
    assert files_in(tmp_path) == before


def test_names_that_lead_back_to_the_data(tmp_path, dataset):
    dataset.items[0] = dataset.items[0]._replace(name="set/labels/one")
    with pytest.raises(FolderError, match=r"labels/one.png: files of the data set lie in"):
        PredictionFolder(tmp_path, dataset)


def test_a_new_folder_beside_the_labels_may_be_used(tmp_path, dataset):
    PredictionFolder(tmp_path / "set" / "predicted", dataset).save("one", {"": LABEL})
    assert (tmp_path / "set" / "predicted" / "one.png").is_file()


def test_two_images_of_one_file(tmp_path, dataset):
    folder = PredictionFolder(tmp_path / "out", dataset)
    folder.save("a/b", {"": LABEL})
    with pytest.raises(FolderError, match=r"both 'a/b' and 'a//b' would be written here"):
        folder.save("a//b", {"": LABEL})


def test_a_folder_that_is_a_file(tmp_path, dataset):
    (tmp_path / "out").write_text("hello")
    with pytest.raises(FolderError, match=r"out: nothing can be written here: File exists"):
        PredictionFolder(tmp_path / "out", dataset)


def test_a_folder_that_cannot_be_written_into(tmp_path, dataset, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("minifcn.prediction_folder.tempfile.TemporaryFile", refuse)
    with pytest.raises(FolderError, match="out: nothing can be written here: Permission denied"):
        PredictionFolder(tmp_path / "out", dataset)


def test_a_file_where_a_folder_must_be(tmp_path, dataset):
    folder = PredictionFolder(tmp_path / "out", dataset)
    (tmp_path / "out" / "day 1").write_text("hello")
    with pytest.raises(FolderError, match="day 1: this folder cannot be made: "):
        folder.save("day 1/two", {"": LABEL})


def test_a_full_disk_leaves_no_half_file(tmp_path, dataset, monkeypatch):
    folder = PredictionFolder(tmp_path / "out", dataset)

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(WriteError, match=r"one.png: cannot be written: No space left on device"):
        folder.save("one", {"": LABEL})
    assert files_in(tmp_path / "out") == []
