"""Check what a submission claims: against itself, the assignment's data, and the kit's code.

Every check reads. None computes a score, and none imports what was submitted.
"""

from __future__ import annotations

import ast
import codecs
import difflib
import math
from collections.abc import Hashable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import train
from lib.evaluate import native_scores
from lib.grade.result import Finding
from lib.grade.submission import Submission, unlisted
from lib.grade.test_set import Exam
from lib.logger import SCHEMA, file_hash, stated_id
from lib.metrics import Counts
from lib.networks import build
from lib.notebook.solutions import without_solutions
from lib.optim import is_done, learning_rate
from lib.runtime import code_fingerprint
from lib.utils import LIB, KitError, sha256, visible_files

OTHER_DATA, WRONG_SPLIT, METRIC_EDITED = "other data", "wrong split", "metric edited"
EXACT = 1e-6
"""Largest difference of equal numbers that are written with eight digits."""
PROTECTED = ("metrics.py", "evaluate.py", "dataset.py")
"""Files below ``lib`` that define the score; no assignment asks to change them."""
_MAX_DIFF, _MAX_SOURCE = 200, 100_000  # lines shown, characters compared
_MAX_RATES = 1000  # epochs of which the learning rate is computed


# --- claims against each other --------------------------------------------------------------------


def check_tables(
    submission: Submission, tolerance: float, weights: bool = True
) -> Iterator[Finding]:
    """Check that the result CSV, history.csv, cases.csv and run.json agree.

    Args:
        weights: best.pt was submitted, too.
        tolerance: for the mean of cases.csv. It is computed in other batches than the epoch's DSC,
            which a GPU may round differently.
    """
    history, info = submission.history, submission.info
    if any(
        len(claim) != len(history)
        or any(_differ(claim[name], history[name]) for name in ("epoch", "val_dsc", "lr"))
        for claim in submission.claims
    ):
        yield Finding(
            "fault", "tables disagree", "A result CSV has other numbers than the run's history.csv."
        )
    best, mean = info["best"]["val_dsc"], float(submission.cases["dsc"].mean())
    if abs(best - float(history["val_dsc"].max())) > EXACT or abs(best - mean) > tolerance:
        yield Finding(
            "fault",
            "tables disagree",
            f"The best DSC is {best:.4f} in run.json, {history['val_dsc'].max():.4f} in "
            f"history.csv and {mean:.4f} as the mean of cases.csv.",
        )
    names = [
        name
        for name in ("best.pt", "history.csv", "cases.csv")
        if (weights or name != "best.pt")
        and (
            not (submission.folder / name).is_file()
            or info["sha256"].get(name) != file_hash(submission.folder / name)
        )
    ]
    if names:
        yield Finding(
            "fault",
            "files changed",
            f"{', '.join(names)}: not as the run left them (SHA-256 in run.json).",
        )


def _differ(one: pd.Series, other: pd.Series) -> bool:
    """Return whether two columns differ by more than their digits."""
    return not np.allclose(one, other, rtol=EXACT, atol=EXACT)


def check_history(submission: Submission) -> Iterator[Finding]:
    """Check that training can have written this history.csv."""
    history, config = submission.history, submission.config
    problems = []
    scores = history["val_dsc"].tolist()
    whole = is_done(config, scores) and not is_done(config, scores[:-1])
    if not whole or history["epoch"].tolist() != list(range(1, len(scores) + 1)):
        early = " or to where it stops early" if config.patience else ""
        problems.append(f"its epochs are not 1 to {config.epochs}{early}")
    elif submission.info["best"]["epoch"] != int(history["val_dsc"].argmax()) + 1:
        problems.append("the best epoch is not the first with the largest DSC")
    elif "lr_scheduler" not in config.custom:  # which would have to be imported
        losses = history["val loss"].tolist()
        # the time of ``plateau`` grows with the square of the epochs
        looked_at = range(0, len(scores), -(-len(scores) // _MAX_RATES))
        rates = [learning_rate(config, epoch, losses[:epoch]) for epoch in looked_at]
        if not np.allclose(history["lr"].iloc[looked_at], rates, rtol=EXACT, atol=0):
            problems.append(f"the learning rate is not that of schedule {config.lr_scheduler}")
    if problems:
        yield Finding("fault", "history implausible", f"history.csv: {problems[0]}.")


def check_cases(submission: Submission, exam: Exam) -> Iterator[Finding]:
    """Check the rows of cases.csv.

    Their numbers must follow from their voxel counts, and these must agree with the ground truth.
    """
    for row in submission.cases.to_dict("records"):
        problem = _problem_of_case(row, exam)
        if problem:
            yield Finding("fault", "impossible numbers", f"cases.csv: {problem}.")
            return  # one row is enough to doubt the table


def _problem_of_case(row: dict[Hashable, Any], exam: Exam) -> str | None:
    """Return why no run can have written a row of cases.csv, or None."""
    patient, slices = row["patient"], row["slices"]
    found = Counts(int(row["tp"]), int(row["fp"]), int(row["fn"]))
    derived = native_scores(found)
    wrong = [name for name, value in derived.items() if abs(row[name] - value) > EXACT]
    if wrong:
        return f"{wrong[0]} of {patient} does not follow from its tp, fp and fn"
    claimed = slices, found.tp + found.fn
    true = exam.voxels.get(patient, claimed)  # other patients are the matter of check_split
    if true != claimed:
        return (
            f"{patient} has {true[1]} voxels of tumour in {true[0]} slices, not {claimed[1]} in "
            f"{claimed[0]}"
        )
    return None


def check_split(submission: Submission, exam: Exam) -> Iterator[Finding]:
    """Check that the run was trained and scored on the patients of the assignment."""
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
            WRONG_SPLIT,
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
            "fault", "tables disagree", "cases.csv has other patients than the run was scored on."
        )


def check_id(submission: Submission) -> Iterator[Finding]:
    """Check that the id of the run is that of config, data, split and code in its run.json."""
    if submission.info.get("schema") != SCHEMA:
        yield Finding(
            "review",
            "other version",
            "The run was made with a version of the kit that computed its id differently.",
        )
    elif stated_id(submission.info) != submission.run_id:
        yield Finding(
            "fault",
            "run id does not fit",
            "The run's id is not that of its config, data, split and code.",
        )


def check_identity(submission: Submission, exam: Exam) -> Iterator[Finding]:
    """Check that the id of the run is its own, and that it used the instructor's data and code."""
    info, config = submission.info, submission.config
    yield from check_id(submission)
    if info["data"]["sha256"] != exam.data.fingerprint:
        yield Finding("review", OTHER_DATA, "The run saw images that differ from the instructor's.")
    # custom code would have to be imported
    # a narrow network is enough: the width is not part of the fingerprint
    narrow = replace(config, init_features=1)
    if (
        not config.custom
        and code_fingerprint(config, *build(narrow), train.SOURCES) != info["code"]["sha256"]
    ):
        yield Finding(
            "note", "other code", "The run was made with other sources than the instructor's."
        )


def check_other_run(
    name: str, run: Submission | KitError, exam: Exam | None = None, tolerance: float = math.inf
) -> Iterator[Finding]:
    """Check the tables of a run that is not graded: it is part of the comparison.

    Its weights are not submitted, so that its scores cannot be computed again.

    Args:
        exam: None where the grader's data are not at hand.
        tolerance: as for ``check_tables``.
    """
    if isinstance(run, KitError):
        problem = str(run)
    else:
        found = (
            *check_tables(run, tolerance, weights=False),
            *check_history(run),
            *(check_cases(run, exam) if exam and _has_data_of(run, exam) else ()),
            *check_id(run),
        )
        problem = next((finding.text for finding in found if finding.level == "fault"), "")
    if problem:
        yield Finding("fault", "another run is not as it was trained", f"{name}: {problem}")


def check_unlisted(submission: Submission) -> Iterator[Finding]:
    """Check that each run of the submission is in a result CSV: others are not compared."""
    if names := unlisted(submission.root, submission.tables):
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        text = f"In no result CSV, though result/runs has them: {', '.join(names[:5])}{more}."
        yield Finding("review", "unlisted runs", text)


def _has_data_of(run: Submission, exam: Exam) -> bool:
    """Return whether a run saw the grader's data: phantoms of all seeds have the same names."""
    return bool(run.info["data"]["sha256"] == exam.data.fingerprint)


# --- lib ------------------------------------------------------------------------------------------


def lib_diff(folder: Path) -> dict[str, list[str]]:
    """Return how a submitted ``lib`` differs from this one; nothing is imported.

    What counts is what Python parses: comments, docstrings, blank space and the encoding of a file
    do not. A file without its solutions, as the student edition has it, counts as unchanged.

    Returns:
        File -> lines of a unified diff.
    """
    if not folder.is_dir():
        return {}
    ours, theirs = (
        {path.relative_to(root).as_posix(): path for path in visible_files(root, "**/*.py")}
        for root in (LIB, folder)
    )
    found = {}
    for name in sorted({*ours, *theirs}):
        if name not in theirs:
            found[name] = ["removed"]
        elif name not in ours:
            found[name] = [f"added: {len(_lines(_text(theirs[name])))} lines"]
        elif not _is_same(ours[name], theirs[name]):
            found[name] = _diff(_lines(_text(ours[name])), _lines(_text(theirs[name])))
    return found


def _is_same(ours: Path, theirs: Path) -> bool:
    """Return whether two files mean the same, ours as it is or without its solutions."""
    if theirs.stat().st_size > _MAX_SOURCE:
        return False
    submitted = _plain(theirs.read_bytes())
    released = _released(ours)
    if submitted in released:
        return True
    meaning = _meaning(submitted)
    return bool(meaning) and meaning in map(_meaning, released)


def _plain(source: bytes) -> bytes:
    """Return a source with the ends of lines of Unix, and without a mark at its start."""
    return source.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")


@cache
def _released(file: Path) -> tuple[bytes, bytes]:
    """Return a file of the kit as it is, and without its solutions."""
    own = _plain(file.read_bytes())
    return own, without_solutions(own.decode()).encode()


@lru_cache(maxsize=1024)  # those of the kit are asked for with every submission
def _meaning(source: bytes) -> str:
    """Return a hash of what Python parses, without docstrings; "" if it cannot."""
    try:
        tree = ast.parse(source)  # follows the encoding that the file declares
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return sha256(ast.dump(tree).encode(errors="backslashreplace"))


def _is_text(line: ast.AST) -> bool:
    """Return whether a statement is a lone text, as docstrings are."""
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")[:_MAX_SOURCE]


def _lines(text: str) -> list[str]:
    """Return the lines of a text, each shortened to 300 characters."""
    return [f"{line[:300]}\n" for line in text.removesuffix("\n").split("\n")]


def _diff(ours: list[str], theirs: list[str]) -> list[str]:
    """Return the lines of a unified diff, shortened."""
    if len(theirs) > 3 * len(ours) + 1000:  # the time to compare grows with the product
        return [f"changed: {len(theirs)} lines instead of {len(ours)}"]
    lines = [
        line.rstrip("\n") for line in difflib.unified_diff(ours, theirs, "kit", "submitted", n=1)
    ]
    if len(lines) <= _MAX_DIFF:
        return lines
    half = _MAX_DIFF // 2  # what replaces a whole file comes last
    return [*lines[:half], f"... {len(lines) - 2 * half} lines more ...", *lines[-half:]]


def protected_in(diff: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the part of a ``lib_diff`` that is about files that define the score."""
    # Python prefers a folder metrics to metrics.py
    return {
        name: lines
        for name, lines in diff.items()
        if f"{Path(name).parts[0].removesuffix('.py')}.py" in PROTECTED
    }


def check_lib(folder: Path, diff: dict[str, list[str]]) -> Iterator[Finding]:
    """Check what a changed ``lib`` means for the score.

    Args:
        diff: of the folder, see ``lib_diff``.
    """
    if not folder.is_dir():
        text = "lib is missing: nobody can see whether the definition of the score was changed."
        yield Finding("review", "lib missing", text)
    protected = protected_in(diff)
    others = [name for name in diff if name not in protected]
    if protected:
        yield Finding(
            "fault",
            METRIC_EDITED,
            f"lib/{', lib/'.join(protected)}: what defines the score was changed. What it does is "
            f"for the instructor to see; the score here is by the released code.",
        )
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        yield Finding(
            "note",
            "lib changed",
            f"lib/{', lib/'.join(others[:5])}{more}: changed, added or removed.",
        )
