"""Each kernel's own text, executed on the CPU, computes what its twin for the CPU does.

A check takes what CuPy calls RawModule: so a text with a mistake planted in it can be checked, too.
"""

import math
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
from minifcn.kernels.cuda import launch, sgd
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
    "window": WIDTHS,
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

    names = [file.stem for file in launch.FOLDER.glob("*.py") if file.stem != "__init__"]
    # All of them first: one that is imported later would take, and keep, what stands for `run`.
    modules = [import_module(f"{cuda.__name__}.{name}") for name in names]
    with pytest.MonkeyPatch.context() as patch:
        for each in modules:
            patch.setattr(each, "run", run, raising=False)
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
    ((2, 13, 12, 8), (3, 3), (2, 2), (0, 0), (1, 1), True),  # windows overlap, and hang over
    ((2, 6, 7, 1), (3, 2), (1, 2), (1, 0), (1, 1), False),
    ((1, 9, 8, 4), (2, 2), (1, 1), (1, 1), (3, 2), False),
    ((1, 8, 9, 21), (2, 2), (3, 3), (0, 0), (1, 1), False),  # pixels in no window
    ((1, 3, 3, 64), (2, 2), (1, 1), (1, 1), (2, 2), False),
    ((1, 5, 6, 8), (2, 3), (2, 3), (0, 1), (1, 1), True),  # side by side, padded
    ((2, 4, 6, 4), (2, 2), (3, 4), (0, 0), (2, 3), False),  # dilated, and yet apart
]


def maxima(rng):
    """Yield x with ties and NaNs, its maxima, the settings without ceil, and ceil."""
    for shape, *geometry, ceil in POOLINGS:
        x = few_integers(rng, *shape)
        x[rng.random(shape) < 0.1] = np.nan  # two of them in some windows
        x[rng.random(shape) < 0.02] = -np.inf
        x[0, :2, :2] = -np.inf
        yield x, pooling.max_pool2d(x, *geometry, ceil), geometry, ceil


@check("pooling.max_pool2d")
def _(module):
    for x, y, geometry, ceil in maxima(np.random.default_rng(0)):
        for relu in (False, True):
            with on_numpy(module):
                found = cuda.pooling.max_pool2d(x, *geometry, ceil, relu)
            np.testing.assert_array_equal(found, np.maximum(y, 0) if relu else y)


def check_max_scatter(module):
    rng = np.random.default_rng(0)
    for x, y, geometry, _ceil in maxima(rng):
        g = few_integers(rng, *y.shape)
        with on_numpy(module):
            found = cuda.pooling.max_scatter(g, x, y, *geometry)
        np.testing.assert_array_equal(found, pooling.max_scatter(g, x, y, *geometry))


CHECKS["pooling.max_scatter"] = CHECKS["pooling.max_scatter_apart"] = check_max_scatter


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
        wide = normal(rng, shape[0], shape[1] + 3, shape[2] + 2, classes)
        yield wide[:, 1:-2, 2:], labels.astype(kind), ignored  # cut out of larger images
        yield wide[:, 1:-2, 1:-1][:, ::-1], labels.astype(kind), ignored  # which are copied
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
        ((2, 3, 10, 11), 2, 300),  # threads of two blocks
        ((0, 3), 1, 100),
    ]:
        numbers = np.random.default_rng(count[0]).random(drawn_before + 2, f32)[-2:]
        for p in (0.5, 0.3, 1.0, *map(float, numbers)):  # which keep these numbers
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
    ((1, 5, 2, 21), 4, (2, 3), (0, 3), (9, 3)),  # cropped, and rows that no tent reaches
    ((1, 3, 3, 1), 3, (4, 5), (1, 0), (11, 15)),  # gaps between the tents
]


def tent(length):
    return 1 - np.abs(np.arange(length, dtype=f32) - (length - 1) / 2) / (length / 2)


def enlarging(rng, length, C, bilinear=True):
    """Return a weight (C, C, length, length), in memory as layers keep theirs."""
    weight = np.empty((length, length, C, C), f32).transpose(3, 2, 0, 1)
    weight[...] = np.outer(tent(length), tent(length)) * np.eye(C)[:, :, None, None]
    if not bilinear:
        weight[...] = normal(rng, *weight.shape)
    return weight


def flagged(length, yes=1):
    """Return a tent, and whether the weight is made of it: in the other case kernels do nothing."""
    return np.append(tent(length), f32(yes))


def sevens(shape, like=None):
    """Return an array, in the place of `empty`, that shows where nothing has been written."""
    return np.full(shape, 7, f32)


@check("separable.upsample")
def _(module):
    rng = np.random.default_rng(0)
    for shape, length, *how in ENLARGEMENTS:
        x = normal(rng, *shape)
        with on_numpy(module) as patch:
            found = cuda.separable.upsample(x, flagged(length), *how)
            patch.setattr(cuda.separable, "empty", sevens)
            assert (cuda.separable.upsample(x, flagged(length, 0), *how) == 7).all()
        near(found, separable.upsample(x, tent(length), *how))


@check("separable.downsample")
def _(module):
    rng = np.random.default_rng(0)
    for (N, *low, C), length, stride, padding, size in ENLARGEMENTS:
        y = normal(rng, N, *size, C)
        with on_numpy(module) as patch:
            found = cuda.separable.downsample(y, flagged(length), stride, padding, low)
            patch.setattr(cuda.separable, "empty", sevens)
            rest = cuda.separable.downsample(y, flagged(length, 0), stride, padding, low)
        assert (rest == 7).all()
        near(found, separable.downsample(y, tent(length), stride, padding, tuple(low)))


def check_tents(module):
    """A weight of tents is known as such; with one number changed it is not."""
    rng = np.random.default_rng(0)
    for length, C, blocks in ((4, 3, 9), (3, 1, 9), (2, 5, 9), (5, 12, 2)):
        weight, middle = enlarging(rng, length, C), length // 2
        places = [(0, 0, 0, 0), (C - 1, C - 1, 1, -1), (0, C // 2, -1, 1), (0, 0, middle, middle)]
        for thread in (1, min(255, weight.size - 1)):  # what they look at must not be forgotten
            row, column, *channels = np.unravel_index(thread, (length, length, C, C))
            places.append((*channels[::-1], row, column))
        changes = [(place, number, 0) for place in places for number in (1e-3, -1.0, np.nan)]
        # Rounding may change a little, but not what is beside the diagonal.
        changes += [((0, channel, 0, 0), 9e-8, channel == 0) for channel in {0, C - 1}]
        with on_numpy(module) as patch:
            patch.setattr(cuda.separable, "PARTS", blocks)
            tents = np.append(separable.tent_of(weight), f32(1))
            near(cuda.separable.tent_of(weight), tents)
            for place, number, same in changes:
                changed = weight.copy(order="K")
                changed[place] += number
                found = cuda.separable.tent_of(changed)[-1]
                assert found == same, (length, C, place, number)
            for odd in (np.zeros_like(weight), -weight):
                assert cuda.separable.tent_of(odd)[-1] == 0


CHECKS["separable.compare"] = CHECKS["separable.agree"] = check_tents


@check("separable.upsample_by_all")
def _(module):
    rng = np.random.default_rng(0)
    for (N, H, W, C), length, stride, padding, size in ENLARGEMENTS:
        for bilinear in (True, False):
            x, weight = normal(rng, N, H, W, C), enlarging(rng, length, C, bilinear)
            rest = sevens((N, *size, C))
            more = x, rest, weight, flagged(length), stride, padding
            with on_numpy(module) as patch:
                patch.setattr(cuda.separable, "MOST_BLOCKS", 2)  # for each thread several numbers
                found = cuda.separable.conv_transpose2d(x, weight, stride, padding, size)
                cuda.separable._by_all("upsample_by_all", x, rest, *more)
            assert (rest == 7).all()
            expected = im2col.conv_transpose2d(x, weight, stride, padding, size, (1, 1), 1)
            near(found, expected)


@check("separable.downsample_by_all")
def _(module):
    rng = np.random.default_rng(0)
    for (N, H, W, C), length, stride, padding, _ in ENLARGEMENTS:
        whole = [stride[a] * ((H, W)[a] - 1) + length - 2 * padding[a] for a in (0, 1)]
        for bilinear in (True, False):
            y, weight = normal(rng, N, *whole, C), enlarging(rng, length, C, bilinear)
            rest = sevens((N, H, W, C))
            more = rest, y, weight, flagged(length), stride, padding
            with on_numpy(module) as patch:
                patch.setattr(cuda.separable, "MOST_BLOCKS", 2)  # for each thread several numbers
                found = cuda.separable.conv2d(y, weight, stride, padding, (H, W))
                cuda.separable._by_all("downsample_by_all", y, rest, *more)
            assert (rest == 7).all()
            near(found, im2col.conv2d(y, weight, None, stride, padding, (1, 1), 1))


@check("window.put")
def _(module):
    rng = np.random.default_rng(0)
    for C, size, first in ((21, (7, 9), (2, 3)), (8, (3, 4), (0, 0)), (4, (5, 4), (2, 0))):
        x = normal(rng, 2, 3, 4, C)
        with on_numpy(module):
            found = cuda.window.put(x, size, first)
        expected = np.zeros((2, *size, C), f32)
        expected[:, first[0] : first[0] + 3, first[1] : first[1] + 4] = x
        np.testing.assert_array_equal(found, expected)


# ---- gradient descent ----------------------------------------------------------------------------


@contextmanager
def findable(*arrays):
    """Let kernels find arrays through a table of addresses."""
    with pytest.MonkeyPatch.context() as patch:
        for array in arrays:
            start, stop = np.lib.array_utils.byte_bounds(array)
            patch.setitem(on_cpu.reachable, start, stop - start)
        yield


@check("sgd.descend")
def _(module):
    """Two steps of each form give the CPU's weights and momenta, to the bit, of all arrays."""
    rng = np.random.default_rng(0)
    images = normal(rng, 3, 2, 5, 4).transpose(0, 3, 1, 2)
    # One number; several pieces, the last one for some of its threads; another order in memory.
    starts = [np.full((), 2, f32), normal(rng, 2 * sgd.PIECE + 259), images, normal(rng, 7, 3)]
    starts[1][5] = np.inf  # which would be NaN, if it were multiplied with a decay of 0
    for momentum, nesterov, caffe in DESCENTS:
        ws = [Tensor(start.copy(order="K"), requires_grad=True) for start in starts]
        groups = [
            {"params": ws[:2], "lr": 0.3},
            {"params": ws[2:], "lr": 0.2, "weight_decay": 0.1},
        ]
        here = optim.SGD(groups, 0.3, momentum, 0.0, nesterov, caffe)
        settings = [(0.3, momentum, 0.0), (0.2, momentum, 0.1)]
        found = [start.copy(order="K") for start in starts]
        hs = [np.zeros_like(w) if momentum else None for w in found]
        there = sgd.Descents()
        for step in range(2):
            for w in ws:
                g = np.empty_like(w.data, order="C" if step else "K")
                g[...] = normal(rng, *g.shape)
                w.grad = Tensor(g)
            here.step()
            parts = [
                sgd.weights(w, g.grad.data, h, n // 2)
                for n, (w, g, h) in enumerate(zip(found, ws, hs, strict=True))
            ]
            arrays = [array for part in parts for array in part[:3] if array is not None]
            no, yes = np.zeros((), np.int32), np.ones((), np.int32)
            with on_numpy(module), findable(*arrays, no, yes), ordered_too():
                there.step(parts, settings, nesterov, caffe, no)  # changes nothing
                there.step(parts, settings, nesterov, caffe, yes if step else None)
            for w, mine, h in zip(ws, found, hs, strict=True):
                np.testing.assert_array_equal(mine, w.data)
                if momentum:
                    np.testing.assert_array_equal(h, here.momenta[w])


DESCENTS = [  # momentum, nesterov, caffe
    *((0.0, False, False), (0.0, False, True), (0.9, False, False)),
    *((0.9, False, True), (0.9, True, False), (0.9, True, True)),
]


@contextmanager
def ordered_too():
    """Let kernels find the copies that are made of gradients in another order."""
    made = []

    def in_order(array, of):
        copy = np.empty_like(of)
        copy[...] = array
        made.append(copy)
        on_cpu.reachable[copy.ctypes.data] = copy.nbytes
        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sgd, "in_order", in_order)
        yield
    for copy in made:
        del on_cpu.reachable[copy.ctypes.data]


def check_clipping(module):
    rng = np.random.default_rng(0)
    shapes = [(), (2 * sgd.PIECE + 259,), (3, 5, 7)]
    for most in (0.5, 1e3):
        gradients = [normal(rng, *shape) for shape in shapes]
        leaves = [Tensor(np.zeros_like(g), requires_grad=True) for g in gradients]
        for leaf, g in zip(leaves, gradients, strict=True):
            leaf.grad = Tensor(g.copy())
        norm = optim.clip_grad_norm_(leaves, most)
        with on_numpy(module), findable(*gradients):
            found = sgd.clip(gradients, most)
        assert abs(found - norm) <= 1e-6 * norm
        for leaf, g in zip(leaves, gradients, strict=True):
            near(g, leaf.grad.data)
        assert (most < norm) == (abs(gradients[1]).max() < 1)
        for bad in (np.nan, np.inf):
            before = [g.copy() for g in gradients]
            before[1][-1] = gradients[1][-1] = bad
            with on_numpy(module), findable(*gradients):
                assert not np.isfinite(sgd.clip(gradients, most))
            for g, kept in zip(gradients, before, strict=True):
                np.testing.assert_array_equal(g, kept)
            gradients[1][-1] = 0
    legs = [np.full(1, 3, f32), np.full(1, 4, f32)]  # just as long as they may be
    with on_numpy(module), findable(*legs):
        assert sgd.clip(legs, 5.0) == 5
    np.testing.assert_array_equal(legs, [[3], [4]])


for _kernel in ("sum_squares", "norm_and_factor", "scale"):
    check(f"sgd.{_kernel}")(check_clipping)


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
