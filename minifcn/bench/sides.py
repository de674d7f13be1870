"""Who is compared with whom: libraries ("peers"), and the forms in which each one is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from . import works
from .works import LAYOUTS, BenchError

OURS = "minifcn"


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes
    ----------
    title
        Its name as people write it.
    install
        The command that installs it.
    kinds
        Kinds of cases that it can do; empty for all.
    layouts
        Memory orders in which it is measured; empty if there is no choice.
    on_gpu
        Whether it can be measured on a GPU, too.
    """

    title: str
    install: str
    kinds: tuple[str, ...] = (works.COMMON,)
    layouts: tuple[str, ...] = ()
    on_gpu: bool = False


PEERS: dict[str, Peer] = {
    "torch": Peer("PyTorch", "pip install torch", (), LAYOUTS, on_gpu=True),
    "mygrad": Peer("MyGrad", "pip install mygrad"),
    "dezero": Peer("DeZero", "pip install dezero matplotlib"),
    "chainer": Peer(
        "Chainer", "pip install 'setuptools<81' wheel; pip install --no-build-isolation chainer"
    ),
    "jax": Peer("JAX", "pip install jax", layouts=LAYOUTS),
    "tinygrad": Peer("tinygrad", "pip install tinygrad, and install clang"),
}

# What the C library and PyTorch need to keep freed memory for the next step.
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
    "THP_MEM_ALLOC_ENABLE": "1",
}


@dataclass(frozen=True)
class Side:
    """One library in one form.

    Attributes
    ----------
    peer
        ``"minifcn"``, or a name in `PEERS`.
    how
        The form: ``{"layout": "channels_last"}``.
    tuned
        Whether its process keeps freed memory: PyTorch's by the environment `TUNED`, minifcn's by
        `kernels.heap.keep_freed_memory`, as the command ``minifcn`` does.
    precision
        In what a GPU multiplies: ``"fp32"``, ``"tf32"`` or ``"bf16"``. Empty on a processor.
    """

    peer: str
    how: dict[str, str] = field(default_factory=dict, hash=False)
    tuned: bool = False
    precision: str = ""

    @property
    def group(self) -> str:
        """The name under which the best of all forms is shown."""
        title = PEERS[self.peer].title if self.peer in PEERS else self.peer
        return ", ".join(filter(None, [title, "tuned" * self.tuned, self.precision]))

    @property
    def terms(self) -> tuple[bool, str]:
        """What must be the same for two sides to be compared."""
        return self.tuned, self.precision

    @property
    def form(self) -> str:
        """The form in words.

        >>> Side("torch", {"layout": "channels_last", "sgd": "fused"}).form
        'channels_last, fused SGD'
        """
        words = {"layout": "{}", "sgd": "{} SGD", "graph": "as a {} graph"}
        return ", ".join(words[name].format(value) for name, value in self.how.items())

    @property
    def label(self) -> str:
        """A name that no other side has."""
        return f"{self.group} ({self.form})" if self.form else self.group


def our_sides(
    kind: str, *, tuned: bool = False, device: str = "cpu", precisions: Sequence[str] = ()
) -> list[Side]:
    """Return the forms in which minifcn is measured, the plain one first.

    On a processor these are: as a library, and as its command runs; on a GPU, one for each
    precision that makes a difference to a kind of case.

    >>> [side.label for side in our_sides("train", tuned=True)]
    ['minifcn', 'minifcn, tuned']
    >>> [side.label for side in our_sides("train", device="cuda", precisions=("fp32", "tf32"))]
    ['minifcn, fp32', 'minifcn, tf32']
    """
    if device != "cpu":
        return [Side(OURS, precision=one) for one in _different(kind, precisions)]
    return [Side(OURS), *([Side(OURS, tuned=True)] if tuned else [])]


def _different(kind: str, precisions: Sequence[str]) -> Sequence[str]:
    """Return the precisions that make a difference: one where nothing is convolved."""
    return precisions if kind in works.CONVOLVING else precisions[:1]


def names_in(text: str) -> list[str]:
    """Return the names in a text, which commas separate.

    >>> names_in("torch, jax,")
    ['torch', 'jax']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def check_peers(names: Sequence[str]) -> None:
    """Raise a BenchError if a name is not a peer's."""
    for name in names:
        if name not in PEERS:
            raise BenchError(
                f"no library called {name!r} can be compared with: there are {', '.join(PEERS)}"
            )


def missing(name: str) -> str | None:
    """Return how to install a peer that is not here; None if it is.

    It is looked for, not imported: that happens in a process of its own.
    """
    peer = PEERS[name]
    return None if find_spec(name) else f"{peer.title} is not installed: {peer.install}"


def sides_of(
    peer: str,
    kind: str,
    *,
    layout: str = "best",
    tuned: bool = False,
    fused: bool = False,
    graphs: bool = False,
    device: str = "cpu",
    precisions: Sequence[str] = (),
) -> list[Side]:
    """Return the forms in which a peer is measured at one kind of case; none if it cannot do it.

    >>> [side.form for side in sides_of("torch", "train")]
    ['contiguous', 'channels_last']
    >>> sides_of("mygrad", "train")
    []
    """
    found = PEERS[peer]
    on_gpu = device != "cpu"
    if (found.kinds and kind not in found.kinds) or (on_gpu and not found.on_gpu):
        return []
    layouts = found.layouts if layout == "best" else [layout] if found.layouts else []
    if kind == works.UPDATE:  # numbers in a row: their layout means nothing
        forms = [{"sgd": form} for form in ("default", "foreach", "fused")]
    else:
        further = {"sgd": "fused"} if fused and peer == "torch" and kind == works.TRAIN else {}
        forms = [{"layout": one} | further for one in layouts] or [{}]
    if on_gpu and graphs and peer == "torch" and kind in (works.TRAIN, works.INFER):
        forms += [form | {"graph": "CUDA"} for form in forms]
    if on_gpu:
        return [Side(peer, f, precision=one) for one in _different(kind, precisions) for f in forms]
    sides = [Side(peer, form) for form in forms]
    if tuned and peer == "torch":
        sides += [Side(peer, form, tuned=True) for form in forms]
    return sides
