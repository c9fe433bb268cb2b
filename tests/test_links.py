"""Links between the project's own pages: each file is there, and each heading."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from lib.notebook.solutions import without_solutions
from lib.utils import PROJECT, see

PAGES = [
    *sorted(PROJECT.glob("*.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "data").glob("*.md")),
    *sorted((PROJECT / "result" / "reference").glob("*.md")),
    *sorted((PROJECT / "result" / "pretrained").glob("*.md")),
    *sorted(PROJECT.glob("*.ipynb")),
]
_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose(file: Path) -> str:
    """The text of a page without blocks of code; of a notebook its Markdown cells."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return _FENCE.sub("", text)


def anchors(file: Path) -> set[str]:
    """The headings of a page as GitHub makes links of them."""
    found = re.findall(r"^#{1,6} (.+)$", prose(file), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")
        for heading in found
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_links_lead_somewhere(page):
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue  # of another host
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: no such file"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


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
