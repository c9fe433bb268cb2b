"""The figures of the report: which an experiment has, and each as a small PNG."""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from matplotlib.figure import Figure
from PIL import Image

from lib import plot
from lib.logger import Run
from lib.report.experiments import Experiment, Recipe

_MOST_CURVES = 12  # more lines in one picture cannot be told apart
_DPI = 120


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


def drawings(
    experiment: Experiment, finished: list[Recipe]
) -> Iterator[tuple[str, str, str, Figure]]:
    """Name, words, caption and drawing of the figures that an experiment has."""
    lines, table = _lines(experiment), experiment.verdicts
    finished = [replace(recipe, label=_wrapped(recipe.label)) for recipe in finished]
    if len(lines) == 1 and len(only := next(iter(lines.values()))) == 1:
        yield (
            "curves",
            f"loss and validation DSC per epoch of {next(iter(lines))}",
            "",
            plot.curves(only[0]),
        )
    elif lines:
        most = f"The first recipe and the {_MOST_CURVES - 1} others with the highest DSC, of {len(experiment.recipes)}."
        yield (
            "curves",
            f"validation loss and DSC per epoch of {'; '.join(lines)}",
            most if len(experiment.recipes) > _MOST_CURVES else "",
            plot.sweep_curves({_wrapped(label): runs for label, runs in lines.items()}),
        )
    if len(finished) == 1 and len(finished[0].runs) == 1:
        yield (
            "patients",
            "DSC of each validation patient, worst first",
            "",
            plot.dsc_bars(finished[0].runs[0].cases),
        )
    elif finished:
        yield (
            "patients",
            "DSC of each validation patient in each recipe",
            "",
            plot.dsc_strips({recipe.label: recipe.dsc.dropna() for recipe in finished}),
        )
    if table is not None:
        words = [
            f"{row['label']} {row['difference']:+.3f}, {row['verdict']}"
            for row in table.to_dict("records")
        ]
        yield (
            "differences",
            f"differences with their intervals: {'; '.join(words)}",
            "",
            plot.forest(table.assign(label=table["label"].map(_wrapped)), experiment.ladder),
        )


def _wrapped(label: str) -> str:
    """A label in lines that leave room for the rest of a figure."""
    return textwrap.fill(label, 28)


def _lines(experiment: Experiment) -> dict[str, list[Run]]:
    """Label -> runs whose curves are drawn: of too many recipes the reference and those with the highest DSC."""
    ranked = sorted(
        experiment.recipes[1:], key=lambda one: -one.summary.mean if one.summary else 1.0
    )
    shown = {one.label for one in (experiment.recipes[0], *ranked[: _MOST_CURVES - 1])}
    lines: dict[str, list[Run]] = {}
    for recipe in experiment.recipes:
        for one in recipe.attempts if recipe.label in shown else ():
            label = recipe.label if one.status == "finished" else f"{recipe.label} ({one.status})"
            if one.epochs:
                lines.setdefault(label, []).append(one.run)
    return lines


def picture(file: str, alt: str, caption: str, figure: Figure) -> Picture:
    """The figure with a palette: a third of the size, the same bytes every time."""
    stream, small = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    image = Image.open(stream).convert("RGB")
    # an octree, as a median cut makes thin colours those of their neighbours: missed would look
    # like found
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        small, "png", optimize=True
    )
    return Picture(file, alt, caption, *image.size, small.getvalue())


def slug(name: str) -> str:
    """A name in lower case, with hyphens for all that is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "plan"
