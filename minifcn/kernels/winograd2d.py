"""3x3 convolution with a quarter of the multiplications: F(4x4, 3x3), Winograd along both axes.

**Why it works.** `winograd` evaluates the columns of image and kernel at six points. Then it
convolves rows: row i of the transformed image with row i of the transformed kernel, three taps.
That is a convolution in one dimension, so the same can be done to it: of six pixels of a row, six
products in place of twelve make four outputs. Of a patch d of 6x6 pixels and a kernel w come 4x4
outputs,

    y = A · ((G · w · Gᵀ) * (B · d · Bᵀ)) · Aᵀ,

by 36 products in place of 144 (Lavin and Gray 2016, section 4.1). The three matrices are those of
`winograd`, and so is all that works along the vertical axis. What is left for this file are the
products of rows: `convolve` and, for the weight's gradient, `correlate`.

**When.** The products are halved once more, and the second transform is added, of half as many
numbers again as the first. Where there are many channels, products outweigh transforms:
`conv.is_wide` decides. The transformed weight U is four times as large as the weight, and has to be
read from memory, so few pixels gain nothing.

**In stages.** A portion of the image goes through three stages, with all threads in each: vertical
transform, products of rows, vertical transform back. So U is read once for each portion. A thread
works on one row i at a time, which needs a sixth of U, and only a sixth of all B · d · Bᵀ at once.

Arrays are float32 and channels-last. The error is 2e-6 to 5e-6 of the largest output for 128 to 512
channels. A number that is not finite spoils all outputs of its patch, which are looked at as in
`winograd`.
"""

from __future__ import annotations

import numpy as np

from ..shapes import Pair
from . import gemm, winograd
from .threads import aligned, parallel_for, workspace
from .tiles import Tile, cut
from .winograd import A, B, strided

_G = winograd.matrices(winograd.POINTS)[2]
GG = np.kron(_G, _G).astype(np.float32)  # (36, 9): G · w · Gᵀ is GG · (the nine taps of w)
PORTION = 2048  # pixels of a row of V, each for four of the image
PATCHES = 256  # that a thread convolves at a time


class Plan(winograd.Plan):
    """How the output is cut into portions, a portion into parts, and rows into patches."""

    def __init__(self, x: np.ndarray, padding: Pair) -> None:
        super().__init__(x, padding)
        self.across = -(-self.width // 4)  # patches side by side, each four pixels after the other
        self.pitch = 4 * self.across + 2

    def portions(self) -> list[Tile]:
        """Return the parts of the output that go through the stages one after the other."""
        return [self.whole] if self.pixels(self.whole) <= PORTION else self.blocks(PORTION)

    def parts(self, portion: Tile, pixels: int) -> list[tuple[Tile, Tile]]:
        """Cut a portion for the threads: what part of the output, and where in the portion."""
        (image, images), (band, bands) = ((s.start, s.stop - s.start) for s in portion)
        places = cut(images, bands, pixels // self.pitch)
        return [(Tile(moved(p.images, image), moved(p.rows, band)), p) for p in places]

    def patches(self, row: np.ndarray, channels: int, count: int) -> np.ndarray:
        """Return a row of V or M, (images, bands, pitch*channels), as patches of so many pixels.

        As (images, bands, across, count, channels). Patches of six pixels overlap.
        """
        (images, bands, _), (image, band, _) = row.shape, row.strides
        shape = images, bands, self.across, count, channels
        return strided(row, 0, shape, (image, band, 16 * channels, 4 * channels, 4))

    def transformed(
        self, name: str, matrix: np.ndarray, row: np.ndarray, channels: int
    ) -> np.ndarray:
        """Return matrix · (each patch of a row of V or E): (6, patches, channels)."""
        patches = self.patches(row, channels, matrix.shape[1])
        out = workspace(name, (6, *patches.shape[:3], channels), row)
        # (6, images, bands, across, channels) -> (images, bands, across, 6, channels)
        np.matmul(matrix, patches, out=out.transpose(1, 2, 3, 0, 4))
        return out.reshape(6, -1, channels)


def moved(some: slice, by: int) -> slice:
    """Return a slice that starts and stops later."""
    return slice(some.start + by, some.stop + by)


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
    plan, U = Plan(x, padding), winograd.transformed_weight(weight, GG).reshape(6, 6, C, O)
    output = winograd.Output(plan, O, bias, relu)

    def compute(portion: Tile) -> None:
        v = plan.by_band(plan.planes("V", 6, C, portion), C, portion)
        m = plan.by_band(plan.planes("M", output.rows, O, portion), O, portion)
        parts, rows = plan.parts(portion, PORTION // 4), plan.parts(portion, 4 * PATCHES)

        def load(k: int) -> None:
            tile, place = parts[k]
            winograd.transform(x, plan, tile, v[:, *place])

        def multiply(k: int) -> None:
            i, place = k // len(rows), rows[k % len(rows)][1]
            convolve(v[i, *place], U[i], plan, m[i, *place])

        def store(k: int) -> None:
            tile, place = parts[k]
            output.store(tile, m[:, *place])

        for stage, count in ((load, len(parts)), (multiply, 6 * len(rows)), (store, len(parts))):
            parallel_for(count, stage, x)

    for portion in plan.portions():
        compute(portion)
    return output.if_finite(U[1])


def convolve(v: np.ndarray, U: np.ndarray, plan: Plan, m: np.ndarray) -> None:
    """Write A · (U * (B · v)) to m, from some bands of a row of V, with a row of U (6, C, O).

    The bands are (images, bands, pitch*C) and, in m, (images, bands, pitch*O).
    """
    C, O = U.shape[1:]
    patches = plan.transformed("patches", B, v, C)
    products = workspace("products", (6, patches.shape[1], O), v)
    gemm.matmul(patches, U, out=products)
    out = plan.patches(m, O, 4)
    # (6, patches, O) -> (images, bands, across, 6, O)
    np.matmul(A, products.reshape(6, *out.shape[:3], O).transpose(1, 2, 3, 0, 4), out=out)


def conv2d_weight(x: np.ndarray, g: np.ndarray, padding: Pair) -> np.ndarray | None:
    """Return the gradient in the weight, (O, C, 3, 3), from x (N, H, W, C) and g (N, Ho, Wo, O).

    The transpose of `conv2d`: dw = Gᵀ · (sum over patches of (B · x · Bᵀ)ᵀ (Aᵀ · g · A)) · G. None
    if a number in it is not finite.
    """
    x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
    C, O = x.shape[3], g.shape[3]
    plan = Plan(x, padding)
    sums = aligned((6, 6, C, O))

    def add_up(number: int, portion: Tile) -> None:
        v = plan.by_band(plan.planes("V", 6, C, portion), C, portion)
        e = plan.by_band(plan.planes("E", 6, O, portion), O, portion)
        parts = plan.parts(portion, PORTION // 4)

        def load(k: int) -> None:
            tile, place = parts[k]
            winograd.transform(x, plan, tile, v[:, *place])
            winograd.spread(g, plan, tile, e[:, *place])

        def multiply(i: int) -> None:
            if number == 0:
                correlate(v[i], e[i], plan, sums[i])
            else:
                product = workspace("product", (6, C, O), x)
                correlate(v[i], e[i], plan, product)
                sums[i] += product

        parallel_for(len(parts), load, x)
        parallel_for(6, multiply, x)

    for number, portion in enumerate(plan.portions()):
        add_up(number, portion)
    return winograd.weight_of(sums.reshape(1, 36, 1, C, O), GG)


def correlate(v: np.ndarray, e: np.ndarray, plan: Plan, out: np.ndarray) -> None:
    """Write the sum over patches of (B · v)ᵀ (Aᵀ · e) to out (6, C, O), from rows of V and E."""
    C, O = out.shape[1:]
    patches = plan.transformed("patches", B, v, C)
    spread = plan.transformed("products", A.T, e, O)
    np.matmul(patches.transpose(0, 2, 1), spread, out=out)  # (6, patches, C) -> (6, C, patches)
