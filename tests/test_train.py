"""Training: the loop, the stages, what a run leaves behind, and what stops it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from minifcn import baselines, data, models, stage, train, weights
from minifcn.evaluation import evaluate
from minifcn.loop import Training
from minifcn.metrics import ConfusionMatrix
from minifcn.models.surgery import SurgeryError, transplant
from minifcn.recipes import NETS, Recipe, RecipeError
from minifcn.train import Observer, TrainingError

WIDTHS = (8, 16, 32, 32, 32)
TRAIN, VAL = data.shapes("train", length=80), data.shapes("val", length=6)
RECIPE = Recipe(steps=3, lr=0.1, batch_size=4, crop=None, warmup=1)


def net(name="fcn8s", seed=0, **options):
    rng = np.random.default_rng(seed)
    return models.build(name, num_classes=4, backbone="small", rng=rng, widths=WIDTHS, **options)


def run(out, stages, train_set=TRAIN, val_set=VAL, **options):
    """Run stages with small nets; options are those of `train.run`."""
    return train.run(stages, train_set, val_set, out, options={"widths": WIDTHS}, **options)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(a, b):
    """Tell whether two states hold the same bits."""
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


class Recorder(Observer):
    """Notes what it is told."""

    def __init__(self):
        self.events = []

    def transplanted(self, name, report):
        self.events.append(("transplanted", name, report.names("dropped")))

    def stage_started(self, name, recipe, model):
        self.events.append(("stage", name, recipe.steps, type(model).__name__))

    def stepped(self, name, step):
        self.events.append(("step", name, step.step))

    def evaluating(self, name, done, total):
        self.events.append(("evaluating", name, done, total))

    def evaluated(self, name, step, matrix, best):
        self.events.append(("evaluated", name, step, best))

    def warned(self, text):
        self.events.append(("warned", text))


# The loop


def test_the_loss_falls_and_the_net_beats_the_commonest_class():
    model = net()
    recipe = Recipe(steps=60, lr=0.1, batch_size=8, crop=None)
    losses = [step.loss for step in train.fit(model, data.Loader(TRAIN, 8), recipe)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    commonest = baselines.evaluate_baselines(TRAIN, VAL)["commonest class"]
    matrix = evaluate(model, VAL)[""]
    assert matrix.pixel_accuracy() > commonest.pixel_accuracy() + 0.03
    assert matrix.mean_iu() > 1.5 * commonest.mean_iu()


def test_a_net_can_learn_one_batch_by_heart():
    batch = data.shapes("train", length=2, size=128)
    model = models.fcn8s(4, "small", widths=(16, 32, 32, 32, 32), rng=np.random.default_rng(0))
    recipe = Recipe(steps=120, lr=0.1, weight_decay=0, batch_size=2, crop=None)
    for _ in train.fit(model, data.Loader(batch, 2), recipe):
        pass
    assert evaluate(model, batch)[""].pixel_accuracy() > 0.97


@pytest.mark.parametrize("name", NETS)
def test_the_first_loss_of_a_new_net_is_that_of_guessing(name):
    first = next(train.fit(net(name), data.Loader(TRAIN, 2), RECIPE))
    assert first.loss == pytest.approx(math.log(4), abs=1e-6)  # all scores are zero


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
def test_the_loss_is_told_per_labelled_pixel_whatever_its_reduction(reduction):
    crop = 96  # beyond the images' 64 pixels: five of nine parts are not labelled
    recipe = replace(RECIPE, crop=crop, reduction=reduction, lr=1e-7)
    first = next(train.fit(net(), data.Loader(TRAIN, 4, crop=crop), recipe))
    assert first.loss == pytest.approx(math.log(4), abs=1e-6)


def test_the_rate_rises_then_falls_to_nearly_nothing():
    recipe = replace(RECIPE, steps=10, warmup=3, power=1.0, lr=0.3)
    steps = list(train.fit(net(), data.Loader(TRAIN, 1), recipe))
    expected = [0.3 * min(1, (i + 1) / 3) * (1 - i / 10) for i in range(10)]
    assert [step.lr for step in steps] == pytest.approx(expected)
    assert [(step.step, step.steps) for step in steps] == [(i, 10) for i in range(1, 11)]


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
def test_batches_accumulated_make_the_step_of_one_large_batch(reduction):
    def trained(batch_size, accumulate):
        recipe = replace(RECIPE, batch_size=batch_size, accumulate=accumulate, steps=2, lr=0.1)
        if reduction != "mean":
            recipe = replace(recipe, reduction=reduction, lr=1e-5)
        model = net("fcn16s")
        steps = list(train.fit(model, data.Loader(listed(uneven), batch_size), recipe))
        return steps, model.state_dict()

    # Images with very different numbers of labelled pixels, one of them with none.
    uneven = [data.Sample(s.image, s.label.copy(), s.name) for s in VAL]
    for i, sample in enumerate(uneven):
        sample.label[10 * i + 10 :] = 255
    uneven[0].label[...] = 255
    (whole, expected), (parts, found) = trained(4, 1), trained(1, 4)
    assert [step.loss for step in parts] == pytest.approx([step.loss for step in whole], rel=1e-5)
    start = net("fcn16s").state_dict()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-6)
    assert np.abs(expected["conv1_1.weight"] - start["conv1_1.weight"]).max() > 1e-4
    assert np.abs(expected["score_fr.weight"]).max() > 1e-3  # else this shows nothing


def test_the_momentum_may_be_of_caffes_form():
    """The two differ once the rate has changed."""
    recipe = replace(RECIPE, steps=4, warmup=4)
    states = []
    for caffe in (False, True):
        model = net()
        list(train.fit(model, data.Loader(TRAIN, 4), replace(recipe, caffe=caffe)))
        states.append(model.state_dict())
    assert not same(*states)


def test_biases_may_learn_like_weights():
    model = net()
    model.conv1_1.bias.data[...] = 1
    recipe = replace(
        RECIPE, steps=1, lr=0.1, momentum=0, weight_decay=0.5, bias_lr=1.0, bias_decay=1.0
    )
    dark = [data.Sample(sample.image, np.full_like(sample.label, 255), "-") for sample in VAL]
    list(train.fit(model, data.Loader(listed(dark), 2), recipe))
    np.testing.assert_allclose(model.conv1_1.bias.numpy(), 1 - 0.1 * 0.5, rtol=1e-5)


def test_a_rate_for_another_loss_is_refused_before_the_first_step():
    model = net()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(
        RecipeError, match=r"the rate 0\.1 is one for a mean loss: this one is summed"
    ):
        next(train.fit(model, data.Loader(TRAIN, 4), replace(RECIPE, reduction="batchmean")))
    assert same(before, model.state_dict())


def test_biases_learn_at_twice_the_rate_and_do_not_decay():
    model = net()
    model.conv1_1.bias.data[...] = 1
    before = {name: array.copy() for name, array in model.state_dict().items()}
    recipe = replace(RECIPE, steps=1, lr=0.1, momentum=0, weight_decay=0.5)
    # All labels are ignored, so that the gradient is zero and only the decay is left.
    dark = [data.Sample(sample.image, np.full_like(sample.label, 255), "-") for sample in VAL]
    for _ in train.fit(model, data.Loader(listed(dark), 2), recipe):
        pass
    after = model.state_dict()
    np.testing.assert_array_equal(after["conv1_1.bias"], before["conv1_1.bias"])
    np.testing.assert_allclose(
        after["conv1_1.weight"], before["conv1_1.weight"] * (1 - 0.1 * 0.5), rtol=1e-5
    )


class listed(list):  # noqa: N801 (a list that is a data set)
    """A data set of given samples, with the classes of shapes."""

    name, classes, palette, ignore_index = "listed", VAL.classes, VAL.palette, 255


def test_a_rate_too_high_stops_the_run_with_advice_and_leaves_no_weights(tmp_path):
    stages = {"fcn32s": replace(RECIPE, steps=20, lr=1000.0)}
    with pytest.raises(TrainingError, match="loss is nan at step") as caught:
        run(tmp_path / "run", stages)
    assert "learning rate 1e+03 is probably too high; try --lr 3.3e+02" in str(caught.value)
    assert "train-00" in str(caught.value)  # the images of the batch
    left = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert not left & {"best.safetensors", "last.safetensors", "metrics.json"}
    log = lines(tmp_path / "run/fcn32s/log.jsonl")
    assert all(math.isfinite(line.get("loss", 0)) for line in log)


def test_weights_that_are_not_finite_stop_the_run_before_they_are_measured(tmp_path, monkeypatch):
    def broken(training):
        training.model.fc6.bias.data[3] = np.inf
        training.done = 3
        yield train.Step(3, 3, 1.0, 0.1, 0.0)

    monkeypatch.setattr(Training, "steps", broken)
    with pytest.raises(
        TrainingError, match=r"weights of fc6.bias are not finite after step 3: the"
    ):
        run(tmp_path, {"fcn32s": RECIPE})
    left = [path.name for path in tmp_path.rglob("*.safetensors")]
    assert left == ["fcn32s-00000000.safetensors"]  # the checkpoint of the beginning


# A run


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path):
    stages = {"fcn32s": RECIPE, "fcn8s": replace(RECIPE, rotate=True, flip_vertical=True)}
    states = [
        {name: result.model.state_dict() for name, result in run(tmp_path, stages, seed=s).items()}
        for s in (3, 3, 4)
    ]
    for name in stages:
        assert same(states[0][name], states[1][name])
        assert not same(states[0][name], states[2][name])


@pytest.mark.parametrize("part", ["starting weights", "order of images"])
def test_the_seed_decides_each_part_by_itself(tmp_path, part):
    frozen = replace(RECIPE, lr=0.0)
    recipe, init = (frozen, None) if part == "starting weights" else (RECIPE, net().state_dict())
    first, second = (
        run(tmp_path, {"fcn8s": recipe}, init=init, seed=s)["fcn8s"].model.state_dict()
        for s in (3, 4)
    )
    assert not np.allclose(first["conv3_1.weight"], second["conv3_1.weight"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("change", [{"rotate": True}, {"flip_vertical": True}, {"flip": False}])
def test_random_changes_are_those_of_the_recipe(tmp_path, change):
    plain = run(tmp_path / "plain", {"fcn32s": RECIPE})["fcn32s"].model.state_dict()
    changed = {"fcn32s": replace(RECIPE, **change)}
    assert not same(plain, run(tmp_path / "changed", changed)["fcn32s"].model.state_dict())


def test_a_run_leaves_config_metrics_logs_and_weights(tmp_path):
    stages = {"fcn32s": replace(RECIPE, steps=5), "fcn16s": replace(RECIPE, lr=0.05)}
    results = run(tmp_path / "a" / "b", stages, eval_every=2, seed=7)
    out = tmp_path / "a" / "b"
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    files = {name for name in files if not name.startswith("watch/")}  # pictures of the report
    each = {f"{n}/{f}.safetensors" for n in stages for f in ("best", "last")}
    each |= {f"{n}/log.jsonl" for n in stages}
    each |= {f"checkpoints/fcn16s-0000000{step}.safetensors" for step in (2, 3)}  # the last two ...
    each |= {f"checkpoints/fcn32s-0000000{step}.safetensors" for step in (5, 2)}  # ... three, best
    of_all = {"config.json", "metrics.json", "report.html", "fcn16s/start.txt"}
    assert files == of_all | each
    start = (out / "fcn16s" / "start.txt").read_text()
    assert "score_pool4.weight  new      (4, 32, 1, 1), zeros" in start

    config = json.loads((out / "config.json").read_text())
    assert config["data"] == "shapes train"
    assert config["backbone"] == "small"
    assert config["options"] == {"widths": list(WIDTHS)}
    assert config["seed"] == 7
    assert Recipe(**config["stages"]["fcn32s"]) == stages["fcn32s"]

    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == {name: result.matrix.summary() for name, result in results.items()}
    assert list(metrics["fcn16s"]) == ["pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu"]

    log = lines(out / "fcn32s" / "log.jsonl")
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in log if "mean_iu" in line] == [2, 4, 5]  # always at the end
    assert set(log[1]) >= {"step", "steps", "loss", "lr", "seconds"}
    found = next(line for line in log if "mean_iu" in line)
    assert set(found) >= {"step", "pixel_accuracy", "mean_accuracy", "mean_iu", "fw_iu"}

    loaded = weights.load(out / "fcn16s" / "best.safetensors")
    expected = {"model": "fcn16s", "num_classes": 4, "backbone": "small", "widths": WIDTHS}
    assert expected.items() <= loaded.model.config.items()
    assert loaded.classes == VAL.classes
    assert loaded.preprocessing == data.UNIT
    assert loaded.origin == "fcn16s trained on shapes train"


def right_in(percent, classes):
    """Return the counts of a net that is right in so many of a hundred pixels of each class."""
    right = np.eye(classes, dtype=int)
    return ConfusionMatrix.from_counts(percent * right + (100 - percent) * right[::-1])


def fake_scores(monkeypatch, scores):
    """Make each evaluation find the next of these shares of right pixels."""
    given = iter(scores)

    def fake(*arguments, **options):
        return {"": right_in(next(given), 4)}

    monkeypatch.setattr(stage, "evaluate", fake)


def test_a_stage_starts_from_the_best_weights_of_the_one_before(tmp_path, monkeypatch):
    fake_scores(monkeypatch, [10, 30, 20, 5])  # the best is neither the first nor the last
    frozen = replace(RECIPE, steps=1, lr=0.0)
    stages = {"fcn32s": replace(RECIPE, lr=0.05), "fcn16s": frozen}
    observer = Recorder()
    results = run(tmp_path, stages, eval_every=1, observer=observer)
    best = weights.load(tmp_path / "fcn32s" / "best.safetensors").model.state_dict()
    last = weights.load(tmp_path / "fcn32s" / "last.safetensors").model.state_dict()
    second = results["fcn16s"].model.state_dict()
    assert same(results["fcn32s"].model.state_dict(), best)
    assert not np.array_equal(best["conv1_1.weight"], last["conv1_1.weight"])
    for name in set(best) & set(second):
        np.testing.assert_array_equal(second[name], best[name], err_msg=name)
    assert not second["score_pool4.weight"].any()  # a new skip starts from zero
    assert results["fcn32s"].step == 2
    assert results["fcn32s"].matrix.pixel_accuracy() == 0.3
    told = [event[2:] for event in observer.events if event[:2] == ("evaluated", "fcn32s")]
    assert told == [(1, True), (2, True), (3, False)]


def test_the_observer_is_told_everything_in_order(tmp_path):
    observer = Recorder()
    run(tmp_path, {"fcn32s": replace(RECIPE, steps=2, lr=1e-8)}, observer=observer)
    warning = observer.events.pop()
    assert observer.events == [
        ("stage", "fcn32s", 2, "FCN"),
        ("step", "fcn32s", 1),
        ("step", "fcn32s", 2),
        *(("evaluating", "fcn32s", i, 6) for i in range(1, 7)),
        ("evaluated", "fcn32s", 2, True),
    ]
    assert warning[0] == "warned"
    assert "'background'" in warning[1]


def test_starting_weights_are_used(tmp_path):
    parent = net("fcn32s", seed=5).state_dict()
    frozen = {"fcn16s": replace(RECIPE, steps=1, lr=0.0)}
    state = run(tmp_path, frozen, init=parent)["fcn16s"].model.state_dict()
    np.testing.assert_array_equal(state["conv3_1.weight"], parent["conv3_1.weight"])


def test_a_classifier_can_be_the_start(tmp_path):
    classifier = models.vgg16(9, width=0.125, image_size=64, rng=np.random.default_rng(0))
    options = models.trunk_options(classifier.config) | {"padding": "smallest"}
    backbone = options.pop("backbone")
    frozen = {"fcn32s": replace(RECIPE, steps=1, lr=0.0, batch_size=1)}
    observer = Recorder()
    results = train.run(
        frozen,
        TRAIN,
        VAL,
        tmp_path,
        backbone=backbone,
        options=options,
        init=classifier,
        observer=observer,
    )
    state = results["fcn32s"].model.state_dict()
    fc6 = classifier.fc6.weight.numpy()
    np.testing.assert_array_equal(state["fc6.weight"].reshape(fc6.shape), fc6)
    report = " ".join((tmp_path / "fcn32s" / "start.txt").read_text().split())
    assert "fc6.weight reshaped (512, 256) -> (512, 64, 2, 2)" in report
    assert "fc8.weight dropped (9, 512)" in report
    assert ("transplanted", "fcn32s", ["fc8.weight", "fc8.bias"]) in observer.events


def test_starting_weights_of_another_net_are_refused(tmp_path):
    with pytest.raises(SurgeryError, match=r"none of the source's parameters fits this net"):
        run(tmp_path, {"fcn32s": RECIPE}, init={"other": np.zeros(3, np.float32)})


def test_scores_for_other_classes_are_refused_or_left_out(tmp_path):
    seven = models.fcn32s(7, "small", widths=WIDTHS)
    with pytest.raises(SurgeryError, match=r"score_fr.weight is \(4, 32, 1, 1\) here, \(7, 32"):
        run(tmp_path, {"fcn32s": RECIPE}, init=seven)
    frozen = {"fcn32s": replace(RECIPE, steps=1, lr=0.0)}
    model = run(tmp_path, frozen, init=seven, new_scores=True)["fcn32s"].model
    np.testing.assert_array_equal(model.fc7.weight.numpy(), seven.fc7.weight.numpy())


def test_an_unloaded_trunk_is_not_fine_tuned(tmp_path):
    empty = {name: 0 * array for name, array in net("fcn32s").state_dict().items()}
    with pytest.raises(SurgeryError, match=r"all weights of conv1_1, conv2_1, conv3_1, \.\.\. are"):
        run(tmp_path, {"fcn16s": RECIPE}, init=empty)
    assert not list(tmp_path.rglob("log.jsonl"))


def test_data_sets_of_different_classes_are_refused(tmp_path):
    with pytest.raises(
        data.DataError, match=r"landcover val has other classes \(water, .* than sha"
    ):
        run(tmp_path / "run", {"fcn32s": RECIPE}, val_set=data.landcover("val"))
    assert not (tmp_path / "run").exists()


# Several heads and streams


class Doubled(list):
    """A data set with a second kind of labels: whether there is any shape."""

    classes, palette, ignore_index = VAL.classes, VAL.palette, 255

    def __init__(self, dataset):
        super().__init__(self.doubled(i, sample) for i, sample in enumerate(dataset))
        self.name = f"doubled {dataset.name}"
        any_shape = data.Head(("no", "yes"), VAL.palette[:2])
        self.heads = {"kind": data.Head(VAL.classes, VAL.palette), "any": any_shape}

    @staticmethod
    def doubled(number, sample):
        any_shape = (sample.label > 0).astype(np.uint8)
        any_shape[: 8 * number + 8] = 255  # so that each image counts differently
        return sample._replace(label=np.stack([sample.label, any_shape], axis=2))


DOUBLED = Doubled(VAL)


def test_the_losses_of_two_heads_add_up():
    model = net("fcn16s")
    both = models.for_data(
        "fcn16s", {"kind": 4, "any": 2}, {"": 3}, backbone="small", widths=WIDTHS
    )
    transplant(both, model, new_scores=True)
    first = next(train.fit(both, data.Loader(DOUBLED, 3), replace(RECIPE, batch_size=3)))
    assert first.loss == pytest.approx(math.log(4) + math.log(2), abs=1e-6)
    assert both.score_fr_kind.weight.numpy().any()
    assert both.score_fr_any.weight.numpy().any()


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_each_head_learns_as_if_it_were_alone(reduction):
    """The trunk stands still, so the heads do not meet."""
    rate = 0.1 if reduction == "mean" else 1e-5
    recipe = replace(RECIPE, steps=2, lr=rate, reduction=reduction, batch_size=2, accumulate=2)
    both = models.fcn32s({"kind": 4, "any": 2}, "small", widths=WIDTHS, learn_trunk=False)
    list(train.fit(both, data.Loader(DOUBLED, 2), recipe))
    for number, (head, classes) in enumerate({"kind": 4, "any": 2}.items()):
        alone = models.fcn32s(classes, "small", widths=WIDTHS, learn_trunk=False)
        transplant(alone, both, new_scores=True)
        images = listed(s._replace(label=s.label[:, :, number]) for s in DOUBLED)
        list(train.fit(alone, data.Loader(images, 2), recipe))
        found, expected = getattr(both, f"score_fr_{head}").weight.numpy(), alone.score_fr.weight
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-8)
        assert found.any()


def test_a_net_without_the_heads_of_the_data_is_refused():
    with pytest.raises(
        TrainingError, match="the net has the heads kind, the data labels for kind, any"
    ):
        next(train.fit(net(), data.Loader(DOUBLED, 2), RECIPE))


def test_a_run_with_two_heads_tells_of_each_and_is_judged_by_the_first(tmp_path, monkeypatch):
    scores = iter([10, 30, 20])

    def fake(*arguments, **options):
        good = next(scores)
        return {"kind": right_in(good, 4), "any": right_in(100 - good, 2)}

    monkeypatch.setattr(stage, "evaluate", fake)
    observer = Recorder()
    stages = {"fcn32s": replace(RECIPE, batch_size=2)}
    results = run(tmp_path, stages, DOUBLED, DOUBLED, eval_every=1, observer=observer)
    assert results["fcn32s"].step == 2
    assert list(results["fcn32s"].matrices) == ["kind", "any"]
    assert results["fcn32s"].matrix.pixel_accuracy() == 0.3
    metrics = json.loads((tmp_path / "metrics.json").read_text())["fcn32s"]
    assert metrics["kind"]["pixel_accuracy"] == 0.3
    assert metrics["any"]["pixel_accuracy"] == 0.7
    log = [line for line in lines(tmp_path / "fcn32s" / "log.jsonl") if "kind" in line]
    assert [(line["step"], line["any"]["pixel_accuracy"]) for line in log] == [
        (1, 0.9),
        (2, 0.7),
        (3, 0.8),
    ]
    told = [event[1:] for event in observer.events if event[0] == "evaluated"]
    assert told[:4] == [
        ("fcn32s kind", 1, True),
        ("fcn32s any", 1, True),
        ("fcn32s kind", 2, True),
        ("fcn32s any", 2, True),
    ]
    loaded = weights.load(tmp_path / "fcn32s" / "best.safetensors")
    assert loaded.heads["any"].classes == ("no", "yes")
    assert loaded.classes == (*VAL.classes, "no", "yes")


class Streamed(list):
    """A data set whose images have the colours twice, as two streams or as one."""

    classes, palette, ignore_index = VAL.classes, VAL.palette, 255

    def __init__(self, streams):
        twice = [s._replace(image=np.concatenate([s.image, s.image[:, ::-1]], axis=2)) for s in VAL]
        super().__init__(twice)
        self.name, self.streams = f"streamed {streams}", streams


SIX = data.Preprocessing("RGB", 1 / 255, (0.5,) * 6, (0.25,) * 6)


@pytest.mark.parametrize("streams", [{"": 6}, {"color": 3, "hha": 3}])
def test_a_staged_run_on_images_of_several_streams(tmp_path, streams):
    images = Streamed(streams)
    frozen = replace(RECIPE, steps=1, lr=0.0)
    stages = {"fcn32s": RECIPE, "fcn16s": frozen, "fcn8s": frozen}
    results = run(tmp_path, stages, images, images, preprocessing=SIX)
    assert results["fcn8s"].model.streams == streams
    first, last = (results[name].model.state_dict() for name in ("fcn32s", "fcn8s"))
    shared = set(first) & set(last)
    assert len(shared) >= 16 * len(streams)
    for name in shared:
        np.testing.assert_array_equal(first[name], last[name], err_msg=name)
    loaded = weights.load(tmp_path / "fcn16s" / "best.safetensors")
    assert (loaded.model.stride, loaded.model.streams) == (16, streams)
    assert loaded.preprocessing == SIX


def test_early_fusion_starts_from_a_net_for_colours(tmp_path):
    parent, images = net("fcn32s", seed=5), Streamed({"": 6})
    frozen = {"fcn32s": replace(RECIPE, steps=1, lr=0.0, weight_decay=0.0)}
    run(tmp_path, frozen, images, images, preprocessing=SIX, init=parent)
    model = weights.load(tmp_path / "fcn32s" / "best.safetensors").model
    wide, narrow = model.conv1_1.weight.numpy(), parent.conv1_1.weight.numpy()
    np.testing.assert_array_equal(wide[:, :3], narrow)
    np.testing.assert_allclose(wide[:, 5], narrow.mean(axis=1), rtol=1e-6)
    start = " ".join((tmp_path / "fcn32s" / "start.txt").read_text().split())
    assert "conv1_1.weight widened (8, 3, 4, 4) -> (8, 6, 4, 4)" in start


def test_two_streams_with_two_heads_are_refused(tmp_path):
    images = Doubled(VAL)
    images.streams = {"color": 3, "hha": 3}
    with pytest.raises(models.ModelError, match="all must be the same, with one head"):
        run(tmp_path, {"fcn32s": RECIPE}, images, images)


def test_data_sets_of_different_channels_are_refused(tmp_path):
    with pytest.raises(
        data.DataError, match=r"streamed .* have other channels \(6\) than .* \(3\)"
    ):
        run(tmp_path, {"fcn32s": RECIPE}, val_set=Streamed({"": 6}))


def test_the_images_that_were_learnt_from_are_written_down(tmp_path):
    run(tmp_path, {"fcn32s": replace(RECIPE, steps=1)}, trained_on={7, 2**63})
    for name in ("best", "last"):
        loaded = weights.load(tmp_path / "fcn32s" / f"{name}.safetensors")
        assert loaded.trained_on == {7, 2**63}


def test_workers_change_nothing(tmp_path):
    stages = {
        "fcn32s": replace(RECIPE, sampling="replacement", jitter=0.2, scale=(0.8, 1.2), crop=48)
    }
    first, second = (
        run(tmp_path / str(n), stages, workers=n)["fcn32s"].model.state_dict() for n in (0, 1)
    )
    assert same(first, second)
    plain = {"fcn32s": replace(stages["fcn32s"], sampling="epochs")}
    assert not same(first, run(tmp_path / "plain", plain)["fcn32s"].model.state_dict())
