"""Reductions over some axes; without ``axes`` over all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdk.runtimes.mil.ops.arguments import axes_of, axis_of
from sdk.runtimes.mil.ops.table import Operator, row


def _reduce(function: Callable[[Tensor, list[int]], Tensor], *, exact: bool = False) -> Operator:
    """A row for ``function(x, axes)``, which keeps the reduced axes with extent 1."""

    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        over = axes_of(axes, x.dim())
        wide = x if x.dtype.is_floating_point else x.to(torch.int64)
        y = function(wide, over)
        return y if bool(keep_dims) else y.squeeze(over)

    return row(reduce, exact=exact)


def _argument(function: Callable[[Tensor, int, bool], Tensor]) -> Operator:
    def reduce(
        x: Tensor, axis: Tensor | int = -1, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
    ) -> Tensor:
        del output_dtype  # the declared type says the same
        return function(x, axis_of(axis, x.dim()), bool(keep_dims))

    return row(reduce)


def _mean(x: Tensor, axes: list[int]) -> Tensor:
    if x.dtype.is_floating_point:
        return x.mean(dim=axes, keepdim=True)
    return torch.trunc(x.to(torch.float64).mean(dim=axes, keepdim=True))  # as numpy's astype: towards zero


def _product(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(dim=axis, keepdim=True)
    return x


TABLE: dict[str, Operator] = {
    "reduce_argmax": _argument(lambda x, axis, keep: torch.argmax(x, dim=axis, keepdim=keep)),
    "reduce_argmin": _argument(lambda x, axis, keep: torch.argmin(x, dim=axis, keepdim=keep)),
    "reduce_l1_norm": _reduce(lambda x, axes: x.abs().sum(dim=axes, keepdim=True)),
    "reduce_l2_norm": _reduce(lambda x, axes: torch.sqrt((x * x).sum(dim=axes, keepdim=True))),
    "reduce_log_sum": _reduce(lambda x, axes: torch.log(x.sum(dim=axes, keepdim=True))),
    "reduce_log_sum_exp": _reduce(lambda x, axes: torch.logsumexp(x, dim=axes, keepdim=True)),
    "reduce_max": _reduce(lambda x, axes: x.amax(dim=axes, keepdim=True), exact=True),
    "reduce_mean": _reduce(_mean),
    "reduce_min": _reduce(lambda x, axes: x.amin(dim=axes, keepdim=True), exact=True),
    "reduce_prod": _reduce(_product),
    "reduce_sum": _reduce(lambda x, axes: x.sum(dim=axes, keepdim=True)),
    "reduce_sum_square": _reduce(lambda x, axes: (x * x).sum(dim=axes, keepdim=True)),
}
