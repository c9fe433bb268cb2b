"""Measure what only a GPU can show: ``python -m benchmarks.gpu``.

Does it run there at all, do the large networks fit a card of 8 GB, how fast is it, how does cost
grow? Each piece runs in a process of its own and leaves a JSON file; a piece whose file is there is
not measured again, so that the same command goes on where it stopped. ``--device cpu --tiny`` goes
through all of it with networks of 2 features.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from benchmarks.measure import Row, machine, markdown, seconds
from benchmarks.scale import point
from benchmarks.sets import many_patients, temporary
from benchmarks.step import FULL_WIDTH, Step, peak_gflops, random_batch, shares
from lib.config import BEST, REFERENCE, Config
from lib.dataset import load_data, make_split
from lib.logger import RunFolder
from lib.networks import build, summary
from lib.optim import MovingAverage
from lib.runtime import deterministic, pick_device, seed_everything
from lib.runtime.device import on_cpu
from lib.train import Training, train_epoch
from lib.transform import build_augmentation
from lib.utils import PROJECT, progress, write_atomic, write_json

LIMIT = 120  # seconds a piece may take
MINUTES = 14  # after which no piece begins; what is left is measured by the next call
GRACE = 1  # minutes after that, at whose end a piece that goes on is killed
CARD = 7.5  # GiB that a card of 8 GB leaves to a process
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    image: int = 256
    batches: tuple[int, ...] = (16, 64)
    images: tuple[int, ...] = (128, 256, 512)
    curve: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    patients: tuple[int, ...] = (10, 20, 40, 70, 100)
    epochs: int = 30
    steps: int = 20
    features: int | None = None  # instead of the published width

    def config(self, network: str, **changes: Any) -> Config:
        """One of ``FULL_WIDTH`` at this size."""
        width = {"init_features": self.features} if self.features else {}
        return replace(
            FULL_WIDTH[network],
            **({"image_size": self.image, "batch_size": self.batches[0]} | width | changes),
        )


TINY = Size(32, (2,), (32, 64), (1, 2), (3, 4), 2, 2, 2)


# --- pieces ---------------------------------------------------------------------------------------


def tests(device: torch.device, size: Size) -> Row:
    """``pytest -m gpu``: how many passed, failed and were left out."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    counted = {
        word: int(number)
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    }
    if done.returncode not in (0, 1) or not counted:  # 1: some have failed
        raise RuntimeError(f"pytest did not run to its end: status {done.returncode}")
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    return {"passed": 0, "failed": 0, "skipped": 0} | counted | {"which failed": " ".join(failed)}


def memory(device: torch.device, size: Size, network: str, checkpointing: bool) -> Row:
    """Some training steps with no more memory than a card of 8 GB has."""
    config = size.config(network, checkpointing=checkpointing)
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CARD * GIB / there), device.index or 0)
    row = {
        "network": f"{network} {config.init_features}",
        "checkpointing": checkpointing,
        "batch": config.batch_size,
        "size": config.image_size,
    }
    return row | _steps(config, device, size.steps)


def _steps(
    config: Config,
    device: torch.device,
    steps: int,
    precision: str = "auto",
    compiled: bool = False,
) -> Row:
    """Slices/s and peak GiB of training and inference; or that memory ran out."""
    try:
        with deterministic():  # as lib.train trains
            step = Step(config, device, precision, compiled)
            images, masks = random_batch(config.batch_size, config.image_size, device)

            def train(times: int) -> None:
                for _ in range(times):
                    step(images, masks)
                step.wait()

            def infer(times: int) -> None:
                for _ in range(times):
                    step.infer(images)
                step.wait()

            start_up = seconds(lambda: train(2))  # Adam's state is there from the second step on
            training, peaks = seconds(lambda: train(steps)), _peaks(device)
            infer(1)
            inference = seconds(lambda: infer(steps))
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return {"fits": False}
    return {
        "precision": step.machine.precision.name,
        "fits": True,
        "first two steps, s": round(start_up, 2),
        "training, slices/s": round(steps * len(images) / training, 1),
        "inference, slices/s": round(steps * len(images) / inference, 1),
        **peaks,
    }


def _peaks(device: torch.device) -> Row:
    if device.type != "cuda":
        return {}
    return {
        "allocated, GiB": round(torch.cuda.max_memory_allocated(device) / GIB, 2),
        "reserved, GiB": round(torch.cuda.max_memory_reserved(device) / GIB, 2),
    }


def speed(
    device: torch.device, size: Size, network: str, batch: int, precision: str, compiled: bool
) -> Row:
    """Slices/s; arithmetic of a training slice is three times that of a forward pass."""
    config = size.config(network, batch_size=batch)
    row = {
        "network": f"{network} {config.init_features}",
        "batch": batch,
        "asked for": precision,
        "compiled": compiled,
    }
    found = _steps(config, device, size.steps, precision, compiled)
    if not found["fits"]:
        return row | found
    gflops = 3 * summary(config, precision=precision).gflops
    reached, peak = (
        gflops * found["training, slices/s"],
        peak_gflops(device, precision, 2048 if size is TINY else 8192),
    )
    return (
        row
        | found
        | {
            "GFLOPs a training slice": round(gflops, 1),
            "TFLOP/s": round(reached / 1e3, 2),
            "matrix product, TFLOP/s": round(peak / 1e3, 2),
            "of a matrix product, %": round(100 * reached / peak, 1),
        }
    )


def data_path(device: torch.device, size: Size, precision: str) -> Row:
    """Where a training step's time goes when slices are gathered and augmented too."""
    with temporary() as folder:
        root = many_patients(folder / "data", 4, min(size.image, 256))
        return shares(
            size.config("unet"), load_data(root, size.image), size.steps, device, precision
        )


def baseline(device: torch.device, size: Size) -> Row:
    """Epochs of the published U-Net, fresh sampling; the cache is warm."""
    return _epochs(device, size, size.patients[-1], size.image, size.epochs)


def _epochs(device: torch.device, size: Size, patients: int, image: int, epochs: int) -> Row:
    config = size.config(
        "unet",
        image_size=image,
        epochs=epochs,
        sampling="fresh",
        padding=BEST.padding,
        device=str(device),
    )
    with temporary() as folder:
        root = many_patients(folder / "data", patients, min(image, 256), 6 if size is TINY else 36)
        found = point(root, config)
    return found | {"epochs": epochs, f"{epochs} epochs, s": round(epochs * found["epoch, s"], 1)}


def by_image(device: torch.device, size: Size, image: int) -> Row:
    """Batch 16 of slices of ``image`` pixels."""
    return {"size": image} | _steps(size.config("unet", image_size=image), device, size.steps)


def by_batch(device: torch.device, size: Size, batch: int) -> Row:
    """``batch`` slices a step."""
    return {"batch": batch} | _steps(size.config("unet", batch_size=batch), device, size.steps)


def by_patients(device: torch.device, size: Size, patients: int) -> Row:
    """Preparing ``patients`` and an epoch on them."""
    return _epochs(device, size, patients, size.image, 2)


def assembled(device: torch.device, size: Size, recipe: str, recorded: bool, compiled: bool) -> Row:
    """Measure the training of ``lib.train``, with and without its recording and compiling."""
    with _training(device, size, RECIPES[recipe], recorded, compiled) as training:
        found = _timed(training)
    return {"recipe": recipe, "recorded": recorded, "compiled": compiled, **found}


def _timed(training: Training) -> Row:
    """Return how fast a training is, its first epoch by itself."""
    steps = [_epoch_seconds(training, epoch) for epoch in range(3)]
    step = min(steps[1:]) / training.steps_per_epoch
    return {
        "first epoch, s": round(steps[0], 1),
        "ms a step": round(1e3 * step, 2),
        "slices/s": round(training.config.batch_size / step, 1),
        **_peaks(training.machine.device),
    }


def changed(device: torch.device, size: Size, change: str) -> Row:
    """Measure the training of the best recipe, recorded, with one part of it done otherwise."""
    with CHANGES[change](), _training(device, size, BEST, device.type == "cuda", False) as training:
        return {"change": change, **_timed(training)}


def reduced(device: torch.device, size: Size) -> Row:
    """Measure the same with ``torch.compile(mode="reduce-overhead")`` instead of the recording."""
    with _training(device, size, BEST, False, False) as training:
        training.forward = torch.compile(training.model, mode="reduce-overhead")
        return _timed(training)


@contextmanager
def _free() -> Iterator[None]:
    """Let cuDNN try its algorithms and take the fastest, in the place of ``deterministic``."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _adam(**how: bool) -> AbstractContextManager[object]:
    """Let Adam go through the weights in another way."""

    def build_adam(config: Config, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, config.lr, **how)

    return mock.patch("lib.train.build_optimizer", build_adam)


class _Averaged(MovingAverage):
    """Average the weights by torch's own class."""

    def __init__(self, model: nn.Module, decay: float, run: int) -> None:
        super().__init__(model, decay, run)
        averages = get_ema_multi_avg_fn(self.decay)
        self._theirs = AveragedModel(model, multi_avg_fn=averages, use_buffers=True)

    def update(self, model: nn.Module) -> None:
        self._theirs.update_parameters(model)


CHANGES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "none": nullcontext,
    "free-cudnn": lambda: mock.patch.object(sys.modules[__name__], "deterministic", _free),
    "adam-weight-by-weight": partial(_adam, foreach=False, fused=False),
    "adam-foreach": partial(_adam, foreach=True, fused=False),
    "torch-averaged-model": lambda: mock.patch("lib.train.MovingAverage", _Averaged),
}


def augmentation(device: torch.device, size: Size) -> Row:
    """Milliseconds of the best recipe's augmentation of a batch, done in several ways."""
    augment, batch = build_augmentation(BEST), size.batches[0]
    images, masks = random_batch(batch, size.image, device)
    drawn = augment.draw(np.random.default_rng(0), batch).to(device)

    def one_by_one(images: Tensor, masks: Tensor, _: object) -> None:
        for at in (slice(i, i + 1) for i in range(batch)):
            augment.apply(images[at], masks[at], drawn.of(at))

    ways: dict[str, Callable[..., object]] = {
        "one expression over the batch": augment.apply,
        "slice by slice": one_by_one,
    }
    if device.type == "cuda":
        ways["one expression, compiled"] = torch.compile(augment.apply)
    return _milliseconds(
        {name: partial(way, images, masks, drawn) for name, way in ways.items()}, device, size
    )


def copies(device: torch.device, size: Size) -> Row:
    """Milliseconds to copy a batch to the device, from ordinary and from pinned memory.

    Where the slices fit on the device they lie there, and only indices are copied.
    """
    images, _ = random_batch(size.batches[0], size.image, torch.device("cpu"))
    ways = {"ordinary memory": partial(images.to, device, non_blocking=True)}
    if device.type == "cuda":
        ways["pinned memory"] = partial(images.pin_memory().to, device, non_blocking=True)
    return _milliseconds(ways, device, size)


def _milliseconds(ways: dict[str, Callable[[], object]], device: torch.device, size: Size) -> Row:
    """Return name -> milliseconds a call."""
    found = {}
    for name, way in ways.items():

        def calls(times: int, way: Callable[[], object] = way) -> None:
            for _ in range(times):
                way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        calls(3)
        found[f"{name}, ms"] = round(1e3 * seconds(partial(calls, size.steps)) / size.steps, 3)
    return found


def profiled(device: torch.device, size: Size) -> Row:
    """Return milliseconds a step of the best recipe by what the device computes."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with _training(device, size, BEST, device.type == "cuda", False) as training:
        _epoch_seconds(training, 0)
        with profile(activities=[activity]) as found:
            _epoch_seconds(training, 1)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    largest = sorted(found.key_averages(), key=lambda event: -getattr(event, key))[:25]
    each = 1e3 * training.steps_per_epoch
    return {event.key[:80]: round(getattr(event, key) / each, 3) for event in largest}


def same_bits(device: torch.device, size: Size, compiled: bool) -> Row:
    """Train the best recipe twice for an epoch: are the weights the same to the last bit?"""
    found = []
    for _ in range(2):
        with _training(device, size, BEST, device.type == "cuda", compiled) as training:
            _epoch_seconds(training, 0)
            found.append(on_cpu(training.model.state_dict()))
    equal = all(
        torch.equal(one, other) for one, other in zip(*map(dict.values, found), strict=True)
    )
    return {"compiled": compiled, "same bits twice": equal}


@contextmanager
def _training(
    device: torch.device, size: Size, recipe: Config, recorded: bool, compiled: bool
) -> Iterator[Training]:
    """Build a training on phantoms as ``lib.train.fit`` does."""
    config = replace(
        recipe,
        image_size=size.image,
        batch_size=size.batches[0],
        init_features=size.features or recipe.init_features,
        device=str(device),
    )
    with (
        temporary() as folder,
        deterministic(),
        mock.patch("lib.train.can_replay", lambda *_: recorded),
        mock.patch("lib.runtime.cuda_graph.CALLS_THAT_PAY", 0 if compiled else math.inf),
    ):
        slices = 6 if size is TINY else 36
        data = load_data(
            many_patients(folder / "data", 12, min(size.image, 256), slices), size.image
        )
        run = RunFolder(folder / "out", "run")
        with run.lock():
            yield Training(config, data, make_split(data, "all"), run, *build(config))


def _epoch_seconds(training: Training, epoch: int) -> float:
    device = training.machine.device

    def train() -> None:
        seed_everything(training.config.seed, epoch)
        train_epoch(training, epoch, training.config.lr, tqdm(disable=True))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return seconds(train)


Piece = Callable[[torch.device, Size], Row]
RECIPES = {"baseline": REFERENCE, "best": BEST}


def pieces(size: Size, device: torch.device) -> dict[str, Piece]:
    """Return name -> piece, the most valuable first.

    The part of a name before the first ``-`` is the table that it goes into.
    """
    found: dict[str, Piece] = {"tests-all": tests}
    on_gpu = (False, True) if device.type == "cuda" else (False,)
    for recipe in RECIPES:
        for recorded in on_gpu:
            for compiled in on_gpu:
                name = f"training-{recipe}{'-recorded' * recorded}{'-compiled' * compiled}"
                found[name] = partial(
                    assembled, recipe=recipe, recorded=recorded, compiled=compiled
                )
    found["profile-best"] = profiled
    for compiled in on_gpu:
        found[f"bits-best{'-compiled' * compiled}"] = partial(same_bits, compiled=compiled)
    found |= {f"change-{change}": partial(changed, change=change) for change in CHANGES}
    if device.type == "cuda":
        found["reduced-overhead"] = reduced
    found |= {"augmentation-best": augmentation, "copies-batch": copies}
    for network in FULL_WIDTH:
        for on in (False, True):
            found[f"memory-{network}-{'checkpointing' if on else 'plain'}"] = partial(
                memory, network=network, checkpointing=on
            )
    for network in FULL_WIDTH:
        for batch in size.batches:
            for precision in ("bf16", "fp32"):
                for compiled in (False, True) if device.type == "cuda" else (False,):
                    name = f"speed-{network}-{batch}-{precision}{'-compiled' if compiled else ''}"
                    found[name] = partial(
                        speed, network=network, batch=batch, precision=precision, compiled=compiled
                    )
    found |= {
        f"share-{precision}": partial(data_path, precision=precision)
        for precision in ("bf16", "fp32")
    }
    found["baseline-epochs"] = baseline
    found |= {f"image-{image}": partial(by_image, image=image) for image in size.images}
    found |= {f"batch-{batch}": partial(by_batch, batch=batch) for batch in size.curve}
    return found | {f"patients-{n}": partial(by_patients, patients=n) for n in size.patients}


# --- running them ---------------------------------------------------------------------------------


def driver() -> str:
    """Version of NVIDIA's driver, as far as it is to be had."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(
            asked, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "none"


def run_piece(name: str, size: Size, device: torch.device, out: Path) -> None:
    """Measure one piece in this process and write its file."""
    found = pieces(size, device)[name](device, size)
    about = machine(device) | {"driver": driver(), "cuda": torch.version.cuda or "none"}
    write_json(out / f"{name}.json", {"machine": about, "row": found})


def tables(out: Path, names: list[str]) -> str:
    """What is there so far, as Markdown."""
    groups: dict[str, list[Row]] = {}
    about = ""
    for name in names:
        if (out / f"{name}.json").is_file():
            content = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
            groups.setdefault(name.split("-")[0], []).append(content["row"])
            about = "; ".join(f"{key} {value}" for key, value in content["machine"].items())
    parts = [about]
    for group, rows in groups.items():
        keys = dict.fromkeys(key for row in rows for key in row)
        parts.append(
            f"### {group}\n\n" + markdown([{key: row.get(key, "") for key in keys} for row in rows])
        )
    return "\n\n".join(parts) + "\n"


def _failure(command: list[str], limit: float) -> str:
    """Run a piece for so many seconds, and return in a line why it failed; "" if it did not.

    Raises:
        TimeoutExpired: it took too long; it and what it has started are killed.
    """
    with subprocess.Popen(
        command, cwd=PROJECT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as piece:
        try:
            _, said = piece.communicate(timeout=limit)
        except BaseException:  # an interruption, too
            os.killpg(piece.pid, signal.SIGKILL)
            raise
    return (said.strip().splitlines() or ["no word"])[-1] if piece.returncode else ""


def main() -> None:
    """Measure what is missing, each piece in its own process, and put the tables together."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="a walk through all pieces, numbers mean nothing"
    )
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "result" / "gpu", help="folder of the JSON files"
    )
    parser.add_argument("--only", default="", help="pieces whose name begins so, e.g. memory")
    parser.add_argument("--piece", help="measure this one here and now")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"begin no piece later (default: {MINUTES})"
    )
    options = parser.parse_args()
    size, device = TINY if options.tiny else Size(), pick_device(options.device)
    if options.piece:
        run_piece(options.piece, size, device, options.out)
        return
    names, failed = [name for name in pieces(size, device) if name.startswith(options.only)], []
    missing = [name for name in names if not (options.out / f"{name}.json").is_file()]
    end = time.monotonic() + 60 * options.minutes
    for name in progress(missing, unit="piece"):
        if time.monotonic() > end:
            print(f"{options.minutes:g} minutes are over; the same command goes on", flush=True)
            break
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            "--device",
            options.device,
            "--out",
            str(options.out),
            "--piece",
            name,
            *["--tiny"] * options.tiny,
        ]
        limit = min(LIMIT, end + 60 * GRACE - time.monotonic())
        try:
            reason = _failure(command, limit)
        except subprocess.TimeoutExpired:
            reason = f"took more than {limit:.0f} s"
        if reason:
            failed.append(name)
            print(f"{name}: {reason}", flush=True)
        write_atomic(options.out / "gpu.md", tables(options.out, names))
    print(tables(options.out, names))
    if failed:
        sys.exit(
            f"{len(failed)} pieces failed; the same command tries them again: {', '.join(failed)}"
        )


if __name__ == "__main__":
    main()
