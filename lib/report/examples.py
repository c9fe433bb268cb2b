"""Predict examples of segmentations for the report, if the images are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from lib import plot
from lib.data import find_root
from lib.data.places import usual_places
from lib.dataset import BrainData, load_data
from lib.logger import Run
from lib.notebook.course import read_course
from lib.predict import Prediction, predict
from lib.report.experiments import Recipe
from lib.report.format import without_folders
from lib.utils import KitError


class Examples:
    """Predict examples of segmentations, if the images are at hand.

    Attributes:
        real: a figure showed real patients, not phantoms.
    """

    def __init__(self, data: BrainData | str | Path | None, images: bool) -> None:
        self._data = data if data is None or isinstance(data, BrainData) else find_root(data)
        self._images, self.real = images, False
        self._shown: set[str] = set()

    def of(self, recipe: Recipe) -> Figure | str:
        """Return a figure of the recipe's best run, or why there is none.

        It shows the worst, the median and the best patient.
        """
        run = max(recipe.runs, key=mean_dsc)
        if not self._images:
            return "Examples of segmentations were left out."
        if run.id in self._shown:
            return f"Segmentations of its best run, {run.id}, are shown further up."
        try:
            figure = plot.overlays(self._predict(run))
        except (KitError, OSError) as error:
            return f"No examples of segmentations: {without_folders(str(error))}."
        self._shown.add(run.id)
        self.real = self.real or not run.info["data"].get("phantom")
        return figure

    def _predict(self, run: Run) -> Prediction:
        """Predict the worst, the median and the best patient of a run."""
        if not run.weights.is_file():
            raise KitError("the weights of its best run, best.pt, are not in its folder")
        ranked = list(
            run.cases.dropna(subset=["dsc_native"]).sort_values(["dsc_native", "patient"])[
                "patient"
            ]
        )
        chosen = dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1]))
        return predict(run.weights, self._data_of(run), patients=list(chosen))

    def _data_of(self, run: Run) -> BrainData:
        """Return the data that the run was scored on, prepared for its network."""
        data, wanted = self._data, (run.config.image_size, run.config.preprocessing)
        if not isinstance(data, BrainData) or (data.image_size, data.preprocessing) != wanted:
            data = load_data(self._folder(run), *wanted)
        if data.fingerprint != run.info["data"]["sha256"]:
            raise KitError("the images here are not those that the run was trained on")
        return data

    def _folder(self, run: Run) -> Path:
        """Return the folder with the run's validation patients.

        It is the one given, or the first of those where the notebooks look. They are looked up by
        name: to prepare other images first would take minutes.
        """
        given = self._data.root if isinstance(self._data, BrainData) else self._data
        for folder in map(Path, [given] if given else _usual_folders()):
            if all((folder / name).is_dir() for name in run.cases["patient"]):
                return folder
        raise KitError("the images of its patients are not here; --data names their folder")


def _usual_folders() -> Iterator[str | Path]:
    """Yield where the notebooks look for data."""
    if os.environ.get("KIT_DATA"):
        yield os.environ["KIT_DATA"]
    yield read_course().phantom_folder
    yield from usual_places()


def mean_dsc(run: Run) -> float:
    """Return the mean DSC over the patients that the run was scored on."""
    return run.cases["dsc"].mean()
