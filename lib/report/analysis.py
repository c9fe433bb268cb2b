"""Read the student's interpretation, ``analysis.md``, and show it without running any of it."""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import mistune

from lib.utils import KitError, write_atomic

GENERAL = "General"
_TITLE = "# Analysis"
_GUIDE = (
    "Write in Markdown what you make of the results, under the headings below; further headings "
    "may be added. `python -m lib.report` puts each part beside its results, and never changes "
    "this file."
)
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
_TAG = re.compile(r"<(?!https?://)(?=[A-Za-z/!?])")  # an address in angle brackets is Markdown
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def make_template(file: Path, plans: Iterable[str]) -> bool:
    """Write a template with a heading for each plan, unless the file exists.

    Returns:
        Whether it was written.
    """
    if file.exists():
        return False
    headings = "".join(f"\n## {' '.join(name.split())}\n\n" for name in (GENERAL, *plans))
    write_atomic(file, f"{_TITLE}\n\n{_GUIDE}\n{headings}")
    return True


def read_analysis(file: Path, plans: Iterable[str]) -> dict[str, str]:
    """Return plan -> the student's words under its heading, as Markdown.

    ``GENERAL`` -> everything else, in its order. A heading is a line of ``#`` to ``######`` and a
    plan's name, in any case. Its part ends before the next heading of a plan, or before any heading
    of its own level or above; deeper ones belong to it.

    Raises:
        KitError: the file is no UTF-8 text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise KitError(f"{file}: is not UTF-8 text; save it as UTF-8 in your editor") from None
    known = {_key(name): name for name in (*plans, GENERAL)}
    parts: dict[str, list[str]] = defaultdict(list)
    current, depth = GENERAL, 7
    for line, code in _fenced(lines):
        heading = None if code else _HEADING.fullmatch(line)
        if heading:
            level, plan = len(heading[1]), known.get(_key(heading[2] or ""))
            if plan is not None:
                current, depth = plan, level
                parts[current].append("")
                continue
            if level <= depth:
                current, depth = GENERAL, level
        if line not in (_TITLE, _GUIDE):
            parts[current].append(line)
    texts = {name: "\n".join(part).strip("\n") for name, part in parts.items()}
    return {name: text for name, text in texts.items() if text.strip()}


def _key(name: str) -> str:
    """Return a name without differences in case and spaces."""
    return " ".join(name.split()).casefold()


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


class _Renderer(mistune.HTMLRenderer):
    """Render headings below those of the report, and pictures by name.

    The report fetches nothing.
    """

    def heading(self, text: str, level: int, **attributes: object) -> str:
        """Return a heading of level 4 to 6."""
        return super().heading(text, min(max(level + 1, 4), 6), **attributes)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Return the name of a picture."""
        return f"{text} (picture: {html.escape(url)})"


_markdown = mistune.create_markdown(
    renderer=_Renderer(escape=True), plugins=["table", "strikethrough"]
)


def to_html(text: str) -> str:
    """Return Markdown as HTML, with raw HTML escaped and no link that runs a script."""
    return str(_markdown(text))


def to_markdown(text: str) -> str:
    """Return Markdown that can be put into a larger document.

    Raw HTML is escaped, and an open block of code is closed.
    """
    *lines, (_, still_open) = _fenced([*text.splitlines(), ""])
    safe = [line if code else _TAG.sub("&lt;", line) for line, code in lines]
    return "\n".join([*safe, still_open] if still_open else safe)
