"""Record what became of all tries, and show it in docs/reliability.md."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from lib.utils import PROJECT, write_atomic
from tests.faults.run import by_letter
from tests.faults.tries import LETTERS, all_kinds

RECORD = PROJECT / "result" / "reference" / "faults.csv"
PAGE = PROJECT / "docs" / "reliability.md"
BEGIN = (
    "<!-- faults: python -m tests.faults --full writes result/reference/faults.csv, and this -->"
)
END = "<!-- /faults -->"
Row = dict[str, object]


def record(rows: Sequence[Row]) -> None:
    """Write the rows of kinds to the record and to the page; those of other kinds stay."""
    new = {row["kind"]: row for row in rows}
    old = {row["kind"]: row for row in read_record() if row["kind"] in known()}
    rows = sorted({**old, **new}.values(), key=lambda row: str(row["letter"]))
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    write_atomic(RECORD, "".join(",".join(map(str, line)) + "\n" for line in lines))
    page = PAGE.read_text(encoding="utf-8")
    begin, end = page.index(BEGIN), page.index(END)
    write_atomic(PAGE, f"{page[:begin]}{BEGIN}\n{tables(rows)}{page[end:]}")


def known() -> set[str]:
    """Return the names of all kinds, as the record has them."""
    return {name.replace("_", " ") for name in all_kinds()}


def read_record() -> list[Row]:
    """Return the rows that ``record`` wrote, none if there is no record."""
    if not RECORD.is_file():
        return []
    with open(RECORD, newline="", encoding="utf-8") as stream:
        return [dict(row) for row in csv.DictReader(stream)]


def tables(rows: Sequence[Row]) -> str:
    """Return the sums by letter, and all kinds, as tables in Markdown."""
    sums = [
        {"": f"{row['letter']}: {LETTERS[str(row['letter'])]}" if row["letter"] != "all" else "all"}
        | {name: value for name, value in row.items() if name != "letter"}
        for row in by_letter(rows)
    ]
    return (
        f"{_table(sums)}\n<details><summary>Kind by kind</summary>\n\n{_table(rows)}\n</details>\n"
    )


def _table(rows: Sequence[Row]) -> str:
    names = list(rows[0])
    numbers = names.index("tried")
    lines = [names, ["---"] * numbers + ["---:"] * (len(names) - numbers)]
    lines += [[str(row[name]) for name in names] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
