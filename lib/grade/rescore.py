"""The score of a hand-in, computed again without running a line of its code."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch
from torch import Tensor

from lib.config import MODELS, Config
from lib.dataset import BrainData
from lib.evaluate import TrainedModel, case_row, native_mask, predict_volumes
from lib.grade.checks import (
    Finding,
    check_cases,
    check_history,
    check_identity,
    check_lib,
    check_split,
    check_tables,
    lib_diff,
)
from lib.grade.submission import Submission
from lib.grade.test_set import Exam
from lib.metrics import counts, largest_component, summarise
from lib.networks import build_model
from lib.predict import load_weights, read_checkpoint
from lib.runtime import Machine, Precision, deterministic, pick_precision, tune_allocator
from lib.runtime.device import memory_format
from lib.utils import KitError, sha256

MAX_SIZE, MAX_BATCH = 512, 32


@dataclass
class Result:
    """What grading found of one hand-in; ``dataclasses.asdict`` makes JSON of it.

    Attributes:
        submission: its file or folder name.
        status: ``computed``; else why no score could be computed: ``refused``, ``incomplete``,
            ``not verifiable``, ``timed out``, ``failed``, ``missing``.
        claimed, verified, low, high, probe: mean DSC over the validation patients as claimed and as
            computed, the 95 % CI of the latter, and that of the perturbed patients; None where
            there is none.
        grid: ``network``, or ``file`` for masks that were handed in.
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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """The inverse of ``dataclasses.asdict``."""
        return cls(**{**values, "findings": [Finding(*finding) for finding in values["findings"]]})


def verify(
    submission: Submission, exam: Exam, device: torch.device, tolerance: float, result: Result
) -> None:
    """Fill ``result``: check the claims, compute the score again.

    Args:
        tolerance: how far the claimed DSC may lie from the computed one; another device or number
        format moves it.

    Raises:
        KitError: nothing can be computed: weights that cannot be read, or a network without masks.
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
        column, result.grid, result.probe = (
            "dsc",
            "network",
            float(np.mean(list(perturbed.values()))),
        )
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
    """The score, and how it differs from the claim."""
    score = summarise(rows[column])
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
    claim = result.claimed if column == "dsc" else float(submission.cases[column].mean())
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
    """The table of cases, computed from best.pt, and the DSC of the same patients perturbed."""
    config, info = submission.config, submission.info
    if config.image_size > MAX_SIZE or config.image_size % 16:
        raise KitError(
            f"run.json: image_size {config.image_size} is not a multiple of 16 up to {MAX_SIZE}"
        )
    model = load_network(submission.folder / "best.pt")
    content = read_checkpoint(submission.folder / "best.pt")
    result.prints["weights"] = weights_hash(content["weights"])
    if (model.config.to_dict(), sorted(model.trained_on)) != (
        config.to_dict(),
        sorted(info["split"]["train"]),
    ):
        result.findings.append(
            Finding(
                "fault",
                "checkpoint of another run",
                "best.pt says another config, or other training patients, than run.json.",
            )
        )
    machine = Machine(device, _precision(device, info))
    tune_allocator(device)
    model.network.to(device, memory_format=memory_format(device))
    batch_size = min(-(-config.batch_size * config.accumulate // info["accumulate"]), MAX_BATCH)
    tables = [
        _cases(
            model,
            exam.load(config.image_size, config.preprocessing, perturbed),
            machine,
            batch_size,
        )
        for perturbed in (False, True)
    ]
    return tables[0], dict(zip(tables[1]["patient"], tables[1]["dsc"].astype(float), strict=True))


def _cases(model: TrainedModel, data: BrainData, machine: Machine, batch_size: int) -> pd.DataFrame:
    with deterministic():
        return pd.DataFrame(
            [
                case_row(data, name, probabilities, native_mask(data, name, probabilities))
                for name, probabilities in predict_volumes(
                    model.network, model.config, data, tuple(data.patients), machine, batch_size
                )
            ]
        )


def _precision(device: torch.device, info: dict[str, Any]) -> Precision:
    """That of the run, where this device computes in it as well: the score then comes out the same."""
    recorded = info["precision"].split("; then ")[-1]
    kind = info["device"].split("; then ")[-1]
    same = (device.type == "cuda") == ("CUDA" in kind)
    if same and recorded in ("fp32", "bf16", *["fp16"] * (device.type == "cuda")):
        return Precision(recorded, "as the run")
    return pick_precision(device)


def load_network(file: Path) -> TrainedModel:
    """``load_weights`` for a file of a stranger: it must not take more memory than its size says.

    Raises:
        KitError: no weights of one of the kit's networks, or made to take much more memory than it
        has bytes.
    """
    if not file.is_file():
        raise KitError(f"{file.name} is missing; hand in what pack makes")
    try:
        with zipfile.ZipFile(file) as bundle:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in bundle.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise KitError(f"{file.name}: is not what a run writes, or damaged; not opened") from None
    if not stored:
        raise KitError(f"{file.name}: is compressed, which no run writes; not opened")
    content = read_checkpoint(file)
    config, weights = content.get("config"), content.get("weights")
    if (
        not isinstance(config, dict)
        or not isinstance(weights, dict)
        or config.get("model") not in MODELS
    ):
        raise KitError(f"{file.name}: holds no config and weights of one of {', '.join(MODELS)}")
    learnt = content.get("trained_on")
    if not isinstance(learnt, list) or not all(isinstance(name, str) for name in learnt):
        raise KitError(f"{file.name}: does not say which patients it was trained on")
    _require_plain(file, config, weights)
    return load_weights(file)


def _require_plain(file: Path, config: dict[str, Any], weights: dict[Any, Any]) -> None:
    """Raise KitError unless ``weights`` are those of the network, by name and shape, and lie in the file in full."""
    for name, tensor in weights.items():
        if not (
            isinstance(name, str)
            and isinstance(tensor, Tensor)
            and tensor.layout is torch.strided
            and tensor.device.type == "cpu"
            and tensor.is_contiguous()
            and not tensor.is_quantized
        ):
            raise KitError(f"{file.name}: {str(name)[:60]!a} is no plain tensor")
    try:
        with torch.device("meta"):  # shapes only: a config may ask for any width
            network = build_model(Config.from_dict(config))
        expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    except (KitError, TypeError, RuntimeError, MemoryError) as error:
        raise KitError(
            f"{file.name}: its config describes no network ({' '.join(str(error).split())[:100]})"
        ) from None
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if (
        expected != {name: tensor.shape for name, tensor in weights.items()}
        or size > file.stat().st_size
    ):
        raise KitError(
            f"{file.name}: its weights are not those of the network that its config describes"
        )


def weights_hash(weights: dict[str, Tensor]) -> str:
    """Hex SHA-256 of names, types, shapes and bytes: the same for the same weights in another file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- masks of a network of one's own --------------------------------------------------------------


def _score_masks(submission: Submission, exam: Exam, result: Result) -> pd.DataFrame:
    """Counts of the handed-in masks, for a network that would have to be imported to be run."""
    result.findings.append(
        Finding(
            "review",
            "rescored from masks",
            f"{submission.config.model} is no network of the "
            "kit and was not run: the masks handed in are scored, on the file's grid.",
        )
    )
    rows = []
    for name in exam.split.validation:
        patient, truth = exam.data.patients[name], exam.data.truth(name)
        planes = [
            _read_mask(submission.masks / name / f"{name}_{number}_mask.tif", truth.shape[1:])
            for number in patient.numbers
        ]
        found = counts(largest_component(np.stack(planes)), truth)
        rows.append({"patient": name, "dsc_native": found.dsc, **found._asdict()})
    return pd.DataFrame(rows)


def _read_mask(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """One slice's mask, bool. Its header must promise ``shape`` before a pixel is unpacked."""
    if not file.is_file():
        raise KitError(
            f"masks/{file.parent.name}/{file.name} is missing: a network of one's own is scored by "
            f"masks of all slices of all validation patients"
        )
    try:
        with tifffile.TiffFile(file) as opened:
            page = opened.pages[0]
            if page.shape != tuple(shape) or page.dtype not in (np.uint8, np.bool_):
                raise KitError(f"{file.name}: is no mask of {shape[0]}x{shape[1]} pixels")
            return page.asarray() > 0
    except KitError:
        raise
    except Exception as error:  # damaged files raise almost anything
        raise KitError(f"{file.name}: cannot be read as TIFF ({type(error).__name__})") from None
