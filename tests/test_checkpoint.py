"""checkpoint: the same numbers and gradients, for less memory."""

import gc
import weakref

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor, checkpoint, grad, no_grad
from minifcn.autograd import GraphError, is_recording
from minifcn.profile import saved_bytes


def make(rng):
    x = Tensor(rng.normal(size=(2, 3, 6, 5)), requires_grad=True)
    w = Tensor(rng.normal(size=(4, 3, 3, 3)), requires_grad=True)
    return x, w


def piece(x, w):
    return F.conv2d(x, w, padding=1).relu().tanh().exp()


def test_same_output_and_gradients(rng):
    x, w = make(rng)
    plain = piece(x, w)
    plain.sum().backward()
    expected, x.grad, w.grad = (x.grad.numpy(), w.grad.numpy()), None, None

    y = checkpoint(piece, x, w)
    assert (y.numpy() == plain.numpy()).all()
    y.sum().backward()
    assert (x.grad.numpy() == expected[0]).all()
    assert (w.grad.numpy() == expected[1]).all()


def test_saves_its_inputs_only(rng):
    x, w = make(rng)
    plain, y = piece(x, w), checkpoint(piece, x, w)
    assert saved_bytes(y) == [("checkpoint", 2, x.data.nbytes + w.data.nbytes)]
    assert sum(row.bytes for row in saved_bytes(plain)) > 3 * plain.data.nbytes


def test_pieces_are_computed_one_at_a_time():
    """While a piece is differentiated, what the pieces behind it computed is already freed."""
    alive, arrays = [], []

    def watched(x):
        alive.append(sum(ref() is not None for ref in arrays))
        inner = x.exp()
        arrays.append(weakref.ref(inner.data))
        return inner.tanh()

    x = Tensor(np.ones(4), requires_grad=True)
    y = x
    for _ in range(3):
        y = checkpoint(watched, y)
    gc.disable()
    try:
        y.sum().backward()
    finally:
        gc.enable()
    assert alive == [0] * 6  # three runs forward, three more on the way back


def test_parameters_used_inside_get_their_gradient(rng):
    x, w = make(rng)
    checkpoint(lambda x: piece(x, w), x).sum().backward()
    inside, w.grad = w.grad.numpy(), None
    piece(x, w).sum().backward()
    np.testing.assert_allclose(inside, w.grad.numpy())


def test_parameters_get_their_gradient_if_no_input_wants_one(rng):
    _, w = make(rng)
    checkpoint(lambda x: piece(x, w), Tensor(rng.normal(size=(1, 3, 4, 4)))).sum().backward()
    assert w.grad.shape == w.shape


def test_inputs_of_all_kinds(rng):
    """Frozen inputs, labels, an input that is not used, and one that is given twice."""
    x = Tensor(rng.normal(size=(3, 4)), requires_grad=True)
    unused = Tensor(np.ones(2), requires_grad=True)
    target = Tensor(np.array([0, 3, 1]))

    def loss(a, b, frozen, target, unused):
        return F.cross_entropy(a * b + frozen, target)

    frozen = Tensor(rng.normal(size=(3, 4)))
    checkpoint(loss, x, x, frozen, target, unused).backward()
    (expected,) = grad(loss(x, x, frozen, target, unused), [x])
    np.testing.assert_allclose(x.grad.numpy(), expected.numpy())
    assert unused.grad is None
    assert frozen.grad is None


def test_dropout_drops_the_same_elements_again():
    rng = np.random.default_rng(3)
    x = Tensor(np.ones(1000), requires_grad=True)
    y = checkpoint(lambda x: F.dropout(x * 2, 0.5, rng=rng), x, rng=rng)
    later = rng.random()
    rng.random(7)  # somebody draws in between
    state = rng.bit_generator.state
    y.sum().backward()
    assert (x.grad.numpy() == 2 * (y.numpy() / 2)).all()
    assert rng.bit_generator.state == state  # backward draws nothing
    again = np.random.default_rng(3)
    again.random(1000, np.float32)
    assert again.random() == later


def test_only_the_second_run_is_recorded():
    seen = []

    def fn(x):
        seen.append(is_recording())
        return x * 2

    checkpoint(fn, Tensor(np.ones(1), requires_grad=True)).backward()
    assert seen == [False, True]


def test_nested(rng):
    x, w = make(rng)
    y = checkpoint(lambda x, w: checkpoint(lambda h: h.tanh().exp(), piece(x, w)), x, w)
    y.sum().backward()
    (expected,) = grad(piece(x, w).tanh().exp().sum(), [w])
    np.testing.assert_allclose(w.grad.numpy(), expected.numpy())


def test_without_recording_it_is_a_plain_call(rng):
    x, w = make(rng)
    with no_grad():
        y = checkpoint(piece, x, w)
        assert not is_recording()
    assert y.node is None
    assert is_recording()


def test_an_error_inside_leaves_recording_on(rng):
    x, _ = make(rng)
    with pytest.raises(ZeroDivisionError):
        checkpoint(lambda x: x * (1 / 0), x)
    assert is_recording()


def test_second_backward_is_refused(rng):
    x, w = make(rng)
    y = checkpoint(piece, x, w)
    seed = Tensor(np.ones(y.shape))
    y.backward(seed)
    with pytest.raises(GraphError, match="can be differentiated once"):
        y.backward(seed)


def test_create_graph_is_refused(rng):
    x, w = make(rng)
    with pytest.raises(GraphError, match="not with create_graph"):
        grad(checkpoint(piece, x, w).sum(), [x], create_graph=True)
