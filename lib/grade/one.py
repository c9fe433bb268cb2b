"""Grade one submission after the other, in the process that grades."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib.grade.archive import unpack
from lib.grade.rescore import verify
from lib.grade.result import Finding, Result, encodable
from lib.grade.submission import READ, folded, members, read_submission
from lib.grade.test_set import Exam, prepare_exam
from lib.grade.trouble import GraderError, in_one_line, is_of_memory, of_the_computer
from lib.grade.worker import limited_memory
from lib.grade.written import read_written
from lib.runtime import free_memory, pick_device
from lib.runtime.own_code import without_custom_code
from lib.utils import KitError


def prepare(
    data: str, split: str, device: str, tolerance: float
) -> Callable[[Any], dict[str, Any]]:
    """Find the data in the process that grades; return what grades one submission."""
    exam, chosen = prepare_exam(data, split), pick_device(device)
    return partial(grade_one, exam=exam, device=chosen, tolerance=tolerance)


def grade_one(
    job: tuple[str, str, str, bool, str], exam: Exam, device: torch.device, tolerance: float
) -> dict[str, Any]:
    """Return the result of a submission, whatever it contains.

    Args:
        job: path and name of the submission, the student's id as far as known, whether the roster
            has it, and an empty folder for the files.

    Returns:
        A ``Result`` as a dict.

    Raises:
        GraderError: the computer or the instructor's data cannot be used.
    """
    source, name, student, known, work = job
    result, stage = Result(name, student), "refused"
    try:
        with _limited(device), without_custom_code():
            odd = unpack(Path(source), Path(work), READ)
            result.findings += _left_out(odd)
            stage = "incomplete"
            submission = read_submission(work)
            _set_student(result, submission.student, known)
            stage = "not verifiable"
            verify(submission, exam, device, tolerance, result)
    except Exception as error:  # untrusted files can be wrong in every way
        if trouble := of_the_computer(error):
            raise GraderError(f"{in_one_line(trouble)} (met at {name})") from error
        if is_of_memory(error):
            stage, reason = "failed", "there was not enough memory to grade it"
        elif isinstance(error, KitError):
            # leave out the folder where it was unpacked
            reason = re.sub(rf"{re.escape(work)}[^:]*[/\\]", "", str(error))
        else:
            stage = "failed"
            reason = f"grading met {type(error).__name__}: {in_one_line(error, 150)}"
        result = failed(name, result.student, stage, reason, result)
    if result.status != "refused":
        with _limited(device):
            result.written = read_written(Path(work))
    return asdict(encodable(result))


def _limited(device: torch.device) -> AbstractContextManager[None]:
    """Limit the memory, where CUDA does not need to reserve more than it uses."""
    return limited_memory(int(0.8 * free_memory(device))) if device.type == "cpu" else nullcontext()


def _left_out(odd: list[str]) -> list[Finding]:
    """Return a note about files that were not unpacked."""
    if not odd:
        return []
    text = (
        f"{len(odd)} files were left out, as no file can have such a name on every system, or as "
        f"they are texts of impossible size: {odd[0][-60:]!a}."
    )
    return [Finding("note", "files left out", text)]


def failed(
    name: str, student: str, status: str, reason: str, before: Result | None = None
) -> Result:
    """Return a result without a score, and why there is none.

    Args:
        before: the result as far as it had come.
    """
    result = before or Result(name, student)
    finding = Finding("fault", status, reason, reason)
    return encodable(replace(result, status=status, findings=[*result.findings, finding]))


def _set_student(result: Result, inside: str, known: bool) -> None:
    """Decide which student a submission is from.

    The roster's id in the file's name, as a platform wrote it, comes before the id inside.
    """
    own = {folded(member) for member in members(inside)}
    if known and inside and folded(result.student) not in own:
        result.findings.append(
            Finding(
                "review",
                "another id inside",
                "The submission has another id than its file.",
                f"says it is by {inside}",
            )
        )
    elif inside:
        result.student = inside
