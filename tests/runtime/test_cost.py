"""What a network costs: arithmetic by the book, memory against real training steps."""

import dataclasses

import pytest
import torch

from lib.config import Config
from lib.networks import _forward_flops, build_model, cost_line, largest_batch, summary
from lib.runtime import Machine, pick_precision
from lib.runtime.cost import trace_step
from lib.utils import KitError

GIB = 2**30
FULL = [
    (Config(), 24.1),
    (Config(model="unet_2plus"), 69.0),
    (Config(model="unet_2plus", init_features=64), 275.6),
    (Config(model="unet_3plus", init_features=64), 395.3),
]
SMALL = [
    Config(init_features=4),
    Config(init_features=4, normalisation="instance", activation="GELU"),
    Config(model="unet_2plus", init_features=4, deep_supervision=True, normalisation="group"),
    Config(
        model="unet_3plus", init_features=4, deep_supervision=True, guided=True, activation="SiLU"
    ),
]


@pytest.mark.parametrize(("config", "gflops"), FULL)
def test_arithmetic_at_full_size(config, gflops):
    assert _forward_flops(config, 256) / 1e9 == pytest.approx(gflops, abs=0.1)


def test_arithmetic_by_hand():
    """U-Net of one feature at 16x16; a 3x3 convolution from a to b channels costs 2 * 9 * a * b a
    pixel.
    """
    pixels = [256, 64, 16, 4, 1]
    encoder = sum(
        18 * p * (a * b + b * b)
        for p, a, b in zip(pixels, (3, 1, 2, 4, 8), (1, 2, 4, 8, 16), strict=True)
    )
    decoder = sum(18 * p * (2 * f * f + f * f) for p, f in zip(pixels, (1, 2, 4, 8), strict=False))
    transposed = sum(2 * p * (2 * f) * f for p, f in zip(pixels, (1, 2, 4, 8), strict=False))
    head = 2 * 256
    assert (
        summary(Config(init_features=1), 2, 16, "fp32").gflops * 1e9
        == encoder + decoder + transposed + head
    )


@pytest.mark.parametrize(
    ("config", "checkpointing", "precision"),
    [
        *((config, checkpointing, "bf16") for config in SMALL for checkpointing in (False, True)),
        (SMALL[0], False, "fp32"),
        (SMALL[3], True, "fp32"),
    ],
)
def test_memory_is_that_of_a_real_step(config, checkpointing, precision):
    config = dataclasses.replace(config, checkpointing=checkpointing)
    found = summary(config, 3, 32, precision)
    model = build_model(config).train()
    images = torch.randn(3, 3, 32, 32).to(memory_format=torch.channels_last)
    real = trace_step(model, images, precision)
    assert found.saved_bytes == pytest.approx(real.saved_bytes, rel=0.01)
    assert (found.largest_bytes, found.largest_shape) == real.largest
    assert found.peak_bytes == pytest.approx(real.peak_bytes + 12 * found.parameters, rel=0.02)
    assert found.saved_bytes == pytest.approx(kept_by_hooks(model, images, precision), rel=0.01)


def kept_by_hooks(model, images, precision):
    """Bytes that autograd saves, told apart by where they lie, the network's own left out."""
    own = {
        tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]
    }
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        output = model(images)
    assert output is not None  # alive until here, and with it all that was kept
    return sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize(
    "config",
    [
        Config(model="unet_2plus", init_features=64, deep_supervision=True, checkpointing=True),
        Config(
            model="unet_3plus",
            init_features=64,
            deep_supervision=True,
            guided=True,
            checkpointing=True,
        ),
    ],
)
def test_full_width_on_8_gb(config):
    found = summary(config, 16, 256, "bf16")
    assert found.saved_bytes < 3.5 * GIB
    assert found.largest_bytes < 1 * GIB
    assert found.peak_bytes < 5.5 * GIB
    assert f"{found.parameters:,} parameters" in str(found)
    assert f"keeps {found.saved_bytes / GIB:.2f} GiB" in str(found)
    assert "\n" not in str(found)


def test_the_largest_batch_fits_and_a_larger_one_does_not():
    config, limit = Config(init_features=8, checkpointing=True), 2**28
    size = largest_batch(config, 64, limit, "bf16")
    assert size > 16
    assert 0.85 * limit < summary(config, size, 64, "bf16").peak_bytes < 0.91 * limit
    assert largest_batch(config, 64, 2**18, "bf16") == 0


def test_sizes_come_from_config_and_nothing_is_drawn():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = summary(
        Config(init_features=2, batch_size=3, image_size=32, device="cpu", precision="bf16")
    )
    assert (found.batch_size, found.image_size, found.precision, found.model) == (
        3,
        32,
        "bf16",
        "unet",
    )
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(KitError, match=r"40x40.*48x48"):
        summary(Config(), 2, 40)
    with pytest.raises(KitError, match=r"Config\.precision: 'float32'"):
        summary(Config(), 2, 32, "float32")
    for sizes in ((0, 32), (-1, 32), (2, -32), (2, 0)):
        with pytest.raises(KitError, match="give numbers from 1 on"):
            summary(Config(), *sizes)
    with pytest.raises(KitError, match=r"Config\.precision: 'float32'"):
        largest_batch(Config(), 32, 2**30, "float32")


def test_costs_on_a_device_that_is_elsewhere():
    here, elsewhere = (Config(init_features=2, device=name) for name in ("cpu", "cuda"))
    assert summary(elsewhere, 2, 32, "bf16") == summary(here, 2, 32, "bf16")
    assert largest_batch(elsewhere, 64, 2**30, "bf16") == largest_batch(here, 64, 2**30, "bf16")


def test_sgd_keeps_one_number_a_weight():
    adam, sgd = (
        summary(Config(init_features=2, optimizer=name), 1, 32, "fp32") for name in ("Adam", "SGD")
    )
    assert adam.peak_bytes - sgd.peak_bytes == 4 * adam.parameters


def test_unknown_costs_stop_no_training(monkeypatch):
    """The costs rest on private parts of torch, which its next release may change."""

    def changed(*_, **__):
        raise AttributeError("FakeTensorMode")

    monkeypatch.setattr("lib.networks.summary", changed)
    machine = Machine(torch.device("cpu"), pick_precision(torch.device("cpu"), "fp32"))
    assert "not known with this torch (AttributeError)" in cost_line(Config(), 16, machine)
