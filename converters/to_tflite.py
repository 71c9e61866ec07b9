"""LiteRT (TFLite): one ``.tflite``, NHWC, float32 or full int8 with integer input and output.

int8: ranges come from ``converters.ranges``, as for every other target. The quantizer's own default is a moving average
in which the first photo dominates and extremes are clipped.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer import quantizer, recipe
from torch import Tensor, nn

from converters.calibration import CalibrationSet
from converters.equalize import equalize
from converters.fidelity import Draw, Expected, expect, measured
from converters.graph import ChannelsLast, DeployGraph, example_inputs, require_int8
from converters.quantize import layer_paths
from converters.ranges import SCHEME, Observed, RangeMethod
from converters.registry import row_for
from converters.request import INPUTS, OUTPUT, ExportOptions, ExportSpec, check_layers
from converters.tflite_model import TFLiteModel, read_delegation
from sdk.bundle import Artifact, Quantization
from sdk.errors import UsageError
from sdk.files import write_atomically
from sdk.spec import DType, Layout, Precision

#: The grid of an 8-bit picture; the style weights and the result have it too.
_SCALE, _ZERO_POINT = 1 / 255, -128
#: What computes, in torch's words and in TFLite's, where a convolution may be depthwise.
_COMPUTE = {
    torch.ops.aten.conv2d.default: "CONV_2D",
    torch.ops.aten.add.Tensor: "ADD",
    torch.ops.aten.mul.Tensor: "MUL",
    torch.ops.aten.upsample_bilinear2d.vec: "RESIZE_BILINEAR",
}
_DEPTHWISE = "DEPTHWISE_"
_COLOURS = 3


def to_tflite(graph: DeployGraph, spec: ExportSpec, options: ExportOptions) -> Artifact:
    """Writes one ``.tflite``.

    Args:
        graph: the deployed graph (``converters.graph.deployable``).
        spec: what to write; fp32 or int8.
        options: the folder, and the calibration set for int8.

    Raises:
        UsageError: another precision, int8 without calibration, or int8 of a graph that cannot hold in it.
        FileTroubleError: the file cannot be written.
    """
    row = row_for(spec.target, spec.backend)
    if spec.precision not in row.precisions:
        raise UsageError(f"{spec.target} has no precision {spec.precision}: choose from {', '.join(row.precisions)}.")
    record: Quantization | None = None
    calibration: CalibrationSet | None = None
    expected: Expected | None = None
    if spec.precision is Precision.INT8:
        require_int8(graph)
        calibration = options.calibration_for(spec)
        graph = equalize(graph, calibration)
    names = INPUTS[:1] if graph.baked else INPUTS
    float_layers = check_layers(graph, options.float_layers)
    model = TFLiteModel(convert(graph, example_inputs(graph, spec.size)))
    model.cut_shuffle()
    model.drop_unused()
    model.rename(names, OUTPUT)
    in_float = tensors_of(model, graph, example_inputs(graph, spec.size), float_layers)
    if calibration is not None:
        samples = feeds(calibration, baked=graph.baked)
        quantized = quantize(model, samples, on_grid=(*names, OUTPUT), method=options.ranges, in_float=in_float)
        expected = expect(simulate(quantized), spec, options, simulation="LiteRT's reference kernels")
        model = TFLiteModel(quantized)
        record = Quantization(
            method=f"LiteRT static, int8, {SCHEME}, {options.ranges}",
            calibration_sha256=calibration.sha256,
            calibration_images=len(calibration),
            float_layers=float_layers,
        )
    model.append_shuffle()
    model.drop_unused()
    model.rename(names, OUTPUT)
    model.describe(spec.description())
    path = options.folder / spec.file_name(row.suffix)
    write_atomically(path, model.to_bytes())
    dtype = DType.INT8 if spec.precision is Precision.INT8 else DType.FLOAT32
    artifact = row.artifact(
        spec,
        path,
        io=spec.io(Layout.NHWC, dtype, style=dtype),
        quantization=record,
        delegation=read_delegation(path),
        tools=("litert-torch", "ai-edge-quantizer", "torch"),
    )
    return measured(artifact, options.folder, expected)


def simulate(content: bytes) -> Draw:
    """The simulation of a quantized ``.tflite`` without its shuffle, as ``quantize`` returns it.

    LiteRT's reference kernels run it, which are written to define the operators and share nothing with XNNPACK, and
    numpy does the shuffle.
    """
    interpreter = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    inputs, (output,) = interpreter.get_input_details(), interpreter.get_output_details()

    def draw(*given: np.ndarray) -> np.ndarray:
        for spec in inputs:
            (values,) = (one for one in given if one.ndim == len(spec["shape"]))
            values = values.transpose(0, 2, 3, 1) if values.ndim == 4 else values
            steps = np.clip(np.rint(values / _SCALE) + _ZERO_POINT, -128, 127)
            interpreter.set_tensor(spec["index"], steps.astype(np.int8))
        interpreter.invoke()
        stored = interpreter.get_tensor(output["index"]).astype(np.float32)
        values = (stored - _ZERO_POINT) * np.float32(_SCALE)
        batch, height, width, channels = values.shape
        block = round((channels / _COLOURS) ** 0.5)
        # Channels are in TFLite's order of a shuffle: row and column inside the block, then the colour.
        blocks = values.reshape(batch, height, width, block, block, _COLOURS).transpose(0, 5, 1, 3, 2, 4)
        return blocks.reshape(batch, _COLOURS, height * block, width * block)

    return draw


def convert(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The float ``.tflite`` of a module, NHWC, as litert-torch writes it.

    Args:
        module: takes an NCHW picture and perhaps style weights, gives an NCHW picture.
        inputs: contiguous example inputs; their sizes become the file's.
    """
    return convert_as_is(ChannelsLast(module).eval(), (inputs[0].permute(0, 2, 3, 1).contiguous(), *inputs[1:]))


def convert_as_is(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The float ``.tflite`` of a module in eval mode, its tensors in the order of axes that the module has."""
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        litert_torch.convert(module, inputs).export(str(path))
        return path.read_bytes()


def quantize(
    model: TFLiteModel,
    samples: Sequence[dict[str, Any]],
    *,
    on_grid: Collection[str],
    method: RangeMethod = RangeMethod.LEAST_SQUARES,
    in_float: Collection[str] = (),
) -> bytes:
    """The full-int8 ``.tflite`` of a float one.

    Args:
        model: float.
        samples: inputs by tensor name, NHWC, that give the ranges.
        on_grid: names of inputs and outputs that get the grid of an 8-bit picture (scale 1/255, zero point -128)
            whatever calibration saw.
        method: how ranges follow from what was seen.
        in_float: names of the tensors whose operators stay in float.

    Raises:
        RuntimeError: when the quantizer did not put them on that grid.
    """
    content = model.to_bytes()
    plan = recipe.static_wi8_ai8()
    for name in in_float:  # an operator's scope is the name of what it writes, and a semicolon
        plan.append({**plan[0], "regex": f"^{name};$", "algorithm_key": recipe.AlgorithmName.NO_QUANTIZE})
    limits = model.product_limits()
    with _quiet():
        ranges: dict[str, dict[str, np.ndarray]] = {}
        for name, observed in observe(content, samples).items():
            ends = (0.0, 1.0) if name in on_grid else observed.range(method, limits=limits.get(name))
            ranges[name] = {key: np.array([end], np.float32) for key, end in zip(("min", "max"), ends, strict=True)}
        made = quantizer.Quantizer(content, plan).quantize(ranges, enable_progress_report=False).quantized_model
    assert made is not None  # quantize() returns one
    quantized = TFLiteModel(bytes(made))
    if quantized.graph.tensors[quantized.graph.outputs[0]].name.decode() in {*on_grid} & {*in_float}:
        quantized.quantize_output(_SCALE, _ZERO_POINT)
    for index in (*quantized.graph.inputs, *quantized.graph.outputs):
        name, grid = quantized.graph.tensors[index].name.decode(), quantized.grid(index)
        if name in on_grid and (grid is None or abs(grid[0] - _SCALE) > 1e-9 or grid[1] != _ZERO_POINT):
            raise RuntimeError(f"the tensor {name} has the grid {grid}, not 1/255 and -128.")
    return quantized.to_bytes()


def tensors_of(
    model: TFLiteModel, graph: DeployGraph, example: tuple[Tensor, ...], layers: Collection[str]
) -> list[str]:
    """Names of the tensors that are computed in these modules or in parts of them.

    litert-torch names operators by class and attribute, which does not tell the blocks of a list apart. What it does
    keep is the order of the operators that compute, so the two graphs are walked side by side. Nothing is taken on
    trust: operators and shapes must agree all the way, and every convolution must have the weights of its module.

    Args:
        model: the float ``.tflite`` of the graph.
        graph: the deployed graph.
        example: its arguments.
        layers: module paths.

    Raises:
        ValueError: the two graphs do not compute the same things in the same order, or not with the same weights.
    """
    if not layers:
        return []
    program = torch.export.export(graph, example)
    nodes = [node for node in program.graph.nodes if node.target in _COMPUTE]
    operators = [
        (name.removeprefix(_DEPTHWISE), operator)
        for name, operator in zip(model.operators(), model.graph.operators, strict=True)
        if name.removeprefix(_DEPTHWISE) in _COMPUTE.values()
    ]
    written = [model.graph.tensors[operator.outputs[0]] for _, operator in operators]
    theirs = [(name, _planes(tensor.shape)) for (name, _), tensor in zip(operators, written, strict=True)]
    ours = [(_COMPUTE[node.target], tuple(node.meta["val"].shape)) for node in nodes]
    if theirs != ours:
        raise ValueError(
            "the .tflite computes in another order than the graph it is from: no layer can be found in it."
        )
    parameters = program.graph_signature.inputs_to_parameters
    for (_, operator), node in zip(operators, nodes, strict=True):
        if node.target is torch.ops.aten.conv2d.default:
            module = parameters[node.args[1].name]
            ordered = np.sort(graph.get_parameter(module).detach().numpy(), axis=None)  # the files order axes otherwise
            if not np.array_equal(np.sort(model.values(operator.inputs[1]), axis=None), ordered):
                raise ValueError(
                    f"the .tflite has other weights where {module} is expected: no layer can be found in it."
                )
    return [
        tensor.name.decode()
        for tensor, node in zip(written, nodes, strict=True)
        if any(path in layers for path in layer_paths(node))
    ]


def _planes(shape: Sequence[int]) -> tuple[int, ...]:
    """NHWC as NCHW."""
    batch, height, width, channels = (int(extent) for extent in shape)
    return batch, channels, height, width


def observe(content: bytes, samples: Sequence[dict[str, Any]]) -> dict[str, Observed]:
    """Runs a float ``.tflite`` on samples and watches every tensor that is computed or fed.

    Returns:
        Tensor name to what it held; constants are not among them.
    """
    model = TFLiteModel(content)
    computed = {index for op in model.graph.operators for index in op.outputs}
    watched = {i: model.graph.tensors[i].name.decode() for i in sorted({*model.graph.inputs, *computed})}
    found = {name: Observed() for name in watched.values()}
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    for sample in samples:
        for index in model.graph.inputs:
            interpreter.set_tensor(index, sample[watched[index]])
        interpreter.invoke()
        for index, name in watched.items():
            found[name].add(interpreter.get_tensor(index))
    return found


def feeds(calibration: CalibrationSet, *, baked: bool) -> list[dict[str, Any]]:
    """Calibration samples by tensor name: ``image`` ``1 x H x W x 3`` and, unless baked, ``style`` ``1 x S``."""
    return [
        {INPUTS[0]: photo} if baked else {INPUTS[0]: photo, INPUTS[1]: style} for photo, style in calibration.samples()
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the tools' progress lines and remarks from the user's screen; errors pass."""
    loggers = [logging.getLogger(name) for name in ("absl", "torch.utils._pytree", "litert_torch")]
    before = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
