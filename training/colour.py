"""sRGB to CIELAB, differentiable: for losses on colour.

IEC 61966-2-1 for sRGB, CIE 15:2004 for LAB, white point D65 of the 2 degree observer.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Linear sRGB to XYZ.
_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
#: Where LAB's cube root becomes a straight line.
_DELTA = 6.0 / 29.0
#: Luma of sRGB values as they are (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def rgb_to_lab(picture: Tensor) -> Tensor:
    """``N x 3 x H x W`` sRGB on the [0, 1] scale to ``N x 3 x H x W``: L in [0, 100], a and b about [-128, 127].

    Values outside [0, 1] follow the same curves, and every gradient is finite.
    """
    # `where` hands both branches a gradient: the one not taken must be finite too.
    linear = torch.where(picture <= 0.04045, picture / 12.92, ((picture.clamp(min=0.04045) + 0.055) / 1.055).pow(2.4))
    matrix = picture.new_tensor(_XYZ) / picture.new_tensor(_WHITE)[:, None]
    xyz = torch.einsum("ij,njhw->nihw", matrix, linear)
    bent = torch.where(xyz > _DELTA**3, xyz.clamp(min=_DELTA**3).pow(1.0 / 3.0), xyz / (3 * _DELTA**2) + 4.0 / 29.0)
    x, y, z = bent.unbind(1)
    return torch.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], 1)


def luma(picture: Tensor) -> Tensor:
    """``N x 3 x H x W`` to the ``N x 1 x H x W`` weighted mean of its values (ITU-R BT.601), on the same scale."""
    return (picture * picture.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
