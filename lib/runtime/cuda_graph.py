"""Record a computation on a GPU and replay it: one call then starts hundreds of kernels."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from lib.config import Config
from lib.utils import say

WARM_UP = 3  # calls before the recording: libraries choose algorithms and allocate workspace
CALLS_THAT_PAY = 8000  # compiling takes half a minute, then saves about 4 ms a step of the U-Net

Compute = TypeVar("Compute", bound=Callable[..., Any])


class Replayed:
    """Replay ``compute`` as one CUDA graph from its fourth call on.

    A training step of the U-Net starts hundreds of kernels. A fast GPU finishes them sooner than
    Python starts them; a CUDA graph starts all of them at once. The kernels, and so the results,
    are the same.

    Args:
        compute: takes tensors, returns one. It must not wait for the GPU, and what it writes
            besides its result, such as gradients, must be in the same memory at each call.
        replay: without it, ``compute`` is only called.
        device: that ``compute`` works on; the inputs may be in host memory.
    """

    def __init__(self, compute: Callable[..., Tensor], replay: bool, device: torch.device) -> None:
        self.compute, self.replay, self.device, self.calls = compute, replay, device, 0
        self.recording: _Recording | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the result for these inputs; their shapes must be those of the first call."""
        if not self.replay:
            return self.compute(*inputs)
        with torch.cuda.device(self.device):  # streams and recordings are of the current device
            return self._replayed(inputs)

    def _replayed(self, inputs: tuple[Tensor, ...]) -> Tensor:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._compute_on_a_side_stream(inputs)
        if self.recording is None:
            try:
                self.recording = self._made(inputs)
            except RuntimeError:  # memory ran out, most likely; CUDA then speaks of the recording
                say(f"a step cannot be recorded: {self.stop()}")
                return self.compute(*inputs)
        for held, given in zip(self.recording.inputs, inputs, strict=True):
            held.copy_(given, non_blocking=True)
        self.recording.graph.replay()
        return self.recording.output.clone()

    def stop(self) -> str | None:
        """Free the memory of the recording and record no more; return a message, or None."""
        if not self.replay:
            return None
        self.replay, self.recording = False, None
        return "the kernels of a step are started one by one"

    def _compute_on_a_side_stream(self, inputs: tuple[Tensor, ...]) -> Tensor:
        # a recording is not made on the default stream, so the warm-up must not be either
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self.compute(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return output

    def _made(self, inputs: tuple[Tensor, ...]) -> _Recording:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # a recording has memory of its own
        # on the device: a recording must not copy from host memory, which waits
        held = tuple(given.to(self.device, copy=True) for given in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.compute(*held)
        return _Recording(graph, held, output)


class _Recording(NamedTuple):
    """Hold a graph, and the memory that it reads its inputs from and writes its output to."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


def can_replay(config: Config, device: torch.device, scaler: torch.amp.GradScaler) -> bool:
    """Return whether a training step of the kit's networks and losses can be recorded.

    It must not wait for the GPU, as a loss scale does, nor change its random state, as recomputing
    does.
    """
    return device.type == "cuda" and not scaler.is_enabled() and not config.checkpointing


def compile_if_it_pays(compute: Compute, device: torch.device, calls: int) -> Compute:
    """Return ``compute`` compiled by ``torch.compile``, if the device can and it saves time.

    Where compiling fails, as without a C compiler or Python's headers, ``compute`` goes on as it
    is.
    """
    if (
        device.type != "cuda"
        or calls < CALLS_THAT_PAY
        or importlib.util.find_spec("triton") is None
    ):
        return compute
    if torch.cuda.get_device_capability(device) < (7, 0):  # Triton needs Volta or newer
        return compute
    say("compiling for this GPU: the first step takes up to a minute")
    return _or_as_it_is(torch.compile(compute), compute)


def _or_as_it_is(compiled: Callable[..., Any], compute: Compute) -> Compute:
    """Return a function that calls ``compiled`` until that fails, and ``compute`` from then on."""
    fails = False

    def call(*inputs: Any) -> Any:
        nonlocal fails
        if not fails:
            try:
                return compiled(*inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of dynamo, inductor, triton, or the compiler that they run
                fails = True
                reason = " ".join(str(error).split())[:100]
                say(f"cannot compile here ({reason}); the steps are computed without")
        return compute(*inputs)

    return cast(Compute, call)
