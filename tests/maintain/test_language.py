"""The notebooks in another language: complete, up to date, and graded like the English ones."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from lib.check import check_exercises
from lib.check.exercises import EXERCISES as TRIES
from lib.grade import written
from lib.grade.released import questions, released
from lib.grade.rubric import DEFAULT, load_rubric
from lib.notebook.cells import ASKS, PHRASES, QUESTION, question_hash, read_notebook
from lib.notebook.course import read_course
from lib.notebook.solutions import BEGIN, END, without_solutions
from lib.runtime.fingerprints import code_tokens
from lib.sweep import PLANS
from lib.utils import PROJECT, KitError
from maintain import language
from maintain.answers import ModelAnswer, templates, without_answer
from maintain.catalog import Translation, read_catalog, text_hash
from maintain.student import write_student_edition
from tests.grade.work import answered, as_bytes, ids_that_ask

CHINESE = "zh-CN"
NOTEBOOKS = [file.stem for file in language.notebooks(CHINESE)]
_KIT = ("course.toml", "exercises.py", "lib/notebook/solutions.py")
_MARKS = {
    "code": r"`([^`\n]+)`",
    "formulas": r"(\$\$[^$]+\$\$|\$[^$\n]+\$)",
    "links": r"\]\(([^)]+)\)",
    "headings": r"^(#+) ",
    "rows": r"^(\|).*\|$",
    "regions": r"^<!-- (### (?:BEGIN|END) \w+)",
    "numbered": r"^(\d+\.) ",
    "asks": rf"({ASKS.pattern})",
}


@pytest.fixture(scope="module")
def chinese(tmp_path_factory) -> Path:
    """A little kit whose notebooks are in Chinese."""
    root = tmp_path_factory.mktemp("kit")
    for name in (*_KIT, *(f"{one}.ipynb" for one in NOTEBOOKS)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, root / name)
    list(language.translate(CHINESE, root))
    return root


@pytest.fixture(scope="module")
def edition(chinese, tmp_path_factory) -> Path:
    """The student edition of it."""
    return write_student_edition(tmp_path_factory.mktemp("edition") / "kit", chinese)[0]


def cells_of(file: Path) -> list[dict]:
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def english_texts(name: str) -> dict[str, str]:
    cells = read_notebook(PROJECT / f"{name}.ipynb")
    return {cell.id: without_answer(cell.text) for cell in cells if cell.kind == "markdown"}


# --- the catalogs ---------------------------------------------------------------------------------


def test_each_notebook_has_a_catalog():
    assert {file.stem for file in PROJECT.glob("*.ipynb")} == set(NOTEBOOKS)


def test_no_language_has_moved_on_without_the_other():
    assert list(language.problems(CHINESE)) == []


def marks(text: str) -> dict[str, list[str]]:
    """What is the same in all languages."""
    found = {name: re.findall(mark, text, re.MULTILINE) for name, mark in _MARKS.items()}
    found["links"] = [link.replace(".zh-CN", "") for link in found["links"]]
    found["formulas"] = [re.sub(r"\\text\{[^}]*\}", "text", one) for one in found["formulas"]]
    found["asks"] = ["asks"] * len(found["asks"])
    return {name: sorted(set(one) if name == "code" else one) for name, one in found.items()}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_marks_are_those_of_the_english(name):
    english = english_texts(name)
    for cell, one in read_catalog(CHINESE, name).items():
        assert marks(one.text) == marks(english[cell]), cell


def test_the_code_in_model_answers_is_that_of_the_english():
    english = templates()
    for cell, answer in templates(CHINESE).items():
        assert marks(answer.text)["code"] == marks(english[cell].text)["code"], cell


def test_each_question_that_is_printed_in_english_is_explained():
    listed = re.findall(
        r"^\* (\w+)：", read_catalog(CHINESE, "train")["train-04"].text, re.MULTILINE
    )
    assert listed == [plan.name for plan in PLANS.values()]


def test_the_code_in_exercises_is_that_of_the_english():
    english = language.docstrings_in((PROJECT / "exercises.py").read_text(encoding="utf-8"))
    for name, one in read_catalog(CHINESE, "exercises").items():
        for mark in (r"``([^`]+)``", r"arXiv:[\d.]+", r"X\^\{[^}]+\}|\w+\(p t\)"):
            here, there = (
                {" ".join(code.split()) for code in re.findall(mark, text)}
                for text in (one.text, english[name][1])
            )
            assert here == there, name


@pytest.mark.parametrize("name", [*NOTEBOOKS, "answers"])
def test_all_emphasis_is_shown(name):
    """Between punctuation and a letter asterisks mean nothing: a blank must separate them."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt().enable("table")
    for cell, one in read_catalog(CHINESE, name).items():
        text = re.sub(r"\$[^$]+\$|\*\{[^}]+\}\*", "", one.text)
        shown = re.sub(r"<code>.*?</code>|<!--.*?-->", "", markdown.render(text))
        assert "*" not in shown, cell


def test_the_rubric_has_the_numbers_of_the_english():
    english, chinese = load_rubric(), load_rubric(DEFAULT.with_name(f"rubric.{CHINESE}.toml"))
    for name in ("scale", "tolerance", "largest_lift", "total", "team", "is_placeholder"):
        assert getattr(chinese, name) == getattr(english, name), name
    assert [*chinese.columns.values()] == [*english.columns.values()]
    assert [[least for least, _ in levels] for levels in chinese.levels.values()] == [
        [least for least, _ in levels] for levels in english.levels.values()
    ]
    for name, levels in chinese.levels.items():
        assert all(re.search("[\u4e00-\u9fff]", text) for text in (name, *dict(levels).values()))


# --- translating ----------------------------------------------------------------------------------


def notebook(*cells: dict) -> dict:
    return {"cells": [{"metadata": {}, **cell} for cell in cells]}


def test_text_of_the_kit_is_replaced_and_text_of_others_stays():
    asks = "**Q.** *(Double-click and write.)* Why?"
    question = "**问题。** *(双击本单元格作答。)* 为什么？"
    before = notebook(
        {"cell_type": "markdown", "id": "a", "source": ["Some\n", "text.\n"]},
        {"cell_type": "markdown", "id": "b", "source": ["Changed."]},
        {"cell_type": "markdown", "id": "own", "source": ["Mine."]},
        {"cell_type": "markdown", "id": "q", "source": [asks]},
    )
    texts = {
        "a": Translation(text_hash("Some text."), "文字。"),
        "b": Translation(text_hash("As it was."), "原文。"),
        "q": Translation(text_hash(asks), question),
    }
    found = {"q": ModelAnswer("loss", "因为。")}
    after, kept = language.translated(before, texts, {}, found, CHINESE)
    text, changed, own, asked = after["cells"]
    assert (text["source"], changed, own) == (["文字。"], *before["cells"][1:3])
    assert kept == ["b", "own"]
    assert "".join(asked["source"]).splitlines() == [
        *(question, "", f"<!-- {BEGIN} -->", "*参考答案。* 因为。", f"<!-- {END} -->")
    ]
    assert asked["metadata"][QUESTION] == question_hash(question)
    assert language.translated(after, texts, {}, found, CHINESE) == (after, kept)


def test_comments_are_replaced_and_code_is_not():
    code = f'a = "# one"  # one\n# two, é\n{BEGIN}: three\nb = 1\n{END}\n# mine\n'
    comments = {"one": "一", "two, é": "二", "three": "三"}
    assert language.with_comments(code, comments) == (
        f'a = "# one"  # 一\n# 二\n{BEGIN}: 三\nb = 1\n{END}\n# mine\n'
    )


def test_docstrings_of_the_kit_are_replaced_and_others_stay():
    code = (
        '"""The file."""\n\n\nclass A:\n    """One.\n\n    More.\n    """\n\n'
        '    def f(self):\n        """Two, changed."""\n        return """Two."""\n'
    )
    texts = {
        "module": Translation(text_hash("The file."), "文件。"),
        "A": Translation(text_hash("One.\n\nMore."), "一。\n\n更多。"),
        "A-f": Translation(text_hash("Two."), "二。"),
    }
    after, kept = language.with_docstrings(code, texts)
    assert after == (
        '"""文件。"""\n\n\nclass A:\n    """一。\n\n    更多。\n    """\n\n'
        '    def f(self):\n        """Two, changed."""\n        return """Two."""\n'
    )
    assert kept == ["A-f"]
    assert language.with_docstrings(after, texts) == (after, kept)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('data = ""\n# Of it.\nlanguage = "en"\n', 'data = ""\n# Of it.\nlanguage = "zh-CN"\n'),
        ("data = 1\n", 'data = 1\n\nlanguage = "zh-CN"\n'),
        ("language='en'\n", 'language = "zh-CN"\n'),
        ('  language = "en"  # remark\n', 'language = "zh-CN"\n'),
    ],
)
def test_the_course_has_the_language(before, after):
    assert language.with_language(before, CHINESE) == after


def test_a_course_that_is_no_toml_stays_as_it_is():
    with pytest.raises(KitError, match=r"course\.toml: .*; correct it"):
        language.with_language('language = "en"\nlanguage = "en"\n', CHINESE)


def test_the_notebooks_differ_in_words_alone(chinese):
    for name in NOTEBOOKS:
        before, after = (cells_of(root / f"{name}.ipynb") for root in (PROJECT, chinese))
        for there, here in zip(before, after, strict=True):
            if there["cell_type"] == "code":
                python = TransformerManager().transform_cell  # of lines that begin with ! or %
                assert code_tokens(python(there["source"])) == code_tokens(python(here["source"]))
                assert here | {"source": ""} == there | {"source": ""}
            else:
                assert re.search("[\u4e00-\u9fff]", here["source"]), here["id"]
                known = there["metadata"] | {QUESTION: ""}
                assert here["metadata"] | {QUESTION: ""} == known
    assert list(language.problems(CHINESE, chinese)) == []
    files = {file: file.read_bytes() for file in chinese.iterdir() if file.is_file()}
    *lines, last = language.translate(CHINESE, chinese)
    assert lines == [f"{one}.ipynb: zh-CN" for one in NOTEBOOKS] + ["exercises.py: zh-CN"]
    assert last == 'course.toml: language = "zh-CN"'
    assert all(file.read_bytes() == content for file, content in files.items())


# --- the student edition and its answers ----------------------------------------------------------


def test_the_student_edition_is_stripped_as_in_english(chinese, edition):
    assert read_course(edition / "course.toml").language == CHINESE
    phrases = PHRASES[CHINESE]
    for name in NOTEBOOKS:
        here = {cell["id"]: cell for cell in cells_of(edition / f"{name}.ipynb")}
        there = {
            cell["id"]: without_solutions(cell["source"], "").strip()
            for cell in cells_of(PROJECT / f"{name}.ipynb")
        }
        assert list(here) == [cell for cell, text in there.items() if text]
        text = "\n".join(cell["source"] for cell in here.values())
        assert "###" not in re.sub("^###+ ", "", text, flags=re.MULTILINE)
        assert phrases.model_answer not in text and "YOUR TURN" not in text
        tagged = [cell for cell in here.values() if "your-turn" in cell["metadata"].get("tags", ())]
        assert tagged
        for cell in tagged:
            assert (phrases.in_code, phrases.in_text)[cell["cell_type"] == "markdown"] in (
                cell["source"]
            )


def test_the_exercises_work_as_in_english(chinese):
    """By what checks them, and by the grader's reader."""
    spec = importlib.util.spec_from_file_location("exercises", chinese / "exercises.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checks = list(check_exercises(module))
    assert len(checks) > len(TRIES) and all(check.passed for check in checks)
    here, there = (
        (root / "exercises.py").read_text(encoding="utf-8") for root in (chinese, PROJECT)
    )
    assert code_tokens(here) == code_tokens(there)
    assert all(written.exercises_in(chinese / "exercises.py").values())
    for name, (_, text) in language.docstrings_in(here).items():
        assert re.search("[\u4e00-\u9fff]", text), name


def test_the_exercises_of_the_edition_are_to_be_written(edition, tmp_path):
    text = (edition / "exercises.py").read_text(encoding="utf-8")
    names = read_course(PROJECT / "course.toml").exercises
    assert written.exercises_in(edition / "exercises.py") == {name: [] for name in names}
    assert text.count(PHRASES[CHINESE].in_code) == len(names) and "YOUR TURN" not in text
    one_line = re.sub(r"( *)# 轮到你了.*", r"\1return 1", text, count=1)
    (tmp_path / "exercises.py").write_text(one_line, encoding="utf-8")
    found = written.exercises_in(tmp_path / "exercises.py")
    assert [name for name, lines in found.items() if lines] == [names[0]]


def test_questions_have_their_parts(chinese):
    english = questions()
    for key, question in questions(chinese).items():
        assert (bool(question.title), bool(question.section)) == (
            bool(english[key].title),
            bool(english[key].section),
        )
        assert not ASKS.search(question.text) and "*" not in question.title
        assert question.model_answer and "参考答案" not in question.model_answer


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_answers_in_it_are_seen(chinese, edition, name, tmp_path, monkeypatch):
    """By pack, which counts them, and by the grader, which reads them."""
    monkeypatch.setattr(written, "released", lambda: released(chinese))
    content = {"cells": cells_of(edition / f"{name}.ipynb")}
    first, *others = ids_that_ask(content)
    file = tmp_path / f"{name}.ipynb"
    for answers in ({}, {first: "因为样本更多。"}):
        file.write_bytes(as_bytes(answered(content, answers)))
        assert {cell.id for cell in read_notebook(file) if cell.is_answered} == set(answers)
        found = written.read_written(tmp_path).answers
        lines = {one.key.removeprefix(f"{name}-"): one.lines for one in found}
        assert {cell for cell, text in lines.items() if text} == set(answers)
        assert set(lines) == {first, *others}  # no cell counts as the student's own
    assert lines[first] == ["因为样本更多。"]
    cell = next(one for one in content["cells"] if one["id"] == first)
    cell["source"] = f"{cell['source']} 它有帮助。"  # behind the placeholder
    file.write_bytes(as_bytes(content))
    assert written.read_written(tmp_path).answers[0].lines == ["它有帮助。"]
