"""From a ``Config`` to a network."""

from __future__ import annotations

from torch import nn

from lib.config import Config
from lib.unet import UNet
from lib.utils import KitError

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet}


def network_class(name: str) -> type[nn.Module]:
    """The class behind ``Config.model``.

    Raises:
        KitError: the name is not a key of ``NETWORKS``.
    """
    if name not in NETWORKS:
        raise KitError(f"model {name!r} is unknown; use one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build_model(config: Config) -> nn.Module:
    """The network that ``config`` describes, freshly initialised from torch's current random state, on the CPU."""
    return network_class(config.model)(init_features=config.init_features, activation=config.activation)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
