"""Place the curves of runs in a picture that a template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lib.grade.student_work import Trained

WIDTH, HEIGHT = 680, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 190, 12, 40  # room for the axes, and for labels on the right
COLOURS, MOST_LINES = 8, 16
_LINE, _MAX_LABEL = 14, 28  # height of a label and its letters


class Line(NamedTuple):
    """Hold the curve of a run: its points in pixels, and its label at the end."""

    points: str
    label: str
    full_label: str
    end: tuple[float, float]
    label_y: float
    colour: int
    is_dashed: bool


class Tick(NamedTuple):
    """Hold a mark of an axis: its place in pixels and its text."""

    at: float
    text: str


class Picture(NamedTuple):
    """Hold what a template draws.

    Attributes:
        left_out: number of runs for which there is no room.
    """

    lines: list[Line]
    across: list[Tick]
    up: list[Tick]
    left_out: int


def picture(runs: Sequence[tuple[str, Trained]]) -> Picture | None:
    """Return the picture of (label, run), validation DSC by epoch; None without a curve.

    Runs of one label have one colour.
    """
    drawn = [(label, run) for label, run in runs if run.curve]
    if not drawn:
        return None
    shown = drawn[:MOST_LINES]
    points = [point for _, run in shown for point in run.curve]
    last = max(2.0, *(epoch for epoch, _ in points))
    low, high, step = _rounded(min(dsc for _, dsc in points), max(dsc for _, dsc in points))

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / (last - 1), 1)

    def y(dsc: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (dsc - low) / (high - low), 1)

    labels = list(dict.fromkeys(label for label, _ in shown))
    ends = [(x(run.curve[-1][0]), y(run.curve[-1][1])) for _, run in shown]
    lines = [
        Line(
            " ".join(f"{x(epoch)},{y(dsc)}" for epoch, dsc in run.curve),
            label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 1]}…",
            label,
            end,
            label_y,
            labels.index(label) % COLOURS,
            labels.index(label) >= COLOURS,
        )
        for (label, run), end, label_y in zip(shown, ends, _apart(ends), strict=True)
    ]
    steps = round((high - low) / step)
    up = [Tick(y(low + step * i), f"{low + step * i:.2f}") for i in range(steps + 1)]
    across = [Tick(x(epoch), f"{epoch}") for epoch in _epochs(int(last))]
    return Picture(lines, across, up, len(drawn) - len(shown))


def _rounded(low: float, high: float) -> tuple[float, float, float]:
    """Return limits of an axis of DSC that contain both values, and the distance of its marks."""
    step = next((step for step in (0.02, 0.05, 0.1) if high - low <= 5 * step), 0.2)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, max(last, first + 1) * step, step


def _epochs(last: int) -> list[int]:
    """Return the epochs that are marked: the first, the last, and round ones between."""
    exponent = 10 ** max(0, len(str(last)) - 2)
    step = next(unit * exponent for unit in (1, 2, 5, 10, 20, 50) if last / (unit * exponent) <= 6)
    between = [epoch for epoch in range(step, last, step) if step / 2 < last - epoch and epoch > 1]
    return [1, *between, last]


def _apart(ends: Sequence[tuple[float, float]]) -> list[float]:
    """Return the heights of labels: each near its end, and none over another."""
    order = sorted(range(len(ends)), key=lambda index: ends[index][1])
    heights: dict[int, float] = {}
    free = float(TOP)
    for index in order:
        heights[index] = max(ends[index][1], free)
        free = heights[index] + _LINE
    free = float(HEIGHT - BOTTOM + _LINE)
    for index in reversed(order):  # and none below the axis
        heights[index] = max(min(heights[index], free), float(TOP))
        free = heights[index] - _LINE
    return [round(heights[index], 1) for index in range(len(ends))]
