"""Hold what was predicted: masks on the grid of the files, and their scores."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from lib.config import Config
from lib.dataset import BrainData
from lib.evaluate import lesions
from lib.metrics import counts, summarise
from lib.utils import KitError


@dataclass(frozen=True)
class Prediction:
    """Hold predicted masks and their scores.

    ``lib.stats`` pairs it with runs: it has ``cases`` and ``config`` like them.

    Attributes:
        config: of the network, ``tta`` as it was predicted with.
        cases: a row per patient: ``patient``, ``slices``, ``seen`` (bool: the network was trained
            on this patient, so its scores show what it remembers), and where there are masks the
            scores of ``lib.evaluate.case_row``.
        known: the weights say which patients they were trained on. Without that ``seen`` is
            "unknown" in cases.csv.
    """

    data: BrainData
    config: Config
    cases: pd.DataFrame
    _packed: dict[str, np.ndarray]
    known: bool = True

    @property
    def seen(self) -> tuple[str, ...]:
        """Return the patients that the network was trained on."""
        return tuple(self.cases.loc[self.cases["seen"], "patient"])

    def mask(self, patient: str) -> np.ndarray:
        """Return the predicted mask on the file's grid, ``(S, H, W)`` {0, 1} uint8.

        Raises:
            KitError: no such patient was predicted.
        """
        if patient not in self._packed:
            some = ", ".join(list(self._packed)[:3])
            raise KitError(f"no mask of {patient!r} was predicted; there are {some or 'none'} ...")
        shape = self.data.record(patient).geometry.shape
        return np.unpackbits(self._packed[patient], count=int(np.prod(shape))).reshape(shape)

    def lesions(self) -> pd.DataFrame:
        """Return a row for each lesion that is found, missed or invented, on the file's grid.

        The columns are ``patient`` and those of ``lib.evaluate.lesions``. Patients without masks
        are left out.
        """
        rows = []
        for patient in self.cases["patient"]:
            truth = self.data.truth(patient)
            if truth is not None:
                found = lesions(self.mask(patient), truth)
                rows += [{"patient": patient, **lesion} for lesion in found]
        return pd.DataFrame(rows, columns=["patient", "kind", "voxels", "covered"])

    def by_medpy(self) -> pd.DataFrame:
        """Return the scores of each patient beside those of ``medpy``, an independent library.

        Without it (``pip install medpy``) its columns are missing. Patients without masks are left
        out, and those with nothing to find and nothing found: there medpy has no score. It has no
        precision where nothing is found, and no recall where there is nothing to find: NaN.
        """
        rows = {}
        for patient in self.cases["patient"]:
            mask, truth = self.mask(patient), self.data.truth(patient)
            if truth is not None and (mask.any() or truth.any()):
                found = counts(mask, truth)
                rows[patient] = {name: getattr(found, name) for name in MEDPY}
                rows[patient] |= _medpy_scores(mask, truth)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("patient")

    def ranked(self) -> list[str]:
        """Return patients from the worst to the best native DSC; by name without ground truth."""
        by = [name for name in ("dsc_native", "patient") if name in self.cases]
        return list(self.cases.sort_values(by)["patient"])

    def __str__(self) -> str:
        if "dsc" not in self.cases:
            return f"{len(self.cases)} patients without masks: nothing to compare with"
        scored = self.cases.dropna(subset=["dsc"])
        seen = scored["seen"]
        lines = [
            f"DSC {where}: {summarise(scored.loc[~seen, column])}"
            for where, column in (("as published", "dsc"), ("on the file's grid", "dsc_native"))
            if not seen.all()
        ]
        if not self.known:
            lines.append(
                "the weights do not say whom they were trained on: if these patients were among "
                "them, the score tells what the network remembers"
            )
        if seen.any():
            lines.append(
                f"not counted: {seen.sum()} patients that the network was trained on (DSC "
                f"{scored.loc[seen, 'dsc'].mean():.3f}, which tells what it remembers)"
            )
        return "\n".join(lines)


MEDPY = {"dsc": "dc", "iou": "jc", "precision": "precision", "recall": "recall"}
"""Score -> the function of ``medpy.metric.binary`` that computes it, too."""


def _medpy_scores(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the scores of two masks by medpy; none where it is not installed."""
    if importlib.util.find_spec("medpy") is None:
        return {}
    from medpy.metric import binary

    defined = {"precision": mask.any(), "recall": truth.any()}  # else medpy divides 0 by 0
    return {
        f"{name}, medpy": getattr(binary, theirs)(mask, truth) if defined.get(name, True) else nan
        for name, theirs in MEDPY.items()
    }
