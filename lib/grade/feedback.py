"""What students get to see: a page each, and a leaderboard without names."""

from __future__ import annotations

import csv
import hmac
import io
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.config import REFERENCE
from lib.grade.gradebook import COMMENT, Human
from lib.grade.rubric import Rubric
from lib.grade.standings import Standing
from lib.utils import fingerprint, write_atomic

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
_LEVELS = {
    "fault": "no points until a human has looked",
    "review": "a human should look",
    "note": "for information",
}

_pages = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page_name(standing: Standing) -> str:
    """Where a hand-in's page lies, below the folder of the gradebook."""
    result = standing.result
    return f"{FOLDER}/{result.student}-{fingerprint([result.student, result.submission])[:6]}.html"


def write_page(
    folder: Path, standing: Standing, human: Human, total: float, rubric: Rubric
) -> None:
    """The page of a hand-in; it names no other student."""
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
    text = _pages.get_template("page.html.jinja").render(
        standing=standing,
        result=result,
        rubric=rubric,
        human=human,
        total=total,
        comment=human.get(COMMENT, ""),
        pseudonym=pseudonym(_key(folder / KEY), result.student),
        recipe=recipe,
        levels=_LEVELS,
        marks=_marks(values),
        interval=_interval(result.low, result.high),
        dot=None if result.verified is None else _percent(result.verified),
    )
    write_atomic(folder / page_name(standing), text)


def write_leaderboard(folder: Path, standings: Sequence[Standing], rubric: Rubric) -> None:
    """``leaderboard.html``, one file without names, and ``pseudonyms.csv`` with them, for the instructor."""
    key = _key(folder / KEY)
    names = {
        standing.result.student: pseudonym(key, standing.result.student) for standing in standings
    }
    # within a tie the order must not tell a winner
    ranked = sorted(
        (standing for standing in standings if standing.rank is not None),
        key=lambda standing: (standing.rank, names[standing.result.student]),
    )
    rows = [
        {
            "name": names[result.student],
            "standing": standing,
            "result": result,
            "dot": _percent(result.verified),
            "interval": _interval(result.low, result.high),
        }
        for standing in ranked
        for result in [standing.result]
    ]
    write_atomic(
        folder / LEADERBOARD,
        _pages.get_template("leaderboard.html.jinja").render(
            rows=rows,
            rubric=rubric,
            marks=_marks({"baseline": rubric.baseline, "target": rubric.scale[-1][0]}),
        ),
    )
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(
        [("student", "pseudonym"), *sorted(names.items())]
    )
    write_atomic(folder / NAMES, buffer.getvalue())


def pseudonym(key: str, student: str) -> str:
    """A name that stays the same from grading to grading, and that nobody without the key can trace back."""
    digest = hmac.digest(key.encode(), student.encode(), "sha256")
    return f"{_COLOURS[digest[0] % 16]} {_ANIMALS[digest[1] % 16]} {digest[2:4].hex()}"


def _key(file: Path) -> str:
    if not file.is_file():
        write_atomic(file, secrets.token_hex(16) + "\n")
    return file.read_text(encoding="utf-8").strip()


# --- positions on the scale from 0 to 1 -----------------------------------------------------------


def _percent(dsc: float) -> float:
    return round(100 * min(max(dsc, 0), 1), 2)


def _marks(values: dict[str, float | None]) -> list[dict[str, Any]]:
    return [
        {"name": name, "at": _percent(value), "value": value}
        for name, value in values.items()
        if value is not None
    ]


def _interval(low: float | None, high: float | None) -> dict[str, float] | None:
    if low is None or high is None:
        return None
    return {"from": _percent(low), "width": round(max(_percent(high) - _percent(low), 0.3), 2)}
