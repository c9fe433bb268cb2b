"""Turn p values into verdicts: for one comparison, and for several at once."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from lib.utils import KitError

ALPHA, POWER = 0.05, 0.8
NEGLIGIBLE = 0.02  # differences in DSC below it change nobody's choice of a recipe
DIGITS = 10  # decimals kept of a difference: equal ones, and sums that cancel, are then exactly so
CANNOT_TELL, NO_DIFFERENCE = "cannot tell", f"no difference larger than {NEGLIGIBLE}"
VERDICTS = ("helps", "hurts", NO_DIFFERENCE, CANNOT_TELL)


def verdict(difference: float, p: float, p_equivalence: float = math.nan) -> str:
    """Return one of ``VERDICTS``.

    Up to a p of 0.05 the sign of the mean difference decides between ``helps`` and ``hurts``, also
    where it is small. Else it is ``no difference larger than 0.02`` up to a p of equivalence of
    0.05, and ``cannot tell`` beyond. A NaN for the latter leaves equivalence out.
    """
    if p <= ALPHA:
        return "helps" if difference > 0 else "hurts"
    return NO_DIFFERENCE if p_equivalence <= ALPHA else CANNOT_TELL


def holm(p_values: Iterable[float], at_most: int | None = None) -> np.ndarray:
    """Return p values corrected for their number by Holm's method, in the order given.

    The chance of any false finding among them then stays at 5 %. The smallest p is multiplied by
    their number m, the next by m - 1 and so on; none becomes smaller than one before it, none
    larger than 1. This holds however the comparisons depend on one another.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70. The limit of the factors:
    Shaffer 1986, Journal of the American Statistical Association 81, 826-831.

    Args:
        at_most: how many of the hypotheses can be true at once; no factor is larger. By default all
            can.

    Raises:
        KitError: a value outside [0, 1].
    """
    p = np.asarray(list(p_values), float)
    if not ((p >= 0) & (p <= 1)).all():
        raise KitError(f"p values: numbers from 0 to 1 are needed, got {p.tolist()}")
    order = np.argsort(p)
    factors = np.minimum(np.arange(len(p), 0, -1), len(p) if at_most is None else at_most)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of comparisons with Holm's correction and verdicts over all its rows.

    Each row has two hypotheses at most: that the difference is 0, and that it is ``NEGLIGIBLE`` or
    more. Not both can be true, so of all of them as many as there are rows can be. All are
    corrected together, with that limit. The chance of any false verdict in the table stays at 5 %.

    Args:
        table: has the columns ``difference``, ``p`` and ``p (equivalence)``, the last NaN where
            equivalence is not tested.
    """
    rows, tested = len(table), table["p (equivalence)"].notna().to_numpy()
    adjusted = holm([*table["p"], *table["p (equivalence)"][tested]], at_most=rows)
    equivalence = np.full(rows, math.nan)
    equivalence[tested] = adjusted[rows:]
    verdicts = [
        verdict(*row) for row in zip(table["difference"], adjusted[:rows], equivalence, strict=True)
    ]
    return table.assign(**{"p (Holm)": adjusted[:rows]}).assign(verdict=verdicts)


def p_in_words(p: float) -> str:
    """Return p as ``p = 0.012``, or as ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_in_cell(p: float) -> str:
    """Return p for a column of that name, e.g. ``0.012``; empty for NaN."""
    return "" if math.isnan(p) else p_in_words(p).removeprefix("p ").removeprefix("= ")
