"""Choose device and precision, watch memory, and compute the same bits each time."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.runtime.limits import free_host_memory, limit_threads
from lib.utils import KitError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


_torch_deterministic: Any = torch.utils.deterministic  # whose types lack an attribute

# --- device and precision -------------------------------------------------------------------------


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name, e.g. ``cuda:1``; ``auto``: CUDA, then Apple MPS, then CPU.

    Raises:
        KitError: the named device does not exist on this machine.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not available.get(kind, False) or (index and not (index.isdecimal() and int(index) < count)):
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise KitError(f"device {name!r} is not available here; use one of: auto, {usable}")
    return torch.device(name)


def tune_allocator(device: torch.device) -> None:
    """Let this process keep the memory that its tensors on a CPU free, for the next ones.

    By default glibc returns each tensor of more than 32 MiB to the system, which hands out pages
    one by one and fills them with zeros. That may take as long as the arithmetic. Results do not
    change. The process may keep what it needed at its peak until ``return_freed_memory``. Other
    devices and C libraries are left as they are.
    """
    libc = _glibc()
    if libc and device.type == "cpu":
        mmap_max, trim_threshold = -4, -1  # numbers of mallopt's options, from malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def keeps_freed_memory() -> bool:
    """Return whether ``tune_allocator`` has an effect: only with the C library of GNU."""
    return _glibc() is not None


def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process, if it is that of GNU."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        return ctypes.CDLL(None)
    return None


@dataclass(frozen=True)
class Precision:
    """Name the number format of the network's forward pass, and why it was chosen."""

    name: str  # fp32, bf16 or fp16
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """Return the context for the network; weights, losses and optimiser stay in float32."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(device.type, dtype=dtype, enabled=self.name != "fp32")

    def grad_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return a loss scaler: only fp16 gradients underflow without one."""
        return torch.amp.GradScaler(device.type, enabled=self.name == "fp16")


def pick_precision(device: torch.device, name: str = "auto") -> Precision:
    """Return the fastest precision of ``device`` whose results stay within the noise of fp32.

    Raises:
        KitError: ``name`` is none of them, nor ``auto``.
    """
    if name not in ("auto", "fp32", "bf16", "fp16"):
        raise KitError(f"precision {name!r} is unknown; use one of auto, fp32, bf16, fp16")
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
    checks = (
        getattr(torch.cpu, name, None)
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return any(check() for check in checks if check is not None)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return channels_last, which halves the time of convolutions, except on MPS."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


# --- memory ---------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free: of the GPU, of what Apple lets it have, or of the host.

    Memory that torch has cached on a GPU counts as free. On a CPU, memory that this process has
    freed counts after ``return_freed_memory``.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return free_host_memory()


def return_freed_memory() -> None:
    """Return memory to the system that this process has freed and ``tune_allocator`` kept."""
    if libc := _glibc():
        libc.malloc_trim(0)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the peak memory so far in GiB: of this process, and of the GPU if there is one."""
    peaks = {}
    if resource is not None:  # not on Windows
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        peaks["peak_ram_gib"] = round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3
        )
    if device.type == "cuda":
        peaks["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return peaks


def reset_peak_memory(device: torch.device) -> None:
    """Count the GPU's peak memory from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


# --- reproducibility ------------------------------------------------------------------------------


class deterministic:
    """Let torch compute the same bits each time, as far as the device can; a context."""

    def __enter__(self) -> None:
        self._before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.benchmark,
            _torch_deterministic.fill_uninitialized_memory,
        )
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        # It helps to find reads of uninitialised memory, but writes every new tensor twice.
        _torch_deterministic.fill_uninitialized_memory = False

    def __exit__(self, *exc: object) -> None:
        enabled, warn_only, benchmark, fill = self._before
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        _torch_deterministic.fill_uninitialized_memory = fill


def seed_everything(*key: int) -> None:
    """Seed torch (all devices) with a number derived from ``key``, e.g. (seed, epoch)."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def to_device(
    tensor: Tensor, device: torch.device, layout: torch.memory_format = torch.preserve_format
) -> Tensor:
    """Copy a tensor to a device; with CUDA, Python does not wait for the copy.

    MPS does not: it may read the source after its memory was given to another tensor
    (pytorch/pytorch#189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda", memory_format=layout)


def on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of weights in host memory, in the usual layout."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


@dataclass(frozen=True)
class Machine:
    """Hold the device and the precision of a computation."""

    device: torch.device
    precision: Precision

    def to_device(self, batch: Tensor) -> Tensor:
        """Copy ``(N, C, H, W)`` to the device, in the layout that it convolves fastest."""
        return to_device(batch, self.device, memory_format(self.device))

    def at_once(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Split a batch ``(N, C, H, W)`` into chunks for a forward pass.

        One chunk, except on CPUs whose allocator returns freed memory to the system: there, 2**17
        pixels at a time keep the activations reusable.
        """
        if self.device.type == "cpu" and not keeps_freed_memory():
            return batch.split(max(1, 2**17 // batch[0, 0].numel()))
        return (batch,)


def prepare(models: list[nn.Module], device: str, precision: str) -> Machine:
    """Move networks to the device of that name; return it with its precision.

    On a CPU torch gets no more threads than this process may use cores.
    """
    chosen = pick_device(device)
    limit_threads()
    for model in models:
        model.to(chosen, memory_format=memory_format(chosen))  # type: ignore[call-overload]
    return Machine(chosen, pick_precision(chosen, precision))


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or the kind of CPU."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
