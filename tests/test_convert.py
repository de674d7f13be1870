"""Weights of other programs: the same numbers, the right net, the right preprocessing."""

import hashlib
import mmap
from pathlib import Path

import numpy as np
import pytest

from minifcn import Tensor, cli, data, models, nn, weights
from minifcn.autograd import no_grad
from minifcn.weights import WeightsError, convert
from minifcn.weights.pieces import release
from minifcn.weights.readers.mapped import MappedFile
from minifcn.weights.recognise import SOURCES
from tests.narrow_nets import net_of
from tests.published_files import (
    caffe_file,
    caffe_hdf5_file,
    chainer_file,
    keras_file,
    torch_file,
    torchvision_vgg16,
    vgg16,
)

AT_ONCE = {"pool4": np.full(64, 0.01, "f4"), "pool3": np.full(32, 0.0001, "f4")}


def bilinear(net):
    """Let the upsampling of a shaken net be what it was."""
    for name, parameter in net.named_parameters():
        if "upscore" in name:
            nn.init.bilinear_(parameter)
    return net


def fcn(name="fcn32s", backbone="vgg16", num_classes=21, **options):
    return bilinear(net_of(name, backbone, num_classes, **options))


def same(found, expected):
    """Tell whether two nets have the same parameters, to the bit."""
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    return True


def scores(net, x):
    with nn.evaluation_mode(net):
        return net(Tensor(x)).data


def images(*shape, scale=50.0):
    return np.random.default_rng(1).normal(0, scale, shape).astype(np.float32)


def refused(path, *args, **options):
    with pytest.raises(WeightsError) as caught:
        convert(path, *args, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


# ---- FCNs, by every way --------------------------------------------------------------------------


def unscaled(path, net):
    """A .caffemodel; the net that is trained at once has its Scale layers."""
    caffe_file(path, net, AT_ONCE if net.config["at_once"] else None)


def old_caffe(path, net):
    caffe_file(path, net, AT_ONCE if net.config["at_once"] else None, legacy=True)


def doubles(path, net):
    caffe_file(path, net, AT_ONCE if net.config["at_once"] else None, double=True)


def hdf5(path, net):
    pytest.importorskip("h5py")
    caffe_hdf5_file(path, net)


def plain_torch(path, net):
    pytest.importorskip("torch")
    torch_file(path, net.state_dict())


def wrapped_torch(path, net):
    pytest.importorskip("torch")
    torch_file(path, net.state_dict(), wrapped=True)


def old_torch(path, net):
    pytest.importorskip("torch")
    torch_file(path, net.state_dict(), legacy=True)


WAYS = [
    *(unscaled, old_caffe, doubles, hdf5, chainer_file),
    *(
        pytest.param(way, marks=pytest.mark.oracle)
        for way in (plain_torch, wrapped_torch, old_torch)
    ),
]
NETS = {
    "fcn32s": ("fcn32s", "vgg16", {}),
    "fcn16s": ("fcn16s", "vgg16", {}),
    "fcn8s": ("fcn8s", "vgg16", {}),
    "fcn8s-atonce": ("fcn8s", "vgg16", {"at_once": True}),
    "fcn-alexnet": ("fcn32s", "caffenet", {}),
}


@pytest.mark.parametrize("model", NETS)
@pytest.mark.parametrize("write", WAYS)
def test_fcns_come_back_to_the_bit(tmp_path, write, model):
    name, backbone, options = NETS[model]
    net, path = fcn(name, backbone, **options), tmp_path / "net.npz"
    write(path, net)
    found = convert(path, model)
    assert same(found.net, net)
    assert found.net.config == net.config
    assert found.preprocessing == data.CAFFE
    assert found.class_names == data.VOC_CLASSES
    np.testing.assert_array_equal(found.palette, data.voc_palette(21))
    counts = found.report.counts()
    parameters = len(net.state_dict())
    assert counts["copied"] + counts.get("reshaped", 0) == parameters
    x = images(1, 3, 40, 50)
    np.testing.assert_array_equal(scores(found.net, x), scores(net, x))


@pytest.mark.parametrize("model", NETS)
def test_a_caffe_file_tells_its_net(tmp_path, model):
    name, backbone, options = NETS[model]
    net, path = fcn(name, backbone, **options), tmp_path / "a"
    unscaled(path, net)
    found = convert(path)
    assert found.net.config == net.config
    checked = [line.detail for line in found.report.lines if line.what == "checked"]
    expected = ["all 0.01, as in the net", "all 0.0001, as in the net"]
    assert checked == (expected if options else [])


def test_two_heads_and_sift_flows_mean(tmp_path):
    net = bilinear(net_of("fcn16s", "vgg16", num_classes={"sem": 33, "geo": 3}))
    caffe_file(tmp_path / "a", net)
    found = convert(tmp_path / "a")
    assert same(found.net, net)
    assert found.net.config["num_classes"] == {"sem": 33, "geo": 3}
    assert found.preprocessing == data.SIFTFLOW
    assert found.class_names[:2] + found.class_names[-1:] == ("sem 0", "sem 1", "geo 2")


def test_fcns_on_googlenet_and_torchvisions_alexnet(tmp_path):
    for backbone in ("googlenet", "googlenet_torchvision", "alexnet_torchvision"):
        net = fcn("fcn8s", backbone)
        caffe_file(tmp_path / "a", net)
        found = convert(tmp_path / "a")
        assert same(found.net, net)
        assert found.net.config == net.config


# ---- classifiers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("vgg16", data.CAFFE_VGG),
        ("alexnet", data.CAFFE),
        ("caffenet", data.CAFFE),
        ("googlenet", data.CAFFE_GOOGLENET),
    ],
)
def test_caffes_classifiers(tmp_path, model, rule, legacy):
    net = net_of(model, num_classes=7, image_size=99)
    published = {"alexnet": "AlexNet", "caffenet": "CaffeNet"}.get(model, "published")
    caffe_file(tmp_path / "a", net, legacy=legacy, name=published)
    found = convert(tmp_path / "a", image_size=99)
    assert same(found.net, net)
    assert found.net.config == net.config
    assert found.preprocessing == rule
    assert found.class_names == tuple(f"class {i}" for i in range(7))


def test_googlenets_heads_are_taken_or_left(tmp_path):
    net = net_of("googlenet", image_size=99, auxiliary=True)
    caffe_file(tmp_path / "a", net)
    found = convert(tmp_path / "a", image_size=99)
    heads = [name for name in net.state_dict() if name.startswith(("loss1", "loss2"))]
    assert len(found.report.names("dropped")) == len(heads) == 12
    assert same(convert(tmp_path / "a", image_size=99, auxiliary=True).net, net)


@pytest.mark.parametrize("kind", ["keras 1", "keras 2", "keras 3"])
def test_kerass_vgg16(tmp_path, kind):
    pytest.importorskip("h5py")
    net = vgg16()
    keras_file(tmp_path / "a", net, side=2, kind=kind)
    found = convert(tmp_path / "a", image_size=64)
    assert same(found.net, net)
    assert found.preprocessing == data.CAFFE_VGG
    # and as a trunk: the same fully connected layer, in convolutions
    trunk = convert(tmp_path / "a", "fcn32s", classes=4).net
    x = images(1, 3, 64, 64)
    layers = models.convolutionalize(net)
    np.testing.assert_array_equal(trunk.fc6.weight.data, layers.fc6.weight.data)
    assert layers(Tensor(x)).shape == (1, 10, 1, 1)


@pytest.mark.oracle
def test_torchvisions_names_need_a_source(tmp_path):
    pytest.importorskip("torch")
    net = vgg16()
    torch_file(tmp_path / "a.pth", torchvision_vgg16(net.state_dict()))
    message = refused(tmp_path / "a.pth", image_size=64)
    assert "torchvision's own (RGB" in message
    assert "vgg16_from_caffe.pth (BGR" in message
    assert "source torchvision or wkentaro" in message
    for source, rule in (("torchvision", data.TORCHVISION), ("wkentaro", data.CAFFE)):
        found = convert(tmp_path / "a.pth", source=source, image_size=64)
        assert same(found.net, net)
        assert found.preprocessing == rule


def test_a_classifier_becomes_a_trunk(tmp_path):
    net = vgg16()
    caffe_file(tmp_path / "a", net, legacy=True)
    assert "has no scores for fcn8s: say how many classes" in refused(tmp_path / "a", "fcn8s")
    found = convert(tmp_path / "a", "fcn8s", classes=5)
    assert found.net.config["fc6_kernel"] == 2
    assert found.report.names("dropped") == ["fc8/0", "fc8/1"]
    new = ["score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8"]
    assert {name.partition(".")[0] for name in found.report.names("new")} == set(new)
    for name, parameter in net.named_parameters():
        if not name.startswith("fc8"):
            ours = found.net.state_dict()[name]
            np.testing.assert_array_equal(ours.reshape(parameter.shape), parameter.data)
    assert not found.net.score_fr.weight.data.any()
    assert found.class_names == tuple(f"class {i}" for i in range(5))
    expected = models.fcn8s(5, "small").upscore8.weight.data
    np.testing.assert_array_equal(found.net.upscore8.weight.data, expected)


def test_new_classes(tmp_path):
    net = fcn("fcn16s")
    caffe_file(tmp_path / "a", net)
    found = convert(tmp_path / "a", classes=4)
    assert found.net.num_classes == 4
    assert not found.net.score_pool4.weight.data.any()
    assert found.net.upscore16.weight.shape == (4, 4, 32, 32)
    np.testing.assert_array_equal(found.net.fc7.weight.data, net.fc7.weight.data)
    assert set(found.report.names("dropped")) >= {"score_fr/0", "upscore16/0"}
    assert convert(tmp_path / "a", classes=21).class_names[1] == "class 1"  # not the file's
    classifier = net_of("vgg16", image_size=99)
    caffe_file(tmp_path / "b", classifier)
    found = convert(tmp_path / "b", image_size=99, classes=6)
    assert found.net.fc8.weight.shape[0] == 6
    assert not found.net.fc8.weight.data.any()


# ---- what names cannot tell ----------------------------------------------------------------------


def test_fcn8s_or_at_once(tmp_path):
    chainer_file(tmp_path / "a.npz", fcn("fcn8s"))
    assert "say which (model fcn8s or fcn8s-atonce)" in refused(tmp_path / "a.npz")


def test_alexnet_or_caffenet(tmp_path):
    caffe_file(tmp_path / "a", net_of("caffenet"))
    assert "say which (model alexnet or caffenet)" in refused(tmp_path / "a", image_size=99)


def test_forty_classes_may_be_nyuds(tmp_path):
    caffe_file(tmp_path / "a", fcn(num_classes=40))
    assert "source nyud, nyud-hha, or caffe" in refused(tmp_path / "a")
    assert convert(tmp_path / "a", source="nyud").preprocessing == data.NYUD


def test_a_net_that_minifcn_wrote_for_caffe(tmp_path):
    from minifcn.weights.writers.caffe import write_caffe

    net = fcn("fcn8s", at_once=True)
    write_caffe(net, tmp_path / "net", size=100)
    assert "a net as minifcn writes it" in refused(tmp_path / "net.caffemodel")
    found = convert(tmp_path / "net.caffemodel", source="unit")
    assert same(found.net, net)
    assert found.net.config["at_once"] is True
    assert found.preprocessing == data.UNIT


def test_plain_arrays(tmp_path):
    net = fcn()
    np.savez(tmp_path / "a.npz", **net.state_dict())
    assert "where they are from (source, one of caffe, " in refused(tmp_path / "a.npz")
    assert same(convert(tmp_path / "a.npz", source="landcover").net, net)


def test_what_is_unknown_is_refused_with_the_choices(tmp_path):
    chainer_file(tmp_path / "a.npz", fcn())
    path = tmp_path / "a.npz"
    assert "source 'caffee' is unknown: use one of caffe, " in refused(path, source="caffee")
    message = refused(path, "resnet")
    assert "the model 'resnet' is unknown: use one of fcn32s" in message
    assert "fcn8s-atonce" in message
    assert "late_fusion" not in message
    assert "no net fcn32s(" in refused(path, depth=3)
    np.savez(tmp_path / "b.npz", **{"layer1/W": np.zeros((2, 2), "f4")})
    assert "its names (layer1.weight) do not tell a net" in refused(tmp_path / "b.npz")
    assert "do not tell the net that it was made from" in refused(tmp_path / "b.npz", "fcn8s")
    assert refused(tmp_path / "none").endswith("no such file")


# ---- all or an error -----------------------------------------------------------------------------


def changed(path, **changes):
    """Write FCN-32s for Chainer, with other arrays (None: without)."""
    chainer_file(path, fcn())
    arrays = dict(np.load(path)) | {name.replace("__", "/"): a for name, a in changes.items()}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_every_array_and_every_parameter_counts(tmp_path):
    path = changed(
        tmp_path / "a.npz", fc7__W=None, extra__W=np.zeros((2, 3)), fc6__gamma=np.ones(4)
    )
    message = refused(path)
    assert "nothing for fc7.weight (512, 512, 1, 1)" in message
    assert "no use for extra/W" in message
    assert "no use for fc6/gamma" in message
    assert "--no-strict" in message
    found = convert(path, strict=False)
    assert found.report.names("dropped") == ["extra/W", "fc6/gamma"]
    assert found.report.names("new") == ["fc7.weight"]
    assert found.net.fc7.weight.data.std() > 0.01  # a random start, no zeros
    assert same(convert(path, strict=False).net, found.net)  # always the same


def test_shapes_and_types_that_do_not_fit_are_never_left_out(tmp_path):
    path = changed(
        tmp_path / "a.npz",
        conv2_1__W=np.zeros((16, 8, 5, 5), "f4"),
        fc7__b=np.zeros(512, np.int64),
    )
    for strict in (True, False):
        message = refused(path, strict=strict)
        assert "conv2_1/W (16, 8, 5, 5) does not fit conv2_1.weight (16, 8, 3, 3)" in message
        assert "fc7/b holds int64 numbers" in message
        assert "--no-strict" not in message


def test_a_long_list_is_cut(tmp_path):
    np.savez(tmp_path / "a.npz", **{f"more{i}/W": np.zeros(2, "f4") for i in range(50)})
    message = refused(tmp_path / "a.npz", "vgg16", classes=3, source="caffe")
    assert message.count("\n") < 25
    assert "more" in message.splitlines()[-3]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("write", WAYS)
def test_numbers_that_are_not_finite(tmp_path, write, value):
    net = fcn()
    net.conv3_2.weight.data[5, 1, 0, 2] = value
    write(tmp_path / "a.npz", net)
    message = refused(tmp_path / "a.npz")
    assert "conv3_2" in message
    assert f"holds numbers that are not finite ({value} at (5, 1, 0, 2))" in message


# ---- scores and upsampling -----------------------------------------------------------------------


def test_scales_of_their_own_are_built_into_the_scores(tmp_path, rng):
    net = fcn("fcn8s")
    scales = {"pool4": rng.uniform(0.5, 2, 64), "pool3": rng.uniform(0.5, 2, 32)}
    caffe_file(tmp_path / "a", net, {tap: values.astype("f4") for tap, values in scales.items()})
    found = convert(tmp_path / "a")
    assert found.net.config["at_once"] is False
    assert found.report.names("scaled") == ["score_pool4.weight", "score_pool3.weight"]
    assert "score_pool4/0 times scale_pool4/0" in str(found.report)
    for tap in ("pool4", "pool3"):
        layer = getattr(net, f"score_{tap}")
        layer.weight.data = layer.weight.data * scales[tap].astype("f4")[:, None, None]
    x = images(1, 3, 40, 50)
    expected = scores(net, x)
    np.testing.assert_allclose(scores(found.net, x), expected, atol=1e-5 * abs(expected).max())
    # Said to be trained at once, it is: then the factors are relative to 0.01 and 0.0001.
    at_once = convert(tmp_path / "a", "fcn8s-atonce").net
    assert at_once.config["at_once"] is True
    np.testing.assert_allclose(scores(at_once, x), expected, atol=1e-5 * abs(expected).max())


def test_upsampling_that_was_learned_is_kept_and_reported(tmp_path):
    net = fcn("fcn16s")
    net.upscore2.weight.data[0, 1, 2, 2] = 0.3
    caffe_file(tmp_path / "a", net)
    found = convert(tmp_path / "a")
    assert same(found.net, net)
    marked = [line.name for line in found.report.lines if "not bilinear" in line.detail]
    assert marked == ["upscore2.weight"]
    learned = convert(tmp_path / "a", learn_upsampling="intermediate").report
    assert "not bilinear" not in str(learned)


def test_upsampling_with_a_group_for_each_class(tmp_path):
    net = fcn()
    full = net.upscore.weight.data
    path = changed(tmp_path / "a.npz", upscore__W=full[np.arange(21), np.arange(21)][:, None])
    found = convert(path)
    np.testing.assert_array_equal(found.net.upscore.weight.data, full)
    assert "upscore/W, one group per class" in str(found.report)


# ---- folding -------------------------------------------------------------------------------------


def test_folding_is_exact_in_the_interior(tmp_path, rng):
    np.savez(tmp_path / "a.npz", **fcn("fcn32s", padding=1, fc6_padding=3).state_dict())
    options = {"source": "torchvision", "padding": 1, "fc6_padding": 3}
    plain = convert(tmp_path / "a.npz", **options)
    folded = convert(tmp_path / "a.npz", fold=True, **options)
    assert (plain.preprocessing, folded.preprocessing) == (data.TORCHVISION, data.CAFFE)
    assert folded.report.names("folded") == ["conv1_1.weight", "conv1_1.bias"]
    photo = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    results = []
    for found in (plain, folded):
        h = Tensor(found.preprocessing(photo)[None])
        with no_grad():
            for name in ("conv1_1", "relu1_1", "conv1_2", "relu1_2"):
                h = getattr(found.net, name)(h)
        results.append(h.data)
    a, b = results
    top = abs(a).max()
    assert abs(a - b)[..., 2:-2, 2:-2].max() < 1e-4 * top
    assert abs(a - b).max() > 1e-3 * top  # the padding is another colour now: zeros are the mean


def test_nothing_to_fold(tmp_path):
    chainer_file(tmp_path / "a.npz", fcn())
    assert "prepared as Caffe's already: nothing to fold" in refused(tmp_path / "a.npz", fold=True)


# ---- our own files -------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    net = net_of("fcn16s", num_classes=4)
    facts = {"palette": data.voc_palette(4), "preprocessing": data.UNIT, "origin": "a test"}
    weights.save(net, tmp_path / "own", classes=tuple("abcd"), source_sha256="0" * 64, **facts)
    return net, tmp_path / "own"


def test_our_own_file_with_other_classes(own):
    net, path = own
    found = convert(path, classes=9)
    assert found.net.config == {**net.config, "num_classes": 9}
    assert (found.preprocessing, found.origin) == (data.UNIT, "a test")
    assert found.source_sha256 == "0" * 64
    assert found.class_names[8] == "class 8"
    np.testing.assert_array_equal(found.net.fc6.weight.data, net.fc6.weight.data)
    assert not found.net.score_fr.weight.data.any()
    same_classes = convert(path)
    assert same(same_classes.net, net)
    assert same_classes.class_names == tuple("abcd")


def test_our_own_file_as_another_net(own, tmp_path):
    _, path = own
    assert "nothing for score_pool3.weight" in refused(path, "fcn8s")
    found = convert(path, "fcn8s", classes=3)
    assert found.net.config["model"] == "fcn8s"
    assert "cannot become vgg16" in refused(path, "vgg16")
    assert "leave out the source 'caffe'" in refused(path, source="caffe")
    facts = {"palette": data.voc_palette(10), "preprocessing": data.UNIT}
    weights.save(vgg16(), tmp_path / "vgg", classes=tuple("abcdefghij"), **facts)
    assert "which has no scores for fcn32s" in refused(tmp_path / "vgg", "fcn32s")
    trunk = convert(tmp_path / "vgg", "fcn32s", classes=3).net
    assert trunk.config["fc6_kernel"] == 2


def test_load_opens_all_files(own, tmp_path):
    net, path = own
    assert same(weights.load(path).model, net)
    assert weights.load(path, classes=2).model.num_classes == 2
    caffe_file(tmp_path / "a", fcn())
    loaded = weights.load(tmp_path / "a")
    assert loaded.preprocessing == data.CAFFE
    assert loaded.classes == data.VOC_CLASSES
    assert loaded.origin.startswith("a (Caffe), converted by minifcn ")
    assert type(weights.load_fcn(tmp_path / "a").model) is models.FCN
    caffe_file(tmp_path / "b", vgg16())
    with pytest.raises(WeightsError, match="a classifier: it names one class"):
        weights.load_fcn(tmp_path / "b", image_size=64)


def test_progress_ends_at_all_bytes(own, tmp_path):
    net, path = own
    size = sum(array.nbytes for array in net.state_dict().values())
    seen = []

    def progress(done, total):
        seen.append((done, total))

    for work in (
        lambda: weights.load(path, progress=progress),
        lambda: convert(path, progress=progress),
        lambda: weights.save(
            net,
            tmp_path / "again",
            classes=tuple("abcd"),
            palette=data.voc_palette(4),
            preprocessing=data.UNIT,
            progress=progress,
        ),
    ):
        seen.clear()
        work()
        assert seen == sorted(seen)
        assert len(seen) >= len(net.state_dict())
        assert seen[-1] == (size, size)


def test_saving_and_loading_need_little_beside_the_net(tmp_path):
    """Pieces, not copies: fc6 alone would be three quarters of the file."""
    import tracemalloc

    net = net_of("vgg16", image_size=224, width=0.5)
    size = sum(array.nbytes for array in net.state_dict().values())
    facts = {"classes": tuple("abcd"), "palette": data.voc_palette(4), "preprocessing": data.UNIT}
    tracemalloc.start()
    try:
        weights.save(net, tmp_path / "a", **facts)
        assert tracemalloc.get_traced_memory()[1] < 0.2 * size
        tracemalloc.reset_peak()
        loaded = weights.load(tmp_path / "a").model
        assert tracemalloc.get_traced_memory()[1] < 1.2 * size
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = convert(tmp_path / "a").net
        assert tracemalloc.get_traced_memory()[1] - before < 1.2 * size
    finally:
        tracemalloc.stop()
    assert same(loaded, net)
    assert same(found, net)
    # In memory as layers want it, so that no convolution has to rearrange it.
    strides = [layer.conv2_1.weight.data.strides for layer in (net, loaded, found)]
    assert strides[0] == strides[1] == strides[2]


def test_safetensors_own_library_reads_what_is_written(own):
    from safetensors.numpy import load_file

    net, path = own
    arrays = load_file(path)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(arrays[name], array)


# ---- the command ---------------------------------------------------------------------------------


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return caught.value.code


def test_the_command(tmp_path, capsys):
    source, out = tmp_path / "fcn8s.caffemodel", tmp_path / "fcn8s.safetensors"
    caffe_file(source, fcn("fcn8s", at_once=True), AT_ONCE)
    assert run("convert", source, out) == 0
    shown = capsys.readouterr().out
    assert "scale_pool4/0: checked, all 0.01, as in the net" in shown
    assert "conv1_1" not in shown
    assert "fcn8s(num_classes=21, backbone=vgg16" in shown
    assert "images: BGR, (1 * pixel - (104.007, 116.669, 122.679)) / (1, 1, 1)" in shown
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    assert "from: fcn8s.caffemodel (Caffe), converted by minifcn" in shown
    assert checksum in shown
    header = weights.read_header(out)
    assert header.source_sha256 == checksum
    assert header.origin.startswith("fcn8s.caffemodel (Caffe)")
    assert header.preprocessing == data.CAFFE
    assert header.classes == data.VOC_CLASSES
    assert same(weights.load(out).model, convert(source).net)
    assert run("convert", out, tmp_path / "five", "--classes", "5", "--report") == 0
    shown = capsys.readouterr().out
    assert "conv1_1.weight" in shown
    assert "score_fr.bias" in shown
    assert weights.read_header(tmp_path / "five").config["num_classes"] == 5


def test_the_commands_errors(tmp_path, capsys):
    source, out = tmp_path / "a.npz", tmp_path / "out.safetensors"
    chainer_file(source, fcn("fcn8s"))
    assert run("convert", source, out) == 2
    assert "model fcn8s or fcn8s-atonce" in capsys.readouterr().err
    assert not out.exists()
    assert run("convert", source, tmp_path / "none" / "out", "--model", "fcn8s") == 2
    assert "does not exist: make it first" in capsys.readouterr().err
    assert run("convert", source, out, "--model", "fcn8s") == 0
    assert run("convert", source, out, "--model", "fcn8s") == 2
    assert "exists: choose another name, or replace it with --overwrite" in capsys.readouterr().err
    assert run("convert", source, out, "--model", "fcn8s", "--overwrite") == 0


def test_the_command_warns_of_random_layers(tmp_path, capsys):
    path = changed(tmp_path / "a.npz", fc7__W=None)
    assert run("convert", path, tmp_path / "out", "--no-strict") == 0
    shown = capsys.readouterr()
    assert "fc7.weight: new, (512, 512, 1, 1), random" in shown.out
    assert "warning: fc7.weight is random: train the net before you use it" in shown.err


def test_every_source_is_named_in_the_help(capsys):
    run("convert", "--help")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(source in shown for source in SOURCES)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells")
def test_what_was_read_of_a_mapped_file_is_given_back(tmp_path):
    """The pages of views of all kinds, strided ones included."""
    (tmp_path / "a").write_bytes(bytes(64 << 20))
    file = MappedFile(tmp_path / "a")
    array = file.array("<f4", (16 << 20,), 0, "all")
    views = (
        array,
        array.reshape(4096, -1).T,
        np.lib.stride_tricks.as_strided(array, (16 << 20,), (4,)),
    )
    for view in views:
        assert view.sum() == 0  # reads everything
        before = resident()
        release(view)
        assert before - resident() > 60e6
    assert views[2][1000] == 0


def resident():
    """Return the bytes of memory that this process holds."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * mmap.PAGESIZE
