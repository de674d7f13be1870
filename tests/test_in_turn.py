"""A chain of layers computes what a plain loop over them computes."""

import numpy as np
import pytest

from minifcn import Tensor, models, nn
from minifcn.autograd import debug
from minifcn.backend import Error

CHAINS = {
    "conv relu": lambda rng: {"conv": nn.Conv2d(3, 4, 3, rng=rng), "relu": nn.ReLU()},
    "conv relu pool": lambda rng: {
        "conv": nn.Conv2d(3, 4, 3, rng=rng),
        "relu": nn.ReLU(),
        "pool": nn.MaxPool2d(2, ceil_mode=True),
    },
    "relu first": lambda rng: {"relu": nn.ReLU(), "conv": nn.Conv2d(3, 4, 1, rng=rng)},
    "relu pool relu": lambda rng: {"a": nn.ReLU(), "pool": nn.MaxPool2d(3, 2), "b": nn.ReLU()},
    "two stages": lambda rng: (
        models.vgg_trunk(((4, 4), (6,)), 8, padding=1, fc6_kernel=3, fc6_padding=1, rng=rng).layers
    ),
    "linear": lambda rng: {
        "pool": nn.MaxPool2d(9),
        "flatten": nn.Flatten(),
        "linear": nn.Linear(3, 4, rng=rng),
        "relu": nn.ReLU(),
    },
}


def data():
    rng = np.random.default_rng(1)
    x = np.maximum(rng.normal(size=(2, 3, 17, 15)), -0.5)  # with ties
    return Tensor(x.astype(np.float32), requires_grad=True)


def results(outputs, layers, x):
    rng = np.random.default_rng(2)
    output = outputs(x)
    (output * Tensor(rng.normal(size=output.shape).astype(np.float32))).sum().backward()
    parameters = [p for layer in layers.values() for p in layer.parameters()]
    arrays = [output.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in parameters)]
    for parameter in parameters:
        parameter.grad = None
    return arrays


@pytest.mark.parametrize("chain", CHAINS)
def test_outputs_and_gradients_are_those_of_a_plain_loop(chain):
    layers = CHAINS[chain](np.random.default_rng(0))
    layers = {name: layer.eval() for name, layer in layers.items()}

    def loop(x):
        for layer in layers.values():
            x = layer(x)
        return x

    expected = results(loop, layers, data())
    with debug():  # tells if something overwrote what a gradient rule has still to read
        found = results(nn.Sequential(layers), layers, data())
    assert np.array_equal(found[0], expected[0])
    for mine, theirs in zip(found, expected, strict=True):
        # The sum of a bias's gradient goes another way through an array with gaps.
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_input_is_never_overwritten():
    x = data()
    before = x.numpy().copy()
    for make in CHAINS.values():
        nn.Sequential(make(np.random.default_rng(0)))(x)
        assert np.array_equal(x.numpy(), before)


def test_a_convolution_does_the_work_of_the_relu_behind_it():
    layers = CHAINS["conv relu"](np.random.default_rng(0))
    told = []

    def forward(x, **options):
        told.append(options)
        return nn.Conv2d.forward(layers["conv"], x, **options)

    layers["conv"].forward = forward
    outputs = dict(nn.in_turn(layers, data()))
    assert list(outputs) == ["relu"]
    assert outputs["relu"].numpy().min() == 0
    assert told == [{"relu": True}]


def test_an_error_names_the_layer_that_found_it():
    layers = CHAINS["conv relu pool"](np.random.default_rng(0))
    for name, chain in (("conv", ["conv", "relu"]), ("pool", ["relu", "pool"])):
        with pytest.raises(Error) as caught:
            nn.Sequential({n: layers[n] for n in chain})(Tensor(np.zeros((1, 2, 0, 9), np.float32)))
        assert caught.value.__notes__ == [f"in layer {name!r}: {layers[name]!r}"]


def test_a_pooling_comes_before_its_relu():
    layers = CHAINS["conv relu pool"](np.random.default_rng(0))
    outputs = dict(nn.in_turn(layers, data()))
    assert list(outputs) == ["conv", "pool"]
    assert outputs["pool"].node.op.name == "relu"
    assert outputs["conv"].numpy().min() < 0


@pytest.mark.parametrize(("needed", "names"), [("conv", "conv pool"), ("relu", "relu pool")])
def test_outputs_that_are_needed_are_what_the_layers_put_out(needed, names):
    layers = CHAINS["conv relu pool"](np.random.default_rng(0))
    x, outputs = data(), {}
    for name, output in nn.in_turn(layers, x, needed={needed}):
        outputs[name] = output
    assert list(outputs) == names.split()
    conv = layers["conv"](x)
    expected = {"conv": conv, "relu": layers["relu"](conv)}[needed]
    assert np.array_equal(outputs[needed].numpy(), expected.numpy())


def test_a_class_made_from_relu_is_called_as_it_is():
    class Leaky(nn.ReLU):
        def forward(self, x):
            return x * 0.5

    layers = {"conv": nn.Conv2d(3, 2, 1, rng=np.random.default_rng(0)), "leaky": Leaky()}
    x = data()
    expected = layers["conv"](x).numpy() * 0.5
    assert np.array_equal(nn.Sequential(layers)(x).numpy(), expected)
