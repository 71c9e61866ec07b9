"""A style's scale and shift inside an int8 convolution compute what they did outside of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra export")
ort = pytest.importorskip("onnxruntime", reason="needs the extra export")
torch = pytest.importorskip("torch", reason="needs the extra export")

from onnx import numpy_helper  # noqa: E402

from converters.calibration import CalibrationSet  # noqa: E402
from converters.graph import deployable, example_inputs  # noqa: E402
from converters.modulation import (  # noqa: E402
    LEAST_SCALE,
    Modulated,
    find_modulated,
    fold_modulation,
    integer_convolutions,
)
from converters.to_onnx import quantize_qdq, simulate_qdq, trace  # noqa: E402
from sdk.errors import UsageError  # noqa: E402
from training.models.generator import Generator  # noqa: E402

pytestmark = pytest.mark.export
SIZE = (32, 32)
ROWS = (*np.eye(3, dtype=np.float32), np.array([0.5, 0.2, 0.3], np.float32))


@pytest.fixture(scope="module")
def traced(network: Generator) -> onnx.ModelProto:
    graph = deployable(network)
    return trace(graph, example_inputs(graph, SIZE))


@pytest.fixture(scope="module")
def found(traced: onnx.ModelProto) -> tuple[Modulated, ...]:
    return find_modulated(traced, "style")


@pytest.fixture(scope="module")
def quantized(traced: onnx.ModelProto, calibration: CalibrationSet) -> onnx.ModelProto:
    return quantize_qdq(traced, calibration)[0]


@pytest.fixture(scope="module")
def folded(quantized: onnx.ModelProto, found: tuple[Modulated, ...]) -> onnx.ModelProto:
    return fold_modulation(quantized, found, "style")


@pytest.fixture(scope="module")
def image(pictures: np.ndarray) -> np.ndarray:
    return (pictures[:1].astype(np.float32) / 255).transpose(0, 3, 1, 2).copy()


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(model: onnx.ModelProto, image: np.ndarray, row: np.ndarray, *, exact: str = "1") -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", exact)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image, "style": row[None]})[0]


def test_every_conditional_norm_is_found_with_its_rows(found, network) -> None:
    graph = deployable(network).network
    assert len(found) == 4
    for modulated, level in zip(found, range(4), strict=True):
        spatial = graph.stages[level][0].spatial
        assert np.array_equal(modulated.scales, spatial.norm.scale.weight[:, :, 0, 0].T.numpy())
        assert np.array_equal(modulated.shifts, spatial.norm.shift.weight[:, :, 0, 0].T.numpy())
        assert np.array_equal(modulated.bias, spatial.conv.bias.numpy())


def test_no_pass_over_a_picture_is_left_of_a_style(quantized, folded) -> None:
    assert kinds(quantized).count("Mul") == 4
    pictures = {"Mul", "Add"}
    shapes = {
        info.name: [extent.dim_value for extent in info.type.tensor_type.shape.dim]
        for info in onnx.shape_inference.infer_shapes(folded).graph.value_info
    }
    left = [node for node in folded.graph.node if node.op_type in pictures and len(shapes[node.output[0]]) == 4]
    assert {node.op_type for node in left} == {"Add"}  # residuals and joins
    assert len(left) == kinds(quantized).count("Add") - 4
    onnx.checker.check_model(folded, full_check=True)


@pytest.mark.parametrize("exact", ["0", "1"])
@pytest.mark.parametrize("row", ROWS)
def test_the_integer_convolutions_compute_what_the_simulation_does(row, exact, folded, image) -> None:
    written = integer_convolutions(folded)
    assert kinds(written).count("QLinearConv") == 4
    onnx.checker.check_model(written, full_check=True)
    difference = np.abs(run(written, image, row, exact=exact) - simulate_qdq(folded)(image, row[None]))
    # Sums between two steps may be rounded to either, in more than one layer.
    assert difference.max() <= 3 / 255
    assert difference.mean() <= 0.2 / 255


def one_channel(scales: list[float], shifts: list[float]) -> tuple[onnx.ModelProto, Modulated]:
    """A QDQ graph of one 1x1 convolution (weight 1, bias 0.5) of a grey picture; a scale and a shift for two styles."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    constants = {
        "step": np.float32(1 / 255),
        "zero": np.uint8(0),
        "kernel": np.full((1, 1, 1, 1), 100, np.int8),
        "kernel_step": np.array([0.01], np.float32),
        "kernel_zero": np.zeros(1, np.int8),
        "bias": np.array([0.5], np.float32),
        "scales": np.array(scales, np.float32).reshape(1, 2, 1, 1),
        "shifts": np.array(shifts, np.float32).reshape(1, 2, 1, 1),
        "axes": np.array([2, 3], np.int64),
        "wide": np.float32(6 / 255),
    }
    nodes = {
        "q": ("QuantizeLinear", "image", "step", "zero"),
        "given": ("DequantizeLinear", "q", "step", "zero"),
        "weight": ("DequantizeLinear", "kernel", "kernel_step", "kernel_zero"),
        "sum": ("Conv", "given", "weight", "bias"),
        "pixel": ("Unsqueeze", "style", "axes"),
        "scale": ("Conv", "pixel", "scales"),
        "shift": ("Conv", "pixel", "shifts"),
        "product": ("Mul", "sum", "scale"),
        "end": ("Add", "product", "shift"),
        "out": ("QuantizeLinear", "end", "wide", "zero"),
        "cartoon": ("DequantizeLinear", "out", "wide", "zero"),
    }
    made = [helper.make_node(kind, names, [output], name=output) for output, (kind, *names) in nodes.items()]
    made[2].attribute.append(helper.make_attribute("axis", 0))
    graph = helper.make_graph(
        made,
        "one",
        [
            helper.make_tensor_value_info("image", floats, [1, 1, 2, 2]),
            helper.make_tensor_value_info("style", floats, [1, 2]),
        ],
        [helper.make_tensor_value_info("cartoon", floats, [1, 1, 2, 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (found,) = find_modulated(model, "style")
    return model, found


@pytest.mark.parametrize(
    ("scales", "shifts", "row", "want"),
    [
        ([2.0, -3.0], [0.25, 4.0], [1.0, 0.0], [1.25, 1.75, 2.25, 3.25]),  # 2 (x + 0.5) + 0.25
        ([2.0, -3.0], [0.25, 4.0], [0.0, 1.0], [2.5, 1.75, 1.0, 0.0]),  # a negative scale; the grid cuts off at 0
        ([2.0, -2.0], [3.0, 3.0], [0.5, 0.5], [3.0, 3.0, 3.0, 3.0]),  # scales that cancel: the shift is left
        ([0.0, 0.0], [1.0, 5.0], [0.0, 1.0], [5.0, 5.0, 5.0, 5.0]),  # a channel that no style scales
        ([1.0, 1.0], [50.0, 0.0], [1.0, 0.0], [6.0, 6.0, 6.0, 6.0]),  # beyond the grid
    ],
)
def test_a_channel_worked_by_hand(scales, shifts, row, want) -> None:
    model, found = one_channel(scales, shifts)
    written = integer_convolutions(fold_modulation(model, [found], "style"))
    assert "QLinearConv" in kinds(written)
    assert not {"Conv"} & set(kinds(written))
    image = np.array([0, 0.25, 0.5, 1], np.float32).reshape(1, 1, 2, 2)
    have = run(written, image, np.array(row, np.float32)).ravel()
    # Half a step of the result, 1/255 x 3 of the photo's own grid, and the least scale.
    assert np.abs(have - want).max() <= 3 / 255 + 3 / 255 + LEAST_SCALE * 3 * 1.5


def test_a_convolution_in_float_stays_as_it_is(traced, calibration, found) -> None:
    kept = "network.stages.2.0.spatial"
    quantized, _ = quantize_qdq(traced, calibration, float_layers=[kept])
    assert kinds(fold_modulation(quantized, found, "style")).count("Mul") == 1 + 3  # and those of the vector


def test_a_network_without_styles_has_nothing_to_fold(network, calibration) -> None:
    graph = deployable(network, style=ROWS[0])
    model = trace(graph, example_inputs(graph, SIZE))
    assert find_modulated(model, "style") == ()
    quantized, _ = quantize_qdq(model, calibration)
    same = integer_convolutions(fold_modulation(quantized, (), "style"))
    assert same.SerializeToString(deterministic=True) == quantized.SerializeToString(deterministic=True)


def test_a_batch_of_styles_is_refused(quantized, found) -> None:
    wide = copy.deepcopy(quantized)
    next(given for given in wide.graph.input if given.name == "style").type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(UsageError, match="batches of 1"):
        fold_modulation(wide, found, "style")
