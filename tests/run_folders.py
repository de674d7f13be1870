"""Run folders for tests: real ones of tiny nets, and ones with logs as long as one likes."""

import hashlib
import json
import os
import socket
from dataclasses import asdict, replace

import numpy as np

from minifcn import data, runs, train
from minifcn.data import Head
from minifcn.metrics import ConfusionMatrix
from minifcn.recipes import Recipe
from minifcn.run_log import evaluation_line

TRAIN, VAL = data.shapes("train", length=16), data.shapes("val", length=8)
RECIPE = Recipe(steps=4, lr=0.1, batch_size=2, crop=None, warmup=1)
STAGES = {"fcn32s": RECIPE, "fcn8s": replace(RECIPE, steps=6, lr=0.05)}
WIDTHS = (4, 8, 8, 8, 8)


def trained(out, stages=STAGES, val_set=VAL, **options):
    """Train tiny nets into a folder; options are those of `train.run`."""
    usual = {"options": {"widths": WIDTHS}, "eval_every": 2, "seed": 3}
    return train.run(stages, TRAIN, val_set, out, **usual | options)


def outcome(out):
    """Return all that a run leaves that must not depend on where it was stopped."""
    weights = [f for f in out.glob("*/*.safetensors") if f.parent.name != "checkpoints"]
    files = [*weights, out / "metrics.json"]
    found = {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    for log in out.glob("*/log.jsonl"):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        free = ("seconds", "wait", "memory")
        kept = [line for line in lines if "event" not in line]
        found[log.parent.name] = [{n: v for n, v in line.items() if n not in free} for line in kept]
    return found


def matrix(counts):
    return ConfusionMatrix.from_counts(counts)


def written(out, steps=10, total=None, state=None, classes=("sea", "land"), heads=None, **config):
    """Write a run folder without training; return the path of the log of its one stage."""
    stages = {"fcn8s": asdict(replace(RECIPE, steps=total or steps))}
    settings = {"data": "shapes train", "val": "shapes val", "seed": 0, "stages": stages} | config
    (out / "fcn8s").mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(settings))
    log = out / "fcn8s" / "log.jsonl"
    with log.open("w") as file:
        for step in range(1, steps + 1):
            for line in lines_of(step, total or steps, len(classes)):
                print(json.dumps(line), file=file)
    if heads is None:
        palette = np.arange(3 * len(classes), dtype=np.uint8).reshape(-1, 3)
        heads = {"": Head(tuple(classes), palette)}
    (out / runs.WATCH).mkdir()
    runs.write_shown(out, runs.Shown(heads, []))
    if state:
        runs.write_state(out, runs.State(state, "fcn8s"))
    if state == runs.RUNNING:
        at_work = {"process": os.getpid(), "machine": socket.gethostname()}
        (out / ".lock").write_text(json.dumps(at_work))
    return log


def lines_of(step, steps, classes=2):
    """Yield the lines of a log about a step."""
    if step == 1 or step % 100 == 0:
        numbers = {"mean": 0.5, "std": 1.0, "zeros": 0.25, "negatives": 0.5}
        learning = {"gradient": 1 / step, "weight": 0.2, "update": 0.001}
        yield {"step": step, "layers": {"conv1_1": numbers | learning, "upscore8": numbers}}
    numbers = {"step": step, "steps": steps, "loss": 2 / (1 + step / steps), "lr": 0.1}
    yield numbers | {"seconds": 0.25, "images": 4, "wait": 0.25, "memory": 10**8 + step}
    if step % max(1, steps // 5) == 0:
        counts = np.full((classes, classes), 10) + step * np.eye(classes, dtype=int)
        yield evaluation_line(step, {"": matrix(counts)}, 1.0)
