"""int8 in PT2E: grids, ranges after the activation, and nothing removed that changes a value."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from converters.calibration import CalibrationSet
from converters.graph import deployable, example_inputs
from converters.quantize import (
    PictureQuantizer,
    Quantized,
    _limits,
    absorb_activations,
    quantize,
    quantize_dynamic,
    quantize_module,
)
from converters.ranges import RangeMethod
from sdk.errors import UsageError
from training.models.generator import Generator
from training.models.norm import ConditionalNorm2d, Statistics

pytestmark = pytest.mark.export
aten = torch.ops.aten
QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
ACTIVATIONS = {aten.hardtanh.default, aten.clamp.default, aten.relu.default}


def _grid(node: Node) -> tuple[float, int]:
    return float(node.args[1]), int(node.args[2])  # type: ignore[arg-type]


def _calls(module: GraphModule, *targets: object) -> list[Node]:
    return [node for node in module.graph.nodes if node.op == "call_function" and node.target in targets]


@pytest.fixture(scope="module")
def multi(network: Generator, calibration: CalibrationSet) -> Quantized:
    return quantize(deployable(network), calibration)


@pytest.fixture(scope="module")
def baked(network: Generator, baked_calibration: CalibrationSet) -> Quantized:
    style = np.eye(3, dtype=np.float32)[1]
    return quantize(deployable(network, style=style), baked_calibration)


def test_image_style_and_result_have_the_grid_of_an_8_bit_picture(multi: Quantized) -> None:
    graph = multi.module.graph
    for node in graph.nodes:
        if node.op == "placeholder":
            (reader,) = node.users
            assert reader.target is QUANTIZE
            assert _grid(reader) == (pytest.approx(1 / 255), -128)
    (result,) = next(node for node in graph.nodes if node.op == "output").all_input_nodes
    assert result.target is DEQUANTIZE
    assert _grid(result) == (pytest.approx(1 / 255), -128)


def test_result_is_an_8_bit_picture(multi: Quantized, calibration: CalibrationSet) -> None:
    made = multi.module(*next(calibration.tensors(baked=False)))
    steps = made * 255
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert made.min() >= 0
    assert made.max() <= 1
    assert made.unique().numel() > 16


def test_every_activation_is_absorbed_by_the_range_that_follows_it(multi: Quantized, baked: Quantized) -> None:
    for quantized in (multi, baked):
        assert _calls(quantized.module, *ACTIVATIONS) == []


def test_convolutions_before_a_relu6_spend_no_step_below_zero(network: Generator, baked: Quantized) -> None:
    relu6 = sum(isinstance(module, nn.ReLU6) for module in network.modules())
    grids = [_grid(node) for node in _calls(baked.module, QUANTIZE) if node.args[0].target is aten.conv2d.default]  # type: ignore[union-attr]
    from_zero = [scale for scale, zero_point in grids if zero_point == -128]
    assert len(from_zero) >= relu6
    assert all(scale * 255 <= 6 + 1e-4 for scale in from_zero)


def test_int8_stays_close_to_float(
    network: Generator,
    multi: Quantized,
    baked: Quantized,
    calibration: CalibrationSet,
    baked_calibration: CalibrationSet,
) -> None:
    style = np.eye(3, dtype=np.float32)[1]
    for quantized, graph, pictures in (
        (multi, deployable(network), calibration),
        (baked, deployable(network, style=style), baked_calibration),
    ):
        inputs = list(pictures.tensors(baked=graph.baked))
        errors = [float((quantized.module(*i) - graph(*i)).abs().mean()) for i in inputs]
        spread = float(torch.stack([graph(*i) for i in inputs]).std())
        assert max(errors) <= 0.15 * spread


def test_every_convolution_add_and_mul_works_on_8_bit_values(multi: Quantized) -> None:
    nodes = _calls(multi.module, aten.conv2d.default, aten.add.Tensor, aten.mul.Tensor)
    assert len(nodes) > 30
    for node in nodes:
        assert all("dequantize" in str(given.target) for given in node.all_input_nodes[:2])
        (reader,) = node.users
        assert reader.target is QUANTIZE


def test_record_names_method_and_calibration(multi: Quantized, calibration: CalibrationSet) -> None:
    assert multi.record.method.endswith("least-squares")
    assert multi.record.calibration_sha256 == calibration.sha256
    assert multi.record.calibration_images == len(calibration) == 48
    assert multi.record.float_layers == ()


def test_float_layers_stay_in_float(network: Generator, baked_calibration: CalibrationSet) -> None:
    style = np.eye(3, dtype=np.float32)[1]
    made = quantize(deployable(network, style=style), baked_calibration, float_layers=["network.bridge"])
    assert made.record.float_layers == ("network.bridge",)
    floats = [
        node
        for node in _calls(made.module, aten.conv2d.default)
        if "dequantize" not in str(node.args[1].target)  # type: ignore[union-attr]
    ]
    assert len(floats) == 1
    assert "bridge" in str(floats[0].args[1])


def test_what_a_style_gives_is_found_through_any_operators_and_for_each_style_alone() -> None:
    """Rows looked up by slices of one product, not by a convolution each."""

    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.tensor([[1.0, 2.0, -0.5, 0.25], [3.0, 4.0, 5.0, 0.75]]), requires_grad=False)
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, image: Tensor, style: Tensor) -> Tensor:
            rows = (style @ self.rows)[:, :, None, None]
            return F.hardtanh(self.conv(image) * rows[:, :2] + rows[:, 2:], 0.0, 6.0)

    exported = torch.export.export(Lookup(), (torch.rand(1, 3, 4, 4), torch.eye(2)[:1])).module()
    (product,) = (node for node in exported.graph.nodes if node.target is aten.mul.Tensor)
    # Shifts from -0.5 to 5: the product matters from -5 to 6.5.
    assert _limits(product) == (-5.0, 6.5)


def test_unknown_float_layer_is_refused(network: Generator, calibration: CalibrationSet) -> None:
    with pytest.raises(UsageError, match=r"no layer 'network\.head'"):
        quantize(deployable(network), calibration, float_layers=["network.head"])


def test_instance_statistics_are_refused(build_network: Callable[..., Generator], calibration: CalibrationSet) -> None:
    with pytest.raises(UsageError, match="instance"):
        quantize(deployable(build_network(Statistics.INSTANCE)), calibration)


def test_dynamic_quantization_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="leaves every Conv2d in float"):
        quantize_dynamic(nn.Conv2d(3, 3, 1), {nn.Conv2d})


def test_the_reason_given_for_refusing_dynamic_quantization_is_true() -> None:
    from torch.ao.quantization import quantize_dynamic as torch_quantize_dynamic

    made = torch_quantize_dynamic(nn.Sequential(nn.Conv2d(3, 3, 1)), {nn.Conv2d}, dtype=torch.qint8)
    assert type(made[0]) is nn.Conv2d
    assert made[0].weight.dtype is torch.float32


class _Chain(nn.Module):
    """A convolution whose result lies in [0, 4] and an activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.activation = nn.Conv2d(1, 1, 1, bias=False), activation
        nn.init.constant_(self.conv.weight, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))


def _ramps() -> list[tuple[Tensor]]:
    return [(torch.linspace(0, 1, 256).view(1, 1, 16, 16),)]


def test_range_is_that_after_the_activation() -> None:
    made = quantize_module(_Chain(nn.Hardtanh(0.0, 2.0)), _ramps())
    (quantize_node,) = [n for n in _calls(made, QUANTIZE) if n.args[0].target is aten.conv2d.default]  # type: ignore[union-attr]
    assert _grid(quantize_node) == (pytest.approx(2 / 255), -128)
    (ramp,) = _ramps()
    assert torch.allclose(made(*ramp), (ramp[0] * 4).clamp(0, 2), atol=1.5 * 4 / 255)


def test_activation_that_cuts_inside_the_grid_is_kept() -> None:
    made = quantize_module(_Chain(nn.Hardtanh(0.0, 2.0)), _ramps())
    (quantize_node,) = [n for n in _calls(made, QUANTIZE) if n.args[0].target is aten.conv2d.default]  # type: ignore[union-attr]
    with made.graph.inserting_before(quantize_node):
        source = quantize_node.args[0]
        cut = made.graph.call_function(aten.hardtanh.default, (source, 0.0, 1.0))
    quantize_node.replace_input_with(source, cut)  # type: ignore[arg-type]
    assert absorb_activations(made) == 0
    assert _calls(made, aten.hardtanh.default) == [cut]


def test_activation_read_by_a_float_operator_is_kept() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(F.relu6(x))

    made = quantize_module(Chain(), _ramps())
    (ramp,) = _ramps()
    assert torch.allclose(made(*ramp), torch.sigmoid(ramp[0]), atol=1 / 255)


def test_product_range_leaves_out_only_what_relu6_cuts_off_anyway(network: Generator, multi: Quantized) -> None:
    shifts = [module.beta.detach() for module in network.modules() if isinstance(module, ConditionalNorm2d)]
    products = [node for node in _calls(multi.module, QUANTIZE) if node.args[0].target is aten.mul.Tensor]  # type: ignore[union-attr]
    assert len(products) == len(shifts)
    for node, shift in zip(products, shifts, strict=True):
        scale, zero_point = _grid(node)
        low, high = scale * (-128 - zero_point), scale * (127 - zero_point)
        assert low >= -float(shift.max()) - scale
        assert high <= 6 - float(shift.min()) + scale
    values = torch.linspace(-20, 20, 2001)
    for low, high, shift in ((-0.5, 6.5, 0.5), (-0.5, 6.5, -0.5), (-0.5, 6.5, 0.1)):
        assert torch.allclose(F.relu6(values.clamp(low, high) + shift), F.relu6(values + shift))


@pytest.mark.parametrize("ranges", list(RangeMethod))
def test_evenly_spread_values_get_their_whole_range_by_every_method(ranges: RangeMethod) -> None:
    copy_twice = nn.Conv2d(1, 2, 1, bias=False)
    nn.init.constant_(copy_twice.weight, 1.0)
    made = quantize_module(copy_twice, _ramps(), ranges=ranges)
    (node,) = [n for n in _calls(made, QUANTIZE) if n.args[0].target is aten.conv2d.default]  # type: ignore[union-attr]
    assert _grid(node)[0] == pytest.approx(1 / 255, rel=0.02)


def test_order_of_the_samples_makes_no_difference() -> None:
    """In a moving average the first or the last sample would rule."""
    bright, dark = torch.full((1, 1, 4, 4), 1.0), torch.full((1, 1, 4, 4), 0.25)
    chain = _Chain(nn.Identity())
    for order in ([bright, dark, dark], [dark, dark, bright]):
        made = quantize_module(chain, [(sample,) for sample in order])
        (node,) = [n for n in _calls(made, QUANTIZE) if n.args[0].target is aten.conv2d.default]  # type: ignore[union-attr]
        assert _grid(node) == (pytest.approx(4 / 255), -128)


def test_smallest_weights_keep_their_resolution() -> None:
    """The stock quantizers' smallest scale, 2**-12, would round a channel of weights of 1e-3 to nothing."""
    conv = nn.Conv2d(1, 2, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, 1e-3]).view(2, 1, 1, 1)
    made = quantize_module(nn.Sequential(conv, nn.Conv2d(2, 1, 1, groups=1)), _ramps())
    weights = next(node for node in made.graph.nodes if "dequantize_per_channel" in str(node.target))
    scales = getattr(made, str(weights.args[1].target))
    assert scales.tolist() == pytest.approx([1 / 127, 1e-3 / 127], rel=1e-3)


def test_no_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="calibration samples"):
        quantize_module(nn.Conv2d(1, 1, 1), [])


def test_shared_grids_survive_resizing_and_shuffling(multi: Quantized) -> None:
    for node in _calls(multi.module, aten.upsample_bilinear2d.vec, aten.pixel_shuffle.default):
        (before,), (after,) = node.all_input_nodes, node.users
        assert _grid(before) == _grid(after)


def test_quantizer_leaves_integer_inputs_alone() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x[:, :, index]

    inputs = (torch.rand(1, 1, 4, 4), torch.tensor([0, 2]))
    exported = torch.export.export(Chain(), inputs).module()
    PictureQuantizer().annotate(exported)
    annotated = [n.name for n in exported.graph.nodes if n.op == "placeholder" and "quantization_annotation" in n.meta]
    assert annotated == ["x"]


def test_quantized_graph_has_the_signature_of_the_float_graph(network: Generator, baked: Quantized) -> None:
    style = np.eye(3, dtype=np.float32)[1]
    inputs = example_inputs(deployable(network, style=style), (32, 32))
    assert baked.module(*inputs).shape == (1, 3, 32, 32)
    assert not math.isnan(float(baked.module(*inputs).sum()))
