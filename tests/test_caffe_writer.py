"""Nets written for Caffe: read back by minifcn and by OpenCV, which has a Caffe importer."""

import numpy as np
import pytest

from minifcn import Tensor, data, models, nn, no_grad
from minifcn.shapes import ShapeError
from minifcn.weights import WeightsError
from minifcn.weights.readers.caffe import read_caffemodel
from minifcn.weights.writers import caffe as caffe_module
from minifcn.weights.writers import facts
from minifcn.weights.writers.caffe import write_caffe
from minifcn.weights.writers.caffe_layers import caffe_layers, described
from tests.narrow_nets import FCNS, NARROW, net_of


def layers_of(net, size=(61, 87)):
    return {layer.name: layer for layer in caffe_layers(net, size)}


# The files


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("fcn8s", {"at_once": True}),
        ("fcn32s", {"backbone": "caffenet"}),
        ("fcn16s", {"backbone": "googlenet"}),
        ("vgg16", {}),
    ],
)
def test_all_parameters_come_back_bit_by_bit(tmp_path, model, options):
    net = net_of(model, **options)
    size = None if isinstance(net, models.Classifier) else 70
    _, file = write_caffe(net, tmp_path / "net", size=size)
    found = read_caffemodel(file)
    assert found.info["net"] == net.config["model"]
    left = dict(found.tensors)
    for name, array in net.state_dict().items():
        *path, kind = name.split(".")
        layer = "/".join(path)
        if net.config.get("backbone") == "googlenet" and layer.startswith("conv"):
            layer = layer.replace("_", "/", 1)
        blob = left.pop(f"{layer}/{['weight', 'bias'].index(kind)}")
        assert blob.dtype == array.dtype == np.float32
        np.testing.assert_array_equal(blob, array)
    scales = {name: (array.shape, *set(array.tolist())) for name, array in left.items()}
    expected = {
        "scale_pool4/0": ((8,), np.float32(0.01)),
        "scale_pool3/0": ((8,), np.float32(1e-4)),
    }
    assert scales == (expected if net.config.get("at_once") else {})


def test_a_file_is_the_message_that_protobuf_reads(tmp_path):
    pytest.importorskip("google.protobuf")
    from tests.caffe_proto import net_class

    net = net_of("fcn32s")
    _, file = write_caffe(net, tmp_path / "net", size=70)
    message = net_class().FromString(file.read_bytes())
    assert message.name == "fcn32s"
    conv = next(layer for layer in message.layer if layer.name == "conv1_1")
    assert (conv.type, list(conv.bottom), list(conv.top)) == ("Convolution", ["data"], ["conv1_1"])
    weight = conv.blobs[0]
    assert list(weight.shape.dim) == [4, 3, 4, 4]
    assert list(weight.data) == net.conv1_1.weight.data.ravel().tolist()


def test_the_description_says_what_caffe_has_no_words_for(tmp_path):
    facts = {"preprocessing": data.CAFFE, "classes": ["sky", "a\nb", "Bäume"]}
    description, _ = write_caffe(net_of("fcn32s"), tmp_path / "net", size=(70, 90), **facts)
    first, second, third, name = description.read_text("utf-8").splitlines()[:4]
    assert first.startswith("# fcn32s(num_classes=4, backbone=small, ")
    assert second == (
        "# input: (pixel * 1.0 - mean) / std, pixels from 0 to 255, BGR, "
        "mean (104.00699, 116.66877, 122.67892), std (1.0, 1.0, 1.0)"
    )
    assert third == '# classes: ["sky", "a\\nb", "Bäume"]'
    assert name == 'name: "fcn32s"'


def test_a_layer_is_described_in_the_text_format(tmp_path):
    description, _ = write_caffe(net_of("fcn32s"), tmp_path / "net", size=70)
    text = description.read_text("utf-8")
    assert (
        'layer {\n  name: "pool2"\n  type: "Pooling"\n  bottom: "conv2_1"\n  top: "pool2"\n'
        "  pooling_param {\n    pool: MAX\n    pad: 0\n    kernel_size: 2\n    stride: 2\n  }\n}\n"
    ) in text
    assert text.endswith("  crop_param {\n    axis: 2\n    offset: 16\n  }\n}\n")


@pytest.mark.parametrize("ending", ["", ".caffemodel", ".prototxt"])
def test_either_name_or_none_names_both_files(tmp_path, ending):
    found = write_caffe(net_of("fcn32s"), tmp_path / f"net.v2{ending}", size=70)
    assert found == (tmp_path / "net.v2.prototxt", tmp_path / "net.v2.caffemodel")
    assert set(tmp_path.iterdir()) == set(found)


# What is in them


def test_fcn8s_has_the_layers_of_the_released_net():
    layers = layers_of(net_of("fcn8s", "vgg16", at_once=True), (500, 500))
    assert layers["conv1_1"].settings["convolution_param"]["pad"] == 100
    after = list(layers).index("score_fr") + 1
    assert [(layer.name, layer.bottoms) for layer in layers.values()][after:] == [
        ("scale_pool4", ("pool4",)),
        ("upscore2", ("score_fr",)),
        ("score_pool4", ("scale_pool4",)),
        ("score_pool4c", ("score_pool4", "upscore2")),
        ("fuse_pool4", ("upscore2", "score_pool4c")),
        ("scale_pool3", ("pool3",)),
        ("upscore_pool4", ("fuse_pool4",)),
        ("score_pool3", ("scale_pool3",)),
        ("score_pool3c", ("score_pool3", "upscore_pool4")),
        ("fuse_pool3", ("upscore_pool4", "score_pool3c")),
        ("upscore8", ("fuse_pool3",)),
        ("score", ("upscore8", "data")),
    ]
    assert layers["drop7"].bottoms == (layers["drop7"].top,) == ("fc7",)  # in place


@pytest.mark.parametrize(
    ("model", "backbone", "offsets"),
    [
        ("fcn32s", "vgg16", {"score": 19}),
        ("fcn16s", "vgg16", {"score_pool4c": 5, "score": 27}),
        ("fcn8s", "vgg16", {"score_pool4c": 5, "score_pool3c": 9, "score": 31}),
        ("fcn32s", "caffenet", {"score": 18}),
    ],
)
def test_crops_have_the_released_nets_offsets(model, backbone, offsets):
    crops = {n: lay for n, lay in layers_of(net_of(model, backbone)).items() if lay.type == "Crop"}
    found = {name: layer.settings["crop_param"] for name, layer in crops.items()}
    assert found == {name: {"axis": 2, "offset": [offset]} for name, offset in offsets.items()}


def test_each_head_has_its_own_scores():
    layers = layers_of(net_of("fcn16s", "vgg16", num_classes={"sem": 5, "geo": 3}))
    assert layers["score_sem"].bottoms == ("upscore16_sem", "data")
    assert layers["score_pool4_geoc"].bottoms == ("score_pool4_geo", "upscore2_geo")
    assert layers["fuse_pool4_geo"].bottoms == ("upscore2_geo", "score_pool4_geoc")


def test_googlenet_has_its_slashes_again():
    net = net_of("googlenet")
    names = list(layers_of(net, (99, 99)))
    assert names[:5] == ["input", "conv1/7x7_s2", "conv1/relu_7x7", "pool1/3x3_s2", "pool1/norm1"]
    block = [name for name in names if name.startswith("inception_3a/")]
    assert block == [
        f"inception_3a/{part}"
        for part in (
            *("1x1", "relu_1x1", "3x3_reduce", "relu_3x3_reduce", "3x3", "relu_3x3"),
            *("5x5_reduce", "relu_5x5_reduce", "5x5", "relu_5x5", "pool", "pool_proj"),
            *("relu_pool_proj", "output"),
        )
    ]
    output = layers_of(net, (99, 99))["inception_3a/output"]
    assert output.type == "Concat"
    assert output.bottoms == tuple(f"inception_3a/{n}" for n in ("1x1", "3x3", "5x5", "pool_proj"))
    assert names[-4:] == ["pool5/7x7_s1", "pool5/drop", "flatten", "loss3/classifier"]


def test_settings_of_both_axes_are_told_apart():
    kind, settings = described(
        "c", nn.Conv2d(3, 4, (3, 5), (1, 2), (0, 1), bias=False), (1, 3, 9, 9)
    )
    assert (kind, settings["convolution_param"]) == (
        "Convolution",
        {
            **{"num_output": 4, "bias_term": False, "pad_h": 0, "pad_w": 1},
            **{"kernel_h": 3, "kernel_w": 5, "stride_h": 1, "stride_w": 2},
        },
    )
    _, settings = described("c", nn.Conv2d(4, 4, 3, dilation=(2, 3), groups=2), (1, 4, 9, 9))
    assert settings["convolution_param"]["dilation"] == [2, 3]
    assert settings["convolution_param"]["group"] == 2


def test_other_settings_are_written_as_they_are():
    norm = nn.LocalResponseNorm(3, alpha=0.1, beta=0.5, k=2.0)
    constants = {"local_size": 3, "alpha": 0.1, "beta": 0.5, "k": 2.0}
    assert described("n", norm, (1, 4, 9, 9)) == ("LRN", {"lrn_param": constants})
    dropout = {"dropout_param": {"dropout_ratio": 0.3}}
    assert described("d", nn.Dropout(0.3), (1, 4, 9, 9)) == ("Dropout", dropout)
    _, settings = described("p", nn.AvgPool2d(3, stride=1), (1, 4, 9, 9))
    assert settings["pooling_param"] == {"pool": "AVE", "pad": 0, "kernel_size": 3, "stride": 1}


def test_the_larger_scores_are_cropped():
    """In a net with little padding it is the upsampled ones."""
    layers = layers_of(net_of("fcn8s"), (50, 70))
    assert layers["upscore2c"].bottoms == ("upscore2", "score_pool4")
    assert layers["fuse_pool4"].bottoms == ("upscore2c", "score_pool4")


def test_what_others_read_is_not_overwritten():
    class Two(nn.Branches):
        def __init__(self):
            self.relu, self.conv = nn.ReLU(), nn.Conv2d(4, 4, 1)

        def chains(self):
            return {"relu": self.relu}, {"conv": self.conv}

    net = models.Classifier({"conv1": nn.Conv2d(3, 4, 3), "two": Two()}, "odd", 8, 9)
    layers = {layer.name: (layer.bottoms, layer.top) for layer in caffe_layers(net, (9, 9))}
    assert layers["two/relu"] == (("conv1",), "two/relu")
    assert layers["two/output"] == (("two/relu", "two/conv"), "two/output")


# What Caffe cannot do


def refused(tmp_path, net, *words, **options):
    with pytest.raises(WeightsError) as caught:
        write_caffe(net, tmp_path / "net", **options)
    for word in words:
        assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_pooling_that_rounds_down_is_refused_where_it_differs(tmp_path):
    net = net_of("fcn32s", "vgg16")
    net.pool3.ceil_mode = False
    refused(tmp_path, net, "pool3, MaxPool2d(kernel 2", "makes 71 of 143 rows", "to 72", size=374)
    write_caffe(net, tmp_path / "net", size=376)


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (2, 3, 1), (1, 2, 0)]
)
def test_pooling_is_refused_just_where_caffe_makes_another_number(size, kernel, stride, padding):
    """Beside Caffe's way: it drops windows that start behind the image only if there is padding."""
    layer = nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)
    if size + 2 * padding < kernel:
        return
    windows = -(-(size + 2 * padding - kernel) // stride) + 1
    while padding and (windows - 1) * stride >= size + padding:
        windows -= 1
    ours = layer(np.zeros((1, 1, size, size), np.float32)).shape[2]
    if windows == ours:
        described("pool", layer, (1, 1, size, size))
    else:
        with pytest.raises(
            WeightsError, match=f"pool, .*: makes {ours} of {size} .* to {windows}:"
        ):
            described("pool", layer, (1, 1, size, size))


IMPOSSIBLE = {
    "Caffe's Deconvolution has no output_padding": nn.ConvTranspose2d(3, 3, 4, 2, 0, 1),
    "Caffe's Pooling has no dilation": nn.MaxPool2d(1, 1, 0, 2, ceil_mode=True),
    "count the padding": nn.AvgPool2d(3, 1, 1, ceil_mode=True, count_include_pad=False),
    "Caffe's LRN needs an odd size": nn.LocalResponseNorm(4),
    "Caffe has no such layer": nn.Sequential(nn.ReLU()),
}


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_a_layer_that_caffe_does_not_have_is_named(words):
    with pytest.raises(WeightsError, match=words) as caught:
        described("odd", IMPOSSIBLE[words], (1, 3, 9, 9))
    assert str(caught.value).startswith("odd, ")


def test_scores_that_would_both_be_cropped_are_refused(tmp_path):
    net = net_of("fcn8s", "vgg16", padding=40, fc6_kernel=3)
    words = (
        "fuse_pool3: of upscore_pool4 (18 x 18) and score_pool3 (18 x 18), each would be cropped"
    )
    refused(tmp_path, net, words, size=60)
    write_caffe(net, tmp_path / "net", size=3)


def test_other_nets_and_other_numbers_are_refused(tmp_path):
    one = {"model": "fcn32s", "num_classes": 3, "backbone": "small", **NARROW["small"]}
    refused(tmp_path, models.late_fusion({"a": one, "b": one}), "a LateFusion: only FCNs and")
    refused(tmp_path, net_of("fcn32s").to(np.float64), "parameters of float64: convert")


def test_images_of_a_size_that_does_not_fit_are_refused(tmp_path):
    with pytest.raises(ShapeError, match="fully connected layer takes images of one size"):
        write_caffe(net_of("vgg16"), tmp_path / "net", size=64)
    with pytest.raises(ShapeError, match=r"an image of 64 x 100 pixels .* there are scores for 63"):
        write_caffe(net_of("fcn32s", "caffenet", padding=82), tmp_path / "net", size=(64, 100))
    with pytest.raises(ShapeError, match="size=0 must be"):
        write_caffe(net_of("fcn32s"), tmp_path / "net", size=0)
    assert list(tmp_path.iterdir()) == []


def test_a_message_too_large_for_protobuf_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "LARGEST", 10_000)
    refused(
        tmp_path, net_of("fcn32s"), "bytes, but no program reads such a file above 10000", size=70
    )


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="nowhere does not exist: make it first"):
        write_caffe(net_of("fcn32s"), tmp_path / "nowhere" / "net", size=70)

    def full(*_):
        raise OSError(28, "no space left")

    monkeypatch.setattr(caffe_module, "_description", full)
    (tmp_path / "net.caffemodel").write_bytes(b"before")
    with pytest.raises(WeightsError, match=r"net: cannot be written: no space .* make room"):
        write_caffe(net_of("fcn32s"), tmp_path / "net", size=70)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


# Another program's numbers


@pytest.fixture(scope="module")
def cv2():
    return pytest.importorskip("cv2")


@pytest.mark.oracle
@pytest.mark.parametrize("case", FCNS)
@pytest.mark.parametrize("size", [(61, 87), (50, 33)])
def test_opencv_computes_our_scores_of_an_fcn(cv2, tmp_path, rng, case, size):
    model, backbone, options = FCNS[case]
    net = net_of(model, backbone, **options)
    paths = write_caffe(net, tmp_path / "net", size=size)
    image = rng.normal(0, 30, (1, 3, *size)).astype(np.float32)
    with no_grad():
        ours = net(Tensor(image))
    theirs = cv2.dnn.readNetFromCaffe(*map(str, paths))
    theirs.setInput(image)
    for head, scores in ours.items() if isinstance(ours, dict) else [("", ours)]:
        found = theirs.forward(f"score_{head}" if head else "score")
        assert found.shape == scores.shape
        assert abs(found - scores.data).max() < 1e-4 * abs(scores.data).max()


@pytest.mark.oracle
@pytest.mark.parametrize("image_size", [64, 99])
@pytest.mark.parametrize("model", models.CLASSIFIERS)
def test_opencv_computes_our_scores_of_a_classifier(cv2, tmp_path, rng, model, image_size):
    net = net_of(model, num_classes=7, image_size=image_size + 3)
    paths = write_caffe(net, tmp_path / "net")
    image = rng.normal(0, 30, (1, 3, image_size + 3, image_size + 3)).astype(np.float32)
    with no_grad():
        ours = net(Tensor(image)).data
    theirs = cv2.dnn.readNetFromCaffe(*map(str, paths))
    theirs.setInput(image)
    assert abs(theirs.forward() - ours).max() < 1e-4 * abs(ours).max()
