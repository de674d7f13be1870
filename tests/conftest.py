import sys
from pathlib import Path

import numpy as np
import pytest

from minifcn import autograd, backend

sys.path.insert(0, str(Path(__file__).with_name("cuda")))  # the stand-in for CuPy, and its parts

WHERE = "where the array operations of this test ran"


@pytest.fixture
def standin(request):
    """A module that acts as CuPy, without a GPU: `import cupy` finds it during the test."""
    import on_cpu
    import standin

    if not on_cpu.available():
        pytest.skip("the stand-in for CuPy needs g++, which is not installed")
    request.node.user_properties.append((WHERE, "stand-in"))
    with standin.installed() as module:
        backend.probe_cuda.cache_clear()
        yield module
    backend.probe_cuda.cache_clear()


@pytest.fixture
def gpu(request):
    """CuPy on a GPU; a test that takes this is skipped where it cannot compute."""
    module, reason = backend.probe_cuda()
    request.node.user_properties.append((WHERE, "GPU" if module else "nowhere"))
    if module is None:
        pytest.skip(reason)
    return module


@pytest.fixture(params=["standin", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request):
    """The stand-in for CuPy, then CuPy on a GPU: a test that takes this runs on both."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["numpy", "standin", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """NumPy, then the stand-in for CuPy, then CuPy: a test that takes this runs on all three."""
    names = {"standin": "standin", "cupy": "gpu"}
    return np if request.param == "numpy" else request.getfixturevalue(names[request.param])


def pytest_terminal_summary(terminalreporter):
    """Tell how many tests of the GPU's code ran on a GPU, on the stand-in, and not at all."""
    found = dict.fromkeys(("GPU", "stand-in", "nowhere"), 0)
    for outcome in ("passed", "failed", "skipped", "xfailed", "xpassed"):
        for report in terminalreporter.stats.get(outcome, []):
            where = dict(getattr(report, "user_properties", ())).get(WHERE)
            if where in found:
                found[where] += 1
    if any(found.values()):
        terminalreporter.write_line(
            f"tests of the GPU's code: {found['GPU']} ran on a GPU, {found['stand-in']} on the "
            f"stand-in for CuPy, {found['nowhere']} not at all for want of a GPU"
        )


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


def pytest_addoption(parser):
    parser.addoption(
        "--notebooks", action="store_true", help="execute the notebooks of the tutorial, too"
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--notebooks"):
        skip = pytest.mark.skip(reason="executes notebooks: asked for with --notebooks")
        for item in items:
            if item.get_closest_marker("notebooks"):
                item.add_marker(skip)
