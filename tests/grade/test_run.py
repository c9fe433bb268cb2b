"""Grading: the fake submissions of the guide, and a batch that nothing stops."""

import csv
import errno
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import tifffile

from lib.grade import grade, load_rubric
from lib.grade.archive import write_zip
from lib.grade.feedback import write_leaderboard, write_page
from lib.grade.gradebook import GRADEBOOK, Book, flags, read_book, write_book
from lib.grade.one import failed, grade_one
from lib.grade.people import read_sheet
from lib.grade.platforms import list_submissions
from lib.grade.result import Finding, Result
from lib.grade.run import (
    _computed,
    _kept,
    _mistaken,
    _result,
    _results,
    read_roster,
    student_of,
    summary,
)
from lib.grade.standings import assess
from lib.grade.submission import MANIFEST, as_listed
from lib.grade.trouble import GraderError, in_one_line
from lib.grade.worker import Worker, WorkerDied
from lib.notebook.course import Course
from lib.runtime.own_files import OwnFiles
from lib.utils import PROJECT, KitError, fingerprint, remedy, write_json
from tests.grade.conftest import CPU
from tests.grade.demo import pickled_code, rename, run_of
from tests.grade.test_checks import found


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    text = (folder / GRADEBOOK).read_text(encoding="utf-8-sig")
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


# --- the demo -------------------------------------------------------------------------------------


def test_the_gradebook_of_the_guide(hand_ins, graded):
    guide = (PROJECT / "docs" / "instructors.md").read_text(encoding="utf-8")
    table = re.search(r"```\n(student +status.*?)\n\n", guide, re.DOTALL)[1]

    def words(text):  # scores differ a little from machine to machine
        return [
            re.sub(r" +", " ", re.sub(r"\b\d+(\.\d+)?\b", "#", line)) for line in text.splitlines()
        ]

    assert words(summary(graded[1])) == words(table)
    # and the points are what the scale gives: with four patients there are no ties
    rubric = load_rubric(hand_ins / "rubric.toml")
    for standing in graded[1]:  # of this grading, not of the page
        scored = standing.status in ("verified", "review")
        expected = rubric.points(standing.result.score) if scored else 0
        assert standing.points == pytest.approx(expected), standing.result.student
    assert {"verified", "review", "held"} <= {standing.status for standing in graded[1]}
    for line in table.splitlines()[1:]:
        _, status, *numbers = re.split(r" {2,}", line)
        if status in ("verified", "review"):
            assert float(numbers[2]) == pytest.approx(rubric.points(float(numbers[1])), abs=0.1)
        elif status == "held":
            assert numbers[2] == "0"


def test_honest_claims_come_out_to_the_last_digit(graded):
    for student in ("ada", "bela"):
        row = rows_of(graded[0])[student]
        assert abs(float(row["claimed DSC"]) - float(row["verified DSC"])) < 1e-6
    ada = next(standing.result for standing in graded[1] if standing.result.student == "ada")
    assert all(abs(claimed - computed) < 1e-6 for claimed, computed, _ in ada.cases.values())
    assert 0 < ada.probe < 1


def test_no_code_ran_and_nothing_escaped(hand_ins, graded):
    assert not (hand_ins.parent / "TRACE").exists()
    assert not list(hand_ins.parent.rglob("escaped.csv"))
    # the grader unpacks two folders below it, and would write a CSV
    for place in (Path(tempfile.gettempdir()), Path(tempfile.gettempdir()).parent):
        assert not (place / "escaped.csv").exists()


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


def test_pages_of_nobody_go_and_those_of_others_stay(hand_ins, graded, tmp_path):
    """Who hands in again under the right id has one page."""
    out, submissions = tmp_path / "grades", tmp_path / "submissions"
    shutil.copytree(graded[0] / "results", out / "results")
    submissions.mkdir()
    (submissions / "ada.zip").write_bytes(b"no zip")
    rubric = load_rubric(hand_ins / "rubric.toml")
    grade(submissions, hand_ins / "data", out, rubric, ["ada", "bela"])
    (submissions / "ada.zip").rename(submissions / "adda.zip")
    (out / "feedback" / "notes.html").write_text("mine")
    grade(submissions, hand_ins / "data", out, rubric, ["ada", "bela"])
    pages = {path.name.split("-")[0] for path in (out / "feedback").glob("*.html")}
    assert pages == {"ada", "bela", "adda", "notes.html"}
    assert [page.name.split("-")[0] for page in (out / "read").glob("ad*")] == ["adda"]
    shutil.copy(hand_ins / "submissions" / "bela.zip", submissions / "bela.zip")
    grade(submissions, hand_ins / "data", out, rubric, ["ada", "bela"])
    assert len(list((out / "feedback").glob("bela-*"))) == 1
    text = (out / "read" / "class.html").read_text(encoding="utf-8")
    assert "Missing: ada." in text


@pytest.mark.parametrize("name", ["other data", "wrong split"])
def test_what_most_have_may_be_the_instructors_mistake(name):
    has = [Result(f"{i}.zip", str(i), findings=[Finding("fault", name, "")]) for i in range(3)]
    refused, has_not = Result("r.zip", "r", "refused"), Result("n.zip", "n")
    [words] = _mistaken([*has, has_not, refused])
    assert words.startswith(f"3 of 4 submissions have the finding '{name}': ")
    assert not list(_mistaken([*has, *[has_not] * 3])) and not list(_mistaken(has[:1]))
    assert not list(_mistaken([]))


def test_the_same_edit_of_a_protected_file_may_be_another_version_of_the_kit():
    """Also if somebody has an edit of their own, or none."""
    fix, own = {"metrics.py": ["+ a fix"]}, {"evaluate.py": ["+ mine"]}
    diffs = [fix, {**fix, "optim.py": ["+ x"]}, own, {**fix, **own}, {}]
    results = [Result(f"{i}.zip", str(i), diff=diff) for i, diff in enumerate(diffs)]
    [words] = _mistaken(results)
    assert words.startswith(
        "2 submissions have the finding 'metric edited' for the same edit of lib/metrics.py: did "
    )
    assert not list(_mistaken(results[1:]))


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


def test_a_copy_of_the_data_with_other_rights_computes_nothing_again(
    hand_ins, graded, tmp_path, monkeypatch
):
    """A nightly copy and chmod -R change the times of the files, but no pixel."""
    data, out = shutil.copytree(hand_ins / "data", tmp_path / "data"), tmp_path / "grades"
    for file in data.rglob("*.tif"):
        file.chmod(0o444)
        os.utime(file, (0, 0))
    shutil.copytree(graded[0] / "results", out / "results")
    monkeypatch.setattr(Worker, "call", forbidden)
    rubric, roster = load_rubric(hand_ins / "rubric.toml"), read_roster(hand_ins / "roster.csv")
    grade(hand_ins / "submissions", data, out, rubric, roster)
    assert (out / GRADEBOOK).read_bytes() == (graded[0] / GRADEBOOK).read_bytes()


def test_a_changed_pixel_grades_the_class_anew(hand_ins, graded, tmp_path, monkeypatch):
    data, out = shutil.copytree(hand_ins / "data", tmp_path / "data"), tmp_path / "grades"
    file = next(path for path in sorted(data.rglob("*.tif")) if "_mask" not in path.name)
    picture = tifffile.imread(file)
    picture[0, 0] ^= 1
    tifffile.imwrite(file, picture)
    shutil.copytree(graded[0] / "results", out / "results")
    monkeypatch.setattr(Worker, "call", forbidden)
    rubric, roster = load_rubric(hand_ins / "rubric.toml"), read_roster(hand_ins / "roster.csv")
    with pytest.raises(AssertionError, match="computed again"):
        grade(hand_ins / "submissions", data, out, rubric, roster)


def test_a_question_in_other_words_grades_the_class_anew(hand_ins, graded, tmp_path, monkeypatch):
    shutil.copytree(graded[0] / "results", tmp_path / "results")
    monkeypatch.setattr(Worker, "call", forbidden)
    monkeypatch.setattr(sys.modules["lib.grade.run"], "released_hash", lambda: "other")
    with pytest.raises(AssertionError, match="computed again"):
        grade(hand_ins / "submissions", hand_ins / "data", tmp_path, load_rubric())


def test_killed_in_the_middle_it_goes_on(hand_ins, graded, tmp_path, monkeypatch):
    whole = {path.name: path.read_bytes() for path in (graded[0] / "results").iterdir()}
    roster, rubric = read_roster(hand_ins / "roster.csv"), load_rubric(hand_ins / "rubric.toml")
    calls = []

    def answer(worker, job, seconds):
        calls.append(job[1])
        if len(calls) == 4:
            raise KeyboardInterrupt
        known = [json.loads(content)["result"] for content in whole.values()]
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


def test_trouble_of_the_computer_stops_it_and_what_was_graded_is_kept(
    hand_ins, graded, tmp_path, monkeypatch
):
    """The third submission meets a full disk; graded again, the first two are not computed."""
    known = {one["submission"]: one for one in map(_kept_result, (graded[0] / "results").iterdir())}
    calls = []

    def answer(worker, job, seconds):
        calls.append(job[1])
        if len(calls) == 3:
            raise GraderError(f"{job[-1]}/x: No space left on device; free some space")
        return known[job[1]]

    monkeypatch.setattr(Worker, "call", answer)
    roster, rubric = read_roster(hand_ins / "roster.csv"), load_rubric(hand_ins / "rubric.toml")
    arguments = hand_ins / "submissions", hand_ins / "data", tmp_path, rubric, roster
    with pytest.raises(GraderError, match="free some space, then run it again: what was graded"):
        grade(*arguments)
    assert len(list((tmp_path / "results").iterdir())) == 2 and not (tmp_path / GRADEBOOK).exists()
    grade(*arguments)
    assert len(calls) == len(known) + 1
    assert (tmp_path / GRADEBOOK).read_bytes() == (graded[0] / GRADEBOOK).read_bytes()


def test_trouble_of_the_system_comes_with_the_remedy_of_the_kit():
    for number in (errno.ENOSPC, errno.EACCES, errno.EIO):
        error = OSError(number, os.strerror(number), "x.csv")
        assert in_one_line(error) == f"x.csv: {os.strerror(number)}; {remedy(error)}"


def _kept_result(file: Path) -> dict:
    return json.loads(file.read_text())["result"]


def test_a_child_that_dies_is_tried_again_once(monkeypatch):
    answers = [WorkerDied("killed"), asdict(Result("a.zip", "a", "refused"))]

    def answer(worker, job, seconds):
        assert not list(Path(job[-1]).iterdir())
        Path(job[-1], "left.csv").touch()
        if isinstance(answers[0], Exception):
            raise answers.pop(0)
        return answers.pop(0)

    monkeypatch.setattr(Worker, "call", answer)
    job = "a.zip", "a.zip", "a", False
    assert _computed(job, Worker(forbidden), 1).status == "refused"
    answers += [WorkerDied("killed"), WorkerDied("killed again"), "not reached"]
    died = _computed(job, Worker(forbidden), 1)
    assert (died.status, answers) == ("failed", ["not reached"])
    assert "killed again" in died.findings[0].text
    answers[:] = [asdict(Result("b.zip", "a", "refused"))] * 2  # of another submission
    assert _computed(job, Worker(forbidden), 1).status == "failed"


def test_a_kept_result_goes_by_whether_the_roster_has_the_student(tmp_path, monkeypatch):
    """Who is on it is graded under that id, whatever the submission says."""
    asked = []

    def answer(worker, job, seconds):
        asked.append(job[3])
        return asdict(Result("ada.zip", "ada", "refused"))

    monkeypatch.setattr(Worker, "call", answer)
    source = tmp_path / "ada.zip"
    write_zip(source, {MANIFEST: b"{}"})
    for roster in ([], [], ["ada"], ["ada", "bob"], []):
        _result("ada.zip", source, tmp_path, ["key"], roster, Worker(forbidden), 1)
    assert asked == [False, True]


def test_a_folder_that_cannot_be_read_has_a_row_and_stops_nobody(tmp_path, monkeypatch):
    for name in ("ada", "bob"):
        (tmp_path / "class" / name / "result").mkdir(parents=True)
        (tmp_path / "class" / name / "result" / "x.csv").touch()
    closed = tmp_path / "class" / "ada"
    listed = os.listdir, os.scandir  # root may read whatever its rights are

    def guarded(listing):
        def listing_of(path="."):
            if not isinstance(path, int) and Path(path) == closed:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return listing(path)

        return listing_of

    monkeypatch.setattr(os, "listdir", guarded(listed[0]))
    monkeypatch.setattr(os, "scandir", guarded(listed[1]))
    monkeypatch.setattr(
        Worker, "call", lambda worker, job, seconds: asdict(Result(job[1], job[2], "refused"))
    )
    found = list_submissions(tmp_path / "class")
    results = _results(found, tmp_path, ["key"], [], Worker(forbidden), 1)
    assert [(one.submission, one.status) for one in results] == [
        ("ada", "failed"),
        ("bob", "refused"),
    ]
    assert "It could not be read here" in results[0].findings[0].text


@pytest.mark.parametrize("change", ["", "{", "[]", "{}", "null", "0.9", "[" * 10**5])
def test_a_kept_result_that_was_changed_is_computed_anew(hand_ins, graded, tmp_path, change):
    original = next((graded[0] / "results").iterdir())
    file = Path(shutil.copy(original, tmp_path / "r.json"))
    assert asdict(_kept(file)) == asdict(Result.from_dict(_kept_result(original)))
    content = file.read_text()
    status = json.loads(content)["result"]["status"]
    edited = content.replace(f'"status": "{status}"', '"status": "missing"')
    file.write_text(edited if change == "0.9" else change)
    assert _kept(file) is None
    assert _kept(tmp_path / "none.json") is None


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}], ids=["value", "key"])
@pytest.mark.parametrize("field", ["config", "split.train", "config.model", "sha256"])
def test_texts_that_are_no_utf8_stop_no_class(ada, examine, tmp_path, field, value):
    """JSON may contain half of a pair of surrogates, which no file in UTF-8 can."""
    run = f"{run_of(ada)}/run.json"
    info = place = json.loads(ada[run])
    *parents, name = field.split(".")
    for parent in parents:
        place = place[parent]
    place[name] = [value] if name == "train" else value
    values = examine({**ada, run: json.dumps(info).encode()})
    result = Result.from_dict(json.loads(json.dumps(values)))
    assert result.findings
    _write_all(tmp_path / "out", result)


def _write_all(out, result):
    """Write the page, the leaderboard and the gradebook of a class of one."""
    rubric = load_rubric()
    standings = assess([result], rubric)
    write_page(out, standings[0], {}, 0.0, rubric, OwnFiles(out))
    write_leaderboard(out, standings, Book(), rubric)
    write_book(out / GRADEBOOK, standings, Book(), rubric, {0: "page.html"})


def test_a_reason_that_is_no_utf8_can_be_written(tmp_path):
    result = failed("x.zip", "x", "refused", "caf\udce9/x.csv: is a link")
    assert result.findings[0].text == "caf\\udce9/x.csv: is a link"
    _write_all(tmp_path, result)


@pytest.mark.parametrize(
    "change",
    [
        {"findings": [["fault", "refused", "\ud800", ""]]},
        {"recipe": {"model": ["\ud800"]}},
        {"recipe": {"\ud800": 1}},
        {"run": "\ud800"},
    ],
)
def test_a_kept_result_that_is_no_utf8_is_computed_anew(tmp_path, change):
    values = {**asdict(Result("x.zip", "x", "refused")), **change}
    write_json(tmp_path / "r.json", {"sha256": fingerprint(values), "result": values})
    assert _kept(tmp_path / "r.json") is None
    with pytest.raises(ValueError, match="UTF-8"):
        Result.from_dict(values)


def test_a_result_that_is_nested_without_end_is_none():
    nested = []
    for _ in range(10**4):
        nested = [nested]
    values = {**asdict(Result("x.zip", "x", "refused")), "recipe": {"model": nested}}
    with pytest.raises(ValueError, match="no result"):
        Result.from_dict(values)


def test_remarks_on_the_data_are_printed(hand_ins, graded, tmp_path, monkeypatch, capfd):
    data = shutil.copytree(hand_ins / "data", tmp_path / "data")
    first, other = sorted(path for path in data.iterdir() if path.is_dir())[:2]
    for file in first.iterdir():  # the same patient under another name
        shutil.copy(file, other / file.name.replace(first.name, other.name))
    monkeypatch.setattr(Worker, "call", lambda *_: asdict(Result("ada.zip", "ada", "refused")))
    (tmp_path / "submissions").mkdir()
    shutil.copy(hand_ins / "submissions" / "ada.zip", tmp_path / "submissions")
    grade(tmp_path / "submissions", data, tmp_path / "out")
    assert f"note: {other.name}" in (said := capfd.readouterr().out) or first.name in said


def test_what_is_written_while_it_grades_is_kept(hand_ins, tmp_path, monkeypatch):
    (tmp_path / "submissions").mkdir()
    shutil.copy(hand_ins / "submissions" / "ada.zip", tmp_path / "submissions")
    arguments = tmp_path / "submissions", hand_ins / "data", tmp_path / "out"
    file = tmp_path / "out" / GRADEBOOK
    refused = asdict(Result("ada.zip", "ada", "refused"))

    def answer(*_):
        if file.exists():  # the second grading
            file.write_text("student,submission,comment\nada,ada.zip,meanwhile\n")
        return refused

    monkeypatch.setattr(Worker, "call", answer)
    grade(*arguments)
    shutil.rmtree(tmp_path / "out" / "results")
    grade(*arguments)
    assert rows_of(tmp_path / "out")["ada"]["comment"] == "meanwhile"


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


def test_an_id_within_an_id_and_a_team_in_a_name():
    """Before the zip is open: a damaged one has a row of those who submitted it."""
    roster = ["ada", "ada-b", "lee", "bob.lee", "müller", "李", "李明"]
    names = {
        "byron_12_345_ada-b.zip": "ada-b",
        "Bob_bob.lee_1_2.zip": "bob.lee",
        "ada_12_345_ada-b.zip": "ada-b",  # ada is the name that the platform wrote
        "mu\u0308ller.zip": "müller",  # as macOS writes it
        "x_李明.zip": "李明",
        "ada+lee.zip": "ada+lee",
        "Group 1_12_file/lee+ada-b (1).zip": "lee+ada-b",
        "ada, lee.zip": "ada_lee",
    }
    assert {name: student_of(name, roster) for name in names} == names


def test_what_counts_as_a_hand_in(tmp_path):
    for name in ("b.zip", "a/x.zip", "c/result/x.csv", "c/y.zip", "notes.txt", ".hidden.zip"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "a" / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    assert list(list_submissions(tmp_path)) == ["a/x.zip", "b.zip", "c"]
    with pytest.raises(KitError, match="no zip"):
        list_submissions(tmp_path / "c" / "result")


def test_archives_that_are_no_zip_get_a_row_and_nothing_waits(tmp_path):
    for name in ("ada.tar.gz", "bela.rar", "carl.7z", "notes.txt", "roster.csv"):
        (tmp_path / name).write_bytes(b"\x1f\x8b")
    (tmp_path / "grades" / "results").mkdir(parents=True)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "x.zip")  # to read it waits for ever
    found = list_submissions(tmp_path, tmp_path / "grades" / "run 1")
    assert list(found) == ["ada.tar.gz", "bela.rar", "carl.7z"]


def test_names_of_other_encodings_stay_apart(tmp_path):
    """As unzip leaves names in GBK; and a name must not write to the terminal."""
    names = [b"\xd5\xc5.zip", b"\xc0\xee.zip", b"\x1b[2Jx.zip", "张三.zip".encode()]
    try:
        for name in names:
            (tmp_path / os.fsdecode(name)).write_bytes(b"")
    except OSError:
        pytest.skip("this disk takes no such names")
    found = list(list_submissions(tmp_path))
    assert len(found) == 4 and "张三.zip" in found
    assert all(name.isprintable() for name in found)
    assert len({student_of(name, ()) for name in found}) == 4


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\nforged  verified", "a\u2028b", "a\u202eb"])
def test_texts_of_strangers_are_one_line_on_the_terminal(tmp_path, text):
    result = failed("x.zip", "x", "refused", text)
    assert result.findings[0].text.isprintable()
    assert summary(assess([result], load_rubric())).count("\n") == 1


def test_the_gradebook_comes_first_and_a_page_that_fails_stops_nobody(
    hand_ins, graded, tmp_path, monkeypatch, capfd
):
    shutil.copytree(graded[0] / "results", tmp_path / "results")
    page = sys.modules["lib.grade.run"].write_page
    written = []

    def fail(out, standing, *rest):
        assert (out / GRADEBOOK).is_file()
        if standing.result.student == "bela":
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        written.append(standing.result.student)
        page(out, standing, *rest)

    monkeypatch.setattr(sys.modules["lib.grade.run"], "write_page", fail)
    rubric, roster = load_rubric(hand_ins / "rubric.toml"), read_roster(hand_ins / "roster.csv")
    standings = grade(hand_ins / "submissions", hand_ins / "data", tmp_path, rubric, roster)
    assert len(written) == len(standings) - 1
    assert "bela.zip: its page was not written" in "".join(capfd.readouterr())


def test_the_placeholder_of_the_scale_is_named_and_a_baseline_replaces_it(
    hand_ins, graded, tmp_path, capfd
):
    shutil.copytree(graded[0] / "results", tmp_path / "results")
    arguments = hand_ins / "submissions", hand_ins / "data", tmp_path
    grade(*arguments)
    assert "scale of the kit is a placeholder" in "".join(capfd.readouterr())
    run = next((hand_ins / "results" / "bela").glob("runs/*"))
    standings = grade(*arguments, baseline=run)
    assert "placeholder" not in "".join(capfd.readouterr())
    points = {one.result.student: one.points for one in standings}
    assert points["bela"] == 0 and points["ada"] > 0
    with pytest.raises(KitError, match="no folder of a finished run"):
        grade(*arguments, baseline=run.parent)
    finn = next((hand_ins / "results" / "finn").glob("runs/*"))
    with pytest.raises(KitError, match="other patients"):
        grade(*arguments, baseline=finn)


@pytest.mark.parametrize("seconds", [0, -5, math.nan, math.inf])
def test_seconds_that_are_no_time_are_refused_before_anything_else(tmp_path, seconds):
    with pytest.raises(KitError, match=r"seconds .*: is no time to grade in; give a number above"):
        grade(tmp_path / "nothing", tmp_path / "nowhere", tmp_path / "out", seconds=seconds)
    assert not (tmp_path / "out").exists()


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
        "StudentID\nada\nbela\n",
        "\nMatrikelnummer \nada\nbela\n",
        "name,STUDENT-ID\nA,ada\nB,bela\n",
        "student\r\nada\r\nbela\r\n",
        "name;student id\nA;ada\nB;bela\n",
        "Name\tUser_Name\nA\tada\nB\tbela",
        '"Last, first",id\n"A, B",ada\n"C, D",bela\n',
        "ada\nbela",
        "\nstudent\n\nada\n ,\nbela\n\n",
        "first,last,login,id\nA,B,x,ada\nC,D,y,bela\n",
        "sep=;\r\nname;id\r\nA;ada\r\nB;bela\r\n",
        "student\rada\rbela\r",
        '"Last, first; middle",id\n"A, B; C",ada\n"C, D; E",bela\n',
        "Last, first; middle\tid\nA, B\tada\nC, D\tbela\n",
        'Student,ID,SIS Login ID\n    Points Possible,,\n"A, B",7,ada\n"C, D",8,bela\n',
        "First name,ID number,Email address\nA,ada,a@x\nB,bela,b@x\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "gb18030"])
def test_a_roster_as_other_programs_save_it(tmp_path, text, encoding):
    (tmp_path / "r.csv").write_bytes(text.encode(encoding))
    assert read_roster(tmp_path / "r.csv") == ["ada", "bela"]


CANVAS = "Student,ID,SIS User ID,SIS Login ID,Section\n"


@pytest.mark.parametrize(
    ("text", "column", "ids"),
    [
        (
            f"{CANVAS}张三,101,2024001,zhang3,X\n李四,102,2024002,li4,X\n",
            "SIS Login ID",
            "zhang3 li4",
        ),
        ("Student,Matriculation number\nAda,7\nBo,8\n", "Matriculation number", "7 8"),
        ("student,id\nada,1\nbo,2\n", "student", "ada bo"),
        ("Student,Username\nAda,ab1\nBo,bb1\n", "Username", "ab1 bb1"),
    ],
)
def test_names_below_student_are_no_ids_where_a_column_of_ids_is(
    tmp_path, capsys, text, column, ids
):
    file = tmp_path / "r.csv"
    file.write_text(text, encoding="utf-8")
    assert read_roster(file) == ids.split()
    said = capsys.readouterr().out
    assert said == f"{file}: the ids are those of the column {column!r}\n"


def test_who_has_no_id_in_the_roster_is_named(tmp_path, capsys):
    file = tmp_path / "r.csv"
    file.write_text("First name,Surname,ID number,Email\nAda,B,,ada@x\nC,D,77,c@x\n,,,\nE,F\n")
    assert read_roster(file) == ["77"]
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{file}: 'Ada, B, ada@x' has no id in that column, and is not on the roster",
        f"{file}: 'E, F' has no id in that column, and is not on the roster",
    ]
    file.write_text("student\nada\n")
    assert read_roster(file) == ["ada"] and not capsys.readouterr().out


def test_a_word_above_numbers_is_a_header_in_any_language(tmp_path):
    (tmp_path / "r.csv").write_text("Opiskelijanumero\n0012\n0013\n")
    assert read_roster(tmp_path / "r.csv") == ["0012", "0013"]
    (tmp_path / "r.csv").write_text("ada\n0012\nbela\n")
    assert read_roster(tmp_path / "r.csv") == ["ada", "0012", "bela"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_a_chinese_class_as_a_spreadsheet_saves_it(tmp_path, monkeypatch, encoding):
    """Roster and gradebook: names, columns and comments come back as they were written."""
    monkeypatch.setattr("lib.grade.people.read_course", lambda: Course(language="zh-CN"))
    (tmp_path / "r.csv").write_bytes("学号,姓名\r\n张三,张三\r\n李四,李四\r\n".encode(encoding))
    assert read_roster(tmp_path / "r.csv") == ["张三", "李四"]
    text = "student,submission,报告,comment\r\n张三,张三.zip,18,做得很好\r\n"
    (tmp_path / "g.csv").write_bytes(text.encode(encoding))
    rubric = replace(load_rubric(), columns={"报告": 20})
    book = read_book(tmp_path / "g.csv", rubric)
    assert book.entries == {("张三", "张三.zip"): {"报告": "18", "comment": "做得很好"}}
    sheet = read_sheet(tmp_path / "g.csv")
    assert sheet.to_bytes().decode(encoding).lstrip("\ufeff") == text


def test_in_a_western_class_letters_of_windows_stay_what_they_are(tmp_path):
    (tmp_path / "r.csv").write_bytes("student\nMüller\n".encode("cp1252"))
    assert read_roster(tmp_path / "r.csv") == ["Müller"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'student\n"ada\n', "cannot be read as CSV"),
        (b"PK\x03\x04\0\0", "no text"),
        ("student\nada\n".encode("utf-32"), "no text"),
        (b"student\n\x8da\n", "cannot be read as CSV"),  # no letter in any encoding of Windows
        ("\ufeffstudent\n\u00e9".encode()[:-1], "cannot be read as CSV"),  # cut
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


@pytest.mark.parametrize("inside", ["ADA", "ada"])
def test_capital_letters_make_nobody_else(hand_ins, exam, ada, inside, tmp_path):
    """The roster says Ada: a row, and nobody is missing or has the seed of somebody else."""
    write_zip(tmp_path / "Ada.zip", rename(ada, inside))
    (tmp_path / "work").mkdir()
    job = (str(tmp_path / "Ada.zip"), "Ada.zip", "Ada", True, str(tmp_path / "work"))
    result = Result.from_dict(json.loads(json.dumps(grade_one(job, exam, CPU, 1e-6))))
    (standing,) = assess([result], load_rubric(hand_ins / "rubric.toml"), ["Ada"])
    assert (standing.result.student, standing.status) == ("Ada", "verified")


def test_ids_are_spelt_as_on_the_roster():
    roster = ["Ada", "müller", "x", "X"]
    spellings = {"ADA": "Ada", "mu\u0308ller": "müller", "X": "X", "zoe": "zoe", "ada+x": "Ada+x"}
    assert {one: as_listed(one, roster) for one in spellings} == spellings
    assert as_listed("Müller", roster) == "müller" and as_listed("ada+ADA", roster) == "Ada"
    both = [Result(f"{name}.zip", name, "refused") for name in ("ada", "ADA")]
    standings = assess(both, load_rubric(), ["Ada"])
    assert [flags(standing) for standing in standings] == ["submitted twice: ada.zip, ADA.zip"] * 2


def test_results_survive_json(graded):
    result = graded[1][0].result
    assert Result.from_dict(json.loads(json.dumps(asdict(result)))) == result
