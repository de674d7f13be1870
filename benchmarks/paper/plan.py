"""What is trained for the tables: every cell, its budget, and which cells it needs first.

A cell is one net, trained for one line of a table, and is repeated for each seed. Learning rates
are not typed in: a search, on a seed of its own, tries a few for each kind of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minifcn.backend import Error

SEEDS = (0, 1, 2)
SEARCH = "search/"  # the names of its jobs begin with this
SEARCH_SEED = 100  # of all searches: none of the tables' seeds
NETS = {"alexnet": "AlexNet", "vgg16": "VGG16", "googlenet": "GoogLeNet"}
TRUNK = "alexnet"  # of tables b, d and e: so narrow and so soon, VGG16 learns worse (table a)
TILE, TILES = 64, 18  # pixels a side, and tiles in a step: together ...
CROP, BATCH = 96, 8  # ... as many pixels as in a step of segmentation (73,728)
LIGHT_BATCH = 20

# So that a trunk's scores cover the image: fc6 is 2x2 in VGG16 and 1x1 in AlexNet, since that is
# what is left of tiles of 64 pixels; GoogLeNet has none.
PADDING: dict[str, dict[str, int]] = {
    "alexnet": {"padding": 5},
    "vgg16": {"padding": 1, "fc6_padding": 1},
    "googlenet": {"padding": 3},
}
# The heavy recipe as it is for VGG16: AlexNet was released with another one of that name.
HEAVY: dict[str, Any] = {
    "reduction": "batchmean",
    "momentum": 0.99,
    "accumulate": 1,
    "bias_lr": 2.0,
    "bias_decay": 0.0,
    "sampling": "epochs",  # as in the light one: what is compared are the losses and the batches
}
# Seen from above nothing is up: every flip and turn of a tile is as good as the tile.
TURNS: dict[str, Any] = {"flip_vertical": True, "rotate": True}


class PlanError(Error, ValueError):
    """A table, cell or seed that is not there."""


@dataclass(frozen=True)
class Scale:
    """How much is spent on each cell.

    Attributes
    ----------
    width
        Of all nets: their channels, as a share of the published ones.
    classify, tune
        Steps of the classifiers, and of the nets of table a made from them.
    total
        Steps of each net of tables b and e, over all its stages.
    images
        That each net of table d sees.
    factors
        Output strides of table c.
    """

    width: float = 0.125
    classify: int = 300
    tune: int = 200
    total: int = 600
    images: int = 1200
    factors: tuple[int, ...] = (128, 64, 32, 16, 8, 4)


FULL = Scale()
TRIAL = Scale(width=0.01, classify=2, tune=3, total=6, images=20, factors=(32, 8))


@dataclass(frozen=True)
class Classifying:
    """A classifier of tiles, from random weights."""

    net: str
    steps: int


@dataclass(frozen=True)
class Segmenting:
    """A net that labels every pixel, trained in one stage or several.

    Attributes
    ----------
    net
        The trunk.
    start
        The classifier that it is made from; none: it has random weights.
    stages
        Name of each net and its steps.
    search
        The search that finds its rate.
    options
        Of the net.
    recipe, numbers
        One of `minifcn.recipes.RECIPES`, and what is different.
    """

    net: str
    start: str | None
    stages: dict[str, int]
    search: str
    options: dict[str, Any] = field(default_factory=dict)
    recipe: str = "quick"
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounding:
    """True labels, made coarser and finer again."""

    factor: int


Cell = Classifying | Segmenting | Bounding


class Search(NamedTuple):
    """Which rates are tried for which training."""

    cell: Segmenting
    rates: tuple[float, ...]


class Job(NamedTuple):
    """One training: a cell with one seed; ``rate`` is None where a search has to find it."""

    name: str
    seed: int
    cell: Cell
    rate: float | None = None

    @property
    def key(self) -> str:
        """What the results call it."""
        return f"{self.name} seed {self.seed}"


class Plan:
    """All cells and searches at some scale.

    >>> plan = Plan(TRIAL)
    >>> [job.key for job in plan.jobs(["a/vgg16/classifier"], [0, 1])]
    ['a/vgg16/classifier seed 0', 'a/vgg16/classifier seed 1']
    """

    def __init__(self, scale: Scale = FULL) -> None:
        self.scale = scale
        self.searches: dict[str, Search] = {}
        self.cells: dict[str, Cell] = {}
        self._pretrained_and_from_scratch()
        self._strides()
        self.cells |= {f"c/{factor}": Bounding(factor) for factor in scale.factors}
        self._heavy_and_light()
        stages = self.staged("fcn32s", "fcn16s", "fcn8s")
        self.cells["e/learned"] = self._tuned(stages, learn_upsampling="intermediate")

    def _pretrained_and_from_scratch(self) -> None:
        """Add table a: each trunk from a classifier, and from random weights."""
        scale = self.scale
        for net in NETS:
            classifier = f"a/{net}/classifier"
            self.cells[classifier] = Classifying(net, scale.classify)
            for name, start, steps in (
                ("pretrained", classifier, scale.tune),
                ("scratch", None, scale.tune),
                ("longer", None, scale.tune + scale.classify),
            ):
                search = f"a/{net}/{'pretrained' if start else 'scratch'}"
                cell = Segmenting(net, start, {"fcn32s": steps}, search, numbers=TURNS)
                self.cells[f"a/{net}/{name}"] = cell
                if name != "longer":
                    self.searches[search] = Search(cell, (0.03, 0.01, 0.003))

    def _strides(self) -> None:
        """Add table b: nets of several strides, each with the same number of steps in all."""
        only = {"fcn32s": self.scale.total}
        fixed = self._tuned(only, search="b/32s-fixed", learn_trunk=False)
        self.searches["b/32s-fixed"] = Search(fixed, (0.1, 0.03, 0.01))
        self.cells |= {
            "b/32s-fixed": fixed,
            "b/32s": self._tuned(only),
            "b/16s": self._tuned(self.staged("fcn32s", "fcn16s")),
            "b/8s": self._tuned(self.staged("fcn32s", "fcn16s", "fcn8s")),
            "b/8s-at-once": self._tuned({"fcn8s": self.scale.total}, at_once=True),
            "b/8s-unscaled": self._tuned({"fcn8s": self.scale.total}),
        }

    def _heavy_and_light(self) -> None:
        """Add table d: three ways to learn from the same number of images."""
        images, start = self.scale.images, f"a/{TRUNK}/classifier"
        recipes: dict[str, tuple[str, int, dict[str, Any], tuple[float, ...]]] = {
            "light": ("light", LIGHT_BATCH, {"accumulate": 1}, (0.03, 0.01, 0.003, 0.001)),
            "online": ("heavy", 1, HEAVY | {"momentum": 0.9}, (3e-7, 1e-7, 3e-8, 1e-8)),
            "heavy": ("heavy", 1, HEAVY, (3e-8, 1e-8, 3e-9, 1e-9)),
        }
        for name, (recipe, batch, numbers, rates) in recipes.items():
            stages, numbers = {"fcn32s": images // batch}, {"batch_size": batch, **numbers}
            cell = Segmenting(TRUNK, start, stages, f"d/{name}", {}, recipe, numbers)
            self.cells[f"d/{name}"] = cell
            self.searches[f"d/{name}"] = Search(cell, rates)

    def _tuned(
        self, stages: dict[str, int], search: str = f"a/{TRUNK}/pretrained", **options: Any
    ) -> Segmenting:
        start = f"a/{TRUNK}/classifier"
        return Segmenting(TRUNK, start, stages, search, options, numbers=TURNS)

    def staged(self, *nets: str) -> dict[str, int]:
        """Share out the steps of a cell of table b among its stages; the last takes what is left.

        >>> Plan(Scale(total=500)).staged("fcn32s", "fcn16s", "fcn8s")
        {'fcn32s': 166, 'fcn16s': 166, 'fcn8s': 168}
        """
        share = self.scale.total // len(nets)
        steps = dict.fromkeys(nets, share)
        steps[nets[-1]] += self.scale.total - share * len(nets)
        return steps

    def jobs(self, wanted: Sequence[str], seeds: Sequence[int]) -> list[Job]:
        """Return what has to be done for some cells, each job after those that it needs.

        Parameters
        ----------
        wanted
            Cells, tables or the first part of a cell's name: ``["a/vgg16", "b"]``.
        seeds
            Of the tables; each is repeated with each of them.

        Raises
        ------
        PlanError
            If there is no such cell, or a seed is the one of the searches.
        """
        if SEARCH_SEED in seeds or min(seeds, default=-1) < 0:
            raise PlanError(f"seeds {list(seeds)}: from 0 on, without the searches' {SEARCH_SEED}")
        jobs: dict[str, Job] = {}
        for name in self.named(wanted):
            cell = self.cells[name]
            # Nothing is drawn for a bound: it has the first seed, whichever are wanted.
            for seed in SEEDS[:1] if isinstance(cell, Bounding) else seeds:
                for job in self._with_needs(Job(name, seed, cell)):
                    jobs[job.key] = job
        return list(jobs.values())

    def named(self, wanted: Sequence[str]) -> list[str]:
        """Return the names of the cells that are wanted, in the order of the tables."""
        for text in wanted:
            if not any(f"{name}/".startswith(f"{text}/") for name in self.cells):
                raise PlanError(f"there is no cell {text!r}: the cells are {', '.join(self.cells)}")
        hits = (any(f"{name}/".startswith(f"{text}/") for text in wanted) for name in self.cells)
        names = [name for name, hit in zip(self.cells, hits, strict=True) if hit]
        # Table e compares with a net that table b has already.
        both = "b/8s" not in names and any(name.startswith("e/") for name in names)
        return [*(["b/8s"] if both else []), *names]

    def _with_needs(self, job: Job) -> Iterator[Job]:
        """Yield a job, after all that it needs."""
        cell = job.cell
        if isinstance(cell, Segmenting):
            if job.rate is None:
                for trial in self.trials(cell.search):
                    yield from self._with_needs(trial)
            if cell.start:
                yield Job(cell.start, job.seed, self.cells[cell.start])
        yield job

    def trials(self, search: str) -> list[Job]:
        """Return the jobs of a search, one for each rate."""
        cell, rates = self.searches[search]
        return [Job(f"{SEARCH}{search}/{rate:g}", SEARCH_SEED, cell, rate) for rate in rates]
