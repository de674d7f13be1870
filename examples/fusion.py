"""Two kinds of images, and two kinds of labels: the paper's nets for NYUDv2 and SIFT Flow.

    python examples/fusion.py early     # one net whose images have a fourth channel
    python examples/fusion.py late      # a net for each kind of image, their scores averaged
    python examples/fusion.py heads     # one trunk with two heads, trained on both losses

The data are the bundled land-cover tiles. They have no depth, so how much the brightness changes
from pixel to pixel (`relief`) plays its part; it adds nothing that the colours do not have, so do
not expect better scores. And the eight classes are grouped into three kinds of ground for a second
head, as SIFT Flow has semantic and geometric classes. What is shown is how such nets are put
together and trained (Long, Shelhamer and Darrell 2015, section 5), in about half a minute each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

import minifcn as mf
import minifcn.functional as F
from minifcn import data, models, nn, optim
from minifcn.metrics import ConfusionMatrix
from minifcn.models import FCN, transplant

TRUNK = {"backbone": "caffenet", "width": 0.125, "fc6_kernel": 1, "padding": 5, "dropout": 0.0}
CLASSES = data.landcover("val").classes
KINDS = np.full(256, 255)  # of ground: 0 water, 1 land, 2 ice; 255 stays 255, to be ignored
KINDS[: len(CLASSES)] = [{"water": 0, "snow and ice": 2}.get(name, 1) for name in CLASSES]

Forward = Callable[[np.ndarray], mf.Tensor | dict[str, mf.Tensor]]
Labels = dict[str, np.ndarray]


def relief(images: np.ndarray) -> np.ndarray:
    """Return how much the brightness changes around each pixel, (N, 3, H, W) to (N, 1, H, W)."""
    grey = images.mean(axis=1, keepdims=True)
    down, right = np.gradient(grey, axis=(2, 3))
    return np.hypot(down, right).astype(images.dtype)


def with_relief(images: np.ndarray) -> np.ndarray:
    """Return colour and relief as four channels."""
    return np.concatenate([images, relief(images)], axis=1)


def beside_relief(images: np.ndarray) -> np.ndarray:
    """Return colour, and relief three times: what two nets with three channels each take."""
    return np.concatenate([images, np.repeat(relief(images), 3, axis=1)], axis=1)


def labels_of(batch: data.Batch) -> Labels:
    """Return the labels of each head; the first is that of nets with one head."""
    return {"cover": batch.labels, "kind": KINDS[batch.labels]}


def scored(output: mf.Tensor | dict[str, mf.Tensor]) -> dict[str, mf.Tensor]:
    """Return what a net puts out as a dictionary, also if it has one head only."""
    return output if isinstance(output, dict) else {"cover": output}


def train(net: nn.Module, forward: Forward, steps: int, lr: float, seed: int) -> None:
    """Train on the sum of the losses of all heads."""
    loader = data.Loader(
        data.landcover("train"), 8, data.LANDCOVER, seed=seed, crop=96, flip=True, rotate=True
    )
    optimizer = optim.SGD(optim.bias_groups(net, lr, 5e-4), lr, momentum=0.9, weight_decay=5e-4)
    schedule = optim.warmup(optim.poly(steps, 0.9), min(20, steps))
    for step, batch in enumerate(islice(loader.steps(), steps)):
        labels = labels_of(batch)
        losses = [F.cross_entropy(s, labels[h]) for h, s in scored(forward(batch.images)).items()]
        optimizer.zero_grad()
        sum(losses[1:], losses[0]).backward()
        optim.clip_grad_norm_(net.parameters(), 3.0)
        optimizer.scale_lr(schedule(step))
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            told = ", ".join(f"{loss.item():.2f}" for loss in losses)
            print(f"  step {step + 1} of {steps}: loss {told}", flush=True)


def measured(net: nn.Module, forward: Forward) -> Iterator[tuple[str, ConfusionMatrix]]:
    """Yield the confusion matrix of each head on the held-out tiles."""
    matrices: dict[str, ConfusionMatrix] = {}
    with nn.evaluation_mode(net):
        for batch in data.Loader(data.landcover("val"), 1, data.LANDCOVER).in_order():
            labels = labels_of(batch)
            for head, scores in scored(forward(batch.images)).items():
                matrix = matrices.setdefault(head, ConfusionMatrix(scores.shape[1]))
                matrix.update(labels[head], scores.numpy().argmax(axis=1))
    yield from matrices.items()


def new_net(num_classes: int | dict[str, int], seed: int, **options: Any) -> FCN:
    """Return an FCN-16s on a narrow CaffeNet."""
    rng = np.random.default_rng(seed)
    return models.fcn16s(num_classes, rng=rng, **{**TRUNK, **options})


def early(steps: int, seed: int) -> tuple[nn.Module, Forward]:
    """Train on colour, widen the first layer by the relief, and go on."""
    color = new_net(len(CLASSES), seed)
    print("colour alone:")
    train(color, lambda images: color(mf.Tensor(images)), steps, 0.03, seed)
    net = new_net(len(CLASSES), seed, in_channels=4)
    report = transplant(net, color, widen_input=True)
    print(f"four channels: {report.summary()}; widened: {', '.join(report.names('widened'))}")
    train(net, lambda images: net(mf.Tensor(with_relief(images))), steps, 0.01, seed)
    return net, lambda images: net(mf.Tensor(with_relief(images)))


def late(steps: int, seed: int) -> tuple[nn.Module, Forward]:
    """Train a net for colour and one for relief, then both as one."""
    color, depth = (new_net(len(CLASSES), s) for s in (seed, seed + 1))
    print("colour alone:")
    train(color, lambda images: color(mf.Tensor(images)), steps, 0.03, seed)
    print("relief alone:")
    train(depth, lambda images: depth(mf.Tensor(beside_relief(images)[:, 3:])), steps, 0.03, seed)
    net = models.LateFusion({"color": color, "relief": depth})
    print("both:")
    train(net, lambda images: net(mf.Tensor(beside_relief(images))), steps, 0.01, seed)
    return net, lambda images: net(mf.Tensor(beside_relief(images)))


def heads(steps: int, seed: int) -> tuple[nn.Module, Forward]:
    """Train one trunk with a head for land cover and one for the kind of ground."""
    net = new_net({"cover": len(CLASSES), "kind": 3}, seed)
    print(f"heads of {net.heads}:")
    train(net, lambda images: net(mf.Tensor(images)), 2 * steps, 0.03, seed)
    return net, lambda images: net(mf.Tensor(images))


WAYS = {"early": early, "late": late, "heads": heads}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, print the metrics of each head, and return their mean IU."""
    parser = argparse.ArgumentParser(description="Early fusion, late fusion, or two heads.")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--steps", type=int, default=200, help="of each training (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    net, forward = WAYS[given.way](given.steps, given.seed)
    found = {}
    for head, matrix in measured(net, forward):
        found[head] = matrix.mean_iu()
        print(f"{head}: pixel accuracy {matrix.pixel_accuracy():.1%}, mean IU {found[head]:.1%}")
    return found


if __name__ == "__main__":
    main()
