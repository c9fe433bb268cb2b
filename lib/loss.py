"""Losses: a soft Tversky core, with Dice and IoU as special cases; pixel losses; MS-SSIM.

All take logits in any floating format and targets in {0, 1}, both ``(N, 1, H, W)``, and return a
scalar, computed in float32 (float64 for float64 logits). They raise ``KitError`` if the two
shapes differ: shapes that merely broadcast would give a meaningless number.

Overlap losses are in [0, 1]. Their sums run over the whole batch, as published: a slice without
tumour then costs the pixels falsely marked on it, but its own ratio, 0/0, never arises. With
``per_image=True`` each image has its own ratio and the loss is their mean. Small tumours then
count as much as large ones, and on an empty slice a single false pixel costs much: with Dice and
IoU half as much as nothing but false pixels.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.config import Config
from lib.runtime import load_class
from lib.runtime.trial import in_words
from lib.unet_layers import EMPTY_LOGIT, Guided
from lib.utils import KitError, see


class MaskLoss(nn.Module):
    """Check shapes and widen numbers, enough to sum a million pixels; base of all losses."""

    @staticmethod
    def prepare(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return both in float32, or in float64 if the logits are."""
        require_same_shape(logits, target)
        logits = widen(logits)
        return logits, target.to(logits.dtype)


def widen(logits: Tensor) -> Tensor:
    """Return logits in float32, or in float64 if they are: 16 bits cannot hold a sum."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def require_same_shape(logits: Tensor, target: Tensor) -> None:
    """Raise ``KitError`` unless logits and target have the same shape."""
    if logits.shape != target.shape:
        raise KitError(
            f"loss: logits of shape {tuple(logits.shape)} against a target of shape "
            f"{tuple(target.shape)}; they must be equal, the outputs of deep supervision at the "
            f"full size too"
        )


# --- overlap --------------------------------------------------------------------------------------


class TverskyLoss(MaskLoss):
    """1 - Tversky index, (TP + s) / (TP + alpha FN + beta FP + s).

    ``alpha`` weighs false negatives and ``beta`` false positives, as in Abraham and Khan 2018
    (arXiv:1810.07842); several libraries have them the other way round.
    """

    def __init__(
        self, alpha: float = 0.7, beta: float = 0.3, smooth: float = 1.0, per_image: bool = False
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.smooth, self.per_image = alpha, beta, smooth, per_image

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return self.losses(logits, target).mean()

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return one loss for the batch, a scalar, or one for each image, ``(N,)``."""
        tp, fp, fn = self.soft_counts(logits, target)
        return 1 - (tp + self.smooth) / (tp + self.alpha * fn + self.beta * fp + self.smooth)

    def soft_counts(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return soft true positives, false positives and false negatives, in pixels.

        They are of the batch, or of each image.
        """
        logits, target = self.prepare(logits, target)
        probability = torch.sigmoid(logits)
        dims = (1, 2, 3) if self.per_image else None
        true_positive = (probability * target).sum(dims)
        return (
            true_positive,
            probability.sum(dims) - true_positive,
            target.sum(dims) - true_positive,
        )


class DiceLoss(TverskyLoss):
    """1 - (2 TP + 1) / (2 TP + FP + FN + 1): Tversky with weights and smoothing at one half."""

    def __init__(self, per_image: bool = False) -> None:
        super().__init__(alpha=0.5, beta=0.5, smooth=0.5, per_image=per_image)


class IOULoss(TverskyLoss):
    """1 - (TP + 1) / (TP + FP + FN + 1): Tversky with both weights at one (Jaccard)."""

    def __init__(self, per_image: bool = False) -> None:
        super().__init__(alpha=1.0, beta=1.0, smooth=1.0, per_image=per_image)


class FocalTverskyLoss(TverskyLoss):
    """(1 - Tversky index) ** (1 / gamma), Abraham and Khan 2018, equation 4, with gamma = 4/3."""

    def __init__(
        self,
        alpha: float = 0.7,
        beta: float = 0.3,
        smooth: float = 1.0,
        gamma: float = 4 / 3,
        per_image: bool = False,
    ) -> None:
        super().__init__(alpha, beta, smooth, per_image)
        self.gamma = gamma

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return one loss for the batch, or one for each image: the power comes before the mean."""
        # The slope of the power is infinite at 0, and infinity times a zero gradient is NaN: stop
        # just above 0.
        return super().losses(logits, target).clamp(min=1e-6) ** (1 / self.gamma)


# --- pixel by pixel -------------------------------------------------------------------------------


class BCELoss(MaskLoss):
    """Binary cross-entropy, mean over all pixels; at least 0, without an upper bound."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return F.binary_cross_entropy_with_logits(*self.prepare(logits, target))


class FocalLoss(MaskLoss):
    """-alpha_t (1 - p_t) ** gamma log p_t, mean over all pixels.

    Lin et al. 2017 (arXiv:1708.02002), equation 5. ``p_t`` is the probability given to the true
    class; ``alpha`` weighs tumour pixels and 1 - ``alpha`` the others. The paper divides by the
    number of objects instead of pixels, which a mask does not have.
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25) -> None:
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        logits, target = self.prepare(logits, target)
        margin = logits * (2 * target - 1)  # logit of the true class: p_t is its sigmoid
        alpha = self.alpha * target + (1 - self.alpha) * (1 - target)
        # The logarithms of p_t and 1 - p_t are taken from the logit: neither is rounded to 0.
        log_right, log_wrong = F.logsigmoid(margin), F.logsigmoid(-margin)
        return -(alpha * torch.exp(self.gamma * log_wrong) * log_right).mean()


# --- of images, and sums --------------------------------------------------------------------------


class MultiScaleSSIM(nn.Module):
    """MS-SSIM of images in [0, 1].

    Wang, Simoncelli, Bovik 2003 (doi:10.1109/ACSSC.2003.1292216), equation 7:
    ``l_M ** w_M * prod over scales j of cs_j ** w_j``, where ``l`` compares brightness and ``cs``
    contrast and structure. Brightness counts once, at the coarsest scale ``M``; versions that
    multiply it in at every scale count it five times. Windows and constants are those of SSIM
    (Wang et al. 2004, doi:10.1109/TIP.2003.819861); maps are averaged over the image before the
    power is taken, as in the authors' code.

    A scale is used as long as the window fits into it: all five from 176 pixels on, four from 88,
    three from 44, two from 22, one from 11; the weights of those that are left are scaled up to the
    sum of all five. Small images can thus be trained on, but values of images of different size are
    not comparable.

    An image whose prediction contradicts its mask at some scale has no gradient there, see
    ``FLOOR``.
    """

    SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest first
    WINDOW, SIGMA = 11, 1.5  # pixels
    C1, C2 = 0.01**2, 0.03**2
    # cs is negative where prediction and ground truth contradict each other. A negative number has
    # no fractional power, and the slope of the power is infinite at 0. So the mean of an image
    # stops here: about the least of any prediction on an empty mask, whose gradient must be kept.
    FLOOR = 1e-6

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        """Return the similarity of each pair, ``(N,)`` in [0, 1], of two ``(N, C, H, W)``.

        An odd last row or column is left out of the next coarser scale.

        Raises:
            KitError: an edge is shorter than the window of 11 pixels.
        """
        weights = self.weights(*image.shape[-2:])
        factors = []
        for scale, weight in enumerate(weights):
            if scale:
                image, other = F.avg_pool2d(image, 2), F.avg_pool2d(other, 2)
            luminance, contrast_structure = self.maps(image, other)
            last = scale == len(weights) - 1
            similarity = luminance * contrast_structure if last else contrast_structure
            factors.append(similarity.flatten(1).mean(1).clamp(min=self.FLOOR) ** weight)
        return torch.stack(factors).prod(0)

    def weights(self, height: int, width: int) -> list[float]:
        """Return the weights of the scales of an image of this size, finest first.

        Their sum is that of all five.
        """
        edge = min(height, width)
        fitting = [
            weight
            for scale, weight in enumerate(self.SCALE_WEIGHTS)
            if edge >> scale >= self.WINDOW
        ]
        if not fitting:
            raise KitError(
                f"image of {height}x{width} pixels: MS-SSIM needs at least "
                f"{self.WINDOW}x{self.WINDOW}, and {self.WINDOW << len(self.SCALE_WEIGHTS) - 1} "
                f"along each edge for all of its scales"
            )
        return [weight * (sum(self.SCALE_WEIGHTS) / sum(fitting)) for weight in fitting]

    def maps(self, image: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return luminance, and contrast times structure, of every window.

        ``(N, C, H - 10, W - 10)`` each.
        """
        moments = torch.stack([image, other, image * image, other * other, image * other])
        mean, other_mean, square, other_square, product = self.blur(moments)
        variances = square - mean**2 + other_square - other_mean**2
        covariance = product - mean * other_mean
        luminance = (2 * mean * other_mean + self.C1) / (mean**2 + other_mean**2 + self.C1)
        return luminance, (2 * covariance + self.C2) / (variances + self.C2)

    def blur(self, images: Tensor) -> Tensor:
        """Return Gaussian means of all windows in ``(..., H, W)``: ``(..., H - 10, W - 10)``."""
        # Sums of shifted images, no convolution: GPUs round the factors of a convolution to ten
        # bits (TF32). The variances, differences of almost equal numbers, would be lost.
        centre = self.WINDOW // 2
        bell = [math.exp(-0.5 * ((i - centre) / self.SIGMA) ** 2) for i in range(self.WINDOW)]
        for dim in (-2, -1):
            size = images.shape[dim] - self.WINDOW + 1
            weighted = (
                height / sum(bell) * images.narrow(dim, start, size)
                for start, height in enumerate(bell)
            )
            images = torch.as_tensor(sum(weighted))
        return images


class MSSSIMLoss(MaskLoss):
    """1 - MS-SSIM of probabilities and mask, mean over images; in [0, 1].

    See ``MultiScaleSSIM`` for small images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.similarity = MultiScaleSSIM()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        logits, target = self.prepare(logits, target)
        similarity: Tensor = self.similarity(torch.sigmoid(logits), target)
        return 1 - similarity.mean()


class DiceBCELoss(MaskLoss):
    """Dice loss + ``weight`` * binary cross-entropy."""

    def __init__(self, weight: float = 1.0, per_image: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.dice, self.bce = DiceLoss(per_image), BCELoss()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        loss: Tensor = self.dice(logits, target) + self.weight * self.bce(logits, target)
        return loss


class HybridLoss(MaskLoss):
    """Focal + MS-SSIM + IoU loss, unweighted: pixel, patch and map.

    Huang et al. 2020 (UNet 3+, arXiv:2004.08790).
    """

    def __init__(self, per_image: bool = False) -> None:
        super().__init__()
        self.focal, self.ms_ssim, self.iou = FocalLoss(), MSSSIMLoss(), IOULoss(per_image)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        losses = [loss(logits, target) for loss in (self.focal, self.ms_ssim, self.iou)]
        total: Tensor = losses[0] + losses[1] + losses[2]
        return total


# --- by name, and on many outputs -----------------------------------------------------------------

LOSSES: dict[str, type[nn.Module]] = {
    loss.__name__: loss
    for loss in (
        DiceLoss,
        IOULoss,
        TverskyLoss,
        FocalTverskyLoss,
        FocalLoss,
        BCELoss,
        DiceBCELoss,
        MSSSIMLoss,
        HybridLoss,
    )
}


def build_loss(name: str) -> nn.Module:
    """Return the loss of that name with its published settings, or a custom ``"module:Class"``.

    Raises:
        KitError: no loss of that name, or its constructor needs an argument.
    """
    if name in LOSSES:
        return LOSSES[name]()
    if ":" not in name:
        raise KitError(f"loss {name!r} is not one of {', '.join(LOSSES)}")
    loss = load_class(name, nn.Module)
    try:
        inspect.signature(loss).bind()
    except TypeError as error:
        raise KitError(
            f"{name}: its constructor is called without arguments ({error}); give each a default; "
            f"{see('extending', 'A loss')}"
        ) from None
    with in_words(name):
        return loss()


def build_objective(config: Config) -> nn.Module:
    """Return the objective of ``config``: its loss, on every output if its network has several.

    Raises:
        KitError: no loss of that name.
    """
    loss = build_loss(config.loss)
    return DeepSupervisionLoss(loss) if config.deep_supervision or config.guided else loss


class DeepSupervisionLoss(nn.Module):
    """Apply any loss of a mask to whatever a network returns: ``(output, target)`` -> scalar.

    - A Tensor, as in eval mode: the loss itself.
    - A list of logits, finest first: the mean of their losses. U-Net++ (Zhou et al. 2020,
      arXiv:1912.05074, equation 3) adds them with equal weights; their mean has the same minimum,
      keeps the scale of a single loss and with it the meaning of a learning rate.
    - ``Guided``: the same, where slices whose mask is empty are set to "no tumour" first, as the
      true label would have gated them; plus the binary cross-entropy of ``presence`` against "this
      slice's mask is not empty" (UNet 3+, arXiv:2004.08790, section 2.3). The classifier learns
      from the latter alone, the mask from slices with tumour.

    Args:
        loss: takes logits and target, ``(N, 1, H, W)``.

    Raises:
        KitError: an output has another shape than the target.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.presence = loss, BCELoss()

    def forward(self, output: Tensor | list[Tensor] | Guided, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        outputs = output.logits if isinstance(output, Guided) else output
        for logits in [outputs] if isinstance(outputs, Tensor) else outputs:
            require_same_shape(logits, target)
        if isinstance(outputs, Tensor):
            loss: Tensor = self.loss(outputs, target)
            return loss
        if not isinstance(output, Guided):
            return self.mean(outputs, target)
        empty = (target == 0).flatten(1).all(1)
        gated = [logits.masked_fill(empty.view(-1, 1, 1, 1), EMPTY_LOGIT) for logits in outputs]
        presence: Tensor = self.presence(output.presence, ~empty)
        return self.mean(gated, target) + presence

    def mean(self, outputs: list[Tensor], target: Tensor) -> Tensor:
        """Return the mean of the outputs' losses."""
        losses = [self.loss(widen(logits), target) for logits in outputs]
        return torch.stack(losses).sum() / len(losses)
