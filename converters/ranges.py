"""From the values a tensor took in calibration to the range its 256 steps cover.

Three methods. Min-max covers everything seen, however rare. Least squares gives up rare extremes where the finer step
for all other values is worth more. Percentile gives up a fixed share at either end, whatever that is worth. What each
comes to on the shipped network is in docs/int8.md. None is a moving average, in which the first or the last photo would
rule.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

#: What all int8 artifacts have in common, for their records.
SCHEME = "symmetric per-channel weights, per-tensor activations, equalized"
#: Values kept of one tensor of one calibration sample, evenly spaced.
SAMPLES = 2048
#: Of the values seen, the share that lies at or below the upper end of a percentile range, and at or above its lower
#: end: 99.99 %, the customary figure (Wu et al. 2020, arXiv:2004.09602, section 4.1 compares it with others).
PERCENTILE_SHARE = 0.9999
#: Steps between the lowest and the highest 8-bit number.
_STEPS = 255
#: What is tried in place of an end of the range, as a share of it.
_SHARES = np.linspace(1.0, 0.4, 13)
_ROUNDS = 2


class RangeMethod(StrEnum):
    """How a tensor's range follows from what calibration saw."""

    #: The range with the least squared rounding and clipping error over the values seen.
    LEAST_SQUARES = "least-squares"
    #: Smallest and largest value seen.
    MIN_MAX = "min-max"
    #: The values that ``PERCENTILE_SHARE`` of what was seen does not go below, or above.
    PERCENTILE = "percentile"


class Observed:
    """What one tensor was seen to hold: its exact extremes, and samples of its values."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self._samples: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Takes in the values of one calibration sample, any shape, float32."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        # An odd stride, so that the samples walk through all columns of a picture.
        self._samples.append(flat[:: max(1, flat.size // SAMPLES) | 1].copy())

    def range(self, method: RangeMethod, *, limits: tuple[float, float] | None = None) -> tuple[float, float]:
        """(low, high) with zero inside.

        Args:
            method: see ``RangeMethod``.
            limits: values beyond them make no difference to what follows.

        Raises:
            ValueError: when nothing was added.
        """
        if not self._samples:
            raise ValueError("no values were seen.")
        low, high = limits or (-np.inf, np.inf)
        ends = (float(np.clip(self.low, low, high)), float(np.clip(self.high, low, high)))
        if method is RangeMethod.MIN_MAX:
            return min(ends[0], 0.0), max(ends[1], 0.0)
        values = np.clip(np.concatenate(self._samples), low, high)
        return percentile(values) if method is RangeMethod.PERCENTILE else least_squares(values, *ends)


def percentile(values: np.ndarray, share: float = PERCENTILE_SHARE) -> tuple[float, float]:
    """The range that leaves out the rarest values, ``1 - share`` of them at either end; zero is put inside.

    The ends are values that occur: the least one that ``share`` of all values do not exceed, and likewise downwards.

    Args:
        values: any shape, not empty.
        share: in (0, 1]; with 1 the range is that of min-max.
    """
    flat = np.asarray(values).reshape(-1)
    high = float(np.quantile(flat, share, method="inverted_cdf"))
    low = -float(np.quantile(-flat, share, method="inverted_cdf"))
    return min(low, 0.0), max(high, 0.0)


def least_squares(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The part of [low, high] whose 8-bit grid comes nearest to ``values`` in the mean square.

    Each end is moved inwards in turn, twice, to the best of thirteen places between its own value and 0.4 of it.

    Args:
        values: any shape.
        low, high: extremes of the values; zero is put inside the range.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 0:
        return low, high
    values = values.reshape(-1).astype(np.float32)
    extremes, ends = (low, high), [low, high]
    least = _squared_error(values, low, high)
    for _ in range(_ROUNDS):
        for end in (0, 1):
            for share in _SHARES[1:] if extremes[end] else ():
                tried = list(ends)
                tried[end] = extremes[end] * float(share)
                error = _squared_error(values, tried[0], tried[1])
                if error < least:
                    least, ends = error, tried
    return ends[0], ends[1]


def _squared_error(values: np.ndarray, low: float, high: float) -> float:
    scale = np.float32((high - low) / _STEPS)
    zero = np.float32(np.rint(low / scale))
    steps = np.clip(np.rint(values / scale), zero, zero + _STEPS)
    error = values - steps * scale
    return float(np.mean(error * error, dtype=np.float64))
