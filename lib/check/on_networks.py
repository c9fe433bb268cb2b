"""Try the exercises about networks, their predictions and their learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lib.check.exercise import compared, seeded, shaped, unchanged, written
from lib.runtime.trial import Check

IN, SKIP, OUT = 8, 5, 6  # channels, all different


def decoder_step(step: Any) -> Iterator[Check]:
    """Try ``DecoderStep``."""
    module = step(IN, SKIP, OUT)
    x = torch.randn(2, IN, 3, 4, generator=seeded(0))
    skip = torch.randn(2, SKIP, 6, 8, generator=seeded(1))
    value = module(x, skip)
    yield written(value, "the features after the second convolution")
    yield shaped(
        value,
        (2, OUT, 6, 8),
        {
            (
                2,
                OUT,
                3,
                4,
            ): "enlarge x twofold before you concatenate: the skip connection is larger",
            (2, OUT + SKIP, 6, 8): "convolve what you concatenated, to out_channels",
            (2, OUT, 4, 6): "pad the 3x3 convolutions by 1: a mask must be as large as its slice",
            (2, OUT, 2, 4): "pad the 3x3 convolutions by 1: a mask must be as large as its slice",
        },
    )
    parts = list(module.modules())
    ups = [part for part in parts if isinstance(part, nn.ConvTranspose2d)]
    yield Check(
        "enlarges by a transposed convolution",
        len(ups) == 1 and ups[0].kernel_size == ups[0].stride == (2, 2),
        "use one nn.ConvTranspose2d with kernel and stride 2",
    )
    convolutions = [part for part in parts if isinstance(part, nn.Conv2d)]
    yield Check(
        "has two 3x3 convolutions",
        [part.kernel_size for part in convolutions] == [(3, 3)] * 2,
        f"there are {len(convolutions)}, of kernels {[part.kernel_size for part in convolutions]}",
    )
    yield Check(
        "concatenates the skip connection",
        convolutions[0].in_channels == OUT + SKIP,
        f"the first convolution takes {convolutions[0].in_channels} channels, not out_channels + "
        f"skip_channels: a sum would mix what was found with where it was",
    )
    normalisations = sum(isinstance(part, nn.BatchNorm2d) for part in parts)
    yield Check(
        "normalises behind each convolution",
        normalisations == 2,
        f"there are {normalisations} nn.BatchNorm2d",
    )
    yield Check(
        "ends in a ReLU",
        bool((value >= 0).all() and (value == 0).any()),
        "some features are below 0: the last ReLU comes behind the last normalisation",
    )
    module.eval()
    moved = torch.equal(module(x, skip), module(x, skip + 1))
    yield Check("uses the skip connection", not moved, "another skip changes nothing: pass it on")
    module.train()(x, skip).square().sum().backward()
    idle = [name for name, weight in module.named_parameters() if weight.grad is None]
    yield Check(
        "trains all of its parameters",
        not idle,
        f"{', '.join(idle[:3])} is used nowhere in forward",
    )


def _twice(x: Tensor) -> Tensor:
    """Enlarge by repeating rows and columns."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


def nested_node(node: Any) -> Iterator[Check]:
    """Try ``nested_node``: H doubles what it gets, so that its input can be seen."""
    first, second = (torch.randn(1, 2, 4, 4, generator=seeded(number)) for number in (0, 1))
    below = torch.randn(1, 2, 2, 2, generator=seeded(2))
    earlier = [first.clone(), second.clone()]
    value = node(lambda x: 2 * x, _twice, earlier, below)
    yield written(value, "the node, after H")
    large = _twice(below)

    def joined(*parts: Tensor) -> Tensor:
        return 2 * torch.cat(parts, 1)

    mistakes = {
        "take all earlier nodes, not only the last: that is what U-Net++ adds to U-Net": joined(
            second, large
        ),
        "take all earlier nodes, not only the first": joined(first, large),
        "add the node below, enlarged: it brings what the coarser level has found": joined(
            first, second
        ),
        "put the node below behind the earlier nodes: trained weights know the order": joined(
            large, first, second
        ),
        "keep the earlier nodes in their order: trained weights know it": joined(
            second, first, large
        ),
        "apply H to what you have concatenated": joined(first, second, large) / 2,
        "concatenate along the channels instead of adding": 2 * (first + second + large),
    }
    yield compared(
        "joins the right features", value, joined(first, second, large), mistakes, "see the figure"
    )
    alone = node(lambda x: 2 * x, _twice, [first], below)
    yield compared("works for j = 1", alone, joined(first, large), {}, "one earlier node is enough")
    yield Check(
        "leaves its arguments as they are", len(earlier) == 2, "do not append to the list you got"
    )


def flip_average(predict: Any) -> Iterator[Check]:
    """Try ``flip_average`` with a network that knows left from right and top from bottom."""
    ramp = torch.linspace(-1, 2, 6) * torch.linspace(0.5, 1.5, 6)[:, None]

    def network(images: Tensor) -> Tensor:
        return images.sum(1, keepdim=True) * ramp

    images = torch.randn(2, 3, 6, 6, generator=seeded(3))
    given = images.clone()
    value = predict(network, given)
    yield written(value, "the averaged probabilities")
    p = torch.sigmoid(network(images))
    mirrored = torch.sigmoid(network(images.flip(-1)))
    mistakes = {
        "flip the mirror image's probabilities back: they belong to the other side": (p + mirrored)
        / 2,
        "average probabilities, not logits: apply the sigmoid to each first": torch.sigmoid(
            (network(images) + network(images.flip(-1)).flip(-1)) / 2
        ),
        "apply the sigmoid: these are logits": (network(images) + network(images.flip(-1)).flip(-1))
        / 2,
        "flip left to right, the last axis: yours flips top to bottom": (
            p + torch.sigmoid(network(images.flip(-2))).flip(-2)
        )
        / 2,
        "average both: these are those of the slice as it is": p,
        "average both: these are those of the mirror image": mirrored.flip(-1),
        "divide by 2: probabilities are at most 1": p + mirrored.flip(-1),
    }
    yield compared(
        "averages the right probabilities",
        value,
        (p + mirrored.flip(-1)) / 2,
        mistakes,
        "predict both, flip the second back, and average",
    )
    yield unchanged(images, given)


def cosine(schedule: Any) -> Iterator[Check]:
    """Try ``cosine``."""
    value = schedule(5, 20, 0.1)
    yield written(value, "the learning rate")

    def rate(turn: float) -> float:
        return 0.1 * (1 + math.cos(turn)) / 2

    mistakes = {
        "half a cosine, from 0 to pi: yours goes on to 2 pi and comes back": rate(math.pi / 2),
        "add 1 to the cosine: else half of the rates are below 0": 0.1 * math.cos(math.pi / 4) / 2,
        "add 1 to the cosine, and halve the sum": 0.1 * math.cos(math.pi / 4),
        "halve the sum: the first rate is lr": 2 * rate(math.pi / 4),
        "divide by the number of epochs, counted from 0: yours uses one less": rate(
            math.pi * 5 / 19
        ),
        "epochs are counted from 0: yours is one ahead": rate(math.pi * 6 / 20),
        "math.cos takes radians: yours are degrees": rate(180 * 5 / 20),
        "the rate falls: yours climbs": 0.1 * (1 - math.cos(math.pi / 4)) / 2,
        "the phase grows with epoch / epochs, pi times it: pi is missing": rate(5 / 20),
        "multiply by lr": rate(math.pi / 4) / 0.1,
    }
    yield compared(
        "has the right value a quarter through",
        value,
        rate(math.pi / 4),
        mistakes,
        "see the formula",
    )
    for name, epoch, expected in (("starts at lr", 0, 0.1), ("is lr / 2 in the middle", 10, 0.05)):
        yield compared(name, schedule(epoch, 20, 0.1), expected, {}, "see the formula")
    last = schedule(19, 20, 0.1)
    yield Check("is above 0 in the last epoch", last > 0, f"it is {last:.3g}: that epoch is wasted")
