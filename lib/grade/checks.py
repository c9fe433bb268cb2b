"""What a hand-in claims: does it agree with itself, with the assignment's data, and with the kit's own code?

Every check reads; none computes a score, and none imports what was handed in.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib import train
from lib.config import LOSSES, MODELS
from lib.dataset import Split
from lib.evaluate import native_scores
from lib.grade.solutions import without_solutions
from lib.grade.submission import Submission
from lib.grade.test_set import Exam
from lib.logger import SCHEMA, run_id
from lib.metrics import Counts
from lib.optim import learning_rate
from lib.runtime import code_fingerprint
from lib.utils import PROJECT, sha256

EXACT = 1e-6
"""How far numbers may be apart that are written with eight digits and must be equal."""
PROTECTED = ("metrics.py", "evaluate.py", "dataset.py")
"""Files below ``lib`` that decide what a score is; no assignment asks to change them."""
_MAX_DIFF, _MAX_SOURCE = 200, 100_000  # lines shown, characters compared


class Finding(NamedTuple):
    """Something that a grader should know.

    Attributes:
        level: ``fault`` (no points until a human has looked), ``review`` (points stand, a human
        should look), ``note``.
        name: a few words, the same for all of its kind.
        text: a sentence for the student's page.
        private: a sentence for the instructor alone.
    """

    level: str
    name: str
    text: str
    private: str = ""


# --- claims against each other --------------------------------------------------------------------


def check_tables(submission: Submission, tolerance: float) -> Iterator[Finding]:
    """The result CSV, history.csv, cases.csv and run.json tell of one run: do they agree?

    Args:
        tolerance: for the mean of cases.csv, which is computed in other batches than the epoch's
            DSC: a GPU may round them otherwise.
    """
    history, claim, info = submission.history, submission.claim, submission.info
    if len(claim) != len(history) or any(
        _differ(claim[name], history[name]) for name in ("epoch", "val_dsc", "lr")
    ):
        yield Finding(
            "fault",
            "tables disagree",
            "The result CSV holds other numbers than the run's history.csv.",
        )
    best, mean = info["best"]["val_dsc"], float(submission.cases["dsc"].mean())
    if abs(best - float(history["val_dsc"].max())) > EXACT or abs(best - mean) > tolerance:
        yield Finding(
            "fault",
            "tables disagree",
            f"The best DSC is {best:.4f} in run.json, "
            f"{history['val_dsc'].max():.4f} in history.csv and {mean:.4f} as the mean of cases.csv.",
        )
    names = [
        name
        for name in ("best.pt", "history.csv", "cases.csv")
        if not (submission.folder / name).is_file()
        or info["sha256"].get(name) != sha256(submission.folder / name)
    ]
    if names:
        yield Finding(
            "fault",
            "files changed",
            f"{', '.join(names)}: not as the run left them (SHA-256 in run.json).",
        )


def _differ(one: pd.Series, other: pd.Series) -> bool:
    return not np.allclose(one, other, rtol=EXACT, atol=EXACT)


def check_history(submission: Submission) -> Iterator[Finding]:
    """Could training have written this history.csv?"""
    history, config = submission.history, submission.config
    problems = []
    if history["epoch"].tolist() != list(range(1, config.epochs + 1)):
        problems.append(f"its epochs are not 1 to {config.epochs}")
    elif submission.info["best"]["epoch"] != int(history["val_dsc"].argmax()) + 1:
        problems.append("the best epoch is not the first with the largest DSC")
    else:
        losses = history["val loss"].tolist()
        rates = [learning_rate(config, epoch, losses[:epoch]) for epoch in range(config.epochs)]
        if not np.allclose(history["lr"], rates, rtol=EXACT, atol=0):
            problems.append(f"the learning rate is not that of schedule {config.lr_scheduler}")
    if problems:
        yield Finding("fault", "history implausible", f"history.csv: {problems[0]}.")


def check_cases(submission: Submission, exam: Exam) -> Iterator[Finding]:
    """Do the numbers of a row of cases.csv follow from its voxel counts, and those from the truth?"""
    for row in submission.cases.itertuples():
        found = Counts(int(row.tp), int(row.fp), int(row.fn))
        derived = native_scores(found)
        wrong = [name for name, value in derived.items() if abs(getattr(row, name) - value) > EXACT]
        slices, voxels = exam.voxels.get(row.patient, (row.slices, found.tp + found.fn))
        if wrong:
            yield Finding(
                "fault",
                "impossible numbers",
                f"cases.csv: {wrong[0]} of {row.patient} does not follow from its tp, fp and fn.",
            )
        elif (slices, voxels) != (row.slices, found.tp + found.fn):
            yield Finding(
                "fault",
                "impossible numbers",
                f"cases.csv: {row.patient} has {voxels} voxels of tumour in "
                f"{slices} slices, not {found.tp + found.fn} in {row.slices}.",
            )
        else:
            continue
        return  # one row is enough to doubt the table


def check_split(submission: Submission, exam: Exam) -> Iterator[Finding]:
    """Was it trained and scored on the patients that the assignment says?"""
    learnt, scored = (set(submission.info["split"][name]) for name in ("train", "validation"))
    validation = set(exam.split.validation)
    seen = validation & learnt
    if seen or learnt & scored:
        yield Finding(
            "fault",
            "trained on validation patients",
            f"{len(seen or learnt & scored)} of the patients that are scored were trained on.",
        )
    if scored != validation or not learnt <= set(exam.split.train):
        yield Finding(
            "fault",
            "wrong split",
            f"Scored on {len(scored)} patients, {len(scored & validation)} of them "
            f"among the {len(validation)} of the assignment.",
        )
    elif learnt != set(exam.split.train):
        yield Finding(
            "review",
            "fewer training patients",
            f"Trained on {len(learnt)} of {len(exam.split.train)}.",
        )
    if set(submission.cases["patient"]) != scored or submission.cases["patient"].duplicated().any():
        yield Finding(
            "fault", "tables disagree", "cases.csv holds other patients than the run was scored on."
        )


def check_identity(submission: Submission, exam: Exam) -> Iterator[Finding]:
    """Is the run what its name says: this config, on this data, by this code?"""
    info, config = submission.info, submission.config
    if info.get("schema") != SCHEMA:
        yield Finding(
            "review",
            "other version",
            "The run was made with a version of the kit that made its id in another way.",
        )
    elif info["data"]["sha256"] != exam.data.fingerprint:
        yield Finding(
            "review",
            "other data",
            "The run saw images that are not, pixel for pixel, the instructor's.",
        )
    else:
        split = Split("", tuple(info["split"]["train"]), tuple(info["split"]["validation"]))
        if run_id(config, exam.data, split, info["code"]["sha256"]) != submission.run_id:
            yield Finding(
                "fault",
                "run id does not fit",
                "The run's id is not that of its config, data, split and code.",
            )
    known = (
        config.model in MODELS and config.loss in LOSSES
    )  # a class of one's own would have to be imported
    # of a narrow network: the width is not part of the fingerprint
    narrow = replace(config, init_features=1)
    if known and code_fingerprint(*train.build(narrow), train.SOURCES) != info["code"]["sha256"]:
        yield Finding(
            "note", "other code", "The run was made with other sources than the instructor's."
        )


# --- lib ------------------------------------------------------------------------------------------


def lib_diff(folder: Path) -> dict[str, list[str]]:
    """How a handed-in ``lib`` differs from this one: file -> lines of a unified diff. Nothing is imported.

    A file without its solutions, as the student edition has it, counts as unchanged.
    """
    if not folder.is_dir():
        return {}
    ours = {
        path.relative_to(PROJECT / "lib").as_posix(): _lines(path)
        for path in (PROJECT / "lib").rglob("*.py")
    }
    theirs = {
        path.relative_to(folder).as_posix(): _lines(path) for path in sorted(folder.rglob("*.py"))
    }
    found = {}
    for name in sorted({*ours, *theirs}):
        if name not in theirs:
            found[name] = ["removed"]
        elif name not in ours:
            found[name] = [f"added: {len(theirs[name])} lines"]
        elif theirs[name] not in (
            ours[name],
            without_solutions("".join(ours[name])).splitlines(keepends=True),
        ):
            found[name] = _diff(ours[name], theirs[name])
    return found


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")[:_MAX_SOURCE]
    return [f"{line[:300]}\n" for line in text.splitlines()]


def _diff(ours: list[str], theirs: list[str]) -> list[str]:
    if len(theirs) > 3 * len(ours) + 1000:  # comparing takes time that grows with the product
        return [f"changed: {len(theirs)} lines instead of {len(ours)}"]
    lines = [
        line.rstrip("\n") for line in difflib.unified_diff(ours, theirs, "kit", "handed in", n=1)
    ]
    return lines[:_MAX_DIFF] + [f"... and {len(lines) - _MAX_DIFF} lines more"] * (
        len(lines) > _MAX_DIFF
    )


def check_lib(diff: dict[str, list[str]]) -> Iterator[Finding]:
    """What a changed ``lib`` means for the score."""
    protected = [name for name in PROTECTED if name in diff]
    others = [name for name in diff if name not in protected]
    if protected:
        yield Finding(
            "fault",
            "metric edited",
            f"lib/{', lib/'.join(protected)}: what decides the score was changed.",
        )
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        yield Finding(
            "note",
            "lib changed",
            f"lib/{', lib/'.join(others[:5])}{more}: changed, added or removed.",
        )
