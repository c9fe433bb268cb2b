"""Read the student's answers in the notebooks, and show them without running any of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from lib.notebook.cells import as_given_out, read_notebook
from lib.utils import KitError, say, visible_files

GENERAL = "General"
_TAG = re.compile(r"<(?!https?://)(?=[A-Za-z/!?])")  # an address in angle brackets is Markdown
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def read_analysis(notebooks: Path, plans: Collection[str]) -> dict[str, str]:
    """Return plan -> the student's answers to the questions about it, as Markdown.

    An answer is a cell that asks and that the student changed, with its question. ``GENERAL`` ->
    the answers about no plan that was tried. A notebook that cannot be read has none.

    Args:
        notebooks: folder of the notebooks.
        plans: those that were tried.
    """
    parts: dict[str, list[str]] = defaultdict(list)
    for file in visible_files(notebooks, "*.ipynb"):
        try:
            cells = read_notebook(file)
        except KitError as error:
            say(f"{error}; its answers are not in the report")
            continue
        for cell in cells:
            if cell.is_answered:
                plan = cell.plan if cell.plan in plans else GENERAL
                parts[plan].append(as_given_out(cell.text).strip())
    return {plan: "\n\n".join(answers) for plan, answers in parts.items()}


def _fenced(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each line, and the fence of its block of code, or nothing."""
    fence = ""
    for line in lines:
        match = _FENCE.fullmatch(line)
        if fence:
            yield line, fence
            if match and match[1].startswith(fence) and not match[2].strip():
                fence = ""
        else:
            fence = match[1] if match and not (match[1][0] == "`" and "`" in match[2]) else ""
            yield line, fence


# --- showing it -----------------------------------------------------------------------------------


def to_markdown(text: str) -> str:
    """Return Markdown that can be put into a larger document.

    Raw HTML is escaped, and an open block of code is closed.
    """
    *lines, (_, still_open) = _fenced([*text.splitlines(), ""])
    safe = [line if code else _TAG.sub("&lt;", line) for line, code in lines]
    return "\n".join([*safe, still_open] if still_open else safe)
