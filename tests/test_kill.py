"""Real processes, killed at random moments and at chosen places, and gone on with until they end.

Whatever happens, what comes out is bit for bit that of the run that nobody killed.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import run_folders
from killed_runs import PLACES
from layouts_folder import make_folder
from small_disk import fill, small_disk

LEAST = 50  # kills in all
RUNS = Path(__file__).with_name("killed_runs.py")
TEXT = """--stages 32s,16s --steps 7,5 --eval-every 3 --save-every 1 --keep 2 --crop 48 --lr 0.01
          --batch-size 2 --accumulate 2 --jitter 0.2 --widths 4,4,8,8,8 --device cpu"""
OPTIONS = TEXT.split()


class Runs:
    """Starts ``minifcn`` commands, each in a process of its own."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, RUNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, arguments, told, killed_after=None, number=signal.SIGKILL, **asked):
        """Run a command, kill it after so many seconds, and return how it ended."""
        line = json.dumps({"arguments": [*map(str, arguments)], "told": str(told), **asked})
        print(line, file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        if killed_after is not None:
            timer = threading.Timer(killed_after, self.kill, (pid, number))
            timer.start()
        code = int(self.process.stdout.readline())
        if killed_after is not None:
            timer.cancel()
        return code

    def kill(self, pid, number):
        # Its parent waits for it, so the number is not another's yet; else it has just ended.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.fixture(scope="module")
def runs():
    started = Runs()
    with started.process as process:
        yield started
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def never_killed(runs, tmp_path_factory):
    """Return the data, the outcome of the whole run, and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("never")
    spec, out = make_folder(folder / "data"), folder / "out"
    told = folder / "told"
    runs(["--version"], told)  # when this has ended, all is imported
    start = time.perf_counter()
    assert runs(["train", "--data", spec, "--out", out, *OPTIONS], told) == 0, told.read_text()
    return spec, outcome(out), time.perf_counter() - start


def outcome(out):
    """Return what must be the same however often a run was killed; all of it must be there."""
    found = run_folders.outcome(out)
    assert len([name for name in found if "." in name]) == 5  # files; the others are logs
    return found


def to_its_end(runs, out, spec, ask, most=60):
    """Begin a run and go on with it, killed as ``ask(number)`` tells; return how often it was."""
    told = out.with_name(f"{out.name}.told")
    for kills in range(most):
        by_itself = kills % 3 and (out / "config.json").exists()
        options = [] if by_itself else ["--data", spec, *OPTIONS]
        code = runs(["train", "--out", out, "--resume", *options], told, **ask(kills))
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, told.read_text()
    raise AssertionError(f"killed {most} times, and not yet at its end")


def test_killed_at_random_moments(runs, never_killed, tmp_path, record_count):
    spec, expected, seconds = never_killed
    rng, kills, count = random.Random(0), 0, 0
    while kills < LEAST:
        count += 1
        out = tmp_path / str(count)

        def ask(number):
            # Later and later, so that the run ends also if the machine has become slower.
            return {"killed_after": rng.uniform(0.0, 0.2 * seconds * 1.1**number)}

        kills += to_its_end(runs, out, spec, ask)
        assert outcome(out) == expected
        shutil.rmtree(out)
    record_count("runs killed with SIGKILL at a random moment", kills)


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_a_chosen_place(runs, never_killed, tmp_path, place, record_count):
    spec, expected, _ = never_killed
    out, counts = tmp_path / "out", [1, 3, 2, 5]

    def ask(number):
        return {"place": place, "count": counts[number]} if number < len(counts) else {}

    kills = to_its_end(runs, out, spec, ask)
    assert kills >= 3, "the place was not come to"
    assert outcome(out) == expected
    assert not list(out.rglob(".*.tmp"))
    record_count("runs killed with SIGKILL inside a write", kills)


def test_the_command_itself_killed_and_asked_to_stop(never_killed, tmp_path, record_count):
    """As a user does it: python -m minifcn, SIGKILL, Ctrl-C, SIGTERM."""
    spec, expected, _ = never_killed
    out, kills = tmp_path / "out", 0
    begun = [sys.executable, "-m", "minifcn", "train", "--out", out, "--data", spec, *OPTIONS]
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen([*begun, "--resume"], stderr=subprocess.PIPE, text=True)
        before = newest(out)
        deadline = time.monotonic() + 60
        while newest(out) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        if number == signal.SIGKILL:
            assert process.returncode == -number
            kills += 1
        else:
            assert process.returncode == 128 + number, told
            last = told.splitlines()[-1]
            assert last.startswith("minifcn: stopped: all until step ")
            assert last.endswith(f"is saved; minifcn train --out {out} --resume goes on from there")
    assert "going on after step" in resumed(out)
    assert outcome(out) == expected
    record_count("runs killed with SIGKILL at a random moment", kills)
    assert "is finished" in resumed(out)


def resumed(out):
    """Go on with a run to its end; return what is said meanwhile."""
    command = [sys.executable, "-m", "minifcn", "train", "--out", out, "--resume"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def newest(out):
    return max((path.name for path in (out / "checkpoints").glob("*.safetensors")), default="")


# Full disks


def test_where_files_may_not_grow_so_large_checkpoints_fail_and_the_run_goes_on(
    runs, never_killed, tmp_path
):
    spec, expected, _ = never_killed
    out, told = tmp_path / "out", tmp_path / "told"
    arguments = ["train", "--out", out, "--resume", "--data", spec, *OPTIONS]
    runs(arguments, told, place="before_the_write", count=2)
    (beginning,) = (out / "checkpoints").iterdir()  # without momenta, 12 kB
    limit = beginning.stat().st_size + 6_000
    assert runs(arguments, told, largest_file=limit) == 0, told.read_text()
    text = told.read_text()
    assert "fcn32s-00000001.safetensors: cannot be written: File too large: " in text
    assert "the training goes on, the next one may succeed" in text
    assert outcome(out) == expected


def test_a_disk_that_is_really_full(runs, never_killed, tmp_path):
    spec, expected, _ = never_killed
    with small_disk(tmp_path / "disk", 3) as disk:
        out, told, ballast = disk / "out", tmp_path / "told", disk / "ballast"
        arguments = ["train", "--out", out, "--resume", "--data", spec, *OPTIONS]
        runs(arguments, told, place="after_the_rename", count=9)
        kept = sorted((out / "checkpoints").iterdir())
        assert kept
        fill(ballast)
        runs(arguments, told)  # to its end with warnings, or to an error, but no further
        assert "No space left on device" in told.read_text()
        assert "unexpected" not in told.read_text()
        assert set(kept) <= set((out / "checkpoints").iterdir())
        ballast.unlink()
        assert runs(arguments, told) == 0, told.read_text()
        assert outcome(out) == expected
