"""F. Numbers that are none, or out of all proportion, and memory that runs out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from lib.config import REFERENCE, Config
from lib.dataset import make_split
from lib.evaluate import TrainedModel
from lib.logger import finished_runs
from lib.metrics import dsc, hd95, summarise
from lib.networks import build
from lib.phantom import write_phantom
from lib.predict import load_weights, predict
from lib.runtime.memory import is_out_of_memory, memory_in_words
from lib.sweep import Plan
from lib.train import fit
from tests.faults.things import TINY, data_in, halfway, patients, runs_in, trained
from tests.faults.tries import Try, kind

FIELDS = {spec.name: spec for spec in dataclasses.fields(Config)}
NUMBERS = [name for name, spec in FIELDS.items() if spec.metadata["limits"]]
HUGE: tuple[Any, ...] = (
    10**400,
    -(10**400),
    10**5000,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
    2**63 + 1,
    -1,
    -1e-9,
)
FOREIGN: tuple[Any, ...] = (
    None,
    "1",
    "",
    [1],
    (1,),
    {},
    b"1",
    1j,
    True,
    np.float64(1.0),
    np.int64(1),
    np.array(1.0),
    torch.tensor(1.0),
    object(),
)


@kind("F", 220)
def a_setting_is_out_of_range(t: Try) -> None:
    name, value = t.pick(NUMBERS), t.pick(HUGE)
    if name == "seed" and value in (2**63 + 1, 1e308):
        value = -1
    t.refuse(lambda: Config(**{name: value}), f"Config.{name}")


@kind("F", 120)
def a_setting_is_of_another_type(t: Try) -> None:
    name, value = t.pick(list(FIELDS)), t.pick(FOREIGN)
    kind_of = type(FIELDS[name].default)
    t.right_or_refuse(
        lambda: getattr(Config(**{name: value}), name),
        lambda found: type(found) is kind_of and found == value,
        f"Config.{name}",
    )


@kind("F", 60)
def a_setting_at_the_end_of_its_range(t: Try) -> None:
    """Both ends are allowed, unless another field forbids it; the message then says which."""
    name = t.pick(NUMBERS)
    end = t.number(0, 2)
    value = type(FIELDS[name].default)(FIELDS[name].metadata["limits"][end])
    if end and name in ("warmup", "accumulate", "scale", "ema"):  # bounded by another, or below 1
        t.refuse(lambda: Config(**{name: value}), name)
    else:
        t.must(getattr(t.right(lambda: Config(**{name: value})), name) == value, "another value")


@kind("F", 40)
def settings_on_a_command_line(t: Try) -> None:
    name = t.pick(NUMBERS)
    text = t.pick(("1e400", "nan", "inf", "-5", "9" * 5000, "1,5", "", "0x10", "1e", "½"))
    out = t.folder / "out"
    answer = t.command(
        "lib.train",
        "--data",
        t.shared(trained) / "data",
        "--out",
        out,
        f"--{name.replace('_', '-')}={text}",
    )
    t.must(answer.code == 2, f"{name}={text} was taken")
    t.must(not out.exists(), "something was written")


@kind("F", 40)
def a_variant_of_a_plan_is_out_of_range(t: Try) -> None:
    name, value = t.pick(NUMBERS), t.pick((math.nan, -1, math.inf, "1", None))
    plan = Plan("mine", "?", {"as it is": {}, "odd": {name: value}})
    t.refuse(lambda: plan.configs(REFERENCE), "mine", "odd", name)


class Broken(nn.Module):
    """A network of one convolution that gives what is no number from a patient on."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)
        self.value = value

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, one of which is ``value``."""
        out = self.layer(images).float()
        out[0, 0, 0, 0] = self.value
        return out


@kind("F", 40)
def a_network_gives_no_numbers(t: Try) -> None:
    """The patient is named; infinite logits are certain probabilities."""
    data = data_in(t.shared(trained))
    value = t.pick((math.nan, math.inf, -math.inf))
    network = TrainedModel(Broken(value), TINY, ("nobody",))
    name = t.pick(list(data.patients))
    call = lambda: predict(network, data, patients=[name], device="cpu", precision="fp32")  # noqa: E731
    if math.isnan(value):
        t.refuse(call, name)
    else:
        t.must(np.isfinite(t.right(call).cases["dsc"]).all(), "a score is no number")


@kind("F", 30)
def training_diverges(t: Try) -> None:
    """A rate that is far too large is one line with the run, not a run with scores."""
    folder = t.folder
    patients(folder / "data")
    config = dataclasses.replace(
        TINY,
        lr=float(10 ** t.number(4, 7)),
        optimizer="SGD",
        normalisation="none",
        loss=t.pick(("BCELoss", "DiceBCELoss", "FocalLoss")),
    )
    run = t.right_or_refuse(
        lambda: fit(config, data_in(folder), folder / "out"),
        lambda run: np.isfinite(run.history[["train loss", "val loss"]].to_numpy()).all(),
    )
    t.must(len(finished_runs(folder / "out")) == (run is not None), "results of no numbers")


@kind("F", 60)
def weights_ask_for_more_than_there_is(t: Try) -> None:
    """A file of weights that says it is far wider takes no memory before it is refused."""
    folder = t.shared(trained)
    content = torch.load(runs_in(folder)[0] / "best.pt", weights_only=True)
    name = t.pick(("init_features", "neighbours", "image_size", "batch_size", "epochs"))
    value = t.pick((10**6, 10**9, 400, 8, -1, 0, 1e9, "64", None, 10**400))
    if name in ("image_size", "batch_size", "epochs") and value in (400, 8):
        value = 10**7
    if value == content["config"][name]:
        value = -1
    content["config"][name] = value
    file = t.folder / "best.pt"
    torch.save(content, file)
    t.refuse(lambda: load_weights(file), file)


@kind("F", 40)
def memory_runs_out_in_other_words(t: Try) -> None:
    """Each library has its own words for it; the kit has one line."""
    words = t.pick(
        (
            RuntimeError("could not create a primitive"),
            RuntimeError("could not create a primitive descriptor for the matmul primitive"),
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate"
                " memory: you tried to allocate 36 bytes. Error code 12"
            ),
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            RuntimeError("not enough memory: you tried to allocate 8 bytes."),
            RuntimeError("could not create a memory object"),
            torch.OutOfMemoryError("HIP out of memory."),
            MemoryError(),
            np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype(float)),
        )
    )
    t.must(is_out_of_memory(words), f"not recognised: {words!r}")

    def run() -> None:
        with memory_in_words():
            raise words

    t.refuse(run, "out of memory")


@kind("F", 20)
def another_error_is_not_called_memory(t: Try) -> None:
    error = t.pick(
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"))
    )
    t.must(not is_out_of_memory(error), "taken for memory")


@kind("F", 20)
def a_network_that_no_computer_holds(t: Try) -> None:
    config = dataclasses.replace(REFERENCE, init_features=512, model=t.pick(("unet", "unet_2plus")))
    before = nn.Conv2d.__init__

    def fail(self: nn.Conv2d, *arguments: Any, **more: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    nn.Conv2d.__init__ = fail  # type: ignore[method-assign]
    try:
        t.refuse(lambda: build(config), "out of memory")
    finally:
        nn.Conv2d.__init__ = before  # type: ignore[method-assign]


@kind("F", 40)
def arguments_of_calls_are_no_numbers(t: Try) -> None:
    data = data_in(t.shared(trained))
    weights = runs_in(t.shared(trained))[0] / "best.pt"
    odd = t.pick((0, -1, -(10**400)))
    call = t.pick(
        (
            lambda: predict(weights, data, batch_size=odd),
            lambda: write_phantom(t.folder / "ph", patients=odd, size=32),
            lambda: write_phantom(t.folder / "ph", patients=1, size=odd),
            lambda: make_split(data, f"holdout:{odd}"),
            lambda: make_split(data, f"fold-{odd}-of-3"),
            lambda: make_split(data, "fold-1-of-" + "9" * 30),
        )
    )
    t.refuse(call)


@kind("F", 60)
def metrics_of_odd_masks(t: Try) -> None:
    """Scores of empty, full and single-voxel masks are the agreed ones, never NaN by accident."""
    shape = (t.number(1, 5), t.number(1, 9), t.number(1, 9))
    empty, full, one = np.zeros(shape, bool), np.ones(shape, bool), np.zeros(shape, bool)
    one[tuple(t.number(0, edge) for edge in shape)] = True
    a, b = t.pick((empty, full, one)), t.pick((empty, full, one))
    expected = 1.0 if not a.any() and not b.any() else 2 * (a & b).sum() / (a.sum() + b.sum())
    t.must(abs(dsc(a, b) - expected) < 1e-12, f"DSC {dsc(a, b)} instead of {expected}")
    distance = hd95(a, b)
    if a.any() and b.any():
        t.must(distance >= 0 and (distance == 0 or (a != b).any()), f"HD95 {distance}")
    else:  # the diagonal of the volume where one of them is empty
        farthest = 0.0 if a.any() == b.any() else math.dist(shape, (0, 0, 0))
        t.must(abs(distance - farthest) < 1e-9, f"HD95 {distance} instead of {farthest}")
    spread = summarise([expected])
    t.must(spread.mean == expected, f"mean {spread.mean}")


@kind("F", 30)
def threads_and_devices_are_recorded(t: Try) -> None:
    """A run says with how many threads it was computed; one that changes them says so once."""
    folder = t.copied(halfway)
    before = torch.get_num_threads()
    torch.set_num_threads(t.pick((2, 3)))
    try:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            run = t.right(lambda: fit(TINY, data_in(folder), folder / "out"))
        t.must(said.getvalue().count("its last digits will be others") == 1, "not said once")
        t.must(f"{torch.get_num_threads()} threads" in run.info["device"], run.info["device"])
        t.must(", 1 threads" in run.info["earlier"][0]["device"], str(run.info["earlier"]))
    finally:
        torch.set_num_threads(before)
