"""The package as its users meet it: quick to import, with the promised names, well declared."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import minifcn
import minifcn.functional as F
from minifcn import data, metrics, models, nn, optim, stopping, weights
from minifcn.bench import PEERS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LIMIT = 0.3  # seconds for `import minifcn`


def python(code):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "MINIFCN_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_takes_little_time():
    """The best of five, in processor time, so that other programs do not count."""
    code = "import time; t = time.process_time(); import minifcn; print(time.process_time() - t)"
    assert min(float(python(code)) for _ in range(5)) < LIMIT


def test_importing_loads_numpy_and_nothing_else():
    code = """
import sys
import numpy
before = set(sys.modules)
import minifcn
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    loaded = set(python(code).split())
    assert "minifcn" in loaded
    assert loaded - set(sys.stdlib_module_names) - {"minifcn", "numpy"} == set()


def test_a_forward_and_a_backward_pass_need_no_image_or_terminal_library():
    code = """
import sys
import numpy as np
from minifcn import Tensor, functional as F, models, optim
loss = F.cross_entropy(
    models.fcn8s(3, "small")(Tensor(np.ones((1, 3, 9, 9), "f"))), np.zeros((1, 9, 9), int))
loss.backward()
print(*sys.modules)
"""
    loaded = {name.partition(".")[0] for name in python(code).split()}
    assert not loaded & {
        "PIL",
        "typer",
        "rich",
        "click",
        "safetensors",
        "torch",
        "cupy",
        "matplotlib",
    }


def modules():
    """Return all modules of the package, imported."""
    names = [info.name for info in pkgutil.walk_packages(minifcn.__path__, "minifcn.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def test_everything_imports():
    assert len(modules()) > 30


def test_every_error_is_an_error_of_this_package():
    """So that `except minifcn.Error` and the command line catch all that bad input can cause."""
    found = set()
    for module in modules():
        for _, item in inspect.getmembers(module, inspect.isclass):
            if issubclass(item, BaseException) and item.__module__.startswith("minifcn"):
                found.add(item)
    assert len(found) > 5
    stop = {stopping.Stopped}  # is no error, but Ctrl-C, after all was saved
    assert [item for item in found - stop if not issubclass(item, minifcn.Error)] == []


# ---- the names that users, notebooks and other code rely on --------------------------------------

SIGNATURES = {  # PyTorch's argument names and order, where PyTorch has the thing
    F.conv2d: "x weight bias stride padding dilation groups",
    F.conv_transpose2d: "x weight bias stride padding output_padding groups dilation",
    F.max_pool2d: "x kernel_size stride padding dilation ceil_mode",
    F.avg_pool2d: "x kernel_size stride padding ceil_mode count_include_pad",
    F.local_response_norm: "x size alpha beta k",
    F.cross_entropy: "x target weight ignore_index reduction",
    F.crop: "x size offset",
    F.linear: "x weight bias",
    F.softmax: "x dim",
    F.log_softmax: "x dim",
    F.pad: "x pad value",
    F.relu: "x",
    F.cat: "tensors dim",
    F.dropout: "x p training rng",
    nn.Conv2d: "in_channels out_channels kernel_size stride padding dilation groups bias",
    nn.ConvTranspose2d: "in_channels out_channels kernel_size stride padding output_padding groups "
    "bias dilation",
    nn.MaxPool2d: "kernel_size stride padding dilation ceil_mode",
    nn.AvgPool2d: "kernel_size stride padding ceil_mode count_include_pad",
    nn.LocalResponseNorm: "size alpha beta k",
    nn.Linear: "in_features out_features bias",
    nn.Dropout: "p",
    nn.ReLU: "",
    nn.init.bilinear_: "parameter",
    optim.SGD: "params lr momentum weight_decay nesterov",
    models.vgg16: "num_classes",
    models.fcn32s: "num_classes backbone",
    models.fcn16s: "num_classes backbone",
    models.fcn8s: "num_classes backbone",
    minifcn.Tensor: "data requires_grad",
    minifcn.checkpoint: "fn inputs",
    minifcn.no_grad: "",
    minifcn.Tensor.backward: "self gradient retain_graph create_graph",
    nn.Module.load_state_dict: "self state strict",
    nn.Module.train: "self mode",
    nn.Module.to: "self target",
}
DEFAULTS = {
    F.conv2d: {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    F.max_pool2d: {"stride": None, "ceil_mode": False},
    F.avg_pool2d: {"stride": None, "count_include_pad": True},
    F.local_response_norm: {"alpha": 1e-4, "beta": 0.75, "k": 1.0},
    F.cross_entropy: {"weight": None, "ignore_index": 255, "reduction": "mean"},
    F.dropout: {"p": 0.5, "training": True},
    optim.SGD: {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False},
    models.fcn8s: {"num_classes": 21, "backbone": "vgg16"},
    nn.Module.load_state_dict: {"strict": True},
    minifcn.Tensor: {"requires_grad": False},
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__name__)
def test_arguments_have_the_promised_names_and_order(function):
    expected = SIGNATURES[function].split()
    parameters = inspect.signature(function).parameters
    assert list(parameters)[: len(expected)] == expected
    for name in set(parameters) - set(expected):  # what we add does not get in the way
        assert parameters[name].default is not inspect.Parameter.empty or name == "options"
    for name, value in DEFAULTS.get(function, {}).items():
        assert parameters[name].default == value


def test_tensors_have_the_promised_members():
    promised = "data grad shape dtype device requires_grad backward detach numpy item to"
    assert set(promised.split()) <= set(dir(minifcn.Tensor))


def test_modules_have_the_promised_members():
    promised = "parameters named_parameters state_dict load_state_dict train eval to"
    assert set(promised.split()) <= set(dir(nn.Module))


@pytest.mark.parametrize(
    "module", [minifcn, F, nn, models, data, weights], ids=lambda m: m.__name__
)
def test_what_a_module_offers_exists(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_the_confusion_matrix_is_there():
    assert metrics.ConfusionMatrix


# ---- packaging -----------------------------------------------------------------------------------


def test_the_version_is_said_once_and_in_the_changelog():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", minifcn.__version__)
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "minifcn._version.__version__"
    }
    assert f"[{minifcn.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_command_leads_to_a_function():
    module, _, function = PROJECT["project"]["scripts"]["minifcn"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_all_files_of_the_package_are_declared():
    """A file that is not Python is installed only if a pattern of package-data names it."""
    package = ROOT / "minifcn"
    declared = {
        path
        for pattern in PROJECT["tool"]["setuptools"]["package-data"]["minifcn"]
        for path in package.glob(pattern)
    }
    assert (package / "py.typed") in declared
    others = [
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    assert [path for path in others if path not in declared] == []


def test_every_folder_of_python_files_is_a_package():
    folders = {path.parent for path in (ROOT / "minifcn").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_what_is_imported_is_declared():
    """The names of the dependencies and extras, against the imports of the source."""
    names = {"pillow": "PIL"}
    project = PROJECT["project"]
    extras = [
        d
        for name in ("datasets", "keras", "onnx", "parallel", "tensorboard")
        for d in project["optional-dependencies"][name]
    ]
    declared = {
        names.get(n, n)
        for d in project["dependencies"] + extras
        for n in [re.split(r"[<>=\[ ]", d)[0]]
    }
    found = set()
    for path in (ROOT / "minifcn").rglob("*.py"):
        imported = set(
            re.findall(r"^\s*(?:import|from) (\w+)", path.read_text("utf-8"), re.MULTILINE)
        )
        # A benchmark compares with libraries where they are installed, and imports no others.
        found |= imported - PEERS.keys() if path.parent.name == "bench" else imported
    outside = found - set(sys.stdlib_module_names) - {"minifcn", "cupy"}
    assert {name for name in outside if _is_module(name)} <= declared | {"rich"}  # typer brings it


def _is_module(name):
    """Tell whether a word after "from" is a module (and not a word of a docstring)."""
    return importlib.util.find_spec(name) is not None


def test_the_readme_has_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    for command in ("pip install . && minifcn demo", "pip install '.[test]' && pytest"):
        assert command in blocks.splitlines()
