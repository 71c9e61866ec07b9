"""Activations: element by element, float to float of the same shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdk.runtimes.mil.ops.arguments import axis_of, per_channel
from sdk.runtimes.mil.ops.table import Operator, kernel, row


def relu6(x: Tensor) -> Tensor:
    return torch.clamp(x, 0.0, 6.0)


def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, per_channel(alpha, x.dim()) * x)


def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(leaky_relu(x, alpha), beta)


def elu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * x + beta


def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * torch.tanh(beta * x)


def softplus(x: Tensor) -> Tensor:
    # torch's softplus turns linear above 20; this form is exact everywhere and never overflows.
    return torch.logaddexp(x, torch.zeros_like(x))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return per_channel(alpha, x.dim()) * softplus(per_channel(beta, x.dim()) * x)


def softsign(x: Tensor) -> Tensor:
    return x / (1 + torch.abs(x))


def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return torch.softmax(x, axis_of(axis, x.dim()))


TABLE: dict[str, Operator] = {
    "clamped_relu": row(clamped_relu),
    "elu": row(elu),
    "gelu": row(gelu),
    "leaky_relu": row(leaky_relu),
    "linear_activation": row(linear_activation),
    "prelu": row(prelu),
    "relu": kernel(torch.relu, "x", exact=True),
    "relu6": row(relu6, exact=True),
    "scaled_tanh": row(scaled_tanh),
    "sigmoid": kernel(torch.sigmoid, "x"),
    "sigmoid_hard": row(sigmoid_hard),
    "silu": kernel(F.silu, "x"),
    "softmax": row(softmax),
    "softplus": row(softplus),
    "softplus_parametric": row(softplus_parametric),
    "softsign": row(softsign),
    "tanh": kernel(torch.tanh, "x"),
    "thresholded_relu": row(thresholded_relu, exact=True),
}
