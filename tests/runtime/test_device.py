"""Choices of device and precision, memory, and the same bits each time."""

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib.runtime import Precision, deterministic, pick_device, pick_precision, seed_everything
from lib.utils import PROJECT, KitError


def test_device_by_name():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(KitError, match=r"abacus.*auto"):
        pick_device("abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_missing_gpu_is_refused():
    for name in ("cuda", "cuda:1"):
        with pytest.raises(KitError, match=name):
            pick_device(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "cuda:x", "cuda:-1", "cpu:1"):
        with pytest.raises(KitError, match=name):
            pick_device(name)


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")]
)
def test_precision_of_a_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision(torch.device("cuda")).name == expected


def test_precision_asked_for_and_elsewhere():
    assert pick_precision(torch.device("cpu"), "fp16").name == "fp16"
    assert pick_precision(torch.device("mps")).name == "fp32"
    assert pick_precision(torch.device("cpu")).name in ("fp32", "bf16")
    with pytest.raises(KitError, match="'float32' is unknown; use one of auto, fp32"):
        pick_precision(torch.device("cpu"), "float32")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_format(name, dtype):
    cpu = torch.device("cpu")
    with Precision(name, "").autocast(cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert not Precision(name, "").grad_scaler(cpu).is_enabled()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are"
)
def test_features_on_a_cpu_take_the_memory_of_those_before_them():
    """Pages that the system has to hand out and fill are counted as faults."""
    code = """
import resource, torch
from lib.unet import UNet
from lib.runtime import pick_device, tune_allocator

network, images = UNet(init_features=1).eval(), torch.zeros(128, 3, 256, 256)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with torch.inference_mode():
        network(images)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = [faults(), faults()][1]
device = pick_device("cpu")
untouched = [faults(), faults()][1]
tune_allocator(device)
print(usual, untouched, [faults(), faults()][1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    usual, untouched, kept = map(int, done.stdout.split())
    assert kept < usual / 10
    assert untouched > usual / 2  # to ask for a device changes nothing


def test_deterministic_puts_everything_back():
    def settings():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    before = settings()
    with pytest.raises(ZeroDivisionError), deterministic():
        assert settings() == (True, False, False)
        raise ZeroDivisionError
    assert settings() == before


def test_seeds_are_told_apart():
    def first(*key):
        seed_everything(*key)
        return torch.rand(1).item()

    numbers = [first(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len(set(numbers)) == 16
    assert first(2, 3) == numbers[11]
    assert first(1, 2) != first(2, 1)


def test_seed_does_not_touch_numpys_global_state():
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.get_state()[1].copy()  # noqa: NPY002
    seed_everything(5)
    np.testing.assert_array_equal(np.random.get_state()[1], expected)  # noqa: NPY002
