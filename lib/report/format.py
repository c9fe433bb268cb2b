"""Format numbers, durations, settings and text for the report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

_FOLDERS = re.compile(
    r"""(?<![\w./:\\])(?:[A-Za-z]:)?[\\/](?:[^\s\\/:*?"<>|][^\\/:*?"<>|\n]*[\\/])+"""
)


def without_folders(text: str) -> str:
    """Return a text whose absolute paths are names of files: folders tell whose they are."""
    return _FOLDERS.sub("", text)


def number(value: float | None) -> str:
    """Return a number with three decimals; empty for None or NaN."""
    return "" if value is None or pd.isna(value) else f"{value:.3f}"


def signed(value: float) -> str:
    """Return a number with its sign, e.g. ``+0.012``; ``none`` for NaN."""
    return "none" if pd.isna(value) else f"{value:+.3f}".replace("-", "\u2212")


def duration(seconds: float | None) -> str:
    """Return seconds in the two units that matter, e.g. ``1 min 15 s``; empty for None."""
    if seconds is None:
        return ""
    whole = round(float(seconds))
    for big, small, size, per in (("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // per} {small}"
    return f"{whole} s"


def settings(values: Mapping[str, Any]) -> str:
    """Return settings as ``lr=0.001, epochs=12``."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def listed(values: Iterable[Any]) -> str:
    """Return different values, separated by commas."""
    return ", ".join(str(value) for value in dict.fromkeys(values))


def cell(text: object) -> str:
    """Return text of a run folder for Markdown, a table's cell included, without markup."""
    words = " ".join(str(text).split())
    # an underscore inside a word is no markup, and names are easier to read without the sign
    escaped = re.sub(r"([\\`*\[\]|#~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", words)
    return escaped.replace("&", "&amp;").replace("<", "&lt;")
