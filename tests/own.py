"""Code as students might write it, some of it broken."""

import os
import signal
from pathlib import Path

import numpy as np
from torch import Tensor

from lib.transform import Geometry, preprocess
from lib.unet import UNet

TRIED = 2  # slices on which a network is tried beforehand: no step of a training
MISTAKE = "it raised IndexError: a student's mistake"


class Counting(UNet):
    """Notes every training step in the file that ``KIT_STEPS`` names."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > TRIED:
            with open(os.environ["KIT_STEPS"], "a", encoding="utf-8") as log:
                log.write("step\n")
        return super().forward(images)


class Raising(UNet):
    """Has a mistake in it."""

    def forward(self, images: Tensor) -> Tensor:
        raise IndexError("a student's mistake")


class Dying(UNet):
    """Takes its process with it as long as the file that ``KIT_LIVES`` names holds a line."""

    def forward(self, images: Tensor) -> Tensor:
        lives = Path(os.environ["KIT_LIVES"])
        is_step = self.training and len(images) > TRIED
        if is_step and (left := lives.read_text(encoding="utf-8").splitlines()):
            lives.write_text("\n".join(left[1:]), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


def half(mask: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Keep the upper half of each slice."""
    mask[:, mask.shape[1] // 2 :] = False
    return mask


def voxels(predicted: np.ndarray, truth: np.ndarray) -> int:
    """Count the voxels of the prediction."""
    return int(predicted.sum())


def doubled(volume: np.ndarray, size: int) -> tuple[np.ndarray, Geometry]:
    """Prepare slices of twice the intensity."""
    slices, geometry = preprocess(volume, size)
    return 2 * slices, geometry


def halved(share: float, losses: list[float]) -> float:
    """Train at half the rate."""
    return 0.5
