import numpy as np
import pytest

from minifcn import autograd, backend


@pytest.fixture
def cupy():
    """CuPy; a test that takes this is skipped where it cannot compute."""
    module, reason = backend.probe_cuda()
    if module is None:
        pytest.skip(reason)
    return module


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """NumPy, then CuPy: a test that takes this runs on both."""
    return np if request.param == "numpy" else request.getfixturevalue("cupy")


@pytest.fixture(autouse=True)
def modes():
    """Fail a test that leaves recording switched off, or debugging switched on."""
    before = (autograd._mode.recording, autograd._mode.debug)
    yield
    after = (autograd._mode.recording, autograd._mode.debug)
    assert after == before, f"(recording, debug) was {before} before the test and is {after} now"


@pytest.fixture
def rng():
    """Random numbers, the same in each run."""
    return np.random.default_rng(0)
