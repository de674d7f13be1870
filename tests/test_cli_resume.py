"""``minifcn train --resume``: which options it takes from the run, and which it refuses."""

import json
import shlex
import shutil

import pytest
from layouts_folder import make_folder

from minifcn import cli, prepare, train
from minifcn.train import Observer

TEXT = "--stages 32s --steps 2 --crop 48 --lr 0.01 --batch-size 2 --widths 4,4,8,8,8 --device cpu"


class BrokenError(Exception):
    """What ends the runs here."""


@pytest.fixture
def command(capsys):
    """Run a command line in this process; returns (exit code, what it printed to stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return caught.value.code or 0, capsys.readouterr().err

    return run


@pytest.fixture
def out(command, monkeypatch, tmp_path):
    """A run that an error ended after its first step."""

    def broken(self, name, step):
        raise BrokenError

    spec = make_folder(tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr("minifcn.progress.TerminalObserver.stepped", broken)
        code, told = command("train", "--data", spec, "--out", tmp_path / "run", *TEXT.split())
    assert code == 1, told
    assert told.endswith(
        "unexpected BrokenError: ; run again with --debug\n  all until step 1 is saved; "
        f"minifcn train --out {tmp_path / 'run'} --resume goes on from there\n"
    )
    return tmp_path / "run"


def goes_on(command, out, *options):
    code, told = command("train", "--out", out, "--resume", *options)
    assert code == 0, told
    assert "fcn32s: going on after step 1" in told
    assert list(json.loads((out / "metrics.json").read_text())) == ["fcn32s"]


def test_no_option_is_needed(command, out):
    goes_on(command, out)


def test_options_may_be_given_again_also_with_their_usual_values(command, out):
    spec = f"folder:{out.parent / 'data'}"
    goes_on(command, out, "--data", spec, "--steps", "2", "--seed", "0", "--recipe", "quick")


def test_some_options_may_change(command, out):
    goes_on(command, out, "--workers", "1", "--save-every", "7", "--keep", "1", "--on-nan", "skip")


def test_the_folder_may_have_moved(command, out):
    moved = out.rename(out.with_name("another place"))
    goes_on(command, moved)


def test_images_are_not_all_read_again(command, out, monkeypatch):
    monkeypatch.setattr(prepare, "check_data", lambda *arguments: pytest.fail("they were"))
    goes_on(command, out)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--seed", "1"), "--seed is 0 there, 1 here"),
        (("--steps", "3"), "--steps is 2 there, 3 here"),
        (("--no-flip",), "--flip is not given there, False here"),
        (("--precision", "tf32"), "--precision is not given there, tf32 here"),
        (("--eval-every", "5"), "--eval-every is 4000 there, 5 here"),
        (("--data", "shapes"), "there, shapes here"),
        (("--init", "a.pth", "--init", "b.pth"), "--init is not given there, ['a.pth', 'b.pth']"),
        (("--overwrite",), "--resume goes on with a run, --overwrite replaces it: choose one"),
    ],
)
def test_other_options_are_refused_with_both_values(command, out, options, told):
    before = sorted(path.name for path in (out / "checkpoints").iterdir())
    code, error = command("train", "--out", out, "--resume", *options)
    assert code == 2
    assert error.startswith("minifcn: error: ")
    assert len(error.splitlines()) == 1
    assert told in error
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == before


def test_what_was_learned_is_not_replaced_by_accident(command, out):
    spec = f"folder:{out.parent / 'data'}"
    before = sorted((out / "checkpoints").iterdir())
    code, error = command("train", "--data", spec, "--out", out, *TEXT.split())
    assert code == 2
    assert f"{out} holds a run that has not come to its end: go on with it (--resume)" in error
    assert sorted((out / "checkpoints").iterdir()) == before
    (out / "checkpoints" / "fcn16s-00000009.safetensors").touch()  # of other stages than now
    code, error = command("train", "--data", spec, "--out", out, *TEXT.split(), "--overwrite")
    assert code == 0, error
    names = [path.name for path in (out / "checkpoints").iterdir()]
    assert sorted(names) == [f"fcn32s-0000000{step}.safetensors" for step in (0, 2)]


def test_a_run_that_learned_nothing_is_no_hindrance(command, out):
    (out / "checkpoints" / "fcn32s-00000001.safetensors").unlink()
    spec = f"folder:{out.parent / 'data'}"
    code, error = command("train", "--data", spec, "--out", out, *TEXT.split())
    assert code == 0, error


def test_a_run_whose_checkpoints_were_deleted_is_not_overwritten_by_accident(command, out):
    shutil.rmtree(out / "checkpoints")
    spec = f"folder:{out.parent / 'data'}"
    log = (out / "fcn32s" / "log.jsonl").read_bytes()
    lost = "has learned something, but no checkpoint to go on from"
    for options, told in (
        (("--resume",), lost),
        (("--resume", "--data", spec, *TEXT.split()), lost),
        (("--data", spec, *TEXT.split()), "has not come to its end"),
    ):
        code, error = command("train", "--out", out, *options)
        assert code == 2
        assert told in error
    assert (out / "fcn32s" / "log.jsonl").read_bytes() == log
    code, error = command("train", "--out", out, "--data", spec, *TEXT.split(), "--overwrite")
    assert code == 0, error


def test_a_data_set_that_has_changed_is_refused(command, out):
    images = out.parent / "data"
    (images / "val.txt").write_text("b\n", encoding="utf-8")
    code, error = command("train", "--out", out, "--resume")
    assert code == 2
    assert "images: [3, 3] there, [3, 1] here" in error


def test_a_run_that_python_began_is_gone_on_with_there(command, out):
    config = json.loads((out / "config.json").read_text())
    del config["given"]
    (out / "config.json").write_text(json.dumps(config))
    code, error = command("train", "--out", out, "--resume")
    assert code == 2
    assert "was not begun by minifcn train" in error
    assert "train.run(..., resume=True)" in error


def test_without_a_run_the_data_must_be_named(command, tmp_path):
    code, error = command("train", "--out", tmp_path / "new", "--resume")
    assert code == 2
    assert "holds no run to go on with; say what to learn from: --data" in error
    code, error = command("train", "--out", tmp_path / "new")
    assert code == 2
    assert "say what to learn from: --data, for example --data landcover" in error
    assert not (tmp_path / "new").exists()


def test_without_a_run_one_is_begun_and_a_finished_one_is_left_alone(command, tmp_path):
    """So that the same command can stand in a loop."""
    spec = make_folder(tmp_path / "data")
    again = ["train", "--out", tmp_path / "run", "--data", spec, *TEXT.split(), "--resume"]
    assert command(*again)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    code, told = command(*again)
    assert code == 0
    assert f"the run in {tmp_path / 'run'} is finished" in told
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_the_command_is_written_down_as_it_can_be_typed(out):
    config = json.loads((out / "config.json").read_text())
    spec = f"folder:{out.parent / 'data'}"
    assert config["given"]["data"] == spec
    assert "out" not in config["given"]
    typed = shlex.split(config["command"])
    assert typed[:4] == ["minifcn", "train", "--out", str(out)]
    assert sorted(typed[4:]) == sorted(["--data", spec, *TEXT.split()])
    assert config["versions"]["NumPy"]


def test_every_kind_of_option_survives_being_written_down(monkeypatch, tmp_path, command):
    """Switches, lists, words and numbers: the run that goes on has the same ones."""
    plans = []
    monkeypatch.setattr(
        train, "run", lambda *given, **options: plans.append((given, options)) or {}
    )
    spec, out = make_folder(tmp_path / "data"), tmp_path / "run"
    options = "--no-flip --rotate --scale 0.5,2 --jitter 0.1 --sampling replacement --crop 40"
    text = f"{options} --fusion max --padding smallest --backbone vgg16 --width 0.02 --recipe light"
    command("train", "--data", spec, "--out", out, *text.split(), "--steps", "3,2,1")
    recipes, *_ = plans[0][0]
    record = plans[0][1]["record"]
    out.mkdir(exist_ok=True)
    (out / "config.json").write_text(json.dumps({"stages": {}, "options": {}, **record}))
    command("train", "--out", out, "--resume")
    assert len(plans) == 2
    assert plans[1][0][0] == recipes
    assert recipes["fcn8s"].flip is False
    for name in ("backbone", "options", "preprocessing", "seed", "eval_every"):
        assert plans[1][1][name] == plans[0][1][name], name


def test_weights_to_start_from_are_not_needed_any_more(command, out, tmp_path):
    """They are in the first checkpoint."""
    goes_on(command, out)
    weights = out / "fcn32s" / "best.safetensors"
    init = weights.rename(tmp_path / "init.safetensors")
    spec, tuned = f"folder:{tmp_path / 'data'}", tmp_path / "tuned"
    options = ["--data", spec, "--init", init, "--stages", "32s", "--steps", "2", "--crop", "48"]

    def broken(self, name, step):
        raise BrokenError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("minifcn.progress.TerminalObserver.stepped", broken)
        assert command("train", "--out", tuned, *options)[0] == 1
    init.unlink()
    goes_on(command, tuned)


def test_observers_are_told_where_a_stage_goes_on():
    assert Observer().resumed("fcn32s", 3) is None
