"""The tutorial: each notebook belongs to its text, was executed, and (on request) still comes out.

``pytest --notebooks`` executes all of them in fresh kernels, which takes some minutes.
"""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="the extra 'notebooks' is not installed")
pytest.importorskip("nbclient", reason="the extra 'notebooks' is not installed")

FOLDER = Path(__file__).parent.parent / "notebooks"
spec = importlib.util.spec_from_file_location("build_notebooks", FOLDER / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

every_notebook = pytest.mark.parametrize("name", build.names())


def test_all_notebooks_have_a_text():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(build.names())


@every_notebook
def test_rules(name):
    assert build.faults(name, build.notebook_of(name)) == []


@every_notebook
@pytest.mark.notebooks
def test_it_comes_out_as_it_is_stored(name):
    notebook, seconds = build.execute(name)
    print(f"{name}: {seconds:.0f} s")
    assert build.differences(build.notebook_of(name), notebook) == []
    assert seconds < build.PATIENCE * build.SECONDS
