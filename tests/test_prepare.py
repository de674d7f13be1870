"""The command `minifcn train`: what it makes of its options, and what it refuses before a run."""

import json
import stat

import numpy as np
import pytest
from PIL import Image

from minifcn import cli, data, models, prepare, train, weights
from minifcn.data import CAFFE
from minifcn.data.fingerprint import fingerprint
from minifcn.data.sources import SOURCES, Source
from minifcn.recipes import QUICK, Recipe
from minifcn.train import TrainingError

SHAPES = data.shapes("val", length=4)
SMALL = ("--data", "shapes", "--widths", "4,4,8,8,8", "--crop", "0", "--batch-size", "2")


@pytest.fixture
def command(capsys):
    """Run `minifcn train` in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["train", *map(str, arguments)])
        return (caught.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def quick(monkeypatch):
    """Make the shapes small in number, so that a run takes a moment."""
    lengths = {"train": 8, "val": 3}
    few = SOURCES["shapes"]._replace(open=lambda split: data.shapes(split, lengths.get(split)))
    monkeypatch.setitem(SOURCES, "shapes", few)


@pytest.fixture
def net_file(tmp_path):
    """Weights of an FCN-32s for the shapes, with the preprocessing of Caffe."""
    model = models.fcn32s(4, "small", widths=(4, 6, 8, 8, 8), rng=np.random.default_rng(0))
    path = tmp_path / "net.safetensors"
    facts = {"classes": SHAPES.classes, "palette": SHAPES.palette, "preprocessing": CAFFE}
    weights.save(model, path, **facts)
    return path


class Labelled(list):
    """A data set of black images with the given labels, of two classes."""

    classes, palette, ignore_index = ("sea", "land"), np.zeros((2, 3), np.uint8), 255

    def __init__(self, name, *labels):
        super().__init__(
            data.Sample(np.zeros((*np.shape(label), 3), np.uint8), np.array(label, np.uint8), name)
            for label in labels
        )
        self.name = name


def check(train_set, val_set=None, **recipe):
    """Return the warnings."""
    recipe = Recipe(steps=1, lr=0.1, **recipe)
    val_set = val_set or Labelled("val", [[0, 1]])
    return prepare.check_data(train_set, val_set, recipe, lambda done, total: None).warnings


# The data


def test_good_data_pass_without_a_warning_and_every_image_is_told():
    told = []
    sets = Labelled("a", [[0, 1]], [[1, 255]]), Labelled("b", [[0]])
    read = prepare.check_data(*sets, Recipe(1, 0.1), lambda *n: told.append(n))
    assert read[:3] == ({(1, 2)}, {(1, 1)}, [])
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_both_data_sets_must_have_the_same_classes():
    other = Labelled("other", [[0, 1]])
    other.classes = ("sea", "ice")
    with pytest.raises(
        data.DataError, match=r"other has other classes \(sea, ice\) than one \(sea"
    ):
        check(Labelled("one", [[0, 1]]), other)


@pytest.mark.parametrize("empty", ["train", "val"])
def test_labels_without_any_class_are_refused(empty):
    sets = {name: Labelled(name, [[0, 1]]) for name in ("train", "val")}
    sets[empty] = Labelled(empty, [[255]], [[255]])
    with pytest.raises(TrainingError, match=f"^{empty}: not one pixel has a class: all 2 labels"):
        check(sets["train"], sets["val"])


def test_images_of_several_sizes_need_a_crop_or_single_batches():
    uneven = Labelled("uneven", [[0, 1]], [[0, 1], [0, 1], [0, 1]])
    with pytest.raises(TrainingError, match=r"from 1 x 2 to 3 x 2 \(height x width\), so 8 of"):
        check(uneven, crop=None, batch_size=8)
    assert check(uneven, crop=None, batch_size=1) == []
    assert check(uneven, crop=2, batch_size=8) == []


def test_classes_that_never_occur_are_warned_of():
    assert check(Labelled("dry", [[1, 1]])) == ["dry has no pixel of sea: these cannot be learnt"]


def test_measuring_on_what_was_learnt_is_warned_of():
    same = Labelled("same", [[0, 1]])
    assert "same is both learnt from and measured on" in check(same, same)[0]


def pictures(*numbers):
    """Return a data set of images that differ; the same number gives the same image."""
    dataset = Labelled("-", *[np.zeros((4, 4), np.uint8) for _ in numbers])
    for i, number in enumerate(numbers):
        image = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        dataset[i] = data.Sample(
            image, np.arange(16, dtype=np.uint8).reshape(4, 4) % 2, f"n{number}"
        )
    return dataset


def test_images_that_are_learnt_from_and_measured_on_are_refused():
    train_set, val_set = pictures(1, 2, 3, 4, 5, 6), pictures(7, 2, 3, 4, 5)
    train_set.name, val_set.name = "ours", "theirs"
    with pytest.raises(
        TrainingError, match=r"^4 of the 5 images of theirs are in ours, too \(n2, n3"
    ):
        check(train_set, val_set)
    assert check(train_set, pictures(7, 8)) == []


def test_black_images_may_be_in_both():
    assert check(Labelled("a", [[0, 1]]), Labelled("b", [[0, 1]])) == []


def test_the_images_are_written_down_but_for_black_ones():
    train_set, val_set = pictures(1, 2, 2), pictures(7)
    train_set.append(Labelled("black", [[0, 1]])[0])
    train_set.name = "train"
    recipe = Recipe(1, 0.1)
    read = prepare.check_data(train_set, val_set, recipe, lambda done, total: None)
    assert read.trained_on == {fingerprint(train_set[i].image) for i in (0, 1)}
    assert read.held_out == {fingerprint(val_set[0].image)}


def test_every_head_is_looked_at():
    train_set, val_set = Labelled("train", *[[[0, 1]]] * 2), Labelled("val", [[0, 1]])
    heads = {"cover": data.Head(("sea", "land"), None), "kind": data.Head(("wet", "dry"), None)}
    for dataset, second in ((train_set, 1), (val_set, 255)):
        dataset.heads = heads
        for i, (image, label, name) in enumerate(dataset):
            both = np.stack([label, np.full_like(label, second)], axis=2)
            dataset[i] = data.Sample(image, both, name)
    with pytest.raises(TrainingError, match=r"^val: not one pixel has a class: all 1 kind labels"):
        check(train_set, val_set)
    val_set[0].label[...] = 1
    assert check(train_set, val_set) == ["train has no pixel of wet: these cannot be learnt"]


def test_images_of_several_sizes_may_be_padded_or_sorted():
    uneven = Labelled("uneven", [[0, 1]], [[0, 1], [0, 1], [0, 1]])
    for sizes in ("pad", "bucket"):
        assert check(uneven, crop=None, batch_size=8, sizes=sizes) == []


def test_a_random_scale_needs_a_crop_padding_or_single_batches():
    scale = {"scale": (0.5, 2.0), "crop": None}
    even = Labelled("even", [[0, 1]])
    with pytest.raises(TrainingError, match=r"--scale 0\.5,2 makes images of many sizes, so 8 of"):
        check(even, **scale, batch_size=8)
    assert check(even, **scale, batch_size=1) == []
    assert check(even, **scale, batch_size=8, sizes="pad") == []


# The splits


@pytest.fixture
def splits(monkeypatch):
    """Make a kind of data set with chosen splits; opening one gives the name of the split."""

    def make(*names):
        source = Source(
            lambda split, **options: (split, options), lambda **_: list(names), ("x",), False
        )
        monkeypatch.setitem(SOURCES, "own", source)

    return make


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (("train", "val", "trainval", "test"), ("train", "val")),
        (("test", "trainval"), ("trainval", "test")),
        (("trainval", "val"), ("trainval", "val")),
        (("all",), ("train", "val")),  # which the data set refuses with a message of its own
    ],
)
def test_the_usual_splits_are_chosen(splits, there, chosen):
    splits(*there)
    assert prepare.open_both("own?x=1") == tuple((split, {"x": "1"}) for split in chosen)
    assert prepare.open_both("own", None, "all", "all") == (("all", {}), ("all", {}))


def test_a_split_may_be_named_in_the_data(splits):
    splits("train", "val", "test", "trainval")
    named, other = "own?split=trainval&x=1", ("val", {"x": "1"})
    assert prepare.open_both(named) == (("trainval", {"x": "1"}), other)
    assert prepare.open_both(named, None, None, "test")[1] == ("test", {"x": "1"})
    assert prepare.open_both("own", "own?split=test")[1] == ("test", {})
    with pytest.raises(
        TrainingError, match=r"--train-split train: own.split=val names its split al"
    ):
        prepare.open_both("own?split=val", None, "train")
    with pytest.raises(
        TrainingError, match=r"--val-split val: own.split=test names its split alre"
    ):
        prepare.open_both("own", "own?split=test", None, "val")


# The folder


def test_a_file_is_no_folder_for_results(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="file is a file: choose a new folder"):
        prepare.check_folder(tmp_path / "file")


@pytest.mark.parametrize("name", prepare.RUN_FILES)
def test_files_of_other_programs_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text('{"name": "another program"}')
    with pytest.raises(TrainingError, match=f"{name} was not written by a training run"):
        prepare.check_folder(tmp_path)


def test_other_files_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert prepare.check_folder(tmp_path) == {}


def test_earlier_results_are_found_and_removed(tmp_path):
    (tmp_path / "config.json").write_text('{"stages": {}}')
    (tmp_path / "metrics.json").write_text('{"fcn8s": {"mean_iu": 0.5}}')
    (tmp_path / "notes.txt").touch()
    assert prepare.check_folder(tmp_path) == {"fcn8s": {"mean_iu": 0.5}}
    prepare.clear_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"file/run: this folder cannot be made: Not a dir"):
        prepare.clear_folder(tmp_path / "file" / "run")


# Options


@pytest.mark.parametrize("text", ["", "a", "1,", "0", "-3", "1.5", "1 2"])
def test_lists_hold_whole_numbers(text):
    with pytest.raises(TrainingError, match=r"--steps .*: give whole numbers from 1"):
        prepare.whole_numbers("--steps", text)


def test_stages_have_short_and_long_names_and_stand_once():
    assert prepare.stage_names("32s, fcn8s") == ["fcn32s", "fcn8s"]
    with pytest.raises(TrainingError, match="--stages 8s,fcn8s: a stage is named twice"):
        prepare.stage_names("8s,fcn8s")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "large"])
def test_the_padding_is_a_number_or_a_word(text):
    with pytest.raises(
        TrainingError, match=r"--padding .*: give a whole number from 0 to 9999, or"
    ):
        prepare.number_or("smallest", "--padding", text)


@pytest.mark.parametrize("text", ["", "1", "2,1", "0,1", "a,b", "1,2,3", "nan,1", "1,inf"])
def test_a_range_of_factors_is_two_numbers(text):
    with pytest.raises(TrainingError, match=f"--scale {text}: give two factors above 0"):
        prepare.two_factors("--scale", text)


# The command


@pytest.mark.usefixtures("quick")
def test_the_command_trains_and_tells_where_the_nets_are(command, tmp_path):
    out = tmp_path / "run"
    options = ("--stages", "32s,8s", "--steps", "3,2", "--eval-every", 2, "--lr", 0.01)
    code, told, notes = command(*SMALL, *options, "--out", out, "--seed", 5, "--rotate")
    assert code == 0
    assert "fcn32s, best at step" in told
    assert "pixel accuracy   mean accuracy   mean IU   f.w. IU   seconds" in told
    assert f"The nets are in {out}; for example, {out}/fcn8s/best.safetensors." in told
    assert "fcn32s  step 2  pixel accuracy" in notes
    config = json.loads((out / "config.json").read_text())
    assert config["seed"] == 5
    first = config["stages"]["fcn32s"]
    assert (first["steps"], first["lr"], first["crop"]) == (3, 0.01, None)
    assert (first["batch_size"], first["rotate"], first["flip_vertical"]) == (2, True, False)
    assert config["stages"]["fcn8s"]["lr"] == pytest.approx(0.01 * 0.7)
    assert {stage["name"] for stage in config["stages"].values()} == {"quick"}
    assert list(json.loads((out / "metrics.json").read_text())) == ["fcn32s", "fcn8s"]
    assert (out / "fcn32s" / "log.jsonl").exists()

    # A second time, nothing may be lost by accident.
    before = (out / "fcn8s" / "best.safetensors").read_bytes()
    code, told, notes = command(*SMALL, "--steps", 1, "--out", out)
    assert (code, told) == (2, "")
    assert f"{out} holds the results of an earlier run (fcn32s, fcn8s)" in notes
    assert (out / "fcn8s" / "best.safetensors").read_bytes() == before
    code, *_ = command(*SMALL, "--stages", "32s", "--steps", 1, "--out", out, "--overwrite")
    assert code == 0
    assert list(json.loads((out / "metrics.json").read_text())) == ["fcn32s"]


@pytest.mark.usefixtures("quick")
def test_the_command_starts_from_weights(command, net_file, tmp_path):
    out = tmp_path / "run"
    options = ("--data", "shapes", "--crop", 0, "--stages", "8s", "--steps", 1, "--lr", 0)
    code, *_ = command(*options, "--weight-decay", 0, "--init", net_file, "--out", out)
    assert code == 0
    loaded = weights.load(out / "fcn8s" / "best.safetensors")
    parent = weights.load(net_file).model.state_dict()
    np.testing.assert_array_equal(
        loaded.model.state_dict()["conv5_1.weight"], parent["conv5_1.weight"]
    )
    assert loaded.preprocessing == CAFFE


@pytest.mark.usefixtures("quick")
def test_every_option_of_the_net_and_the_recipe_reaches_the_run(command, tmp_path):
    classifier = models.vgg16(9, width=0.02, image_size=64, rng=np.random.default_rng(0))
    path, out = tmp_path / "classifier.safetensors", tmp_path / "run"
    palette = np.zeros((9, 3), np.uint8)
    weights.save(classifier, path, classes=list("abcdefghi"), palette=palette, preprocessing=CAFFE)
    net = ("--padding", "smallest", "--at-once", "--fixed-trunk", "--fusion", "max")
    numbers = (
        "--recipe",
        "heavy",
        "--accumulate",
        2,
        "--momentum",
        0.9,
        "--steps",
        2,
        "--lr",
        1e-7,
    )
    options = ("--data", "shapes", "--init", path, *net, "--learn-upsampling", *numbers)
    code, _, notes = command(*options, "--flip", "--max-norm", 5, "--crop", 48, "--out", out)
    assert code == 0
    assert "a training step on 1 image of 48 x 48 pixels (height x width) takes about" in notes
    assert "fcn8s: starting weights: 28 copied, 2 reshaped, 9 new, 2 dropped; new: score_" in notes
    assert "2 steps of 2 images (1 at a time), learning rate 1e-07" in notes
    config = json.loads((out / "config.json").read_text())
    assert list(config["stages"]) == ["fcn8s"]
    expected = {"name": "heavy", "reduction": "batchmean", "lr": 1e-7, "momentum": 0.9, "crop": 48}
    expected |= {"accumulate": 2, "batch_size": 1, "flip": True, "max_norm": 5.0, "caffe": True}
    assert expected.items() <= config["stages"]["fcn8s"].items()
    assert config["options"]["fc6_kernel"] == 2
    model = weights.load(out / "fcn8s" / "best.safetensors").model
    assert model.config["padding"] == model.conv1_1.padding[0] < 40
    assert (model.fusion, model.config["at_once"]) == ("max", True)
    assert model.config["learn_upsampling"] == "intermediate"
    np.testing.assert_array_equal(model.conv1_1.weight.numpy(), classifier.conv1_1.weight.numpy())


@pytest.mark.usefixtures("quick")
def test_the_way_images_are_drawn_reaches_the_run(command, tmp_path):
    out = tmp_path / "run"
    changes = (
        "--scale",
        "0.8,1.25",
        "--jitter",
        0.1,
        "--sampling",
        "replacement",
        "--sizes",
        "pad",
    )
    code, *_ = command(*SMALL, "--stages", "32s", "--steps", 1, *changes, "--out", out)
    assert code == 0
    config = json.loads((out / "config.json").read_text())
    expected = {"scale": [0.8, 1.25], "jitter": 0.1, "sampling": "replacement", "sizes": "pad"}
    assert expected.items() <= config["stages"]["fcn32s"].items()
    assert config["heads"] == {"": 4}
    assert config["streams"] == {"": 3}
    told = weights.load(out / "fcn32s" / "best.safetensors").trained_on
    assert told == {fingerprint(sample.image) for sample in data.shapes("train", 8)}


@pytest.mark.usefixtures("quick")
def test_what_the_starting_weights_know_is_known_of_the_new_ones(command, tmp_path):
    out, again = tmp_path / "run", tmp_path / "again"
    command(*SMALL, "--stages", "32s", "--steps", 1, "--out", out)
    first = out / "fcn32s" / "best.safetensors"
    options = ("--crop", 0, "--stages", "32s", "--steps", 1, "--init", first, "--out", again)
    spec = ("--data", "shapes?split=val", "--val-split", "train")
    code, _, notes = command(*spec, *options)
    assert code == 0
    assert "the weights of --init were trained on 8 of the 8 images of shapes train" in notes
    told = weights.load(again / "fcn32s" / "best.safetensors").trained_on
    assert len(told) == 11


@pytest.mark.usefixtures("quick")
def test_weights_for_other_classes_need_a_word(command, net_file, tmp_path):
    out = tmp_path / "run"
    options = ("--data", "landcover", "--init", net_file, "--stages", "32s", "--steps", 1)
    code, _, notes = command(*options, "--out", out)
    assert code == 2
    assert "the weights of --init are for 4 classes (background, circle, square" in notes
    assert not out.exists()


def test_a_bad_label_file_stops_before_anything_is_written(command, tmp_path):
    folder, out = tmp_path / "mine", tmp_path / "run"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.txt").write_text("sea\nland\n")
    for name, value in (("a", 1), ("b", 7)):
        Image.new("RGB", (40, 40)).save(folder / "images" / f"{name}.png")
        Image.new("L", (40, 40), value).save(folder / "labels" / f"{name}.png")
    (folder / "val.txt").write_text("b\n")
    code, told, notes = command("--data", f"folder:{folder}", "--out", out)
    assert (code, told) == (2, "")
    assert f"{folder}/labels/b.png: label value 7 at row 0, column 0" in notes
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "moon"), "unknown data set 'moon'"),
        (("--data", "shapes", "--val-split", "test"), "shapes has no split 'test'"),
        (
            ("--data", "shapes", "--val", "landcover"),
            "landcover val has other classes (water,",
        ),
        (("--data", "shapes", "--steps", "1,2"), "with one number of steps"),
        (("--data", "shapes", "--stages", "4s"), "name some of fcn32s, fcn16s, fcn8s"),
        (("--data", "shapes", "--init", "no.safetensors"), "no.safetensors: no such file"),
        (("--data", "shapes", "--device", "tpu"), "unknown device 'tpu'"),
        (("--data", "shapes", "--recipe", "heavy", "--lr", "1e-4"), "is one for a mean loss"),
        (
            ("--data", "shapes", "--recipe", "light", "--lr", "1e-10"),
            "is one for a loss that is su",
        ),
        (("--data", "shapes?split=val", "--train-split", "train"), "names its split already, val"),
        (("--data", "shapes", "--preprocessing", "published"), "shapes train has no rule of that"),
        (("--data", "shapes", "--scale", "2"), "--scale 2: give two factors above 0"),
        (("--data", "shapes", "--crop", "0", "--scale", "1,2"), "makes images of many sizes"),
        (("--data", "shapes", "--padding", "some"), "--padding some: give a whole number"),
        (("--data", "shapes", "--width", "0.5"), "the backbone small has its channels"),
        (
            ("--data", "shapes", "--backbone", "vgg16", "--width", "0.02", "--padding", "60"),
            "give the first layer more padding",
        ),
    ],
)
@pytest.mark.usefixtures("quick")
def test_options_that_do_not_fit_are_one_line(command, tmp_path, options, message):
    code, told, notes = command(*options, "--out", tmp_path / "run")
    assert (code, told) == (2, "")
    assert message in notes.strip().splitlines()[-1]
    assert "Traceback" not in notes
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.usefixtures("quick")
def test_a_folder_without_permission_is_named(command, tmp_path):
    out = tmp_path / "locked"
    out.mkdir()
    out.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if (tmp_path / "locked").stat().st_uid == 0:
        pytest.skip("nothing is locked for root")
    code, _, notes = command(*SMALL, "--steps", 1, "--out", out)
    assert code == 2
    assert f"{out}/config.json: cannot be written: Permission denied" in notes


def test_the_options_have_the_defaults_of_the_quick_recipe(monkeypatch, tmp_path, command):
    plans = []
    monkeypatch.setattr(train, "run", lambda plan, *rest, **options: plans.append(plan) or {})
    command("--data", "shapes", "--out", tmp_path / "run")
    assert plans[0]["fcn32s"] == QUICK
    assert list(plans[0]) == ["fcn32s", "fcn16s", "fcn8s"]
