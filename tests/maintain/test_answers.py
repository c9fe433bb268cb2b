"""The model answers: each question has one, with the numbers of the tables."""

from __future__ import annotations

import re

import pytest

from lib.grade.released import questions
from lib.notebook.cells import PLAN, QUESTION, question_hash
from lib.utils import PROJECT, KitError
from maintain import answers
from maintain.answers import ModelAnswer, with_answers, written

NOTEBOOKS = sorted(PROJECT.glob("*.ipynb"))


@pytest.fixture(scope="module")
def found():
    return answers.answers()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_the_notebooks_have_the_answers_as_they_are_generated(file, found):
    assert file.read_text(encoding="utf-8") == written(file, found)


def test_every_question_has_an_answer_of_a_few_sentences(found):
    asked = {key.partition("-")[2]: one for key, one in questions().items()}
    assert set(found) == set(asked)
    for cell, answer in found.items():
        # a full stop within a number or a name ends no sentence
        sentences = re.findall(r"[.:?](?=\s+[A-Z`*]|$)", answer.text)
        assert 1 <= len(sentences) <= 8, cell
        assert "{" not in answer.text and "[[" not in answer.text
        assert " ".join(answer.text.split()) in asked[cell].model_answer
        assert answer.text[:40] not in asked[cell].text


def cell(text: str) -> dict:
    return {"cell_type": "markdown", "id": "a", "metadata": {}, "source": [text]}


def test_an_answer_is_a_solution_and_writing_it_twice_changes_nothing():
    asks = "**Q.** *(Double-click and write.)* Why?"
    notebook = {"cells": [cell(asks), {**cell("no question"), "id": "b"}]}
    first = with_answers(notebook, {"a": ModelAnswer("loss", "Because.")})
    second = with_answers(first, {"a": ModelAnswer("loss", "Because.")})
    assert first == second and first["cells"][1] == notebook["cells"][1]
    [answered, _] = first["cells"]
    assert "".join(answered["source"]).splitlines() == [
        *(asks, "", "<!-- ### BEGIN SOLUTION -->"),
        *("*Model answer.* Because.", "<!-- ### END SOLUTION -->"),
    ]
    assert answered["metadata"][PLAN] == "loss"
    assert answered["metadata"][QUESTION] == question_hash(asks)
    assert answered["metadata"]["nbgrader"]["grade_id"] == "a"
    without = with_answers(first, {"a": ModelAnswer("loss", "")})["cells"][0]
    assert "".join(without["source"]) == asks


def test_a_question_that_is_not_the_kits_keeps_what_was_written():
    asks = "**Q.** *(Double-click and write.)* Why?\n\n<!-- ### BEGIN SOLUTION -->\nMine.\n"
    own = {"cells": [cell(asks), {key: value for key, value in cell(asks).items() if key != "id"}]}
    assert with_answers(own, {"b": ModelAnswer("loss", "Because.")}) == own


def test_what_is_not_measured_is_left_out_and_what_is_unknown_named(tmp_path):
    file = tmp_path / "a.md"
    file.write_text("## x · loss\n\nYes.[[ By {none[a].mean}.]] {loss[IoU].mean}\n")
    known = answers.numbers()["loss"]["IoU"].mean
    assert answers.answers(file=file) == {"x": ModelAnswer("loss", f"Yes. {known}")}
    for text in ("{none[a].mean}", "{loss[L1].mean}", "{loss[IoU].size}", "[[{loss[L1].mean}]]"):
        file.write_text(f"## x\n\n{text}\n")
        with pytest.raises(KitError, match="correct it"):
            answers.answers(file=file)
