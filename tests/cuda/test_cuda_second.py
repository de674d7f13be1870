"""All that is not an operation, on a GPU that is not the thread's current one.

Asked to compute with arrays of another GPU than the current one, CuPy either raises an error, or
does so in the current one's queue of work, for which the other does not wait. The stand-in always
refuses; and with the fixture ``second``, the current GPU has no memory for new arrays.
"""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import standin_device

import minifcn.functional as F
from minifcn import Tensor, data, evaluation, gradcheck, models, nn, optim, weights
from minifcn.autograd import no_grad
from minifcn.backend import OutOfMemoryError, overwrite, to_device
from minifcn.layer_statistics import layer_statistics
from minifcn.loop import Training
from minifcn.loss_scale import LossScale
from minifcn.models import surgery
from minifcn.parallel.buckets import Buckets
from minifcn.parallel.launch import Launched
from minifcn.recipes import Recipe

WIDTHS = (4, 4, 8, 8, 8)


def small(seed=0, **options):
    return models.fcn8s(4, "small", widths=WIDTHS, rng=np.random.default_rng(seed), **options)


def same(net, other):
    """Tell whether two nets have the same weights, to the bit."""
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    return all(np.array_equal(p.numpy(), q.numpy()) for p, q in pairs)


def test_the_first_gpu_has_no_memory_left(second):
    with pytest.raises(OutOfMemoryError):
        to_device(np.ones(1), "cuda:0")
    assert small().to(second).score_fr.weight.device == second


@pytest.mark.parametrize("start", ["cpu", "cuda:0", "cuda:1"])
def test_an_array_is_overwritten_where_it_lies(standin, start):
    array = to_device(np.zeros((2, 3), np.float32), "cuda:1")
    overwrite(array, to_device(np.full(3, 4.0, np.float32), start))
    assert array.device.id == 1
    assert array.get().tolist() == [[4.0] * 3] * 2
    overwrite(array[:, 1:], 5)
    assert array.get().tolist() == [[4.0, 5.0, 5.0]] * 2


def test_starting_values_are_those_of_a_cpu(second):
    here = Tensor(np.ones((4, 4, 3, 3), np.float32))
    there = here.to(second)
    for fill in (
        lambda p: nn.init.normal_(p, 0.1, np.random.default_rng(0)),
        lambda p: nn.init.xavier_uniform_(p, np.random.default_rng(0)),
        lambda p: nn.init.constant_(p, 0.5),
        nn.init.bilinear_,
    ):
        assert fill(there) is there
        np.testing.assert_array_equal(there.numpy(), fill(here).numpy())
        assert there.device == second


def test_states_of_net_and_optimiser_are_taken_over(second):
    nets = [small(seed).to(second) for seed in (0, 1)]
    first, later = (optim.SGD(net.parameters(), 0.1, 0.9) for net in nets)
    for net in nets:
        for i, p in enumerate(net.parameters()):
            p.grad = Tensor(np.full(p.shape, i, np.float32)).to(second)
    first.step()
    nets[1].load_state_dict(nets[0].state_dict())
    later.load_state_dict(first.state_dict())
    momenta = [optimizer.state_dict()["momenta"] for optimizer in (first, later)]
    for one, other, p in zip(*momenta, nets[1].parameters(), strict=True):
        assert (one is None) == (other is None) == (not p.requires_grad)
        if other is not None:
            assert (other.device.id, other.strides) == (1, p.data.strides)
            np.testing.assert_array_equal(one.get(), other.get())
    first.step()
    assert not same(*nets)
    later.step()
    assert same(*nets)


def test_a_file_is_loaded_into_a_net(second, tmp_path):
    net, other = small(), small(1).to(second)
    about = {"classes": list("abcd"), "palette": np.zeros((4, 3), np.uint8)}
    weights.save(net, tmp_path / "net", **about, preprocessing=data.UNIT)
    weights.load_into(other, tmp_path / "net")
    assert same(net, other)
    weights.save(other, tmp_path / "other", **about, preprocessing=data.UNIT)
    assert (tmp_path / "other").read_bytes() == (tmp_path / "net").read_bytes()


@pytest.mark.parametrize("start", ["cpu", "cuda:1"])
def test_surgery(second, start):
    classifier = models.vgg16(5, width=1 / 32, image_size=64, rng=np.random.default_rng(0))
    options = models.trunk_options(classifier.config) | {"rng": np.random.default_rng(1)}
    nets = [models.fcn32s(4, in_channels=4, **options).to(device) for device in ("cpu", second)]
    for net, source in zip(nets, (classifier, classifier.to(start)), strict=True):
        report = surgery.transplant(net, source, widen_input=True)
        assert report.names("widened") == ["conv1_1.weight"]
        assert report.names("reshaped") == ["fc6.weight", "fc7.weight"]
        surgery.check_loaded(net)
        few = models.fcn32s(3, **options).to(net.score_fr.weight.device)
        nn.init.constant_(few.score_fr.weight, 2.0)
        surgery.expand_score(net, few)
    assert same(*nets)
    nn.init.zeros_(nets[1].conv3_1.weight)
    with pytest.raises(surgery.SurgeryError, match="weights of conv3_1 are zero"):
        surgery.check_loaded(nets[1])


def test_a_classifier_becomes_a_convolution(second):
    classifier = models.vgg16(4, width=1 / 32, image_size=64, rng=np.random.default_rng(0))
    here = surgery.convolutionalize(classifier)
    there = surgery.convolutionalize(classifier.to(second))
    assert {p.device for p in there.parameters()} == {second}
    assert same(here, there)


def trained(device, steps=4, ranks=None, **changes):
    """Return a training, and the losses of its steps."""
    recipe = Recipe(steps=steps, lr=0.1, batch_size=2, crop=None, **changes)
    loader = data.Loader(data.shapes("train", size=32, length=6), 2)
    given = {} if ranks is None else {"ranks": ranks}
    training = Training(small(), loader, recipe, device, **given)
    return training, [step.loss for step in training.steps()]


def test_training_is_that_of_the_first(standin, request):
    """Recorded from the third step on; with clipping."""
    first, losses = trained("cuda:0", max_norm=1.0)
    before, device = first.state(), request.getfixturevalue("second")
    second, again = trained(device, max_norm=1.0)
    assert again == losses
    for part in ("model", "momenta"):
        for name, array in second.state()[part].items():
            assert array.device.id == 1
            np.testing.assert_array_equal(array.get(), before[part][name].get())


def test_training_goes_on_from_a_state(second):
    whole, _ = trained(second, steps=2)
    state = whole.state() | {"scale": [1024.0, 7]}
    other = Training(small(1), whole.loader, whole.recipe, second)
    other.load_state(state)
    assert same(whole.model, other.model)
    assert other.state()["scale"] == [1024.0, 7]


def test_the_factor_of_the_loss(second):
    w = Tensor(np.ones(2, np.float32), requires_grad=True).to(second).detach()
    w.requires_grad = True
    scale = LossScale(w.data)
    scale.set(1024.0, 0)
    scale.scaled((w * 3.0).sum()).backward()
    scale.unscale_([w])
    assert w.grad.numpy().tolist() == [3.0, 3.0]


def test_what_one_looks_at(second):
    """Evaluation, statistics of layers, gradients checked, labels checked, and a notebook."""
    net, dataset = small().to(second), data.shapes("val", length=2)
    there = evaluation.evaluate(net, dataset, device=second)[""].matrix
    x = Tensor(np.random.default_rng(0).normal(size=(1, 3, 24, 24)).astype(np.float32)).to(second)
    optimizer = optim.SGD(net.parameters(), 0.1, 0.9)
    with layer_statistics(net, optimizer) as found:
        net(x).sum().backward()
        optimizer.step()
    assert found["score_fr"]["gradient"] > 0
    with no_grad():
        shown = [t._repr_html_() for t in (x, net(x)[0, 0, 0], net.score_fr.bias)]
    assert all("cuda:1" in html for html in shown)
    inputs = [x.data[0, 0, 0, :3], x.data[0, 0, :3, :3]]
    assert gradcheck.gradcheck(lambda a, b: (a * b).exp(), inputs)
    with pytest.raises(F.LabelError, match="label 4 at image 1 is no class"):
        F.check_labels(to_device(np.array([0, 4, 255], np.uint8), second), classes=4)
    np.testing.assert_array_equal(there, evaluation.evaluate(small(), dataset)[""].matrix)


# Several processes: this one is the second on its machine.


@pytest.fixture
def rank_1(second, monkeypatch):
    """The second of two ranks, which sees rank 0 do the same; and where its GPU waited."""
    standin, waits = sys.modules["cupy"], []

    class World:
        rank, size = 1, 2

        def allgather(self, value):
            return [value, value]

        def Allreduce(self, how, array):  # noqa: N802
            array *= 2

        def Bcast(self, array):  # noqa: N802
            array[...] = 0.25

    class Backend:
        def __init__(self, number, rank, use_mpi):
            assert (number, rank, standin.cuda.get_device_id()) == (2, 1, 1)

        def all_reduce(self, given, out, op, stream):
            assert given is out
            assert stream is not standin.cuda.get_current_stream()
            out += given

    levels = {"THREAD_SERIALIZED": 2, "Query_thread": lambda: 3}
    mpi = SimpleNamespace(COMM_WORLD=World(), IN_PLACE=None, **levels)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=mpi))
    monkeypatch.setitem(sys.modules, "cupyx.distributed", SimpleNamespace(NCCLBackend=Backend))
    monkeypatch.delitem(sys.modules, "minifcn.parallel.mpi", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(
        standin_device.Stream,
        "wait_event",
        lambda self, event: waits.append((self.non_blocking, standin.cuda.get_device_id())),
    )
    module = importlib.import_module("minifcn.parallel.mpi")
    monkeypatch.setattr(module, "share_cores", lambda processes: None)
    ranks = module.Mpi(Launched(1, 2))
    yield ranks, waits
    ranks.messenger.shutdown()
    del sys.modules[module.__name__]


def test_a_rank_has_a_gpu_of_its_own(rank_1):
    ranks, waits = rank_1
    assert ranks.device("cuda") == "cuda:1"
    net = small().to("cuda:1")
    ranks.spread(p.data for p in net.parameters())
    assert all((p.numpy() == 0.25).all() for p in net.parameters())
    total = ranks.sum(net.score_fr.bias.data)
    assert (total.device.id, total.get().tolist()) == (1, [0.5] * 4)
    assert net.score_fr.bias.numpy().tolist() == [0.25] * 4
    # The sum's own stream waits for what is to be summed, and the GPU's for the sum.
    assert waits == [(True, 1), (False, 1)]


def test_ranks_train_on_gpus_of_their_own(rank_1):
    ranks, waits = rank_1
    training, losses = trained("cuda:1", steps=2, ranks=ranks)
    assert training.done == 2
    assert np.isfinite(losses).all()
    assert {where for _, where in waits} == {1}
    _, expected = trained("cuda:1", steps=2)
    assert losses[0] == pytest.approx(expected[0])


def test_a_gradient_with_gaps_is_summed_where_it_lies(second):
    w = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    places = []
    buckets = Buckets(lambda array: lambda: places.append(array.device.id))
    gradient = to_device(np.ones((2, 6), np.float32), second)[:, :3]
    buckets.add(w, gradient)
    buckets.finish()
    assert places == [1]
