"""Figures that pages tell in words are those of the tables and records beside them."""

from __future__ import annotations

import json
import math
import re
from decimal import ROUND_HALF_UP, Decimal
from typing import get_args

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from lib import stats
from lib.logger import Run
from lib.metrics import summarise
from lib.phantom import make_patient
from lib.phantom.shapes import FLAIR
from lib.phantom.write import SEED, patient_name
from lib.sweep import PLANS
from lib.sweep.measured import ScoredEpoch, evidence
from lib.utils import PROJECT
from maintain import answers
from maintain.evidence import BAD, BEST, OPTIONS, PARTS, STEPS
from maintain.findings import LACKING, OTHERS
from maintain.findings import by_sequences as by_sequences_of_phantoms
from maintain.reference import FOLDER, LADDER_FOLDS, LADDER_PLAN, cross_validations, measured
from maintain.results import COMPONENTS, SUBSTITUTED, by_sequences, compared, compared_ones

OVERVIEW = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
GPU = json.loads((FOLDER / "gpu.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ("0.1.0, `REFERENCE`", ["kit REFERENCE step, det"]),
        ("0.1.0, `BEST`", ["kit BEST step, det"]),
        ("network, loss and Adam only", ["net 16 det"]),
        ("the same, cuDNN free", ["net 16 free benchmark"]),
        ("the same, batch 64", ["net 64 det", "net 64 free benchmark"]),
        ("batch 16, one CUDA graph", ["net 16 det CUDA graph", "net 16 free fused ema CUDA graph"]),
        ("batch 16, `torch.compile` (30 s once)", ["net 16 compiled"]),
        ("batch 16, `torch.compile` and CUDA graph", ["net 16 compiled + CUDA graph"]),
        ("batch 16, `torch.compile(mode=", ["net 16 reduce-overhead"]),
        ("batch 64, `torch.compile`", ["net 64 compiled"]),
    ],
)
def test_the_table_of_the_gpu_is_its_record(row, keys):
    lines = (FOLDER / "gpu.md").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith(f"| {row}")]
    found = [re.match(r"([\d.]+) ms, (\d+) slices/s", GPU[key]).groups() for key in keys]
    times = "; ".join(str(Decimal(ms).quantize(Decimal("0.1"), ROUND_HALF_UP)) for ms, _ in found)
    rates = "; ".join(f"{int(rate):,}" for _, rate in found)
    assert line.replace("**", "").endswith(f" | {times} | {rates} |")


def test_figures_from_elsewhere_are_those_of_the_record():
    record = json.loads((FOLDER / "h200.json").read_text(encoding="utf-8"))["trainings"]
    page = (FOLDER / "elsewhere.md").read_text(encoding="utf-8")
    for name, what in (("best", "`BEST`, 256x256"), ("baseline", "`REFERENCE`")):
        assert f"| {record[name]['withheld mean dsc']:.3f} | {what}" in page
    assert f"| {record['best-nb1']['withheld mean dsc']:.3f} | `BEST` with `neighbours=1`" in page


def test_the_lowest_at_full_scale_are_told_voxel_by_voxel():
    rows = {}
    for run in cross_validations()["gpu-20"]["best"].runs:
        for found in json.loads((run.folder / COMPONENTS).read_text(encoding="utf-8")):
            truth, voxels, true = (found[name] for name in ("ground truth", "voxels", "true"))
            dsc = 2 * np.array(true) / (np.array(voxels) + truth)
            largest = int(np.argmax(voxels))
            cells = [truth, int(sum(true)), voxels[largest], int(true[largest])]
            shown = [f"{float(each):.3f}" if each else "0" for each in (dsc[largest], max(dsc))]
            name = re.sub(r"TCGA_(\w+)_\d+", r"\1", found["patient"])
            rows[dsc[largest], name] = [name, *(f"{int(cell):,}" for cell in cells), *shown]
    lowest = [rows[key] for key in sorted(rows)[:5]]
    assert all(f"| {' | '.join(row)} |" in OVERVIEW for row in lowest)
    thrown_away = [row for row in lowest if row[2] != "0" and row[4] == "0"]
    truths, trues = ([int(row[at].replace(",", "")) for row in thrown_away] for at in (1, 2))
    *some, most = sorted(round(100 * each / of) for each, of in zip(trues, truths, strict=True))
    assert f"({', '.join(map(str, some))} and {most} %)" in OVERVIEW


def test_who_lacks_a_sequence_is_told_by_themselves():
    before, after = (
        each.cases.set_index("patient")["dsc"] for each in cross_validations()["gpu-20"].values()
    )
    names = OVERVIEW.partition("FLAIR replaces it**: ten patients (")[2].partition(";")[0]
    ten = re.findall(r"[A-Z]{2}_\w{4}", names)
    assert {f"TCGA_{name}" for name in ten} == set(SUBSTITUTED)
    lacking = after.index.str.startswith(SUBSTITUTED)
    assert lacking.sum() == len(ten) == 10
    one, other = (stats.paired_test((after - before)[each]) for each in (lacking, ~lacking))
    assert (
        f"from {before[lacking].mean():.3f} to {after[lacking].mean():.3f} here "
        f"({round(10 * one.improved)} of 10 improved, 95 % CI of the difference {one.low:+.3f} to "
        f"{one.high:+.3f}, p {one.p:.3f}), the other 90 from {before[~lacking].mean():.3f} to "
        f"{after[~lacking].mean():.3f} ({other.low:+.3f} to {other.high:+.3f})" in OVERVIEW
    )


def test_the_ladder_on_patients_is_told_as_measured():
    steps = compared_ones(LADDER_FOLDS, measured(LADDER_FOLDS, "cpu"))
    table = stats.compare_ladder(steps).set_index("label")
    first, last = (each.dsc.mean for each in (steps["as shipped"], steps["averaged weights"]))
    low, high = (f"{each:+.3f}" for each in (table["difference"].min(), table["difference"].max()))
    lacking = by_sequences(steps)["a sequence missing"]
    step = by_sequences(steps).loc["sequence dropout"]
    fewer = stats.compare_ladder(measured(LADDER_PLAN, "cpu")).set_index("label")["difference"]
    phantoms = stats.compare_ladder(evidence(STEPS)).set_index("label")["difference"]
    order, of_ten = (each.corr(phantoms, "spearman") for each in (table["difference"], fewer))
    told = (
        f"The five steps go from {first:.3f} to {last:.3f}, single ones add {low} to {high}",
        f"the rank correlation is {order:+.2f}, and was {of_ten:+.2f} with the ten patients",
        f"from {lacking['stronger augmentation']:.3f} to {lacking['sequence dropout']:.3f} by that "
        f"step (95 % CI of the difference {step['a sequence missing: 95 % CI']}), the other 90 "
        f"stay where they are ({step['all there: step']:+.3f}, {step['all there: 95 % CI']})",
    )
    for words in told:
        assert words in OVERVIEW
    [again] = (Run(file.parent) for file in FOLDER.glob("rounding-128/*/run.json"))
    assert (
        f"has {again.dsc.mean:.3f} instead of {steps['as shipped'].runs[0].dsc.mean:.3f}"
        in OVERVIEW
    )
    notebook = nbformat.read(PROJECT / "train_best.ipynb", 4)
    [cell] = (cell.source for cell in notebook.cells if cell.id == "ladder-on-patients")
    words = (
        f"five steps add {last - first:.3f} together",
        f"with ten of these patients it was {of_ten:+.2f}",
        f"from {lacking['stronger augmentation']:.3f} to {lacking['sequence dropout']:.3f} "
        f"(95 % CI of the difference {step['a sequence missing: 95 % CI']})",
        f"({step['all there: step']:+.3f})",
    )
    assert all(each in " ".join(cell.split()) for each in words)


def test_hardness_is_that_of_the_baseline():
    def row(scores, sd, missed):
        percentiles = ", ".join(f"{each:.3f}" for each in np.percentile(scores, (10, 50, 90)))
        return f"| {percentiles} | {sd:.3f} | {round(missed, 1):g} |"

    runs = [run.cases["dsc"] for run in evidence(BEST)["baseline"]]
    pooled = pd.concat(runs)
    sd = float(np.mean([scores.std() for scores in runs]))
    assert row(pooled, sd, 100 * (pooled < 0.1).mean()) in OVERVIEW
    for scale in ("cpu", "cpu-long"):
        scores = cross_validations()[scale]["baseline"].cases["dsc"]
        assert row(scores, scores.std(), 100 * (scores < 0.1).mean()) in OVERVIEW


def test_sequence_dropout_is_told_for_those_who_lack_a_sequence():
    steps, recipes = (by_sequences_of_phantoms(plan, evidence(plan)) for plan in (STEPS, BEST))
    words, whole = [], []
    for group, patients in ((LACKING, 30), (OTHERS, 170)):
        row = steps[group].set_index("label").loc["sequence dropout"]
        assert row["patients"] == patients
        interval = f"{row['CI low']:+.3f} to {row['CI high']:+.3f}"
        words.append((f"{row['difference']:+.3f}", interval))
        whole.append(f"{recipes[group].iloc[0]['difference']:+.3f}")
    (first, its), (second, theirs) = words
    assert f"it adds {first} (95 % CI {its}), to the 170 others {second} ({theirs})" in OVERVIEW
    assert f"The whole recipe adds {' and '.join(whole)}" in OVERVIEW


def test_what_rounding_does_is_told_as_recorded():
    """The tables have the runs that were trained here, and the words those of both places."""
    table = pd.read_csv(FOLDER / "phantom-rounding.csv")
    for step, rows in table.groupby("step"):
        for epoch in get_args(ScoredEpoch):
            runs = {run.config.seed: run for run in evidence(STEPS, epoch)[step]}
            means = [round(runs[seed].cases["dsc"].mean(), 4) for seed in rows["seed"]]
            assert means == list(rows[f"here, {epoch} epoch"])
    trained = table[table["step"].isin(["as shipped", "larger steps that shrink"])]
    assert len(table) == 2 * len(trained)  # the others score the trainings of the latter anew
    moved = trained["here, best epoch"] - trained["elsewhere, best epoch"]
    sd = math.sqrt((moved**2).mean() / 2)  # of one run: a difference of two has twice its variance
    pairs = f"{len(trained)} pairs; `phantom-rounding.csv`"
    assert f"moves the mean of a run by an SD of {sd:.3f} ({pairs})" in OVERVIEW


def test_the_weights_on_phantoms_are_compared_on_the_grid_that_both_have():
    small, large = (
        pd.read_csv(FOLDER / "pretrained-on-phantoms" / file).set_index("patient")["dsc_native"]
        for file in ("best.csv", "best-256.csv")
    )
    test = stats.paired_test(large - small)
    assert (
        f"{test.mean:+.3f}, 95 % CI {test.low:+.3f} to {test.high:+.3f}, p {test.p:.3f}, "
        f"{round(test.improved * len(large))} of 30 improved"
    ) in OVERVIEW


def test_bf16_is_compared_as_recorded():
    """By Welch's t-test of the means of the runs."""
    table, words = pd.read_csv(FOLDER / "phantom-bf16.csv"), []
    for sampling, runs in evidence("sampling", "last").items():
        bf16 = table.loc[table["sampling"] == sampling, "last epoch"]
        fp32 = [run.cases["dsc"].mean() for run in runs]
        found = ttest_ind(bf16, fp32, equal_var=False).confidence_interval()
        words.append(f"{bf16.mean():.3f} and {np.mean(fp32):.3f}")
        words.append(f"{found.low:+.3f} to {found.high:+.3f}")
    assert len(words) == 4 and all(each in OVERVIEW for each in words)


def test_how_many_variants_have_a_verdict_is_told_as_measured():
    rows = pd.concat([compared(PLANS[name], evidence(name)) for name in PLANS if name in PARTS])
    rows = rows[~rows["label"].isin(BAD)]
    known = (rows["verdict"] != "cannot tell").sum()
    words = f"Of the {len(rows)} that are not there to fail {known} have a verdict now"
    assert words in OVERVIEW


def test_how_many_seeds_start_slowly_is_told_as_measured():
    runs = [run.history["val_dsc"].head(3) for run in evidence(OPTIONS)["as published"]]
    slow = sum((each < 0.13).all() for each in runs)
    for name, words in (
        ("answers.md", f"with {slow} of the {len(runs)} seeds its DSC stays near 0.1"),
        ("zh-CN/answers.md", f"{len(runs)} 个种子中有 {slow} 个，DSC 在 0.1 附近"),
    ):
        assert words in (PROJECT / "maintain" / name).read_text(encoding="utf-8")


def test_the_seed_of_the_notebooks_is_a_lucky_one_of_the_baseline():
    """As a model answer says, with the numbers of that seed."""
    assert answers.numbers()["first"].place == "1"


def test_the_test_phantoms_are_harder_than_those_of_validation():
    lost = []
    for runs in evidence(BEST, "last").values():
        before = np.mean([run.history["val_dsc"].iloc[-1] for run in runs])
        lost.append(round(before - np.mean([run.cases["dsc"].mean() for run in runs]), 2))
    notebook = nbformat.read(PROJECT / "train_best.ipynb", 4)
    [cell] = (cell.source for cell in notebook.cells if cell.id == "best-luck")
    words = f"the reference runs lose {min(lost):.2f} to {max(lost):.2f}, too"
    assert words in " ".join(cell.split())


@pytest.mark.slow
def test_how_bright_the_tumours_of_failures_are_is_told_as_measured():
    """By the measure of the table that compares phantoms with patients."""
    ratios = {}
    for index in range(60):
        volume, mask = make_patient(SEED, index)
        head = (volume >= 0.1 * volume.max()).any(axis=3)
        flair, tumour = volume[..., FLAIR], mask > 0
        ratios[patient_name(index)] = flair[tumour].mean() / flair[head & ~tumour].mean()
    two = [ratios[name] for name in ("PHANTOM_0005", "PHANTOM_0012")]
    text = " ".join(answers.answers()["inference-failures"].text.split())
    assert f"({two[0]:.2f} and {two[1]:.2f} times as bright; the median" in text
    assert f"the median of the 60 is {np.median(list(ratios.values())):.2f})" in text


def test_options_are_told_as_measured():
    table = compared(OPTIONS, evidence(OPTIONS)).set_index("label")
    label = "kaiming initialiser"
    assert table["verdict"][label] == "hurts"
    others = table.drop(label)
    assert set(others["verdict"]) == {"cannot tell"}
    smallest = stats.detectable(table)[others.index]
    sizes = f"differences of {smallest.min():.3f} to {smallest.max():.3f} would have been found"
    assert sizes in OVERVIEW
    best, last = (
        table.loc[label],
        compared(OPTIONS, evidence(OPTIONS, "last")).set_index("label").loc[label],
    )
    assert last["verdict"] == "cannot tell"
    assert (
        f"hurts by the best epoch, {best['difference']:+.3f} (95 % CI {best['CI low']:+.3f} to "
        f"{best['CI high']:+.3f}, p = {best['p (Holm)']:.3f} with seven of them compared); by the "
        f"last it cannot be told ({last['difference']:+.3f}, {last['CI low']:+.3f} to "
        f"{last['CI high']:+.3f})"
    ) in OVERVIEW


def test_what_phantoms_teach_about_patients_is_told_as_recorded():
    scores = []
    for version, name in ((1, "phantom-1-for-patients"), (2, "phantom-for-patients")):
        held_out, found = (
            pd.read_csv(FOLDER / name / file).sort_values("patient")["dsc"].to_numpy()
            for file in ("cases.csv", "cases_on_patients.csv")
        )
        of_all, lost = summarise(found), (found < 0.1).sum()
        mean = f"**{of_all.mean:.3f}** ({of_all.low:.3f} to {of_all.high:.3f})"
        row = f"{held_out.mean():.3f} | {mean} | {of_all.median:.3f} | {of_all.sd:.3f} | {lost}"
        assert f"| version {version} | {row} |" in OVERVIEW
        scores.append(found)
    test = stats.paired_test(scores[1] - scores[0])
    words = f"({test.mean:+.3f}, 95 % CI {test.low:+.3f} to {test.high:+.3f}, of these two sets"
    assert words in OVERVIEW
