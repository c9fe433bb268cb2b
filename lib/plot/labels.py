"""Put the labels of figures into the language of ``course.toml``.

``labels.<language>.toml`` has each label in English, with ``{0}``, ``{1}`` for what is filled in,
and its translation. What is not in it stays, such as names of recipes and patients. Where no font
has the letters all labels stay English.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.text import Text

from lib.utils import PROJECT

COURSE = PROJECT / "course.toml"
FONTS = {
    "zh-CN": (
        "Noto Sans CJK SC",
        "Noto Sans SC",
        "Source Han Sans SC",
        "Microsoft YaHei",
        "PingFang SC",
        "Hiragino Sans GB",
        "Heiti TC",
        "SimHei",
        "WenQuanYi Micro Hei",
        "WenQuanYi Zen Hei",
        "Noto Sans CJK JP",
        "Arial Unicode MS",
    )
}
"""Language -> fonts that have its letters, the best first."""
LATIN = "DejaVu Sans"  # matplotlib's own; the other font has what it lacks
SEPARATORS = {"\n": "\n", "   ": "   ", ", ": "，"}  # of the parts of a label
Table = Sequence[tuple[re.Pattern[str], str]]


def translate(figure: Figure) -> None:
    """Translate all labels of a figure."""
    table = _table_in_use()
    if not table:
        return
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            ticks = [tick.get_text() for tick in axis.get_majorticklabels()]
            words = [_translated(tick, table) for tick in ticks]
            if words != ticks:
                axis.set_ticks(axis.get_majorticklocs(), words)
    for text in figure.findobj(Text):
        text.set_text(_translated(text.get_text(), table))


def label(text: str) -> str:
    """Return a label in the language of the course; of a figure that is drawn anew."""
    return _translated(text, _table_in_use())


def font_settings() -> dict[str, Any]:
    """Return what tells matplotlib the fonts of the language; nothing for English."""
    font = _font(_language())
    return {"font.family": [LATIN, font]} if font else {}


def _language() -> str:
    """Return the language of the course; "" if ``course.toml`` does not say it."""
    with suppress(OSError, ValueError):
        return str(tomllib.loads(COURSE.read_text(encoding="utf-8")).get("language", ""))
    return ""


def _table_in_use() -> Table:
    """Return the labels of the language; none for English, or without a font."""
    language = _language()
    return read_table(language) if _font(language) else ()


@cache
def read_table(language: str) -> Table:
    """Return (pattern of a label, translation), the most particular pattern first."""
    file = Path(__file__).with_name(f"labels.{language}.toml")
    labels: dict[str, str] = tomllib.loads(file.read_text(encoding="utf-8"))
    by_length = sorted(labels, key=lambda text: len(re.sub(r"\{\d\}", "", text)), reverse=True)
    return [(_pattern(text), labels[text]) for text in by_length]


def _pattern(text: str) -> re.Pattern[str]:
    """Return what a label reads like, with a group for each part that is filled in.

    What is filled in at its beginning has no comma: so a list is taken for a list.
    """
    pattern = re.sub(r"\\\{\d\\\}", "(.*?)", re.escape(text))
    return re.compile(re.sub(r"^\(\.\*\?\)", "([^,]*?)", pattern), re.DOTALL)


def _translated(text: str, table: Table) -> str:
    """Return a text in another language, or else its parts; what is unknown stays."""
    for pattern, translation in table:
        if found := pattern.fullmatch(text):
            return translation.format(*(_translated(part, table) for part in found.groups()))
    for separator, joint in SEPARATORS.items():
        parts = text.split(separator)
        words = [_translated(part, table) for part in parts] if len(parts) > 1 else parts
        if words != parts:
            return joint.join(words)
    return text


@cache
def _font(language: str) -> str | None:
    """Return a font that is installed and has the letters of a language."""
    wanted = FONTS.get(language, ())
    known = {font.name for font in fontManager.ttflist}
    if wanted and known.isdisjoint(wanted):
        _find_new_fonts()
        known = {font.name for font in fontManager.ttflist}
    return next((name for name in wanted if name in known), None)


def _find_new_fonts() -> None:
    """Add fonts that were installed since matplotlib wrote its list of them."""
    files = {font.fname for font in fontManager.ttflist}
    for file in sorted(set(findSystemFonts()) - files):
        with suppress(Exception):  # a broken font is none
            fontManager.addfont(file)
