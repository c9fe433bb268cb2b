"""Train one network: ``fit(config, data) -> Run``.

Read ``fit``, ``train``, ``train_epoch``, ``step`` and ``compute_gradients``, in this order.
``Training`` holds what they work on.

Command line: ``python -m lib.train --data DIR --out DIR [--epochs 30 --loss IOULoss ...]``
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib import dataset, evaluate, metrics, optim, transform, unet_init_weights
from lib.config import Config
from lib.dataset import BrainData, Split, build_sampler, load_data, make_split, require_prepared
from lib.evaluate import score_cases, try_custom, validate
from lib.logger import (
    HISTORY_COLUMNS,
    TABLES,
    Epoch,
    Record,
    Run,
    RunFolder,
    Stateful,
    Table,
    description,
    require_plan,
    run_id,
    write_result_csvs,
)
from lib.loss import widen
from lib.networks import build, cost_line
from lib.optim import MovingAverage, build_optimizer, is_done, learning_rate
from lib.runtime import (
    CommandParser,
    code_fingerprint,
    deterministic,
    return_freed_memory,
    run_command,
    seed_everything,
    tune_allocator,
)
from lib.runtime.cli import DATA_HELP, RESUMES, add_arguments, from_arguments
from lib.runtime.cuda_graph import Replayed, can_replay, compile_if_it_pays
from lib.runtime.device import prepare
from lib.runtime.memory import DeviceMemory
from lib.transform import Drawn, build_augmentation
from lib.utils import as_path, progress, require_called, say

SOURCES = (transform, dataset, unet_init_weights, optim, evaluate, metrics, sys.modules[__name__])
"""The modules that every run uses: an edit of their code makes another run."""


def fit(
    config: Config,
    data: BrainData,
    out: str | Path = "result",
    plan: str = "train",
    watch: Callable[[Epoch], None] | None = None,
    table: Table = "train",
) -> Run:
    """Train ``config`` on ``data`` and keep everything in ``<out>/runs/<run_id>/``.

    The weights of the best epoch are kept; with ``split="all"`` those of the last. A finished run
    is loaded, not trained again. An interrupted run goes on after its last finished epoch; on a CPU
    it ends with the same bytes as without. The result CSVs in ``out`` are brought up to date.

    Args:
        config: hyper-parameters; its ``image_size`` and ``preprocessing`` must be those of
            ``data``.
        data: from ``load_data``.
        out: folder of results.
        plan: the experiment that this run belongs to.
        watch: called after each epoch that is trained, e.g. ``lib.plot.LiveView()``. The run is the
            same without.
        table: the result CSV that runs of this plan go to, ``train`` or ``best``.

    Raises:
        KitError: config and data do not fit together, or the loss is no longer a number.
    """
    require_plan(plan, table)
    require_prepared(data, config)
    require_called(watch, "watch", optional=True)
    split = make_split(data, config.split)
    network, objective = build(config)
    try_custom(config)
    code = code_fingerprint(config, network, objective, SOURCES)
    folder = RunFolder(as_path(out, "out"), run_id(config, data, split, code))
    with folder.lock():
        if not folder.is_finished():
            with deterministic():
                training = Training(config, data, split, folder, network, objective)
                say(cost_line(config, training.memory.training_chunk, training.machine))
                folder.begin(description(config, data, split, code), training.machine, network)
                train(training, watch)
        folder.add_plan(plan, table)
    write_result_csvs(out)
    return Run(folder.path)


def train(training: Training, watch: Callable[[Epoch], None] | None = None) -> None:
    """Train the epochs that are missing; each is scored and kept before the next begins."""
    config, history, steps = training.config, training.record.history, training.steps_per_epoch
    bar = progress(
        total=config.epochs * steps, initial=len(history) * steps, desc=config.model, unit="step"
    )
    with bar:
        while not is_done(config, [row["val_dsc"] for row in history]):
            epoch, started = len(history), time.perf_counter()
            # random numbers depend on seed and epoch alone: a resumed run draws the same again
            seed_everything(config.seed, epoch)
            lr = learning_rate(config, epoch, [row["val loss"] for row in history])
            train_loss = train_epoch(training, epoch, lr, bar)
            with training.average.applied_to(training.model):
                val_loss, val_dsc = training.memory.retrying(training.validate)
            outcome = (epoch + 1, lr, train_loss, val_loss, val_dsc)
            row = dict(zip(HISTORY_COLUMNS, outcome, strict=True))
            training.record.keep(row, time.perf_counter() - started)
            bar.set_postfix_str(training.record.in_words())
            if watch is not None:
                with training.average.applied_to(training.model):
                    slices, machine = training.validation_slices, training.machine
                    watch(Epoch(config, history, training.model, slices, machine))
        bar.total = bar.n  # it may have stopped early
    training.model.load_state_dict(training.record.best_weights())
    cases = training.memory.retrying(training.score)
    training.record.finish(cases, steps * config.batch_size, training.memory)


def train_epoch(training: Training, epoch: int, lr: float, bar: tqdm) -> float:
    """Train one epoch, counted from 0, with this learning rate; return the mean batch loss."""
    training.model.train()
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    indices, drawn = training.sampler.draw(epoch)
    drawn = drawn.to(training.machine.device)
    losses, size = [], training.config.batch_size
    for start in range(0, training.steps_per_epoch * size, size):
        samples = slice(start, start + size)
        images, masks = training.train_slices.batch(indices[samples])
        losses.append(step(training, images, masks, drawn.of(samples)))
        bar.update()
    return torch.stack(losses).mean().item()


def step(training: Training, images: Tensor, masks: Tensor, drawn: Drawn) -> Tensor:
    """Take one optimiser step; return its loss, on the device, so that nothing waits for it."""
    loss = training.memory.retrying(lambda: training.compute_gradients(images, masks, *drawn))
    if training.config.clip:
        training.scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.model.parameters(), training.config.clip)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.average.update(training.model)
    return loss


def compute_gradients(training: Training, images: Tensor, masks: Tensor, *drawn: Tensor) -> Tensor:
    """Augment a batch and compute its gradients, chunk by chunk; return the mean loss."""
    device, chunk = training.machine.device, training.memory.training_chunk
    images, masks = training.augment(images.to(device), masks.to(device), Drawn(*drawn))
    training.optimizer.zero_grad(set_to_none=True)  # backward adds to the gradients that are there
    total = torch.zeros((), device=device)
    for inputs, target in zip(images.split(chunk), masks.split(chunk), strict=True):
        with training.machine.precision.autocast(device):
            output = training.forward(training.machine.to_device(inputs))
        if isinstance(output, Tensor):
            output = widen(output)  # custom losses get float32
        loss = training.objective(output, target) * (len(inputs) / len(images))
        training.scaler.scale(loss).backward()
        total += loss.detach()
    return total


class Training:
    """What a run works on, where it is computed, and the record of it."""

    def __init__(
        self,
        config: Config,
        data: BrainData,
        split: Split,
        folder: RunFolder,
        model: nn.Module,
        objective: nn.Module,
    ) -> None:
        self.config, self.data, self.split = config, data, split
        self.model, self.objective = model, objective
        self.machine = prepare([model, objective], config.device, config.precision)
        device = self.machine.device
        return_freed_memory()
        tune_allocator(device)
        self.optimizer = build_optimizer(config, model.parameters())
        self.scaler = self.machine.precision.grad_scaler(device)
        self.train_slices = data.slices(split.train, config.neighbours)
        self.validation_slices = data.slices(split.validation, config.neighbours)
        self.sampler = build_sampler(self.train_slices, config)
        # the last, incomplete batch of an epoch is dropped, as published
        self.steps_per_epoch = max(1, len(self.train_slices) // config.batch_size)
        run = config.epochs * self.steps_per_epoch
        self.average = MovingAverage(model, config.ema, run)
        steps = 0 if config.custom else run  # custom code may wait for a GPU
        self.augment = compile_if_it_pays(build_augmentation(config).apply, device, steps)
        self.forward = compile_if_it_pays(model, device, steps)
        replay = bool(steps) and can_replay(config, device, self.scaler)
        self.compute_gradients = Replayed(partial(compute_gradients, self), replay, device)
        slices = (self.train_slices, self.validation_slices)
        self.memory = DeviceMemory(device, slices, config, self.compute_gradients.stop)
        parts: dict[str, Stateful] = {"weights": model, "optimizer": self.optimizer}
        parts |= {"scaler": self.scaler, "memory": self.memory, "objective": objective}
        self.record = Record(folder, config, data, split, self.average, parts)

    def validate(self) -> tuple[float, float]:
        """Return loss and mean DSC of the validation patients."""
        slices, chunk = self.validation_slices, self.memory.scoring_chunk
        return validate(self.model, self.config, self.objective, slices, self.machine, chunk)

    def score(self) -> list[dict[str, Any]]:
        """Return a row of cases.csv for each validation patient."""
        patients, chunk = self.split.validation, self.memory.scoring_chunk
        return score_cases(self.model, self.config, self.data, patients, self.machine, chunk)


def main() -> None:
    """Run the command line."""
    parser = CommandParser(prog="python -m lib.train", description="Train one network.")
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--out", default="result", help="folder of results (default: result)")
    parser.add_argument("--plan", default="train", help="experiment of the run (default: train)")
    parser.add_argument("--table", default="train", choices=TABLES, help="result CSV of the run")
    add_arguments(parser)
    arguments = parser.parse_args()
    config = from_arguments(arguments)
    data = load_data(arguments.data, config.image_size, config.preprocessing)
    print(data.report())
    run = fit(config, data, arguments.out, arguments.plan, table=arguments.table)
    print(f"{run}\neverything about it: {run.folder}")


if __name__ == "__main__":
    run_command(main, RESUMES)
