"""Convolution on a GPU's tensor cores: what conv.cuh does, and how its work is cut into blocks.

For bf16 and fp16 the factors are first rounded in memory, to arrays of 16 bits; for tf32 the kernel
itself rounds them. The numbers here say how large tiles are and how far ahead they are fetched.

They were chosen on an H100, by the layers of VGG16 for an image of 500x500. Some of what was seen,
in TFLOP/s (forward / gradient in the weight; bf16 without the time for rounding):

| rows x columns of a tile | conv1_2, 64  | conv3_2, 256 | conv4_2, 512 | fc7, 4096    |
|                          | tf32         | tf32         | bf16         | bf16         |
|--------------------------|--------------|--------------|--------------|--------------|
| 256 x 64                 | 104 / 91     |              |              |              |
| 128 x 64                 | 135 / 112    |              |              |              |
| 128 x 128                |              | 151 / 159    | 402 / 197    | 254 / 183    |
| 256 x 128                |              | 150 / 151    | 414 / 211    | 246 / 165    |
| 128 x 256                |              | 166 / 164    | 420 / 229    | 248 / 172    |

A large tile reads less for what it computes, but leaves a multiprocessor to one block: nothing
else is computed while that begins and ends, so sums must be long (in fc7's gradient they have 256
terms). Steps of twice the depth were slower nearly everywhere.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...backend import Array, xp_of
from ...shapes import Pair, conv_size
from .. import precision
from ..im2col import as_matrix, turned
from .launch import KernelError, at_once, blocks_for, check_shapes, run

ROWS = {32: 256, 64: 128, 128: 128, 256: 128}  # of a tile of the result, by its columns
# Such tiles for which a multiprocessor has registers. (Before 9.0 the gradient in the weight takes
# 195 of them in tf32 with 32 columns, and so runs 2 at once: it is slower for it, not wrong.)
TOGETHER = {32: 3, 64: 3, 128: 2, 256: 1}
LONG = 512  # terms of a sum, from which on tiles have 256 columns
DEPTH = {"tf32": 16, "bf16": 32, "fp16": 32}  # of a step
STAGES = {"tf32": 3, "bf16": 4, "fp16": 4}  # steps in shared memory
KINDS = {"tf32": 0, "bf16": 1, "fp16": 2}
WIDE = {"tf32": 4, "bf16": 8, "fp16": 8}  # numbers in 16 bytes: what is copied at once
CAPABILITY = 80  # 8.0: the first with these precisions and with copies that run meanwhile
MULTIPROCESSORS = 132  # of an H100
MOST_ROUNDS = 3  # of blocks on all of them, that parts of tiles make
LEAST_STEPS = 8  # of a part of a tile
WORKSPACE = 64 << 20  # bytes, at the most, for the sums of the parts


class Parts(NamedTuple):
    """Into how many parts the steps of a tile are cut, and how many steps each has."""

    number: int
    each: int


class Plan(NamedTuple):
    """How the result of a kernel is cut into tiles, and the constants for its text."""

    tiles: tuple[int, int]
    constants: dict[str, int]

    @property
    def together(self) -> int:
        """Return how many blocks run on a multiprocessor at once."""
        return TOGETHER[self.constants["COLUMNS"]]

    @property
    def threads(self) -> int:
        """Return how many threads a block has: a warp for 64 rows x 64 or 32 columns."""
        rows, columns = self.constants["ROWS"], self.constants["COLUMNS"]
        return rows // 64 * columns // (64 if columns > 64 else 32) * 32

    def shared(self, a_along: bool, b_along: bool) -> int:
        """Return the bytes of shared memory of a block, if tiles lie along k or across it."""
        rows, columns, depth = (self.constants[name] for name in ("ROWS", "COLUMNS", "DEPTH"))
        size = 4 if self.constants["PRECISION"] == 0 else 2
        spare = 8 * depth if size == 4 else 0  # in float32 tiles across k
        numbers = rows * depth + columns * depth + spare * ((not a_along) + (not b_along))
        return numbers * size * self.constants["STAGES"]


def fits(x: Array, weight: tuple[int, ...], groups: int) -> bool:
    """Tell whether x (N, H, W, C) is convolved with a weight of this shape on tensor cores.

    They must be asked for, by `use_precision`, and channels must come in fours.
    """
    O, C, *_ = weight
    if precision.current() == "fp32" or groups > 1 or O % 4 or C % 4 or not x.size:
        return False
    return int(x.device.compute_capability) >= CAPABILITY


def kind_for(*channels: int) -> str:
    """Return the precision in which a convolution is computed: tf32 if 16 bits do not fit.

    Of 16-bit numbers, 8 neighbouring channels are copied at once.

    >>> with precision.use_precision("bf16"):
    ...     kind_for(64, 8), kind_for(64, 12)
    ('bf16', 'tf32')
    """
    if any(n % WIDE["tf32"] for n in channels):
        raise KernelError(f"conv.conv2d copies 4 channels at once: {channels} do not come in fours")
    name = precision.current()
    return "tf32" if any(n % WIDE[name] for n in channels) else name


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    relu: bool = False,
) -> Array:
    """Return the cross-correlation of x (N, H, W, C) with weight (O, C, kh, kw).

    The weight may be `turned`, for the gradient in the input of another convolution: then the
    kernel reads it as it lies in memory, backwards.
    """
    xp = xp_of(x)
    (N, H, W, C), (O, _, kh, kw) = x.shape, weight.shape
    check_shapes("conv.conv2d", weight=(weight, (O, C, kh, kw)), bias=(bias, (O,)))
    height = conv_size(H, kh, stride[0], padding[0], dilation[0])
    wide = conv_size(W, kw, stride[1], padding[1], dilation[1])
    kind, back = kind_for(C, O), is_turned(weight)
    matrix = as_matrix(turned(weight, 1) if back else weight)  # (kh*kw*C, O), or (kh*kw*O, C)
    plan = plan_for(N * height * wide, O, kh * kw * C, kind, back)
    factors, file = _factors(plan, x, matrix)
    y = xp.empty((N, height, wide, O), x.dtype)
    parts = shared_out(plan.tiles, plan.together, kh * kw * blocks_for(C, DEPTH[kind]), y.nbytes)
    last = (0 if bias is None else 1, int(relu))
    bias = xp.empty(4, x.dtype) if bias is None else xp.ascontiguousarray(bias)  # must be named
    sums = y if parts.number == 1 else xp.empty((parts.number, *y.shape), x.dtype)
    sizes = (*x.shape, height, wide, O, kh, kw, *stride, *padding, *dilation)
    run(
        f"{file}.conv2d",
        (*plan.tiles, parts.number),
        *(*factors, bias, sums, *sizes),
        *(parts.each, *(last if parts.number == 1 else (0, 0))),
        threads=plan.threads,
        shared=plan.shared(True, back),
        **plan.constants,
    )
    if parts.number > 1:
        _add_up(f"{file}.sum_parts", sums, y, bias, last, plan)
    return y


def conv2d_weight(
    x: Array, g: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Return the gradient in the weight, (O, C, kh, kw), from x and g (N, Ho, Wo, O)."""
    xp = xp_of(x)
    (N, height, wide, O), C = g.shape, x.shape[3]
    check_shapes("conv.conv2d_weight", x=(x, (N, *x.shape[1:])))
    kind = kind_for(C, O)
    w = xp.empty((kernel[0] * kernel[1] * C, O), x.dtype)
    pixels = N * height * wide
    plan = plan_for(len(w), O, pixels, kind)
    factors, file = _factors(plan, x, g)
    parts = shared_out(plan.tiles, plan.together, blocks_for(pixels, DEPTH[kind]), w.nbytes)
    sums = w if parts.number == 1 else xp.empty((parts.number, *w.shape), x.dtype)
    sizes = (*x.shape, height, wide, O, *kernel, *stride, *padding, *dilation)
    run(
        f"{file}.conv2d_weight",
        (*plan.tiles, parts.number),
        *(*factors, sums, *sizes, parts.each * DEPTH[kind]),
        threads=plan.threads,
        shared=plan.shared(False, False),
        **plan.constants,
    )
    if parts.number > 1:
        _add_up(f"{file}.sum_parts", sums, w, xp.empty(4, x.dtype), (0, 0), plan)
    return w.reshape(*kernel, C, O).transpose(3, 2, 0, 1)  # (kh*kw*C, O) -> (O, C, kh, kw)


def plan_for(rows: int, columns: int, terms: int, kind: str, back: bool = False) -> Plan:
    """Return how a result is cut into tiles, each number of it a sum of so many terms.

    Tiles are as wide as the result, or 128 columns; and if sums are long, two such side by side
    are one tile.

    >>> plan_for(1000, 512, 4608, "tf32").tiles, plan_for(1000, 512, 256, "tf32").tiles
    ((8, 2), (8, 4))
    """
    wide = next(n for n in ROWS if n >= min(columns, 128))
    if wide == 128 and blocks_for(columns, wide) % 2 == 0 and terms >= LONG:
        wide = 256
    constants = constants_for(wide, kind, back)
    return Plan((blocks_for(rows, constants["ROWS"]), blocks_for(columns, wide)), constants)


def constants_for(columns: int, kind: str, back: bool = False) -> dict[str, int]:
    """Return the constants that conv.cuh leaves open, for tiles of so many columns.

    >>> constants_for(64, "bf16")
    {'ROWS': 128, 'COLUMNS': 64, 'DEPTH': 32, 'STAGES': 4, 'PRECISION': 1, 'TURNED': 0}
    """
    depth, stages = DEPTH[kind], STAGES[kind]
    tile = {"ROWS": ROWS[columns], "COLUMNS": columns, "DEPTH": depth, "STAGES": stages}
    return {**tile, "PRECISION": KINDS[kind], "TURNED": int(back)}


@functools.lru_cache(maxsize=4096)
def shared_out(tiles: tuple[int, int], together: int, steps: int, result: int) -> Parts:
    """Cut the steps of each tile into parts, so that the GPU is busy until the end.

    Of all ways to cut, that is chosen which should take the least time. Blocks run in rounds, so
    many ``together`` on each multiprocessor; in the last round there may be fewer, which are faster
    then: a step of b blocks takes as long as b + 1/2. (Two at once, it is some 0.7 us, and the unit
    here.) To start and to end a block takes some steps' time, and so does adding up. ``result`` is
    the size of the result, in bytes, which each part needs for its sums.

    The cut depends on sizes alone: so do the bits of the result.

    >>> shared_out((64, 1), 2, 1000, 1 << 20), shared_out((2000, 1), 2, 1000, 1 << 20)
    (Parts(number=4, each=250), Parts(number=1, each=1000))
    """
    count, a_round = tiles[0] * tiles[1], together * MULTIPROCESSORS  # of blocks
    most = min(MOST_ROUNDS * a_round // count, steps // LEAST_STEPS, WORKSPACE // result)

    def cost(number: int) -> float:
        rounds, left = divmod(count * number, a_round)
        last = (blocks_for(left, MULTIPROCESSORS) + 0.5) / (together + 0.5) if left else 0
        adding = 4 + (number + 1) * result / 1.75e6 if number > 1 else 0  # 2.5 TB/s
        return (rounds + last) * (blocks_for(steps, number) + 4) + adding

    each = blocks_for(steps, min(range(1, max(1, most) + 1), key=cost))
    return Parts(blocks_for(steps, each), each)


def is_turned(weight: Array) -> bool:
    """Tell whether a weight is another one, turned, which lies in memory as `nn.Conv2d` keeps it.

    >>> weight = np.zeros((3, 3, 4, 8), np.float32).transpose(3, 2, 0, 1)  # (8, 4, 3, 3)
    >>> is_turned(weight), is_turned(turned(weight, 1))
    (False, True)
    """
    taps, taps_back = (w.transpose(2, 3, 1, 0) for w in (weight, turned(weight, 1)))
    return bool(taps_back.flags.c_contiguous and not taps.flags.c_contiguous)


def round16(numbers: Array, plan: Plan) -> Array:
    """Return float32 numbers (a multiple of 8 of them) as the 16 bits of bf16 or fp16.

    The plan is that of the kernel that reads them: so both are compiled at once.
    """
    numbers, eights = _aligned(numbers), numbers.size // 8
    rounded = xp_of(numbers).empty(numbers.shape, np.uint16)
    run("conv16.round16", blocks_for(eights), numbers, rounded, eights, **plan.constants)
    return rounded


def _factors(plan: Plan, *arrays: Array) -> tuple[list[Array], str]:
    """Return arrays as kernels read them, and the file of these kernels."""
    if plan.constants["PRECISION"] == KINDS["tf32"]:
        return [_aligned(array) for array in arrays], "conv"
    return [round16(array, plan) for array in arrays], "conv16"


def _add_up(kernel: str, sums: Array, total: Array, bias: Array, last: Pair, plan: Plan) -> None:
    """Add up the parts; ``last`` tells whether to add the bias, and whether a ReLU follows."""
    numbers = (len(sums), total.size, bias, total.shape[-1], *last)
    run(kernel, blocks_for(total.size), sums, total, *numbers, **plan.constants)


def _aligned(array: Array) -> Array:
    """Return an array as copies of 16 bytes need it: contiguous, from a multiple of 16 on."""
    array = xp_of(array).ascontiguousarray(array)
    return array if at_once(4, array) == 4 else array.copy()
