"""Looking on: what ran is found, all of it adds up, and nothing of the looking stays behind."""

import itertools
import json
import mmap
import threading

import numpy as np
import pytest

from minifcn import autograd, checkpoint, cli, models, nn, optim, process_memory
from minifcn import functional as F
from minifcn.autograd import Node, Primitive, Tensor
from minifcn.bench import floor
from minifcn.profile import ProfileError, made_up, profiling, saved_bytes
from minifcn.profile.rows import merged
from minifcn.profile.table import profile_table

PATCHED = [
    (Primitive, "__call__"),
    (Node, "gradients"),
    (Tensor, "backward"),
    (nn.Module, "__call__"),
    (optim.SGD, "step"),
]
NARROW = {"backbone": "small", "widths": (4, 4, 8, 8, 8)}
SIZE = 64, 96  # height, width


@pytest.fixture(autouse=True)
def _nothing_stays():
    """Fail a test that leaves a method replaced."""
    before = [vars(owner)[name] for owner, name in PATCHED]
    yield
    assert [vars(owner)[name] for owner, name in PATCHED] == before


@pytest.fixture(scope="module")
def net():
    return models.build("fcn8s", num_classes=5, rng=np.random.default_rng(0), **NARROW)


@pytest.fixture(scope="module")
def found(net):
    """Two steps of an FCN-8s on two images."""
    step = made_up.training_step(net, *SIZE, images=2)
    step()
    with profiling(net, steps=2) as found:
        step()
        step()
    return found


def chain():
    """Return a small chain of layers, and images for it."""
    rng = np.random.default_rng(0)
    layers = {
        "conv": nn.Conv2d(3, 4, 3, padding=1, rng=rng),
        "relu": nn.ReLU(),
        "pool": nn.MaxPool2d(2),
        "last": nn.Conv2d(4, 2, 1, rng=rng),
    }
    return nn.Sequential(layers), rng.normal(size=(2, 3, 8, 8)).astype(np.float32)


def keys(found):
    return [(row.phase, row.layer, row.operation, row.calls) for row in found.rows]


# Calls


def test_every_call_is_counted_with_its_layer():
    net, x = chain()
    optimizer = optim.SGD(net.parameters(), 0.1, 0.9)
    with profiling(net) as found:
        F.sum(net(Tensor(x))).backward()
        optimizer.step()
    assert keys(found) == [
        ("forward", "conv", "conv2d", 1),
        ("forward", "pool + ReLU", "max_pool2d", 1),
        ("forward", "pool + ReLU", "relu", 1),
        ("forward", "last", "conv2d", 1),
        ("forward", "outside the net", "sum", 1),
        ("backward", "outside the net", "d sum / d x", 1),
        ("backward", "last", "d conv2d / d bias", 1),
        ("backward", "last", "d conv2d / d x", 1),
        ("backward", "last", "d conv2d / d weight", 1),
        ("backward", "pool + ReLU", "d relu / d x", 1),
        ("backward", "pool + ReLU", "d max_pool2d / d x", 1),
        ("backward", "conv", "d conv2d / d bias", 1),
        ("backward", "conv", "d conv2d / d weight", 1),
        ("update", "outside the net", "SGD.step", 1),
    ]


def test_a_convolution_with_its_relu_says_so():
    rng = np.random.default_rng(0)
    net = nn.Sequential(conv=nn.Conv2d(3, 4, 3, rng=rng), relu=nn.ReLU())
    with profiling(net) as found:
        net(Tensor(np.ones((1, 3, 8, 8), np.float32)))
    assert keys(found) == [
        ("forward", "conv + ReLU", "conv2d", 1),
        ("forward", "conv + ReLU", "relu", 1),
    ]
    assert [row.moved for row in found.rows][1] == 0  # done already


def test_calls_of_a_net_are_those_of_its_layers(net, found):
    calls = {(r.phase, r.operation): r.calls for r in merged(found.rows, lambda r: r[:3:2])}
    convolutions = sum(isinstance(m, nn.Conv2d) for _, m in net.named_modules())
    assert calls["forward", "conv2d"] == 2 * convolutions
    assert calls["backward", "d conv2d / d weight"] == 2 * convolutions
    assert calls["backward", "d conv2d / d x"] == 2 * (convolutions - 1)  # none in the image
    assert calls["forward", "cross_entropy"] == calls["update", "SGD.step"] == 2
    assert calls["backward", "add"] == 2 * 2  # where each of two skips starts


def test_gradients_belong_to_the_layers_of_their_operations(net, found):
    names = {name for name, _ in net.named_modules()} | {"FCN", "outside the net"}
    for phase in ("forward", "backward"):
        layers = {row.layer.removesuffix(" + ReLU") for row in found.rows if row.phase == phase}
        assert layers <= names
        assert {"conv1_1", "score_fr", "upscore8", "FCN", "outside the net"} <= layers


def test_sums_of_gradients_belong_to_the_layer_whose_gradient_is_added(found):
    added = [r.layer for r in found.rows if (r.phase, r.operation) == ("backward", "add")]
    assert added == ["conv5_1", "conv4_1"]  # what follows pool4 and pool3, where skips start


def test_operations_inside_a_gradient_are_no_rows(found):
    operations = {row.operation for row in found.rows}
    assert not {"conv2d_weight", "put_slice", "softmax_error"} & operations
    inner = [span for span in found.spans if span.name == "conv2d_weight"]
    assert inner
    assert all(span.parent.name.startswith("d conv2d / d weight") for span in inner)


def test_recomputed_operations_are_part_of_the_backward_pass():
    net, x = chain()
    with profiling(net) as found:
        F.sum(checkpoint(net, Tensor(x))).backward()
    again = [row for row in found.rows if row.operation == "conv2d"]
    assert [(row.phase, row.layer) for row in again] == [
        ("forward", "conv"),
        ("forward", "last"),
        ("backward", "conv"),
        ("backward", "last"),
    ]


def test_a_layer_under_two_names_has_the_first():
    layer = nn.Linear(3, 3, rng=np.random.default_rng(0))
    net = nn.Sequential(one=layer, two=layer)
    with profiling(net) as found:
        net(Tensor(np.ones((2, 3), np.float32)))
    assert keys(found) == [("forward", "one", "linear", 2)]


def test_inference_has_one_phase(net):
    step = made_up.forward_pass(net, *SIZE, images=1)
    with profiling(net) as found:
        step()
    net.train()
    assert {row.phase for row in found.rows} == {"forward"}
    assert not sum(row.saved for row in found.rows)
    assert found.saved == {}


# Times


def test_times_add_up(found):
    assert 0 < sum(row.seconds for row in found.rows) < found.seconds
    assert sum(row.seconds for row in found.rows) + found.other == pytest.approx(found.seconds)
    assert all(row.seconds > 0 for row in found.rows)


def test_spans_lie_inside_their_parents(found):
    for span in found.spans:
        assert found.start <= span.start <= span.end <= found.start + found.seconds
        if span.parent:
            assert span.parent.start <= span.start
            assert span.end <= span.parent.end


def test_rows_do_not_overlap(found):
    work = [span for span in found.spans if span.work is span]
    for before, after in itertools.pairwise(work):
        assert before.end <= after.start


# Work, bytes, what is saved


def test_flops_are_those_of_the_definition(net, found):
    """The same sums as bench has from the layers alone, here from the arrays that were there."""

    def of(phase, *names):
        return sum(
            r.flops for r in found.rows if (r.phase, r.operation) in {(phase, n) for n in names}
        )

    pieces = floor.convolutions(net, [2, 3, *SIZE])
    forward = 2 * sum(piece.flops for piece in pieces)  # two steps
    gradients = 2 * sum(p.flops for p in floor.training_step(net, [2, 3, *SIZE])) - forward
    assert of("forward", "conv2d") == forward
    assert of("backward", "d conv2d / d x", "d conv2d / d weight") == gradients
    assert of("forward", "conv_transpose2d") == of("backward", "d conv_transpose2d / d x") > 0
    assert of("backward", "d conv2d / d bias") == of("update", "SGD.step") == 0


@pytest.mark.parametrize(
    ("operation", "arrays", "expected"),
    [
        (F.conv2d, {"weight": np.ones((5, 3, 2, 2)), "x": np.ones((2, 3, 4, 4))}, 2 * 2 * 45 * 12),
        (
            F.conv2d,
            {"x": np.ones((2, 4, 4, 4)), "weight": np.ones((6, 2, 1, 1)), "groups": 2},
            2 * 2 * 96 * 2,
        ),
        (
            F.conv_transpose2d,
            {"x": np.ones((1, 3, 4, 4)), "weight": np.ones((3, 5, 2, 2)), "stride": 2},
            2 * 48 * 20,
        ),
        (
            F.conv2d_weight,
            {"x": np.ones((1, 3, 4, 4)), "g": np.ones((1, 5, 3, 3)), "kernel_size": 2},
            2 * 45 * 12,
        ),
        (F.linear, {"x": np.ones((4, 3)), "weight": np.ones((5, 3))}, 2 * 4 * 15),
        (F.matmul, {"x": np.ones((2, 4, 3)), "y": np.ones((2, 3, 5))}, 2 * 8 * 15),
        (F.relu, {"x": np.ones(9)}, 0),
    ],
    ids=["conv2d", "groups", "transposed", "weight", "linear", "matmul", "relu"],
)
def test_flops_of_an_operation_given_by_name(operation, arrays, expected):
    with profiling(nn.ReLU()) as found:
        operation(**arrays)
    assert [row.flops for row in found.rows] == [expected]


def test_bytes_are_read_and_written_once():
    x = np.ones((8, 10), np.float32)
    with profiling(nn.ReLU()) as found:
        F.relu(x)
        F.reshape(x, (80,))
        F.getitem(x, (slice(2), slice(None)))
        F.matmul(x, np.ones((10, 5), np.float32))
    sizes = {row.operation: row.moved for row in found.rows}
    assert sizes == {"relu": 640, "reshape": 0, "getitem": 0, "matmul": 4 * (80 + 50 + 40)}


@pytest.mark.parametrize(("momentum", "arrays"), [(0.9, floor.UPDATED), (0.0, 3)])
def test_an_update_moves_weights_gradients_and_momenta(momentum, arrays):
    layer = nn.Linear(3, 2, rng=np.random.default_rng(0))
    optimizer = optim.SGD(layer.parameters(), 0.1, momentum)
    F.sum(layer(Tensor(np.ones((4, 3), np.float32)))).backward()
    with profiling(layer) as found:
        optimizer.step()
    assert [(row.operation, row.moved) for row in found.rows] == [("SGD.step", arrays * 4 * 8)]


def test_what_is_saved_is_what_saved_bytes_says(net, found):
    x, labels = made_up.batch(net, *SIZE, images=2)
    loss = F.cross_entropy(net.train()(x), labels[""])
    told = {row.operation: row.bytes for row in saved_bytes(loss, net.parameters())}
    rows = merged((r for r in found.rows if r.phase == "forward"), lambda r: r.operation)
    assert {row.operation: row.saved / 2 for row in rows if row.saved} == told
    assert not any(row.saved for row in found.rows if row.phase != "forward")


# The block


def test_nothing_is_left_behind_after_an_error():
    net, x = chain()
    before = [vars(owner)[name] for owner, name in PATCHED]
    during = []

    def fail():
        with profiling(net) as found:
            during.extend([found, *(vars(owner)[name] for owner, name in PATCHED)])
            net(Tensor(x))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    found, *methods = during
    assert not set(methods) & set(before)
    assert [vars(owner)[name] for owner, name in PATCHED] == before
    assert found.seconds > 0
    assert len(found.rows) == 4
    with profiling(net):  # and one can look again
        pass


def test_an_error_inside_an_operation_ends_its_spans():
    net, x = chain()
    with profiling(net) as found:
        with pytest.raises(autograd.Error):
            net(Tensor(x[:, :2]))
        net(Tensor(x))
    assert all(span.end >= span.start > 0 for span in found.spans)
    assert [row.calls for row in found.rows] == [2, 1, 1, 1]
    assert {span.parent for span in found.spans if span.name == "Sequential"} == {None}


def test_only_one_can_look_on():
    net, _ = chain()
    with profiling(net), pytest.raises(ProfileError, match="already"), profiling(net):
        pass
    with profiling(net):
        pass


def test_findings_are_there_at_the_end_only():
    net, x = chain()
    with profiling(net) as found:
        net(Tensor(x))
        with pytest.raises(ProfileError, match="behind the end"):
            found.rows  # noqa: B018
    assert found.rows


def test_steps_must_be_some():
    with pytest.raises(ProfileError, match="steps=0 must be at least 1"), profiling(nn.ReLU(), 0):
        pass


def test_other_threads_work_and_are_not_seen():
    net, x = chain()
    results = []

    def work():
        loss = F.sum(net(Tensor(x)))
        loss.backward()
        results.append(loss.item())

    with profiling(net) as found:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert np.isfinite(results).all()
    assert len(results) == 1
    assert found.rows == []


def test_results_are_the_same_bits(net):
    x, labels = made_up.batch(net, *SIZE, images=1)

    def gradients():
        net.zero_grad()
        F.cross_entropy(net.train()(x), labels[""]).backward()
        return [p.grad.numpy().copy() for p in net.parameters() if p.grad is not None]

    plain = gradients()
    with profiling(net):
        watched = gradients()
    assert all((a == b).all() for a, b in zip(plain, watched, strict=True))


def test_gradients_of_gradients_can_be_taken():
    x = Tensor(np.array([2.0]), requires_grad=True)
    with profiling(nn.ReLU()) as found:
        (first,) = autograd.grad(x * x * x, [x], create_graph=True)
        first.backward()
    assert x.grad.item() == 12.0
    assert sum(row.calls for row in found.rows if row.operation == "d mul / d x") >= 4


# Tables


def cells(table, title):
    """Return a column's numbers; an empty cell is 0."""
    (column,) = (column for column in table.columns if str(column.header) == title)
    return [float(str(cell).replace(",", "").rstrip("%") or 0) for cell in column.cells]


@pytest.mark.parametrize("by", ["op", "both"])
def test_a_tables_times_add_up(found, by):
    table = profile_table(found.rows, found.seconds, 2, by)
    *parts, total = cells(table, "ms")
    assert sum(parts) == pytest.approx(total, abs=0.001 * len(parts))
    assert total == pytest.approx(500 * found.seconds, abs=0.001)
    *parts, total = cells(table, "share")
    assert total == 100
    assert sum(parts) == pytest.approx(100, abs=0.1 * len(parts))
    *parts, total = cells(table, "GFLOP")
    assert sum(parts) == pytest.approx(total, abs=0.001 * len(parts))


def test_a_tables_calls_are_those_of_a_step(found):
    table = profile_table(found.rows, found.seconds, 2, "both")
    assert sum(cells(table, "calls")) == sum(row.calls for row in found.rows) / 2


def test_the_table_of_layers_adds_up(found):
    table = profile_table(found.rows, found.seconds, 2, "layer")
    forward, backward = cells(table, "forward ms"), cells(table, "backward ms")
    assert sum(forward[:-1]) + sum(backward) == pytest.approx(
        forward[-1], abs=0.001 * 2 * len(forward)
    )
    names = [str(cell) for cell in table.columns[0].cells]
    assert names[0] == "conv1_1 + ReLU"
    assert names[-3:] == ["SGD.step", "other", "a step"]
    assert len(set(names)) == len(names)


def test_a_profile_prints_itself(found):
    text = found.table()
    assert "d conv2d / d weight" in text
    assert text.splitlines()[-1].startswith("a step")


# The trace: the rules of the Trace Event Format that matter for what is used of it


def check_trace(content):
    """Raise unless a trace follows the format's rules; return its bars by track."""
    assert set(content) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert content["displayTimeUnit"] in ("ms", "ns")
    bars = {}
    for event in content["traceEvents"]:
        assert event["ph"] in "MXC"
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["pid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert set(event["args"]) == {"name"}
            if event["name"] == "thread_name":
                bars[event["tid"]] = []
            continue
        assert event["ts"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
        else:
            assert event["dur"] >= 0
            assert isinstance(event["cat"], str)
            bars[event["tid"]].append(event)  # of a track that was named
    times = [event["ts"] for event in content["traceEvents"] if event["ph"] != "M"]
    assert times == sorted(times)
    for track in bars.values():
        inside = []  # bars of one track lie inside each other, or apart
        for bar in track:
            start, end = round(1000 * bar["ts"]), round(1000 * (bar["ts"] + bar["dur"]))
            while inside and inside[-1] <= start:
                inside.pop()
            assert not inside or end <= inside[-1], bar
            inside.append(end)
    return bars


@pytest.fixture(scope="module")
def content(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    found.trace(path)
    return json.loads(path.read_text("utf-8"))


def test_a_trace_follows_the_format(content):
    bars = check_trace(content)
    names = [e["args"]["name"] for e in content["traceEvents"] if e["name"] == "thread_name"]
    assert names == ["forward", "backward", "update"]
    assert len(bars[3]) == 2  # two updates


def test_the_check_of_a_trace_finds_bars_that_cross():
    bar = {"ph": "X", "name": "a", "cat": "b", "pid": 1, "tid": 1, "args": {}, "dur": 2.0}
    named = {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "t"}}
    events = [named, bar | {"ts": 0.0}, bar | {"ts": 1.0}]
    with pytest.raises(AssertionError):
        check_trace({"traceEvents": events, "displayTimeUnit": "ms", "otherData": {}})


def test_a_trace_has_layers_over_operations(content, found):
    forward, backward, _ = check_trace(content).values()

    def inside(track, name, layer):
        (first, *_) = (bar for bar in track if (bar["name"], bar["cat"]) == (layer, "layer"))
        end = first["ts"] + first["dur"]
        return [b for b in track if first["ts"] <= b["ts"] < end and b["name"] == name]

    assert len(inside(forward, "conv2d", "conv1_1 + ReLU")) == 1
    assert len(inside(forward, "conv2d", "FCN")) == 11
    assert len(inside(backward, "d conv2d / d weight", "conv1_1 + ReLU")) == 1
    assert len(inside(backward, "d relu / d x", "conv1_1 + ReLU")) == 1
    assert len([bar for bar in backward if bar["cat"] == "pass"]) == 2
    counted = [bar for bar in forward if bar["name"] == "conv2d"]
    total = sum(r.flops for r in found.rows if (r.phase, r.operation) == ("forward", "conv2d"))
    assert sum(bar["args"]["GFLOP"] for bar in counted) == pytest.approx(total / 1e9)


def test_a_traces_saved_activations_rise_and_fall(content, found):
    curve = [
        event["args"]["MB"]
        for event in content["traceEvents"]
        if event["name"] == "saved activations"
    ]
    total = sum(row.saved for row in found.rows) / 2 / 1e6
    assert max(curve) == pytest.approx(total)
    assert curve[-1] == pytest.approx(0, abs=1e-9)
    assert min(curve) > -1e-9


def test_a_trace_is_written_whole_or_not_at_all(found, tmp_path):
    with pytest.raises(OSError, match="missing"):
        found.trace(tmp_path / "missing" / "trace.json")
    assert list(tmp_path.iterdir()) == []


# On a GPU


def test_each_operation_is_waited_for_on_a_gpu(standin, monkeypatch):
    net, x = chain()
    net.to("cuda")
    step = made_up.waited
    optimizer = optim.SGD(net.parameters(), 0.1, 0.9)
    images = Tensor(x).to("cuda")

    def train():
        F.sum(net(images)).backward()
        optimizer.step()

    step(net, train)
    waits = []
    device = type(images.data.device)
    plain = device.synchronize
    monkeypatch.setattr(device, "synchronize", lambda self: (waits.append(1), plain(self))[1])
    with profiling(net) as found:
        train()
    assert len(waits) >= len(found.spans)
    assert {row.phase for row in found.rows} == {"forward", "backward", "update"}
    assert found.peak > 0
    assert any(span.resident >= 0 for span in found.spans)


# The command


@pytest.fixture
def run(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["profile", *map(str, arguments), "--device", "cpu"])
        return (caught.value.code or 0, *capsys.readouterr())

    return run


SMALL = ("--classes", 5, "--size", "32x48", "--steps", 1)


def test_the_command_shows_a_step(run, tmp_path):
    trace, numbers = tmp_path / "trace.json", tmp_path / "numbers.json"
    code, out, err = run(*SMALL, "--batch", 2, "--trace", trace, "--json", numbers)
    assert (code, err) == (0, "")
    assert "fcn8s on small: a training step on 2 images of 32 x 48 pixels" in out
    for part in ("d conv2d / d weight", "SGD.step", "a step", "Memory: ", "predicted", str(trace)):
        assert part in out
    check_trace(json.loads(trace.read_text("utf-8")))
    content = json.loads(numbers.read_text("utf-8"))
    assert content["size"] == [32, 48]
    assert (content["batch"], content["steps"]) == (2, 1)
    seconds = sum(row["seconds"] for row in content["rows"])
    assert seconds + content["other"] == pytest.approx(content["total"])
    assert content["machine"]["NumPy"] == np.__version__
    assert content["memory"]["predicted"] > 0


@pytest.mark.parametrize("by", ["op", "layer", "both"])
def test_the_command_shows_inference(run, by):
    code, out, _ = run(*SMALL, "--forward", "--by", by)
    assert code == 0
    assert "a forward pass on 1 image" in out
    assert "SGD.step" not in out
    assert ("conv1_1" in out) == (by != "op")


def test_the_command_takes_weight_files_and_classifiers(run, tmp_path):
    from minifcn import data, weights

    model = models.fcn32s(num_classes=4, **NARROW)
    path = tmp_path / "net.safetensors"
    classes = data.shapes("val").classes
    weights.save(
        model, path, classes=classes, palette=np.zeros((4, 3), np.uint8), preprocessing=data.UNIT
    )
    code, out, _ = run(path, "--size", 32, "--steps", 1)
    assert code == 0
    assert "fcn32s" in out
    code, out, _ = run("googlenet", "--width", 0.125, "--classes", 3, "--steps", 1, "--by", "layer")
    assert code == 0
    assert "inception_3a" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "steps"),
        (["--batch", "0"], "batch"),
        (["--by", "colour"], "by"),
        (["--size", "big"], "--size big"),
        (["fcn9s"], "no such file, and no model"),
        (["fcn8s", "--backbone", "small", "--width", "2"], "--width"),
        (["--trace", "missing/trace.json"], "--trace"),
        (["--json", "missing/numbers.json"], "--json"),
        (["--precision", "tf32"], "precision"),
        (["vgg16", "--width", "0.125", "--size", "100x200"], "square"),
    ],
)
def test_bad_options_are_errors(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_folder_is_no_place_for_a_trace(run, tmp_path):
    code, _, err = run("--trace", tmp_path)
    assert code == 2
    assert "is a folder" in err


# The memory of the process


def test_memory_of_the_process_is_told():
    before = process_memory.resident()
    if not before:
        pytest.skip("only Linux tells")
    assert 10e6 < before <= process_memory.most_resident() + 1e6
    forgets = process_memory.forget_most()
    block = mmap.mmap(-1, 64 << 20)  # the system's: NumPy might have some kept
    for place in range(0, len(block), mmap.PAGESIZE):
        block[place] = 1
    with process_memory.reading() as now:
        assert now() > before + 32e6
    assert process_memory.most_resident() > before + 32e6
    block.close()
    if forgets and process_memory.forget_most():
        assert process_memory.most_resident() < process_memory.resident() + 4e6


def test_memory_is_unknown_where_the_line_is_missing(monkeypatch, tmp_path):
    """As VmHWM is in some containers."""
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t  2048 kB\n")
    assert (process_memory.resident(), process_memory.most_resident()) == (2 << 20, 0)


def test_memory_is_unknown_where_there_is_no_proc(monkeypatch, tmp_path):
    for name in ("PAGES", "STATUS", "FORGET"):
        monkeypatch.setattr(process_memory, name, tmp_path / "missing" / "file")
    assert process_memory.resident() == process_memory.most_resident() == 0
    assert not process_memory.forget_most()
    with process_memory.reading() as now:
        assert now() == -1
    net, x = chain()
    with profiling(net) as found:
        net(Tensor(x))
    assert found.peak == 0
    assert all(span.resident == -1 for span in found.spans)
