"""Nets written for ONNX: what is in the files, and what onnxruntime computes from them."""

import json
import re
import sys
from itertools import product

import numpy as np
import pytest

from minifcn import Tensor, cli, data, models, nn, no_grad, weights
from minifcn.models import convolutionalize
from minifcn.shapes import ShapeError
from minifcn.weights import WeightsError
from minifcn.weights.writers import facts
from minifcn.weights.writers import onnx as onnx_module
from minifcn.weights.writers.onnx import write_onnx
from minifcn.weights.writers.onnx_check import check_with_onnxruntime
from minifcn.weights.writers.onnx_nodes import described, onnx_nodes
from tests.narrow_nets import FCNS, NARROW, net_of

SHAPES = data.shapes("val")
FACTS = {
    "classes": SHAPES.classes,
    "palette": SHAPES.palette,
    "preprocessing": data.CAFFE,
    "origin": "Bäume",
}


def late_fusion():
    net = models.LateFusion({n: net_of("fcn16s", "small") for n in ("color", "hha")})
    net.hha.conv1_1.weight.data[...] *= 2
    return net.eval()


def chain(**layers):
    """Return layers behind a convolution, which tells how many channels an image has."""
    layers = {"conv": nn.Conv2d(3, 4, 1), **layers}
    rng = np.random.default_rng(0)
    net = nn.Sequential(layers)
    for parameter in net.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    return net.eval()


def nodes_of(net, size=None):
    return {node.name: node for node in onnx_nodes(net, size).nodes}


# The graph


def test_fcn8s_is_described_step_by_step():
    net = net_of("fcn8s", "vgg16", at_once=True)
    nodes = list(nodes_of(net).values())
    first = next(i for i, node in enumerate(nodes) if node.name == "score_fr")
    assert [(node.name, node.type, node.inputs) for node in nodes[first : first + 13]] == [
        ("score_fr", "Conv", ("relu7", "score_fr.weight", "score_fr.bias")),  # no dropout
        ("pool4_0.01", "Mul", ("pool4", "pool4_0.01.factor")),
        ("upscore2", "ConvTranspose", ("score_fr", "upscore2.weight")),
        ("score_pool4", "Conv", ("pool4_0.01", "score_pool4.weight", "score_pool4.bias")),
        ("upscore2.size", "Shape", ("upscore2",)),
        ("score_pool4.size", "Shape", ("score_pool4",)),
        ("score_pool4.rest", "Sub", ("score_pool4.size", "score_pool4.start")),
        ("score_pool4_upscore2.size", "Min", ("upscore2.size", "score_pool4.rest")),
        (
            "upscore2.cropped",
            "Slice",
            ("upscore2", "upscore2.start", "score_pool4_upscore2.size", "rows_and_columns"),
        ),
        ("score_pool4.end", "Add", ("score_pool4_upscore2.size", "score_pool4.start")),
        (
            "score_pool4.cropped",
            "Slice",
            ("score_pool4", "score_pool4.start", "score_pool4.end", "rows_and_columns"),
        ),
        ("score_pool4_upscore2", "Add", ("upscore2.cropped", "score_pool4.cropped")),
        ("pool3_0.0001", "Mul", ("pool3", "pool3_0.0001.factor")),
    ]
    factors = {n: a for n, a in onnx_nodes(net).arrays.items() if n.endswith(".factor")}
    assert factors == {
        "pool4_0.01.factor": np.float32(0.01),
        "pool3_0.0001.factor": np.float32(1e-4),
    }


@pytest.mark.parametrize(
    ("model", "backbone", "offsets"),
    [
        ("fcn32s", "vgg16", {"upscore": 19}),
        ("fcn16s", "vgg16", {"score_pool4": 5, "upscore16": 27}),
        ("fcn8s", "vgg16", {"score_pool4": 5, "score_pool3": 9, "upscore8": 31}),
        ("fcn32s", "caffenet", {"upscore": 18}),
    ],
)
def test_crops_have_the_released_nets_offsets(model, backbone, offsets):
    arrays = onnx_nodes(net_of(model, backbone)).arrays
    found = {
        n.removesuffix(".start"): a.tolist() for n, a in arrays.items() if n.endswith(".start")
    }
    assert {n: start for n, start in found.items() if any(start)} == {
        name: [offset, offset] for name, offset in offsets.items()
    }


def test_parameters_keep_their_names_and_are_not_copied():
    net = net_of("fcn8s", "googlenet")
    arrays = onnx_nodes(net).arrays
    for name, array in net.state_dict().items():
        assert arrays[name] is array
    assert {a.dtype for a in arrays.values()} == {np.dtype("float32"), np.dtype("int64")}


def test_a_parameter_that_layers_share_is_there_once():
    first = nn.Conv2d(4, 4, 1)
    second = nn.Conv2d(4, 4, 1)
    second.weight, second.bias = first.weight, first.bias
    graph = onnx_nodes(chain(first=first, second=second), (5, 5))
    assert graph.nodes[1].inputs[1:] == graph.nodes[2].inputs[1:] == ("first.weight", "first.bias")


@pytest.mark.parametrize("case", FCNS)
def test_names_are_unique_and_of_letters_digits_and_dots(case):
    model, backbone, options = FCNS[case]
    nodes = onnx_nodes(net_of(model, backbone, **options)).nodes
    assert len({node.name for node in nodes}) == len(nodes)
    assert all(re.fullmatch(r"[A-Za-z][\w.]*", node.name) for node in nodes)


def test_sizes_are_named_unless_they_are_fixed():
    net = net_of("fcn16s", num_classes={"sem": 5, "geo": 3})
    graph, small = onnx_nodes(net), onnx_nodes(net, (50, 70))
    assert (graph.image, graph.scores["score_geo"]) == (
        ("N", 3, "height", "width"),
        ("N", 3, "height", "width"),
    )
    assert small.image == ("N", 3, 50, 70)
    assert small.scores == {"score_sem": ("N", 5, 50, 70), "score_geo": ("N", 3, 50, 70)}
    assert onnx_nodes(late_fusion()).image == ("N", 6, "height", "width")
    classifier = onnx_nodes(net_of("vgg16", num_classes=7))
    assert (classifier.image, classifier.scores) == (("N", 3, 99, 99), {"score": ("N", 7)})
    heat = onnx_nodes(convolutionalize(net_of("vgg16"))).scores
    assert heat == {"score": ("N", 4, "score_height", "score_width")}


def test_a_layer_that_onnx_does_not_have_is_named():
    with pytest.raises(WeightsError, match=r"norm1, LocalResponseNorm\(size 4.*only odd sizes"):
        described("norm1", nn.LocalResponseNorm(4))
    with pytest.raises(WeightsError, match=r"odd, Module.*: ONNX has no such layer"):
        described("odd", nn.Module())


# The files


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx")


def checked(onnx, path):
    """Return the message in a file, after ONNX's own examination."""
    message = onnx.load(path)
    onnx.checker.check_model(message, full_check=True)
    return message


def properties_of(message):
    return {entry.key: entry.value for entry in message.metadata_props}


@pytest.mark.parametrize("case", [*FCNS, "late fusion", *models.CLASSIFIERS])
def test_files_pass_the_examination_of_onnx(onnx, tmp_path, case):
    if case in FCNS:
        model, backbone, options = FCNS[case]
        net = net_of(model, backbone, **options)
    else:
        net = late_fusion() if case == "late fusion" else net_of(case)
    write_onnx(net, tmp_path / "net.onnx")
    message = checked(onnx, tmp_path / "net.onnx")
    assert (message.ir_version, message.opset_import[0].version) == (8, 15)
    found = {t.name: onnx.numpy_helper.to_array(t) for t in message.graph.initializer}
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    # Nothing is in the file that no node reads.
    assert set(found) <= {name for node in message.graph.node for name in node.input}


def test_what_is_to_know_stands_in_the_properties(onnx, tmp_path):
    net = net_of("fcn8s", "vgg16", padding=80)
    write_onnx(net, tmp_path / "net.onnx", **FACTS)
    found = properties_of(checked(onnx, tmp_path / "net.onnx"))
    assert json.loads(found.pop("model")) == json.loads(json.dumps(net.config))
    assert found.pop("minifcn")
    assert found.pop("input") == (
        "(pixel * 1.0 - mean) / std, pixels from 0 to 255, BGR, "
        "mean (104.00699, 116.66877, 122.67892), std (1.0, 1.0, 1.0)"
    )
    rule = data.Preprocessing.from_dict(json.loads(found.pop("preprocessing")))
    assert rule == data.CAFFE
    least = json.loads(found.pop("least_size"))
    assert found == {
        "classes": json.dumps(SHAPES.classes),
        "palette": json.dumps(SHAPES.palette.tolist()),
        "origin": "Bäume",
    }
    net.check_image(np.zeros((1, 3, *least)))
    with pytest.raises(ShapeError, match=f"from {least[0]} x {least[1]} pixels on"):
        net.check_image(np.zeros((1, 3, least[0], least[1] - 1)))


def test_only_what_is_told_stands_in_the_properties(onnx, tmp_path):
    write_onnx(chain(), tmp_path / "net.onnx")
    assert set(properties_of(checked(onnx, tmp_path / "net.onnx"))) == {"minifcn"}


def refused(tmp_path, net, words, error=WeightsError, name="net.onnx", **options):
    with pytest.raises(error, match=words):
        write_onnx(net, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_other_nets_and_other_facts_are_refused(onnx, tmp_path):
    net = net_of("fcn32s")
    refused(tmp_path, nn.ReLU(), "net.onnx: a ReLU: only FCNs and chains")
    refused(tmp_path, net, "classes has 3 entries for 4 classes", classes=("a", "b", "c"))
    refused(tmp_path, net, "palette has 1 entries for 4", palette=np.zeros((1, 3), np.uint8))
    refused(tmp_path, net, "nowhere does not exist", name="nowhere/net.onnx")
    refused(tmp_path, net_of("fcn32s").to(np.float64), "parameters of float64: convert")


def test_images_of_a_size_that_does_not_fit_are_refused(onnx, tmp_path):
    small = net_of("fcn32s", "caffenet", padding=82)
    words = r"an image of 64 x 100 pixels .* there are scores for 63"
    refused(tmp_path, small, words, ShapeError, size=(64, 100))
    refused(
        tmp_path, models.LateFusion({"a": small, "b": small}), words, ShapeError, size=(64, 100)
    )
    refused(tmp_path, net_of("vgg16"), "takes images of one size only", ShapeError, size=64)
    refused(tmp_path, small, "size=0 must be", ShapeError, size=0)


def test_a_message_too_large_for_protobuf_is_refused(onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "LARGEST", 10_000)
    refused(tmp_path, net_of("fcn32s"), "bytes, but no program reads such a file above 10000")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx.helper", None)
    refused(tmp_path, net_of("fcn32s"), r"net.onnx: .* pip install 'minifcn\[onnx\]'")


def test_a_file_is_written_whole_or_not_at_all(onnx, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "no space left")

    (tmp_path / "net.onnx").write_text("before")
    monkeypatch.setattr(onnx_module, "write_pieces", full)
    with pytest.raises(WeightsError, match=r"net.onnx: cannot be written: no space .* make room"):
        write_onnx(net_of("fcn32s"), tmp_path / "net.onnx")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


# Another program's numbers


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


@pytest.fixture
def same(runtime, tmp_path, rng):
    """Check that onnxruntime computes what a net does, from one file for all sizes."""

    def same(net, *sizes, channels=3, **options):
        graph = write_onnx(net, tmp_path / "net.onnx", **options)
        session = runtime.InferenceSession(
            tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
        )
        assert [output.name for output in session.get_outputs()] == list(graph.scores)
        for images, height, width in sizes:
            x = rng.normal(0, 30, (images, channels, height, width)).astype(np.float32)
            with no_grad():
                ours = net(Tensor(x))
            ours = list(ours.values()) if isinstance(ours, dict) else [ours]
            for one, found in zip(ours, session.run(None, {"image": x}), strict=True):
                assert found.shape == one.shape
                assert abs(found - one.data).max() <= 1e-4 * abs(one.data).max()

    return same


@pytest.mark.oracle
@pytest.mark.parametrize("case", FCNS)
def test_onnxruntime_computes_our_scores_of_an_fcn(same, case):
    model, backbone, options = FCNS[case]
    net = net_of(model, backbone, **options)
    same(net, (1, 61, 87), (2, 50, 33), (1, 97, 64), (1, 33, 120))


@pytest.mark.oracle
def test_onnxruntime_computes_our_scores_of_a_late_fusion(same):
    same(late_fusion(), (1, 61, 87), (2, 50, 33), channels=6)


@pytest.mark.oracle
@pytest.mark.parametrize("model", models.CLASSIFIERS)
def test_onnxruntime_computes_our_scores_of_a_classifier(same, model):
    options = {"auxiliary": True} if model == "googlenet" else {}
    net = net_of(model, num_classes=7, image_size=91, **options)
    same(net, (2, 91, 91), (1, 91, 91))
    same(convolutionalize(net), (1, 91, 91), (2, 99, 131))


@pytest.mark.oracle
def test_onnxruntime_computes_our_scores_at_a_fixed_size(same, tmp_path):
    net = net_of("fcn8s", "vgg16")
    same(net, (1, 61, 87), (2, 61, 87), size=(61, 87))
    assert {"Shape", "Min", "Sub"}.isdisjoint(
        node.type for node in nodes_of(net, (61, 87)).values()
    )


@pytest.mark.oracle
def test_opencv_reads_a_file_of_a_fixed_size(runtime, tmp_path, rng):
    cv2 = pytest.importorskip("cv2")
    net = net_of("fcn8s", "vgg16")
    write_onnx(net, tmp_path / "net.onnx", size=(61, 87))
    image = rng.normal(0, 30, (1, 3, 61, 87)).astype(np.float32)
    theirs = cv2.dnn.readNetFromONNX(str(tmp_path / "net.onnx"))
    theirs.setInput(image)
    with no_grad():
        ours = net(Tensor(image)).data
    assert abs(theirs.forward() - ours).max() <= 1e-4 * abs(ours).max()


class Two(nn.Branches):
    """One chain that is empty, and one with a net of its own."""

    def __init__(self):
        self.inner = nn.Sequential({"a": nn.Conv2d(4, 5, 3, padding=1), "b": nn.ReLU()})

    def chains(self):
        return {}, {"inner": self.inner}


LAYERS = {
    "two axes": nn.Conv2d(4, 6, (3, 5), (1, 2), (0, 1), (2, 1), bias=False),
    "groups": nn.Conv2d(4, 6, 3, groups=2),
    "transposed": nn.ConvTranspose2d(4, 6, (4, 3), (3, 2), (1, 0), (2, 1), groups=2),
    "transposed, dilated": nn.ConvTranspose2d(4, 6, 3, 2, dilation=(2, 3)),
    "norm": nn.LocalResponseNorm(3, alpha=0.1, beta=0.5, k=2.0),
    "branches": Two(),
    "dilated pooling": nn.MaxPool2d(2, 2, 1, dilation=(2, 1), ceil_mode=True),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", LAYERS)
def test_onnxruntime_computes_what_a_layer_does(same, name):
    same(chain(layer=LAYERS[name], dropped=nn.Dropout(0.5)), (2, 11, 14), (1, 12, 9))


@pytest.mark.oracle
def test_onnxruntime_computes_what_layers_behind_a_flatten_do(same):
    net = chain(flatten=nn.Flatten(), fc=nn.Linear(4 * 5 * 6, 7, bias=False), relu=nn.ReLU())
    same(net, (2, 5, 6), size=(5, 6))
    with pytest.raises(ShapeError, match="takes images of one size only"):
        onnx_nodes(net)


POOLING = {
    "maximum": nn.MaxPool2d,
    "mean": nn.AvgPool2d,
    "mean of pixels": lambda *window, ceil_mode: nn.AvgPool2d(*window, ceil_mode, False),
}


@pytest.mark.oracle
@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize("kind", POOLING)
def test_onnxruntime_pools_as_we_do(same, kind, ceil):
    """At all sizes, also where a window could start in the padding behind the last pixel."""
    for kernel, stride, padding in product((1, 2, 3, 4), (1, 2, 3, 5), (0, 1, 2)):
        if 2 * padding <= kernel:
            pool = POOLING[kind](kernel, (stride, 2), padding, ceil_mode=ceil)
            same(chain(pool=pool), *((1, n, n + 1) for n in range(kernel, 12)))


@pytest.mark.parametrize("count", [True, False])
def test_no_window_is_left_to_onnx_that_versions_count_differently(count):
    """With ``ceil_mode`` onnxruntime 1.16 keeps windows that start behind the last pixel."""
    risky = [nn.MaxPool2d(2, 3, ceil_mode=True), nn.MaxPool2d(2, 2, 1, ceil_mode=True)]
    risky += [nn.AvgPool2d(2, 2, 1, True, count)]
    for layer in risky:
        node = nodes_of(chain(pool=layer))["pool"]
        assert node.settings["ceil_mode"] is False
        assert not node.settings.get("count_include_pad")
    node = nodes_of(chain(pool=nn.MaxPool2d(3, 2, 1, ceil_mode=True)))["pool"]
    assert (node.settings["ceil_mode"], node.settings["pads"]) == (True, (1, 1, 1, 1))


@pytest.mark.oracle
def test_a_file_is_compared_with_the_net(runtime, tmp_path):
    net, path = net_of("fcn8s", "vgg16", padding=80), tmp_path / "net.onnx"
    graph = write_onnx(net, path)
    assert 0 < check_with_onnxruntime(net, graph, path) < 1e-5
    new = models.fcn8s(4, "small", **NARROW["small"])  # all scores are zero
    assert check_with_onnxruntime(new, write_onnx(new, path), path) == 0
    write_onnx(net, path)
    net.upscore8.weight.data[...] *= 1.001
    with pytest.raises(WeightsError, match=r"gives other scores: they differ by 1\.0e-03 of"):
        check_with_onnxruntime(net, graph, path)
    path.write_text("damaged")
    with pytest.raises(WeightsError, match=r"net.onnx: was written, but onnxruntime fails"):
        check_with_onnxruntime(net, graph, path)


# The command


@pytest.fixture
def run(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return (caught.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.safetensors"
    weights.save(net_of("fcn8s"), path, **FACTS)
    return path


def test_the_command_writes_onnx(run, runtime, file, tmp_path):
    out = tmp_path / "net.onnx"
    code, text, err = run("export", file, out, "--size", "50x70")
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0].startswith(f"{file}: fcn8s(num_classes=4, backbone=small, ")
    assert re.fullmatch(re.escape(str(out)) + r": 0\.0 MB; ONNX, opset 15", lines[1])
    assert lines[2].startswith("  input   image (N, 3, 50, 70): (pixel * 1.0 - mean) / std, ")
    assert lines[3] == "  output  score (N, 4, 50, 70)"
    assert re.fullmatch(r"  checked with onnxruntime: scores as here, to \de-0[678]", lines[4])
    session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["origin"] == "Bäume"
    code, text, err = run("export", file, out)
    assert (code, text) == (2, "")
    assert (
        err
        == f"minifcn: error: {out} exists: choose another name, or replace it with --overwrite\n"
    )
    assert "score (N, 4, height, width)" in run("export", file, out, "--overwrite")[1]


def test_the_command_says_when_nothing_was_checked(run, onnx, file, tmp_path, monkeypatch):
    _, text, _ = run("export", file, tmp_path / "net.onnx", "--no-check")
    assert text.endswith("height, width)\n  not checked\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _, text, _ = run("export", file, tmp_path / "net.onnx", "--overwrite")
    assert text.endswith("  not checked: onnxruntime is not installed (pip install onnxruntime)\n")


def test_the_command_writes_archives_and_nets_for_caffe(run, file, tmp_path):
    _, text, _ = run("export", file, tmp_path / "net.npz", "--style", "chainer")
    assert "25 arrays: conv1_1/W, conv1_1/b, ..." in text
    assert "the names of the classes: background, circle, square, triangle" in text
    code, text, err = run("export", file, tmp_path / "net.PROTOTXT", "--size", "70")
    assert (code, err) == (0, "")
    assert f"{tmp_path}/net.prototxt and {tmp_path}/net.caffemodel: 0.0 MB; Caffe" in text
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"net.safetensors", "net.npz", "net.prototxt", "net.caffemodel"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["net.pth"], "must be one of .onnx, .npz, .caffemodel, .prototxt"),
        (["net.npz", "--size", "50"], "--size 50: net.npz holds arrays alone"),
        (["net.onnx", "--style", "chainer"], "--style chainer: is for .npz files only"),
        (["net.onnx", "--size", "50x"], "--size 50x: it must be a number of pixels"),
        (["nowhere/net.onnx"], "nowhere does not exist: make it first"),
    ],
)
def test_arguments_that_do_not_fit_are_one_message(run, file, arguments, words):
    code, text, err = run("export", file, *arguments)
    assert (code, text) == (2, "")
    assert err.startswith("minifcn: error: ")
    assert words in err
