"""Parameters, and the modules that own them.

A `Module` is an ordinary Python object. Its parameters and its sub-modules are whatever attributes
hold a `Parameter` or a `Module`, in the order in which they were assigned: `vars(module)` is the
whole registry, so assigning an attribute is all there is to registering it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np

from ..autograd import Tensor, no_grad
from ..backend import (
    NARROWER_NET,
    Array,
    DTypeError,
    Error,
    Operation,
    OperationError,
    is_array,
    overwrite,
    to_device,
)
from ..shown import Shown


class LayerError(Error, ValueError):
    """A layer or module that was put together wrongly."""


class StateError(Error, ValueError):
    """Saved values that do not fit the module they are loaded into."""


class Parameter(Tensor):
    """A tensor that a module owns and an optimiser changes: it requires a gradient.

    ``requires_grad=False`` freezes it. The array is kept, not copied.

    >>> Parameter(np.ones(3)).requires_grad
    True
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)


class Unmatched(NamedTuple):
    """What ``load_state_dict(..., strict=False)`` left out: names on one side only."""

    missing: list[str]
    unexpected: list[str]


class Module(Shown):
    """A piece of a network: parameters, sub-modules, and a ``forward`` that computes with them.

    Subclasses assign parameters and modules as attributes in ``__init__`` and define ``forward``.
    One object under two names is one parameter (shared weights); it is listed under the first.

    Raises
    ------
    LayerError
        When the parameters are listed, if a list, tuple or dictionary attribute holds a module or
        a parameter that no attribute holds: training would pass it by. Use a `Sequential`.

    Examples
    --------
    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factor = Parameter(np.full(1, 3.0))
    ...
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> scale = Scale()
    >>> scale(Tensor(np.array([2.0]))).item()
    6.0
    >>> [name for name, _ in scale.named_parameters()]
    ['factor']
    """

    training = True  # train() and eval() set it on the instance

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every subclass defines its own."""
        raise LayerError(f"{type(self).__name__} does not define forward(): it cannot be called")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call ``forward``."""
        return self.forward(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (attribute, module) of the modules directly in this one, in order of assignment."""
        return ((name, m) for name, m in vars(self).items() if isinstance(m, Module))

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Yield this module as ``""``, then all modules below it under dotted names, each once."""
        yield "", self
        yield from ((name, m) for name, m in self._walk("", {id(self)}) if isinstance(m, Module))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter) of all parameters here and below, each once."""
        for name, item in self._walk("", {id(self)}):
            if isinstance(item, Parameter):
                yield name, item

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters in the order of `named_parameters`."""
        return (parameter for _, parameter in self.named_parameters())

    def num_parameters(self) -> int:
        """Return how many numbers all parameters hold; shared ones count once."""
        return sum(parameter.data.size for parameter in self.parameters())

    def _walk(self, path: str, seen: set[int]) -> Iterator[tuple[str, Module | Parameter]]:
        """Yield what is assigned here, and depth-first what is below, unless it was ``seen``."""
        own = {id(value) for value in vars(self).values()}
        for name, value in vars(self).items():
            if isinstance(value, list | tuple | dict):
                items = value.values() if isinstance(value, dict) else value
                if any(isinstance(i, Module | Parameter) and id(i) not in own for i in items):
                    raise LayerError(
                        f"{type(self).__name__}.{name} is a {type(value).__name__} that holds "
                        "modules or parameters, which would be neither trained nor saved: put "
                        "modules in an nn.Sequential and parameters in attributes of their own"
                    )
            if isinstance(value, Module | Parameter) and id(value) not in seen:
                seen.add(id(value))
                yield path + name, value
                if isinstance(value, Module):
                    yield from value._walk(f"{path}{name}.", seen)

    def state_dict(self) -> dict[str, Array]:
        """Return {name: array} of all parameters: the arrays themselves, not copies.

        They change when training goes on: copy them (``copy.deepcopy``) to keep them.
        """
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array], strict: bool = True) -> Unmatched:
        """Copy the values of {name: array} into the parameters: all of them, or none.

        Parameters
        ----------
        state
            Arrays on any device, with the names, shapes and element types of `state_dict`.
        strict
            Whether both sides must have the same names. Shapes and types must always agree.

        Returns
        -------
        Unmatched
            The names that only one side has; both lists are empty if ``strict``.

        Raises
        ------
        StateError
            With the whole difference: missing and unexpected names, wrong shapes, wrong types.
        """
        if not isinstance(state, Mapping):
            raise StateError(f"a state is a mapping of names to arrays, not a {type(state)}")
        own = dict(self.named_parameters())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        shared = [name for name in own if name in state]
        wrong = [line for name in shared for line in _difference(name, own[name], state[name])]
        if wrong or (strict and (missing or unexpected)):
            lines = [f"  missing from the state: {name} {own[name].shape}" for name in missing]
            lines += [f"  not in the module: {n} {_shape(state[n])}" for n in unexpected]
            hint = "" if wrong else "\nstrict=False loads the names that both have"
            raise StateError(
                f"the state does not fit this {type(self).__name__}; nothing was loaded\n"
                + "\n".join(lines + wrong)
                + hint
            )
        for name in shared:
            overwrite(own[name].data, state[name])
        return Unmatched(missing, unexpected)

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` here and below (dropout then drops); return the module."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set everything to evaluation: the same as ``train(False)``."""
        return self.train(False)

    def to(self, target: Any) -> Self:
        """Move all parameters to a device (``"cpu"``, ``"cuda:0"``) or convert them to a type.

        The `Parameter` objects stay the same, so an optimiser that holds them stays valid. Their
        gradients move along. Returns the module.

        Raises
        ------
        DeviceError, DTypeError
            If the device cannot be used, or the type is not a floating-point type.
        """
        is_device = isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda")
        dtype = None if is_device else _floating_dtype(target)
        for name, parameter in self.named_parameters():
            for tensor in (parameter, parameter.grad):
                if tensor is None:
                    continue
                old = tensor.data
                doing = f"{type(self).__name__}.to({target!r})"
                with Operation(doing, {name: old}, advice=NARROWER_NET):
                    if dtype is None:
                        tensor.data = to_device(old, target, name, NARROWER_NET)
                    else:
                        tensor.data = old.astype(dtype, copy=False)
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters (``grad = None``)."""
        for parameter in self.parameters():
            parameter.grad = None

    def requires_grad_(self, flag: bool = True) -> Self:
        """Freeze (``False``) or unfreeze all parameters; return the module.

        A frozen layer still passes the gradient on to the layers before it.
        """
        for parameter in self.parameters():
            parameter.requires_grad = flag
        return self

    def extra_repr(self) -> str:
        """Return what stands between the brackets in the module's repr."""
        return ""

    def __repr__(self) -> str:
        children = [f"{name}: {child!r}" for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = "\n".join([self.extra_repr()] * bool(self.extra_repr()) + children)
        return f"{type(self).__name__}(\n{textwrap.indent(lines, '  ')}\n)"


@contextmanager
def naming_layers(model: Module, advice: str = "") -> Iterator[None]:
    """Add to errors of operations which layer they were about, and, to those of memory, advice.

    >>> from minifcn import nn
    >>> net = nn.Sequential(fc=nn.Linear(2, 2))
    >>> error = OperationError("it failed")
    >>> error.arrays = (net.fc.weight.data,)
    >>> try:
    ...     with naming_layers(net):
    ...         raise error
    ... except OperationError:
    ...     error.__notes__
    ["in layer 'fc'"]
    """
    try:
        yield
    except OperationError as error:
        about = {id(array) for array in error.arrays}
        found = {n: p for n, p in model.named_parameters() if id(p.data) in about}
        # A Sequential names the layer by itself, but only on the way forward.
        if found and not any("in layer" in note for note in getattr(error, "__notes__", ())):
            error.add_note(f"in layer {next(iter(found)).rpartition('.')[0]!r}")
        if advice and isinstance(error, MemoryError):
            error.add_note(advice)
        raise


@contextmanager
def evaluation_mode(model: Module) -> Iterator[None]:
    """Compute without recording and without dropout; then every module is again as it was.

    >>> from minifcn import nn
    >>> layer = nn.Dropout(0.5)
    >>> with evaluation_mode(layer):
    ...     print(layer.training)
    False
    >>> layer.training
    True
    """
    before = [(module, module.training) for _, module in model.named_modules()]
    try:
        with no_grad():
            model.eval()
            yield
    finally:
        for module, training in before:
            module.training = training


def _floating_dtype(target: Any) -> np.dtype:
    """Return the floating-point type that was asked for, or say what may be asked for."""
    try:
        dtype = np.dtype(target)
    except TypeError:
        dtype = None
    if target is None or dtype is None or dtype.kind != "f":
        raise DTypeError(
            f"to({target!r}): give a device ('cpu', 'cuda', 'cuda:N') or a floating-point type "
            "such as np.float32"
        )
    return dtype


def _shape(value: Any) -> tuple[int, ...] | str:
    return value.shape if is_array(value) else type(value).__name__


def _difference(name: str, parameter: Parameter, value: Any) -> Iterator[str]:
    """Yield a line for each thing about a saved value that does not fit its parameter."""
    if not is_array(value):
        yield f"  not an array: {name} is a {type(value).__module__}.{type(value).__name__}"
        return
    if value.shape != parameter.shape:
        yield f"  wrong shape: {name} is {parameter.shape} here, {value.shape} in the state"
    if value.dtype != parameter.dtype:
        yield f"  wrong type: {name} is {parameter.dtype} here, {value.dtype} in the state"
