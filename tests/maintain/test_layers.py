"""The drawing of the layers, and the map of who wants to change what."""

import re

from lib.utils import PROJECT
from maintain.layers import PAGE, drawing
from maintain.results import END


def test_the_drawing_is_that_of_the_contracts():
    assert f"-->\n{drawing()}\n{END}" in PAGE.read_text(encoding="utf-8"), (
        "run python -m maintain.layers"
    )


def test_the_map_has_ten_rows_and_names_files_that_are_there():
    rows = [
        line.split(" | ")
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    rows = [row for row in rows if len(row) == 3 and "`" in row[1]]
    assert len(rows) == 10
    for name in (name for row in rows for name in re.findall(r"`([\w/]+\.\w+)`", " ".join(row))):
        assert (PROJECT / name).is_file(), name
