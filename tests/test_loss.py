"""Losses against MONAI, arithmetic by hand and independent formulas in double precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.losses import DiceCELoss as MonaiDiceBCE
from monai.losses import DiceLoss as MonaiDice
from monai.losses import FocalLoss as MonaiFocal
from monai.losses import TverskyLoss as MonaiTversky
from monai.metrics.regression import compute_ms_ssim
from scipy.signal import convolve2d
from scipy.signal.windows import gaussian

from lib.loss import (
    LOSSES,
    BCELoss,
    DeepSupervisionLoss,
    DiceBCELoss,
    DiceLoss,
    FocalLoss,
    FocalTverskyLoss,
    HybridLoss,
    IOULoss,
    MSSSIMLoss,
    MultiScaleSSIM,
    TverskyLoss,
    build_loss,
)
from lib.unet_layers import EMPTY_LOGIT, Guided
from lib.utils import KitError

CERTAIN = 40.0  # its sigmoid is 1 in float32
OVERLAP = ("DiceLoss", "IOULoss", "TverskyLoss", "FocalTverskyLoss")
BY_PIXEL = (*OVERLAP, "FocalLoss", "BCELoss", "DiceBCELoss")
TO_1E6 = {"atol": 1e-6, "rtol": 0}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 1, 16, 16, generator=generator) * 2
    target = (torch.rand(4, 1, 16, 16, generator=generator) < 0.2).float()
    target[2] = 0  # a slice without tumour: on the whole batch it makes no ratio of its own
    return logits, target


def blob(height, width, count=2):
    """A tumour to each image, the last one's image empty, and logits that half know where it is;
    float64.
    """
    generator = torch.Generator().manual_seed(height)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    target = torch.stack([((x - 0.2 * i) ** 2 + y**2 < 0.3).double() for i in range(count)])[
        :, None
    ]
    target[-1] = 0
    noise = torch.randn(target.shape, generator=generator, dtype=torch.float64)
    return 2 * target - 1 + noise, target


def certain(*values):
    """Logits of a network that is sure: 1 -> tumour, 0 -> none."""
    return (torch.tensor(values, dtype=torch.float32) * 2 - 1).view(1, 1, 1, -1) * CERTAIN


def pixels(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


# --- independent formulas, in double precision ----------------------------------------------------


def index_in_float64(probability, target, false_negatives, false_positives, smooth):
    """Tversky index from its definition, pixel by pixel."""
    overlap = (probability * target).sum()
    missed = ((1 - probability) * target).sum()
    invented = (probability * (1 - target)).sum()
    return (overlap + smooth) / (
        overlap + false_negatives * missed + false_positives * invented + smooth
    )


def cross_entropy(p, t):
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def focal(p, t):
    right = torch.where(t == 1, p, 1 - p)
    return -(torch.where(t == 1, 0.25, 0.75) * (1 - right) ** 2 * right.log()).mean()


def ms_ssim_in_float64(image, other):
    """MS-SSIM of two 2-D arrays with a two-dimensional window, scale after scale."""
    exponents, window = (
        np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]),
        np.outer(*[gaussian(11, 1.5)] * 2),
    )
    used = exponents[: int(math.log2(min(image.shape) / 11)) + 1]
    exponents = used / used.sum() * exponents.sum()
    value = 1.0
    for scale, exponent in enumerate(exponents):
        a, b, aa, bb, ab = (
            convolve2d(x, window / window.sum(), "valid")
            for x in (image, other, image**2, other**2, image * other)
        )
        factor = (2 * (ab - a * b) + 0.0009) / (aa - a * a + bb - b * b + 0.0009)
        if scale == len(exponents) - 1:
            factor *= (2 * a * b + 0.0001) / (a * a + b * b + 0.0001)
        value *= max(factor.mean(), 1e-6) ** exponent
        rows, columns = (edge // 2 for edge in image.shape)
        image, other = (
            x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))
            for x in (image, other)
        )
    return value


REFERENCES = {
    "DiceLoss": lambda p, t: 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1),
    "IOULoss": lambda p, t: 1 - ((p * t).sum() + 1) / (p.sum() + t.sum() - (p * t).sum() + 1),
    "TverskyLoss": lambda p, t: 1 - index_in_float64(p, t, 0.7, 0.3, 1.0),
    "FocalTverskyLoss": lambda p, t: (1 - index_in_float64(p, t, 0.7, 0.3, 1.0)) ** 0.75,
    "BCELoss": cross_entropy,
    "FocalLoss": focal,
    "DiceBCELoss": lambda p, t: REFERENCES["DiceLoss"](p, t) + cross_entropy(p, t),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_value_and_gradient_are_those_of_the_formula(batch, name):
    logits, target = batch
    ours = logits.clone().requires_grad_()
    exact = logits.double().requires_grad_()
    loss, reference = (
        build_loss(name)(ours, target),
        REFERENCES[name](exact.sigmoid(), target.double()),
    )
    assert loss.shape == ()
    assert loss.item() == pytest.approx(reference.item(), abs=1e-6)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad.double(), exact.grad, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("size", [(11, 13), (43, 22), (64, 64), (95, 120), (176, 177)])
def test_ms_ssim_is_that_of_an_independent_computation(size):
    logits, target = blob(*size)
    expected = 1 - np.mean(
        [
            ms_ssim_in_float64(p.numpy(), t.numpy())
            for p, t in zip(logits.sigmoid()[:, 0], target[:, 0], strict=True)
        ]
    )
    assert 0.05 < expected < 0.95, "the comparison is of something"
    assert MSSSIMLoss()(logits, target).item() == pytest.approx(expected, abs=1e-12)
    assert MSSSIMLoss()(logits.float(), target.float()).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    logits, target = blob(9, 8) if name in BY_PIXEL else blob(22, 23)
    assert torch.autograd.gradcheck(build_loss(name), (logits.requires_grad_(), target))


@pytest.mark.parametrize("name", OVERLAP)
def test_gradients_per_image_are_those_of_finite_differences(name):
    logits, target = blob(7, 6, count=3)
    assert torch.autograd.gradcheck(LOSSES[name](per_image=True), (logits.requires_grad_(), target))


# --- MONAI ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_image", [False, True])
def test_dice_is_monais(batch, per_image):
    monai = MonaiDice(sigmoid=True, batch=not per_image, smooth_nr=1, smooth_dr=1)
    torch.testing.assert_close(DiceLoss(per_image)(*batch), monai(*batch), **TO_1E6)


@pytest.mark.parametrize("per_image", [False, True])
def test_iou_is_monais(batch, per_image):
    # MONAI's jaccard doubles the fraction: 1 - (2 TP + 2 s) / (2 (TP + FP + FN) + 2 s) is ours
    monai = MonaiDice(sigmoid=True, batch=not per_image, jaccard=True, smooth_nr=2, smooth_dr=2)
    torch.testing.assert_close(IOULoss(per_image)(*batch), monai(*batch), **TO_1E6)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.3), (0.2, 0.8), (1.0, 1.0)])
def test_tversky_is_monais_with_the_weights_swapped(batch, alpha, beta, per_image):
    monai = MonaiTversky(
        sigmoid=True, batch=not per_image, alpha=beta, beta=alpha, smooth_nr=1, smooth_dr=1
    )
    ours = TverskyLoss(alpha, beta, per_image=per_image)
    torch.testing.assert_close(ours(*batch), monai(*batch), **TO_1E6)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.8), (0.0, 0.5)])
def test_focal_is_monais(batch, gamma, alpha):
    torch.testing.assert_close(
        FocalLoss(gamma, alpha)(*batch), MonaiFocal(gamma=gamma, alpha=alpha)(*batch), **TO_1E6
    )


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("per_image", [False, True])
def test_dice_with_cross_entropy_is_monais(batch, weight, per_image):
    monai = MonaiDiceBCE(
        sigmoid=True, batch=not per_image, smooth_nr=1, smooth_dr=1, lambda_ce=weight
    )
    torch.testing.assert_close(DiceBCELoss(weight, per_image)(*batch), monai(*batch), **TO_1E6)


def test_ms_ssim_is_monais():
    logits, target = blob(180, 208)
    monai = 1 - compute_ms_ssim(logits.sigmoid(), target, spatial_dims=2).mean()
    # MONAI's is always computed in float32, here with a rounding error of 1.3e-6; ours is within
    # 1e-6 of the exact one
    exact = MSSSIMLoss()(logits, target)
    assert monai.item() == pytest.approx(exact.item(), abs=2e-6)
    assert MSSSIMLoss()(logits.float(), target).item() == pytest.approx(exact.item(), abs=1e-6)


# --- by hand --------------------------------------------------------------------------------------


def test_overlap_by_hand():
    logits, target = certain(1, 1, 1, 0, 0, 0), pixels(1, 1, 0, 1, 0, 0)  # TP 2, FP 1, FN 1
    assert DiceLoss()(logits, target).item() == pytest.approx(1 - 5 / 7)
    assert IOULoss()(logits, target).item() == pytest.approx(1 - 3 / 5)
    assert TverskyLoss(0.7, 0.3)(logits, target).item() == pytest.approx(1 - 3 / 4)
    assert TverskyLoss(0.9, 0.3)(logits, target).item() == pytest.approx(1 - 3 / 4.2)
    assert FocalTverskyLoss()(logits, target).item() == pytest.approx(0.25**0.75)


def test_alpha_weighs_what_is_missed_and_beta_what_is_invented():
    missed = certain(1, 0, 0, 0), pixels(1, 1, 1, 0)  # TP 1, FN 2
    invented = certain(1, 1, 1, 0), pixels(1, 0, 0, 0)  # TP 1, FP 2
    for alpha, beta in ((0.7, 0.3), (0.1, 0.9), (1.0, 0.0)):
        loss, power = TverskyLoss(alpha, beta), FocalTverskyLoss(alpha, beta, gamma=2)
        assert loss(*missed).item() == pytest.approx(1 - 2 / (2 + 2 * alpha), abs=1e-6)
        assert loss(*invented).item() == pytest.approx(1 - 2 / (2 + 2 * beta), abs=1e-6)
        assert power(*missed).item() == pytest.approx(
            max(loss(*missed).item(), 1e-6) ** 0.5, abs=1e-6
        )
        assert power(*invented).item() == pytest.approx(
            max(loss(*invented).item(), 1e-6) ** 0.5, abs=1e-6
        )
    assert FocalTverskyLoss()(*missed) > FocalTverskyLoss()(*invented)


def test_dice_and_iou_are_symmetric():
    for loss in (DiceLoss(), IOULoss()):
        assert loss(certain(1, 0, 0), pixels(1, 1, 0)) == loss(certain(1, 1, 0), pixels(1, 0, 0))


def test_pixel_losses_by_hand():
    logits, target = (
        pixels(math.log(3), math.log(3)),
        pixels(1, 0),
    )  # three quarters sure of tumour: right, and wrong
    assert BCELoss()(logits, target).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    right, wrong = 0.25 * 0.25**2 * math.log(4 / 3), 0.75 * 0.75**2 * math.log(4)
    assert FocalLoss()(logits, target).item() == pytest.approx((right + wrong) / 2)
    dice = 1 - (2 * 0.75 + 1) / (1.5 + 1 + 1)
    assert DiceBCELoss(weight=2)(logits, target).item() == pytest.approx(
        dice + math.log(4 / 3) + math.log(4)
    )


def test_alpha_of_the_focal_loss_weighs_tumour():
    for alpha in (0.25, 0.9):
        tumour, rest = (FocalLoss(alpha=alpha)(pixels(0), pixels(value)).item() for value in (1, 0))
        assert tumour / (tumour + rest) == pytest.approx(alpha)


def test_brightness_counts_once_and_at_the_coarsest_scale():
    even, brighter = (
        torch.full((1, 1, 176, 176), value, dtype=torch.float64) for value in (0.2, 0.5)
    )
    luminance = (2 * 0.2 * 0.5 + 1e-4) / (0.2**2 + 0.5**2 + 1e-4)
    assert MultiScaleSSIM()(even, brighter).item() == pytest.approx(luminance**0.1333, abs=1e-12)


@pytest.mark.parametrize(
    ("edge", "scales"), [(11, 1), (21, 1), (22, 2), (64, 3), (96, 4), (175, 4), (176, 5)]
)
def test_small_images_have_fewer_scales(edge, scales):
    weights = MultiScaleSSIM().weights(edge, 600)
    assert len(weights) == scales
    assert sum(weights) == pytest.approx(1.0001), "as published, by rounding"
    assert weights[1:] == pytest.approx(
        [weights[0] * w / 0.0448 for w in MultiScaleSSIM.SCALE_WEIGHTS[1:scales]]
    )


@pytest.mark.parametrize("loss", [MSSSIMLoss(), HybridLoss()])
def test_images_smaller_than_the_window_are_refused(loss):
    with pytest.raises(KitError, match=r"10x40 pixels.*at least 11x11.*176"):
        loss(torch.zeros(1, 1, 10, 40), torch.zeros(1, 1, 10, 40))


def test_hybrid_is_the_sum_of_its_three_parts():
    logits, target = blob(40, 30)
    probability = logits.sigmoid()
    ssim = np.mean(
        [
            ms_ssim_in_float64(p.numpy(), t.numpy())
            for p, t in zip(probability[:, 0], target[:, 0], strict=True)
        ]
    )
    expected = focal(probability, target) + 1 - ssim + REFERENCES["IOULoss"](probability, target)
    torch.testing.assert_close(HybridLoss()(logits, target), expected)
    per_image = torch.stack(
        [HybridLoss()(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    ).mean()
    torch.testing.assert_close(HybridLoss(per_image=True)(logits, target), per_image)


# --- batch and image ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_PIXEL)
def test_sums_run_over_the_whole_batch(batch, name):
    logits, target = batch
    loss = build_loss(name)
    torch.testing.assert_close(
        loss(logits, target), loss(logits.view(1, 1, -1, 16), target.view(1, 1, -1, 16))
    )


@pytest.mark.parametrize("name", [*OVERLAP, "DiceBCELoss"])
def test_per_image_is_the_mean_of_what_each_image_costs(batch, name):
    logits, target = batch
    alone = torch.stack([build_loss(name)(logits[i : i + 1], target[i : i + 1]) for i in range(4)])
    together = LOSSES[name](per_image=True)(logits, target)
    torch.testing.assert_close(together, alone.mean())
    assert (together - build_loss(name)(logits, target)).abs() > 1e-3


def test_one_false_pixel_on_an_empty_slice():
    logits = torch.cat([certain(1, 1, 0, 0), certain(1, 0, 0, 0)])
    target = torch.cat([pixels(1, 1, 0, 0), pixels(0, 0, 0, 0)])
    assert DiceLoss()(logits, target).item() == pytest.approx(1 - 5 / 6)
    assert DiceLoss(per_image=True)(logits, target).item() == pytest.approx((0 + 0.5) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_only_broadcast_are_refused(name):
    with pytest.raises(KitError, match=r"\(3, 1, 16, 16\).*\(3, 16, 16\)"):
        build_loss(name)(torch.zeros(3, 1, 16, 16), torch.zeros(3, 16, 16))


# --- properties -----------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 3), st.just(1), st.integers(1, 5), st.integers(1, 5))
LOGITS = st.floats(-60, 60, width=32)
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=LOGITS),
        hnp.arrays(np.float32, shape, elements=st.sampled_from([0, 1])),
    )
)
LARGE = st.tuples(
    hnp.arrays(np.float32, (2, 1, 22, 22), elements=LOGITS),
    hnp.arrays(np.float32, (2, 1, 22, 22), elements=st.sampled_from([0, 1])),
)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(OVERLAP), st.booleans())
def test_overlap_losses_lie_between_0_and_1(pair, name, per_image):
    assert (
        -1e-6 <= LOSSES[name](per_image=per_image)(*map(torch.from_numpy, pair)).item() <= 1 + 1e-6
    )


@settings(max_examples=25, deadline=None)
@given(LARGE)
def test_ms_ssim_lies_between_0_and_1_with_a_gradient(pair):
    logits, target = map(torch.from_numpy, pair)
    loss = MSSSIMLoss()(logits.requires_grad_(), target)
    loss.backward()
    assert -1e-6 <= loss.item() <= 1
    assert logits.grad.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.sampled_from(BY_PIXEL), st.randoms(use_true_random=False))
def test_the_order_of_pixels_does_not_matter(pair, name, random):
    order = list(range(pair[0].size))
    random.shuffle(order)
    shuffled = [torch.from_numpy(part.reshape(-1)[order].reshape(part.shape)) for part in pair]
    loss = build_loss(name)
    torch.testing.assert_close(
        loss(*shuffled), loss(*map(torch.from_numpy, pair)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_images_and_mirroring_do_not_matter(batch, name):
    loss, order = build_loss(name), torch.tensor([2, 0, 3, 1])
    for change in (lambda x: x[order], lambda x: x.flip(-1), lambda x: x.transpose(-1, -2)):
        torch.testing.assert_close(loss(*map(change, batch)), loss(*batch), atol=1e-6, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_dice_follows_from_iou_without_smoothing(pair):
    logits, target = (torch.from_numpy(part).double() for part in pair)
    target.view(-1)[0] = 1  # 0/0 has no ratio
    dice = 1 - TverskyLoss(0.5, 0.5, smooth=1e-12)(logits, target)
    iou = 1 - TverskyLoss(1, 1, smooth=1e-12)(logits, target)
    torch.testing.assert_close(dice, 2 * iou / (1 + iou), atol=1e-9, rtol=0)


# --- extremes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_extremes_stay_finite(batch, name, dtype):
    mixed, loss = batch[1], build_loss(name)
    for target in (torch.zeros_like(mixed), torch.ones_like(mixed), mixed):
        for value in (0.0, CERTAIN, 1e4, 65504.0):
            for pattern in (
                torch.ones_like(mixed),
                -torch.ones_like(mixed),
                2 * mixed - 1,
                1 - 2 * mixed,
            ):
                logits = (value * pattern).to(dtype).requires_grad_()
                cost = loss(logits, target)
                cost.backward()
                assert cost.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
                assert logits.grad.dtype == dtype
                assert cost.isfinite() and logits.grad.isfinite().all(), (
                    value,
                    pattern.mean(),
                    target.mean(),
                )
                assert cost.item() >= -1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_slice_pulls_every_logit_down(name):
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 24, 24).requires_grad_()
    build_loss(name)(logits, torch.zeros(2, 1, 24, 24)).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad.sum((1, 2, 3)) > 0).all()
    if name in BY_PIXEL:
        assert (logits.grad > 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", ["mixed", "empty", "full"])
def test_perfect_prediction_costs_next_to_nothing(batch, name, target):
    target = {
        "mixed": batch[1],
        "empty": torch.zeros(2, 1, 16, 16),
        "full": torch.ones(2, 1, 16, 16),
    }[target]
    assert build_loss(name)((2 * target - 1) * CERTAIN, target).item() < 1e-4


def test_structure_the_wrong_way_round_has_neither_nan_nor_bonus():
    logits, target = blob(44, 44)
    against = ((1 - 2 * target) * 2).requires_grad_()
    loss = MSSSIMLoss()(against[:1], target[:1])
    loss.backward()
    assert 0.9 < loss.item() < 1
    assert against.grad.isfinite().all()
    assert MSSSIMLoss()(logits[:1], target[:1]) < loss


def test_focal_tversky_at_zero_has_a_gradient_without_nan():
    logits = certain(1, 1, 0, 0).requires_grad_()
    FocalTverskyLoss()(logits, pixels(1, 1, 0, 0)).backward()
    assert logits.grad.isfinite().all()


def test_focal_loss_with_a_root_has_a_gradient_without_nan():
    logits = (certain(1, 0) * 100).requires_grad_()
    FocalLoss(gamma=0.5)(logits, pixels(1, 0)).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_descending_finds_the_target(name):
    target = torch.zeros(2, 1, 24, 24)
    target[0, :, 5:14, 8:20] = 1
    logits = torch.zeros_like(target).requires_grad_()
    optimizer, loss = torch.optim.Adam([logits], 0.3), build_loss(name)
    for _ in range(80):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    assert torch.equal((logits > 0).float(), target)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    logits = torch.zeros(
        16, 1, 256, 256, dtype=dtype
    )  # a million times one half: float16 ends at 65,504
    loss = DiceLoss()(logits, torch.zeros(16, 1, 256, 256))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - 1 / (2**19 + 1), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_cost_what_their_values_cost(batch, name):
    for dtype in (torch.float16, torch.bfloat16):
        logits = batch[0].to(dtype)
        assert build_loss(name)(logits, batch[1]) == build_loss(name)(logits.float(), batch[1])


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(batch, name):
    plain = build_loss(name)(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert build_loss(name)(*batch) == plain


@pytest.mark.parametrize("kind", [bool, torch.uint8, torch.float16])
def test_masks_of_any_kind(batch, kind):
    logits, target = batch
    kind = torch.bool if kind is bool else kind
    for name in LOSSES:
        assert build_loss(name)(logits, target.to(kind)) == build_loss(name)(logits, target)


# --- deep supervision -----------------------------------------------------------------------------


@pytest.fixture
def outputs(batch):
    """Three outputs that half know the target."""
    generator = torch.Generator().manual_seed(5)
    return [
        (batch[1] * 3 + torch.randn(4, 1, 16, 16, generator=generator)).requires_grad_()
        for _ in range(3)
    ]


@pytest.mark.parametrize("name", LOSSES)
def test_one_output_costs_what_the_loss_says(batch, name):
    loss = build_loss(name)
    assert DeepSupervisionLoss(loss)(*batch) == loss(*batch)
    torch.testing.assert_close(DeepSupervisionLoss(loss)([batch[0]] * 3, batch[1]), loss(*batch))


def test_outputs_count_equally(batch, outputs):
    target = batch[1]
    alone = torch.stack([DiceLoss()(logits, target) for logits in outputs])
    torch.testing.assert_close(DeepSupervisionLoss(DiceLoss())(outputs, target), alone.mean())


@pytest.mark.parametrize("name", LOSSES)
def test_guided_slices_without_tumour_are_gated_by_the_truth(batch, outputs, name):
    target, presence = (
        batch[1],
        torch.tensor([2.0, -1.0, 0.5, 0.0], requires_grad=True),
    )  # slice 2 is empty
    loss = DeepSupervisionLoss(build_loss(name))(Guided(outputs, presence), target)
    filled = [
        torch.where(torch.tensor([0, 0, 1, 0]).view(4, 1, 1, 1) == 1, EMPTY_LOGIT, logits)
        for logits in outputs
    ]
    truth = torch.tensor([1.0, 1.0, 0.0, 1.0])
    expected = sum(build_loss(name)(logits, target) for logits in filled) / 3
    expected = expected + cross_entropy(presence.detach().sigmoid(), truth)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(presence.grad, (presence.detach().sigmoid() - truth) / 4)
    for logits in outputs:
        assert (logits.grad[2] == 0).all()
        assert logits.grad[[0, 1, 3]].abs().sum((1, 2, 3)).min() > 0


def test_a_gated_slice_costs_nothing_whatever_is_drawn_on_it():
    target, presence = torch.zeros(2, 1, 16, 16), torch.full((2,), -CERTAIN)
    for name in LOSSES:
        loss = DeepSupervisionLoss(build_loss(name))(
            Guided([torch.full_like(target, CERTAIN)], presence), target
        )
        assert loss.item() < 1e-4, name


def test_the_classifier_alone_tells_slices_apart():
    target = torch.zeros(2, 1, 16, 16)
    target[1, :, 4:8, 4:8] = 1
    presence = torch.zeros(2, requires_grad=True)
    DeepSupervisionLoss(DiceLoss())(Guided([torch.zeros_like(target)], presence), target).backward()
    assert presence.grad[0] > 0 > presence.grad[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_guided_in_half_precision(batch, outputs, dtype):
    logits = [(output.detach() * 1e4).to(dtype).requires_grad_() for output in outputs]
    presence = torch.tensor([6e4, -6e4, 6e4, 0], dtype=dtype, requires_grad=True)
    for name in LOSSES:
        loss = DeepSupervisionLoss(build_loss(name))(Guided(logits, presence), batch[1])
        loss.backward()
        assert loss.isfinite() and loss.dtype == torch.float32
        assert all(tensor.grad.isfinite().all() for tensor in (*logits, presence))


@pytest.mark.parametrize("name", ["DiceLoss", "HybridLoss"])
def test_gradients_of_the_guided_loss_are_those_of_finite_differences(name):
    logits, target = blob(12, 11)
    presence = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    loss = DeepSupervisionLoss(build_loss(name))
    assert torch.autograd.gradcheck(
        lambda one, two, p: loss(Guided([one, two], p), target),
        (logits.requires_grad_(), (logits.detach() / 2).requires_grad_(), presence),
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda full, half: half,
        lambda full, half: [full, half],
        lambda full, half: Guided([full, half], torch.zeros(2)),
    ],
)
def test_outputs_of_another_size_are_refused(wrap):
    full, half = torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 8, 8)
    with pytest.raises(KitError, match=r"\(2, 1, 8, 8\).*\(2, 1, 16, 16\).*full size"):
        DeepSupervisionLoss(DiceLoss())(wrap(full, half), torch.zeros(2, 1, 16, 16))


def test_any_loss_of_ones_own_can_be_supervised_deeply(batch, outputs):
    loss = DeepSupervisionLoss(torch.nn.MSELoss())(outputs, batch[1])
    torch.testing.assert_close(
        loss, torch.stack([(o - batch[1]).square().mean() for o in outputs]).mean()
    )
