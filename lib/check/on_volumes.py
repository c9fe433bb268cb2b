"""Try the exercises about masks, augmentation and the split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lib.check.exercise import compared, unchanged, written
from lib.runtime.trial import Check

_PLACES = 1024  # that names are chosen for; a set of ten has 32, one that shrank may have more
_SHARES_AN_EDGE = "voxels are connected by their faces: yours also takes one that shares an edge"


def dsc(score: Any) -> Iterator[Check]:
    """Try ``dsc``: 4 voxels are found, 3 are tumour, 2 are both; two of three slices are empty."""
    predicted, truth = np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    predicted[0, 0, :2] = predicted[0, 1, :2] = truth[0, 0] = True
    arguments = predicted.copy(), truth.copy()
    value = score(*arguments)
    yield written(value, "the coefficient")
    mistakes = {
        "count the overlap twice: both volumes contain it": 2 / 7,
        "divide by both volumes together: yours is the IoU, which counts the overlap once": 2 / 5,
        "count all slices together: a mean over slices rewards the many empty ones": (4 / 7 + 2)
        / 3,
        "count all slices together: yours is a mean over slices, with 0 for empty ones": 4 / 7 / 3,
        "count all slices together: yours is NaN, as some slices are empty": math.nan,
        "add nothing: smoothing is for losses, which need a gradient": 5 / 8,
        "divide by the sum of both: yours is the precision": 2 / 4,
        "divide by the sum of both: yours is the recall": 2 / 3,
        "subtract nothing: 1 is perfect": 3 / 7,
        "compare the masks where one of them is set: yours counts the background, too": 24 / 27,
    }
    yield compared("counts the volume", value, 4 / 7, mistakes, "it is 2 * 2 / (4 + 3)")
    yield unchanged((predicted, truth), arguments)
    empty = np.zeros_like(truth)
    yield compared(
        "is 1 if both are empty",
        score(empty, empty),
        1.0,
        {
            "nothing to find and nothing found is right: return 1 before you divide 0 by 0": 0.0,
            "0 / 0 is no number: return 1 before you divide": math.nan,
        },
        "nothing to find and nothing found is right",
    )
    for name, pair in (
        ("is 0 if all tumour is missed", (empty, truth)),
        ("is 0 if there is none to find", (predicted, empty)),
    ):
        wrong = {
            "only if both are empty it is 1": 1.0,
            "0 / 0 is no number: divide by the sum of both volumes": math.nan,
        }
        yield compared(name, score(*pair), 0.0, wrong, "nothing of it overlaps")
    yield compared("is 1 for equal volumes", score(truth, truth), 1.0, {}, "all of it overlaps")


def largest_component(keep: Any) -> Iterator[Check]:
    """Try ``largest_component``: 5 voxels through three slices against 4 in one."""
    mask = np.zeros((3, 7, 7), bool)
    mask[:, 1, 1] = mask[0, 1, 2] = mask[2, 2, 1] = True  # five, by their faces
    large = mask.copy()
    mask[1, 4:6, 4:6] = True  # four
    mask[2, 3, 2] = True  # touches the five with an edge only
    given = mask.copy()
    value = keep(given)
    yield written(value, "the mask of one component")
    flat = np.zeros_like(mask)
    flat[0, 1, 1:3] = flat[1, 4:6, 4:6] = flat[2, 1:3, 1] = True
    small = np.zeros_like(mask)
    small[2, 3, 2] = True
    edge = large | small
    four = mask & ~edge
    labels = np.where(large, 1, 0)
    mistakes = {
        "connect slices, too: yours takes the largest of each slice, a tumour is a volume": flat,
        "the background is no component: leave out label 0 before you look for the largest": ~mask,
        _SHARES_AN_EDGE: edge,
        "take the largest: yours is the smallest": small,
        "take the largest by its voxels: yours is another component": four,
        "choose one: yours keeps all of them": mask,
        "return a mask, not the labels": 2 * labels,
    }
    yield compared("keeps the largest", value, large, mistakes, "it has 5 voxels in three slices")
    yield _of_bool(value)
    yield unchanged(mask, given)
    turned = keep(mask[::-1, ::-1, ::-1].copy())
    yield compared(
        "keeps the largest, wherever it lies",
        turned,
        large[::-1, ::-1, ::-1],
        {
            "compare sizes, not numbers: the largest need not be component 1": small[
                ::-1, ::-1, ::-1
            ]
        },
        "the same volume, turned, has another numbering",
    )
    mask, large = np.zeros((2, 4, 7, 7), bool)
    mask[:, 1, 1] = mask[0, 1, 1:3] = mask[3, 1:3, 1] = True  # six, through four slices
    mask[1:3, 4:6, 4:6] = large[1:3, 4:6, 4:6] = True  # eight, in two slices and a smaller box
    mask[0, 3, 5] = True  # touches the eight with an edge only, from slice to slice
    thin = mask & ~large
    thin[0, 3, 5] = False
    yield compared(
        "keeps the one with most voxels",
        keep(mask.copy()),
        large,
        {
            "count voxels: yours takes the component with the largest box, or most slices": thin,
            _SHARES_AN_EDGE: mask & ~thin,
        },
        "eight voxels in two slices are more than six in four",
    )
    nothing = keep(np.zeros_like(mask))
    yield compared(
        "stays empty for an empty mask",
        nothing,
        np.zeros_like(mask),
        {"a network may find nothing: without a component return the mask": ~np.zeros_like(mask)},
        "a network may find nothing",
    )
    yield _of_bool(nothing)


def _of_bool(mask: Any) -> Check:
    """Return whether a mask is an array of bool."""
    kind = getattr(mask, "dtype", type(mask).__name__)
    remedy = f"its type is {kind}: compare the labels with one"
    if not np.any(mask):
        remedy = f"its type is {kind} for an empty mask: return the mask itself, or zeros of bool"
    return Check("is a mask of bool", isinstance(mask, np.ndarray) and mask.dtype == bool, remedy)


def mirror(augment: Any) -> Iterator[Check]:
    """Try ``mirror`` on 200 slices that are their own mirror image nowhere."""
    number = 200
    images = np.random.default_rng(0).random((number, 2, 4, 4))
    masks = (images[:, :1] > 0.5).astype(float)
    arguments = images.copy(), masks.copy()
    value = augment(*arguments, np.random.default_rng(1))
    yield written(value, "the slices and their masks")
    pair = isinstance(value, tuple) and len(value) == 2
    yield Check("returns both", pair, "return the slices and the masks, in this order")
    moved, moved_masks = value
    yield Check(
        "has the right shape",
        (moved.shape, moved_masks.shape) == (images.shape, masks.shape),
        f"expected {images.shape} and {masks.shape}, got {moved.shape} and {moved_masks.shape}",
    )
    yield unchanged((images, masks), arguments)
    kept, turned = _equal(moved, images), _equal(moved, images[..., ::-1])
    upside_down, both = _equal(moved, images[..., ::-1, :]), _equal(moved, images[..., ::-1, ::-1])
    remedy = "yours are neither as they were nor mirrored"
    if upside_down.any() or both.any():
        remedy = "mirror left to right, the last axis: heads are not scanned upside down"
    elif _equal(moved, images[:, ::-1]).any():
        remedy = "mirror the pixels: yours changes the order of the sequences"
    yield Check("mirrors left to right", bool((kept | turned).all()), remedy)
    yield Check(
        "draws for each slice",
        0.35 < turned.mean() < 0.65,
        "all slices are mirrored, or none: draw once for each slice of the batch"
        if turned.mean() in (0, 1)
        else f"{turned.mean():.0%} are mirrored, expected about half",
    )
    right = np.where(turned[:, None, None, None], masks[..., ::-1], masks)
    stays = _equal(moved_masks, masks).all()
    yield Check(
        "moves mask and slice together",
        bool(_equal(moved_masks, right).all()),
        "the masks stay where they were: the network would learn the wrong side"
        if stays
        else "a mask is mirrored where its slice is not: draw once for both",
    )
    again, _ = augment(images.copy(), masks.copy(), np.random.default_rng(1))
    yield Check(
        "draws from rng alone",
        bool(_equal(again, moved).all()),
        "the same rng gives something else: a run could not be repeated",
    )


def _equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for each slice whether it is equal."""
    found: np.ndarray = (one == other).reshape(len(one), -1).all(axis=1)
    return found


def split_by_patient(split: Any) -> Iterator[Check]:
    """Try ``split_by_patient`` on ten patients with one to ten slices."""
    numbers = itertools.count()
    names, twins = (_names(range(10), numbers) for _ in range(2))  # in a set they ascend
    others = _names(range(9, -1, -1), numbers)  # in a set they descend
    patients = _slices(names)
    given = list(patients)
    value = split(given, 3, 0)
    yield written(value, "the slices to train on, and those to validate on")
    pair = isinstance(value, tuple) and len(value) == 2
    yield Check("returns both", pair, "return two lists: to train on, to validate on")
    learn, scored = ([int(index) for index in part] for part in value)
    of_learn, of_scored = ({patients[index] for index in part} for part in (learn, scored))
    leaked = sorted(of_learn & of_scored)
    yield Check(
        "leaks no patient",
        not leaked,
        f"{leaked[0] if leaked else ''} is on both sides: neighbouring slices look alike, so the "
        f"score would measure memory; draw patients, not slices",
    )
    reversed_roles = len(of_learn) == 3
    yield Check(
        "draws so many patients",
        len(of_scored) == 3,
        "train on the many, validate on the few: yours are the other way round"
        if reversed_roles
        else f"{len(of_scored)} patients are validated on, expected 3",
    )
    yield Check(
        "has each slice once",
        sorted(learn + scored) == list(range(len(patients))),
        f"{len(set(learn + scored))} of {len(patients)} slices are in one of the two lists, "
        f"{len(learn + scored)} entries in all",
    )
    ascending = (learn, scored) == (sorted(learn), sorted(scored))
    yield Check("is ascending", ascending, "sort the indices: a run reads the slices in order")
    yield unchanged(patients, given)
    again = [int(index) for index in split(list(patients), 3, 0)[1]]
    yield Check(
        "is the same for the same seed",
        again == scored,
        "two calls differ: draw from a generator that you make of seed, or no two runs compare",
    )
    drawn, backwards = (_drawn(split, names, order) for order in (patients, patients[::-1]))
    yield Check(
        "is another for another seed",
        len(set(drawn)) > 1,
        "every seed gives the same patients: draw them by it",
    )
    yield Check(
        "draws no patient twice",
        all(len(few) == 3 for few in drawn),
        "with some seeds fewer patients come out: draw without replacement",
    )
    yield Check(
        "does not depend on the order of the slices",
        backwards == drawn,
        "other patients come out if the slices come in another order: sort the patients first",
    )
    of_twins, of_others = (_drawn(split, each, _slices(each)) for each in (twins, others))
    # the twins differ from the names in their text alone: a split may draw by that (hashlib)
    yield Check(
        "does not depend on the order of a set",
        of_others == drawn or of_twins != drawn,
        "a set has no order, and other patients come out in another process: draw from a sorted "
        "list of them",
    )


def _slices(names: list[str]) -> list[str]:
    """Return the patient of each slice: one slice of the first, two of the second, and so on."""
    return [name for number, name in enumerate(names) for _ in range(number + 1)]


def _drawn(split: Any, names: list[str], patients: list[str]) -> list[frozenset[int]]:
    """Return the indices in ``names`` of the patients that each of 20 seeds draws."""
    return [
        frozenset(names.index(patients[int(index)]) for index in split(list(patients), 3, seed)[1])
        for seed in range(1, 21)
    ]


def _names(places: Iterable[int], numbers: Iterator[int]) -> list[str]:
    """Return ascending names that have these places in a set of them.

    The last bits of a hash give the place. Hashes of text differ from process to process and
    never change in one, so a split that depends on the order of a set looks repeatable in it.

    Args:
        numbers: to make names of, ascending.
    """
    return [
        next(name for name in map("P{:06}".format, numbers) if hash(name) % _PLACES == place)
        for place in places
    ]
