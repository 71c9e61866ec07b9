"""From the trained network to the graph that is deployed: norms folded, style baked, borders wrapped.

``deployable`` copies the network, folds every batch norm into the convolution before it and, with one baked style, the
conditional norms as well, so that a baked graph is convolutions, additions, ReLU6, upsampling and a clamp.  No fold is
believed: ``prove_fold`` compares the graph with the unfolded network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sdk.errors import GateError, UsageError
from sdk.spec import Precision, Target, check_size
from training.models.generator import Generator, Tail
from training.models.named import NamedGenerator
from training.models.norm import EPSILON, ConditionalNorm2d, Statistics

#: Largest difference a fold may make, before the clamp, on pictures in [0, 1]: float32 rounding and nothing more.
FOLD_TOLERANCE = 1e-5


class DeployGraph(nn.Module):
    """The network as it is deployed, in eval mode, without gradients.

    ``graph(image, style)`` for a multi-style graph, ``graph(image)`` for a baked one; image and result are
    ``N x 3 x H x W`` RGB in [0, 1], style is ``N x S`` weights that sum to 1.  Made by ``deployable``.

    Attributes:
        styles: S, the width of the style input; 0 when a style is baked.
        statistics: of the conditional norms of the network it was made from.
    """

    def __init__(self, network: Generator, *, styles: int) -> None:
        super().__init__()
        self.network = network
        self.styles = styles
        self.statistics = network.config.statistics

    @property
    def baked(self) -> bool:
        """Whether one style is baked in, so that the graph takes the image alone."""
        return not self.styles

    def raw(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """The picture before the clamp; arguments and result as for the call."""
        skips = self.network.encoder(image)
        if style is None:
            return self.network.decode(skips, image)  # no norm looks at a style any more
        return self.network.decode(skips, style[:, :, None, None])

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """``N x 3 x H x W`` in [0, 1] and, unless baked, ``N x S`` to ``N x 3 x H x W`` in [0, 1]."""
        return torch.clamp(self.raw(image, style), 0.0, 1.0)


class NamedGraph(DeployGraph):
    """A named generator as it is deployed: as it was trained, for there is nothing to fold; the style changes nothing.

    Attributes:
        architecture: its name.
    """

    def __init__(self, network: NamedGenerator, *, styles: int) -> None:
        nn.Module.__init__(self)
        self.named = network
        self.architecture = network.config.architecture
        self.styles = styles
        self.statistics = network.config.statistics

    def raw(self, image: Tensor, style: Tensor | None = None) -> Tensor:  # noqa: ARG002  it draws one style
        """The picture, which a tanh keeps in [0, 1]; arguments and result as for the call."""
        made: Tensor = self.named.network(image)
        return made


class StyleAffine(nn.Module):
    """What is left of a conditional norm once its statistics are folded away: the style's scale and shift.

    The rows are looked up by two 1x1 convolutions on a picture of one pixel, because a convolution's output already has
    the shape ``N x C x 1 x 1`` that the scaling needs, its weights are quantized per channel, and it stays in one
    delegate everywhere; ``style @ rows`` costs reshapes and, with rows computed in the graph, a second delegate.
    """

    def __init__(self, gamma: Tensor, beta: Tensor) -> None:
        super().__init__()
        rows, channels = gamma.shape
        self.scale = nn.Conv2d(rows, channels, 1, bias=False)
        self.shift = nn.Conv2d(rows, channels, 1, bias=False)
        self.scale.weight = nn.Parameter(gamma.detach().T[:, :, None, None].contiguous(), requires_grad=False)
        self.shift.weight = nn.Parameter(beta.detach().T[:, :, None, None].contiguous(), requires_grad=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``N x C x H x W`` and ``N x S x 1 x 1`` to ``N x C x H x W``."""
        return x * self.scale(style) + self.shift(style)


class InstanceNorm(nn.Module):
    """A conditional norm on instance statistics, in stock operators; float only."""

    def __init__(self, gamma: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.affine = StyleAffine(gamma, beta)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``N x C x H x W`` and ``N x S x 1 x 1`` to ``N x C x H x W``."""
        return self.affine(_standardize(x), style)


class BakedInstanceNorm(nn.Module):
    """A conditional norm on instance statistics with one style's scale and shift; float only."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.view(1, -1, 1, 1).clone())
        self.register_buffer("shift", shift.view(1, -1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """``N x C x H x W`` to ``N x C x H x W``."""
        return _standardize(x) * self.scale + self.shift


def _standardize(x: Tensor) -> Tensor:
    """Zero mean and unit variance over a picture, per channel; ``nn.InstanceNorm2d`` would split an XNNPACK graph."""
    centred = x - x.mean((2, 3), keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + EPSILON)


class ChannelsLast(nn.Module):
    """NHWC in and out, for LiteRT: image and result ``N x H x W x 3``, style ``N x S``."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.inner = graph  # not "graph": torch.fx keeps its own attribute of that name

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """``N x H x W x 3`` in [0, 1] and, unless baked, ``N x S`` to ``N x H x W x 3`` in [0, 1]."""
        planes = image.permute(0, 3, 1, 2)
        made = self.inner(planes) if style is None else self.inner(planes, style)
        return made.permute(0, 2, 3, 1)


class PictureOutput(nn.Module):
    """The result in [0, 255], for Core ML's image output."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.inner = graph  # not `graph`: torch.export makes this a GraphModule, which has an attribute of that name

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """``N x 3 x H x W`` in [0, 1] and, unless baked, ``N x S`` to ``N x 3 x H x W`` in [0, 255]."""
        return (self.inner(image) if style is None else self.inner(image, style)) * 255.0


class ScaledPicture(nn.Module):
    """A float graph from [0, 255 / 256] to [0, 255], for Core ML's images in fp16.

    fp16 has 11 bits and an 8-bit picture needs 8 of them, so the borders must not waste any. Photo values divided by
    255 are rounded, divided by 256 (``INPUT_SCALE``) they are exact; a multiplication by 255 after the clamp rounds a
    second time. Both factors go into the weights of the first and the last convolution instead, and cost nothing.

    Beyond 128 the steps of fp16 are 1/8, so that one picture value in 32 is rounded to its neighbour. The last
    convolution therefore writes values around ``MIDDLE``, and the sign is the bit that halves the steps; the sum that
    takes them back to [0, 255] must be done in float32 (``converters.to_coreml``), where the border's cast is anyway.

    Args:
        graph: in float; it is copied, not changed.
    """

    #: What the 8-bit photo is multiplied by before it comes in.
    INPUT_SCALE = 1.0 / 256.0
    #: What the last convolution leaves out, in steps of 255.
    MIDDLE = 128.0

    def __init__(self, graph: DeployGraph) -> None:
        super().__init__()
        self.scaled = copy.deepcopy(graph)
        tail = self.scaled.network.tail
        with torch.no_grad():
            self.scaled.network.encoder.features.conv_stem.weight *= 1.0 / (255.0 * self.INPUT_SCALE)
            tail.weight *= 255.0
            assert tail.bias is not None  # the generator's tail has one
            tail.bias.mul_(255.0).sub_(self.MIDDLE)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """``N x 3 x H x W`` in [0, 255 / 256] and, unless baked, ``N x S`` to ``N x 3 x H x W`` in [0, 255]."""
        return torch.clamp(self.scaled.raw(image, style), -self.MIDDLE, 255.0 - self.MIDDLE) + self.MIDDLE


def deployable(generator: Generator | NamedGenerator, *, style: np.ndarray | None = None) -> DeployGraph:
    """Copies a network into the form that is deployed; the network itself is left alone.

    Args:
        generator: the trained network.
        style: ``S`` weights to bake (``sdk.spec.style_weights`` makes them from a name or a mix); ``None`` keeps every
            style and the style input.

    Raises:
        UsageError: when ``style`` has not S weights.
        ValueError: when a batch norm has no convolution right before it.
    """
    rows = generator.config.styles
    weights: Tensor | None = None
    if style is not None:
        weights = torch.as_tensor(np.asarray(style, dtype=np.float32)).reshape(-1)
        if weights.numel() != rows:
            raise UsageError(
                f"a style of {weights.numel()} weights was given to a network of {rows} styles: give {rows}."
            )
    network = copy.deepcopy(generator).eval().requires_grad_(False)
    if isinstance(network, NamedGenerator):
        return NamedGraph(network, styles=0 if weights is not None else rows).eval()
    with torch.no_grad():
        for conv, path, norm in _norms(network):
            _replace(network, path, _folded(conv, norm, weights))
    if isinstance(network.tail, Tail):
        network.tail = network.tail.plain().requires_grad_(False)
    for module in network.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False  # type: ignore[assignment]
        if hasattr(module, "conditional"):  # ConvNormAct: whether the norm takes the style
            module.conditional = isinstance(module.norm, StyleAffine | InstanceNorm)  # type: ignore[assignment]
    return DeployGraph(network, styles=0 if weights is not None else rows).eval()


def prove_fold(
    generator: Generator | NamedGenerator,
    graph: DeployGraph,
    *,
    style: np.ndarray | None = None,
    image: Tensor | None = None,
    tolerance: float = FOLD_TOLERANCE,
) -> float:
    """Compares a graph with the network it was made from, before the clamp, on every style and a mix of all.

    Args:
        generator: the unfolded network.
        graph: what ``deployable`` made of it.
        style: the weights that were baked, if any.
        image: ``N x 3 x H x W`` in [0, 1]; by default two seeded pictures of noise and gradients, 64 x 64.

    Returns:
        The largest absolute difference found, relative to the largest absolute value when that is above 1.

    Raises:
        GateError: when it is above ``tolerance``.
    """
    image = _probe() if image is None else image
    rows = generator.config.styles
    if graph.baked:
        styles = torch.as_tensor(np.asarray(style, dtype=np.float32)).reshape(1, rows)
    else:
        styles = torch.cat([torch.eye(rows), torch.full((1, rows), 1.0 / rows)])
    worst = 0.0
    was_training = generator.training
    generator.eval()
    try:
        with torch.no_grad():
            for row in styles:
                weights = row.expand(len(image), -1)
                want = generator.raw(image, weights)
                have = graph.raw(image) if graph.baked else graph.raw(image, weights)
                error = float((want - have).abs().max() / want.abs().max().clamp(min=1.0))
                worst = error if not error <= worst else worst  # a NaN stays
    finally:
        generator.train(was_training)
    if not worst <= tolerance:
        raise GateError(
            f"the folded graph differs from the network by {worst:.3g} (at most {tolerance:g} is allowed): "
            "a norm was folded wrongly; export the checkpoint again and report this."
        )
    return worst


def export_obstacle(generator: Generator | NamedGenerator, target: Target, precision: Precision) -> str | None:
    """Why a network cannot be exported to a target at a precision, as a clause; ``None``: nothing is known."""
    if isinstance(generator, NamedGenerator) and (target, precision) != (Target.ONNX, Precision.FP32):
        reason = "do not hold in int8" if target is Target.ONNX else "leave the delegates of phone runtimes"
        return f"its instance norms take statistics of the whole picture, which {reason}"
    return None


def int8_obstacle(graph: DeployGraph) -> str | None:
    """Why the graph must not be quantized to int8, or ``None`` when it may be."""
    if graph.statistics is Statistics.INSTANCE:
        return (
            "its norms take per-image (instance) statistics, whose mean, variance and reciprocal square "
            "root do not survive 8-bit ranges (SSIM falls to 0.84 and below)"
        )
    return None


def require_int8(graph: DeployGraph) -> None:
    """Refuses to quantize a graph that cannot hold in int8.

    Raises:
        UsageError: with the reason and the way out.
    """
    obstacle = int8_obstacle(graph)
    if obstacle:
        raise UsageError(
            f"this network cannot be exported as {Precision.INT8}: {obstacle}; export {Precision.FP32}, or train with "
            f"statistics: {Statistics.RUNNING}."
        )


def example_inputs(graph: DeployGraph, size: tuple[int, int], *, batch: int = 1) -> tuple[Tensor, ...]:
    """Contiguous inputs to trace a graph with: a mid-grey picture and, unless baked, equal weights."""
    height, width = check_size(*size)
    image = torch.full((batch, 3, height, width), 0.5)
    return (image,) if graph.baked else (image, torch.full((batch, graph.styles), 1.0 / graph.styles))


def _norms(network: Generator) -> Iterator[tuple[nn.Conv2d, str, nn.Module]]:
    """Every norm with its path and the convolution whose output it normalizes, found by running the network once."""
    makers: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # alive, so that no id is used twice
    before: dict[nn.Module, nn.Conv2d] = {}

    def note_output(module: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)  # hooks are registered on convolutions only
        makers[id(output)] = module
        kept.append(output)

    def note_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in makers:
            before[module] = makers[id(inputs[0])]

    norms = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d | ConditionalNorm2d)
    }
    hooks = [m.register_forward_hook(note_output) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(note_input) for m in norms.values()]
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, 32, 32), torch.full((1, network.config.styles), 1.0))
    finally:
        for hook in hooks:
            hook.remove()
    for path, module in norms.items():
        if module not in before:
            raise ValueError(f"the norm {path} has no convolution right before it and cannot be folded.")
        yield before[module], path, module


def _folded(conv: nn.Conv2d, norm: nn.Module, weights: Tensor | None) -> nn.Module:
    """Moves the constants of a norm into the convolution; returns what is left of it."""
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        act = getattr(norm, "act", None)  # timm's BatchNormAct2d carries its activation
        return act if isinstance(act, nn.Module) else nn.Identity()
    assert isinstance(norm, ConditionalNorm2d)
    if norm.statistics is Statistics.INSTANCE:
        if weights is None:
            return InstanceNorm(norm.gamma, norm.beta)
        return BakedInstanceNorm(weights @ norm.gamma, weights @ norm.beta)
    scale, shift = norm.population()
    if weights is not None:
        gamma, beta = weights @ norm.gamma, weights @ norm.beta
        scale, shift = scale * gamma, shift * gamma + beta
    bias = conv.bias if conv.bias is not None else torch.zeros_like(shift)
    conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
    conv.bias = nn.Parameter(bias * scale + shift, requires_grad=False)
    return StyleAffine(norm.gamma, norm.beta) if weights is None else nn.Identity()


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _probe() -> Tensor:
    """Two seeded 64 x 64 pictures that reach every value of [0, 1]: noise, and colour gradients."""
    ramp = torch.linspace(0, 1, 64)
    gradients = torch.stack([ramp.expand(64, 64), ramp.expand(64, 64).T, ramp.flip(0).expand(64, 64)])
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    return torch.stack([noise, gradients])
