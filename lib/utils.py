"""Errors, hashing, atomic writing, progress bars."""

from __future__ import annotations

import errno
import glob
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TextIO, TypeVar

import psutil
from filelock import FileLock

T = TypeVar("T")
LIB = Path(__file__).resolve().parent
INSTALLED = LIB.parent.name in ("site-packages", "dist-packages")
PROJECT = Path.cwd() if INSTALLED else LIB.parent
"""The kit's folder, with data and results; of an installed kit it is the working folder."""
PARTIAL = ".kit-partial"  # at the end of names of what is not written yet


class KitError(ValueError):
    """Report bad input, in one line that says what is wrong, where, and what to do about it."""


class EditedError(KitError):
    """Report code that was edited after Python loaded it: the old code would run."""


# --- hashing and writing --------------------------------------------------------------------------


def sha256(data: bytes | Path) -> str:
    """Return the hex SHA-256 of bytes or of a file's content."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return the hex SHA-256 of a JSON-like value, the same on every computer."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def write_atomic(path: Path, data: bytes | memoryview | str, durable: bool = True) -> None:
    """Write a whole file or nothing: no reader sees half of it.

    Args:
        durable: not even after a power cut, which takes some milliseconds longer.

    Raises:
        KitError: no space, or no right to write there.
    """
    with changing(path):
        _write_atomic(path, data, durable)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Raise ``KitError`` where a file or folder cannot be written, renamed or removed.

    It names ``path`` and what to do about it.
    """
    try:
        yield
    except OSError as error:
        raise KitError(
            f"{path}: cannot be written ({error.strerror or error}); {remedy(error)}"
        ) from error


def remedy(error: OSError) -> str:
    """Return what to do about a file that cannot be used."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space, or name another place"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "close it in other programs, or give yourself the right to use it"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
        return "see whether the path is right, and name another"
    return "see whether it may be used, and try again"


def _write_atomic(path: Path, data: bytes | memoryview | str, durable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        data = data.encode("utf-8")
    _remove_leftovers(path)
    handle, name = tempfile.mkstemp(PARTIAL, f".{path.name}.{_who()}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp makes files that only the owner reads
        _replace(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _replace(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``.

    Windows refuses while another process reads ``path``: for a second, try again.
    """
    for _ in range(20 if sys.platform == "win32" else 0):
        try:
            new.replace(path)
            return
        except PermissionError:
            time.sleep(0.05)
    new.replace(path)


def build_folder(target: Path, ready: Callable[[], bool], build: Callable[[Path], None]) -> None:
    """Build a folder as a whole or not at all, and only once on this computer.

    ``build`` fills a temporary folder beside ``target``, which is then renamed; other processes
    wait. Computers that share a disk may both build; the first to rename wins.

    Args:
        ready: returns whether the folder is there already; called before and after waiting.

    Raises:
        OSError: no space or no right to write, or ``target`` holds something.
    """
    if ready():
        return
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_once(target):
        if ready():
            return
        _remove_leftovers(target)
        partial = Path(tempfile.mkdtemp(PARTIAL, f".{target.name}.{_who()}.", target.parent))
        try:
            build(partial)
            partial.chmod(0o755)  # mkdtemp makes folders that only the owner reads
            if target.is_dir():
                target.rmdir()
            partial.rename(target)
        except OSError:
            if not ready():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _only_once(target: Path) -> Iterator[None]:
    """Hold the lock of a folder that is being built.

    The lock is a file in the temporary folder, named after the user: a user may not open the lock
    of another there. It is removed at the end. A process that waited for it and one that comes
    later may then both build; the first to rename wins.
    """
    name = f"segmentation-kit-{this_user()}-{fingerprint(str(target))[:16]}.lock"
    lock = Path(tempfile.gettempdir()) / name
    with FileLock(lock):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes nothing that is open
                lock.unlink()


@cache
def this_user() -> str:
    """Return a short name for this user on this computer."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    return fingerprint([user, platform.node()])[:8]


def _who() -> str:
    """Return a short name for this process, which names of unfinished files contain."""
    return f"{this_user()}-{os.getpid()}"


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes have left of a file or folder that they were writing.

    On this computer a process that is no more has left it. Another computer that shares the disk
    may be writing now: after an hour without a change it is not.
    """
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*{PARTIAL}"):
        with suppress(OSError):  # another process may remove it, too
            if _is_left(partial):
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def _is_left(partial: Path) -> bool:
    """Return whether nobody writes an unfinished file or folder any more."""
    writer = re.search(rf"\.{this_user()}-(\d+)\.[^.]*$", partial.name.removesuffix(PARTIAL))
    if writer:
        return not psutil.pid_exists(int(writer[1]))
    changed = max(path.stat().st_mtime for path in (partial, *partial.rglob("*")))
    return time.time() - changed > 3600


def put_aside(path: Path) -> Path:
    """Rename a file or folder, so that it is not written over; return its new place."""
    free = (path.with_name(f"{path.name}.aside{number or ''}") for number in itertools.count())
    with changing(path):
        return path.rename(next(new for new in free if not new.exists()))


def see(page: str, section: str) -> str:
    """Return where a page explains what a message is about: ``see docs/x.md, "Section"``.

    Args:
        page: ``extending`` of ``docs``, or a path from the kit's folder.
    """
    return f'see {page if "/" in page else f"docs/{page}.md"}, "{section}"'


def as_path(value: object, what: str) -> Path:
    """Return a path; raise ``KitError`` for what is none, with the name of the argument."""
    if not isinstance(value, (str, os.PathLike)):
        raise KitError(f"{what}: expected a path, got a {type(value).__name__}; give it as text")
    return Path(value)


def require_called(value: object, what: str, optional: bool = False) -> None:
    """Raise ``KitError`` unless a value can be called.

    A class is refused, as an object of it is meant.

    Args:
        what: the argument, for the message.
        optional: None is accepted, too.
    """
    if isinstance(value, type):
        raise KitError(f"{what}: is the class {value.__name__}; make an object: {value.__name__}()")
    if not callable(value) and not (optional and value is None):
        raise KitError(f"{what}: expected a function, got a {type(value).__name__}")


def at_home(path: str | Path, what: str) -> Path:
    """Return a path with the home folder in the place of ``~``, what it is for in the message.

    Raises:
        KitError: ``~name`` of a user whom this computer does not know.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise KitError(
            f"{what}: {path}: there is no home folder of that name; give the whole path"
        ) from None


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match, sorted; what programs hide there is left out.

    Such are locks and backups of editors and what Python compiled. What the pattern names, as in
    ``.devcontainer/*``, is not hidden.
    """
    named = Path(pattern).parts

    def is_hidden(part: str) -> bool:
        return part not in named and (part.startswith(".") or part == "__pycache__")

    return sorted(
        file
        for file in folder.glob(pattern)
        if file.is_file() and not any(map(is_hidden, file.relative_to(folder).parts))
    )


def short_path(path: Path) -> str:
    """Return a path relative to the current folder or the project.

    A committed notebook must not show a home folder.
    """
    for base in (Path.cwd(), PROJECT):
        if path.resolve().is_relative_to(base.resolve()):
            return path.resolve().relative_to(base.resolve()).as_posix()
    return str(path)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def progress(*args: Any, **kwargs: Any) -> Any:
    """Return a tqdm bar, as ``progress_mode`` says: a widget, text, or one that is not shown."""
    mode = progress_mode()
    if mode == "widget":
        from tqdm.auto import tqdm
    else:
        from tqdm.std import tqdm
    disable = mode in ("lines", "off") or kwargs.pop("disable", False)
    return tqdm(*args, **{"leave": False, "dynamic_ncols": True, **kwargs, "disable": disable})


def progress_mode() -> str:
    """Return how progress is shown.

    ``widget`` in Jupyter; ``text``, bars in a terminal; ``lines``, one for each epoch, where the
    output is a file; ``off``. ``KIT_PROGRESS`` asks for one of them.
    """
    wanted = os.environ.get("KIT_PROGRESS")
    if wanted in ("text", "lines", "off"):
        return wanted
    if in_notebook():
        return "widget"
    return "text" if sys.stderr.isatty() else "lines"


def in_notebook() -> bool:
    """Return whether this code runs in a Jupyter kernel."""
    interpreter = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(interpreter, "kernel", None) is not None


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line above the progress bars that are on screen."""
    from tqdm.std import tqdm

    tqdm.write(line, file=stream)


def as_list(given: T | Sequence[T]) -> list[T]:
    """Return several things as a list, or one as a list of one."""
    return list(given) if isinstance(given, Sequence) else [given]
