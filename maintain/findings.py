"""Write what was measured on the phantom as a page: ``python -m maintain.findings``.

It reads the tables that ``maintain.evidence`` wrote, question by question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib import stats
from lib.phantom.write import SEED, missing_sequences, patient_index
from lib.plot import seeds_curves, waterfall
from lib.runtime import CommandParser, run_command
from lib.stats.planning import Design
from lib.stats.scored import FURTHER, pairs_from
from lib.sweep import Plan
from lib.sweep.measured import BASE, FOLDER, ScoredEpoch, TestScores, evidence, recipe_of
from lib.utils import write_atomic
from maintain.evidence import BEST, EARLY, FEW, NULL, PARTS, STEPS, read_tables
from maintain.results import compared, interval, markdown

PAGE = FOLDER.with_suffix(".md")
LADDER, SEEDS = FOLDER.with_name("phantom-ladder.png"), FOLDER.with_name("phantom-seeds.png")
TIMES = 1000  # that runs are dealt out
FAILED = 0.4  # validation DSC at the best epoch
LACKING, OTHERS = "with a sequence missing", "with all"
Measured = dict[str, list[TestScores]]


def runs_of_recipes(folder: Path = FOLDER) -> Counter[str]:
    """Return recipe -> number of its seeds in the tables."""
    return Counter(recipe for recipe, _, epoch in read_tables(folder) if epoch == "last")


def seeds_of(plan: Plan, counts: Counter[str]) -> int:
    """Return with how many seeds every variant of a plan was measured."""
    return min(counts[recipe_of(config)] for config in plan.configs(BASE).values())


def page(folder: Path = FOLDER) -> str:
    """Return ``phantom.md``: the questions that were measured, and the names of the others."""
    plans = [part.plan for part in PARTS.values()]
    counts = runs_of_recipes(folder)
    missing = [plan.name for plan in plans if seeds_of(plan, counts) < 2]
    parts = [
        "# Results on the phantom",
        "Made from the tables in `phantom/` by `make reference-figures`. Do not edit. Each run was "
        "trained on thirty phantoms at the profile `quick` and scored on 200 others, by the epoch "
        "that is best in validation; *last epoch* is the difference by the last one.",
    ]
    if missing:
        parts.append(f"Not measured yet: {', '.join(missing)}.")
    for plan in plans:
        if plan.name not in missing:
            parts += _null(folder) if plan is NULL else _section(plan, folder)
    return "\n\n".join(parts) + "\n"


def _section(plan: Plan, folder: Path) -> Iterator[str]:
    """Yield the paragraphs of a question."""
    runs = evidence(plan, "best", folder)
    table, last = compared(plan, runs), compared(plan, evidence(plan, "last", folder))
    yield f"## {plan.name}\n\n{plan.question}"
    yield markdown(_shown(table, last))
    yield stats.resolution(table)
    yield "Beside the mean:"
    yield _outcomes(runs)
    if plan in (BEST, STEPS):
        yield "The difference for the phantoms that lack a sequence, and for the others:"
        yield markdown(_by_sequences_shown(by_sequences(plan, runs)))
    if plan is STEPS:
        yield f"![what each step adds]({LADDER.name})"
    if plan is BEST and _with_curves(runs):
        yield (
            f"Validation DSC at the best epoch, of the runs whose curves were kept: "
            f"{'; '.join(_lowest(runs))}."
        )
        yield f"![the validation DSC of every run by epoch]({SEEDS.name})"


def by_sequences(plan: Plan, runs: Measured) -> dict[str, pd.DataFrame]:
    """Return the comparison of a plan on the phantoms with a sequence missing, and on the others.

    Returns:
        ``LACKING`` and ``OTHERS`` -> a row per variant, as ``compared`` returns it.
    """
    return {
        group: compared(
            plan, {label: [_among(run, lacking) for run in each] for label, each in runs.items()}
        )
        for group, lacking in ((LACKING, True), (OTHERS, False))
    }


def _among(run: TestScores, lacking: bool) -> TestScores:
    """Return the scores of the phantoms that lack a sequence, or those of the others."""
    without = run.cases["patient"].map(
        lambda name: bool(missing_sequences(SEED, patient_index(name)))
    )
    return replace(run, cases=run.cases[without == lacking])


def _by_sequences_shown(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the differences of both groups and their intervals, for reading."""
    shown = {"label": groups[LACKING]["label"]}
    for group, table in groups.items():
        shown[f"{table['patients'].iloc[0]} {group}"] = table["difference"].map("{:+.3f}".format)
        shown[f"95 % CI, {group}"] = list(map(interval, table["CI low"], table["CI high"]))
    return pd.DataFrame(shown).set_index("label")


def _with_curves(runs: Measured) -> bool:
    """Return whether validation curves of each recipe were kept."""
    return all(any(len(run.history) for run in several) for several in runs.values())


def _lowest(runs: Measured) -> Iterator[str]:
    """Yield how low the runs of each recipe end up."""
    for label, several in runs.items():
        best = [run.history["val_dsc"].max() for run in several if len(run.history)]
        failed = sum(score < FAILED for score in best)
        yield f"{label}: {failed} of {len(best)} runs below {FAILED}, the lowest {min(best):.3f}"


def _shown(best: pd.DataFrame, last: pd.DataFrame) -> pd.DataFrame:
    """Return a comparison by the best epoch for reading, with the difference by the last one."""
    table = stats.readable(best).drop(columns="improved")
    table.insert(table.columns.get_loc("CI high") + 1, "last epoch", list(last["difference"]))
    return table


def _null(folder: Path) -> Iterator[str]:
    """Yield the paragraphs about the runs of the baseline alone."""
    measured = evidence(NULL, "best", folder)
    yield f"## {NULL.name}\n\n{NULL.question}"
    yield _outcomes(measured)
    [runs] = measured.values()
    if len(runs) >= PARTS[NULL.name].seeds:
        few, more = (
            stats.false_findings(runs, candidates=3, seeds=seeds, further=further)
            for seeds, further in ((FEW, 0), (FURTHER, len(runs) - 4 * FURTHER))
        )
        yield (
            f"Dealt out among a baseline and three candidates, {TIMES:,} times, as if the seeds of "
            f"all were equal. With {FEW} runs of each {few.helps:.1%} of these sweeps find a "
            f"candidate that helps, {few.any:.1%} one that helps or hurts; with {FURTHER} of each "
            f"candidate and {len(runs) - 3 * FURTHER} of the baseline it is {more.helps:.1%} and "
            f"{more.any:.1%}."
        )
        yield "Of a difference that is added to the DSC of every patient, or taken from it:"
        yield markdown(_power_reached(runs))
    yield _alike(folder)


def _alike(folder: Path) -> str:
    """Return how far the runs of a variant and of its reference with the same seed are alike.

    Those of ``EARLY`` do not count: they are the reference's own trainings, cut short.
    """
    found, counts = [], runs_of_recipes(folder)
    for plan in (part.plan for part in PARTS.values()):
        asked = plan.table == "train" and plan not in (NULL, EARLY) and not plan.ladder
        if asked and seeds_of(plan, counts) > 1:
            first, *others = map(_run_means, evidence(plan, "best", folder).values())
            found += [first.corr(other) for other in others]  # over the seeds that both have
    low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
    return (
        f"The means of a variant's runs and of the reference's with the same seeds correlate by "
        f"{middle:.2f} (median of {len(found)} variants; the middle half {low:.2f} to {high:.2f})."
    )


def _run_means(runs: list[TestScores]) -> pd.Series:
    """Return the mean DSC of each run, by seed."""
    return pd.Series({run.config.seed: run.cases["dsc"].mean() for run in runs})


def _power_reached(runs: list[TestScores]) -> pd.DataFrame:
    """Return how often a difference is found that should be found with 80 % power, and one of 0.

    Two groups are drawn from the runs of one recipe, 1,000 times, without replacement.
    """
    scores = np.array([run.cases["dsc"] for run in runs], float)
    known, rng, rows = stats.spread({NULL.name: runs}), np.random.default_rng(0), {}
    unequal = ((len(runs) - seeds, seeds) for seeds in (3, FEW, FURTHER))
    for theirs, seeds in ((2, 2), (5, 5), (10, 10), *unequal):
        paired, patients = seeds >= pairs_from(theirs, seeds), scores.shape[1]
        size = Design(known, (theirs, seeds), patients, 1, paired).smallest()
        found = dict.fromkeys((size, -size, 0.0), 0)
        for _ in range(TIMES):
            drawn = rng.permutation(len(scores))[: theirs + seeds]
            before, after = scores[drawn[:theirs]], scores[drawn[theirs:]]
            for added in found:
                found[added] += stats.crossed_test(before, after + added, paired).p <= stats.ALPHA
        alike = theirs == seeds
        rows[f"{seeds} runs of each" if alike else f"{seeds} runs against {theirs}"] = {
            "difference": f"{size:.3f}",
            "found": f"{(found[size] + found[-size]) / (2 * TIMES):.1%}",
            "found without a difference": f"{found[0.0] / TIMES:.1%}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _outcomes(runs: Measured) -> str:
    """Return what the means hide, as a table."""
    table = stats.outcomes(runs)
    return markdown(table.assign(missed=table["missed"].map("{:.1f}".format)))


def in_words(folder: Path = FOLDER) -> str:
    """Return how the best recipe does against the baseline, in a sentence."""
    sentences, seeds = [], ""
    epochs: dict[ScoredEpoch, str] = {"best": "best epoch in validation", "last": "last epoch"}
    for epoch, name in epochs.items():
        row = compared(BEST, evidence(BEST, epoch, folder)).iloc[0]
        theirs = row["baseline seeds"]
        others = "each" if theirs == row["seeds"] else f"against {theirs}"
        seeds = f"{row['seeds']} seeds {others}"
        sentences.append(
            f"{name}: {row['mean DSC']:.3f} against {row['mean DSC'] - row['difference']:.3f}, "
            f"{row['difference']:+.3f} (95 % CI {interval(row['CI low'], row['CI high'])}), "
            f"{stats.p_in_words(row['p'])}, half of it from {row['half of it from']} of "
            f"{row['patients']} patients"
        )
    return f"Best recipe against baseline, {seeds}; {'; '.join(sentences)}."


def main() -> None:
    """Run the command line."""
    CommandParser(
        prog="python -m maintain.findings", description="Write phantom.md, and draw the ladder."
    ).parse_args()
    write_atomic(PAGE, page())
    written = [PAGE]
    counts = runs_of_recipes()
    if seeds_of(STEPS, counts) > 1:
        waterfall(compared(STEPS, evidence(STEPS))).savefig(LADDER, metadata={"Software": None})
        written.append(LADDER)
    if seeds_of(BEST, counts) > 1 and _with_curves(runs := evidence(BEST)):
        seeds_curves(runs).savefig(SEEDS, metadata={"Software": None})
        written.append(SEEDS)
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    run_command(main)
