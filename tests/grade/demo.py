"""Make, grade and print ten fake submissions: honest students, cheats and accidents, of tiny runs.

``python -m tests.grade.demo FOLDER`` (``make grade-demo``). ``docs/instructors.md`` explains it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from lib.config import Config
from lib.dataset import load_data
from lib.grade import grade, load_rubric, pack
from lib.grade.archive import write_zip
from lib.grade.run import summary
from lib.logger import BEST_CSV, to_csv
from lib.phantom import write_phantom
from lib.train import fit
from lib.utils import progress

RECIPE = Config(
    image_size=32,
    init_features=4,
    batch_size=8,
    epochs=5,
    lr=1e-2,
    sampling="fresh",
    device="cpu",
    precision="fp32",
)
RUBRIC = """
[dsc]
scale = [[0.30, 0], [0.70, 40]]
[columns]
comparison = 30
failures = 20
report = 10
"""
Files = dict[str, bytes]


class Trace:
    """What a pickle does to whoever opens it as one: leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.system, (f"\"{sys.executable}\" -c \"open(r'{self.file}', 'w')\"",)


def build(folder: Path, trace: Path) -> Path:
    """Write the submissions to ``<folder>/submissions`` and return it.

    The same kind of device gives the same bytes.

    Args:
        trace: the file that the code in the pickle leaves behind if it runs.
    """
    data_folder = write_phantom(folder / "data", patients=9, size=64)
    data = load_data(data_folder, RECIPE.image_size)
    out = {
        name: folder / "results" / name
        for name in ("ada", "bela", "carl", "dora", "emil", "finn", "jon")
    }
    for seed, name in enumerate(progress(out, desc="training", unit="student")):
        config = replace(RECIPE, seed=seed, split="holdout:1" if name == "finn" else "auto")
        fit(config, data, out[name], plan="best", table="best")
        pack(name, out[name], quick=True)
    target = folder / "submissions"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    packed = {name: read_zip(out[name] / f"{name}.zip") for name in out}
    for student, (source, cheat) in CHEATS.items():
        files = cheat(rename(packed[source], student), packed, trace.resolve())
        write_zip(target / f"{student}.zip", files)
    corrupt = (target / "ada.zip").read_bytes()
    (target / "gus.zip").write_bytes(corrupt[: len(corrupt) // 2])
    with zipfile.ZipFile(target / "hana.zip", "w") as bundle:
        bundle.writestr("result/uexec_result_best.csv", "run_id\n")
        bundle.writestr("../../escaped.csv", "I was here")
    (folder / "roster.csv").write_text(
        "student\n" + "\n".join([*CHEATS, "gus", "hana", "kim"]) + "\n"
    )
    (folder / "rubric.toml").write_text(RUBRIC)
    return target


def read_zip(file: Path) -> Files:
    """Name -> content."""
    with zipfile.ZipFile(file) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def rename(files: Files, student: str) -> Files:
    """The same submission under another id."""
    manifest = json.loads(files["submission.json"])
    return {**files, "submission.json": json.dumps({**manifest, "student": student}).encode()}


def run_of(files: Files) -> str:
    """Folder of the run to be graded."""
    return f"result/runs/{json.loads(files['submission.json'])['run']}"


def edit_table(content: bytes, change: Callable[[pd.DataFrame], pd.DataFrame]) -> bytes:
    """A CSV, changed."""
    return to_csv(change(pd.read_csv(io.BytesIO(content)))).encode()


def edit_json(content: bytes, **changes: object) -> bytes:
    """A JSON object with other values."""
    return json.dumps({**json.loads(content), **changes}, indent=1).encode()


def checkpoint(content: dict) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def sign(files: Files) -> Files:
    """run.json with the hashes of the files as they are now."""
    run = run_of(files)
    hashes = {
        name: hashlib.sha256(files[f"{run}/{name}"]).hexdigest()
        for name in ("best.pt", "history.csv", "cases.csv")
    }
    return {**files, f"{run}/run.json": edit_json(files[f"{run}/run.json"], sha256=hashes)}


# --- the cheats: files as packed, all packed submissions, file of the trace -> files --------------


def honest(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """No cheat."""
    return files


def inflated_csv(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """The result CSV says 0.2 more than the run."""
    name = f"result/{BEST_CSV}"
    return {
        **files,
        name: edit_table(files[name], lambda table: table.assign(val_dsc=table["val_dsc"] + 0.2)),
    }


def edited_metric(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """``dsc`` returns its square root, and every table was written with it."""
    run, source = run_of(files), files["lib/metrics.py"].decode()
    info = json.loads(files[f"{run}/run.json"])
    cases = edit_table(
        files[f"{run}/cases.csv"], lambda table: table.assign(dsc=table["dsc"] ** 0.5)
    )
    best = {**info["best"], "val_dsc": float(pd.read_csv(io.BytesIO(cases))["dsc"].mean())}
    scale = best["val_dsc"] / info["best"]["val_dsc"]
    history = edit_table(
        files[f"{run}/history.csv"], lambda table: table.assign(val_dsc=table["val_dsc"] * scale)
    )
    results = edit_table(
        files[f"result/{BEST_CSV}"], lambda table: table.assign(val_dsc=table["val_dsc"] * scale)
    )
    return sign(
        {
            **files,
            f"result/{BEST_CSV}": results,
            f"{run}/cases.csv": cases,
            f"{run}/history.csv": history,
            f"{run}/run.json": edit_json(files[f"{run}/run.json"], best=best),
            "lib/metrics.py": source.replace("true).dsc", "true).dsc ** 0.5").encode(),
        }
    )


def stolen_checkpoint(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """The weights of bela, hashes and all, under a recipe of one's own."""
    run, theirs = run_of(files), packed["bela"]
    weights = torch.load(io.BytesIO(theirs[f"{run_of(theirs)}/best.pt"]), weights_only=True)[
        "weights"
    ]
    mine = torch.load(io.BytesIO(files[f"{run}/best.pt"]), weights_only=True)
    return sign({**files, f"{run}/best.pt": checkpoint({**mine, "weights": weights})})


def missing_files(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """The CSVs alone."""
    return {name: content for name, content in files.items() if "/runs/" not in name}


def pickled_code(files: Files, packed: dict[str, Files], trace: Path) -> Files:
    """A checkpoint that runs a command when it is opened as a pickle."""
    run = run_of(files)
    content = torch.load(io.BytesIO(files[f"{run}/best.pt"]), weights_only=True)
    return sign({**files, f"{run}/best.pt": checkpoint({**content, "trained_on": Trace(trace)})})


CHEATS: dict[str, tuple[str, Callable[[Files, dict[str, Files], Path], Files]]] = {
    # student -> whose run it is made of, and what is done to it
    "ada": ("ada", honest),
    "bela": ("bela", honest),
    "carl": ("carl", inflated_csv),
    "dora": ("dora", edited_metric),
    "emil": ("emil", stolen_checkpoint),
    "finn": ("finn", honest),
    "ines": ("ada", missing_files),
    "jon": ("jon", pickled_code),
}


def main() -> None:
    """Build, grade, print."""
    folder = Path(sys.argv[1])
    trace = folder / "TRACE"
    trace.unlink(missing_ok=True)
    submissions = build(folder, trace)
    rubric = load_rubric(folder / "rubric.toml")
    roster = (folder / "roster.csv").read_text().split()[1:]
    print(summary(grade(submissions, folder / "data", folder / "grades", rubric, roster)))
    print(f"\n{folder / 'grades' / 'gradebook.csv'}")
    print(
        "The code in the pickle ran!" if trace.exists() else "The code in the pickle did not run."
    )


if __name__ == "__main__":
    main()
