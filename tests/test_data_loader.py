"""Preprocessing, and batches."""

import itertools
import json
import pickle
import threading
import time

import numpy as np
import pytest
from listed import Listed, numbered
from PIL import ExifTags, Image

from minifcn import data
from minifcn.data import CAFFE, UNIT, Loader, Preprocessing, Sample

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


# --- preprocessing


def test_caffe_preprocessing_is_bgr_minus_the_mean():
    x = CAFFE(IMAGE)
    assert x.dtype == np.float32
    assert x.shape == (3, 5, 7)
    expected = IMAGE[:, :, ::-1].transpose(2, 0, 1) - np.array(
        [104.00699, 116.66877, 122.67892], np.float32
    ).reshape(3, 1, 1)
    np.testing.assert_allclose(x, expected, rtol=1e-6)


def test_unit_preprocessing():
    x = UNIT(np.array([[[0, 255, 51]]], np.uint8))
    np.testing.assert_allclose(x[:, 0, 0], [-2, 2, -1.2], rtol=1e-5)


def test_formula_with_different_channels():
    rule = Preprocessing("BGR", 0.5, (1, 2, 3), (4, 5, 6))
    x = rule(np.array([[[30, 20, 10]]], np.uint8))  # R 30, G 20, B 10
    np.testing.assert_allclose(x[:, 0, 0], [(5 - 1) / 4, (10 - 2) / 5, (15 - 3) / 6])


def test_the_result_is_stored_channels_last():
    assert CAFFE(IMAGE).transpose(1, 2, 0).flags.c_contiguous
    stack = UNIT(np.stack([IMAGE, IMAGE]))
    assert stack.shape == (2, 3, 5, 7)
    assert stack.transpose(0, 2, 3, 1).flags.c_contiguous


def test_a_stack_is_computed_as_its_images():
    other = IMAGE[::-1]
    stack = CAFFE(np.stack([IMAGE, other]))
    np.testing.assert_array_equal(stack[1], CAFFE(other))


def test_the_image_is_left_alone():
    before = IMAGE.copy()
    CAFFE(IMAGE)
    UNIT(IMAGE)
    np.testing.assert_array_equal(IMAGE, before)


@pytest.mark.parametrize(
    "rule", [CAFFE, UNIT, Preprocessing("BGR", 1 / 255, (0, 0.5, 1), (1, 2, 3))]
)
def test_invert_gives_the_image_back(rule):
    np.testing.assert_array_equal(rule.invert(rule(IMAGE)), IMAGE)
    np.testing.assert_array_equal(rule.invert(rule(IMAGE[None])), IMAGE[None])


def test_invert_clips():
    assert UNIT.invert(np.array([[[-9.0]], [[9.0]], [[0.0]]])).tolist() == [[[0, 255, 128]]]


@pytest.mark.parametrize("rule", [CAFFE, UNIT])
def test_preprocessing_survives_json(rule):
    assert Preprocessing.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "rgb"}, "order is 'rgb': it must be 'RGB' or 'BGR'"),
        ({"scale": 0}, "scale is 0: it must be above 0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"mean": (1, 2)}, "mean is .*: it must be three numbers"),
        ({"mean": (1, 2, float("inf"))}, "mean is .*: it must be three numbers"),
        ({"std": (1, 0, 1)}, "std is .*: each must be above 0"),
    ],
)
def test_preprocessing_refuses(change, message):
    with pytest.raises(data.DataError, match=message):
        Preprocessing(**{**CAFFE.to_dict(), **change})


@pytest.mark.parametrize(
    "values", [{"order": "RGB"}, {**CAFFE.to_dict(), "size": 3}, {**CAFFE.to_dict(), "mean": 3}]
)
def test_preprocessing_from_wrong_values(values):
    with pytest.raises(data.DataError, match="preprocessing: "):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize(
    "image",
    [IMAGE.astype(np.float32), IMAGE[:, :, 0], IMAGE.transpose(2, 0, 1), IMAGE[:, :, :2]],
)
def test_preprocessing_refuses_what_is_no_image(image):
    with pytest.raises(data.DataError, match=r"it must be uint8 of shape \(H, W, 3\)"):
        CAFFE(image)


# --- batches


def take(loader, count, start=0):
    return list(itertools.islice(loader.steps(start), count))


def test_batch_types_and_values():
    dataset = data.shapes("train", length=6, size=32)
    batch = next(Loader(dataset, 3, CAFFE).in_order())
    assert batch.images.shape == (3, 3, 32, 32)
    assert batch.images.dtype == np.float32
    assert batch.images.transpose(0, 2, 3, 1).flags.c_contiguous
    assert batch.labels.dtype == np.int64
    assert batch.names == ("train-0000", "train-0001", "train-0002")
    np.testing.assert_array_equal(batch.images[1], CAFFE(dataset[1].image))
    np.testing.assert_array_equal(batch.labels[1], dataset[1].label)


def test_a_pickled_batch_is_stored_as_before():
    batch = next(Loader(data.shapes("train", length=6, size=32), 3).in_order())
    buffers = []
    content = pickle.dumps(batch, protocol=5, buffer_callback=buffers.append)
    assert len(content) < 1000  # both arrays lie in one piece, beside it
    copy = pickle.loads(content, buffers=buffers)
    assert isinstance(copy, data.Batch)
    np.testing.assert_array_equal(copy.images, batch.images)
    np.testing.assert_array_equal(copy.labels, batch.labels)
    assert copy.images.strides == batch.images.strides
    assert copy.names == batch.names


def test_in_order_gives_every_sample_once_unchanged():
    dataset = data.shapes("train", length=7, size=32)
    loader = Loader(dataset, 3, crop=16, flip=True, rotate=True, jitter=0.5)
    batches = list(loader.in_order())
    assert [len(batch.names) for batch in batches] == [3, 3, 1]
    assert batches[2].images.shape == (1, 3, 32, 32)
    images = np.concatenate([batch.images for batch in batches])
    np.testing.assert_array_equal(images, np.stack([UNIT(sample.image) for sample in dataset]))


def test_steps_shuffle_and_show_every_sample_equally_often():
    dataset = data.shapes("train", length=10, size=16)
    names = [name for batch in take(Loader(dataset, 4), 10) for name in batch.names]
    passes = [names[i : i + 10] for i in range(0, 40, 10)]
    for one in passes:
        assert len(set(one)) == 10
    assert len({tuple(one) for one in passes}) == 4
    assert passes[0] != sorted(passes[0])


def test_a_batch_may_be_larger_than_the_data_set():
    dataset = data.shapes("train", length=3, size=16)
    batch = next(Loader(dataset, 8).steps())
    assert len(batch.names) == 8
    assert len(set(batch.names)) == 3


OPTIONS = {"crop": 24, "flip": True, "flip_vertical": True, "rotate": True, "jitter": 0.1}


def test_steps_go_on_exactly_where_they_stopped():
    dataset = data.shapes("train", length=10, size=32)
    whole = take(Loader(dataset, 4, **OPTIONS), 9)
    rest = take(Loader(dataset, 4, **OPTIONS), 4, start=5)
    for expected, found in zip(whole[5:], rest, strict=True):
        assert expected.names == found.names
        np.testing.assert_array_equal(expected.images, found.images)
        np.testing.assert_array_equal(expected.labels, found.labels)


def test_the_seed_decides():
    dataset = data.shapes("train", length=10, size=32)
    first, same, other = (
        take(Loader(dataset, 4, seed=seed, **OPTIONS), 2)[1] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.images, same.images)
    assert first.names != other.names


def test_a_sample_is_changed_in_a_new_way_each_time():
    dataset = Listed([numbered(9, 9)])
    batch = next(Loader(dataset, 12, rotate=True, flip=True).steps())
    assert len({label.tobytes() for label in batch.labels}) > 4
    red = UNIT.invert(batch.images)[..., 0]
    np.testing.assert_array_equal(red, batch.labels)


def test_samples_of_different_sizes():
    dataset = Listed([numbered(8, 8), numbered(8, 9)._replace(name="wide")])
    message = "numbered is 8 x 8, wide is 8 x 9 .* choose crop= .* sizes='bucket' or batch_size=1"
    with pytest.raises(data.DataError, match=message):
        list(Loader(dataset, 2).in_order())
    assert len(list(Loader(dataset, 1).in_order())) == 2
    assert take(Loader(dataset, 2, crop=8), 1)[0].images.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": Listed([])}, "data set listed is empty"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"seed": -1}, "seed is -1: it must be 0 or more"),
        ({"workers": -1}, "workers is -1: it must be 0 or more"),
        ({"prefetch": -1}, "prefetch is -1: it must be 0 or more"),
        ({"prefetch": 0, "workers": 2}, "prefetch with workers is 0: it must be at least 1"),
        ({"sizes": "any"}, "sizes is 'any': it must be one of same, pad, bucket"),
        ({"sampling": "all"}, "sampling is 'all': it must be 'epochs' or 'replacement'"),
        ({"shard": (2, 2)}, "shard is 2 of 2: the rank must be 0 to 1"),
        ({"shard": (-1, 2)}, "shard is -1 of 2: the rank must be 0 to 1"),
        ({"shard": (0, 2), "batch_size": 3}, "batch_size is 3: 2 processes .* equally many images"),
        ({"shard": (0, 2), "batch_size": 4, "sizes": "bucket"}, "choose sizes='pad' or crop="),
    ],
)
def test_loader_refuses(arguments, message):
    with pytest.raises(data.DataError, match=message):
        Loader(**{"dataset": Listed([numbered(4, 4)]), **arguments})


def test_a_step_before_the_first():
    with pytest.raises(data.DataError, match="start is -1: it must be 0 or more"):
        next(Loader(Listed([numbered(4, 4)])).steps(-1))


def test_a_label_of_another_size_than_its_image():
    wrong = numbered(4, 5)._replace(label=np.zeros((5, 4), np.uint8))
    with pytest.raises(data.DataError, match="numbered: label is 5 x 4, its image is 4 x 5"):
        next(Loader(Listed([wrong])).steps())


# --- several kinds of labels, other channels


@pytest.mark.parametrize("sizes", ["same", "pad"])
def test_kinds_of_labels_come_before_height_and_width(sizes):
    samples = []
    for height in (6, 8 if sizes == "pad" else 6):
        image, label, name = numbered(height, 7)
        rule = Preprocessing("RGB", 1.0, (0,) * 4, (1,) * 4)
        depth = np.repeat(image[:, :, :1], 4, axis=2).astype(np.float32)
        samples.append(Sample(depth, np.stack([label, 249 - label], axis=2), name))
    batch = next(Loader(Listed(samples), 2, rule, sizes=sizes).in_order())
    assert batch.images.shape == (2, 4, height, 7)
    assert batch.labels.shape == (2, 2, height, 7)
    assert batch.labels.dtype == np.int64
    np.testing.assert_array_equal(batch.images[0, 3, :6], batch.labels[0, 0, :6])
    np.testing.assert_array_equal(batch.labels[1, 0], 249 - batch.labels[1, 1])


# --- sizes


def uneven(count=30):
    """Return a data set of images of three sizes, one of which is rare."""
    sizes = [(6, 9) if i % 2 else (9, 6) for i in range(count - 1)] + [(5, 5)]
    return Listed([numbered(*size)._replace(name=str(i)) for i, size in enumerate(sizes)])


def test_padding_is_the_mean_colour_below_and_to_the_right_and_is_ignored():
    batch = next(Loader(Listed([numbered(4, 6), numbered(5, 3)]), 2, CAFFE, sizes="pad").in_order())
    assert batch.images.shape == (2, 3, 5, 6)
    assert batch.images.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(batch.images[0, :, :4], CAFFE(numbered(4, 6).image))
    np.testing.assert_array_equal(batch.images[1, :, :, :3], CAFFE(numbered(5, 3).image))
    np.testing.assert_array_equal(batch.labels[1, :, :3], numbered(5, 3).label)
    assert (batch.images[0, :, 4:] == 0).all()
    assert (batch.images[1, :, :, 3:] == 0).all()
    assert (batch.labels[0, 4:] == 255).all()
    assert (batch.labels[1, :, 3:] == 255).all()


def test_images_of_one_size_are_not_changed_by_padding_or_buckets():
    dataset = data.shapes("train", length=6, size=16)
    same, pad, bucket = (
        next(Loader(dataset, 6, sizes=sizes).in_order()) for sizes in ("same", "pad", "bucket")
    )
    for other in (pad, bucket):
        np.testing.assert_array_equal(same.images, other.images)
        np.testing.assert_array_equal(same.labels, other.labels)


def test_buckets_show_every_sample_once_in_each_pass():
    batches = take(Loader(uneven(), 4, sizes="bucket"), 3 * 9)  # 15 + 14 + 1 images: 4 + 4 + 1
    passes = [batches[i : i + 9] for i in (0, 9, 18)]
    for one in passes:
        assert sorted(int(name) for batch in one for name in batch.names) == list(range(30))
        assert sorted(len(batch.names) for batch in one) == [1, 2, 3, *[4] * 6]
        shapes = [batch.labels.shape[1:] for batch in one]
        assert shapes != sorted(shapes)  # sizes take turns
    assert len({tuple(batch.names for batch in one) for one in passes}) == 3


@pytest.mark.parametrize("sampling", ["epochs", "replacement"])
@pytest.mark.parametrize("sizes", ["pad", "bucket"])
def test_batches_depend_on_seed_and_number_alone(sizes, sampling):
    options = {"sizes": sizes, "sampling": sampling, "flip": True}
    whole = take(Loader(uneven(), 4, **options), 25)
    rest = take(Loader(uneven(), 4, **options), 15, start=10)
    for expected, found in zip(whole[10:], rest, strict=True):
        assert expected.names == found.names
        np.testing.assert_array_equal(expected.images, found.images)
    other = take(Loader(uneven(), 4, seed=1, **options), 25)
    assert [batch.names for batch in other] != [batch.names for batch in whole]


def test_buckets_in_order_are_runs_of_one_size():
    sizes = [(6, 9)] * 5 + [(9, 6)] * 2 + [(6, 9)]
    dataset = Listed([numbered(*s)._replace(name=str(i)) for i, s in enumerate(sizes)])
    names = [batch.names for batch in Loader(dataset, 4, sizes="bucket").in_order()]
    assert names == [("0", "1", "2", "3"), ("4",), ("5", "6"), ("7",)]


def test_sizes_are_looked_up_in_the_headers_of_files(tmp_path, monkeypatch):
    items = []
    for number, (size, orientation) in enumerate([((4, 6), 1), ((4, 6), 6), ((5, 5), 1)]):
        files = (tmp_path / f"{number}.jpg",), (tmp_path / f"{number}.png",)
        picture = Image.fromarray(numbered(*size).image)
        exif = picture.getexif()
        exif[ExifTags.Base.Orientation] = orientation
        picture.save(files[0][0], exif=exif)
        upright = size if orientation == 1 else size[::-1]
        data.save_label(files[1][0], np.zeros(upright, np.uint8), data.voc_palette(2))
        items.append(data.Item(str(number), *files))
    dataset = data.Files("photographs", items, ["a", "b"])
    assert [sample.label.shape for sample in dataset] == [(4, 6), (6, 4), (5, 5)]
    monkeypatch.setattr(data.Files, "__getitem__", None)  # so no image is read
    loader = Loader(dataset, 2, sizes="bucket")
    assert loader.sizes.tolist() == [[4, 6], [6, 4], [5, 5]]


# --- sampling


def test_sampling_with_replacement_draws_every_sample_about_equally_often():
    dataset = data.shapes("train", length=10, size=16)
    names = [
        n for batch in take(Loader(dataset, 4, sampling="replacement"), 100) for n in batch.names
    ]
    counts = [names.count(name) for name in sorted(set(names))]
    assert len(counts) == 10
    assert 15 < min(counts) < 40 < max(counts) < 65
    passes = [set(names[i : i + 10]) for i in range(0, 400, 10)]
    assert min(len(one) for one in passes) < 8  # no passes over the data


def test_the_images_of_a_run_do_not_depend_on_how_they_are_cut_into_batches():
    """So a step of 1 image 20 times sees what a step of 20 does."""
    dataset = data.shapes("train", length=7, size=16)
    for sampling in ("epochs", "replacement"):
        large = take(Loader(dataset, 12, sampling=sampling, flip=True), 2)
        small = take(Loader(dataset, 3, sampling=sampling, flip=True), 8)
        for one, parts in zip(large, (small[:4], small[4:]), strict=True):
            np.testing.assert_array_equal(one.images, np.concatenate([p.images for p in parts]))


def test_replacement_in_buckets_draws_all_samples():
    batches = take(Loader(uneven(), 4, sizes="bucket", sampling="replacement"), 200)
    assert {len(batch.names) for batch in batches} == {4}
    names = [name for batch in batches for name in batch.names]
    assert {names.count(str(i)) > 8 for i in range(30)} == {True}


# --- shards


@pytest.mark.parametrize("sizes", ["same", "pad"])
def test_shards_make_up_the_batches(sizes):
    dataset = data.shapes("train", length=10, size=16)
    whole = Loader(dataset, 4, sizes=sizes, **OPTIONS)
    shards = [Loader(dataset, 4, sizes=sizes, shard=(rank, 2), **OPTIONS) for rank in (0, 1)]
    for expected, *parts in zip(take(whole, 5), *(take(shard, 5) for shard in shards), strict=True):
        for rank, part in enumerate(parts):
            assert part.names == expected.names[rank::2]
            np.testing.assert_array_equal(part.images, expected.images[rank::2])
    for rank, shard in enumerate(shards):
        names = [batch.names for batch in shard.in_order()]
        assert names == [batch.names[rank::2] for batch in whole.in_order()]


def test_a_shard_that_gets_nothing_of_the_last_batch():
    dataset = data.shapes("train", length=5, size=16)
    sizes = [
        [len(batch.names) for batch in Loader(dataset, 4, shard=(rank, 2)).in_order()]
        for rank in (0, 1)
    ]
    assert sizes == [[2, 2 - 1], [2]]


# --- the thread


class Counting(Listed):
    """Counts how many samples were read, and by which threads."""

    def __init__(self, samples):
        super().__init__(samples)
        self.read, self.threads = 0, set()

    def __getitem__(self, index):
        self.read += 1
        self.threads.add(threading.current_thread())
        return super().__getitem__(index)


def test_a_thread_makes_the_next_batches():
    dataset = Counting([numbered(4, 4)] * 10)
    batches = Loader(dataset, 2, prefetch=3).steps()
    next(batches)
    deadline = time.monotonic() + 10
    while dataset.read < 2 * 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert dataset.read == 2 * (1 + 3)  # one was taken, three wait
    assert threading.current_thread() not in dataset.threads
    batches.close()
    assert not any(thread.is_alive() for thread in dataset.threads)
    assert dataset.read == 2 * (1 + 3)


def test_without_prefetch_each_batch_is_made_when_it_is_asked_for():
    dataset = Counting([numbered(4, 4)] * 10)
    batches = Loader(dataset, 2, prefetch=0).steps()
    for count in (2, 4, 6):
        next(batches)
        assert dataset.read == count
    assert dataset.threads == {threading.current_thread()}


def test_the_thread_changes_nothing():
    dataset = data.shapes("train", length=10, size=32)
    for first, second in zip(
        take(Loader(dataset, 4, prefetch=0, **OPTIONS), 6),
        take(Loader(dataset, 4, prefetch=2, **OPTIONS), 6),
        strict=True,
    ):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)


class Failing(Listed):
    """A data set of which one sample cannot be read."""

    def __getitem__(self, index):
        if index == 5:
            raise data.DataError("5.png: image file is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_error_comes_when_its_batch_is_due(prefetch):
    batches = Loader(Failing([numbered(4, 4)] * 8), 2, prefetch=prefetch).in_order()
    assert len(list(itertools.islice(batches, 2))) == 2
    with pytest.raises(data.DataError, match=r"5\.png: image file is damaged"):
        next(batches)
    assert list(batches) == []
