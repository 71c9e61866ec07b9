"""Ranges: by hand for min-max, against brute force for least squares."""

from __future__ import annotations

import numpy as np
import pytest

from converters.ranges import SAMPLES, Observed, RangeMethod, least_squares, percentile


def _observed(*samples: np.ndarray) -> Observed:
    made = Observed()
    for sample in samples:
        made.add(sample.astype(np.float32))
    return made


def _error(values: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero = np.rint(low / scale)
    return float(np.mean((values - np.clip(np.rint(values / scale), zero, zero + 255) * scale) ** 2))


def test_min_max_covers_everything_seen_and_zero() -> None:
    assert _observed(np.array([1.0, 2.0]), np.array([-3.0])).range(RangeMethod.MIN_MAX) == (-3.0, 2.0)
    assert _observed(np.array([1.0, 2.0])).range(RangeMethod.MIN_MAX) == (0.0, 2.0)
    assert _observed(np.array([-2.0])).range(RangeMethod.MIN_MAX) == (-2.0, 0.0)


def test_min_max_sees_an_extreme_between_the_samples() -> None:
    values = np.zeros(100 * SAMPLES)
    values[12345] = 7.0
    assert _observed(values).range(RangeMethod.MIN_MAX) == (0.0, 7.0)


@pytest.mark.parametrize("method", list(RangeMethod))
def test_limits_cut_what_makes_no_difference(method: RangeMethod) -> None:
    low, high = _observed(np.linspace(-20, 20, 1001)).range(method, limits=(-0.5, 6.5))
    assert low == pytest.approx(-0.5, rel=0.65)
    assert low >= -0.5
    assert high == pytest.approx(6.5, rel=0.1)
    assert high <= 6.5


def test_least_squares_keeps_the_range_of_evenly_spread_values() -> None:
    assert least_squares(np.linspace(-1, 3, 4096), -1.0, 3.0) == (-1.0, 3.0)


def test_least_squares_gives_up_rare_extremes_on_their_own_side_only() -> None:
    values = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 1_000_000), [2.0]])
    low, high = least_squares(values, -1.0, 2.0)
    assert low == pytest.approx(-1.0)
    assert 1.0 <= high < 1.5
    assert _error(values, low, high) < 0.7 * _error(values, -1.0, 2.0)


def test_least_squares_is_as_good_as_trying_every_pair_of_ends() -> None:
    values = np.random.default_rng(1).laplace(size=20_000)
    low, high = float(values.min()), float(values.max())
    found = _error(values, *least_squares(values, low, high))
    shares = np.linspace(1.0, 0.4, 13)
    assert found <= 1.02 * min(_error(values, low * a, high * b) for a in shares for b in shares)


def test_least_squares_keeps_an_extreme_that_is_not_rare() -> None:
    """A dark photo with a white frame: clipping the frame would be seen."""
    values = np.concatenate([np.random.default_rng(0).uniform(0, 0.3, 900), np.full(100, 1.0)])
    assert least_squares(values, 0.0, 1.0)[1] == pytest.approx(1.0)


def test_percentile_by_hand() -> None:
    """The figures -4..5: nine of ten values are at most 4, nine of ten at least -3."""
    values = np.random.default_rng(0).permutation(np.arange(-4, 6))
    assert percentile(values, 0.9) == (-3.0, 4.0)
    assert percentile(values, 0.8) == (-2.0, 3.0)
    assert percentile(values, 1.0) == (-4.0, 5.0)
    assert percentile(np.arange(1, 11), 0.9) == (0.0, 9.0)  # zero is put inside


def test_percentile_gives_up_one_value_in_ten_thousand_at_either_end() -> None:
    values = np.arange(1, SAMPLES + 1, dtype=np.float32) / SAMPLES
    made = _observed(*[values] * 10, np.array([-7.0, 9.0]))
    assert made.range(RangeMethod.MIN_MAX) == (-7.0, 9.0)
    assert made.range(RangeMethod.PERCENTILE) == (0.0, 1.0)  # 20482 values: at most two are beyond each end


def test_constant_and_empty_tensors() -> None:
    for method in RangeMethod:
        assert _observed(np.zeros(5)).range(method) == (0.0, 0.0)
        assert _observed(np.full(5, 2.0)).range(method) == (0.0, pytest.approx(2.0))
    with pytest.raises(ValueError, match="no values"):
        _observed(np.zeros(0)).range(RangeMethod.MIN_MAX)


def test_samples_are_bounded_and_spread_over_the_tensor() -> None:
    made = _observed(np.linspace(0, 1, 200 * SAMPLES))
    (kept,) = made._samples
    assert SAMPLES / 2 <= kept.size <= 2 * SAMPLES
    assert kept.mean() == pytest.approx(0.5, abs=0.01)
