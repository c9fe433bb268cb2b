"""Submissions with words and experiments, made of one honest run: for what an instructor reads."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd

from lib.logger import TRAIN_CSV, to_csv
from lib.notebook.cells import ASKS, ENGLISH, PHRASES
from lib.notebook.solutions import without_solutions
from lib.utils import PROJECT
from tests.grade.demo import Files, run_of


def student_notebook(name: str) -> dict:
    """A released notebook as the student edition has it."""
    content, phrases = json.loads((PROJECT / name).read_text(encoding="utf-8")), PHRASES[ENGLISH]
    for cell in content["cells"]:
        placeholder = phrases.in_code if cell["cell_type"] == "code" else phrases.in_text
        cell["source"] = without_solutions("".join(cell["source"]), placeholder)
    return content


def ids_that_ask(notebook: dict) -> list[str]:
    """Ids of the cells that ask for an answer."""
    return [
        cell["id"]
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown" and ASKS.search(cell["source"])
    ]


def answered(notebook: dict, answers: dict[str, str]) -> dict:
    """A notebook with answers below the questions, by the cells' ids."""
    cells = [
        {**cell, "source": f"{cell['source']}\n\n{answers[cell['id']]}"}
        if cell.get("id") in answers
        else cell
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


def with_cells(notebook: dict, after: str, *texts: str, kind: str = "markdown") -> dict:
    """A notebook with cells of one's own below the cell of that id."""
    cells = []
    for cell in notebook["cells"]:
        cells.append(cell)
        if cell.get("id") == after:
            cells += [
                {"cell_type": kind, "id": f"own-{i}", "metadata": {}, "source": text}
                for i, text in enumerate(texts)
            ]
    return {**notebook, "cells": cells}


def as_bytes(notebook: dict) -> bytes:
    return json.dumps(notebook).encode()


def with_plan(
    files: Files,
    plan: str,
    variants: dict[str, tuple[dict, float]],
    ladder: bool = False,
    seed: int = 0,
    noise: float = 0.01,
) -> Files:
    """A submission with runs of a plan, made of its own run: label -> changes and gain in DSC."""
    source, rng = run_of(files), np.random.default_rng(seed + len(plan))
    info = json.loads(files[f"{source}/run.json"])
    rows = [_rows(files[f"result/{TRAIN_CSV}"])] if f"result/{TRAIN_CSV}" in files else []
    best = _rows(next(content for name, content in files.items() if "uexec_result" in name))
    files = dict(files)
    for position, (label, (changes, gain)) in enumerate(variants.items()):
        run_id = f"{plan.replace(' ', '_')}-{position}-{seed}"
        cases = _rows(files[f"{source}/cases.csv"])
        shift = gain + noise * rng.standard_normal(len(cases))
        cases["dsc"] = (cases["dsc"] + shift).clip(0, 1)
        epochs = np.arange(1, 25)
        history = pd.DataFrame(
            {
                "epoch": epochs,
                "lr": 0.01,
                "train loss": 1 / epochs,
                "val loss": 1 / epochs,
                "val_dsc": (cases["dsc"].mean() * (1 - np.exp(-epochs / 4))).clip(0, 1)
                - 0.02 * rng.random(24),
            }
        )
        history["val_dsc"] = history["val_dsc"].clip(0, 1)
        place = {
            "plan": plan,
            "group": "g",
            "position": position,
            "label": label,
            "ladder": ladder,
            "scale": "",
        }
        run = {
            **info,
            "config": {**info["config"], "epochs": 24, "seed": seed, **changes},
            "plans": [plan],
            "tables": {plan: "train"},
            "places": [place],
            "seconds": 95.5,
        }
        folder = f"result/runs/{run_id}"
        files[f"{folder}/run.json"] = json.dumps(run).encode()
        files[f"{folder}/cases.csv"] = to_csv(cases).encode()
        files[f"{folder}/history.csv"] = to_csv(history).encode()
        claim = pd.DataFrame({name: [best[name].iloc[0]] * len(history) for name in best})
        claim = claim.assign(
            run_id=run_id,
            split="auto",
            **{name: history[name] for name in ("epoch", "lr", "val_dsc")},
        )
        rows.append(claim)
    files[f"result/{TRAIN_CSV}"] = to_csv(pd.concat(rows)).encode()
    return files


def _rows(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content))
