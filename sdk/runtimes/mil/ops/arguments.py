"""Readers of an operator's arguments.

A value of a running program is a tensor, or a string (``pad_type``, ``dtype``...).  Lists and scalars arrive as tensors
too, whether the program holds them as constants or computes them (a dynamic shape), so every operator reads them here.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

#: A value of a running program.
Value: TypeAlias = Tensor | str


def ints(value: Tensor) -> list[int]:
    """The elements of a rank-0 or rank-1 tensor."""
    return [int(element) for element in value.reshape(-1).tolist()]


def axis_of(value: Tensor | int, rank: int) -> int:
    """An axis counted from the front, in [0, rank)."""
    axis = int(value)
    return axis + rank if axis < 0 else axis


def axes_of(values: Tensor | None, rank: int) -> list[int]:
    """Axes counted from the front, ascending; ``None`` means all of them."""
    return list(range(rank)) if values is None else sorted(axis_of(axis, rank) for axis in ints(values))


def per_channel(parameter: Tensor, rank: int) -> Tensor:
    """A ``C`` vector shaped to multiply an ``N x C x ...`` tensor of that rank; a scalar stays one."""
    return parameter if parameter.dim() == 0 else parameter.reshape(1, -1, *[1] * (rank - 2))
