"""What processes that work together can ask of each other; and the answers of one by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ..autograd import Tensor
from ..backend import Array, Error

T = TypeVar("T")


class ParallelError(Error, RuntimeError):
    """Processes that cannot work together, or one that the others waited for in vain."""


class Ranks:
    """The processes of a run, seen from one of them. This class is a process by itself.

    `minifcn.parallel.mpi.Mpi` is the same for several. All ranks must call `sum`, `gather`,
    `first`, `spread`, `backward` and `check_alike` in the same order: each waits for the others.

    Attributes
    ----------
    rank
        The number of this process, from 0.
    number
        How many there are.
    waited
        Seconds in which this process had nothing to do but wait for sums of gradients.

    Examples
    --------
    >>> ranks = Ranks()
    >>> ranks.rank, ranks.number, list(ranks.share(3)), ranks.sum(2.5), ranks.gather("here")
    (0, 1, [0, 1, 2], 2.5, ['here'])
    """

    rank, number, waited = 0, 1, 0.0

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone prints and writes the files of a run."""
        return self.rank == 0

    def told(self) -> str:
        """Say which processes these are; nothing of one by itself."""
        return ""

    def device(self, name: str) -> str:
        """Return where this rank computes, if ``name`` is where a single process would."""
        return name

    def share(self, count: int) -> range:
        """Return which of ``count`` things are this rank's: rank, rank + number, ..."""
        return range(self.rank, count, self.number)

    def sum(self, value: Any) -> Any:
        """Return the sum over all ranks of an array or a number: the same bits on each."""
        return value

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order; they must be picklable."""
        return [value]

    def first(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0 alone; return to all what it returned, or raise its error."""
        return function()

    def spread(self, arrays: Iterable[Array]) -> None:
        """Overwrite arrays with those of rank 0."""

    def backward(self, loss: Tensor, parameters: Iterable[Tensor], last: bool = True) -> None:
        """Call ``loss.backward()``, and sum the parameters' gradients over all ranks.

        Of several losses whose gradients add up, only that of the ``last`` does the latter.
        """
        loss.backward()

    def check_alike(self, what: str, value: Any) -> None:
        """Raise a `ParallelError` that names the ranks whose value is not that of rank 0."""


ALONE = Ranks()


def numbers(ranks: Sequence[int]) -> str:
    """Return ranks in words.

    >>> numbers([2]), numbers([1, 2, 5])
    ('rank 2', 'ranks 1, 2, 5')
    """
    return f"rank{'s' * (len(ranks) != 1)} {', '.join(map(str, ranks))}"
