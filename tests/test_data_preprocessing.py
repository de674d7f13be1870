"""Preprocessing of images with other channels than three colours."""

import json

import numpy as np
import pytest

from minifcn import data
from minifcn.data import CAFFE, PRESETS, UNIT, Preprocessing, presets_of

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 6), dtype=np.uint8)
ORDERS = {1: [0], 2: [0, 1], 4: [2, 1, 0, 3], 6: [2, 1, 0, 3, 4, 5]}


def rule_of(channels, order="RGB"):
    """Return a rule in which each channel has numbers of its own."""
    numbers = np.arange(1, channels + 1)
    return Preprocessing(order, 0.5, tuple(numbers * 10.0), tuple(numbers * 2.0))


@pytest.mark.parametrize("channels", [4, 6])
def test_bgr_turns_the_first_three_channels_only(channels):
    image = IMAGE[:, :, :channels]
    rule = rule_of(channels, "BGR")
    expected = (image[:, :, ORDERS[channels]] * 0.5 - rule.mean) / rule.std
    np.testing.assert_allclose(rule(image), expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rgb_leaves_all_channels_in_place(channels, dtype):
    image = IMAGE[:, :, :channels].astype(dtype)
    rule = rule_of(channels)
    x = rule(image)
    assert x.dtype == np.float32
    assert x.transpose(1, 2, 0).flags.c_contiguous
    expected = (image * 0.5 - rule.mean) / rule.std
    np.testing.assert_allclose(x, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(rule(np.stack([image, image]))[1], x)
    np.testing.assert_array_equal(image, IMAGE[:, :, :channels])


@pytest.mark.parametrize(("channels", "order"), [(1, "RGB"), (4, "RGB"), (4, "BGR"), (6, "BGR")])
def test_invert_gives_the_image_back(channels, order):
    image = IMAGE[:, :, :channels].astype(np.float32) + 0.25
    rule = rule_of(channels, order)
    back = rule.invert(rule(image))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, image, atol=1e-4)
    stack = np.stack([image, image[::-1]])
    np.testing.assert_allclose(rule.invert(rule(stack)), stack, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_it_survives_json(channels):
    rule = rule_of(channels)
    assert Preprocessing.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    assert rule.channels == channels


def test_the_order_in_words():
    assert [rule_of(channels).channel_order for channels in (1, 2, 3, 6)] == [
        "1 channel",
        "2 channels",
        "RGB",
        "RGB and 3 more",
    ]
    assert CAFFE.channel_order == "BGR"


@pytest.mark.parametrize(
    ("order", "mean", "std", "message"),
    [
        ("BGR", (1,), (1,), "order is 'BGR' with mean .*: with fewer the order must be 'RGB'"),
        ("BGR", (1, 2), (1, 1), "order is 'BGR' with mean .*: with fewer"),
        ("RGB", (), (), r"std is \(\): it must have a number per channel"),
        ("RGB", (1, 2), (1,), r"mean is \(1.0, 2.0\): it must be one number"),
        ("RGB", (1, 2, 3), (1,) * 4, "mean is .*: it must be 4 numbers"),
        ("RGB", (1,) * 4, (1, 1, 1, float("nan")), "std is .*: it must be 4 numbers"),
        ("RGB", (1,) * 4, (1, 1, 1, 0), "std is .*: each must be above 0"),
    ],
)
def test_numbers_that_do_not_fit(order, mean, std, message):
    with pytest.raises(data.DataError, match=message):
        Preprocessing(order, 1, mean, std)


@pytest.mark.parametrize(
    "image",
    [IMAGE[:, :, :3], IMAGE[:, :, :4].astype(np.float64), IMAGE[:, 0, :4], IMAGE[:, :4]],
)
def test_images_that_do_not_fit(image):
    message = r"it must be uint8 or float32 of shape \(H, W, 4\)"
    with pytest.raises(data.DataError, match=message):
        rule_of(4)(image)


def test_colours_in_floats_are_refused_as_their_range_is_unknown():
    with pytest.raises(data.DataError, match=r"it must be uint8 of shape \(H, W, 3\)"):
        UNIT(IMAGE[:, :, :3] / np.float32(255))


# --- presets of a data set


class Pictures:
    """What `presets_of` looks at."""

    def __init__(self, channels):
        self.streams = {"": channels}
        self.presets = {"unit": rule_of(channels)}


def test_presets_of_a_data_set_of_colours_are_those_of_all():
    assert presets_of(data.shapes("val")) == PRESETS


def test_own_presets_go_first():
    assert presets_of(Pictures(3)) == {**PRESETS, "unit": rule_of(3)}


def test_presets_for_other_channels_are_left_out():
    assert presets_of(Pictures(1)) == {"unit": rule_of(1)}
