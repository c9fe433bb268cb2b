"""The benchmarks run, and say what they should; how fast anything is, is not tested."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks import gpu, measure, plain, rows, scale
from benchmarks.measure import Report, apart, in_turns, row
from benchmarks.plain import Slices
from benchmarks.sets import many_patients
from lib.dataset import load_data
from lib.loss import DiceLoss


def test_ways_take_turns():
    calls = []
    slow, fast = in_turns(lambda: calls.append("a"), lambda: calls.append("b"), rounds=3)
    assert calls == ["a", "b"] * 4 and slow >= 0 <= fast
    assert row("what", "that", 0.3, 0.1)["times faster"] == 3


def _noting_its_process(file: Path) -> Callable[[], object]:
    lines = []

    def way() -> None:
        lines.append(str(os.getpid()))
        file.write_text("\n".join(lines))

    return way


def test_a_way_apart_is_prepared_once_in_another_process(tmp_path):
    with apart(_noting_its_process, tmp_path / "processes") as way:
        way(), way()
    first, second = (tmp_path / "processes").read_text().split()
    assert first == second != str(os.getpid())


def test_report_is_written_after_each_table(tmp_path):
    report = Report(tmp_path, "bench", {"torch": "1"})
    report.add("first", "What it\n    is.", [{"a": 1000, "b": "c"}])
    assert json.loads((tmp_path / "bench.json").read_text())["first"] == [{"a": 1000, "b": "c"}]
    assert (
        "What it is.\n\n| a | b |\n| --- | --- |\n| 1,000 | c |"
        in (tmp_path / "bench.md").read_text()
    )


def test_many_patients_are_a_data_set(tmp_path):
    data = load_data(many_patients(tmp_path / "data", 6, 32, 5), 32)
    assert len(data.patients) == 6
    assert all(len(patient.images) == len(patient.masks) == 5 for patient in data.patients.values())
    assert (data.volume("PHANTOM_0005") == data.volume("PHANTOM_0001")).all()


def test_plain_loop_draws_slices_with_tumour_more_often():
    volume, mask = np.zeros((10, 16, 16, 3)), np.zeros((10, 16, 16))
    volume[3], mask[3] = 1, 1
    slices = Slices([volume], [mask], drawn=True)
    assert np.mean([slices[i][0].amax() > 0 for i in range(len(slices))]) > 0.5
    image, _ = Slices([volume], [mask], drawn=False)[3]
    assert image.shape == (3, 16, 16) and image.min() == 1


def test_plain_loop_scores_whole_volumes():
    """Two volumes of two and three slices; the network finds the image itself."""
    images = [np.zeros((slices, 16, 16, 3)) for slices in (2, 3)]
    masks = [np.zeros((slices, 16, 16)) for slices in (2, 3)]
    images[0][:, 4:8, 4:8], masks[0][:, 4:8, 4:10] = 1, 1
    images[1][1, :4, :4], images[1][1, 12:, 12:14], masks[1][1, :4, :4] = (
        1,
        1,
        1,
    )  # a smaller piece elsewhere
    network = torch.nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        network.weight.fill_(1), network.bias.fill_(-1)
    loaders = [DataLoader(Slices(images, masks, drawn=drawn), 2) for drawn in (True, False)]
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    losses, scores = plain.epoch(network, DiceLoss(), optimizer, *loaders, torch.device("cpu"))
    assert len(losses) == 3 and scores == pytest.approx([2 * 16 / (16 + 24), 1.0])


def test_processor_is_named():
    text = "model name\t: Some CPU\nflags\t\t: sse avx2 avx512_bf16\n"
    assert measure._cpu(text) == {"processor": "Some CPU", "units": "avx2, avx512_bf16"}
    assert measure._cpu("") == {"processor": "unknown", "units": "unknown"}


def test_pooled_hd95_is_that_of_medpy():
    medpy = pytest.importorskip("medpy.metric.binary")
    rng = np.random.default_rng(0)
    for _ in range(5):
        pred, true = (rng.random((2, 6, 20, 20)) > 0.9).astype(np.uint8)
        assert rows.pooled_hd95(pred, true) == pytest.approx(medpy.hd95(pred, true), abs=1e-9)


def test_exponent_of_a_line_and_of_a_constant():
    assert scale.exponent([1, 2, 4, 8], [5, 3, 6, 12]) == pytest.approx(1)
    assert scale.exponent([1, 2, 4, 8], [7, 7, 7, 7]) == pytest.approx(0)


@pytest.mark.long
def test_every_piece_of_the_gpu_benchmark_runs():
    device = torch.device("cpu")
    pieces = {
        name: piece for name, piece in gpu.pieces(gpu.TINY, device).items() if name != "tests-all"
    }
    found = {name: piece(device, gpu.TINY) for name, piece in pieces.items()}
    assert all(row.get("fits", True) for row in found.values())
    assert found["baseline-epochs"]["epochs"] == 2


def test_tests_that_did_not_run_are_no_measurement(monkeypatch):
    """With a Python without pytest, or after a crash: else nobody would measure it again."""
    monkeypatch.setattr(gpu.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="pytest did not run to its end: status 1"):
        gpu.tests(torch.device("cpu"), gpu.TINY)


@pytest.mark.skipif(sys.platform == "win32", reason="a group of processes ends together")
def test_a_piece_that_takes_too_long_ends_with_what_it_started():
    sleeping = [sys.executable, "-c", "import time; time.sleep(61)"]
    with pytest.raises(subprocess.TimeoutExpired):
        gpu._failure([sys.executable, "-c", f"import subprocess; subprocess.run({sleeping})"], 2)
    running = [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == sleeping]
    assert not psutil.wait_procs(running, timeout=5)[1]
    assert gpu._failure([sys.executable, "-c", "raise SystemExit('why')"], 60) == "why"
    assert gpu._failure([sys.executable, "-c", ""], 60) == ""


@pytest.mark.long
def test_gpu_benchmark_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys,
        "argv",
        ["gpu", "--device", "cpu", "--tiny", "--only", "memory-unet-", "--out", str(tmp_path)],
    )
    gpu.main()
    files = sorted(tmp_path.glob("*.json"))
    assert [file.stem for file in files] == ["memory-unet-checkpointing", "memory-unet-plain"]
    assert {"device", "driver", "torch", "precision"} <= json.loads(files[0].read_text())[
        "machine"
    ].keys()
    files[0].unlink()
    kept = files[1].stat().st_mtime_ns
    gpu.main()
    assert files[0].is_file() and files[1].stat().st_mtime_ns == kept
    assert (tmp_path / "gpu.md").read_text().count("unet 2") == 2
