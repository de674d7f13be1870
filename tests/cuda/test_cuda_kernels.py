"""Each kernel's own text, executed on the CPU, computes what its twin for the CPU does.

A check takes what CuPy calls RawModule: so a text with a mistake planted in it can be checked, too.
"""

import math
import re
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import on_cpu
import pytest

import minifcn.functional as F
from minifcn import Tensor, optim
from minifcn.autograd import grad
from minifcn.functional.reduction import _sum_rows
from minifcn.kernels import cuda, elementwise, im2col, pooling, separable, softmax
from minifcn.kernels.cuda import launch
from minifcn.kernels.tiles import Tile
from minifcn.shapes import conv_size

f32 = np.float32
WIDTHS = [{"WIDE": 1}, {"WIDE": 4}]
# The constants that each file's text leaves open, in all ways in which they are set.
CONSTANTS = {
    "dropout": [{}],
    "elementwise": WIDTHS,
    "im2col": WIDTHS,
    "lrn": [{}],
    "pooling": WIDTHS,
    "reduction": [{}],
    "separable": WIDTHS,
    "sgd": [{}],
    "softmax": [{"LANES": lanes} for lanes in (1, 2, 4, 8, 16, 32)],
}
CHECKS = {}  # "file.kernel" -> function(RawModule) that raises if the kernel is wrong


def check(kernel):
    """Register the check of a kernel."""
    return lambda function: CHECKS.setdefault(kernel, function)


@contextmanager
def on_numpy(module=on_cpu.RawModule):
    """Let the functions beside the kernels work on NumPy arrays, with kernels of `module`."""

    def run(kernel, blocks, *arguments, threads=launch.THREADS, shared=0, **constants):
        grid = (blocks,) if isinstance(blocks, int) else blocks
        if math.prod(grid) == 0:
            return
        file, _, name = kernel.partition(".")
        checked = launch.check(kernel, grid, arguments)
        options = tuple(launch._options(constants))
        function = module(code=launch.text(f"{file}.cu"), options=options).get_function(name)
        function.max_dynamic_shared_size_bytes = max(shared, launch.SHARED_MEMORY)
        function(grid, (threads,), checked, shared_mem=shared)

    with pytest.MonkeyPatch.context() as patch:
        for file in launch.FOLDER.glob("*.py"):
            if file.stem != "__init__":
                patch.setattr(
                    import_module(f"{cuda.__name__}.{file.stem}"), "run", run, raising=False
                )
        yield patch


def near(found, expected, rtol=2e-6):
    """Assert that numbers differ by rounding only, relative to the largest."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * largest)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(f32)


def few_integers(rng, *shape):
    """Numbers of which many are equal; sums of them are exact in any order."""
    return rng.integers(-3, 4, shape).astype(f32)


# ---- patches -------------------------------------------------------------------------------------

# x (N, H, W, C), kernel, stride, padding, dilation
PATCHES = [
    ((2, 7, 6, 3), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((1, 9, 5, 8), (3, 2), (2, 1), (0, 3), (1, 2)),
    ((3, 5, 5, 1), (2, 2), (3, 3), (1, 0), (1, 1)),  # a stride beyond the kernel
    ((1, 2, 3, 4), (3, 3), (1, 1), (4, 4), (1, 1)),  # patches in the padding alone
    ((2, 11, 12, 21), (3, 3), (2, 2), (2, 2), (2, 2)),  # several blocks
]


def tiles_of(geometry):
    """Yield the size of the output, and tiles of it: all, and some rows of the last image."""
    (N, *size, _), kernel, stride, padding, dilation = geometry
    height, width = map(conv_size, size, kernel, stride, padding, dilation)
    yield width, Tile(slice(0, N), slice(0, height))
    yield width, Tile(slice(N - 1, N), slice(height // 2, height))


@check("im2col.im2col")
def _(module):
    rng = np.random.default_rng(0)
    for geometry in PATCHES:
        x, how = normal(rng, *geometry[0]), geometry[2:]
        for width, tile in tiles_of(geometry):
            expected = im2col.patches(x, tile, geometry[1], width, *how).copy()
            with on_numpy(module):
                found = cuda.im2col.patches(x, tile, geometry[1], width, *how)
            np.testing.assert_array_equal(found, expected)


@check("im2col.col2im")
def _(module):
    rng = np.random.default_rng(0)
    for geometry in PATCHES:
        (N, H, W, C), kernel, *how = geometry
        for width, tile in tiles_of(geometry):
            count = (tile.images.stop - tile.images.start) * (tile.rows.stop - tile.rows.start)
            matrix = few_integers(rng, count * width, math.prod(kernel) * C)
            before = few_integers(rng, N, H, W, C)
            found = before.copy()
            with on_numpy(module):
                cuda.im2col.add_patches(matrix, found, tile, kernel, width, *how)
            # The transpose of `patches`: where number i of x is found in the matrix of patches.
            place = np.arange(1, before.size + 1, dtype=np.float64).reshape(before.shape)
            source = im2col.patches(place, tile, kernel, width, *how).astype(int)
            added = np.bincount(source.ravel(), matrix.ravel(), before.size + 1)[1:]
            np.testing.assert_array_equal(found, before + added.reshape(before.shape).astype(f32))


# ---- pooling -------------------------------------------------------------------------------------

# x (N, H, W, C), kernel, stride, padding, dilation, ceil
POOLINGS = [
    ((2, 7, 6, 3), (2, 2), (2, 2), (0, 0), (1, 1), True),
    ((1, 13, 12, 8), (3, 3), (2, 2), (0, 0), (1, 1), True),  # windows overlap, and hang over
    ((2, 6, 7, 1), (3, 2), (1, 2), (1, 1), (1, 1), False),
    ((1, 9, 8, 4), (2, 2), (1, 1), (1, 1), (3, 2), False),
    ((1, 8, 9, 21), (2, 2), (3, 3), (0, 0), (1, 1), False),  # pixels in no window
    ((1, 3, 3, 64), (2, 2), (1, 1), (1, 1), (2, 2), False),
]


def maxima(rng):
    """Yield x with ties and NaNs, its maxima, the settings without ceil, and ceil."""
    for shape, *geometry, ceil in POOLINGS:
        x = few_integers(rng, *shape)
        x[rng.random(shape) < 0.02] = np.nan
        x[rng.random(shape) < 0.02] = -np.inf
        yield x, pooling.max_pool2d(x, *geometry, ceil), geometry, ceil


@check("pooling.max_pool2d")
def _(module):
    for x, y, geometry, ceil in maxima(np.random.default_rng(0)):
        with on_numpy(module):
            found = cuda.pooling.max_pool2d(x, *geometry, ceil)
        np.testing.assert_array_equal(found, y)


@check("pooling.max_scatter")
def _(module):
    rng = np.random.default_rng(0)
    for x, y, geometry, _ceil in maxima(rng):
        g = few_integers(rng, *y.shape)
        with on_numpy(module):
            found = cuda.pooling.max_scatter(g, x, y, *geometry)
        np.testing.assert_array_equal(found, pooling.max_scatter(g, x, y, *geometry))


@check("pooling.max_gather")
def _(module):
    rng = np.random.default_rng(0)
    for x, y, geometry, _ceil in maxima(rng):
        v = normal(rng, *x.shape)
        with on_numpy(module):
            found = cuda.pooling.max_gather(v, x, y, *geometry)
        np.testing.assert_array_equal(found, pooling.max_gather(v, x, y, *geometry))


@check("pooling.sum_pool2d")
def _(module):
    rng = np.random.default_rng(0)
    for shape, kernel, stride, padding, _dilation, ceil in POOLINGS:
        x = few_integers(rng, *shape)
        with on_numpy(module):
            found = cuda.pooling.sum_pool2d(x, kernel, stride, padding, ceil)
        np.testing.assert_array_equal(found, pooling.sum_pool2d(x, kernel, stride, padding, ceil))


@check("pooling.sum_spread")
def _(module):
    rng = np.random.default_rng(0)
    for (N, *size, C), kernel, stride, padding, _dilation, ceil in POOLINGS:
        like = np.zeros((N, *size, C), f32)
        windows = pooling.output_size(like, kernel, stride, padding, (1, 1), ceil)
        g = few_integers(rng, N, *windows, C)
        with on_numpy(module):
            found = cuda.pooling.sum_spread(g, *size, kernel, stride, padding)
        expected = pooling.sum_spread(g, *size, kernel, stride, padding)
        np.testing.assert_array_equal(found, expected)


# ---- softmax -------------------------------------------------------------------------------------


def scores(rng):
    """Yield logits (N, H, W, C), labels of which some are ignored, and what is ignored."""
    for classes, shape, ignored, kind in [
        (1, (1, 2, 3), 255, np.uint8),
        (3, (2, 7, 5), -1, np.int64),
        (21, (1, 5, 9), 255, np.uint8),
        (60, (1, 13, 1), 0, np.int32),
        (130, (1, 1, 7), 255, np.int16),
    ]:
        logits = normal(rng, *shape, classes) * 5
        labels = rng.integers(0, classes, shape)
        labels[rng.random(shape) < 0.3] = ignored
        yield logits, labels.astype(kind), ignored
    logits = np.array([1000, -1000, 1000, np.inf, -np.inf, 0, np.nan, 1, 2], f32).reshape(
        1, 1, 3, 3
    )
    yield logits, np.array([[[0, 1, 2]]]), 255


@check("softmax.cross_entropy")
def _(module):
    for logits, labels, ignored in scores(np.random.default_rng(0)):
        with on_numpy(module):
            found = cuda.softmax.cross_entropy(logits, labels, ignored)
        with np.errstate(all="ignore"):
            near(found, softmax.cross_entropy(logits, labels, ignored))
    # What no CPU kernel meets, as labels are checked before: those that are no class.
    bad = np.array([[[-1, 3, 2, 255]]])
    with on_numpy(module):
        found = cuda.softmax.cross_entropy(np.zeros((1, 1, 4, 3), f32), bad, 255)
    near(found, np.array([[[np.nan, np.nan, math.log(3), 0]]], f32))


@check("softmax.softmax_error")
def _(module):
    rng = np.random.default_rng(0)
    for logits, labels, ignored in scores(rng):
        share = normal(rng, *labels.shape)
        with on_numpy(module):
            found = cuda.softmax.softmax_error(logits, labels, share, ignored)
        with np.errstate(all="ignore"):
            near(found, softmax.softmax_error(logits, labels, share, ignored))


# ---- number by number ----------------------------------------------------------------------------


@check("elementwise.where_positive")
def _(module):
    rng = np.random.default_rng(0)
    shapes = [(3,), (4, 100), (2, 5, 7, 3), (1, 6, 8, 8), ()]
    pairs = [(normal(rng, *shape), few_integers(rng, *shape)) for shape in shapes]
    image = pairs[2]
    pairs.append((image[0].transpose(0, 3, 1, 2), image[1].transpose(0, 3, 1, 2)))  # channels-last
    pairs.append((image[0].transpose(0, 3, 1, 2), image[1].transpose(0, 3, 1, 2).copy()))
    pairs.append((image[0][:, ::2], image[1][:, ::2]))  # with gaps
    pairs.append((pairs[1][0].ravel()[1:9], pairs[1][1].ravel()[1:9]))  # not at 16 bytes
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], f32)
    pairs.append((odd, odd[::-1].copy()))
    for g, y in pairs:
        with on_numpy(module), np.errstate(all="ignore"):
            found = cuda.elementwise.where_positive(g, y)
            expected = elementwise.where_positive(g, y)
        np.testing.assert_array_equal(found, expected)
        assert elementwise.memory_order(found) == elementwise.memory_order(y)


@check("elementwise.add_bias")
def _(module):
    rng = np.random.default_rng(0)
    for shape in [(2, 5, 7, 3), (6, 60, 64), (1, 21), (300, 1)]:
        y, bias = normal(rng, *shape), normal(rng, shape[-1])
        y.ravel()[0] = np.nan
        for relu in (False, True):
            found = y.copy()
            with on_numpy(module):
                cuda.elementwise.add_bias(found, bias, relu)
            np.testing.assert_array_equal(found, np.maximum(y + bias, 0) if relu else y + bias)


@check("dropout.dropout_mask")
def _(module):
    for count, drawn_before, threads in [
        ((7,), 0, 100),
        ((1,), 1, 100),  # the half that is left over
        ((1,), 0, 100),
        ((2, 3, 4, 5), 3, 7),  # each thread draws several pairs
        ((2, 3, 5, 7), 2, 300),
        ((0, 3), 1, 100),
    ]:
        number = np.random.default_rng(count[0]).random(drawn_before + 1, f32)[-1]
        for p in (0.5, 0.3, 1.0, float(number)):  # which keeps that number
            here, there = np.random.default_rng(count[0]), np.random.default_rng(count[0])
            for rng in (here, there):
                rng.random(drawn_before, f32)
            like = np.zeros(count, f32)
            like = like.transpose(0, 2, 3, 1) if like.ndim == 4 else like
            with on_numpy(module) as patch:
                patch.setattr(cuda.dropout, "MOST_THREADS", threads)
                found = cuda.dropout.dropout_mask(there, p, like)
            expected = elementwise.dropout_mask(here, p, like)
            np.testing.assert_array_equal(found, expected)
            assert found.strides == like.strides
            assert there.bit_generator.state == here.bit_generator.state


# ---- sums, normalisation, bilinear upsampling ----------------------------------------------------


@check("reduction.sum_rows")
def _(module):
    rng = np.random.default_rng(0)
    for count, C, least in [(1, 1, 256), (100, 3, 256), (700, 21, 256), (65, 64, 16), (40, 70, 1)]:
        rows = few_integers(rng, count, C)
        with on_numpy(module) as patch:
            patch.setattr(cuda.reduction, "LEAST_ROWS", least)
            found = cuda.reduction.sum_rows(rows)
        np.testing.assert_array_equal(found, rows.sum(0))
        near(found, _sum_rows(rows))


NORMALISATIONS = [  # x (N, C, ...), size
    ((2, 7, 4, 5), 5),
    ((1, 3, 6, 2), 4),  # an even number: not the same before and after
    ((1, 2, 3, 3), 7),  # a window beyond all channels
    ((3, 21), 3),
]


def normalised(rng):
    for shape, size in NORMALISATIONS:
        x = normal(rng, *shape)
        if x.ndim == 4:  # as images are stored
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        yield x, (size, 1.5, 0.75, 1.2)


@check("lrn.normalise")
def _(module):
    for x, how in normalised(np.random.default_rng(0)):
        with on_numpy(module):
            found = cuda.lrn.normalise(x, *how)
        near(found, F.local_response_norm(x, *how))


def check_lrn_gradient(module):
    rng = np.random.default_rng(0)
    for x, how in normalised(rng):
        g = normal(rng, *x.shape)
        with on_numpy(module):
            found = cuda.lrn.gradient(g, x, *how)
        leaf = Tensor(x, requires_grad=True)
        (expected,) = grad(F.local_response_norm(leaf, *how), [leaf], seed=Tensor(g))
        near(found, expected.data)


CHECKS["lrn.own_share"] = CHECKS["lrn.share_of_others"] = check_lrn_gradient

ENLARGEMENTS = [  # x (N, H, W, C), tent's length, stride, padding, size
    ((2, 3, 4, 3), 4, (2, 2), (1, 1), (6, 8)),
    ((1, 4, 3, 8), 16, (8, 8), (0, 0), (40, 32)),
    ((1, 5, 2, 21), 4, (2, 2), (0, 3), (9, 3)),  # cropped, and rows that no tent reaches
    ((1, 3, 3, 1), 3, (4, 4), (1, 0), (11, 13)),  # gaps between the tents
]


def tent(length):
    return 1 - np.abs(np.arange(length, dtype=f32) - (length - 1) / 2) / (length / 2)


@check("separable.upsample")
def _(module):
    rng = np.random.default_rng(0)
    for shape, length, *how in ENLARGEMENTS:
        x = normal(rng, *shape)
        with on_numpy(module):
            found = cuda.separable.upsample(x, tent(length), *how)
        near(found, separable.upsample(x, tent(length), *how))


@check("separable.downsample")
def _(module):
    rng = np.random.default_rng(0)
    for (N, *low, C), length, stride, padding, size in ENLARGEMENTS:
        y = normal(rng, N, *size, C)
        with on_numpy(module):
            found = cuda.separable.downsample(y, tent(length), stride, padding, low)
        near(found, separable.downsample(y, tent(length), stride, padding, tuple(low)))


# ---- gradient descent ----------------------------------------------------------------------------


def check_descent(module, momentum, forms):
    """Two steps of each form give the CPU's weights and momenta, to the bit."""
    rng = np.random.default_rng(0)
    shape = (3, 2, 5, 4)
    flat, images = normal(rng, *shape), normal(rng, *shape).transpose(0, 3, 1, 2)
    for (nesterov, caffe), decay in [(form, decay) for form in forms for decay in (0.0, 0.1)]:
        for start, same_order in [
            (flat, True),
            (images, True),
            (images, False),
            (f32(2) * 1, True),
        ]:
            start = np.asarray(start)
            w = Tensor(start.copy(order="K"), requires_grad=True)
            sgd = optim.SGD([w], 0.3, momentum, decay, nesterov, caffe)
            found = start.copy(order="K")
            h = np.zeros_like(found) if momentum else None
            for _ in range(2):
                g = np.empty_like(start, order="K" if same_order else "C")
                g[...] = normal(rng, *g.shape)
                w.grad = Tensor(g)
                sgd.step()
                with on_numpy(module):
                    cuda.sgd.update(found, g, h, 0.3, momentum, decay, nesterov, caffe)
                np.testing.assert_array_equal(found, w.data)
                if h is not None:
                    np.testing.assert_array_equal(h, sgd.momenta[w])


@check("sgd.descend")
def _(module):
    check_descent(module, 0.0, [(False, False), (False, True)])


@check("sgd.descend_with_momentum")
def _(module):
    check_descent(module, 0.9, [(False, False), (False, True), (True, False), (True, True)])


# ---- the tests -----------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(not on_cpu.available(), reason="no g++ on a Linux system")


@needs_compiler
@pytest.mark.parametrize("order", on_cpu.ORDERS)
@pytest.mark.parametrize("kernel", CHECKS)
def test_equals_its_twin(kernel, order):
    with on_cpu.order(order):
        CHECKS[kernel](on_cpu.RawModule)


def test_every_kernel_has_a_check():
    for file in CONSTANTS:
        named = {name for name in CHECKS if name.startswith(f"{file}.")}
        text = launch.text(f"{file}.cu")
        assert text.count("__global__") == len(named)
        assert all(launch.parameters(name) for name in named)


def test_every_file_names_its_twin_first():
    for file in launch.kernel_files():
        first = " ".join(launch.text(file).splitlines()[:3])
        assert re.search(r"[Tt]wins?\b.* .*\.py", first), file
