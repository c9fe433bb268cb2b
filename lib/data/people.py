"""Find the patients of one person: visits, and the same images under another name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.data.cache import CachedPatient
from lib.data.layout import person_of
from lib.data.patients import Patient

SCANS = 8  # slices of a patient that a file of weights remembers


def people(
    patients: Mapping[str, Patient], records: Mapping[str, CachedPatient]
) -> list[tuple[str, ...]]:
    """Return the patients of each person, by name: several visits, or copies of one scan.

    Two patients are one person if their names differ in the date only, or if they have slices in
    common.
    """
    names = sorted(patients)
    links = _same_scans(names, records)
    first: dict[str, int] = {}
    links += [(row, first.setdefault(patients[name].person, row)) for row, name in enumerate(names)]
    rows, others = np.array(links, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, others)), shape=(len(names), len(names)))
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, connected_components(graph, directed=False)[1], strict=True):
        groups.setdefault(int(label), []).append(name)
    return [tuple(group) for group in groups.values()]


def are_copies(names: Sequence[str], records: Mapping[str, CachedPatient]) -> bool:
    """Return whether some of these patients are copies of one scan."""
    return bool(_same_scans(names, records))


def _same_scans(
    names: Sequence[str], records: Mapping[str, CachedPatient]
) -> list[tuple[int, int]]:
    """Return the pairs of places in ``names`` whose patients have two slices in common.

    No two heads give the same pixels, noise and all. One slice may be equal by mishap; it is enough
    where a scan has no more.
    """
    slices = [set(records[name].slices) for name in names]
    owners: dict[str, list[int]] = {}
    for row, signs in enumerate(slices):
        for sign in signs:
            owners.setdefault(sign, []).append(row)
    common = Counter(pair for rows in owners.values() for pair in combinations(rows, 2))
    return [
        (one, other)
        for (one, other), count in common.items()
        if count >= min(2, len(slices[one]), len(slices[other]))
    ]


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
        if patient.person in persons
        or len(signs.intersection(records[name].slices)) >= min(2, len(records[name].slices) or 1)
    )
