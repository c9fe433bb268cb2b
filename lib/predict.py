"""Segment images with trained weights: masks in the Kaggle layout and the table of cases.

Command line: ``python -m lib.predict --data DIR --out DIR [--weights FILE]``
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lib.config import MODELS, REFERENCE, Config
from lib.data import encode_masks
from lib.dataset import BrainData, load_data
from lib.evaluate import (
    BATCH_SIZE,
    TrainedModel,
    case_row,
    check_patients,
    lesions,
    predict_volumes,
    predicted_mask,
    seconds_per_slice,
)
from lib.logger import Run, finished_runs, outside_folds, to_csv
from lib.metrics import counts, summarise
from lib.networks import build_model
from lib.runtime import CommandParser, deterministic, run_command, tune_allocator
from lib.runtime.checkpoint import read_checkpoint, require_finite
from lib.runtime.cli import DATA_HELP
from lib.runtime.device import prepare
from lib.runtime.memory import memory_in_words
from lib.runtime.own_files import OwnFiles, require_replaceable
from lib.unet import from_published
from lib.utils import PROJECT, KitError, as_list, as_path, changing, progress, say, see, short_path

PRETRAINED = PROJECT / "result" / "pretrained"
KIT_WEIGHTS = PRETRAINED / "best.pt"  # the recipe that did better in cross-validation
SMALL_WEIGHTS = PRETRAINED / "best-128.pt"  # the same recipe for slow machines
SLOW = 60  # seconds
MOST_SHOWN = 20  # patients on a page: about 10 MB
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")


def default_weights(out: str | Path = "result", data: BrainData | None = None) -> Path:
    """Return the weights of your best run, or those of the kit if there is none.

    Args:
        data: only runs on these patients count; without it, all that were not trained on phantoms.

    Raises:
        KitError: neither is there.
    """
    runs = [
        run
        for run in finished_runs(out)
        if (
            not run.info["data"].get("phantom")
            if data is None
            else run.info["data"]["sha256"] == data.fingerprint
        )
    ]
    if not runs and not KIT_WEIGHTS.is_file():
        raise KitError(
            f"{Path(out) / 'runs'}: no finished run on {data.name if data else 'patients'}; "
            f"train one first"
        )
    return max(outside_folds(runs), key=lambda run: run.dsc.mean).weights if runs else KIT_WEIGHTS


def unseen(trained: TrainedModel, data: BrainData) -> tuple[str, ...]:
    """Return the patients of ``data`` that a network was not trained on."""
    seen = trained.seen(data)
    return tuple(name for name in data.patients if name not in seen)


def load_weights(file: str | Path, trust: str | Sequence[str] = ()) -> TrainedModel:
    """Load the network that a file describes, in eval mode on the CPU.

    Args:
        file: ``best.pt`` of a run, or a bare state dict of the published U-Net
            (``encoder1.enc1conv1.weight`` ...). Opened as data: a file that wants to run code is
            refused.
        trust: the custom code that the file needs, e.g. ``"my_module:MyNetwork"``, or several: a
            file must not choose which code runs. A custom metric is left out without it.

    Raises:
        KitError: no such file, no weights in it, or weights of another network.
    """
    file = as_path(file, "weights")
    content = read_checkpoint(file)
    if isinstance(content.get("config"), dict) and isinstance(content.get("weights"), dict):
        config, weights = _config_of(file, content["config"]), content["weights"]
        if config.model in MODELS:  # a custom network may have a part that is called module
            weights = _bare(weights)
        trusted = [trust] if isinstance(trust, str) else trust
        unknown = set(config.needed_to_predict).difference(trusted)
        if unknown:
            named = " ".join(sorted(unknown))
            raise KitError(
                f"{file}: needs code outside the kit, {named}; if you trust it, pass "
                f"trust={sorted(unknown)} (--trust {named}); "
                f"{see('extending', 'A network')}"
            )
        if config.custom.get("metric", "") not in trusted:
            config = replace(config, metric="none")
    else:
        weights = from_published(_bare(content))
        head = weights.get("conv.weight")
        if not isinstance(head, torch.Tensor) or head.ndim != 4:
            raise KitError(
                f"{file}: neither best.pt of a run nor a state dict of the published U-Net; "
                f"give either"
            )
        config = _config_of(file, REFERENCE.to_dict() | {"init_features": head.shape[1]})
    require_finite(file, weights)
    if config.model in MODELS:  # before a width that the weights do not have takes any memory
        with torch.device("meta"):
            outline = build_model(config)
        _load(file, outline, config, weights, assign=True)
    network = build_model(config)
    _load(file, network, config, weights)
    names, scans = (_names(file, content, key) for key in ("trained_on", "scans"))
    return TrainedModel(network.eval(), config, names, scans)


def _load(
    file: Path, network: nn.Module, config: Config, weights: dict[str, Any], assign: bool = False
) -> None:
    """Load weights into a network. Raises KitError if names or shapes differ."""
    try:
        network.load_state_dict(weights, assign=assign)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise KitError(
            f"{file}: its weights are not those of {config.model} with {config.init_features} "
            f"features ({reason}); use the file as the run wrote it"
        ) from None


def _names(file: Path, content: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of texts of a file of weights, () without one."""
    names = content.get(key, [])
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise KitError(f"{file}: its {key} is no list of names; use the file as the run wrote it")
    return tuple(names)


def _bare(content: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict as a network has it, out of what wrappers of torch make of it."""
    inner = content.get("state_dict", content)
    weights = inner if isinstance(inner, dict) else content
    # of DataParallel, of torch.compile, of one around the other
    return {_WRAPPERS.sub("", str(name)): value for name, value in weights.items()}


def _config_of(file: Path, values: dict[str, Any]) -> Config:
    try:
        return Config.from_dict(values)
    except (KitError, TypeError) as error:
        raise KitError(
            f"{file}: made by another version of the kit ({error}); use that version"
        ) from None


@dataclass(frozen=True)
class Prediction:
    """Hold predicted masks and their scores.

    ``lib.stats`` pairs it with runs: it has ``cases`` and ``config`` like them.

    Attributes:
        config: of the network, ``tta`` as it was predicted with.
        cases: a row per patient: ``patient``, ``slices``, ``seen`` (bool: the network was trained
            on this patient, so its scores show what it remembers), and where there are masks the
            scores of ``lib.evaluate.case_row``.
        known: the weights say which patients they were trained on. Without that ``seen`` is
            "unknown" in cases.csv.
    """

    data: BrainData
    config: Config
    cases: pd.DataFrame
    _packed: dict[str, np.ndarray]
    known: bool = True

    @property
    def seen(self) -> tuple[str, ...]:
        """Return the patients that the network was trained on."""
        return tuple(self.cases.loc[self.cases["seen"], "patient"])

    def mask(self, patient: str) -> np.ndarray:
        """Return the predicted mask on the file's grid, ``(S, H, W)`` {0, 1} uint8.

        Raises:
            KitError: no such patient was predicted.
        """
        if patient not in self._packed:
            some = ", ".join(list(self._packed)[:3])
            raise KitError(f"no mask of {patient!r} was predicted; there are {some or 'none'} ...")
        shape = self.data.record(patient).geometry.shape
        return np.unpackbits(self._packed[patient], count=int(np.prod(shape))).reshape(shape)

    def lesions(self) -> pd.DataFrame:
        """Return a row for each lesion that is found, missed or invented, on the file's grid.

        The columns are ``patient`` and those of ``lib.evaluate.lesions``. Patients without masks
        are left out.
        """
        rows = []
        for patient in self.cases["patient"]:
            truth = self.data.truth(patient)
            if truth is not None:
                found = lesions(self.mask(patient), truth)
                rows += [{"patient": patient, **lesion} for lesion in found]
        return pd.DataFrame(rows, columns=["patient", "kind", "voxels", "covered"])

    def by_medpy(self) -> pd.DataFrame:
        """Return the scores of each patient beside those of ``medpy``, an independent library.

        Without it (``pip install medpy``) its columns are missing. Patients without masks are left
        out, and those with nothing to find and nothing found: there medpy has no score.
        """
        rows = {}
        for patient in self.cases["patient"]:
            mask, truth = self.mask(patient), self.data.truth(patient)
            if truth is not None and (mask.any() or truth.any()):
                found = counts(mask, truth)
                rows[patient] = {name: getattr(found, name) for name in MEDPY}
                rows[patient] |= _medpy_scores(mask, truth)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("patient")

    def ranked(self) -> list[str]:
        """Return patients from the worst to the best native DSC; by name without ground truth."""
        by = [name for name in ("dsc_native", "patient") if name in self.cases]
        return list(self.cases.sort_values(by)["patient"])

    def __str__(self) -> str:
        if "dsc" not in self.cases:
            return f"{len(self.cases)} patients without masks: nothing to compare with"
        scored = self.cases.dropna(subset=["dsc"])
        seen = scored["seen"]
        lines = [
            f"DSC {where}: {summarise(scored.loc[~seen, column])}"
            for where, column in (("as published", "dsc"), ("on the file's grid", "dsc_native"))
            if not seen.all()
        ]
        if not self.known:
            lines.append(
                "the weights do not say whom they were trained on: if these patients were among "
                "them, the score tells what the network remembers"
            )
        if seen.any():
            lines.append(
                f"not counted: {seen.sum()} patients that the network was trained on (DSC "
                f"{scored.loc[seen, 'dsc'].mean():.3f}, which tells what it remembers)"
            )
        return "\n".join(lines)


MEDPY = {"dsc": "dc", "iou": "jc", "precision": "precision", "recall": "recall"}
"""Score -> the function of ``medpy.metric.binary`` that computes it, too."""


def _medpy_scores(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the scores of two masks by medpy; none where it is not installed."""
    if importlib.util.find_spec("medpy") is None:
        return {}
    from medpy.metric import binary

    return {
        f"{name}, medpy": getattr(binary, theirs)(mask, truth) for name, theirs in MEDPY.items()
    }


def predict(
    weights: TrainedModel | Run | str | Path,
    data: BrainData | str | Path,
    out: str | Path | None = None,
    patients: tuple[str, ...] | list[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = BATCH_SIZE,
    tta: bool | None = None,
) -> Prediction:
    """Segment patients on the grid of the files, and keep what ``Config.component`` says.

    Args:
        weights: from ``load_weights``, a file for it, or a run, whose custom code is trusted.
        data: from ``load_data``, or a folder for it; masks are used for scoring where there are
            any.
        out: where ``<patient>/<patient>_<slice>_mask.tif`` and ``cases.csv`` go, the latter with
            the columns of ``Prediction.cases``; nothing is written without it. Masks of an earlier
            prediction are replaced, and removed where they are of other patients. What was edited,
            or is not the kit's, is not touched; it is named if ``cases.csv`` does not list it.
        patients: names; all of them by default.
        batch_size: slices taken at once; it changes nothing but time and memory.
        tta: average probabilities over a left-right flip; by default as the network was scored in
            training. A finished run is scored with flips, without training again, by
            ``predict(run.weights, data, patients=run.unseen(data), tta=True)``.

    Raises:
        KitError: unusable weights, data or patient names, or data prepared for another image size.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise KitError(f"predict: batch_size is {batch_size!r}; use a whole number, 1 or more")
    if isinstance(patients, str):
        raise KitError(f"predict: patients is the text {patients!r}; give a list of names")
    trained = trained_model(weights)
    config = trained.config if tta is None else replace(trained.config, tta=tta)
    if not isinstance(data, BrainData):
        data = load_data(data, config.image_size, config.preprocessing)
    names = check_patients(data, config, patients)
    machine = prepare([trained.network], device, precision)
    tune_allocator(machine.device)
    volumes = predict_volumes(trained.network, config, data, names, machine, batch_size)
    seen = trained.seen(data) if trained.trained_on else None
    return segment(volumes, data, config, names, seen, out)


def trained_model(weights: object) -> TrainedModel:
    """Return the network with its weights, from a file or a run where that is given.

    Custom code that a run needs is trusted: it has been trained here.

    Raises:
        KitError: it is none of these.
    """
    if isinstance(weights, (str, Path)):
        return load_weights(weights)
    if isinstance(weights, Run):
        return load_weights(weights.weights, tuple(weights.config.custom.values()))
    if isinstance(weights, TrainedModel):
        return weights
    raise KitError(
        f"predict takes a run, a file of weights or the TrainedModel of load_weights, not "
        f"{type(weights).__name__}; a bare network does not say how its images are prepared"
    )


def most_different(
    runs: Mapping[str, Run | Sequence[Run]], data: BrainData
) -> dict[str, Prediction]:
    """Predict the patient on whom a sweep's runs differ most.

    Args:
        runs: label -> run, or its runs with several seeds, of which the first counts; the reference
            first.
        data: as these runs saw it.

    Returns:
        The reference and the run whose mean DSC differs most from it, by label: their predictions
        of the patient whose DSC differs most between the two.

    Raises:
        KitError: fewer than two runs.
    """
    if len(runs) < 2:
        raise KitError("two runs at least are needed to compare; train some more first")
    firsts = {label: as_list(given)[0] for label, given in runs.items()}
    scores = pd.DataFrame(
        {label: run.cases.set_index("patient")["dsc_native"] for label, run in firsts.items()}
    )
    differences = scores.iloc[:, 1:].sub(scores.iloc[:, 0], axis=0)
    labels = [scores.columns[0], differences.mean().abs().idxmax()]
    patient = differences[labels[1]].abs().idxmax()
    return {label: predict(firsts[label], data, patients=[patient]) for label in labels}


def segment(
    volumes: Iterator[tuple[str, np.ndarray]],
    data: BrainData,
    config: Config,
    names: tuple[str, ...],
    seen: Collection[str] | None,
    out: str | Path | None,
) -> Prediction:
    """Turn probabilities into masks on the files' grid and scores; write them to ``out`` if given.

    Args:
        volumes: (patient, probabilities) as ``predict_volumes`` yields them.
        names: the patients that will come.
        seen: patients that the network was trained on; None if that is not known.
    """
    if out is not None:
        own = _require_free(Path(out), data, names)
        first = Path(out) / "cases.csv"
        with changing(first):  # it comes last, when all masks are there
            first.unlink(missing_ok=True)
    rows, packed, known = [], {}, seen is not None
    bar = progress(total=len(names), desc="segmenting", unit="patient")
    with deterministic(), memory_in_words(), bar:
        for name, probabilities in volumes:
            mask = predicted_mask(data, name, probabilities, config.component)
            rows.append(case_row(config, data, name, probabilities, mask))
            packed[name] = np.packbits(mask)
            if out is not None:
                own.write(encode_masks(Path(out), data.patients[name], mask))
            bar.update()
    cases = pd.DataFrame(rows, columns=None if rows else ["patient", "slices"])
    cases.insert(2, "seen", cases["patient"].isin(seen or ()))
    if out is not None:
        ours = [*_mask_files(Path(out), data, names), Path(out) / "cases.csv"]
        others, edited = own.remove_others(ours)
        if others:
            say(f"{out}: {others} masks of an earlier prediction, of other patients, were removed")
        if edited:
            say(f"{edited[0]}: stays, as it was edited, though cases.csv does not list it")
        shown = cases if known else cases.assign(seen="unknown")
        own.write({Path(out) / "cases.csv": to_csv(shown).encode()})
    return Prediction(data, config, cases, packed, known)


def _require_free(out: Path, data: BrainData, names: Sequence[str]) -> OwnFiles:
    """Return what the kit wrote below ``out``, where masks of these patients can be written.

    Raises:
        KitError: it holds images, or masks that are not those of an earlier prediction.
    """
    with changing(out):
        out.mkdir(parents=True, exist_ok=True)
    images = [out / name / image.name for name in names for image in data.patients[name].images]
    if any(image.exists() for image in images):
        raise KitError(
            f"{out}: holds the images of patients, their masks would be overwritten; name another "
            f"folder"
        )
    own = OwnFiles(out)
    remedy = "name another folder, or move them away"
    require_replaceable(own, [*_mask_files(out, data, names), out / "cases.csv"], remedy)
    return own


def _mask_files(out: Path, data: BrainData, names: Sequence[str]) -> list[Path]:
    """Return where the masks of patients go."""
    return [out / name / mask for name in names for mask in data.patients[name].mask_names]


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m lib.predict", description="Segment the patients of a folder."
    )
    parser.add_argument(
        "--weights",
        help="best.pt of a run, or a state dict of the published U-Net (default: the best "
        "run in result/ on patients, or the kit's)",
    )
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--out", required=True, help="folder for masks and cases.csv")
    parser.add_argument(
        "--html",
        metavar="FILE",
        help=f"also write the slice browser of the {MOST_SHOWN} worst patients, as one page",
    )
    parser.add_argument(
        "--trust",
        nargs="+",
        default=(),
        metavar="MODULE:NAME",
        help="code outside the kit that the weights need, e.g. of a custom network",
    )
    parser.add_argument(
        "--tta", action="store_true", default=None, help="average over left-right flips"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    arguments = parser.parse_args()
    weights = Path(arguments.weights or default_weights())
    trained = load_weights(weights, arguments.trust)
    if arguments.tta is not None:
        trained = replace(trained, config=replace(trained.config, tta=arguments.tta))
    data = load_data(arguments.data, trained.config.image_size, trained.config.preprocessing)
    _require_free(Path(arguments.out), data, tuple(data.patients))
    seconds, what = _forecast(trained, data, arguments.device, arguments.precision)
    print(f"{data.report()}\nweights: {short_path(weights)}: {trained}")
    advice = ""
    if seconds > SLOW and weights.resolve() == KIT_WEIGHTS and SMALL_WEIGHTS.is_file():
        advice = f"; several times faster: --weights {short_path(SMALL_WEIGHTS)}"
    print(f"{what}: about {seconds:.0f} s{advice}")
    prediction = predict(
        trained, data, arguments.out, device=arguments.device, precision=arguments.precision
    )
    print(f"{prediction}\nmasks and cases.csv: {arguments.out}")
    if arguments.html:
        from lib.viewer import browse  # which builds on this module

        browse(prediction).to_html(arguments.html, prediction.ranked()[:MOST_SHOWN])


def _forecast(
    trained: TrainedModel, data: BrainData, device: str, precision: str
) -> tuple[float, str]:
    """Return how many seconds the network needs for all slices here, and what they are."""
    machine = prepare([trained.network], device, precision)
    count = len(data.slices(tuple(data.patients)))
    seconds = count * seconds_per_slice(trained, machine)
    return seconds, f"{count} slices on {machine.device}, {machine.precision.name}"


if __name__ == "__main__":
    from lib.predict import main  # the viewer knows its classes under this name

    run_command(main)
