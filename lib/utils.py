"""Errors and command-line manners, a student's own classes, hashing, atomic writing, progress bars."""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import inspect
import io
import json
import os
import shutil
import sys
import tempfile
import time
import tokenize
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO

from filelock import FileLock
from torch import nn

PROJECT = Path(__file__).resolve().parent.parent


class KitError(ValueError):
    """Bad input. Its text is one line that says what is wrong, where, and what to do about it."""


class EditedError(KitError):
    """Code was edited after Python loaded it: what would run is not what the file says."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser that answers a wrong option with one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Exit 2 with the message."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


RESUMES = "the same command goes on from the last finished epoch"


def run_command(main: Callable[[], None], interrupted: str = "nothing is kept of what was not finished") -> None:
    """Run a command line's ``main``: exit 2 with one line on bad input, or where a file cannot be read or written; 130
    when the user interrupts.

    Args:
        interrupted: what the user has to know then.
    """
    try:
        main()
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:  # no trouble with a file
            raise
        print(f"error: {error.filename}: {error.strerror}; make room for it, or name another place", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\ninterrupted: {interrupted}", file=sys.stderr)
        sys.exit(130)


# --- a student's own classes ------------------------------------------------------------------------------------


def load_class(spec: str) -> type[nn.Module]:
    """The class that ``"module:Class"`` names: a network or loss of one's own. Importing it runs that module's code.

    Raises:
        KitError: no such module or class, or not a ``torch.nn.Module``.
    """
    module, _, name = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise KitError(f"{spec}: cannot be loaded ({error}); expected module:Class, importable from here") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise KitError(f"{spec}: is not a class derived from torch.nn.Module")
    _LOADED.require_unchanged(inspect.getmodule(found))
    return found


# --- hashing and writing --------------------------------------------------------------------------------------


def sha256(data: bytes | Path) -> str:
    """Hex SHA-256 of bytes or of a file's content."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of a JSON-like value; equal values give equal fingerprints on every machine."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def source_fingerprint(*objects: Any) -> str:
    """Return the hex SHA-256 of the code of modules, classes or functions, in whatever order they are given.

    Only what the code does counts, see ``code_tokens``; not what the objects or their modules are called from outside.

    Raises:
        EditedError: a file was edited after Python loaded it; the hash would be of code that does not run.
    """
    for module in {inspect.getmodule(thing) for thing in objects}:
        _LOADED.require_unchanged(module)
    return fingerprint(sorted(code_tokens(inspect.getsource(thing)) for thing in objects))


def code_fingerprint(network: nn.Module, objective: nn.Module, sources: Sequence[ModuleType]) -> str:
    """Return the hex SHA-256 of the code that a run uses: adding another loss or network changes nothing here.

    Of a network the whole modules of its classes count; of a loss its classes, as ``lib.loss`` holds all of them.

    Args:
        network: of ``build_model``.
        objective: of ``build_objective``.
        sources: the modules that every run uses, ``lib.train.SOURCES``.

    Raises:
        EditedError: see ``source_fingerprint``.
    """
    modules = {inspect.getmodule(cls) for cls in _own_classes(network)}
    losses = {cls if cls.__module__.startswith("lib.") else inspect.getmodule(cls) for cls in _own_classes(objective)}
    return source_fingerprint(*modules.union(losses, sources))


def _own_classes(module: nn.Module) -> set[type]:
    """The classes that a module and its parts are made of, torch's own left out."""
    classes = {base for part in module.modules() for base in type(part).__mro__ if base is not object}
    return {cls for cls in classes if cls.__module__.split(".")[0] != "torch"}


_LINE, _INDENT, _DEDENT = "\n", "\n>", "\n<"  # marks among the tokens; no token of Python reads so


@cache  # a sweep asks for the same sources again and again
def code_tokens(source: str) -> tuple[str, ...]:
    """Return the tokens that decide what Python source does, the same on Python 3.11 to 3.14.

    Comments, docstrings, imports, blank space, line ends and the width of an indentation are left out; ends of
    statements and the beginnings and ends of blocks are kept as marks. An f-string counts as its text: from Python 3.12
    on ``tokenize`` takes it apart.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    if source[:1] in (" ", "\t"):  # of a class within a function
        source = f"if True:\n{source}"
    lines, left_out = source.split("\n"), _without_effect(source)
    tokens: list[str] = []
    f_strings: list[tuple[int, int]] = []  # where those begin that have not ended yet
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        while left_out and left_out[0][1] <= token.start:
            left_out.pop(0)
        # where a block ends before a lone string, its end begins where the string does
        inside = left_out and left_out[0][0] <= token.start and kind not in ("INDENT", "DEDENT")
        if inside or kind in ("COMMENT", "NL", "ENDMARKER"):
            continue
        if kind in ("FSTRING_START", "TSTRING_START"):
            f_strings.append(token.start)
        elif kind in ("FSTRING_END", "TSTRING_END"):
            start = f_strings.pop()
            if not f_strings:
                tokens.append(_text(lines, start, token.end))
        elif not f_strings:
            _add(tokens, {"NEWLINE": _LINE, "INDENT": _INDENT, "DEDENT": _DEDENT}.get(kind, token.string))
    return tuple(tokens)


def _add(tokens: list[str], new: str) -> None:
    """Append a token, unless it ends a statement that was left out."""
    at_start = not tokens or tokens[-1] in (_LINE, _INDENT, _DEDENT, ";")
    if new == _LINE and tokens and tokens[-1] == ";":
        tokens[-1] = _LINE
    elif not (at_start and new in (_LINE, ";")):
        tokens.append(new)


def _without_effect(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Positions (line from 1, character from 0) of docstrings, other lone strings and imports: from, to."""
    lines = source.split("\n")

    def place(line: int, byte: int) -> tuple[int, int]:
        return line, len(lines[line - 1].encode()[:byte].decode())

    return sorted((place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset))
                  for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))
                  or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                      and isinstance(node.value.value, str)))


def _text(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The source between two positions."""
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return "\n".join([lines[first - 1][left:], *lines[first:last - 1], lines[last - 1][:right]])


class _LoadedFiles:
    """The files that modules were loaded from, and when each had been changed last."""

    def __init__(self) -> None:
        self._changed: dict[str, int] = {}

    def require_unchanged(self, module: ModuleType) -> None:
        """Remember a module's file when it is met first; raise EditedError if it has changed since."""
        file = getattr(module, "__file__", None)
        if file is None:
            return
        changed = Path(file).stat().st_mtime_ns
        if self._changed.setdefault(file, changed) != changed:
            raise EditedError(f"{Path(file).name} was edited after it was loaded: restart the kernel, or the old code "
                              f"runs")


_LOADED = _LoadedFiles()


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
    """Rename ``new`` to ``path``. Windows refuses while another process reads ``path``: for a second, try again."""
    for _ in range(20 if sys.platform == "win32" else 0):
        try:
            new.replace(path)
            return
        except PermissionError:
            time.sleep(0.05)
    new.replace(path)


def build_folder(target: Path, ready: Callable[[], bool], build: Callable[[Path], None]) -> None:
    """Make a folder as a whole or not at all, and only once however many processes of this machine ask for it.

    ``build`` fills a temporary folder beside ``target``, which is then renamed; whoever comes meanwhile waits. Machines
    that share a disk may both build; the first to rename wins.

    Args:
        ready: is it there already? Asked before and after waiting.

    Raises:
        OSError: no space or no right to write, or ``target`` holds something.
    """
    if ready():
        return
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = fingerprint([str(Path.home()), str(target)])[:16]  # of this user, and not among his files
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
    return tqdm(*args, **{"leave": False, "dynamic_ncols": True, "disable": wanted == "off", **kwargs})


def in_notebook() -> bool:
    """Does this code run in a Jupyter kernel?"""
    interpreter = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(interpreter, "kernel", None) is not None


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line above the progress bars that are on screen."""
    from tqdm.std import tqdm
    tqdm.write(line, file=stream)


def cores() -> int:
    """Cores that this process may use: fewer than the machine has where it shares them, e.g. on a cluster."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
