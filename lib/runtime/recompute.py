"""Activation checkpointing: blocks that backward can compute again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """A block whose forward pass consists of steps that backward can compute again instead of keeping their insides.

    Activation checkpointing, Chen et al. 2016 (arXiv:1604.06174). A step ends with its convolution
    where it has one: the recomputation stops as soon as it has met all that backward needs, the
    input of the convolution, so that only cheap operations (resizing, joining, normalising,
    activating) run twice.
    """

    recompute = False

    def step(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``function(*inputs)``.

        With ``recompute`` only the inputs are kept for backward, which calls it again.
        """
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*inputs)
        return checkpoint(
            function,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), self._spare_buffers()),
        )

    @contextmanager
    def _spare_buffers(self) -> Iterator[None]:
        """Running statistics meanwhile go to copies: they were updated when the step was computed first."""
        owners = [(module, dict(module._buffers)) for module in self.modules() if module._buffers]
        try:
            for module, buffers in owners:
                module._buffers.update(
                    {name: buffer.clone() for name, buffer in buffers.items() if buffer is not None}
                )
            yield
        finally:
            for module, buffers in owners:
                module._buffers.update(buffers)


def set_recompute(network: nn.Module, recompute: bool) -> None:
    """Switch activation checkpointing on or off in all blocks of a network."""
    for module in network.modules():
        if isinstance(module, Recomputing):
            module.recompute = recompute
