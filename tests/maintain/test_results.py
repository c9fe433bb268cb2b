"""Tables, pages and figures of what was measured."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lib.notebook.execute import TIMES
from lib.sweep.table import duration
from lib.utils import KitError
from maintain import pretrained, results
from maintain.reference import BASELINE, CROSS_VALIDATION, FOLDER, cross_validated
from tests.conftest import NAMES
from tests.maintain.conftest import part_runs
from tests.runtime.test_cli import command

ROOT = Path(__file__).parent.parent.parent


def test_cross_validation_table_is_what_the_run_folders_say(reference):
    scale, folds = cross_validated(reference)
    assert (scale, list(folds)) == ("cpu", ["baseline", "best"])
    table = results.cross_validation_table(folds)
    best = part_runs(reference, CROSS_VALIDATION, "best")
    assert len(best) == 5
    assert table.loc["best", "mean DSC"] == pytest.approx(
        pd.concat([run.cases["dsc"] for run in best]).mean()
    )
    last = [run.history["val_dsc"].iloc[-1] for run in best for _ in range(len(run.cases))]
    assert table.loc["best", "last epoch"] == pytest.approx(sum(last) / len(last))
    means = table["mean DSC"]
    assert table.loc["best", "difference"] == pytest.approx(means["best"] - means["baseline"])


def test_component_table_is_counted_from_the_components(copied):
    """Every patient has a large false component and a smaller true one, of which one is sure."""
    _, folds = cross_validated(copied)
    assert results.component_table(folds).empty
    for label, each in folds.items():
        for run in each.runs:
            patient = {"ground truth": 10, "voxels": [20, 6], "true": [0.0, 6.0]}
            patient["log odds"] = [4.0, 60.0 if label == "best" else 3.0]
            rows = [patient | {"patient": name} for name in run.cases["patient"]]
            (run.folder / results.COMPONENTS).write_text(json.dumps(rows))
    table = results.component_table(folds)
    true_piece, everything = 2 * 6 / (6 + 10), 2 * 6 / (26 + 10)
    assert table["mean DSC"].to_dict() == pytest.approx(
        {
            "baseline, largest": 0,
            "baseline, likeliest": 0,
            "baseline, all": everything,
            "baseline, best there is": true_piece,
            "best, largest": 0,
            "best, likeliest": true_piece,
            "best, all": everything,
            "best, best there is": true_piece,
        }
    )
    assert table.loc["best, likeliest", "changed"] == "6 of 6"
    assert table.loc["baseline, likeliest", "changed"] == "0 of 6"
    assert "### Which component is kept" in results.page(copied)


def test_a_patient_in_whom_nothing_was_found():
    nothing = {"voxels": [], "true": [], "probability": [], "log odds": []}
    assert set(results._by_rule(nothing | {"ground truth": 0}).values()) == {1.0}
    assert set(results._by_rule(nothing | {"ground truth": 5}).values()) == {0.0}


def test_parts_that_are_not_complete_are_not_shown(copied):
    best = part_runs(copied, CROSS_VALIDATION, "best")[0]
    (best.folder / "run.json").write_text(json.dumps(best.info | {"status": "running"}))
    for run in part_runs(copied, BASELINE, "frozen"):
        shutil.rmtree(run.folder)
    page = results.page(copied)
    assert "###" not in page
    with pytest.raises(KitError, match="no complete cross-validation"):
        results.page_table(copied)
    with pytest.raises(KitError, match="no complete cross-validation"):
        pretrained.export(copied, copied / "weights")
    assert not (copied / "weights").exists()


def test_runs_of_ones_own_and_older_ones_are_passed_over(copied):
    before = results.page(copied)
    alone, old = part_runs(copied, BASELINE, "fresh")[0], part_runs(copied, BASELINE, "frozen")[0]
    for run, name, places in (
        (alone, "alone", None),
        (old, "old", [{"plan": "loss", "label": "Dice"}]),
    ):
        shutil.copytree(run.folder, copied / "runs" / name)
        info = {key: value for key, value in run.info.items() if key != "places"}
        info |= {"places": places} if places else {}
        (copied / "runs" / name / "run.json").write_text(json.dumps(info))
    assert results.page(copied) == before


def test_a_variant_that_was_trained_twice_is_named(copied):
    run = part_runs(copied, BASELINE, "fresh")[0]
    again = copied / "runs" / "again"
    shutil.copytree(run.folder, again)
    (again / "run.json").write_text(json.dumps(run.info | {"id": "again", "schema": 1}))
    with pytest.raises(KitError, match=f"fresh was trained more than once .*{run.id}"):
        results.page(copied)


def test_patients_that_trials_were_scored_on_are_counted(copied):
    _, folds = cross_validated(copied)
    assert results.choice(folds, copied) == ""
    run = part_runs(copied, BASELINE, "fresh")[0]
    shutil.copytree(run.folder, copied / "trials-32" / "one")
    text = results.choice(folds, copied)
    assert (
        f"that used {len(run.info['split']['validation'])} of these {len(NAMES)} patients" in text
    )
    assert text in results.page(copied)


def test_folds_are_compared_one_by_one(reference):
    _, folds = cross_validated(reference)
    table = results.fold_table(folds)
    assert table["patients"].sum() == len(NAMES)
    for before, after in zip(*(each.runs for each in folds.values()), strict=True):
        row = table.loc[before.info["split"]["name"]]
        pair = before.cases.merge(after.cases, on="patient")
        assert row["difference"] == pytest.approx((pair["dsc_y"] - pair["dsc_x"]).mean())
        assert row["improved"] == f"{(pair['dsc_y'] > pair['dsc_x']).sum()} of {len(pair)}"


def test_steps_are_told_apart_by_what_patients_lack():
    """Ten patients lack a sequence: a step that gains 0.1 in them alone is said so."""
    names = [f"{person}_20000101" for person in results.SUBSTITUTED] + list(NAMES)
    lacking = pd.Series([True] * 10 + [False] * len(NAMES), names)
    before = pd.Series(range(len(names)), names) / 100
    steps = {
        label: SimpleNamespace(cases=pd.DataFrame({"patient": names, "dsc": dsc.to_numpy()}))
        for label, dsc in {"first": before, "second": before + 0.1 * lacking}.items()
    }
    table = results.by_sequences(steps)
    assert table.loc["first", "a sequence missing"] == pytest.approx(before.iloc[:10].mean())
    assert table.loc["second", "a sequence missing: step"] == pytest.approx(0.1)
    assert table.loc["second", "a sequence missing: 95 % CI"] == "+0.100 to +0.100"
    assert table.loc["second", "all there: step"] == 0
    others = {label: each.cases.iloc[10:] for label, each in steps.items()}
    none = {label: SimpleNamespace(cases=cases) for label, cases in others.items()}
    assert results.by_sequences(none).empty


def test_what_can_be_had_without_training(reference):
    table = pd.DataFrame(
        [
            {
                "recipe": recipe,
                "fold": f"fold-{i % 2}",
                "patient": f"P{i}",
                "rule": rule,
                "threshold": 0.5,
                "dsc": value + (rule == "all") * 0.1,
            }
            for recipe, value in (("baseline", 0.5), ("baseline, flips", 0.6))
            for i in range(8)
            for rule in ("size", "all")
        ]
    )
    shown = results._without_training(table)
    assert shown.loc["baseline, flips", "difference"] == pytest.approx(0.1)
    assert shown.loc["baseline, flips", "verdict"] == "helps"
    table.to_csv(reference / "postprocessing-cpu.csv", index=False)
    page = results.page(reference)
    (reference / "postprocessing-cpu.csv").unlink()
    assert "| baseline, flips | 0.600 | 0.100 |" in page and "all 0.5, all 0.5" in page


def test_pages_and_figures(reference, monkeypatch, capfd):
    shown = results.PAGE.read_bytes()
    status, _, err = command(results.main, monkeypatch, capfd, "--folder", str(reference))
    assert status == 0, err
    assert results.PAGE.read_bytes() == shown, "which tells of the kit's own folder"
    page = (reference / "results.md").read_text(encoding="utf-8")
    assert {file.name for file in reference.glob("*.png")} == set(
        re.findall(r"\]\((.*?\.png)\)", page)
    )
    assert "| 6 |" in page and "Seeds: 3" in page
    assert pd.read_csv(reference / "cross_validation.csv", index_col=0)["patients"].tolist() == [
        6,
        6,
    ]
    worst = results.worst_patients(cross_validated(reference)[1], 2)
    assert list(worst["best"]) == sorted(worst["best"]) and all(
        f"| {name} |" in page for name in worst.index
    )
    text = results.with_block(f"before\n{results.BEGIN}\nold\n{results.END}\nafter", "new")
    assert text == f"before\n{results.BEGIN}\nnew\n{results.END}\nafter"
    with pytest.raises(KitError, match="no place for the results"):
        results.with_block("nothing", "new")


def test_tables_of_the_notebook_are_those_of_the_runs(tmp_path):
    shutil.copytree(FOLDER / "runs", tmp_path / "runs")
    for file in results.write_tables(tmp_path):
        assert (FOLDER / file.name).read_bytes() == file.read_bytes(), "run make reference-figures"


def test_pages_tell_what_was_measured():
    shown = results.PAGE.read_text(encoding="utf-8")
    assert results.with_block(shown, results.page_table()) == shown, "run make reference-figures"
    page = results.page()
    assert (FOLDER / "results.md").read_text(encoding="utf-8") == page, "run make reference-figures"
    for name in re.findall(r"\]\((.*?\.png)\)", page):
        assert (FOLDER / name).is_file()


def test_the_handbook_tells_what_networks_cost():
    rows = json.loads((FOLDER / "bench.json").read_text())["memory"]
    lines = [
        line.split(" | ")[1:]
        for line in (ROOT / "docs" / "students.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| U-?Net.*\d to \d+", line)
    ]
    columns = (
        "GFLOPs a slice",
        "kept, plain",
        "kept, checkpointing",
        "peak, plain",
        "peak, checkpointing",
    )
    assert [[float(cell.strip(" |").replace(",", "")) for cell in line] for line in lines] == [
        [row["parameters"], *(row[name] for name in columns)] for row in rows
    ]


def test_readme_tells_how_long_notebooks_take():
    pages = [
        (ROOT / name).read_text(encoding="utf-8").splitlines()
        for name in ("README.md", "README.zh-CN.md")
    ]
    machines = json.loads((FOLDER / TIMES).read_text()).values()
    for name in ("train_default", "train", "train_best", "inference"):
        rows = [next(line for line in page if line.startswith(f"| [`{name}`]")) for page in pages]
        found = [duration(times[name]) if name in times else "-" for times in machines]
        words = f"| {' / '.join(found)} |"
        assert words in rows[0]
        assert words.replace("min", "分钟").replace(" s ", " 秒 ") in rows[1]
