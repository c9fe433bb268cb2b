"""A slice browser for notebooks: a patient menu, a slider, and a picture that is drawn in a few milliseconds."""

from __future__ import annotations

import io

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageColor
from scipy import ndimage

from lib.plot import FLAIR, PREDICTION, TRUTH, brightest
from lib.predict import Prediction

_EDGE = 512  # pixels on screen


def render(image: np.ndarray, truth: np.ndarray | None, mask: np.ndarray) -> bytes:
    """A slice as PNG with the outlines of truth and prediction.

    Args:
        image: ``(H, W)`` uint8.
        truth: ``(H, W)`` {0, 1}, or None.
        mask: ``(H, W)`` {0, 1}.
    """
    rgb = np.repeat(image[..., None], 3, axis=2)
    for outlined, colour in ((truth, TRUTH), (mask, PREDICTION)):
        if outlined is not None and outlined.any():
            rgb[outlined.astype(bool) & ~ndimage.binary_erosion(outlined)] = ImageColor.getrgb(colour)
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, format="png", compress_level=1)
    return stream.getvalue()


def browse(prediction: Prediction) -> widgets.Widget:
    """Browse predicted patients, worst first: choose one, drag through its slices."""
    names = prediction.ranked()
    scores = prediction.cases.set_index("patient").get("dsc_native")
    labels = [name if scores is None or np.isnan(scores[name]) else f"{name}  DSC {scores[name]:.3f}" for name in names]
    menu = widgets.Dropdown(options=list(zip(labels, names, strict=True)), description="patient")
    slider = widgets.IntSlider(description="slice", continuous_update=True, layout=widgets.Layout(width=f"{_EDGE}px"))
    picture = widgets.Image(format="png", width=_EDGE, height=_EDGE)
    legend = widgets.HTML(f'<b style="color:{TRUTH};background:#333;padding:0 .5em">truth</b> '
                          f'<b style="color:{PREDICTION};background:#333;padding:0 .5em">prediction</b>')
    current = {}

    def draw(*_: object) -> None:
        number = slider.value - 1
        truth = current["truth"]
        picture.value = render(current["flair"][number], None if truth is None else truth[number],
                               current["mask"][number])

    def open_patient(*_: object) -> None:
        patient = menu.value
        flair = prediction.data.volume(patient)[..., FLAIR]
        grey = np.minimum(flair * (255 / brightest(flair)), 255).astype(np.uint8)
        current.update(flair=grey, truth=prediction.data.truth(patient), mask=prediction.mask(patient))
        shown = current["mask"] if current["truth"] is None else current["truth"]
        slider.min, slider.max = 1, len(shown)
        slider.value = 1 + int(shown.sum(axis=(1, 2)).argmax())
        draw()

    menu.observe(open_patient, "value")
    slider.observe(draw, "value")
    open_patient()
    return widgets.VBox([menu, slider, picture, legend])
