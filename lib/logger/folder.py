"""Write the files of a run folder, one process at a time."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import nn

from lib.config import Config
from lib.evaluate import CASE_COLUMNS
from lib.logger.identity import updated
from lib.logger.run import Run, all_runs
from lib.logger.sound import require_sound
from lib.logger.tables import TABLES, Table, to_csv
from lib.runtime import Machine
from lib.runtime.checkpoint import DamagedError, read_checkpoint
from lib.runtime.cost import count_parameters
from lib.runtime.device import device_name, reset_peak_memory
from lib.utils import PARTIAL, KitError, changing, put_aside, say, write_atomic, write_json

_CONTENT = {"last.pt": ("history", "weights"), "best.pt": ("epoch", "weights")}


class Place(NamedTuple):
    """Name the place of a run in a sweep.

    Attributes:
        group: the same for all runs that a sweep compares: base recipe, data, split and question.
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


def require_plan(plan: object, table: object) -> None:
    """Raise ``KitError`` for what is no name of an experiment, or of a result CSV."""
    if not isinstance(plan, str):
        raise KitError(f"plan: expected the name of an experiment, got {plan!r}")
    if table not in TABLES:
        raise KitError(f"table: {table!r} is unknown; use one of {', '.join(TABLES)}")


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
