"""Each operation, on each of its samples: is it right, and does it keep to the rules of all?

Nothing here names an operation: whoever adds one under `@primitive` with loops and samples has it
tested. What an operation cannot do must stand in one of the lists, with the reason.
"""

import inspect

import numpy as np
import pytest

import minifcn.functional as F
from minifcn.autograd import PRIMITIVES, Tensor, grad
from minifcn.backend import is_array, to_device, to_numpy
from minifcn.gradcheck import (
    EXACT_LIMIT,
    GRADIENT_LIMIT,
    check_adjoint,
    check_gradient,
    check_second_order,
    relative_error,
)

SINGLE_LIMIT = 1e-5  # for float32, relative to the largest number

# Floating-point arguments without a gradient rule: "operation.argument" and the reason.
NO_GRADIENT = {
    "cross_entropy.weight": "the weights of the classes are constants of the loss",
    "max_gather.x": "x and y only tell where each window has its maximum",
    "max_gather.y": "x and y only tell where each window has its maximum",
    "max_scatter.x": "x and y only tell where each window has its maximum",
    "max_scatter.y": "x and y only tell where each window has its maximum",
    "where_positive.y": "only the sign of y counts, which does not change under a small step",
}
# Options that no sample sets: "operation.argument" and the reason.
NOT_SAMPLED = {
    "conv2d.relu_follows": "its gradient is right with that relu only (see test_conv_relu.py)",
    "max_pool2d.relu_follows": "the same",
}
# Operations whose gradient cannot be differentiated again, and the reason.
NO_SECOND_ORDER: dict[str, str] = {}

OPERATIONS = [p for _, p in sorted(PRIMITIVES.items()) if p.__module__.startswith(F.__name__)]


def samples_of(op):
    return list(op.cases(np.random.default_rng(0))) if op.cases else []


EVERY = [
    pytest.param(op, arguments, id=f"{op.name}-{label}")
    for op in OPERATIONS
    for label, arguments in samples_of(op)
]
every_sample = pytest.mark.parametrize(("op", "arguments"), EVERY)
every_operation = pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)


def floating(arguments):
    return {n: a for n, a in arguments.items() if is_array(a) and a.dtype.kind == "f"}


def differentiable(op, arguments):
    return [n for n in floating(arguments) if n in op.rules]


def as_type(arguments, dtype):
    return arguments | {n: a.astype(dtype) for n, a in floating(arguments).items()}


def forward_and_backward(op, arguments):
    """Return the output and the gradients, for an upstream gradient that is always the same."""
    names = differentiable(op, arguments)
    leaves = {n: Tensor(arguments[n], requires_grad=True) for n in names}
    y = op(**arguments | leaves) if leaves else Tensor(op(**arguments))
    u = np.random.default_rng(1).normal(size=y.shape)
    seed = to_device(np.asarray(u, y.dtype), y.device)
    found = grad(y, list(leaves.values()), seed=Tensor(seed)) if leaves else []
    return {"output": y.data} | {n: g.data for n, g in zip(names, found, strict=True)}


def test_there_are_operations():
    assert len(OPERATIONS) >= 30


@every_operation
def test_has_loops_samples_and_rules(op):
    assert op.loops is not None, "no reference loops"
    assert len(samples_of(op)) >= 1, "no samples"
    labels = [label for label, _ in samples_of(op)]
    assert len(set(labels)) == len(labels), "two samples have the same label"
    assert op.rules.keys() <= set(op.names), "a rule for an argument that does not exist"
    assert set(op.linear) <= op.rules.keys(), "linear in an argument without a rule"
    for _, arguments in samples_of(op):
        for name in floating(arguments):
            assert name in op.rules or f"{op.name}.{name}" in NO_GRADIENT, f"no rule for {name}"
    tried = {name for _, arguments in samples_of(op) for name in floating(arguments)}
    assert op.rules.keys() <= tried, "a rule that no sample tries"


@every_operation
def test_samples_try_every_option(op):
    """An argument that no sample sets to anything but its default is not tested at all."""
    for name, parameter in inspect.signature(op.function).parameters.items():
        if f"{op.name}.{name}" in NOT_SAMPLED:
            continue
        values = [arguments.get(name, parameter.default) for _, arguments in samples_of(op)]
        assert any(is_array(value) or value != parameter.default for value in values), name


@every_operation
def test_has_a_docstring(op):
    assert op.__doc__


def test_no_list_names_what_is_gone():
    named = {entry.split(".")[0] for entry in [*NO_GRADIENT, *NOT_SAMPLED]}
    assert named | NO_SECOND_ORDER.keys() <= {op.name for op in OPERATIONS}
    assert not [e for e in NO_GRADIENT if e.split(".")[1] in PRIMITIVES[e.split(".")[0]].rules]


@every_sample
def test_equals_the_loops(op, arguments):
    expected = op.loops(**arguments)
    fast = op(**arguments)
    assert fast.shape == expected.shape
    assert relative_error(fast, expected) <= EXACT_LIMIT
    single = op(**as_type(arguments, np.float32))
    assert relative_error(single, expected) <= SINGLE_LIMIT


@every_sample
def test_gradient(op, arguments, rng):
    error = check_gradient(op, arguments, rng)
    assert error is None or error <= GRADIENT_LIMIT


@every_sample
def test_second_order_gradient(op, arguments, rng):
    if op.name in NO_SECOND_ORDER:
        pytest.skip(NO_SECOND_ORDER[op.name])
    error = check_second_order(op, arguments, rng)
    assert error is None or error <= GRADIENT_LIMIT


@every_sample
def test_is_linear_where_it_says_so(op, arguments, rng):
    for argument in op.linear:
        if argument in floating(arguments):
            a = arguments[argument]
            b = rng.normal(size=a.shape)
            f0, fa, fb, both = (
                np.asarray(op(**arguments | {argument: value}))
                for value in (a * 0, a, b, a + 2 * b)
            )
            assert relative_error(both - f0, (fa - f0) + 2 * (fb - f0)) <= EXACT_LIMIT


@every_sample
def test_adjoint(op, arguments):
    for argument in op.linear:
        if argument in floating(arguments):
            assert check_adjoint(op, argument, arguments) <= EXACT_LIMIT
            single = as_type(arguments, np.float32)
            assert check_adjoint(op, argument, single) <= SINGLE_LIMIT


@every_sample
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keeps_the_type(op, arguments, dtype):
    for name, array in forward_and_backward(op, as_type(arguments, dtype)).items():
        assert array.dtype == dtype, name


@every_sample
def test_leaves_its_inputs_alone(op, arguments):
    arrays = {n: a for n, a in arguments.items() if is_array(a)}
    before = {n: a.copy() for n, a in arrays.items()}
    forward_and_backward(op, arguments)
    for name, array in arrays.items():
        assert array.tobytes() == before[name].tobytes(), name


def spread_out(array):
    """Return the same numbers as every other element of a larger array, the axes turned round."""
    large = np.full([2 * n for n in array.shape[::-1]], 99, array.dtype)
    view = large[(..., *[slice(None, None, 2)] * array.ndim)].T
    view[...] = array
    return view


@every_sample
def test_memory_order_does_not_matter(op, arguments):
    strange = {n: spread_out(a) if is_array(a) else a for n, a in arguments.items()}
    expected = forward_and_backward(op, arguments)
    for name, array in forward_and_backward(op, strange).items():
        assert relative_error(array, expected[name]) <= EXACT_LIMIT, name


@every_sample
def test_gradients_are_alone(op, arguments):
    """No leaf's gradient may share memory with an input, the output or another gradient."""
    arrays = [a for a in arguments.values() if is_array(a)]
    results = forward_and_backward(op, arguments)
    gradients = [g for name, g in results.items() if name != "output"]
    for i, gradient in enumerate(gradients):
        for other in [*arrays, results["output"], *gradients[:i]]:
            assert not np.shares_memory(gradient, other)


@every_sample
@pytest.mark.parametrize(("dtype", "limit"), [("f4", SINGLE_LIMIT), ("f8", EXACT_LIMIT)])
def test_same_on_a_gpu(op, arguments, dtype, limit, cupy):
    """In float32 our own kernels do the work, in float64 CuPy's.

    On the last GPU: if there are several, as on the stand-in, the thread's current one is another.
    """
    last = f"cuda:{cupy.cuda.runtime.getDeviceCount() - 1}"
    given = as_type(arguments, dtype)
    there = {n: to_device(a, last) if is_array(a) else a for n, a in given.items()}
    expected = forward_and_backward(op, arguments)
    for name, array in forward_and_backward(op, there).items():
        assert array.dtype == dtype
        assert relative_error(to_numpy(array), expected[name]) <= limit, name
