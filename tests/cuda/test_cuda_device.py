"""Which device is taken, what waits for it, its memory, and what is said when something fails."""

import dataclasses
import gc
import itertools
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import standin as S
import standin_memory

import minifcn.functional as F
from minifcn import (
    Tensor,
    backend,
    cli,
    data,
    gpu_memory,
    gpu_probe,
    loop,
    memory,
    models,
    nn,
    optim,
    prepare,
    pretrain,
    train,
)
from minifcn.autograd import debug
from minifcn.backend import DeviceError, NotFiniteError, OutOfMemoryError, choose_device
from minifcn.kernels import cuda, precision
from minifcn.labelling import PredictionError, outputs
from minifcn.loss_scale import FIRST, LossScale
from minifcn.progress import TerminalObserver
from minifcn.recipes import Recipe
from minifcn.step import NotFiniteStepError

WIDTHS = (4, 4, 8, 8, 8)
RECIPE = Recipe(steps=4, lr=0.1, batch_size=2, crop=None, warmup=1, max_norm=10.0)


def net(seed=0):
    rng = np.random.default_rng(seed)
    return models.fcn8s(4, "small", widths=WIDTHS, padding="smallest", rng=rng)


def fitted(model, recipe=RECIPE, device="cuda", size=64):
    loader = data.Loader(data.shapes("train", length=6, size=size), 2)
    return train.fit(model, loader, recipe, device)


@pytest.fixture
def limited(standin):
    """Return a function that leaves a number of bytes of the first GPU free."""
    cuda.cublas._ready(standin)  # has got its own memory

    def limit(free):
        gc.collect()
        pool = standin_memory.pools[0]
        pool.give_back()
        pool.limit = pool.used + free

    return limit


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# Which device


def test_auto_is_the_first_gpu_and_that_is_said(standin):
    name, told = choose_device("auto")
    assert name == "cuda:0"
    assert told.startswith("on cuda:0: CuPy 14.2.0 on a stand-in")
    assert choose_device("cuda:1")[1].startswith("on cuda:1: CuPy ")
    assert choose_device("cpu") == ("cpu", "")


def test_auto_is_the_cpu_where_no_gpu_is_and_nothing_is_said(monkeypatch):
    monkeypatch.setattr(backend, "probe_cuda", lambda: (None, gpu_probe.NOT_INSTALLED))
    assert choose_device("auto") == ("cpu", "")


def test_why_a_cupy_that_is_there_is_not_used_is_said(standin, monkeypatch):
    monkeypatch.setattr(backend, "probe_cuda", lambda: (None, "CuPy 14 cannot compute: no driver"))
    assert choose_device("auto") == ("cpu", "on the CPU: CuPy 14 cannot compute: no driver")
    with pytest.raises(DeviceError, match=r"'cuda' is not available: CuPy 14 .* no driver"):
        choose_device("cuda")
    with pytest.raises(DeviceError, match=r"'cuda:1' is not available: CuPy 14 .* no driver"):
        net().to("cuda:1")


def test_a_gpu_that_is_not_there(standin):
    with pytest.raises(
        DeviceError, match="'cuda:7' is not available: there is only cuda:0, cuda:1"
    ):
        net().to("cuda:7")


# Who waits


def test_no_step_waits_until_losses_are_late(standin, monkeypatch):
    monkeypatch.setattr(loop, "LATE", 3)
    backend.probe_cuda()
    waits, steps = [], fitted(net())
    for _ in range(4):
        with S.counting() as seen:
            next(steps)
        waits.append(seen.waits)
    assert waits == [0, 0, 3, 1]  # a number for each loss; and that of the last step


def test_a_loss_is_read_once_and_when_it_is_asked_for(standin):
    steps = fitted(net())
    step = next(steps)
    assert not step.known
    with S.counting() as seen:
        assert step.loss == step.loss == pytest.approx(math.log(4))
    assert seen.waits == 1
    assert step.known
    steps.close()


def test_a_terminal_reads_losses_when_it_shows_them(standin):
    time = [0.0]
    with TerminalObserver(clock=lambda: time[0]) as observer:
        observer.stage_started("fcn8s", RECIPE, net())
        for step in fitted(net()):
            observer.stepped("fcn8s", step)
            assert step.known == (step.step == 4)
        assert observer.loss.count == 0
        time[0] = 60.0
        observer.stepped("fcn8s", step)
        assert observer.loss.count == 5


@pytest.mark.parametrize("there", [("cpu", "cuda:0"), ("cuda:0", "cpu"), ("cuda:0", "cuda:1")])
@pytest.mark.parametrize("type", ["float32", "float64"])  # kernels take the first alone
def test_a_gradient_that_is_not_where_its_weight_is(standin, there, type):
    w, gradient = (backend.to_device(np.ones(3, type), device) for device in there)
    parameter = nn.Parameter(np.ones(3, type))
    parameter.data, parameter.grad = w, Tensor(gradient)
    with pytest.raises(backend.Error, match=r"^SGD\.step") as caught:
        optim.SGD([parameter], 0.1).step()
    assert all(device in str(caught.value) for device in there)


def test_clipping_on_a_gpu_is_that_on_a_cpu(cupy):
    rng = np.random.default_rng(0)
    for size, bad in ((1e-3, None), (10.0, None), (1.0, np.nan), (1.0, np.inf)):
        arrays = [rng.normal(size=shape).astype("f") * size for shape in ((3, 4), (5,))]
        if bad is not None:
            arrays[1][2] = bad
        found = []
        for device in ("cpu", "cuda"):
            parameters = [nn.Parameter(np.zeros_like(array)) for array in arrays]
            for parameter, array in zip(parameters, arrays, strict=True):
                parameter.data = backend.to_device(parameter.data, device)
                parameter.grad = Tensor(array.copy()).to(device)
            norm = float(optim.clip_grad_norm_(parameters, 1.0))
            found.append([norm, *(p.grad.numpy() for p in parameters)])
        for here, there in zip(*found, strict=True):
            np.testing.assert_allclose(there, here, rtol=1e-6)


# What is not a number


def test_a_loss_that_is_not_finite_stops_a_run_before_its_weights_are_saved(
    standin, monkeypatch, tmp_path
):
    monkeypatch.setattr(loop, "LATE", 2)
    recipe = Recipe(steps=9, lr=1e18, batch_size=2, crop=None, warmup=1, max_norm=None)
    sets = data.shapes("train", length=4), data.shapes("val", length=2)
    with pytest.raises(train.TrainingError, match=r"loss is nan at step 2 \(images train-"):
        train.run({"fcn8s": recipe}, *sets, tmp_path, options={"widths": WIDTHS}, device="cuda")
    assert not list(tmp_path.glob("fcn8s/*.safetensors"))
    steps = [line["step"] for line in lines(tmp_path / "fcn8s") if "loss" in line]
    assert steps == [1]


def test_a_log_is_complete_and_in_order(standin, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "LATE", 3)
    sets, options = [data.shapes(part, length=2) for part in ("train", "val")], {"widths": WIDTHS}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        train.run({"fcn8s": RECIPE}, *sets, out, options=options, device=device, eval_every=2)
    logs = [
        [line for line in lines(tmp_path / device / "fcn8s") if "layers" not in line]
        for device in ("cpu", "cuda")
    ]
    assert [line["step"] for line in logs[1]] == [1, 2, 2, 3, 4, 4]
    for here, there in zip(*logs, strict=True):
        assert here.keys() == there.keys()
        for name in here.keys() - {"seconds", "wait", "memory", "matrix"}:
            assert there[name] == pytest.approx(here[name], rel=1e-5)


def test_a_wrong_label_is_found_before_it_is_moved(standin):
    wrong = [
        data.Sample(sample.image, np.full_like(sample.label, 4), sample.name)
        for sample in data.shapes("train", length=2)
    ]

    class Wrong:
        name, classes, palette, ignore_index = "wrong", tuple("abcd"), np.zeros((4, 3)), 255
        __len__ = lambda self: 2  # noqa: E731
        __getitem__ = lambda self, index: wrong[index]  # noqa: E731

    with pytest.raises(F.LabelError, match=r"label 4 at image 0, row 0, column 0 is no class"):
        next(train.fit(net(), data.Loader(Wrong(), 2), RECIPE, "cuda"))


def test_a_wrong_label_on_a_gpu_makes_the_loss_nan(cupy):
    x, target = cupy.zeros((2, 3), "f"), cupy.asarray(np.array([1, 3]))
    assert math.isnan(F.cross_entropy(x, target).item())
    for array in (x.astype("d"), x):  # our kernels know float32 alone
        with cuda.plain(), pytest.raises(F.LabelError, match="label 3 at image 1 is no class"):
            F.cross_entropy(array, target)


def test_debugging_names_the_operation_and_the_layer(cupy):
    bad = net().to("cuda")
    bad.conv2_1.weight.data[...] = 1e38
    with debug(), pytest.raises(NotFiniteError, match=r"^conv2d made inf of x \(2, 4, ") as caught:
        list(fitted(bad))
    assert "weight (4, 4, 3, 3) from 1e+38 to 1e+38" in str(caught.value)
    assert caught.value.__notes__[0].startswith("in layer 'conv2_1': Conv2d(")


def test_debugging_names_what_fails_on_the_gpu(standin, monkeypatch):
    x = Tensor(np.ones(3, "f")).to("cuda")

    def fail(self):
        raise standin.cuda.runtime.CUDARuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(standin.cuda.Device, "synchronize", fail)
    with debug(), pytest.raises(DeviceError, match="exp failed on the GPU: cudaErrorIllegal"):
        x.exp()


# Memory


@pytest.mark.parametrize(
    ("free", "operation", "notes"),
    [
        (150_000, r"^conv2d of x \(2, 3, 64, 64\) and weight ", ["in layer 'conv1_1': Conv2d("]),
        (
            2_300_000,
            r" of .*: Out of memory allocating [\d,]+ bytes",
            ["in d conv2d / d ", "in layer 'conv3_"],
        ),
    ],
)
def test_too_little_memory_in_a_step_names_the_layer(limited, free, operation, notes):
    model = net().to("cuda")
    limited(free)
    with pytest.raises(OutOfMemoryError, match=operation) as caught:
        list(fitted(model))
    told = caught.value
    assert "bytes" in str(told)
    assert re.search(r"; of cuda:0, 85,8\d\d MB of 85,899 MB are free: use fewer ", str(told))
    assert isinstance(told, MemoryError)
    for note in notes:
        assert any(each.startswith(note) for each in told.__notes__), told.__notes__
    assert told.__notes__[-1].startswith(
        "half as many images at a time: --batch-size 1 (with --acc"
    )


def test_too_little_memory_for_the_weights_names_them(limited):
    backend.probe_cuda()
    limited(1000)
    told = r"^the move to cuda:0 of conv1_1.weight \(4, 3, 4, 4\): Out of memory allocating "
    with pytest.raises(OutOfMemoryError, match=told) as caught:
        net().to("cuda")
    assert re.search(
        r"; of cuda:0, 85,8\d\d MB of 85,899 MB are free: use a narrower net \(--width\), or "
        "another GPU: see nvidia-smi$",
        str(caught.value),
    )
    assert caught.value.__notes__ == ["in FCN.to('cuda')"]


def test_too_little_memory_for_a_prediction(limited):
    model = net().to("cuda")
    limited(150_000)
    with pytest.raises(PredictionError, match=r"64 x 64 pixels .* needs more memory") as caught:
        outputs(model, np.zeros((3, 64, 64), "f"))
    assert "in layer 'conv1_1'" in caught.value.__notes__[0]
    assert str(caught.value).endswith(
        "MB are free): make it smaller, or use (smaller) tiles"  # advice of one kind
    )


def test_an_estimate_counts_the_memory_of_cublas(limited):
    model, free = net().to("cuda"), 10_000_000
    need = memory.training(model, 64, 64, 2)
    assert need.arrays < free
    assert need.buffers > cuda.cublas.WORKSPACE
    limited(free)
    _, todo = memory.advice(model, 64, 64, 2)
    assert todo is not None
    assert memory.training(net(), 64, 64, 2).buffers < cuda.cublas.WORKSPACE  # on a CPU


def test_memory_that_is_available_is_bounded(standin):
    array, pool = standin.zeros(1000, "f"), standin_memory.pools[0]
    assert memory.available(array) == standin_memory.CAPACITY - pool.used
    standin.get_default_memory_pool().set_limit(pool.used + 10_000)
    assert memory.available(array) == 10_000


def test_what_is_told_of_memory(standin):
    assert len(gpu_memory.gpus()) == 2
    assert "compute capability 9.0, 85,899 MB, " in gpu_memory.gpus()[0]
    assert max(len(line) for text in gpu_memory.gpus() for line in text.splitlines()) < 90
    with standin.cuda.Device(1):
        standin.get_default_memory_pool().set_limit(2 * 10**9)
        block = standin.zeros(10**8, "f")
    del block  # what was given back still counts
    assert "at most 2,000 MB of it (CUPY_GPU_MEMORY_LIMIT)" in gpu_memory.gpus()[1]
    assert gpu_memory.taken("cuda:1").startswith("cuda:1: 400 MB of 85,899 MB were taken")
    assert gpu_memory.taken("cpu") == ""


# Precision


def test_a_loss_scale_takes_back_what_it_does(xp):
    device = "cpu" if xp is np else "cuda"
    w = nn.Parameter(np.array([1.0, 2.0], "f"))
    w.data = backend.to_device(w.data, device)
    scale = LossScale(w.data)
    for gradient, expected, factor in (
        ([1e-7, 3.0], [1e-7, 3.0], FIRST),
        ([1e35, 1.0], [0.0, 0.0], FIRST / 2),
        ([np.nan, 1.0], [0.0, 0.0], FIRST / 4),
        ([2.0, 5.0], [2.0, 5.0], FIRST / 4),
    ):
        w.grad = None
        with np.errstate(over="ignore"):
            each = Tensor(backend.to_device(np.array(gradient, "f"), device))
            scale.scaled((w * each).sum()).backward()
            scale.unscale_([w])
        np.testing.assert_allclose(w.grad.numpy(), np.array(expected, "f"))
        assert scale.factor.item() == factor
        assert scale.finite.item() == any(expected)
        assert scale.factor.dtype == np.float32


@pytest.mark.parametrize("type", ["float32", "float64"])  # kernels take the first alone
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_whose_gradients_overflow_changes_nothing(xp, type, momentum):
    """Neither momentum nor weight decay move a weight, and later steps know nothing of it."""
    device, found = "cpu" if xp is np else "cuda", []
    for gradients in ([1.0, 2.0, 3.0], [1.0, np.inf, 2.0, np.nan, 3.0]):
        w = Tensor(np.array([1.0, 2.0], type), requires_grad=True).to(device)
        w = nn.Parameter(w.data)
        optimizer, scale = optim.SGD([w], 0.1, momentum, weight_decay=0.1), LossScale(w.data)
        for gradient in gradients:
            before = w.numpy().copy()
            w.grad = Tensor(xp.full(2, gradient, type)) * Tensor(scale.factor.astype(type))
            scale.unscale_([w])
            optimizer.step(scale.finite)
            assert (w.numpy() != before).all() == math.isfinite(gradient)
        found.append(w.numpy())
    assert np.array_equal(*found)


def test_a_step_in_float16_that_overflows_changes_nothing(standin, monkeypatch):
    model, weights = net(), []
    with precision.use_precision("fp16"):
        training = loop.Training(
            model, data.Loader(data.shapes("train", length=6, size=32), 2), RECIPE, "cuda"
        )
        for number, _ in enumerate(training.steps()):
            weights.append(np.concatenate([p.numpy().ravel() for p in model.parameters()]))
            training.scale.factor[...] = 1e38 if number == 1 else FIRST
    changed = [not np.array_equal(*pair) for pair in itertools.pairwise(weights)]
    assert changed == [True, False, True]


def test_the_factor_of_the_loss_does_not_fall_below_1(xp):
    """Halved 160 times it would be 4.5e-44, and gradients divided by it infinite, all unseen."""
    device = "cpu" if xp is np else "cuda"
    w = nn.Parameter(backend.to_device(np.ones(1, "f"), device))
    scale, optimizer = LossScale(w.data), optim.SGD([w], 0.1)
    for gradient in [np.inf] * 160 + [2.0]:
        w.grad = Tensor(xp.full(1, gradient, "f")) * Tensor(scale.factor)
        scale.unscale_([w])
        optimizer.step(scale.finite)
        assert scale.factor.item() >= 1
    assert w.numpy() == np.float32(1 - 0.1 * 2)
    scale.set(1e-44, 0)  # from a file of a training that came so far
    assert scale.factor.item() == 1


def test_a_training_whose_gradients_all_overflow_is_stopped(standin, monkeypatch):
    """Nothing is learnt from such steps, and their losses are finite: nobody else would say so."""
    monkeypatch.setattr(loop, "LATE", 2)
    monkeypatch.setattr("minifcn.loss_scale.MOST_IN_A_ROW", 2)
    loader = data.Loader(data.shapes("train", length=6, size=32), 2)
    recipe, weights = dataclasses.replace(RECIPE, steps=30), []

    def all_weights():
        return np.concatenate([p.numpy().ravel() for p in training.model.parameters()])

    def enormous(*given, **how):
        return F.cross_entropy(*given, **how) * 1e30

    with precision.use_precision("fp16"):
        training = loop.Training(net(), loader, recipe, "cuda", enormous)
        told = r"^3 steps in a row: gradients overflow in fp16 at step 4: .* bf16 or tf32, or a "
        with pytest.raises(NotFiniteStepError, match=told):
            weights.extend(all_weights() for _ in training.steps())
    weights.append(all_weights())
    # The first step learns: what scores pixels starts at 0, and passes on no gradient yet.
    assert all(np.array_equal(later, weights[0]) for later in weights[1:])
    assert len(weights) == 4
    assert training.whole  # what was learnt before may be saved


def test_a_loss_scale_grows_after_a_while(monkeypatch):
    monkeypatch.setattr("minifcn.loss_scale.DOUBLED_AFTER", 3)
    w = nn.Parameter(np.ones(1, "f"))
    scale, factors = LossScale(w.data), []
    for _ in range(7):
        w.grad = Tensor(np.ones(1, "f"))
        scale.unscale_([w])
        factors.append(scale.factor.item() / FIRST)
    assert factors == [1, 1, 2, 2, 2, 4, 4]


def test_training_in_float16_is_about_that_in_float32(standin):
    changes, losses = [], []
    for name in ("fp32", "fp16"):
        model = net()
        before = np.concatenate([p.numpy().ravel() for p in model.parameters()])
        with precision.use_precision(name):
            steps = fitted(model, size=32)
            taken = [next(steps) for _ in range(3)]
            with S.counting() as seen:
                next(steps)
        assert seen.waits == 4 + (name == "fp16")  # the last step's: all losses, and overflows
        losses.append([step.loss for step in taken])
        changes.append(np.concatenate([p.numpy().ravel() for p in model.parameters()]) - before)
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert np.linalg.norm(changes[1] - changes[0]) < 5e-3 * np.linalg.norm(changes[0])


def test_gradients_too_small_for_float16_are_kept_by_a_loss_scale(standin):
    rng, found = np.random.default_rng(0), {}
    layer = nn.Conv2d(8, 8, 3, rng=rng).to("cuda")
    x = Tensor(rng.normal(size=(1, 8, 6, 6)).astype("f")).to("cuda")
    for name, scaled in (("fp32", False), ("fp16", False), ("fp16", True)):
        layer.zero_grad()
        with precision.use_precision(name):
            loss, scale = (layer(x) * 1e-9).sum(), LossScale(x.data)
            (scale.scaled(loss) if scaled else loss).backward()
        if scaled:
            scale.unscale_(layer.parameters())
        found[name, scaled] = layer.weight.grad.numpy()
    assert not found["fp16", False].any()
    largest = abs(found["fp32", False]).max()
    assert abs(found["fp16", True] - found["fp32", False]).max() < 1e-3 * largest


# The command line


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return end.value.code, *capsys.readouterr()


def test_commands_take_the_gpu_and_say_so(standin, tmp_path, capsys, monkeypatch):
    few = {part: data.shapes(part, length=2) for part in ("train", "val")}
    monkeypatch.setattr(prepare, "open_both", lambda *given: tuple(few.values()))
    monkeypatch.setattr(data, "open_dataset", lambda spec, part: few["val"])
    out = tmp_path / "run"
    numbers = ["--stages", "32s", "--steps", 1, "--widths", ",".join(map(str, WIDTHS))]
    numbers += ["--padding", "smallest", "--crop", 64]
    given = "--data", "shapes", "--out", out, *numbers, "--precision", "fp16"
    code, _, told = run(capsys, "train", *given)
    assert code == 0, told
    assert "minifcn: on cuda:0: CuPy 14.2.0 on a stand-in" in told
    assert "MB were taken at the most" in told
    config = json.loads((out / "config.json").read_text())
    assert (config["device"], config["precision"]) == ("cuda:0", "fp16")
    assert precision.current() == "fp32"
    measure = "evaluate", out / "fcn32s/best.safetensors", "--data", "shapes", "--allow-trained"
    code, _, told = run(capsys, *measure, "--device", "cuda:1")
    assert code == 0, told
    assert "minifcn: on cuda:1: CuPy" in told
    code, _, told = run(capsys, *measure, "--device", "cuda:2")
    assert code == 2
    assert "'cuda:2' is not available" in told


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_a_cpu_has_one_precision(command, tmp_path, capsys):
    given = {
        "train": ["--data", "shapes", "--out", tmp_path / "run"],
        "evaluate": ["net.safetensors", "--data", "shapes"],
        "predict": ["net.safetensors", "a.png", "--out", tmp_path],
    }[command]
    code, _, told = run(capsys, command, *given, "--device", "cpu", "--precision", "bf16")
    assert code == 2
    assert "--precision bf16 is for GPUs, and this is computed on the CPU" in told


def test_info_lists_the_gpus(standin, capsys):
    code, said, _ = run(capsys, "info")
    assert code == 0
    assert "cuda:1: a stand-in (no GPU), compute capability 9.0" in said


def test_pretraining_measures_only_weights_that_are_finite(standin, tmp_path):
    classifier = models.vgg16(4, width=0.03, image_size=32, rng=np.random.default_rng(0))
    sets = data.shapes("train", length=4), data.shapes("val", length=4)
    recipe = Recipe(steps=2, lr=1e30, batch_size=2, crop=32, warmup=1, max_norm=None)
    with pytest.raises(train.TrainingError, match=r"not finite|the loss is"):
        pretrain.run(classifier, *sets, tmp_path / "a.safetensors", recipe, device="cuda")
    assert not list(tmp_path.iterdir())


def test_the_environment_switches_debugging_on():
    code = (
        "import numpy as np; from minifcn import Tensor; x = Tensor(np.zeros(2)); "
        "print((x * 2).numpy().tolist()); x.log()"
    )
    for value, expected in (("1", "NotFiniteError: log made inf of x (2,) from 0 to 0"), ("0", "")):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={"MINIFCN_DEBUG": value, "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "[0.0, 0.0]\n"
        assert expected in done.stderr
        assert (done.returncode == 0) == (value == "0")
