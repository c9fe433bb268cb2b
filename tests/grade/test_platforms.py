"""Downloads of platforms, clones, and teams: which submission is whose."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lib.config import seed_of
from lib.grade import grade, load_rubric, pack
from lib.grade.archive import write_zip
from lib.grade.gradebook import GRADEBOOK
from lib.grade.pack import commit
from lib.grade.platforms import is_late, is_packed, list_submissions
from lib.grade.run import student_of
from lib.grade.standings import alike, assess, large_teams, other_seeds, unexpected
from lib.grade.submission import MANIFEST, members
from lib.utils import KitError
from tests.grade.demo import rename
from tests.grade.test_gradebook import RUBRIC, result

TEXT = "<p>I hand in a zip.</p>"


def put(folder: Path, *names: str) -> None:
    """Write files below a folder; a zip has what ``pack`` puts into it."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".zip":
            write_zip(file, {MANIFEST: b"{}"})
        else:
            file.write_text(TEXT)


def test_no_zip_of_a_stranger_stops_a_class(tmp_path):
    """They are asked for what they are before the child process reads them."""
    put(tmp_path, "good.zip")
    good = (tmp_path / "good.zip").read_bytes()
    assert is_packed(tmp_path / "good.zip")
    name, entry = MANIFEST.encode(), good.index(b"PK\1\2")
    odd = bytearray(good.replace(name, b"\xff" * len(name)))
    odd[entry + 8 : entry + 10] = b"\0\x08"  # the name is said to be UTF-8
    huge = bytearray(good)
    end = good.rindex(b"PK\5\6")
    huge[end + 12 : end + 16] = b"\xff\xff\xff\x7f"  # a directory of 2 GB
    for number, content in enumerate((odd, huge, good[: end + 10], b"", b"PK\5\6")):
        (tmp_path / f"{number}.zip").write_bytes(content)
        assert not is_packed(tmp_path / f"{number}.zip"), number
    folder = tmp_path / "class" / "Ada_1_assignsubmission_file"
    folder.mkdir(parents=True)
    (folder / "ada.zip").write_bytes(odd)
    assert list(list_submissions(tmp_path / "class")) == [f"{folder.name}/ada.zip"]


def test_files_that_are_no_submission_are_named(tmp_path, capsys):
    put(tmp_path, "ada.zip", "byronada_12_345_best.ipynb", "carl_LATE_13_346_carl.zip")
    put(tmp_path, "carl_LATE_13_347_notes.txt", "result.csv")
    assert set(list_submissions(tmp_path)) == {"ada.zip", "carl_LATE_13_346_carl.zip"}
    said = capsys.readouterr().out
    assert ": 2 entries are no submission" in said and "byronada_12_345_best" in said
    with pytest.raises(KitError, match="has the submissions; name another folder"):
        list_submissions(tmp_path, tmp_path)


def test_nobody_is_left_out_without_a_word(tmp_path, capsys):
    """Links, archives that are hidden, and files of one whose name begins as another's."""
    put(tmp_path, "ada/lib/x.py", "ada.txt", "adam.docx", "ada-b.docx", ".zip", "grades/x.csv")
    put(tmp_path, "._ada.zip", ".DS_Store", "bo_1_2_bo.zip", "bo_1_3_x.txt", "bo_11_3_x.txt")
    put(tmp_path, "g_T_cy_attempt_2026-11-27-09-00-00_a.zip")
    put(tmp_path, "g_T_cy_attempt_2026-11-27-09-00-00.txt")
    for name, target in (("carl.zip", "bo_1_2_bo.zip"), ("dora", "ada"), ("bo_1_4_x.zip", "no")):
        (tmp_path / name).symlink_to(tmp_path / target)
    assert len(list_submissions(tmp_path, tmp_path / "grades")) == 3
    names = ".zip, ada-b.docx, adam.docx, bo_11_3_x.txt, bo_1_4_x.zip, carl.zip, dora;"
    assert f": 7 entries are no submission, and were not graded: {names}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("byronada_12_345_ada.zip", "ada"),
        ("LATE_anon_x7Ab3_345_ada.zip", "ada"),
        ("Max Muster_345_assignsubmission_file/ada.zip", "ada"),
        ("Max Muster_345_assignsubmission_file_ada.zip", "ada"),
        ("Max Muster_345_assignsubmission_file/report.zip", "Max"),  # there is nothing better
        ("byronada_12_345_345.zip", "345"),
        ("ada/result/x.zip", "ada"),
    ],
)
def test_no_number_of_a_platform_is_an_id(name, student):
    assert student_of(name, ["ada", "345", "12", "Max"]) == student


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (  # Moodle, in folders: an online text beside a file is none; alone it gets a row
            (
                "Ada Byron_101_assignsubmission_file_/ada.zip",
                "Ada Byron_101_assignsubmission_onlinetext_/onlinetext.html",
                "Bela B_102_assignsubmission_file_/bela.zip",
                "Bela B_102_assignsubmission_file_/readme.txt",
                "Carl C_103_assignsubmission_onlinetext_/onlinetext.html",
            ),
            [
                "Ada Byron_101_assignsubmission_file_/ada.zip",
                "Bela B_102_assignsubmission_file_/bela.zip",
                "Carl C_103_assignsubmission_onlinetext_",
            ],
        ),
        (  # Moodle, without folders
            (
                "Ada Byron_101_assignsubmission_file_ada.zip",
                "Ada Byron_101_assignsubmission_onlinetext_onlinetext.html",
            ),
            ["Ada Byron_101_assignsubmission_file_ada.zip"],
        ),
        (  # Moodle since 4.1, of teams: the second has no group
            (
                "Team A_7_assignsubmission_file/ada+bela.zip",
                "Team A_7_assignsubmission_onlinetext/onlinetext.html",
                "Default group_assignsubmission_file/carl.zip",
                "Default group_assignsubmission_onlinetext/onlinetext.html",
            ),
            [
                "Default group_assignsubmission_file/carl.zip",
                "Team A_7_assignsubmission_file/ada+bela.zip",
            ],
        ),
        (  # Canvas
            ("belab_102_5678_bela-1.zip", "byronada_LATE_101_1234_ada.zip"),
            ["belab_102_5678_bela-1.zip", "byronada_LATE_101_1234_ada.zip"],
        ),
        (  # Blackboard: the last attempt, without the texts
            (
                "gradebook_MRI_Task_ada_attempt_2026-11-27-09-00-00.txt",
                "gradebook_MRI_Task_ada_attempt_2026-11-27-09-00-00_ada.zip",
                "gradebook_MRI_Task_ada_attempt_2026-11-28-12-30-00.txt",
                "gradebook_MRI_Task_ada_attempt_2026-11-28-12-30-00_ada (1).zip",
                "gradebook_MRI_Task_bela_attempt_2026-11-28-12-30-00_bela.zip",
            ),
            [
                "gradebook_MRI_Task_ada_attempt_2026-11-28-12-30-00_ada (1).zip",
                "gradebook_MRI_Task_bela_attempt_2026-11-28-12-30-00_bela.zip",
            ],
        ),
        (  # GitHub Classroom: clones, each with the zip that pack committed
            (
                "task-ada/README.md",
                "task-ada/lib/x.py",
                "task-ada/data/other/old.txt",
                "task-ada/result/ada.zip",
                "task-bela/lib/x.py",
            ),
            ["task-ada/result/ada.zip", "task-bela"],
        ),
    ],
    ids=["Moodle", "Moodle flat", "Moodle teams", "Canvas", "Blackboard", "GitHub"],
)
def test_downloads_as_they_come(tmp_path, names, found):
    put(tmp_path, *names)
    assert list(list_submissions(tmp_path)) == found


def test_an_earlier_attempt_is_named(tmp_path, capsys):
    put(tmp_path, *(f"g_T_ada_attempt_2026-11-2{day}-09-00-00_a.zip" for day in "789"))
    assert len(list_submissions(tmp_path)) == 1
    said = capsys.readouterr().out
    assert said.count("the attempt of 2026-11-29-09-00-00 is later, and counts") == 2


def test_all_files_of_the_last_attempt_are_listed(tmp_path, capsys):
    attempt = "g_T_ada_attempt_2026-11-28-09-00-00_"
    put(tmp_path, "g_T_ada_attempt_2026-11-27-09-00-00_a.zip", f"{attempt}a.zip", f"{attempt}b.zip")
    assert list(list_submissions(tmp_path)) == [f"{attempt}a.zip", f"{attempt}b.zip"]
    assert capsys.readouterr().out.count("is later") == 1


def test_a_file_that_was_downloaded_and_submitted_again(tmp_path):
    """Its name has the earlier attempt in it."""
    earlier, later = (f"g_T_ada_attempt_2026-11-2{day}-09-00-00_" for day in "78")
    put(tmp_path, f"{earlier}a.zip", f"{later}{earlier}a.zip")
    assert list(list_submissions(tmp_path)) == [f"{later}{earlier}a.zip"]


def test_which_zip_in_a_folder_counts(tmp_path):
    """One of pack beside others; a zip of anything beside folders is none."""
    put(tmp_path, "a/x.zip", "a/lib/x.py", "b/lib/x.py", "c/x.zip", "c/y.zip")
    write_zip(tmp_path / "a" / "data.zip", {"notes.txt": b""})
    write_zip(tmp_path / "b" / "data.zip", {"notes.txt": b""})
    assert list(list_submissions(tmp_path)) == ["a/x.zip", "b", "c"]


def test_a_late_submission_has_a_note():
    assert is_late("byronada_LATE_101_1234_ada.zip")
    assert is_late("LATE_anon_x7Ab3_1234_ada.zip") and is_late("team_1_LATE_101_1234_ada.zip")
    assert not is_late("anon_x7Ab3_1234_LATE_1_2_.zip") and not is_late("late_101_1234_ada.zip")
    assert not is_late("ada_LATE.zip") and not is_late("byronada_101_1234_x_LATE_1_2_.zip")
    late = replace(result("ada"), submission="byronada_LATE_101_1234_ada.zip")
    assert [(i, one.level, one.name) for i, one in unexpected([late], None)] == [
        (0, "note", "late")
    ]


# --- teams ----------------------------------------------------------------------------------------


def test_a_team_submits_once_and_each_member_has_a_row(hand_ins, ada, tmp_path):
    """Points in both rows, no accusation, marks of their own, and who is missing is missing."""
    team, single = rename(ada, "ada+bela"), rename(ada, "bela")
    write_zip(tmp_path / "in" / "team.zip", team)
    arguments = tmp_path / "in", hand_ins / "data", tmp_path / "out"
    rubric, roster = load_rubric(hand_ins / "rubric.toml"), ["ada", "bela", "carl"]
    rubric = replace(rubric, team=2)
    standings = grade(*arguments, rubric, roster)
    assert [(one.result.student, one.status) for one in standings] == [
        ("ada", "verified"),
        ("bela", "verified"),
        ("carl", "missing"),
    ]
    assert standings[0].points == standings[1].points > 0
    rows = rows_of(tmp_path / "out" / GRADEBOOK)
    assert rows["ada"]["feedback"] != rows["bela"]["feedback"]
    assert rows["ada"]["read"] == rows["bela"]["read"] != ""
    for row in rows.values():
        assert all((tmp_path / "out" / row[name]).is_file() for name in ("feedback",) if row[name])
    page = (tmp_path / "out" / rows["ada"]["feedback"]).read_text(encoding="utf-8")
    assert "bela" not in page
    edit = (tmp_path / "out" / GRADEBOOK).read_text(encoding="utf-8-sig")
    columns = edit.splitlines()[0].split(",")
    lines = list(csv.reader(io.StringIO(edit)))
    next(line for line in lines if line[0] == "bela")[columns.index("comment")] = "spoke well"
    with (tmp_path / "out" / GRADEBOOK).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    write_zip(tmp_path / "in" / "bela.zip", single)  # and hands in by herself, too
    standings = grade(*arguments, rubric, roster)
    flags = {
        (one.result.student, one.result.submission): [f.name for f in one.result.findings]
        for one in standings
    }
    assert flags["bela", "bela.zip"] == ["submitted twice"]
    assert "the same weights" not in flags["ada", "team.zip"]
    assert rows_of(tmp_path / "out" / GRADEBOOK)["ada"]["comment"] == ""


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    text = file.read_text(encoding="utf-8-sig")
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


def test_ids_of_teams():
    assert members("ada+bela+ada") == ["ada", "bela"] and members("ada") == ["ada"]
    assert seed_of("ada+bela") == seed_of("bela + ada") != seed_of("ada")
    for wrong in ("ada+", "+ada", "ada++bela", "a+b+c+d+e+f", "ada bela"):
        with pytest.raises(KitError, match="a team joins at most 5 ids by"):
            pack(wrong)


def test_a_team_shares_what_it_has_and_others_do_not():
    shared = {"prints": {"weights": "w"}}
    three = [result(name, **shared) for name in ("ada+bela", "bela", "carl")]
    three = [replace(one, run="run") for one in three]
    found = {index: finding.private for index, finding in alike(three)}
    assert found[0] == "the same weights as carl" == found[1]
    assert found[2] == "the same weights as ada+bela, bela"


def test_a_team_larger_than_the_rubric_allows_is_looked_at():
    """Whoever adds ids to a submission would give points away."""
    results = [result(name) for name in ("ada+bela", "chen+zoe+max", "dora", "finn+finn")]
    found = [(index, finding.level, finding.private) for index, finding in large_teams(results, 2)]
    assert found == [(1, "review", "a team of 3, at most 2 by the rubric")]
    standings = assess(results, RUBRIC)
    assert [one.status for one in standings] == ["review", "review", "verified", "verified"]


def test_the_seed_of_somebody_else_is_found():
    seeds = {"ada": "ada", "bela": "ada", "carl": "carl+dora", "carl+dora": "carl+dora"}
    results = [result(name, recipe={"seed": seed_of(of)}) for name, of in seeds.items()]
    results += [result("emil", recipe={"seed": 42}), result("finn")]
    assert [(index, one.private) for index, one in other_seeds(results)] == [(1, "the seed of ada")]


# --- clones ---------------------------------------------------------------------------------------


def test_what_is_packed_can_be_committed_although_results_are_ignored(tmp_path):
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    git("init", "-q")
    git("config", "user.name", "Ada")
    git("config", "user.email", "ada@example.org")
    put(tmp_path, "result/ada.zip", "notes.txt")
    (tmp_path / ".gitignore").write_text("/result/*\n")
    git("add", "notes.txt")
    assert "git push" in commit(tmp_path / "result" / "ada.zip")
    assert git("show", "--stat", "--format=%s").split()[:2] == ["Submit", "ada.zip"]
    assert git("show", "--name-only", "--format=").split() == ["result/ada.zip"]
    assert git("status", "--short").startswith("A  notes.txt")  # what else is staged stays
    assert "is committed already" in commit(tmp_path / "result" / "ada.zip")
    with pytest.raises(KitError, match="is in no git repository"):
        commit(tmp_path.parent / "x.zip")


def test_a_zip_that_github_would_reject_is_not_committed(tmp_path):
    """A push with one fails, and so does every push after it."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    file = tmp_path / "ada.zip"
    with file.open("wb") as stream:
        stream.truncate(100 * 2**20 + 2**18)
    with pytest.raises(
        KitError, match=r"ada\.zip: 100\.2 MiB, GitHub takes at most 100 a file, so "
    ):
        commit(file)
    done = subprocess.run(
        ["git", "status", "--short"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "?? ada.zip\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for git is a shell script")
def test_what_git_says_in_another_encoding_is_shown(tmp_path, monkeypatch):
    """On a Chinese Windows it may speak in GBK."""
    stand_in = tmp_path / "git"
    stand_in.write_text(
        """#!/bin/sh
[ "$1" = add ] && printf 'no, \\316\\336\\267\\250\\n' >&2 && exit 1
exit 0
"""
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    put(tmp_path, "ada.zip")
    with pytest.raises(KitError, match="git cannot add it \\(no, \ufffd"):
        commit(tmp_path / "ada.zip")
