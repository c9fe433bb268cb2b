"""E. Interrupted work: killed at any moment, on a disk that fails at any change, or is full."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lib.grade import grade
from lib.grade.pack import pack
from lib.logger import finished_runs
from lib.notebook.execute import execute, note_time
from lib.phantom import write_phantom
from lib.predict import predict
from lib.report import write_report
from lib.sweep import Plan, sweep
from lib.train import fit
from lib.utils import PARTIAL, KitError
from tests.faults.disk import FailingDisk, failing, files_no_larger_than
from tests.faults.things import (
    SIBLING,
    TINY,
    data_in,
    halfway,
    patients,
    runs_in,
    same_outcome,
    trained,
)
from tests.faults.tries import Try, kind, run_module, wait_for

PLAN = Plan("seeds", "?", {"one": {"seed": TINY.seed}, "two": {"seed": SIBLING.seed}})


@dataclass(frozen=True)
class Work:
    """Something long that writes files.

    Attributes:
        before: builds what it starts from.
        run: does it in a folder that is like ``before``.
        check: returns whether a folder holds what came out of it undisturbed in the other.
        cached: the slices are prepared before.
        slow: it starts another Python.
    """

    before: Callable[[Path], None]
    run: Callable[[Path], object]
    check: Callable[[Path, Path], bool]
    cached: bool = False
    slow: bool = False


def nothing(folder: Path) -> None:
    """Start from an empty folder."""


def prepared(folder: Path) -> None:
    """Start from patients whose slices are prepared."""
    patients(folder / "data")


def handed_in(folder: Path) -> None:
    """Start from a hand-in, and the data to grade it on."""
    trained(folder)
    (folder / "hand-ins").mkdir()
    receipt = pack("ada", folder / "out", run_id=runs_in(folder)[0].name, quick=True)
    shutil.copy(receipt.file, folder / "hand-ins")


def notebook(folder: Path) -> None:
    """Start from a notebook of one cell."""
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1 + 1)")])
    nbformat.write(content, folder / "one.ipynb")


def _train(folder: Path) -> object:
    return fit(TINY, data_in(folder), folder / "out")


def _sweep(folder: Path) -> object:
    done = sweep(PLAN, TINY, data_in(folder), folder / "out")
    if done.failures:  # one that failed is recorded and tried again
        raise KitError(next(iter(done.failures.values())))
    return done


def _predict(folder: Path) -> object:
    weights = runs_in(folder)[0] / "best.pt"
    return predict(weights, data_in(folder), folder / "masks", device="cpu", precision="fp32")


def _grade(folder: Path) -> object:
    return grade(folder / "hand-ins", folder / "data", folder / "grades", device="cpu")


def _execute(folder: Path) -> object:
    execute(folder / "one.ipynb", folder / "copies" / "one.ipynb")
    note_time(folder / "notebooks.json", folder / "one.ipynb", 1)
    return None


def _tree(folder: Path) -> dict[str, bytes]:
    files = folder.rglob("*") if folder.is_dir() else [folder]
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in files
        if file.is_file() and not file.name.startswith(".")
    }


def _same(*parts: str) -> Callable[[Path, Path], bool]:
    return lambda folder, whole: all(_tree(folder / part) == _tree(whole / part) for part in parts)


def _executed(folder: Path, whole: Path) -> bool:
    cell = nbformat.read(folder / "copies" / "one.ipynb", as_version=4).cells[0]
    return [output["text"] for output in cell.outputs] == ["2\n"]


def _trained_well(folder: Path, whole: Path) -> bool:
    done = finished_runs(folder / "out")
    names = {run.id: run.folder for run in finished_runs(whole / "out")}
    same = all(run.id in names and same_outcome(run, names[run.id]) for run in done)
    return same and len(done) == len(names)


WORKS: dict[str, Work] = {
    "train": Work(prepared, _train, _trained_well, cached=True),
    "resume": Work(halfway, _train, _trained_well, cached=True),
    "sweep": Work(prepared, _sweep, _trained_well, cached=True),
    "predict": Work(trained, _predict, _same("masks"), cached=True),
    "report": Work(
        trained,
        lambda folder: write_report(folder / "out", images=False),
        _same("out/report", "out/report.html", "out/report.md"),
    ),
    "pack": Work(
        trained,
        lambda folder: pack("ada", folder / "out", run_id=runs_in(folder)[0].name, quick=True),
        _same("out/ada.zip"),
    ),
    "cache": Work(
        prepared,
        data_in,
        lambda folder, whole: data_in(folder).fingerprint == data_in(whole).fingerprint,
    ),
    "phantom": Work(
        nothing,
        lambda folder: write_phantom(folder / "phantom", patients=2, seed=1, size=32),
        _same("phantom"),
    ),
    "grade": Work(handed_in, _grade, _same("grades/gradebook.csv"), slow=True),
    "notebook": Work(notebook, _execute, _executed, slow=True),
}


def whole_of(t: Try, name: str) -> tuple[Path, int]:
    """Return a folder in which some work was done undisturbed, and how many changes it made."""
    work = WORKS[name]

    start = t.shared(work.before)

    def build(folder: Path) -> None:
        shutil.copytree(start, folder, dirs_exist_ok=True)
        with own_cache(folder):
            if work.cached:
                data_in(folder)
            with failing(FailingDisk(folder)) as disk:
                work.run(folder)
        (folder / "changes.txt").write_text("\n".join(disk.changes))

    build.__name__ = f"whole_{name}"
    whole = t.shared(build)
    return whole, len((whole / "changes.txt").read_text().splitlines())


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Keep the prepared slices below a folder, where the disk fails too."""
    before, os.environ["KIT_CACHE"] = os.environ["KIT_CACHE"], str(folder / "cache")
    try:
        yield
    finally:
        os.environ["KIT_CACHE"] = before


def interrupted(t: Try, name: str, disturb: Callable[[Path, Callable[[], object]], None]) -> None:
    """Disturb some work; then do it again, and it must come out as if nothing had happened."""
    work = WORKS[name]
    whole, _ = whole_of(t, name)
    folder = t.copied(work.before)
    with own_cache(folder):
        if work.cached:
            data_in(folder)
        t.guard(*(place for place in (folder / "data", folder / "hand-ins") if place.exists()))
        disturb(folder, lambda: _checked(t, work, folder, whole))
        t.right(lambda: work.run(folder))
        t.must(work.check(folder, whole), f"{name}: something else came out")
    left = [path.name for path in folder.rglob(f"*{PARTIAL}*")]
    t.must(not left, f"{name}: left behind: {left[:3]}")


def _checked(t: Try, work: Work, folder: Path, whole: Path) -> None:
    """Do some work; if it says that it is done, it must be."""
    work.run(folder)
    t.must(work.check(folder, whole), "said to be done, and something else came out")


def _fail(t: Try, name: str, turn: int) -> None:
    """Let the change of that turn fail, alone or with all that follow."""
    changes = whole_of(t, name)[1]
    disk_full = bool(turn // changes % 2)
    error = t.pick((errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT, errno.EROFS))

    def disturb(folder: Path, run: Callable[[], object]) -> None:
        with failing(FailingDisk(folder, turn % changes + 1, disk_full, error)):
            t.right_or_refuse(run, lambda _: True)

    interrupted(t, name, disturb)


QUICK = tuple(name for name, work in WORKS.items() if not work.slow)


@kind("E", 640)
def a_change_of_the_disk_fails(t: Try) -> None:
    """Every change of every work in turn, each alone and with all that follow."""
    _fail(t, QUICK[t.index % len(QUICK)], t.index // len(QUICK))


@kind("E", 40)
def a_change_of_the_disk_fails_while_grading(t: Try) -> None:
    _fail(t, "grade", t.index)


@kind("E", 20)
def a_change_of_the_disk_fails_while_a_notebook_runs(t: Try) -> None:
    _fail(t, "notebook", t.index)


@kind("E", 120)
def a_write_ends_in_the_middle(t: Try) -> None:
    """No file can grow beyond a size: a quota, a full disk."""

    def disturb(folder: Path, run: Callable[[], object]) -> None:
        with files_no_larger_than(int(10 ** t.rng.uniform(0, 5.3))):
            t.right_or_refuse(run, lambda _: True)

    interrupted(t, t.pick(QUICK), disturb)


@kind("E", 150)
def killed_at_any_moment(t: Try) -> None:
    """SIGKILL in the middle; what was done counts, and the rest is done again."""

    def disturb(folder: Path, run: Callable[[], object]) -> None:
        code = wait_for(t.child(run), kill_after=float(t.rng.uniform(0, 1.5)))
        t.must(code in (0, -signal.SIGKILL), f"exit code {code}: {t.words()}")

    interrupted(t, t.pick(QUICK), disturb)


@kind("E", 60)
def stopped_by_the_user(t: Try) -> None:
    """An interruption at any change of the disk."""
    name = t.pick(QUICK)
    number = t.number(1, whole_of(t, name)[1] + 1)

    def disturb(folder: Path, run: Callable[[], object]) -> None:
        # in the thread that changes the disk; of a checkpoint that is not the main one
        with failing(FailingDisk(folder, number, interrupt=True)), suppress(KeyboardInterrupt):
            run()

    interrupted(t, name, disturb)


@kind("E", 40)
def two_processes_at_once(t: Try) -> None:
    """Two processes do the same; both come to the same end."""
    name = t.pick(("train", "sweep", "cache", "phantom"))
    work, (whole, _) = WORKS[name], whole_of(t, name)
    folder = t.copied(work.before)
    with own_cache(folder):
        other = t.child(lambda: work.run(folder))
        t.right(lambda: work.run(folder))
        code = wait_for(other)
        t.must(code == 0, f"{name}: the other process ended with {code}: {t.words()}")
        t.must(work.check(folder, whole), f"{name}: something else came out")


@kind("E", 40)
def nobody_takes_what_is_printed(t: Try) -> None:
    """Output to a full device ends in a line."""
    folder = t.copied(trained)
    weights = runs_in(folder)[0] / "best.pt"
    module, *arguments = t.pick(
        (
            ("lib.report", "--out", folder / "out", "--no-images"),
            ("lib.predict", "--weights", weights, "--data", folder / "data", "--out", folder / "m"),
            ("lib.phantom", folder / "ph", "--patients", 2, "--size", 32),
        )
    )
    t.guard(folder / "data")
    child = t.child(lambda: run_module(module, *map(str, arguments)), stdout=Path("/dev/full"))
    code = wait_for(child)
    t.must(code in (0, 2) and "Traceback" not in t.words(), f"exit code {code}: {t.words()}")
    t.refused = code == 2
