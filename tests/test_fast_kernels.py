"""The fast ways to convolve against the direct one: Winograd's, and separable tents."""

from __future__ import annotations

import numpy as np
import pytest

from minifcn import nn
from minifcn.kernels import conv, few_pixels, im2col, separable, threads, winograd, winograd2d
from minifcn.nn.init import bilinear_kernel

PLAIN = ((1, 1), (1, 1), (1, 1), 1)  # stride, padding, dilation, groups
SIZES = [  # N, H, W, C, O, padding
    (1, 8, 8, 4, 5, (1, 1)),
    (2, 7, 9, 3, 2, (1, 1)),
    (3, 5, 4, 2, 3, (1, 1)),
    (1, 1, 1, 2, 2, (1, 1)),
    (2, 13, 11, 3, 4, (0, 0)),
    (1, 6, 5, 2, 2, (3, 2)),
    (1, 3, 3, 2, 2, (0, 0)),
    (1, 2, 2, 2, 2, (7, 6)),
    (5, 40, 37, 16, 16, (1, 1)),
    (1, 60, 130, 8, 8, (1, 1)),
]


def draw(rng, n, height, width, inputs, outputs, padding):
    x = rng.normal(size=(n, height, width, inputs)).astype(np.float32)
    w = rng.normal(size=(outputs, inputs, 3, 3)).astype(np.float32)
    size = (height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
    g = rng.normal(size=(n, *size, outputs)).astype(np.float32)
    return x, w, rng.normal(size=outputs).astype(np.float32), g


def exact(x, w, b, padding):
    double = [array.astype(np.float64) for array in (x, w, b)]
    return im2col.conv2d(*double, (1, 1), padding, (1, 1), 1)


def test_winograd_matrices_give_four_outputs_of_six_inputs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        d, w = rng.normal(size=6), rng.normal(size=3)
        direct = np.array([d[i : i + 3] @ w for i in range(4)])
        A, B, G = (m.astype(np.float64) for m in (winograd.A, winograd.B, winograd.G))
        np.testing.assert_allclose(A @ ((G @ w) * (B @ d)), direct, atol=1e-6)


def test_both_axes_give_sixteen_outputs_of_a_patch_of_six_by_six():
    rng = np.random.default_rng(0)
    A, B, G = winograd.matrices(winograd.POINTS)
    for _ in range(20):
        d, w = rng.normal(size=(6, 6)), rng.normal(size=(3, 3))
        direct = [[(d[i : i + 3, j : j + 3] * w).sum() for j in range(4)] for i in range(4)]
        transformed = G @ w @ G.T
        np.testing.assert_allclose(A @ (transformed * (B @ d @ B.T)) @ A.T, direct, atol=1e-12)
        taps = (winograd2d.GG @ w.reshape(9)).reshape(6, 6)
        np.testing.assert_allclose(taps, transformed, atol=1e-6)


@pytest.mark.parametrize("points", [(0, 1, -1, 2, -2), (3, 1, 4, 1.5, 9)])
def test_any_five_points_give_matrices(points):
    rng = np.random.default_rng(0)
    A, B, G = winograd.matrices(points)
    d, w = rng.normal(size=6), rng.normal(size=3)
    direct = [d[i : i + 3] @ w for i in range(4)]
    np.testing.assert_allclose(A @ ((G @ w) * (B @ d)), direct, atol=1e-10)


@pytest.fixture(params=["block by block", "stage by stage", "both axes", "both axes, in portions"])
def way(request, monkeypatch):
    """One of the schedules of one of the two modules: the module."""
    deep = request.param == "stage by stage"
    monkeypatch.setattr(winograd, "DEEP", 0 if deep else 1 << 60)
    monkeypatch.setattr(winograd, "DEEP_PIXELS", 1 << 60)
    if "portions" in request.param:
        monkeypatch.setattr(winograd2d, "PORTION", 60)
        monkeypatch.setattr(winograd2d, "PATCHES", 3)
    return winograd2d if "both" in request.param else winograd


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_winograd_is_the_direct_convolution(size, way):
    x, w, b, g = draw(np.random.default_rng(1), *size)
    padding = size[-1]
    truth = exact(x, w, b, padding)
    y = way.conv2d(x, w, b, padding)
    assert abs(y - truth).max() < 2e-5 * abs(truth).max()
    dw = way.conv2d_weight(x, g, padding)
    wide = x.astype(np.float64), g.astype(np.float64)
    truth = im2col.conv2d_weight(*wide, (3, 3), (1, 1), padding, (1, 1), 1)
    assert abs(dw - truth).max() < 2e-5 * abs(truth).max()


@pytest.mark.parametrize("channels", [128, 512])
def test_the_error_of_both_axes(channels):
    """Measured: at most 4.9e-6 of the largest output and 3.2e-6 of the gradient's largest."""
    test_winograd_is_the_direct_convolution((1, 18, 21, channels, channels, (1, 1)), winograd2d)


@pytest.mark.parametrize("size", [(1, 66, 70, 48, 40), (12, 10, 9, 32, 48)], ids=str)
@pytest.mark.parametrize("portion", [200, 4000])
def test_the_number_of_threads_does_not_change_both_axes(size, portion, monkeypatch):
    monkeypatch.setattr(winograd2d, "PORTION", portion)
    monkeypatch.setattr(threads, "ALONE", 0)
    x, w, b, g = draw(np.random.default_rng(11), *size, (1, 1))
    results = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "num_threads", lambda count=count: count)
        threads._pool.cache_clear()
        y, dw = winograd2d.conv2d(x, w, b, (1, 1)), winograd2d.conv2d_weight(x, g, (1, 1))
        assert y.ctypes.data % 64 == dw.ctypes.data % 64 == 0
        results.append((y, dw))
    threads._pool.cache_clear()
    for y, dw in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(dw, results[0][1])


def test_layers_of_different_width_and_channels_in_turn_do_not_disturb_each_other(way):
    rng = np.random.default_rng(2)
    layers = [(*draw(rng, *size), size[-1]) for size in SIZES]
    first = [way.conv2d(x, w, b, p) for x, w, b, _, p in layers]
    for (x, w, b, _, p), y in reversed(list(zip(layers, first, strict=True))):
        np.testing.assert_array_equal(way.conv2d(x, w, b, p), y)
        assert abs(y - exact(x, w, b, p)).max() < 2e-5 * abs(y).max()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(1, 7, 5, 2, 3, (1, 1)), (2, 4, 3, 3, 2, (0, 0))], ids=str)
def test_winograd_notices_every_number_that_is_not_finite(size, value, relu, way):
    x, w, b, g = draw(np.random.default_rng(4), *size)
    for array in (x, w):
        for place in np.ndindex(array.shape):
            before, array[place] = array[place], value
            assert way.conv2d(x, w, b, size[-1], relu) is None, place
            array[place] = before
    assert way.conv2d(x, w, b, size[-1], relu) is not None
    for array in (x, g):
        before, array[0, 0, 0, 0] = array[0, 0, 0, 0], value
        assert way.conv2d_weight(x, g, size[-1]) is None
        array[0, 0, 0, 0] = before


def test_what_grows_too_large_in_the_transform_is_noticed_before_a_relu_hides_it(way):
    rng = np.random.default_rng(12)
    noticed = 0
    for place in np.ndindex(1, 4, 3, 1):
        w = np.zeros((1, 1, 3, 3), np.float32)
        w[..., 1] = rng.normal(size=3)
        for value in (3e38, -3e38):
            x = np.zeros((1, 4, 3, 1), np.float32)
            x[place] = value
            plain = way.conv2d(x, w, None, (1, 1))
            assert (way.conv2d(x, w, None, (1, 1), relu=True) is None) == (plain is None)
            noticed += plain is None
    assert noticed > 0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_reaches_only_the_outputs_that_see_it(value, way):
    x, w, b, g = draw(np.random.default_rng(3), 1, 24, 24, 4, 4, (1, 1))
    x[0, 10, 12, 1] = value
    assert way.conv2d(x, w, b, (1, 1)) is None
    assert way.conv2d_weight(x, g, (1, 1)) is None
    y = conv.conv2d(x.transpose(0, 3, 1, 2), w, b, *PLAIN)
    seen = np.zeros((24, 24), bool)
    seen[9:12, 11:14] = True
    np.testing.assert_array_equal(np.isfinite(y).all(axis=(0, 1)), ~seen)


def test_the_choice_follows_type_kernel_and_stride():
    x = np.zeros((2, 16, 16, 4), np.float32)
    assert conv.winograd_fits(x, (8, 4, 3, 3), (1, 1), (1, 1), 1)
    assert not conv.is_wide((8, 4, 3, 3))
    assert not conv.winograd_fits(x[:1], (8, 4, 3, 3), (1, 1), (1, 1), 1)  # too few pixels
    assert not conv.winograd_fits(x, (600, 600, 3, 3), (1, 1), (1, 1), 1)  # for so large a weight
    assert not conv.winograd_fits(x.astype(np.float64), (8, 4, 3, 3), (1, 1), (1, 1), 1)
    assert not conv.winograd_fits(x, (8, 4, 5, 5), (1, 1), (1, 1), 1)
    assert not conv.winograd_fits(x, (8, 4, 3, 3), (2, 2), (1, 1), 1)
    assert not conv.winograd_fits(x, (8, 4, 3, 3), (1, 1), (2, 2), 1)
    assert not conv.winograd_fits(x, (8, 2, 3, 3), (1, 1), (1, 1), 2)


@pytest.mark.parametrize(
    ("outputs", "inputs", "module"),
    [(128, 256, winograd2d), (128, 128, winograd2d), (127, 256, winograd), (256, 127, winograd)],
)
def test_many_channels_are_convolved_along_both_axes(outputs, inputs, module):
    x, w, b, g = draw(np.random.default_rng(5), 1, 23, 24, inputs, outputs, (1, 1))
    image, back = x.transpose(0, 3, 1, 2), g.transpose(0, 3, 1, 2)
    y = conv.conv2d(image, w, b, *PLAIN).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(y, module.conv2d(x, w, b, (1, 1)))
    dw = conv.conv2d_weight(image, back, (3, 3), *PLAIN)
    np.testing.assert_array_equal(dw, module.conv2d_weight(x, g, (1, 1)))
    dx = conv.conv_transpose2d(back, w, (1, 1), (1, 1), (23, 24), (1, 1), 1)
    turned = module.conv2d(g, im2col.turned(w, 1), None, (1, 1))
    np.testing.assert_array_equal(dx.transpose(0, 2, 3, 1), turned)


def bilinear(channels, size):
    weight = np.zeros((channels, channels, size, size), np.float32)
    weight[range(channels), range(channels)] = bilinear_kernel(size)
    return weight


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 2), (16, 8), (63, 32), (64, 32)])
@pytest.mark.parametrize("tile", [1, 60, separable.TILE])
def test_separable_upsampling_is_the_transposed_convolution(size, stride, tile, monkeypatch):
    monkeypatch.setattr(separable, "TILE", tile)
    rng = np.random.default_rng(4)
    weight = bilinear(3, size)
    tent = separable.tent_of(weight)
    assert tent is not None
    x = rng.normal(size=(2, 4, 3, 3)).astype(np.float32)
    for padding in ((0, 0), (1, 2)):
        out = tuple(stride * (n - 1) + size - 2 * p for n, p in zip((4, 3), padding, strict=True))
        y = separable.upsample(x, tent, (stride, stride), padding, out)
        direct = im2col.conv_transpose2d(x, weight, (stride, stride), padding, out, (1, 1), 1)
        np.testing.assert_allclose(y, direct, atol=1e-5)
        g = rng.normal(size=y.shape).astype(np.float32)
        back = separable.downsample(g, tent, (stride, stride), padding, (4, 3))
        direct = im2col.conv2d(g, weight, None, (stride, stride), padding, (1, 1), 1)
        np.testing.assert_allclose(back, direct, atol=1e-4)


def test_only_equal_tents_on_the_diagonal_are_separable():
    weight = bilinear(3, 4)
    for place in [(0, 1, 2, 2), (2, 2, 0, 0), (1, 1, 3, 1)]:
        changed = weight.copy()
        changed[place] += 0.01
        assert separable.tent_of(changed) is None
    assert separable.tent_of(np.zeros((3, 3, 4, 4), np.float32)) is None
    assert separable.tent_of(np.ones((3, 3, 4, 4), np.float32)) is None
    assert separable.tent_of(weight[:, :2]) is None


def test_a_tent_may_be_large_and_negative_in_part():
    tent = np.array([-11.1, 22.3, 33.7, -11.1], np.float32)
    weight = np.zeros((2, 2, 4, 4), np.float32)
    weight[range(2), range(2)] = np.outer(tent, tent)
    np.testing.assert_allclose(separable.tent_of(weight), tent, rtol=1e-6)
    weight[1, 1, 0, 1] *= np.float32(1 + 1e-5)
    assert separable.tent_of(weight) is None


def test_upsampling_of_infinity_stays_within_its_kernel():
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 2, 2] = np.inf
    weight = bilinear(1, 4)
    y = conv.conv_transpose2d(x, weight, (2, 2), (0, 0), (12, 12), (1, 1), 1)
    seen = np.zeros((12, 12), bool)
    seen[4:8, 4:8] = True
    np.testing.assert_array_equal(np.isinf(y[0, 0]), seen)
    assert not np.isnan(y).any()
    back = conv.conv2d(y, weight, None, (2, 2), (0, 0), (1, 1), 1)
    assert np.isinf(back[0, 0, 1:4, 1:4]).all()
    assert back[0, 0, 0, 0] == 0


def test_everything_can_be_sent_through_im2col():
    x, w, b, _ = draw(np.random.default_rng(6), 2, 16, 16, 4, 4, (1, 1))
    image = x.transpose(0, 3, 1, 2)
    with conv.use_algorithm("im2col"):
        assert not conv.winograd_fits(x, w.shape, (1, 1), (1, 1), 1)
        assert conv.tent_for(x, bilinear(4, 4), (2, 2), (1, 1), 1) is None
        direct = conv.conv2d(image, w, b, *PLAIN)
        with conv.use_algorithm("auto"):
            assert conv.winograd_fits(x, w.shape, (1, 1), (1, 1), 1)
    chosen = conv.conv2d(image, w, b, *PLAIN)
    assert (chosen != direct).any()  # another order of operations
    np.testing.assert_allclose(chosen, direct, atol=1e-4)
    assert conv.winograd_fits(x, w.shape, (1, 1), (1, 1), 1)


def test_an_unknown_algorithm_is_an_error():
    with pytest.raises(conv.AlgorithmError, match="must be one of auto, im2col"):  # noqa: SIM117
        with conv.use_algorithm("fft"):
            pass
    assert conv.fast()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((7, 7), (1, 1), (3, 2), (1, 1)),
        ((2, 3), (2, 1), (0, 1), (1, 2)),
        ((1, 1), (1, 1), (0, 0), (1, 1)),
    ],
    ids=str,
)
def test_few_pixels_with_a_large_weight(kernel, stride, padding, dilation):
    rng = np.random.default_rng(7)
    x, w, b = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(50, 3, *kernel)), rng.normal(size=50)
    how = (stride, padding, dilation)
    direct = im2col.conv2d(x, w, b, *how, 1)
    size = direct.shape[1:3]
    np.testing.assert_allclose(few_pixels.conv2d(x, w, b, size, *how), direct, atol=1e-12)
    g = rng.normal(size=direct.shape)
    dw = im2col.conv2d_weight(x, g, kernel, *how, 1)
    np.testing.assert_allclose(few_pixels.conv2d_weight(x, g, kernel, *how), dw, atol=1e-12)
    back = few_pixels.conv_transpose2d(g, w, stride, padding, (6, 5), dilation)
    dx = im2col.conv_transpose2d(g, w, stride, padding, (6, 5), dilation, 1)
    np.testing.assert_allclose(back, dx, atol=1e-12)


def test_few_pixels_are_fewer_than_a_large_weight_has_rows_and_not_none():
    assert conv.few_pixels_fit(511, (512, 512, 2, 2), 1)
    assert not conv.few_pixels_fit(512, (512, 512, 2, 2), 1)
    assert not conv.few_pixels_fit(511, (512, 512, 2, 1), 1)
    assert not conv.few_pixels_fit(511, (512, 512, 2, 2), 2)
    assert not conv.few_pixels_fit(0, (512, 512, 2, 2), 1)


def test_a_layer_with_few_pixels_and_a_large_weight():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(1, 128, 6, 6)).astype(np.float32)
    w = (rng.normal(size=(256, 128, 6, 6)) / 60).astype(np.float32)
    g = rng.normal(size=(1, 256, 1, 1)).astype(np.float32)
    how = ((1, 1), (0, 0), (1, 1), 1)

    def three():
        yield conv.conv2d(x, w, None, *how)
        yield conv.conv2d_weight(x, g, (6, 6), *how)
        yield conv.conv_transpose2d(g, w, (1, 1), (0, 0), (6, 6), (1, 1), 1)

    with conv.use_algorithm("im2col"):
        direct = list(three())
    for chosen, other in zip(three(), direct, strict=True):
        np.testing.assert_allclose(chosen, other, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_a_layers_weight_lies_as_patches_meet_it(kernel):
    weight = nn.Conv2d(5, 4, kernel, rng=np.random.default_rng(0)).weight.data
    matrix = im2col.as_matrix(weight)
    assert np.shares_memory(matrix, weight)
    row = weight[2].transpose(1, 2, 0).reshape(-1)  # (I, kh, kw) -> (kh*kw*I,)
    assert np.array_equal(matrix[:, 2], row)
