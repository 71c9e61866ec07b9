"""How far a picture is from another: PSNR, SSIM, max-abs, cosine. numpy alone, so that any host can judge.

All pictures are RGB in [0, 1], ``H x W x 3`` (or ``N x H x W x 3`` where said). PSNR and SSIM judge what the eye gets,
so they clip to [0, 1] first; ``max_abs`` judges numbers and clips nothing.
"""

from __future__ import annotations

import functools

import numpy as np

from sdk.errors import UsageError

#: Identical pictures have an infinite PSNR, which neither JSON nor a mean can hold; reports stop here.
PSNR_CAP_DB = 100.0

_WINDOW = 11
_SIGMA = 1.5
_RANGE = 255.0
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
# Outputs along an axis filtered by one matrix product. Small enough for OpenBLAS to stay on one thread (its pool costs
# more than it gives here), large enough to spend the time in BLAS.
_BLOCK = 32


def max_abs(picture: np.ndarray, reference: np.ndarray) -> float:
    """The largest absolute difference of two arrays of one shape, in their own unit; NaN when any value is NaN.

    Raises:
        UsageError: when the shapes differ.
    """
    _same_shape(picture, reference)
    if picture.size == 0:
        return 0.0
    return float(np.abs(np.asarray(picture, np.float64) - np.asarray(reference, np.float64)).max())


def cosine(picture: np.ndarray, reference: np.ndarray) -> float:
    """Cosine similarity of two arrays taken as vectors, ``a . b / (|a| |b|)``, in [-1, 1]; 1.0 when both are all zero.

    It forgives a wrong scale, so it qualifies nothing by itself; it tells a scale error from a wrong picture.

    Raises:
        UsageError: when the shapes differ.
    """
    _same_shape(picture, reference)
    a, b = np.ravel(np.asarray(picture, np.float64)), np.ravel(np.asarray(reference, np.float64))
    norms = float(np.sqrt(a @ a) * np.sqrt(b @ b))
    if norms == 0.0:
        return float(not a.any() and not b.any())
    return float(a @ b) / norms


def psnr_db(picture: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio ``10 log10(1 / MSE)`` in dB, over all pixels and channels, peak 1 (255 in 8 bits).

    At most ``PSNR_CAP_DB`` (identical pictures), NaN when any value is NaN.

    Args:
        picture, reference: arrays of one shape, [0, 1]; clipped to it.

    Raises:
        UsageError: when the shapes differ.
    """
    _same_shape(picture, reference)
    difference = _clipped(picture) - _clipped(reference)
    mse = float(np.mean(difference * difference))
    return PSNR_CAP_DB if mse == 0.0 else min(PSNR_CAP_DB, -10.0 * float(np.log10(mse)))


def ssim(picture: np.ndarray, reference: np.ndarray) -> float:
    """Mean structural similarity of two RGB pictures, in [-1, 1]; NaN when any value is NaN.

    Per channel, with x and y in 0..255 as float64 and a Gaussian window w (11 x 11, sigma 1.5, sum 1):

        mu_x = w * x,  s_xx = w * x^2 - mu_x^2,  s_xy = w * xy - mu_x mu_y
        SSIM = (2 mu_x mu_y + C1)(2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(s_xx + s_yy + C2))
        C1 = (0.01 * 255)^2,  C2 = (0.03 * 255)^2

    averaged over the region where the window lies wholly inside, then over the channels.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
    IEEE TIP 13(4), 2004, equations 13 to 17 and section III.C. scikit-image gives the same with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2``.

    Args:
        picture, reference: ``H x W x 3``, RGB, [0, 1] (clipped to it), H and W at least 11.

    Raises:
        UsageError: when the shapes differ, or a side is shorter than the window.
    """
    _same_shape(picture, reference)
    if picture.ndim != 3 or min(picture.shape[:2]) < _WINDOW:
        raise UsageError(f"SSIM needs H x W x C pictures of at least {_WINDOW} x {_WINDOW}, not {picture.shape}.")
    channels = [
        _channel_ssim(
            np.ascontiguousarray(_clipped(picture[..., channel])) * _RANGE,
            np.ascontiguousarray(_clipped(reference[..., channel])) * _RANGE,
        )
        for channel in range(picture.shape[-1])
    ]
    return float(np.mean(channels))


def gaussian_window() -> np.ndarray:
    """The 11 weights of SSIM's window along one axis: ``exp(-d^2 / (2 * 1.5^2))``, d = -5..5, scaled to sum 1."""
    distance = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(distance**2) / (2 * _SIGMA**2))
    return weights / weights.sum()


def _channel_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of two ``H x W`` float64 channels in 0..255.

    The separable window runs along rows and then along columns, as products with narrow banded matrices: all of that
    arithmetic is in BLAS. A band of rows is worked on at a time, so that everything stays in the cache and no fresh
    pages are asked of the system, which cost more than the arithmetic.
    """
    height, width = x.shape
    out_height, out_width = height - _WINDOW + 1, width - _WINDOW + 1
    maps_scratch = np.empty((_BLOCK + _WINDOW - 1, 4, width))
    means_scratch = np.empty((_BLOCK, 4, out_width))
    total = 0.0
    for top in range(0, out_height, _BLOCK):
        bottom = min(top + _BLOCK, out_height)
        taken = slice(top, bottom + _WINDOW - 1)
        maps = maps_scratch[: taken.stop - top]
        means = means_scratch[: bottom - top]
        # Only the sum of the two second moments is needed, so four maps are filtered and not five.
        maps[:, 0], maps[:, 1] = x[taken], y[taken]
        maps[:, 2] = x[taken] * x[taken] + y[taken] * y[taken]
        maps[:, 3] = x[taken] * y[taken]
        for left in range(0, out_width, _BLOCK):
            right = min(left + _BLOCK, out_width)
            window = maps.reshape(-1, width)[:, left : right + _WINDOW - 1]
            rows = (window @ _band(right - left)).reshape(len(maps), -1)
            means[:, :, left:right] = (_band(bottom - top, transposed=True) @ rows).reshape(bottom - top, 4, -1)
        mu_x, mu_y, moment, cross = means.transpose(1, 0, 2)
        mu_xy = mu_x * mu_y
        mu_squares = mu_x * mu_x + mu_y * mu_y
        similarity = (2 * mu_xy + _C1) * (2 * (cross - mu_xy) + _C2)
        similarity /= (mu_squares + _C1) * (moment - mu_squares + _C2)
        total += float(similarity.sum())
    return total / (out_height * out_width)


@functools.lru_cache(maxsize=64)
def _band(outputs: int, *, transposed: bool = False) -> np.ndarray:
    """``(outputs + 10) x outputs``, C-contiguous (or its transpose): column j holds the window at rows j..j+10."""
    band = np.zeros((outputs + _WINDOW - 1, outputs))
    for column in range(outputs):
        band[column : column + _WINDOW, column] = gaussian_window()
    return np.ascontiguousarray(band.T) if transposed else band


def _clipped(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(picture, np.float64), 0.0, 1.0)


def _same_shape(picture: np.ndarray, reference: np.ndarray) -> None:
    if picture.shape != reference.shape:
        raise UsageError(f"cannot compare a picture of {picture.shape} with one of {reference.shape}.")
