"""Read a submission: the files that a student packs, as a grader finds them.

They are read as data: nothing of them is imported or run.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.grade.archive import WORDS, composed
from lib.grade.student_work import is_finite
from lib.grade.trouble import in_one_line
from lib.logger import BEST_CSV, FOLD, TRAIN_CSV, updated
from lib.metrics import COLUMNS
from lib.notebook.student import TEAM
from lib.utils import KitError

READ = (".json", ".csv", ".pt", ".py", ".tif", ".tiff", *WORDS)  # unpacked; others are not
MANIFEST = "submission.json"
MAX_RUNS = 500
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
_AS_WRITTEN = "submit the file as the kit wrote it"
_SIGNED = ("train loss", "val loss")


@dataclass(frozen=True)
class Submission:
    """Hold what a submission claims, checked for form only.

    Attributes:
        root: folder that contains ``result``, ``lib`` and the notebooks.
        student: as its manifest says, see ``members``; "" without one.
        tables: the result CSVs.
        claim: rows of the result CSV of the run to be graded.
        info: run.json; the fields of ``_RUN_JSON`` are there and of their types.
        history, cases: as ``Run.history`` and ``Run.cases``, finite and in their ranges.
    """

    root: Path
    student: str
    tables: tuple[pd.DataFrame, ...]
    run_id: str
    claim: pd.DataFrame
    info: dict[str, Any]
    config: Config
    history: pd.DataFrame
    cases: pd.DataFrame

    @property
    def folder(self) -> Path:
        """Return the folder of the run that is to be graded."""
        return _run_folder(self.root, self.run_id)

    @property
    def masks(self) -> Path:
        """Return the folder of predicted masks, in the Kaggle layout; for custom networks."""
        return self.root / "masks"

    @property
    def claims(self) -> list[pd.DataFrame]:
        """Return the rows of the run in each result CSV that has it."""
        rows = [table[table["run_id"] == self.run_id] for table in self.tables]
        return [claim for claim in rows if len(claim)]

    @property
    def claimed(self) -> float:
        """Return the DSC that the result CSV claims for the run: that of its best epoch."""
        return float(self.claim["val_dsc"].max())


def read_submission(folder: str | Path) -> Submission:
    """Read an unpacked submission.

    It may be in folders of its own, as zips of a whole folder are. The run to be graded is the one
    that ``submission.json`` names. By default it is the best of the best CSV, else of the other,
    and folds of a cross-validation are left out.

    Raises:
        KitError: a file is missing, unreadable, or not what the kit writes.
    """
    root = root_of(Path(folder))
    tables = read_tables(root)
    manifest = _read_json(root / MANIFEST) if (root / MANIFEST).is_file() else {}
    student, run_id = manifest.get("student", ""), manifest.get("run")
    student = composed(student) if isinstance(student, str) else None
    if student is None or (student and not TEAM.fullmatch(student)):
        raise KitError(
            f"{MANIFEST}: the student's id must be letters, digits and . @ - only, at most five "
            f"ids of a team joined by +"
        )
    if not isinstance(run_id, (str, type(None))):
        raise KitError(f"{MANIFEST}: run is no id of a run; {_AS_WRITTEN}")
    return read_run(root, student, tables, run_id)


def members(student: str) -> list[str]:
    """Return the ids of those who submitted together: ada+bela are two."""
    return list(dict.fromkeys(student.split("+")))


def as_listed(student: str, roster: Sequence[str]) -> str:
    """Return an id, or those of a team, as the roster spells it: Ada on the roster is ada, too.

    An id that no other spelling on the roster is, or that several are, stays as it is.
    """
    listed = []
    for member in members(student):
        found = [one for one in roster if folded(one) == folded(member)]
        listed.append(found[0] if len(found) == 1 and member not in roster else member)
    return "+".join(dict.fromkeys(listed))


def folded(student: str) -> str:
    """Return what all spellings of an id share: capital letters and forms of Unicode differ."""
    return composed(composed(student).casefold())


def read_tables(root: Path) -> tuple[pd.DataFrame, ...]:
    """Return the result CSVs that there are. Raises KitError if one is not what the kit writes."""
    return tuple(
        _read_table(root / "result" / name, _RESULTS)
        for name in (BEST_CSV, TRAIN_CSV)
        if (root / "result" / name).is_file()
    )


def read_others(submission: Submission) -> Iterator[tuple[str, Submission | KitError]]:
    """Yield id and claim of each other run in the result CSVs, or what is wrong with its files.

    The weights of these runs are not submitted.
    """
    for run_id in listed(submission.tables)[:MAX_RUNS]:
        if run_id != submission.run_id:
            try:
                yield (
                    run_id,
                    read_run(submission.root, submission.student, submission.tables, run_id),
                )
            except KitError as error:
                yield run_id, error


def listed(tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return the ids of the runs in the result CSVs."""
    return list(dict.fromkeys(name for table in tables for name in table["run_id"]))


def unlisted(root: Path, tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return the names of folders of runs that no result CSV has, at most ``MAX_RUNS``.

    A run that has not finished, or that scored nobody, has no rows.
    """
    known = {composed(run_id) for run_id in listed(tables)}
    files = sorted((root / "result" / "runs").glob("*/run.json"))
    others = [file for file in files if file.parent.name not in known]
    return [file.parent.name for file in others[:MAX_RUNS] if _has_scores(file)]


def _has_scores(file: Path) -> bool:
    """Return whether a run.json says, or may say, that its run has scored patients."""
    try:
        info = _read_json(file)
    except KitError:
        return True
    split = info.get("split")
    nobody = isinstance(split, dict) and split.get("validation") == []
    return info.get("status") == "finished" and not nobody


def read_run(
    root: Path, student: str, tables: tuple[pd.DataFrame, ...], run_id: str | None
) -> Submission:
    """Return a submission with the claim of one of its runs, see ``read_submission``."""
    claim = _claim_of(tables, run_id)
    run_id = str(claim["run_id"].iloc[0])
    if not re.fullmatch(r"[\w.-]{1,150}", run_id) or run_id.startswith("."):
        raise KitError(f"result CSV: {run_id[:60]!a} is no id of a run; {_AS_WRITTEN}")
    run = _run_folder(root, run_id)
    info = _checked_info(_read_json(run / "run.json"))
    try:
        config = Config.from_dict(info["config"])
    except (KitError, TypeError) as error:
        raise KitError(
            f"run.json: its config is none of this kit ({in_one_line(error, 150)}); {_AS_WRITTEN}"
        ) from None
    return Submission(
        root,
        student,
        tables,
        run_id,
        claim,
        info,
        config,
        _read_table(run / "history.csv", _HISTORY),
        _read_table(run / "cases.csv", _CASES),
    )


def _run_folder(root: Path, run_id: str) -> Path:
    return root / "result" / "runs" / composed(run_id)


def root_of(folder: Path) -> Path:
    """Return the folder that contains ``result`` with a result CSV."""
    found = sorted(
        (path for name in (BEST_CSV, TRAIN_CSV) for path in folder.rglob(name)),
        key=lambda path: (len(path.parts), path),
    )
    inside = [path.parent.parent for path in found if path.parent.name == "result"]
    if not inside:
        where = (
            f" ({found[0].relative_to(folder).as_posix()} is in no such folder)" if found else ""
        )
        raise KitError(
            f"result/{BEST_CSV} and result/{TRAIN_CSV} are missing{where}; submit what pack makes"
        )
    return inside[0]


def _claim_of(tables: tuple[pd.DataFrame, ...], run_id: str | None) -> pd.DataFrame:
    """Return the rows of the run to be graded."""
    if run_id is None:
        without_folds = [table[~table["split"].str.startswith(FOLD)] for table in tables]
        rows = ([table for table in without_folds if len(table)] or [*tables])[0]
        run_id = rows["run_id"].iloc[int(rows["val_dsc"].argmax())]
    for rows in tables:
        chosen = rows[rows["run_id"] == run_id]
        if len(chosen):
            claim: pd.DataFrame = chosen.reset_index(drop=True)
            return claim
    raise KitError(
        f"{MANIFEST}: the run {str(run_id)[:60]!a} is in no result CSV; submit what pack makes"
    )


# --- tables and JSON ------------------------------------------------------------------------------


def read_text(file: Path, most: int = _MAX_TEXT) -> str:
    """Return a text file. Raises KitError if it is missing, over ``most`` bytes or no UTF-8."""
    if not file.is_file():
        raise KitError(f"{file.name} is missing; submit what pack makes")
    if file.stat().st_size > most:
        raise KitError(f"{file.name}: larger than {most >> 20} MiB; {_AS_WRITTEN}")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise KitError(f"{file.name}: is no UTF-8 text; {_AS_WRITTEN}") from None


def _no_number(text: str) -> float:
    """Refuse NaN and infinity in JSON."""
    raise ValueError(f"{text} is no number")


def _read_json(file: Path) -> dict[str, Any]:
    """Return the fields of a JSON file. Raises KitError if it has none."""
    try:
        value = json.loads(read_text(file), parse_constant=_no_number)
    except KitError:
        raise
    except (ValueError, RecursionError) as error:
        raise KitError(
            f"{file.name}: is no JSON ({in_one_line(error, 80)}); {_AS_WRITTEN}"
        ) from None
    if not isinstance(value, dict):
        raise KitError(f"{file.name}: has no fields; {_AS_WRITTEN}")
    return value


def _checked_info(info: dict[str, Any]) -> dict[str, Any]:
    """Return run.json, whose fields that a grader uses are there and of their types."""
    for name, kind in _RUN_JSON.items():
        value: Any = info
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not _is_of_kind(value, kind):
            problem = "missing" if value is None else "of another kind"
            raise KitError(
                f"run.json: {name} is {problem}, expected {kind.__name__}; {_AS_WRITTEN}"
            )
    if info["status"] != "finished":
        raise KitError("run.json: the run has not finished; train it to its end")
    for name in ("train", "validation"):
        patients = info["split"][name]
        if len(patients) > _MAX_LIST or not all(isinstance(patient, str) for patient in patients):
            raise KitError(f"run.json: split.{name} is no list of patients; {_AS_WRITTEN}")
    if not 1 <= info["accumulate"] <= 10_000:
        raise KitError(f"run.json: accumulate is no number of chunks; {_AS_WRITTEN}")
    return updated(info)


def _is_of_kind(value: Any, kind: type) -> bool:
    """Return whether a JSON value is of a type; any finite number is a float."""
    return is_finite(value) if kind is float else type(value) is kind


def _read_table(file: Path, columns: dict[str, tuple[type, float]]) -> pd.DataFrame:
    """Return the named columns of a CSV; others are left out.

    Raises:
        KitError: a column is missing, or a cell is of another kind or out of its range.
    """
    text = read_text(file)
    try:
        table = pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, nrows=_MAX_ROWS + 1
        )
    except (ValueError, RecursionError, pd.errors.ParserError) as error:
        raise KitError(
            f"{file.name}: is no table ({in_one_line(error, 80)}); {_AS_WRITTEN}"
        ) from None
    missing = [name for name in columns if name not in table]
    if missing or not 0 < len(table) <= _MAX_ROWS:
        problem = f"lacks the column {missing[0]}" if missing else f"has {len(table)} rows"
        raise KitError(f"{file.name}: {problem}; {_AS_WRITTEN}")
    return pd.DataFrame(
        {name: _column(file.name, table[name], *spec) for name, spec in columns.items()}
    )


def _column(file: str, cells: pd.Series, kind: type, most: float) -> pd.Series:
    """Return a column as ``kind``. Raises KitError for a cell above ``most``, or none."""
    if kind is str:
        return cells.str.slice(0, 200)
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    least = -_INF if cells.name in _SIGNED else 0
    wrong = ~(np.isfinite(numbers) & (numbers >= least) & (numbers <= most))
    if kind is int:
        wrong |= numbers != np.floor(numbers)
    if wrong.any():
        row = int(np.argmax(np.asarray(wrong)))
        raise KitError(
            f"{file}: {cells.name} of row {row + 1} is {cells.iloc[row][:30]!a}, which no run "
            f"writes; {_AS_WRITTEN}"
        )
    return numbers.astype(np.int64) if kind is int else numbers
