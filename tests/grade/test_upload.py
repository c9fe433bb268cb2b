"""Points go back to the platform in its own table: its columns, order, encoding and quotes."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lib.grade.__main__ import main
from lib.grade.gradebook import BY_HAND, GRADEBOOK, marks_of, read_book, write_book
from lib.grade.people import read_sheet
from lib.grade.rubric import Rubric
from lib.grade.standings import Standing
from lib.grade.upload import fill_table
from lib.utils import KitError
from tests.grade.test_gradebook import result
from tests.runtime.test_cli import command

RUBRIC = Rubric(((0.5, 0), (0.9, 40)), 0.005, {"report": 60})
MOODLE = (
    "Identifier,Full name,Email address,Status,Grade,Maximum Grade,Grade can be changed,"
    "Last modified (submission),Last modified (grade),Feedback comments\n"
    'Participant 101,"Byron, Ada",ada@example.org,Submitted for grading,,100.00,Yes,"Fri, 27",-,\n'
    "Participant 102,Bela B,bela@example.org,Submitted for grading,,100.00,Yes,-,-,\n"
    "Participant 103,Carl C,carl@example.org,No submission,12,100.00,Yes,-,-,as before\n"
)
CANVAS = (
    "Student,ID,SIS User ID,SIS Login ID,Section,Warm-up (11),LGG (12),Current Score\n"
    "    Points Possible,,,,,10,100,(read only)\n"
    '"Byron, Ada",1001,0042,ada,A,9,,90\n'
    '"B, Bela",1002,0043,BELA,A,8,,80\n'
    '"Student, Test",1003,,x7,A,,,\n'
)
BLACKBOARD = (
    '"Last Name"\t"First Name"\t"Username"\t"Student ID"\t"Last Access"\t"Availability"\t'
    '"LGG [Total Pts: 100 Score] |98765"\t"Total [Total Pts: 110 Score] |98766"\r\n'
    '"Byron"\t"Ada"\t"ada"\t"0042"\t"2026-11-28"\t"Yes"\t""\t"9"\r\n'
    '"B"\t"Bela"\t"bela"\t"0043"\t"2026-11-28"\t"Yes"\t""\t"8"\r\n'
)


@pytest.fixture
def grades(tmp_path) -> Path:
    """A gradebook: ada has marks, bela the DSC alone, carl submitted nothing."""
    folder = tmp_path / "grades"
    folder.mkdir()
    ada = replace(result("ada"), submission="Ada Byron_101_assignsubmission_file_/ada.zip")
    bela = replace(result("bela"), submission="Bela B_102_assignsubmission_file_/bela.zip")
    carl = replace(result("carl"), submission="", status="missing")
    standings = [
        Standing(ada, "verified", 27.5, 1),
        Standing(bela, "review", 13.0, 2),
        Standing(carl, "missing"),
    ]
    write(folder, standings)
    text = (folder / GRADEBOOK).read_text(encoding="utf-8-sig")
    rows = list(csv.reader(io.StringIO(text)))
    ada_row = next(row for row in rows if row[0] == "ada")
    ada_row[rows[0].index("report")] = "50"
    ada_row[rows[0].index("comment")] = "Good, but\nbrief."
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    (folder / GRADEBOOK).write_text(buffer.getvalue(), encoding="utf-8", newline="")
    write(folder, standings)
    return folder


def write(folder: Path, standings: list[Standing]) -> None:
    """Write a gradebook in which every submission has points for its report, or 0."""
    for _ in range(2):
        book = read_book(folder / GRADEBOOK, RUBRIC)
        write_book(folder / GRADEBOOK, standings, book, RUBRIC, dict.fromkeys(range(3), "page"))
        for standing in standings:
            if standing.result.submission and not book.of(standing):
                decide(folder / GRADEBOOK, standing.result.student, report="0")


def export(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder.parent / "export.csv"
    file.write_bytes(text.encode(encoding))
    return file


def test_moodles_worksheet_comes_back_with_grades_and_comments(grades):
    file = export(grades, MOODLE, "utf-8-sig")
    before = file.read_bytes()
    filled = fill_table(file, grades)
    assert file.read_bytes() == before and filled.parent.parent == grades
    sheet, original = read_sheet(filled), read_sheet(file)
    assert sheet.rows[0] == original.rows[0] and sheet.encoding == "utf-8-sig"
    ada, bela, carl = sheet.rows[1:]
    assert (ada[4], ada[9]) == ("77.5", "Good, but\nbrief.")
    assert (bela[4], bela[9]) == ("13", "")
    assert carl == original.rows[3]
    changed = (4, 9)
    for row, old in zip(sheet.rows, original.rows, strict=True):
        assert [c for i, c in enumerate(row) if i not in changed] == [
            c for i, c in enumerate(old) if i not in changed
        ]


@pytest.mark.parametrize(
    ("folder", "row", "score"),
    [
        ("Sean OBrien_101", "Participant 101,Sean O'Brien,", "27.5"),
        ("Group A-Sean OBrien_101", "Participant 101,Sean O'Brien,", "27.5"),  # before Moodle 3.1
        ("Group A_101", "Participant 101,Sean O'Brien,", ""),  # the number of a group
        ("Sean OBrien_101", "Participant 1101,Sean O'Brien,", ""),
        ("Group A_7", "Participant 101,Sean O'Brien,ada", "27.5"),  # by the column of ids
    ],
)
def test_the_row_of_a_moodle_folder(tmp_path, folder, row, score):
    ada = replace(result("ada"), submission=f"{folder}_assignsubmission_file/ada.zip")
    write(tmp_path, [Standing(ada, "verified", 27.5, 1)])
    export(tmp_path / "x", f"Identifier,Full name,ID number,Grade\n{row},\n")
    filled = fill_table(tmp_path / "export.csv", tmp_path)
    assert read_sheet(filled).rows[1][3] == score


def test_rows_that_are_short_or_empty(grades):
    text = CANVAS.replace('"Byron, Ada",1001,0042,ada,A,9,,90', '"Byron, Ada",1001,0042,ada') + "\n"
    filled = fill_table(export(grades, text), grades, "LGG").read_text(encoding="utf-8")
    assert filled == text.replace("0042,ada", "0042,ada,,,77.5").replace("A,8,,80", "A,8,13,80")


def test_blind_marking_has_no_names(tmp_path):
    ada = replace(result("ada"), submission="Participant_101_assignsubmission_file/ada.zip")
    write(tmp_path, [Standing(ada, "verified", 27.5, 1)])
    export(tmp_path / "x", "Identifier,Grade\nParticipant 10,\nParticipant 101,\n")
    filled = fill_table(tmp_path / "export.csv", tmp_path)
    assert [row[1] for row in read_sheet(filled).rows[1:]] == ["", "27.5"]


def test_a_team_in_one_folder_is_filled_by_its_ids(tmp_path, capsys):
    """Neither member gets what is the other's; who has no id in the table is named."""
    folder = "Bela B_102_assignsubmission_file_/ada+bela.zip"
    team = [replace(result(name), submission=folder) for name in ("ada", "bela")]
    write(tmp_path, [Standing(one, "verified", 27.5, 1) for one in team])
    export(tmp_path / "x", MOODLE)
    filled = fill_table(tmp_path / "export.csv", tmp_path)
    assert [row[4] for row in read_sheet(filled).rows[1:]] == ["", "", "12"]
    assert "no row for ada" in (said := capsys.readouterr().out) and "no row for bela" in said
    export(tmp_path / "x", MOODLE.replace("@example.org", ""))
    filled = fill_table(tmp_path / "export.csv", tmp_path)
    assert [row[4] for row in read_sheet(filled).rows[1:]] == ["27.5", "27.5", "12"]


def test_blackboard_takes_comments_where_they_are_exported(grades):
    text = (
        '"Last Name","Username","LGG [Total Pts: 100 Score] |98765","Grading Notes",'
        '"Notes Format","Feedback to Learner","Feedback Format"\r\n'
        '"Byron","ada","","mine","SMART_TEXT","","SMART_TEXT"\r\n'
    )
    filled = read_sheet(fill_table(export(grades, text), grades)).rows[1]
    assert filled == [
        "Byron",
        "ada",
        "77.5",
        "mine",
        "SMART_TEXT",
        "Good, but\nbrief.",
        "SMART_TEXT",
    ]


def test_canvas_wants_the_column_named_if_there_are_several(grades, capsys):
    file = export(grades, CANVAS)
    with pytest.raises(KitError, match=r"Name it \(--column\): Warm-up \(11\), LGG \(12\)"):
        fill_table(file, grades)
    with pytest.raises(KitError, match="the platform gives 10 points, the rubric 100"):
        fill_table(file, grades, "Warm")
    text = fill_table(file, grades, "LGG").read_text(encoding="utf-8")
    assert text == CANVAS.replace("A,9,,90", "A,9,77.5,90").replace("A,8,,80", "A,8,13,80")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
def test_blackboards_table_keeps_its_quotes_tabs_and_encoding(grades, encoding):
    file = export(grades, BLACKBOARD, encoding)
    filled = fill_table(file, grades, "LGG").read_bytes()
    expected = BLACKBOARD.replace('"Yes"\t""\t"9"', '"Yes"\t"77.5"\t"9"')
    expected = expected.replace('"Yes"\t""\t"8"', '"Yes"\t"13"\t"8"')
    assert filled.decode(encoding) == expected


def test_who_has_no_row_is_named(grades, capsys):
    fill_table(export(grades, CANVAS.replace("ada", "ada2")), grades, "LGG")
    assert "has no row for ada, who has 77.5 points" in capsys.readouterr().out


def test_who_is_held_is_named_until_the_instructor_decides(grades, capsys):
    file, book = export(grades, CANVAS), grades / GRADEBOOK
    text = book.read_text(encoding="utf-8-sig").replace(",review,", ",held,")
    book.write_text(text, encoding="utf-8")
    fill_table(file, grades, "LGG")
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "export.csv: nothing is filled in for bela, who is held, and nobody gave points for the "
        "DSC; fill 'DSC points by hand'"
    ]
    assert [row[6] for row in read_sheet(grades / "upload" / "export.csv").rows[2:4]] == [
        "77.5",
        "",
    ]
    decide(book, "bela", **{BY_HAND: "13"})
    with pytest.raises(KitError, match="about bela is newer than the scores; grade once more"):
        fill_table(file, grades, "LGG")
    marks = marks_of({"report": "0", BY_HAND: "13"})
    decide(book, "bela", marked=f"sha-1/{marks}")  # as grading does
    fill_table(file, grades, "LGG")
    assert "is held" not in capsys.readouterr().out


@pytest.mark.parametrize("status", ["refused", "incomplete", "timed out", "failed", "held"])
def test_no_mark_goes_back_before_somebody_decided(tmp_path, capsys, status):
    """Neither 0 for what could not be graded, nor the sum of what is marked so far."""
    names = ("ada", "bela", "carl")
    of_name = [replace(result(name), submission=f"{name}.zip") for name in names]
    of_name[0] = replace(of_name[0], status="computed" if status == "held" else status)
    write(
        tmp_path, [Standing(of_name[0], status), *(Standing(r, "review", 9) for r in of_name[1:])]
    )
    decide(tmp_path / GRADEBOOK, "bela", report="", marked="")
    rows = [f"Participant {i},{name},\n" for i, name in enumerate(names)]
    export(tmp_path / "x", f"Identifier,ID number,Grade\n{''.join(rows)}")
    filled = read_sheet(fill_table(tmp_path / "export.csv", tmp_path)).rows
    assert [row[2] for row in filled[1:]] == ["", "", "9"]
    first, second = capsys.readouterr().out.splitlines()
    assert f"for ada, who is {status}, and nobody gave points for the DSC; fill" in first
    assert "for bela, who has no points yet for 'report'; fill 0 for none" in second


def decide(book: Path, student: str, **cells: str) -> None:
    rows = list(csv.reader(io.StringIO(book.read_text(encoding="utf-8-sig"))))
    row = next(row for row in rows if row[0] == student)
    for name, cell in cells.items():
        row[rows[0].index(name)] = cell
    with book.open("w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows(rows)


def test_marks_of_who_submitted_nothing_go_back_too(grades, capsys):
    """After an oral exam, say."""
    file, book = export(grades, CANVAS), grades / GRADEBOOK
    fill_table(file, grades, "LGG")
    assert "carl" not in capsys.readouterr().out
    decide(book, "carl", report="55", score="55", marked=f"none/{marks_of({'report': '55'})}")
    written = fill_table(file, grades, "LGG").read_text(encoding="utf-8-sig")
    has_row = any("carl" in line and "55" in line for line in written.splitlines())
    assert has_row or "no row for carl, who has 55 points" in capsys.readouterr().out
    decide(book, "carl", status="withdrawn")
    fill_table(file, grades, "LGG")
    assert "what carl has marks for is not among the submissions" in capsys.readouterr().out


def test_ids_that_differ_in_capitals_only_are_two_students(tmp_path):
    """Neither gets the other's points; a spelling that may be either's is refused."""
    points = {"Twin": 38.2, "twin": 29.4}
    twins = [
        Standing(replace(result(name), submission=f"{name}.zip"), "verified", points[name], 1)
        for name in points
    ]
    write(tmp_path, twins)
    table = "Identifier,ID number,Grade\nParticipant 1,twin,\nParticipant 2,Twin,\n"
    export(tmp_path / "x", table)
    filled = read_sheet(fill_table(tmp_path / "export.csv", tmp_path)).rows
    assert [row[2] for row in filled[1:]] == ["29.4", "38.2"]
    export(tmp_path / "x", table.replace(",Twin,", ",TWIN,"))
    with pytest.raises(KitError, match="TWIN of the export may be Twin or twin; write it there"):
        fill_table(tmp_path / "export.csv", tmp_path)


@pytest.mark.parametrize("comment", ["'quoted' word", "- good", "=SUM", "'tis", "''"])
def test_a_comment_goes_back_as_it_was_typed(grades, comment):
    book = grades / GRADEBOOK
    typed = {"report": "50", "comment": comment}
    decide(book, "ada", **typed, marked=f"sha-1/{marks_of(typed)}")
    filled = fill_table(export(grades, MOODLE), grades)
    assert read_sheet(filled).rows[1][9] == comment


def test_a_row_with_the_ids_of_two_is_refused(grades):
    """Canvas has a number of its own for each, which may be another's id."""
    both = CANVAS.replace(",1001,", ",bela,")
    with pytest.raises(KitError, match="has the ids of bela and ada; remove the columns of ids"):
        fill_table(export(grades, both), grades, "LGG")
    row = next(line for line in CANVAS.splitlines() if ",ada," in line)
    twice = CANVAS.replace(row, f"{row}\n{row}")
    with pytest.raises(KitError, match="has two rows of ada"):
        fill_table(export(grades, twice), grades, "LGG")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,points\nada,\n", "no table that Moodle, Canvas or Blackboard exports"),
        ("", "no table that"),
        (MOODLE.replace("100.00", "10.00"), "the platform gives 10 points"),
        (CANVAS.replace(" (12)", "").replace(" (11)", ""), r"Name it \(--column\): none"),
    ],
)
def test_tables_that_cannot_be_filled(grades, text, reason):
    with pytest.raises(KitError, match=reason):
        fill_table(export(grades, text), grades)
    assert not (grades / "upload").exists()


def test_without_a_gradebook_and_with_two_submissions(grades, tmp_path):
    file = export(grades, MOODLE)
    with pytest.raises(KitError, match="grade first"):
        fill_table(file, tmp_path)
    book = grades / GRADEBOOK
    text = book.read_text(encoding="utf-8-sig")
    book.write_text(text + "bela,other.zip,verified\n", encoding="utf-8")
    with pytest.raises(KitError, match="bela has two submissions"):
        fill_table(file, grades)
    for wrong, reason in (
        (re.sub("POINTS POSSIBLE.*\n", "", text), "has no row POINTS POSSIBLE; grade again"),
        (text.replace("score", "sum"), "lacks a column"),
        ("", "lacks a column"),
    ):
        book.write_text(wrong, encoding="utf-8")
        with pytest.raises(KitError, match=reason):
            fill_table(file, grades)


def test_command_line(grades, monkeypatch, capfd):
    file = export(grades, BLACKBOARD)
    arguments = ("table", str(file), "--grades", str(grades), "--column", "LGG")
    status, out, _ = command(main, monkeypatch, capfd, *arguments)
    assert status == 0 and out.strip().endswith("export.csv")
