"""The tutorial for instructors: its commands run as they stand, and print what it shows."""

import re

import pytest

from lib.grade.gradebook import COMMENT
from lib.grade.rubric import load_rubric
from lib.utils import KitError
from maintain.tutorial import CHINESE, PAGE, copied_kit, filled, run_page, with_blocks_of, words
from tests.grade.tutorial import ANSWERS, MARKS, STUDENTS, _rubric


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    assert words(filled(text, copied_kit(tmp_path / "kit"))) == words(text)


def test_blocks_run_in_order_and_show_what_they_print(tmp_path):
    text = "a\n```sh\necho 1 > x\n```\nb\n```sh\ncat x\n```\n\n```text\nold\n```\nc\n"
    assert filled(text, tmp_path) == text.replace("old", "1")
    assert words("a  0.123, 45\n") == "a #, #\n"


def test_the_chinese_page_has_the_same_blocks():
    page, chinese = (file.read_text(encoding="utf-8") for file in (PAGE, CHINESE))
    assert with_blocks_of(chinese, page) == chinese
    other = re.sub(r"held( +)0\.\d{3}", r"held\g<1>9.999", page)
    assert re.search(r"held +9\.999", with_blocks_of(chinese, other))
    with pytest.raises(KitError, match="write the same commands"):
        with_blocks_of("```sh\nls\n```\n", page)


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(KitError, match="false \\| true"):
        list(run_page("```sh\nfalse | true\n```\n", tmp_path))


def test_the_marks_are_possible(tmp_path):
    (tmp_path / "r.toml").write_text(_rubric(), encoding="utf-8")
    columns = load_rubric(tmp_path / "r.toml").columns
    assert set(MARKS) == set(STUDENTS) == set(ANSWERS) and COMMENT not in columns
    for *points, _ in MARKS.values():
        assert all(0 <= one <= most for one, most in zip(points, columns.values(), strict=True))
