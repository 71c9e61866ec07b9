"""Cross-layer equalization: the same function, with channels that share an int8 scale made equally large.

int8 has one scale for all channels of an activation. In the linear streams of the network (bottlenecks, joins,
residual sums) a channel's size is arbitrary: dividing it by ``d`` in every convolution that writes it and multiplying
by ``d`` in every one that reads it changes nothing in float. Chosen so that all channels reach the same maximum, no
channel lives on a few of the 256 steps. After Nagel et al. 2019, arXiv:1906.04721, section 4.1, with activation ranges
from calibration in place of weight ranges, since weights are quantized per channel here and lose nothing.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from converters.calibration import CalibrationSet
from converters.graph import DeployGraph, example_inputs

aten = torch.ops.aten

#: A channel is made at most this much larger; a dead channel would otherwise be blown up to noise.
MAX_GAIN = 64.0
#: Photo x style pairs that are looked at: channel maxima need fewer than ranges do, and any divisor is exact.
MAX_PAIRS = 40
_SAME = {aten.upsample_bilinear2d.vec, aten.relu.default}


def equalize(graph: DeployGraph, calibration: CalibrationSet) -> DeployGraph:
    """Copies a graph and equalizes its linear streams; ``converters.graph.prove_fold`` holds for the copy as well.

    Args:
        graph: from ``converters.graph.deployable``.
        calibration: photos and styles that show how large each channel becomes.
    """
    made = copy.deepcopy(graph)
    with torch.no_grad():
        for name, factor in equalizing_factors(graph, calibration).items():
            made.get_parameter(name).mul_(factor)
    return made


def equalizing_factors(graph: DeployGraph, calibration: CalibrationSet) -> dict[str, Tensor]:
    """What ``equalize`` multiplies parameters of a graph by: factors > 0 by name, that spread to the parameter's shape.

    Parameters that stay as they are have none. Arguments as for ``equalize``.
    """
    graph = copy.deepcopy(graph)  # tracing leaves its marks
    program = torch.export.export(graph, example_inputs(graph, calibration.size))
    streams = _Streams(program)
    watched = [node for node in program.graph.nodes if streams.is_free(node)]
    if not watched:
        return {}
    largest = _largest(program.module(), {node.name for node in watched}, calibration, baked=graph.baked)
    divisors = {root: _divisor([largest[node.name] for node in nodes]) for root, nodes in streams.members(watched)}
    factors: dict[str, Tensor] = {}
    for link in streams.links:
        rows = torch.ones(len(graph.get_parameter(link.weight)))
        for root, power in link.rows:
            rows = rows * divisors[root] ** power if root in divisors else rows
        if link.bias is not None:
            factors[link.bias] = rows
        columns = divisors.get(link.columns, torch.ones(1)).view((-1, 1) if link.depthwise else (1, -1))
        factors[link.weight] = (rows.view(-1, 1) * columns)[:, :, None, None]
    return factors


@dataclass(frozen=True, kw_only=True)
class _Link:
    """A convolution between streams: weight ``o x i`` becomes ``weight * rows(o) * columns(i)``.

    ``rows`` lists (stream, power): -1 for the stream it writes, +1 for one whose scaling it undoes.
    """

    weight: str
    bias: str | None
    columns: fx.Node
    rows: tuple[tuple[fx.Node, int], ...]
    depthwise: bool


@dataclass
class _Streams:
    """Tensors of an exported graph whose channels may be scaled freely, joined where they must be scaled alike."""

    program: torch.export.ExportedProgram
    links: list[_Link] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}
        self._fixed: set[fx.Node] = set()
        graph, signature = self.program.graph, self.program.graph_signature
        self._parameters = dict(signature.inputs_to_parameters)
        gains: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}  # style gain -> (what it multiplies, the product)
        for node in graph.nodes:
            if node.op == "call_function":
                self._read(node, gains)
            elif node.op == "output":
                self._fix(*node.all_input_nodes)
        for node in graph.nodes:
            if node.op == "call_function" and node.target is aten.conv2d.default:
                self.links.append(self._link(node, gains))
        self.links = [link for link in self.links if link.weight]

    def root(self, node: fx.Node) -> fx.Node:
        """The representative of the tensors that are scaled like this one."""
        while node in self._parent:
            node = self._parent[node]
        return node

    def is_free(self, node: fx.Node) -> bool:
        """Whether the channels of a tensor may be scaled."""
        return node.op == "call_function" and self._is_picture(node) and self.root(node) not in self._roots_fixed()

    def members(self, nodes: list[fx.Node]) -> list[tuple[fx.Node, list[fx.Node]]]:
        """The tensors by representative."""
        grouped: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in nodes:
            grouped[self.root(node)].append(node)
        return list(grouped.items())

    def _read(self, node: fx.Node, gains: dict[fx.Node, tuple[fx.Node, fx.Node]]) -> None:
        inputs = node.all_input_nodes
        if node.target is aten.conv2d.default:
            groups = node.args[6] if len(node.args) > 6 else 1
            plain = groups in (1, self._channels(node)) and inputs[1].name in self._parameters
            if not plain or len(inputs[1].users) > 1:
                self._fix(inputs[0], node)
        elif node.target is aten.add.Tensor and self._same_channels(node):
            self._join(node, *inputs)
        elif node.target in _SAME:
            self._join(node, inputs[0])
        elif node.target is aten.mul.Tensor and self._same_channels(node) and self._is_gain(inputs[1]):
            gains[inputs[1]] = (inputs[0], node)
        else:
            self._fix(node, *inputs)

    def _link(self, node: fx.Node, gains: dict[fx.Node, tuple[fx.Node, fx.Node]]) -> _Link:
        source, weight = node.args[0], node.args[1]
        assert isinstance(source, fx.Node)
        assert isinstance(weight, fx.Node)
        bias = node.args[2] if len(node.args) > 2 else None
        groups = node.args[6] if len(node.args) > 6 else 1
        rows: tuple[tuple[fx.Node, int], ...] = ((self.root(node), -1),)
        if node in gains:
            multiplied, product = gains[node]
            rows = ((self.root(multiplied), 1), (self.root(product), -1))
        return _Link(
            weight=self._parameters.get(weight.name, ""),
            bias=self._parameters.get(bias.name) if isinstance(bias, fx.Node) else None,
            columns=self.root(source),
            rows=rows,
            depthwise=bool(groups != 1),
        )

    def _is_gain(self, node: fx.Node) -> bool:
        """What a style's scale is: a convolution's result of one pixel, read by one multiplication.

        It does not matter whether it is a style's, so no name is asked: whatever comes in, a convolution without a bias
        that only one product reads can take up any scaling of that product's channels, exactly.
        """
        return (
            node.target is aten.conv2d.default
            and len(node.users) == 1
            and tuple(node.meta["val"].shape[2:]) == (1, 1)
            and len(node.args) == 2
        )

    def _is_picture(self, node: fx.Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.ndim == 4 and value.shape[2:].numel() > 1

    def _channels(self, node: fx.Node) -> int:
        return int(node.meta["val"].shape[1])

    def _same_channels(self, node: fx.Node) -> bool:
        """Whether a sum or product is of two tensors with as many channels as it has: none is spread over all."""
        values = [one.meta.get("val") for one in node.all_input_nodes]
        return len(values) == 2 and all(
            isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == self._channels(node) for value in values
        )

    def _join(self, *nodes: fx.Node) -> None:
        first = self.root(nodes[0])
        for node in nodes[1:]:
            other = self.root(node)
            if other is not first:
                self._parent[other] = first

    def _fix(self, *nodes: fx.Node) -> None:
        self._fixed.update(nodes)

    def _roots_fixed(self) -> set[fx.Node]:
        placeholders = {n for n in self.program.graph.nodes if n.op == "placeholder"}
        return {self.root(node) for node in self._fixed | placeholders}


def _divisor(largest: list[Tensor]) -> Tensor:
    """C divisors from the channel maxima of the tensors of one stream: the most demanding tensor counts."""
    relative = torch.stack([channel / channel.max().clamp(min=1e-12) for channel in largest])
    return relative.amax(0).clamp(min=1.0 / MAX_GAIN)


def _largest(module: nn.Module, names: set[str], calibration: CalibrationSet, *, baked: bool) -> dict[str, Tensor]:
    """Largest absolute value of every channel of the named tensors over a calibration set."""
    assert isinstance(module, fx.GraphModule)
    found: dict[str, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if n.name in names:
                assert isinstance(result, Tensor)
                channels = result.abs().amax((0, 2, 3))
                found[n.name] = torch.maximum(found[n.name], channels) if n.name in found else channels
            return result

    watch = Watch(module)
    with torch.no_grad():
        for inputs in itertools.islice(calibration.tensors(baked=baked), MAX_PAIRS):
            watch.run(*inputs)
    return found
