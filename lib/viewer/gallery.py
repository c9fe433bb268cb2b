"""Collect what the slice browser shows: patients in order, pixels, masks, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from lib.data import read_patient
from lib.dataset import BrainData
from lib.metrics import Counts
from lib.plot.pixels import CHANNELS, FLAIR, brightest, grey_png
from lib.predict import Prediction
from lib.utils import KitError

MOST = 4  # more panels side by side are too small to judge
Shown = Prediction | BrainData | Sequence[Prediction] | Mapping[str, Prediction]


class Gallery:
    """Hold patients, the worst first, with the images, ground truth and predictions of each.

    Args:
        shown: a prediction; up to four of the same data, as a list or as label -> prediction; or
            data alone, without any prediction.

    Raises:
        KitError: nothing to show, more than four predictions, or predictions of different data.
    """

    def __init__(self, shown: Shown) -> None:
        self.runs = _labelled(shown)
        self.data = shown if isinstance(shown, BrainData) else next(iter(self.runs.values())).data
        self._scores = {label: _scores(run) for label, run in self.runs.items()}
        for label, run in self.runs.items():
            self._check_same_images(label, run)
        names = list(self.data.patients) if isinstance(shown, BrainData) else self._ranked()
        if not names:
            raise KitError("browse: no patient to show; predict some first")
        self.labels = {name: self._label(name) for name in names}
        # what the last patients are made of stays at hand: one volume serves three sequences
        self.volume = lru_cache(maxsize=2)(self._volume)
        self.masks = lru_cache(maxsize=2)(self._masks)
        self.header = lru_cache(maxsize=8)(self._header)
        self.frame = lru_cache(maxsize=2000)(self._frame)

    def _check_same_images(self, label: str, run: Prediction) -> None:
        for name in run.cases["patient"]:
            theirs = run.data.record(name).sha256
            if name in self.data.patients and self.data.record(name).sha256 != theirs:
                raise KitError(
                    f"{label}: its {name} has other images or masks than that of the first "
                    f"prediction; compare predictions of the same data"
                )

    def _ranked(self) -> list[str]:
        """Return the patients of all runs that the data holds, by their mean DSC.

        Those without a score come last, by name.
        """
        everyone = dict.fromkeys(name for run in self.runs.values() for name in run.ranked())
        here = [name for name in everyone if name in self.data.patients]
        means = {
            name: np.mean([s[name] for s in self._scores.values() if name in s] or [np.inf])
            for name in here
        }
        return sorted(here, key=lambda name: (means[name], name))

    def _label(self, name: str) -> str:
        scores = [f"{s[name]:.3f}" if name in s else "none" for s in self._scores.values()]
        text = (
            f"{name}  DSC {' | '.join(scores)}"
            if any(name in s for s in self._scores.values())
            else name
        )
        return text + "  (trained on)" * any(name in run.seen for run in self.runs.values())

    def _volume(self, patient: str) -> np.ndarray:
        """Return the images, ``(S, H, W, 3)`` uint8; cached, as ``volume``.

        The files of the masks need not be read for it.
        """
        return read_patient(replace(self.data.patients[patient], masks=()))[0]

    def _masks(self, patient: str) -> tuple[np.ndarray | None, dict[str, np.ndarray | None]]:
        """Return the ground truth and label -> prediction, each ``(S, H, W)`` {0, 1} uint8.

        The ground truth is None if there is none. Cached, as ``masks``.
        """
        runs = {
            label: run.mask(patient) if patient in set(run.cases["patient"]) else None
            for label, run in self.runs.items()
        }
        return self.data.truth(patient), runs

    def _header(self, patient: str) -> dict[str, Any]:
        """Return all that the browser says of a patient, as JSON-like values.

        ``runs`` holds, for each run, its DSC, its ``[tp, fp, fn]`` per slice and whether it was
        trained on
        this patient. Without ground truth, what a run found counts as fp. ``largest`` is the slice
        with the
        most tumour, ``worst`` the one with the most wrong pixels of all runs. Cached, as
        ``header``.
        """
        truth, predicted = self.masks(patient)
        runs = [
            _run_header(label, mask, truth) | {"seen": patient in self.runs[label].seen}
            for label, mask in predicted.items()
        ]
        tumours = predicted.values() if truth is None else [truth]
        areas = sum((_voxels(mask) for mask in tumours if mask is not None), start=np.zeros(1))
        shape = self.data.record(patient).geometry.shape
        wrong = sum(
            (np.array(run["slices"])[:, 1:].sum(axis=1) for run in runs if run["slices"]),
            start=np.zeros(1),
        )
        return {
            "patient": patient,
            "label": self.labels[patient],
            "shape": list(shape),
            "numbers": list(self.data.patients[patient].numbers),
            "channels": self._channels(patient),
            "truth": truth is not None,
            "tumour": bool(areas.any()),
            "runs": runs,
            "largest": int(areas.argmax()) if areas.any() else shape[0] // 2,
            "worst": int(wrong.argmax()) if truth is not None and wrong.any() else None,
        }

    def _channels(self, patient: str) -> list[dict[str, Any]]:
        """Return each sequence's name and window, and the substitute of one that is missing."""
        volume = self.volume(patient)
        middle, flair = len(volume) // 2, volume[..., FLAIR]
        channels = []
        for i, name in enumerate(CHANNELS):
            one = volume[..., i]
            # one slice mostly tells already, and all take time
            same = (
                i != FLAIR
                and np.array_equal(one[middle], flair[middle])
                and np.array_equal(one, flair)
            )
            empty = not one[middle].any() and not one.any()
            channels.append(
                {
                    "name": name,
                    "window": [0, brightest(one)],
                    "empty": empty,
                    "same_as": FLAIR if same else None,
                }
            )
        return channels

    def _frame(self, patient: str, channel: int, number: int) -> bytes:
        """Return a slice of one sequence as a PNG, see ``lib.plot.pixels.grey_png``.

        Cached, as ``frame``.
        """
        return grey_png(self.volume(patient)[number, ..., channel])

    def packed_masks(self, patient: str) -> list[bytes]:
        """Return ground truth and predictions, in this order, as ``run_lengths``; b"" for none."""
        truth, predicted = self.masks(patient)
        return [b"" if mask is None else run_lengths(mask) for mask in (truth, *predicted.values())]


def _voxels(mask: np.ndarray) -> np.ndarray:
    """Return how many voxels of a {0, 1} uint8 volume each slice has, ``(S,)``.

    Counting bools is faster than adding.
    """
    return np.array([np.count_nonzero(plane) for plane in mask.view(bool)])


def run_lengths(mask: np.ndarray) -> bytes:
    """Return the places, in reading order, at which a {0, 1} array changes.

    They are little-endian uint32. The array is taken to start with 0.
    """
    flat = mask.ravel()
    places = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return np.concatenate([[0] * int(flat[0]), places]).astype("<u4").tobytes()


def _labelled(shown: Shown) -> dict[str, Prediction]:
    if isinstance(shown, BrainData):
        return {}
    if isinstance(shown, Prediction):
        return {"prediction": shown}
    runs: dict[str, Any] = {"": shown}  # whatever a notebook gives
    if isinstance(shown, Mapping):
        runs = dict(shown)
    elif isinstance(shown, (list, tuple)):
        runs = {f"prediction {i}": run for i, run in enumerate(shown, 1)}
    for run in runs.values():
        if not isinstance(run, Prediction):
            raise KitError(
                f"browse: shows predictions or data, not a {type(run).__name__}; use predict(...), "
                f"of a run its weights"
            )
    if not 1 <= len(runs) <= MOST:
        raise KitError(
            f"browse: {len(runs)} predictions given, 1 to {MOST} can be shown side by side; "
            f"choose some"
        )
    return {str(label): run for label, run in runs.items()}


def _scores(run: Prediction) -> dict[str, float]:
    """Return patient -> DSC on the file's own grid, of those that have one."""
    if "dsc_native" not in run.cases:
        return {}
    scored = run.cases.dropna(subset=["dsc_native"])
    return dict(zip(scored["patient"], scored["dsc_native"], strict=True))


def _run_header(label: str, mask: np.ndarray | None, truth: np.ndarray | None) -> dict[str, Any]:
    if mask is None:
        return {"label": label, "dsc": None, "slices": []}
    inside = truth if truth is not None else np.zeros_like(mask)
    tp, found, there = map(_voxels, (mask & inside, mask, inside))
    slices = np.stack([tp, found - tp, there - tp], axis=1)
    dsc = None if truth is None else Counts(*map(int, slices.sum(axis=0))).dsc
    return {"label": label, "dsc": dsc, "slices": slices.tolist()}
