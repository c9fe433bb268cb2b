"""Read a table of people as other programs save it: roster and gradebook."""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from lib.notebook.course import read_course
from lib.utils import KitError

_SEPARATORS = "\t,;"  # if several fit, the first: names of columns have commas, but no tabs
ID_COLUMNS = (
    "studentid",
    "sisloginid",
    "sisuserid",
    "idnumber",
    "studentnumber",
    "matriculationnumber",
    "matrikelnummer",
    "学号",
    "username",
    "用户名",
    "student",  # after these: Canvas writes names below it, which may look like ids
    "id",
    "login",
    "loginid",
)
"""Headers of the ids in a roster as ``plain``, the likeliest first; an LMS names them so."""
_UTF16 = b"\xff\xfe", b"\xfe\xff"
_WINDOWS = {"zh-CN": "gb18030"}  # language of the course -> what a spreadsheet there writes
_WESTERN = "cp1252"  # in all other languages


class Sheet(NamedTuple):
    """Hold a table with how it was saved, so that it can be saved alike.

    Attributes:
        rows: of cells, the header first.
        encoding: utf-8, utf-8-sig, utf-16, cp1252, or gb18030.
        is_quoted: every cell is in quotation marks.
        line_end: of the first line.
    """

    rows: list[list[str]]
    encoding: str
    separator: str
    is_quoted: bool
    line_end: str

    def to_bytes(self) -> bytes:
        """Return the table as it was saved."""
        buffer = io.StringIO()
        writer = csv.writer(
            buffer,
            delimiter=self.separator,
            quoting=csv.QUOTE_ALL if self.is_quoted else csv.QUOTE_MINIMAL,
            lineterminator=self.line_end,
        )
        writer.writerows(self.rows)
        return buffer.getvalue().encode(self.encoding)


def plain(header: str) -> str:
    """Return what spellings of a header share: ``Student_ID`` is ``studentid``."""
    return "".join(filter(str.isalnum, header.casefold()))


def read_table(file: Path) -> list[list[str]]:
    """Return the rows of a CSV, the header first, without empty rows; see ``read_sheet``.

    Raises:
        KitError: it cannot be read.
    """
    return [row for row in read_sheet(file).rows if any(cell.strip() for cell in row)]


def read_sheet(file: Path) -> Sheet:
    """Read a table as a CSV of other programs.

    UTF-8 with a mark at the start or without, UTF-16 with a mark, or the encoding of Windows in the
    language of the course, as the bytes do not tell which. Separated by commas, semicolons or tabs;
    with the ends of lines of any system. A line that was saved as one cell is taken apart.

    Raises:
        KitError: it cannot be read.
    """
    try:
        text, encoding = _decoded(file.read_bytes())
        if "\0" in text:
            raise KitError(f"{file}: is no text; save it as CSV in UTF-8")
        hint = re.match(r"sep=([,;\t])(\r\n|\r|\n)", text)  # Excel reads and writes such a line
        text = text[hint.end() :] if hint else text
        separator = hint[1] if hint else _separator(text)
        rows = _rows(text, separator)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise KitError(
            f"{file}: cannot be read as CSV ({error}); save it as CSV in UTF-8"
        ) from None
    end = re.search(r"\r\n|\r|\n", text)
    return Sheet(rows, encoding, separator, text.startswith('"'), end[0] if end else "\n")


def _rows(text: str, separator: str) -> list[list[str]]:
    rows = _cells(text, separator)
    return [_unfolded(row, len(rows[0]), separator) for row in rows]


def _cells(text: str, separator: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))


def _unfolded(row: list[str], width: int, separator: str) -> list[str]:
    """Return a row of which a spreadsheet that expects another separator has made one cell."""
    if len(row) != 1:
        return row
    try:
        rows = _cells(row[0], separator)
    except csv.Error:
        return row
    return rows[0] if [len(inside) for inside in rows] == [width] else row


def _separator(text: str) -> str:
    """Return what separates the cells of the first line; the comma, if nothing does."""

    def columns(separator: str) -> int:
        reader = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=separator)
        return len(next(reader, []))

    likeliest = max(_SEPARATORS, key=columns)
    return likeliest if columns(likeliest) > 1 else ","


def _decoded(raw: bytes) -> tuple[str, str]:
    """Return the text of a file, and its encoding, by the mark at its start or what fits."""
    if raw[:2] in _UTF16:
        return raw.decode("utf-16"), "utf-16"
    has_mark = raw.startswith(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8-sig"), "utf-8-sig" if has_mark else "utf-8"
    except UnicodeDecodeError:
        if has_mark:  # it says that it is UTF-8: it was damaged
            raise
        own = _WINDOWS.get(read_course().language, _WESTERN)
        return raw.decode(own), own
