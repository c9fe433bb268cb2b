"""The report: every attempt is in it, the student's words stay whole, and nothing in it runs."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config import Config
from lib.dataset import load_data
from lib.logger import Place, to_csv
from lib.notebook.cells import PLAN, QUESTION, question_hash
from lib.notebook.markdown import to_html
from lib.report import write_report
from lib.report.__main__ import main
from lib.report.analysis import GENERAL, read_analysis, to_markdown
from lib.report.experiments import experiments, read_attempts
from lib.report.figures import Picture
from lib.runtime import run_command
from lib.stats import compare_to_baseline
from lib.train import fit
from lib.utils import KitError

PATIENTS = [f"P{i:02}" for i in range(8)]
EVIL = '<script>alert("x")</script>'


def write_run(
    out,
    name,
    plans=("loss",),
    places=(),
    status="finished",
    dsc=0.7,
    error=None,
    asked="2026-01-01T00:00:00+00:00",
    epochs_done=3,
    patients=PATIENTS,
    spread=0.05,
    **config,
):
    """A run folder as ``fit`` leaves it, without weights."""
    folder = Path(out) / "runs" / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    info = {
        "schema": 1,
        "status": status,
        "config": Config(**{"epochs": 3} | config).to_dict(),
        "plans": list(plans),
        "data": {"name": "phantom", "patients": 12, "sha256": "d"},
        "code": {"sha256": "c"},
        "split": {"name": "holdout:8", "train": ["T1"], "validation": list(patients)},
        "versions": {"python": "3.12.1", "torch": "2.9.0", "numpy": "2.1", "platform": "Linux"},
        "device": "cpu (x86_64, 2 threads)",
        "precision": "fp32",
        "parameters": 10,
        "accumulate": 1,
        "seconds": 75.0,
        "places": [place._asdict() for place in places],
        "asked": asked,
    }
    if error:
        info["error"] = error
    if epochs_done:
        epochs = np.arange(1, epochs_done + 1)
        pd.DataFrame(
            {
                "epoch": epochs,
                "lr": 1e-3,
                "train loss": 1 / epochs,
                "val loss": 1 / epochs,
                "val_dsc": np.linspace(0.1, dsc, epochs_done),
            }
        ).to_csv(folder / "history.csv", index=False)
    if status == "finished":
        info["best"] = {"epoch": epochs_done, "val_dsc": dsc}
        scores = np.clip(dsc + rng.normal(0, spread, len(patients)), 0, 1)
        cases = pd.DataFrame(
            {"patient": patients, "slices": 9, "dsc": scores, "dsc_native": scores}
        )
        (folder / "cases.csv").write_text(to_csv(cases))
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def place(position, label, plan="loss", group="g", ladder=False):
    return [Place(plan, group, position, label, ladder)]


@pytest.fixture
def drawn():
    """For tests that look at the pictures; the others go without the time that they take."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(
            "lib.report.page.picture",
            lambda file, alt, caption, _: Picture(file, alt, caption, 1, 1, b"png"),
        )


@pytest.fixture
def out(tmp_path):
    """A sweep of losses with a failed and an unfinished run, and a ladder."""
    write_run(tmp_path, "dice", places=place(0, "Dice"), dsc=0.7)
    write_run(
        tmp_path, "tversky-long-name", places=place(1, "Tversky"), dsc=0.5, loss="TverskyLoss"
    )
    write_run(
        tmp_path,
        "failed",
        places=place(2, "Focal"),
        status="failed",
        error=f"not a number {EVIL}",
        epochs_done=0,
        loss="FocalLoss",
    )
    write_run(
        tmp_path,
        "unfinished",
        places=place(3, EVIL),
        status="running",
        epochs_done=2,
        loss="BCELoss",
    )
    for i, (label, dsc) in enumerate((("as shipped", 0.6), ("fresh", 0.75), ("EMA", 0.76))):
        write_run(
            tmp_path,
            f"rung{i}",
            ["best"],
            place(i, label, "best", "b", ladder=True),
            dsc=dsc,
            spread=0.01 * (i + 1),
            **{"sampling": "fresh"} if i else {},
            **{"ema": 0.9} if i == 2 else {},
        )
    return tmp_path


def pages(out, **options):
    """Both reports, as text."""
    paths = write_report(out, **options)
    return [paths[name].read_text(encoding="utf-8") for name in ("report.html", "report.md")]


class Page(HTMLParser):
    """Elements with their attributes, and the text outside of styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._style = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_data(self, data):
        self.words += "" if self._style else data


# --- what is in it --------------------------------------------------------------------------------


def test_every_attempt_is_there_with_what_became_of_it(out):
    for text in pages(out):
        words = Page(text).words if text.startswith("<!DOCTYPE html>") else text
        for name in (
            "dice",
            "tversky-long-name",
            "failed",
            "unfinished",
            "rung0",
            "rung1",
            "rung2",
        ):
            assert name in words
        assert "failed: not a number" in words and "unfinished, epoch 2 of 3" in words
        assert (
            re.search(r"1 min 15 s", words)
            and "2.9.0" in words
            and "cpu (x86_64, 2 threads)" in words
        )
        assert all(patient in words for patient in PATIENTS)


def test_numbers_are_those_of_the_statistics(out):
    attempts, _ = read_attempts(out)
    runs = {one.run.id: one.run for one in attempts}
    row = compare_to_baseline({"Dice": runs["dice"], "Tversky": runs["tversky-long-name"]}).iloc[0]
    assert row["verdict"] == "hurts"
    _, text = pages(out)
    line = next(line for line in text.splitlines() if line.startswith("| Tversky"))
    assert (
        "**hurts**" in line and f"| {row['p (Holm)']:.3f} |" in line and "loss=TverskyLoss" in line
    )
    low, high = (f"{row[f'CI {end}']:+.3f}".replace("-", "\u2212") for end in ("low", "high"))
    assert f"\u2212{-row['difference']:.3f} ({low} to {high})" in line


def test_a_step_is_compared_with_the_one_before(out):
    (ladder,) = experiments(read_attempts(out)[0])["best"]
    assert list(ladder.verdicts["against"]) == ["as shipped", "fresh"]
    assert [recipe.changed for recipe in ladder.recipes] == [
        {},
        {"sampling": "fresh"},
        {"ema": 0.9},
    ]
    runs = [recipe.runs for recipe in ladder.recipes]
    alone = compare_to_baseline({"fresh": runs[1], "EMA": runs[2]}).iloc[0]
    assert ladder.verdicts.iloc[1]["difference"] == alone["difference"]
    assert ladder.verdicts.iloc[1]["p (Holm)"] >= alone["p"]  # corrected for two steps


def test_of_a_run_whose_code_was_changed_the_latest_counts(tmp_path):
    write_run(tmp_path, "reference", places=place(0, "a"))
    of_b = {"places": place(1, "b"), "lr": 3e-3}
    fixed = write_run(tmp_path, "b-fixed", **of_b, dsc=0.9, asked="2026-01-02T00:00:00+00:00")
    # files that were copied have other dates than when they were written
    write_run(tmp_path, "b-with-a-bug", **of_b, dsc=0.2)
    [found] = experiments(read_attempts(tmp_path)[0])["loss"]
    assert [run.folder for run in found.recipes[1].runs] == [fixed]
    assert "not counted: 1 earlier run" in " ".join(pages(tmp_path)[1].split())


def test_runs_without_a_plan_are_compared_with_the_one_of_fewest_changes(tmp_path):
    for name, changes in (
        ("a", {"lr": 3e-3, "loss": "BCELoss"}),
        ("b", {"lr": 3e-3}),
        ("c", {"lr": 3e-3, "activation": "ELU"}),
    ):
        write_run(tmp_path, name, **changes)
    [found] = [
        group for several in experiments(read_attempts(tmp_path)[0]).values() for group in several
    ]
    assert [run.folder.name for run in found.recipes[0].runs] == ["b"]


def test_a_report_folder_without_a_list_is_put_aside(out):
    (out / "report").mkdir()
    (out / "report" / "01-loss-curves.png").write_bytes(b"of an earlier version, or the student's")
    pages(out)
    assert [file.name for file in (out / "report.aside").iterdir()] == ["01-loss-curves.png"]
    assert (out / "report" / "01-loss-curves.png").is_file()


def test_pictures_of_others_stay(out):
    write_report(out)
    drawn = sorted((out / "report").glob("*.png"))
    (out / "report" / "mine.png").write_bytes(b"a picture of the student's own")
    shutil.rmtree(out / "runs" / "dice")
    write_report(out)
    after = sorted((out / "report").glob("*.png"))
    assert out / "report" / "mine.png" in after and drawn != after
    after[-1 if after[-1].name != "mine.png" else 0].write_bytes(b"edited")
    with pytest.raises(KitError, match="move your pictures to another folder"):
        write_report(out)


def test_a_report_that_was_edited_is_put_aside(out):
    write_report(out)
    (out / "report.html").write_text("with remarks")
    (out / "report.md").unlink()
    write_report(out)
    assert (out / "report.html.aside").read_text() == "with remarks"
    write_report(out)
    assert [file.name for file in out.glob("*.aside*")] == ["report.html.aside"]


def test_a_folder_that_was_never_begun_is_no_attempt(out):
    before = len(read_attempts(out)[0])
    (out / "runs" / "planned").mkdir()
    (out / "runs" / "planned" / ".lock").touch()
    attempts, unreadable = read_attempts(out)
    assert len(attempts) == before and not unreadable


def test_seeds_are_averaged_and_not_compared(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, f"a{seed}", places=place(0, "a"), seed=seed)
        write_run(
            tmp_path, f"b{seed}", places=place(1, "b"), seed=seed, lr=3e-3, dsc=0.6 + seed / 10
        )
    (found,) = experiments(read_attempts(tmp_path)[0])["loss"]
    assert [len(recipe.runs) for recipe in found.recipes] == [2, 2]
    assert found.recipes[1].summary.mean == pytest.approx(
        np.mean([run.dsc.mean for run in found.recipes[1].runs])
    )
    assert found.recipes[1].changed == {"lr": 3e-3}
    write_report(tmp_path)


def test_folds_are_not_called_seeds(tmp_path):
    for fold, patients in enumerate((PATIENTS[:4], PATIENTS[4:])):
        for position, label in enumerate("ab"):
            write_run(
                tmp_path,
                f"{label}{fold}",
                places=place(position, label),
                patients=patients,
                lr=1e-3 + position,
            )
    for text in pages(tmp_path):
        assert "2 folds" in text and "seeds" not in text


def test_a_report_for_others_leaves_ones_own_as_it_is(out, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_report(out)
    mine = (out / "report.html").read_bytes()
    (out / "report.html").write_bytes(mine + b"<!-- mine -->")
    paths = write_report(out, images=False, target=other)
    assert (out / "report.html").read_bytes() == mine + b"<!-- mine -->"
    assert paths["report.html"].parent == other


def test_runs_without_a_place_are_labelled_by_what_differs(tmp_path):
    for name, values in {
        "x": {"lr": 1e-3},
        "y": {"lr": 3e-3},
        "z": {"lr": 3e-3, "seed": 7},
    }.items():
        write_run(tmp_path, name, ["mine"], **values)
    write_run(tmp_path, "elsewhere", ["mine"], patients=[f"Q{i}" for i in range(5)])
    found = sorted(
        experiments(read_attempts(tmp_path)[0])["mine"], key=lambda one: len(one.recipes)
    )
    assert [[recipe.label for recipe in one.recipes] for one in found] == [
        ["unet, DiceLoss"],
        ["lr=0.001", "lr=0.003"],
    ]
    assert len(found[1].recipes[1].runs) == 2
    write_report(tmp_path)


def test_a_crowd_of_curves_is_thinned_and_says_so(tmp_path):
    for i in range(14):
        write_run(
            tmp_path,
            f"run{i:02}",
            places=place(i, f"recipe {i}"),
            dsc=0.4 + i / 50,
            lr=1e-3 * (i + 1),
        )
    for text in pages(tmp_path):
        assert "the 11 others with the highest DSC, of 14" in text
        assert "per epoch of recipe 0; recipe 3; recipe 4;" in text
        assert all(f"recipe {i}" in text for i in range(14))


def test_what_cannot_be_compared_says_why(tmp_path):
    write_run(tmp_path, "a", places=place(0, "a"))
    write_run(tmp_path, "b", places=place(1, "b"), patients=PATIENTS[:5])
    write_run(tmp_path, "c", places=place(2, "c"), dsc=0.6, lr=3e-3)
    (found,) = experiments(read_attempts(tmp_path)[0])["loss"]
    assert list(found.verdicts["label"]) == ["c"] and "other patients" in found.reasons["b"]
    for text in pages(tmp_path):
        assert "no verdict: other patients" in text


@pytest.mark.parametrize("status", ["failed", "running", None])
def test_without_a_finished_reference_there_is_no_verdict(tmp_path, status):
    if status:
        write_run(tmp_path, "a", places=place(0, "a"), status=status)
    write_run(tmp_path, "b", places=place(1, "b"))
    write_run(tmp_path, "c", places=place(2, "c"), lr=1e-3)
    (found,) = experiments(read_attempts(tmp_path)[0])["loss"]
    assert found.verdicts is None and set(found.reasons) == {"b", "c"}
    assert "has not finished" in pages(tmp_path)[0]


def test_one_run_in_several_plans_is_in_each(tmp_path):
    write_run(
        tmp_path, "a", ["loss", "lr", "train"], [*place(0, "Dice"), *place(0, "1e-4", "lr", "g2")]
    )
    assert list(experiments(read_attempts(tmp_path)[0])) == ["loss", "lr", "train"]
    write_report(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "run.json").write_text("{"),
        lambda f: (f / "run.json").write_text("[]"),
        lambda f: (f / "run.json").unlink(),
        lambda f: (f / "cases.csv").unlink(),
        lambda f: (f / "history.csv").unlink(),
        lambda f: (f / "cases.csv").write_text("patient,dsc,dsc_native\nP1,a,b\n"),
        lambda f: (f / "cases.csv").write_text("patient,dsc,dsc_native\nP1,7,7\n"),
        lambda f: (f / "history.csv").write_bytes(b"\xff\xfe\x00"),
        lambda f: edit(f, plans="loss"),
        lambda f: edit(f, places=[{"plan": "x"}]),
        lambda f: edit(f, config={"new": 1}),
        lambda f: edit(f, best=None),
        lambda f: edit(f, versions=None),
        lambda f: edit(f, split=[]),
        lambda f: edit(f, seconds="long"),
        lambda f: edit(f, data="phantom"),
    ],
)
def test_a_damaged_folder_is_listed_and_stops_nothing(out, damage):
    damage(write_run(out, "damaged"))
    for text in pages(out):
        assert "1 unreadable" in text and "damaged" in text and "tversky-long-name" in text


def edit(folder, **values):
    file = folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_nothing_to_report_on_says_what_to_do(tmp_path):
    with pytest.raises(KitError, match="no runs to report on; train"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_failed_before_it_was_begun(out):
    folder = write_run(
        out,
        "early",
        places=place(4, "early"),
        status="failed",
        error="no such module",
        epochs_done=0,
    )
    info = json.loads((folder / "run.json").read_text())
    kept = {name: info[name] for name in ("status", "error", "plans", "places", "config")}
    (folder / "run.json").write_text(json.dumps(kept))
    for text in pages(out):
        assert (
            "failed: no such module" in text
            and "unreadable" not in Page(text).words.split("Summary")[0]
        )


def test_patients_without_scores_get_no_verdict_and_stop_nothing(tmp_path):
    for i, name in enumerate("ab"):
        folder = write_run(tmp_path, name, places=place(i, name), lr=1e-3 * (i + 1))
        (folder / "cases.csv").write_text("patient,slices,dsc,dsc_native\nP1,3,,\nP2,3,,\n")
    assert "no verdict" in pages(tmp_path)[0]


# --- what it may not do ---------------------------------------------------------------------------


def test_nothing_runs_and_nothing_is_fetched(out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evil")
    evil = (
        f"{EVIL} ![x](https://example.org/x.png) [y](javascript:alert(1))\n\n<img src=x onerror=y>"
    )
    write_notebook(
        folder / "a.ipynb", answer(evil, "loss"), answer("<iframe src='//x.org'>", "best")
    )
    html, markdown = pages(out, notebooks=folder)
    page = Page(html)
    assert not {"script", "iframe", "link", "object", "base", "form"} & {
        tag for tag, _ in page.elements
    }
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert (
            attributes.get("src", "data:").startswith("data:image/png;base64,")
            or "src" not in attributes
        )
        assert "javascript:" not in attributes.get("href", "")
        assert attributes.get("alt") or tag != "img"
    assert "@import" not in html and "url(" not in html
    assert EVIL in page.words and "https://example.org/x.png" in page.words  # shown, all of it
    assert "<script" not in markdown and "<img" not in markdown and "<iframe" not in markdown


def test_the_same_bytes_twice(out, drawn):
    def content():
        write_report(out)
        return {file.name: file.read_bytes() for file in out.rglob("*") if file.is_file()}

    first = content()
    shutil.rmtree(out / "report")
    assert content() == first


def test_pictures_of_the_markdown_are_there_and_old_ones_go(out):
    pages(out)
    before = {file.name for file in (out / "report").glob("*.png")}
    for folder in list((out / "runs").iterdir())[2:]:
        shutil.rmtree(folder)
    _, markdown = pages(out)
    named = set(re.findall(r"\(report/(.+?\.png)\)", markdown))
    assert named and named == {file.name for file in (out / "report").glob("*.png")}
    assert before - named


def test_a_report_of_many_runs_is_small(tmp_path, drawn):
    for i in range(10):  # of 25 at most 3 MB
        write_run(
            tmp_path,
            f"run{i:02}",
            [f"plan{i // 5}"],
            place(i % 5, f"lr {i}", f"plan{i // 5}", "g"),
            lr=1e-3 * (i + 1),
            epochs=100,
            epochs_done=100,
        )
    assert write_report(tmp_path)["report.html"].stat().st_size < 0.5e6


def test_strange_names_are_shown_as_they_are(tmp_path, drawn):
    write_run(
        tmp_path,
        "a",
        ["../x | $y$ **z**"],
        place(0, r"$\frac{", "../x | $y$ **z**"),
        patients=["a|b", "<p>"],
    )
    write_run(
        tmp_path,
        "b",
        ["../x | $y$ **z**"],
        place(1, "`|`", "../x | $y$ **z**"),
        patients=["a|b", "<p>"],
    )
    html, markdown = pages(tmp_path)
    assert "../x | $y$ **z**" in Page(html).words and r"$\frac{" in Page(html).words
    rows = [line for line in markdown.splitlines() if line.startswith("| ../x")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [6]
    assert all(file.parent == tmp_path / "report" for file in tmp_path.rglob("*.png"))


# --- examples -------------------------------------------------------------------------------------


@pytest.fixture
def trained(tiny_kaggle, tmp_path):
    """A run with weights, and the folder of its data."""
    config = Config(
        image_size=32, init_features=2, epochs=1, batch_size=4, device="cpu", precision="fp32"
    )
    fit(config, load_data(tiny_kaggle, 32), tmp_path / "out")
    return tmp_path / "out", tiny_kaggle


def test_examples_of_patients_are_announced_and_can_be_left_out(trained, drawn):
    out, folder = trained
    examples = out / "report" / "01-train-examples.png"
    for data in (folder, load_data(folder, 64)):
        html, markdown = pages(out, data=data)
        assert examples.is_file() and examples.name in markdown
        assert (
            html.index("images of real patients") < html.index("Summary")
            and "real patients" in markdown
        )
    for options in ({"data": folder, "images": False}, {}):
        html, markdown = pages(out, **options)
        assert not examples.exists() and "real patients" not in html + markdown
        assert "left out" in html if options else "No examples of segmentations" in html


def test_other_images_are_no_examples(trained, kaggle_folder):
    out, _ = trained
    assert "not those that the run was trained on" in pages(out, data=kaggle_folder(height=40))[0]
    assert "not here" in pages(out, data=kaggle_folder(names=["TCGA_XX_0001_19990101"]))[0]
    with pytest.raises(KitError, match="no such file"):
        write_report(out, data="nowhere")


# --- the student's words --------------------------------------------------------------------------


def answer(text: str, plan: str = "", asked: str = "0" * 12) -> dict:
    metadata = {QUESTION: asked} | ({PLAN: plan} if plan else {})
    return {"cell_type": "markdown", "source": text.splitlines(keepends=True), "metadata": metadata}


def write_notebook(file: Path, *cells: dict) -> None:
    file.write_text(json.dumps({"cells": cells}), encoding="utf-8")


def test_answers_stand_beside_the_results_of_their_plan(out, tmp_path):
    before = "**Your analysis.** Why?"
    write_notebook(
        tmp_path / "train.ipynb",
        answer(f"{before}\n\nDice is best: 损失函数.", "loss", question_hash(before)),
        answer(before, "best", question_hash(before)),  # not answered
    )
    html, markdown = pages(out, notebooks=tmp_path)
    assert "损失函数" in html and "损失函数" in markdown and "Why?" in markdown
    assert html.index('id="plan-1"') < html.index("损失函数") < html.index('id="plan-2"')
    assert html.count("Nothing is written about this plan yet") == 1


def test_answers_go_where_they_belong(tmp_path):
    stub = "# A\n<!-- ### BEGIN SOLUTION -->\nOurs.\n<!-- ### END SOLUTION -->\nWhy?"
    write_notebook(
        tmp_path / "b.ipynb",
        answer("one", "loss"),
        {"cell_type": "markdown", "source": "text of ours", "metadata": {}},
        answer("two\n", "loss"),
        answer("three", "no such plan"),
        answer("four"),
        answer(stub, "best", question_hash("# A\n*Your turn*\n\nWhy?")),
        answer(f"{stub} Mine.", "best", question_hash(stub)),
    )
    write_notebook(tmp_path / "a.ipynb", answer("zero"))
    assert read_analysis(tmp_path, ["loss", "best"]) == {
        GENERAL: "zero\n\nthree\n\nfour",
        "loss": "one\n\ntwo",
        "best": "# A\n*Your turn*\nWhy? Mine.",
    }


def test_a_notebook_that_is_none_is_named_and_the_report_written(out, tmp_path, capsys):
    (tmp_path / "a.ipynb").write_bytes("损失".encode("gb18030"))
    write_notebook(tmp_path / "b.ipynb", answer("### BEGIN SOLUTION without an end", "loss"))
    html, _ = pages(out, notebooks=tmp_path)
    assert "without an end" in html
    assert "a.ipynb: is no notebook; save it in Jupyter again" in capsys.readouterr().out


@given(st.text(alphabet="<>scriptimg/ ='\"`~!-&\\[]()\n#|*:x", max_size=60))
@settings(max_examples=150, deadline=None)
def test_markdown_never_becomes_an_element_that_runs(text):
    html = Page(to_html(text))
    allowed = {
        "p",
        "em",
        "strong",
        "code",
        "pre",
        "a",
        "ul",
        "ol",
        "li",
        "blockquote",
        "h4",
        "h5",
        "h6",
        "br",
        "hr",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "del",
    }
    assert {tag for tag, _ in html.elements} <= allowed
    for _, attributes in html.elements:
        assert set(attributes) <= {"href", "title", "class", "start", "style"}
        assert (
            not attributes.get("href", "")
            .lower()
            .strip()
            .startswith(("javascript", "data", "vbscript"))
        )


def test_open_code_does_not_swallow_the_rest():
    assert to_markdown("a\n```\n<b>") == "a\n```\n<b>\n```"
    assert to_markdown("a <b> <https://x.org> 1 < 2") == "a &lt;b> <https://x.org> 1 < 2"


# --- command line ---------------------------------------------------------------------------------


def test_command_line(out, tmp_path_factory, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lib.report", *map(str, arguments)])
        try:
            run_command(main)
        except SystemExit as end:
            return end.code
        return 0

    assert call("--out", out, "--no-images") == 0
    assert "report.html" in capsys.readouterr().out and (out / "report.html").is_file()
    assert call("--out", tmp_path_factory.mktemp("empty")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
