"""The table of layers has the numbers that were published."""

import math

import numpy as np
import pytest

from minifcn import models, nn
from minifcn.autograd import Tensor
from minifcn.flow import planned
from minifcn.layer_table import default_size, layer_table
from minifcn.shapes import ShapeError


def table(name, *size, **options):
    """Return the rows by name, and the net."""
    net = planned(name, **options)
    return {row.name: row for row in layer_table(net, *(size or default_size(net)))}, net


@pytest.mark.parametrize(
    ("name", "side", "parameters", "billions", "field"),
    [
        ("vgg16", 224, 138_357_544, 15.5, 404),
        ("alexnet", 227, 60_965_224, 0.72, 355),
        ("caffenet", 227, 60_965_224, 0.72, 355),
        ("googlenet", 224, 6_998_552, 1.58, 907),  # with its last pooling
    ],
)
def test_published_numbers_of_classifiers(name, side, parameters, billions, field):
    rows, net = table(name)
    assert default_size(net) == (side, side)
    assert sum(row.parameters for row in rows.values()) == parameters == net.num_parameters()
    total = sum(row.multiply_adds for row in rows.values()) / 1e9
    assert total == pytest.approx(billions, rel=0.01)
    last = list(rows.values())[-1]
    assert (last.shape, last.field) == ((1000,), (field, field))


def test_the_work_of_vgg16_layer_by_layer():
    rows, _ = table("vgg16")
    assert rows["conv1_1"].multiply_adds == 224 * 224 * 64 * 27
    assert rows["conv1_1"].flops == 2 * rows["conv1_1"].multiply_adds
    assert rows["fc6"].multiply_adds == 7 * 7 * 512 * 4096
    assert rows["pool1"].multiply_adds == 0


@pytest.mark.parametrize(
    ("backbone", "layer", "field", "parameters"),
    [
        ("vgg16", "score_fr", 404, 134_346_581),
        ("caffenet", "score_fr", 355, 56_954_261),
        ("googlenet", "inception_5b", 715, 5_995_077),
    ],
)
def test_published_numbers_of_fcns(backbone, layer, field, parameters):
    rows, net = table("fcn32s", backbone=backbone)
    assert default_size(net) == (500, 500)
    assert rows[layer].field == (field, field)
    up = rows["upscore"]
    fixed = math.prod(up.kernel) * 21 * 21
    assert up.parameters == fixed
    found = sum(row.parameters for row in rows.values())
    assert found == net.num_parameters()
    assert found - fixed == parameters  # the papers do not count the bilinear kernels
    assert up.field == (field + 32, field + 32)  # two scores meet in a pixel
    assert rows["score"].shape == (21, 500, 500)


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (500, {"pool1": 349, "pool2": 175, "pool3": 88, "pool4": 44, "pool5": 22, "fc6": 16}),
        (500, {"upscore2": 34, "upscore_pool4": 70, "upscore8": 568, "score": 500}),
        (375, {"pool1": 287, "pool2": 144, "pool3": 72, "pool4": 36, "pool5": 18, "fc6": 12}),
        (375, {"upscore2": 26, "upscore_pool4": 54, "upscore8": 440, "score": 375}),
        (224, {"pool1": 211, "pool2": 106, "pool3": 53, "pool4": 27, "pool5": 14, "fc6": 8}),
        (224, {"upscore2": 18, "upscore_pool4": 38, "upscore8": 312, "score": 224}),
        (1, {"fc6": 1, "score": 1}),
    ],
)
def test_the_sizes_of_fcn8s(side, expected):
    rows, _ = table("fcn8s", side, side, width=1e-6)
    assert {name: rows[name].shape[1:] for name in expected} == {
        name: (n, n) for name, n in expected.items()
    }


def test_the_sizes_of_fcn_alexnet():
    rows, _ = table("fcn32s", 500, 500, backbone="caffenet", width=1e-6)
    sizes = {"conv1": 173, "pool1": 86, "pool2": 43, "pool5": 21, "fc6": 16, "upscore": 543}
    assert {name: rows[name].shape[1] for name in sizes} == sizes
    conv1 = rows["conv1"]
    assert (conv1.kernel, conv1.stride, conv1.padding) == ((11, 11), (4, 4), (100, 100))


def test_the_work_of_fcn8s_at_500_pixels():
    rows, _ = table("fcn8s")
    assert sum(row.flops for row in rows.values()) == pytest.approx(0.362e12, rel=0.01)


def test_groups_take_their_share_of_the_work():
    whole, grouped = (nn.Sequential(conv=nn.Conv2d(8, 16, 3, groups=g)) for g in (1, 4))
    one, four = (layer_table(net, 10, 10)[0] for net in (whole, grouped))
    assert one.multiply_adds == 8 * 8 * 16 * 8 * 9
    assert four.multiply_adds == one.multiply_adds / 4
    assert four.parameters == 16 * 2 * 9 + 16


def test_axes_are_seen_apart():
    layers = nn.Conv2d(3, 4, (3, 5), stride=(1, 2), padding=(1, 0)), nn.Conv2d(4, 4, (3, 1))
    first, second = layer_table(nn.Sequential(*layers), 20, 30)
    assert (first.kernel, first.stride, first.padding) == ((3, 5), (1, 2), (1, 0))
    assert [row.field for row in (first, second)] == [(3, 5), (5, 5)]
    assert second.shape == (4, 18, 13)


def test_a_pixel_sees_what_the_table_says():
    """The gradient of one output pixel reaches as many pixels of the image as the table says."""
    rng = np.random.default_rng(0)
    block = models.Inception(4, (2, 2, 2, 2, 2, 2), rng)
    block.pool = nn.AvgPool2d(3, stride=1, padding=1)  # a maximum would see all, and choose one
    net = nn.Sequential(
        conv=nn.Conv2d(3, 4, 7, stride=2, rng=rng),
        pool=nn.AvgPool2d(3, stride=2),
        block=block,
        up=nn.ConvTranspose2d(8, 2, 4, stride=2, rng=rng),
    )
    for parameter in net.parameters():
        parameter.data[...] = abs(parameter.data)  # so that nothing is cancelled, or below zero
    net.to(np.float64)  # Winograd's way, of float32, has rounding errors where it sees nothing
    x = Tensor(np.ones((1, 3, 99, 99)), requires_grad=True)
    rows = layer_table(net, 99, 99)
    y = net(x)
    assert y.shape[1:] == rows[-1].shape
    y[0, :, 25, 24].sum().backward()
    seen = np.flatnonzero(x.grad.data[0].sum(axis=(0, 2)))
    assert (seen[-1] - seen[0] + 1,) * 2 == rows[-1].field


def test_memory_is_that_of_the_arrays():
    rows, net = table("fcn32s", 96, 64, backbone="small", num_classes=4)
    assert rows["conv1_1"].bytes == 4 * 24 * 48 * 32
    assert rows["score"].bytes == 0  # a view
    net.to(np.float64)
    assert layer_table(net, 96, 64)[0].bytes == 8 * 24 * 48 * 32


def test_branches_come_before_what_they_make():
    rows, _ = table("googlenet")
    names = [name for name in rows if name.startswith("inception_3a")]
    assert names[-1] == "inception_3a"
    assert names[:2] == ["inception_3a.1x1", "inception_3a.3x3_reduce"]
    assert rows["inception_3a"].shape == (256, 28, 28)
    assert rows["inception_3a"].parameters == 0  # they are its layers'


def test_each_kind_of_step_has_a_row():
    rows, _ = table(
        "fcn16s", backbone="small", num_classes={"sem": 4, "geo": 3}, at_once=True, fusion="max"
    )
    kinds = {row.kind for row in rows.values()}
    assert kinds == {"Conv2d", "MaxPool2d", "ConvTranspose2d", "scale", "max", "crop"}
    assert rows["score_sem"].shape == (4, 128, 128)
    assert rows["score_geo"].shape == (3, 128, 128)


def test_two_streams():
    streams = {name: models.fcn32s(5, "small") for name in ("color", "hha")}
    net = models.LateFusion(streams)
    rows = layer_table(net, 64, 64)
    assert sum(row.parameters for row in rows) == net.num_parameters()
    assert rows[-1].shape == (5, 64, 64)
    assert default_size(net) == (128, 128) or net.config == {}


def test_sizes_of_narrow_nets():
    assert default_size(planned("fcn32s", width=0.125)) == (128, 128)
    assert default_size(planned("fcn32s", backbone="small")) == (128, 128)
    assert default_size(planned("vgg16", width=0.125, image_size=64)) == (64, 64)


def test_an_image_that_does_not_fit():
    with pytest.raises(ShapeError, match="one size only"):
        layer_table(planned("alexnet", width=0.1), 300, 300)
