"""Where an array is, how it moves, and what is said when a GPU cannot be used."""

import importlib
import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest

import minifcn
from minifcn import Tensor
from minifcn.backend import (
    DeviceError,
    DTypeError,
    Error,
    NotFiniteError,
    Operation,
    OutOfMemoryError,
    check_one_kind,
    checksum,
    choose_device,
    debugging,
    device_number,
    device_of,
    is_array,
    is_numpy,
    may_share_memory,
    probe_cuda,
    require_cupy,
    to_device,
    to_numpy,
    xp_of,
)


def test_numpy_arrays(xp):
    array = xp.ones(3)
    assert xp_of(array) is xp
    assert is_array(array)
    assert is_numpy(array) == (xp is np)
    assert device_of(array) == ("cpu" if xp is np else "cuda:0")
    assert type(to_numpy(array)) is np.ndarray
    assert may_share_memory(array, array[1:])
    assert not may_share_memory(array, array.copy())
    assert may_share_memory(array, np.ones(3)) is False
    assert may_share_memory(np.ones(3), array) is False


def test_numpy_scalars_are_arrays_and_python_numbers_are_not():
    assert is_array(np.float32(1))
    assert xp_of(np.float32(1)) is np
    assert device_of(np.float32(1)) == "cpu"
    assert not any(is_array(value) for value in (1, 1.5, True, None, [1], "a"))


def test_to_device_returns_the_array_itself_where_it_can(xp):
    array = xp.ones(3)
    assert to_device(array, device_of(array)) is array
    assert type(to_device(np.float32(1), "cpu")) is np.ndarray


def test_a_move_keeps_numbers_and_memory_order(xp):
    device = "cpu" if xp is np else "cuda"
    array = np.arange(24.0).reshape(1, 2, 4, 3).transpose(0, 3, 1, 2)
    there = to_device(array, device)
    assert isinstance(there, xp.ndarray)
    assert there.strides == array.strides
    back = to_device(there, "cpu")
    assert back.strides == array.strides
    assert (back == array).all()


def test_device_numbers():
    assert (device_number("cuda"), device_number("cuda:0"), device_number("cuda:3")) == (0, 0, 3)


@pytest.mark.parametrize(
    "name",
    ["gpu", "cuda:x", "cuda:-1", "CUDA", "cpu:0", "", "cuda:", "cuda:²", "cuda:٣", "cuda:1\n"],
)
def test_unknown_devices_are_refused(name):
    with pytest.raises(DeviceError, match=re.escape(f"unknown device {name!r}: use 'cpu'")):
        to_device(np.ones(2), name)


@pytest.fixture
def fake_cupy(monkeypatch):
    """Return a function that installs a module called cupy, and forgets what was probed."""

    def install(**attributes):
        module = types.ModuleType("cupy")
        module.__dict__.update({"__version__": "0.0", "ndarray": type("ndarray", (), {})})
        module.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, "cupy", module)
        probe_cuda.cache_clear()
        return module

    yield install
    probe_cuda.cache_clear()


def fake_cuda(count=1):
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: count, getDeviceProperties=lambda i: {"name": b"Test GPU"}
    )
    return types.SimpleNamespace(runtime=runtime)


def test_probe_without_cupy(monkeypatch, fake_cupy):
    fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import fails as if it were not there
    module, reason = probe_cuda()
    assert module is None
    assert reason.startswith("CuPy is not installed (pip install")
    with pytest.raises(DeviceError, match="device 'cuda' is not available: CuPy is not installed"):
        require_cupy()


def test_probe_of_a_cupy_that_does_not_import(monkeypatch, fake_cupy):
    fake_cupy()

    def broken(name):
        raise ImportError("libcublas.so.12: cannot open\nmore", name="cupy._core")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert probe_cuda() == (
        None,
        "CuPy does not import: ImportError: libcublas.so.12: cannot open",
    )


def written_cupy(folder, monkeypatch, text):
    """Let `import cupy` find a file of this text."""
    (folder / "cupy.py").write_text(text)
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(str(folder))
    probe_cuda.cache_clear()


def test_a_cupy_for_another_numpy_is_not_taken_and_that_is_said(tmp_path, monkeypatch, fake_cupy):
    fake_cupy()
    changed = "numpy.dtype size changed, may indicate binary incompatibility"
    written_cupy(tmp_path, monkeypatch, f"raise ValueError({changed!r})")
    reason = f"CuPy does not import: ValueError: {changed}"
    assert probe_cuda() == (None, reason)
    assert choose_device("auto") == ("cpu", f"on the CPU: {reason}")
    with pytest.raises(DeviceError, match=f"^device 'cuda:1' is not available: {reason}$"):
        choose_device("cuda:1")


def test_the_cause_of_cupys_own_error_is_told(tmp_path, monkeypatch, fake_cupy):
    fake_cupy()
    text = """
        try:
            raise ImportError("libcudart.so.13: cannot open shared object file")
        except ImportError as error:
            raise ImportError("\\n=====\\nFailed to import CuPy.\\n=====") from error
    """
    written_cupy(tmp_path, monkeypatch, textwrap.dedent(text))
    reason = "CuPy does not import: ImportError: libcudart.so.13: cannot open shared object file"
    assert probe_cuda() == (None, reason)


def test_a_folder_that_cupy_has_left_is_not_cupy(tmp_path, monkeypatch, fake_cupy):
    fake_cupy()
    written_cupy(tmp_path, monkeypatch, "")
    (tmp_path / "cupy.py").unlink()
    (tmp_path / "cupy").mkdir()
    _, reason = probe_cuda()
    assert reason.startswith("CuPy of unknown version cannot compute here: AttributeError: ")


def test_probe_of_a_cupy_without_a_driver(fake_cupy):
    fake_cupy()  # no attribute `cuda`: the first use fails
    module, reason = probe_cuda()
    assert module is None
    assert reason.startswith("CuPy 0.0 cannot compute here: AttributeError: ")


def test_probe_of_a_cupy_that_computes_nonsense(fake_cupy):
    fake_cupy(cuda=fake_cuda(), ones=np.zeros)
    assert probe_cuda() == (None, "CuPy 0.0 returned a wrong product on Test GPU")


def test_probe_of_a_cupy_that_works(fake_cupy):
    module = fake_cupy(cuda=fake_cuda(2), ones=np.ones)
    assert probe_cuda() == (module, "CuPy 0.0 on Test GPU (2 devices)")
    assert require_cupy() is module


def test_digest():
    array = np.arange(6.0)
    before = checksum(array)
    assert checksum(array.copy()) == before
    array[3] += 1e-12
    assert checksum(array) != before
    assert checksum(1.5) == checksum(None) == 0


def test_one_type_and_one_device():
    single, double = np.ones(2, np.float32), np.ones(2)
    check_one_kind("add", {"x": single, "y": np.ones(2, int), "z": single})
    check_one_kind("add", {})
    message = r"conv2d got x \(float32\) and weight \(float64\): convert one of them with \.to\("
    with pytest.raises(DTypeError, match=message):
        check_one_kind("conv2d", {"x": single, "weight": double})


def test_two_devices_are_refused(cupy):
    with pytest.raises(DeviceError, match=r"add got x \(cpu\) and y \(cuda:0\)"):
        check_one_kind("add", {"x": np.ones(2), "y": cupy.ones(2)})


def test_a_number_of_numpy_is_not_asked_to_move(cupy):
    x = Tensor(cupy.ones(2, "f"))
    message = r"^mul got x \(cuda:0\) and y \(cpu\): use float\(y\)$"
    with pytest.raises(DeviceError, match=message):
        x * np.float32(2)
    with pytest.raises(DeviceError, match=r"y \(cpu\): convert one of them with \.to\("):
        x * Tensor(np.ones(2, "f"))
    assert (x * float(np.float32(2))).numpy().tolist() == [2, 2]


def test_errors_have_one_root_and_python_types():
    assert issubclass(DeviceError, Error)
    assert issubclass(DeviceError, RuntimeError)
    assert issubclass(DTypeError, Error)
    assert issubclass(DTypeError, TypeError)


def test_nobody_else_imports_cupy():
    files = [f for f in Path(minifcn.__file__).parent.rglob("*.py") if f.name != "gpu_probe.py"]
    assert len(files) > 10
    for file in files:
        assert not re.search(r"^\s*(import|from) cupy", file.read_text(), re.MULTILINE), file


def test_an_operation_that_runs_out_of_memory_is_named():
    given = {"x": np.zeros((2, 3), "f"), "no array": "anything"}
    with (
        pytest.raises(OutOfMemoryError, match=r"^add of x \(2, 3\): Unable to allocate") as caught,
        Operation("the outer one", {"w": np.ones(1)}),
        Operation("add", given),
    ):
        np.empty(1 << 50)
    assert "use fewer or smaller images at a time" in str(caught.value)
    assert [array.shape for array in caught.value.arrays] == [(2, 3), (1,)]
    assert caught.value.__notes__ == ["in the outer one"]
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize("kind", [np.nan, np.inf, -np.inf])
def test_debugging_names_the_operation_that_makes_what_is_not_finite(xp, kind):
    x = xp.asarray(np.array([1.0, -2.0]))
    with Operation("mul", {"x": x}, debug=True) as check:
        assert check(x) is x
        assert check("no array") == "no array"
        assert check(x.astype(int)).dtype == int
        word = "nan" if np.isnan(kind) else "inf"
        with pytest.raises(NotFiniteError, match=rf"^mul made {word} of x \(2,\) from -2 to 1$"):
            check(x * kind)
    with Operation("mul", {"x": x}) as check:
        assert not np.isfinite(to_numpy(check(x * kind))).any()


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_debugging_is_asked_for_by_the_environment(monkeypatch, value, expected):
    monkeypatch.setenv("MINIFCN_DEBUG", value)
    assert debugging() == expected
    monkeypatch.delenv("MINIFCN_DEBUG")
    assert not debugging()
