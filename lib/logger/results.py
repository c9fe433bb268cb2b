"""Make the result CSVs from the run folders, and find the run that one wants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from lib.dataset import BrainData
from lib.logger.run import Run, all_runs
from lib.logger.sound import require_sound
from lib.logger.tables import BEST_CSV, HISTORY_COLUMNS, TABLES, TRAIN_CSV, to_csv
from lib.utils import KitError, changing, say, write_atomic

FOLD = "fold-"  # names of splits that begin so are part of a cross-validation


def finished_runs(out: str | Path, runs: Sequence[Run] | None = None) -> list[Run]:
    """Return the finished runs below ``out`` that scored patients, in the order of the CSVs.

    They are ordered by plan, config and run. A run that cannot be read, because it is damaged or of
    another version of the kit, is named and left out.

    Args:
        runs: what ``all_runs(out)`` gave, if it was called before.
    """
    runs = all_runs(out) if runs is None else runs
    done = [run for run in runs if _is_finished(run) and len(run.cases)]  # split="all" has none
    return sorted(
        done,
        key=lambda run: (run.info["plans"], json.dumps(run.info["config"], sort_keys=True), run.id),
    )


def _is_finished(run: Run) -> bool:
    """Return whether the run is finished, and sound; say so if it cannot be used."""
    try:
        if run.info["status"] != "finished":
            return False
        require_sound(run)
        _require_usable(run)
    except KitError as error:
        say(f"left out of the results: {error}")
        return False
    except Exception as error:  # damaged files raise almost anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        say(
            f"{run.id}: left out of the results, it cannot be read ({reason}); restore it, or move "
            f"it away"
        )
        return False
    return True


def _require_usable(run: Run) -> None:
    """Read all that results and reports need of a run: what is odd in it raises an error here."""
    for table in run.tables:
        TABLES[table]
    run.result_rows  # noqa: B018 -- kept for the CSVs
    scores = [run.cases["dsc"], *(run.history[name] for name in ("train loss", "val_dsc"))]
    run.history[list(HISTORY_COLUMNS)]
    if len(run.cases) and not all(np.isfinite(column).all() for column in scores):
        raise ValueError("a score is infinite or not a number")


def write_result_csvs(out: str | Path, runs: Sequence[Run] | None = None) -> dict[str, Path]:
    """Rebuild both result CSVs from the run folders.

    Args:
        runs: what ``finished_runs(out)`` gave, if it was called before.

    Returns:
        File name -> path, of the CSVs that have rows.

    Raises:
        KitError: a CSV cannot be replaced, e.g. because a spreadsheet has it open.
    """
    out = Path(out)
    tables: dict[str, list[pd.DataFrame]] = {TRAIN_CSV: [], BEST_CSV: []}
    with changing(out):
        lock = FileLock(out / ".csv.lock").acquire()
    with lock:
        for run in finished_runs(out) if runs is None else runs:
            for table in run.tables:
                tables[TABLES[table]].append(run.result_rows)
        for name, parts in tables.items():
            if parts:
                write_atomic(out / name, to_csv(pd.concat(parts)))
    return {name: out / name for name, parts in tables.items() if parts}


def outside_folds(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without those that scored a fold of a cross-validation.

    Some folds are easier than others. A fold stays if another run is scored on the same patients.
    If there are only folds, all of them are returned.
    """
    wanted = [
        run.info["split"]["validation"]
        for run in runs
        if not run.info["split"]["name"].startswith(FOLD)
    ]
    return [run for run in runs if run.info["split"]["validation"] in wanted] or list(runs)


def find_run(
    out: str | Path,
    data: BrainData | None = None,
    run_id: str | None = None,
    runs: Sequence[Run] | None = None,
) -> Run:
    """Return the finished run with the best mean validation DSC.

    Folds of a cross-validation are left out if there are other runs.

    Args:
        data: only runs on these patients count.
        run_id: only this run counts.
        runs: what ``finished_runs(out)`` gave, if it was called before.

    Raises:
        KitError: there is none.
    """
    runs = finished_runs(out) if runs is None else runs
    runs = [run for run in runs if run_id is None or run.id == run_id]
    if data is not None:
        runs = [run for run in runs if run.info["data"]["sha256"] == data.fingerprint]
    if not runs:
        wanted = (f" {run_id}" if run_id else "") + (f" on {data.name}" if data else "")
        raise KitError(f"{Path(out) / 'runs'}: no finished run{wanted}; train one first")
    return max(outside_folds(runs), key=lambda run: run.dsc.mean)
