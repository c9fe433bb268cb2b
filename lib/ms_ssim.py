"""Multi-scale structural similarity (MS-SSIM) of two batches of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.utils import KitError


class MultiScaleSSIM(nn.Module):
    """MS-SSIM of images in [0, 1]: Wang, Simoncelli, Bovik 2003 (doi:10.1109/ACSSC.2003.1292216), equation 7.

    ``l_M ** w_M * prod over scales j of cs_j ** w_j``, where ``l`` compares brightness and ``cs`` contrast and
    structure. Brightness counts once, at the coarsest scale ``M``; versions that multiply it in at every scale
    punish it five times over. Windows and constants are those of SSIM (Wang et al. 2004,
    doi:10.1109/TIP.2003.819861); maps are averaged over the image before the power is taken, as in the authors' code.

    A scale is used as long as the window fits into it: all five from 176 pixels on, four from 88, three from 44,
    two from 22, one from 11; the weights of those that are left are scaled up to the sum of all five. Small images
    can thus be trained on, but values of images of different size are not comparable.

    An image whose prediction runs against its mask at some scale has no gradient there, see ``FLOOR``.
    """

    SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest first
    WINDOW, SIGMA = 11, 1.5  # pixels
    C1, C2 = 0.01**2, 0.03**2
    # cs is negative where prediction and truth run against each other. A negative number has no fractional power, and
    # at 0 the power's slope is infinite, so the mean of an image stops here: it is about the least that any prediction
    # has on an empty mask, where the gradient must not be lost
    FLOOR = 1e-6

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        """Similarity of each pair, ``(N,)`` in [0, 1], of two ``(N, C, H, W)``; an odd last row or column is left out
        of the next coarser scale.

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
        """The weights of the scales that an image of this size has, finest first; their sum is that of all five."""
        edge = min(height, width)
        fitting = [weight for scale, weight in enumerate(self.SCALE_WEIGHTS) if edge >> scale >= self.WINDOW]
        if not fitting:
            raise KitError(f"image of {height}x{width} pixels: MS-SSIM needs at least {self.WINDOW}x{self.WINDOW}, "
                           f"and {self.WINDOW << len(self.SCALE_WEIGHTS) - 1} along each edge for all of its scales")
        return [weight * (sum(self.SCALE_WEIGHTS) / sum(fitting)) for weight in fitting]

    def maps(self, image: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Luminance, and contrast times structure, of every window: ``(N, C, H - 10, W - 10)`` each."""
        moments = torch.stack([image, other, image * image, other * other, image * other])
        mean, other_mean, square, other_square, product = self.blur(moments)
        variances = square - mean**2 + other_square - other_mean**2
        covariance = product - mean * other_mean
        luminance = (2 * mean * other_mean + self.C1) / (mean**2 + other_mean**2 + self.C1)
        return luminance, (2 * covariance + self.C2) / (variances + self.C2)

    def blur(self, images: Tensor) -> Tensor:
        """Gaussian means of the windows that lie inside ``(..., H, W)``: ``(..., H - 10, W - 10)``."""
        # sums of shifted images rather than a convolution: GPUs round the factors of those to ten bits (TF32), and
        # the variances, differences of almost equal numbers, would drown in that
        centre = self.WINDOW // 2
        bell = [math.exp(-0.5 * ((i - centre) / self.SIGMA) ** 2) for i in range(self.WINDOW)]
        for dim in (-2, -1):
            size = images.shape[dim] - self.WINDOW + 1
            images = sum(height / sum(bell) * images.narrow(dim, start, size) for start, height in enumerate(bell))
        return images
