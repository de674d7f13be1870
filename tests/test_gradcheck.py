"""The checker itself: right gradients pass, and every kind of wrong one is caught."""

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor
from minifcn.autograd import PRIMITIVES, GraphError, Primitive, array_of, primitive
from minifcn.backend import DTypeError, Error
from minifcn.gradcheck import (
    EXACT_LIMIT,
    GRADIENT_LIMIT,
    GradientError,
    check_adjoint,
    check_all,
    check_gradient,
    check_primitive,
    check_second_order,
    gradcheck,
    relative_error,
)


def operation(function, rule, saves=(), linear=()):
    """Return an operation that is not in the library, with one gradient rule, for x."""
    op = Primitive(function, linear)
    op.gradient("x", saves)(rule)
    return op


def exp(x):
    return np.exp(x)


def cube(x):
    return x**3


def triple(x):
    return 3 * x


def product(x, y):
    return x * y


def matrix_product(x, y):
    return x @ y


def repeat(x):
    return np.broadcast_to(x, (4, *x.shape))


def move_right(x):
    return np.pad(x, ((0, 0), (1, 0)))[:, :-1]


def one_number_wrong(g, s):
    gradient = g * s.output
    gradient.reshape(-1)[s.output.size // 2] *= 2
    return gradient


def nan_at_the_start(g, s):
    gradient = g * s.output
    gradient.reshape(-1)[0] = np.nan
    return gradient


# kind of mistake, operation, shapes of x and y
WRONG = [
    ("ignores g", operation(exp, lambda g, s: s.output, ("output",)), (2, 3), None),
    ("wrong sign", operation(exp, lambda g, s: -g * s.output, ("output",)), (2, 3), None),
    ("off by a factor", operation(cube, lambda g, s: g * s.x**2, ("x",)), (2, 3), None),
    ("off by a factor, linear", operation(triple, lambda g, s: g), (2, 3), None),
    ("wrong saved array", operation(product, lambda g, s: g * s.x, ("x",)), (2, 3), (2, 3)),
    ("not transposed", operation(matrix_product, lambda g, s: g @ s.y, ("y",)), (3, 3), (3, 3)),
    ("forgets the sum over a broadcast", operation(repeat, lambda g, s: g[0]), (2, 3), None),
    ("does not move back", operation(move_right, lambda g, s: g), (2, 3), None),
    (
        "moves back to the wrong side",
        operation(move_right, lambda g, s: move_right(g)),
        (2, 3),
        None,
    ),
    ("is zero", operation(exp, lambda g, s: g * 0), (2, 3), None),
    ("one number in 10,000", operation(exp, one_number_wrong, ("output",)), (100, 100), None),
    ("NaN", operation(exp, nan_at_the_start, ("output",)), (2, 3), None),
]


def draw(rng, x_shape, y_shape):
    y = {} if y_shape is None else {"y": rng.normal(size=y_shape)}
    return {"x": rng.normal(size=x_shape), **y}


@pytest.mark.parametrize(("op", "x", "y"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_rules_are_caught(op, x, y, rng):
    arguments = draw(rng, x, y)
    assert not check_gradient(op, arguments, rng) <= GRADIENT_LIMIT
    others = list(arguments.values())[1:]
    with pytest.raises(GradientError):
        gradcheck(lambda x: op(x, *others), [arguments["x"]])


@pytest.mark.parametrize(
    "kind",
    [
        "not transposed",
        "forgets the sum over a broadcast",
        "does not move back",
        "off by a factor, linear",
    ],
)
def test_adjoint_catches_wrong_rules_of_linear_operations(kind, rng):
    op, x, y = next(wrong[1:] for wrong in WRONG if wrong[0] == kind)
    assert not check_adjoint(op, "x", draw(rng, x, y)) <= EXACT_LIMIT


def test_wrong_second_order_is_caught(rng):
    """The rule is right, but it treats x as a constant: its own gradient is missing."""
    op = operation(cube, lambda g, s: g * (3 * array_of(s.x) ** 2), ("x",))
    arguments = draw(rng, (2, 3), None)
    assert check_gradient(op, arguments, rng) <= GRADIENT_LIMIT
    assert not check_second_order(op, arguments, rng) <= GRADIENT_LIMIT


def test_right_rules_pass(rng):
    op = operation(cube, lambda g, s: g * (3 * s.x * s.x), ("x",))
    arguments = draw(rng, (2, 3), None)
    assert check_gradient(op, arguments, rng) <= GRADIENT_LIMIT
    assert check_second_order(op, arguments, rng) <= GRADIENT_LIMIT
    op = operation(repeat, lambda g, s: F.sum(g, 0))
    assert check_adjoint(op, "x", arguments) <= EXACT_LIMIT


def test_gradcheck_of_a_function_of_tensors(rng):
    x, w, b = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    assert gradcheck(lambda *a: F.conv2d(*a, padding=1).sigmoid(), [x, w, b])
    assert gradcheck(lambda x: x.sum(), x)  # one input needs no list
    assert gradcheck(lambda x: x * 2, [Tensor([1.0, 2.0])])  # float32 is converted
    assert gradcheck(lambda x: x * 2, np.zeros((0, 3)))
    assert gradcheck(lambda x: x * x, np.asarray(2.0))


def test_whole_numbers_are_not_differentiated(rng):
    target = np.array([0, 2])
    assert gradcheck(lambda x, t: F.cross_entropy(x, t), [rng.normal(size=(2, 3)), target])
    with pytest.raises(DTypeError, match="no input is a floating-point"):
        gradcheck(lambda t: t, [target])


def test_the_message_says_where():
    op = operation(exp, one_number_wrong, ("output",))
    numbers = r"position \(1, 0\) is -?\d\.\d+, but the difference quotient is -?\d\.\d+"
    with pytest.raises(GradientError, match="input 1 at " + numbers):
        gradcheck(lambda x, y: (x + op(y)).sum(), [np.zeros((2, 2)), np.full((2, 2), 0.1)])


def test_an_input_that_is_not_used_has_gradient_zero():
    assert gradcheck(lambda x, y: x * 2, [np.ones(2), np.ones(2)])


def test_detached_input_is_caught():
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(lambda x, y: x.detach() * y, [np.ones(2), np.ones(2)])
    with pytest.raises(GraphError, match="requires a gradient"):
        gradcheck(lambda x: x.detach(), [np.ones(2)])


def test_kink_is_caught():
    assert gradcheck(F.relu, [np.array([0.1])])
    with pytest.raises(GradientError, match="kink"):
        gradcheck(F.relu, [np.array([0.0])])


def test_errors_are_minifcn_errors():
    assert issubclass(GradientError, Error)
    assert issubclass(GradientError, AssertionError)


def test_relative_error():
    assert relative_error([1e-20], [0.0]) == 1e-20  # never divided by less than 1
    assert relative_error([200.0], [100.0]) == 0.5
    assert relative_error([1.0], [[1.0]]) == np.inf  # another shape
    assert relative_error([np.nan], [np.nan]) == np.inf
    assert relative_error([np.inf, 1], [np.inf, 1]) == 0
    assert relative_error([np.inf], [1.0]) == np.inf
    assert relative_error([], []) == 0


@pytest.fixture
def square():
    """A new operation, taken out of the list of all again."""

    @primitive
    def square(x):
        return x * x

    yield square
    del PRIMITIVES["square"]


def test_check_primitive(square, rng):
    with pytest.raises(GradientError, match="square has no samples"):
        check_primitive(square, rng)
    square.reference(lambda x: np.array([v * v for v in x]))
    square.samples(lambda rng: [("three", {"x": rng.normal(size=3)})])

    report = check_primitive(square, rng)  # no rule yet: nothing to differentiate
    assert (report.name, report.samples, report.gradient, report.second_order) == (
        "square",
        1,
        None,
        None,
    )
    assert report.passed

    square.gradient("x", saves=("x",))(lambda g, s: g * s.x)
    report = check_primitive(square, rng)
    assert report.reference == 0
    assert report.gradient > GRADIENT_LIMIT
    assert not report.passed

    square.rules["x"] = (lambda g, s: 2 * g * s.x, ("x",))
    report = check_primitive(square, rng)
    assert report.passed
    assert report.adjoint is None

    square.reference(lambda x: np.array([v * v + 1e-6 for v in x]))
    assert not check_primitive(square, rng).passed


def test_check_primitive_reports_the_adjoint(rng):
    report = check_primitive(F.matmul, rng)
    assert report.samples == 8
    assert report.adjoint <= EXACT_LIMIT
    assert report.passed


def test_check_all_takes_our_operations_only(square, monkeypatch):
    kept = {name: PRIMITIVES[name] for name in ("sub", "square", "add")}
    monkeypatch.setattr("minifcn.gradcheck.PRIMITIVES", kept)
    assert [report.name for report in check_all()] == ["add", "sub"]
