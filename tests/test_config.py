"""Config, profiles, and the options of the command line."""

import dataclasses
import json
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from lib.config import (
    BEST,
    LADDER,
    PROFILES,
    REFERENCE,
    Config,
    Profile,
    changes,
    choose_profile,
    seed_of,
)
from lib.utils import KitError

FIELDS = [spec.name for spec in dataclasses.fields(Config)]


def test_defaults_are_the_published_recipe():
    expected = {
        "image_size": 256,
        "preprocessing": "reference",
        "model": "unet",
        "init_features": 32,
        "loss": "DiceLoss",
        "optimizer": "Adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "batch_size": 16,
        "epochs": 100,
        "sampling": "frozen",
        "scale": 0.05,
        "rotation": 15.0,
        "flip": 0.5,
        "padding": "zero",
    }
    assert Config().to_dict().items() >= expected.items()
    assert Config() == REFERENCE
    later = {
        "neighbours": 0,
        "background_weight": 0.1,
        "intensity": 0.0,
        "sequence_dropout": 0.0,
        "tta": False,
    }
    assert Config().to_dict().items() >= later.items()


def test_the_ladder_leads_from_the_reference_to_the_best_recipe():
    rungs = [dataclasses.replace(REFERENCE, **changes) for changes in LADDER.values()]
    assert rungs[0] == REFERENCE
    assert rungs[-1] == BEST
    assert len(set(rungs)) == len(rungs), "each rung changes something"
    for below, above in zip(LADDER.values(), [*LADDER.values()][1:], strict=False):
        assert below.items() <= above.items(), "and takes nothing back"
    for profile in PROFILES:
        assert all(Profile(profile, "").apply(rung).sampling == rung.sampling for rung in rungs)


def test_changes_in_words():
    assert changes(dataclasses.replace(REFERENCE, split="holdout:3", device="cpu")) == ""
    assert (
        changes(dataclasses.replace(REFERENCE, loss="IOULoss", lr=0.01)) == "loss IOULoss, lr 0.01"
    )


def test_round_trip_through_json():
    config = Config(lr=3e-4, sampling="fresh", epochs=7)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert set(config.to_dict()) == set(FIELDS)


def test_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().lr = 1.0
    assert len({Config(), Config(), Config(seed=1)}) == 2


def test_whole_numbers_are_welcome_where_a_fraction_is_expected():
    config = Config(lr=1, rotation=0)
    assert type(config.lr) is type(config.rotation) is float
    assert Config(lr=1) == Config(lr=1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", "30"),
        ("epochs", True),
        ("epochs", None),
        ("batch_size", 0),
        ("image_size", 8),
        ("image_size", 40),
        ("init_features", -1),
        ("lr", -1e-4),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", "fast"),
        ("lr_factor", 1.1),
        ("momentum", -0.1),
        ("weight_decay", -1),
        ("seed", -1),
        ("flip", 1.5),
        ("flip", -0.5),
        ("scale", 1.0),
        ("optimizer", "Adamax"),
        ("optimizer", "adam"),
        ("sampling", "rare"),
        ("padding", None),
        ("precision", "int8"),
        ("lr_scheduler", "TRUE"),
        ("preprocessing", "none"),
        ("loss", 3),
        ("intensity", 1.1),
        ("neighbours", -1),
        ("sequence_dropout", 1.1),
        ("background_weight", -0.1),
        ("tta", 1),
        # names that only other modules know
        ("model", "vnet"),
        ("loss", "Hinge"),
        ("activation", "Step"),
        ("split", "halves"),
        ("device", "abacus"),
    ],
)
def test_wrong_values_are_refused_at_once(field, value):
    with pytest.raises(KitError, match=field) as caught:
        Config(**{field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "meant"), [("epoch", "epochs"), ("Batch_Size", "batch_size"), ("zebra", None)]
)
def test_a_field_that_there_is_not(asked, meant):
    words = f"did you mean {meant}?" if meant else "expected one of image_size, preprocessing"
    for change in (Config, partial(dataclasses.replace, REFERENCE)):
        with pytest.raises(KitError) as raised:
            change(**{asked: 3})
        assert str(raised.value).startswith(f"Config.{asked}: there is no such field; {words}")


HUGE = {
    "huge": 10**400,
    "low": -(10**400),
    "unwritable": 10**5000,
    "nan": math.nan,
    "inf": math.inf,
}


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("field", ["lr", "epochs", "init_features", "flip"])
def test_a_number_out_of_all_proportion(field, value):
    with pytest.raises(KitError, match=rf"Config\.{field}: .*out of range, expected"):
        Config(**{field: HUGE[value]})


def test_numbers_of_numpy_are_welcome():
    config = Config(lr=np.float32(0.5), epochs=np.int64(3))
    assert (config.lr, type(config.lr), config.epochs, type(config.epochs)) == (0.5, float, 3, int)


def test_what_follows_the_validation_needs_somebody_to_validate_on():
    with pytest.raises(KitError, match=r"plateau.*split all"):
        Config(lr_scheduler="plateau", split="all")
    with pytest.raises(KitError, match=r"patience: early stopping.*split all"):
        Config(patience=5, split="all")


def test_a_warm_up_leaves_epochs_to_train():
    assert Config(epochs=3, warmup=0.5).warmup == 0.5  # two epochs
    for epochs, warmup in ((3, 0.95), (1, 0.1), (3, 3)):  # shares count as the epochs they round to
        with pytest.raises(KitError, match=r"Config\.warmup: takes all of"):
            Config(epochs=epochs, warmup=warmup)
    with pytest.raises(KitError, match=r"Config\.warmup: .*range"):
        Config(lr_scheduler="range", warmup=1)


def test_the_choices_are_named():
    with pytest.raises(KitError, match="Adam, AdamW, SGD"):
        Config(optimizer="Lion")


# --- profiles -------------------------------------------------------------------------------------


def test_profiles_keep_the_question_and_change_the_size():
    question = Config(loss="IOULoss", optimizer="SGD", sampling="fresh", seed=3)
    for name in ("smoke", "quick", "full"):
        shrunk = Profile(name, "").apply(question)
        assert (shrunk.loss, shrunk.optimizer, shrunk.sampling, shrunk.seed) == (
            "IOULoss",
            "SGD",
            "fresh",
            3,
        )
    assert Profile("full", "").apply(question) == question
    smoke, quick = (Profile(name, "").apply(question) for name in ("smoke", "quick"))
    assert smoke.image_size <= quick.image_size < 256
    assert smoke.epochs < quick.epochs < 100
    assert smoke.init_features < quick.init_features < 32


@pytest.mark.parametrize(
    ("real", "device", "asked", "expected"),
    [
        (True, "cuda", None, "full"),
        (True, "mps", None, "full"),
        (True, "cpu", None, "quick"),
        (False, "cuda", None, "quick"),
        (False, "cpu", None, "quick"),
        (False, "cpu", "full", "full"),
        (True, "cuda", "smoke", "smoke"),
    ],
)
def test_choice_of_profile(real, device, asked, expected):
    profile = choose_profile(real, device, asked)
    assert profile.name == expected
    assert profile.reason
    assert ("too small to judge" in profile.reason) == (expected == "smoke")


def test_unknown_profile():
    with pytest.raises(KitError, match=r"turbo.*smoke, quick, full"):
        choose_profile(True, "cpu", "turbo")
    assert list(PROFILES) == ["smoke", "quick", "full"]


def test_seeds_in_a_row_are_nobody_elses():
    """Of a million seeds, several of two thousand students would be within five."""
    seeds = sorted(seed_of(f"20231{number:04}") for number in range(2000))
    assert min(later - earlier for earlier, later in pairwise(seeds)) >= 5
    assert seeds[0] >= 0 and seeds[-1] < 2**31
