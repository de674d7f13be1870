"""Several processes: what they send each other, real ones with mpiexec, and one that dies."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import parallel_worker
import pytest
from PIL import Image

from minifcn import weights
from minifcn.autograd import Tensor
from minifcn.backend import to_numpy
from minifcn.checkpoint import checkpoint
from minifcn.data import save_image, save_label, shapes
from minifcn.parallel import ALONE, ParallelError, join, launched
from minifcn.parallel.buckets import Buckets, backward, uses
from minifcn.parallel.launch import patience
from minifcn.parallel.nccl import Nccl
from minifcn.snapshot import load_snapshot

WORKER = Path(parallel_worker.__file__)
RUN = [
    *("train", "--stages", "32s,16s", "--steps", "4,3", "--batch-size", "4", "--eval-every", "2"),
    *("--save-every", "1", "--keep", "9", "--data"),
]
SHARED = "fcn32s: --batch-size 4 cannot be shared by 3 processes, which must get equally many"
ALIKE = "the command is not the same on all ranks: ['predict', 'no', 'x', '--out', 'a'] on rank 0"


# What one process can show


def test_launchers_tell_how_many_there_are():
    assert launched({}) == (0, 1)
    assert launched({"PMI_RANK": "1", "PMI_SIZE": "3"}) == (1, 3)
    assert launched({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}) == (2, 3)


def test_one_process_needs_no_mpi():
    assert join() is ALONE
    code = (
        "import minifcn.cli, minifcn.parallel as p, sys; p.join(); print('mpi4py' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


class Doubled:
    """Acts as a sum over two ranks that have the same gradients; notes when each began."""

    def __init__(self):
        self.sizes = []

    def __call__(self, array):
        assert array.ndim == 1
        self.sizes.append(array.size)
        return lambda: np.multiply(array, 2, out=array)


def test_buckets_are_sent_when_full_and_give_back_shape_and_memory_order():
    doubled = Doubled()
    buckets = Buckets(doubled, size=40)
    gradients = [
        np.arange(6.0, dtype=np.float32).reshape(2, 3),
        np.arange(8.0, dtype=np.float32).reshape(2, 2, 2).transpose(0, 2, 1),
        np.ones(3),  # another type
        np.ones((), np.float32),
    ]
    leaves = [Tensor(np.zeros_like(g), requires_grad=True) for g in gradients]
    before = [g.copy(order="K") for g in gradients]
    for leaf, g in zip(leaves, gradients, strict=True):
        buckets.add(leaf, g)
    buckets.finish()
    assert doubled.sizes == [14, 3, 1]
    for leaf, g in zip(leaves, before, strict=True):
        np.testing.assert_array_equal(leaf.grad.data, 2 * g)
        assert leaf.grad.data.strides == g.strides
        assert leaf.grad.data.dtype == g.dtype


def test_sums_begin_while_backward_is_still_at_work():
    """The last layer's gradients are sent before the first layer's are computed."""
    begun = []
    first, middle, last = (Tensor(np.full(4, v), requires_grad=True) for v in (1.0, 2.0, 3.0))

    def start(array):
        begun.append((array.size, first.grad is None))
        return lambda: None

    loss = (first * middle * last * middle).sum()  # middle is used twice
    assert {uses(loss)[leaf] for leaf in (first, last)} == {1}
    assert uses(loss)[middle] == 2
    backward(loss, [first, middle, last], Buckets(start, size=1))
    assert begun == [(4, True)] * 3
    np.testing.assert_array_equal(middle.grad.data, 2 * 1 * 2 * 3 * np.ones(4))


def test_gradients_of_earlier_parts_are_in_the_sum():
    w = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    (w * w).sum().backward()
    backward((w * 3.0).sum(), [w], Buckets(Doubled()))
    assert w.grad.numpy().tolist() == [2 * (2 + 3), 2 * (4 + 3)]


def test_a_checkpoint_hides_what_it_uses_so_all_is_sent_at_the_end():
    w = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    loss = checkpoint(lambda x: x * w, w * w).sum() + w.sum()
    assert not uses(loss)
    backward(loss, [w], Buckets(Doubled()))
    assert w.grad.numpy().tolist() == [2 * (3 + 1), 2 * (12 + 1)]


def test_a_gpu_sums_on_a_stream_of_its_own(cupy, monkeypatch):
    calls = []

    class Backend:
        def __init__(self, number, rank, use_mpi):
            calls.append((number, rank, use_mpi))

        def all_reduce(self, given, out, op, stream):
            calls.append((op, stream is not cupy.cuda.get_current_stream()))
            assert given is out
            out += given

    monkeypatch.setitem(sys.modules, "cupyx.distributed", SimpleNamespace(NCCLBackend=Backend))
    w = Tensor(cupy.asarray([1.0, 2.0], dtype=np.float32), requires_grad=True)
    gpus = Nccl(1, 2, w.data)
    backward((w * w).sum(), [w], Buckets(gpus.start_sum))
    assert to_numpy(w.grad.data).tolist() == [4.0, 8.0]
    assert calls == [(2, 1, True), ("sum", True)]


# What several processes do


@pytest.fixture(scope="session")
def mpiexec():
    """Return a function that starts processes, and their count."""
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("mpiexec is not installed (pip install 'minifcn[parallel]')")
    return found


@pytest.fixture
def start(mpiexec, record_count):
    """Start so many processes of the worker or of minifcn; return the launcher's process."""

    begun = []

    def started(number, *arguments, **environment):
        record_count("processes of MPI", number)
        ours = arguments[0] in ("sums", "answers", "stuck", "uncaught")
        program = [str(WORKER)] if ours else ["-m", "minifcn"]
        process = subprocess.Popen(
            [mpiexec, "-n", str(number), sys.executable, *program, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(WORKER.parent.parent)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        begun.append(process)
        return process

    yield started
    for process in begun:
        with process:  # closes its output
            process.kill()  # the launcher's helper then ends the others


@pytest.fixture
def run(start):
    """Run processes to their end; return what they printed, and whether that was without error."""

    def done(number, *arguments, **environment):
        process = start(number, *arguments, **environment)
        text, _ = process.communicate(timeout=120)
        return SimpleNamespace(text=text, code=process.returncode)

    return done


def minifcn(*arguments):
    """Run the command in one process, on one thread."""
    told = [sys.executable, "-m", "minifcn", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(WORKER.parent.parent), "MINIFCN_NUM_THREADS": "1"}
    return subprocess.run(told, env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.oracle
@pytest.mark.parametrize("number", [2, 4])
def test_ranks_learn_what_one_learns_from_batches_so_much_larger(run, tmp_path, number):
    """All weights after three steps, relative to the largest of each: labelled pixels differ."""
    done = run(number, "sums", tmp_path)
    assert done.code == 0, done.text
    for case in parallel_worker.CASES:
        alone = parallel_worker.trained(case, ALONE)
        with np.load(tmp_path / f"{case}-{number}.npz") as found:
            assert found["alike"]
            exact = 1e-12 if alone["losses"].dtype == np.float64 and case != "float32" else 2e-6
            for name, array in alone.items():
                error = np.abs(found[name] - array).max() / max(np.abs(array).max(), 1e-30)
                assert error < exact, (case, name, error)


@pytest.mark.oracle
def test_ranks_answer(run, tmp_path):
    done = run(3, "answers", tmp_path)
    assert done.code == 0, done.text
    assert "a number is not the same on all ranks: 0 on rank 0, 1 on rank 2" in done.text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of a few small images in a folder."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("\n".join(shapes("val").classes))
    for split, length in (("train", 8), ("val", 5)):
        dataset = shapes(split, length=length, size=32)
        for image, label, name in dataset:
            save_image(folder / "images" / f"{name}.png", Image.fromarray(image))
            save_label(folder / "labels" / f"{name}.png", label, dataset.palette)
        (folder / f"{split}.txt").write_text("\n".join(sample.name for sample in dataset))
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, data):
    """A run of one process."""
    run = tmp_path_factory.mktemp("one") / "run"
    minifcn(*RUN, f"folder:{data}", "--out", run)
    return run


def names(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def parameters(file):
    return {name: p.data for name, p in weights.load(file).model.named_parameters()}


def lines(run, stage):
    """Return the losses, and the results of evaluations, of a log."""
    told = map(json.loads, (run / stage / "log.jsonl").read_text().splitlines())
    return [line.get("loss", line.get("matrix")) for line in told if {"loss", "matrix"} & set(line)]


def sent_to_rank_1(number, process, out, after):
    """Send a signal once the checkpoint of a step is there; return the rest of what is printed."""
    victim = int(re.search(r"rank 1 is (\d+) on", process.stdout.readline())[1])
    while not list(out.glob(f"checkpoints/fcn32s-{after:08}*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(victim, number)
    return process.communicate(timeout=60)[0]


@pytest.mark.oracle
def test_a_run_of_two_is_that_of_one_and_goes_on_after_one_was_killed(
    start, run, one, data, tmp_path
):
    call = *RUN, f"folder:{data}", "--out"
    whole = run(2, *call, tmp_path / "two")
    assert whole.code == 0, whole.text
    assert names(tmp_path / "two") == names(one)
    for stage in ("fcn32s", "fcn16s"):
        last = parameters(one / stage / "last.safetensors")
        for name, array in parameters(tmp_path / "two" / stage / "last.safetensors").items():
            np.testing.assert_allclose(array, last[name], atol=1e-6 * np.abs(last[name]).max())
        mine, theirs = lines(one, stage), lines(tmp_path / "two", stage)
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)

    broken = tmp_path / "broken"
    process = start(2, *call, broken)
    text = sent_to_rank_1(signal.SIGKILL, process, broken, after=2)
    assert process.returncode != 0, text  # MPI's launcher names the process, most times
    left = max(broken.glob("checkpoints/*"))
    assert load_snapshot(left).state["done"] >= 2

    more = broken.rename(tmp_path / "more")
    shutil.copytree(more, broken)
    again = run(2, "train", "--out", broken, "--resume")
    assert again.code == 0, again.text
    for stage in ("fcn32s", "fcn16s"):
        for file in ("last.safetensors", "best.safetensors"):
            assert (broken / stage / file).read_bytes() == (
                tmp_path / "two" / stage / file
            ).read_bytes()
    assert lines(broken, "fcn16s") == lines(tmp_path / "two", "fcn16s")

    four = run(4, "train", "--out", more, "--resume")
    assert four.code == 0, four.text
    assert "processes 2" in four.text  # a warning: the last bits may differ
    last = parameters(tmp_path / "two" / "fcn16s" / "last.safetensors")
    for name, array in parameters(more / "fcn16s" / "last.safetensors").items():
        np.testing.assert_allclose(array, last[name], atol=1e-5 * np.abs(last[name]).max())


@pytest.mark.oracle
def test_a_signal_to_one_rank_stops_all_and_all_is_saved(start, data, tmp_path):
    call = *RUN, f"folder:{data}", "--out", tmp_path / "run", "--steps", "1000,1000"
    process = start(2, *call)
    text = sent_to_rank_1(signal.SIGTERM, process, tmp_path / "run", after=1)
    assert process.returncode == 128 + signal.SIGTERM
    told = r"all until step (\d+) is saved; mpiexec -n 2 minifcn train --out \S+ --resume goes on"
    step = int(re.search(told, text)[1])
    assert load_snapshot(max(tmp_path.glob("run/checkpoints/*"))).state["done"] == step


@pytest.mark.oracle
def test_evaluate_and_predict_share_the_images(run, one, data, tmp_path):
    net = one / "fcn16s" / "best.safetensors"
    asked = ["evaluate", net, "--data", f"folder:{data}", "--band", "1", "--worst", "3"]
    texts = []
    for name, number in (("one", 1), ("several", 4)):
        place = tmp_path / name
        place.mkdir()
        options = "--json", place / "all.json", "--save-predictions", place / "labels"
        said = run(number, *asked, *options).text.splitlines()
        texts.append([line for line in said if line and "minifcn: " not in line])
        run(min(number, 2), "predict", net, data / "images", "--out", place / "images")
    assert texts[0] == texts[1]
    assert len(texts[0]) > 10
    files = names(tmp_path / "one")
    assert len(files) == 1 + 5 + 2 * 13
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (
            tmp_path / "several" / file
        ).read_bytes(), file


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("number", "arguments", "told"),
    [
        (
            3,
            [*RUN, "shapes", "--out", "out"],
            SHARED,
        ),
        (2, ["info"], "minifcn info was started in 2 processes, and works in one"),
        (
            1,
            [
                *("predict", "no", "x", "--out", "a", ":", "-n", "1"),
                *(sys.executable, "-m", "minifcn", "predict", "no", "x", "--out", "b"),
            ],
            ALIKE,
        ),
    ],
    ids=["batch size", "command", "arguments"],
)
def test_what_cannot_be_shared_is_said_once(run, number, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(number, *arguments)
    assert done.code == 2
    assert done.text.count("error: ") == 1, done.text
    assert told in done.text
    assert not list(tmp_path.iterdir())


@pytest.mark.oracle
def test_missing_mpi4py_is_said_once(run, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), str(WORKER.parent.parent)])
    done = run(2, "predict", "net", "image", "--out", "x", PYTHONPATH=path)
    assert done.code == 2
    assert done.text.count("pip install 'minifcn[parallel]'") == 1


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_patience_is_a_number_of_seconds(text):
    with pytest.raises(ParallelError, match=f"MINIFCN_PATIENCE={text!r}: .* such as 600"):
        patience({"MINIFCN_PATIENCE": text})
    assert patience({}) == 1800


@pytest.mark.oracle
def test_a_rank_that_is_stuck_is_named(run, tmp_path):
    done = run(3, "stuck", tmp_path, MINIFCN_PATIENCE="1")
    assert done.code == 2
    assert re.search(r"rank [02]: rank [02] has waited 1 s for rank 1 \(process \d+ on", done.text)


@pytest.mark.oracle
@pytest.mark.parametrize(("ranks", "told"), [("0", 1), ("1", 1), ("01", 1)])
def test_an_error_that_a_script_does_not_catch_ends_all(run, ranks, told):
    start = time.monotonic()
    done = run(2, "uncaught", "broken", ranks)
    assert done.code == 1
    assert done.text.count("ValueError: broken") == told
    assert time.monotonic() - start < 30


@pytest.mark.oracle
def test_ranks_that_were_stopped_end_by_themselves(run):
    """One may still have files to write."""
    done = run(2, "uncaught", "stopped", "01")
    assert done.text.count("Stopped: all is saved") == 2


@pytest.mark.oracle
def test_an_error_of_one_rank_alone_ends_all(run, one, data, tmp_path):
    """Only rank 1 reads the second image, whose label is of another size."""
    images = shutil.copytree(data, tmp_path / "data") / "images"
    Image.new("RGB", (9, 9)).save(images / "val-0001.png")
    net = one / "fcn16s" / "best.safetensors"
    done = run(2, "evaluate", net, "--data", f"folder:{images.parent}")
    assert done.code == 2
    assert done.text.count("error: ") == 1
    assert re.search(r"rank 1 of 2 ends all:\n.*val-0001", done.text)
