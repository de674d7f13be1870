"""Each data set, in the format it has on disk, goes through train, evaluate and predict."""

import json

import layouts_folder
import layouts_nyud
import layouts_voc
import numpy as np
import pytest

from minifcn import cli, data, weights
from minifcn.data import heads_of, open_dataset, read_label, splits_of, streams_of
from minifcn.data.sources import SOURCES, parse


def with_options(make, options):
    """Return a function that makes a data set and adds options to its name."""

    def made(root):
        spec = make(root)
        return f"{spec}{'&' if '?' in spec else '?'}{options}"

    return made


MAKE = {
    "landcover": lambda root: "landcover",
    "shapes": lambda root: "shapes",
    "voc": layouts_voc.make_voc,
    "sbd": layouts_voc.make_sbd,
    "context": layouts_voc.make_context,
    "folder": layouts_folder.make_folder,
    "folder of colours": layouts_folder.make_colour_folder,
    "csv": layouts_folder.make_csv,
    "camvid": layouts_folder.make_camvid,
    "camvid as published": layouts_folder.make_camvid_published,
    "cityscapes": layouts_folder.make_cityscapes,
    "siftflow": layouts_nyud.make_siftflow,
    "siftflow, semantic": with_options(layouts_nyud.make_siftflow, "labels=semantic"),
    "siftflow, geometric": with_options(layouts_nyud.make_siftflow, "labels=geometric"),
    "nyud": layouts_nyud.make_nyud,
    "nyud, depth": with_options(layouts_nyud.make_nyud, "input=depth"),
    "nyud, hha": with_options(layouts_nyud.make_nyud, "input=hha"),
    "nyud, early fusion": with_options(layouts_nyud.make_nyud, "input=rgbd"),
    "nyud, late fusion": with_options(layouts_nyud.make_nyud, "input=color+hha"),
}
NET = ("--widths", "4,4,8,8,8", "--stages", "32s")
STEP = ("--crop", 32, "--batch-size", 2, "--steps", 1)


@pytest.fixture
def run(capsys):
    """Run a command line in this process; returns what it prints, but fails if it does."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert not caught.value.code, err
        return out + err

    return run


@pytest.fixture
def few(monkeypatch):
    """Make the data sets without files small, so that a run takes a moment."""
    small = {"shapes": lambda split: data.shapes(split, 4), "landcover": FewTiles}
    for kind, opening in small.items():
        monkeypatch.setitem(SOURCES, kind, SOURCES[kind]._replace(open=opening))


class FewTiles:
    """The first four tiles of land cover."""

    def __init__(self, split):
        self.all = data.landcover(split)
        self.name, self.classes, self.palette = self.all.name, self.all.classes, self.all.palette
        self.ignore_index = self.all.ignore_index

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.all[index]


def test_every_kind_is_here(tmp_path):
    made = {parse(make(tmp_path / name)).kind for name, make in MAKE.items()}
    assert made == set(SOURCES)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", MAKE)
def test_train_evaluate_and_predict(name, run, tmp_path):
    spec, out = MAKE[name](tmp_path / "data"), tmp_path / "run"
    run("train", "--data", spec, *NET, *STEP, "--out", out)
    file = out / "fcn32s" / "best.safetensors"
    there = splits_of(spec)
    split = "val" if "val" in there else "test"
    held_out = open_dataset(spec, split)
    heads, streams = heads_of(held_out), streams_of(held_out)

    loaded = weights.load(file)
    assert loaded.model.streams == streams
    for ours, theirs in zip(loaded.heads.values(), heads.values(), strict=True):
        assert ours.classes == tuple(theirs.classes)
        np.testing.assert_array_equal(ours.palette, theirs.palette)
    assert loaded.trained_on

    # Measuring gives what the training measured at its end, for each head.
    told = json.loads((out / "metrics.json").read_text())["fcn32s"]
    told = {"": told} if len(heads) == 1 else told
    run("evaluate", file, "--data", spec, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    for head, numbers in told.items():
        here = scores["heads"][head] if head else scores
        for metric, value in numbers.items():
            assert here[metric] == pytest.approx(value), (head, metric)

    more = "&" if "?" in spec else "?"
    run("predict", file, f"{spec}{more}split={split}", "--out", tmp_path / "labelled")
    found = {
        file.relative_to(tmp_path / "labelled") for file in (tmp_path / "labelled").rglob("*.png")
    }
    assert len(found) == 2 * len(heads) * len(held_out)
    first = held_out[0]
    for number, (head, (classes, _)) in enumerate(heads.items()):
        stem = f"{first.name}_{head}" if number else first.name
        label = read_label(tmp_path / "labelled" / f"{stem}.png")
        assert label.shape == first.label.shape[:2]
        assert label.max() < len(classes)
        assert (tmp_path / "labelled" / f"{stem}_overlay.png").is_file()


def test_late_fusion_starts_from_a_net_for_each_stream(run, tmp_path):
    """As the released nets for NYUDv2: two nets, then both, then with a skip."""
    spec = layouts_nyud.make_nyud(tmp_path / "data")
    published = ("--preprocessing", "published", "--lr", 0, "--weight-decay", 0)
    for kind in ("color", "hha"):
        run(
            "train",
            "--data",
            f"{spec}?input={kind}",
            *NET,
            *STEP,
            *published,
            "--out",
            tmp_path / kind,
        )
    color, hha = (tmp_path / kind / "fcn32s" / "best.safetensors" for kind in ("color", "hha"))
    both = ("--data", f"{spec}?input=color+hha", "--lr", 0, "--weight-decay", 0, *STEP)
    starts = ("--init", color, "--init", hha)
    told = run("train", *both, "--stages", "32s,16s", *starts, "--out", tmp_path / "both")
    assert "color.score_pool4.bias" in told
    assert "hha.score_pool4.bias" in told
    net = weights.load(tmp_path / "both" / "fcn16s" / "best.safetensors")
    parents = {"color": weights.load(color), "hha": weights.load(hha)}
    for name, parent in parents.items():
        ours, theirs = getattr(net.model, name).conv3_1, parent.model.conv3_1
        np.testing.assert_array_equal(ours.weight.numpy(), theirs.weight.numpy())
        assert net.trained_on.issuperset(parent.trained_on)
    expected = parents["color"].preprocessing.mean + parents["hha"].preprocessing.mean
    assert net.preprocessing.mean == expected
    assert net.preprocessing.order == "BGR"

    # The whole net is a start, too; and images that are no data set of two streams are refused.
    fused = tmp_path / "both" / "fcn16s" / "best.safetensors"
    run("train", *both, "--stages", "8s", "--init", fused, "--out", tmp_path / "finer")
    image = tmp_path / "data" / "data" / "images" / "img_5001.png"
    with pytest.raises(SystemExit):
        cli.main(["predict", str(fused), str(image), "--out", str(tmp_path / "no")])
    assert not (tmp_path / "no").exists()


def test_early_fusion_starts_from_a_net_for_colours(run, tmp_path):
    spec = layouts_nyud.make_nyud(tmp_path / "data")
    published = ("--preprocessing", "published")
    run("train", "--data", spec, *NET, *STEP, *published, "--out", tmp_path / "color")
    color = tmp_path / "color" / "fcn32s" / "best.safetensors"
    deep = ("--data", f"{spec}?input=rgbd", "--init", color, "--lr", 0, "--weight-decay", 0)
    told = run("train", *deep, "--stages", "32s", *STEP, "--out", tmp_path / "deep")
    assert "1 widened" in told
    assert "images are prepared by the rule 'published'" in told
    net, parent = (
        weights.load(tmp_path / "deep" / "fcn32s" / "best.safetensors"),
        weights.load(color),
    )
    wide = net.model.conv1_1.weight.numpy()
    np.testing.assert_array_equal(wide[:, :3], parent.model.conv1_1.weight.numpy())
    np.testing.assert_allclose(wide[:, 3], wide[:, :3].mean(axis=1), rtol=1e-5)
    assert net.preprocessing.mean[:3] == parent.preprocessing.mean


def test_a_classifier_learns_from_one_kind_of_labels(tmp_path, capsys):
    spec = layouts_nyud.make_siftflow(tmp_path / "data")
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--data", spec, "--out", str(tmp_path / "net.safetensors")])
    assert "with one kind of labels: choose one (?labels=...," in capsys.readouterr().err
