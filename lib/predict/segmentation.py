"""Segment patients with a network: masks on the grid of the files, scores, and files of both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.data import encode_masks
from lib.dataset import BrainData, load_data
from lib.evaluate import (
    BATCH_SIZE,
    TrainedModel,
    case_row,
    check_patients,
    predict_volumes,
    predicted_mask,
)
from lib.logger import Run, to_csv
from lib.predict.prediction import Prediction
from lib.predict.weights import trained_model
from lib.runtime import deterministic, tune_allocator
from lib.runtime.device import prepare
from lib.runtime.memory import memory_in_words
from lib.runtime.own_files import OwnFiles, require_replaceable
from lib.stats.scored import require_runs
from lib.utils import KitError, as_list, as_path, changing, progress, say


def require_batch_size(batch_size: Any) -> None:
    """Raise ``KitError`` unless so many slices can be taken at once."""
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise KitError(f"batch_size is {batch_size!r}; use a whole number, 1 or more")


def predict(
    weights: TrainedModel | Run | str | Path,
    data: BrainData | str | Path,
    out: str | Path | None = None,
    patients: tuple[str, ...] | list[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = BATCH_SIZE,
    tta: bool | None = None,
) -> Prediction:
    """Segment patients on the grid of the files, and keep what ``Config.component`` says.

    Args:
        weights: from ``load_weights``, a file for it, or a run, whose custom code is trusted.
        data: from ``load_data``, or a folder for it; masks are used for scoring where there are
            any.
        out: where ``<patient>/<patient>_<slice>_mask.tif`` and ``cases.csv`` go, the latter with
            the columns of ``Prediction.cases``; nothing is written without it. Masks of an earlier
            prediction are replaced, and removed where they are of other patients. What was edited,
            or is not the kit's, is not touched; it is named if ``cases.csv`` does not list it.
        patients: names; all of them by default.
        batch_size: slices taken at once; it changes nothing but time and memory.
        tta: average probabilities over a left-right flip; by default as the network was scored in
            training. A finished run is scored with flips, without training again, by
            ``predict(run.weights, data, patients=run.unseen(data), tta=True)``.

    Raises:
        KitError: unusable weights, data or patient names, or data prepared for another image size.
    """
    require_batch_size(batch_size)
    if out is not None:
        as_path(out, "out")
    trained = trained_model(weights)
    config = trained.config if tta is None else replace(trained.config, tta=tta)
    if not isinstance(data, BrainData):
        data = load_data(data, config.image_size, config.preprocessing)
    names = check_patients(data, config, patients)
    machine = prepare([trained.network], device, precision)
    tune_allocator(machine.device)
    volumes = predict_volumes(trained.network, config, data, names, machine, batch_size)
    seen = trained.seen(data) if trained.trained_on else None
    return segment(volumes, data, config, names, seen, out)


def most_different(
    runs: Mapping[str, Run | Sequence[Run]], data: BrainData
) -> dict[str, Prediction]:
    """Predict the patient on whom a sweep's runs differ most.

    Args:
        runs: label -> run, or its runs with several seeds, of which the first counts; the reference
            first.
        data: as these runs saw it.

    Returns:
        The reference and the run whose mean DSC differs most from it, by label: their predictions
        of the patient whose DSC differs most between the two. Nothing of fewer than two runs, as a
        sweep with ``only=[]`` has: ``lib.plot.disagreement`` then says so.
    """
    require_runs(runs)
    if len(runs) < 2:
        return {}
    firsts = {label: as_list(given)[0] for label, given in runs.items()}
    scores = pd.DataFrame(
        {label: run.cases.set_index("patient")["dsc_native"] for label, run in firsts.items()}
    )
    differences = scores.iloc[:, 1:].sub(scores.iloc[:, 0], axis=0)
    labels = [scores.columns[0], differences.mean().abs().idxmax()]
    patient = differences[labels[1]].abs().idxmax()
    return {label: predict(firsts[label], data, patients=[patient]) for label in labels}


def segment(
    volumes: Iterator[tuple[str, np.ndarray]],
    data: BrainData,
    config: Config,
    names: tuple[str, ...],
    seen: Collection[str] | None,
    out: str | Path | None,
) -> Prediction:
    """Turn probabilities into masks on the files' grid and scores; write them to ``out`` if given.

    Args:
        volumes: (patient, probabilities) as ``predict_volumes`` yields them.
        names: the patients that will come.
        seen: patients that the network was trained on; None if that is not known.
    """
    if out is not None:
        own = require_free(Path(out), data, names)
        first = Path(out) / "cases.csv"
        with changing(first):  # it comes last, when all masks are there
            first.unlink(missing_ok=True)
    rows, packed, known = [], {}, seen is not None
    bar = progress(total=len(names), desc="segmenting", unit="patient")
    with deterministic(), memory_in_words(), bar:
        for name, probabilities in volumes:
            mask = predicted_mask(data, name, probabilities, config.component)
            rows.append(case_row(config, data, name, probabilities, mask))
            packed[name] = np.packbits(mask)
            if out is not None:
                own.write(encode_masks(Path(out), data.patients[name], mask))
            bar.update()
    cases = pd.DataFrame(rows, columns=None if rows else ["patient", "slices"])
    cases.insert(2, "seen", cases["patient"].isin(seen or ()))
    if out is not None:
        ours = [*_mask_files(Path(out), data, names), Path(out) / "cases.csv"]
        others, edited = own.remove_others(ours)
        if others:
            say(f"{out}: {others} masks of an earlier prediction, of other patients, were removed")
        if edited:
            say(f"{edited[0]}: stays, as it was edited, though cases.csv does not list it")
        shown = cases if known else cases.assign(seen="unknown")
        own.write({Path(out) / "cases.csv": to_csv(shown).encode()})
    return Prediction(data, config, cases, packed, known)


def require_free(out: Path, data: BrainData, names: Sequence[str]) -> OwnFiles:
    """Return what the kit wrote below ``out``, where masks of these patients can be written.

    Raises:
        KitError: it holds images, or masks that are not those of an earlier prediction.
    """
    with changing(out):
        out.mkdir(parents=True, exist_ok=True)
    images = [out / name / image.name for name in names for image in data.patients[name].images]
    if any(image.exists() for image in images):
        raise KitError(
            f"{out}: holds the images of patients, their masks would be overwritten; name another "
            f"folder"
        )
    own = OwnFiles(out)
    remedy = "name another folder, or move them away"
    require_replaceable(own, [*_mask_files(out, data, names), out / "cases.csv"], remedy)
    return own


def _mask_files(out: Path, data: BrainData, names: Sequence[str]) -> list[Path]:
    """Return where the masks of patients go."""
    return [out / name / mask for name in names for mask in data.patients[name].mask_names]
