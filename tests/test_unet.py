"""The U-Net against the published one; networks and losses by name."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from lib import config as config_names
from lib.config import Config
from lib.loss import LOSSES, build_loss
from lib.networks import NETWORKS, build_model
from lib.runtime.cost import count_parameters
from lib.unet import UNet, from_published
from lib.unet_layers import ACTIVATIONS, make_activation
from lib.utils import KitError

# --- the network ----------------------------------------------------------------------------------


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
            self.add_module(
                f"encoder{level}", stage(f"enc{level}", channels[level - 1], channels[level])
            )
        self.bottleneck = stage("bottleneck", channels[4], channels[5])
        for level in range(4, 0, -1):
            self.add_module(
                f"upconv{level}", nn.ConvTranspose2d(channels[level + 1], channels[level], 2, 2)
            )
            self.add_module(
                f"decoder{level}", stage(f"dec{level}", 2 * channels[level], channels[level])
            )
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


@pytest.mark.parametrize(
    ("size", "advice"), [((40, 32), "48x32"), ((33, 47), "48x48"), ((8, 16), "16x16")]
)
def test_other_sizes_are_refused_with_the_size_to_pad_to(size, advice):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*4 times.*{advice}"):
        UNet(init_features=2)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_used_and_trains(name, images):
    network = build_model(Config(init_features=2, activation=name))
    assert sum(isinstance(module, ACTIVATIONS[name]) for module in network.modules()) == 18
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


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Config(model="vnet"), "vnet"),
        (lambda: Config(activation="Step"), "Step"),
        (lambda: Config(loss="Hinge"), "Hinge"),
        (lambda: build_loss("Hinge"), "Hinge"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(call, word):
    with pytest.raises(KitError, match=f"'{word}' is .* one of .*(unet|ReLU|DiceLoss)"):
        call()


def test_config_knows_the_names_that_can_be_built():
    assert tuple(NETWORKS) == config_names.MODELS
    assert tuple(LOSSES) == config_names.LOSSES
    assert tuple(ACTIVATIONS) == config_names.ACTIVATIONS
    assert all(LOSSES[name].__name__ == name for name in LOSSES)


def test_a_network_and_a_loss_of_ones_own():
    network = build_model(Config(model="tests.test_unet:OneConvolution", init_features=4))
    assert isinstance(network, OneConvolution)
    assert isinstance(build_loss("tests.test_unet:OneConvolution"), OneConvolution)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"normalisation": "group"}, "no argument normalisation; leave it at "),
        ({"checkpointing": True}, "it has none; leave checkpointing at False"),
    ],
)
def test_a_choice_that_would_change_nothing_is_refused(choice, reason):
    config = Config(model="tests.test_unet:OneConvolution", activation="GELU", **choice)
    with pytest.raises(KitError, match=reason):
        build_model(config)


@pytest.mark.parametrize(
    "spec", ["tests.nowhere:Net", "tests.test_unet:Nothing", "os:system", "math:pi"]
)
def test_a_class_that_is_none_of_these_is_refused(spec):
    with pytest.raises(KitError, match=spec):
        build_model(Config(model=spec))
