"""Modules one after another, under names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from ..backend import Error
from .module import LayerError, Module


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
        for name, module in self.named_children():
            try:
                x = module(x)
            except Error as error:
                error.add_note(f"in layer {name!r}: {module!r}")
                raise
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
