"""The four metrics against hand-computed numbers, and their edges."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minifcn.backend import Error
from minifcn.metrics import ConfusionMatrix, MetricError, boundary_band


def test_hand_computed():
    confusion = ConfusionMatrix(3)
    target = np.array([[0, 0, 0, 0, 1, 1], [1, 2, 2, 255, 0, 255]])
    prediction = np.array([[0, 0, 0, 1, 1, 1], [2, 2, 0, 0, 0, 2]])
    confusion.update(target, prediction)
    np.testing.assert_array_equal(confusion.matrix, [[4, 1, 0], [0, 2, 1], [1, 0, 1]])
    assert confusion.matrix.dtype == np.int64
    assert confusion.pixel_accuracy() == pytest.approx(7 / 10)
    np.testing.assert_allclose(confusion.accuracy(), [4 / 5, 2 / 3, 1 / 2])
    assert confusion.mean_accuracy() == pytest.approx((4 / 5 + 2 / 3 + 1 / 2) / 3)
    np.testing.assert_allclose(confusion.iu(), [4 / 6, 2 / 4, 1 / 3])
    assert confusion.mean_iu() == pytest.approx((4 / 6 + 2 / 4 + 1 / 3) / 3)
    assert confusion.fw_iu() == pytest.approx((5 * 4 / 6 + 3 * 2 / 4 + 2 * 1 / 3) / 10)
    assert confusion.summary() == {
        "pixel_accuracy": confusion.pixel_accuracy(),
        "mean_accuracy": confusion.mean_accuracy(),
        "mean_iu": confusion.mean_iu(),
        "fw_iu": confusion.fw_iu(),
    }
    assert all(type(value) is float for value in confusion.summary().values())


def test_rows_are_the_truth():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([0]), np.array([1]))
    assert confusion.matrix.tolist() == [[0, 1], [0, 0]]


def test_perfect_prediction():
    confusion = ConfusionMatrix(5)
    label = np.random.default_rng(0).integers(0, 5, (2, 9, 9))
    confusion.update(label, label)
    assert set(confusion.summary().values()) == {1.0}


def test_against_a_plain_loop():
    rng = np.random.default_rng(1)
    target, prediction = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    target[rng.random(200) < 0.2] = 255
    expected = np.zeros((4, 4), int)
    for t, p in zip(target, prediction, strict=True):
        if t != 255:
            expected[t, p] += 1
    confusion = ConfusionMatrix(4)
    confusion.update(target.astype(np.uint8), prediction.astype(np.uint8))
    np.testing.assert_array_equal(confusion.matrix, expected)


def test_class_neither_in_truth_nor_predicted_is_left_out():
    confusion = ConfusionMatrix.from_counts([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert math.isnan(confusion.iu()[2])
    assert confusion.mean_iu() == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert confusion.mean_iu("exclude") == confusion.mean_iu()
    assert confusion.mean_accuracy() == pytest.approx((3 / 4 + 1) / 2)


def test_class_predicted_but_not_in_truth_counts_zero_or_is_left_out():
    confusion = ConfusionMatrix.from_counts([[3, 0, 1], [0, 4, 0], [0, 0, 0]])
    assert confusion.iu()[2] == 0
    assert confusion.mean_iu() == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert confusion.mean_iu(absent="exclude") == pytest.approx((3 / 4 + 1) / 2)
    assert confusion.mean_accuracy() == pytest.approx((3 / 4 + 1) / 2)
    assert confusion.fw_iu() == pytest.approx((4 * 3 / 4 + 4) / 8)


def test_unknown_way_to_treat_absent_classes():
    with pytest.raises(MetricError, match="absent is 'nan': it must be 'zero' or 'exclude'"):
        ConfusionMatrix(2).mean_iu("nan")


def test_nothing_counted_gives_nan():
    confusion = ConfusionMatrix(3)
    confusion.update(np.full((4, 4), 255), np.zeros((4, 4), int))
    assert confusion.matrix.sum() == 0
    assert all(math.isnan(value) for value in confusion.summary().values())
    assert math.isnan(confusion.mean_iu("exclude"))
    assert np.isnan(confusion.iu()).all()


def test_counts_beyond_32_bits():
    half = 2**33
    confusion = ConfusionMatrix.from_counts([[half, half], [0, half]])
    assert confusion.pixel_accuracy() == pytest.approx(2 / 3)
    assert confusion.mean_iu() == pytest.approx(1 / 2)
    confusion.update(np.array([0], np.uint8), np.array([0], np.uint8))
    assert confusion.matrix[0, 0] == half + 1


def test_many_classes_in_uint8_do_not_wrap_around():
    confusion = ConfusionMatrix(200)
    label = np.array([199], np.uint8)
    confusion.update(label, label)
    assert confusion.matrix[199, 199] == 1


def test_other_ignore_index():
    confusion = ConfusionMatrix(2, ignore_index=-1)
    confusion.update(np.array([0, -1]), np.array([0, 1]))
    assert confusion.matrix.tolist() == [[1, 0], [0, 0]]


def test_adding():
    first = ConfusionMatrix.from_counts([[1, 2], [3, 4]])
    second = ConfusionMatrix.from_counts([[10, 0], [0, 10]])
    total = first + second
    assert total.matrix.tolist() == [[11, 2], [3, 14]]
    assert first.matrix.tolist() == [[1, 2], [3, 4]]
    first.merge(second)
    assert first.matrix.tolist() == total.matrix.tolist()
    with pytest.raises(MetricError, match="of 3 classes to one of 2"):
        first.merge(ConfusionMatrix(3))


GOOD = np.zeros((2, 3), int)


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        (
            [[0, 0, 0], [0, 3, 3]],
            GOOD,
            r"target is 3 at position \(1, 1\) \(2 such pixels\): classes",
        ),
        ([[0, -1, 0], [0, 0, 0]], GOOD, r"target is -1 at position \(0, 1\)"),
        (GOOD, [[0, 0, 0], [3, 0, 0]], r"prediction is 3 at position \(1, 0\) .* are 0 to 2$"),
        (GOOD, [[0, 0, 255], [0, 0, 0]], r"prediction is 255"),
        (np.full((2, 3), 255), np.full((2, 3), 7), "prediction is 7"),
        (GOOD, np.zeros((1, 2, 3), int), r"target has shape \(2, 3\), prediction \(1, 2, 3\)"),
        (GOOD, np.zeros((2, 3)), "prediction is float64 .* take the argmax"),
        (np.zeros((2, 3), bool), GOOD, "target is bool"),
    ],
)
def test_update_refuses_and_counts_nothing(target, prediction, message):
    confusion = ConfusionMatrix(3)
    with pytest.raises(MetricError, match=message):
        confusion.update(np.asarray(target), np.asarray(prediction))
    assert confusion.matrix.sum() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"num_classes": 3, "ignore_index": 2}, "ignore_index is 2, a class number of 3 classes"),
        ({"num_classes": 256}, "ignore_index is 255"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(MetricError, match=message):
        ConfusionMatrix(**arguments)


def test_counts_are_copied():
    counts = np.array([[1, 2], [3, 4]], np.uint16)
    confusion = ConfusionMatrix.from_counts(counts, ignore_index=-1)
    counts[0, 0] = 100
    assert confusion.matrix.tolist() == [[1, 2], [3, 4]]
    assert confusion.matrix.dtype == np.int64
    assert (confusion.num_classes, confusion.ignore_index) == (2, -1)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, 2], [3]], "rows of unlike length"),
        ([1, 2], r"of shape \(2,\)"),
        ([[1, 2]], r"of shape \(1, 2\): they must be \(K, K\)"),
        (np.zeros((0, 0), int), "num_classes is 0"),
        ([[0.5]], "counts are float64: pixels are counted in integers"),
        ([[True]], "counts are bool"),
        ([[1, -2], [0, 0]], "counts hold -2: they must be 0 to"),
        (np.array([[2**63]], np.uint64), "counts hold 9223372036854775808"),
        (np.zeros((256, 256), int), "ignore_index is 255"),
    ],
)
def test_wrong_counts(counts, message):
    with pytest.raises(MetricError, match=message):
        ConfusionMatrix.from_counts(counts)


def test_metric_errors_are_errors_of_the_library():
    assert issubclass(MetricError, Error)


def band_by_brute_force(labels, width, ignore_index):
    """Look at every pair of pixels."""
    band = np.zeros(labels.shape, bool)
    height, length = labels.shape
    for (y, x), label in np.ndenumerate(labels):
        for v in range(max(0, y - width), min(height, y + width + 1)):
            for u in range(max(0, x - width), min(length, x + width + 1)):
                other = labels[v, u]
                band[y, x] |= ignore_index not in (label, other) and label != other
    return band


@pytest.mark.parametrize("width", [1, 2, 3, 20])
@pytest.mark.parametrize(("size", "classes"), [((9, 13), 2), ((12, 7), 4), ((1, 9), 3)])
def test_boundary_band_against_brute_force(width, size, classes, rng):
    for ignored in (0, 0.3):
        blocks = rng.integers(0, classes, (-(-size[0] // 4), -(-size[1] // 4)))
        labels = np.kron(blocks, np.ones((4, 4), int))[: size[0], : size[1]].astype(np.uint8)
        labels[rng.random(size) < ignored] = 255
        band = boundary_band(labels, width)
        assert band.dtype == bool
        np.testing.assert_array_equal(band, band_by_brute_force(labels, width, 255))


def test_boundary_band_of_a_known_picture():
    labels = np.zeros((7, 7), np.uint8)
    labels[:, 4:] = 1
    labels[0] = 255  # ignored: neither in the band nor a boundary of its own
    band = boundary_band(labels, width=2)
    assert not band[0].any()
    assert band[1:].tolist() == [[False, False, True, True, True, True, False]] * 6
    assert not boundary_band(np.full((5, 5), 3), width=2).any()  # the edge is no boundary


def test_boundary_band_of_several_images_and_another_ignored_label(rng):
    labels = rng.integers(-1, 2, (2, 3, 8, 9))
    band = boundary_band(labels, 1, ignore_index=-1)
    for place in np.ndindex(2, 3):
        np.testing.assert_array_equal(band[place], band_by_brute_force(labels[place], 1, -1))
    assert boundary_band(np.zeros((2, 0, 4), int), 1).shape == (2, 0, 4)


def test_iu_in_a_band_counts_its_pixels_alone():
    truth = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 3, axis=0)
    prediction = np.repeat([[1, 0, 0, 0, 0, 1, 1, 1]], 3, axis=0)
    confusion = ConfusionMatrix(2)
    confusion.update(np.where(boundary_band(truth, 1), truth, 255), prediction)
    assert confusion.matrix.tolist() == [[3, 0], [3, 0]]


@pytest.mark.parametrize(
    ("labels", "width", "message"),
    [
        (np.zeros((3, 3)), 1, r"labels are float64 of shape \(3, 3\)"),
        (np.zeros(3, int), 1, r"labels are int64 of shape \(3,\)"),
        (np.zeros((3, 3), int), 0, "width is 0: a band is at least 1 pixel wide"),
    ],
)
def test_boundary_band_refuses(labels, width, message):
    with pytest.raises(MetricError, match=message):
        boundary_band(labels, width)


# The definitions of the scoring script that came with the paper


def official(pairs, classes):
    """Return its four numbers, and the IU of each class, of pairs of truth and prediction."""
    table = np.zeros((classes, classes))
    for truth, prediction in pairs:
        counted = (truth >= 0) & (truth < classes)
        places = classes * truth[counted].astype(int) + prediction[counted]
        table += np.bincount(places, minlength=classes**2).reshape(classes, classes)
    right, true, said = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    iu = right / (true + said - right)
    share = true / table.sum()
    there = share > 0
    numbers = {
        "pixel_accuracy": right.sum() / table.sum(),
        "mean_accuracy": np.nanmean(right / true),
        "mean_iu": np.nanmean(iu),
        "fw_iu": (share[there] * iu[there]).sum(),
    }
    return numbers, iu


def label_maps(classes):
    """Pairs of truth (with ignored pixels) and prediction, for Hypothesis."""
    pixel = st.tuples(st.sampled_from([*range(classes), 255]), st.integers(0, classes - 1))
    image = st.lists(pixel, max_size=30).map(
        lambda pixels: np.array(pixels, np.uint8).reshape(-1, 2)
    )
    return st.lists(image, min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6).flatmap(lambda k: st.tuples(st.just(k), label_maps(k))))
def test_the_official_numbers_whatever_is_there(case):
    """Classes that are absent, only predicted or never predicted; one class; nothing labelled."""
    classes, images = case
    pairs = [(image[:, 0], image[:, 1]) for image in images]
    confusion, loop = ConfusionMatrix(classes), np.zeros((classes, classes), int)
    for truth, prediction in pairs:
        confusion.update(truth, prediction)
        for t, p in zip(truth.tolist(), prediction.tolist(), strict=True):
            if t != 255:
                loop[t, p] += 1
    np.testing.assert_array_equal(confusion.matrix, loop)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing
        numbers, iu = official(pairs, classes)
    if not loop.any():
        assert all(math.isnan(value) for value in confusion.summary().values())
        return
    np.testing.assert_allclose(list(confusion.summary().values()), list(numbers.values()))
    np.testing.assert_allclose(confusion.iu(), iu)
    present = loop.sum(axis=1) > 0
    assert confusion.summary("exclude")["mean_iu"] == pytest.approx(iu[present].mean())
    same = {"pixel_accuracy", "mean_accuracy", "fw_iu"}
    zero, exclude = confusion.summary(), confusion.summary("exclude")
    assert {n: zero[n] for n in same} == {n: exclude[n] for n in same}


def test_a_matrix_of_all_images_is_not_the_mean_of_the_images():
    """As the paper counts: an image with few labelled pixels weighs little."""
    truth = np.array([[0, 0, 0, 0, 0, 0, 0, 1], [0, 1, 255, 255, 255, 255, 255, 255]])
    prediction = np.array([[0, 0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0]])
    confusion = ConfusionMatrix(2)
    for pair in zip(truth, prediction, strict=True):
        confusion.update(*pair)
    assert confusion.mean_iu() == pytest.approx((7 / 9 + 1 / 3) / 2)
