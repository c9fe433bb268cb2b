"""Preprocessing against the published algorithm written plainly, its way back, and the augmentation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.exposure import rescale_intensity
from skimage.transform import resize

from lib import kaggle
from lib.transform import Geometry, draw_affine, preprocess, preprocess_mask, warp
from tests.conftest import REAL_DATA, brain

# --- preprocessing ------------------------------------------------------------------------------------------------


def published(volume, mask, size, crop=True):
    """The published preprocessing, step by step on the whole 4-D volume: (S', size, size, 3) and (S', size, size)."""
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
    volume = resize(volume, (slices, size, size, 3), order=2, mode="constant", cval=0, anti_aliasing=False)
    mask = resize(mask * np.uint8(255), (slices, size, size), order=0, mode="constant", cval=0, anti_aliasing=False)
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


@pytest.mark.parametrize(("slices", "height", "width", "size"), [
    (6, 32, 32, 32), (5, 40, 40, 64), (5, 64, 64, 32), (6, 37, 61, 48), (6, 61, 37, 48), (5, 50, 33, 96),
    (3, 45, 46, 23), (2, 40, 31, 32), (1, 31, 40, 32), (4, 96, 96, 256), (4, 100, 100, 16),
])
@pytest.mark.parametrize("mode", ["reference", "native"])
def test_preprocessing_is_the_published_one(slices, height, width, size, mode):
    assert_as_published(*brain(slices + height, slices, height, width), size, mode)


@pytest.mark.parametrize("seed", range(4))
def test_preprocessing_of_a_noisy_background(seed):
    volume, mask = brain(seed, 6, 41, 50)
    noise = np.random.default_rng(seed).integers(0, 30, volume.shape, np.uint8)  # on both sides of 10 % of the maximum
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
    patients = sorted(kaggle.list_patients(REAL_DATA), key=lambda patient: len(patient.numbers))
    volume, mask, _ = kaggle.read_patient(patients[index])
    assert_as_published(volume[8:16], mask[8:16], 128)


# --- the way back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 64), (64, 48, 64), (48, 64, 128), (96, 80, 64)])
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
    """A ramp comes back as a ramp through the same pixel centres: half a pixel would cost a thin tumour its DSC."""
    volume = np.full((5, height, width, 3), 100, np.uint8)
    _, geometry = preprocess(volume, size)
    edge = max(height, width)
    spare = ((edge - height) // 2, (edge - width) // 2)
    for axis, length in ((1, height), (2, width)):
        # the centre of native pixel i lies at (i + spare + 1/2) * size / edge - 1/2 of the network's grid
        ramp = np.broadcast_to(np.expand_dims(np.arange(size, dtype=np.float32), (0, 3 - axis)), (3, size, size))
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
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(4, 40), st.integers(4, 40), st.sampled_from([16, 32, 48]),
       st.sampled_from(["reference", "native"]))
def test_geometry_properties(seed, slices, height, width, size, mode):
    rng = np.random.default_rng(seed)
    volume = (rng.integers(0, 256, (slices, height, width, 3)) * (rng.random((slices, height, width, 1)) < 0.3))
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


# --- augmentation -------------------------------------------------------------------------------------------------

IDENTITY = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])


def batch(size=32, seed=0):
    rng = np.random.default_rng(seed)
    images = ndimage.gaussian_filter(rng.normal(size=(2, 3, size, size)), (0, 0, 2, 2)).astype(np.float32)
    masks = np.zeros((2, 1, size, size), np.float32)
    masks[:, :, size // 4:size // 2, size // 3:size // 2] = 1
    return torch.from_numpy(images * 5), torch.from_numpy(masks)


def matrices(angle=0.0, zoom=1.0, mirror=False):
    """What ``draw_affine`` gives when its draws are certain, for a batch of two."""
    class Certain:
        def uniform(self, low, high, n):
            return np.full(n, zoom if low > 0 else angle)

        def random(self, n):
            return np.full(n, 0.0 if mirror else 1.0)
    return torch.from_numpy(draw_affine(Certain(), 2, scale=0.5, rotation=180.0, flip=0.5))


@pytest.mark.parametrize("padding", ["zero", "background"])
@pytest.mark.parametrize("size", [16, 48, 64, 129])
def test_identity_changes_nothing(padding, size):
    images, masks = batch(size)
    warped, warped_masks = warp(images, masks, IDENTITY.expand(2, 2, 3), padding)
    torch.testing.assert_close(warped, images, atol=1e-4, rtol=0)  # the grid is rounded to float32
    assert torch.equal(warped_masks, masks)
    torch.testing.assert_close(matrices(), IDENTITY.expand(2, 2, 3))


def test_flip_swaps_left_and_right():
    images, masks = batch()
    warped, warped_masks = warp(images, masks, matrices(mirror=True), "zero")
    torch.testing.assert_close(warped, images.flip(3), atol=1e-5, rtol=0)
    assert torch.equal(warped_masks, masks.flip(3))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_exact(quarters):
    images, masks = batch()
    warped, warped_masks = warp(images, masks, matrices(angle=90.0 * quarters), "zero")
    torch.testing.assert_close(warped, torch.rot90(images, quarters, (2, 3)), atol=1e-4, rtol=0)
    assert torch.equal(warped_masks, torch.rot90(masks, quarters, (2, 3)))


@pytest.mark.parametrize("angle", [-14.0, 7.5, 33.0])
def test_rotation_is_scipys(angle):
    images, masks = batch(48)
    warped, _ = warp(images, masks, matrices(angle=angle), "zero")
    expected = ndimage.rotate(images.numpy(), angle, axes=(3, 2), reshape=False, order=1, mode="constant")
    inside = (slice(None), slice(None), slice(12, 36), slice(12, 36))  # away from what comes in at the edges
    np.testing.assert_allclose(warped[inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize("zoom", [0.9, 1.05, 1.25])
def test_zoom_is_a_resize_about_the_centre(zoom):
    size = 80
    new = round(size * zoom)
    images, masks = batch(size)
    warped, warped_masks = warp(images, masks, matrices(zoom=new / size), "zero")
    scaled = resize(images.numpy(), (2, 3, new, new), order=1, mode="edge", anti_aliasing=False, preserve_range=True)
    inset = 10
    inner = slice(inset, size - inset)
    shift = (new - size) / 2
    expected = ndimage.shift(scaled, (0, 0, -shift, -shift), order=1)[..., :size, :size]
    np.testing.assert_allclose(warped[..., inner, inner], expected[..., inner, inner], atol=0.02)
    assert warped_masks.sum().item() == pytest.approx(masks.sum().item() * zoom**2, rel=0.15)


def test_image_and_mask_move_together():
    _, masks = batch(64)
    for i in range(20):
        theta = torch.from_numpy(draw_affine(np.random.default_rng(i), 2, 0.2, 40.0, 0.5))
        as_image, as_mask = warp(masks.expand(2, 3, 64, 64), masks, theta, "zero")
        assert ((as_image[:, :1] > 0.5) != (as_mask > 0.5)).float().mean() < 0.01


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["zero", "background"]))
def test_warp_properties(seed, padding):
    images, masks = batch(24, seed)
    kept = images.clone(), masks.clone()
    theta = torch.from_numpy(draw_affine(np.random.default_rng(seed), 2, 0.3, 45.0, 0.5))
    warped, warped_masks = warp(images, masks, theta, padding)
    assert set(warped_masks.unique().tolist()) <= {0.0, 1.0}
    low, high = (images.amin((2, 3)), images.amax((2, 3)))
    if padding == "zero":
        low, high = low.clamp(max=0), high.clamp(min=0)
    assert (warped.amin((2, 3)) >= low - 1e-4).all()
    assert (warped.amax((2, 3)) <= high + 1e-4).all()
    assert torch.equal(images, kept[0]) and torch.equal(masks, kept[1])  # the caller's tensors are not written to


def test_what_comes_in_from_outside():
    black = torch.tensor([-2.0, -1.0, 0.5]).view(1, 3, 1, 1)
    images = black.repeat(2, 1, 32, 32)
    images[:, :, 8:24, 8:24] += 1
    masks = torch.zeros(2, 1, 32, 32)
    turned = matrices(angle=45.0)
    grey, _ = warp(images, masks, turned, "zero")
    assert (grey[:, :, 0, 0] == 0).all()
    dark, _ = warp(images, masks, turned, "background")
    torch.testing.assert_close(dark[:, :, 0, 0], black[:, :, 0, 0].expand(2, 3))
    torch.testing.assert_close(grey[..., 16, 16], dark[..., 16, 16])


def test_draws_keep_their_ranges_and_fill_them():
    theta = draw_affine(np.random.default_rng(0), 20_000, scale=0.05, rotation=15.0, flip=0.5)
    assert theta.shape == (20_000, 2, 3)
    assert theta.dtype == np.float32
    assert (theta[:, :, 2] == 0).all()  # about the centre
    determinant = np.linalg.det(theta[:, :, :2])
    zoom = 1 / np.sqrt(np.abs(determinant))
    angle = np.rad2deg(np.arctan2(-theta[:, 0, 1], theta[:, 1, 1]))
    assert 0.95 - 1e-6 <= zoom.min() < 0.951
    assert 1.049 < zoom.max() <= 1.05 + 1e-6
    assert -15 - 1e-4 <= angle.min() < -14.9
    assert 14.9 < angle.max() <= 15 + 1e-4
    assert zoom.mean() == pytest.approx(1, abs=0.002)
    assert angle.mean() == pytest.approx(0, abs=0.3)
    assert (determinant < 0).mean() == pytest.approx(0.5, abs=0.02)


def test_nothing_drawn_is_the_identity():
    theta = draw_affine(np.random.default_rng(0), 50, scale=0.0, rotation=0.0, flip=0.0)
    np.testing.assert_array_equal(theta, np.broadcast_to(IDENTITY.numpy(), theta.shape))
    assert (draw_affine(np.random.default_rng(0), 50, 0.1, 10.0, flip=1.0)[:, 0, 0] < 0).all()
