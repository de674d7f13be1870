"""What the processes of test_parallel.py run: ``python parallel_worker.py CASE FOLDER``."""

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minifcn import models, parallel
from minifcn.backend import checksum
from minifcn.data import Loader, Sample, shapes
from minifcn.loop import Training
from minifcn.recipes import Recipe
from minifcn.stopping import Stopped

CASES = {  # name: number type, and what is special about the recipe
    "float64": (np.float64, {}),
    "accumulated": (np.float64, {"accumulate": 2}),
    "batchmean": (np.float64, {"reduction": "batchmean", "lr": 1e-5}),
    "sum": (np.float64, {"reduction": "sum", "lr": 1e-6}),
    "clipped": (np.float64, {"max_norm": 0.1}),
    "float32": (np.float32, {}),
}
STEPS = 3


class Unequal:
    """Shapes of which one image in four has hardly any labelled pixel, and another none."""

    ignore_index = 255

    def __init__(self):
        self.of = shapes("train", length=16, size=32)
        self.name, self.classes, self.palette = "unequal", self.of.classes, self.of.palette

    def __len__(self):
        return len(self.of)

    def __getitem__(self, index):
        image, label, name = self.of[index]
        label = label.copy()
        if index % 2 == 0:
            label[1 if index % 4 else 0 :] = 255
        return Sample(image, label, name)


def trained(case, ranks):
    """Return the losses and the weights of a few steps, in batches of four for all ranks."""
    kind, special = CASES[case]
    recipe = Recipe(**{"steps": STEPS, "lr": 0.05, "batch_size": 4, "momentum": 0.9, **special})
    net = models.fcn8s(4, "small", rng=np.random.default_rng(0))
    for parameter in net.parameters():
        parameter.data = parameter.data.astype(kind)
    loader = Loader(Unequal(), 4, shard=(ranks.rank, ranks.number), flip=True)
    make = loader.batch
    loader.batch = lambda number: make(number)._replace(images=make(number).images.astype(kind))
    training = Training(net, loader, recipe, ranks=ranks)
    losses = [step.loss for step in training.steps()]
    weights = {name: p.data for name, p in net.named_parameters()}
    return {"losses": np.array(losses), **weights}


def main(case, folder):
    ranks = parallel.join()
    if case == "stuck":
        ranks.sum(1)
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        ranks.sum(1)
    elif case == "answers":
        answers(ranks)
    else:
        for name in CASES:
            found = trained(name, ranks)
            all_alike = len(set(ranks.gather(tuple(map(checksum, found.values()))))) == 1
            if ranks.leads:
                np.savez(folder / f"{name}-{ranks.number}.npz", alike=all_alike, **found)


def answers(ranks):
    """Ask the ranks for all that they know."""
    me, number = ranks.rank, ranks.number
    assert ranks.sum(me + 1) == number * (number + 1) // 2
    assert ranks.sum(np.full(2, 0.5)).tolist() == [number / 2] * 2
    assert ranks.gather({"rank": me}) == [{"rank": rank} for rank in range(number)]
    assert ranks.first(lambda: f"from {me}") == "from 0"
    array = np.full((2, 3), float(me)).T  # not in the order of its axes
    ranks.spread([array])
    assert array.tolist() == np.zeros((3, 2)).tolist()
    assert sorted(itertools.chain(*ranks.gather(ranks.share(7)))) == list(range(7))
    for call in (lambda: 1 / 0, lambda: lambda: None):  # one that fails; what cannot be sent
        with pytest.raises(Exception, match="" if me == 0 else "rank 0: "):
            ranks.first(call)
    try:
        ranks.check_alike("a number", me // 2)
    except parallel.ParallelError as error:
        print(error, flush=True)
    time.sleep(0.1)


def uncaught(error, ranks):
    """Let some ranks fail with an error that nobody catches, as in a script; others wait."""
    joined = parallel.join()
    if str(joined.rank) in ranks:
        raise {"broken": ValueError("broken"), "stopped": Stopped("all is saved", 15)}[error]
    joined.sum(1)


if __name__ == "__main__" and sys.argv[1] == "uncaught":
    uncaught(*sys.argv[2:])
elif __name__ == "__main__":
    with parallel.one_voice():
        try:
            main(sys.argv[1], Path(sys.argv[2]))
        except Exception as error:
            print(f"rank {parallel.launched().rank}: {error}", file=sys.__stderr__, flush=True)
            parallel.leave(2)
