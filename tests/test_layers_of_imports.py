"""The order of the package: who may import whom, how long files may be, and that all is explained.

The source is only parsed here, never run.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "minifcn"

# A module imports only from the lines above its own; a folder counts as one module.
LEVELS = [
    ["gpu_probe"],
    [
        "_version",
        "backend",
        "curve",
        "flops",
        "plain_text",
        "process_memory",
        "shown",
        "stopping",
    ],
    ["files"],
    ["shapes", "autograd", "data", "json_file", "metrics"],  # of which each needs no other
    [
        "kernels",
        "checkpoint",
        "baselines",
        "step",
        "run_lock",
    ],
    ["functional", "parallel", "run_folder", "loss_scale", "gpu_memory"],
    ["__init__", "gradcheck"],
    ["nn"],
    ["recorded", "optim", "models", "recipes", "diagnose"],
    ["flow", "step_parts", "observer", "stage_result"],
    ["loop"],
    ["weights"],
    ["memory", "layer_table", "snapshot"],
    ["tiling", "viz", "chart"],
    ["labelling", "report", "sample_pictures", "confusion_picture", "about"],
    ["evaluation", "run_log", "layer_statistics"],
    ["runs"],
    ["run_curves", "event_files", "watched_pictures"],
    ["run_tables"],
    ["run_page"],
    ["run_compare"],
    ["watch"],
    ["stage"],
    ["train"],
    ["prediction_folder"],
    ["contact_sheet", "worst", "display"],
    ["predict", "pretrain", "prepare", "progress"],
    ["demo", "bench", "start", "notebook", "profile", "puzzles"],
    ["options", "terminal"],
    ["cli_data_convert", "cli_resume"],
    [
        "cli_train",
        "cli_pretrain",
        "cli_predict",
        "cli_bench",
        "cli_info",
        "cli_export",
        "cli_convert",
        "cli_data",
        "cli_runs",
    ],
    ["cli_evaluate", "cli_profile"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# Where the table allows more than it should.
ONLY = {"kernels": {"backend", "shapes"}, "shapes": {"backend"}, "autograd": {"backend", "shown"}}
LONGEST, LONGEST_ENGINE = 420, 300  # lines

FILES = sorted(PACKAGE.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def owner(path):
    """Return the module or folder, directly below the package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def imported(path):
    """Yield the dotted names, such as ``minifcn.nn.layers``, of all that a file imports."""
    place = ["minifcn", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = place[: len(place) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own_modules(path):
    """Return which modules and folders directly below the package a file imports."""
    found = set()
    for name in imported(path):
        first, *rest = name.split(".")
        if first == "minifcn":
            is_module = rest and (
                (PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").exists()
            )
            found.add(rest[0] if is_module else "__init__")
    return found


def test_the_files_are_found():
    assert len(FILES) > 30
    assert own_modules(PACKAGE / "functional" / "conv.py") >= {"autograd", "kernels", "shapes"}
    assert own_modules(PACKAGE / "__init__.py") >= {"autograd", "_version"}


@every_file
def test_every_module_has_a_level(path):
    assert owner(path) in LEVEL, "add it to LEVELS, below all that it imports"


@every_file
def test_imports_run_one_way(path):
    here = owner(path)
    for name in own_modules(path) - {here}:
        assert LEVEL.get(name, 99) < LEVEL.get(here, 0), (
            f"{here} imports {name}, which stands below it"
        )
    assert own_modules(path) - {here} <= ONLY.get(here, LEVEL.keys())


@every_file
def test_only_the_backend_names_cupy(path):
    if owner(path) in ("backend", "gpu_probe"):
        return
    assert not [name for name in imported(path) if name.split(".")[0] == "cupy"]
    constants = [n.value for n in ast.walk(tree_of(path)) if isinstance(n, ast.Constant)]
    assert "cupy" not in constants, "sys.modules['cupy'] or import_module('cupy')"


@every_file
def test_files_stay_short(path):
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= (LONGEST_ENGINE if owner(path) == "autograd" else LONGEST)


@every_file
def test_every_file_says_by_its_name_what_is_in_it(path):
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}


def public(tree, prefix=""):
    """Yield the public classes, functions and methods of a module, with their dotted names."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


@every_file
def test_everything_public_has_a_docstring(path):
    tree = tree_of(path)
    if path.name != "__main__.py":
        assert ast.get_docstring(tree), "the module"
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == []


@every_file
def test_every_function_has_type_hints(path):
    """All arguments and the result, private functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare, f"{node.name}: {bare}"
            assert node.returns is not None or node.name == "__init__", node.name
