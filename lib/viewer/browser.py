"""Browse slices in a notebook: ``browse(prediction)``.

The browser itself is ``browser.js``; here the kernel answers what it asks for.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from lib.viewer.gallery import Gallery, Shown
from lib.viewer.montage import montage
from lib.viewer.page import SCRIPT, STYLE, write_page


class Browser(anywidget.AnyWidget):
    """Show a gallery as a widget.

    Where no kernel answers, as on GitHub or in a PDF, a still picture of the first patient is
    shown.
    Keys, after a click: arrows for the slice, PageUp and PageDown for five, Home and End, space to
    play.
    """

    _esm = SCRIPT
    _css = STYLE
    patients: Any = traitlets.List().tag(sync=True)

    def __init__(self, gallery: Gallery) -> None:
        super().__init__(patients=[[name, label] for name, label in gallery.labels.items()])
        self.gallery = gallery
        self.on_msg(self._answer)

    def _answer(self, _: Any, question: dict[str, Any], __: Any) -> None:
        """Send what the browser asked for, or the reason why there is none.

        An exception here would reach nobody.
        """
        try:
            header, buffers = self.answer(
                question["patient"], question["channel"], question["slices"]
            )
            self.send({"id": question["id"], "header": header}, buffers)
        except Exception as error:  # files may have gone or be damaged by now
            self.send({"id": question["id"], "error": str(error) or type(error).__name__})

    def answer(
        self, patient: str, channel: int, slices: list[int] | None
    ) -> tuple[dict[str, Any] | None, list[bytes]]:
        """Return slices of a sequence in one message: its header, and its buffers.

        With None instead of slices, return what the first picture of a patient needs: the buffers
        are then
        the slice to show first and the masks.
        """
        if slices is not None:
            return None, [self.gallery.frame(patient, channel, number) for number in slices]
        header = self.gallery.header(patient)
        first = self.gallery.frame(patient, channel, header["largest"])
        return header, [first, *self.gallery.packed_masks(patient)]

    def to_html(self, path: str | Path, patients: list[str] | None = None) -> Path:
        """Write the browser as one file that needs neither kernel nor network; print its size.

        Args:
            path: the file; replaced if it is there.
            patients: names; all by default.

        Raises:
            KitError: a patient that is not shown here.
        """
        return write_page(self.gallery, path, patients)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # the metadata tell Colab where the widget's script is
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        # beside the widget, so that every other program that opens the notebook has something to
        # show
        picture = base64.b64encode(montage(self.gallery)).decode()
        return data | {
            "text/plain": f"slice browser of {len(self.patients)} patients",
            "image/png": picture,
        }, metadata


def browse(shown: Shown) -> Browser:
    """Browse patients, the worst first: go through the slices, compare up to four predictions.

    Args:
        shown: a prediction; a list of them, or label -> prediction; or data from ``load_data``,
            without predictions.

    Returns:
        The browser, which a cell shows when it ends with it. ``browse(...).to_html("file.html")``
        writes it to a file.

    Raises:
        KitError: more than four predictions, or predictions of different data.
    """
    return Browser(Gallery(shown))
