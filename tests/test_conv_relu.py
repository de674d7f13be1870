"""A convolution that does its ReLU's work is the same, to the bit, as the two in turn."""

from __future__ import annotations

import numpy as np
import pytest

import minifcn.functional as F
from minifcn.autograd import Tensor, debug, grad
from minifcn.kernels import conv, few_pixels, im2col, separable, winograd, winograd2d
from minifcn.nn.init import bilinear_kernel
from minifcn.shapes import ShapeError

SINGLE, DOUBLE = np.float32, np.float64
# The kernel that is to do it, type, x (N, C, H, W), weight (O, C / groups, kh, kw), settings.
LAYERS = {
    "winograd": (winograd, SINGLE, (2, 5, 25, 22), (7, 5, 3, 3), {"padding": 1}),
    "stage by stage": (winograd, SINGLE, (1, 5, 25, 22), (7, 5, 3, 3), {"padding": (2, 0)}),
    "both axes": (winograd2d, SINGLE, (1, 128, 23, 24), (130, 128, 3, 3), {"padding": 1}),
    "im2col, single": (im2col, SINGLE, (2, 3, 19, 21), (6, 3, 5, 5), {"stride": 2, "padding": 1}),
    "im2col, double": (im2col, DOUBLE, (2, 3, 25, 22), (7, 3, 3, 3), {"padding": 1}),
    "groups": (im2col, SINGLE, (2, 4, 9, 8), (6, 2, 3, 3), {"groups": 2, "dilation": 2}),
    "few pixels": (few_pixels, SINGLE, (1, 128, 7, 7), (256, 128, 6, 6), {}),
    "tent": (separable, SINGLE, (1, 3, 9, 10), (3, 3, 4, 4), {"stride": 2}),
}
every_layer = pytest.mark.parametrize("layer", LAYERS)


def draw(layer):
    """Return x, weight and bias (None for a tent, which has none) and the settings."""
    rng = np.random.default_rng(0)
    _, dtype, *shapes, settings = LAYERS[layer]
    x, weight = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    if layer == "tent":
        weight[...] = np.eye(3)[:, :, None, None] * bilinear_kernel(4)
        return x, weight, None, settings
    return x, weight, rng.normal(size=len(weight)).astype(dtype), settings


@pytest.fixture(autouse=True)
def schedule(request, monkeypatch):
    """Let one of Winograd's layers go through its stages with all threads in each."""
    if "stage by stage" in request.node.name:
        monkeypatch.setattr(winograd, "DEEP", 0)


def in_two(x, weight, bias, **settings):
    return F.relu(F.conv2d(x, weight, bias, **settings))


def both(function, layer):
    """Return the output, its gradients, and the gradients of a sum of these."""
    x, weight, bias, settings = draw(layer)
    leaves = [Tensor(a, requires_grad=True) for a in (x, weight, bias) if a is not None]
    with debug():
        y = function(*leaves, *[None] * (3 - len(leaves)), **settings)
        seed = np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)
        first = grad(y, leaves, Tensor(seed, requires_grad=True), create_graph=True)
        total = sum((g * g).sum() for g in first)
        second = grad(total, leaves[:2])
    return [tensor.numpy() for tensor in (y, *first, *second)]


@every_layer
def test_output_and_gradients_are_those_of_the_two_in_turn(layer):
    for mine, theirs in zip(both(F.conv2d_relu, layer), both(in_two, layer), strict=True):
        assert mine.dtype == theirs.dtype == LAYERS[layer][1]
        assert mine.strides == theirs.strides
        np.testing.assert_array_equal(mine, theirs)


@every_layer
def test_the_kernel_that_is_meant_leaves_nothing_below_zero(layer, monkeypatch):
    module = LAYERS[layer][0]
    name = "downsample" if module is separable else "conv2d"
    kernel, made = getattr(module, name), []
    monkeypatch.setattr(module, name, lambda *given: made.append(kernel(*given)) or made[-1])
    x, weight, bias, settings = draw(layer)
    y = F.conv2d_relu(x, weight, bias, **settings)
    assert np.shares_memory(y, made[0])
    assert y.min() == 0 < y.max()
    assert F.conv2d(x, weight, bias, **settings).min() < 0


@every_layer
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_what_it_is(layer, value):
    x, weight, bias, settings = draw(layer)
    x[0, 1, 3, 4] = value
    y = F.conv2d_relu(x, weight, bias, **settings)
    np.testing.assert_array_equal(y, in_two(x, weight, bias, **settings))
    if np.isnan(value):
        assert np.isnan(y).any()


def test_two_operations_share_one_array():
    x, weight, bias, settings = draw("winograd")
    y = F.conv2d_relu(Tensor(x), Tensor(weight, requires_grad=True), Tensor(bias), **settings)
    assert y.node.op.name == "relu"
    assert y.node.edges["x"].op.name == "conv2d"
    assert y.node.saved == {"output": y.data}


def test_everything_through_im2col_too():
    with conv.use_algorithm("im2col"):
        test_output_and_gradients_are_those_of_the_two_in_turn("winograd")


def test_what_does_not_fit_is_the_convolutions_error():
    with pytest.raises(ShapeError, match="conv2d"):
        F.conv2d_relu(np.zeros((1, 2, 4, 4)), np.zeros((3, 5, 3, 3)))


# Max-pooling with the ReLU behind it


@pytest.mark.parametrize("how", [(2,), (3, 2, 1, 1, True), (2, 3)])
@pytest.mark.parametrize("odd", [None, np.nan, -np.inf])
def test_pooling_does_the_work_of_the_relu_behind_it(xp, how, odd):
    numbers = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(SINGLE)
    numbers = numbers.transpose(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    numbers[0, 0] -= 3  # windows of which nothing is left
    if odd is not None:
        numbers[1, 1, 2:4, 2:4] = odd
    found = []
    for pool in (F.max_pool2d_relu, lambda *given: F.relu(F.max_pool2d(*given))):
        x = Tensor(xp.asarray(numbers), requires_grad=True)
        y = pool(x, *how)
        (first,) = grad((y * y * y).sum(), [x], create_graph=True)
        (second,) = grad((first * first).sum(), [x])
        found.append([tensor.numpy() for tensor in (y, first, second)])
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert y.node.op.name == "relu"


def test_pooling_and_relu_share_one_array():
    y = F.max_pool2d_relu(Tensor(np.ones((1, 1, 4, 4)), requires_grad=True), 2)
    assert y.node.saved["output"] is y.node.edges["x"].saved["output"]
