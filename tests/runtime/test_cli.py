"""Options of the command lines, and their manners."""

import argparse
import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib import train
from lib.config import BEST, REFERENCE, Config
from lib.runtime import CommandParser, run_command
from lib.runtime.cli import add_arguments, from_arguments
from tests.test_config import FIELDS


def parse(*arguments: str) -> Config:
    parser = CommandParser(prog="test")
    add_arguments(parser)
    return from_arguments(parser.parse_args(arguments))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("spelling", ["-", "_"])
def test_every_field_is_an_option(field, spelling):
    other = {
        "image_size": 64,
        "component": "all",
        "augmentation": "my_module:Mine",
        "metric": "my_module:mine",
        "preprocessing": "native",
        "split": "holdout:3",
        "model": "unet",
        "init_features": 8,
        "activation": "ELU",
        "loss": "IOULoss",
        "optimizer": "SGD",
        "lr": 0.5,
        "momentum": 0.5,
        "weight_decay": 0.5,
        "lr_scheduler": "linear",
        "batch_size": 3,
        "epochs": 5,
        "patience": 4,
        "sampling": "fresh",
        "scale": 0.25,
        "rotation": 5.5,
        "flip": 0.25,
        "padding": "background",
        "seed": 7,
        "device": "cpu",
        "precision": "fp32",
        "normalisation": "group",
        "initialiser": "kaiming",
        "prior": 0.02,
        "checkpointing": True,
        "deep_supervision": True,
        "guided": True,
        "nesterov": True,
        "clip": 2.5,
        "warmup": 3,
        "lr_step": 4,
        "lr_factor": 0.25,
        "ema": 0.75,
        "accumulate": 2,
        "neighbours": 2,
        "background_weight": 0.5,
        "intensity": 0.25,
        "sequence_dropout": 0.25,
        "tta": True,
    }
    needs = {
        "deep_supervision": {"model": "unet_2plus"},
        "guided": {"model": "unet_3plus"},
        "nesterov": {"optimizer": "SGD"},
    }.get(field, {})
    required = [part for name, value in needs.items() for part in (f"--{name}", value)]
    config = parse(f"--{field.replace('_', spelling)}", str(other[field]), *required)
    assert config == dataclasses.replace(REFERENCE, **needs, **{field: other[field]})


def test_no_option_no_change_and_the_base_is_kept():
    assert parse() == REFERENCE
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert from_arguments(parser.parse_args(["--epochs", "3"]), BEST) == dataclasses.replace(
        BEST, epochs=3
    )


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
    return (
        status,
        streams.out,
        "\n".join(line.rpartition("\r")[2] for line in streams.err.split("\n")),
    )


def test_code_of_a_user_must_not_end_a_command(monkeypatch, capfd, tmp_path):
    """Whenever it runs: the exit code would be 0, with nothing done. The kit's own ends stay."""
    (tmp_path / "ends.py").write_text("import sys\n\ndef now():\n    sys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("ends").now
    status, _, err = command(lambda: own(), monkeypatch, capfd)
    assert (status, err) == (
        2,
        "error: code of yours ended Python: it raised SystemExit: 0 (line 4 of ends.py); leave "
        "that out\n",
    )
    assert command(lambda: sys.exit(1), monkeypatch, capfd)[0] == 1
    assert command(lambda: CommandParser().exit(), monkeypatch, capfd)[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "many"],
        ["--epochs", "0"],
        ["--lr", "nan"],
        ["--optimizer", "Lion"],
        ["--colour", "red"],
        ["--loss", "Hinge"],
        ["--model", "vnet"],
        ["--device", "abacus"],
        ["--split", "halves"],
        ["--image-size", "40"],
        ["--image-size", "16", "--batch-size", "1"],
    ],
)
def test_wrong_options_exit_2_with_one_line(arguments, tiny_kaggle, tmp_path, monkeypatch, capfd):
    tiny = ["--image-size", "32", "--init-features", "2", "--epochs", "1", "--split", "holdout:2"]
    status, _, err = command(
        train.main,
        monkeypatch,
        capfd,
        "--data",
        str(tiny_kaggle),
        "--out",
        str(tmp_path / "out"),
        *tiny,
        *arguments,
    )
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
    status, _, err = command(
        lambda: (tmp_path / "file" / "below").write_text(""), monkeypatch, capfd
    )
    assert status == 2
    assert (
        err.startswith(f"error: {tmp_path / 'file' / 'below'}: No such file")
        and err.count("\n") == 1
    )


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    """Only bad input is put into one line: a bug must not look like the user's fault."""

    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(broken)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lib.check", "lib.unet:UNet"],
            stdout=full,
            stderr=subprocess.PIPE,
        )
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert lines == [
        "error: a file or the output: No space left on device; free some space, or name another "
        "place"
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_a_reader_that_has_enough_ends_it_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "lib.check", "lib.unet:UNet"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert done.stderr == b""
