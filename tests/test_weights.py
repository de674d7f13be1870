"""minifcn's own weight files: written whole, read back exactly, and refused with a clear reason."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from minifcn import Tensor, data, models, nn, weights

CLASSES = ("background", "circle", "square", "triangle")
FACTS = {
    "classes": CLASSES,
    "palette": data.voc_palette(4),
    "preprocessing": data.CAFFE,
    "origin": "a test",
}


def tiny(name="fcn8s", seed=0, **options):
    rng = np.random.default_rng(seed)
    options = {"num_classes": 4, "backbone": "small", "widths": (4, 4, 8, 8, 8), **options}
    net = models.build(name, rng=rng, **options)
    for parameter in net.parameters():  # score layers start at zero: make all files differ
        parameter.data[...] += rng.normal(scale=0.01, size=parameter.shape)
    return net


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "net.safetensors"
    weights.save(tiny(), file, **FACTS)
    return file


def rewrite(path, change=None, **metadata):
    """Write a weight file again, with other header entries (None: without) and tensors."""
    tensors = load_file(path)
    with safe_open(path, framework="np") as file:
        texts = file.metadata() | metadata
    if change:
        change(tensors)
    save_file(tensors, path, {name: text for name, text in texts.items() if text is not None})


def refused(path, read=weights.load):
    with pytest.raises(weights.WeightsError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_a_net_comes_back_with_its_facts(tmp_path, name):
    net = tiny(name, at_once=name == "fcn8s")
    weights.save(net, tmp_path / "a", **FACTS)
    loaded = weights.load(tmp_path / "a")
    assert loaded.model.config == net.config
    assert loaded.classes == CLASSES
    assert loaded.palette.dtype == np.uint8
    np.testing.assert_array_equal(loaded.palette, FACTS["palette"])
    assert (loaded.preprocessing, loaded.origin) == (data.CAFFE, "a test")
    state = loaded.model.state_dict()
    assert list(state) == list(net.state_dict())
    for parameter, array in net.state_dict().items():
        np.testing.assert_array_equal(state[parameter], array)
    x = Tensor(np.random.default_rng(1).normal(size=(1, 3, 20, 30)).astype(np.float32))
    np.testing.assert_array_equal(loaded.model.eval()(x).data, net.eval()(x).data)


def test_a_loaded_net_can_be_trained(path):
    net = weights.load(path).model
    net(Tensor(np.ones((1, 3, 20, 30), np.float32))).sum().backward()
    assert net.conv1_1.weight.grad is not None
    net.conv1_1.weight.data -= 1  # the arrays belong to the net and are writable


def test_which_parameters_are_frozen_follows_from_the_config(tmp_path):
    weights.save(tiny(learn_upsampling="intermediate"), tmp_path / "a", **FACTS)
    net = weights.load(tmp_path / "a").model
    assert net.upscore2.weight.requires_grad
    assert not net.upscore8.weight.requires_grad


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_element_type_is_kept(tmp_path, dtype):
    net = tiny().to(dtype)
    weights.save(net, tmp_path / "a", **FACTS)
    again = weights.load(tmp_path / "a").model
    assert {p.dtype for p in again.parameters()} == {np.dtype(dtype)}
    np.testing.assert_array_equal(again.fc6.weight.data, net.fc6.weight.data)


def test_an_array_in_another_order_is_stored_by_its_meaning(tmp_path):
    net = tiny()
    net.fc6.weight.data = np.asfortranarray(net.fc6.weight.data)
    weights.save(net, tmp_path / "a", **FACTS)
    again = weights.load(tmp_path / "a").model
    np.testing.assert_array_equal(again.fc6.weight.data, net.fc6.weight.data)


def test_names_need_not_be_ascii(tmp_path):
    names = ("Straße", "Gewässer", "森林", "été")
    weights.save(tiny(), tmp_path / "a", **FACTS | {"classes": names})
    assert weights.load(tmp_path / "a").classes == names


def test_header_without_the_tensors(path):
    header = weights.read_header(path)
    assert header.config == tiny().config
    assert header.shapes == {name: array.shape for name, array in tiny().state_dict().items()}
    assert (header.dtype, header.classes, header.origin) == ("float32", CLASSES, "a test")


def test_the_images_that_it_was_trained_on(path):
    assert weights.load(path).trained_on == weights.read_header(path).trained_on == frozenset()
    numbers = {0, 7, 2**64 - 1}
    weights.save(tiny(), path, **FACTS, trained_on=numbers)
    assert weights.load(path).trained_on == weights.read_header(path).trained_on == numbers
    # Other classes, the same images:
    assert weights.load(path, classes=5).trained_on == numbers


def test_the_classes_of_each_head(path):
    for read in (weights.load, weights.read_header):
        assert list(read(path).heads) == [""]
        assert read(path).heads[""].classes == CLASSES
    model, facts = tiny(num_classes={"kind": 3, "any": 2}), {**FACTS, "classes": "abcde"}
    weights.save(model, path, **facts | {"palette": data.voc_palette(5)})
    for read in (weights.load, weights.read_header):
        heads = read(path).heads
        assert {name: head.classes for name, head in heads.items()} == {
            "kind": ("a", "b", "c"),
            "any": ("d", "e"),
        }
        np.testing.assert_array_equal(heads["any"].palette, data.voc_palette(5)[3:])


def test_a_net_of_two_streams_comes_back(path):
    streams = {"color": 3, "depth": 1}
    options = {"backbone": "small", "widths": (4, 4, 8, 8, 8)}
    net = models.for_data("fcn16s", {"": 4}, streams, **options)
    rule = data.Preprocessing("RGB", 1.0, (1, 2, 3, 4), (1, 1, 1, 1))
    weights.save(net, path, **FACTS | {"preprocessing": rule})
    again = weights.load(path)
    assert (again.model.config, again.model.streams) == (net.config, streams)
    assert again.heads[""].classes == CLASSES
    x = Tensor(np.random.default_rng(1).normal(size=(1, 4, 20, 30)).astype(np.float32))
    np.testing.assert_array_equal(again.model.eval()(x).data, net.eval()(x).data)


def test_everyone_may_read_a_new_file(path):
    (path.parent / "other").touch()
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


# Writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def full(array):
        yield np.zeros(3)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights.writing, "in_order", full)
    with pytest.raises(weights.WeightsError, match=r"cannot be written: .*No space left"):
        weights.save(tiny(seed=1), path, **FACTS)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(path, monkeypatch):
    def interrupted(array):
        yield np.zeros(3)
        raise KeyboardInterrupt

    monkeypatch.setattr(weights.writing, "in_order", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.save(tiny(seed=1), path.with_name("new"), **FACTS)
    assert list(path.parent.iterdir()) == [path]


def test_folder_missing(tmp_path):
    with pytest.raises(weights.WeightsError, match="nowhere does not exist"):
        weights.save(tiny(), tmp_path / "nowhere" / "a", **FACTS)


def test_folder_is_a_file(path):
    with pytest.raises(weights.WeightsError, match=r"net\.safetensors is not a folder"):
        weights.save(tiny(), path / "a", **FACTS)


def test_path_is_a_folder(tmp_path):
    with pytest.raises(weights.WeightsError, match="it is a folder; add a file name"):
        weights.save(tiny(), tmp_path, **FACTS)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(weights.WeightsError, match="Permission denied"):
        weights.save(tiny(), tmp_path / "a", **FACTS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": CLASSES[:3]},
        {"palette": data.voc_palette(3)},
        {"palette": data.voc_palette(4).astype(float)},
    ],
)
def test_classes_and_palette_must_fit_the_net(tmp_path, wrong):
    with pytest.raises(weights.WeightsError, match="net has 4 classes"):
        weights.save(tiny(), tmp_path / "a", **FACTS | wrong)


def test_a_net_that_does_not_know_how_it_was_built(tmp_path):
    net = models.FCN(models.small_trunk((4, 4, 8, 8, 8)), 4)
    with pytest.raises(
        weights.WeightsError, match=r"does not know how it was built.*models\.build"
    ):
        weights.save(net, tmp_path / "a", **FACTS)


def test_a_config_that_is_no_json(tmp_path):
    net = tiny()
    net.config["rng"] = np.random.default_rng()
    with pytest.raises(weights.WeightsError, match="cannot be saved"):
        weights.save(net, tmp_path / "a", **FACTS)


def test_mixed_element_types(tmp_path):
    net = tiny()
    net.fc6.to(np.float64)
    with pytest.raises(weights.WeightsError, match="float32, float64: use one"):
        weights.save(net, tmp_path / "a", **FACTS)


# Files of another kind, and damaged ones


def test_missing(tmp_path):
    assert refused(tmp_path / "none").endswith("no such file")


def test_folder(tmp_path):
    assert "a folder" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "not a safetensors file, or cut short: 0 bytes"),
        (b"hello, this is a text", "not a safetensors file, or cut short: 21 bytes"),
        (b"PK\x03\x04" + bytes(50), "zip archive, as PyTorch's"),
        (b"\x80\x02" + bytes(50), "pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "JPEG image"),
        (struct.pack("<Q", 12) + b'{"no json"  ', "damaged: its header is not the JSON"),
        (struct.pack("<Q", 12) + b'{"a": [1]}  ', "damaged: its header is not the JSON"),
    ],
)
def test_another_kind_of_file(tmp_path, content, kind):
    file = tmp_path / "a"
    file.write_bytes(content)
    assert kind in refused(file, weights.read_header)


@pytest.mark.parametrize("keep", [9, 100, 5000, -1])
def test_cut_short(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    assert "cut short" in refused(path)


def test_something_appended(path):
    path.write_bytes(path.read_bytes() + b"more")
    assert "damaged: header and tensors do not fit" in refused(path)


def test_safetensors_of_others(tmp_path):
    file = tmp_path / "a"
    save_file({"layer.weight": np.zeros(3), "b": np.zeros(1)}, file, {"format": "pt"})
    message = refused(file, weights.read_header)
    assert "a safetensors file with 2 tensors (b, layer.weight), but not one of minifcn" in message
    assert "does not say which net" in message


@pytest.mark.parametrize("version", ["2", "x"])
def test_a_later_version(path, version):
    rewrite(path, format_version=version, minifcn="9.9")
    assert "written by minifcn 9.9" in refused(path)
    assert "update minifcn" in refused(path)


@pytest.mark.parametrize("name", ["model", "classes", "palette", "preprocessing"])
@pytest.mark.parametrize("text", [None, "{", "3"])
def test_a_damaged_entry_is_named(path, name, text):
    rewrite(path, **{name: text})
    assert f"damaged header: {name!r} is" in refused(path)


@pytest.mark.parametrize(
    ("entry", "text", "reason"),
    [
        ("preprocessing", '{"order": "RGB"}', "got the keys"),
        ("palette", "[[0, 0, 300]]", "damaged header"),
        ("palette", "[[0, 0], [1]]", "damaged header"),
        ("classes", '["one"]', "net has 4 classes, but there are 1 class names"),
        ("palette", "[[0, 0, 0]]", "net has 4 classes"),
        ("model", '{"model": "resnet"}', "its net cannot be built: model 'resnet' is unknown"),
        ("model", '{"model": "fcn8s", "depth": 3}', "its net cannot be built"),
        ("model", "{}", "its net cannot be built"),
        ("trained_on", "AAA=", "2 bytes: it must be a multiple of 8"),
        ("trained_on", "é", "packed fingerprints: not base64 text"),
    ],
)
def test_an_entry_that_makes_no_sense(path, entry, text, reason):
    rewrite(path, **{entry: text})
    assert reason in refused(path)


def test_tensors_that_are_not_those_of_the_net(path):
    def change(tensors):
        del tensors["fc6.bias"]
        tensors["extra"] = np.zeros(2, np.float32)
        tensors["fc7.bias"] = np.zeros(9, np.float32)

    rewrite(path, change)
    message = refused(path)
    assert "fcn8s(num_classes=4, backbone=small, widths=(4, 4, 8, 8, 8)," in message
    assert "not in the file: fc6.bias (8,)" in message
    assert "only in the file: extra (2,)" in message
    assert "fc7.bias is (9,) in the file, (8,) in the model" in message


def test_a_long_difference_is_cut(path):
    config = json.dumps(tiny(widths=(5, 5, 9, 9, 9)).config)
    rewrite(path, model=config)
    assert "... and" in refused(path)
    assert len(refused(path).splitlines()) == 2 + weights.native.LISTED


def test_integers(path):
    rewrite(path, lambda tensors: tensors.update({"fc6.bias": np.zeros(8, np.int32)}))
    assert "F32, I32: they must all be" in refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(path, value):
    def change(tensors):
        tensors["fc6.weight"][1, 2, 0, 1] = value
        tensors["fc6.weight"][3, 0, 0, 0] = value

    rewrite(path, change)
    assert f"fc6.weight holds numbers that are not finite ({value} at (1, 2, 0, 1))" in refused(
        path
    )


# Into a net that is there already


def test_load_into(path):
    net = tiny(seed=5)
    parameter = net.conv1_1.weight
    header = weights.load_into(net, path)
    assert header.origin == "a test"
    assert net.conv1_1.weight is parameter
    np.testing.assert_array_equal(parameter.data, tiny().conv1_1.weight.data)


def snapshot(net):
    return {name: array.copy() for name, array in net.state_dict().items()}


def unchanged(net, before):
    return all(np.array_equal(before[name], array) for name, array in net.state_dict().items())


def test_load_into_another_net_names_both(path):
    net = tiny("fcn32s", num_classes=5)
    before = snapshot(net)
    with pytest.raises(weights.WeightsError) as caught:
        weights.load_into(net, path)
    message = str(caught.value)
    assert "holds fcn8s(num_classes=4" in message
    assert "the model fcn32s(num_classes=5" in message
    assert "not in the file: upscore.weight (5, 5, 64, 64)" in message
    assert unchanged(net, before)


def test_load_into_is_all_or_nothing(path):
    def change(tensors):
        tensors["upscore8.weight"][0, 0, 0, 0] = np.nan  # read last

    rewrite(path, change)
    net = tiny(seed=5)
    before = snapshot(net)
    with pytest.raises(weights.WeightsError, match=r"upscore8\.weight holds numbers"):
        weights.load_into(net, path)
    assert unchanged(net, before)


def test_load_into_another_element_type(path):
    with pytest.raises(weights.WeightsError, match=r"holds float32 numbers, the model float64"):
        weights.load_into(tiny().to(np.float64), path)


def test_a_net_without_a_config_is_described(path):
    net = models.FCN(models.small_trunk((4, 4, 8, 8, 8)), 5)
    assert isinstance(net, nn.Module)
    with pytest.raises(weights.WeightsError, match=r"does not fit the model a net\(\)"):
        weights.load_into(net, path)
