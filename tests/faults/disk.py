"""A disk on which the n-th change fails: a file opened to write, a rename, a removal, a folder."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod"}
_MAKING = {"open", "os.mkdir", "os.rename", "os.link", "os.symlink"}


@dataclass
class FailingDisk:
    """Count the changes below a folder, and let one fail, or all from one on.

    Attributes:
        folder: changes elsewhere are neither counted nor refused.
        first: number of the change that fails, from 1; 0 for none.
        full: all further files, folders and names are refused too, as on a full disk.
        error: number of the system's error.
        interrupt: raise ``KeyboardInterrupt`` instead.
    """

    folder: Path
    first: int = 0
    full: bool = False
    error: int = errno.ENOSPC
    interrupt: bool = False
    changes: list[str] = field(default_factory=list)
    failed: str = ""

    def meet(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an event of Python's; raise ``OSError`` if it is the one that fails."""
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & _WRITING):
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, (str, os.PathLike)):
            return
        place = str(Path.cwd() / os.fspath(path))
        if not place.startswith(f"{self.folder}{os.sep}") or place.endswith(".lock"):
            return
        self.changes.append(f"{event} {place}")
        number = len(self.changes)
        if number == self.first or (self.full and 0 < self.first < number and event in _MAKING):
            self.failed = self.failed or self.changes[-1]
            if self.interrupt:
                raise KeyboardInterrupt
            raise OSError(self.error, os.strerror(self.error), str(path))


_active: list[FailingDisk] = []
_hooked = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for disk in _active:
        disk.meet(event, arguments)


@contextmanager
def failing(disk: FailingDisk) -> Iterator[FailingDisk]:
    """Let the disk fail inside."""
    global _hooked
    if not _hooked:  # a hook cannot be taken away again
        sys.addaudithook(_hook)
        _hooked = True
    _active.append(disk)
    try:
        yield disk
    finally:
        _active.remove(disk)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let each write end at that size, in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
