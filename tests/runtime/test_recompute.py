"""Activation checkpointing changes memory and time, nothing else."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib.runtime import set_recompute, use_fast_bias_gradient
from lib.runtime.recompute import spare_buffers
from lib.unet import UNet
from lib.unet_2plus import UNet2Plus
from lib.unet_3plus import Branch, UNet3Plus
from lib.unet_layers import DoubleConv, Upsample

CASES = [
    (UNet, {}),
    (UNet2Plus, {}),
    (UNet2Plus, {"deep_supervision": True}),
    (UNet2Plus, {"activation": "SiLU"}),
    (UNet3Plus, {}),
    (UNet3Plus, {"deep_supervision": True}),
    (UNet3Plus, {"deep_supervision": True, "guided": True}),
    *(
        (network, {"normalisation": norm, "activation": "LeakyReLU"})
        for network in (UNet, UNet2Plus, UNet3Plus)
        for norm in ("instance", "group", "none")
    ),
]


def tensors(output):
    return (
        [output]
        if isinstance(output, torch.Tensor)
        else [tensor for part in output for tensor in tensors(part)]
    )


def step(
    network: nn.Module, images: torch.Tensor, precision: torch.dtype | None = None
) -> list[torch.Tensor]:
    """Outputs of a training step with its gradients left in the network; dropout is the same each
    time.
    """
    torch.manual_seed(1)
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        outputs = tensors(network(images))
    sum(output.float().square().mean() for output in outputs).backward()
    return outputs


def recomputing(network: nn.Module) -> nn.Module:
    set_recompute(network, True)
    return network


def twins(network, options, size=32, dtype=torch.float32):
    """A network with and without checkpointing, and images for it."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, size, size, dtype=dtype)
    plain = network(init_features=4, **options).to(dtype)
    frugal = recomputing(network(init_features=4, **options).to(dtype))
    frugal.load_state_dict(plain.state_dict())
    return plain, frugal, images


def assert_equal(plain, frugal, outputs, tolerance):
    """Outputs, gradients and buffers, each relative to its own largest number.

    What cancels (the gradient of a bias before batch normalisation) is rounding and nothing else: a
    thousandth of the network's largest number of that kind is the least to compare with."""
    kinds = [
        outputs,
        [[parameter.grad for parameter in network.parameters()] for network in (plain, frugal)],
        [list(network.buffers()) for network in (plain, frugal)],
    ]
    for ours, others in kinds:
        largest = max((one.abs().max().item() for one in ours), default=0)
        for one, other in zip(ours, others, strict=True):
            if one.is_floating_point():
                assert (one - other).abs().max() <= tolerance * max(
                    one.abs().max().item(), 1e-3 * largest
                )
            else:
                assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("network", "options", "layout"),
    [
        *((*case, torch.channels_last) for case in CASES),
        (UNet, {}, torch.contiguous_format),
        (UNet3Plus, {}, torch.contiguous_format),
    ],
)
def test_same_outputs_gradients_and_statistics(network, options, layout):
    plain, frugal, images = twins(network, options)
    plain, frugal, images = (thing.to(memory_format=layout) for thing in (plain, frugal, images))
    for _ in range(2):
        outputs = step(plain, images), step(frugal, images)
    assert_equal(plain, frugal, outputs, 1e-6)
    counted = [
        module.num_batches_tracked.item()
        for module in frugal.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    assert set(counted) <= {2}
    assert bool(counted) == (options.get("normalisation", "batch") == "batch")


@pytest.mark.parametrize("switches", [{}, {"deep_supervision": True, "guided": True}])
def test_the_batch_in_parts(switches, monkeypatch):
    """In double precision, as a single tiny image in float32 goes to another convolution, which
    rounds otherwise.
    """
    monkeypatch.setattr("lib.runtime.recompute.CHUNK_NUMBERS", 1)
    plain, frugal, images = twins(UNet3Plus, switches, dtype=torch.float64)
    assert_equal(plain, frugal, (step(plain, images), step(frugal, images)), 1e-12)


def test_a_branch_in_parts_in_float32(monkeypatch):
    torch.manual_seed(0)
    plain, x = Branch(64, 16, 2), torch.randn(3, 64, 16, 16)
    frugal = recomputing(copy.deepcopy(plain))
    monkeypatch.setattr("lib.runtime.recompute.CHUNK_NUMBERS", 2 * 64 * 64 * 64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = plain(inputs[0]), frugal(inputs[1])
    for output in outputs:
        output.square().sum().backward()
    for one, other in (
        (outputs[0], outputs[1]),
        (inputs[0].grad, inputs[1].grad),
        (plain.conv.weight.grad, frugal.conv.weight.grad),
    ):
        assert (one - other).abs().max() <= 1e-6 * one.abs().max()


@pytest.mark.parametrize(("network", "options"), [CASES[i] for i in (0, 2, 6)])
def test_same_in_bfloat16(network, options):
    plain, frugal, images = twins(network, options)
    assert_equal(
        plain,
        frugal,
        (step(plain, images, torch.bfloat16), step(frugal, images, torch.bfloat16)),
        1e-6,
    )


class Convolutions(TorchDispatchMode):
    """Counts how often a convolution is computed."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (
            torch.ops.aten.convolution.default,
            torch.ops.aten.mkldnn_convolution.default,
        )
        return func(*args, **(kwargs or {}))


def test_no_convolution_is_computed_twice():
    for network in (UNet, UNet2Plus, UNet3Plus):
        net = recomputing(network(init_features=2))
        with Convolutions() as mode:
            step(net, torch.zeros(2, 3, 32, 32).normal_())
        there = sum(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in net.modules())
        assert mode.count == there


def test_without_gradients_nothing_is_kept():
    net = recomputing(UNet3Plus(init_features=2))
    kept = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
        net(torch.randn(2, 3, 32, 32))
    assert not kept
    with torch.inference_mode():
        assert net.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 1, 32, 32)


def test_statistics_survive_an_error_in_backward():
    block = DoubleConv(3, 4)
    own = dict(block.norm1.named_buffers())
    with pytest.raises(ZeroDivisionError), spare_buffers([block]):
        assert block.norm1.running_mean is not own["running_mean"]
        raise ZeroDivisionError
    assert len(own) == 3
    assert all(getattr(block.norm1, name) is buffer for name, buffer in own.items())
    assert list(block.state_dict()) == list(DoubleConv(3, 4).state_dict())


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_enlarging_is_torchs_bilinear(factor, layout):
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    x = [x.clone().requires_grad_() for _ in range(2)]
    ours = Upsample(factor)(x[0])
    torchs = nn.functional.interpolate(
        x[1], scale_factor=factor, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(ours, torchs, atol=2e-6, rtol=1e-6)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (torchs * weights).sum().backward()
    torch.testing.assert_close(x[0].grad, x[1].grad, atol=1e-4, rtol=1e-5)
    assert torch.equal(
        Upsample(factor)(torch.ones(1, 1, 3, 3, dtype=torch.bfloat16)),
        torch.ones(1, 1, 3 * factor, 3 * factor, dtype=torch.bfloat16),
    )


def fast(module: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    use_fast_bias_gradient(module)
    assert type(module) is not nn.ConvTranspose2d
    return module


def test_other_transposed_convolutions_with_a_fast_bias_gradient():
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    options = {"stride": 3, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2}
    plain = nn.ConvTranspose2d(4, 6, 3, **options)
    other = fast(copy.deepcopy(plain))
    assert torch.equal(other(x), plain(x)) and repr(other) == repr(plain)
    assert torch.equal(other(x, [17, 23]), plain(x, [17, 23]))
    assert copy.deepcopy(other)(x).shape == plain(x).shape
    without = nn.ConvTranspose2d(4, 6, 3, bias=False)
    use_fast_bias_gradient(without)
    assert type(without) is nn.ConvTranspose2d


def test_what_follows_a_transposed_convolution_may_work_in_place():
    """As decoders do: an activation in place, or a skip connection that is added."""
    plain = nn.ConvTranspose2d(4, 6, 2, stride=2)
    found = []
    for module in (plain, fast(copy.deepcopy(plain))):
        for shape in ((2, 4, 5, 7), (4, 5, 7)):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
            module.zero_grad()
            features = module(x)
            features += 0.1
            nn.functional.relu_(features).square().sum().backward()
            found.append((features.detach(), x.grad, module.weight.grad, module.bias.grad))
    for theirs, ours in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bf16", [False, True])
def test_transposed_convolution_is_torchs(layout, bf16):
    ours, theirs = (
        fast(nn.ConvTranspose2d(8, 4, 2, stride=2)),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
    )
    theirs.load_state_dict(ours.state_dict())
    out = []
    for module in (ours, theirs):
        x = torch.randn(2, 8, 6, 10, generator=torch.Generator().manual_seed(0)).to(
            memory_format=layout
        )
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = module.to(memory_format=layout)(x)
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        out.append((y, x.grad, module.weight.grad, module.bias.grad))
    assert out[0][0].is_contiguous(memory_format=layout)
    for mine, other in zip(*out, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(
            mine, other, rtol=1e-2 if bf16 else 1e-5, atol=1e-2 if bf16 else 1e-5
        )
    assert torch.equal(out[0][0], out[1][0])


def test_frozen_transposed_convolution():
    module = fast(nn.ConvTranspose2d(4, 2, 2, stride=2)).requires_grad_(False)
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None and module.bias.grad is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(
    ("network", "switches"),
    [
        (UNet2Plus, {"deep_supervision": True}),
        (UNet3Plus, {"deep_supervision": True, "guided": True}),
    ],
)
def test_full_width_needs_at_most_7_gib(network, switches):
    """A whole training step at batch 16, 256x256, bfloat16."""
    model = recomputing(network(init_features=64, **switches))
    use_fast_bias_gradient(model)
    model = model.cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    images = torch.randn(16, 3, 256, 256, device="cuda").to(memory_format=torch.channels_last)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):  # Adam's moments exist from the second step on
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            outputs = tensors(model(images))
        sum(output.float().square().mean() for output in outputs).backward()
        optimizer.step()
    assert torch.cuda.max_memory_allocated() <= 7.0 * 2**30
