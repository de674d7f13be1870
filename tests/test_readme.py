"""README.md and README.zh-CN.md: commands, code, links and numbers are right, and the same."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

from minifcn import cli
from minifcn.data.sources import SOURCES, example

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in (ENGLISH, CHINESE)}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)]+)\)")

in_both = pytest.mark.parametrize("name", TEXTS)


def blocks(name, language):
    """Return the fenced blocks of one language."""
    return [text for kind, text in FENCE.findall(TEXTS[name]) if kind == language]


def command_lines(name):
    """Return the words of each command in the fenced blocks, without comments."""
    text = "".join(blocks(name, "sh")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [part for line in lines for part in split(line, "&&")]


def split(words, at):
    """Return the parts of a list between words of one kind; none of them empty."""
    parts = [[]]
    for word in words:
        if word == at:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def minifcn_lines(name):
    return [words[1:] for words in command_lines(name) if words[0] == "minifcn"]


def inline_commands(name):
    """Return the words of each `minifcn ...` in the prose."""
    prose = FENCE.sub("", TEXTS[name])
    return [shlex.split(code) for code in re.findall(r"`minifcn ([^`]+)`", prose)]


def parse(words):
    """Parse a command line of minifcn without running it, and return its arguments by name."""
    command = typer.main.get_command(cli.app)
    context = command.make_context("minifcn", list(words))
    rest = list(words)
    while hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, f"minifcn {shlex.join(words)}: no command {name!r}"
        command = command.commands[name]
        context = command.make_context(name, list(rest), parent=context)
    return context.params


def table_numbers(name):
    """Return the numbers in each row of each table."""
    rows = re.findall(r"^\|.*\|$", TEXTS[name], re.MULTILINE)
    return [re.findall(r"\d+(?:\.\d+)?", row) for row in rows]


def test_they_link_to_each_other_at_the_top():
    for name, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        assert f"]({other})" in "\n".join(TEXTS[name].splitlines()[:4])


def test_both_have_the_same_commands():
    assert command_lines(ENGLISH) == command_lines(CHINESE)
    assert len(command_lines(ENGLISH)) > 15


def test_both_have_the_same_code():
    codes = [[ast.dump(ast.parse(text)) for text in blocks(name, "python")] for name in TEXTS]
    assert codes[0] == codes[1] != []


def test_both_have_only_blocks_that_are_checked():
    for name in TEXTS:
        assert {kind for kind, _ in FENCE.findall(TEXTS[name])} == {"sh", "python"}


def test_both_have_the_same_tables():
    assert table_numbers(ENGLISH) == table_numbers(CHINESE)
    assert sum(map(len, table_numbers(ENGLISH))) > 80


def test_both_name_the_same_numbers_in_their_prose():
    """Numbers of one digit are left out: they may be words in the one and digits in the other."""
    found = [
        set(re.findall(r"\d+(?:\.\d+)+|\d{2,}", FENCE.sub("", text))) for text in TEXTS.values()
    ]
    assert found[0] == found[1]


def test_both_have_the_same_parts_and_links():
    for pattern in (r"^(#+) ", r"^\*\*(?=.+\*\*)", r"^(- )"):
        counts = [re.findall(pattern, text, re.MULTILINE) for text in TEXTS.values()]
        assert counts[0] == counts[1]
    links = [sorted(address for _, _, address in LINK.findall(text)) for text in TEXTS.values()]
    links[0].remove(CHINESE)
    links[1].remove(ENGLISH)
    assert links[0] == links[1]


@in_both
def test_links_and_pictures_are_there(name):
    found = LINK.findall(TEXTS[name])
    assert found
    for is_picture, text, address in found:
        assert text, f"{address}: no description"
        assert "#" not in address, f"{address}: this test does not look for places in a page"
        assert address.startswith("https://") or (ROOT / address).exists(), address
        if is_picture:
            assert address.endswith(".png")


@in_both
def test_every_notebook_is_linked_to(name):
    linked = {address for _, _, address in LINK.findall(TEXTS[name])}
    there = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert there <= linked, f"{name} does not name {sorted(there - linked)}"


@in_both
def test_every_command_can_be_parsed(name):
    lines = minifcn_lines(name)
    assert len(lines) > 10
    for words in lines:
        parse(words)


@in_both
def test_commands_in_the_prose_exist(name):
    """Arguments may be left out there, and N stands for a number."""
    found = inline_commands(name)
    assert found
    for words in found:
        words = [word if word != "N" else "1" for word in words]
        with pytest.raises(typer.Exit) as stopped:
            parse([*words, "--help"])
        assert stopped.value.exit_code == 0


def test_a_wrong_option_would_be_found():
    with pytest.raises(Exception, match="No such option: --dato"):
        parse(["train", "--dato", "landcover"])
    with pytest.raises(AssertionError, match="no command 'trane'"):
        parse(["trane"])
    with pytest.raises(Exception, match="'slow' is not one of 'quick'"):
        parse(["train", "--data", "landcover", "--out", "run", "--recipe", "slow"])


@in_both
def test_data_sets_are_named_as_they_must_be(name):
    specs = [parse(words).get("data") or parse(words).get("spec") for words in minifcn_lines(name)]
    named = [spec.partition("?")[0] for spec in specs if spec]
    assert named
    for spec in named:
        kind, _, path = spec.partition(":")
        assert bool(path) == SOURCES[kind].has_path, f"{spec} is to be {example(kind)}"


@in_both
def test_programs_and_extras_exist(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extra in re.findall(r"'(?:minifcn|\.)\[([\w,]+)\]'", TEXTS[name]):
        assert set(extra.split(",")) <= set(project["optional-dependencies"]), extra
    for program in re.findall(r"python (\S+\.py)", TEXTS[name]):
        assert (ROOT / program).is_file(), program


def test_the_python_code_runs(capsys):
    (code,) = blocks(ENGLISH, "python")
    found = {}
    exec(compile(code, ENGLISH, "exec"), found)
    assert 0 < found["loss"].data < 10


def test_the_engine_is_as_short_as_is_said():
    (lines,) = {int(n) for n in re.findall(r"engine of (\d+) lines", TEXTS[ENGLISH])}
    assert len((ROOT / "minifcn/autograd.py").read_text("utf-8").splitlines()) <= lines


def test_the_tour_names_files_that_exist():
    text = (ROOT / "docs/tour.md").read_text("utf-8")
    there = [
        path.as_posix() for place in ("minifcn", "tests") for path in (ROOT / place).rglob("*")
    ]
    named = re.findall(r"`([\w/]+(?:\.(?:py|cu|cuh|h)|/))`", text)
    assert len(named) > 60
    assert [
        name
        for name in named
        if not any(f"{path}/".endswith(f"/{name.rstrip('/')}/") for path in there)
    ] == []
