"""Draw a still picture of what a slice browser shows first: a patient, a row per prediction."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lib.plot.pixels import FLAIR, PREDICTION, TRUTH, render
from lib.viewer.gallery import Gallery

_TILE = 190  # pixels on screen; five and the gaps are as wide as a notebook
_COLUMNS, _GAP, _LINE = 5, 6, 20
_INK, _PAPER = "black", "white"


def montage(gallery: Gallery, patient: str | None = None) -> bytes:
    """Draw slices through the tumour of one patient, the first by default, outlined on FLAIR.

    Without ground truth the slices go through the prediction; without either, through the head.

    Returns:
        A PNG.
    """
    patient = patient or next(iter(gallery.labels))
    header, (truth, predicted) = gallery.header(patient), gallery.masks(patient)
    flair, window = gallery.volume(patient)[..., FLAIR], tuple(header["channels"][FLAIR]["window"])
    head = _head(flair)
    chosen = _spread(
        truth
        if truth is not None
        else next((m for m in predicted.values() if m is not None), None),
        len(flair),
    )
    runs = header["runs"] or [{"label": "", "dsc": None, "slices": [], "seen": False}]
    width = len(chosen) * (_TILE + _GAP) - _GAP
    sheet = Image.new("RGB", (max(width, 420), _LINE + len(runs) * (_TILE + 2 * _LINE)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    _legend(draw, font, truth is not None, bool(header["runs"]))
    for row, run in enumerate(runs):
        top = _LINE + row * (_TILE + 2 * _LINE)
        score = "" if run["dsc"] is None else f": DSC {run['dsc']:.3f}"
        words = f"{patient}  {run['label']}{score}" + "  (trained on)" * run["seen"]
        draw.text((0, top), words[:150], fill=_INK, font=font)
        mask = predicted.get(run["label"])
        for column, number in enumerate(chosen):
            outlined, filled = (
                None if volume is None else volume[number][head] for volume in (truth, mask)
            )
            left = column * (_TILE + _GAP)
            tile = _tile(flair[number][head], outlined, filled, window)
            sheet.paste(tile, (left, top + _LINE))
            draw.text(
                (left, top + _LINE + _TILE), _caption(number, header, run), fill=_INK, font=font
            )
    stream = io.BytesIO()
    # few colours, so a palette holds them: a third of the size
    sheet.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        stream, "png", optimize=True
    )
    return stream.getvalue()


def _spread(mask: np.ndarray | None, count: int) -> list[int]:
    """Return at most five slices, spread evenly over the slices of ``mask``, or over all."""
    inside = (
        np.flatnonzero(mask.any(axis=(1, 2)))
        if mask is not None and mask.any()
        else np.arange(count)
    )
    return sorted({int(inside[round(at)]) for at in np.linspace(0, len(inside) - 1, _COLUMNS)})


def _head(volume: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns of the smallest square around the foreground, if it fits."""
    bright = volume > 0.1 * volume.max()
    bounds = [
        np.flatnonzero(bright.any(axis=axes))[[0, -1]] if bright.any() else np.array([0, size - 1])
        for axes, size in (((0, 2), volume.shape[1]), ((0, 1), volume.shape[2]))
    ]
    edge = max(int(last - first) + 5 for first, last in bounds)
    starts = [max(0, int(first + last + 1 - edge) // 2) for first, last in bounds]
    return slice(starts[0], starts[0] + edge), slice(starts[1], starts[1] + edge)


def _tile(
    image: np.ndarray,
    truth: np.ndarray | None,
    mask: np.ndarray | None,
    window: tuple[float, float],
) -> Image.Image:
    scale = max(
        1, -(-2 * _TILE // max(image.shape))
    )  # lines are drawn large, then made smaller: no stairs
    picture = Image.open(
        io.BytesIO(render(image, truth, mask, window=window, scale=scale))
    ).convert("RGB")
    ratio = _TILE / max(picture.size)
    return picture.resize(
        [max(1, round(edge * ratio)) for edge in picture.size], Image.Resampling.BOX
    )


def _caption(number: int, header: dict[str, Any], run: dict[str, Any]) -> str:
    text = f"slice {number + 1} of {header['shape'][0]}"
    if header["truth"] and run["slices"]:
        tp, fp, fn = run["slices"][number]
        text += f", DSC {2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1:.2f}"
    return text


def _legend(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    truth: bool,
    predicted: bool,
) -> None:
    left = 0
    for there, name, colour in (
        (truth, "ground truth", TRUTH),
        (predicted, "prediction", PREDICTION),
    ):
        if there:
            draw.rectangle((left, 6, left + 18, 11), fill=colour, outline="#444")
            draw.text((left + 24, 0), name, fill=_INK, font=font)
            left += 110
