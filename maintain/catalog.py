"""Read catalogs: what a notebook, or the model answers, say in another language.

``maintain/<language>/<name>.md`` has a heading per cell: its id, and a hash of the English that the
text below was written for. So one language cannot move on without the other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from lib.utils import KitError, fingerprint

_HEADING = re.compile(r"^## ([\w-]+) · ([0-9a-f]{8})$", re.MULTILINE)


class Translation(NamedTuple):
    """Hold a text, and the hash of the English that it was written for."""

    english: str
    text: str

    def fits(self, text: str) -> bool:
        """Return whether a text is that English, or this translation of it."""
        return text_hash(text) in (self.english, text_hash(self.text))


def catalog_file(language: str, name: str) -> Path:
    """Return the file of a catalog."""
    return Path(__file__).parent / language / f"{name}.md"


def text_hash(text: str) -> str:
    """Return what a heading keeps of an English text, however it is wrapped."""
    return fingerprint(text.split())[:8]


def read_catalog(language: str, name: str) -> dict[str, Translation]:
    """Return id of a cell -> its text in a language.

    Raises:
        KitError: a cell is in it twice.
    """
    file = catalog_file(language, name)
    _, *parts = _HEADING.split(file.read_text(encoding="utf-8"))
    found: dict[str, Translation] = {}
    for cell, english, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if cell in found:
            raise KitError(f"{language}/{file.name}: {cell} is there twice; take one out")
        found[cell] = Translation(english, text.strip())
    return found
