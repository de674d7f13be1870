"""Statistics of layers: what they are, that they change nothing, and what they cost."""

import time

import numpy as np
import pytest
from run_folders import RECIPE, TRAIN, WIDTHS

from minifcn import data, models, nn
from minifcn.autograd import Tensor
from minifcn.layer_statistics import STATISTICS, layer_statistics
from minifcn.loop import Training
from minifcn.optim import SGD


def net(name="fcn8s", widths=WIDTHS):
    return models.build(
        name, num_classes=4, backbone="small", widths=widths, rng=np.random.default_rng(0)
    )


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("caffe", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_numbers_are_those_of_the_layers(caffe, momentum):
    layers = nn.Sequential(conv=nn.Conv2d(3, 5, 3), relu=nn.ReLU(), fc=nn.Conv2d(5, 2, 1))
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(2, 3, 9, 9)).astype(np.float32))
    optimizer = SGD(layers.parameters(), lr=0.1, momentum=momentum, caffe=caffe)
    for _ in range(2):
        before = {name: array.copy() for name, array in layers.state_dict().items()}
        outputs = {"conv": layers.conv(x).numpy().clip(0), "fc": layers(x).numpy()}
        optimizer.zero_grad()
        with layer_statistics(layers, optimizer) as found:
            layers(x).sum().backward()
            optimizer.step()
        for name in ("conv", "fc"):
            y, layer = outputs[name][0], getattr(layers, name)
            expected = {
                "mean": y.mean(),
                "std": y.std(),
                "zeros": np.mean(y == 0),
                "negatives": np.mean(y < 0),
                "gradient": rms(layer.weight.grad.data),
                "weight": rms(layer.weight.data),
                "update": rms(layer.weight.data - before[f"{name}.weight"])
                / rms(layer.weight.data),
            }
            assert list(found[name]) == list(STATISTICS)
            assert found[name] == pytest.approx(expected, rel=2e-3, abs=1e-6)
    assert list(found) == ["conv", "fc"]  # a ReLU has no weights


def test_a_large_output_is_looked_at_here_and_there():
    layers = nn.Sequential(conv=nn.Conv2d(1, 4, 1))
    x = Tensor(np.random.default_rng(0).normal(size=(1, 1, 800, 800)).astype(np.float32))
    optimizer = SGD(layers.parameters(), lr=0.0)
    with layer_statistics(layers, optimizer) as found:
        y = layers(x)
        y.sum().backward()
    assert found["conv"]["std"] == pytest.approx(float(y.numpy().std()), rel=0.02)


def test_layers_that_do_not_learn_have_no_gradient_and_infinite_numbers_are_none():
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.score_pool3.weight.data[...] = np.inf
    x = Tensor(np.ones((1, 3, 64, 64), np.float32))
    with np.errstate(invalid="ignore"), layer_statistics(model, optimizer) as found:
        model(x)
    assert "gradient" not in found["upscore8"]
    assert found["score_pool3"]["weight"] is None
    assert found["conv1_1"]["weight"] > 0


def test_nothing_stays_behind_also_after_an_error():
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    with layer_statistics(model, optimizer):
        assert "forward" in vars(model.conv1_1)
    with pytest.raises(ZeroDivisionError), layer_statistics(model, optimizer):
        raise ZeroDivisionError
    assert not [name for name, layer in model.named_modules() if "forward" in vars(layer)]


def test_looking_does_not_change_a_bit():
    states = []
    for looked in (False, True):
        training = Training(net(), data.Loader(TRAIN, 2, seed=1), RECIPE)
        if looked:
            training.looking = lambda model, optimizer, step: layer_statistics(model, optimizer)
        losses = [step.loss for step in training.steps()]
        states.append((losses, training.model.state_dict()))
    (losses, plain), (again, seen) = states
    assert losses == again
    assert all(np.array_equal(plain[name], seen[name]) for name in plain)


def test_a_gpu_is_asked_once(cupy, monkeypatch):
    from minifcn import layer_statistics as statistics

    asked = []
    fetch = statistics.to_numpy
    monkeypatch.setattr(statistics, "to_numpy", lambda x: asked.append(x.size) or fetch(x))
    model = net().to("cuda")
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    with layer_statistics(model, optimizer) as found:
        model(Tensor(np.ones((1, 3, 64, 64), np.float32)).to("cuda")).sum().backward()
        optimizer.step()
    assert asked == [sum(len(layer) for layer in found.values())]
    assert found["fc6"]["weight"] == pytest.approx(rms(model.fc6.weight.numpy()), rel=1e-3)


def test_a_look_costs_less_than_a_step():
    """One step of a hundred is looked at: that is less than a hundredth of the time."""
    model = net(widths=(24, 48, 64, 96, 96))
    loader = data.Loader(data.shapes("train", length=16, size=128), 4)
    training = Training(model, loader, RECIPE)
    batch = [next(loader.steps())]
    training.step(batch)
    plain = min(_seconds(lambda: training.step(batch)) for _ in range(3))

    def look():
        with layer_statistics(training.model, training.optimizer):
            training.step(batch)

    assert min(_seconds(look) for _ in range(3)) < 2 * plain


def _seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
