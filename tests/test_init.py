"""Starting values against the published numbers and formulas."""

import numpy as np
import pytest

from minifcn import Tensor, nn
from minifcn import functional as F
from minifcn.nn import init
from minifcn.shapes import ShapeError


def weight(*shape, dtype=np.float64):
    return Tensor(np.full(shape, np.nan, dtype))


def generator():
    return np.random.default_rng(0)


def test_fans_count_products_per_value():
    assert init.fans((10, 20)) == (20, 10)
    assert init.fans((64, 3, 3, 3)) == (27, 576)
    assert init.fans((256, 48, 5, 5)) == (48 * 25, 256 * 25)
    with pytest.raises(ShapeError, match=r"at least 2 dimensions.*\(5,\)"):
        init.fans((5,))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_random_fills_have_the_moments_of_their_formulas(dtype):
    shape = (100, 8, 5, 5)
    for fill, std in [
        (lambda p: init.normal_(p, 0.3, generator()), 0.3),
        (lambda p: init.he_normal_(p, generator()), np.sqrt(2 / 200)),
        (lambda p: init.xavier_uniform_(p, generator()), np.sqrt(1 / 200)),
        (lambda p: init.xavier_uniform_(p, generator(), "average"), np.sqrt(2 / 2700)),
    ]:
        parameter = weight(*shape, dtype=dtype)
        array = parameter.data
        assert fill(parameter) is parameter
        assert parameter.data is array  # in place
        values = array.astype(np.float64)
        assert values.std() == pytest.approx(std, rel=0.03)
        assert abs(values.mean()) < 0.03 * std
        again = weight(*shape, dtype=dtype)
        assert np.array_equal(fill(again).data, array)


def test_xavier_fills_its_whole_interval_and_no_more():
    bound = np.sqrt(3 / 200)
    values = init.xavier_uniform_(weight(100, 200), generator()).numpy()
    assert 0.99 * bound < abs(values).max() <= bound


@pytest.mark.oracle
def test_xavier_average_is_pytorchs():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.init.xavier_uniform_(
        torch.empty(300, 500), generator=torch.Generator().manual_seed(0)
    ).numpy()
    ours = init.xavier_uniform_(weight(300, 500), generator(), "average").numpy()
    assert abs(ours).max() == pytest.approx(abs(theirs).max(), rel=1e-3)


def test_constants():
    assert (init.constant_(weight(2, 3), 0.2).numpy() == 0.2).all()
    assert not init.zeros_(weight(2, 3)).numpy().any()


def test_bilinear_kernels_are_the_published_ones():
    """Values of upsample_filt in the released code."""
    np.testing.assert_array_equal(init.bilinear_kernel(1), [[1]])
    np.testing.assert_array_equal(init.bilinear_kernel(3), np.outer(*[[0.5, 1, 0.5]] * 2))
    np.testing.assert_array_equal(
        init.bilinear_kernel(4), np.outer(*[[0.25, 0.75, 0.75, 0.25]] * 2)
    )
    assert init.bilinear_kernel(63).max() == 1.0
    assert init.bilinear_kernel(64).max() == pytest.approx(0.96899, abs=5e-6)
    assert init.bilinear_kernel(64)[0, 0] == 1 / 4096
    assert init.bilinear_kernel(5).dtype == np.float64
    with pytest.raises(ShapeError, match="1 or more, not 0"):
        init.bilinear_kernel(0)


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_bilinear_weights_sum_to_the_square_of_the_stride(stride):
    for size in (2 * stride, 2 * stride - 1):
        assert init.bilinear_kernel(size).sum() == pytest.approx(stride**2, rel=1e-12)
        assert np.array_equal(init.bilinear_kernel(size), init.bilinear_kernel(size)[::-1, ::-1])


def test_bilinear_fills_the_diagonal_only():
    values = init.bilinear_(weight(3, 3, 4, 4)).numpy()
    for i in range(3):
        for j in range(3):
            np.testing.assert_array_equal(values[i, j], (i == j) * init.bilinear_kernel(4))


def test_bilinear_fills_the_only_kernel_of_each_group():
    values = init.bilinear_(weight(3, 1, 5, 5)).numpy()
    np.testing.assert_array_equal(values, np.tile(init.bilinear_kernel(5), (3, 1, 1, 1)))


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (2, 3, 4, 4), (3, 3, 4, 5), (3, 3), (3,)])
def test_bilinear_refuses_other_shapes(shape):
    with pytest.raises(ShapeError, match="keeps the channels apart"):
        init.bilinear_(weight(*shape))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (4, 2), (15, 8), (16, 8)])
def test_a_constant_map_stays_constant_away_from_the_edge(size, stride, groups):
    up = nn.ConvTranspose2d(2, 2, size, stride, groups=groups, bias=False, dtype=np.float64)
    init.bilinear_(up.weight)
    x = np.broadcast_to(np.array([3.0, -5.0])[:, None, None], (1, 2, 5, 6)).copy()
    y = up(Tensor(x)).numpy()
    inside = y[:, :, size - stride : -(size - stride), size - stride : -(size - stride)]
    assert inside.size > 0
    np.testing.assert_allclose(inside[:, 0], 3.0, rtol=1e-12)
    np.testing.assert_allclose(inside[:, 1], -5.0, rtol=1e-12)


def test_bilinear_upsampling_puts_values_halfway_between_their_neighbours():
    kernel = Tensor(init.bilinear_kernel(3)[None, None])
    y = F.conv_transpose2d(Tensor(np.array([[[[0.0, 4.0, 6.0]]]])), kernel, stride=2).numpy()
    assert y[0, 0, 1, 1:-1].tolist() == [0, 2, 4, 5, 6]
