"""Config, profiles, and the options of the command line."""

import argparse
import dataclasses
import json
import sys

import pytest

from lib import train
from lib.config import (
    BEST,
    LADDER,
    PROFILES,
    REFERENCE,
    Config,
    Profile,
    add_arguments,
    changes,
    choose_profile,
    from_arguments,
)
from lib.utils import CommandParser, KitError, run_command

FIELDS = [spec.name for spec in dataclasses.fields(Config)]


def test_defaults_are_the_published_recipe():
    expected = {"image_size": 256, "preprocessing": "reference", "model": "unet", "init_features": 32,
                "loss": "DiceLoss", "optimizer": "Adam", "lr": 1e-4, "weight_decay": 0.0, "batch_size": 16,
                "epochs": 100, "sampling": "frozen", "scale": 0.05, "rotation": 15.0, "flip": 0.5, "padding": "zero"}
    assert Config().to_dict().items() >= expected.items()
    assert Config() == REFERENCE
    later = {"neighbours": 0, "background_weight": 0.1, "intensity": 0.0, "sequence_dropout": 0.0,
             "tta": False}
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
    assert changes(dataclasses.replace(REFERENCE, loss="IOULoss", lr=0.01)) == "loss IOULoss, lr 0.01"


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


@pytest.mark.parametrize(("field", "value"), [
    ("epochs", 0), ("epochs", 2.5), ("epochs", "30"), ("epochs", True), ("epochs", None), ("batch_size", 0),
    ("image_size", 8), ("image_size", 40),
    ("init_features", -1), ("lr", -1e-4), ("lr", float("nan")), ("lr", float("inf")), ("lr", "fast"),
    ("momentum", -0.1), ("weight_decay", -1), ("seed", -1), ("flip", 1.5), ("flip", -0.5), ("scale", 1.0),
    ("optimizer", "Adamax"), ("optimizer", "adam"), ("sampling", "rare"), ("padding", None), ("precision", "int8"),
    ("lr_scheduler", "TRUE"), ("preprocessing", "none"), ("loss", 3), ("intensity", 1.1), ("neighbours", -1),
    ("sequence_dropout", 1.1),
    ("background_weight", -0.1), ("tta", 1),
    # names that only other modules know
    ("model", "vnet"), ("loss", "Hinge"), ("activation", "Step"), ("split", "halves"), ("device", "abacus"),
])
def test_wrong_values_are_refused_at_once(field, value):
    with pytest.raises(KitError, match=field) as caught:
        Config(**{field: value})
    assert "\n" not in str(caught.value)


def test_a_plateau_needs_somebody_to_validate_on():
    with pytest.raises(KitError, match=r"plateau.*split all"):
        Config(lr_scheduler="plateau", split="all")


def test_the_choices_are_named():
    with pytest.raises(KitError, match="Adam, AdamW, SGD"):
        Config(optimizer="Lion")


# --- profiles -----------------------------------------------------------------------------------------------------


def test_profiles_keep_the_question_and_change_the_size():
    question = Config(loss="IOULoss", optimizer="SGD", sampling="fresh", seed=3)
    for name in ("smoke", "quick", "full"):
        shrunk = Profile(name, "").apply(question)
        assert (shrunk.loss, shrunk.optimizer, shrunk.sampling, shrunk.seed) == ("IOULoss", "SGD", "fresh", 3)
    assert Profile("full", "").apply(question) == question
    smoke, quick = (Profile(name, "").apply(question) for name in ("smoke", "quick"))
    assert smoke.image_size <= quick.image_size < 256
    assert smoke.epochs < quick.epochs < 100
    assert smoke.init_features < quick.init_features < 32


@pytest.mark.parametrize(("real", "device", "asked", "expected"), [
    (True, "cuda", None, "full"), (True, "mps", None, "full"), (True, "cpu", None, "quick"),
    (False, "cuda", None, "quick"), (False, "cpu", None, "quick"), (False, "cpu", "full", "full"),
    (True, "cuda", "smoke", "smoke"),
])
def test_choice_of_profile(real, device, asked, expected):
    profile = choose_profile(real, device, asked)
    assert profile.name == expected
    assert profile.reason
    assert ("too small to judge" in profile.reason) == (expected == "smoke")


def test_unknown_profile():
    with pytest.raises(KitError, match=r"turbo.*smoke, quick, full"):
        choose_profile(True, "cpu", "turbo")
    assert list(PROFILES) == ["smoke", "quick", "full"]


# --- command line -------------------------------------------------------------------------------------------------


def parse(*arguments: str) -> Config:
    parser = CommandParser(prog="test")
    add_arguments(parser)
    return from_arguments(parser.parse_args(arguments))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("spelling", ["-", "_"])
def test_every_field_is_an_option(field, spelling):
    other = {"image_size": 64, "preprocessing": "native", "split": "holdout:3", "model": "unet", "init_features": 8,
             "activation": "ELU", "loss": "IOULoss", "optimizer": "SGD", "lr": 0.5, "momentum": 0.5,
             "weight_decay": 0.5, "lr_scheduler": "linear", "batch_size": 3, "epochs": 5, "sampling": "fresh",
             "scale": 0.25, "rotation": 5.5, "flip": 0.25, "padding": "background", "seed": 7, "device": "cpu",
             "precision": "fp32", "normalisation": "group", "initialiser": "kaiming", "checkpointing": True,
             "deep_supervision": True, "guided": True, "nesterov": True, "clip": 2.5, "warmup": 3, "lr_step": 4,
             "lr_factor": 0.25, "ema": 0.75, "accumulate": 2, "neighbours": 2, "background_weight": 0.5,
             "intensity": 0.25, "sequence_dropout": 0.25, "tta": True}
    needs = {"deep_supervision": {"model": "unet_2plus"}, "guided": {"model": "unet_3plus"},
             "nesterov": {"optimizer": "SGD"}}.get(field, {})
    required = [part for name, value in needs.items() for part in (f"--{name}", value)]
    config = parse(f"--{field.replace('_', spelling)}", str(other[field]), *required)
    assert config == dataclasses.replace(REFERENCE, **needs, **{field: other[field]})


def test_no_option_no_change_and_the_base_is_kept():
    assert parse() == REFERENCE
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert from_arguments(parser.parse_args(["--epochs", "3"]), BEST) == dataclasses.replace(BEST, epochs=3)


def test_help_tells_every_field_and_its_default():
    parser = CommandParser(prog="test")
    add_arguments(parser)
    text = parser.format_help()
    assert all(f"--{field.replace('_', '-')}" in text for field in FIELDS)
    assert "(default: 0.0001)" in " ".join(text.split())


def command(main, monkeypatch, capfd, *arguments: str) -> tuple[int, str, str]:
    """Run a command line in this process: exit status, stdout, stderr without progress bars."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    status = 0
    try:
        run_command(main)
    except SystemExit as stop:
        status = stop.code
    streams = capfd.readouterr()
    return status, streams.out, "\n".join(line.rpartition("\r")[2] for line in streams.err.split("\n"))


@pytest.mark.parametrize("arguments", [
    ["--epochs", "many"], ["--epochs", "0"], ["--lr", "nan"], ["--optimizer", "Lion"], ["--colour", "red"],
    ["--loss", "Hinge"], ["--model", "vnet"], ["--device", "abacus"], ["--split", "halves"],
    ["--image-size", "40"], ["--image-size", "16", "--batch-size", "1"],
])
def test_wrong_options_exit_2_with_one_line(arguments, tiny_kaggle, tmp_path, monkeypatch, capfd):
    tiny = ["--image-size", "32", "--init-features", "2", "--epochs", "1", "--split", "holdout:2"]
    status, _, err = command(train.main, monkeypatch, capfd, "--data", str(tiny_kaggle), "--out", str(tmp_path / "out"),
                             *tiny, *arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_missing_data_exits_2(tmp_path, monkeypatch, capfd):
    status, out, err = command(train.main, monkeypatch, capfd, "--data", str(tmp_path / "nowhere"))
    assert (status, out) == (2, "")
    assert "nowhere" in err and err.count("\n") == 1
    assert command(train.main, monkeypatch, capfd)[0] == 2  # --data is required


def test_an_interruption_exits_130_in_words(monkeypatch, capfd):
    def interrupted():
        raise KeyboardInterrupt

    status, _, err = command(interrupted, monkeypatch, capfd)
    assert status == 130
    assert "interrupted" in err
    assert "Traceback" not in err


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch, capfd):
    status, _, err = command(lambda: (tmp_path / "file" / "below").write_text(""), monkeypatch, capfd)
    assert status == 2
    assert err.startswith(f"error: {tmp_path / 'file' / 'below'}: No such file") and err.count("\n") == 1


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    """Only bad input is put into one line: a bug must not look like the user's fault."""
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(broken)
