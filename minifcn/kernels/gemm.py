"""Matrix products in parts of the size that BLAS does best.

Before it multiplies, a BLAS usually copies both factors into an order of its own. For products of
up to LIMIT multiplications, OpenBLAS's kernels for AVX-512 leave that out, and are faster by a
fifth to a half for the few channels of a convolution's product; but only if the right factor's rows
begin at multiples of 64 bytes, as those of `threads.aligned` do. NumPy runs a stack of products in
one call, so cutting one into a stack costs nothing else.
"""

from __future__ import annotations

import functools

import numpy as np

from ..backend import Array, is_numpy, xp_of
from . import cuda
from .threads import aligned, blas, parallel_for

LIMIT = 1_000_000  # rows · depth · columns
PANEL = 64  # columns of a part, if all columns at once would leave too few rows
LEAST = 12  # rows of a part: with fewer, the kernels' inner loops are not full
LEAST_DEPTH = 200  # terms of a part: with fewer, adding up the parts costs too much
SHARES = 8  # of a product that threads share
TINY = 8192  # rows · depth · columns: OpenBLAS never wakes a thread for fewer
UNPACKED = {"SkylakeX", "Cooperlake", "SapphireRapids"}  # whose kernels do this


def matmul(a: Array, b: Array, out: Array) -> None:
    """Write a @ b to ``out``: stacks (..., M, K) and (..., K, N), in any strides."""
    (M, K), N = a.shape[-2:], b.shape[-1]
    rows, columns = part(M, K, N) if fits(a) else (M, N)
    if (rows, columns) == (M, N):
        xp_of(a).matmul(a, b, out=out)
        return
    panels = b.reshape(*b.shape[:-1], N // columns, columns).swapaxes(-2, -3)
    for some in (slice(0, M - M % rows), slice(M - M % rows, M)):  # whole parts, and the rest
        if count := some.stop - some.start:
            high = min(rows, count)
            # (..., M, K) -> (..., M/rows, 1, rows, K), times (..., 1, N/columns, K, columns)
            left = a[..., some, :].reshape(*a.shape[:-2], -1, 1, high, K)
            split = out[..., some, :].reshape(*out.shape[:-2], -1, high, N // columns, columns)
            np.matmul(left, panels[..., None, :, :, :], out=split.swapaxes(-2, -3))


def product(a: Array, b: Array) -> Array:
    """Return a @ b, of stacks (..., M, K) and (..., K, N), computed on all threads.

    BLAS could do so by itself, but cuts a product by how many threads it has, and then adds up in
    another order: one product in thirty has other bits on two threads than on one. So it is cut
    here, always into the same shares.

    On a GPU, a product of float32 matrices can be recorded (`cuda.graph`); others are CuPy's own,
    and cannot.
    """
    if cuda.on(a) and cuda.on(b) and a.ndim == b.ndim == 2 and a.size and b.size:
        return _on_gpu(a, b)
    if not is_numpy(a) or a.dtype.kind != "f" or a.size * b.shape[-1] <= TINY:
        return a @ b
    M, N = a.shape[-2], b.shape[-1]
    y = np.empty((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), M, N), np.result_type(a, b))
    each = -(-max(M, N) // SHARES)

    def multiply(i: int) -> None:
        some = slice(i * each, (i + 1) * each)
        if M >= N:
            np.matmul(a[..., some, :], b, out=y[..., some, :])
        else:
            np.matmul(a, b[..., some], out=y[..., some])

    parallel_for(-(-max(M, N) // each), multiply, y, 2.0 * y.size * a.shape[-1])
    return y


def _on_gpu(a: Array, b: Array) -> Array:
    xp = xp_of(a)
    # What lies neither row by row nor column by column is copied: views with gaps, repeated rows.
    whole = [m if m.flags.f_contiguous else xp.ascontiguousarray(m) for m in (a, b)]
    return cuda.cublas.product(*whole, xp.empty((len(a), b.shape[1]), a.dtype))


@functools.cache
def part(M: int, K: int, N: int) -> tuple[int, int]:
    """Return how many rows and columns of a product (M, K) @ (K, N) to compute at once."""
    if M * K * N <= LIMIT or not unpacked():
        return M, N
    columns = N if K * N * LEAST <= LIMIT or N % PANEL else PANEL
    most = LIMIT // (K * columns)
    if most < LEAST:
        return M, N
    return -(-M // -(-M // most)), columns  # parts of nearly equal height


@functools.cache
def depth(M: int, K: int, N: int) -> int:
    """Return how many of K terms to add up at once in a product (M, K) @ (K, N)."""
    some = LIMIT // (M * N)
    return some if LEAST_DEPTH <= some < K and unpacked() else K


def right(b: Array) -> Array:
    """Return a right factor as it should lie for `matmul`: copied if that makes it aligned."""
    if not fits(b) or b.size * LEAST > LIMIT or b.__array_interface__["data"][0] % 64 == 0:
        return b
    copy = aligned(b.shape)
    copy[...] = b
    return copy


def fits(a: Array) -> bool:
    """Tell whether products with this array can be of the kind described above."""
    return is_numpy(a) and a.dtype == np.float32


@functools.cache
def unpacked() -> bool:
    """Tell whether NumPy's BLAS has kernels that do small products without copying."""
    return any(found.get("architecture") in UNPACKED for found in blas().info())
