"""Sweeps in this process: kept, resumed, recorded when they fail, never trained twice."""

import math
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest

from lib.config import Config
from lib.dataset import load_data
from lib.logger import BEST_CSV, TRAIN_CSV, RunFolder, finished_runs, write_result_csvs
from lib.report.experiments import experiments, read_attempts
from lib.stats import compare_to_baseline
from lib.sweep import PLANS, Plan, cross_validate, grid
from lib.sweep import sweep as sweep_by_any
from lib.sweep.__main__ import main
from lib.sweep.task import make_tasks
from lib.utils import PROJECT, EditedError, KitError
from tests.own import MISTAKE

BASE = Config(image_size=32, init_features=1, epochs=2, batch_size=8, model="tests.own:Counting")
PLAN = Plan("tiny", "?", {"Dice": {}, "IoU": {"loss": "IOULoss"}, "slow": {"lr": 1e-5}})
ONE = Plan("one", "?", {"only": {}})
sweep = partial(sweep_by_any, executor="local")
KEPT = ("best.pt", "last.pt", "history.csv", "cases.csv")


@pytest.fixture
def data(tiny_kaggle):
    return load_data(tiny_kaggle, 32)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """The file in which each training step leaves a line."""
    file = tmp_path / "steps"
    file.touch()
    monkeypatch.setenv("KIT_STEPS", str(file))
    return file


EPOCHS_LOST = 2
"""What a kill costs at most: the epoch that it interrupts, and the one that is being written."""


def count(steps: Path) -> int:
    return len(steps.read_text().splitlines())


def content(out: Path) -> dict[str, bytes]:
    """What must be the same however often a sweep was interrupted."""
    files = [*out.glob("*.csv"), *(file for name in KEPT for file in out.glob(f"runs/*/{name}"))]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def test_all_variants_are_trained_once(data, tmp_path, steps):
    done = sweep(PLAN, BASE, data, tmp_path / "out")
    assert list(done.runs) == ["Dice", "IoU", "slow"] and not done.failures
    assert done.runs["slow"][0].config == replace(BASE, lr=1e-5)
    trained = count(steps)
    again = sweep(PLAN, BASE, data, tmp_path / "out")
    assert count(steps) == trained  # loaded, not trained
    assert [run.id for runs in again.runs.values() for run in runs] == [
        run.id for runs in done.runs.values() for run in runs
    ]
    assert len(compare_to_baseline(done.runs)) == 2


def test_some_variants_are_trained_beside_the_reference(data, tmp_path, steps):
    some = sweep(PLAN, BASE, data, tmp_path / "out", only=["slow"])
    assert list(some.runs) == ["Dice", "slow"] and not some.failures
    half = count(steps)
    assert list(sweep(PLAN, BASE, data, tmp_path / "out", only=()).runs) == ["Dice"]
    assert count(steps) == half
    assert [place["position"] for place in some.runs["slow"][0].info["places"]] == [2]
    assert list(sweep(PLAN, BASE, data, tmp_path / "out").runs) == ["Dice", "IoU", "slow"]
    for wrong in (["slow", "quick"], "slow", 3, [["slow"]]):
        with pytest.raises(KitError, match=r"plan tiny: only=.* give some of \['Dice', 'IoU'"):
            sweep(PLAN, BASE, data, tmp_path / "out", only=wrong)


def test_a_plan_says_which_csv_its_runs_go_to(data, tmp_path, steps):
    out = tmp_path / "out"
    for plan in (replace(ONE, name="best of all"), replace(ONE, table="best")):
        [[run]] = sweep(plan, BASE, data, out).runs.values()
    assert run.info["tables"] == {"best of all": "train", "one": "best"}
    tables = [pd.read_csv(out / name) for name in (TRAIN_CSV, BEST_CSV)]
    assert [set(table["run_id"]) for table in tables] == [{run.id}, {run.id}]
    assert len(experiments(read_attempts(out)[0])) == 2
    assert list(experiments(read_attempts(out)[0]))[-1] == "one"  # plans of the best CSV come last


def test_places_in_run_json(data, tmp_path, steps):
    out = tmp_path / "out"
    runs = sweep(PLAN, BASE, data, out, seeds=(1, 2)).runs
    assert [run.config.seed for run in runs["IoU"]] == [1, 2]
    places = [run.info["places"] for label in PLAN.variants for run in runs[label]]
    assert [(p["plan"], p["position"], p["label"]) for [p] in places] == [
        ("tiny", 0, "Dice"),
        ("tiny", 0, "Dice"),
        ("tiny", 1, "IoU"),
        ("tiny", 1, "IoU"),
        ("tiny", 2, "slow"),
        ("tiny", 2, "slow"),
    ]
    assert len({place["group"] for [place] in places}) == 1
    shared = sweep(
        Plan("other", "?", {"wide": {"init_features": 2}, "Dice": {}}),
        replace(BASE, seed=1),
        data,
        out,
    )
    assert list(shared.runs) == ["Dice", "wide"]
    assert [place["plan"] for place in shared.runs["Dice"][0].info["places"]] == ["other", "tiny"]
    longer = Plan(
        "tiny", "?", {"Dice": {}, "between": {"lr": 1e-3}, **dict(list(PLAN.variants.items())[1:])}
    )
    moved = sweep(longer, replace(BASE, seed=1), data, out).runs["slow"][0]
    assert [(place["plan"], place["position"]) for place in moved.info["places"]] == [
        ("tiny", 3)
    ]  # it has one place
    assert shared.runs["Dice"][0].info["plans"] == ["other", "tiny"]


def test_a_variant_that_equals_another_is_trained_once_and_says_so(data, tmp_path, steps, capsys):
    plan = Plan("rates", "?", {"baseline": {}, "again": {"lr": BASE.lr}, "low": {"lr": 1e-6}})
    done = sweep(plan, BASE, data, tmp_path / "out", only=[])
    said = "plan rates: no recipe is trained twice: 'again' equals 'baseline'\n"
    assert said in capsys.readouterr().out
    assert list(done.runs) == ["baseline"] and not done.failures
    assert list(cross_validate(plan, BASE, data, tmp_path / "out", k=2)) == ["baseline", "low"]
    assert said in capsys.readouterr().out


def test_only_is_any_list_of_labels(data, tmp_path, steps):
    assert list(sweep(PLAN, BASE, data, tmp_path / "out", only=iter(["slow"])).runs) == [
        "Dice",
        "slow",
    ]


def test_plans_of_the_same_name_are_kept_apart_by_their_question(data, tmp_path, steps):
    out = tmp_path / "out"
    rates = Plan("mine", "Which rate?", {"1e-4": {"lr": 1e-4}, "1e-3": {"lr": 1e-3}})
    turns = Plan("mine", "Does rotation help?", {"baseline": {}, "none": {"rotation": 0.0}})
    for plan in (rates, turns):
        sweep(plan, BASE, data, out)

    def found() -> dict[str, set[str]]:
        own = experiments(read_attempts(out)[0])["mine"]
        assert all(one.reference and one.verdicts is not None for one in own)
        return {one.reference.label: {recipe.label for recipe in one.recipes} for one in own}

    assert found() == {"1e-4": {"1e-4", "1e-3"}, "baseline": {"baseline", "none"}}
    each = count(steps) // len(list(out.glob("runs/*")))
    trained = count(steps)
    further = {**rates.variants, "3e-4": {"lr": 3e-4}}
    assert list(sweep(replace(rates, variants=further), BASE, data, out).runs) == list(further)
    assert count(steps) == trained + each, "the other two are kept"
    assert found() == {"1e-4": set(further), "baseline": {"baseline", "none"}}


def test_a_shipped_plan_keeps_its_group_with_a_variant_more(data, tmp_path):
    loss = PLANS["loss"]
    plans = [
        loss,
        replace(loss, variants={**loss.variants, "BCE": {"loss": "DiceBCELoss"}}),
        replace(loss, question="Which loss is mine?"),
    ]
    group, same, other = [make_tasks(plan, BASE, data, tmp_path)[0].place.group for plan in plans]
    assert group == same != other


def test_a_variant_that_fails_is_recorded_and_stops_nothing(data, tmp_path, steps):
    plan = Plan(
        "broken",
        "?",
        {
            "good": {},
            "raising": {"model": "tests.own:Raising"},
            "absent": {"model": "tests.own:Absent"},
            "also good": {"lr": 1e-5},
        },
    )
    done = sweep(plan, BASE, data, tmp_path / "out")
    assert list(done.runs) == ["good", "also good"]
    assert f"{MISTAKE} (line " in done.failures["raising"]
    assert "cannot be loaded" in done.failures["absent"]
    [failed] = [
        info
        for folder in (tmp_path / "out" / "runs").iterdir()
        if (info := RunFolder(tmp_path / "out", folder.name).read())["config"]["model"].endswith(
            "Raising"
        )
    ]
    assert (failed["status"], failed["error"]) == ("failed", done.failures["raising"])
    assert [(place["label"], place["position"]) for place in failed["places"]] == [("raising", 1)]
    log = next((tmp_path / "out" / "runs").glob("Raising*/log.txt")).read_text()
    assert "Traceback" in log and "forward" in log
    assert set(pd.read_csv(tmp_path / "out" / "uexec_result_train.csv")["model"]) == {
        "tests.own:Counting"
    }


def test_an_interrupted_run_has_its_place(data, tmp_path, steps, monkeypatch):
    monkeypatch.setattr("lib.logger.Record.in_words", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep(PLAN, BASE, data, tmp_path / "out")
    attempts, unreadable = read_attempts(tmp_path / "out")
    assert not unreadable and [attempt.words for attempt in attempts] == [
        "unfinished, epoch 1 of 2"
    ]
    [experiment] = experiments(attempts)["tiny"]
    assert experiment.reference.label == "Dice"


def interrupt(*_):
    raise KeyboardInterrupt


def test_edited_code_stops_the_sweep_and_leaves_no_record(data, tmp_path, steps, monkeypatch):
    monkeypatch.setattr("lib.sweep.task.code_fingerprint", edited)
    with pytest.raises(EditedError, match="restart the kernel"):
        sweep(PLAN, BASE, data, tmp_path / "out")
    assert not list(tmp_path.glob("out/runs/*"))


def edited(*_):
    raise EditedError("loss.py was edited after it was loaded; restart the kernel")


def test_seeds_as_variants(data, tmp_path, steps):
    plan = grid("seeds", "?", seed=[1, 2])
    runs = sweep(plan, BASE, data, tmp_path / "out").runs
    assert [run.config.seed for [run] in runs.values()] == [1, 2]
    with pytest.raises(KitError, match="has a seed of its own; leave out seeds="):
        sweep(plan, BASE, data, tmp_path / "out", seeds=(3, 4))


def test_results_in_a_relative_folder(data, tmp_path, steps, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep(ONE, BASE, data, "out")
    assert (tmp_path / "out" / "uexec_result_train.csv").is_file()
    assert all(
        task.folder.path.is_absolute()
        for task in make_tasks(ONE, BASE, data, Path("out").absolute())
    )


def test_a_damaged_run_is_named(data, tmp_path, steps):
    [run] = sweep(ONE, BASE, data, tmp_path / "out").runs["only"]
    (run.folder / "run.json").write_text("{")
    with pytest.raises(KitError, match=r"run\.json: is damaged .*delete the run's folder"):
        sweep(ONE, BASE, data, tmp_path / "out")


@pytest.mark.parametrize("file", ["cases.csv", "history.csv", "best.pt"])
@pytest.mark.parametrize("label", ["IoU", "Dice"])
def test_a_run_that_was_changed_is_not_compared(data, tmp_path, steps, file, label):
    plan = Plan("two", "?", {"Dice": {}, "IoU": {"loss": "IOULoss"}})
    changed = sweep(plan, BASE, data, tmp_path / "out").runs[label][0].folder / file
    changed.write_bytes(changed.read_bytes() + b"0")
    if label == "Dice":
        with pytest.raises(KitError, match=rf"the reference of the others, failed .*{file}: is no"):
            sweep(plan, BASE, data, tmp_path / "out")
    else:
        done = sweep(plan, BASE, data, tmp_path / "out")
        assert list(done.runs) == ["Dice"] and list(done.failures) == ["IoU"]
        assert f"{file}: is not what the training wrote" in done.failures["IoU"]


def test_what_failed_is_tried_again(data, tmp_path, steps, monkeypatch):
    monkeypatch.delenv("KIT_STEPS")
    with pytest.raises(KitError, match="plan tiny: Dice, the reference of the others, failed"):
        sweep(PLAN, BASE, data, tmp_path / "out")
    monkeypatch.setenv("KIT_STEPS", str(steps))
    done = sweep(PLAN, BASE, data, tmp_path / "out")
    assert len(done.runs) == 3
    assert {(run.info["status"], run.info["error"]) for [run] in done.runs.values()} == {
        ("finished", None)
    }


def test_variants_may_want_other_images(data, tmp_path, steps):
    done = sweep(
        Plan("size", "?", {"32": {}, "48": {"image_size": 48}}), BASE, data, tmp_path / "out"
    )
    assert [run.config.image_size for [run] in done.runs.values()] == [32, 48]


def test_csvs_are_rebuilt_byte_for_byte(data, tmp_path, steps):
    out = tmp_path / "out"
    sweep(PLAN, BASE, data, out)
    sweep(replace(PLAN, name="tiny again", table="best"), BASE, data, out)
    before = content(out)
    files = list(out.glob("*.csv"))
    assert len(files) == 2
    for file in files:
        file.unlink()
    write_result_csvs(out)
    assert content(out) == before


def test_bad_input_is_refused_before_anything_is_trained(data, tmp_path, steps):
    for arguments, reason in (
        ({"executor": "cloud"}, "executor 'cloud' is unknown; use one of auto, local, processes"),
        ({"gpus": 1}, "gpus: for executor ray only"),
        ({"executor": "auto", "cpus": 1}, "cpus: for executor ray only"),
        ({"workers": 2}, "workers: for executor processes only"),
        ({"executor": "ray", "workers": 2}, "workers: for executor processes only"),
        ({"speed": 2}, "speed: is no option of a sweep; use some of workers, gpus"),
        ({"executor": "processes", "workers": 0}, "workers: 0; give a whole number, 1 or more"),
        ({"executor": "auto", "workers": 1.5}, "workers: 1.5; give a whole number"),
        ({"executor": "auto", "workers": True}, "workers: True; give a whole number"),
        ({"executor": "ray", "cpus": 0}, "cpus: 0; give a number, 0.01 or more"),
        ({"executor": "ray", "cpus": math.nan}, "cpus: nan; give a number"),
        ({"executor": "ray", "cpus": "2"}, "cpus: '2'; give a number"),
        ({"executor": "ray", "gpus": -1}, "gpus: -1; give a number, 0 or more"),
        ({"executor": "ray", "gpus": math.inf}, "gpus: inf; give a number"),
        ({"executor": "ray", "retries": -5}, "retries: -5; give a whole number, 0 or more"),
    ):
        with pytest.raises(KitError, match=reason):
            sweep(PLAN, BASE, data, tmp_path / "out", **arguments)
    with pytest.raises(KitError, match="variant odd"):
        sweep(Plan("odd", "?", {"": {}, "odd": {"lr": -1}}), BASE, data, tmp_path / "out")
    assert not list(tmp_path.glob("out/runs/*/history.csv"))


# --- several processes, and none that survives ----------------------------------------------------

DRIVER = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
from lib.config import Config
from lib.dataset import load_data
from lib.networks import summary
from lib.sweep import Plan, sweep
variants = {{"Dice": {{}}, "IoU": {{"loss": "IOULoss"}}, "slow": {{"lr": 1e-5}}}}
variants["fresh"] = {{"sampling": "fresh"}}
base = {BASE!r}
data, out, epochs, executor = sys.argv[1:]
from dataclasses import replace
base = replace(base, epochs=int(epochs))
sweep(Plan("killed", "?", variants), base, load_data(data, 32), out, executor=executor)
"""


def start_driver(root: Path, out: Path, epochs: int, executor: str = "local") -> subprocess.Popen:
    """Start a sweep in another process; the script has no ``if __name__ == "__main__"``."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(root), str(out), str(epochs), executor],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


class Killer(Thread):
    """Kills one of the processes that ``victims`` finds at a random moment after some more steps,
    several times."""

    def __init__(self, steps, kills, victims):
        super().__init__(daemon=True)
        self.steps, self.kills, self.victims, self.killed = steps, kills, victims, 0

    def run(self):
        moment = random.Random(0)
        for _ in range(self.kills):
            enough = count(self.steps) + moment.randint(1, 20)
            while count(self.steps) < enough:
                time.sleep(0.002)
            if found := self.victims():
                moment.choice(found).kill()
                self.killed += 1


@pytest.mark.slow
def test_two_processes_share_the_work(data, tmp_path, steps):
    drivers = [start_driver(data.root, tmp_path / "two", 20) for _ in range(2)]
    said = [driver.communicate()[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    both = count(steps)
    steps.write_text("")
    assert start_driver(data.root, tmp_path / "one", 20).wait() == 0
    assert both == count(steps)
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_at_random_moments(data, tmp_path, steps):
    kills, epochs, moment = 6, 40, random.Random(0)
    for _ in range(kills):
        before = count(steps)
        driver = start_driver(data.root, tmp_path / "killed", epochs)
        enough = before + moment.randint(1, 20)
        while count(steps) < enough and driver.poll() is None:
            time.sleep(0.002)
        assert driver.poll() is None, f"it ended before it was killed: {driver.stderr.read()}"
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    assert start_driver(data.root, tmp_path / "killed", epochs).wait() == 0
    trained = count(steps)
    steps.write_text("")
    assert start_driver(data.root, tmp_path / "whole", epochs).wait() == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    whole = count(steps)
    assert whole < trained <= whole + kills * EPOCHS_LOST * (whole // (4 * epochs))


# --- what it costs, and where it stands -----------------------------------------------------------


# --- command line ---------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lib.sweep", *map(str, arguments)],
        cwd=PROJECT,
        text=True,
        capture_output=True,
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_dry_run_prepares_nothing(packed, tiny_kaggle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    source, files = tiny_kaggle, sorted(tiny_kaggle.rglob("*_[0-9]*.tif"))
    slices = sum("_mask" not in file.name for file in files)
    if packed:
        source = tmp_path / "archive.zip"
        with zipfile.ZipFile(source, "w") as bundle:
            for file in files:
                bundle.write(file, file.relative_to(tiny_kaggle.parent))
    before = sorted(tmp_path.rglob("*"))
    options = ("--data", source, "--out", tmp_path / "out", "--image-size", 32, "--dry-run")
    options += ("--init-features", 1, "--epochs", 1, "--workers", 2, "--only", "IoU")
    monkeypatch.setattr(sys, "argv", list(map(str, ("sweep", "loss", *options))))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    cost, why = capsys.readouterr().out.splitlines()
    assert cost.startswith("2 runs; about ") and "2 at a time" in cost
    assert why.startswith(f"{slices} slices that are not prepared yet")
    assert sorted(tmp_path.rglob("*")) == before


def test_command_line(data, tmp_path, monkeypatch, capsys):
    options = (
        "--data",
        data.root,
        "--out",
        tmp_path / "out",
        "--image-size",
        32,
        "--init-features",
        1,
        "--epochs",
        1,
    )
    dry = map(str, ("sweep", "sampling", *options, "--dry-run"))
    monkeypatch.setattr(sys, "argv", list(dry))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "2 runs; one after the other about" in capsys.readouterr().out
    monkeypatch.setattr(
        sys, "argv", [*map(str, ("sweep", "sampling", *options)), "--dry-run", "--only"]
    )
    with pytest.raises(SystemExit):
        main()
    assert "1 run; about" in capsys.readouterr().out
    assert not finished_runs(tmp_path / "out")
    wet = command("sampling", *options)
    assert wet.returncode == 0, wet.stderr
    assert "cannot tell" in wet.stdout and len(finished_runs(tmp_path / "out")) == 2
    nobody = command("sampling", *options, "--split", "all")
    assert nobody.returncode == 0, nobody.stderr
    assert "scored nobody: there is nothing to compare" in nobody.stdout
