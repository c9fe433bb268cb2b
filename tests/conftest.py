"""What the tests share: an isolated cache, and little synthetic patients in the Kaggle layout."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # for the processes that tests start; before torch reads it

import numpy as np
import pytest
import tifffile
import torch

torch.set_num_threads(1)  # the networks here are tiny, and the tests run side by side

REAL_DATA = Path(__file__).parent.parent / "data" / "kaggle_3m"
NAMES = (
    "TCGA_CS_0001_19960101",
    "TCGA_CS_0002_19960102",
    "TCGA_DU_0003_19970103",
    "TCGA_DU_0004_19970104",
    "TCGA_HT_0005_19980105",
    "TCGA_HT_0006_19980106",
)


@pytest.fixture(autouse=True)
def isolated(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """No test sees or leaves a cache, settings of the user, or a bar that needs Jupyter.

    A folder for its cache and its patients, which is removed after the test: those of all tests
    would fill gigabytes."""
    folder = tmp_path_factory.getbasetemp() / uuid.uuid4().hex
    monkeypatch.setenv("KIT_CACHE", str(folder / "cache"))
    monkeypatch.setenv("KIT_PROGRESS", "text")
    for name in ("KIT_DATA", "KIT_OUT", "KIT_PROFILE", "KIT_STUDENT"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def brain(
    seed: int, slices: int = 6, height: int = 32, width: int = 32, tumour: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipse on black with a disc that shines on FLAIR: (S, H, W, 3) uint8 and its mask
    (S, H, W) {0, 1}.

    The tumour lies in the slices around the middle one; the background is exactly 0, as after skull
    stripping."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:slices, :height, :width]
    centre_y, centre_x = height / 2 + rng.uniform(-2, 2), width / 2 + rng.uniform(-2, 2)
    head = ((y - centre_y) / (0.42 * height)) ** 2 + ((x - centre_x) / (0.36 * width)) ** 2 < 1
    volume = np.where(head[..., None], rng.integers(60, 130, (slices, height, width, 3)), 0)
    mask = np.zeros(head.shape, bool)
    if tumour:
        near = (y - centre_y - rng.uniform(-3, 3)) ** 2 + (x - centre_x - rng.uniform(-3, 3)) ** 2
        radius = 0.16 * min(height, width) - np.abs(z - slices // 2)
        mask = head & (near < np.maximum(radius, 0) ** 2)
        volume[..., 1][mask] += 110
    return volume.astype(np.uint8), mask.astype(np.uint8)


def write_patient(
    root: Path,
    name: str,
    volume: np.ndarray,
    mask: np.ndarray | None,
    numbers: Iterable[int] | None = None,
) -> Path:
    """Write a patient in the Kaggle layout; returns its folder.

    ``mask`` is {0, 1}, or None for an unlabelled one.
    """
    folder = root / name
    folder.mkdir(parents=True)
    for i, number in enumerate(numbers or range(1, len(volume) + 1)):
        tifffile.imwrite(folder / f"{name}_{number}.tif", volume[i], photometric="rgb")
        if mask is not None:
            tifffile.imwrite(folder / f"{name}_{number}_mask.tif", mask[i] * np.uint8(255))
    return folder


@pytest.fixture
def kaggle_folder(isolated: Path) -> Callable[..., Path]:
    """A function that writes patients of those names into a new folder, with masks or without."""
    numbers = count()

    def make(names: Iterable[str] = NAMES, masks: bool = True, **shape: int) -> Path:
        root = isolated / f"source{next(numbers)}" / "kaggle_3m"
        for seed, name in enumerate(names):
            volume, mask = brain(seed, **shape)
            write_patient(root, name, volume, mask if masks else None)
        return root

    return make


@pytest.fixture
def tiny_kaggle(kaggle_folder: Callable[..., Path]) -> Path:
    """Six patients of three institutions, six slices of 32x32 each, with masks."""
    return kaggle_folder()


def for_all_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that the processes of one run of the tests share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def hand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``tests.grade.demo``, built once for all tests and processes; do not change
    what is in it. The code in its pickle would leave ``TRACE`` beside it.
    """
    from lib.utils import build_folder
    from tests.grade.demo import build

    base = for_all_processes(tmp_path_factory)
    target = base / "hand-ins"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(base / "hand-ins-cache"))
        patch.setenv("KIT_PROGRESS", "text")
        build_folder(target, target.is_dir, partial(build, trace=base / "TRACE"))
    return target
