"""Mistakes planted in the kernels' text, of the kinds that are made; each check must find its own.

All mistakes of a file are planted in one text, and switched on one at a time by a variable: so each
file is compiled once for all of them.
"""

import functools
import hashlib
import re

import numpy as np
import on_cpu
import pytest
import test_cuda_conv
import test_cuda_kernels

from minifcn.kernels.cuda import launch

pytestmark = pytest.mark.skipif(not on_cpu.available(), reason="no g++ on a Linux system")

CHECKS = {**test_cuda_kernels.CHECKS, **test_cuda_conv.CHECKS}
# What is wrong, the kernel, its text, and what stands there instead. The text, an expression or a
# statement, is the first such after the kernel's name, or else the first in the file.
MISTAKES = [
    # barriers and copies
    ("no barrier", "reduction.sum_rows", "__syncthreads();", ""),
    ("no barrier", "conv.conv2d", "__syncthreads();", ""),
    ("no barrier", "conv.conv2d_weight", "__syncthreads();", ""),
    (
        "waits too little",
        "conv.conv2d",
        "cp_async_wait<STAGES - 2>();",
        "cp_async_wait<STAGES - 1>();",
    ),
    ("copies over what is read", "conv.conv2d_weight", "(STAGES - 1) * STAGE", "0"),
    ("no barrier", "conv16.conv2d_weight", "__syncthreads();", ""),
    (
        "returns before a shuffle",
        "softmax.cross_entropy",
        "largest_and_sum(logits + my.start, my.lane, C, largest, sum);",
        "if (!my.real) return; largest_and_sum(logits + my.start, my.lane, C, largest, sum);",
    ),
    # bounds that are not looked at
    ("spare threads", "conv.sum_parts", "if (i >= count) return;", ""),
    ("spare threads", "conv16.sum_parts", "if (i >= count) return;", ""),
    ("spare threads", "conv16.round16", "if (i >= eights) return;", ""),
    ("spare threads", "elementwise.add_bias", "if (i >= count) return;", ""),
    ("spare numbers", "sgd.descend", "if (i >= stop) continue;", ""),
    ("no barrier", "sgd.sum_squares", "__syncthreads();", ""),
    (
        "another's piece",
        "sgd.descend",
        "table[middle].first <= blockIdx.x",
        "table[middle].first < blockIdx.x",
    ),
    ("the first piece alone", "sgd.sum_squares", "(int)(blockIdx.x - row.first) * PIECE", "0"),
    ("infinity is scaled away", "sgd.norm_and_factor", "norm - norm == 0.0", "true"),
    ("scaled once for each piece", "sgd.scale", "i += THREADS", "i += THREADS / 2"),
    ("spare threads", "lrn.share_of_others", "if (i >= count) return;", ""),
    ("spare threads", "softmax.cross_entropy", "min(thread / LANES, pixels - 1)", "thread / LANES"),
    (
        "rows side by side",
        "softmax.softmax_error",
        "line % at.H * at.row",
        "line % at.H * at.W * at.C",
    ),
    ("spare rows", "conv.conv2d", "if (row >= rows) continue;", ""),
    ("spare columns", "conv.conv2d_weight", "if (o >= O) continue;", ""),
    ("spare channels", "conv.conv2d", "k < s.C && o < s.O", "o < s.O"),
    ("spare pixels", "conv.conv2d_weight", "first + k < pixels && o < s.O", "o < s.O"),
    ("beside the image", "conv.conv2d", "inside(left[i] + across, s.W)", "true"),
    ("beside the image", "im2col.im2col", "inside(row, column, H, W)", "row < H"),
    (
        "beside the image",
        "pooling.sum_pool2d",
        "inside(pixel.row, pixel.column, H, W)",
        "pixel.row < H",
    ),
    ("beside the image", "separable.upsample", "min(n - 1, at / stride)", "at / stride"),
    ("beside the image", "separable.downsample", "max(0, -start)", "0"),
    ("not its case", "separable.downsample", "tent[length] == 0.0f", "false"),
    ("not its case", "separable.downsample_by_all", "tent[length] == 1.0f", "false"),
    ("the first numbers alone", "separable.upsample_by_all", "gridDim.x * blockDim.x", "count"),
    ("the first numbers alone", "separable.compare", "gridDim.x * blockDim.x", "count"),
    ("the last thread forgotten", "separable.compare", "differs[thread]", "differs[thread - 1]"),
    ("as strict everywhere", "separable.compare", "in == out ? 1e-7f : 0.0f", "0.0f"),
    ("beside the pixel", "lrn.normalise", "min(last, C - 1)", "last"),
    ("last half pair", "dropout.dropout_mask", "i + 1 < count", "true"),
    ("last rows", "reduction.sum_rows", "min(count, first + each)", "first + each"),
    # off by one
    ("one step less", "conv.conv2d", "min(each, all - first)", "min(each, all - first - 1)"),
    ("one part less", "conv.sum_parts", "part < parts", "part < parts - 1"),
    ("one row more", "im2col.col2im", "p >= rows", "p > rows"),
    ("one column more", "im2col.col2im", "q >= OW", "q > OW"),
    ("one window more", "pooling.sum_spread", "down / g.SH < g.OH", "down / g.SH <= g.OH"),
    ("the last maximum", "pooling.max_scatter_apart", "first[e] >= 0", "false"),
    (
        "the last NaN",
        "pooling.max_scatter_apart",
        "was_nan || !is_larger(here.at[e], largest.at[e])",
        "!is_larger(here.at[e], largest.at[e])",
    ),
    ("one place less", "pooling.max_scatter", "before < a * KW + b", "before < a * KW + b - 1"),
    ("one row later", "reduction.sum_rows", "first + warp", "first + warp + 1"),
    ("one draw earlier", "dropout.dropout_mask", "thread + 1", "thread"),
    (
        "more than p",
        "dropout.dropout_mask",
        "fraction(bits >> 32) >= p",
        "fraction(bits >> 32) > p",
    ),
    ("divided by 1", "conv.conv2d_weight", "(1u << shift) < by", "(1u << shift) < by || !shift"),
    # what is exchanged
    (
        "numbers of a fragment",
        "conv.conv2d",
        "lane / 4 + 8 * side",
        "lane / 4 + 8 * deep",
    ),
    ("numbers of a fragment", "conv.conv2d_weight", "lane / 4 * 2 + half", "lane / 4 + 8 * half"),
    ("numbers of a fragment", "conv16.conv2d", "k / WIDE + deep", "k / WIDE + side"),
    ("numbers of a fragment", "conv16.conv2d_weight", "first / 8 + side", "first / 8 + deep"),
    (
        "not rounded",
        "conv.conv2d",
        "to_tf32(__int_as_float(left[e / 4][e % 4]))",
        "left[e / 4][e % 4]",
    ),
    ("taps forwards", "conv16.conv2d", "taps - 1 - tap", "tap"),
    ("the other way round", "conv16.conv2d", "TURNED ? b_vector * WIDE : row", "row"),
    ("a piece twice", "conv16.conv2d", "(piece + 1) % PIECES * PIECE", "piece * PIECE"),
    (
        "a step twice",
        "conv.conv2d",
        "a + STAGE < memory + STAGES * STAGE ? a + STAGE : memory",
        "a",
    ),
    ("beyond the last pixel", "conv.conv2d", "-(1 << 30)", "0"),
    ("divided wrongly", "conv16.conv2d_weight", "__umulhi(m, factor) + m", "__umulhi(m, factor)"),
    ("neighbours", "conv16.round16", "pack_bf16(low.z, low.w)", "pack_bf16(low.w, low.z)"),
    ("rows and columns", "conv.conv2d", "y + row * O + o", "y + o * rows + row"),
    (
        "rows and columns",
        "conv.conv2d_weight",
        "((unsigned)image * s.H + h) * s.W + v",
        "((unsigned)image * s.W + h) * s.H + v",
    ),
    ("rows and columns", "im2col.im2col", "DH * (tap / KW)", "DH * (tap % KW)"),
    ("strides", "im2col.col2im", "across % SW", "across % SH"),
    ("strides", "separable.upsample_by_all", "(here.column + PW) % SW", "(here.column + PW) % SH"),
    ("paddings", "pooling.sum_pool2d", "g.DW * b - g.PW", "g.DW * b - g.PH"),
    (
        "windows for pixels",
        "pooling.max_scatter",
        "read(x, group_at(pixel, H, W, C))",
        "read(x, group_at(pixel, OH, OW, C))",
    ),
    (
        "rows and columns",
        "pooling.sum_spread",
        "window_over(here, a, b, g)",
        "window_over(here, b, a, g)",
    ),
    ("rows and columns", "reduction.sum_rows", "found[other][lane]", "found[lane % ROWS][other]"),
    ("inner and outer", "separable.upsample", "i % inner", "i / inner"),
    ("beside the window", "window.put", "inside(here.row, here.column, h, w)", "here.row < h"),
    ("no barrier", "separable.compare", "__syncthreads();", ""),
    ("a part not asked", "separable.agree", "part < parts", "part < parts - 1"),
    ("in and out", "separable.upsample_by_all", "in < C", "in < C - 1"),
    ("beside the image", "separable.downsample_by_all", "inside(row, column, OH, OW)", "row < OH"),
    ("part on part", "conv.conv2d_weight", "blockIdx.z * rows * s.O", "0"),
    ("in and out", "conv.conv2d_weight", "blockIdx.z * rows * s.O", "blockIdx.z * rows * s.C"),
    ("part on part", "conv.conv2d", "blockIdx.z * pixels * s.O", "0"),
    ("pixels and channels", "elementwise.add_bias", "i % C", "i / C"),
    ("pixels and channels", "softmax.softmax_error", "share[my.pixel]", "share[c]"),
    (
        "before and after",
        "lrn.own_share",
        "energy_around(x + i - c, c - before, c + after, C, ratio, k)",
        "energy_around(x + i - c, c - after, c + before, C, ratio, k)",
    ),
    ("before and after", "lrn.share_of_others", "max(c - after, 0)", "max(c - before, 0)"),
    ("last maximum for the first", "pooling.max_gather", "!found[e]", "true"),
    # numbers
    ("first row forgotten", "im2col.im2col", "first + pixel.row", "pixel.row"),
    ("zero for the least", "pooling.max_pool2d", "filled(MINUS_INFINITY)", "filled(0.0f)"),
    ("below zero", "conv.conv2d", "out.y < 0.0f ? 0.0f : out.y", "out.y"),
    ("at zero", "elementwise.where_positive", "output.at[e] > 0.0f", "output.at[e] >= 0.0f"),
    ("overflow", "softmax.softmax_error", "logits[c] - largest", "logits[c]"),
    ("what is ignored", "softmax.cross_entropy", "label == ignored", "false"),
    (
        "lanes are left out",
        "softmax.cross_entropy",
        "__shfl_xor_sync(0xffffffffu, mine, across)",
        "__shfl_xor_sync(0xffffffffu, mine, 1)",
    ),
    (
        "steps that are not wanted",
        "sgd.descend",
        "if (wanted && *(const int*)wanted == 0) return;",
        "",
    ),
    ("term forgotten", "sgd.descend", "after * momentum + g", "after * momentum"),
    ("all draw the same", "dropout.dropout_mask", "pair += threads", "++pair"),
    (
        "blocks draw the same",
        "dropout.dropout_mask",
        "blockIdx.x * blockDim.x + threadIdx.x",
        "(int)threadIdx.x",
    ),
    ("a decay of 0", "sgd.descend", "decay != 0.0f", "true"),
]


def with_mistakes(file, code):
    """Return a file's text with all its mistakes, number i where the variable `planted` is i."""
    places = {}  # start and end of a piece of text -> what stands there in its stead, and when
    for number, (_, kernel, text, instead) in enumerate(MISTAKES):
        of, _, name = kernel.partition(".")
        if of == file:
            start = code.find(text, code.index(f" {name}("))
            start = code.index(text) if start < 0 else start  # a function that the kernel calls
            places.setdefault((start, start + len(text)), {}).setdefault(instead, []).append(number)
    if any(a[1] > b[0] for a, b in zip(sorted(places), sorted(places)[1:], strict=False)):
        raise ValueError(f"{file}: two mistakes overlap")  # an AssertionError would count as found
    for (start, end), choices in sorted(places.items(), reverse=True):
        text = code[start:end]
        changed = f"{{ {text} }}" if text.endswith(";") else f"({text})"
        for instead, numbers in choices.items():
            when = " || ".join(f"planted == {number}" for number in numbers)
            if text.endswith(";"):
                changed = f"if ({when}) {{ {instead} }} else {changed}"
            else:
                changed = f"({when} ? ({instead}) : {changed})"
        code = code[:start] + changed + code[end:]
    return f'static int planted = -1; extern "C" void plant(int n) {{ planted = n; }} {code}'


class Planted(on_cpu.RawModule):
    """The kernels in a text, with one mistake."""

    def __init__(self, number, *, code, options=()):
        (file,) = (name for name in launch.kernel_files() if launch.text(name) == code)
        super().__init__(code=with_mistakes(file.removesuffix(".cu"), code), options=options)
        self.number = number

    def get_function(self, name):
        kernel = super().get_function(name)
        on_cpu._library(self.code, self.options).plant(self.number)
        return kernel


def check(kernel, number):
    with np.errstate(all="ignore"):
        CHECKS[kernel](functools.partial(Planted, number))


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda i: " in ".join(MISTAKES[i][:2]))
def test_mistake_is_found(number):
    with pytest.raises((AssertionError, on_cpu.KernelError)):
        check(MISTAKES[number][1], number)


@pytest.mark.parametrize("kernel", CHECKS)
def test_nothing_is_found_without_mistakes(kernel):
    check(kernel, -1)


def test_every_kernel_has_a_mistake():
    assert {kernel for _, kernel, _, _ in MISTAKES} == CHECKS.keys()


# ---- instructions, which only a GPU executes -----------------------------------------------------


def code_of(file):
    """Return the text of a file without comments, all spaces being one."""
    text = (launch.FOLDER / file).read_text("utf-8")
    return " ".join(re.sub(r"//.*", "", text).split())


def test_instructions_are_those_that_ran_on_a_gpu():
    """On a CPU, others stand for them: nothing else here sees a mistake in their operands.

    Who changes one tries it on a GPU (`python -m pytest -m gpu`), then writes the new number here.
    """
    seal = hashlib.sha256(code_of("tensor_core.cuh").encode()).hexdigest()
    assert seal.startswith("8d1cb241fe658362")


def test_rounding_to_tf32_before_capability_9():
    body = re.search(r"#else (.*?) #endif", code_of("tensor_core.cuh"))[1]
    code = (
        f"static unsigned rounded(float x) {{ {body} }}"
        'extern "C" __global__ void f(const float* x, int* y) {'
        " y[threadIdx.x] = rounded(x[threadIdx.x]) & 0xffffe000; }"
    )
    x = np.random.default_rng(0).normal(size=256).astype(np.float32)
    x[:4] = np.inf, -np.inf, np.nan, 0
    y = np.zeros(256, np.int32)
    on_cpu.RawModule(code=code).get_function("f")((1,), (256,), (x, y))
    found = y.view(np.float32)
    np.testing.assert_array_equal(found[:4], x[:4])
    np.testing.assert_array_equal(found[4:], test_cuda_conv.rounded(x[4:], "tf32"))
