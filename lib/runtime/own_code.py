"""Load custom classes, and take the fingerprint of the code of a run."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import sys
import threading
import tokenize
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from lib.config import Config
from lib.utils import LIB, EditedError, KitError, fingerprint, see

T = TypeVar("T")
# threads that parse at once break each other before Python 3.11.8, 3.12.2 (gh-106905)
_ONE_PARSER = threading.Lock()
_REFUSED = ContextVar("custom code is refused", default=False)


def load_class(spec: str, base: type[T]) -> type[T]:
    """Return the custom class ``"module:Class"``; importing it runs its module's code.

    Raises:
        KitError: no such module or class, or it is not derived from ``base``.
    """
    found = load_custom(spec)
    if not (isinstance(found, type) and issubclass(found, base)):
        package = ".".join(base.__module__.split(".")[:2])  # torch.nn, not torch.nn.modules.module
        wanted = f"{package}.{base.__name__}"
        raise KitError(f"{spec}: is not a class derived from {wanted}; derive it from that")
    return found


def load_function(spec: str) -> Callable[..., Any]:
    """Return the custom function ``"module:function"``; importing it runs its module's code.

    Raises:
        KitError: no such module, or nothing of that name that can be called.
    """
    found = load_custom(spec)
    if isinstance(found, type) or not callable(found):
        raise KitError(f"{spec}: is no function; name one")
    return found


@contextmanager
def without_custom_code() -> Iterator[None]:
    """Refuse custom code for a while: a file of somebody else must not choose which code runs."""
    before = _REFUSED.set(True)
    try:
        yield
    finally:
        _REFUSED.reset(before)


def load_custom(spec: str) -> Any:
    """Return what ``"module:name"`` names.

    Raises:
        KitError: there is no such thing, or it must not be loaded here.
    """
    module, _, name = spec.partition(":")
    if _REFUSED.get():
        raise KitError(f"{spec}: code of others is not run here")
    if module == "__main__":
        raise KitError(
            f"{spec}: what is in a cell is gone with the kernel; move it into a file beside the "
            f"notebooks, e.g. my_module.py, and name it my_module:{name}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise KitError(
            f"{spec}: cannot be loaded ({error}); expected module:name, importable from here; "
            f"{see('extending', 'From another folder')}"
        ) from None
    except SystemExit:  # a script that ends itself would end the sweep
        raise KitError(
            f"{spec}: its module ends Python while it is imported; put what it runs below if "
            f"__name__ == '__main__'"
        ) from None
    _LOADED.require_unchanged(inspect.getmodule(found))
    return found


def source_fingerprint(*objects: Any) -> str:
    """Return the hex SHA-256 of the code of modules, classes or functions, in any order.

    Only the effect of the code counts, see ``code_tokens``, not the names of the modules. What
    custom code imports from beside it counts as well, see ``_helpers``.

    Raises:
        EditedError: a file was edited after Python loaded it; the hash would be of code that does
            not run.
    """
    modules = {module for thing in objects if (module := inspect.getmodule(thing))}
    helpers: dict[str, Path] = {}
    for module in modules:
        helpers |= _helpers(module)
    for module in [*modules, *map(sys.modules.get, helpers)]:
        _LOADED.require_unchanged(module)
    counted = {getattr(thing, "__name__", "") for thing in objects if inspect.ismodule(thing)}
    sources = [inspect.getsource(thing) for thing in objects]
    sources += [_read(file) for name, file in helpers.items() if name not in counted]
    return fingerprint(sorted(code_tokens(source) for source in sources))


def _read(file: Path) -> str:
    """Return the source of a module, in the encoding that it names."""
    with tokenize.open(file) as opened:
        return opened.read()


def _helpers(module: ModuleType) -> dict[str, Path]:
    """Return name -> file of what a custom module imports from beside it, directly or not.

    That is the rest of its package, and modules in the same folder. The kit and what pip installed
    do not count. Nothing is imported: all processes find the same, whatever they have loaded.
    """
    name, file = module.__name__, getattr(module, "__file__", None)
    above = name.count(".") + hasattr(module, "__path__")  # folders between it and its root
    if not file or len(Path(file).parents) <= above:
        return {}
    root = Path(file).resolve().parents[above]
    installed = root.name in ("site-packages", "dist-packages")
    if installed or name.partition(".")[0] in {LIB.name, *sys.stdlib_module_names}:
        return {}
    found: dict[str, Path] = {}
    waiting = [(module.__package__ or "", Path(file))]
    while waiting:
        package, place = waiting.pop()
        for imported in _imported(_read(place), package):
            path = root.joinpath(*imported.split("."))
            if imported in found or path.is_relative_to(LIB):
                continue
            if path.with_suffix(".py").is_file():
                found[imported] = path.with_suffix(".py")
                waiting.append((imported.rpartition(".")[0], found[imported]))
            elif (path / "__init__.py").is_file():
                found[imported] = path / "__init__.py"
                waiting.append((imported, found[imported]))
    return found


def _imported(source: str, package: str) -> set[str]:
    """Return what source may import: modules, and names in them that may be modules.

    Args:
        package: that the source is in, where relative imports begin.
    """
    names = set()
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def code_fingerprint(
    config: Config, network: nn.Module, objective: nn.Module, sources: Sequence[ModuleType]
) -> str:
    """Return the hex SHA-256 of the code that a run uses.

    Another loss or network in the kit does not change it. Of a network the whole modules of its
    classes count; of a loss its classes, as ``lib.loss`` contains all of them. Of all else that is
    custom the whole modules count.

    Args:
        config: of the run.
        network: of ``build_model``.
        objective: of ``build_objective``.
        sources: the modules that every run uses, ``lib.train.SOURCES``.

    Raises:
        EditedError: see ``source_fingerprint``.
    """
    modules = {inspect.getmodule(cls) for cls in _own_classes(network)}
    losses = {
        cls if cls.__module__.startswith("lib.") else inspect.getmodule(cls)
        for cls in _own_classes(objective)
    }
    custom = {module_of(spec) for spec in config.custom.values()}
    return source_fingerprint(*modules.union(losses, custom, sources))


def module_of(spec: str) -> ModuleType:
    """Return the module that contains the code which ``"module:name"`` names."""
    module = inspect.getmodule(load_custom(spec)) or sys.modules[spec.partition(":")[0]]
    try:
        inspect.getsource(module)
    except (OSError, TypeError):
        raise KitError(
            f"{spec}: has no Python source, so that a run could not tell when it changes; call it "
            f"from a function of your own"
        ) from None
    return module


def _own_classes(module: nn.Module) -> set[type]:
    """Return the classes of a module and its parts, without those of torch."""
    classes = {
        base for part in module.modules() for base in type(part).__mro__ if base is not object
    }
    return {cls for cls in classes if cls.__module__.split(".")[0] != "torch"}


_LINE, _INDENT, _DEDENT = "\n", "\n>", "\n<"  # marks among the tokens; no token of Python reads so


@cache  # a sweep asks for the same sources again and again
def code_tokens(source: str) -> tuple[str, ...]:
    """Return the tokens that decide what Python source does, the same on Python 3.11 to 3.14.

    Comments, docstrings, imports, blank space, line ends and the width of an indentation are left
    out; ends of statements and the beginnings and ends of blocks are kept as marks. An f-string
    counts as its text: from Python 3.12 on ``tokenize`` takes it apart.
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
            _add(
                tokens,
                {"NEWLINE": _LINE, "INDENT": _INDENT, "DEDENT": _DEDENT}.get(kind, token.string),
            )
    return tuple(tokens)


def _add(tokens: list[str], new: str) -> None:
    """Append a token, unless it ends a statement that was left out."""
    at_start = not tokens or tokens[-1] in (_LINE, _INDENT, _DEDENT, ";")
    if new == _LINE and tokens and tokens[-1] == ";":
        tokens[-1] = _LINE
    elif not (at_start and new in (_LINE, ";")):
        tokens.append(new)


def _without_effect(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return start and end of docstrings, other lone strings and imports.

    Lines count from 1, characters from 0.
    """
    lines = source.split("\n")

    def place(line: int, byte: int) -> tuple[int, int]:
        return line, len(lines[line - 1].encode()[:byte].decode())

    return sorted(
        (
            place(node.lineno, node.col_offset),
            place(node.end_lineno or node.lineno, node.end_col_offset or 0),
        )
        for node in ast.walk(_parsed(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        or (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
    )


def _parsed(source: str) -> ast.Module:
    """Return the tree of source, also where several threads want one."""
    with _ONE_PARSER:
        return ast.parse(source)


def _text(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the source between two positions."""
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return "\n".join([lines[first - 1][left:], *lines[first : last - 1], lines[last - 1][:right]])


class _LoadedFiles:
    """The files that modules were loaded from, and when each had been changed last."""

    def __init__(self) -> None:
        self._changed: dict[str, int] = {}

    def require_unchanged(self, module: ModuleType | None) -> None:
        """Remember a module's file at first, raise EditedError if it has changed since."""
        file = getattr(module, "__file__", None)
        if file is None:
            return
        changed = Path(file).stat().st_mtime_ns
        if self._changed.setdefault(file, changed) != changed:
            raise EditedError(
                f"{Path(file).name} was edited after it was loaded; restart the kernel, or the old "
                f"code runs"
            )


_LOADED = _LoadedFiles()
