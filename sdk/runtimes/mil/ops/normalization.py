"""Normalizations. Statistics are taken in the accumulator's type and only the result is rounded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.runtimes.mil.ops.arguments import axes_of, per_channel
from sdk.runtimes.mil.ops.table import Operator, row


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """``gamma (x - mean) / sqrt(variance + epsilon) + beta`` per channel of ``x`` N x C x D...."""
    scale = 1 / torch.sqrt(variance + epsilon)
    y = (x - per_channel(mean, x.dim())) * per_channel(scale, x.dim())
    return _affine(y, gamma, beta)


def instance_norm(
    x: Tensor, *, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | float = 1e-5
) -> Tensor:
    """Each channel of each sample to mean 0 and (biased) variance 1 over its spatial axes."""
    axes = list(range(2, x.dim()))
    return _affine(_standardize(x, axes, epsilon), gamma, beta)


def layer_norm(
    x: Tensor,
    *,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """To mean 0 and (biased) variance 1 over ``axes``; ``gamma`` and ``beta`` have the shape ``x.shape[axes]``."""
    over = axes_of(axes, x.dim())
    shape = [extent if axis in over else 1 for axis, extent in enumerate(x.shape)]
    y = _standardize(x, over, epsilon)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def l2_norm(x: Tensor, epsilon: Tensor | float = 1e-6) -> Tensor:
    """Divided by the length over the last three axes."""
    return x / torch.sqrt(torch.sum(x * x, dim=(-3, -2, -1), keepdim=True) + epsilon)


def local_response_norm(
    x: Tensor, size: Tensor, alpha: Tensor | float = 1e-4, beta: Tensor | float = 0.75, k: Tensor | float = 1.0
) -> Tensor:
    return F.local_response_norm(x, int(size), float(alpha), float(beta), float(k))


def _standardize(x: Tensor, axes: list[int], epsilon: Tensor | float) -> Tensor:
    centred = x - x.mean(dim=axes, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(dim=axes, keepdim=True) + epsilon)


def _affine(y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    y = y if gamma is None else y * per_channel(gamma, y.dim())
    return y if beta is None else y + per_channel(beta, y.dim())


TABLE: dict[str, Operator] = {
    "batch_norm": row(batch_norm),
    "instance_norm": row(instance_norm),
    "l2_norm": row(l2_norm),
    "layer_norm": row(layer_norm),
    "local_response_norm": row(local_response_norm),
}
