"""Convolution and its transpose over one, two or three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sdk.runtimes.mil.errors import UnsupportedOperatorError
from sdk.runtimes.mil.ops.arguments import ints
from sdk.runtimes.mil.ops.table import Operator, row

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def paddings(
    pad_type: str, pad: Tensor | None, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Elements added before and after each spatial dimension.

    ``same`` makes ``ceil(size / stride)`` outputs and puts an odd element after, ``same_lower`` before; this is the
    rule of coremltools' shape inference (``_utils.aggregated_pad``) and of TensorFlow.

    Args:
        kernel: effective extents, dilation included.
    """
    if pad_type == "custom" and pad is not None:
        flat = ints(pad)
        return list(zip(flat[::2], flat[1::2], strict=True))
    if pad_type in ("same", "same_lower"):
        totals = [
            max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
            for size, extent, stride in zip(sizes, kernel, strides, strict=True)
        ]
        smaller_first = pad_type == "same"
        return [
            (total // 2, total - total // 2) if smaller_first else (total - total // 2, total // 2) for total in totals
        ]
    if pad_type in ("valid", "custom"):
        return [(0, 0)] * len(sizes)
    raise UnsupportedOperatorError([f"padding {pad_type!r}"], "the program")


def flat_padding(pads: Sequence[tuple[int, int]]) -> list[int]:
    """The same paddings as ``torch.nn.functional.pad`` takes them: last dimension first."""
    return [amount for pair in reversed(pads) for amount in pair]


def conv(
    x: Tensor,
    weight: Tensor,
    *,
    pad_type: str = "valid",
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """``x`` N x C_in x D..., ``weight`` C_out x C_in/groups x K..., ``bias`` C_out; gives N x C_out x D'...."""
    spatial = x.dim() - 2
    stride = [1] * spatial if strides is None else ints(strides)
    dilation = [1] * spatial if dilations is None else ints(dilations)
    kernel = [(extent - 1) * step + 1 for extent, step in zip(weight.shape[2:], dilation, strict=True)]
    pads = paddings(pad_type, pad, x.shape[2:], kernel, stride)
    padding = [before for before, _ in pads]
    if any(before != after for before, after in pads):
        x, padding = F.pad(x, flat_padding(pads)), [0] * spatial
    return _CONVOLVE[spatial](x, weight, bias, stride, padding, dilation, int(groups))


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    *,
    pad_type: str = "valid",
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """``x`` N x C_in x D..., ``weight`` C_in x C_out/groups x K...; the full result is cropped by ``pad``.

    ``output_shape`` (all axes) decides the size when given: what lies beyond the full result is zero plus ``bias``.
    """
    spatial = x.dim() - 2
    stride = [1] * spatial if strides is None else ints(strides)
    dilation = [1] * spatial if dilations is None else ints(dilations)
    y = _TRANSPOSE[spatial](x, weight, None, stride, 0, 0, int(groups), dilation)
    full = list(y.shape[2:])
    if output_shape is not None:
        wanted = ints(output_shape)[2:]
    elif pad_type == "same":
        wanted = [size * step for size, step in zip(x.shape[2:], stride, strict=True)]
    else:
        wanted = []
    if pad_type == "custom" and pad is not None:
        flat = ints(pad)
        crops = list(zip(flat[::2], flat[1::2], strict=True))
    elif pad_type == "same":
        crops = [(max(0, have - want) // 2, 0) for have, want in zip(full, wanted, strict=True)]
    else:
        crops = [(0, 0)] * spatial
    wanted = wanted or [have - before - after for have, (before, after) in zip(full, crops, strict=True)]
    y = F.pad(
        y,
        flat_padding(
            [(-before, want + before - have) for have, want, (before, _) in zip(full, wanted, crops, strict=True)]
        ),
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * spatial)


TABLE: dict[str, Operator] = {
    "conv": row(conv),
    "conv_transpose": row(conv_transpose),
}
