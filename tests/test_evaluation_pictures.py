"""The sheet of the worst images, and the picture of a confusion matrix."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from minifcn import data, viz
from minifcn.confusion_picture import confusion_picture, shade
from minifcn.data import Head, Sample
from minifcn.evaluation import EvaluationError, Scored
from minifcn.files import WriteError
from minifcn.metrics import ConfusionMatrix
from minifcn.worst import Worst, write_sheet

SHAPES = data.shapes("val")
RED, PALE = (200, 16, 46), viz.IGNORED_COLOUR


def scored(number, right, label=None, name=None, dataset=SHAPES):
    """An image of which a share is labelled rightly, as class 1 of shapes."""
    truth = np.ones((10, 20), np.uint8) if label is None else label
    known = np.where(truth == 255, 1, truth)
    said = np.where(np.arange(truth.size).reshape(truth.shape) < right * truth.size, known, 0)
    matrix = ConfusionMatrix(4)
    matrix.update(truth, said)
    image = np.full((*truth.shape, 3), 100, np.uint8)
    sample = Sample(image, truth, name or f"image {number}")
    return Scored(number, sample, {"": said.astype(np.uint8)}, {"": matrix})


def test_the_worst_come_first(rng):
    shares = rng.permutation(np.arange(20) / 20)
    worst = Worst(SHAPES, 4)
    for number, share in enumerate(shares):
        worst.add(scored(number, share))
    cases = worst.cases()
    assert [case.accuracy for case in cases] == [0, 0.05, 0.1, 0.15]
    assert [case.name for case in cases] == [
        f"image {np.argmin(abs(shares - s))}" for s in (0, 0.05, 0.1, 0.15)
    ]
    assert cases[1].mean_iu == pytest.approx(0.05 / 2)  # background is predicted, but not there
    assert cases[1].told == f"{cases[1].name}: mean IU 2.5 %, pixel accuracy 5.0 %"


def test_absent_classes_may_be_left_out():
    worst = Worst(SHAPES, 1, "exclude")
    worst.add(scored(0, 0.25))
    assert worst.cases()[0].mean_iu == 0.25


def test_of_images_as_bad_the_first_are_kept():
    worst = Worst(SHAPES, 3)
    for number in range(8):
        worst.add(scored(number, 0.5))
    assert [case.name for case in worst.cases()] == ["image 0", "image 1", "image 2"]


def test_images_without_labels_are_left_out():
    worst = Worst(SHAPES, 3)
    worst.add(scored(0, 0.5, np.full((4, 4), 255, np.uint8)))
    worst.add(scored(1, 0.5))
    assert [case.name for case in worst.cases()] == ["image 1"]


def test_errors_are_red_and_what_does_not_count_is_pale():
    label = np.ones((1, 4), np.uint8)
    label[0, 3] = 255
    worst = Worst(SHAPES, 1)
    worst.add(scored(0, 0.5, label))
    pictures = worst.cases()[0].pictures
    assert list(pictures) == ["image", "truth", "prediction", "errors"]
    ground = np.array([100, 100, 100])
    colours = np.asarray(pictures["errors"])[0]
    expected = [0.3 * ground + 0.7 * np.array(c) for c in ((255,) * 3, (255,) * 3, RED, PALE)]
    np.testing.assert_allclose(colours, expected, atol=1)
    assert pictures["truth"].getpixel((3, 0)) == PALE
    assert pictures["prediction"].getpixel((2, 0)) == tuple(SHAPES.palette[0].tolist())


def test_only_small_pictures_are_kept():
    worst = Worst(SHAPES, 1)
    worst.add(scored(0, 0.5, np.ones((500, 1000), np.uint8)))
    assert {p.size for p in worst.cases()[0].pictures.values()} == {(320, 160)}


def cases(count=3, **options):
    worst = Worst(SHAPES, count)
    for number in range(count):
        worst.add(scored(number, number / 10, **options))
    return worst.cases()


def test_a_sheet_as_a_picture(tmp_path):
    write_sheet(tmp_path / "worst.PNG", cases(), SHAPES)
    with Image.open(tmp_path / "worst.PNG") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 4 * 200
        assert sheet.height > 3 * 100
    assert [file.name for file in tmp_path.iterdir()] == ["worst.PNG"]


def test_a_sheet_as_a_page(tmp_path):
    write_sheet(tmp_path / "worst.html", cases(2, name="<b> & co"), SHAPES)
    page = (tmp_path / "worst.html").read_text("utf-8")
    assert page.count("<img ") == 2 * 4
    assert page.count("&lt;b&gt; &amp; co: mean IU 0.0 %, pixel accuracy 0.0 %") == 1
    assert "<b>" not in page
    for name in (*SHAPES.classes, "ignored", "errors"):
        assert name in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # needs no other file
    assert "$" not in page


def test_a_sheet_of_two_kinds_of_labels_and_of_depth(tmp_path):
    scenes = SimpleNamespace(
        name="scenes",
        ignore_index=255,
        streams={"color": 3, "depth": 1},
        heads={
            "sem": Head(("a", "b"), data.voc_palette(2)),
            "geo": Head(("up", "down", "far"), data.voc_palette(3)),
        },
    )
    labels = {"sem": np.ones((6, 8), np.uint8), "geo": np.full((6, 8), 2, np.uint8)}
    image = np.random.default_rng(0).uniform(0, 255, (6, 8, 4)).astype(np.float32)
    matrices = {"sem": ConfusionMatrix(2), "geo": ConfusionMatrix(3)}
    for head, matrix in matrices.items():
        matrix.update(labels[head], labels[head])
    sample = Sample(image, np.stack(list(labels.values()), axis=2), "x")
    worst = Worst(scenes, 1)
    worst.add(Scored(0, sample, labels, matrices))
    titles = ["color", "depth"]
    for head in ("sem", "geo"):
        titles += [f"{what} ({head})" for what in ("truth", "prediction", "errors")]
    assert list(worst.cases()[0].pictures) == titles
    for ending in ("png", "html"):
        write_sheet(tmp_path / f"sheet.{ending}", worst.cases(), scenes)
    page = (tmp_path / "sheet.html").read_text("utf-8")
    assert "far" in page
    assert "prediction (geo)" in page


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet"])
def test_a_sheet_of_another_kind(tmp_path, name):
    with pytest.raises(EvaluationError, match=rf"{name}: a sheet is a .png or .html file"):
        write_sheet(tmp_path / name, cases(), SHAPES)


def test_a_sheet_of_nothing(tmp_path):
    with pytest.raises(EvaluationError, match="no image has a labelled pixel: nothing to show"):
        write_sheet(tmp_path / "sheet.png", [], SHAPES)


def test_a_sheet_that_cannot_be_written(tmp_path):
    with pytest.raises(WriteError, match=r"sheet.png: cannot be written"):
        write_sheet(tmp_path / "missing" / "sheet.png", cases(), SHAPES)


def test_no_images_wanted():
    with pytest.raises(EvaluationError, match="the worst 0 images: it must be at least 1"):
        Worst(SHAPES, 0)


# The confusion matrix


def drawn(matrix):
    """Return the colours of a picture's cells, found by their frames' distance to the corner."""
    count = len(matrix)
    confusion = ConfusionMatrix.from_counts(matrix)
    picture = confusion_picture(confusion, [f"c{k}" for k in range(count)])
    cell = min(44, max(24, 900 // count))
    pixels = np.asarray(picture)
    frame = np.all(pixels == viz.FRAME, axis=2)
    left = int(np.argmax(frame.sum(axis=0) > count * cell / 2))
    top = int(np.argmax(frame.sum(axis=1) > count * cell / 2))
    # Just inside the frame of a cell: there is no number there.
    return np.array(
        [
            [pixels[top + i * cell + 2, left + j * cell + 2] for j in range(count)]
            for i in range(count)
        ]
    )


@pytest.mark.parametrize("count", [2, 3, 21, 60])
def test_a_row_shows_where_the_pixels_of_a_class_went(count, rng):
    matrix = rng.integers(0, 100, (count, count)) + np.diag(rng.integers(0, 1000, count))
    matrix[1] = 0  # a class that is not there
    cells = drawn(matrix)
    for i in range(count):
        for j in range(count):
            assert tuple(cells[i, j]) == shade(matrix[i, j] / max(1, matrix[i].sum()))
    assert (cells[1] == 255).all()


def test_long_names_and_other_letters_fit():
    small = confusion_picture(ConfusionMatrix(2), ["a", "b"])
    large = confusion_picture(ConfusionMatrix(2), ["Straße" * 12, "b"])
    assert large.height > small.height + 200
    assert large.width > 500


def test_names_that_do_not_fit():
    with pytest.raises(viz.PictureError, match="3 names for a confusion matrix of 2 classes"):
        confusion_picture(ConfusionMatrix(2), ["a", "b", "c"])
