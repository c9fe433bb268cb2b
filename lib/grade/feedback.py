"""Write what students see: a page each, and a leaderboard without names."""

from __future__ import annotations

import csv
import hmac
import io
import math
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.config import REFERENCE
from lib.grade.gradebook import COMMENT, Book, Cells, amount, dsc_points, is_listed
from lib.grade.rubric import Rubric
from lib.grade.standings import Standing
from lib.notebook.student import shortened
from lib.runtime.own_files import OwnFiles
from lib.utils import KitError, fingerprint, write_atomic

FOLDER, LEADERBOARD = "feedback", "leaderboard.html"
KEY, NAMES = "pseudonyms.key", "pseudonyms.csv"
_COLOURS = (
    "amber",
    "azure",
    "coral",
    "crimson",
    "golden",
    "indigo",
    "ivory",
    "jade",
    "lilac",
    "ochre",
    "olive",
    "pearl",
    "ruby",
    "silver",
    "teal",
    "violet",
)
_ANIMALS = (
    "badger",
    "crane",
    "dolphin",
    "falcon",
    "gecko",
    "heron",
    "ibex",
    "jackal",
    "lynx",
    "marten",
    "newt",
    "otter",
    "puffin",
    "raven",
    "stoat",
    "weasel",
)
_DEVICE = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)\.", re.IGNORECASE)
_MAX_NAME = 80  # bytes of an id in the name of a page; the hash behind it tells pages apart
LEVEL_WORDS = {
    "fault": "no points until the instructor has looked",
    "review": "the instructor should look",
    "note": "for information",
}

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page_name(standing: Standing, folder: str = FOLDER) -> str:
    """Return the path of a submission's page, below the folder of the gradebook.

    Every system can write it: Windows takes ``aux.x`` for a device, and the ids of a team may be
    longer than a name can be.
    """
    result = standing.result
    name = shortened(_DEVICE.sub(r"\1_", result.student), _MAX_NAME)
    return f"{folder}/{name}-{fingerprint([result.student, result.submission])[:6]}.html"


def write_page(
    folder: Path, standing: Standing, filled: Cells, total: float, rubric: Rubric, pages: OwnFiles
) -> None:
    """Write the page of a submission; it names no other student.

    Args:
        folder: of the gradebook.
        filled: the instructor's cells.
        total: points so far.
        pages: the folder of the pages.
    """
    result = standing.result
    recipe = {
        name: value
        for name, value in result.recipe.items()
        if value != REFERENCE.to_dict().get(name)
    }
    values = {
        "baseline": rubric.baseline,
        "target": rubric.scale[-1][0],
        "claimed": result.claimed,
        "perturbed": result.probe,
    }
    text = TEMPLATES.get_template("page.html.jinja").render(
        standing=standing,
        result=result,
        rubric=rubric,
        filled=filled,
        total=total,
        comment=filled.get(COMMENT, ""),
        pseudonym=pseudonym(_secret(folder / KEY), result.student)
        if is_listed(standing, filled)
        else "",
        is_whole=all(name in filled for name in rubric.columns),
        recipe=recipe,
        reached={
            name: rubric.level(name, amount("gradebook", name, filled[name]))
            for name in rubric.levels
            if name in filled
        },
        levels=LEVEL_WORDS,
        marks=_marks(values),
        interval=_interval(result.low, result.high),
        dot=None if result.verified is None else _position(result.verified),
    )
    pages.write({folder / page_name(standing): text.encode()})


def write_leaderboard(
    folder: Path, standings: Sequence[Standing], book: Book, rubric: Rubric
) -> None:
    """Write ``leaderboard.html``, one file without names: those who are listed, see ``is_listed``.

    ``pseudonyms.csv`` beside it has the names, for the instructor.
    """
    key = _secret(folder / KEY)
    names = {
        standing.result.student: pseudonym(key, standing.result.student) for standing in standings
    }
    # within a tie the order must not show a winner
    ranked = sorted(
        (standing for standing in standings if is_listed(standing, book.of(standing))),
        key=lambda standing: (standing.rank or math.inf, names[standing.result.student]),
    )
    rows = [
        {
            "name": names[standing.result.student],
            "rank": standing.rank or "",
            "points": dsc_points(standing, book.of(standing)),
            "result": standing.result,
            "dot": _position(standing.result.score),
            "interval": _interval(standing.result.low, standing.result.high),
        }
        for standing in ranked
    ]
    page = TEMPLATES.get_template("leaderboard.html.jinja").render(
        rows=rows,
        rubric=rubric,
        marks=_marks({"baseline": rubric.baseline, "target": rubric.scale[-1][0]}),
    )
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(
        [("student", "pseudonym"), *sorted(names.items())]
    )
    OwnFiles(folder).write(
        {folder / LEADERBOARD: page.encode(), folder / NAMES: buffer.getvalue().encode()}
    )


def pseudonym(key: str, student: str) -> str:
    """Return a name that stays the same from grading to grading.

    Nobody without the key can trace it back.
    """
    digest = hmac.digest(key.encode(), student.encode(), "sha256")
    return f"{_COLOURS[digest[0] % 16]} {_ANIMALS[digest[1] % 16]} {digest[2:4].hex()}"


def _secret(file: Path) -> str:
    """Return the secret of the pseudonyms, made the first time.

    Raises:
        KitError: it is empty.
    """
    if not file.is_file():
        write_atomic(file, secrets.token_hex(16) + "\n")
    secret = file.read_text(encoding="utf-8", errors="replace").strip()
    if not secret:
        raise KitError(f"{file}: is empty; restore it, or remove it to give everybody a new name")
    return secret


# --- positions on the scale from 0 to 1 -----------------------------------------------------------


def _position(dsc: float) -> float:
    """Return the position of a DSC on the scale, in percent."""
    return round(100 * min(max(dsc, 0), 1), 2)


def _marks(values: dict[str, float | None]) -> list[dict[str, Any]]:
    """Return the marks of the values that there are."""
    return [
        {"name": name, "at": _position(value), "value": value}
        for name, value in values.items()
        if value is not None
    ]


def _interval(low: float | None, high: float | None) -> dict[str, float] | None:
    """Return start and width of an interval on the scale, in percent."""
    if low is None or high is None:
        return None
    return {"from": _position(low), "width": round(max(_position(high) - _position(low), 0.3), 2)}
