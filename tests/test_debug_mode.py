"""Debugging: what made a number that is not finite, forward and backward."""

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor, nn
from minifcn.autograd import debug, no_grad
from minifcn.backend import NotFiniteError, OutOfMemoryError


def test_the_operation_is_named_forward():
    x = Tensor(np.array([1.0, 0.0]), requires_grad=True)
    with debug(), np.errstate(all="ignore"):
        with pytest.raises(NotFiniteError, match=r"^div made nan of x \(2,\) from 0 to 1 and y \("):
            x / (x * 0 + np.array([1.0, 0.0]))
        with no_grad(), pytest.raises(NotFiniteError, match=r"^log made inf"):
            x.log()
    with np.errstate(all="ignore"):
        assert np.isinf(x.log().numpy()).any()


def test_the_operation_is_named_backward():
    x = Tensor(np.array([4.0, 0.0]), requires_grad=True)
    with debug(), np.errstate(all="ignore"):
        y = x.sqrt().sum()
        message = r"^d sqrt / d x made inf of the gradient \(2,\) from 1 to 1 and x \(2,\)"
        with pytest.raises(NotFiniteError, match=message):
            y.backward()


def test_the_layer_is_named_forward_and_backward():
    net = nn.Sequential(a=nn.Linear(2, 3), b=nn.Linear(3, 1))
    net.b.weight.data[0, 1] = np.nan
    with debug(), pytest.raises(NotFiniteError, match=r"^linear made nan of x \(5, 3\)") as caught:
        net(Tensor(np.ones((5, 2), "f")))
    assert caught.value.__notes__ == ["in layer 'b': Linear(3 -> 1)"]
    net.b.weight.data[...] = 3e38
    with debug(), np.errstate(all="ignore"):
        y = net(Tensor(np.zeros((5, 2), "f")))
        with (
            pytest.raises(NotFiniteError, match=r"^d linear / d ") as caught,
            nn.naming_layers(net),
        ):
            y.backward(Tensor(np.full(y.shape, 10.0, "f")))
    assert caught.value.__notes__ == ["in layer 'b'"]


def test_advice_is_for_errors_of_memory():
    net = nn.Sequential(a=nn.Linear(2, 3))
    for error, expected in ((OutOfMemoryError("full"), ["less"]), (NotFiniteError("nan"), [])):
        with pytest.raises(type(error)), nn.naming_layers(net, "less"):
            raise error
        assert getattr(error, "__notes__", []) == expected


def test_a_label_that_is_no_class_has_its_own_check():
    F.check_labels(np.array([[0, 3], [255, 2]]), classes=4)
    F.check_labels(np.array([-1, 2], np.int8), classes=3, ignore_index=-1)
    with pytest.raises(
        F.LabelError, match="label 3 at image 1 is no class: there are classes 0 to"
    ):
        F.check_labels(np.array([0, 3]), classes=3)
