"""Metrics against their formulas worked by hand, and against scikit-image."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from sdk.errors import UsageError
from sdk.metrics import PSNR_CAP_DB, cosine, gaussian_window, max_abs, psnr_db, ssim


def pictures(height: int, width: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with edges, and the same with noise; ``H x W x 3`` float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    smooth = np.stack([0.5 + 0.5 * np.sin(x / 9), 0.5 + 0.5 * np.cos(y / 7), (x > width / 2) * 0.8], axis=-1)
    return np.clip(smooth + rng.normal(0, noise, smooth.shape), 0, 1).astype(np.float32), smooth.astype(np.float32)


@pytest.mark.parametrize("size", [(11, 11), (16, 16), (43, 75), (64, 64), (96, 250)])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.4])
def test_ssim_is_scikit_images(size: tuple[int, int], noise: float) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="needs the extra dev")
    noisy, clean = pictures(*size, noise)
    theirs = metrics.structural_similarity(
        noisy.astype(np.float64) * 255,
        clean.astype(np.float64) * 255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
    )
    assert ssim(noisy, clean) == pytest.approx(theirs, abs=1e-12)


def test_ssim_of_two_flat_pictures_is_the_luminance_term_by_hand() -> None:
    # No variance: SSIM = (2 * 255a * 255b + C1) / ((255a)^2 + (255b)^2 + C1), C1 = (0.01 * 255)^2 = 6.5025.
    # a = 0.2 (51), b = 0.6 (153): (15606 + 6.5025) / (2601 + 23409 + 6.5025) = 15612.5025 / 26016.5025.
    a, b = np.full((20, 20, 3), 0.2), np.full((20, 20, 3), 0.6)
    assert ssim(a, b) == pytest.approx(15612.5025 / 26016.5025, abs=1e-9)


def test_ssim_of_one_window_by_hand() -> None:
    # 11 x 11 pixels: one window. x = 0 but for its centre, which is 255; y = 255 - x (its negative).
    # With w = the centre's weight: mu_x = 255 w, mu_y = 255 (1 - w), s_xx = s_yy = 255^2 (w - w^2), s_xy = -s_xx.
    x = np.zeros((11, 11, 3))
    x[5, 5] = 1.0
    w = float(gaussian_window()[5]) ** 2
    mu_x, mu_y, variance = 255 * w, 255 * (1 - w), 255**2 * (w - w * w)
    c1, c2 = 6.5025, 58.5225
    by_hand = ((2 * mu_x * mu_y + c1) * (-2 * variance + c2)) / ((mu_x**2 + mu_y**2 + c1) * (2 * variance + c2))
    assert ssim(x, 1 - x) == pytest.approx(by_hand, abs=1e-9)
    assert by_hand < -0.1


def test_the_window_is_the_papers() -> None:
    window = gaussian_window()
    assert len(window) == 11
    assert window.sum() == pytest.approx(1.0)
    assert window[6] / window[5] == pytest.approx(math.exp(-1 / 4.5))
    np.testing.assert_allclose(window, window[::-1])


def test_ssim_is_one_for_identical_pictures_and_falls_with_noise() -> None:
    values = [ssim(*pictures(48, 48, noise)) for noise in (0.0, 0.02, 0.1, 0.5)]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.3


def test_ssim_judges_the_picture_that_is_seen_so_it_clips() -> None:
    noisy, clean = pictures(32, 32, 0.1)
    assert ssim(noisy * 3 - 1, clean) == ssim(np.clip(noisy * 3 - 1, 0, 1), clean)


def test_ssim_sees_swapped_channels() -> None:
    _, clean = pictures(48, 48, 0.0)
    assert ssim(clean[..., ::-1], clean) < 0.5


def test_ssim_is_not_a_number_when_a_value_is_not() -> None:
    noisy, clean = pictures(32, 32, 0.1)
    noisy[20, 20, 1] = np.nan
    assert math.isnan(ssim(noisy, clean))


def test_ssim_takes_at_most_15_ms_of_a_processor_for_a_256_square() -> None:
    noisy, clean = pictures(256, 256, 0.1)
    ssim(noisy, clean)
    times = []
    for _ in range(10):
        started = time.process_time()
        ssim(noisy, clean)
        times.append(time.process_time() - started)
    assert min(times) <= 0.015


def test_psnr_by_hand() -> None:
    # A difference of 0.1 everywhere: MSE 0.01, 10 log10(1 / 0.01) = 20 dB.
    assert psnr_db(np.full((4, 4, 3), 0.6), np.full((4, 4, 3), 0.5)) == pytest.approx(20.0)
    # One value of 48 off by 0.5: MSE 0.25 / 48, 10 log10(192) = 22.833 dB.
    picture = np.full((4, 4, 3), 0.25)
    picture[0, 0, 0] = 0.75
    assert psnr_db(picture, np.full((4, 4, 3), 0.25)) == pytest.approx(10 * math.log10(192))


def test_psnr_of_identical_pictures_is_the_cap() -> None:
    picture, _ = pictures(16, 16, 0.1)
    assert psnr_db(picture, picture) == PSNR_CAP_DB
    assert psnr_db(picture + 1e-9, picture.astype(np.float64)) == PSNR_CAP_DB


def test_max_abs_is_the_one_worst_value_and_clips_nothing() -> None:
    reference = np.zeros((8, 8, 3), np.float32)
    picture = reference.copy()
    picture[3, 4, 1] = -1.75
    assert max_abs(picture, reference) == 1.75
    picture[0, 0, 0] = np.nan
    assert math.isnan(max_abs(picture, reference))
    assert max_abs(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


def test_max_abs_of_int8_does_not_wrap_around() -> None:
    assert max_abs(np.array([-128], np.int8), np.array([127], np.int8)) == 255


def test_cosine_by_hand() -> None:
    assert cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(1 / math.sqrt(2))
    assert cosine(np.array([1.0, 2.0]), np.array([-2.0, -4.0])) == pytest.approx(-1.0)
    assert cosine(np.array([1.0, 2.0]), np.array([3.0, 6.0])) == pytest.approx(1.0)  # a wrong scale is forgiven
    assert cosine(np.zeros(3), np.zeros(3)) == 1.0
    assert cosine(np.zeros(3), np.ones(3)) == 0.0


@pytest.mark.parametrize("metric", [ssim, psnr_db, max_abs, cosine])
def test_pictures_of_different_shapes_are_refused(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="cannot compare"):
        metric(np.zeros((16, 16, 3)), np.zeros((16, 17, 3)))


def test_ssim_refuses_a_picture_smaller_than_its_window() -> None:
    with pytest.raises(UsageError, match="at least 11 x 11"):
        ssim(np.zeros((10, 64, 3)), np.zeros((10, 64, 3)))
