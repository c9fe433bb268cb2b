"""Grading: the fake submissions of the guide, and a batch that nothing stops."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from lib.grade import grade, load_rubric
from lib.grade.gradebook import GRADEBOOK
from lib.grade.one import grade_one
from lib.grade.rescore import Result
from lib.grade.run import list_submissions, read_roster, student_of, summary
from lib.grade.worker import Worker, WorkerDied
from lib.logger import BEST_CSV
from lib.utils import PROJECT, KitError
from tests.grade.conftest import CPU
from tests.grade.demo import pickled_code, run_of
from tests.grade.test_checks import found


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    text = (folder / GRADEBOOK).read_text(encoding="utf-8-sig")
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


# --- the demo -------------------------------------------------------------------------------------


def test_the_gradebook_of_the_guide(graded):
    guide = (PROJECT / "docs" / "instructors.md").read_text(encoding="utf-8")
    table = re.search(r"```\n(student +status.*?)\n\n", guide, re.DOTALL)[1]

    def words(text):  # scores differ a little from machine to machine
        return [
            re.sub(r" +", " ", re.sub(r"\b\d+(\.\d+)?\b", "#", line)) for line in text.splitlines()
        ]

    assert words(summary(graded[1])) == words(table)


def test_honest_claims_come_out_to_the_last_digit(graded):
    for student in ("ada", "bela"):
        row = rows_of(graded[0])[student]
        assert abs(float(row["claimed DSC"]) - float(row["verified DSC"])) < 1e-6
    ada = next(standing.result for standing in graded[1] if standing.result.student == "ada")
    assert all(abs(claimed - computed) < 1e-6 for claimed, computed, _ in ada.cases.values())
    assert 0 < ada.probe < 1


def test_no_code_ran_and_nothing_escaped(hand_ins, graded):
    assert not (hand_ins.parent / "TRACE").exists()
    assert not list(hand_ins.parent.rglob("escaped.txt"))
    assert not list(Path(tempfile.gettempdir()).glob("escaped.txt"))


def test_the_trace_would_have_been_found(ada, examine, tmp_path):
    """Graded, the pickle leaves no trace; opened as a pickle it does: the cheat is a real one."""
    trace, weights = tmp_path / "TRACE", tmp_path / "best.pt"
    files = pickled_code(ada, {}, trace)
    result = examine(files)
    assert (result["status"], trace.exists()) == ("not verifiable", False)
    assert "could run code" in result["findings"][-1].text
    weights.write_bytes(files[f"{run_of(files)}/best.pt"])
    script = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    subprocess.run([sys.executable, "-c", script, str(weights)], check=True)
    assert trace.exists()


def test_first_row_pages_and_leaderboard(graded):
    out, _ = graded
    rows = rows_of(out)
    assert next(iter(rows)) == "POINTS POSSIBLE"
    assert (rows["POINTS POSSIBLE"]["score"], rows["POINTS POSSIBLE"]["DSC points"]) == (
        "100",
        "40",
    )
    assert all(
        (out / row["feedback"]).is_file()
        for student, row in rows.items()
        if student != "POINTS POSSIBLE"
    )
    board = (out / "leaderboard.html").read_text(encoding="utf-8")
    names = dict(csv.reader((out / "pseudonyms.csv").read_text().splitlines()))
    assert names["ada"] in board and "ada<" not in board
    assert not any(names[student] in board for student in ("carl", "dora", "emil", "finn", "kim"))
    page = (out / rows["emil"]["feedback"]).read_text(encoding="utf-8")
    assert "Another student" in page and "bela" not in page
    assert "http" not in board + page  # self-contained


# --- a batch that nothing stops -------------------------------------------------------------------


def forbidden(*_):
    raise AssertionError("computed again")


def test_graded_again_nothing_is_computed_and_what_a_human_wrote_stays(
    hand_ins, graded, tmp_path, monkeypatch
):
    out = tmp_path / "grades"
    shutil.copytree(graded[0] / "results", out / "results")
    rubric, roster = load_rubric(hand_ins / "rubric.toml"), read_roster(hand_ins / "roster.csv")
    monkeypatch.setattr(Worker, "call", forbidden)

    def again():
        grade(hand_ins / "submissions", hand_ins / "data", out, rubric, roster)
        return (out / GRADEBOOK).read_bytes()

    first = again()
    assert again() == first
    table = pd.read_csv(out / GRADEBOOK, dtype=str, keep_default_na=False).set_index("student")
    table["private"] = ""
    table.loc["ada", ["comparison", "failures", "comment", "private"]] = (
        "27,5",
        "12",
        "=HYPERLINK(1) <b>",
        "seen",
    )
    table.loc["emil", "DSC points by hand"] = "5"
    table.to_csv(out / GRADEBOOK, sep=";", encoding="cp1252")  # as a spreadsheet might
    again()
    rows = rows_of(out)
    assert rows["ada"]["score"] == f"{float(rows['ada']['DSC points']) + 39.5:g}"
    assert (rows["ada"]["comment"], rows["ada"]["private"]) == ("'=HYPERLINK(1) <b>", "seen")
    assert rows["emil"]["score"] == "5"
    assert "=HYPERLINK(1) &lt;b&gt;" in (out / rows["ada"]["feedback"]).read_text(encoding="utf-8")
    assert again() == again()


def test_killed_in_the_middle_it_goes_on(hand_ins, graded, tmp_path, monkeypatch):
    whole = {path.name: path.read_bytes() for path in (graded[0] / "results").iterdir()}
    roster, rubric = read_roster(hand_ins / "roster.csv"), load_rubric(hand_ins / "rubric.toml")
    calls = []

    def answer(worker, job, seconds):
        calls.append(job[1])
        if len(calls) == 4:
            raise KeyboardInterrupt
        known = [json.loads(content) for content in whole.values()]
        return next(result for result in known if result["submission"] == job[1])

    monkeypatch.setattr(Worker, "call", answer)
    arguments = hand_ins / "submissions", hand_ins / "data", tmp_path, rubric, roster
    with pytest.raises(KeyboardInterrupt):
        grade(*arguments)
    grade(*arguments)
    assert sorted(calls) == sorted(
        [path.name for path in (hand_ins / "submissions").iterdir()] + [calls[3]]
    )
    assert (tmp_path / GRADEBOOK).read_bytes() == (graded[0] / GRADEBOOK).read_bytes()


def test_timed_out(hand_ins, tmp_path, monkeypatch):
    def late(*_):
        raise WorkerDied("not done after 1 s", timed_out=True)

    monkeypatch.setattr(Worker, "call", late)
    standings = grade(
        hand_ins / "submissions", hand_ins / "data", tmp_path, load_rubric(hand_ins / "rubric.toml")
    )
    assert {standing.status for standing in standings} == {"timed out"}
    assert WorkerDied("not done, its process ended").timed_out is False
    assert not (tmp_path / "results").exists()  # the next grading tries again


# --- around it ------------------------------------------------------------------------------------


def test_who_handed_in():
    roster = ["ada", "s-12"]
    names = {
        "Lovelace_ada_4711_upload.zip": "ada",
        "adamant.zip": "adamant",
        "x s-12 (1).zip": "s-12",
        "@=.zip": "nameless",
        "ada s-12.zip": "ada_s-12",
        "ada_17/upload.zip": "ada",
        "bob/up.zip": "bob_up",
    }
    assert {name: student_of(name, roster) for name in names} == names


def test_what_counts_as_a_hand_in(tmp_path):
    for name in ("b.zip", "a/x.zip", "c/result/x.csv", "c/y.zip", "notes.txt", ".hidden.zip"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(list_submissions(tmp_path)) == ["a/x.zip", "b.zip", "c"]
    with pytest.raises(KitError, match="no zip"):
        list_submissions(tmp_path / "c" / "result")


def test_a_roster_that_is_none(tmp_path):
    (tmp_path / "r.csv").write_text("name,student\nA,=cmd\n")
    with pytest.raises(KitError, match="no id"):
        read_roster(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("name,student\nA,ada\nB,bela\nC,ada\n")
    assert read_roster(tmp_path / "r.csv") == ["ada", "bela"]
    (tmp_path / "r.csv").write_text("Name;,Student\nA,ada\n")
    assert read_roster(tmp_path / "r.csv") == ["ada"]
    (tmp_path / "r.csv").write_text("ada\nbela\n")
    assert read_roster(tmp_path / "r.csv") == ["ada", "bela"]
    (tmp_path / "r.csv").write_text("first,last,number\nAda,Byron,ab1\n")
    with pytest.raises(KitError, match="which of 3 columns"):
        read_roster(tmp_path / "r.csv")


@pytest.mark.parametrize(
    "text",
    [
        "id\nada\nbela\n",
        "Username\nada\nbela\n",
        "student\r\nada\r\nbela\r\n",
        "name;student id\nA;ada\nB;bela\n",
        "Name\tUser_Name\nA\tada\nB\tbela",
        '"Last, first",id\n"A, B",ada\n"C, D",bela\n',
        "ada\nbela",
        "\nstudent\n\nada\n ,\nbela\n\n",
        "first,last,login,id\nA,B,x,ada\nC,D,y,bela\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_roster_as_other_programs_save_it(tmp_path, text, encoding):
    (tmp_path / "r.csv").write_bytes(text.encode(encoding))
    assert read_roster(tmp_path / "r.csv") == ["ada", "bela"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'student\n"ada\n', "cannot be read as CSV"),
        (b"PK\x03\x04\0\0", "no text"),
        (b"", "has no ids"),
        (b"student\n", "has no ids"),
    ],
)
def test_what_is_no_roster_is_named(tmp_path, content, reason):
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(KitError, match=rf"r\.csv.*{reason}"):
        read_roster(tmp_path / "r.csv")


def test_the_id_in_the_name_of_the_file_comes_before_the_one_inside(hand_ins, exam, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    file = hand_ins / "submissions" / "ada.zip"
    result = grade_one((str(file), "bela.zip", "bela", True, str(work)), exam, CPU, 1e-6)
    assert (result["student"], found(result)) == ("bela", ["another id inside"])


def test_results_survive_json(graded):
    result = graded[1][0].result
    assert Result.from_dict(json.loads(json.dumps(asdict(result)))) == result
    assert BEST_CSV in "uexec_result_best.csv"
