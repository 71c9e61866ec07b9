"""Matching the feature statistics of a set of pictures: a style without discriminator and without pairs.

Of each picture, the mean and the standard deviation of every channel at three depths of EfficientNet-Lite0 are taken
(the style statistics of Li et al. 2017, "Demystifying neural style transfer", and of AdaIN, Huang and Belongie 2017).
A set of pictures has a mean and a spread of these numbers; the loss is the squared distance of the drawn pictures' mean
from the set's, in units of the set's spread. It says nothing about a single picture, so content may stay what it is:

    loss = mean over depths and numbers k of ((m_k - M_k) / (S_k + s))^2

``M_k`` and ``S_k`` are mean and standard deviation over the set, ``s`` a twentieth of the mean spread of that depth, so
that a number that never varies does not rule; ``m_k`` is a moving mean over the batches, whose newest has a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.metrics.features import EffLite0

#: Depths of the network: after its stages at 1/2, 1/4 and 1/8 of the picture.
DEPTHS = 3
#: Weight of the newest batch in the moving mean.
NEWEST = 0.1
#: Share of a depth's mean spread that is added to every spread.
_FLOOR = 0.05


class StyleStatistics(nn.Module):
    """The loss; ``learn`` the set first.

    Args:
        network: whose features are compared; ``None`` makes one.

    Raises:
        MissingRuntimeError: when the package with the network's weights is not installed.
    """

    def __init__(self, network: EffLite0 | None = None) -> None:
        super().__init__()
        self.network = network or EffLite0()
        self.means: list[Tensor] = []
        self.spreads: list[Tensor] = []
        self.moving: list[Tensor] = []

    @torch.no_grad()
    def learn(self, pictures: Iterable[Tensor]) -> None:
        """Takes the statistics of a set.

        Args:
            pictures: at least two of ``N x 3 x H x W`` in [0, 1], at the scale that drawn pictures will have.
        """
        taken = [self.statistics(one) for one in pictures]
        depths = [torch.cat([one[depth] for one in taken]) for depth in range(DEPTHS)]
        self.means = [depth.mean(0) for depth in depths]
        self.spreads = [depth.std(0) + _FLOOR * depth.std(0).mean() for depth in depths]
        if not self.moving:  # a resumed run has some
            self.moving = [mean.clone() for mean in self.means]

    def statistics(self, pictures: Tensor) -> list[Tensor]:
        """``N x 3 x H x W`` in [0, 1], not scaled, to ``N x 2C`` means and standard deviations at each depth."""
        maps = self.network.stem(self.network.normalized(pictures))
        found = []
        for stage in self.network.stages(DEPTHS):
            maps = stage(maps)
            found.append(torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1))
        return found

    def forward(self, drawn: Tensor) -> Tensor:
        """A scalar >= 0 of ``N x 3 x H x W`` drawn pictures; values outside [0, 1] are clamped."""
        losses = []
        for depth, found in enumerate(self.statistics(drawn.clamp(0, 1))):
            mean = (1 - NEWEST) * self.moving[depth] + NEWEST * found.mean(0)
            self.moving[depth] = mean.detach()
            losses.append(((mean - self.means[depth]) / self.spreads[depth]).square().mean())
        return torch.stack(losses).mean()

    def kept(self) -> list[Tensor]:
        """The moving means, for a run that is resumed."""
        return [mean.clone() for mean in self.moving]

    def take(self, kept: list[Tensor]) -> None:
        """The inverse of ``kept``."""
        self.moving = [mean.clone() for mean in kept]
