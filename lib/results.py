"""What was measured on patients, from the run folders: tables, figures, and the table in README.

Command line: ``python -m lib.results``, or ``make reference-figures``. Nothing is trained, no patient is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from lib import stats
from lib.config import REFERENCE, Config
from lib.crossval import CrossValidation
from lib.evaluate import THRESHOLD
from lib.logger import Run, write_result_csvs
from lib.measured import FOLDER, Measured, cross_validated, measured
from lib.metrics import Summary
from lib.plot import dsc_bars, dsc_strips, forest, sweep_curves
from lib.postprocess import POSTPROCESSING, nested_choice
from lib.reference import BASELINE, CROSS_VALIDATION, LADDER_PLAN, PARTS, SCALES
from lib.utils import PROJECT, CommandParser, KitError, run_command, write_atomic

BEGIN, END = "<!-- made by: make reference-figures -->", "<!-- end of what make reference-figures makes -->"
WORST = 10  # patients named
TRIALS = "trials-*/*/run.json"


def cross_validation_table(folds: Mapping[str, CrossValidation]) -> pd.DataFrame:
    """A row per recipe: DSC over all patients with its spread, on the file's grid, and at the last epoch, which nobody
    has chosen; against the first, where there are several."""
    rows = {label: _row(each.dsc) | {"file's grid": each.cases["dsc_native"].mean(), "last epoch": _last_epoch(each)}
            for label, each in folds.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    (_, baseline), *others = folds.items()
    if others:
        against = stats.compare(baseline, dict(others)).set_index("label")
        table["difference"], table["p"] = against["difference"], against["p (Holm)"]
        for label, row in against.iterrows():
            table.loc[label, "its 95 % CI"] = f"{row['CI low']:+.3f} to {row['CI high']:+.3f}"
            table.loc[label, "verdict"] = row["verdict"]
    return table.fillna({"its 95 % CI": "", "verdict": ""})


def _row(dsc: Summary) -> dict[str, float | str]:
    return {"patients": dsc.n, "mean DSC": dsc.mean, "95 % CI": f"{dsc.low:.3f} to {dsc.high:.3f}",
            "median": dsc.median, "SD": dsc.sd}


def _last_epoch(folds: CrossValidation) -> float:
    """Mean DSC over all patients at the last epochs."""
    totals = [(run.history["val_dsc"].iloc[-1] * len(run.cases), len(run.cases)) for run in folds.runs]
    return sum(total for total, _ in totals) / sum(count for _, count in totals)


def worst_patients(folds: Mapping[str, CrossValidation], count: int = WORST) -> pd.DataFrame:
    """The patients that the last recipe fails most, with what the others make of them and what goes wrong.

    ``missed`` is the share of the tumour that the last recipe does not find, ``false`` the share of what it finds that
    is none, both on the file's grid.
    """
    scores = pd.DataFrame({label: each.cases.set_index("patient")["dsc"] for label, each in folds.items()})
    last = list(folds.values())[-1].cases.set_index("patient")
    scores["missed"], scores["false"] = 1 - last["recall"], 1 - last["precision"]
    scores["tumour voxels"] = last["tp"] + last["fn"]
    return scores.nsmallest(count, list(folds)[-1])


# --- pages --------------------------------------------------------------------------------------------------------


def sections(scale: str, folder: Path = FOLDER) -> Iterator[str]:
    """What was measured at a scale, section by section, as Markdown."""
    folds = cross_validated(scale, folder)
    if folds:
        yield (f"### Cross-validation\n\n{markdown(cross_validation_table(folds))}\n\n"
               f"![DSC of each patient](cross-validation-{scale}.png)\n\n"
               f"The patients that the last recipe fails most:\n\n{markdown(worst_patients(folds))}")
    file = folder / POSTPROCESSING.format(scale)
    if file.is_file():
        yield (f"### Post-processing\n\nFor each fold, the threshold and the kept pieces that were best on the other "
               f"folds, against the largest piece above {THRESHOLD}.\n\n{markdown(_postprocessing(pd.read_csv(file)))}")
    for name in PARTS:
        runs = measured(name, scale, folder) if name != CROSS_VALIDATION else {}
        if len(runs) > 1:
            yield f"### {name}\n\n{PARTS[name].plan.question}\n\n{markdown(_compared(name, runs))}"


def _postprocessing(table: pd.DataFrame) -> pd.DataFrame:
    """A row per recipe: what was chosen, and what it gave."""
    rows = {}
    for recipe, scores in table.groupby("recipe", sort=False):
        choice = nested_choice(scores)
        against = stats.paired(choice["dsc"] - choice["published"])
        picked = choice.drop_duplicates("fold")
        rows[recipe] = {"as published": choice["published"].mean(), "chosen": choice["dsc"].mean(),
                        "difference": against.mean, "95 % CI": f"{against.low:+.3f} to {against.high:+.3f}",
                        "p": against.p, "verdict": against.verdict,
                        "fold by fold": ", ".join(f"{row.rule} {row.threshold:g}" for row in picked.itertuples())}
    return pd.DataFrame.from_dict(rows, orient="index")


def _compared(name: str, runs: Measured) -> pd.DataFrame:
    """Every variant against the first, or each rung of the ladder against the one below it."""
    means = pd.DataFrame({"mean DSC": {label: _mean_dsc(several) for label, several in runs.items()}})
    if name == LADDER_PLAN:
        table = stats.ladder(runs)
    else:
        (_, baseline), *others = runs.items()
        table = stats.compare(baseline, dict(others)).set_index("label")
    kept = ["difference", "CI low", "CI high", "p (Holm)", "improved", "verdict"]
    return means.join(table[kept])


def _mean_dsc(runs: list[Run]) -> float:
    return float(pd.concat([run.cases["dsc"] for run in runs]).mean())


def page(folder: Path = FOLDER) -> str:
    """``results.md``: all that was measured, at each scale."""
    parts = ["# Results on patients", "Made from the run folders by `make reference-figures`. Do not edit."]
    for scale, size in SCALES.items():
        text = list(sections(scale, folder))
        if text:
            words = ", ".join(f"{name} {value}" for name, value in size.changes.items()) or "as published"
            parts += [f"## At scale `{scale}`: {words}", _effort(scale, folder), *text]
    trials = [Run(file.parent) for file in sorted(folder.glob(TRIALS))]
    if trials:
        parts += ["## Trials", markdown(_trials(trials))]
    return "\n\n".join(parts) + "\n"


def _trials(runs: list[Run]) -> pd.DataFrame:
    """What each trial changed of the published recipe, and its DSC epoch by epoch, the best first."""
    scores = {run.id: run.history["val_dsc"] for run in runs}
    rows = {run.id: {"best": scores[run.id].max(), "epochs": ", ".join(map("{:.3f}".format, scores[run.id])),
                     "changes": changes(run.config)} for run in runs}
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("best", ascending=False)


def changes(config: Config) -> str:
    """What a recipe changes of the published one."""
    return ", ".join(f"{name} {value}" for name, value in config.to_dict().items()
                     if value != getattr(REFERENCE, name) and name not in ("split", "device"))


def _effort(scale: str, folder: Path) -> str:
    """How many runs, for how long, and where."""
    runs = {run.id: run.info for name in PARTS for several in measured(name, scale, folder).values() for run in several}
    where = sorted({f"{info['device']}, {info['precision']}, torch {info['versions']['torch']}"
                    for info in runs.values()})
    hours = sum(info["seconds"] for info in runs.values()) / 3600
    return f"{len(runs)} runs, {hours:.1f} hours of training; {'; '.join(where)}."


def readme_table(folder: Path = FOLDER) -> str:
    """What README says of it, between its marks."""
    for scale in reversed(SCALES):
        if folds := cross_validated(scale, folder):
            patients = len(next(iter(folds.values())).cases)
            size = SCALES[scale].changes
            words = (f"{patients} patients, {len(next(iter(folds.values())).runs)} folds, scale `{scale}`"
                     + (f" ({size['image_size']}x{size['image_size']} pixels, {size['init_features']} features, "
                        f"{size['epochs']} epochs)" if size else ""))
            return f"Cross-validated: {words}.\n\n{markdown(cross_validation_table(folds))}"
    raise KitError(f"{folder}: no cross-validation there; python -m lib.sweep reference makes it")


def with_block(text: str, block: str) -> str:
    """``text`` with ``block`` between its marks.

    Raises:
        KitError: the marks are not there.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise KitError(f"README: no place for the results; write {BEGIN} and {END} on lines of their own")
    return f"{head}{BEGIN}\n{block}\n{END}{tail}"


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index as first column, three decimals."""
    lines = [["", *map(str, table.columns)], ["---"] * (len(table.columns) + 1),
             *([str(label), *map(_cell, row)] for label, row in zip(table.index, table.values.tolist(), strict=True))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.0f}" if value > 1 and value.is_integer() else f"{value:.3f}"
    return str(value)


# --- figures ------------------------------------------------------------------------------------------------------


def draw(folder: Path = FOLDER) -> list[Path]:
    """Draw what was measured into ``folder``; returns the files."""
    figures = {}
    for scale in SCALES:
        if folds := cross_validated(scale, folder):
            figures[f"cross-validation-{scale}"] = dsc_strips(
                {label: each.cases.set_index("patient")["dsc"] for label, each in folds.items()})
            figures[f"cross-validation-curves-{scale}"] = sweep_curves(
                {label: list(each.runs) for label, each in folds.items()})
            figures[f"cross-validation-patients-{scale}"] = dsc_bars(list(folds.values())[-1].cases)
        for name in (LADDER_PLAN, BASELINE):
            runs = measured(name, scale, folder)
            if len(runs) > 1:
                figures[f"{name.replace(' ', '-')}-{scale}"] = sweep_curves(runs)
        compared = {name: runs for name in PARTS if name != CROSS_VALIDATION
                    and len(runs := measured(name, scale, folder)) > 1}
        for name, runs in compared.items():
            (_, baseline), *others = runs.items()
            figures[f"forest-{name.replace(' ', '-')}-{scale}"] = forest(stats.compare(baseline, dict(others)))
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], metadata={"Software": None})
    return files


def main() -> None:
    """The command line."""
    parser = CommandParser(prog="python -m lib.results", description="Tables and figures of what was measured.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="(default: result/reference)")
    folder = parser.parse_args().folder
    write_result_csvs(folder)
    write_atomic(folder / "results.md", page(folder))
    for file in draw(folder):
        print(file)
    readme = PROJECT / "README.md"
    write_atomic(readme, with_block(readme.read_text(encoding="utf-8"), readme_table(folder)))
    print(readme)


if __name__ == "__main__":
    run_command(main)
