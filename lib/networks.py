"""Build the network of a ``Config``, and find its costs: parameters, arithmetic, memory.

The costs are found without computing the network: a training step runs on tensors that have a
shape and a number format but no content.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from lib.config import MODELS, REFERENCE, Config, require_fields
from lib.loss import LOSSES, build_loss, build_objective
from lib.runtime import (
    Machine,
    can_recompute,
    free_memory,
    load_class,
    pick_device,
    pick_precision,
    seed_everything,
    set_recompute,
    use_fast_bias_gradient,
)
from lib.runtime.cost import Trace, count_parameters, forward_flops, step_on_shapes, without_content
from lib.runtime.memory import is_out_of_memory, memory_in_words
from lib.runtime.trial import in_words, require, try_augmentation, try_loss, try_network
from lib.transform import build_augmentation
from lib.unet import UNet
from lib.unet_2plus import UNet2Plus
from lib.unet_3plus import UNet3Plus
from lib.unet_init_weights import initialise, start_at
from lib.utils import KitError, see

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "unet_2plus": UNet2Plus,
    "unet_3plus": UNet3Plus,
}
CHOICES = ("activation", "normalisation", "deep_supervision", "guided")
ARGUMENTS = ("init_features", *CHOICES)
"""Fields of ``Config`` that are passed to the constructor of a network.

A custom network may ignore ``init_features``. Any other field that it does not accept must keep
its default; otherwise the setting would silently have no effect.
"""
ARCHITECTURE = ("model", "neighbours", *ARGUMENTS, "checkpointing")  # what the costs depend on


def build_model(config: Config) -> nn.Module:
    """Build the network that ``config`` describes, on the CPU, from torch's current random state.

    A custom network is given ``in_channels`` and those of ``ARGUMENTS`` that its constructor
    accepts.

    Raises:
        KitError: ``config.model`` is ``"module:Class"``, and there is no such class, its
            constructor needs another argument, or it does not accept a field that ``config`` sets.
    """
    name = config.model
    network = NETWORKS[name] if name in NETWORKS else load_class(name, nn.Module)
    values = {name: getattr(config, name) for name in ("in_channels", *ARGUMENTS)}
    accepted, needed = _constructor(network)
    for name in CHOICES:
        default = getattr(REFERENCE, name)
        if values[name] != default and name not in accepted:
            raise KitError(
                f"{config.model}: its constructor has no argument {name}; leave it at {default!r}, "
                f"or add one; "
                f"{see('extending', 'A network')}"
            )
    if config.neighbours and "in_channels" not in accepted:
        raise KitError(
            f"{config.model}: its constructor has no argument in_channels; set neighbours=0, or "
            f"add one; "
            f"{see('extending', 'A network')}"
        )
    unknown = sorted(needed.difference(values))
    if unknown:
        raise KitError(
            f"{config.model}: its constructor needs {', '.join(unknown)}; give it a default, as "
            f"only {', '.join(values)} are passed; "
            f"{see('extending', 'A network')}"
        )
    with in_words(config.model):
        model = network(**{name: value for name, value in values.items() if name in accepted})
    if config.checkpointing and not can_recompute(model):
        raise KitError(
            f"{config.model}: checkpointing recomputes blocks such as lib.unet_layers.DoubleConv, "
            f"and it has none; leave checkpointing at False"
        )
    initialise(model, config.initialiser)
    if config.prior:
        start_at(model, config.prior)
    set_recompute(model, config.checkpointing)
    use_fast_bias_gradient(model)
    return model


def build(config: Config) -> tuple[nn.Module, nn.Module]:
    """Return the network and the objective of ``config``, on the CPU.

    The first weights follow from ``config.seed``. Torch's random state stays as it is.

    Raises:
        KitError: too little memory; a custom network or loss that cannot learn; or see
            ``build_model`` and ``build_objective``.
    """
    with torch.random.fork_rng(), memory_in_words():
        seed_everything(config.seed)
        network, objective = build_model(config), build_objective(config)
        _require_useful(config, network)
        return network, objective


def _require_useful(config: Config, network: nn.Module) -> None:
    """Raise ``KitError`` for a custom network, loss or augmentation that cannot teach masks.

    It is tried on two random slices before hours are spent on it. Training has its own ways to need
    less memory, so a lack of memory here means nothing.
    """
    if config.loss not in LOSSES:
        require(config.loss, try_loss(build_loss(config.loss)))
    augmentation = config.custom.get("augmentation")
    if not augmentation and config.model in NETWORKS:
        return
    try:
        images = torch.randn(2, config.in_channels, config.image_size, config.image_size)
        if augmentation:
            checks = try_augmentation(build_augmentation(config), images.clone())
            require(augmentation, checks, see("extending", "An augmentation"))
        if config.model not in NETWORKS:
            tried = copy.deepcopy(network)  # its statistics and its mode stay as they are
            outputs = config.deep_supervision or config.guided
            require(config.model, try_network(tried, images, config.precision, outputs))
    except Exception as error:
        if not is_out_of_memory(error):
            raise


def _constructor(network: type[nn.Module]) -> tuple[set[str], set[str]]:
    """Return the arguments that a constructor accepts, and those that it needs.

    ``**kwargs`` are followed to the base class.
    """
    accepted: set[str] = set()
    for cls in network.__mro__:
        if "__init__" in cls.__dict__:
            parameters = inspect.signature(cls.__dict__["__init__"]).parameters
            accepted.update(parameters)
            if not any(
                parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
            ):
                break
    return accepted, {
        name
        for name, parameter in inspect.signature(network).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


# --- costs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """List the costs of a network; ``str()`` puts them into one line. Sizes are in bytes.

    Attributes:
        model: ``config.model``.
        parameters: trainable ones.
        gflops: billions of floating-point operations in the convolutions of a forward pass, per
            slice; a multiply-add counts as two. A training step takes three times that.
        saved_bytes: kept by the forward pass of a training step for backward, without parameters.
        largest_bytes, largest_shape: the largest tensor of a training step that is not kept.
        peak_bytes: most in memory at once during a training step: weights, gradients, optimiser
            state and all features. Scratch space of the convolution library and the loss add to it.
        batch_size, image_size, precision: of the training step.
    """

    model: str
    parameters: int
    gflops: float
    saved_bytes: int
    largest_bytes: int
    largest_shape: tuple[int, ...]
    peak_bytes: int
    batch_size: int
    image_size: int
    precision: str

    def __str__(self) -> str:
        shape = "x".join(map(str, self.largest_shape))
        return (
            f"{self.model}: {self.parameters:,} parameters, {self.gflops:.1f} GFLOPs a slice; "
            f"a step of {self.batch_size} at {self.image_size}x{self.image_size} in "
            f"{self.precision} keeps {_gib(self.saved_bytes)} for backward, largest other tensor "
            f"{_gib(self.largest_bytes)} ({shape}), peak {_gib(self.peak_bytes)}"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def summary(
    config: Config,
    batch_size: int | None = None,
    image_size: int | None = None,
    precision: str | None = None,
) -> Summary:
    """Return the costs of the network of ``config``, for other sizes and precision if given.

    Args:
        config: batch size, image size and precision are taken from it by default.
        precision: fp32, bf16 or fp16; ``"auto"`` is resolved for ``config.device``. Operations that
            CUDA computes in float32 under autocast and the CPU does not (group normalisation) are
            counted in 16 bits.

    Raises:
        KitError: no such network or precision, or a size that it refuses.
    """
    batch_size = config.batch_size if batch_size is None else batch_size
    image_size = config.image_size if image_size is None else image_size
    precision = _precision_name(config, config.precision if precision is None else precision)
    shape = _architecture(config)
    parameters, step = _step_on_shapes(shape, batch_size, image_size, precision)
    return Summary(
        config.model,
        parameters,
        _forward_flops(shape, image_size) / 1e9,
        step.saved_bytes,
        *step.largest,
        step.peak_bytes + _state_bytes(config, parameters),
        batch_size,
        image_size,
        precision,
    )


def largest_batch(config: Config, image_size: int, memory_bytes: float, precision: str) -> int:
    """Return how many slices of ``image_size`` a training step fits into ``memory_bytes`` at once.

    It is 0 if not even one fits. Activations grow linearly with the batch; weights, gradients and
    optimiser state do not. So the line goes through the peaks of batches of 8 and 16. A tenth of
    the memory is left to the convolution library and to fragmentation.

    Args:
        memory_bytes: free memory of the device.
        precision: as in ``summary``.

    Raises:
        KitError: no such network or precision, or an image size that it refuses.
    """
    precision = _precision_name(config, precision)
    peaks = []
    for batch_size in (8, 16):
        parameters, step = _step_on_shapes(_architecture(config), batch_size, image_size, precision)
        peaks.append(step.peak_bytes + _state_bytes(config, parameters))
    per_slice = (peaks[1] - peaks[0]) / 8
    return max(0, int((0.9 * memory_bytes - (peaks[0] - 8 * per_slice)) / per_slice))


def cost_line(config: Config, chunk: int, machine: Machine) -> str:
    """Return the costs of a training, in words, and what to do if a chunk is too large.

    Args:
        chunk: slices that are computed at once.
    """
    if config.model not in MODELS:
        return f"{config.model}: its cost is not known before it runs"
    precision = machine.precision.name
    try:
        cost = summary(config, chunk, precision=precision)
        most = largest_batch(config, config.image_size, free_memory(machine.device), precision)
    except Exception as error:  # advice must not stop a training: it uses private parts of torch
        return f"{config.model}: its cost is not known with this torch ({type(error).__name__})"
    line = f"{cost}\nfree memory of this device: enough for {most} slices at once"
    if most >= chunk:
        return line
    remedy = "accumulate" if config.checkpointing else "checkpointing=True, or accumulate"
    return f"{line}; too few: set {remedy}"


def _precision_name(config: Config, precision: str) -> str:
    """Return the name of a precision, ``auto`` resolved for the device of ``config``.

    No other needs the device: a laptop may ask what a run costs on a GPU elsewhere.

    Raises:
        KitError: there is none of that name.
    """
    require_fields(precision=precision)
    if precision != "auto":
        return precision
    return pick_precision(pick_device(config.device)).name


def _state_bytes(config: Config, parameters: int) -> int:
    """Return the bytes of weights and of the optimiser's state: two moments, or SGD's momentum."""
    return 4 * parameters * (2 if config.optimizer == "SGD" else 3)


def _architecture(config: Config) -> Config:
    """Return the settings that costs depend on: the runs of a sweep then share them."""
    return Config(**{name: getattr(config, name) for name in ARCHITECTURE})


@lru_cache
def _forward_flops(config: Config, image_size: int) -> int:
    """Return the operations in the convolutions of one slice's forward pass."""
    with torch.device("meta"):
        return forward_flops(build_model(config), config.in_channels, image_size)


@lru_cache
def _step_on_shapes(
    config: Config, batch_size: int, image_size: int, precision: str
) -> tuple[int, Trace]:
    """Return the number of parameters, and the trace of a training step without content."""
    if min(batch_size, image_size) < 1:
        raise KitError(
            f"a batch of {batch_size} slices of {image_size} pixels: give numbers from 1 on"
        )
    with without_content():
        model = build_model(config)
        return count_parameters(model), step_on_shapes(
            model, config.in_channels, batch_size, image_size, precision
        )
