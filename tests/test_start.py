"""What a training starts from: nets and weights named in options, and whether they fit the data."""

import numpy as np
import pytest

from minifcn import data, memory, models, weights
from minifcn.data import CAFFE, LANDCOVER, UNIT
from minifcn.models.surgery import SurgeryError
from minifcn.prepare import ReadOnce
from minifcn.recipes import NETS, RecipeError, plan
from minifcn.start import Start, check_nets, starting_point
from minifcn.train import TrainingError

SHAPES = data.shapes("val", length=4)
WIDTHS = (4, 6, 8, 8, 8)


def save(model, path, classes=SHAPES.classes):
    palette = np.zeros((len(classes), 3), np.uint8)
    weights.save(model, path, classes=classes, palette=palette, preprocessing=CAFFE)
    return path


@pytest.fixture
def net_file(tmp_path):
    """Weights of an FCN-32s for the shapes, with the preprocessing of Caffe."""
    model = models.fcn32s(4, "small", widths=WIDTHS, learn_trunk=False)
    return save(model, tmp_path / "net.safetensors")


@pytest.fixture
def classifier_file(tmp_path):
    """Weights of a classifier with five classes."""
    model = models.caffenet(5, width=0.125, image_size=96)
    return save(model, tmp_path / "classifier.safetensors", tuple("abcde"))


# Options


def test_a_run_starts_from_nothing_unless_told():
    assert starting_point() == ("small", {}, UNIT, None, ())
    assert starting_point(None, "caffe", backbone="vgg16") == ("vgg16", {}, CAFFE, None, ())
    assert starting_point(preprocessing="landcover").preprocessing is LANDCOVER


def test_options_that_are_given_go_to_the_net():
    chosen = {"width": 0.25, "padding": "smallest", "at_once": True, "fusion": None}
    point = starting_point(backbone="vgg16", learn_trunk=False, **chosen)
    assert point.options == {
        "width": 0.25,
        "padding": "smallest",
        "at_once": True,
        "learn_trunk": False,
    }


def test_a_weight_file_brings_its_net_and_its_preprocessing(net_file):
    point = starting_point(net_file)
    assert (point.backbone, point.preprocessing) == ("small", CAFFE)
    assert point.options["widths"] == WIDTHS
    assert point.classes == SHAPES.classes
    net = models.build("fcn8s", num_classes=7, backbone=point.backbone, **point.options)
    assert net.conv1_1.weight.requires_grad  # only --fixed-trunk keeps it from learning
    assert point.init.conv2_1.bias.shape == (6,)
    wider = starting_point(net_file, widths="4,6,8,8,9", backbone="small")
    assert wider.options["widths"] == (4, 6, 8, 8, 9)


def test_a_classifier_brings_the_trunk_that_it_turns_into(classifier_file):
    point = starting_point(classifier_file, padding=50)
    assert (point.backbone, point.options["width"]) == ("caffenet", 0.125)
    assert point.options["padding"] == 50
    assert point.options["fc6_kernel"] == 2
    models.build("fcn16s", num_classes=7, backbone=point.backbone, **point.options)


def test_a_weight_file_excludes_another_preprocessing(net_file):
    with pytest.raises(TrainingError, match=r"--preprocessing unit: .*net\.safetensors knows the"):
        starting_point(net_file, "unit")


def test_a_training_does_not_start_from_two_nets_in_one(tmp_path):
    stream = {"model": "fcn32s", "num_classes": 4, "backbone": "small", "widths": WIDTHS}
    model = models.build("late_fusion", streams={"a": stream, "b": stream})
    path = save(model, tmp_path / "two.safetensors")
    with pytest.raises(TrainingError, match="it holds a late_fusion, and a training starts"):
        starting_point(path)


@pytest.mark.parametrize(("backbone", "widths"), [("vgg16", "1,2,3,4,5"), ("small", "1,2,3")])
def test_widths_are_five_and_of_the_small_backbone(backbone, widths):
    with pytest.raises(TrainingError, match=rf"--widths {widths}: the channels of the five"):
        starting_point(backbone=backbone, widths=widths)


def test_the_small_backbone_has_no_width():
    with pytest.raises(TrainingError, match=r"--width 0.5: the backbone small has its channels"):
        starting_point(width=0.5)


# Nets


def checked(point, nets=("fcn32s",), recipe="quick", train_set=SHAPES, val_size=(64, 64), **more):
    new_scores = more.pop("new_scores", False)
    stages = plan(nets, recipe, point.backbone, **more)
    read = ReadOnce({(64, 64), (40, 80)}, {val_size}, [])
    return check_nets(stages, point, train_set, SHAPES, read, new_scores)


def test_the_memory_is_that_of_the_finest_net_and_the_largest_images(monkeypatch):
    asked = []
    monkeypatch.setattr(
        memory,
        "advice",
        lambda net, *sizes: asked.append((net.stride, *sizes)) or ("so much", None),
    )
    point = starting_point(widths="4,4,8,8,8")
    assert checked(point, NETS) == ("so much", [])
    checked(point, ["fcn16s"], crop=None, batch_size=1)
    checked(point, ["fcn32s"], "light", crop=32)
    assert asked == [(8, 96, 96, 8), (16, 64, 64, 1), (32, 32, 32, 1)]


def test_a_run_that_will_not_fit_into_memory_is_warned_of(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda like: 10**6)
    line, warnings = checked(starting_point())
    assert "takes about" in line
    assert len(warnings) == 1
    assert "this will not fit" in warnings[0]


def test_recipes_for_trained_nets_warn_without_weights(net_file):
    line, warnings = checked(starting_point(), recipe="heavy")
    assert "MB" in line
    assert len(warnings) == 1
    assert "the recipe heavy is for nets with trained weights" in warnings[0]
    assert checked(starting_point(net_file), recipe="heavy")[1] == []


def test_a_rate_for_another_loss_is_refused():
    with pytest.raises(RecipeError, match=r"the rate 0\.01 is one for a mean loss"):
        checked(starting_point(), recipe="heavy", lr=0.01)
    with pytest.raises(RecipeError, match="the rate 1e-12 is one for a loss that is summed"):
        checked(starting_point(), recipe="light", lr=1e-12)


def test_weights_for_another_number_of_classes_need_new_scores(net_file):
    point, land = starting_point(net_file), data.landcover("val")
    message = (
        r"are for 4 classes \(background, .*\), but landcover val has 8 \(water.*: --new-scores"
    )
    with pytest.raises(TrainingError, match=message):
        checked(point, train_set=land)
    assert checked(point, train_set=land, new_scores=True)[1] == []


def test_weights_for_classes_with_other_names_are_warned_of(net_file):
    point = starting_point(net_file)._replace(classes=("background", "circle", "box", "triangle"))
    (warning,) = checked(point)[1]
    assert "other names than those of shapes val (box / square)" in warning
    assert checked(point, new_scores=True)[1] == []


def test_a_classifiers_classes_do_not_matter(classifier_file):
    assert checked(starting_point(classifier_file), NETS)[1] == []


def test_weights_of_another_size_are_refused(net_file):
    point = starting_point(net_file, widths="4,6,8,8,16")
    with pytest.raises(
        SurgeryError, match=r"conv5_1.weight is \(16, 8, 3, 3\) here, \(8, 8, 3, 3\)"
    ):
        checked(point)


def test_an_unloaded_trunk_is_refused(net_file):
    point = starting_point(net_file)
    point.init.conv3_1.weight.data[...] = 0
    with pytest.raises(SurgeryError, match="all weights of conv3_1 are zero"):
        checked(point)


def test_images_that_are_too_small_are_refused():
    point = Start("vgg16", {"width": 0.02, "padding": 81}, UNIT)
    assert checked(point, crop=33)[0]
    with pytest.raises(TrainingError, match=r"^--crop: FCN-32s: an image of 4 x 4 pixels .*too sm"):
        checked(point, crop=4)
    with pytest.raises(TrainingError, match=r"^shapes val: FCN-32s: an image of 7 x 64 pixels"):
        checked(point, crop=33, val_size=(7, 64))
