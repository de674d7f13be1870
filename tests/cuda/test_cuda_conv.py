"""Convolution on a GPU: the kernels' own text, run on the CPU, against products in float64."""

from functools import partial

import numpy as np
import on_cpu
import pytest
import standin_device
from test_cuda_kernels import on_numpy

import minifcn as mf
import minifcn.functional as F
from minifcn.backend import to_numpy
from minifcn.kernels import conv, cuda, im2col, precision
from minifcn.kernels.cuda import conv as tensor_cores
from minifcn.shapes import conv_geometry, pair

pytestmark = pytest.mark.skipif(not on_cpu.available(), reason="there is no g++")

# x (N, H, W, C), outputs, kernel, stride, padding, dilation: all channels come in fours
LAYERS = [
    ((1, 7, 9, 8), 24, 3, 1, 1, 1),  # no size is a multiple of a tile's
    ((2, 6, 5, 40), 72, 3, 1, 1, 1),  # two images, depth in two or three steps, 128 columns
    ((1, 9, 8, 8), 8, 5, 2, 2, 1),
    ((1, 12, 12, 8), 136, 3, 1, 2, 2),  # two tiles along both axes
    ((3, 4, 4, 64), 64, 1, 1, 0, 1),
    ((1, 7, 8, 16), 24, 7, 1, 0, 1),  # two pixels: parts share a tile
    ((1, 8, 7, 24), 32, (3, 2), (2, 1), (0, 1), (1, 2)),
    ((1, 2, 3, 8), 8, 3, 1, 4, 1),  # more padding than image
    ((1, 24, 23, 8), 16, 3, 1, 1, 1),  # pixels for two parts of the gradient in the weight
    ((5, 4, 3, 8), 8, (4, 3), 1, 0, 1),  # one pixel in each of several images
    ((1, 5, 6, 4), 12, 3, 1, 1, 1),  # channels in fours, but not in eights
]
FEW = [layer for layer in LAYERS if layer[1] <= 32]  # that one compiled text is enough for
BOUNDS = {"tf32": 2e-3, "bf16": 2e-2, "fp16": 2e-3}
every_layer = pytest.mark.parametrize("layer", LAYERS, ids=str)
every_precision = pytest.mark.parametrize("name", BOUNDS)


@pytest.fixture
def xp(cupy):
    """The stand-in for CuPy, then CuPy on a GPU."""
    return cupy


@pytest.fixture
def tensor_gpu(xp):
    """The same; skipped on a GPU without tensor cores for these precisions."""
    if int(xp.cuda.Device().compute_capability) < tensor_cores.CAPABILITY:
        pytest.skip("this GPU has no tensor cores for these precisions")
    return xp


def rounded(a, name):
    """Return float32 numbers as a tensor core sees them, in float64."""
    if name == "fp16":
        return a.astype(np.float16).astype(float)
    kept = {"tf32": 10, "bf16": 7}[name]
    unit = np.int64(1) << (23 - kept)
    bits = a.view(np.int32).astype(np.int64)
    half = unit // 2 - (1 - (bits // unit) % 2 if name == "bf16" else 0)  # ties to even, or up
    bits = (bits + half) // unit * unit
    return bits.astype(np.uint32).view(np.float32).astype(float)


def draw(layer):
    """Return x, weight, bias, a gradient and the geometry of a layer."""
    shape, O, kernel, *geometry = layer
    rng = np.random.default_rng(0)
    kernel, how = pair(kernel, "kernel", 1), conv_geometry(*geometry)
    x, bias = rng.normal(size=shape), rng.normal(size=O)
    w = rng.normal(size=(O, shape[3], *kernel)) / np.sqrt(shape[3] * np.prod(kernel))
    y = im2col.conv2d(x, w, None, *how, 1)
    return *(a.astype(np.float32) for a in (x, w, bias, rng.normal(size=y.shape))), how


def assert_close(a, expected, bound):
    """Compare with the largest number as the unit; a NaN is never close."""
    a = to_numpy(a)
    error = np.abs(a - expected).max() / np.abs(expected).max()
    assert a.shape == expected.shape
    assert error <= bound, error


def check_conv2d(module, layers=FEW, names=("tf32",)):
    for layer in layers:
        x, w, bias, _, how = draw(layer)
        relu = len(x) > 1  # so with and without are met
        for name in names:
            with on_numpy(module), precision.use_precision(name):
                y = tensor_cores.conv2d(x, w, bias, *how, 1, relu)
                kind = tensor_cores.kind_for(*w.shape[:2])
            of_rounded = im2col.conv2d(rounded(x, kind), rounded(w, kind), bias, *how, 1)
            exact = im2col.conv2d(*(a.astype(float) for a in (x, w, bias)), *how, 1)
            for expected, bound in ((of_rounded, 2e-6), (exact, BOUNDS[name])):
                assert_close(y, np.maximum(expected, 0) if relu else expected, bound)
            if how[0] == (1, 1):
                check_turned(module, layer, name, kind)


def check_turned(module, layer, name, kind):
    """The gradient in x, by the weight as a layer keeps it, which the kernel reads backwards."""
    _, w, _, g, (stride, padding, dilation) = draw(layer)
    w = np.ascontiguousarray(w.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, w.shape[2:], padding, strict=True)]
    how = (stride, (max(0, reach[0]), max(0, reach[1])), dilation, 1)
    turned = im2col.turned(w, 1)
    assert tensor_cores.is_turned(turned)
    with on_numpy(module), precision.use_precision(name):
        dx = tensor_cores.conv2d(g, turned, None, *how)
    expected = im2col.conv2d(rounded(g, kind), im2col.turned(rounded(w, kind), 1), None, *how)
    assert_close(dx, expected, 2e-6)


def check_conv2d_weight(module, layers=FEW, names=("tf32",)):
    for layer in layers:
        x, w, _, g, how = draw(layer)
        for name in names:
            with on_numpy(module), precision.use_precision(name):
                dw = tensor_cores.conv2d_weight(x, g, w.shape[2:], *how, 1)
                kind = tensor_cores.kind_for(*w.shape[:2])
            factors = rounded(x, kind), rounded(g, kind)
            assert_close(dw, im2col.conv2d_weight(*factors, w.shape[2:], *how, 1), 2e-6)
            exact = im2col.conv2d_weight(x.astype(float), g.astype(float), w.shape[2:], *how, 1)
            assert_close(dw, exact, BOUNDS[name])


def check_round16(module):
    """More and fewer numbers than a block has threads for, and such as are not finite."""
    for eights in (1, 300):
        x = np.random.default_rng(2).normal(size=8 * eights).astype(np.float32)
        x[:3] = np.inf, -np.inf, 0
        for name in ("bf16", "fp16"):
            with on_numpy(module):
                y = tensor_cores.round16(x, tensor_cores.plan_for(1, 32, 1, name))
            found = (y.astype(np.uint32) << 16).view(np.float32) if name == "bf16" else y
            expected = rounded(x, name) if name == "bf16" else x.astype(np.float16).view(np.uint16)
            np.testing.assert_array_equal(found, expected)


def check_sum_parts(module, file="conv", name="tf32"):
    """With a bias and a ReLU, and without; one part, several, and fewer numbers than threads."""
    rng = np.random.default_rng(1)
    constants = tensor_cores.constants_for(32, name)
    for parts, O in ((1, 4), (3, 20), (5, 100)):
        partial = rng.normal(size=(parts, 7, O)).astype(np.float32)
        bias = rng.normal(size=O).astype(np.float32)
        for biased, relu in ((0, 0), (1, 0), (1, 1)):
            total = np.empty((7, O), np.float32)
            with on_numpy(module):
                numbers = parts, total.size, bias, O, biased, relu
                cuda.conv.run(f"{file}.sum_parts", 3, partial, total, *numbers, **constants)
            expected = partial.astype(float).sum(0) + biased * bias
            assert_close(total, np.maximum(expected, 0) if relu else expected, 1e-6)


# Kernel: what fails if its text is wrong, given what CuPy calls RawModule.
CHECKS = {
    "conv.conv2d": check_conv2d,
    "conv.conv2d_weight": check_conv2d_weight,
    "conv.sum_parts": check_sum_parts,
    "conv16.conv2d": partial(check_conv2d, names=("bf16",)),
    "conv16.conv2d_weight": partial(check_conv2d_weight, names=("bf16",)),
    "conv16.sum_parts": partial(check_sum_parts, file="conv16", name="bf16"),
    "conv16.round16": check_round16,
}


@pytest.mark.parametrize("order", ["forward", "reverse"])
@every_layer
def test_tensor_cores_multiply_rounded_numbers(layer, order):
    with on_cpu.order(order):
        check_conv2d(on_cpu.RawModule, [layer], ["tf32", "bf16"])
        check_conv2d_weight(on_cpu.RawModule, [layer], ["tf32", "bf16"])


@every_layer
def test_half_precision(layer):
    check_conv2d(on_cpu.RawModule, [layer], ["fp16"])
    check_conv2d_weight(on_cpu.RawModule, [layer], ["fp16"])


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_wide_tiles(monkeypatch, order):
    """256 columns, in all directions; usually for longer sums than these."""
    monkeypatch.setattr(tensor_cores, "LONG", 1)
    layers = [((1, 5, 6, 136), 144, (1, 2), 1, 1, 1), ((1, 4, 5, 8), 392, 1, 1, 0, 1)]
    with on_cpu.order(order):  # one such tile, and two
        check_conv2d(on_cpu.RawModule, layers, ["tf32", "bf16"])
        check_conv2d_weight(on_cpu.RawModule, layers, ["tf32", "bf16"])


@pytest.mark.parametrize("kernel", ["conv.sum_parts", "conv16.sum_parts", "conv16.round16"])
def test_before_and_after(kernel):
    CHECKS[kernel](on_cpu.RawModule)


@pytest.mark.parametrize("layer", LAYERS[::2], ids=str)
def test_tensor_cores_on_a_device(tensor_gpu, layer):
    x, w, bias, g, how = draw(layer)
    xp, exact = tensor_gpu, [a.astype(float) for a in (x, w, bias, g)]
    for name, bound in BOUNDS.items():
        with mf.use_precision(name):
            y = tensor_cores.conv2d(*map(xp.asarray, (x, w, bias)), *how, 1)
            dw = tensor_cores.conv2d_weight(xp.asarray(x), xp.asarray(g), w.shape[2:], *how, 1)
        assert_close(y, im2col.conv2d(*exact[:3], *how, 1), bound)
        assert_close(dw, im2col.conv2d_weight(exact[0], exact[3], w.shape[2:], *how, 1), bound)


@every_precision
def test_the_order_of_blocks_and_threads_changes_no_bit(tensor_gpu, name):
    xp = tensor_gpu
    x, w, _, g, how = draw(LAYERS[5])
    results = []
    for order in on_cpu.ORDERS:
        with on_cpu.order(order), mf.use_precision(name):
            y = tensor_cores.conv2d(xp.asarray(x), xp.asarray(w), None, *how, 1)
            dw = tensor_cores.conv2d_weight(xp.asarray(x), xp.asarray(g), w.shape[2:], *how, 1)
        results.append((y.get().tobytes(), dw.get().tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[5]], ids=["one part", "several parts"])
def test_bias_and_relu_in_the_same_kernel(tensor_gpu, layer):
    xp = tensor_gpu
    x, w, bias, _, how = draw(layer)
    x[0, 0, 0, 0] = np.nan
    arrays = [xp.asarray(a) for a in (x, w, bias)]
    with mf.use_precision("tf32"):
        plain = tensor_cores.conv2d(*arrays[:2], None, *how, 1).get()
        y = tensor_cores.conv2d(*arrays, *how, 1).get()
        cut = tensor_cores.conv2d(*arrays, *how, 1, relu=True).get()
    np.testing.assert_array_equal(y, plain + bias)
    np.testing.assert_array_equal(cut, np.maximum(y, 0))
    assert 0 < np.isnan(cut).sum() < cut.size
    assert (cut == 0).any()


def test_arrays_with_gaps_and_odd_addresses(tensor_gpu):
    xp = tensor_gpu
    x, w, bias, g, how = draw(LAYERS[0])
    wide = xp.asarray(np.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)), constant_values=9))
    shifted = xp.empty(g.size + 1, np.float32)[1:].reshape(g.shape)
    shifted[...] = xp.asarray(g)
    assert shifted.data.ptr % 16
    with mf.use_precision("tf32"):
        y = tensor_cores.conv2d(wide[:, 1:-1, 2:-2], xp.asarray(w), xp.asarray(bias), *how, 1)
        dw = tensor_cores.conv2d_weight(wide[:, 1:-1, 2:-2], shifted, (3, 3), *how, 1)
        same = tensor_cores.conv2d(xp.asarray(x), xp.asarray(w), xp.asarray(bias), *how, 1)
        other = tensor_cores.conv2d_weight(xp.asarray(x), xp.asarray(g), (3, 3), *how, 1)
    np.testing.assert_array_equal(y.get(), same.get())
    np.testing.assert_array_equal(dw.get(), other.get())


# ---- how the work is cut -------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [(1, 1), (3, 2), (100, 1), (256, 1), (5000, 4)])
@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 15, 16, 33, 1000])
def test_parts_cover_all_steps_and_none_is_empty(blocks, together, steps):
    result = blocks[0] * blocks[1] * 128 * 128 * 4
    count, each = tensor_cores.shared_out(blocks, together, steps, result)
    assert (count - 1) * each < steps <= count * each
    assert count == 1 or each >= tensor_cores.LEAST_STEPS
    at_once = together * tensor_cores.MULTIPROCESSORS
    assert count == 1 or count * blocks[0] * blocks[1] <= tensor_cores.MOST_ROUNDS * at_once
    assert count == 1 or count * result <= tensor_cores.WORKSPACE


# Tiles of a result, steps and bytes of it; in how many parts it was fastest on an H100, or nearly
@pytest.mark.parametrize(
    ("tiles", "steps", "result", "parts"),
    [
        ((61, 4), 144, 15_859_712, [1]),  # conv4_2 of VGG16 at 500x500
        ((36, 4), 242, 9_437_184, [3, 4, 5]),  # its gradient in the weight
        ((16, 4), 144, 3_964_928, [2, 4]),  # conv5_2
        ((36, 4), 61, 9_437_184, [1, 2]),
        ((18, 2), 958, 2_359_296, [6, 7]),  # conv3_2: the gradient in the weight
        ((2, 32), 128, 4_194_304, [2, 4]),  # fc7
        ((32, 32), 8, 67_108_864, [1]),
    ],
)
def test_parts_are_as_many_as_were_fastest(tiles, steps, result, parts):
    assert tensor_cores.shared_out(tiles, 2, steps, result).number in parts


def test_wide_tiles_are_for_long_sums_and_waste_no_columns():
    def columns(O, terms):
        return tensor_cores.plan_for(1000, O, terms, "bf16").constants["COLUMNS"]

    assert [columns(O, 4608) for O in (8, 33, 64, 72, 128)] == [32, 64, 64, 128, 128]
    assert [columns(O, 4608) for O in (136, 256, 264, 384, 512)] == [256, 256, 128, 128, 256]
    assert [columns(512, terms) for terms in (511, 512)] == [128, 256]


def test_a_block_asks_for_no_more_shared_memory_than_any_gpu_has():
    for kind in tensor_cores.KINDS:
        for columns in tensor_cores.ROWS:
            plan = tensor_cores.plan_for(1000, columns, 4608, kind)
            assert plan.constants["COLUMNS"] == columns
            for a_along, b_along in ((True, False), (True, True), (False, False)):
                assert plan.shared(a_along, b_along) <= on_cpu.LARGEST_SHARED_MEMORY


def test_a_block_has_a_warp_for_each_part_of_a_tile():
    for columns, threads in ((32, 128), (64, 128), (128, 128), (256, 256)):
        assert tensor_cores.plan_for(1000, columns, 4608, "tf32").threads == threads


# ---- which kernel is chosen ----------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """The names of the kernels of conv.cu, conv16.cu and im2col.cu that were started."""
    names = []

    def run(kernel, *arguments, **options):
        names.append(kernel)
        launch_run(kernel, *arguments, **options)

    launch_run = cuda.launch.run
    for module in (cuda.conv, cuda.im2col):
        monkeypatch.setattr(module, "run", run)
    return names


def chosen(xp, C=8, O=8, groups=1, dtype=np.float32):
    """Tell whether a convolution runs on tensor cores."""
    x, w = xp.zeros((1, 5, 5, C), dtype), (O, C // groups, 3, 3)
    return conv.on_tensor_cores(x, w, groups)


def test_when_tensor_cores_are_used(standin, monkeypatch):
    xp = standin
    assert not chosen(xp)  # nobody asked for it
    with mf.use_precision("bf16"):
        assert chosen(xp)
        assert not chosen(xp, C=3)
        assert not chosen(xp, O=21)
        assert not chosen(xp, groups=2)
        assert not chosen(xp, dtype=np.float64)
        with cuda.plain():
            assert not chosen(xp)
        with conv.use_algorithm("im2col"):
            assert not chosen(xp)
        monkeypatch.setattr(standin_device.Device, "compute_capability", "75")
        assert not chosen(xp)


def on_device(xp, a):
    """Return images (N, C, H, W) on the stand-in, channels-last."""
    return xp.asarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("stride", "dilation", "names"),
    [
        (1, 1, ["conv.conv2d", "conv.conv2d", "conv.conv2d_weight"]),
        (1, 2, ["conv.conv2d", "conv.conv2d", "conv.conv2d_weight"]),
        (2, 1, ["conv.conv2d", "im2col.col2im", "conv.conv2d_weight"]),
    ],
)
def test_a_layer_and_its_gradients(tensor_gpu, started, stride, dilation, names):
    """At stride 1 the gradient in x is a convolution, with the weight turned: the same kernel."""
    xp = tensor_gpu
    x, w, bias, _, _ = draw(((2, 9, 8, 8), 12, 3, 1, 1, 1))
    x = x.transpose(0, 3, 1, 2)
    how = {"stride": stride, "padding": 1, "dilation": dilation}
    arrays = on_device(xp, x), xp.asarray(w), xp.asarray(bias)
    tensors = [mf.Tensor(a, requires_grad=True) for a in arrays]
    exact = [mf.Tensor(a.astype(float), requires_grad=True) for a in (x, w, bias)]
    expected = F.conv2d(*exact, **how)
    expected.backward(mf.Tensor(np.ones(expected.shape)))
    with mf.use_precision("tf32"):
        y = F.conv2d(*tensors, **how)
        y.backward(mf.Tensor(xp.ones(y.shape, np.float32)))
    assert [name for name in started if name != "conv.sum_parts"] == names
    assert_close(y.data, expected.data, 2e-3)
    for tensor, other in zip(tensors, exact, strict=True):
        assert_close(tensor.grad.data, other.grad.data, 2e-3)


def test_few_pixels_with_a_large_weight(xp, started):
    """As fc6 of VGG16: its weight is not turned round, but for tensor cores."""
    rng = np.random.default_rng(3)
    w = (rng.normal(size=(256, 128, 6, 6)) / 60).astype(np.float32)
    g = rng.normal(size=(1, 256, 1, 1)).astype(np.float32)
    how = ((1, 1), (0, 0), (6, 6), (1, 1), 1)
    expected = conv.conv_transpose2d(g.astype(float), w.astype(float), *how)
    assert_close(conv.conv_transpose2d(xp.asarray(g), xp.asarray(w), *how), expected, 1e-5)
    assert started == ["im2col.col2im"]
