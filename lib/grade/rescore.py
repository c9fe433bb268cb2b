"""Compute the score of a submission again, without running a line of its code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch

from lib.evaluate import score_cases
from lib.grade.archive import composed
from lib.grade.checkpoint import read_checked
from lib.grade.checks import (
    check_cases,
    check_history,
    check_identity,
    check_lib,
    check_other_run,
    check_split,
    check_tables,
    check_unlisted,
    lib_diff,
)
from lib.grade.nearness import shapes, sketch
from lib.grade.result import Finding, Result
from lib.grade.student_work import is_finite
from lib.grade.submission import Submission, read_others
from lib.grade.test_set import Exam
from lib.metrics import counts, largest_component, summarise
from lib.runtime import deterministic, tune_allocator
from lib.runtime.device import prepare
from lib.utils import KitError, sha256

MAX_SIZE, MAX_BATCH = 512, 32
NEAR_CASE = 0.02
"""Largest difference of a patient's DSC by rounding, unless another component is kept."""


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
    result.prints |= _prints(submission)
    others = list(read_others(submission))
    compared = [run for _, run in others if isinstance(run, Submission)]
    result.compared = [_prints(run) for run in compared]
    result.seeds = [run.config.seed for run in compared]
    result.diff = lib_diff(submission.root / "lib")
    result.findings += [
        *check_tables(submission, tolerance),
        *check_history(submission),
        *check_split(submission, exam),
        *check_cases(submission, exam),
        *check_identity(submission, exam),
        *check_lib(submission.root / "lib", result.diff),
        *(
            finding
            for name, run in others
            for finding in check_other_run(name, run, exam, tolerance)
        ),
        *check_unlisted(submission),
    ]
    if not submission.config.needed_to_predict:
        rows, perturbed = _score_weights(submission, exam, device, result)
        column, result.grid = "dsc", "network"
        result.probe = float(np.mean(list(perturbed.values())))
    else:
        rows, perturbed = _score_masks(submission, exam, result), {}
        column, result.grid = "dsc_native", "file"
    _compare(submission, rows, column, perturbed, tolerance, result)


def _prints(submission: Submission) -> dict[str, str]:
    """Return hashes of what no two trainings share."""
    prints = {"history": sha256(submission.history.to_csv(index=False).encode())}
    if _tells(submission.cases):
        prints["cases"] = sha256(submission.cases.to_csv(index=False).encode())
    seconds = submission.info.get("seconds")
    if _is_fine(seconds):
        prints["time"] = sha256(repr(seconds).encode())
    return prints


def _is_fine(seconds: object) -> bool:
    """Return whether a time has digits enough to be one training's only.

    Times in hundredths are shared by chance: by 1 pair in 3,000 of a class's runs of some minutes,
    and by far more of short ones. Microseconds are not.
    """
    if not is_finite(seconds):
        return False
    fine = float(seconds)  # type: ignore[arg-type]
    return fine > 0 and round(fine, 3) != fine


def _tells(rows: pd.DataFrame) -> bool:
    """Return whether counts tell networks apart: some patients are neither missed nor covered.

    All networks that find nothing make the same errors, and so do all that find everything.
    """
    return int(((rows["tp"] > 0) & (rows["fn"] > 0)).sum()) >= 2


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
    if _tells(rows):
        result.prints["masks"] = sha256(
            rows[["patient", "tp", "fp", "fn"]].to_csv(index=False).encode()
        )
    claim = submission.claimed if column == "dsc" else float(submission.cases[column].mean())
    if set(claimed.index) == set(rows["patient"]):
        result.findings += _claim_findings(claim, score.mean, tolerance, result.cases)


def _claim_findings(
    claim: float, computed: float, tolerance: float, cases: dict[str, list[float | None]]
) -> list[Finding]:
    """Return what a claim has against it.

    One that is a little too low is a note, as it earns nothing; far off, it is of other weights.
    So it is if patients are far off, whatever their mean is.
    """
    text = f"The tables claim a DSC of {claim:.4f}; computed again it is {computed:.4f}."
    if claim - computed > tolerance or computed - claim > max(tolerance, NEAR_CASE):
        return [Finding("fault", "claim not reproduced", text)]
    is_low = computed - claim > tolerance
    findings = [Finding("note", "claim too low", text)] if is_low else []
    far = {
        name: (told, found)
        for name, (told, found, _) in cases.items()
        if told is not None and found is not None and abs(told - found) > NEAR_CASE
    }
    if not far:
        return findings
    name, (told, found) = next(iter(far.items()))
    text = (
        f"cases.csv has a DSC of {told:.4f} for {name}, computed again it is {found:.4f}"
        f"{f'; {len(far) - 1} other patients differ, too' if len(far) > 1 else ''}. Rounding on "
        f"another device can let another component be the largest, in one patient rather than in "
        f"many."
    )
    level = "review" if len(far) == 1 else "fault"
    return [*findings, Finding(level, "patients not reproduced", text)]


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
    result.sketch, result.shapes = sketch(network.state_dict()), shapes(network.state_dict())
    machine = prepare([network], str(device), _precision(device, info))
    tune_allocator(device)
    batch_size = min(-(-config.batch_size * config.accumulate // info["accumulate"]), MAX_BATCH)
    ours = replace(checkpoint.config, metric="none")  # a custom one would have to be imported
    tables = []
    for perturbed in (False, True):
        data = exam.load(config.image_size, config.preprocessing, perturbed)
        patients = tuple(data.patients)
        with deterministic():
            rows = score_cases(network, ours, data, patients, machine, batch_size)
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
            "fault",
            "rescored from masks",
            f"{', '.join(submission.config.needed_to_predict)} is not of the kit and was not run. "
            f"The submitted masks are scored, on the file's grid; that a network made them is for "
            f"the instructor to see.",
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
