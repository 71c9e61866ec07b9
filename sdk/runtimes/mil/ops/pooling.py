"""Pooling over one, two or three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.runtimes.mil.ops.arguments import ints
from sdk.runtimes.mil.ops.convolution import flat_padding, paddings
from sdk.runtimes.mil.ops.table import Operator, row

_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _windows(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], pads: list[tuple[int, int]], *, ceil_mode: bool
) -> list[tuple[int, int]]:
    """Paddings that make a floor-mode pool give the declared number of outputs.

    Ceil mode counts a last, incomplete window unless it would start in the padding (torch's rule and coremltools').
    """
    if not ceil_mode:
        return pads
    grown = []
    for size, extent, step, (before, after) in zip(x.shape[2:], kernel, stride, pads, strict=True):
        count = math.ceil((size + before + after - extent) / step) + 1
        if (count - 1) * step >= size + before:
            count -= 1
        grown.append((before, max(after, (count - 1) * step + extent - size - before)))
    return grown


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    *,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The largest value of each window; padding never wins."""
    spatial = x.dim() - 2
    kernel = ints(kernel_sizes)
    stride = [1] * spatial if strides is None else ints(strides)
    pads = paddings(pad_type, pad, x.shape[2:], kernel, stride)
    pads = _windows(x, kernel, stride, pads, ceil_mode=bool(ceil_mode))
    return _MAXIMUM[spatial](F.pad(x, flat_padding(pads), value=-math.inf), kernel, stride)


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    *,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | bool = False,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The mean of each window. Padding counts as zeros unless excluded; what ceil mode adds beyond it never counts."""
    spatial = x.dim() - 2
    kernel = ints(kernel_sizes)
    stride = [1] * spatial if strides is None else ints(strides)
    pads = paddings(pad_type, pad, x.shape[2:], kernel, stride)
    grown = _windows(x, kernel, stride, pads, ceil_mode=bool(ceil_mode))
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if not bool(exclude_padding_from_average):
        counted = F.pad(counted, flat_padding(pads), value=1.0)
        beyond = [(0, after - before) for (_, before), (_, after) in zip(pads, grown, strict=True)]
        counted = F.pad(counted, flat_padding(beyond))
    else:
        counted = F.pad(counted, flat_padding(grown))
    mean = _AVERAGE[spatial](F.pad(x, flat_padding(grown)), kernel, stride)
    return mean / _AVERAGE[spatial](counted, kernel, stride)


def l2_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    *,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The square root of the sum of squares of each window."""
    spatial = x.dim() - 2
    kernel = ints(kernel_sizes)
    stride = [1] * spatial if strides is None else ints(strides)
    pads = paddings(pad_type, pad, x.shape[2:], kernel, stride)
    padded = F.pad(x, flat_padding(_windows(x, kernel, stride, pads, ceil_mode=bool(ceil_mode))))
    return torch.sqrt(_AVERAGE[spatial](padded * padded, kernel, stride) * math.prod(kernel))


TABLE: dict[str, Operator] = {
    "avg_pool": row(avg_pool),
    "l2_pool": row(l2_pool),
    "max_pool": row(max_pool, exact=True),
}
