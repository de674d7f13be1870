"""PyTorch's pickles, read without running them.

A pickle is a program for a machine with a stack: put a number, put a text, make a tuple of the
upper two, call the function of that name with this tuple. With Python's own pickle module the
named function can be any, so a file can do all that its reader may do. This machine knows no
functions at all. It knows the names in `CALLS`, and for each how to write down what was asked for;
any other name is an error. So nothing but texts, numbers, lists, dicts and notes such as "a
tensor of this shape, from that storage" can come out.
"""

from __future__ import annotations

import pickletools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..header import WeightsError
from .mapped import LONGEST_NAME, MOST_AXES, shown

MOST_STEPS = 300_000  # of one pickle; 500 tensors and their Adam optimizer take 67,000


class Name(NamedTuple):
    """The name of a function or class, which is known but never called."""

    text: str


class StorageNote(NamedTuple):
    """A row of numbers elsewhere in the file, of which tensors are views.

    Attributes
    ----------
    kind
        PyTorch's name of the type, such as ``"FloatStorage"``.
    key
        Its name in the file.
    length
        How many numbers it has.
    start
        Which of them is the first that counts: 0, but in views of the oldest files.
    """

    kind: str
    key: str
    length: int
    start: int


class TensorNote(NamedTuple):
    """A tensor: a storage, the place of its first number, its sizes and its strides in numbers."""

    storage: StorageNote
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Unpickled(NamedTuple):
    """What a pickle describes, and the storages that it speaks of, by their keys."""

    content: Any
    storages: dict[str, StorageNote]


class DtypeNote:
    """A NumPy element type; its byte order comes in a later step of the pickle."""

    def __init__(self, code: str) -> None:
        self.code = code


STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # NumPy has no such type: the bits
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
"""PyTorch's storages of plain numbers, and NumPy's names of their elements."""

CALLS = {
    "collections.OrderedDict",
    "builtins.set",
    "torch._utils._rebuild_tensor",  # before PyTorch 0.4
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    # A NumPy number, as a mean that was computed with NumPy is.
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",
}
OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
NUMBER = re.compile("[fiu][1248]|b1")  # NumPy's codes

WHOLE_MODEL = (
    "if you trust the file, load it with PyTorch and save only the parameters: "
    "torch.save(model.state_dict(), file)"
)
ADVICE = {
    "_rebuild_q": "these are quantised, so dequantize() them in PyTorch and save them again",
    "QInt": "these are quantised, so dequantize() them in PyTorch and save them again",
    "sparse": "these are sparse, so use to_dense() in PyTorch and save them again",
    "Complex": "complex numbers are no weights of a net here",
    "_rebuild_tensor_v3": "numbers of a type that NumPy lacks: convert them with .float()",
}


def unpickle(stream: Any, path: Path) -> Unpickled:
    r"""Return what a pickle describes.

    Parameters
    ----------
    stream
        What it is read from: an open file, a BytesIO or a mapping. It is left behind the pickle.
    path
        The file, for messages.

    Raises
    ------
    WeightsError
        If the pickle is damaged, or asks for anything but tensors, texts and numbers.

    Examples
    --------
    >>> import io
    >>> unpickle(io.BytesIO(b"\x80\x02}X\x05\x00\x00\x00epochK\x07s."), Path("a")).content
    {'epoch': 7}
    >>> unpickle(io.BytesIO(b"\x80\x02cposix\nsystem\n."), Path("a"))
    Traceback (most recent call last):
    ...
    minifcn.weights.header.WeightsError: a: its pickle asks for posix.system, ...
    """
    machine = _Machine(path)
    return Unpickled(machine.run(stream), machine.storages)


class _Machine:
    """The stack, the things that later steps refer to by number, and the file for messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = 0  # of the present step
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageNote] = {}

    def run(self, stream: Any) -> Any:
        """Follow the pickle's steps to its end."""
        try:
            for _ in range(MOST_STEPS):
                self.place = stream.tell()
                opcode = OPCODES[stream.read(1)]
                if opcode.name == "STOP":
                    return self.stack.pop()
                self.step(opcode.name, self.argument(opcode, stream))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            # The stack or the memo lacks what a step needs, or the bytes are not those of a step.
            if isinstance(error, WeightsError):
                raise
            raise self.error(f"is damaged or cut short at byte {self.place}: {error}") from error
        raise self.error(f"has more than {MOST_STEPS} steps, which no net's has")

    def argument(self, opcode: pickletools.OpcodeInfo, stream: Any) -> Any:
        """Read what belongs to a step."""
        if opcode.name == "GLOBAL":
            lines = [stream.readline(), stream.readline()]
            if not all(line.endswith(b"\n") for line in lines):
                raise ValueError("a name that does not end")
            return [line[:-1].decode("utf-8") for line in lines]
        if opcode.arg is None:
            return None
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:  # of the oldest protocol, in many notations
            raise self.unknown(opcode.name)
        return opcode.arg.reader(stream)

    def error(self, problem: str) -> WeightsError:
        return WeightsError(f"{self.path}: its pickle {problem}")

    def unknown(self, name: str) -> WeightsError:
        return self.error(f"has a step {name}, which no state dict needs")

    def step(self, name: str, argument: Any) -> None:
        """Do one step: put something on the stack, or make one thing of the uppermost."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING"
                | "BINBYTES" | "SHORT_BINBYTES"
            ):  # fmt: skip
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST" | "EMPTY_SET":  # sets become lists, as nothing looks into them
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self.above_mark()))
            case "FROZENSET":
                stack.append(self.above_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "APPEND":
                item = stack.pop()
                self.top(list).append(item)
            case "APPENDS" | "ADDITEMS":
                items = self.above_mark()
                self.top(list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.top(dict)[self.key(key)] = value
            case "SETITEMS":
                items = self.above_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    self.top(dict)[self.key(key)] = value
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.known(*argument))
            case "STACK_GLOBAL":
                function, module = self.pop(str), self.pop(str)
                stack.append(self.known(module, function))
            case "REDUCE":
                arguments, function = self.pop(tuple), self.pop(Name)
                stack.append(self.call(function.text, arguments))
            case "BUILD":
                self.build(stack.pop())
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case _:
                raise self.unknown(name)

    def above_mark(self) -> list[Any]:
        """Take all things down to the last mark from the stack."""
        height = self.marks.pop()
        if height > len(self.stack):
            raise ValueError("a mark above the stack")
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def top(self, kind: type) -> Any:
        """Return the uppermost thing, which must be of a kind."""
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"a {kind.__name__} is missing")
        return self.stack[-1]

    def pop(self, kind: type) -> Any:
        """Take the uppermost thing, which must be of a kind."""
        thing = self.top(kind)
        self.stack.pop()
        return thing

    def key(self, key: Any) -> str | int:
        """Return a dict's key. Others than texts and small integers could be made to collide."""
        if isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 63):
            return key
        raise self.error(f"has a dict with a key of type {type(key).__name__}")

    def known(self, module: str, function: str) -> Name:
        """Return a name if it is one of those that this machine knows."""
        text = f"{module[:LONGEST_NAME]}.{function[:LONGEST_NAME]}"
        plain = text.replace("torch.cuda.", "torch.").replace("__builtin__.", "builtins.")
        if plain in CALLS or plain.removeprefix("torch.") in STORAGES:
            return Name(plain)
        raise self.error(
            f"asks for {text if text.isprintable() else shown(text)}, but only tensors, numbers "
            f"and texts are read: {_advice(text)}"
        )

    def call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        """Return what stands for the result of one of the `CALLS`.

        No long list or text is copied or looked through: a pickle can ask for it again and again.
        """
        match function.rpartition(".")[2], arguments:
            case "OrderedDict", ():
                return {}
            case "OrderedDict", ([*_] as items,) if type(items) is list:  # from Python 2
                pairs = {self.key(key): value for key, value in items}
                items.clear()
                return pairs
            case "set", ([*_] as items,):
                return items
            case (
                ("_rebuild_tensor" | "_rebuild_tensor_v2"),
                (
                    StorageNote() as storage,
                    int(offset),
                    tuple(shape),
                    tuple(strides),
                    *_,
                ),
            ) if len(shape) == len(strides) <= MOST_AXES and _whole(offset, *shape, *strides):
                return TensorNote(storage, offset, shape, strides)
            case "_rebuild_parameter", (TensorNote() as tensor, *_):
                return tensor
            case "dtype", (str(code), *_) if NUMBER.fullmatch(code):
                return DtypeNote(code)
            case "scalar", (DtypeNote(code=code), bytes() | str() as content) if len(content) < 9:
                content = content.encode("latin-1") if isinstance(content, str) else content
                return np.frombuffer(content, code)[0].item()
            case "encode", (str(text), "latin1") if len(text) < 9:
                return text.encode("latin-1")  # how Python 3 writes bytes for Python 2
        raise self.error(f"gives {function} something that it cannot use: damaged")

    def build(self, state: Any) -> None:
        """Set the state of the uppermost thing."""
        thing = self.stack[-1]
        if isinstance(thing, DtypeNote):
            if type(state) is not tuple or state[1] not in ("<", ">", "|"):
                raise ValueError("an element type without byte order")
            thing.code = state[1] + thing.code[-2:]
        elif type(thing) is not dict:
            raise self.error(f"sets the state of a {type(thing).__name__}")
        # An OrderedDict's is its attributes: a state dict has the versions of its modules there.

    def storage(self, persistent: Any) -> StorageNote:
        """Return the note of a storage, from the tuple that stands for it in the pickle."""
        if type(persistent) is tuple and persistent[:1] == ("module",):
            raise self.error(f"holds a whole model, with its classes: {WHOLE_MODEL}")
        if type(persistent) is not tuple or len(persistent) not in (5, 6):
            raise ValueError("a storage that is not one")
        tag, kind, key, _, count, *view = persistent
        if tag != "storage" or type(kind) is not Name:
            raise ValueError("a storage that is not one")
        kind = kind.text.removeprefix("torch.")
        start = 0
        if view and view[0] is not None:  # the oldest files: a part of another storage
            _, start, length = view[0]
            if not _whole(start, length, count) or start + length > count:
                raise ValueError("a view outside its storage")
        if kind not in STORAGES or type(key) is not str or not _whole(count):
            raise ValueError("a storage without type, name or size")
        note = StorageNote(kind, key, count, start)
        first = self.storages.setdefault(key, note)
        if (first.kind, first.length) != (kind, count):
            raise self.error(
                f"is damaged: the storage {shown(key)} has {first.length} {first.kind} numbers and "
                f"then {count} {kind} numbers"
            )
        return note


def _whole(*values: Any) -> bool:
    """Tell whether all are whole numbers from 0 on that fit 63 bits."""
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _advice(name: str) -> str:
    """Return what to do about a name that is not read."""
    for part, advice in ADVICE.items():
        if part in name:
            return advice
    return WHOLE_MODEL
