"""Draw the figures of docs/paper.md: `python docs/drawings.py` writes them to docs/images.

All numbers in them are asked of the nets, so they cannot be wrong in a drawing alone.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from minifcn import models
from minifcn.files import replacing
from minifcn.flow import Undrawn
from minifcn.models import output_size
from minifcn.nn import Conv2d

OUT = Path(__file__).parent / "images"
INK, FAINT = "#222222", "#767676"
MAPS, POOLED, SCORES = "#7aa6d8", "#4d7fb8", "#e8a33d"
SKY, HILL, LAKE, TREE = "#5b6ee1", "#99703d", "#39c0c8", "#2f8f46"  # as labels
FONT = 'font-family="Helvetica, Arial, sans-serif"'


def text(
    x: float, y: float, words: str, size: int = 13, anchor: str = "middle", **more: str
) -> str:
    """Return words at a place; ``more`` are attributes of SVG."""
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    fill = "" if "fill" in more else f' fill="{INK}"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{fill}{extra}>'
        f"{escape(words)}</text>"
    )


def lines(x: float, y: float, words: str, size: int = 13, anchor: str = "middle") -> str:
    """Return several lines of text, the first at (x, y)."""
    each = words.split("\n")
    return "".join(text(x, y + i * size * 1.3, line, size, anchor) for i, line in enumerate(each))


def slab(x: float, middle: float, height: float, width: float, colour: str) -> str:
    """Return an array (channels, height, width) as a box seen from the side."""
    depth = height * 0.35
    top = middle - height / 2
    faces = [
        [(x, top), (x + width, top), (x + width, top + height), (x, top + height)],
        [(x, top), (x + depth, top - depth), (x + width + depth, top - depth), (x + width, top)],
        [
            (x + width, top),
            (x + width + depth, top - depth),
            (x + width + depth, top + height - depth),
            (x + width, top + height),
        ],
    ]
    return "".join(
        f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in face)}" fill="{colour}" '
        f'fill-opacity="{opacity}" stroke="{INK}" stroke-width="0.8" stroke-linejoin="round"/>'
        for face, opacity in zip(faces, (0.95, 0.6, 0.75), strict=True)
    )


def arrow(x1: float, y1: float, x2: float, y2: float, colour: str = INK) -> str:
    """Return a straight arrow."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="1.6" marker-end="url(#head)"/>'
    )


def grid(x: float, y: float, side: float, cells: int, colour: str) -> str:
    """Return a square of cells x cells pixels."""
    step = side / cells
    inner = "".join(
        f'<path d="M{x + i * step:.1f} {y:.1f}v{side:.1f}M{x:.1f} {y + i * step:.1f}h{side:.1f}"/>'
        for i in range(1, cells)
    )
    return (
        f'<g stroke="{INK}" stroke-width="0.5"><rect x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" '
        f'height="{side:.1f}" fill="{colour}" stroke-width="1"/>{inner}</g>'
    )


def scene(x: float, y: float, side: float, labels: bool = False) -> str:
    """Return a small landscape, or which pixel of it is what."""
    sky, hill, lake, tree = (
        (SKY, HILL, LAKE, TREE) if labels else ("#bcd9f2", "#b9a27a", "#6fa8c9", "#5f8f58")
    )
    place = f'transform="translate({x:.1f} {y:.1f}) scale({side / 100:.3f})"'
    light = "" if labels else '<circle cx="78" cy="20" r="8" fill="#fff3c4"/>'
    return (
        f'<g {place}><rect width="100" height="100" fill="{sky}"/>{light}'
        f'<path d="M0 62L30 38L52 56L76 30L100 54V100H0Z" fill="{hill}"/>'
        f'<path d="M0 74Q50 62 100 76V100H0Z" fill="{lake}"/>'
        f'<path d="M16 78L26 36L36 78Z" fill="{tree}"/>'
        f'<rect width="100" height="100" fill="none" stroke="{INK}" stroke-width="1.2"/></g>'
    )


def coarse(x: float, y: float, side: float, cells: int) -> str:
    """Return the labels of `scene` as a net with few scores sees them: in squares."""
    step, squares = side / cells, []
    for row, column in np.ndindex(cells, cells):
        across, down = (column + 0.5) / cells * 100, (row + 0.5) / cells * 100
        hill = np.interp(across, [0, 30, 52, 76, 100], [62, 38, 56, 30, 54])
        lake = np.interp(across, [0, 25, 50, 75, 100], [74, 69, 68.5, 71, 76])
        colour = SKY if down < hill else HILL if down < lake else LAKE
        if 36 < down < 78 and abs(across - 26) < 10 * (down - 36) / 42:
            colour = TREE
        squares.append(
            f'<rect x="{x + column * step:.2f}" y="{y + row * step:.2f}" width="{step:.2f}" '
            f'height="{step:.2f}" fill="{colour}"/>'
        )
    frame = f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" stroke="{INK}"/>'
    return f'<g shape-rendering="crispEdges">{"".join(squares)}</g>{frame}'


def drawing(name: str, width: int, height: int, title: str, parts: list[str]) -> None:
    """Write an SVG file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" {FONT}><title>{escape(title)}</title>'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8Z" fill="{INK}"/></marker></defs>'
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>'
    )
    with replacing(OUT / f"{name}.svg") as path:
        path.write_text(head + "\n".join(parts) + "</svg>\n", encoding="utf-8")


def sizes_of(trunk: models.Trunk, side: int) -> dict[str, int]:
    """Return how many pixels across each layer of a trunk has, for an image of some size."""
    found = {}
    for name, layer in trunk.layers.items():
        side = output_size([layer], side, 0)
        found[name] = side
    return found


def channels_of(trunk: models.Trunk) -> dict[str, int]:
    """Return how many channels each convolution of a trunk puts out."""
    return {n: at.weight.shape[0] for n, at in trunk.layers.items() if isinstance(at, Conv2d)}


def overview(trunk: models.Trunk) -> None:
    """Draw an image that goes through the layers and comes back as labels, pixel for pixel."""
    channels, middle = channels_of(trunk), 150.0
    parts = [scene(20, middle - 62, 124), lines(82, middle + 92, "image\n3 channels")]
    x = 172.0
    stages = [("conv1_2", 1), ("conv2_2", 2), ("conv3_3", 4), ("conv4_3", 8), ("conv5_3", 16)]
    for number, (name, step) in enumerate(stages, 1):
        height, width = 118 * step**-0.42, 5 + channels[name] / 32
        parts += [slab(x, middle, height, width, MAPS)]
        parts += [text(x + width / 2 + height * 0.17, middle + 92, str(channels[name]))]
        parts += [
            text(x + width / 2 + height * 0.17, middle + 109, f"conv{number}", 11, fill=FAINT)
        ]
        x += width + height * 0.35 + 9
    for name in ("fc6", "fc7"):
        parts += [slab(x, middle, 24, 34, POOLED), text(x + 21, middle + 92, str(channels[name]))]
        parts += [text(x + 21, middle + 109, name, 11, fill=FAINT)]
        x += 54
    parts += [slab(x, middle, 24, 6, SCORES), text(x + 8, middle + 92, "21")]
    parts += [text(x + 8, middle + 109, "scores", 11, fill=FAINT)]
    parts += [arrow(x + 22, middle, x + 78, middle), lines(x + 50, middle - 40, "upsample\n×32")]
    x += 88
    parts += [
        scene(x, middle - 62, 124, labels=True),
        lines(x + 62, middle + 92, "a class for\nevery pixel"),
    ]
    width = round(x + 144)
    parts += [
        arrow(160, 32, x - 20, 32),
        text(x / 2 + 70, 24, "forward: from the image to the labels"),
    ]
    parts += [arrow(x - 20, 296, 160, 296)]
    parts += [text(x / 2 + 70, 288, "backward: each pixel's error, to every weight")]
    title = (
        "An image goes through convolutions whose maps become smaller and deeper, to 21 scores per "
        "pixel of a coarse map, which are upsampled 32 times to a class for every pixel."
    )
    drawing("overview", width, 312, title, parts)


def classifier_to_fcn(trunk: models.Trunk) -> None:
    """Draw the same weights on an image of 224 pixels, and on one of 500."""
    channels, parts = channels_of(trunk), []
    rows = [
        (224, 120.0, "Classifier: fc6 is a matrix over all of pool5"),
        (500, 380.0, "The same numbers as a convolution: fc6 slides over pool5"),
    ]
    for side, middle, title in rows:
        sizes, big = sizes_of(trunk, side), side > 224
        picture = 112 if big else 66
        parts += [text(20, middle - 92, title, 15, "start", font_weight="bold")]
        parts += [scene(76 - picture / 2, middle - picture / 2, picture)]
        parts += [text(76, middle + 76, f"{side} x {side}")]
        parts += [arrow(140, middle, 190, middle), lines(165, middle - 24, "conv1\nto pool5", 11)]
        deep = {"pool5": channels["conv5_3"], "fc6": channels["fc6"], "fc7": channels["fc7"]}
        scale = 5.2
        for x, (name, depth) in zip((204, 330, 440), deep.items(), strict=True):
            n = sizes[name]
            width = 16 if name == "pool5" else 40
            parts += [slab(x, middle, max(7, n * scale), width, MAPS if width < 40 else POOLED)]
            parts += [
                text(x + width / 2 + n * scale * 0.17, middle + 76, f"{depth} x {n} x {n}", 12)
            ]
            parts += [text(x + width / 2 + n * scale * 0.17, middle + 93, name, 11, fill=FAINT)]
        n = sizes["fc7"]
        parts += [slab(566, middle, max(7, n * scale), 26, SCORES)]
        parts += [text(579 + n * scale * 0.17, middle + 76, f"1000 x {n} x {n}", 12)]
        parts += [text(579 + n * scale * 0.17, middle + 93, "fc8", 11, fill=FAINT)]
        parts += [arrow(632, middle, 676, middle)]
        if big:
            parts += [
                heat_map(692, middle - 52, 104, n),
                text(744, middle + 76, "a map of one class", 12),
            ]
        else:
            parts += [lines(744, middle - 4, "one answer:\n“tree”", 14)]
    small, large = sizes_of(trunk, 224)["fc7"], sizes_of(trunk, 500)["fc7"]
    title = (
        f"Above, a classifier turns an image of 224 pixels into {small} x {small} answers. Below, "
        f"the same weights turn one of 500 pixels into a map of {large} x {large} answers."
    )
    drawing("classifier_to_fcn", 830, 490, title, parts)


def heat_map(x: float, y: float, side: float, cells: int) -> str:
    """Return a map that is hot where `scene` has its tree."""
    step, squares = side / cells, []
    for row in range(cells):
        for column in range(cells):
            across, down = (column + 0.5) / cells - 0.26, (row + 0.5) / cells - 0.6
            heat = max(0.0, 1 - (across / 0.24) ** 2 - (down / 0.34) ** 2)
            colour = (
                f"rgb({255 - round(22 * heat)},{250 - round(170 * heat)},{240 - round(200 * heat)})"
            )
            squares.append(
                f'<rect x="{x + column * step:.1f}" y="{y + row * step:.1f}" width="{step:.2f}" '
                f'height="{step:.2f}" fill="{colour}" stroke="#cccccc" stroke-width="0.4"/>'
            )
    return "".join(squares)


def skips(net: models.FCN) -> None:
    """Draw how coarse and fine scores are added: FCN-32s, 16s and 8s."""
    side, parts = 84.0, []
    taps = [skip.tap for skip in net.skips][::-1]
    assert taps == ["pool3", "pool4"]
    columns = [("pool3", 16, 40.0), ("pool4", 8, 180.0), ("fc7", 4, 320.0)]
    top = 56.0
    for name, cells, x in columns:
        parts += [
            grid(x, top, side, cells, MAPS),
            text(x + side / 2, top - 26, name, 14, font_weight="bold"),
        ]
        stride = {"pool3": 8, "pool4": 16, "fc7": 32}[name]
        parts += [text(x + side / 2, top - 9, f"stride {stride}", 12, fill=FAINT)]
    parts += [
        arrow(128, top + side / 2, 176, top + side / 2),
        arrow(268, top + side / 2, 316, top + side / 2),
    ]
    parts += [
        text(222, top + side + 26, "a 1x1 convolution makes 21 scores of each", 12, fill=FAINT)
    ]
    rows = [("FCN-32s", 4, 32, ""), ("FCN-16s", 8, 16, "pool4"), ("FCN-8s", 16, 8, "pool3")]
    for number, (name, cells, factor, tap) in enumerate(rows):
        y = 218.0 + number * 128
        parts += [text(674, y - 9, name, 15, font_weight="bold")]
        parts += [grid(464, y, side, cells, SCORES), arrow(556, y + side / 2, 622, y + side / 2)]
        parts += [text(589, y + side / 2 - 10, f"×{factor}", 14), coarse(632, y, side, 2 * cells)]
        if tap:
            x = {n: x for n, _, x in columns}[tap]
            offset = next(skip.offset[0] for skip in net.skips if skip.tap == tap)
            parts += [grid(x, y, side, cells, SCORES)]
            parts += [
                text(
                    x + side / 2,
                    y + side + 16,
                    f"scores of {tap}, cropped by {offset}",
                    11,
                    fill=FAINT,
                )
            ]
            parts += [arrow(x + side + 8, y + side / 2, 424, y + side / 2)]
            parts += [
                text(440, y + side / 2 + 7, "+", 22),
                arrow(494, y - 38, 443, y + side / 2 - 16),
            ]
            parts += [text(452, y + 2, "×2", 14, "end")]
        else:
            parts += [
                grid(320, y, side, cells, SCORES),
                arrow(412, y + side / 2, 456, y + side / 2),
            ]
            parts += [text(362, y + side + 16, "scores of fc7", 11, fill=FAINT)]
    title = (
        "The scores of fc7, of stride 32, are upsampled by two and added to those of pool4; this "
        "is upsampled by two and added to those of pool3. Upsampled to the image, these are the "
        "outputs of FCN-32s, FCN-16s and FCN-8s."
    )
    drawing("skips", 740, 588, title, parts)


def main() -> None:
    """Draw all of them."""
    classifier = models.vgg_trunk(padding=1, rng=Undrawn())
    overview(classifier)
    classifier_to_fcn(classifier)
    skips(models.fcn8s(21, "vgg16", rng=Undrawn()))


if __name__ == "__main__":
    main()
