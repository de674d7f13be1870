"""Tensors: what they hold and refuse, their operators and methods, and the memory of a graph."""

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor
from minifcn.autograd import GraphError
from minifcn.backend import DeviceError, DTypeError
from minifcn.profile import saved_bytes
from minifcn.shapes import ShapeError


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


# --- what is refused -------------------------------------------------------------------------


def test_gradient_of_nothing():
    with pytest.raises(GraphError, match="nothing here requires a gradient"):
        Tensor([1.0]).backward()


@pytest.mark.parametrize(
    ("seed", "given"),
    [
        (None, "nothing"),
        (Tensor(np.ones(3)), r"\(3,\) float64"),
        (Tensor(np.ones(2, np.float32)), r"\(2,\) float32"),
    ],
)
def test_seed_must_fit(seed, given):
    y = leaf([1.0, 2.0]) * 2
    with pytest.raises(GraphError, match=rf"must be of \(2,\) float64; it is {given}"):
        y.backward(seed)


def test_missing_rule_names_the_argument():
    weight = leaf([1.0, 1.0])
    with pytest.raises(GraphError, match=r"cross_entropy has no gradient in \['weight'\]"):
        F.cross_entropy(np.zeros((1, 2)), np.zeros(1, int), weight)


def test_types_are_never_mixed_silently():
    with pytest.raises(DTypeError, match=r"mul got x \(float64\) and y \(float32\): .*\.to\("):
        leaf([1.0]) * leaf([1.0], np.float32)
    assert (leaf([1.0], np.float32) * 2.5).dtype == np.float32
    assert (leaf([1.0], np.float32) * np.arange(1, 2)).numpy().tolist() == [1]  # whole numbers may


def test_devices_are_never_mixed_silently(cupy):
    with pytest.raises(DeviceError, match=r"add got x \(cuda:0\) and y \(cpu\)"):
        Tensor(cupy.ones(2)) + Tensor(np.ones(2))


def test_only_floating_point_tensors_have_gradients():
    with pytest.raises(DTypeError, match="a Tensor of int64 was asked for"):
        Tensor(np.array([1, 2]), requires_grad=True)
    for bad in (["a"], [None], [1j]):
        with pytest.raises(DTypeError, match="must hold numbers"):
            Tensor(bad)


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="dimension"):
        F.sum(np.ones(2), dimension=1)
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        F.add(np.ones(2))
    with pytest.raises(TypeError, match="too many positional arguments"):
        F.exp(np.ones(2), 1, 2)


# --- Tensor ----------------------------------------------------------------------------------


def test_numbers_become_float32_and_arrays_stay():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(1.5).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor([True]).dtype == bool
    array = np.ones(2)
    assert Tensor(array).data is array


def test_attributes():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    assert (x.shape, x.ndim, x.dtype, x.device) == ((2, 3), 2, np.float64, "cpu")
    assert x.numpy() is x.data
    assert "float64, cpu, grad=True" in repr(x)
    assert "from mul" in repr(x * 2)
    assert (x * 2).sum().item() == 12
    with pytest.raises(AttributeError):
        x.gard = None


def test_operators_with_numbers_and_arrays_on_either_side():
    x, a = leaf([1.0, 2.0]), np.array([4.0, 5.0])
    for result, expected in [
        (x + a, [5, 7]),
        (a + x, [5, 7]),
        (x - a, [-3, -3]),
        (a - x, [3, 3]),
        (a * x, [4, 10]),
        (x / a, [0.25, 0.4]),
        (a / x, [4, 2.5]),
        (1 - x, [0, -1]),
        (2 / x, [2, 1]),
        (2 * x, [2, 4]),
        (-x, [-1, -2]),
        (x**2, [1, 4]),
    ]:
        assert isinstance(result, Tensor)
        assert result.numpy().tolist() == expected
    m = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert isinstance(m @ leaf(m), Tensor)
    np.testing.assert_array_equal((m @ leaf(m)).numpy(), m @ m)
    np.testing.assert_array_equal((leaf(m) @ m).numpy(), m @ m)


def test_methods():
    x = Tensor(np.arange(1.0, 7).reshape(2, 3))
    assert x.reshape(3, 2).shape == x.reshape((3, 2)).shape == x.reshape([3, 2]).shape == (3, 2)
    assert x.reshape(-1).shape == (6,)
    assert x.permute(1, 0).shape == x.permute((1, 0)).shape == (3, 2)
    assert Tensor(np.ones(1)).reshape().shape == ()
    assert x[1, :2].numpy().tolist() == [4, 5]
    assert x.max().item() == 6
    assert x.mean(1).numpy().tolist() == [2, 5]
    assert x.sum(0, keepdim=True).shape == (1, 3)
    assert x.to("float32").dtype == np.float32
    np.testing.assert_allclose(x.log().exp().numpy(), x.numpy())
    with pytest.raises(ShapeError):
        x.reshape(4, 2)


# --- the memory of a graph -------------------------------------------------------------------


def test_saved_bytes_counts_each_array_once():
    x = leaf(np.zeros(100))
    y = x.exp()  # saves y
    z = (y * y + y.sigmoid()).sum()  # mul saves y, sigmoid saves its output
    assert saved_bytes(z) == [("exp", 1, 800), ("sigmoid", 1, 800)]


def test_saved_bytes_of_views():
    x = leaf(np.zeros((10, 10)))
    y = x.exp()
    z = (y.reshape(100) * y.permute(1, 0).reshape(100)[:50].sum()).sum()
    table = {row.operation: row for row in saved_bytes(z)}
    assert table["exp"].bytes == 800
    assert table["mul"] == ("mul", 1, 8)  # only the sum: the view of y is counted as y


def test_saved_bytes_excludes_parameters_and_ends_with_backward(rng):
    x, w = Tensor(rng.normal(size=(1, 2, 4, 4))), Tensor(rng.normal(size=(2, 2, 1, 1)), True)
    y = F.conv2d(F.conv2d(x, w), w).sum()
    assert saved_bytes(y) == [("conv2d", 3, 2 * 32 * 8 + 4 * 8)]
    assert saved_bytes(y, exclude=[w, x]) == [("conv2d", 1, 32 * 8)]
    y.backward()
    assert saved_bytes(y) == []
    assert saved_bytes(x) == []
