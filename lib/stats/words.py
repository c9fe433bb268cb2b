"""Show a comparison to a reader: its columns, and the lines under it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from lib.stats.paired import smallest_detectable
from lib.stats.planning import detectable, more_runs, spread_of
from lib.stats.verdicts import ALPHA, p_in_cell

ONE_RUN = "one run each, so p is about these weights, not about the recipe."


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a comparison that a reader needs, rounded, with labels as index.

    With several runs, ``80 % power from`` is ``detectable``, and ``more runs`` says what would
    settle a ``cannot tell``, see ``more_runs``.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.
    """
    mean = next(name for name in table if name.startswith("mean "))
    shown = ["label", "compared with", mean, "difference", "CI low", "CI high", "to the first"]
    shown += ["p (Holm)", "improved", "half of it from", "seeds", "verdict"]
    if (table["seeds"] == 1).all():
        shown.remove("seeds")
    p = table["p (Holm)"].map(p_in_cell)
    rounded = table[[name for name in shown if name in table]].round(3).assign(**{"p (Holm)": p})
    if table["seed SD"].notna().any():
        rounded["80 % power from"] = detectable(table).round(3)
        alike = table["seeds"] == table["baseline seeds"]
        counts = zip(more_runs(table), alike, strict=True)
        rounded["more runs"] = [_more_in_cell(*each) for each in counts]
    return rounded.set_index("label")


def _more_in_cell(count: float, alike: bool) -> str:
    """Return a number of further runs for a column of that name.

    Args:
        alike: whether both recipes have as many runs, so that each needs so many more.
    """
    if math.isnan(count) or not count:
        return ""
    if math.isinf(count):
        return "more patients"
    return f"{count:.0f} each" if alike else f"{count:.0f}"


def resolution(table: pd.DataFrame) -> str:
    """Return lines for under a comparison: the true difference found with 80 % power.

    It is that of each row, see ``detectable``, and so at the strictest step of Holm's correction.
    They also say how many more runs would settle each ``cannot tell``.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.
    """
    known = table[table["seed SD"].notna()]
    if known.empty:
        return _resolution_of_weights(table)
    patients = int(table["patients"].iloc[0])
    moves = [spread_of(row).of_run(patients) for row in known.to_dict("records")]
    shared, mean = _moves_in_words(known)
    lines = [
        f"{patients} patients, {runs_in_words(known)}, {candidates_in_words(len(table))}.{shared}",
        f"{mean} by an SD of {span(moves)}.",
        *_detectable_in_words(detectable(table).set_axis(table["label"]).dropna()),
        *_what_would_settle(table),
    ]
    if table["seed SD"].isna().any():
        labels = ", ".join(table["label"][table["seed SD"].isna()])
        lines.append(f"{labels}: {ONE_RUN}")
    return "\n".join(lines)


def _moves_in_words(table: pd.DataFrame) -> tuple[str, str]:
    """Return how runs are compared, and what the SD of a run's mean is about.

    That is all that a seed does, or what pairs of equal seeds leave.
    """
    if not table["paired"].any():
        return "", "The mean of a run moves from seed to seed"
    further = table["paired"] & (table["baseline seeds"] > table["seeds"])
    others = ", and further ones of the baseline count" if further.any() else ""
    return (
        f" Runs with the same seed are compared{others}.",
        "Beside what equal seeds share, the mean of a run moves",
    )


def runs_in_words(table: pd.DataFrame) -> str:
    """Return how many runs the baseline and the candidates of a comparison have."""
    before, after = (span(table[name], "d") for name in ("baseline seeds", "seeds"))
    return f"{before} runs of each recipe" if before == after else f"{before} against {after} runs"


def _detectable_in_words(smallest: pd.Series) -> list[str]:
    """Return lines on what is found with 80 % power, from label -> smallest difference."""
    never = np.isinf(smallest)
    lines = []
    if not never.all():
        sizes = span(smallest[~never])
        sizes = f"{sizes}, by candidate," if " to " in sizes else sizes
        lines.append(
            f"A true difference of {sizes} would be found with 80 % power; smaller ones are "
            f"usually missed."
        )
    if never.any():
        lines.append(
            f"{', '.join(smallest.index[never])}: no difference, however large, would be found "
            f"with 80 % power."
        )
    return lines


def span(values: Iterable[float], form: str = ".3f") -> str:
    """Return the range of numbers in words: ``5``, or ``5 to 20``."""
    return " to ".join(dict.fromkeys(format(end(values), form) for end in (min, max)))


def _what_would_settle(table: pd.DataFrame) -> list[str]:
    """Return lines on the rows that cannot be told: how many more runs they need."""
    needed = dict(zip(table["label"], more_runs(table), strict=True))
    finite = [f"{label} {count:.0f}" for label, count in needed.items() if 0 < count < math.inf]
    beyond = [label for label, count in needed.items() if count == math.inf]
    lines = []
    if finite:
        alike = (table["seeds"] == table["baseline seeds"]).all()
        whose = "each recipe" if alike else "the recipe with fewer, then of both,"
        lines.append(
            f"So many more runs of {whose} would settle these, if the differences stay "
            f"as they are: {', '.join(finite)}."
        )
    if beyond:
        lines.append(
            f"More runs alone would not settle {', '.join(beyond)}: more patients are needed."
        )
    return lines


def _resolution_of_weights(table: pd.DataFrame) -> str:
    """Return the lines under a comparison of one run each."""
    n, sd, count = int(table["patients"].iloc[0]), float(table["SD"].median()), len(table)
    smallest = smallest_detectable(sd, n, alpha=ALPHA / count)
    if np.isinf(smallest):
        return (
            f"{n} patients cannot show any difference, however large: the smallest p there is, "
            f"{2.0 ** (1 - n):.3g}, is not enough for {candidates_in_words(count)}."
        )
    return (
        f"{n} patients whose differences have an SD of {sd:.3f}, {candidates_in_words(count)}.\nA "
        f"true difference of {smallest:.3f} would be found with 80 % power; smaller ones are "
        f"usually missed.\n{ONE_RUN.capitalize()}"
    )


def candidates_in_words(count: int) -> str:
    """Return a number of candidates in words."""
    return "1 candidate" if count == 1 else f"{count} candidates"
