"""The architectures users would otherwise take, built from their papers, for comparison.

Latency does not depend on what the weights are, so a comparison of speed needs no training. All of them are ordinary
modules that can be trained: pictures come and go as ``N x 3 x H x W``, H and W divisible by 4.

Figures are for one picture of 256 x 256: weights of all layers, and multiply-accumulates of the convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sdk.errors import unknown_name
from training.models.signed import from_signed, to_signed


class FastNeuralStyle(nn.Module):
    """Johnson et al. 2016 (arXiv:1603.08155) in the form most ports use: one style a network.

    Reflection padding, instance norm (Ulyanov et al. 2016, arXiv:1607.08022), and nearest upsampling followed by a
    convolution (Odena et al. 2016) instead of the paper's batch norm and transposed convolutions. At width 16: 0.42 M
    weights, 2.77 GMAC; at the paper's width of 32 1.68 M weights (as in PyTorch's own example) and 10.1 GMAC.

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


class TransformNet(nn.Module):
    """Encoder, transformer of five residual blocks, decoder: 9x9 convolutions at both ends, all convolutions padded.

    With batch norm it is Johnson et al. 2016 (arXiv:1603.08155) in the paper's own form, Table 1 of its supplement: 32,
    64 and 128 channels, convolutions of stride 1/2 (transposed), a scaled tanh. At the paper's width of 32: 1.68 M
    weights and 8.27 GMAC; at 16: 0.42 M and 2.32 GMAC. The supplement exists in two versions; the other pads the
    picture by 40 pixels and the residual blocks not at all, against artefacts at the border, which costs more: the
    cheaper one is built here. In eval mode the norms can be folded into the convolutions.

    With instance norm and 64, 128 and 256 channels it is the plain encoder / transformer / decoder that a user would
    write down first: 6.68 M weights and 31.0 GMAC.

    Args:
        width: channels of the first convolution.
        norm: makes the norm of so many channels.
    """

    def __init__(self, width: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), norm(outputs))

        def transposed(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1), norm(outputs))

        deep = 4 * width
        self.encoder = nn.Sequential(
            convolution(3, width, 9), nn.ReLU(), convolution(width, 2 * width, 3, 2), nn.ReLU(),
            convolution(2 * width, deep, 3, 2), nn.ReLU(),
        )  # fmt: skip
        self.residuals = nn.ModuleList(
            nn.Sequential(convolution(deep, deep, 3), nn.ReLU(), convolution(deep, deep, 3)) for _ in range(5)
        )
        self.decoder = nn.Sequential(
            transposed(deep, 2 * width), nn.ReLU(), transposed(2 * width, width), nn.ReLU(),
            nn.Conv2d(width, 3, 9, padding=4),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """``N x 3 x H x W`` to ``N x 3 x H x W`` in [0, 1]."""
        x = self.encoder(image)
        for block in self.residuals:
            x = x + block(x)
        return _unit(self.decoder(x))


class CartoonGAN(nn.Module):
    """The generator of Chen, Lai and Liu 2018 (CVPR, figure 2): 11.1 M weights, 54.4 GMAC.

    k7n64, two down-convolutions (stride 2, then stride 1; 128 and 256 channels), eight residual blocks, two
    up-convolutions (stride 1/2, then stride 1), k7n3. The figure says "norm"; instance norm, as in the weights its
    authors published. The result is squashed by tanh into [0, 1]; the figure shows no such layer, the published network
    clips afterwards.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Sequential(_conv(3, 64, 7), nn.ReLU())
        self.down = nn.Sequential(self._down(64, 128), self._down(128, 256))
        self.residuals = nn.ModuleList(
            nn.Sequential(_conv(256, 256, 3), nn.ReLU(), _conv(256, 256, 3)) for _ in range(8)
        )
        self.up = nn.Sequential(self._up(256, 128), self._up(128, 64))
        self.tail = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(64, 3, 7))

    @staticmethod
    def _down(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), _conv(outputs, outputs, 3), nn.ReLU())

    @staticmethod
    def _up(inputs: int, outputs: int) -> nn.Sequential:
        widened = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)
        return nn.Sequential(widened, _conv(outputs, outputs, 3), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        """``N x 3 x H x W`` to ``N x 3 x H x W`` in [0, 1]."""
        x = self.down(self.flat(image))
        for block in self.residuals:
            x = x + block(x)
        return _unit(self.tail(self.up(x)))


class ResNet9(nn.Module):
    """CycleGAN's generator for pictures of 256 x 256 (Zhu et al. 2017, arXiv:1703.10593, appendix 7.2).

    c7s1-64, d128, d256, nine residual blocks R256, u128, u64, c7s1-3: reflection padding, instance norm without a scale
    or shift, convolutions of stride 1/2 (transposed), tanh. 11.4 M weights, 49.6 GMAC. It works on [-1, 1] inside.

    Args:
        width: channels of the first convolution; the paper's is 64.
        blocks: residual blocks; the paper takes 9 for 256 x 256 and 6 for 128 x 128.
    """

    def __init__(self, width: int = 64, blocks: int = 9) -> None:
        super().__init__()

        def normed(convolution: nn.Module, outputs: int) -> nn.Sequential:
            return nn.Sequential(convolution, nn.InstanceNorm2d(outputs))

        def padded(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel))

        def transposed(inputs: int, outputs: int) -> nn.Module:
            return nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)

        deep = 4 * width
        self.encoder = nn.Sequential(
            normed(padded(3, width, 7), width), nn.ReLU(),
            normed(nn.Conv2d(width, 2 * width, 3, 2, 1), 2 * width), nn.ReLU(),
            normed(nn.Conv2d(2 * width, deep, 3, 2, 1), deep), nn.ReLU(),
        )  # fmt: skip
        self.residuals = nn.ModuleList(
            nn.Sequential(normed(padded(deep, deep, 3), deep), nn.ReLU(), normed(padded(deep, deep, 3), deep))
            for _ in range(blocks)
        )
        self.decoder = nn.Sequential(
            normed(transposed(deep, 2 * width), 2 * width), nn.ReLU(),
            normed(transposed(2 * width, width), width), nn.ReLU(),
            padded(width, 3, 7),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """``N x 3 x H x W`` in [0, 1] to ``N x 3 x H x W`` in [0, 1]."""
        x = self.encoder(to_signed(image))
        for block in self.residuals:
            x = x + block(x)
        return _unit(self.decoder(x))


class AnimeGANv2(nn.Module):
    """The generator of AnimeGANv2 (Chen and Liu 2020, after AnimeGAN, ISICA 2019): 2.14 M weights, 26.3 GMAC.

    Four inverted residual blocks at 256 channels between plain convolutions, layer norm over the whole picture, leaky
    ReLU, bilinear upsampling followed by a convolution. Its authors give a size of 8.17 MB, which is 2.14 M float32
    weights in units of 2^20 bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _anime(3, 32, 7), _anime(32, 64, 3, stride=2), _anime(64, 64, 3),
            _anime(64, 128, 3, stride=2), _anime(128, 128, 3), _anime(128, 128, 3),
        )  # fmt: skip
        self.blocks = nn.Sequential(InvertedResidual(128, 256), *(InvertedResidual(256, 256) for _ in range(3)))
        self.narrow = _anime(256, 128, 3)
        self.half_size = nn.Sequential(_anime(128, 128, 3), _anime(128, 128, 3))
        self.full_size = nn.Sequential(_anime(128, 64, 3), _anime(64, 64, 3), _anime(64, 32, 7))
        self.tail = nn.Conv2d(32, 3, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """``N x 3 x H x W`` to ``N x 3 x H x W`` in [0, 1]."""
        x = self.narrow(self.blocks(self.encoder(image)))
        x = self.half_size(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        x = self.full_size(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        return _unit(self.tail(x))


class InvertedResidual(nn.Module):
    """AnimeGANv2's block: 1x1 to twice the width, depthwise 3x3, 1x1; added to its input when the widths agree."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = 2 * inputs
        self.adds = inputs == outputs
        self.layers = nn.Sequential(
            _anime(inputs, wide, 1), _anime(wide, wide, 3, groups=wide, bias=True),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.GroupNorm(1, outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """``N x C x H x W`` to ``N x outputs x H x W``."""
        made = self.layers(x)
        return x + made if self.adds else made


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReflectionPad2d(kernel // 2),
        nn.Conv2d(inputs, outputs, kernel, stride),
        nn.InstanceNorm2d(outputs, affine=True),
    )


def _anime(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Sequential:
    """AnimeGANv2's convolution, layer norm (one mean and variance a picture) and leaky ReLU."""
    padding = (0, 1, 0, 1) if stride == 2 else (kernel // 2,) * 4  # left, right, top, bottom; as its authors do
    return nn.Sequential(
        *([nn.ReflectionPad2d(padding)] if any(padding) else []),
        nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=bias),
        nn.GroupNorm(1, outputs),
        nn.LeakyReLU(0.2),
    )


def _unit(x: Tensor) -> Tensor:
    """tanh, from [-1, 1] to [0, 1]."""
    return from_signed(torch.tanh(x))


def _instance_norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)


#: Name to constructor. A new baseline is one class and one row.
BASELINES: dict[str, Callable[[], nn.Module]] = {
    "fast-neural-style-8": lambda: FastNeuralStyle(8),
    "fast-neural-style-16": lambda: FastNeuralStyle(16),
    "fast-neural-style-32": lambda: FastNeuralStyle(32),
    "fast-neural-style-8-paper": lambda: TransformNet(8),
    "fast-neural-style-16-paper": lambda: TransformNet(16),
    "fast-neural-style-32-paper": lambda: TransformNet(32),
    "cartoongan": CartoonGAN,
    "animeganv2": AnimeGANv2,
    "plain-9x9": lambda: TransformNet(64, _instance_norm),
    "resnet-9": ResNet9,
}


def make_baseline(name: str) -> nn.Module:
    """A baseline by name, with random weights, in eval mode.

    Raises:
        UsageError: for a name that is not in ``BASELINES``.
    """
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    return BASELINES[name]().eval()


def count_baseline_macs(network: nn.Module, height: int = 256, width: int = 256) -> int:
    """Multiply-accumulates of all convolutions, transposed ones included, for one ``height x width`` picture.

    Counted by ``torch.utils.flop_counter`` on shapes alone: nothing is computed.
    """
    shapes = copy.deepcopy(network).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.zeros(1, 3, height, width, device="meta"))
    return counter.get_total_flops() // 2
