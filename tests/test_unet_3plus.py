"""UNet 3+: sizes of the paper, full-scale skip connections, deep supervision, the classification-
guided module.
"""

import pytest
import torch
from torch.nn import functional as F

from lib.config import Config
from lib.networks import build_model
from lib.runtime.cost import count_parameters
from lib.unet_3plus import Presence, UNet3Plus
from lib.unet_layers import EMPTY_LOGIT, Guided


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("switches", "size"),
    [
        ({}, 26_971_777),
        ({"deep_supervision": True}, 26_989_637),
        ({"deep_supervision": True, "guided": True}, 26_991_687),
    ],
)
def test_published_sizes(switches, size):
    with torch.device("meta"):
        assert count_parameters(UNet3Plus(init_features=64, **switches)) == size
        assert (
            count_parameters(build_model(Config(model="unet_3plus", init_features=64, **switches)))
            == size
        )


def test_it_is_the_figure(images):
    """Level 2 (X_De^3 of the paper's figure) written out, with a normalisation per branch as in the
    published code.
    """
    torch.manual_seed(0)
    width, net = 2, UNet3Plus(init_features=2).eval()
    seen = {}
    for name in ("encoder.0", "encoder.1", "encoder.2", "encoder.4", "decoder.3", "decoder.2"):
        net.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: out})
        )
    with torch.no_grad():
        net(images)
        level = net.decoder[2]
        for buffer, value in ((level.norm1.running_mean, 0.1), (level.norm1.running_var, 0.2)):
            buffer.copy_(torch.rand(5 * width) + value)
        net(images)

        def up(x, factor):
            return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

        scales = [
            F.max_pool2d(seen["encoder.0"], 4),
            F.max_pool2d(seen["encoder.1"], 2),
            seen["encoder.2"],
            up(seen["decoder.3"], 2),
            up(seen["encoder.4"], 4),
        ]
        branches = []
        for k, (scale, branch) in enumerate(zip(scales, level.branches, strict=True)):
            part = slice(k * width, (k + 1) * width)
            norm = [
                tensor[part]
                for tensor in (
                    level.norm1.running_mean,
                    level.norm1.running_var,
                    level.norm1.weight,
                    level.norm1.bias,
                )
            ]
            branches.append(F.batch_norm(branch.conv(scale), *norm, training=False).relu())
        expected = level.norm2(level.conv(torch.cat(branches, 1))).relu()
    assert expected.shape == (2, 10, 8, 12)
    torch.testing.assert_close(seen["decoder.2"], expected, atol=1e-5, rtol=1e-5)


def test_width_scales_all_of_it():
    net = UNet3Plus(init_features=4)
    assert [block.conv2.out_channels for block in net.encoder] == [4, 8, 16, 32, 64]
    assert {level.conv.out_channels for level in net.decoder} == {20}
    assert {branch.conv.out_channels for level in net.decoder for branch in level.branches} == {4}


def test_outputs_in_both_modes(images):
    for supervised in (False, True):
        for guided in (False, True):
            net = UNet3Plus(init_features=2, deep_supervision=supervised, guided=guided)
            output = net(images)
            if guided:
                assert isinstance(output, Guided)
                assert output.presence.shape == (2,)
            logits = output.logits if guided else output if supervised else [output]
            assert [part.shape for part in logits] == [(2, 1, 32, 48)] * (5 if supervised else 1)
            assert net.eval()(images).shape == (2, 1, 32, 48)


def test_finest_first(images):
    net = UNet3Plus(init_features=2, deep_supervision=True)
    net(images)[-1].sum().backward()
    used = {
        name.split(".")[0]
        for name, parameter in net.named_parameters()
        if parameter.grad is not None
    }
    assert used == {"encoder", "heads"}, "the last one is the bottleneck's"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_slice_is_empty_and_the_others_untouched(images, dtype):
    torch.manual_seed(0)
    net = UNet3Plus(init_features=2, guided=True).eval().to(dtype)
    net.presence.forward = lambda x: torch.tensor([-0.1, 0.1], dtype=dtype)
    with torch.no_grad():
        gated = net(images.to(dtype))
        net.presence = None
        plain = net(images.to(dtype))
    assert (gated[0] == EMPTY_LOGIT).all()
    assert gated[0].float().sigmoid().max() < 1e-12
    assert torch.equal(gated[1], plain[1])


def test_the_classifier_learns(images):
    torch.manual_seed(0)
    net = UNet3Plus(init_features=2, deep_supervision=True, guided=True)
    presence = net(images).presence
    F.binary_cross_entropy_with_logits(presence, torch.tensor([0.0, 1.0])).backward()
    assert net.presence.conv.weight.grad.abs().sum() > 0
    assert net.encoder[0].conv1.weight.grad.abs().sum() > 0, "and so does the encoder"
    assert net.heads[0].conv.weight.grad is None


def test_train_mode_does_not_gate(images):
    net = UNet3Plus(init_features=2, guided=True)
    with torch.no_grad():
        net.presence.conv.weight.zero_()
        net.presence.conv.bias.copy_(torch.tensor([5.0, -5.0]))
        assert (net(images).presence < 0).all()
        assert (net(images).logits[0] > EMPTY_LOGIT / 2).all()


def test_presence_is_the_logit_of_the_softmax_over_two_classes():
    torch.manual_seed(0)
    module, x = Presence(6).eval(), torch.randn(5, 6, 3, 4)
    classes = F.adaptive_max_pool2d(module.conv(x), 1).flatten(1)
    torch.testing.assert_close(module(x).sigmoid(), classes.softmax(dim=1)[:, 1])
    truth = torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(
        F.binary_cross_entropy_with_logits(module(x), truth.float()),
        F.cross_entropy(classes, truth),
    )


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"40x32.*48x32"):
        UNet3Plus(init_features=2)(torch.zeros(1, 3, 40, 32))
