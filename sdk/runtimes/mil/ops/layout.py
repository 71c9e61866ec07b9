"""Operators that move values, cut them out or repeat them, and the few that make shapes and index ranges."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.runtimes.mil.ops.arguments import axes_of, axis_of, ints
from sdk.runtimes.mil.ops.table import Operator, row


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """0 keeps the input's extent at that place, -1 takes what is left."""
    return x.reshape([want or x.shape[axis] for axis, want in enumerate(ints(shape))])


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(ints(perm))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    wanted = ints(axes)
    for axis in sorted(axis_of(axis, x.dim() + len(wanted)) for axis in wanted):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes_of(axes, x.dim()))


def flatten2d(x: Tensor, axis: Tensor | int = 1) -> Tensor:
    first = axis_of(axis, x.dim())
    return x.reshape(int(np.prod(x.shape[:first])), -1)


def concat(values: tuple[Tensor, ...], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    """Rank-0 values are joined into a vector, as coremltools does for shapes."""
    parts = [value.reshape(1) if value.dim() == 0 else value for value in values]
    where = axis_of(axis, parts[0].dim())
    if bool(interleave):
        return torch.stack(parts, dim=where + 1).flatten(where, where + 1)
    return torch.cat(parts, dim=where)


def stack(values: tuple[Tensor, ...], axis: Tensor) -> Tensor:
    return torch.stack(values, dim=axis_of(axis, values[0].dim() + 1))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    where = axis_of(axis, x.dim())
    if split_sizes is not None:
        return torch.split(x, ints(split_sizes), dim=where)
    return torch.split(x, x.shape[where] // int(num_splits or 1), dim=where)


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    *,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """numpy's ``x[begin:end:stride, ...]``; a set mask drops that bound, or picks the element ``begin``."""
    rank = x.dim()
    steps = [1] * rank if stride is None else ints(stride)
    free_begin, free_end, picked = (
        [False] * rank if mask is None else [bool(flag) for flag in mask.tolist()]
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    for axis, (first, last, step) in enumerate(zip(ints(begin), ints(end), steps, strict=True)):
        start = None if free_begin[axis] else first
        if picked[axis]:
            place = axis_of(start or 0, x.shape[axis])
            x = x.narrow(axis, place, 1)
            continue
        places = range(*slice(start, None if free_end[axis] else last, step).indices(x.shape[axis]))
        if places == range(x.shape[axis]):
            continue
        x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x.squeeze([axis for axis in range(rank) if picked[axis]])


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """``size`` elements from ``begin`` on each axis; -1 means all that follow."""
    for axis, (first, count) in enumerate(zip(ints(begin), ints(size), strict=True)):
        start = axis_of(first, x.shape[axis])
        x = x.narrow(axis, start, x.shape[axis] - start if count == -1 else count)
    return x


def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return torch.flip(x, axes_of(axes, x.dim()))


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0) -> Tensor:
    """The last axes, ``[before, after]`` each."""
    flat = ints(pad)
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=float(constant_val))
    for axis, amounts in enumerate(pairs, start=x.dim() - len(pairs)):
        if amounts != (0, 0):
            places = np.pad(np.arange(x.shape[axis]), amounts, mode="edge" if mode == "replicate" else "reflect")
            x = x.index_select(axis, torch.from_numpy(places))
    return x


def tile(x: Tensor, reps: Tensor) -> Tensor:
    return torch.tile(x, ints(reps))


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """Slices of ``x`` at ``indices`` along ``axis``; negative ones count from the end, others outside are an error.

    (A device need not check them unless ``validate_indices`` is set; what it then returns is undefined.)
    """
    del validate_indices
    where, batches = axis_of(axis, x.dim()), int(batch_dims)
    extent = x.shape[where]
    places = torch.where(indices < 0, indices + extent, indices).to(torch.int64)
    if batches == 0:
        return _take(x, places, where)
    leading = x.shape[:batches]
    rows = zip(x.flatten(0, batches - 1), places.flatten(0, batches - 1), strict=True)
    taken = torch.stack([_take(row, row_places, where - batches) for row, row_places in rows])
    return taken.reshape(*leading, *taken.shape[1:])


def _take(x: Tensor, places: Tensor, axis: int) -> Tensor:
    taken = x.index_select(axis, places.reshape(-1))
    return taken.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, validate_indices: Tensor | bool = False
) -> Tensor:
    del validate_indices
    where = axis_of(axis, x.dim())
    places = torch.where(indices < 0, indices + x.shape[where], indices).to(torch.int64)
    return torch.take_along_dim(x, places, dim=where)


def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    return F.pixel_shuffle(x, int(upscale_factor))


def pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    return F.pixel_unshuffle(x, int(downscale_factor))


def depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """The block's row and column are the *slow* part of the channel (DCR), unlike pixel_shuffle's.

    Source: the worked example of ``ReorganizeDataLayerParams`` in Core ML's NeuralNetwork.proto.
    """
    n, c, h, w = x.shape
    b = int(block_size)
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


def space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    """The inverse of ``depth_to_space``."""
    n, c, h, w = x.shape
    b = int(block_size)
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def cumsum(
    x: Tensor, axis: Tensor | int = 0, exclusive: Tensor | bool = False, reverse: Tensor | bool = False
) -> Tensor:
    where = axis_of(axis, x.dim())
    wide = x if x.dtype.is_floating_point else x.to(torch.int64)
    wide = wide.flip(where) if bool(reverse) else wide
    sums = wide.cumsum(where) - wide if bool(exclusive) else wide.cumsum(where)
    return sums.flip(where) if bool(reverse) else sums


def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def fill(shape: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return torch.as_tensor(value).expand(ints(shape)).contiguous()


def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


TABLE: dict[str, Operator] = {
    "concat": row(concat, exact=True),
    "cumsum": row(cumsum),
    "depth_to_space": row(depth_to_space, exact=True),
    "expand_dims": row(expand_dims, exact=True),
    "fill": row(fill),
    "flatten2d": row(flatten2d, exact=True),
    "gather": row(gather, exact=True),
    "gather_along_axis": row(gather_along_axis, exact=True),
    "pad": row(pad),
    "pixel_shuffle": row(pixel_shuffle, exact=True),
    "pixel_unshuffle": row(pixel_unshuffle, exact=True),
    "range_1d": row(range_1d),
    "reshape": row(reshape, exact=True),
    "reverse": row(reverse, exact=True),
    "shape": row(shape),
    "slice_by_index": row(slice_by_index, exact=True),
    "slice_by_size": row(slice_by_size, exact=True),
    "space_to_depth": row(space_to_depth, exact=True),
    "split": row(split, exact=True),
    "squeeze": row(squeeze, exact=True),
    "stack": row(stack, exact=True),
    "tile": row(tile, exact=True),
    "transpose": row(transpose, exact=True),
}
