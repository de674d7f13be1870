"""3x3 convolution with half the multiplications: Winograd's F(4, 3), along the vertical axis.

**Why it works.** Take one column of an image and a kernel of three numbers. Four outputs need six
inputs d and 4·3 = 12 products. But the four outputs are coefficients of a product of polynomials,
and a polynomial of degree 5 is known from its values at six points. So: evaluate the (transposed)
input and the kernel at the points 0, 1, -1, 2, -2 and infinity, multiply the six pairs of values,
and interpolate. With constant matrices B (6x6), G (6x3) and A (4x6),

    y = A · ((G · w) * (B · d)),

six products in place of twelve (Winograd 1980; Lavin and Gray 2016, section 4.1, transposed). In a
convolution with C inputs and O outputs, * becomes a matrix product over the channels, so the work
halves, and B and A cost little beside it.

**Why vertical only.** On channels-last memory, B acts on six whole image rows at once:
(6, 6) @ (6, W·C). Nothing is gathered. The horizontal taps need no im2col either: with the
transformed row V of shape (W, C) in memory, three neighbouring pixels are 3·C numbers side by side.
Read as rows of 3·C, V is the patch matrix of every third output; started one pixel later, of the
next third; and so on. Three matrix products, the *phases*, cover all outputs. V's rows have a pitch
that is a multiple of three pixels, so that this goes on from row to row; what comes out at the
pitch's spare pixels is never read.

Arrays are float32 and channels-last; the error is about 1e-6 of the largest output.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..shapes import Pair
from .threads import parallel_for, workspace
from .tiles import Tile, cut

B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
A = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)
BLOCK_PIXELS = 1024  # of a row of V: fewer, and Python's own time counts; more, and the cache
SHARES = 4  # partial sums of the weight gradient: fixed, so that threads do not change the result


class Plan:
    """How the output (N, height, width) is cut into bands of four rows, and bands into blocks."""

    def __init__(self, x: np.ndarray, padding: Pair) -> None:
        self.N, self.H, self.W, self.C = x.shape
        self.top, self.left = padding
        self.height, self.width = self.H + 2 * self.top - 2, self.W + 2 * self.left - 2
        self.bands = -(-self.height // 4)
        self.pitch = -(-(self.width + 2) // 3) * 3  # pixels from one row of V to the next

    def blocks(self) -> list[Tile]:
        """Return the blocks: tiles whose rows are bands."""
        return cut(self.N, self.bands, BLOCK_PIXELS // self.pitch)


def conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, padding: Pair
) -> np.ndarray | None:
    """Return the 3x3 convolution of x (N, H, W, C) with weight (O, C, 3, 3), at stride 1.

    None if a number in it is not finite: B mixes rows, so that an infinity would spread to outputs
    that do not see it. Another algorithm must then tell which outputs it belongs to.
    """
    x = np.ascontiguousarray(x)
    O, C = weight.shape[:2]
    plan = Plan(x, padding)
    with np.errstate(all="ignore"):
        # (O, C, 3, 3) -> (3, 3, C, O) -> (3, 3*C*O); times G -> (6, 3*C*O) -> (6, 3*C, O)
        U = np.matmul(G, weight.transpose(2, 3, 1, 0).reshape(3, -1)).reshape(6, 3 * C, O)
    # The bias is a seventh product, the same everywhere, that A takes once into each output.
    A7 = A if bias is None else np.concatenate([A, np.ones((4, 1), np.float32)], axis=1)
    y = np.empty((plan.N, plan.height, plan.width, O), np.float32)
    blocks = plan.blocks()
    finite = np.ones(len(blocks), bool)

    def compute(i: int) -> None:
        V = transformed(x, plan, blocks[i])  # (6, images, bands, pitch*C)
        M = workspace("M", (len(A7.T), *V.shape[1:3], plan.pitch * O), x)
        if bias is not None:
            M[6] = np.tile(bias, plan.pitch)
        thirds = V.shape[1] * V.shape[2] * plan.pitch // 3
        for phase in range(3):
            rows = thirds - (phase > 0)  # the last one would read beyond V
            np.matmul(
                strided(V, phase * C, (6, rows, 3 * C), (V.strides[0], 12 * C, 4)),
                U,
                out=strided(M, phase * O, (6, rows, O), (M.strides[0], 12 * O, 4)),
            )
        for rows, bands in row_bands(y, plan, blocks[i]):
            # (7, images, bands, width*O) -> (images, bands, 7, width*O); A7 is (4, 7) or less
            products = M[:, :, bands, : plan.width * O].transpose(1, 2, 0, 3)
            np.matmul(A7[: rows.shape[2]], products, out=rows)
            finite[i] &= np.isfinite(rows.sum())  # read again while it is in the cache

    parallel_for(len(blocks), compute, x)
    return y if finite.all() else None


def conv2d_weight(x: np.ndarray, g: np.ndarray, padding: Pair) -> np.ndarray | None:
    """Return the gradient in the weight, (O, C, 3, 3), from x (N, H, W, C) and g (N, Ho, Wo, O).

    The transpose of `conv2d`: dw = Gᵀ · sum over positions of (B · x)ᵀ (Aᵀ · g). None if a number
    in it is not finite.
    """
    x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
    C, O = x.shape[3], g.shape[3]
    plan = Plan(x, padding)
    blocks = plan.blocks()
    shares = max(1, min(SHARES, len(blocks)))
    sums = np.zeros((shares, 6, 3, C, O), np.float32)

    def add_up(share: int) -> None:
        product = workspace("product", (6, 3, C, O), x)
        for block in blocks[share::shares]:
            V = transformed(x, plan, block)
            E = workspace("E", (*V.shape[:3], plan.pitch * O), g)
            E[..., plan.width * O :] = 0  # the spare pixels must add nothing
            for rows, bands in row_bands(g, plan, block):
                out = E[:, :, bands, : plan.width * O].transpose(1, 2, 0, 3)
                np.matmul(A[: rows.shape[2]].T, rows, out=out)
            pixels = V.shape[1] * V.shape[2] * plan.pitch - 2
            np.matmul(
                strided(V, 0, (6, 3, C, pixels), (V.strides[0], 4 * C, 4, 4 * C)),
                strided(E, 0, (6, 1, pixels, O), (E.strides[0], 0, 4 * O, 4)),
                out=product,
            )
            sums[share] += product

    parallel_for(shares, add_up, x)
    with np.errstate(all="ignore"):
        total = sums.sum(axis=0).reshape(6, -1)
    if not np.isfinite(total).all():
        return None
    # (3, 6) @ (6, 3*C*O) -> (3, 3, C, O) -> (O, C, 3, 3)
    return np.matmul(G.T, total).reshape(3, 3, C, O).transpose(3, 2, 0, 1)


def transformed(x: np.ndarray, plan: Plan, block: Tile) -> np.ndarray:
    """Return V = B · (six rows of x) for each band of a block: (6, images, bands, pitch*C).

    Bands inside the image are one product. At the top and the bottom, where some of the six rows
    lie outside and count as zero, B loses the columns that belong to them.
    """
    row, first, last = plan.W * plan.C, block.rows.start, block.rows.stop
    count = block.images.stop - block.images.start
    V = workspace("V", (6, count, last - first, plan.pitch * plan.C), x)
    inside = slice(plan.left * plan.C, plan.left * plan.C + row)
    V[..., : inside.start] = 0
    V[..., inside.stop :] = 0
    whole = [b for b in range(first, last) if 0 <= 4 * b - plan.top <= plan.H - 6]
    if whole:
        start = (block.images.start * plan.H + 4 * whole[0] - plan.top) * row
        steps = (4 * plan.H * row, 16 * row, 4 * row, 4)
        six = strided(x, start, (count, len(whole), 6, row), steps)
        place = slice(whole[0] - first, whole[-1] + 1 - first)
        np.matmul(B, six, out=V[:, :, place, inside].transpose(1, 2, 0, 3))
    for band in sorted(set(range(first, last)) - set(whole)):
        above = 4 * band - plan.top
        low, high = max(0, above), min(plan.H, above + 6)
        out = V[:, :, band - first, inside].transpose(1, 0, 2)  # (images, 6, W*C)
        if low >= high:
            out[...] = 0
            continue
        rows = x[block.images, low:high].reshape(count, high - low, row)
        np.matmul(B[:, low - above : high - above], rows, out=out)
    return V


def row_bands(y: np.ndarray, plan: Plan, block: Tile) -> Iterator[tuple[np.ndarray, slice]]:
    """Yield views of y, (images, bands, 4, width*O), for the bands of a block, and which they are.

    If the last band has fewer than four rows, it comes on its own.
    """
    row = plan.width * y.shape[3]
    count = block.images.stop - block.images.start
    first, full = block.rows.start, min(block.rows.stop, plan.height // 4)
    for start, stop, rows in ((first, full, 4), (full, block.rows.stop, plan.height % 4)):
        if start < stop:
            offset = (block.images.start * plan.height + 4 * start) * row
            steps = (4 * plan.height * row, 16 * row, 4 * row, 4)
            shape = (count, stop - start, rows, row)
            yield strided(y, offset, shape, steps), slice(start - first, stop - first)


def strided(
    a: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """Return a view of float32 memory: offset in numbers, strides in bytes (as_strided is slow)."""
    return np.ndarray(shape, np.float32, a, 4 * offset, strides)
