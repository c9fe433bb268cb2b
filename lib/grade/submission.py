"""A hand-in: what a student packs, and what a grader finds in it.

Read as data: nothing of it is imported or run.
"""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.logger import BEST_CSV, FOLD, TRAIN_CSV
from lib.metrics import COLUMNS
from lib.utils import KitError

READ = (
    ".json",
    ".csv",
    ".pt",
    ".py",
    ".tif",
    ".tiff",
)  # what a grader looks into; all else stays packed
MANIFEST = "submission.json"
STUDENT = re.compile(r"\w[\w.@-]{0,63}")
_MAX_TEXT, _MAX_ROWS, _MAX_LIST = 20 * 2**20, 100_000, 10_000

_RUN_JSON = {
    "status": str,
    "config": dict,
    "data.sha256": str,
    "code.sha256": str,
    "split.train": list,
    "split.validation": list,
    "best.epoch": int,
    "best.val_dsc": float,
    "sha256": dict,
    "device": str,
    "precision": str,
    "accumulate": int,
}
# column -> kind and largest value; none may be below 0
_INF = math.inf
_CASES = {
    "patient": (str, 0),
    "slices": (int, 10_000),
    **{name: (column.kind, column.highest) for name, column in COLUMNS.items()},
}
_HISTORY = {
    "epoch": (int, _MAX_ROWS),
    "lr": (float, _INF),
    "train loss": (float, _INF),
    "val loss": (float, _INF),
    "val_dsc": (float, 1),
}
_RESULTS = {
    "run_id": (str, 0),
    "split": (str, 0),
    "epoch": (int, _MAX_ROWS),
    "lr": (float, _INF),
    "val_dsc": (float, 1),
}
_SIGNED = ("train loss", "val loss")


@dataclass(frozen=True)
class Submission:
    """What a hand-in claims, checked for form only.

    Attributes:
        root: folder that holds ``result``, ``lib`` and the notebooks.
        student: as its manifest says; "" without one.
        claim: rows of the result CSV of the run to be graded.
        info: run.json; the fields of ``_RUN_JSON`` are there and of their types.
        history, cases: as ``Run.history`` and ``Run.cases``, finite and in their ranges.
    """

    root: Path
    student: str
    run_id: str
    claim: pd.DataFrame
    info: dict[str, Any]
    config: Config
    history: pd.DataFrame
    cases: pd.DataFrame

    @property
    def folder(self) -> Path:
        """Of the run that is to be graded."""
        return self.root / "result" / "runs" / self.run_id

    @property
    def masks(self) -> Path:
        """Of predictions, in the Kaggle layout; there for networks of one's own."""
        return self.root / "masks"

    @property
    def claimed(self) -> float:
        """The DSC that the result CSV claims for the run: that of its best epoch."""
        return float(self.claim["val_dsc"].max())


def read_submission(folder: str | Path) -> Submission:
    """Read an unpacked hand-in. It may lie in folders of its own, as zips of a whole folder do.

    The run to be graded is the one that ``submission.json`` names, else the best of the best CSV,
    else of the other, folds of a cross-validation left out.

    Raises:
        KitError: a file is missing, unreadable, or not what the kit writes.
    """
    root = _root_of(Path(folder))
    tables = [
        _read_table(root / "result" / name, _RESULTS)
        for name in (BEST_CSV, TRAIN_CSV)
        if (root / "result" / name).is_file()
    ]
    manifest = _read_json(root / MANIFEST) if (root / MANIFEST).is_file() else {}
    student, run_id = manifest.get("student", ""), manifest.get("run")
    if not isinstance(student, str) or (student and not STUDENT.fullmatch(student)):
        raise KitError(f"{MANIFEST}: the student's id must be letters, digits and . @ - only")
    if not isinstance(run_id, (str, type(None))):
        raise KitError(f"{MANIFEST}: run is no id of a run")
    claim = _claim_of(tables, run_id)
    run_id = str(claim["run_id"].iloc[0])
    if not re.fullmatch(r"[\w.-]{1,150}", run_id) or run_id.startswith("."):
        raise KitError(f"result CSV: {run_id[:60]!a} is no id of a run")
    run = root / "result" / "runs" / run_id
    info = _checked_info(_read_json(run / "run.json"))
    try:
        config = Config.from_dict(info["config"])
    except (KitError, TypeError) as error:
        raise KitError(
            f"run.json: its config is not one of this version of the kit ({str(error)[:150]})"
        ) from None
    return Submission(
        root,
        student,
        run_id,
        claim,
        info,
        config,
        _read_table(run / "history.csv", _HISTORY),
        _read_table(run / "cases.csv", _CASES),
    )


def _root_of(folder: Path) -> Path:
    found = sorted(
        (path for name in (BEST_CSV, TRAIN_CSV) for path in folder.rglob(name)),
        key=lambda path: (len(path.parts), path),
    )
    inside = [path.parent.parent for path in found if path.parent.name == "result"]
    if not inside:
        raise KitError(
            f"result/{BEST_CSV} and result/{TRAIN_CSV} are missing; hand in what pack makes"
        )
    return inside[0]


def _claim_of(tables: list[pd.DataFrame], run_id: Any) -> pd.DataFrame:
    """The rows of the run to be graded."""
    if run_id is None:
        whole = [
            rows for table in tables if len(rows := table[~table["split"].str.startswith(FOLD)])
        ]
        rows = (whole or tables)[0]
        run_id = rows["run_id"].iloc[int(rows["val_dsc"].argmax())]
    for rows in tables:
        chosen = rows[rows["run_id"] == run_id]
        if len(chosen):
            return chosen.reset_index(drop=True)
    raise KitError(f"{MANIFEST}: the run {str(run_id)[:60]!a} is in no result CSV")


# --- tables and JSON ------------------------------------------------------------------------------


def _read_text(file: Path) -> str:
    if not file.is_file():
        raise KitError(f"{file.name} is missing; hand in what pack makes")
    if file.stat().st_size > _MAX_TEXT:
        raise KitError(f"{file.name}: larger than {_MAX_TEXT >> 20} MiB")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise KitError(
            f"{file.name}: is no UTF-8 text; hand in the file as the kit wrote it"
        ) from None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(file), parse_constant=_no_number)
    except KitError:
        raise
    except (ValueError, RecursionError) as error:
        raise KitError(f"{file.name}: is no JSON ({' '.join(str(error).split())[:80]})") from None
    if not isinstance(value, dict):
        raise KitError(f"{file.name}: holds no fields")
    return value


def _checked_info(info: dict[str, Any]) -> dict[str, Any]:
    """run.json with the fields that a grader uses, of their types."""
    for name, kind in _RUN_JSON.items():
        value: Any = info
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) if kind is float else type(value) is kind):
            raise KitError(
                f"run.json: {name} is {'missing' if value is None else 'of another kind'}, expected "
                f"{kind.__name__}; hand in the file as the kit wrote it"
            )
    if info["status"] != "finished":
        raise KitError("run.json: the run has not finished; train it to its end")
    for name in ("train", "validation"):
        patients = info["split"][name]
        if len(patients) > _MAX_LIST or not all(isinstance(patient, str) for patient in patients):
            raise KitError(f"run.json: split.{name} is no list of patients")
    if not 1 <= info["accumulate"] <= 10_000:
        raise KitError("run.json: accumulate is no number of parts")
    return info


def _read_table(file: Path, columns: dict[str, tuple[type, float]]) -> pd.DataFrame:
    """The named columns of a CSV, each of its kind and in its range; others are left out."""
    text = _read_text(file)
    try:
        table = pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, nrows=_MAX_ROWS + 1
        )
    except (ValueError, RecursionError, pd.errors.ParserError) as error:
        raise KitError(f"{file.name}: is no table ({' '.join(str(error).split())[:80]})") from None
    missing = [name for name in columns if name not in table]
    if missing or not 0 < len(table) <= _MAX_ROWS:
        raise KitError(
            f"{file.name}: {'lacks the column ' + missing[0] if missing else f'has {len(table)} rows'}; "
            f"hand in the file as the kit wrote it"
        )
    return pd.DataFrame(
        {name: _column(file.name, table[name], *spec) for name, spec in columns.items()}
    )


def _column(file: str, cells: pd.Series, kind: type, most: float) -> pd.Series:
    if kind is str:
        return cells.str.slice(0, 200)
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    least = -_INF if cells.name in _SIGNED else 0
    wrong = ~(np.isfinite(numbers) & (numbers >= least) & (numbers <= most))
    if kind is int:
        wrong |= numbers != np.floor(numbers)
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        raise KitError(
            f"{file}: {cells.name} of row {row + 1} is {cells.iloc[row][:30]!a}, which no run writes"
        )
    return numbers.astype(np.int64) if kind is int else numbers
