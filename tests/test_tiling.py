"""Tiles of an image give the scores of the whole image, and cover it as they should."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import data, flow, models, nn, tiling
from minifcn.autograd import Tensor
from minifcn.kernels import conv
from minifcn.nn import evaluation_mode
from minifcn.predict import predict
from minifcn.tiling import Margins, Span, TilingError, cut, margins, spans, tiles

NAMES = ("fcn32s", "fcn16s", "fcn8s")
NARROW = {"stages": ((2, 2), (3, 3), (3, 3, 3), (4, 4, 4), (4, 4, 4)), "hidden": 5}
SMALL = {"widths": (3, 4, 5, 6, 6)}
TRUNKS = {
    "small": ("small", SMALL),
    "vgg": ("vgg16", NARROW),
    "caffenet": ("caffenet", {"width": 1e-6}),  # 8 channels at least, grouped; conv1 has stride 4
    "googlenet": ("googlenet", {"width": 1e-6}),
    "demo": ("small", {}),
}
both_trunks = pytest.mark.parametrize("trunk", ["small", "vgg"])


def make(trunk, name, **options):
    """A net whose weights, the scores' too, are random, so that all layers matter."""
    rng = np.random.default_rng(0)
    backbone, sizes = TRUNKS[trunk]
    classes = 9 if trunk == "demo" else 3
    net = models.build(name, num_classes=classes, backbone=backbone, rng=rng, **sizes, **options)
    for parameter in net.parameters():
        if parameter.requires_grad:
            scale = np.sqrt(2 / parameter.data[0].size) if len(parameter.shape) > 1 else 0.1
            parameter.data[...] = rng.normal(scale=scale, size=parameter.shape)
    return net


def random_input(height, width):
    rng = np.random.default_rng(1)
    return rng.normal(size=(1, height, width, 3)).astype(np.float32).transpose(0, 3, 1, 2)


def scores(net, x):
    with evaluation_mode(net):
        return net(Tensor(x)).data


def from_tiles(net, x, parts):
    """Return the scores of x (1, 3, H, W), put together from tiles."""
    found = np.full((1, net.num_classes, *x.shape[2:]), np.nan, np.float32)
    for rows, columns in parts:
        part = scores(net, x[:, :, rows.seen, columns.seen])
        found[:, :, rows.kept, columns.kept] = part[:, :, rows.inner, columns.inner]
    return found


def one_by_one(a, b, out=None):
    """Multiply matrices so that each row's result depends on that row only, to the last bit.

    A BLAS gives no such promise: see `minifcn.tiling`.
    """
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    result = np.zeros((*lead, a.shape[-2], b.shape[-1]), np.result_type(a, b))
    for k in range(a.shape[-1]):
        result += a[..., :, k, None] * b[..., None, k, :]
    if out is None:
        return result
    out[...] = result
    return out


@pytest.fixture
def ordered(monkeypatch):
    """Let all matrix products add up in one order, and few pixels be computed as many are."""
    monkeypatch.setattr(np, "matmul", one_by_one)
    monkeypatch.setattr(conv, "FEWEST", 0)


# The scores


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("trunk", "size", "most"),
    [
        ("small", (811, 75), (640, 80)),
        ("small", (70, 709), (80, 384)),
        ("small", (701, 411), (640, 352)),
        ("vgg", (719, 45), (700, 50)),
        ("vgg", (51, 1003), (60, 608)),
    ],
    ids=str,
)
def test_tiles_have_the_scores_of_the_whole(ordered, trunk, size, most, name):
    net, x = make(trunk, name), random_input(*size)
    parts = tiles(net, *size, lambda height, width: height <= most[0] and width <= most[1])
    assert len(parts) > 1
    np.testing.assert_array_equal(from_tiles(net, x, parts), scores(net, x))


@pytest.mark.parametrize(
    ("trunk", "size", "most"),
    [
        ("small", (811, 75), (640, 80)),
        ("small", (75, 811), (80, 640)),
        ("vgg", (51, 1103), (60, 704)),
    ],
    ids=str,
)
def test_tiles_of_layers_of_many_channels(ordered, monkeypatch, trunk, size, most):
    monkeypatch.setattr(conv, "WIDE", 0)  # Winograd's way along both axes everywhere
    test_tiles_have_the_scores_of_the_whole(ordered, trunk, size, most, "fcn8s")


def test_a_net_that_scales_its_taps(ordered):
    net, x = make("small", "fcn8s", at_once=True), random_input(40, 401)
    parts = tiles(net, 40, 401, lambda _, width: width < 400)
    assert len(parts) == 2
    np.testing.assert_array_equal(from_tiles(net, x, parts), scores(net, x))


@pytest.mark.parametrize(
    ("trunk", "name", "size", "most"),
    [
        ("caffenet", "fcn32s", (611, 43), (550, 50)),
        ("caffenet", "fcn32s", (50, 603), (60, 520)),
        ("caffenet", "fcn8s", (45, 591), (60, 520)),
        ("googlenet", "fcn32s", (1133, 35), (1100, 40)),
        ("googlenet", "fcn32s", (30, 1001), (40, 900)),
    ],
    ids=str,
)
def test_tiles_of_branches_groups_and_odd_strides(ordered, trunk, name, size, most):
    test_tiles_have_the_scores_of_the_whole(ordered, trunk, size, most, name)


@pytest.mark.parametrize("heads", [{"sem": 3, "geo": 2}])
def test_tiles_of_a_net_with_two_heads(heads):
    one, two = make("small", "fcn8s"), models.fcn8s(heads, "small", **SMALL)
    assert flow.outputs(two) == ["upscore8_sem", "upscore8_geo"]
    assert [margins(two, axis) for axis in (0, 1)] == [margins(one, axis) for axis in (0, 1)]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("trunk", ["small", "vgg", "caffenet", "googlenet"])
def test_the_margins_are_not_too_wide(ordered, trunk, axis):
    """In the middle of an image that goes on, all that lies between is right, and little more."""
    net = make(trunk, "fcn32s")
    m = margins(net, axis)
    length = m.smallest
    size = [36, 36]
    size[axis] = length + 2 * m.step
    x = random_input(*size)
    inside = [slice(None)] * 4
    inside[2 + axis] = slice(m.step, m.step + length)
    wrong = scores(net, x[tuple(inside)]) != scores(net, x)[tuple(inside)]
    wrong = wrong.any(axis=(0, 1, 3 - axis))  # (1, K, H, W) -> (H,) or (W,)
    right = np.flatnonzero(~wrong)
    assert not wrong[m.before : length - m.after].any()
    assert right[0] >= m.before - 32  # whole pixels of the coarsest scores are wrong
    assert length - 1 - right[-1] >= m.after - 32


BLAS = """
import numpy as np
from minifcn.kernels import gemm
from minifcn.tiling import tiles
from tests.test_tiling import from_tiles, make, random_input, scores
for trunk, name, height, width, most in (
    ("small", "fcn8s", 701, 411, 640), ("vgg", "fcn16s", 131, 1003, 608),
    ("demo", "fcn8s", 838, 1036, 838),
):
    net, x = make(trunk, name), random_input(height, width)
    whole = scores(net, x)
    parts = tiles(net, height, width, lambda h, w: max(h, w) <= most)
    assert len(parts) > 1
    tiled = from_tiles(net, x, parts)
    error = abs(tiled - whole).max() / abs(whole).max()
    print(error, (tiled.argmax(1) != whole.argmax(1)).mean())
print(gemm.unpacked())
"""


@pytest.mark.parametrize("core", [None, "Haswell"])
def test_with_a_real_blas_only_the_last_bits_differ_if_any(core):
    environment = {n: value for n, value in os.environ.items() if n != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_CORETYPE": core} if core else {}
    answer = subprocess.run(
        [sys.executable, "-c", BLAS],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, in_one_order = answer.stdout.splitlines()
    errors, other_labels = zip(*(map(float, line.split()) for line in lines), strict=True)
    assert len(errors) == 3
    assert max(errors) < 5e-6
    assert max(other_labels) < 1e-4
    if in_one_order == "True":  # OpenBLAS with its kernels for AVX-512, for products of enough rows
        assert errors[-1] == 0


# How an axis is cut


@given(
    st.integers(1, 3000),
    st.sampled_from([1, 32, 64, 128]),
    st.integers(1, 10),
    st.integers(0, 200),
    st.integers(0, 200),
)
def test_spans_cover_an_axis(length, step, steps, before, after):
    m, pitch = Margins(step, before, after), steps * step
    found = spans(length, pitch, m)
    assert [s.first for s in found] == [0, *(s.end for s in found[:-1])]
    assert found[-1].end == length
    for span in found:
        assert 0 <= span.start <= span.first < span.end <= span.stop <= length
        assert span.start % step == 0
        assert span.size <= pitch + m.overlap
        assert span.start == 0 or span.first - span.start >= before
        assert span.stop == length or span.stop - span.end >= after
        assert span.stop == length or span.size % step == 0


def test_an_axis_that_fits_is_not_cut():
    m = Margins(step=32, before=40, after=41)
    assert spans(128, 32, m) == [Span(0, 128, 0, 128)]
    assert len(spans(129, 32, m)) == 2


def test_bands_of_rows_keep_a_grid_of_their_own(monkeypatch):
    small, vgg = make("small", "fcn8s"), make("vgg", "fcn8s")
    assert [margins(small, axis).step for axis in (0, 1)] == [128, 32]  # fc6 is 3x3, at stride 32
    assert [margins(vgg, axis).step for axis in (0, 1)] == [64, 32]  # conv5_3, at stride 16
    monkeypatch.setattr(conv, "WIDE", 4)  # the channels of conv5_3: now its columns come by four
    assert [margins(vgg, axis).step for axis in (0, 1)] == [64, 64]


def test_the_margins_hold_what_the_receptive_field_sees():
    """From left to right a pixel sees half the receptive field, and the steps of upsampling."""
    net = models.fcn8s(21, "vgg16", **NARROW)
    layers = [getattr(net, name) for name in net.trunk_names]
    reach = models.receptive_field_of(layers) / 2 + 32 + 16 + 8
    m = margins(net, axis=1)
    # What a tile's edge spoils begins at its padding, and whole scores are spoilt, of 32 pixels.
    assert reach - 48 < m.before <= m.after < reach


# Which tiles


def test_of_the_tiles_that_fit_those_with_the_fewest_pixels_are_taken():
    net = make("small", "fcn8s")
    parts = tiles(net, 1500, 1500, lambda height, width: height * width <= 1500 * 700)
    assert {tile.rows.size for tile in parts} == {1500}  # rows overlap by more than columns
    assert sum(tile.columns.size for tile in parts) < 1500 + len(parts) * margins(net, 1).overlap


def test_tiles_are_large_enough_for_the_algorithms_of_the_whole():
    net = make("demo", "fcn8s")
    parts = tiles(net, 1400, 1400, lambda height, width: height * width <= 550_000)
    expected = tiling._algorithms(net, 1400, 1400)
    assert "winograd" in expected
    for rows, columns in parts:
        assert tiling._algorithms(net, rows.size, columns.size) == expected


def test_an_image_that_fits_is_one_tile():
    net = make("small", "fcn8s")
    assert tiles(net, 99, 3000, lambda height, width: True) == [
        (Span(0, 99, 0, 99), Span(0, 3000, 0, 3000))
    ]


def test_if_nothing_fits_the_smallest_tiles_are_taken():
    net = make("small", "fcn8s")
    largest = tiles(net, 3000, 3000, lambda height, width: False)[0]
    assert largest.rows.size == margins(net, 0).smallest
    assert largest.columns.size == margins(net, 1).smallest


def test_auto_looks_at_the_memory(monkeypatch):
    net = make("small", "fcn8s")
    need = tiling.inference(net, 1000, 1000).extra
    for free, whole in ((2 * need, True), (2 * need - 2, False), (None, True)):
        monkeypatch.setattr(tiling, "available", lambda like, free=free: free)
        parts = cut(net, 1000, 1000)
        assert (len(parts) == 1) == whole
        assert cut(net, 1000, 1000, tile=None)[0].rows.kept == slice(0, 1000)
    assert tiling.inference(net, parts[0].rows.size, parts[0].columns.size).extra <= need


def test_tiles_of_a_given_size():
    parts = cut(make("small", "fcn8s"), 1000, 2000, tile=700)
    assert len(parts) > 1
    assert all(max(tile.rows.size, tile.columns.size) <= 700 for tile in parts)


def test_a_tile_that_is_too_small():
    with pytest.raises(TilingError, match=r"tile=300 .* overlap by 384 rows .* at least 512 x 288"):
        cut(make("small", "fcn8s"), 1000, 2000, tile=300)


def test_a_low_image_may_have_low_tiles():
    assert len(cut(make("small", "fcn8s"), 200, 2000, tile=300)) > 1


@pytest.mark.parametrize("tile", [0, -5, 1.5, "whole", True])
def test_no_size_of_a_tile(tile):
    with pytest.raises(TilingError, match="must be 'auto', None or a number of pixels"):
        cut(make("small", "fcn8s"), 1000, 2000, tile=tile)


def test_other_nets_see_the_whole_image():
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    assert len(cut(net, 9, 9)) == len(cut(net, 9, 9, tile=None)) == 1
    with pytest.raises(TilingError, match="only an FCN"):
        cut(net, 9, 9, tile=5)


def test_a_layer_that_nobody_knows():
    class Far(nn.Module):
        def forward(self, x):
            return x

    net = make("small", "fcn32s")
    net.relu2_1 = Far()
    with pytest.raises(TilingError, match="how far this layer looks"):
        cut(net, 1000, 1000, tile=600)


# Predictions


def test_a_prediction_from_tiles():
    net = make("small", "fcn8s")
    image = np.random.default_rng(0).integers(0, 256, (560, 410, 3), dtype=np.uint8)
    calls = []
    label = predict(net, image, data.UNIT, tile=540, progress=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]
    whole = predict(net, image, data.UNIT, tile=None)
    assert len(np.unique(whole)) > 1
    assert (label != whole).mean() < 1e-4
