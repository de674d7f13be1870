"""A training on land cover, interrupted ten times: does it end with the bits of one that was not?

python benchmarks/interrupted.py --minutes 30      # twice 30 minutes: for docs/runs.md
python benchmarks/interrupted.py --minutes 1       # to try it

The same run is made twice, each by the command ``minifcn train``. The first is left alone. The
second is ended at random moments, in turn by SIGKILL, which it cannot notice, by SIGTERM and by
Ctrl-C, and each time gone on with by ``minifcn train --out OUT --resume``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from minifcn.kernels.threads import num_threads

COMMAND = [sys.executable, "-m", "minifcn", "train"]
OPTIONS = (
    *("--data", "landcover", "--preprocessing", "landcover", "--flip-vertical", "--rotate"),
    *("--device", "cpu", "--save-every", "50"),
)
SHARES = (0.25, 0.25, 0.5)  # of the steps, for FCN-32s, 16s and 8s
TRIED = 60  # steps, to learn how long one takes
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FREE = ("seconds", "wait", "memory")  # numbers of the log that are not a matter of the seed


def main() -> None:
    """Make both runs, compare them, and say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="of each of the two runs")
    parser.add_argument("--interruptions", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for the runs; not given: one that is removed")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="interrupted-"))
    steps = steps_of(folder, given.minutes)
    whole, broken = folder / "whole", folder / "broken"
    print(
        f"{sum(steps)} steps ({', '.join(map(str, steps))}) on {num_threads()} threads", flush=True
    )
    start = time.perf_counter()
    run(begun(whole, steps))
    seconds = time.perf_counter() - start
    print(f"left alone: {seconds / 60:.1f} minutes", flush=True)
    spent, made = interrupted(broken, steps, seconds, given.interruptions, given.seed)
    print(f"interrupted {made} times: {spent / 60:.1f} minutes", flush=True)
    there, here = outcome(whole), outcome(broken)
    differing = [name for name in there | here if there.get(name) != here.get(name)]
    for name in there:
        print(f"  {'DIFFERS' if name in differing else 'the same bits':14} {name}")
    if given.folder is None:
        shutil.rmtree(folder)
    sys.exit(bool(differing or made < given.interruptions))


def run(command: list[str]) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def begun(out: Path, steps: list[int]) -> list[str]:
    """Return the command that begins the run."""
    each = ",".join(map(str, steps))
    every = str(max(1, max(steps) // 4))
    return [*COMMAND, "--out", str(out), *OPTIONS, "--steps", each, "--eval-every", every]


def steps_of(folder: Path, minutes: float) -> list[int]:
    """Return how many steps of each stage take so long together."""
    out = folder / "tried"
    run([*begun(out, [TRIED]), "--stages", "32s"])
    lines = (out / "fcn32s" / "log.jsonl").read_text().splitlines()
    found = [line["seconds"] for line in map(json.loads, lines) if "loss" in line]
    each = sum(found[TRIED // 2 :]) / (TRIED - TRIED // 2)
    return [max(4, round(minutes * 60 / each * share)) for share in SHARES]


def interrupted(
    out: Path, steps: list[int], seconds: float, wanted: int, seed: int
) -> tuple[float, int]:
    """Run, end and go on until the end; return the seconds, and how often it was ended."""
    rng, start, made = random.Random(seed), time.perf_counter(), 0
    command = begun(out, steps)
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if made == wanted:
                process.wait()
            else:
                process.wait(seconds / (wanted + 1) * rng.uniform(0.3, 1.5))
        except subprocess.TimeoutExpired:
            number = SIGNALS[made % len(SIGNALS)]
            process.send_signal(number)
            process.wait()
            made += 1
            newest = max((out / "checkpoints").glob("*"), key=lambda path: path.stat().st_mtime_ns)
            minutes = (time.perf_counter() - start) / 60
            print(f"  {minutes:5.1f} min: {number.name:7} goes on from {newest.stem}", flush=True)
            command = [*COMMAND, "--out", str(out), "--resume"]
            continue
        if process.returncode:
            raise SystemExit(f"the run failed with code {process.returncode}")
        return time.perf_counter() - start, made


def outcome(out: Path) -> dict[str, Any]:
    """Return checksums of the weights and metrics of a run, and the numbers of its logs."""
    files = sorted([*out.glob("fcn*/*.safetensors"), out / "metrics.json"])
    found: dict[str, Any] = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    for log in sorted(out.glob("*/log.jsonl")):
        lines = [line for line in map(json.loads, log.open()) if "event" not in line]
        kept = [{n: value for n, value in line.items() if n not in FREE} for line in lines]
        found[f"the {len(kept)} lines of {log.relative_to(out)}, without times"] = kept
    return found


if __name__ == "__main__":
    main()
