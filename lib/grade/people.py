"""Read a table of people as other programs save it: roster and gradebook."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path

from lib.utils import KitError

_SEPARATORS = "\t,;"  # if several fit, the first: names of columns have commas, but no tabs
_UTF16 = b"\xff\xfe", b"\xfe\xff"


def read_table(file: Path) -> list[list[str]]:
    """Return the rows of a CSV, the header first, without empty rows.

    UTF-8 with a mark at the start or without, UTF-16 with a mark, or the encoding of Windows;
    separated by commas, semicolons or tabs; with the ends of lines of any system.

    Raises:
        KitError: it cannot be read.
    """
    try:
        text = _decoded(file.read_bytes())
        if "\0" in text:
            raise KitError(f"{file}: is no text; save it as CSV in UTF-8")
        hint = re.match(r"sep=([,;\t])(\r\n|\r|\n)", text)  # Excel reads and writes such a line
        text = text[hint.end() :] if hint else text
        rows = _rows(text, hint[1] if hint else _separator(text))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise KitError(
            f"{file}: cannot be read as CSV ({error}); save it as CSV in UTF-8"
        ) from None
    return [row for row in rows if any(cell.strip() for cell in row)]


def _rows(text: str, separator: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))


def _separator(text: str) -> str:
    """Return what separates the cells of the first line; the comma, if nothing does."""

    def columns(separator: str) -> int:
        reader = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=separator)
        return len(next(reader, []))

    likeliest = max(_SEPARATORS, key=columns)
    return likeliest if columns(likeliest) > 1 else ","


def _decoded(raw: bytes) -> str:
    """Return the text of a file, by the mark at its start or the encoding that fits."""
    if raw[:2] in _UTF16:
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        if raw.startswith(codecs.BOM_UTF8):  # it says that it is UTF-8: it was damaged
            raise
        return raw.decode("cp1252")  # a spreadsheet on Windows may write its own encoding
