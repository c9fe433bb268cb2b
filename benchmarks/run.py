"""``make bench``: ratios of this kit to the plain published algorithm, measured in turns on this machine.

Prints Markdown tables and writes them, with JSON, to ``result/bench``. Uses the phantom.
"""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import plain
from lib.augment import draw_affine, warp
from lib.config import Config
from lib.evaluate import Machine
from lib.kaggle import list_patients, read_patient
from lib.logger import device_name
from lib.loss import DiceLoss
from lib.networks import build_model, summary
from lib.phantom import write_phantom
from lib.session import PHANTOM_FOLDER
from lib.transform import preprocess, preprocess_mask
from lib.utils import PROJECT, memory_format, pick_device, pick_precision, write_atomic, write_json

ROUNDS = 5
SIZE, BATCH = 256, 16


def compare(plain_way: Callable[[], object], our_way: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, run in turns after one round that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for way, times in zip((plain_way, our_way), seconds, strict=True):
            started = time.perf_counter()
            way()
            times.append(time.perf_counter() - started)
    return tuple(statistics.median(times[1:]) for times in seconds)


def preparation() -> tuple[float, float]:
    """One patient at 256x256."""
    volume, mask, _ = read_patient(list_patients(write_phantom(PHANTOM_FOLDER))[0])

    def ours() -> None:
        _, geometry = preprocess(volume, SIZE)
        preprocess_mask(mask, geometry)

    return compare(lambda: plain.preprocess(volume, mask, SIZE), ours)


def augmentation() -> tuple[float, float]:
    """A batch of 16 at 256x256."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, 3, SIZE, SIZE)).astype(np.float32)
    masks = (rng.random((BATCH, 1, SIZE, SIZE)) > 0.9).astype(np.float32)
    slices = [(image.transpose(1, 2, 0), mask[0]) for image, mask in zip(images, masks, strict=True)]
    theta = torch.from_numpy(draw_affine(rng, BATCH, 0.05, 15.0, 0.5))
    batch = torch.from_numpy(images), torch.from_numpy(masks)
    return compare(lambda: [plain.augment(*pair, 1.03, 7.0) for pair in slices],
                   lambda: warp(*batch, theta, "background"))


def training() -> tuple[float, float]:
    """A step of the published U-Net, batch 16 at 128x128."""
    device, loss = pick_device(), DiceLoss()
    machine = Machine(device, pick_precision(device))
    images = torch.randn(BATCH, 3, 128, 128, device=device)
    masks = (torch.rand(BATCH, 1, 128, 128, device=device) > 0.9).float()
    models = [build_model(Config()).to(device).train() for _ in range(2)]
    models[1].to(memory_format=memory_format(device))
    optimizers = [torch.optim.Adam(model.parameters(), 1e-4) for model in models]

    def ours() -> None:
        with machine.precision.autocast(device):
            logits = models[1](machine.to_device(images))
        optimizers[1].zero_grad(set_to_none=True)
        loss(logits, masks).backward()
        optimizers[1].step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return compare(lambda: plain.train_step(models[0], loss, optimizers[0], images, masks), ours)


def speed() -> list[dict[str, Any]]:
    """A row per comparison: milliseconds of both ways, and their ratio."""
    rows = []
    for what in (preparation, augmentation, training):
        slow, fast = what()
        rows.append({"what": what.__doc__.rstrip("."), "plain, ms": round(1e3 * slow, 1),
                     "kit, ms": round(1e3 * fast, 1), "times faster": round(slow / fast, 1)})
    return rows


def memory() -> list[dict[str, Any]]:
    """A row per network in full width: GiB of activations that hooks on saved tensors count in a training step of 16
    slices of 256x256, bf16; nothing is computed, so it is the same on every machine."""
    rows = []
    for config in (Config(), Config(model="unet_2plus", init_features=64, deep_supervision=True),
                   Config(model="unet_3plus", init_features=64, deep_supervision=True, guided=True)):
        plain_way, ours = (summary(replace(config, checkpointing=on), BATCH, SIZE, "bf16") for on in (False, True))
        in_gib = {"kept, plain": plain_way.saved_bytes, "kept, checkpointing": ours.saved_bytes,
                  "largest other tensor": ours.largest_bytes, "peak, plain": plain_way.peak_bytes,
                  "peak, checkpointing": ours.peak_bytes}
        rows.append({"network": f"{config.model} {config.init_features}", "parameters": ours.parameters,
                     "GFLOPs a slice": round(ours.gflops, 1),
                     **{what: round(size / 2**30, 2) for what, size in in_gib.items()}})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line) + " |"
                     for line in lines)


def main() -> None:
    """Measure, print, write."""
    device = pick_device()
    machine = (f"{device_name(device)}, {pick_precision(device).name}, torch {torch.__version__}, "
               f"{platform.platform()}")
    results = {"speed": speed(), "memory": memory()}
    text = "\n\n".join([f"{machine}; median of {ROUNDS} runs in turns", markdown(results["speed"]),
                        " ".join(memory.__doc__.split()), markdown(results["memory"])])
    out: Path = PROJECT / "result" / "bench"
    write_json(out / "bench.json", {"machine": machine} | results)
    write_atomic(out / "bench.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
