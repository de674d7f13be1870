"""Thousands of damaged weight files: each is read or refused, in little memory and little time.

The damage is the same in each run. A case that fails is named by its number; `damaged` makes it.
"""

import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from minifcn import weights
from minifcn.weights import WeightsError
from minifcn.weights.foreign import open_foreign
from minifcn.weights.readers import hdf5
from tests.damage import damaged
from tests.foreign_files import (
    arrays,
    dictionary,
    npy,
    own_file,
    pickled,
    safetensors,
    safetensors_parts,
    tensor,
    text,
    torch_legacy,
    torch_zip,
    zipped,
)

CASES = 2000  # of each reader, at least
SLOWEST = 5.0  # seconds for one file; a thousandth of it is usual
MOST_MEMORY = 4 << 20  # bytes, and 40 times the file's size


def check(path, content, name):
    """Open a file; fail if it raises anything but a WeightsError, or takes much time or memory."""
    path.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        found = open_foreign(path)
        with np.errstate(all="ignore"):  # the numbers may be any
            for array in found.tensors.values():
                array.sum()
        opened = True
    except WeightsError as error:
        opened = False
        message = str(error)
        assert message.startswith(f"{path}: "), name
        assert len(message) < 1000, name
    finally:
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - start < SLOWEST, name
    assert memory < MOST_MEMORY + 40 * len(content), name
    return opened


def fuzz(path, makers, cases=CASES):
    """Check so many files; each maker returns, for the number of a case, a damaged file."""
    opened = 0
    for case in range(cases):
        opened += check(path, makers[case % len(makers)](case), f"case {case}")
    assert 0 < opened < cases, "either all or none can be read: the damage is of the wrong kind"


def plain_arrays():
    return {name: array for name, array in arrays().items() if array.size < 200}


def test_torch_zip(tmp_path):
    """Whole archives, and archives in order around a pickle that is not."""
    steps = dictionary(
        {
            "epoch": b"K\x07",
            "state_dict": dictionary({"a": tensor((2, 4), (4, 1)), "b": tensor((8,), (1,))}),
            "optimizer": b"(" + text("SGD") + b"K\x01K\x02t",
        }
    )
    whole = torch_zip(steps, byteorder=b"little")
    fuzz(
        tmp_path / "a",
        [
            lambda case: damaged(whole, case),
            lambda case: torch_zip(damaged(steps, case)),
            lambda case: torch_zip(damaged(steps, case)),
        ],
    )


def test_torch_legacy(tmp_path):
    whole = torch_legacy(dictionary({"a": tensor((2, 4), (4, 1)), "b": tensor((8,), (1,))}))
    fuzz(tmp_path / "a", [lambda case: damaged(whole, case, 1)])


@pytest.mark.oracle
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_what_torch_writes(tmp_path, new):
    """Pickles with all that PyTorch puts into them."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    content = {"state_dict": net.state_dict(), "best_mean_iu": np.float64(0.5), "s": {1, 2}}
    torch.save(content, tmp_path / "a", _use_new_zipfile_serialization=new)
    whole = (tmp_path / "a").read_bytes()
    makers = [lambda case: damaged(whole, case, 1)]
    if new:
        with zipfile.ZipFile(tmp_path / "a") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        [pickle] = [name for name in members if name.endswith("data.pkl")]
        makers.append(lambda case: zipped(members | {pickle: damaged(members[pickle], case)}))
    fuzz(tmp_path / "a", makers, CASES // 4)


def test_npz(tmp_path):
    """Whole archives, and archives in order around arrays that are not."""
    members = {f"{name}.npy": npy(array) for name, array in plain_arrays().items()}
    stored, packed = (zipped(members, m) for m in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    first = next(iter(members))

    def header(case):
        """Damage the header only, not the numbers behind it."""
        head, numbers = members[first][:128], members[first][128:]
        return zipped(members | {first: damaged(head, case) + numbers})

    fuzz(
        tmp_path / "a",
        [
            lambda case: damaged(stored, case),
            lambda case: damaged(packed, case),
            header,
            header,
        ],
    )


def test_safetensors(tmp_path):
    places, content = {}, b""
    for name, array in plain_arrays().items():
        ends = [len(content), len(content) + array.nbytes]
        places[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": ends}
        content += array.tobytes()
    head = json.dumps(places | {"__metadata__": {"format": "pt"}}).encode()
    whole = safetensors(head, content)
    fuzz(
        tmp_path / "a",
        [
            lambda case: damaged(whole, case),
            lambda case: safetensors(damaged(head, case, 1), content),
        ],
    )


def test_files_of_any_kind(tmp_path):
    """Known first bytes, and then anything."""
    starts = [b"PK\x03\x04", b"\x80\x02\x8a\x0a", pickled(b"}"), b"\x93NUMPY", b"\x0a\x05", b""]

    def anything(case):
        chance = random.Random(case)
        return starts[case % len(starts)] + chance.randbytes(chance.choice([1, 20, 400]))

    for case in range(CASES):
        check(tmp_path / "a", anything(case), f"case {case}")


# ---- HDF5 ----------------------------------------------------------------------------------------

BATCH = 100
BATCH_TIME = 5.0  # seconds, many times what is usual


def test_our_own_files(tmp_path):
    """What a file says of its net may be damaged as well: it must not be believed blindly."""
    path = tmp_path / "own.safetensors"
    content = own_file(path)
    end = 8 + int.from_bytes(content[:8], "little")  # of the header; the numbers may be any
    opened = 0
    for case in range(CASES):
        changed = damaged(content[:end], case, spare=8 if case % 4 else 0) + content[end:]
        if case % 4:  # its length is right, so that more than the first check is reached
            length = len(changed) - (len(content) - end) - 8
            changed = length.to_bytes(8, "little") + changed[8:]
        path.write_bytes(changed)
        tracemalloc.start()
        start, message = time.perf_counter(), ""
        try:
            weights.load(path)
            opened += 1
        except WeightsError as error:
            message = str(error)
        finally:
            memory = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert message.startswith(f"{path}: "[: len(message)]), f"case {case}"
        assert time.perf_counter() - start < SLOWEST, f"case {case}"
        assert memory < 2 * MOST_MEMORY + 40 * len(content), f"case {case}"
    assert 0 < opened < CASES


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'widths\\": [1, 1', b'widths\\": [9000, 9000'),
        (b'num_classes\\": 3', b'num_classes\\": 30000'),
        (b'padding\\": 1', b'padding\\": 1e9'),
    ],
)
def test_a_net_that_is_larger_than_its_file_is_not_built(tmp_path, old, new):
    path = tmp_path / "own.safetensors"
    head, numbers = safetensors_parts(own_file(path))
    assert old in head
    path.write_bytes(safetensors(head.replace(old, new), numbers))
    tracemalloc.start()
    with pytest.raises(WeightsError):
        weights.load(path)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory < MOST_MEMORY


def test_many_classes_need_a_file_that_has_them(tmp_path):
    """Upsampling takes a kernel for each pair of classes: 3000 names would ask for 147 GB."""
    path = tmp_path / "own.safetensors"
    head, numbers = safetensors_parts(own_file(path))
    header = json.loads(head)
    told = header["__metadata__"]
    told["model"] = json.dumps(json.loads(told["model"]) | {"num_classes": 3000})
    told["classes"] = json.dumps([f"class {i}" for i in range(3000)])
    told["palette"] = json.dumps([[i % 256, i // 256, 0] for i in range(3000)])
    path.write_bytes(safetensors(header, numbers))
    with pytest.raises(WeightsError, match="describes a net that is larger than the file"):
        weights.load(path)


def hdf5_files(folder):
    """Return the bytes of files as Keras and Caffe have them, by the HDF5 library."""
    h5py = pytest.importorskip("h5py")
    kernel, bias = arrays().values()
    with h5py.File(folder / "a", "w") as file:
        file.attrs["layer_names"], file.attrs["backend"] = np.array(["conv1"], "S"), "tensorflow"
        layer = file.create_group("conv1")
        layer.attrs["weight_names"] = np.array(["conv1/kernel:0", "conv1/bias:0"], "S")
        layer["conv1/kernel:0"], layer["conv1/bias:0"] = kernel, bias
    with h5py.File(folder / "b", "w") as file:
        variables = file.create_group("layers/conv2d/vars")
        variables.attrs["name"] = "block1_conv1"
        variables.create_dataset("0", data=kernel, compression="gzip")
        variables["1"] = bias
    with h5py.File(folder / "c", "w", libver="latest") as file:
        file["data/conv1/0"], file["data/conv1/1"] = kernel, bias
    return [(folder / name).read_bytes() for name in "abc"]


def described(paths):
    """Yield what the worker says of each file; None for those that it crashes or hangs at.

    A process for each would take minutes, so one does many.
    """
    start = 0
    while start < len(paths):
        batch = [str(path) for path in paths[start : start + BATCH]]
        command = [sys.executable, "-P", str(hdf5.WORKER), str(hdf5.MEMORY), *batch]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        try:
            output = subprocess.run(
                command, env=environment, capture_output=True, timeout=BATCH_TIME, check=False
            ).stdout
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
        done = 0
        while b"\n" in output:
            line, _, output = output.partition(b"\n")
            said = json.loads(line)
            if len(output) < said["sent"]:
                break
            yield said, output[: said["sent"]]
            output, done = output[said["sent"] :], done + 1
        if done < len(batch):
            yield None
            done += 1
        start += done


@pytest.mark.slow
def test_hdf5(tmp_path, monkeypatch):
    """The worker at all files; then the rest of the reader, on what the worker said."""
    files = hdf5_files(tmp_path)
    cases = 2 * CASES  # Keras's reader and that of Caffe's HDF5 files
    paths = [tmp_path / f"{case}.h5" for case in range(cases)]
    for case, path in enumerate(paths):
        path.write_bytes(damaged(files[case % len(files)], case, len(hdf5.MAGIC)))
    opened, stuck = 0, []
    for path, said in zip(paths, described(paths), strict=True):
        if said is None:
            stuck.append(path)
            continue
        with monkeypatch.context() as patch:
            patch.setattr(hdf5.Hdf5, "_describe", lambda self, said=said: said)
            opened += check(path, path.read_bytes(), path.name)
    assert 0 < opened < cases
    monkeypatch.setattr(hdf5, "TIME_LIMIT", 1.0)
    for path in stuck:
        check(path, path.read_bytes(), path.name)
