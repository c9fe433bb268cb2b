"""Tell whether a run folder is as its training left it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.logger.identity import SCHEMA, stated_id
from lib.logger.run import Run
from lib.utils import KitError, sha256

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "plans": list,
    "tables": dict,
    "config": dict,
    "data.name": str,
    "data.sha256": str,
    "code.sha256": str,
    "split.name": str,
    "split.train": list,
    "split.validation": list,
    "best.epoch": int,
    "device": str,
    "precision": str,
    "parameters": int,
    "accumulate": int,
    "seconds": (int, float),
}
"""What results and reports read of run.json."""


def file_hash(file: Path) -> str:
    """Return the hex SHA-256 of a file of a run.

    Of a table its lines count: git and editors may change their ends, or put a mark at the start.
    """
    if file.suffix != ".csv":
        return sha256(file)
    text = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    return sha256(text.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n")


def checkpoint_hashes(path: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights and tables of a finished run."""
    return {name: file_hash(path / name) for name in ("best.pt", "history.csv", "cases.csv")}


def require_sound(run: Run, weights: bool = False) -> None:
    """Raise ``KitError`` unless a finished run is as its training left it.

    Args:
        weights: look at best.pt too, where it is there.
    """
    info = run.info
    if info.get("id", run.id) != run.id:
        raise KitError(f"{run.folder}: is the folder of {info['id']}; give it that name")
    for name, expected in info.get("sha256", {}).items():
        file = run.folder / name
        if file.suffix != ".csv" and not (weights and file.exists()):
            continue
        if not file.is_file():
            raise KitError(
                f"{file}: is missing; restore it, or move the run's folder away and train it anew"
            )
        if file_hash(file) != expected:
            raise KitError(
                f"{file}: is not what the training wrote; restore it, or move the run's folder "
                f"away and train it anew"
            )
    _require_true(run)


def _require_true(run: Run) -> None:
    """Raise ``KitError`` unless run.json tells what the run's id and its history tell."""
    info, what = run.info, None
    try:
        _require_fields(info)
    except ValueError as error:
        raise KitError(
            f"{run.folder / 'run.json'}: {error}; restore it, or move the run's folder away and "
            f"train it anew"
        ) from None
    if info.get("schema") == SCHEMA and stated_id(info) != run.id:
        what = "config, data, split or code"
    scores = run.history["val_dsc"]
    if run.info["split"]["validation"]:
        told = scores.get(info["best"]["epoch"] - 1, -1)  # rounded, so that two may seem equal
        if max(abs(told - scores.max()), abs(told - info["best"]["val_dsc"])) > 1e-6:
            what = "best epoch"
    elif info["best"]["epoch"] != len(scores):
        what = "best epoch"
    if what:
        raise KitError(
            f"{run.folder / 'run.json'}: its {what} was edited; restore it, or move the run's "
            f"folder away and train it anew"
        )


def _require_fields(info: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless the fields of run.json are there and of their types."""
    for name, kind in _FIELDS.items():
        value: Any = info
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        texts = not isinstance(value, list) or all(isinstance(text, str) for text in value)
        if not isinstance(value, kind) or isinstance(value, bool) or not texts:
            raise ValueError(f"{name} is {'missing' if value is None else 'of another kind'}")
