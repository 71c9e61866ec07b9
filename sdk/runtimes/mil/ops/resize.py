"""Resampling of the last two axes, with MIL's five ways to place the samples.

Along an axis of ``size`` pixels, sample ``i`` of ``count`` is read at (coremltools, ``resize_bilinear``):

=====================  ==============================================
UNALIGN_CORNERS        ``(i + 0.5) size / count - 0.5``  (half-pixel centres; torch's ``align_corners=False``)
STRICT_ALIGN_CORNERS   ``i (size - 1) / (count - 1)``, 0 when ``count`` is 1  (torch's ``align_corners=True``)
ALIGN_CORNERS          the same, but the middle ``(size - 1) / 2`` when ``count`` is 1
DEFAULT                ``i size / count``
OFFSET_CORNERS         ``(i + 0.5) max(1, size - 1) / count``
=====================  ==============================================

clamped to the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.runtimes.mil.errors import UnsupportedOperatorError
from sdk.runtimes.mil.ops.arguments import ints
from sdk.runtimes.mil.ops.table import Operator, row

_Positions = Callable[[Tensor, int, int], Tensor]

_POSITIONS: dict[str, _Positions] = {
    "UNALIGN_CORNERS": lambda i, size, count: (i + 0.5) * size / count - 0.5,
    "STRICT_ALIGN_CORNERS": lambda i, size, count: i * (size - 1) / max(1, count - 1),
    "ALIGN_CORNERS": lambda i, size, count: (
        i * (size - 1) / (count - 1) if count > 1 else torch.full_like(i, (size - 1) / 2)
    ),
    "DEFAULT": lambda i, size, count: i * size / count,
    "OFFSET_CORNERS": lambda i, size, count: (i + 0.5) * max(1, size - 1) / count,
}


def bilinear(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    """``x`` ... x H x W to ... x height x width."""
    if mode == "UNALIGN_CORNERS":  # torch has a fast kernel for the mode that our networks use
        planes = x.reshape(1, -1, *x.shape[-2:])
        y = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)
        return y.reshape(*x.shape[:-2], height, width)
    return _lerp(_lerp(x, -2, height, mode), -1, width, mode)


def _lerp(x: Tensor, axis: int, count: int, mode: str) -> Tensor:
    size = x.shape[axis]
    steps = torch.arange(count, dtype=torch.float64)
    at = _POSITIONS[mode](steps, size, count).clamp(0, size - 1)
    low = at.floor().to(torch.int64)
    share = (at - low).to(x.dtype)
    share = share.reshape(-1, 1) if axis == -2 else share
    below, above = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=size - 1))
    return below + (above - below) * share


def nearest(x: Tensor, height: int, width: int, *, half_pixel: bool) -> Tensor:
    """``floor(i size / count)``, or ``floor((i + 0.5) size / count)`` with half-pixel centres."""
    for axis, count in ((-2, height), (-1, width)):
        steps = torch.arange(count, dtype=torch.float64) + (0.5 if half_pixel else 0.0)
        at = (steps * x.shape[axis] / count).floor().to(torch.int64).clamp(max=x.shape[axis] - 1)
        x = x.index_select(axis, at)
    return x


def _scaled(x: Tensor, factor_height: Tensor | int, factor_width: Tensor | int) -> tuple[int, int]:
    # In the factor's own type, as coremltools' shape inference does: 1.1 is not 1.1 in float32.
    return tuple(
        math.floor(np.asarray(factor) * extent)  # type: ignore[return-value]
        for factor, extent in zip((factor_height, factor_width), x.shape[-2:], strict=True)
    )


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | int = 1,
    scale_factor_width: Tensor | int = 1,
    align_corners: Tensor | bool = True,
    half_pixel_centers: Tensor | bool | None = None,
) -> Tensor:
    """By factors; the factor is recomputed from the (floored) output size, as torch's ``recompute_scale_factor``."""
    aligned = bool(align_corners)
    half_pixel = not aligned if half_pixel_centers is None else bool(half_pixel_centers)
    if aligned and half_pixel:
        # coremltools does not say where such samples lie.
        raise UnsupportedOperatorError(["upsample_bilinear(align_corners and half_pixel_centers)"], "the program")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if half_pixel else "DEFAULT"
    return bilinear(x, *_scaled(x, scale_factor_height, scale_factor_width), mode)


def resize_bilinear(
    x: Tensor,
    target_size_height: Tensor | int = 1,
    target_size_width: Tensor | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    return bilinear(x, int(target_size_height), int(target_size_width), sampling_mode)


def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Tensor | int = 1, scale_factor_width: Tensor | int = 1
) -> Tensor:
    return nearest(x, *_scaled(x, scale_factor_height, scale_factor_width), half_pixel=False)


def resize_nearest_neighbor(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    # coremltools' TensorFlow frontend emits this operator for half_pixel_centers=True, and the upsample one for False.
    return nearest(x, int(target_size_height), int(target_size_width), half_pixel=True)


def resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """iOS 17's resize: the last ``resized_dims`` extents come from ``shape``, a 0 keeps the input's."""
    count = int(resized_dims)
    wanted = ints(shape)[-count:] if count else []
    sizes = list(x.shape[: x.dim() - count]) + [
        want or have for want, have in zip(wanted, x.shape[x.dim() - count :], strict=True)
    ]
    if sizes[:-2] != list(x.shape[:-2]):
        raise UnsupportedOperatorError(["resize(more than two axes)"], "the program")
    if not x.dtype.is_floating_point:
        raise UnsupportedOperatorError(["resize(integers)"], "the program")
    if interpolation_mode == "LINEAR":
        return bilinear(x, sizes[-2], sizes[-1], sampling_mode)
    if any(want % have for want, have in zip(sizes[-2:], x.shape[-2:], strict=True)):
        # Which neighbour is nearest is not specified; for whole factors all readings agree.
        raise UnsupportedOperatorError(["resize(NEAREST_NEIGHBOR, not a whole factor)"], "the program")
    return nearest(x, sizes[-2], sizes[-1], half_pixel=True)


TABLE: dict[str, Operator] = {
    "resize": row(resize),
    "resize_bilinear": row(resize_bilinear),
    "resize_nearest_neighbor": row(resize_nearest_neighbor, exact=True),
    "upsample_bilinear": row(upsample_bilinear),
    "upsample_nearest_neighbor": row(upsample_nearest_neighbor, exact=True),
}
