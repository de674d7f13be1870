"""``minifcn evaluate``: what it prints and writes, and what it refuses before the work."""

import json

import numpy as np
import pytest
from PIL import Image

from minifcn import cli, data, models, weights
from minifcn.data.fingerprint import fingerprint
from minifcn.evaluation import Bands, evaluate, score_images

SHAPES = data.shapes("val")


def lively_net(num_classes):
    """A net whose scores are random, so that it predicts several classes."""
    rng = np.random.default_rng(0)
    net = models.fcn8s(num_classes, "small", widths=(4, 4, 8, 8, 8), rng=rng)
    for name, parameter in net.named_parameters():
        if name.startswith("score_fr"):
            parameter.data[...] = rng.normal(size=parameter.shape)
    return net


def save(path, net, classes=SHAPES.classes, **facts):
    palette = data.voc_palette(len(classes))
    weights.save(net, path, classes=classes, palette=palette, preprocessing=data.UNIT, **facts)
    return path


@pytest.fixture
def net(tmp_path):
    """A weight file for the classes of shapes."""
    return save(tmp_path / "net.safetensors", lively_net(4))


@pytest.fixture
def run(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["evaluate", *(str(argument) for argument in arguments)])
        return (caught.value.code or 0, *capsys.readouterr())

    return run


def fails(result, *parts):
    """Check that a command printed one error, without a traceback, and nothing else."""
    assert result[:2] == (2, "")
    assert result[2].startswith("minifcn: error: ")
    assert "Traceback" not in result[2]
    for part in parts:
        assert str(part) in result[2]


def make_set(folder, images, classes=SHAPES.classes):
    """Write images and labels, by name, as a data set of one's own; return its specification."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(classes))
    (folder / "val.txt").write_text("\n".join(images))
    for name, (image, label) in images.items():
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(label).save(folder / "labels" / f"{name}.png")
    return f"folder:{folder}"


@pytest.fixture
def half_truth(tmp_path):
    """A data set with the classes of shapes, of which only the background occurs."""
    return make_set(tmp_path / "set", {"one": (SHAPES[0].image, np.zeros((64, 64), np.uint8))})


class TwoKinds:
    """Shapes with a second kind of labels: which side of the image a pixel is on."""

    ignore_index, name = 255, "two kinds"
    classes, palette = SHAPES.classes, SHAPES.palette

    def __init__(self, split=None):
        sides = data.Head(("left", "right"), data.voc_palette(2))
        self.heads = {"shape": data.Head(self.classes, self.palette), "side": sides}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image, label, name = SHAPES[index]
        side = np.zeros_like(label)
        side[:, 32:] = 1
        return data.Sample(image, np.stack([label, side], axis=2), f"day 1/{name}")


@pytest.fixture
def two_kinds(monkeypatch, tmp_path):
    """A weight file for a data set of two kinds of labels, ``kinds``."""
    source = data.sources.Source(lambda split: TwoKinds(), lambda: ["test"], has_path=False)
    monkeypatch.setitem(data.sources.SOURCES, "kinds", source)
    classes = (*SHAPES.classes, "left", "right")
    return save(tmp_path / "two.safetensors", lively_net({"shape": 4, "side": 2}), classes)


def test_help_explains_every_option(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "minifcn evaluate" in out[out.index("Example") :]


# Numbers


def test_metrics_and_classes_in_print_and_in_json(run, net, tmp_path):
    code, out, _ = run(net, "--data", "shapes", "--json", tmp_path / "scores.json")
    assert code == 0
    for text in ("pixel accuracy", "mean accuracy", "mean IU", "f.w. IU", "shapes val: 50 images"):
        assert text in out
    numbers = json.loads((tmp_path / "scores.json").read_text())
    confusion = np.array(numbers["confusion"])
    expected = evaluate(weights.load(net).model, SHAPES)[""]
    np.testing.assert_array_equal(confusion, expected.matrix)
    assert numbers["pixel_accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    assert f"{100 * numbers['mean_iu']:.1f} %" in out
    for number, name in enumerate(SHAPES.classes):
        pixels = int(confusion[number].sum())
        assert numbers["classes"][name]["pixels"] == pixels
        (line,) = (line for line in out.splitlines() if line.startswith(name))
        assert f" {pixels:,} " in line
    facts = {"data": "shapes", "split": "val", "images": 50, "scales": [1.0], "flip": False}
    assert facts.items() <= numbers.items()


def test_absent_classes_count_as_zero_or_not_at_all(run, net, half_truth, tmp_path):
    values = {}
    for absent in ("zero", "exclude"):
        file = tmp_path / absent
        code, out, _ = run(net, "--data", half_truth, "--absent", absent, "--json", file)
        assert code == 0
        values[absent] = json.loads(file.read_text())
        assert f"{100 * values[absent]['mean_iu']:.1f} %" in out[out.index("mean IU") :][:30]
    confusion = np.array(values["zero"]["confusion"])
    predicted = (confusion.sum(axis=0) > 0).sum()
    assert predicted > 1  # else there is nothing to tell apart
    background = values["zero"]["classes"]["background"]["iu"]
    assert values["exclude"]["mean_iu"] == pytest.approx(background)
    assert values["zero"]["mean_iu"] == pytest.approx(background / max(predicted, 1))


def test_a_class_that_nobody_saw_has_no_iu(run, net, half_truth, tmp_path):
    with np.errstate(all="raise"):
        file = tmp_path / "json"
        _, out, _ = run(net, "--data", half_truth, "--json", file)
    numbers = json.loads(file.read_text())["classes"]  # valid JSON: null, not NaN
    unseen = [name for name, values in numbers.items() if values["accuracy"] is None]
    assert unseen == ["circle", "square", "triangle"]
    assert " -" in out


def test_nothing_labelled(run, net, tmp_path):
    label = np.full((64, 64), 255, np.uint8)
    spec = make_set(tmp_path / "set", {"one": (SHAPES[0].image, label)})
    fails(run(net, "--data", spec), "not one pixel has a class: all 1 labels hold only 255")


def test_sizes_and_mirrors(run, net, tmp_path):
    file = tmp_path / "json"
    code, _, _ = run(net, "--data", "shapes", "--scales", "0.5,1", "--flip", "--json", file)
    assert code == 0
    numbers = json.loads(file.read_text())
    expected = evaluate(weights.load(net).model, SHAPES, scales=(0.5, 1), flip=True)[""]
    assert numbers["confusion"] == expected.matrix.tolist()
    assert numbers["scales"] == [0.5, 1]
    assert numbers["flip"] is True


def test_boundaries(run, net, tmp_path):
    file = tmp_path / "json"
    code, out, _ = run(net, "--data", "shapes", "--band", "1,4", "--json", file)
    assert code == 0
    bands = Bands(SHAPES, [1, 4])
    for one in score_images(weights.load(net).model, SHAPES):
        bands.add(one)
    numbers = json.loads(file.read_text())["bands"]
    for width, matrix in bands.matrices[""].items():
        assert numbers[str(width)]["confusion"] == matrix.matrix.tolist()
        (line,) = (line for line in out.splitlines() if line.startswith(f"{width} px a side"))
        assert f"{matrix.matrix.sum():,}" in line
        assert f"{100 * matrix.mean_iu():.1f} %" in line


def test_two_kinds_of_labels(run, two_kinds, tmp_path):
    outputs = ["--save-predictions", tmp_path / "out", "--confusion", tmp_path / "c.png"]
    outputs += ["--json", tmp_path / "json", "--sheet", tmp_path / "sheet.html"]
    code, out, _ = run(two_kinds, "--data", "kinds", *outputs)
    assert code == 0
    assert out.index("shape:") < out.index("triangle") < out.index("side:") < out.index("right")
    numbers = json.loads((tmp_path / "json").read_text())
    assert numbers["split"] == "test"  # there is no val
    expected = evaluate(weights.load(two_kinds).model, TwoKinds())
    for head, matrix in expected.items():
        assert numbers["heads"][head]["confusion"] == matrix.matrix.tolist()
        assert (tmp_path / f"c_{head}.png").is_file()
        assert len(list((tmp_path / "out" / head / "day 1").glob("*.png"))) == 3
    assert "prediction (side)" in (tmp_path / "sheet.html").read_text("utf-8")


# Files


def test_saved_predictions_are_those_that_were_scored(run, net, tmp_path):
    out = tmp_path / "out"
    code, _, _ = run(net, "--data", "shapes", "--save-predictions", out)
    assert code == 0
    assert len(list(out.iterdir())) == 50
    for one in score_images(weights.load(net).model, SHAPES):
        label = data.read_label(out / f"{one.sample.name}.png")
        np.testing.assert_array_equal(label, one.labels[""])


def test_the_layout_of_the_voc_server(run, net, half_truth, tmp_path):
    out = tmp_path / "out"
    for layout, number in (("voc", 6), ("voc-comp5", 5)):
        run(net, "--data", half_truth, "--save-predictions", out, "--layout", layout)
        place = out / "results" / "VOC2012" / "Segmentation" / f"comp{number}_val_cls"
        assert (place / "one.png").is_file()


@pytest.mark.parametrize("place", ["set", "set/labels", "set/images"])
def test_predictions_do_not_go_among_the_data(run, net, half_truth, tmp_path, place):
    before = data.read_label(tmp_path / "set" / "labels" / "one.png")
    result = run(net, "--data", half_truth, "--save-predictions", tmp_path / place)
    fails(result, tmp_path / place, "choose another folder")
    after = data.read_label(tmp_path / "set" / "labels" / "one.png")
    np.testing.assert_array_equal(before, after)


def test_the_worst_images(run, net, tmp_path):
    scores = {
        one.sample.name: one.matrices[""].mean_iu()
        for one in score_images(weights.load(net).model, SHAPES)
    }
    order = sorted(scores, key=scores.get)
    code, out, _ = run(net, "--data", "shapes", "--worst", "3", "--sheet", tmp_path / "s.html")
    assert code == 0
    lines = out[out.index("worst images") :].splitlines()[2:5]
    assert [line.split()[0] for line in lines] == order[:3]
    assert lines[0].split()[1] == f"{100 * scores[order[0]]:.1f}"
    page = (tmp_path / "s.html").read_text("utf-8")
    assert page.count("<h3>") == 3
    assert page.index(order[0]) < page.index(order[1]) < page.index(order[2])


def test_a_sheet_without_a_number_shows_ten(run, net, tmp_path):
    code, out, _ = run(net, "--data", "shapes", "--sheet", tmp_path / "s.html")
    assert code == 0
    assert (tmp_path / "s.html").read_text("utf-8").count("<h3>") == 10
    assert "worst images" not in out  # they are not listed in the terminal
    assert f"10 images that the net does worst on: see {tmp_path / 's.html'}" in out


def test_a_confusion_matrix_as_a_picture(run, net, tmp_path):
    code, _, _ = run(net, "--data", "shapes", "--confusion", tmp_path / "c.png")
    assert code == 0
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("option", "name", "parts"),
    [
        ("--json", "missing/a.json", ["cannot be written", "does not exist: make it first"]),
        ("--json", "net.safetensors/a.json", ["cannot be written", "is not a folder"]),
        ("--sheet", "missing/s.png", ["cannot be written"]),
        ("--sheet", "s.jpg", ["s.jpg: a sheet is a .png or .html file"]),
        ("--confusion", "c.svg", ["c.svg: it is drawn as a .png file"]),
        ("--confusion", "missing/c.png", ["cannot be written"]),
        ("--save-predictions", "net.safetensors", ["nothing can be written here"]),
    ],
)
def test_files_that_cannot_be_written_are_found_before_the_work(
    run, net, tmp_path, monkeypatch, option, name, parts
):
    monkeypatch.setattr(weights, "load_fcn", None)  # it is not called
    fails(run(net, "--data", "shapes", option, tmp_path / name), *parts)


# What does not fit


def test_weights_and_data_of_different_class_counts(run, net):
    result = run(net, "--data", "landcover")
    fails(result, net, "4 classes", "triangle", "landcover val", "8 (water")


def test_weights_and_data_of_different_class_names(run, net, half_truth, tmp_path):
    (tmp_path / "set" / "classes.txt").write_text("background\ncircle\nbox\ntriangle")
    code, _, err = run(net, "--data", half_truth)
    assert code == 0
    assert "warning" in err
    assert "square / box" in err


def test_one_head_for_two_kinds(run, net, two_kinds):
    fails(run(net, "--data", "kinds"), "the net has one head", "2 kinds (shape, side)", "?labels=")


def test_other_channels(run, tmp_path):
    net = models.fcn32s(4, "small", in_channels=4)
    path = tmp_path / "deep.safetensors"
    rule = data.Preprocessing("RGB", 1.0, (0.0,) * 4, (1.0,) * 4)
    facts = {"classes": SHAPES.classes, "palette": SHAPES.palette, "preprocessing": rule}
    weights.save(net, path, **facts)
    fails(run(path, "--data", "shapes"), "shapes val: its images have 3 channels", "takes 4")


def test_unknown_data(run, net):
    fails(run(net, "--data", "coco"), "unknown data set 'coco'", "folder:PATH")


def test_unknown_split(run, net):
    fails(run(net, "--data", "shapes", "--split", "test"), "no split 'test'")


def test_a_split_that_the_data_name_themselves(run, net, tmp_path):
    file = tmp_path / "json"
    code, out, _ = run(net, "--data", "shapes?split=train", "--json", file)
    assert code == 0
    assert "on shapes train" in out
    assert json.loads(file.read_text())["split"] == "train"
    result = run(net, "--data", "shapes?split=train", "--split", "val")
    fails(result, "--split val: shapes?split=train names its split already, train: leave out one")


def test_data_are_needed(run, net):
    code, _, err = run(net)
    assert code == 2
    assert "--data" in err


@pytest.mark.parametrize("scales", ["0", "-1", "1,1", "big", "1,,2", "inf", "nan"])
def test_scales_that_are_none(run, net, scales):
    result = run(net, "--data", "shapes", f"--scales={scales}")
    fails(result, f"--scales {scales}: give numbers above 0 and up to 100, each once, with commas")


@pytest.mark.parametrize("band", ["0", "-1", "1.5", "3,3", "wide"])
def test_bands_that_are_none(run, net, band):
    result = run(net, "--data", "shapes", f"--band={band}")
    fails(result, f"--band {band}: give whole numbers above 0 and up to 10,000, each once, with")


def test_a_net_that_says_one_class_only_is_warned_of(run, tmp_path):
    path = save(tmp_path / "new.safetensors", models.fcn32s(4, "small"))  # all scores are zero
    code, _, err = run(path, "--data", "shapes")
    assert code == 0
    assert "100.0% of all pixels are predicted as 'background'" in err


# Images that the net has learnt


def test_learnt_images_are_refused(run, tmp_path):
    learnt = {fingerprint(SHAPES[index].image) for index in (7, 9)}
    path = save(tmp_path / "net.safetensors", lively_net(4), trained_on=learnt)
    file, out = tmp_path / "json", tmp_path / "out"
    result = run(path, "--data", "shapes", "--json", file, "--save-predictions", out)
    fails(result, path, f"was trained on {SHAPES[7].name!r} of shapes val", "--allow-trained")
    assert not file.exists()
    code, _, err = run(path, "--data", "shapes", "--json", file, "--allow-trained")
    assert code == 0
    assert "warning: " in err
    assert "was trained on 2 of these 50 images" in err
    assert json.loads(file.read_text())["trained_on"] == 2


def test_images_that_others_learnt_do_not_matter(run, tmp_path):
    path = save(tmp_path / "net.safetensors", lively_net(4), trained_on={1, 2})
    code, _, err = run(path, "--data", "shapes")
    assert code == 0
    assert "trained on" not in err
