"""Commands from one end to the other, on the stand-in, with steps enough to be replayed."""

from pathlib import Path

import numpy as np
import pytest
import standin_device
from PIL import Image

from minifcn import cli, data, loop, prepare, weights

WIDTHS = ["--widths", "4,4,8,8,8", "--padding", "smallest"]
NARROW = ["--width", 1 / 32, "--padding", "smallest"]


@pytest.fixture
def run(standin, tmp_path, capsys, monkeypatch):
    """Return a function that runs a command and returns how often a graph was launched."""
    sets = {part: data.shapes(part, size=40, length=4) for part in ("train", "val")}
    monkeypatch.setattr(prepare, "open_both", lambda *given: tuple(sets.values()))
    monkeypatch.setattr(data, "open_dataset", lambda spec, part: sets["val"])
    monkeypatch.chdir(tmp_path)
    launches, launch = [], standin_device.Graph.launch
    monkeypatch.setattr(
        standin_device.Graph, "launch", lambda self: launches.append(1) or launch(self)
    )

    def command(*arguments):
        before = len(launches)
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        assert end.value.code == 0, capsys.readouterr().err
        return len(launches) - before

    return command


def trained(run, *given, out="run", steps=6):
    usual = "--data", "shapes", "--out", out, "--crop", 40, "--batch-size", 2
    return run("train", *usual, "--stages", "32s", "--steps", steps, *given)


@pytest.mark.parametrize("backbone", ["caffenet", "googlenet", "googlenet_torchvision"])
def test_training_each_net(run, backbone):
    assert (
        trained(run, "--backbone", backbone, *NARROW, steps=5) == 2
    )  # the first is never replayed


@pytest.mark.parametrize(
    "given",
    [
        ["--precision", "bf16"],
        ["--stages", "16s", "--fusion", "max", "--learn-upsampling"],
    ],
)
def test_training_with_options(run, given):
    assert trained(run, *WIDTHS, *given, steps=5) == 2


def test_training_in_fp16(run, second):
    given = "--precision", "fp16", "--max-norm", 1, "--recipe", "heavy", "--device", second
    assert trained(run, *WIDTHS, *given, steps=5) == 2


def test_training_all_stages_from_weights_of_other_classes(run, second):
    trained(run, *WIDTHS, "--device", second, steps=1)
    given = "--stages", "32s,16s,8s", "--init", "run/fcn32s/best.safetensors", "--new-scores"
    trained(run, *WIDTHS, *given, "--device", second, out="three", steps=1)
    for stage, what in {"fcn32s": "new", "fcn8s": "copied"}.items():
        lines = Path("three", stage, "start.txt").read_text("utf-8").splitlines()
        assert ["score_fr.weight", what] in [line.split()[:2] for line in lines]


def test_steps_of_several_batches_are_not_replayed(run, second):
    assert trained(run, *WIDTHS, "--accumulate", 2, "--device", second, steps=4) == 0


def test_training_goes_on_where_it_stood(run, second, monkeypatch):
    """The weights after a resumed run are those of one that was not interrupted, to the bit."""
    update, stopping = loop.Training._update, [True]

    def interrupted(self):
        if self.done == 5 and stopping.pop():
            raise KeyboardInterrupt
        update(self)

    given = [*WIDTHS, "--seed", 1, "--save-every", 4, "--max-norm", 1, "--device", second]
    assert trained(run, *given, out="whole", steps=9) == 6
    monkeypatch.setattr(loop.Training, "_update", interrupted)
    with pytest.raises(AssertionError):
        trained(run, *given, out="parts", steps=9)
    monkeypatch.setattr(loop.Training, "_update", update)
    assert run("train", "--resume", "--out", "parts") >= 2
    files = [f"{out}/fcn32s/last.safetensors" for out in ("whole", "parts")]
    ends = [weights.load(file).model for file in files]
    for one, other in zip(*(net.parameters() for net in ends), strict=True):
        assert np.array_equal(one.numpy(), other.numpy())


def test_pretraining(run, second):
    given = "--data", "shapes", "--backbone", "caffenet", "--image-size", 40, "--batch-size", 2
    given += "--out", "a.safetensors", "--width", 1 / 32, "--steps", 5
    assert run("pretrain", *given, "--device", second) == 2


def test_evaluating_and_predicting(run, second):
    trained(run, *WIDTHS, "--device", second, steps=1)
    for i in range(5):
        image = np.full((40, 40, 3), 40 * i, np.uint8)
        Image.fromarray(image).save(f"{i}.png")
    net = "run/fcn32s/best.safetensors"
    for precision in ("fp32", "bf16", "fp16"):
        given = "--precision", precision, "--device", second
        assert run("evaluate", net, "--data", "shapes", *given) == 0
        run("predict", net, *(f"{i}.png" for i in range(5)), "--out", precision, *given)
