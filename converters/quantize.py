"""Static int8 for PT2E graphs: shared by ExecuTorch (XNNPACK) and Core ML.

Weights are symmetric per output channel, activations asymmetric per tensor. The quantizer is our own because the stock
``XNNPACKQuantizer`` knows ReLU but not ReLU6: it measures a convolution's range *before* the ReLU6 and spends half of
the 256 steps on values that the activation cuts off. Here

* the range of convolution, add and mul is measured after the activation that follows, and the activation then
  disappears, because saturation of an 8-bit number at the same limits does its work;
* of ``mul`` in a style's affine only the part that can survive the following shift and ReLU6 gets steps;
* image, style and the final picture have the fixed grid of an 8-bit picture: scale 1/255, zero point -128.  The last
  convolution writes on it directly, so the clamp disappears as well.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import (
    FakeQuantize,
    MinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    disable_fake_quant,
    enable_fake_quant,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

from converters.calibration import CalibrationSet
from converters.equalize import equalize
from converters.graph import DeployGraph, require_int8
from converters.ranges import SCHEME, Observed, RangeMethod
from converters.request import check_layers
from sdk.bundle import Quantization
from sdk.errors import UsageError

aten = torch.ops.aten

#: The grid of an 8-bit picture, as ``sdk.spec`` states it: int8 = uint8 XOR 0x80.
PICTURE_SCALE, PICTURE_ZERO_POINT = 1 / 255, -128
#: Smallest scale. The stock quantizers' 2**-12 rounds the weights of a channel whose largest is below 0.03.
_EPSILON = 2.0**-20
_KEY = "quantization_annotation"

_CONVOLUTIONS = {aten.conv2d.default}
_BINARY = {aten.add.Tensor, aten.mul.Tensor}
#: Move or mix values without changing the range: input and output share one scale.
_SHARING = {
    aten.upsample_bilinear2d.vec,
    aten.unsqueeze.default,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.slice.Tensor,
    aten.pixel_shuffle.default,
}
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A quantized graph: same arguments and result as the ``DeployGraph`` it was made from, float at the border."""

    module: GraphModule
    record: Quantization


def quantize(
    graph: DeployGraph,
    calibration: CalibrationSet,
    *,
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
    float_layers: Collection[str] = (),
) -> Quantized:
    """Quantizes a graph to int8 for the size of the calibration photos.

    Args:
        graph: from ``converters.graph.deployable``; running statistics.
        calibration: photos and styles; multi-style sets for multi-style graphs.
        ranges: see ``RangeMethod``.
        float_layers: module paths whose convolutions (and what belongs to them) stay in float, e.g.
            ``"network.tail"``.

    Raises:
        UsageError: a network on instance statistics, or a float layer that does not exist.
    """
    require_int8(graph)
    float_layers = check_layers(graph, float_layers)
    samples = calibration.tensors(baked=graph.baked)
    module = quantize_module(equalize(graph, calibration), samples, ranges=ranges, float_layers=float_layers)
    return Quantized(
        module=module,
        record=Quantization(
            method=f"PT2E static, int8, {SCHEME}, {ranges}",
            calibration_sha256=calibration.sha256,
            calibration_images=len(calibration),
            float_layers=float_layers,
        ),
    )


def quantize_module(
    module: nn.Module,
    samples: Iterable[tuple[Tensor, ...]],
    *,
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
    float_layers: Collection[str] = (),
) -> GraphModule:
    """Quantizes any module with ``PictureQuantizer``.

    Args:
        module: in eval mode; its inputs lie in [0, 1].
        samples: its arguments, contiguous and of one shape; at least one.
        ranges, float_layers: as for ``quantize``.

    Raises:
        UsageError: when there are no samples.
    """
    prepared: nn.Module | None = None
    with torch.no_grad():
        for inputs in samples:
            if prepared is None:
                exported = torch.export.export(module, inputs)
                prepared = prepare_pt2e(exported.module(), PictureQuantizer(ranges=ranges, float_layers=float_layers))
            prepared(*inputs)
    if prepared is None:
        raise UsageError("int8 ranges need calibration samples and got none: give photos.")
    converted = convert_pt2e(prepared, fold_quantize=True)
    absorb_activations(converted)
    return converted


def quantize_for_training(
    module: nn.Module,
    samples: Iterable[tuple[Tensor, ...]],
    *,
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
) -> GraphModule:
    """A module that rounds as ``quantize_module``'s does, in float arithmetic that can be trained through.

    Made by ``prepare_qat_pt2e``. Weights are rounded to grids that follow them from call to call, activations to those
    that calibration found; a gradient passes every rounding unchanged, and stops where a value is clipped.

    Args:
        module: in eval mode and without batch norms; its inputs lie in [0, 1].
        samples, ranges: as for ``quantize_module``.

    Returns:
        Parameters by the module's own names; arguments of any batch and size.

    Raises:
        UsageError: when there are no samples.
    """
    prepared: GraphModule | None = None
    with torch.no_grad():
        for inputs in samples:
            if prepared is None:
                exported = torch.export.export(module, inputs).module(check_guards=False)  # crops have another size
                prepared = prepare_qat_pt2e(exported, PictureQuantizer(ranges=ranges, trained=True))
                prepared.apply(disable_fake_quant)
            prepared(*inputs)
        if prepared is None:
            raise UsageError("int8 ranges need calibration samples and got none: give photos.")
        for grid in prepared.modules():
            if isinstance(grid, RangeFakeQuantize):
                grid.settle()
        prepared.apply(enable_fake_quant)
    return prepared


def quantize_dynamic(*_: object, **__: object) -> NoReturn:
    """Refuses dynamic quantization: it would do nothing to this network.

    Raises:
        UsageError: always, with the reason.
    """
    raise UsageError(
        "dynamic quantization is refused: torch's quantize_dynamic converts linear and recurrent layers only and "
        "leaves every Conv2d in float without a word, so nothing of this network would be int8; use precision int8."
    )


class PictureQuantizer(Quantizer):
    """Annotates convolutions, add, mul and what moves their values; see the module's docstring.

    Args:
        ranges: how ranges are measured.
        float_layers: module paths that stay in float.
        trained: for ``prepare_qat_pt2e``, with modules that round in place of those that only look.
    """

    def __init__(
        self,
        *,
        ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
        float_layers: Collection[str] = (),
        trained: bool = False,
    ) -> None:
        super().__init__()
        self.ranges, self.float_layers, self.trained = ranges, tuple(float_layers), trained

    def annotate(self, model: GraphModule) -> GraphModule:
        """Writes the annotations that ``prepare_pt2e`` reads."""
        outputs = {n for node in model.graph.nodes if node.op == "output" for n in node.all_input_nodes}
        fixed = FixedQParamsQuantizationSpec(
            dtype=torch.int8,
            scale=PICTURE_SCALE,
            zero_point=PICTURE_ZERO_POINT,
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_affine,
        )
        pictures = {_before_picture(node) for node in outputs} - {None}
        for node in model.graph.nodes:
            if node.op == "placeholder" and _is_input(node):
                node.meta[_KEY] = QuantizationAnnotation(output_qspec=fixed, _annotated=True)
            if node.op != "call_function" or self._stays_float(node):
                continue
            if node.target in _CONVOLUTIONS:
                inputs: dict[Node, QuantizationSpecBase] = {
                    **self._edges(node.args[:1]),
                    node.args[1]: self._weights(),
                }
            elif node.target in _BINARY and all(isinstance(a, Node) for a in node.args):
                inputs = self._edges(node.args)
            elif node.target in _SHARING and _annotation(node.args[0]) is not None:
                shared = SharedQuantizationSpec(node.args[0])
                node.meta[_KEY] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: shared}, output_qspec=shared, _annotated=True
                )
                continue
            else:
                continue
            last = _activation_after(node) or node
            output = fixed if last in pictures else self._activations(_limits(node))
            node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
            if last is node:
                node.meta[_KEY].output_qspec = output
            else:
                last.meta[_KEY] = QuantizationAnnotation(output_qspec=output, _annotated=True)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to refuse: what is not annotated stays in float, and the delegation gate reports it."""

    def _edges(self, inputs: Any) -> dict[Node, QuantizationSpecBase]:
        return {
            node: SharedQuantizationSpec(node) if _annotation(node) is not None else self._activations(None)
            for node in inputs
        }

    def _stays_float(self, node: Node) -> bool:
        paths = layer_paths(node)
        return any(path == layer or path.endswith("." + layer) for path in paths for layer in self.float_layers)

    def _weights(self) -> QuantizationSpec:
        return QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=(
                # An average of the newest alone: the grid is that of the weights as they are now.
                FakeQuantize.with_args(
                    observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, eps=_EPSILON
                )
                if self.trained
                else PerChannelMinMaxObserver.with_args(eps=_EPSILON)
            ),
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )

    def _activations(self, limits: tuple[float, float] | None) -> QuantizationSpec:
        options = {"eps": _EPSILON, "method": self.ranges, "limits": limits}
        return QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=(
                RangeFakeQuantize.with_args(observer=RangeObserver, **options)
                if self.trained
                else RangeObserver.with_args(**options)
            ),
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_affine,
        )


class RangeObserver(MinMaxObserver):
    """Gives a tensor the range that ``converters.ranges`` finds for what it held.

    Args:
        method: how.
        limits: values beyond them make no difference to what follows.
    """

    def __init__(self, *, method: RangeMethod, limits: tuple[float, float] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.method, self.limits = method, limits
        self.observed = Observed()

    def forward(self, x_orig: Tensor) -> Tensor:
        """Takes in a tensor of any shape; returns it unchanged."""
        self.observed.add(x_orig.detach().numpy())
        return x_orig

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """(scale, zero point)."""
        low, high = self.observed.range(self.method, limits=self.limits)
        return self._calculate_qparams(torch.tensor(low), torch.tensor(high))


class RangeFakeQuantize(FakeQuantize):
    """Looks on in calibration as ``RangeObserver`` does; once settled, rounds to the grid that was found."""

    def forward(self, x_orig: Tensor) -> Tensor:
        """A tensor of any shape."""
        if self.observer_enabled[0]:
            # The stock class would search for the range again with every sample.
            return self.activation_post_process(x_orig)
        return super().forward(x_orig)

    def settle(self) -> None:
        """Ends calibration."""
        scale, zero_point = self.calculate_qparams()
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.disable_observer()


def absorb_activations(model: GraphModule) -> int:
    """Removes ReLU, ReLU6 and clamps that 8-bit saturation repeats exactly; returns how many.

    An activation goes when the value is quantized right after it, or was quantized right before it, on a grid that lies
    inside the activation's limits.
    """
    removed = 0
    for node in list(model.graph.nodes):
        limits = activation_limits(node)
        if limits is None:
            continue
        source = node.args[0]
        before = _origin(source)
        users = list(node.users)
        grids = [user for user in users if user.target is _QUANTIZE] if users else []
        covered = bool(grids) and len(grids) == len(users) and all(_grid_inside(grid, limits) for grid in grids)
        if covered or (before.target is _DEQUANTIZE and _grid_inside(before, limits)):
            node.replace_all_uses_with(source)
            model.graph.erase_node(node)
            removed += 1
    model.graph.eliminate_dead_code()
    model.recompile()
    return removed


def _origin(node: Node) -> Node:
    """Where values come from, seen through operators that only move them."""
    while node.target in _SHARING and node.target is not aten.upsample_bilinear2d.vec:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _grid_inside(node: Node, limits: tuple[float, float]) -> bool:
    """Whether all values of a quantize or dequantize node lie inside ``limits``, up to float32 rounding."""
    scale, zero_point, quant_min, quant_max = (float(a) for a in node.args[1:5])  # type: ignore[arg-type]
    low, high = scale * (quant_min - zero_point), scale * (quant_max - zero_point)
    tolerance = 1e-5 * max(abs(low), abs(high))
    return bool(low >= limits[0] - tolerance and high <= limits[1] + tolerance)


def is_moving(node: Node) -> bool:
    """Whether a node only moves values or mixes neighbours, so that its result has the grid of its input."""
    return node.target in _SHARING


def layer_paths(node: Node) -> tuple[str, ...]:
    """The modules a node of an exported graph is written in, outermost first; the whole graph is the path ``""``."""
    return tuple(dict.fromkeys(str(path) for path, _ in node.meta.get("nn_module_stack", {}).values())) or ("",)


def activation_limits(node: Node) -> tuple[float, float] | None:
    """What a ReLU, ReLU6 or clamp cuts its input to; ``None`` for any other node."""
    if node.op != "call_function":
        return None
    if node.target is aten.relu.default:
        return 0.0, float("inf")
    if node.target in (aten.hardtanh.default, aten.clamp.default):
        bounds = node.args[1:3] if len(node.args) > 1 else (-1.0, 1.0)
        low = bounds[0] if bounds[0] is not None else float("-inf")
        high = bounds[1] if len(bounds) > 1 and bounds[1] is not None else float("inf")
        return float(low), float(high)  # type: ignore[arg-type]
    return None


def _activation_after(node: Node) -> Node | None:
    """The activation that is the only reader of ``node``."""
    users = list(node.users)
    return users[0] if len(users) == 1 and activation_limits(users[0]) is not None else None


def _before_picture(output: Node) -> Node | None:
    """The node whose values become the picture, when the output is clamped to [0, 1]."""
    return _origin(output.args[0]) if activation_limits(output) == (0.0, 1.0) else None  # type: ignore[arg-type]


def _limits(node: Node) -> tuple[float, float] | None:
    """What of ``mul`` in ``act(x * scale + shift)`` can survive ``act``: [low - max shift, high - min shift].

    The shift is the style's, and style weights are a convex mix, so its extremes are those of the single styles.
    """
    if node.target is not aten.mul.Tensor or len(node.users) != 1:
        return None
    (add,) = node.users
    activation = _activation_after(add) if add.target is aten.add.Tensor else None
    if activation is None:
        return None
    shift = next((a for a in add.args if a is not node), None)
    rows = _style_rows(shift) if isinstance(shift, Node) else None
    if rows is None:
        return None
    low, high = activation_limits(activation) or (float("-inf"), float("inf"))
    return low - float(rows.max()), high - float(rows.min())


def _style_rows(node: Node) -> Tensor | None:
    """What a node gives for each style by itself, ``S x ...``; ``None`` when it depends on more than style weights."""
    known: dict[Node, bool] = {}

    def of_style(node: Node) -> bool:
        if node not in known:
            if node.op == "call_function":
                known[node] = all(of_style(source) for source in node.all_input_nodes)
            else:
                known[node] = node.op == "get_attr" or (node.op == "placeholder" and _is_style(node))
        return known[node]

    def evaluate(node: Node, style: Tensor) -> Tensor:
        if node.op == "placeholder":
            return style
        if node.op == "get_attr":
            value: Tensor = operator.attrgetter(str(node.target))(node.graph.owning_module).detach()
            return value
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda source: evaluate(source, style))
        result: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
        return result

    if not of_style(node):
        return None
    given = [source for source in known if source.op == "placeholder"]
    if not given:
        return None
    with torch.no_grad():
        return torch.cat([evaluate(node, row[None]) for row in torch.eye(given[0].meta["val"].shape[1])])


def _is_style(node: Node) -> bool:
    """Whether an input is the style weights, ``N x S``."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim == 2


def _annotation(node: Any) -> QuantizationSpecBase | None:
    """The spec of a node's output, when it has one."""
    annotation = node.meta.get(_KEY) if isinstance(node, Node) else None
    return annotation.output_qspec if annotation is not None else None


def _is_input(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor) and node.meta["val"].is_floating_point()
