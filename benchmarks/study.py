"""Does a number format change what is learnt? A few seeds of the quick profile in each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Row
from lib.config import BEST, Profile
from lib.dataset import load_data
from lib.phantom import PHANTOM_FOLDER, write_phantom
from lib.runtime import pick_device, pick_precision
from lib.train import fit

SEEDS = (42, 43, 44)


def number_formats(out: Path, epochs: int | None = None) -> list[Row]:
    """Compare the validation DSC of the best recipe in two number formats.

    Quick profile on the phantom, in float32 and in this device's own format, three seeds: at the
    best
    epoch, and at the last. The formats should differ by no more than seeds do (SD).
    """
    chosen = pick_precision(pick_device()).name
    if chosen == "fp32":
        return [{"left out": "this device computes in fp32"}]
    config = Profile("quick", "").apply(BEST)
    config = replace(config, epochs=epochs or config.epochs)
    data = load_data(write_phantom(PHANTOM_FOLDER), config.image_size)
    scores = {
        (seed, precision): fit(replace(config, seed=seed, precision=precision), data, out).history[
            "val_dsc"
        ]
        for seed in SEEDS
        for precision in ("fp32", chosen)
    }
    return [
        row
        for epoch, pick in (("best", max), ("last", lambda history: history.iloc[-1]))
        for row in _table(
            epoch,
            chosen,
            np.array(
                [
                    [pick(scores[seed, precision]) for precision in ("fp32", chosen)]
                    for seed in SEEDS
                ]
            ),
        )
    ]


def _table(epoch: str, chosen: str, scores: np.ndarray) -> list[Row]:
    """A row per seed, their mean, and their SD; ``scores`` is ``(seeds, 2)``."""
    lines = [
        *zip(map(str, SEEDS), scores, strict=True),
        ("mean", scores.mean(axis=0)),
        ("SD", scores.std(axis=0, ddof=1)),
    ]
    differences = scores[:, 1] - scores[:, 0]
    shown = [*differences, differences.mean(), differences.std(ddof=1)]
    return [
        {
            "epoch": epoch,
            "seed": seed,
            "fp32": round(float(a), 4),
            chosen: round(float(b), 4),
            "difference": round(float(difference), 4),
        }
        for (seed, (a, b)), difference in zip(lines, shown, strict=True)
    ]
