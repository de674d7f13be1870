"""What a net needs is predicted right, and under no_grad it keeps nothing that it needs no more."""

import gc
import subprocess
import sys
import time
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest

from minifcn import functional as F
from minifcn import memory, models, process_memory
from minifcn.autograd import Tensor
from minifcn.memory import available, inference, training
from minifcn.nn import evaluation_mode
from minifcn.optim import SGD, bias_groups

NARROW = {
    "stages": ((8, 8), (16, 16), (24, 24, 24), (32, 32, 32), (32, 32, 32)),
    "hidden": 64,
}
CLOSE = 0.15  # how far a prediction may be off


def small(name, classes=9, **options):
    return models.build(name, num_classes=classes, backbone="small", **options)


def vgg(name, classes=5):
    return models.build(name, num_classes=classes, backbone="vgg16", **NARROW)


def narrow(name, backbone, **options):
    return models.build(name, num_classes=5, backbone=backbone, width=0.25, **options)


def classifier(name, side):
    return models.build(name, num_classes=5, width=0.125, image_size=side)


def images(height, width, count=1):
    return np.ones((count, height, width, 3), np.float32).transpose(0, 3, 1, 2)


def forward_pass(net, height, width):
    with evaluation_mode(net):
        net(Tensor(images(height, width)))


def training_step(net, optimizer, count, height, width):
    """Compute one step; of a net with several heads, all are trained, of a classifier its class."""
    found = net(Tensor(images(height, width, count)))
    scores = list(found.values()) if isinstance(found, dict) else [found]
    labels = Tensor(np.zeros((count, *scores[0].shape[2:]), np.uint8))
    loss, *more = (F.cross_entropy(score, labels) for score in scores)
    for other in more:
        loss = loss + other
    del found, scores, more
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def peak_of(work, kept=(), times=2):
    """Return the bytes that a piece of work has at most, without the buffers that threads keep.

    The least of several times: a thread that came too late to help may hold on to an array for a
    moment. What is there afterwards are buffers, if it is not the gradient of a tensor in ``kept``.
    """
    work()
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(1 + times):  # the first does not have what the one before leaves
            tracemalloc.reset_peak()
            work()
            now, peak = tracemalloc.get_traced_memory()
            gradients = sum(tensor.grad.data.nbytes for tensor in kept if tensor.grad is not None)
            peaks.append(peak - now + gradients)
        return min(peaks[1:])
    finally:
        tracemalloc.stop()


# Inference


@pytest.mark.parametrize(
    "net",
    [small("fcn32s"), vgg("fcn8s"), narrow("fcn8s", "googlenet"), narrow("fcn16s", "alexnet")],
    ids=["small", "vgg", "googlenet", "alexnet"],
)
def test_no_activation_outlives_its_use(net):
    """Before each layer only those arrays are there that it or a later one reads."""
    plan = memory.Plan(net, 60, 70, 1, training=False).steps
    made = {}

    def watch(number, step):
        def forward(x, **options):
            later = {read.array for follower in plan[number:] for read in follower.reads}
            later |= {follower.held for follower in plan[number:]}
            for _ in range(100):  # a thread that came too late to help may hold on for a moment
                there = {name for name, array in made.items() if array() is not None}
                if there <= later:
                    break
                time.sleep(0.01)
            assert there <= later, step.name
            y = type(step.layer).forward(step.layer, x, **options)
            owner = y.data
            while isinstance(owner.base, np.ndarray):
                owner = owner.base
            made[step.name] = weakref.ref(owner)
            return y

        step.layer.forward = forward

    try:
        for number, step in enumerate(plan):
            if step.layer is not None:
                watch(number, step)
        forward_pass(net, 60, 70)
    finally:
        for step in plan:
            if step.layer is not None:
                del step.layer.forward
    assert len(made) > 12


def test_a_peak_that_was_reckoned_by_hand():
    """The paper's trunk with few channels, 301 x 299 pixels: the first stage has 499 x 497."""
    image, stage1 = 301 * 299 * 3, 499 * 497 * 8
    transformed = 6 * 3 * 8 * 8  # Winograd's form of the weight
    numbers = image + stage1 + stage1 + transformed  # input and output of conv1_2
    net = vgg("fcn32s")
    need = inference(net, 301, 299)
    assert (need.arrays, need.largest) == (4 * numbers, "conv1_2")
    measured = peak_of(lambda: forward_pass(net, 301, 299), times=10)
    assert measured == pytest.approx(4 * numbers, rel=0.02)


@pytest.mark.parametrize(
    ("net", "height", "width"),
    [
        (small("fcn8s"), 700, 901),
        (small("fcn32s", classes=21), 640, 480),  # the scores are the largest
        (vgg("fcn8s"), 401, 303),
        (vgg("fcn16s"), 300, 500),
        (narrow("fcn8s", "googlenet"), 300, 200),
        (narrow("fcn32s", "alexnet"), 301, 280),  # LRN, then pooling
        (narrow("fcn8s", "caffenet"), 250, 320),  # pooling, then LRN
        (narrow("fcn16s", "alexnet_torchvision"), 250, 320),
        (small("fcn8s", {"sem": 9, "geo": 5}), 400, 301),
        (classifier("googlenet", 224), 224, 224),
        (classifier("vgg16", 96), 96, 96),
    ],
)
def test_the_peak_of_inference(net, height, width):
    need = inference(net, height, width)
    measured = peak_of(lambda: forward_pass(net, height, width))
    assert need.arrays == pytest.approx(measured, rel=CLOSE)
    assert need.weights == sum(parameter.data.nbytes for parameter in net.parameters())


@pytest.mark.parametrize(
    ("net", "count", "height", "width"),
    [
        (small("fcn8s"), 8, 96, 96),
        (small("fcn32s", classes=21), 4, 128, 128),  # the scores are the largest
        (small("fcn8s", dropout=0.5), 2, 200, 301),
        (vgg("fcn8s"), 1, 301, 280),
        (vgg("fcn32s"), 1, 250, 400),
        (narrow("fcn8s", "googlenet"), 2, 150, 200),
        (narrow("fcn32s", "alexnet"), 2, 150, 200),
        (narrow("fcn8s", "caffenet"), 2, 200, 150),
        (narrow("fcn8s", "alexnet_torchvision"), 1, 300, 250),
        (narrow("fcn16s", "googlenet", learn_trunk=False), 2, 150, 200),
        (small("fcn8s", {"sem": 9, "geo": 5}), 2, 200, 301),
        (small("fcn8s", fusion="max", learn_upsampling="intermediate"), 4, 128, 128),
        (classifier("googlenet", 96), 8, 96, 96),
        (classifier("alexnet_torchvision", 64), 8, 64, 64),
    ],
)
def test_the_peak_of_a_training_step(net, count, height, width):
    optimizer = SGD(bias_groups(net, 0.01, 5e-4), 0.01, 0.9, 5e-4)
    net.train()
    before = {name: p.data.nbytes for name, p in net.named_parameters() if p.requires_grad}
    step = lambda: training_step(net, optimizer, count, height, width)  # noqa: E731
    measured = peak_of(step, kept=list(net.parameters()))
    need = training(net, height, width, count)
    # Weights and momenta are there already.
    assert need.arrays == pytest.approx(measured, rel=CLOSE)
    own = inference(net, height, width).weights
    assert need.weights == own + sum(before.values())


def with_many_channels():
    """A net whose weights are large, and its images small enough for the weights to count."""
    stages = ((8,), (16,), (32,), (256, 256, 256), (256, 256))
    return models.fcn32s(5, "vgg16", stages=stages, hidden=64)


def with_large_fc6(channels=512):
    """A net whose fc6 has a large weight and sees few pixels."""
    return models.fcn32s(2, "vgg16", stages=((2,), (2,), (2,), (2,), (channels,)), hidden=512)


def test_the_peak_of_a_step_with_a_large_weight():
    """Its gradient is most of what there is. (From 32 MB on, its memory would be recycled.)"""
    test_the_peak_of_a_training_step(with_large_fc6(256), 1, 60, 60)


def test_the_peaks_of_many_channels():
    """Winograd's way along both axes has a transformed weight of four times the size."""
    test_the_peak_of_inference(with_many_channels(), 301, 300)
    test_the_peak_of_a_training_step(with_many_channels(), 1, 301, 300)


TOTAL = """
import tracemalloc
tracemalloc.start()
from tests.test_memory import forward_pass, inference, small, with_large_fc6, with_many_channels
net = {net}
start = tracemalloc.get_traced_memory()[0]
for _ in range(2):
    tracemalloc.reset_peak()
    forward_pass(net, 500, 600)
print(tracemalloc.get_traced_memory()[1] - start, inference(net, 500, 600).extra)
"""


@pytest.mark.parametrize("net", ["small('fcn8s')", "with_large_fc6()", "with_many_channels()"])
def test_buffers_count_too(net):
    answer = subprocess.run(
        [sys.executable, "-c", TOTAL.format(net=net)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    measured, predicted = map(int, answer.stdout.split())
    assert predicted == pytest.approx(measured, rel=CLOSE)


def test_double_precision_takes_twice_as_much():
    net = small("fcn8s")
    single = inference(net, 300, 300).arrays
    assert inference(net.to(np.float64), 300, 300).arrays == pytest.approx(2 * single, rel=0.02)


def test_more_images_take_more():
    one, four = (training(small("fcn8s"), 256, 256, images=n).arrays for n in (1, 4))
    assert 3.5 < four / one < 4.1


def test_a_fixed_trunk_takes_less():
    """Nothing is kept for gradients that nobody wants: the peak is that of the forward pass."""
    fixed = narrow("fcn32s", "googlenet", learn_trunk=False)
    learned = training(narrow("fcn32s", "googlenet"), 200, 200)
    need, forward = training(fixed, 200, 200), inference(fixed, 200, 200)
    scores = fixed.score_fr.weight.data.nbytes + fixed.score_fr.bias.data.nbytes
    assert need.weights == forward.weights + scores
    assert forward.arrays < need.arrays < learned.arrays / 4


def test_advice_where_it_fits(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda like: 10**10)
    line, todo = memory.advice(small("fcn8s"), 96, 128, images=8)
    need = training(small("fcn8s"), 96, 128, images=8)
    assert todo is None
    assert "8 images of 96 x 128 pixels (height x width)" in line
    assert f"about {need.total / 1e6:,.0f} MB" in line
    assert line.endswith("10,001 MB are available")  # and the weights, which are there already


def test_no_advice_without_knowing_what_there_is(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda like: None)
    line, todo = memory.advice(small("fcn8s"), 96, 96, images=1)
    assert "1 image of" in line
    assert "available" not in line
    assert todo is None


def advice_with(monkeypatch, net, megabytes, *size):
    """Return what to do if that much memory is there, the net's own weights included."""
    own = inference(net, 96, 96).weights
    monkeypatch.setattr(memory, "available", lambda like: int(megabytes * 1e6) - own)
    return memory.advice(net, *size)[1]


def test_advice_to_use_smaller_batches(monkeypatch):
    net = small("fcn8s")
    half, quarter = (training(net, 256, 256, images=n).total / 1e6 for n in (5, 3))
    todo = advice_with(monkeypatch, net, half, 256, 256, 10)
    assert f"--batch-size 5 --accumulate 2 ({half:,.0f} MB)" in todo
    todo = advice_with(monkeypatch, net, (half + quarter) / 2, 256, 256, 10)
    assert "--batch-size 3 --accumulate 4" in todo


def test_advice_to_cut_the_images(monkeypatch):
    net = small("fcn8s")
    one, cut = (training(net, side, side).total / 1e6 for side in (512, 448))
    assert cut < one
    todo = advice_with(monkeypatch, net, cut, 512, 640, 6)
    assert f"--crop 448 --batch-size 1 --accumulate 6 ({cut:,.0f} MB)" in todo


def test_advice_to_use_another_net(monkeypatch):
    todo = advice_with(monkeypatch, small("fcn8s"), 1, 512, 640, 6)
    assert "--width" in todo
    assert "--backbone" in todo


# The memory that there is


def test_the_memory_of_this_machine():
    free = available(np.zeros(1))
    assert free is None or 1 << 20 < free < 1 << 50


@pytest.mark.parametrize(
    ("kernel", "container", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable:   4000 kB\n", "max\n", 4000 * 1024),
        ("MemAvailable:   4000 kB\n", "1000000\n", 1000000),
        (None, "5000000\n", 5000000),
    ],
)
def test_the_least_limit_counts(tmp_path, monkeypatch, kernel, container, expected):
    files = {}
    for (pattern, unit), text in zip(
        process_memory.LIMITS.values(), (kernel, container), strict=True
    ):
        file = tmp_path / str(unit)
        files[file] = (pattern, unit)
        if text:
            file.write_text(text)
    monkeypatch.setattr(process_memory, "LIMITS", files)
    assert available(np.zeros(1)) == expected


def test_where_the_system_tells_less(monkeypatch):
    monkeypatch.setattr(process_memory, "LIMITS", {})
    pages = {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__, raising=False)
    monkeypatch.setattr("os.sysconf_names", pages, raising=False)
    assert available(np.zeros(1)) == 409600
    monkeypatch.setattr("os.sysconf_names", {})
    assert available(np.zeros(1)) is None


def test_nothing_grows_from_step_to_step():
    """Images of three sizes in turn: after each round as much is in use as after the last."""
    net = small("fcn8s")
    optimizer = SGD(bias_groups(net, 0.01, 5e-4), 0.01, 0.9, 5e-4)
    tracemalloc.start()
    try:
        in_use = []
        for _ in range(6):
            for height, width in ((96, 96), (130, 75), (64, 200)):
                training_step(net, optimizer, 2, height, width)
            optimizer.zero_grad()
            gc.collect()
            in_use.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(in_use[2:]) - in_use[1] < 50_000, in_use
