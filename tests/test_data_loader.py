"""Preprocessing, random changes, and batches."""

import itertools
import json

import numpy as np
import pytest

from minifcn import data
from minifcn.data import CAFFE, UNIT, Loader, Preprocessing, Sample

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def numbered(height, width):
    """Return a sample whose red channel equals its label, so that they can be compared."""
    label = (np.arange(height * width) % 250).astype(np.uint8).reshape(height, width)
    return Sample(np.repeat(label[:, :, None], 3, axis=2), label, "numbered")


class Listed:
    """A data set of given samples."""

    name = "listed"
    classes = ("zero", "one")
    palette = np.zeros((2, 3), np.uint8)
    ignore_index = 255

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


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


# --- random changes


CHANGES = [
    lambda sample, rng: data.random_crop(sample, 6, rng),
    lambda sample, rng: data.random_crop(sample, (3, 9), rng),
    data.random_flip,
    lambda sample, rng: data.random_flip(sample, rng, vertical=True),
    data.random_rotate90,
    lambda sample, rng: data.augment(
        sample, rng, crop=5, flip=True, flip_vertical=True, rotate=True
    ),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [(10, 10), (9, 14)])
def test_image_and_label_are_changed_alike_and_all_cases_occur(change, size):
    sample = numbered(*size)
    results = set()
    for seed in range(40):
        image, label, name = change(sample, np.random.default_rng(seed))
        assert name == "numbered"
        np.testing.assert_array_equal(image[:, :, 0], label)
        results.add((label.shape, label.tobytes()))
    assert len(results) >= 2


def test_crop_reaches_every_place():
    sample = numbered(6, 7)
    corners = {
        int(data.random_crop(sample, (4, 4), np.random.default_rng(seed)).label[0, 0])
        for seed in range(200)
    }
    assert corners == {7 * y + x for y in range(3) for x in range(4)}


def test_crop_larger_than_the_image_adds_ignored_pixels():
    sample = numbered(4, 5)
    image, label, _ = data.random_crop(sample, (6, 3), np.random.default_rng(0))
    assert image.shape == (6, 3, 3)
    assert (label[4:] == 255).all()
    assert (label[:4] != 255).all()
    np.testing.assert_array_equal(image[4], image[3])


@pytest.mark.parametrize("size", [0, (4, 0), -1])
def test_crop_of_no_size(size):
    with pytest.raises(data.DataError, match="both must be at least 1"):
        data.random_crop(numbered(4, 4), size, np.random.default_rng(0))


def test_flips_mirror():
    sample = numbered(3, 4)
    flipped = {data.random_flip(sample, np.random.default_rng(s)).label.tobytes() for s in range(9)}
    assert flipped == {sample.label.tobytes(), sample.label[:, ::-1].tobytes()}
    flipped = {
        data.random_flip(sample, np.random.default_rng(s), vertical=True).label.tobytes()
        for s in range(9)
    }
    assert flipped == {sample.label.tobytes(), sample.label[::-1].tobytes()}


def test_rotation_has_four_cases_and_keeps_the_shape():
    square = numbered(4, 4)
    seen = {
        data.random_rotate90(square, np.random.default_rng(s)).label.tobytes() for s in range(40)
    }
    assert seen == {np.rot90(square.label, k).tobytes() for k in range(4)}
    for seed in range(10):
        turned = data.random_rotate90(numbered(3, 5), np.random.default_rng(seed))
        assert turned.label.shape == (3, 5)


def test_jitter_changes_brightness_and_contrast_only():
    values = np.arange(80, 170, dtype=np.uint8).reshape(9, 10)  # far from 0 and 255: no clipping
    sample = Sample(np.repeat(values[:, :, None], 3, axis=2), values, "gray")
    means, spreads = [], []
    for seed in range(30):
        image, label, _ = data.colour_jitter(sample, np.random.default_rng(seed), strength=0.1)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(label, sample.label)
        means.append(image.mean() - sample.image.mean())
        spreads.append(image.std() / sample.image.std())
    assert 10 < max(means) <= 26
    assert -26 <= min(means) < -10
    assert 0.89 < min(spreads) < 0.95
    assert 1.05 < max(spreads) < 1.11


def test_jitter_is_clipped():
    white = Sample(np.full((2, 2, 3), 255, np.uint8), np.zeros((2, 2), np.uint8), "white")
    values = {
        int(data.colour_jitter(white, np.random.default_rng(s), 0.5).image.max()) for s in range(20)
    }
    assert max(values) == 255
    assert min(values) > 120


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_jitter_out_of_range(strength):
    with pytest.raises(data.DataError, match="it must be 0 to 1"):
        data.colour_jitter(numbered(2, 2), np.random.default_rng(0), strength)


def test_augment_without_choices_changes_nothing():
    sample = numbered(4, 4)
    assert data.augment(sample, np.random.default_rng(0)) is sample


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
    message = "numbered is 8 x 8, wide is 8 x 9 .* choose crop= .* or batch_size=1"
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
    ],
)
def test_loader_refuses(arguments, message):
    with pytest.raises(data.DataError, match=message):
        Loader(**{"dataset": Listed([numbered(4, 4)]), **arguments})
