"""Recording without a GPU: when it is tried, and that training goes on where it fails."""

import pytest
import torch

from lib.runtime.cuda_graph import WARM_UP, Replayed


def double(tensor):
    return 2 * tensor


def test_without_recording_the_function_is_called():
    recorded = Replayed(double, replay=False)
    assert recorded(torch.ones(2)).tolist() == [2, 2]
    assert recorded.stop() is None


def test_a_recording_that_fails_gives_the_result_all_the_same(monkeypatch, capsys):
    tried = []

    def fail(self, inputs):
        tried.append(1)
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(Replayed, "_compute_on_a_side_stream", lambda self, inputs: double(*inputs))
    monkeypatch.setattr(Replayed, "_made", fail)
    recorded = Replayed(double, replay=True)
    for step in range(WARM_UP + 3):
        assert recorded(torch.full((2,), float(step))).tolist() == [2 * step, 2 * step]
    assert len(tried) == 1, "it is not tried again"
    assert "one by one" in capsys.readouterr().out


def test_running_out_of_memory_is_not_hidden(monkeypatch):
    def out_of_memory(tensor):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Replayed, "_compute_on_a_side_stream", lambda self, inputs: inputs[0])
    monkeypatch.setattr(Replayed, "_made", lambda self, inputs: out_of_memory(*inputs))
    recorded = Replayed(out_of_memory, replay=True)
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(WARM_UP + 1):
            recorded(torch.ones(1))
