"""Take the fingerprint of the code of a run: an edit of what it does makes another run."""

from __future__ import annotations

import ast
import inspect
import io
import sys
import threading
import tokenize
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lib.config import Config
from lib.runtime.own_code import module_of, require_unchanged
from lib.utils import LIB, fingerprint

# threads that parse at once break each other before Python 3.11.8, 3.12.2 (gh-106905)
_ONE_PARSER = threading.Lock()


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


def source_fingerprint(*objects: Any) -> str:
    """Return the hex SHA-256 of the code of modules, classes or functions, in any order.

    Only the effect of the code counts, see ``code_tokens``, not the names of the modules. A class
    counts with what it uses of its module. What custom code imports from beside it counts as well,
    see ``_helpers``; and so do its imports, as another library may have something of the same name.

    Raises:
        EditedError: a file was edited after Python loaded it; the hash would be of code that does
            not run.
    """
    modules = {module for thing in objects if (module := inspect.getmodule(thing))}
    helpers: dict[str, Path] = {}
    for module in modules:
        helpers |= _helpers(module)
    for module in [*modules, *map(sys.modules.get, helpers)]:
        require_unchanged(module)
    counted = {getattr(thing, "__name__", "") for thing in objects if inspect.ismodule(thing)}
    code = []
    for thing in objects:
        imports = () if _is_of_the_kit(thing) else _import_tokens(_source_of_module(thing))
        code.append((*code_tokens(_source(thing)), *imports))
    for name, file in helpers.items():
        if name not in counted:
            code.append((*code_tokens(_read(file)), *_import_tokens(_read(file))))
    return fingerprint(sorted(code))


def _is_of_the_kit(thing: Any) -> bool:
    """Return whether code is in ``lib``, also where a module of it is run as a command."""
    file = getattr(inspect.getmodule(thing), "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(LIB)


def _source_of_module(thing: Any) -> str:
    """Return the source of the module that something is in."""
    return inspect.getsource(inspect.getmodule(thing) or thing)


def _source(thing: Any) -> str:
    """Return the source of a module or function, or of a class with what it uses of its module.

    That is functions, classes and constants at the top of the module, directly or not.
    """
    if not inspect.isclass(thing):
        return inspect.getsource(thing)
    text = _source_of_module(thing)
    top = {name: node for node in _parsed(text).body for name in _defined(node)}
    if thing.__name__ not in top:  # a class within a function
        return inspect.getsource(thing)
    waiting, used = [thing.__name__], dict[str, ast.stmt]()
    while waiting:
        name = waiting.pop()
        if name in top and name not in used:
            used[name] = top[name]
            waiting += [node.id for node in ast.walk(top[name]) if isinstance(node, ast.Name)]
    lines = text.split("\n")
    spans = sorted({(_first_line(node), node.end_lineno) for node in used.values()})
    return "\n".join("\n".join(lines[first - 1 : last]) for first, last in spans)


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [
        found.id
        for target in targets
        for found in ast.walk(target)
        if isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store)
    ]


def _first_line(node: ast.stmt) -> int:
    """Return the line where a statement begins, decorators included."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def _import_tokens(source: str) -> tuple[str, ...]:
    """Return what source imports, and under which names, in a fixed order."""
    found = set()
    for node in ast.walk(_parsed(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            origin = ""
            if isinstance(node, ast.ImportFrom):
                origin = f"from {'.' * node.level}{node.module or ''} "
            found |= {f"{origin}import {name.name} as {name.asname}" for name in node.names}
    return tuple(sorted(found))


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
