"""``.caffemodel`` files that the protobuf library wrote, and damaged ones."""

import tracemalloc

import numpy as np
import pytest

from minifcn.weights import WeightsError
from minifcn.weights.readers.caffe import read_caffemodel
from minifcn.weights.wire import bytes_field, bytes_start, varint

FLAVOURS = [(form, packed, dtype) for form in ("V1", "today") for packed in (True, False)
            for dtype in ("float32", "float64")]  # fmt: skip


@pytest.fixture(scope="module")
def proto():
    pytest.importorskip("google.protobuf")
    from tests import caffe_proto

    return caffe_proto


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.caffemodel"


def some_arrays(rng, dtype="float32"):
    """Arrays of two layers, the second one without biases."""
    shapes = {"conv1_1/0": (4, 3, 3, 3), "conv1_1/1": (4,), "upscore/0": (2, 2, 4, 4)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def written(proto, form="today", packed=True, dtype="float32", rng=None):
    """Return the bytes of a net of protobuf's own, and the arrays that are in it."""
    net = proto.net_class(packed)(name="a net")
    arrays = some_arrays(rng or np.random.default_rng(0), dtype)
    if form == "V1":
        net.input.append("data")
        net.input_dim.extend([1, 3, 10, 10])
    for name, kind, number in (("conv1_1", "Convolution", 4), ("upscore", "Deconvolution", 39)):
        data = {"name": "data"} | ({"type": 5} if form == "V1" else {"type": "Data"})
        (net.layers if form == "V1" else net.layer).add(**data, top=["data", "label"])
        if form == "V1":
            layer = net.layers.add(name=name, type=number, blobs_lr=[1, 2], weight_decay=[1, 0])
        else:
            layer = net.layer.add(name=name, type=kind, loss_weight=[1.0, 0.5])
            layer.param.add(lr_mult=2.0)
        layer.bottom.append("data")
        layer.convolution_param.num_output = 4
        layer.convolution_param.pad.extend([100, 100])
        for key in sorted(arrays):
            if key.startswith(f"{name}/"):
                add_blob(layer, arrays, key, legacy=form == "V1")
    return net.SerializeToString(), arrays


def add_blob(layer, arrays, key, legacy):
    blob, array = layer.blobs.add(), arrays[key]
    if legacy:
        sizes = (1,) * (4 - array.ndim) + array.shape
        arrays[key] = array.reshape(sizes)
        blob.num, blob.channels, blob.height, blob.width = sizes
    else:
        blob.shape.dim.extend(array.shape)
    field = "double_data" if array.dtype == np.float64 else "data"
    getattr(blob, field).extend(array.ravel().tolist())
    blob.diff.extend([0.5] * 100)


def refused(path, content, *words):
    """Check that a file is refused, with a message of one line that names it; return that."""
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_caffemodel(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# What is read


@pytest.mark.parametrize(("form", "packed", "dtype"), FLAVOURS)
def test_every_flavour_of_protobufs_own_is_read(proto, path, form, packed, dtype):
    content, arrays = written(proto, form, packed, dtype)
    path.write_bytes(content)
    found = read_caffemodel(path)
    assert (found.path, found.format) == (path, "caffe")
    assert found.info == {
        "net": "a net",
        "conv1_1/type": "Convolution",
        "upscore/type": "Deconvolution",
    }
    assert list(found.tensors) == list(arrays)
    for name, array in arrays.items():
        assert found.tensors[name].dtype == dtype
        assert found.tensors[name].shape == array.shape
        np.testing.assert_array_equal(found.tensors[name], array)


def test_old_biases_keep_their_four_sizes(proto, path):
    path.write_bytes(written(proto, "V1")[0])
    assert read_caffemodel(path).tensors["conv1_1/1"].shape == (1, 1, 1, 4)


def test_a_v1_type_that_has_no_name_here_is_told_by_its_number(proto, path):
    net = proto.net_class()()
    layer = net.layers.add(name="odd", type=77)
    blob = layer.blobs.add(data=[1.5])
    blob.shape.dim.append(1)
    path.write_bytes(net.SerializeToString())
    assert read_caffemodel(path).info == {"odd/type": "V1 type 77"}


def test_float64_numbers_come_first_as_in_caffe(proto, path):
    net = proto.net_class()()
    layer = net.layer.add(name="fc")
    layer.blobs.add(data=[1, 2], double_data=[3, 4]).shape.dim.extend([2])
    layer.blobs.add(data=[5], double_data=[]).shape.dim.extend([1])
    path.write_bytes(net.SerializeToString())
    tensors = read_caffemodel(path).tensors
    assert tensors["fc/0"].tolist() == [3, 4]
    assert tensors["fc/1"].tolist() == [5]


def test_an_empty_piece_is_as_none(path):
    empty = bytes_field(8, b"")
    path.write_bytes(layer_of(NAME, bytes_field(7, empty + bytes_field(5, bytes(4)) + empty)))
    assert read_caffemodel(path).tensors["fc/0"].dtype == np.float32


def test_a_single_number_may_have_no_sizes(proto, path):
    net = proto.net_class()()
    net.layer.add(name="scale").blobs.add(data=[2.5])
    path.write_bytes(net.SerializeToString())
    assert read_caffemodel(path).tensors["scale/0"].shape == ()


def test_numbers_and_sizes_in_many_pieces_are_joined_as_protobuf_does(proto, path):
    pieces = []
    for packed, data, sizes in ((False, [1, 2, 3], [2]), (True, [4, 5], []), (False, [6], [3])):
        net = proto.net_class(packed)()
        blob = net.layer.add().blobs.add(data=data)
        blob.shape.dim.extend(sizes)
        pieces.append(blob.SerializeToString())
    blob = b"".join(pieces)
    path.write_bytes(bytes_field(100, bytes_field(1, "fc") + bytes_field(7, blob)))
    net = proto.net_class().FromString(path.read_bytes())
    assert list(net.layer[0].blobs[0].shape.dim) == [2, 3]
    array = read_caffemodel(path).tensors["fc/0"]
    assert array.tolist() == np.reshape(net.layer[0].blobs[0].data, (2, 3)).tolist()


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 49, 300_000])
def test_any_number_of_unpacked_floats_is_found(proto, path, count):
    """Runs of them are looked for in ever larger steps."""
    net = proto.net_class(packed=False)()
    layer = net.layer.add(name="fc")
    blob = layer.blobs.add(data=np.arange(count))
    blob.shape.dim.append(count)
    layer.blobs.add(data=[7]).shape.dim.append(1)
    path.write_bytes(net.SerializeToString())
    tensors = read_caffemodel(path).tensors
    np.testing.assert_array_equal(tensors["fc/0"], np.arange(count))
    assert tensors["fc/1"].tolist() == [7]


def test_unknown_fields_of_every_kind_are_skipped(proto, path):
    content, arrays = written(proto)
    unknown = (
        varint(1000 << 3) + varint(2**64 - 1)
        + (varint(1001 << 3 | 1) + b"12345678") * 40
        + (varint(1001 << 3 | 5) + b"1234") * 40
        + bytes_field(1002, b"\xff" * 300)
    )  # fmt: skip
    path.write_bytes(unknown + content + unknown)
    assert read_caffemodel(path).tensors.keys() == arrays.keys()


def test_known_fields_with_values_of_another_kind_are_skipped_as_protobuf_does(proto, path):
    content, arrays = written(proto)
    odd = varint(1 << 3) + varint(5) + varint(100 << 3) + varint(5) + varint(2 << 3 | 5) + b"1234"
    path.write_bytes(odd + content)
    assert proto.net_class().FromString(path.read_bytes()).name == "a net"
    assert read_caffemodel(path).tensors.keys() == arrays.keys()


def test_arrays_are_views_of_the_file_that_cannot_be_written_to(proto, path):
    net = proto.net_class()()
    size = 5_000_000
    net.layer.add(name="fc6").blobs.add(data=np.zeros(size)).shape.dim.append(size)
    path.write_bytes(net.SerializeToString())
    del net
    tracemalloc.start()
    try:
        array = read_caffemodel(path).tensors["fc6/0"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert array.nbytes == 4 * size
    assert peak < 100_000
    assert not array.flags.writeable


# What is refused


def blob_of(data=b"\0" * 8, sizes=(2,), shapes=1):
    shape = bytes_field(1, b"".join(varint(size) for size in sizes))
    return bytes_field(7, bytes_field(7, shape) * shapes + bytes_field(5, data))


def layer_of(*fields):
    return bytes_field(100, b"".join(fields))


NAME = bytes_field(1, "fc")
REFUSED = {
    "no layers": (bytes_field(1, "net"), "holds no layers"),
    "no weights": (layer_of(NAME), "holds 1 layers, but no weights"),
    "a layer without a name": (layer_of(blob_of()), "at byte 3: a layer without a name"),
    "a name twice": (layer_of(NAME, blob_of()) * 2, "a second layer 'fc'"),
    "too few numbers": (layer_of(NAME, blob_of(sizes=(3,))), "shape (3), but has 2 numbers"),
    "no numbers": (layer_of(NAME, blob_of(b"")), "shape (2), but has 0 numbers"),
    "a huge claimed size": (
        layer_of(NAME, blob_of(sizes=(2**40, 2**40))),
        "shape (1099511627776, 1099511627776), but has 2 numbers",
    ),
    "a size below zero": (layer_of(NAME, blob_of(sizes=(2**64 - 2,))), "but has 2 numbers"),
    "a size of zero": (layer_of(NAME, blob_of(b"", sizes=(0, 7))), "shape (0, 7)"),
    "too many sizes": (layer_of(NAME, blob_of(sizes=(1,) * 33)), "more than 32 sizes of an array"),
    "too many sizes in two": (
        layer_of(NAME, blob_of(shapes=2, sizes=(1,) * 20)),
        "'fc/0' has more than 32",
    ),
    "half a number": (layer_of(NAME, blob_of(b"\0" * 7)), "7 bytes are no whole number of f4"),
    "a name that is no text": (
        layer_of(bytes_field(1, b"c\xff"), blob_of()),
        "byte 6: a name that is not UTF-8",
    ),
    "a name without end": (layer_of(bytes_field(1, "a" * 501), blob_of()), "name of 501 bytes"),
    "a name that commands a terminal": (
        layer_of(bytes_field(1, "\x1b[2J"), blob_of()),
        r"'\x1b[2J', a name that cannot be printed",
    ),
    "a net's name that is no text": (bytes_field(1, b"\xc3("), "at byte 2: a name that is not"),
    "a V0 layer": (bytes_field(2, bytes_field(1, NAME)), "upgrade_net_proto_binary"),
    "a length beyond the end": (bytes_start(100, 2**62), "4611686018427387904 bytes should follow"),
    "a length beyond the layer": (
        layer_of(bytes_start(7, 50)) + b"\0" * 100,
        "50 bytes should follow, but only 0 are left of the part from byte 3 on",
    ),
    "a number without end": (b"\x08" + b"\xff" * 5, "byte 1: a number that does not end"),
    "a number too long": (b"\x08" + b"\xff" * 10 + b"\1", "more than 64 bits"),
    "a number of many zeros": (b"\x08" + b"\x80" * 10 + b"\0", "more than 64 bits"),
    "a number that ends outside": (
        layer_of(NAME, b"\x08\x80") + b"\1",
        "a number that does not end",
    ),
    "a number too large": (b"\x08" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
    "four bytes cut short": (varint(9 << 3 | 5) + b"\0" * 3, "4 bytes should follow, but only 3"),
    "eight bytes cut short": (varint(9 << 3 | 1) + b"\0" * 4, "8 bytes should follow, but only 4"),
    "field 0": (b"\0\0", "a field of number 0"),
    "a field too large": (varint(1 << 32) + b"\0", f"a field of number {1 << 29}"),
    "a group": (b"\x0b\x0c", "a value of kind 3"),
    "kind 7": (b"\x0f\0", "a value of kind 7"),
    "a description": (b'name: "VGG16"\n', "a .prototxt describes a net"),
    "a PNG image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "damaged, or no Caffe file"),
    "a mean image": (b"\x08\1\x10\3\x18\2\x20\2" + bytes_field(5, b"\0" * 48), "no layers"),
    "too many fields": (b"\x08\1" * 100_001, "more than 100000 fields"),
    "too many short runs": (b"\x0d1234\x15abcd" * 50_001, "more than 100000 fields"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_with_the_place(path, case):
    content, words = REFUSED[case]
    refused(path, content, words)


def test_a_file_cut_short_is_refused_wherever_it_is_cut(proto, path):
    content, arrays = written(proto)
    for end in range(1, len(content), 5):
        path.write_bytes(content[:end])
        try:
            found = read_caffemodel(path).tensors
        except WeightsError:
            continue
        assert list(found) == list(arrays)[:2]  # cut between two layers, it is a smaller net


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.caffemodel: no such file"):
        read_caffemodel(tmp_path / "nowhere.caffemodel")
    with pytest.raises(WeightsError, match="a folder, not a weight file"):
        read_caffemodel(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(WeightsError, match="empty: the file is empty"):
        read_caffemodel(tmp_path / "empty")


# Fuzzing


def mutated(content, rng):
    """Return a file with some bytes changed, cut out, repeated or put in."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        start = int(rng.integers(len(content) + 1))
        end = min(len(content), start + int(rng.integers(1, 40)))
        kind = rng.integers(6)
        if kind == 0 and start < len(content):
            content[start] ^= 1 << int(rng.integers(8))
        elif kind == 1 and start < len(content):
            content[start] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == 2:
            del content[start:end]
        elif kind == 3:
            content[start:start] = content[start:end] * int(rng.integers(1, 4))
        elif kind == 4:
            content[start:start] = varint(int(rng.integers(2**63)) >> int(rng.integers(63)))
        else:
            content[end:] = b""
    return bytes(content)


def as_protobuf_reads(net_class, content):
    """Return the arrays that protobuf finds, named as `read_caffemodel` does.

    None if it refuses the file, as it does for damage in messages that the reader skips.
    """
    from google.protobuf.message import DecodeError

    try:
        net = net_class.FromString(content)
    except DecodeError:
        return None
    found = {}
    for layer in [*net.layers, *net.layer]:
        for i, blob in enumerate(layer.blobs):
            found[f"{layer.name}/{i}"] = np.fromiter(blob.double_data or blob.data, float)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_no_damage_makes_it_fail_otherwise_or_fill_the_memory(proto, path, seed):
    """500 files for each flavour; those that are read hold what protobuf reads."""
    rng = np.random.default_rng(seed)
    form, packed, dtype = FLAVOURS[seed]
    content, _ = written(proto, form, packed, dtype, rng)
    net_class, outcomes = proto.net_class(), {"read": 0, "refused": 0}
    read_caffemodel_once(path, content)
    tracemalloc.start()
    try:
        for _ in range(500):
            damaged = mutated(content, rng)
            path.write_bytes(damaged)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                tensors = read_caffemodel(path).tensors
            except WeightsError:
                tensors = {}
            assert tracemalloc.get_traced_memory()[1] - before < 50_000 + 20 * len(damaged)
            outcomes["read" if tensors else "refused"] += 1
            expected = as_protobuf_reads(net_class, damaged)
            if tensors and expected is not None:
                assert tensors.keys() == expected.keys()
                for name, array in tensors.items():
                    with np.errstate(invalid="ignore"):  # changed bits may signal
                        np.testing.assert_array_equal(array.ravel(), expected[name])
    finally:
        tracemalloc.stop()
    assert min(outcomes.values()) > 20, outcomes


def read_caffemodel_once(path, content):
    """Read a file, so that what is imported at the first time is not counted."""
    path.write_bytes(content)
    read_caffemodel(path)
