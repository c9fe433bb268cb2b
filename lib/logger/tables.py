"""Know the tables of a run and of all runs: names, columns, and how they are written."""

from __future__ import annotations

from typing import Literal

import pandas as pd

TRAIN_CSV, BEST_CSV = "uexec_result_train.csv", "uexec_result_best.csv"
HISTORY_COLUMNS = ("epoch", "lr", "train loss", "val loss", "val_dsc")
Table = Literal["train", "best"]
"""The result CSV that the runs of a plan go to: ``TRAIN_CSV`` or ``BEST_CSV``."""
TABLES: dict[Table, str] = {"train": TRAIN_CSV, "best": BEST_CSV}


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV: UTF-8, LF, ``.`` as decimal sign, eight significant digits.

    Booleans are TRUE and FALSE, as in the coursework and in spreadsheets.
    """
    flags = {
        name: column.map({True: "TRUE", False: "FALSE"})
        for name, column in table.items()
        if column.dtype == bool
    }
    return str(table.assign(**flags).to_csv(index=False, lineterminator="\n", float_format="%.8g"))
