"""What a notebook shows of tensors, modules, results, graphs and a training: the HTML is parsed."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import minifcn.functional as F
from minifcn import data, display, models, nn, recipes
from minifcn.autograd import GraphError, Tensor, no_grad
from minifcn.display.layout import arrange
from minifcn.display.page import Html, table
from minifcn.flow import planned
from minifcn.metrics import ConfusionMatrix
from minifcn.notebook import LiveCurves, curves, graph
from minifcn.predict import labelled
from minifcn.train import Step, run
from minifcn.viz import PictureError
from minifcn.weights import Loaded

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"img", "br"}


class Page(HTMLParser):
    """What stands in a piece of HTML: texts, table rows, pictures; and whether all tags close."""

    def __init__(self, source):
        super().__init__()
        self.open, self.text, self.rows, self.images, self.styles = [], "", [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.styles.append(attrs.get("style", ""))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            self.images.append(attrs)
        assert tag not in ("script", "style", "link")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += text

    def picture(self, number=0):
        """Return the pixels of a picture."""
        content = self.images[number]["src"].removeprefix("data:image/png;base64,")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def page(thing):
    return Page(thing._repr_html_())


def drawn(drawing):
    """Return the SVG's elements; it must be well-formed."""
    return ET.fromstring(drawing.svg)


def texts(drawing):
    return [element.text for element in drawn(drawing).iter(f"{SVG}text")]


# Tensors


def test_a_tensor_shows_shape_type_device_and_origin():
    x = Tensor([[1.0, 2.5], [3.0, 4.0]], requires_grad=True)
    assert "Tensor (2, 2) · float32 · cpu · requires a gradient" in page(x).text
    assert "Tensor (2, 2) · float32 · cpu · from mul" in page(x * 2.0).text
    assert page(nn.Parameter(np.ones(1))).text.startswith("Parameter (1,) · float64")


def test_its_text_stays_as_it_is():
    assert repr(Tensor([1.0])) == "Tensor([1.], float32, cpu, grad=False)"


def test_a_small_tensor_shows_its_numbers():
    shown = page(Tensor([[1.0, 2.5], [-3.0, 1 / 3]]))
    assert shown.rows == [["1", "2.5"], ["-3", "0.3333"]]
    assert "from -3 to 2.5, mean 0.2083" in shown.text


@pytest.mark.parametrize("value", [3.0, 7, True])
def test_a_single_number(value):
    assert page(Tensor(value)).rows == [[str(int(value))]]


def test_long_axes_are_cut_in_the_middle():
    shown = page(Tensor(np.arange(200.0).reshape(20, 10)))
    assert len(shown.rows) == 8
    assert shown.rows[1] == ["10", "11", "12", "13", "14", "15", "⋯", "19"]
    assert shown.rows[6] == ["⋯"] * 8
    assert shown.rows[7][0] == "190"


def test_matrices_of_a_larger_array_are_named_and_counted():
    shown = page(Tensor(np.zeros((8, 3, 2, 2))))
    assert "[1, 0]" in shown.text
    assert "[1, 1]" not in shown.text
    assert "and 20 more of (2, 2)" in shown.text


def test_an_empty_tensor_says_so():
    assert "an axis has length 0" in page(Tensor(np.zeros((0, 3)))).text


def test_numbers_that_are_not_finite_are_counted():
    shown = page(Tensor([np.nan, np.inf, 1.0]))
    assert shown.rows == [["nan", "inf", "1"]]
    assert "from 1 to 1, mean 1; 2 of 3 are not finite" in shown.text
    assert "none of the numbers is finite" in page(Tensor([np.nan, np.nan])).text


def test_an_image_is_shown_in_colours():
    x = np.zeros((2, 3, 16, 20), np.float32)
    x[0, 0, 3, 4], x[1] = 2.0, 9.0  # a red pixel; the second image is not shown
    shown = page(Tensor(x))
    assert "image 0 of 2: three channels as red, green and blue; 0 is black, 2 is white" in (
        shown.text
    )
    assert len(shown.images) == 1
    pixels = shown.picture()
    assert pixels.shape == (16, 20, 3)
    assert pixels[3, 4].tolist() == [255, 0, 0]
    assert pixels.sum() == 255


def test_feature_maps_are_shown_in_one_scale_of_gray():
    x = np.arange(10.0).repeat(144).reshape(1, 10, 12, 12)
    shown = page(Tensor(x))
    assert len(shown.images) == 8
    assert "10 channels; 0 is black, 7 is white" in shown.text
    assert "and 2 more channels" in shown.text
    assert [int(shown.picture(k)[0, 0, 0]) for k in (0, 7)] == [0, 255]
    assert "channel 7, 12 x 12" in shown.images[7]["alt"]


def test_pixels_that_are_not_finite_are_red():
    x = np.ones((12, 12))
    x[5, 6] = np.nan
    shown = page(Tensor(x))
    assert shown.picture()[5, 6].tolist() == list(display.tensor.ODD)
    assert "1 of 144 are not finite" in shown.text


def test_a_large_picture_is_made_smaller():
    shown = page(Tensor(np.zeros((1, 1000, 500), np.int64)))
    assert max(shown.picture().shape) <= 400


# Modules


def test_a_chain_lists_its_layers():
    shown = page(nn.Sequential(conv=nn.Conv2d(3, 8, 3), relu=nn.ReLU(), head=nn.Linear(8, 2)))
    assert shown.rows == [
        ["layer", "kind", "parameters", "holds"],
        ["conv", "Conv2d(3 -> 8, kernel 3, stride 1)", "224", "weight (8, 3, 3, 3), bias (8,)"],
        ["relu", "ReLU", "", ""],
        ["head", "Linear(8 -> 2)", "18", "weight (2, 8), bias (2,)"],
        ["all", "", "242", ""],
    ]
    assert "Sequential 242 parameters · float32 · cpu · in training mode" in shown.text


def test_a_module_of_ones_own_with_parameters_of_its_own():
    class Scale(nn.Module):
        def __init__(self):
            self.factor = nn.Parameter(np.ones(3))
            self.inner = nn.Sequential(nn.ReLU())

    rows = page(Scale()).rows
    assert rows[1] == ["(itself)", "Scale", "3", "factor (3,)"]
    assert rows[2][0] == "inner.0"


def test_a_net_lists_sizes_in_the_order_of_computation():
    net = models.fcn8s(4, "small").eval()
    shown = page(net)
    rows = {row[0]: row for row in shown.rows}
    assert rows["score_fr"][2:5] == ["(4, 4, 4)", "166", "388"]
    assert rows["score_pool4 + upscore2"][1] == "sum"
    assert rows["all"][4] == f"{net.num_parameters():,}"
    assert "an image of 128 x 128 pixels" in shown.text
    assert "308,052 of them learned" in shown.text
    assert "in evaluation mode" in shown.text


@pytest.mark.parametrize(("name", "folded"), [("googlenet", True), ("alexnet", False)])
def test_long_tables_are_folded(name, folded):
    source = planned(name, num_classes=3, width=0.125)._repr_html_()
    assert ("<details>" in source) == folded
    assert ("<details open>" in source) == (not folded)


def test_late_fusion():
    parts = {name: models.fcn32s(4, "small", in_channels=3) for name in ("color", "hha")}
    shown = page(models.LateFusion(parts))
    assert "color.conv1_1" in {row[0] for row in shown.rows}


# Results


def counted(truth, found, classes=3):
    confusion = ConfusionMatrix(classes)
    confusion.update(np.array(truth), np.array(found))
    return confusion


def test_a_confusion_matrix_shows_metrics_and_classes():
    shown = page(counted([0, 0, 1, 255], [0, 1, 1, 0]))
    assert "ConfusionMatrix 3 classes · 3 pixels counted" in shown.text
    assert shown.rows[:4] == [
        ["pixel accuracy", "66.7 %"],
        ["mean accuracy", "75.0 %"],
        ["mean IU", "50.0 %"],
        ["f.w. IU", "50.0 %"],
    ]
    assert shown.rows[5] == ["0", "50.0 %", "50.0 %", "2", "66.7 %", "33.3 %"]
    assert shown.rows[7] == ["2", "-", "-", "0", "0.0 %", "0.0 %"]


COLOURS = np.array([(0, 0, 250), (0, 100, 0)], np.uint8)


def test_a_labelled_image_shows_image_overlay_and_legend():
    image = np.zeros((10, 20, 3), np.uint8)
    label = np.zeros((10, 20), np.uint8)
    label[:, 15:] = 1
    shown = page(display.Labelled(image, label, ["sea", "<b>land</b> & co"], COLOURS))
    assert shown.rows[1:] == [["", "sea", "75.0 %"], ["", "<b>land</b> & co", "25.0 %"]]
    assert shown.picture(0).sum() == 0
    assert shown.picture(1)[0, [0, 19]].tolist() == [[0, 0, 125], [0, 50, 0]]
    assert "rgb(0, 100, 0)" in " ".join(shown.styles)
    assert all(image["alt"] for image in shown.images)


def test_a_labelled_image_needs_fitting_parts():
    with pytest.raises(PictureError, match="image is 10 x 20, label 5 x 5"):
        display.Labelled(np.zeros((10, 20, 3), np.uint8), np.zeros((5, 5), int), ["a"], COLOURS)


def test_its_text_names_the_commonest_classes():
    label = np.arange(6, dtype=np.uint8).repeat(6).reshape(6, 6)
    names, palette = list("abcdef"), np.zeros((6, 3), np.uint8)
    shown = display.Labelled(np.zeros((6, 6, 3), np.uint8), label, names, palette)
    assert repr(shown).startswith("Labelled(6 x 6 pixels: a 16.7 %, b 16.7 %, ")
    assert repr(shown).endswith("2 more)")


def test_a_net_labels_an_image_for_each_head():
    net = models.fcn32s({"kind": 2, "sky": 2}, "small")
    palette = np.concatenate([COLOURS, COLOURS])
    loaded = Loaded(net, ("a", "b", "c", "d"), palette, data.UNIT, "")
    found = labelled(loaded, np.zeros((20, 30, 3), np.uint8))
    assert list(found) == ["kind", "sky"]
    assert found["sky"].classes == ("c", "d")
    assert found["sky"].label.shape == (20, 30)


# Graphs


def arrows(drawing):
    return drawing.svg.count("h8 l-4,8 z")


def test_a_graph_has_a_box_for_each_operation_and_input():
    w, b = Tensor([1.0, 2.0], requires_grad=True), Tensor(0.5, requires_grad=True)
    x = Tensor([3.0, 4.0])
    drawing = graph(((w * x).sum() + b) ** 2, w=w, b=b)
    assert len(list(drawn(drawing).iter(f"{SVG}rect"))) == 7
    assert arrows(drawing) == 6
    assert set(texts(drawing)) >= {"w", "b", "constant", "mul", "sum", "add", "pow exponent=2"}
    assert texts(drawing).count("(2,)") == 3
    assert drawing.alt == (
        "A graph of 4 operations (mul, sum, add, pow exponent=2) on 3 inputs (b, constant, w)."
    )


def test_settings_are_those_that_are_not_usual():
    x = Tensor(np.zeros((1, 1, 6, 6)))
    weight = nn.Parameter(np.zeros((1, 1, 3, 3)))
    assert "conv2d stride=2" in texts(graph(F.conv2d(x, weight, stride=2)))
    assert "Parameter" in texts(graph(F.conv2d(x, weight)))


def test_twice_the_same_input_is_one_box_with_two_arrows():
    x = Tensor(2.0, requires_grad=True)
    drawing = graph(x * x)
    assert len(list(drawn(drawing).iter(f"{SVG}rect"))) == 2
    assert arrows(drawing) == 2


def test_inputs_stand_above_what_reads_them_and_the_result_at_the_bottom():
    x = Tensor(2.0, requires_grad=True)
    drawing = graph((x * x).exp() + x)
    boxes = {}
    for group in drawn(drawing).iter(f"{SVG}g"):
        boxes[group.find(f"{SVG}text").text] = float(group.find(f"{SVG}rect").get("y"))
    assert boxes["Tensor"] < boxes["mul"] < boxes["exp"] < boxes["add"]


def test_names_are_escaped():
    x = Tensor(2.0, requires_grad=True)
    drawing = graph(x.exp(), **{"<b>": x})
    assert "<b>" in texts(drawing)
    assert "<b>" not in drawing.svg


def test_a_graph_with_many_boxes_is_refused():
    x = Tensor(2.0, requires_grad=True)
    y = x
    for _ in range(59):
        y = y.tanh()
    assert graph(y).alt.startswith("A graph of 59 operations")
    with pytest.raises(display.DisplayError, match=r"has 61 boxes, and 60 can be drawn: draw a pa"):
        graph(y.tanh())
    for _ in range(5000):
        y = y.tanh()
    with pytest.raises(display.DisplayError, match="has already 61 boxes"):
        graph(y)


def test_there_must_be_a_graph():
    x = Tensor(2.0, requires_grad=True)
    with pytest.raises(GraphError, match="no operation made this tensor"):
        graph(x)
    with no_grad(), pytest.raises(GraphError, match="or none was recorded"):
        graph(x * x)
    y = x * x
    y.backward()
    with pytest.raises(GraphError, match=r"freed the graph: draw it before, or call backward\("):
        graph(y)


def test_boxes_do_not_overlap_and_edges_lead_down():
    rng = np.random.default_rng(0)
    for count in (2, 5, 12, 30):
        edges = [(box, int(rng.integers(box))) for box in range(1, count)]
        edges += [(b, int(rng.integers(b))) for b in rng.integers(1, count, size=count // 2)]
        widths = rng.uniform(40, 120, size=count).tolist()
        layout = arrange(count, edges, widths)
        for (start, to), path in zip(edges, layout.paths, strict=True):
            assert layout.row[start] < layout.row[to]
            assert [row for _, row in path] == list(range(layout.row[start], layout.row[to] + 1))
        for a in range(count):
            assert 0 <= layout.x[a] - widths[a] / 2 + 1e-6
            assert layout.x[a] + widths[a] / 2 <= layout.width + 1e-6
            for b in range(a):
                if layout.row[a] == layout.row[b]:
                    apart = (widths[a] + widths[b]) / 2
                    assert abs(layout.x[a] - layout.x[b]) >= apart


def test_a_chain_is_drawn_straight():
    layout = arrange(4, [(3, 2), (2, 1), (1, 0)], [50.0, 90.0, 60.0, 70.0])
    assert np.ptp(list(layout.x.values())) < 1e-6


# Curves


def heights(drawing, number):
    """Return the y of the points of a curve."""
    line = list(drawn(drawing).iter(f"{SVG}polyline"))[number]
    return [float(point.split(",")[1]) for point in line.get("points").split()]


def test_curves_fall_with_the_loss_and_rise_with_the_score():
    scores = {"fcn32s": [(1, 0.0), (2, 0.5), (3, 1.0)]}
    drawing = curves([4.0, 2.0, 0.0], scores, name="fcn32s")
    every, mean, score = (heights(drawing, k) for k in range(3))
    assert every[0] < every[1] < every[2] == 26 + 130
    assert mean[0] < mean[1] < mean[2] < every[2]
    assert score[0] - score[2] == 130
    assert drawing.alt == (
        "Loss and mean IU of fcn32s over 3 steps: loss from 4.00 to 2.00; mean IU 100.0 %."
    )
    # The text that is compared when a notebook is executed anew has no numbers.
    assert repr(drawing) == "Loss and mean IU of fcn32s."


def test_long_runs_are_drawn_with_few_points():
    drawing = curves(np.linspace(3, 1, 100_000).tolist())
    assert len(heights(drawing, 0)) == 400
    assert len(drawing.svg) < 20_000


def test_there_may_be_nothing_to_draw_yet():
    assert curves([]).alt == "Loss over 0 steps."
    drawn(curves([]))
    drawn(curves([1.0], {"a": [(1, float("nan"))]}))


def test_heads_have_curves_of_their_own():
    drawing = curves([1.0], {"a sem": [(1, 0.25)], "a geo": [(1, 0.5)]}, name="a")
    assert {"sem 25.0 %", "geo 50.0 %"} <= set(texts(drawing))


class Screen:
    """Stands for the notebook: keeps what each display shows."""

    def __init__(self):
        self.shown, self.updates = [], 0

    def __call__(self, drawing, display_id):
        self.shown.append(drawing)
        place, screen = len(self.shown) - 1, self

        class Handle:
            def update(self, drawing):
                screen.shown[place] = drawing
                screen.updates += 1

        return Handle()


@pytest.fixture
def screen(monkeypatch):
    module = pytest.importorskip("IPython.display", reason="the extra 'notebooks' is missing")
    screen = Screen()
    monkeypatch.setattr(module, "display", screen)
    return screen


def test_curves_are_drawn_a_few_times_a_second(screen):
    now = iter(np.arange(1000) / 10)  # ten steps a second
    observer = LiveCurves(every=0.5, clock=lambda: next(now))
    for step in range(1, 101):
        observer.stepped("net", Step(step, 100, 1.0, 0.1, 0.1))
    assert len(screen.shown) == 1
    assert screen.updates == 20  # every fifth, without the first; and the last
    assert "over 100 steps" in screen.shown[0].alt


def test_an_evaluation_is_drawn_at_once(screen):
    observer = LiveCurves(clock=lambda: 0.0)
    observer.stepped("net", Step(1, 100, 1.0, 0.1, 0.1))
    observer.evaluated("net", 1, counted([0, 1], [0, 1], 2), best=True)
    assert "mean IU 100.0 %" in screen.shown[0].alt


def test_a_run_leaves_a_drawing_for_each_stage(screen, tmp_path):
    recipe = replace(recipes.QUICK, steps=3, crop=48, batch_size=2)
    train_set, val_set = data.shapes("train", 4), data.shapes("val", 2)
    run({"fcn32s": recipe, "fcn16s": recipe}, train_set, val_set, tmp_path, observer=LiveCurves())
    assert [str(drawing) for drawing in screen.shown] == [
        "Loss and mean IU of fcn32s.",
        "Loss and mean IU of fcn16s.",
    ]
    assert all(re.search("over 3 steps: loss from .*; mean IU", d.alt) for d in screen.shown)


def test_the_same_stage_again_is_drawn_below(screen):
    observer, net = LiveCurves(clock=lambda: 0.0), nn.ReLU()
    for _ in range(2):
        observer.stage_started("net", recipes.QUICK, net)
        observer.stepped("net", Step(1, 100, 1.0, 0.1, 0.1))
    assert ["over 1 step:" in drawing.alt for drawing in screen.shown] == [True, True]


def test_without_ipython_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", None)
    with pytest.raises(display.DisplayError, match=r"pip install 'minifcn\[notebooks\]'"):
        LiveCurves()


# All


def test_all_text_is_escaped_unless_it_is_html_already():
    source = table(["<i>"], [["a < b & c"], [Html("<br>")]])
    assert Page(source).rows == [["<i>"], ["a < b & c"], [""]]
    assert "<i>" not in source


def test_nothing_has_colours_of_its_own_for_text_or_paper():
    things = [
        Tensor(np.zeros((1, 3, 16, 16))),
        Tensor([1.0]),
        models.fcn8s(4, "small"),
        counted([0], [0]),
    ]
    for thing in things:
        for style in page(thing).styles:
            assert not re.search(r"(?<![-\w])(color|background(-color)?):", style)


def test_drawings_can_be_seen_on_white_and_on_black():
    """The contrast of lines and text that stand on the page is at least 3 (WCAG 2.1, 1.4.11)."""
    drawing = curves([1.0, 2.0], {"a sem": [(1, 0.25)], "a geo": [(1, 0.5)]}, name="a")
    found = {e.get("fill") or e.get("stroke") for e in drawn(drawing).iter()}
    found |= {e.get("stroke") for e in drawn(drawing).iter()}
    for colour in found - {None, "none"}:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        light = float(linear @ [0.2126, 0.7152, 0.0722])
        assert 1.05 / (light + 0.05) >= 3, colour
        assert (light + 0.05) / 0.05 >= 3, colour


def test_all_is_the_same_each_time():
    net = models.fcn8s(4, "small")
    assert net._repr_html_() == net._repr_html_()
    x = Tensor(np.arange(4.0).reshape(2, 2), requires_grad=True)
    assert graph((x * x + x).sum(), x=x).svg == graph((x * x + x).sum(), x=x).svg


def test_a_notebook_takes_what_there_is():
    formatters = pytest.importorskip("IPython.core.formatters", reason="no IPython")
    formatter = formatters.DisplayFormatter()
    found, _ = formatter.format(Tensor([1.0]))
    assert found["text/plain"] == repr(Tensor([1.0]))
    assert "Tensor" in found["text/html"]
    drawing = curves([1.0])
    found, facts = formatter.format(drawing)
    assert found == {"image/svg+xml": drawing.svg, "text/plain": "Loss."}
    assert facts["image/svg+xml"]["alt"] == drawing.alt


@pytest.mark.notebooks
def test_the_last_drawing_stays_in_an_executed_notebook():
    nbformat = pytest.importorskip("nbformat", reason="the extra 'notebooks' is missing")
    nbclient = pytest.importorskip("nbclient", reason="the extra 'notebooks' is missing")
    cell = nbformat.v4.new_code_cell(
        "from minifcn.notebook import LiveCurves\n"
        "from minifcn.train import Step\n"
        "observer = LiveCurves(every=0)\n"
        "for step in range(1, 6):\n"
        "    observer.stepped('net', Step(step, 5, 1 / step, 0.1, 0.1))\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert "over 5 steps" in output.data["image/svg+xml"]
    assert output.data["text/plain"] == "Loss of net."
    assert "over 5 steps" in output.metadata["image/svg+xml"]["alt"]
