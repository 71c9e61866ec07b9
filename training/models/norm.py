"""Conditional normalization: one network, many styles.

A style is a row of scales (gamma) and a row of shifts (beta) in every ``ConditionalNorm2d`` (conditional instance
normalization, Dumoulin et al. 2017, arXiv:1610.07629).  The style vector weights the rows, so a mix of styles is a mix
of rows.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Added to variances before the square root, as in ``torch.nn.BatchNorm2d``.
EPSILON = 1e-5


class Statistics(StrEnum):
    """Which mean and variance a conditional norm subtracts and divides by."""

    #: Population statistics kept in training. They fold into the convolution before, need no reduction at run time,
    #: hold in int8 and make the network tile-safe: the deployed default.
    RUNNING = "running"
    #: Per-image statistics, the classical CIN: stays in float, sees the whole image.
    INSTANCE = "instance"


class ConditionalNorm2d(nn.Module):
    """Normalizes ``N x C x H x W`` and applies the style's own scale and shift.

    ``y = gamma(style) * (x - mean) / sqrt(var + eps) + beta(style)`` with ``gamma(style) = style @ gamma``.

    Args:
        channels: C.
        styles: S, rows of gamma and beta.
        statistics: see ``Statistics``.
        momentum: weight of the newest batch in the population statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, styles: int, *, statistics: Statistics = Statistics.RUNNING, momentum: float = 0.05
    ) -> None:
        super().__init__()
        self.channels, self.styles, self.statistics, self.momentum = channels, styles, Statistics(statistics), momentum
        self.gamma = nn.Parameter(torch.ones(styles, channels))
        self.beta = nn.Parameter(torch.zeros(styles, channels))
        if self.statistics is Statistics.RUNNING:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``N x C x H x W`` and style weights ``N x S`` to ``N x C x H x W``."""
        if self.statistics is Statistics.RUNNING:
            x = F.batch_norm(
                x, self.running_mean, self.running_var, training=self.training, momentum=self.momentum, eps=EPSILON
            )
        else:
            # Written out in stock operators: nn.InstanceNorm2d splits an XNNPACK graph, this form does not.
            mean = x.mean((2, 3), keepdim=True)
            centred = x - mean
            x = centred * torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + EPSILON)
        return apply_style(x, style, self.gamma, self.beta)

    def population(self) -> tuple[Tensor, Tensor]:
        """``(scale, shift)``, each ``C``: the style-independent part ``x * scale + shift`` of a running norm.

        Raises:
            ValueError: for instance statistics, which are not constants.
        """
        if self.statistics is not Statistics.RUNNING:
            raise ValueError(
                "a conditional norm on instance statistics has no constants to fold: train with running ones."
            )
        scale = torch.rsqrt(self.running_var + EPSILON)
        return scale, -self.running_mean * scale


def apply_style(x: Tensor, style: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """``x * (style @ gamma) + style @ beta`` per channel; x ``N x C x H x W``, style ``N x S``, rows ``S x C``."""
    scale, shift = style @ gamma, style @ beta
    return x * scale[:, :, None, None] + shift[:, :, None, None]


class StyleAffine(nn.Module):
    """What is left of a ``ConditionalNorm2d`` once its statistics are folded away: the style's scale and shift."""

    def __init__(self, gamma: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.register_buffer("gamma", gamma.detach().clone())
        self.register_buffer("beta", beta.detach().clone())

    gamma: Tensor
    beta: Tensor

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``N x C x H x W`` and ``N x S`` to ``N x C x H x W``."""
        return apply_style(x, style, self.gamma, self.beta)


class SpatialFeatureTransform(nn.Module):
    """SFT layer: a scale and a shift for every position, from a condition map (Wang et al. 2018, arXiv:1804.02815).

    Args:
        channels: channels of the features to modulate.
        condition_channels: channels of the condition map.
        hidden: width of the small predictor.
    """

    def __init__(self, channels: int, condition_channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(condition_channels, hidden, 1), nn.ReLU())
        self.scale = nn.Conv2d(hidden, channels, 1)
        self.shift = nn.Conv2d(hidden, channels, 1)
        for head in (self.scale, self.shift):  # starts as the identity
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``N x C x H x W`` and a condition map ``N x K x H x W`` of the same size to ``N x C x H x W``."""
        hidden = self.trunk(condition)
        return x + x * self.scale(hidden) + self.shift(hidden)


def style_tables(network: nn.Module) -> frozenset[str]:
    """Keys of a network's state that hold a row a style: ``S x C`` scales and shifts."""
    return frozenset(
        f"{name}.{table}"
        for name, module in network.named_modules()
        if isinstance(module, ConditionalNorm2d)
        for table in ("gamma", "beta")
    )
