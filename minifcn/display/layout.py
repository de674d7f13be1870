"""Where the boxes of a graph go: in rows, so that all edges lead down, and few of them cross.

The method is that of Sugiyama, Tagawa and Toda (1981):

1. A box's row is its longest distance from the result.
2. An edge that passes rows gets an invisible box in each of them, so that it leads from row to row.
3. Each row is sorted by the mean place of what its boxes are connected with in the row before, some
   times down and up.
4. The boxes move to the mean position of what they are connected with, as far as their order and
   their widths allow (Gansner and others, 1993, section 4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

Key: TypeAlias = "int | tuple[int, int, int]"  # a box, or an edge (from, to) on its way through row

SWEEPS = 8  # over the rows, to sort them
SETTLING = 150  # more of them, to place what is sorted
PASSING = 4.0  # the weight of an edge that passes a row; others have 1
GAP = 22.0  # pixels between neighbours


class Layout(NamedTuple):
    """Where things are.

    Attributes
    ----------
    x
        Of each box's middle, in pixels.
    row
        Of each box; the first row, at the top, is 0.
    paths
        For each edge the x of what it goes through, and the row of each.
    width
        Of all, in pixels.
    """

    x: dict[int, float]
    row: dict[int, int]
    paths: list[list[tuple[float, int]]]
    width: float


def arrange(count: int, edges: Sequence[tuple[int, int]], widths: Sequence[float]) -> Layout:
    """Return where the boxes and edges of a graph without cycles go.

    Parameters
    ----------
    count
        How many boxes there are; number 0 is the result, and each box has a lower number than all
        that lead to it.
    edges
        (from, to), by the boxes' numbers.
    widths
        Of the boxes, in pixels.

    Examples
    --------
    >>> layout = arrange(3, [(1, 0), (2, 1), (2, 0)], [50.0] * 3)
    >>> [layout.row[box] for box in (2, 1, 0)]
    [0, 1, 2]
    """
    depth = [0] * count
    for box in range(count):  # all that a box leads to have been seen before it
        depth[box] = max((depth[to] + 1 for start, to in edges if start == box), default=0)
    last = max(depth)
    row = {box: last - depth[box] for box in range(count)}
    rows: list[list[Key]] = [[] for _ in range(last + 1)]
    for box in range(count):
        rows[row[box]].append(box)
    above: dict[Key, list[Key]] = defaultdict(list)
    below: dict[Key, list[Key]] = defaultdict(list)
    chains: list[list[Key]] = []
    for number, (start, to) in enumerate(edges):
        passed: list[Key] = [(start, number, at) for at in range(row[start] + 1, row[to])]
        for at, key in zip(range(row[start] + 1, row[to]), passed, strict=True):
            rows[at].append(key)
        chains.append([start, *passed, to])
        for upper, lower in pairwise(chains[-1]):
            below[upper].append(lower)
            above[lower].append(upper)
    _sort(rows, above, below)
    wide = {key: widths[key] if isinstance(key, int) else 0.0 for each in rows for key in each}
    x = _positions(rows, above, below, wide)
    left = min(x[key] - wide[key] / 2 for key in x)
    x = {key: value - left for key, value in x.items()}
    paths = [
        [(x[key], row[start] + i) for i, key in enumerate(chain)]
        for chain, (start, _) in zip(chains, edges, strict=True)
    ]
    boxes = {key: value for key, value in x.items() if isinstance(key, int)}
    return Layout(boxes, row, paths, max(x[key] + wide[key] / 2 for key in x))


def _sort(
    rows: list[list[Key]], above: Mapping[Key, list[Key]], below: Mapping[Key, list[Key]]
) -> None:
    """Sort the boxes of each row by the mean place of their neighbours, below and above in turn."""
    for sweep in range(SWEEPS):
        upward = sweep % 2 == 0
        order, others = (rows[-2::-1], below) if upward else (rows[1:], above)
        for row in order:
            place = {key: i for each in rows for i, key in enumerate(each)}

            def mean(key: Key, place: dict[Key, int] = place) -> float:
                near = [place[other] for other in others[key]]  # noqa: B023
                return sum(near) / len(near) if near else place[key]

            row.sort(key=mean)  # stable: equals keep their order


def _positions(
    rows: list[list[Key]],
    above: Mapping[Key, list[Key]],
    below: Mapping[Key, list[Key]],
    wide: Mapping[Key, float],
) -> dict[Key, float]:
    """Return the x of each box's middle: the sum over all edges of w·(x_from - x_to)² is small.

    Row by row, in turns; w is larger for edges that pass rows, so that they become straight.
    """
    x: dict[Key, float] = {}
    for row in rows:
        x |= _apart(row, dict.fromkeys(row, (0.0, 1.0)), wide)
    for sweep in range(SETTLING):
        for row in rows if sweep % 2 else reversed(rows):
            wishes = {}
            for key in row:
                near = (*above[key], *below[key])
                weights = [1.0 if isinstance(other, int) else PASSING for other in near]
                total = sum(w * x[other] for w, other in zip(weights, near, strict=True))
                wishes[key] = (total, sum(weights)) if near else (x[key], 1.0)
            x |= _apart(row, wishes, wide)
    return x


def _apart(
    row: Sequence[Key], wishes: Mapping[Key, tuple[float, float]], wide: Mapping[Key, float]
) -> dict[Key, float]:
    """Return positions in order that do not overlap, with the least sum of squared differences.

    A wish is a position multiplied with its weight, and the weight. If it were not for the widths,
    this were the regression by a rising function: neighbours in the wrong order are pooled, and
    get their mean.

    >>> _apart([0, 1, 2], {0: (5, 1), 1: (5, 1), 2: (90, 1)}, {0: 10, 1: 10, 2: 10})
    {0: -11.0, 1: 21.0, 2: 90.0}
    """
    starts = [0.0]
    for before, after in pairwise(row):
        starts.append(starts[-1] + (wide[before] + wide[after]) / 2 + GAP)
    pools: list[tuple[float, float, int]] = []  # the sums of both parts of wishes, and their number
    for key, start in zip(row, starts, strict=False):
        total, weight, count = wishes[key][0] - wishes[key][1] * start, wishes[key][1], 1
        while pools and pools[-1][0] * weight > total * pools[-1][1]:
            before_total, before_weight, before_count = pools.pop()
            total, weight = total + before_total, weight + before_weight
            count += before_count
        pools.append((total, weight, count))
    means = [total / weight for total, weight, count in pools for _ in range(count)]
    return {key: mean + start for key, mean, start in zip(row, means, starts, strict=False)}
