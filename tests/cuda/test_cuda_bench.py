"""Benchmarks on a GPU: what they compute and note, on the stand-in for CuPy. No time is judged."""

import importlib.util
import io
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from minifcn import backend, bench, cli, models
from minifcn.bench import (
    floor,
    gpu,
    inputs,
    machine,
    runner,
    sides,
    table,
    torch_peer,
    worker,
    works,
)
from minifcn.bench.measure import Timing
from minifcn.bench.process import MissingError
from minifcn.bench.results import Report, Result, SideResult
from minifcn.bench.sides import Side
from minifcn.kernels.cuda import cublas

ROOT = Path(__file__).parents[2]
NET = {"model": "fcn8s", "num_classes": 3, "backbone": "small", "widths": [4, 4, 8, 8, 8]}
BATCH = [2, 3, 16, 20]
TINY = works.Case("tiny", works.TRAIN, {"net": NET, "batch": BATCH})
TINY_WORK = works.Work("tiny", "a net of no use", (TINY,), seconds=0.01)
LAYER_WORK = works.Work("layer", "", (works.layer(4, 8, 9, batch=2, first=True),), 0.01)
NOT_INSTALLED = "raise ImportError('no CuPy here', name='cupy')"


def imported(path):
    """Import a file under a name of its own, without its folder on Python's path."""
    found = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


program = imported(ROOT / "benchmarks" / "gpu.py")


def text_of(shown):
    console = Console(width=300, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue()


# How it is timed


class Recorder:
    """A GPU on which a call takes two milliseconds, and the one after a mark is two later."""

    def __init__(self):
        self.did, self.now = [], 0.0

    def computing(self):
        self.did.append("setting")
        return nullcontext()

    def run(self):
        self.did.append("run")
        self.now += 2.0

    def mark(self):
        self.did.append("mark")
        return self.now

    def milliseconds(self, first, second):
        return second - first

    def wait(self):
        self.did.append("wait")

    def release(self):
        self.did.append("release")

    def held(self):
        return 77 if self.did[-1] == "wait" else 0


def test_a_block_waits_for_the_gpu_only_before_and_after_the_timed_calls(monkeypatch):
    clock = iter(np.arange(0, 100, 0.5))  # each look at the clock is half a second later
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(clock))
    it = Recorder()
    answer = gpu.block(it, it.run, seconds=2.0)
    assert answer == {"seconds": 0.002, "calls": 4, "others": None}  # a warm call took 0.5 s
    warm, timed = ["run", "wait"] * gpu.FEWEST_WARM, ["mark", *["run", "mark"] * 4, "wait"]
    assert it.did == ["setting", *warm, *timed, "release"]


def test_a_block_has_not_more_calls_than_there_is_time_for(monkeypatch):
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(gpu, "WARM", -1.0)
    it = Recorder()
    assert gpu.block(it, it.run, seconds=1.0)["calls"] == gpu.MOST_CALLS


def test_memory_is_what_one_call_takes_from_nothing():
    it = Recorder()
    assert gpu.memory(it, it.run, 11) == {"before": 11, "peak": 77, "reset": True}
    warm = ["run"] * gpu.FEWEST_WARM
    assert it.did == ["setting", *warm, "release", "run", "wait", "release"]


def test_the_memory_of_sides_in_one_process_is_each_ones_own(standin):
    """With the recording's, and without that of the sides beside it."""
    settings = {"net": {**NET, "padding": "smallest"}, "batch": [1, 3, 48, 48]}
    found = []
    for side in "abc":
        how = {"device": "cuda", "precision": "fp32"}
        worker.build(side, "minifcn", how, works.TRAIN, settings, calls=1)
        told = worker.memory(side, "step")
        found.append(told["peak"] - told["before"])
    for side in "abc":
        worker.drop(side)
    largest = 4 * 48 * 48 * 4  # bytes of a map of the first layers, and of its gradient
    assert found[2] == found[1] > 4 * largest
    assert 0 <= found[0] - found[1] <= cublas.WORKSPACE  # which all share


@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_pytorch_takes_tf32_only_when_asked_and_always_looks_for_the_fastest(
    monkeypatch, precision
):
    cudnn, matmul = SimpleNamespace(allow_tf32=None), SimpleNamespace(allow_tf32=None)
    backends = SimpleNamespace(cudnn=cudnn, cuda=SimpleNamespace(matmul=matmul))
    cuda = SimpleNamespace(is_available=lambda: True)
    torch = SimpleNamespace(backends=backends, cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", torch)
    with gpu.Torch(precision).computing():
        assert cudnn.benchmark
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (precision == "tf32",) * 2


def test_a_gpu_is_chosen_by_hiding_the_others(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.only("cuda:1") == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert machine.only("cuda") == {"CUDA_VISIBLE_DEVICES": "4"}
    assert machine.only("cuda:1") == {"CUDA_VISIBLE_DEVICES": "6"}
    assert machine.only("cuda:2") == {"CUDA_VISIBLE_DEVICES": ""}  # CUDA says that there is none


# What is compared


def test_a_floor_counts_each_product_and_each_number_once():
    net = models.build(**NET | {"model": "fcn32s"})
    (first, *_, last) = floor.convolutions(net, BATCH)
    assert first == (2.0 * 2 * 8 * 10 * 4 * 48, 2 * 3 * 16 * 20 + 2 * 8 * 10 * 4 + 4 * 48)
    assert last.flops == 2.0 * 2 * 3 * net.state_dict()["score_fr.weight"].shape[1]
    forward, step = floor.convolutions(net, BATCH), floor.training_step(net, BATCH)
    assert len(step) == 3 * len(forward)  # less one gradient, and the update
    learnt = sum(p.data.size for p in net.parameters() if p.requires_grad)
    assert step[-1] == (0, 5 * learnt)
    assert floor.least_ms([(1e9, 0), (0, 1e9)], "fp32", 1000, 4000) == 2
    assert floor.least_ms([(1e9, 0), (0, 1e9)], "bf16", 1000, 4000) == 1.5  # half the bytes
    assert floor.least_ms([(1e9, 0)], "", 1000, 0) == 0  # not known


def test_sides_on_a_gpu():
    gpu_of = {"device": "cuda", "precisions": ("fp32", "bf16")}
    assert [s.label for s in sides.our_sides(works.INFER, **gpu_of)] == [
        "minifcn, fp32",
        "minifcn, bf16",
    ]
    assert [s.label for s in sides.our_sides(works.POOL, **gpu_of)] == ["minifcn, fp32"]
    its = sides.sides_of("torch", works.TRAIN, layout="channels_last", fused=True, **gpu_of)
    assert [s.label for s in its] == [
        "PyTorch, fp32 (channels_last, fused SGD)",
        "PyTorch, bf16 (channels_last, fused SGD)",
    ]
    assert sides.sides_of("jax", works.COMMON, **gpu_of) == []


def test_limits_of_differences_follow_the_precision():
    rough, fine = (Side("torch", precision=name) for name in ("bf16", "fp32"))
    task = {"step": [[2.0]]}
    assert runner._differences("net", rough, task, {"step": [[2.1]]})["step"][0] > 0.04
    with pytest.raises(bench.DifferentResultsError, match=r"PyTorch, fp32 .* more than 0\.001"):
        runner._differences("net", fine, task, {"step": [[2.1]]})


@pytest.mark.oracle
@pytest.mark.parametrize("kind", [works.TRAIN, works.INFER, works.LAYER])
def test_pytorch_in_bf16_differs_a_little(kind):
    pytest.importorskip("torch")
    settings = works.layer(4, 8, 9).settings if kind == works.LAYER else TINY.settings
    how = {"layout": "channels_last", "device": "cpu"}
    for rough, fine in zip(
        torch_peer.BUILDERS[kind](settings, how | {"precision": "bf16"}).values(),
        torch_peer.BUILDERS[kind](settings, how | {"precision": "fp32"}).values(),
        strict=True,
    ):
        a, b = (np.array(inputs.sample(task.run())) for task in (rough, fine))
        assert 0 < np.abs(a - b).max() < 0.03 * np.abs(b).max()


# What is shown


def entry(peer, precision, ms):
    return SideResult(Side(peer, precision=precision), Timing([ms], [True], calls=9))


@pytest.fixture
def report():
    """Return a report on two layers, in two precisions, whose floors are 1 and 0.5 ms."""
    found = [
        Result(
            *("layers", "apart", name, "forward", 1, 1e12),
            [
                entry("minifcn", "fp32", 3.0),
                entry("minifcn", "bf16", 2.0),
                entry("torch", "fp32", 4.0),
                entry("torch", "bf16", 1.0),
            ],
            pieces=[[1e12, 1.0]],
        )
        for name in ("a", "b")
    ]
    peaks = {"fp32": 1e6, "bf16": 2e6}
    return Report({"threads": 2}, {}, {}, peaks, found, bandwidth=3000.0)


def test_a_table_for_each_precision(report):
    assert table.precisions(report, "layers", "apart") == ["fp32", "bf16"]
    rows = text_of(table.work_table(report, "layers", "apart", "bf16")).splitlines()
    assert "minifcn, bf16 ms" in rows[0]
    assert "fp32" not in rows[0]
    assert rows[2].split() == ["a", "forward", "2.00", "1.00", "2.00", "500000", "25%", "4.00", "0"]
    assert rows[4].split()[:4] == ["sum", "forward", "4.00", "2.00"]
    assert rows[4].split()[-1] == "4.00"  # over floor
    fp32 = text_of(table.work_table(report, "layers", "apart", "fp32")).splitlines()
    assert fp32[2].split()[4] == "0.75"  # compared with PyTorch's fp32
    assert fp32[2].split()[-2] == "3.00"
    report.results.pop()
    assert table.precisions(report, "layers", "apart") == [None]  # one row for each side
    assert "over floor" in text_of(table.work_table(report, "layers", "apart"))
    assert "over floor: ms over the least time" in table.legend(report)
    assert "GFLOP/s" in table.legend(report)
    assert "Winograd" not in table.legend(report)  # that is a way of processors
    head = table.head(report)
    assert "1000.0 TFLOP/s in fp32, 2000.0 TFLOP/s in bf16" in head
    assert "3000 GB/s" in head


def test_the_file_has_floors_and_ratios_of_one_precision(report):
    found = report.as_dict()["results"][0]["sides"]
    assert [side["floor_ms"] for side in found] == [1.0, 0.5, 1.0, 0.5]
    assert [side["ours_over_this"] for side in found] == [1.0, 1.0, 0.75, 2.0]


# Whole runs


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Let processes that are started import the stand-in for CuPy, or what is written there."""
    path = tmp_path / "packages"
    path.mkdir()
    (path / "cupy.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests' / 'cuda')!r})\n"
        "import standin\nstandin.kept = standin.installed()\nstandin.kept.__enter__()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(path))
    monkeypatch.setenv(
        "CUDA_VISIBLE_DEVICES", ""
    )  # PyTorch is not to find a GPU where there is one
    monkeypatch.setattr(machine, "GPU_SIDE", 32)
    monkeypatch.setattr(machine, "COPIED", 1000)
    return path / "cupy.py"


@pytest.fixture
def small(monkeypatch):
    """Compare and measure next to nothing."""
    monkeypatch.setattr(program, "LOSSES", TINY.settings)
    monkeypatch.setattr(program, "LAYERS", LAYER_WORK.cases)
    monkeypatch.setattr(program, "STEPS", 3)


def test_the_program_compares_measures_and_writes(processes, small, standin, tmp_path, capsys):
    out = tmp_path / "found.json"
    settings = bench.Settings(1, 1, "together", device="cuda", precisions=("fp32", "tf32"))
    huge = works.Case("huge", works.TRAIN, {"net": NET, "batch": [5000, 3, 500, 500]})
    chosen = [TINY_WORK, LAYER_WORK, works.Work("huge", "", (huge,))]
    with program.Notes(out) as notes:
        program.run(chosen, settings, ["torch"], notes)
    text, errors = capsys.readouterr()
    assert text.index("Plan") < text.index("operations") < text.index("losses")
    assert text.index("losses") < text.index("minifcn, tf32")
    assert "left out, for a GPU with more memory: huge" in text
    assert "sees no GPU" in errors or "PyTorch is not installed" in errors

    found = json.loads(out.read_text("utf-8"))
    assert found["plan"][0]["fp32 ms"] > found["plan"][0]["bf16 ms"] > 0
    assert {"GPU", "driver", "CUDA", "CuPy", "NumPy"} <= found["device"].keys()
    assert len(found["operations"]) > 300
    assert {row["precision"] for row in found["layers"]} == set(gpu.PRECISIONS)
    assert {len(row["losses"]) for row in found["losses"]} == {3}
    errors = {row["precision"]: row["error"] for row in found["layers"]}
    # Channels come in fours here and not in eights: bf16 is computed as tf32.
    assert 0 < errors["fp32"] < 1e-5 < errors["tf32"] <= errors["bf16"]

    speed = found["speed"]
    assert speed["machine"]["GPU"] == "a stand-in (no GPU)"
    assert speed["peaks"].keys() == {"fp32", "tf32"}
    assert speed["bandwidth"] > 0
    assert [r["task"] for r in speed["results"]] == ["step", "forward", "weight gradient"]
    for result in speed["results"]:
        fp32, tf32 = result["sides"]
        assert (fp32["label"], tf32["label"]) == ("minifcn, fp32", "minifcn, tf32")
        assert fp32["floor_ms"] > 0
        assert 0 < tf32["first_difference"] < 1e-2
    assert fp32["memory"] is None
    assert speed["results"][0]["sides"][0]["memory"]["peak"] > 10_000


def test_a_wrong_result_ends_the_program_before_speed_is_measured(small, standin, monkeypatch):
    op = program.PRIMITIVES["sigmoid"]
    right = op.function
    monkeypatch.setattr(op, "function", lambda x: right(x) * (1 if backend.is_numpy(x) else 1.01))
    monkeypatch.setattr(program, "operations", lambda: [program.PRIMITIVES["exp"], op])
    monkeypatch.setattr(program.bench, "run", lambda *args: pytest.fail("it measures"))
    settings = bench.Settings(device="cuda")
    message = r"operations are wrong, the first: sigmoid, .*: output in fp32 is off by \d"
    with program.Notes(None) as notes, pytest.raises(program.WrongError, match=message):
        program.run([TINY_WORK], settings, [], notes)


def test_a_gpu_that_cannot_be_used_is_one_line(processes, capsys):
    processes.write_text(NOT_INSTALLED)
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "small64", "--device", "cuda", "--against", ""])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("minifcn: error: device 'cuda' is not available: CuPy is not installed")
    assert error.count("\n") == 1


def test_auto_is_a_device_of_bench_too(monkeypatch, capsys):
    taken = []
    monkeypatch.setattr("minifcn.options.choose_device", lambda name: ("cuda:0", f"was {name}"))
    monkeypatch.setattr(bench, "run", lambda works, peers, settings, _: taken.append(settings))
    monkeypatch.setattr(table, "legend", lambda report: sys.exit("measured"))
    for given in (["--device", "auto"], []):
        with pytest.raises(SystemExit):
            cli.main(["bench", "small64", *given])
    assert [settings.device for settings in taken] == ["cuda:0", "cuda:0"]
    assert capsys.readouterr().err.split("\n")[:2] == ["minifcn: was auto", "minifcn: was cpu"]


def test_a_gpu_beyond_the_last_one_is_refused_before_it_is_hidden(processes, standin):
    settings = bench.Settings(device="cuda:7")
    with pytest.raises(backend.DeviceError, match=r"'cuda:7' .* there is only cuda:0, cuda:1$"):
        bench.run([TINY_WORK], [], settings)


def test_a_library_to_compare_with_is_looked_at_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(program, "run", lambda *given, **options: pytest.fail("it computes"))
    with pytest.raises(SystemExit, match=r"^benchmarks/gpu.py: no library called 'foo' can"):
        program.main(["--against", "torch, foo"])


class Pretended:
    """A process whose results on a GPU are wrong by a factor."""

    factor, flops, asked = 1.0, 1e9, []

    def __init__(self, name, threads, environment=None):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ask(self, do, **given):
        self.asked.append((self.name, do))
        if do == "build" and given["peer"] == "torch":
            try:
                gpu.Torch()
            except ImportError as error:
                raise MissingError(str(error)) from error
        if do != "build":
            found = {"seconds": 1.0, "calls": 1, "others": None}
            return found | {"before": 0, "peak": 0, "reset": True, "version": "9.9"}
        result = [2.0 * (self.factor if given["how"] else 1)]
        checks = {"step": [result] * given["calls"]}
        return {"flops": {"step": self.flops}, "pieces": {"step": []}, "checks": checks}


@pytest.fixture
def pretended(monkeypatch):
    """Return a function that measures a net with pretended processes."""
    monkeypatch.setattr(runner, "Worker", Pretended)
    monkeypatch.setattr(Pretended, "asked", [])

    def measure(factor, flops=1e9, against=()):
        monkeypatch.setattr(Pretended, "factor", factor)
        monkeypatch.setattr(Pretended, "flops", flops)
        report = Report({"threads": 1}, {}, bandwidth=1.0)
        settings = bench.Settings(1, device="cuda", precisions=("fp32", "bf16"))
        with runner._Bench(report, TINY_WORK, "apart", against, settings, 1) as it:
            it.measure(TINY, lambda share: None)
        return report

    return measure


def test_results_on_a_gpu_are_compared_with_those_on_the_cpu(pretended):
    report = pretended(1.0001)
    (result,) = report.results
    assert [round(entry.from_cpu, 6) for entry in result.sides] == [0.0001, 0.0001]
    assert [ask for ask in Pretended.asked if ask[0] == "minifcn"] == [
        *(("minifcn", "hello"), ("minifcn", "build"), ("minifcn", "drop"))
    ]
    shown = text_of(table.work_table(report, "tiny", "apart")).splitlines()
    assert "1e-04" in shown[2]
    assert "1e-04" in shown[3]
    assert "minifcn's, and its own with those on the CPU; differs by" in table.legend(report)
    with pytest.raises(bench.DifferentResultsError, match="minifcn on the CPU and minifcn, fp32 "):
        pretended(1.01)


def test_what_would_take_a_cpu_minutes_is_not_compared_and_that_is_said(pretended):
    report = pretended(1.01, runner.MOST_ON_CPU * 1.01)
    assert report.notes == ["tiny: it would take a CPU too long to compare results with it"]
    assert [entry.from_cpu for entry in report.results[0].sides] == [None, None]
    assert "CPU" not in table.legend(report)


def test_a_pytorch_that_sees_no_gpu_is_not_installed_again_as_it_was(pretended, monkeypatch):
    no_gpu = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=no_gpu, __version__="9.9"))
    (note,) = pretended(1.0, against=["torch"]).notes
    told = "PyTorch 9.9 sees no GPU: install a build of it for CUDA, as pytorch.org tells"
    assert note == f"PyTorch cannot be used ({told})"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precisions": ("tf32",)}, "precisions tf32 need device='cuda': a processor has fp32"),
        ({"device": "cuda", "precisions": ("fp8",)}, "precisions fp8: choose one or more of fp32"),
        ({"device": "cuda", "precisions": ()}, "precisions none: choose"),
        ({"device": "cuda", "tuned": True}, "tuned needs device='cpu'"),
        ({"graphs": True}, "graphs needs device='cuda'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "cuda:"}, "unknown device 'cuda:'"),
    ],
)
def test_wrong_settings_are_errors(wrong, message):
    with pytest.raises(backend.Error, match=message):
        bench.Settings(**wrong)


def test_the_program_is_not_in_the_way_of_nvidias_package():
    """CuPy imports `cuda`; a file of that name beside a program would be found first."""
    names = {path.stem for path in (ROOT / "benchmarks").iterdir()}
    assert not names & {"cuda", "cupy", "nvidia", "torch"}


@pytest.mark.gpu
def test_the_smallest_work_on_a_gpu(gpu):
    against = ["torch"] if importlib.util.find_spec("torch") else []
    settings = bench.Settings(1, precisions=("fp32", "tf32", "bf16"), device="cuda")
    report = bench.run(["small64"], against, settings)
    assert report.failures == []
    (result,) = report.results
    assert all(entry.memory["peak"] > 0 for entry in result.sides)
    assert all(entry.timing.ms > report.floor(result, entry.side) for entry in result.sides)
