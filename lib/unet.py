"""U-Net as in the published baseline.

Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597), with batch normalisation, zero-padded
convolutions and half the width. Buda, Saha, Mazurowski 2019 published it so for the LGG data:
7,763,041 parameters at 32 features.
"""

from __future__ import annotations

import re
from functools import partial

from torch import Tensor, nn

from lib.unet_layers import DoubleConv, Down, Style, require_divisible


class UNet(nn.Module):
    """Encoder, bottleneck and decoder with skip connections.

    Args:
        in_channels: sequences per slice (pre-contrast, FLAIR, post-contrast).
        init_features: channels of the first level; they double at each of the four levels below.
        activation: a key of ``lib.unet_layers.ACTIVATIONS``.
        normalisation: one of ``lib.unet_layers.NORMALISATIONS``; without one the convolutions
            have a bias.

    Shapes:
        ``(N, in_channels, H, W)`` -> logits ``(N, 1, H, W)``; H and W divisible by 16.
    """

    def __init__(
        self,
        in_channels: int = 3,
        init_features: int = 32,
        activation: str = "ReLU",
        normalisation: str = "batch",
    ) -> None:
        super().__init__()
        f1, f2, f3, f4, f5 = (init_features * 2**level for level in range(5))
        style = Style(activation=activation, normalisation=normalisation)
        bias = normalisation == "none"
        double_conv = partial(DoubleConv, **style, bias=bias)
        down = partial(Down, **style, bias=bias)
        up = partial(nn.ConvTranspose2d, kernel_size=2, stride=2)  # each pixel to four
        self.encoder1 = double_conv(in_channels, f1)
        self.encoder2 = down(f1, f2)
        self.encoder3 = down(f2, f3)
        self.encoder4 = down(f3, f4)
        self.bottleneck = down(f4, f5)
        self.upconv4 = up(f5, f4)
        self.decoder4 = double_conv(2 * f4, f4)
        self.upconv3 = up(f4, f3)
        self.decoder3 = double_conv(2 * f3, f3)
        self.upconv2 = up(f3, f2)
        self.decoder2 = double_conv(2 * f2, f2)
        self.upconv1 = up(f2, f1)
        self.decoder1 = double_conv(2 * f1, f1)
        self.conv = nn.Conv2d(f1, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        require_divisible(x, 16)
        enc1 = self.encoder1(x)
        enc2 = self.encoder2(enc1)
        enc3 = self.encoder3(enc2)
        enc4 = self.encoder4(enc3)
        x = self.bottleneck(enc4)
        x = self.decoder4(self.upconv4(x), enc4)
        x = self.decoder3(self.upconv3(x), enc3)
        x = self.decoder2(self.upconv2(x), enc2)
        x = self.decoder1(self.upconv1(x), enc1)
        x = self.conv(x)
        return x


def from_published(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a state dict of the original repository.

    Its keys are ``encoder1.enc1conv1.weight`` ... ``conv.bias``; keys that are already ours pass
    unchanged.
    """
    prefix = re.compile(r"\.(enc\d|dec\d|bottleneck)(conv|norm)(\d)\.")
    return {prefix.sub(r".\2\3.", key): value for key, value in state_dict.items()}
