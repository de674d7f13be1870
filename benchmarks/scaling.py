"""How much faster several processes train: measured here, computed for networks of machines.

python benchmarks/scaling.py                 # all tables of docs/parallel.md, about 5 minutes
python benchmarks/scaling.py measured        # 1, 2 and 4 processes on this machine
python benchmarks/scaling.py emulated        # as if a network lay between two processes
python benchmarks/scaling.py computed        # 4 to 64 machines

A step is all of a training step but the reading of images: forward, loss, backward, sums, update.
Each process computes on one thread. The best of all steps counts, and, where nobody else is at work
on the machine, hardly differs from the median, which is told too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from minifcn import models, parallel
from minifcn.data import Batch, Loader, shapes
from minifcn.loop import Training
from minifcn.parallel import buckets
from minifcn.recipes import Recipe

MPIEXEC = Path(sys.executable).with_name("mpiexec")
SMALL, VGG = "small FCN-8s, 96 x 96", "VGG16-FCN-8s, 224 x 224"
STEPS = {SMALL: 40, VGG: 3}  # that are timed
SECONDS = 6.0  # after which no further step is begun


class Network(NamedTuple):
    """What a message costs: ``latency`` seconds, and its bytes divided by ``rate``."""

    name: str
    latency: float
    rate: float  # bytes a second: 90 % of what it is called

    def ring(self, number: int, size: int) -> float:
        """Return the seconds in which a ring of so many machines sums an array of so many bytes.

        Each sends 1/N of the array to its neighbour, 2 (N - 1) times: once around to add up, once
        around to spread the sums.
        """
        return 2 * (number - 1) * (self.latency + size / number / self.rate)


NETWORKS = (
    Network("1 Gb/s", 50e-6, 0.9e9 / 8),
    Network("10 Gb/s", 20e-6, 9e9 / 8),
    Network("100 Gb/s", 3e-6, 90e9 / 8),
)


# One step, in each process


def training(work: str, images: int, ranks: parallel.Ranks) -> tuple[Training, Batch]:
    """Return a net that learns, and this rank's part of a batch."""
    rng = np.random.default_rng(0)
    if work == SMALL:
        net, size = models.fcn8s(6, "small", rng=rng), 96
    else:
        net, size = models.fcn8s(21, "vgg16", rng=rng), 224
    count = images // ranks.number
    shape = (count, 3, size, size)
    labels = rng.integers(0, 6, (count, size, size)).astype(np.uint8)
    batch = Batch(rng.standard_normal(shape).astype(np.float32), labels, ("drawn",) * count)
    recipe = Recipe(steps=10**6, lr=1e-4, momentum=0.9, batch_size=images)
    return Training(net, Loader(shapes("train"), images), recipe, ranks=ranks), batch


def timed(work: str, images: int, through: str, size: int) -> dict[str, Any]:
    """Return the times of some steps, and how long each waited for sums."""
    ranks = parallel.join()
    network = next((each for each in NETWORKS if each.name == through), None)
    if network:
        ranks._start_sum = partial(slow_sum, ranks, network)  # type: ignore[attr-defined]
    buckets.Buckets.__init__.__defaults__ = (size,)  # type: ignore[attr-defined]
    learning, batch = training(work, images, ranks)
    times, waits = [], []
    for _ in range(2):
        learning.step([batch])
    end = time.perf_counter() + SECONDS
    while ranks.first(lambda: len(times) < STEPS[work] and time.perf_counter() < end):
        before, start = ranks.waited, time.perf_counter()
        learning.step([batch])
        times.append(time.perf_counter() - start)
        waits.append(ranks.waited - before)
    return {"times": times, "waits": waits}


def slow_sum(ranks: Any, network: Network, array: np.ndarray) -> Callable[[], None]:
    """Sum as through a network: the messenger sleeps for as long as the bytes would travel."""
    usual = ranks.messenger.submit

    def submit(call: Callable[..., Any], *given: Any) -> Any:
        def delayed() -> None:
            time.sleep(network.ring(ranks.number, array.nbytes))
            call(*given)

        return usual(delayed)

    ranks.messenger.submit = submit
    try:
        return type(ranks)._start_sum(ranks, array)
    finally:
        ranks.messenger.submit = usual


def timeline(work: str, images: int, size: int) -> dict[str, Any]:
    """Return how long a step takes, and when in it each bucket is ready to be sent.

    The times are those of the quickest of some steps.
    """
    learning, batch = training(work, images, parallel.ALONE)
    found = []
    for _ in range(5 if work == SMALL else 3):
        ready: list[tuple[float, int]] = []
        start = time.perf_counter()

        def note(array: np.ndarray, start: float = start, ready: Any = ready) -> Callable[[], None]:
            ready.append((time.perf_counter() - start, array.nbytes))
            return lambda: None

        learning.ranks.backward = lambda loss, parameters, last=True, note=note: (  # type: ignore[method-assign]
            buckets.backward(loss, parameters, buckets.Buckets(note, size))
        )
        learning.step([batch])
        found.append({"step": time.perf_counter() - start, "ready": ready})
    return min(found, key=lambda each: each["step"])


# What is made of it


def started(number: int, *task: Any) -> dict[str, Any]:
    """Do a task in so many processes, each on one thread; return what rank 0 found."""
    command = [sys.executable, __file__, "worker", json.dumps(task)]
    if number > 1:
        command = [str(MPIEXEC), "-n", str(number), *command]
    done = subprocess.run(
        command, env=os.environ | {"MINIFCN_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def row(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def measured() -> None:
    """Print what several processes reach on this machine."""
    row("work", "scaling", "processes", "images", "step ms", "median", "efficiency", "waiting")
    row(*["---"] * 8)
    for work, kind, per in ((SMALL, "weak", 8), (SMALL, "strong", 16), (VGG, "weak", 1)):
        alone = 0.0
        for number in (1, 2, 4) if work == SMALL else (1, 2):
            images = per * number if kind == "weak" else per
            found = started(number, "timed", work, images, "", buckets.BYTES)
            best = min(found["times"])
            alone = alone or best
            ideal = alone if kind == "weak" else alone / number
            waiting = median(found["waits"]) / median(found["times"])
            row(
                *(work, kind, number, images, f"{best * 1e3:.1f}"),
                *(f"{median(found['times']) * 1e3:.1f}", f"{ideal / best:.0%}", f"{waiting:.0%}"),
            )


def emulated() -> None:
    """Print what sending early is worth, where a network lies between two processes."""
    row("work", "network", "bucket", "step ms", "waiting ms", "computed ms")
    row(*["---"] * 6)
    small, large, end = (1 << 18, 1 << 20), (1 << 20,), 1 << 40
    for work, images, sizes in ((SMALL, 16, small), (VGG, 2, large)):
        for network in NETWORKS[:2]:
            for size in (*sizes, end):
                found = started(2, "timed", work, images, network.name, size)
                told = "all at the end" if size == end else f"{size / 2**20:g} MB"
                best = min(range(len(found["times"])), key=found["times"].__getitem__)
                times = (found[name][best] * 1e3 for name in ("times", "waits"))
                line = started(1, "timeline", work, images // 2, size)
                row(
                    *(work, network.name, told),
                    *(f"{ms:.1f}" for ms in times),
                    f"{predicted(line, network, 2) * 1e3:.1f}",
                )


def predicted(line: dict[str, Any], network: Network, number: int) -> float:
    """Return the seconds of a step on so many machines: buckets travel one after the other.

    A bucket starts when it is ready and the one before has arrived. What follows backward in a step
    (the update) waits for the last.
    """
    arrived = 0.0
    for ready, size in line["ready"]:
        arrived = max(arrived, ready) + network.ring(number, size)
    last = line["ready"][-1][0]
    small = 2 * network.ring(number, 8)  # the sums of labelled pixels and of the loss
    return line["step"] + max(0.0, arrived - last) + small


def computed() -> None:
    """Print what to expect of more machines, from when buckets are ready on this one."""
    numbers = (2, 4, 8, 16, 32, 64)
    row("work", "images per machine", "gradients", "step ms", "network", *numbers)
    row(*["---"] * (5 + len(numbers)))
    for work, images in ((SMALL, 8), (SMALL, 64), (VGG, 1), (VGG, 4)):
        line = started(1, "timeline", work, images, buckets.BYTES)
        total = sum(size for _, size in line["ready"])
        for network in NETWORKS:
            each = (line["step"] / predicted(line, network, number) for number in numbers)
            row(
                *(work, images, f"{total / 1e6:.1f} MB", f"{line['step'] * 1e3:.0f}"),
                *(network.name, *(f"{share:.0%}" for share in each)),
            )


def main(arguments: Sequence[str]) -> None:
    tables = {"measured": measured, "emulated": emulated, "computed": computed}
    if arguments[:1] == ["worker"]:
        name, *given = json.loads(arguments[1])
        found = {"timed": timed, "timeline": timeline}[name](*given)
        if parallel.launched().rank == 0:
            print(json.dumps(found))
        return
    for name in arguments or tables:
        print(f"\n{name}:\n")
        tables[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
