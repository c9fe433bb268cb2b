"""The evidence of the phantom: trained, scored and written by one command that can be repeated."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from lib.dataset import load_data
from lib.phantom import write_phantom
from lib.sweep import Plan
from lib.sweep import measured as reading
from maintain import evidence
from maintain.evidence import PARTS, Part, main

PLAN = Plan("loss", "Which?", {"Dice": {}, "IoU": {"loss": "IOULoss"}})
STEPS = Plan("best ladder", "What for?", {"as shipped": {}, "averaged": {"ema": 0.5}}, table="best")
SMALL = {"image_size": 32, "init_features": 2, "epochs": 2, "batch_size": 8, "device": "cpu"}


def test_every_question_of_the_notebooks_has_five_seeds():
    assert {"loss", "optimizer", "lr", "weight_decay", "schedule", "network"} <= set(PARTS)
    assert {"activation", "batch_size", "sampling", "best ladder", "best recipe"} <= set(PARTS)
    assert min(part.seeds for part in PARTS.values()) >= 5
    assert PARTS["best recipe"].seeds == 20


def test_variants_that_are_there_to_fail_get_few_seeds(tmp_path, monkeypatch):
    data = load_data(write_phantom(tmp_path / "data", 4, size=32), 32)
    monkeypatch.setattr(evidence, "TRAINED", replace(evidence.TRAINED, image_size=32))
    counts = Counter(
        task.trial.label
        for name in ("lr", "optimizer")
        for task in PARTS[name].tasks(data, tmp_path, 20)
    )
    assert set(evidence.BAD) < set(counts)
    assert all(counts[label] == (5 if label in evidence.BAD else 20) for label in counts)


@pytest.mark.slow
def test_train_score_write_and_do_nothing_the_second_time(tmp_path, monkeypatch, capsys):
    base = replace(evidence.BASE, **SMALL)
    test_set = write_phantom(tmp_path / "test", 3, size=32, first=1000)
    monkeypatch.setattr(evidence, "PHANTOM_FOLDER", write_phantom(tmp_path / "data", 4, size=32))
    monkeypatch.setattr(evidence, "write_phantom", lambda folder: folder)
    monkeypatch.setattr(evidence, "write_test_set", lambda: test_set)
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "tables")
    monkeypatch.setattr(evidence, "PARTS", {"loss": Part(PLAN, 2), "best ladder": Part(STEPS, 1)})
    monkeypatch.setattr(evidence, "BASE", base)
    monkeypatch.setattr(evidence, "TRAINED", replace(base, precision="fp32"))
    monkeypatch.setattr(reading, "BASE", base)
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["evidence", "--out", str(out)])
    main()
    found = reading.evidence(PLAN, folder=tmp_path / "tables")
    assert {label: [run.config.seed for run in runs] for label, runs in found.items()} == {
        "Dice": [42, 43],
        "IoU": [42, 43],
    }
    [file, *others] = sorted((out / evidence.SCORES).iterdir())
    assert len(others) == 4
    counts = json.loads(file.read_text())
    assert set(counts) == {"best", "last"} and len(counts["best"]) == 3
    tables = {path: path.read_bytes() for path in (tmp_path / "tables").rglob("*.csv")}
    assert "ema" not in (tmp_path / "tables" / reading.HITS).read_text()  # students get this one
    for run in found["IoU"]:  # beside each score the curve of its run
        assert run.history["epoch"].tolist() == [1, 2]
        assert run.history["val_dsc"].between(0, 1).all()
    steps = reading.evidence(STEPS, folder=tmp_path / "tables")
    assert {label: len(runs) for label, runs in steps.items()} == {"as shipped": 2, "averaged": 1}
    written = file.stat().st_mtime_ns
    capsys.readouterr()
    main()
    assert file.stat().st_mtime_ns == written
    shutil.rmtree(out)  # as on another machine
    main()
    assert not list((out / "runs").glob("*"))
    assert all(path.read_bytes() == content for path, content in tables.items())
