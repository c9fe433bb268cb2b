"""From a ``Config`` to a network."""

from __future__ import annotations

from torch import nn

from lib.config import Config
from lib.unet import UNet
from lib.utils import KitError

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet}


def build_model(config: Config) -> nn.Module:
    """The network that ``config`` describes, freshly initialised from torch's current random state, on the CPU.

    Raises:
        KitError: ``config.model`` is not a key of ``NETWORKS``, or its activation is unknown.
    """
    if config.model not in NETWORKS:
        raise KitError(f"model {config.model!r} is unknown; use one of {', '.join(NETWORKS)}")
    return NETWORKS[config.model](init_features=config.init_features, activation=config.activation)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
