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
BLOCK_PIXELS = 1024  # of one transformed row: smaller blocks cost Python's time, larger ones cache
SHARES = 4  # partial sums of the weight gradient: fixed, so that threads do not change the result


class Plan:
    """How the output (N, height, width) is cut into bands of four rows, and bands into blocks."""

    def __init__(self, x: np.ndarray, padding: Pair, channels: int) -> None:
        self.N, self.H, self.W, self.C = x.shape
        self.top, self.left = padding
        self.height, self.width = self.H + 2 * self.top - 2, self.W + 2 * self.left - 2
        self.bands = -(-self.height // 4)
        self.pitch = -(-(self.width + 2) // 3) * 3  # pixels from one row of V to the next
        wide = BLOCK_PIXELS * (2 if self.C + channels <= 48 else 1)
        fair = -(-self.N * self.bands // 2)  # two blocks at the least, for two threads
        self.per_block = max(1, min(wide // self.pitch, fair))

    def blocks(self) -> list[range]:
        """Return the blocks: runs of bands, counted through all images."""
        total = self.N * self.bands
        return [range(i, min(i + self.per_block, total)) for i in range(0, total, self.per_block)]

    def runs(self, block: range) -> Iterator[tuple[int, int, int, int]]:
        """Yield (image, first band, place in the block, number) for each image in a block."""
        band = block.start
        while band < block.stop:
            image, first = divmod(band, self.bands)
            count = min(self.bands - first, block.stop - band)
            yield image, first, band - block.start, count
            band += count


def conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, padding: Pair
) -> np.ndarray | None:
    """Return the 3x3 convolution of x (N, H, W, C) with weight (O, C, 3, 3), at stride 1.

    None if a number in it is not finite: B mixes rows, so that an infinity would spread to outputs
    that do not see it. Another algorithm must then tell which outputs it belongs to.
    """
    x = np.ascontiguousarray(x)
    O, C = weight.shape[:2]
    plan = Plan(x, padding, O)
    # (O, C, 3, 3) -> (3, 3, C, O) -> (3, 3*C*O); G -> (6, 3*C*O) -> (6, 3*C, O)
    with np.errstate(all="ignore"):
        U = np.matmul(G, weight.transpose(2, 3, 1, 0).reshape(3, -1)).reshape(6, 3 * C, O)
    # The bias is a seventh product, the same everywhere, that A takes once into each output.
    A7 = A if bias is None else np.concatenate([A, np.ones((4, 1), np.float32)], axis=1)
    y = np.empty((plan.N, plan.height, plan.width, O), np.float32)
    blocks = plan.blocks()
    finite = np.ones(len(blocks), bool)

    def compute(i: int) -> None:
        V = transformed(x, plan, blocks[i])
        M = workspace("M", (len(A7.T), len(blocks[i]), plan.pitch * O), x)
        if bias is not None:
            M[6] = np.tile(bias, plan.pitch)
        thirds = len(blocks[i]) * plan.pitch // 3
        for phase in range(3):
            rows = thirds - (phase > 0)  # the last one would read beyond V
            np.matmul(
                strided(V, phase * C, (6, rows, 3 * C), (V.strides[0], 12 * C, 4)),
                U,
                out=strided(M, phase * O, (6, rows, O), (M.strides[0], 12 * O, 4)),
            )
        for image, first, place, count in plan.runs(blocks[i]):
            products = M[:, place : place + count, : plan.width * O]
            whole = min(count, plan.height // 4 - first)
            if whole > 0:
                bands = y[image, 4 * first : 4 * (first + whole)]
                bands = bands.reshape(whole, 4, plan.width * O)
                np.matmul(A7, products[:, :whole].transpose(1, 0, 2), out=bands)
                finite[i] &= np.isfinite(bands.sum())  # read again while it is in the cache
            if whole < count:  # the last band has fewer than four rows
                rest = y[image, 4 * (first + count - 1) :].reshape(-1, plan.width * O)
                np.matmul(A7[: len(rest)], products[:, count - 1], out=rest)
                finite[i] &= np.isfinite(rest.sum())

    parallel_for(len(blocks), compute, x)
    return y if finite.all() else None


def conv2d_weight(x: np.ndarray, g: np.ndarray, padding: Pair) -> np.ndarray | None:
    """Return the gradient in the weight, (O, C, 3, 3), from x (N, H, W, C) and g (N, Ho, Wo, O).

    The transpose of `conv2d`: dw = Gᵀ · sum over positions of (B · x)ᵀ (Aᵀ · g). None if a number
    in it is not finite.
    """
    x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
    C, O = x.shape[3], g.shape[3]
    plan = Plan(x, padding, O)
    blocks = plan.blocks()
    shares = max(1, min(SHARES, len(blocks)))
    sums = np.zeros((shares, 6, 3, C, O), np.float32)

    def add_up(share: int) -> None:
        product = workspace("product", (6, 3, C, O), x)
        for block in blocks[share::shares]:
            V = transformed(x, plan, block)
            E = workspace("E", (6, len(block), plan.pitch * O), g)
            E[:, :, plan.width * O :] = 0  # the spare pixels must add nothing
            for image, first, place, count in plan.runs(block):
                whole = min(count, plan.height // 4 - first)
                out = E[:, place : place + count, : plan.width * O]
                if whole > 0:
                    rows = g[image, 4 * first : 4 * (first + whole)]
                    bands = rows.reshape(whole, 4, plan.width * O)
                    np.matmul(A.T, bands, out=out[:, :whole].transpose(1, 0, 2))
                if whole < count:
                    rows = g[image, 4 * (first + count - 1) :].reshape(-1, plan.width * O)
                    np.matmul(A[: len(rows)].T, rows, out=out[:, count - 1])
            pixels = len(block) * plan.pitch - 2
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
    return (G.T @ total).reshape(3, 3, C, O).transpose(3, 2, 0, 1)


def transformed(x: np.ndarray, plan: Plan, block: range) -> np.ndarray:
    """Return V = B · (six rows of x) for each band of a block: (6, bands, pitch * C)."""
    C, row = plan.C, plan.W * plan.C
    V = workspace("V", (6, len(block), plan.pitch * C), x)
    inside = slice(plan.left * C, plan.left * C + row)
    V[:, :, : inside.start] = 0
    V[:, :, inside.stop :] = 0
    for image, first, place, count in plan.runs(block):
        rows = x[image].reshape(plan.H, row)
        tops = [4 * band - plan.top for band in range(first, first + count)]
        within = [i for i, top in enumerate(tops) if top >= 0 and top + 6 <= plan.H]
        if within:
            start, stop = within[0], within[-1] + 1
            six = strided(rows, tops[start] * row, (stop - start, 6, row), (16 * row, 4 * row, 4))
            np.matmul(B, six, out=V[:, place + start : place + stop, inside].transpose(1, 0, 2))
        for i in set(range(count)) - set(within):  # some of the six rows lie outside the image
            low, high = max(0, tops[i]), min(plan.H, tops[i] + 6)
            some = B[:, low - tops[i] : high - tops[i]]
            if high > low:
                np.matmul(some, rows[low:high], out=V[:, place + i, inside])
            else:
                V[:, place + i] = 0
    return V


def strided(
    a: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """Return a view of float32 memory: offset in numbers, strides in bytes (as_strided is slow)."""
    return np.ndarray(shape, np.float32, a, 4 * offset, strides)
