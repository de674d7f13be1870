"""Stochastic gradient descent with momentum, and how its rate changes over a run.

The gradient g of the loss in a weight w points uphill, so w moves against it. Momentum h remembers
the direction of the last steps: noise cancels out, and steady directions add up to 1 / (1 - m)
times the rate. Weight decay λ pulls each weight towards zero, as a term λ/2·w² of the loss would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from .autograd import Tensor
from .backend import Array, Error, check_one_kind, gpu_of, is_array, overwrite, to_device, xp_of
from .kernels import cuda
from .kernels.elementwise import blocks, flat, share_out
from .kernels.threads import workspace
from .nn import Module

Group: TypeAlias = dict[str, Any]  # "params", and the settings that they share
Piece: TypeAlias = tuple[Group, Array, Array, Array | None]  # its group, w, gradient, momentum
Schedule: TypeAlias = Callable[[int], float]  # step number -> factor on the starting rate

SETTINGS = ("lr", "momentum", "weight_decay")
CHUNK = 131072  # numbers updated at a time: what one thread's cache holds of w, g and h


class OptimError(Error, ValueError):
    """Settings or parameters that an optimiser cannot work with."""


class SGD:
    """Stochastic gradient descent: PyTorch's update, or Caffe's.

    With the rate lr, momentum m and weight decay λ, each `step` computes for every weight w

        g ← grad + λ w                  (the gradient, with decay)
        h ← m h + g                     (the momentum; zero before the first step)
        w ← w - lr h                    (with ``nesterov``: w - lr (g + m h))

    and with ``caffe=True`` the rate goes into the momentum: ``h ← m h + lr g``, ``w ← w - h``.
    While lr is constant, Caffe's h is lr times the other, and the weights are the same. They differ
    only after the rate changes: the new rate then applies to all of h above, while Caffe's h keeps
    each past gradient at the rate of its own time.

    Parameters
    ----------
    params
        Parameters, or a list of groups: dictionaries with ``"params"`` and, where they differ from
        the other arguments, ``"lr"``, ``"momentum"`` and ``"weight_decay"``.
    lr
        The learning rate.
    momentum
        At least 0 and less than 1; Nesterov's form needs more than 0.
    weight_decay
        The factor λ. It belongs to the scale of the loss, like the rate.
    nesterov, caffe
        Which form of the update.

    Raises
    ------
    OptimError
        For no parameters, one given twice, or a setting that is negative or not finite.

    Examples
    --------
    >>> w = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    >>> optimizer = SGD([w], lr=0.1, momentum=0.9)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.numpy().tolist()
    [0.8, 1.6]
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        caffe: bool = False,
    ) -> None:
        given = list(params) if isinstance(params, Iterable) else [params]
        grouped = bool(given) and all(isinstance(g, dict) for g in given)
        groups: list[Any] = given if grouped else [{"params": given}]
        usual = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        self.nesterov, self.caffe = nesterov, caffe
        self.param_groups: list[Group] = [_checked_group(g, usual, nesterov) for g in groups]
        self.momenta: dict[Tensor, Array] = {}
        self._on_gpus = cuda.sgd.Descents()
        seen: set[Tensor] = set()
        for where, parameter in self._parameters():
            if parameter in seen:
                raise OptimError(f"{where} was given before: it would be updated twice a step")
            seen.add(parameter)

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (description for messages, parameter), group by group."""
        for number, group in enumerate(self.param_groups):
            for position, parameter in enumerate(group["params"]):
                yield f"parameter {position} of group {number}, {parameter.shape}", parameter

    def zero_grad(self) -> None:
        """Forget all gradients (``grad = None``)."""
        for _, parameter in self._parameters():
            parameter.grad = None

    def scale_lr(self, factor: float) -> None:
        """Set each group's ``"lr"`` to ``factor`` times the rate it started with.

        >>> optimizer = SGD([Tensor([0.0], requires_grad=True)], lr=0.5)
        >>> optimizer.scale_lr(poly(max_steps=100)(75))
        >>> optimizer.param_groups[0]["lr"]
        0.125
        """
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self, only_if: Array | None = None) -> None:
        """Update every parameter that has a gradient and requires one, in place.

        ``only_if`` is one int32 where they are: if it is 0, neither weights nor momenta change. A
        GPU looks itself, and nobody waits (see `minifcn.loss_scale`).

        On the CPU, chunk by chunk: no second copy of a large weight is made. On a GPU, all at once.
        """
        tasks: list[list[Piece]] = []  # of about CHUNK numbers each
        there: list[Any] = []  # on GPUs
        room = total = 0
        for number, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                if parameter.grad is None or not parameter.requires_grad:
                    continue
                h = self._momentum(parameter, group)
                if cuda.sgd.fits(parameter.data, h):
                    there.append(cuda.sgd.weights(parameter.data, parameter.grad.data, h, number))
                    continue
                check_one_kind("SGD.step", {"weight": parameter.data, "grad": parameter.grad.data})
                for arrays in _chunks(parameter.data, parameter.grad.data, h):
                    size = arrays[0].size
                    if not tasks or size > room:
                        tasks.append([])
                        room = CHUNK
                    tasks[-1].append((group, *arrays))
                    room -= size
                    total += size

        def work(i: int) -> None:
            for piece in tasks[i]:
                with check_one_kind("SGD.step", {"w": piece[1]}):
                    self._update(*piece)

        # Asked of a GPU, this waits: but only for weights that its kernels do not take.
        if tasks and (only_if is None or only_if.item()):
            share_out(len(tasks), work, tasks[0][0][1], 5 * total)
        settings = [tuple(float(group[name]) for name in SETTINGS) for group in self.param_groups]
        self._on_gpus.step(there, settings, self.nesterov, self.caffe, only_if)

    def _momentum(self, parameter: Tensor, group: Group) -> Array | None:
        """Return the parameter's momentum, on its device and of its type; None without momentum."""
        if not group["momentum"]:
            return None
        w, h = parameter.data, self.momenta.get(parameter)
        if h is not None and h.dtype == w.dtype and gpu_of(h) == gpu_of(w):
            return h
        with check_one_kind("the momentum of SGD", {"w": w}):
            h = xp_of(w).zeros_like(w) if h is None else to_device(h, parameter.device)
        self.momenta[parameter] = h.astype(w.dtype, copy=False)
        return self.momenta[parameter]

    def _update(self, group: Group, w: Array, grad: Array, h: Array | None) -> None:
        """Apply the class's formula to a block of weights, changing w and h."""
        lr, m, decay = (float(group[name]) for name in SETTINGS)
        xp, room = xp_of(w), workspace("update", w.shape, w)
        g = grad
        if decay:
            g = xp.multiply(w, decay, out=room)
            g += grad
        if self.caffe:
            g = xp.multiply(g, lr, out=room)
        if h is not None:
            h *= m
            h += g
            if self.nesterov:
                ahead = xp.multiply(h, m, out=workspace("ahead", w.shape, w))
                ahead += g
            g = ahead if self.nesterov else h
        w -= g if self.caffe else xp.multiply(g, lr, out=room)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs: settings by group, and the momenta.

        Returns
        -------
        dict
            ``"groups"``: a dictionary of numbers per group. ``"momenta"``: per parameter, in order,
            the array itself (not a copy), or None before its first step. ``"nesterov"``,
            ``"caffe"``.
        """
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        momenta = [self.momenta.get(parameter) for _, parameter in self._parameters()]
        form = {"nesterov": self.nesterov, "caffe": self.caffe}
        return {"groups": groups, "momenta": momenta, **form}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over settings and momenta (copies) from `state_dict`: all of them, or none.

        Raises
        ------
        OptimError
            If the state is of another form of SGD, or of other groups or parameters.
        """
        if missing := {"groups", "momenta", "nesterov", "caffe"} - set(state):
            raise OptimError(f"this is not a state of SGD: it lacks {', '.join(sorted(missing))}")
        for form in ("nesterov", "caffe"):
            if state[form] != getattr(self, form):
                raise OptimError(
                    f"the state was saved with {form}={state[form]}, this SGD has "
                    f"{form}={getattr(self, form)}: its momenta mean something else"
                )
        own = list(self._parameters())
        for name, mine, saved in (
            ("groups", len(self.param_groups), len(state["groups"])),
            ("parameters", len(own), len(state["momenta"])),
        ):
            if mine != saved:
                raise OptimError(f"the state has {saved} {name}, this SGD has {mine}")
        groups = [
            _checked_group({**saved, "params": group["params"]}, group, self.nesterov)
            for saved, group in zip(state["groups"], self.param_groups, strict=True)
        ]
        momenta = {}
        for (where, parameter), h in zip(own, state["momenta"], strict=True):
            if h is None:
                continue
            if not is_array(h) or (h.shape, h.dtype) != (parameter.shape, parameter.dtype):
                given = f"{h.shape} {h.dtype}" if is_array(h) else repr(h)
                raise OptimError(f"{where} {parameter.dtype}: its momentum in the state is {given}")
            with check_one_kind("the momentum of SGD", {"w": parameter.data}):
                momenta[parameter] = xp_of(parameter.data).empty_like(parameter.data)
            overwrite(momenta[parameter], h)
        self.param_groups, self.momenta = groups, momenta


def _checked_group(group: Group, usual: Mapping[str, Any], nesterov: bool) -> Group:
    """Return a group with all settings filled in, or say what is wrong with it."""
    params = group.get("params", ())
    params = [params] if isinstance(params, Tensor) else list(params)
    if unknown := set(group) - {"params", "initial_lr", *SETTINGS}:
        known = ", ".join(("params", *SETTINGS))
        raise OptimError(f"a parameter group has no {', '.join(sorted(unknown))!r}: use {known}")
    if not params:
        raise OptimError("there are no parameters to optimise: did the model give an empty list?")
    for parameter in params:
        if not isinstance(parameter, Tensor) or parameter.node or parameter.dtype.kind != "f":
            raise OptimError(
                "an optimiser takes floating-point Parameters, such as model.parameters(); "
                f"it was given a {type(parameter).__name__}"
                + (", the result of an operation" if getattr(parameter, "node", None) else "")
            )
    checked = {"params": params} | {name: group.get(name, usual[name]) for name in SETTINGS}
    checked["initial_lr"] = group.get("initial_lr", checked["lr"])
    for name, value in checked.items():
        if name != "params":
            _check_number(name, value, below=1 if name == "momentum" else math.inf)
    if nesterov and not checked["momentum"]:
        raise OptimError("nesterov=True needs a momentum above 0")
    return checked


def _check_number(name: str, value: Any, below: float = math.inf) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 <= value < below:
        limit = "finite" if below == math.inf else f"below {below}"
        raise OptimError(f"{name}={value!r} must be a number of at least 0, and {limit}")


def _chunks(w: Array, g: Array, h: Array | None) -> Iterator[tuple[Array, Array, Array | None]]:
    """Cut a weight, its gradient and its momentum into chunks of about CHUNK numbers."""
    if gpu_of(w) >= 0:
        yield w, g, h
        return
    arrays = [w, g] if h is None else [w, g, h]
    # One long row each, however the axes lie in memory, as long as they lie in the same way.
    arrays = flat(*arrays) or arrays
    for i in blocks(arrays[0].shape, CHUNK):
        yield arrays[0][i], arrays[1][i], None if h is None else arrays[2][i]


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Any:
    """Scale all gradients down, in place, so that their common norm is at most ``max_norm``.

    The norm is that of all gradients seen as one long vector, sqrt(sum of g²); its direction stays.
    One step from an unlucky batch then cannot throw a net far off (Pascanu et al. 2013). The paper
    does without: its nets start from trained weights, at far smaller rates.

    Returns
    -------
    float
        The norm before; infinite or NaN if a gradient is. Then nothing is changed. On a GPU it is
        an array of that number, as nobody waits for it: ``float(...)`` of it does.

    Raises
    ------
    OptimError
        If ``max_norm`` is not a number above 0.

    Examples
    --------
    >>> w = Tensor(np.zeros(2), requires_grad=True)
    >>> w.grad = Tensor(np.array([3.0, 4.0]))
    >>> clip_grad_norm_([w], max_norm=1.0), w.grad.numpy().round(6).tolist()
    (5.0, [0.6, 0.8])
    """
    _check_number("max_norm", max_norm)
    if max_norm == 0:
        raise OptimError("max_norm=0 would set all gradients to zero: give a number above 0")
    gradients = [parameter.grad.data for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    xp, on_cpu = xp_of(gradients[0]), gpu_of(gradients[0]) < 0
    with check_one_kind("clip_grad_norm_", {"a gradient": gradients[0]}):
        if not on_cpu and cuda.sgd.all_fit(gradients):
            return cuda.sgd.clip(gradients, max_norm)
        squares = [(g * g).sum(dtype=np.float64) for g in gradients]
        norm = xp.sqrt(sum(squares) if on_cpu else xp.stack(squares).sum())
        # A GPU is not asked whether the norm is too large: it multiplies by 1 if not.
        too_large = xp.isfinite(norm) & (norm > max_norm)
        factor = xp.where(too_large, max_norm / (norm + 1e-6), 1)  # PyTorch's form
        factors = {dtype: factor.astype(dtype) for dtype in {g.dtype for g in gradients}}
        for g in gradients if not on_cpu or too_large else ():
            g *= factors[g.dtype]
    return float(norm) if on_cpu else norm


def bias_groups(
    model: Module, lr: float, weight_decay: float, bias_lr: float = 2.0, bias_decay: float = 0.0
) -> list[Group]:
    """Return groups for `SGD`: the weights, and the biases with their share of rate and decay.

    Twice the rate and no decay for biases are the published FCNs' settings (Caffe's ``lr_mult: 2``,
    ``decay_mult: 0``; FCN-AlexNet's are 1 and 1). A parameter is a bias if its name ends in "bias";
    a group that would be empty is left out.

    >>> from minifcn import nn
    >>> groups = bias_groups(nn.Sequential(fc=nn.Linear(4, 2)), lr=0.1, weight_decay=5e-4)
    >>> [(group["lr"], group["weight_decay"]) for group in groups]
    [(0.1, 0.0005), (0.2, 0.0)]
    """
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (biases if name.rpartition(".")[2] == "bias" else weights).append(parameter)
    groups = [
        {"params": weights, "lr": lr, "weight_decay": weight_decay},
        {"params": biases, "lr": bias_lr * lr, "weight_decay": bias_decay * weight_decay},
    ]
    return [group for group in groups if group["params"]]


def fixed() -> Schedule:
    """Return the schedule of a rate that never changes: the factor 1.

    A schedule maps a step number (0, 1, ...) to a factor on the starting rate and remembers
    nothing, so a resumed run goes on exactly: ``optimizer.scale_lr(schedule(step))``.

    >>> fixed()(1000)
    1.0
    """
    return lambda step: 1.0


def step(step_size: int, gamma: float = 0.1) -> Schedule:
    """Return the schedule γ^⌊step / step_size⌋: the rate drops every ``step_size`` steps.

    >>> schedule = step(step_size=100, gamma=0.5)
    >>> [schedule(0), schedule(99), schedule(100), schedule(200)]
    [1.0, 1.0, 0.5, 0.25]
    """
    _check_steps("step_size", step_size)
    _check_number("gamma", gamma)
    return lambda step: float(gamma ** (step // step_size))


def poly(max_steps: int, power: float = 1.0) -> Schedule:
    """Return the schedule (1 - step / max_steps)^power, which reaches 0 at ``max_steps``.

    >>> schedule = poly(max_steps=100, power=2)
    >>> [schedule(0), schedule(50), schedule(100)]
    [1.0, 0.25, 0.0]
    """
    _check_steps("max_steps", max_steps)
    _check_number("power", power)
    return lambda step: float(max(0.0, 1 - step / max_steps) ** power)


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """Return a schedule that climbs in a straight line to ``schedule`` over the first ``steps``.

    Its factor is (step + 1) / steps of the schedule's, then all of it. Large gradients of a fresh
    net cannot throw the weights off that way.

    >>> schedule = warmup(fixed(), steps=4)
    >>> [schedule(i) for i in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    _check_steps("steps", steps)
    return lambda step: min(1.0, (step + 1) / steps) * schedule(step)


def _check_steps(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise OptimError(f"{name}={value!r} must be a whole number of at least 1")
