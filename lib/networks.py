"""From a ``Config`` to a network."""

from __future__ import annotations

from torch import nn

from lib.config import Config
from lib.unet import UNet
from lib.utils import load_class

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet}


def build_model(config: Config) -> nn.Module:
    """The network that ``config`` describes, freshly initialised from torch's current random state, on the CPU.

    Raises:
        KitError: ``config.model`` is ``"module:Class"`` and there is no such network.
    """
    network = NETWORKS[config.model] if config.model in NETWORKS else load_class(config.model)
    return network(init_features=config.init_features, activation=config.activation)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
