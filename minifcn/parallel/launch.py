"""Whether this process was started together with others, found out without importing MPI."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

from .ranks import ALONE, ParallelError, Ranks

# What launchers tell each process they start: how many there are, and which one it is.
TOLD = {
    "PMI_SIZE": "PMI_RANK",  # MPICH, Intel MPI, and Slurm's srun --mpi=pmi2
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",  # Open MPI
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",  # MVAPICH
}


PATIENCE = 1800.0  # seconds that a rank waits for the others: evaluating images may take long


class Launched(NamedTuple):
    """Which of how many processes this is."""

    rank: int
    number: int


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """Return which of how many processes this is, as the launcher said; (0, 1) if there was none.

    >>> launched({"PMI_SIZE": "4", "PMI_RANK": "2"})
    Launched(rank=2, number=4)
    """
    for size, rank in TOLD.items():
        if environment.get(size, "").isdecimal():
            return Launched(int(environment.get(rank, 0)), int(environment[size]))
    return Launched(0, 1)


def patience(environment: Mapping[str, str] = os.environ) -> float:
    """Return how many seconds a rank waits for the others: MINIFCN_PATIENCE, or half an hour.

    Raises
    ------
    ParallelError
        If that is no number above 0.
    """
    text = environment.get("MINIFCN_PATIENCE", str(PATIENCE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise ParallelError(
            f"MINIFCN_PATIENCE={text!r}: it must be a number of seconds above 0, such as 600"
        )
    return seconds


@functools.cache
def join() -> Ranks:
    """Return the processes that were started with this one; `ALONE` if there are none.

    Where there are several, each from now on uses its part of the machine's cores, unless
    MINIFCN_NUM_THREADS tells how many. An error in one that nobody catches then ends all of them,
    which might wait for it for ever.

    Raises
    ------
    ParallelError
        If mpi4py is missing or belongs to another MPI, or the processes were started with
        different commands or versions.

    Examples
    --------
    >>> join() is ALONE
    True
    """
    told = launched()
    if told.number == 1:
        return ALONE
    try:
        from .mpi import Mpi
    except ImportError as error:
        raise ParallelError(
            f"this is process {told.rank} of {told.number}, and to work together they need mpi4py, "
            f"which cannot be imported ({error}): pip install 'minifcn[parallel]'"
        ) from error
    return Mpi(told)
