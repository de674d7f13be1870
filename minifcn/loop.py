"""The training loop: batches, a net and a recipe make steps.

Nothing in a step waits for a GPU. What a program asks a GPU for is put in a queue; as long as
nobody wants to see a number, the program is ahead, and the GPU always has something to do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import islice
from typing import Any, Literal

import numpy as np

from . import functional as F
from .autograd import Tensor
from .backend import Array, checksum, is_numpy, on_device, to_device
from .data import Batch, Loader, heads_of
from .diagnose import diagnose, not_finite
from .kernels.cuda.graph import as_usual
from .loss_scale import LossScale, in_fp16
from .nn import Module, naming_layers
from .optim import SGD, bias_groups, clip_grad_norm_, poly, warmup
from .parallel import ALONE, Ranks
from .recipes import Recipe, check_rate
from .recorded import Gradients
from .step import LATE, NotFiniteStepError, Step, StepLoss, TrainingError
from .step_parts import (
    by_head,
    by_name,
    classes_of,
    labels_before,
    labels_on,
    shares,
    summed,
    with_less_memory,
)

OnNaN = Literal["stop", "skip"]

MOST_SKIPPED = 10  # steps in a row
INSTEAD = "another sample took the place of one that cannot be read: "
COMPARE = 100  # steps after which all ranks make sure that they have the same weights


class Training:
    """A net, and all that changes while it learns: what is done, and what the next step needs.

    A step takes ``recipe.accumulate`` batches of the loader, one after the other: their gradients
    add up, in the memory of one batch, to that of all their images as one batch. (Dropout draws
    other numbers then.) ``loss(output, labels, reduction=...)`` is computed from what the model
    puts out; if it has several heads, from what each puts out, and the losses are added up.

    What a step does follows from the `state` before it and from its number alone: so a training
    that takes over the state of another one goes on as that one would, bit for bit on the CPU.

    Parameters
    ----------
    model
        Is moved to the device, and learns.
    loader
        Makes the batches; batch number s is always the same.
    recipe
        The numbers of the training.
    device
        Where to compute: "cpu", "cuda" or "cuda:N".
    loss
        What is made small; the cross-entropy of pixels, if nothing else is given.
    ranks
        The processes that learn together: each from its share of every batch, so the loader's
        ``shard`` is its. Dropout draws other numbers on each.
    on_nan
        What becomes of a step whose loss or gradient is not finite. ``"stop"``: it is an error that
        names the operation, layer and image. ``"skip"``: weights and momenta stay as they are, and
        the step's ``events`` say so; of 10 such steps in a row the last one is an error. A GPU then
        is waited for in each step.

    Attributes
    ----------
    done
        How many steps were made.
    in_a_row
        How many of the last ones were skipped.
    looking
        A context for each step, made from the model, the optimiser and the step's number: see
        `minifcn.watch.Watch.looking`.
    whole
        Whether the `state` is that after a step; not so where an update was broken off.

    Examples
    --------
    >>> from minifcn import data, models
    >>> loader, recipe = data.Loader(data.shapes("train"), 2), Recipe(steps=3, lr=0.01)
    >>> training = Training(models.fcn32s(4, "small"), loader, recipe)
    >>> first = next(training.steps())
    >>> other = Training(models.fcn32s(4, "small"), loader, recipe)
    >>> other.load_state(training.state())
    >>> [step.step for step in other.steps()]
    [2, 3]
    """

    def __init__(
        self,
        model: Module,
        loader: Loader,
        recipe: Recipe,
        device: str = "cpu",
        loss: Callable[..., Tensor] = F.cross_entropy,
        ranks: Ranks = ALONE,
        on_nan: OnNaN = "stop",
    ) -> None:
        self.model, self.loader, self.recipe = model.to(device).train(), loader, recipe
        self.layers = list(self.model.named_modules())  # once: to look for them is slow
        self.device, self.loss, self.ranks = device, loss, ranks
        self.done, self.whole, self.in_a_row = 0, True, 0
        self.on_nan = on_nan
        self.looking: Callable[..., AbstractContextManager[object]] = lambda *about: nullcontext()
        decay = recipe.weight_decay
        groups = bias_groups(model, recipe.lr, decay, recipe.bias_lr, recipe.bias_decay)
        self.optimizer = SGD(groups, recipe.lr, recipe.momentum, decay, caffe=recipe.caffe)
        self.schedule = warmup(poly(recipe.steps, recipe.power), recipe.warmup)
        self.scale = LossScale(next(iter(model.parameters())).data)
        self.ignored, self.heads = loader.dataset.ignore_index, list(heads_of(loader.dataset))
        self.classes: dict[str, int] = {}  # that each head of the net tells apart, once it is seen
        self.replayed = Gradients(model, self._replayable, [self.scale.factor])

    def steps(self) -> Generator[Step, None, None]:
        """Yield a `Step` after each step, from where the training stands to the recipe's end.

        A GPU is not waited for: the loss of a step is read when it is asked for, and with those of
        up to 20 steps in any case; with ``on_nan="skip"``, at once.

        Raises
        ------
        RecipeError
            If the rate is for another kind of loss; see `minifcn.recipes.check_rate`.
        NotFiniteStepError
            If a loss or gradient is not finite; with ``on_nan="skip"``, of 10 steps in a row.
        TrainingError
            If the model lacks a head.
        OutOfMemoryError
            If a batch is too large for the device.
        """
        recipe, unread = self.recipe, list[StepLoss]()
        first = self.done * recipe.accumulate
        with closing(self.replayed), closing(self.loader.steps(first)) as batches:
            while self.done < recipe.steps:
                asked = time.perf_counter()
                parts = list(islice(batches, recipe.accumulate))
                start = time.perf_counter()
                with self.looking(self.model, self.optimizer, self.done + 1):
                    told = self.step(parts)
                unread.append(told)
                if len(unread) == LATE or self.done == recipe.steps:
                    self._read(unread)
                    unread = []
                rate = self.optimizer.param_groups[0]["lr"]
                seconds = time.perf_counter() - start
                skipped = [bad for part in parts for bad in part.skipped]
                if self.loader.skips and self.ranks.number > 1:
                    skipped = [bad for found in self.ranks.gather(skipped) for bad in found]
                    self.loader.bad.add(skipped)  # each rank counts those of all
                events = [INSTEAD + bad.why for bad in skipped]
                events += [told.skipped] if told.skipped else []
                images = self.ranks.number * sum(len(part.images) for part in parts)
                end, wait = recipe.steps, start - asked
                yield Step(self.done, end, told, rate, seconds, tuple(events), images, wait)

    def step(self, parts: Sequence[Batch]) -> StepLoss:
        """Learn from the batches of one step; if that fails, all is as it was before."""
        if self.done == 0:
            check_rate(self.recipe, parts[0].labels[0].size // len(self.heads))
        self.optimizer.scale_lr(self.schedule(self.done))
        self.optimizer.zero_grad()
        if self.ranks.number > 1:
            self._draw_anew()
        drawn = {name: rng.bit_generator.state for name, rng in self._generators()}
        try:
            advice = with_less_memory(self.recipe)
            with on_device(self.scale.factor), naming_layers(self.model, advice):
                told = self._add_gradients(parts)
            self._ready(told, parts)
        except BaseException as error:
            self._set_generators(drawn)
            if not isinstance(error, NotFiniteStepError):
                raise
            return self._skip(error, parts)
        self.in_a_row = 0
        self._update()
        if self.ranks.number > 1 and (self.done % COMPARE == 0 or self.done == self.recipe.steps):
            weights = hash(tuple(checksum(p.data) for p in self.model.parameters()))
            self.ranks.check_alike(f"the sum of the weights' bits after step {self.done}", weights)
        return told

    def _read(self, unread: Sequence[StepLoss]) -> None:
        """Look at losses that a GPU has computed; if one is not finite, the weights are spoilt."""
        try:
            for each in unread:
                each.read()
        except NotFiniteStepError:
            self.whole = False
            raise
        if in_fp16():
            self.scale.check(self.done, self.recipe.lr)

    def _ready(self, told: StepLoss, parts: Sequence[Batch]) -> None:
        """Make the gradients such as the update takes them; raise if they would spoil the weights.

        To look at all gradients takes a tenth of a step of VGG16: so that is done only where steps
        are to be skipped, or the norm, which is known for little, is not finite. In fp16 the factor
        of the loss takes care of them.
        """
        if self.on_nan == "skip":
            told.read()
        if in_fp16():
            self.scale.unscale_(self.model.parameters())
        norm: Any = 0.0
        if self.recipe.max_norm is not None:
            norm = clip_grad_norm_(self.model.parameters(), self.recipe.max_norm)
        if self.on_nan == "skip" or (isinstance(norm, float) and not math.isfinite(norm)):
            named = self.model.named_parameters()
            gradients = {name: p.grad.data for name, p in named if p.grad is not None}
            if (name := not_finite(gradients)) is not None:
                what = f"the gradient of {name} is not finite"
                images = [image for part in parts for image in part.names]
                raise NotFiniteStepError(what, told.step, images, self.recipe.lr)

    def _skip(self, error: NotFiniteStepError, parts: Sequence[Batch]) -> StepLoss:
        """Pass over a step that is not finite, as if its gradients were 0; or say what it was."""
        self.in_a_row += 1
        if self.on_nan == "stop" or self.in_a_row == MOST_SKIPPED:
            ranks, self.ranks = self.ranks, ALONE  # each rank looks at its own images
            try:
                with as_usual():
                    cause = diagnose(self.model, self._add_gradients, parts)
            finally:
                self.ranks = ranks
            self.whole = cause.where != "weights"
            raise error.explained(cause.text, cause.where == "images", self.in_a_row) from None
        self.optimizer.zero_grad()
        told = StepLoss(error.step, error.lr)
        told.skip(f"the step was skipped: {error.what} (images {', '.join(error.images)})")
        self.done += 1
        return told

    def _add_gradients(self, parts: Sequence[Batch]) -> StepLoss:
        """Add the gradients of each part's loss; return the loss of all."""
        recipe, heads = self.recipe, self.heads
        truths = [by_head(part.labels, heads) for part in parts]
        labelled = {h: [int((t[h] != self.ignored).sum()) for t in truths] for h in heads}
        images = [len(part.images) for part in parts]
        *pixels, count = self.ranks.sum(np.array([*map(sum, labelled.values()), sum(images)]))
        whole = {head: max(1, int(of_all)) for head, of_all in zip(heads, pixels, strict=True)}
        factors = {h: shares(recipe, labelled[h], images, whole[h], int(count)) for h in heads}
        told = StepLoss(self.done + 1, recipe.lr)
        for number, (part, truth) in enumerate(zip(parts, truths, strict=True)):
            each = [factors[head][number] for head in heads]
            if self._repeats(each):
                arrays = labels_before(self.device, truth, self.classes, self.ignored)
                found = self.replayed(to_device(part.images, self.device), *arrays)
                errors = [error.copy() for error in found]  # the next step writes there again
            else:
                errors = self._losses(part.images, truth, each, number == len(parts) - 1)
            for error, (head, labels) in zip(errors, truth.items(), strict=True):
                factor = summed(recipe.reduction, len(labels), labelled[head][number])
                self._tell(told, error, factor, whole[head], part.names)
        return told

    def _losses(
        self, images: Array, truth: Mapping[str, Array], factors: Sequence[float], last: bool
    ) -> list[Array]:
        """Add the gradients of a part's losses, times factors; return the loss of each head."""
        total, errors = self._total(images, truth, factors)
        self.ranks.backward(total, self.model.parameters(), last=last)
        return errors

    def _total(
        self, images: Array, truth: Mapping[str, Array], factors: Sequence[float]
    ) -> tuple[Tensor, list[Array]]:
        """Return the losses' sum, and each; nobody holds the scores any more then."""
        output = by_name(self.model(Tensor(images).to(self.device)), self.heads)
        errors = []
        for head, labels in truth.items():
            self.classes[head] = classes_of(output[head])
            target = labels_on(self.device, labels, self.classes[head], self.ignored)
            errors.append(self.loss(output[head], target, reduction=self.recipe.reduction))
        parts = [error * factor for error, factor in zip(errors, factors, strict=True)]
        total = sum(parts[1:], parts[0])
        total = self.scale.scaled(total) if in_fp16() else total
        return total, [error.data for error in errors]

    def _repeats(self, factors: Sequence[float]) -> bool:
        """Tell whether a step asks a GPU for the same as another would, but for numbers in memory.

        Then it can be replayed: see `minifcn.recorded`. The first step never is.
        """
        alone = self.ranks.number == 1 and self.recipe.accumulate == 1
        return self.device != "cpu" and alone and bool(self.classes) and set(factors) == {1.0}

    def _replayable(self, images: Array, *labels: Array) -> list[Array]:
        """Compute the losses of a step, and its gradients, from arrays on the GPU."""
        truth = dict(zip(self.heads, labels, strict=True))
        return self._losses(images, truth, [1.0] * len(labels), last=True)

    def _tell(
        self, told: StepLoss, loss: Array, factor: float, whole: int, images: Sequence[str]
    ) -> None:
        """Add a loss to those of the step: that of all ranks, so that all go on, or none does."""
        if self.ranks.number > 1:
            ours = loss.astype(np.float64) * (factor / whole)
            loss, factor, whole = self.ranks.sum(ours), 1, 1
            if is_numpy(loss) and not np.isfinite(loss):
                bad = [] if np.isfinite(ours) else list(images)
                images = [name for names in self.ranks.gather(bad) for name in names]
        told.add(loss, factor, whole, images)

    def _update(self) -> None:
        """Change the weights by the gradients."""
        self.whole = False
        self.optimizer.step(self.scale.finite if in_fp16() else None)
        self.done += 1
        self.whole = True

    def state(self) -> dict[str, Any]:
        """Return all that the next steps depend on, beside the recipe and the data.

        Returns
        -------
        dict
            ``"done"``; ``"model"`` and ``"momenta"``: arrays by the parameters' names, the
            training's own and not copies; ``"scale"``: the factor of the loss in fp16, and how many
            steps it was good for; ``"generators"``: the state of each random generator by the
            layer's name; ``"in_a_row"``: how many steps were skipped last.
        """
        momenta = self.optimizer.momenta
        named = dict(self.model.named_parameters())
        return {
            "done": self.done,
            "in_a_row": self.in_a_row,
            "model": self.model.state_dict(),
            "momenta": {name: momenta[p] for name, p in named.items() if p in momenta},
            "scale": [self.scale.factor.item(), self.scale.good.item()],
            "generators": {name: rng.bit_generator.state for name, rng in self._generators()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a `state`: from here on all is as in the training that it is of.

        Values are copied into the arrays that are there: how these lie in memory decides in which
        order products are added up, and so the last bits.

        Raises
        ------
        TrainingError
            If the state is of another net.
        StateError
            The same, of its parameters.
        """
        named = dict(self.model.named_parameters())
        generators = dict(self._generators())
        unknown = set(state["momenta"]) - set(named)
        if unknown or set(state["generators"]) != set(generators):
            raise TrainingError(
                f"the state is of another net: it has momenta of {', '.join(unknown) or 'all'} and "
                f"random generators of {', '.join(state['generators']) or 'none'}, this net has "
                f"generators of {', '.join(generators) or 'none'}"
            )
        self.model.load_state_dict(state["model"])
        momenta = [state["momenta"].get(named_as) for named_as in self._names_in_groups(named)]
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "momenta": momenta})
        factor, good = state["scale"]
        self.scale.set(factor, good)
        self._set_generators(state["generators"])
        self.done, self.in_a_row = state["done"], state["in_a_row"]

    def _names_in_groups(self, named: Mapping[str, Tensor]) -> Iterator[str]:
        """Yield the names of the parameters in the optimiser's order."""
        names = {parameter: name for name, parameter in named.items()}
        for group in self.optimizer.param_groups:
            yield from (names[parameter] for parameter in group["params"])

    def _generators(self) -> Iterator[tuple[str, np.random.Generator]]:
        """Yield the random generators that layers draw from, by the layers' names."""
        for name, module in self.layers:
            for value in vars(module).values():
                if isinstance(value, np.random.Generator):
                    yield name, value

    def _draw_anew(self) -> None:
        """Let layers draw other numbers on each rank, which follow from the step's number alone."""
        for layer, (_, rng) in enumerate(self._generators()):
            seed = np.random.SeedSequence([self.loader.seed, self.done, self.ranks.rank, layer])
            rng.bit_generator.state = type(rng.bit_generator)(seed).state

    def _set_generators(self, states: Mapping[str, Any]) -> None:
        for name, rng in self._generators():
            rng.bit_generator.state = states[name]


def fit(
    model: Module,
    loader: Loader,
    recipe: Recipe,
    device: str = "cpu",
    loss: Callable[..., Tensor] = F.cross_entropy,
    ranks: Ranks = ALONE,
    on_nan: OnNaN = "stop",
) -> Iterator[Step]:
    """Train a model, one step each time the next `Step` is asked for: see `Training`.

    Raises
    ------
    RecipeError, TrainingError, OutOfMemoryError
        As `Training.steps`.
    """
    yield from Training(model, loader, recipe, device, loss, ranks, on_nan).steps()
