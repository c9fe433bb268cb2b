"""Pack a submission: one zip with what is graded, checked as the grader will check it."""

from __future__ import annotations

import json
import math
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lib.config import MODELS, changes
from lib.data.kaggle import DAMAGED_ZIP
from lib.dataset import BrainData
from lib.grade.archive import unpack, write_zip
from lib.grade.checks import check_history, check_tables
from lib.grade.submission import MANIFEST, READ, STUDENT, read_submission
from lib.logger import (
    BEST_CSV,
    TRAIN_CSV,
    Run,
    all_runs,
    find_run,
    finished_runs,
    outside_folds,
    write_result_csvs,
)
from lib.predict import load_weights, predict
from lib.utils import PROJECT, KitError, sha256, write_atomic

MAX_ZIP = 200 * 2**20
PLACEHOLDER = "your-id"  # in train_best.ipynb
_TABLES = ("run.json", "history.csv", "cases.csv")


class Receipt(NamedTuple):
    """Hold what was submitted.

    The first digits of its hash show whether the instructor has the same file.
    """

    student: str
    run_id: str
    recipe: str
    claimed: float
    sha256: str
    file: Path

    def __str__(self) -> str:
        return (
            f"handed in by   {self.student}\n"
            f"run            {self.run_id}\n"
            f"its recipe     {self.recipe}\n"
            f"claimed DSC    {self.claimed:.4f}\n"
            f"file           {self.file.name}, {self.file.stat().st_size / 1e6:.1f} MB\n"
            f"SHA-256        {self.sha256[:12]}"
        )


def pack(
    student: str,
    out: str | Path = "result",
    run_id: str | None = None,
    quick: bool = False,
    data: BrainData | str | Path | None = None,
) -> Receipt:
    """Write ``<out>/<student>.zip`` and return its receipt.

    The zip contains CSVs, runs, notebooks, ``lib`` and report; weights of the chosen run only, and
    no data. The report is made anew, of all runs, without images of patients; ``report.html`` in
    ``out`` stays as it is. Notebooks are taken with their pictures: save them first. The same files
    give the same zip.

    Args:
        student: your id; letters, digits and . @ -
        out: folder of results.
        run_id: the run to be graded. By default it is the run with the best DSC in the best CSV,
            else in the other; folds of a cross-validation are left out.
        quick: also accept a run of the profile ``quick`` or ``smoke``, or on phantoms.
        data: for a custom network, from ``load_data`` or a folder for it. The grader runs no code
            of yours, so the masks of the validation patients are submitted too.

    Raises:
        KitError: no such run; weights or tables that cannot be read; a run that is too small; or a
            zip over 200 MiB.
    """
    if not STUDENT.fullmatch(student):
        raise KitError(f"student {student!r}: give your id, of letters, digits and . @ - only")
    if student == PLACEHOLDER and not quick:
        raise KitError(
            f"student {student!r}: is a placeholder of the notebook; put your own id in its place"
        )
    out = Path(out)
    if not out.is_dir():
        raise KitError(f"{out}: no such folder; name the folder of results")
    runs = all_runs(out)
    finished = finished_runs(out, runs)
    write_result_csvs(out, finished)
    run = _choose(out, finished, run_id)
    if not quick and (reason := _too_small(run)):
        raise KitError(
            f"{run.id}: {reason}; submit a run of the profile full, or allow this one with "
            f"quick=True (--quick)"
        )
    files: dict[str, Path | bytes] = {**dict(_files(out, finished, run)), **_report(out, runs)}
    files[MANIFEST] = json.dumps(
        {"schema": 1, "student": student, "run": run.id}, indent=1
    ).encode()
    if run.config.model in MODELS:
        load_weights(run.weights)
    else:
        files |= _masks(run, data)
    target = out / f"{student}.zip"
    if target.exists() and not _is_packed(target):
        raise KitError(f"{target}: was not written by pack; move it away")
    _write_checked(target, files)
    recipe = changes(run.config) or "as published"
    return Receipt(
        student, run.id, recipe, float(run.history["val_dsc"].max()), sha256(target), target
    )


def _choose(out: Path, finished: list[Run], run_id: str | None) -> Run:
    """Return the run to be graded, see ``pack``."""
    best = [run for run in outside_folds(finished) if "best" in run.tables]
    if best and run_id is None:
        return max(best, key=lambda run: run.dsc.mean)
    return find_run(out, run_id=run_id, runs=finished)


def _too_small(run: Run) -> str | None:
    """Return why a run is of no use for grading, or None."""
    if run.info["profile"] != "full":
        return f"as small as the profile {run.info['profile']}"
    return "scored on phantoms" if run.info["data"].get("phantom") else None


def _files(out: Path, finished: list[Run], chosen: Run) -> Iterator[tuple[str, Path]]:
    """Yield (name in the zip, file)."""
    for name in (BEST_CSV, TRAIN_CSV):
        if (out / name).is_file():
            yield f"result/{name}", out / name
    for run in finished:
        for name in _TABLES:
            yield f"result/runs/{run.id}/{name}", run.folder / name
    yield f"result/runs/{chosen.id}/best.pt", chosen.weights
    for file in (*PROJECT.glob("*.ipynb"), *PROJECT.glob("*.py"), *(PROJECT / "lib").rglob("*.py")):
        yield file.relative_to(PROJECT).as_posix(), file
    for file in (out / "notebooks").glob("*.ipynb"):
        yield f"result/notebooks/{file.name}", file


def _report(out: Path, runs: list[Run]) -> dict[str, bytes]:
    """Return the report of all runs without images of patients, and the student's words."""
    # imported here, because the process that grades need not load what draws
    from lib.report.write import ANALYSIS, write_report

    with tempfile.TemporaryDirectory() as folder:
        paths = write_report(out, images=False, target=folder, runs=runs)
        words = paths[ANALYSIS].read_bytes()
        made = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(Path(folder).rglob("*"))
            if file.is_file()
        }
    return {f"result/{name}": content for name, content in (made | {ANALYSIS: words}).items()}


def _masks(run: Run, data: BrainData | str | Path | None) -> dict[str, bytes]:
    """Return the predicted masks of the validation patients."""
    if data is None:
        raise KitError(
            f"{run.id}: {run.config.model} is a custom network; name the data, so that its masks "
            f"can be submitted"
        )
    with tempfile.TemporaryDirectory() as folder:
        predict(
            load_weights(run.weights, run.config.model),
            data,
            folder,
            run.info["split"]["validation"],
        )
        return {
            f"masks/{file.relative_to(folder).as_posix()}": file.read_bytes()
            for file in Path(folder).rglob("*.tif")
        }


def _is_packed(file: Path) -> bool:
    """Return whether a file is a submission."""
    try:
        with zipfile.ZipFile(file) as bundle:
            return MANIFEST in bundle.namelist()
    except DAMAGED_ZIP:  # one that was never finished, or a download of it
        return False


def _write_checked(target: Path, files: dict[str, Path | bytes]) -> None:
    """Write the zip, once it was read and checked as the grader will.

    An older zip stays as it is if this one is not good.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, target.name)
        write_zip(made, files)
        size = made.stat().st_size
        if size > MAX_ZIP:
            sizes = {
                name: file.stat().st_size for name, file in files.items() if isinstance(file, Path)
            }
            raise KitError(
                f"{target.name}: {size >> 20} MiB, at most {MAX_ZIP >> 20} are accepted; the "
                f"largest file is {max(sizes, key=sizes.__getitem__)}"
            )
        unpack(made, Path(folder, "unpacked"), READ)
        submission = read_submission(Path(folder, "unpacked"))
        for finding in (*check_tables(submission, math.inf), *check_history(submission)):
            if finding.level == "fault":
                raise KitError(
                    f"{submission.run_id}: {finding.text} A grader would hold it; train it anew"
                )
        write_atomic(target, made.read_bytes())
