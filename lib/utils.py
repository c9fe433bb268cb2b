"""Errors, hashing, atomic writing, progress bars."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock

PROJECT = Path(__file__).resolve().parent.parent


class KitError(ValueError):
    """Bad input. Its text is one line that says what is wrong, where, and what to do about it."""


class EditedError(KitError):
    """Code was edited after Python loaded it: what would run is not what the file says."""


# --- hashing and writing --------------------------------------------------------------------------


def sha256(data: bytes | Path) -> str:
    """Hex SHA-256 of bytes or of a file's content."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of a JSON-like value; equal values give equal fingerprints on every machine."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def write_atomic(path: Path, data: bytes | memoryview | str) -> None:
    """Write a whole file or nothing: a reader, or a power cut, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        data = data.encode("utf-8")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
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
    """Make a folder as a whole or not at all, and only once however many processes of this machine ask for it.

    ``build`` fills a temporary folder beside ``target``, which is then renamed; whoever comes
    meanwhile waits. Machines that share a disk may both build; the first to rename wins.

    Args:
        ready: is it there already? Asked before and after waiting.

    Raises:
        OSError: no space or no right to write, or ``target`` holds something.
    """
    if ready():
        return
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = fingerprint([str(Path.home()), str(target)])[
        :16
    ]  # of this user, and not among his files
    with FileLock(Path(tempfile.gettempdir()) / f"segmentation-kit-{lock}.lock"):
        if ready():
            return
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
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


def short_path(path: Path) -> str:
    """A path as seen from the current folder or the project: no home folder belongs in a committed notebook."""
    for base in (Path.cwd(), PROJECT):
        if path.resolve().is_relative_to(base.resolve()):
            return path.resolve().relative_to(base.resolve()).as_posix()
    return str(path)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def progress(*args: Any, **kwargs: Any) -> Any:
    """A tqdm bar: a widget in Jupyter, text elsewhere; ``KIT_PROGRESS=text`` asks for text, ``off`` for none."""
    wanted = os.environ.get("KIT_PROGRESS")
    if wanted in ("text", "off"):
        from tqdm.std import tqdm
    else:
        from tqdm.auto import tqdm
    return tqdm(
        *args, **{"leave": False, "dynamic_ncols": True, "disable": wanted == "off", **kwargs}
    )


def in_notebook() -> bool:
    """Does this code run in a Jupyter kernel?"""
    interpreter = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(interpreter, "kernel", None) is not None


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line above the progress bars that are on screen."""
    from tqdm.std import tqdm

    tqdm.write(line, file=stream)


def cores() -> int:
    """Cores that this process may use: fewer than the machine has where it shares them, e.g.

    on a cluster.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
