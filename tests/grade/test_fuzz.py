"""Grade 200 submissions that were damaged at random: always a result, and nothing left outside."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.grade import load_rubric
from lib.grade.archive import write_zip
from lib.grade.gradebook import Book, write_book
from lib.grade.one import grade_one
from lib.grade.rescore import Result
from lib.grade.standings import assess
from tests.grade.demo import read_zip, run_of, sign

STATUSES = {"computed", "refused", "incomplete", "not verifiable"}
DEEP = "[" * 100_000 + "]" * 100_000
NASTY = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e999",
    "0.5",
    "=cmd|' /C calc'!A0",
    "9" * 6000,
    "\x00",
    "é" * 999,
    "../../x",
    "C:\\x",
    "<script>alert(1)</script>",
    "true",
    "null",
)
VALUES = (
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    0.5,
    "",
    "../../x",
    "<b>",
    "=1+1",
    [],
    {},
    [[]],
    {"": None},
    "os:system",
    "9" * 5000,
    [1] * 1000,
)


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes flipped, cut, doubled or put in."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(data) + 1))
        kind = rng.integers(4)
        if kind == 0 and data:
            data[place % len(data)] = int(rng.integers(256))
        elif kind == 1:
            del data[place : place + int(rng.integers(1, 400))]
        elif kind == 2:
            data[place:place] = data[place : place + int(rng.integers(1, 400))]
        else:
            data[place:place] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(data)


def damaged_table(rng: np.random.Generator, content: bytes) -> bytes:
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(int(rng.integers(1, 4))):
        row = rows[int(rng.integers(len(rows)))]
        row[int(rng.integers(len(row)))] = NASTY[int(rng.integers(len(NASTY)))]
    if rng.random() < 0.3:
        rows += rows[int(rng.integers(len(rows))) :]
    return "\n".join(map(",".join, rows)).encode()


def damaged_json(rng: np.random.Generator, content: bytes) -> bytes:
    value = json.loads(content)
    for _ in range(int(rng.integers(1, 4))):
        place = value
        while True:
            key = list(place)[int(rng.integers(len(place)))]
            if not (isinstance(place[key], dict) and place[key]) or rng.random() < 0.3:
                break
            place = place[key]
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = VALUES[int(rng.integers(len(VALUES)))]
        if not value:
            break
    text = json.dumps(value)
    return (text.replace("null", DEEP, 1) if rng.random() < 0.1 else text).encode()


def hand_in(kind: str, rng: np.random.Generator, files: dict[str, bytes], target: Path) -> None:
    """An honest submission with something of that kind damaged."""
    run = run_of(files)
    part = {
        "table": ("history.csv", "cases.csv"),
        "json": ("run.json",),
        "checkpoint": ("best.pt",),
    }.get(kind)
    if part:
        name = f"{run}/{part[int(rng.integers(len(part)))]}"
        damage = {"table": damaged_table, "json": damaged_json, "checkpoint": damaged}[kind]
        files = {**files, name: damage(rng, files[name])}
        if kind != "json" and rng.random() < 0.7:
            files = sign(files)
        if kind == "table" and rng.random() < 0.3:
            name = "result/uexec_result_best.csv"
            files[name] = damaged_table(rng, files[name])
        if kind == "json" and rng.random() < 0.3:
            files["submission.json"] = damaged_json(rng, files["submission.json"])
    write_zip(target, files)
    if kind == "zip":
        target.write_bytes(damaged(rng, target.read_bytes()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "table", "json", "checkpoint"])
def test_damaged_at_random(kind, hand_ins, exam, tmp_path, monkeypatch):
    honest = read_zip(hand_ins / "submissions" / "ada.zip")
    honest = {
        name: content for name, content in honest.items() if name.endswith((".csv", ".json", ".pt"))
    }
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    results = []
    for seed in range(50):
        rng = np.random.default_rng([seed, len(kind)])
        target, work = tmp_path / f"{seed}.zip", tmp_path / "work" / str(seed)
        work.mkdir(parents=True)
        hand_in(kind, rng, honest, target)
        values = grade_one(
            (str(target), target.name, "x", False, str(work)), exam, torch.device("cpu"), 1e-3
        )
        results.append(Result.from_dict(json.loads(json.dumps(values))))
    assert {
        result.status for result in results
    } <= STATUSES  # "failed", for what nobody thought of, did not come up
    assert all(result.findings for result in results if result.status != "computed")
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{seed}.zip" for seed in range(50)),
        "temporary",
        "work",
    }
    assert not list((tmp_path / "temporary").iterdir())
    rubric = load_rubric()
    write_book(
        tmp_path / "gradebook.csv",
        assess(results, rubric),
        Book(),
        rubric,
        dict.fromkeys(range(50), ""),
    )
    assert len((tmp_path / "gradebook.csv").read_text(encoding="utf-8").splitlines()) == 52
