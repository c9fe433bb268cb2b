"""Checks of custom networks and losses: right ones pass, and each mistake is named."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from lib.check import check
from lib.config import LOSSES, Config
from lib.loss import build_loss
from lib.networks import build, build_model
from lib.utils import PROJECT, KitError


class Plain(nn.Module):
    """One convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, images):
        return self.conv(images)


class Half(Plain):
    def forward(self, images):
        return super().forward(images)[..., ::2, ::2]


class Probabilities(Plain):
    def forward(self, images):
        return super().forward(images).sigmoid()


class Idle(Plain):
    def __init__(self):
        super().__init__()
        self.spare = nn.Conv2d(3, 1, 1)


class Wanting(nn.Module):
    """Cannot be made without an argument."""

    def __init__(self, weight):
        super().__init__()


class View(Plain):
    """``view`` needs memory in the order of the dimensions, which training does not keep."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8 * 8, 8 * 8)

    def forward(self, images):
        features = super().forward(nn.functional.adaptive_avg_pool2d(images, 8))
        features = images[:, :, :8, :8].view(len(images), -1)[:, :64] + features.flatten(1)
        wide = self.head(features).view(-1, 1, 8, 8)
        return nn.functional.interpolate(wide, images.shape[2:])


class InPlace(Plain):
    """Fails in the backward pass only."""

    def forward(self, images):
        logits = super().forward(images)
        weights = logits.exp()
        product = weights * logits
        weights += 1
        return product


class Decoder(nn.Module):
    """Works in place behind a transposed convolution, as decoders do."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, images):
        features = self.down(images)
        up = self.up(nn.functional.max_pool2d(features, 2))
        up += features
        return self.head(nn.functional.relu_(up))


class Versioned(Plain):
    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


class Several(Plain):
    """Returns a list in training, as if it had deep supervision."""

    def forward(self, images):
        logits = super().forward(images)
        return [logits, logits] if self.training else logits


class Supervised(Several):
    def __init__(self, deep_supervision=False):
        super().__init__()
        self.supervised = deep_supervision

    def forward(self, images):
        return super().forward(images) if self.supervised else self.conv(images)


class Raising(nn.Module):
    def forward(self, logits, target):
        return (logits.sigmoid() - target[:, 0]).abs().mean() + target.gone


class Exits(nn.Module):
    def forward(self, logits, target):
        sys.exit(0)


class ExitsAtOnce(Plain):
    def __init__(self):
        super().__init__()
        sys.exit(0)


class Mean(nn.Module):
    def forward(self, logits, target):
        return (logits.sigmoid() - target).abs().mean()


class PerSlice(nn.Module):
    def forward(self, logits, target):
        return (logits.sigmoid() - target).abs().mean((1, 2, 3))


class Ratio(nn.Module):
    def forward(self, logits, target):
        return (logits.sigmoid() * target).sum() / target.sum()


class Thresholded(nn.Module):
    def forward(self, logits, target):
        return ((logits > 0).float() - target).abs().mean()


class Coefficient(nn.Module):
    """Rises as the overlap grows."""

    def forward(self, logits, target):
        probability = logits.sigmoid()
        return (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)


class ZeroHead(Plain):
    """Gives 0 before it has learnt anything, as some networks are made."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.conv.weight), nn.init.zeros_(self.conv.bias)


def failed(spec):
    return [result.name for result in check(f"tests.check.test_custom:{spec}") if not result.passed]


@pytest.mark.parametrize(
    "spec",
    [
        "tests.check.test_custom:Plain",
        "tests.check.test_custom:ZeroHead",
        "tests.check.test_custom:Decoder",
        "tests.check.test_custom:Mean",
        "lib.unet:UNet",
        "lib.unet_2plus:UNet2Plus",
        "lib.unet_3plus:UNet3Plus",
        *(f"lib.loss:{name}" for name in LOSSES),
    ],
)
def test_what_is_right_passes(spec):
    results = check(spec)
    assert results and all(result.passed for result in results), "\n".join(map(str, results))


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("Half", "keeps the shape of the slices"),
        ("Probabilities", "gives logits"),
        ("Idle", "every parameter gets a gradient"),
        ("View", "runs without an error"),
        ("InPlace", "runs without an error"),
        ("Raising", "runs without an error"),
        ("Versioned", "keeps tensors alone"),
        ("PerSlice", "is a scalar"),
        ("Ratio", "is finite on slices without tumour"),
        ("Thresholded", "has a gradient"),
        ("Coefficient", "prefers a perfect mask"),
    ],
)
def test_each_mistake_is_named(spec, name):
    assert name in failed(spec)


@pytest.mark.parametrize(
    ("field", "name", "reason"),
    [
        ("loss", "PerSlice", r"return one number for the batch, got a tensor of shape \(4,\)"),
        ("loss", "Coefficient", "turn its sign"),
        ("loss", "Ratio", "keep divisors away from 0"),
        ("model", "Half", "expected logits of shape"),
        ("model", "Probabilities", "leave out the sigmoid"),
        ("model", "View", r"it raised RuntimeError: view size .*\(line \d+ of test_custom\.py\)"),
        ("model", "InPlace", "it raised RuntimeError: .*modified by an inplace operation"),
        ("model", "Versioned", "_extra_state in its state_dict is no tensor"),
        ("model", "Several", "its list in training is for deep_supervision"),
        ("loss", "Exits", r"it raised SystemExit: 0 \(line \d+ of test_custom\.py\)"),
        ("loss", "Raising", r"it raised AttributeError: .*'gone' \(line \d+ of test_custom\.py\)"),
    ],
)
def test_a_class_that_cannot_learn_is_refused_before_it_is_trained(field, name, reason):
    """And one that can is as it was: the trial leaves no trace in it."""
    spec = f"tests.check.test_custom:{name}"
    with pytest.raises(KitError, match=rf"{name}: .*{reason}.*python -m lib\.check {spec}"):
        build(Config(**{field: spec}, image_size=32))


def test_several_outputs_are_for_deep_supervision():
    spec = "tests.check.test_custom:Supervised"
    assert failed("Supervised") == failed("Several") == []
    for supervised in (False, True):
        build(Config(model=spec, deep_supervision=supervised, image_size=32))


def test_a_trial_leaves_no_trace():
    config = Config(model="tests.check.test_custom:Plain", image_size=32)
    first, second = build(config)[0], build_model(config)
    assert first.training and all(weight.grad is None for weight in first.parameters())
    assert [weight.shape for weight in first.parameters()] == [
        weight.shape for weight in second.parameters()
    ]
    before = torch.random.get_rng_state()
    one, other = (build(config)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_drawn_and_what_is_not_there_is_named():
    before = torch.random.get_rng_state()
    check("lib.unet:UNet")
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(KitError, match="cannot be loaded"):
        check("tests.check.test_custom:Nothing")


def test_a_constructor_that_wants_an_argument_is_named():
    with pytest.raises(KitError, match=r"Wanting: its constructor .*'weight'.*give each a default"):
        build_loss("tests.check.test_custom:Wanting")


def test_a_class_of_a_notebook_is_sent_into_a_file():
    with pytest.raises(
        KitError, match=r"__main__:MyLoss: .*move it into a file .*my_module:MyLoss"
    ):
        build_loss("__main__:MyLoss")


@pytest.mark.parametrize(
    ("spec", "status", "line"),
    [
        ("Plain", 0, "[OK] gives logits"),
        ("Half", 1, "[FAIL] keeps the shape of the slices: expected logits of shape"),
        ("Exits", 1, "[FAIL] runs without an error: it raised SystemExit: 0 (line"),
        ("ExitsAtOnce", 2, "error: code of yours ended Python: it raised SystemExit: 0 (line"),
        ("Nothing", 2, "error: tests.check.test_custom:Nothing: cannot be loaded"),
    ],
)
def test_command_line(spec, status, line):
    done = subprocess.run(
        [sys.executable, "-m", "lib.check", f"tests.check.test_custom:{spec}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert line in done.stdout + done.stderr


@pytest.mark.parametrize("spec", ["lib.metrics:dsc", "lib.transform:Augmentation"])
def test_what_is_neither_network_nor_loss_is_told_where_it_is_tried(spec):
    with pytest.raises(KitError, match=rf"{spec}: is no class .*tried as its run begins"):
        check(spec)
