"""The fast ways of the small operations against their plain formulas.

ReLU, pooling, the loss, sums and the optimiser: on odd sizes, in any order of memory, in every type
of numbers, and with what is not finite.
"""

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor, nn, optim
from minifcn.autograd import PRIMITIVES
from minifcn.functional import reduction
from minifcn.kernels import elementwise, pooling, softmax
from minifcn.kernels.elementwise import empty_like, flat, share_out
from minifcn.kernels.threads import parallel_for

TYPES = [np.float16, np.float32, np.float64]
ORDERS = ["channels-last", "channels-first", "turned", "every other", "backwards"]
SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45]


def stored(numbers, order):
    """Return the same (N, C, H, W) in another order of memory, with gaps or without."""
    if order == "channels-first":
        return np.ascontiguousarray(numbers)
    if order == "channels-last":
        return np.ascontiguousarray(numbers.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if order == "turned":
        return np.ascontiguousarray(numbers.T).T
    if order == "backwards":
        return np.ascontiguousarray(numbers[:, :, ::-1])[:, :, ::-1]
    wide = np.zeros([2 * n for n in numbers.shape], numbers.dtype)
    wide[::2, ::2, ::2, ::2] = numbers
    return wide[::2, ::2, ::2, ::2]


def bits(array):
    """Return the bits of each number: NaN, and zeros of both signs, can be told apart then."""
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


@pytest.fixture(params=[False, True], ids=["large parts", "small parts"])
def small_parts(request, monkeypatch):
    """Run a test once more with parts so small that there are many, of uneven sizes."""
    if request.param:
        monkeypatch.setattr(elementwise, "PART", 19)  # 210 numbers: the last part has one
        monkeypatch.setattr(elementwise, "MANY", 1)
        monkeypatch.setattr(pooling, "TILE", 50)
        monkeypatch.setattr(softmax, "TILE", 50)


# ---- rows of numbers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (0, 3), (2, 3, 4, 5), (1, 5, 1, 4), (3, 1, 1, 1)]
)
def test_arrays_of_one_order_become_rows_that_are_views(rng, shape):
    for axes in {tuple(rng.permutation(len(shape))) for _ in range(6)}:
        a = rng.normal(size=[shape[i] for i in axes]).transpose(np.argsort(axes))
        b = empty_like(a)
        assert (b.shape, b.dtype) == (a.shape, a.dtype)
        assert b.size == 0 or b.ctypes.data % 64 == 0
        rows = flat(a, b)
        assert [row.shape for row in rows] == [(a.size,), (a.size,)]
        rows[1][...] = rows[0]
        np.testing.assert_array_equal(a, b)


def test_what_is_no_row():
    a = np.zeros((4, 6))
    for other in (np.zeros((6, 4)).T, np.zeros((6, 4)), np.zeros((4, 12))[:, ::2], a[::-1], a[:2]):
        assert flat(a, other) is None
        assert flat(other, a) is None
    assert flat(np.broadcast_to(np.zeros(6), (4, 6))) is None


def test_threads_share_only_what_is_worth_it(monkeypatch):
    called = []

    def note(count, body, data):
        called.append(count)
        parallel_for(count, body, data)

    monkeypatch.setattr(elementwise, "parallel_for", note)
    for numbers, through_threads in ((elementwise.MANY - 1, []), (elementwise.MANY, [5])):
        done, called[:] = [], []
        share_out(5, done.append, np.zeros(0), numbers)
        assert sorted(done) == [0, 1, 2, 3, 4]
        assert called == through_threads


# ---- relu -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("of_gradient", ORDERS)
def test_relus_gradient_is_its_formula_to_the_bit(rng, small_parts, dtype, order, of_gradient):
    y = rng.choice([*SPECIAL, 1.0, -2.0], (3, 5, 7, 2)).astype(dtype)
    g = rng.normal(size=y.shape).astype(dtype)
    g[:, 2, 3] = rng.choice([np.inf, -np.inf, np.nan, -0.0], (3, 2))
    with np.errstate(invalid="ignore"):
        expected = g * (y > 0)
    found = elementwise.where_positive(stored(g, of_gradient), stored(y, order))
    assert found.dtype == dtype
    np.testing.assert_array_equal(bits(found), bits(expected))
    kept = ~np.isfinite(g) | (y > 0)
    assert (found[~kept] == 0).all()  # nothing above zero, NaN and infinity among them


def test_relus_gradient_of_many_numbers(rng):
    y = rng.normal(size=elementwise.MANY // 3 + elementwise.PART + 5).astype(np.float32)
    g = rng.normal(size=y.shape).astype(np.float32)
    np.testing.assert_array_equal(elementwise.where_positive(g, y), g * (y > 0))


def test_relus_gradient_has_the_memory_order_of_its_output(rng):
    y = stored(rng.normal(size=(2, 3, 4, 5)), "channels-last")
    for order in ORDERS:
        g = stored(rng.normal(size=y.shape), order)
        assert elementwise.where_positive(g, y).strides == y.strides


def test_a_relu_that_is_done_only_has_its_gradient_left(rng):
    numbers = np.maximum(rng.normal(size=(3, 5)), 0)
    x = Tensor(numbers, requires_grad=True)
    y = F.relu(x, done=True)
    assert y.data is numbers
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), numbers > 0)


# ---- pooling --------------------------------------------------------------------------------

WINDOWS = [  # kernel, stride, padding, dilation, ceil mode
    ((2, 2), (2, 2), (0, 0), (1, 1), True),
    ((2, 2), (2, 2), (0, 0), (1, 1), False),
    ((3, 3), (2, 2), (0, 0), (1, 1), True),
    ((3, 3), (2, 2), (1, 1), (1, 1), True),
    ((2, 3), (3, 4), (1, 1), (1, 1), True),
    ((2, 2), (3, 3), (0, 0), (2, 2), False),
    ((3, 2), (1, 1), (1, 0), (2, 3), False),
    ((1, 1), (1, 1), (0, 0), (1, 1), False),
    ((1, 1), (2, 3), (0, 0), (1, 1), False),
]


def pooled_by_loops(x, g, kernel, stride, padding, dilation, ceil):
    """Return the maxima of (N, H, W, C), and g at the first maximum of each window."""
    N, H, W, C = x.shape
    y = np.empty((N, *pooling.output_size(x, kernel, stride, padding, dilation, ceil), C), x.dtype)
    back = np.zeros(x.shape, np.float64)
    for n, p, q, c in np.ndindex(y.shape):
        best, place = -np.inf, None
        for a, b in np.ndindex(kernel):
            i, j = p * stride[0] + a * dilation[0] - padding[0], q * stride[1] + b * dilation[1]
            j -= padding[1]
            if not (0 <= i < H and 0 <= j < W) or np.isnan(best):
                continue
            value = x[n, i, j, c]
            if place is None or value > best or np.isnan(value):
                best, place = value, (n, i, j, c)
        y[n, p, q, c] = best
        if g is not None and place is not None:
            back[place] += g[n, p, q, c]
    return y, back


@pytest.mark.parametrize("how", WINDOWS, ids=str)
@pytest.mark.parametrize("size", [(2, 9, 8, 3), (1, 6, 7, 1), (3, 4, 4, 2), (2, 5, 5, 2)], ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_pooling_is_its_loops(rng, small_parts, how, size, dtype):
    for special in (False, True):
        x = rng.integers(-2, 3, size).astype(dtype)  # full of ties
        if special:
            places = rng.random(size) < 0.2
            x[places] = rng.choice([np.nan, np.inf, -np.inf], places.sum())
        y, _ = pooled_by_loops(x, None, *how)
        found = pooling.max_pool2d(x, *how)
        np.testing.assert_array_equal(found, y)
        g = rng.integers(-9, 10, y.shape).astype(dtype)
        scattered = pooling.max_scatter(g, x, found, *how[:4])
        assert scattered.dtype == dtype
        np.testing.assert_array_equal(scattered, pooled_by_loops(x, g, *how)[1])


def test_a_window_without_a_single_pixel():
    x = np.ones((1, 2, 2, 1), np.float32)
    how = ((2, 2), (1, 1), (1, 1), (3, 3))  # its four places are the corners of 4 x 4 pixels
    y = pooling.max_pool2d(x, *how, ceil=False)
    np.testing.assert_array_equal(y, np.full((1, 1, 1, 1), -np.inf))
    np.testing.assert_array_equal(pooling.max_scatter(np.ones_like(y), x, y, *how), x * 0)
    np.testing.assert_array_equal(pooling.max_gather(x, x, y, *how), y.clip(0))


def test_an_infinite_gradient_of_pooling_stays_in_its_place(small_parts):
    x = np.arange(64.0, dtype=np.float32).reshape(1, 8, 4, 2)
    how = ((2, 2), (2, 2), (0, 0), (1, 1))
    y = pooling.max_pool2d(x, *how, ceil=False)
    g = np.ones_like(y)
    g[0, 1, 1, 0], g[0, 2, 0, 1] = np.inf, np.nan
    back = pooling.max_scatter(g, x, y, *how)
    assert back[0, 3, 3, 0] == np.inf
    assert np.isnan(back[0, 5, 1, 1])
    assert np.isfinite(back).sum() == back.size - 2


@pytest.mark.parametrize("order", ORDERS)
def test_pooling_in_any_order_of_memory(rng, order):
    x = rng.integers(-2, 3, (2, 3, 7, 9)).astype(np.float32)
    g = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    results = []
    for image, gradient in ((x, g), (stored(x, order), stored(g, order))):
        leaf = Tensor(image, requires_grad=True)
        y = F.max_pool2d(leaf, 2, ceil_mode=True)
        y.backward(Tensor(gradient))
        results.append((y.data, leaf.grad.data))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


# ---- the loss -------------------------------------------------------------------------------


def loss_in_float64(x, target, ignored):
    """Return the loss of each pixel and softmax - one at the target, for x (N, C, H, W)."""
    x = x.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    error = np.exp(x)
    total = error.sum(axis=1, keepdims=True)
    error /= total
    counted, classes = target != ignored, np.where(target != ignored, target, 0).astype(int)
    at_target = classes[:, None] == np.arange(x.shape[1])[:, None, None]
    loss = np.log(total[:, 0]) - (x * at_target).sum(axis=1)
    return np.where(counted, loss, 0), error - at_target * counted[:, None]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64])
@pytest.mark.parametrize("order", ORDERS)
def test_the_loss_is_its_formula(rng, small_parts, kind, order):
    x = (5 * rng.normal(size=(2, 6, 9, 7))).astype(np.float32)
    target = rng.integers(0, 6, (2, 9, 7)).astype(kind)
    target[rng.random(target.shape) < 0.2] = 99
    loss, error = loss_in_float64(x, target, 99)
    share = rng.normal(size=target.shape).astype(np.float32)
    x = stored(x, order)
    labels = stored(target[:, None], order)[:, 0]
    found = F.cross_entropy(x, labels, ignore_index=99, reduction="none")
    np.testing.assert_allclose(found, loss, atol=1e-5)
    assert (found[target == 99] == 0).all()
    found = PRIMITIVES["softmax_error"](x, labels, share, 99)
    np.testing.assert_allclose(found, error * share[:, None], atol=1e-5)


def test_a_cropped_image_has_the_loss_of_a_copy(rng):
    wide = rng.normal(size=(3, 40, 36, 5)).astype(np.float32).transpose(0, 3, 1, 2)
    target = rng.integers(0, 5, (3, 40, 36))
    view, labels = wide[:, :, 3:-4, 2:-1], target[:, 3:-4, 2:-1]
    results = []
    for x, t in ((view, labels), (view.copy(), labels.copy())):
        leaf = Tensor(x, requires_grad=True)
        loss = F.cross_entropy(leaf, t)
        loss.backward()
        results.append((loss.item(), leaf.grad.data))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_an_ignored_pixel_adds_nothing_whatever_it_holds():
    x = np.zeros((1, 2, 1, 3), np.float32)
    x[0, :, 0, 1] = -np.inf, np.nan
    target = np.array([[[0, 255, 1]]])
    assert F.cross_entropy(x, target).item() == pytest.approx(np.log(2))
    weight = np.array([np.inf, 1], np.float32)  # class 0 stands in for the ignored one
    found = F.cross_entropy(x, target, weight, reduction="none")
    np.testing.assert_array_equal(found[0, 0, 1:], [0, np.float32(np.log(2))])


def test_more_classes_than_a_byte_can_tell_apart(rng):
    x = rng.normal(size=(1, 300, 2, 2)).astype(np.float32)
    loss = F.cross_entropy(x, np.full((1, 2, 2), 254, np.uint8))
    assert loss.item() == pytest.approx(F.cross_entropy(x, np.full((1, 2, 2), 254)).item())


@pytest.mark.parametrize("kind", [np.int8, np.int64])
@pytest.mark.parametrize("label", [-2, 3, 126])
def test_a_label_below_or_above_the_classes_is_an_error(kind, label):
    target = np.array([[[0, label]]], kind)
    message = f"label {label} at image 0, row 0, column 1 is no class"
    with pytest.raises(F.LabelError, match=message):
        F.cross_entropy(np.zeros((1, 3, 1, 2)), target)


def test_the_loss_of_large_scores():
    x = np.array([[1000, 0], [-1000, 0]], np.float32)
    found = F.cross_entropy(x, np.array([1, 1]), reduction="none")
    np.testing.assert_array_equal(found, [1000, 0])


# ---- sums -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 16, 1000, 1500])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 17)], ids=str)
def test_sums_per_channel(rng, monkeypatch, channels, size):
    monkeypatch.setattr(reduction, "SHARE", 5000)  # several shares, the last one smaller
    x = rng.normal(size=(2, *size, channels)).astype(np.float32)
    exact = x.astype(np.float64).sum(axis=(0, 1, 2))
    found = F.sum(x.transpose(0, 3, 1, 2), (0, 2, 3))
    assert (found.shape, found.dtype) == ((channels,), np.float32)
    np.testing.assert_allclose(found, exact, atol=1e-6 * np.sqrt(x.size) + 1e-6)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_sums_of_what_is_not_finite(value):
    x = np.ones((2, 33, 31, 3), np.float32)
    x[1, 4, 5, 1] = x[1, 32, 30, 2] = value
    found = F.sum(x.transpose(0, 3, 1, 2), (0, 2, 3))
    np.testing.assert_array_equal(found, [2 * 33 * 31, value, value])


# ---- the optimiser --------------------------------------------------------------------------

FORMS = [
    {},
    {"weight_decay": 0.05},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.05},
    {"momentum": 0.9, "weight_decay": 0.05, "nesterov": True},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.05, "caffe": True},
    {"momentum": 0.9, "nesterov": True, "caffe": True},
    {"caffe": True},
]


def updated(w, gradients, lr, momentum=0.0, weight_decay=0.0, nesterov=False, caffe=False):
    """Return the weight after a step for each gradient, by the formula as it is written."""
    h = np.zeros_like(w)
    for gradient in gradients:
        g = gradient + weight_decay * w if weight_decay else gradient
        g = lr * g if caffe else g
        if momentum:
            h = momentum * h + g
            g = g + momentum * h if nesterov else h
        w = w - (g if caffe else lr * g)
    return w


@pytest.mark.parametrize("settings", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunk", [optim.CHUNK, 100])
def test_a_step_is_its_formula_to_the_bit_in_any_order_of_memory(
    rng, monkeypatch, settings, dtype, chunk
):
    monkeypatch.setattr(optim, "CHUNK", chunk)
    if chunk == 100:
        monkeypatch.setattr(elementwise, "MANY", 1)
    shapes = [(6, 5, 3, 3), (6,), (), (0, 4), (20, 6, 1, 1), (3,), (7, 4, 2, 3)]
    orders = [tuple(rng.permutation(len(shape))) for shape in shapes]

    def draw(shape, axes):
        numbers = rng.normal(size=[shape[i] for i in axes]).astype(dtype)
        return np.asarray(numbers).transpose(np.argsort(axes))

    parameters = [nn.Parameter(draw(*s)) for s in zip(shapes, orders, strict=True)]
    starts = [p.data.copy() for p in parameters]
    arrays = [p.data for p in parameters]
    sgd = optim.SGD(parameters, lr=0.1, **settings)
    history = []
    for step in range(3):
        if step == 2:  # now the gradients lie in another order than the weights
            orders = [order[::-1] for order in orders]
        history.append([draw(*s) for s in zip(shapes, orders, strict=True)])
        for parameter, gradient in zip(parameters, history[-1], strict=True):
            parameter.grad = Tensor(gradient)
        sgd.step()
    for i, (parameter, start) in enumerate(zip(parameters, starts, strict=True)):
        assert parameter.data is arrays[i]
        expected = updated(start, [gradients[i] for gradients in history], 0.1, **settings)
        np.testing.assert_array_equal(parameter.data, expected)


def test_small_parameters_are_updated_together(monkeypatch):
    tasks = []
    monkeypatch.setattr(optim, "share_out", lambda count, *rest: tasks.append(count))
    monkeypatch.setattr(optim, "CHUNK", 100)
    sizes = [(30,), (30,), (30,), (30,), (250,), (0,), (5,)]
    parameters = [nn.Parameter(np.zeros(size)) for size in sizes]
    for p in parameters:
        p.grad = Tensor(np.zeros_like(p.data))
    optim.SGD(parameters, lr=0.1).step()
    assert tasks == [5]  # 30 + 30 + 30; 30; 100; 100; 50 + 0 + 5


def test_a_momentum_lies_in_memory_as_its_weight_does():
    w = nn.Parameter(np.zeros((3, 3, 4, 5), np.float32).transpose(3, 2, 0, 1))
    w.grad = Tensor(np.ones_like(w.data))
    sgd = optim.SGD([w], lr=0.1, momentum=0.9)
    sgd.step()
    state = sgd.state_dict()
    state["momenta"] = [np.ascontiguousarray(state["momenta"][0])]
    again = optim.SGD([w], lr=0.1, momentum=0.9)
    again.load_state_dict(state)
    for optimizer in (sgd, again):
        assert optimizer.momenta[w].strides == w.data.strides
        np.testing.assert_array_equal(optimizer.momenta[w], np.ones(w.shape))
