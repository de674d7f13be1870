"""Recipes: the numbers of a training that belong together, under a name.

A learning rate alone says nothing. It fits one way to add up the loss: summed over the pixels of an
image, gradients are as many times larger as there are pixels, so the rate must be as many times
smaller. It fits one momentum m, since steps in the same direction add up to 1 / (1 - m) of them.
And it fits one starting point: nets with trained weights are moved by small steps. So a `Recipe`
holds all of it, and `RECIPES` holds three: the paper's two, and one for small nets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from .backend import Error
from .data.order import Sampling, Sizes

NETS = ("fcn32s", "fcn16s", "fcn8s")  # in the order of staged training
REDUCTIONS = ("mean", "sum", "batchmean")  # of the loss: see `minifcn.functional.cross_entropy`
ALEXNETS = ("alexnet", "caffenet", "alexnet_torchvision")
GOOGLENETS = ("googlenet", "googlenet_torchvision")

LEAST_MEAN_RATE = 1e-8
"""Smaller rates are lost with a mean loss: rate times gradient is below float32's rounding."""
LARGEST_REACH = 3.0
"""Of rate / (1 - momentum), as of a mean loss: ten times that of the quick recipe."""


class RecipeError(Error, ValueError):
    """Numbers of a recipe that do not fit together."""


# More is a slip of the pen, and would fill the memory or never end.
MOST = {"steps": 10**9, "warmup": 10**9, "batch_size": 65_536, "accumulate": 65_536, "crop": 16_384}
MOST_SCALE = 100


@dataclass(frozen=True)
class Recipe:
    """How one net is trained. The numbers belong together: a rate fits one kind of loss only.

    Attributes
    ----------
    steps
        Optimiser steps.
    lr
        Learning rate of the weights.
    bias_lr, bias_decay
        What rate and weight decay are multiplied with for biases: twice the rate and no decay in
        the paper (section 4.3).
    momentum, weight_decay, caffe
        Of SGD, and whether the momentum is Caffe's form of it; see `minifcn.optim.SGD`.
    batch_size, accumulate, crop
        Images in a batch, batches in a step, and the side of the square that is cut from each image
        (None: all of it).
    sizes
        What becomes of images of several sizes: ``"same"`` leaves batches of one (accumulate
        those), ``"pad"`` fills up the smaller ones, ``"bucket"`` puts equal ones together.
    sampling
        ``"epochs"``: all images in a shuffled order, then again. ``"replacement"``: each is drawn
        from all of them, as the released nets were trained.
    reduction
        Of the loss: the rate is for this one. "mean" is per labelled pixel, "batchmean" the sum
        over all pixels divided by the number of images (Caffe's ``normalize: false``).
    power, warmup
        The rate rises for ``warmup`` steps, then falls as (1 - step / steps) ^ power. 0 and 1: it
        never changes.
    max_norm
        Gradients whose common norm is larger are scaled down to it; None: never (the paper).
    flip, flip_vertical, rotate
        Random changes: left and right exchanged, and, for images without an up and down, top and
        bottom too, and turns by quarters.
    scale, jitter
        Random changes of the images' size, by a factor between two numbers (None: none), and of
        brightness and contrast: see `minifcn.data.augment`.
    name
        Which of `RECIPES` this was made from, if any.
    """

    steps: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_lr: float = 2.0
    bias_decay: float = 0.0
    caffe: bool = False
    batch_size: int = 8
    accumulate: int = 1
    crop: int | None = 128
    reduction: str = "mean"
    power: float = 0.9
    warmup: int = 20
    max_norm: float | None = None
    flip: bool = True
    flip_vertical: bool = False
    rotate: bool = False
    scale: tuple[float, float] | None = None
    jitter: float = 0.0
    sampling: Sampling = "epochs"
    sizes: Sizes = "same"
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "warmup"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)} must be at least 1")
        for name, most in MOST.items():
            if (getattr(self, name) or 0) > most:
                raise RecipeError(f"{name}={getattr(self, name)} must be at most {most:,}")
        known = {"sampling": get_args(Sampling), "sizes": get_args(Sizes)}
        for name, words in {"reduction": REDUCTIONS, **known}.items():
            if (given := getattr(self, name)) not in words:
                raise RecipeError(f"{name}={given!r} must be one of {', '.join(words)}")
        if not 0 <= self.jitter <= 1:
            raise RecipeError(f"jitter={self.jitter} must be 0 to 1")
        if self.scale is not None:
            low, high = self.scale
            if not 0 < low <= high <= MOST_SCALE:
                raise RecipeError(
                    f"scale={low},{high}: two factors above 0, the smaller one first, and up to "
                    f"{MOST_SCALE}"
                )
            object.__setattr__(self, "scale", (low, high))  # a list from JSON becomes a tuple

    @property
    def images(self) -> int:
        """How many images make a step."""
        return self.batch_size * self.accumulate

    @property
    def changes(self) -> dict[str, Any]:
        """The random changes of images, as a `minifcn.data.Loader` takes them."""
        names = ("flip", "flip_vertical", "rotate", "scale", "jitter")
        return {name: getattr(self, name) for name in names}


QUICK = Recipe(steps=600, lr=0.03, crop=96, max_norm=3.0, name="quick")
"""The quick recipe for FCN-32s: see `quick`."""

# What the paper's recipes share: whole images as they are, a fixed rate, and Caffe's solver.
PAPER: dict[str, Any] = {
    "batch_size": 1,
    "crop": None,
    "flip": False,
    "power": 0.0,
    "warmup": 1,
    "caffe": True,
}


def quick(backbone: str = "small", at_once: bool = False) -> dict[str, Recipe]:
    """Return the recipe for small nets from random weights, by net: minutes on a laptop.

    The mean loss, batches of 8 windows of 96 x 96 pixels, momentum 0.9, and a rate that falls to
    zero in each stage: from 0.03 for FCN-32s, 0.8 and 0.7 of that for 16s and 8s. The gradient's
    norm is limited to 3 (2.5 at the median): without this one run of three diverged.

    On land cover, windows of 96 pixels taught more in the same time than those of 64 or whole tiles
    of 128. The backbone changes nothing.

    >>> {name: round(recipe.lr, 4) for name, recipe in quick().items()}
    {'fcn32s': 0.03, 'fcn16s': 0.024, 'fcn8s': 0.021}
    """
    rates = (1.0, 1.0, 1.0) if at_once else (1.0, 0.8, 0.7)
    return _by_net(QUICK, [QUICK.lr * rate for rate in rates])


def light(backbone: str = "vgg16", at_once: bool = False) -> dict[str, Recipe]:
    """Return the recipe of the conference paper (section 4.3), by net.

    ==========================  ============================================================
    loss                        mean over the labelled pixels of a step
    a step                      20 whole images; here one by one, so that sizes may differ
    momentum, weight decay      0.9, 5e-4
    rate for FCN-32s            1e-3 AlexNet, 1e-4 VGG16 (and others), 5e-5 GoogLeNet; fixed
    rate for FCN-16s            a hundredth of that
    biases                      twice the rate, no decay
    random changes              none ("no noticeable improvement")
    ==========================  ============================================================

    The paper gives FCN-8s no rate: it has that of FCN-16s here. Nets at once have that of FCN-32s.
    "At least 175 epochs" of 1112 images are about 10,000 steps. For nets with trained weights.

    >>> [light("googlenet")[net].lr for net in NETS]
    [5e-05, 5e-07, 5e-07]
    """
    rate = 1e-3 if backbone in ALEXNETS else 5e-5 if backbone in GOOGLENETS else 1e-4
    recipe = Recipe(10_000, rate, accumulate=20, name="light", **PAPER)
    return _by_net(recipe, [rate] * 3 if at_once else [rate, rate / 100, rate / 100])


def heavy(backbone: str = "vgg16", at_once: bool = False) -> dict[str, Recipe]:
    """Return the recipe of the released nets and the journal version, by net.

    ==========================  ============================================================
    loss                        summed over the image's pixels ("batchmean")
    a step                      one whole image
    momentum, weight decay      0.99, 5e-4
    rate                        1e-10 FCN-32s, 1e-12 16s, 1e-14 8s; 1e-10 at once; fixed
    biases                      twice the rate, no decay
    steps                       100,000 in each stage; 300,000 at once
    order of the images         each step draws one of all images ("replacement")
    random changes              none
    ==========================  ============================================================

    On an image of 500 x 375 pixels the rate of 1e-10 is as 1.9e-5 for a mean loss. Smaller images
    give smaller gradients: the same rate then teaches less. For nets with trained weights.

    AlexNet was released with other numbers, as FCN-32s only: the mean loss, rate 1e-4, momentum
    0.9, 20 images in a step, biases like weights. Its 16s and 8s have a hundredth of the rate here,
    as in `light`.

    >>> [heavy()[net].lr for net in NETS], heavy("caffenet")["fcn32s"].accumulate
    ([1e-10, 1e-12, 1e-14], 20)
    """
    if backbone in ALEXNETS:
        rates = [1e-4, 1e-4, 1e-4] if at_once else [1e-4, 1e-6, 1e-6]
        own: dict[str, Any] = {"accumulate": 20, "bias_lr": 1.0, "bias_decay": 1.0}
    else:
        rates = [1e-10, 1e-10, 1e-10] if at_once else [1e-10, 1e-12, 1e-14]
        own = {"momentum": 0.99, "reduction": "batchmean"}
    steps = 300_000 if at_once else 100_000
    recipe = Recipe(steps, rates[0], sampling="replacement", name="heavy", **own, **PAPER)
    return _by_net(recipe, rates)


def _by_net(recipe: Recipe, rates: Sequence[float]) -> dict[str, Recipe]:
    return {net: replace(recipe, lr=rate) for net, rate in zip(NETS, rates, strict=True)}


RECIPES: dict[str, Callable[[str, bool], dict[str, Recipe]]] = {
    "quick": quick,
    "light": light,
    "heavy": heavy,
}
"""By name: a function of the backbone, and of whether skips are scaled to be learned at once."""


def plan(
    nets: Sequence[str],
    recipe: str = "quick",
    backbone: str = "small",
    *,
    at_once: bool = False,
    steps: int | Sequence[int] | None = None,
    lr: float | None = None,
    **numbers: Any,
) -> dict[str, Recipe]:
    """Return a recipe for each stage of a staged training, for `minifcn.train.run`.

    Parameters
    ----------
    nets
        One or several of fcn32s, fcn16s and fcn8s, in the order in which they are trained.
    recipe, backbone, at_once
        One of `RECIPES`, and what it depends on.
    steps
        One number for all stages, or one for each; the recipe's where not given.
    lr
        The rate of the first stage in place of the recipe's; the others change in proportion.
    numbers
        Fields of `Recipe` to have other values in every stage.

    Raises
    ------
    RecipeError
        If there is no such recipe, net or field, or the steps are not as many as the nets.

    Examples
    --------
    >>> stages = plan(["fcn32s", "fcn8s"], "heavy", "vgg16", lr=2e-10, momentum=0.9)
    >>> [(recipe.lr, recipe.momentum) for recipe in stages.values()]
    [(2e-10, 0.9), (2e-14, 0.9)]
    """
    if recipe not in RECIPES:
        raise RecipeError(f"recipe {recipe!r} is unknown: use one of {', '.join(RECIPES)}")
    known = RECIPES[recipe](backbone, at_once)
    each = [steps] if isinstance(steps, int) else list(steps or [0])
    each = each * len(nets) if len(each) == 1 else each
    if (
        not nets
        or set(nets) - set(NETS)
        or len(each) != len(nets)
        or (steps is not None and min(each) < 1)
    ):
        raise RecipeError(
            f"stages {list(nets)} with steps {each}: name some of {', '.join(NETS)}, with one "
            "number of steps, or one for each"
        )
    fields = Recipe.__dataclass_fields__
    if unknown := sorted(set(numbers) - set(fields)):
        raise RecipeError(f"a recipe has no {', '.join(unknown)}: it has {', '.join(fields)}")
    first = known[nets[0]].lr
    stages = {}
    for net, count in zip(nets, each, strict=True):
        rate = known[net].lr if lr is None else lr * (known[net].lr / first)
        stages[net] = replace(known[net], lr=rate, steps=count or known[net].steps, **numbers)
    return stages


def check_rate(recipe: Recipe, pixels: int) -> None:
    """Refuse a rate that was made for another way to add up the loss.

    Parameters
    ----------
    recipe
        What is going to be done.
    pixels
        Of an image, as it is fed to the net.

    Raises
    ------
    RecipeError
        If a mean loss has a rate below 1e-8 (0 is a rate that keeps all as it is): every published
        one is above. Or if, for a sum over pixels, rate · pixels / (1 - momentum) is above 3, ten
        times what the quick recipe has without its limit on the gradient's norm. A recipe with such
        a limit (``max_norm``) passes: its steps are bounded by that.

    Examples
    --------
    >>> check_rate(heavy()["fcn32s"], 500 * 375)
    >>> check_rate(replace(heavy()["fcn32s"], reduction="mean"), 500 * 375)
    Traceback (most recent call last):
    minifcn.recipes.RecipeError: the rate 1e-10 is one for a loss that is summed over pixels...
    """
    if recipe.reduction == "mean":
        if 0 < recipe.lr < LEAST_MEAN_RATE:
            raise RecipeError(
                f"the rate {recipe.lr:.3g} is one for a loss that is summed over pixels: with the "
                f"mean loss, whose gradients are {pixels:,} times smaller here, steps below "
                f"{LEAST_MEAN_RATE:g} are lost in rounding, and nothing is learnt; use reduction "
                "'batchmean', as in the recipe heavy, or a rate for the mean loss, such as 1e-4 "
                "(light) or 0.03 (quick)"
            )
        return
    summed = pixels * (recipe.images if recipe.reduction == "sum" else 1)
    reach = recipe.lr * summed / (1 - recipe.momentum)
    if reach > LARGEST_REACH and recipe.max_norm is None:
        usual = QUICK.lr / (1 - QUICK.momentum) * (1 - recipe.momentum) / summed
        raise RecipeError(
            f"the rate {recipe.lr:.3g} is one for a mean loss: this one is summed over "
            f"{summed:,} pixels (reduction {recipe.reduction!r}), and with the momentum "
            f"{recipe.momentum:g} it is as {reach:.3g} (rate · pixels / (1 - momentum)), where "
            f"{LARGEST_REACH:g} is the limit; use reduction 'mean', as in the recipe light, or a "
            f"rate of {usual:.1g} at most, or limit the gradient's norm (max_norm)"
        )
