"""Recording without a GPU: when it is tried, and that training goes on where it fails."""

import contextlib

import pytest
import torch

from lib.runtime.cuda_graph import WARM_UP, Replayed, _or_as_it_is

CPU = torch.device("cpu")


def double(tensor):
    return 2 * tensor


@pytest.fixture(autouse=True)
def no_device(monkeypatch):
    """Nothing here needs the device of a recording."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


def test_without_recording_the_function_is_called():
    recorded = Replayed(double, False, CPU)
    assert recorded(torch.ones(2)).tolist() == [2, 2]
    assert recorded.stop() is None


def test_a_recording_that_fails_gives_the_result_all_the_same(monkeypatch, capsys):
    tried = []

    def fail(self, inputs):
        tried.append(1)
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(Replayed, "_compute_on_a_side_stream", lambda self, inputs: double(*inputs))
    monkeypatch.setattr(Replayed, "_made", fail)
    recorded = Replayed(double, True, CPU)
    for step in range(WARM_UP + 3):
        assert recorded(torch.full((2,), float(step))).tolist() == [2 * step, 2 * step]
    assert len(tried) == 1, "it is not tried again"
    assert "one by one" in capsys.readouterr().out


def test_running_out_of_memory_is_not_hidden(monkeypatch):
    def out_of_memory(tensor):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Replayed, "_compute_on_a_side_stream", lambda self, inputs: inputs[0])
    monkeypatch.setattr(Replayed, "_made", lambda self, inputs: out_of_memory(*inputs))
    recorded = Replayed(out_of_memory, True, CPU)
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(WARM_UP + 1):
            recorded(torch.ones(1))


def test_what_cannot_be_compiled_is_computed_as_it_is(capsys):
    tried = []

    def no_compiler(tensor):
        tried.append(1)
        raise RuntimeError("InductorError: Failed to find\nC compiler")

    either = _or_as_it_is(no_compiler, double)
    assert [either(torch.ones(1)).item() for _ in range(3)] == [2, 2, 2]
    assert len(tried) == 1 and capsys.readouterr().out.count("Failed to find C compiler") == 1
    assert _or_as_it_is(lambda tensor: 5 * tensor, double)(torch.ones(1)).item() == 5

    def out_of_memory(tensor):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):  # smaller chunks help, not another function
        _or_as_it_is(out_of_memory, double)(torch.ones(1))
