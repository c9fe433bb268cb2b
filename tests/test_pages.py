"""The pages: short, listed by reader, and the same in both languages."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lib.config import CUSTOM, Config
from lib.utils import PROJECT

DOCS = PROJECT / "docs"
CHINESE = sorted([*PROJECT.glob("*.zh-CN.md"), *DOCS.glob("*.zh-CN.md")])
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_MADE = re.compile(r"<!-- made by.*?<!-- end of what it makes -->", re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_ONLY_THERE = {  # of use to readers of one language only
    "README.zh-CN.md": {"export PIP_INDEX_URL=https://pypi.tuna.tsinghua.edu.cn/simple"}
}


def text_of(file: Path) -> str:
    """A page without what a command makes."""
    return _MADE.sub("", file.read_text(encoding="utf-8"))


def blocks(text: str) -> list[list[str]]:
    """The lines of each block of code, without placeholders and what is explained beside them."""
    return [
        [
            re.sub("<.*?>", "", re.split(r"\s{4,}|  #", line.strip())[0])
            for line in block.split("\n")
        ]
        for block in _FENCE.findall(text)
    ]


def test_readme_is_read_in_five_minutes():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"\[!\[.*?\)\]\(.*?\)", "", text).split()) <= 1500  # without badges


def test_the_index_lists_each_page():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in DOCS.glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"]


def test_the_page_on_extending_has_each_field_that_takes_custom_code():
    rows = re.findall(r"^\| `(\w+)` \|", text_of(DOCS / "extending.md"), re.MULTILINE)
    takes = [spec.name for spec in fields(Config) if spec.metadata["pattern"] is CUSTOM]
    assert sorted(rows) == sorted(takes)


@pytest.mark.parametrize("chinese", CHINESE, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_no_language_has_moved_on_without_the_other(chinese):
    """Headings, rows of tables, and everything in code are the same."""
    here = text_of(chinese)
    there = text_of(chinese.with_name(chinese.name.replace(".zh-CN", "")))
    prose_here, prose_there = _FENCE.sub("", here), _FENCE.sub("", there)
    for mark in (r"^#+ ", r"^\|", r"^!\["):
        counts = [len(re.findall(mark, page, re.MULTILINE)) for page in (prose_there, prose_here)]
        assert counts[0] == counts[1], mark
    codes = [
        {re.sub(r"\s+", " ", code) for code in _CODE.findall(page)}
        for page in (prose_there, prose_here)
    ]
    assert codes[0] - codes[1] == set(), "only in English"
    extra = _ONLY_THERE.get(chinese.relative_to(PROJECT).as_posix(), set())
    assert codes[1] - codes[0] == extra, "only in Chinese"
    assert blocks(there) == blocks(here)
