"""Augmentation against scipy, skimage and plain numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.exposure import adjust_gamma
from skimage.transform import resize

from lib.config import Config
from lib.transform import (
    INTENSITY,
    Augmentation,
    _affine_grid,
    change_intensity,
    draw_affine,
    draw_intensity,
    draw_sources,
    substitute,
    warp,
)

# --- where ----------------------------------------------------------------------------------------

IDENTITY = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])


def batch(size=32, seed=0):
    rng = np.random.default_rng(seed)
    images = ndimage.gaussian_filter(rng.normal(size=(2, 3, size, size)), (0, 0, 2, 2)).astype(
        np.float32
    )
    masks = np.zeros((2, 1, size, size), np.float32)
    masks[:, :, size // 4 : size // 2, size // 3 : size // 2] = 1
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
    expected = ndimage.rotate(
        images.numpy(), angle, axes=(3, 2), reshape=False, order=1, mode="constant"
    )
    inside = (
        slice(None),
        slice(None),
        slice(12, 36),
        slice(12, 36),
    )  # away from what comes in at the edges
    np.testing.assert_allclose(warped[inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize("zoom", [0.9, 1.05, 1.25])
def test_zoom_is_a_resize_about_the_centre(zoom):
    size = 80
    new = round(size * zoom)
    images, masks = batch(size)
    warped, warped_masks = warp(images, masks, matrices(zoom=new / size), "zero")
    scaled = resize(
        images.numpy(),
        (2, 3, new, new),
        order=1,
        mode="edge",
        anti_aliasing=False,
        preserve_range=True,
    )
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
    assert torch.equal(images, kept[0]) and torch.equal(
        masks, kept[1]
    )  # the caller's tensors are not written to


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


# --- how bright -----------------------------------------------------------------------------------

BLACK = torch.tensor([-0.7, -0.9, -0.6] * 3).view(1, 9, 1, 1)


def heads(n=4, channels=3, size=24):
    """Z-scored slices: an even background, darker than the disc in the middle."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    inside = y**2 + x**2 < (size / 3) ** 2
    brain = torch.from_numpy(rng.uniform(0, 2.5, (n, channels, size, size)).astype(np.float32))
    return torch.where(
        torch.from_numpy(inside), brain, BLACK[:, :channels].expand_as(brain)
    ), inside


def drawn(n=4, seed=0, **only):
    """Strengths and seeds with these strengths, one or one per sequence, and no other change."""
    strengths, seeds = random_changes(n, seed, 0.0)
    for name, strength in only.items():
        strengths[:, NAMES.index(name)] = torch.as_tensor(strength)
    return strengths, seeds


def random_changes(n, seed, probability):
    """Strengths and seeds as they are drawn."""
    return tuple(map(torch.from_numpy, draw_intensity(np.random.default_rng(seed), n, probability)))


NAMES = list(INTENSITY)
FACTORS = np.array([0.75, 1.1, 1.25], np.float32)


def test_no_change_of_intensity_gives_the_same_bits():
    images, _ = heads()
    assert torch.equal(change_intensity(images.clone(), *random_changes(4, 0, 0.0)), images)


def test_brightness_multiplies():
    images, _ = heads()
    expected = images.numpy() * FACTORS[:, None, None]
    np.testing.assert_array_equal(
        change_intensity(images.clone(), *drawn(brightness=FACTORS)), expected
    )


def test_contrast_is_about_the_mean_and_keeps_the_range():
    images, _ = heads()
    expected = images.numpy().astype(np.float64)
    for i in range(4):
        for c, factor in enumerate(FACTORS):
            plane = expected[i, c]
            expected[i, c] = np.clip(
                (plane - plane.mean()) * factor + plane.mean(), plane.min(), plane.max()
            )
    np.testing.assert_allclose(
        change_intensity(images.clone(), *drawn(contrast=FACTORS)), expected, atol=1e-5
    )


def test_gamma_is_skimages_on_the_range_with_mean_and_sd_restored():
    images, _ = heads()
    expected = images.numpy().astype(np.float64)
    for i in range(4):
        for c, gamma in enumerate((0.7, 1.0, 1.5)):
            plane = expected[i, c]
            bent = adjust_gamma((plane - plane.min()) / np.ptp(plane), gamma)
            expected[i, c] = (bent - bent.mean()) / bent.std() * plane.std() + plane.mean()
    found = change_intensity(images.clone(), *drawn(gamma=np.float32([0.7, 1.0, 1.5])))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], images[:, 1], atol=1e-5)  # a power of 1


def test_noise_has_its_deviation_and_spares_the_background():
    images, inside = heads(n=60)
    noise = (
        change_intensity(images.clone(), *drawn(60, noise=np.float32([0, 0.05, 0.1]))) - images
    ).numpy()
    assert not noise[:, 0].any()
    for channel, deviation in ((1, 0.05), (2, 0.1)):
        values = noise[:, channel, inside]
        assert values.std() == pytest.approx(deviation, rel=0.03)
        assert values.mean() == pytest.approx(0, abs=0.003)
        assert abs(np.corrcoef(values[0], values[1])[0, 1]) < 0.25
        assert not noise[:, channel, ~inside].any()


@pytest.mark.parametrize("padding", ["zero", "background"])
def test_background_stays_even_and_darkest(padding):
    images, _ = heads(n=30)
    masks = torch.zeros(30, 1, 24, 24)
    rng = np.random.default_rng(3)
    warped, _ = warp(images, masks, torch.from_numpy(draw_affine(rng, 30, 0.2, 45.0, 0.5)), padding)
    black = warped <= warped.amin(dim=(2, 3), keepdim=True) + 1e-5
    strengths, _ = random_changes(30, 3, 1.0)
    for name in ("brightness", "contrast", "gamma"):
        changed = change_intensity(
            warped.clone(), *drawn(30, **{name: strengths[:, NAMES.index(name)]})
        )
        darkest = changed.amin(dim=(2, 3), keepdim=True).expand_as(changed)
        torch.testing.assert_close(changed[black], darkest[black], atol=1e-3, rtol=0)
    changed = change_intensity(warped.clone(), *drawn(30, noise=strengths[:, NAMES.index("noise")]))
    assert torch.equal(changed[black], warped[black])


def test_a_black_channel_stays_finite():
    images = torch.zeros(4, 3, 8, 8)
    changed = change_intensity(images, *random_changes(4, 0, 1.0))
    assert torch.equal(changed, torch.zeros(4, 3, 8, 8))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 100), st.floats(0.2, 1))
def test_a_slice_does_not_depend_on_its_batch(order, seed, probability):
    images, _ = heads(channels=9)
    strengths, seeds = random_changes(4, seed, probability)
    together = change_intensity(images.clone(), strengths, seeds)
    shuffled = change_intensity(images[order].clone(), strengths[order], seeds[order])
    torch.testing.assert_close(shuffled, together[order], atol=1e-6, rtol=0)
    alone = torch.cat(
        [
            change_intensity(images[i : i + 1], strengths[i : i + 1], seeds[i : i + 1])
            for i in range(4)
        ]
    )
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)


def test_neighbours_share_their_slices_strengths():
    images, _ = heads()
    stack = images.repeat(1, 3, 1, 1)
    records = drawn(brightness=FACTORS, contrast=FACTORS, gamma=FACTORS)
    changed = change_intensity(stack.clone(), *records)
    for part in changed.split(3, dim=1):
        assert torch.equal(part, change_intensity(images.clone(), *records))


def test_strengths_keep_their_ranges_and_probability():
    n = 20_000
    strengths, seeds = draw_intensity(np.random.default_rng(0), n, 0.15)
    for change, (low, high) in enumerate(INTENSITY.values()):
        spared = np.isnan(strengths[:, change])
        assert (spared.all(axis=1) == spared.any(axis=1)).all()  # all three sequences or none
        assert (~spared[:, 0]).mean() == pytest.approx(0.15, abs=0.01)
        values = strengths[:, change][~spared]
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high + 1e-6
    assert len(np.unique(seeds)) == n
    both = ~np.isnan(strengths[:, [NAMES.index("gamma"), NAMES.index("noise")], 0]).any(axis=1)
    assert both.mean() == pytest.approx(0.15**2, abs=0.005)  # each drawn for itself


def test_the_grid_is_that_of_torch():
    theta = torch.from_numpy(draw_affine(np.random.default_rng(0), 5, 0.2, 30.0, 0.5))
    torch.testing.assert_close(
        _affine_grid(theta, 37), F.affine_grid(theta, [5, 1, 37, 37], align_corners=False)
    )


# --- a missing sequence ---------------------------------------------------------------------------


def test_flair_stands_in_for_what_is_missing():
    images = torch.arange(4.0).reshape(4, 1, 1, 1) * 10 + torch.arange(3.0).reshape(
        1, 3, 1, 1
    ).expand(4, 3, 2, 2)
    sources = torch.tensor([[0, 1, 2], [1, 1, 2], [0, 1, 1], [1, 1, 1]])
    assert substitute(images.clone(), sources)[:, :, 0, 0].tolist() == [
        [0, 1, 2],
        [11, 11, 12],
        [20, 21, 21],
        [31, 31, 31],
    ]


def test_neighbours_miss_what_their_slice_misses():
    images = torch.randn(5, 9, 4, 4)
    sources = torch.from_numpy(draw_sources(np.random.default_rng(4), 5, 0.7))
    changed = substitute(images.clone(), sources)
    for first in (0, 3, 6):
        assert torch.equal(
            changed[:, first : first + 3], substitute(images[:, first : first + 3].clone(), sources)
        )


def test_sequences_are_missing_as_often_as_asked_and_flair_never():
    sources = draw_sources(np.random.default_rng(0), 30_000, 0.3)
    missing = sources != [0, 1, 2]
    assert not missing[:, 1].any()
    assert missing.any(axis=1).mean() == pytest.approx(0.3, abs=0.01)
    for pattern in ([True, False], [False, True], [True, True]):
        assert (missing[:, [0, 2]] == pattern).all(axis=1).mean() == pytest.approx(0.1, abs=0.01)
    assert (sources[missing] == 1).all()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_none_or_all_are_missing(probability):
    sources = draw_sources(np.random.default_rng(1), 50, probability)
    assert ((sources != [0, 1, 2]).any(axis=1) == bool(probability)).all()


# --- all of it ------------------------------------------------------------------------------------


def test_what_is_drawn_is_applied_in_order():
    config = Config(
        scale=0.1, rotation=20.0, padding="background", intensity=0.8, sequence_dropout=0.8
    )
    augmentation = Augmentation(config)
    drawn = augmentation.draw(np.random.default_rng(5), 6)
    images, _ = heads(n=6)
    masks = (images[:, :1] > 1).float()
    expected, expected_masks = warp(images, masks, drawn.theta, "background")
    expected = substitute(change_intensity(expected, drawn.strengths, drawn.seeds), drawn.sources)
    found, found_masks = augmentation.apply(images, masks, drawn)
    assert torch.equal(found, expected) and torch.equal(found_masks, expected_masks)
    half, _ = augmentation.apply(images[2:5], masks[2:5], drawn.of(slice(2, 5)))
    torch.testing.assert_close(half, expected[2:5], atol=1e-6, rtol=0)
