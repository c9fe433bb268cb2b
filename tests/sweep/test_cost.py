"""What a sweep will cost, said before it starts."""

from __future__ import annotations

import re

import pytest

from lib.config import Config
from lib.networks import summary
from lib.sweep.cost import sweep_cost
from tests.sweep.test_run import BASE

SLICES = 40


def test_cost():
    small, large = (
        Config(image_size=32, init_features=2, epochs=4),
        Config(image_size=32, init_features=8, epochs=4),
    )
    cost = sweep_cost(3, [small, large], SLICES)
    assert (cost.runs, cost.missing) == (3, 2)
    alone = sweep_cost(1, [large], SLICES)
    assert cost.disk_bytes > alone.disk_bytes == 16 * 486_553
    assert cost.memory_bytes == alone.memory_bytes
    assert re.fullmatch(
        r"3 runs, 1 of them finished before; one after the other about \S+ (s|min|h) on this "
        r"device, \S+ GB of checkpoints, up to \S+ GB of memory",
        str(cost),
    )
    assert re.fullmatch(
        r"2 runs; about \S+ (s|min|h) on this device, 2 at a time, \S+ GB of checkpoints, up to "
        r"\S+ GB of memory",
        str(sweep_cost(2, [small, large], SLICES, at_once=2)),
    )
    assert str(sweep_cost(3, [], SLICES)) == "3 runs, all finished before"
    assert "is not known beforehand" in str(sweep_cost(1, [BASE], SLICES))


def test_cost_of_time_follows_arithmetic(monkeypatch):
    monkeypatch.setattr("lib.sweep.cost._seconds_per_slice", lambda config: 0.5)
    small, large = (Config(image_size=32, init_features=width, epochs=10) for width in (2, 8))
    alone = sweep_cost(1, [small], SLICES)
    assert alone.seconds == pytest.approx(0.5 * 10 * SLICES)
    ratio = summary(large).gflops / summary(small).gflops
    assert sweep_cost(2, [small, large], SLICES).seconds == pytest.approx(
        alone.seconds * (1 + ratio)
    )


def test_runs_side_by_side_have_one_thread_and_end_with_the_last(monkeypatch):
    asked = []
    monkeypatch.setattr("lib.sweep.cost._seconds_per_slice", lambda config: 0.5)
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    runs = [Config(image_size=32, init_features=2, epochs=epochs) for epochs in (1, 1, 4, 2)]
    one = sweep_cost(1, runs[:1], SLICES).seconds
    assert sweep_cost(4, runs, SLICES).seconds == pytest.approx(8 * one)
    assert asked == [7] * 4
    assert sweep_cost(4, runs, SLICES, at_once=2).seconds == pytest.approx(5 * one)
    assert asked[4:] == [1, 7]


def test_a_device_that_is_not_here_stops_no_guess(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    elsewhere = Config(image_size=32, device="cuda", precision="fp32")
    assert "is not known beforehand" in str(sweep_cost(1, [elsewhere], SLICES))
