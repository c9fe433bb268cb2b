"""Does a number format change what is learnt? A few seeds of the quick profile in each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Row
from lib.config import BEST, Profile
from lib.dataset import load_data
from lib.phantom import write_phantom
from lib.session import PHANTOM_FOLDER
from lib.train import fit
from lib.utils import pick_device, pick_precision

SEEDS = (42, 43, 44)


def number_formats(out: Path, epochs: int | None = None) -> list[Row]:
    """Best validation DSC of the quick profile on the phantom, in float32 and in this device's own format, three seeds.
    The formats may differ by no more than seeds do."""
    chosen = pick_precision(pick_device()).name
    if chosen == "fp32":
        return [{"left out": "this device computes in fp32"}]
    config = Profile("quick", "").apply(BEST)
    config = replace(config, epochs=epochs or config.epochs)
    data = load_data(write_phantom(PHANTOM_FOLDER), config.image_size)
    scores = np.array([[fit(replace(config, seed=seed, precision=precision), data, out).history["val_dsc"].max()
                        for precision in ("fp32", chosen)] for seed in SEEDS])
    rows = [{"seed": str(seed), "fp32": round(a, 4), chosen: round(b, 4), "difference": round(b - a, 4)}
            for seed, (a, b) in zip(SEEDS, scores.tolist(), strict=True)]
    mean, spread = scores.mean(axis=0), scores.std(axis=0, ddof=1)
    return [*rows, {"seed": "mean", "fp32": round(mean[0], 4), chosen: round(mean[1], 4),
                    "difference": round(mean[1] - mean[0], 4)},
            {"seed": "SD", "fp32": round(spread[0], 4), chosen: round(spread[1], 4),
             "difference": round((scores[:, 1] - scores[:, 0]).std(ddof=1), 4)}]
