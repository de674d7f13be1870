"""The precision of convolutions on a GPU: how it is set, and where it does not apply."""

import os
import subprocess
import sys
import threading

import pytest

import minifcn as mf
import minifcn.functional as F
from minifcn.kernels import precision


def test_precision_is_set_for_a_while_and_for_a_thread():
    seen = []
    with mf.use_precision("bf16"):
        with mf.use_precision("fp16"):
            assert precision.current() == "fp16"
        other = threading.Thread(target=lambda: seen.append(precision.current()))
        other.start()
        other.join()
        assert precision.current() == "bf16"
    assert (seen, precision.current()) == (["fp32"], "fp32")


def test_an_unknown_precision_is_an_error():
    message = "'half' .MINIFCN_PRECISION, or use_precision. must be one of fp32, tf32, bf16, fp16"
    with pytest.raises(precision.PrecisionError, match=message):  # noqa: SIM117
        with mf.use_precision("half"):
            pass
    assert precision.current() == "fp32"


def test_the_environment_tells_the_precision():
    code = "from minifcn.kernels import precision; print(precision.current())"
    command, environment = [sys.executable, "-c", code], {**os.environ, "MINIFCN_PRECISION": "tf32"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "tf32\n"


def test_the_cpu_computes_in_its_own_precision_only(rng):
    x = mf.Tensor(rng.normal(size=(1, 4, 5, 5)), requires_grad=True)
    w = mf.Tensor(rng.normal(size=(4, 4, 3, 3)), requires_grad=True)
    y = F.conv2d(x, w)
    with mf.use_precision("tf32"):
        with pytest.raises(mf.Error, match=r"'tf32' is for convolutions on a GPU.*\.to\('cuda'\)"):
            F.conv2d(x, w)
        with pytest.raises(precision.PrecisionError):
            F.conv_transpose2d(x, w)
        with pytest.raises(precision.PrecisionError):
            F.conv2d_weight(x, y, 3)
    with mf.use_precision("fp32"):
        F.conv2d(x, w)
