"""Timing two or more sides against each other: A B A B ..., in short blocks.

What slows a computer down for a while (heat, other programs) then meets all sides alike. Blocks in
which other programs computed are thrown away and repeated.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .load import disturbed, wait_for_quiet

TRIES = 3  # blocks to make until one is not disturbed
WAIT = 2.0  # seconds to wait for others to end, before the next try


@dataclass
class Timing:
    """What the blocks of one side say.

    Attributes
    ----------
    blocks
        Milliseconds per call, one for each round: the median of the calls in a block.
    clean
        Whether others left the processors alone; where they never did, the best block is kept.
    dropped
        How many disturbed blocks were thrown away.
    calls
        How many calls were timed in the blocks that were kept.
    """

    blocks: list[float] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    dropped: int = 0
    calls: int = 0

    def kept(self) -> list[float]:
        """Return the clean blocks; all of them where none is.

        >>> Timing([5.0, 9.0], [True, False]).kept()
        [5.0]
        """
        pairs = zip(self.blocks, self.clean, strict=True)
        return [ms for ms, clean in pairs if clean] or self.blocks

    @property
    def ms(self) -> float:
        """The median over the blocks, in milliseconds."""
        return statistics.median(self.kept())

    @property
    def doubtful(self) -> bool:
        """Whether not one block was clean."""
        return not any(self.clean)


Block = Callable[[], Mapping[str, Any]]  # returns "seconds", "calls", "others"


def interleave(
    sides: Mapping[str, Block],
    rounds: int,
    quiet: Callable[[float], None] = wait_for_quiet,
    after_round: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Measure all sides in turn, ``rounds`` times.

    Parameters
    ----------
    sides
        For each side a function that measures one block.
    rounds
        How many blocks of each side are wanted.
    quiet
        Waits until others leave the processors alone, at most so many seconds.
    after_round
        Called after each round.
    """
    timings = {name: Timing() for name in sides}
    for _ in range(rounds):
        for name, block in sides.items():
            _one_block(timings[name], block, quiet)
        after_round()
    return timings


def _one_block(timing: Timing, block: Block, quiet: Callable[[float], None]) -> None:
    """Add one block to a timing: the first that is not disturbed, or the least disturbed one."""
    found: list[Mapping[str, Any]] = []
    for attempt in range(TRIES):
        if attempt:
            quiet(WAIT)
        found.append(block())
        if not disturbed(found[-1]["others"]):
            break
    kept = min(found, key=lambda one: one["others"] or 0.0)
    timing.blocks.append(1000 * kept["seconds"])
    timing.clean.append(not disturbed(kept["others"]))
    timing.calls += kept["calls"]
    timing.dropped += len(found) - 1
