"""What a training starts from: nets and weights named in options, and whether they fit the data."""

import numpy as np
import pytest

from minifcn import data, memory, models, weights
from minifcn.data import CAFFE, LANDCOVER, UNIT, Preprocessing
from minifcn.models.surgery import SurgeryError
from minifcn.prepare import ReadOnce
from minifcn.recipes import NETS, RecipeError, plan
from minifcn.start import Start, check_nets, starting_point
from minifcn.train import TrainingError

SHAPES = data.shapes("val", length=4)
WIDTHS = (4, 6, 8, 8, 8)


def save(model, path, classes=SHAPES.classes, preprocessing=CAFFE, trained_on=()):
    facts = {"palette": np.zeros((len(classes), 3), np.uint8), "preprocessing": preprocessing}
    weights.save(model, path, classes=classes, trained_on=trained_on, **facts)
    return path


class Images:
    """A data set with these streams and presets; it holds no image."""

    name, classes, palette, ignore_index = "images", SHAPES.classes, SHAPES.palette, 255

    def __init__(self, streams, **presets):
        self.streams, self.presets = streams, presets


def rule(order, scale, *mean):
    return Preprocessing(order, scale, mean, (1.0,) * len(mean))


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
    assert starting_point(SHAPES) == Start("small", {}, UNIT, "unit")
    start = starting_point(SHAPES, (), "caffe", backbone="vgg16")
    assert start == Start("vgg16", {}, CAFFE, "caffe")
    assert starting_point(SHAPES, preprocessing="landcover").preprocessing is LANDCOVER


def test_options_that_are_given_go_to_the_net():
    chosen = {"width": 0.25, "padding": "smallest", "at_once": True, "fusion": None}
    point = starting_point(SHAPES, backbone="vgg16", learn_trunk=False, **chosen)
    assert point.options == {
        "width": 0.25,
        "padding": "smallest",
        "at_once": True,
        "learn_trunk": False,
    }


def test_a_weight_file_brings_its_net_and_its_preprocessing(net_file):
    point = starting_point(SHAPES, [net_file])
    assert (point.backbone, point.preprocessing, point.preset) == ("small", CAFFE, "")
    assert point.options["widths"] == WIDTHS
    assert point.classes == {"": SHAPES.classes}
    assert "in_channels" not in point.options  # the images tell
    net = models.build("fcn8s", num_classes=7, backbone=point.backbone, **point.options)
    assert net.conv1_1.weight.requires_grad  # only --fixed-trunk keeps it from learning
    assert point.init.conv2_1.bias.shape == (6,)
    wider = starting_point(SHAPES, [net_file], widths="4,6,8,8,9", backbone="small")
    assert wider.options["widths"] == (4, 6, 8, 8, 9)


def test_a_classifier_brings_the_trunk_that_it_turns_into(classifier_file):
    point = starting_point(SHAPES, [classifier_file], padding=50)
    assert (point.backbone, point.options["width"]) == ("caffenet", 0.125)
    assert point.options["padding"] == 50
    assert point.options["fc6_kernel"] == 2
    models.build("fcn16s", num_classes=7, backbone=point.backbone, **point.options)


def test_a_weight_file_excludes_another_preprocessing(net_file):
    with pytest.raises(TrainingError, match=r"--preprocessing unit: .*net\.safetensors knows the"):
        starting_point(SHAPES, [net_file], "unit")


def test_another_mean_colour_may_be_chosen(net_file):
    other = rule("BGR", 1.0, 90.0, 100.0, 110.0)
    point = starting_point(Images({"": 3}, published=other), [net_file], "published")
    assert (point.preprocessing, point.preset) == (other, "published")
    assert point.init is not None
    hha = rule("RGB", 1.0, 90.0, 100.0, 110.0)  # as released
    assert starting_point(Images({"": 3}, published=hha), [net_file], "published").preset
    with pytest.raises(TrainingError, match="differs in more than the mean colour"):
        starting_point(Images({"": 3}, own=hha), [net_file], "own")


def test_a_preset_that_the_data_do_not_have():
    message = "--preprocessing published: shapes val has no rule of that name .*: use one of unit, "
    with pytest.raises(TrainingError, match=message):
        starting_point(SHAPES, preprocessing="published")


# Streams


def two_streams(path, **preprocessing):
    model = models.for_data("fcn32s", {"": 4}, TWO, backbone="small", widths=WIDTHS)
    return save(model, path, **preprocessing)


TWO = {"color": 3, "hha": 3}
SIX = rule("BGR", 1.0, 1, 2, 3, 4, 5, 6)


def test_a_net_of_several_streams_is_a_start_for_the_same_streams(tmp_path):
    path = two_streams(tmp_path / "two.safetensors", preprocessing=SIX)
    point = starting_point(Images(TWO), [path])
    assert point.preprocessing == SIX
    assert point.options["widths"] == WIDTHS
    assert point.init.streams == TWO
    with pytest.raises(
        TrainingError, match=r"takes images with 3 of color and 3 of hha channels, t"
    ):
        starting_point(SHAPES, [path])
    with pytest.raises(TrainingError, match=r"two.safetensors: its net takes images with 3 of"):
        starting_point(Images({"color": 3, "depth": 1}, unit=UNIT), [path])


def test_each_stream_has_a_file_of_its_own(tmp_path):
    nets = [models.fcn32s(4, "small", widths=WIDTHS) for _ in TWO]
    rules = rule("BGR", 1.0, 1, 2, 3), rule("RGB", 1.0, 4, 5, 6)
    paths = [
        save(net, tmp_path / f"{i}.safetensors", preprocessing=rules[i], trained_on={i, 7})
        for i, net in enumerate(nets)
    ]
    point = starting_point(Images(TWO), paths)
    assert point.preprocessing == SIX
    assert point.trained_on == {0, 1, 7}
    assert point.classes == {"": SHAPES.classes}
    first = point.init["hha.conv1_1.weight"]
    np.testing.assert_array_equal(first, nets[1].conv1_1.weight.numpy())
    with pytest.raises(
        TrainingError, match=r"in ways that do not go together: .*RGB, scale 1; BGR"
    ):
        starting_point(Images(TWO), paths[::-1])
    with pytest.raises(TrainingError, match="given 2 times, but the images have 1 stream"):
        starting_point(SHAPES, paths)


def test_one_classifier_starts_all_streams(classifier_file):
    published = rule("BGR", 1.0, 1, 2, 3, 4, 5, 6)
    point = starting_point(Images(TWO, unit=SIX, published=published), [classifier_file])
    assert (point.preprocessing, point.preset) == (published, "published")
    assert point.init["color.conv1.weight"] is point.init["hha.conv1.weight"]
    assert point.classes == {}
    assert (point.backbone, point.options["width"]) == ("caffenet", 0.125)


def test_the_nets_of_all_streams_are_alike(tmp_path, net_file):
    other = models.fcn32s(4, "small", widths=(4, 6, 8, 8, 9))
    path = save(other, tmp_path / "other.safetensors")
    with pytest.raises(
        TrainingError, match=r"other\.safetensors: another kind of net than .*net\.saf"
    ):
        starting_point(Images(TWO), [net_file, path])
    classes = ("background", "circle", "square", "star")
    renamed = models.fcn32s(4, "small", widths=WIDTHS)
    path = save(renamed, tmp_path / "renamed.safetensors", classes, rule("RGB", 1.0, 1, 2, 3))
    with pytest.raises(TrainingError, match=r"renamed.*for other classes \(4 classes \(background"):
        starting_point(Images(TWO, unit=SIX), [net_file, path])


def test_images_with_more_channels_are_prepared_by_a_rule_of_theirs(net_file):
    unit, published = rule("RGB", 1 / 255, 1, 2, 3, 4), rule("BGR", 1.0, 1, 2, 3, 4)
    images = Images({"": 4}, unit=unit, published=published)
    assert starting_point(images).preprocessing == unit
    point = starting_point(images, [net_file])  # whose rule has Caffe's scale
    assert (point.preprocessing, point.preset) == (published, "published")
    assert starting_point(images, [net_file], "unit").preprocessing == unit


@pytest.mark.parametrize(("backbone", "widths"), [("vgg16", "1,2,3,4,5"), ("small", "1,2,3")])
def test_widths_are_five_and_of_the_small_backbone(backbone, widths):
    with pytest.raises(TrainingError, match=rf"--widths {widths}: the channels of the five"):
        starting_point(SHAPES, backbone=backbone, widths=widths)


def test_the_small_backbone_has_no_width():
    with pytest.raises(TrainingError, match=r"--width 0.5: the backbone small has its channels"):
        starting_point(SHAPES, width=0.5)


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
    point = starting_point(SHAPES, widths="4,4,8,8,8")
    assert checked(point, NETS) == ("so much", [])
    checked(point, ["fcn16s"], crop=None, batch_size=1)
    checked(point, ["fcn32s"], "light", crop=32)
    assert asked == [(8, 96, 96, 8), (16, 64, 64, 1), (32, 32, 32, 1)]


def test_a_run_that_will_not_fit_into_memory_is_warned_of(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda like: 10**6)
    line, warnings = checked(starting_point(SHAPES))
    assert "takes about" in line
    assert len(warnings) == 1
    assert "this will not fit" in warnings[0]


def test_recipes_for_trained_nets_warn_without_weights(net_file):
    line, warnings = checked(starting_point(SHAPES), recipe="heavy")
    assert "MB" in line
    assert len(warnings) == 1
    assert "the recipe heavy is for nets with trained weights" in warnings[0]
    assert checked(starting_point(SHAPES, [net_file]), recipe="heavy")[1] == []


def test_a_rate_for_another_loss_is_refused():
    with pytest.raises(RecipeError, match=r"the rate 0\.01 is one for a mean loss"):
        checked(starting_point(SHAPES), recipe="heavy", lr=0.01)
    with pytest.raises(RecipeError, match="the rate 1e-12 is one for a loss that is summed"):
        checked(starting_point(SHAPES), recipe="light", lr=1e-12)


def test_weights_for_another_number_of_classes_need_new_scores(net_file):
    point, land = starting_point(SHAPES, [net_file]), data.landcover("val")
    message = (
        r"are for 4 classes \(background, .*\), but landcover val has 8 classes \(w.*: --new-sc"
    )
    with pytest.raises(TrainingError, match=message):
        checked(point, train_set=land)
    assert checked(point, train_set=land, new_scores=True)[1] == []


def test_weights_for_classes_with_other_names_are_warned_of(net_file):
    point = starting_point(SHAPES, [net_file])._replace(
        classes={"": ("background", "circle", "box", "triangle")}
    )
    (warning,) = checked(point)[1]
    assert "other names than those of shapes val (box / square)" in warning
    assert checked(point, new_scores=True)[1] == []


def test_a_classifiers_classes_do_not_matter(classifier_file):
    assert checked(starting_point(SHAPES, [classifier_file]), NETS)[1] == []


def test_weights_of_another_size_are_refused(net_file):
    point = starting_point(SHAPES, [net_file], widths="4,6,8,8,16")
    with pytest.raises(
        SurgeryError, match=r"conv5_1.weight is \(16, 8, 3, 3\) here, \(8, 8, 3, 3\)"
    ):
        checked(point)


def test_an_unloaded_trunk_is_refused(net_file):
    point = starting_point(SHAPES, [net_file])
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


def test_sizes_are_those_after_the_random_scale(monkeypatch):
    asked = []
    monkeypatch.setattr(
        memory, "advice", lambda net, *sizes: asked.append(sizes) or ("so much", None)
    )
    point = starting_point(SHAPES, widths="4,4,8,8,8")
    checked(point, crop=None, batch_size=1, scale=(0.5, 2.0))
    checked(point, crop=None, batch_size=2, sizes="pad")
    checked(point, crop=48, scale=(0.5, 2.0))
    assert asked == [(128, 128, 1), (64, 80, 2), (48, 48, 8)]
    narrow = Start("vgg16", {"width": 0.02, "padding": 90}, UNIT)
    with pytest.raises(TrainingError, match=r"an image of 4 x 8 pixels"):
        checked(narrow, crop=None, batch_size=1, scale=(0.1, 1.0))


def test_weights_that_know_held_out_images_are_warned_of(net_file):
    point = starting_point(SHAPES, [net_file])._replace(trained_on=frozenset({1, 2, 3}))
    read = ReadOnce({(64, 64)}, {(64, 64)}, [], frozenset({1}), frozenset({2, 3, 4}))
    stages = plan(["fcn32s"])
    (warning,) = check_nets(stages, point, SHAPES, SHAPES, read)[1]
    assert "were trained on 2 of the 4 images of shapes val" in warning


def test_heads_must_be_those_of_the_weights(tmp_path):
    model = models.fcn32s({"kind": 2, "any": 2}, "small", widths=WIDTHS)
    point = starting_point(SHAPES, [save(model, tmp_path / "two.safetensors")])
    message = (
        r"are for 2 kind classes \(background, circle\) and 2 any classes \(square, triangle\), "
        r"but shapes val has 4 classes \(background, circle, square, triangle\): --new-scores"
    )
    with pytest.raises(TrainingError, match=message):
        checked(point)
    assert checked(point, new_scores=True)[1] == []


def test_two_streams_are_checked_and_measured(tmp_path):
    images = Images(TWO, unit=SIX)
    line, warnings = checked(starting_point(images), NETS, train_set=images)
    assert "a training step on 8 images" in line
    assert warnings == []
    path = two_streams(tmp_path / "two.safetensors", preprocessing=SIX)
    assert checked(starting_point(images, [path]), NETS, train_set=images)[1] == []
