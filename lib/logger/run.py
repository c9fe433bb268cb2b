"""Read a run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lib.config import Config
from lib.dataset import BrainData
from lib.logger.identity import updated
from lib.logger.tables import Table
from lib.metrics import Summary, summarise
from lib.runtime.checkpoint import read_checkpoint


@dataclass(frozen=True)
class Run:
    """Read a run folder.

    Attributes:
        folder: holds run.json, history.csv, cases.csv, best.pt and last.pt.
    """

    folder: Path

    @property
    def id(self) -> str:
        """Return the name of the folder."""
        return self.folder.name

    @property
    def weights(self) -> Path:
        """Return the file of the best epoch's weights; with ``split="all"``, the last epoch's."""
        return self.folder / "best.pt"

    @cached_property
    def info(self) -> dict[str, Any]:
        """Return the content of run.json."""
        return updated(json.loads((self.folder / "run.json").read_text(encoding="utf-8-sig")))

    @property
    def asked(self) -> str:
        """Return when the run was asked for last, UTC in ISO 8601; older versions left it empty."""
        return str(self.info.get("asked", ""))

    @property
    def tables(self) -> set[Table]:
        """Return the result CSVs that the run belongs to, by its plans."""
        return {self.info["tables"][plan] for plan in self.info["plans"]}

    @cached_property
    def config(self) -> Config:
        """Return the run's hyper-parameters."""
        return Config.from_dict(self.info["config"])

    @cached_property
    def history(self) -> pd.DataFrame:
        """Return a row per epoch: ``epoch, lr, train loss, val loss, val_dsc``."""
        return pd.read_csv(self.folder / "history.csv")

    @cached_property
    def cases(self) -> pd.DataFrame:
        """Return a row per validation patient; see ``lib.evaluate.case_row``."""
        # names of patients are text, 001 and NA too
        return pd.read_csv(
            self.folder / "cases.csv", dtype={"patient": str}, keep_default_na=False, na_values=[""]
        )

    @cached_property
    def result_rows(self) -> pd.DataFrame:
        """Return the run's rows of the result CSVs."""
        return _result_rows(self)

    @cached_property
    def dsc(self) -> Summary:
        """Return the mean DSC of the validation patients at the best epoch, with its spread."""
        return summarise(self.cases["dsc"])

    def unseen(self, data: BrainData) -> tuple[str, ...]:
        """Return the patients of ``data`` that this run was not trained on.

        The validation patients are among them, on whom the best epoch was chosen.
        """
        scans: list[str] = []
        # they may have other names there
        if data.fingerprint != self.info["data"]["sha256"] and self.weights.is_file():
            scans = read_checkpoint(self.weights).get("scans", [])
        return tuple(sorted(set(data.patients) - data.known(self.info["split"]["train"], scans)))

    def __str__(self) -> str:
        best = self.info["best"]
        if not len(self.cases):
            epoch = f"epoch {best['epoch']} of {self.config.epochs}"
            return f"{self.id}: {epoch}, trained on all patients, scored on none"
        epoch = f"best epoch {best['epoch']} of {self.config.epochs}"
        return f"{self.id}: {epoch}, validation DSC {self.dsc}"


def _result_rows(run: Run) -> pd.DataFrame:
    """Return a run's rows of the result CSVs.

    The coursework's columns come first, in its spelling; then the other settings, by their names in
    ``Config``.
    """
    c, history = run.config, run.history
    columns = pd.DataFrame(
        {
            "loss function": c.loss,
            "optimizer function": c.optimizer,
            "weight decay": c.weight_decay,
            "use_lr scheduler": c.lr_scheduler != "none" or c.warmup > 0,
            "epoch": history["epoch"],
            "val loss": history["val loss"],
            "val_dsc": history["val_dsc"],
            "model": c.model,
            "init features": c.init_features,
            "activation": c.activation,
            "batch size": c.batch_size,
            "lr": history["lr"],
            "momentum": c.momentum if c.optimizer == "SGD" else "",
            "lr scheduler": c.lr_scheduler,
            "seed": c.seed,
            "train loss": history["train loss"],
            "image size": c.image_size,
            "dataset": run.info["data"]["name"],
            "split": run.info["split"]["name"],
            "run_id": run.id,
            "plan": "; ".join(run.info["plans"]),
            "parameters": run.info["parameters"],
            "measured at": "; ".join(
                sorted({place.get("scale", "") for place in run.info.get("places", [])} - {""})
            ),
        }
    )
    known = {name.replace(" ", "_") for name in columns} | {"loss", "optimizer", "device"}
    # precision and chunks as they were in the end
    settings = c.to_dict() | {name: run.info[name] for name in ("precision", "accumulate")}
    return columns.assign(**{name: value for name, value in settings.items() if name not in known})


def all_runs(out: str | Path) -> list[Run]:
    """Return the runs below ``out``, finished or not; each file is read when it is asked for."""
    return [Run(file.parent) for file in sorted(Path(out).glob("runs/*/run.json"))]
