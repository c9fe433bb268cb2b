"""Compare phantoms with patients: ``python -m benchmarks.phantom data/kaggle_3m``.

Prints a Markdown table: for each property the 10th, 50th and 90th percentile over patients,
phantoms beside real ones.
"""

import argparse

import numpy as np
import pandas as pd
from scipy import stats

from lib.dataset import BrainData, load_data
from lib.phantom import PHANTOM_FOLDER, write_phantom
from lib.runtime import run_command

SIZE = 128
SEQUENCES = ("pre-contrast", "FLAIR", "post-contrast")


def properties(data: BrainData) -> pd.DataFrame:
    """A row per patient: what is measured in its files."""
    rows = []
    for name in data.patients:
        volume, truth = data.volume(name), data.truth(name).astype(bool)
        head = (volume >= 0.1 * volume.max()).any(axis=3)
        rest, row = head & ~truth, {"slices": len(volume)}
        row["slices with tumour, %"] = 100 * truth.any(axis=(1, 2)).mean()
        row["head in the picture, %"] = 100 * head.mean()
        if truth.any():
            row["tumour of the head, %"] = 100 * truth.sum() / head.sum()
            for channel, sequence in enumerate(SEQUENCES):
                row[f"tumour / rest, {sequence}"] = (
                    volume[truth, channel].mean() / volume[rest, channel].mean()
                )
            inside, outside = volume[truth, 1].astype(float), volume[rest, 1].astype(float)
            # chance that a tumour voxel is brighter than one outside: 1 would make a threshold
            # enough
            row["AUC of FLAIR alone"] = (
                stats.mannwhitneyu(inside, outside).statistic / len(inside) / len(outside)
            )
        rows.append(row)
    return pd.DataFrame(rows)


def intensities(data: BrainData, patients: list[str]) -> np.ndarray:
    """Quantiles of the prepared intensities of each sequence, ``(3, 199)``, in SDs."""
    rows = np.concatenate([np.arange(*data.record(name).rows) for name in patients])
    images = np.asarray(data.cache.images[rows], np.float32)
    return np.stack(
        [np.quantile(images[:, channel], np.linspace(0.005, 0.995, 199)) for channel in range(3)]
    )


def _row(what: str, phantom: object, real: object) -> str:
    return f"| {what} | {phantom} | {real} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phantom")
    parser.add_argument("data", help="the real patients")
    real, phantom = (
        load_data(parser.parse_args().data, SIZE),
        load_data(write_phantom(PHANTOM_FOLDER), SIZE),
    )
    print(
        _row(
            "10th, 50th, 90th percentile over patients",
            f"{len(phantom.patients)} phantoms",
            f"{len(real.patients)} patients",
        )
    )
    print("|---|---|---|")
    tables = [properties(data).quantile([0.1, 0.5, 0.9]).T for data in (phantom, real)]
    for name in tables[1].index:
        print(
            _row(
                name, *(", ".join(f"{value:.3g}" for value in table.loc[name]) for table in tables)
            )
        )
    names = list(real.patients)
    whole, halves = intensities(real, names), [intensities(real, names[i::2]) for i in (0, 1)]
    distance = np.abs(intensities(phantom, list(phantom.patients)) - whole).mean(axis=1)
    between = np.abs(halves[0] - halves[1]).mean(axis=1)
    for sequence, far, scale in zip(SEQUENCES, distance, between, strict=True):
        print(
            _row(
                f"intensities, {sequence}: Wasserstein distance to the patients', SDs",
                f"{far:.3f}",
                f"{scale:.3f} (one half to the other)",
            )
        )


if __name__ == "__main__":
    run_command(main)
