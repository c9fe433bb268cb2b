"""``gradebook.csv``: a row a hand-in, with columns that a human fills and that the next grading keeps."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib.grade.rubric import Rubric
from lib.grade.standings import Standing
from lib.utils import KitError, write_atomic

GRADEBOOK = "gradebook.csv"
BY_HAND, COMMENT = "DSC points by hand", "comment"
COMPUTED = (
    "student",
    "submission",
    "status",
    "flags",
    "run",
    "claimed DSC",
    "verified DSC",
    "CI low",
    "CI high",
    "claimed - verified",
    "gain over baseline",
    "perturbed DSC",
    "grid",
    "DSC points",
    "score",
    "feedback",
)
"""Columns that are written anew each time; all others are a human's."""
POSSIBLE = "POINTS POSSIBLE"

Human = dict[str, str]  # column -> what a human wrote


@dataclass(frozen=True)
class Book:
    """What humans wrote into a gradebook.

    Attributes:
        columns: theirs, in the order of the file.
        entries: (student, hand-in) -> their cells.
    """

    columns: tuple[str, ...] = ()
    entries: dict[tuple[str, str], Human] = field(default_factory=dict)

    def key(self, standing: Standing) -> tuple[str, str] | None:
        """The entry of a hand-in; of a student with a single one, also if its file has another name now."""
        student, submission = _safe(standing.result.student), _safe(standing.result.submission)
        own = [key for key in self.entries if key[0] == student]
        if (student, submission) in own:
            return student, submission
        return own[0] if len(own) == 1 else None

    def of(self, standing: Standing) -> Human:
        """What a human wrote of a hand-in."""
        return self.entries.get(self.key(standing), {})


def read_book(file: Path, rubric: Rubric) -> Book:
    """The gradebook as humans left it, an empty one if there is none. Commas or semicolons, as spreadsheets write it.

    Raises:
        KitError: it is not readable, a cell holds no number or more points than are possible, or a
            column of the rubric has the name of a computed one.
    """
    taken = [name for name in rubric.columns if name in (*COMPUTED, BY_HAND, COMMENT)]
    if taken:
        raise KitError(
            f"rubric: the column {taken[0]!r} is one that the gradebook computes; give it another name"
        )
    if not file.is_file():
        return Book()
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # a spreadsheet on Windows may write its own encoding
        text = raw.decode("cp1252", errors="replace")
    header = text.partition("\n")[0]
    try:
        rows = list(
            csv.reader(
                io.StringIO(text), delimiter=";" if header.count(";") > header.count(",") else ","
            )
        )
    except csv.Error as error:
        raise KitError(
            f"{file}: cannot be read as CSV ({error}); save it as CSV in UTF-8"
        ) from None
    names = rows[0] if rows else []
    if not {"student", "submission"} <= set(names):
        raise KitError(
            f"{file}: has no columns student and submission; restore it, or move it away"
        )
    columns = tuple(name for name in names if name and name not in COMPUTED)
    entries = {}
    for number, cells in enumerate(rows[1:], 2):
        row = dict(zip(names, cells, strict=False))
        if row.get("student") not in (None, "", POSSIBLE):
            human = {name: row[name] for name in columns if row.get(name)}
            _require_points(f"{file}, line {number}", human, rubric)
            entries[row["student"], row.get("submission", "")] = human
    return Book(columns, entries)


def _require_points(place: str, human: Human, rubric: Rubric) -> None:
    for name, most in {**rubric.columns, BY_HAND: rubric.dsc_points}.items():
        if name in human and not 0 <= amount(place, name, human[name]) <= most:
            raise KitError(
                f"{place}: {human[name]} for {name!r}, where 0 to {most:g} are possible; correct it"
            )


def amount(place: str, name: str, text: str) -> float:
    """Points that a human wrote, with a point or a comma.

    Raises:
        KitError: no number.
    """
    try:
        return float(text.strip().lstrip("'").replace(",", "."))
    except ValueError:
        raise KitError(
            f"{place}: {text!r} for {name!r} is no number of points; correct it"
        ) from None


def total(standing: Standing, human: Human, rubric: Rubric) -> float:
    """Points so far: what a human has not filled yet counts nothing; his word on the DSC comes before the computed."""
    given = [amount("gradebook", name, human[name]) for name in rubric.columns if name in human]
    dsc = amount("gradebook", BY_HAND, human[BY_HAND]) if BY_HAND in human else standing.points
    return round(dsc + sum(given), 1)


def write_book(
    file: Path, standings: Sequence[Standing], book: Book, rubric: Rubric, pages: dict[int, str]
) -> None:
    """Write the gradebook: points possible in the first row, then a row a hand-in, by student.

    Cells that a spreadsheet would compute are defused. Rows of hand-ins that are gone stay if a
    human wrote into them.

    Args:
        pages: position in ``standings`` -> its feedback file.

    Raises:
        KitError: it is open in a spreadsheet that locks it.
    """
    extra = [name for name in book.columns if name not in (*rubric.columns, BY_HAND, COMMENT)]
    theirs = [*rubric.columns, BY_HAND, COMMENT, *extra]
    position = COMPUTED.index("score")
    header = [*COMPUTED[:position], *theirs, *COMPUTED[position:]]
    possible = {
        "student": POSSIBLE,
        "DSC points": f"{rubric.dsc_points:g}",
        "score": f"{rubric.total:g}",
        **{name: f"{points:g}" for name, points in rubric.columns.items()},
    }
    rows = [possible]
    for i, standing in enumerate(standings):
        human = book.of(standing)
        rows.append(
            {
                **_computed(standing, rubric),
                **human,
                "score": f"{total(standing, human, rubric):g}",
                "feedback": pages[i],
            }
        )
    here = {book.key(standing) for standing in standings}
    rows += [
        {"student": key[0], "submission": key[1], "status": "withdrawn", **human}
        for key, human in book.entries.items()
        if human and key not in here
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_safe(name) for name in header])
    writer.writerows([[_safe(row.get(name, "")) for name in header] for row in rows])
    try:
        write_atomic(
            file, "\ufeff" + buffer.getvalue()
        )  # the mark lets Excel read accents as they are
    except PermissionError:
        raise KitError(
            f"{file}: cannot be replaced; close it in other programs and run this again"
        ) from None


def _computed(standing: Standing, rubric: Rubric) -> dict[str, str]:
    result = standing.result
    claimed, verified = result.claimed, result.verified
    both = claimed is not None and verified is not None
    return {
        "student": result.student,
        "submission": result.submission,
        "status": standing.status,
        "flags": flags(standing),
        "run": result.run,
        "claimed DSC": _number(claimed),
        "verified DSC": _number(verified),
        "CI low": _number(result.low),
        "CI high": _number(result.high),
        "claimed - verified": _number(claimed - verified if both else None),
        "gain over baseline": _number(None if verified is None else verified - rubric.baseline),
        "perturbed DSC": _number(result.probe),
        "grid": result.grid,
        "DSC points": f"{standing.points:g}",
    }


def flags(standing: Standing) -> str:
    """The names of the findings, faults first, each once; of shared things with the others' names."""
    order = {"fault": 0, "review": 1, "note": 2}
    findings = sorted(standing.result.findings, key=lambda finding: order[finding.level])
    return "; ".join(dict.fromkeys(finding.private or finding.name for finding in findings))


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 6) + 0.0:.6f}"  # + 0.0 makes -0.0 a 0.0


def _safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe stands before it.

    Numbers stay as they are.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # or a row would end there
    if text.lstrip().startswith(("=", "+", "-", "@")):
        try:
            float(text)
        except ValueError:
            return f"'{text}"
    return text
