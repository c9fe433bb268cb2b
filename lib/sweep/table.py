"""Where the runs of a sweep stand: a table that lives in a notebook, a line a run in a terminal."""

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

_PERIOD = 0.5  # seconds between two looks at the folders
_STATUS = {None: "waiting", "running": "training"}


class Row(NamedTuple):
    """One run of a sweep."""

    label: str
    seed: int
    epochs: int
    folder: RunFolder


class SweepTable:
    """Run, epoch, DSC, best so far and time left, read from the run folders, whichever process trains them.

    In a notebook the table is replaced in place, and its last state stays as an ordinary output of
    the cell.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows, self._looked = rows, float("-inf")
        self._stream = (
            sys.stdout
        )  # that of the sweep: while a run trains, what is printed is the run's
        self._said: dict[Row, str] | None = (
            None  # status of each run when it was last looked at; None: never yet
        )
        self._handle: DisplayHandle | None = None

    def refresh(self, last: bool = False) -> None:
        """Look again; more often than twice a second only when it is the ``last`` time."""
        if not last and time.monotonic() - self._looked < _PERIOD:
            return
        self._looked = time.monotonic()
        if in_notebook():
            self._show(pd.DataFrame([_state(row) for row in self._rows]).set_index("run"))
        else:
            self._say_what_ended()

    def _show(self, table: pd.DataFrame) -> None:
        if self._handle is None:
            from IPython.display import display  # only notebooks have it

            self._handle = display(table, display_id=True)
        else:
            self._handle.update(table)

    def _say_what_ended(self) -> None:
        states = {row: _state(row) for row in self._rows}
        before, self._said = self._said, {row: state["status"] for row, state in states.items()}
        for row, state in states.items() if before is not None else ():
            if before[row] != state["status"] and state["status"] not in _STATUS.values():
                say(
                    "{run}, seed {seed}: {status}, epoch {epoch}, best DSC {best}".format(**state),
                    self._stream,
                )


def _state(row: Row) -> dict[str, str]:
    """What its folder says of a run."""
    try:
        info, scores = row.folder.read(), row.folder.read_scores()
    except (OSError, ValueError) as error:  # the run itself will say it too, in more words
        info, scores = {"status": f"cannot be read ({type(error).__name__})"}, []
    status = info.get("status")
    left = (row.epochs - len(scores)) * info.get("seconds", 0) / max(len(scores), 1)
    return {
        "run": row.label,
        "seed": str(row.seed),
        "status": f"failed: {info['error']}" if status == "failed" else _STATUS.get(status, status),
        "epoch": f"{len(scores)} of {row.epochs}",
        "DSC": _shown(scores[-1:]),
        "best": _shown(scores),
        "time left": duration(left) if status == "running" and scores else "",
    }


def _shown(scores: Sequence[float]) -> str:
    """The best of them; with ``split="all"`` they are not numbers."""
    return f"{max(scores):.3f}" if scores and not math.isnan(max(scores)) else "-"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in two digits or so."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
