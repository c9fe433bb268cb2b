"""Overlap losses: one soft Tversky core, of which Dice and IoU are special cases.

All take logits and targets in {0, 1}, both ``(N, 1, H, W)``, and return a scalar in [0, 1] that is computed in
float32. Sums run over the whole batch, as published: a slice without tumour then costs what is falsely drawn on it,
but its own ratio, 0/0, never arises.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.utils import KitError, load_class


class TverskyLoss(nn.Module):
    """1 - Tversky index, (TP + s) / (TP + alpha FN + beta FP + s).

    ``alpha`` weighs false negatives and ``beta`` false positives, as in Abraham and Khan 2018 (arXiv:1810.07842);
    several libraries have them the other way round.
    """

    def __init__(self, alpha: float = 0.7, beta: float = 0.3, smooth: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        tp, fp, fn = self.soft_counts(logits, target)
        return 1 - (tp + self.smooth) / (tp + self.alpha * fn + self.beta * fp + self.smooth)

    @staticmethod
    def soft_counts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Soft true positives, false positives and false negatives: scalars, in pixels."""
        probability = torch.sigmoid(logits.float())
        target = target.float()
        true_positive = (probability * target).sum()
        return true_positive, probability.sum() - true_positive, target.sum() - true_positive


class DiceLoss(TverskyLoss):
    """1 - (2 TP + 1) / (2 TP + FP + FN + 1): Tversky with both weights and the smoothing at one half."""

    def __init__(self) -> None:
        super().__init__(alpha=0.5, beta=0.5, smooth=0.5)


class IOULoss(TverskyLoss):
    """1 - (TP + 1) / (TP + FP + FN + 1): Tversky with both weights at one (Jaccard, intersection over union)."""

    def __init__(self) -> None:
        super().__init__(alpha=1.0, beta=1.0, smooth=1.0)


class FocalTverskyLoss(TverskyLoss):
    """(1 - Tversky index) ** (1 / gamma), Abraham and Khan 2018, equation 4, with gamma = 4/3."""

    def __init__(self, alpha: float = 0.7, beta: float = 0.3, smooth: float = 1.0, gamma: float = 4 / 3) -> None:
        super().__init__(alpha, beta, smooth)
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        # the power's slope is infinite at 0, and infinity times a zero gradient is NaN: stop just above it
        return super().forward(logits, target).clamp(min=1e-6) ** (1 / self.gamma)


LOSSES: dict[str, type[nn.Module]] = {
    loss.__name__: loss for loss in (DiceLoss, IOULoss, TverskyLoss, FocalTverskyLoss)
}


def build_loss(name: str) -> nn.Module:
    """The loss of that name with its published settings, or one's own by ``"module:Class"``.

    Raises:
        KitError: no loss of that name.
    """
    if name in LOSSES:
        return LOSSES[name]()
    if ":" not in name:
        raise KitError(f"loss {name!r} is not one of {', '.join(LOSSES)}")
    return load_class(name)()
