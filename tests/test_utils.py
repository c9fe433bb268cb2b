"""Seeding, choices of device and precision, hashing, atomic writing."""

import importlib.util
import os
import platform
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.utils import (
    PROJECT,
    KitError,
    Precision,
    build_folder,
    deterministic,
    fingerprint,
    pick_device,
    pick_precision,
    progress,
    seed_everything,
    sha256,
    source_fingerprint,
    write_atomic,
    write_json,
)


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


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")])
def test_precision_of_a_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision(torch.device("cuda")).name == expected


def test_precision_asked_for_and_elsewhere():
    assert pick_precision(torch.device("cpu"), "fp16").name == "fp16"
    assert pick_precision(torch.device("mps")).name == "fp32"
    assert pick_precision(torch.device("cpu")).name in ("fp32", "bf16")
    with pytest.raises(KitError, match="'float32' is not one of auto, fp32"):
        pick_precision(torch.device("cpu"), "float32")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_format(name, dtype):
    cpu = torch.device("cpu")
    with Precision(name, "").autocast(cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert not Precision(name, "").grad_scaler(cpu).is_enabled()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_features_on_a_cpu_take_the_memory_of_those_before_them():
    """Pages that the system has to hand out and fill are counted as faults."""
    code = """
import resource, torch
from lib.unet import UNet
from lib.utils import pick_device

network, images = UNet(init_features=4).eval(), torch.zeros(32, 3, 256, 256)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with torch.inference_mode():
        network(images)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = [faults(), faults()][1]
pick_device("cpu")
print(usual, [faults(), faults()][1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    usual, kept = map(int, done.stdout.split())
    assert kept < usual / 10


def test_deterministic_puts_everything_back():
    def settings():
        return (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
                torch.utils.deterministic.fill_uninitialized_memory)

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


def test_hashes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc") == sha256(tmp_path / "file") == known
    assert fingerprint({"a": 1, "b": [2, None]}) == fingerprint({"b": [2, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def module_of(file: Path, source: bytes) -> types.ModuleType:
    file.write_bytes(source)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    sys.modules[file.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_source_is_the_same_with_windows_line_ends(tmp_path):
    source = b"def f():\n    return 1\n"
    unix, windows, other = (module_of(tmp_path / f"{name}_lines.py", text) for name, text in (
        ("unix", source), ("windows", source.replace(b"\n", b"\r\n")), ("other", source.replace(b"1", b"2"))))
    assert source_fingerprint(unix) == source_fingerprint(windows)
    assert source_fingerprint(unix) != source_fingerprint(other)


def test_a_file_that_was_edited_after_it_was_loaded_is_refused(tmp_path):
    module = module_of(tmp_path / "edited_later.py", b"x = 1\n")
    source_fingerprint(module)
    (tmp_path / "edited_later.py").write_bytes(b"x = 2\n")
    os.utime(tmp_path / "edited_later.py", ns=(1, 1))
    with pytest.raises(KitError, match=r"edited_later.py.*restart"):
        source_fingerprint(module)


def test_folder_is_built_once_and_as_a_whole(tmp_path):
    target, built = tmp_path / "deep" / "target", []

    def build(folder):
        built.append(folder)
        (folder / "file").touch()
        time.sleep(0.05)
        assert not target.exists()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: build_folder(target, (target / "file").is_file, build), range(4)))
    assert len(built) == 1
    assert [path.name for path in target.parent.iterdir()] == ["target"]

    def broken(folder):
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        build_folder(tmp_path / "other", (tmp_path / "other").is_dir, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_atomic_writing(tmp_path):
    file = tmp_path / "new" / "folder" / "file.txt"
    write_atomic(file, "Läsion\n")
    assert file.read_bytes() == "Läsion\n".encode()
    write_atomic(file, b"second")
    assert file.read_bytes() == b"second"
    assert [path.name for path in file.parent.iterdir()] == ["file.txt"]
    write_json(file, {"a": [1, 2.5]})
    assert file.read_text().endswith("\n")


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_interrupted_writing_keeps_the_old_file(tmp_path, monkeypatch, error):
    file = tmp_path / "file"
    write_atomic(file, "old")

    def fail(handle):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_progress_is_text_on_stderr_and_leaves_nothing(capfd):
    assert list(progress(range(3), desc="counting")) == [0, 1, 2]
    streams = capfd.readouterr()
    assert streams.out == ""
    assert "counting" in streams.err
    assert streams.err.rpartition("\r")[2].strip() == ""


def test_seed_does_not_touch_numpys_global_state():
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.get_state()[1].copy()  # noqa: NPY002
    seed_everything(5)
    np.testing.assert_array_equal(np.random.get_state()[1], expected)  # noqa: NPY002
