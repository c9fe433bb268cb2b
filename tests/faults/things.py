"""What the tries work on: a tiny data set, runs on it, and ways to damage bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.config import Config
from lib.dataset import BrainData, load_data
from lib.logger import Run
from lib.runtime.checkpoint import read_checkpoint
from lib.train import fit
from tests.conftest import NAMES, brain, write_patient

TINY = Config(
    image_size=32,
    init_features=2,
    batch_size=8,
    epochs=2,
    lr=1e-2,
    sampling="fresh",
    device="cpu",
    precision="fp32",
    split="holdout:2",
)
SIBLING = replace(TINY, seed=7)


def patients(folder: Path) -> None:
    """Write six patients of six slices, 32x32 pixels."""
    for seed, name in enumerate(NAMES):
        write_patient(folder, name, *brain(seed))


def trained(folder: Path) -> None:
    """Train two recipes that differ in their seed."""
    patients(folder / "data")
    data = load_data(folder / "data", TINY.image_size)
    for config in (TINY, SIBLING):
        fit(config, data, folder / "out")


def halfway(folder: Path) -> None:
    """Train the first of two epochs, as if the process had been killed then."""
    patients(folder / "data")
    data = load_data(folder / "data", TINY.image_size)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    for config in (TINY, SIBLING):
        try:
            fit(config, data, folder / "out", watch=stop)
        except KeyboardInterrupt:
            continue


def data_in(folder: Path) -> BrainData:
    """Return the data of one of the folders above."""
    return load_data(folder / "data", TINY.image_size)


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of its runs, that of ``TINY`` first."""
    found = list((folder / "out" / "runs").iterdir())
    return sorted(found, key=lambda run: f"seed{TINY.seed}" not in run.name)


def same_outcome(run: Run, other: Path) -> bool:
    """Return whether a run gave the same tables, byte for byte, and the same weights."""
    names = ("history.csv", "cases.csv")
    same = all((run.folder / name).read_bytes() == (other / name).read_bytes() for name in names)
    return same and equal(*(read_checkpoint(path / "best.pt") for path in (run.folder, other)))


def equal(one: Any, other: Any) -> bool:
    """Return whether the contents of two checkpoints are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other or (one != one and other != other))


# --- damage ---------------------------------------------------------------------------------------


def cut(rng: np.random.Generator, content: bytes) -> bytes:
    """Keep the beginning."""
    return content[: int(rng.integers(len(content)))]


def emptied(rng: np.random.Generator, content: bytes) -> bytes:
    """Keep nothing."""
    return b""


def zeroed(rng: np.random.Generator, content: bytes) -> bytes:
    """Fill a stretch with zeros, as a disk does that lost a block."""
    start = int(rng.integers(len(content)))
    length = int(rng.integers(1, max(2, len(content) // 2)))
    return (content[:start] + bytes(length) + content[start + length :])[: len(content)]


def flipped(rng: np.random.Generator, content: bytes) -> bytes:
    """Flip one bit."""
    place = int(rng.integers(len(content)))
    return (
        content[:place]
        + bytes([content[place] ^ (1 << int(rng.integers(8)))])
        + content[place + 1 :]
    )


def doubled(rng: np.random.Generator, content: bytes) -> bytes:
    """Append the file to itself."""
    return content + content


def noise(rng: np.random.Generator, content: bytes) -> bytes:
    """Keep the size only."""
    return rng.bytes(len(content))


DAMAGES: tuple[Callable[[np.random.Generator, bytes], bytes], ...] = (
    cut,
    emptied,
    zeroed,
    flipped,
    doubled,
    noise,
)


def weights_of(file: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    return dict(torch.load(file, weights_only=True)["weights"])


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    0.5,
    "",
    "../../x",
    [],
    {},
    [[]],
    {"": None},
    "9" * 500,
    [1] * 50,
)
"""What stands in the place of a value in JSON."""
