import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minifcn import autograd, backend

sys.path.insert(0, str(Path(__file__).with_name("cuda")))  # the stand-in for CuPy, and its parts

WHERE = "where the array operations of this test ran"
COUNT = "count of "


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


@pytest.fixture
def record_count(request):
    """Call it with a name and a number: the sum over all tests is told after the last one."""

    def record(name, number):
        request.node.user_properties.append((COUNT + name, number))  # JUnit's file has it, too

    return record


def pytest_terminal_summary(terminalreporter):
    """Tell what the tests counted, and where the tests of the GPU's code ran."""
    counts, found = Counter(), dict.fromkeys(("GPU", "stand-in", "nowhere"), 0)
    for outcome in ("passed", "failed", "skipped", "xfailed", "xpassed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == WHERE:
                    found[value] += 1
                elif name.startswith(COUNT):
                    counts[name.removeprefix(COUNT)] += value
    if counts:
        told = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
        terminalreporter.write_line(f"counts: {told}")
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


ON_REQUEST = {  # markers of tests that run only where --NAME is given, and what they do
    "notebooks": "executes the notebooks of the tutorial",
    "nightly": "takes minutes, by many more cases of what another test does",
}


def pytest_addoption(parser):
    for name, what in ON_REQUEST.items():
        parser.addoption(f"--{name}", action="store_true", help=f"run also what {what}")


def pytest_collection_modifyitems(config, items):
    for name, what in ON_REQUEST.items():
        if not config.getoption(f"--{name}"):
            skip = pytest.mark.skip(reason=f"{what}: asked for with --{name}")
            for item in items:
                if item.get_closest_marker(name):
                    item.add_marker(skip)
