"""Each kernel names the function for the CPU that it is the twin of; such a function exists.

Or it says that there is none, and what it is compared with.
"""

import ast
import re
from pathlib import Path

import pytest

import minifcn
from minifcn.kernels.cuda import launch

PACKAGE = Path(minifcn.__file__).parent
DOCS = PACKAGE.parent / "docs" / "cuda.md"
LABEL = re.compile(r"^// (?:Twin: (\S+\.py) ([\w.]+)\b|No twin, as .*: tests compare with )", re.M)


def twins(file):
    """Return the twin's file and function of each kernel, by its name; None if it has none."""
    found = {}
    for part in launch.text(file).split('extern "C" __global__ void')[:-1]:
        comment = re.search(r"((?:^//.*\n)*)\Z", part, re.M)[1]
        labels = LABEL.findall(comment)
        assert len(labels) == 1, f"kernel {len(found)} of {file} needs one label:\n{comment}"
        found[len(found)] = labels[0] if labels[0][0] else None
    return found


def functions(tree, before=""):
    """Yield the names of all functions of a module, those of its classes as ``Class.method``."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield before + node.name
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{node.name}.")


@pytest.mark.parametrize("file", launch.kernel_files())
def test_every_kernel_names_its_twin(file):
    found = twins(file)
    assert len(found) == launch.text(file).count("__global__")
    for place, name in filter(None, found.values()):
        assert name in functions(ast.parse((PACKAGE / place).read_text("utf-8"))), (file, name)


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed")
@pytest.mark.parametrize("file", launch.kernel_files())
def test_the_table_in_the_documentation_names_their_files(file):
    (row,) = re.findall(rf"^\| `{re.escape(file)}` \|.*\| (.*) \|$", DOCS.read_text("utf-8"), re.M)
    named = {twin[0] for twin in twins(file).values() if twin}
    assert set(re.findall(r"`(\S+\.py)`", row)) == named
