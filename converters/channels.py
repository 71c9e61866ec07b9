"""Channels that can go: which layers share them, which of them matter least, and the network without them.

Layers are coupled: what a residual adds must be as wide as what it is added to, a depthwise convolution is as wide as
its input, and a norm's style rows have a column for each channel. Torch-Pruning (Fang et al. 2023, arXiv:2301.12900)
finds these groups by tracing, and cuts a group as a whole; ``StyleRows`` teaches it our conditional norm.

Its ready-made pruners are not used, for three reasons: they round to 8 by dropping what does not fill a multiple, so
that a layer of 16 channels never loses any at 20 % a step; they judge kernels without the norm behind them, whose
scale then decides by chance; and they know no price in multiplications.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from training.models.attention import PixelAttention
from training.models.generator import Generator, config_with_widths
from training.models.norm import ConditionalNorm2d, SpatialFeatureTransform, Statistics


class Ranking(StrEnum):
    """Which channels go in a step."""

    #: The least important ones of the whole network, wherever they are.
    GLOBAL = "global"
    #: The same share of every group, as near as the rounding allows.
    LAYER = "layer"
    #: Those whose loss is measured to change the picture least for the multiplications it saves; the share is one of
    #: multiplications (after NetAdapt, Yang et al. 2018, arXiv:1804.03230). Within a group L1 chooses.
    DAMAGE = "damage"


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelGroup:
    """Channels that live and die together.

    Attributes:
        name: path of a convolution that writes them.
        scores: importance of each channel, 1 on average over the group.
        macs: multiplications that one of them costs, summed over the layers that write or read it.
        layers: paths of all convolutions and norms that have these channels.
    """

    name: str
    scores: Tensor
    macs: float
    layers: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.scores)


class StyleRows(tp.BasePruningFunc):
    """Cuts columns out of a ``ConditionalNorm2d``: of its style rows, which all stay, and of its statistics."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Removes channels ``idxs``."""
        assert isinstance(layer, ConditionalNorm2d)
        gone = set(idxs)
        kept = torch.tensor([channel for channel in range(layer.channels) if channel not in gone])
        layer.channels = len(kept)
        layer.gamma = nn.Parameter(layer.gamma.detach()[:, kept])
        layer.beta = nn.Parameter(layer.beta.detach()[:, kept])
        if layer.statistics is Statistics.RUNNING:
            layer.running_mean, layer.running_var = layer.running_mean[kept], layer.running_var[kept]
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> int:
        """Number of channels."""
        assert isinstance(layer, ConditionalNorm2d)
        return layer.channels

    get_in_channels = get_out_channels


def read_groups(generator: Generator, *, size: tuple[int, int] = (256, 256)) -> list[ChannelGroup]:
    """The groups of a network that may be narrowed, each with its channels' importance.

    The importance of a channel is the L1 norm (Li et al. 2017, arXiv:1608.08710) of the weights that write it and of
    those that read it, with the norms folded in. Each layer's norms are divided by their mean over the channels, so
    that each layer has one say; the says are averaged.

    The three channels of the image, the twelve of the tail, the style rows, and the inner widths of a squeeze-excite,
    an SFT or an attention, which follow from other settings, are no part of any group.

    Args:
        generator: in eval mode; it is not changed.
        size: (height, width) of the image that multiplications are counted for.
    """
    network = copy.deepcopy(generator).requires_grad_(True)
    graph = _trace(network)
    positions = _positions(network, size)
    names = {module: name for name, module in network.named_modules()}
    groups = []
    for group in _groups(graph, network):
        width = len(group[0].idxs)
        total, says, macs = torch.zeros(width), 0, 0.0
        layers = []
        for item in group:
            layer, writes = item.dep.layer, graph.is_out_channel_pruning_fn(item.dep.handler)
            if layer in names:
                layers.append(names[layer])
            if not isinstance(layer, nn.Conv2d):
                continue
            weights = layer.weight.detach().abs() * _norm_scale(graph, layer).view(-1, 1, 1, 1)
            depthwise = layer.groups > 1
            each = weights.flatten(1).sum(1) if writes or depthwise else weights.transpose(0, 1).flatten(1).sum(1)
            share = each[torch.tensor(item.idxs)]
            total.index_add_(0, torch.tensor(item.root_idxs), share / share.mean().clamp(min=1e-12))
            says += 1
            macs += layer.weight.numel() * positions[layer] / len(each) * len(item.idxs) / width
        groups.append(
            ChannelGroup(
                name=names[group[0].dep.layer], scores=total / says, macs=macs, layers=tuple(dict.fromkeys(layers))
            )
        )
    return groups


def choose_channels(
    groups: Sequence[ChannelGroup], share: float, *, ranking: Ranking, round_to: int, before: Mapping[str, float]
) -> dict[str, tuple[int, ...]]:
    """The channels that go in one step by L1; a width that changes becomes a multiple of ``round_to``, at least one.

    Args:
        groups: see ``read_groups``.
        share: of the channels of all groups (``GLOBAL``) or of each group (``LAYER``).
        ranking: see ``Ranking``.
        round_to: in channels.
        before: the width that each group had if widths were not rounded, for ``LAYER``: a group of 16 is then
            narrowed to 8 in the step in which its exact width falls below 12.

    Returns:
        By group name the indices of channels, in ascending order; groups that stay are absent. Empty when nothing
        can go any more.
    """
    counts: dict[str, int] = {}
    if ranking is Ranking.LAYER:
        for group in groups:
            target = max(round_to, int((1 - share) * before[group.name] / round_to + 0.5) * round_to)
            counts[group.name] = max(0, group.width - target)
    else:
        wanted = share * sum(group.width for group in groups)
        bundles = []
        for group in groups:
            # Within a group the scores of its bundles ascend, so that none goes before a weaker one.
            ordered = group.scores.sort().values
            places = [0, *_places(group, round_to)]
            bundles += [(float(ordered[a:b].mean()), group.name, b - a) for a, b in itertools.pairwise(places)]
        for _, name, size in sorted(bundles):
            if wanted < size / 2:
                break
            counts[name] = counts.get(name, 0) + size
            wanted -= size
    return {group.name: _weakest(group, counts[group.name]) for group in groups if counts.get(group.name)}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Channels that can be taken from a group at once.

    Attributes:
        group: its name.
        count: how many of the group's weakest channels are gone with it, those of the pieces before included.
        price: damage it adds for each multiplication it saves.
    """

    group: str
    count: int
    price: float


def weigh_pieces(
    generator: Generator, groups: Sequence[ChannelGroup], *, round_to: int, judge: Callable[[Generator], float]
) -> list[Piece]:
    """Narrows each group alone, in up to four ever larger pieces, and measures the damage (``Ranking.DAMAGE``).

    Args:
        generator: the network.
        groups: its groups.
        round_to: widths become multiples of it, at least one.
        judge: the damage of a narrowed network, 0 for none; it may change the network.
    """
    pieces = []
    for group in groups:
        spent, price, before = 0.0, 0.0, 0
        for count in _some(list(_places(group, round_to))):
            damage = judge(cut(generator, {group.name: _weakest(group, count)}))
            # No piece is cheaper than the one that has to go before it.
            price = max(price, (damage - spent) / (group.macs * (count - before)))
            pieces.append(Piece(group=group.name, count=count, price=price))
            spent, before = damage, count
    return pieces


def choose_by_damage(
    groups: Sequence[ChannelGroup], pieces: Sequence[Piece], wanted: float
) -> dict[str, tuple[int, ...]]:
    """The channels that go in one step by measured damage: the cheapest pieces, as if damages added up.

    Args:
        groups: see ``read_groups``.
        pieces: see ``weigh_pieces``.
        wanted: multiplications to save.

    Returns:
        As ``choose_channels``.
    """
    macs = {group.name: group.macs for group in groups}
    counts: dict[str, int] = {}
    for piece in sorted(pieces, key=lambda piece: piece.price):
        saved = macs[piece.group] * (piece.count - counts.get(piece.group, 0))
        if wanted < saved / 2:
            continue
        counts[piece.group] = piece.count
        wanted -= saved
    return {group.name: _weakest(group, counts[group.name]) for group in groups if counts.get(group.name)}


def _places(group: ChannelGroup, round_to: int) -> Iterator[int]:
    """How many channels can be taken from a group so that a multiple of ``round_to``, at least one, is left."""
    yield from range(group.width % round_to or round_to, group.width - round_to + 1, round_to)


def _some(places: Sequence[int]) -> Sequence[int]:
    """At most four places, up to half of all of them: more of a group never goes in one step."""
    half = places[: max(1, (len(places) + 1) // 2)]
    return [half[index] for index in sorted({(len(half) - 1) * k // 3 for k in range(4)})] if half else []


def _weakest(group: ChannelGroup, count: int) -> tuple[int, ...]:
    return tuple(sorted(group.scores.argsort()[:count].tolist()))


def cut(generator: Generator, channels: Mapping[str, Sequence[int]]) -> Generator:
    """The network without some channels: an ordinary one, whose config states its widths.

    Args:
        generator: it is not changed.
        channels: by group name (``ChannelGroup.name``) the indices that go.

    Raises:
        ValueError: a layer was narrowed that the config cannot state.
    """
    network = copy.deepcopy(generator).requires_grad_(True)
    graph = _trace(network)
    for name, indices in channels.items():
        graph.get_pruning_group(network.get_submodule(name), tp.prune_conv_out_channels, list(indices)).prune()
    return rebuild(network)


def rebuild(network: Generator) -> Generator:
    """An ordinary network of the widths and weights that a network has after its layers were narrowed in place.

    Raises:
        ValueError: a layer was narrowed that the config cannot state.
    """
    made = Generator(config_with_widths(network))
    state = network.state_dict()
    wrong = [name for name, value in made.state_dict().items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise ValueError(f"the config cannot state the width of {wrong[0]}: extend training.models.generator.")
    made.load_state_dict(state)
    return made.train(network.training)


def _trace(network: Generator) -> Any:
    """Torch-Pruning's dependency graph of a network whose weights take gradients, which it traces by."""
    styles = network.config.styles
    example = (torch.full((1, 3, 32, 32), 0.5), torch.full((1, styles), 1.0 / styles))
    was_training = network.training
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(
            network, example, customized_pruners={ConditionalNorm2d: StyleRows()}, verbose=False
        )
    network.train(was_training)
    return graph


def _groups(graph: Any, network: Generator) -> Iterator[Any]:
    fixed: list[nn.Module] = [network.tail]
    for module in network.modules():
        if isinstance(module, SpatialFeatureTransform):
            fixed += [layer for layer in module.trunk if isinstance(layer, nn.Conv2d)]
        if isinstance(module, PixelAttention):
            fixed += [module.value, module.gate]
        gate = getattr(module, "conv_reduce", None)  # timm's SqueezeExcite
        if isinstance(gate, nn.Conv2d):
            fixed.append(gate)
    return graph.get_all_groups(ignored_layers=fixed, root_module_types=[nn.Conv2d])


def _positions(network: Generator, size: tuple[int, int]) -> dict[nn.Module, int]:
    """Pixels that each convolution writes for an image of a size."""
    seen: dict[nn.Module, int] = {}

    def note(module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[module] = output.shape[2] * output.shape[3]

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, *size), torch.full((1, network.config.styles), 1.0 / network.config.styles))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _norm_scale(graph: Any, conv: nn.Conv2d) -> Tensor:
    """What the norm behind a convolution multiplies each of its channels by, ``C``; ones when there is no norm."""
    nodes = list(graph.module2node[conv].outputs)
    for node in nodes:  # grows: the norm is behind the operations it is made of
        norm = node.module
        if isinstance(norm, ConditionalNorm2d):
            gamma = norm.gamma.detach().abs().mean(0)
            # Instance statistics divide by a deviation of each image, which nobody knows here.
            return gamma * norm.population()[0].detach() if norm.statistics is Statistics.RUNNING else gamma
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_var is not None
            return norm.weight.detach().abs() * torch.rsqrt(norm.running_var + norm.eps)
        if not isinstance(norm, nn.Conv2d):
            nodes += [follower for follower in node.outputs if follower not in nodes]
    return torch.ones(conv.out_channels)
