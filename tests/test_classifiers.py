"""The classifiers and the trunks made of them: counts, sizes, names, and what they compute."""

import itertools
import re

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor, models, nn, optim
from minifcn.models import (
    BACKBONES,
    CLASSIFIERS,
    FCN,
    ModelError,
    coordinate_map,
    output_size,
    receptive_field_of,
)
from minifcn.models.alignment import covered
from minifcn.models.classifier import scaled, side_after
from minifcn.shapes import CoordinateMap, ShapeError

NARROWEST = 1e-9  # a width that makes all layers 8 channels wide: the geometry, and little else
FULL = {"vgg16": 224, "alexnet": 227, "caffenet": 227, "alexnet_torchvision": 224, "googlenet": 224}
FULL["googlenet_torchvision"] = 224
HEADS = {"auxiliary": True}


def generator(seed=0):
    return np.random.default_rng(seed)


def small(name, image_size=64, num_classes=5, **options):
    options = {"width": 0.125, "rng": generator(), **options}
    return CLASSIFIERS[name](num_classes, image_size=image_size, **options)


def images(n, side, seed=0):
    return generator(seed).normal(size=(n, 3, side, side)).astype(np.float32)


def up_to(layers, last):
    names = list(layers)
    return [layers[name] for name in names[: names.index(last) + 1]]


@pytest.fixture
def undrawn(monkeypatch):
    """Leave all weights unset: full nets are then built at once, to be counted."""
    monkeypatch.setattr(nn.init, "normal_", lambda parameter, *_: parameter)


# ---- the published nets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vgg16", 138_357_544),
        ("alexnet", 60_965_224),
        ("caffenet", 60_965_224),
        ("alexnet_torchvision", 61_100_840),
        ("googlenet", 6_998_552),
        ("googlenet_torchvision", 6_617_624),
    ],
)
def test_the_parameter_counts_are_the_published_ones(name, count, undrawn):
    net = CLASSIFIERS[name]()
    assert net.num_parameters() == count
    assert (net.num_classes, net.image_size) == (1000, FULL[name])


def test_the_auxiliary_heads_have_the_published_sizes(undrawn):
    net = models.googlenet(auxiliary=True)
    shapes = {name: p.shape for name, p in net.loss2.named_parameters()}
    assert shapes == {
        "conv.weight": (128, 528, 1, 1),
        "conv.bias": (128,),
        "fc.weight": (1024, 128 * 4 * 4),
        "fc.bias": (1024,),
        "classifier.weight": (1000, 1024),
        "classifier.bias": (1000,),
    }
    assert net.loss1.conv.weight.shape == (128, 512, 1, 1)
    heads = net.loss1.num_parameters() + net.loss2.num_parameters()
    assert net.num_parameters() == 6_998_552 + heads
    assert (net.loss1.drop_fc.p, net.pool5_drop.p) == (0.7, 0.4)


@pytest.mark.parametrize(("backbone", "count"), [("caffenet", 56_954_261), ("vgg16", 134_346_581)])
def test_the_fcns_have_as_many_parameters_as_the_papers(backbone, count, undrawn):
    """Without the upsampling, whose weights are fixed: 57 and 134 millions in table 1."""
    net = models.fcn32s(21, backbone)
    assert net.num_parameters() - net.upscore.num_parameters() == count


def test_fcn_googlenet_has_six_million_parameters(undrawn):
    net = models.fcn32s(21, "googlenet")
    assert net.num_parameters() - net.upscore.num_parameters() == 5_995_077


STAGES = {  # the side of the maps, and their channels
    "vgg16": {
        "conv1_2": (224, 64),
        "pool1": (112, 64),
        "pool2": (56, 128),
        "pool3": (28, 256),
        "pool4": (14, 512),
        "pool5": (7, 512),
    },
    "alexnet": {
        "conv1": (55, 96),
        "pool1": (27, 96),
        "conv2": (27, 256),
        "pool2": (13, 256),
        "conv4": (13, 384),
        "conv5": (13, 256),
        "pool5": (6, 256),
    },
    "alexnet_torchvision": {
        "conv1": (55, 64),
        "pool1": (27, 64),
        "conv2": (27, 192),
        "pool2": (13, 192),
        "conv3": (13, 384),
        "conv4": (13, 256),
        "pool5": (6, 256),
    },
    "googlenet": {
        "conv1_7x7_s2": (112, 64),
        "pool1_3x3_s2": (56, 64),
        "conv2_3x3": (56, 192),
        "pool2_3x3_s2": (28, 192),
        "inception_3a": (28, 256),
        "inception_3b": (28, 480),
        "pool3_3x3_s2": (14, 480),
        "inception_4a": (14, 512),
        "inception_4b": (14, 512),
        "inception_4c": (14, 512),
        "inception_4d": (14, 528),
        "inception_4e": (14, 832),
        "pool4_3x3_s2": (7, 832),
        "inception_5a": (7, 832),
        "inception_5b": (7, 1024),
        "pool5_7x7_s1": (1, 1024),
    },
}
STAGES["caffenet"] = STAGES["alexnet"]
STAGES["googlenet_torchvision"] = STAGES["googlenet"]  # though its last max-pooling is another


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_stage_has_the_published_size(name, undrawn):
    chain = CLASSIFIERS[name]().chain()
    channels, found = 3, {}
    for layer_name, layer in chain.items():
        channels = getattr(layer, "out_channels", channels)
        if layer_name in STAGES[name]:
            side = output_size(up_to(chain, layer_name), FULL[name])
            found[layer_name] = side, channels
    assert found == STAGES[name]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_computing_gives_the_sizes_that_were_planned(name):
    """At the published image size, narrow: layer after layer."""
    net = CLASSIFIERS[name](2, width=NARROWEST).eval()
    h, side = Tensor(images(1, FULL[name])), FULL[name]
    for layer_name, layer in net.chain().items():
        if layer_name == "flatten":
            break
        h, side = layer(h), output_size([layer], side)
        assert h.shape[2:] == (side, side), layer_name
    assert side == {"alexnet": 6, "caffenet": 6, "alexnet_torchvision": 6}.get(
        name, 1 if name.startswith("googlenet") else 7
    )


@pytest.mark.parametrize(
    ("backbone", "field"),
    [("vgg16", 404), ("alexnet", 355), ("caffenet", 355), ("googlenet", 715)],
)
def test_the_receptive_fields_and_strides_are_the_papers(backbone, field):
    layers = BACKBONES[backbone](width=NARROWEST).layers.values()
    assert receptive_field_of(layers) == field
    assert coordinate_map(layers).scale == 32


@pytest.mark.parametrize(
    ("backbone", "taps"),
    [
        ("vgg16", {16: ("pool4", 512), 8: ("pool3", 256)}),
        ("alexnet", {16: ("pool2", 256), 8: ("pool1", 96)}),
        ("caffenet", {16: ("norm2", 256), 8: ("norm1", 96)}),
        ("alexnet_torchvision", {16: ("pool2", 192), 8: ("pool1", 64)}),
        ("googlenet", {16: ("inception_4e", 832), 8: ("inception_3b", 480)}),
        ("googlenet_torchvision", {16: ("inception_4e", 832), 8: ("inception_3b", 480)}),
    ],
)
def test_skips_start_from_the_last_layer_of_their_stride(backbone, taps, undrawn):
    trunk = BACKBONES[backbone]()
    assert {stride: trunk.taps[stride] for stride in (16, 8)} == taps
    assert trunk.channels == (1024 if backbone.startswith("googlenet") else 4096)


def test_the_papers_field_of_googlenet_counts_the_pooling_that_it_leaves_out():
    layers = models.googlenet(2, width=NARROWEST).chain()
    assert receptive_field_of(up_to(layers, "pool5_7x7_s1")) == 907
    assert receptive_field_of(up_to(layers, "inception_5b")) == 715


FCNS = {  # padding 100: the upsampling kernels, and the offsets of the crops
    "vgg16": {32: ([64], [19]), 16: ([4, 32], [5, 27]), 8: ([4, 4, 16], [5, 9, 31])},
    "caffenet": {32: ([63], [18]), 16: ([3, 31], [5, 18]), 8: ([3, 3, 15], [5, 10, 18])},
    "googlenet": {32: ([63], [98]), 16: ([3, 31], [0, 98]), 8: ([3, 3, 15], [0, 0, 98])},
    "googlenet_torchvision": {
        32: ([63], [106]),
        16: ([4, 31], [1, 98]),
        8: ([4, 3, 15], [1, 0, 98]),
    },
}
FCNS["alexnet"] = FCNS["alexnet_torchvision"] = FCNS["caffenet"]


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("backbone", FCNS)
def test_the_crops_of_fcns_and_every_image_size_fits(backbone, stride):
    trunk = BACKBONES[backbone](width=NARROWEST)
    net = FCN(trunk, 2, stride)
    kernels = [*(skip.kernel for skip in net.skips), net.alignment.kernel]
    offsets = [*(skip.offset[0] for skip in net.skips), net.offset[0]]
    assert (kernels, offsets) == FCNS[backbone][stride]
    args = trunk.layers, net.alignment, stride
    assert [n for n in range(1, 1000) if covered(*args, n, axis=0) != n] == []


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("backbone", FCNS)
def test_fcns_score_every_pixel(backbone, stride):
    net = FCN(BACKBONES[backbone](width=NARROWEST), 2, stride).eval()
    assert net(Tensor(images(1, 40)[..., :33])).shape == (1, 2, 40, 33)


@pytest.mark.parametrize("backbone", FCNS)
def test_taps_have_the_strides_and_channels_that_a_trunk_says(backbone):
    trunk = BACKBONES[backbone](width=NARROWEST)
    h = Tensor(images(1, 40))
    found = {}
    for name, layer in trunk.layers.items():
        h = layer(h)
        found[name] = h.shape[1]
    for stride, (name, channels) in trunk.taps.items():
        assert coordinate_map(up_to(trunk.layers, name)).scale == stride
        assert found[name] == channels
    assert trunk.channels == h.shape[1]
    assert {8, 16} <= set(trunk.taps)


# ---- names ---------------------------------------------------------------------------------------


def test_the_order_of_pooling_and_normalisation():
    def order(name):
        return " ".join(list(small(name, 67).chain())[:9])

    assert order("alexnet") == "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3"
    assert order("caffenet") == "conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2 conv3"
    assert order("alexnet_torchvision").startswith("conv1 relu1 pool1 conv2 relu2 pool2 conv3")


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "caffenet", "alexnet_torchvision"])
def test_a_classifier_ends_with_three_fully_connected_layers(name):
    tail = list(small(name, 67).chain())[-8:]
    assert tail == ["flatten", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"]


def test_the_names_in_googlenet_are_caffes():
    chain = small("googlenet").chain()
    assert list(chain) == [
        *("conv1_7x7_s2", "conv1_relu_7x7", "pool1_3x3_s2", "pool1_norm1"),
        *("conv2_3x3_reduce", "conv2_relu_3x3_reduce", "conv2_3x3", "conv2_relu_3x3"),
        *("conv2_norm2", "pool2_3x3_s2", "inception_3a", "inception_3b", "pool3_3x3_s2"),
        *(f"inception_4{letter}" for letter in "abcde"),
        *("pool4_3x3_s2", "inception_5a", "inception_5b"),
        *("pool5_7x7_s1", "pool5_drop", "flatten", "loss3_classifier"),
    ]
    names = [name for name, _ in chain["inception_3a"].named_parameters()]
    layers = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
    assert names == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_trunk_has_the_layers_of_its_classifier(name):
    """All parameters but those of the last layer, with as many numbers each."""
    net = small(name, image_size=96)
    trunk = nn.Sequential(BACKBONES[name](**options_of_trunk(net)).layers)
    ours = {name: p.data.size for name, p in trunk.named_parameters()}
    theirs = {name: p.data.size for name, p in net.named_parameters()}
    last = list(net.chain())[-1]
    assert ours == {n: size for n, size in theirs.items() if not n.startswith(last)}


def options_of_trunk(net):
    options = models.trunk_options(net.config)
    assert options.pop("backbone") == net.config["model"]
    return options


@pytest.mark.parametrize(
    ("name", "image_size", "kernel"),
    [
        ("vgg16", 224, 7),
        ("vgg16", 64, 2),
        ("alexnet", 227, 6),
        ("caffenet", 96, 2),
        ("alexnet_torchvision", 224, 6),
        ("alexnet_torchvision", 64, 1),
    ],
)
def test_fc6_is_as_large_as_what_the_convolutions_leave(name, image_size, kernel):
    config = {"model": name, "num_classes": 3, "image_size": image_size, "width": 0.25}
    options = models.trunk_options({**config, "dropout": 0.1})
    expected = {"backbone": name, "width": 0.25, "dropout": 0.1, "fc6_kernel": kernel}
    assert options == expected
    options["width"] = NARROWEST
    assert models.fcn32s(3, **options).fc6.kernel_size == (kernel, kernel)


def test_googlenets_trunk_has_no_fc6():
    options = models.trunk_options(small("googlenet", auxiliary=True).config)
    assert options == {"backbone": "googlenet", "width": 0.125, "dropout": 0.4}
    last = list(models.googlenet_trunk(width=NARROWEST).layers.items())[-2:]
    assert [name for name, _ in last] == ["inception_5b", "pool5_drop"]


def test_a_trunk_may_read_more_than_three_channels():
    for name in CLASSIFIERS:
        trunk = BACKBONES[name](width=NARROWEST, in_channels=4)
        assert next(iter(trunk.layers.values())).in_channels == 4


# ---- small versions ------------------------------------------------------------------------------


def test_width_scales_all_channels_to_multiples_of_eight():
    assert [scaled(c, 0.25) for c in (64, 96, 384, 4096)] == [16, 24, 96, 1024]
    assert [scaled(c, 0.125) for c in (16, 64, 96)] == [8, 8, 16]
    assert scaled(3, 1) == 3  # a width of 1 changes nothing
    assert scaled(96, 2) == 192
    net = small("vgg16", width=0.5)
    assert (net.conv1_1.out_channels, net.conv5_3.out_channels) == (32, 256)
    assert (net.fc6.out_features, net.fc7.out_features) == (2048, 2048)
    block = models.googlenet(2, width=0.5).inception_5b
    assert [p.shape[0] for n, p in block.named_parameters() if n.endswith("weight")] == [
        *(192, 96, 192, 24, 64, 64)
    ]


@pytest.mark.parametrize("image_size", [64, 96])
@pytest.mark.parametrize("name", [*CLASSIFIERS, "googlenet with heads"])
def test_a_step_down_the_gradient_lowers_the_loss(name, image_size):
    name, _, heads = name.partition(" ")
    options = {"auxiliary": bool(heads)} if name == "googlenet" else {}
    net = small(name, image_size, dropout=0.0, **options)
    x, target = Tensor(images(4, image_size)), np.array([0, 4, 2, 2])

    def loss():
        return F.cross_entropy(net.eval()(x), target)

    before = loss().item()
    net.train()
    scores = net(x)
    scores = scores if heads else (scores,)
    assert [s.shape for s in scores] == [(4, 5)] * (3 if heads else 1)
    total = sum(F.cross_entropy(s, target) for s in scores)
    total.backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert np.isfinite(parameter.grad.numpy()).all(), parameter_name
        assert parameter.grad.numpy().any(), parameter_name
    optim.SGD(net.parameters(), lr=1e-4).step()
    assert loss().item() < 0.999 * before


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_models_are_built_again_from_their_config(name):
    options = {"dropout": 0.25} | (HEADS if name == "googlenet" else {})
    net = small(name, 71, **options)
    assert net.config["model"] == name
    again = models.build(**net.config)
    assert repr(again) == repr(net)
    again.load_state_dict(net.state_dict())
    x = Tensor(images(1, 71))
    np.testing.assert_array_equal(again.eval()(x).numpy(), net.eval()(x).numpy())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_generator_gives_one_net(name):
    first, second = (small(name, 67).state_dict() for _ in range(2))
    for parameter in first:
        np.testing.assert_array_equal(first[parameter], second[parameter])


def test_dropout_acts_in_training_only():
    x = Tensor(images(1, 67))
    for name in CLASSIFIERS:
        net = small(name, 67)
        assert (net(x).numpy() != net(x).numpy()).any()
        net.eval()
        assert (net(x).numpy() == net(x).numpy()).all()


def test_the_heads_change_neither_the_main_path_nor_what_is_computed_in_evaluation():
    plain, headed = small("googlenet").eval(), small("googlenet", **HEADS).eval()
    x = Tensor(images(2, 64))
    np.testing.assert_array_equal(plain(x).numpy(), headed(x).numpy())
    assert list(headed.chain()) == list(plain.chain())
    assert list(headed) == list(headed.chain().values())
    assert len(headed) == len(plain)
    assert headed[-1] is headed.loss3_classifier
    assert receptive_field_of(up_to(headed.chain(), "inception_5b")) == 715


def test_a_head_reads_its_block_and_trains_what_is_before_it():
    net = small("googlenet", **HEADS)
    net.loss1.drop_fc.p = 0.0
    x = Tensor(images(2, 64))
    h = x
    for layer in up_to(net.chain(), "inception_4a"):
        h = layer(h)
    _, loss1, _ = net(x)
    np.testing.assert_allclose(loss1.numpy(), net.loss1(h).numpy(), atol=1e-6)
    F.cross_entropy(loss1, np.array([1, 3])).backward()
    learning = {n.split(".")[0] for n, p in net.named_parameters() if p.grad is not None}
    assert "inception_4a" in learning
    assert "inception_4b" not in learning


# ---- branches ------------------------------------------------------------------------------------


class Fork(nn.Branches):
    """Two convolutions side by side."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def chains(self):
        return {"first": self.first}, {"second": self.second}


def test_of_branches_the_one_that_sees_most_counts():
    fork = Fork(nn.Conv2d(1, 1, 1, stride=2), nn.Conv2d(1, 1, 5, stride=2, padding=2))
    layers = [nn.Conv2d(1, 1, 3), fork, nn.Conv2d(1, 1, 3)]
    assert receptive_field_of(layers) == 3 + 4 + 2 * 2
    assert coordinate_map(layers) == CoordinateMap.conv(3) >> CoordinateMap.conv(
        1, 2
    ) >> CoordinateMap.conv(3)
    assert output_size(layers, 21) == 8


def test_axes_of_branches_are_seen_apart():
    fork = Fork(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, (1, 3), padding=(0, 1)))
    assert [receptive_field_of([fork], axis) for axis in (0, 1)] == [1, 3]


def test_branches_lead_the_gradient_back_to_their_input():
    """Against differences, in float64, through a whole inception block."""
    block = models.Inception(3, (1, 2, 2, 1, 2, 1), generator()).to(np.float64)
    x = Tensor(generator(1).normal(size=(1, 3, 4, 5)), requires_grad=True)
    towards = generator(2).normal(size=(1, 6, 4, 5))
    (block(x) * Tensor(towards)).sum().backward()
    direction, step = generator(3).normal(size=x.shape), 1e-6
    ends = [(block(Tensor(x.data + s * step * direction)).numpy() * towards).sum() for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose((x.grad.numpy() * direction).sum(), slope, rtol=1e-6)


# ---- rules: one test each ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small("vgg16", num_classes=1), ModelError, "num_classes=1 must be .* at least 2"),
        (lambda: small("googlenet", num_classes=0), ModelError, "num_classes=0 .* at least 2"),
        (lambda: small("alexnet", num_classes=2.0), ModelError, r"num_classes=2\.0 .* whole"),
        (lambda: small("vgg16", width=0), ModelError, "width=0 must be a number above 0"),
        (lambda: small("vgg16", width=float("nan")), ModelError, "width=nan must be a number"),
        (lambda: models.alexnet_trunk(width="1"), ModelError, "width='1' must be a number"),
        (lambda: small("vgg16", image_size=0), ModelError, "image_size=0 must be a whole number"),
        (lambda: small("vgg16", image_size=64.0), ModelError, r"image_size=64\.0 must be"),
        (lambda: small("vgg16", dropout=1.0), nn.LayerError, r"p=1\.0 must be .* less than 1"),
        (
            lambda: models.trunk_options(models.fcn32s(3, "small").config),
            ModelError,
            "'fcn32s': only a classifier turns into a trunk: vgg16, alexnet",
        ),
        (lambda: models.trunk_options({}), ModelError, "None: only a classifier"),
        (
            lambda: coordinate_map([Fork(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 2))]),
            ModelError,
            r"Fork: .* pixels differ: \(first\): .*; \(second\): .*shift=Fraction\(1, 2\)",
        ),
        (
            lambda: receptive_field_of([Fork(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1, stride=2))]),
            ModelError,
            "Fork: .* pixels differ",
        ),
        (
            lambda: output_size([Fork(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3))], 9),
            ModelError,
            r"sizes for 9 pixels differ: \(first\): 9; \(second\): 7\. .*padding \(k - 1\) / 2",
        ),
        (
            lambda: models.build("vgg19"),
            ModelError,
            "'vgg19' is unknown: use one of fcn32s, .*vgg16, alexnet, caffenet, googlenet",
        ),
    ],
)
def test_rules_of_classifiers(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("shape", [(1, 3, 65, 64), (1, 3, 96, 96), (3, 64, 64)])
def test_images_of_another_size_are_an_error(name, shape):
    net = CLASSIFIERS[name](2, width=NARROWEST, image_size=64)
    message = rf"classifier {name}: .* \(N, C, 64, 64\)\. Given: x .*convolutionalize"
    with pytest.raises(ShapeError, match=message):
        net(Tensor(np.zeros(shape, np.float32)))


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (models.alexnet, "pool5"),
        (models.caffenet, "pool5"),
        (models.alexnet_torchvision, "pool5"),
        (models.googlenet, "pool4_3x3_s2"),
        (lambda *args, **options: models.googlenet(*args, **HEADS, **options), r"loss1\.ave_pool"),
    ],
)
def test_the_least_image_size_is_named_and_serves(build, layer):
    with pytest.raises(ModelError) as caught:
        build(2, width=NARROWEST, image_size=20)
    message = str(caught.value)
    pattern = r"image_size=20 is too small: .* (\S+) \(.* The least size is (\d+)"
    found = re.search(pattern, message)
    assert found, message
    least = int(found[2])
    build(2, width=NARROWEST, image_size=least).eval()(Tensor(images(1, least)))
    with pytest.raises(
        ModelError, match=rf"reach {layer} \(\w+\(kernel \d.* least size is {least}"
    ):
        build(2, width=NARROWEST, image_size=least - 1)


def test_an_image_below_the_first_kernel_is_named_too():
    with pytest.raises(ModelError, match=r"3 x 3 pixels reach conv1 .*least size is 5"):
        side_after({"conv1": nn.Conv2d(3, 8, 5), "relu1": nn.ReLU()}, 3)
    assert models.vgg16(2, width=NARROWEST, image_size=1)(Tensor(images(1, 1))).shape == (1, 2)


# ---- against PyTorch -----------------------------------------------------------------------------


def torch_of(net, twin, x, weigh):
    """Return scores and gradients of a PyTorch net with the weights of ``net``."""
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(np.ascontiguousarray(p)) for name, p in net.state_dict().items()}
    twin.load_state_dict(state)  # strict: the names must be the same
    image = torch.tensor(x, requires_grad=True)
    scores = twin.double()(image.double())
    (scores * torch.tensor(weigh).double()).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    return scores.detach().numpy(), gradients | {"image": image.grad.numpy()}


def agree(net, twin, image_size):
    x, weigh = images(2, image_size), generator(5).normal(size=(2, net.num_classes))
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):  # zeros would hide a bias that is not added
            parameter.data[...] = generator(6).normal(size=parameter.shape) / 10
    scores, gradients = torch_of(net, twin, x, weigh)
    image = Tensor(x.astype(np.float64), requires_grad=True)
    ours = net.to(np.float64)(image)
    np.testing.assert_allclose(ours.numpy(), scores, atol=1e-9 * abs(scores).max())
    (ours * Tensor(weigh)).sum().backward()
    found = {name: p.grad.numpy() for name, p in net.named_parameters()}
    for name, expected in gradients.items():
        got = image.grad.numpy() if name == "image" else found[name]
        # PyTorch's image is float32, so its gradient is rounded to that.
        tolerance = (1e-6 if name == "image" else 1e-9) * abs(expected).max()
        np.testing.assert_allclose(got, expected, atol=tolerance, err_msg=name)


def torch_alexnet(order, channels, groups, padding, side, hidden, classes, lrn_scale):
    """Return AlexNet written with PyTorch's layers alone; ``order`` is what follows a ReLU."""
    torch = pytest.importorskip("torch")
    tn, layers, inputs = torch.nn, {}, 3
    for i, (outputs, g) in enumerate(zip(channels, groups, strict=True), start=1):
        if i == 1:
            layers["conv1"] = tn.Conv2d(inputs, outputs, 11, stride=4, padding=padding)
        else:
            k = 5 if i == 2 else 3
            layers[f"conv{i}"] = tn.Conv2d(inputs, outputs, k, padding=k // 2, groups=g)
        layers[f"relu{i}"] = tn.ReLU()
        for kind in order if i <= 2 else ("pool",) * (i == 5):
            layers[f"{kind}{i}"] = (
                tn.MaxPool2d(3, 2, ceil_mode=True)
                if kind == "pool"
                else tn.LocalResponseNorm(5, alpha=1e-4 * lrn_scale, beta=0.75, k=1.0)
            )
        inputs = outputs
    layers["flatten"] = tn.Flatten()
    sizes = [inputs * side * side, hidden, hidden, classes]
    for i, (a, b) in enumerate(itertools.pairwise(sizes), start=6):
        layers[f"fc{i}"] = tn.Linear(a, b)
        layers |= {f"relu{i}": tn.ReLU()} if i < 8 else {}
    net = tn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "order", "channels", "groups", "padding"),
    [
        ("alexnet", ("norm", "pool"), (16, 32, 48, 48, 32), (1, 2, 1, 2, 2), 0),
        ("caffenet", ("pool", "norm"), (16, 32, 48, 48, 32), (1, 2, 1, 2, 2), 0),
        ("alexnet_torchvision", ("pool",), (8, 24, 48, 32, 32), (1, 1, 1, 1, 1), 2),
    ],
)
def test_alexnet_against_pytorch(name, order, channels, groups, padding):
    net = small(name, 95, dropout=0.0)
    # Images of around 1 would hardly be normalised: a larger alpha shows whether it is all right.
    for layer in net:
        if isinstance(layer, nn.LocalResponseNorm):
            layer.alpha *= 1e4
    agree(net, torch_alexnet(order, channels, groups, padding, 2, 512, 5, 1e4), 95)


def torch_inception(inputs, outputs):
    torch = pytest.importorskip("torch")
    tn = torch.nn
    a, b, c, d, e, f = outputs

    class Block(tn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("1x1", tn.Conv2d(inputs, a, 1))
            self.add_module("3x3_reduce", tn.Conv2d(inputs, b, 1))
            self.add_module("3x3", tn.Conv2d(b, c, 3, padding=1))
            self.add_module("5x5_reduce", tn.Conv2d(inputs, d, 1))
            self.add_module("5x5", tn.Conv2d(d, e, 5, padding=2))
            self.add_module("pool_proj", tn.Conv2d(inputs, f, 1))

        def forward(self, x):
            def conv(name, h):
                return torch.relu(getattr(self, name)(h))

            pooled = tn.functional.max_pool2d(x, 3, stride=1, padding=1)
            three = conv("3x3", conv("3x3_reduce", x))
            five = conv("5x5", conv("5x5_reduce", x))
            return torch.cat([conv("1x1", x), three, five, conv("pool_proj", pooled)], 1)

    return Block()


@pytest.mark.oracle
def test_an_inception_block_against_pytorch():
    pytest.importorskip("torch")
    widths = (3, 4, 5, 2, 3, 4)
    block = models.Inception(6, widths, generator())
    net = nn.Sequential(block=block, pool=nn.AvgPool2d(9), flatten=nn.Flatten())
    net.num_classes = block.out_channels
    import torch

    twin = torch.nn.Sequential()
    twin.add_module("block", torch_inception(3 * 2, widths))
    twin.add_module("pool", torch.nn.AvgPool2d(9))
    twin.add_module("flatten", torch.nn.Flatten())
    # Six channels, of two images each: the block reads maps, not colours.
    x = images(4, 9).reshape(2, 6, 9, 9)
    weigh = generator(5).normal(size=(2, net.num_classes))
    scores, gradients = torch_of(net, twin, x, weigh)
    ours = net.to(np.float64)(Tensor(x.astype(np.float64)))
    np.testing.assert_allclose(ours.numpy(), scores, atol=1e-12)
    (ours * Tensor(weigh)).sum().backward()
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], atol=1e-12)


def torch_googlenet(classes, blocks, few, many, side, lrn_scale):
    torch = pytest.importorskip("torch")
    tn, net, inputs = torch.nn, torch.nn.Sequential(), many

    def pool():
        return tn.MaxPool2d(3, 2, ceil_mode=True)

    def norm():
        return tn.LocalResponseNorm(5, alpha=1e-4 * lrn_scale, beta=0.75, k=1.0)

    net.add_module("conv1_7x7_s2", tn.Conv2d(3, few, 7, stride=2, padding=3))
    for name, layer in (("a", tn.ReLU()), ("b", pool()), ("c", norm())):
        net.add_module(name, layer)
    net.add_module("conv2_3x3_reduce", tn.Conv2d(few, few, 1))
    net.add_module("d", tn.ReLU())
    net.add_module("conv2_3x3", tn.Conv2d(few, many, 3, padding=1))
    for name, layer in (("e", tn.ReLU()), ("f", norm()), ("g", pool())):
        net.add_module(name, layer)
    for name, widths in blocks.items():
        if name in ("4a", "5a"):
            net.add_module(f"pool before {name}", pool())
        net.add_module(f"inception_{name}", torch_inception(inputs, widths))
        inputs = widths[0] + widths[2] + widths[4] + widths[5]
    net.add_module("h", tn.AvgPool2d(side))
    net.add_module("i", tn.Flatten())
    net.add_module("loss3_classifier", tn.Linear(inputs, classes))
    return net


@pytest.mark.oracle
def test_googlenet_against_pytorch():
    net = small("googlenet", 64, dropout=0.0)
    for layer in net:
        if isinstance(layer, nn.LocalResponseNorm):
            layer.alpha *= 1e4
    blocks = {  # an eighth of the published widths, in multiples of 8
        "3a": (8, 16, 16, 8, 8, 8),
        "3b": (16, 16, 24, 8, 16, 8),
        "4a": (24, 16, 24, 8, 8, 8),
        "4b": (16, 16, 32, 8, 8, 8),
        "4c": (16, 16, 32, 8, 8, 8),
        "4d": (16, 16, 32, 8, 8, 8),
        "4e": (32, 16, 40, 8, 16, 16),
        "5a": (32, 16, 40, 8, 16, 16),
        "5b": (48, 24, 48, 8, 16, 16),
    }
    agree(net, torch_googlenet(5, blocks, 8, 24, 2, 1e4), 64)
