"""The pages that an instructor reads: what they show, that they are safe, and where links lead."""

from __future__ import annotations

import csv
import io
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from scipy import stats

from lib.grade import load_rubric
from lib.grade.curves import HEIGHT, MOST_LINES, TOP, picture
from lib.grade.feedback import write_page
from lib.grade.gradebook import GRADEBOOK, Book
from lib.grade.pooled import interval, tried
from lib.grade.reading import FOLDER, reading_name, write_reading
from lib.grade.released import questions
from lib.grade.result import Finding, Result
from lib.grade.run import _write
from lib.grade.standings import Standing
from lib.grade.student_work import Answer, Trained, Verdict, Written, nothing_written
from lib.runtime import own_files
from lib.runtime.own_files import OwnFiles
from lib.utils import KitError
from tests.grade.work import answered, as_bytes, ids_that_ask, student_notebook, with_plan

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
VOID = ("meta", "link", "br", "img", "line", "circle", "polyline")


class Parsed(HTMLParser):
    """Links, ids, tags and text of a page; every tag is closed."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links, self.ids, self.tags, self.text = [], [], [], ""
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        assert self.open == [], f"{file.name}: is not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.attributes |= {name for name, _ in attrs}
        values = dict(attrs)
        self.links += [values["href"]] if "href" in values else []
        self.ids += [values["id"]] if "id" in values else []

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag, attrs):  # as in SVG
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        self.text += data


def check_pages(out: Path) -> dict[str, Parsed]:
    """The pages by name: each link leads to a file and a place in it, and nothing is loaded."""
    pages = {file.name: Parsed(file) for file in sorted((out / FOLDER).glob("*.html"))}
    for name, page in pages.items():
        assert not {"script", "img", "iframe", "link", "object", "form"} & set(page.tags), name
        assert not any(attribute.startswith("on") for attribute in page.attributes)
        assert "src" not in page.attributes and len(page.ids) == len(set(page.ids))
        for link in page.links:
            file, _, place = unquote(link).partition("#")
            file = file or name
            assert (out / FOLDER / file).resolve().is_file(), f"{name}: {link}"
            assert not place or place in pages[file].ids, f"{name}: {link}"
        style = (out / FOLDER / name).read_text(encoding="utf-8")
        assert "url(" not in style and "http" not in style.replace("http-equiv", "")
        assert "prefers-color-scheme: dark" in style
    return pages


def standing(student: str, written: Written | None = None, **changes) -> Standing:
    written = written or nothing_written()
    values = {"submission": f"{student}.zip", "student": student, "verified": 0.5, "claimed": 0.5}
    result = Result(**{**values, "low": 0.4, "high": 0.6, **changes}, written=written)
    return Standing(result, "verified", 10.0)


def written_pages(out: Path, *standings: Standing) -> dict[str, Parsed]:
    rubric = load_rubric()
    for one in standings:
        write_page(out, one, {}, 0.0, rubric, OwnFiles(out / "feedback"))
    write_reading(out, standings)
    return check_pages(out)


def words(*answers: Answer, runs=(), verdicts=(), remarks=()) -> Written:
    return Written([*answers], [*runs], [*verdicts], [], [*remarks])


# --- the demo -------------------------------------------------------------------------------------


def test_the_demo_has_a_page_for_each_submission(graded):
    out, standings = graded
    pages = check_pages(out)
    text = (out / GRADEBOOK).read_text(encoding="utf-8-sig")
    rows = {row["student"]: row for row in csv.DictReader(io.StringIO(text))}
    for one in standings:
        path = rows[one.result.student]["read"]
        assert path == reading_name(one) and (out / path).is_file() == bool(one.result.submission)
    assert rows["kim"]["read"] == "" and rows["gus"]["read"]
    header = next(csv.reader(io.StringIO(text)))
    assert header.index("read") == header.index("feedback") + 1
    ada = pages[Path(rows["ada"]["read"]).name]
    assert (
        f"0 of {len(questions())}" in ada.text and "Not written" in ada.text and "svg" in ada.tags
    )
    emil = pages[Path(rows["emil"]["read"]).name].text
    assert "the same weights as bela" in emil  # private, and not on the student's page
    ines = pages[Path(rows["ines"]["read"]).name].text
    assert "run.json is missing" in ines and "incomplete" in ines
    dora = pages[Path(rows["dora"]["read"]).name].text
    assert ".dsc ** 0.5" in dora


def test_previous_and_next_follow_the_gradebook(graded):
    out, standings = graded
    files = [Path(name).name for name in map(reading_name, standings) if name]
    for place, file in enumerate(files):
        text = (out / FOLDER / file).read_text(encoding="utf-8")
        found = dict(re.findall(r'<a href="([^"]+)" rel="(prev|next)"', text))
        around = {"prev": files[place - 1 : place], "next": files[place + 1 : place + 2]}
        assert {kind: [name] for name, kind in found.items()} == {
            kind: names for kind, names in around.items() if names
        }


def test_a_submission_from_the_zip_to_the_page(ada, examine, tmp_path):
    plan = {"frozen": ({"sampling": "frozen"}, 0.0), SCRIPT: ({}, 0.05)}
    notebook = student_notebook("train.ipynb")
    first, second = ids_that_ask(notebook)[:2]
    notebook = answered(notebook, {first: f"It helps.\n{SCRIPT}", second: "IoU."})
    files = with_plan(ada, "sampling", plan, noise=0.001)
    files["train.ipynb"] = as_bytes(notebook)
    files["exercises.py"] = (
        b"from lib.loss import DiceLoss\n"
        b"def split_by_patient(a, b):\n    return '<b>'\n\ndef helper(x):\n    return '<i>'\n"
    )
    values = examine(files)
    result = Result(**{**values, "findings": [Finding(*one) for one in values["findings"]]})
    pages = written_pages(tmp_path / "out", Standing(result, "review"))
    page = pages[Path(reading_name(Standing(result, ""))).name]
    assert page.text.count(SCRIPT) >= 2 and "It helps." in page.text
    assert f"2 of {len(questions())}" in page.text
    assert "1 of 3 written" in page.text  # of course.toml
    assert "return '<b>'" in page.text and "return '<i>'" in page.text
    assert "DiceLoss: not written here, but taken: from lib.loss import DiceLoss" in page.text
    assert "largest_component: is gone" in page.text
    assert page.tags.count("polyline") == 3 and "0.05" in page.text
    answers = next(one for name, one in pages.items() if f"train-{first}" in name)
    assert "It helps." in answers.text and "wrote nothing" not in answers.text


# --- students and questions -----------------------------------------------------------------------


def test_answers_of_all_are_one_below_the_other_and_silence_is_named(tmp_path):
    key = next(iter(questions()))
    pages = written_pages(
        tmp_path,
        standing("ada", words(Answer("train.ipynb", key, "", ["Yes", "and no"]))),
        standing("bela", words(Answer("train.ipynb", key, "", ["Never"], True))),
        standing("carl", words(Answer("train.ipynb", key, "", []))),
        standing("dora"),
    )
    page = next(page for name, page in pages.items() if name == f"question-{key}.html")
    assert page.text.index("Yes\nand no") < page.text.index("Never")
    silent = page.text.partition("2 wrote nothing")[2]
    assert "carl" in silent and "dora" in silent and "ada" not in silent
    asked = re.sub("[*`]", "", questions()[key].text.split("\n")[0])  # which are rendered
    assert "[cut" in page.text and asked in page.text and "Model answer.*" not in page.text
    assert re.search(rf"{re.escape(questions()[key].name)}2\s+4", pages["questions.html"].text)


def test_a_class_of_one_without_anything(tmp_path):
    pages = written_pages(tmp_path, standing("ada", words(remarks=["No runs: none."])))
    page = next(page for name, page in pages.items() if name.startswith("ada-"))
    for text in ("No runs: none.", "the first", "the last", "1 of 1", "None that can be read"):
        assert text in page.text
    assert "Nobody submitted two recipes" in pages["class.html"].text


def test_grave_findings_go_first_and_many_of_a_kind_are_folded(tmp_path):
    findings = [Finding("note", "a note", "n")]
    findings += [Finding("fault", "z fault", f"fault {i}", f"secret {i}") for i in range(4)]
    pages = written_pages(tmp_path, standing("ada", findings=findings))
    page = next(page for name, page in pages.items() if name.startswith("ada-"))
    assert page.text.index("fault 0") < page.text.index("secret 3") < page.text.index("a note")
    assert page.tags.count("details") == 1 and "2 more" in page.text


def test_a_class_of_nobody(tmp_path):
    missing = standing("kim", submission="", status="missing", verified=None)
    assert "Nobody." in written_pages(tmp_path, missing)["class.html"].text


@pytest.mark.parametrize(
    "student", ["aux.x", "CON.txt", "com1.a@b", "Ärger.Ö", "李雷", "questions"]
)
def test_names_that_every_system_can_write(tmp_path, student):
    one = standing(student, words(Answer("x.ipynb", 'a/b:*?"<>|', "a/b", ["x"])))
    for name in written_pages(tmp_path, one, standing("zoe")):
        assert not re.search(r'[\x00-\x1f:*?"<>|\\/]', name) and len(name) < 120
        assert not re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)", name.partition(".")[0].lower())


def test_everything_of_a_stranger_is_escaped(tmp_path):
    verdict = Verdict(*[SCRIPT] * 8, None, [1], problem=SCRIPT)
    run = Trained(SCRIPT, [[SCRIPT, SCRIPT]], SCRIPT, 0.5, 0.4, 3, 5.0, [[1, 0.1], [2, 0.5]])
    written = words(
        Answer(SCRIPT, next(iter(questions())), SCRIPT, [SCRIPT]),
        Answer(SCRIPT, "", SCRIPT, [SCRIPT]),
        Answer(SCRIPT, SCRIPT, SCRIPT, [SCRIPT]),
        runs=[run, Trained(SCRIPT, [], problem=SCRIPT)],
        verdicts=[verdict],
        remarks=[SCRIPT],
    )
    finding = Finding("fault", SCRIPT, SCRIPT, SCRIPT)
    texts = {"run": SCRIPT, "submission": SCRIPT, "diff": {SCRIPT: [SCRIPT]}}
    written_pages(tmp_path, standing("ada", written, findings=[finding], **texts))


def test_a_page_that_cannot_be_written_stops_nobody(tmp_path, monkeypatch, capsys):
    real = own_files.write_atomic

    def write(path, *arguments, **options):
        # below read/, not feedback/
        if path.name.startswith(("bela", "question-train-train-09")) and path.parent.name == FOLDER:
            raise KitError("no space")
        real(path, *arguments, **options)

    monkeypatch.setattr(own_files, "write_atomic", write)
    standings = [standing(name) for name in ("ada", "bela", "carl")]
    _write(tmp_path, standings, standings, Book(), load_rubric())
    assert (tmp_path / GRADEBOOK).is_file() and (tmp_path / FOLDER / "class.html").is_file()
    assert len(list((tmp_path / FOLDER).glob("[abc]*-*.html"))) == 2
    assert capsys.readouterr().out.count("was not written (no space)") == 2


# --- the class ------------------------------------------------------------------------------------


def verdict(
    difference: float | None, seed: int, verdict: str = "cannot tell", **changes
) -> Verdict:
    one = Verdict("loss", "IoU", "Dice", difference=difference, seeds=[seed], verdict=verdict)
    return one._replace(patients=10, **changes)


def class_of(*verdicts: Verdict) -> list[Standing]:
    return [standing(f"s{i:02}", words(verdicts=[one])) for i, one in enumerate(verdicts)]


def test_the_interval_is_students_t():
    values = [0.01, 0.03, -0.02, 0.05]
    found = interval(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected) and found.students == 4
    assert interval(values[:2]) is None


def test_each_student_is_one_observation():
    standings = class_of(
        verdict(0.03, 1, "helps"), verdict(0.04, 2), verdict(0.05, 3), verdict(0.05, 3),
        verdict(0.9, 4), verdict(None, 5, ""),
    )  # fmt: skip
    standings[4] = replace(standings[4], status="held")
    ((row,),) = tried(standings).values()
    assert len(row.students) == 6 and row.verdicts["helps"] == ("s00",)
    assert len(row.verdicts["cannot tell"]) == 4
    assert (row.observed, row.equal, row.pooled.mean) == (3, 1, pytest.approx(0.04))
    assert row.pooled.words.startswith("helps on these patients")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((-0.03, -0.04, -0.05), "hurts"),
        ((-0.3, 0.4, 0.05), "cannot be told"),
        ((0.001, -0.001, 0.0), "no difference larger than 0.02"),
    ],
)
def test_verdicts_of_the_class(values, text):
    ((row,),) = tried(class_of(*(verdict(one, i) for i, one in enumerate(values)))).values()
    assert row.pooled.words.startswith(text)


def test_other_recipes_and_other_patients_are_not_pooled(tmp_path):
    standings = class_of(
        verdict(0.1, 1), verdict(0.2, 2, base="epochs 5"), verdict(0.3, 3, scored_on="other"),
        verdict(0.4, 4, changed="lr 1"), verdict(0.5, 5, metric="dsc_native"),
    )  # fmt: skip
    rows = [row for rows in tried(standings).values() for row in rows]
    assert len(rows) == 5 and not any(row.pooled for row in rows)
    text = written_pages(tmp_path, *standings)["class.html"].text
    assert "too few to pool" in text and "best epoch" in text and "other patients" in text


def test_a_student_who_submitted_twice_counts_once():
    standings = class_of(verdict(0.1, 1), verdict(0.2, 2))
    again = replace(standings[1].result, student="s00")
    ((row,),) = tried([standings[0], replace(standings[1], result=again)]).values()
    assert row.students == ("s00",) and row.observed == 1


# --- curves ---------------------------------------------------------------------------------------


def test_curves_stay_in_the_picture_and_labels_apart():
    runs = [
        (f"run {i}", Trained(f"r{i}", [], curve=[[1, 0.1], [50, 0.2], [100, 0.5 + i / 1000]]))
        for i in range(30)
    ]
    found = picture(runs)
    assert len(found.lines) == MOST_LINES and found.left_out == 30 - MOST_LINES
    heights = sorted(line.label_y for line in found.lines)
    assert all(b - a >= 13 for a, b in itertools.pairwise(heights))
    assert heights[0] >= TOP and heights[-1] <= HEIGHT
    assert [tick.text for tick in found.across] == ["1", "20", "40", "60", "80", "100"]
    assert found.up[0].text == "0.10" and found.up[-1].text == "0.60"


@pytest.mark.parametrize("curve", [[[1, 0.5]], [[0, 0.0], [0, 0.0]], [[3, 1.0], [100_000, 1.0]]])
def test_odd_curves(curve):
    found = picture([("a", Trained("a", [], curve=curve))])
    assert len(found.up) >= 2 and "nan" not in found.lines[0].points
    assert picture([("a", Trained("a", []))]) is None
