"""What a sweep will cost, said before it starts."""

from __future__ import annotations

import re

import pytest

from lib.config import Config
from lib.dataset import load_data
from lib.networks import summary
from lib.sweep.cost import sweep_cost
from tests.sweep.test_run import BASE


@pytest.fixture
def data(tiny_kaggle):
    return load_data(tiny_kaggle, 32)


def test_cost(data):
    small, large = (
        Config(image_size=32, init_features=2, epochs=4),
        Config(image_size=32, init_features=8, epochs=4),
    )
    cost = sweep_cost(3, [small, large], data)
    assert (cost.runs, cost.missing) == (3, 2)
    alone = sweep_cost(1, [large], data)
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
        str(sweep_cost(2, [small, large], data, at_once=2)),
    )
    assert str(sweep_cost(3, [], data)) == "3 runs, all finished before"
    assert "is not known beforehand" in str(sweep_cost(1, [BASE], data))


def test_cost_of_time_follows_arithmetic(data, monkeypatch):
    monkeypatch.setattr("lib.sweep.cost._seconds_per_slice", lambda config: 0.5)
    small, large = (Config(image_size=32, init_features=width, epochs=10) for width in (2, 8))
    alone = sweep_cost(1, [small], data)
    assert alone.seconds == pytest.approx(0.5 * 10 * sum(data.slices(tuple(data.patients)).lengths))
    ratio = summary(large).gflops / summary(small).gflops
    assert sweep_cost(2, [small, large], data).seconds == pytest.approx(alone.seconds * (1 + ratio))


def test_runs_side_by_side_have_one_thread_and_end_with_the_last(data, monkeypatch):
    asked = []
    monkeypatch.setattr("lib.sweep.cost._seconds_per_slice", lambda config: 0.5)
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    runs = [Config(image_size=32, init_features=2, epochs=epochs) for epochs in (1, 1, 4, 2)]
    one = sweep_cost(1, runs[:1], data).seconds
    assert sweep_cost(4, runs, data).seconds == pytest.approx(8 * one)
    assert asked == [7] * 4
    assert sweep_cost(4, runs, data, at_once=2).seconds == pytest.approx(5 * one)
    assert asked[4:] == [1, 7]


def test_a_device_that_is_not_here_stops_no_guess(data, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    elsewhere = Config(image_size=32, device="cuda", precision="fp32")
    assert "is not known beforehand" in str(sweep_cost(1, [elsewhere], data))
