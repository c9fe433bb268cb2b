"""Read a checkpoint of a submission: once, as data, and with every part of it checked."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.config import MODELS, Config
from lib.grade.trouble import in_one_line
from lib.networks import build_model
from lib.runtime.checkpoint import read_checkpoint
from lib.utils import KitError

_AS_WRITTEN = "submit best.pt as the run wrote it"


@dataclass(frozen=True)
class Checkpoint:
    """Hold the checked content of a best.pt.

    Attributes:
        file: its name, for messages.
        config: of one of the kit's networks.
        weights: of that network, by name and shape; plain tensors in host memory.
        trained_on: names of patients, sorted.
    """

    file: str
    config: Config
    weights: dict[str, Tensor]
    trained_on: tuple[str, ...]

    @cached_property
    def hash(self) -> str:
        """Return a hash that is the same for the same weights in another file."""
        return weights_hash(self.weights)

    def network(self) -> nn.Module:
        """Return the network with these weights, in eval mode on the CPU.

        Raises:
            KitError: a tensor is of a type that the network cannot take.
        """
        network = build_model(self.config)
        try:
            network.load_state_dict(self.weights)
        except (RuntimeError, TypeError) as error:
            raise KitError(
                f"{self.file}: its weights cannot be loaded ({in_one_line(error, 200)}); "
                f"{_AS_WRITTEN}"
            ) from None
        return network.eval()


def read_checked(file: Path) -> Checkpoint:
    """Read the checkpoint of a submission.

    The file cannot run code, and takes no more memory than its size says.

    Raises:
        KitError: the file is missing, damaged or compressed; it has no weights of one of the kit's
            networks; or it would take much more memory than it has bytes.
    """
    if not file.is_file():
        raise KitError(f"{file.name} is missing; submit what pack makes")
    _require_uncompressed(file)
    content = read_checkpoint(file)
    config, weights = content.get("config"), content.get("weights")
    if (
        not isinstance(config, dict)
        or not isinstance(weights, dict)
        or config.get("model") not in MODELS
    ):
        raise KitError(
            f"{file.name}: has no config and weights of one of {', '.join(MODELS)}; {_AS_WRITTEN}"
        )
    patients = content.get("trained_on")
    if not isinstance(patients, list) or not all(isinstance(name, str) for name in patients):
        raise KitError(
            f"{file.name}: does not say which patients it was trained on; submit a run of the kit"
        )
    _require_plain(file, weights)
    return Checkpoint(
        file.name, _matching_config(file, config, weights), weights, tuple(sorted(patients))
    )


def _require_uncompressed(file: Path) -> None:
    """Raise KitError unless a file is a zip whose entries are stored as they are."""
    try:
        with zipfile.ZipFile(file) as bundle:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in bundle.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise KitError(
            f"{file.name}: is not what a run writes, or damaged; submit it as it was written"
        ) from None
    if not stored:
        raise KitError(
            f"{file.name}: is compressed, which no run writes; submit it as it was written"
        )


def _require_plain(file: Path, weights: Mapping[Any, Any]) -> None:
    """Raise KitError unless all weights are plain tensors with a name."""
    for name, tensor in weights.items():
        if not (
            isinstance(name, str)
            and isinstance(tensor, Tensor)
            and tensor.layout is torch.strided
            and tensor.device.type == "cpu"
            and tensor.is_contiguous()
            and not (tensor.is_quantized or tensor.is_neg() or tensor.is_conj())
        ):
            raise KitError(f"{file.name}: {str(name)[:60]!a} is no plain tensor; {_AS_WRITTEN}")


def _matching_config(file: Path, values: dict[str, Any], weights: Mapping[str, Tensor]) -> Config:
    """Return the config, if it describes the network of the weights.

    Raises:
        KitError: names or shapes differ, or the file is too small to contain the weights.
    """
    try:
        config = Config.from_dict(values)
        with torch.device("meta"):  # shapes only: a config may ask for any width
            network = build_model(config)
        expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    except (KitError, TypeError, RuntimeError, MemoryError) as error:
        raise KitError(
            f"{file.name}: its config describes no network ({in_one_line(error, 100)}); "
            f"{_AS_WRITTEN}"
        ) from None
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    found = {name: tensor.shape for name, tensor in weights.items()}
    if expected != found or size > file.stat().st_size:
        raise KitError(
            f"{file.name}: its weights are not those of the network that its config describes; "
            f"{_AS_WRITTEN}"
        )
    if config.needed_to_predict:
        raise KitError(
            f"{file.name}: needs {', '.join(config.needed_to_predict)}, and its run.json does not "
            f"say so; {_AS_WRITTEN}"
        )
    return config


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of names, types, shapes and bytes of weights.

    It is the same for the same weights in another file.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
