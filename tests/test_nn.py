"""Modules, their parameters and states, and the layers."""

import copy
import pickle

import numpy as np
import pytest

from minifcn import Error, Tensor, nn
from minifcn import functional as F
from minifcn.backend import DeviceError, DTypeError
from minifcn.shapes import ShapeError


def generator():
    return np.random.default_rng(0)


class Block(nn.Module):
    """A parameter, a layer, and another parameter, in that order."""

    def __init__(self):
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.layer = nn.Linear(3, 2, rng=generator())
        self.shift = nn.Parameter(np.zeros(2, np.float32))

    def forward(self, x):
        return self.layer(x) * self.scale + self.shift


def names(module):
    return [name for name, _ in module.named_parameters()]


# ---- Module: what belongs to it ----------------------------------------------------------------


def test_parameters_are_listed_depth_first_in_the_order_of_assignment():
    assert names(Block()) == ["scale", "layer.weight", "layer.bias", "shift"]
    assert list(Block().state_dict()) == names(Block())


def test_a_parameter_requires_a_gradient_unless_frozen():
    assert nn.Parameter(np.zeros(1)).requires_grad
    assert not nn.Parameter(np.zeros(1), requires_grad=False).requires_grad
    with pytest.raises(DTypeError, match="floating-point"):
        nn.Parameter(np.zeros(1, np.int64))


def test_a_plain_tensor_is_not_a_parameter():
    module = Block()
    module.constant = Tensor(np.ones(2, np.float32), requires_grad=True)
    assert "constant" not in names(module)


def test_modules_are_listed_with_their_dotted_names():
    net = nn.Sequential(first=Block(), second=nn.ReLU())
    assert [name for name, _ in net.named_modules()] == ["", "first", "first.layer", "second"]
    assert [name for name, _ in net.named_children()] == ["first", "second"]


def test_shared_parameters_and_modules_are_listed_once():
    block = Block()
    block.again = block.scale
    block.layer_again = block.layer
    assert names(block) == names(Block())
    assert block.num_parameters() == Block().num_parameters() == 2 + 8 + 2
    assert [name for name, _ in block.named_modules()] == ["", "layer"]


def test_a_module_that_refers_to_its_owner_is_no_endless_loop():
    block = Block()
    block.layer.owner = block
    assert names(block) == names(Block())


def test_assigning_another_module_replaces_the_first_and_keeps_its_place():
    block = Block()
    block.layer = nn.Linear(5, 2)
    assert names(block) == names(Block())
    assert block.layer.weight.shape == (2, 5)


@pytest.mark.parametrize("wrap", [lambda m: [m], lambda m: (m,), lambda m: {"m": m}])
def test_modules_hidden_in_a_container_are_refused(wrap):
    block = Block()
    block.hidden = wrap(nn.ReLU())
    with pytest.raises(nn.LayerError, match=r"Block\.hidden is a .* an nn\.Sequential"):
        names(block)
    block.hidden = wrap(block.layer)  # a second way to reach a registered module is fine
    assert names(block) == names(Block())


def test_train_and_eval_reach_every_module():
    net = nn.Sequential(nn.Sequential(nn.Dropout()), nn.ReLU())
    assert all(module.training for _, module in net.named_modules())
    assert net.eval() is net
    assert not any(module.training for _, module in net.named_modules())
    net.train()
    assert all(module.training for _, module in net.named_modules())
    assert nn.Module.training


def test_zero_grad_and_requires_grad():
    block = Block()
    F.sum(block(Tensor(np.ones((4, 3), np.float32)))).backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    block.zero_grad()
    assert all(parameter.grad is None for parameter in block.parameters())
    block.requires_grad_(False)
    assert not block(Tensor(np.ones((4, 3), np.float32))).requires_grad


def test_a_module_without_forward_says_so():
    with pytest.raises(nn.LayerError, match="Module does not define forward"):
        nn.Module()(1)


def test_the_repr_is_a_tree():
    net = nn.Sequential(block=nn.Sequential(nn.Linear(2, 3)), drop=nn.Dropout(0.25))
    assert repr(net).splitlines() == [
        "Sequential(",
        "  block: Sequential(",
        "    0: Linear(2 -> 3)",
        "  )",
        "  drop: Dropout(p 0.25)",
        ")",
    ]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_module_is_independent(again):
    block = Block()
    twin = again(block)
    assert names(twin) == names(block)
    twin.scale.data[...] = 7
    assert block.scale.numpy().tolist() == [1, 1]
    assert twin.scale.requires_grad
    assert isinstance(twin.scale, nn.Parameter)


# ---- Module: moving ----------------------------------------------------------------------------


def test_to_converts_in_place():
    block = Block()
    before = list(block.parameters())
    F.sum(block(Tensor(np.ones((4, 3), np.float32)))).backward()
    assert block.to(np.float64) is block
    assert all(a is b for a, b in zip(before, block.parameters(), strict=True))
    assert {p.dtype.name for p in before} == {p.grad.dtype.name for p in before} == {"float64"}
    assert block(Tensor(np.ones((4, 3)))).dtype == np.float64


def test_to_the_device_where_it_is_changes_nothing():
    block = Block()
    arrays = [p.data for p in block.parameters()]
    block.to("cpu")
    assert all(a is p.data for a, p in zip(arrays, block.parameters(), strict=True))


@pytest.mark.parametrize("target", ["float33", int, None, "gpu", 3, np.int8])
def test_to_something_else_is_an_error(target):
    with pytest.raises(DTypeError, match=r"give a device .* or a floating-point type"):
        Block().to(target)


def test_to_an_impossible_device_is_an_error():
    with pytest.raises(DeviceError):
        Block().to("cuda:x")


# ---- Module: states ----------------------------------------------------------------------------


def test_a_state_is_copied_into_the_parameters():
    source, target = Block(), Block()
    source.scale.data[...] = 5
    parameter, array = target.scale, target.scale.data
    assert target.load_state_dict(source.state_dict()) == ([], [])
    assert target.scale is parameter
    assert target.scale.data is array
    assert array.tolist() == [5, 5]
    source.scale.data[...] = 6
    assert array.tolist() == [5, 5]


def test_one_error_shows_everything_that_does_not_fit_and_nothing_is_loaded():
    block = Block()
    state = copy.deepcopy(block.state_dict())
    for array in state.values():
        array += 1
    del state["shift"]
    state["extra"] = np.zeros(4)
    state["layer.weight"] = np.zeros((2, 4), np.float32)
    state["layer.bias"] = np.zeros(2)
    with pytest.raises(nn.StateError) as caught:
        block.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "the state does not fit this Block; nothing was loaded",
        "  missing from the state: shift (2,)",
        "  not in the module: extra (4,)",
        "  wrong shape: layer.weight is (2, 3) here, (2, 4) in the state",
        "  wrong type: layer.bias is float32 here, float64 in the state",
    ]
    assert block.scale.numpy().tolist() == [1, 1]


def test_strict_false_loads_what_both_have_but_never_a_wrong_shape():
    block = Block()
    with pytest.raises(nn.StateError, match="strict=False"):
        block.load_state_dict({"scale": np.full(2, 9, np.float32)})
    unmatched = block.load_state_dict(
        {"scale": np.full(2, 9, np.float32), "other": np.zeros(1)}, strict=False
    )
    assert unmatched.missing == ["layer.weight", "layer.bias", "shift"]
    assert unmatched.unexpected == ["other"]
    assert block.scale.numpy().tolist() == [9, 9]
    with pytest.raises(nn.StateError, match=r"wrong shape: scale is \(2,\) here, \(1,\)"):
        block.load_state_dict({"scale": np.ones(1, np.float32)}, strict=False)


def test_a_state_of_something_else_than_arrays_is_an_error():
    with pytest.raises(nn.StateError, match=r"not an array: scale is a builtins\.list"):
        Block().load_state_dict({**Block().state_dict(), "scale": [1.0, 1.0]})
    with pytest.raises(nn.StateError, match="mapping of names to arrays"):
        Block().load_state_dict("weights.safetensors")


# ---- Sequential --------------------------------------------------------------------------------


def test_sequential_names_by_position_keyword_or_dictionary():
    relu = nn.ReLU()
    for net, expected in [
        (nn.Sequential(relu, relu), ["0", "1"]),
        (nn.Sequential(conv1_1=relu, relu1_1=relu), ["conv1_1", "relu1_1"]),
        (nn.Sequential({"conv1_1": relu, "relu1_1": relu}), ["conv1_1", "relu1_1"]),
        (nn.Sequential(relu, last=relu), ["0", "last"]),
        (nn.Sequential().append(relu).append(relu, "last"), ["0", "last"]),
        (nn.Sequential(), []),
    ]:
        assert [name for name, _ in net.named_children()] == expected
        assert len(net) == len(list(net)) == len(expected)


def test_sequential_is_indexed_by_number_name_and_slice():
    net = nn.Sequential(a=nn.ReLU(), b=nn.Dropout(), c=nn.ReLU())
    assert net[0] is net["a"] is net.a
    assert net[-1] is net["c"]
    assert [name for name, _ in net[1:].named_children()] == ["b", "c"]
    assert net[1:][0] is net.b
    for key in (3, -4, "d", "training"):
        with pytest.raises(nn.LayerError, match=f"no module {key!r}; it has a, b, c"):
            net[key]


@pytest.mark.parametrize("name", ["a.b", "", "training", "forward", "taken"])
def test_sequential_refuses_names_that_would_not_work(name):
    with pytest.raises(nn.LayerError, match="cannot name a module"):
        nn.Sequential(taken=nn.ReLU()).append(nn.ReLU(), name)


def test_sequential_refuses_what_is_not_a_module():
    with pytest.raises(nn.LayerError, match=r"'0' must be a Module.* not the class ReLU"):
        nn.Sequential(nn.ReLU)
    with pytest.raises(nn.LayerError, match=r"'x' must be a Module.* not 3"):
        nn.Sequential(x=3)


def test_an_error_inside_a_sequential_names_the_layer():
    net = nn.Sequential(conv1=nn.Conv2d(3, 4, 1), conv2=nn.Conv2d(5, 6, 1))
    with pytest.raises(Error) as caught:
        net(Tensor(np.zeros((1, 3, 4, 4), np.float32)))
    assert caught.value.__notes__ == ["in layer 'conv2': Conv2d(5 -> 6, kernel 1, stride 1)"]


# ---- layers ------------------------------------------------------------------------------------


def test_geometry_is_stored_as_pairs():
    conv = nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), dilation=2, groups=2)
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 5), (2, 2), (1, 2))
    assert (conv.dilation, conv.groups) == ((2, 2), 2)
    up = nn.ConvTranspose2d(4, 6, 4, stride=2, output_padding=1)
    assert (up.kernel_size, up.stride, up.padding) == ((4, 4), (2, 2), (0, 0))
    assert (up.output_padding, up.dilation) == ((1, 1), (1, 1))
    pool = nn.MaxPool2d((2, 3))
    assert (pool.kernel_size, pool.stride) == ((2, 3), (2, 3))
    assert (pool.padding, pool.dilation) == ((0, 0), (1, 1))
    assert nn.AvgPool2d(3, 1, 1).padding == (1, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(0, 1, 3), "Conv2d: in_channels=0 must be"),
        (lambda: nn.Conv2d(1, 2.5, 3), "Conv2d: out_channels=2.5 must be"),
        (lambda: nn.Conv2d(1, 1, 0), "Conv2d: kernel_size=0 must be"),
        (lambda: nn.Conv2d(1, 1, 3, stride=0), "Conv2d: stride=0 must be"),
        (lambda: nn.Conv2d(1, 1, 3, padding=-1), "Conv2d: padding=-1 must be"),
        (lambda: nn.Conv2d(1, 1, 3, dilation=0), "Conv2d: dilation=0 must be"),
        (lambda: nn.Conv2d(1, 1, 3, groups=0), "Conv2d: groups=0 must be"),
        (lambda: nn.Conv2d(4, 6, 3, groups=4), "Conv2d: 4 input and 6 output channels .* 4 equal"),
        (lambda: nn.Conv2d(3, 6, 3, groups=2), "Conv2d: 3 input and 6 output channels .* 2 equal"),
        (lambda: nn.ConvTranspose2d(1, 1, 3, output_padding=-1), "output_padding=-1 must be"),
        (lambda: nn.ConvTranspose2d(1, 2, 3, groups=2), "ConvTranspose2d: 1 input and 2 output"),
        (lambda: nn.MaxPool2d(0), "MaxPool2d: kernel_size=0 must be"),
        (lambda: nn.MaxPool2d(2, stride=0), "MaxPool2d: stride=0 must be"),
        (lambda: nn.AvgPool2d(2, padding=-1), "AvgPool2d: padding=-1 must be"),
        (lambda: nn.LocalResponseNorm(0), "LocalResponseNorm: size=0 must be"),
        (lambda: nn.Linear(True, 1), "Linear: in_features=True must be"),
        (lambda: nn.Dropout(1.0), r"Dropout: p=1.0 must be at least 0 and less than 1"),
        (lambda: nn.Dropout(-0.1), r"Dropout: p=-0.1 must be"),
        (lambda: nn.Dropout(float("nan")), r"Dropout: p=nan must be"),
    ],
)
def test_bad_settings_are_refused_when_the_layer_is_made(make, message):
    with pytest.raises((nn.LayerError, ShapeError), match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Conv2d(4, 8, 3, 2, 1, 2, 2, False), None),
        (nn.Conv2d(4, 8, (3, 5)), "Conv2d(4 -> 8, kernel (3, 5), stride 1)"),
        (
            nn.ConvTranspose2d(4, 8, 4, 2, 1, 1, 2),
            "ConvTranspose2d(4 -> 8, kernel 4, stride 2, padding 1, output_padding 1, groups 2)",
        ),
        (
            nn.MaxPool2d(3, 2, 1, 1, True),
            "MaxPool2d(kernel 3, stride 2, padding 1, ceil_mode True)",
        ),
        (
            nn.AvgPool2d(3, count_include_pad=False),
            "AvgPool2d(kernel 3, stride 3, count_include_pad False)",
        ),
        (nn.Linear(2, 3, bias=False), "Linear(2 -> 3, bias False)"),
    ],
)
def test_the_repr_shows_the_settings_that_matter(layer, text):
    text = text or (
        "Conv2d(4 -> 8, kernel 3, stride 2, padding 1, dilation 2, groups 2, bias False)"
    )
    assert repr(layer) == text


def test_weights_come_from_the_generator_alone():
    first = nn.Conv2d(3, 4, 3, rng=generator())
    np.random.default_rng(5).normal()
    assert np.array_equal(first.weight.data, nn.Conv2d(3, 4, 3, rng=generator()).weight.data)
    assert not np.array_equal(first.weight.data, nn.Conv2d(3, 4, 3).weight.data)


@pytest.mark.parametrize(
    ("layer", "shape", "std"),
    [
        (nn.Conv2d(16, 32, 5, groups=2, rng=generator()), (32, 8, 5, 5), (2 / 200) ** 0.5),
        (nn.Linear(200, 50, rng=generator()), (50, 200), 0.1),
        # 4x4 kernel, stride 2: 4 of the 16 positions meet in one output pixel
        (nn.ConvTranspose2d(50, 20, 4, 2, rng=generator()), (50, 20, 4, 4), 0.1),
    ],
)
def test_weights_start_at_he_normal_and_biases_at_zero(layer, shape, std):
    assert layer.weight.shape == shape
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert layer.weight.numpy().std() == pytest.approx(std, rel=0.05)
    assert abs(layer.weight.numpy().mean()) < 0.05 * std
    assert not layer.bias.numpy().any()


def test_layers_without_bias_and_of_another_type():
    for layer in (
        nn.Conv2d(2, 2, 1, bias=False, dtype=np.float64),
        nn.ConvTranspose2d(2, 2, 1, bias=False, dtype=np.float64),
        nn.Linear(2, 2, bias=False, dtype=np.float64),
    ):
        assert layer.bias is None
        assert names(layer) == ["weight"]
        assert layer.weight.dtype == np.float64


def test_a_network_keeps_the_size_of_its_signal():
    """He's start keeps the mean square of activations about constant through a deep ReLU net."""
    layers = [m for _ in range(10) for m in (nn.Linear(256, 256, rng=generator()), nn.ReLU())]
    x = Tensor(generator().standard_normal((64, 256)).astype(np.float32))
    ratio = (nn.Sequential(*layers)(x).numpy() ** 2).mean() / (x.numpy() ** 2).mean()
    assert 0.3 < ratio < 3


def test_dropout_acts_in_training_only_and_draws_from_its_own_generator():
    x = Tensor(np.ones((50, 50), np.float32))
    first, twin = (nn.Dropout(0.5, rng=generator()) for _ in range(2))
    dropped = first(x).numpy()
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 0.4 < (dropped == 0).mean() < 0.6
    assert np.array_equal(dropped, twin(x).numpy())
    assert not np.array_equal(dropped, first(x).numpy())
    assert np.array_equal(first.eval()(x).numpy(), x.numpy())


def _torch_layers(torch):
    """Yield (our layer, PyTorch's layer, input shape) of the same settings."""
    maps = (2, 4, 9, 11)
    return [
        (nn.Conv2d(4, 6, (3, 2), 2, 1, 2, 2), torch.nn.Conv2d(4, 6, (3, 2), 2, 1, 2, 2), maps),
        (nn.Conv2d(4, 6, 3, bias=False), torch.nn.Conv2d(4, 6, 3, bias=False), maps),
        (
            nn.ConvTranspose2d(4, 6, 4, 3, 1, 1, 2, True, 2),
            torch.nn.ConvTranspose2d(4, 6, 4, 3, 1, 1, 2, True, 2),
            maps,
        ),
        (nn.MaxPool2d(3, 2, 1, 1, True), torch.nn.MaxPool2d(3, 2, 1, 1, ceil_mode=True), maps),
        (
            nn.AvgPool2d(3, 2, 1, True, False),
            torch.nn.AvgPool2d(3, 2, 1, True, False),
            maps,
        ),
        (
            nn.LocalResponseNorm(3, 0.5, 0.7, 2.0),
            torch.nn.LocalResponseNorm(3, 0.5, 0.7, 2.0),
            maps,
        ),
        (nn.Linear(5, 3), torch.nn.Linear(5, 3), (2, 5)),
        (nn.ReLU(), torch.nn.ReLU(), maps),
        (nn.Flatten(), torch.nn.Flatten(), maps),
    ]


@pytest.mark.oracle
@pytest.mark.parametrize("number", range(9))
def test_layers_compute_what_pytorch_computes(number):
    torch = pytest.importorskip("torch")
    ours, theirs, shape = _torch_layers(torch)[number]
    ours.load_state_dict({k: v.detach().numpy() for k, v in theirs.state_dict().items()})
    x = generator().standard_normal(shape).astype(np.float32)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(Tensor(x)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_module_moves_to_the_gpu_and_back(cupy):
    block = Block()
    state = copy.deepcopy(block.state_dict())
    x = np.ones((4, 3), np.float32)
    expected = block(Tensor(x)).numpy()
    block.to("cuda")
    assert {p.device for p in block.parameters()} == {"cuda:0"}
    block.load_state_dict(state)  # arrays of the CPU into parameters on the GPU
    np.testing.assert_allclose(block(Tensor(cupy.asarray(x))).numpy(), expected, rtol=1e-5)
    assert block.to("cpu").scale.device == "cpu"
