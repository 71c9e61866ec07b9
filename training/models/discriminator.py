"""The discriminator of adversarial training: a PatchGAN, at one scale or at several.

A PatchGAN (Isola et al. 2017, arXiv:1611.07004) does not judge a picture but each of its overlapping patches, so that
it learns texture and lines and leaves composition alone. Several of them on a pyramid of the picture (Wang et al. 2018,
pix2pixHD, arXiv:1711.11585) see patches of several sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from sdk.errors import UsageError
from training.models.signed import to_signed

#: Kernel of every convolution, and the slope of the leaky ReLU, of the paper's appendix 6.1.
KERNEL, SLOPE = 4, 0.2
#: Widths double from layer to layer up to this multiple of the first.
WIDEST = 8


class DiscriminatorNorm(StrEnum):
    """What stands between a convolution and its activation (never in the first layer)."""

    #: Nothing; with spectral normalization nothing else is needed.
    NONE = "none"
    #: Statistics of each picture, with a learned scale and shift.
    INSTANCE = "instance"
    #: Statistics of the batch, the paper's own. A gradient penalty is undefined with it: a picture's gradient would
    #: depend on the other pictures of the batch.
    BATCH = "batch"


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """All that is needed to build a discriminator.

    Attributes:
        channels: of the pictures: 3, or 1 for grey (AnimeGAN's texture branch, White-box's texture representation).
        width: channels of the first convolution; each further layer doubles it, up to ``WIDEST`` times.
        layers: convolutions of stride 2; two of stride 1 follow. 3 gives the paper's patches of 70 x 70.
        norm: see ``DiscriminatorNorm``.
        spectral: divides every weight by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).
        scales: discriminators on the picture, on half its size, on a quarter, ...
    """

    channels: int = 3
    width: int = 64
    layers: int = 3
    norm: DiscriminatorNorm = DiscriminatorNorm.NONE
    spectral: bool = True
    scales: int = 1

    def faults(self, *, gradient_penalty: float = 0.0) -> list[str]:
        """Everything that is wrong with it, one sentence each; empty when nothing is.

        Args:
            gradient_penalty: the weight of a penalty on the discriminator's gradient, 0 for none.
        """
        faults = []
        if self.channels not in (1, 3):
            faults.append(f"channels is {self.channels}: give 3 for colour or 1 for grey.")
        for name, least in (("width", 1), ("layers", 1), ("scales", 1)):
            value = getattr(self, name)
            if value < least:
                faults.append(f"{name} is {value}: give at least {least}.")
        if self.norm not in list(DiscriminatorNorm):
            faults.append(f"norm is {self.norm!r}: choose from {', '.join(DiscriminatorNorm)}.")
        if gradient_penalty > 0 and self.norm == DiscriminatorNorm.BATCH:
            faults.append(
                "norm is 'batch' together with a gradient penalty, which is defined for each picture alone: "
                "choose norm: instance or none."
            )
        return faults

    @property
    def receptive_field(self) -> int:
        """Side of the patch that one value of the first map judges, px."""
        side = 1
        for stride in (1, 1, *(2,) * self.layers):  # from the result back to the picture
            side = (side - 1) * stride + KERNEL
        return side

    @property
    def smallest(self) -> int:
        """Shorter side of the smallest picture that every scale can judge, px."""
        # After the strides of 2 three pixels are needed: each of the two last convolutions takes one.
        return 3 * 2 ** (self.layers + self.scales - 1)


class PatchGAN(nn.Module):
    """One scale: ``layers`` convolutions of stride 2, one of stride 1, and one of stride 1 to a single channel."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs, outputs = config.channels, config.width
        for level in range(config.layers + 1):
            stride = 2 if level < config.layers else 1
            norm = config.norm if level else DiscriminatorNorm.NONE
            # The bias would be cancelled by the norm's own shift.
            blocks.append(_conv(inputs, outputs, stride, spectral=config.spectral, bias=norm is DiscriminatorNorm.NONE))
            if norm is DiscriminatorNorm.INSTANCE:
                blocks.append(nn.InstanceNorm2d(outputs, affine=True))
            elif norm is DiscriminatorNorm.BATCH:
                blocks.append(nn.BatchNorm2d(outputs))
            blocks.append(nn.LeakyReLU(SLOPE))
            inputs, outputs = outputs, min(2 * outputs, WIDEST * config.width)
        blocks.append(_conv(inputs, 1, 1, spectral=config.spectral, bias=True))
        self.layers = nn.Sequential(*blocks)

    def forward(self, signed: Tensor) -> Tensor:
        """``N x C x H x W`` in [-1, 1] to a map ``N x 1 x H' x W'`` of scores without bounds."""
        return self.layers(signed)


class Discriminator(nn.Module):
    """Judges pictures ``N x C x H x W`` in [0, 1]: high scores for real ones.

    Args:
        config: see ``DiscriminatorConfig``.

    Raises:
        UsageError: when the config has faults; all of them in one message.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        faults = config.faults()
        if faults:
            raise UsageError("the discriminator cannot be built: " + " ".join(faults))
        self.config = config
        self.scales = nn.ModuleList(PatchGAN(config) for _ in range(config.scales))

    def forward(self, picture: Tensor) -> Sequence[Tensor]:
        """One map ``N x 1 x H' x W'`` of scores without bounds for each scale, the full size first.

        Raises:
            UsageError: for another number of channels, or a picture too small for the smallest scale.
        """
        config = self.config
        if picture.ndim != 4 or picture.shape[1] != config.channels or min(picture.shape[2:]) < config.smallest:
            raise UsageError(
                f"the discriminator was given a picture of shape {tuple(picture.shape)}: give N x {config.channels} x "
                f"H x W with H and W at least {config.smallest}, or lower its layers or scales."
            )
        x = to_signed(picture)
        maps = []
        for level, scale in enumerate(self.scales):
            if level:
                # pix2pixHD's pooling; what lies outside the picture has no say.
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            maps.append(scale(x))
        return maps


def _conv(inputs: int, outputs: int, stride: int, *, spectral: bool, bias: bool) -> nn.Module:
    """A convolution as pix2pix starts it: weights of N(0, 0.02), no bias."""
    conv = nn.Conv2d(inputs, outputs, KERNEL, stride, padding=1, bias=bias)
    nn.init.normal_(conv.weight, 0.0, 0.02)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return spectral_norm(conv) if spectral else conv
