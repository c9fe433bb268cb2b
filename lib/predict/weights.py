"""Find and load trained weights: of a run, of the kit, or of the published U-Net."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.config import MODELS, REFERENCE, Config
from lib.dataset import BrainData
from lib.evaluate import TrainedModel
from lib.logger import Run, finished_runs, outside_folds
from lib.networks import build_model
from lib.runtime.checkpoint import read_checkpoint, require_finite
from lib.unet import from_published
from lib.utils import PROJECT, KitError, as_path, see

PRETRAINED = PROJECT / "result" / "pretrained"
KIT_WEIGHTS = PRETRAINED / "best.pt"  # the recipe that did better in cross-validation
SMALL_WEIGHTS = PRETRAINED / "best-128.pt"  # the same recipe for slow machines
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")


def default_weights(out: str | Path = "result", data: BrainData | None = None) -> Path:
    """Return the weights of your best run, or those of the kit if there is none.

    Args:
        data: only runs on these patients count; without it, all that were not trained on phantoms.

    Raises:
        KitError: neither is there.
    """
    runs = [
        run
        for run in finished_runs(out)
        if (
            not run.info["data"].get("phantom")
            if data is None
            else run.info["data"]["sha256"] == data.fingerprint
        )
    ]
    if not runs and not KIT_WEIGHTS.is_file():
        raise KitError(
            f"{Path(out) / 'runs'}: no finished run on {data.name if data else 'patients'}; "
            f"train one first, or name best.pt of another run (--weights FILE)"
        )
    return max(outside_folds(runs), key=lambda run: run.dsc.mean).weights if runs else KIT_WEIGHTS


def unseen(trained: TrainedModel, data: BrainData) -> tuple[str, ...]:
    """Return the patients of ``data`` that a network was not trained on."""
    seen = trained.seen(data)
    return tuple(name for name in data.patients if name not in seen)


def load_weights(file: str | Path, trust: str | Sequence[str] = ()) -> TrainedModel:
    """Load the network that a file describes, in eval mode on the CPU.

    Args:
        file: ``best.pt`` of a run, or a bare state dict of the published U-Net
            (``encoder1.enc1conv1.weight`` ...). Opened as data: a file that wants to run code is
            refused.
        trust: the custom code that the file needs, e.g. ``"my_module:MyNetwork"``, or several: a
            file must not choose which code runs. A custom metric is left out without it.

    Raises:
        KitError: no such file, no weights in it, or weights of another network.
    """
    file = as_path(file, "weights")
    content = read_checkpoint(file)
    if isinstance(content.get("config"), dict) and isinstance(content.get("weights"), dict):
        config, weights = _config_of(file, content["config"]), content["weights"]
        if config.model in MODELS:  # a custom network may have a part that is called module
            weights = _bare(weights)
        trusted = [trust] if isinstance(trust, str) else trust
        unknown = set(config.needed_to_predict).difference(trusted)
        if unknown:
            named = " ".join(sorted(unknown))
            raise KitError(
                f"{file}: needs code outside the kit, {named}; if you trust it, pass "
                f"trust={sorted(unknown)} (--trust {named}); "
                f"{see('extending', 'A network')}"
            )
        if config.custom.get("metric", "") not in trusted:
            config = replace(config, metric="none")
    else:
        weights = from_published(_bare(content))
        head = weights.get("conv.weight")
        if not isinstance(head, torch.Tensor) or head.ndim != 4:
            raise KitError(
                f"{file}: neither best.pt of a run nor a state dict of the published U-Net; "
                f"give either"
            )
        config = _config_of(file, REFERENCE.to_dict() | {"init_features": head.shape[1]})
    require_finite(file, weights)
    if config.model in MODELS:  # before a width that the weights do not have takes any memory
        with torch.device("meta"):
            outline = build_model(config)
        _load(file, outline, config, weights, assign=True)
    network = build_model(config)
    _load(file, network, config, weights)
    names, scans = (_names(file, content, key) for key in ("trained_on", "scans"))
    return TrainedModel(network.eval(), config, names, scans)


def _load(
    file: Path, network: nn.Module, config: Config, weights: dict[str, Any], assign: bool = False
) -> None:
    """Load weights into a network. Raises KitError if names or shapes differ."""
    try:
        network.load_state_dict(weights, assign=assign)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise KitError(
            f"{file}: its weights are not those of {config.model} with {config.init_features} "
            f"features ({reason}); use the file as the run wrote it"
        ) from None


def _names(file: Path, content: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of texts of a file of weights, () without one."""
    names = content.get(key, [])
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise KitError(f"{file}: its {key} is no list of names; use the file as the run wrote it")
    return tuple(names)


def _bare(content: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict as a network has it, out of what wrappers of torch make of it."""
    inner = content.get("state_dict", content)
    weights = inner if isinstance(inner, dict) else content
    # of DataParallel, of torch.compile, of one around the other
    return {_WRAPPERS.sub("", str(name)): value for name, value in weights.items()}


def _config_of(file: Path, values: dict[str, Any]) -> Config:
    try:
        return Config.from_dict(values)
    except (KitError, TypeError) as error:
        raise KitError(
            f"{file}: made by another version of the kit ({error}); use that version"
        ) from None


def trained_model(weights: object) -> TrainedModel:
    """Return the network with its weights, from a file or a run where that is given.

    Custom code that a run needs is trusted: it has been trained here.

    Raises:
        KitError: it is none of these.
    """
    if isinstance(weights, (str, Path)):
        return load_weights(weights)
    if isinstance(weights, Run):
        return load_weights(weights.weights, tuple(weights.config.custom.values()))
    if isinstance(weights, TrainedModel):
        return weights
    raise KitError(
        f"predict takes a run, a file of weights or the TrainedModel of load_weights, not "
        f"{type(weights).__name__}; a bare network does not say how its images are prepared"
    )
