"""Train the full-scale evidence on a GPU that is lent for minutes: ``python -m maintain.lease``.

Three processes share the GPU, so that it computes while one of them validates or writes. A warm-up
on phantoms compiles once for all, and measures how many slices a second come out. From that the
numbers of epochs are chosen before anything is trained on patients. Then the cross-validation of
``maintain.reference`` is trained, and weights on all patients. What is finished at the deadline is
packed; the same command goes on with the rest. ``--tiny`` is a rehearsal on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from benchmarks.sets import many_patients
from lib import train
from lib.config import BEST, Config
from lib.dataset import BrainData, folds, load_data
from lib.evaluate import THRESHOLD, predict_volumes
from lib.logger import Run
from lib.networks import build_model
from lib.runtime import cuda_graph
from lib.runtime.device import prepare
from lib.sweep.task import Task, make_tasks, train_task
from lib.train import fit
from lib.utils import write_json
from maintain.reference import CROSS_VALIDATION, FOLDS, PARTS, WEIGHTS, base_of

CREW = 3
CHOICES = ((40, 100), (30, 100), (30, 60), (24, 60), (24, 40), (20, 40), (12, 40), (8, 8))
"""Epochs of the cross-validation and of the weights; the first pair that fits into the time."""
BASELINE_EPOCHS = 40
MODES = {
    "compiled": "training-best-recorded-compiled",
    "recorded": "training-best-recorded",
    "plain": "",
}
"""How a step is computed -> the piece of ``benchmarks.gpu`` that tries it; the fastest first."""
PATIENCE, CAUTIOUS_RATE = 75, 1200.0  # seconds; slices per second
RESERVE = 30  # seconds for starting the processes, and for the last evaluation
KEPT = ("run.json", "history.csv", "cases.csv", "components.json")


class Choice(NamedTuple):
    """How long everything is trained.

    Attributes:
        rate: slices per second that all processes train together, validation included.
    """

    folds: int
    weights: int
    rate: float


def warm_up(work: Path, tiny: bool) -> None:
    """Find out what works here, compile it, and measure how fast three processes train together.

    Writes ``rate.json``: slices per second of all of them, validation included, and the mode.
    """
    many_patients(work / "phantom", 6 if tiny else 40, 32 if tiny else 256, 8 if tiny else 36)
    mode = next(mode for mode, piece in MODES.items() if not piece or _measured(piece, work, tiny))
    write_json(work / "rate.json", {"mode": mode, "rate": None})
    crew = [
        subprocess.Popen(_self("warm", work, tiny, str(i)), stdout=subprocess.PIPE, text=True)
        for i in range(1, CREW + 1)
    ]
    rate = sum(float(process.communicate()[0].split()[-1]) for process in crew)
    write_json(work / "rate.json", {"mode": mode, "rate": rate})


def _measured(piece: str, work: Path, tiny: bool) -> bool:
    """Measure a piece of ``benchmarks.gpu``; return whether it succeeded."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", piece, "--out", str(work / "gpu")]
    command += ["--tiny", "--device", "cpu"] if tiny else []
    return subprocess.run(command).returncode == 0 and (work / "gpu" / f"{piece}.json").is_file()


def use(mode: str) -> None:
    """Compile and record in this process as ``mode`` of ``MODES`` says, however short a run is."""
    cuda_graph.CALLS_THAT_PAY = 0 if mode == "compiled" else sys.maxsize
    if mode == "plain":
        train.can_replay = lambda *_: False


def warm(work: Path, tiny: bool, number: int) -> float:
    """Train on phantoms; return slices per second, validation included, without the first epoch."""
    data = load_data(work / "phantom", 32 if tiny else 256)
    config = _sized(Config(**{**BEST.to_dict(), "epochs": 3 if tiny else 10, "seed": number}), tiny)
    ends: list[float] = []
    run = fit(config, data, work / f"warm-{number}", watch=lambda _: ends.append(time.monotonic()))
    slices = sum(len(data.slices((name,))) for name in run.info["split"]["train"])
    return slices * (len(ends) - 1) / (ends[-1] - ends[0])


def choose(data: BrainData, rate: float, seconds: float) -> Choice:
    """Return the longest training that fits into the time."""
    slices = len(data.slices(tuple(data.patients)))
    for choice in CHOICES:
        folds, weights = choice
        # two recipes on five folds, each of which trains on four fifths of the slices
        needed = slices * (2 * 5 * 0.8 * folds + weights + BASELINE_EPOCHS) / rate
        if needed < seconds - RESERVE:
            break
    return Choice(folds, weights, rate)


def tasks(data: BrainData, out: Path, choice: Choice, tiny: bool) -> list[Task]:
    """Return the runs, the most valuable first: weights, the folds in pairs, the baseline."""

    def of(part: str, epochs: int, splits: Sequence[str] = ()) -> list[Task]:
        base = _sized(base_of(PARTS[part], "gpu", {"epochs": epochs}), tiny)
        return make_tasks(PARTS[part].plan, base, data, out.absolute(), (), splits, "gpu")

    crossed = of(CROSS_VALIDATION, choice.folds, [split.name for split in folds(data, FOLDS)])
    best, baseline = of(WEIGHTS, choice.weights)[1], of(WEIGHTS, BASELINE_EPOCHS)[0]
    pairs = zip(crossed[1::2], crossed[::2], strict=True)
    return [best, *(task for pair in pairs for task in pair), baseline]


def work_through(work: Path, data: BrainData, choice: Choice, tiny: bool) -> None:
    """Train what no other process has begun, and look at the components of each prediction."""
    for task in tasks(data, work / "out", choice, tiny):
        try:
            (work / "begun" / task.folder.path.name).touch(exist_ok=False)
        except FileExistsError:  # by another process
            continue
        train_task(task, data, (work / "out").absolute())
        if task.status == "finished":
            write_json(task.folder.path / "components.json", components(task, data))


def components(task: Task, data: BrainData) -> list[dict[str, object]]:
    """Return each connected component of each validation patient, by the weights of the last epoch.

    With size, true voxels, and sums of probability and log-odds any rule of choosing components can
    be judged without predicting again.
    """
    last = torch.load(task.folder.path / "last.pt", map_location="cpu", weights_only=True)
    model = build_model(task.trial.config)
    model.load_state_dict((last["average"] or last)["weights"])
    machine = prepare([model], "auto", "auto")
    rows = []
    patients = tuple(Run(task.folder.path).info["split"]["validation"])
    for patient, volume in predict_volumes(model, task.trial.config, data, patients, machine):
        truth = data.slices((patient,)).volume_masks()[0]
        labels, count = ndimage.label(volume > THRESHOLD)
        p = np.clip(volume, 1e-6, 1 - 1e-6).ravel().astype(np.float64)
        sums = {"voxels": None, "true": truth.ravel(), "probability": p}
        sums["log odds"] = np.log(p / (1 - p))
        found = {
            name: np.bincount(labels.ravel(), weights, count + 1)[1:].round(1).tolist()
            for name, weights in sums.items()
        }
        rows.append({"patient": patient, "ground truth": int(truth.sum()), **found})
    return rows


def pack(work: Path, out: Path) -> None:
    """Write the tables of all runs as one archive, and the weights in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out / "runs.tar.gz", "w:gz") as archive:
        for file in sorted(work.glob("out/runs/*/*")):
            if file.name in KEPT:
                archive.add(file, f"runs/{file.parent.name}/{file.name}")
    for file in sorted(work.glob("out/runs/*/best.pt")):
        run = Run(file.parent)
        if run.info["status"] == "finished" and not run.info["split"]["validation"]:
            content = torch.load(file, map_location="cpu", weights_only=True)
            content["weights"] = {
                name: weights.half() if weights.is_floating_point() else weights
                for name, weights in content["weights"].items()
            }
            torch.save(content, out / f"{run.info['places'][0]['label']}-{run.config.epochs}.pt")
    shutil.copy(work / "choice.json", out)


def _rate(work: Path, end: float) -> float:
    """Return the measured rate, or a cautious one if the warm-up is not done by then."""
    while time.monotonic() < end:
        if (work / "rate.json").is_file():
            found = json.loads((work / "rate.json").read_text(encoding="utf-8"))["rate"]
            if found is not None:
                return float(found)
        time.sleep(0.5)
    return CAUTIOUS_RATE


def _sized(config: Config, tiny: bool) -> Config:
    return Config(**config.to_dict() | ({"image_size": 32, "init_features": 2} if tiny else {}))


def _self(verb: str, work: Path, tiny: bool, *rest: str) -> list[str]:
    command = [sys.executable, "-m", "maintain.lease", verb, "--work", str(work)]
    return [*command, *(["--tiny"] if tiny else []), *(["--number", *rest] if rest else [])]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m maintain.lease")
    parser.add_argument("verb", choices=("warm-up", "train", "warm", "crew"))
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of everything; a fast disk"
    )
    parser.add_argument("--data", type=Path, help="the patients")
    parser.add_argument("--out", type=Path, help="folder of what is to be taken home")
    parser.add_argument("--seconds", type=float, default=540, help="until the deadline")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal, numbers mean nothing")
    options = parser.parse_args()
    work, tiny, begun = options.work, options.tiny, time.monotonic()
    os.environ |= {"KIT_CACHE": str(work / "cache"), "KIT_PROGRESS": "off"}
    if (work / "rate.json").is_file():
        use(json.loads((work / "rate.json").read_text(encoding="utf-8"))["mode"])
    if options.verb == "warm":
        print(warm(work, tiny, options.number))
    elif options.verb == "warm-up":
        work.mkdir(parents=True, exist_ok=True)
        warm_up(work, tiny)
    elif options.verb == "crew":
        about = json.loads((work / "choice.json").read_text(encoding="utf-8"))
        data = load_data(about["data"], 32 if tiny else 256)
        work_through(work, data, Choice(**about["choice"]), tiny)
    else:
        data = load_data(options.data, 32 if tiny else 256)
        rate = _rate(work, begun + PATIENCE)
        if not (work / "choice.json").is_file():
            left = options.seconds - (time.monotonic() - begun)
            choice = choose(data, rate, left)
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
            about = {"data": str(options.data), "choice": choice._asdict(), "device": device}
            write_json(work / "choice.json", about)
        shutil.rmtree(work / "begun", ignore_errors=True)  # of a call that was cut off
        (work / "begun").mkdir()
        crew = [subprocess.Popen(_self("crew", work, tiny)) for _ in range(CREW)]
        while time.monotonic() - begun < options.seconds and any(p.poll() is None for p in crew):
            time.sleep(1)
        for process in crew:
            process.kill()
        pack(work, options.out)


if __name__ == "__main__":
    main()
