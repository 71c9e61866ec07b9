"""A style's scale and shift inside the int8 convolution before them, for ONNX.

``relu6(conv(x) * scale + shift)`` costs an int8 graph two more passes over its largest activations, each with a
rounding of its own (docs/profile.md has their times). But an int8 convolution ends in a multiplication a channel
anyway, from the integer sum's step to the result's. With the style's scale multiplied into the *scale of the weights*,
and its shift written as the convolution's bias, both come at no pass at all. Both are computed from the style weights,
at run time, as one vector for the whole network:

    weight scale  =  weight scale * scale(style)
    bias          =  (bias * scale(style) + shift(style)) / (input scale * that weight scale),  rounded to int32

ONNX allows computed scales. ``fold_modulation`` writes them as DequantizeLinear before a ``Conv``, the QDQ form in
which the graph can be simulated. ONNX Runtime makes an integer convolution of that only when the scales are constants,
so ``integer_convolutions`` writes these as ``QLinearConv``, which takes computed ones. One style vector holds for a
whole run: not for batches in which each picture has its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdk.errors import UsageError

#: A channel's scale is held this far from zero, as a share of its largest over the styles: the bias is divided by it.
LEAST_SCALE = 1e-3
#: Largest bias; the sum of products comes on top, in 32 bits. Whatever is larger saturates the result anyway.
_LARGEST_BIAS = float(2**30)
_PREFIX = "modulation"


@dataclass(frozen=True, kw_only=True, eq=False)
class Modulated:
    """A convolution whose result is scaled and shifted by style.

    Attributes:
        conv: its node's name.
        end: the tensor after scale, shift and clamp, if there is one.
        bias: ``C`` float32, the convolution's own.
        scales: ``S x C`` float32, a row a style.
        shifts: ``S x C`` float32.
    """

    conv: str
    end: str
    bias: np.ndarray
    scales: np.ndarray
    shifts: np.ndarray


def find_modulated(model: onnx.ModelProto, style: str) -> tuple[Modulated, ...]:
    """The convolutions of a float graph that a style scales and shifts, and nothing but that reads.

    Args:
        model: traced from a deployed graph: ``conv(x) * conv1x1(style) + conv1x1(style)``, clamped or not.
        style: the name of the style input.
    """
    graph = _Graph(model.graph)
    found = []
    for multiply in graph.proto.node:
        if multiply.op_type != "Mul":
            continue
        conv, scales = graph.makers.get(multiply.input[0]), graph.rows(multiply.input[1], style)
        add = graph.only_reader(multiply.output[0], "Add")
        if conv is None or conv.op_type != "Conv" or len(conv.input) < 3 or scales is None or add is None:
            continue
        shifts = graph.rows(next(name for name in add.input if name != multiply.output[0]), style)
        if shifts is None or graph.only_reader(conv.output[0], "Mul") is None:
            continue
        clip = graph.only_reader(add.output[0], "Clip")
        found.append(
            Modulated(
                conv=conv.name,
                end=(add if clip is None else clip).output[0],
                bias=graph.constants[conv.input[2]],
                scales=scales,
                shifts=shifts,
            )
        )
    return tuple(found)


def fold_modulation(model: onnx.ModelProto, found: Sequence[Modulated], style: str) -> onnx.ModelProto:
    """Gives convolutions of a QDQ graph weight scales and biases that are computed from the style weights.

    A convolution that was left in float, or whose result keeps a clamp of its own, stays as it is.

    Args:
        model: int8 as QuantizeLinear / DequantizeLinear pairs, quantized from the graph that ``found`` is from; node
            names are the same.
        found: by ``find_modulated``.
        style: the name of the style input, ``1 x S``.

    Returns:
        A copy.

    Raises:
        UsageError: a style input that takes more than one style a run.
    """
    model = copy.deepcopy(model)
    graph = _Graph(model.graph)
    places = [(modulated, place) for modulated in found if (place := _place(graph, modulated)) is not None]
    if not places:
        return model
    (given,) = (tensor for tensor in model.graph.input if tensor.name == style)
    if given.type.tensor_type.shape.dim[0].dim_value != 1:
        raise UsageError("a batch of pictures with a style each cannot share one scale of weights: fold batches of 1.")
    scales, biases, bias_scales = _compute(graph, places, style)
    for index, (modulated, place) in enumerate(places):
        weight = graph.makers[place.conv.input[1]]
        names = [f"{modulated.conv}_{kind}" for kind in ("modulated_weight", "modulated_bias")]
        for node in (
            helper.make_node("DequantizeLinear", [weight.input[0], scales[index], weight.input[2]], [names[0]], axis=0),
            helper.make_node("DequantizeLinear", [biases[index], bias_scales[index]], [names[1]], axis=0),
        ):
            node.name = node.output[0]
            graph.proto.node.append(node)
        place.conv.input[1], place.conv.input[2] = names
        place.quantize.input[0] = place.conv.output[0]
    _tidy(model)
    return model


def integer_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Writes every convolution whose weight scale is computed as ``QLinearConv``; a copy.

    The result is what ONNX Runtime's own fusion would make of constant scales.
    """
    model = copy.deepcopy(model)
    graph = _Graph(model.graph)
    written = 0
    for conv in [node for node in graph.proto.node if node.op_type == "Conv"]:
        given, weight = (graph.makers.get(name) for name in conv.input[:2])
        quantize = graph.only_reader(conv.output[0], "QuantizeLinear")
        if given is None or weight is None or quantize is None or len(conv.input) < 3:
            continue
        if weight.op_type != "DequantizeLinear" or weight.input[1] in graph.constants:
            continue
        bias = graph.makers[conv.input[2]]
        node = helper.make_node(
            "QLinearConv",
            [*given.input, *weight.input, *quantize.input[1:], bias.input[0]],
            list(quantize.output),
            name=conv.name,
        )
        node.attribute.extend(conv.attribute)
        graph.proto.node.remove(quantize)
        conv.CopyFrom(node)
        written += 1
    if written:
        _tidy(model)
    return model


@dataclass(frozen=True, kw_only=True, eq=False)
class _Place:
    """A quantized convolution, the grid of its input, and the QuantizeLinear that reads what the style made of it."""

    conv: onnx.NodeProto
    input_scale: float
    weight_scales: np.ndarray
    quantize: onnx.NodeProto


def _place(graph: _Graph, modulated: Modulated) -> _Place | None:
    conv = next((node for node in graph.proto.node if node.name == modulated.conv), None)
    # The quantizer lets the grid do a clamp's work: what it quantizes is then called after the clamp.
    quantize = graph.only_reader(modulated.end, "QuantizeLinear")
    made_by = graph.makers.get(modulated.end)
    if conv is None or quantize is None or made_by is None or made_by.op_type != "Add":
        return None
    given, weight = (graph.makers.get(name) for name in conv.input[:2])
    if given is None or weight is None or {given.op_type, weight.op_type} != {"DequantizeLinear"}:
        return None
    return _Place(
        conv=conv,
        input_scale=float(graph.constants[given.input[1]]),
        weight_scales=graph.constants[weight.input[1]],
        quantize=quantize,
    )


def _compute(
    graph: _Graph, places: Sequence[tuple[Modulated, _Place]], style: str
) -> tuple[list[str], list[str], list[str]]:
    """Adds the nodes from the style input to one weight scale, int32 bias and bias scale a convolution; their names.

    All convolutions are computed as one vector: a node costs a runtime more than its few hundred values do.
    """
    channels = [len(modulated.bias) for modulated, _ in places]
    scales = np.concatenate([modulated.scales for modulated, _ in places], axis=1)
    largest = np.abs(scales).max(axis=0)
    values = {
        "scales": scales,
        "shifts": np.concatenate([modulated.shifts for modulated, _ in places], axis=1),
        "least": LEAST_SCALE * np.where(largest > 0, largest, 1.0),  # a channel that no style scales is its shift
        "biases": np.concatenate([modulated.bias for modulated, _ in places]),
        "weight_scales": np.concatenate([place.weight_scales for _, place in places]),
        "input_scales": np.concatenate(
            [np.full(count, place.input_scale) for count, (_, place) in zip(channels, places, strict=True)]
        ),
        "low": np.array(-_LARGEST_BIAS),
        "high": np.array(_LARGEST_BIAS),
    }
    for name, value in values.items():
        graph.add_constant(f"{_PREFIX}_{name}", value.astype(np.float32))
    graph.add_constant(f"{_PREFIX}_flat", np.array([-1], np.int64))
    graph.add_constant(f"{_PREFIX}_channels", np.array(channels, np.int64))

    def node(kind: str, output: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> None:
        names = [f"{_PREFIX}_{name}" if name != style else name for name in inputs]
        made = helper.make_node(kind, names, list(outputs) or [f"{_PREFIX}_{output}"], **attributes)
        made.name = f"{_PREFIX}_{output}"
        graph.proto.node.append(made)

    node("MatMul", "scale", style, "scales")
    node("MatMul", "shift", style, "shifts")
    node("Abs", "size", "scale")
    node("Less", "is_small", "size", "least")
    node("Where", "safe", "is_small", "least", "scale")
    node("Mul", "weight_scale", "safe", "weight_scales")
    node("Mul", "bias_scale", "weight_scale", "input_scales")
    node("Mul", "scaled", "scale", "biases")
    node("Add", "bias", "scaled", "shift")
    node("Div", "steps", "bias", "bias_scale")
    node("Round", "whole", "steps")
    node("Clip", "bounded", "whole", "low", "high")
    node("Cast", "int32", "bounded", to=TensorProto.INT32)
    parts = []
    for source in ("weight_scale", "int32", "bias_scale"):
        names = [f"{modulated.conv}_{source}" for modulated, _ in places]
        node("Reshape", f"{source}_flat", source, "flat")
        node("Split", f"{source}_split", f"{source}_flat", "channels", outputs=names, axis=0)
        parts.append(names)
    return parts[0], parts[1], parts[2]


class _Graph:
    """A graph with its makers, readers and constants at hand, as they were when it was read."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        self.proto = proto
        self.makers: dict[str, onnx.NodeProto] = {output: node for node in proto.node for output in node.output}
        self.constants: Mapping[str, np.ndarray] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer
        }
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def only_reader(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The node that reads a tensor, if it is the only one and of this type."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None

    def rows(self, name: str, style: str) -> np.ndarray | None:
        """``S x C``, when a tensor is a 1x1 convolution without bias of the style weights as a picture of one pixel."""
        conv = self.makers.get(name)
        if conv is None or conv.op_type != "Conv" or len(conv.input) != 2:
            return None
        source = conv.input[0]
        while source != style:
            maker = self.makers.get(source)
            if maker is None or maker.op_type != "Unsqueeze":
                return None
            source = maker.input[0]
        return np.ascontiguousarray(self.constants[conv.input[1]][:, :, 0, 0].T)

    def add_constant(self, name: str, value: np.ndarray) -> None:
        self.proto.initializer.append(numpy_helper.from_array(value, name))


def _tidy(model: onnx.ModelProto) -> None:
    """Drops what nothing reads any more, and puts the nodes in an order in which each finds its inputs made."""
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    wanted: list[onnx.NodeProto] = []
    open_names = [tensor.name for tensor in graph.output]
    seen: set[str] = set()
    # Depth first from the results: a node is placed when all that it reads is.
    while open_names:
        name = open_names[-1]
        maker = makers.get(name)
        if maker is None or name in seen:
            open_names.pop()
            continue
        missing = [given for given in maker.input if given in makers and given not in seen]
        if missing:
            open_names.extend(missing)
            continue
        wanted.append(maker)
        seen.update(maker.output)
        open_names.pop()
    ordered = [copy.deepcopy(node) for node in wanted]
    read = {name for node in ordered for name in node.input}
    kept = [copy.deepcopy(tensor) for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(ordered)
    graph.initializer.extend(kept)
