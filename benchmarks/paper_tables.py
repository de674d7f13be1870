"""The paper's experiments at small scale, on the bundled land cover: tables for docs/results.md.

python benchmarks/paper_tables.py                    # all of it, three seeds: about 40 minutes
python benchmarks/paper_tables.py b --seeds 0,1,2    # one table
python benchmarks/paper_tables.py b/16s --seeds 1    # one cell, and what it needs
python benchmarks/paper_tables.py --list             # what there is, and what is done
python benchmarks/paper_tables.py --write            # put the tables into docs/results.md

Each finished cell is kept at once in benchmarks/results/paper_tables.json; a run that was
interrupted goes on with what is missing, and cells whose settings have changed are done again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from datetime import date
from pathlib import Path

from paper import document
from paper.cells import Workshop
from paper.plan import FULL, SEARCH, SEEDS, TRIAL, Bounding, Job, Plan, PlanError
from paper.results import Results

from minifcn.backend import Error
from minifcn.bench import machine as computer
from minifcn.kernels.heap import keep_freed_memory
from minifcn.kernels.threads import num_threads
from minifcn.progress import TerminalObserver, as_clock

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "paper_tables.json"
WORK = ROOT / "runs" / "paper_tables"  # the classifiers that other cells start from
DOCUMENT = ROOT / "docs" / "results.md"


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    try:
        plan = Plan(TRIAL if given.trial else FULL)
        folder = given.work / "trial" if given.trial else given.work
        file = given.results or (folder / "results.json" if given.trial else RESULTS)
        results = Results(file)
        workshop = Workshop(plan, results, folder, TerminalObserver)
        if given.write:
            document.write(given.document, plan, results)
            print(f"{given.document}: tables from {file}")
            return
        jobs = plan.jobs(given.cells or list(plan.cells), whole_numbers(given.seeds))
        if given.list:
            for job in jobs:
                print(f"{'done' if workshop.finished(job) else '-':5}{job.key}")
            return
        run(workshop, jobs)
    except Error as error:
        sys.exit(f"paper_tables: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")


def parser() -> argparse.ArgumentParser:
    lines = __doc__.split("\n\n")
    made = argparse.ArgumentParser(
        description=lines[0],
        epilog="\n\n".join(lines[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("cells", nargs="*", help="tables or cells, such as b or a/vgg16; none: all")
    made.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="default: %(default)s")
    made.add_argument("--list", action="store_true", help="show the cells, run nothing")
    made.add_argument("--write", action="store_true", help="write the tables, run nothing")
    made.add_argument("--trial", action="store_true", help="a few steps each, to try the program")
    made.add_argument("--results", type=Path, help="another file for the results")
    made.add_argument("--work", type=Path, default=WORK, help="another folder for the classifiers")
    made.add_argument("--document", type=Path, default=DOCUMENT, help="another file for --write")
    return made


def whole_numbers(text: str) -> list[int]:
    """Return the numbers of a list such as 0,1,2."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise PlanError(f"--seeds {text}: give whole numbers with commas, such as 0,1,2") from None


def run(workshop: Workshop, jobs: list[Job]) -> None:
    """Do what is not finished yet, in order."""
    keep_freed_memory()
    begin = time.perf_counter()
    for number, job in enumerate(jobs, start=1):
        # Asked anew each time: what is finished changes if something that it needs has changed.
        if workshop.finished(job):
            continue
        past = as_clock(time.perf_counter() - begin)
        print(f"\n[{number} of {len(jobs)}, after {past}] {job.key}", flush=True)
        start = time.perf_counter()
        result = workshop.do(job)
        seconds = round(time.perf_counter() - start, 1)
        entry = {
            "command": command(job),
            "seed": None if isinstance(job.cell, Bounding) else job.seed,
            "seconds": seconds,
            "machine": machine(),
            "date": date.today().isoformat(),
            "settings": workshop.settings(job),
            "result": result,
        }
        workshop.results.add(job.key, entry)
        shown = {key: value for key, value in result.items() if key in ("mean_iu", "accuracy")}
        told = {key: f"{100 * value:.1f} %" for key, value in shown.items()}
        print(f"{job.key}: {told or result}, {seconds} s", flush=True)
    print(f"\nall {len(jobs)} cells are in {workshop.results.path}")


def command(job: Job) -> str:
    """Return what does this job again, if its result is taken out of the file."""
    parts = ["python", "benchmarks/paper_tables.py"]
    if job.name.startswith(SEARCH):  # a search belongs to the cell of its name
        cell, _, _ = job.name.removeprefix(SEARCH).rpartition("/")
        return shlex.join([*parts, cell, "--seeds", str(SEEDS[0])])
    seeds = [] if isinstance(job.cell, Bounding) else ["--seeds", str(job.seed)]
    return shlex.join([*parts, job.name, *seeds])


def machine() -> str:
    """Return the computer in one line."""
    known = computer.facts(num_threads())
    return (
        f"{known['threads']} threads on {known['processors']} processors {known['processor']}, "
        f"NumPy {known['NumPy']}, minifcn {known['minifcn']}"
    )


if __name__ == "__main__":
    main()
