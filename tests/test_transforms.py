"""Changes of images and labels together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from listed import numbered
from PIL import Image

from minifcn import data
from minifcn.data import Sample

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


# --- other numbers of channels, several kinds of labels


def many(height, width, channels=5, kinds=2, dtype=np.float32):
    """Return a sample whose channels and kinds of labels all equal its numbers."""
    image, label, name = numbered(height, width)
    return Sample(
        np.repeat(image[:, :, :1], channels, axis=2).astype(dtype),
        np.repeat(label[:, :, None], kinds, axis=2),
        name,
    )


@pytest.mark.parametrize("change", CHANGES)
def test_any_channels_and_kinds_of_labels_are_changed_alike(change):
    results = set()
    for seed in range(20):
        image, label, _ = change(many(9, 14), np.random.default_rng(seed))
        assert image.dtype == np.float32
        assert (image.shape[2], label.shape[2]) == (5, 2)
        np.testing.assert_array_equal(image, np.repeat(label[:, :, :1], 5, axis=2))
        np.testing.assert_array_equal(label[:, :, 0], label[:, :, 1])
        results.add((label.shape, label.tobytes()))
    assert len(results) >= 2


def test_a_crop_ignores_added_pixels_of_all_kinds_of_labels():
    _, label, _ = data.random_crop(many(4, 5), (6, 7), np.random.default_rng(0))
    assert (label[4:] == 255).all()
    assert (label[:, 5:] == 255).all()
    assert (label[:4, :5] != 255).all()


def test_jitter_changes_the_first_three_channels_only():
    sample = many(9, 10, channels=6, dtype=np.uint8)
    image, label, _ = data.colour_jitter(sample, np.random.default_rng(0), 0.3)
    np.testing.assert_array_equal(image[:, :, 3:], sample.image[:, :, 3:])
    np.testing.assert_array_equal(label, sample.label)
    colours = sample._replace(image=sample.image[:, :, :3])
    expected = data.colour_jitter(colours, np.random.default_rng(0), 0.3).image
    np.testing.assert_array_equal(image[:, :, :3], expected)
    assert (image[:, :, :3] != sample.image[:, :, :3]).any()


def test_jitter_is_not_for_depth():
    message = (
        r"numbered: colour jitter is for colours, uint8 .*, but this image is float32 of shape"
    )
    with pytest.raises(data.DataError, match=message):
        data.augment(many(4, 4), np.random.default_rng(0), jitter=0.1)


# --- sizes

SIDES = st.integers(1, 12)
LABELS = arrays(np.uint8, st.tuples(SIDES, SIDES) | st.tuples(SIDES, SIDES, st.just(2)))


@given(label=LABELS, height=SIDES, width=SIDES)
@settings(max_examples=100, deadline=None)
def test_labels_are_those_of_the_nearest_pixels(label, height, width):
    found = data.resize_label(label, (height, width))
    assert found.shape == (height, width, *label.shape[2:])
    assert set(found.flat) <= set(label.flat)  # between two classes there is no third
    for kind in range(label.shape[2] if label.ndim == 3 else 1):
        old, new = (x[:, :, kind] if x.ndim == 3 else x for x in (label, found))
        # The middle of new pixel i, in the old picture's pixels; each covers [k, k + 1).
        rows = [int((i + 0.5) * old.shape[0] / height + 1e-9) for i in range(height)]
        columns = [int((j + 0.5) * old.shape[1] / width + 1e-9) for j in range(width)]
        np.testing.assert_array_equal(new, [[old[y, x] for x in columns] for y in rows])


@given(label=LABELS, factor=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_enlarged_labels_come_back_exactly(label, factor):
    height, width = label.shape[:2]
    large = data.resize_label(label, (factor * height, factor * width))
    np.testing.assert_array_equal(data.resize_label(large, (height, width)), label)


def test_an_image_is_resized_as_pillow_does_it_channel_by_channel(rng):
    image = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for size in ((18, 14), (5, 3), (4, 20)):
        expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(data.resize(image, size), expected)
        scores = data.resize(np.repeat(image, 2, axis=2).astype(np.float32), size)
        assert (scores.dtype, scores.shape) == (np.float32, (*size, 6))
        np.testing.assert_allclose(scores[:, :, ::2], expected, atol=1.01)  # it rounds twice


def test_a_size_that_is_so_already():
    image = numbered(4, 5).image
    assert data.resize(image, (4, 5)) is image


@pytest.mark.parametrize("function", [data.resize, data.resize_label])
def test_a_size_of_nothing(function):
    with pytest.raises(data.DataError, match=r"size is 0 x 4 .*: both must be at least 1"):
        function(numbered(4, 4).image, (0, 4))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_image_is_not_resized(image):
    with pytest.raises(data.DataError, match="it must be uint8 or float32 of shape"):
        data.resize(image, (2, 2))


def test_a_mirror_image_of_the_mirror_image():
    image = numbered(3, 4).image
    np.testing.assert_array_equal(data.hflip(image)[:, 0], image[:, 3])
    np.testing.assert_array_equal(data.hflip(data.hflip(image)), image)


# --- scale


def quarters(height, width):
    """Return a sample of four flat parts, whose pixels tell their label."""
    label = np.zeros((height, width), np.uint8)
    label[height // 2 :] += 1
    label[:, width // 2 :] += 2
    return Sample(np.repeat(label[:, :, None] * 60, 3, axis=2), label, "quarters")


@pytest.mark.parametrize("change", ["scale", "crop"])
def test_image_and_label_are_scaled_alike(change):
    options = {"scale": (0.5, 2.0)} | ({"crop": 20} if change == "crop" else {})
    sizes = set()
    for seed in range(30):
        image, label, name = data.augment(quarters(40, 60), np.random.default_rng(seed), **options)
        assert name == "quarters"
        assert image.shape[:2] == label.shape
        sizes.add(label.shape)
        differ = (image != 60 * label[:, :, None]).any(axis=2) & (label != 255)
        # Only pixels beside an edge between two parts are mixed.
        assert differ.sum() <= 2 * sum(label.shape)
    assert sizes == {(20, 20)} if change == "crop" else len(sizes) > 20


def test_the_factor_is_spread_evenly(rng):
    sizes = [data.random_scale(quarters(40, 80), rng, 0.5, 2.0).label.shape for _ in range(300)]
    heights, widths = np.array(sizes).T
    assert 20 <= heights.min() < 22
    assert 78 < heights.max() <= 80
    assert 47 < heights.mean() < 53
    np.testing.assert_allclose(widths / heights, 2, atol=0.06)


def test_a_picture_never_vanishes():
    image, label, _ = data.random_scale(quarters(2, 3), np.random.default_rng(0), 0.01, 0.01)
    assert (image.shape, label.shape) == ((1, 1, 3), (1, 1))


@pytest.mark.parametrize("scale", [(0, 1), (2, 1), (1, float("inf")), (float("nan"), 1)])
def test_scale_out_of_range(scale):
    with pytest.raises(data.DataError, match="must be two factors above 0, the lower one first"):
        data.random_scale(quarters(4, 4), np.random.default_rng(0), *scale)


def test_without_scale_the_random_numbers_are_as_ever():
    """What a seed gave before there was a scale, it gives still."""
    rng = np.random.default_rng([0, 1, 7])
    changed = data.augment(numbered(12, 15), rng, crop=4, flip=True, rotate=True)
    rng = np.random.default_rng([0, 1, 7])
    y, x = int(rng.integers(9)), int(rng.integers(12))
    window = numbered(12, 15).label[y : y + 4, x : x + 4]
    window = window if rng.random() < 0.5 else window[:, ::-1]
    np.testing.assert_array_equal(changed.label, np.rot90(window, int(rng.integers(4))))
