"""From an image to class numbers: tiles, heads, several scales, and mirror images."""

import numpy as np
import pytest

from minifcn import data, labelling, models, nn, tiling
from minifcn import functional as F
from minifcn.autograd import Tensor
from minifcn.labelling import PredictionError, averaged, most_likely, outputs, resized

WIDTHS = (4, 4, 8, 8, 8)


class Pointwise(nn.Module):
    """Scores that follow from a pixel and its neighbours, without anything below it."""

    def __init__(self, rng, kernel=1, classes=3):
        self.conv = nn.Conv2d(3, classes, kernel, padding=kernel // 2)
        self.conv.weight.data[...] = rng.normal(size=self.conv.weight.shape)
        self.num_classes = classes

    def forward(self, x):
        return self.conv(x)


def lively(net, rng):
    """Give a net's score layers other weights than zeros."""
    for name, parameter in net.named_parameters():
        if name.startswith("score"):
            parameter.data[...] = rng.normal(size=parameter.shape)
    return net


def noise(rng, height=40, width=61):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(image):
    return tiling.cut(None, *image.shape[:2], tile=None)


def test_the_class_of_the_largest_score(rng):
    net, image = lively(models.fcn8s(4, "small", widths=WIDTHS, rng=rng), rng), noise(rng)
    scores = net(Tensor(data.UNIT(image)[None])).numpy()[0]
    found = most_likely(net, image, data.UNIT, whole(image))
    assert list(found) == [""]
    assert found[""].dtype == np.uint8
    assert len(np.unique(found[""])) > 1  # else this shows nothing
    np.testing.assert_array_equal(found[""], scores.argmax(axis=0))
    np.testing.assert_array_equal(outputs(net, data.UNIT(image))[""], scores)


def test_tiles_make_the_same_labels(rng):
    net = lively(models.fcn8s({"a": 3, "b": 4}, "small", widths=WIDTHS, rng=rng), rng)
    image, told = noise(rng, 40, 401), []
    parts = tiling.cut(net, 40, 401, tile=300)
    found = most_likely(net, image, data.UNIT, parts, lambda *numbers: told.append(numbers))
    assert told == [(i, 5) for i in range(1, 6)]
    for head, label in most_likely(net, image, data.UNIT, whole(image)).items():
        assert (found[head] != label).mean() < 1e-3


def test_probabilities_in_tiles(rng, monkeypatch):
    net, image = lively(models.fcn8s(4, "small", widths=WIDTHS, rng=rng), rng), noise(rng, 40, 401)
    expected = averaged(net, image, data.UNIT, flip=True)[""]
    cut = tiling.cut
    monkeypatch.setattr(labelling, "cut", lambda net, height, width: cut(net, height, width, 300))
    assert len(labelling.cut(net, 40, 401)) == 5
    np.testing.assert_allclose(averaged(net, image, data.UNIT, flip=True)[""], expected, atol=1e-5)


def test_each_head_has_its_own_labels(rng):
    net = lively(models.fcn32s({"sem": 5, "geo": 2}, "small", widths=WIDTHS, rng=rng), rng)
    image = noise(rng)
    scores = net(Tensor(data.UNIT(image)[None]))
    found = most_likely(net, image, data.UNIT, whole(image))
    assert list(found) == ["sem", "geo"]
    for head, label in found.items():
        np.testing.assert_array_equal(label, scores[head].numpy()[0].argmax(axis=0))
    assert {h: p.shape for h, p in averaged(net, image, data.UNIT).items()} == {
        "sem": (5, 40, 61),
        "geo": (2, 40, 61),
    }


def test_one_view_gives_the_probabilities_of_the_net(rng):
    net, image = Pointwise(rng), noise(rng)
    scores = net(Tensor(data.UNIT(image)[None])).numpy()
    np.testing.assert_allclose(averaged(net, image, data.UNIT)[""], F.softmax(scores, 1)[0], 1e-6)


def test_scales_of_an_even_image_change_nothing(rng):
    net = Pointwise(rng)
    image = np.full((31, 45, 3), (200, 90, 10), np.uint8)
    expected = averaged(net, image, data.UNIT)[""]
    found = averaged(net, image, data.UNIT, scales=(0.5, 0.75, 1, 1.25, 2), flip=True)[""]
    assert found.shape == (3, 31, 45)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(expected[:, 0, 0])) == 3


def test_scales_are_averaged_one_by_one(rng):
    """The mean of what single scales give, each brought back to the image's pixels."""
    net, image = lively(models.fcn32s(3, "small", widths=WIDTHS, rng=rng), rng), noise(rng)
    views = []
    for scale in (0.6, 1, 1.7):
        x = resized(data.UNIT(image), (round(40 * scale), round(61 * scale)))
        views.append(resized(F.softmax(net(Tensor(x[None])).numpy(), 1)[0], (40, 61)))
        assert views[-1].shape == (3, 40, 61)
        np.testing.assert_allclose(
            averaged(net, image, data.UNIT, scales=[scale])[""], views[-1], atol=1e-6
        )
    found = averaged(net, image, data.UNIT, scales=(0.6, 1, 1.7))[""]
    np.testing.assert_allclose(found, np.mean(views, axis=0), atol=1e-6)


def test_a_mirrored_image_is_labelled_as_the_mirror_image(rng):
    """To the bit: p(x) + M p(M x) holds the same numbers for M x, mirrored."""
    net, image = Pointwise(rng, kernel=3), noise(rng)
    alone = averaged(net, image, data.UNIT)[""]
    both = averaged(net, image, data.UNIT, flip=True)[""]
    mirrored = averaged(net, image[:, ::-1], data.UNIT, flip=True)[""]
    np.testing.assert_array_equal(both, mirrored[:, :, ::-1])
    back = averaged(net, np.ascontiguousarray(image[:, ::-1]), data.UNIT)[""][:, :, ::-1]
    np.testing.assert_array_equal(both, (alone + back) / np.float32(2))
    assert np.abs(alone - back).max() > 0.1  # the net does tell left from right


def test_a_net_that_knows_no_sides_gains_nothing_from_mirrors(rng):
    net, image = Pointwise(rng), noise(rng)
    alone, both = (averaged(net, image, data.UNIT, flip=flip)[""] for flip in (False, True))
    np.testing.assert_array_equal(alone, both)


def by_the_formula(line, length):
    """Enlarge a line bilinearly: pixel i of n lies at (i + 1/2) / n of the way."""
    places = (np.arange(length) + 0.5) * len(line) / length - 0.5
    return np.interp(places, np.arange(len(line)), line)


@pytest.mark.parametrize("size", [(7, 9), (8, 18), (23, 40)])
def test_enlarging_is_bilinear(rng, size):
    maps = rng.normal(size=(2, 7, 9)).astype(np.float32)
    rows = np.apply_along_axis(by_the_formula, 1, maps, size[0])
    expected = np.apply_along_axis(by_the_formula, 2, rows, size[1])
    found = resized(maps, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_making_smaller_takes_means(rng):
    maps = rng.uniform(size=(3, 60, 80)).astype(np.float32)
    small = resized(maps, (15, 20))
    np.testing.assert_allclose(small.mean(axis=(1, 2)), maps.mean(axis=(1, 2)), atol=0.01)
    assert small.std() < maps.std() / 2  # and does not just leave pixels out


@pytest.mark.oracle
@pytest.mark.parametrize("size", [(14, 18), (9, 30)])
def test_enlarging_as_torch_does(rng, size):
    torch = pytest.importorskip("torch")
    maps = rng.normal(size=(2, 7, 9)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resized(maps, size), theirs[0].numpy(), atol=1e-5)


def test_float64_nets(rng):
    net, image = Pointwise(rng).to(np.float64), noise(rng)
    expected = net(Tensor(data.UNIT(image)[None].astype(np.float64))).numpy()[0]
    np.testing.assert_array_equal(outputs(net, data.UNIT(image))[""], expected)
    assert averaged(net, image, data.UNIT)[""].dtype == np.float32


def test_dropout_is_off_and_the_mode_stays(rng):
    net, image = models.fcn32s(3, "small", widths=WIDTHS, dropout=0.5, rng=rng), noise(rng)
    lively(net, rng).train()
    first, second = (outputs(net, data.UNIT(image))[""] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert net.training


@pytest.mark.parametrize(
    "label",
    [
        lambda net, image: averaged(net, image, data.UNIT, flip=True),
        lambda net, image: most_likely(net, image, data.UNIT, whole(image)),
    ],
)
def test_scores_that_overflow(rng, label):
    net = Pointwise(rng)
    net.conv.bias.data[0] = np.inf
    with pytest.raises(PredictionError, match=r"scores are not finite: .* another preprocessing"):
        label(net, noise(rng))


def test_too_little_memory(rng, monkeypatch):
    def greedy(self, x):
        raise MemoryError("cannot allocate 9 GB")

    monkeypatch.setattr(Pointwise, "forward", greedy)
    with pytest.raises(PredictionError, match=r"40 x 61 .* more memory .* 9 GB.*: make it smaller"):
        averaged(Pointwise(rng), noise(rng), data.UNIT)
