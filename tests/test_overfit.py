"""Each network learns one batch by heart."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lib.config import Config
from lib.loss import build_objective
from lib.metrics import dsc
from lib.networks import build_model
from lib.phantom import make_patient
from lib.transform import preprocess, preprocess_mask


def phantom_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two slices of a phantom, 64x64, one with the most tumour and one without any; their masks."""
    volume, mask = make_patient(0, 0, 64)
    images, geometry = preprocess(volume, 64)
    masks = preprocess_mask(mask, geometry)
    areas = masks.sum(axis=(1, 2))
    chosen = [int(areas.argmax()), int(np.flatnonzero(areas == 0)[0])]
    return torch.from_numpy(images[chosen]), torch.from_numpy(
        masks[chosen, None].astype(np.float32)
    )


@torch.no_grad()
def recited(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Masks in eval mode, once running statistics have caught up with weights that moved fast."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    for _ in range(10):
        model(images)
    return (model.eval()(images)[:, 0].sigmoid() > 0.5).numpy().astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        {"model": "unet"},
        {"model": "unet_2plus"},
        {"model": "unet_2plus", "deep_supervision": True},
        {"model": "unet_3plus"},
        {"model": "unet_3plus", "deep_supervision": True},
        {"model": "unet_3plus", "deep_supervision": True, "guided": True, "checkpointing": True},
    ],
)
def test_a_batch_is_learned_by_heart(switches):
    torch.manual_seed(0)
    images, masks = phantom_batch()
    truth = masks[:, 0].numpy().astype(np.uint8)
    config = Config(init_features=8, **switches)
    model, objective = build_model(config), build_objective(config)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    score = 0.0
    for step in range(1, 241):
        optimizer.zero_grad()
        objective(model.train()(images), masks).backward()
        optimizer.step()
        if step % 30 == 0:
            score = dsc(recited(model, images), truth)
            if score > 0.98:
                break
    assert score > 0.98
    assert not recited(model, images)[1].any()
