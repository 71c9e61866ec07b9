"""Quantized activations (``quantize``, ``dequantize``) and compressed weights (``constexpr_*``).

Affine quantization throughout: ``real = scale * (stored - zero point)``, per tensor or per channel.  The ``constexpr_``
operators have constant inputs only, so they are evaluated once, when the program is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sdk.runtimes.mil.errors import RangeError
from sdk.runtimes.mil.ops.arguments import axis_of, ints
from sdk.runtimes.mil.ops.table import Operator, row

_LIMITS = {"int8": (-128, 127, torch.int8), "uint8": (0, 255, torch.uint8)}


def _along(parameter: Tensor, rank: int, axis: Tensor | int | None) -> Tensor:
    """A vector laid along ``axis`` of a tensor of that rank; a scalar stays one."""
    if parameter.dim() == 0:
        return parameter
    shape = [1] * rank
    shape[axis_of(0 if axis is None else axis, rank)] = -1
    return parameter.reshape(shape)


def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """``clip(round(input / scale) + zero_point)``; halves go to the even neighbour, infinities to the ends.

    Raises:
        RangeError: for NaN, which no integer stands for.
    """
    low, high, stored = _LIMITS[output_dtype]
    steps = torch.div(input, _along(scale, input.dim(), axis)).round_()
    if zero_point is not None:
        steps = steps.add_(_along(zero_point, input.dim(), axis).to(steps.dtype))
    if bool(steps.amin().isnan()):  # amin hands NaN on
        raise RangeError(f"it was given NaN, which {output_dtype} cannot hold: an operator before it overflowed.")
    return steps.clamp_(low, high).to(stored)


def dequantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """``scale * (input - zero_point)``."""
    steps = input.to(scale.dtype)  # a new tensor, so the rest can be done in place
    if zero_point is not None:
        steps = steps.sub_(_along(zero_point, input.dim(), axis).to(scale.dtype))
    return steps.mul_(_along(scale, input.dim(), axis))


def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """``scale * (data - offset)``, where each element of ``scale`` and ``offset`` serves one block of ``data``."""
    shifted = data.to(scale.dtype)
    if offset is not None:
        shifted = shifted - _blocks(offset.to(scale.dtype), data.shape)
    return shifted * _blocks(scale, data.shape)


def _blocks(parameter: Tensor, shape: Sequence[int]) -> Tensor:
    for axis, extent in enumerate(shape):
        parameter = parameter.repeat_interleave(extent // parameter.shape[axis], dim=axis)
    return parameter


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """A palette looked up.

    iOS 16: ``indices`` are packed into bytes, lowest bit first, one palette, ``shape`` is the result's. iOS 18: indices
    have the result's shape and ``lut`` is ``groups... x palette x vector``: one palette per block of the result, whose
    entries are vectors laid along ``vector_axis``.
    """
    if shape is not None:
        extents = ints(shape)
        bits = int(lut.numel()).bit_length() - 1
        return lut[_unpack(indices, bits, int(np.prod(extents)))].reshape(extents)
    groups, (entries, vector) = lut.shape[:-2], lut.shape[-2:]
    group = torch.zeros((1,) * indices.dim(), dtype=torch.int64)
    for axis, (extent, count) in enumerate(zip(indices.shape, groups, strict=True)):
        block = torch.arange(extent) // (extent // count)
        group = group * count + block.reshape([-1 if other == axis else 1 for other in range(indices.dim())])
    taken = lut.reshape(-1, entries, vector)[group.expand(indices.shape), indices.to(torch.int64)]
    if vector == 1 or vector_axis is None:
        return taken.squeeze(-1)
    where = axis_of(vector_axis, indices.dim())
    return taken.movedim(-1, where + 1).flatten(where, where + 1)


def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None) -> Tensor:
    """Values put where ``mask`` is set, 0 elsewhere. iOS 16: the mask is packed and ``shape`` is the result's."""
    if shape is not None:
        extents = ints(shape)
        mask = _unpack(mask, 1, int(np.prod(extents))).reshape(extents)
    dense = torch.zeros(tuple(mask.shape), dtype=nonzero_data.dtype)
    dense[mask.to(torch.bool)] = nonzero_data
    return dense


def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``constexpr_lut_to_dense`` on the values of a sparse tensor; gives its mask and its values."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    dense = constexpr_lut_to_dense(indices, lut, vector_axis=vector_axis)
    mask = indices_mask
    if dense.shape != mask.shape and vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], dim=axis_of(vector_axis, mask.dim()))
    return mask, dense[mask.to(torch.bool)]


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``constexpr_blockwise_shift_scale`` on the values of a sparse tensor; gives its mask and its values."""
    dense = constexpr_blockwise_shift_scale(constexpr_sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask.to(torch.bool)]


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    del output_dtype  # the declared type says the same
    return source_val


def _unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """``count`` unsigned integers of ``bits`` bits each, packed lowest bit first across byte borders."""
    stream = np.unpackbits(packed.to(torch.uint8).numpy(), bitorder="little")[: count * bits]
    return torch.from_numpy(stream.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits)))


TABLE: dict[str, Operator] = {
    "constexpr_affine_dequantize": row(constexpr_affine_dequantize),
    "constexpr_blockwise_shift_scale": row(constexpr_blockwise_shift_scale),
    "constexpr_cast": row(constexpr_cast),
    "constexpr_lut_to_dense": row(constexpr_lut_to_dense),
    "constexpr_lut_to_sparse": row(constexpr_lut_to_sparse),
    "constexpr_sparse_blockwise_shift_scale": row(constexpr_sparse_blockwise_shift_scale),
    "constexpr_sparse_to_dense": row(constexpr_sparse_to_dense),
    "dequantize": row(dequantize),
    "quantize": row(quantize),
}
