"""The reference: its parts, the command that trains them, and the pages, figures and weights that are made of it."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib import measured, postprocess, pretrained, results, sweep
from lib.config import BEST, REFERENCE
from lib.dataset import PUBLISHED_VALIDATION, load_data
from lib.execute import TIMES
from lib.logger import BEST_CSV, Run
from lib.predict import KIT_WEIGHTS, PRETRAINED, default_weights, load_weights, unseen
from lib.reference import CROSS_VALIDATION, PARTS, SCALES, WEIGHTS, base_of
from lib.sweep import part_tasks, train_tasks
from lib.sweep_table import duration
from lib.train import fit
from lib.utils import KitError
from tests.test_config import command
from tests.test_train import TINY

ROOT = Path(__file__).parent.parent
SMALL = {"image_size": 32, "init_features": 2, "epochs": 2, "batch_size": 4, "device": "cpu"}
OPTIONS = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]


@pytest.mark.parametrize("scale", SCALES)
def test_parts_are_the_published_recipe_and_the_best_at_that_scale(scale):
    for name, part in PARTS.items():
        base, size = base_of(part, scale), SCALES[scale].changes | (SCALES[scale].weights if name == WEIGHTS else {})
        assert base == dataclasses.replace(REFERENCE, **{**size, **part.changes})
    configs = PARTS[CROSS_VALIDATION].plan.configs(base_of(PARTS[CROSS_VALIDATION], scale))
    size = {name: value for name, value in SCALES[scale].changes.items() if name != "lr"}
    assert configs["best"] == dataclasses.replace(BEST, **size)
    assert base_of(PARTS[WEIGHTS], scale).split == "all"


@pytest.fixture(scope="module")
def reference(tmp_path_factory, request):
    """A tiny reference: weights and cross-validation, trained by the functions behind the command."""
    from tests.conftest import NAMES, brain, write_patient
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(folder / "cache"))
        patch.setenv("KIT_PROGRESS", "off")
        for seed, name in enumerate(NAMES):
            write_patient(folder / "kaggle_3m", name, *brain(seed))
        data = load_data(folder / "kaggle_3m", SMALL["image_size"])
        for name in (WEIGHTS, CROSS_VALIDATION):
            train_tasks(part_tasks(PARTS[name], data, folder, "cpu", SMALL), data, folder)
    return folder


def test_every_row_says_its_scale(reference):
    table = pd.read_csv(reference / BEST_CSV)
    assert set(table["measured at"]) == {"cpu"}
    assert table["split"].nunique() == PARTS[CROSS_VALIDATION].folds


def test_the_command_finds_what_is_trained(reference, monkeypatch, capfd):
    """Only the parts asked for, and nothing twice."""
    before = {file: file.stat().st_mtime_ns for file in reference.glob("runs/*/best.pt")}
    monkeypatch.setenv("KIT_CACHE", str(reference / "cache"))
    status, out, err = command(sweep.main, monkeypatch, capfd, "reference", "--only", CROSS_VALIDATION, "--data",
                               str(reference / "kaggle_3m"), "--out", str(reference), *OPTIONS)
    assert status == 0, err
    assert CROSS_VALIDATION in out and WEIGHTS not in out
    assert {file: file.stat().st_mtime_ns for file in reference.glob("runs/*/best.pt")} == before


def test_an_unknown_part_is_named(tiny_kaggle, monkeypatch, capfd):
    status, _, err = command(sweep.main, monkeypatch, capfd, "reference", "--only", "all", "--data", str(tiny_kaggle))
    assert status == 2 and "part 'all' of the reference is unknown; use some of pretrained, best ladder" in err


def test_cross_validation_table_is_what_the_run_folders_say(reference):
    folds = measured.cross_validated("cpu", reference)
    assert list(folds) == ["baseline", "best"]
    table = results.cross_validation_table(folds)
    runs = [run for run in map(Run, (reference / "runs").iterdir()) if len(run.cases)]
    best = [run for run in runs if run.config.loss == BEST.loss]
    assert len(best) == 5
    assert table.loc["best", "mean DSC"] == pytest.approx(pd.concat([run.cases["dsc"] for run in best]).mean())
    last = [run.history["val_dsc"].iloc[-1] for run in best for _ in range(len(run.cases))]
    assert table.loc["best", "last epoch"] == pytest.approx(sum(last) / len(last))
    means = table["mean DSC"]
    assert table.loc["best", "difference"] == pytest.approx(means["best"] - means["baseline"])


def test_a_recipe_that_lacks_a_fold_is_not_shown(reference, tmp_path):
    for file in reference.glob("runs/*/*.*"):
        if file.suffix in (".json", ".csv"):
            (tmp_path / file.relative_to(reference)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file.relative_to(reference)).write_bytes(file.read_bytes())
    best = [run for run in map(Run, (tmp_path / "runs").iterdir()) if run.config.loss == BEST.loss and len(run.cases)]
    (best[0].folder / "run.json").write_text(json.dumps(best[0].info | {"status": "running"}))
    assert list(measured.cross_validated("cpu", tmp_path)) == ["baseline"]
    assert "Cross-validated: 6 patients, 5 folds" in results.readme_table(tmp_path)


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
    folds = measured.cross_validated("cpu", reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(reference / "cache"))
        table = postprocess.score_rules(folds, load_data(reference / "kaggle_3m", SMALL["image_size"]))
    published = table.query("rule == 'size' and threshold == 0.5").set_index(["recipe", "patient"])["dsc"]
    for label, each in folds.items():
        for row in each.cases.itertuples():
            assert published[label, row.patient] == pytest.approx(row.dsc, abs=1e-7)


def test_pages_and_figures(reference):
    page = results.page(reference)
    drawn = results.draw(reference)
    assert {file.name for file in drawn} >= set(re.findall(r"\]\((.*?\.png)\)", page))
    worst = results.worst_patients(measured.cross_validated("cpu", reference), 2)
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
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"{digest}  {file.name}\n" in (tmp_path / "SHA256SUMS").read_text()
        assert digest in pretrained.card(reference, tmp_path)
    with pytest.raises(KitError, match="no weights there"):
        pretrained.weight_runs(tmp_path)


def test_own_weights_come_before_those_of_the_kit(tiny_kaggle, tmp_path):
    data = load_data(tiny_kaggle, TINY.image_size)
    assert default_weights(tmp_path, data) == KIT_WEIGHTS
    run = fit(TINY, data, tmp_path)
    assert default_weights(tmp_path, data) == run.weights
    assert unseen(load_weights(run.weights), data) == run.unseen(data)


# --- what is committed --------------------------------------------------------------------------------------------


def test_readme_and_pages_tell_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.with_block(readme, results.readme_table()) == readme, "run make reference-figures"
    assert (measured.FOLDER / "results.md").read_text(encoding="utf-8") == results.page(), "run make reference-figures"
    for name in re.findall(r"\]\((.*?\.png)\)", results.page()):
        assert (measured.FOLDER / name).is_file()


def test_readme_tells_what_networks_cost():
    rows = json.loads((measured.FOLDER / "bench.json").read_text())["memory"]
    lines = [line.split(" | ")[1:] for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
             if re.match(r"\| U-?Net.*\d to \d+", line)]
    columns = ("GFLOPs a slice", "kept, plain", "kept, checkpointing", "peak, plain", "peak, checkpointing")
    assert [[float(cell.strip(" |").replace(",", "")) for cell in line] for line in lines] == [
        [row["parameters"], *(row[name] for name in columns)] for row in rows]


def test_readme_tells_how_long_notebooks_take():
    pages = [(ROOT / name).read_text(encoding="utf-8").splitlines() for name in ("README.md", "README.zh-CN.md")]
    for name, seconds in json.loads((measured.FOLDER / TIMES).read_text()).items():
        rows = [next(line for line in page if line.startswith(f"| [`{name}`]")) for page in pages]
        assert f"| {duration(seconds)} |" in rows[0]
        assert f"| {duration(seconds)} |".replace("min", "分钟").replace(" s ", " 秒 ") in rows[1]


def test_the_card_tells_of_the_weights_that_are_there():
    assert (PRETRAINED / "README.md").read_text(encoding="utf-8") == pretrained.card()


@pytest.mark.parametrize("name", ["baseline", "best"])
def test_the_kits_weights(name):
    file = PRETRAINED / f"{name}.pt"
    assert file.stat().st_size <= 20e6
    assert f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" in (PRETRAINED / "SHA256SUMS").read_text()
    network, run = load_weights(file), pretrained.weight_runs()[name]
    assert network.config == run.config and network.trained_on == tuple(run.info["split"]["train"])
    assert not set(network.trained_on) & set(PUBLISHED_VALIDATION), "the published ten must stay unseen"
