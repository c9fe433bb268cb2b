"""Read the cells of a notebook as data, and find what a student wrote into those that ask.

Notebooks of strangers are read too: whatever is in one, a cell has texts, or is left out.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from lib.notebook.solutions import without_solutions
from lib.utils import KitError, fingerprint


class Phrases(NamedTuple):
    """Hold what the kit writes into the cells of a notebook, in one language.

    Attributes:
        asks: the beginning of the remark by which a Markdown cell asks for an answer.
        in_text: placeholder of a solution in a Markdown cell.
        in_code: placeholder of a solution in a cell of code.
        model_answer: the first words of a model answer.
    """

    asks: str
    in_text: str
    in_code: str
    model_answer: str


ENGLISH = "en"
PHRASES = {
    ENGLISH: Phrases("*(Double-click and write", "*Your turn*", "# YOUR TURN", "*Model answer.*"),
    "zh-CN": Phrases("*(双击本单元格作答", "*轮到你了，请写在这里*", "# 轮到你了", "*参考答案。*"),
}
"""Language -> phrases. A notebook is read whatever its language is."""
_ANY_ASKS = "|".join(re.escape(one.asks) for one in PHRASES.values())
ASKS = re.compile(rf"(?:{_ANY_ASKS})(?:[^)]*\)\*)?")
"""The remark by which a Markdown cell asks for an answer."""
PLACEHOLDERS = (*(one.in_text for one in PHRASES.values()), "YOUR ANSWER HERE")  # nbgrader's
QUESTION, PLAN = "question", "plan"  # in the metadata of a cell that asks, see ``Cell``
MAX_CELLS, MAX_NOTEBOOK = 5_000, 32 * 2**20  # bytes: pictures are in it
_MAX_CELL = 100_000  # letters that are looked at


class Cell(NamedTuple):
    """Hold a cell of a notebook.

    Attributes:
        id: unique in its notebook; "" in old formats.
        asked: hash of the question as it was given out; "" if the cell asks for no answer.
        plan: what the question is about; "" for no plan in particular.
        was_run: it is code that was run, and saved so.
    """

    id: str
    kind: str
    text: str
    asked: str = ""
    plan: str = ""
    was_run: bool = False

    @property
    def is_answered(self) -> bool:
        """Return whether it asks for an answer, and is not as it was given out."""
        return self.asked not in ("", question_hash(self.text))


def read_notebook(file: Path) -> list[Cell]:
    """Return the cells of a notebook.

    What is no cell is left out, and long texts are cut.

    Raises:
        KitError: the file is missing, too large, no JSON, or has no cells.
    """
    if not file.is_file():
        raise KitError(f"{file.name} is missing; restore it")
    if file.stat().st_size > MAX_NOTEBOOK:
        raise KitError(
            f"{file.name}: larger than {MAX_NOTEBOOK >> 20} MiB; clear large outputs and save it"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        raise KitError(f"{file.name}: is no notebook; save it in Jupyter again") from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list):
        raise KitError(f"{file.name}: has no cells; save it in Jupyter again")
    return [_cell(cell) for cell in cells[:MAX_CELLS] if isinstance(cell, dict)]


def _cell(cell: dict[str, object]) -> Cell:
    """Return a cell of a notebook; empty texts replace what is of another kind."""
    source, metadata = cell.get("source"), cell.get("metadata")
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    known = metadata if isinstance(metadata, dict) else {}
    return Cell(
        _text(cell.get("id")),
        _text(cell.get("cell_type")),
        _text(source)[:_MAX_CELL],
        _text(known.get(QUESTION)),
        _text(known.get(PLAN)),
        cell.get("execution_count") is not None,
    )


def _text(value: object) -> str:
    """Return a text that can be written as UTF-8: lone surrogates become their escapes."""
    text = value if isinstance(value, str) else ""
    return text.encode("utf-8", "backslashreplace").decode()


def as_given_out(text: str) -> str:
    """Return a text without solutions; as it is, if its delimiters are not in pairs."""
    try:
        return without_solutions(text, PHRASES[ENGLISH].in_text)
    except KitError:
        return text


def question_hash(text: str) -> str:
    """Return what the metadata of a cell that asks keep of it.

    It is the same with the model answer, and with the placeholder that any edition has instead.
    """
    lines = (line.rstrip() for line in as_given_out(text).splitlines())
    return fingerprint([line for line in lines if line and line not in PLACEHOLDERS])[:12]
