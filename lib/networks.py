"""From a ``Config`` to a network, and what that network costs: parameters, arithmetic, memory.

The costs are computed without computing the network: a training step runs on tensors that have a shape and a number
format but no content.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lib.config import REFERENCE, Config
from lib.device import pick_device, pick_precision
from lib.unet import UNet
from lib.unet_2plus import UNet2Plus
from lib.unet_3plus import UNet3Plus
from lib.utils import KitError, load_class

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet, "unet_2plus": UNet2Plus, "unet_3plus": UNet3Plus}
CHOICES = ("activation", "normalisation", "initialiser", "checkpointing", "deep_supervision", "guided")
ARGUMENTS = ("init_features", *CHOICES)
"""Fields of ``Config`` that a network's constructor may take. The width is also the profile's to set, so a network of
one's own may do without it; a choice that it does not take would change nothing unnoticed."""


def build_model(config: Config) -> nn.Module:
    """The network that ``config`` describes, freshly initialised from torch's current random state, on the CPU.

    ``config`` becomes an attribute of it. A network of one's own is given ``in_channels`` and those of ``ARGUMENTS``
    that its constructor names.

    Raises:
        KitError: ``config.model`` is ``"module:Class"`` and there is no such network, its constructor needs something
            else, or it does not take what ``config`` chooses, or ``in_channels`` where there are neighbours.
    """
    network = NETWORKS[config.model] if config.model in NETWORKS else load_class(config.model)
    values = {name: getattr(config, name) for name in ("in_channels", *ARGUMENTS)}
    accepted, needed = _constructor(network)
    for name in CHOICES:
        default = getattr(REFERENCE, name)
        if values[name] != default and name not in accepted:
            raise KitError(f"{config.model}: its constructor has no argument {name}; leave it at {default!r}, or add "
                           "one")
    if config.neighbours and "in_channels" not in accepted:
        raise KitError(f"{config.model}: its constructor has no argument in_channels; set neighbours=0, or add one")
    unknown = sorted(needed.difference(values))
    if unknown:
        raise KitError(f"{config.model}: its constructor needs {', '.join(unknown)}; give it a default, as only "
                       f"{', '.join(values)} are passed")
    model = network(**{name: value for name, value in values.items() if name in accepted})
    model.config = config
    return model


def _constructor(network: type[nn.Module]) -> tuple[set[str], set[str]]:
    """Names that a class's constructor accepts, ``**kwargs`` followed to the class it comes from; names without which
    it cannot be called."""
    accepted: set[str] = set()
    for cls in network.__mro__:
        if "__init__" in cls.__dict__:
            parameters = inspect.signature(cls.__init__).parameters
            accepted.update(parameters)
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    return accepted, {name for name, parameter in inspect.signature(network).parameters.items()
                      if parameter.default is parameter.empty
                      and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)}


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# --- what it costs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What a network costs; ``str()`` puts it into one line. Sizes are in bytes.

    Attributes:
        model: ``config.model``.
        parameters: trainable ones.
        gflops: billions of floating-point operations in the convolutions of a forward pass, per slice; a
            multiply-add counts as two. A training step takes three times that.
        saved_bytes: what the forward pass of a training step keeps for backward, parameters left out.
        largest_bytes, largest_shape: the largest tensor of a training step that is not kept.
        peak_bytes: most that lies in memory at once during a training step: weights, gradients, optimiser state and
            everything computed on the way. Scratch space of the convolution library and the loss come on top.
        batch_size, image_size, precision: what all that is for.
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
        return (f"{self.model}: {self.parameters:,} parameters, {self.gflops:.1f} GFLOPs a slice; a step of "
                f"{self.batch_size} at {self.image_size}x{self.image_size} in {self.precision} keeps "
                f"{_gib(self.saved_bytes)} for backward, largest other tensor {_gib(self.largest_bytes)} ({shape}), "
                f"peak {_gib(self.peak_bytes)}")


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def summary(config: Config, batch_size: int | None = None, image_size: int | None = None,
            precision: str | None = None) -> Summary:
    """What ``config``'s network costs, for other sizes and another precision if these are given.

    Args:
        config: model and device, of which batch size, image size and precision are taken by default.
        precision: fp32, bf16 or fp16; ``"auto"`` is resolved for ``config.device``. Operations that CUDA computes in
            float32 under autocast and the CPU does not (group normalisation) are counted in 16 bits.

    Raises:
        KitError: no such network, or an image size that it refuses.
    """
    batch_size, image_size = batch_size or config.batch_size, image_size or config.image_size
    precision = precision or config.precision
    if precision == "auto":
        precision = pick_precision(pick_device(config.device), precision).name
    shape = _architecture(config)
    parameters, step = _step_on_shapes(shape, batch_size, image_size, precision)
    return Summary(config.model, parameters, _forward_flops(shape, image_size) / 1e9, step.saved_bytes, *step.largest,
                   step.peak_bytes + _state_bytes(config, parameters), batch_size, image_size, precision)


def largest_batch(config: Config, image_size: int, memory_bytes: float, precision: str) -> int:
    """The most slices of ``image_size`` that a training step fits into ``memory_bytes`` at once; 0 if not even one.

    Activations grow linearly with the batch, weights, gradients and optimiser state do not: the line goes through the
    peaks of batches of 8 and 16. A tenth of the memory is left to the convolution library and to fragmentation.

    Args:
        memory_bytes: of the device, as far as it is free.
        precision: fp32, bf16 or fp16.

    Raises:
        KitError: no such network, or an image size that it refuses.
    """
    peaks = []
    for batch_size in (8, 16):
        parameters, step = _step_on_shapes(_architecture(config), batch_size, image_size, precision)
        peaks.append(step.peak_bytes + _state_bytes(config, parameters))
    per_slice = (peaks[1] - peaks[0]) / 8
    return max(0, int((0.9 * memory_bytes - (peaks[0] - 8 * per_slice)) / per_slice))


def _state_bytes(config: Config, parameters: int) -> int:
    """Weights and what the optimiser keeps for each: two moments, or the momentum of SGD."""
    return 4 * parameters * (2 if config.optimizer == "SGD" else 3)


def _architecture(config: Config) -> Config:
    """What costs depend on, everything else left at its default: the runs of a sweep then share them."""
    return Config(**{name: getattr(config, name) for name in ("model", "neighbours", *ARGUMENTS)})


@lru_cache
def _forward_flops(config: Config, image_size: int) -> int:
    """Operations in the convolutions of one slice's forward pass."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:
        build_model(config).eval()(torch.zeros(1, config.in_channels, image_size, image_size))
    # matrix products are left out: in the kit's networks they only enlarge images
    return sum(number for operation, number in counter.get_flop_counts()["Global"].items()
               if operation is torch.ops.aten.convolution)


@lru_cache
def _step_on_shapes(config: Config, batch_size: int, image_size: int, precision: str) -> tuple[int, _Trace]:
    """Number of parameters, and a training step followed on tensors without content.

    Unlike those of the meta device they obey autocast. Torch's random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]), FakeTensorMode():
        model = build_model(config).train()
        images = torch.zeros(batch_size, config.in_channels, image_size, image_size)
        images = images.to(memory_format=torch.channels_last)
        return count_parameters(model), _trace_step(model, images, precision)


def _trace_step(model: nn.Module, images: Tensor, precision: str) -> _Trace:
    """Forward and backward of one batch, followed."""
    trace = _Trace([*model.parameters(), *model.buffers()])
    with trace:
        # one number format of 16 bits takes as much as another
        with (torch.autograd.graph.saved_tensors_hooks(trace.keep, lambda tensor: tensor),
              torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32")):
            outputs = model(images)
        torch.stack([output.float().sum() for output in tensors_in(outputs)]).sum().backward()
    return trace


class _Trace(TorchDispatchMode):
    """Follows which storages are alive while tensors are computed, and which of them are kept for backward.

    Attributes:
        peak_bytes: most that was alive at once. What existed before the trace is counted nowhere.
    """

    def __init__(self, existing: list[Tensor]) -> None:
        super().__init__()
        self._keys = {id(tensor.untyped_storage()): 0 for tensor in existing}  # storages alive; 0: there before
        self._made: list[tuple[int, tuple[int, ...]]] = [(0, ())]  # by key: bytes and shape of all there ever were
        self._kept: set[int] = set()
        self._alive_bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in(out):
            self._meet(tensor)
        return out

    def _meet(self, tensor: Tensor) -> int:
        """Key of the tensor's storage, which is noted if it is new and forgotten when it dies."""
        storage = tensor.untyped_storage()
        address, size = id(storage), storage.nbytes()
        if address not in self._keys:
            self._keys[address] = len(self._made)
            self._made.append((size, tuple(tensor.shape)))
            self._alive_bytes += size
            self.peak_bytes = max(self.peak_bytes, self._alive_bytes)
            weakref.finalize(storage, self._forget, address, size)
        return self._keys[address]

    def _forget(self, address: int, size: int) -> None:
        del self._keys[address]
        self._alive_bytes -= size

    def keep(self, tensor: Tensor) -> Tensor:
        """Called by autograd with every tensor that it saves."""
        self._kept.add(self._meet(tensor))
        return tensor

    @property
    def saved_bytes(self) -> int:
        """What was kept, each storage counted once."""
        return sum(self._made[key][0] for key in self._kept)

    @property
    def largest(self) -> tuple[int, tuple[int, ...]]:
        """The largest that was not kept."""
        return max(made for key, made in enumerate(self._made) if key not in self._kept)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a network's output, or of an operation's: one, or several in lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, (list, tuple)) else []
