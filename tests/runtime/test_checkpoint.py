"""Files of weights: read as data, and only as they were written."""

from __future__ import annotations

import random
import zipfile

import pytest
import torch

from lib.runtime.checkpoint import read_checkpoint, require_finite
from lib.utils import KitError


@pytest.fixture
def file(tmp_path):
    torch.save({"weights": {"a": torch.arange(4096.0)}, "epoch": 3}, tmp_path / "best.pt")
    return tmp_path / "best.pt"


def test_as_it_was_written(file):
    content = read_checkpoint(file)
    assert content["epoch"] == 3 and torch.equal(content["weights"]["a"], torch.arange(4096.0))


def test_no_compressed_file_fills_the_memory(file):
    packed = file.with_name("packed.pt")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(KitError, match=r"packed\.pt: is compressed, which torch never does"):
        read_checkpoint(packed)


def test_no_flipped_bit_is_believed(file):
    """Of the content: names and dates in the directory of the zip carry no weights."""
    whole, moment = file.read_bytes(), random.Random(0)
    believed = 0
    for _ in range(200):
        content = bytearray(whole)
        content[moment.randrange(len(content))] ^= 1 << moment.randrange(8)
        file.write_bytes(content)
        try:
            read = read_checkpoint(file)
        except KitError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error)
            continue
        believed += 1
        assert read["epoch"] == 3 and torch.equal(read["weights"]["a"], torch.arange(4096.0))
    assert believed < 60


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut(file, share):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(KitError, match=str(file)):
        read_checkpoint(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number(file, value):
    with pytest.raises(KitError, match=r"best\.pt: b has a weight that is infinite or not"):
        require_finite(file, {"a": torch.ones(3), "b": torch.tensor([1, value])})
    require_finite(file, {"a": torch.ones(3), "n": torch.tensor(7)})


ODD = {
    "sparse": lambda weight: weight.to_sparse(),
    "8 bits": lambda weight: weight.to(torch.float8_e4m3fn),
    "without content": lambda weight: weight.to("meta"),
}


@pytest.mark.parametrize("kind", ODD)
def test_weights_that_are_no_plain_numbers(file, kind):
    with pytest.raises(KitError, match=r"best\.pt: b is stored as no plain numbers \(torch\.float"):
        require_finite(file, {"a": torch.ones(3), "b": ODD[kind](torch.ones(3, 3))})
