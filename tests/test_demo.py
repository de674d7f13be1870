"""The demo, with a few steps in place of hundreds."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from minifcn import cli, data, demo, weights
from minifcn.autograd import Tensor
from minifcn.evaluation import evaluate
from minifcn.metrics import ConfusionMatrix
from minifcn.train import TrainingError

METRICS = ["pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu"]
NETS = ["fcn32s", "fcn16s", "fcn8s"]


def make_short(patch):
    """Make the demo's nets and stages tiny."""
    stages = {
        name: replace(recipe, steps=2, batch_size=2) for name, recipe in demo.DEMO_STAGES.items()
    }
    patch.setattr(demo, "DEMO_STAGES", stages)
    patch.setattr(demo, "DEMO_OPTIONS", {**demo.DEMO_OPTIONS, "widths": (4, 4, 8, 8, 8)})


def make_quick(patch):
    """Leave out the baselines too, which take seconds: pretend that they are always right."""
    make_short(patch)
    perfect = ConfusionMatrix.from_counts(np.eye(8, dtype=int))
    baselines = {"commonest class": perfect, "colour lookup": perfect}
    patch.setattr(demo, "evaluate_baselines", lambda train_set, val_set: baselines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished demo: its folder, what it returned, what it printed."""
    out = tmp_path_factory.mktemp("runs") / "my demo"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        make_short(patch)
        metrics = demo.run_demo(out, seed=3)
    return out, metrics, printed.getvalue()


def test_the_metrics_have_the_promised_names(finished):
    out, metrics, _ = finished
    assert list(metrics) == [*NETS, "baseline_commonest", "baseline_colour"]
    assert all(list(numbers) == METRICS for numbers in metrics.values())
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["baseline_colour"]["pixel_accuracy"] > 0.6
    assert metrics["baseline_commonest"]["mean_accuracy"] == 1 / 8


def test_the_metrics_are_those_of_the_nets_in_the_folder(finished):
    out, metrics, _ = finished
    loaded = weights.load(out / "fcn8s" / "best.safetensors")
    assert loaded.preprocessing == demo.DEMO_PREPROCESSING
    val_set = data.landcover("val")
    assert loaded.classes == val_set.classes
    matrix = evaluate(loaded.model, val_set, loaded.preprocessing)[""]
    assert matrix.summary() == metrics["fcn8s"]


def test_every_stage_leaves_its_weights_and_its_log(finished):
    out, _, _ = finished
    for name in NETS:
        files = sorted(path.name for path in (out / name).iterdir())
        start = [] if name == "fcn32s" else ["start.txt"]  # what came from the stage before
        assert files == ["best.safetensors", "last.safetensors", "log.jsonl", *start]
        assert weights.read_header(out / name / "best.safetensors").config["model"] == name
    assert json.loads((out / "config.json").read_text())["seed"] == 3
    assert not list(out.rglob(".*"))  # no temporary file is left


def test_pictures_show_image_truth_and_each_net(finished):
    out, _, _ = finished
    names = {path.name for path in (out / "pictures").iterdir()}
    assert names == {f"{tile}.png" for tile in demo.TILES} | {"overview.png"}
    tile = next(iter(demo.TILES))
    with Image.open(out / "pictures" / f"{tile}.png") as picture:
        assert picture.width > 5 * 256
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    (label,) = [sample.label for sample in data.landcover("val") if sample.name == tile]
    classes = np.unique(label[label != 255])
    assert len(classes) >= 3
    assert {tuple(data.landcover("val").palette[k].tolist()) for k in classes} <= colours


def test_drawn_answers_are_those_of_the_nets(finished, rng):
    out, _, _ = finished
    nets = {name: weights.load(out / name / "best.safetensors").model for name in NETS}
    for net in nets.values():  # nets of two steps say one class only: let them say several
        net.score_fr.weight.data[...] = rng.normal(size=net.score_fr.weight.shape)
        net.score_fr.bias.data[...] = 0
    val_set = data.landcover("val")
    example = demo.draw(nets, val_set)[1]
    assert list(example.pictures) == ["image", "truth", "FCN-32s", "FCN-16s", "FCN-8s"]
    (sample,) = [sample for sample in val_set if sample.name == example.name]
    np.testing.assert_array_equal(np.asarray(example.pictures["image"]), sample.image)
    for name, net in nets.items():
        x = demo.DEMO_PREPROCESSING(sample.image)[None]
        answer = net(Tensor(x)).numpy()[0].argmax(axis=0)
        assert len(np.unique(answer)) > 1
        drawn = np.asarray(example.pictures[demo.TITLES[name]])
        np.testing.assert_array_equal(drawn, val_set.palette[answer])


def test_the_report_names_command_seed_and_machine(finished):
    out, metrics, _ = finished
    page = (out / "report.html").read_text("utf-8")
    # The folder's name has a space: the command can be pasted into a shell as it stands.
    assert f"minifcn demo --out &#x27;{out}&#x27; --seed 3" in page
    for part in ("<dt>seed</dt><dd>3</dd>", "<dt>NumPy</dt>", "<dt>processor</dt>", "2 steps of 2"):
        assert part in page
    assert page.count("<svg") == 3
    assert page.count("<img") == 5 * len(demo.TILES)
    assert f"{100 * metrics['fcn8s']['mean_iu']:.1f} %" in page


def test_a_table_and_what_to_do_next_are_printed(finished):
    out, metrics, printed = finished
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    titles = ["commonest class", "colour lookup", "FCN-32s", "FCN-16s", "FCN-8s"]
    found = [row for row in rows if row.startswith(tuple(titles))]
    for row, title in zip(found, titles, strict=True):
        assert row.startswith(title)
        assert row.count(" %") == 4
    assert f"{100 * metrics['fcn8s']['fw_iu']:.1f} %" in found[4]
    assert rows[-1].startswith(f"Next: open {out}/report.html")
    assert "minifcn predict" in rows[-1]
    assert "minifcn train --help" in rows[-1]


def test_an_earlier_demo_is_replaced(monkeypatch, tmp_path):
    make_quick(monkeypatch)
    first = demo.run_demo(tmp_path / "demo", seed=0)
    before = (tmp_path / "demo" / "fcn8s" / "best.safetensors").read_bytes()
    second = demo.run_demo(tmp_path / "demo", seed=1)
    assert first != second
    assert json.loads((tmp_path / "demo" / "metrics.json").read_text()) == second
    assert (tmp_path / "demo" / "fcn8s" / "best.safetensors").read_bytes() != before


def test_a_file_or_another_run_is_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TrainingError, match="file is a file"):
        demo.run_demo(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "config.json").write_text('{"stages": {}}')
    (tmp_path / "metrics.json").write_text('{"fcn8s": {"mean_iu": 0.6}}')
    with pytest.raises(TrainingError, match=r"holds another run \(fcn8s\): choose another folder"):
        demo.run_demo(tmp_path)


def test_the_command_runs_the_demo_and_shows_its_progress(monkeypatch, tmp_path, capsys):
    make_quick(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "--out", str(tmp_path / "demo"), "--seed", "2"])
    assert not caught.value.code
    told, notes = capsys.readouterr()
    assert "colour lookup" in told
    for name in NETS:
        assert f"{name}  step 2  pixel accuracy" in notes
    assert json.loads((tmp_path / "demo" / "config.json").read_text())["seed"] == 2
