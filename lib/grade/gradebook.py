"""Write ``gradebook.csv``, a row for each submission.

The instructor fills some of its columns; the next grading keeps them.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib.grade.people import read_table
from lib.grade.result import Finding
from lib.grade.rubric import Rubric
from lib.grade.standings import OFF_ROSTER, Standing, status
from lib.utils import KitError, fingerprint, write_atomic

GRADEBOOK, BEFORE = "gradebook.csv", "gradebook.before.csv"
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
    "read",
    "content",
    "marked",
)
"""Columns that are written anew each time; all others are the instructor's."""
POSSIBLE = "POINTS POSSIBLE"
_NOTHING = "none"  # marked, while there was no content

Cells = dict[str, str]  # column -> what the instructor wrote


@dataclass(frozen=True)
class Book:
    """Hold what the instructor wrote into a gradebook.

    Attributes:
        columns: the instructor's, in the order of the file.
        entries: (student, submission) -> cells.
        ids: of the students who are graded now: their entries are nobody else's.
        here: (student, submission) of what is graded now: such an entry is of nothing else.
        possible: cells of the row of points possible, in columns that no rubric has.
        before: (student, submission) -> what was computed then.
    """

    columns: tuple[str, ...] = ()
    entries: dict[tuple[str, str], Cells] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()
    here: frozenset[tuple[str, str]] = frozenset()
    possible: Cells = field(default_factory=dict)
    before: dict[tuple[str, str], Cells] = field(default_factory=dict)

    def key(self, standing: Standing) -> tuple[str, str] | None:
        """Return the key of the entry of a submission, or None.

        A student's only entry also counts if the file has another name now. An entry of the same
        file counts if no id fits: spreadsheets turn 0012345 into 12345, and others into dates. So
        does the only entry whose id is the same number.
        """
        student, submission = (
            _as_text(standing.result.student),
            _as_text(standing.result.submission),
        )
        if (student, submission) in self.entries:
            return student, submission
        own = [
            key
            for key, filled in self.entries.items()
            if filled and key[0] == student and key not in self.here
        ]
        if not own and submission:
            own = [
                key
                for key in self.entries
                if key[1] == submission
                and (key[0] not in self.ids or _same_number(key[0], student))
            ]
            if len(own) > 1:  # of a team: each has a row
                own = [key for key in own if _same_number(key[0], student)]
        if not own:
            # unless it may be of several students
            own = [
                key
                for key in self.entries
                if key[0] not in self.ids
                and _same_number(key[0], student)
                and sum(_same_number(key[0], name) for name in self.ids) == 1
            ]
        return own[0] if len(own) == 1 else None

    def of(self, standing: Standing) -> Cells:
        """Return what the instructor wrote about a submission."""
        key = self.key(standing)
        return {} if key is None else self.entries[key]

    def marked(self, standing: Standing) -> str:
        """Return which content the instructor marked, and a hash of the marks; "" without marks.

        Marks that are others than last time are about the content of last time.
        """
        key = self.key(standing)
        filled = self.entries.get(key, {}) if key else {}
        if key is None or not filled:
            return ""
        before, marks = self.before.get(key, {}), marks_of(filled)
        content, _, marks_then = before.get("marked", "").partition("/")
        if marks != marks_then:
            content = before.get("content", "")
            if not content:  # nothing was there to mark, or the gradebook is older
                content = _NOTHING if "content" in before else _content(standing)
        return f"{content or _NOTHING}/{marks}"

    def is_outdated(self, standing: Standing) -> bool:
        """Return whether the instructor marked another content than there is now."""
        content, _, _ = self.marked(standing).partition("/")
        return content not in ("", _content(standing) or _NOTHING)

    def without(self, standings: Sequence[Standing]) -> list[tuple[str, str]]:
        """Return the keys of entries that are not empty and of none of these submissions."""
        here = {self.key(standing) for standing in standings}
        return [key for key, filled in self.entries.items() if filled and key not in here]


def marks_of(filled: Cells) -> str:
    """Return a hash of what the instructor wrote about a submission; "" for nothing."""
    values = {name: _value(cell) for name, cell in filled.items()}
    return fingerprint(values)[:8] if values else ""


def written_by_hand(cells: Cells) -> Cells:
    """Return the cells of a row that the instructor filled."""
    return {
        name: as_typed(cell)
        for name, cell in cells.items()
        if name and name not in COMPUTED and cell.strip()
    }


def columns_lost(book: Book) -> list[str]:
    """Return columns that had points possible, and are none of the rubric's now."""
    return [name for name in book.possible if name not in (BY_HAND, COMMENT)]


def _value(cell: str) -> str:
    """Return a cell as every spreadsheet saves it: 27,5 and 27.50 are the same."""
    text = cell.strip().lstrip("'")
    try:
        return repr(float(text.replace(",", ".")))
    except ValueError:
        return text


def _content(standing: Standing) -> str:
    """Return the cell that says what was submitted; no spreadsheet takes it for a number."""
    return f"sha-{standing.result.content}" if standing.result.content else ""


def graded_now(book: Book, standings: Sequence[Standing]) -> Book:
    """Return a gradebook that knows which students and submissions are graded now."""
    keys = frozenset(
        (_as_text(one.result.student), _as_text(one.result.submission)) for one in standings
    )
    return replace(book, ids=frozenset(one.result.student for one in standings), here=keys)


def with_outdated(standings: Sequence[Standing], book: Book) -> list[Standing]:
    """Return the standings with a finding where the content changed after it was marked."""
    text = "What was submitted is not what the instructor has marked."
    finding = Finding("review", "changed since marked", text)
    found = []
    for standing in standings:
        if book.is_outdated(standing):
            result = replace(standing.result, findings=[*standing.result.findings, finding])
            standing = replace(standing, result=result, status=status(result))
        found.append(standing)
    return found


def _same_number(cell: str, student: str) -> bool:
    """Return whether a spreadsheet may have made a cell of an id of digits, as 2.02E+11."""
    if not student.isdecimal():
        return False
    found = re.fullmatch(r"(\d)(?:[.,](\d+))?E\+?(\d+)", cell, re.IGNORECASE)
    if found:
        decimals = len(found[2] or "")
        digits = f"{found[1]}.{found[2]}" if decimals else found[1]
        return f"{int(student):.{decimals}E}" == f"{digits}E+{found[3]:0>2}"
    # a spreadsheet keeps 15 digits of a number
    return cell.isdecimal() and f"{int(cell):.14E}" == f"{int(student):.14E}"


def read_book(file: Path, rubric: Rubric) -> Book:
    """Return the gradebook as the instructor left it, an empty one if there is none.

    Encodings and separators are those of ``read_table``.

    Raises:
        KitError: it is not readable; a line has too few cells; a cell is no number, or more points
            than are possible; or a column of the rubric has the name of a computed one.
    """
    taken = [name for name in rubric.columns if name in (*COMPUTED, BY_HAND, COMMENT)]
    if taken:
        raise KitError(
            f"rubric: the gradebook computes the column {taken[0]!r}; give yours another name"
        )
    if not file.is_file():
        return Book()
    rows = read_table(file)
    names = [_as_named(name.strip(), rubric) for name in rows[0]] if rows else []
    if not {"student", "submission"} <= set(names):
        raise KitError(
            f"{file}: has no columns student and submission; restore it, or move it away"
        )
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise KitError(f"{file}: has two columns {twice[0]!r}; give one of them another name")
    columns = tuple(name for name in names if name and name not in COMPUTED)
    entries: dict[tuple[str, str], Cells] = {}
    before: dict[tuple[str, str], Cells] = {}
    possible: Cells = {}
    for number, cells in enumerate(rows[1:], 2):
        place = f"{file}, line {number}"
        if len(cells) <= max(map(names.index, ("student", "submission"))):
            raise KitError(
                f"{place}: has {len(cells)} of {len(names)} cells; separate them as line 1 does, "
                f"or take the line from {BEFORE}"
            )
        _require_named(place, names, cells)
        row = dict(zip(names, cells, strict=False))
        filled = {name: as_typed(row[name]) for name in columns if row.get(name, "").strip()}
        key = row.get("student", "").strip(), row.get("submission", "").strip()
        if key[0] == POSSIBLE:
            possible = {name: cell for name, cell in filled.items() if name not in rubric.columns}
            continue
        _require_points(place, filled, rubric)
        if filled and not any(key):
            raise KitError(
                f"{place}: has {next(iter(filled.values()))!r} and no student; say whose it is, or "
                f"delete the line"
            )
        if filled and entries.get(key):
            raise KitError(
                f"{place}: is the second of {key[0] or key[1]} with points or comments; make one "
                f"line of the two"
            )
        if any(key):
            entries[key] = filled or entries.get(key, {})
            before[key] = {name: row[name].strip() for name in ("content", "marked") if name in row}
    return Book(columns, entries, possible=possible, before=before)


def _as_named(name: str, rubric: Rubric) -> str:
    """Return the name of a column as the rubric has it, if only blanks or capitals differ."""
    known = (*rubric.columns, BY_HAND, COMMENT)
    found = [one for one in known if one.casefold() == " ".join(name.split()).casefold()]
    return found[0] if len(found) == 1 and name not in known else name


def _require_named(place: str, names: Sequence[str], cells: Sequence[str]) -> None:
    """Raise KitError for something that is written in a column without a name."""
    for column, cell in enumerate(cells):
        name = names[column] if column < len(names) else ""
        if cell.strip() and not name:
            raise KitError(
                f"{place}: {cell.strip()[:40]!r} is in column {column + 1}, which has no name; "
                f"name it in line 1"
            )


def _require_points(place: str, filled: Cells, rubric: Rubric) -> None:
    """Raise KitError unless the cells for points are numbers that are possible."""
    for name, most in {**rubric.columns, BY_HAND: rubric.dsc_points}.items():
        if name in filled and not 0 <= amount(place, name, filled[name]) <= most:
            raise KitError(
                f"{place}: {filled[name]} for {name!r}, but 0 to {most:g} are possible; correct it"
            )


def amount(place: str, name: str, text: str) -> float:
    """Return the points in a cell, with a point or a comma.

    Raises:
        KitError: no number.
    """
    try:
        return float(text.strip().lstrip("'").replace(",", "."))
    except ValueError:
        raise KitError(
            f"{place}: {text!r} for {name!r} is no number of points; correct it"
        ) from None


def total(standing: Standing, filled: Cells, rubric: Rubric) -> float:
    """Return the points so far.

    Columns that are not filled yet count nothing. The instructor's points for the DSC come before
    the computed ones.
    """
    given = [amount("gradebook", name, filled[name]) for name in rubric.columns if name in filled]
    return round(dsc_points(standing, filled) + sum(given), 1)


def dsc_points(standing: Standing, filled: Cells) -> float:
    """Return the points for the DSC, the instructor's if there are any."""
    return amount("gradebook", BY_HAND, filled[BY_HAND]) if BY_HAND in filled else standing.points


def is_listed(standing: Standing, filled: Cells) -> bool:
    """Return whether the leaderboard has a submission.

    It has those with points that count, the instructor's too, of students whose id is known.
    """
    counts = standing.rank is not None
    if BY_HAND in filled:
        counts = standing.result.verified is not None and dsc_points(standing, filled) > 0
    return counts and all(one.name != OFF_ROSTER for one in standing.result.findings)


def write_book(
    file: Path,
    standings: Sequence[Standing],
    book: Book,
    rubric: Rubric,
    pages: dict[int, str],
    to_read: dict[int, str] | None = None,
) -> None:
    """Write the gradebook: points possible first, then a row for each submission, by student.

    Cells that a spreadsheet would compute are made text. Rows of submissions that are gone stay if
    the instructor wrote into them. A gradebook with other content is kept as ``BEFORE``.

    Args:
        pages: position in ``standings`` -> its feedback file.
        to_read: position in ``standings`` -> the page that the instructor reads.

    Raises:
        KitError: the file is open in a spreadsheet that locks it.
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
        **book.possible,
    }
    rows = [possible]
    for i, standing in enumerate(standings):
        filled = book.of(standing)
        rows.append(
            {
                **{name: _in_one_cell(cell) for name, cell in _computed(standing, rubric).items()},
                **filled,
                "score": f"{total(standing, filled, rubric):g}",
                "feedback": pages[i],
                "read": (to_read or {}).get(i, ""),
                "content": _content(standing),
                "marked": book.marked(standing),
            }
        )
    rows += [
        {
            "student": key[0],
            "submission": key[1],
            "status": "withdrawn",
            **book.entries[key],
            **book.before.get(key, {}),
        }
        for key in book.without(standings)
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_as_text(name) for name in header])
    writer.writerows([[_as_text(row.get(name, "")) for name in header] for row in rows])
    # the mark at the start makes Excel read the file as UTF-8
    content = f"\ufeff{buffer.getvalue()}".encode()
    if file.is_file() and (before := file.read_bytes()) != content:
        write_atomic(file.with_name(BEFORE), before)
    write_atomic(file, content)


def _computed(standing: Standing, rubric: Rubric) -> dict[str, str]:
    """Return the computed cells of a row."""
    result = standing.result
    claimed, verified = result.claimed, result.verified
    excess = None if claimed is None or verified is None else claimed - verified
    return {
        "student": result.student,
        "submission": result.submission,
        "status": standing.status,
        "flags": flags(standing),
        "run": result.run,
        "claimed DSC": _decimals(claimed),
        "verified DSC": _decimals(verified),
        "CI low": _decimals(result.low),
        "CI high": _decimals(result.high),
        "claimed - verified": _decimals(excess),
        "gain over baseline": _decimals(None if verified is None else verified - rubric.baseline),
        "perturbed DSC": _decimals(result.probe),
        "grid": result.grid,
        "DSC points": f"{standing.points:g}",
    }


def flags(standing: Standing) -> str:
    """Return the names of the findings, faults first, each once.

    Findings about something shared name the other students.
    """
    order = {"fault": 0, "review": 1, "note": 2}
    findings = sorted(standing.result.findings, key=lambda finding: order[finding.level])
    return "; ".join(dict.fromkeys(finding.private or finding.name for finding in findings))


def _decimals(value: float | None) -> str:
    """Return a number with six decimals; empty for None."""
    return "" if value is None else f"{round(value, 6) + 0.0:.6f}"  # + 0.0 makes -0.0 a 0.0


def _in_one_cell(text: str) -> str:
    """Return a stranger's text that stays harmless where another mark separates the cells.

    There, what is behind a semicolon or a tab is a cell of its own.
    """
    return re.sub(r"(?<=\S)([;\t]\s*)([=+@-])", r"\1'\2", text)


def as_typed(cell: str) -> str:
    """Return a cell without the apostrophe that kept a spreadsheet from computing it."""
    return cell[1:] if cell.startswith("'") and _as_text(cell[1:]) == cell else cell


def _as_text(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula.

    An apostrophe is put before it; numbers stay as they are.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # a bare \r would end the row
    if text.lstrip().startswith(("=", "+", "-", "@")):
        try:
            float(text)
        except ValueError:
            return f"'{text}"
    return text
