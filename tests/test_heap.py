"""Memory that was freed is used again at once, where the C library can be told so."""

import subprocess
import sys

import pytest

from minifcn.kernels.heap import keep_freed_memory

COUNT_FAULTS = """
import resource
import numpy as np
from minifcn.kernels.heap import keep_freed_memory
if {keep}: assert keep_freed_memory()
for step in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (1, 3, 7, 40):
        np.empty(megabytes << 20, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library has no mallopt")
def test_the_pages_of_freed_arrays_are_kept():
    def faults(keep):
        code = COUNT_FAULTS.format(keep=keep)
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return int(found.stdout)

    assert faults(keep=True) < 10 < faults(keep=False)


def test_elsewhere_it_says_that_it_cannot(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
