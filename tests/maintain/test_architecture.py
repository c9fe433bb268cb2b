"""The drawn networks: blocks and arrows are those of the papers' figures."""

import itertools

import matplotlib.pyplot as plt
import pytest

from lib.config import Config
from maintain.architecture import draw_network, trace

SMALL = {"init_features": 2, "image_size": 32}


def test_unet_is_a_u():
    flow = trace(Config(**SMALL))
    names = (
        [f"encoder{i}" for i in range(1, 5)]
        + ["bottleneck"]
        + [f"decoder{i}" for i in range(4, 0, -1)]
    )
    assert list(flow.shapes) == names
    assert flow.shapes["bottleneck"] == (1, 32, 2, 2)
    skips = {(f"encoder{i}", f"decoder{i}") for i in range(1, 5)}
    assert set(flow.edges) == skips | set(itertools.pairwise(names))


def test_unet_2plus_is_nested():
    flow = trace(Config(model="unet_2plus", **SMALL))
    nodes = {(i, j): f"nodes.x{i}{j}" for i in range(5) for j in range(5 - i)}
    assert set(flow.shapes) == set(nodes.values())
    expected = {(nodes[i - 1, 0], nodes[i, 0]) for i in range(1, 5)}
    for i, j in nodes:
        if j:
            expected |= {(nodes[i, k], nodes[i, j]) for k in range(j)} | {
                (nodes[i + 1, j - 1], nodes[i, j])
            }
    assert set(flow.edges) == expected


def test_every_decoder_of_unet_3plus_sees_every_scale():
    flow = trace(Config(model="unet_3plus", **SMALL))
    for level in range(4):
        sources = {source for source, target in flow.edges if target == f"decoder.{level}"}
        above = {f"encoder.{i}" for i in range(level + 1)} | {"encoder.4"}
        assert sources == above | {f"decoder.{i}" for i in range(level + 1, 4)}


@pytest.mark.parametrize("model", ["unet", "unet_2plus", "unet_3plus"])
def test_drawing(model, tmp_path):
    figure = draw_network(Config(model=model, neighbours=1, **SMALL), batch_size=2)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == len(trace(Config(model=model, **SMALL)).shapes)
    assert "parameters" in figure.axes[0].get_title()
    figure.savefig(tmp_path / "network.png")
    assert not plt.get_fignums()
