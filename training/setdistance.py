"""Kernel distance of drawn pictures to a set of pictures, with a gradient: what a validation measures, as a loss.

The unbiased squared maximum mean discrepancy of two sets of pooled EfficientNet-Lite0 features with the cubic kernel
``k(a, b) = (a . b / d + 1)^3`` (KID, ``training.metrics.kernel``, which says whose it is):

    loss = E k(x, x') + E k(y, y') - 2 E k(x, y)

``x`` are features of drawn pictures, ``y`` of the style's. A batch is far too small for the first mean, so its pictures
are paired with those of the last steps, too; these have no gradient, are a few steps old, and a picture is not paired
with itself. The second mean is a constant of the style. It says nothing about a single picture: content may stay.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import UsageError
from training.metrics.features import FEATURES, SIDE, EffLite0
from training.metrics.kernel import cubic, mean_off_diagonal

#: Drawn pictures of earlier steps that a batch is paired with.
QUEUE = 120
#: Pictures of the style that a step looks at, drawn by chance where there are more.
SHOWN = 256
#: Pictures are compared as means of so many pixels a side, at every pixel.
MEAN = 2
#: Most pixels that ``moved`` cuts off a side, and the smallest share of the network's input it scales to.
SHIFT, SMALLEST = 8, 0.78


def moved(pictures: Tensor) -> Tensor:
    """A copy by chance: ``SHIFT`` px cut off each axis somewhere, scaled to 0.78 to 1 of EfficientNet-Lite0's input.

    One place and one scale for all pictures, drawn from PyTorch's own generator; antialiased. ``N x 3 x H x W``, sides
    above ``SHIFT``, to ``N x 3 x S x S``.
    """
    top, left = (int(torch.randint(SHIFT + 1, ())) for _ in range(2))
    side = int(torch.randint(round(SMALLEST * SIDE), SIDE + 1, ()))
    height, width = (length - SHIFT for length in pictures.shape[-2:])
    part = pictures[..., top : top + height, left : left + width]
    return F.interpolate(part, (side, side), mode="bilinear", align_corners=False, antialias=True)


def _without_mesh(pictures: Tensor) -> Tensor:
    """``N x 3 x H x W`` to means of 2 x 2 pixels at every pixel: patterns that repeat every two pixels are gone."""
    return F.avg_pool2d(pictures, MEAN, 1)


class SetDistance(nn.Module):
    """The loss; ``learn`` the set first.

    Args:
        network: whose features are compared; ``None`` makes one.

    Raises:
        MissingRuntimeError: when the package with the network's weights is not installed.
    """

    def __init__(self, network: EffLite0 | None = None) -> None:
        super().__init__()
        self.network = network or EffLite0()
        self.style = self.queue = torch.zeros(0, FEATURES)
        self.style_term = 0.0

    @torch.no_grad()
    def learn(self, pictures: Iterable[Tensor]) -> None:
        """Takes the features of a set, as a validation takes them.

        Args:
            pictures: at least two of ``1 x 3 x H x W`` in [0, 1], whole ones.

        Raises:
            UsageError: fewer than two.
        """
        self.set_style(torch.cat([self.network(_without_mesh(one)) for one in pictures]))

    def set_style(self, features: Tensor) -> None:
        """``N x d`` features of the set, N >= 2; see ``learn``."""
        count = len(features)
        if count < 2:
            raise UsageError(f"loss.kid: a kernel distance to {count} picture of the style is not defined: give more.")
        self.style = features
        self.style_term = mean_off_diagonal(cubic(features.double(), features.double()))

    def forward(self, drawn: Tensor) -> Tensor:
        """A scalar of ``N x 3 x H x W`` drawn pictures; values outside [0, 1] are clamped. May be a little below 0."""
        # Seen always at one place and one scale, a network learns a mesh of 2 x 2 pixels that this network's first
        # stride takes for the style (a trial did just that). Cut and scaled by chance, no fixed grid looks alike twice,
        # and a mean of 2 x 2 pixels shows none of two pixels at all.
        return self.distance(self.network.pooled(moved(_without_mesh(drawn.clamp(0, 1)))))

    def distance(self, found: Tensor) -> Tensor:
        """The loss of ``N x d`` features of drawn pictures, which then join the queue."""
        pool = torch.cat([self.queue.to(found), found.detach()])
        kernel = cubic(found, pool)
        with_itself = kernel.diagonal(len(pool) - len(found))
        # The very first picture of a run, if it comes alone, has no other to be paired with.
        within = (kernel.sum() - with_itself.sum()) / max(1, kernel.numel() - len(found))
        self.queue = pool[-QUEUE:]
        across = cubic(found, self._shown().to(found)).mean()
        # k(x, x') moves with both; here x' has no gradient, so that of x counts twice, and the value once.
        return 2 * within - within.detach() + self.style_term - 2 * across

    def _shown(self) -> Tensor:
        if len(self.style) <= SHOWN:
            return self.style
        return self.style[torch.randperm(len(self.style))[:SHOWN].to(self.style.device)]

    def kept(self) -> Tensor:
        """The queue, for a run that is resumed."""
        return self.queue.clone()

    def take(self, kept: Tensor) -> None:
        """The inverse of ``kept``."""
        self.queue = kept.clone()
