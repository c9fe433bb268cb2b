"""The page of what was measured on the phantom says what the tables have."""

from lib.sweep import Plan
from lib.sweep.measured import BASE, recipe_of
from lib.utils import PROJECT
from maintain import findings
from maintain.evidence import BEST


def test_the_pages_say_what_the_tables_have():
    assert findings.PAGE.read_text(encoding="utf-8") == findings.page()
    overview = (PROJECT / "result" / "reference" / "README.md").read_text(encoding="utf-8")
    assert findings.in_words() in " ".join(overview.split())


def test_a_question_counts_by_its_least_measured_variant():
    counts = findings.runs_of_recipes()
    assert findings.seeds_of(BEST, counts) >= 5
    half = Plan("half", "?", {"baseline": {}, "another": {"lr": 0.0123}})
    assert findings.seeds_of(half, counts) == 0
    counts[recipe_of(half.configs(BASE)["another"])] = 3
    assert findings.seeds_of(half, counts) == 3


def test_what_is_not_measured_is_named(tmp_path):
    text = findings.page(tmp_path)
    assert "Not measured yet: best recipe, best ladder, sampling, loss" in text
    assert "##" not in text.split("Not measured yet")[1]
