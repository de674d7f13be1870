"""The tutorial: each notebook belongs to its text, was executed, and (on request) still comes out.

``pytest --notebooks`` executes all of them in fresh kernels, which takes some minutes.
"""

import copy
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="the extra 'notebooks' is not installed")
pytest.importorskip("nbclient", reason="the extra 'notebooks' is not installed")
nbformat = pytest.importorskip("nbformat")  # comes with nbclient

FOLDER = Path(__file__).parent.parent / "notebooks"
spec = importlib.util.spec_from_file_location("build_notebooks", FOLDER / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

every_notebook = pytest.mark.parametrize("name", build.names())

GOOD = """# Do it

What you will build, What you will see, What you will check, What you need

```{code-cell} ipython3
assert 1 + 1 == 2
print("two")
```

```{code-cell} ipython3
:tags: [varies]

print("a time")
```

## Exercises

<details>None.</details>

## Questions

1. a
2. b
3. c
4. d
5. e

<details>None.</details>

## Next
"""
PICTURE = {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": "A cat."}}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return a function that stores a text, and a notebook of it as if it had been executed."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(build, "TEXTS", tmp_path)

    def make(text=GOOD):
        (tmp_path / "00_try.md").write_text(text, encoding="utf-8")
        notebook = build.text_of("00_try")
        for cell, printed in zip(notebook.cells[1:3], ["two", "0.1 s"], strict=True):
            cell.execution_count = 1
            told = {"output_type": "stream", "name": "stdout", "text": printed}
            cell.outputs = [nbformat.from_dict(told)]
        picture = {**PICTURE, "metadata": {"image/png": {"alt": "A cat.", "width": 9}}}
        notebook.cells[1].outputs.append(nbformat.from_dict(picture))
        notebook.metadata = nbformat.from_dict({"minifcn": {"checksum": build.checksum(notebook)}})
        return notebook

    return make


def test_a_good_notebook_breaks_no_rule(made):
    assert build.faults("00_try", made()) == []


def test_no_notebook(made):
    made()
    assert build.faults("00_try", build.notebook_of("00_try")) == ["there is no notebook yet"]


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("# Do it", "Do it", "it does not begin with a title"),
        ("What you will see, ", "", "it has no 'What you will see'"),
        ("## Exercises", "## Tasks", "it has no section 'Exercises'"),
        ("## Next", "The end", "it has no section 'Next'"),
        ("5. e\n\n<details>None.</details>", "5. e", "it has no folded answers under 'Questions'"),
        ("5. e", "", "it asks 4 questions, not 5"),
        ("assert 1 + 1 == 2", "1 + 1", "it asserts nothing"),
        ("## Next", "## Next" + "\n\n+++\n\nMore" * 22, "it has 26 cells, more than 25"),
    ],
)
def test_rules_for_the_text(made, before, after, fault):
    assert before in GOOD
    assert fault in build.faults("00_try", made(GOOD.replace(before, after)))


def _another_source(notebook):
    notebook.cells[0].source += " more"


def _another_checksum(notebook):
    notebook.metadata.minifcn.checksum = "0"


def _not_executed(notebook):
    notebook.cells[1].execution_count = None


def _an_error(notebook):
    failed = {"output_type": "error", "ename": "KeyError", "evalue": "", "traceback": []}
    notebook.cells[1].outputs.append(nbformat.from_dict(failed))


def _a_warning(notebook):
    warned = {"output_type": "stream", "name": "stderr", "text": "Careful"}
    notebook.cells[1].outputs.append(nbformat.from_dict(warned))


def _no_alt_text(notebook):
    notebook.cells[1].outputs[1].metadata = nbformat.from_dict({})


def _no_picture(notebook):
    del notebook.cells[1].outputs[1]


def _too_large(notebook):
    notebook.cells[1].outputs[1].data["image/png"] = "A" * 3_000_000


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_another_source, "its cells are not those of its text"),
        (_another_checksum, "its outputs are those of other cells"),
        (_not_executed, "cell 1 was not executed"),
        (_an_error, "cell 1 ends in KeyError"),
        (_a_warning, "cell 1 writes to stderr: 'Careful'"),
        (_no_alt_text, "cell 1 shows a picture without alt text"),
        (_no_picture, "it shows no picture"),
        (_too_large, "more than 2,000,000"),
    ],
)
def test_rules_for_the_outputs(made, spoil, fault):
    notebook = made()
    spoil(notebook)
    assert [found for found in build.faults("00_try", notebook) if fault in found]


def test_what_must_be_the_same_each_time(made):
    stored, again = made(), made()
    again.cells[2].outputs[0].text = "0.2 s"  # has the tag
    again.cells[1].outputs[1].data["image/png"] = "BBBB"  # letters drawn by another version
    assert build.differences(stored, again) == []
    again.cells[1].outputs[1].metadata["image/png"]["width"] = 205  # numbers at an axis
    stored.cells[1].outputs[1].metadata["image/png"]["width"] = 200
    assert build.differences(stored, again) == []
    for what, other in (("width", 220), ("alt", "A dog.")):
        changed = copy.deepcopy(again)
        changed.cells[1].outputs[1].metadata["image/png"][what] = other
        assert len(build.differences(stored, changed)) == 1
    again.cells[1].outputs[0].text = "three"
    (found,) = build.differences(stored, again)
    assert found.startswith("cell 1: stored ['two'")
    assert "now ['three'" in found


def test_a_lost_picture_is_a_difference(made):
    stored, again = made(), made()
    _no_picture(again)
    assert len(build.differences(stored, again)) == 1


def test_code_is_formatted_and_the_header_says_no_version(made, tmp_path):
    pytest.importorskip("ruff", reason="the extra 'notebooks' is not installed")
    made(GOOD.replace("1 + 1 == 2", "1+1==2"))
    build.format_code(["00_try"])
    text = (tmp_path / "00_try.md").read_text(encoding="utf-8")
    assert "assert 1 + 1 == 2" in text
    assert "version" not in text


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
    assert seconds < build.SLOWER * build.SECONDS
