"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.runtimes.mil.ops.table import Operator, row


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` ... x D_in, ``weight`` D_out x D_in, ``bias`` D_out."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    """numpy's matmul; the transposes swap the last two axes and leave a vector alone."""
    if bool(transpose_x) and x.dim() > 1:
        x = x.transpose(-1, -2)
    if bool(transpose_y) and y.dim() > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


def einsum(values: tuple[Tensor, ...], equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *values)


TABLE: dict[str, Operator] = {
    "einsum": row(einsum),
    "linear": row(linear),
    "matmul": row(matmul),
}
