"""Keep runs: the run folder, the only source of truth, and the result CSVs made from it."""

from __future__ import annotations

import importlib.util
import io
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from lib import __version__
from lib.config import PROFILES, Config, identity_of
from lib.dataset import BrainData, SliceDataset, Split
from lib.evaluate import CASE_COLUMNS
from lib.metrics import Summary, summarise
from lib.optim import MovingAverage
from lib.runtime import Machine, peak_memory
from lib.runtime.checkpoint import DamagedError, read_checkpoint
from lib.runtime.cost import count_parameters
from lib.runtime.device import device_name, on_cpu, reset_peak_memory
from lib.runtime.memory import DeviceMemory
from lib.utils import (
    PARTIAL,
    KitError,
    changing,
    fingerprint,
    progress_mode,
    put_aside,
    say,
    sha256,
    write_atomic,
    write_json,
)

SCHEMA = 2  # of run.json; in 1, an id was the hash of all settings and of the text of the code
TRAIN_CSV, BEST_CSV = "uexec_result_train.csv", "uexec_result_best.csv"
HISTORY_COLUMNS = ("epoch", "lr", "train loss", "val loss", "val_dsc")
_CONTENT = {"last.pt": ("history", "weights"), "best.pt": ("epoch", "weights")}
FOLD = "fold-"  # names of splits that begin so are part of a cross-validation
Table = Literal["train", "best"]
"""The result CSV that the runs of a plan go to: ``TRAIN_CSV`` or ``BEST_CSV``."""
TABLES: dict[Table, str] = {"train": TRAIN_CSV, "best": BEST_CSV}


def run_id(config: Config, data: BrainData, split: Split, code: str) -> str:
    """Return a readable slug with a hash of all that decides the outcome.

    These are config, data, the patients of the split, and the code. Only fields of the config that
    differ from the published recipe count, so that a new field renames no run. The device is no
    part of it.

    Args:
        code: from ``code_fingerprint``.
    """
    return _id_of(config.to_dict(), data.fingerprint, split.train, split.validation, code)


def stated_id(info: Mapping[str, Any]) -> str:
    """Return the id that a run has by its run.json, see ``run_id``.

    It can be computed of runs of this ``SCHEMA`` only.
    """
    split, data, code = info["split"], info["data"]["sha256"], info["code"]["sha256"]
    return _id_of(info["config"], data, split["train"], split["validation"], code)


def _id_of(
    settings: Mapping[str, Any],
    data: str,
    train: Sequence[str],
    validation: Sequence[str],
    code: str,
) -> str:
    """Return the id of a run, see ``run_id``.

    Args:
        settings: fields of the config, as the version that trained it knew them.
        data: fingerprint of the data.
    """
    identity = {
        name: value
        for name, value in identity_of(settings).items()
        if name not in ("device", "split")
    }
    digest = fingerprint([identity, data, train, validation, code])
    # a custom class is named module:Class, and Windows allows no : in the name of a folder
    network, loss_name = (settings[name].rpartition(":")[2] for name in ("model", "loss"))
    return (
        f"{network}{settings['init_features']}-{loss_name}-{settings['optimizer']}-"
        f"{settings['sampling']}-{settings['image_size']}px-seed{settings['seed']}-{digest[:10]}"
    )


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


def require_plan(plan: object, table: object) -> None:
    """Raise ``KitError`` for what is no name of an experiment, or of a result CSV."""
    if not isinstance(plan, str):
        raise KitError(f"plan: expected the name of an experiment, got {plan!r}")
    if table not in TABLES:
        raise KitError(f"table: {table!r} is unknown; use one of {', '.join(TABLES)}")


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


class Place(NamedTuple):
    """Name the place of a run in a sweep.

    Attributes:
        group: the same for all runs that a sweep compares: base recipe, data and split.
        position: of the variant in the plan; the reference has 0.
        ladder: each variant is compared with the one before it, not with the reference.
        scale: the name of the experiment's size, if it has one.
    """

    plan: str
    group: str
    position: int
    label: str
    ladder: bool = False
    scale: str = ""


class RunFolder:
    """Write the files of one run.

    ``with folder.lock(): ...`` keeps a second process from training the same run. Meanwhile a
    thread writes the checkpoints, in the order of their ``save``, so that training need not wait.
    """

    def __init__(self, out: Path, run_id: str) -> None:
        self.path = out / "runs" / run_id
        self._writes: list[Future[None]] = []

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run while it trains.

        A second process says that it waits, and then finds the run finished. At the end all that
        was saved is on the disk.

        Raises:
            KitError: the folder cannot be made.
        """
        with changing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            try:
                lock.acquire(timeout=1)
            except Timeout:
                say(f"another process trains {self.path.name}: waiting for it")
                lock.acquire()
        with ExitStack() as stack:
            stack.callback(lock.release)
            for leftover in self.path.glob(f".*{PARTIAL}"):  # of a process that was killed
                with suppress(OSError):
                    leftover.unlink()
            self._disk = stack.enter_context(ThreadPoolExecutor(1))
            stack.callback(self.settle)
            yield

    def read(self) -> dict[str, Any]:
        """Return run.json as it is so far, or an empty dict.

        Raises:
            KitError: the file is damaged.
        """
        file = self.path / "run.json"
        try:
            if not file.is_file():
                return {}
            return updated(json.loads(file.read_text(encoding="utf-8-sig")))
        except ValueError as error:
            raise KitError(
                f"{file}: is damaged ({error}); delete the run's folder, and it is trained anew"
            ) from None

    def is_finished(self) -> bool:
        """Return whether there is nothing left to train.

        Raises:
            KitError: it is finished, but not as the training left it.
        """
        finished = self.read().get("status") == "finished"
        if finished:
            require_sound(Run(self.path), weights=True)
        return finished

    def update(self, **values: Any) -> None:
        """Change fields of run.json."""
        write_json(self.path / "run.json", self.read() | values)

    def begin(self, about: dict[str, Any], machine: Machine, network: nn.Module) -> None:
        """Note what is trained, on what and where.

        A run that goes on keeps its plans and its time. If it goes on with another device or
        precision, ``earlier`` lists those before.

        Args:
            about: from ``description``.
        """
        before = self.read()
        if not before:
            self._name_relatives(about)
        now = {"device": device_name(machine.device), "precision": machine.precision.name}
        then = {name: before[name] for name in now if name in before}
        earlier = list(before.get("earlier", []))
        if any(now[name] != value for name, value in then.items()):
            earlier.append(then)
            changes = ", ".join(
                f"{name} {now[name]} instead of {value}"
                for name, value in then.items()
                if now[name] != value
            )
            say(f"{self.path.name} goes on with {changes}: its last digits will be others")
        self.update(
            **about,
            **now,
            id=self.path.name,
            earlier=earlier,
            plans=before.get("plans", []),
            tables=before.get("tables", {}),
            seconds=before.get("seconds", 0.0),
            parameters=count_parameters(network),
        )
        reset_peak_memory(machine.device)

    def _name_relatives(self, about: dict[str, Any]) -> None:
        """Say which runs differ in epochs or code only: whoever looks for one may not see why."""

        def recipe(info: dict[str, Any]) -> list[Any]:
            config = Config.from_dict(info["config"]).identity()
            config.pop("epochs", None)
            return [config, info["data"]["sha256"], info["split"]]

        for run in all_runs(self.path.parent.parent):
            with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                if recipe(run.info) == recipe(about):
                    epochs, asked = run.info["config"]["epochs"], about["config"]["epochs"]
                    why = f"{epochs} epochs, not {asked}" if epochs != asked else "other code"
                    say(f"{run.id} is the same recipe with {why}; this run begins anew")

    def busy(self) -> bool:
        """Return whether another process trains this run at the moment."""
        if not self.path.is_dir():
            return False
        try:
            with FileLock(self.path / ".lock").acquire(timeout=0):
                return False
        except Timeout:
            return True

    def read_scores(self) -> list[float]:
        """Return the validation DSC of each epoch that is done."""
        file = self.path / "history.csv"
        return pd.read_csv(file)["val_dsc"].tolist() if file.is_file() else []

    def add_plan(self, plan: str, table: Table = "train") -> None:
        """Note that the run belongs to ``plan`` too, whose runs go to ``table``.

        run.json says when the run was asked for last.
        """
        info = self.read()
        self.update(
            asked=datetime.now(UTC).isoformat(),
            plans=sorted({*info.get("plans", []), plan}),
            tables=info.get("tables", {}) | {plan: table},
        )

    def add_place(self, place: Place, table: Table = "train") -> None:
        """Note which variant of a plan the run is; a sweep keeps the latest place only."""

        def sweep(other: dict[str, Any]) -> tuple[str, str, str]:
            return other["plan"], other["group"], other.get("scale", "")

        new = place._asdict()
        others = [old for old in self.read().get("places", []) if sweep(old) != sweep(new)]
        self.update(places=sorted([*others, new], key=sweep))
        self.add_plan(place.plan, table)

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Write history.csv, a row per epoch."""
        write_atomic(self.path / "history.csv", to_csv(pd.DataFrame(rows)))

    def write_cases(self, rows: list[dict[str, Any]]) -> None:
        """Write cases.csv, a row per validation patient; its header where there are none."""
        columns = dict.fromkeys([*CASE_COLUMNS, *(column for row in rows for column in row)])
        write_atomic(self.path / "cases.csv", to_csv(pd.DataFrame(rows, columns=list(columns))))

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Write ``content`` by ``torch.save``: atomically, and equal content as equal bytes.

        It returns once the content is copied; ``settle`` raises what prevents it from being
        written.
        """
        # saving to a path would put the name of the temporary file into the archive
        buffer = io.BytesIO()
        torch.save(_interned({**content, "run": self.path.name}), buffer)
        self._writes.append(self._disk.submit(write_atomic, self.path / name, buffer.getbuffer()))

    def settle(self) -> None:
        """Wait until all that was saved is on the disk."""
        while self._writes:
            self._writes.pop(0).result()

    def load(self, name: str) -> dict[str, Any] | None:
        """Return what ``save`` wrote, in host memory; None if it is not there.

        Raises:
            DamagedError: the file is damaged, or of another run.
        """
        self.settle()
        file = self.path / name
        if not file.is_file():
            return None
        content = read_checkpoint(file)
        missing = [key for key in _CONTENT[name] if not content.get(key)]
        if missing:
            raise DamagedError(f"{file}: has no {missing[0]}; it is another file")
        owner = content.get("run", self.path.name)  # older versions did not write it
        if owner != self.path.name:
            raise DamagedError(f"{file}: is of another run, {owner}; put it back there")
        return content

    def load_or_put_aside(self, name: str) -> dict[str, Any] | None:
        """Return what ``save`` wrote; a damaged file is renamed, and None returned."""
        try:
            return self.load(name)
        except DamagedError as error:
            say(f"{error}; kept as {put_aside(self.path / name).name}")
            return None

    def log_tensorboard(self, row: dict[str, Any]) -> None:
        """Write an epoch's figures for TensorBoard, where it is installed."""
        if importlib.util.find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.path / "tensorboard", purge_step=row["epoch"]) as writer:
            for name in ("lr", "train loss", "val loss", "val_dsc"):
                writer.add_scalar(name, row[name], row["epoch"])


def _interned(value: Any) -> Any:
    """Return the value with equal strings made identical.

    Pickle writes a string that it has met before as a reference. Without this, a state that was
    loaded would be written as other bytes than one that was computed.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_interned(key): _interned(part) for key, part in value.items()}
    return [_interned(part) for part in value] if isinstance(value, list) else value


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
            slices_per_epoch: that were learnt from.
        """
        self.folder.write_history(self.history)
        self.folder.write_cases(cases)
        rate = len(self.history) * slices_per_epoch / max(self.folder.read()["seconds"], 1e-9)
        self.folder.update(
            best={"epoch": self.best["epoch"], "val_dsc": self.best["val_dsc"] if cases else None},
            slices_per_s=round(rate, 1),
            **peak_memory(memory.device),
            accumulate=memory.chunks,
            sha256=checkpoint_hashes(self.folder.path),
            status="finished",
        )


def description(config: Config, data: BrainData, split: Split, code: str) -> dict[str, Any]:
    """Return what run.json says of a run before it starts.

    Args:
        code: from ``code_fingerprint``.
    """
    return {
        "schema": SCHEMA,
        "status": "running",
        "error": None,
        "config": config.to_dict(),
        "profile": profile_of(config.to_dict()),
        "data": {
            "name": data.name,
            "patients": len(data.patients),
            "sha256": data.fingerprint,
            "phantom": _are_phantoms([*split.train, *split.validation]),
        },
        "code": {"sha256": code},
        "split": {
            "name": split.name,
            "train": list(split.train),
            "validation": list(split.validation),
        },
        "versions": {
            "kit": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "platform": platform.platform(),
        },
    }


def profile_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the smallest profile that is no smaller than a recipe.

    Width and image size decide, because the other fields of a profile are also what sweeps change.

    Args:
        settings: field of ``Config`` -> value.
    """
    sizes = {
        name: [field for field in ("image_size", "init_features") if field in changes]
        for name, changes in PROFILES.items()
    }
    return next(
        name
        for name, fields in sizes.items()
        if all(settings[field] <= PROFILES[name][field] for field in fields)
    )


def _are_phantoms(patients: Sequence[str]) -> bool:
    """Return whether all patients are phantoms, by their names."""
    return all(name.startswith("PHANTOM_") for name in patients)


def updated(info: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a run.json as this version writes it.

    Older versions recorded no ``profile``, no ``data.phantom`` and no ``tables``: a plan whose name
    started with "best" belonged to the best CSV. In schema 1, ``device`` and ``precision`` of a run
    that went on elsewhere were joined by "; then ". A damaged field is left as it is.
    """
    info = dict(info)
    if "profile" not in info and isinstance(info.get("config"), dict):
        with suppress(KeyError, TypeError):
            info["profile"] = profile_of(info["config"])
    if isinstance(info.get("data"), dict) and "phantom" not in info["data"]:
        with suppress(KeyError, TypeError, AttributeError):
            patients = [*info["split"]["train"], *info["split"]["validation"]]
            info["data"] = info["data"] | {"phantom": _are_phantoms(patients)}
    plans = info.get("plans")
    if "tables" not in info and isinstance(plans, list):
        info["tables"] = {
            plan: "best" if plan.startswith("best") else "train"
            for plan in plans
            if isinstance(plan, str)
        }
    device, precision = info.get("device"), info.get("precision")
    if "earlier" not in info and isinstance(device, str) and isinstance(precision, str):
        devices, precisions = device.split("; then "), precision.split("; then ")
        count = max(len(devices), len(precisions))
        # of the two, one may have changed more often
        devices += devices[-1:] * (count - len(devices))
        precisions += precisions[-1:] * (count - len(precisions))
        *earlier, last = (
            {"device": device, "precision": precision}
            for device, precision in zip(devices, precisions, strict=True)
        )
        info |= {"earlier": earlier, **last}
    return info


def file_hash(file: Path) -> str:
    """Return the hex SHA-256 of a file of a run.

    Of a table its lines count: git and editors may change their ends, or put a mark at the start.
    """
    if file.suffix != ".csv":
        return sha256(file)
    text = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    return sha256(text.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n")


def checkpoint_hashes(path: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights and tables of a finished run."""
    return {name: file_hash(path / name) for name in ("best.pt", "history.csv", "cases.csv")}


def _require_true(run: Run) -> None:
    """Raise ``KitError`` unless run.json tells what the run's id and its history tell."""
    info, what = run.info, None
    try:
        _require_fields(info)
    except ValueError as error:
        raise KitError(
            f"{run.folder / 'run.json'}: {error}; restore it, or move the run's folder away and "
            f"train it anew"
        ) from None
    if info.get("schema") == SCHEMA and stated_id(info) != run.id:
        what = "config, data, split or code"
    scores = run.history["val_dsc"]
    if run.info["split"]["validation"]:
        told = scores.get(info["best"]["epoch"] - 1, -1)  # rounded, so that two may seem equal
        if max(abs(told - scores.max()), abs(told - info["best"]["val_dsc"])) > 1e-6:
            what = "best epoch"
    elif info["best"]["epoch"] != len(scores):
        what = "best epoch"
    if what:
        raise KitError(
            f"{run.folder / 'run.json'}: its {what} was edited; restore it, or move the run's "
            f"folder away and train it anew"
        )


def require_sound(run: Run, weights: bool = False) -> None:
    """Raise ``KitError`` unless a finished run is as its training left it.

    Args:
        weights: look at best.pt too, where it is there.
    """
    info = run.info
    if info.get("id", run.id) != run.id:
        raise KitError(f"{run.folder}: is the folder of {info['id']}; give it that name")
    for name, expected in info.get("sha256", {}).items():
        file = run.folder / name
        if file.suffix != ".csv" and not (weights and file.exists()):
            continue
        if not file.is_file():
            raise KitError(
                f"{file}: is missing; restore it, or move the run's folder away and train it anew"
            )
        if file_hash(file) != expected:
            raise KitError(
                f"{file}: is not what the training wrote; restore it, or move the run's folder "
                f"away and train it anew"
            )
    _require_true(run)


# --- result CSVs ----------------------------------------------------------------------------------


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV: UTF-8, LF, ``.`` as decimal sign, eight significant digits.

    Booleans are TRUE and FALSE, as in the coursework and in spreadsheets.
    """
    flags = {
        name: column.map({True: "TRUE", False: "FALSE"})
        for name, column in table.items()
        if column.dtype == bool
    }
    return str(table.assign(**flags).to_csv(index=False, lineterminator="\n", float_format="%.8g"))


def all_runs(out: str | Path) -> list[Run]:
    """Return the runs below ``out``, finished or not; each file is read when it is asked for."""
    return [Run(file.parent) for file in sorted(Path(out).glob("runs/*/run.json"))]


def finished_runs(out: str | Path, runs: Sequence[Run] | None = None) -> list[Run]:
    """Return the finished runs below ``out`` that scored patients, in the order of the CSVs.

    They are ordered by plan, config and run. A run that cannot be read, because it is damaged or of
    another version of the kit, is named and left out.

    Args:
        runs: what ``all_runs(out)`` gave, if it was called before.
    """
    runs = all_runs(out) if runs is None else runs
    done = [run for run in runs if _is_finished(run) and len(run.cases)]  # split="all" has none
    return sorted(
        done,
        key=lambda run: (run.info["plans"], json.dumps(run.info["config"], sort_keys=True), run.id),
    )


def _is_finished(run: Run) -> bool:
    """Return whether the run is finished, and sound; say so if it cannot be used."""
    try:
        if run.info["status"] != "finished":
            return False
        require_sound(run)
        _require_usable(run)
    except KitError as error:
        say(f"left out of the results: {error}")
        return False
    except Exception as error:  # damaged files raise almost anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        say(
            f"{run.id}: left out of the results, it cannot be read ({reason}); restore it, or move "
            f"it away"
        )
        return False
    return True


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "plans": list,
    "tables": dict,
    "config": dict,
    "data.name": str,
    "data.sha256": str,
    "code.sha256": str,
    "split.name": str,
    "split.train": list,
    "split.validation": list,
    "best.epoch": int,
    "device": str,
    "precision": str,
    "parameters": int,
    "accumulate": int,
    "seconds": (int, float),
}
"""What results and reports read of run.json."""


def _require_fields(info: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless the fields of run.json are there and of their types."""
    for name, kind in _FIELDS.items():
        value: Any = info
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        texts = not isinstance(value, list) or all(isinstance(text, str) for text in value)
        if not isinstance(value, kind) or isinstance(value, bool) or not texts:
            raise ValueError(f"{name} is {'missing' if value is None else 'of another kind'}")


def _require_usable(run: Run) -> None:
    """Read all that results and reports need of a run: what is odd in it raises an error here."""
    for table in run.tables:
        TABLES[table]
    run.result_rows  # noqa: B018 -- kept for the CSVs
    scores = [run.cases["dsc"], *(run.history[name] for name in ("train loss", "val_dsc"))]
    run.history[list(HISTORY_COLUMNS)]
    if len(run.cases) and not all(np.isfinite(column).all() for column in scores):
        raise ValueError("a score is infinite or not a number")


def write_result_csvs(out: str | Path, runs: Sequence[Run] | None = None) -> dict[str, Path]:
    """Rebuild both result CSVs from the run folders.

    Args:
        runs: what ``finished_runs(out)`` gave, if it was called before.

    Returns:
        File name -> path, of the CSVs that have rows.

    Raises:
        KitError: a CSV cannot be replaced, e.g. because a spreadsheet has it open.
    """
    out = Path(out)
    tables: dict[str, list[pd.DataFrame]] = {TRAIN_CSV: [], BEST_CSV: []}
    with changing(out):
        lock = FileLock(out / ".csv.lock").acquire()
    with lock:
        for run in finished_runs(out) if runs is None else runs:
            for table in run.tables:
                tables[TABLES[table]].append(run.result_rows)
        for name, parts in tables.items():
            if parts:
                write_atomic(out / name, to_csv(pd.concat(parts)))
    return {name: out / name for name, parts in tables.items() if parts}


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


def outside_folds(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without those that scored a fold of a cross-validation.

    Some folds are easier than others. A fold stays if another run is scored on the same patients.
    If there are only folds, all of them are returned.
    """
    wanted = [
        run.info["split"]["validation"]
        for run in runs
        if not run.info["split"]["name"].startswith(FOLD)
    ]
    return [run for run in runs if run.info["split"]["validation"] in wanted] or list(runs)


def find_run(
    out: str | Path,
    data: BrainData | None = None,
    run_id: str | None = None,
    runs: Sequence[Run] | None = None,
) -> Run:
    """Return the finished run with the best mean validation DSC.

    Folds of a cross-validation are left out if there are other runs.

    Args:
        data: only runs on these patients count.
        run_id: only this run counts.
        runs: what ``finished_runs(out)`` gave, if it was called before.

    Raises:
        KitError: there is none.
    """
    runs = finished_runs(out) if runs is None else runs
    runs = [run for run in runs if run_id is None or run.id == run_id]
    if data is not None:
        runs = [run for run in runs if run.info["data"]["sha256"] == data.fingerprint]
    if not runs:
        wanted = (f" {run_id}" if run_id else "") + (f" on {data.name}" if data else "")
        raise KitError(f"{Path(out) / 'runs'}: no finished run{wanted}; train one first")
    return max(outside_folds(runs), key=lambda run: run.dsc.mean)
