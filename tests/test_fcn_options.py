"""What an FCN can be beyond the standard ones: heads, fusion, fixed trunk, padding, two streams."""

import numpy as np
import pytest

import minifcn.functional as F
from minifcn import Tensor, models, optim
from minifcn.models import ModelError, smallest_padding
from minifcn.models.alignment import align, covered, least_size
from minifcn.shapes import ShapeError

NARROW = ((1, 1), (1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))  # VGG16's geometry
WIDTHS = (4, 5, 6, 7, 8)


def small(stride, num_classes=4, **options):
    options = {"widths": WIDTHS, "rng": np.random.default_rng(0), **options}
    return models.build(f"fcn{stride}s", num_classes=num_classes, backbone="small", **options)


def images(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def randomise(net, seed=1):
    """Draw the score layers' weights, which start at zero; return net."""
    rng = np.random.default_rng(seed)
    for name, parameter in net.named_parameters():
        if "score_" in name and "upscore" not in name:
            parameter.data[...] = rng.normal(size=parameter.shape)
    return net


# ---- several heads -------------------------------------------------------------------------------

HEADS = {"sem": 5, "geo": 3}  # in SIFT Flow 33 and 3


def test_the_layers_of_a_head_have_caffes_names():
    net = small(8, HEADS)
    own = [name for name, _ in net.named_children() if name not in net.trunk_names]
    one = ["score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8"]
    assert own == [f"{name}_{head}" for head in HEADS for name in one]
    assert (net.heads, net.num_classes) == ({"_sem": 5, "_geo": 3}, 8)


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_a_head_scores_as_a_net_of_its_own_would(stride):
    net = randomise(small(stride, HEADS)).eval()
    x = images(2, 3, 40, 50)
    found = net(x)
    assert list(found) == ["sem", "geo"]
    for head, classes in HEADS.items():
        alone = small(stride, classes).eval()
        state = {n.replace(f"_{head}.", "."): a for n, a in net.state_dict().items()}
        alone.load_state_dict(state, strict=False)
        assert found[head].shape == (2, classes, 40, 50)
        np.testing.assert_array_equal(found[head].numpy(), alone(x).numpy())


def test_two_heads_are_trained_jointly():
    """Both losses fall, and the trunk's gradient is the sum of the two heads' gradients."""
    rng = np.random.default_rng(0)
    coarse = {head: rng.integers(0, classes, (2, 6, 6)) for head, classes in HEADS.items()}
    labels = {head: where.repeat(16, 1).repeat(16, 2) for head, where in coarse.items()}
    x = np.stack(
        [labels["sem"] - 2, labels["geo"] - 1, 0 * labels["geo"]], 1
    )  # one colour for each
    x = Tensor(x.astype(np.float32))

    def losses(net):
        return {head: F.cross_entropy(scores, labels[head]) for head, scores in net(x).items()}

    def trunk_gradient(*heads):
        net = randomise(small(8, HEADS))
        found = losses(net)
        total = found[heads[0]]
        for head in heads[1:]:
            total = total + found[head]
        total.backward()
        return net.conv2_1.weight.grad.numpy()

    both = trunk_gradient("sem", "geo")
    apart = trunk_gradient("sem") + trunk_gradient("geo")
    np.testing.assert_allclose(both, apart, rtol=1e-4, atol=1e-5)

    net = small(8, HEADS)
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    course = []
    for _ in range(40):
        found = losses(net)
        course.append({head: loss.item() for head, loss in found.items()})
        optimizer.zero_grad()
        (found["sem"] + found["geo"]).backward()
        optimizer.step()
    assert all(course[-1][head] < 0.9 * course[0][head] for head in HEADS)


# ---- fusion, fixed trunk -------------------------------------------------------------------------


def test_max_fusion_takes_the_larger_score():
    """Scores of a constant per class: at a skip, the larger of the two constants goes on."""
    wins = {}
    for fusion in ("sum", "max"):
        net = small(16, 3, fusion=fusion).eval()
        net.score_fr.bias.data[...] = [1, 2, -3]
        net.score_pool4.bias.data[...] = [2, -5, -1]
        wins[fusion] = net(images(1, 3, 160, 160)).numpy()[0, :, 80, 80]
    np.testing.assert_allclose(wins["sum"], [3, -3, -4], rtol=1e-6)
    np.testing.assert_allclose(wins["max"], [2, 2, -1], rtol=1e-6)


def test_a_fixed_trunk_does_not_learn():
    net = randomise(small(8, learn_trunk=False))
    target = np.random.default_rng(2).integers(0, 4, (1, 40, 50))
    F.cross_entropy(net(images(1, 3, 40, 50)), target).backward()
    learned = {n.partition(".")[0] for n, p in net.named_parameters() if p.grad is not None}
    assert learned == {"score_fr", "score_pool4", "score_pool3"}
    assert models.build(**net.config).config["learn_trunk"] is False


# ---- padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("backbone", ["vgg16", "caffenet", "alexnet_torchvision", "googlenet"])
def test_the_smallest_padding_fits_all_images_above_32_pixels_and_one_less_does_not(
    backbone, stride
):
    trunk = models.BACKBONES[backbone](width=0.01)
    first = next(iter(trunk.layers.values()))
    before = first.padding
    padding = smallest_padding(trunk.layers, trunk.taps, stride)
    assert first.padding == before

    def fits(p, n):
        first.padding = (p, p)
        try:
            found = align(trunk.layers, trunk.taps, stride, {})
        except ShapeError:
            return False
        return covered(trunk.layers, found, stride, n, 0) == n

    assert all(fits(padding, n) for n in (*range(33, 180), 333, 500, 777, 1024, 2001))
    assert not all(fits(padding - 1, n) for n in range(33, 180))


def test_a_net_with_the_smallest_padding_knows_it():
    net = models.fcn8s(2, stages=NARROW, hidden=1, padding="smallest")
    assert net.config["padding"] == 81
    assert net.conv1_1.padding == (81, 81)
    assert net.offset == (12, 12)
    assert models.build(**net.config).offset == (12, 12)
    assert net(images(1, 3, 33, 47)).shape == (1, 2, 33, 47)


def test_less_padding_gives_the_scores_of_more_away_from_the_edge():
    """Inside, where no layer sees the padding, the nets are the same function."""
    options = {"stages": ((2,),) * 5, "hidden": 2, "fc6_kernel": 1}
    nets = [
        randomise(models.fcn32s(3, rng=np.random.default_rng(0), padding=p, **options)).eval()
        for p in (100, 4)
    ]
    # Their first layers must lie at the same places of the pooling's grid: 96 = 3 · 32 further on.
    x = images(1, 3, 256, 256)
    wide, narrow = (net(x).numpy()[:, :, 110:150, 110:150] for net in nets)
    np.testing.assert_allclose(wide, narrow, atol=1e-5)
    assert np.ptp(wide) > 1e-3


def test_a_net_that_fits_from_no_size_on_says_so():
    trunk = models.vgg_trunk(NARROW, 1, fc6_kernel=1000)
    with pytest.raises(ModelError, match="no padding of the first layer up to 200"):
        smallest_padding(trunk.layers, trunk.taps, 32)
    wide = models.fcn32s(2, "caffenet", width=0.01, padding=82)
    with pytest.raises(ShapeError, match=r"Try: more padding of the first layer$"):
        wide(images(1, 3, 64, 64))
    net = models.FCN(models.vgg_trunk(NARROW, 1), 2)
    assert least_size(net.trunk_layers(), net.alignment, 32, 0) == 1


# ---- two streams ---------------------------------------------------------------------------------


def streams(stride=16):
    nets = {}
    for seed, name in enumerate(("color", "hha")):
        nets[name] = randomise(small(stride, rng=np.random.default_rng(seed)), seed).eval()
    return nets


@pytest.mark.parametrize("stride", [32, 16])
def test_late_fusion_is_the_mean_of_its_streams(stride):
    color, hha = images(2, 3, 40, 50), images(2, 3, 40, 50, seed=1)
    alone = [net(x).numpy() for net, x in zip(streams(stride).values(), (color, hha), strict=True)]
    net = models.LateFusion(streams(stride)).eval()
    both = net(F.cat([color, hha], 1)).numpy()
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, atol=1e-5)
    assert abs(alone[0] - alone[1]).max() > 0.1


def test_late_fusion_has_one_last_upsampling_and_is_built_from_its_config():
    one = {"model": "fcn16s", "num_classes": 4, "backbone": "small", "widths": WIDTHS}
    net = models.build("late_fusion", streams={"color": one, "hha": one})
    names = list(net.state_dict())
    assert [n for n in names if "upscore16" in n] == ["color.upscore16.weight"]
    assert "hha.conv2_1.weight" in names
    again = models.build(**net.config)
    assert list(again.state_dict()) == names


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small(8, fusion="mean"), ModelError, r"fusion='mean' must be one of sum, max"),
        (lambda: small(8, {}), ModelError, r"num_classes=\{\} must be at least 2"),
        (lambda: small(8, {"sem": 5, "geo": 1}), ModelError, r"'geo': 1\} must be at least 2"),
        (
            lambda: models.LateFusion({"color": small(8)}),
            ModelError,
            r"at least two nets, not 1",
        ),
        (
            lambda: models.LateFusion({"color": small(8), "hha": small(16)}),
            ModelError,
            r"hha is an FCN-16s .* the first is an FCN-8s",
        ),
        (
            lambda: models.LateFusion(streams())(images(1, 3, 40, 40)),
            ShapeError,
            r"must be \(N, 6, H, W\): channels for color 3, hha 3",
        ),
    ],
)
def test_rules(call, error, message):
    with pytest.raises(error, match=message):
        call()
