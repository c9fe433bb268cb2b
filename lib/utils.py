"""Seeding, choice of device and precision, hashing, atomic writing, progress bars, command-line manners."""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import inspect
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO

import numpy as np
import torch
from filelock import FileLock
from torch import nn

try:
    import resource
except ImportError:  # Windows
    resource = None

PROJECT = Path(__file__).resolve().parent.parent


class KitError(ValueError):
    """Bad input. Its text is one line that says what is wrong, where, and what to do about it."""


class EditedError(KitError):
    """Code was edited after Python loaded it: what would run is not what the file says."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser that answers a wrong option with one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Exit 2 with the message."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def run_command(main: Callable[[], None]) -> None:
    """Run a command line's ``main``: exit 2 with one line on bad input, 130 when the user interrupts."""
    try:
        main()
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from the last finished epoch", file=sys.stderr)
        sys.exit(130)


# --- device and precision -------------------------------------------------------------------------------------


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on: CUDA, then Apple MPS, then CPU, unless ``name`` says which, e.g. ``cuda:1``.

    With the CPU chosen, this process keeps the memory that tensors give back, for the tensors to come.

    Raises:
        KitError: the named device does not exist on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not available.get(kind, False) or (index and not (index.isdecimal() and int(index) < count)):
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise KitError(f"device {name!r} is not available here; use one of: auto, {usable}")
    if name == "cpu":
        _keep_freed_memory()
    return torch.device(name)


def _keep_freed_memory() -> None:
    """Tell glibc to give this process's freed memory to the next tensor, not back to the system.

    By default each tensor of more than 32 MiB comes from the system, which hands out pages one by one and fills them
    with zeros; that may take as long as the arithmetic. Other C libraries are left as they are. What is computed does
    not change; the process may keep all that it needed at its peak, see ``free_memory``.
    """
    if libc := _glibc():
        mmap_max, trim_threshold = -4, -1  # numbers of mallopt's options, from malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is that of GNU."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        return ctypes.CDLL(None)
    return None


@dataclass(frozen=True)
class Precision:
    """Number format of the network's forward pass, and why it was chosen."""

    name: str  # fp32, bf16 or fp16
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """Context in which the network runs; weights, losses and optimiser stay in float32."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(device.type, dtype=dtype, enabled=self.name != "fp32")

    def grad_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Loss scaler: only fp16 gradients underflow without one."""
        return torch.amp.GradScaler(device.type, enabled=self.name == "fp16")


def pick_precision(device: torch.device, name: str = "auto") -> Precision:
    """fp32, bf16 or fp16 for ``device``: the fastest whose results stay within the noise of fp32.

    Raises:
        KitError: ``name`` is none of them, nor ``auto``.
    """
    if name not in ("auto", "fp32", "bf16", "fp16"):
        raise KitError(f"precision {name!r} is not one of auto, fp32, bf16, fp16")
    if name != "auto":
        return Precision(name, "asked for")
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return Precision("bf16", "Ampere or newer")
        return Precision("fp16", "older than Ampere: bf16 would be emulated")
    if device.type == "cpu" and _cpu_has_bf16_units():
        return Precision("bf16", "this CPU has bf16 matrix units")
    return Precision("fp32", "no fast 16-bit format here")


def _cpu_has_bf16_units() -> bool:
    # Private names, present since torch 2.6; a release without them only costs the speed-up.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(check() for check in checks if check is not None)


def memory_format(device: torch.device) -> torch.memory_format:
    """channels_last halves the time of convolutions on CPU and tensor cores; MPS gains nothing from it."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


# --- reproducibility ------------------------------------------------------------------------------------------


class deterministic:
    """Context: torch computes the same bits each time, as far as the device can; restores the settings after."""

    def __enter__(self) -> None:
        self._before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,
        )
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        # a help to find reads of memory that nobody wrote; it writes every new tensor twice, hundreds in a step
        torch.utils.deterministic.fill_uninitialized_memory = False

    def __exit__(self, *exc: object) -> None:
        enabled, warn_only, benchmark, fill = self._before
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill


def seed_everything(*key: int) -> None:
    """Seed torch (all devices) with a number derived from ``key``, e.g. (seed, epoch)."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


# --- a student's own classes ------------------------------------------------------------------------------------


def load_class(spec: str) -> type[nn.Module]:
    """The class that ``"module:Class"`` names: a network or loss of one's own. Importing it runs that module's code.

    Raises:
        KitError: no such module or class, or not a ``torch.nn.Module``.
    """
    module, _, name = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise KitError(f"{spec}: cannot be loaded ({error}); expected module:Class, importable from here") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise KitError(f"{spec}: is not a class derived from torch.nn.Module")
    _require_unchanged(inspect.getmodule(found))
    return found


# --- hashing and writing --------------------------------------------------------------------------------------


def sha256(data: bytes | Path) -> str:
    """Hex SHA-256 of bytes or of a file's content."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of a JSON-like value; equal values give equal fingerprints on every machine."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def source_fingerprint(*objects: Any) -> str:
    """Hex SHA-256 of the source text of modules or classes, the same with Windows and Unix line ends.

    Raises:
        EditedError: a file was edited after Python loaded it; the hash would be of code that does not run.
    """
    for module in {inspect.getmodule(thing) for thing in objects}:
        _require_unchanged(module)
    return fingerprint([inspect.getsource(thing).replace("\r\n", "\n") for thing in objects])


_loaded: dict[str, int] = {}


def _require_unchanged(module: ModuleType) -> None:
    """Remember a module's file when it is met first; raise KitError if it has changed since."""
    file = getattr(module, "__file__", None)
    if file is None:
        return
    changed = Path(file).stat().st_mtime_ns
    if _loaded.setdefault(file, changed) != changed:
        raise EditedError(f"{Path(file).name} was edited after it was loaded: restart the kernel, or the old code runs")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: a reader, or a power cut, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        data = data.encode("utf-8")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp makes files that only the owner reads
        _replace(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _replace(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``. Windows refuses while another process reads ``path``: for a second, try again."""
    for _ in range(20 if sys.platform == "win32" else 0):
        try:
            new.replace(path)
            return
        except PermissionError:
            time.sleep(0.05)
    new.replace(path)


def build_folder(target: Path, ready: Callable[[], bool], build: Callable[[Path], None]) -> None:
    """Make a folder as a whole or not at all, and only once however many processes of this machine ask for it.

    ``build`` fills a temporary folder beside ``target``, which is then renamed; whoever comes meanwhile waits. Machines
    that share a disk may both build; the first to rename wins.

    Args:
        ready: is it there already? Asked before and after waiting.

    Raises:
        OSError: no space or no right to write, or ``target`` holds something.
    """
    if ready():
        return
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = fingerprint([str(Path.home()), str(target)])[:16]  # of this user, and not among his files
    with FileLock(Path(tempfile.gettempdir()) / f"segmentation-kit-{lock}.lock"):
        if ready():
            return
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            build(partial)
            partial.chmod(0o755)  # mkdtemp makes folders that only the owner reads
            if target.is_dir():
                target.rmdir()
            partial.rename(target)
        except OSError:
            if not ready():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def short_path(path: Path) -> str:
    """A path as seen from the current folder or the project: no home folder belongs in a committed notebook."""
    for base in (Path.cwd(), PROJECT):
        if path.resolve().is_relative_to(base.resolve()):
            return path.resolve().relative_to(base.resolve()).as_posix()
    return str(path)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def progress(*args: Any, **kwargs: Any) -> Any:
    """A tqdm bar: a widget in Jupyter, text elsewhere; ``KIT_PROGRESS=text`` asks for text, ``off`` for none."""
    wanted = os.environ.get("KIT_PROGRESS")
    if wanted in ("text", "off"):
        from tqdm.std import tqdm
    else:
        from tqdm.auto import tqdm
    return tqdm(*args, **{"leave": False, "dynamic_ncols": True, "disable": wanted == "off", **kwargs})


def in_notebook() -> bool:
    """Does this code run in a Jupyter kernel?"""
    interpreter = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(interpreter, "kernel", None) is not None


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line above the progress bars that are on screen."""
    from tqdm.std import tqdm
    tqdm.write(line, file=stream)


def cores() -> int:
    """Cores that this process may use: fewer than the machine has where it shares them, e.g. on a cluster."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device: of the GPU, of what Apple lets a GPU have, or of the machine.

    What this process holds and does not need counts as free.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if libc := _glibc():
        libc.malloc_trim(0)  # gives it back
    import psutil
    return psutil.virtual_memory().available


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory so far in GiB: of this process, and of the GPU where there is one."""
    peaks = {}
    if resource is not None:  # not on Windows
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        peaks["peak_ram_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)
    if device.type == "cuda":
        peaks["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return peaks
