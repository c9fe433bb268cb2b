"""Read a table of people as other programs save it: roster and gradebook."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lib.utils import KitError

_SEPARATORS, _UTF16 = ",;\t", (b"\xff\xfe", b"\xfe\xff")


def read_table(file: Path) -> list[list[str]]:
    """Return the rows of a CSV, the header first, without empty rows.

    UTF-8 with a mark at the start or without, UTF-16 with a mark, or the encoding of Windows;
    separated by commas, semicolons or tabs; with the ends of lines of any system.

    Raises:
        KitError: it cannot be read.
    """
    try:
        raw = file.read_bytes()
        if b"\0" in raw and raw[:2] not in _UTF16:
            raise KitError(f"{file}: is no text; save it as CSV in UTF-8")
        text = _decoded(raw)
        header = text.lstrip().partition("\n")[0]
        separator = max(_SEPARATORS, key=header.count)  # the comma, if there is none of them
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise KitError(
            f"{file}: cannot be read as CSV ({error}); save it as CSV in UTF-8"
        ) from None
    return [row for row in rows if any(cell.strip() for cell in row)]


def _decoded(raw: bytes) -> str:
    """Return the text of a file, by the mark at its start or the encoding that fits."""
    if raw[:2] in _UTF16:
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # a spreadsheet on Windows may write its own encoding
        return raw.decode("cp1252", errors="replace")
