"""The architectures users would otherwise take, built from their papers, for comparison.

Latency does not depend on what the weights are, so a comparison of speed needs no training.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import unknown_name


class FastNeuralStyle(nn.Module):
    """Johnson et al. 2016 (arXiv:1603.08155) in the form most ports use: one style a network.

    Reflection padding, instance norm (Ulyanov et al. 2016, arXiv:1607.08022), and nearest upsampling followed by a
    convolution (Odena et al. 2016) instead of the paper's batch norm and transposed convolutions: 2.77 GMAC at
    256 x 256 with ``width`` 16.

    Args:
        width: channels of the first convolution; the paper's is 32, phones' ports take 8 or 16.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _conv(3, width, 9), nn.ReLU(), _conv(width, 2 * width, 3, 2), nn.ReLU(), _conv(2 * width, 4 * width, 3, 2),
            nn.ReLU(),
        )  # fmt: skip
        self.residuals = nn.ModuleList(
            nn.Sequential(_conv(4 * width, 4 * width, 3), nn.ReLU(), _conv(4 * width, 4 * width, 3)) for _ in range(5)
        )
        self.up1 = _conv(4 * width, 2 * width, 3)
        self.up2 = _conv(2 * width, width, 3)
        self.tail = nn.Sequential(nn.ReflectionPad2d(4), nn.Conv2d(width, 3, 9))

    def forward(self, image: Tensor) -> Tensor:
        """``N x 3 x H x W`` to ``N x 3 x H x W``."""
        x = self.encoder(image)
        for block in self.residuals:
            x = x + block(x)
        x = F.relu(self.up1(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        x = F.relu(self.up2(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.tail(x)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReflectionPad2d(kernel // 2),
        nn.Conv2d(inputs, outputs, kernel, stride),
        nn.InstanceNorm2d(outputs, affine=True),
    )


#: Name to constructor. A new baseline is one class and one row.
BASELINES: dict[str, Callable[[], nn.Module]] = {
    "fast-neural-style-8": lambda: FastNeuralStyle(8),
    "fast-neural-style-16": lambda: FastNeuralStyle(16),
    "fast-neural-style-32": lambda: FastNeuralStyle(32),
}


def make_baseline(name: str) -> nn.Module:
    """A baseline by name, with random weights, in eval mode.

    Raises:
        UsageError: for a name that is not in ``BASELINES``.
    """
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    return BASELINES[name]().eval()
