"""Colours, overlays, legends and panels: what is drawn, and where."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from minifcn import viz

CLASSES = ("sea", "land", "ice")
PALETTE = np.array([(0, 0, 255), (0, 128, 0), (250, 20, 20)], np.uint8)
LABEL = np.array([[0, 1, 1], [1, 255, 1]], np.uint8)


def colours(picture):
    return set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))


def test_label_colours():
    picture = viz.colour_label(LABEL, PALETTE)
    assert picture.size == (3, 2)
    assert picture.getpixel((0, 0)) == (0, 0, 255)
    assert picture.getpixel((2, 1)) == (0, 128, 0)
    assert picture.getpixel((1, 1)) == viz.IGNORED_COLOUR


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int8])
def test_label_of_any_integers(dtype):
    label = np.array([[0, 1]], dtype)
    assert viz.colour_label(label, PALETTE).getpixel((1, 0)) == (0, 128, 0)


@pytest.mark.parametrize(("value", "named"), [(3, "3"), (254, "254"), (-1, "-1"), (300, "300")])
def test_label_without_a_colour(value, named):
    label = np.array([[0, 255, value]], np.int64)
    with pytest.raises(viz.PictureError, match=rf"number {named}, but .* for 0 to 2"):
        viz.colour_label(label, PALETTE)


@pytest.mark.parametrize(
    "label", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)), np.zeros((0, 3), np.uint8)]
)
def test_what_is_no_label(label):
    with pytest.raises(viz.PictureError, match="must be integers"):
        viz.colour_label(label, PALETTE)


def test_overlay_blends_half_and_half():
    image = np.full((2, 3, 3), 100, np.uint8)
    picture = viz.overlay(image, LABEL, PALETTE)
    assert picture.getpixel((0, 0)) == (50, 50, 177)
    assert viz.overlay(image, LABEL, PALETTE, strength=0).getpixel((0, 0)) == (100, 100, 100)


def test_overlay_needs_one_size():
    with pytest.raises(viz.PictureError, match="image is 3 x 2, label 2 x 3"):
        viz.overlay(np.zeros((3, 2, 3), np.uint8), LABEL, PALETTE)


@pytest.mark.parametrize("image", [np.zeros((2, 3), np.uint8), np.zeros((2, 3, 3))])
def test_overlay_needs_an_image(image):
    with pytest.raises(viz.PictureError, match="must be uint8"):
        viz.overlay(image, LABEL, PALETTE)


def test_pillow_images_of_other_modes_are_converted():
    gray = Image.new("L", (3, 2), 100)
    assert viz.overlay(gray, LABEL, PALETTE).getpixel((0, 0)) == (50, 50, 177)


def test_entries_are_the_classes_that_occur_and_the_ignored_pixels_last():
    label = np.array([[1, 1, 0, 255, 255, 255]])
    entries = viz.legend_entries(CLASSES, PALETTE, label)
    assert [entry.name for entry in entries] == ["land", "sea", "ignored"]
    assert [entry.share for entry in entries] == pytest.approx([2 / 6, 1 / 6, 3 / 6])
    assert entries[2].colour == viz.IGNORED_COLOUR


def test_entries_without_a_label_are_all_classes():
    entries = viz.legend_entries(CLASSES, PALETTE)
    assert [(entry.name, entry.share) for entry in entries] == [(name, None) for name in CLASSES]
    more = viz.legend_entries(CLASSES, PALETTE, ignored=True)
    assert [entry.name for entry in more] == [*CLASSES, "ignored"]


def test_entries_of_a_label_beyond_the_classes():
    with pytest.raises(viz.PictureError, match="number 3, but there are 3 classes"):
        viz.legend_entries(CLASSES, PALETTE, np.array([[0, 0, 3]]))


def test_entries_need_a_colour_each():
    with pytest.raises(viz.PictureError, match="3 classes, but a palette of 2"):
        viz.legend_entries(CLASSES, PALETTE[:2])


def test_legend_shows_the_colours_of_the_classes_that_occur():
    shown = colours(viz.legend(CLASSES, PALETTE, LABEL))
    assert {(0, 0, 255), (0, 128, 0), viz.IGNORED_COLOUR} <= shown
    assert (250, 20, 20) not in shown


def test_legend_writes_names_and_shares():
    short = viz.legend(["sea"], PALETTE)
    longer = viz.legend(["sea of tranquility"], PALETTE)
    share = viz.legend(["sea"], PALETTE, np.zeros((1, 1), int))
    assert short.width < longer.width
    assert short.width < share.width
    assert viz.INK in colours(short)  # there is text
    assert len(colours(share.crop((share.width - 20, 0, share.width, share.height)))) > 2


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, ""), (1.0, "100.0 %"), (0.1234, "12.3 %"), (0.0005, "0.1 %"), (0.0004, "< 0.1 %")],
)
def test_shares_in_per_cent(share, text):
    assert viz._percent(share) == text


def test_legend_keeps_to_a_width():
    names = [f"class {i}" for i in range(12)]
    palette = np.zeros((12, 3), np.uint8)
    one, wide = viz.legend(names, palette), viz.legend(names, palette, max_width=400)
    assert one.height == 12 * round(1.6 * 14)
    assert one.width < wide.width <= 400
    assert wide.height < one.height / 2
    assert viz.legend(names, palette, max_width=1).size == one.size


def test_legend_keeps_to_a_height():
    names = [f"class {i}" for i in range(12)]
    palette = np.zeros((12, 3), np.uint8)
    low = viz.legend(names, palette, max_height=100)
    assert low.height <= 100
    assert low.width > 2 * viz.legend(names, palette).width


def test_all_swatches_are_drawn_in_columns():
    palette = np.array([(10 * i, 0, 0) for i in range(1, 13)], np.uint8)
    shown = colours(viz.legend([f"class {i}" for i in range(12)], palette, max_height=50))
    assert set(map(tuple, palette.tolist())) <= shown


def test_annotated_is_the_overlay_and_a_legend():
    image = np.full((400, 500, 3), 100, np.uint8)
    label = np.zeros((400, 500), np.uint8)
    picture = viz.annotated(image, label, CLASSES, PALETTE)
    assert picture.width > 500 + 60
    assert picture.height == 400 + 2 * 16
    assert picture.getpixel((300, 200)) == (50, 50, 177)
    assert (0, 0, 255) in colours(picture)  # the swatch


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (64, 100), (383, 200)])
def test_annotated_enlarges_small_images_by_whole_factors(size):
    label = np.zeros(size, np.uint8)
    picture = viz.annotated(np.zeros((*size, 3), np.uint8), label, CLASSES, PALETTE)
    pixels = np.asarray(picture)
    blended = (pixels == (0, 0, 127)).all(axis=2).sum()
    factor = max(1, viz.LEAST_SIDE // max(size))
    assert blended == size[0] * size[1] * factor**2


def test_annotated_of_many_classes_is_not_cut():
    palette = np.array([(i, 9, 9) for i in range(200)], np.uint8)
    label = np.arange(200, dtype=np.uint8).reshape(10, 20)
    names = [f"class {i}" for i in range(200)]
    picture = viz.annotated(np.zeros((10, 20, 3), np.uint8), label, names, palette)
    assert set(map(tuple, palette.tolist())) <= colours(picture)
    assert picture.height < 500  # in several columns


def test_panel_places_pictures_below_titles_and_beside_names():
    gray = np.full((32, 32, 3), 128, np.uint8)
    red = Image.new("RGB", (32, 32), "red")
    panel = viz.panel([[gray, red], [red, gray]], ["one", "two"], names=["a", "b"], width=64)
    pixels = np.asarray(panel)
    is_red = (pixels == (255, 0, 0)).all(axis=2)
    assert is_red.sum() == 2 * 64 * 64
    rows, columns = np.flatnonzero(is_red.any(axis=1)), np.flatnonzero(is_red.any(axis=0))
    assert is_red[rows[0], columns[-1]]  # row 0: the second picture
    assert is_red[rows[-1], columns[0]]
    assert rows[0] > 20
    assert columns[0] > 20


def test_panel_puts_the_legend_below_and_makes_room_for_it():
    gray = np.full((32, 32, 3), 128, np.uint8)
    key = Image.new("RGB", (900, 30), "red")
    plain = viz.panel([[gray]], ["one"])
    panel = viz.panel([[gray]], ["one"], legend=key)
    assert panel.width >= 900
    assert panel.height == plain.height + 30 + 20
    assert (np.asarray(panel) == (255, 0, 0)).all(axis=2).sum() == 900 * 30


def test_panel_keeps_proportions_and_frames_white_pictures():
    white = np.full((50, 100, 3), 255, np.uint8)
    panel = viz.panel([[white]], ["one"], width=200)
    frame = (np.asarray(panel) == viz.FRAME).all(axis=2)
    assert frame.sum() == 2 * 202 + 2 * 100


def test_panel_makes_large_pictures_smaller_by_averaging():
    checks = np.indices((100, 100)).sum(axis=0) % 2 * 200
    image = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    assert (100, 100, 100) in colours(viz.panel([[image]], ["one"], width=50))


@pytest.mark.parametrize(
    ("rows", "titles", "names"),
    [
        ([], ["one"], []),
        ([[1, 2]], ["one"], []),
        ([[1], [2, 3]], ["one"], []),
        ([[1]], ["one"], "ab"),
    ],
)
def test_panel_counts(rows, titles, names):
    with pytest.raises(viz.PictureError, match="titles"):
        viz.panel(rows, titles, names=names)


def test_other_letters_need_another_font(monkeypatch):
    asked = []

    def truetype(name, size):
        asked.append(name)
        if name == viz.SYSTEM_FONTS[1]:
            return ImageFont.load_default(size + 1)
        raise OSError("cannot open resource")

    monkeypatch.setattr(ImageFont, "truetype", truetype)
    monkeypatch.setattr(viz.ImageFont, "load_default", lambda size: size)
    assert viz.font_for(14, "plain") == 14
    assert asked == []
    assert viz.font_for(14, "Straße") == 15
    assert asked == list(viz.SYSTEM_FONTS[:2])
