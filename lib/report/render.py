"""The templates of the report, and how they write numbers, durations and a student's text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from lib.report.analysis import to_html, to_markdown
from lib.stats import p_in_cell


def _number(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    """With a sign as long as a plus."""
    return "none" if pd.isna(value) else f"{value:+.3f}".replace("-", "\u2212")


def _duration(seconds: float | None) -> str:
    """Seconds in the two units that matter."""
    if seconds is None:
        return ""
    whole = round(float(seconds))
    for big, small, size, per in (("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // per} {small}"
    return f"{whole} s"


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _cell(text: object) -> str:
    """Text from a run folder for a Markdown document, a table's cell included: nothing in it is markup."""
    escaped = re.sub(r"([\\`*\[\]|#~])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html.jinja"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters |= {
    "number": _number,
    "signed": _signed,
    "p": p_in_cell,
    "duration": _duration,
    "settings": _settings,
    "cell": _cell,
    "student_html": to_html,
    "student_markdown": to_markdown,
}
