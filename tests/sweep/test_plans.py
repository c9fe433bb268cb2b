"""Plans: what is tried, in which order, and against what."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import loguniform

from lib.config import PROFILES, REFERENCE, Config
from lib.sweep import PLANS, Plan, grid, random_plan
from lib.sweep.__main__ import with_own_value
from lib.sweep.plans import find_plan
from lib.utils import KitError

QUICK = replace(REFERENCE, **PROFILES["quick"])


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("base", [REFERENCE, QUICK], ids=["full", "quick"])
def test_every_shipped_plan_makes_configs_that_differ(name, base):
    configs = list(PLANS[name].configs(base).values())
    assert len(configs) >= 2
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize(
    "name", [name for name in PLANS if name not in ("network_wide", "coursework", "everything")]
)
def test_one_factor_at_a_time_against_the_base(name):
    reference, *others = PLANS[name].configs(REFERENCE).values()
    assert reference == REFERENCE or name == "batch_size"  # 16 is in it
    for config in others:
        changed = {
            field for field, value in config.to_dict().items() if value != getattr(REFERENCE, field)
        }
        assert changed <= {
            name,
            "optimizer",
            "momentum",
            "lr",
            "lr_scheduler",
            "lr_factor",
            "model",
        }


def test_the_reference_comes_first_whatever_the_base():
    assert next(iter(PLANS["lr"].configs(REFERENCE))) == "1e-4"
    assert next(iter(PLANS["lr"].configs(QUICK))) == "1e-3"
    assert (
        next(iter(PLANS["lr"].configs(replace(REFERENCE, lr=0.5)))) == "3e-5"
    )  # none is the base: the first


def test_what_the_coursework_crossed():
    configs = PLANS["coursework"].configs(REFERENCE)
    assert len(configs) == 3 * 2 * 4
    assert next(iter(configs.values())) == REFERENCE


def test_everything_is_the_union_without_repeats():
    single = [
        config for name in list(PLANS)[:9] for config in PLANS[name].configs(REFERENCE).values()
    ]
    assert set(PLANS["everything"].configs(REFERENCE).values()) == set(single)


def test_seeds():
    trials = PLANS["sampling"].trials(REFERENCE, seeds=(1, 2))
    assert [(a.label, a.config.seed) for a in trials] == [
        ("frozen", 1),
        ("fresh", 1),
        ("frozen", 2),
        ("fresh", 2),
    ]
    assert [a.config.seed for a in PLANS["sampling"].trials(replace(REFERENCE, seed=7))] == [7, 7]


@pytest.mark.parametrize("seeds", [range(1, 3), np.arange(1, 3), (seed for seed in (1, 2)), {1, 2}])
def test_whatever_holds_whole_numbers_holds_seeds(seeds):
    trials = PLANS["sampling"].trials(REFERENCE, seeds)
    assert [trial.config.seed for trial in trials] == [1, 1, 2, 2]


@pytest.mark.parametrize("seeds", [42, (42, 42), (1.5,), "42", (42, np.int64(42)), None])
def test_seeds_that_are_none_or_there_twice_are_refused(seeds):
    with pytest.raises(KitError, match=r"plan sampling: seeds .*give different whole numbers"):
        PLANS["sampling"].trials(REFERENCE, seeds)


def test_a_ladder_keeps_its_order():
    steps = {"first": {"lr": 1e-5}, "second": {}, "third": {"ema": 0.9}}
    assert list(Plan("steps", "?", steps, ladder=True).configs(REFERENCE)) == list(steps)
    assert next(iter(Plan("steps", "?", steps).configs(REFERENCE))) == "second"


def test_two_steps_of_a_ladder_that_are_the_same_are_named():
    plan = Plan("steps", "?", {"before": {}, "rate": {"lr": REFERENCE.lr}}, ladder=True)
    with pytest.raises(KitError, match="plan steps: step 'rate' is the same recipe as 'before'"):
        plan.configs(REFERENCE)


def test_a_variant_that_repeats_another_is_named():
    variants = {"as it is": {}, "same": {"lr": REFERENCE.lr}, "low": {"lr": 1e-6}, "too": {}}
    plan = Plan("rates", "?", variants)
    assert list(plan.configs(REFERENCE)) == ["as it is", "low"]
    assert plan.repeats(REFERENCE) == {"same": "as it is", "too": "as it is"}
    assert plan.repeats(replace(REFERENCE, lr=1e-6)) == {"low": "as it is", "too": "as it is"}
    assert all(PLANS[name].repeats(QUICK) == {} for name in PLANS if name != "everything")


@pytest.mark.parametrize("values", [[], 1e-3, "DiceLoss", None, {"DiceLoss"}])
def test_values_of_a_plan_that_are_no_list_are_named(values):
    told = r"plan mine: loss=.* is no list of values; give one, as loss="
    for make in (grid, partial(random_plan, count=3)):
        with pytest.raises(KitError, match=told):
            make("mine", "?", loss=values)


@pytest.mark.parametrize("count", [0, -1, 1.5, None])
def test_a_random_plan_of_no_variants_is_refused(count):
    with pytest.raises(KitError, match=r"plan luck: count=.*; give a whole number, 1 or more"):
        random_plan("luck", "?", count, lr=[1e-3])


def test_a_plan_without_variants_is_named():
    with pytest.raises(KitError, match="plan empty: has no variants; give it at least one"):
        Plan("empty", "?", {}).configs(REFERENCE)


def test_grid_and_random():
    plan = grid("mine", "?", loss=["DiceLoss", "IOULoss"], lr=[1e-4, 3e-4])
    assert list(plan.variants) == [
        "loss=DiceLoss, lr=1e-4",
        "loss=DiceLoss, lr=3e-4",
        "loss=IOULoss, lr=1e-4",
        "loss=IOULoss, lr=3e-4",
    ]
    axes = {"lr": loguniform(1e-5, 1e-2), "loss": ["DiceLoss", "IOULoss"]}
    drawn = random_plan("luck", "?", 20, **axes)
    assert (
        drawn
        == random_plan("luck", "?", 20, **axes)
        != random_plan("luck", "?", 20, seed=1, **axes)
    )
    rates = [changes["lr"] for changes in drawn.variants.values()]
    assert len(rates) == 20 and min(rates) < 1e-4 < 1e-3 < max(rates)
    assert {changes["loss"] for changes in drawn.variants.values()} == {"DiceLoss", "IOULoss"}


@pytest.mark.parametrize(
    ("changes", "reason"), [({"rate": 1}, "rate"), ({"loss": "Dice"}, "'Dice' is not one of")]
)
def test_a_variant_that_no_config_allows_is_named(changes, reason):
    with pytest.raises(KitError, match=f"plan mine, variant odd: .*{reason}"):
        Plan("mine", "?", {"odd": changes}).configs(Config())


def test_unknown_plan():
    with pytest.raises(KitError, match="plan 'los' is unknown; use one of sampling, loss"):
        find_plan("los")


def test_a_value_of_the_plans_own_field_is_a_further_variant():
    plan, others = with_own_value(PLANS["loss"], {"loss": "my_module:MyLoss", "lr": 1e-3})
    assert others == {"lr": 1e-3}
    assert list(plan.configs(REFERENCE)) == ["Dice", "IoU", "Focal Tversky", "my_module:MyLoss"]
    assert plan.configs(REFERENCE)["my_module:MyLoss"].loss == "my_module:MyLoss"
    assert with_own_value(PLANS["loss"], {"loss": "IOULoss"}) == (
        PLANS["loss"],
        {"loss": "IOULoss"},
    )
    plan, others = with_own_value(PLANS["schedule"], {"lr_scheduler": "plateau"})
    assert others == {} and plan.configs(REFERENCE)["plateau"].lr_scheduler == "plateau"
    assert with_own_value(PLANS["loss"], {"seed": 1}) == (PLANS["loss"], {"seed": 1})


def test_a_value_that_every_variant_would_overwrite_is_refused():
    with pytest.raises(KitError, match=r"--init-features: every variant of plan network_wide sets"):
        with_own_value(PLANS["network_wide"], {"init_features": 8})
