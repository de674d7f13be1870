"""Benchmarks as a whole: runs, errors, tables and files, the command. No time is judged."""

import io
import json
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from minifcn import bench, cli
from minifcn.bench import machine, measure, runner, sides, table, works
from minifcn.bench.measure import Timing
from minifcn.bench.process import Worker, WorkerError
from minifcn.bench.results import Report, Result, SideResult, round_ratios, total
from minifcn.bench.sides import Side

NET = {"model": "fcn8s", "num_classes": 3, "backbone": "small", "widths": [4, 4, 8, 8, 8]}
TINY = works.Case("tiny", works.TRAIN, {"net": NET, "batch": [2, 3, 16, 20]})
TINY_WORK = works.Work("tiny", "a net of no use", (TINY,), seconds=0.01)


@pytest.fixture
def hasty(monkeypatch):
    """Do not wait for a quiet moment, nor measure large matrices."""
    monkeypatch.setattr(measure, "TRIES", 1)
    monkeypatch.setattr(machine, "SIDE", 64)


# A whole run


def test_a_run_without_any_other_library(hasty, tmp_path):
    report = bench.run([TINY_WORK], [], bench.Settings(rounds=2, threads=1))
    (result,) = report.results
    assert (result.work, result.processes, result.task) == ("tiny", "apart", "step")
    assert len(result.ours.timing.blocks) == 2
    assert result.groups() == []
    assert result.gflops(result.ours) > 0
    assert result.ours.memory["peak"] > 0 or sys.platform != "linux"
    assert report.failures == []
    assert report.peaks["1"] > 0
    assert text_of(table.work_table(report, "tiny", "apart")).count("\n") == 3


@pytest.mark.oracle
@pytest.mark.parametrize("processes", ["apart", "together"])
def test_a_run_against_pytorch(hasty, processes):
    pytest.importorskip("torch")
    settings = bench.Settings(rounds=1, threads=1, processes=processes, layout="channels_last")
    told = []

    class Listener(bench.Observer):
        def working(self, what, share):
            told.append((what, share))

    layer = works.Work("layer", "", (works.layer(2, 2, 4, first=True),), 0.01)
    report = bench.run([TINY_WORK, layer], ["torch"], settings, Listener())
    assert [r.task for r in report.results] == ["step", "forward", "weight gradient"]
    assert {tuple(s.side.label for s in r.sides) for r in report.results} == {
        ("minifcn", "PyTorch (channels_last)")
    }
    assert max(s.difference for r in report.results for s in r.sides) < 1e-4
    assert [s.memory is None for s in report.results[0].sides] == [processes == "together"] * 2
    assert told[0] == (f"tiny, {processes}", 0)
    assert told[-1][1] == 1


def test_a_missing_library_is_reported_and_the_rest_is_measured(hasty, monkeypatch):
    monkeypatch.setattr(sides, "find_spec", lambda name: None)
    report = bench.run([TINY_WORK], ["torch"], bench.Settings(1, 1))
    assert "PyTorch is not installed: pip install torch" in report.notes
    assert [side.side.peer for side in report.results[0].sides] == ["minifcn"]


def test_a_broken_library_is_reported_and_the_rest_is_measured(hasty, monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libgomp.so is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sides, "find_spec", lambda name: True)
    report = bench.run([TINY_WORK], ["torch"], bench.Settings(1, 1))
    (note,) = (note for note in report.notes if "libgomp" in note)
    assert note == (
        "PyTorch cannot be used (PyTorch (contiguous) failed at 'hello': ImportError: "
        "libgomp.so is missing): pip install torch"
    )
    assert len(report.results[0].sides) == 1


def test_a_library_that_fails_is_a_failure_of_the_run_but_not_its_end(hasty, monkeypatch):
    monkeypatch.setitem(sides.PEERS, "json", sides.Peer("JSON", "nothing", ()))
    report = bench.run([TINY_WORK], ["json"], bench.Settings(1, 1))
    assert report.failures == ["tiny, apart: JSON failed at 'hello': KeyError: 'json'"]
    assert len(report.results) == 1


def test_our_own_failure_ends_the_run(hasty):
    wrong = replace(TINY, settings={**TINY.settings, "batch": [0, 3, 16, 16]})
    with pytest.raises(WorkerError, match="minifcn failed at 'build'"):
        bench.run([works.Work("wrong", "", (wrong,))], [], bench.Settings(1, 1))


def test_a_library_that_cannot_do_a_work_is_noted(hasty, monkeypatch):
    monkeypatch.setattr(sides, "find_spec", lambda name: True)
    report = bench.run([TINY_WORK], ["mygrad"], bench.Settings(1, 1))
    assert "MyGrad cannot do tiny" in report.notes


def test_tuned_sides_keep_freed_memory(hasty, monkeypatch):
    asked, environments = [], []

    class Recorder(Worker):
        def __init__(self, name, threads, environment=None):
            environments.append((name, environment))
            super().__init__(name, threads, environment)

        def ask(self, do, **arguments):
            asked.append((self.name, arguments.get("keep_memory")))
            return super().ask(do, **arguments)

    monkeypatch.setattr(runner, "Worker", Recorder)
    report = bench.run([TINY_WORK], [], bench.Settings(1, 1, tuned=True))
    assert ("minifcn", False) in asked
    assert ("minifcn, tuned", True) in asked
    assert environments == [("minifcn", None), ("minifcn, tuned", None)]
    assert [entry.side.tuned for entry in report.results[0].all_ours()] == [False, True]
    assert report.results[0].ours.side.tuned is False


def test_tuned_is_compared_with_tuned(report):
    step = report.results[0]
    plain, its = step.ours, step.sides[1]
    tuned = replace(plain, side=Side("minifcn", tuned=True), timing=Timing([6.0] * 3, [True] * 3))
    its_tuned = replace(its, side=Side("torch", tuned=True), timing=Timing([3.0] * 3, [True] * 3))
    step.sides += [its_tuned]
    assert step.ratio(its_tuned) == 10 / 3  # there is no other
    step.sides.insert(1, tuned)
    assert step.ratio(its_tuned) == 2
    assert step.ratio(its) == 10 / 30
    assert step.groups() == ["PyTorch", "PyTorch, tuned"]
    text = text_of(table.work_table(report, "small64", "apart"))
    assert "\nminifcn, tuned " in text
    assert total([step], "PyTorch, tuned") == (6.0, 3.0)


def test_different_results_are_an_error():
    side, task = Side("torch", {"layout": "contiguous"}), "step"
    same = runner._differences("net", side, {task: [[2.0], [1.0]]}, {task: [[2.001], [1.5]]})
    assert same[task] == pytest.approx((0.0005, 0.5))
    with pytest.raises(
        bench.DifferentResultsError, match=r"net, step: .*PyTorch.*5\.0e-03.*0\.001"
    ):
        runner._differences("net", side, {task: [[2.0]]}, {task: [[2.01]]})
    with pytest.raises(bench.DifferentResultsError, match="nan"):
        runner._differences("net", side, {task: [[2.0]]}, {task: [[float("nan")]]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"processes": "alone"}, "processes='alone' must be one of apart, together, both"),
        ({"layout": "nhwc"}, "layout='nhwc' must be one of best, contiguous, channels_last"),
        ({"tuned": True, "processes": "both"}, "tuned needs processes='apart'"),
    ],
)
def test_wrong_settings_are_errors(wrong, message):
    with pytest.raises(bench.BenchError, match=message):
        bench.Settings(**wrong)


def test_unknown_names_are_errors():
    with pytest.raises(bench.BenchError, match="no work is called 'tiny': there are small64, "):
        bench.run(["tiny"])
    with pytest.raises(bench.BenchError, match=r"no library called 'numpy' .* there are torch, "):
        bench.run(["small64"], ["numpy"])


def test_forms_in_which_a_library_is_measured():
    def forms(peer, kind, **options):
        return [side.label for side in sides.sides_of(peer, kind, **options)]

    both = ["PyTorch (contiguous)", "PyTorch (channels_last)"]
    assert forms("torch", works.LAYER) == both
    assert forms("torch", works.LAYER, layout="contiguous") == both[:1]
    assert forms("torch", works.TRAIN, fused=True, layout="contiguous") == [
        "PyTorch (contiguous, fused SGD)"
    ]
    assert forms("torch", works.INFER, tuned=True) == [
        *both,
        "PyTorch, tuned (contiguous)",
        "PyTorch, tuned (channels_last)",
    ]
    assert forms("torch", works.UPDATE) == [
        "PyTorch (default SGD)",
        "PyTorch (foreach SGD)",
        "PyTorch (fused SGD)",
    ]
    assert forms("mygrad", works.COMMON) == ["MyGrad"]
    assert forms("mygrad", works.TRAIN) == []


# What is shown


def text_of(shown):
    console = Console(width=300, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue()


def entry(peer, *ms, layout=None, clean=True, memory=None):
    how = {"layout": layout} if layout else {}
    timing = Timing(list(ms), [clean] * len(ms), dropped=1, calls=40)
    return SideResult(Side(peer, how), timing, 1e-7, 3e-7, memory)


@pytest.fixture
def report():
    """Return a report on a step and on two layers, of which the second counts twice."""
    memory = {"before": 50_000_000, "peak": 1_250_000_000, "reset": True}
    step = Result(
        "small64",
        "apart",
        "small64",
        "step",
        1,
        4e9,
        [
            entry("minifcn", 9.0, 10.0, 11.0, memory=memory),
            entry("torch", 30.0, 30.0, 30.0, layout="contiguous"),
            entry("torch", 20.0, 20.0, 20.0, layout="channels_last", clean=False),
        ],
    )
    layers = [
        Result(
            "layers-small",
            "apart",
            name,
            task,
            count,
            1e9,
            [entry("minifcn", mine), entry("torch", its, layout="contiguous")],
        )
        for name, count, mine, its in (("a", 1, 2.0, 1.0), ("b", 2, 3.0, 6.0))
        for task in ("forward", "weight gradient")
    ]
    facts = {"processor": "abacus", "threads": 2, "date": "today"}
    return Report(facts, {"rounds": 3}, {"torch": "9.9"}, {"2": 800.0}, [step, *layers])


def test_the_table_of_a_step(report):
    lines = text_of(table.work_table(report, "small64", "apart")).splitlines()
    fastest, other = (line.split() for line in lines[2:4])
    assert fastest == ["minifcn", "10.00", "400", "50%", "1,200", "MB", "40", "1"]
    assert other[:2] == ["PyTorch", "(channels_last)"]  # the better of the two
    assert other[2:] == ["20.00*", "0.50", "0.45", "to", "0.55", "200", "25%", "3e-07", "40", "1"]
    assert len(lines) == 4


def test_the_table_of_layers(report):
    rows = text_of(table.work_table(report, "layers-small", "apart")).splitlines()[2:]
    cells = [row.split() for row in rows]
    assert cells[0][:6] == ["a", "forward", "2.00", "1.00", "contiguous", "2.00"]
    assert cells[1][:2] == ["weight", "gradient"]  # a's second row does not repeat its name
    assert cells[2][-3:] == ["333", "42%", "2"]
    sums = {row.split("  ")[1].strip() or row: row.split() for row in rows[4:]}
    assert cells[4][:4] == ["sum", "forward", "8.00", "13.00"]  # 2 + 2·3, 1 + 2·6
    assert cells[-1][:4] == ["sum", "all", "16.00", "26.00"]
    assert cells[-1][8:] == ["0.62", "375", "47%"]
    assert len(sums) >= 2
    assert total(report.of("layers-small", "apart"), "PyTorch") == (16.0, 26.0)


def test_the_head_and_the_legend(report):
    head = table.head(report)
    assert "processor       abacus\n" in head
    assert "matrix product  800 GFLOP/s with 2 threads (" in head
    assert head.endswith("against         PyTorch 9.9")
    legend = table.legend(report)
    assert "*: other programs" in legend
    assert "VmHWM" in legend
    assert "Winograd" in legend
    assert "First results are compared with minifcn's; differs by: how far " in legend
    assert "includes building" not in legend
    report.results[0].ours.memory["reset"] = False
    assert "includes building" in table.legend(report)
    report.results = [report.results[1]]
    assert "*: other programs" not in table.legend(report)


def test_ratios_of_rounds_leave_out_disturbed_ones():
    mine = Timing([1.0, 2.0, 9.0], [True, True, False])
    its = Timing([2.0, 2.0, 1.0], [True, True, True])
    assert round_ratios(mine, its) == [0.5, 1.0]
    assert round_ratios(Timing([9.0], [False]), Timing([3.0], [True])) == [3.0]


def test_the_file_holds_everything(report, tmp_path):
    report.write(tmp_path / "found.json")
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert found["format"] == 1
    assert found["machine"]["processor"] == "abacus"
    assert found["libraries"] == {"torch": "9.9"}
    side = found["results"][0]["sides"][2]
    assert side["label"] == "PyTorch (channels_last)"
    assert (side["ms"], side["doubtful"], side["ours_over_this"]) == (20.0, True, 0.5)
    assert side["timing"]["blocks"] == [20.0, 20.0, 20.0]
    assert found["results"][0]["sides"][0]["memory"]["peak"] == 1_250_000_000


# The command


@pytest.fixture
def command(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def command(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["bench", *map(str, arguments)])
        return (caught.value.code or 0, *capsys.readouterr())

    return command


def test_the_list_names_all_works_and_libraries(command, monkeypatch):
    monkeypatch.setattr(sides, "find_spec", lambda name: name == "torch" or None)
    code, out, _ = command("--list")
    assert code == 0
    for name in (*works.WORKS, *sides.PEERS):
        assert f"\n{name} " in out
    assert "MyGrad is not installed: pip install mygrad" in out
    assert "PyTorch is not installed" not in out


def test_help_shows_examples(command):
    code, out, _ = command("--help")
    assert code == 0
    assert "minifcn bench small128" in out
    assert "--against" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small"], "no work is called 'small'"),
        (["small64", "--against", "torch,numpy"], "no library called 'numpy'"),
        (["small64", "--layout", "nhwc"], "layout='nhwc'"),
        (["small64", "--out", "no such folder/x.json"], "there is no folder no such folder"),
        (["small64", "--out", "."], "is a folder"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("minifcn: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.oracle
def test_the_smallest_work_against_pytorch(command, hasty, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "found.json"
    code, text, _ = command("small64", "--rounds", 1, "--layout", "channels_last", "--out", out)
    assert code == 0
    assert "small64: FCN-8s of 5 convolutions: training step, 8 images of 64x64" in text
    assert "\nPyTorch (channels_last) " in text
    assert "\nminifcn " in text
    (result,) = json.loads(out.read_text("utf-8"))["results"]
    assert [side["label"] for side in result["sides"]] == ["minifcn", "PyTorch (channels_last)"]
    assert result["sides"][1]["first_difference"] < 1e-5


def test_a_failure_is_shown_and_ends_with_an_error_code(command, hasty, monkeypatch):
    monkeypatch.setitem(sides.PEERS, "json", sides.Peer("JSON", "nothing", ()))
    code, out, err = command("small64", "--rounds", 1, "--against", "json", "--threads", 1)
    assert code == 1
    assert "\nminifcn " in out
    assert "minifcn: error: small64, apart: JSON failed at 'hello': KeyError: 'json'" in err
