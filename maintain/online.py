"""Let README and notebooks open on Colab and Kaggle: ``python -m maintain.online ADDRESS``.

ADDRESS is where the repository is published, ``https://github.com/OWNER/NAME``. Both pages get
badges, and the first cell of each notebook fetches the kit there; elsewhere it does as before.
Another address replaces the former one. The student edition has its own, ``repository`` in
``course.toml``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.notebook.course import REPOSITORY
from lib.runtime import CommandParser, run_command
from lib.utils import PROJECT, KitError, visible_files, write_atomic
from maintain.answers import as_file

PAGES = "README*.md"
WORKFLOW = Path(".github/workflows/ci.yml")
_FETCH = """\
import os
import sys

on_colab, on_kaggle = "google.colab" in sys.modules, "KAGGLE_KERNEL_RUN_TYPE" in os.environ
if on_colab or on_kaggle:
    place = "/content/kit" if on_colab else "/kaggle/working/kit"
    !test -d {{place}} || git clone -q {address} {{place}}
    %cd {{place}}
    %pip install -q anywidget mistune tifffile"""
_FETCHING = re.compile(r"import os\nimport sys\n\non_colab, .*?tifffile\n\n", re.DOTALL)
_COLAB = (
    "[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{name}/blob/main/{notebook})"
)
_KAGGLE = (
    "[![Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
    "(https://kaggle.com/kernels/welcome?src={address}/blob/main/{notebook})"
)
_TESTS = "[![Tests]({address}/actions/workflows/ci.yml/badge.svg)]({address}/actions)"
_BADGE = re.compile(r" ?\[!\[(?:Colab|Kaggle|Tests)\]\([^)]*\)\]\([^)]*\)")
_ROW = re.compile(r"^\| \[`\w+`\]\((\w+\.ipynb)\)", re.MULTILINE)  # of the table of notebooks
_CLONE = re.compile(r"(?<=git clone -q )(?:<[^>]+>|\S+)(?= )")
_PUBLISHED = re.compile(r"(?<=git clone -q )https:\S+(?= )")
_LANGUAGES = re.compile(r"^\[[^]]+\]\(README[^)]*\)", re.MULTILINE)  # the line under the title


def with_badges(page: str, address: str, tests: bool = False) -> str:
    """Return a README with the badges of its notebooks, and that of the tests if there are any.

    Without an address it has none, and names no repository.

    Raises:
        KitError: the page has no place for one of them.
    """
    plain = _BADGE.sub("", page)
    if not address:
        return _PUBLISHED.sub("<repository>", plain)
    name = address.removeprefix("https://github.com/")

    def badges(row: re.Match[str]) -> str:
        both = f"{_COLAB} {_KAGGLE}".format(name=name, address=address, notebook=row[1])
        return f"{row[0]} {both}"

    places = [(_ROW, badges), (_CLONE, address)]
    if tests:
        places.append((_LANGUAGES, rf"\g<0> {_TESTS.format(address=address)}"))
    for pattern, new in places:
        plain, found = pattern.subn(new, plain)
        if not found:
            raise KitError(f"README: has no line like {pattern.pattern!r}; restore it")
    return plain


def with_fetching(notebook: Mapping[str, Any], address: str) -> dict[str, Any]:
    """Return a notebook whose first cell of code fetches the kit on Colab and Kaggle.

    Without an address it fetches nothing.
    """
    cells = list(notebook["cells"])
    code = (place for place, cell in enumerate(cells) if cell["cell_type"] == "code")
    if (first := next(code, None)) is None:
        return dict(notebook)
    source = _FETCHING.sub("", "".join(cells[first]["source"]))
    if address:
        source = f"{_FETCH.format(address=address)}\n\n{source}"
    cells[first] = {**cells[first], "source": source.splitlines(True)}
    return {**notebook, "cells": cells}


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m maintain.online", description="Let README and notebooks open online."
    )
    parser.add_argument("address", help="https://github.com/OWNER/NAME")
    address = parser.parse_args().address
    if not REPOSITORY.fullmatch(address):
        raise KitError(f"{address}: must be like https://github.com/OWNER/NAME")
    for file in visible_files(PROJECT, PAGES):
        page = file.read_text(encoding="utf-8")
        write_atomic(file, with_badges(page, address, (PROJECT / WORKFLOW).is_file()))
        print(file.name)
    for file in visible_files(PROJECT, "*.ipynb"):
        notebook = with_fetching(json.loads(file.read_text(encoding="utf-8")), address)
        write_atomic(file, as_file(notebook))
        print(file.name)


if __name__ == "__main__":
    run_command(main)
