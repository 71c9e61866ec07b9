"""Kernel distance of two sets of features (KID)."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

from sdk.errors import UsageError

Array = TypeVar("Array", np.ndarray, Tensor)


def polynomial_mmd(x: np.ndarray, y: np.ndarray, *, paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic polynomial kernel: the KID of two sets of features.

    With ``k(a, b) = (a . b / d + 1)^3``, m features ``x_i`` and n features ``y_j``:

        MMD^2 = 1 / (m (m - 1)) sum_{i != j} k(x_i, x_j) + 1 / (n (n - 1)) sum_{i != j} k(y_i, y_j)
                - 2 / (m n) sum_{i, j} k(x_i, y_j)

    The estimate takes the full sets, not random subsets: no draw decides about it. It is unbiased, so it may be below
    0 when the sets are of one distribution. ``paired``: x_i and y_i were made from one photo, so they are no
    independent draws; the last sum then leaves i = j out and divides by ``n (n - 1)``, which is the U-statistic of the
    pairs.

    Source: Binkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", ICLR 2018, section 4 (kernel, KID);
    Gretton et al., "A kernel two-sample test", JMLR 13, 2012, lemma 6 (both estimates).

    Args:
        x: ``m x d`` features, m >= 2.
        y: ``n x d`` features, n >= 2.
        paired: see above; needs m = n.

    Raises:
        UsageError: fewer than 2 features, or shapes that do not match.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or (paired and len(x) != len(y)):
        raise UsageError(f"cannot compare features of {x.shape} with features of {y.shape}: give sets of one length.")
    if min(len(x), len(y)) < 2:
        raise UsageError(
            f"a kernel distance of {len(x)} and {len(y)} pictures is not defined: give at least 2 of each."
        )
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    cross = cubic(a, b)
    between = mean_off_diagonal(cross) if paired else float(cross.mean())
    return mean_off_diagonal(cubic(a, a)) + mean_off_diagonal(cubic(b, b)) - 2.0 * between


def cubic(a: Array, b: Array) -> Array:
    """``m x d`` and ``n x d`` features to ``m x n`` kernels ``(a . b / d + 1)^3``; a tensor's has a gradient."""
    return (a @ b.T / a.shape[1] + 1.0) ** 3


def mean_off_diagonal(kernel: Array) -> float:
    """Mean of an ``n x n`` kernel of a set with itself, n >= 2, without what pairs a picture with itself."""
    count = len(kernel)
    return float((kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1)))
