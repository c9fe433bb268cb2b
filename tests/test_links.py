"""Links between the project's own pages: each file is there, and each heading."""

from __future__ import annotations

import ast
import re

import pytest

from lib.notebook.solutions import without_solutions
from lib.utils import PROJECT, see
from tests.pages import dead_links

PAGES = [
    *sorted(PROJECT.glob("*.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "data").glob("*.md")),
    *sorted((PROJECT / "result" / "reference").glob("*.md")),
    *sorted((PROJECT / "result" / "pretrained").glob("*.md")),
    *sorted(PROJECT.glob("*.ipynb")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


def named_in_messages() -> list[tuple[str, str]]:
    """The pages and headings that messages name by ``lib.utils.see``."""
    calls = (
        node
        for file in sorted((PROJECT / "lib").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "see"
    )
    return [tuple(ast.literal_eval(argument) for argument in call.args) for call in calls]


def test_messages_name_sections_that_are_there():
    named = named_in_messages()
    assert len(named) > 20
    for page, section in set(named):
        file, heading = re.fullmatch(r'see (\S+), "(.+)"', see(page, section)).groups()
        text = (PROJECT / file).read_text(encoding="utf-8")
        for edition in (text, without_solutions(text, "")):  # the students' has less
            assert re.search(rf"^#+ {re.escape(heading)}$", edition, re.MULTILINE), (page, section)
