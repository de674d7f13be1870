"""Make the notebooks: each is a text, from which a notebook with all its outputs is made.

    python notebooks/build.py            # all that are not up to date
    python notebooks/build.py 04 P1      # these
    python notebooks/build.py --check    # say which are not up to date, and what breaks a rule

The text `notebooks/text/NN_name.md` (Markdown with code cells, MyST) is what people write and
review. The notebook `notebooks/NN_name.ipynb` is what people open: its cells are those of the text,
executed in a fresh kernel, with a checksum of the cells that were executed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from minifcn.files import replacing

FOLDER = Path(__file__).parent
TEXTS = FOLDER / "text"
MOST_CELLS = 25
MOST_BYTES = 2_000_000  # of a notebook with its pictures
SECONDS = 60  # that a notebook may take on two cores
SLOWER = 5  # times that a machine may be
NEAR = 0.05  # of a picture's size: a chart is as wide as the numbers at its axes need
NOT_COMPARED = "varies"  # the tag of cells whose output is another each time
FRAME = ("What you will build", "What you will see", "What you will check", "What you need")
END = ("Exercises", "Questions", "Next")
QUESTIONS = 5


def names() -> list[str]:
    """Return the names of all notebooks, in order."""
    return sorted(path.stem for path in TEXTS.glob("*.md"))


def text_of(name: str) -> nbformat.NotebookNode:
    """Return the cells of a text."""
    notebook = jupytext.read(TEXTS / f"{name}.md", fmt="md:myst")
    for cell in notebook.cells:
        cell.metadata.pop("editable", None)
    return notebook


def notebook_of(name: str) -> nbformat.NotebookNode | None:
    """Return the notebook as it is stored, if there is one."""
    path = FOLDER / f"{name}.ipynb"
    return nbformat.read(path, as_version=4) if path.exists() else None


def checksum(notebook: nbformat.NotebookNode) -> str:
    """Return a checksum of the code that makes the outputs."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def execute(name: str) -> tuple[nbformat.NotebookNode, float]:
    """Return a notebook made of its text, executed in a fresh kernel, and the seconds it took."""
    notebook = text_of(name)
    start = time.perf_counter()
    folder = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(
        notebook,
        timeout=SLOWER * SECONDS,
        kernel_name="python3",
        resources=folder,
        coalesce_streams=True,  # what is printed in one cell is one output, however it arrives
        extra_arguments=["--log-level=40"],  # errors; not that it listens on this machine
    ).execute()
    seconds = time.perf_counter() - start
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name[:2]}-{number:02d}".lower()
        cell.metadata.pop("execution", None)  # the times
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "minifcn": {"checksum": checksum(notebook)},
    }
    return notebook, seconds


def faults(name: str, notebook: nbformat.NotebookNode | None) -> list[str]:
    """Return what breaks a rule in a notebook as it is stored."""
    if notebook is None:
        return ["there is no notebook yet"]
    text, found = text_of(name), []
    if [(c.cell_type, c.source) for c in text.cells] != [
        (c.cell_type, c.source) for c in notebook.cells
    ]:
        found.append("its cells are not those of its text")
    if notebook.metadata.get("minifcn", {}).get("checksum") != checksum(text):
        found.append("its outputs are those of other cells")
    if len(text.cells) > MOST_CELLS:
        found.append(f"it has {len(text.cells)} cells, more than {MOST_CELLS}")
    if (size := len(nbformat.writes(notebook))) > MOST_BYTES:
        found.append(f"it has {size:,} bytes, more than {MOST_BYTES:,}")
    if "assert" not in "".join(c.source for c in text.cells if c.cell_type == "code"):
        found.append("it asserts nothing")
    prose = "\n".join(cell.source for cell in text.cells if cell.cell_type == "markdown")
    return found + list(_faults_of_prose(prose)) + list(_faults_of_outputs(notebook))


def _faults_of_prose(prose: str) -> Iterator[str]:
    if not re.match(r"# \S", prose):
        yield "it does not begin with a title"
    yield from (f"it has no {part!r}" for part in FRAME if part not in prose)
    sections = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", prose, re.MULTILINE | re.DOTALL))
    yield from (f"it has no section {part!r}" for part in END if part not in sections)
    for part in END[:2]:
        if "<details>" not in sections.get(part, ""):
            yield f"it has no folded answers under {part!r}"
    questions = sections.get("Questions", "").partition("<details>")[0]
    if (count := len(re.findall(r"^\d+\. ", questions, re.MULTILINE))) != QUESTIONS:
        yield f"it asks {count} questions, not {QUESTIONS}"


def _faults_of_outputs(notebook: nbformat.NotebookNode) -> Iterator[str]:
    pictures = 0
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None:
            yield f"cell {number} was not executed"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {number} ends in {output.ename}"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"cell {number} writes to stderr: {output.text[:80]!r}"
            data = output.get("data", {})
            if "image/png" in data:
                pictures += 1
                if not output.metadata.get("image/png", {}).get("alt"):
                    yield f"cell {number} shows a picture without alt text"
            pictures += "image/svg+xml" in data or "<img" in data.get("text/html", "")
    if not pictures:
        yield "it shows no picture"


def differences(before: nbformat.NotebookNode, after: nbformat.NotebookNode) -> list[str]:
    """Return which cells put out something else than is stored, pictures by text and size only."""
    found = []
    for number, (old, new) in enumerate(zip(before.cells, after.cells, strict=True)):
        if old.cell_type != "code" or NOT_COMPARED in old.metadata.get("tags", []):
            continue
        stored, now = _told(old), _told(new)
        if len(stored) != len(now) or not all(map(_alike, stored, now)):
            found.append(f"cell {number}: stored {stored!r}, now {now!r}")
    return found


def _alike(stored: object, now: object) -> bool:
    """Tell whether two things that a cell put out are the same; of pictures, the size about so."""
    if not (isinstance(stored, dict) and isinstance(now, dict)):
        return stored == now
    sizes = [[picture.get(side, 0) for side in ("width", "height")] for picture in (stored, now)]
    near = all(abs(a - b) <= NEAR * max(a, b) for a, b in zip(*sizes, strict=True))
    return stored.get("alt") == now.get("alt") and near


def _told(cell: nbformat.NotebookNode) -> list[object]:
    """Return what a cell put out that must be the same each time."""
    told: list[object] = []
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":
            if output.name == "stdout":  # stderr: what a newer library warns of
                told.append(output.text)
        elif "image/png" in data:
            told.append(dict(output.metadata.get("image/png", {})))
        else:
            told.append(re.sub(r"0x[0-9a-f]+", "0x", data.get("text/plain", "")))
    return told


def build(name: str) -> None:
    """Execute a text and store it with its outputs as a notebook."""
    try:
        notebook, seconds = execute(name)
    except CellExecutionError as error:
        sys.exit(f"{name}: {error}")
    path = FOLDER / f"{name}.ipynb"
    with replacing(path) as temporary:
        nbformat.write(notebook, temporary)
    found = faults(name, notebook_of(name))
    print(f"{name}: {seconds:.0f} s" + "".join(f"\n  {fault}" for fault in found), flush=True)


def format_code(chosen: list[str]) -> None:
    """Let ruff format texts: their code cells, and the Python code in their prose."""
    for name in chosen:
        notebook = text_of(name)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = _formatted(cell.source, "cell.py")
        text = jupytext.writes(notebook, fmt="md:myst")
        # Not with which version it was written: that would change with every author.
        text = re.sub(r"^ +(format|jupytext)_version: .*\n", "", text, flags=re.MULTILINE)
        text = _formatted(text, "text.md") + "\n"
        path = TEXTS / f"{name}.md"
        if text != path.read_text(encoding="utf-8"):
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


def _formatted(text: str, called: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "-", "--stdin-filename", called]
    root = FOLDER.parent  # where ruff finds the project's settings
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, cwd=root
    )
    if done.returncode:
        sys.exit(f"ruff cannot format this:\n{text}\n{done.stderr}")
    return done.stdout.rstrip("\n")


def main() -> None:
    """Build or check notebooks."""
    parser = argparse.ArgumentParser(description="Make the notebooks from their texts.")
    parser.add_argument("which", nargs="*", help="such as 04 or P1; all that need it if none")
    parser.add_argument("--check", action="store_true", help="only say what is wrong")
    given = parser.parse_args()
    chosen = [n for n in names() if not given.which or n.split("_")[0] in given.which]
    if given.check:
        wrong = {name: faults(name, notebook_of(name)) for name in chosen}
        for name, found in wrong.items():
            print(f"{name}: " + ("; ".join(found) or "all right"))
        sys.exit(any(wrong.values()))
    format_code(chosen)
    for name in chosen:
        if given.which or faults(name, notebook_of(name)):
            build(name)


if __name__ == "__main__":
    main()
