"""Show the state of a sweep: a table in a notebook, a line for each run in a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from lib.logger import RunFolder
from lib.utils import in_notebook, say

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

_PERIOD = 0.5  # seconds between two readings of the folders
_STATUS = {None: "waiting", "running": "training"}


class Row(NamedTuple):
    """Hold one run of a sweep."""

    label: str
    seed: int
    epochs: int
    folder: RunFolder


class SweepTable:
    """Show epoch, DSC and time left of each run, read from the run folders.

    It makes no difference which process trains them. In a notebook the table is replaced in place,
    and its last state stays as an ordinary output of the cell.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows, self._looked = rows, float("-inf")
        # of the sweep: while a run trains, the output of print is the run's
        self._stream = sys.stdout
        # status of each run when it was last read; None before the first time
        self._last_status: dict[Row, str] | None = None
        self._handle: DisplayHandle | None = None

    def refresh(self, last: bool = False) -> None:
        """Read the folders again, at most twice a second.

        Args:
            last: read them in any case.
        """
        if not last and time.monotonic() - self._looked < _PERIOD:
            return
        self._looked = time.monotonic()
        if in_notebook():
            self._show(pd.DataFrame([_state(row) for row in self._rows]).set_index("run"))
        else:
            self._print_ended_runs()

    def _show(self, table: pd.DataFrame) -> None:
        """Show the table, or replace it."""
        if self._handle is None:
            from IPython.display import display  # only notebooks have it

            self._handle = display(table, display_id=True)
        else:
            self._handle.update(table)

    def _print_ended_runs(self) -> None:
        """Print each run that has ended since the last time."""
        states = {row: _state(row) for row in self._rows}
        before = self._last_status
        self._last_status = {row: state["status"] for row, state in states.items()}
        if before is None:
            return
        for row, state in states.items():
            if before[row] != state["status"] and state["status"] not in _STATUS.values():
                say(
                    "{run}, seed {seed}: {status}, epoch {epoch}, best DSC {best}".format(**state),
                    self._stream,
                )


def _state(row: Row) -> dict[str, str]:
    """Return what the folder of a run says, as text."""
    try:
        info, scores = row.folder.read(), row.folder.read_scores()
    except (OSError, ValueError) as error:  # the run itself reports it in full
        info, scores = {"status": f"cannot be read ({type(error).__name__})"}, []
    status = info.get("status")
    words = f"failed: {info['error']}" if status == "failed" else _STATUS.get(status, str(status))
    left = (row.epochs - len(scores)) * info.get("seconds", 0) / max(len(scores), 1)
    return {
        "run": row.label,
        "seed": str(row.seed),
        "status": words,
        "epoch": f"{len(scores)} of {row.epochs}",
        "DSC": _best_score(scores[-1:]),
        "best": _best_score(scores),
        "time left": duration(left) if status == "running" and scores else "",
    }


def _best_score(scores: Sequence[float]) -> str:
    """Return the best score as text; with ``split="all"`` there is none."""
    return f"{max(scores):.3f}" if scores and not math.isnan(max(scores)) else "-"


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours in about two digits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
