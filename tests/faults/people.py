"""B. Who has been seen: visits, copies and other names do not bring a person to both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lib.dataset import folds, load_data, make_split
from lib.evaluate import calibrate
from lib.grade.test_set import prepare_exam
from lib.predict import load_weights, predict, unseen
from lib.sweep.crossval import ensemble
from lib.utils import KitError
from tests.conftest import NAMES, brain, write_patient
from tests.faults.things import data_in, runs_in, trained
from tests.faults.tries import Try, kind

SPLITS = ("auto", "holdout", "holdout:2", "holdout:3", "fold-1-of-3", "fold-2-of-3", "fold-3-of-3")


def _date(t: Try) -> str:
    dash = t.pick(("", "", "-", "."))
    return dash.join(
        (f"{t.number(1980, 2015)}", f"{t.number(1, 13):02d}", f"{t.number(1, 29):02d}")
    )


def _another_name(t: Try) -> str:
    return t.pick(
        (f"TCGA_HT_{t.number(1000, 9999)}_{_date(t)}", f"P{t.number(100, 999)}", "anon-7")
    )


def _write(t: Try, root: Path, skip: set[str] | None = None) -> None:
    for seed, name in enumerate(NAMES):
        if name not in (skip or ()):
            write_patient(root, name, *brain(seed))


def _copy_of(t: Try, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return a patient's scan as it may come again: whole, or changed where it is no other scan."""
    volume, mask = brain(seed)
    numbers = list(range(1, len(volume) + 1))
    way = t.pick(("same", "mask", "fewer", "renumbered", "half", "reversed"))
    if way == "mask":
        flat = mask.reshape(-1)
        place = t.pick(np.flatnonzero(flat))
        flat[place] = 0
    if way == "fewer":
        gone = t.number(0, len(volume))
        volume, mask = np.delete(volume, gone, 0), np.delete(mask, gone, 0)
        numbers.pop(gone)
    if way == "renumbered":
        numbers = [number + 10 for number in numbers]
    if way == "half":
        volume, mask, numbers = volume[::2], mask[::2], numbers[::2]
    if way == "reversed":
        volume, mask = volume[::-1], mask[::-1]
    return volume, mask, numbers


def _on_one_side(t: Try, root: Path, persons: list[tuple[str, ...]]) -> None:
    """Check every split of a folder: each of these persons is on one side, and it is said."""
    data = load_data(root, 32)
    spec = t.pick(SPLITS)
    split = t.right(lambda: make_split(data, spec))
    for names in persons:
        sides = {name in split.validation for name in names}
        t.must(len(sides) == 1, f"{spec}: {names} are on both sides")
        t.must(all(any(name in note for note in data.remarks[:5]) for name in names), "not a word")
    everyone = sorted((*split.train, *split.validation))
    t.must(everyone == sorted(data.patients), f"{spec}: somebody is lost")


@kind("B", 120)
def visits_of_one_person(t: Try) -> None:
    """Visits with other images, by the date in the name."""
    root = t.folder / "kaggle_3m"
    _write(t, root)
    persons = {}
    for seed in range(50, 50 + t.number(1, 4)):
        whose = t.pick(NAMES)
        visit = f"{whose.rpartition('_')[0]}_{_date(t)}"
        if not (root / visit).exists():
            write_patient(root, visit, *brain(seed))
            persons.setdefault(whose, {whose}).add(visit)
    _on_one_side(t, root, [tuple(sorted(names)) for names in persons.values()])


@kind("B", 160)
def the_same_images_under_another_name(t: Try) -> None:
    root = t.folder / "kaggle_3m"
    _write(t, root)
    seed, name = t.number(0, len(NAMES)), _another_name(t)
    volume, mask, numbers = _copy_of(t, seed)
    write_patient(root, name, volume, mask, numbers)
    _on_one_side(t, root, [tuple(sorted((NAMES[seed], name)))])


@kind("B", 40)
def a_chain_of_visits_and_copies(t: Try) -> None:
    """A visit of one, whose images are a copy of another: all three are one person."""
    root = t.folder / "kaggle_3m"
    _write(t, root)
    one, other = t.rng.permutation(len(NAMES))[:2]
    visit = f"{NAMES[one].rpartition('_')[0]}_{_date(t)}"
    if visit in NAMES:
        return
    write_patient(root, visit, *brain(int(other)))
    _on_one_side(t, root, [tuple(sorted((NAMES[one], NAMES[other], visit)))])


@kind("B", 60)
def strangers_are_not_taken_for_one(t: Try) -> None:
    """Blank slices, equal masks and names that begin alike make nobody the same."""
    root = t.folder / "kaggle_3m"
    ways = ("P{}", "TCGA_CS_{}", "a_b_{}", "scan_200001{}", "200001{}")
    way = t.pick(ways)
    names = [way.format(number) for number in range(10, 16)]
    blank = np.full((32, 32, 3), t.pick((0, 7, 255)), np.uint8)
    if t.chance(0.4):
        blank[:8] = 200  # a caption
    for seed, name in enumerate(names):
        volume, mask = brain(seed)
        volume[0] = blank  # all scans begin with the same slice
        write_patient(root, name, volume, mask)
    data = load_data(root, 32)
    t.must(not any("=" in note for note in data.remarks), f"{data.remarks}")
    split = make_split(data, "holdout:2")
    t.must(len(split.validation) == 2, "not two patients")


@kind("B", 60)
def the_published_split_with_a_visit(t: Try) -> None:
    """A second visit of a patient across the published split is refused."""
    from lib.dataset import PUBLISHED_VALIDATION

    root = t.folder / "kaggle_3m"
    for seed, name in enumerate((*PUBLISHED_VALIDATION, *NAMES)):
        write_patient(root, name, *brain(seed, slices=3))
    whose = t.pick(PUBLISHED_VALIDATION)
    visit = f"{whose.rpartition('_')[0]}_{_date(t)}"
    if visit in PUBLISHED_VALIDATION:
        return
    write_patient(root, visit, *brain(t.number(60, 99), slices=3))
    data = load_data(root, 32)
    t.refuse(lambda: make_split(data, "published"), whose, visit)


@kind("B", 80)
def who_was_trained_on_is_known_again(t: Try) -> None:
    """Under another name, with another date, with a slice less: seen, and in no headline."""
    folder = t.shared(trained)
    run = runs_in(folder)[0]
    network = load_weights(run / "best.pt")
    seed = t.pick([i for i, name in enumerate(NAMES) if name in network.trained_on])
    stranger = t.pick([i for i, name in enumerate(NAMES) if name not in network.trained_on])
    root = t.folder / "kaggle_3m"
    if t.chance(0.3):  # another visit: other images, the name tells
        name = f"{NAMES[seed].rpartition('_')[0]}_{_date(t)}"
        write_patient(root, name, *brain(70))
    else:
        name = _another_name(t)
        write_patient(root, name, *_copy_of(t, seed))
    other = "somebody_else"
    write_patient(root, other, *brain(stranger))
    data = load_data(root, 32)
    t.must(unseen(network, data) == (other,), f"not seen: {unseen(network, data)}")
    prediction = predict(network, data, device="cpu", precision="fp32")
    t.must(prediction.seen == (name,), f"seen: {prediction.seen}")
    alone = predict(network, data, patients=[other], device="cpu", precision="fp32")
    headline = str(prediction).splitlines()[:2]
    t.must(str(alone).splitlines()[:2] == headline, f"the headline counts {name}")
    t.refuse(lambda: ensemble([network], data, device="cpu", precision="fp32"), name)
    t.must(len(calibrate(network, data, [name, other]).dsc) == 1, "calibrated on the seen")


@kind("B", 40)
def weights_that_do_not_say_whom_they_saw(t: Try) -> None:
    """Unknown is not no."""
    folder = t.shared(trained)
    content = torch.load(runs_in(folder)[0] / "best.pt", weights_only=True)
    file = t.folder / "weights.pt"
    way = t.pick(("nobody", "missing", "number", "numbers"))
    if way == "missing":
        del content["trained_on"], content["scans"]
    else:
        content["trained_on"] = {"nobody": [], "number": 7, "numbers": [1, 2]}[way]
    torch.save(content, file)
    if way in ("number", "numbers"):
        t.refuse(lambda: load_weights(file), file)
        return
    data = data_in(folder)
    prediction = predict(file, data, t.folder / "masks", device="cpu", precision="fp32")
    t.must("do not say" in str(prediction), "no caveat")
    rows = (t.folder / "masks" / "cases.csv").read_text().splitlines()[1:]
    t.must(all(row.split(",")[2] == "unknown" for row in rows), f"seen is {rows[0]}")
    network = replace(load_weights(file), trained_on=())
    t.refuse(lambda: ensemble([network], data))


@kind("B", 20)
def folds_score_each_person_once(t: Try) -> None:
    root = t.folder / "kaggle_3m"
    _write(t, root)
    visit = f"{t.pick(NAMES).rpartition('_')[0]}_{_date(t)}"
    if not (root / visit).exists():
        write_patient(root, visit, *brain(80))
    data = load_data(root, 32)
    parts = folds(data, t.number(2, 5))
    scored = [name for part in parts for name in part.validation]
    t.must(sorted(scored) == sorted(data.patients), "not each patient once")
    persons = [{data.patients[name].person for name in part.validation} for part in parts]
    t.must(sum(map(len, persons)) == len(set().union(*persons)), "a person in two folds")


@kind("B", 20)
def the_exam_is_of_people_not_learnt_from(t: Try) -> None:
    """The grader's validation patients share no person with those to learn from."""
    root = t.folder / "kaggle_3m"
    _write(t, root)
    seed, name = t.number(0, len(NAMES)), _another_name(t)
    write_patient(root, name, *_copy_of(t, seed))
    try:
        exam = prepare_exam(root, t.pick(("auto", "holdout:2")))
    except KitError:
        t.refused = True
        return
    sides = {patient in exam.split.validation for patient in (NAMES[seed], name)}
    t.must(len(sides) == 1, "on both sides")
