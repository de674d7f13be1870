"""Convolution as matrix products: image patches become rows of a matrix (im2col).

The three functions are one trilinear form seen from three sides (see functional/conv.py). All work
on channels-last memory, (N, H, W, C), where the channels of a pixel lie side by side: a patch is
then made of long runs, and the product of a tile of patches with the weight matrix is a tile of the
output, already in place.

A whole im2col matrix is kh·kw times as large as its image: 1.1 GB for the second layer of FCN-VGG16
on a 500 x 500 image. So it is made in tiles of some rows of the output, small enough for the cache,
used for one matrix product, and thrown away. The backward pass makes its tiles again.
"""

from __future__ import annotations

import functools

from ..backend import Array, xp_of
from ..shapes import Pair, conv_size
from . import cuda, gemm
from .threads import parallel_for, workspace
from .tiles import Tile, cut

TILE_FLOATS = 1 << 19  # 2 MB of float32: a tile of patches and its product stay in the cache
TILE_PIXELS = (256, 2048)  # fewer read the weights too often; more do not make it any faster
WEIGHT_SHARES = 4  # a fixed number: the sum's order does not depend on the number of threads


def tiles(n: int, height: int, width: int, patch: int) -> list[Tile]:
    """Cut the output into tiles: a band of rows of one image, or several small images at once."""
    least, most = TILE_PIXELS
    pixels = max(least, min(most, TILE_FLOATS // patch))
    return cut(n, height, pixels // width)


def patches(
    x: Array, tile: Tile, kernel: Pair, width: int, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return a tile of the im2col matrix of x (N, H, W, C): one row per output pixel."""
    xp = xp_of(x)
    _, H, W, C = x.shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, padding, dilation
    n, rows = tile.images.stop - tile.images.start, tile.rows.stop - tile.rows.start
    if (
        kernel == (1, 1)
        and stride == (1, 1)
        and padding == (0, 0)
        and C * x.itemsize == x.strides[2]
    ):
        return x[tile.images, tile.rows].reshape(-1, C)  # (n, rows, W, C) -> (n*rows*W, C)
    if cuda.on(x):
        return cuda.im2col.patches(x, tile, kernel, width, stride, padding, dilation)
    # The rows of the input under this tile, with zeros where the window hangs over the edge.
    top = tile.rows.start * sh - ph
    bottom = (tile.rows.stop - 1) * sh - ph + dh * (kh - 1) + 1
    right = (width - 1) * sw - pw + dw * (kw - 1) + 1
    if top < 0 or bottom > H or pw > 0 or right > W:
        band = workspace("band", (n, bottom - top, right + pw, C), x)
        _copy_with_border(band, x[tile.images], top, -pw)
    else:
        band = x[tile.images, top:bottom]
    a, b, c, d = band.strides
    view = xp.lib.stride_tricks.as_strided(
        band, (n, rows, width, kh, kw, C), (a, sh * b, sw * c, dh * b, dw * c, d)
    )
    columns = workspace("columns", (n * rows * width, kh * kw * C), x)
    xp.copyto(columns.reshape(view.shape), view)
    return columns  # (n*rows*Wo, kh*kw*C)


def _copy_with_border(band: Array, x: Array, top: int, left: int) -> None:
    """Fill band (n, h, w, C) with x from row ``top`` and column ``left`` on; zeros outside x."""
    _, H, W, _ = x.shape
    _, h, w, _ = band.shape
    r0, r1 = min(max(0, -top), h), max(0, min(h, H - top))
    c0, c1 = min(max(0, -left), w), max(0, min(w, W - left))
    if r0 >= r1 or c0 >= c1:
        band[...] = 0
        return
    band[:, :r0], band[:, r1:], band[:, r0:r1, :c0], band[:, r0:r1, c1:] = 0, 0, 0, 0
    band[:, r0:r1, c0:c1] = x[:, top + r0 : top + r1, left + c0 : left + c1]


def as_matrix(weight: Array) -> Array:
    """Return a weight (O, I, kh, kw) as (kh*kw*I, O), in the order of a patch.

    The weights of `nn.Conv2d` lie in memory like this: then it is a view.
    """
    taps = weight.transpose(2, 3, 1, 0)  # (O, I, kh, kw) -> (kh, kw, I, O)
    return xp_of(weight).ascontiguousarray(taps).reshape(-1, len(weight))


@functools.cache
def channels_of(groups: int, ins: int, outs: int) -> list[tuple[slice, slice]]:
    """Return the input channels and the output channels of each group.

    >>> channels_of(2, 8, 6)
    [(slice(0, 4, None), slice(0, 3, None)), (slice(4, 8, None), slice(3, 6, None))]
    """
    i, o = ins // groups, outs // groups
    return [(slice(g * i, (g + 1) * i), slice(g * o, (g + 1) * o)) for g in range(groups)]


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
    """Return the cross-correlation of x (N, H, W, C) with weight (O, C/groups, kh, kw).

    With ``relu``, what is below zero in it becomes zero, tile by tile while it is in the cache.
    """
    xp = xp_of(x)
    O, I, kh, kw = weight.shape
    height = conv_size(x.shape[1], kh, stride[0], padding[0], dilation[0])
    width = conv_size(x.shape[2], kw, stride[1], padding[1], dilation[1])
    matrix = gemm.right(as_matrix(weight))
    y = xp.empty((len(x), height, width, O), x.dtype)
    plan = tiles(len(x), height, width, kh * kw * I)

    def compute(i: int) -> None:
        tile = plan[i]
        out = y[tile.images, tile.rows].reshape(-1, O)  # (n, rows, Wo, O) -> (n*rows*Wo, O)
        for ins, outs in channels_of(groups, I * groups, O):
            columns = patches(x[..., ins], tile, (kh, kw), width, stride, padding, dilation)
            gemm.matmul(columns, matrix[:, outs], out=out[:, outs])
        if bias is not None:
            out += bias
        if relu:
            xp.maximum(out, 0, out=out)

    parallel_for(len(plan), compute, x, 2.0 * y.size * kh * kw * I)
    return y


def conv2d_weight(
    x: Array, g: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Return the weight (O, C/groups, kh, kw) whose entries are sums of x times shifted g.

    x is (N, H, W, C) and g is (N, Ho, Wo, O). Every tile adds patchesᵀ · g; the tiles are dealt out
    to a few shares, and the shares are added in order.
    """
    xp = xp_of(x)
    kh, kw = kernel
    n, height, width, O = g.shape
    I = x.shape[3] // groups
    plan = tiles(n, height, width, kh * kw * I)
    shares = max(1, min(WEIGHT_SHARES, len(plan)))
    sums = [xp.empty((kh * kw * I, O), x.dtype) for _ in range(shares)]
    if not plan:  # no image at all
        sums[0][...] = 0

    def add_up(share: int) -> None:
        for number, tile in enumerate(plan[share::shares]):
            rows = g[tile.images, tile.rows].reshape(-1, O)  # (n, rows, Wo, O) -> (n*rows*Wo, O)
            for ins, outs in channels_of(groups, I * groups, O):
                columns = patches(x[..., ins], tile, kernel, width, stride, padding, dilation)
                if number == 0:
                    xp.matmul(columns.T, rows[:, outs], out=sums[share][:, outs])
                else:
                    sums[share][:, outs] += columns.T @ rows[:, outs]

    parallel_for(shares, add_up, x, 2.0 * g.size * kh * kw * I)
    total = sums[0]
    for other in sums[1:]:
        total += other
    return total.reshape(kh, kw, I, O).transpose(3, 2, 0, 1)  # (kh*kw*I, O) -> (O, I, kh, kw)


def conv_transpose2d(
    x: Array,
    weight: Array,
    stride: Pair,
    padding: Pair,
    output_size: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """Return the transposed convolution of x (N, H, W, I) with weight (I, O/groups, kh, kw).

    Each pixel of x puts a scaled copy of the kernel on the output, s pixels from its neighbour's
    copy. Cut into blocks of s x s, the copies of all pixels meet the output block by block: with a
    kernel of 2s x 2s, in four additions of whole arrays.
    """
    xp = xp_of(x)
    n, H, W, I = x.shape
    (sh, sw), (ph, pw) = stride, padding
    weight = _spread(weight, stride, dilation)
    per_group = weight.shape[1]
    O = per_group * groups
    bh, bw = weight.shape[2] // sh, weight.shape[3] // sw  # the kernel in blocks of s x s
    # (I, O/groups, bh*sh, bw*sw) -> (I, bh, bw, sh, sw, O/groups) -> (I, bh*bw*sh*sw*O/groups)
    blocks = weight.reshape(I, per_group, bh, sh, bw, sw).transpose(0, 2, 4, 3, 5, 1)
    matrix = xp.ascontiguousarray(blocks).reshape(I, -1)
    rows = max(H + bh - 1, -(-(ph + output_size[0]) // sh))
    columns = max(W + bw - 1, -(-(pw + output_size[1]) // sw))
    full = xp.zeros((n, rows, sh, columns, sw, O), x.dtype)

    def compute(i: int) -> None:
        for ins, outs in channels_of(groups, I, O):
            pixels = x[i][..., ins].reshape(H * W, I // groups)
            copies = (pixels @ matrix[ins]).reshape(H, W, bh, bw, sh, sw, per_group)
            for a in range(bh):
                for b in range(bw):
                    # (H, W, sh, sw, O) -> (H, sh, W, sw, O)
                    block = copies[:, :, a, b].transpose(0, 2, 1, 3, 4)
                    full[i, a : a + H, :, b : b + W, :, outs] += block

    parallel_for(n, compute, x)
    # (n, rows, sh, columns, sw, O) -> (n, rows*sh, columns*sw, O)
    y = full.reshape(n, rows * sh, columns * sw, O)
    return y[:, ph : ph + output_size[0], pw : pw + output_size[1]]


def turned(weight: Array, groups: int) -> Array:
    """Return the weight of the convolution that transposes this one at stride 1.

    Half a turn of each kernel, and inputs exchanged with outputs inside every group:
    (I, O/groups, kh, kw) -> (O, I/groups, kh, kw).
    """
    I, per_group, kh, kw = weight.shape
    blocks = weight[:, :, ::-1, ::-1].reshape(groups, I // groups, per_group, kh, kw)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(groups * per_group, I // groups, kh, kw)


def _spread(weight: Array, stride: Pair, dilation: Pair) -> Array:
    """Return the kernel with zeros between its taps (dilation) and up to a multiple of stride."""
    I, O, kh, kw = weight.shape
    (sh, sw), (dh, dw) = stride, dilation
    height, width = dh * (kh - 1) + 1, dw * (kw - 1) + 1
    if (height, width) == (kh, kw) and kh % sh == 0 and kw % sw == 0:
        return weight
    spread = xp_of(weight).zeros((I, O, -(-height // sh) * sh, -(-width // sw) * sw), weight.dtype)
    spread[:, :, :height:dh, :width:dw] = weight
    return spread
