"""Recipes: the published numbers, plans for stages, and rates that do not fit their loss."""

from dataclasses import fields, replace

import numpy as np
import pytest

from minifcn import data, models, optim, options, recipes, train
from minifcn.recipes import NETS, Recipe, RecipeError, check_rate, heavy, light, plan, quick

VOC = 500 * 375  # pixels


def rates(recipe, backbone="vgg16", at_once=False):
    return [recipe(backbone, at_once)[net].lr for net in NETS]


# The numbers


def test_heavy_has_the_numbers_of_the_released_nets():
    recipe = heavy()["fcn32s"]
    assert (recipe.reduction, recipe.momentum, recipe.weight_decay) == ("batchmean", 0.99, 5e-4)
    assert (recipe.batch_size, recipe.accumulate, recipe.crop) == (1, 1, None)
    assert (recipe.bias_lr, recipe.bias_decay, recipe.caffe) == (2.0, 0.0, True)
    assert (recipe.max_norm, recipe.flip, recipe.steps) == (None, False, 100_000)
    assert (recipe.sampling, light()["fcn32s"].sampling) == ("replacement", "epochs")
    assert rates(heavy) == [1e-10, 1e-12, 1e-14]
    assert rates(heavy, at_once=True) == [1e-10] * 3
    assert heavy(at_once=True)["fcn8s"].steps == 300_000


@pytest.mark.parametrize("backbone", ["alexnet", "caffenet", "alexnet_torchvision"])
def test_heavy_alexnet_has_the_numbers_of_the_released_alexnet(backbone):
    recipe = heavy(backbone)["fcn32s"]
    assert (recipe.lr, recipe.reduction, recipe.momentum) == (1e-4, "mean", 0.9)
    assert (recipe.batch_size, recipe.accumulate, recipe.images) == (1, 20, 20)
    assert (recipe.bias_lr, recipe.bias_decay, recipe.weight_decay) == (1.0, 1.0, 5e-4)


@pytest.mark.parametrize(
    ("backbone", "rate"),
    [("vgg16", 1e-4), ("caffenet", 1e-3), ("googlenet", 5e-5), ("small", 1e-4)],
)
def test_light_has_the_numbers_of_the_conference_paper(backbone, rate):
    recipe = light(backbone)["fcn32s"]
    assert (recipe.reduction, recipe.momentum, recipe.weight_decay) == ("mean", 0.9, 5e-4)
    assert (recipe.images, recipe.batch_size, recipe.crop) == (20, 1, None)
    assert (recipe.bias_lr, recipe.bias_decay, recipe.flip) == (2.0, 0.0, False)
    assert rates(light, backbone) == [rate, rate / 100, rate / 100]
    assert rates(light, backbone, at_once=True) == [rate] * 3


def test_quick_has_the_numbers_of_the_demo():
    expected = Recipe(steps=600, lr=0.03, crop=96, max_norm=3.0, name="quick")
    assert quick()["fcn32s"] == recipes.QUICK == expected
    assert rates(quick) == pytest.approx([0.03, 0.024, 0.021])
    assert rates(quick, at_once=True) == [0.03] * 3


@pytest.mark.parametrize("recipe", [heavy, light])
def test_the_papers_rates_never_change(recipe):
    stage = replace(recipe()["fcn32s"], steps=5, lr=0.0)
    told = list(train.fit(small(), data.Loader(data.shapes("val", 3), 1), stage))
    assert len(told) == 5
    # What the loop sets, for a rate that does not stay at zero:
    schedule = optim.warmup(optim.poly(stage.steps, stage.power), stage.warmup)
    assert [schedule(i) for i in range(5)] == [1.0] * 5


def small():
    widths = (8, 16, 32, 32, 32)
    return models.fcn8s(4, "small", widths=widths, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("name", "rate"), [("light", 0.03), ("heavy", 1e-6)])
def test_the_papers_recipes_lower_the_loss_of_a_net_that_has_learnt_a_little(name, rate):
    images, model = data.shapes("train", 40), small()
    warm = plan(["fcn8s"], "quick", steps=[20], crop=None, lr=0.1)["fcn8s"]
    for _ in train.fit(model, data.Loader(images, 8), warm):
        pass
    stage = plan(["fcn8s"], name, steps=[40], lr=rate)["fcn8s"]
    stage = replace(stage, accumulate=min(stage.accumulate, 4))  # for time
    losses = [step.loss for step in train.fit(model, data.Loader(images, 1), stage)]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_the_command_knows_all_recipes_and_backbones():
    assert [name.value for name in options.RecipeName] == list(recipes.RECIPES)
    assert {name.value for name in options.Backbone} == set(models.BACKBONES)
    assert all(recipe.__doc__ for recipe in recipes.RECIPES.values())
    for name, recipe in recipes.RECIPES.items():
        assert [stage.name for stage in recipe("vgg16", False).values()] == [name] * 3


# Plans


def test_a_plan_takes_the_stages_rates_and_steps():
    three = plan(NETS, "heavy", "vgg16", steps=[3, 2, 1])
    assert [stage.steps for stage in three.values()] == [3, 2, 1]
    assert [stage.lr for stage in three.values()] == [1e-10, 1e-12, 1e-14]
    assert list(plan(["fcn8s", "fcn32s"])) == ["fcn8s", "fcn32s"]
    assert [stage.steps for stage in plan(NETS, steps=[9]).values()] == [9, 9, 9]
    assert plan(NETS, steps=9) == plan(NETS, steps=[9])
    assert plan(["fcn16s"], "heavy")["fcn16s"].steps == 100_000
    assert plan(["fcn16s"], "light", "googlenet")["fcn16s"] == light("googlenet")["fcn16s"]
    assert plan(["fcn8s"], "heavy", at_once=True)["fcn8s"] == heavy(at_once=True)["fcn8s"]


@pytest.mark.parametrize("steps", [0, [0], [3, 0, 1], []])
def test_a_stage_has_a_step_at_least(steps):
    with pytest.raises(recipes.RecipeError, match="one number of steps, or one for each"):
        plan(NETS, steps=steps)


def test_a_given_rate_is_that_of_the_first_stage():
    assert [stage.lr for stage in plan(NETS, "quick", lr=0.1).values()] == pytest.approx(
        [0.1, 0.08, 0.07]
    )
    late = plan(["fcn16s", "fcn8s"], "heavy", "vgg16", lr=3e-12)
    assert late["fcn16s"].lr == 3e-12
    assert late["fcn8s"].lr == pytest.approx(3e-14)


def test_given_numbers_replace_the_recipes_in_every_stage():
    numbers = {"momentum": 0.5, "accumulate": 3, "crop": 64, "max_norm": None, "rotate": True}
    for stage in plan(NETS, "quick", **numbers).values():
        assert numbers.items() <= vars(stage).items()
        rest = {f.name for f in fields(Recipe)} - set(numbers) - {"lr"}
        assert all(getattr(stage, name) == getattr(recipes.QUICK, name) for name in rest)


@pytest.mark.parametrize(
    ("names", "steps"), [(["fcn64s"], [1]), ([], [1]), (["fcn8s"], [1, 2]), (["fcn8s"], [0])]
)
def test_stages_that_do_not_fit_their_steps_are_refused(names, steps):
    with pytest.raises(RecipeError, match="name some of fcn32s, fcn16s, fcn8s, with one number"):
        plan(names, steps=steps)


def test_unknown_recipes_and_numbers_are_refused():
    with pytest.raises(RecipeError, match="'fast' is unknown: use one of quick, light, heavy"):
        plan(NETS, "fast")
    with pytest.raises(RecipeError, match="a recipe has no speed, weight: it has steps, lr,"):
        plan(NETS, speed=3, weight=1)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"accumulate": 0}, "accumulate=0 must be at least 1"),
        ({"reduction": "none"}, "reduction='none' must be one of mean, sum, batchmean"),
        ({"sampling": "twice"}, "sampling='twice' must be one of epochs, replacement"),
        ({"sizes": "any"}, "sizes='any' must be one of same, pad, bucket"),
        ({"jitter": 1.5}, "jitter=1.5 must be 0 to 1"),
        ({"scale": (2.0, 1.0)}, "scale=2.0,1.0: two factors above 0, the smaller one first"),
        ({"scale": (0.0, 1.0)}, "scale=0.0,1.0: two factors above 0"),
    ],
)
def test_numbers_that_make_no_recipe_are_refused(numbers, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**({"steps": 1, "lr": 0.1} | numbers))


# Rates and losses


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("pixels", [32 * 32, 128 * 128, VOC, 1000 * 2000])
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_all_recipes_fit_their_own_loss(name, pixels, at_once):
    for backbone in models.BACKBONES:
        for stage in recipes.RECIPES[name](backbone, at_once).values():
            check_rate(stage, pixels)


@pytest.mark.parametrize("net", NETS)
def test_a_heavy_rate_with_a_mean_loss_is_refused(net):
    wrong = replace(light()[net], lr=heavy()[net].lr)
    with pytest.raises(RecipeError) as caught:
        check_rate(wrong, VOC)
    text = str(caught.value)
    for part in (f"the rate {wrong.lr:.3g} is one for a loss that is summed", "187,500", "1e-08"):
        assert part in text
    assert "the recipe heavy" in text
    check_rate(replace(wrong, lr=0.0), VOC)  # nothing is to change


@pytest.mark.parametrize("reduction", ["sum", "batchmean"])
@pytest.mark.parametrize("rate", [1e-3, 1e-4, 5e-5, 1e-5])
@pytest.mark.parametrize("pixels", [64 * 64, VOC])
def test_a_light_rate_with_a_summed_loss_is_refused(reduction, rate, pixels):
    wrong = replace(heavy()["fcn32s"], lr=rate, reduction=reduction)
    with pytest.raises(RecipeError) as caught:
        check_rate(wrong, pixels)
    text = str(caught.value)
    for part in (
        f"the rate {rate:g} is one for a mean loss",
        f"{pixels:,} pixels",
        "0.99",
        "light",
    ):
        assert part in text
    assert f"it is as {rate * pixels / (1 - 0.99):.3g} " in text
    # What it advises passes; and whoever limits the gradient's norm is not kept from anything.
    advised = float(text.split("a rate of ")[1].split()[0])
    check_rate(replace(wrong, lr=advised), pixels)
    check_rate(replace(wrong, max_norm=3.0), pixels)


def test_a_sum_over_many_images_needs_a_smaller_rate_still():
    recipe = replace(heavy()["fcn32s"], lr=1e-6, reduction="sum")
    check_rate(recipe, 128 * 128)
    with pytest.raises(RecipeError, match="summed over 327,680 pixels"):
        check_rate(replace(recipe, batch_size=4, accumulate=5), 128 * 128)
