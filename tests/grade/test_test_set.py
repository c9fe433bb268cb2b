"""The instructor's patients, and what is perturbed of them."""

from __future__ import annotations

import numpy as np
import pytest

from lib.grade.test_set import perturb, prepare_exam
from lib.grade.trouble import GraderError
from tests.conftest import brain


def test_perturbed_patients_are_the_same_each_time_and_keep_their_background():
    volume, mask = brain(3, height=40, width=60)
    one, other = (perturb(volume, mask, np.random.default_rng(5)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    moved, truth = one
    assert (moved.shape, moved.dtype, truth.dtype) == (volume.shape, np.uint8, np.uint8)
    assert not np.array_equal(moved, volume)
    assert (
        moved[..., 1][truth > 0].mean()
        > moved[..., 1][(truth == 0) & (moved[..., 1] > 0)].mean() + 50
    )
    assert abs(int((moved[..., 0] == 0).sum()) - int((volume[..., 0] == 0).sum())) < 0.1 * mask.size


def test_a_split_without_anybody_to_score_is_named(tiny_kaggle):
    with pytest.raises(GraderError, match="split 'all': leaves nobody to score"):
        prepare_exam(tiny_kaggle, "all")


def test_copies_that_were_damaged_are_made_anew(tiny_kaggle):
    exam = prepare_exam(tiny_kaggle, "holdout:2")
    files = sorted(file for file in exam.folder.rglob("*.tif"))
    before = {file: file.read_bytes() for file in files}
    content = bytearray(before[files[3]])
    content[-1] ^= 1
    files[3].write_bytes(content)
    files[5].unlink()
    again = prepare_exam(tiny_kaggle, "holdout:2")
    assert {file: file.read_bytes() for file in again.folder.rglob("*.tif")} == before
