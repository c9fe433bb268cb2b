"""How time and memory grow with the number of patients and the size of their slices.

Each point is measured in a process of its own, ``python -m benchmarks.scale point FOLDER SIZE``, so
that its peak of memory is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks import plain
from benchmarks.measure import Row, seconds
from benchmarks.sets import many_patients, temporary
from benchmarks.step import Step
from lib.config import Config
from lib.data import Cache, list_patients, read_patient
from lib.data.cache import SliceFile
from lib.dataset import BrainData, Sampler, SliceDataset, load_data
from lib.logger import Epoch
from lib.phantom import PHANTOM_FOLDER, write_phantom
from lib.plot import styled
from lib.runtime import peak_memory, pick_device
from lib.train import fit
from lib.transform import Augmentation
from lib.utils import PROJECT

PATIENTS, SIZES = (5, 10, 20, 40), (64, 128, 256, 512)
SMALL = Config(
    sampling="fresh", padding="background", init_features=8, batch_size=8, epochs=3, device="cpu"
)
_STATUS = Path("/proc/self/status")  # Linux tells there what memory consists of


# --- measured in a process of its own -------------------------------------------------------------


def peak_gib() -> float | None:
    """Peak memory of this process so far."""
    if not _STATUS.exists():
        return peak_memory(torch.device("cpu")).get("peak_ram_gib")
    # the figure that all systems have counts in the process that started this one
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 2**20, 3)


def prepared(root: Path, size: int) -> tuple[Row, BrainData]:
    """Seconds of preparing ``root`` and of opening it again, and the peak of memory; the data."""
    cold = seconds(lambda: load_data(root, size))
    peak = peak_gib()
    warm = seconds(lambda: load_data(root, size))
    data = load_data(root, size)
    return {
        "patients": len(data.patients),
        "slices": len(data.slices(tuple(data.patients))),
        "size": size,
        "cold, s": round(cold, 2),
        "warm, s": round(warm, 3),
        "preparing, peak GiB": peak,
    }, data


def point(root: Path, config: Config) -> Row:
    """Measure preparation and training, of the epochs the median without the first.

    Returns the row of ``prepared``, the seconds of an epoch with its validation, and the peak of
    memory.
    """
    with temporary() as folder:
        found, data = prepared(root, config.image_size)
        ends = []

        def end(_: Epoch) -> None:
            ends.append(time.perf_counter())

        fit(config, data, folder / "out", watch=end)
    found |= {
        "epoch, s": round(float(np.median(np.diff(ends))), 2),
        "training, peak GiB": peak_gib(),
    }
    on_gpu = peak_memory(pick_device(config.device)).get("peak_gpu_gib")
    return found if on_gpu is None else found | {"training, peak GPU GiB": on_gpu}


@contextmanager
def _own_memory() -> Iterator[list[int]]:
    """Sample the memory that belongs to this process alone, in bytes.

    Files that the system keeps in memory do not count.
    """
    samples, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            line = next(
                line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon")
            )
            samples.append(1024 * int(line.split()[1]))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _replicated(cache: Cache, times: int, folder: Path) -> Cache:
    """A cache on disk that holds each patient ``times`` times."""
    arrays = {}
    for name in ("images", "masks"):
        part, file = getattr(cache, name), folder / name
        content = part[np.arange(len(part))].tobytes()
        with open(file, "wb") as stream:
            for _ in range(times):
                stream.write(content)
        arrays[name] = SliceFile(file, part.dtype, (times * len(part), *part.shape[1:]))
    n = len(cache.masks)
    records = {
        f"{name}_{copy}": replace(
            record, name=f"{name}_{copy}", rows=tuple(copy * n + row for row in record.rows)
        )
        for copy in range(times)
        for name, record in cache.records.items()
    }
    return Cache(records, [], arrays["images"], arrays["masks"], cache.truth)


def large_cache(times: int, size: int = 128, steps: int = 10) -> Row:
    """Train on the phantom ``times`` times over, read from a file.

    Returns the peak of the process's own memory over some steps.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cache = _replicated(
            load_data(write_phantom(PHANTOM_FOLDER), size).cache, times, Path(folder)
        )
        step = Step(SMALL)
        with _own_memory() as samples:
            slices = SliceDataset(cache, tuple(cache.records))
            sampler = Sampler(slices, replace(SMALL, seed=0, sampling="fresh"))
            (indices, drawn), augmentation = sampler.draw(0), Augmentation(SMALL)
            for number in range(steps):
                part = slice(number * 16, number * 16 + 16)
                images, masks = (tensor.to(step.device) for tensor in slices.batch(indices[part]))
                step(*augmentation.apply(images, masks, drawn.of(part).to(step.device)))
        return {
            "patients": len(cache.records),
            "slices": len(slices),
            "set, GiB": round((cache.images.nbytes + cache.masks.nbytes) / 2**30, 2),
            "own memory, peak GiB": round(max(samples) / 2**30, 2),
        }


def _in_its_own_process(*arguments: object) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", *map(str, arguments)],
        cwd=PROJECT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


# --- tables and figure ----------------------------------------------------------------------------


def large_set(patients: int = 100, measured: int = 4) -> list[Row]:
    """Prepare a set as large as the real one at 256x256.

    The published code would take a quarter of an hour: four patients are measured on one core, and
    multiplied; the kit uses all cores. Files are in the page cache. The targets: 30 times, 2.5 GB
    (2.33 GiB), 1 s.
    """
    with temporary() as folder:
        root = many_patients(folder / "data", patients)
        some = list_patients(root)[:measured]
        slow = seconds(
            lambda: [plain.preprocess(*read_patient(patient)[:2], 256) for patient in some]
        )
        found = _in_its_own_process("prepare", root, 256)
    slow *= patients / measured
    return [found | {"published, s": round(slow), "times faster": round(slow / found["cold, s"])}]


def bounded() -> list[Row]:
    """Measure memory while training on a set that is read from files.

    The set is the phantom once, and 20 times. What the process owns must not grow with the set.
    """
    if not _STATUS.exists():
        return [{"left out": "only Linux tells what memory consists of"}]
    return [_in_its_own_process("large", times) for times in (1, 20)]


def curves(picture: Path) -> list[Row]:
    """Measure time and memory against the number of patients and the size of slices.

    36 slices a patient, U-Net of 8 features, batch 8, an epoch with its validation, the first left
    out.
    Exponents of the last half of the points are in the last two rows; see scale.png. An exponent of
    1
    is linear. What is not, and why: a warm start reads an index and opens files, whatever their
    size;
    preparing small slices is reading files, which have 256x256 pixels in the right half; memory
    begins
    with Python and torch, and grows with the pixels of a batch.
    """
    with temporary() as folder:
        by_patients = [
            _in_its_own_process("point", many_patients(folder / str(n), n, 128), 128)
            for n in PATIENTS
        ]
        small = many_patients(folder / "small", min(PATIENTS), 256)
        by_size = [_in_its_own_process("point", small, size) for size in SIZES]
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(by_patients, by_size).savefig(picture)
    return [
        *by_patients,
        *by_size,
        _exponents("patients", by_patients, [row["patients"] for row in by_patients]),
        _exponents("pixels", by_size, [row["size"] ** 2 for row in by_size]),
    ]


def _exponents(along: str, rows: list[Row], x: list[float]) -> Row:
    """The same columns: how each grows along the first."""
    return {
        name: f"exponent by {along}"
        if name == "patients"
        else ""
        if name in ("slices", "size")
        else round(exponent(x, [row[name] for row in rows]), 2)
        for name in rows[0]
    }


def exponent(x: list[float], y: list[float]) -> float:
    """Of the power law through the last half of the points: 1 is linear, 0 is constant."""
    half = max(2, len(x) // 2)
    return float(np.polyfit(np.log(x[-half:]), np.log(np.maximum(y[-half:], 1e-9)), 1)[0])


@styled
def draw_curves(by_patients: list[Row], by_size: list[Row]) -> Figure:
    """Seconds above, GiB below; patients on the left, pixels of a slice on the right."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 6.5))
    names = (("cold, s", "warm, s", "epoch, s"), ("preparing, peak GiB", "training, peak GiB"))
    for column, (rows, along, ticks, label) in enumerate(
        (
            (
                by_patients,
                [row["patients"] for row in by_patients],
                [str(row["patients"]) for row in by_patients],
                "patients, 36 slices of 128x128 each",
            ),
            (
                by_size,
                [row["size"] ** 2 for row in by_size],
                [f"{row['size']}²" for row in by_size],
                f"pixels of a slice, {by_size[0]['patients']} patients",
            ),
        )
    ):
        times, memory = grid[:, column]
        for name in names[0]:
            values = [row[name] for row in rows]
            times.loglog(
                along,
                values,
                "o-",
                label=f"{name.split(', ')[0]}: exponent {exponent(along, values):.1f}",
            )
        for name in names[1]:
            memory.semilogx(along, [row[name] for row in rows], "o-", label=name.split(", ")[0])
        times.set(xlabel=label, ylabel="seconds")
        memory.set(xlabel=label, ylabel="peak, GiB", ylim=(0, None))
        for axes in (times, memory):
            axes.set_xticks(along, ticks)
            axes.minorticks_off()
            axes.legend()
    return figure


def main() -> None:
    """One measurement; a line of JSON."""
    kind, *rest = sys.argv[1:]
    if kind == "large":
        found = large_cache(int(rest[0]))
    elif kind == "prepare":
        with temporary():
            found, _ = prepared(Path(rest[0]), int(rest[1]))
    else:
        found = point(Path(rest[0]), replace(SMALL, image_size=int(rest[1])))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
