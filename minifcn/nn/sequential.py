"""Modules one after another, under names."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from typing import Any, Self

from ..backend import Error
from .layers import Conv2d, MaxPool2d, ReLU
from .module import LayerError, Module


def in_turn(
    layers: Mapping[str, Module], x: Any, needed: Container[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Call layers one after another; yield the name of each and what it puts out.

    The results are those of a plain loop. But a chain knows two things that a layer does not:

    - Nobody else reads what a convolution puts out if a ReLU follows: the convolution does the
      ReLU's work while its numbers are in the cache (`functional.conv2d_relu`).
    - A ReLU and the max-pooling behind it can change places: the largest number, if it is above
      zero, is the largest of those above zero. The ReLU then has a quarter of the work on the way
      back, and on the way there the pooling does it (`functional.max_pool2d_relu`).

    Only the second name is yielded for two such layers. Neither is done where the output of the
    first is ``needed`` (the names of layers).

    >>> import numpy as np
    >>> layers = {"relu": ReLU(), "pool": MaxPool2d(2)}
    >>> x = np.array([[[[-1.0, 2], [-3, -4]]]])
    >>> [(name, y.tolist()) for name, y in in_turn(layers, x)]
    [('pool', [[[[2.0]]]])]
    """
    rest = list(layers.items())

    def begins(chain: list[tuple[str, Module]], first: type, second: type) -> bool:
        kinds = [type(layer) for _, layer in chain[:2]]
        return kinds == [first, second] and chain[0][0] not in needed

    while rest:
        call: Callable[[Any], Any]
        (name, layer), count = rest[0], 2
        if begins(rest, ReLU, MaxPool2d):
            name, layer = rest[1]
            call = partial(layer, relu=True)
        elif begins(rest, Conv2d, ReLU) and not begins(rest[1:], ReLU, MaxPool2d):
            call = partial(layer, relu=True)
        else:
            call, count = layer, 1
        try:
            x = call(x)
        except Error as error:
            error.add_note(f"in layer {name!r}: {layer!r}")
            raise
        last, rest = rest[count - 1][0], rest[count:]
        yield last, x


class Sequential(Module):
    """Modules that are called one after another, each on the output of the one before.

    Given in order, their names are "0", "1", ...; given by keyword or in one dictionary, they keep
    their names, which parameter names then begin with. A number, a name or a slice indexes them.

    Raises
    ------
    LayerError
        For something that is not a module, and for a name that cannot be an attribute here.

    Examples
    --------
    >>> from minifcn import nn
    >>> net = Sequential(conv1_1=nn.Conv2d(3, 8, 3), relu1_1=nn.ReLU())
    >>> net
    Sequential(
      conv1_1: Conv2d(3 -> 8, kernel 3, stride 1)
      relu1_1: ReLU()
    )
    >>> [name for name, _ in net.named_parameters()]
    ['conv1_1.weight', 'conv1_1.bias']
    >>> net["conv1_1"] is net[0]
    True
    """

    def __init__(self, *modules: Module | Mapping[str, Module], **named: Module) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named = {**modules[0], **named}
            modules = ()
        for module in modules:
            self.append(module)
        for name, module in named.items():
            self.append(module, name)

    def append(self, module: Any, name: str | None = None) -> Self:
        """Add a module at the end, named by its position unless a name is given; return self."""
        name = str(len(self)) if name is None else name
        if not isinstance(module, Module):
            given = f"the class {module.__name__}" if isinstance(module, type) else repr(module)
            raise LayerError(
                f"Sequential: {name!r} must be a Module, such as nn.ReLU(), not {given}"
            )
        if not isinstance(name, str) or not name or "." in name or hasattr(self, name):
            raise LayerError(
                f"Sequential: {name!r} cannot name a module: names are unique, hold no dot, and "
                "are not those of Sequential's own attributes"
            )
        setattr(self, name, module)
        return self

    def forward(self, x: Any) -> Any:
        """Call the modules in order; an error is given a note that names the layer."""
        for _, output in in_turn(dict(self.named_children()), x):
            x = output
        return x

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def __getitem__(self, key: int | str | slice) -> Any:
        children = dict(self.named_children())
        names = list(children)
        if isinstance(key, slice):
            return Sequential({name: children[name] for name in names[key]})
        if isinstance(key, str) and key in children:
            return children[key]
        if not isinstance(key, str) and -len(names) <= key < len(names):
            return children[names[key]]
        raise LayerError(f"Sequential has no module {key!r}; it has {', '.join(names) or 'none'}")
