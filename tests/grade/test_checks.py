"""Each check of a claim on its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest

from lib.config import Config
from lib.grade.checks import check_history, lib_diff
from lib.logger import BEST_CSV, TRAIN_CSV, stated_id
from tests.grade.demo import edit_json, edit_table, run_of, sign


def found(result: dict) -> list[str]:
    """Names of what was found, notes left out."""
    return [finding.name for finding in result["findings"] if finding.level != "note"]


def test_an_honest_one_is_clean(examine, ada):
    result = examine(ada)
    assert (result["status"], result["student"], found(result), result["diff"]) == (
        "computed",
        "ada",
        [],
        {},
    )
    assert [finding.name for finding in result["findings"]] == []


def test_a_run_is_checked_in_both_result_csvs(examine, ada):
    """Its plan is in the second; the first alone was looked at."""
    train = {f"result/{TRAIN_CSV}": ada[f"result/{BEST_CSV}"]}
    assert found(examine({**ada, **train})) == []
    worse = edit_table(ada[f"result/{BEST_CSV}"], lambda table: table.assign(val_dsc=0.0))
    assert found(examine({**ada, f"result/{TRAIN_CSV}": worse})) == ["tables disagree"]


def test_a_run_that_no_result_csv_lists_is_named(examine, ada):
    def with_run(**changes):
        info = edit_json(ada[f"{run_of(ada)}/run.json"], **changes)
        return examine({**ada, "result/runs/hidden/run.json": info})

    result = with_run()
    assert found(result) == ["unlisted runs"]
    assert "result/runs has them: hidden." in result["findings"][-1].text
    [run] = [one for one in result["written"].runs if one.run == "hidden"]
    assert run.problem.startswith("in no result CSV")
    assert found(with_run(status="running")) == []
    assert found(with_run(split={"name": "all", "train": ["x"], "validation": []})) == []
    assert found(examine({**ada, "result/runs/hidden/run.json": b"{"})) == ["unlisted runs"]


def test_the_contents_of_the_folder_of_results_are_graded(examine, ada):
    """As somebody zips them who opens that folder first."""
    inside = {name.removeprefix("result/"): ada[name] for name in ada if name.startswith("result/")}
    result = examine(inside)
    assert (result["status"], found(result)) == ("computed", ["lib missing"])
    wrong = {f"a/{name}": content for name, content in inside.items()} | {"b.py": b""}
    [finding] = examine(wrong)["findings"]
    assert (
        f"are missing (a/{BEST_CSV} is in no such folder); submit what pack makes" in finding.text
    )


def change(name, *path):
    """A submission with one table changed and signed anew: each edit is a lambda on the table."""

    def apply(files, edit):
        run = run_of(files)
        return sign({**files, f"{run}/{name}": edit_table(files[f"{run}/{name}"], edit)})

    return apply


@pytest.mark.parametrize(
    ("table", "edit", "expected"),
    [
        ("cases.csv", lambda t: t.assign(dsc_native=t["dsc_native"] + 0.01), "impossible numbers"),
        (
            "cases.csv",
            lambda t: t.assign(
                fn=t["fn"] + 100,
                dsc_native=2 * t["tp"] / (2 * t["tp"] + t["fp"] + t["fn"] + 100),
                iou=t["tp"] / (t["tp"] + t["fp"] + t["fn"] + 100),
                recall=t["tp"] / (t["tp"] + t["fn"] + 100),
            ),
            "impossible numbers",
        ),
        ("cases.csv", lambda t: t.iloc[:-1], "tables disagree"),
        ("cases.csv", lambda t: t.assign(dsc=t["dsc"] + 0.01), "tables disagree"),
        ("history.csv", lambda t: t.iloc[:-1], "tables disagree"),
        ("history.csv", lambda t: t.assign(epoch=t["epoch"] + 1), "history implausible"),
        ("history.csv", lambda t: t.assign(lr=0.5), "history implausible"),
    ],
)
def test_a_table_was_edited(examine, ada, table, edit, expected):
    assert expected in found(examine(change(table)(ada, edit)))


def test_files_that_are_not_as_the_run_left_them(examine, ada):
    name = f"{run_of(ada)}/history.csv"
    assert "files changed" in found(examine({**ada, name: ada[name].replace(b"1", b"2", 1)}))


@pytest.mark.parametrize(
    "through",
    [
        lambda text: text.replace(b"\n", b"\r\n"),  # git's autocrlf
        lambda text: b"\xef\xbb\xbf" + text,  # an editor of Windows
        lambda text: text.rstrip(b"\n"),
        lambda text: text + b"\n",
    ],
)
def test_what_other_programs_do_to_the_ends_of_lines_costs_nothing(examine, ada, through):
    tables = {f"{run_of(ada)}/{name}" for name in ("history.csv", "cases.csv")}
    result = examine({name: through(c) if name in tables else c for name, c in ada.items()})
    assert (result["status"], found(result)) == ("computed", [])


def test_a_recipe_that_the_id_does_not_tell(examine, ada):
    name = f"{run_of(ada)}/run.json"
    config = {**json.loads(ada[name])["config"], "weight_decay": 0.1}
    assert {"run id does not fit", "checkpoint of another run"} <= set(
        found(examine({**ada, name: edit_json(ada[name], config=config)}))
    )


def test_another_version_of_the_kit(examine, ada):
    """The first version made ids in another way: they cannot be computed again."""
    name = f"{run_of(ada)}/run.json"
    assert found(examine({**ada, name: edit_json(ada[name], schema=1)})) == ["other version"]


def test_a_field_that_the_run_did_not_know_does_not_matter(examine, ada):
    """And one that this version does not know is named."""
    name = f"{run_of(ada)}/run.json"
    config = json.loads(ada[name])["config"]
    older = {key: value for key, value in config.items() if key != "tta"}
    assert found(examine({**ada, name: edit_json(ada[name], config=older)})) == []
    result = examine({**ada, name: edit_json(ada[name], config=config | {"colour": "red"})})
    assert result["status"] != "computed" and "Config.colour" in str(result["findings"])


def as_run(files, **changes):
    """The submission with other fields in run.json, and the id that they give."""
    run = run_of(files)
    info = {**json.loads(files[f"{run}/run.json"]), **changes}
    old, new = run.rpartition("/")[2], stated_id(info)
    moved = {name.replace(old, new): content for name, content in files.items()}
    for name in ("submission.json", f"result/{BEST_CSV}"):
        moved[name] = moved[name].replace(old.encode(), new.encode())
    moved[f"result/runs/{new}/run.json"] = json.dumps({**info, "id": new}).encode()
    return moved


def test_other_data_and_other_code(examine, ada):
    result = examine(as_run(ada, data={"sha256": "0"}, code={"sha256": "0"}))
    assert found(result) == ["other data"]
    assert [finding.name for finding in result["findings"] if finding.level == "note"] == [
        "other code"
    ]


def test_the_id_is_computed_of_what_run_json_states(examine, ada):
    """Neither data nor a field that are not the grader's pass the check by."""
    name = f"{run_of(ada)}/run.json"
    info = json.loads(ada[name])
    data = {**info["data"], "sha256": "0"}
    assert "run id does not fit" in found(examine({**ada, name: edit_json(ada[name], data=data)}))
    config = {key: value for key, value in info["config"].items() if key != "lr"}
    assert "run id does not fit" in found(
        examine({**ada, name: edit_json(ada[name], config=config)})
    )


def lib_of(files, folder):
    """Write the submitted lib below a folder and return it."""
    for name, content in files.items():
        if name.startswith("lib/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder / "lib"


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\n\n# mine\n" + text + b"\n\n",
        lambda text: text.replace(b'"""', b'"""Mine. ', 1),
        lambda text: b"# -*- coding: latin-1 -*-\n" + text,
    ],
)
def test_what_python_parses_alike_is_unchanged(ada, tmp_path, edit):
    lib = lib_of(ada, tmp_path)
    for name in ("metrics.py", "grade/run.py"):
        (lib / name).write_bytes(edit((lib / name).read_bytes()))
    assert lib_diff(lib) == {}


@pytest.mark.parametrize(
    "edit",
    [
        # a form feed ends a line for some readers, but not for Python
        lambda text: text + b"# so\x0c\nraise SystemExit\n",
        lambda text: text.replace(b"import numpy as np", b"import numpi as np"),
        lambda text: b"# coding: utf-7\n+AHIAYQBpAHMAZQ- SystemExit\n" + text,
        lambda text: text + b"\0",
        lambda text: b"(" * 10**5,
        lambda text: text + b"x = " + b"-" * 5 * 10**4 + b"1\n",
    ],
)
def test_what_python_parses_otherwise_is_a_change(ada, tmp_path, edit):
    lib = lib_of(ada, tmp_path)
    (lib / "metrics.py").write_bytes(edit((lib / "metrics.py").read_bytes()))
    assert list(lib_diff(lib)) == ["metrics.py"]


def test_a_claim_that_is_too_low_is_a_note(examine, ada):
    """And one that is too high is a fault; the weights are the same, the tables are rewritten."""
    for shift, expected in ((-0.006, ("note", "claim too low")), (0.006, ("fault", "claim not"))):
        result = examine(shifted(ada, shift))
        about = [f for f in result["findings"] if f.name.startswith("claim")]
        assert [(f.level, f.name[: len(expected[1])]) for f in about] == [expected]


def shifted(files, shift):
    """The submission with every DSC moved, in all tables."""
    run = run_of(files)
    info = json.loads(files[f"{run}/run.json"])
    best = {**info["best"], "val_dsc": info["best"]["val_dsc"] + shift}

    def move(table, name):
        return table.assign(**{name: table[name] + shift * (table[name] > 0.01)})

    tables = {
        f"{run}/cases.csv": "dsc",
        f"{run}/history.csv": "val_dsc",
        f"result/{BEST_CSV}": "val_dsc",
    }
    changed = {
        name: edit_table(files[name], lambda table, column=column: move(table, column))
        for name, column in tables.items()
    }
    run_json = edit_json(files[f"{run}/run.json"], best=best)
    return sign({**files, **changed, f"{run}/run.json": run_json})


HUGE = 10**400  # JSON and CSV may contain it, and no float can hold it


@pytest.mark.parametrize(
    ("change", "status"),
    [({"best": {"epoch": 1, "val_dsc": HUGE}}, "incomplete"), ({}, "computed")],
)
def test_a_number_that_no_float_can_hold_is_none(examine, ada, change, status):
    run = f"{run_of(ada)}/run.json"
    result = examine({**ada, run: edit_json(ada[run], seconds=HUGE, **change)})
    assert result["status"] == status and "time" not in result["prints"]
    assert [one.seconds for one in result["written"].runs] == [None]


def test_a_cell_that_no_float_can_hold_is_named(examine, ada):
    history = f"{run_of(ada)}/history.csv"
    huge = edit_table(ada[history], lambda table: table.assign(epoch=[str(HUGE)] * len(table)))
    result = examine({**ada, history: huge})
    assert result["status"] == "incomplete"
    assert result["findings"][-1].text.startswith("history.csv: epoch of row 1 is '1000")


@pytest.mark.parametrize(("moved", "level"), [(1, "review"), (2, "fault")])
def test_cases_are_compared_patient_by_patient(examine, ada, moved, level):
    """Their mean is right within the tolerance."""
    cases = f"{run_of(ada)}/cases.csv"

    def edit(table):
        change = [0.05, 0.04][:moved]
        table.loc[: moved - 1, "dsc"] += change
        return table

    result = examine(sign({**ada, cases: edit_table(ada[cases], edit)}), tolerance=0.05)
    about = [f for f in result["findings"] if f.name == "patients not reproduced"]
    assert [f.level for f in about] == [level]


def test_a_claim_that_is_too_low_hides_no_other_weights(examine, ada):
    """Weights of a network that is a little better, and right in other patients."""
    cases = f"{run_of(ada)}/cases.csv"

    def edit(table):
        best, worst = table["dsc"].idxmax(), table["dsc"].idxmin()
        table.loc[[best, worst], "dsc"] += [-0.05, 0.05]
        return table

    files = shifted({**ada, cases: edit_table(ada[cases], edit)}, -0.01)
    result = examine(files, tolerance=0.005)
    assert [(one.level, one.name) for one in result["findings"]] == [
        ("note", "claim too low"),
        ("fault", "patients not reproduced"),
    ]


def with_second_run(files, slices=0, **data):
    """The submission with a second, honest run: the same, as another seed would have it.

    Args:
        slices: so many more than there are, of each patient.
        data: what its run.json says of its data.
    """
    run = run_of(files)
    info = json.loads(files[f"{run}/run.json"])
    info["config"]["seed"] += 1
    info["data"] |= data
    info["id"] = name = stated_id(info)
    table = f"result/{BEST_CSV}"
    second = edit_table(files[table], lambda rows: rows.assign(run_id=name))
    cases = files[f"{run}/cases.csv"]
    if slices:
        cases = edit_table(cases, lambda rows: rows.assign(slices=rows["slices"] + slices))
        info["sha256"]["cases.csv"] = hashlib.sha256(cases).hexdigest()
    more = {
        f"result/runs/{name}/run.json": json.dumps(info).encode(),
        f"result/runs/{name}/history.csv": files[f"{run}/history.csv"],
        f"result/runs/{name}/cases.csv": cases,
    }
    rows = files[table] + b"".join(second.splitlines(keepends=True)[1:])
    return {**files, **more, table: rows}, name


def test_every_run_of_a_comparison_is_checked(examine, ada):
    files, name = with_second_run(ada)
    assert found(examine(files)) == []
    history = f"result/runs/{name}/history.csv"
    for invented in (
        {history: files[history].replace(b"0.", b"0.9", 5)},
        {f"result/runs/{name}/cases.csv": b"patient\n"},
        {f"result/runs/{name}/run.json": edit_json(files[f"result/runs/{name}/run.json"], best=1)},
    ):
        result = examine({**files, **invented})
        assert found(result) == ["another run is not as it was trained"]
        assert name in result["findings"][-1].text
    without = {key: content for key, content in files.items() if f"runs/{name}" not in key}
    assert found(examine(without)) == ["another run is not as it was trained"]


def test_an_older_run_on_another_phantom_is_not_compared_with_this_one(examine, ada):
    """Phantoms of all seeds have the same names, but not the same slices."""
    assert found(examine(with_second_run(ada, 1)[0])) == ["another run is not as it was trained"]
    assert found(examine(with_second_run(ada, 1, sha256="0" * 64)[0])) == []


def test_a_lib_that_is_not_there_or_takes_the_place_of_a_module(examine, ada):
    without = {name: content for name, content in ada.items() if not name.startswith("lib/")}
    result = examine(without)
    assert [(one.level, one.name) for one in result["findings"]] == [("review", "lib missing")]
    assert result["status"] == "computed"
    folder = {"lib/metrics/__init__.py": b"", "lib/metrics_of_mine.py": b""}
    result = examine({**ada, **folder})
    first, second = result["findings"]
    assert (first.name, second.name) == ("metric edited", "lib changed")
    assert "lib/metrics/__init__.py:" in first.text and "lib/metrics_of_mine.py:" in second.text


def test_what_editors_hide_in_the_kits_lib_is_no_change(ada, tmp_path, monkeypatch):
    theirs = lib_of(ada, tmp_path)
    kit = shutil.copytree(theirs, tmp_path / "kit")
    (kit / ".ipynb_checkpoints").mkdir()
    (kit / ".ipynb_checkpoints" / "loss-checkpoint.py").write_text("")
    (kit / ".#loss.py").symlink_to("ada@laptop.4711")
    monkeypatch.setattr(sys.modules["lib.grade.checks"], "LIB", kit)
    assert lib_diff(theirs) == {}


def test_sixty_thousand_epochs_of_plateau_take_seconds():
    """The time to compute a rate grows with the epochs before it."""
    epochs = 60_000
    history = pd.DataFrame({"epoch": range(1, epochs + 1), "lr": 1e-4, "val loss": 0.5})
    history["val_dsc"] = 0.0
    config = Config(epochs=epochs, lr_scheduler="plateau")
    run = SimpleNamespace(history=history, config=config, info={"best": {"epoch": 1}})
    began = time.perf_counter()
    assert [finding.name for finding in check_history(run)] == ["history implausible"]
    assert time.perf_counter() - began < 60


@pytest.mark.parametrize(
    ("patience", "scores", "fault"),
    [
        (0, [0.1, 0.3, 0.2, 0.2], False),
        (0, [0.1, 0.3, 0.2], True),
        (2, [0.1, 0.3, 0.2, 0.2], False),
        (1, [0.1, 0.3, 0.2, 0.2], True),  # it went on
        (1, [0.1, 0.3, 0.2], False),
        (2, [0.1, 0.3, 0.2], True),  # it was cut off
    ],
)
def test_a_run_ends_where_early_stopping_ends_it(patience, scores, fault):
    history = pd.DataFrame({"epoch": range(1, len(scores) + 1), "lr": 1e-4, "val loss": 0.5})
    config = Config(epochs=4, patience=patience)
    info = {"best": {"epoch": 2}}
    run = SimpleNamespace(history=history.assign(val_dsc=scores), config=config, info=info)
    assert bool(list(check_history(run))) is fault


def test_the_lib_that_was_handed_in_is_compared_and_never_imported(ada, tmp_path):
    (tmp_path / "lib" / "own").mkdir(parents=True)
    for name, content in ada.items():
        if name.startswith("lib/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    with open(tmp_path / "lib" / "metrics.py", "a", encoding="utf-8") as metrics:
        metrics.write("raise SystemExit\n")
    (tmp_path / "lib" / "own" / "new.py").write_text("raise SystemExit\n")
    (tmp_path / "lib" / "optim.py").unlink()
    (tmp_path / "lib" / "grade" / "rubric.py").write_text("raise SystemExit\n")
    diff = lib_diff(tmp_path / "lib")
    assert "+raise SystemExit" in diff["grade/rubric.py"]
    assert list(diff) == ["grade/rubric.py", "metrics.py", "optim.py", "own/new.py"]
    assert "+raise SystemExit" in diff["metrics.py"]
    assert (diff["optim.py"], diff["own/new.py"]) == (["removed"], ["added: 1 lines"])
    assert lib_diff(tmp_path / "nowhere") == {}
