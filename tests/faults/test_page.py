"""What the page says of the tries is what was recorded, and nothing came out badly."""

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("the tries copy processes and limit files", allow_module_level=True)

from tests.faults.page import BEGIN, END, PAGE, known, read_record, tables
from tests.faults.run import by_letter
from tests.faults.tries import BAD, LETTERS


def test_the_page_shows_the_record():
    shown = PAGE.read_text(encoding="utf-8").partition(f"{BEGIN}\n")[2].partition(END)[0]
    assert shown == tables(read_record())


def test_every_kind_was_tried_and_none_came_out_badly():
    rows = read_record()
    # some kinds need programs that this computer may lack
    assert {row["kind"] for row in rows} >= known()
    assert {row["letter"]: int(row["tried"]) >= 200 for row in by_letter(rows)} == dict.fromkeys(
        (*LETTERS, "all"), True
    )
    assert sum(int(row["tried"]) for row in rows) >= 5000
    assert all(int(row[outcome]) == 0 for row in rows for outcome in BAD)
