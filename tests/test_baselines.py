"""The commonest class and the colour lookup."""

import numpy as np
import pytest

from minifcn import data
from minifcn.baselines import ColourLookup, commonest_class, evaluate_baselines
from minifcn.data import Sample


class Pixels:
    """A data set of images of one row, given as (gray value, label) pairs."""

    name = "pixels"
    classes = ("zero", "one", "two")
    palette = np.zeros((3, 3), np.uint8)
    ignore_index = 255

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        values, labels = np.array(self.rows[index], np.uint8).T
        return Sample(np.repeat(values[None, :, None], 3, axis=2), labels[None], str(index))


def test_commonest_class_leaves_out_ignored_pixels():
    assert commonest_class(Pixels([(0, 255)] * 5 + [(0, 1)] * 2 + [(0, 2)] * 3)) == 2


def test_lookup_takes_the_commonest_class_of_a_colour():
    lookup = ColourLookup(Pixels([(0, 1), (0, 1), (0, 2), (200, 2)]), bits=4)
    assert lookup.predict(np.array([[[0, 0, 0], [200, 200, 200]]], np.uint8)).tolist() == [[1, 2]]
    assert lookup.scores == {}


def test_lookup_leaves_out_ignored_pixels():
    lookup = ColourLookup(Pixels([(0, 255), (0, 255), (0, 1), (200, 2), (200, 2)]), bits=2)
    assert lookup.predict(np.zeros((1, 1, 3), np.uint8)).tolist() == [[1]]


def test_an_unseen_colour_falls_back_on_coarser_colours():
    # With 2 bits, 0 and 64 are told apart, with 1 bit they are not.
    lookup = ColourLookup(Pixels([(0, 1), (200, 2), (200, 2)]), bits=2)
    image = np.array([[[64, 64, 64], [0, 0, 255]]], np.uint8)
    near_black, never_seen = lookup.predict(image)[0]
    assert near_black == 1
    assert never_seen == 2  # not even with one bit: the commonest class of all


def test_cross_validation_finds_the_bits_that_carry_over():
    """The class is bit 7 and bit 6 of the gray value; the lower bits are noise."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(10):
        values = rng.integers(0, 256, 300)
        rows.append([(v, min(v >> 6, 2)) for v in values.tolist()])
    lookup = ColourLookup(Pixels(*rows))
    assert set(lookup.scores) == set(range(1, 7))
    assert lookup.scores[1] < 0.8
    assert lookup.scores[2] == 1.0
    assert lookup.bits == 2


def test_cross_validation_holds_the_fold_out():
    """Labels that no colour tells: learning by heart must not look good."""
    rng = np.random.default_rng(0)
    rows = [
        [
            (int(v), int(c))
            for v, c in zip(rng.integers(0, 256, 40), rng.integers(0, 3, 40), strict=True)
        ]
        for _ in range(5)
    ]
    assert max(ColourLookup(Pixels(*rows)).scores.values()) < 0.5


def test_landcover_baselines():
    """The numbers that the README of the data set gives."""
    scores = evaluate_baselines(data.landcover("train"), data.landcover("val"))
    commonest = scores["commonest class"].summary()
    lookup = scores["colour lookup"].summary()
    assert commonest["pixel_accuracy"] == pytest.approx(0.225, abs=0.001)
    assert commonest["mean_iu"] == pytest.approx(0.225 / 8, abs=0.001)
    assert lookup["pixel_accuracy"] == pytest.approx(0.711, abs=0.002)
    assert lookup["mean_accuracy"] == pytest.approx(0.689, abs=0.002)
    assert lookup["mean_iu"] == pytest.approx(0.569, abs=0.002)
    assert lookup["fw_iu"] == pytest.approx(0.580, abs=0.002)
