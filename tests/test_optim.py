"""Optimisers and schedules against torch's own, the moving average against its sum, batches
computed in parts.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from lib import train
from lib.config import Config
from lib.dataset import load_data
from lib.optim import MovingAverage, build_optimizer, is_done, learning_rate
from lib.runtime.memory import DeviceMemory, is_out_of_memory, memory_in_words
from lib.train import fit
from lib.utils import KitError
from tests.test_train import TINY, outcome

EPOCHS = 12


def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0]))


# --- schedules ------------------------------------------------------------------------------------


def rates(**settings) -> list[float]:
    config = Config(lr=0.1, epochs=EPOCHS, **settings)
    return [learning_rate(config, epoch) for epoch in range(EPOCHS)]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("none", lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        ("linear", lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=EPOCHS - 1)),
        ("cosine", lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS)),
        ("poly", lambda o: lr_scheduler.PolynomialLR(o, EPOCHS, 0.9)),
        ("step", lambda o: lr_scheduler.StepLR(o, 5, 0.3)),
    ],
)
def test_schedules_are_torchs(name, theirs):
    optimizer = torch.optim.SGD([weight()], 0.1)
    scheduler, expected = theirs(optimizer), []
    for _ in range(EPOCHS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(
        rates(lr_scheduler=name, lr_step=5, lr_factor=0.3), expected, rtol=1e-9
    )


def test_plateau_is_torchs():
    losses = np.random.default_rng(0).normal(np.linspace(1, 0.5, 60), 0.1).tolist()
    config = Config(lr=0.1, epochs=60, lr_scheduler="plateau", lr_step=3, lr_factor=0.5)
    optimizer = torch.optim.SGD([weight()], 0.1)
    # torch cuts after more than `patience` bad epochs, we after lr_step of them
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=0)
    for epoch, loss in enumerate(losses):
        assert learning_rate(config, epoch, losses[:epoch]) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )
        scheduler.step(loss)
    assert optimizer.param_groups[0]["lr"] < 0.03, "the comparison is of several cuts"


def test_a_range_test_grows_by_equal_factors_up_to_the_rate():
    np.testing.assert_allclose(rates(lr_scheduler="range"), np.geomspace(1e-6, 0.1, EPOCHS))
    assert learning_rate(Config(lr=0.1, epochs=1, lr_scheduler="range"), 0) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("scores", "patience", "done"),
    [
        ([], 0, False),
        ([], 1, False),
        ([0.1] * EPOCHS, 0, True),
        ([0.5] + [0.1] * (EPOCHS - 2), 0, False),
        ([0.1, 0.2, 0.3], 1, False),
        ([0.3, 0.2], 1, True),
        ([0.3, 0.2, 0.1], 3, False),
        ([0.3, 0.2, 0.1, 0.0], 3, True),
        ([0.3, 0.3, 0.3, 0.3], 3, True),  # equal is not higher
        ([0.3, 0.2, 0.4, 0.1, 0.1], 3, False),
        ([0.0, 0.0, 0.0], 2, True),
        (np.linspace(0, 1, EPOCHS), 1, True),
    ],
)
def test_early_stopping_waits_for_a_higher_score(scores, patience, done):
    assert is_done(Config(epochs=EPOCHS, patience=patience), list(scores)) is done


@pytest.mark.parametrize("name", ["none", "linear", "cosine", "poly", "step", "plateau"])
def test_warm_up_climbs_and_then_the_schedule_begins(name):
    warm, plain = rates(lr_scheduler=name, warmup=3), rates(lr_scheduler=name)
    np.testing.assert_allclose(warm[:4], [0.025, 0.05, 0.075, 0.1])
    assert warm[3] == plain[0] == 0.1
    assert min(warm) > 0
    assert learning_rate(Config(lr=0.1, epochs=1, lr_scheduler=name), 0) == 0.1


def test_lengths_below_one_are_shares_of_the_run():
    for share, epochs in ((0.25, 3), (0.5, 6), (0.999, 12)):
        assert rates(lr_scheduler="step", lr_step=share) == rates(
            lr_scheduler="step", lr_step=epochs
        )
    assert rates(lr_scheduler="cosine", warmup=0.25) == rates(lr_scheduler="cosine", warmup=3)
    assert rates(warmup=0.01) == rates(warmup=1)  # one epoch at least
    assert rates(lr_scheduler="step", lr_step=0.001)[1] == pytest.approx(0.01)  # every epoch


# --- optimisers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"optimizer": "Adam"}, lambda w: torch.optim.Adam(w, 0.1, weight_decay=0.01)),
        ({"optimizer": "AdamW"}, lambda w: torch.optim.AdamW(w, 0.1, weight_decay=0.01)),
        (
            {"optimizer": "SGD", "momentum": 0.8},
            lambda w: torch.optim.SGD(w, 0.1, 0.8, weight_decay=0.01),
        ),
        (
            {"optimizer": "SGD", "nesterov": True},
            lambda w: torch.optim.SGD(w, 0.1, 0.9, weight_decay=0.01, nesterov=True),
        ),
    ],
)
def test_optimisers_are_torchs(settings, theirs):
    ours, other = weight(), weight()
    pairs = [
        (ours, build_optimizer(Config(lr=0.1, weight_decay=0.01, **settings), [ours])),
        (other, theirs([other])),
    ]
    for parameter, optimizer in pairs:
        for _ in range(3):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()
    # one kernel for all weights rounds otherwise than torch's loop over them
    torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-7)


def test_moving_average_is_the_weighted_sum():
    model = nn.BatchNorm1d(2)
    average, expected = MovingAverage(model, 0.9, run=1000), torch.ones(2)
    for step in range(1, 40):
        with torch.no_grad():
            model.weight.fill_(step)
            model.num_batches_tracked += 1
        average.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.weights["weight"], expected)
    assert average.weights["num_batches_tracked"] == 39
    assert average.weights["weight"].data_ptr() != model.weight.data_ptr()


@pytest.mark.parametrize(("run", "horizon"), [(100, 10), (2000, 200), (10**6, 10**4)])
def test_an_average_reaches_back_over_a_tenth_of_the_run(run, horizon):
    assert 1 / (1 - MovingAverage(nn.Linear(1, 1), 0.9999, run).decay) == pytest.approx(horizon)


def test_a_run_of_a_few_steps_is_not_averaged():
    model = nn.Linear(1, 1)
    average = MovingAverage(model, 0.9999, run=10)
    with torch.no_grad():
        model.weight.fill_(3)
    average.update(model)
    assert average.weights["weight"].item() == 3 and not average.state_dict()


# --- in a run -------------------------------------------------------------------------------------


@pytest.fixture
def data(tiny_kaggle):
    return load_data(tiny_kaggle, TINY.image_size)


VARIANTS = [
    {"ema": 0.9},
    {"accumulate": 2},
    {"optimizer": "SGD", "nesterov": True, "lr_scheduler": "plateau"},
    {"clip": 0.1, "optimizer": "AdamW", "lr_scheduler": "cosine", "warmup": 1},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_resumes_to_the_same_bytes(data, tmp_path, monkeypatch, changes):
    config = dataclasses.replace(TINY, **changes)
    whole = fit(config, data, tmp_path / "whole")
    step, calls = train.step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(train, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(config, data, tmp_path / "cut")
    assert outcome(fit(config, data, tmp_path / "cut")) == outcome(whole)
    plain = fit(TINY, data, tmp_path / "plain")
    assert not whole.history["train loss"].equals(plain.history["train loss"]) or "ema" in changes


def test_the_average_is_what_is_scored_and_kept(data, tmp_path):
    averaged, plain = (
        fit(dataclasses.replace(TINY, ema=ema), data, tmp_path) for ema in (0.9, 0.0)
    )
    assert averaged.history["train loss"].equals(plain.history["train loss"]), (
        "it does not change the training"
    )
    assert not averaged.history["val loss"].equals(plain.history["val loss"])
    kept = torch.load(averaged.weights, weights_only=True)
    last = torch.load(averaged.folder / "last.pt", weights_only=True)
    if kept["epoch"] == TINY.epochs:
        assert all(
            torch.equal(value, last["average"]["weights"][name])
            for name, value in kept["weights"].items()
        )
    assert any(
        not torch.equal(value, last["weights"][name]) for name, value in kept["weights"].items()
    )


class PerImage(nn.Module):
    """A network without batch normalisation: a batch in parts must give the same gradients."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


class MeanSquare(nn.Module):
    """A mean over pixels, so that parts of a batch add up to the whole."""

    def forward(self, logits, target):
        return ((logits - target) ** 2).mean()


OWN = {
    "model": f"{__name__}:PerImage",
    "loss": f"{__name__}:MeanSquare",
    "precision": "fp32",
    "batch_size": 5,
}


def test_parts_of_a_batch_add_up_to_it(data, tmp_path):
    whole, parts = (
        fit(dataclasses.replace(TINY, accumulate=n, **OWN), data, tmp_path) for n in (1, 3)
    )
    pd.testing.assert_frame_equal(whole.history, parts.history, rtol=1e-5)


def test_out_of_memory_halves_the_batch_and_goes_on(data, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(TINY, **OWN)
    whole = fit(config, data, tmp_path / "whole")
    forward, sizes = PerImage.forward, []
    monkeypatch.setattr("lib.networks._require_useful", lambda *_: None)

    def limited(self, x):
        if self.training:
            sizes.append(len(x))
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x)

    monkeypatch.setattr(PerImage, "forward", limited)
    run = fit(config, data, tmp_path / "small")
    assert sizes[:2] == [5, 3]
    assert max(sizes[2:]) == 2, "the lesson is remembered"
    assert run.info["accumulate"] == 4
    assert pd.read_csv(tmp_path / "small" / "uexec_result_train.csv")["accumulate"].unique() == [4]
    assert "out of memory" in capsys.readouterr().out
    same = [
        "epoch",
        "lr",
        "train loss",
        "val_dsc",
    ]  # the validation loss depends on how many slices it sees at once
    pd.testing.assert_frame_equal(whole.history[same], run.history[same], rtol=1e-5)


def test_out_of_memory_takes_the_dataset_off_the_device_first(data, tmp_path, monkeypatch, capsys):
    """On a GPU that lends it memory; what is learnt stays the same, as batches stay whole."""
    config = dataclasses.replace(TINY, **OWN)
    whole = fit(config, data, tmp_path / "whole")
    forward, begin, raised = PerImage.forward, DeviceMemory.__init__, []
    monkeypatch.setattr("lib.networks._require_useful", lambda *_: None)

    def on_device(self, *args):
        begin(self, *args)
        self.on_device = True

    def once(self, x):
        if self.training and not raised:
            raised.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x)

    monkeypatch.setattr(DeviceMemory, "__init__", on_device)
    monkeypatch.setattr(PerImage, "forward", once)
    run = fit(config, data, tmp_path / "on device")
    assert raised and "the dataset is in host memory" in capsys.readouterr().out
    pd.testing.assert_frame_equal(whole.history, run.history)


def test_the_cpus_own_words_for_out_of_memory_are_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**46)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_each_library_has_its_own_words_for_out_of_memory(error, is_it):
    assert is_out_of_memory(error) == is_it
    with pytest.raises(KitError if is_it else type(error)), memory_in_words():
        raise error


def test_out_of_memory_in_validation(data, tmp_path, monkeypatch):
    forward = PerImage.forward

    def limited(self, x):
        if not self.training and len(x) > 2:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        return forward(self, x)

    monkeypatch.setattr(PerImage, "forward", limited)
    assert fit(dataclasses.replace(TINY, **OWN), data, tmp_path).info["accumulate"] == 4


def test_scoring_can_need_smaller_parts_than_single_slices_of_training(data, tmp_path, monkeypatch):
    forward = PerImage.forward

    def limited(self, x):
        if not self.training and len(x) > 2:
            raise RuntimeError("MPS backend out of memory")
        return forward(self, x)

    monkeypatch.setattr(PerImage, "forward", limited)
    run = fit(dataclasses.replace(TINY, accumulate=5, **OWN), data, tmp_path)
    assert run.info["accumulate"] == 20  # 5 * 5 slices were scored at once, now 2


def test_not_even_one_slice_fits(data, tmp_path, monkeypatch):
    def full(self, x):
        raise RuntimeError("MPS backend out of memory")

    monkeypatch.setattr(PerImage, "forward", full)
    with pytest.raises(KitError, match="single slice"):
        fit(dataclasses.replace(TINY, **OWN), data, tmp_path)
