"""Tell who is who: the visits of a person, and the same images under another name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.data.cache import CachedPatient
from lib.data.kaggle import Patient, person_of

SCANS = 8  # slices of a patient that a file of weights remembers


def people(
    patients: Mapping[str, Patient], records: Mapping[str, CachedPatient]
) -> list[tuple[str, ...]]:
    """Return the patients of each person, by name: several visits, or copies of one scan.

    Two patients are one person if their names differ in the date only, or if they have a slice in
    common: no two heads give the same pixels, noise and all.
    """
    names = sorted(patients)
    signs = [(patients[name].person, *records[name].slices) for name in names]
    columns = {sign: column for column, sign in enumerate({s for each in signs for s in each})}
    places = [(row, len(names) + columns[sign]) for row, each in enumerate(signs) for sign in each]
    rows, others = np.array(places, int).reshape(-1, 2).T
    size = len(names) + len(columns)
    links = coo_array((np.ones(len(rows)), (rows, others)), shape=(size, size))
    labels = connected_components(links, directed=False)[1][: len(names)]
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    return [tuple(group) for group in groups.values()]


def are_copies(names: Iterable[str], records: Mapping[str, CachedPatient]) -> bool:
    """Return whether some of these patients have slices in common."""
    slices = [sign for name in names for sign in set(records[name].slices)]
    return len(set(slices)) < len(slices)


def scans(names: Iterable[str], records: Mapping[str, CachedPatient]) -> list[str]:
    """Return signs by which these patients are known again under other names, sorted.

    Of each patient the smallest hashes of slices: if a copy lacks some slices, most of these are
    still the smallest.
    """
    return sorted({sign for name in names for sign in sorted(set(records[name].slices))[:SCANS]})


def known(
    patients: Mapping[str, Patient],
    records: Mapping[str, CachedPatient],
    names: Iterable[str],
    signs: Collection[str],
) -> frozenset[str]:
    """Return the patients who are among others: by name, as a person, or by their images.

    Args:
        names: of the others.
        signs: their ``scans``, as far as they are known.
    """
    persons, signs = {person_of(name) for name in names}, set(signs)
    return frozenset(
        name
        for name, patient in patients.items()
        if patient.person in persons or not signs.isdisjoint(records[name].slices)
    )
