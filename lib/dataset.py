"""Patients ready for a network: loading, splits by patient, and the draw of training slices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lib.config import Config, require_config, require_fields
from lib.data import Cache, Patient, find_root, list_patients, open_cache, read_patient
from lib.data.cache import CachedPatient
from lib.data.patients import passed_over
from lib.data.people import are_copies, known, people, scans
from lib.runtime import load_class
from lib.runtime.device import to_device
from lib.runtime.trial import in_words
from lib.transform import Drawn, build_augmentation
from lib.utils import KitError, fingerprint, see

PUBLISHED_VALIDATION = tuple(
    f"TCGA_{name}"
    for name in (
        "CS_4944_20010208",
        "CS_6667_20011105",
        "CS_6668_20011025",
        "DU_5851_19950428",
        "DU_6404_19850629",
        "DU_6408_19860521",
        "DU_7014_19860618",
        "HT_7616_19940813",
        "HT_7692_19960724",
        "HT_7879_19981009",
    )
)
"""The ten validation patients of the published code (its ``random.sample`` with seed 42)."""

_SPLIT_SEED = 42  # not Config.seed: runs with other seeds must be scored on the same patients


@dataclass(frozen=True)
class Split:
    """Patients to learn from and patients to score, never the same ones."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class BrainData:
    """A dataset in prepared files, with its patients and their own files."""

    name: str
    root: Path
    image_size: int
    preprocessing: str
    patients: dict[str, Patient]
    cache: Cache
    remarks: tuple[str, ...] = ()  # on the files, the most serious first

    @cached_property
    def fingerprint(self) -> str:
        """Return the hex SHA-256 of the pixels of all patients, whatever the dates of the files."""
        return fingerprint(
            sorted((name, record.sha256) for name, record in self.cache.records.items())
        )

    def named(self, patients: Sequence[str]) -> tuple[str, ...]:
        """Return names of patients; raise ``KitError`` for one who is not there."""
        if isinstance(patients, str) or not isinstance(patients, Iterable):
            raise KitError(f"patients is {patients!r}; give a list of names")
        for name in (names := tuple(patients)):
            if name not in self.patients:
                raise KitError(
                    f"{self.root}: no patient {name} there; the first of {len(self.patients)} is "
                    f"{next(iter(self.patients))}"
                )
        return names

    def record(self, patient: str) -> CachedPatient:
        """Return what the cache knows of one patient."""
        self.named((patient,))
        return self.cache.records[patient]

    def truth(self, patient: str) -> np.ndarray | None:
        """Return the mask on the file's grid, ``(S, H, W)`` {0, 1} uint8; None without masks."""
        self.named((patient,))
        return self.cache.truth_mask(patient)

    def volume(self, patient: str) -> np.ndarray:
        """Return the images, ``(S, H, W, 3)`` uint8: pre-contrast, FLAIR, post-contrast."""
        self.named((patient,))
        return read_patient(self.patients[patient])[0]

    def slices(self, patients: Sequence[str], neighbours: int = 0) -> SliceDataset:
        """Return the slices of some patients as a dataset, neighbours in further channels."""
        return SliceDataset(self.cache, self.named(patients), neighbours)

    def report(self) -> str:
        """Return a summary of the data, in a few lines."""
        records = self.cache.records.values()
        counts = [record.geometry.shape[0] for record in records]
        lines = [
            f"{self.name}: {len(records)} patients, {sum(counts)} slices "
            f"({min(counts)} to {max(counts)} each), "
            f"{sum(record.tumour_slices for record in records)} with tumour"
        ]
        remarks = self.remarks
        lines += [f"  note: {remark}" for remark in remarks[:5]]
        if len(remarks) > 5:
            lines.append(f"  ... and {len(remarks) - 5} more notes")
        return "\n".join(lines)

    def has_mask(self, patient: str) -> bool:
        """Return whether there is ground truth for a patient."""
        return self.record(patient).has_mask

    def scans(self, patients: Sequence[str]) -> list[str]:
        """Return signs by which the images of patients are known again under other names."""
        return scans(patients, self.cache.records)

    def known(self, names: Sequence[str], scans: Sequence[str] = ()) -> frozenset[str]:
        """Return the patients here who are among others: by name, as a person, or by images.

        Args:
            names: of the others.
            scans: of the others, as far as they are known.
        """
        return known(self.patients, self.cache.records, names, scans)


def require_loaded(data: object) -> BrainData:
    """Return data from ``load_data``; raise ``KitError`` for all else, such as a folder's path."""
    if isinstance(data, BrainData):
        return data
    shown = repr(str(data)) if isinstance(data, (str, Path)) else f"a {type(data).__name__}"
    raise KitError(f"data: expected what load_data returns, got {shown}; use load_data(folder)")


def require_prepared(data: object, config: object) -> None:
    """Raise ``KitError`` unless data is loaded, with the size and preprocessing of a ``Config``."""
    loaded = require_loaded(data)
    config = require_config(config)
    if (config.image_size, config.preprocessing) != (loaded.image_size, loaded.preprocessing):
        raise KitError(
            f"config asks for {config.preprocessing} at {config.image_size} pixels, the data was "
            f"loaded as {loaded.preprocessing} at {loaded.image_size}; load it with the config's "
            f"values"
        )


def load_data(
    root: str | Path, image_size: int = 256, preprocessing: str = "reference"
) -> BrainData:
    """Find, check and preprocess a dataset in the Kaggle layout, or open its cache.

    Args:
        root: the Kaggle folder, a folder that holds it, ``archive.zip``, or ``kaggle`` to download
            it.
        image_size: edge of the network's slices, pixels.
        preprocessing: see ``Config.preprocessing`` and ``lib.transform.preprocess``.

    Raises:
        KitError: nothing usable there, or damaged files.
    """
    require_fields(image_size=image_size, preprocessing=preprocessing)
    folder = find_root(root)
    patients = list_patients(folder)
    cache = open_cache(folder, patients, image_size, preprocessing)
    by_name = {patient.name: patient for patient in patients}
    remarks = (*_same_people(by_name, cache), *cache.remarks, *passed_over(folder, patients))
    return BrainData(folder.name, folder, image_size, preprocessing, by_name, cache, remarks)


def _same_people(patients: dict[str, Patient], cache: Cache) -> list[str]:
    """Return a remark for each person who is there more than once."""
    remarks = []
    for names in people(patients, cache.records):
        if len(names) > 1:
            copies = are_copies(names, cache.records)
            what = "the same images" if copies else "visits of one person"
            remarks.append(
                f"{' = '.join(names)}: {what}; a split keeps them on one side"
                + ("; remove all but one" if copies else "")
            )
    return remarks


# --- splits ---------------------------------------------------------------------------------------


def make_split(data: BrainData, spec: str = "auto") -> Split:
    """Return the split that ``Config.split`` names.

    ``auto`` is ``published`` if all 110 patients of the dataset are there, and a half of the
    patients for phantoms. Otherwise it is ``holdout``: a stratified tenth, at least 5 and at most
    10 patients. ``holdout:N`` holds out N persons, ``fold-I-of-K`` is one of ``folds(data, K)``.
    ``all`` holds out nobody: for weights to be used, by a recipe that was chosen before. All visits
    of a person, and the same images under two names, are on the same side.

    Raises:
        KitError: the data cannot be split so.
    """
    spec, names = str(spec), tuple(require_loaded(data).patients)
    unlabelled = [name for name in names if not data.has_mask(name)]
    if unlabelled:
        raise KitError(
            f"{data.root}: {len(unlabelled)} patients have no masks, e.g. {unlabelled[0]}; "
            f"training and scoring need them"
        )
    if spec == "auto":
        complete = len(names) == 110 and set(PUBLISHED_VALIDATION) <= set(names)
        persons = len(people(data.patients, data.cache.records))
        phantom = all(name.startswith("PHANTOM_") for name in names)
        spec = (
            "published" if complete else f"holdout:{max(1, persons // 2)}" if phantom else "holdout"
        )
    if spec == "published":
        missing = set(PUBLISHED_VALIDATION).difference(names)
        if missing:
            raise KitError(
                f"{data.root}: the published split needs {min(missing)} and {len(missing) - 1} "
                f"more; use split=auto or fold-1-of-5"
            )
        return _published(data)
    if spec == "all":
        return _split(data, "all", ())
    if match := re.fullmatch(r"holdout(?::(\d+))?", spec):
        persons = len(people(data.patients, data.cache.records))
        count = int(match[1]) if match[1] else min(max(persons // 10, 5), 10, persons // 2)
        return _holdout(data, count)
    if (match := re.fullmatch(r"fold-(\d+)-of-(\d+)", spec)) and 1 <= int(match[1]) <= int(
        match[2]
    ):
        return folds(data, int(match[2]))[int(match[1]) - 1]
    raise KitError(
        f"split {spec!r} is unknown; use auto, published, holdout, holdout:N, fold-I-of-K or all"
    )


def _published(data: BrainData) -> Split:
    """Return the published split. Raises KitError if a person is on both sides of it."""
    split = _split(data, "published", [PUBLISHED_VALIDATION])
    for names in people(data.patients, data.cache.records):
        if 0 < len(set(names) & set(split.train)) < len(names):
            raise KitError(
                f"{data.root}: {' and '.join(names)} are one person, on both sides of the "
                f"published split; remove what is not of the dataset"
            )
    return split


def folds(data: BrainData, k: int = 5, seed: int = _SPLIT_SEED) -> list[Split]:
    """Cross-validation: each patient is scored once, institutions are spread evenly over the folds.

    Raises:
        KitError: k is no whole number, below 2, or above the number of patients.
    """
    order = _dealing_order(require_loaded(data), seed)
    if not isinstance(k, Integral) or not 2 <= k <= len(order):
        raise KitError(
            f"{k!r} folds of {len(order)} patients: k must be a whole number from 2 to the number "
            f"of patients"
        )
    return [_split(data, f"fold-{i + 1}-of-{k}", order[i::k]) for i in range(k)]


def _holdout(data: BrainData, count: int) -> Split:
    order = _dealing_order(data, _SPLIT_SEED)
    if not 1 <= count < len(order):
        raise KitError(
            f"{data.root}: cannot hold out {count} of {len(order)} patients; at least one must be "
            f"left to learn from and one to score"
        )
    # evenly spaced along an order sorted by institution: each is represented by its share
    picks = [order[int((i + 0.5) * len(order) / count)] for i in range(count)]
    return _split(data, f"holdout:{count}", picks)


def _dealing_order(data: BrainData, seed: int) -> list[tuple[str, ...]]:
    """Return people, each with their patients, sorted by institution and shuffled within.

    Every k-th of this order is a sample with its share of each institution.
    """
    persons = people(data.patients, data.cache.records)
    shuffled = [persons[i] for i in np.random.default_rng(seed).permutation(len(persons))]
    return sorted(shuffled, key=lambda names: data.patients[names[0]].institution)


def _split(data: BrainData, name: str, persons: Sequence[tuple[str, ...]]) -> Split:
    """Return the split whose validation patients are those of ``persons``."""
    held_out = {patient for names in persons for patient in names}
    train = tuple(patient for patient in data.patients if patient not in held_out)
    return Split(name, train, tuple(sorted(held_out)))


# --- slices ---------------------------------------------------------------------------------------


class SliceDataset(Dataset[tuple[Tensor, Tensor]]):
    """Give the slices of some patients, patient by patient, as a torch dataset.

    Nothing is augmented. An item is ``(image (C, H, W) float32, mask (1, H, W) float32 {0, 1})``.
    Training uses ``batch``, which gathers many at once; ``__getitems__`` lets a ``DataLoader`` do
    the same.

    Args:
        neighbours: how many slices below and above are given too. The channels of the slice come
            first, then those of the next one below, above, the second below and so on. Beyond the
            end of a patient its last slice is repeated.
    """

    def __init__(self, cache: Cache, patients: tuple[str, ...], neighbours: int = 0) -> None:
        ranges = [cache.records[name].rows for name in patients]
        self.patients = patients
        self.lengths = [stop - start for start, stop in ranges]
        offsets = [0]
        for distance in range(1, neighbours + 1):
            offsets += [-distance, distance]
        # rows of the arrays that each slice is made of, (len, 2 neighbours + 1)
        rows = [np.empty((0, len(offsets)), int)]
        for start, stop in ranges:
            wanted = np.arange(start, stop)[:, None] + offsets
            rows.append(np.clip(wanted, start, stop - 1))
        self._rows = np.concatenate(rows)
        self._cache = cache
        self._moved: tuple[Tensor, Tensor, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Return the bytes that ``move_to`` needs on a device."""
        arrays = (self._cache.images, self._cache.masks)
        return int(len(self) * sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in arrays))

    def move_to(self, device: torch.device) -> None:
        """Copy the slices to ``device``, where ``batch`` gathers them; a CPU reads the files."""
        self._moved = None
        if device.type != "cpu":
            rows, places = np.unique(self._rows, return_inverse=True)
            images, masks = (
                torch.from_numpy(array[rows]).to(device)
                for array in (self._cache.images, self._cache.masks)
            )
            self._moved = images, masks, places.reshape(self._rows.shape)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, masks = self.batch(np.array([index]))
        return images[0], masks[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self.batch(np.asarray(indices)), strict=True))

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return images ``(N, C, H, W)`` and masks ``(N, 1, H, W)``, both float32."""
        if self._moved is None:
            rows = self._rows[indices]
            images = torch.from_numpy(self._cache.images[rows])
            masks = torch.from_numpy(self._cache.masks[rows[:, :1]])
        else:
            all_images, all_masks, places = self._moved
            chosen = to_device(torch.from_numpy(places[indices]), all_images.device)
            images, masks = all_images[chosen], all_masks[chosen[:, :1]]
        return images.flatten(1, 2).float(), masks.float()

    def volume_masks(self) -> list[np.ndarray]:
        """Return the masks of each of ``patients``, ``(S, H, W)`` {0, 1} uint8."""
        ends = np.cumsum(self.lengths)[:-1]
        return [self._cache.masks[rows] for rows in np.split(self._rows[:, 0], ends)]

    @cached_property
    def areas(self) -> np.ndarray:
        """Return the tumour pixels of each slice, ``(len,)``."""
        sums = [mask.sum((1, 2), dtype=int) for mask in self.volume_masks()]
        return np.concatenate([np.empty(0, int), *sums])


class Sampler:
    """Draw samples as published: a random patient, then one of its slices by weight.

    The weight is the tumour area plus a share w of its mean. If a share e of a patient's slices is
    without tumour, these are e w / (1 + w) of its samples.

    A draw depends on (seed, epoch) alone, so that an interrupted run goes on with the samples it
    would have seen. ``frozen`` repeats the draw of epoch 0: the published code seeds its loader's
    workers anew at every epoch.

    A custom class derives from this one, and has its own ``draw_slices``.

    Args:
        slices: the training slices; an epoch has as many samples.
        config: its ``seed``, ``sampling``, ``background_weight`` and augmentation count.
    """

    def __init__(self, slices: SliceDataset, config: Config) -> None:
        self.slices, self.config = slices, config
        self._patients = len(slices.patients)
        # patient p owns the interval [p, p + 1), shared out among its slices by weight: one uniform
        # number draws both
        areas_by_patient = np.split(slices.areas, np.cumsum(slices.lengths)[:-1])
        intervals = [
            patient + _cumulative_weights(areas, config.background_weight)
            for patient, areas in enumerate(areas_by_patient)
        ]
        self._cumulative = np.concatenate(intervals)

    def draw(self, epoch: int) -> tuple[np.ndarray, Drawn]:
        """Draw the samples of an epoch, counted from 0: indices ``(n,)`` and augmentation."""
        frozen = self.config.sampling == "frozen"
        rng = np.random.default_rng([self.config.seed, 0 if frozen else epoch])
        indices = self._checked(self.draw_slices(rng))
        return indices, build_augmentation(self.config).draw(rng, len(indices))

    def _checked(self, drawn: Any) -> np.ndarray:
        """Return the slices that were drawn. Raises KitError unless they are those of an epoch."""
        indices, count = np.asarray(drawn), len(self._cumulative)
        whole = indices.shape == (count,) and np.issubdtype(indices.dtype, np.integer)
        if not whole or (count and not 0 <= indices.min() <= indices.max() < count):
            raise KitError(
                f"{self.config.sampling}: draw_slices must return {count} integers from 0 to "
                f"{count - 1}, got {indices.dtype} of shape {indices.shape}; "
                f"{see('extending', 'A sampler, an optimiser, a schedule')}"
            )
        return indices

    def draw_slices(self, rng: np.random.Generator) -> np.ndarray:
        """Return the numbers of the slices of an epoch, ``(len(slices),)``, in their order."""
        n = len(self._cumulative)
        indices = np.searchsorted(self._cumulative, rng.random(n) * self._patients, side="right")
        return np.minimum(indices, n - 1)


def build_sampler(slices: SliceDataset, config: Config) -> Sampler:
    """Return the sampler of ``config``, the kit's or a custom one.

    Raises:
        KitError: there is no such class, it does not derive from ``Sampler``, or draws no slices.
    """
    name = config.custom.get("sampling")
    if not name:
        return Sampler(slices, config)
    with in_words(name):
        sampler = load_class(name, Sampler)(slices, config)
        sampler.draw(0)
    return sampler


def _cumulative_weights(areas: np.ndarray, background_weight: float) -> np.ndarray:
    """Return the cumulative probabilities of a patient's slices, ending at 1."""
    weights = np.ones(len(areas))
    if areas.any():
        weights = areas + background_weight * areas.mean()
    cumulative = np.cumsum(weights / weights.sum())
    cumulative[-1] = 1.0
    return cumulative
