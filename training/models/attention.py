"""Attention that phones keep in one delegate.

What is usually called attention (softmax over positions, squeeze-excite) looks at the whole picture: it breaks tiling,
leaves delegates and does not hold in int8 (docs/architecture.md). Pixel attention does not: each position and channel
is weighed by what stands at that position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Channels inside, whatever the width of the features: pruning the one leaves the other as it is.
HIDDEN = 32


class PixelAttention(nn.Module):
    """``x + project(value(x) * gate(x))`` of 1x1 convolutions (pixel attention, Zhao et al. 2020, arXiv:2010.01073).

    The gate is a hard sigmoid, ``ReLU6(conv(x)) / 6`` with a bias that starts at 3 (Howard et al. 2019,
    arXiv:1905.02244), whose division stands in the projection's weights: a ReLU6 and a product are left, which stay in
    every delegate and have integer kernels. It starts as the identity.

    Args:
        channels: of the features.
        hidden: channels that are weighed.
    """

    def __init__(self, channels: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.value = nn.Conv2d(channels, hidden, 1)
        self.gate = nn.Conv2d(channels, hidden, 1)
        self.act = nn.ReLU6()
        self.project = nn.Conv2d(hidden, channels, 1)
        with torch.no_grad():
            nn.init.constant_(self.gate.bias, 3.0)  # type: ignore[arg-type]
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``N x C x H x W`` to ``N x C x H x W``."""
        return x + self.project(self.value(x) * self.act(self.gate(x)))
