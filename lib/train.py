"""Train one network: ``fit(config, data) -> Run``, with a checkpoint after every epoch and exact resumption.

Command line: ``python -m lib.train --data DIR --out DIR [--epochs 30 --loss IOULoss ...]``
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib import dataset, evaluate, metrics, optim, transform, unet_init_weights
from lib.config import MODELS, Config
from lib.dataset import BrainData, Sampler, SliceDataset, Split, load_data, make_split
from lib.evaluate import case_row, native_mask, predict_volumes, validate
from lib.logger import Run, RunFolder, checkpoint_hashes, description, run_id, write_result_csvs
from lib.loss import build_objective, widen
from lib.networks import build_model, largest_batch, summary
from lib.optim import MovingAverage, build_optimizer, learning_rate
from lib.runtime import (
    CommandParser,
    Machine,
    code_fingerprint,
    deterministic,
    free_memory,
    peak_memory,
    pick_device,
    pick_precision,
    run_command,
    seed_everything,
)
from lib.runtime.cli import RESUMES, add_arguments, from_arguments
from lib.runtime.cost import count_parameters
from lib.runtime.device import device_name, memory_format
from lib.transform import change_intensity, stand_in, warp
from lib.utils import KitError, progress, say

SOURCES = (transform, dataset, unet_init_weights, optim, evaluate, metrics, sys.modules[__name__])
"""The modules that every run uses: an edit of their code makes another run."""
_SHARE_OF_MEMORY = 3  # at most one part in so many of what a device has free is taken by the dataset
# of CUDA and MPS; of CUDA's libraries; of the CPU on Linux and macOS; on Windows
_OUT_OF_MEMORY = "out of memory|ALLOC_FAILED|can't allocate memory|not enough memory"


class Epoch(NamedTuple):
    """What the watcher of a training gets to see after an epoch; it must not change anything of it.

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


def fit(config: Config, data: BrainData, out: str | Path = "result", plan: str = "train",
        watch: Callable[[Epoch], None] | None = None) -> Run:
    """Train ``config`` on ``data`` and keep everything in ``<out>/runs/<run_id>/``.

    The weights of the best epoch are kept; with ``split="all"``, which leaves no patient to score, those of the last.
    The same run asked for twice is loaded, an interrupted one goes on from its last finished epoch, and ends with the
    same bytes as if it had never stopped (on a CPU). The result CSVs in ``out`` are brought up to date.

    Args:
        config: hyper-parameters; ``config.image_size`` and ``config.preprocessing`` must be those of ``data``.
        data: from ``load_data``.
        out: folder of results.
        plan: the experiment that this run belongs to; a name that starts with "best" puts it into the best CSV.
        watch: called after each epoch that is trained, e.g. ``lib.plot.LiveView()``; the run is the same without.

    Raises:
        KitError: config and data do not fit together, or the loss is no longer a number.
    """
    if (config.image_size, config.preprocessing) != (data.image_size, data.preprocessing):
        raise KitError(f"config asks for {config.preprocessing} at {config.image_size} pixels, the data was loaded as "
                       f"{data.preprocessing} at {data.image_size}; load it with the config's values")
    split = make_split(data, config.split)
    network, objective = build(config)
    code = code_fingerprint(network, objective, SOURCES)
    folder = RunFolder(Path(out), run_id(config, data, split, code))
    with folder.lock():
        if folder.read().get("status") != "finished":
            with deterministic():
                _Training(config, data, split, folder, network, objective, watch).run(code)
        folder.add_plan(plan)
    write_result_csvs(out)
    return Run(folder.path)


def build(config: Config) -> tuple[nn.Module, nn.Module]:
    """Return the network and the objective of ``config``, on the CPU.

    The first weights follow from ``config.seed``. Torch's random state stays as it is.

    Raises:
        KitError: see ``build_model`` and ``build_objective``.
    """
    with torch.random.fork_rng():
        seed_everything(config.seed)
        return build_model(config), build_objective(config)


class _Training:
    """One run, from wherever its folder says it stands to its end."""

    def __init__(self, config: Config, data: BrainData, split: Split, folder: RunFolder, network: nn.Module,
                 objective: nn.Module, watch: Callable[[Epoch], None] | None) -> None:
        self.config, self.data, self.split, self.folder, self.watch = config, data, split, folder, watch
        device = pick_device(config.device)
        self.machine = Machine(device, pick_precision(device, config.precision))
        self.train_slices, self.validation_slices = (data.slices(patients, config.neighbours)
                                                     for patients in (split.train, split.validation))
        self.sampler = Sampler(self.train_slices, config)
        both = (self.train_slices, self.validation_slices)
        self.lent = (device.type != "cpu"
                     and sum(slices.nbytes for slices in both) < free_memory(device) / _SHARE_OF_MEMORY)
        if self.lent:
            self._move_slices(device)
        # the last, incomplete batch of an epoch is dropped, as published
        self.batches = max(1, len(self.train_slices) // config.batch_size)
        # built on the CPU, so that every device starts from the same weights
        self.model = network.to(device, memory_format=memory_format(device))
        self.loss = objective.to(device)
        self.optimizer = build_optimizer(config, self.model.parameters())
        self.average = MovingAverage(self.model, config.ema) if config.ema else None
        self.scaler = self.machine.precision.grad_scaler(device)
        self.parts = config.accumulate
        self.history: list[dict[str, Any]] = []

    def _move_slices(self, device: torch.device) -> None:
        for slices in (self.train_slices, self.validation_slices):
            slices.move_to(device)

    def run(self, code: str) -> None:
        """Train the epochs that are missing, then score the best one; ``code`` is the run's ``code_fingerprint``."""
        self._resume()
        self._announce()
        if self.machine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.machine.device)
        before = self.folder.read()
        seconds = before.get("seconds", 0.0)
        self.folder.update(**description(self.config, self.data, self.split, code), plans=before.get("plans", []),
                           device=_joined(before.get("device"), device_name(self.machine.device)),
                           precision=_joined(before.get("precision"), self.machine.precision.name),
                           parameters=count_parameters(self.model), accumulate=self.parts)
        done, total = len(self.history), self.config.epochs
        with progress(total=total * self.batches, initial=done * self.batches, desc=self.config.model,
                      unit="step") as bar:
            for epoch in range(done, total):
                started = time.perf_counter()
                self._epoch(epoch, bar)
                seconds += time.perf_counter() - started
                self.folder.update(seconds=round(seconds, 2))
                self._tell()
        self._finish(seconds)

    def _announce(self) -> None:
        """Say what the network costs and how large a batch this device can take."""
        config, precision = self.config, self.machine.precision.name
        if config.model not in MODELS:
            return  # one's own may do what cannot be followed without computing it
        try:
            cost = summary(config, self._part_size(), precision=precision)
            most = largest_batch(config, config.image_size, free_memory(self.machine.device), precision)
        except Exception as error:  # rests on parts of torch that its next release may change; it is advice only
            say(f"what {config.model} costs is not known with this torch ({type(error).__name__})")
            return
        remedy = "accumulate" if config.checkpointing else "checkpointing=True, or accumulate"
        advice = "" if most >= self._part_size() else f"; too few: set {remedy}"
        say(f"{cost}\nfree memory of this device: enough for {most} slices at once{advice}")

    def _epoch(self, epoch: int, bar: Any) -> None:
        # a stream of random numbers per epoch: nothing to save, and a resumed run draws what it would have drawn
        seed_everything(self.config.seed, epoch)
        lr = learning_rate(self.config, epoch, [row["val loss"] for row in self.history])
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        train_loss = self._train_epoch(epoch, bar)
        with self._averaged():
            val_loss, val_dsc = self._within_memory(lambda: validate(
                self.model, self.loss, self.validation_slices, self.machine, self._scoring_size()), self._scoring_size)
        if not np.isfinite(train_loss):
            raise KitError(f"{self.folder.path.name}: the loss is not a number after epoch {epoch + 1}; lower lr, "
                           f"or use precision=fp32")
        row = {"epoch": epoch + 1, "lr": lr, "train loss": train_loss, "val loss": val_loss, "val_dsc": val_dsc}
        self._keep(row)
        best = self._best()["val_dsc"]
        scored = f", DSC {val_dsc:.3f}, best {best:.3f}" if self.split.validation else ""
        bar.set_postfix_str(f"epoch {epoch + 1}: loss {train_loss:.3f}{scored}")

    def _tell(self) -> None:
        """Let the watcher look; what it takes is not counted as training."""
        if self.watch is not None:
            with self._averaged():
                self.watch(Epoch(self.config, self.history, self.model, self.validation_slices, self.machine))

    def _train_epoch(self, epoch: int, bar: Any) -> float:
        """One pass; the mean of the batches' losses."""
        self.model.train()
        draw, size, losses = self.sampler.draw(epoch), self.config.batch_size, []
        for batch in range(self.batches):
            part = slice(batch * size, (batch + 1) * size)
            images, masks = (tensor.to(self.machine.device) for tensor in self.train_slices.batch(draw.indices[part]))
            theta = torch.from_numpy(draw.theta[part]).to(self.machine.device)
            images, masks = warp(images, masks, theta, self.config.padding)
            images = stand_in(change_intensity(images, draw.intensity[part]), draw.sources[part])
            losses.append(self._step(images, masks))
            bar.update()
        return torch.stack(losses).mean().item()

    def _step(self, images: Tensor, masks: Tensor) -> Tensor:
        """One optimiser step; its loss, left on the device so that the next step need not wait for it."""
        loss = self._within_memory(lambda: self._gradients(images, masks), self._part_size)
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)
        return loss

    def _gradients(self, images: Tensor, masks: Tensor) -> Tensor:
        """Gradients of a batch, one part after the other; the mean loss of its slices' parts."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=images.device)
        for some, truth in zip(images.split(self._part_size()), masks.split(self._part_size()), strict=True):
            with self.machine.precision.autocast(self.machine.device):
                output = self.model(self.machine.to_device(some))
            if isinstance(output, Tensor):
                output = widen(output)  # for losses of one's own
            loss = self.loss(output, truth) * (len(some) / len(images))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _within_memory(self, compute: Callable[[], Any], size: Callable[[], int]) -> Any:
        """What ``compute`` gives, tried again each time that memory runs out: first without the dataset on the device,
        then with smaller parts of a batch; ``size`` says how many slices it takes at once.

        Running statistics of batch normalisation may have taken in a part twice then: as if that slice had been drawn
        once more.
        """
        while True:
            try:
                return compute()
            except RuntimeError as error:  # a class of its own on CUDA, but neither in its libraries nor elsewhere
                if not re.search(_OUT_OF_MEMORY, str(error)):
                    raise
            self._make_room(size())  # not above: the error holds on to the activations

    def _part_size(self) -> int:
        """Slices computed at once."""
        return -(-self.config.batch_size // self.parts)

    def _scoring_size(self) -> int:
        """Slices scored at once: a whole batch, as the loss depends on it, unless memory has run out."""
        return -(-self.config.batch_size * self.config.accumulate // self.parts)

    def _make_room(self, size: int) -> None:
        """Take the dataset off the device; if it is not there, compute and score in parts of half the size from now on.
        Say so."""
        if self.lent:
            self._move_slices(torch.device("cpu"))
            self.lent = False
            say("out of memory: from now on the dataset lies in the memory of the machine")
        else:
            self._halve(size)
        if self.machine.device.type == "cuda":
            torch.cuda.empty_cache()

    def _halve(self, size: int) -> None:
        if size == 1:
            raise KitError(f"{self.folder.path.name}: out of memory with a single slice; use a smaller image_size or "
                           f"init_features, or checkpointing=True")
        self.parts *= 2
        self.folder.update(accumulate=self.parts)
        say(f"out of memory: from now on slices are computed {self._part_size()} at a time, and scored "
            f"{self._scoring_size()} at a time")

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The network with its averaged weights, where an average is kept."""
        if self.average is None:
            yield
            return
        current = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.weights)
        try:
            yield
        finally:
            self.model.load_state_dict(current)

    def _best(self) -> dict[str, Any]:
        """The row of the best epoch; of equal ones the first. Where nobody is left to score, the last."""
        if not self.split.validation:
            return self.history[-1]
        return max(self.history, key=lambda row: row["val_dsc"])

    def _keep(self, row: dict[str, Any]) -> None:
        """Write an epoch's outcome. With ``last.pt`` the epoch counts as done; the rest follows from it."""
        self.folder.settle()  # no epoch counts before all of the last one is on the disk
        self.history.append(row)
        average = self.average.state_dict() if self.average is not None else None
        self.folder.save("last.pt", {"history": self.history, "weights": _on_cpu(self.model.state_dict()),
                                     "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                                     "average": average, "parts": self.parts})
        if self._best() is row:
            self._keep_best()
        self.folder.write_history(self.history)
        self.folder.log_tensorboard(row)

    def _keep_best(self) -> None:
        row = self.history[-1]
        weights = self.model.state_dict() if self.average is None else self.average.weights
        self.folder.save("best.pt", {"config": self.config.to_dict(), "epoch": row["epoch"],
                                     "val_dsc": row["val_dsc"], "trained_on": list(self.split.train),
                                     "weights": _on_cpu(weights)})

    def _resume(self) -> None:
        checkpoint = self.folder.load("last.pt")
        if checkpoint is None:
            return
        self.history = checkpoint["history"]
        self.model.load_state_dict(checkpoint["weights"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.scaler.is_enabled() and checkpoint["scaler"]:  # begun in another precision: it finds its scale again
            self.scaler.load_state_dict(checkpoint["scaler"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])
        self.parts = checkpoint["parts"]
        best = self.folder.load("best.pt")
        if self._best() is self.history[-1] and (best is None or best["epoch"] != len(self.history)):
            self._keep_best()  # it was interrupted between the two

    def _finish(self, seconds: float) -> None:
        """Score the best epoch patient by patient."""
        best = self.folder.load("best.pt")
        self.model.load_state_dict(best["weights"])
        rows = self._within_memory(lambda: [
            case_row(self.data, patient, probabilities, native_mask(self.data, patient, probabilities))
            for patient, probabilities in predict_volumes(self.model, self.data, self.split.validation, self.machine,
                                                          self._scoring_size())], self._scoring_size)
        self.folder.write_history(self.history)
        self.folder.write_cases(rows)
        trained = self.config.epochs * self.batches * self.config.batch_size
        val_dsc = best["val_dsc"] if rows else None
        self.folder.update(best={"epoch": best["epoch"], "val_dsc": val_dsc},
                           slices_per_s=round(trained / max(seconds, 1e-9), 1), **peak_memory(self.machine.device),
                           accumulate=self.parts, sha256=checkpoint_hashes(self.folder.path), status="finished")


def _joined(before: str | None, now: str) -> str:
    """Where or how a run was computed, when it went on elsewhere."""
    return now if before is None or before.split("; then ")[-1] == now else f"{before}; then {now}"


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


def main() -> None:
    """The command line."""
    parser = CommandParser(prog="python -m lib.train", description="Train one network.")
    parser.add_argument("--data", required=True, help="Kaggle folder, a folder that holds it, archive.zip, or: kaggle")
    parser.add_argument("--out", default="result", help="folder of results (default: result)")
    parser.add_argument("--plan", default="train", help="experiment that the run belongs to (default: train)")
    add_arguments(parser)
    arguments = parser.parse_args()
    config = from_arguments(arguments)
    data = load_data(arguments.data, config.image_size, config.preprocessing)
    print(data.report())
    run = fit(config, data, arguments.out, arguments.plan)
    print(run)
    print(f"everything about it: {run.folder}")


if __name__ == "__main__":
    run_command(main, RESUMES)
