"""A net on a whole data set: one or several heads, any channels, boundaries, learnt images."""

import gc
import weakref

import numpy as np
import pytest

from minifcn import data, evaluation, models, nn, tiling
from minifcn.autograd import Tensor
from minifcn.data import DataError, Head, Preprocessing, Sample, heads_of, label_by_head
from minifcn.data.fingerprint import fingerprint
from minifcn.evaluation import (
    Bands,
    EvaluationError,
    check_heads,
    evaluate,
    is_learnt,
    new_matrices,
    one_class_warning,
    pair_heads,
    results,
    score_images,
)
from minifcn.metrics import ConfusionMatrix, boundary_band
from minifcn.pretrain import TileDataset

VAL = data.shapes("val", length=5)
WIDTHS = (4, 4, 8, 8, 8)
KINDS = {"sem": 4, "geo": 3}


class Scenes:
    """Images of several sizes, with any channels, and several kinds of labels."""

    ignore_index = 255

    def __init__(self, heads=KINDS, channels=3, length=4, dtype=np.uint8):
        self.heads = {
            name: Head(tuple(f"{name} {k}" for k in range(count)), data.voc_palette(count))
            for name, count in heads.items()
        }
        self.classes, self.palette = next(iter(self.heads.values()))
        self.name, self.length, self.channels, self.dtype = "scenes", length, channels, dtype
        self.streams = {"": 3} if channels == 3 else {"color": 3, "rest": channels - 3}

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index >= self.length:
            raise IndexError
        rng = np.random.default_rng(index)
        size = 40 + index, 50 - index
        image = rng.integers(0, 256, (*size, self.channels)).astype(self.dtype)
        labels = [rng.integers(0, len(head.classes), size) for head in self.heads.values()]
        label = np.stack(labels, axis=2).astype(np.uint8)
        label[rng.random(size) < 0.2] = 255
        return Sample(image, label[:, :, 0] if len(self.heads) == 1 else label, f"scene {index}")


def lively(net, rng):
    """Give a net's score layers other weights than zeros."""
    for name, parameter in net.named_parameters():
        if "score" in name and "up" not in name:
            parameter.data[...] = rng.normal(size=parameter.shape)
    return net


def fcn(rng, classes=4, model="fcn8s", **options):
    return lively(
        models.build(
            model, num_classes=classes, backbone="small", widths=WIDTHS, rng=rng, **options
        ),
        rng,
    )


def test_the_matrix_of_all_images(rng):
    net, told, expected = fcn(rng), [], ConfusionMatrix(4)
    for image, label, _ in VAL:
        scores = net(Tensor(data.CAFFE(image)[None])).numpy()
        expected.update(label, scores[0].argmax(axis=0))
    found = evaluate(net, VAL, data.CAFFE, progress=lambda *numbers: told.append(numbers))
    assert list(found) == [""]
    np.testing.assert_array_equal(found[""].matrix, expected.matrix)
    assert np.count_nonzero(expected.matrix.sum(axis=0)) > 1  # else this shows nothing
    assert told == [(i, 5) for i in range(1, 6)]


def test_several_heads(rng):
    dataset, net = Scenes(), fcn(rng, KINDS)
    expected = {name: ConfusionMatrix(count) for name, count in KINDS.items()}
    for image, label, _ in dataset:
        for number, (name, scores) in enumerate(net(Tensor(data.UNIT(image)[None])).items()):
            expected[name].update(label[:, :, number], scores.numpy()[0].argmax(axis=0))
    found = evaluate(net, dataset)
    assert {n: m.matrix.tolist() for n, m in found.items()} == {
        n: m.matrix.tolist() for n, m in expected.items()
    }
    assert found["sem"].matrix.sum() == found["geo"].matrix.sum() > 0


def test_what_is_told_of_each_image(rng):
    dataset, net = Scenes(), fcn(rng, KINDS)
    totals = new_matrices(dataset)
    for number, one in enumerate(score_images(net, dataset)):
        assert one.number == number
        assert one.sample.name == f"scene {number}"
        for place, head in enumerate(KINDS):
            own = ConfusionMatrix(KINDS[head])
            own.update(one.sample.label[:, :, place], one.labels[head])
            np.testing.assert_array_equal(one.matrices[head].matrix, own.matrix)
        evaluation.add_up(totals, one)
    together = evaluate(net, dataset)
    for head in KINDS:
        np.testing.assert_array_equal(totals[head].matrix, together[head].matrix)


def test_a_net_that_knows_more_kinds_than_the_data_has(rng):
    only, net = Scenes({"geo": 3}), fcn(rng, KINDS)
    assert check_heads(net, only) == {"geo": "geo"}
    found = evaluate(net, only)
    expected = ConfusionMatrix(3)
    for image, label, _ in only:
        expected.update(label, net(Tensor(data.UNIT(image)[None]))["geo"].numpy()[0].argmax(axis=0))
    np.testing.assert_array_equal(found["geo"].matrix, expected.matrix)


def test_one_head_may_have_any_name(rng):
    assert evaluate(fcn(rng, 3), Scenes({"geo": 3}))["geo"].matrix.sum() > 0
    assert evaluate(fcn(rng, {"geo": 4}), VAL)[""].matrix.sum() > 0


def test_colour_and_depth_in_two_nets(rng):
    dataset = Scenes({"": 4}, channels=6, dtype=np.float32)
    streams = {name: fcn(rng, 4, "fcn32s") for name in ("color", "hha")}
    net = models.LateFusion(streams)
    rule = Preprocessing("RGB", 1 / 255, (0.5,) * 6, (0.25,) * 6)
    expected = ConfusionMatrix(4)
    for image, label, _ in dataset:
        expected.update(label, net(Tensor(rule(image)[None])).numpy()[0].argmax(axis=0))
    np.testing.assert_array_equal(evaluate(net, dataset, rule)[""].matrix, expected.matrix)


def test_tiles_of_a_classifier(rng):
    tiles = TileDataset(VAL, 32)
    net = models.vgg16(4, width=0.03, image_size=32, rng=rng)
    matrix = evaluate(net, tiles)[""]
    expected = ConfusionMatrix(4)
    for image, label, _ in (tiles[i] for i in range(len(tiles))):
        net.eval()
        expected.update(label, net(Tensor(data.UNIT(image)[None])).numpy()[0].argmax(axis=0))
    np.testing.assert_array_equal(matrix.matrix, expected.matrix)


def test_large_images_are_seen_in_tiles(rng, monkeypatch):
    class Wide(Scenes):
        def __getitem__(self, index):
            pixels = np.random.default_rng(index).integers(0, 256, (40, 401, 3), np.uint8)
            return Sample(pixels, pixels[:, :, 0] // 64, "wide")

    net, seen, cut = fcn(rng), [], tiling.cut
    whole = evaluate(net, Wide({"": 4}, length=3))[""].matrix

    def in_tiles(net, height, width):
        seen.append((height, width))
        return cut(net, height, width, 300)

    monkeypatch.setattr(evaluation, "cut", in_tiles)
    tiled = evaluate(net, Wide({"": 4}, length=3))[""].matrix
    assert seen == [(40, 401)]  # the plan is made once for each size
    assert np.abs(tiled - whole).sum() < 1e-3 * whole.sum()


@pytest.mark.parametrize("views", [{"scales": (0.75, 1)}, {"flip": True}])
def test_several_sizes_or_mirrors_decide_together(rng, views):
    net = fcn(rng)
    found, plain = list(score_images(net, VAL, **views)), list(score_images(net, VAL))
    for one in found:
        likely = evaluation.averaged(net, one.sample.image, data.UNIT, **views)
        np.testing.assert_array_equal(one.labels[""], likely[""].argmax(axis=0))
        assert one.labels[""].dtype == np.uint8
    assert any((a.labels[""] != b.labels[""]).any() for a, b in zip(found, plain, strict=True))
    both = evaluate(net, VAL, **views)[""].matrix
    np.testing.assert_array_equal(both, sum(one.matrices[""].matrix for one in found))


def test_few_images_are_in_memory_at_a_time(rng):
    alive = weakref.WeakValueDictionary()

    class Array(np.ndarray):
        """An array that can be referred to weakly."""

    class Watched(Scenes):
        most = 0

        def __getitem__(self, index):
            gc.collect()
            Watched.most = max(Watched.most, len(alive))
            sample = super().__getitem__(index)
            image = sample.image.view(Array)
            alive[index] = image
            return sample._replace(image=image)

    evaluate(fcn(rng), Watched({"": 4}, length=6))
    assert Watched.most <= 1


# What does not fit


def test_one_head_for_two_kinds_of_labels(rng):
    message = r"the net has one head, and scenes 2 kinds \(sem, geo\) of labels: .* \?labels=sem"
    with pytest.raises(EvaluationError, match=message):
        evaluate(fcn(rng), Scenes())


def test_two_heads_for_other_kinds_of_labels(rng):
    with pytest.raises(EvaluationError, match="has heads for sem and geo, and shapes val one kind"):
        evaluate(fcn(rng, KINDS), VAL)
    with pytest.raises(EvaluationError, match=r"heads for sem and geo, .* 2 kinds \(sem, hot\)"):
        pair_heads(["sem", "geo"], Scenes({"sem": 4, "hot": 2}))


def test_other_numbers_of_classes(rng):
    with pytest.raises(EvaluationError, match="tells 5 classes apart, shapes val has 4"):
        evaluate(fcn(rng, 5), VAL)
    with pytest.raises(EvaluationError, match=r"tells 9 classes apart, scenes \(geo\) has 3"):
        check_heads(fcn(rng, {"sem": 4, "geo": 9}), Scenes())


def test_a_net_that_does_not_tell_its_classes():
    class Blank(nn.Module):
        def __init__(self):
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.conv(x)

    assert check_heads(Blank(), VAL) == {"": ""}
    assert evaluate(Blank(), VAL)[""].matrix.sum() > 0


def test_an_empty_data_set(rng):
    with pytest.raises(DataError, match="scenes is empty: there is nothing to measure on"):
        evaluate(fcn(rng), Scenes({"": 4}, length=0))


@pytest.mark.parametrize("scales", [(), (0,), (1, -1), (np.inf,), (np.nan,)])
def test_scales_that_are_none(rng, scales):
    with pytest.raises(EvaluationError, match=r"scales are .*: each must be above 0"):
        evaluate(fcn(rng), VAL, scales=scales)


# Boundaries


def test_bands_count_the_pixels_at_boundaries_alone(rng):
    dataset, net = Scenes(), fcn(rng, KINDS)
    bands = Bands(dataset, [1, 4])
    expected = {head: {w: ConfusionMatrix(k) for w in (1, 4)} for head, k in KINDS.items()}
    for one in score_images(net, dataset):
        bands.add(one)
        for head, truth in label_by_head(one.sample.label, heads_of(dataset)).items():
            for width, matrix in expected[head].items():
                near = boundary_band(truth, width)
                matrix.update(truth[near], one.labels[head][near])
    assert {h: list(widths) for h, widths in bands.matrices.items()} == {h: [1, 4] for h in KINDS}
    for head in KINDS:
        for width in (1, 4):
            found = bands.matrices[head][width].matrix
            np.testing.assert_array_equal(found, expected[head][width].matrix)
            assert found.sum() > 0


# Images that the net has learnt


def test_learnt_images_are_recognised(rng):
    known = frozenset({fingerprint(VAL[2].image), 5})
    told = [is_learnt(one, known) for one in score_images(fcn(rng), VAL)]
    assert told == [False, False, True, False, False]
    assert not any(is_learnt(one, frozenset()) for one in score_images(fcn(rng), VAL))


# Words and numbers


def test_results_hold_plain_numbers():
    matrix = ConfusionMatrix.from_counts([[6, 2, 0], [0, 0, 0], [0, 0, 0]])
    found = results(matrix, ["a", "b", "c"])
    assert found["mean_iu"] == pytest.approx((0.75 + 0) / 2)
    assert results(matrix, ["a", "b", "c"], "exclude")["mean_iu"] == pytest.approx(0.75)
    assert found["classes"]["a"] == {"iu": 0.75, "accuracy": 0.75, "pixels": 8}
    assert found["classes"]["b"] == {"iu": 0.0, "accuracy": None, "pixels": 0}
    assert found["classes"]["c"]["iu"] is None
    assert found["confusion"] == matrix.matrix.tolist()
    assert results(ConfusionMatrix(2), ["a", "b"])["mean_iu"] is None


def test_a_warning_of_a_net_that_says_one_class_only():
    matrix = ConfusionMatrix.from_counts([[60, 0], [40, 0]])
    assert "100.0% of all pixels are predicted as 'sea'" in one_class_warning(matrix, ["sea", "up"])
    matrix = ConfusionMatrix.from_counts([[60, 0], [30, 10]])
    assert one_class_warning(matrix, ["sea", "up"]) is None
