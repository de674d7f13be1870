"""PyTorch's files: those that PyTorch writes, those of years ago, and those that would run code."""

import collections
import io
import os
import pickle
import re
import struct
import warnings

import numpy as np
import pytest

from minifcn.weights import WeightsError
from minifcn.weights.foreign import open_foreign
from minifcn.weights.readers import unpickler
from tests.foreign_files import (
    MAGIC,
    arrays,
    called,
    dictionary,
    integer,
    pickled,
    storage,
    tensor,
    text,
    text2,
    torch_legacy,
    torch_zip,
    whole,
    zipped,
)
from tests.test_foreign import refused, same

BOTH = pytest.mark.parametrize("make", [torch_zip, torch_legacy], ids=["zip", "legacy"])
WRITERS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
EIGHT = np.arange(8, dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def written(torch, path, content, new=True):
    torch.save(content, path, _use_new_zipfile_serialization=new)
    return open_foreign(path)


def tensors(torch, dtype="float32"):
    return {name: torch.from_numpy(array) for name, array in arrays(dtype).items()}


# ---- written by PyTorch --------------------------------------------------------------------------


@pytest.mark.oracle
@WRITERS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_a_state_dict(torch, path, new, protocol, kind):
    torch.save(
        kind(tensors(torch)),
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=new,
    )
    found = open_foreign(path)
    assert (found.path, found.format, found.info) == (path, "torch", {})
    assert same(found.tensors, arrays())
    assert not any(array.flags.writeable for array in found.tensors.values())


@pytest.mark.oracle
@WRITERS
def test_the_state_dict_of_a_module(torch, path, new):
    """Its dict has an attribute of its own, the versions of its modules; numbers of steps, too."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    found = written(torch, path, net.state_dict(), new)
    assert same(found.tensors, {n: t.numpy() for n, t in net.state_dict().items()})


@pytest.mark.oracle
@WRITERS
@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    ],
)
def test_element_types(torch, path, new, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    found = written(torch, path, {"a": tensor, "none": tensor[:0]}, new)
    wide = tensor.float() if dtype in ("float16", "bfloat16") else tensor
    assert same(found.tensors, {"a": wide.numpy(), "none": wide[:0].numpy()})


@pytest.mark.oracle
@WRITERS
def test_views(torch, path, new):
    """One storage, of which tensors are parts, with steps and offsets."""
    base = torch.arange(24.0).reshape(4, 6)
    views = {
        "whole": base,
        "turned": base.T,
        "part": base[1:3, ::2],
        "last": base[3, 5],
        "diagonal": base.diagonal(),
        "parameter": torch.nn.Parameter(base[2]),
        "channels last": torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    found = written(torch, path, views, new)
    for name, view in views.items():
        np.testing.assert_array_equal(found.tensors[name], view.detach().numpy())
    assert np.shares_memory(found.tensors["whole"], found.tensors["part"])


@pytest.mark.oracle
@WRITERS
@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_a_checkpoint(torch, path, new, key):
    """As the training programs for FCNs write them, the optimizer and numbers of NumPy with it."""
    net = torch.nn.Conv2d(3, 4, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-10, momentum=0.99)
    net(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 11,
        "iteration": 100000,
        "arch": "FCN32s",
        "optim_state_dict": optimizer.state_dict(),
        key: net.state_dict(),
        "best_mean_iu": np.float64(0.6363),
        "best": np.float32(0.5),
        "done": np.bool_(True),
        "seen": np.int64(-7),
        "classes": {"cat", "dog"},
        "nothing": None,
    }
    found = written(torch, path, checkpoint, new)
    assert same(found.tensors, {n: t.numpy() for n, t in net.state_dict().items()})
    assert found.info == {
        "epoch": "11",
        "iteration": "100000",
        "arch": "FCN32s",
        "best_mean_iu": "0.6363",
        "best": "0.5",
        "done": "True",
        "seen": "-7",
    }


@pytest.mark.oracle
def test_without_checksums(torch, path):
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this PyTorch always writes checksums")
    torch.serialization.set_crc32_options(False)
    try:
        assert same(written(torch, path, tensors(torch)).tensors, arrays())
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.mark.oracle
@WRITERS
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda torch: torch.nn.Conv2d(1, 1, 1), r"torch\.nn\.modules\.conv\.Conv2d.*only the par"),
        (
            lambda torch: {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
            "_rebuild_qtensor.*these are quantised",
        ),
        (lambda torch: {"a": torch.ones(2, 2).to_sparse()}, "_rebuild_sparse.*these are sparse"),
        (lambda torch: {"a": torch.ones(2, dtype=torch.complex64)}, "ComplexFloatStorage.*complex"),
        (lambda torch: {"a": torch.ones(2, dtype=torch.uint16)}, r"_v3.*convert them with \.float"),
        (lambda torch: torch.ones(2), "holds one tensor, not a state dict"),
        (lambda torch: [torch.ones(2)], "holds a list, not a state dict"),
        (lambda torch: {"a": {"b": torch.ones(2)}, "c": 3}, "no tensors by name; its keys are 'a'"),
        (lambda torch: {"state_dict": {}}, "no tensors by name; its keys are none"),
        (
            lambda torch: {"a": torch.ones(1).expand(5)},
            "'a' is of the shape '\\(5,\\)', more than the",
        ),
        (lambda torch: {"a": torch.ones(2), ("b", 1): 1}, "a dict with a key of type tuple"),
        (lambda torch: {"a": np.ones(2)}, r"asks for numpy\._?core\.multiarray\._reconstruct"),
    ],
)
def test_what_is_no_state_dict_of_numbers(torch, path, new, make, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of things that PyTorch will give up
        torch.save(make(torch), path, _use_new_zipfile_serialization=new)
    message = refused(path)
    assert re.search(reason, message), message


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_program(torch, path):
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), path)
    assert "a TorchScript program" in refused(path)


@pytest.mark.oracle
@WRITERS
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_cut_short(torch, path, new, keep):
    written(torch, path, tensors(torch), new)
    content = path.read_bytes()
    assert "damaged" in refused(path, content[: int(len(content) * keep)])


# ---- as PyTorch and Python were years ago --------------------------------------------------------


@BOTH
def test_before_version_0_4(path, make):
    """Another function, and texts of Python 2."""
    steps = (
        b"}("
        + text2("conv1_1.weight")
        + called("torch._utils._rebuild_tensor", storage(8), integer(2), whole(2, 3), whole(3, 1))
        + b"u"
    )
    path.write_bytes(make(steps))
    assert same(open_foreign(path).tensors, {"conv1_1.weight": EIGHT[2:].reshape(2, 3)})


@BOTH
def test_an_ordered_dict_of_python_2(path, make):
    """Its entries are in a list that its class is called with."""
    pairs = b"](]" + b"(" + text2("a") + tensor((8,), (1,)) + b"ee"
    path.write_bytes(make(called("collections.OrderedDict", pairs)))
    assert same(open_foreign(path).tensors, {"a": EIGHT})


@BOTH
def test_a_part_of_a_storage(path, make):
    view = b"(" + text("view") + integer(3) + integer(4) + b"t"
    path.write_bytes(make(dictionary({"a": tensor((2, 2), (2, 1), view=view)})))
    assert same(open_foreign(path).tensors, {"a": EIGHT[3:7].reshape(2, 2)})


@BOTH
def test_from_a_gpu(path, make):
    steps = dictionary({"a": tensor((8,), (1,), kind="torch.cuda.FloatStorage")})
    path.write_bytes(make(steps))
    assert same(open_foreign(path).tensors, {"a": EIGHT})


def test_from_a_machine_of_other_byte_order(path):
    steps = dictionary({"a": tensor((8,), (1,))})
    content = torch_zip(steps, {"0": EIGHT.astype(">f4").tobytes()}, byteorder=b"big")
    path.write_bytes(content)
    assert same(open_foreign(path).tensors, {"a": EIGHT})


# ---- pickles that would run code, or worse -------------------------------------------------------


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@BOTH
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Evil(os.system, "touch ran"), r"(posix|nt)\.system"),
        (Evil(eval, "open('ran', 'w')"), r"(__builtin__|builtins)\.eval"),
        (Evil(getattr, "", "join"), r"(__builtin__|builtins)\.getattr"),
        (Evil(exec, "open('ran', 'w')"), r"(__builtin__|builtins)\.exec"),
        (Evil(os.open, "ran", os.O_CREAT), r"(posix|nt)\.open"),
    ],
    ids=["system", "eval", "getattr", "exec", "open"],
)
def test_no_code_is_run(path, tmp_path, monkeypatch, make, protocol, evil, name):
    monkeypatch.chdir(tmp_path)
    inner = pickle.dumps({"a": evil}, protocol)[2:-1]
    path.write_bytes(make(inner))
    assert re.search(f"its pickle asks for {name}, but only tensors", refused(path))
    assert not (tmp_path / "ran").exists()


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_tensor_v2.__globals__",
        "torch.load",
        "torch.FloatStorage.__class__",
        "builtins.getattr",
        "collections.OrderedDict.fromkeys",
        "numpy.core.multiarray._reconstruct",
        "functools.partial",
    ],
)
def test_names_that_are_not_known(path, make, name):
    assert f"asks for {name}, but only" in refused(path, make(called(name, text("x"))))


def test_a_name_of_two_parts_on_the_stack(path):
    steps = text("os") + text("system") + b"\x93" + b"(" + text("true") + b"tR"
    assert "asks for os.system, but only" in refused(path, torch_zip(steps))


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (b"i__main__\nA\n", "has a step INST, which no state dict needs"),
        (b"(c__main__\nA\no", "asks for __main__.A"),
        (b"ccollections\nOrderedDict\n)\x81", "has a step NEWOBJ"),
        (b"\x82\x01", "has a step EXT1"),
        (b"]2", "has a step DUP"),
        (b"P1\n", "has a step PERSID"),
        (b"\x95" + b"\xff" * 8, "is damaged or cut short"),
        (b"\x8d" + b"\xff" * 8, "is damaged or cut short"),
        (b"\x8d" + struct.pack("<Q", 1 << 62), "is damaged or cut short"),
        (b"\x8e" + struct.pack("<Q", 1 << 62), "is damaged or cut short"),
        (b"X\xff\xff\xff\x7fa", "is damaged or cut short"),
        (b"j\xff\xff\xff\xff", "is damaged or cut short"),
        (b"]r\xff\xff\xff\xff", "holds a list, not a state dict"),
        (b"\xff", "is damaged or cut short at byte"),
        (b"R", "is damaged or cut short"),
        (b"NR", "is damaged or cut short"),
        (b"Q", "is damaged or cut short"),
        (b"NQ", "a storage that is not one"),
        (b"t", "is damaged or cut short"),
        (b"(0t", "has a step POP"),
        (b"}(K\x01u", "is damaged or cut short"),
        (b"NK\x01a", "a list is missing"),
        (b"}]K\x01s", "a dict with a key of type list"),
        (b"}" + b"\x8a\x10" + b"\x7f" * 16 + b"K\x01s", "a dict with a key of type int"),
        (b"}G" + bytes(8) + b"K\x01s", "a dict with a key of type float"),
        (b"NNb", "sets the state of a NoneType"),
        (called("collections.OrderedDict", integer(1)), "gives collections.OrderedDict something"),
        (called("numpy.dtype", text2("O8")), "gives numpy.dtype something"),
        (
            called("torch._utils._rebuild_parameter", integer(1)),
            "gives torch._utils._rebuild_param",
        ),
        (
            called("_codecs.encode", text("x" * 99), text("latin1")),
            "gives _codecs.encode something",
        ),
        (called("_codecs.encode", text("x"), text("rot13")), "gives _codecs.encode something"),
        (called("torch.FloatStorage", integer(5)), "gives torch.FloatStorage something"),
        (
            called("numpy.dtype", text2("f8")) + b"(K\x03Nt" + b"b",
            "element type without byte order",
        ),
    ],
)
def test_damaged_pickles(path, steps, reason):
    assert re.search(reason, refused(path, torch_zip(steps)))


def test_a_pickle_without_end(path):
    assert "cut short" in refused(path, zipped({"a/data.pkl": pickled(b"}")[:-1]}))


def test_too_many_steps(path, monkeypatch):
    monkeypatch.setattr(unpickler, "MOST_STEPS", 50)
    assert "more than 50 steps" in refused(path, torch_zip(b"]" * 60))


def test_a_list_in_itself(path):
    """Nothing here walks through nested things, so there is no end to miss."""
    cyclic = b"}q\x00(" + text("self") + b"h\x00" + text("a") + tensor((8,), (1,)) + b"u"
    path.write_bytes(torch_zip(cyclic))
    assert list(open_foreign(path).tensors) == ["a"]


def test_deep_nesting(path):
    assert "holds a tuple" in refused(path, torch_zip(b")" + b"\x85" * 100_000))


def test_a_list_is_not_copied_again_and_again(path):
    """An OrderedDict takes its list's entries away, so that the next one gets none."""
    pairs = b"]q\x00(](" + text("a") + tensor((8,), (1,)) + b"ee"
    first = called("collections.OrderedDict", pairs)
    again = called("collections.OrderedDict", b"h\x00")
    content = torch_zip(dictionary({"x": first, "state_dict": again}))
    assert "no tensors by name; its keys are none" in refused(path, content)


def test_a_long_shape_is_not_looked_through_again_and_again(path):
    """That would take hours: 100,000 sizes, 100,000 times."""
    shape = b"(" + 100_000 * b"K\x01" + b"tq\x00"
    once = called("torch._utils._rebuild_tensor", storage(8), integer(0), shape, b"h\x00")
    assert "that it cannot use: damaged" in refused(path, torch_zip(dictionary({"a": once})))


# ---- tensors and storages that do not fit --------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (tensor((9,), (1,)), "'a' is of the shape '(9,)', more than the 8 numbers of its storage"),
        (tensor((8,), (2,)), "'a' should reach number 14 of a storage of 8"),
        (tensor((2, 2), (1, 1), offset=6), "'a' should reach number 8 of a storage of 8"),
        (tensor((1,), (1,), offset=8), "'a' should reach number 8 of a storage of 8"),
        (tensor((3, 3), (0, 0)), "more than the 8 numbers"),
        (tensor((0, 2**31 - 1, 2**31 - 1), (1, 1, 1)), "'a' is of the shape"),
        (tensor((1,) * 33, (1,) * 33), "that it cannot use: damaged"),
        (tensor((2,), (-1,), offset=5), "that it cannot use: damaged"),
        (tensor((-2,), (1,)), "that it cannot use: damaged"),
        (tensor((2,), (1,), offset=-1), "that it cannot use: damaged"),
        (tensor((2, 2), (1,)), "that it cannot use: damaged"),
        (tensor((2,), (1,), length=-8), "a storage without type, name or size"),
        (tensor((2,), (1,), kind="torch.QInt8Storage"), "asks for torch.QInt8Storage"),
        (tensor((2,), (1,), kind="numpy.dtype"), "a storage without type, name or size"),
        (
            tensor((2,), (1,), view=b"(" + text("v") + integer(5) + integer(4) + b"t"),
            "a view outside its storage",
        ),
    ],
)
def test_views_outside_their_storage(path, make, view, reason):
    assert reason in refused(path, make(dictionary({"a": view})))


@BOTH
def test_one_storage_of_two_sizes(path, make):
    steps = dictionary({"a": tensor((2,), (1,)), "b": tensor((2,), (1,), length=9)})
    assert "'0' has 8 FloatStorage numbers and then 9 FloatStorage numbers" in refused(
        path, make(steps)
    )


def test_a_storage_of_another_size_than_its_member(path):
    content = torch_zip(dictionary({"a": tensor((2,), (1,))}), {"0": bytes(28)})
    assert "its storage '0' has 28 bytes, but should have 8 numbers of 4 each" in refused(
        path, content
    )


def test_a_storage_that_is_not_there(path):
    content = torch_zip(dictionary({"a": tensor((2,), (1,), key="../../etc/passwd")}))
    assert "without the member 'net/data/../../etc/passwd'" in refused(path, content)


def test_two_pickles(path):
    assert "2 members data.pkl" in refused(path, zipped({"a/data.pkl": b"", "b/data.pkl": b""}))


def test_an_unknown_byte_order(path):
    content = torch_zip(dictionary({"a": tensor((2,), (1,))}), byteorder=b"middle")
    assert "of the unknown byte order b'middle'" in refused(path, content)


def test_a_name_that_cannot_be_printed(path):
    content = torch_zip(dictionary({"a\n": tensor((2,), (1,))}))
    assert "a tensor is named 'a\\n'" in refused(path, content)


GOOD = dictionary({"a": tensor((8,), (1,))})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch_legacy(GOOD)[:-1], "should lie in bytes"),
        (torch_legacy(GOOD)[:-33], "should lie in bytes"),
        (torch_legacy(GOOD) + b"x", "1 bytes follow the last storage"),
        (
            torch_legacy(GOOD, {"0": EIGHT[:7]}),
            "the storage '0' has 7 numbers, but its tensors say 8",
        ),
        (torch_legacy(GOOD, keys=["1"]), "its list of storages does not name those"),
        (torch_legacy(GOOD, keys=["0", "0"]), "its list of storages does not name those"),
        (
            torch_legacy(GOOD).replace(b"M\xe9\x03", b"M\xea\x03"),
            "another format than PyTorch's 1001",
        ),
        (MAGIC, "is damaged or cut short"),
    ],
)
def test_damaged_legacy_files(path, content, reason):
    assert reason in refused(path, content)


def test_the_model_itself_in_an_old_file(path):
    module = b"(" + text("module") + text("Net") + text("net.py") + text("source") + b"tQ"
    assert "holds a whole model, with its classes" in refused(path, torch_legacy(module))


def test_an_empty_pickle():
    with pytest.raises(WeightsError, match=r"^a: its pickle is damaged or cut short"):
        unpickler.unpickle(io.BytesIO(b""), "a")
