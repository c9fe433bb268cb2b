"""Runs of the version before this one are found again, and nothing else of them changes."""

import json

import pytest

from lib.config import Config
from lib.dataset import load_data
from lib.train import fit
from maintain.reidentify import OLDER, reidentify

TINY = Config(
    image_size=32, init_features=2, epochs=1, batch_size=4, lr=1e-2, sampling="fresh", device="cpu"
)
OLD_LOGGER = "def code_fingerprint(config, train):\n    return f'old {config.seed}'\n"
OLD_CONFIG = """
class Config:
    def __init__(self, **values):
        self.__dict__ |= values
"""


@pytest.fixture
def old(tmp_path):
    """A stand-in for a checkout of that version: it knows the fingerprints of its code."""
    folder = tmp_path / "checkout" / "lib"
    folder.mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "train": "",
        "config": OLD_CONFIG,
        "logger": OLD_LOGGER,
    }.items():
        (folder / f"{name}.py").write_text(text)
    return folder.parent


def made_by_old_code(run, code):
    """Turn a run into one of the version before; its folder."""
    info = run.info | {"schema": 1, "code": {"sha256": code}}
    (run.folder / "run.json").write_text(json.dumps(info))
    return run.folder.rename(run.folder.with_name(f"old-{run.config.seed}"))


def test_a_run_of_that_code_is_found_again_and_older_ones_are_marked(tiny_kaggle, tmp_path, old):
    data, out = load_data(tiny_kaggle, TINY.image_size), tmp_path / "out"
    run = fit(TINY, data, out)
    before = {name: (run.folder / name).read_bytes() for name in ("best.pt", "history.csv")}
    made_by_old_code(run, f"old {TINY.seed}")
    older = made_by_old_code(fit(Config(**TINY.to_dict() | {"seed": 7}), data, out), "older still")
    assert reidentify(out, old) == {f"old-{TINY.seed}": run.id}
    found = fit(TINY, data, out)
    assert found.id == run.id and found.info["schema"] == 2
    assert {name: (found.folder / name).read_bytes() for name in before} == before
    assert json.loads((older / "run.json").read_text())["code"]["of"] == OLDER


def test_what_is_no_checkout_is_said(tiny_kaggle, tmp_path):
    run = fit(TINY, load_data(tiny_kaggle, TINY.image_size), tmp_path / "out")
    made_by_old_code(run, "old")
    with pytest.raises(SystemExit, match="no checkout"):
        reidentify(tmp_path / "out", tmp_path)
