"""One hand-in after the other, each to its end: what runs in the process that grades."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib.grade.archive import unpack
from lib.grade.checks import Finding
from lib.grade.rescore import Result, verify
from lib.grade.submission import READ, read_submission
from lib.grade.test_set import Exam, prepare_exam
from lib.grade.worker import limited_memory
from lib.runtime import free_memory, pick_device
from lib.utils import KitError


def prepare(
    data: str, split: str, device: str, tolerance: float
) -> Callable[[Any], dict[str, Any]]:
    """In the process that grades: find the data; what comes back grades one hand-in."""
    exam, chosen = prepare_exam(data, split), pick_device(device)
    return partial(grade_one, exam=exam, device=chosen, tolerance=tolerance)


def grade_one(
    job: tuple[str, str, str, bool, str], exam: Exam, device: torch.device, tolerance: float
) -> dict[str, Any]:
    """Whatever a hand-in holds, a result comes back."""
    source, name, student, known, work = job
    result, stage = Result(name, student), "refused"
    try:
        with (
            limited_memory(int(0.8 * free_memory(device)))
            if device.type == "cpu"
            else nullcontext()
        ):
            unpack(Path(source), Path(work), READ)
            stage = "incomplete"
            submission = read_submission(work)
            _name(result, submission.student, known)
            stage = "not verifiable"
            verify(submission, exam, device, tolerance, result)
    except KitError as error:
        reason = re.sub(
            rf"{re.escape(work)}[^:]*[/\\]", "", str(error)
        )  # the place where it was unpacked
        result = failed(name, result.student, stage, reason, result)
    except Exception as error:  # files of strangers can be wrong in every way there is
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        result = failed(name, result.student, "failed", f"grading met {reason}", result)
    return asdict(result)


def failed(
    name: str, student: str, status: str, reason: str, before: Result | None = None
) -> Result:
    """A result without a score, and why there is none.

    Args:
        before: what had been found until then.
    """
    result = before or Result(name, student)
    finding = Finding("fault", status, reason, reason)
    return replace(result, status=status, findings=[*result.findings, finding])


def _name(result: Result, inside: str, known: bool) -> None:
    """Whose hand-in it is: the roster's id in the file's name, as a platform wrote it, comes before the one inside."""
    if known and inside not in ("", result.student):
        result.findings.append(
            Finding(
                "review",
                "another id inside",
                "The hand-in says another id than its file.",
                f"says it is by {inside}",
            )
        )
    elif inside:
        result.student = inside
