"""Where the runs of a sweep stand."""

from __future__ import annotations

import pytest

from lib.dataset import load_data
from lib.logger import RunFolder
from lib.sweep import sweep
from lib.sweep import table as sweep_table
from lib.sweep.table import Row, SweepTable, duration
from tests.sweep.test_run import BASE, PLAN


@pytest.fixture
def data(tiny_kaggle):
    return load_data(tiny_kaggle, 32)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """The file in which each training step leaves a line."""
    file = tmp_path / "steps"
    file.touch()
    monkeypatch.setenv("KIT_STEPS", str(file))
    return file


def test_durations():
    assert [duration(seconds) for seconds in (3.4, 99, 100, 5999, 6000, 90_000)] == [
        "3 s",
        "99 s",
        "2 min",
        "100 min",
        "1.7 h",
        "25.0 h",
    ]


def test_table_in_a_notebook(tmp_path, monkeypatch):
    shown = []

    class Handle:
        def update(self, table):
            shown.append(table)

    monkeypatch.setattr(sweep_table, "in_notebook", lambda: True)
    monkeypatch.setattr(
        "IPython.display.display", lambda table, display_id: shown.append(table) or Handle()
    )
    folders = [RunFolder(tmp_path, name) for name in ("a", "b", "c")]
    table = SweepTable(
        [Row(name, 42, 4, folder) for name, folder in zip("ABC", folders, strict=True)]
    )
    table.refresh()
    assert shown[0]["status"].tolist() == ["waiting"] * 3
    folders[0].update(status="running", seconds=30.0)
    folders[0].write_history([{"epoch": 1, "val_dsc": 0.5}, {"epoch": 2, "val_dsc": 0.25}])
    folders[1].update(status="failed", error="out of luck")
    table.refresh()
    assert len(shown) == 1  # not so soon
    table.refresh(last=True)
    assert shown[1].loc["A"].tolist() == ["42", "training", "2 of 4", "0.250", "0.500", "30 s"]
    assert shown[1].loc["B", "status"] == "failed: out of luck"


def test_table_in_a_terminal(data, tmp_path, steps, capsys):
    sweep(PLAN, BASE, data, tmp_path / "out", executor="local")
    lines = [line for line in capsys.readouterr().out.splitlines() if "seed 42" in line]
    assert len(lines) == 3 and lines[0].startswith(
        "Dice, seed 42: finished, epoch 2 of 2, best DSC 0."
    )


@pytest.mark.parametrize(
    ("scores", "shown"), [([], "-"), ([0.5, 0.25], "0.500"), ([float("nan")] * 2, "-")]
)
def test_a_run_that_scores_nobody_shows_no_dsc(scores, shown):
    assert sweep_table._best_score(scores) == shown
