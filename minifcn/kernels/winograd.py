"""3x3 convolution with half the multiplications: Winograd's F(4, 3), along the vertical axis.

**Why it works.** Take one column of an image and a kernel of three numbers. Four outputs need six
inputs d and 4·3 = 12 products. But the four outputs are coefficients of a product of polynomials,
and a polynomial of degree 5 is known from its values at six points. So: evaluate the (transposed)
input and the kernel at five points and at infinity, multiply the six pairs of values, and
interpolate. With constant matrices B (6x6), G (6x3) and A (4x6),

    y = A · ((G · w) * (B · d)),

six products in place of twelve (Winograd 1980; Lavin and Gray 2016, section 4.1, transposed). In a
convolution with C inputs and O outputs, * becomes a matrix product over the channels, so the work
halves, and B and A cost little beside it.

**Why vertical only.** On channels-last memory, B acts on six whole image rows at once:
(6, 6) @ (6, W·C). Nothing is gathered. The horizontal taps need no im2col either: with the
transformed row V of shape (W, C) in memory, three neighbouring pixels are 3·C numbers side by side.
Read as rows of 3·C, V is the patch matrix of every third output; started one pixel later, of the
next third; and so on. These three products, the *phases*, cover all outputs. V's rows have a pitch
that is a multiple of three pixels, so that this goes on from row to row; what comes out at the
pitch's spare pixels is never read.

**Infinity and NaN.** 0 · infinity is NaN, so a pixel that is not finite spoils all that B and A
make of its column, outputs that do not see it too. One channel in one row of four shows it; then
another algorithm must tell which outputs it belongs to.

Arrays are float32 and channels-last; the error is about 2e-6 of the largest output.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..shapes import Pair
from . import gemm
from .threads import aligned, parallel_for, workspace
from .tiles import Tile, cut

# Any five numbers would do. With 0, 1, -1, 2, -2 the largest errors are twice as large, and four
# times in `winograd2d`; these are of the best that were tried, and A and B hold them exactly.
POINTS = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)  # and infinity


def matrices(points: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A (4, 6), B (6, 6) and G (6, 3) in float64, for five points and infinity.

    G evaluates a polynomial of three coefficients at the points, and at infinity, where only the
    last one counts; A is the transpose of the same for four coefficients. The transpose of B
    interpolates: row k of B has the coefficients of the polynomial that is zero at all points but
    the k-th. What it is there, G divides by.
    """
    k = np.arange(6)
    powers = np.vander(np.array(points, float), 4, increasing=True)
    at = np.vstack([powers, k[:4] == 3])  # (6, 4): the values of 1, t, t², t³
    B = np.zeros((6, 6))
    G = np.vstack([powers[:, :3], k[:3] == 2])
    for i, point in enumerate(points):
        others = [p for p in points if p != point]
        B[i, :5] = np.poly(others)[::-1]
        G[i] /= np.prod([point - p for p in others])
    B[5] = np.poly(points)[::-1]
    return at.T, B, G


A, B, G = (matrix.astype(np.float32) for matrix in matrices(POINTS))
BLOCK_FLOATS = 1 << 19  # of V and M together: 2 MB, which a core's own cache holds
LEAST_PIXELS = 512  # of a block: with fewer, reading U takes longer than multiplying with it
DEEP, DEEP_PIXELS = 1 << 17, 2048  # C·O of a large weight, and pixels that are few beside it
SHARES = 4  # partial sums of the weight gradient: fixed, so that threads do not change the result
MOVING = 100  # multiplications in the time that one number of a weight takes to be transformed
WEIGHT_FLOATS = 1 << 18  # of a weight that one thread transforms at a time


class Plan:
    """How the output (N, height, width) is cut into bands of four rows, and bands into blocks."""

    def __init__(self, x: np.ndarray, padding: Pair) -> None:
        self.like = x
        self.N, self.H, self.W, self.C = x.shape
        self.top, self.left = padding
        self.height, self.width = self.H + 2 * self.top - 2, self.W + 2 * self.left - 2
        self.bands = -(-self.height // 4)
        self.pitch = -(-(self.width + 2) // 3) * 3  # pixels from one row of V to the next
        self.whole = Tile(slice(0, self.N), slice(0, self.bands))

    def blocks(self, pixels: int) -> list[Tile]:
        """Return tiles of about so many pixels, whose rows are bands."""
        return cut(self.N, self.bands, pixels // self.pitch)

    def is_deep(self, O: int) -> bool:
        """Tell whether there are few pixels for so large a weight: they make only one block."""
        return self.C * O >= DEEP and self.pixels(self.whole) <= DEEP_PIXELS

    def planes(self, name: str, count: int, channels: int, block: Tile) -> np.ndarray:
        """Return this thread's room for ``count`` rows of V or M: (count, (pixels + 3)·channels).

        The second and the third phase run on beyond the last pixel: hence three pixels more.
        """
        return workspace(name, (count, (self.pixels(block) + 3) * channels), self.like)

    def pixels(self, block: Tile) -> int:
        """Return how many pixels a row of V has for all bands of a block."""
        images, bands = block
        return (images.stop - images.start) * (bands.stop - bands.start) * self.pitch

    def operations(self, O: int) -> float:
        """Return about how many multiplications and additions there are."""
        return 9.0 * self.N * self.height * self.width * self.C * O

    def by_band(self, planes: np.ndarray, channels: int, block: Tile) -> np.ndarray:
        """Return planes without the three pixels more: (count, images, bands, pitch·channels)."""
        images, bands = block
        row = self.pitch * channels
        used = planes[:, : self.pixels(block) * channels]
        return used.reshape(len(planes), images.stop - images.start, bands.stop - bands.start, row)


class Output:
    """What a convolution makes, and how it is made of the products M, block by block.

    The bias is a seventh product, the same everywhere, that A takes once into each output. A ReLU
    is done on each block while it is in the cache.
    """

    def __init__(self, plan: Plan, O: int, bias: np.ndarray | None, relu: bool) -> None:
        self.plan, self.relu = plan, relu
        self.y = aligned((plan.N, plan.height, plan.width, O))
        self.A = A if bias is None else np.concatenate([A, np.ones((4, 1), np.float32)], axis=1)
        self.seventh = None if bias is None else np.tile(bias, plan.pitch)
        self.rows = 6 if bias is None else 7  # of M
        self.sums: list[np.float32] = []  # of some outputs: finite unless an input is not

    def store(self, block: Tile, m: np.ndarray) -> None:
        """Write A · m, for m (rows, images, bands, pitch*O), to the rows of y of a block."""
        if self.seventh is not None:
            m[6] = self.seventh
        O = self.y.shape[3]
        for out, bands in row_bands(self.y, self.plan, block):
            # (7, images, bands, width*O) -> (images, bands, 7, width*O); A is (4, 7) or less
            products = m[:, :, bands, : self.plan.width * O].transpose(1, 2, 0, 3)
            np.matmul(self.A[: out.shape[2]], products, out=out)
            self.sums.append(out[:, :, 0, ::O].sum())  # before the ReLU, which hides -infinity
            if self.relu:
                np.maximum(out, 0, out=out)

    def if_finite(self, U: np.ndarray) -> np.ndarray | None:
        """Return y; None if a number in x, or in some rows of U, is seen not to be finite."""
        with np.errstate(invalid="ignore"):  # infinities of either sign make NaN: seen as well
            finite = np.isfinite(self.sums).all() and np.isfinite(U.sum())
        return self.y if finite else None


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    padding: Pair,
    relu: bool = False,
) -> np.ndarray | None:
    """Return the 3x3 convolution of x (N, H, W, C) with weight (O, C, 3, 3), at stride 1.

    With ``relu``, what is below zero in it becomes zero. None if a number in x or in the weight is
    not finite.
    """
    x = np.ascontiguousarray(x)
    O, C = weight.shape[:2]
    plan, U = Plan(x, padding), transformed_weight(weight, G).reshape(6, 3 * C, O)
    output = Output(plan, O, bias, relu)

    def work_on(block: Tile) -> None:
        V, M = plan.planes("V", 6, C, block), plan.planes("M", output.rows, O, block)
        transform(x, plan, block, plan.by_band(V, C, block))
        gemm.matmul(phases(V, C, 3 * C), U, out=phases(M, O, O))
        output.store(block, plan.by_band(M, O, block))

    if not plan.is_deep(O):  # each thread takes a block through all three stages
        blocks = plan.blocks(max(LEAST_PIXELS, BLOCK_FLOATS // (6 * C + 7 * O)))
        parallel_for(len(blocks), lambda i: work_on(blocks[i]), x, plan.operations(O))
    else:  # all threads together take one block through each stage
        V, M = plan.planes("V", 6, C, plan.whole), plan.planes("M", output.rows, O, plan.whole)
        v, m = plan.by_band(V, C, plan.whole), plan.by_band(M, O, plan.whole)
        parts = plan.blocks(plan.pixels(plan.whole) // 4)

        def multiply(i: int) -> None:
            # One product in place of three: the copy costs less than reading U[i] three times.
            pixels = plan.pixels(plan.whole)
            rows = workspace("rows", (pixels, 3 * C), x)
            np.copyto(rows, strided(V[i], 0, rows.shape, (4 * C, 4)))
            np.matmul(rows, U[i], out=M[i, : pixels * O].reshape(pixels, O))

        parallel_for(len(parts), lambda i: transform(x, plan, parts[i], v[:, *parts[i]]), x)
        parallel_for(6, multiply, x)
        parallel_for(len(parts), lambda i: output.store(parts[i], m[:, *parts[i]]), x)
    return output.if_finite(U[1])


def phases(planes: np.ndarray, channels: int, row: int) -> np.ndarray:
    """Return every third pixel of V or M, from the first, second and third on.

    As (3, 6, pixels/3, row): a row of 3·C numbers is a pixel and its two neighbours to the right.
    """
    plane, pixels = planes.strides[0], planes.shape[1] // channels - 3
    shape, steps = (3, 6, pixels // 3, row), (4 * channels, plane, 12 * channels, 4)
    return strided(planes, 0, shape, steps)


def transformed_weight(weight: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return U = matrix · weight for a weight (O, C, 3, 3); threads share the channels C.

    A matrix (6, 3) acts on each column of three taps, which makes U (6, 3, C, O); one of (36, 9)
    on all nine taps: (36, 1, C, O).
    """
    O, C = weight.shape[:2]
    high, deep = matrix.shape
    U = aligned((high, 9 // deep, C, O))
    each = max(1, WEIGHT_FLOATS // (9 * O))

    def transform_some(i: int) -> None:
        some = slice(i * each, min((i + 1) * each, C))
        taps = workspace("taps", (deep, 9 // deep, some.stop - some.start, O), U)
        # (O, c, 3, 3) -> (3, 3, c, O)
        np.copyto(taps.reshape(3, 3, -1, O), weight[:, some].transpose(2, 3, 1, 0))
        for column in range(9 // deep):
            out = U[:, column, some].reshape(high, -1)  # (6 or 36, c, O) -> (..., c*O)
            np.matmul(matrix, taps[:, column].reshape(deep, -1), out=out)

    parallel_for(-(-C // each), transform_some, weight, MOVING * weight.size)
    return U


def weight_of(sums: np.ndarray, matrix: np.ndarray) -> np.ndarray | None:
    """Return matrixᵀ · (the sum of all shares), the gradient in the weight: (O, C, 3, 3).

    From sums (shares, 6, 3, C, O) with G, or (shares, 36, 1, C, O) with a matrix (36, 9). None if
    a number in it is not finite.
    """
    C, O = sums.shape[3:]
    dw = aligned((3, 3, C, O))
    each = max(1, WEIGHT_FLOATS // (9 * O))  # channels C that one thread finishes at a time
    finite = np.ones(-(-C // each), bool)

    def finish(i: int) -> None:
        some = slice(i * each, min((i + 1) * each, C))
        total = sums[:, :, :, some].sum(axis=0) if len(sums) > 1 else sums[0, :, :, some]
        out = dw[:, :, some]
        taps = np.matmul(matrix.T, total.reshape(len(matrix), -1))  # (3, 3*c*O) or (9, c*O)
        out[...] = taps.reshape(out.shape)
        finite[i] = np.isfinite(out).all()

    parallel_for(len(finite), finish, sums, MOVING * dw.size)
    return dw.transpose(3, 2, 0, 1) if finite.all() else None  # (3, 3, C, O) -> (O, C, 3, 3)


def conv2d_weight(x: np.ndarray, g: np.ndarray, padding: Pair) -> np.ndarray | None:
    """Return the gradient in the weight, (O, C, 3, 3), from x (N, H, W, C) and g (N, Ho, Wo, O).

    The transpose of `conv2d`: dw = Gᵀ · sum over positions of (B · x)ᵀ (Aᵀ · g). None if a number
    in it is not finite.
    """
    x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
    C, O = x.shape[3], g.shape[3]
    plan = Plan(x, padding)
    pixels = max(LEAST_PIXELS, BLOCK_FLOATS // (6 * C + 6 * O))
    blocks = plan.blocks(gemm.depth(C, pixels, O))
    shares = 1 if plan.is_deep(O) else max(1, min(SHARES, len(blocks)))
    sums = aligned((shares, 6, 3, C, O))

    def load(block: Tile, v: np.ndarray, e: np.ndarray) -> None:
        transform(x, plan, block, v)
        spread(g, plan, block, e)

    def factors(V: np.ndarray, E: np.ndarray, block: Tile) -> tuple[np.ndarray, np.ndarray]:
        """Return views (6, 3, C, pixels), one for each tap of a row, and (6, 1, pixels, O)."""
        pixels = plan.pixels(block) - 2
        a = strided(V, 0, (6, 3, C, pixels), (V.strides[0], 4 * C, 4, 4 * C))
        return a, strided(E, 0, (6, 1, pixels, O), (E.strides[0], 0, 4 * O, 4))

    def add_up(share: int) -> None:
        for number, block in enumerate(blocks[share::shares]):
            V, E = plan.planes("V", 6, C, block), plan.planes("E", 6, O, block)
            load(block, plan.by_band(V, C, block), plan.by_band(E, O, block))
            a, b = factors(V, E, block)
            if number == 0:
                np.matmul(a, b, out=sums[share])
            else:
                sums[share] += np.matmul(a, b, out=workspace("product", (6, 3, C, O), x))

    if not plan.is_deep(O):
        parallel_for(shares, add_up, x, plan.operations(O))
    else:  # stage by stage, as in conv2d
        V, E = plan.planes("V", 6, C, plan.whole), plan.planes("E", 6, O, plan.whole)
        v, e = plan.by_band(V, C, plan.whole), plan.by_band(E, O, plan.whole)
        parts = plan.blocks(plan.pixels(plan.whole) // 4)
        a, b = factors(V, E, plan.whole)
        parallel_for(len(parts), lambda i: load(parts[i], v[:, *parts[i]], e[:, *parts[i]]), x)
        parallel_for(6, lambda i: np.matmul(a[i], b[i], out=sums[0, i]), x)
    return weight_of(sums, G)


def spread(g: np.ndarray, plan: Plan, block: Tile, E: np.ndarray) -> None:
    """Write Aᵀ · (four rows of g), for each band of a block, to E (6, images, bands, pitch*O)."""
    row = plan.width * g.shape[3]
    E[..., row:] = 0  # the spare pixels must add nothing
    for rows, bands in row_bands(g, plan, block):
        np.matmul(A[: rows.shape[2]].T, rows, out=E[:, :, bands, :row].transpose(1, 2, 0, 3))


def transform(x: np.ndarray, plan: Plan, block: Tile, V: np.ndarray) -> None:
    """Write B · (six rows of x), for each band of a block, to V (6, images, bands, pitch*C).

    Bands inside the image are one product. At the top and the bottom, where some of the six rows
    lie outside and count as zero, B loses the columns that belong to them.
    """
    row, first, last = plan.W * plan.C, block.rows.start, block.rows.stop
    count = V.shape[1]
    inside = slice(plan.left * plan.C, plan.left * plan.C + row)
    V[..., : inside.start] = 0
    V[..., inside.stop :] = 0
    low = max(first, -(-plan.top // 4))  # the first band whose six rows lie inside
    high = max(low, min(last, (plan.H - 6 + plan.top) // 4 + 1))
    if low < high:
        start = (block.images.start * plan.H + 4 * low - plan.top) * row
        steps = (4 * plan.H * row, 16 * row, 4 * row, 4)
        six = strided(x, start, (count, high - low, 6, row), steps)
        place = slice(low - first, high - first)
        np.matmul(B, six, out=V[:, :, place, inside].transpose(1, 2, 0, 3))
    for band in (*range(first, min(low, last)), *range(high, last)):
        above = 4 * band - plan.top
        start, stop = max(0, above), min(plan.H, above + 6)
        out = V[:, :, band - first, inside].transpose(1, 0, 2)  # (images, 6, W*C)
        if start >= stop:
            out[...] = 0
            continue
        rows = x[block.images, start:stop].reshape(count, stop - start, row)
        np.matmul(B[:, start - above : stop - above], rows, out=out)


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
