"""The view of a training: it changes nothing of the run, shows one picture, and keeps quiet outside
notebooks.
"""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lib.config import Config
from lib.dataset import load_data
from lib.plot import live
from lib.train import fit

TINY = Config(
    image_size=32,
    init_features=2,
    batch_size=4,
    epochs=3,
    split="holdout:2",
    precision="fp32",
    ema=0.9,
)


class Screen:
    """Stands in for a cell's output."""

    def __init__(self):
        self.first, self.updates = [], []

    def display(self, picture, display_id):
        assert display_id
        self.first.append(picture)
        return self

    def update(self, picture):
        self.updates.append(picture)


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr("IPython.display.display", screen.display)
    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr(live, "_SHARE", 1e9)
    return screen


@pytest.mark.parametrize("neighbours", [0, 1])
def test_watched_run_is_the_same_run(tiny_kaggle, tmp_path, screen, monkeypatch, neighbours):
    monkeypatch.setenv("KIT_PROGRESS", "auto")
    data, config = load_data(tiny_kaggle, 32), replace(TINY, neighbours=neighbours)
    watched = fit(config, data, tmp_path / "a", watch=live.LiveView())
    alone = fit(config, data, tmp_path / "b")
    assert watched.id == alone.id and watched.info["sha256"] == alone.info["sha256"]
    assert len(screen.first) == 1 and len(screen.updates) == 2
    picture = Image.open(io.BytesIO(screen.updates[-1].data))
    assert (picture.width, picture.height) == (screen.updates[-1].width, screen.updates[-1].height)


def test_text_mode_shows_the_last_picture_only(tiny_kaggle, tmp_path, screen):
    view, data = live.LiveView(), load_data(tiny_kaggle, 32)
    for seed in (1, 2):  # one view, two runs: a picture each
        fit(Config(**TINY.to_dict() | {"seed": seed, "epochs": 2}), data, tmp_path, watch=view)
    assert len(screen.first) == 2 and not screen.updates


def test_one_view_of_the_same_recipe_on_other_data_begins_anew(
    tiny_kaggle, kaggle_folder, tmp_path, screen, monkeypatch
):
    monkeypatch.setenv("KIT_PROGRESS", "auto")
    view, config = live.LiveView(), replace(TINY, epochs=2)
    shown = []
    for folder in (tiny_kaggle, kaggle_folder(slices=8)):
        fit(config, load_data(folder, 32), tmp_path, watch=view)
        shown.append(view._grey)
    assert len(screen.first) == len(screen.updates) == 2
    assert not np.array_equal(*shown)


def test_where_nobody_is_left_to_validate_on_nothing_is_shown(tiny_kaggle, tmp_path, screen):
    run = fit(
        replace(TINY, split="all"), load_data(tiny_kaggle, 32), tmp_path, watch=live.LiveView()
    )
    assert run.info["status"] == "finished" and not screen.first


def test_short_epochs_are_not_slowed_down(tiny_kaggle, tmp_path, screen, monkeypatch):
    monkeypatch.setenv("KIT_PROGRESS", "auto")
    monkeypatch.setattr(live, "_SHARE", 1e-9)
    fit(TINY, load_data(tiny_kaggle, 32), tmp_path, watch=live.LiveView())
    assert len(screen.first) == 1 and len(screen.updates) == 1  # the first epoch and the last


def test_outside_a_notebook_nothing_happens(tiny_kaggle, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "IPython.display.display", lambda *_, **__: pytest.fail("nobody can see this")
    )
    fit(
        Config(**TINY.to_dict() | {"epochs": 1}),
        load_data(tiny_kaggle, 32),
        tmp_path,
        watch=live.LiveView(),
    )
