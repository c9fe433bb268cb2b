"""Record a run while it trains: its history, and the checkpoints from which it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from lib.config import Config
from lib.dataset import BrainData, SliceDataset, Split
from lib.logger.folder import RunFolder
from lib.logger.sound import checkpoint_hashes
from lib.optim import MovingAverage
from lib.runtime import Machine, peak_memory
from lib.runtime.checkpoint import DamagedError
from lib.runtime.device import on_cpu
from lib.runtime.memory import DeviceMemory
from lib.utils import KitError, progress_mode, put_aside, say


class Epoch(NamedTuple):
    """Show an epoch to a watcher, which must not change any of it.

    Attributes:
        history: a row per epoch so far, as in history.csv.
        model: in eval mode, with the weights that were scored.
        slices: of the validation patients.
    """

    config: Config
    history: list[dict[str, Any]]
    model: nn.Module
    slices: SliceDataset
    machine: Machine


class Stateful(Protocol):
    """Describe what can be resumed: a network, an optimiser, a loss scale."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Go on from a state."""


class Record:
    """Record a run while it trains: its history, and the checkpoints that belong to it.

    A run that was interrupted goes on after its last finished epoch.

    Args:
        average: has the weights that are kept.
        parts: all else whose state a resumed run needs.

    Attributes:
        history: a row per epoch that is done, as in history.csv.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        data: BrainData,
        split: Split,
        average: MovingAverage,
        parts: Mapping[str, Stateful],
    ) -> None:
        self.folder, self.config, self.split, self.average = folder, config, split, average
        self.scans = data.scans(split.train)
        self.slices = len(data.slices(split.train))
        self.parts = {**parts, "average": average}
        state = self._last_state()
        self.history: list[dict[str, Any]] = state["history"]
        if not self.history and folder.read():
            folder.update(seconds=0.0)  # of a run that begins anew
        for name, part in self.parts.items():
            if state.get(name):  # the loss scale has none if the run began in another precision
                part.load_state_dict(state[name])
        if self.history and self.best is self.history[-1]:
            kept = folder.load_or_put_aside("best.pt")
            # the run may have been interrupted between the two files
            if kept is None or kept["epoch"] != self.best["epoch"]:
                folder.save("best.pt", self._checkpoint())

    def _last_state(self) -> dict[str, Any]:
        """Return the state after the last epoch that is done, or that of a run that begins.

        Without the weights of its best epoch a run cannot go on. If they are damaged it begins
        anew, and last.pt is kept aside, too.

        Raises:
            KitError: best.pt is gone, or of another epoch: it may be found again.
        """
        nothing: dict[str, Any] = {"history": []}
        state = self.folder.load_or_put_aside("last.pt")
        if state is None:
            return nothing
        self.history = state["history"]
        if self.best is self.history[-1]:
            return state
        best = self.folder.path / "best.pt"
        there, kept = best.exists(), self.folder.load_or_put_aside("best.pt")
        if there and kept is None:
            aside = put_aside(self.folder.path / "last.pt")
            say(f"{self.folder.path.name}: begins anew; last.pt is kept as {aside.name}")
            return nothing
        if kept is None or kept["epoch"] != self.best["epoch"]:
            raise KitError(
                f"{best}: is not of epoch {self.best['epoch']}, the best so far; restore it, or "
                f"delete last.pt beside it to begin anew"
            )
        return state

    @property
    def best(self) -> dict[str, Any]:
        """Return the row of the best epoch, the first of equals.

        If no patient is scored, it is the last epoch.
        """
        if not self.split.validation:
            return self.history[-1]
        return max(self.history, key=lambda row: row["val_dsc"])

    def keep(self, row: dict[str, Any], seconds: float) -> None:
        """Write an epoch's outcome.

        The epoch counts as done once ``last.pt`` is written; the rest follows from it.

        Args:
            row: of history.csv.
            seconds: that the epoch took.

        Raises:
            KitError: a loss or a weight is not a number.
        """
        states = {name: part.state_dict() for name, part in self.parts.items()}
        states["weights"] = on_cpu(states["weights"])
        self._require_numbers(row, states["weights"])
        self.folder.settle()  # no epoch counts before all of the last one is on the disk
        self.history.append(row)
        self.folder.save("last.pt", {"history": self.history, **states})
        if self.config.custom and len(self.history) == 1:
            self._require_readable()
        if self.best is row:
            self.folder.save("best.pt", self._checkpoint())
        self.folder.write_history(self.history)
        self.folder.log_tensorboard(row)
        self.folder.update(seconds=round(self.folder.read()["seconds"] + seconds, 6))
        if progress_mode() == "lines":
            say(f"{self.config.model}, {self.in_words()}, {seconds:.1f} s")

    def _require_readable(self) -> None:
        """Raise ``KitError`` if what custom code wants kept cannot be read back as data."""
        self.folder.settle()
        try:
            self.folder.load("last.pt")
        except DamagedError:
            (self.folder.path / "last.pt").unlink()
            raise KitError(
                f"{self.folder.path.name}: the state of custom code cannot be read back, and an "
                f"interrupted run could not go on; keep tensors, numbers, texts, lists and dicts "
                f"in it, nothing else"
            ) from None

    def _require_numbers(self, row: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Raise ``KitError`` if a loss or a weight is infinite or not a number."""
        scored = ("val loss",) if self.split.validation else ()
        wrong = [f"the {name}" for name in ("train loss", *scored) if not np.isfinite(row[name])]
        wrong += [name for name, tensor in weights.items() if not tensor.isfinite().all()]
        if wrong:
            raise KitError(
                f"{self.folder.path.name}: {wrong[0]} is not a number after epoch {row['epoch']}; "
                f"lower lr, or use precision=fp32"
            )

    def _checkpoint(self) -> dict[str, Any]:
        """Return the content of best.pt: weights, and what one must know to use them."""
        return {
            "config": self.config.to_dict(),
            "epoch": self.best["epoch"],
            "val_dsc": self.best["val_dsc"],
            "trained_on": list(self.split.train),
            "scans": self.scans,
            "weights": on_cpu(self.average.weights),
        }

    def best_weights(self) -> dict[str, Tensor]:
        """Return the weights of the best epoch, in host memory.

        Raises:
            KitError: the file is gone.
        """
        best = self.folder.load("best.pt")
        if best is None:
            raise KitError(f"{self.folder.path / 'best.pt'}: is gone; run this again")
        weights: dict[str, Tensor] = best["weights"]
        return weights

    def in_words(self) -> str:
        """Return the last epoch in a few words."""
        row = self.history[-1]
        words = f"epoch {row['epoch']}: loss {row['train loss']:.3f}"
        if not self.split.validation:
            return words
        return f"{words}, DSC {row['val_dsc']:.3f}, best {self.best['val_dsc']:.3f}"

    def finish(
        self, cases: list[dict[str, Any]], slices_per_epoch: int, memory: DeviceMemory
    ) -> None:
        """Write the tables and note that the run is finished.

        Args:
            cases: a row per validation patient, scored by the best weights.
            slices_per_epoch: of whole batches; a batch may be larger than all slices together.
        """
        self.folder.write_history(self.history)
        self.folder.write_cases(cases)
        learnt = min(slices_per_epoch, self.slices)
        rate = len(self.history) * learnt / max(self.folder.read()["seconds"], 1e-9)
        self.folder.update(
            best={"epoch": self.best["epoch"], "val_dsc": self.best["val_dsc"] if cases else None},
            slices_per_s=round(rate, 1),
            **peak_memory(memory.device),
            accumulate=memory.chunks,
            sha256=checkpoint_hashes(self.folder.path),
            status="finished",
        )
