"""The networks: their geometry, their names and counts, and what they compute."""

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor, models, nn
from minifcn.models import (
    FCN,
    VGG16,
    ModelError,
    Trunk,
    coordinate_map,
    output_size,
    receptive_field_of,
)
from minifcn.models.fcn import AT_ONCE_SCALES
from minifcn.shapes import ShapeError

STRIDES = (32, 16, 8)
NARROW = tuple((1,) * len(widths) for widths in VGG16)  # VGG16's geometry with one channel each


def narrow_vgg(**options):
    """Return a trunk with VGG16's kernels, strides and paddings, and hardly any weights."""
    return models.vgg_trunk(NARROW, 1, rng=np.random.default_rng(0), **options)


def small(stride, num_classes=4, **options):
    options = {"widths": (4, 5, 6, 7, 8), "rng": np.random.default_rng(0), **options}
    return models.build(f"fcn{stride}s", num_classes=num_classes, backbone="small", **options)


def images(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def randomise(net, seed=1):
    """Draw all weights anew but those of the upsampling, so that no score is zero; return net."""
    rng = np.random.default_rng(seed)
    for name, parameter in net.named_parameters():
        if not name.startswith("upscore"):
            scale = 0.1 if name.endswith("bias") else (2 / np.prod(parameter.shape[1:])) ** 0.5
            parameter.data[...] = scale * rng.normal(size=parameter.shape)
    return net


def take(net, *names):
    return [getattr(net, name) for name in names]


# ---- geometry of the published nets --------------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "skips", "last"), [(32, [], 19), (16, [5], 27), (8, [5, 9], 31)]
)
def test_the_crops_are_the_published_ones(stride, skips, last):
    net = FCN(narrow_vgg(), 2, stride)
    assert [skip.offset for skip in net.skips] == [(offset, offset) for offset in skips]
    assert all(skip.crop_finer for skip in net.skips)
    assert net.offset == (last, last)


@pytest.mark.parametrize("padding", [81, 90, 150])
def test_only_the_last_crop_moves_with_the_padding(padding):
    net = FCN(narrow_vgg(padding=padding), 2, 8)
    assert [skip.offset for skip in net.skips] == [(5, 5), (9, 9)]
    assert net.offset == (padding - 69, padding - 69)


SIZES = {  # input: pools 1 to 5, fc6, 32s, upscore2, 16s, upscore_pool4, 8s
    500: ([349, 175, 88, 44, 22], 16, 544, 34, 560, 70, 568),
    375: ([287, 144, 72, 36, 18], 12, 416, 26, 432, 54, 440),
    224: ([211, 106, 53, 27, 14], 8, 288, 18, 304, 38, 312),
}


@pytest.mark.parametrize("n", SIZES)
def test_the_sizes_are_the_published_ones(n):
    pools, fc6, whole32, twice, whole16, four_times, whole8 = SIZES[n]
    trunk = narrow_vgg()
    names = list(trunk.layers)
    for i, size in enumerate(pools, start=1):
        upto = names[: names.index(f"pool{i}") + 1]
        assert output_size((trunk.layers[name] for name in upto), n) == size
    assert output_size(trunk.layers.values(), n) == fc6
    assert output_size(take(FCN(trunk, 2, 32), "upscore"), fc6) == whole32
    net = FCN(trunk, 2, 16)
    assert output_size(take(net, "upscore2"), fc6) == twice
    assert output_size(take(net, "upscore2", "upscore16"), fc6) == whole16
    net = FCN(trunk, 2, 8)
    assert output_size(take(net, "upscore2", "upscore_pool4"), fc6) == four_times
    assert output_size(take(net, "upscore2", "upscore_pool4", "upscore8"), fc6) == whole8


def test_the_receptive_field_is_the_papers():
    assert receptive_field_of(narrow_vgg().layers.values()) == 404


def fits(net, trunk, n):
    """Tell, by arithmetic alone, whether every crop of the net is in bounds for n pixels."""
    sizes, size = {}, n
    for name, layer in trunk.layers.items():
        size = output_size([layer], size)
        sizes[name] = size
        if size < 1:
            return False
    for skip in net.skips:
        up, finer = output_size(take(net, skip.upsample), size), sizes[skip.tap]
        larger, size = (finer, up) if skip.crop_finer else (up, finer)
        if skip.offset[0] + size > larger:
            return False
    return net.offset[0] + n <= output_size(take(net, net.last), size)


def with_floor(trunk):
    for layer in trunk.layers.values():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = False
    return trunk


@pytest.mark.parametrize(("stride", "failures"), [(32, 799), (16, 281), (8, 25)])
def test_every_image_size_fits_with_ceil_pooling_and_not_with_floor_pooling(stride, failures):
    trunk = narrow_vgg()
    net = FCN(trunk, 2, stride)
    assert [n for n in range(1, 2100) if not fits(net, trunk, n)] == []
    with_floor(trunk)
    assert sum(not fits(net, trunk, n) for n in range(1, 2100)) == failures


@pytest.mark.parametrize("stride", STRIDES)
def test_every_image_size_from_two_pixels_fits_in_the_small_net(stride):
    trunk = models.small_trunk((1, 1, 1, 1, 1))
    net = FCN(trunk, 2, stride)
    assert [n for n in range(1, 2100) if not fits(net, trunk, n)] == [1]  # below its first kernel


def toy_alexnet(**first):
    """Return a trunk with AlexNet's kernels, strides and paddings, one channel wide."""
    first = {"stride": 4, "padding": 100, **first}
    pool = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
    layers = {
        "conv1": nn.Conv2d(3, 1, 11, **first),
        "pool1": nn.MaxPool2d(**pool),
        "conv2": nn.Conv2d(1, 1, 5, padding=2),
        "pool2": nn.MaxPool2d(**pool),
        "conv3": nn.Conv2d(1, 1, 3, padding=1),
        "conv4": nn.Conv2d(1, 1, 3, padding=1),
        "conv5": nn.Conv2d(1, 1, 3, padding=1),
        "pool5": nn.MaxPool2d(**pool),
        "fc6": nn.Conv2d(1, 1, 6),
        "fc7": nn.Conv2d(1, 1, 1),
    }
    return Trunk(layers, 1, {})


def test_alexnet_needs_an_odd_kernel():
    trunk = toy_alexnet()
    net = FCN(trunk, 2, 32)
    assert net.upscore.kernel_size == (63, 63)
    assert net.offset == (18, 18)
    assert receptive_field_of(trunk.layers.values()) == 355
    sizes = {
        name: output_size(list(trunk.layers.values())[:i], 500)
        for i, name in enumerate(trunk.layers, start=1)
    }
    assert [sizes[name] for name in ("conv1", "pool1", "pool2", "pool5", "fc6")] == [
        173,
        86,
        43,
        21,
        16,
    ]
    assert output_size(take(net, "upscore"), 16) == 543
    assert [n for n in range(1, 2100) if not fits(net, trunk, n)] == []


def test_the_two_axes_are_aligned_separately():
    trunk = toy_alexnet(padding=(100, 104))
    net = FCN(trunk, 2, 32)
    assert net.offset == (18, 22)
    assert net(images(1, 3, 40, 33)).shape == (1, 2, 40, 33)


# ---- names and counts ----------------------------------------------------------------------------

CONVOLUTIONS = [f"conv{s}_{i}" for s, ws in enumerate(VGG16, 1) for i in range(1, len(ws) + 1)]
HEADS = {
    32: ["upscore"],
    16: ["upscore2", "score_pool4", "upscore16"],
    8: ["upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8"],
}


@pytest.mark.parametrize("stride", STRIDES)
def test_the_names_are_caffes_in_order(stride):
    expected = []
    for name in [*CONVOLUTIONS, "fc6", "fc7", "score_fr", *HEADS[stride]]:
        expected.append(f"{name}.weight")
        if not name.startswith("upscore"):
            expected.append(f"{name}.bias")
    assert list(FCN(narrow_vgg(), 2, stride).state_dict()) == expected


@pytest.mark.slow
def test_the_parameter_counts_are_the_published_ones():
    trunk = models.vgg_trunk(rng=np.random.default_rng(0))
    counts = {stride: FCN(trunk, 21, stride).num_parameters() for stride in STRIDES}
    assert counts == {32: 136_152_917, 16: 134_815_994, 8: 134_489_759}
    assert counts[32] - 21 * 21 * 64 * 64 == 134_346_581  # without the upsampling: the paper's 134M
    del trunk
    assert models.vgg16(rng=np.random.default_rng(0)).num_parameters() == 138_357_544


def test_models_are_built_by_name_and_again_from_their_config():
    net = small(8, num_classes=3, at_once=True, learn_upsampling="intermediate", dropout=0.25)
    again = models.build(**net.config)
    assert repr(again) == repr(net)
    assert again.skips == net.skips
    assert again.upscore2.weight.requires_grad
    again.load_state_dict(net.state_dict())
    assert models.fcn32s(2, stages=NARROW, hidden=1).num_classes == 2  # backbone vgg16
    assert (net.num_classes, net.stride) == (3, 8)


def test_one_generator_gives_one_net():
    for name, parameter in small(8).state_dict().items():
        np.testing.assert_array_equal(parameter, small(8).state_dict()[name])


# ---- what the nets compute -----------------------------------------------------------------------


@pytest.mark.parametrize("stride", STRIDES)
def test_scores_have_the_size_of_the_image_whatever_it_is(stride):
    net = randomise(small(stride)).eval()
    sizes = [(2, 2), (2, 70), (50, 2), (2, 3), (50, 70), (31, 33), (32, 32), (33, 64), (17, 48)]
    for height, width in sizes:
        scores = net(images(2, 3, height, width))
        assert scores.shape == (2, 4, height, width)
        assert scores.dtype == np.float32
        assert np.isfinite(scores.numpy()).all()


def test_the_published_geometry_serves_a_single_pixel():
    net = FCN(narrow_vgg(), 2, 8)
    assert net(images(1, 3, 1, 1)).shape == (1, 2, 1, 1)


@pytest.mark.parametrize("stride", STRIDES)
def test_a_new_net_scores_zero_everywhere(stride):
    assert not small(stride)(images(1, 3, 20, 30)).numpy().any()


@pytest.mark.parametrize("backbone", ["small", "vgg16"])
@pytest.mark.parametrize("stride", STRIDES)
def test_a_constant_stays_constant_through_the_upsampling(stride, backbone):
    """Scores of one per class, everywhere: inside, no interpolation may change them."""
    trunk = narrow_vgg() if backbone == "vgg16" else models.small_trunk((2, 2, 2, 2, 2))
    net = FCN(trunk, 3, stride).eval()
    net.score_fr.bias.data[...] = [1, -2, 3]
    scores = net(images(1, 3, 130, 150)).numpy()
    inside = scores[:, :, 48:-48, 48:-48]
    assert inside.size
    expected = np.broadcast_to(np.reshape([1, -2, 3], (1, 3, 1, 1)), inside.shape)
    np.testing.assert_allclose(inside, expected, rtol=1e-6)


FACTORS = {32: (32,), 16: (2, 16), 8: (2, 2, 8)}


def enlarging(n, factors):
    """Return the matrix (pixels, n) of bilinear enlargements of n scores, one after the other."""
    matrix = np.eye(n)
    for factor in factors:
        tent = 1 - abs(np.arange(2 * factor) - (factor - 0.5)) / factor
        rows = factor * (len(matrix) - 1) + len(tent)
        larger = np.zeros((rows, n))
        for i, row in enumerate(matrix):
            larger[factor * i : factor * i + len(tent)] += tent[:, None] * row
        matrix = larger
    return matrix


@pytest.mark.parametrize("backbone", ["small", "vgg16"])
@pytest.mark.parametrize(("stride", "parent"), [(16, 32), (8, 16), (8, 32)])
def test_a_net_with_its_parents_weights_differs_only_by_interpolation(stride, parent, backbone):
    """With skip scores of zero, x32 has become x2 · x16 or x2 · x2 · x8: nearly the same filter."""
    widths = (4, 5, 6, 7, 8)
    options = {"backbone": backbone, "num_classes": 4, "rng": np.random.default_rng(0)}
    if backbone == "vgg16":
        options["stages"] = [(w,) * len(stage) for w, stage in zip(widths, VGG16, strict=True)]
        options["hidden"] = 8
    else:
        options["widths"] = widths
    old = randomise(models.build(f"fcn{parent}s", **options)).eval()
    for skip in old.skips:
        nn.init.zeros_(getattr(old, skip.score).weight)
        nn.init.zeros_(getattr(old, skip.score).bias)
    new = models.build(f"fcn{stride}s", **options).eval()
    unmatched = new.load_state_dict(old.state_dict(), strict=False)
    assert {name.partition(".")[0] for name in unmatched.unexpected} == {old.last}

    # A smooth image gives smooth scores: then some classes are clearly ahead.
    y, x = np.mgrid[:190, :210] / 60
    x = Tensor(np.stack([[np.sin(x + y), np.cos(x), np.cos(y)]]).astype(np.float32))
    h = x
    for name in old.trunk_names:
        h = getattr(old, name)(h)
    coarse = old.score_fr(h).numpy()[0]
    inside = np.s_[:, 48:-48, 48:-48]
    before, after = old(x).numpy()[0][inside], new(x).numpy()[0][inside]

    # Each net enlarges the coarse scores S to A S Bᵀ, with a matrix for each axis.
    shift = coordinate_map([getattr(old, name) for name in old.trunk_names]).shift
    curve = []
    for scores, factors in ((before, FACTORS[parent]), (after, FACTORS[stride])):
        a, b = (enlarging(n, factors) for n in coarse.shape[1:])
        # The scores' first pixel lies at `shift` in the image, and by symmetry at
        # (rows of A - 32 n) / 2 + 15.5 in the result: so there the image starts.
        top, left = (int((len(m) - 32 * m.shape[1]) / 2 + 15.5 - shift) + 48 for m in (a, b))
        a, b = a[top : top + 190 - 96], b[left : left + 210 - 96]
        np.testing.assert_allclose(scores, a @ coarse @ b.T, atol=1e-5)
        places = np.arange(a.shape[1])
        np.testing.assert_allclose(a @ np.ones(len(places)), 1)  # constants stay
        np.testing.assert_allclose(np.diff(a @ places), 1 / 32)  # ramps stay
        curve.append(a @ places**2 / 2)  # a parabola of curvature 1 does not

    # So the two differ by the curvature of S, times what they make of a parabola.
    worst = abs(curve[0] - curve[1]).max()
    assert 0 < worst < 1 / 6
    curvature = sum(abs(np.diff(coarse, 2, axis)).max(axis=(1, 2)) for axis in (1, 2))
    allowed = worst * curvature[:, None, None] + 1e-5
    difference = abs(before - after)
    assert difference.max() > 1e-3
    assert (difference <= allowed).all()
    ranked = np.sort(before, axis=0)
    clear = ranked[-1] - ranked[-2] > 0.05 * np.ptp(before)  # of the range of all scores
    assert clear.mean() > 0.5
    assert (before.argmax(0) == after.argmax(0))[clear].all()


def test_at_once_scales_what_is_tapped():
    """Scaling the activations by 0.01 is the same as scaling the score layer's weight by it."""
    plain, scaled = (randomise(small(8, at_once=at_once)).eval() for at_once in (False, True))
    assert [skip.scale for skip in plain.skips] == [1, 1]
    assert [skip.scale for skip in scaled.skips] == [0.01, 0.0001] == list(AT_ONCE_SCALES.values())
    x = images(1, 3, 40, 50)
    assert abs(plain(x).numpy() - scaled(x).numpy()).max() > 1e-2
    plain.score_pool4.weight.data *= np.float32(0.01)
    plain.score_pool3.weight.data *= np.float32(0.0001)
    np.testing.assert_allclose(plain(x).numpy(), scaled(x).numpy(), atol=1e-5)


def test_a_skip_adds_the_scores_of_its_layer():
    """The finest skip alone, followed by hand: pool3, scored, x8, cropped."""
    net = small(8).eval()
    net.score_pool3.weight.data[...] = np.random.default_rng(0).normal(size=(4, 6, 1, 1))
    x = images(1, 3, 40, 50)
    h = x
    for name in net.trunk_names[: net.trunk_names.index("pool3") + 1]:
        h = getattr(net, name)(h)
    alone = net.upscore8(net.score_pool3(h))
    expected = F.crop(alone, (40, 50), net.offset)
    np.testing.assert_allclose(net(x).numpy(), expected.numpy(), atol=1e-6)


# ---- gradients -----------------------------------------------------------------------------------


def gradients(net):
    target = np.random.default_rng(2).integers(0, net.num_classes, (2, 40, 50))
    F.cross_entropy(net(images(2, 3, 40, 50)), target, reduction="sum").backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("learned", ["none", "intermediate"])
@pytest.mark.parametrize("stride", STRIDES)
def test_all_weights_get_a_gradient_but_the_frozen_upsampling(stride, learned):
    net = randomise(small(stride, learn_upsampling=learned))
    frozen = {f"{net.last}.weight"}
    if learned == "none":
        frozen |= {f"{skip.upsample}.weight" for skip in net.skips}
    for name, gradient in gradients(net).items():
        assert (gradient is None) == (name in frozen), name
        assert gradient is None or gradient.numpy().any(), name


def test_a_new_net_learns_its_scores_first():
    """With scores of zero, no gradient passes the score layers; their own weights get one."""
    found = gradients(small(8))
    assert found["score_fr.weight"].numpy().any()
    assert found["score_pool3.bias"].numpy().any()
    assert not found["fc7.weight"].numpy().any()


def test_dropout_acts_in_training_only():
    net = randomise(small(32, dropout=0.5))
    x = images(1, 3, 30, 30)
    assert (net(x).numpy() != net(x).numpy()).any()
    net.eval()
    assert (net(x).numpy() == net(x).numpy()).all()


# ---- rules: one test each ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: models.build("fcn4s"), ModelError, r"'fcn4s' is unknown: use one of fcn32s"),
        (lambda: models.fcn8s(5, "resnet"), ModelError, r"backbone='resnet' must be .* vgg16"),
        (lambda: small(32, num_classes=1), ModelError, r"num_classes=1 must be at least 2"),
        (lambda: FCN(models.small_trunk(), 3, 4), ModelError, r"stride=4 must be 32, 16 or 8"),
        (lambda: small(8, learn_upsampling="all"), ModelError, r"'none' or 'intermediate'"),
        (lambda: FCN(toy_alexnet(), 2, 16), ModelError, r"no layer of stride 16: a skip needs"),
        (lambda: FCN(narrow_vgg(fc6_padding=(0, 3)), 2, 16), ModelError, r"pad both axes alike"),
        (lambda: FCN(narrow_vgg(padding=80), 2), ShapeError, r"1 row is missing.*more padding"),
        (
            lambda: models.fcn32s(2, stages=NARROW[:3]),
            ShapeError,
            r"upscore: .*strides must multiply",
        ),
        (lambda: small(32)(images(1, 3, 0, 4)), ShapeError, r"at least one image of one pixel"),
        (lambda: small(32)(images(0, 3, 4, 4)), ShapeError, r"at least one image of one pixel"),
        (lambda: small(32)(images(3, 4, 4)), ShapeError, r"must be \(N, C, H, W\).*x\[None\]"),
        (lambda: small(32)(images(1, 4, 8, 8)), ShapeError, r"C=4 must be I·groups = 3"),
    ],
)
def test_rules_of_models(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("height", "width", "reached"), [(1, 1, "0 x 0"), (1, 70, "0 x 70"), (50, 1, "50 x 0")]
)
def test_an_image_that_is_too_small_is_an_error(height, width, reached):
    message = rf"{height} x {width} pixels .*too small.*scores for {reached}.*from 2 x 2 pixels"
    with pytest.raises(ShapeError, match=message):
        small(32)(images(1, 3, height, width))
