"""Sizes and coordinates, against counting by hand."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Error
from minifcn.shapes import (
    CoordinateMap,
    ShapeError,
    conv_geometry,
    conv_size,
    conv_transpose_size,
    pair,
    pool_size,
    receptive_field,
    shape_error,
)

# ---- sizes ---------------------------------------------------------------------------------------


def windows(n, kernel, stride, padding, dilation):
    """Return the first and last pixel under each window that starts in the padded image."""
    starts = range(-padding, n + padding, stride)
    return [(start, start + dilation * (kernel - 1)) for start in starts]


GEOMETRIES = list(itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2, 3)))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 11, 12, 20])
def test_a_convolution_has_one_output_for_each_window_inside_the_padded_image(n):
    for kernel, stride, padding, dilation in GEOMETRIES:
        inside = [w for w in windows(n, kernel, stride, padding, dilation) if w[1] < n + padding]
        size = conv_size(n, kernel, stride, padding, dilation)
        assert max(size, 0) == len(inside), (kernel, stride, padding, dilation)
        assert max(pool_size(n, kernel, stride, padding, dilation), 0) == len(inside)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 11, 12, 20])
def test_ceil_mode_adds_the_window_that_hangs_over_unless_it_starts_in_the_padding(n):
    for kernel, stride, padding, dilation in GEOMETRIES:
        if dilation * (kernel - 1) + 1 > n + 2 * padding or 2 * padding > kernel:
            continue  # not even one window inside: see the next test
        places = windows(n, kernel, stride, padding, dilation)
        inside = sum(last < n + padding for _, last in places)
        left_over = places[inside - 1][1] < n + padding - 1  # pixels that no window inside reaches
        more = inside < len(places) and left_over and places[inside][0] < n
        size = pool_size(n, kernel, stride, padding, dilation, ceil_mode=True)
        assert size == inside + more, (kernel, stride, padding, dilation)


def test_ceil_mode_pools_even_a_single_pixel():
    """Nets that halve five times need this for images of a few pixels, as in Caffe."""
    assert pool_size(1, kernel=2, stride=2, ceil_mode=True) == 1
    assert F.max_pool2d(np.full((1, 1, 1, 1), -7.0), 2, ceil_mode=True).tolist() == [[[[-7.0]]]]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_transposed_convolution_reaches_as_far_as_the_convolution_looks(n):
    for kernel, stride, padding, dilation in GEOMETRIES:
        last = (n - 1) * stride + dilation * (kernel - 1)  # the last pixel that the copies cover
        for rest in range(max(stride, dilation)):
            size = conv_transpose_size(n, kernel, stride, padding, rest, dilation)
            assert size == last + 1 - 2 * padding + rest
            if size > 0 and rest < stride:  # then the convolution leads back to n
                assert conv_size(size, kernel, stride, padding, dilation) == n


@pytest.mark.parametrize(
    ("function", "formula"),
    [(F.max_pool2d, "pool"), (F.avg_pool2d, "pool"), (F.conv2d, "conv")],
    ids=["max_pool2d", "avg_pool2d", "conv2d"],
)
def test_the_operations_have_the_sizes_of_the_formulas(function, formula):
    for n, stride, padding in itertools.product((3, 6, 7), (1, 2, 3), (0, 1)):
        x = np.ones((1, 1, n, n + 1))
        if formula == "conv":
            shape = function(x, np.ones((1, 1, 3, 3)), stride=stride, padding=padding).shape
            assert shape[2:] == tuple(conv_size(m, 3, stride, padding) for m in (n, n + 1))
            continue
        for ceil in (False, True):
            shape = function(x, 3, stride, padding, ceil_mode=ceil).shape
            sizes = tuple(pool_size(m, 3, stride, padding, 1, ceil) for m in (n, n + 1))
            assert shape[2:] == sizes


# ---- coordinate maps -----------------------------------------------------------------------------


def layer(kernel, stride, padding, dilation):
    return CoordinateMap.conv(kernel, stride, padding, dilation)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (2, 3, 0, 2)])
def test_a_map_points_at_the_middle_of_each_window(kernel, stride, padding, dilation):
    here = layer(kernel, stride, padding, dilation)
    for o, (first, last) in enumerate(windows(9, kernel, stride, padding, dilation)):
        assert here.scale * o + here.shift == Fraction(first + last, 2)


LAYERS = [(3, 1, 100, 1), (2, 2, 0, 1), (5, 3, 2, 2), (1, 1, 0, 1)]


@pytest.mark.parametrize("geometry", LAYERS)
def test_a_transposed_convolution_undoes_the_map(geometry):
    nothing = CoordinateMap()
    forth, back = CoordinateMap.conv(*geometry), CoordinateMap.conv_transpose(*geometry)
    assert forth >> back == nothing == back >> forth
    assert forth.inverse() == back
    assert forth.inverse().inverse() == forth


def test_maps_compose_like_the_layers_they_stand_for():
    a, b, c = (layer(*geometry) for geometry in LAYERS[:3])
    assert (a >> b) >> c == a >> (b >> c)
    assert (a >> b).inverse() == b.inverse() >> a.inverse()
    assert a >> CoordinateMap() == a == CoordinateMap() >> a
    o = 7  # output 7 of b lies at b's coordinate of a's output
    middle = b.scale * o + b.shift
    assert (a >> b).scale * o + (a >> b).shift == a.scale * middle + a.shift


def test_a_pixel_keeps_its_place_through_convolution_pooling_and_upsampling():
    """An impulse, sent through kernels that are one at their middle, ends where the map says."""
    middle = np.zeros((1, 1, 3, 3))
    middle[..., 1, 1] = 1
    x = np.zeros((1, 1, 1, 20))
    x[..., 12] = 1
    y = F.conv2d(x, middle, stride=2, padding=3)
    up = F.conv_transpose2d(y, middle, stride=2)
    there = layer(3, 2, 3, 1) >> CoordinateMap.conv_transpose(3, 2)
    # What is read off row 0 of the image lies in row -shift of the result.
    row, column = (int(i) for i in np.argwhere(up[0, 0] == 1)[0])
    assert (row, column) == (-there.shift, 12 - there.shift)


def test_the_offset_is_where_the_first_pixel_of_the_reference_lies():
    image, padded = CoordinateMap(), layer(3, 1, 100, 1)
    assert padded.crop_offset(image) == padded.offset(image) == 99
    assert image.offset(padded) == -99
    coarse = layer(2, 2, 0, 1)
    assert (coarse >> CoordinateMap.conv_transpose(4, 2)).crop_offset(image) == 1


def test_offsets_add_up():
    a, b, c = layer(3, 1, 5, 1), layer(5, 1, 1, 1), layer(1, 1, 3, 1)
    assert a.offset(b) + b.offset(c) == a.offset(c)


def test_maps_of_different_strides_have_no_offset():
    with pytest.raises(ShapeError, match=r"upscore: one pixel's step here is 2 steps .*strides"):
        layer(2, 2, 0, 1).offset(CoordinateMap(), "upscore")


def test_half_a_pixel_is_no_offset():
    with pytest.raises(ShapeError, match=r"fuse: .* 18\.5 pixels, not a whole number.*parity"):
        CoordinateMap(Fraction(1), Fraction(-37, 2)).offset(CoordinateMap(), "fuse")


def test_a_crop_cannot_start_before_the_first_pixel():
    with pytest.raises(ShapeError, match=r"score: 1 row is missing .* more padding"):
        layer(3, 1, 0, 1).crop_offset(CoordinateMap(), "score")


def test_receptive_field_against_following_every_pixel():
    layers = [(3, 1), (2, 2), (5, 3), (3, 1), (2, 2)]
    first, last = 0, 0  # of the output, then of the layer's input
    for kernel, stride in reversed(layers):
        first, last = first * stride, last * stride + kernel - 1
    assert receptive_field(layers) == last - first + 1
    assert receptive_field([]) == 1


# ---- rules: one test each ------------------------------------------------------------------------


def zeros(*shape):
    return np.zeros(shape)


def test_a_shape_error_names_what_was_given_the_rule_and_a_fix():
    error = shape_error("op", "the rule", "the fix", x=zeros(2, 3), y=(4,))
    assert str(error) == ("op: the rule. Given: x of shape (2, 3), y of shape (4,). Try: the fix")
    assert str(shape_error("op", "the rule")) == "op: the rule"
    assert isinstance(error, Error)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, 2.0, True, "3", None, float("nan"), (1, 2, 3), (1,), (1, 0), ()]
)
def test_a_size_is_one_or_two_whole_numbers(value):
    with pytest.raises(ShapeError, match=r"stride=.* one or two whole numbers of at least 1"):
        pair(value, "stride", least=1)


def test_pairs():
    assert pair(3, "x", least=1) == (3, 3)
    assert pair([0, 2], "x", least=0) == (0, 2)
    assert pair(np.int64(2), "x", least=1) == (2, 2)
    assert conv_geometry(1, (2, 3), 4) == ((1, 1), (2, 3), (4, 4))


X, W = zeros(2, 4, 6, 7), zeros(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.conv2d(X[0], W), r"x must be \(N, C, H, W\).*x\[None\]"),
        (lambda: F.conv2d(X, W[0]), r"weight \(O, C/groups, kh, kw\)"),
        (lambda: F.conv2d(X, W[:, :3]), r"C=4 must be I·groups = 3·1.*\(6, 3, 3, 3\).*channels"),
        (lambda: F.conv2d(X, W[:, :2], groups=0), r"C=4 must be I·groups = 2·0"),
        (lambda: F.conv2d(X, W[:5, :2], groups=2), r"O=5 a multiple of groups"),
        (lambda: F.conv2d(X, W, zeros(5)), r"bias must be \(6,\).*bias of shape \(5,\)"),
        (lambda: F.conv2d(X, zeros(0, 4, 3, 3)), r"weight must hold at least one number"),
        (lambda: F.conv2d(X, zeros(6, 4, 0, 3)), r"weight must hold at least one number"),
        (lambda: F.conv2d(X[:, :0], zeros(6, 0, 3, 3)), r"weight must hold at least one number"),
        (lambda: F.conv2d(X, zeros(6, 4, 3, 8)), r"3 x 8 kernel.* 6 x 7 .*output would be 4 x 0"),
        (lambda: F.conv2d(X, W, dilation=4), r"dilation \(4, 4\).*larger image or more padding"),
        (lambda: F.conv2d(X, W, stride=0), r"stride=0 must be"),
        (lambda: F.conv2d(X, W, padding=-1), r"padding=-1 must be"),
        (lambda: F.conv2d(X, W, dilation=(1, 0)), r"dilation=\(1, 0\) must be"),
    ],
)
def test_rules_of_conv2d(call, message):
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.conv_transpose2d(X[0], W), r"x must be \(N, I, H, W\)"),
        (lambda: F.conv_transpose2d(X, W), r"x has 4 channels, weight takes 6.*first axis"),
        (lambda: F.conv_transpose2d(X, zeros(4, 2, 3, 3), groups=3), r"a multiple of 3"),
        (lambda: F.conv_transpose2d(X, zeros(4, 2, 3, 3), groups=0), r"a multiple of 0"),
        (lambda: F.conv_transpose2d(X, zeros(4, 2, 3, 3), zeros(3)), r"bias must be \(2,\)"),
        (lambda: F.conv_transpose2d(X, zeros(4, 0, 3, 3)), r"weight must hold at least one"),
        (lambda: F.conv_transpose2d(X, zeros(4, 2, 3, 3), padding=4), r"crops .* to 0 x 1.*less"),
        (
            lambda: F.conv_transpose2d(X, zeros(4, 2, 3, 3), stride=2, output_padding=2),
            r"output_padding=\(2, 2\) must be less than stride or dilation",
        ),
    ],
)
def test_rules_of_conv_transpose2d(call, message):
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.conv2d_weight(X[0], X, 3), r"x must be \(N, C, H, W\) and g"),
        (lambda: F.conv2d_weight(X, X[:1], 3), r"same N"),
        (lambda: F.conv2d_weight(X, X, 3, groups=3), r"multiples of groups=3"),
        (lambda: F.conv2d_weight(X, X, 3, groups=0), r"multiples of groups=0"),
        (lambda: F.conv2d_weight(X, X, 3), r"has 4 x 5 outputs at most"),
    ],
)
def test_rules_of_conv2d_weight(call, message):
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.max_pool2d(X[0], 2), r"x must be \(N, C, H, W\).*x\[None\]"),
        (lambda: F.max_pool2d(X, 2, padding=2), r"padding=\(2, 2\) must be at most half"),
        (lambda: F.max_pool2d(X, 7), r"window of 7 x 7 does not fit.*fewer pooling layers"),
        (lambda: F.max_pool2d(X, 2, dilation=6), r"window of 7 x 7 does not fit"),
        (lambda: F.max_pool2d(X[:, :, :1], 4, 2, ceil_mode=True), r"window of 4 x 4 does not fit"),
        (lambda: F.avg_pool2d(X[:, :, :, :0], 1, ceil_mode=True), r"window of 1 x 1 does not fit"),
        (lambda: F.avg_pool2d(X, 0), r"kernel_size=0 must be"),
        (lambda: F.avg_pool2d(X, 2, 0), r"stride=0 must be"),
    ],
)
def test_rules_of_pooling(call, message):
    with pytest.raises(ShapeError, match=message):
        call()


def test_rules_of_local_response_norm():
    with pytest.raises(ShapeError, match="size=0 must be at least 1"):
        F.local_response_norm(X, 0)
    with pytest.raises(ShapeError, match=r"x must be \(N, C, \.\.\.\)"):
        F.local_response_norm(zeros(3), 1)
