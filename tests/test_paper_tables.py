"""The paper's experiments: what is held equal, resuming, statistics; with tiny budgets."""

import doctest
import itertools
import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minifcn import data, models, weights
from minifcn.backend import Error
from minifcn.train import Observer, TrainingError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import paper_tables  # noqa: E402
from paper import bounds, cells, document, plan, results  # noqa: E402

TINY = plan.Scale(width=0.01, classify=1, tune=1, total=3, images=40, factors=(32,))


@pytest.fixture
def few_tiles(monkeypatch):
    """Four training tiles and two held-out ones."""

    def data_sets(seed):
        tiles = data.landcover("train")
        held_out = tiles if seed == plan.SEARCH_SEED else data.landcover("val")
        return cells.Part(tiles, [0, 1, 2, 3], "four"), cells.Part(held_out, [5, 9], "two")

    monkeypatch.setattr(cells, "data_sets", data_sets)


@pytest.fixture
def workshop(tmp_path, few_tiles):
    kept = results.Results(tmp_path / "results.json")
    return cells.Workshop(plan.Plan(TINY), kept, tmp_path, lambda: nullcontext(Observer()))


def stored(workshop, key, result, job=None):
    """Put a result into the file as if it had been computed."""
    settings = workshop.settings(job) if job else {}
    entry = {"seed": 0, "seconds": 1.5, "machine": "abacus", "date": "2026-01-01"}
    workshop.results.add(key, {**entry, "command": "", "settings": settings, "result": result})


@pytest.mark.parametrize(
    "module", [bounds, cells, document, plan, results], ids=lambda m: m.__name__
)
def test_examples_in_docstrings(module):
    done = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert done.failed == 0


# What is held equal


@pytest.mark.parametrize("total", [3, 450, 500])
def test_skips_get_no_extra_steps(total):
    made = plan.Plan(replace(plan.FULL, total=total)).cells
    compared = {name: cell for name, cell in made.items() if name[:2] in ("b/", "e/")}
    assert len(compared) == 7
    for cell in compared.values():
        assert sum(cell.stages.values()) == total
        assert max(cell.stages.values()) - min(cell.stages.values()) <= 2
        assert cell.start == f"a/{plan.TRUNK}/classifier"
        assert cell.numbers == plan.TURNS
        assert cell.recipe == "quick"


def test_scratch_gets_the_steps_of_the_classifier_too():
    assert plan.TILES * plan.TILE**2 == plan.BATCH * plan.CROP**2  # steps of both cost the same
    made = plan.Plan().cells
    for net in plan.NETS:
        (tune,) = made[f"a/{net}/pretrained"].stages.values()
        (scratch,) = made[f"a/{net}/scratch"].stages.values()
        (longer,) = made[f"a/{net}/longer"].stages.values()
        assert tune == scratch == longer - made[f"a/{net}/classifier"].steps


def test_heavy_and_light_see_as_many_images(workshop):
    made = plan.Plan()
    workshop.plan = made
    for name in ("d/light", "d/online", "d/heavy"):
        cell = made.cells[name]
        job = plan.Job(name, 0, cell, rate=made.searches[name].rates[0])
        recipe = workshop.settings(job)["stages"]["fcn32s"]
        assert recipe["steps"] * recipe["batch_size"] * recipe["accumulate"] == made.scale.images
        assert (recipe["crop"], recipe["max_norm"], recipe["power"]) == (None, None, 0.0)
        assert recipe["reduction"] == ("mean" if name == "d/light" else "batchmean")
        assert recipe["momentum"] == (0.99 if name == "d/heavy" else 0.9)


def test_the_recipes_of_compared_nets_differ_in_steps_and_rates_only(workshop):
    found = []
    for name in ("b/32s", "b/16s", "b/8s", "b/8s-at-once", "e/learned"):
        told = workshop.settings(plan.Job(name, 0, workshop.plan.cells[name], rate=0.03))
        stages = list(told["stages"].values())
        rates = [stage["lr"] for stage in stages]
        assert rates == pytest.approx([0.03, 0.03 * 0.8, 0.03 * 0.7][: len(rates)])
        found += [{**stage, "steps": 0, "lr": 0, "warmup": 0} for stage in stages]
    assert all(recipe == found[0] for recipe in found)


def test_searches_see_no_held_out_tile():
    learned, measured = (set(part.indices) for part in cells.data_sets(plan.SEARCH_SEED))
    assert len(learned) + len(measured) == len(data.landcover("train"))
    assert not learned & measured
    assert {part.dataset.name for part in cells.data_sets(plan.SEARCH_SEED)} == {"landcover train"}
    assert [part.name for part in cells.data_sets(0)] == ["landcover train", "landcover val"]


def test_trunks_cover_windows_and_tiles():
    for net, options in plan.PADDING.items():
        config = models.build(net, num_classes=8, width=0.01, image_size=plan.TILE).config
        strides = ("fcn32s", "fcn16s", "fcn8s") if net == plan.TRUNK else ("fcn32s",)
        for name in strides:
            fcn = models.build(name, num_classes=8, **models.trunk_options(config), **options)
            for side in (plan.CROP, 128):
                fcn.check_image(np.zeros((1, 3, side, side), np.float32))


# Order of work


def test_jobs_come_after_what_they_need():
    made = plan.Plan()
    jobs = made.jobs(list(made.cells), [0, 1])
    place = {job.key: number for number, job in enumerate(jobs)}
    assert len(place) == len(jobs)
    for job in jobs:
        if not isinstance(job.cell, plan.Segmenting):
            continue
        if job.cell.start:
            assert place[f"{job.cell.start} seed {job.seed}"] < place[job.key]
        if job.rate is None:
            for trial in made.trials(job.cell.search):
                assert place[trial.key] < place[job.key]
                assert trial.seed == plan.SEARCH_SEED
    assert sum(job.name == "c/32" for job in jobs) == 1  # no training, so no seeds


def test_single_cells_and_tables():
    made = plan.Plan()
    skips = ["32s-fixed", "32s", "16s", "8s", "8s-at-once", "8s-unscaled"]
    assert made.named(["b"]) == [f"b/{name}" for name in skips]
    assert made.named(["b/8s"]) == ["b/8s"]
    assert made.named(["e", "c/8"]) == ["b/8s", "c/8", "e/learned"]
    jobs = [job.key for job in made.jobs(["b/16s"], [2])]
    assert jobs[-2:] == [f"a/{plan.TRUNK}/classifier seed 2", "b/16s seed 2"]
    assert [key for key in jobs[:-2] if not key.endswith("seed 100")] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["f"], "there is no cell 'f': the cells are a/alexnet/classifier"),
        (["b/32"], "there is no cell 'b/32'"),
        (["b", "--seeds", "0,x"], "--seeds 0,x: give whole numbers"),
        (["b", "--seeds", "0,100"], "without the searches' 100"),
        (["b", "--seeds", "-1"], "from 0 on"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        paper_tables.main([*arguments, "--results", str(tmp_path / "r.json"), "--list"])


# Running and resuming


def run_count(workshop, jobs, monkeypatch, stop_after=None):
    """Run jobs; return the keys of those that were really done."""
    done, do = [], cells.Workshop.do

    def counting(self, job):
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(job.key)
        return do(self, job)

    monkeypatch.setattr(cells.Workshop, "do", counting)
    with pytest.raises(KeyboardInterrupt) if stop_after is not None else nullcontext():
        paper_tables.run(workshop, jobs)
    monkeypatch.setattr(cells.Workshop, "do", do)
    return done


def test_an_interrupted_run_goes_on(workshop, monkeypatch, capsys):
    jobs = workshop.plan.jobs(["b/16s", "e", "c"], [0])
    keys = [job.key for job in jobs]
    first = run_count(workshop, jobs, monkeypatch, stop_after=3)
    assert first == keys[:3]
    assert sorted(json.loads(workshop.results.path.read_text())["cells"]) == sorted(first)
    # As another process would go on:
    again = cells.Workshop(
        workshop.plan, results.Results(workshop.results.path), workshop.folder, workshop.observing
    )
    assert run_count(again, jobs, monkeypatch) == keys[3:]
    assert run_count(again, jobs, monkeypatch) == []
    assert all(again.finished(job) for job in jobs)
    assert f"[{len(jobs)} of {len(jobs)}" in capsys.readouterr().out
    assert not list(workshop.folder.glob(".*"))

    entry = again.results.cells["b/16s seed 0"]
    assert entry["command"] == "python benchmarks/paper_tables.py b/16s --seeds 0"
    assert entry["seed"] == 0
    assert entry["seconds"] > 0
    assert "processors" in entry["machine"]
    assert list(entry["settings"]["stages"]) == ["fcn32s", "fcn16s"]
    assert set(document.COLUMNS) <= set(entry["result"])
    assert entry["result"]["moved"] == 0
    assert again.results.cells["e/learned seed 0"]["result"]["moved"] > 0
    assert again.results.cells["c/32 seed 0"]["seed"] is None
    name = f"a/{plan.TRUNK}/pretrained"
    search = again.results.cells[f"search/{name}/0.03 seed 100"]
    assert search["command"] == f"python benchmarks/paper_tables.py {name} --seeds 0"


def test_changed_settings_are_done_again_with_all_that_depends_on_them(workshop, monkeypatch):
    jobs = workshop.plan.jobs(["b/32s", "c"], [0])
    run_count(workshop, jobs, monkeypatch)
    workshop.plan = plan.Plan(replace(TINY, classify=2))
    jobs = workshop.plan.jobs(["b/32s", "c"], [0])
    again = run_count(workshop, jobs, monkeypatch)
    assert again == [job.key for job in jobs if job.name != "c/32"]
    assert run_count(workshop, jobs, monkeypatch) == []


def test_a_classifier_that_is_gone_is_made_anew(workshop, monkeypatch):
    jobs = workshop.plan.jobs(["b/32s"], [0])
    run_count(workshop, jobs[:-1], monkeypatch)
    classifier = next(job for job in jobs if job.key == f"a/{plan.TRUNK}/classifier seed 0")
    before = weights.load(workshop.weights(classifier)).model.state_dict()
    workshop.weights(classifier).unlink()
    workshop.do(jobs[-1])
    after = weights.load(workshop.weights(classifier)).model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    here = workshop.weights(classifier)
    workshop.plan = plan.Plan(replace(TINY, width=0.2))  # another net: never mistaken for this one
    assert workshop.weights(classifier) != here


def test_a_fixed_trunk_stays_as_the_classifier_left_it(workshop, monkeypatch):
    jobs = workshop.plan.jobs(["b/32s-fixed", "b/32s"], [0])
    run_count(workshop, jobs, monkeypatch)
    fixed, free = (workshop.results.cells[f"b/{n} seed 0"]["result"] for n in ("32s-fixed", "32s"))
    assert fixed["parameters"] == free["parameters"] == free["learned"] > fixed["learned"] > 0


def test_the_best_rate_is_taken_and_divergence_is_no_end(workshop):
    trials = workshop.plan.trials("d/light")
    for job in trials:  # what they start from must be known, but need not be there
        stored(workshop, job.key, {"diverged": "nan"}, job)
    with pytest.raises(TrainingError, match="search d/light: the training diverged at every rate"):
        workshop.best_rate("d/light")
    stored(workshop, trials[1].key, {"mean_iu": 0.3}, trials[1])
    assert workshop.best_rate("d/light") == trials[1].rate
    stored(workshop, trials[2].key, {"mean_iu": 0.4}, trials[2])
    assert workshop.best_rate("d/light") == trials[2].rate


def test_a_search_that_is_not_finished_is_an_error(workshop):
    with pytest.raises(TrainingError, match=r"search/d/light/0\.03 seed 100 is not finished"):
        workshop.best_rate("d/light")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("steps", "reason"), [(5, "the loss is"), (1, "not finite")])
def test_a_diverged_training_is_a_result(workshop, steps, reason):
    stages = {"fcn32s": steps}  # the loss tells from the next step on, the weights at once
    cell = replace(workshop.plan.cells["d/light"], start=None, stages=stages)
    result = workshop.do(plan.Job("d/light", 0, cell, rate=1e39))
    assert reason in result["diverged"]
    assert (result["steps"], result["rate"]) == (steps, 1e39)


def test_the_program_itself(few_tiles, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paper_tables, "TRIAL", TINY)
    given = ["--trial", "--work", str(tmp_path)]
    paper_tables.main(["c", "--seeds", "1", *given])
    assert "[1 of 1" in capsys.readouterr().out
    paper_tables.main(["c", "b/32s", "--seeds", "1,2", "--list", *given])
    listed = capsys.readouterr().out.splitlines()
    assert "done c/32 seed 0" in listed  # nothing is drawn there: once is enough
    assert "-    b/32s seed 1" in listed
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "results.md").read_text("utf-8"), "utf-8")
    paper_tables.main(["--write", "--document", str(page), *given])
    entry = json.loads((tmp_path / "trial" / "results.json").read_text())["cells"]["c/32 seed 0"]
    commonest, bilinear = (entry["result"][way]["mean_iu"] for way in ("commonest", "bilinear"))
    written = page.read_text("utf-8")
    assert f"\n| 32 | {100 * commonest:.1f} | {100 * bilinear:.1f} | " in written
    assert "not run" in written


# Statistics, tables


def test_spread_of_numbers():
    assert results.Spread.of([0.2, 0.1, 0.6]) == pytest.approx((0.3, 0.1, 0.6))
    assert results.Spread.of([0.2, 0.1, 0.6]).percent() == "30.0 (10.0 to 60.0)"
    assert results.Spread.of([0.5]).percent() == "50.0"


def test_tables_tell_mean_and_spread_of_the_seeds(workshop):
    for seed, (first, second) in enumerate([(0.5, 0.4), (0.6, 0.55), (0.7, 0.71)]):
        stored(workshop, f"b/16s seed {seed}", {"mean_iu": first})
        stored(workshop, f"b/32s seed {seed}", {"mean_iu": second})
    assert document.spread(workshop.results, "b/16s", "mean_iu") == "60.0 (50.0 to 70.0)"
    told = document.difference(workshop.results, "b/16s", "b/32s", "mean_iu")
    assert told == "+4.7 (-1.0 to +10.0)"
    assert document.spread(workshop.results, "b/8s", "mean_iu") == document.MISSING
    assert document.difference(workshop.results, "b/8s", "b/32s", "mean_iu") == document.MISSING
    stored(workshop, "b/16s seed 1", {"diverged": "the loss is nan"})
    told = document.spread(workshop.results, "b/16s", "mean_iu")
    assert told == "60.0 (50.0 to 70.0), 1 diverged"
    told = document.difference(workshop.results, "b/16s", "b/32s", "mean_iu")
    assert told == "+4.5 (-1.0 to +10.0)"  # of the seeds that both have
    del workshop.results.cells["b/16s seed 2"]
    assert document.spread(workshop.results, "b/16s", "mean_iu").endswith("2 seeds of 3")


def test_a_table_tells_how_it_was_made(workshop):
    stored(workshop, "b/16s seed 0", {})
    stored(workshop, "b/16s seed 1", {})
    stored(workshop, "search/d/light/0.03 seed 100", {"mean_iu": 0.25})
    told = document.origin("b", workshop.results)
    assert told.startswith("*`python benchmarks/paper_tables.py b`, seed")
    assert "2 cells, 3 s in all, 2026-01-01, on abacus" in told
    assert document.origin("a", workshop.results) == "*not run*"
    rows = document.table_rates(workshop.plan, workshop.results)
    assert ["d/light", "0.03: 25.0"] in rows


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- table b -->",
        "<!-- end of table b --><!-- table b -->",
        "<!-- table b --><!-- table b --><!-- end of table b -->",
    ],
)
def test_a_document_without_its_comments_is_refused(text):
    with pytest.raises(plan.PlanError, match="must have once <!-- table b -->"):
        document.replaced(text, "b", "table")


def test_the_page_shows_the_results(tmp_path):
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    copy = tmp_path / "results.md"
    copy.write_text(page, "utf-8")
    if not paper_tables.RESULTS.exists():
        pytest.skip("the experiments have not been run")
    document.write(copy, plan.Plan(), results.Results(paper_tables.RESULTS))
    assert copy.read_text("utf-8") == page, "python benchmarks/paper_tables.py --write"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": 1', "\x00"])
def test_a_damaged_file_of_results_is_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(results.ResultsError, match=r"results\.json: no file of results"):
        results.Results(path)
    assert path.read_text() == content
    assert issubclass(results.ResultsError, Error)


# Upper bounds


def test_shares_of_cells_against_loops(rng):
    labels = rng.integers(0, 3, (2, 8, 12)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    shares = bounds.cell_shares(labels, 4, 3)
    assert shares.shape == (2, 3, 2, 3)
    for n, k, y, x in itertools.product(range(2), range(3), range(2), range(3)):
        cell = labels[n, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert shares[n, k, y, x] == pytest.approx((cell == k).sum() / 16)


def test_upsampling_is_linear_between_the_centres_of_cells(rng):
    scores = rng.random((1, 2, 1, 4)).astype(np.float32)
    found = bounds.upsampled(scores, 4)[0, :, 2]  # a row in the middle
    assert found.shape == (2, 16)
    for k in range(2):
        expected = np.interp(np.arange(16), 4 * np.arange(4) + 1.5, scores[0, k, 0])
        inner = slice(2, 14)
        vertical = bounds.upsampled(np.ones((1, 1, 1, 4), np.float32), 4)[0, 0, 2, 8]
        np.testing.assert_allclose(found[k, inner], expected[inner] * vertical, rtol=1e-5)


def test_finer_bounds_are_higher_and_fall_with_the_distance_to_boundaries(few_tiles):
    val_set = cells.data_sets(0)[1]
    found = {factor: bounds.bounds(val_set, factor) for factor in (2, 8, 32)}
    for way in ("commonest", "bilinear"):
        iu = [found[factor][way]["mean_iu"] for factor in (2, 8, 32)]
        assert 1 > iu[0] > iu[1] > iu[2] > 0
        assert all(found[f][way]["band_iu"] < found[f][way]["rest_iu"] for f in (2, 8, 32))


def test_no_constant_answer_beats_the_commonest_class(few_tiles, rng):
    val_set = cells.data_sets(0)[1]
    best = bounds.bounds(val_set, 16)["commonest"]["pixel_accuracy"]
    truths = np.stack([sample.label for sample in val_set])
    for _ in range(20):
        cell = rng.integers(0, 8, (2, 8, 8))
        shares = bounds.cell_shares(truths, 16, 8).argmax(axis=1)
        cell = np.where(rng.random(cell.shape) < 0.1, cell, shares)
        answer = cell.repeat(16, axis=1).repeat(16, axis=2)
        assert bounds.scores(truths, answer, 8)["pixel_accuracy"] <= best


def test_perfect_answers_score_one_everywhere():
    truth = np.zeros((1, 16, 16), np.uint8)
    truth[:, :, 9:] = 1
    assert set(bounds.scores(truth, truth.astype(int), 2).values()) == {1.0}


def test_moved_kernels_are_measured(rng):
    net = models.fcn16s(3, "small", learn_upsampling="intermediate")
    assert cells.facts(net)["moved"] == 0
    net.upscore2.weight.data[...] *= 1.1
    assert cells.facts(net)["moved"] == pytest.approx(0.1, rel=1e-5)
    assert cells.facts(models.fcn32s(3, "small"))["moved"] == 0
