"""Whole nets on a GPU: what they compute is what the CPU computes, and nobody waits for it.

All runs on the stand-in for CuPy with our own kernels, whose text a C++ compiler turned into
programs for the CPU; what does not count or look inside runs on a real GPU as well.
"""

import gc
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import on_cpu
import pytest
import standin as S
from narrow_nets import FCNS, net_of

import minifcn.functional as F
from minifcn import Tensor, data, evaluation, models, nn, optim, train, weights
from minifcn.autograd import debug, no_grad
from minifcn.backend import DeviceError, NotFiniteError, to_device
from minifcn.kernels import cuda
from minifcn.recipes import Recipe

WIDTHS = (4, 4, 8, 8, 8)
SMALL = ("fcn8s", "small", {"widths": WIDTHS})
# Nets that use each kind of layer: ReLU, pooling, skips; LRN, groups, overlapping pooling; two
# heads; the larger of two scores.
NETS = {
    "8s of small": SMALL,
    "8s of small, of maxima": (*SMALL[:2], {**SMALL[2], "fusion": "max"}),
    "8s of small with two heads": (*SMALL[:2], {**SMALL[2], "num_classes": {"sem": 5, "geo": 3}}),
    "32s of CaffeNet": ("fcn32s", "caffenet", {"padding": "smallest", "width": 1 / 16}),
}
PLAIN = ["8s of AlexNet", "8s of torchvision's GoogLeNet", "8s of small"]  # by CuPy's own functions


def close(there, here, limit=2e-5):
    """Compare with the largest number."""
    there, here = np.asarray(there), np.asarray(here)
    assert there.shape == here.shape
    assert abs(there - here).max() <= limit * abs(here).max()


def images(shape=(2, 3, 40, 36)):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def outputs_and_gradients(net, x, device):
    """Return what a net puts out, and the gradients of some sum of it in all its parameters."""
    net.to(device).zero_grad()
    y = net(Tensor(x).to(device))
    heads = y if isinstance(y, dict) else {"": y}
    rng, total = np.random.default_rng(4), None
    for head in heads.values():
        share = Tensor(to_device(rng.normal(size=head.shape).astype(np.float32), head.device))
        part = (head * share).sum()
        total = part if total is None else total + part
    total.backward()
    found = {name: head.numpy() for name, head in heads.items()}
    return found | {
        name: p.grad.numpy() for name, p in net.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize(
    ("name", "plainly"), [*((name, False) for name in NETS), *((name, True) for name in PLAIN)]
)
def test_nets_compute_what_they_compute_on_a_cpu(cupy, name, plainly):
    model, backbone, options = FCNS[name] if plainly else NETS[name]
    net, x = net_of(model, backbone, **options), images()
    here = outputs_and_gradients(net, x, "cpu")
    with S.counting() as seen, cuda.plain() if plainly else nullcontext():
        there = outputs_and_gradients(net, x, "cuda")
    assert {p.device for p in net.parameters()} == {"cuda:0"}
    assert there.keys() == here.keys()
    for part in here:
        close(there[part], here[part])
    if cupy is S.cupy:
        assert (seen.kernels == 0) == plainly


def setting(device, seed=0):
    """Return a small net, its optimiser, images and labels."""
    rng = np.random.default_rng(seed)
    net = models.fcn8s(4, backbone="small", widths=WIDTHS, dropout=0.1, rng=rng).to(device)
    groups = optim.bias_groups(net, lr=0.2, weight_decay=5e-4)
    x = images((2, 3, 20, 18))
    labels = (x[:, 0] > 0) + 2 * (x[:, 1] > 0)
    labels[:, :3] = 255
    optimizer = optim.SGD(groups, 0.2, 0.9)
    return net, optimizer, Tensor(x).to(device), Tensor(labels.astype(np.uint8)).to(device)


def step(net, optimizer, x, labels):
    """Take a step; return the loss, which lies where the net does."""
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), labels)
    loss.backward()
    optimizer.step()
    return loss


def test_twenty_steps_have_the_losses_of_a_cpu(cupy):
    here, there = setting("cpu"), setting("cuda")
    losses = np.array([[step(*one).item() for one in (here, there)] for _ in range(20)])
    assert losses[-1, 0] < losses[0, 0] - 0.01  # something was learnt
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=1e-5)
    for p, q in zip(here[0].parameters(), there[0].parameters(), strict=True):
        close(q.numpy(), p.numpy(), 1e-4)


def test_the_order_of_threads_does_not_matter(standin):
    """To the last bit: nothing is added up in the order in which it happens to be ready."""
    results = []
    for order in ("forward", "reverse"):
        one = setting("cuda")
        with on_cpu.order(order):
            for _ in range(2):
                step(*one)
        results.append([p.numpy().tobytes() for p in one[0].parameters()])
    assert results[0] == results[1]


# What a step costs


@pytest.fixture
def counted(standin):
    """Return a function that takes a step and returns its counts."""
    one = setting("cuda")
    step(*one)  # fills caches

    def take():
        with S.counting() as seen:
            step(*one)
        return seen

    return take


def test_a_step_moves_next_to_nothing(counted):
    """Dropouts are told where their generators are, and SGD where gradients lie, if they moved."""
    seen = counted()
    asked = sorted("dropout" if "dropout" in place else "sgd" for place in seen.places)
    assert asked in (["dropout"] * 2, ["dropout", "dropout", "sgd"]), seen.places


def test_a_step_waits_for_nothing(counted):
    seen = counted()
    assert (seen.to_cpu, seen.waits) == (0, 0), seen.places


def test_a_step_starts_few_kernels(counted):
    """Each costs some microseconds of the CPU: the GPU is idle if there are many small ones."""
    seen, again = counted(), counted()
    assert (seen.kernels, seen.products, seen.launches) == (
        again.kernels,
        again.products,
        again.launches,
    )
    assert seen.started <= 200, seen
    with cuda.plain():
        assert counted().started > 4 * seen.started


def test_a_step_leaves_no_memory_behind(standin):
    step(*setting("cuda"))  # cuBLAS gets its memory, and keeps it
    gc.collect()
    pool = standin.get_default_memory_pool()
    before = pool.used_bytes()
    one = setting("cuda")
    step(*one)
    used = pool.used_bytes()
    for _ in range(2):
        step(*one)
        assert pool.used_bytes() == used
    del one
    gc.collect()
    assert pool.used_bytes() == before


def test_clipping_waits_for_nothing(standin):
    net = nn.Linear(3, 2, rng=np.random.default_rng(0)).to("cuda")
    for p in net.parameters():
        p.grad = Tensor(p.data + 1)
    with S.counting() as seen:
        optim.clip_grad_norm_(net.parameters(), 0.1)
    assert seen.waits == 0, seen.places


def fitted(device, **changes):
    recipe = Recipe(steps=3, lr=0.1, batch_size=2, crop=None, warmup=1)
    net = models.fcn8s(4, backbone="small", widths=WIDTHS, rng=np.random.default_rng(0))
    loader = data.Loader(data.shapes("train", length=6), 2)
    return net, train.fit(net, loader, replace(recipe, **changes), device)


def test_training_moves_images_and_labels(standin):
    _, steps = fitted("cuda")
    next(steps)
    with S.counting() as seen:
        next(steps)
    moved = [place for place in seen.places if "kernels.cuda.sgd" not in place]
    assert len(moved) == 2, seen.places
    assert seen.to_gpu <= 4  # and for SGD the rate of the step, and where gradients are


def test_training_waits_for_the_loss_alone(standin):
    _, steps = fitted("cuda", max_norm=10.0)
    next(steps)
    with S.counting() as seen:
        next(steps)
    assert seen.waits <= 1, seen.places


def test_training_tells_the_losses_of_a_cpu(cupy):
    losses = [[step.loss for step in fitted(device)[1]] for device in ("cpu", "cuda")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_evaluation_is_that_of_a_cpu(cupy):
    net = net_of(*SMALL[:2], **SMALL[2])
    found = [
        evaluation.evaluate(net, data.shapes("val", length=2), device=device)[""].matrix
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_array_equal(*found)


def test_weights_are_saved_from_a_gpu_and_loaded_to_it(cupy, tmp_path):
    net, files = net_of(*SMALL[:2], **SMALL[2]), []
    about = {"classes": list("abcd"), "palette": np.zeros((4, 3), np.uint8)}
    for device in ("cpu", "cuda"):
        files.append(tmp_path / device)
        weights.save(net.to(device), files[-1], **about, preprocessing=data.UNIT)
    assert files[0].read_bytes() == files[1].read_bytes()
    other = net_of(*SMALL[:2], **SMALL[2]).to("cuda")
    other.load_state_dict(net.state_dict())
    x = Tensor(images()).to("cuda")
    with no_grad():
        assert other(x).numpy().tobytes() == net(x).numpy().tobytes()


# Several GPUs


@pytest.mark.parametrize("mode", [nullcontext, debug])
def test_the_second_gpu_works_as_the_first(standin, mode):
    """Though the thread's current GPU is the first, and stays so."""
    with mode():
        first, second = setting("cuda:0"), setting("cuda:1")
        for _ in range(2):
            losses = [step(*one) for one in (first, second)]
    assert [loss.device for loss in losses] == ["cuda:0", "cuda:1"]
    assert losses[0].item() == losses[1].item()
    gradients = [p.grad for p in second[0].parameters() if p.grad is not None]
    assert {g.device for g in gradients} == {"cuda:1"}
    momenta = [h for h in second[1].state_dict()["momenta"] if h is not None]
    assert {h.device.id for h in momenta} == {1}
    assert standin.cuda.Device().id == 0
    moved = [p.numpy() for p in second[0].to("cuda:0").parameters()]
    for p, q in zip(first[0].parameters(), moved, strict=True):
        np.testing.assert_array_equal(p.numpy(), q)


def test_a_number_that_is_not_finite_is_named_on_the_second_gpu(standin):
    x = Tensor(images())
    x.data[0, 0, 0, 0] = np.nan
    there = x.to("cuda:1")
    for name, made in (
        ("to", lambda: x.to("cuda:1")),
        ("to", lambda: there.to("cuda:0")),
        ("exp", there.exp),
    ):
        with debug(), pytest.raises(NotFiniteError, match=rf"^{name} made nan of x .* from nan"):
            made()


def test_gpus_are_not_mixed(standin):
    net, _, x, _ = setting("cuda:1")
    for device in ("cuda:0", "cpu"):
        with pytest.raises(DeviceError, match=r"conv2d\w* got ") as caught:
            net(x.to(device))
        assert f"x ({device})" in str(caught.value)
        assert "weight (cuda:1)" in str(caught.value)
