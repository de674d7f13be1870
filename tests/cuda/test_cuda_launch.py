"""How kernels are started: what is refused, by which rule; and that operations use them."""

import numpy as np
import pytest
import standin
from standin import counting

import minifcn.functional as F
from minifcn import nn, optim
from minifcn.autograd import PRIMITIVES, Tensor, grad
from minifcn.backend import Error, is_array, to_device, to_numpy
from minifcn.gradcheck import relative_error
from minifcn.kernels import cuda
from minifcn.kernels.cuda import launch

f32 = np.float32
SINGLE_LIMIT = 1e-5  # for float32, relative to the largest number


def filled(cupy, value=1.0, shape=(2, 4), dtype=f32):
    return cupy.full(shape, value, dtype)


def add_bias(*arguments, blocks=1):
    """Start a kernel of the parameters (y, bias, C, relu, count)."""
    launch.run("elementwise.add_bias", blocks, *arguments, WIDE=1)


def test_runs_what_fits(cupy):
    y, bias = filled(cupy), filled(cupy, -3.0, 4)
    add_bias(y, bias, 4, np.int64(0), 8)
    np.testing.assert_array_equal(to_numpy(y), np.full((2, 4), -2))


def test_parameters_are_read_from_the_text():
    kinds = dict(launch.parameters("lrn.normalise"))
    assert kinds == {
        **{"x": "float*", "y": "float*", "C": "int", "before": "int", "after": "int"},
        **{"ratio": "float", "beta": "float", "k": "float", "count": "int"},
    }
    assert dict(launch.parameters("dropout.dropout_mask"))["words"] == "unsigned long long*"
    with pytest.raises(launch.KernelError, match=r"there is no kernel 'none' in lrn\.cu"):
        launch.parameters("lrn.none")


WRONG = {
    "an array on the CPU": (
        lambda cp: (np.ones((2, 4), f32), filled(cp, shape=4), 4, 0, 8),
        "elementwise.add_bias got arrays on cpu and cuda:0: use one GPU",
    ),
    "all arrays on the CPU": (
        lambda cp: (np.ones((2, 4), f32), np.ones(4, f32), 4, 0, 8),
        "elementwise.add_bias got arrays on cpu: use one GPU",
    ),
    "another type": (
        lambda cp: (filled(cp, dtype=np.float64), filled(cp, shape=4), 4, 0, 8),
        "elementwise.add_bias: y must be an array of float32, not float64",
    ),
    "a number for an array": (
        lambda cp: (filled(cp), 1.0, 4, 0, 8),
        "elementwise.add_bias: bias must be an array of float32, not float",
    ),
    "an array for a number": (
        lambda cp: (filled(cp), filled(cp, shape=4), 4, filled(cp), 8),
        "elementwise.add_bias: relu must be a number for int, not a ndarray",
    ),
    "a float for an int": (
        lambda cp: (filled(cp), filled(cp, shape=4), 4, 0.0, 8),
        "elementwise.add_bias: relu must be a number for int, not a float",
    ),
    "steps in memory": (
        lambda cp: (filled(cp).T, filled(cp, shape=4), 4, 0, 8),
        "elementwise.add_bias: y, (4, 2), is not contiguous: a kernel takes no steps",
    ),
    "too few": (
        lambda cp: (filled(cp), filled(cp, shape=4), 4, 0),
        "elementwise.add_bias takes 5 arguments, not 4",
    ),
    "more than 32 bits": (
        lambda cp: (filled(cp), filled(cp, shape=4), 4, 0, 2**31),
        "count is 2,147,483,648: it must be -2,147,483,648 to 2,147,483,647",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_refuses(cupy, what):
    arguments, told = WRONG[what]
    with pytest.raises(launch.KernelError) as error:
        add_bias(*arguments(cupy))
    assert told in str(error.value)
    assert isinstance(error.value, Error)


def test_refuses_arrays_of_two_devices(standin):
    with standin.cuda.Device(1):
        bias = filled(standin, shape=4)
    with pytest.raises(launch.KernelError, match="got arrays on cuda:0 and cuda:1: use one GPU"):
        add_bias(filled(standin), bias, 4, 0, 8)


def test_refuses_more_numbers_than_32_bits_count(cupy, monkeypatch):
    monkeypatch.setattr(launch, "MOST_NUMBERS", 7)
    with pytest.raises(
        launch.KernelError, match=r"y, \(2, 4\), has 8 numbers: a kernel counts to 7"
    ):
        add_bias(filled(cupy), filled(cupy, shape=4), 4, 0, 8)


def test_refuses_more_blocks_than_a_gpu_counts(cupy):
    with pytest.raises(launch.KernelError, match=r"\(1, 65536\) blocks"):
        add_bias(filled(cupy), filled(cupy, shape=4), 4, 0, 8, blocks=(1, 65536))


def test_does_nothing_for_nothing(cupy):
    with counting() as seen:
        add_bias(filled(cupy, shape=(0, 4)), filled(cupy, shape=4), 4, 0, 0, blocks=0)
    assert seen.kernels == 0


def test_runs_on_the_device_of_its_arrays(standin):
    with standin.cuda.Device(1):
        y, bias = filled(standin), filled(standin, shape=4)
    add_bias(y, bias, 4, 0, 8)
    with standin.cuda.Device(1):
        assert to_numpy(y).tolist() == [[2.0] * 4] * 2


def test_debugging_waits_and_names_the_kernel(standin, monkeypatch):
    arguments = filled(standin), filled(standin, shape=4), 4, 0, 8
    with counting() as seen:
        add_bias(*arguments)
    assert seen.waits == 0
    monkeypatch.setenv("MINIFCN_DEBUG", "1")
    with counting() as seen:
        add_bias(*arguments)
    assert seen.waits == 1

    def fail():
        raise standin.cuda.runtime.CUDARuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(standin.cuda.runtime, "deviceSynchronize", fail)
    with pytest.raises(launch.KernelError, match=r"add_bias failed on the GPU: an illegal memory"):
        add_bias(*arguments)


def test_four_channels_at_once_only_where_all_arrays_begin_so(cupy):
    a = cupy.zeros(64, f32)
    assert launch.at_once(8, a, a[4:]) == 4
    assert launch.at_once(6, a) == launch.at_once(8, a, a[1:]) == 1


def test_what_is_compiled_is_plain_ascii(cupy, monkeypatch):
    """CuPy writes the text to a file in the system's encoding, which may know no other letters."""
    texts = []

    class Module:
        def __init__(self, code, options):
            texts.append(code)

    monkeypatch.setattr(cupy, "RawModule", Module)
    for file in launch.kernel_files():
        launch._module.__wrapped__(cupy, 0, file, ())
    assert len(texts) >= 10
    assert all(text.isascii() for text in texts)


def test_an_unknown_kernel_file_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cuda.nothing  # noqa: B018


# ---- whole operations ----------------------------------------------------------------------------

# Those with kernels of their own, and how many launches forward and backward take at the most.
OPERATIONS = {
    "avg_pool2d": 2,
    "avg_unpool2d": 2,
    "cross_entropy": 2,
    "max_gather": 2,
    "max_pool2d": 2,
    "max_scatter": 2,
    "normalised": 3,
    "softmax_error": 2,
    "where_positive": 2,
}
SAMPLES = [
    pytest.param(PRIMITIVES[name], arguments, id=f"{name}-{label}")
    for name in OPERATIONS
    for label, arguments in PRIMITIVES[name].cases(np.random.default_rng(0))
]


def as_single(arguments):
    return {
        name: value.astype(f32) if is_array(value) and value.dtype.kind == "f" else value
        for name, value in arguments.items()
    }


def forward_and_backward(op, arguments, device):
    """Return the output and the gradients, on the CPU, computed on a device."""
    there = {n: to_device(a, device) if is_array(a) else a for n, a in arguments.items()}
    leaves = {n: Tensor(there[n], requires_grad=True) for n in op.rules if is_array(there.get(n))}
    y = op(**there | leaves)
    seed = np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)
    found = grad(y, list(leaves.values()), seed=Tensor(to_device(seed, device)))
    return {"output": to_numpy(y.data)} | {
        name: to_numpy(g.data) for name, g in zip(leaves, found, strict=True)
    }


@pytest.mark.parametrize(("op", "arguments"), SAMPLES)
def test_an_operation_in_float32(op, arguments, cupy):
    arguments = as_single(arguments)
    expected = forward_and_backward(op, arguments, "cpu")
    empty = any(is_array(value) and not value.size for value in arguments.values())
    with counting() as seen:
        results = forward_and_backward(op, arguments, "cuda")
    assert empty or cupy is not standin.cupy or 1 <= seen.kernels <= OPERATIONS[op.name]
    with cuda.plain(), counting() as seen:
        plain = forward_and_backward(op, arguments, "cuda")
    assert seen.kernels == 0
    for name, array in expected.items():
        assert relative_error(results[name], array) <= SINGLE_LIMIT, name
        assert relative_error(plain[name], array) <= SINGLE_LIMIT, name


def on(device, array):
    """Return a leaf with a copy of the array on a device, in the same memory order."""
    return Tensor(to_device(array.copy(order="K"), device), requires_grad=True)


def normal(shape):
    return np.random.default_rng(2).normal(size=shape).astype(f32)


def images(*shape):
    """Draw (N, C, H, W), stored channels-last."""
    N, C, H, W = shape
    numbers = np.random.default_rng(0).normal(size=(N, H, W, C)).astype(f32)
    return numbers.transpose(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)


def test_dropout_draws_on_the_gpu_what_the_cpu_would(standin):
    x = images(2, 3, 5, 7)
    here, there = (np.random.default_rng(3) for _ in range(2))
    for _ in range(3):  # an odd number of draws leaves a half over
        expected = F.dropout(x, 0.4, rng=here)
        given = to_device(x, "cuda")
        with counting() as seen:
            found = F.dropout(given, 0.4, rng=there)
        np.testing.assert_array_equal(to_numpy(found), expected)
        assert (seen.kernels, seen.to_gpu, seen.to_cpu, seen.waits) == (1, 1, 0, 0)


def test_dropout_takes_numbers_of_other_generators_from_the_cpu(standin):
    x = images(2, 3, 5, 7)
    here, there = (np.random.Generator(np.random.MT19937(3)) for _ in range(2))
    expected = F.dropout(x, 0.4, rng=here)
    with counting() as seen:
        found = F.dropout(to_device(x, "cuda"), 0.4, rng=there)
    np.testing.assert_array_equal(to_numpy(found), expected)
    assert (seen.kernels, seen.to_gpu) == (0, 2)  # x, and the numbers


@pytest.mark.parametrize(
    "form",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "caffe": True}],
)
def test_gradient_descent_is_one_launch_for_all_parameters(standin, form):
    arrays = [images(4, 3, 3, 3), np.ones(4, f32), np.zeros((0, 2), f32)]
    nets = {device: [on(device, array) for array in arrays] for device in ("cpu", "cuda")}
    for device, parameters in nets.items():
        groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.3}]
        sgd = optim.SGD(groups, lr=0.1, weight_decay=0.01, **form)
        for step in range(3):
            for parameter, array in zip(parameters, arrays, strict=True):
                parameter.grad = Tensor(to_device(array - step, device))
            with counting() as seen:
                sgd.step()
            if device == "cuda":
                assert seen.kernels == 1
                assert step == 0 or seen.started == 1  # first the momenta are made
                assert seen.to_gpu <= (2 if step == 0 else 1)  # where all is; once the rates
                assert (seen.to_cpu, seen.waits) == (0, 0)
    for found, expected in zip(nets["cuda"], nets["cpu"], strict=True):
        assert relative_error(found.numpy(), expected.data) <= SINGLE_LIMIT


def test_gradient_descent_sends_what_has_changed(standin):
    here, there = (on(device, images(4, 3, 3, 3)) for device in ("cpu", "cuda"))
    both = [optim.SGD([w], lr=0.1, momentum=0.9) for w in (here, there)]
    for w in (here, there):
        w.grad = Tensor(w.data.copy(order="K"))  # the same array in each step

    def step(sent):
        both[0].step()
        with counting() as seen:
            both[1].step()
        assert (seen.to_gpu, seen.kernels) == (sent, 1)
        assert relative_error(there.numpy(), here.data) <= SINGLE_LIMIT

    step(2)
    step(0)
    for sgd in both:
        sgd.scale_lr(0.5)
    step(1)
    there.data = there.data.copy(order="K")
    step(1)
    for sgd in both:
        sgd.load_state_dict(sgd.state_dict())  # copies of the momenta
    step(1)


def test_gradient_descent_takes_any_memory_order(standin):
    """Of a gradient; and of weights with gaps, which CuPy's own functions then change."""
    found = []
    for device in ("cpu", "cuda"):
        wide = to_device(images(4, 3, 3, 3), device)
        ws = [Tensor(a, requires_grad=True) for a in (wide.copy(order="K"), wide[:, :2])]
        sgd = optim.SGD(ws, lr=0.1, momentum=0.9)
        rng = np.random.default_rng(0)
        for _ in range(2):
            for w in ws:
                w.grad = Tensor(to_device(rng.normal(size=w.shape).astype(f32), device))
            sgd.step()
        found.append([w.numpy() for w in ws])
    for here, there in zip(*found, strict=True):
        assert relative_error(there, here) <= SINGLE_LIMIT


def test_gradients_unlike_their_weights_are_refused(standin):
    """Their addresses are all that a kernel would be told."""
    w = on("cuda", images(4, 3, 3, 3))
    sgd = optim.SGD([w], lr=0.1)
    for gradient in (standin.zeros((4, 3), f32), standin.zeros(w.shape), np.zeros(w.shape, f32)):
        w.grad = Tensor(gradient)
        with pytest.raises(launch.KernelError, match=r"the gradient, .* must be like its weights"):
            sgd.step()
    w.grad = Tensor(w.data)
    sgd.step()


def test_clipping_is_three_launches(standin):
    parameters = [on("cuda", images(4, 3, 3, 3)), on("cuda", np.ones(4, f32))]
    for parameter in parameters:
        parameter.grad = Tensor(parameter.data + 1)
    with counting() as seen:
        optim.clip_grad_norm_(parameters, 0.1)
    assert (seen.kernels, seen.launches, seen.to_gpu, seen.waits) == (3, 0, 1, 0)


@pytest.mark.parametrize("index", [(..., slice(2, 5), slice(1, 4)), (slice(1), ..., slice(1, 4))])
def test_the_gradient_of_a_crop_is_one_launch(standin, index):
    """Any other part is put into zeros by CuPy."""
    x, found = images(2, 3, 7, 5), []
    for device in ("cpu", "cuda"):
        leaf = on(device, x)
        y = leaf[index]
        with counting() as seen:
            y.backward(Tensor(y.data.copy(order="K")))
        found.append(leaf.grad.numpy())
    np.testing.assert_array_equal(*found)
    assert seen.kernels == (index[0] is ...)


def test_cut_out_scores_are_not_copied(standin):
    x, labels = on("cuda", images(2, 3, 9, 8)), standin.zeros((2, 5, 4), "int32")
    y = F.crop(x, (5, 4), (1, 3))
    with counting() as seen:
        F.cross_entropy(y, Tensor(labels), reduction="sum").backward()
    assert seen.kernels == 3  # softmax, there and back, and the zeros around
    assert seen.launches <= 10  # of what tells which pixels count, and the sum


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: F.sum(x, (0, 2, 3)),
        lambda x: F.local_response_norm(x, 5, alpha=2.0),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    ],
    ids=["bias gradient", "local response normalisation", "average pooling"],
)
def test_operations_with_kernels_move_nothing(standin, fn):
    x = images(2, 6, 9, 8)
    results = {}
    for device in ("cpu", "cuda"):
        leaf = on(device, x)
        with counting() as seen:
            y = fn(leaf)
            (y * y).sum().backward()
        results[device] = y.numpy(), leaf.grad.numpy()
        assert (seen.kernels > 0) == (device == "cuda")
        assert (seen.to_gpu, seen.to_cpu, seen.waits) == (0, 0, 0), seen.places
    for found, expected in zip(results["cuda"], results["cpu"], strict=True):
        assert relative_error(found, expected) <= SINGLE_LIMIT


@pytest.mark.parametrize("bilinear", [True, False])
def test_a_fixed_weight_enlarges_by_rows_and_columns_if_it_is_bilinear(cupy, bilinear):
    """And nobody waits to be told; nor when the weight is replaced where it lies."""
    layer = nn.ConvTranspose2d(3, 3, 4, stride=2, bias=False, rng=np.random.default_rng(0))
    nn.init.bilinear_(layer.weight)
    layer.weight.requires_grad = False
    x, results = images(2, 3, 5, 4), {}
    for device in ("cpu", "cuda"):
        leaf = on(device, x)
        layer.to(device)
        for replaced in (False, True):
            if replaced and not bilinear:
                layer.load_state_dict({"weight": normal((3, 3, 4, 4))})
            leaf.grad = None
            with counting() as seen:
                y = layer(leaf)
                (y * y).sum().backward()
            results[device, replaced] = y.numpy(), leaf.grad.numpy()
            assert (seen.to_gpu, seen.to_cpu, seen.waits) == (0, 0, 0), seen.places
            if device == "cuda" and cupy is standin.cupy:
                assert seen.products == 0
        if device == "cpu":
            nn.init.bilinear_(layer.weight)
    for replaced in (False, True):
        for there, here in zip(results["cuda", replaced], results["cpu", replaced], strict=True):
            assert relative_error(there, here) <= SINGLE_LIMIT
    changed = abs(results["cuda", True][0] - results["cuda", False][0]).max()
    assert (changed > 0.1) == (not bilinear)


def test_a_learned_weight_is_multiplied_as_a_whole(standin):
    layer = nn.ConvTranspose2d(3, 3, 4, stride=2, bias=False).to("cuda")
    with counting() as seen:
        layer(on("cuda", images(2, 3, 5, 4)))
    assert seen.products == 1


def test_second_derivatives_of_the_normalisation_on_the_gpu(standin):
    x = images(1, 5, 2, 3)
    results = []
    for device in ("cpu", "cuda"):
        leaf = on(device, x)
        y = F.local_response_norm(leaf, 3, alpha=2.0)
        (first,) = grad((y * y).sum(), [leaf], create_graph=True)
        (second,) = grad((first * first).sum(), [leaf])
        results.append(second.numpy())
    assert relative_error(results[1], results[0]) <= 10 * SINGLE_LIMIT
