"""Compare phantoms with patients: ``python -m benchmarks.phantom data/kaggle_3m``.

Prints a Markdown table: for each property the 10th, 50th and 90th percentile over patients,
phantoms beside real ones. ``--cases PATIENTS PHANTOMS`` adds the DSC of two tables of cases.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from lib.dataset import BrainData, load_data
from lib.phantom import PHANTOM_FOLDER, write_phantom
from lib.plot.pixels import FLAIR
from lib.runtime import run_command
from lib.stats.outcome import MISSED
from lib.utils import progress

SIZE = 128
SEQUENCES = ("pre-contrast", "FLAIR", "post-contrast")


def properties(data: BrainData) -> pd.DataFrame:
    """Return a row per patient: what is measured in its files and in its prepared slices."""
    rows = []
    for name in progress(data.patients, desc=data.name, unit="patient"):
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
            row |= _hardness(volume[..., FLAIR], truth, rest)
            row |= _prepared(data, name)
        rows.append(row)
    return pd.DataFrame(rows)


def _hardness(flair: np.ndarray, truth: np.ndarray, rest: np.ndarray) -> dict[str, float]:
    """Return what makes a tumour hard to find and to outline, on FLAIR in the file's grid."""
    inside, outside = flair[truth].astype(float), flair[rest].astype(float)
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[[0, 2]] = False  # slices lie far apart
    width = max(1, round(len(flair[0]) / 64))  # 4 mm in a picture of 240 mm
    grown, core = (
        operation(truth, in_plane, iterations=width)
        for operation in (ndimage.binary_dilation, ndimage.binary_erosion)
    )
    shell_outside, shell_inside = grown & rest, truth & ~core
    bright = rest & ~grown & (flair >= np.median(inside))
    labels, count = ndimage.label(bright)
    largest = np.bincount(labels.ravel())[1:].max() if count else 0
    components = np.bincount(ndimage.label(truth)[0].ravel())[1:]
    return {
        # chance that a tumour voxel is brighter than one outside: 1 would make a threshold enough
        "AUC of FLAIR alone": stats.mannwhitneyu(inside, outside).statistic
        / len(inside)
        / len(outside),
        "step of FLAIR at the border, SDs of the head": (
            flair[shell_inside].mean() - flair[shell_outside].mean()
        )
        / flair[rest].std(),
        "largest component elsewhere as bright as the tumour, / tumour": largest / truth.sum(),
        "largest component of the mask, %": 100 * components.max() / truth.sum(),
    }


def _prepared(data: BrainData, name: str) -> dict[str, float]:
    """Return the mean intensity of the tumour as a network sees it, in SDs."""
    images, masks = data.slices((name,)).batch(np.arange(len(data.slices((name,)))))
    tumour = masks[:, 0] > 0
    return {
        f"prepared tumour, {sequence}, SDs": float(images[:, channel][tumour].mean())
        for channel, sequence in enumerate(SEQUENCES)
    }


def replaced(data: BrainData) -> dict[str, float]:
    """Return the share of patients in whom FLAIR replaces other sequences, %."""
    found = []
    for name in data.patients:
        volume = data.volume(name)
        same = (np.array_equal(volume[..., channel], volume[..., FLAIR]) for channel in (0, 2))
        found.append(tuple(same))
    return {
        f"FLAIR replaces {which}, % of patients": 100 * np.mean([each == kind for each in found])
        for which, kind in (
            ("pre-contrast", (True, False)),
            ("post-contrast", (False, True)),
            ("both", (True, True)),
        )
    }


def intensities(data: BrainData, patients: list[str]) -> np.ndarray:
    """Quantiles of the prepared intensities of each sequence, ``(3, 199)``, in SDs."""
    rows = np.concatenate([np.arange(*data.record(name).rows) for name in patients])
    images = np.asarray(data.cache.images[rows], np.float32)
    return np.stack(
        [np.quantile(images[:, channel], np.linspace(0.005, 0.995, 199)) for channel in range(3)]
    )


def _row(what: str, phantom: object, real: object) -> str:
    return f"| {what} | {phantom} | {real} |"


def scores(cases: Path) -> dict[str, str]:
    """Return how the DSC of a table of cases is spread over patients."""
    dsc = pd.read_csv(cases)["dsc"]
    return {
        "DSC of the baseline": _triple(dsc.quantile([0.1, 0.5, 0.9])),
        "its mean and SD": f"{dsc.mean():.3f}, {dsc.std():.3f}",
        "missed (DSC below 0.1), % of patients": f"{100 * (dsc < MISSED).mean():.0f}",
    }


def _triple(values: pd.Series) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phantom")
    parser.add_argument("data", help="the real patients")
    parser.add_argument("--phantom", default=None, help="the phantoms (default: data/phantom)")
    parser.add_argument("--cases", nargs=2, type=Path, metavar=("PATIENTS", "PHANTOMS"))
    arguments = parser.parse_args()
    real = load_data(arguments.data, SIZE)
    phantom = load_data(arguments.phantom or write_phantom(PHANTOM_FOLDER), SIZE)
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
        print(_row(name, *(_triple(table.loc[name]) for table in tables)))
    shares = replaced(phantom), replaced(real)
    for name in shares[1]:
        print(_row(name, *(f"{share[name]:.0f}" for share in shares)))
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
    if arguments.cases:
        theirs, ours = map(scores, arguments.cases)
        for name in theirs:
            print(_row(name, ours[name], theirs[name]))


if __name__ == "__main__":
    run_command(main)
