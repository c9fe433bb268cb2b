"""Metrics against counting by hand, medpy, brute force and scipy."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.filter.binary import largest_connected_component
from medpy.metric import binary as medpy
from scipy import stats

from lib.metrics import Counts, counts, dsc, hd95, largest_component, likeliest_component, summarise
from lib.utils import KitError

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)
MASKS = SHAPES.flatmap(lambda shape: hnp.arrays(bool, shape))
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))
EMPTY, FULL = np.zeros((3, 4, 12), np.uint8), np.ones((3, 4, 12), np.uint8)  # diagonal: 13 voxels


def blobs(seed, shape=(5, 12, 14), level=0.62):
    """Random mask with some structure, never empty."""
    noise = np.random.default_rng(seed).random(shape)
    noise = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)) / 3
    return noise > level


def test_by_hand():
    pred, true = np.zeros((2, 1, 2, 5), np.uint8)
    pred[0, 0, :4] = 1
    true[0, 0, 2:] = 1
    true[0, 1, 0] = 1
    assert counts(pred, true) == (2, 2, 2)
    assert dsc(pred, true) == 0.5
    assert counts(pred, true).iou == pytest.approx(1 / 3)
    assert counts(pred, true[:, ::-1]) == (1, 3, 3)


def test_counts_are_plain_exact_integers():
    big = np.ones((20, 300, 300), np.uint8)  # a uint8 sum would wrap around
    c = counts(big, big)
    assert c == (1_800_000, 0, 0)
    assert all(type(n) is int for n in c)


def test_values_above_zero_count_once():
    assert counts(np.full((1, 2, 2), 255, np.uint8), np.ones((1, 2, 2), np.uint8)) == (4, 0, 0)


@pytest.mark.parametrize(
    ("pred", "true", "overlap", "distance"),
    [
        (EMPTY, EMPTY, 1.0, 0.0),
        (FULL, EMPTY, 0.0, 13.0),
        (EMPTY, FULL, 0.0, 13.0),
        (FULL, FULL, 1.0, 0.0),
    ],
)
def test_empty_masks(pred, true, overlap, distance):
    assert dsc(pred, true) == counts(pred, true).iou == overlap
    assert hd95(pred, true) == pytest.approx(distance)


def test_precision_and_recall_of_empty_masks():
    nothing, missed, invented = Counts(0, 0, 0), Counts(0, 0, 7), Counts(0, 7, 0)
    assert (nothing.precision, nothing.recall) == (1, 1)
    assert (missed.precision, missed.recall) == (0, 0)
    assert (invented.precision, invented.recall) == (0, 0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(3, 4, 12\).*\(3, 4, 11\)"):
        dsc(EMPTY, EMPTY[..., 1:])
    with pytest.raises(KitError, match=r"\(3, 4, 12\).*\(3, 4, 11\)"):
        hd95(FULL, FULL[..., 1:])


@pytest.mark.parametrize("score", [dsc, hd95, lambda a, b: largest_component(a)])
@pytest.mark.parametrize("soft", [np.full(FULL.shape, 0.4), np.full(FULL.shape, -3.0, np.float32)])
def test_probabilities_and_logits_are_no_masks(score, soft):
    with pytest.raises(KitError, match=r"expected 0 and 1, got float\d\d from .*> 0\.5"):
        score(soft, FULL)


def test_masks_of_other_types_count_the_same():
    pred, true = blobs(1), blobs(2)
    for cast in (np.float32, np.int64, np.ndarray.tolist, lambda a: torch.from_numpy(a.copy())):
        ours = cast(pred) if callable(cast) and not isinstance(cast, type) else pred.astype(cast)
        assert dsc(ours, true) == dsc(pred, true) and hd95(ours, true) == hd95(pred, true)
    assert dsc(255.0 * pred, true) == dsc(pred, true)
    with pytest.raises(KitError, match="expected an array of 0 and 1, got object"):
        dsc(None, true)
    with pytest.raises(KitError, match="they must agree"):
        likeliest_component(pred, np.zeros((2, 2, 2)))


@pytest.mark.parametrize("seed", range(5))
def test_medpy_agrees(seed):
    pred, true = blobs(seed), blobs(seed + 100)
    c = counts(pred, true)
    assert c.dsc == pytest.approx(medpy.dc(pred, true))
    assert c.iou == pytest.approx(medpy.jc(pred, true))
    assert c.precision == pytest.approx(medpy.precision(pred, true))
    assert c.recall == pytest.approx(medpy.recall(pred, true))


@given(PAIRS)
def test_overlap_properties(pair):
    a, b = pair
    iou = counts(a, b).iou
    assert 0 <= iou <= dsc(a, b) <= 1
    assert dsc(a, b) == dsc(b, a)
    assert dsc(a, a) == 1
    assert dsc(a, b) == pytest.approx(2 * iou / (1 + iou))
    c = counts(a, b)
    assert (c.tp + c.fp, c.tp + c.fn) == (a.sum(), b.sum())
    assert c.precision == counts(b, a).recall


# --- largest component ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_largest_component_is_medpys(seed):
    mask = blobs(seed, level=0.66)
    np.testing.assert_array_equal(largest_component(mask), largest_connected_component(mask))


def test_largest_component_touches_by_faces_in_all_three_directions():
    mask = np.zeros((3, 4, 4), np.uint8)
    mask[0, 0, 0] = mask[1, 0, 0] = mask[2, 0, 0] = 1  # a column through the slices
    mask[0, 1, 1] = mask[0, 2, 2] = mask[0, 3, 3] = mask[1, 2, 3] = (
        1  # four that touch at corners and edges only
    )
    kept = largest_component(mask)
    assert kept.dtype == bool
    np.testing.assert_array_equal(np.argwhere(kept), [[0, 0, 0], [1, 0, 0], [2, 0, 0]])


def test_first_of_equal_components_stays():
    mask = np.array([[[1, 0, 1]]], np.uint8)
    np.testing.assert_array_equal(largest_component(mask), [[[True, False, False]]])


@given(MASKS)
def test_largest_component_properties(mask):
    kept = largest_component(mask)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()
    np.testing.assert_array_equal(largest_component(kept), kept)


# --- surface distance -----------------------------------------------------------------------------


def surface_points(mask):
    """Voxels with at least one of six neighbours outside, found one by one."""
    padded = np.pad(mask, 1)
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    return np.array(
        [
            p
            for p in np.argwhere(mask)
            if not all(padded[tuple(p + 1 + np.array(step))] for step in steps)
        ]
    )


def brute_force_hd95(a, b):
    distances = np.linalg.norm(surface_points(a)[:, None] - surface_points(b)[None], axis=2)
    return max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95))


@pytest.mark.parametrize("seed", range(6))
def test_hd95_is_the_larger_directed_percentile(seed):
    pred, true = blobs(seed), blobs(seed + 50, level=0.7)
    assert hd95(pred, true) == pytest.approx(brute_force_hd95(pred, true))


@settings(max_examples=60)
@given(PAIRS)
def test_hd95_properties(pair):
    a, b = pair
    assert hd95(a, b) == hd95(b, a) >= 0
    assert hd95(a, a) == 0
    if a.any() and b.any():
        assert hd95(a, b) == pytest.approx(brute_force_hd95(a, b))
        assert hd95(a, b) <= medpy.hd(a, b) + 1e-9


def test_hd95_is_not_the_pooled_variant():
    # a large mask and the same with a far speck: the speck is under 5 % of the pool, but all of one
    # direction
    pred, true = np.zeros((2, 1, 40, 40), bool)
    pred[0, :20, :20] = True
    true[0, 0, 0] = True
    assert hd95(pred, true) > 18
    assert hd95(pred, true) == pytest.approx(brute_force_hd95(pred, true))


def test_hd95_of_a_shift_is_the_shift():
    pred, true = np.zeros((2, 3, 20, 20), bool)
    pred[1, 5:10, 5:10] = True
    true[1, 5:10, 8:13] = True
    assert hd95(pred, true) == pytest.approx(3)


def test_hd95_does_not_change_its_input():
    pred, true = blobs(0).astype(np.uint8), blobs(1).astype(np.uint8)
    before = pred.copy(), true.copy()
    hd95(pred, true)
    np.testing.assert_array_equal((pred, true), before)


# --- summary --------------------------------------------------------------------------------------


def test_summary_is_scipys():
    values = np.random.default_rng(3).beta(8, 2, 12)
    summary = summarise(values)
    reference = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=9_999,
        method="BCa",
        confidence_level=0.95,
        rng=np.random.default_rng(99),
    ).confidence_interval
    assert summary.n == 12
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.median == pytest.approx(np.median(values))
    assert summary.sd == pytest.approx(stats.tstd(values))
    assert summary.low == pytest.approx(reference.low, abs=0.01)
    assert summary.high == pytest.approx(reference.high, abs=0.01)
    assert summary.low < summary.mean < summary.high
    assert summarise(values) == summary  # the resamples are always the same


def test_summary_in_words():
    text = str(summarise([0.5, 0.75, 1.0]))
    assert text.startswith("mean 0.750 (95 % CI 0.")
    assert "median 0.750, SD 0.250, 3 patients" in text


@pytest.mark.parametrize("values", [[0.8], [0.8] * 10])
def test_summary_of_nothing_to_resample(values):
    summary = summarise(values)
    assert (summary.mean, summary.low, summary.high) == (0.8, 0.8, 0.8)


@pytest.mark.parametrize(
    "values",
    [
        [0.9] * 9 + [0.9 + 1e-16],
        [0.9] * 9 + [np.nextafter(0.9, 1)],
        [0.0] * 9 + [1.0],
        [0.3, 0.3 + 1e-12],
        [0.2, 0.9],
    ],
)
def test_summary_of_nearly_constant_values_is_finite_and_silent(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = summarise(values)
    assert all(math.isfinite(number) for number in summary)
    assert summary.low <= summary.mean + 1e-12
    assert summary.high >= summary.mean - 1e-12


@settings(max_examples=15, deadline=None)
@example([0.0, 4e-169])  # squares of such differences are 0
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_summary_interval_lies_within_the_values(values):
    summary = summarise(values)
    assert min(values) - 1e-9 <= summary.low <= summary.high <= max(values) + 1e-9
