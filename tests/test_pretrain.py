"""Classifiers of image tiles: which tiles, how they are learnt, and what the command says."""

import json
from dataclasses import replace

import numpy as np
import pytest

from minifcn import Tensor, cli, data, models, pretrain, weights
from minifcn import functional as F
from minifcn.data import DataError, Sample
from minifcn.evaluation import evaluate
from minifcn.pretrain import TileDataset, TileLoader, tile_classes
from minifcn.recipes import Recipe
from minifcn.train import Observer, TrainingError

RECIPE = Recipe(steps=3, lr=0.02, batch_size=4, warmup=1)
TRAIN, VAL = data.shapes("train", length=60), data.shapes("val", length=6)


class Labelled(list):
    """A data set of given label arrays, with images whose pixels say where they stand."""

    name, classes, ignore_index = "labelled", ("a", "b", "c"), 255
    palette = data.voc_palette(3)

    def __init__(self, *labels):
        samples = []
        for number, label in enumerate(labels):
            label = np.asarray(label, np.uint8)
            rows, columns = np.indices(label.shape)
            image = np.stack([rows, columns, np.full_like(rows, number)], axis=-1)
            samples.append(Sample(image.astype(np.uint8), label, f"image-{number}"))
        super().__init__(samples)


class Halves(list):
    """Images that are all of one class, dark or bright: a task learnt in a few steps."""

    name, classes, ignore_index = "halves", ("dark", "bright"), 255
    palette = data.voc_palette(2)

    def __init__(self, count, seed=0):
        rng = np.random.default_rng(seed)
        numbers = [0, 0, 1] * count
        super().__init__(
            Sample(
                rng.integers(90 * k, 90 * k + 100, (48, 48, 3)).astype(np.uint8),
                np.full((48, 48), k, np.uint8),
                f"{k}",
            )
            for k in numbers[:count]
        )


def net(name="caffenet", num_classes=4, seed=0, **options):
    options = {"width": 0.05, "image_size": 40, "dropout": 0.0, **options}
    return models.build(name, num_classes=num_classes, rng=np.random.default_rng(seed), **options)


def pixels(*counts):
    """Return a label of 10 x 10 pixels with so many of classes 0, 1, 2 and so many of 255."""
    values = [255 if k == 3 else k for k, count in enumerate(counts) for _ in range(count)]
    return np.random.default_rng(0).permutation(values).reshape(10, 10)


# The class of a tile


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((30, 60, 10, 0), 1),
        ((10, 20, 21, 49), 2),  # the commonest class, though not the half
        ((20, 15, 15, 50), 0),  # exactly half of the pixels have a class
        ((49, 0, 0, 51), 255),  # fewer than half
        ((0, 0, 0, 100), 255),
        ((10, 45, 45, 0), 1),  # the lower number of two
    ],
)
def test_a_tile_has_the_commonest_class_of_its_labelled_pixels(counts, expected):
    labels = np.stack([pixels(*counts), pixels(0, 0, 100, 0)])
    found = tile_classes(labels, 3)
    assert found.dtype == np.int64
    assert found.tolist() == [expected, 2]


def test_held_out_tiles_lie_side_by_side_and_those_of_few_labels_are_left_out():
    label = np.full((9, 14), 255)
    label[:4, :4], label[:4, 4:8], label[:4, 8:12] = 0, 1, 2
    label[4:6, :4] = 1  # half of a tile
    label[4:5, 4:8] = 2  # a quarter
    tiles = TileDataset(Labelled(label, np.zeros((3, 30)), np.full((4, 4), 2)), size=4)
    found = [(sample.name, int(sample.label)) for sample in (tiles[i] for i in range(len(tiles)))]
    assert found == [
        ("image-0 row 0 column 0", 0),
        ("image-0 row 0 column 4", 1),
        ("image-0 row 0 column 8", 2),
        ("image-0 row 4 column 0", 1),
        ("image-2 row 0 column 0", 2),
    ]
    image = tiles[3].image
    assert image.shape == (4, 4, 3)
    assert image[0, 0].tolist() == [4, 0, 0]
    assert image[-1, -1].tolist() == [7, 3, 0]
    assert tiles.classes == ("a", "b", "c")


@pytest.mark.parametrize("label", [np.full((20, 20), 255), np.zeros((7, 20))])
def test_data_without_a_tile_is_refused(label):
    with pytest.raises(DataError, match=r"labelled: no tile of 8 x 8 .*largest image is \d+ x 20"):
        TileDataset(Labelled(label), size=8)


def test_training_tiles_are_cut_at_random_with_their_own_class():
    label = np.zeros((30, 30), int)
    label[:, 15:] = 1
    loader = TileLoader(
        Labelled(label), 200, data.Preprocessing("RGB", 1, (0, 0, 0), (1, 1, 1)), crop=9
    )
    batch = next(loader.steps())
    assert batch.images.shape == (200, 3, 9, 9)
    columns = batch.images[:, 1, 0, 0]  # where each tile starts
    assert len(set(columns)) > 15
    assert batch.labels.tolist() == [int(column > 10) for column in columns]  # 5 of 9 are of 1


def test_random_tiles_of_few_labels_have_no_class():
    label = np.full((12, 100), 255)
    label[:, :50] = 1
    batch = next(TileLoader(Labelled(label), 100, crop=12).steps())
    assert set(batch.labels.tolist()) == {1, 255}


def test_tiles_without_a_class_teach_nothing():
    unlabelled = Labelled(np.full((40, 40), 255))
    model = net(num_classes=3)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    recipe = replace(RECIPE, weight_decay=0)
    losses = [step.loss for step in pretrain.fit_classifier(model, unlabelled, recipe)]
    assert losses == [0, 0, 0]
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


# Learning


@pytest.mark.parametrize("name", list(models.CLASSIFIERS))
def test_every_classifier_learns(name):
    model = net(name, num_classes=2)
    recipe = replace(RECIPE, steps=30, batch_size=6, max_norm=3.0)
    losses = [step.loss for step in pretrain.fit_classifier(model, Halves(30), recipe)]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    tiles = TileDataset(Halves(30, seed=1), 40)
    assert evaluate(model, tiles)[""].pixel_accuracy() > 0.9


def test_the_first_loss_is_the_mean_over_tiles():
    model = net()
    loader = TileLoader(TRAIN, 4, crop=40, flip=True, seed=5)
    batch = next(loader.steps())
    expected = F.cross_entropy(model(Tensor(batch.images)), Tensor(batch.labels)).item()
    first = next(pretrain.fit_classifier(model, TRAIN, RECIPE, seed=5))
    assert first.loss == pytest.approx(expected, rel=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    states = []
    for seed in (3, 3, 4):
        model = net()
        list(pretrain.fit_classifier(model, TRAIN, RECIPE, seed=seed))
        states.append(model.state_dict())
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])
    assert not np.array_equal(states[0]["fc6.weight"], states[2]["fc6.weight"])


@pytest.mark.parametrize("change", ["flip", "flip_vertical", "rotate"])
def test_random_changes_are_those_of_the_recipe(change):
    states = []
    for value in (False, True):
        model = net()
        recipe = replace(RECIPE, **({"flip": False} | {change: value}))
        list(pretrain.fit_classifier(model, TRAIN, recipe))
        states.append(model.state_dict()["conv1.weight"])
    assert not np.array_equal(*states)


def test_auxiliary_losses_count_three_tenths_each(rng):
    labels = Tensor(np.array([0, 2, 255, 1]))
    scores = [Tensor(rng.normal(size=(4, 3)).astype(np.float32)) for _ in range(3)]
    main, first, second = (F.cross_entropy(x, labels).item() for x in scores)
    found = pretrain.classification_loss(tuple(scores), labels).item()
    assert found == pytest.approx(main + 0.3 * first + 0.3 * second, rel=1e-6)
    assert pretrain.classification_loss(scores[0], labels).item() == main
    total = pretrain.classification_loss(tuple(scores), labels, reduction="sum").item()
    assert total == pytest.approx(3 * found, rel=1e-6)  # of four tiles, three have a class


def test_auxiliary_heads_are_trained_too():
    model = net("googlenet", auxiliary=True, image_size=64)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    list(pretrain.fit_classifier(model, TRAIN, replace(RECIPE, weight_decay=0)))
    for name in ("loss1.classifier.weight", "loss2.conv.weight", "loss3_classifier.weight"):
        assert not np.array_equal(model.state_dict()[name], before[name])


def test_other_classes_are_refused():
    with pytest.raises(TrainingError, match=r"tells 7 classes apart, shapes train has 4 \(backgr"):
        next(pretrain.fit_classifier(net(num_classes=7), TRAIN, RECIPE))


def test_an_all_zero_net_is_refused():
    model = net()
    model.conv3.weight.data[...] = 0
    with pytest.raises(models.SurgeryError, match="all weights of conv3 are zero"):
        next(pretrain.fit_classifier(model, TRAIN, RECIPE))


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_no_file(tmp_path):
    recipe = replace(RECIPE, steps=20, lr=1e9)
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match="loss is nan at step"):
        pretrain.run(net(), TRAIN, VAL, tmp_path / "net.safetensors", recipe)
    assert not list(tmp_path.iterdir())


# A run


def test_a_run_beats_the_commonest_class_and_saves_the_net(tmp_path):
    out, events = tmp_path / "net.safetensors", []

    class Recorder(Observer):
        def stage_started(self, name, recipe, model):
            events.append(("started", name))

        def stepped(self, name, step):
            events.append(step.step)

        def evaluated(self, name, step, matrix, best):
            events.append(("evaluated", step, int(matrix.matrix.sum())))

    recipe = replace(RECIPE, steps=25, batch_size=6, max_norm=3.0)
    result = pretrain.run(
        net(num_classes=2),
        Halves(30),
        Halves(9, seed=1),
        out,
        recipe,
        preprocessing=data.LANDCOVER,
        eval_every=10,
        observer=Recorder(),
    )
    assert result.commonest == 0
    assert result.baseline == pytest.approx(6 / 9)
    assert result.matrix.pixel_accuracy() > 0.9
    steps = [*range(1, 11), ("evaluated", 10, 9), *range(11, 21), ("evaluated", 20, 9)]
    assert events == [("started", "caffenet"), *steps, *range(21, 26), ("evaluated", 25, 9)]
    loaded = weights.load(out)
    assert loaded.classes == ("dark", "bright")
    assert loaded.preprocessing == data.LANDCOVER
    assert loaded.origin == "caffenet trained on 40 x 40 tiles of halves"
    assert loaded.model.config == result.model.config
    for name, array in result.model.state_dict().items():
        np.testing.assert_array_equal(loaded.model.state_dict()[name], array)
    tiles = TileDataset(Halves(9, seed=1), 40)
    again = evaluate(loaded.model, tiles, loaded.preprocessing)[""]
    np.testing.assert_array_equal(again.matrix, result.matrix.matrix)


def test_held_out_tiles_are_preprocessed_as_in_training(tmp_path, monkeypatch):
    given = []

    def note(*arguments):
        given.extend(arguments)
        return evaluate(*arguments)

    monkeypatch.setattr(pretrain, "evaluate", note)
    recipe = replace(RECIPE, steps=1)
    pretrain.run(net(), TRAIN, VAL, tmp_path / "a", recipe, preprocessing=data.CAFFE)
    assert data.CAFFE in given
    assert data.UNIT not in given


def test_the_commonest_class_is_that_of_the_training_tiles(tmp_path):
    mostly_bright = Halves(9)
    for i, sample in enumerate(mostly_bright):
        mostly_bright[i] = sample._replace(label=1 - sample.label)
    recipe = replace(RECIPE, steps=1)
    result = pretrain.run(net(num_classes=2), Halves(9), mostly_bright, tmp_path / "a", recipe)
    assert (result.commonest, result.baseline) == (0, pytest.approx(3 / 9))


def test_what_cannot_be_saved_is_found_out_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "fit_classifier", lambda *args, **options: pytest.fail("late"))
    for out, reason in ((tmp_path, "it is a folder"), (tmp_path / "no" / "a", "no does not exist")):
        with pytest.raises(weights.WeightsError, match=reason):
            pretrain.run(net(), TRAIN, VAL, out, RECIPE)


def test_data_sets_of_different_classes_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="shapes train and halves have different classes"):
        pretrain.run(net(), TRAIN, Halves(3), tmp_path / "a", RECIPE)


# Weight files of classifiers


@pytest.mark.parametrize("name", list(models.CLASSIFIERS))
def test_a_classifier_comes_back_from_a_file(tmp_path, name):
    model = net(name).eval()
    facts = {"classes": VAL.classes, "palette": VAL.palette, "preprocessing": data.UNIT}
    weights.save(model, tmp_path / "a", **facts)
    again = weights.load(tmp_path / "a").model.eval()
    assert type(again) is type(model)
    x = Tensor(np.random.default_rng(0).normal(size=(1, 3, 40, 40)).astype(np.float32))
    np.testing.assert_array_equal(again(x).data, model(x).data)


def test_a_classifier_does_not_pass_for_a_net_that_labels_pixels(tmp_path):
    facts = {"classes": VAL.classes, "palette": VAL.palette, "preprocessing": data.UNIT}
    weights.save(net(), tmp_path / "a", **facts)
    with pytest.raises(weights.WeightsError, match=r"a: holds caffenet\(.*classifier.*--init"):
        weights.load_fcn(tmp_path / "a")
    fcn = models.fcn32s(4, "small", widths=(4, 4, 8, 8, 8))
    weights.save(fcn, tmp_path / "b", **facts)
    assert type(weights.load_fcn(tmp_path / "b").model) is models.FCN


# The command


@pytest.fixture
def run(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return (caught.value.code or 0, *capsys.readouterr())

    return run


FEW = ("--data", "shapes", "--image-size", "40", "--steps", "2", "--batch-size", "4")


def test_the_command_trains_saves_and_tells(run, tmp_path):
    out = tmp_path / "net.safetensors"
    options = ("--backbone", "caffenet", "--width", "0.05", "--preprocessing", "caffe")
    code, text, err = run("pretrain", *FEW, *options, "--out", out, "--eval-every", "1")
    assert code == 0
    assert "of 50 held-out tiles right; always saying 'background': " in text
    assert f"minifcn train --data shapes --init {out} --out FOLDER" in text
    assert "caffenet: " in err
    assert "step 1 " in err
    header = weights.read_header(out)
    expected = {"model": "caffenet", "num_classes": 4, "width": 0.05, "image_size": 40}
    assert expected.items() <= header.config.items()
    assert header.config["dropout"] == 0
    assert header.preprocessing == data.CAFFE
    assert header.classes == VAL.classes


def test_the_command_says_if_nothing_was_learnt(run, tmp_path):
    arguments = ("--lr", "0", "--width", "0.05", "--out", tmp_path / "a")
    _, _, err = run("pretrain", *FEW, *arguments)
    assert "warning: that is no better than always naming one class" in err


def test_an_existing_file_is_kept_unless_replacing_is_asked_for(run, tmp_path):
    out = tmp_path / "net.safetensors"
    out.write_text("mine")
    code, text, err = run("pretrain", *FEW, "--out", out)
    assert (code, text) == (2, "")
    assert "exists: choose another name, or replace it with --overwrite" in err
    assert out.read_text() == "mine"
    assert run("pretrain", *FEW, "--width", "0.05", "--out", out, "--overwrite")[0] == 0
    assert weights.read_header(out).config["model"] == "vgg16"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--auxiliary",), "--auxiliary: only googlenet has such heads, not vgg16"),
        (("--width", "-1"), "width=-1.0 must be a number above 0"),
        (("--image-size", "2", "--backbone", "alexnet"), "image_size=2 is too small"),
        (("--image-size", "100", "--backbone", "alexnet"), "no tile of 100 x 100 pixels"),
        (("--data", "nothing"), "unknown data set 'nothing'"),
        (("--val", "landcover"), "other classes"),
        (("--out", "nowhere/a"), "nowhere does not exist"),
        (("--out", "."), "it is a folder"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(run, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    code, text, err = run("pretrain", *FEW, "--out", "a", *arguments)
    assert (code, text) == (2, "")
    assert err.startswith("minifcn: error: ")
    assert part in err
    assert not list(tmp_path.iterdir())


def test_a_classifier_file_is_not_evaluated_or_used_for_predictions(run, tmp_path):
    out = tmp_path / "net.safetensors"
    run("pretrain", *FEW, "--width", "0.05", "--out", out)
    for command in (
        ("evaluate", out, "--data", "shapes"),
        ("predict", out, tmp_path, "--out", tmp_path / "labelled"),
    ):
        code, text, err = run(*command)
        assert (code, text) == (2, ""), command
        assert "error: " in err


def test_the_whole_way_from_tiles_to_an_fcn(run, tmp_path):
    out, folder = tmp_path / "net.safetensors", tmp_path / "run"
    run("pretrain", *FEW, "--width", "0.05", "--out", out, "--preprocessing", "landcover")
    code, _, err = run(
        *("train", "--data", "shapes", "--init", out, "--out", folder, "--stages", "32s"),
        *("--steps", "1", "--batch-size", "1", "--crop", "32"),
    )
    assert code == 0, err
    loaded = weights.load(folder / "fcn32s" / "best.safetensors")
    assert loaded.preprocessing == data.LANDCOVER
    assert loaded.model.fc6.kernel_size == (2, 2)
    assert json.loads((folder / "config.json").read_text())["backbone"] == "vgg16"
