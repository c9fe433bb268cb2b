"""Try the kit on what may go wrong, and say of each try what became of it.

A kind of fault is a function that is given a ``Try``: a folder of its own, random numbers of its
own, and the means to say what must come out. The same kind and number is the same try each time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lib.runtime import run_command
from lib.utils import KitError, sha256

LETTERS = {
    "A": "pictures and what they mean",
    "B": "who has been seen",
    "C": "what is used is what is there",
    "D": "files of other programs",
    "E": "damaged and interrupted work",
    "F": "numbers",
    "G": "writing where it must not",
    "H": "words and small things",
}
OUTCOMES = ("right", "clear", "traceback", "wrong", "lost", "hang")
BAD = OUTCOMES[2:]
_REMEDY = re.compile(r"; \S|\b(expected|use|give|must|one of)\b")
Item = TypeVar("Item")


class Wrong(AssertionError):
    """Say that the kit believed what it should not have, or refused what is sound."""


class Lost(AssertionError):
    """Say that a file is gone or changed that the kit had not written."""


class Answer(NamedTuple):
    """Hold what a command line left: its exit code and what it printed."""

    code: int
    out: str
    err: str


@dataclass
class Try:
    """One try: its own folder and random numbers; what is guarded must be there afterwards.

    Attributes:
        index: its number, from 0.
        folder: empty.
        common: for what several tries read and none may change, see ``shared``.
    """

    index: int
    folder: Path
    common: Path
    rng: np.random.Generator
    refused: bool = False
    guarded: dict[Path, str] = field(default_factory=dict)

    # --- what to try

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one of ``items``."""
        return items[int(self.rng.integers(len(items)))]

    def number(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` up to, not including, ``high``."""
        return int(self.rng.integers(low, high))

    def chance(self, share: float) -> bool:
        """Return True in this share of the tries."""
        return bool(self.rng.random() < share)

    def shared(self, build: Callable[[Path], Any]) -> Path:
        """Return a folder that ``build`` has filled once in this process; copy what is changed."""
        place = self.common / build.__name__
        if not place.is_dir():
            partial = place.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            build(partial)
            partial.rename(place)
        return place

    def copied(self, build: Callable[[Path], Any]) -> Path:
        """Return a copy of a shared folder, to be changed."""
        return Path(shutil.copytree(self.shared(build), self.folder / build.__name__))

    # --- what must come out

    def guard(self, *places: Path) -> None:
        """Note files, or all files below a folder, that must stay as they are."""
        for place in places:
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if file.is_file():
                    self.guarded[file] = sha256(file)

    def must(self, condition: object, otherwise: str) -> None:
        """Say what is wrong unless the condition holds."""
        if not condition:
            raise Wrong(otherwise)

    def right(self, call: Callable[[], Item]) -> Item:
        """Return what a call returns that the kit has to do; a refusal is wrong."""
        try:
            return call()
        except KitError as error:
            raise Wrong(f"refused, though it is sound: {error}") from None

    def refuse(self, call: Callable[[], Any], *parts: str | Path) -> str:
        """Return the one line with which the kit refuses a call; it has to name ``parts``."""
        try:
            result = call()
        except KitError as error:
            return self._clear(str(error), parts)
        raise Wrong(f"believed: {str(result)[:200]}")

    def right_or_refuse(
        self, call: Callable[[], Item], is_right: Callable[[Item], Any], *parts: str | Path
    ) -> Item | None:
        """Let the kit refuse a call in a clear line, or return what is right."""
        try:
            result = call()
        except KitError as error:
            self._clear(str(error), parts)
            return None
        self.must(is_right(result), f"believed: {str(result)[:200]}")
        return result

    def _clear(self, line: str, parts: Sequence[str | Path]) -> str:
        """Note a refusal, if it is one clear line that names what is asked for."""
        self.must("\n" not in line and len(line) < 700, f"not one line: {line[:300]}")
        self.must(_REMEDY.search(line), f"says not what to do: {line}")
        for part in parts:
            self.must(str(part) in line, f"does not name {part}: {line}")
        self.refused = True
        return line

    # --- command lines and processes

    def command(self, module: str, *arguments: str | Path) -> Answer:
        """Run the ``main`` of a command line in this process.

        Its exit code is 0 or 2, and 2 comes with one clear line.
        """
        out, err, code = io.StringIO(), io.StringIO(), 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                run_module(module, *arguments)
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        answer = Answer(code, out.getvalue(), err.getvalue())
        self.must(code in (0, 2), f"exit code {code}: {answer.err[-300:]}")
        if code == 2:
            lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
            self.must(len(lines) == 1, f"not one line: {answer.err[-300:]}")
            self._clear(lines[0], ())
        return answer

    def child(self, call: Callable[[], Any], stdout: Path | None = None) -> int:
        """Start a call in a copy of this process, and return the process's number.

        Args:
            stdout: a file for what it prints; by default that of ``words``.
        """
        words = self.folder / "child.txt"
        number = os.fork()
        if number == 0:
            code = 3
            try:
                with open(words, "w") as log, open(stdout or words, "a") as output:
                    os.dup2(log.fileno(), 2)
                    os.dup2(output.fileno(), 1)
                    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                    code = _exit_code(call)
            finally:
                os._exit(code)
        return number

    def words(self) -> str:
        """Return the last words of a child."""
        return (self.folder / "child.txt").read_text(errors="replace")[-500:]


def wait_for(child: int, kill_after: float | None = None) -> int:
    """Return the exit code of a child, or minus its signal.

    The code is 0, 2 for a KitError, 3 for any other error.

    Args:
        kill_after: seconds, then SIGKILL.
    """
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_module(module: str, *arguments: str | Path) -> None:
    """Run the ``main`` of a command line, as ``python -m`` does."""
    main = importlib.import_module(module if _has_main(module) else f"{module}.__main__").main
    before, sys.argv = sys.argv, [f"python -m {module}", *map(str, arguments)]
    try:
        run_command(main)
    finally:
        sys.argv = before


def _has_main(module: str) -> bool:
    return hasattr(importlib.import_module(module), "main")


def _exit_code(call: Callable[[], Any]) -> int:
    """Run a call in a child; say what stopped it."""
    try:
        call()
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 3
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
    return 0


# --- kinds ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        count: how many tries all of them are.
        seconds: a try that takes longer hangs.
    """

    letter: str
    name: str
    run: Callable[[Try], None]
    count: int
    seconds: float

    def attempt(self, number: int, scratch: Path, common: Path) -> tuple[str, str]:
        """Return what became of a try, one of ``OUTCOMES``, and why."""
        folder = scratch / f"{self.name}-{number}"
        folder.mkdir(parents=True)
        one = Try(number, folder, common, np.random.default_rng([number, *self.name.encode()]))
        try:
            outcome, why = self._outcome(one)
            return _lost(one) or (outcome, why)
        finally:
            for path in folder.rglob("*"):  # what a try made unreadable
                if not path.is_symlink() and path.is_dir():
                    path.chmod(0o700)
            shutil.rmtree(folder, ignore_errors=True)

    def _outcome(self, one: Try) -> tuple[str, str]:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                self.run(one)
        except Lost as error:
            return "lost", str(error)
        except Wrong as error:
            return "wrong", str(error)
        except Exception:
            return "traceback", "".join(traceback.format_exc()[-1500:])
        return ("clear", "") if one.refused else ("right", "")


def _lost(one: Try) -> tuple[str, str] | None:
    for file, digest in one.guarded.items():
        if not file.is_file():
            return "lost", f"{file} is gone"
        if sha256(file) != digest:
            return "lost", f"{file} was changed"
    return None


_KINDS: dict[str, Kind] = {}


def kind(letter: str, count: int, seconds: float = 60) -> Callable[[Callable[[Try], None]], Any]:
    """Register a function as a kind of fault."""

    def register(function: Callable[[Try], None]) -> Callable[[Try], None]:
        name = function.__name__
        if name in _KINDS:
            raise ValueError(f"two kinds are called {name}")
        _KINDS[name] = Kind(letter, name, function, count, seconds)
        return function

    return register


MODULES = (
    "pictures",
    "people",
    "places",
    "programs",
    "damage",
    "interruptions",
    "numbers",
    "writing",
    "words",
    "real_programs",
)


def all_kinds() -> dict[str, Kind]:
    """Return every kind by name, in the order of their letters."""
    for module in MODULES:
        if importlib.util.find_spec(f"tests.faults.{module}"):
            importlib.import_module(f"tests.faults.{module}")
    return dict(sorted(_KINDS.items(), key=lambda item: item[1].letter))


@contextlib.contextmanager
def quiet_environment(scratch: Path) -> Iterator[None]:
    """Let no try see the cache or the settings of the user, nor use more than a thread."""
    import torch
    import tqdm

    os.environ["KIT_CACHE"], os.environ["KIT_PROGRESS"] = str(scratch / "cache"), "off"
    for name in ("KIT_DATA", "KIT_OUT", "KIT_PROFILE"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # a thread that a copied process would miss
    tqdm.tqdm.set_lock(threading.RLock())  # by default one that a killed copy would keep
    yield
