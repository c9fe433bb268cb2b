"""The run folder, and the result CSVs that are derived from it."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch

from lib.config import CUSTOM, Config
from lib.dataset import load_data, make_split
from lib.logger import (
    BEST_CSV,
    TRAIN_CSV,
    Record,
    RunFolder,
    description,
    find_run,
    finished_runs,
    run_id,
    updated,
    write_result_csvs,
)
from lib.report.experiments import read_attempts
from lib.train import fit
from lib.utils import KitError
from tests.conftest import NAMES, brain, write_patient
from tests.test_train import TINY


@pytest.fixture
def data(tiny_kaggle, monkeypatch):
    return load_data(tiny_kaggle, TINY.image_size)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A results folder with a finished run, trained once for all; do not change what is in it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(folder / "cache"))
        patch.setenv("KIT_PROGRESS", "off")
        for seed, name in enumerate(NAMES):
            write_patient(folder / "kaggle_3m", name, *brain(seed))
        one_epoch = dataclasses.replace(TINY, epochs=1)
        fit(one_epoch, load_data(folder / "kaggle_3m", TINY.image_size), folder / "out")
    return folder / "out"


@pytest.fixture
def beside(finished, tmp_path):
    """A results folder, its finished run, and the folder of a copy of that run."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    [run] = finished_runs(out)
    shutil.copytree(run.folder, out / "runs" / "odd")
    return out, run, out / "runs" / "odd"


def test_result_csv_columns_and_rebuild(data, tmp_path):
    fit(TINY, data, tmp_path, plan="loss")
    fit(
        dataclasses.replace(TINY, lr_scheduler="linear", optimizer="SGD"),
        data,
        tmp_path,
        plan="schedules",
        table="best",
    )
    files = write_result_csvs(tmp_path)
    before = {name: path.read_bytes() for name, path in files.items()}
    table = pd.read_csv(tmp_path / "uexec_result_train.csv", dtype=str)
    assert list(table.columns[:7]) == [
        "loss function",
        "optimizer function",
        "weight decay",
        "use_lr scheduler",
        "epoch",
        "val loss",
        "val_dsc",
    ]
    assert table["epoch"].tolist() == ["1", "2", "3"]
    assert table["use_lr scheduler"].unique().tolist() == ["FALSE"]
    best = pd.read_csv(tmp_path / "uexec_result_best.csv", dtype=str)
    assert best[["optimizer function", "use_lr scheduler"]].iloc[0].tolist() == ["SGD", "TRUE"]
    for path in files.values():
        path.unlink()
    assert {name: path.read_bytes() for name, path in write_result_csvs(tmp_path).items()} == before
    assert all(b"\r" not in content for content in before.values())


def test_a_name_that_starts_with_best_is_only_a_name(data, tmp_path):
    config = dataclasses.replace(TINY, epochs=1)
    run = fit(config, data, tmp_path, plan="bestiary")
    assert run.tables == {"train"} and not (tmp_path / BEST_CSV).exists()
    run = fit(config, data, tmp_path, plan="mine", table="best")
    assert run.tables == {"train", "best"} and run.info["plans"] == ["bestiary", "mine"]
    assert (tmp_path / BEST_CSV).exists() and (tmp_path / TRAIN_CSV).exists()


def test_a_run_of_an_older_version_is_read_as_a_new_one():
    """Its plans, its devices and its size were recorded in prefixes and in joined strings."""
    config = Config(image_size=80, init_features=8, lr=0.1).to_dict()
    old = {
        "schema": 1,
        "plans": ["best ladder", "loss"],
        "device": "cpu (1 thread); then CUDA",
        "precision": "fp32",
        "config": config,
        "data": {"name": "p"},
        "split": {"train": ["PHANTOM_0001"], "validation": ["PHANTOM_0002"]},
    }
    new = updated(old)
    assert new["data"] == {"name": "p", "phantom": True}
    assert new["tables"] == {"best ladder": "best", "loss": "train"}
    assert (new["device"], new["precision"]) == ("CUDA", "fp32")
    assert new["earlier"] == [{"device": "cpu (1 thread)", "precision": "fp32"}]
    assert new["profile"] == "quick"
    assert updated(new) == new
    assert updated(old | {"device": "cpu"})["earlier"] == []
    assert updated({"plans": "x", "config": {}, "device": 7}) == {
        "plans": "x",
        "config": {},
        "device": 7,
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_size": 32, "init_features": 2}, "smoke"),
        ({"image_size": 80, "init_features": 8, "lr": 0.5}, "quick"),
        ({"image_size": 80, "init_features": 16}, "full"),
        ({}, "full"),
    ],
)
def test_the_profile_of_a_run_is_recorded(data, settings, expected):
    config = Config(**settings)
    about = description(config, data, make_split(data, TINY.split), "code")
    assert about["profile"] == expected and about["data"]["phantom"] is False


def test_an_id_is_a_name_of_a_folder_on_every_system(data):
    split, custom = make_split(data, TINY.split), {}
    for field in dataclasses.fields(Config):
        if field.metadata["pattern"] is CUSTOM:
            custom[field.name] = f"my_module:{field.name.title()}"
    for each in (custom, *({name: value} for name, value in custom.items())):
        identity = run_id(dataclasses.replace(TINY, **each), data, split, "code")
        assert re.fullmatch(r"[\w.-]{1,150}", identity), identity


def test_a_changed_default_is_another_run(data, tmp_path, monkeypatch):
    """The hash is of values: a student may edit a default instead of naming a field."""
    split = make_split(data, TINY.split)
    ids = {
        run_id(config, data, split, "code") for config in (TINY, dataclasses.replace(TINY, lr=1e-4))
    }
    assert len(ids) == 2
    assert (
        run_id(dataclasses.replace(TINY, split="auto", device="auto"), data, split, "code") in ids
    )


def test_damaged_run_is_left_out_and_named(data, tmp_path, capsys):
    config = dataclasses.replace(TINY, epochs=1)
    broken = fit(config, data, tmp_path)
    resaved = (
        (broken.folder / "history.csv").read_text().replace(",", ";")
    )  # as a spreadsheet may write it
    for damaged, text in (("history.csv", resaved), ("history.csv", ""), ("run.json", "")):
        (broken.folder / damaged).write_text(text)
        run = fit(dataclasses.replace(config, seed=1), data, tmp_path)
        assert [found.id for found in finished_runs(tmp_path)] == [run.id]
        assert broken.id in capsys.readouterr().out


def test_folders_that_were_swapped_are_named(data, tmp_path, capsys):
    one, other = (
        fit(dataclasses.replace(TINY, epochs=1, seed=seed), data, tmp_path) for seed in (1, 2)
    )
    aside = tmp_path / "aside"
    one.folder.rename(aside)
    other.folder.rename(one.folder)
    aside.rename(other.folder)
    assert finished_runs(tmp_path) == []
    assert f"is the folder of {other.id}; give it that name" in capsys.readouterr().out
    with pytest.raises(KitError, match=f"is the folder of {other.id}"):
        fit(dataclasses.replace(TINY, epochs=1, seed=1), data, tmp_path)


@pytest.mark.parametrize("name", ["history.csv", "cases.csv"])
def test_tables_that_were_edited_are_named(data, tmp_path, capsys, name):
    run = fit(dataclasses.replace(TINY, epochs=1), data, tmp_path)
    text = (run.folder / name).read_bytes()
    for harmless in (text.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + text, text.rstrip(b"\n")):
        (run.folder / name).write_bytes(harmless)
        assert [one.id for one in finished_runs(tmp_path)] == [run.id]
        assert fit(run.config, data, tmp_path).dsc == run.dsc
    edited = text[:-4] + bytes([text[-4] ^ 1]) + text[-3:]
    (run.folder / name).write_bytes(edited)
    assert finished_runs(tmp_path) == []
    assert f"{name}: is not what the training wrote" in capsys.readouterr().out
    with pytest.raises(KitError, match="is not what the training wrote; restore it, or move"):
        fit(run.config, data, tmp_path)
    (run.folder / name).write_bytes(text)
    assert fit(run.config, data, tmp_path).dsc == run.dsc


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "null",
        "{",
        '{"status": "finished"}',
        '{"status": "finished", "plans": null}',
    ],
)
def test_an_odd_run_stops_no_other(beside, content):
    out, run, odd = beside
    (odd / "run.json").write_text(content)
    assert [one.id for one in finished_runs(out)] == [run.id]
    write_result_csvs(out)
    attempts, _ = read_attempts(out)
    assert run.id in {attempt.run.id for attempt in attempts}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plans", None),
        ("plans", [None]),
        ("tables", {}),
        ("split", {}),
        ("data", None),
        ("code", {}),
        ("config", []),
        ("config", {"epoch": 3}),
        ("precision", None),
        ("best", 3),
    ],
)
def test_a_field_of_another_kind_stops_no_other(beside, field, value):
    out, run, odd = beside
    (odd / "run.json").write_text(json.dumps({**run.info, "id": "odd", field: value}))
    assert [one.id for one in finished_runs(out)] == [run.id]
    write_result_csvs(out)
    attempts, _ = read_attempts(out)
    assert run.id in {attempt.run.id for attempt in attempts}


def test_odd_runs_do_not_keep_others_from_being_trained(data, tmp_path):
    for name, content in (("a", "{}"), ("b", "["), ("c", '{"config": 3, "data": null}')):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(content)
    assert fit(dataclasses.replace(TINY, epochs=1), data, tmp_path).info["status"] == "finished"


def test_a_plan_needs_a_name(data, tmp_path):
    with pytest.raises(KitError, match="plan: expected the name of an experiment, got None"):
        fit(TINY, data, tmp_path, plan=None)
    assert not (tmp_path / "runs").exists()


def test_a_run_of_fewer_epochs_is_named(data, tmp_path, capsys):
    one = fit(dataclasses.replace(TINY, epochs=1), data, tmp_path)
    capsys.readouterr()
    fit(dataclasses.replace(TINY, epochs=2), data, tmp_path)
    said = f"{one.id} is the same recipe with 1 epochs, not 2; this run begins anew"
    assert said in capsys.readouterr().out
    fit(dataclasses.replace(TINY, epochs=2, seed=9), data, tmp_path)
    assert "same recipe" not in capsys.readouterr().out


def test_what_a_killed_process_left_in_the_folder_is_removed(data, tmp_path):
    run = fit(dataclasses.replace(TINY, epochs=1), data, tmp_path)
    left, mine = run.folder / ".last.pt.a1b2c3_9.kit-partial", run.folder / "notes.txt"
    left.touch()
    mine.touch()
    fit(run.config, data, tmp_path)
    assert not left.exists() and mine.exists()


def test_other_threads_are_recorded_and_said(data, tmp_path, capsys, monkeypatch):
    keep = Record.keep

    def interrupted(self, *args):
        keep(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Record, "keep", interrupted)
        fit(TINY, data, tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        run = fit(TINY, data, tmp_path)
    finally:
        torch.set_num_threads(before)
    said = capsys.readouterr().out
    assert f"threads) instead of cpu ({platform.machine()}, {before} thread" in said
    assert f"{before + 1} threads" in run.info["device"]
    assert len(run.info["earlier"]) == 1


def test_run_of_this_data_is_found(data, kaggle_folder, tmp_path):
    config = dataclasses.replace(TINY, epochs=1)
    other = load_data(kaggle_folder(NAMES[:4]), TINY.image_size)
    runs = [fit(config, some, tmp_path) for some in (data, other)]
    assert [find_run(tmp_path, some).id for some in (data, other)] == [run.id for run in runs]
    with pytest.raises(KitError, match="kaggle_3m"):
        find_run(tmp_path, load_data(kaggle_folder(NAMES[1:4]), TINY.image_size))


def test_patients_may_bear_numbers(kaggle_folder, tmp_path):
    names = ("001", "002", "003", "NA")
    data = load_data(kaggle_folder(names), TINY.image_size)
    run = fit(dataclasses.replace(TINY, epochs=1, split="fold-1-of-2"), data, tmp_path)
    assert list(run.cases["patient"]) == list(run.info["split"]["validation"])
    other = fit(dataclasses.replace(TINY, epochs=1, split="fold-2-of-2"), data, tmp_path)
    assert set(run.cases["patient"]) | set(other.cases["patient"]) == set(names)


def test_a_second_process_says_that_it_waits(tmp_path, capsys):
    folder = RunFolder(tmp_path, "run")
    entered = []

    def second():
        with RunFolder(tmp_path, "run").lock():
            entered.append(1)

    with ThreadPoolExecutor(1) as pool:
        with folder.lock():
            waiting = pool.submit(second)
            said, until = "", time.monotonic() + 20
            while "waiting" not in said and time.monotonic() < until:
                time.sleep(0.05)
                said += capsys.readouterr().out
            assert "waiting" in said and not entered
        waiting.result(timeout=5)
    assert entered


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda info: info["config"].update(lr=0.5), "config, data, split or code"),
        (lambda info: info["split"]["train"].pop(), "config, data, split or code"),
        (lambda info: info["best"].update(val_dsc=0.99), "best epoch"),
        (lambda info: info["best"].update(epoch=2), "best epoch"),
    ],
)
def test_a_run_json_that_tells_of_another_run_is_named(data, tmp_path, capsys, edit, what):
    run = fit(dataclasses.replace(TINY, epochs=1), data, tmp_path)
    info = json.loads((run.folder / "run.json").read_text())
    edit(info)
    (run.folder / "run.json").write_text(json.dumps(info))
    assert finished_runs(tmp_path) == []
    assert f"run.json: its {what} was edited; restore it" in capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [4096, 4])
def test_no_more_slices_are_counted_than_there_are(data, tmp_path, batch_size):
    run = fit(dataclasses.replace(TINY, epochs=1, batch_size=batch_size), data, tmp_path)
    there = len(data.slices(tuple(run.info["split"]["train"])))
    learnt = run.info["slices_per_s"] * run.info["seconds"]
    assert 0 < learnt <= there * 1.01
