"""U-Net++: sizes of the papers, the nested structure, deep supervision, pruning."""

import pytest
import torch
from torch.nn import functional as F

from lib.config import Config
from lib.networks import build_model
from lib.runtime.cost import count_parameters
from lib.runtime.recompute import compute
from lib.unet_2plus import UNet2Plus
from lib.utils import KitError

L1_TO_L4 = [(1, 103_041), (2, 519_105), (3, 2_236_161), (4, 9_163_329)]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def supervised() -> UNet2Plus:
    torch.manual_seed(0)
    return UNet2Plus(init_features=4, deep_supervision=True)


def test_published_sizes():
    with torch.device("meta"):
        assert count_parameters(UNet2Plus()) == 9_163_329
        assert count_parameters(UNet2Plus(deep_supervision=True)) == 9_163_428
        assert (
            count_parameters(build_model(Config(model="unet_2plus", deep_supervision=True)))
            == 9_163_428
        )


@pytest.mark.parametrize(("level", "size"), L1_TO_L4)
def test_sizes_pruned(level, size):
    with torch.device("meta"):
        assert count_parameters(UNet2Plus(deep_supervision=True).prune(level)) == size


def test_it_is_the_figure(images):
    """The forward pass written out, node by node, without the loops."""
    torch.manual_seed(0)
    net = UNet2Plus(init_features=2).eval()

    def node(name, *features):
        block = net.nodes[name]  # without its entry, which joins, pools or enlarges
        return compute(list(block)[1:], torch.cat(features, 1))

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def down(x):
        return F.max_pool2d(x, 2)

    with torch.no_grad():
        x00 = node("x00", images)
        x10 = node("x10", down(x00))
        x20 = node("x20", down(x10))
        x30 = node("x30", down(x20))
        x40 = node("x40", down(x30))
        x01, x11, x21, x31 = (
            node("x01", x00, up(x10)),
            node("x11", x10, up(x20)),
            node("x21", x20, up(x30)),
            node("x31", x30, up(x40)),
        )
        x02, x12, x22 = (
            node("x02", x00, x01, up(x11)),
            node("x12", x10, x11, up(x21)),
            node("x22", x20, x21, up(x31)),
        )
        x03, x13 = node("x03", x00, x01, x02, up(x12)), node("x13", x10, x11, x12, up(x22))
        x04 = node("x04", x00, x01, x02, x03, up(x13))
        torch.testing.assert_close(net(images), net.heads["x04"](x04), atol=1e-5, rtol=1e-5)


def test_a_list_in_train_mode_finest_first(images):
    net = supervised()
    outputs = net(images)
    assert [output.shape for output in outputs] == [(2, 1, 32, 48)] * 4
    outputs[-1].sum().backward()  # X^{0,1} needs two levels and nothing else
    used = {
        name.split(".")[1]
        for name, parameter in net.named_parameters()
        if parameter.grad is not None
    }
    assert used == {"x00", "x10", "x01"}
    assert net.eval()(images).shape == (2, 1, 32, 48)
    assert UNet2Plus(init_features=2)(images).shape == (2, 1, 32, 48)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_pruned_it_gives_what_that_head_gave(images, level):
    net = supervised()
    net(images)  # running statistics that are not those of the beginning
    torch.manual_seed(5)
    full = [head.clone() for head in heads_in_eval_mode(net, images)]
    before = count_parameters(net)
    assert net.prune(level) is net
    assert count_parameters(net) < before
    with torch.no_grad():
        assert torch.equal(net.eval()(images), full[-level])
    assert net.train()(images).shape == (2, 1, 32, 48)


def heads_in_eval_mode(net, images):
    """All heads' logits with the running statistics."""
    net.eval()
    net.training = True  # this module alone decides between list and tensor
    with torch.no_grad():
        return net(images)


def test_pruning_needs_a_trained_head():
    with pytest.raises(KitError, match=r"L2.*deep_supervision"):
        UNet2Plus(init_features=2).prune(2)
    assert UNet2Plus(init_features=2).prune(4).depth == 4
    for level in (0, 5):
        with pytest.raises(KitError, match=f"level {level}"):
            supervised().prune(level)
    with pytest.raises(KitError, match="there are 1 to 2"):
        supervised().prune(2).prune(3)


def test_refusals():
    with pytest.raises(ValueError, match=r"40x32.*48x32"):
        UNet2Plus(init_features=2)(torch.zeros(1, 3, 40, 32))
