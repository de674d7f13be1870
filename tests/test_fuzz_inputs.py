"""Thousands of damaged inputs: each is read or refused with a line; nothing else happens.

The cases are the same in each run; `tests.hostile_worker` makes one of its number. It runs them in
a process of its own, so that a crash, an endless loop or a hunger for memory fails a case only.
"""

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

SLOWEST = 20.0  # seconds for a case, on a machine that does other things, too
START = 60.0  # for the process to start
ROOT = Path(__file__).parent.parent

# What is read; cases in CI; cases of --nightly.
KINDS = {
    "images": (260, 3000),
    "lists": (80, 1200),
    "mat files": (50, 1200),
    "runs": (60, 600),
    "weights": (30, 300),
    "commands": (30, 300),
    "resumed runs": (20, 200),
}


def lines_of(process):
    """Return a function that returns the next line of a process, or None after some time."""
    lines = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()

    def following(seconds):
        try:
            return lines.get(timeout=seconds)
        except queue.Empty:
            return None

    return following


def outcomes(kind, cases, folder):
    """Yield what came of each case."""
    done = 0
    while done < cases:
        place = folder / f"from {done}"
        place.mkdir()
        command = [sys.executable, "-m", "tests.hostile_worker", kind, str(done), str(cases), place]
        with (folder / "said.txt").open("w") as said:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True
            )
        following = lines_of(process)
        try:
            while done < cases:
                begun = following(START)
                answer = following(SLOWEST) if begun else ""
                if not answer:
                    process.kill()
                    how = "hangs" if answer is None else f"ends the process ({process.wait()})"
                    last = (folder / "said.txt").read_text()[-1500:]
                    assert begun, f"the worker did not start: {last}"
                    yield {"outcome": f"{how}: {last}", "seconds": 0.0}
                    done += 1
                    break
                yield json.loads(answer)
                done += 1
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def fuzz(kind, cases, folder, record_count):
    found = [one["outcome"] for one in outcomes(kind, cases, folder)]
    record_count(f"{kind} fuzzed", len(found))
    wrong = {n: text for n, text in enumerate(found) if text not in ("read", "refused")}
    some = "\n".join(f"case {n}: {text}" for n, text in list(wrong.items())[:5])
    assert not wrong, f"{len(wrong)} of {cases} cases: {sorted(wrong)[:50]}\n{some}"
    assert found.count("read") > cases // 40, "hardly any can be read: the damage is too large"
    assert found.count("refused") > cases // 40, "hardly any is refused: the damage is too small"


@pytest.mark.parametrize("kind", KINDS)
def test_damaged(kind, tmp_path, record_count):
    fuzz(kind, KINDS[kind][0], tmp_path, record_count)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_at_night(kind, tmp_path, record_count):
    fuzz(kind, KINDS[kind][1], tmp_path, record_count)
