"""Put notebooks and exercises into another language: ``python -m maintain.language zh-CN``.

It replaces the text of the Markdown cells, the comments in code, the docstrings of the exercises
and the model answers by those of the catalogs in ``maintain/<language>``, and sets ``language`` in
``course.toml``. Code and outputs stay, and so does a text whose English is no longer the kit's. The
student edition that is made afterwards is in that language.
"""

from __future__ import annotations

import ast
import io
import json
import re
import textwrap
import tokenize
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lib.notebook.cells import ENGLISH, PHRASES, read_notebook
from lib.notebook.course import FILE
from lib.runtime import CommandParser, run_command
from lib.utils import PROJECT, KitError, visible_files, write_atomic
from maintain.answers import (
    TEXTS,
    ModelAnswer,
    answers,
    as_file,
    templates,
    with_answer,
    without_answer,
)
from maintain.catalog import Translation, catalog_file, read_catalog, text_hash

COMMENTS = "comments"  # its headings are the English comments
EXERCISES = "exercises.py"
MODULE = "module"  # heading of the docstring of the file
_COMMENT = re.compile(r"(?:### BEGIN SOLUTION: |#+ (?!BEGIN |END ))(.+)")
_COMMENT_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_NUMBER = re.compile(r"\{[^}]+\}")
_AFTERWARDS = """\
Outputs stay as they are; make notebooks runs the notebooks anew.
Back to English: git checkout -- '*.ipynb' exercises.py (what is not committed in them is lost),
and language = "en" in course.toml."""
_LANGUAGE = re.compile(r"^[ \t]*language[ \t]*=.*$", re.MULTILINE)


def notebooks(language: str, folder: Path = PROJECT) -> list[Path]:
    """Return the notebooks that a language has a catalog for."""
    files = visible_files(folder, "*.ipynb")
    return [file for file in files if catalog_file(language, file.stem).is_file()]


# --- translating ----------------------------------------------------------------------------------


def translated(
    notebook: Mapping[str, Any],
    texts: Mapping[str, Translation],
    comments: Mapping[str, str],
    found: Mapping[str, ModelAnswer],
    language: str,
) -> tuple[dict[str, Any], list[str]]:
    """Return a notebook in a language, and the ids of the Markdown cells that stay as they are.

    Args:
        texts: id of a cell -> its text in that language.
        comments: English comment -> its translation.
        found: id of a cell that asks -> its model answer in that language.
    """
    cells, kept = [], []
    for cell in notebook["cells"]:
        source, name = "".join(cell["source"]), cell.get("id", "")
        if cell["cell_type"] == "code":
            cells.append(_with_source(cell, with_comments(source, comments)))
        elif name not in texts or not texts[name].fits(without_answer(source)):
            kept.append(name)
            cells.append(cell)
        else:
            new = _with_source(cell, texts[name].text)
            cells.append(with_answer(new, found[name], language) if name in found else new)
    return {**notebook, "cells": cells}, kept


def _with_source(cell: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a cell with another source."""
    return {**cell, "source": source.splitlines(True)}


def comments_in(code: str) -> list[tokenize.TokenInfo]:
    """Return the comments in code that can be translated: no delimiter of a region."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [
        token
        for token in tokens
        if token.type == tokenize.COMMENT and _COMMENT.fullmatch(token.string)
    ]


def comment_text(token: tokenize.TokenInfo) -> str:
    """Return the words of a comment, or the sentence of a solution."""
    return _COMMENT.sub(r"\1", token.string)


def with_comments(code: str, comments: Mapping[str, str]) -> str:
    """Return code with its comments translated; those that are unknown stay."""
    lines = code.splitlines(True)
    for token in comments_in(code):
        (row, start), (_, end), words = token.start, token.end, comment_text(token)
        begin = token.string.removesuffix(words)
        line = lines[row - 1]
        lines[row - 1] = f"{line[:start]}{begin}{comments.get(words, words)}{line[end:]}"
    return "".join(lines)


def docstrings_in(code: str) -> dict[str, tuple[ast.Constant, str]]:
    """Return name -> node and text of each docstring, from the first to the last.

    The name of a method is that of its class, a hyphen, and its own.
    """
    parts: list[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef]] = [
        (MODULE, ast.parse(code))
    ]
    found: dict[str, tuple[ast.Constant, str]] = {}
    while parts:
        name, part = parts.pop(0)
        text = ast.get_docstring(part)
        first = part.body[0]
        if text and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            found[name] = (first.value, text)
        if not isinstance(part, ast.FunctionDef):
            prefix = "" if name == MODULE else f"{name}-"
            parts += [
                (f"{prefix}{inner.name}", inner)
                for inner in part.body
                if isinstance(inner, (ast.ClassDef, ast.FunctionDef))
            ]
    return found


def with_docstrings(code: str, texts: Mapping[str, Translation]) -> tuple[str, list[str]]:
    """Return code with its docstrings translated, and the names of those that stay."""
    lines, kept = code.splitlines(True), []
    found = docstrings_in(code)
    for name, (node, text) in sorted(found.items(), key=lambda one: -one[1][0].lineno):
        if name not in texts or not texts[name].fits(text):
            kept.append(name)
            continue
        end = node.end_lineno or node.lineno
        closing = "\n" if "\n" in texts[name].text else ""
        new = f'"""{texts[name].text}{closing}"""\n'
        lines[node.lineno - 1 : end] = [textwrap.indent(new, " " * node.col_offset)]
    return "".join(lines), kept[::-1]


def read_comments(language: str) -> dict[str, str]:
    """Return English comment -> its translation."""
    _, *parts = _COMMENT_HEADING.split(catalog_file(language, COMMENTS).read_text(encoding="utf-8"))
    return {english: text.strip() for english, text in zip(parts[::2], parts[1::2], strict=True)}


def with_language(course: str, language: str) -> str:
    """Return the text of ``course.toml`` with a language.

    Raises:
        KitError: it would be no TOML then.
    """
    line = f'language = "{language}"'
    new = _LANGUAGE.sub(line, course)
    if not _LANGUAGE.search(course):
        new = f"{course.rstrip()}\n\n{line}\n"
    try:
        tomllib.loads(new)
    except tomllib.TOMLDecodeError as error:
        raise KitError(f"{FILE.name}: {error}; correct it") from None
    return new


def translate(language: str, folder: Path = PROJECT) -> Iterator[str]:
    """Translate notebooks and exercises of a folder in place; yield a line for each."""
    found, comments = answers(language), read_comments(language)
    for file in notebooks(language, folder):
        texts = read_catalog(language, file.stem)
        notebook = json.loads(file.read_text(encoding="utf-8"))
        changed, kept = translated(notebook, texts, comments, found, language)
        write_atomic(file, as_file(changed))
        yield f"{file.name}: {language}{_staying(kept)}"
    exercises = folder / EXERCISES
    if exercises.is_file():
        texts = read_catalog(language, exercises.stem)
        code, kept = with_docstrings(exercises.read_text(encoding="utf-8"), texts)
        write_atomic(exercises, with_comments(code, comments))
        yield f"{exercises.name}: {language}{_staying(kept)}"
    course = folder / FILE.name
    text = course.read_text(encoding="utf-8-sig") if course.is_file() else ""
    write_atomic(course, with_language(text, language))
    yield f'{course.name}: language = "{language}"'


def _staying(kept: list[str]) -> str:
    """Return what a line says of texts that stay as they are."""
    names = ", ".join(kept)
    return f"; as they are, since the catalog has other English: {names}" if kept else ""


# --- checking -------------------------------------------------------------------------------------


def problems(language: str, folder: Path = PROJECT) -> Iterator[str]:
    """Yield what a language lacks, has too much of, or has for an English that moved on."""
    comments: set[str] = set()
    ids: set[str] = set()
    for file in notebooks(language, folder):
        cells = read_notebook(file)
        texts = {cell.id: without_answer(cell.text) for cell in cells if cell.kind == "markdown"}
        yield from _differences(language, file.stem, texts)
        ids |= set(texts)
        comments |= {
            comment_text(token)
            for cell in cells
            if cell.kind == "code"
            for token in comments_in(cell.text)
        }
    exercises = folder / EXERCISES
    if exercises.is_file():
        code = exercises.read_text(encoding="utf-8")
        docstrings = {name: text for name, (_, text) in docstrings_in(code).items()}
        yield from _differences(language, exercises.stem, docstrings)
        comments |= {comment_text(token) for token in comments_in(code)}
    known = read_comments(language)
    for one in sorted(comments - {*known, *known.values()}):
        yield f"{language}/{COMMENTS}.md: add ## {one}"
    for english, text in known.items():
        if not {english, text} & comments:
            yield f"{language}/{COMMENTS}.md: take out ## {english}"
    asked = {cell: answer.text for cell, answer in templates().items() if cell in ids}
    yield from _differences(language, TEXTS.stem, asked)
    yield from _other_numbers(language)


def _differences(language: str, name: str, english: Mapping[str, str]) -> Iterator[str]:
    """Yield how a catalog differs from the English texts."""
    catalog = read_catalog(language, name)
    for cell, text in english.items():
        heading = f"## {cell} · {text_hash(text)}"
        if cell not in catalog:
            yield f"{language}/{name}.md: add {heading}"
        elif not catalog[cell].fits(text):
            yield f"{language}/{name}.md: the English has moved on, bring up to date {heading}"
    for cell in catalog:
        if cell not in english:
            yield f"{language}/{name}.md: take out ## {cell}"


def _other_numbers(language: str) -> Iterator[str]:
    """Yield the model answers that have other numbers than the English."""
    english = templates()
    for cell, answer in templates(language).items():
        here, there = (set(_NUMBER.findall(one.text)) for one in (answer, english[cell]))
        if here != there:
            yield f"{language}/{TEXTS.name}: {cell} differs in {', '.join(sorted(here ^ there))}"


# --- command line ---------------------------------------------------------------------------------


def main() -> None:
    """Run the command line."""
    languages = [language for language in PHRASES if language != ENGLISH]
    parser = CommandParser(
        prog="python -m maintain.language",
        description="Put notebooks and exercises into another language.",
    )
    parser.add_argument("language", choices=languages)
    parser.add_argument(
        "--check", action="store_true", help="say only which texts are missing or out of date"
    )
    arguments = parser.parse_args()
    if arguments.check:
        found = list(problems(arguments.language))
        print("\n".join(found) or f"{arguments.language}: up to date")
        raise SystemExit(1 if found else 0)
    for line in translate(arguments.language):
        print(line)
    print(_AFTERWARDS)


if __name__ == "__main__":
    run_command(main)
