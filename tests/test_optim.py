"""The optimiser against PyTorch and hand computation, its states and schedules."""

import copy
import math

import numpy as np
import pytest

from minifcn import Tensor, nn, optim
from minifcn import functional as F


def parameter(values, gradient=None):
    p = nn.Parameter(np.array(values, np.float64))
    p.grad = None if gradient is None else Tensor(np.array(gradient, np.float64))
    return p


# ---- the update --------------------------------------------------------------------------------

FORMS = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True},
]


@pytest.mark.oracle
@pytest.mark.parametrize("settings", FORMS)
def test_five_steps_with_groups_and_rate_changes_are_pytorchs(settings):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in [(4, 3, 2, 2), (4,), ()]]
    ours = [nn.Parameter(a.copy()) for a in start]
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in start]
    optimisers = [
        module.SGD(
            [{"params": p[:1]}, {"params": p[1:], "lr": 0.3, "weight_decay": 0.01}], **settings
        )
        for module, p in ((optim, ours), (torch.optim, theirs))
    ]
    for step in range(5):
        for a, b in zip(ours, theirs, strict=True):
            gradient = rng.standard_normal(a.shape)
            a.grad, b.grad = Tensor(np.array(gradient)), torch.tensor(gradient)
        if step == 3:
            for optimiser in optimisers:
                optimiser.param_groups[0]["lr"] = 0.02
        for optimiser in optimisers:
            optimiser.step()
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_caffes_form_by_hand():
    """h = 0.5 h + lr (g + 0.1 w); w = w - h, with a rate that drops from 0.2 to 0.1."""
    w = parameter([1.0])
    optimiser = optim.SGD([w], lr=0.2, momentum=0.5, weight_decay=0.1, caffe=True)
    w.grad = Tensor(np.array([2.0]))
    optimiser.step()  # h = 0.2 (2 + 0.1) = 0.42
    assert w.item() == pytest.approx(0.58, rel=1e-14)
    optimiser.param_groups[0]["lr"] = 0.1
    w.grad = Tensor(np.array([-1.0]))
    optimiser.step()  # h = 0.21 + 0.1 (-1 + 0.058) = 0.1158
    assert w.item() == pytest.approx(0.4642, rel=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
def test_caffes_and_pytorchs_forms_differ_only_after_the_rate_changes(nesterov):
    weights = []
    for caffe in (False, True):
        w = parameter([1.0, -2.0])
        optimiser = optim.SGD([w], 0.1, 0.9, 0.01, nesterov=nesterov, caffe=caffe)
        history = []
        for step in range(6):
            if step == 4:
                optimiser.scale_lr(0.1)
            w.grad = Tensor(np.cos(w.data + step))
            optimiser.step()
            history.append(w.numpy().copy())
        weights.append(history)
    np.testing.assert_allclose(weights[0][:4], weights[1][:4], rtol=1e-12)
    assert abs(weights[0][4] - weights[1][4]).min() > 1e-3


@pytest.mark.parametrize("shape", [(), (0,), (7,), (300_001,), (3, 140_000), (2, 2, 140_000)])
def test_large_and_odd_shapes_are_updated_completely_and_in_place(shape):
    rng = np.random.default_rng(0)
    w = nn.Parameter(np.array(rng.standard_normal(shape), np.float32))
    array, before = w.data, w.data.copy()
    optimiser = optim.SGD([w], lr=0.5, momentum=0.5)
    gradient = np.array(rng.standard_normal(shape), np.float32)
    for _ in range(2):
        w.grad = Tensor(gradient.copy())
        optimiser.step()
    assert w.data is array
    assert w.dtype == np.float32
    np.testing.assert_allclose(array, before - 1.25 * gradient, rtol=1e-4, atol=1e-5)
    assert np.array_equal(w.grad.data, gradient)  # a gradient is read, never written


def test_weights_and_gradients_of_different_memory_order():
    rng = np.random.default_rng(0)
    w = nn.Parameter(rng.standard_normal((500, 40, 30)).transpose(2, 0, 1))
    gradient = rng.standard_normal((30, 500, 40))
    expected = w.data - 0.1 * gradient
    w.grad = Tensor(gradient)
    optim.SGD([w], lr=0.1, momentum=0.9).step()
    np.testing.assert_allclose(w.data, expected, rtol=1e-12)


def test_a_step_makes_no_second_copy_of_a_large_weight():
    import tracemalloc

    w = nn.Parameter(np.zeros((1000, 4000), np.float32))  # 16 MB
    optimiser = optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.1, caffe=True)
    w.grad = Tensor(np.ones((1000, 4000), np.float32))
    optimiser.step()  # makes the momentum, which stays
    tracemalloc.start()
    try:
        optimiser.step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < w.data.nbytes / 2


def test_parameters_without_gradient_are_left_alone():
    still, moving = parameter([1.0]), parameter([1.0], [1.0])
    optimiser = optim.SGD([still, moving], lr=0.1, momentum=0.9, weight_decay=0.5)
    optimiser.step()
    assert still.item() == 1.0
    assert moving.item() != 1.0
    optim.SGD([still], lr=0.1).step()  # nothing to do at all
    optimiser.zero_grad()
    assert still.grad is moving.grad is None


def test_a_frozen_layer_passes_the_gradient_on_but_is_not_updated():
    rng = np.random.default_rng(0)
    net = nn.Sequential(first=nn.Linear(3, 4, rng=rng), frozen=nn.Linear(4, 2, rng=rng))
    net["frozen"].requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    optimiser = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    F.sum(net(Tensor(np.ones((5, 3), np.float32)))).backward()
    assert abs(net["first"].weight.grad.numpy()).max() > 0
    assert net["frozen"].weight.grad is None
    net["frozen"].weight.grad = Tensor(np.ones((2, 4), np.float32))  # from before it was frozen
    optimiser.step()
    changed = {name for name, a in net.state_dict().items() if not np.array_equal(a, before[name])}
    assert changed == {"first.weight", "first.bias"}


def test_momentum_follows_a_model_that_is_converted():
    net = nn.Linear(2, 2, rng=np.random.default_rng(0))
    optimiser = optim.SGD(net.parameters(), lr=1.0, momentum=0.5)
    for dtype in (np.float32, np.float64):
        net.to(dtype)
        before = net.bias.numpy().copy()
        net.bias.grad = Tensor(np.ones(2, dtype))
        optimiser.step()
    np.testing.assert_allclose(net.bias.numpy(), before - 1.5)
    assert optimiser.state_dict()["momenta"][1].dtype == np.float64


def test_descent_finds_the_minimum():
    target = np.array([3.0, -1.0])
    w = parameter([0.0, 0.0])
    optimiser = optim.SGD([w], lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(200):
        optimiser.zero_grad()
        error = w - Tensor(target)
        F.sum(error * error).backward()
        optimiser.step()
    np.testing.assert_allclose(w.numpy(), target, atol=1e-6)


# ---- what an optimiser refuses -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "settings", "message"),
    [
        ([], {}, "no parameters to optimise"),
        ([{"params": []}], {}, "no parameters to optimise"),
        ([{"lr": 0.1}], {}, "no parameters to optimise"),
        ([{"params": [parameter([1.0])], "rate": 1}], {}, "no 'rate': use params, lr, momentum"),
        ([("bias", parameter([1.0]))], {}, r"such as model\.parameters\(\).* given a tuple"),
        (nn.Linear(2, 2), {}, "given a Linear"),
        ([Tensor(np.zeros(2, np.int64))], {}, "takes floating-point Parameters"),
        ([parameter([1.0]) * 2], {}, "the result of an operation"),
        (None, {"lr": -0.1}, "lr=-0.1 must be a number of at least 0, and finite"),
        (None, {"lr": math.nan}, "lr=nan must be"),
        (None, {"lr": math.inf}, "lr=inf must be"),
        (None, {"lr": "0.1"}, "lr='0.1' must be"),
        (None, {"lr": True}, "lr=True must be"),
        (None, {"momentum": 1.0}, "momentum=1.0 must be a number of at least 0, and below 1"),
        (None, {"momentum": -0.5}, "momentum=-0.5 must be"),
        (None, {"weight_decay": -1e-4}, "weight_decay=-0.0001 must be"),
        (None, {"nesterov": True}, "nesterov=True needs a momentum above 0"),
    ],
)
def test_bad_arguments_are_refused(params, settings, message):
    params = [parameter([1.0])] if params is None else params
    with pytest.raises(optim.OptimError, match=message):
        optim.SGD(params, **{"lr": 0.1, **settings})


def test_a_parameter_given_twice_is_refused():
    p = parameter([1.0, 2.0])
    for params in ([p, p], [{"params": [p]}, {"params": [p]}]):
        with pytest.raises(optim.OptimError, match=r"parameter . of group ., \(2,\) was given"):
            optim.SGD(params, lr=0.1)


# ---- groups and schedules ----------------------------------------------------------------------


def test_groups_take_the_arguments_they_do_not_set():
    groups = [{"params": [parameter([1.0])], "lr": 0.5}, {"params": parameter([1.0])}]
    optimiser = optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.2)
    settings = [[g[n] for n in optim.SETTINGS] for g in optimiser.param_groups]
    assert settings == [[0.5, 0.9, 0.2], [0.1, 0.9, 0.2]]
    assert "momentum" not in groups[0]  # the caller's dictionaries stay as they are


def test_bias_groups_are_the_published_settings():
    net = nn.Sequential(fc1=nn.Linear(2, 3), up=nn.ConvTranspose2d(3, 3, 4, 2, bias=False))
    weights, biases = optim.bias_groups(net, lr=0.1, weight_decay=5e-4)
    assert weights["params"] == [net["fc1"].weight, net["up"].weight]
    assert biases["params"] == [net["fc1"].bias]
    assert (weights["lr"], weights["weight_decay"]) == (0.1, 5e-4)
    assert (biases["lr"], biases["weight_decay"]) == (0.2, 0.0)
    assert len(optim.bias_groups(net["up"], lr=0.1, weight_decay=0.0)) == 1
    assert optim.bias_groups(nn.ReLU(), lr=0.1, weight_decay=0.0) == []


def test_schedules_scale_every_groups_own_rate():
    groups = [{"params": [parameter([1.0])]}, {"params": [parameter([1.0])], "lr": 0.2}]
    optimiser = optim.SGD(groups, lr=0.1)
    schedule = optim.step(10, gamma=0.5)
    for number in (25, 10, 5):  # any order: nothing is remembered
        optimiser.scale_lr(schedule(number))
        factor = 0.5 ** (number // 10)
        rates = [group["lr"] for group in optimiser.param_groups]
        assert rates == pytest.approx([0.1 * factor, 0.2 * factor])


def test_the_schedules_formulas():
    assert [optim.fixed()(i) for i in (0, 10**6)] == [1, 1]
    assert [optim.step(3, 0.1)(i) for i in (0, 2, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [optim.poly(10, 0.9)(i) for i in (0, 5, 10, 11)] == pytest.approx([1, 0.5**0.9, 0, 0])
    warm = optim.warmup(optim.poly(10), 5)
    assert [warm(i) for i in (0, 4, 5)] == pytest.approx([0.2, 0.6, 0.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.step(0), "step_size=0 must be a whole number of at least 1"),
        (lambda: optim.step(5, -1), "gamma=-1 must be"),
        (lambda: optim.poly(2.5), "max_steps=2.5 must be"),
        (lambda: optim.poly(5, math.nan), "power=nan must be"),
        (lambda: optim.warmup(optim.fixed(), -3), "steps=-3 must be"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(optim.OptimError, match=message):
        make()


# ---- states ------------------------------------------------------------------------------------


def run(optimiser, weights, steps):
    schedule = optim.warmup(optim.poly(20), 3)
    for number in steps:
        optimiser.scale_lr(schedule(number))
        for w in weights:
            w.grad = Tensor(np.sin(w.data * (number + 1)))
        optimiser.step()


@pytest.mark.parametrize("form", [{}, {"nesterov": True}, {"caffe": True}])
def test_a_resumed_run_is_exactly_the_uninterrupted_one(form):
    def fresh():
        weights = [parameter([1.0, 2.0]), parameter([3.0])]
        groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.2}]
        return weights, optim.SGD(groups, 0.1, 0.9, 0.01, **form)

    weights, optimiser = fresh()
    run(optimiser, weights, range(10))

    first, before = fresh()
    run(before, first, range(5))
    second, after = fresh()
    after.load_state_dict(before.state_dict())
    for w, saved in zip(second, first, strict=True):
        w.data[...] = saved.data
    run(before, first, range(5, 10))  # must not touch what the other one loaded
    run(after, second, range(5, 10))
    for a, b in zip(weights, second, strict=True):
        assert np.array_equal(a.data, b.data)


def test_a_state_loads_settings_and_unused_momenta():
    source = optim.SGD([parameter([1.0], [1.0]), parameter([1.0])], 0.5, 0.9, 0.1)
    source.step()
    source.scale_lr(0.5)
    target = optim.SGD([parameter([1.0]), parameter([1.0])], 0.1, 0.5)
    target.load_state_dict(source.state_dict())
    assert {k: v for k, v in target.param_groups[0].items() if k != "params"} == {
        "lr": 0.25,
        "momentum": 0.9,
        "weight_decay": 0.1,
        "initial_lr": 0.5,
    }
    assert target.state_dict()["momenta"][0].tolist() == [1.1]
    assert target.state_dict()["momenta"][1] is None


def state_with(**changes):
    optimiser = optim.SGD([parameter([1.0], [1.0])], 0.5, 0.9)
    optimiser.step()
    return {**optimiser.state_dict(), **changes}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"groups": []}, "not a state of SGD: it lacks caffe, momenta, nesterov"),
        (state_with(caffe=True), "saved with caffe=True, this SGD has caffe=False"),
        (state_with(nesterov=True), "saved with nesterov=True"),
        (state_with(groups=[]), "the state has 0 groups, this SGD has 1"),
        (state_with(momenta=[None, None]), "the state has 2 parameters, this SGD has 1"),
        (state_with(momenta=[np.zeros(2)]), r"parameter 0 of group 0, \(1,\) .*\(2,\) float64"),
        (state_with(momenta=[np.zeros(1, "f")]), r"float64: its momentum .*\(1,\) float32"),
        (state_with(momenta=[[0.0]]), r"its momentum in the state is \[0\.0\]"),
        (state_with(groups=[{"lr": -1.0}]), "lr=-1.0 must be"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(state, message):
    optimiser = optim.SGD([parameter([1.0])], 0.125, 0.75)
    with pytest.raises(optim.OptimError, match=message):
        optimiser.load_state_dict(state)
    assert optimiser.param_groups[0]["lr"] == 0.125
    assert optimiser.state_dict()["momenta"] == [None]


def test_a_step_on_the_gpu_is_the_cpus(cupy):
    results = []
    for device in ("cpu", "cuda"):
        net = nn.Linear(300, 500, rng=np.random.default_rng(0)).to(device)
        optimiser = optim.SGD(net.parameters(), 0.1, 0.9, 0.01, nesterov=True)
        for _ in range(3):
            for p in net.parameters():
                p.grad = Tensor(p.data + 1)
            optimiser.step()
        net.to("cpu")  # the momentum follows
        net.bias.grad = Tensor(net.bias.data + 1)
        net.weight.grad = None
        optimiser.step()
        results.append(net.state_dict())
    for name, array in results[0].items():
        np.testing.assert_allclose(results[1][name], array, rtol=1e-5, atol=1e-7)


@pytest.mark.oracle
@pytest.mark.parametrize("limit", [0.5, 2.0, 100.0])
def test_clipping_is_that_of_pytorch(limit):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in [(3, 4), (5,), (2, 1, 2)]]
    ours = [Tensor(np.zeros(a.shape), requires_grad=True) for a in arrays]
    theirs = [torch.zeros(a.shape, dtype=torch.float64, requires_grad=True) for a in arrays]
    for mine, other, a in zip(ours, theirs, arrays, strict=True):
        mine.grad, other.grad = Tensor(a.copy()), torch.from_numpy(a.copy())
    ours.append(Tensor(np.zeros(3), requires_grad=True))  # one without a gradient
    norm = optim.clip_grad_norm_(ours, limit)
    assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, limit).item())
    for mine, other in zip(ours, theirs, strict=False):
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-12)


def test_clipping_leaves_infinite_gradients_for_the_loss_to_find():
    w = Tensor(np.zeros(2), requires_grad=True)
    w.grad = Tensor(np.array([np.inf, 1.0]))
    assert optim.clip_grad_norm_([w], 1.0) == np.inf
    np.testing.assert_array_equal(w.grad.numpy(), [np.inf, 1.0])


@pytest.mark.parametrize("limit", [0, -1.0, np.nan, "3"])
def test_clipping_to_something_else_than_a_positive_number_is_an_error(limit):
    with pytest.raises(optim.OptimError, match="max_norm"):
        optim.clip_grad_norm_([], limit)
