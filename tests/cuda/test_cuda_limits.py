"""What the functions beside the kernels refuse, and numbers at the edges of what kernels take."""

import ctypes
import math

import numpy as np
import on_cpu
import pytest
from test_cuda_kernels import enlarging, normal, on_numpy

import minifcn.functional as F
from minifcn.backend import Error, to_device, to_numpy
from minifcn.kernels import cuda, im2col, precision
from minifcn.kernels.cuda import cublas, gemm, launch, sgd
from minifcn.kernels.tiles import Tile

f32 = np.float32
PLAIN = (1, 1), (0, 0), (1, 1)  # stride, padding, dilation
POOL = (2, 2), (2, 2), (0, 0), (1, 1)  # window, stride, padding, dilation
OVERLAPPING = (3, 3), (1, 1), (0, 0), (1, 1)

# ---- shapes --------------------------------------------------------------------------------------


# What is called, with zeros of these shapes, of which one is wrong; and what the error tells.
WRONG = {
    "a gradient of fewer windows": (
        lambda *a: cuda.pooling.max_scatter(*a, *OVERLAPPING),
        [(1, 3, 3, 4), (1, 6, 6, 4), (1, 4, 4, 4)],
        "pooling.max_scatter: g, (1, 3, 3, 4), must have the shape (1, 4, 4, 4)",
    ),
    "the same, windows being apart": (
        lambda *a: cuda.pooling.max_scatter(*a, *POOL),
        [(1, 2, 3, 4), (1, 6, 6, 4), (1, 3, 3, 4)],
        "pooling.max_scatter: g, (1, 2, 3, 4), must have the shape (1, 3, 3, 4)",
    ),
    "maxima of fewer images": (
        lambda *a: cuda.pooling.max_scatter(*a, *OVERLAPPING),
        [(1, 4, 4, 4), (2, 6, 6, 4), (1, 4, 4, 4)],
        "pooling.max_scatter: g, (1, 4, 4, 4), must have the shape (2, 4, 4, 4)",
    ),
    "what is gathered": (
        lambda *a: cuda.pooling.max_gather(*a, *POOL),
        [(1, 6, 5, 4), (1, 6, 6, 4), (1, 3, 3, 4)],
        "pooling.max_gather: v, (1, 6, 5, 4), must have the shape (1, 6, 6, 4)",
    ),
    "maxima of fewer channels": (
        lambda *a: cuda.pooling.max_gather(*a, *POOL),
        [(1, 6, 6, 4), (1, 6, 6, 4), (1, 3, 3, 1)],
        "pooling.max_gather: y, (1, 3, 3, 1), must have the shape (1, 3, 3, 4)",
    ),
    "labels of fewer pixels": (
        lambda x, t: cuda.softmax.cross_entropy(x, t, 255),
        [(1, 4, 5, 3), (1, 4, 4)],
        "softmax.cross_entropy: target, (1, 4, 4), must have the shape (1, 4, 5)",
    ),
    "shares of fewer pixels": (
        lambda x, t, share: cuda.softmax.softmax_error(x, t, share, 255),
        [(1, 4, 5, 3), (1, 4, 5), (1, 4, 4)],
        "softmax.softmax_error: share, (1, 4, 4), must have the shape (1, 4, 5)",
    ),
    "a bias of fewer channels": (
        cuda.elementwise.add_bias,
        [(2, 8), (4,)],
        "elementwise.add_bias: bias, (4,), must have the shape (8,)",
    ),
    "a gradient of one pixel": (
        cuda.elementwise.where_positive,
        [(1,), (2, 8)],
        "elementwise.where_positive: g, (1,), must have the shape (2, 8)",
    ),
    "a gradient of fewer channels": (
        lambda *a: cuda.lrn.gradient(*a, 5, 1.0, 0.75, 1.0),
        [(1, 4, 3, 3), (1, 5, 3, 3)],
        "lrn.own_share: g, (1, 4, 3, 3), must have the shape (1, 5, 3, 3)",
    ),
    "patches of another kernel": (
        lambda m, x: cuda.im2col.add_patches(
            m, x, Tile(slice(0, 1), slice(0, 2)), (3, 3), 2, *PLAIN
        ),
        [(4, 4 * 8), (1, 4, 4, 8)],
        "im2col.col2im: matrix, (4, 32), must have the shape (4, 72)",
    ),
    "a weight of fewer channels": (
        lambda *a: cuda.conv.conv2d(*a, None, *PLAIN, 1),
        [(1, 5, 5, 8), (8, 4, 3, 3)],
        "conv.conv2d: weight, (8, 4, 3, 3), must have the shape (8, 8, 3, 3)",
    ),
    "a convolution's bias": (
        lambda *a: cuda.conv.conv2d(*a, *PLAIN, 1),
        [(1, 5, 5, 8), (8, 8, 3, 3), (4,)],
        "conv.conv2d: bias, (4,), must have the shape (8,)",
    ),
    "a gradient of another number of images": (
        lambda *a: cuda.conv.conv2d_weight(*a, (3, 3), *PLAIN, 1),
        [(1, 5, 5, 8), (2, 3, 3, 8)],
        "conv.conv2d_weight: x, (1, 5, 5, 8), must have the shape (2, 5, 5, 8)",
    ),
    "channels of which four cannot be copied": (
        lambda *a: cuda.conv.conv2d(*a, None, *PLAIN, 1),
        [(1, 5, 5, 6), (8, 6, 3, 3)],
        "conv.conv2d copies 4 channels at once: (6, 8) do not come in fours",
    ),
    "a weight of fewer channels, in fp32": (
        lambda *a: gemm.conv2d(*a, None, *PLAIN, 2),
        [(1, 5, 5, 9), (8, 4, 3, 3)],
        "gemm.conv2d: x, (1, 5, 5, 9), must have the shape (1, 5, 5, 8)",
    ),
    "a convolution's bias, in fp32": (
        lambda *a: gemm.conv2d(*a, *PLAIN, 2),
        [(1, 5, 5, 8), (8, 4, 3, 3), (12,)],
        "gemm.conv2d: bias, (12,), must have the shape (8,)",
    ),
    "a gradient of another number of images, in fp32": (
        lambda *a: gemm.conv2d_weight(*a, (3, 3), *PLAIN, 1),
        [(3, 5, 5, 8), (2, 3, 3, 8)],
        "gemm.conv2d_weight: x, (3, 5, 5, 8), must have the shape (2, 5, 5, 8)",
    ),
    "a transposed weight of more channels": (
        lambda *a: gemm.conv_transpose2d(*a, (2, 2), (0, 0), (6, 6), (1, 1), 1),
        [(1, 3, 3, 4), (8, 4, 2, 2)],
        "gemm.conv_transpose2d: weight, (8, 4, 2, 2), must have the shape (4, 4, 2, 2)",
    ),
    "a weight that enlarges fewer channels": (
        lambda *a: cuda.separable.conv_transpose2d(*a, (2, 2), (1, 1), (6, 6)),
        [(1, 3, 3, 4), (3, 3, 4, 4)],
        "separable.upsample_by_all: weight, (3, 3, 4, 4), must have the shape (4, 4, 4, 4)",
    ),
    "the same of the gradient": (
        lambda *a: cuda.separable.conv2d(*a, (2, 2), (1, 1), (3, 3)),
        [(1, 6, 6, 4), (4, 4, 2, 4)],
        "separable.downsample_by_all: weight, (4, 4, 2, 4), must have the shape (4, 4, 4, 4)",
    ),
    "factors that do not meet": (
        cublas.product,
        [(2, 3), (4, 5), (2, 5)],
        "cublas.product: b, (4, 5), must have the shape (3, 5)",
    ),
    "a product's place": (
        cublas.product,
        [(2, 3), (3, 5), (2, 4)],
        "cublas.product: out, (2, 4), must have the shape (2, 5)",
    ),
    "a momentum": (
        lambda *a: sgd.weights(*a, 0),
        [(4,), (4,), (2,)],
        "SGD.step: the momentum, (2,) float32 on cuda:0, must be like its weights, (4,) float32 on",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_shape_is_refused_before_a_kernel_runs(cupy, what):
    function, shapes, told = WRONG[what]
    with precision.use_precision("tf32"), pytest.raises(launch.KernelError) as error:
        function(*(cupy.zeros(shape, f32) for shape in shapes))
    assert told in str(error.value)
    assert isinstance(error.value, Error)


@pytest.mark.parametrize(("shape", "dtype"), [((2,), np.int32), ((), np.int64)])
def test_what_tells_whether_to_step_is_one_int32(cupy, shape, dtype):
    part = sgd.weights(cupy.zeros(4, f32), cupy.zeros(4, f32), None, 0)
    told = rf"only_if, .*{np.dtype(dtype)}, must be one number of int32"
    with pytest.raises(launch.KernelError, match=told):
        sgd.Descents().step([part], [(0.1, 0.0, 0.0)], False, False, cupy.ones(shape, dtype))


def test_more_than_cublas_counts_is_refused(cupy, monkeypatch):
    """It takes sizes and steps as ``int``, and ctypes would leave out what does not fit."""
    assert launch.MOST == 2 ** (8 * ctypes.sizeof(ctypes.c_int) - 1) - 1
    monkeypatch.setattr(cublas, "MOST", 7)
    wide = cupy.ones((2, 9), f32)  # of which a part has steps of 9
    for a, b in (((8, 2), (2, 2)), ((2, 8), (8, 2)), ((2, 2), (2, 8)), (None, (3, 2))):
        a = wide[:, :3] if a is None else cupy.ones(a, f32)
        b = cupy.ones(b, f32)
        with pytest.raises(launch.KernelError, match=r"cuBLAS counts to 7: use fewer"):
            cublas.product(a, b, cupy.zeros((a.shape[0], b.shape[1]), f32))
    assert (
        to_numpy(
            cublas.product(cupy.ones((7, 7), f32), cupy.ones((7, 1), f32), cupy.zeros((7, 1), f32))
        ).tolist()
        == [[7.0]] * 7
    )


def test_a_tile_of_patches_has_no_more_numbers_than_kernels_count(monkeypatch):
    monkeypatch.setenv("MINIFCN_WORKSPACE", "100000")
    assert gemm.workspace() // 4 == launch.MOST_NUMBERS
    depth = 9 * 512
    (tile, *_) = gemm._tiles(1, 4000, 4000 * depth * 4)
    assert (tile.rows.stop - tile.rows.start) * 4000 * depth <= launch.MOST_NUMBERS
    monkeypatch.setenv("MINIFCN_WORKSPACE", "100")
    assert gemm.workspace() == 100 << 20


# ---- numbers and arrays at the edges -------------------------------------------------------------


@pytest.mark.parametrize("name", precision.PRECISIONS)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_bias_with_steps_in_memory(cupy, name, groups):
    rng = np.random.default_rng(0)
    x, w = normal(rng, 1, 8, 5, 4), normal(rng, 8, 8 // groups, 3, 3)
    bias = normal(rng, 16)
    with precision.use_precision(name):
        found, expected = (
            F.conv2d(to_device(x, "cuda"), to_device(w, "cuda"), b, groups=groups)
            for b in (to_device(bias, "cuda")[::2], to_device(bias[::2].copy(), "cuda"))
        )
    np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint32])
def test_labels_beyond_32_bits_are_no_classes(cupy, dtype):
    """The lower half of 2**32 + 1 is 1, and that of 2**32 + 255 is the label to ignore."""
    labels = [1, 2**32 + 1, 255, 2**32 + 255, 2**31, 2**40]
    labels = [n % 2**32 if dtype == np.uint32 and n == 2**40 else n for n in labels]
    if dtype == np.uint32:
        labels = [1, 2**32 - 1, 255, 2**32 - 2, 2**31, 3]
    target = to_device(np.array(labels, dtype).reshape(1, 2, 3), "cuda")
    found = to_numpy(cuda.softmax.cross_entropy(cupy.zeros((1, 2, 3, 3), f32), target, 255))
    expected = np.array([math.log(3), np.nan, 0, np.nan, np.nan, np.nan], f32)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6)


# A float32 by its bits, and what becomes of it in bf16 and in fp16, by their bits.
ROUNDED = {
    "the same": (0x3F800000, 0x3F80, 0x3C00),
    "-0": (0x80000000, 0x8000, 0x8000),
    "infinity": (0x7F800000, 0x7F80, 0x7C00),
    "65519.996: the largest that is finite in fp16": (0x477FEFFF, 0x4780, 0x7BFF),
    "65520: the smallest that is not": (0x477FF000, 0x4780, 0x7C00),
    "-65520": (0xC77FF000, 0xC780, 0xFC00),
    "the largest of float32": (0x7F7FFFFF, 0x7F80, 0x7C00),
    "the largest that is finite in bf16": (0x7F7F7FFF, 0x7F7F, 0x7C00),
    "a tie in bf16, down to even": (0x3F808000, 0x3F80, 0x3C04),
    "a tie in bf16, up to even": (0x3F818000, 0x3F82, 0x3C0C),
    "just above a tie in bf16": (0x3F808001, 0x3F81, 0x3C04),
    "a tie in fp16, down to even": (0x3F801000, 0x3F80, 0x3C00),
    "a tie in fp16, up to even": (0x3F803000, 0x3F80, 0x3C02),
    "just below a tie in fp16": (0x3F802FFF, 0x3F80, 0x3C01),
    "2**-14: the smallest normal one of fp16": (0x38800000, 0x3880, 0x0400),
    "below it": (0x387FC000, 0x3880, 0x03FF),
    "2**-24: the smallest of fp16": (0x33800000, 0x3380, 0x0001),
    "2**-25: a tie, down to 0": (0x33000000, 0x3300, 0x0000),
    "just above": (0x33000001, 0x3300, 0x0001),
    "-2**-26": (0xB2800000, 0xB280, 0x8000),
    "3 * 2**-25: a tie, up to even": (0x33C00000, 0x33C0, 0x0002),
}


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_numbers_at_the_edges_of_16_bits(cupy, name):
    if int(cupy.cuda.Device().compute_capability) < cuda.conv.CAPABILITY:
        pytest.skip("this GPU has no tensor cores for these precisions")
    numbers = np.array([bits for bits, *_ in ROUNDED.values()] + [0x7FC00000] * 3, np.uint32)
    numbers[-2:] = 0x7F800001, 0xFFFFFFFF  # NaNs, too
    plan = cuda.conv.plan_for(1, 32, 1, name)
    found = to_numpy(cuda.conv.round16(cupy.asarray(numbers.view(f32)), plan))
    expected = [pair[("bf16", "fp16").index(name)] for _, *pair in ROUNDED.values()]
    told = dict(zip(ROUNDED, zip(found.tolist(), expected, strict=False), strict=True))
    assert not {what: tuple(map(hex, pair)) for what, pair in told.items() if pair[0] != pair[1]}
    infinity = {"bf16": 0x7F80, "fp16": 0x7C00}[name]
    assert (found[-3:] & 0x7FFF > infinity).all()  # a NaN stays one


@pytest.mark.skipif(not on_cpu.available(), reason="no g++ on a Linux system")
def test_kernels_for_the_whole_weight_leave_what_tents_made():
    """To the bit: with the whole weight, sums have another order."""
    rng = np.random.default_rng(0)
    weight, how = enlarging(rng, 6, 4), ((3, 3), (1, 2))
    weight *= normal(rng, 1) ** 2  # tents that are no binary fractions
    low, high = normal(rng, 2, 4, 5, 4), normal(rng, 2, 13, 14, 4)
    with on_numpy():
        tent = cuda.separable.tent_of(weight)
        pairs = [
            (
                cuda.separable.conv_transpose2d(low, weight, *how, (13, 14)),
                cuda.separable.upsample(low, tent, *how, (13, 14)),
                im2col.conv_transpose2d(low, weight, *how, (13, 14), (1, 1), 1),
            ),
            (
                cuda.separable.conv2d(high, weight, *how, (4, 5)),
                cuda.separable.downsample(high, tent, *how, (4, 5)),
                im2col.conv2d(high, weight, None, *how, (1, 1), 1),
            ),
        ]
    assert tent[-1] == 1
    for found, by_tents, by_all in pairs:
        assert found.tobytes() == by_tents.tobytes()
        assert found.tobytes() != by_all.tobytes()
        np.testing.assert_allclose(found, by_all, rtol=1e-5, atol=1e-5)


# ---- the driver and the compiler -----------------------------------------------------------------


class CompileError(Exception):
    """CuPy has errors of its own."""


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            CompileError("nvrtc: error: invalid value"),
            "driver may be too old .* `minifcn info`",
        ),
        (OSError("libnvrtc.so.13: cannot open"), "a part of CUDA is missing: see `minifcn info`"),
        (
            PermissionError(13, "Permission denied", "cache/lrn.cubin"),
            "set CUPY_CACHE_DIR to a folder",
        ),
    ],
    ids=["compiler", "library", "folder"],
)
def test_a_file_that_cannot_be_compiled_is_named(standin, monkeypatch, error, advice):
    launch._module.cache_clear()
    launch._function.cache_clear()

    def fail(*given, **options):
        raise error

    monkeypatch.setattr(standin, "RawModule", fail)
    told = r"lrn\.normalise: lrn\.cu cannot be compiled and loaded: .*"
    with pytest.raises(launch.KernelError, match=told + advice) as caught:
        cuda.lrn.normalise(standin.ones((1, 3, 2, 2), f32), 3, 1.0, 0.75, 1.0)
    assert caught.value.__cause__ is error


def test_a_kernel_that_cannot_be_started_is_named(standin, monkeypatch):
    import standin as module

    error = standin.cuda.runtime.CUDARuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    def fail(*given, **options):
        raise error

    monkeypatch.setattr(module.Function, "__call__", fail)
    told = r"add_bias cannot be started: CUDA_ERROR_ILLEGAL_ADDRESS: .* MINIFCN_DEBUG=1"
    with pytest.raises(launch.KernelError, match=told) as caught:
        cuda.elementwise.add_bias(standin.ones((2, 4), f32), standin.ones(4, f32))
    assert caught.value.__cause__ is error
