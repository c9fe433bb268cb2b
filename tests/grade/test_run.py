"""Grading: the fake hand-ins of the guide, each cheat on its own, and a batch that nothing stops."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib.data import write_masks
from lib.grade import grade, load_rubric
from lib.grade.archive import write_zip
from lib.grade.checks import lib_diff
from lib.grade.gradebook import GRADEBOOK
from lib.grade.one import grade_one
from lib.grade.rescore import Result, load_network, weights_hash
from lib.grade.run import list_submissions, read_roster, student_of, summary
from lib.grade.test_set import perturb, prepare_exam
from lib.grade.worker import Worker, WorkerDied
from lib.logger import BEST_CSV
from lib.utils import PROJECT, KitError
from tests.conftest import brain
from tests.grade.demo import (
    checkpoint,
    edit_json,
    edit_table,
    pickled_code,
    read_zip,
    run_of,
    sign,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def graded(hand_ins, tmp_path_factory):
    """(folder of the gradebook, standings) of the demo."""
    out = tmp_path_factory.mktemp("grades")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(out / "cache"))
        patch.setenv("KIT_PROGRESS", "text")
        roster = read_roster(hand_ins / "roster.csv")
        rubric = load_rubric(hand_ins / "rubric.toml")
        standings = grade(hand_ins / "submissions", hand_ins / "data", out, rubric, roster)
    return out, standings


@pytest.fixture(scope="session")
def exam(hand_ins, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(tmp_path_factory.mktemp("exam")))
        prepared = prepare_exam(hand_ins / "data")
        prepared.load(32, "reference"), prepared.load(32, "reference", perturbed=True)
    return prepared


@pytest.fixture
def examine(exam, tmp_path):
    """A function that grades one hand-in, given as files, in this process."""
    def one(files: dict[str, bytes], name: str = "x.zip", tolerance: float = 1e-6) -> dict:
        write_zip(tmp_path / name, files)
        work = tmp_path / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return grade_one((str(tmp_path / name), name, "x", False, str(work)), exam, CPU, tolerance)
    return one


@pytest.fixture(scope="session")
def ada(hand_ins):
    """The files of an honest hand-in."""
    return read_zip(hand_ins / "submissions" / "ada.zip")


def found(result: dict) -> list[str]:
    """Names of what was found, notes left out."""
    return [finding.name for finding in result["findings"] if finding.level != "note"]


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    text = (folder / GRADEBOOK).read_text(encoding="utf-8-sig")
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


# --- the demo -----------------------------------------------------------------------------------------------------


def test_the_gradebook_of_the_guide(graded):
    guide = (PROJECT / "docs" / "instructors.md").read_text(encoding="utf-8")
    table = re.search(r"```\n(student +status.*?)\n\n", guide, re.DOTALL)[1]

    def words(text):  # scores differ a little from machine to machine
        return [re.sub(r" +", " ", re.sub(r"\b\d+(\.\d+)?\b", "#", line)) for line in text.splitlines()]

    assert words(summary(graded[1])) == words(table)


def test_honest_claims_come_out_to_the_last_digit(graded):
    for student in ("ada", "bela"):
        row = rows_of(graded[0])[student]
        assert abs(float(row["claimed DSC"]) - float(row["verified DSC"])) < 1e-6
    ada = next(standing.result for standing in graded[1] if standing.result.student == "ada")
    assert all(abs(claimed - computed) < 1e-6 for claimed, computed, _ in ada.cases.values())
    assert 0 < ada.probe < 1


def test_no_code_ran_and_nothing_escaped(hand_ins, graded):
    assert not (hand_ins.parent / "TRACE").exists()
    assert not list(hand_ins.parent.rglob("escaped.txt"))
    assert not list(Path(tempfile.gettempdir()).glob("escaped.txt"))


def test_the_trace_would_have_been_found(ada, examine, tmp_path):
    """Graded, the pickle leaves no trace; opened as a pickle it does: the cheat is a real one."""
    trace, weights = tmp_path / "TRACE", tmp_path / "best.pt"
    files = pickled_code(ada, {}, trace)
    result = examine(files)
    assert (result["status"], trace.exists()) == ("not verifiable", False)
    assert "could run code" in result["findings"][-1].text
    weights.write_bytes(files[f"{run_of(files)}/best.pt"])
    script = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    subprocess.run([sys.executable, "-c", script, str(weights)], check=True)
    assert trace.exists()


def test_first_row_pages_and_leaderboard(graded):
    out, _ = graded
    rows = rows_of(out)
    assert next(iter(rows)) == "POINTS POSSIBLE"
    assert (rows["POINTS POSSIBLE"]["score"], rows["POINTS POSSIBLE"]["DSC points"]) == ("100", "40")
    assert all((out / row["feedback"]).is_file() for student, row in rows.items() if student != "POINTS POSSIBLE")
    board = (out / "leaderboard.html").read_text(encoding="utf-8")
    names = dict(csv.reader((out / "pseudonyms.csv").read_text().splitlines()))
    assert names["ada"] in board and "ada<" not in board
    assert not any(names[student] in board for student in ("carl", "dora", "emil", "finn", "kim"))
    page = (out / rows["emil"]["feedback"]).read_text(encoding="utf-8")
    assert "Another student" in page and "bela" not in page
    assert "http" not in board + page  # self-contained


# --- a batch that nothing stops -----------------------------------------------------------------------------------


def forbidden(*_):
    raise AssertionError("computed again")


def test_graded_again_nothing_is_computed_and_what_a_human_wrote_stays(hand_ins, graded, tmp_path, monkeypatch):
    out = tmp_path / "grades"
    shutil.copytree(graded[0] / "results", out / "results")
    rubric, roster = load_rubric(hand_ins / "rubric.toml"), read_roster(hand_ins / "roster.csv")
    monkeypatch.setattr(Worker, "call", forbidden)

    def again():
        grade(hand_ins / "submissions", hand_ins / "data", out, rubric, roster)
        return (out / GRADEBOOK).read_bytes()

    first = again()
    assert again() == first
    table = pd.read_csv(out / GRADEBOOK, dtype=str, keep_default_na=False).set_index("student")
    table["private"] = ""
    table.loc["ada", ["comparison", "failures", "comment", "private"]] = "27,5", "12", "=HYPERLINK(1) <b>", "seen"
    table.loc["emil", "DSC points by hand"] = "5"
    table.to_csv(out / GRADEBOOK, sep=";", encoding="cp1252")  # as a spreadsheet might
    again()
    rows = rows_of(out)
    assert rows["ada"]["score"] == f"{float(rows['ada']['DSC points']) + 39.5:g}"
    assert (rows["ada"]["comment"], rows["ada"]["private"]) == ("'=HYPERLINK(1) <b>", "seen")
    assert rows["emil"]["score"] == "5"
    assert "=HYPERLINK(1) &lt;b&gt;" in (out / rows["ada"]["feedback"]).read_text(encoding="utf-8")
    assert again() == again()


def test_killed_in_the_middle_it_goes_on(hand_ins, graded, tmp_path, monkeypatch):
    whole = {path.name: path.read_bytes() for path in (graded[0] / "results").iterdir()}
    roster, rubric = read_roster(hand_ins / "roster.csv"), load_rubric(hand_ins / "rubric.toml")
    calls = []

    def answer(worker, job, seconds):
        calls.append(job[1])
        if len(calls) == 4:
            raise KeyboardInterrupt
        known = [json.loads(content) for content in whole.values()]
        return next(result for result in known if result["submission"] == job[1])

    monkeypatch.setattr(Worker, "call", answer)
    arguments = hand_ins / "submissions", hand_ins / "data", tmp_path, rubric, roster
    with pytest.raises(KeyboardInterrupt):
        grade(*arguments)
    grade(*arguments)
    assert sorted(calls) == sorted([path.name for path in (hand_ins / "submissions").iterdir()] + [calls[3]])
    assert (tmp_path / GRADEBOOK).read_bytes() == (graded[0] / GRADEBOOK).read_bytes()


def test_timed_out(hand_ins, tmp_path, monkeypatch):
    def late(*_):
        raise WorkerDied("not done after 1 s")
    monkeypatch.setattr(Worker, "call", late)
    standings = grade(hand_ins / "submissions", hand_ins / "data", tmp_path, load_rubric(hand_ins / "rubric.toml"))
    assert {standing.status for standing in standings} == {"timed out"}
    assert not (tmp_path / "results").exists()  # the next grading tries again


# --- each check on its own ----------------------------------------------------------------------------------------


def test_an_honest_one_is_clean(examine, ada):
    result = examine(ada)
    assert (result["status"], result["student"], found(result), result["diff"]) == ("computed", "ada", [], {})
    assert [finding.name for finding in result["findings"]] == []


def change(name, *path):
    """A hand-in with one table changed and signed anew: each edit is a lambda on the table."""
    def apply(files, edit):
        run = run_of(files)
        return sign({**files, f"{run}/{name}": edit_table(files[f"{run}/{name}"], edit)})
    return apply


@pytest.mark.parametrize(("table", "edit", "expected"), [
    ("cases.csv", lambda t: t.assign(dsc_native=t["dsc_native"] + 0.01), "impossible numbers"),
    ("cases.csv", lambda t: t.assign(fn=t["fn"] + 100, dsc_native=2 * t["tp"] / (2 * t["tp"] + t["fp"] + t["fn"] + 100),
                                     iou=t["tp"] / (t["tp"] + t["fp"] + t["fn"] + 100),
                                     recall=t["tp"] / (t["tp"] + t["fn"] + 100)), "impossible numbers"),
    ("cases.csv", lambda t: t.iloc[:-1], "tables disagree"),
    ("cases.csv", lambda t: t.assign(dsc=t["dsc"] + 0.01), "tables disagree"),
    ("history.csv", lambda t: t.iloc[:-1], "tables disagree"),
    ("history.csv", lambda t: t.assign(epoch=t["epoch"] + 1), "history implausible"),
    ("history.csv", lambda t: t.assign(lr=0.5), "history implausible"),
])
def test_a_table_was_edited(examine, ada, table, edit, expected):
    assert expected in found(examine(change(table)(ada, edit)))


def test_files_that_are_not_as_the_run_left_them(examine, ada):
    name = f"{run_of(ada)}/history.csv"
    assert "files changed" in found(examine({**ada, name: ada[name] + b"\n"}))


def test_a_recipe_that_the_id_does_not_tell(examine, ada):
    name = f"{run_of(ada)}/run.json"
    config = {**json.loads(ada[name])["config"], "weight_decay": 0.1}
    assert {"run id does not fit", "checkpoint of another run"} <= set(found(examine(
        {**ada, name: edit_json(ada[name], config=config)})))


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


def test_other_data_and_other_code(examine, ada):
    name = f"{run_of(ada)}/run.json"
    result = examine({**ada, name: edit_json(ada[name], data={"sha256": "0"}, code={"sha256": "0"})})
    assert found(result) == ["other data"]
    assert [finding.name for finding in result["findings"] if finding.level == "note"] == ["other code"]


def test_the_lib_that_was_handed_in_is_compared_and_never_imported(ada, tmp_path):
    (tmp_path / "lib" / "own").mkdir(parents=True)
    for name, content in ada.items():
        if name.startswith("lib/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    (tmp_path / "lib" / "metrics.py").write_text("raise SystemExit\n")
    (tmp_path / "lib" / "own" / "new.py").write_text("raise SystemExit\n")
    (tmp_path / "lib" / "optim.py").unlink()
    (tmp_path / "lib" / "grade" / "rubric.py").write_text("raise SystemExit\n")
    diff = lib_diff(tmp_path / "lib")
    assert "+raise SystemExit" in diff["grade/rubric.py"]
    assert list(diff) == ["grade/rubric.py", "metrics.py", "optim.py", "own/new.py"]
    assert "+raise SystemExit" in diff["metrics.py"]
    assert (diff["optim.py"], diff["own/new.py"]) == (["removed"], ["added: 1 lines"])
    assert lib_diff(tmp_path / "nowhere") == {}


# --- checkpoints of strangers -------------------------------------------------------------------------------------


def content_of(files):
    return torch.load(io.BytesIO(files[f"{run_of(files)}/best.pt"]), weights_only=True)


def shared_storage(weights):
    """Every tensor a view of one number: claims much, holds nothing."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in weights.items()}


@pytest.mark.parametrize(("edit", "reason"), [
    (lambda c: {**c, "config": {**c["config"], "init_features": 10**6}}, "weights are not those"),
    (lambda c: {**c, "config": {**c["config"], "model": "os:system"}}, "no config and weights"),
    (lambda c: {**c, "config": {**c["config"], "lr": float("nan")}}, "describes no network"),
    (lambda c: {**c, "weights": shared_storage(c["weights"])}, "no plain tensor"),
    (lambda c: {**c, "weights": {**c["weights"], "conv.bias": [1.0]}}, "no plain tensor"),
    (lambda c: {**c, "weights": {**c["weights"], "conv.bias": torch.ones(1).to_sparse()}}, "no plain tensor"),
    (lambda c: {**c, "weights": {name: t for name, t in c["weights"].items() if name != "conv.bias"}}, "not those"),
    (lambda c: {**c, "trained_on": 7}, "which patients"),
    (lambda c: c["weights"], "no config and weights"),
])
def test_checkpoints_that_are_refused(ada, tmp_path, edit, reason):
    (tmp_path / "best.pt").write_bytes(checkpoint(edit(content_of(ada))))
    with pytest.raises(KitError, match=reason) as caught:
        load_network(tmp_path / "best.pt")
    assert "\n" not in str(caught.value)


def test_a_compressed_checkpoint_is_not_opened(ada, tmp_path):
    with zipfile.ZipFile(io.BytesIO(ada[f"{run_of(ada)}/best.pt"])) as source, \
            zipfile.ZipFile(tmp_path / "best.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(KitError, match="compressed"):
        load_network(tmp_path / "best.pt")


def test_the_same_weights_in_another_file(ada):
    weights = content_of(ada)["weights"]
    again = {name: tensor.clone() for name, tensor in reversed(weights.items())}
    assert weights_hash(again) == weights_hash(weights)
    again["conv.bias"] += 1e-6
    assert weights_hash(again) != weights_hash(weights)


# --- a network of one's own ---------------------------------------------------------------------------------------


def own_network(files, exam, masks) -> dict[str, bytes]:
    """The hand-in as one of a network that the kit does not know, with those masks."""
    run = run_of(files)
    config = {**json.loads(files[f"{run}/run.json"])["config"], "model": "nowhere:Net"}
    folder = exam.folder.parent / "masks"
    shutil.rmtree(folder, ignore_errors=True)
    for name, mask in masks.items():
        write_masks(folder, exam.data.patients[name], mask)
    return {**files, f"{run}/run.json": edit_json(files[f"{run}/run.json"], config=config),
            **{f"masks/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in folder.rglob("*.tif")}}


def test_masks_are_scored_where_the_network_is_not_known(examine, exam, ada):
    truth = {name: exam.data.truth(name) for name in exam.split.validation}
    result = examine(own_network(ada, exam, truth))
    assert (result["grid"], result["verified"], result["probe"]) == ("file", 1.0, None)
    assert "rescored from masks" in found(result) and "claim not reproduced" in found(result)
    result = examine(own_network(ada, exam, dict(list(truth.items())[:2])))
    assert result["status"] == "not verifiable" and "is missing" in result["findings"][-1].text
    wrong = {name: mask[:, ::2] for name, mask in truth.items()}
    assert "is no mask of 64x64" in examine(own_network(ada, exam, wrong))["findings"][-1].text


# --- around it ----------------------------------------------------------------------------------------------------


def test_perturbed_patients_are_the_same_each_time_and_keep_their_background():
    volume, mask = brain(3, height=40, width=60)
    one, other = (perturb(volume, mask, np.random.default_rng(5)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    moved, truth = one
    assert (moved.shape, moved.dtype, truth.dtype) == (volume.shape, np.uint8, np.uint8)
    assert not np.array_equal(moved, volume)
    assert moved[..., 1][truth > 0].mean() > moved[..., 1][(truth == 0) & (moved[..., 1] > 0)].mean() + 50
    assert abs(int((moved[..., 0] == 0).sum()) - int((volume[..., 0] == 0).sum())) < 0.1 * mask.size


def test_who_handed_in():
    roster = ["ada", "s-12"]
    names = {"Lovelace_ada_4711_upload.zip": "ada", "adamant.zip": "adamant", "x s-12 (1).zip": "s-12",
             "@=.zip": "nameless", "ada s-12.zip": "ada_s-12", "ada_17/upload.zip": "ada", "bob/up.zip": "bob_up"}
    assert {name: student_of(name, roster) for name in names} == names


def test_what_counts_as_a_hand_in(tmp_path):
    for name in ("b.zip", "a/x.zip", "c/result/x.csv", "c/y.zip", "notes.txt", ".hidden.zip"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(list_submissions(tmp_path)) == ["a/x.zip", "b.zip", "c"]
    with pytest.raises(KitError, match="no zip"):
        list_submissions(tmp_path / "c" / "result")


def test_a_roster_that_is_none(tmp_path):
    (tmp_path / "r.csv").write_text("name,student\nA,=cmd\n")
    with pytest.raises(KitError, match="no id"):
        read_roster(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("name,student\nA,ada\nB,bela\nC,ada\n")
    assert read_roster(tmp_path / "r.csv") == ["ada", "bela"]
    (tmp_path / "r.csv").write_text("Name;,Student\nA,ada\n")
    assert read_roster(tmp_path / "r.csv") == ["ada"]
    (tmp_path / "r.csv").write_text("ada\nbela\n")
    assert read_roster(tmp_path / "r.csv") == ["ada", "bela"]
    (tmp_path / "r.csv").write_text("first,last,id\nAda,Byron,ab1\n")
    with pytest.raises(KitError, match="which of 3 columns"):
        read_roster(tmp_path / "r.csv")


def test_the_id_in_the_name_of_the_file_comes_before_the_one_inside(hand_ins, exam, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    file = hand_ins / "submissions" / "ada.zip"
    result = grade_one((str(file), "bela.zip", "bela", True, str(work)), exam, CPU, 1e-6)
    assert (result["student"], found(result)) == ("bela", ["another id inside"])


def test_results_survive_json(graded):
    result = graded[1][0].result
    assert Result.from_dict(json.loads(json.dumps(asdict(result)))) == result
    assert BEST_CSV in "uexec_result_best.csv"
