"""The deployed graph's parameters as a function of the network's, which gradients pass.

``converters.graph.deployable`` folds once, for good. To train a network through its deployed form the fold has to be
done in each step: the graph's weights are computed from the network's own, the loss is that of the graph, and its
gradient arrives at the kernels, scales, shifts and style rows of the network. Population statistics are constants here,
as they are in the deployed graph.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converters.graph import FOLD_TOLERANCE, DeployGraph, StyleAffine
from sdk.errors import GateError
from training.models.generator import Generator, Tail
from training.models.norm import ConditionalNorm2d, Statistics

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class _Norm:
    """A convolution and the norm after it, by the names of their tensors in the network; ``None``: there is none."""

    weight: str
    bias: str | None
    gamma: str | None
    beta: str | None
    mean: str
    variance: str
    epsilon: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rearranged:
    """A tensor whose values are those of others, laid end to end, at ``places`` (int64, any shape)."""

    sources: tuple[str, ...]
    places: Tensor


class Fold:
    """Computes the parameters of a multi-style graph from those of its network.

    Args:
        network: on running statistics; its structure is read, and the network not kept.

    Raises:
        ValueError: instance statistics, which are no constants.
    """

    def __init__(self, network: Generator) -> None:
        if network.config.statistics is Statistics.INSTANCE:
            raise ValueError("instance statistics cannot be folded: they are not constants.")
        self._norms = _read_norms(network)
        self._rearranged = _read_rearranged(network)

    def __call__(self, network: Generator, factors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The graph's parameters by name, differentiable in the network's.

        Args:
            network: of the structure that was read.
            factors: what parameters of the graph are multiplied by (``converters.equalize.equalizing_factors``).
        """
        given: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        made: dict[str, Tensor] = {}
        taken: set[str] = set()
        for norm in self._norms:
            scale = torch.rsqrt(given[norm.variance] + norm.epsilon)
            if norm.gamma is not None:
                scale = scale * given[norm.gamma]
            shift = (given[norm.bias] if norm.bias is not None else 0.0) - given[norm.mean]
            bias = shift * scale
            if norm.beta is not None:
                bias = bias + given[norm.beta]
            made[norm.weight] = given[norm.weight] * scale.view(-1, 1, 1, 1)
            made[norm.weight.removesuffix("weight") + "bias"] = bias
            taken.update(n for n in (norm.weight, norm.bias, norm.gamma, norm.beta) if n is not None)
        for name, rearranged in self._rearranged.items():
            values = torch.cat([given[source].flatten() for source in rearranged.sources])
            made[name] = values[rearranged.places]
            taken.update(rearranged.sources)
        made |= {name: given[name] for name, _ in network.named_parameters() if name not in taken}
        named = {f"network.{name}": value for name, value in made.items()}
        for name, factor in (factors or {}).items():
            named[name] = named[name] * factor
        return named

    def prove(self, network: Generator, graph: DeployGraph) -> None:
        """Compares what is computed with what ``deployable`` folded.

        Args:
            network: as it is now.
            graph: multi-style, what ``deployable`` makes of it.

        Raises:
            GateError: something was folded in another way.
        """
        with torch.no_grad():
            made = self(network)
        wanted = dict(graph.named_parameters())
        wrong = sorted(set(made) ^ set(wanted)) or [
            name
            for name, value in wanted.items()
            if not torch.allclose(made[name], value, rtol=FOLD_TOLERANCE, atol=FOLD_TOLERANCE)
        ]
        if wrong:
            raise GateError(
                f"the network folds in another way for training than for export ({len(wrong)} tensors, first "
                f"{wrong[0]}), so training would fit another graph: report this."
            )


def _read_norms(network: Generator) -> list[_Norm]:
    """Every norm on population statistics with the convolution before it, from the exported network."""
    traced = copy.deepcopy(network).eval()
    inputs = (torch.zeros(1, 3, 32, 32), torch.full((1, network.config.styles), 1.0 / network.config.styles))
    program = torch.export.export(traced, inputs)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}

    def tensor(node: object) -> str | None:
        return names[node.name] if isinstance(node, torch.fx.Node) else None

    found = []
    for node in program.graph.nodes:
        if node.target is not aten.batch_norm.default:
            continue
        conv, gamma, beta, mean, variance = node.args[:5]
        if conv.target is not aten.conv2d.default:
            raise ValueError(f"the norm {node.name} has no convolution right before it and cannot be folded.")
        weight, mean, variance = tensor(conv.args[1]), tensor(mean), tensor(variance)
        assert weight is not None
        assert mean is not None
        assert variance is not None
        found.append(
            _Norm(
                weight=weight,
                bias=tensor(conv.args[2]) if len(conv.args) > 2 else None,
                gamma=tensor(gamma),
                beta=tensor(beta),
                mean=mean,
                variance=variance,
                epsilon=float(node.args[7]),
            )
        )
    return found


def _read_rearranged(network: Generator) -> dict[str, _Rearranged]:
    """Style rows and the tail's bias: where each value goes is read off a copy that holds numbers of places."""
    made: dict[str, _Rearranged] = {}
    for path, module in network.named_modules():
        if isinstance(module, ConditionalNorm2d):
            count = module.gamma.numel()
            rows = torch.arange(2.0 * count).view(2, *module.gamma.shape)
            affine: nn.Module = StyleAffine(rows[0], rows[1])
            for name, places in affine.named_parameters():
                made[f"{path}.{name}"] = _Rearranged(sources=(f"{path}.gamma", f"{path}.beta"), places=places.long())
    if isinstance(network.tail, Tail):
        tail = copy.deepcopy(network.tail)
        assert tail.bias is not None  # its constructor makes one
        tail.bias.data = torch.arange(float(len(tail.bias)))
        bias = tail.plain().bias
        assert bias is not None
        made["tail.bias"] = _Rearranged(sources=("tail.bias",), places=bias.detach().long())
    return made
