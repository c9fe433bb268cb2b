"""Training: reproducible to the byte, interruptible at any moment, never done twice."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib import train
from lib.config import Config
from lib.dataset import load_data
from lib.logger import Record, Run, RunFolder, find_run, finished_runs, folder
from lib.optim import MovingAverage
from lib.plot import LiveView
from lib.predict import load_weights, predict
from lib.report.experiments import read_attempts
from lib.runtime import code_fingerprint
from lib.stats import compare_to_baseline
from lib.train import fit
from lib.transform import Augmentation
from lib.utils import KitError, write_atomic

ROOT = Path(__file__).parent.parent
TINY = Config(
    image_size=32,
    init_features=2,
    epochs=3,
    batch_size=4,
    lr=1e-2,
    sampling="fresh",
    device="cpu",
    split="holdout:2",
)
OUTCOME = ("history.csv", "cases.csv", "best.pt", "last.pt")


@pytest.fixture
def data(tiny_kaggle, monkeypatch):
    return load_data(tiny_kaggle, TINY.image_size)


def outcome(run: Run) -> dict[str, bytes]:
    return {name: (run.folder / name).read_bytes() for name in OUTCOME}


def test_same_run_twice_gives_the_same_bytes(data, tmp_path):
    first, second = (fit(TINY, data, tmp_path / name) for name in "ab")
    assert first.id == second.id
    assert outcome(first) == outcome(second)


def test_finished_run_is_loaded_and_joins_the_plan(data, tmp_path, monkeypatch):
    run = fit(TINY, data, tmp_path, plan="first")
    asked = run.asked
    monkeypatch.setattr(train, "Training", None)  # training again would fail
    again = fit(TINY, data, tmp_path, plan="second")
    assert again.id == run.id
    assert again.info["plans"] == ["first", "second"]
    assert asked < again.asked


def test_flair_stands_in_for_other_sequences_in_training(data, tmp_path, monkeypatch):
    batches = []

    def apply(self, images, masks, drawn):
        images, masks = augment(self, images, masks, drawn)
        batches.append(images)
        return images, masks

    augment = Augmentation.apply
    monkeypatch.setattr(Augmentation, "apply", apply)
    fit(dataclasses.replace(TINY, sequence_dropout=1.0, epochs=1), data, tmp_path)
    for pre, flair, post in torch.cat(batches):
        assert torch.equal(pre, flair) or torch.equal(post, flair)


@pytest.mark.parametrize(
    "change",
    [
        {"neighbours": 1, "intensity": 0.5, "sequence_dropout": 0.5},
        {"tta": True, "padding": "background", "background_weight": 1.0},
    ],
)
def test_new_ingredients_are_interrupted_and_predicted_like_the_rest(
    data, tmp_path, monkeypatch, change
):
    config = dataclasses.replace(TINY, epochs=2, **change)
    whole = fit(config, data, tmp_path / "whole")
    checkpoint, calls = Record._checkpoint, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return checkpoint(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Record, "_checkpoint", interrupted)
        patch.setattr(Record, "best", property(lambda self: self.history[-1]))
        fit(config, data, tmp_path / "cut")
    assert (tmp_path / "cut" / "runs" / whole.id / "history.csv").is_file()
    assert outcome(fit(config, data, tmp_path / "cut")) == outcome(whole)
    assert whole.history["val_dsc"].max() == pytest.approx(whole.cases["dsc"].mean(), abs=1e-6)
    again = predict(whole.weights, data, patients=whole.unseen(data), device="cpu")
    np.testing.assert_allclose(again.cases["dsc"], whole.cases["dsc"], atol=1e-6)


def test_a_run_is_scored_with_flips_without_training_again(data, tmp_path):
    run = fit(dataclasses.replace(TINY, epochs=1), data, tmp_path)
    flips = predict(run.weights, data, patients=run.unseen(data), tta=True)
    table = compare_to_baseline({"plain": run, "flips": flips})
    expected = flips.cases.set_index("patient")["dsc"] - run.cases.set_index("patient")["dsc"]
    assert table["difference"][0] == pytest.approx(expected.mean(), abs=1e-6)


def test_other_config_or_seed_is_another_run(data, tmp_path):
    ids = {
        fit(dataclasses.replace(TINY, epochs=1, **change), data, tmp_path).id
        for change in ({}, {"seed": 1}, {"loss": "IOULoss"}, {"lr": 1e-3})
    }
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        (train, "step", 9),
        (Record, "keep", 2),
        (Record, "_checkpoint", 1),
        (Record, "finish", 1),
        (RunFolder, "save", 3),
        (RunFolder, "write_history", 2),
        (RunFolder, "write_cases", 1),
    ],
)
def test_interrupted_run_ends_as_if_it_had_not_been(
    data, tmp_path, monkeypatch, owner, method, call
):
    whole = outcome(fit(TINY, data, tmp_path / "whole"))
    original, calls = getattr(owner, method), []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(owner, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(TINY, data, tmp_path / "cut")
    assert outcome(fit(TINY, data, tmp_path / "cut")) == whole


@pytest.mark.parametrize(("file", "time"), [("last.pt", 2), ("last.pt", 3), ("best.pt", 1)])
def test_a_full_disk_is_reported_and_what_was_done_is_not_lost(
    data, tmp_path, monkeypatch, file, time
):
    whole = outcome(fit(TINY, data, tmp_path / "whole"))
    written = []

    def write(path, content):
        written.append(path.name)
        if path.name == file and written.count(file) == time:
            raise OSError(28, "No space left on device", str(path))
        write_atomic(path, content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(folder, "write_atomic", write)
        fit(TINY, data, tmp_path / "cut")
    assert outcome(fit(TINY, data, tmp_path / "cut")) == whole


def _damage(file, kind):
    content = bytearray(file.read_bytes())
    if kind == "flipped":  # in the weights
        content[len(content) // 2] ^= 4
    file.write_bytes(
        b"" if kind == "empty" else content[: len(content) // 2 if kind == "cut" else None]
    )


def _cut_after(epochs, data, out, monkeypatch):
    """Train so many epochs of TINY, and be interrupted."""
    keep, kept = Record.keep, []

    def interrupted(self, *args):
        keep(self, *args)
        kept.append(1)
        if len(kept) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Record, "keep", interrupted)
        fit(TINY, data, out)
    [folder] = (out / "runs").iterdir()
    return folder


@pytest.mark.parametrize("kind", ["empty", "cut", "flipped"])
@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_damaged_checkpoint_is_kept_aside_and_the_run_ends_as_it_should(
    data, tmp_path, monkeypatch, name, kind, capsys
):
    whole = outcome(fit(TINY, data, tmp_path / "whole"))
    folder = _cut_after(2, data, tmp_path / "cut", monkeypatch)
    _damage(folder / name, kind)
    damaged = (folder / name).read_bytes()
    run = fit(TINY, data, tmp_path / "cut")
    assert outcome(run) == whole
    assert (run.folder / f"{name}.aside").read_bytes() == damaged
    assert f"kept as {name}.aside" in capsys.readouterr().out


def test_best_weights_that_are_gone_may_come_back(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Record, "best", property(lambda self: self.history[0]))
    whole = outcome(fit(TINY, data, tmp_path / "whole"))
    folder = _cut_after(2, data, tmp_path / "cut", monkeypatch)
    last = (folder / "last.pt").read_bytes()
    (folder / "best.pt").rename(tmp_path / "best.pt")
    with pytest.raises(KitError, match=r"best\.pt: is not of epoch 1, the best so far; restore it"):
        fit(TINY, data, tmp_path / "cut")
    assert (folder / "last.pt").read_bytes() == last
    (tmp_path / "best.pt").rename(folder / "best.pt")
    assert outcome(fit(TINY, data, tmp_path / "cut")) == whole


def test_a_disk_that_does_not_answer_is_no_damage(data, tmp_path, monkeypatch):
    folder = _cut_after(2, data, tmp_path, monkeypatch)
    before = {file.name: file.read_bytes() for file in folder.glob("*.pt")}

    def stale(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch, pytest.raises(KitError, match="cannot be read now"):
        patch.setattr(torch, "load", stale)
        fit(TINY, data, tmp_path)
    assert {file.name: file.read_bytes() for file in folder.glob("*.pt*")} == before


@pytest.mark.parametrize("kind", ["empty", "cut", "flipped"])
def test_damaged_weights_of_a_finished_run_are_not_believed(data, tmp_path, kind):
    run = fit(TINY, data, tmp_path)
    _damage(run.weights, kind)
    with pytest.raises(KitError, match=r"best\.pt: is not what the training wrote; restore it"):
        fit(TINY, data, tmp_path)
    with pytest.raises(KitError, match=r"best\.pt: "):
        predict(run.weights, data)


@pytest.mark.long
def test_killed_run_ends_as_if_it_had_not_been(tiny_kaggle, tmp_path):
    command = [
        sys.executable,
        "-m",
        "lib.train",
        "--data",
        str(tiny_kaggle),
        "--image-size",
        "32",
        "--epochs",
        "40",
        "--init-features",
        "2",
        "--batch-size",
        "2",
        "--sampling",
        "fresh",
        "--split",
        "holdout:2",
        "--device",
        "cpu",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "--out", str(tmp_path / "whole")], cwd=ROOT, env=environment, check=True
    )
    whole = outcome(find_run(tmp_path / "whole"))
    kills = 0
    for attempt in range(8):
        process = subprocess.Popen(
            [*command, "--out", str(tmp_path / "cut")], cwd=ROOT, env=environment
        )
        seen = _epochs(tmp_path / "cut")
        while process.poll() is None and _epochs(tmp_path / "cut") == seen:
            time.sleep(0.01)
        time.sleep(0.03 * (attempt % 7))  # somewhere in the next epochs
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(
        [*command, "--out", str(tmp_path / "cut")], cwd=ROOT, env=environment, check=True
    )
    assert kills  # a fast machine may be done before the others
    assert outcome(find_run(tmp_path / "cut")) == whole


def _epochs(out: Path) -> int:
    files = list(out.glob("runs/*/history.csv"))
    return len(files[0].read_text().splitlines()) if files else 0


def test_learns(data, tmp_path):
    run = fit(dataclasses.replace(TINY, epochs=12, init_features=4), data, tmp_path)
    assert run.history["train loss"].iloc[-1] < 0.6 * run.history["train loss"].iloc[0]
    assert run.dsc.mean > 0.5


def test_results_are_those_recorded(data, tmp_path):
    """Measured once in float32 on an x86 CPU: whoever makes the code faster sees here that it still
    learns the same.

    A last bit of rounding in the augmentation moves the DSC of these small masks by 0.007 and the
    losses by less than 0.0005, bfloat16 by 0.015 and 0.0008: the tolerances leave room for another
    CPU, not for another method."""
    config = dataclasses.replace(TINY, epochs=6, init_features=4, precision="fp32")
    run = fit(config, data, tmp_path)
    losses, scores = run.history["train loss"].to_numpy(), run.history["val_dsc"].to_numpy()
    assert losses == pytest.approx([0.76063, 0.72280, 0.65421, 0.63955, 0.64461, 0.61780], abs=2e-3)
    assert scores == pytest.approx([0.8837, 0.7077, 0.6929, 0.6667, 0.6710, 0.7031], abs=0.02)
    assert run.cases["dsc_native"].to_numpy() == pytest.approx([0.8413, 0.7956], abs=0.02)


def test_cases_agree_with_counts_and_history(data, tmp_path):
    run = fit(TINY, data, tmp_path)
    cases = run.cases
    truth = [int(data.truth(name).sum()) for name in cases["patient"]]
    assert (cases["tp"] + cases["fn"]).tolist() == truth
    np.testing.assert_allclose(
        cases["dsc_native"],
        2 * cases["tp"] / (2 * cases["tp"] + cases["fp"] + cases["fn"]),
        rtol=1e-7,
    )
    assert run.history["val_dsc"].max() == pytest.approx(cases["dsc"].mean(), abs=1e-6)
    assert set(cases["patient"]) == set(run.info["split"]["validation"])


def test_best_weights_are_those_of_the_best_epoch(data, tmp_path):
    run = fit(TINY, data, tmp_path)
    best = torch.load(run.weights, weights_only=True)
    assert best["epoch"] == run.history.loc[run.history["val_dsc"].idxmax(), "epoch"]


def test_training_on_all_patients_keeps_the_last_epoch_and_claims_no_score(data, tmp_path):
    run = fit(dataclasses.replace(TINY, split="all"), data, tmp_path)
    assert (
        run.info["split"]["train"] == list(data.patients) and run.info["split"]["validation"] == []
    )
    assert run.info["best"] == {"epoch": TINY.epochs, "val_dsc": None}
    assert str(run.dsc) == "no patients" and run.dsc.n == 0
    kept, last = (
        torch.load(run.folder / name, weights_only=True)["weights"]
        for name in ("best.pt", "last.pt")
    )
    assert all(torch.equal(kept[name], last[name]) for name in last)
    assert len(run.cases) == 0 and "scored on none" in str(run)
    assert finished_runs(tmp_path) == [], "a table of scores would show it without one"
    assert read_attempts(tmp_path) == ([], {}), "and so would the report"
    assert load_weights(run.weights).trained_on == tuple(data.patients)


def test_data_of_another_size_is_refused(data, tmp_path):
    with pytest.raises(KitError, match="64 pixels"):
        fit(dataclasses.replace(TINY, image_size=64), data, tmp_path)


def test_a_run_that_gives_no_numbers_is_stopped(data, tmp_path):
    with pytest.raises(KitError, match=r"TCGA_\w+: the network's output is not a number in places"):
        fit(dataclasses.replace(TINY, lr=1e6, optimizer="SGD", loss="BCELoss"), data, tmp_path)


def test_the_layer_that_is_no_number_is_named(data, tmp_path, monkeypatch):
    def spoil(self, model):
        model.conv.bias.data[0] = float("inf")

    monkeypatch.setattr(MovingAverage, "update", spoil)
    with pytest.raises(KitError, match=r"conv\.bias is not a number after epoch 1; lower lr"):
        fit(TINY, data, tmp_path)
    assert not list(tmp_path.glob("runs/*/last.pt"))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"watch": LiveView}, r"watch: is the class LiveView; make an object: LiveView\(\)"),
        ({"watch": "live"}, "watch: expected a function, got a str"),
        ({"out": None}, "out: expected a path, got a NoneType"),
        ({"out": 5}, "out: expected a path, got a int"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_trained(wrong, line, data, tmp_path):
    with pytest.raises(KitError, match=line):
        fit(TINY, data, **{"out": tmp_path / "out"} | wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_the_checkpoint_of_another_run_is_not_used(name, data, tmp_path, capsys):
    whole = fit(TINY, data, tmp_path / "whole")

    def stop(_):
        raise KeyboardInterrupt

    for config in (TINY, dataclasses.replace(TINY, seed=7)):
        with pytest.raises(KeyboardInterrupt):
            fit(config, data, tmp_path / "out", watch=stop)
    other = next(path for path in (tmp_path / "out" / "runs").iterdir() if path.name != whole.id)
    mine = tmp_path / "out" / "runs" / whole.id
    shutil.copyfile(other / name, mine / name)
    run = fit(TINY, data, tmp_path / "out")
    assert outcome(run) == outcome(whole)
    assert f"is of another run, {other.name}" in capsys.readouterr().out
    assert (mine / f"{name}.aside").read_bytes() == (other / name).read_bytes()


# --- what the run folders tell --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "used", "unused"),
    [
        ({}, {"lib.unet"}, {"lib.unet_2plus", "lib.unet_3plus", "DeepSupervisionLoss"}),
        (
            {"model": "unet_2plus"},
            {"lib.unet_2plus"},
            {"lib.unet", "lib.unet_3plus", "DeepSupervisionLoss"},
        ),
        (
            {"model": "unet_3plus", "guided": True},
            {"lib.unet_3plus", "DeepSupervisionLoss", "BCELoss"},
            {"lib.unet"},
        ),
    ],
)
def test_code_that_is_used_counts_and_other_code_does_not(monkeypatch, switches, used, unused):
    sources = {}
    monkeypatch.setattr(
        "lib.runtime.fingerprints.source_fingerprint",
        lambda *things: sources.setdefault("used", things),
    )
    config = dataclasses.replace(TINY, **switches)
    code_fingerprint(config, *train.build(config), train.SOURCES)
    names = {thing.__name__ for thing in sources["used"]}
    always = {
        "lib.unet_layers",
        "lib.runtime.recompute",
        "lib.unet_init_weights",
        "DiceLoss",
        "TverskyLoss",
        "lib.optim",
        "lib.train",
    }
    assert used | always <= names
    assert not (unused | {"IOULoss", "lib.loss", "lib.plot"}) & names


def test_patients_that_were_learnt_from_are_not_counted(data, tmp_path):
    run = fit(dataclasses.replace(TINY, epochs=1), data, tmp_path)
    prediction = predict(run.weights, data)
    assert set(prediction.seen) == set(run.info["split"]["train"])
    assert "2 patients" in str(prediction).splitlines()[0]
    assert "not counted: 4 patients" in str(prediction)
    assert "not counted" not in str(predict(run.weights, data, patients=run.unseen(data)))


NETWORKS = (
    {"model": "unet"},
    {"model": "unet_2plus", "deep_supervision": True},
    {"model": "unet_3plus", "deep_supervision": True, "guided": True, "checkpointing": True},
)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_gpu_trains_the_same_twice(data, tmp_path, network, precision):
    config = dataclasses.replace(TINY, device="cuda", precision=precision, **network)
    first, second = (fit(config, data, tmp_path / name) for name in "ab")
    assert first.history["train loss"].notna().all()
    pd.testing.assert_frame_equal(first.history, second.history)


def test_a_run_that_stops_early_is_the_beginning_of_the_whole_one(data, tmp_path, monkeypatch):
    """It ends once its best epoch is long enough ago, and keeps that; so does a resumed one."""
    config = dataclasses.replace(TINY, lr=0.0, epochs=6)
    whole = fit(config, data, tmp_path)
    impatient = dataclasses.replace(config, patience=2)
    run = fit(impatient, data, tmp_path)
    assert len(run.history) == 3, "weights that do not move score the same from the first epoch on"
    pd.testing.assert_frame_equal(run.history, whole.history[:3])
    assert run.info["best"] == whole.info["best"] and run.info["status"] == "finished"

    def interrupt(epoch):
        if len(epoch.history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(impatient, data, tmp_path / "again", watch=interrupt)
    assert outcome(fit(impatient, data, tmp_path / "again")) == outcome(run)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("network", NETWORKS)
def test_gpu_agrees_with_cpu(data, tmp_path, network):
    network = network | {
        "guided": False
    }  # its classifier drops channels at random, and a GPU draws other numbers
    runs = [
        fit(
            dataclasses.replace(TINY, device=device, precision="fp32", epochs=1, **network),
            data,
            tmp_path / device,
        )
        for device in ("cpu", "cuda")
    ]
    assert runs[0].history["train loss"][0] == pytest.approx(
        runs[1].history["train loss"][0], abs=1e-3
    )


def test_a_line_for_each_epoch_where_the_output_is_a_file(
    tiny_kaggle, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KIT_PROGRESS", "lines")
    fit(TINY, load_data(tiny_kaggle, TINY.image_size), tmp_path)
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("unet, epoch ")]
    assert len(lines) == TINY.epochs and "DSC" in lines[0] and lines[0].endswith(" s")
    assert printed.err == ""
