"""The kit's weights, and their card."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch

from lib.config import BEST, REFERENCE
from lib.dataset import PUBLISHED_VALIDATION
from lib.predict import KIT_WEIGHTS, PRETRAINED, SMALL_WEIGHTS, load_weights
from lib.utils import KitError
from maintain import pretrained


def test_weights_are_exported_with_their_card(reference, tmp_path):
    files = pretrained.export(reference, tmp_path)
    assert [file.name for file in files] == ["baseline-32.pt", "best-32.pt"]
    runs = pretrained.weight_runs(reference)
    for file in files:
        exact, halved = load_weights(runs[file.name].weights), load_weights(file)
        assert halved.trained_on == exact.trained_on and len(halved.trained_on) == 6
        exact, halved = exact.network, halved.network
        for name, tensor in exact.state_dict().items():
            torch.testing.assert_close(halved.state_dict()[name], tensor, rtol=2e-3, atol=1e-6)
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            halved(images).sigmoid(), exact(images).sigmoid(), rtol=0, atol=5e-3
        )
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"{digest}  {file.name}\n" in (tmp_path / "SHA256SUMS").read_text()
        assert digest in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_weights_whose_checkpoint_is_gone_stay(reference, tmp_path):
    copied = tmp_path / "reference"
    shutil.copytree(reference / "runs", copied / "runs")
    pretrained.export(copied, tmp_path)
    before = (tmp_path / "best-32.pt").read_bytes()
    pretrained.weight_runs(copied)["best-32.pt"].weights.unlink()
    assert [file.name for file in pretrained.export(copied, tmp_path)] == ["baseline-32.pt"]
    assert (tmp_path / "best-32.pt").read_bytes() == before
    (tmp_path / "best-32.pt").unlink()
    with pytest.raises(KitError, match="no such file"):
        pretrained.export(copied, tmp_path)


def test_weights_that_float16_cannot_hold_are_not_exported(reference, tmp_path, monkeypatch):
    run = pretrained.weight_runs(reference)["best-32.pt"]
    content = torch.load(run.weights, weights_only=True)
    content["weights"]["conv.bias"] += 1e6
    monkeypatch.setattr(pretrained, "read_checkpoint", lambda _: content)
    with pytest.raises(KitError, match="too large for float16"):
        pretrained.export(reference, tmp_path)
    assert not any(tmp_path.iterdir())


def test_files_are_named_by_recipe_and_size():
    assert pretrained.file_name("best", REFERENCE.image_size) == KIT_WEIGHTS.name
    assert pretrained.file_name("best", 128) == SMALL_WEIGHTS.name


def test_the_card_tells_of_the_weights_that_are_there():
    assert (PRETRAINED / "README.md").read_text(encoding="utf-8") == pretrained.card()


def test_the_kits_weights_are_those_of_the_sums():
    sums = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(PRETRAINED.glob("*.pt"))
    )
    assert (PRETRAINED / "SHA256SUMS").read_text() == sums
    assert all(file.stat().st_size <= 20e6 for file in PRETRAINED.glob("*.pt"))


@pytest.mark.parametrize("name", ["baseline-128.pt", "best-128.pt"])
def test_the_small_weights_are_of_runs_of_the_reference(name):
    network, run = load_weights(PRETRAINED / name), pretrained.weight_runs()[name]
    assert network.config == run.config and network.trained_on == tuple(run.info["split"]["train"])


def test_the_kits_weights_are_full_scale_and_have_not_seen_the_published_ten():
    config = load_weights(KIT_WEIGHTS).config
    size = ("image_size", "init_features", "lr", "ema", "sampling", "component")
    assert all(getattr(config, name) == getattr(BEST, name) for name in size)
    assert (config.image_size, config.init_features) == (256, 32)
    for file in PRETRAINED.glob("*.pt"):
        trained_on = load_weights(file).trained_on
        assert len(trained_on) == 100 and not set(trained_on) & set(PUBLISHED_VALIDATION)
