"""`minifcn runs`: which runs there are, how they stand, and pages that compare them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from run_folders import trained, written
from strict_page import Page

from minifcn import cli, runs
from minifcn.run_compare import write_comparison
from minifcn.run_log import LogError


@pytest.fixture
def some(tmp_path):
    """A folder with three runs of 10, 20 and 30 steps, in two subfolders."""
    begun = {"command": "minifcn train A", "given": {"seed": 1}, "options": {}}
    written(tmp_path / "a" / "one", steps=10, state="finished", seed=1, **begun)
    written(tmp_path / "a" / "two", steps=20, state="failed", seed=2)
    written(tmp_path / "b", steps=30, total=60, state="running", seed=1)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command line; return exit code, output and errors."""

    def called(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["runs", *map(str, arguments)])
        return exit_.value.code or 0, *capsys.readouterr()

    return called


def names(output):
    """Return the last part of each folder of a table."""
    return re.findall(r"^\S*?(\w+) +(?:finished|running|stopped|failed)", output, re.MULTILINE)


def test_runs_are_found_wherever_they_are(some):
    (some / "a" / "one" / "fcn8s" / "config.json").write_text("{}")  # within a run there is none
    (some / ".hidden").mkdir()
    (some / ".hidden" / "config.json").write_text("{}")
    (some / "link").symlink_to(some)
    found = [some / "a" / "one", some / "a" / "two", some / "b"]
    assert runs.find([some]) == found
    assert runs.find([some / "b", some, some / "none"]) == [some / "b", *found[:2]]


def test_a_run_tells_what_it_is(some):
    one = runs.facts(runs.read(some / "b"))
    assert one["name"] == "b"
    assert (one["state"], one["stage"], one["step"], one["steps"]) == ("running", "fcn8s", 30, 60)
    assert one["done"] == 0.5
    assert one["seconds"] == 30 * 0.5 + 2 * 1.0
    assert one["loss"] == pytest.approx(2 / 1.5)
    json.dumps(one, allow_nan=False)


def test_a_run_that_was_not_watched_is_told_by_its_log(some):
    shutil.rmtree(some / "a" / "one" / "watch")
    (some / "b" / "watch" / "state.json").unlink()
    assert runs.read(some / "a" / "one").state.name == "finished"
    assert runs.read(some / "b").state.name == "stopped"


def test_a_killed_run_does_not_run(some):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for number, machine, state in (
        (ended.pid, socket.gethostname(), "stopped"),
        (os.getpid(), socket.gethostname(), "running"),
        (ended.pid, "elsewhere", "running"),
        (1, socket.gethostname(), "running"),
        ("x", socket.gethostname(), "running"),
    ):
        lock = {"process": number, "machine": machine}
        (some / "b" / ".lock").write_text(json.dumps(lock))
        assert runs.read(some / "b").state.name == state
    (some / "b" / ".lock").write_text('{"proc')  # just being written
    assert runs.read(some / "b").state.name == "running"
    (some / "b" / ".lock").unlink()  # by the next command that looked into the folder
    assert runs.read(some / "b").state.name == "stopped"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "there is no config.json in it: no run"),
        ("config.json", "{", "config.json: not JSON"),
        ("config.json", "[]", "was not written by a training run"),
        ("config.json", '{"stages": {"fcn8s": 3}}', "was not written by a training run"),
        ("watch/shown.json", '{"heads": {"": 3}}', "shown.json: was not written by"),
        ("watch/shown.json", '{"heads": {"": [["a"], [[1, 2, -3]]]}, "samples": []}', "shown"),
        ("watch/state.json", "7", "state.json: was not written by"),
        ("fcn8s/log.jsonl", "{}\n{}\n", "log.jsonl, line 1: not a line of a training log"),
    ],
)
def test_damaged_runs_are_told(some, name, content, message):
    path = some / "b" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises((runs.RunError, LogError), match=message):
        runs.read(some / "b")


def test_a_stage_that_leads_out_of_the_folder_is_not_followed(some):
    config = json.loads((some / "b" / "config.json").read_text())
    config["stages"]["../a/one/fcn8s"] = config["stages"]["fcn8s"]
    (some / "b" / "config.json").write_text(json.dumps(config))
    assert list(runs.read(some / "b").stages) == ["fcn8s"]


# The command


def test_the_table_lists_all_runs(run, some):
    code, out, err = run(some)
    assert code == 0
    assert names(out) == ["one", "two", "b"]
    line = next(line for line in out.splitlines() if "/one" in line)
    assert "finished" in line
    assert "10 of 10" in line
    assert line.rstrip().endswith(" A")
    assert err == ""


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("name", ["one", "two", "b"]),
        ("mean-iu", ["b", "two", "one"]),
        ("loss", ["one", "two", "b"]),
        ("time", ["one", "two", "b"]),
        ("state", ["two", "one", "b"]),
    ],
)
def test_runs_can_be_sorted(run, some, order, expected):
    assert names(run(some, "--sort", order)[1]) == expected


def test_json_holds_the_same(run, some):
    code, out, _ = run(some, "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)] == ["one", "two", "b"]
    assert json.loads(out)[0]["command"] == "minifcn train A"


def test_one_damaged_run_does_not_hide_the_others(run, some):
    (some / "a" / "two" / "fcn8s" / "log.jsonl").write_text("{}\n{}\n")
    code, out, err = run(some, some / "missing", some / "a" / "one" / "fcn8s")
    assert code == 0
    assert names(out) == ["one", "b"]
    lines = err.splitlines()
    assert len(lines) == 3
    assert "there is no such folder" in lines[0]
    assert "there is no run in it" in lines[1]
    assert "two/fcn8s/log.jsonl, line 1" in lines[2]


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_that_may_not_be_read_does_not_hide_the_others(run, some, monkeypatch, named):
    closed, scandir = some / "a" / "closed", os.scandir
    closed.mkdir()

    def refused(folder):  # as for others than root after chmod 700
        if folder == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(folder)

    monkeypatch.setattr(runs.os, "scandir", refused)
    code, out, err = run(closed if named else some)
    assert (code, err) == (
        0,
        f"minifcn: warning: {closed}: cannot be looked into: Permission denied\n",
    )
    assert names(out) == ([] if named else ["one", "two", "b"])
    with pytest.raises(PermissionError):
        runs.find([some])


def test_files_of_other_programs_are_passed_by(run, some):
    (some / "a" / "other").mkdir()
    (some / "a" / "other" / "config.json").write_text('{"compilerOptions": {}}')
    assert run(some)[2] == ""
    assert "was not written by a training run" in run(some, some / "a" / "other")[2]


def test_no_run_at_all_is_an_error(run, tmp_path):
    code, _, err = run(tmp_path)
    assert code == 2
    assert "there is no run in" in err.replace("\n", " ")
    assert "minifcn train --out FOLDER" in err.replace("\n", " ")


def test_the_report_of_a_killed_run_can_be_written_anew(run, some):
    run(some / "b", "--report")
    assert ">running</b>" in (some / "b" / "report.html").read_text()


# The comparison


def test_the_comparison_shows_what_differs(run, some):
    code, _, err = run(some, "--compare", some / "page.html")
    assert (code, "shows the 3 runs" in err) == (0, True)
    page = (some / "page.html").read_text()
    parsed = Page(page)
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
    assert "seed 1 2 1" in rows
    assert "stages.fcn8s.steps 10 20 60" in rows
    assert not any(row.startswith("data ") for row in rows)  # the same in all
    assert not any(row.startswith(("given.", "options ")) for row in rows)  # of the command; none
    assert any(row.startswith("sea ") and row.count("%") == 3 for row in rows)
    best = [row for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if "class=best" in row]
    assert len(best) == 1
    assert ">b</th>" in best[0]
    assert parsed.tags.count("svg") == 4
    for name in ("one", "two", "b"):
        assert page.count(f">{name}</text>") == 4
    assert "http" not in page
    assert "script" not in parsed.tags


def test_runs_of_other_classes_are_compared_without_them(some):
    written(some / "c", steps=5, classes=("x", "y", "z"))
    found = [runs.read(path) for path in runs.find([some])]
    write_comparison(some / "page.html", found)
    assert "IU of each class" not in (some / "page.html").read_text()


def test_one_run_and_runs_that_have_not_begun_can_be_compared(tmp_path):
    written(tmp_path / "new", steps=0, total=5)
    write_comparison(tmp_path / "page.html", [runs.read(tmp_path / "new")])
    parsed = Page((tmp_path / "page.html").read_text())
    assert "The runs do not differ in their settings." in parsed.text
    assert "nan" not in parsed.text


def test_very_many_runs_have_lines_that_differ(tmp_path):
    for number in range(20):
        written(tmp_path / f"run{number}", steps=10, seed=number)
    write_comparison(tmp_path / "page.html", [runs.read(p) for p in runs.find([tmp_path])])
    page = (tmp_path / "page.html").read_text()
    looks = re.findall(r'<polyline class="(c\d)"( stroke-dasharray="[^"]+")?', page)
    assert len(set(looks)) == 20


def test_a_real_run_is_listed(run, tmp_path):
    trained(tmp_path / "real")
    code, out, _ = run(tmp_path)
    assert code == 0
    assert re.search(r"real +finished +fcn8s +6 of 6", out)
