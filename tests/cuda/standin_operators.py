"""Operators and most methods of the stand-in's arrays: NumPy does the work (see `call`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from standin_array import (
    FUNCTIONS,
    METHODS,
    WAITING,
    call,
    check_products,
    ndarray,
    refuse_unknown,
)
from standin_device import counts, note


@functools.cache
def ufunc_of(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def ufunc(*args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        args, (out,) = args[: function.nin], args[function.nin :] or (out,)
        for value in (*args, *(() if out is None else (out,))):
            if not isinstance(value, ndarray) and not np.isscalar(value):
                raise TypeError(f"Unsupported type {type(value)}")
        given = {"casting": casting} | ({} if dtype is None else {"dtype": dtype})
        return call(function, args, given | ({} if out is None else {"out": out}))

    return ufunc


def matmul(a: ndarray, b: ndarray, out: ndarray | None = None, **options: Any) -> ndarray:
    """Return the product of matrices, or of stacks of them."""
    refuse_unknown("matmul", FUNCTIONS["matmul"], options)
    for one in (a, b):
        if not isinstance(one, ndarray):
            raise TypeError(f"Unsupported type {type(one)}")
    check_products("matmul")
    # cuBLAS takes a matrix or its transpose, and stacks of matrices as they are: others are copied.
    flat = max(a.ndim, b.ndim) <= 2
    copies = sum(not (one.flags.forc if flat else one.flags.c_contiguous) for one in (a, b))
    copies += out is not None and not out.flags.c_contiguous
    before = counts.launches
    result = call(np.matmul, (a, b), options | ({} if out is None else {"out": out}))
    counts.launches = before + copies * bool(result.size)
    counts.products += bool(result.size)
    return result


def _binary(name: str, swap: bool = False, inplace: bool = False) -> Callable[[ndarray, Any], Any]:
    def method(self: ndarray, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented  # a Tensor, which knows better
        pair = (other, self) if swap else (self, other)
        function = matmul if name == "matmul" else ufunc_of(name)
        return function(*pair, **({"out": self} if inplace else {}))

    return method


def _unary(name: str) -> Callable[[ndarray], Any]:
    return lambda self: ufunc_of(name)(self)


def _by_numpy(name: str) -> Callable[..., Any]:
    def method(self: ndarray, *args: Any, **options: Any) -> Any:
        refuse_unknown(f"ndarray.{name}", METHODS[name], options)
        if name in WAITING:
            note(waits=1)
        check_products(name)
        return call(lambda array, *a, **o: getattr(array, name)(*a, **o), (self, *args), options)

    return method


for _name, _ufunc in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide",
    "floordiv": "floor_divide", "mod": "remainder", "pow": "power", "matmul": "matmul",
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _binary(_ufunc))
    setattr(ndarray, f"__r{_name}__", _binary(_ufunc, swap=True))
    if _name != "matmul":  # CuPy has no @=
        setattr(ndarray, f"__i{_name}__", _binary(_ufunc, inplace=True))
for _name, _ufunc in {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
    "ge": "greater_equal",
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _binary(_ufunc))
for _name, _ufunc in {
    "neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _unary(_ufunc))
for _name in METHODS:
    if hasattr(np.ndarray, _name) and not hasattr(ndarray, _name):
        setattr(ndarray, _name, _by_numpy(_name))
