"""Convolution on a GPU's tensor cores: what conv.cu does, and how its work is cut into blocks.

The numbers here say how large tiles are. They were chosen by counting: what a block needs of
registers and of shared memory lets two or three of them run on each multiprocessor of an A100 or
H100, one or two on other GPUs. None of them was measured on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

from ...backend import Array, xp_of
from ...shapes import Pair, conv_size
from .. import precision
from ..im2col import as_matrix
from .launch import at_once, blocks_for, run

ROWS, DEPTH, STAGES = 128, 16, 3  # of a tile; see conv.cu
COLUMNS = (32, 64, 128)  # of a tile: the fewest that hold all output channels, or the most
A_OF_IMAGE, A_OF_WEIGHT = ROWS * (DEPTH + 8), DEPTH * (ROWS + 4)  # numbers of a tile of A
THREADS = 128  # of a block
KINDS = {"tf32": 0, "bf16": 1, "fp16": 2}
CAPABILITY = 80  # 8.0: the first with these precisions and with copies that run meanwhile
BUSY = 256  # blocks that keep a GPU busy: with fewer tiles, several blocks share each
LEAST_STEPS = 16  # of a part of a tile: with fewer, adding up the parts costs too much
WORKSPACE = 64 << 20  # bytes, at the most, for the sums of the parts


class Parts(NamedTuple):
    """Into how many parts the steps of a tile are cut, and how many steps each has."""

    number: int
    each: int


def fits(x: Array, weight: tuple[int, ...], groups: int) -> bool:
    """Tell whether x (N, H, W, C) is convolved with a weight of this shape on tensor cores.

    They must be asked for, by `use_precision`, and channels must come in fours.
    """
    O, C, *_ = weight
    if precision.current() == "fp32" or groups > 1 or O % 4 or C % 4 or not x.size:
        return False
    return int(x.device.compute_capability) >= CAPABILITY


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
    """Return the cross-correlation of x (N, H, W, C) with weight (O, C, kh, kw)."""
    xp = xp_of(x)
    (N, H, W, C), (O, _, kh, kw) = x.shape, weight.shape
    height = conv_size(H, kh, stride[0], padding[0], dilation[0])
    wide = conv_size(W, kw, stride[1], padding[1], dilation[1])
    x, matrix = _aligned(x), _aligned(as_matrix(weight))
    y = xp.empty((N, height, wide, O), x.dtype)
    blocks, constants = tiles(N * height * wide, O)
    parts = shared_out(blocks, kh * kw * blocks_for(C, DEPTH), y.nbytes)
    last = (0 if bias is None else 1, int(relu))
    bias = matrix if bias is None else xp.ascontiguousarray(bias)  # some array must be named
    sums = y if parts.number == 1 else xp.empty((parts.number, *y.shape), x.dtype)
    sizes = (*x.shape, height, wide, O, kh, kw, *stride, *padding, *dilation)
    run(
        "conv.conv2d",
        (*blocks, parts.number),
        *(x, matrix, bias, sums),
        *(*sizes, parts.each, *(last if parts.number == 1 else (0, 0))),
        threads=THREADS,
        shared=shared_memory(A_OF_IMAGE, constants),
        **constants,
    )
    if parts.number > 1:
        _add_up(sums, y, parts.number, bias, last, constants)
    return y


def conv2d_weight(
    x: Array, g: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Return the gradient in the weight, (O, C, kh, kw), from x and g (N, Ho, Wo, O)."""
    xp = xp_of(x)
    (N, height, wide, O), C = g.shape, x.shape[3]
    x, g = _aligned(x), _aligned(g)
    w = xp.empty((kernel[0] * kernel[1] * C, O), x.dtype)
    blocks, constants = tiles(len(w), O)
    parts = shared_out(blocks, blocks_for(N * height * wide, DEPTH), w.nbytes)
    sums = w if parts.number == 1 else xp.empty((parts.number, *w.shape), x.dtype)
    sizes = (*x.shape, height, wide, O, *kernel, *stride, *padding, *dilation)
    run(
        "conv.conv2d_weight",
        (*blocks, parts.number),
        *(x, g, sums, *sizes, parts.each * DEPTH),
        threads=THREADS,
        shared=shared_memory(A_OF_WEIGHT, constants),
        **constants,
    )
    if parts.number > 1:
        _add_up(sums, w, parts.number, g, (0, 0), constants)  # g for the bias that there is not
    return w.reshape(*kernel, C, O).transpose(3, 2, 0, 1)  # (kh*kw*C, O) -> (O, C, kh, kw)


def tiles(rows: int, columns: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Return how many tiles a result has along both axes, and the constants for conv.cu."""
    some = next((n for n in COLUMNS if n >= columns), COLUMNS[-1])
    blocks = blocks_for(rows, ROWS), blocks_for(columns, some)
    return blocks, constants_for(some, precision.current())


def constants_for(columns: int, name: str) -> dict[str, int]:
    """Return the constants that conv.cu leaves open, for tiles of so many columns.

    >>> constants_for(64, "bf16")
    {'ROWS': 128, 'COLUMNS': 64, 'DEPTH': 16, 'STAGES': 3, 'PRECISION': 1}
    """
    kind = KINDS[name]
    return {"ROWS": ROWS, "COLUMNS": columns, "DEPTH": DEPTH, "STAGES": STAGES, "PRECISION": kind}


def shared_memory(a: int, constants: dict[str, int]) -> int:
    """Return the bytes of shared memory of a block, if a tile of A takes so many numbers."""
    return 4 * STAGES * (a + DEPTH * (constants["COLUMNS"] + 4))


def shared_out(tiles: tuple[int, int], steps: int, result: int) -> Parts:
    """Cut the steps of each tile into parts, if there are too few tiles to keep a GPU busy.

    ``result`` is the size of the result, in bytes, which each part needs for its sums. The cut
    depends on sizes alone: so do the bits of the result.

    >>> shared_out((4, 1), 1000, 1 << 20), shared_out((300, 1), 1000, 1 << 20)
    (Parts(number=59, each=17), Parts(number=1, each=1000))
    """
    most = min(BUSY // (tiles[0] * tiles[1]), steps // LEAST_STEPS, WORKSPACE // result)
    each = -(-steps // max(1, most))
    return Parts(-(-steps // each), each)


def _add_up(
    sums: Array, total: Array, parts: int, bias: Array, last: Pair, constants: dict[str, int]
) -> None:
    """Add up the parts; ``last`` tells whether to add the bias, and whether a ReLU follows."""
    blocks, O = blocks_for(total.size), total.shape[-1]
    run("conv.sum_parts", blocks, sums, total, parts, total.size, bias, O, *last, **constants)


def _aligned(array: Array) -> Array:
    """Return an array as copies of 16 bytes need it: contiguous, from a multiple of 16 on."""
    array = xp_of(array).ascontiguousarray(array)
    return array if at_once(4, array) == 4 else array.copy()
