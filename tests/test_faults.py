"""What goes wrong while a net is trained: it is named, and survived or stopped at."""

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from listed import Listed
from PIL import Image
from rich.console import Console

import minifcn.functional as F
from minifcn import cli, data, loop, models, nn, prepare, run_lock, runs, train
from minifcn.data import Batch, Loader, Preprocessing, Sample
from minifcn.data.order import Order
from minifcn.data.unreadable import TRIES, Unread
from minifcn.diagnose import diagnose, not_finite
from minifcn.loop import INSTEAD, MOST_SKIPPED, Training
from minifcn.observer import Observer
from minifcn.parallel import Ranks
from minifcn.progress import TerminalObserver
from minifcn.recipes import Recipe
from minifcn.run_lock import FolderInUseError, locked
from minifcn.snapshot import Snapshots
from minifcn.step import NotFiniteStepError, Step

RECIPE = Recipe(steps=6, lr=0.01, batch_size=2, crop=None, warmup=1)
PLAIN = Preprocessing("RGB", 1.0, (0, 0, 0), (1, 1, 1))
HERE = Path(__file__).parent


def small_net():
    return models.fcn32s(4, "small", rng=np.random.default_rng(0), padding="smallest")


def take(loader, count, start=0):
    batches = loader.steps(start)
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def lines_of(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


# --- images that cannot be read


class Damaged(Listed):
    """Gray images, of which some cannot be read."""

    classes = ("a", "b", "c", "d")
    palette = np.zeros((4, 3), np.uint8)

    def __init__(self, count, bad, error=data.DataError, sizes=(32,)):
        label = np.zeros((1, 1), np.uint8)
        super().__init__(
            [
                Sample(
                    np.full((size, size, 3), 4 * index, np.uint8),
                    np.broadcast_to(label, (size, size)),
                    f"{index}.png",
                )
                for index, size in zip(range(count), itertools.cycle(sizes), strict=False)
            ]
        )
        self.bad, self.error = set(bad), error

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error(f"{index}.png: file is damaged")
        return super().__getitem__(index)

    def image_size(self, index):
        return self[index].label.shape


@pytest.mark.parametrize("error", [data.DataError, OSError])
def test_an_unreadable_image_stops_unless_asked_otherwise(error):
    with pytest.raises(error, match=r"3\.png: file is damaged"):
        take(Loader(Damaged(12, [3], error), 2), 6)
    batches = take(Loader(Damaged(12, [3], error), 2, on_error="skip"), 12)
    assert [batch.skipped for batch in batches if batch.skipped] == [
        (Unread(3, "3.png: file is damaged"),)
    ] * 2
    assert all(len(batch.names) == 2 and "3.png" not in batch.names for batch in batches)


def test_an_error_that_is_not_of_a_file_is_never_passed_over():
    with pytest.raises(KeyError):
        take(Loader(Damaged(12, [3], KeyError), 2, on_error="skip"), 6)


def test_the_way_of_skipping_is_checked():
    with pytest.raises(data.DataError, match="on_error is 'go on': it must be one of stop, skip"):
        Loader(Damaged(12, []), on_error="go on")


@pytest.mark.parametrize("options", [{"prefetch": 0}, {"workers": 2}], ids=str)
def test_the_substitutes_are_the_same_however_batches_are_made(options):
    dataset, ways = Damaged(40, [3, 5, 11]), {"seed": 1, "on_error": "skip", "flip": True}
    expected = take(Loader(dataset, 4, **ways), 14)
    assert sum(len(batch.skipped) for batch in expected) >= 3
    for start in (0, 7) if "prefetch" in options else (7,):  # as a run that goes on
        found = take(Loader(dataset, 4, **ways, **options), 14 - start, start)
        for one, other in zip(expected[start:], found, strict=True):
            assert one.names == other.names
            assert one.skipped == other.skipped
            np.testing.assert_array_equal(one.images, other.images)


def test_ranks_find_the_same_substitutes():
    dataset = Damaged(40, [3, 5, 11])
    whole = take(Loader(dataset, 4, on_error="skip"), 10)
    parts = [take(Loader(dataset, 4, on_error="skip", shard=(r, 2)), 10) for r in (0, 1)]
    for batch, *shards in zip(whole, *parts, strict=True):
        assert [batch.names[0::2], batch.names[1::2]] == [part.names for part in shards]
        assert set(batch.skipped) == {bad for part in shards for bad in part.skipped}
        assert len(shards[0].names) == len(shards[1].names) == 2


@pytest.mark.parametrize("sampling", ["epochs", "replacement"])
def test_a_substitute_in_a_bucket_is_of_the_size(sampling):
    dataset = Damaged(40, [1, 2, 3], sizes=(16, 24))  # 0 is readable, and of 16 pixels
    loader = Loader(dataset, 4, sizes="bucket", sampling=sampling, on_error="skip")
    batches = take(loader, 20)
    assert len({bad for batch in batches for bad in batch.skipped}) == 3
    with pytest.raises(data.DataError, match=r"1\.png"):
        Loader(dataset, 4, sizes="bucket")


def test_too_many_unreadable_images_are_an_error_with_a_list():
    with pytest.raises(data.DataError) as caught:
        take(Loader(Damaged(20, [3, 5, 11]), 2, on_error="skip"), 20)
    for name in ("3.png", "5.png", "11.png"):
        assert f"{name}: file is damaged" in str(caught.value)
    assert str(caught.value).startswith("3 of the 20 samples of listed cannot be read: ")
    assert "more than 10 %" in str(caught.value)


def test_if_nothing_can_be_read_nobody_tries_for_ever():
    message = rf"^{TRIES + 1} samples of listed in turn cannot be read: .*; and \d+ more$"
    with pytest.raises(data.DataError, match=message):
        take(Loader(Damaged(50, range(50)), 1, on_error="skip"), 1)


class Both(Ranks):
    """Acts as one of two ranks, of which the other found a sample that cannot be read, too."""

    number = 2

    def gather(self, value):
        return [value, [Unread(11, "11.png: file is damaged")]]


def test_each_rank_counts_what_all_found_unreadable():
    loader = Loader(Damaged(12, []), 2, on_error="skip", shard=(0, 2))
    step = next(Training(small_net(), loader, Recipe(1, 0.01), ranks=Both()).steps())
    assert step.events == (INSTEAD + "11.png: file is damaged",)
    assert loader.bad.found == {11: "11.png: file is damaged"}  # what a checkpoint notes


class Ending(Observer):
    """Ends a run after a step, as if it was killed."""

    def __init__(self, step):
        self.step = step

    def stepped(self, name, step):
        if step.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("noted", "mended", "error"),
    [
        (True, 0, "^3 of the 20 samples of listed cannot be read: "),
        (True, 1, None),
        (False, 0, None),  # by a version that did not note which were bad
    ],
)
def test_how_many_are_unreadable_is_not_counted_anew_by_a_run_that_goes_on(
    tmp_path, monkeypatch, noted, mended, error
):
    order = [index for number in range(10) for index in Order(20, 2, seed=0)(number)]
    bad = order[0], order[3], order[-1]  # in the first, the second and the last step
    recipe, val_set = replace(RECIPE, steps=10), Damaged(2, [])
    options = {"out": tmp_path, "save_every": 1, "on_bad_image": "skip"}
    with monkeypatch.context() as patched:
        if not noted:
            save = Snapshots.save

            def older(self, stage, state, facts):
                del facts["unread"]
                save(self, stage, state, facts)

            patched.setattr(Snapshots, "save", older)
        ended, first = options | {"observer": Ending(4)}, Damaged(20, bad[:2])
        with pytest.raises(KeyboardInterrupt):
            train.run({"fcn32s": recipe}, first, val_set, **ended)
    again = Damaged(20, bad[mended:])
    with pytest.raises(data.DataError, match=error) if error else nullcontext():
        train.run({"fcn32s": recipe}, again, val_set, **options, resume=True)


def image_folder(folder, count=22):
    """Write a data set of small images; return one to be damaged."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for split, some in (("train", count), ("val", 2)):
        names = [f"{split}{index}" for index in range(some)]
        for name in names:
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            Image.fromarray(pixels[:, :, 0] // 128).save(folder / "labels" / f"{name}.png")
        (folder / f"{split}.txt").write_text("\n".join(names))
    (folder / "classes.txt").write_text("dark\nbright\n")
    return folder / "images" / "train5.png"


def cut_short(file):
    file.write_bytes(file.read_bytes()[:200])


def command(folder, out, *more):
    given = ["train", "--data", f"folder:{folder}", "--out", str(out), "--device", "cpu"]
    numbers = ["--stages", "32s", "--steps", "12", "--batch-size", "2", "--crop", "0"]
    return [*given, *numbers, *map(str, more)]


def main(arguments):
    """Run a command in this process; return its exit status."""
    try:
        cli.main(arguments)
    except SystemExit as end:
        return end.code
    return 0


def test_a_run_passes_over_a_bad_file_and_says_so(tmp_path, capfd):
    bad = image_folder(tmp_path / "data")
    cut_short(bad)
    assert main(command(tmp_path / "data", tmp_path / "stopped")) == cli.USER_ERROR
    assert str(bad) in capfd.readouterr().err
    out = tmp_path / "out"
    assert main([*command(tmp_path / "data", out, "--on-bad-image", "skip"), "--steps", "36"]) == 0
    told = capfd.readouterr().err
    assert "warning: 1 of the 22 samples" in told
    events = [line for line in lines_of(out / "fcn32s" / "log.jsonl") if "event" in line]
    assert len(events) > 1
    for event in events:
        assert event["event"].startswith(
            "another sample took the place of one that cannot be read: "
        )
        assert str(bad) in event["event"]
    assert re.findall(r"warning: step (\d+): another sample", told) == [str(events[0]["step"])]


def test_held_out_images_are_never_passed_over(tmp_path):
    image_folder(tmp_path)
    cut_short(tmp_path / "images" / "val0.png")
    train_set, val_set = prepare.open_both(f"folder:{tmp_path}")
    with pytest.raises(data.DataError, match=r"val0\.png"):
        prepare.check_data(train_set, val_set, RECIPE, lambda done, total: None, "skip")


@pytest.mark.parametrize("workers", [0, 1])
def test_of_an_image_that_goes_bad_in_a_run_a_way_past_it_is_told(tmp_path, workers):
    """Not of a held-out one, which is never passed over."""
    good, bad = Damaged(8, []), Damaged(8, [5])
    with pytest.raises(data.DataError, match=r"5\.png") as caught:
        train.run({"fcn32s": RECIPE}, bad, good, tmp_path / "one", workers=workers)
    assert any("--on-bad-image skip" in note for note in caught.value.__notes__)
    with pytest.raises(data.DataError, match=r"5\.png") as caught:
        train.run({"fcn32s": RECIPE}, good, bad, tmp_path / "other", workers=workers)
    assert not any("--on-bad-image" in note for note in caught.value.__notes__)


# --- numbers that are not finite


def overflowing():
    """Return a net and a loader: all images are black but number 5, which makes it overflow."""
    samples = [
        Sample(np.full((32, 32, 3), 255 * (i == 5), np.uint8), np.zeros((32, 32), np.uint8), f"{i}")
        for i in range(8)
    ]
    dataset = Damaged(8, [])
    dataset.samples = samples
    net = small_net()
    next(iter(net.parameters())).data[...] = 3e36
    return net, Loader(dataset, 4, PLAIN)


def arrays(training):
    momenta = training.optimizer.momenta
    return [p.data.copy() for p in training.model.parameters()], [
        momenta[p].copy() for p in training.model.parameters() if p in momenta
    ]


def test_a_loss_that_is_not_finite_is_explained():
    training = Training(*overflowing(), RECIPE)
    before = arrays(training)
    with np.errstate(all="ignore"), pytest.raises(NotFiniteStepError) as caught:
        list(training.steps())
    told = str(caught.value)
    assert re.match(r"the loss is (nan|inf) at step [12] \(images .*\b5\b.*\): conv2d", told), told
    assert " made inf of x (4, 3, " in told
    assert " in layer '" in told
    assert "; of the images alone 5 does so: the learning rate 0.01 is probably too high" in told
    assert training.whole
    if training.done == 0:
        for one, other in zip(before[0], arrays(training)[0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_diagnosis_draws_the_same_numbers_for_dropout(monkeypatch):
    """A step that fails leaves the generators as they were, so that it can be repeated."""
    net = nn.Sequential(score=nn.Conv2d(3, 4, 3, padding=1), drop=nn.Dropout(0.5))
    net.score.weight.data[...] = 3e36
    training, seen = Training(net, overflowing()[1], RECIPE), []

    def states():
        return [str(rng.bit_generator.state) for _, rng in training._generators()]

    def noted(*arguments):
        seen.append(states())
        return diagnose(*arguments)

    monkeypatch.setattr(loop, "diagnose", noted)
    before = states()
    assert before
    with np.errstate(all="ignore"), pytest.raises(NotFiniteStepError):
        training.step([training.loader.batch(0), training.loader.batch(1)])
    assert seen == [before]


def test_weights_that_were_wrong_before_are_named_first():
    training = Training(small_net(), Loader(data.shapes("train"), 2), RECIPE)
    name, weight = list(training.model.named_parameters())[2]
    weight.data.flat[3] = np.nan
    with pytest.raises(NotFiniteStepError, match=rf"the weights of {name} were not finite even"):
        next(training.steps())
    assert not training.whole  # nothing that is worth a checkpoint


def test_pixels_that_are_not_finite_are_the_images_fault():
    training = Training(small_net(), Loader(data.shapes("train"), 2), RECIPE)
    good = training.loader.batch(0)
    good.images[1, 0, 3, 3] = np.inf
    with np.errstate(all="ignore"), pytest.raises(NotFiniteStepError) as caught:
        training.step([good])
    assert f": the pixels of {good.names[1]} are not finite as the net" in str(caught.value)
    assert str(caught.value).endswith("mend these images, or leave them out")


def test_a_step_that_is_finite_when_it_is_repeated():
    batch = Batch(np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 8, 8)), ("a",))
    found = diagnose(small_net(), lambda parts: None, [batch])
    assert found.text == "computed again, all numbers of this step are finite"


def bad_gradient(output, labels, reduction):
    """A loss whose number is right, and whose gradient is not: √x has an infinite slope at 0."""
    return F.cross_entropy(output, labels, reduction=reduction) + F.sqrt(output * 0.0).sum()


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_gradient_that_is_not_finite_changes_no_weight(on_nan):
    recipe = RECIPE if on_nan == "skip" else Recipe(**{**vars(RECIPE), "max_norm": 3.0})
    loader = Loader(data.shapes("train", size=32), 2)
    training = Training(small_net(), loader, recipe, loss=bad_gradient, on_nan=on_nan)
    before = arrays(training)
    with np.errstate(all="ignore"):
        if on_nan == "skip":
            step = next(training.steps())
            assert "the gradient of conv1_1.weight is not finite" in step.events[0]
        else:
            message = "the gradient of .* is not finite at step 1 .* d sqrt / d x made inf of"
            with pytest.raises(NotFiniteStepError, match=message):
                next(training.steps())
    for one, other in zip(before[0], arrays(training)[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert arrays(training)[1] == []  # no momentum either


class Spoiling(Loader):
    """Makes the pixels of some batches infinite."""

    spoilt = ()

    def batch(self, number):
        batch = super().batch(number)
        if number in self.spoilt:
            batch.images[0, 0] = np.inf
        return batch


def spoiling(*numbers):
    loader = Spoiling(data.shapes("train", size=32), 2)
    loader.spoilt = numbers
    return loader


def test_skipped_steps_leave_everything_as_it_was():
    training = Training(small_net(), spoiling(2, 3), RECIPE, on_nan="skip")
    steps, kept = [], []
    with np.errstate(all="ignore"):
        for step in training.steps():
            steps.append(step)
            kept.append(arrays(training))
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [math.isnan(step.loss) for step in steps] == [False, False, True, True, False, False]
    assert [step.numbers()["loss"] for step in steps][2:4] == [None, None]
    for step in steps[2:4]:
        assert re.fullmatch(
            r"the step was skipped: the loss is (nan|inf) \(images train-\d+, train-\d+\)",
            *step.events,
        )
    for kind in (0, 1):  # weights, and momenta
        for one, other in zip(kept[1][kind], kept[3][kind], strict=True):
            np.testing.assert_array_equal(one, other)
        assert any((a != b).any() for a, b in zip(kept[3][kind], kept[4][kind], strict=True))
    assert training.in_a_row == 0


def test_skipping_ends_after_some_steps_in_a_row():
    recipe = Recipe(**{**vars(RECIPE), "steps": 30})
    training = Training(small_net(), spoiling(*range(3, 30)), recipe, on_nan="skip")
    found = []
    message = (
        rf"^{MOST_SKIPPED} steps in a row: the loss is .* at step {3 + MOST_SKIPPED} .* pixels"
    )
    with np.errstate(all="ignore"), pytest.raises(NotFiniteStepError, match=message):
        found.extend(training.steps())
    assert found[-1].step == 2 + MOST_SKIPPED
    # Also if the run was stopped and resumed in the meantime.
    again = Training(small_net(), training.loader, recipe, on_nan="skip")
    again.load_state({**training.state(), "done": 8, "in_a_row": 5})
    with np.errstate(all="ignore"), pytest.raises(NotFiniteStepError, match="at step 13"):
        list(again.steps())


def test_a_run_goes_on_after_skipped_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(Spoiling, "spoilt", (1, 2))
    monkeypatch.setattr(train, "Loader", Spoiling)
    warned, sets = [], [data.shapes(split, length=4, size=32) for split in ("train", "val")]
    observer = Observer()
    observer.warned = warned.append
    with np.errstate(all="ignore"):
        train.run({"fcn32s": RECIPE}, *sets, tmp_path, on_nan="skip", observer=observer)
    lines = lines_of(tmp_path / "fcn32s" / "log.jsonl")
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert [losses[step] is None for step in range(1, 7)] == [False, True, True, *[False] * 3]
    events = [(line["step"], line["event"][:20]) for line in lines if "event" in line]
    assert events == [(2, "the step was skipped"), (3, "the step was skipped")]
    assert len([text for text in warned if "the step was skipped" in text]) == 2


def test_a_skipped_step_does_not_spoil_the_mean_that_is_shown(tmp_path):
    clock = itertools.count(0.0, 20.0)
    with (tmp_path / "told.txt").open("w+") as file:
        with TerminalObserver(Console(file=file, width=100), lambda: next(clock)) as observer:
            for number, loss in enumerate((2.0, math.nan, 4.0), start=1):
                observer.stepped("fcn32s", Step(number, 3, loss, lr=0.1, seconds=1.0))
        file.seek(0)
        assert re.findall("loss (.*?) ", file.read()) == ["2.000", "2.000", "3.000"]


def test_which_arrays_are_not_finite():
    assert not_finite({}) is None
    large = np.full(8, 3e38, np.float32)  # their sum overflows, they do not
    assert not_finite({"a": np.zeros(0, np.float32), "b": large}) is None
    assert not_finite({"a": large, "b": np.array([np.inf, -np.inf])}) == "b"


def test_on_a_gpu_skipping_looks_at_each_step(cupy):
    def net():
        return nn.Sequential(score=nn.Conv2d(3, 4, 3, padding=1, rng=np.random.default_rng(0)))

    loader = spoiling(1)
    recipe = Recipe(**{**vars(RECIPE), "steps": 3})
    training = Training(net(), loader, recipe, "cuda", on_nan="skip")
    kept = []
    with np.errstate(all="ignore"):
        for step in training.steps():
            kept.append([p.numpy().copy() for p in training.model.parameters()])
            assert math.isnan(step.loss) == (step.step == 2)
    assert all((a == b).all() for a, b in zip(kept[0], kept[1], strict=True))
    assert any((a != b).any() for a, b in zip(kept[1], kept[2], strict=True))
    late = Training(net(), spoiling(1), recipe, "cuda")
    with np.errstate(all="ignore"), pytest.raises(NotFiniteStepError, match="are looked at late"):
        list(late.steps())
    assert not late.whole


# --- workers that die


class Deadly(Damaged):
    """A data set of which one image kills the process that reads it, as Linux does."""

    def __getitem__(self, index):
        if index == Order(12, 2, seed=0)(3)[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_killed_worker_ends_a_run_that_has_saved_what_it_learned(tmp_path):
    stages, val_set = {"fcn32s": RECIPE}, Damaged(4, [])
    start = time.monotonic()
    with pytest.raises(data.DataError) as caught:
        train.run(stages, Deadly(12, []), val_set, tmp_path, workers=1)
    assert time.monotonic() - start < 20
    how = r"^worker process \d+ ended before its time \(killed by signal 9, SIGKILL\): "
    assert re.search(how + "Linux ends processes so when memory runs out", str(caught.value))
    assert "choose fewer workers (--workers)" in str(caught.value)
    done = max(int(file.stem.split("-")[-1]) for file in (tmp_path / "checkpoints").iterdir())
    assert done == len([line for line in lines_of(tmp_path / "fcn32s/log.jsonl") if "loss" in line])
    assert done == 3
    assert f"all until step {done} is saved" in "".join(caught.value.__notes__)
    whole = train.run(stages, Damaged(12, []), val_set, tmp_path / "whole")["fcn32s"].model
    model = train.run(stages, Damaged(12, []), val_set, tmp_path, resume=True)["fcn32s"].model
    for name, array in whole.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])


class Group(Damaged):
    """A data set of which one image brings a signal to all processes of a run that waits for it."""

    def __init__(self, count, log=None):
        super().__init__(count, [])
        self.log, self.main = log, os.getpid()

    def __getitem__(self, index):
        if self.log and index == Order(12, 2, seed=0)(3)[0]:
            while self.log.read_text().count('"loss"') < 3:
                time.sleep(0.02)
            time.sleep(0.5)
            os.kill(self.main, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_that_ends_the_workers_first_stops_the_run_as_any_other(tmp_path):
    stages, val_set = {"fcn32s": RECIPE}, Damaged(4, [])
    signalled = Group(12, tmp_path / "fcn32s" / "log.jsonl")
    with pytest.raises(train.Stopped, match="all until step 3 is saved") as caught:
        train.run(stages, signalled, val_set, tmp_path, workers=1)
    assert caught.value.signal == signal.SIGTERM
    assert "SIGTERM" in str(caught.value.__cause__)
    assert runs.read(tmp_path).state.name == runs.STOPPED
    train.run(stages, Group(12), val_set, tmp_path, resume=True)
    train.run(stages, Group(12), val_set, tmp_path / "whole")
    for file in ("best.safetensors", "last.safetensors"):
        whole = (tmp_path / "whole" / "fcn32s" / file).read_bytes()
        assert (tmp_path / "fcn32s" / file).read_bytes() == whole


# --- two runs in one folder

HOLDING = """
import sys, time
from pathlib import Path
from minifcn.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def child(code, *arguments, **environment):
    """Start a Python process."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(HERE.parent)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


unix = pytest.mark.skipif(run_lock.fcntl is None, reason="this system has no such locks")


@unix
def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path, capfd):
    image_folder(tmp_path / "data")
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text('{"stages": {}}')
    with child(HOLDING, out) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(FolderInUseError) as caught, locked(out):
                pass
            assert re.match(
                rf"{re.escape(str(out))} is in use by another run \(process {holder.pid} on \S+, "
                rf"since \d{{4}}-\d\d-\d\d .*: .*{re.escape(str(out))}\): wait until",
                str(caught.value),
            )
            assert main(command(tmp_path / "data", out, "--overwrite")) == cli.USER_ERROR
            told = capfd.readouterr().err.splitlines()
            assert len(told) == 1  # before any work was done
            assert f"in use by another run (process {holder.pid}" in told[0]
            assert (out / "config.json").read_text() == '{"stages": {}}'  # nothing was removed
            with pytest.raises(FolderInUseError):
                train.run({}, data.shapes("train"), data.shapes("val"), out)
        finally:
            holder.kill()
    assert (out / ".lock").exists()  # left by the killed process, and no obstacle
    with locked(out):
        assert json.loads((out / ".lock").read_text())["process"] == os.getpid()
    assert not (out / ".lock").exists()


@unix
def test_a_thread_may_lock_a_folder_again_and_another_thread_may_not(tmp_path):
    refused = []

    def other():
        try:
            with locked(tmp_path):
                pass
        except FolderInUseError as error:
            refused.append(error)

    with locked(tmp_path):
        with locked(tmp_path / "." / ""):
            pass
        assert (tmp_path / ".lock").exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    other()
    assert len(refused) == 1


@unix
def test_a_lock_that_is_removed_while_another_one_opens_it(tmp_path, monkeypatch):
    real, removed = run_lock.fcntl.flock, []

    def flock(opened, how):
        if not removed:
            removed.append((tmp_path / ".lock").unlink())
        real(opened, how)

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()
        monkeypatch.undo()
        with child(HOLDING, tmp_path) as second:
            assert "FolderInUseError" in second.communicate(timeout=30)[1]


@unix
def test_a_lock_that_says_nothing_yet(tmp_path):
    with locked(tmp_path):
        (tmp_path / ".lock").write_text("")
        with child(HOLDING, tmp_path) as second:
            told = second.communicate(timeout=30)[1]
    assert "is in use by another run: wait until that has ended" in told


@unix
def test_where_there_are_no_locks_the_run_goes_on_with_a_warning(tmp_path, monkeypatch):
    def flock(opened, how):
        raise OSError(37, "No locks available")

    warnings = []
    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with locked(tmp_path, warnings.append):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert not (tmp_path / ".lock").exists()
    monkeypatch.setattr(run_lock, "fcntl", None)
    with locked(tmp_path, warnings.append):
        pass
    assert "cannot be locked (No locks available), as on some network drives" in warnings[0]
    assert "this system has no locks" in warnings[1]
    assert all("nothing keeps a second run out" in warning for warning in warnings)


@unix
def test_a_folder_that_can_only_be_read_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(path, *rest):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(run_lock.os, "open", refuse)
    message = r"\.lock: Read-only file system: this disk can only be read: choose a folder on"
    with pytest.raises(FolderInUseError, match=message), locked(tmp_path):
        pass


# --- a folder that is gone


VANISHING = """
import shutil, sys
from pathlib import Path
from minifcn import cli, observer, progress
real = progress.TerminalObserver.stepped
def stepped(self, name, step):
    if step.step == 3:
        shutil.rmtree(sys.argv[1])
    real(self, name, step)
progress.TerminalObserver.stepped = stepped
cli.main(sys.argv[2:])
"""


def test_a_folder_that_is_removed_stops_the_run(tmp_path):
    image_folder(tmp_path / "data")
    out = tmp_path / "out"
    with child(VANISHING, out, *command(tmp_path / "data", out)) as process:
        told = process.communicate(timeout=60)[1]
    assert process.returncode == cli.USER_ERROR, told
    last = told.strip().splitlines()[-1]
    assert "error: " in last
    assert str(out) in last
    assert "not there any more" in last
    assert "Traceback" not in told
    assert not out.exists()


# --- clocks that jump


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    """Durations are taken from a clock that only rises; the time of day may do what it likes."""
    jumps = itertools.cycle([2e9, 0.0, 1e9, 5e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    console = Console(file=(tmp_path / "told.txt").open("w"), width=100, force_terminal=True)
    sets = [data.shapes(split, length=4, size=32) for split in ("train", "val")]
    began = time.perf_counter()
    with TerminalObserver(console) as observer:
        result = train.run({"fcn32s": RECIPE}, *sets, tmp_path / "out", observer=observer)
    took = time.perf_counter() - began
    console.file.close()
    lines = lines_of(tmp_path / "out" / "fcn32s" / "log.jsonl")
    assert sum("loss" in line for line in lines) == RECIPE.steps
    for line in lines:
        for name in ("seconds", "wait"):
            assert 0 <= line.get(name, 0.0) <= took
    assert 0 <= result["fcn32s"].seconds <= took


def test_nothing_measures_with_the_time_of_day():
    """Where it is asked for, it is only written down."""
    asking = re.compile(r"\btime\.time\(|from time import .*\btime\b|datetime\.(now|utcnow)\(")
    files = sorted((HERE.parent / "minifcn").rglob("*.py"))
    found = {f.name for f in files if asking.search(f.read_text(encoding="utf-8"))}
    assert found <= {"event_files.py", "machine.py", "run_lock.py", "run_page.py"}


# --- memory that runs out

SCARCE = """
import resource, sys
from minifcn import cli
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
cli.main(sys.argv[2:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
def test_memory_that_runs_out_is_explained_and_nothing_is_lost(tmp_path):
    image_folder(tmp_path / "data", count=6)
    large = np.zeros((1200, 1200, 3), np.uint8)
    Image.fromarray(large).save(tmp_path / "data/images/train5.png")
    Image.fromarray(large[:, :, 0]).save(tmp_path / "data/labels/train5.png")
    more = ["--batch-size", "1", "--workers", "0"]
    out = tmp_path / "out"
    # Each thread takes address space for itself, too, and BLAS ends the process if it gets none.
    one = {"MINIFCN_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with child(SCARCE, 330 << 20, *command(tmp_path / "data", out, *more), **one) as process:
        told = process.communicate(timeout=100)[1]
    assert process.returncode == cli.USER_ERROR, told
    message = r"error: \w+ of \w+ \(.* Unable to allocate .*: use fewer or smaller images at a time"
    assert re.search(message, told), told
    assert "smaller parts of the images (--crop)" in told
    done = max(int(file.stem.split("-")[-1]) for file in (out / "checkpoints").iterdir())
    assert f"all until step {done} is saved" in told
    assert done == len([line for line in lines_of(out / "fcn32s/log.jsonl") if "loss" in line])
    assert 0 < done < 12
    assert main(["train", "--out", str(out), "--resume", "--device", "cpu"]) == 0
    assert len(lines_of(out / "fcn32s" / "log.jsonl")) > 12
