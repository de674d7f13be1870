"""Checking data sets: what is counted, and what is found to be wrong."""

import base64
import importlib
import json
import os
import signal
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minifcn import data
from minifcn.data import IGNORE, DataError, Head, Sample, check
from minifcn.data.check import must_differ
from minifcn.data.fingerprint import fingerprint, pack, unpack
from minifcn.data.sources import SOURCES
from minifcn.data.tally import Bad, Tally, look_at

module = importlib.import_module("minifcn.data.check")  # data.check is the function

CLASSES = ("sea", "land", "ice")


def a_folder(root, **splits):
    """Write a folder with splits of three images each; return its name.

    Image i of a split has i + 4 rows of which the first is ignored and the others are divided
    among the three classes; its colours are random.
    """
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for split in splits or ("train", "val"):
        names = [f"{split} é {i}" for i in range(3)]
        for i, name in enumerate(names):
            label = np.tile(np.uint8([0, 1, 1, 2, 2, 2]), (i + 4, 1))
            label[0] = IGNORE
            image = rng.integers(0, 256, (i + 4, 6, 3), np.uint8)
            Image.fromarray(image).save(root / "images" / f"{name}.png")
            Image.fromarray(label).save(root / "labels" / f"{name}.png")
        (root / f"{split}.txt").write_text("\n".join(names), "utf-8")
    return f"folder:{root}"


class Samples(list):
    """A data set of given samples."""

    ignore_index = IGNORE

    def __init__(self, samples, heads=None, streams=None, name="samples"):
        super().__init__(samples)
        self.heads = heads or {"": Head(CLASSES, data.voc_palette(3))}
        self.classes, self.palette = next(iter(self.heads.values()))
        self.name, self.streams = name, streams


class Deadly(Samples):
    """Reading its last sample kills the process that reads it."""

    def __getitem__(self, index):
        if index == len(self) - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def a_sample(number, value=None, name=None, channels=3):
    """Return a sample whose pixels follow from a number, with all classes or with one value."""
    image = np.random.default_rng(number).integers(0, 256, (2, 3, channels), np.uint8)
    label = np.uint8([[0, 1, 2], [0, 1, 255]])
    if value is not None:
        label = np.full_like(label, value)
    return Sample(image, label, name or f"s{number}")


def texts(report, is_error):
    return [problem.text for problem in report.problems if problem.is_error == is_error]


# Fingerprints


def test_fingerprints_stay_the_same_for_ever():
    """They stand in weight files; the number was computed with hashlib alone."""
    assert fingerprint(np.arange(24, dtype=np.uint8).reshape(2, 4, 3)) == FINGERPRINT


FINGERPRINT = 15639306596761523482


def test_a_fingerprint_depends_on_values_shape_and_type_only(rng):
    image = rng.integers(0, 256, (5, 7, 3), np.uint8)
    assert fingerprint(np.asfortranarray(image)) == fingerprint(image)
    assert fingerprint(np.repeat(image, 2, axis=1)[:, ::2]) == fingerprint(image)
    other = image.copy()
    other[4, 6, 2] ^= 1
    different = [image, other, image[::-1], image.reshape(7, 5, 3), image.view(np.int8)]
    assert len({fingerprint(array) for array in different}) == 5
    depth = image.astype("<f4")
    assert fingerprint(depth.astype(">f4")) == fingerprint(depth)


@given(st.sets(st.integers(0, 2**64 - 1)))
def test_packed_fingerprints_come_back(numbers):
    assert unpack(pack(numbers)) == numbers


def test_fingerprints_are_packed_sorted_and_little_endian():
    assert base64.b64decode(pack([258, 3, 3])) == bytes([3, *[0] * 7, 2, 1, *[0] * 6])


@pytest.mark.parametrize(
    ("text", "part"), [("AQAA!", "not base64"), ("é", "not base64"), ("AQAA", "3 bytes")]
)
def test_text_that_is_no_packed_fingerprints(text, part):
    with pytest.raises(DataError, match=part):
        unpack(text)


# What is counted


def test_a_data_set_without_faults(tmp_path):
    steps = []
    report = check(a_folder(tmp_path / "a b"), progress=lambda *step: steps.append(step))
    assert (report.errors, report.warnings, report.samples) == (0, 0, 6)
    assert steps == [(done, 6) for done in range(1, 7)]
    assert report.splits.keys() >= {"train", "val"}
    train = report.splits["train"]
    assert (train.images, train.read) == (3, 3)
    assert train.sizes == {(4, 6): 1, (5, 6): 1, (6, 6): 1}
    assert train.size_range() == {"smallest": (4, 6), "median": (5, 6), "largest": (6, 6)}
    assert train.formats == {"image PNG RGB": 3, "label PNG L": 3}
    np.testing.assert_allclose(train.shares(""), [1 / 6, 2 / 6, 3 / 6])
    assert train.ignored("") == pytest.approx(3 / 15)
    assert train.images_with[0, :3].tolist() == [3, 3, 3]
    assert train.clearest == {("", 0): 2, ("", 1): 2, ("", 2): 2}  # the largest image


def test_mean_and_standard_deviation_are_those_of_all_pixels(tmp_path):
    spec = a_folder(tmp_path)
    tally = check(spec + "?split=val").splits["val"]
    dataset = data.open_dataset(spec, "val")
    pixels = np.concatenate([dataset[i].image.reshape(-1, 3) for i in range(3)])
    mean, std = tally.mean_and_std()
    np.testing.assert_allclose(mean, pixels.mean(axis=0))
    np.testing.assert_allclose(std, pixels.std(axis=0))
    assert tally.channels() == ["red", "green", "blue"]


def test_mean_and_standard_deviation_of_images_that_are_no_bytes():
    rng = np.random.default_rng(0)
    samples = []
    for number in range(3):
        sample = a_sample(number, channels=2)
        image = rng.normal(50, 20, sample.image.shape).astype(np.float32)
        samples.append(sample._replace(image=image))
    split = Samples(samples, streams={"depth": 2})
    mean, std = check({"val": split}).splits["val"].mean_and_std()
    pixels = np.concatenate([s.image.reshape(-1, 2) for s in samples]).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(axis=0))
    np.testing.assert_allclose(std, pixels.std(axis=0))


def test_workers_find_the_same(tmp_path):
    spec = a_folder(tmp_path)
    (tmp_path / "labels" / "train é 1.png").write_bytes(b"no image")
    alone, helped = check(spec, workers=0), check(spec, workers=2)
    assert alone.as_dict() == helped.as_dict()
    assert alone.errors == 1


def test_one_split_only(tmp_path):
    report = check(a_folder(tmp_path) + "?split=val")
    assert list(report.splits) == ["val"]


def test_files_in_several_splits_are_read_once(tmp_path, monkeypatch):
    spec = a_folder(tmp_path)
    names = (tmp_path / "train.txt").read_text("utf-8") + "\n"
    (tmp_path / "trainval.txt").write_text(
        names + (tmp_path / "val.txt").read_text("utf-8"), "utf-8"
    )
    read = []
    monkeypatch.setattr(module, "look_at", lambda *what: read.append(what) or look_at(*what))
    report = check(spec, workers=0)
    assert len(read) == report.samples == 6
    assert report.splits["trainval"].read == 6
    assert report.shared["train", "trainval"] == 3
    assert report.errors == 0


def test_kinds_of_labels_are_counted_apart():
    heads = {
        "what": Head(CLASSES, data.voc_palette(3)),
        "where": Head(("up", "down"), data.voc_palette(2)),
    }
    image, what, name = a_sample(0)
    where = np.uint8([[0, 0, 0], [255, 255, 255]])
    dataset = Samples([Sample(image, np.stack([what, where], axis=2), name)], heads)
    report = check({"train": dataset})
    tally = report.splits["train"]
    np.testing.assert_allclose(tally.shares("what"), [0.4, 0.4, 0.2])
    assert tally.shares("where").tolist() == [1, 0]
    assert tally.ignored("where") == 0.5
    np.testing.assert_allclose(tally.mean_and_std()[0], image.mean(axis=(0, 1)))
    assert texts(report, False)[0].startswith("where labels: every labelled pixel is up")


def test_the_clearest_sample_of_a_class_has_most_pixels_of_it():
    labels = np.uint8([[[0, 0, 1], [0, 2, 2]], [[0, 1, 1], [1, 2, 2]], [[0, 0, 1], [1, 2, 2]]])
    samples = [a_sample(n)._replace(label=label) for n, label in enumerate(labels)]
    tally = check({"train": Samples(samples)}).splits["train"]
    assert tally.clearest == {("", 0): 0, ("", 1): 1, ("", 2): 0}


def test_channels_have_names():
    streams = {"color": 3, "hha": 3, "depth": 1, "": 2}
    tally = Tally("train", Samples([a_sample(0)], streams=streams))
    colours = ["red", "green", "blue"]
    others = ["hha 1", "hha 2", "hha 3", "depth", "channel 1", "channel 2"]
    assert tally.channels() == colours + others


def test_everything_goes_into_json(tmp_path):
    spec = a_folder(tmp_path)
    for file in (tmp_path / "images").glob("val*"):
        file.write_bytes(b"no image")
    report = check(spec)
    content = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert content["errors"] == 3
    assert content["splits"]["train"]["labels"][""]["classes"]["ice"] == {"pixels": 36, "images": 3}
    assert content["splits"]["val"]["channels"] == {"red": None, "green": None, "blue": None}
    assert content["splits"]["val"]["sizes"] == {"different": 0}


def test_memory_does_not_grow_with_the_images():
    class Large(Samples):
        def __getitem__(self, index):
            image = np.full((500, 500, 3), index, np.uint8)
            return Sample(image, np.zeros((500, 500), np.uint8), str(index))

    tracemalloc.start()
    try:
        check({"train": Large([None] * 40)}, workers=0)
        assert tracemalloc.get_traced_memory()[1] < 30e6  # 40 images have 30 MB, as floats 240 MB
    finally:
        tracemalloc.stop()


# What is wrong with samples


def test_all_bad_files_are_found_and_the_others_counted(tmp_path):
    spec = a_folder(tmp_path)
    labels, images = tmp_path / "labels", tmp_path / "images"
    Image.new("RGB", (6, 4)).save(labels / "train é 0.png")
    Image.new("L", (6, 9)).save(labels / "train é 1.png")
    Image.new("L", (6, 6), 3).save(labels / "train é 2.png")
    (images / "val é 0.png").write_bytes((images / "val é 0.png").read_bytes()[:60])
    report = check(spec)
    found = texts(report, True)
    assert report.errors == len(found) == 4
    assert ("train é 0.png" in found[0], "RGB" in found[0]) == (True, True)
    assert "9 x 6" in found[1]
    assert "value 3 at row 0, column 0" in found[2]
    assert ("val é 0.png" in found[3], "damaged" in found[3]) == (True, True)
    assert [report.splits[split].read for split in ("train", "val")] == [0, 2]
    assert [problem.split.split(", ")[0] for problem in report.problems[:4]] == ["train"] * 3 + [
        "val"
    ]


def test_so_many_bad_files_are_listed(tmp_path):
    spec = a_folder(tmp_path)
    for file in (tmp_path / "labels").iterdir():
        file.write_bytes(b"")
    report = check(spec, most_errors=2)
    assert (len(report.problems), report.unlisted, report.errors) == (2, 4, 6)


IMAGE, LABEL = np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8)
NAN = np.float32([[[0, 0, 0], [0, np.nan, 0]]])


@pytest.mark.parametrize(
    ("image", "label", "part"),
    [
        (IMAGE[:, :, 0], LABEL, r"image is uint8 of shape \(2, 3\)"),
        (IMAGE[:, :, :2], LABEL, r"must be uint8 \(or float32\) of shape \(H, W, 3\)"),
        (IMAGE.astype(np.float64), LABEL, "image is float64"),
        (IMAGE, LABEL.astype(np.int64), "label is int64"),
        (IMAGE, LABEL[:1], r"must be uint8 of shape \(2, 3\)"),
        (IMAGE, np.stack([LABEL, LABEL], 2), r"label is uint8 of shape \(2, 3, 2\)"),
        (IMAGE, LABEL + np.uint8(7), "label value 7 at row 0, column 0"),
        (NAN, LABEL[:1, :2], "value nan at row 0, column 1, channel 1"),
    ],
)
def test_samples_that_are_not_what_they_should_be(image, label, part):
    bad = look_at(Samples([Sample(image, label, "odd")]), 0)
    assert isinstance(bad, Bad)
    with pytest.raises(ValueError, match=part):
        raise ValueError(bad.reason)
    assert bad.reason.startswith("odd: ")


def test_a_missing_folder_is_an_error_at_once(tmp_path):
    with pytest.raises(DataError, match=r"classes\.txt"):
        check(f"folder:{tmp_path / 'nowhere'}")


def test_a_split_that_does_not_open_is_reported_and_others_are_checked(tmp_path):
    spec = a_folder(tmp_path)
    (tmp_path / "test.txt").write_text("val é 0\nno such image", "utf-8")
    report = check(spec)
    assert report.splits["train"].read == 3
    assert report.errors == 1
    assert (report.problems[0].split, "'no such image'" in report.problems[0].text) == (
        "test",
        True,
    )


# What is wrong with splits


@pytest.mark.parametrize(
    ("training", "held_out", "expected"),
    [
        ("train", "val", True),
        ("trainaug", "seg11valid", True),
        ("trainval", "test", True),
        ("val", "test", True),
        ("trainval", "val", False),
        ("train", "trainval", False),
        ("val", "train", False),
        ("all", "test", False),
        ("train", "all", False),
    ],
)
def test_which_splits_may_share_images(training, held_out, expected):
    assert must_differ(training, held_out) == expected


def test_splits_that_share_files(tmp_path):
    files = [data.Item(n, (tmp_path / f"{n}.png",), (tmp_path / f"{n}_label.png",)) for n in "abcd"]
    for number, item in enumerate(files):
        image, label, _ = a_sample(number)
        Image.fromarray(image).save(item.images[0])
        Image.fromarray(label).save(item.labels[0])
    train, val = data.Files("train", files[:3], CLASSES), data.Files("val", files[1:], CLASSES)
    report = check({"train": train, "val": val})
    assert report.shared == {("train", "val"): 2}
    (text,) = texts(report, True)
    assert text.startswith("train and val share 2 samples (b, c): held-out images must not be")


def test_names_that_stand_for_other_files_in_another_split(tmp_path):
    splits = {}
    for number, split in enumerate(("train", "val")):
        image, label, _ = a_sample(number)
        (tmp_path / split).mkdir()
        item = data.Item("0001", (tmp_path / split / "0001.png",), (tmp_path / split / "l.png",))
        Image.fromarray(image).save(item.images[0])
        Image.fromarray(label).save(item.labels[0])
        splits[split] = data.Files(split, [item], CLASSES)
    report = check(splits)
    assert report.errors == 0
    (text,) = texts(report, False)
    assert text.startswith("1 names stand in both train and val for different files (0001)")


def test_without_files_names_tell_samples_apart():
    report = check({"train": Samples([a_sample(0)]), "val": Samples([a_sample(1, name="s0")])})
    (text,) = texts(report, True)
    assert text.startswith("train and val share 1 samples (s0)")


def test_bad_samples_of_two_splits_are_not_taken_for_one():
    class Broken(Samples):
        def __getitem__(self, index):
            raise DataError("cannot be read")

    splits = {split: Broken([None], name=f"my {split}") for split in ("train", "test")}
    report = check(splits, workers=0)
    assert texts(report, True) == [
        "my train sample 0: cannot be read",
        "my test sample 0: cannot be read",
    ]


def test_images_of_equal_pixels_in_splits_that_must_differ():
    train = Samples([a_sample(0), a_sample(1)])
    val = Samples([a_sample(1, name="copy"), a_sample(2), a_sample(1, name="again")])
    report = check({"train": train, "val": val})
    (text,) = texts(report, True)
    assert text.startswith(
        "2 images of val have exactly the pixels of one of train (s1 = copy, s1 = again)"
    )
    assert texts(report, False) == []


def test_images_of_equal_pixels_in_one_split():
    train = Samples([a_sample(0), a_sample(1), a_sample(0, name="copy")])
    report = check({"train": train})
    assert report.errors == 0
    (text,) = texts(report, False)
    assert text.startswith("1 images have exactly the pixels of another (s0 of train = copy of")


def test_errors_come_before_warnings():
    train = Samples([a_sample(0), a_sample(0, name="copy")])
    report = check({"train": train, "val": Samples([a_sample(1, IGNORE)])})
    assert [problem.is_error for problem in report.problems] == [True, False]


def test_splits_with_other_classes():
    two = {"": Head(CLASSES[:2], data.voc_palette(2))}
    report = check({"train": Samples([a_sample(0)]), "val": Samples([a_sample(1, 1)], two)})
    (text,) = texts(report, True)
    assert text.startswith("train and val differ in their classes or channels")


def test_counts_are_compared_with_the_published_ones(tmp_path, monkeypatch):
    source = SOURCES["folder"]._replace(published={"train": 3, "val": 736})
    monkeypatch.setitem(SOURCES, "folder", source)
    report = check(a_folder(tmp_path))
    assert texts(report, False) == ["3 images, but 736 were published: is all of it on disk?"]
    assert report.published == {"train": 3, "val": 736}


# What is odd about labels


def test_classes_that_never_occur():
    label = np.uint8([[0, 0, 0], [2, 2, 2]])
    report = check({"train": Samples([a_sample(0)._replace(label=label)])})
    assert texts(report, False) == ["1 of 3 classes never occur: land"]


def test_images_without_labels():
    report = check({"train": Samples([a_sample(0), a_sample(1, IGNORE), a_sample(2, IGNORE)])})
    assert texts(report, False) == ["2 images have no labelled pixel: s1, s2"]


def test_a_split_without_labels():
    report = check({"train": Samples([a_sample(0, IGNORE)])})
    (text,) = texts(report, True)
    assert text.startswith("no pixel is labelled")


def test_masks_of_0_and_255():
    label = np.uint8([[0, 0, 255], [0, 255, 255]])
    report = check({"train": Samples([a_sample(0)._replace(label=label)])})
    (text,) = texts(report, False)
    assert "every labelled pixel is sea, and 255, the number of 50% of all pixels" in text


# Processes


def test_a_worker_that_is_killed_is_an_error():
    samples = [a_sample(number) for number in range(20)]
    with pytest.raises(DataError, match="SIGKILL"):
        check({"train": Deadly(samples)}, workers=2)


def test_data_sets_that_cannot_be_sent():
    dataset = Samples([a_sample(0)])
    dataset.read = lambda: None
    with pytest.raises(DataError, match="workers=0"):
        check({"train": dataset}, workers=1)


def test_a_number_of_workers_that_cannot_be():
    with pytest.raises(DataError, match="workers is -1"):
        check("shapes", workers=-1)


def test_few_samples_are_read_without_other_processes(monkeypatch):
    monkeypatch.setattr(module, "by_processes", None)
    assert check("shapes").errors == 0
