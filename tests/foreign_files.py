"""Small weight files as other programs write them, and one of ours, for tests of the readers."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

from minifcn import data, models, weights

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def arrays(dtype="float32"):
    """The arrays of a layer."""
    rng = np.random.default_rng(0)
    return {
        "conv1_1.weight": rng.normal(size=(4, 3, 3, 3)).astype(dtype),
        "conv1_1.bias": rng.normal(size=4).astype(dtype),
    }


def zipped(members, method=zipfile.ZIP_STORED):
    """The bytes of a zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


# Steps of pickles, put together by hand: what PyTorch and Python 2 of years ago wrote.


def text(string):
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def text2(string):
    """A str of Python 2."""
    return b"U" + bytes([len(string)]) + string.encode()


def integer(number):
    return b"J" + struct.pack("<i", number)


def called(name, *arguments):
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def whole(*numbers):
    """A tuple of integers."""
    return b"(" + b"".join(map(integer, numbers)) + b"t"


def storage(length, kind="torch.FloatStorage", key="0", view=None):
    module, _, name = kind.rpartition(".")
    parts = text("storage") + f"c{module}\n{name}\n".encode() + text(key) + text("cpu")
    return b"(" + parts + integer(length) + (view or b"") + b"tQ"


def tensor(shape, strides, offset=0, length=8, **options):
    return called(
        "torch._utils._rebuild_tensor_v2",
        storage(length, **options),
        integer(offset),
        whole(*shape),
        whole(*strides),
        b"\x89",  # False
        called("collections.OrderedDict"),
    )


def dictionary(entries):
    """A dict of names and steps."""
    return b"}(" + b"".join(text(name) + value for name, value in entries.items()) + b"u"


def pickled(steps):
    return b"\x80\x02" + steps + b"."


def torch_zip(steps, storages=None, **members):
    """A file of PyTorch 1.6 or later around a pickle of one's own."""
    storages = {"0": np.arange(8, dtype="<f4").tobytes()} if storages is None else storages
    inside = {"net/data.pkl": pickled(steps)}
    inside |= {f"net/data/{key}": content for key, content in storages.items()}
    return zipped(inside | {f"net/{name}": content for name, content in members.items()})


def torch_legacy(steps, storages=None, keys=None):
    """A file of PyTorch before 1.6; ``storages`` are arrays."""
    storages = {"0": np.arange(8, dtype="<f4")} if storages is None else storages
    start = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    end = b"".join(struct.pack("<q", len(a)) + a.tobytes() for a in storages.values())
    return start + pickled(steps) + pickle.dumps(keys or list(storages), 2) + end


def safetensors(header, content):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + content


def safetensors_parts(whole):
    """The bytes of the header of a safetensors file, and those of the numbers."""
    end = 8 + int.from_bytes(whole[:8], "little")
    return whole[8:end], whole[end:]


def own_file(path, **facts):
    """Write a net of ours, small enough that thousands can be built; return the bytes."""
    net = models.fcn32s(3, "small", widths=(1, 1, 1, 1, 1), rng=np.random.default_rng(0))
    shapes = data.shapes("val", length=1)
    usual = {"classes": shapes.classes[:3], "palette": shapes.palette[:3]}
    weights.save(net, path, **{**usual, "preprocessing": data.UNIT, **facts})
    return path.read_bytes()


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), **options)
    return file.getvalue()
