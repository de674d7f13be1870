"""CUDA graphs: what is recorded and replayed gives the numbers that computing gives."""

import gc
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import standin as S

from minifcn import data, gpu_memory, models, nn
from minifcn import functional as F
from minifcn.autograd import Tensor
from minifcn.backend import to_device, to_numpy
from minifcn.kernels import cuda as kernels
from minifcn.kernels import gemm
from minifcn.kernels.cuda.cublas import WORKSPACE, CublasError, product, workspace
from minifcn.kernels.cuda.graph import USUAL, Recorded, RecordingError
from minifcn.kernels.precision import use_precision
from minifcn.loop import Training
from minifcn.optim import SGD
from minifcn.recipes import Recipe
from minifcn.recorded import Gradients

CALLS = USUAL + 3


def arrays(cupy, count, shape=(4, 3)):
    rng = np.random.default_rng(0)
    return [cupy.asarray(rng.standard_normal(shape, dtype=np.float32)) for _ in range(count)]


def test_replays_compute_with_the_new_numbers(cupy):
    recorded = Recorded(lambda x: [cupy.maximum(x, 0) * 2 + x])
    for x in arrays(cupy, CALLS):
        (y,) = recorded(x)
        expected = np.maximum(x.get(), 0) * 2 + x.get()
        assert np.array_equal(y.get(), expected)
    assert recorded.graph is not None


def test_the_function_is_not_called_any_more(cupy):
    calls = []
    recorded = Recorded(lambda x: [calls.append(1) or x + 1])
    for x in arrays(cupy, CALLS):
        recorded(x)
    assert len(calls) == USUAL + 1  # the last of them recorded


def test_other_shapes_are_recorded_anew(cupy):
    recorded = Recorded(lambda x: [x * 3])
    for shape in ((2, 2), (5, 1), (2, 2)):
        for x in arrays(cupy, CALLS, shape):
            assert np.array_equal(recorded(x)[0].get(), x.get() * 3)


def test_shapes_that_change_each_time_are_never_recorded(cupy):
    recorded = Recorded(lambda x: [x * 3])
    for size in range(1, 6):
        recorded(cupy.ones(size, np.float32))
        assert recorded.graph is None


def test_an_array_in_another_place_is_noticed(cupy):
    held = arrays(cupy, 1)
    recorded = Recorded(lambda x: [x + held[0]], lambda: held)
    for x in arrays(cupy, CALLS):
        recorded(x)
    held[0] = held[0] * 2
    x = cupy.ones((4, 3), np.float32)
    assert np.array_equal(recorded(x)[0].get(), 1 + held[0].get())


def test_another_precision_is_recorded_anew(cupy):
    x, w = (cupy.asarray(a) for a in np.random.default_rng(0).random((2, 8, 8), "f"))
    layer = [x.reshape(1, 8, 8, 1).repeat(8, 3).transpose(0, 3, 1, 2), w.reshape(8, 8, 1, 1)]
    recorded = Recorded(lambda image: [F.conv2d(image, layer[1])])
    found = []
    for name in ("fp32", "bf16", "fp32"):
        with use_precision(name):
            found.append([recorded(layer[0])[0].get() for _ in range(CALLS)][-1])
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize(("variable", "value"), [("MINIFCN_GRAPH", "0"), ("MINIFCN_DEBUG", "1")])
def test_switched_off(cupy, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    recorded = Recorded(lambda x: [x + 1])
    for x in arrays(cupy, CALLS):
        recorded(x)
    assert recorded.graph is None


def test_an_error_while_recording_is_raised_and_nothing_kept(cupy):
    calls = []

    def function(x):
        calls.append(1)
        if len(calls) == USUAL + 1:
            raise ValueError("a mistake")
        return [x + 1]

    recorded = Recorded(function)
    for x in arrays(cupy, USUAL):
        recorded(x)
    with pytest.raises(ValueError, match="a mistake"):
        recorded(x)
    assert np.array_equal(recorded(x)[0].get(), x.get() + 1)


def test_dropout_draws_on(cupy):
    """What replays drop is what the CPU would, and the generator is then where it would be."""
    on_gpu, on_cpu = np.random.default_rng(3), np.random.default_rng(3)
    recorded = Recorded(lambda x: [F.dropout(x, 0.5, True, on_gpu)])
    for x in arrays(cupy, CALLS, (3, 5)):  # an odd number: a half of 64 bits is left over
        expected = F.dropout(x.get(), 0.5, True, on_cpu)
        assert np.array_equal(recorded(x)[0].get(), expected)
        assert on_gpu.bit_generator.state == on_cpu.bit_generator.state


@pytest.mark.parametrize("name", ["fcn8s", "fcn32s"])
def test_training_is_the_same_with_and_without(cupy, monkeypatch, name):
    """The weights after some steps, dropout included, are equal to the bit."""
    rng = np.random.default_rng(1)
    batches = [
        (rng.standard_normal((2, 3, 40, 40), dtype=np.float32), rng.integers(0, 4, (2, 40, 40)))
        for _ in range(CALLS)
    ]

    def trained(graph):
        monkeypatch.setenv("MINIFCN_GRAPH", graph)
        options = {"widths": [4, 4, 8, 8, 8], "rng": np.random.default_rng(0)}
        net = getattr(models, name)(4, "small", **options).to("cuda").train()
        optimizer = SGD(net.parameters(), 0.1, 0.9, 1e-3)

        def compute(images, labels):
            loss = F.cross_entropy(net(Tensor(images)), Tensor(labels))
            loss.backward()
            return [loss.data]

        gradients = Gradients(net.parameters(), compute)
        losses = []
        for images, labels in batches:
            moved = to_device(images, "cuda"), to_device(labels.astype(np.int32), "cuda")
            losses.append(to_numpy(gradients(*moved)[0]).item())
            optimizer.step()
        assert (gradients.recorded.graph is not None) == (graph == "1")
        return losses, [to_numpy(p.data) for p in net.parameters()]

    (losses, weights), (others, other_weights) = trained("1"), trained("0")
    assert losses == others
    assert all(np.array_equal(a, b) for a, b in zip(weights, other_weights, strict=True))


def test_fully_connected_layers_are_recorded(cupy):
    """CuPy's own products, inside a recording, are an error."""
    found = []
    for device in ("cpu", "cuda"):
        rng = np.random.default_rng(0)
        layers = nn.Linear(6, 5, rng=rng), nn.ReLU(), nn.Linear(5, 3, rng=rng)
        net = nn.Sequential(*layers).to(device)

        def compute(x, net=net):
            loss = (net(Tensor(x)) ** 2).mean()
            loss.backward()
            return [loss.data]

        gradients = Gradients(net.parameters(), compute)
        for _ in range(CALLS):
            x = to_device(rng.standard_normal((4, 6), dtype=np.float32), device)
            (loss,) = gradients(x)
            found.append([to_numpy(loss), *(p.grad.numpy() for p in net.parameters())])
    assert gradients.recorded.graph is not None
    for here, there in zip(found[:CALLS], found[CALLS:], strict=True):
        for one, other in zip(here, there, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


SMALL = {"widths": (4, 4, 8, 8, 8), "padding": "smallest"}
NARROW = {"width": 1 / 32, "padding": "smallest"}
KINDS = {  # of layers, of losses and of precision: all that training has
    "two heads": ("small", SMALL | {"num_classes": {"a": 4, "b": 3}}, "fp32", "sum"),
    "maxima": ("small", SMALL | {"fusion": "max"}, "tf32", "batchmean"),
    "learned upsampling": ("small", SMALL | {"learn_upsampling": "intermediate"}, "fp16", "mean"),
    "groups, LRN": ("caffenet", NARROW, "fp32", "none"),
    "branches": ("googlenet", NARROW, "fp32", "mean"),
    "late fusion": ("small", SMALL, "bf16", "mean"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_net_is_recorded(cupy, kind):
    """A replay gives the bits of a call that was not recorded, in the loss and all gradients."""
    backbone, options, precision, reduction = KINDS[kind]
    rng = np.random.default_rng(0)
    nets = [
        models.fcn16s(**{"num_classes": 4} | options, backbone=backbone, rng=rng) for _ in range(2)
    ]
    streams = dict(zip(("one", "other"), nets, strict=True))
    net = models.LateFusion(streams) if kind == "late fusion" else nets[0]
    net.to("cuda").train()
    channels = 6 if kind == "late fusion" else 3
    x, labels = rng.standard_normal((2, channels, 40, 36), "f"), rng.integers(0, 3, (2, 40, 36))

    def compute(x, labels):
        scores = net(Tensor(x))
        heads = scores.values() if isinstance(scores, dict) else [scores]
        parts = [F.cross_entropy(head, Tensor(labels), reduction=reduction) for head in heads]
        loss = sum(part.sum() for part in parts)
        loss.backward()
        return [loss.data]

    gradients, found = Gradients(net, compute), []
    for _, layer in net.named_modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    with use_precision(precision):
        for _ in range(USUAL + 2):
            (loss,) = gradients(to_device(x, "cuda"), to_device(labels.astype(np.int32), "cuda"))
            grads = [p.grad.numpy() for p in net.parameters() if p.grad is not None]
            found.append([to_numpy(loss), *grads])
    assert gradients.recorded.graph is not None
    for one, other in zip(found[0], found[-1], strict=True):
        assert np.array_equal(one, other)


def test_what_decides_about_the_work_is_noticed(cupy):
    """Which parameters learn, and whether layers are in training."""
    rng = np.random.default_rng(0)
    layers = nn.Linear(6, 5, rng=rng), nn.Dropout(0.5, rng=rng), nn.Linear(5, 3, rng=rng)
    net = nn.Sequential(*layers).to("cuda")
    x = to_device(np.ones((4, 6), np.float32), "cuda")

    def compute(x):
        loss = (net(Tensor(x)) ** 2).mean()
        loss.backward()
        return [loss.data]

    gradients = Gradients(net, compute)

    def learning():
        losses = {to_numpy(gradients(x)[0]).item() for _ in range(CALLS)}
        assert gradients.recorded.graph is not None
        return len(losses), [p.grad is not None for p in net.parameters()]

    net.eval()
    assert learning() == (1, [True] * 4)
    net.train()
    assert learning()[0] > 1  # something else is dropped each time
    layers[0].weight.requires_grad = layers[0].bias.requires_grad = False
    assert learning()[1] == [False, False, True, True]
    layers[0].weight.requires_grad = True
    net.eval()
    assert learning() == (1, [True, False, True, True])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.matmul(x.astype(np.float64), x.astype(np.float64)),
        lambda x: F.matmul(x[None], x[None]),
        lambda x: x * x.sum().item(),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x + to_device(np.ones(4, np.float32), "cuda"),
    ],
)
def test_what_cannot_be_recorded_is_an_error_with_a_way_out(cupy, monkeypatch, function):
    recorded = Recorded(lambda x: [function(x)])
    (x,) = arrays(cupy, 1, (4, 4))
    for _ in range(USUAL):
        (usual,) = recorded(x)
    with pytest.raises(RecordingError, match=r"CUDA graph: .*captur.* set MINIFCN_GRAPH=0"):
        recorded(x)
    monkeypatch.setenv("MINIFCN_GRAPH", "0")
    assert np.array_equal(recorded(x)[0].get(), usual.get())


def test_cupys_own_products_are_never_recorded(cupy):
    recorded = Recorded(lambda x: [F.matmul(x, x)])
    (x,) = arrays(cupy, 1, (4, 4))
    with kernels.plain():
        found = [recorded(x)[0].get() for _ in range(CALLS)]
    assert recorded.graph is None
    np.testing.assert_allclose(found[-1], x.get() @ x.get(), rtol=1e-5, atol=1e-6)


def test_a_replay_asks_little_of_the_gpu(standin):
    net = models.fcn8s(4, "small", widths=[4, 4, 8, 8, 8], dropout=0.0).to("cuda")
    x = to_device(np.ones((1, 3, 40, 40), np.float32), "cuda")
    recorded = Recorded(lambda x: [net(Tensor(x)).data])
    with S.counting() as usual:
        recorded(x)
    for _ in range(USUAL):
        recorded(x)
    with S.counting() as seen:
        recorded(x)
    assert usual.started > 30
    assert (seen.launches, seen.products, seen.kernels) == (2, 0, 0)  # a copy, and the graph
    assert (seen.to_gpu, seen.to_cpu, seen.waits) == (0, 0, 0)


# Products.


@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 5, 4), (3, 1, 4), (3, 5, 1), (1, 1, 1)])
def test_product(cupy, shape, turned):
    m, k, n = shape
    (a,), (b,) = arrays(cupy, 1, (m, k)), arrays(cupy, 1, (k, n))
    a = cupy.ascontiguousarray(a.T).T if "a" in turned else a
    b = cupy.ascontiguousarray(b.T).T if "b" in turned else b
    out = cupy.full((m, n), np.nan, np.float32)
    expected = a.get().astype(np.float64) @ b.get()
    np.testing.assert_allclose(product(a, b, out).get(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(product(a, b, out, add=True).get(), 2 * expected, 1e-5, 1e-6)


def test_a_product_of_some_columns(cupy):
    (a,), (b,) = arrays(cupy, 1, (6, 8)), arrays(cupy, 1, (3, 4))
    out = cupy.zeros((6, 4), np.float32)
    product(a[:, 2:5], b, out)
    np.testing.assert_allclose(out.get(), a.get()[:, 2:5] @ b.get(), rtol=1e-5, atol=1e-6)


def test_products_of_any_views(cupy):
    """With gaps, backwards, or the same row again and again: copied first, where they must be."""
    (a,), (b,) = arrays(cupy, 1, (6, 8)), arrays(cupy, 1, (8, 6))
    again = cupy.broadcast_to(a[:1], (6, 8))
    for left in (a, b.T, a[::2], a[:, ::-1], a[::-1], again, cupy.broadcast_to(a[:, :1], (6, 8))):
        for right in (b, a.T, b[:, 1:4], b[::-1], left.T):
            found, expected = gemm.product(left, right), left.get().astype(float) @ right.get()
            np.testing.assert_allclose(found.get(), expected, rtol=1e-5, atol=1e-5)
    nothing = gemm.product(a[:, :0], b[:0])
    assert np.array_equal(nothing.get(), np.zeros((6, 6)))


def test_a_matrix_with_steps_is_refused(cupy):
    (a,), (b,) = arrays(cupy, 1, (6, 8)), arrays(cupy, 1, (4, 4))
    with pytest.raises(CublasError, match="must be copied"):
        product(a[::2, ::2], b, cupy.zeros((3, 4), np.float32))


def test_a_function_on_the_second_gpu(standin):
    recorded = Recorded(lambda x: [x * 2 + 1])
    with standin.cuda.Device(1):
        given = arrays(standin, CALLS)
    for x in given:
        np.testing.assert_array_equal(recorded(x)[0].get(), x.get() * 2 + 1)
    assert standin.cuda.Device().id == 0


# The memory of recordings


@pytest.fixture
def used(standin):
    """Return a function that tells how much memory arrays and recordings take."""
    workspace(standin)  # cuBLAS gets its memory, and keeps it
    gc.collect()
    Recorded(np.add).close()  # other tests' recordings are given up

    def used():
        gc.collect()
        return standin.get_default_memory_pool().used_bytes()

    return used


def test_a_recording_gives_its_memory_back(standin, used):
    before, x = used(), standin.ones((64, 64), "f")
    recorded = Recorded(lambda x: [(x + 1) * 2 + x])
    for _ in range(CALLS):
        (y,) = recorded(x)
    assert used() - before >= 4 * x.nbytes  # argument, result, and more between
    recorded.close()
    assert used() - before == 2 * x.nbytes  # somebody has the result still
    np.testing.assert_array_equal(y.get(), 5)
    del y
    recorded.close()
    assert used() - before == x.nbytes
    assert np.array_equal(recorded(x)[0].get(), np.full((64, 64), 5, "f"))  # as usual again


@pytest.mark.parametrize("way", ["other shapes", "dropped", "an error"])
def test_no_recording_keeps_memory_for_ever(standin, used, way):
    def compute(x):
        if way == "an error" and S.device.recording():
            raise ArithmeticError
        return [(x + 1) * 2 + x]

    before, recorded = used(), Recorded(compute)
    for size in (64, 32, 16):
        x = standin.ones((size, size), "f")
        if way == "dropped":
            recorded = Recorded(compute)
        for _ in range(USUAL):
            recorded(x)
        with pytest.raises(ArithmeticError) if way == "an error" else nullcontext():
            recorded(x)
    recorded.close()
    del recorded, x
    assert used() == before


def test_a_recording_keeps_to_the_limit(standin, used):
    x = standin.ones((64, 64), "f")
    recorded = Recorded(lambda x: [standin.tanh(x), standin.exp(x), x + 1])
    pool = standin.get_default_memory_pool()
    pool.set_limit(used() + 3 * x.nbytes)  # enough for the usual calls
    try:
        for _ in range(USUAL):
            recorded(x)
        with pytest.raises(MemoryError, match="Out of memory allocating 16,384 bytes"):
            recorded(x)
    finally:
        pool.set_limit(0)


def test_what_was_taken_tells_of_recordings(standin, used):
    before, x = used(), standin.ones((2048, 2048), "f")
    recorded = Recorded(lambda x: [x + 1, x + 2, x + 3])
    for _ in range(CALLS):
        recorded(x)
    least = (before + 5 * x.nbytes) / 1e6
    told = gpu_memory.taken("cuda")
    assert float(told.split()[1].replace(",", "")) >= least - 1
    recorded.close()
    del x
    standin.get_default_memory_pool().free_all_blocks()
    assert gpu_memory.held("cuda") == before


def test_memory_taken_before_a_recording_counts(standin):
    standin.get_default_memory_pool().free_all_blocks()
    large = standin.ones(50 << 20, "f")
    del large
    recorded, x = Recorded(lambda x: [x + 1]), standin.ones(2, "f")
    for _ in range(CALLS):
        recorded(x)
    assert standin.get_default_memory_pool().total_bytes() < 100 << 20
    assert float(gpu_memory.taken("cuda").split()[1].replace(",", "")) > 200
    recorded.close()


def test_a_training_leaves_weights_and_momenta_alone(standin, used):
    """Each stage of a run is a training: what one leaves behind, the next would lack."""

    def train():
        net = models.fcn32s(4, "small", widths=(4, 4, 8, 8, 8))
        loader = data.Loader(data.shapes("train", length=8), 2)
        training = Training(net, loader, Recipe(6, 0.01), device="cuda")
        for _ in training.steps():
            pass
        assert all(p.grad is None for p in net.parameters())
        return training

    before = used()
    trained = train()
    parts = [*trained.model.parameters(), *map(Tensor, trained.optimizer.momenta.values())]
    rounded = sum(-(-part.data.nbytes // 512) * 512 for part in parts)
    assert used() - before < rounded + 50_000  # and tables, the factor of the loss
    del trained, parts
    assert used() - before < 1000


def test_the_number_of_a_dropout_is_noticed(standin):
    layer, x = nn.Dropout(0.0), standin.arange(64, dtype="f").reshape(8, 8)
    w = Tensor(standin.ones((8, 8), "f"), requires_grad=True)
    net = nn.Sequential(layer)

    def compute(x):
        loss = (net(w) * Tensor(x)).sum()
        loss.backward()
        return [loss.data]

    gradients = Gradients(net, compute)
    kept = []
    for layer.p in (0.0, 0.5):
        for _ in range(CALLS):
            (loss,) = gradients(x)
        kept.append(loss.item())
    assert kept[0] == 63 * 32
    assert kept[1] != kept[0]


def test_a_weight_turned_round_is_noticed(cupy):
    held = [cupy.arange(16, dtype="f").reshape(4, 4)]
    recorded, x = Recorded(lambda x: [x + held[0]], lambda: held), cupy.zeros((4, 4), "f")
    for _ in range(CALLS):
        recorded(x)
    held[0] = held[0].T
    assert np.array_equal(recorded(x)[0].get(), held[0].get())


def test_the_memory_of_products_outlives_the_thread_that_recorded(standin):
    recorded = Recorded(lambda x: [F.matmul(x, x)])
    x = arrays(standin, 1, (4, 4))[0]

    def record():
        for _ in range(CALLS):
            recorded(x)

    thread = threading.Thread(target=record)
    thread.start()
    thread.join()
    gc.collect()
    (y,) = recorded(x)
    np.testing.assert_allclose(y.get(), x.get() @ x.get(), rtol=1e-5)
    assert recorded.workspace.nbytes == WORKSPACE
