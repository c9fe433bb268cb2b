"""The report: every attempt, its numbers, figures and what the student makes of them, from the run folders alone.

Command line: ``python -m lib.report --out result [--data DIR] [--no-images]``
"""

from __future__ import annotations

import base64
import io
import os
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure
from PIL import Image

from lib import plot
from lib.analysis import GENERAL, make_template, read_analysis, to_html, to_markdown
from lib.attempts import Attempt, Experiment, Recipe, experiments, read_attempts
from lib.config import REFERENCE
from lib.data import find_root
from lib.data.kaggle import KAGGLE_FOLDERS
from lib.dataset import BrainData, load_data
from lib.logger import Run
from lib.phantom import PHANTOM_FOLDER
from lib.predict import Prediction, predict
from lib.runtime import CommandParser, run_command
from lib.stats import p_in_cell, resolution
from lib.utils import KitError, short_path, write_atomic

HTML, MARKDOWN, ANALYSIS, FIGURES = "report.html", "report.md", "analysis.md", "report"
_MOST_CURVES = 12  # more lines in one picture cannot be told apart
_DPI = 120


def write_report(out: str | Path = "result", data: BrainData | str | Path | None = None,
                 images: bool = True, target: str | Path | None = None) -> dict[str, Path]:
    """Write ``report.html``, one file that opens without a network, and ``report.md`` with its pictures in ``report/``.

    The student's words come from ``analysis.md`` beside them, which is made when it is not there and never changed.
    The same run folders, words and data give the same bytes.

    Args:
        out: folder of results.
        data: for examples of segmentations: from ``load_data``, or a folder for it. By default where the notebooks find
            it, if it holds the patients of a run.
        images: False leaves the examples out: of real patients, they may not be shared as numbers may.
        target: where to write it; by default ``out``.

    Returns:
        File name -> path.

    Raises:
        KitError: no runs there, ``analysis.md`` is no UTF-8 text, or the data given cannot be read.
    """
    out = Path(out)
    attempts, unreadable = read_attempts(out)
    plans = experiments(attempts)
    make_template(out / ANALYSIS, plans)
    words = read_analysis(out / ANALYSIS, plans)
    examples = _Examples(data, images)
    with plt.rc_context({"text.parse_math": False}):  # a label may hold a dollar sign
        sections = [_section(number, plan, found, words.get(plan), examples)
                    for number, (plan, found) in enumerate(plans.items(), 1)]
    content = {"sections": sections, "general": words.get(GENERAL), "real": examples.real, "analysis": ANALYSIS,
               "attempts": [_attempt_row(attempt) for attempt in attempts], "unreadable": unreadable,
               "environments": _environments(attempts), "counts": _counts(attempts, unreadable)}
    return _write(Path(target or out), content) | {ANALYSIS: out / ANALYSIS}


def _write(out: Path, content: dict[str, Any]) -> dict[str, Path]:
    """Fill both templates; of the figures in the folder only those of this report stay."""
    figures = [figure for section in content["sections"] for part in section["parts"] for figure in part["figures"]]
    for figure in figures:
        write_atomic(out / FIGURES / figure.file, figure.png)
    for file in (out / FIGURES).glob("*.png"):
        if file.name not in {figure.file for figure in figures}:
            file.unlink()
    paths = {name: out / name for name in (HTML, MARKDOWN)}
    for name, path in paths.items():
        text = _TEMPLATES.get_template(f"{name}.jinja").render(content)
        write_atomic(path, text if name == HTML else re.sub(r"\n{3,}", "\n\n", text))
    return paths


# --- a section for each plan --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A figure as PNG, its file in the folder of figures, what it shows in words, and what is said under it."""

    file: str
    alt: str
    caption: str
    width: int
    height: int
    png: bytes = field(repr=False)

    @property
    def uri(self) -> str:
        """The picture itself, as an address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def _section(number: int, plan: str, found: list[Experiment], words: str | None,
             examples: _Examples) -> dict[str, Any]:
    parts = [_part(f"{number:02}-{_slug(plan)}" + (f"-{i}" if len(found) > 1 else ""), experiment, examples)
             for i, experiment in enumerate(found, 1)]
    return {"id": f"plan-{number}", "plan": plan, "parts": parts, "words": words}


def _part(name: str, experiment: Experiment, examples: _Examples) -> dict[str, Any]:
    """All that the templates say of one experiment."""
    finished = [recipe for recipe in experiment.recipes if recipe.summary]
    best = max(finished, key=lambda recipe: recipe.summary.mean, default=None)
    figures = [_picture(f"{name}-{kind}.png", alt, caption, figure)
               for kind, alt, caption, figure in _drawings(experiment, finished)]
    example = examples.of(best) if best else "No run has finished."
    if isinstance(example, Figure):
        figures.append(_picture(f"{name}-examples.png", "segmentations of the worst, the median and the best patient",
                                f"The best run of this plan, {best.label}.", example))
    known = [attempt for recipe in experiment.recipes for attempt in recipe.attempts]
    first, table = next((attempt for attempt in known if attempt.data), known[0]), experiment.verdicts
    return {
        "data": first.data.get("name", "data unknown"), "patients": len(best.dsc) if best else len(first.validation),
        "settings": known[0].run.config.to_dict(), "reference": experiment.reference, "ladder": experiment.ladder,
        "rows": [_row(experiment, recipe) for recipe in experiment.recipes], "best": best, "figures": figures,
        "note": example if isinstance(example, str) else None, "cases": _cases(finished),
        "resolution": None if table is None else resolution(table),
        "verdicts": Counter([] if table is None else table["verdict"]),
        "statuses": Counter(attempt.status for attempt in known),
    }


def _cases(finished: list[Recipe]) -> dict[str, Any]:
    """DSC of each patient, a row each, a column for each recipe; nothing where a recipe has no such patient."""
    table = pd.DataFrame({recipe.label: recipe.dsc for recipe in finished}).sort_index()
    rows = [(name, [None if pd.isna(value) else value for value in values])
            for name, values in zip(table.index, table.to_numpy(), strict=True)]
    return {"labels": list(table.columns), "rows": rows}


def _row(experiment: Experiment, recipe: Recipe) -> dict[str, Any]:
    """A recipe's line in the table of its experiment."""
    table = experiment.verdicts
    found = [] if table is None else table[table["label"] == recipe.label].to_dict("records")
    several = len(recipe.attempts) > 1
    notes = [(one.status, f"seed {one.run.config.seed} {one.words}" if several else one.words)
             for one in recipe.attempts if one.status != "finished"]
    if recipe.outdated:
        notes.append(("", f"not counted: {recipe.outdated} earlier runs, as the code was changed after them"))
    return {
        "label": recipe.label, "changed": recipe.changed, "basis": _basis(recipe), "finished": len(recipe.runs),
        "notes": notes,
        "reference": recipe is experiment.reference, "reason": experiment.reasons.get(recipe.label),
        "epochs": _listed(attempt.run.config.epochs for attempt in recipe.attempts),
        "best_epoch": ", ".join(str(run.info["best"]["epoch"]) for run in recipe.runs),
        "summary": recipe.summary, "compared": found[0] if found else None,
    }


def _basis(recipe: Recipe) -> str:
    """How many runs a mean rests on, where it is more than one: "3 seeds, averaged", "5 folds", or both."""
    seeds = len(recipe.scored)
    folds = len(recipe.runs) // seeds if seeds else 0
    parts = [f"{folds} folds"] * (folds > 1) + [f"{seeds} seeds, averaged"] * (seeds > 1)
    return ", ".join(parts)


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values))


def _drawings(experiment: Experiment, finished: list[Recipe]) -> Iterator[tuple[str, str, str, Figure]]:
    """Name, words, caption and drawing of the figures that an experiment has."""
    lines, table = _lines(experiment), experiment.verdicts
    finished = [replace(recipe, label=_wrapped(recipe.label)) for recipe in finished]
    if len(lines) == 1 and len(only := next(iter(lines.values()))) == 1:
        yield "curves", f"loss and validation DSC per epoch of {next(iter(lines))}", "", plot.curves(only[0])
    elif lines:
        most = f"The first recipe and the {_MOST_CURVES - 1} others with the highest DSC, of {len(experiment.recipes)}."
        yield ("curves", f"validation loss and DSC per epoch of {'; '.join(lines)}",
               most if len(experiment.recipes) > _MOST_CURVES else "",
               plot.sweep_curves({_wrapped(label): runs for label, runs in lines.items()}))
    if len(finished) == 1 and len(finished[0].runs) == 1:
        yield "patients", "DSC of each validation patient, worst first", "", plot.dsc_bars(finished[0].runs[0].cases)
    elif finished:
        yield ("patients", "DSC of each validation patient in each recipe", "",
               plot.dsc_strips({recipe.label: recipe.dsc.dropna() for recipe in finished}))
    if table is not None:
        words = [f"{row['label']} {row['difference']:+.3f}, {row['verdict']}" for row in table.to_dict("records")]
        yield ("differences", f"differences with their intervals: {'; '.join(words)}", "",
               plot.forest(table.assign(label=table["label"].map(_wrapped)), experiment.ladder))


def _wrapped(label: str) -> str:
    """A label in lines that leave room for the rest of a figure."""
    return textwrap.fill(label, 28)


def _lines(experiment: Experiment) -> dict[str, list[Run]]:
    """Label -> runs whose curves are drawn: of too many recipes the reference and those with the highest DSC."""
    ranked = sorted(experiment.recipes[1:], key=lambda one: -one.summary.mean if one.summary else 1.0)
    shown = {one.label for one in (experiment.recipes[0], *ranked[:_MOST_CURVES - 1])}
    lines: dict[str, list[Run]] = {}
    for recipe in experiment.recipes:
        for one in recipe.attempts if recipe.label in shown else ():
            label = recipe.label if one.status == "finished" else f"{recipe.label} ({one.status})"
            if one.epochs:
                lines.setdefault(label, []).append(one.run)
    return lines


def _picture(file: str, alt: str, caption: str, figure: Figure) -> Picture:
    """The figure with a palette: a third of the size, the same bytes every time."""
    stream, small = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    image = Image.open(stream).convert("RGB")
    # an octree, as a median cut makes thin colours those of their neighbours: missed would look like found
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return Picture(file, alt, caption, *image.size, small.getvalue())


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "plan"


# --- examples -----------------------------------------------------------------------------------------------------


class _Examples:
    """Examples of segmentations, where the images are at hand; ``real`` once patients were shown, not phantoms."""

    def __init__(self, data: BrainData | str | Path | None, images: bool) -> None:
        self._data = data if data is None or isinstance(data, BrainData) else find_root(data)
        self._images, self._shown, self.real = images, set(), False

    def of(self, recipe: Recipe) -> Figure | str:
        """The recipe's best run on its worst, median and best patient; or why it is not shown, in a sentence."""
        run = max(recipe.runs, key=_mean)
        if not self._images:
            return "Examples of segmentations were left out."
        if run.id in self._shown:
            return f"Segmentations of its best run, {run.id}, are shown further up."
        try:
            figure = plot.overlays(self._predict(run))
        except (KitError, OSError) as error:
            # whose home folder this is belongs into no report
            return f"No examples of segmentations: {str(error).replace(str(run.folder), run.id)}."
        self._shown.add(run.id)
        self.real = self.real or any(not name.startswith("PHANTOM_") for name in run.cases["patient"])
        return figure

    def _predict(self, run: Run) -> Prediction:
        if not run.weights.is_file():
            raise KitError("the weights of its best run, best.pt, are not in its folder")
        ranked = list(run.cases.dropna(subset=["dsc_native"]).sort_values(["dsc_native", "patient"])["patient"])
        chosen = dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1]))
        return predict(run.weights, self._data_of(run), patients=list(chosen))

    def _data_of(self, run: Run) -> BrainData:
        """The data that the run was scored on, prepared for its network."""
        data, wanted = self._data, (run.config.image_size, run.config.preprocessing)
        if not isinstance(data, BrainData) or (data.image_size, data.preprocessing) != wanted:
            data = load_data(self._folder(run), *wanted)
        if data.fingerprint != run.info["data"]["sha256"]:
            raise KitError("the images here are not those that the run was trained on")
        return data

    def _folder(self, run: Run) -> Path:
        """The folder given, or the first of those where the notebooks look, that has the run's validation patients.

        Looked up by name: preparing other images first would take minutes.
        """
        given = self._data.root if isinstance(self._data, BrainData) else self._data
        usual = [*filter(None, [os.environ.get("KIT_DATA")]), *KAGGLE_FOLDERS, PHANTOM_FOLDER]
        for folder in map(Path, [given] if given else usual):
            if all((folder / name).is_dir() for name in run.cases["patient"]):
                return folder
        raise KitError("the images of its patients are not here; --data names their folder")


def _mean(run: Run) -> float:
    return run.cases["dsc"].mean()


# --- all runs -----------------------------------------------------------------------------------------------------


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    """A run's line in the table of all runs."""
    run, published = attempt.run, REFERENCE.to_dict()
    changed = {name: value for name, value in run.config.to_dict().items() if value != published[name]}
    return {"id": run.id, "plans": ", ".join(run.info["plans"]), "status": attempt.status, "detail": attempt.detail,
            "changed": changed, "seed": run.config.seed, "dsc": _mean(run) if attempt.status == "finished" else None,
            "seconds": run.info.get("seconds"), "device": run.info.get("device"),
            "precision": run.info.get("precision")}


def _environments(attempts: list[Attempt]) -> list[dict[str, Any]]:
    """Where the runs were computed: each set of versions and device once, with the number of runs and their time."""
    found: dict[tuple, dict[str, Any]] = {}
    for attempt in attempts:
        info = attempt.run.info
        about = {name: str(info[name]) for name in ("device", "precision") if name in info}
        about = {name: str(text) for name, text in attempt.versions.items()} | about
        if not about:  # it failed before it was begun
            continue
        one = found.setdefault(tuple(about.items()), {"about": about, "runs": 0, "seconds": 0.0})
        one["runs"] += 1
        one["seconds"] += float(info.get("seconds", 0))
    return list(found.values())


def _counts(attempts: list[Attempt], unreadable: Mapping[str, str]) -> dict[str, int]:
    """How many runs came to what."""
    counts = Counter(attempt.status for attempt in attempts) + Counter(unreadable=len(unreadable))
    return {name: counts[name] for name in ("finished", "unfinished", "failed", "unreadable") if counts[name]}


# --- templates ----------------------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    """With a sign as long as a plus."""
    return "none" if pd.isna(value) else f"{value:+.3f}".replace("-", "\u2212")


def _duration(seconds: float | None) -> str:
    """Seconds in the two units that matter."""
    if seconds is None:
        return ""
    whole = round(float(seconds))
    for big, small, size, per in (("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // per} {small}"
    return f"{whole} s"


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _cell(text: object) -> str:
    """Text from a run folder for a Markdown document, a table's cell included: nothing in it is markup."""
    escaped = re.sub(r"([\\`*\[\]|#~])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["html.jinja"]),
                         undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
_TEMPLATES.filters |= {
    "number": _number, "signed": _signed, "p": p_in_cell, "duration": _duration, "settings": _settings, "cell": _cell,
    "student_html": to_html, "student_markdown": to_markdown,
}


def main() -> None:
    """The command line."""
    parser = CommandParser(prog="python -m lib.report", description="Write the report of all runs.")
    parser.add_argument("--out", default="result", help="folder of results (default: result)")
    parser.add_argument("--data", help="folder of the images, for examples of segmentations (default: where notebooks "
                                       "find them)")
    parser.add_argument("--no-images", action="store_true", help="leave the examples out, e.g. of real patients")
    arguments = parser.parse_args()
    for name, path in write_report(arguments.out, arguments.data, not arguments.no_images).items():
        print(f"{name}: {short_path(path)}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_command(main)
