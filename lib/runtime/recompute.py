"""Activation checkpointing: blocks that backward can compute again.

Chen et al. 2016 (arXiv:1604.06174). Same results, less memory, more time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_NUMBERS = 2**26
"""Size of the enlarged features that may exist at once: 128 MiB in bfloat16."""


class Recomputing(nn.Sequential):
    """Compute modules one after the other; the first may take several inputs.

    With ``recompute`` the block is computed in steps. Backward computes a step again from its
    inputs, instead of keeping what is in between. A step ends with its convolution. The second
    computation stops at the input of that convolution, so that only cheap modules (resizing,
    joining, normalising, activating) run twice.

    Args:
        modules: by name, in the order of computation; the names appear in the state dict.
    """

    recompute = False

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__(OrderedDict(modules))
        for step in self._steps():
            _keep_input(step)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output of the last module."""
        if not self.recompute:
            return compute(self, *inputs)
        for step in self._steps():
            inputs = (_recomputed(step, *inputs),)
        return inputs[0]

    def _steps(self) -> list[list[nn.Module]]:
        """Return the modules in groups; each module that holds a convolution ends its group."""
        steps: list[list[nn.Module]] = [[]]
        for module in self:
            steps[-1].append(module)
            if any(isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)) for part in module.modules()):
                steps.append([])
        return [step for step in steps if step]


def set_recompute(network: nn.Module, recompute: bool) -> None:
    """Switch activation checkpointing on or off in all blocks of a network."""
    for module in network.modules():
        if isinstance(module, Recomputing):
            module.recompute = recompute


def can_recompute(network: nn.Module) -> bool:
    """Return whether a network has blocks that ``set_recompute`` changes."""
    return any(isinstance(module, Recomputing) for module in network.modules())


def compute(modules: Iterable[nn.Module], *inputs: Tensor) -> Tensor:
    """Return the output of the last module, each given what the one before it returns."""
    for module in modules:
        inputs = (module(*inputs),)
    return inputs[0]


def _recomputed(step: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
    """Compute a step so that backward keeps its inputs only."""
    if len(step) == 1:  # a convolution keeps its input only; a module with blocks has its own steps
        return compute(step, *inputs)
    chunk = _chunk(step, inputs[0])
    if chunk >= len(inputs[0]):
        return _checkpointed(step, *inputs)
    chunks = torch.split(inputs[0], chunk)
    return torch.cat([_checkpointed(step, features) for features in chunks])


def _checkpointed(step: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return compute(step, *inputs)
    output: Tensor = checkpoint(
        partial(compute, step),
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), spare_buffers(step)),
    )
    return output


def _chunk(step: Sequence[nn.Module], features: Tensor) -> int:
    """Return how many slices to compute at once: all, unless the step enlarges and convolves.

    Enlarged features can be far larger than input and output. The widest of UNet 3+ have 1,024
    channels at full size, which is 2 GiB for 16 slices of 256x256 in bfloat16.
    """
    factor: int | None = getattr(step[0], "factor", None)
    if factor is None or len(step) != 2:  # a normalisation has to see the whole batch
        return len(features)
    return max(1, CHUNK_NUMBERS // (features[0].numel() * factor**2))


@contextmanager
def spare_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give modules copies of their running statistics: the first computation has updated them."""
    owners = [
        (part, dict(part.named_buffers(recurse=False)))
        for module in modules
        for part in module.modules()
    ]
    try:
        for part, buffers in owners:
            for name, buffer in buffers.items():
                setattr(part, name, buffer.clone())
        yield
    finally:
        for part, buffers in owners:
            for name, buffer in buffers.items():
                setattr(part, name, buffer)


def _keep_input(step: Sequence[nn.Module]) -> None:
    """Let a step not overwrite its own input, from which it has to start again."""
    changing: list[Any] = [module for module in step if not isinstance(module, nn.Identity)]
    if changing and getattr(changing[0], "inplace", False):
        changing[0].inplace = False
