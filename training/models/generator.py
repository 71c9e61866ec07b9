"""The generator: MobileNetV3 encoder, a light decoder with conditional norms, a pixel-shuffle tail.

Shaped by what phones run well (docs/architecture.md gives the reasons):

* Nothing runs at full resolution: the first convolution has stride 2, the last one writes 12 channels at stride 2 that
  ``pixel_shuffle`` turns into RGB.
* A 1x1 convolution commutes with bilinear upsampling (both are linear, and interpolation weights sum to 1), so
  features are projected *before* they are upsampled, at a quarter of the cost, and joined with the skip by an addition:
  int8 has a kernel for ``add``, while a concatenation forces one scale on both sides.
* Only operators that stay in one delegate on every target: convolutions, add, mul, ReLU6, bilinear x2, pixel shuffle,
  clamp.
* The output is a plain clamp to [0, 1]: its int8 grid is exactly that of an 8-bit picture.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import UsageError
from sdk.spec import SIZE_MULTIPLE
from training.models.attention import PixelAttention
from training.models.backbone import Encoder
from training.models.norm import ConditionalNorm2d, SpatialFeatureTransform, Statistics


@dataclass(frozen=True, kw_only=True)
class PrunedWidths:
    """Widths of single layers, as pruning leaves them; those of the decoder's strides are ``GeneratorConfig.widths``.

    Attributes:
        stem: channels of the encoder's first convolution.
        encoder: (hidden, out) channels of the encoder's blocks in their order; hidden is the depthwise convolution's.
        decoder: hidden channels of each decoder block, at strides 2, 4, 8, 16.
    """

    stem: int
    encoder: tuple[tuple[int, int], ...]
    decoder: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """All that is needed to build a generator; stored in the checkpoint's metadata.

    Attributes:
        styles: number of style rows S.
        encoder: timm name (``training.models.backbone.ENCODERS``).
        encoder_width: channel multiplier of the encoder.
        stem: channels of the encoder's first convolution.
        widths: decoder channels at strides 2, 4, 8, 16.
        depths: decoder blocks at strides 2, 4, 8, 16.
        expansions: hidden width of a decoder block, as a multiple of its channels, at strides 2, 4, 8, 16.
        fused: per stride 2, 4, 8, 16, whether a block's 3x3 convolution mixes channels (Fused-MBConv, Tan & Le 2021,
            arXiv:2104.00298) instead of working depthwise: dearer in multiplications, stronger at drawing lines.
        plain: per stride 2, 4, 8, 16, whether a block is a bare 3x3 convolution with norm and ReLU6, started at the
            identity (Ding et al. 2021, arXiv:2101.03697, trains a branch for it and folds it in): one pass over memory.
        conditional: per stride 2, 4, 8, 16, whether a block's norm has a row a style, or is the same for all.
        conditional_joins: whether the features a join brings up have a conditional norm, taken before they are
            enlarged: a quarter of the values to scale and shift.
        tail_kernel: kernel of the last convolution.
        tail_bias: values of its bias: 12, one for each colour of each of the 2 x 2 pixels it draws, or 3, one a colour;
            with kernel 1 and 3 values it is a transposed convolution in disguise, and ONNX Runtime runs it as one.
        statistics: of the conditional norms.
        attention: adds pixel attention at stride 16 (``training.models.attention``).
        sft: adds a spatial feature transform at stride 4, conditioned on the encoder's stride-8 features.
        activation: of the encoder; the decoder has ReLU6.
        pruned: explicit widths; they overrule ``encoder_width``, ``stem`` and ``expansions``, which then only say what
            is a residual and what expands. ``None``: not pruned.
    """

    styles: int
    encoder: str = "tf_mobilenetv3_small_minimal_100"
    encoder_width: float = 1.0
    stem: int = 24
    widths: tuple[int, int, int, int] = (32, 48, 64, 96)
    depths: tuple[int, int, int, int] = (2, 2, 2, 1)
    expansions: tuple[int, int, int, int] = (1, 2, 2, 2)
    fused: tuple[bool, bool, bool, bool] = (False, False, False, False)
    plain: tuple[bool, bool, bool, bool] = (False, False, False, False)
    conditional: tuple[bool, bool, bool, bool] = (True, True, True, True)
    conditional_joins: tuple[bool, bool, bool] = (False, False, False)
    tail_kernel: int = 3
    tail_bias: Literal[3, 12] = 12
    statistics: Statistics = Statistics.RUNNING
    attention: bool = False
    sft: bool = False
    activation: str = "relu6"
    pruned: PrunedWidths | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for the checkpoint; ``attention`` and ``pruned`` are there only when they say something."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for name in ("attention", "pruned"):  # younger than the first checkpoints
            if not values[name]:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneratorConfig:
        """The inverse of ``to_dict``.

        Raises:
            UsageError: for keys that are missing or that this version does not know, all at once.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown or "styles" not in values:
            missing = [] if "styles" in values else ["styles"]
            raise UsageError(
                f"the generator config does not fit this version (unknown keys {unknown}, missing keys {missing}): "
                "use a checkpoint of this architecture."
            )
        made: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        made["statistics"] = Statistics(made.get("statistics", Statistics.RUNNING))
        if made.get("pruned") is not None:
            lists: dict[str, Any] = {k: tuple(map(tuple, v)) if k != "stem" else v for k, v in made["pruned"].items()}
            made["pruned"] = PrunedWidths(**lists)
        return cls(**made)


class ConvNormAct(nn.Module):
    """Convolution, norm (plain or conditional), optional ReLU6: the unit that folds.

    ``norm`` is a ``BatchNorm2d``, a ``ConditionalNorm2d`` or (in an exported graph) ``Identity`` / ``StyleAffine``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        groups: int = 1,
        styles: int = 0,
        statistics: Statistics = Statistics.RUNNING,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm: nn.Module = (
            ConditionalNorm2d(outputs, styles, statistics=statistics)
            if styles
            else nn.BatchNorm2d(outputs, momentum=0.05)
        )
        self.act: nn.Module = nn.ReLU6() if activation else nn.Identity()
        self.conditional = bool(styles)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``N x C x H x W`` and ``N x S`` to ``N x C' x H x W``."""
        x = self.conv(x)
        x = self.norm(x, style) if self.conditional else self.norm(x)
        return self.act(x)


class DecoderBlock(nn.Module):
    """A separable block with one conditional norm on the depthwise convolution, and a residual.

    ``expansion`` 1 skips the first pointwise convolution: depthwise + pointwise only, for the costly stride 2.
    ``fused`` makes the 3x3 convolution a full one that does the expansion too.
    """

    def __init__(
        self,
        channels: int,
        expansion: int,
        styles: int,
        statistics: Statistics,
        *,
        fused: bool = False,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = channels * expansion if hidden is None else hidden  # given: a pruned block
        self.expand = ConvNormAct(channels, hidden, 1) if expansion > 1 and not fused else None
        inputs, groups = (channels, 1) if fused else (hidden, hidden)
        self.spatial = ConvNormAct(inputs, hidden, 3, groups=groups, styles=styles, statistics=statistics)
        self.project = ConvNormAct(hidden, channels, 1, activation=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``N x C x H x W`` and ``N x S`` to ``N x C x H x W``."""
        hidden = self.expand(x, style) if self.expand is not None else x
        return x + self.project(self.spatial(hidden, style), style)


class PlainBlock(nn.Module):
    """One 3x3 convolution, norm and ReLU6; it starts as the identity on values in [0, 6]."""

    def __init__(self, inputs: int, outputs: int, styles: int, statistics: Statistics) -> None:
        super().__init__()
        self.spatial = ConvNormAct(inputs, outputs, 3, styles=styles, statistics=statistics)
        with torch.no_grad():
            self.spatial.conv.weight[:, :, 1, 1] += torch.eye(outputs, inputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``N x C x H x W`` and ``N x S`` to ``N x C' x H x W``."""
        return self.spatial(x, style)


class Join(nn.Module):
    """Brings deep features up one octave and adds the encoder's skip: ``up(conv1x1(deep)) + conv1x1(skip)``."""

    def __init__(
        self, deep: int, skip: int, channels: int, *, styles: int = 0, statistics: Statistics = Statistics.RUNNING
    ) -> None:
        super().__init__()
        self.deep = ConvNormAct(deep, channels, 1, styles=styles, statistics=statistics, activation=False)
        self.skip = ConvNormAct(skip, channels, 1, activation=False)

    def forward(self, deep: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        """``N x D x H/2 x W/2`` and ``N x K x H x W`` to ``N x C x H x W``."""
        return upsample(self.deep(deep, style)) + self.skip(skip, style)


class Tail(nn.Conv2d):
    """The last convolution: 12 channels at stride 2, channel ``4 * colour + 2 * row + column`` of 2 x 2 pixels.

    Args:
        channels: of its input.
        kernel: 1 or 3.
        bias: 12, or 3 for one that the four pixels share.
    """

    def __init__(self, channels: int, kernel: int, *, bias: int) -> None:
        super().__init__(channels, 12, kernel, padding=kernel // 2)
        self.bias = nn.Parameter(torch.zeros(bias))

    def forward(self, x: Tensor) -> Tensor:
        """``N x C x H x W`` to ``N x 12 x H x W``."""
        return F.conv2d(x, self.weight, self._whole_bias(), padding=self.padding)

    def plain(self) -> nn.Conv2d:
        """The same convolution with all 12 values of its bias."""
        kernel = self.weight.shape[2]
        made = nn.Conv2d(self.in_channels, 12, kernel, padding=kernel // 2)
        made.weight = self.weight
        made.bias = nn.Parameter(self._whole_bias().detach().clone())
        return made

    def _whole_bias(self) -> Tensor:
        assert self.bias is not None  # the constructor makes one
        return self.bias if len(self.bias) == 12 else self.bias[:, None].expand(3, 4).reshape(12)


def upsample(x: Tensor) -> Tensor:
    """Bilinear x2, half-pixel centres. Nearest would split an XNNPACK graph in five."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class Generator(nn.Module):
    """Photo and style weights to cartoon.

    Input ``N x 3 x H x W`` RGB in [0, 1] (H, W divisible by 16) and style weights ``N x S`` that sum to 1;
    output ``N x 3 x H x W`` RGB in [0, 1].
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        pruned = config.pruned
        self.encoder = Encoder(
            config.encoder,
            width=config.encoder_width,
            stem=config.stem,
            activation=config.activation,
            pruned=None if pruned is None else (pruned.stem, pruned.encoder),
        )
        rows, statistics = config.styles, config.statistics
        w2, w4, w8, w16 = config.widths
        e2, e4, e8, e16 = self.encoder.channels
        self.bridge = ConvNormAct(e16, w16, 1, activation=False)
        if rows > 1 and not any(
            (*config.conditional_joins, *(c and d for c, d in zip(config.conditional, config.depths, strict=True)))
        ):
            raise UsageError(
                f"no norm of this network looks at the style, so its {rows} styles would be one: set `conditional` "
                "for a stride that has blocks, or `conditional_joins`."
            )
        j2, j4, j8 = (rows if conditional else 0 for conditional in config.conditional_joins)
        self.joins = nn.ModuleList(
            [
                Join(_outputs(config, 3), e8, w8, styles=j8, statistics=statistics),
                Join(_outputs(config, 2), e4, w4, styles=j4, statistics=statistics),
                Join(_outputs(config, 1), e2, w2, styles=j2, statistics=statistics),
            ]
        )
        self.stages = nn.ModuleList(_blocks(config, level) for level in (3, 2, 1, 0))
        self.attention = PixelAttention(_outputs(config, 3)) if config.attention else None
        self.sft = SpatialFeatureTransform(w4, e8) if config.sft else None
        self.tail: nn.Conv2d = Tail(_outputs(config, 0), config.tail_kernel, bias=config.tail_bias)
        nn.init.constant_(self.tail.bias, 0.5)  # type: ignore[arg-type]  # mid-grey: the clamp's gradient is alive

    def raw(self, image: Tensor, style: Tensor) -> Tensor:
        """The picture before the clamp: what a loss wants, so that gradients survive outside [0, 1]."""
        check_input(image, style, self.config.styles)
        return self.decode(self.encoder(image), style)

    def decode(self, skips: list[Tensor], style: Tensor) -> Tensor:
        """The encoder's four feature maps to the picture before the clamp; only the norms look at ``style``."""
        x = self.bridge(skips[3], style)
        for level, blocks in enumerate(self.stages):
            if level:
                x = self.joins[level - 1](x, skips[3 - level], style)
            if level == 2 and self.sft is not None:
                x = self.sft(x, upsample(skips[2]))
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList of DecoderBlock
                x = block(x, style)
            if level == 0 and self.attention is not None:
                x = self.attention(x)
        return F.pixel_shuffle(self.tail(x), 2)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        """``N x 3 x H x W`` in [0, 1] and ``N x S`` to ``N x 3 x H x W`` in [0, 1]."""
        return torch.clamp(self.raw(image, style), 0.0, 1.0)


def _blocks(config: GeneratorConfig, level: int) -> nn.ModuleList:
    """The decoder blocks of level 0 to 3: strides 2, 4, 8, 16."""
    width, styles = config.widths[level], config.styles if config.conditional[level] else 0
    blocks: list[nn.Module] = []
    inputs = width
    for hidden in _hidden(config)[level]:
        if config.plain[level]:
            outputs = hidden or width
            blocks.append(PlainBlock(inputs, outputs, styles, config.statistics))
            inputs = outputs
        else:
            expansion, fused = config.expansions[level], config.fused[level]
            blocks.append(DecoderBlock(width, expansion, styles, config.statistics, fused=fused, hidden=hidden))
    return nn.ModuleList(blocks)


def _outputs(config: GeneratorConfig, level: int) -> int:
    """Channels that leave the blocks of a level: plain blocks may narrow them."""
    row = _hidden(config)[level]
    return (row[-1] if config.plain[level] and row else None) or config.widths[level]


def _hidden(config: GeneratorConfig) -> Sequence[Sequence[int | None]]:
    """Hidden channels of every decoder block at strides 2, 4, 8, 16; ``None``: as the expansion says.

    Raises:
        UsageError: pruned widths that the blocks cannot have.
    """
    if config.pruned is None:
        return [(None,) * depth for depth in config.depths]
    rows = config.pruned.decoder
    if [len(row) for row in rows] != list(config.depths):
        raise UsageError(
            f"pruned widths are given for {[len(row) for row in rows]} decoder blocks: give them for all, "
            f"{list(config.depths)}."
        )
    free = (fused or plain for fused, plain in zip(config.fused, config.plain, strict=True))
    for width, row, expansion, any_width in zip(config.widths, rows, config.expansions, free, strict=True):
        if not any_width and expansion == 1 and set(row) - {width}:
            raise UsageError(
                f"a decoder block without an expansion cannot have the pruned widths {list(row)}: its hidden width is "
                f"that of its stride, {width}."
            )
    return rows


def config_with_widths(generator: Generator) -> GeneratorConfig:
    """The config that states the widths a network really has, read from its convolutions."""
    features = generator.encoder.features
    blocks = [block for stage in features.blocks for block in stage]  # type: ignore[attr-defined]
    # From the deepest stride to the shallowest, as the decoder runs.
    stages = [list(stage) for stage in generator.stages]  # type: ignore[call-overload]
    entries: list[Any] = [generator.bridge, *(join.skip for join in generator.joins)]
    w16, w8, w4, w2 = (entry.conv.out_channels for entry in entries)
    return dataclasses.replace(
        generator.config,
        widths=(w2, w4, w8, w16),
        pruned=PrunedWidths(
            stem=features.conv_stem.out_channels,
            encoder=tuple(
                (b.conv_dw.out_channels, (b.conv_pwl if hasattr(b, "conv_pwl") else b.conv_pw).out_channels)
                for b in blocks
            ),
            decoder=tuple(tuple(block.spatial.conv.out_channels for block in stage) for stage in stages[::-1]),
        ),
    )


def check_input(image: Tensor, style: Tensor, styles: int) -> None:
    """Refuses shapes the network cannot take; silent while a graph is traced, where sizes are symbols.

    Raises:
        UsageError: for a wrong rank, channel count, size or number of styles.
    """
    if torch.compiler.is_compiling():
        return
    if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % SIZE_MULTIPLE or image.shape[3] % SIZE_MULTIPLE:
        raise UsageError(
            f"the image has shape {tuple(image.shape)}: give N x 3 x H x W with H and W divisible by {SIZE_MULTIPLE}."
        )
    if style.ndim != 2 or style.shape[1] != styles:
        raise UsageError(f"the style has shape {tuple(style.shape)}: give N x {styles} weights that sum to 1.")


def count_params(module: nn.Module) -> int:
    """Learned weights."""
    return sum(p.numel() for p in module.parameters())


def count_macs(generator: Generator, height: int = 256, width: int = 256) -> int:
    """Multiply-accumulates of all convolutions for one ``height x width`` image."""
    total = 0

    def add(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)  # hooks are registered on convolutions only
        total += module.weight[0].numel() * output.numel() // output.shape[0]

    hooks = [m.register_forward_hook(add) for m in generator.modules() if isinstance(m, nn.Conv2d)]
    was_training = generator.training
    generator.eval()
    try:
        with torch.no_grad():
            style = torch.full((1, generator.config.styles), 1.0 / generator.config.styles)
            generator(torch.zeros(1, 3, height, width), style)
    finally:
        for hook in hooks:
            hook.remove()
        generator.train(was_training)
    return total
