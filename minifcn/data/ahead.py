"""Things made ahead of their use, so that a net need not wait for them: batches, and samples."""

from __future__ import annotations

import os
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


def by_threads(
    make: Callable[[int], Made], numbers: Iterable[int], prefetch: int, threads: int = 1
) -> Generator[Made, None, None]:
    """Yield ``make(number)`` for each number in turn, made by threads up to ``prefetch`` ahead.

    Reading and decoding files, and NumPy's work on large arrays, run beside the caller's. An error
    of ``make`` is raised when its turn comes. The threads end with the last number, or when the
    iterator is closed; they then finish what they are just making. With ``prefetch=0`` there is no
    thread: each is made when it is asked for.

    >>> list(by_threads(lambda number: number * number, range(4), prefetch=2))
    [0, 1, 4, 9]
    """
    if not prefetch:
        yield from map(make, numbers)
        return
    executor = ThreadPoolExecutor(threads, "minifcn-ahead")
    try:
        yield from in_turn(lambda number: executor.submit(make, number).result, numbers, prefetch)
    finally:
        executor.shutdown(cancel_futures=True)


def processors() -> int:
    """Return how many processors this program may use.

    >>> processors() >= 1
    True
    """
    ours = getattr(os, "sched_getaffinity", None)  # where the system tells which
    return len(ours(0)) if ours else os.cpu_count() or 1
