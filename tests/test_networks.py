"""``build_model``, and what all three networks have in common: arguments, normalisations,
initialisers, options.
"""

import argparse
import dataclasses
import math

import pytest
import torch
from torch import nn

from lib import config as config_names
from lib.config import Config
from lib.loss import DiceLoss
from lib.networks import NETWORKS, build_model, largest_batch, summary
from lib.runtime import CommandParser
from lib.runtime.cli import add_arguments, from_arguments
from lib.unet import UNet, from_published
from lib.unet_init_weights import INITIALISERS, initialise, start_at
from lib.unet_layers import ACTIVATIONS, NORMALISATIONS, Guided, make_normalisation
from lib.utils import KitError


class Bare(nn.Module):
    """A student's network that takes nothing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)


class Derived(UNet):
    """One that hands on whatever the kit's own takes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Chosen(Bare):
    """One that wants some."""

    def __init__(self, in_channels, deep_supervision, activation="ReLU", depth=3):
        super().__init__()
        self.given = in_channels, deep_supervision, activation, depth


class Demanding(Bare):
    """One that wants what is not in Config."""

    def __init__(self, width):
        super().__init__()


OWN = "tests.test_networks:"


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def first(output):
    """The finest logits, whatever the network returns."""
    output = output.logits if isinstance(output, Guided) else output
    return output[0] if isinstance(output, list) else output


def test_config_knows_the_names():
    assert tuple(NETWORKS) == config_names.MODELS
    assert NORMALISATIONS == config_names.NORMALISATIONS
    assert tuple(INITIALISERS) == config_names.INITIALISERS


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("activation", name) for name in ACTIVATIONS),
        *(("normalisation", name) for name in NORMALISATIONS[1:]),
        *(("initialiser", name) for name in list(INITIALISERS)[1:]),
    ],
)
def test_every_choice_trains(model, field, value, images):
    torch.manual_seed(0)
    network = build_model(Config(model=model, init_features=2, **{field: value}))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    DiceLoss()(first(network(images)), (images[:, :1] > 1).float()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    optimizer.step()
    assert torch.isfinite(first(network(images))).all()
    if field == "activation":
        assert any(isinstance(module, ACTIVATIONS[value]) for module in network.modules())


@pytest.mark.parametrize("model", NETWORKS)
def test_same_random_state_same_weights(model):
    def weights(initialiser):
        torch.manual_seed(7)
        return build_model(
            Config(model=model, init_features=2, initialiser=initialiser)
        ).state_dict()

    for initialiser in INITIALISERS:
        one, other = weights(initialiser), weights(initialiser)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(*(weights(name)[next(iter(one))] for name in ("default", "kaiming")))


def test_the_baseline_keeps_its_names_and_its_lack_of_biases():
    names = set(UNet(init_features=2).state_dict())
    assert {
        "encoder1.conv1.weight",
        "bottleneck.norm2.running_var",
        "upconv4.bias",
        "decoder1.conv2.weight",
        "conv.bias",
    } <= names
    assert "encoder1.conv1.bias" not in names
    assert (
        set(from_published({"encoder1.enc1conv1.weight": 0, "decoder2.dec2norm1.bias": 0})) <= names
    )
    assert UNet(init_features=2, normalisation="none").encoder1.conv1.bias is not None


# --- normalisations and initialisers --------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 4), (320, 20), (8, 1), (40, 5), (6, 3), (3, 3)]
)
def test_groups(channels, groups):
    assert make_normalisation("group", channels).num_groups == groups


def test_normalised():
    x = 5 + 3 * torch.randn(4, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, over in (("batch", (0, 2, 3)), ("instance", (2, 3))):
        out = make_normalisation(name, 32)(x)
        assert out.mean(over).abs().max() < 1e-5
        assert (out.std(over) - 1).abs().max() < 1e-2
    assert torch.equal(make_normalisation("none", 32)(x), x)
    with pytest.raises(KitError, match=r"'layer'.*batch, instance, group, none"):
        make_normalisation("layer", 3)


@pytest.mark.parametrize(
    ("name", "conv", "transposed"),
    [
        ("normal", 0.02, 0.02),
        # 64 -> 32 channels. 3x3: fan in 576, fan out 288. 2x2 with stride 2: one tap reaches a
        # pixel, it feeds four
        ("xavier", math.sqrt(2 / (576 + 288)), math.sqrt(2 / (64 + 128))),
        ("kaiming", math.sqrt(2 / 576), math.sqrt(2 / 64)),
    ],
)
def test_spread_of_the_weights(name, conv, transposed):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(64, 32, 3), nn.ConvTranspose2d(64, 32, 2, stride=2), nn.BatchNorm2d(32)
    )
    initialise(network, name)
    for module, std in ((network[0], conv), (network[1], transposed)):
        assert module.weight.std().item() == pytest.approx(std, rel=0.03)
        assert abs(module.weight.mean().item()) < 0.05 * std
        assert not module.bias.any()
    assert (network[2].weight == 1).all()


@pytest.mark.parametrize(
    "config",
    [
        Config(init_features=4),
        Config(model="unet_2plus", init_features=4, deep_supervision=True),
        Config(model="unet_3plus", init_features=4, deep_supervision=True, guided=True),
    ],
    ids=lambda config: config.model,
)
def test_an_untrained_network_starts_at_the_prior(config, images):
    torch.manual_seed(0)
    output = build_model(dataclasses.replace(config, prior=0.02))(images)
    output = output.logits if isinstance(output, Guided) else output
    for logits in output if isinstance(output, list) else [output]:
        # in the middle: its weights add to the bias what is 0 in the mean
        assert torch.sigmoid(logits.median()).item() == pytest.approx(0.02, abs=0.015)


def test_a_prior_needs_an_output_with_a_bias():
    with pytest.raises(KitError, match="has none; set prior=0"):
        start_at(nn.Conv2d(3, 1, 1, bias=False), 0.02)


class Gated(nn.Module):
    """Has a gate with one channel, as attention has, beside its output."""

    def __init__(self):
        super().__init__()
        self.gate, self.out = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)

    def forward(self, images):
        return self.out(images * self.gate(images).sigmoid())


def test_a_prior_closes_no_gates():
    with pytest.raises(KitError, match="2 convolutions have one output channel; set prior=0"):
        start_at(Gated(), 0.02)


def test_kaiming_keeps_the_size_of_signals_through_both_kinds_of_convolution():
    torch.manual_seed(0)
    x = torch.randn(4, 64, 24, 24)
    for module in (nn.Conv2d(64, 64, 3, padding=1), nn.ConvTranspose2d(64, 64, 2, stride=2)):
        initialise(module, "kaiming")
        # twice the variance, of which ReLU leaves one half (of the second moment)
        assert module(x)[..., 1:-1, 1:-1].var().item() == pytest.approx(2, rel=0.1)


def test_orthogonal_rows():
    conv = nn.Conv2d(8, 16, 3)
    initialise(conv, "orthogonal")
    rows = conv.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(16), atol=1e-5, rtol=0)


def test_default_is_torchs():
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 4, 3)
    before = conv.weight.clone(), conv.bias.clone(), torch.get_rng_state()
    initialise(conv, "default")
    assert torch.equal(conv.weight, before[0]) and torch.equal(conv.bias, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    with pytest.raises(KitError, match=r"'zeros'.*default, normal"):
        initialise(conv, "zeros")


# --- networks of one's own ------------------------------------------------------------------------


def test_a_network_gets_what_its_constructor_takes():
    assert isinstance(build_model(Config(model=f"{OWN}Bare", init_features=5)), Bare)
    derived = build_model(Config(model=f"{OWN}Derived", init_features=5, checkpointing=True))
    assert derived.encoder1.conv1.out_channels == 5
    assert derived.encoder1.recompute
    chosen = build_model(Config(model=f"{OWN}Chosen", activation="GELU", deep_supervision=True))
    assert chosen.given == (3, True, "GELU", 3)


@pytest.mark.parametrize(("name", "switch"), [("Bare", "deep_supervision"), ("Derived", "guided")])
def test_a_switch_that_a_network_does_not_know(name, switch):
    with pytest.raises(KitError, match=f"{name}.*no argument {switch}"):
        build_model(Config(model=f"{OWN}{name}", **{switch: True}))


def test_checkpointing_needs_a_block_that_can_be_recomputed():
    with pytest.raises(KitError, match=r"Chosen: checkpointing.*DoubleConv"):
        build_model(Config(model=f"{OWN}Chosen", checkpointing=True))


def test_a_custom_network_is_initialised():
    torch.manual_seed(0)
    network = build_model(Config(model=f"{OWN}Bare", initialiser="normal"))
    assert not network.conv.bias.any()


@pytest.mark.parametrize("model", NETWORKS)
def test_neighbours_are_further_input_channels(model):
    config = Config(model=model, init_features=2, image_size=32, neighbours=2)
    network = build_model(config).eval()
    assert network(torch.zeros(1, 15, 32, 32)).shape == (1, 1, 32, 32)
    cost, plain = (
        summary(dataclasses.replace(config, neighbours=n), precision="fp32") for n in (2, 0)
    )
    assert (
        cost.parameters - plain.parameters == 12 * 2 * 9
    )  # the first convolution's: channels, features, 3 x 3
    assert cost.gflops > plain.gflops
    assert largest_batch(config, 32, 2**30, "fp32") > 0


def test_neighbours_need_a_network_that_takes_them():
    assert build_model(Config(model=f"{OWN}Chosen", neighbours=1)).given[0] == 9
    with pytest.raises(KitError, match=r"Bare.*in_channels; set neighbours=0"):
        build_model(Config(model=f"{OWN}Bare", neighbours=1))


def test_a_network_that_needs_something_else():
    with pytest.raises(KitError, match=r"Demanding.*needs width"):
        build_model(Config(model=f"{OWN}Demanding"))


# --- Config and command line ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"deep_supervision": True},
        {"guided": True},
        {"guided": True, "model": "unet_2plus"},
        {"deep_supervision": 1},
        {"checkpointing": "true"},
        {"normalisation": "layer"},
        {"initialiser": "zeros"},
    ],
)
def test_combinations_without_meaning_are_refused(wrong):
    with pytest.raises(KitError) as caught:
        Config(**wrong)
    assert "\n" not in str(caught.value)
    assert next(iter(wrong)) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["--checkpointing"], True),
        (["--checkpointing", "true"], True),
        (["--checkpointing=TRUE"], True),
        (["--checkpointing", "false"], False),
        (["--checkpointing", "--epochs", "3"], True),
    ],
)
def test_a_switch_on_the_command_line(arguments, expected):
    parser = CommandParser(prog="test")
    add_arguments(parser)
    assert from_arguments(parser.parse_args(arguments)).checkpointing is expected


def test_a_switch_can_be_turned_off_again_and_nonsense_is_refused(capsys):
    parser = CommandParser(prog="test")
    add_arguments(parser)
    base = Config(model="unet_3plus", deep_supervision=True)
    assert from_arguments(parser.parse_args(["--deep_supervision", "false"]), base) == Config(
        model="unet_3plus"
    )
    assert from_arguments(argparse.Namespace(), base) == base
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--guided", "perhaps"])
    assert stop.value.code == 2
    assert "expected true or false, got 'perhaps'" in capsys.readouterr().err
