"""What benchmarks compute: the same with every library, and counted as the definition has it."""

import json

import numpy as np
import pytest

from minifcn import bench, models
from minifcn.bench import floor, inputs, ours, peers, sides, torch_peer, works
from minifcn.bench.process import Worker

NET = {"model": "fcn8s", "num_classes": 3, "backbone": "small", "widths": [4, 4, 8, 8, 8]}


def vgg_plan(**further):
    plan = {"stages": [[4], [4, 4], [8], [8], [8]], "hidden": 8, "dropout": 0.0}
    return {"num_classes": 3, "backbone": "vgg16", "model": "fcn8s"} | plan | further


NETS = {
    "small": NET,
    "32s": NET | {"model": "fcn32s"},
    "padded by 100": vgg_plan(),
    "16s at once": vgg_plan(model="fcn16s", at_once=True, padding=1, fc6_kernel=3, fc6_padding=1),
    "learnt upsampling": NET | {"learn_upsampling": "intermediate"},
}


@pytest.mark.oracle
@pytest.mark.parametrize("layout", works.LAYOUTS)
@pytest.mark.parametrize("net", NETS)
def test_the_twin_computes_and_learns_the_same(net, layout):
    pytest.importorskip("torch")
    # At 33 pixels the first rows to be cut off are more than the last ones.
    settings = {"net": NETS[net], "batch": [2, 3, 33, 50]}
    how = {"layout": layout}
    for kind, calls in ((works.INFER, 1), (works.TRAIN, 3)):
        (mine,) = ours.BUILDERS[kind](settings, {}).values()
        (its,) = torch_peer.BUILDERS[kind](settings, how).values()
        for _ in range(calls):
            a, b = inputs.sample(mine.run()), inputs.sample(its.run())
            assert np.abs(a).max() > 0.1
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())


@pytest.mark.oracle
def test_the_twin_keeps_the_parameters_in_its_layout():
    torch = pytest.importorskip("torch")
    from minifcn.bench.torch_twin import Twin

    net = inputs.new_net({"net": NET})
    twin = Twin(net, "channels_last")
    learnt = [p for p in net.parameters() if p.requires_grad]
    assert sum(p.numel() for p in twin.parameters) == sum(p.data.size for p in learnt)
    four = [p for p in twin.parameters if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in four)


@pytest.mark.oracle
def test_a_layer_without_a_counterpart_is_named():
    pytest.importorskip("torch")
    from minifcn import nn
    from minifcn.bench.torch_twin import Twin

    net = inputs.new_net({"net": NET})
    net.relu1_1 = nn.Flatten()
    with pytest.raises(bench.BenchError, match=r"no counterpart in PyTorch of Flatten\(\)"):
        Twin(net, "contiguous")


SMALL = {
    works.LAYER: [
        works.layer(4, 6, 9, batch=2).settings,
        works.layer(3, 4, 11, 5, stride=4, padding=2, first=True).settings,
        works.layer(4, 6, 10, 4, stride=3, padding=1).settings,  # a row is left over
        works.layer(4, 8, 7, 3, groups=2).settings,
        works.layer(8, 5, 6, 1).settings,
    ],
    works.POOL: [{"x": [2, 3, 5, 6]}],
    works.RELU: [{"x": [2, 3, 5, 6]}],
    works.BIAS: [{"x": [2, 3, 5, 6]}],
    works.LOSS: [{"x": [2, 3, 5, 6]}],
    works.UPSAMPLING: [{"x": [1, 3, 4, 5], "factor": 4}],
    works.UPDATE: [{"net": NET}],
    works.COMMON: [{"x": [2, 3, 16, 16]}],
}


@pytest.mark.oracle
@pytest.mark.parametrize("layout", works.LAYOUTS)
@pytest.mark.parametrize("kind", SMALL)
def test_each_kind_of_case_computes_the_same_as_pytorch(kind, layout):
    pytest.importorskip("torch")
    for settings in SMALL[kind]:
        mine = ours.BUILDERS[kind](settings, {})
        its = torch_peer.BUILDERS[kind](settings, {"layout": layout})
        assert mine.keys() == its.keys()
        for task in mine:
            for _ in range(2):
                a, b = inputs.sample(mine[task].run()), inputs.sample(its[task].run())
                np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5, err_msg=task)


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["default", "foreach", "fused"])
def test_all_forms_of_sgd_are_the_same(form):
    pytest.importorskip("torch")
    (mine,) = ours.update({"net": NET}, {}).values()
    (its,) = torch_peer.update({"net": NET}, {"sgd": form}).values()
    for _ in range(3):
        np.testing.assert_allclose(inputs.sample(its.run()), inputs.sample(mine.run()), rtol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("peer", peers.STEPS)
def test_each_library_takes_the_same_step(peer):
    if sides.missing(peer):
        pytest.skip(sides.missing(peer))
    settings = {"x": [2, 3, 16, 16]}
    expected = ours.common_step(settings, {})["step"].run
    losses = [[expected()] for _ in range(3)]
    for side in sides.sides_of(peer, works.COMMON):
        with Worker(peer, threads=1) as worker:
            worker.ask("hello", peer=peer, threads=1)
            what = {"peer": peer, "how": side.how, "kind": works.COMMON, "settings": settings}
            found = worker.ask("build", side="it", calls=3, **what)
        np.testing.assert_allclose(found["checks"]["step"], losses, rtol=1e-4)


def test_every_builder_is_known_to_everybody():
    kinds = {case.kind for work in works.WORKS.values() for case in work.cases}
    assert kinds == ours.BUILDERS.keys() == torch_peer.BUILDERS.keys()
    assert peers.STEPS.keys() == peers.STARTS.keys() == sides.PEERS.keys() - {"torch"}


def test_all_cases_can_be_sent():
    for work in works.WORKS.values():
        for case in work.cases:
            assert json.loads(json.dumps(case.settings)) == case.settings


def test_floating_point_operations_are_those_of_the_definition():
    case = works.layer(16, 32, 64, 5, stride=2, groups=2, batch=3)
    tasks = ours.convolution(case.settings, {})
    assert {t.flops for t in tasks.values()} == {2.0 * 3 * 32 * 32 * 32 * 8 * 25}

    net = models.build(**vgg_plan(padding=1, fc6_kernel=3, fc6_padding=1))
    forward = [  # of an image of 32 x 32: pixels, weights of one output channel, output channels
        (32 * 32, 3 * 9, 4),
        (16 * 16, 4 * 9, 4),
        (16 * 16, 4 * 9, 4),
        (8 * 8, 4 * 9, 8),
        (4 * 4, 8, 3),  # the score of pool3
        (4 * 4, 8 * 9, 8),
        (2 * 2, 8, 3),  # of pool4
        (2 * 2, 8 * 9, 8),
        (1, 8 * 9, 8),  # fc6
        (1, 8, 8),
        (1, 8, 3),
    ]
    expected = [2.0 * 5 * pixels * inner * outer for pixels, inner, outer in forward]
    assert [piece.flops for piece in floor.convolutions(net, [5, 3, 32, 32])] == expected
    settings = {"net": net.config, "batch": [5, 3, 32, 32]}
    step = ours.training_step(settings, {})["step"]
    assert step.flops == 3 * sum(expected) - expected[0]  # the image needs no gradient
    assert ours.inference(settings, {})["forward"].flops == sum(expected)


def test_scores_do_not_start_at_zero():
    """Or else the first loss would be log(classes), whatever the net computes."""
    (task,) = ours.inference({"net": NET, "batch": [2, 3, 16, 20]}, {}).values()
    assert np.abs(inputs.sample(task.run())).max() > 0.1


def test_a_sample_is_spread_over_the_whole_array():
    x = np.arange(1000.0).reshape(10, 10, 10)
    assert inputs.sample(x)[0] == 0
    assert inputs.sample(x)[-1] == 999
    assert len(inputs.sample(x)) == 64
    assert inputs.sample(x.transpose(2, 1, 0)) != inputs.sample(x)
    assert inputs.sample(1.5) == [1.5]
