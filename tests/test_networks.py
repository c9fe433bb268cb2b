"""The U-Net against the published one, and the losses against MONAI, arithmetic and independent formulas."""

from collections import OrderedDict

import pytest
import torch
from monai.losses import DiceLoss as MonaiDice
from monai.losses import TverskyLoss as MonaiTversky
from torch import nn

from lib import config as config_names
from lib.config import Config
from lib.loss import LOSSES, DiceLoss, FocalTverskyLoss, IOULoss, TverskyLoss, build_loss
from lib.networks import NETWORKS, build_model, count_parameters
from lib.unet import UNet, from_published
from lib.unet_layers import ACTIVATIONS, make_activation
from lib.utils import KitError

# --- the network --------------------------------------------------------------------------------------------------


def stage(name: str, inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with the published names."""
    layers = OrderedDict()
    for i, channels in ((1, inputs), (2, outputs)):
        layers[f"{name}conv{i}"] = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
        layers[f"{name}norm{i}"] = nn.BatchNorm2d(outputs)
        layers[f"{name}relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


class Published(nn.Module):
    """The published network as its paper and its state dict describe it; gives probabilities."""

    def __init__(self, width: int):
        super().__init__()
        channels = [3] + [width << level for level in range(5)]
        for level in range(1, 5):
            self.add_module(f"encoder{level}", stage(f"enc{level}", channels[level - 1], channels[level]))
        self.bottleneck = stage("bottleneck", channels[4], channels[5])
        for level in range(4, 0, -1):
            self.add_module(f"upconv{level}", nn.ConvTranspose2d(channels[level + 1], channels[level], 2, 2))
            self.add_module(f"decoder{level}", stage(f"dec{level}", 2 * channels[level], channels[level]))
        self.conv = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        skipped = []
        for level in range(1, 5):
            skipped.append(self.get_submodule(f"encoder{level}")(x))
            x = nn.functional.max_pool2d(skipped[-1], 2)
        x = self.bottleneck(x)
        for level in range(4, 0, -1):
            x = torch.cat([self.get_submodule(f"upconv{level}")(x), skipped.pop()], 1)
            x = self.get_submodule(f"decoder{level}")(x)
        return self.conv(x).sigmoid()


class OneConvolution(nn.Module):
    """A student's own network."""

    def __init__(self, init_features: int = 1, activation: str = "ReLU"):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, x):
        return self.conv(x)


@pytest.fixture
def published() -> Published:
    """A published network of four features whose normalisation has seen something."""
    torch.manual_seed(0)
    network = Published(4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.05, 0.3)  # small, so that signals do not fade
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return network


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def test_size_of_the_published_baseline():
    assert count_parameters(UNet()) == 7_763_041
    assert count_parameters(build_model(Config())) == 7_763_041
    assert sum(parameter.numel() for parameter in Published(32).parameters()) == 7_763_041


@pytest.mark.parametrize("training", [False, True])
def test_published_weights_give_the_published_probabilities(published, images, training):
    ours = UNet(init_features=4)
    ours.load_state_dict(from_published(published.state_dict()))
    published.train(training)
    ours.train(training)
    with torch.no_grad():
        expected, found = published(images), ours(images).sigmoid()
    assert expected.std() > 0.01, "the comparison is of something"
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_renaming_leaves_our_own_names_alone(published):
    names = set(UNet(init_features=4).state_dict())
    assert set(from_published(published.state_dict())) == names
    assert set(from_published(dict.fromkeys(names))) == names


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 32), (128, 128)])
def test_logits_of_the_images_size(height, width):
    network = UNet(init_features=2).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, height, width)).shape == (2, 1, height, width)


@pytest.mark.parametrize(("size", "advice"), [((40, 32), "48x32"), ((33, 47), "48x48"), ((8, 16), "16x16")])
def test_other_sizes_are_refused_with_the_size_to_pad_to(size, advice):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*4 times.*{advice}"):
        UNet(init_features=2)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_used_and_trains(name, images):
    network = build_model(Config(init_features=2, activation=name))
    assert sum(isinstance(module, ACTIVATIONS[name]) for module in network.modules()) == 9
    network(images).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(make_activation(name)(x.clone()), ACTIVATIONS[name]()(x))


def test_same_random_state_same_weights():
    def weights():
        torch.manual_seed(7)
        return build_model(Config(init_features=2)).state_dict()

    one, other = weights(), weights()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("call", "word"), [
    (lambda: Config(model="vnet"), "vnet"), (lambda: Config(activation="Step"), "Step"),
    (lambda: Config(loss="Hinge"), "Hinge"), (lambda: build_loss("Hinge"), "Hinge"),
])
def test_unknown_names_are_answered_with_the_known_ones(call, word):
    with pytest.raises(KitError, match=f"'{word}' is .* one of .*(unet|ReLU|DiceLoss)"):
        call()


def test_config_knows_the_names_that_can_be_built():
    assert tuple(NETWORKS) == config_names.MODELS
    assert tuple(LOSSES) == config_names.LOSSES
    assert tuple(ACTIVATIONS) == config_names.ACTIVATIONS
    assert all(LOSSES[name].__name__ == name for name in LOSSES)


def test_a_network_and_a_loss_of_ones_own():
    network = build_model(Config(model="tests.test_networks:OneConvolution", init_features=4))
    assert isinstance(network, OneConvolution)
    assert isinstance(build_loss("tests.test_networks:OneConvolution"), OneConvolution)


@pytest.mark.parametrize("spec", ["tests.nowhere:Net", "tests.test_networks:Nothing", "os:system", "math:pi"])
def test_a_class_that_is_none_of_these_is_refused(spec):
    with pytest.raises(KitError, match=spec):
        build_model(Config(model=spec))


# --- losses -------------------------------------------------------------------------------------------------------

CERTAIN = 40.0  # its sigmoid is 1 in float32


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 1, 16, 16, generator=generator) * 2
    target = (torch.rand(4, 1, 16, 16, generator=generator) < 0.2).float()
    target[2] = 0  # a slice without tumour: on the whole batch it makes no ratio of its own
    return logits, target


def certain(*values):
    """Logits of a network that is sure: 1 -> tumour, 0 -> none."""
    return (torch.tensor(values, dtype=torch.float32) * 2 - 1).view(1, 1, 1, -1) * CERTAIN


def pixels(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def index_in_float64(probability, target, false_negatives, false_positives, smooth):
    """Tversky index from its definition, pixel by pixel, in double precision."""
    overlap = (probability * target).sum()
    missed = ((1 - probability) * target).sum()
    invented = (probability * (1 - target)).sum()
    return (overlap + smooth) / (overlap + false_negatives * missed + false_positives * invented + smooth)


REFERENCES = {
    "DiceLoss": lambda p, t: 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1),
    "IOULoss": lambda p, t: 1 - ((p * t).sum() + 1) / (p.sum() + t.sum() - (p * t).sum() + 1),
    "TverskyLoss": lambda p, t: 1 - index_in_float64(p, t, 0.7, 0.3, 1.0),
    "FocalTverskyLoss": lambda p, t: (1 - index_in_float64(p, t, 0.7, 0.3, 1.0)) ** 0.75,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_value_and_gradient_are_those_of_the_formula(batch, name):
    logits, target = batch
    ours = logits.clone().requires_grad_()
    exact = logits.double().requires_grad_()
    loss, reference = build_loss(name)(ours, target), REFERENCES[name](exact.sigmoid(), target.double())
    assert loss.shape == ()
    assert loss.item() == pytest.approx(reference.item(), abs=1e-5)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad.double(), exact.grad, atol=1e-7, rtol=1e-3)


def test_dice_is_monais_on_the_batch(batch):
    monai = MonaiDice(sigmoid=True, batch=True, smooth_nr=1, smooth_dr=1)
    torch.testing.assert_close(DiceLoss()(*batch), monai(*batch))


def test_iou_is_monais_on_the_batch(batch):
    # MONAI's jaccard doubles the fraction: 1 - (2 TP + 2 s) / (2 (TP + FP + FN) + 2 s) is ours
    monai = MonaiDice(sigmoid=True, batch=True, jaccard=True, smooth_nr=2, smooth_dr=2)
    torch.testing.assert_close(IOULoss()(*batch), monai(*batch))


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.3), (0.2, 0.8), (1.0, 1.0)])
def test_tversky_is_monais_with_the_weights_swapped(batch, alpha, beta):
    monai = MonaiTversky(sigmoid=True, batch=True, alpha=beta, beta=alpha, smooth_nr=1, smooth_dr=1)
    torch.testing.assert_close(TverskyLoss(alpha, beta)(*batch), monai(*batch))


def test_by_hand():
    logits, target = certain(1, 1, 1, 0, 0, 0), pixels(1, 1, 0, 1, 0, 0)  # TP 2, FP 1, FN 1
    assert DiceLoss()(logits, target).item() == pytest.approx(1 - 5 / 7)
    assert IOULoss()(logits, target).item() == pytest.approx(1 - 3 / 5)
    assert TverskyLoss(0.7, 0.3)(logits, target).item() == pytest.approx(1 - 3 / 4)
    assert TverskyLoss(0.9, 0.3)(logits, target).item() == pytest.approx(1 - 3 / 4.2)
    assert FocalTverskyLoss()(logits, target).item() == pytest.approx(0.25**0.75)


@pytest.mark.parametrize("loss", [TverskyLoss(0.7, 0.3), FocalTverskyLoss(0.7, 0.3)])
def test_alpha_weighs_what_is_missed(loss):
    missed = loss(certain(1, 0, 0, 0), pixels(1, 1, 1, 0))
    invented = loss(certain(1, 1, 1, 0), pixels(1, 0, 0, 0))
    assert missed > invented


def test_dice_and_iou_are_symmetric():
    for loss in (DiceLoss(), IOULoss()):
        assert loss(certain(1, 0, 0), pixels(1, 1, 0)) == loss(certain(1, 1, 0), pixels(1, 0, 0))


def test_sums_run_over_the_whole_batch(batch):
    logits, target = batch
    for name in LOSSES:
        loss = build_loss(name)
        torch.testing.assert_close(loss(logits, target), loss(logits.view(1, 1, -1, 16), target.view(1, 1, -1, 16)))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -CERTAIN, 0.0, CERTAIN, 1e4])
def test_extremes_stay_finite(name, target, logit):
    logits = torch.full((2, 1, 8, 8), logit, requires_grad=True)
    loss = build_loss(name)(logits, torch.full_like(logits, target).detach())
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert -1e-6 <= loss.item() <= 1 + 1e-6


def test_perfect_prediction_costs_next_to_nothing():
    for name in LOSSES:
        assert build_loss(name)(certain(1, 0, 1, 0), pixels(1, 0, 1, 0)).item() < 1e-4
        assert build_loss(name)(certain(0, 0, 0), pixels(0, 0, 0)).item() < 1e-4


def test_focal_tversky_at_zero_has_a_gradient_without_nan():
    logits = certain(1, 1, 0, 0).requires_grad_()
    FocalTverskyLoss()(logits, pixels(1, 1, 0, 0)).backward()
    assert torch.isfinite(logits.grad).all()


def test_descending_finds_the_target():
    target = pixels(0, 1, 1, 0, 0, 0)
    for name in LOSSES:
        logits = torch.zeros_like(target).requires_grad_()
        optimizer = torch.optim.Adam([logits], 0.3)
        for _ in range(80):
            optimizer.zero_grad()
            build_loss(name)(logits, target).backward()
            optimizer.step()
        assert torch.equal((logits > 0).float(), target), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    logits = torch.zeros(16, 1, 256, 256, dtype=dtype)  # a million times one half: float16 ends at 65,504
    loss = DiceLoss()(logits, torch.zeros(16, 1, 256, 256))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - 1 / (2**19 + 1), abs=1e-6)
