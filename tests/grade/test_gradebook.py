"""Points, ties, shared work, and the gradebook that humans fill."""

import csv
import html
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.grade import load_rubric
from lib.grade.feedback import page_name, pseudonym, write_leaderboard, write_page
from lib.grade.gradebook import (
    BEFORE,
    BY_HAND,
    GRADEBOOK,
    Book,
    columns_lost,
    graded_now,
    read_book,
    with_outdated,
    write_book,
)
from lib.grade.result import Finding, Result
from lib.grade.rubric import DEFAULT, Rubric, with_baseline
from lib.grade.standings import (
    FEWEST_PATIENTS,
    Standing,
    alike,
    assess,
    of_members,
    other_grids,
    shipped,
    tied,
)
from lib.grade.standings import points as points_of_tie
from lib.runtime.own_files import OwnFiles
from lib.utils import KitError

RUBRIC = Rubric(((0.5, 0), (0.7, 10), (0.9, 40)), 0.005, {"report": 60})


def result(student: str, scores=(0.7, 0.8, 0.9), **changes) -> Result:
    cases = {f"P{i}": [score, score, None] for i, score in enumerate(scores)}
    mean = float(np.mean(scores))
    return Result(
        f"{student}.zip",
        student,
        run="run",
        claimed=mean,
        verified=mean,
        low=min(scores),
        high=max(scores),
        grid="network",
        cases=cases,
        **changes,
    )


# --- rubric ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsc", "points"), [(0.1, 0), (0.5, 0), (0.6, 5), (0.7, 10), (0.8, 25), (0.9, 40), (1, 40)]
)
def test_points_by_hand(dsc, points):
    assert RUBRIC.points(dsc) == points


def test_the_default_rubric_gives_the_number_at_most_two_fifths():
    rubric = load_rubric()
    assert rubric.dsc_points <= 0.4 * rubric.total


_SCALE = "[dsc]\nscale = [[0.5, 0], [0.9, 40]]\n"


def test_each_column_of_the_default_rubric_has_three_levels():
    rubric = load_rubric()
    for name, points in rubric.columns.items():
        amounts = [least for least, _ in rubric.levels[name]]
        assert amounts == [0, points / 2, points]
        assert [rubric.level(name, least) for least in (0, points / 2 - 1, points)] == [0, 0, 2]
    assert rubric.level("of no such name", 5) is None


def test_the_feedback_page_shows_the_level_that_was_reached(tmp_path):
    rubric = load_rubric()
    [first, second, _] = rubric.columns
    standing = Standing(Result("a.zip", "ada"), "failed")
    write_page(tmp_path, standing, {first: "15,5"}, 15.5, rubric, OwnFiles(tmp_path))
    text = (tmp_path / page_name(standing)).read_text(encoding="utf-8")
    [(_, _), (_, half), (_, _)] = rubric.levels[first]
    assert re.findall(r'class="reached".*?<td>(.*?)</td></tr>', text) == [half]
    assert all(html.escape(words) in text for _, words in rubric.levels[second])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "[dsc]\nscale = [[0.5, 0], [0.9, 50]]\n[columns]\nreport = 50",
            "50 of 100 points, more than 40%",
        ),
        ("[dsc]\nscale = [[0.9, 0], [0.5, 40]]\n[columns]\nreport = 60", "must rise"),
        ("[dsc]\nscale = [[0.5, 0]]", "two or more"),
        ("[dsc]\nscale = 7", "two or more"),
        ("[dsc]\nscale = [[0.5, nan], [0.9, 4]]", "two or more"),
        ("[dcs]\n", "dcs is unknown"),
        (f"team = 0\n{_SCALE}[columns]\nreport = 60", "team must be a whole number .* 1 to 5"),
        (f"team = 1.5\n{_SCALE}[columns]\nreport = 60", "team must be a whole number"),
        (f"team = true\n{_SCALE}[columns]\nreport = 60", "team must be a whole number"),
        ("dsc = 7", "two or more"),
        ("[[dsc]]\nscale = [[0.5, 0], [0.9, 40]]", "two or more"),
        ("[dsc]\nscale = [[80, 0], [92, 40]]\n[columns]\nreport = 60", "1 at most, not 92; write"),
        (f"{_SCALE}[columns]\nreport = 1{'0' * 400}", "must name points"),
        (f"{_SCALE}[columns]\n'report ' = 60", "'report ' has a blank at its end"),
        (f'{_SCALE}[columns]\n"two\\rlines" = 60', "a line break"),
        ("[dsc]\nscale = [[0.5, 0], [0.9, 40]]\n[columns]\n'=x' = 60", "begin with a letter"),
        ("[dsc]\nscale = [[0.5, 0], [0.9, 40]]\n[columns]\nreport = -60", "columns"),
        ("[dsc", "no TOML"),
        (f"{_SCALE}[columns]\nreport = 'all'", "must name points"),
        (f"{_SCALE}[columns.report]\nlevels = [[0, 'a']]", "must name points"),
        (f"{_SCALE}[columns.report]\npoints = 60\nlevel = 3", "level is unknown"),
        (f"{_SCALE}[columns.report]\npoints = 60\nlevels = []", "a list of"),
        (f"{_SCALE}[columns.report]\npoints = 60\nlevels = [['a', 0]]", "a list of"),
        (f"{_SCALE}[columns.report]\npoints = 60\nlevels = [[9, 'a'], [8, 'b']]", "must rise"),
        (f"{_SCALE}[columns.report]\npoints = 60\nlevels = [[0, 'a'], [61, 'b']]", "to 60 points"),
    ],
)
def test_rubrics_that_are_none(tmp_path, text, reason):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(KitError, match=reason) as caught:
        load_rubric(tmp_path / "r.toml")
    assert "\n" not in str(caught.value)


def test_a_rubric_with_the_mark_that_windows_puts_at_the_start(tmp_path):
    (tmp_path / "r.toml").write_text(f"{_SCALE}[columns]\nreport = 60\n", encoding="utf-8-sig")
    assert load_rubric(tmp_path / "r.toml").columns == {"report": 60}


# --- ties -----------------------------------------------------------------------------------------


def test_those_who_cannot_be_told_apart_earn_the_same():
    best = result("a", (0.80, 0.82, 0.84, 0.86) * 2)
    noisy = result(
        "b", (0.74, 0.88, 0.79, 0.90) * 2
    )  # lower on average, but not patient by patient
    clear = result("c", (0.70, 0.72, 0.74, 0.76) * 2)  # 0.1 below the best in each patient
    standings = assess([clear, noisy, best], RUBRIC)
    points = {standing.result.student: (standing.rank, standing.points) for standing in standings}
    assert points["a"] == points["b"] == (1, RUBRIC.points(0.83))
    assert points["c"] == (3, RUBRIC.points(0.73))


def points_of(*results):
    return {one.result.student: one.points for one in assess(results, RUBRIC)}


def test_a_tie_is_worth_no_more_than_the_largest_lift():
    """Of ten patients two are missed: nobody can tell the two apart, and 0.16 lie between them."""
    best = result("a", (0.8,) * 10)
    unlucky = result("b", (0.8,) * 8 + (0.0,) * 2)
    assert [rank for rank, _, _ in tied([best, unlucky])] == [1, 1]
    points = points_of(best, unlucky)
    assert points == {"a": RUBRIC.points(0.8), "b": RUBRIC.points(0.64 + 0.02)}


def test_who_earns_nothing_by_the_scale_is_not_lifted():
    """A network that finds nothing, and one just below the baseline."""
    best = result("a", (0.9, 0.0) * 5)
    dead, below = result("b", (0.0,) * 10), result("c", (0.499, 0.499) * 5)
    assert points_of(best, dead, below) == {"a": 0.0, "b": 0.0, "c": 0.0}
    good = result("a", (0.95, 0.2) * 5)
    assert points_of(good, below) == {"a": RUBRIC.points(0.575), "c": 0.0}


def test_with_few_patients_the_scale_alone_counts():
    for patients, lifted in ((5, False), (6, True)):
        best = result("a", tuple(np.linspace(0.7, 0.9, patients)))
        other = result("b", tuple(np.linspace(0.7, 0.9, patients)[::-1] - 0.01))
        assert points_of(best, other)["b"] == RUBRIC.points(0.8 if lifted else 0.79)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=7, max_size=7), min_size=2, max_size=4))
def test_no_result_depends_on_a_classmate_by_more_than_the_lift(scores):
    results = [result(f"s{i}", tuple(values)) for i, values in enumerate(scores)]
    whole = points_of(*results)
    for one in results:
        alone = RUBRIC.points(one.verified)
        assert alone <= whole[one.student] <= RUBRIC.points(one.verified + 0.02) + 1e-9
    ordered = sorted(results, key=lambda one: -one.verified)
    earned = [whole[one.student] for one in ordered]
    assert earned == sorted(earned, reverse=True)


def test_a_scale_that_begins_at_the_baseline():
    assert with_baseline(RUBRIC, 0.6).scale == ((0.6, 0), (0.7, 10), (0.9, 40))
    with pytest.raises(KitError, match=r"0\.7000, but the scale's next step is 0\.7"):
        with_baseline(RUBRIC, 0.7)
    assert load_rubric().is_placeholder and not with_baseline(load_rubric(), 0.7).is_placeholder


def test_the_scale_of_the_kit_is_a_placeholder_in_a_copy_too(tmp_path):
    copy, own = tmp_path / "copy.toml", tmp_path / "own.toml"
    text = DEFAULT.read_text(encoding="utf-8")
    copy.write_text(text.replace("largest_lift = 0.02", "largest_lift = 0.01"), encoding="utf-8")
    assert load_rubric(copy) != load_rubric() and load_rubric(copy).is_placeholder
    own.write_text(text.replace("[[0.80, 0]", "[[0.81, 0]"), encoding="utf-8")
    assert load_rubric(own).scale[0] == (0.81, 0) and not load_rubric(own).is_placeholder


def test_luck_rarely_splits_a_class_of_equals():
    """20 students, ten patients, differences of SD 0.05: few classes are split.

    Of ten students who are worse by 0.05, most are told apart.
    """
    rng = np.random.default_rng(1)

    def first_group(worse: float) -> list[int]:
        scores = rng.beta(6, 1.2, 10) + rng.normal(0, 0.05 / np.sqrt(2), (20, 10))
        scores[10:] -= worse
        groups = tied(
            result(f"{number:02}", values) for number, values in enumerate(scores.clip(0, 1))
        )
        return [int(member.student) for rank, _, member in groups if rank == 1]

    assert sum(len(first_group(0)) < 20 for _ in range(40)) <= 2
    groups = [first_group(0.05) for _ in range(20)]
    assert np.mean([sum(number < 10 for number in group) for group in groups]) > 9.5
    assert np.mean([sum(number >= 10 for number in group) for group in groups]) < 4


def test_masks_on_the_files_grid_are_no_part_of_a_tie():
    other = replace(result("b", (0.79, 0.80, 0.81)), grid="file")
    assert [rank for rank, _, _ in tied([result("a", (0.80, 0.80, 0.80)), other])] == [1, 2]


def on_grid(name, image_size, preprocessing="reference"):
    lower = ord(name[0])  # by a little, so that the order is that of the names
    cases = tuple(np.roll(np.linspace(0.6, 0.9, FEWEST_PATIENTS), lower) - lower / 1e4)
    recipe = {"image_size": image_size, "preprocessing": preprocessing}
    return replace(result(name, cases), recipe=recipe)


def test_runs_on_different_grids_are_neither_tied_nor_ranked_without_a_word():
    equal = [on_grid("ada", 80), on_grid("bela", 80), on_grid("carl", 32)]
    standings = assess([*equal, on_grid("dora", 80, "crop")], RUBRIC)
    assert [(one.status, one.rank) for one in standings] == [
        ("verified", 1),
        ("verified", 1),
        ("review", 3),
        ("review", 4),
    ]
    [carl] = standings[2].result.findings
    assert carl.name == "another grid" and "at 32 pixels, preprocessing reference, " in carl.text
    assert "most of the class at 80 pixels, preprocessing reference" in carl.text
    assert "at 80 pixels, preprocessing crop, most" in standings[3].result.findings[0].text


def test_without_a_most_frequent_grid_every_run_is_looked_at():
    results = [on_grid("ada", 80), on_grid("bela", 32), replace(on_grid("carl", 64), grid="file")]
    assert [index for index, _ in other_grids(results)] == [0, 1]
    assert list(other_grids([on_grid("ada", 80), on_grid("bela", 80)])) == []
    assert list(other_grids([])) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=6))
def test_points_never_rise_as_the_dsc_falls(scores):
    results = [result(f"s{i}", tuple(values)) for i, values in enumerate(scores)]
    groups = list(tied(results))
    assert [member.verified for _, _, member in groups] == sorted(
        (r.verified for r in results), reverse=True
    )
    leaders = [RUBRIC.points(leader.verified) for _, leader, _ in groups]
    assert leaders == sorted(leaders, reverse=True)
    assert all(leader.verified >= member.verified for _, leader, member in groups)


# --- what a class shows ---------------------------------------------------------------------------


def test_shared_weights_with_other_recipes_hold_both_unless_one_is_caught_otherwise():
    a, b = (
        result("a", prints={"weights": "1", "cases": "2"}),
        result("b", prints={"weights": "1", "cases": "2"}),
    )
    same = dict(alike([a, b, result("c", prints={"weights": "3"})]))
    assert {index: (finding.level, finding.name) for index, finding in same.items()} == {
        0: ("review", "the same weights"),
        1: ("review", "the same weights"),
    }
    forged = replace(b, run="other")
    assert [finding.level for _, finding in alike([a, forged])] == ["fault", "fault"]
    caught = replace(forged, findings=[Finding("fault", "claim not reproduced", "")])
    assert [finding.level for _, finding in alike([a, caught])] == ["review", "fault"]
    assert not list(alike([a, replace(a, submission="again.zip")]))  # one student, two files


def test_weights_of_the_kit(tmp_path, hand_ins):
    file = next((hand_ins / "results" / "ada").glob("runs/*/best.pt"))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "kit.pt").write_bytes(file.read_bytes())
    from lib.grade.checkpoint import weights_hash
    from lib.runtime.checkpoint import read_checkpoint

    own = result("a", prints={"weights": weights_hash(read_checkpoint(file)["weights"])})
    assert [(index, finding.level) for index, finding in shipped([result("b"), own], tmp_path)] == [
        (1, "fault")
    ]


def test_twice_missing_and_not_on_the_roster():
    standings = assess(
        [result("a"), replace(result("a"), submission="b.zip"), result("x")], RUBRIC, ["a", "k"]
    )
    names = {
        (s.result.student, s.result.submission): [f.name for f in s.result.findings]
        for s in standings
    }
    assert names == {
        ("a", "a.zip"): ["submitted twice"],
        ("a", "b.zip"): ["submitted twice"],
        ("k", ""): [],
        ("x", "x.zip"): ["not on the roster"],
    }
    assert [s.status for s in standings] == ["review", "review", "missing", "review"]


# --- the gradebook --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "mangled"),
    [
        ("0012345", "12345"),
        ("202E9", "2.02E+11"),
        ("jan1", "01-Jan"),
        ("0007", "7"),
        ("20261126123456789", "20261126123456800"),
        ("20261126123456789", "2.02611E+16"),
    ],
)
def test_what_a_spreadsheet_makes_of_ids_loses_no_points(tmp_path, student, mangled):
    write(tmp_path, [result(student), result("bela")])
    file = tmp_path / GRADEBOOK
    rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
    column = rows[0].index("comment")
    for row in rows[1:]:
        if row[0].lstrip("'") == student:
            row[0], row[column] = mangled, "well done"
        elif row[0] == "bela":
            row[column] = "hers"
    with open(file, "w", encoding="utf-16", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows(rows)
    cells = write(tmp_path, [result(student), result("bela")])
    comments = {row["student"].lstrip("'"): row["comment"] for row in cells if row["comment"]}
    assert comments == {student: "well done", "bela": "hers"}


def test_rows_are_found_by_number_if_no_name_fits(tmp_path):
    """The names of folders are changed as ids are; what may be of two students is of neither."""
    long, leading = "202012345678", "0012345"
    other = "202012345999"  # as 2.02E+11, the same
    results = [
        replace(result(student), submission=student) for student in (long, leading, "8", "008")
    ]
    write(tmp_path, results)
    table = {long: "2.02E+11", leading: "12345", "8": "8", "008": "8"}
    rows = [[name, name, f"on {student}"] for student, name in table.items()]
    rows[3][1] = "008"
    with open(tmp_path / GRADEBOOK, "w", newline="") as stream:
        csv.writer(stream).writerows([("student", "submission", "comment"), *rows])
    book = read_book(tmp_path / GRADEBOOK, RUBRIC)
    write_all = {row["student"]: row["comment"] for row in write(tmp_path, results)}
    assert {name: write_all[name] for name in table} == {name: f"on {name}" for name in table}
    two = [replace(result(student), submission=student) for student in (long, other)]
    book = replace(book, ids=frozenset((long, other)))
    standings = assess(two, RUBRIC)
    assert [book.of(standing) for standing in standings] == [{}, {}]
    assert ("2.02E+11", "2.02E+11") in book.without(standings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("student,submission\na,a.zip,note\n", "line 2: 'note' is in column 3, which has no name"),
        ("student,submission,\na,a.zip,note\n", "column 3, which has no name"),
        ("student,submission,comment\n,,mean 3\n", "line 2: has 'mean 3' and no student"),
        ("student,submission,comment\na,a.zip,x\na,a.zip,y\n", "line 3: is the second of a"),
        ("student,submission,comment,comment\na,a.zip,x,y\n", "two columns 'comment'"),
        ('student,submission,comment\n"a,a.zip,""x"\n', f"line 2: has 1 of 3 .*{BEFORE}"),
    ],
)
def test_nothing_is_overwritten_if_a_cell_would_be_lost(tmp_path, text, reason):
    (tmp_path / GRADEBOOK).write_text(text)
    with pytest.raises(KitError, match=reason):
        write(tmp_path, [result("a")])
    assert (tmp_path / GRADEBOOK).read_text() == text


def test_lines_of_which_a_spreadsheet_made_one_cell_lose_no_marks(tmp_path):
    """Where a semicolon separates, Excel opens each line in one cell, and saves it in quotes."""
    write(tmp_path, [result("a"), result("b")])
    edit(tmp_path, report="31,5", comment='clear, "short"')
    lines = (tmp_path / GRADEBOOK).read_text(encoding="utf-8").splitlines()
    with open(tmp_path / GRADEBOOK, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([line] for line in lines)
    [_, row, _] = write(tmp_path, [result("a"), result("b")])
    assert (row["report"], row["comment"]) == ("31,5", 'clear, "short"')


def test_a_gradebook_is_kept_before_it_is_written_anew(tmp_path):
    write(tmp_path, [result("a")])
    assert not (tmp_path / BEFORE).exists()
    edit(tmp_path, comment="hers")
    typed = (tmp_path / GRADEBOOK).read_bytes()
    for _ in range(2):  # the second has nothing new to write
        write(tmp_path, [result("a"), result("b")])
        assert (tmp_path / BEFORE).read_bytes() == typed


def test_cells_of_the_first_row_and_without_an_id_stay(tmp_path):
    text = (
        "student,submission,report,comment,talk\n"
        "POINTS POSSIBLE,,99,of all,5\n"
        ',a.zip, ,"hers",\n'
        "a,b.zip,,,\n"
    )
    (tmp_path / GRADEBOOK).write_text(text)
    rows = {
        row["student"]: (row["report"], row["comment"], row["talk"])
        for row in write(tmp_path, [result("a"), result("x", (0.1, 0.2))])
    }
    assert rows["POINTS POSSIBLE"] == ("60", "of all", "5")
    assert rows["a"] == ("", "hers", "")


def test_an_entry_of_somebody_who_is_graded_is_nobody_elses(tmp_path):
    write(tmp_path, [result("ada"), result("bela")])
    file = tmp_path / GRADEBOOK
    text = file.read_text(encoding="utf-8-sig")
    rows = list(csv.reader(text.splitlines()))
    column = rows[0].index("comment")
    next(row for row in rows if row[0] == "ada")[column] = "ada's"
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    renamed = replace(result("carl"), submission=result("ada").submission)
    cells = write(tmp_path, [result("ada"), renamed])
    assert {row["student"]: row["comment"] for row in cells}["carl"] == ""


def write(folder, results, rubric=RUBRIC, roster=None):
    book = read_book(folder / GRADEBOOK, rubric)
    teams = assess(results, rubric, roster)
    standings = [member for team in teams for member in of_members(team)]
    book = graded_now(book, standings)
    standings = with_outdated(standings, book)
    write_book(
        folder / GRADEBOOK,
        standings,
        book,
        rubric,
        dict.fromkeys(range(len(standings)), "page.html"),
    )
    return table(folder)


def table(folder):
    with open(folder / GRADEBOOK, encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def edit(folder, **cells):
    rows = table(folder)
    rows[1].update(cells)
    with open(folder / GRADEBOOK, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_no_part_of_a_cell_is_a_formula_where_a_semicolon_separates(tmp_path):
    odd = replace(
        result("a"), findings=[Finding("note", "files left out", "", "x;=1+1;\t-2; @SUM")]
    )
    assert write(tmp_path, [odd])[1]["flags"] == "x;'=1+1;\t'-2; '@SUM"


def marked(folder, results):
    """Grade again; student -> flags."""
    book = read_book(folder / GRADEBOOK, RUBRIC)
    standings = with_outdated(assess(results, RUBRIC), book)
    write_book(folder / GRADEBOOK, standings, book, RUBRIC, dict.fromkeys(range(9), "page.html"))
    return {row["student"]: (row["status"], row["flags"], row["report"]) for row in table(folder)}


def test_marks_stay_when_the_content_changes_and_the_row_says_so(tmp_path):
    first, second = (result("a", content=content) for content in ("123456789012", "2e9"))
    marked(tmp_path, [first])
    edit(tmp_path, report="31,5", comment="=good")
    assert marked(tmp_path, [first])["a"] == ("verified", "", "31,5")
    for points in ("31,5", "31.50"):  # the same, as another spreadsheet saves it
        edit(tmp_path, report=points)
        assert marked(tmp_path, [second])["a"] == ("review", "changed since marked", points)
    edit(tmp_path, report="33")  # looked at again
    assert marked(tmp_path, [second])["a"] == ("verified", "", "33")
    assert marked(tmp_path, [first])["a"] == ("review", "changed since marked", "33")


def test_marks_of_what_was_handed_in_first_are_about_that(tmp_path):
    """Filled in after the first grading, and the zip was replaced before the second."""
    first, second = (result("a", content=content) for content in ("aa", "bb"))
    marked(tmp_path, [first])
    edit(tmp_path, comment="seen")
    assert marked(tmp_path, [second])["a"][:2] == ("review", "changed since marked")


def test_marks_of_who_was_missing_are_not_about_what_came_later(tmp_path):
    late = result("b", content="bb")
    for rows in (None, [Result("b.zip", "b", "refused")]):
        (tmp_path / GRADEBOOK).unlink(missing_ok=True)
        write(tmp_path, rows or [], roster=["b"])
        edit(tmp_path, report="0", **{BY_HAND: "0"})
        again = write(tmp_path, rows or [], roster=["b"])[1]
        assert again["status"] in ("missing", "refused") and "changed" not in again["flags"]
        [_, row] = write(tmp_path, [late], roster=["b"])
        assert (row["status"], row["flags"]) == ("review", "changed since marked")


def test_marks_of_a_team_stay_with_their_members_after_a_spreadsheet(tmp_path):
    """It makes 12 and 34 of 0012 and 0034, and both have the same file."""
    team = replace(result("0012+0034"), content="aa")
    write(tmp_path, [team])
    file = tmp_path / GRADEBOOK
    text = file.read_text(encoding="utf-8-sig")
    rows = list(csv.reader(text.splitlines()))
    column = rows[0].index("report")
    for row, points_given in zip(rows[2:], ("50", "40"), strict=True):
        row[0], row[column] = row[0].lstrip("0"), points_given
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    cells = write(tmp_path, [team])
    assert {row["student"]: row["report"] for row in cells[1:]} == {"0012": "50", "0034": "40"}


def test_a_column_that_the_rubric_lost_is_known(tmp_path):
    write(tmp_path, [result("a")])
    edit(tmp_path, report="50")
    renamed = replace(RUBRIC, columns={"report (own words)": 60})
    assert columns_lost(read_book(tmp_path / GRADEBOOK, RUBRIC)) == []
    assert columns_lost(read_book(tmp_path / GRADEBOOK, renamed)) == ["report"]


def test_a_tie_lifts_no_more_than_the_lead_over_the_baseline():
    rubric = Rubric(((0.8, 0), (0.92, 40)), 0.005, {}, largest_lift=0.02)
    leader = result("a", (0.9,))
    earned = [
        points_of_tie(result("b", (score,)), leader, rubric) for score in (0.8, 0.8001, 0.805, 0.83)
    ]
    assert earned[0] == 0 and earned[1] < 0.2, "no step at the baseline"
    assert earned[2] == pytest.approx(rubric.points(0.81), abs=0.1)
    assert earned[3] == pytest.approx(rubric.points(0.85), abs=0.1)


def test_one_who_says_another_recipe_holds_no_group(tmp_path):
    """With one seed for all, the same recipe gives the same weights; so do more epochs."""
    prints, recipe = {"weights": "same"}, {"lr": 1e-3, "seed": 42, "epochs": 24, "tta": False}
    class_ = [result(name, prints=prints, recipe=recipe) for name in "abc"]
    flips = result("d", prints=prints, recipe=recipe | {"tta": True, "epochs": 30})
    other = result("e", prints=prints, recipe=recipe | {"lr": 1e-2})
    levels = lambda results: [finding.level for _, finding in alike(results)]  # noqa: E731
    assert levels([*class_, replace(flips, run="other")]) == ["review"] * 4
    assert levels([*class_, replace(other, run="other")]) == ["review"] * 3 + ["fault"]
    assert levels([class_[0], replace(other, run="other")]) == ["fault"] * 2


def test_a_gradebook_of_an_older_version_has_no_content(tmp_path):
    (tmp_path / GRADEBOOK).write_text("student,submission,report,comment\na,a.zip,7,x\n")
    assert marked(tmp_path, [result("a", content="aa")])["a"] == ("verified", "", "7")
    assert marked(tmp_path, [result("a", content="bb")])["a"][0] == "review"


@pytest.mark.parametrize("name", ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", " =1"])
def test_no_cell_is_a_formula(tmp_path, name):
    odd = replace(result("a"), submission=name, findings=[Finding("note", name, "")])
    row = write(tmp_path, [odd])[1]
    assert row["submission"] == row["flags"] == "'" + name.replace("\r", "\n")
    assert (
        write(tmp_path, [replace(result("a", (0.1, 0.1)), claimed=0.0)])[1]["claimed - verified"]
        == "-0.100000"
    )


@pytest.mark.parametrize("comment", ["- clear\n- short", "=) well done", "+ nice", "'tis fine"])
def test_a_comment_is_shown_as_it_was_typed(tmp_path, comment):
    """The gradebook puts an apostrophe before what a spreadsheet takes for a formula."""
    write(tmp_path, [result("a")])
    edit(tmp_path, comment=comment)
    for _ in range(3):
        write(tmp_path, [result("a")])
        book = read_book(tmp_path / GRADEBOOK, RUBRIC)
        assert book.entries["a", "a.zip"] == {"comment": comment}


def test_points_count_whatever_the_capitals_of_their_column(tmp_path):
    write(tmp_path, [result("a")])
    edit(tmp_path, report="31")
    text = (tmp_path / GRADEBOOK).read_text(encoding="utf-8-sig")
    renamed = text.replace("report", "Report ", 1).replace("comment", "COMMENT", 1)
    (tmp_path / GRADEBOOK).write_text(renamed, encoding="utf-8")
    row = write(tmp_path, [result("a")])[1]
    assert (row["report"], row["score"]) == ("31", f"{25 + 31:g}") and "Report" not in row
    two = replace(RUBRIC, columns={"talk": 30, "Talk": 30})
    write_book(tmp_path / "two.csv", assess([result("a")], two), Book(), two, {0: "a"})
    assert read_book(tmp_path / "two.csv", two).columns[:2] == ("talk", "Talk")


def test_what_humans_wrote_survives(tmp_path):
    write(tmp_path, [result("a"), result("b")])
    edit(tmp_path, report="31,5", comment='clear; but, "short"\nsecond line')
    for results in (
        [result("a"), result("b")],
        [replace(result("a"), submission="new name.zip")],
        [result("b")],
        [result("a"), result("b")],
    ):
        row = next(row for row in write(tmp_path, results) if row["student"] == "a")
        assert (row["report"], row["comment"]) == ("31,5", 'clear; but, "short"\nsecond line')
    assert row["score"] == f"{25 + 31.5:g}"


@pytest.mark.parametrize("cell", ["good", "61", "-1", "nan", "1 / 2"])
def test_what_is_no_number_of_points_is_said_before_anything_is_overwritten(tmp_path, cell):
    write(tmp_path, [result("a")])
    edit(tmp_path, report=cell)
    before = (tmp_path / GRADEBOOK).read_bytes()
    with pytest.raises(KitError, match=r"line 3: .*report"):
        write(tmp_path, [result("a")])
    assert (tmp_path / GRADEBOOK).read_bytes() == before


def test_a_gradebook_that_is_none(tmp_path):
    (tmp_path / GRADEBOOK).write_text("a,b\n1,2\n")
    with pytest.raises(KitError, match="no columns student"):
        read_book(tmp_path / GRADEBOOK, RUBRIC)
    with pytest.raises(KitError, match="another name"):
        read_book(tmp_path / GRADEBOOK, replace(RUBRIC, columns={"score": 1}))


# --- pages ----------------------------------------------------------------------------------------


def test_everything_on_a_page_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    odd = replace(
        result("a", recipe={evil: evil}),
        submission=evil,
        run=evil,
        diff={evil: [evil]},
        cases={evil: [0.5, 0.5, None]},
        findings=[Finding("note", evil, evil)],
    )
    (standing,) = assess([odd], RUBRIC)
    write_page(
        tmp_path, standing, {"comment": evil, "report": evil}, 1.0, RUBRIC, OwnFiles(tmp_path)
    )
    write_leaderboard(tmp_path, [standing], Book(), RUBRIC)
    for page in tmp_path.rglob("*.html"):
        assert evil not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("findings", "filled", "points"),
    [
        ([], {}, "20"),
        ([], {BY_HAND: "7,5"}, "7.5"),
        ([], {BY_HAND: "0"}, None),  # a copy, as it turned out
        ([Finding("review", "not on the roster", "")], {}, None),
        ([Finding("fault", "metric edited", "")], {}, None),
        ([Finding("fault", "metric edited", "")], {BY_HAND: "12"}, "12"),
    ],
)
def test_the_leaderboard_has_the_points_that_count(tmp_path, findings, filled, points):
    (standing,) = assess([result("ada", (0.7,) * 3, findings=findings)], RUBRIC)
    standing = replace(standing, points=20.0) if standing.rank else standing
    book = Book(entries={("ada", "ada.zip"): filled}, ids=frozenset(["ada"]))
    write_leaderboard(tmp_path, [standing], book, RUBRIC)
    write_page(tmp_path, standing, filled, 0.0, RUBRIC, OwnFiles(tmp_path))
    board = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    shown = re.findall(r'<td class="number">([\d.]+)</td></tr>', board)
    assert shown == ([points] if points else [])
    page = (tmp_path / page_name(standing)).read_text(encoding="utf-8")
    assert ("on the leaderboard" in page) == bool(points)


def test_a_leaderboard_and_a_page_that_were_edited_are_put_aside(tmp_path):
    """A file of that name that was there before, and a page with the instructor's own words."""
    standing = Standing(result("ada"), "verified", 10.0, 1)
    board, page = tmp_path / "leaderboard.html", tmp_path / page_name(standing)
    board.write_text("of another course")
    write_page(tmp_path, standing, {}, 10.0, RUBRIC, OwnFiles(page.parent))
    page.write_text("well done")
    for _ in range(2):
        write_leaderboard(tmp_path, [standing], Book(), RUBRIC)
        write_page(tmp_path, standing, {}, 10.0, RUBRIC, OwnFiles(page.parent))
    aside = {file.read_text() for file in tmp_path.rglob("*.aside*")}
    assert aside == {"of another course", "well done"}
    assert "ada" in page.read_text(encoding="utf-8") and "<html" in board.read_text()


def test_pseudonyms_are_stable_and_need_the_key():
    assert pseudonym("key", "ada") == pseudonym("key", "ada")
    assert pseudonym("key", "ada") != pseudonym("other", "ada")
    assert len({pseudonym("key", f"s{i}") for i in range(500)}) == 500


def test_a_page_for_whoever_handed_in_nothing_usable(tmp_path):
    (standing,) = assess(
        [Result("x.zip", "x", "refused", findings=[Finding("fault", "refused", "is no zip")])],
        RUBRIC,
    )
    write_page(tmp_path, standing, {}, 0.0, RUBRIC, OwnFiles(tmp_path))
    assert "is no zip" in next(tmp_path.rglob("*.html")).read_text(encoding="utf-8")
    assert Book().of(standing) == {}


def test_the_page_of_a_team_with_long_ids_can_be_written(tmp_path):
    teams = ["+".join(f"{'张' * 60}{i}" for i in range(5 - n)) for n in range(2)]
    pages = [tmp_path / page_name(Standing(result(team), "verified")) for team in teams]
    assert len(set(pages)) == 2
    for page in pages:
        assert len(page.name.encode()) <= 100 and page.name.startswith("张" * 26 + "-")
        page.parent.mkdir(exist_ok=True)
        page.touch()
    assert page_name(Standing(result("ada"), "verified")).startswith("feedback/ada-")
