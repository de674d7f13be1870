"""Products cut into parts must be the same products, whichever BLAS there is."""

import numpy as np
import pytest

from minifcn.kernels import gemm
from minifcn.kernels.threads import aligned, workspace


@pytest.fixture(params=[True, False], ids=["small products are fast", "they are not"])
def unpacked(request, monkeypatch):
    monkeypatch.setattr(gemm, "unpacked", lambda: request.param)
    gemm.part.cache_clear()
    gemm.depth.cache_clear()
    yield request.param
    gemm.part.cache_clear()
    gemm.depth.cache_clear()


SHAPES = [
    ((), 5, 7, 3),
    ((), 1, 48, 16),
    ((), 2000, 48, 16),  # whole rows of several parts, and a rest
    ((2,), 1500, 96, 32),
    ((3, 2), 120, 768, 256),  # cut into panels of columns as well
    ((), 70, 768, 100),  # cannot be cut into panels
    ((), 40, 4608, 512),  # too deep for small parts
]


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_parts_make_the_whole(unpacked, case):
    stack, M, K, N = case
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(*stack, M, K)), rng.normal(size=(*stack, K, N))
    wide = np.full((*stack, M, 3 * N), 7, np.float32)
    gemm.matmul(a.astype(np.float32), b.astype(np.float32), out=wide[..., N : 2 * N])
    expected = a @ b
    assert abs(wide[..., N : 2 * N] - expected).max() <= 1e-6 * abs(expected).max() * np.sqrt(K)
    assert (wide[..., :N] == 7).all()
    assert (wide[..., 2 * N :] == 7).all()


def test_strided_factors(unpacked):
    """Winograd's phases: rows of three pixels, three stacks that start one pixel apart."""
    C, O, pixels = 16, 16, 9000
    rng = np.random.default_rng(1)
    V = rng.normal(size=(pixels + 2) * C).astype(np.float32)
    U = rng.normal(size=(3 * C, O)).astype(np.float32)
    a = np.ndarray((3, pixels // 3, 3 * C), np.float32, V, 0, (4 * C, 12 * C, 4))
    y = np.zeros((pixels, O), np.float32)
    gemm.matmul(a, U, out=np.ndarray((*a.shape[:-1], O), np.float32, y, 0, (4 * O, 12 * O, 4)))
    patches = np.lib.stride_tricks.sliding_window_view(V, 3 * C)[::C]
    np.testing.assert_allclose(y, patches @ U, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [(M, K, N) for _, M, K, N in SHAPES], ids=str)
def test_parts_are_small_or_the_whole(unpacked, case):
    M, K, N = case
    rows, columns = gemm.part(M, K, N)
    if (rows, columns) != (M, N):
        assert unpacked
        assert rows * K * columns <= gemm.LIMIT
        assert rows >= gemm.LEAST or rows == M
        assert N % columns == 0


def test_a_blas_that_copies_anyway_gets_whole_products(monkeypatch):
    monkeypatch.setattr(gemm, "unpacked", lambda: False)
    gemm.part.cache_clear()
    try:
        assert gemm.part(5000, 48, 16) == (5000, 16)
    finally:
        gemm.part.cache_clear()


def test_long_sums_are_cut_into_parts_worth_adding_up(unpacked):
    cut = gemm.depth(64, 9000, 64)
    assert cut == (gemm.LIMIT // 64**2 if unpacked else 9000)
    assert gemm.depth(256, 9000, 256) == 9000
    assert gemm.depth(16, 100, 16) == 100


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_types_are_multiplied_as_ever(unpacked, dtype):
    a, b = np.ones((1200, 96), dtype), np.ones((96, 32), dtype)
    out = np.empty((1200, 32), dtype)
    gemm.matmul(a, b, out=out)
    assert (out == 96).all()
    assert gemm.right(b) is b


def test_a_right_factor_is_brought_to_a_multiple_of_64_bytes():
    odd = aligned((49 * 32,))[4:-28].reshape(48, 32)
    ready = gemm.right(odd)
    assert ready.ctypes.data % 64 == 0
    assert np.array_equal(ready, odd)
    assert gemm.right(ready) is ready
    large = aligned((1025 * 1024,))[4:].reshape(-1)[: 1024 * 1024].reshape(1024, 1024)
    assert gemm.right(large) is large, "copying it would cost more than it brings"


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1000,), (0, 4)])
def test_aligned_arrays_and_workspaces(shape):
    array = aligned(shape)
    assert array.shape == shape
    assert array.dtype == np.float32
    assert array.ctypes.data % 64 == 0 or array.size == 0
    assert workspace("test", shape, np.zeros(1, np.float32)).shape == shape
