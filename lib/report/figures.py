"""Draw the figures of the report: which ones an experiment has, and each as a small PNG."""

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
    """Hold a figure as PNG.

    Attributes:
        file: its name in the folder of figures.
        alt: what it shows, in words.
        caption: the text under it, or "".
    """

    file: str
    alt: str
    caption: str
    width: int
    height: int
    png: bytes = field(repr=False)

    @property
    def uri(self) -> str:
        """Return the picture itself, as an address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def drawings(
    experiment: Experiment, finished: list[Recipe]
) -> Iterator[tuple[str, str, str, Figure]]:
    """Yield (name, words, caption, drawing) of each figure that an experiment has."""
    finished = [replace(recipe, label=_wrapped(recipe.label)) for recipe in finished]
    lines = _lines(experiment)
    only_runs = next(iter(lines.values())) if len(lines) == 1 else []
    if len(only_runs) == 1:
        words = f"loss and validation DSC per epoch of {next(iter(lines))}"
        yield "curves", words, "", plot.curves(only_runs[0])
    elif lines:
        caption = ""
        if len(experiment.recipes) > _MOST_CURVES:
            caption = (
                f"The first recipe and the {_MOST_CURVES - 1} others with the highest DSC, of "
                f"{len(experiment.recipes)}."
            )
        curves = plot.sweep_curves({_wrapped(label): runs for label, runs in lines.items()})
        words = f"validation loss and DSC per epoch of {'; '.join(lines)}"
        yield "curves", words, caption, curves
    if len(finished) == 1 and len(finished[0].runs) == 1:
        words = "DSC of each validation patient, worst first"
        yield "patients", words, "", plot.dsc_bars(finished[0].runs[0].cases)
    elif finished:
        words = "DSC of each validation patient in each recipe"
        strips = plot.dsc_strips({recipe.label: recipe.dsc.dropna() for recipe in finished})
        yield "patients", words, "", strips
    table = experiment.verdicts
    if table is not None:
        found = [
            f"{row['label']} {row['difference']:+.3f}, {row['verdict']}"
            for row in table.to_dict("records")
        ]
        words = f"differences with their intervals: {'; '.join(found)}"
        labelled = table.assign(label=table["label"].map(_wrapped))
        yield "differences", words, "", plot.forest(labelled, experiment.ladder)


def _wrapped(label: str) -> str:
    """Return a label in lines that leave room for the rest of a figure."""
    return textwrap.fill(label, 28)


def _lines(experiment: Experiment) -> dict[str, list[Run]]:
    """Return label -> runs whose curves are drawn.

    Of too many recipes these are the reference and those with the highest DSC.
    """
    first, *others = experiment.recipes
    ranked = sorted(others, key=lambda one: -one.mean if one.summary else 1.0)
    shown = {one.label for one in (first, *ranked[: _MOST_CURVES - 1])}
    lines: dict[str, list[Run]] = {}
    for recipe in experiment.recipes:
        for one in recipe.attempts:
            if recipe.label in shown and one.epochs:
                finished = one.status == "finished"
                label = recipe.label if finished else f"{recipe.label} ({one.status})"
                lines.setdefault(label, []).append(one.run)
    return lines


def picture(file: str, alt: str, caption: str, figure: Figure) -> Picture:
    """Return a figure with a palette: a third of the size, the same bytes every time."""
    stream, small = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    image = Image.open(stream).convert("RGB")
    # an octree, because a median cut merges rare colours with their neighbours: missed voxels would
    # look like found ones
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        small, "png", optimize=True
    )
    return Picture(file, alt, caption, *image.size, small.getvalue())


def slug(name: str) -> str:
    """Return a name in lower case, with hyphens for all but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "plan"
