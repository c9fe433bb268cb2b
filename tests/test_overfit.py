"""Each network learns one batch by heart."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.config import Config
from lib.loss import DiceLoss
from lib.metrics import dsc
from lib.networks import build_model
from lib.unet_layers import Guided


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two noisy images of 64x64, one of them with a bright disc; their masks."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = ((y - 24) ** 2 + (x - 30) ** 2 < 12**2).float()
    masks = torch.stack([mask, torch.zeros_like(mask)])[:, None]
    return 0.3 * torch.randn(2, 3, 64, 64, generator=generator) + 1.5 * masks, masks


def loss_of(output, masks):
    """Dice at every level, and whether there is a tumour where the network says so."""
    extra = 0.0
    if isinstance(output, Guided):
        extra = F.binary_cross_entropy_with_logits(output.presence, masks.amax(dim=(1, 2, 3)))
        output = output.logits
    outputs = output if isinstance(output, list) else [output]
    return torch.stack([DiceLoss()(logits, masks) for logits in outputs]).mean() + extra


def settle(model, images):
    """Let the running statistics catch up with weights that moved fast: sixty steps are few for a momentum of 0.1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    for _ in range(10):
        model(images)


@pytest.mark.slow
@pytest.mark.parametrize("switches", [
    {"model": "unet"}, {"model": "unet_2plus"}, {"model": "unet_2plus", "deep_supervision": True},
    {"model": "unet_3plus"}, {"model": "unet_3plus", "deep_supervision": True},
    {"model": "unet_3plus", "deep_supervision": True, "guided": True, "checkpointing": True},
])
def test_a_batch_is_learned_by_heart(switches):
    torch.manual_seed(0)
    images, masks = blobs()
    model = build_model(Config(init_features=8, **switches))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(model.train()(images), masks).backward()
        optimizer.step()
    with torch.no_grad():
        settle(model, images)
        predicted = model.eval()(images)[:, 0].sigmoid() > 0.5
    assert dsc(predicted.numpy().astype(np.uint8), masks[:, 0].numpy().astype(np.uint8)) > 0.98
    assert not predicted[1].any()
