"""The list of steps that planning works on is what the nets do."""

import numpy as np
import pytest

from minifcn import flow, models, nn
from minifcn.autograd import Tensor
from minifcn.flow import IMAGE, Read
from minifcn.kernels import conv
from minifcn.nn import evaluation_mode
from minifcn.shapes import ShapeError

NARROW = {"width": 1e-6}  # 8 channels at least
CLASSIFIERS = [("vgg16", 64), ("alexnet", 83), ("caffenet", 67), ("googlenet", 64)]
CLASSIFIERS += [("alexnet_torchvision", 64)]
HEADS = {"sem": 3, "geo": 2}


def fcn(name, backbone, classes=3, **options):
    options |= {} if backbone == "small" else NARROW
    return models.build(name, num_classes=classes, backbone=backbone, **options)


def late_fusion():
    return models.LateFusion({name: fcn("fcn16s", "small") for name in ("color", "hha")})


def made_by(net, x):
    """Return the shape of each array that a step's layer makes while the net is computed."""
    found = {}
    for step in flow.steps(net):
        # A ReLU may work on what its layer does not see: see `nn.in_turn`.
        if step.layer is not None and not isinstance(step.layer, nn.ReLU):

            def forward(x, step=step, **options):
                y = type(step.layer).forward(step.layer, x, **options)
                found[step.name] = y.shape
                return y

            step.layer.forward = forward
    with evaluation_mode(net):
        net(Tensor(x))
    return found


NETS = [
    *(fcn(name, "small") for name in ("fcn32s", "fcn16s", "fcn8s")),
    *(fcn(name, "vgg16") for name in ("fcn32s", "fcn16s", "fcn8s")),
    *(fcn("fcn8s", backbone) for backbone in ("alexnet", "caffenet", "googlenet")),
    fcn("fcn8s", "alexnet_torchvision", padding=150),
    fcn("fcn8s", "small", HEADS),
    fcn("fcn16s", "googlenet", HEADS, at_once=True),
    fcn("fcn8s", "small", at_once=True, fusion="max"),
    late_fusion(),
]


@pytest.mark.parametrize("net", NETS, ids=lambda net: str(getattr(net, "config", net)))
def test_steps_have_the_shapes_that_layers_make(net):
    channels = flow.shapes(net, 63, 100)[IMAGE][1]
    expected = flow.shapes(net, 63, 100, images=2)
    found = made_by(net, np.zeros((2, channels, 63, 100), np.float32))
    assert found == {name: expected[name] for name in found}
    layers = [s.name for s in flow.steps(net) if s.layer and not isinstance(s.layer, nn.ReLU)]
    assert list(found) == layers  # all of them, in the order in which they are computed


@pytest.mark.parametrize(("name", "side"), CLASSIFIERS)
def test_the_steps_of_classifiers(name, side):
    net = models.build(name, num_classes=3, image_size=side, **NARROW)
    expected = flow.shapes(net, side, side, images=2)
    found = made_by(net, np.zeros((2, 3, side, side), np.float32))
    assert found == {name: expected[name] for name in found}
    assert flow.outputs(net) == [list(net.chain())[-1]]


def test_each_skip_adds_once_for_each_head():
    for stride, net in enumerate(NETS[:3]):
        sums = [step for step in flow.steps(net) if step.layer is None]
        assert [len(step.reads) for step in sums] == [2] * stride
    two = [step for step in flow.steps(fcn("fcn8s", "small", HEADS)) if step.layer is None]
    assert [step.name for step in two] == [
        "score_pool4_sem + upscore2_sem",
        "score_pool4_geo + upscore2_geo",
        "score_pool3_sem + upscore_pool4_sem",
        "score_pool3_geo + upscore_pool4_geo",
    ]


def test_heads_share_the_trunk_and_the_scaled_tap():
    net = fcn("fcn16s", "small", HEADS, at_once=True)
    reads = {step.name: [read.array for read in step.reads] for step in flow.steps(net)}
    assert reads["score_fr_sem"] == reads["score_fr_geo"] == ["drop7"]
    assert reads["score_pool4_sem"] == reads["score_pool4_geo"] == ["pool4 * 0.01"]
    assert flow.outputs(net) == ["upscore16_sem", "upscore16_geo"]


def test_a_chain_among_the_layers_is_taken_apart():
    net = fcn("fcn32s", "small")
    net.conv3_1 = nn.Sequential(nn.Sequential(net.conv3_1, nn.ReLU()), nn.ReLU())
    names = [step.name for step in flow.steps(net)]
    assert names[5:9] == ["conv3_1.0.0", "conv3_1.0.1", "conv3_1.1", "relu3_1"]
    reads = [step.reads[0].array for step in flow.steps(net)]
    assert reads[5:9] == ["pool2", "conv3_1.0.0", "conv3_1.0.1", "conv3_1.1"]


def test_branches_are_taken_apart_and_put_together():
    net = fcn("fcn32s", "googlenet")
    found = {step.name: step for step in flow.steps(net) if step.name.startswith("inception_3b")}
    before = Read("inception_3a")
    for first in ("1x1", "3x3_reduce", "5x5_reduce", "pool"):
        assert found[f"inception_3b.{first}"].reads == (before,)
    assert found["inception_3b.3x3"].reads == (Read("inception_3b.relu_3x3_reduce"),)
    together = found["inception_3b"]
    assert together.layer is net.inception_3b
    names = [read.array.removeprefix("inception_3b.") for read in together.reads]
    assert names == ["relu_1x1", "relu_3x3", "relu_5x5", "relu_pool_proj"]
    assert together.held == "inception_3a"  # `nn.Branches` holds its input until all is done


def test_an_empty_chain_passes_its_input_on():
    class Beside(nn.Branches):
        def __init__(self):
            self.conv = nn.Conv2d(3, 4, 1)

        def chains(self):
            return {}, {"conv": self.conv}

    net = nn.Sequential(both=Beside())
    assert flow.shapes(net, 5, 6)["both"] == (1, 7, 5, 6)
    assert flow.steps(net)[-1].reads == (Read(IMAGE), Read("both.conv"))


def test_the_image_has_the_channels_of_the_first_layer():
    net = fcn("fcn32s", "caffenet", in_channels=4)
    assert flow.shapes(net, 50, 60)[IMAGE] == (1, 4, 50, 60)
    assert flow.shapes(late_fusion(), 50, 60)[IMAGE] == (1, 6, 50, 60)


# What computes a convolution


def test_algorithms_are_those_that_the_kernels_choose(monkeypatch):
    """The choice for a shape is compared with the function that computes."""
    ran = []
    for module in (conv.winograd, conv.winograd2d, conv.few_pixels, conv.im2col):
        name, compute = module.__name__.rpartition(".")[2], module.conv2d
        watched = lambda *a, name=name, compute=compute: (ran.append(name), compute(*a))[1]  # noqa: E731
        monkeypatch.setattr(module, "conv2d", watched)
    for layer, size in [
        (nn.Conv2d(8, 8, 3), (40, 40)),
        (nn.Conv2d(128, 128, 3), (40, 40)),
        (nn.Conv2d(8, 8, 3, groups=2), (40, 40)),
        (nn.Conv2d(3, 8, 11, stride=4), (40, 40)),
        (nn.Conv2d(512, 512, 3, stride=2), (5, 5)),
    ]:
        net = nn.Sequential(conv=layer)
        expected = flow.shapes(net, *size)
        net(np.zeros((1, layer.in_channels, *size), np.float32))
        assert ran.pop() == flow.algorithm(layer, expected[IMAGE], expected["conv"]), layer
    assert not ran


# Rules


def test_an_image_that_is_too_small():
    net = models.caffenet(3, image_size=67, **NARROW)
    rule = r"30 x 300 pixels \(height x width\) are too small .* nothing is left of them in 'pool5'"
    with pytest.raises(ShapeError, match=rule):
        flow.shapes(net, 30, 300)


def test_an_image_that_a_classifier_does_not_take():
    net = models.vgg16(3, image_size=64, **NARROW)
    with pytest.raises(ShapeError, match=r"'fc6', Linear\(32 -> 8\), would be given 72 numbers"):
        flow.shapes(net, 96, 96)


# Without drawing


def test_a_planned_net_is_built_without_drawing():
    net, drawn = (
        build("fcn8s", num_classes=3, backbone="googlenet", width=0.1)
        for build in (flow.planned, models.build)
    )
    assert not any(p.data.any() for name, p in net.named_parameters() if "up" not in name)
    assert net.config == drawn.config
    assert [p.shape for p in net.parameters()] == [p.shape for p in drawn.parameters()]
