"""Measure ratios of this kit to the plain published algorithm: ``make bench``.

They are measured in turns on this machine. ``make bench FULL=1`` adds larger images, curves of time
and memory, number formats and ``torch.compile``. Prints Markdown tables and writes them, with JSON,
to ``result/bench``. Everything is measured on the phantom.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from benchmarks import rows, scale, study
from benchmarks.measure import OUT, Report, Row, machine
from benchmarks.step import compiled, shares
from lib.config import BEST, REFERENCE, Config
from lib.dataset import load_data
from lib.phantom import PHANTOM_FOLDER, write_phantom

RATIOS = """Medians of several runs in turns. A row of fp32 is what a CPU without bf16 units would
choose; here it still has AVX-512 where the machine has it."""


def ratios() -> list[Row]:
    """The table of ratios."""
    return [
        *rows.preparation(),
        *rows.augmentation(),
        *rows.surface_distance(),
        *rows.viewer_frame(),
        *rows.start_up(),
        *rows.inference(),
        *rows.training_step(),
        *rows.training(),
        *rows.grading(),
    ]


def larger_ratios() -> list[Row]:
    """Larger images, longer epochs, and fp32."""
    return [
        *rows.quick_runs(),
        *rows.inference(256),
        *rows.training_step(256),
        *rows.training(patients=12),
        *rows.training(256, patients=12),
        *rows.inference(precision="fp32"),
        *rows.training(patients=12, precision="fp32"),
        *rows.training(256, precision="fp32"),
    ]


def step_shares(full: bool) -> list[Row]:
    """Return the shares of a step of the baseline and of the best recipe.

    At 128 and, with ``full``, at 256 pixels.
    """
    root, sizes = write_phantom(PHANTOM_FOLDER), (128, 256) if full else (128,)
    return [
        shares(replace(recipe, image_size=size), load_data(root, size), steps=4)
        for size in sizes
        for recipe in (REFERENCE, BEST)
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("--full", action="store_true", help="everything; half an hour on two cores")
    full = parser.parse_args().full
    report = Report(OUT, "bench", machine())
    report.add("memory", rows.memory.__doc__, rows.memory())
    report.add("speed", RATIOS, ratios())
    report.add("shares", shares.__doc__, step_shares(full))
    if full:
        report.add("larger", RATIOS, larger_ratios())
        report.add("large set", scale.large_set.__doc__, scale.large_set())
        report.add("bounded memory", scale.bounded.__doc__, scale.bounded())
        report.add("curves", scale.curves.__doc__, scale.curves(OUT / "scale.png"))
        report.add("number formats", study.number_formats.__doc__, study.number_formats(OUT))
        report.add("compile", compiled.__doc__, [compiled(Config(image_size=128), rounds=9)])


if __name__ == "__main__":
    main()
