"""Weight files of other programs: which format a file is of, and files that are of none."""

import re
import struct
import warnings
import zipfile

import numpy as np
import pytest

from minifcn.weights import WeightsError
from minifcn.weights.foreign import open_foreign
from minifcn.weights.readers import archive, mapped
from tests.foreign_files import arrays, npy, safetensors, zipped


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.bin"  # an ending that says nothing


def refused(path, content=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        open_foreign(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 600
    return str(caught.value).removeprefix(f"{path}: ")


def same(found, expected):
    """Tell whether arrays are equal in names, order, types, shapes and bits."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name
    return True


# ---- which format --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(np.ones(3)), r"a single array \(.npy\).*numpy.savez"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"%PDF-1.4", "a PDF document"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip: unpack it first"),
        (b"<!DOCTYPE html><html>", "a web page, as a failed download leaves it"),
        (b"<html><head>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*git lfs pull"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "a tar archive, as PyTorch 0.1 wrote"),
        (b"\x80\x02]q\x00.", "a Python pickle, but not one of PyTorch"),
        (b"name: 'VGG'\nlayer { name: 'a' }", r"a \.prototxt describes a net"),
        (b"\xfe\xfe\xfe\xfe" * 9, "of no known format: it starts with b'.*known are .caffemodel"),
        (zipped({}), "a zip archive, but neither PyTorch's nor NumPy's: it holds nothing"),
        (
            zipped({"a.txt": b"", "b.txt": b"", "c.txt": b"", "d": b""}),
            r"it holds 'a.txt', 'b.txt', 'c.txt', \.\.\.$",
        ),
        (zipped({"config.json": b"", "model.weights.h5": b""}), r"a Keras archive \(.keras\)"),
        (b"", "empty"),
    ],
)
def test_files_that_hold_no_weights(path, content, reason):
    assert re.search(reason, refused(path, content))


def test_no_such_file(path):
    assert refused(path) == "no such file"


def test_a_folder(tmp_path):
    assert refused(tmp_path) == "a folder, not a weight file"


def test_a_caffemodel_goes_to_its_reader(path):
    """A net "n" with one layer "c" that has one blob: of shape (1,), the number 2."""
    blob = b"\x3a\x03\x0a\x01\x01" + b"\x2a\x04" + np.float32(2).tobytes()
    layer = b"\x0a\x01c\x12\x04Conv\x3a" + bytes([len(blob)]) + blob
    path.write_bytes(b"\x0a\x01n" + b"\xa2\x06" + bytes([len(layer)]) + layer)
    found = open_foreign(path)
    assert found.format == "caffe"
    assert same(found.tensors, {"c/0": np.float32([2])})


# ---- places in a file ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "offset"), [((3,), 0), ((2,), 1), ((1,), -4), ((1 << 60,), 0), ((-1, 4), 0)]
)
def test_an_array_that_is_not_in_the_file(path, shape, offset):
    path.write_bytes(bytes(8))
    with pytest.raises(WeightsError, match=r"'w' (of|is of the) shape"):
        mapped.MappedFile(path).array("<f4", shape, offset, "w")


@pytest.mark.parametrize("shape", [(1,) * 33, (0, 1 << 40, 1 << 40), (-1,)])
def test_a_shape_that_no_array_has(path, shape):
    with pytest.raises(WeightsError, match="is of the shape"):
        mapped.check_shape(path, shape, "w")


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "\x1b[31m", "\udc80", "x" * 501])
def test_a_name_that_cannot_be_printed(path, name):
    with pytest.raises(WeightsError, match="a tensor is named"):
        mapped.check_name(path, name)


def test_arrays_of_the_file_cannot_be_written_to(path):
    path.write_bytes(bytes(8))
    array = mapped.MappedFile(path).array("<f4", (2,), 0, "w")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_an_array_may_be_empty_or_a_scalar(path):
    path.write_bytes(bytes(8))
    file = mapped.MappedFile(path)
    assert file.array("<f4", (0, 3), 8, "w").shape == (0, 3)
    assert file.array("<f8", (), 0, "w").shape == ()


def test_16_bit_numbers_become_float32():
    exact = np.array([1.5, -2.0, 0.0, 65504.0])
    for order in "<>":
        found = mapped.native(exact.astype(f"{order}f2"))
        assert same({"a": found}, {"a": exact.astype(np.float32)})
    bits = (exact.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert mapped.from_bfloat16(bits)[:3].tolist() == [1.5, -2.0, 0.0]


# ---- zip archives --------------------------------------------------------------------------------


def patched(content, place, new, start=0):
    """Content with other bytes ``place`` bytes behind its first entry in the list of members."""
    at = content.index(b"PK\x01\x02", start) + place
    return content[:at] + new + content[at + len(new) :]


PLAIN = zipped({"a.npy": npy(np.arange(5.0))})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PLAIN[:-30], "a zip archive, cut short or damaged"),
        (PLAIN[:40], "a zip archive, cut short or damaged"),
        (patched(PLAIN, 20, struct.pack("<I", 10**6)), "whose members should have 1000000 bytes"),
        (patched(PLAIN, 24, struct.pack("<I", 10**8)), "that unpack to 100000000, more than 16"),
        (patched(PLAIN, 24, struct.pack("<I", 100)), "'a.npy' is stored with two sizes"),
        (patched(PLAIN, 42, struct.pack("<I", 7)), "'a.npy' should start at byte 7"),
        (patched(PLAIN, 42, struct.pack("<I", 10**6)), "'a.npy' should start at byte 1000000"),
        (patched(PLAIN, 8, b"\x01"), "'a.npy' is encrypted"),
        (patched(PLAIN, 10, b"\x0c"), "'a.npy' is compressed by method 12"),
        (patched(PLAIN, 16, b"abcd"), "'a.npy' is damaged (checksum 0x"),
        (patched(PLAIN, 46, b"\n"), "a tensor is named '\\n.npy'"),
        (patched(PLAIN, 6, b"\xff"), "version"),
    ],
)
def test_damaged_archives(path, content, reason):
    assert reason in refused(path, content)


def test_two_members_of_one_name(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.npy", npy(np.ones(2)))
            file.writestr("a.npy", npy(np.zeros(2)))
    assert "two members 'a.npy'" in refused(path)


def test_a_member_cut_short(path):
    """Its local header says that its name is longer, so its bytes start later."""
    content = bytearray(PLAIN)
    content[28:30] = b"\xf0\x00"
    assert "'a.npy' should have 168 bytes from" in refused(path, bytes(content))


def test_a_list_of_members_that_would_fill_the_memory(path, monkeypatch):
    monkeypatch.setattr(archive, "LONGEST_LIST", 60)
    assert "a list of members of 94 bytes" in refused(path, zipped({"a": b"", "b": b""}))


def test_a_bomb(path):
    bomb = zipped({"a.npy": npy(np.zeros(10**7, np.float32))}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10**5
    assert "which no trained weights do" in refused(path, bomb)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_member_that_unpacks_to_another_size(path, change):
    content = zipped({"a.npy": npy(np.ones(50))}, zipfile.ZIP_DEFLATED)
    size = struct.unpack_from("<I", content, content.index(b"PK\x01\x02") + 24)[0]
    damaged = patched(content, 24, struct.pack("<I", size + change))
    assert f"does not unpack to the {size + change} bytes" in refused(path, damaged)


def test_a_member_that_is_not_deflated(path):
    damaged = patched(zipped({"a.npy": b"\x07" * 9}), 10, b"\x08")
    assert "'a.npy' is damaged: Error -3 while decompressing" in refused(path, damaged)


def test_a_checksum_may_be_left_out(path):
    path.write_bytes(patched(PLAIN, 16, bytes(4)))
    assert open_foreign(path).tensors["a"].sum() == 10


def test_large_members_are_unpacked_in_pieces(path, monkeypatch):
    monkeypatch.setattr(archive, "PIECE", 7)
    array = np.random.default_rng(0).normal(size=(20, 5))
    path.write_bytes(zipped({"a.npy": npy(array)}, zipfile.ZIP_DEFLATED))
    assert same(open_foreign(path).tensors, {"a": array})


# ---- .npz ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i4", "u1", "?"])
def test_npz(tmp_path, save, dtype):
    expected = {
        name.replace(".", "/"): array.astype(np.dtype(dtype).newbyteorder("="))
        for name, array in arrays().items()
    }
    save(tmp_path / "a.npz", **{name: array.astype(dtype) for name, array in expected.items()})
    found = open_foreign(tmp_path / "a.npz")
    assert (found.format, found.info) == ("chainer", {})
    assert same(found.tensors, expected)


def test_npz_of_names_without_paths(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.ones((2, 3), order="F"), half=np.float16([1, 2]))
    found = open_foreign(tmp_path / "a.npz")
    assert found.format == "numpy"
    assert same(
        {k: np.ascontiguousarray(a) for k, a in found.tensors.items()},
        {"weight": np.ones((2, 3)), "half": np.float32([1, 2])},
    )


def test_order_of_columns(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "a.npz", a=array)
    np.testing.assert_array_equal(open_foreign(tmp_path / "a.npz").tensors["a"], array)


def test_a_snapshot_of_chainer_s_trainer(tmp_path):
    """Only the net is read: the rest may be of any kind."""
    np.savez_compressed(
        tmp_path / "snapshot_iter_9",
        **{
            "updater/model:main/conv1_1/W": np.ones((2, 3), np.float32),
            "updater/model:main/conv1_1/b": np.zeros(2, np.float32),
            "updater/optimizer:main/conv1_1/W/v": np.ones((2, 3), np.float32),
            "updater/iteration": np.array(9),
            "updater/iterator:main/epoch": np.array(2),
            "extensions/LogReport/_log": np.array(None, dtype=object),
        },
    )
    found = open_foreign(tmp_path / "snapshot_iter_9.npz")
    assert (found.format, found.info) == ("chainer", {"iteration": "9", "epoch": "2"})
    assert list(found.tensors) == ["conv1_1/W", "conv1_1/b"]


def header_of(text, version=b"\x01\x00"):
    head = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(head)) + head


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"


def test_a_header_of_python_2(path):
    path.write_bytes(zipped({"a.npy": header_of(GOOD.replace("(2,)", "(2L,)")) + bytes(8)}))
    assert open_foreign(path).tensors["a"].shape == (2,)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (npy(np.array([None]), allow_pickle=True), "an array of Python objects, which run code"),
        (npy(np.array(["text"])), "an array of <U4, not of numbers"),
        (npy(np.zeros(2, complex)), "an array of complex128, not of numbers"),
        (npy(np.zeros(2, [("a", "f4")])), "an array of [('a', '<f4')], not of numbers"),
        (header_of(GOOD) + bytes(7), "has 7 bytes of numbers, but its shape '(2,)'"),
        (header_of(GOOD) + bytes(9), "has 9 bytes of numbers"),
        (header_of(GOOD.replace("2", "-2")), "'a.npy' is of the shape '(-2,)'"),
        (header_of(GOOD.replace("2", "9" * 4000)), "'a.npy' is of the shape"),
        (header_of("(" * 9000), "no header of a plain array"),
        (header_of("-" * 9000 + "1"), "no header of a plain array"),
        (header_of("{" + "[" * 150), "no header of a plain array"),
        (header_of("print('hello')"), "no header of a plain array"),
        (header_of(GOOD + " " * 10_000), "no header of a plain array"),
        (header_of(GOOD, b"\x03\x00") + bytes(8), "no header of a plain array"),
        (header_of(GOOD)[:20], "no header of a plain array"),
        (b"", "no header of a plain array"),
    ],
)
def test_damaged_arrays(path, member, reason):
    assert reason in refused(path, zipped({"a.npy": member}))


def test_an_archive_of_other_things(path):
    assert "it holds 'a.csv'" in refused(path, zipped({"a.csv": b"1,2"}))


# ---- safetensors ---------------------------------------------------------------------------------


def entry(dtype="F32", shape=(2,), start=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def test_safetensors(path):
    from safetensors.numpy import save_file

    expected = arrays() | {"steps": np.arange(3), "mask": np.array([True, False])}
    save_file(expected, path, {"format": "pt", "epoch": "7"})
    found = open_foreign(path)
    assert (found.format, found.info) == ("safetensors", {"format": "pt", "epoch": "7"})
    assert same(dict(sorted(found.tensors.items())), dict(sorted(expected.items())))
    assert not found.tensors["conv1_1.weight"].flags.owndata


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_safetensors_of_16_bits(path, dtype):
    bits = np.float16([1, -2]).tobytes() if dtype == "F16" else b"\x80\x3f\x00\xc0"
    path.write_bytes(safetensors({"a": entry(dtype, end=4)}, bits))
    assert same(open_foreign(path).tensors, {"a": np.float32([1, -2])})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (safetensors({"a": entry()}, bytes(7)), "damaged, or cut short"),
        (safetensors({"a": entry(end=12)}, bytes(12)), "damaged, or cut short"),
        (safetensors({"a": entry(shape=(1 << 62, 4))}, bytes(8)), "damaged, or cut short"),
        (safetensors({"a": entry(shape=(-2,))}, bytes(8)), "damaged, or cut short"),
        (safetensors(b'{"a": ' + b"[" * 5000, bytes(8)), "damaged, or cut short"),
        (safetensors(b"{no json at all  ", bytes(8)), "damaged, or cut short"),
        (struct.pack("<Q", 1 << 39) + b"{}", "its header should have 549755813888 bytes"),
        (safetensors({"a\n": entry()}, bytes(8)), "a tensor is named 'a\\n'"),
        (safetensors({"a": entry("F8_E4M3", end=2)}, bytes(2)), "'a' is of 'F8_E4M3' numbers"),
        (safetensors({}, b""), "a safetensors file without arrays"),
    ],
)
def test_damaged_safetensors(path, content, reason):
    assert reason in refused(path, content)


def test_a_weight_file_of_our_own(path):
    from minifcn import data, models, weights

    net = models.build("fcn32s", num_classes=2, backbone="small", widths=(2, 2, 2, 2, 2))
    facts = {"classes": ("a", "b"), "palette": data.voc_palette(2), "preprocessing": data.CAFFE}
    weights.save(net, path, **facts)
    assert "of minifcn's own: read it with minifcn.weights.load" in refused(path)
