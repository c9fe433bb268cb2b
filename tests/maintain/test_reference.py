"""The reference: its parts, the command that trains them, and the pages, figures and weights that are made of it."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib import predict
from lib.config import BEST, REFERENCE
from lib.dataset import PUBLISHED_VALIDATION, load_data
from lib.logger import BEST_CSV, TRAIN_CSV, Run
from lib.notebook.execute import TIMES
from lib.predict import KIT_WEIGHTS, PRETRAINED, default_weights, load_weights, unseen
from lib.sweep.__main__ import main as sweep_command
from lib.sweep.run import train_tasks
from lib.sweep.table import duration
from lib.train import fit
from lib.utils import KitError
from maintain import postprocess, pretrained, results
from maintain.reference import (
    BASELINE,
    CROSS_VALIDATION,
    FOLDER,
    PARTS,
    SCALES,
    WEIGHTS,
    Scale,
    base_of,
    cross_validated,
    measured,
    part_tasks,
)
from maintain.reference import main as reference_command
from tests.conftest import NAMES, brain, write_patient
from tests.runtime.test_cli import command
from tests.test_train import TINY

ROOT = Path(__file__).parent.parent.parent
SMALL = Scale({"image_size": 32, "init_features": 2, "epochs": 2, "batch_size": 4, "device": "cpu"}, {"epochs": 3})


@pytest.mark.parametrize("scale", SCALES)
def test_parts_are_the_published_recipe_and_the_best_at_that_scale(scale):
    for name, part in PARTS.items():
        base, size = base_of(part, scale), SCALES[scale].changes | (SCALES[scale].weights if name == WEIGHTS else {})
        assert base == dataclasses.replace(REFERENCE, **{**size, **part.changes})
    assert list(PARTS[WEIGHTS].plan.configs(base_of(PARTS[WEIGHTS], scale))) == ["baseline", "best"]
    configs = PARTS[CROSS_VALIDATION].plan.configs(base_of(PARTS[CROSS_VALIDATION], scale))
    size = {name: value for name, value in SCALES[scale].changes.items() if name != "lr"}
    assert configs["best"] == dataclasses.replace(BEST, **size)
    assert base_of(PARTS[WEIGHTS], scale).split == "all"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny reference: weights, cross-validation and the baseline's seeds, trained by the functions of the command."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(folder / "cache"))
        patch.setenv("KIT_PROGRESS", "off")
        patch.setitem(SCALES, "cpu", SMALL)
        for seed, name in enumerate(NAMES):
            write_patient(folder / "kaggle_3m", name, *brain(seed))
        data = load_data(folder / "kaggle_3m", 32)
        for name in (WEIGHTS, BASELINE, CROSS_VALIDATION):
            train_tasks(part_tasks(PARTS[name], data, folder, "cpu"), data, folder)
    return folder


@pytest.fixture
def reference(trained, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(trained / "cache"))
    monkeypatch.setitem(SCALES, "cpu", SMALL)
    return trained


@pytest.fixture
def copied(reference, tmp_path):
    """The tables of the reference, to be damaged."""
    shutil.copytree(reference / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("*.pt", ".lock"))
    return tmp_path


def part_runs(folder, plan, label):
    """Its runs, whatever else is there."""
    return [run for run in map(Run, (folder / "runs").iterdir())
            if any((place["plan"], place["label"]) == (plan, label) for place in run.info["places"])]


def test_every_row_says_its_scale(reference):
    table = pd.read_csv(reference / BEST_CSV)
    assert set(table["measured at"]) == {"cpu"}
    assert set(pd.read_csv(reference / TRAIN_CSV)["measured at"]) == {"cpu"}
    assert table["split"].nunique() == PARTS[CROSS_VALIDATION].folds


def test_the_command_finds_what_is_trained(reference, monkeypatch, capfd):
    """Only the parts asked for, and nothing twice."""
    before = {file: file.stat().st_mtime_ns for file in reference.glob("runs/*/best.pt")}
    status, out, err = command(reference_command, monkeypatch, capfd, "--only", CROSS_VALIDATION, "--data",
                               str(reference / "kaggle_3m"), "--out", str(reference))
    assert status == 0, err
    assert CROSS_VALIDATION in out and WEIGHTS not in out
    assert {file: file.stat().st_mtime_ns for file in reference.glob("runs/*/best.pt")} == before


def test_weights_of_two_scales_are_one_run(copied, reference, monkeypatch):
    """The longer scale changes the cross-validation only: both count the same weights."""
    monkeypatch.setitem(SCALES, "cpu-long", SMALL._replace(changes=SMALL.changes | {"epochs": 4}))
    data = load_data(reference / "kaggle_3m", 32)
    train_tasks(part_tasks(PARTS[WEIGHTS], data, copied, "cpu-long"), data, copied)
    both = [measured(WEIGHTS, scale, copied) for scale in ("cpu", "cpu-long")]
    assert [run.id for [run] in both[0].values()] == [run.id for [run] in both[1].values()] != []


def test_runs_with_other_settings_do_not_count(reference, tmp_path):
    data = load_data(reference / "kaggle_3m", 32)
    train_tasks(part_tasks(PARTS[WEIGHTS], data, tmp_path, "cpu", {"epochs": 1}), data, tmp_path)
    assert measured(WEIGHTS, "cpu", tmp_path) == {}


@pytest.mark.parametrize(("main", "arguments"), [
    (reference_command, ["--seeds", "1"]), (sweep_command, ["loss", "--at", "gpu"]),
    (sweep_command, ["loss", "--only", "x"])])
def test_options_that_do_not_apply_are_named(main, arguments, monkeypatch, capfd):
    status, _, err = command(main, monkeypatch, capfd, *arguments, "--data", "nowhere")
    assert status == 2 and f"unrecognized arguments: {' '.join(arguments[-2:])}" in err


def test_an_unknown_part_is_named(tiny_kaggle, monkeypatch, capfd):
    status, _, err = command(reference_command, monkeypatch, capfd, "--only", "all", "--data", str(tiny_kaggle))
    assert status == 2 and "part 'all' of the reference is unknown; use some of pretrained, baseline" in err


def test_cross_validation_table_is_what_the_run_folders_say(reference):
    scale, folds = cross_validated(reference)
    assert (scale, list(folds)) == ("cpu", ["baseline", "best"])
    table = results.cross_validation_table(folds)
    best = part_runs(reference, CROSS_VALIDATION, "best")
    assert len(best) == 5
    assert table.loc["best", "mean DSC"] == pytest.approx(pd.concat([run.cases["dsc"] for run in best]).mean())
    last = [run.history["val_dsc"].iloc[-1] for run in best for _ in range(len(run.cases))]
    assert table.loc["best", "last epoch"] == pytest.approx(sum(last) / len(last))
    means = table["mean DSC"]
    assert table.loc["best", "difference"] == pytest.approx(means["best"] - means["baseline"])


def test_parts_that_are_not_complete_are_not_shown(copied):
    best = part_runs(copied, CROSS_VALIDATION, "best")[0]
    (best.folder / "run.json").write_text(json.dumps(best.info | {"status": "running"}))
    for run in part_runs(copied, BASELINE, "frozen"):
        shutil.rmtree(run.folder)
    page = results.page(copied)
    assert "###" not in page
    with pytest.raises(KitError, match="no complete cross-validation"):
        results.readme_table(copied)
    with pytest.raises(KitError, match="no complete cross-validation"):
        pretrained.export(copied, copied / "weights")
    assert not (copied / "weights").exists()


def test_runs_of_ones_own_and_older_ones_are_passed_over(copied):
    before = results.page(copied)
    alone, old = part_runs(copied, BASELINE, "fresh")[0], part_runs(copied, BASELINE, "frozen")[0]
    for run, name, places in ((alone, "alone", None), (old, "old", [{"plan": "loss", "label": "Dice"}])):
        shutil.copytree(run.folder, copied / "runs" / name)
        info = {key: value for key, value in run.info.items() if key != "places"}
        info |= {"places": places} if places else {}
        (copied / "runs" / name / "run.json").write_text(json.dumps(info))
    assert results.page(copied) == before


def test_a_variant_that_was_trained_twice_is_named(copied):
    run = part_runs(copied, BASELINE, "fresh")[0]
    shutil.copytree(run.folder, copied / "runs" / "again")
    with pytest.raises(KitError, match=f"fresh was trained more than once .*{run.id}"):
        results.page(copied)


def test_patients_that_trials_were_scored_on_are_counted(copied):
    _, folds = cross_validated(copied)
    assert results.choice(folds, copied) == ""
    run = part_runs(copied, BASELINE, "fresh")[0]
    shutil.copytree(run.folder, copied / "trials-32" / "one")
    text = results.choice(folds, copied)
    assert f"scored on {len(run.info['split']['validation'])} of these {len(NAMES)} patients" in text
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


def test_runs_of_a_recipe_that_has_changed_since_do_not_count(copied, monkeypatch):
    assert measured(WEIGHTS, "cpu", copied)
    monkeypatch.setitem(SCALES, "cpu", SMALL._replace(weights={"epochs": 4}))
    assert measured(WEIGHTS, "cpu", copied) == {}
    assert measured(CROSS_VALIDATION, "cpu", copied)


def test_post_processing_is_chosen_where_it_is_not_scored():
    """Two folds of two patients: what is best on one is tried on the other."""
    def rows(fold, patient, **dsc):
        return [{"fold": fold, "patient": patient, "rule": rule, "threshold": 0.5, "dsc": value}
                for rule, value in dsc.items()]
    table = pd.DataFrame([*rows("1", "a", size=0.5, all=0.7, mass=0.1), *rows("1", "b", size=0.5, all=0.6, mass=0.1),
                          *rows("2", "c", size=0.9, all=0.3, mass=0.2), *rows("2", "d", size=0.8, all=0.4, mass=0.2)])
    choice = postprocess.nested_choice(table).set_index("patient")
    assert choice["rule"].to_dict() == {"a": "size", "b": "size", "c": "all", "d": "all"}
    assert choice["dsc"].to_dict() == {"a": 0.5, "b": 0.5, "c": 0.3, "d": 0.4}
    assert choice["published"].to_dict() == {"a": 0.5, "b": 0.5, "c": 0.9, "d": 0.8}


def test_rules_of_post_processing():
    """Two pieces: three voxels that are barely seen, and two that are certain."""
    probabilities = np.zeros((1, 1, 8))
    probabilities[0, 0] = [0.6, 0.6, 0.6, 0, 0.95, 0.95, 0, 0]
    kept = {rule: keep(probabilities, 0.5).astype(int).tolist()[0][0] for rule, keep in postprocess.RULES.items()}
    assert kept == {"size": [1, 1, 1, 0, 0, 0, 0, 0], "mass": [0, 0, 0, 0, 1, 1, 0, 0],
                    "all": [1, 1, 1, 0, 1, 1, 0, 0]}
    assert not postprocess.RULES["mass"](probabilities, 0.99).any()


def test_rules_are_scored_by_the_network_of_the_fold(reference):
    _, folds = cross_validated(reference)
    table = postprocess.score_rules(folds, load_data(reference / "kaggle_3m", 32))
    published = table.query("rule == 'size' and threshold == 0.5").set_index(["recipe", "patient"])["dsc"]
    for label, each in (("baseline", folds["baseline"]), ("best, flips", folds["best"])):  # as they were trained
        for row in each.cases.itertuples():
            assert published[label, row.patient] == pytest.approx(row.dsc, abs=1e-7)
    assert set(published.index.get_level_values(0)) == {"baseline", "best", "baseline, flips", "best, flips",
                                                        "all together, flips"}
    assert published["all together, flips"].size == 6


def test_what_can_be_had_without_training(reference):
    table = pd.DataFrame([{"recipe": recipe, "fold": f"fold-{i % 2}", "patient": f"P{i}", "rule": rule,
                           "threshold": 0.5, "dsc": value + (rule == "all") * 0.1}
                          for recipe, value in (("baseline", 0.5), ("baseline, flips", 0.6))
                          for i in range(8) for rule in ("size", "all")])
    shown = results._without_training(table)
    assert shown.loc["baseline, flips", "difference"] == pytest.approx(0.1)
    assert shown.loc["baseline, flips", "verdict"] == "helps"
    table.to_csv(reference / "postprocessing-cpu.csv", index=False)
    page = results.page(reference)
    (reference / "postprocessing-cpu.csv").unlink()
    assert "| baseline, flips | 0.600 | 0.100 |" in page and "all 0.5, all 0.5" in page


def test_pages_and_figures(reference, monkeypatch, capfd):
    readme = (ROOT / "README.md").read_bytes()
    status, _, err = command(results.main, monkeypatch, capfd, "--folder", str(reference))
    assert status == 0, err
    assert (ROOT / "README.md").read_bytes() == readme, "which tells of the kit's own folder"
    page = (reference / "results.md").read_text(encoding="utf-8")
    assert {file.name for file in reference.glob("*.png")} == set(re.findall(r"\]\((.*?\.png)\)", page))
    assert "| 6 |" in page and "Seeds: 3" in page
    assert pd.read_csv(reference / "cross_validation.csv", index_col=0)["patients"].tolist() == [6, 6]
    worst = results.worst_patients(cross_validated(reference)[1], 2)
    assert list(worst["best"]) == sorted(worst["best"]) and all(f"| {name} |" in page for name in worst.index)
    text = results.with_block(f"before\n{results.BEGIN}\nold\n{results.END}\nafter", "new")
    assert text == f"before\n{results.BEGIN}\nnew\n{results.END}\nafter"
    with pytest.raises(KitError, match="no place for the results"):
        results.with_block("nothing", "new")


def test_weights_are_exported_with_their_card(reference, tmp_path):
    files = pretrained.export(reference, tmp_path)
    assert [file.name for file in files] == ["baseline.pt", "best.pt"]
    runs = pretrained.weight_runs(reference)
    for file in files:
        exact, halved = load_weights(runs[file.stem].weights), load_weights(file)
        assert halved.trained_on == exact.trained_on and len(halved.trained_on) == 6
        for name, tensor in exact.state_dict().items():
            torch.testing.assert_close(halved.state_dict()[name], tensor, rtol=2e-3, atol=1e-6)
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(halved(images).sigmoid(), exact(images).sigmoid(), rtol=0, atol=5e-3)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"{digest}  {file.name}\n" in (tmp_path / "SHA256SUMS").read_text()
        assert digest in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_weights_that_float16_cannot_hold_are_not_exported(reference, tmp_path, monkeypatch):
    run = pretrained.weight_runs(reference)["best"]
    content = torch.load(run.weights, weights_only=True)
    content["weights"]["conv.bias"] += 1e6
    monkeypatch.setattr(pretrained, "read_checkpoint", lambda _: content)
    with pytest.raises(KitError, match="too large for float16"):
        pretrained.export(reference, tmp_path)
    assert not any(tmp_path.iterdir())


def test_own_weights_come_before_those_of_the_kit(tiny_kaggle, tmp_path, monkeypatch):
    data = load_data(tiny_kaggle, TINY.image_size)
    assert default_weights(tmp_path, data) == default_weights(tmp_path) == KIT_WEIGHTS
    run = fit(TINY, data, tmp_path)
    assert default_weights(tmp_path, data) == default_weights(tmp_path) == run.weights
    shutil.copytree(run.folder, tmp_path / "phantoms" / "runs" / "one")
    info = run.info | {"data": run.info["data"] | {"name": "phantom"}}
    (tmp_path / "phantoms" / "runs" / "one" / "run.json").write_text(json.dumps(info))
    assert default_weights(tmp_path / "phantoms") == KIT_WEIGHTS, "patients are not segmented by what saw phantoms"
    monkeypatch.setattr(predict, "KIT_WEIGHTS", tmp_path / "best.pt")
    with pytest.raises(KitError, match="no finished run on patients; train one first"):
        default_weights(tmp_path / "phantoms")
    assert unseen(load_weights(run.weights), data) == run.unseen(data)


# --- what is committed --------------------------------------------------------------------------------------------


def test_readme_and_pages_tell_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.with_block(readme, results.readme_table()) == readme, "run make reference-figures"
    assert (FOLDER / "results.md").read_text(encoding="utf-8") == results.page(), "run make reference-figures"
    for name in re.findall(r"\]\((.*?\.png)\)", results.page()):
        assert (FOLDER / name).is_file()


def test_tables_of_the_notebook_are_those_of_the_runs(tmp_path):
    shutil.copytree(FOLDER / "runs", tmp_path / "runs")
    for file in results.write_tables(tmp_path):
        assert (FOLDER / file.name).read_bytes() == file.read_bytes(), "run make reference-figures"


def test_readme_tells_what_networks_cost():
    rows = json.loads((FOLDER / "bench.json").read_text())["memory"]
    lines = [line.split(" | ")[1:] for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
             if re.match(r"\| U-?Net.*\d to \d+", line)]
    columns = ("GFLOPs a slice", "kept, plain", "kept, checkpointing", "peak, plain", "peak, checkpointing")
    assert [[float(cell.strip(" |").replace(",", "")) for cell in line] for line in lines] == [
        [row["parameters"], *(row[name] for name in columns)] for row in rows]


def test_readme_tells_how_long_notebooks_take():
    pages = [(ROOT / name).read_text(encoding="utf-8").splitlines() for name in ("README.md", "README.zh-CN.md")]
    for name, seconds in json.loads((FOLDER / TIMES).read_text()).items():
        rows = [next(line for line in page if line.startswith(f"| [`{name}`]")) for page in pages]
        assert f"| {duration(seconds)} |" in rows[0]
        assert f"| {duration(seconds)} |".replace("min", "分钟").replace(" s ", " 秒 ") in rows[1]


def test_the_card_tells_of_the_weights_that_are_there():
    files = {name: (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
             for name in ("baseline.pt", "best.pt") for file in [PRETRAINED / name]}
    assert (PRETRAINED / "README.md").read_text(encoding="utf-8") == pretrained.card(files)


def test_the_default_is_the_recipe_that_did_better():
    _, folds = cross_validated()
    assert PRETRAINED / f"{max(folds, key=lambda label: folds[label].dsc.mean)}.pt" == KIT_WEIGHTS


@pytest.mark.parametrize("name", ["baseline", "best"])
def test_the_kits_weights(name):
    file = PRETRAINED / f"{name}.pt"
    assert file.stat().st_size <= 20e6
    assert f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" in (PRETRAINED / "SHA256SUMS").read_text()
    network, run = load_weights(file), pretrained.weight_runs()[name]
    assert network.config == run.config and network.trained_on == tuple(run.info["split"]["train"])
    assert not set(network.trained_on) & set(PUBLISHED_VALIDATION), "the published ten must stay unseen"
