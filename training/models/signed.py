"""The customary "normalize 0.5": pictures in [0, 1] to [-1, 1] and back.

Everything in this project hands pictures around in [0, 1]. What is defined on [-1, 1] (a PatchGAN, a network that ends
in a tanh) converts inside, by these two functions.
"""

from __future__ import annotations

from torch import Tensor


def to_signed(picture: Tensor) -> Tensor:
    """``(x - 0.5) / 0.5``: any shape, [0, 1] to [-1, 1]."""
    return picture * 2.0 - 1.0


def from_signed(picture: Tensor) -> Tensor:
    """``0.5 * x + 0.5``: any shape, [-1, 1] to [0, 1]."""
    return picture * 0.5 + 0.5
