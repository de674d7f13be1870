"""The example of early fusion, late fusion and two heads."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import fusion


def test_the_relief_is_where_the_brightness_changes():
    image = np.zeros((1, 3, 4, 6), np.float32)
    image[..., 3:] = 3
    found = fusion.relief(image)
    assert found.shape == (1, 1, 4, 6)
    assert found[0, 0].tolist() == [[0, 0, 1.5, 1.5, 0, 0]] * 4
    assert fusion.with_relief(image).shape == (1, 4, 4, 6)
    assert fusion.beside_relief(image).shape == (1, 6, 4, 6)


def test_every_class_has_a_kind_and_ignored_pixels_stay_ignored():
    kinds = dict(zip(fusion.CLASSES, fusion.KINDS.tolist(), strict=False))
    assert kinds["water"] == 0
    assert kinds["snow and ice"] == 2
    assert set(kinds.values()) == {0, 1, 2}
    assert fusion.KINDS[255] == 255


@pytest.mark.parametrize(
    ("way", "heads", "told"),
    [
        ("early", ["cover"], "widened: conv1.weight"),
        ("late", ["cover"], "relief alone:"),
        ("heads", ["cover", "kind"], "'_kind': 3"),
    ],
)
def test_each_way_runs_and_is_measured(way, heads, told, capsys):
    found = fusion.main([way, "--steps", "3"])
    assert list(found) == heads
    assert all(0 < value < 1 for value in found.values())
    assert told in capsys.readouterr().out
