"""E. Damaged work: what is not as the training left it is named, left out, or made anew."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from lib.grade.pack import pack
from lib.logger import Run, file_hash, finished_runs, write_result_csvs
from lib.predict import load_weights
from lib.report import write_report
from lib.runtime.checkpoint import read_checkpoint
from lib.train import fit
from tests.faults.things import (
    DAMAGES,
    ODD,
    SIBLING,
    TINY,
    data_in,
    equal,
    halfway,
    runs_in,
    same_outcome,
    trained,
    weights_of,
)
from tests.faults.tries import Try, kind


def damage(t: Try, file: Path) -> bytes:
    """Damage a file in one of the ways, so that it is another file; return what it was."""
    before = file.read_bytes()
    after = before
    while after == before:
        after = t.pick(DAMAGES)(t.rng, before)
    file.write_bytes(after)
    return before


@kind("E", 500)
def damaged_checkpoint_is_read(t: Try) -> None:
    """Weights are those of the file that was written, or the file is refused."""
    folder = t.shared(trained)
    original = runs_in(folder)[0] / t.pick(("best.pt", "last.pt"))
    file = t.folder / original.name
    shutil.copyfile(original, file)
    damage(t, file)
    expected = torch.load(original, weights_only=True)
    content = t.right_or_refuse(lambda: read_checkpoint(file), lambda _: True, file)
    if content is not None:  # such as a flipped bit between two entries
        t.must(equal(content, expected), "other content was believed")


@kind("E", 60)
def damaged_weights_are_predicted_with(t: Try) -> None:
    folder = t.shared(trained)
    original = runs_in(folder)[0] / "best.pt"
    file = t.folder / "best.pt"
    shutil.copyfile(original, file)
    damage(t, file)
    network = t.right_or_refuse(lambda: load_weights(file).network, lambda _: True, file)
    if network is not None:
        expected = weights_of(original)
        found = network.state_dict()
        t.must(all(torch.equal(found[name], expected[name]) for name in expected), "other weights")


@kind("E", 60)
def half_a_run_goes_on_from_a_damaged_file(t: Try) -> None:
    """A damaged last.pt is kept aside, and the run ends as if nothing had happened."""
    whole, folder = t.shared(trained), t.copied(halfway)
    run = runs_in(folder)[0]
    name = t.pick(("last.pt", "best.pt", "last.pt"))
    content = damage(t, run / name)
    damaged = (run / name).read_bytes()
    done = t.right(lambda: fit(TINY, data_in(folder), folder / "out"))
    t.must(same_outcome(done, runs_in(whole)[0]), "the run ended otherwise")
    kept = [file.read_bytes() for file in run.glob(f"{name}.aside*")]
    t.must(kept in ([damaged], []), "what was damaged is not as it was")
    t.must(kept or _equal_files(content, damaged), f"{name} is gone")


def _equal_files(one: bytes, other: bytes) -> bool:
    """Return whether two checkpoints hold the same, whatever lies between their entries."""
    contents = []
    for content in (one, other):
        try:
            contents.append(torch.load(io.BytesIO(content), weights_only=True))
        except Exception:
            return False
    return equal(*contents)


@kind("E", 40)
def half_a_run_has_the_file_of_another(t: Try) -> None:
    folder = t.copied(halfway)
    run, other = runs_in(folder)
    name = t.pick(("last.pt", "best.pt"))
    whole = t.shared(trained)
    shutil.copyfile(other / name, run / name)
    done = t.right_or_refuse(
        lambda: fit(TINY, data_in(folder), folder / "out"), lambda _: True, run.name
    )
    if done is not None:
        t.must(same_outcome(done, runs_in(whole)[0]), "the weights of another run were used")


@kind("E", 20)
def half_a_run_has_a_checkpoint_of_another_kind(t: Try) -> None:
    """last.pt in the place of best.pt, the other way round, or one without its content."""
    whole, folder = t.shared(trained), t.copied(halfway)
    run = runs_in(folder)[0]
    name, other = t.pick((("last.pt", "best.pt"), ("best.pt", "last.pt")))
    if t.chance(0.5):
        shutil.copyfile(run / other, run / name)
    else:
        content = torch.load(run / name, weights_only=True)
        content[t.pick(sorted({"history", "epoch", "weights"} & content.keys()))] = t.pick(([], {}))
        torch.save(content, run / name)
    done = t.right(lambda: fit(TINY, data_in(folder), folder / "out"))
    t.must(same_outcome(done, runs_in(whole)[0]), "the run ended otherwise")


@kind("E", 40)
def finished_run_has_damaged_weights(t: Try) -> None:
    folder = t.copied(trained)
    run = runs_in(folder)[0]
    damage(t, run / "best.pt")
    t.refuse(lambda: fit(TINY, data_in(folder), folder / "out"), run / "best.pt")


@kind("E", 120)
def tables_of_a_finished_run_were_changed(t: Try) -> None:
    """What is not as the training left it stays out of the CSVs; the other run stays in."""
    folder = t.copied(trained)
    run, other = runs_in(folder)
    file = run / t.pick(("history.csv", "cases.csv"))
    before = file_hash(file)
    if t.chance(0.5):
        damage(t, file)
    else:
        text = file.read_text()
        digits = [place for place, letter in enumerate(text) if letter.isdigit()]
        place = t.pick(digits)
        file.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    found = [run.id for run in finished_runs(folder / "out")]
    if file_hash(file) == before:  # the end of the last line is gone
        t.must(len(found) == 2, f"in the results: {found}")
        return
    t.must(found == [other.name], f"in the results: {found}")
    t.refuse(lambda: fit(TINY, data_in(folder), folder / "out"), file)


@kind("E", 300)
def run_json_is_odd(t: Try) -> None:
    """An odd run.json stops no other run, no report and no training of other recipes."""
    folder = t.copied(trained)
    run, other = runs_in(folder)
    file = run / "run.json"
    info = json.loads(file.read_text())
    if t.chance(0.2):
        damage(t, file)
    else:
        place = info
        while True:
            key = t.pick(sorted(place))
            inner = place[key]
            if not (isinstance(inner, dict) and inner and t.chance(0.7)):
                break
            place = inner
        if t.chance(0.3):
            del place[key]
        else:
            place[key] = t.pick(ODD)
        file.write_text(json.dumps(info))
    runs = finished_runs(folder / "out")
    t.must(other.name in [run.id for run in runs], "the sound run is left out")
    write_result_csvs(folder / "out", runs)
    if t.chance(0.1):
        t.right(lambda: fit(SIBLING, data_in(folder), folder / "out"))
    if t.chance(0.1):
        t.right(lambda: write_report(folder / "out", images=False))
    for found in runs:
        same = Run(t.shared(trained) / "out" / "runs" / found.id)
        t.must(list(found.cases["dsc"]) == list(same.cases["dsc"]), "other scores")
        t.must(found.info["best"] == same.info["best"], f"believed: best {found.info['best']}")


@kind("E", 60)
def folders_of_runs_were_renamed(t: Try) -> None:
    folder = t.copied(trained)
    run, other = runs_in(folder)
    way = t.pick(("swapped", "copied", "renamed"))
    if way == "swapped":
        third = run.with_name("third")
        run.rename(third)
        other.rename(run)
        third.rename(other)
        t.must(finished_runs(folder / "out") == [], "swapped runs were believed")
        t.refuse(lambda: fit(TINY, data_in(folder), folder / "out"), run.name)
    elif way == "copied":
        shutil.copytree(run, run.with_name(f"{run.name} (1)"))
        found = sorted(run.id for run in finished_runs(folder / "out"))
        t.must(found == sorted([run.name, other.name]), f"in the results: {found}")
    else:
        run.rename(run.with_name("my best run"))
        found = [run.id for run in finished_runs(folder / "out")]
        t.must(found == [other.name], f"in the results: {found}")


@kind("E", 30)
def files_of_a_run_are_gone(t: Try) -> None:
    folder = t.copied(trained)
    run, other = runs_in(folder)
    name = t.pick(("history.csv", "cases.csv", "best.pt", "last.pt", "run.json"))
    (run / name).unlink()
    found = [run.id for run in finished_runs(folder / "out")]
    tables = name.endswith((".csv", ".json"))
    t.must(found == [other.name] if tables else len(found) == 2, f"in the results: {found}")
    if name == "best.pt":
        t.refuse(lambda: load_weights(run / name), run / name)
        t.refuse(lambda: pack("ada", folder / "out", run_id=run.name, quick=True), name)


@kind("E", 40)
def a_hand_in_of_damaged_work(t: Try) -> None:
    """Pack refuses what the grader would refuse, and says which file."""
    folder = t.copied(trained)
    run = runs_in(folder)[0]
    name = t.pick(("history.csv", "cases.csv", "best.pt"))
    damage(t, run / name)
    write_result_csvs(folder / "out")
    t.refuse(lambda: pack("ada", folder / "out", run_id=run.name, quick=True))
    t.must(not list((folder / "out").glob("*.zip")), "a zip was left")


@kind("E", 30)
def weights_that_are_no_numbers(t: Try) -> None:
    folder = t.shared(trained)
    content = torch.load(runs_in(folder)[0] / "best.pt", weights_only=True)
    floats = [name for name, value in content["weights"].items() if value.is_floating_point()]
    name = t.pick(floats)
    tensor = content["weights"][name]
    tensor.view(-1)[t.number(0, tensor.numel())] = t.pick((math.nan, math.inf, -math.inf))
    file = t.folder / "best.pt"
    torch.save(content, file)
    t.refuse(lambda: load_weights(file), file, name)


@kind("E", 20)
def a_run_of_another_length_or_recipe_lies_there(t: Try) -> None:
    folder = t.copied(trained)
    words = io.StringIO()
    with contextlib.redirect_stdout(words):
        t.right(lambda: fit(replace(TINY, epochs=t.pick((1, 3))), data_in(folder), folder / "out"))
    t.must("begins anew" in words.getvalue() or "same recipe" in words.getvalue(), "not a word")
