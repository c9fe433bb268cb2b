"""Handing in: what goes into the zip, and what is refused before a grader sees it."""

import json
import shutil
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lib.config import changes
from lib.dataset import load_data
from lib.grade import pack
from lib.grade.__main__ import main
from lib.grade.archive import unpack
from lib.grade.result import Finding
from lib.grade.submission import READ, read_submission
from lib.logger import checkpoint_hashes, find_run
from lib.notebook.cells import question_hash
from lib.notebook.course import Course, read_course
from lib.notebook.solutions import without_solutions
from lib.predict import default_weights
from lib.train import fit
from lib.utils import PROJECT, KitError
from tests.grade.demo import RECIPE
from tests.runtime.test_cli import command


@pytest.fixture
def out(hand_ins, tmp_path):
    """Results of an honest student."""
    shutil.copytree(
        hand_ins / "results" / "ada", tmp_path / "result", ignore=shutil.ignore_patterns("*.zip")
    )
    return tmp_path / "result"


def test_a_result_csv_of_runs_that_are_gone_is_not_submitted(out):
    """Students are told to move a run away: its rows would hold the submission."""
    (out / "uexec_result_train.csv").write_text("run_id,val_dsc\ngone,0.9\n")
    receipt = pack("ada", out, quick=True)
    with zipfile.ZipFile(receipt.file) as bundle:
        names = {name for name in bundle.namelist() if name.endswith(".csv") and "runs" not in name}
    assert names == {"result/uexec_result_best.csv"}
    assert not any("a grader would hold this" in remark for remark in receipt.remarks)


def test_what_is_in_it(out, tmp_path):
    receipt = pack("ada", out, quick=True)
    with zipfile.ZipFile(receipt.file) as bundle:
        names = set(bundle.namelist())
    run = f"result/runs/{receipt.run_id}"
    assert {
        f"{run}/{name}" for name in ("run.json", "history.csv", "cases.csv", "best.pt")
    } <= names
    assert {
        "submission.json",
        "result/uexec_result_best.csv",
        "lib/metrics.py",
        "train_best.ipynb",
    } <= names
    assert not [
        name for name in names if name.endswith(("last.pt", ".tif")) or name.startswith("data")
    ]
    unpack(receipt.file, tmp_path / "unpacked", READ)
    read = read_submission(tmp_path / "unpacked")
    assert (read.student, read.run_id) == ("ada", receipt.run_id)
    assert read.claimed == pytest.approx(receipt.claimed)
    assert receipt.sha256[:12] in str(receipt) and f"{receipt.claimed:.4f}" in str(receipt)
    assert receipt.recipe == changes(read.config) and f"its recipe     {receipt.recipe}\n" in str(
        receipt
    )


def test_without_an_id_nothing_is_written(out):
    receipt = pack(None, out, quick=True)
    assert receipt.file is None and not list(out.glob("*.zip"))
    assert "- nothing was written: say who you are, and pack again" in str(receipt)
    for quick in (True, False):
        with pytest.raises(KitError, match="put your own id in its place"):
            pack("your-id", out, quick=quick)


def test_a_team_with_long_ids_has_a_zip(out):
    """All ids are in the zip, though not in its name."""
    team = "+".join(f"{'x' * 60}{number}" for number in range(5))
    receipt = pack(team, out, quick=True)
    assert receipt.student == team and len(receipt.file.name) == 204
    receipt.file.unlink()


def copy_run(out, name, dsc, **changes):
    """A further run of another DSC; sections of run.json are merged."""
    ada = next(run for run in out.glob("runs/*") if "seed" in run.name)
    folder = out / "runs" / name
    shutil.copytree(ada, folder)
    info = json.loads((folder / "run.json").read_text())
    info["best"] |= {"epoch": 1, "val_dsc": dsc}
    for key, value in changes.items():
        info[key] = info[key] | value if isinstance(value, dict) else value
    (folder / "run.json").write_text(json.dumps(info))
    for file, column in (("cases.csv", "dsc"), ("history.csv", "val_dsc")):
        table = pd.read_csv(folder / file)
        table.assign(**{column: dsc}).to_csv(folder / file, index=False)
    sign(folder)
    return folder


def test_patients_come_before_phantoms_and_the_receipt_names_the_data(out, monkeypatch):
    """A phantom run with a higher DSC is of another data set."""
    patients = {"name": "kaggle_3m", "phantom": False, "sha256": "1"}
    copy_run(out, "on-patients", 0.1, data=patients)
    receipt = pack("ada", out, quick=True)
    assert receipt.run_id == "on-patients"
    assert "data           kaggle_3m, 5 patients to learn from, 4 scored" in str(receipt)
    asked = SimpleNamespace(
        fingerprint=json.loads(next(out.glob("runs/*seed*/run.json")).read_text())["data"][
            "sha256"
        ],
        name="phantom",
        root=out,
    )
    assert pack("ada", out, quick=True, data=asked).run_id != "on-patients"
    asked.fingerprint = "of nobody"
    with pytest.raises(KitError, match="no finished run on phantom"):
        pack("ada", out, quick=True, data=asked)


def test_the_receipt_names_a_better_run_of_the_same_data(out):
    copy_run(out, "of-train", 0.95, plans=["loss"], tables={"loss": "train"})
    receipt = pack("ada", out, quick=True)
    assert receipt.run_id != "of-train"
    assert "a better run   of-train: 0.9500; name it to submit it" in str(receipt)
    assert "a better run" not in str(pack("ada", out, "of-train", quick=True))


def test_the_receipt_tells_the_points_where_the_scale_is_public(out, tmp_path, monkeypatch):
    assert "points" not in pack("ada", out, quick=True).about
    (tmp_path / "rubric.toml").write_text(
        "[dsc]\nscale = [[0.1, 0], [0.2, 40]]\n[columns]\nreport = 60\n"
    )
    monkeypatch.setattr(sys.modules["lib.grade.pack"], "RUBRIC", tmp_path / "rubric.toml")
    about = pack("ada", out, quick=True).about
    assert about["points"] == "40 of 40 for this DSC, by rubric.toml"


def test_the_receipt_tells_of_a_team_that_is_too_large_where_the_rubric_is_public(
    out, tmp_path, monkeypatch
):
    assert not any("team" in remark for remark in pack("ada+bela", out, quick=True).remarks)
    scale = "[dsc]\nscale = [[0.1, 0], [0.2, 40]]\n[columns]\nreport = 60\n"
    monkeypatch.setattr(sys.modules["lib.grade.pack"], "RUBRIC", tmp_path / "rubric.toml")
    for most, said in ((1, True), (2, False)):
        (tmp_path / "rubric.toml").write_text(f"team = {most}\n{scale}")
        remarks = pack("ada+bela", out, quick=True).remarks
        assert (
            any(remark.startswith("you are a team of 2, but at most 1") for remark in remarks)
            == said
        )


def test_the_receipt_tells_what_a_grader_would_hold_in_other_runs(out):
    folder = copy_run(out, "forged", 0.2, plans=["loss"], tables={"loss": "train"})
    table = pd.read_csv(folder / "history.csv")
    table.assign(lr=0.5).to_csv(folder / "history.csv", index=False)
    sign(folder)
    assert "- a grader would hold this: forged: history.csv: the learning rate" in str(
        pack("ada", out, quick=True)
    )


def test_the_receipt_tells_what_is_unwritten_and_was_not_run(out, tmp_path, monkeypatch):
    question = "**Your analysis.** Why?"
    cells = [
        {"cell_type": "markdown", "source": [question], "metadata": {"question": asked}}
        for asked in (question_hash(question), question_hash("another"))
    ]
    cells += [
        {"cell_type": "code", "source": ["1"], "execution_count": count, "metadata": {}}
        for count in (1, None)
    ]
    kit = tmp_path / "kit"
    (kit / "lib").mkdir(parents=True)
    (kit / "train.ipynb").write_text(json.dumps({"cells": cells}))
    (kit / "broken.ipynb").write_text("[")
    module = sys.modules["lib.grade.pack"]
    monkeypatch.setattr(module, "PROJECT", kit)
    source = without_solutions((PROJECT / "exercises.py").read_text(encoding="utf-8"))
    (kit / "exercises.py").write_text(source.replace("# YOUR TURN", "return 1  #", 1))
    [of_seed, *remarks] = pack("ada", out, quick=True).remarks
    assert of_seed.startswith("the run has seed 0, not that of ada")
    assert remarks == [
        "nobody can read this: broken.ipynb: is no notebook; save it in Jupyter again",
        "train.ipynb: 1 of 2 cells were not run, or saved without outputs",
        "analysis: 1 of 2 answers written",
        f"exercises.py: 1 of {len(read_course().exercises)} exercises written",
    ]
    (kit / "exercises.py").write_text("def (")
    remarks = pack("ada", out, quick=True).remarks
    assert remarks[-1] == "exercises.py: cannot be read (SyntaxError)"


def test_a_seed_that_is_nobodys_is_told(out):
    run = find_run(out, run_id=pack("ada", out, quick=True).run_id)
    said = f"the run has seed {run.config.seed}, not that of ada"
    assert any(remark.startswith(said) for remark in pack("ada", out, quick=True).remarks)
    assert not any("has seed" in remark for remark in pack(None, out, quick=True).remarks)


@pytest.mark.parametrize(("further", "told"), [(0, False), (3, False), (31, False), (32, True)])
def test_a_few_seeds_in_a_row_are_the_students(out, monkeypatch, further, told):
    seed = find_run(out, run_id=pack("ada", out, quick=True).run_id).config.seed
    monkeypatch.setattr("lib.config.seed_of", lambda student: seed - further)
    assert told is any("has seed" in remark for remark in pack("ada", out, quick=True).remarks)


def test_the_course_says_which_data_count(out, monkeypatch):
    module = sys.modules["lib.grade.pack"]
    run = pack("ada", out, quick=True).run_id
    monkeypatch.setattr(module, "read_course", lambda: Course(data="kaggle"))
    for asked in (None, run):
        with pytest.raises(KitError, match=r"course\.toml asks for kaggle; train on that"):
            pack("ada", out, asked, quick=True)
    monkeypatch.setattr(module, "read_course", lambda: Course(data="phantom"))
    assert pack("ada", out).run_id == run  # its profile is quick


def test_the_folder_of_an_own_network_goes_along(out, tmp_path, monkeypatch):
    kit = tmp_path / "kit"
    for name in ("nets/mine.py", "nets/deep/helper.py", "other/x.py", "alone.py", "lib/x.py"):
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_text("")
    monkeypatch.setattr(sys.modules["lib.grade.pack"], "PROJECT", kit)
    file = next(out.glob("runs/*/run.json"))
    info = json.loads(file.read_text())
    config = info["config"] | {"loss": "nets.mine:Loss"}
    file.write_text(json.dumps(info | {"config": config}))
    sign(file.parent)
    with zipfile.ZipFile(pack("ada", out, quick=True).file) as bundle:
        names = {name for name in bundle.namelist() if name.endswith(".py")}
    of_lib = {name for name in names if name.startswith("lib/")}
    assert names - of_lib == {"nets/mine.py", "nets/deep/helper.py", "alone.py"}
    # wherever the kit is: installed by pip it is not beside the notebooks
    assert "lib/x.py" not in of_lib and {"lib/loss.py", "lib/plot/style.py"} <= of_lib


def test_what_editors_hide_and_folders_named_as_files_stop_nothing(out, tmp_path, monkeypatch):
    kit = tmp_path / "kit"
    for name in ("scratch.py", "old.ipynb", "lib", ".ipynb_checkpoints"):
        (kit / name).mkdir(parents=True)
    for name in ("alone.py", "._alone.py", ".ipynb_checkpoints/alone-checkpoint.py"):
        (kit / name).write_text("")
    (out / "notebooks" / "old.ipynb").mkdir(parents=True)
    for folder in (kit, kit / "lib"):
        (folder / ".#loss.py").symlink_to("ada@laptop.4711")
    module = sys.modules["lib.grade.pack"]
    monkeypatch.setattr(module, "PROJECT", kit)
    monkeypatch.setattr(module, "LIB", kit / "lib")
    with zipfile.ZipFile(pack("ada", out, quick=True).file) as bundle:
        assert [name for name in bundle.namelist() if name.endswith((".py", ".ipynb"))] == [
            "alone.py"
        ]


def test_the_report_is_made_anew_without_images(out, tmp_path):
    (out / "report.html").write_text("old, with images of patients")
    (out / "report").mkdir(exist_ok=True)
    (out / "report" / "01-best-examples.png").write_bytes(b"a patient")
    with zipfile.ZipFile(pack("ada", out, quick=True).file) as bundle:
        names = bundle.namelist()
        page = bundle.read("result/report.html").decode()
    assert "result/report.md" in names
    assert "Examples of segmentations were left out." in page
    assert not [name for name in names if "examples" in name and not name.endswith(".py")]
    assert (out / "report.html").read_text() == "old, with images of patients"


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(KitError, match="no such folder"):
        pack("ada", tmp_path / "typo", quick=True)
    assert not (tmp_path / "typo").exists()


def sign(folder):
    """Note name and hashes in a run folder that was copied or edited.

    The id is as an older version wrote it: today's would tell that the settings were edited.
    """
    info = json.loads((folder / "run.json").read_text())
    info |= {"id": folder.name, "sha256": checkpoint_hashes(folder), "schema": 1}
    (folder / "run.json").write_text(json.dumps(info))


def test_a_fold_is_not_what_is_graded(out, tmp_path):
    """Its patients may be easier; without a manifest the grader chooses alike."""
    ada = next(out.glob("runs/*"))
    fold = out / "runs" / "fold"
    shutil.copytree(ada, fold)
    info = json.loads((fold / "run.json").read_text())
    info["split"] |= {"name": "fold-1-of-3", "validation": info["split"]["train"]}
    info["best"] |= {"epoch": 1, "val_dsc": 0.99}
    (fold / "run.json").write_text(json.dumps(info))
    cases = pd.read_csv(fold / "cases.csv")
    cases.assign(dsc=0.99).to_csv(fold / "cases.csv", index=False)
    history = pd.read_csv(fold / "history.csv")
    history.assign(val_dsc=0.99).to_csv(fold / "history.csv", index=False)
    sign(fold)
    receipt = pack("ada", out, quick=True)
    assert receipt.run_id == ada.name
    unpack(receipt.file, tmp_path / "unpacked", READ)
    (tmp_path / "unpacked" / "submission.json").unlink()
    assert read_submission(tmp_path / "unpacked").run_id == ada.name
    assert pack("ada", out, "fold", quick=True).run_id == "fold"


def test_a_fold_of_the_very_patients_of_the_split_counts(out):
    """A run keeps the name of the split that it was first trained for."""
    ada = next(out.glob("runs/*"))
    info = json.loads((ada / "run.json").read_text())
    for name, split, dsc in (("better", "fold-1-of-3", 0.99), ("worse", "holdout:10", 0.01)):
        shutil.copytree(ada, out / "runs" / name)
        info["split"]["name"] = split
        (out / "runs" / name / "run.json").write_text(json.dumps(info))
        pd.read_csv(ada / "cases.csv").assign(dsc=dsc).to_csv(
            out / "runs" / name / "cases.csv", index=False
        )
        sign(out / "runs" / name)
    assert pack("ada", out, quick=True).run_id == find_run(out).id == "better"
    data = SimpleNamespace(fingerprint=info["data"]["sha256"])
    assert default_weights(out, data) == out / "runs" / "better" / "best.pt"


def test_a_run_of_the_assignments_split_comes_first(out):
    """Fewer and easier patients give a higher DSC, which a grader holds."""
    ada = next(run for run in out.glob("runs/*"))
    info = json.loads((ada / "run.json").read_text())
    for table in ("best", "train"):  # in either table
        copy_run(
            out,
            f"easier-{table}",
            0.99,
            config={"split": "holdout:3"},
            split={"name": "holdout:3", "validation": info["split"]["validation"][:3]},
            tables={"x": table},
        )
    receipt = pack("ada", out, quick=True)
    assert receipt.run_id == ada.name and "would hold" not in str(receipt)
    chosen = pack("ada", out, "easier-best", quick=True)
    said = "- a grader would hold this: it is scored on the split holdout:3, not on that of auto; "
    assert said in str(chosen)
    same = copy_run(out, "same-patients", 0.99, config={"split": "holdout:4"})
    assert pack("ada", out, quick=True).run_id == same.name  # are those of auto


def test_a_run_folder_is_read_once(out, monkeypatch):
    folder = next(out.glob("runs/*"))
    unfinished = out / "runs" / "unfinished"
    shutil.copytree(folder, unfinished)
    info = json.loads((folder / "run.json").read_text())
    (unfinished / "run.json").write_text(json.dumps(info | {"status": "running"}))
    opened = []
    read_csv = pd.read_csv
    monkeypatch.setattr(
        pd, "read_csv", lambda file, **how: opened.append(file) or read_csv(file, **how)
    )
    monkeypatch.setattr(Path, "read_text", lambda file, **how: read_text(file, opened, **how))
    pack("ada", out, quick=True)
    counted = Counter(file for file in opened if isinstance(file, Path) and out in file.parents)
    for run in (folder, unfinished):
        assert counted[run / "run.json"] == counted[run / "history.csv"] == 1
    assert counted[folder / "cases.csv"] == 1


def read_text(file, opened, encoding=None):
    """Note that a file is read, and read it."""
    opened.append(file)
    return file.read_bytes().decode(encoding or "utf-8")


def test_the_same_files_give_the_same_receipt(out):
    assert pack("ada", out, quick=True) == pack("ada", out, quick=True)


def test_the_command(out, monkeypatch, capfd):
    status, text, _ = command(
        main, monkeypatch, capfd, "pack", "--student", "ada", "--out", str(out), "--quick"
    )
    assert status == 0 and "submitted by   ada" in text
    status, _, err = command(
        main, monkeypatch, capfd, "pack", "--student", "=ada", "--out", str(out), "--quick"
    )
    assert status == 2 and err.count("\n") == 1


def test_small_runs_only_when_asked_for(out):
    with pytest.raises(KitError, match="as small as the profile quick"):
        pack("ada", out)
    file = next(out.glob("runs/*/run.json"))
    info = json.loads(file.read_text())
    assert info["profile"] == "quick"
    file.write_text(json.dumps(info | {"profile": "full"}))
    with pytest.raises(KitError, match="scored on phantoms"):
        pack("ada", out)
    assert not list(out.glob("*.zip"))


def test_weights_that_cannot_be_read(out):
    weights = next(out.glob("runs/*/best.pt"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(KitError, match=r"best\.pt"):
        pack("ada", out, quick=True)


def test_an_older_zip_stays_if_the_new_one_is_no_good(out, monkeypatch):
    file = pack("older", out, quick=True).file
    before = file.read_bytes()
    fault = Finding("fault", "odd", "history.csv: odd.")
    monkeypatch.setattr(sys.modules["lib.grade.pack"], "check_history", lambda _: [fault])
    with pytest.raises(KitError, match=r"history\.csv: odd\..*; train it anew"):
        pack("older", out, quick=True)
    assert file.read_bytes() == before
    file.unlink()


def test_a_zip_of_something_else_stays(out):
    file = out / "thesis.zip"
    with zipfile.ZipFile(file, "w") as bundle:
        bundle.writestr("thesis.docx", "years of work")
    before = file.read_bytes()
    with pytest.raises(KitError, match=r"thesis\.zip: was not written by pack; move it away"):
        pack("thesis", out, quick=True)
    assert file.read_bytes() == before
    file.unlink()


def test_too_large(out, monkeypatch):
    monkeypatch.setattr(
        sys.modules["lib.grade.pack"], "MAX_ZIP", 1000
    )  # its name is that of the function
    with pytest.raises(KitError, match="largest file is"):
        pack("ada", out, quick=True)
    assert not list(out.glob("*.zip"))


def test_a_network_of_ones_own_brings_its_masks(out, hand_ins):
    file = next(out.glob("runs/*/run.json"))
    info = json.loads(file.read_text())
    file.write_text(
        json.dumps(
            {
                **info,
                "schema": 1,
                "config": {**info["config"], "model": "tests.grade.test_pack:Own"},
            }
        )
    )
    with pytest.raises(KitError, match="name the data"):
        pack("ada", out, quick=True)


def test_the_masks_of_a_custom_network_at_any_size(hand_ins, tmp_path, monkeypatch):
    """The data are named by their folder; they are prepared as the network wants them."""
    monkeypatch.setenv("KIT_STEPS", str(tmp_path / "steps"))
    folder = hand_ins / "data"
    config = replace(RECIPE, model="tests.own:Counting", image_size=48, epochs=1)
    run = fit(config, load_data(folder, 48), tmp_path / "out", plan="best", table="best")
    receipt = pack("ada", tmp_path / "out", quick=True, data=folder)
    assert receipt.run_id == run.id
    with zipfile.ZipFile(receipt.file) as bundle:
        masks = {name.split("/")[1] for name in bundle.namelist() if name.startswith("masks/")}
    assert masks == set(run.info["split"]["validation"])
    said = "- a grader would hold this: tests.own:Counting is not run, its masks are scored instead"
    assert said in str(receipt)
