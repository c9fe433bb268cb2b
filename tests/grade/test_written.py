"""What students wrote and trained, as the child that grades extracts it, whatever they submit."""

from __future__ import annotations

import ast
import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from lib.grade.archive import content_hash, unpack, write_zip
from lib.grade.released import heading, questions, released, released_hash
from lib.grade.result import Result
from lib.grade.student_work import (
    MAX_ANSWERS,
    MAX_LETTERS,
    MAX_TRAINED,
    MAX_WORDS,
    Answer,
    Trained,
    Verdict,
    Written,
)
from lib.grade.submission import READ
from lib.grade.tried import POINTS
from lib.grade.trouble import GraderError
from lib.grade.written import exercises_in, exercises_of, read_written
from lib.notebook.cells import ENGLISH, PHRASES, read_notebook
from lib.utils import PROJECT, KitError
from maintain.student import write_student_edition
from tests.grade.demo import edit_json, edit_table, run_of
from tests.grade.work import (
    answered,
    as_bytes,
    ids_that_ask,
    student_notebook,
    with_cells,
    with_plan,
)

PLAN = {"frozen": ({"sampling": "frozen"}, 0.0), "fresh": ({}, 0.05)}


@pytest.fixture
def read(tmp_path):
    """A function that unpacks files as the grader does, and reads them."""

    def one(files: dict[str, bytes]) -> Written:
        folder = tmp_path / "unpacked"
        shutil.rmtree(folder, ignore_errors=True)
        write_zip(tmp_path / "x.zip", files)
        unpack(tmp_path / "x.zip", folder, READ)
        return sound(read_written(folder))

    return one


def sound(written: Written) -> Written:
    """The same, once it went through JSON and was checked as the parent checks it."""
    result = Result("x.zip", "x", "refused", written=written)
    return Result.from_dict(json.loads(json.dumps(asdict(result)))).written


def answers(written: Written) -> dict[str, list[str]]:
    return {answer.key: answer.lines for answer in written.answers if answer.key}


def own(written: Written) -> list[list[str]]:
    return [answer.lines for answer in written.answers if not answer.key]


def notebook(*cells: object) -> bytes:
    return json.dumps({"cells": cells, "nbformat": 4}).encode()


@pytest.fixture
def edition(tmp_path):
    """The student edition's train.ipynb, as students get it."""
    folder, _ = write_student_edition(tmp_path / "edition")
    content = json.loads((folder / "train.ipynb").read_text(encoding="utf-8"))
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"])
    return content


# --- notebooks ------------------------------------------------------------------------------------


def test_the_questions_of_the_kit():
    found = questions()
    assert len(found) >= 20 and len({one.name for one in found.values()}) == len(found)
    first = found["train-train-09"]
    assert first.name == "train · Fresh samples · Your prediction"
    assert first.text.startswith("Does `fresh` help") and "Double-click" not in first.text
    assert not any("\n##" in one.text or "SOLUTION" in one.text for one in found.values())


def test_only_the_notebooks_of_the_course_are_released(tmp_path):
    for name in ("train.ipynb", "inference.ipynb", "train-Copy1.ipynb"):
        shutil.copy(PROJECT / "train.ipynb", tmp_path / name)
    for name in ("Untitled.ipynb", "._train.ipynb"):
        (tmp_path / name).touch()
    assert list(released(tmp_path)) == ["train.ipynb", "inference.ipynb"]


def test_what_is_read_of_the_released_notebooks_has_a_hash(tmp_path):
    file = tmp_path / "train.ipynb"
    hashes = []
    for edit in (
        lambda cells: None,
        lambda cells: [cell.pop("outputs", None) for cell in cells],
        lambda cells: cells[0]["source"].append(" More."),
        lambda cells: cells.reverse(),
    ):
        content = json.loads((PROJECT / "train.ipynb").read_text(encoding="utf-8"))
        edit(content["cells"])
        file.write_text(json.dumps(content), encoding="utf-8")
        hashes.append(released_hash(tmp_path))
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_a_broken_notebook_of_the_instructor_is_no_remark_on_a_student(ada, read, monkeypatch):
    def broken():
        raise KitError("train.ipynb: is no notebook; save it in Jupyter again")

    monkeypatch.setattr("lib.grade.written.released", broken)
    with pytest.raises(GraderError, match="is no notebook"):
        read(ada)


@pytest.mark.parametrize("name", ["train.ipynb", "train_best.ipynb"])
def test_a_released_notebook_has_no_answer(ada, read, name):
    for content in ((PROJECT / name).read_bytes(), as_bytes(student_notebook(name))):
        written = read({**ada, name: content})
        assert not any(answers(written).values()) and not own(written)


def test_the_student_edition_has_no_answer(ada, read, edition):
    for cell in edition["cells"]:
        cell.pop("id")  # old formats have none
    assert not any(answers(read({**ada, "train.ipynb": as_bytes(edition)})).values())


def test_answers_below_the_question_and_in_its_line(ada, read, edition):
    place = ids_that_ask(edition)[0]
    for text in ("Yes.\n\nBy 0.05:\t\u03b1 < \u03b2", "Ja, 是的"):
        content = as_bytes(answered(edition, {place: text}))
        found = answers(read({**ada, "train.ipynb": content}))
        assert found[f"train-{place}"] == text.split("\n")
        assert sum(map(bool, found.values())) == 1
    cell = next(cell for cell in edition["cells"] if cell["id"] == place)
    cell["source"] = cell["source"].rstrip() + " It does not help."
    found = answers(read({**ada, "train.ipynb": as_bytes(edition)}))
    assert found[f"train-{place}"] == ["It does not help."]


def test_an_answer_in_place_of_the_question(ada, read, edition):
    place = ids_that_ask(edition)[2]
    cell = next(cell for cell in edition["cells"] if cell["id"] == place)
    for _ in range(2):  # the id tells which question it was, else the hash
        cell["source"] = ["It helps.\n", "A lot."]
        found = answers(read({**ada, "train.ipynb": as_bytes(edition)}))
        assert found[f"train-{place}"] == ["It helps.", "A lot."]
        for one in edition["cells"]:
            one.pop("id", None)


def test_an_answer_in_a_cell_of_its_own_below_the_question(ada, read, edition):
    first, second = ids_that_ask(edition)[:2]
    content = with_cells(answered(edition, {first: "One."}), first, "Two.", "Three.")
    written = read({**ada, "train.ipynb": as_bytes(content)})
    assert answers(written)[f"train-{first}"] == ["One.", "", "Two.", "", "Three."]
    assert answers(written)[f"train-{second}"] == [] and not own(written)


@pytest.mark.parametrize("has_ids", [True, False])
def test_an_answer_in_a_cell_of_code_below_the_question(ada, read, edition, has_ids):
    """New cells are code; of old formats no cell has an id."""
    place = ids_that_ask(edition)[0]
    below = next(i for i, cell in enumerate(edition["cells"]) if cell["id"] == place) + 1
    assert edition["cells"][below]["cell_type"] == "code"  # a released one
    edition["cells"][below]["source"] += "\n# seeds = 3"
    first = edition["cells"][below]["source"].splitlines()[0] if has_ids else "print(0.05)"
    content = with_cells(edition, place, f"# By 0.05.\n{first}", kind="code")
    content = with_cells(content, edition["cells"][below]["id"], "# a trial", kind="code")
    if not has_ids:
        content["cells"] = [
            {name: value for name, value in cell.items() if name != "id"}
            for cell in content["cells"]
        ]
    written = read({**ada, "train.ipynb": as_bytes(content)})
    found = {key: lines for key, lines in answers(written).items() if lines}
    assert found == {f"train-{place}": ["# By 0.05.", first]} and not own(written)


@pytest.mark.parametrize("kind", ["raw", "code"])
def test_a_key_that_makes_another_kind_of_a_cell_loses_no_answer(ada, read, edition, kind):
    """In Jupyter r makes raw text of the cell, and y code."""
    place, other = ids_that_ask(edition)[:2]
    content = with_cells(answered(edition, {place: "It helps."}), other, "By a lot.")
    for cell in content["cells"]:
        if cell["id"] == place:
            cell["cell_type"] = kind
        if cell["id"] == "own-0":
            cell["cell_type"] = "raw"
    written = read({**ada, "train.ipynb": as_bytes(content)})
    assert answers(written)[f"train-{place}"] == ["It helps."]
    assert answers(written)[f"train-{other}"] == ["By a lot."] and not written.remarks


def test_cells_of_their_own_elsewhere(ada, read, edition):
    place = edition["cells"][0]["id"]
    content = with_cells(edition, place, "## Note\nMine.", edition["cells"][0]["source"])
    written = read({**ada, "train.ipynb": as_bytes(content), "mine.ipynb": notebook(
        {"cell_type": "markdown", "source": "My notebook."}, {"cell_type": "code", "source": "1"}
    )})  # fmt: skip
    assert own(written) == [["## Note", "Mine."], ["My notebook."]]  # and no copy of ours


def test_a_released_cell_that_was_changed_shows_what_is_new(ada, read):
    content, placeholder = student_notebook("train_best.ipynb"), PHRASES[ENGLISH].in_text
    cell = next(cell for cell in content["cells"] if placeholder in cell["source"])
    line = next(line for line in cell["source"].splitlines() if line.startswith(placeholder))
    cell["source"] = cell["source"].replace(line, "3. **more epochs**")
    assert own(read({**ada, "train_best.ipynb": as_bytes(content)})) == [["3. **more epochs**"]]


def test_a_notebook_that_was_run_elsewhere_counts_if_the_other_is_missing(ada, read, edition):
    place = ids_that_ask(edition)[0]
    files = {name: content for name, content in ada.items() if not name.endswith(".ipynb")}
    written = read(files)
    assert "train.ipynb is not in the submission, or was left out." in written.remarks
    content = as_bytes(answered(edition, {place: "Yes."}))
    found = answers(read({**files, "result/notebooks/train.ipynb": content}))
    assert found[f"train-{place}"] == ["Yes."]


def test_answers_in_a_copy_under_another_name_are_read(ada, read, edition):
    """Jupyter duplicates a notebook as train-Copy1.ipynb; the student goes on in that."""
    first, second = ids_that_ask(edition)[:2]
    copy = as_bytes(answered(edition, {first: "Yes.", second: "No."}))
    files = {**ada, "train.ipynb": as_bytes(edition), "train-Copy1.ipynb": copy}
    written = read(files)
    found = answers(written)
    assert (found[f"train-{first}"], found[f"train-{second}"]) == (["Yes."], ["No."])
    assert any("is answered in train-Copy1.ipynb" in one for one in written.remarks)
    assert not own(written)
    less = as_bytes(answered(edition, {first: "Old."}))
    found = answers(read({**files, "train.ipynb": copy, "train-Copy1.ipynb": less}))
    assert found[f"train-{first}"] == ["Yes."]


def test_a_question_that_was_deleted_is_named(ada, read, edition):
    place = ids_that_ask(edition)[0]
    edition["cells"] = [cell for cell in edition["cells"] if cell["id"] != place]
    written = read({**ada, "train.ipynb": as_bytes(edition)})
    assert any("lacks 1 cells that ask, below: Fresh samples" in one for one in written.remarks)


@pytest.mark.parametrize(
    "content",
    [
        b'{"cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[]",
        b"null",
        b'{"cells": {}}',
        b"no JSON",
        b"\xff\xfe\x00",
        b"",
    ],
    ids=["deep", "list", "null", "object", "text", "bytes", "empty"],
)
def test_notebooks_that_are_none_are_remarks(ada, read, content):
    written = read({**ada, "train.ipynb": content})
    assert any(remark.startswith("train.ipynb: ") for remark in written.remarks)
    assert written.runs[0].best is not None


def test_cells_that_are_none(ada, read):
    odd = [
        7,
        None,
        [],
        {},
        {"cell_type": [], "source": 5, "id": {}, "metadata": []},
        {"cell_type": "markdown", "source": ["a", 5, None, "b"], "metadata": {"question": 5}},
        {"cell_type": "markdown", "source": "\ud800 lone \u202e turned\x1b[31m \x85 next"},
        {"cell_type": "markdown", "source": "x", "outputs": float("nan")},
    ]
    texts = own(read({**ada, "train.ipynb": notebook(*odd)}))
    assert texts[0] == ["ab"] and texts[2] == ["x"]
    assert texts[1][0].startswith("\\ud800 lone \\u202e turned\\x1b[31m")


def test_megabytes_of_text_are_cut(ada, read):
    letters = "".join(random.Random(0).choices("ab\U0001f600 ", k=2_000_000))  # no bomb
    long = {"cell_type": "markdown", "source": letters}
    lines = {"cell_type": "markdown", "source": "\n".join(letters[:100_000])}
    many = [{"cell_type": "markdown", "source": letters[i * 3000 :][:9_000]} for i in range(600)]
    written = read({**ada, "train.ipynb": notebook(long, lines, *many)})
    assert len(written.answers) <= MAX_ANSWERS
    assert all(answer.letters <= MAX_LETTERS for answer in written.answers)
    assert sum(answer.letters for answer in written.answers) <= MAX_WORDS
    cut = [answer.is_cut for answer in written.answers if not answer.key]
    assert cut[:3] == [True, True, False] and cut[-1]
    assert len(json.dumps(written)) < 16 * 2**20  # a worker's answer has at most 32 MiB


def test_a_notebook_that_is_a_bomb_leaves_the_score_alone(ada, examine):
    bomb = notebook({"cell_type": "markdown", "source": "a" * (30 * 2**20)})
    result = examine({**ada, "train.ipynb": bomb, "Read.md": b"a", "read.md": b"b"})
    assert result["status"] == "computed" and result["written"].runs[0].best is not None
    assert [finding.name for finding in result["findings"]].count("files left out") == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("# A", (1, "A")), ("   ### A b ## ", (3, "A b")), ("##\tA", (2, "A")), ("# #", (1, "")),
        ("    # A", (0, "")), ("#A", (0, "")), ("", (0, "")), ("####### A", (0, "")), ("#", (0, ""))
    ],
)  # fmt: skip
def test_headings_are_those_of_markdown(line, found):
    assert heading(line) == found


def test_lines_that_a_pattern_would_take_hours_for(ada, read):
    text = "\n".join(["# " + " #" * 5_000 + "x", "# " + " " * 50_000 + "x", "#" * 50_000] * 9)
    texts = read(
        {**ada, "train.ipynb": notebook({"cell_type": "markdown", "source": text})}
    ).answers
    assert all(len(answer.title) <= 120 for answer in texts)


def test_other_words_are_another_submission(ada, tmp_path):
    hashes = set()
    for name, text in (("a.md", "a"), ("a.md", "b"), ("a.ipynb", "c"), ("a.txt", "d")):
        (tmp_path / name).write_text(text)
        hashes.add(content_hash(tmp_path, READ))
    assert len(hashes) == 3  # by it a grader sees that something changed since it was marked


# --- exercises ------------------------------------------------------------------------------------

LOSS = '''class DiceLoss(nn.Module):
    """A loss."""

    def forward(self, logits, target):
        """Return the loss."""
'''


@pytest.mark.parametrize(
    ("source", "written"),
    [
        (LOSS, False),
        (f"{LOSS}        pass\n", False),
        (f"{LOSS}        return 1\n", True),
        (f"{LOSS}        return 1\n\n    def reset(self):\n        pass\n", True),
        (f"{LOSS}\n    def reset(self):\n        self.sum = 0\n", False),
        ("class DiceLoss(nn.Module):\n    pass\n", False),
        ("def DiceLoss(p, t):\n    def on(epoch): ...\n    return Loss(p, t, on)\n", True),
        ("def DiceLoss(p, t):\n    ...\n", False),
        ("DiceLoss = lambda p, t: 1 - p * t\n", True),
        ("DiceLoss: Loss = lambda p, t: 1 - p * t\n", True),
    ],
)
def test_an_exercise_is_written_if_what_was_handed_out_does_something(tmp_path, source, written):
    (tmp_path / "exercises.py").write_text(f"SMOOTH = 1\n{source}_own = lambda: 0\n")
    found = exercises_in(tmp_path / "exercises.py")
    assert list(found) == ["DiceLoss"] and bool(found["DiceLoss"]) is written


def test_the_solution_of_every_class_is_in_its_forward():
    """By it the class is known as written."""
    tree = ast.parse((PROJECT / "exercises.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            assert "forward" in [part.name for part in node.body if hasattr(part, "name")]


@pytest.mark.parametrize(
    "content",
    [
        "def dsc():\n    return '\u5206'\n".encode("utf-8-sig"),
        "# coding: gbk\n\ndef dsc():\n    return '\u5206'\n".encode("gbk"),
        "# \x0c \x1c \x85 \u2028 end no line\ndef dsc():\n    return '\u5206'\n".encode(),
        "# a\r\n\r\ndef dsc():\r\n    return '\u5206'\r\n".encode(),
        "# a\r\rdef dsc():\r    return '\u5206'\r".encode(),
    ],
    ids=["mark", "gbk", "other ends", "windows", "mac"],
)
def test_exercises_are_read_as_python_reads_them(ada, read, content):
    found = {one.title: one for one in read({**ada, "exercises.py": content}).exercises}
    assert found["dsc"].lines == ["def dsc():", "    return '\u5206'"]


def test_exercises_are_those_of_the_course(tmp_path):
    """The student's own code comes after them, and is none; one that is taken is not written."""
    file = tmp_path / "exercises.py"
    file.write_text(
        "import lib\nfrom lib.loss import DiceLoss\ndsc = lib.metrics.dsc\n"
        "def helper():\n    return 1\n\n\ndef cosine():\n    return 1\n"
    )
    found = exercises_of(file, ["DiceLoss", "dsc", "cosine", "mirror"])
    assert [(one.key, bool(one.lines), one.problem) for one in found] == [
        ("DiceLoss", False, "not written here, but taken: from lib.loss import DiceLoss"),
        ("dsc", False, "not written here, but taken: dsc = lib.metrics.dsc"),
        ("cosine", True, ""),
        ("mirror", False, "is gone"),
        ("", True, ""),
    ]
    file.write_text("from lib.metrics import *\n")
    assert "import *" in exercises_of(file, ["dsc"])[0].problem
    assert [one.key for one in exercises_of(file, [])] == []
    assert exercises_of(tmp_path / "none.py", ["dsc"])[0].problem == "no exercises.py"


@pytest.mark.parametrize(
    "content", [b"# coding: rot13\n", b"# coding: no\n", b"\xff", b"def (", b"\0"]
)
def test_exercises_that_are_no_python_are_a_remark(ada, read, content):
    written = read({**ada, "exercises.py": content})
    assert not written.exercises
    assert any(one.startswith("exercises.py cannot be read: ") for one in written.remarks)


# --- runs -----------------------------------------------------------------------------------------


def test_the_runs_and_verdicts_of_a_plan(ada, read):
    written = read(with_plan(ada, "sampling", PLAN, noise=0.001))
    assert [run.places for run in written.runs[1:]] == [
        [["sampling", "frozen"]],
        [["sampling", "fresh"]],
    ]
    fresh = written.runs[2]
    assert fresh.changes.endswith("sampling fresh, seed 0, precision fp32")
    assert (fresh.epochs, fresh.seconds, len(fresh.curve)) == (24, 95.5, 24)
    assert fresh.last == pytest.approx(fresh.curve[-1][1], abs=1e-6)
    (verdict,) = written.verdicts
    assert (verdict.label, verdict.against, verdict.changed) == (
        "fresh",
        "frozen",
        "sampling fresh",
    )
    assert verdict.difference == pytest.approx(0.05, abs=0.02) and verdict.patients == 4
    assert "sampling" not in verdict.base and "seed" not in verdict.base


def test_a_ladder_compares_each_step_with_the_one_before(ada, read):
    steps = {"a": ({}, 0.0), "b": ({"ema": 0.9}, 0.02), "c": ({"ema": 0.9, "clip": 1.0}, 0.04)}
    written = read(with_plan(ada, "ladder", steps, ladder=True))
    assert [(one.label, one.against, one.changed) for one in written.verdicts] == [
        ("b", "a", "ema 0.9"),
        ("c", "b", "clip 1.0"),
    ]
    assert len({one.base for one in written.verdicts}) == 1
    other = read(with_plan(ada, "ladder", steps))
    assert [one.against for one in other.verdicts] == ["a", "a"]


def test_several_seeds_are_one_variant(ada, read):
    files = with_plan(with_plan(ada, "sampling", PLAN, seed=1), "sampling", PLAN, seed=2)
    (verdict,) = read(files).verdicts
    assert sorted(verdict.seeds) == [1, 2]


def test_runs_that_cannot_be_compared_have_a_sentence(ada, read):
    variants = {**PLAN, "large": ({"image_size": 64}, 0.0)}
    files = with_plan(ada, "sampling", variants)
    name = "result/runs/sampling-1-0/cases.csv"
    files[name] = edit_table(files[name], lambda table: table.iloc[[0, 0, 1]])
    first, second = read(files).verdicts
    assert "a patient twice" in first.problem and not first.verdict
    assert second.metric == "dsc_native" and second.verdict
    files[name] = edit_table(files[name], lambda table: table.iloc[:1])
    assert "other patients" in read(files).verdicts[0].problem


@pytest.mark.parametrize(
    "places",
    [
        5,
        [5, None, {}, {"plan": 5}],
        [{"plan": "x", "group": "g", "position": 10**400, "label": "y" * 10**5, "ladder": False}],
        [{"plan": "<script>\ud800", "group": [], "position": 0, "label": "a"}],
    ],
)
def test_places_that_are_none(ada, read, places):
    files = with_plan(ada, "sampling", PLAN)
    for i in range(2):
        name = f"result/runs/sampling-{i}-0/run.json"
        changed = {"places": places, "plans": [{}, "sampling"], "seconds": "5"}
        files[name] = edit_json(files[name], **changed)
    written = read(files)
    assert len(written.runs) == 3 and not any(run.problem for run in written.runs)
    assert all(run.seconds is None for run in written.runs[1:])
    assert len(written.verdicts) == 1


def test_tables_with_nan_are_a_sentence(ada, read):
    files = with_plan(ada, "sampling", PLAN)
    name = "result/runs/sampling-0-0/history.csv"
    files[name] = edit_table(files[name], lambda table: table.assign(val_dsc=float("nan")))
    bad = next(run for run in read(files).runs if run.run == "sampling-0-0")
    assert "val_dsc of row 1" in bad.problem and bad.curve == []


def test_long_curves_are_thinned_out_and_many_runs_left_out(ada, read):
    run = run_of(ada)
    long = edit_table(
        ada[f"{run}/history.csv"],
        lambda table: table.loc[table.index.repeat(10_000)].assign(epoch=range(1, 50_001)),
    )
    table = next(name for name in ada if "uexec_result" in name)
    many = edit_table(
        ada[table],
        lambda rows: rows.loc[rows.index.repeat(200)].assign(
            run_id=[f"r{i}" for i in range(200 * len(rows))]
        ),
    )
    (only,) = read({**ada, f"{run}/history.csv": long}).runs
    assert len(only.curve) == POINTS and only.curve[-1][0] == 50_000
    written = read({**ada, table: many})
    assert len(written.runs) == MAX_TRAINED and "the first 200 are shown" in written.remarks[0]
    assert "run.json is missing" in written.runs[0].problem


def test_without_results_the_words_are_read(ada, read, edition):
    place = ids_that_ask(edition)[0]
    content = as_bytes(answered(edition, {place: "Yes."}))
    written = read({"train.ipynb": content})
    assert answers(written)[f"train-{place}"] == ["Yes."] and not written.runs
    assert written.remarks[0].startswith("No runs: ")


# --- the form in which it is sent -----------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        {},
        "abcd",
        [[], [], []],
        [[], [], [], "text"],
        [[["a", "b", "c", "no list", False]], [], [], []],
        [[["a", "b", "c", ["x" * (MAX_LETTERS + 1)], False]], [], [], []],
        [[["a", "b", "c", [], False]] * (MAX_ANSWERS + 1), [], [], []],
        [[["a", "b", "c", ["x" * 19_000], False]] * 50, [], [], []],
        [[["a", "b", "c", ["\u2028"], False]], [], [], []],
        [[], [["run", [["plan"]]]], [], []],
        [[], [["run", [], "", None, None, None, None, [[1, 1e300]]]], [], []],
        [[], [["run", [], "", "0.5"]], [], []],
        [[], [["run", []]] * (MAX_TRAINED + 1), [], []],
        [[], [], [["plan", "label", "against", *[""] * 5, None, ["seed"]]], []],
        [[], [], [["plan", "label", "against", *[""] * 5, None, [], 1, 1, 1, 1, "great"]], []],
        [[], [], [["plan", "label", "against", *[""] * 5, None, [], None, 1, 1, 1, "helps"]], []],
    ],
)
def test_an_answer_of_the_child_that_is_none_is_refused(written):
    values = {**asdict(Result("x.zip", "x", "refused")), "written": written}
    with pytest.raises(ValueError):
        Result.from_dict(values)


def test_what_is_sound_comes_back():
    written = Written(
        [Answer("a", "b", "c", ["", "x"])],
        [Trained("r", [["p", "l"]], curve=[[1, 0.5]])],
        [Verdict("p", "l", "a", difference=0.1, verdict="helps", seeds=[1])],
        [Answer("exercises.py", "dsc", "dsc", ["def dsc(): return 1"])],
        ["remark"],
    )
    assert sound(written) == written


def test_reading_a_notebook_names_the_file(tmp_path):
    (tmp_path / "a.ipynb").write_text("{}")
    with pytest.raises(KitError, match=r"a\.ipynb: has no cells"):
        read_notebook(tmp_path / "a.ipynb")
    assert set(released()) == {file.name for file in Path(PROJECT).glob("*.ipynb")}
