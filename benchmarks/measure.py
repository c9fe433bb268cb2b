"""Taking time in turns, saying on which machine, and writing it down."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from lib.runtime import pick_device, pick_precision
from lib.runtime.device import device_name
from lib.utils import PROJECT, write_atomic, write_json

COMPARED = ("scikit-image", "monai", "medpy")
IMPORTED = {"scikit-image": "skimage"}
OUT = PROJECT / "result" / "bench"
Row = dict[str, Any]


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(*ways: Callable[[], object], rounds: int = 5, warm_up: int = 1) -> list[float]:
    """Return the median seconds of each way.

    They run in turns, so that whatever else the machine does meets all of them.
    """
    times = [[seconds(way) for way in ways] for _ in range(warm_up + rounds)][warm_up:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


_way: Callable[[], object] | None = None  # of the process that ``apart`` starts


@contextmanager
def apart(
    prepare: Callable[..., Callable[[], object]], *arguments: Any
) -> Iterator[Callable[[], object]]:
    """Run a way in a process of its own.

    In this process the kit has tuned the allocator, which is to its credit alone.

    Args:
        prepared: called there; what it returns is the way. Importable by name.
        arguments: of ``prepare``.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit the change
    usual = multiprocessing.get_start_method()
    with ProcessPoolExecutor(1, context, _prepare_here, (usual, prepare, *arguments)) as pool:
        yield lambda: pool.submit(_run_here).result()


def _prepare_here(
    usual: str, prepare: Callable[..., Callable[[], object]], *arguments: Any
) -> None:
    global _way
    multiprocessing.set_start_method(
        usual, force=True
    )  # a spawned process would spawn too, and slowly
    _way = prepare(*arguments)


def _run_here() -> None:
    _way()


def row(what: str, against: str, slow: float, fast: float, remark: str = "") -> Row:
    """A line of the table of ratios; ``slow`` and ``fast`` are seconds."""
    return {
        "what": what,
        "against": against,
        "against, ms": round(1e3 * slow, 1),
        "kit, ms": round(1e3 * fast, 1),
        "times faster": round(slow / fast, 1 if slow > fast else 2),
        "remark": remark,
    }


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Device, precision and versions, and how busy the machine is at the moment."""
    device = device or pick_device()
    about = {
        "device": device_name(device),
        "precision": pick_precision(device).name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "system": platform.platform(),
    }
    about |= {
        name: version(name)
        for name in COMPARED
        if importlib.util.find_spec(IMPORTED.get(name, name))
    }
    with suppress(OSError):  # Linux
        about |= _cpu(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    with suppress(OSError, AttributeError):  # not on Windows
        about["load average at the start"] = round(os.getloadavg()[0], 1)
    return about


def _cpu(text: str) -> Row:
    """Model of the processor, and which of its units matter here."""
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    units = [
        unit
        for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        if unit in fields.get("flags", "").split()
    ]
    return {
        "processor": fields.get("model name", "unknown"),
        "units": ", ".join(units) or "unknown",
    }


def markdown(rows: list[Row]) -> str:
    """A Markdown table of rows with the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(each.values() for each in rows)]
    return "\n".join(
        "| "
        + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line)
        + " |"
        for line in lines
    )


class Report:
    """Print tables and write them as they come.

    What was measured survives an interruption.
    """

    def __init__(self, folder: Path, name: str, about: dict[str, Any]) -> None:
        self._file, self._about = folder / name, about
        self._values: dict[str, Any] = {"machine": about}
        self._parts = ["; ".join(f"{key} {value}" for key, value in about.items())]
        print(self._parts[0], flush=True)

    def add(self, name: str, explanation: str, rows: list[Row]) -> None:
        """One more table; ``name`` is its key in the JSON."""
        self._values[name] = rows
        part = f"{' '.join(explanation.split())}\n\n{markdown(rows)}"
        self._parts.append(part)
        print(f"\n{part}", flush=True)
        write_json(self._file.with_suffix(".json"), self._values)
        write_atomic(self._file.with_suffix(".md"), "\n\n".join(self._parts) + "\n")
