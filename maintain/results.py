"""Make tables and figures of what was measured on patients, from the run folders.

Command line: ``python -m maintain.results``, or ``make reference-figures``. Nothing is trained, and
no patient is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib import stats
from lib.config import Component, changes
from lib.evaluate import THRESHOLD
from lib.logger import Run, write_result_csvs
from lib.metrics import Summary
from lib.plot import dsc_strips, forest, sweep_curves
from lib.runtime import CommandParser, run_command
from lib.sweep import CrossValidation, Plan
from lib.utils import PROJECT, KitError, write_atomic
from maintain.postprocess import POSTPROCESSING, PUBLISHED, nested_choice
from maintain.reference import (
    CROSS_VALIDATION,
    FOLDER,
    LADDER_FOLDS,
    LADDER_PLAN,
    PARTS,
    SCALES,
    WEIGHTS,
    Measured,
    cross_validations,
    measured,
)

PAGE = PROJECT / "docs" / "researchers.md"
BY_SEQUENCES = "ladder_by_sequences.csv"
_MARK = "<!-- {} -->"  # filled in here, so that only the page contains the marks
MAKER = "make reference-figures"
BEGIN, END = _MARK.format(f"made by: {MAKER}"), _MARK.format("end of what it makes")
WORST = 10  # patients named
# in them FLAIR replaces a missing sequence, or two; benchmarks.phantom counts exact copies
SUBSTITUTED = (
    *("TCGA_DU_6407", "TCGA_DU_7013", "TCGA_DU_7301", "TCGA_DU_8165", "TCGA_FG_7634"),
    *("TCGA_FG_A60K", "TCGA_HT_7877", "TCGA_HT_8105", "TCGA_HT_A616", "TCGA_HT_A61B"),
)
TRIALS = "trials-*/*/run.json"


# --- cross-validation -----------------------------------------------------------------------------


def cross_validation_table(folds: Mapping[str, CrossValidation]) -> pd.DataFrame:
    """Return a row per recipe: its DSC over all patients, and the difference to the first.

    Beside the DSC is that on the file's grid, and that of the last epoch, which nobody chose.
    """
    rows = {
        label: _spread(each.dsc)
        | {"file's grid": each.cases["dsc_native"].mean(), "last epoch": _last_epoch(each)}
        for label, each in folds.items()
    }
    for row in stats.compare_to_baseline(folds).to_dict("records"):
        rows[row["label"]] |= {
            "difference": row["difference"],
            "its 95 % CI": interval(row["CI low"], row["CI high"]),
            "p (Holm)": stats.p_in_cell(row["p (Holm)"]),
            "verdict": row["verdict"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna(
        {"its 95 % CI": "", "p (Holm)": "", "verdict": ""}
    )


def all_cross_validations(folder: Path = FOLDER) -> pd.DataFrame:
    """Return the ``cross_validation_table`` of every scale, one below the other."""
    tables = {
        scale: cross_validation_table(folds) for scale, folds in cross_validations(folder).items()
    }
    whole = pd.concat(tables)
    whole.index = pd.Index([f"{scale}, {label}" for scale, label in whole.index])
    return whole


def _spread(dsc: Summary) -> dict[str, float | str]:
    """Return the cells of a mean DSC with its spread."""
    return {
        "patients": dsc.n,
        "mean DSC": dsc.mean,
        "95 % CI": f"{dsc.low:.3f} to {dsc.high:.3f}",
        "median": dsc.median,
        "SD": dsc.sd,
    }


def interval(low: float, high: float) -> str:
    """Return an interval as text."""
    return f"{low:+.3f} to {high:+.3f}"


def _last_epoch(folds: CrossValidation) -> float:
    """Return the mean DSC over all patients at the last epochs."""
    totals = [
        (run.history["val_dsc"].iloc[-1] * len(run.cases), len(run.cases)) for run in folds.runs
    ]
    return sum(total for total, _ in totals) / sum(count for _, count in totals)


def fold_table(folds: Mapping[str, CrossValidation]) -> pd.DataFrame:
    """Return a row per fold: the first recipe, the last, and the difference."""
    cases = [each.cases.set_index("patient") for each in folds.values()]
    first, *_, last = folds
    rows = {}
    for fold, before in cases[0].groupby("fold")["dsc"]:
        after = cases[-1]["dsc"][before.index]
        result = stats.paired_test(after - before)
        rows[fold] = {
            "patients": result.n,
            first: before.mean(),
            last: after.mean(),
            "difference": result.mean,
            "95 % CI": interval(result.low, result.high),
            "improved": f"{round(result.improved * result.n)} of {result.n}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def choice(folds: Mapping[str, CrossValidation], folder: Path = FOLDER) -> str:
    """Return on how many of the patients trials had been scored before, in words.

    It is empty if there were no trials.
    """
    patients = set(next(iter(folds.values())).cases["patient"])
    scored = {name for run in _trial_runs(folder) for name in run.info["split"]["validation"]}
    seen = patients & scored
    if not seen:
        return ""
    return (
        f"The recipe was chosen in [trials](#trials) that used {len(seen)} of these "
        f"{len(patients)} patients, so p is too small by an unknown amount."
    )


COMPONENTS = "components.json"
"""Every connected component of each validation patient, where a run has it."""


def component_table(folds: Mapping[str, CrossValidation]) -> pd.DataFrame:
    """Return a row per recipe and rule for components, at the last epoch of each fold.

    The last row of a recipe is the best single component that there is, which no rule can know.
    It is empty where the runs have not kept their components.
    """
    files = {label: [run.folder / COMPONENTS for run in each.runs] for label, each in folds.items()}
    if not all(file.is_file() for several in files.values() for file in several):
        return pd.DataFrame()
    rows: dict[str, dict[str, Any]] = {}
    tests, changed = {}, {}
    for label, several in files.items():
        patients = [
            patient for file in several for patient in json.loads(file.read_text(encoding="utf-8"))
        ]
        scores = pd.DataFrame([_by_rule(patient) for patient in patients])
        for rule in scores:
            rows[f"{label}, {rule}"] = {"patients": len(scores), "mean DSC": scores[rule].mean()}
        for rule in get_args(Component)[1:]:
            differences = scores[rule] - scores["largest"]
            tests[f"{label}, {rule}"] = stats.paired_test(differences)
            changed[f"{label}, {rule}"] = int((differences != 0).sum())
    for (row, result), p in zip(
        tests.items(), stats.holm(each.p for each in tests.values()), strict=True
    ):
        rows[row] |= {
            "difference": result.mean,
            "its 95 % CI": interval(result.low, result.high),
            "p (Holm)": stats.p_in_cell(p),
            "changed": f"{changed[row]} of {result.n}",
            "verdict": stats.verdict(result.mean, p),
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna(
        {"its 95 % CI": "", "p (Holm)": "", "changed": "", "verdict": ""}
    )


def _by_rule(patient: Mapping[str, Any]) -> dict[str, float]:
    """Return rule of ``Config.component`` -> DSC of a patient of ``COMPONENTS``."""
    voxels, true = np.array(patient["voxels"]), np.array(patient["true"])
    truth, count = patient["ground truth"], len(voxels)
    if not count:
        return dict.fromkeys((*get_args(Component), "best there is"), float(not truth))
    each = 2 * true / (voxels + truth)
    return {
        "largest": float(each[np.argmax(voxels)]),
        "likeliest": float(each[np.argmax(patient["log odds"])]),
        "all": float(2 * true.sum() / (voxels.sum() + truth)),
        "best there is": float(each.max()),
    }


def worst_patients(folds: Mapping[str, CrossValidation], count: int = WORST) -> pd.DataFrame:
    """Return the patients with the lowest DSC of the last recipe, and their errors.

    ``missed`` is the share of the tumour that the last recipe does not find. ``false`` is the share
    of its prediction that is no tumour. Both are on the file's grid.
    """
    scores = pd.DataFrame(
        {label: each.cases.set_index("patient")["dsc"] for label, each in folds.items()}
    )
    last = list(folds.values())[-1].cases.set_index("patient")
    scores["missed"], scores["false"] = 1 - last["recall"], 1 - last["precision"]
    scores["tumour voxels"] = last["tp"] + last["fn"]
    return scores.nsmallest(count, list(folds)[-1])


# --- pages ----------------------------------------------------------------------------------------


def page(folder: Path = FOLDER) -> str:
    """Return ``results.md``: all complete parts of the reference at each scale, and the trials."""
    parts = [
        "# Results on patients",
        "Made from the run folders by `make reference-figures`. Do not edit.",
    ]
    for scale in SCALES:
        text = list(_sections(scale, folder))
        if text:
            parts += [f"## At scale `{scale}`: {in_words(scale)}", _effort(scale, folder), *text]
    if trials := _trial_runs(folder):
        parts += ["## Trials", markdown(_trials(trials))]
    return "\n\n".join(parts) + "\n"


def _sections(scale: str, folder: Path) -> Iterator[str]:
    """Yield the sections of a scale."""
    for name in PARTS:
        runs = measured(name, scale, folder) if name != WEIGHTS else {}  # weights have no score
        if not runs:
            continue
        heading = f"### {name}\n\n{PARTS[name].plan.question}"
        pictures = "\n".join(f"![{kind}]({file})" for kind, file in _files(name, scale).items())
        if name == CROSS_VALIDATION:
            folds = compared_ones(name, runs)
            yield "\n\n".join(
                (
                    heading,
                    markdown(cross_validation_table(folds)),
                    f"{choice(folds, folder)} Fold by fold:".strip(),
                    markdown(fold_table(folds)),
                    pictures,
                    "The patients with the lowest DSC of the last recipe:",
                    markdown(worst_patients(folds)),
                )
            )
            components = component_table(folds)
            if len(components):
                yield (
                    f"### Which component is kept\n\n"
                    f"At the last epoch, by `Config.component`, against the largest, as published; "
                    f"`best there is` needs the ground truth.\n\n{markdown(components)}"
                )
        else:
            table = markdown(_shown(name, runs))
            yield "\n\n".join((heading, table, _basis(name, runs), pictures))
        if name == LADDER_FOLDS and len(groups := by_sequences(compared_ones(name, runs))):
            yield (
                f"Patients in whom FLAIR replaces a missing sequence, and the others; each step "
                f"against the one before, without a correction:\n\n{markdown(groups)}"
            )
    file = folder / POSTPROCESSING.format(scale)
    if file.is_file():
        table = pd.read_csv(file)
        yield (
            f"### Without training\n\n"
            f"The networks of the cross-validation, each patient by those that have not seen it: "
            f"averaged over flips, and all together.\n\n{markdown(_without_training(table))}\n\n"
            f"For each fold, the threshold and the rule for components that were best on the other "
            f"folds, against the largest connected component above {THRESHOLD}:\n\n"
            f"{markdown(_postprocessing(table))}"
        )


def compared_ones(name: str, runs: Measured) -> Mapping[str, Any]:
    """Return what is compared of each variant of a part: its runs, or their cross-validation."""
    if not PARTS[name].folds:
        return runs
    return {label: CrossValidation(tuple(several)) for label, several in runs.items()}


def by_sequences(steps: Mapping[str, CrossValidation]) -> pd.DataFrame:
    """Return a row per step of a ladder: patients with a sequence missing, and the others.

    It is empty where no patient lacks one.
    """
    scores = pd.DataFrame(
        {label: each.cases.set_index("patient")["dsc"] for label, each in steps.items()}
    )
    missing = scores.index.str.startswith(SUBSTITUTED)
    if not missing.any():
        return pd.DataFrame()
    groups = {"a sequence missing": scores[missing], "all there": scores[~missing]}
    table = pd.DataFrame({group: these.mean() for group, these in groups.items()})
    for group, these in groups.items():
        for before, after in pairwise(scores):
            result = stats.paired_test(these[after] - these[before])
            table.loc[after, f"{group}: step"] = result.mean
            table.loc[after, f"{group}: 95 % CI"] = interval(result.low, result.high)
    return table


def compared(plan: Plan, runs: Mapping[str, stats.Runs]) -> pd.DataFrame:
    """Compare every variant with the first, or each step of a ladder with the one below."""
    compare = stats.compare_ladder if plan.ladder else stats.compare_to_baseline
    return compare(runs)


def _shown(name: str, runs: Measured) -> pd.DataFrame:
    """Return the comparison for reading, a row per variant."""
    means = pd.DataFrame(
        {
            "mean DSC": {
                label: float(pd.concat([run.cases["dsc"] for run in several]).mean())
                for label, several in runs.items()
            }
        }
    )
    table = compared(PARTS[name].plan, compared_ones(name, runs)).set_index("label")
    table["p (Holm)"] = table["p (Holm)"].map(stats.p_in_cell)
    table["half of it from"] = [
        f"{carriers} of {patients}"
        for carriers, patients in zip(table["half of it from"], table["patients"], strict=True)
    ]
    shown = ["difference", "CI low", "CI high", "p (Holm)", "improved", "half of it from"]
    return means.join(table[[*shown, "verdict"]])


def _basis(name: str, runs: Measured) -> str:
    """Return the number of seeds, and what the comparison could have shown."""
    count = len(next(iter(runs.values())))
    basis = f"Folds: {count}" if PARTS[name].folds else f"Seeds: {count}"
    return f"{basis}. {stats.resolution(compared(PARTS[name].plan, compared_ones(name, runs)))}"


def _without_training(table: pd.DataFrame) -> pd.DataFrame:
    """Return each way to predict, against the first, by the published rule."""
    rule, threshold = PUBLISHED
    rows = table[(table["rule"] == rule) & (table["threshold"] == threshold)]
    scores = rows.pivot(index="patient", columns="recipe", values="dsc")[
        list(rows["recipe"].unique())
    ]
    first, *others = scores.columns
    against = {name: stats.paired_test(scores[name] - scores[first]) for name in others}
    shown: dict[str, dict[str, float | str]] = {first: {"mean DSC": scores[first].mean()}}
    for (name, result), p in zip(
        against.items(), stats.holm(each.p for each in against.values()), strict=True
    ):
        shown[name] = {
            "mean DSC": scores[name].mean(),
            "difference": result.mean,
            "95 % CI": interval(result.low, result.high),
            "p (Holm)": stats.p_in_cell(p),
            "improved": result.improved,
            "verdict": stats.verdict(result.mean, p),
        }
    return pd.DataFrame.from_dict(shown, orient="index").fillna(
        {"95 % CI": "", "p (Holm)": "", "verdict": ""}
    )


def _postprocessing(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per recipe: the rules that were chosen, and their DSC."""
    choices = {
        recipe: nested_choice(scores) for recipe, scores in table.groupby("recipe", sort=False)
    }
    against = {
        recipe: stats.paired_test(choice["dsc"] - choice["published"])
        for recipe, choice in choices.items()
    }
    adjusted = stats.holm(result.p for result in against.values())
    return pd.DataFrame.from_dict(
        {
            recipe: {
                "as published": choice["published"].mean(),
                "chosen": choice["dsc"].mean(),
                "difference": against[recipe].mean,
                "95 % CI": interval(against[recipe].low, against[recipe].high),
                "p (Holm)": stats.p_in_cell(p),
                "verdict": stats.verdict(against[recipe].mean, p),
                "fold by fold": ", ".join(
                    f"{row.rule} {row.threshold:g}"
                    for row in choice.drop_duplicates("fold").itertuples()
                ),
            }
            for (recipe, choice), p in zip(choices.items(), adjusted, strict=True)
        },
        orient="index",
    )


def _trial_runs(folder: Path) -> list[Run]:
    """Return the runs of the trials."""
    return [Run(file.parent) for file in sorted(folder.glob(TRIALS))]


def _trials(runs: list[Run]) -> pd.DataFrame:
    """Return what each trial changed of the published recipe, and its DSC epoch by epoch.

    The best of each split comes first.
    """
    scores = {run.id: run.history["val_dsc"] for run in runs}
    rows = {
        run.id: {
            "split": run.info["split"]["name"],
            "best": scores[run.id].max(),
            "epochs": ", ".join(map("{:.3f}".format, scores[run.id])),
            "changes": changes(run.config),
        }
        for run in runs
    }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values(
        ["split", "best"], ascending=[True, False]
    )


def in_words(scale: str) -> str:
    """Return what a scale changes of every recipe."""
    return (
        ", ".join(f"{name} {value}" for name, value in SCALES[scale].changes.items())
        or "as published"
    )


def _effort(scale: str, folder: Path) -> str:
    """Return how many runs there are, how long they took, and on which devices."""
    runs = {
        run.id: run.info
        for name in PARTS
        for several in measured(name, scale, folder).values()
        for run in several
    }
    where = sorted(
        {
            f"{info['device']}, {info['precision']}, torch {info['versions']['torch']}"
            for info in runs.values()
        }
    )
    hours = sum(info["seconds"] for info in runs.values()) / 3600
    return f"{len(runs)} runs, {hours:.1f} hours of training; {'; '.join(where)}."


def page_table(folder: Path = FOLDER) -> str:
    """Return the block of ``PAGE`` between its marks."""
    found = cross_validations(folder)
    patients = len(next(iter(found[next(iter(found))].values())).cases)
    scales = "; ".join(f"`{scale}`: {in_words(scale)}" for scale in found)
    return (
        f"Cross-validated on {patients} patients, {PARTS[CROSS_VALIDATION].folds} folds, at each "
        f"scale ({scales}; the rest as published).\n\n{markdown(all_cross_validations(folder))}"
    )


def with_block(text: str, block: str, maker: str = MAKER) -> str:
    """Return a text with a block between the marks of the command that makes it.

    Raises:
        KitError: the marks are missing.
    """
    mark = _MARK.format(f"made by: {maker}")
    head, begin, rest = text.partition(mark)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise KitError(f"no place for the results; write {mark} and {END} on lines of their own")
    return f"{head}{mark}\n{block}\n{END}{tail}"


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, its index as first column, three decimals."""
    lines = [
        ["", *map(str, table.columns)],
        ["---"] * (len(table.columns) + 1),
        *(
            [str(label), *map(_value_in_cell, row, table.columns)]
            for label, row in zip(table.index, table.values.tolist(), strict=True)
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value_in_cell(value: object, column: str) -> str:
    """Return a value as text; large whole numbers without decimals."""
    if not isinstance(value, float):
        return str(value)
    if pd.isna(value):
        return ""
    return f"{value:.0f}" if value > 1 and value.is_integer() else f"{value:.3f}"


# --- figures --------------------------------------------------------------------------------------


def _files(name: str, scale: str) -> dict[str, str]:
    """Return content of a part's figure -> its file."""
    slug = f"{name.replace(' ', '-')}-{scale}"
    kinds = (
        {"DSC of each patient": "patients"}
        if name == CROSS_VALIDATION
        else {"differences with 95 % CI": "forest"}
    )
    return {
        kind: f"{slug}-{word}.png"
        for kind, word in (kinds | {"loss and DSC per epoch": "curves"}).items()
    }


def draw(folder: Path = FOLDER) -> list[Path]:
    """Draw the complete parts of the reference into ``folder``; return the files."""
    files = []
    for scale in SCALES:
        for name in PARTS:
            runs = measured(name, scale, folder) if name != WEIGHTS else {}
            if runs:
                for file, figure in zip(
                    _files(name, scale).values(), _figures(name, runs), strict=True
                ):
                    files.append(folder / file)
                    figure.savefig(files[-1], metadata={"Software": None})
    return files


def _figures(name: str, runs: Measured) -> tuple[Figure, Figure]:
    """Draw the figures of a part, in the order of ``_files``."""
    if name == CROSS_VALIDATION:
        first = dsc_strips(
            {
                label: folds.cases.set_index("patient")["dsc"]
                for label, folds in compared_ones(name, runs).items()
            }
        )
    else:
        plan = PARTS[name].plan
        first = forest(compared(plan, compared_ones(name, runs)), plan.ladder)
    return first, sweep_curves(runs)


def write_tables(folder: Path = FOLDER) -> list[Path]:
    """Write the tables that ``train_best.ipynb`` shows; return their files.

    The ladder, and the rules for components, are of the largest scale that they were measured at;
    the ladder on all patients, if it was cross-validated.
    """
    tables = {"cross_validation.csv": all_cross_validations(folder)}
    components = [component_table(folds) for folds in cross_validations(folder).values()]
    if any(map(len, components)):
        tables["components.csv"] = [table for table in components if len(table)][-1]
    for name, scale in product((LADDER_FOLDS, LADDER_PLAN), reversed(SCALES)):
        if runs := measured(name, scale, folder):
            steps = compared_ones(name, runs)
            tables["ladder.csv"] = stats.readable(stats.compare_ladder(steps))
            if name == LADDER_FOLDS and len(groups := by_sequences(steps)):
                tables[BY_SEQUENCES] = groups
            break
    for name, table in tables.items():
        write_atomic(folder / name, table.to_csv(lineterminator="\n", float_format="%.3f"))
    return [folder / name for name in tables]


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m maintain.results", description="Tables and figures of what was measured."
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="(default: result/reference)")
    folder = parser.parse_args().folder
    write_result_csvs(folder)
    write_atomic(folder / "results.md", page(folder))
    written = [*draw(folder), *write_tables(folder)]
    if folder.resolve() == FOLDER:  # the page shows the kit's own results
        written.append(PAGE)
        write_atomic(
            written[-1], with_block(written[-1].read_text(encoding="utf-8"), page_table(folder))
        )
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    run_command(main)
