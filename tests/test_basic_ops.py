"""Shaping, slicing, reductions, activations and products: what test_every_op.py cannot know.

There each operation is compared with its loops. Here are the errors, PyTorch's meaning, extreme
numbers, and the memory order.
"""

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor
from minifcn.backend import DeviceError, DTypeError, Error, device_of, to_device, to_numpy
from minifcn.functional.activation import DropoutError
from minifcn.functional.slicing import IndexingError, put_slice
from minifcn.shapes import ShapeError


def channels_last(shape, xp=np, dtype=np.float64):
    """Return numbers (N, C, H, W) that are stored as (N, H, W, C)."""
    n, c, h, w = shape
    numbers = np.random.default_rng(0).normal(size=(n, h, w, c)).astype(dtype)
    return xp.asarray(numbers).transpose(0, 3, 1, 2)


def is_channels_last(array):
    return bool(array.transpose(0, 2, 3, 1).flags.c_contiguous)


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        F.relu,
        F.sigmoid,
        F.tanh,
        F.exp,
        lambda x: x * x + 1.0,
        lambda x: x * x[:1],
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 1),
        lambda x: F.dropout(x, 0.5, rng=np.random.default_rng(0)),
        lambda x: F.pad(x, (1, 2, 3, 0)),
        lambda x: F.pad(x, (-1, 0, 0, -1)),
        lambda x: F.cat([x, x, x], 1),
        lambda x: put_slice(x, (slice(None), slice(None), slice(1, 5)), (2, 3, 7, 5)),
        lambda x: F.to(x, np.float32),
    ],
)
def test_channels_last_stays_channels_last(fn, xp):
    x = Tensor(channels_last((2, 3, 4, 5), xp), requires_grad=True)
    y = fn(x)
    assert is_channels_last(y.data)
    y.backward(Tensor(y.data.copy(order="K")))
    assert is_channels_last(x.grad.data)


def test_views_cost_nothing(xp):
    x = channels_last((2, 3, 4, 5), xp)
    for view in (
        F.permute(x, (0, 2, 3, 1)),
        F.transpose(x, 1, -1),
        F.getitem(x, (0, slice(1, None))),
        F.crop(x, 2, 1),
        F.broadcast_to(x, (7, 2, 3, 4, 5)),
        F.to(x, x.dtype),
        F.to(x, device_of(x)),
    ):
        assert xp.may_share_memory(view, x)
    flat = xp.arange(6)
    assert xp.may_share_memory(F.reshape(flat, (2, 3)), flat)


# --- shaping ---------------------------------------------------------------------------------


def test_reshape_errors():
    message = r"reshape: 6 numbers do not fill the shape \(4, 2\).* x of shape \(2, 3\).* Try: -1"
    with pytest.raises(ShapeError, match=message):
        F.reshape(np.zeros((2, 3)), (4, 2))
    for shape in ((-1, 4), (-1, -1)):
        with pytest.raises(ShapeError):
            F.reshape(np.zeros((2, 3)), shape)


@pytest.mark.parametrize("dims", [(0, 0, 1), (0, 1), (0, 1, 3), (0, 1, -4)])
def test_permute_errors(dims):
    with pytest.raises(ShapeError, match=r"permute: dims?=.* x of shape \(2, 3, 4\)"):
        F.permute(np.zeros((2, 3, 4)), dims)


def test_transpose():
    x = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(F.transpose(x, -1, 0), x.transpose(2, 1, 0))
    with pytest.raises(ShapeError, match="transpose: dim=\\(0, 3\\)"):
        F.transpose(x, 0, 3)


def test_broadcast_errors():
    with pytest.raises(ShapeError, match=r"broadcast_to: .* last sizes of \(4, 2\)"):
        F.broadcast_to(np.zeros(3), (4, 2))
    for shape in ((2,), (1, 4, 3), (4, 2)):
        with pytest.raises(ShapeError, match=r"sum_to: .* does not broadcast to the shape of x"):
            F.sum_to(np.zeros((4, 3)), shape)


def test_to_a_type_and_the_way_back():
    x = Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    y = x.to(np.float64)
    assert y.dtype == np.float64
    (y * y).sum().backward()
    assert x.grad.dtype == np.float32
    assert x.grad.numpy().tolist() == [2, 4]
    assert y.node.saved == {}  # nothing but type and device is needed
    assert Tensor([1.6]).to(int).numpy().tolist() == [1]


def test_to_a_device_and_the_way_back(cupy):
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y = x.to("cuda")
    assert y.device == "cuda:0"
    (y * y).sum().backward()
    assert x.grad.device == "cpu"
    assert x.grad.numpy().tolist() == [2, 4]
    assert y.to("cpu").device == "cpu"


def test_to_errors():
    for target in ("gpu", None, "complex64", object):
        with pytest.raises(DTypeError, match=r"a device .*or a type of numbers"):
            F.to(np.ones(2), target)
    with pytest.raises(DeviceError, match="unknown device 'cuda:x'"):
        F.to(np.ones(2), "cuda:x")


# --- slicing ---------------------------------------------------------------------------------


def test_getitem_takes_no_arrays():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    for index in ([0, 1], np.array([0, 1]), (slice(None), [0]), True, Tensor([1]), "a", 1.0):
        with pytest.raises(IndexingError, match=r"was indexed with a .*whole numbers, slices"):
            x[index]
    with pytest.raises(IndexingError, match=r"\(2, 3\): index 2 is out of bounds"):
        x[2]
    with pytest.raises(IndexingError, match="too many indices"):
        x[0, 0, 0]
    assert issubclass(IndexingError, Error)
    assert x[np.int64(1), 0].item() == 3


def test_a_tensor_can_be_iterated_over():
    rows = list(Tensor(np.arange(6.0).reshape(2, 3)))
    assert [row.numpy().tolist() for row in rows] == [[0, 1, 2], [3, 4, 5]]


def test_put_slice_refuses_to_broadcast():
    with pytest.raises(ShapeError, match=r"put_slice: the place for x has the shape \(2,\)"):
        put_slice(np.ones(1), slice(1, None), (3,))


@pytest.mark.oracle
@pytest.mark.parametrize("amounts", [(1, 2), (1, 2, 3, 4), (0, 1, -1, 2), (0, 0, 0, 0, 2, 1), ()])
def test_pad_against_pytorch(amounts):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    expected = torch.nn.functional.pad(torch.tensor(x), amounts, value=1.5).numpy()
    np.testing.assert_array_equal(F.pad(x, amounts, 1.5), expected)


def test_pad_errors():
    with pytest.raises(ShapeError, match=r"pad=1 must be pairs .*pad=\(1, 1, 1, 1\) for images"):
        F.pad(np.ones((2, 3)), 1)
    with pytest.raises(ShapeError, match=r"pad=\(1, 2, 3\) must be pairs .* at most 2 axes"):
        F.pad(np.ones((2, 3)), (1, 2, 3))
    with pytest.raises(ShapeError, match=r"pairs .* at most 1 axes"):
        F.pad(np.ones(2), (1, 2, 3, 4))
    for amounts in ((-2, -2), (-4, 4)):
        with pytest.raises(ShapeError, match="cut more than there is off an axis of 3"):
            F.pad(np.ones((2, 3)), amounts)


def test_crop_is_caffes_crop():
    """FCN-32s on a 500 x 500 image: 544 x 544 scores, of which rows 19 to 518 are kept."""
    x = np.arange(544.0 * 544).reshape(1, 1, 544, 544)
    np.testing.assert_array_equal(F.crop(x, 500, 19), x[:, :, 19:519, 19:519])
    np.testing.assert_array_equal(F.crop(x, (2, 3), (4, 5)), x[:, :, 4:6, 5:8])
    assert F.crop(x, 544, 0).shape == x.shape


@pytest.mark.parametrize(
    ("size", "offset", "rows"),
    [(5, 0, "rows 0 to 4"), (2, 3, "rows 3 to 4"), ((1, 4), (0, 2), "columns 2 to 5")],
)
def test_crop_outside_is_refused(size, offset, rows):
    with pytest.raises(ShapeError, match=rf"crop: x does not have .*{rows}.*\(1, 1, 4, 5\)"):
        F.crop(np.zeros((1, 1, 4, 5)), size, offset)


def test_crop_of_nonsense_is_refused():
    for size, offset in ((0, 0), (2, -1), ((1, 2, 3), 0)):
        with pytest.raises(ShapeError):
            F.crop(np.zeros((1, 1, 4, 5)), size, offset)
    with pytest.raises(ShapeError, match="crop"):
        F.crop(np.zeros(4), 1, 0)


def test_cat_of_many(xp):
    parts = [xp.asarray(np.random.default_rng(i).normal(size=(2, i + 1, 3))) for i in range(5)]
    leaves = [Tensor(part, requires_grad=True) for part in parts]
    y = F.cat(leaves, dim=-2)
    expected = np.concatenate([to_numpy(part) for part in parts], axis=1)
    np.testing.assert_array_equal(y.numpy(), expected)
    y.backward(Tensor(y.data * 2))
    for leaf in leaves:
        np.testing.assert_array_equal(leaf.grad.numpy(), 2 * leaf.numpy())
    assert F.cat([parts[0]]) is parts[0]
    assert F.cat((parts[0], parts[0])).shape == (4, 1, 3)


def test_cat_errors():
    with pytest.raises(ShapeError, match="the list is empty"):
        F.cat([])
    with pytest.raises(ShapeError, match=r"all sizes but that of dim=1 .* x of shape \(2, 3\)"):
        F.cat([np.zeros((2, 3)), np.zeros((3, 3))], dim=1)
    with pytest.raises(ShapeError, match="cat"):
        F.cat([np.zeros((2, 3)), np.zeros(3)])
    with pytest.raises(ShapeError, match="dim=2"):
        F.cat([np.zeros((2, 3)), np.zeros((2, 3))], dim=2)


# --- reductions ------------------------------------------------------------------------------


def test_largest_values_share_the_gradient():
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), requires_grad=True)
    x.max(1).backward(Tensor(np.array([1.0, 3.0])))
    assert x.grad.numpy().tolist() == [[0, 0.5, 0.5], [1, 1, 1]]


@pytest.mark.oracle
@pytest.mark.parametrize(("dim", "keepdim"), [((0, 2), False), (1, True), ((0, 1, 2), False)])
def test_reductions_against_pytorch(dim, keepdim):
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(float)  # many ties
    for ours, theirs in ((F.max, torch.amax), (F.sum, torch.sum), (F.mean, torch.mean)):
        x, t = Tensor(numbers, requires_grad=True), torch.tensor(numbers, requires_grad=True)
        y, expected = ours(x, dim, keepdim), theirs(t, dim, keepdim)
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy())
        (y * y).sum().backward()
        (expected * expected).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy())


def test_nothing_to_reduce():
    for fn in (F.mean, F.max):
        with pytest.raises(ShapeError, match=f"{fn.name}: no numbers to reduce along"):
            fn(np.zeros((0, 3)), 0)
        assert fn(np.zeros((0, 3)), 1).shape == (0,)
    assert F.sum(np.zeros((0, 3))) == 0


@pytest.mark.parametrize("dim", [2, -3, (0, 0), (0, -2)])
def test_wrong_dims(dim):
    for fn in (F.sum, F.mean, F.max):
        with pytest.raises(ShapeError, match="must be different whole numbers from -2 to 1"):
            fn(np.zeros((2, 3)), dim)


def test_maximum_of_nan_is_nan():
    assert np.isnan(F.max(np.array([1.0, np.nan, 2.0])))


# --- activations -----------------------------------------------------------------------------


def test_relu_at_zero_and_nan(xp):
    x = Tensor(xp.asarray([-1.0, 0.0, 2.0, np.nan, -np.inf, np.inf]), requires_grad=True)
    y = x.relu()
    np.testing.assert_array_equal(y.numpy(), [0, 0, 2, np.nan, 0, np.inf])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0, 1, 0, 0, 1])


def test_sigmoid_of_large_numbers():
    y = F.sigmoid(np.array([-1000.0, -40.0, 40.0, 1000.0]))
    np.testing.assert_allclose(y, [0, np.exp(-40), 1, 1], rtol=1e-15)


@pytest.mark.parametrize("shift", [0, 1e4, -1e4])
def test_softmax_of_large_numbers(shift):
    x = np.array([[0.0, 1.0, 2.0]])
    np.testing.assert_allclose(F.softmax(x + shift, 1), F.softmax(x, 1))
    np.testing.assert_allclose(F.log_softmax(x + shift, 1), np.log(F.softmax(x, 1)))
    far = F.log_softmax(np.array([[0.0, 1e4]]), 1)
    assert far.tolist() == [[-1e4, 0]]


def test_softmax_needs_one_axis():
    for fn in (F.softmax, F.log_softmax):
        with pytest.raises(ShapeError, match=f"{fn.name}: dim=2 must be"):
            fn(np.zeros((2, 3)), 2)


def test_dropout_keeps_the_expected_value(xp):
    x = xp.ones((200, 500), dtype=np.float32)
    y = F.dropout(x, 0.2, rng=np.random.default_rng(0))
    assert y.dtype == np.float32
    assert set(np.unique(to_numpy(y)).tolist()) == {0.0, 1.25}
    assert abs(float((y == 0).mean()) - 0.2) < 0.01
    assert abs(float(y.mean()) - 1) < 0.01


def test_dropout_depends_on_the_seed_only(xp):
    """Neither the memory order nor the device changes which elements are dropped."""
    x = channels_last((2, 3, 4, 5))
    plain = F.dropout(np.ascontiguousarray(x), rng=np.random.default_rng(5))
    device = "cpu" if xp is np else "cuda"
    y = F.dropout(to_device(x, device), rng=np.random.default_rng(5))
    np.testing.assert_array_equal(to_numpy(y), plain)
    other = F.dropout(x, rng=np.random.default_rng(6))
    assert (other != plain).any()


def test_dropout_drops_the_gradient_of_the_same_elements():
    x = Tensor(np.ones((3, 4)), requires_grad=True)
    y = F.dropout(x, 0.5, rng=np.random.default_rng(0))
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_dropout_without_effect():
    x = Tensor([1.0])
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 1.0, rng=np.random.default_rng(0)).item() == 0


def test_dropout_errors():
    with pytest.raises(DropoutError, match=r"needs rng=, for example np\.random\.default_rng"):
        F.dropout(np.ones(2))
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(DropoutError, match="must be a probability"):
            F.dropout(np.ones(2), p)


# --- products --------------------------------------------------------------------------------


def test_matmul_errors():
    with pytest.raises(ShapeError, match=r"the columns of x \(3\) .* the rows of y \(2\)"):
        F.matmul(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ShapeError, match=r"two axes or more.*Try: x\.reshape\(1, -1\)"):
        F.matmul(np.zeros(3), np.zeros((3, 2)))
    with pytest.raises(ShapeError, match="the axes before the last two differ"):
        F.matmul(np.zeros((2, 2, 3)), np.zeros((4, 3, 2)))


def test_linear_errors():
    with pytest.raises(ShapeError, match=r"weight \(O, I\).* x of shape \(2, 3\), weight"):
        F.linear(np.zeros((2, 3)), np.zeros((3, 4)))
    with pytest.raises(ShapeError, match="the bias must have 4 numbers"):
        F.linear(np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(3))


@pytest.mark.oracle
def test_linear_against_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(5, 2, 3)), rng.normal(size=(4, 3)), rng.normal(size=4)
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, expected = F.linear(*ours), torch.nn.functional.linear(*theirs)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-12)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12)
