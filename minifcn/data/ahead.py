"""Batches made ahead of their use, so that a training step need not wait for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")


def in_turn(
    begin: Callable[[int], Callable[[], Made]], numbers: Iterable[int], most: int
) -> Generator[Made, None, None]:
    """Yield what is made for each number, in the order of the numbers, beginning early.

    Parameters
    ----------
    begin
        Begins to make what belongs to a number and returns at once, with a function that waits for
        the result and returns it.
    numbers
        May be without end.
    most
        So many are begun and not yet taken, at most; 1 or more.

    Examples
    --------
    >>> list(in_turn(lambda number: lambda: number * number, range(4), most=2))
    [0, 1, 4, 9]
    """
    waiting: deque[Callable[[], Made]] = deque()
    for number in numbers:
        if len(waiting) < most:
            waiting.append(begin(number))
            continue
        result = waiting.popleft()()
        waiting.append(begin(number))
        yield result
    while waiting:
        yield waiting.popleft()()


def by_thread(
    make: Callable[[int], Made], numbers: Iterable[int], prefetch: int
) -> Generator[Made, None, None]:
    """Yield ``make(number)`` for each number in turn, made by a thread up to ``prefetch`` ahead.

    Reading and decoding files, and NumPy's work on large arrays, run beside the caller's. An error
    of ``make`` is raised when its turn comes. The thread ends with the last number, or when the
    iterator is closed; it then finishes what it is just making.

    >>> list(by_thread(lambda number: number * number, range(4), prefetch=2))
    [0, 1, 4, 9]
    """
    executor = ThreadPoolExecutor(1, "minifcn-batches")
    try:
        yield from in_turn(lambda number: executor.submit(make, number).result, numbers, prefetch)
    finally:
        executor.shutdown(cancel_futures=True)
