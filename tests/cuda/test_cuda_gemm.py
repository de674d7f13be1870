"""Convolution on a GPU in fp32: im2col, and cuBLAS for the products."""

import numpy as np
import on_cpu
import pytest

import minifcn as mf
from minifcn.functional.conv import GEOMETRIES
from minifcn.kernels import conv, im2col, precision
from minifcn.kernels.cuda import gemm
from minifcn.shapes import conv_geometry, pair

pytestmark = pytest.mark.skipif(not on_cpu.available(), reason="there is no g++")


@pytest.fixture
def xp(cupy):
    """The stand-in for CuPy, then CuPy on a GPU."""
    return cupy


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: geometry[0])
def test_products_by_cublas(xp, geometry, monkeypatch):
    _, shape, O, kernel, stride, padding, dilation, groups = geometry
    rng, kernel = np.random.default_rng(4), pair(kernel, "kernel", 1)
    how = conv_geometry(stride, padding, dilation)
    N, C, H, W = shape
    x, w = rng.normal(size=(N, H, W, C)), rng.normal(size=(O, C // groups, *kernel))
    bias = rng.normal(size=O)
    y = im2col.conv2d(x, w, bias, *how, groups, True)
    g = rng.normal(size=y.shape)
    back = im2col.conv_transpose2d(g, w, *how[:2], (H, W), how[2], groups)
    dw = im2col.conv2d_weight(x, g, kernel, *how, groups)
    X, B, G, weight = (xp.asarray(a.astype(np.float32)) for a in (x, bias, g, w))

    def three():
        yield gemm.conv2d(X, weight, B, *how, groups, True), y
        yield gemm.conv_transpose2d(G, weight, *how[:2], (H, W), how[2], groups), back
        yield gemm.conv2d_weight(X, G, kernel, *how, groups), dw

    for found, expected in three():
        np.testing.assert_allclose(found.get(), expected, atol=2e-5)
    monkeypatch.setattr(gemm, "cut", lambda n, rows, per_tile, least: im2col.cut(n, rows, 1, least))
    for found, expected in three():  # row by row
        np.testing.assert_allclose(found.get(), expected, atol=2e-5)


def test_the_workspace_bounds_the_memory(standin, monkeypatch):
    """64 channels of 64 x 64 pixels, of which the patches would take 9.4 MB."""
    xp = standin
    x, w = xp.zeros((1, 64, 64, 64), np.float32), xp.zeros((64, 64, 3, 3), np.float32)
    gemm.conv2d(x, w, None, (9, 9), (1, 1), (1, 1), 1)  # cuBLAS gets its memory
    pool = xp.get_default_memory_pool()
    pool.set_limit(pool.used_bytes() + (4 << 20))  # 1 MB for the result, 0.15 MB for the weight

    def three():
        y = gemm.conv2d(x, w, None, (1, 1), (1, 1), (1, 1), 1)
        gemm.conv2d_weight(x, y, (3, 3), (1, 1), (1, 1), (1, 1), 1)
        gemm.conv_transpose2d(y, w, (1, 1), (1, 1), (64, 64), (1, 1), 1)

    with pytest.raises(MemoryError):
        three()
    monkeypatch.setenv("MINIFCN_WORKSPACE", "1")
    three()


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "much"])
def test_a_workspace_of_no_size_is_an_error(xp, monkeypatch, text):
    monkeypatch.setenv("MINIFCN_WORKSPACE", text)
    x, w = xp.zeros((1, 2, 2, 3), np.float32), xp.zeros((2, 3, 1, 1), np.float32)
    with pytest.raises(gemm.WorkspaceError, match="must be a whole number of MB from 1 up"):
        gemm.conv2d(x, w, None, (1, 1), (0, 0), (1, 1), 1)


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_no_images(xp, name):
    x, w = xp.zeros((0, 4, 5, 5), np.float32), xp.ones((8, 4, 3, 3), np.float32)
    with mf.use_precision(name):
        y = conv.conv2d(x, w, None, (1, 1), (0, 0), (1, 1), 1)
        dw = conv.conv2d_weight(x, y, (3, 3), (1, 1), (0, 0), (1, 1), 1)
    assert y.shape == (0, 8, 3, 3)
    np.testing.assert_array_equal(dw.get(), np.zeros((8, 4, 3, 3)))
