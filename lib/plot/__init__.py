"""Static figures for notebooks and reports, and the live view of a training.

The door is any of the figures below, such as ``curves(run)``, and ``fit(..., watch=LiveView())``;
start to read at ``style.py``.
"""

# fmt: off
# isort: off
from lib.plot.effects import power_curve, waterfall
from lib.plot.evidence import among
from lib.plot.images import disagreement, overlays, patient_slices
from lib.plot.live import LiveView
from lib.plot.scores import calibration, dsc_bars, forest, lesion_sizes, size_against_dsc
from lib.plot.strips import dsc_strips, sweep_scores
from lib.plot.style import styled
from lib.plot.teaching import augmented_slices, sliding_mask
from lib.plot.training import curves, rate_range, seeds_curves, sweep_curves

__all__ = [
    "LiveView", "among", "augmented_slices", "calibration", "curves", "disagreement", "dsc_bars",
    "dsc_strips", "forest", "lesion_sizes", "overlays", "patient_slices", "power_curve",
    "rate_range", "seeds_curves", "size_against_dsc", "sliding_mask", "styled", "sweep_curves",
    "sweep_scores", "waterfall",
]
