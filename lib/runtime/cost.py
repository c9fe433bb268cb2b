"""Find the costs of a network by following a training step on tensors without content."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def forward_flops(model: nn.Module, channels: int, image_size: int) -> int:
    """Return the operations in the convolutions of a forward pass of one slice.

    Args:
        model: on the meta device.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, channels, image_size, image_size))
    # matrix products are left out: in the kit's networks they only enlarge images
    return sum(
        number
        for operation, number in counter.get_flop_counts()["Global"].items()
        if operation is torch.ops.aten.convolution
    )


@contextmanager
def without_content() -> Iterator[None]:
    """Make tensors that have a shape and a number format, but no content.

    Unlike those of the meta device they obey autocast. Torch's random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]), FakeTensorMode():
        yield


def step_on_shapes(
    model: nn.Module, channels: int, batch_size: int, image_size: int, precision: str
) -> Trace:
    """Follow a training step of a network that was built ``without_content``."""
    images = torch.zeros(batch_size, channels, image_size, image_size)
    images = images.to(memory_format=torch.channels_last)
    return trace_step(model.train(), images, precision)


def trace_step(model: nn.Module, images: Tensor, precision: str) -> Trace:
    """Follow forward and backward of one batch."""
    trace = Trace([*model.parameters(), *model.buffers()])
    with trace:
        # one number format of 16 bits takes as much as another
        with (
            torch.autograd.graph.saved_tensors_hooks(trace.keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"),
        ):
            outputs = model(images)
        torch.stack([output.float().sum() for output in tensors_in(outputs)]).sum().backward()
    return trace


class Trace(TorchDispatchMode):
    """Follow which storages are alive, and which of them are kept for backward.

    Attributes:
        peak_bytes: most that was alive at once. What existed before the trace is counted nowhere.
    """

    def __init__(self, existing: list[Tensor]) -> None:
        super().__init__()
        # key of each storage that is alive; 0: there before
        self._keys = {id(tensor.untyped_storage()): 0 for tensor in existing}
        # by key: bytes and shape of all storages there ever were
        self._made: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        self._kept: set[int] = set()
        self._alive_bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in(out):
            self._meet(tensor)
        return out

    def _meet(self, tensor: Tensor) -> int:
        """Return the key of a tensor's storage; note a new one, and forget it when it dies."""
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
        """Note a tensor that autograd saves, and return it."""
        self._kept.add(self._meet(tensor))
        return tensor

    @property
    def saved_bytes(self) -> int:
        """Return the bytes that were kept, each storage counted once."""
        return sum(self._made[key][0] for key in self._kept)

    @property
    def largest(self) -> tuple[int, tuple[int, ...]]:
        """Return bytes and shape of the largest tensor that was not kept."""
        return max(made for key, made in enumerate(self._made) if key not in self._kept)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of an output: one, or several in lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in tensors_in(part)]
    return []
