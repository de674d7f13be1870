"""The engine: what is recorded, in which order it is undone, what is freed, what is refused."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor, debug, grad, no_grad
from minifcn.autograd import GraphError, Primitive, is_recording, set_mode


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


# --- the gradients ---------------------------------------------------------------------------


def test_fan_out_is_added_up():
    x = leaf([2.0, -3.0])
    (x * x * x + x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [13.0, 28.0])  # 3x² + 1


def test_same_tensor_twice_in_one_operation():
    x = leaf([3.0])
    (x / x + x - x + x**2).backward()
    assert x.grad.item() == 6


def ugly(x, y, torch=None):
    """Every operator, inputs used many times, broadcasting, and a part that leads nowhere."""
    a = x * y + x / (y * y + 1) - 2 / y
    _ = a * 100
    b = (a - a.sum(1, True) if torch is None else a - a.sum(1, keepdim=True)) * 0.1
    c = b.exp() + (b * b + 1).log() - (3 - b).sqrt() + b.tanh() * b.sigmoid() + (-b) ** 3
    d = c.reshape(2, 3, 2)[1:, :, 0] @ y.reshape(3, 1) + a[0, -1]
    return (d * c.sum() + c.mean() - y.permute(1, 0)[0].sum() + b.relu().sum()).sum()


@pytest.mark.oracle
def test_ugly_expression_against_pytorch(rng):
    torch = pytest.importorskip("torch")
    x, y = rng.normal(size=(3, 4)), rng.uniform(0.5, 2, size=(3, 1))
    ours = [leaf(x), leaf(y)]
    theirs = [torch.tensor(v, requires_grad=True) for v in (x, y)]
    loss, expected = ugly(*ours), ugly(*theirs, torch)
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-12)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-10)


def test_nodes_are_visited_after_everything_that_used_them():
    """A long and a short way to the same tensor: taken in the wrong order, one would be lost."""
    x = leaf([1.0])
    early = x * 2
    late = early
    for _ in range(5):
        late = late * 1.5
    (late * early).backward()
    np.testing.assert_allclose(x.grad.item(), 8 * 1.5**5)  # d (4 x² 1.5⁵) / dx


def test_deep_chain_and_its_end():
    """20,000 operations behind each other: neither backward nor freeing them is recursive."""
    x = leaf([1.0])
    y = x
    for _ in range(20_000):
        y = y + 0.001
    y.backward(retain_graph=True)
    assert x.grad.item() == 1
    del y


def test_wide_graph_is_not_slow():
    """2^60 ways lead through this graph; each node is visited once."""
    x = leaf([1.0])
    y = x
    for _ in range(60):
        y = y + y
    start = time.perf_counter()
    y.backward()
    assert x.grad.item() == 2**60
    assert time.perf_counter() - start < 5


def test_a_leaf_is_its_own_gradient():
    x, seed = leaf([1.0, 2.0]), Tensor(np.array([3.0, 4.0]))
    x.backward(seed)
    assert x.grad.numpy().tolist() == [3, 4]
    assert not np.shares_memory(x.grad.data, seed.data)


def test_gradients_of_a_leaf_add_up_over_calls():
    x = leaf([1.0, 2.0])
    (x * 3).sum().backward()
    first = x.grad
    (x * 4).sum().backward()
    assert x.grad.numpy().tolist() == [7, 7]
    assert first.numpy().tolist() == [3, 3]  # a new array: whoever kept the old one keeps it
    x.grad = None
    (x * 4).sum().backward()
    assert x.grad.numpy().tolist() == [4, 4]


@pytest.mark.parametrize("fn", [F.add, F.sub, lambda x, y: F.cat([x, y]).reshape(2, 2)])
def test_gradients_of_two_leaves_never_share_memory(fn):
    x, y, seed = leaf([1.0, 2.0]), leaf([3.0, 4.0]), np.ones(2)
    z = fn(x, y)
    seed = np.ones(z.shape)
    z.backward(Tensor(seed))
    assert not np.shares_memory(x.grad.data, y.grad.data)
    assert not np.shares_memory(x.grad.data, seed)
    before = y.grad.numpy().copy()
    x.grad.data[...] = 99
    assert (y.grad.numpy() == before).all()
    assert (seed == 1).all()


def test_broadcast_leaf_gets_the_sum():
    x, b = leaf(np.zeros((4, 3))), leaf([1.0, 2.0, 3.0])
    (x + b).sum().backward()
    assert b.grad.numpy().tolist() == [4, 4, 4]
    assert x.grad.shape == (4, 3)


def test_gradient_argument_is_the_upstream_gradient():
    x = leaf([1.0, 2.0])
    (x * x).backward(Tensor(np.array([10.0, 100.0])))
    assert x.grad.numpy().tolist() == [20, 400]


def test_gradient_keeps_the_memory_order():
    """A leaf that is stored channels-last has a gradient that is stored channels-last."""
    x = Tensor(np.zeros((2, 4, 5, 3)).transpose(0, 3, 1, 2), requires_grad=True)
    (x + 1.0).backward(Tensor(x.data * 2))
    assert x.grad.data.transpose(0, 2, 3, 1).flags.c_contiguous


# --- gradients of gradients ------------------------------------------------------------------


def test_third_derivative():
    x = leaf([2.0])
    y = x**4
    for expected in (32, 48, 48):  # 4x³, 12x², 24x
        (y,) = grad(y, [x], create_graph=True)
        assert y.item() == pytest.approx(expected)
    assert x.grad is None


def test_backward_with_create_graph():
    x = leaf([2.0])
    (x**3).backward(create_graph=True)
    first, x.grad = x.grad, None
    first.backward()
    assert x.grad.item() == pytest.approx(12)


def test_hessian_vector_product_through_a_net(rng):
    """H v, computed as the gradient of <gradient, v>, against a difference of gradients."""
    x, target = Tensor(rng.normal(size=(2, 3, 7, 6))), Tensor(rng.integers(0, 4, (2, 3, 3)))
    weights = [rng.normal(size=shape) for shape in ((5, 3, 3, 3), (4, 5, 1, 1))]
    vectors = [rng.normal(size=w.shape) for w in weights]

    def gradients(values, create_graph):
        w1, w2 = (Tensor(w, requires_grad=True) for w in values)
        hidden = F.max_pool2d(F.tanh(F.conv2d(x, w1, padding=1)), 2, ceil_mode=False)
        loss = F.cross_entropy(F.conv2d(hidden, w2), F.crop(target, 3, 0))
        return (w1, w2), grad(loss, [w1, w2], create_graph=create_graph)

    ws, gs = gradients(weights, create_graph=True)
    products = grad(sum((g * v).sum() for g, v in zip(gs, vectors, strict=True)), ws)
    eps = 1e-5
    ahead, behind = (
        gradients([w + s * v for w, v in zip(weights, vectors, strict=True)], False)[1]
        for s in (eps, -eps)
    )
    for product, a, b in zip(products, ahead, behind, strict=True):
        expected = (a.numpy() - b.numpy()) / (2 * eps)
        np.testing.assert_allclose(product.numpy(), expected, atol=1e-7)
        assert abs(expected).max() > 1e-3


def test_gradient_penalty():
    """A loss with a gradient in it: d/dx of (d x³/dx)² is 36 x³."""
    x = leaf([2.0])
    (g,) = grad(x**3, [x], create_graph=True)
    (g * g).backward()
    assert x.grad.item() == pytest.approx(36 * 8)


# --- grad() ----------------------------------------------------------------------------------


def test_grad_leaves_grad_alone():
    x, y = leaf([2.0]), leaf([3.0])
    gx, gy = grad(x * y, [x, y])
    assert (gx.item(), gy.item()) == (3, 2)
    assert x.grad is None
    assert y.grad is None


def test_grad_in_an_intermediate_tensor():
    x = leaf([2.0])
    middle = x * 3
    end = middle * middle
    g_middle, g_x, g_end = grad(end, [middle, x, end])
    assert (g_middle.item(), g_x.item(), g_end.item()) == (12, 36, 1)


def test_grad_is_none_where_there_is_no_way():
    x, y = leaf([2.0]), leaf([3.0])
    assert grad(x * 2, [y]) == [None]
    assert grad(x * 2, [(y * 2)]) == [None]


def test_grad_refuses_a_misspelt_option():
    x = leaf([2.0])
    with pytest.raises(TypeError, match="creat_graph"):
        grad(x * 2, [x], creat_graph=True)


# --- what is recorded, saved and freed -------------------------------------------------------


def test_arrays_in_arrays_out():
    y = F.exp(np.zeros(2))
    assert isinstance(y, np.ndarray)
    assert isinstance(F.add(1.0, np.ones(2)), np.ndarray)


def test_nothing_is_recorded_without_need():
    x = Tensor([1.0])
    assert (x * x).node is None
    assert not (x * x).requires_grad
    assert (leaf([1.0]) * 2).requires_grad


def test_no_grad_and_detach():
    x = leaf([2.0])
    with no_grad():
        y = x * x
        assert not is_recording()
    assert y.node is None
    assert not y.requires_grad
    y = (x * x).detach() * x
    y.backward()
    assert x.grad.item() == 4
    assert x.detach().data is x.data


def test_modes_end_with_their_block_even_after_an_error():
    with pytest.raises(ZeroDivisionError), no_grad(), debug():
        _ = 1 / 0
    assert is_recording()
    with no_grad(), set_mode(recording=True):
        assert is_recording()


def test_each_thread_has_its_own_mode():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_recording()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_whole_numbers_end_the_history():
    x = leaf([1.7])
    y = x.to("int64")
    assert y.dtype == np.int64
    assert y.node is None
    assert not y.requires_grad


def test_frozen_inputs_save_nothing_for_their_rules(rng):
    x, w = rng.normal(size=(1, 2, 5, 5)), rng.normal(size=(3, 2, 3, 3))
    for trained, saved in (((True, True), {"x", "weight"}), ((True, False), {"weight"})):
        y = F.conv2d(Tensor(x, trained[0]), Tensor(w, trained[1]))
        assert y.node.saved.keys() == saved
    y = F.conv2d(Tensor(x), Tensor(w, True))
    assert y.node.saved.keys() == {"x"}
    y = leaf([1.0]) + leaf([2.0])
    assert y.node.saved == {}


def test_nothing_waits_for_the_garbage_collector():
    """Without reference cycles, all is freed when the last name is: with the collector off."""
    gc.collect()
    gc.disable()
    try:
        x = leaf(np.ones(3))
        y = x.exp() * x
        z = (y.sigmoid() + y).sum()
        arrays = [weakref.ref(t.data) for t in (x, y, z)] + [weakref.ref(z.node)]
        z.backward(retain_graph=True)
        grad(z, [x], create_graph=True)
        arrays.append(weakref.ref(x.grad.data))
        del x, y, z
        assert [ref() for ref in arrays] == [None] * 5
    finally:
        gc.enable()


def spy(call):
    """Return an operation that does nothing, and calls a function when backward comes to it."""

    def identity(x):
        return x.copy()

    op = Primitive(identity)

    @op.gradient("x")
    def _(g, s):
        call()
        return g

    return op


def test_backward_frees_on_its_way():
    alive = []
    x = leaf(np.ones(3))
    first = spy(lambda: alive.append([ref() is not None for ref in refs]))(x)
    middle = first.exp()
    last = middle.exp()
    refs = [weakref.ref(middle.data), weakref.ref(last.data)]
    end = last.sum()
    del first, middle, last
    assert all(ref() is not None for ref in refs)
    end.backward()
    assert alive == [[False, False]]  # seen from the first operation, the last that is visited
    assert end.node.saved == {}


def test_second_backward_is_refused():
    x = leaf([2.0])
    y = x * x
    y.backward()
    with pytest.raises(GraphError, match=r"already went through mul.*retain_graph=True"):
        y.backward()
    assert x.grad.item() == 4


def test_second_backward_through_a_shared_part_is_refused():
    x = leaf([2.0])
    shared = x.exp()
    one, two = shared * 2, shared * 3
    one.backward()
    with pytest.raises(GraphError, match="already went through exp"):
        two.backward()


def test_retain_graph():
    x = leaf([2.0])
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8


def test_debug_catches_an_edit():
    x = leaf([1.0, 2.0])
    with debug():
        y = (x * x).sum()
    x.data += 1
    with pytest.raises(GraphError, match=r"'[xy]', saved by mul, was edited before backward"):
        y.backward()


def test_debug_accepts_what_is_not_edited():
    x = leaf([1.0, 2.0])
    with debug():
        (x * 2.5 * x.relu()).sum().backward()  # 2.5 is saved too, and it is no array
    assert x.grad.numpy().tolist() == [5, 10]
    y = x * x
    x.data += 1  # without debug() nobody looks
    y.sum().backward()
