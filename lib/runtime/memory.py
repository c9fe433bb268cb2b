"""Fit a training into the memory of its device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

from lib.config import Config
from lib.runtime.device import free_memory
from lib.utils import KitError, say, see

Result = TypeVar("Result")
MAX_DATASET_SHARE = 1 / 3  # of the device's free memory
# CUDA and MPS; CUDA's libraries; the CPU on Linux and macOS; the CPU on Windows; oneDNN
OUT_OF_MEMORY = re.compile(
    "out of memory|ALLOC_FAILED|can't allocate memory|not enough memory|could not create a (memory|"
    "primitive)",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says, in whoever's words, that there is not enough memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))
    )


@contextmanager
def memory_in_words() -> Iterator[None]:
    """Raise ``KitError`` instead of the errors of torch and NumPy for too little memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:100] or "no more to be had"
        raise KitError(
            f"out of memory ({reason}); close other programs, or use smaller images, networks or "
            f"batches; "
            f"{see('students', 'When something goes wrong')}"
        ) from None


class Movable(Protocol):
    """A dataset that can be copied to a device."""

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""

    def move_to(self, device: torch.device) -> None:
        """Copy the data to ``device``."""


class DeviceMemory:
    """Keep a training within the memory of its device.

    Datasets that fit are copied to the device. A batch is computed in chunks. When memory runs out,
    the training goes on with less in use.

    Args:
        datasets: moved to the device if together they take at most a third of what is free there.
        config: its ``batch_size``, and ``accumulate``: chunks that a step is asked to be computed
            in.
        first_remedy: called first when memory runs out; see ``retrying``.
    """

    def __init__(
        self,
        device: torch.device,
        datasets: Sequence[Movable],
        config: Config,
        first_remedy: Callable[[], str | None],
    ) -> None:
        self.device, self.datasets = device, datasets
        self.batch_size, self.accumulate = config.batch_size, config.accumulate
        self.chunks = self.accumulate
        self.remedies = (first_remedy, self._move_to_host, self._halve_chunks)
        size = sum(dataset.nbytes for dataset in datasets)
        self.on_device = device.type != "cpu" and size < MAX_DATASET_SHARE * free_memory(device)
        if self.on_device:
            for dataset in datasets:
                dataset.move_to(device)

    @property
    def training_chunk(self) -> int:
        """Slices computed at once in training."""
        return -(-self.batch_size // self.chunks)

    @property
    def scoring_chunk(self) -> int:
        """Slices scored at once: a batch, as the loss depends on it, unless memory ran out."""
        return -(-self.batch_size * self.accumulate // self.chunks)

    def retrying(self, compute: Callable[[], Result]) -> Result:
        """Return what ``compute`` returns; each time that memory runs out, retry with less in use.

        Running statistics of batch normalisation may have seen a chunk twice after a second try.

        Raises:
            KitError: memory has run out with a single slice.
        """
        while True:
            try:
                return compute()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self._use_less()  # not in the handler: the error keeps the activations alive

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed run needs to know."""
        return {"chunks": self.chunks}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a ``state_dict``."""
        self.chunks = state["chunks"]

    def _use_less(self) -> None:
        changes = (remedy() for remedy in self.remedies)  # a remedy that changes nothing gives None
        change = next((change for change in changes if change), None)
        if change is None:
            raise KitError(
                "out of memory with a single slice; use a smaller image_size or init_features, or "
                "checkpointing=True; "
                f"{see('students', 'When something goes wrong')}"
            )
        say(f"out of memory: from now on {change}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _move_to_host(self) -> str | None:
        if not self.on_device:
            return None
        self.on_device = False
        for dataset in self.datasets:
            dataset.move_to(torch.device("cpu"))
        return "the dataset is in host memory"

    def _halve_chunks(self) -> str | None:
        if self.scoring_chunk == 1:
            return None
        self.chunks *= 2
        return (
            f"slices are computed {self.training_chunk} at a time, and scored "
            f"{self.scoring_chunk} at a time"
        )
