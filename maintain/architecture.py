"""Draw a network as a figure, from the network itself: its blocks, outputs and connections."""

from __future__ import annotations

import math
import re
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib.config import Config
from lib.networks import build_model, summary
from lib.plot import styled
from lib.plot.pixels import BLUE, GREEN, SKY, VERMILION
from lib.runtime import Recomputing
from lib.runtime.cost import tensors_in

_TITLES = {"unet": "U-Net", "unet_2plus": "U-Net++", "unet_3plus": "UNet 3+"}
_KINDS = {
    "down": (VERMILION, "pooled"),
    "up": (GREEN, "enlarged"),
    "level": ("#999999", "as it is"),
}


class Flow(TorchDispatchMode):
    """Follow features through a network: from which blocks does each tensor come?

    Attributes:
        shapes: block -> shape of its output, in the order of computation.
        edges: (from, to) pairs of blocks.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.edges: list[tuple[str, str]] = []
        self._sources: dict[int, set[str]] = {}
        self._alive: list[Tensor] = []  # else an id could be used again
        for name in block_names(model):
            model.get_submodule(name).register_forward_hook(
                lambda _, inputs, output, name=name: self._record(name, inputs, output)
            )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._mark(out, self._sources_of([*args, *(kwargs or {}).values()]))
        return out

    def _record(self, name: str, inputs: Any, output: Tensor) -> None:
        """Record the output of a block, and the blocks that its inputs come from."""
        self.edges += [
            (source, name) for source in self.shapes if source in self._sources_of(inputs)
        ]
        self.shapes[name] = tuple(output.shape)
        self._mark(output, {name})

    def _sources_of(self, value: Any) -> set[str]:
        """Return the blocks that a value comes from."""
        return set().union(*(self._sources.get(id(tensor), set()) for tensor in tensors_in(value)))

    def _mark(self, value: Any, sources: set[str]) -> None:
        """Note the blocks that a value comes from."""
        for tensor in tensors_in(value):
            self._sources[id(tensor)] = sources
            self._alive.append(tensor)


def block_names(model: nn.Module) -> list[str]:
    """Return the blocks of a network: its outermost ``Recomputing`` modules."""
    names = [name for name, module in model.named_modules() if isinstance(module, Recomputing)]
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def trace(config: Config) -> Flow:
    """Return how features flow through the network of ``config``; nothing is computed."""
    with torch.device("meta"):
        model = build_model(config).eval()
        flow = Flow(model)
        with torch.no_grad(), flow:
            model(torch.empty(1, config.in_channels, config.image_size, config.image_size))
    return flow


@styled
def draw_network(config: Config, batch_size: int = 16) -> Figure:
    """Draw a network as in its paper's figure.

    Each block is a box with its channels, in rows by resolution; arrows are features.

    Args:
        config: the network and the size of its images.
        batch_size: for the memory in the title.
    """
    flow = trace(config)
    level = {
        name: round(math.log2(config.image_size / shape[-1])) for name, shape in flow.shapes.items()
    }
    column: dict[str, int] = {}
    # as far right as the longest path to it: this gives U, triangle and V
    for name in flow.shapes:
        column[name] = max(
            (column[source] + 1 for source, target in flow.edges if target == name), default=0
        )
    figure, axis = plt.subplots(figsize=(10, 5.4))
    boxes = {
        name: _box(axis, column[name], -level[name], f"{_label(name)}\n{shape[1]}")
        for name, shape in flow.shapes.items()
    }
    rows, top = sorted(set(level.values())), 0.5
    for source, target in flow.edges:
        between = {name for name in boxes if column[source] < column[name] < column[target]}
        passes = any(_on_the_way(column, level, name, source, target) for name in between)
        _arrow(axis, boxes[source], boxes[target], level[source] - level[target], passes)
        top = 1.0 if passes and level[source] == level[target] == 0 else top
    axis.set_yticks([-row for row in rows], [f"{config.image_size >> row} px" for row in rows])
    axis.set(
        xlim=(-0.6, max(column.values()) + 0.6),
        ylim=(-max(rows) - 0.5, top),
        xticks=[],
        title=_costs(config, batch_size),
    )
    axis.spines[:].set_visible(False)
    axis.grid(color=SKY, alpha=0.3)
    axis.tick_params(length=0)
    figure.legend(
        handles=[Line2D([], [], color=colour, label=label) for colour, label in _KINDS.values()],
        loc="outside lower center",
        ncols=3,
    )
    return figure


def _costs(config: Config, batch_size: int) -> str:
    """Return the title: parameters, operations and memory."""
    cost = summary(config, batch_size, precision="bf16")
    return (
        f"{_TITLES.get(config.model, config.model)}, {config.init_features} features: "
        f"{cost.parameters:,} parameters, {cost.gflops:.0f} GFLOPs a slice\n"
        f"{cost.saved_bytes / 2**30:.1f} GiB of activations kept for backward at "
        f"{batch_size} x {config.image_size} x {config.image_size}, bf16"
    )


def _box(axis: Axes, x: float, y: float, text: str) -> FancyBboxPatch:
    """Draw the box of a block."""
    box = FancyBboxPatch(
        (x - 0.27, y - 0.19),
        0.54,
        0.38,
        boxstyle="round,pad=0.04",
        facecolor="white",
        edgecolor=BLUE,
        linewidth=1.5,
        zorder=2,
    )
    axis.add_patch(box)
    axis.text(x, y, text, ha="center", va="center", fontsize=8, zorder=3)
    return box


def _on_the_way(
    column: dict[str, int], level: dict[str, int], name: str, source: str, target: str
) -> bool:
    """Return whether a straight arrow between two blocks runs through a third."""
    share = (column[name] - column[source]) / (column[target] - column[source])
    return abs(level[source] + share * (level[target] - level[source]) - level[name]) < 0.3


def _arrow(
    axis: Axes, start: FancyBboxPatch, end: FancyBboxPatch, levels_up: int, passes: bool
) -> None:
    """Draw an arrow between two boxes, as an arc around another box."""
    kind = "level"
    if levels_up:
        kind = "up" if levels_up > 0 else "down"
    (x0, y0), (x1, y1) = ((box.get_x() + 0.27, box.get_y() + 0.19) for box in (start, end))
    bend = 0.0
    if passes:
        bend = 0.2 if kind == "up" else -0.16
    axis.add_patch(
        FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            patchA=start,
            patchB=end,
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=9,
            color=_KINDS[kind][0],
            linewidth=1.1,
            zorder=1,
        )
    )


def _label(name: str) -> str:
    """Return a block's name as the papers write it."""
    if match := re.fullmatch(r"nodes\.x(\d)(\d)", name):
        return rf"$X^{{{match[1]},{match[2]}}}$"
    if match := re.fullmatch(r"(en|de)coder\.(\d)", name):
        return rf"$X_{{{match[1].title()}}}^{{{int(match[2]) + 1}}}$"
    return name
