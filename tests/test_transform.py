"""Preprocessing against the published algorithm written plainly, and its way back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import rescale_intensity
from skimage.transform import resize

from lib.data import list_patients, read_patient
from lib.transform import Geometry, preprocess, preprocess_mask
from tests.conftest import REAL_DATA, brain

# --- preprocessing --------------------------------------------------------------------------------


def published(volume, mask, size, crop=True):
    """The published preprocessing, step by step on the whole 4-D volume: (S', size, size, 3) and
    (S', size, size).
    """
    if crop and len(volume) > 2:
        volume, mask = volume[1:-1], mask[1:-1]
    volume = volume.copy()
    volume[volume < 0.1 * volume.max()] = 0
    if crop:
        z, y, x, _ = np.nonzero(volume)
        box = tuple(slice(axis.min(), axis.max() + 1) for axis in (z, y, x))
        volume, mask = volume[box], mask[box]
    _, height, width, _ = volume.shape
    short, spare = min(height, width), abs(height - width) / 2
    around = [(0, 0), (0, 0), (0, 0)]
    around[1 if short == height else 2] = (math.floor(spare), math.ceil(spare))
    volume, mask = np.pad(volume, [*around, (0, 0)]), np.pad(mask, around)
    slices = len(volume)
    volume = resize(
        volume, (slices, size, size, 3), order=2, mode="constant", cval=0, anti_aliasing=False
    )
    mask = resize(
        mask * np.uint8(255),
        (slices, size, size),
        order=0,
        mode="constant",
        cval=0,
        anti_aliasing=False,
    )
    low, high = np.percentile(volume, (10, 99))
    volume = rescale_intensity(volume, in_range=(low, high))
    volume = (volume - volume.mean(axis=(0, 1, 2))) / volume.std(axis=(0, 1, 2))
    return volume, (mask > 0).astype(np.uint8)


def assert_as_published(volume, mask, size, mode="reference"):
    images, geometry = preprocess(volume, size, mode)
    expected, expected_mask = published(volume, mask, size, crop=mode == "reference")
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.transpose(0, 2, 3, 1), expected, atol=2e-4)
    found = preprocess_mask(mask, geometry)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected_mask)


@pytest.mark.parametrize(
    ("slices", "height", "width", "size"),
    [
        (6, 32, 32, 32),
        (5, 40, 40, 64),
        (5, 64, 64, 32),
        (6, 37, 61, 48),
        (6, 61, 37, 48),
        (5, 50, 33, 96),
        (3, 45, 46, 23),
        (2, 40, 31, 32),
        (1, 31, 40, 32),
        (4, 96, 96, 256),
        (4, 100, 100, 16),
    ],
)
@pytest.mark.parametrize("mode", ["reference", "native"])
def test_preprocessing_is_the_published_one(slices, height, width, size, mode):
    assert_as_published(*brain(slices + height, slices, height, width), size, mode)


@pytest.mark.parametrize("seed", range(4))
def test_preprocessing_of_a_noisy_background(seed):
    volume, mask = brain(seed, 6, 41, 50)
    noise = np.random.default_rng(seed).integers(
        0, 30, volume.shape, np.uint8
    )  # on both sides of 10 % of the maximum
    assert_as_published(np.maximum(volume, noise), mask, 32)


def test_a_box_without_any_background():
    volume = np.random.default_rng(0).integers(100, 201, (5, 20, 20, 3), np.uint8)
    mask = np.zeros(volume.shape[:3], np.uint8)
    mask[2, 4:9, 4:9] = 1
    assert_as_published(volume, mask, 32)


def test_threshold_is_below_ten_percent_of_the_kept_slices():
    volume = np.zeros((4, 8, 8, 3), np.uint8)
    volume[1:3, 2:6, 2:6] = 100
    volume[1, 0, 0], volume[1, 7, 7] = 9, 10  # 10 is not below 10 %
    volume[0] = volume[3] = 250  # dropped before the maximum is taken
    _, geometry = preprocess(volume, 8)
    assert geometry.box == (1, 3, 2, 8, 2, 8)
    assert preprocess(volume, 8, "native")[1].box == (0, 4, 0, 8, 0, 8)


def test_empty_slices_at_the_ends_are_cropped():
    volume, _ = brain(0, 8)
    volume[:3] = volume[6:] = 0
    images, geometry = preprocess(volume, 32)
    assert geometry.box[:2] == (3, 6)
    assert len(images) == 3


def test_black_volume_is_refused():
    with pytest.raises(ValueError, match="black"):
        preprocess(np.zeros((5, 8, 8, 3), np.uint8), 8)
    volume = np.zeros((5, 8, 8, 3), np.uint8)
    volume[0] = volume[-1] = 200
    with pytest.raises(ValueError, match="black"):
        preprocess(volume, 8)


def test_channels_are_normalised_and_a_constant_one_is_no_nan():
    volume, _ = brain(1, 5, 40, 40)
    volume[..., 2] = 0
    images, _ = preprocess(volume, 32)
    np.testing.assert_allclose(images[:, :2].mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(images[:, :2].std(axis=(0, 2, 3)), 1, atol=1e-4)
    assert (images[:, 2] == 0).all()


def test_input_is_left_alone():
    volume, mask = brain(2)
    before = volume.copy(), mask.copy()
    _, geometry = preprocess(volume, 32)
    preprocess_mask(mask, geometry)
    np.testing.assert_array_equal(volume, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs the Kaggle data")
@pytest.mark.parametrize("index", [0, 71])
def test_real_patients_are_preprocessed_as_published(index):
    patients = sorted(list_patients(REAL_DATA), key=lambda patient: len(patient.numbers))
    volume, mask, _ = read_patient(patients[index])
    assert_as_published(volume[8:16], mask[8:16], 128)


# --- the way back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "size"), [(64, 64, 64), (64, 48, 64), (48, 64, 128), (96, 80, 64)]
)
def test_mask_comes_back_from_the_networks_grid(height, width, size):
    volume, mask = brain(5, 7, height, width)
    images, geometry = preprocess(volume, size)
    restored = geometry.restore(preprocess_mask(mask, geometry))
    assert restored.shape == mask.shape
    assert restored.dtype == np.float32
    kept = mask.copy()
    kept[0] = kept[-1] = 0
    overlap = 2 * (kept * (restored > 0.5)).sum() / (kept.sum() + (restored > 0.5).sum())
    assert overlap > 0.93
    z0, z1, y0, y1, x0, x1 = geometry.box
    restored[z0:z1, y0:y1, x0:x1] = 0
    assert not restored.any()
    assert len(images) == z1 - z0


@pytest.mark.parametrize(("height", "width", "size"), [(60, 44, 32), (44, 61, 64), (60, 44, 128)])
def test_restoring_does_not_shift(height, width, size):
    """A ramp comes back as a ramp through the same pixel centres: half a pixel would cost a thin
    tumour its DSC.
    """
    volume = np.full((5, height, width, 3), 100, np.uint8)
    _, geometry = preprocess(volume, size)
    edge = max(height, width)
    spare = ((edge - height) // 2, (edge - width) // 2)
    for axis, length in ((1, height), (2, width)):
        # the centre of native pixel i lies at (i + spare + 1/2) * size / edge - 1/2 of the
        # network's grid
        ramp = np.broadcast_to(
            np.expand_dims(np.arange(size, dtype=np.float32), (0, 3 - axis)), (3, size, size)
        )
        restored = geometry.restore(ramp)[2]
        profile = restored[:, width // 2] if axis == 1 else restored[height // 2]
        expected = (np.arange(length) + spare[axis - 1] + 0.5) * size / edge - 0.5
        np.testing.assert_allclose(profile, np.clip(expected, 0, size - 1), atol=1e-3)


def test_probabilities_keep_their_range():
    volume, _ = brain(3, 6, 50, 40)
    images, geometry = preprocess(volume, 64)
    probabilities = np.random.default_rng(0).random(images[:, 0].shape, np.float32)
    restored = geometry.restore(probabilities)
    assert -1e-6 <= restored.min() <= restored.max() <= 1 + 1e-6
    z0, z1, y0, y1, x0, x1 = geometry.box
    ones = geometry.restore(np.ones_like(probabilities))[z0:z1, y0:y1, x0:x1]
    np.testing.assert_allclose(ones, 1, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(8, 40))
def test_native_grid_of_the_same_size_is_the_identity(seed, slices, edge):
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 256, (slices, edge, edge, 3), np.uint8)
    volume[0, 0, 0] = 255
    mask = (rng.random((slices, edge, edge)) < 0.3).astype(np.uint8)
    images, geometry = preprocess(volume, edge, "native")
    np.testing.assert_array_equal(preprocess_mask(mask, geometry), mask)
    np.testing.assert_array_equal(geometry.restore(mask) > 0.5, mask)
    assert images.shape == (slices, 3, edge, edge)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, 6),
    st.integers(4, 40),
    st.integers(4, 40),
    st.sampled_from([16, 32, 48]),
    st.sampled_from(["reference", "native"]),
)
def test_geometry_properties(seed, slices, height, width, size, mode):
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 256, (slices, height, width, 3)) * (
        rng.random((slices, height, width, 1)) < 0.3
    )
    volume[slices // 2, height // 2, width // 2] = 255
    images, geometry = preprocess(volume.astype(np.uint8), size, mode)
    z0, z1, y0, y1, x0, x1 = geometry.box
    assert geometry.shape == (slices, height, width)
    assert 0 <= z0 < z1 <= slices
    assert 0 <= y0 < y1 <= height
    assert 0 <= x0 < x1 <= width
    assert images.shape == (z1 - z0, 3, size, size)
    assert np.isfinite(images).all()
    assert Geometry.from_dict(geometry.to_dict()) == geometry
    mask = preprocess_mask(np.ones((slices, height, width), np.uint8), geometry)
    assert set(np.unique(mask)) <= {0, 1}
    assert geometry.restore(mask).shape == (slices, height, width)
