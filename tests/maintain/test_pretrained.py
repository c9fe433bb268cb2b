"""The kit's weights, and their card."""

from __future__ import annotations

import hashlib

import pytest
import torch

from lib.dataset import PUBLISHED_VALIDATION
from lib.predict import PRETRAINED, load_weights
from lib.utils import KitError
from maintain import pretrained


def test_weights_are_exported_with_their_card(reference, tmp_path):
    files = pretrained.export(reference, tmp_path)
    assert [file.name for file in files] == ["baseline.pt", "best.pt"]
    runs = pretrained.weight_runs(reference)
    for file in files:
        exact, halved = load_weights(runs[file.stem].weights), load_weights(file)
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


def test_weights_that_float16_cannot_hold_are_not_exported(reference, tmp_path, monkeypatch):
    run = pretrained.weight_runs(reference)["best"]
    content = torch.load(run.weights, weights_only=True)
    content["weights"]["conv.bias"] += 1e6
    monkeypatch.setattr(pretrained, "read_checkpoint", lambda _: content)
    with pytest.raises(KitError, match="too large for float16"):
        pretrained.export(reference, tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_card_tells_of_the_weights_that_are_there():
    files = {
        name: (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
        for name in ("baseline.pt", "best.pt")
        for file in [PRETRAINED / name]
    }
    assert (PRETRAINED / "README.md").read_text(encoding="utf-8") == pretrained.card(files)


@pytest.mark.parametrize("name", ["baseline", "best"])
def test_the_kits_weights(name):
    file = PRETRAINED / f"{name}.pt"
    assert file.stat().st_size <= 20e6
    assert (
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        in (PRETRAINED / "SHA256SUMS").read_text()
    )
    network, run = load_weights(file), pretrained.weight_runs()[name]
    assert network.config == run.config and network.trained_on == tuple(run.info["split"]["train"])
    assert not set(network.trained_on) & set(PUBLISHED_VALIDATION), (
        "the published ten must stay unseen"
    )
