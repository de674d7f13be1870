"""Going on with a run: bit for bit as if it had never stopped, wherever it was stopped."""

import errno
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from run_folders import outcome
from small_disk import fill, small_disk

from minifcn import data, models, snapshot, train, weights
from minifcn.data import Head
from minifcn.loop import Training
from minifcn.nn import StateError
from minifcn.process_memory import resident
from minifcn.recipes import Recipe
from minifcn.snapshot import SnapshotError
from minifcn.step import TrainingError
from minifcn.train import Observer, Stopped
from minifcn.weights import WeightsError, writing

TRAIN, VAL = data.shapes("train", length=12, size=48), data.shapes("val", length=2, size=48)
RECIPE = Recipe(
    steps=3,
    lr=0.01,
    batch_size=2,
    accumulate=2,
    crop=40,
    warmup=2,
    max_norm=3.0,
    jitter=0.2,
    sampling="replacement",
)
TINY = {"options": {"widths": (4, 4, 8, 8, 8)}}


class Uneven(list):
    """Images of three sizes, with two kinds of labels."""

    name, channels, ignore_index = "uneven", {"": 3}, 255
    heads = {  # noqa: RUF012
        "kind": Head(VAL.classes, VAL.palette),
        "any": Head(("no", "yes"), VAL.palette[:2]),
    }
    classes = (*VAL.classes, "no", "yes")
    palette = np.concatenate([VAL.palette, VAL.palette[:2]])

    def __init__(self, dataset):
        for index, (image, label, name) in enumerate(dataset):
            size = (32, 40, 48)[index % 3]
            label = np.stack([label, (label > 0).astype(label.dtype)], axis=2)
            self.append(data.Sample(image[:size], label[:size], name))


BUCKETS = replace(RECIPE, crop=None, sizes="bucket", sampling="epochs", caffe=True, accumulate=1)
NARROW = {"backbone": "vgg16", "options": {"width": 0.02, "padding": "smallest"}}
CASES = {
    "several batches in a step": ({"fcn32s": RECIPE, "fcn16s": replace(RECIPE, lr=0.02)}, {}),
    "dropout": ({"fcn32s": RECIPE, "fcn8s": replace(RECIPE, steps=2)}, NARROW),
    "two heads and buckets of sizes": (
        {"fcn32s": BUCKETS, "fcn16s": replace(BUCKETS, steps=2)},
        {"train_set": Uneven(TRAIN), "val_set": Uneven(VAL)},
    ),
    "no momentum": ({"fcn32s": replace(RECIPE, momentum=0.0)}, {}),
}


class PowerCutError(BaseException):
    """Ends a run at once, as SIGKILL does: nobody catches it."""


class BrokenError(Exception):
    """An error: what was learned is saved first."""


class Watcher(Observer):
    """Counts what it is told, and stops the run at a chosen count."""

    def __init__(self, stop=None, by=PowerCutError):
        self.left, self.by, self.seen, self.warnings = stop, by, [], []

    def _note(self, what):
        self.seen.append(what)
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise self.by

    def transplanted(self, name, report):
        self._note(f"{name} started from another")

    def stage_started(self, name, recipe, model):
        self._note(f"{name} started")

    def resumed(self, name, step):
        self._note(f"{name} goes on after {step}")

    def stepped(self, name, step):
        self._note(f"{name} step {step.step}")

    def evaluating(self, name, done, total):
        self._note(f"{name} evaluating {done}")

    def evaluated(self, name, step, matrix, best):
        self._note(f"{name} evaluated {step}")

    def warned(self, text):
        if "all pixels are predicted" not in text:
            self.warnings.append(text)


def run(out, case="several batches in a step", **options):
    stages, more = CASES[case]
    given = {"train_set": TRAIN, "val_set": VAL, "eval_every": 2, "save_every": 1, **TINY, **more}
    return train.run(options.pop("stages", stages), out=out, **{**given, **options})


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """Return the outcome of a case's run that was never stopped, and what its observer saw."""
    known = {}

    def outcome_of(case="several batches in a step"):
        if case not in known:
            out, watcher = tmp_path_factory.mktemp("whole"), Watcher()
            run(out, case, observer=watcher)
            known[case] = outcome(out), watcher.seen
        return known[case]

    return outcome_of


def stopped(out, at, case="several batches in a step", by=PowerCutError, **options):
    """Run until the observer was told so many things."""
    with pytest.raises(by):
        run(out, case, observer=Watcher(at, by), **options)


# The same bits


@pytest.mark.parametrize("by", [PowerCutError, BrokenError])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(tmp_path, never_stopped, by, record_count):
    expected, events = never_stopped()
    assert len(expected) == 7
    points = range(1, len(events) + 1, 2 if by is PowerCutError else 5)
    for at in points:
        out = tmp_path / str(at)
        stopped(out, at, by=by)
        run(out, resume=True)
        assert outcome(out) == expected, f"stopped at {events[at - 1]}"
        assert not list(out.rglob(".*.tmp"))
    record_count("runs stopped and gone on with", len(points))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("every", [4, 6])
def test_a_run_stopped_again_and_again_ends_with_the_same_bits(
    tmp_path, never_stopped, case, every, record_count
):
    stops, by = 0, (PowerCutError, BrokenError)
    while True:
        try:
            run(tmp_path, case, resume=True, observer=Watcher(every + stops % 2, by[stops % 2]))
            break
        except by:
            stops += 1
            assert stops < 40
    assert stops > 0
    assert outcome(tmp_path) == never_stopped(case)[0]
    record_count("runs stopped and gone on with", stops)


def test_dropout_really_draws_in_the_case_that_has_it(tmp_path, never_stopped, monkeypatch):
    case = "dropout"
    monkeypatch.setattr(Training, "_set_generators", lambda *arguments: None)
    stopped(tmp_path, 5, case)
    run(tmp_path, case, resume=True)
    assert outcome(tmp_path) != never_stopped(case)[0]


def test_momenta_really_matter(tmp_path, never_stopped):
    stopped(tmp_path, 5)
    for path in (tmp_path / "checkpoints").iterdir():
        found = snapshot.load_snapshot(path)
        state = found.state | {"momenta": {}}
        snapshot.save_snapshot(path, found.stage, state, found.facts)
    run(tmp_path, resume=True)
    assert outcome(tmp_path) != never_stopped()[0]


def test_workers_and_checkpoints_change_nothing(tmp_path, never_stopped):
    stopped(tmp_path, 9, save_every=None)
    run(tmp_path, resume=True, save_every=3, keep=1, workers=1)
    assert outcome(tmp_path) == never_stopped()[0]


def test_a_finished_run_is_read_and_not_trained(tmp_path):
    before, watcher = run(tmp_path), Watcher()
    expected = outcome(tmp_path)
    after = run(tmp_path, resume=True, observer=watcher)
    assert watcher.seen == ["fcn16s started", "fcn16s goes on after 3"]
    assert outcome(tmp_path) == expected
    assert list(after) == list(before)
    for name, result in before.items():
        assert after[name].step == result.step
        assert np.array_equal(after[name].matrix.matrix, result.matrix.matrix)
        assert after[name].model.training == result.model.training
        state = after[name].model.state_dict()
        for key, array in result.model.state_dict().items():
            np.testing.assert_array_equal(state[key], array)


def test_without_a_run_there_resuming_begins_one(tmp_path, never_stopped):
    run(tmp_path / "new", resume=True)
    assert outcome(tmp_path / "new") == never_stopped()[0]


def test_without_resume_a_run_begins_anew(tmp_path, never_stopped):
    stopped(tmp_path, 9, seed=1)
    assert list((tmp_path / "checkpoints").iterdir())
    watcher = Watcher()
    run(tmp_path, observer=watcher)
    assert watcher.seen == never_stopped()[1]
    assert outcome(tmp_path) == never_stopped()[0]


def test_fingerprints_of_the_images_are_kept(tmp_path):
    stopped(tmp_path, 9, trained_on={3, 5})
    run(tmp_path, resume=True)
    assert weights.read_header(tmp_path / "fcn16s" / "best.safetensors").trained_on == {3, 5}


# Checkpoints


def checkpoints(out):
    return sorted(path.stem for path in (out / "checkpoints").iterdir())


def test_the_last_ones_are_kept_and_those_of_the_best_steps(tmp_path):
    run(tmp_path, keep=2)
    kept = snapshot.Snapshots(tmp_path / "checkpoints", ["fcn32s", "fcn16s"], 2).found()
    best = {snapshot.load_snapshot(path).facts["best"]["step"] for path in kept[-2:]}
    names = {f"fcn16s-{step:08}" for step in {2, 3} | best}
    assert {path.stem for path in kept} == names


def test_none_may_not_be_kept(tmp_path):
    with pytest.raises(SnapshotError, match="keep=0: at least one checkpoint must be kept"):
        run(tmp_path, keep=0)


def test_the_old_ones_are_there_until_the_new_one_is(tmp_path, monkeypatch):
    stopped(tmp_path, 8, keep=1)
    before = checkpoints(tmp_path)
    assert before

    def cut(path):
        raise PowerCutError

    monkeypatch.setattr("minifcn.files.to_disk", cut)
    with pytest.raises(PowerCutError):
        run(tmp_path, keep=1, resume=True)
    assert checkpoints(tmp_path) == before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def edit_the_header(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"seed\\": 0', b'"seed\\": 1'))
    assert path.read_bytes() != content


def put_a_weight_file_there(path):
    shutil.copy(path.parent.parent / "fcn32s" / "best.safetensors", path)


@pytest.mark.parametrize(
    "damage", [truncate, empty, flip_a_bit, edit_the_header, put_a_weight_file_there]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, never_stopped, damage):
    stopped(tmp_path, 11)
    *_, last = checkpoints(tmp_path)
    damage(tmp_path / "checkpoints" / f"{last}.safetensors")
    watcher = Watcher()
    run(tmp_path, resume=True, observer=watcher)
    (warning,) = watcher.warnings
    assert f"{last}.safetensors: " in warning
    assert "damaged: " in warning
    assert "going back to the checkpoint before it" in warning
    assert outcome(tmp_path) == never_stopped()[0]


def test_if_all_are_damaged_nothing_is_begun(tmp_path):
    stopped(tmp_path, 11)
    for path in (tmp_path / "checkpoints").iterdir():
        flip_a_bit(path)
    with pytest.raises(SnapshotError, match=r"no checkpoint is whole \(fcn32s-00000"):
        run(tmp_path, resume=True, observer=Watcher())


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, lambda path: path.unlink()])
@pytest.mark.parametrize("at", [-1, -4])
def test_damaged_best_weights_are_made_again(tmp_path, never_stopped, damage, at):
    stopped(tmp_path, len(never_stopped()[1]) + at)
    damage(tmp_path / "fcn16s" / "best.safetensors")
    run(tmp_path, resume=True)
    assert outcome(tmp_path) == never_stopped()[0]


def test_best_weights_of_a_step_that_was_not_saved_are_not_taken(tmp_path, never_stopped):
    """The file is newer than the checkpoint: it holds what another machine might not find again."""
    stopped(tmp_path, 11)
    foreign = models.fcn32s(4, "small", widths=(4, 4, 8, 8, 8))
    facts = {"classes": VAL.classes, "palette": VAL.palette, "preprocessing": data.UNIT}
    weights.save(foreign, tmp_path / "fcn32s" / "best.safetensors", **facts)
    run(tmp_path, resume=True)
    assert outcome(tmp_path) == never_stopped()[0]


def test_best_weights_that_are_nowhere_any_more_are_told(tmp_path, never_stopped):
    run(tmp_path)
    flip_a_bit(tmp_path / "fcn32s" / "best.safetensors")  # its checkpoints are gone
    told = (
        r"fcn32s/best\.safetensors holds other weights, and the best ones of fcn32s, those of step "
    )
    with pytest.raises(SnapshotError, match=told + r"\d, are in no checkpoint any more: put that"):
        run(tmp_path, resume=True, observer=Watcher())
    (tmp_path / "fcn32s" / "best.safetensors").unlink()
    with pytest.raises(SnapshotError, match=r"fcn32s/best\.safetensors is missing, and .*--init"):
        run(tmp_path, resume=True, observer=Watcher())


@pytest.mark.parametrize("at", [9, None])
def test_a_run_whose_checkpoints_were_deleted_is_not_overwritten(tmp_path, at):
    stopped(tmp_path, at) if at else run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=r"no checkpoint to go on from: put \S+/checkpoints"):
        run(tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    run(tmp_path)  # without resume, Python begins anew


def test_a_run_that_has_made_no_step_needs_no_checkpoint(tmp_path, never_stopped):
    stopped(tmp_path, 1)
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    run(tmp_path, resume=True)
    assert outcome(tmp_path) == never_stopped()[0]


def test_a_checkpoint_of_a_newer_format_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "VERSION", 2)
    stopped(tmp_path, 5)
    monkeypatch.undo()
    watcher = Watcher()
    with pytest.raises(SnapshotError, match="no checkpoint is whole"):
        run(tmp_path, resume=True, observer=watcher)
    assert "a checkpoint of format 2, this is minifcn" in watcher.warnings[0]


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_any_random_generator_can_be_saved(tmp_path, kind):
    bits = getattr(np.random, kind)(3)
    rng = np.random.Generator(bits)
    rng.random(5, np.float32)
    state = {"done": 1, "model": {}, "momenta": {}, "generators": {"drop": bits.state}}
    snapshot.save_snapshot(tmp_path / "a.safetensors", "fcn8s", state, {})
    found = snapshot.load_snapshot(tmp_path / "a.safetensors").state["generators"]["drop"]
    expected = rng.random(7, np.float32).tolist()
    bits.state = found
    assert rng.random(7, np.float32).tolist() == expected


# Another run


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"eval_every": 3}, "eval_every: 2 there, 3 here"),
        ({"val_set": data.shapes("val", length=4, size=48)}, r"images: \[12, 2\] there"),
        (
            {"stages": {"fcn32s": RECIPE}},
            r'stages: \["fcn32s", "fcn16s"\] there, \["fcn32s"\] here',
        ),
        (
            {"stages": {"fcn32s": replace(RECIPE, lr=0.02), "fcn16s": RECIPE}},
            r"stages.fcn32s.lr: 0.01 there, 0.02 here\n  stages.fcn16s.lr: 0.02 there, 0.01 here",
        ),
        ({"options": {"widths": (4, 4, 8, 8, 16)}}, "options.widths: "),
        ({"options": {}}, r'options: \["widths"\] there, \[\] here'),
    ],
)
def test_another_configuration_is_refused_with_both_values(tmp_path, options, told):
    stopped(tmp_path, 5)
    before = checkpoints(tmp_path)
    with pytest.raises(TrainingError, match=told) as caught:
        run(tmp_path, resume=True, **options)
    assert str(caught.value).startswith(f"{tmp_path}: the run there is another one than")
    assert checkpoints(tmp_path) == before


def test_other_versions_are_a_warning(tmp_path):
    stopped(tmp_path, 5)
    for path in (tmp_path / "checkpoints").iterdir():
        found = snapshot.load_snapshot(path)
        versions = found.facts["versions"] | {"NumPy": "0.9.8"}
        facts = found.facts | {"versions": versions}
        snapshot.save_snapshot(path, found.stage, found.state, facts)
    watcher = Watcher()
    run(tmp_path, resume=True, observer=watcher)
    (warning,) = watcher.warnings
    assert warning == (
        "so far this run was computed with NumPy 0.9.8, now with "
        f"{np.__version__}: the last bits may differ"
    )


def test_a_state_of_another_net_is_refused():
    loader = data.Loader(TRAIN, 2)
    small = Training(models.fcn32s(4, "small"), loader, RECIPE)
    vgg = Training(models.fcn32s(4, "vgg16", width=0.02), loader, RECIPE)
    with pytest.raises(StateError, match=r"missing from the state: conv1_2.weight"):
        vgg.load_state(small.state())
    state = small.state() | {"generators": {"drop9": {}}}
    with pytest.raises(TrainingError, match=r"generators of drop9, this net has .* drop6, drop7"):
        small.load_state(state)


# Being asked to stop


class Asked(Watcher):
    """Sends the process a signal at a chosen count of things told."""

    def __init__(self, at, number):
        super().__init__()
        self.at, self.number = at, number

    def _note(self, what):
        self.seen.append(what)
        if len(self.seen) == self.at:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_and_all_is_saved(tmp_path, never_stopped, number):
    expected, events = never_stopped()
    handler = signal.getsignal(number)
    for at in range(1, len(events), 4):
        out, watcher = tmp_path / str(at), Asked(at, number)
        with pytest.raises(Stopped, match=r"is saved; train\.run") as caught:
            run(out, observer=watcher, save_every=None)
        assert caught.value.signal == number
        assert signal.getsignal(number) is handler
        assert len(watcher.seen) <= at + 2  # of what was begun, nothing more than a step
        going_on = Watcher()
        run(out, resume=True, observer=going_on)
        steps = [event for event in watcher.seen + going_on.seen if " step " in event]
        assert len(steps) == len(set(steps)) == 6, "a step was made twice"
        assert outcome(out) == expected


def test_a_second_signal_ends_all_at_once(tmp_path):
    class Impatient(Asked):
        def evaluating(self, name, done, total):
            signal.raise_signal(self.number)
            signal.raise_signal(self.number)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, observer=Impatient(0, signal.SIGINT))
    assert not isinstance(caught.value, Stopped)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        run(tmp_path, observer=Asked(3, signal.SIGTERM), stages={"fcn32s": RECIPE})
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    found = []
    work = threading.Thread(target=lambda: found.append(run(tmp_path)))
    work.start()
    work.join()
    assert list(found[0]) == ["fcn32s", "fcn16s"]


# Files that cannot be written


class Full:
    """Makes writing chosen files fail, as a full disk does."""

    def __init__(self, monkeypatch, is_full, number=errno.ENOSPC):
        self.failed = []
        original = writing.replacing

        def replacing(path, durable=False):
            if is_full(path):
                self.failed.append(path.name)
                raise OSError(number, "No space left on device")
            return original(path, durable)

        monkeypatch.setattr(writing, "replacing", replacing)


def test_a_checkpoint_that_cannot_be_written_is_a_warning(tmp_path, never_stopped, monkeypatch):
    full = Full(monkeypatch, lambda path: path.stem in ("fcn32s-00000001", "fcn32s-00000002"))
    watcher = Watcher()
    run(tmp_path, observer=watcher)
    assert full.failed == ["fcn32s-00000001.safetensors", "fcn32s-00000002.safetensors"]
    assert len(watcher.warnings) == 2
    assert "cannot be written: No space left on device: it needs 0.3 MB, " in watcher.warnings[0]
    assert "MB are free there: make room; the training goes on" in watcher.warnings[0]
    assert outcome(tmp_path) == never_stopped()[0]


def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path):
    """Neither a line of the log, nor a bit of the result."""

    class Filling(Watcher):
        def stepped(self, name, step):
            ballast = tmp_path / "disk" / "ballast"
            if step.step == 2:
                fill(ballast)
            if step.step == 55:
                ballast.unlink()

    options = {"stages": {"fcn32s": replace(RECIPE, steps=60, accumulate=1)}, "eval_every": None}
    options["save_every"] = 20
    run(tmp_path / "elsewhere", **options)
    watcher = Filling()
    with small_disk(tmp_path / "disk", 4) as disk:
        run(disk / "out", observer=watcher, **options)
        assert outcome(disk / "out") == outcome(tmp_path / "elsewhere")
    text = "\n".join(watcher.warnings)
    assert "log.jsonl: cannot be written: No space left on device: " in text
    assert text.count("the last lines wait in memory") == 1
    assert text.count("the training goes on, the next one may succeed") == 2  # of steps 20 and 40


def test_weights_that_cannot_be_written_stop_the_run(tmp_path, never_stopped, monkeypatch):
    Full(monkeypatch, lambda path: path.name == "best.safetensors")
    with pytest.raises(WeightsError, match=r"best.safetensors: cannot be written: No sp") as caught:
        run(tmp_path)
    assert "all until step 2 is saved" in caught.value.__notes__[0]
    monkeypatch.undo()
    run(tmp_path, resume=True)
    assert outcome(tmp_path) == never_stopped()[0]


def test_a_disk_that_is_full_from_the_beginning_is_told_before_the_first_step(
    tmp_path, monkeypatch
):
    Full(monkeypatch, lambda path: True)
    watcher = Watcher()
    with pytest.raises(
        WeightsError, match=r"fcn32s-00000000.safetensors: cannot be written: No sp"
    ):
        run(tmp_path, observer=watcher)
    assert watcher.seen == ["fcn32s started"]


def test_a_folder_that_vanishes_stops_the_run(tmp_path):
    out = tmp_path / "out"

    class Removing(Watcher):
        def stepped(self, name, step):
            self.seen.append(step.step)
            shutil.rmtree(out)

    watcher = Removing()
    with pytest.raises(TrainingError, match="out: this folder is not there any more, after step 1"):
        run(out, observer=watcher, save_every=None)
    assert watcher.seen[-1] == 1


def test_an_error_between_two_checkpoints_loses_nothing(tmp_path, never_stopped):
    with pytest.raises(BrokenError) as caught:
        run(tmp_path, observer=Watcher(4, BrokenError), save_every=None, eval_every=None)
    assert caught.value.__notes__ == [
        "all until step 3 is saved; train.run(..., resume=True) goes on from there"
    ]
    assert checkpoints(tmp_path) == ["fcn32s-00000000", "fcn32s-00000003"]


def test_an_update_that_was_broken_off_is_not_saved(tmp_path, monkeypatch):
    def broken(optimizer, only_if=None):
        optimizer.param_groups[0]["params"][0].data[...] = 3
        raise BrokenError

    monkeypatch.setattr("minifcn.optim.SGD.step", broken)
    with pytest.raises(BrokenError):
        run(tmp_path)
    assert checkpoints(tmp_path) == ["fcn32s-00000000"]


@pytest.mark.nightly
def test_the_memory_of_a_long_run_is_flat(tmp_path, request):
    """2,000 steps with checkpoints, evaluations, log and report."""

    class Weighing(Observer):
        def __init__(self):
            self.found = {}

        def stepped(self, name, step):
            if step.step % 100 == 0:
                self.found[step.step] = resident() / 1e6

    weighing = Weighing()
    stages = {"fcn8s": replace(RECIPE, steps=2000)}
    run(tmp_path, stages=stages, observer=weighing, save_every=50, eval_every=100)
    if not weighing.found[200]:
        pytest.skip("this system does not tell how much memory a process has")
    for step, megabytes in weighing.found.items():
        request.node.user_properties.append((f"MB after step {step}", round(megabytes, 1)))
    assert max(weighing.found.values()) - weighing.found[200] < 4, weighing.found


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_on_a_gpu_goes_on_with_the_same_bits(cupy, tmp_path, accumulate):
    """With one batch in a step, steps are replayed there; the first one after a stop is not."""
    recipe = replace(RECIPE, steps=5, accumulate=accumulate, batch_size=1)
    options = {"stages": {"fcn32s": recipe}, "device": "cuda", "eval_every": None}
    run(tmp_path / "whole", **options)
    with pytest.raises(BrokenError):
        run(tmp_path / "broken", observer=Watcher(4, BrokenError), **options)
    run(tmp_path / "broken", resume=True, **options)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


def test_a_run_may_move_to_another_device(standin, tmp_path):
    options, watcher = {"stages": {"fcn32s": RECIPE}, "eval_every": None}, Watcher()
    stopped(tmp_path, 3, **options)
    results = run(tmp_path, resume=True, device="cuda", observer=watcher, **options)
    assert "device cpu, now with cuda" in watcher.warnings[0]
    assert results["fcn32s"].model.fc6.bias.device.startswith("cuda")
