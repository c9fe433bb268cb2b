"""Compute the score of a submission again, without running a line of its code."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch

from lib.config import MODELS
from lib.evaluate import score_cases
from lib.grade.archive import composed
from lib.grade.checkpoint import read_checked
from lib.grade.checks import (
    LEVELS,
    Finding,
    check_cases,
    check_history,
    check_identity,
    check_lib,
    check_split,
    check_tables,
    lib_diff,
)
from lib.grade.submission import STUDENT, Submission
from lib.grade.test_set import Exam
from lib.metrics import counts, largest_component, summarise
from lib.runtime import deterministic, tune_allocator
from lib.runtime.device import prepare
from lib.utils import KitError, sha256

MAX_SIZE, MAX_BATCH = 512, 32
FAILURES = ("refused", "incomplete", "not verifiable", "timed out", "failed", "missing")
"""Statuses of a result without a score."""


@dataclass
class Result:
    """Hold what grading found of one submission; ``dataclasses.asdict`` makes JSON of it.

    Attributes:
        submission: its file or folder name.
        status: ``computed``; else why no score could be computed: ``refused``, ``incomplete``,
            ``not verifiable``, ``timed out``, ``failed``, ``missing``.
        claimed, verified, low, high, probe: mean DSC over the validation patients as claimed and as
            computed, the 95 % CI of the latter, and that of the perturbed patients; or None.
        grid: ``network``, or ``file`` for masks that were submitted.
        cases: patient -> [claimed, computed, perturbed] DSC.
        prints: name -> hash of what no two students should share.
        recipe: fields of the config, for the student's page.
        diff: file of ``lib`` -> lines of a unified diff.
    """

    submission: str
    student: str
    status: str = "computed"
    run: str = ""
    claimed: float | None = None
    verified: float | None = None
    low: float | None = None
    high: float | None = None
    probe: float | None = None
    grid: str = ""
    cases: dict[str, list[float | None]] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    diff: dict[str, list[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Return the computed mean DSC. Raises ValueError if there is none."""
        if self.verified is None:
            raise ValueError(f"{self.submission}: no score was computed")
        return self.verified

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """Return the result of which ``dataclasses.asdict`` gave these values.

        Raises:
            ValueError: they are no result.
        """
        try:
            findings = [Finding(*finding) for finding in values["findings"]]
            result = cls(**{**values, "findings": findings})
            sound = result._is_sound()
            is_text = encodable(result) == result
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"no result: {error}") from None
        if not is_text:
            raise ValueError("no result: a text cannot be written as UTF-8")
        if not sound:
            raise ValueError("no result: a value is of another kind")
        return result

    def _is_sound(self) -> bool:
        """Return whether all values are of their kinds, as those from another process may not."""
        texts = [self.submission, self.student, self.status, self.run, self.grid]
        texts += [*self.prints, *self.prints.values(), *self.cases, *self.recipe, *self.diff]
        texts += [line for lines in self.diff.values() for line in lines]
        texts += [text for finding in self.findings for text in finding]
        numbers = [self.claimed, self.verified, self.low, self.high, self.probe]
        numbers += [number for scores in self.cases.values() for number in scores]
        return (
            all(isinstance(text, str) for text in texts)
            and all(number is None or _is_finite(number) for number in numbers)
            and all(len(scores) == 3 and scores[1] is not None for scores in self.cases.values())
            and all(finding.level in LEVELS for finding in self.findings)
            and (
                _is_finite(self.verified) if self.status == "computed" else self.status in FAILURES
            )
            and bool(STUDENT.fullmatch(self.student))
        )


def encodable(result: Result) -> Result:
    """Return a result of which all texts can be written as UTF-8.

    JSON and names of files may contain lone surrogates, which cannot; their escapes replace them.
    """
    return Result(**{name: _encodable(value) for name, value in vars(result).items()})


def _encodable(value: Any) -> Any:
    """Return a JSON-like value with the escapes of lone surrogates in its texts."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(name): _encodable(inner) for name, inner in value.items()}
    if isinstance(value, Finding):
        return Finding(*map(_encodable, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_encodable, value))
    return value


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def verify(
    submission: Submission, exam: Exam, device: torch.device, tolerance: float, result: Result
) -> None:
    """Check the claims of a submission, compute its score again, and fill ``result``.

    Args:
        tolerance: how far the claimed DSC may be from the computed one; another device or number
            format moves it.

    Raises:
        KitError: nothing can be computed: the weights cannot be read, or a custom network has no
            masks.
    """
    result.run, result.claimed = submission.run_id, submission.claimed
    result.recipe = submission.config.to_dict()
    result.prints["cases"] = sha256(submission.cases.to_csv(index=False).encode())
    result.diff = lib_diff(submission.root / "lib")
    result.findings += [
        *check_tables(submission, tolerance),
        *check_history(submission),
        *check_split(submission, exam),
        *check_cases(submission, exam),
        *check_identity(submission, exam),
        *check_lib(result.diff),
    ]
    if submission.config.model in MODELS:
        rows, perturbed = _score_weights(submission, exam, device, result)
        column, result.grid = "dsc", "network"
        result.probe = float(np.mean(list(perturbed.values())))
    else:
        rows, perturbed = _score_masks(submission, exam, result), {}
        column, result.grid = "dsc_native", "file"
    _compare(submission, rows, column, perturbed, tolerance, result)


def _compare(
    submission: Submission,
    rows: pd.DataFrame,
    column: str,
    perturbed: dict[str, float],
    tolerance: float,
    result: Result,
) -> None:
    """Fill in the score, and how it differs from the claim."""
    score = summarise(rows[column].to_numpy(float))
    result.verified, result.low, result.high = score.mean, score.low, score.high
    claimed = submission.cases.drop_duplicates("patient").set_index("patient")[column]
    result.cases = {
        name: [
            None if name not in claimed else float(claimed[name]),
            float(dsc),
            perturbed.get(name),
        ]
        for name, dsc in zip(rows["patient"], rows[column], strict=True)
    }
    if rows["tp"].sum():
        result.prints["masks"] = sha256(
            rows[["patient", "tp", "fp", "fn"]].to_csv(index=False).encode()
        )
    claim = submission.claimed if column == "dsc" else float(submission.cases[column].mean())
    if set(claimed.index) == set(rows["patient"]) and abs(claim - score.mean) > tolerance:
        result.findings.append(
            Finding(
                "fault",
                "claim not reproduced",
                f"The tables claim a DSC of {claim:.4f}; computed again it is {score.mean:.4f}.",
            )
        )


# --- computing again ------------------------------------------------------------------------------


def _score_weights(
    submission: Submission, exam: Exam, device: torch.device, result: Result
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the table of cases, computed from best.pt, and perturbed DSC by patient."""
    config, info = submission.config, submission.info
    if config.image_size > MAX_SIZE or config.image_size % 16:
        raise KitError(
            f"run.json: image_size {config.image_size} is not a multiple of 16 up to {MAX_SIZE}; "
            f"train a run of such a size"
        )
    checkpoint = read_checked(submission.folder / "best.pt")
    result.prints["weights"] = checkpoint.hash
    trained_on = tuple(sorted(info["split"]["train"]))
    if (checkpoint.config, checkpoint.trained_on) != (config, trained_on):
        result.findings.append(
            Finding(
                "fault",
                "checkpoint of another run",
                "best.pt says another config, or other training patients, than run.json.",
            )
        )
    network = checkpoint.network()
    machine = prepare([network], str(device), _precision(device, info))
    tune_allocator(device)
    batch_size = min(-(-config.batch_size * config.accumulate // info["accumulate"]), MAX_BATCH)
    tables = []
    for perturbed in (False, True):
        data = exam.load(config.image_size, config.preprocessing, perturbed)
        patients = tuple(data.patients)
        with deterministic():
            rows = score_cases(network, checkpoint.config, data, patients, machine, batch_size)
        tables.append(pd.DataFrame(rows))
    return tables[0], dict(zip(tables[1]["patient"], tables[1]["dsc"].astype(float), strict=True))


def _precision(device: torch.device, info: dict[str, Any]) -> str:
    """Return the run's precision, if this device computes in it as well, else ``auto``.

    In the same precision the score comes out the same.
    """
    same_kind = (device.type == "cuda") == ("CUDA" in info["device"])
    supported = ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")
    return info["precision"] if same_kind and info["precision"] in supported else "auto"


# --- masks of a custom network --------------------------------------------------------------------


def _score_masks(submission: Submission, exam: Exam, result: Result) -> pd.DataFrame:
    """Return the counts of the submitted masks of a custom network, which is not run."""
    result.findings.append(
        Finding(
            "review",
            "rescored from masks",
            f"{submission.config.model} is no network of the kit and was not run: the submitted "
            f"masks are scored, on the file's grid.",
        )
    )
    rows = []
    for name in exam.split.validation:
        patient, truth = exam.data.patients[name], exam.truth(name)
        planes = [
            _read_mask(submission.masks / composed(name) / composed(file), truth.shape[1:])
            for file in patient.mask_names
        ]
        mask = np.stack(planes)
        kept = largest_component(mask) if submission.config.component == "largest" else mask
        found = counts(kept, truth)
        rows.append({"patient": name, "dsc_native": found.dsc, **found._asdict()})
    return pd.DataFrame(rows)


def _read_mask(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return one slice's mask, bool.

    The header must promise ``shape`` before a pixel is unpacked.
    """
    if not file.is_file():
        raise KitError(
            f"masks/{file.parent.name}/{file.name} is missing: a custom network is scored by masks "
            f"of all slices of all validation patients; submit what pack makes"
        )
    try:
        with tifffile.TiffFile(file) as opened:
            page = opened.pages[0]
            if page.shape != tuple(shape) or page.dtype not in (np.uint8, np.bool_):
                raise KitError(
                    f"{file.name}: is no mask of {shape[0]}x{shape[1]} pixels; pack it again"
                )
            return page.asarray() > 0
    except KitError:
        raise
    except Exception as error:  # damaged files raise almost anything
        raise KitError(
            f"{file.name}: cannot be read as TIFF ({type(error).__name__}); pack it again"
        ) from None
