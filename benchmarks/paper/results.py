"""The file of results: one entry for each finished cell, so that an interrupted run can go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minifcn.backend import Error
from minifcn.json_file import write_json


class ResultsError(Error, ValueError):
    """A file of results that cannot be used."""


class Results:
    """Finished cells, in a file that is written anew, whole or not at all, after each of them.

    Parameters
    ----------
    path
        A JSON file; it may not be there yet.

    Attributes
    ----------
    cells
        Key of a job to its entry: ``command``, ``seed``, ``seconds``, ``machine``, ``date``,
        ``settings`` (all that decides the result) and ``result``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                self.cells = json.loads(path.read_text("utf-8"))["cells"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ResultsError(
                    f"{path}: no file of results ({error!r}): mend it, or move it away"
                ) from error

    def find(self, key: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the result of a job, or None if it was not done, or with other settings."""
        entry = self.cells.get(key)
        if entry is None or entry["settings"] != json.loads(json.dumps(settings)):
            return None
        return dict(entry["result"])

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Keep an entry, and write the file."""
        self.cells[key] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        ordered = {key: self.cells[key] for key in sorted(self.cells)}
        write_json(self.path, {"about": "made by benchmarks/paper_tables.py", "cells": ordered})

    def of(self, name: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Return the entries of a cell, one for each of the seeds that is done."""
        keys = (f"{name} seed {seed}" for seed in seeds)
        return [self.cells[key] for key in keys if key in self.cells]


class Spread(NamedTuple):
    """The mean of a few numbers, and the lowest and highest of them.

    Three seeds are too few for a standard deviation to mean much; these are facts.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some numbers, at least one.

        >>> Spread.of([1, 2, 6])
        Spread(mean=3.0, low=1, high=6)
        """
        return cls(sum(values) / len(values), min(values), max(values))

    def percent(self, sign: bool = False) -> str:
        """Return it in per cent.

        >>> Spread(0.5, 0.49, 0.515).percent()
        '50.0 (49.0 to 51.5)'
        >>> Spread(0.01, -0.002, 0.02).percent(sign=True)
        '+1.0 (-0.2 to +2.0)'
        """
        mean, low, high = (f"{100 * value:{'+' * sign}.1f}" for value in self)
        return f"{mean} ({low} to {high})" if self.low != self.high else mean
