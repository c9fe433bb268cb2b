"""Write the model answers into the notebooks: ``python -m maintain.answers``.

They are in ``answers.md``, below the id of the cell that asks. Numbers in braces are filled in from
what was measured, e.g. ``{sampling[fresh].difference}``; a part in double brackets is left out
while its numbers are not. In a notebook an answer is a solution, so students do not get it. In the
language of ``course.toml`` they are in the catalog of that language, see ``maintain.language``.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import UserDict
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd

from lib import stats
from lib.config import REFERENCE
from lib.networks import summary
from lib.notebook.cells import ASKS, ENGLISH, PHRASES, PLAN, QUESTION, question_hash
from lib.notebook.course import read_course
from lib.runtime import CommandParser, run_command
from lib.sweep import PLANS
from lib.sweep.measured import FOLDER, evidence
from lib.utils import PROJECT, KitError, visible_files, write_atomic
from maintain.catalog import read_catalog
from maintain.evidence import BEST, PARTS, STEPS
from maintain.findings import LACKING, OTHERS, by_sequences, runs_of_recipes, seeds_of
from maintain.results import BY_SEQUENCES, compared, interval

WIDTH = 125  # of the lines in a notebook
CROSS_VALIDATED = FOLDER.with_name("cross_validation.csv")
PATIENTS_LACKING = FOLDER.with_name(BY_SEQUENCES)
TEXTS = Path(__file__).with_name("answers.md")
BEGIN, END = "<!-- ### BEGIN SOLUTION -->", "<!-- ### END SOLUTION -->"
_HEADING = re.compile(r"^## ([\w-]+)(?: · ([\w ]+))?$", re.MULTILINE)
_OPTIONAL = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_ANSWER = re.compile(rf"\n\n{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
_IN_LANGUAGE = {
    ENGLISH: {},
    "zh-CN": {
        r"95 % CI ([-+.\d]+) to ([-+.\d]*\d)": r"95 % 置信区间 \1 至 \2",
        r"\*(helps)\*": r"“有帮助”（\1）",
        r"\*(hurts)\*": r"“有害”（\1）",
        r"\*(cannot tell)\*": r"“无法判断”（\1）",
        r"\*(no difference larger than ([.\d]+))\*": r"“差异不超过 \2”（\1）",
    },
}
"""Language -> how what is filled in is written there: pattern -> replacement."""
_GRADED = {
    "grade": True,
    "locked": False,
    "points": 1,
    "schema_version": 3,
    "solution": True,
    "task": False,
}


class ModelAnswer(NamedTuple):
    """Hold an answer; ``plan`` is what its question is about, "" for none."""

    plan: str
    text: str


class ByLabel(UserDict[str, Any]):
    """Hold values by label; a format string takes a label of digits for a number."""

    def __missing__(self, key: object) -> Any:
        if str(key) in self.data:
            return self.data[str(key)]
        raise KitError(f"{TEXTS.name}: {key!r} is none of {', '.join(self.data)}; correct it")


# --- numbers --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def numbers(folder: Path = FOLDER) -> dict[str, Any]:
    """Return plan -> label -> what was measured, in words; on patients, and by size, too."""
    counts = runs_of_recipes(folder)
    found: dict[str, Any] = {
        "size": _by_size(folder),
        "patients": _on_patients(),
        "lacking": _of_those_who_lack(),
        "first": _of_first_seed(folder),
        "cost": _gflops(),
    }
    for name, part in PARTS.items():
        if seeds_of(part.plan, counts) > 1:
            found[name.replace(" ", "_")] = _of_plan(name, folder)
    if seeds_of(STEPS, counts) > 1:
        found["phantoms"] = _of_phantoms_that_lack(folder)
    found["verdicts"] = _by_verdict({name: found[name] for name in PLANS if name in found})
    return found


def _by_verdict(plans: Mapping[str, ByLabel]) -> SimpleNamespace:
    """Return which variants of the plans have which verdict, and how many cannot be told."""
    variants: dict[str, list[str]] = {verdict: [] for verdict in stats.VERDICTS}
    for name, by_label in plans.items():
        for label, row in by_label.items():
            if hasattr(row, "verdict"):
                variants[row.verdict].append(f"`{name} {label}`")
    *told, unknown = variants.values()
    helps, hurts, equal = (", ".join(each) or "none" for each in told)
    return SimpleNamespace(helps=helps, hurts=hurts, equal=equal, unknown=str(len(unknown)))


def _of_plan(name: str, folder: Path) -> ByLabel:
    """Return label -> a variant's numbers, as they are written in a sentence."""
    plan = PARTS[name].plan
    best, last = evidence(plan, "best", folder), evidence(plan, "last", folder)
    by_last = stats.outcomes(last)["mean DSC"]
    rows = {
        label: {**_alone(row), "last_mean": f"{by_last[label]:.3f}"}
        for label, row in stats.outcomes(best).iterrows()
    }
    if len(best) > 1:
        differences = compared(plan, last).set_index("label")["difference"]
        for row in compared(plan, best).to_dict("records"):
            rows[row["label"]] |= _against(row) | {
                "last_epoch": f"{differences[row['label']]:+.3f}"
            }
    return ByLabel({label: SimpleNamespace(**values) for label, values in rows.items()})


def _alone(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of a recipe that compare it with nothing."""
    return {
        "mean": f"{row['mean DSC']:.3f}",
        "median": f"{row['median']:.3f}",
        "pooled": f"{row['pooled DSC']:.3f}",
        "missed": f"{row['missed']:.0f}",
        "sd": f"{row['SD between seeds']:.3f}",
        "runs": f"{row['runs']:.0f}",
    }


def _against(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of a recipe against the one that it is compared with."""
    return {
        "mean": f"{row['mean DSC']:.3f}",
        "difference": f"{row['difference']:+.3f}",
        "interval": f"95 % CI {interval(row['CI low'], row['CI high'])}",
        "p": stats.p_in_words(row["p (Holm)"]),
        "verdict": row["verdict"],
        "half": f"{row['half of it from']}",
    }


def _on_patients() -> ByLabel:
    """Return scale and recipe -> how it does on patients, in cross-validation."""
    table = pd.read_csv(CROSS_VALIDATED, index_col=0, keep_default_na=False)
    compared_ones = table[table["difference"] != ""]
    return ByLabel(
        {
            label: SimpleNamespace(
                difference=f"{float(row['difference']):+.3f}",
                interval=f"95 % CI {row['its 95 % CI']}",
            )
            for label, row in compared_ones.iterrows()
        }
    )


def _of_those_who_lack() -> ByLabel:
    """Return step of the ladder -> what it does to patients without a sequence, and to others."""
    steps = pd.read_csv(PATIENTS_LACKING, index_col=0)
    before = steps["a sequence missing"].shift()
    return ByLabel(
        {
            label: SimpleNamespace(
                before=f"{before[label]:.3f}",
                after=f"{row['a sequence missing']:.3f}",
                interval=f"95 % CI of the difference {row['a sequence missing: 95 % CI']}",
                others=f"{row['all there: step']:+.3f}",
            )
            for label, row in steps.iloc[1:].iterrows()
        }
    )


def _of_phantoms_that_lack(folder: Path) -> ByLabel:
    """Return step of the ladder -> what it adds to phantoms without a sequence, and to others."""
    groups = by_sequences(STEPS, evidence(STEPS, "best", folder))
    rows = {
        group: {row["label"]: SimpleNamespace(**_against(row)) for row in table.to_dict("records")}
        for group, table in groups.items()
    }
    return ByLabel(
        {
            label: SimpleNamespace(lacking=rows[LACKING][label], others=rows[OTHERS][label])
            for label in rows[LACKING]
        }
    )


def _of_first_seed(folder: Path) -> SimpleNamespace:
    """Return what the runs of the first seed alone would tell of the best recipe."""
    baseline, best = (
        {run.config.seed: run.cases["dsc"].mean() for run in several}
        for several in evidence(BEST, "best", folder).values()
    )
    seed = min(baseline)
    return SimpleNamespace(
        seed=f"{seed}",
        baseline=f"{baseline[seed]:.3f}",
        place=f"{sum(mean >= baseline[seed] for mean in baseline.values())}",
        difference=f"{best[seed] - baseline[seed]:+.3f}",
    )


def _gflops() -> ByLabel:
    """Return network -> its arithmetic for a slice of 256x256, at 32 features unless it says so."""
    changes: dict[str, dict[str, Any]] = {
        "U-Net": {},
        "U-Net++": {"model": "unet_2plus"},
        "UNet 3+": {"model": "unet_3plus"},
        "U-Net, 64 features": {"init_features": 64},
    }
    return ByLabel(
        {
            label: f"{summary(replace(REFERENCE, **changed), precision='fp32').gflops:.0f}"
            for label, changed in changes.items()
        }
    )


def _by_size(folder: Path) -> SimpleNamespace:
    """Return the mean DSC of the best recipe in the quarters of small and of large tumours."""
    runs = evidence(BEST, "best", folder)["best"]
    cases = pd.concat([run.cases for run in runs])
    cases = cases.assign(voxels=cases["tp"] + cases["fn"])
    quarter = pd.qcut(cases["voxels"], 4, labels=False)
    dsc, missed = cases["dsc"].groupby(quarter).mean(), (cases["dsc"] < 0.1).groupby(quarter).sum()
    return SimpleNamespace(
        small=f"{dsc[0]:.3f}",
        large=f"{dsc[3]:.3f}",
        share=f"{100 * missed[0] / missed.sum():.0f} %",
    )


# --- texts ----------------------------------------------------------------------------------------


def templates(language: str = ENGLISH, file: Path = TEXTS) -> dict[str, ModelAnswer]:
    """Return id of a cell -> its model answer before its numbers are filled in.

    Args:
        file: the English answers. In another language only those are left that its catalog has.
    """
    _, *parts = _HEADING.split(file.read_text(encoding="utf-8"))
    found = {
        cell: ModelAnswer(plan or "", text.strip())
        for cell, plan, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }
    if language == ENGLISH:
        return found
    catalog = read_catalog(language, file.stem)
    return {
        cell: answer._replace(text=catalog[cell].text)
        for cell, answer in found.items()
        if cell in catalog
    }


def answers(
    language: str = ENGLISH, file: Path = TEXTS, folder: Path = FOLDER
) -> dict[str, ModelAnswer]:
    """Return id of a cell -> its model answer with its numbers.

    Raises:
        KitError: a number that is not known.
    """
    known = numbers(folder)
    found = {}
    for cell, answer in templates(language, file).items():
        try:
            complete = _OPTIONAL.sub(lambda part: _if_known(part[1], known), answer.text)
            text = complete.format_map(known)
        except (KeyError, AttributeError, ValueError) as error:
            raise KitError(f"{file.name}: {cell}: {error} is not measured; correct it") from None
        for pattern, replacement in _IN_LANGUAGE[language].items():
            text = re.sub(pattern, replacement, text)
        found[cell] = answer._replace(text=_wrapped(text))
    return found


def _wrapped(text: str) -> str:
    """Return a paragraph in lines of at most ``WIDTH`` letters."""
    return textwrap.fill(
        " ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False
    )


def _if_known(text: str, known: Mapping[str, Any]) -> str:
    """Return an optional part with its numbers; "" while a plan in it is not measured."""
    try:
        return text.format_map(known)
    except KeyError:
        return ""


def with_answers(
    notebook: Mapping[str, Any], found: Mapping[str, ModelAnswer], language: str = ENGLISH
) -> dict[str, Any]:
    """Return a notebook whose questions have their answers, and what tells them in the metadata."""
    cells = [
        with_answer(cell, found[cell["id"]], language)
        if cell.get("id") in found and ASKS.search("".join(cell["source"]))
        else cell  # no question of the kit: what is written there is somebody else's
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


def without_answer(text: str) -> str:
    """Return the text of a cell that asks without its model answer."""
    return _ANSWER.sub("", text)


def with_answer(cell: Mapping[str, Any], answer: ModelAnswer, language: str) -> dict[str, Any]:
    """Return a cell that asks with its answer; without a text there is none."""
    text = without_answer("".join(cell["source"]))
    if answer.text:
        text = f"{text}\n\n{BEGIN}\n{PHRASES[language].model_answer} {answer.text}\n{END}"
    metadata = {
        **cell["metadata"],
        "nbgrader": {**_GRADED, "grade_id": cell["id"]},
        QUESTION: question_hash(text),
    }
    if answer.plan:
        metadata[PLAN] = answer.plan
    return {**cell, "metadata": dict(sorted(metadata.items())), "source": text.splitlines(True)}


def written(file: Path, found: Mapping[str, ModelAnswer], language: str = ENGLISH) -> str:
    """Return the text of a notebook file with the answers."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    return as_file(with_answers(notebook, found, language))


def as_file(notebook: Mapping[str, Any]) -> str:
    """Return the text of the file of a notebook, as it is committed."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Run the command line."""
    CommandParser(
        prog="python -m maintain.answers", description="Write the model answers into the notebooks."
    ).parse_args()
    language = read_course().language
    found = answers(language)
    for file in visible_files(PROJECT, "*.ipynb"):
        write_atomic(file, written(file, found, language))
        print(file.name)


if __name__ == "__main__":
    run_command(main)
