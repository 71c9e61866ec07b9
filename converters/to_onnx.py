"""ONNX: ``reference.onnx``, the float model every artifact is judged by, and the artifacts for ONNX Runtime.

Files are opset 18 in IR version 8, which ONNX Runtime 1.14 (February 2023) and everything since loads.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime import quantization as ortq
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data
from torch import nn

from converters.calibration import CalibrationSet
from converters.equalize import equalize
from converters.fidelity import Draw, expect, measured
from converters.graph import DeployGraph, example_inputs, require_int8
from converters.modulation import find_modulated, fold_modulation, integer_convolutions
from converters.ranges import SCHEME, Observed, RangeMethod
from converters.registry import row_for
from converters.request import INPUTS, OUTPUT, ExportOptions, ExportSpec, check_layers
from sdk.bundle import Artifact, Quantization, Reference, hash_path, size_of
from sdk.errors import GateError, UsageError
from sdk.files import write_atomically
from sdk.spec import DType, IOSpec, Layout, Precision, image_spec, style_spec
from training.checkpoint import Checkpoint, NamedCheckpoint

#: Where torch's exporter notes the modules a node is from: a list of paths, outermost first, as Python writes it.
_SCOPES = "pkg.torch.onnx.name_scopes"
OPSET = 18
IR_VERSION = 8
REFERENCE = "reference.onnx"
#: Pixel shuffle block: the last convolution works at stride 2.
_BLOCK = 2
#: The node and the layer of the last convolution, once it is a transposed one.
_TAIL, _TAIL_LAYER = "tail", "network.tail"
#: Largest difference between ``reference.onnx`` and the checkpoint's own network on pictures in [0, 1].
REFERENCE_TOLERANCE = 1e-5

#: Operators of which a node works on any batch, height and width.
SHAPE_FREE = frozenset({
    "Add", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "DequantizeLinear", "Div", "GlobalAveragePool",
    "HardSigmoid", "HardSwish", "InstanceNormalization", "MatMul", "Mul", "Pad", "Pow", "QuantizeLinear", "Reciprocal",
    "ReduceMean", "Relu", "Resize", "Sigmoid", "SpaceToDepth", "Sqrt", "Sub", "Tanh", "Unsqueeze",
})  # fmt: skip


# --- the float model -------------------------------------------------------------------------------------------------


def write_reference(checkpoint: Checkpoint | NamedCheckpoint, folder: Path) -> Reference:
    """Writes ``reference.onnx``: float32, any batch, any H and W divisible by 16, every style as an input.

    It is made from the network as it was trained, not from the folded graph the artifacts are made from, so that a
    wrong fold cannot hide in both.

    Args:
        checkpoint: the network and its description.
        folder: where the file goes; it exists.

    Returns:
        The file's description, without pictures.
    """
    info = checkpoint.info
    example = (torch.full((1, 3, 64, 64), 0.5), torch.full((1, len(info.styles)), 1.0 / len(info.styles)))
    model = trace(checkpoint.generator, example)
    _open_borders(model, batch=True, size=True)
    described = {
        "name": info.name,
        "version": info.version,
        "author": info.author,
        "licence": info.licence,
        "styles": ",".join(info.styles),
        "style": "",
    }
    path = folder / REFERENCE
    save(model, path, described)
    return Reference(file=REFERENCE, sha256=hash_path(path), bytes=size_of(path), io=reference_io(len(info.styles)))


def reference_io(styles: int) -> IOSpec:
    """The border of ``reference.onnx`` with S = ``styles``."""
    return IOSpec(
        image=image_spec(INPUTS[0], Layout.NCHW, DType.FLOAT32, None, None, batch=None),
        output=image_spec(OUTPUT, Layout.NCHW, DType.FLOAT32, None, None, batch=None),
        style=style_spec(INPUTS[1], styles, batch=None),
    )


def prove_reference(
    path: Path,
    checkpoint: Checkpoint | NamedCheckpoint,
    photos: Sequence[np.ndarray],
    *,
    tolerance: float = REFERENCE_TOLERANCE,
) -> float:
    """Compares ``reference.onnx``, reloaded under ONNX Runtime, with the checkpoint's own network.

    The two sides share no code: the network gets the photo through torch operations, the file gets it through the
    ``IOSpec`` that apps go by. Every style is compared by itself, then all styles and a mix of them as one batch.

    Args:
        path: the file.
        checkpoint: what it was made from.
        photos: ``H x W x 3`` uint8 RGB, sides divisible by 16, of any sizes.
        tolerance: the largest absolute difference allowed, on values in [0, 1].

    Returns:
        The largest absolute difference found.

    Raises:
        GateError: when it is above the tolerance; names the style.
        UsageError: when there are no photos.
    """
    if not photos:
        raise UsageError("the float model cannot be proven without photos: give at least one.")
    rows = len(checkpoint.info.styles)
    io = reference_io(rows)
    session = _session(path)
    weights = np.concatenate([np.eye(rows), np.full((1, rows), 1.0 / rows)]).astype(np.float32)
    names = [*checkpoint.info.styles, "a mix of all styles"]
    differences = np.zeros(len(weights))
    for photo in photos:
        wanted = [_run_network(checkpoint.generator, photo, row) for row in weights]
        given = photo.astype(np.float32) / np.float32(255)
        alone = [_run_session(session, io, given[None], row[None])[0] for row in weights]
        batch = _run_session(session, io, np.stack([given] * len(weights)), weights)
        for index, want in enumerate(wanted):
            for have in (alone[index], batch[index]):
                error = float(np.abs(have - want).max()) if have.shape == want.shape else np.inf
                # Written so that a NaN counts as the worst.
                differences[index] = differences[index] if error <= differences[index] else error
    worst = int(np.argmax(np.where(np.isnan(differences), np.inf, differences)))
    if not differences[worst] <= tolerance:
        raise GateError(
            f"{path.name} differs from the checkpoint's network by {differences[worst]:.3g} in style "
            f"{names[worst]!r} (at most {tolerance:g} is allowed): the export is wrong, nothing was written."
        )
    return float(differences[worst])


def draw_reference(path: Path, photos: np.ndarray, styles: int) -> np.ndarray:
    """The float model's pictures.

    Args:
        path: ``reference.onnx``.
        photos: ``P x H x W x 3`` float32, RGB, [0, 1].
        styles: S.

    Returns:
        ``S x P x H x W x 3`` float32, RGB, [0, 1].
    """
    session, io = _session(path), reference_io(styles)
    rows = np.eye(styles, dtype=np.float32)
    return np.stack([[_run_session(session, io, photo[None], row[None])[0] for photo in photos] for row in rows])


def _run_network(network: nn.Module, photo: np.ndarray, row: np.ndarray) -> np.ndarray:
    """``H x W x 3`` uint8 to ``H x W x 3`` float32 through torch alone."""
    image = torch.tensor(photo).permute(2, 0, 1).unsqueeze(0).to(torch.float32).div(255).contiguous()
    with torch.inference_mode():
        made = network(image, torch.tensor(row).unsqueeze(0))
    return made.squeeze(0).permute(1, 2, 0).numpy()


def _run_session(session: ort.InferenceSession, io: IOSpec, photos: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``N x H x W x 3`` in [0, 1] and ``N x S`` to ``N x H x W x 3`` float32, as an app would do it."""
    assert io.style is not None  # reference_io gives one
    feed = {
        io.image.name: io.image.encode(photos),
        io.style.name: io.style.encode(weights),
    }
    return io.output.decode(session.run([io.output.name], feed)[0])


# --- artifacts -------------------------------------------------------------------------------------------------------


def to_onnx(graph: DeployGraph, spec: ExportSpec, options: ExportOptions) -> Artifact:
    """Writes one artifact for ONNX Runtime: fp32, or int8 as QDQ with float io.

    Args:
        graph: the deployed graph (``converters.graph.deployable``).
        spec: what to write; ``precision`` is fp32 or int8.
        options: the folder, the calibration set (int8), and whether any batch size is accepted.

    Raises:
        UsageError: int8 without calibration, or a graph that cannot hold in int8.
    """
    quantization, expected = None, None
    if spec.precision is Precision.INT8:
        require_int8(graph)
        calibration = options.calibration_for(spec)
        traced = trace(equalize(graph, calibration), example_inputs(graph, spec.size))
        model, quantization = quantize_qdq(
            traced, calibration, ranges=options.ranges, float_layers=check_layers(graph, options.float_layers)
        )
        if not options.dynamic_batch:  # pictures of a batch may have a style each
            model = fold_modulation(model, find_modulated(traced, INPUTS[1]), INPUTS[1])
        expected = expect(simulate_qdq(model), spec, options, simulation="QDQ graph in float, not optimized")
        model = integer_convolutions(model)
    else:
        model = trace(graph, example_inputs(graph, spec.size))
        arrange_tail(model.graph)
    if options.dynamic_batch:
        _open_borders(model, batch=True)
    path = options.folder / spec.file_name("onnx")
    save(model, path, spec.description())
    artifact = row_for(spec.target, spec.backend).artifact(
        spec,
        path,
        io=spec.io(Layout.NCHW, DType.FLOAT32, batch=None if options.dynamic_batch else 1),
        quantization=quantization,
        tools=("onnx", "onnxruntime", "onnxscript", "torch"),
    )
    return measured(artifact, options.folder, expected)


def simulate_qdq(model: onnx.ModelProto) -> Draw:
    """The simulation of a QDQ graph in memory: ONNX Runtime without any optimization.

    Nothing is fused then, so every convolution, add and mul computes in float32 between its DequantizeLinear and
    QuantizeLinear, and none of the integer kernels that run the saved file takes part. It shares ONNX Runtime's float
    kernels with it. (``onnx.reference`` would share nothing, but resizes in Python, pixel by pixel.)
    """
    session = _start(model.SerializeToString(), optimized=False)
    names = [given.name for given in session.get_inputs()]

    def draw(*given: np.ndarray) -> np.ndarray:
        made: np.ndarray = session.run([OUTPUT], dict(zip(names, given, strict=True)))[0]
        return made

    return draw


def arrange_tail(graph: onnx.GraphProto) -> None:
    """Writes the end of a float graph as ONNX Runtime is quickest with: ``transpose_tail``, else the clamp earlier."""
    if not transpose_tail(graph):
        clamp_before_shuffle(graph)


def transpose_tail(graph: onnx.GraphProto) -> bool:
    """Makes one transposed convolution, kernel and stride 2, of a last 1x1 convolution and the shuffle after it.

    Both map a pixel's channels to 2 x 2 pixels by one matrix, so each value is the same sum. ONNX Runtime moves values
    for a ``DepthToSpace`` one by one on one thread: at 256 x 256 that costs as much as a 3x3 convolution.

    Returns whether the graph ends so, with a bias that the four pixels share; it is left alone otherwise.
    """
    makers = {output: node for node in graph.node for output in node.output}
    clip = makers[OUTPUT]
    shuffle = makers.get(clip.input[0]) if clip.op_type == "Clip" else clip
    if shuffle is None or shuffle.op_type != "DepthToSpace":
        return False
    conv = makers.get(shuffle.input[0])
    if conv is None or conv.op_type != "Conv" or len(conv.input) < 3:
        return False
    weight, bias = _constant(graph, conv.input[1]), _constant(graph, conv.input[2]).reshape(-1, _BLOCK**2)
    if weight.shape[2:] != (1, 1) or (bias != bias[:, :1]).any():
        return False
    colours, channels = len(bias), weight.shape[1]
    square = weight.reshape(colours, _BLOCK, _BLOCK, channels).transpose(3, 0, 1, 2)
    constants = {"tail_weight": np.ascontiguousarray(square), "tail_bias": bias[:, 0].copy()}
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    drawn = onnx.helper.make_node(
        "ConvTranspose", [conv.input[0], *constants], [shuffle.output[0]], name=_TAIL, strides=[_BLOCK, _BLOCK]
    )
    for name in conv.input[1:]:
        graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == name))
    conv.CopyFrom(drawn)
    graph.node.remove(shuffle)
    del graph.value_info[:]
    return True


def clamp_before_shuffle(graph: onnx.GraphProto) -> bool:
    """Moves the last clamp from the shuffled picture to the convolution before it, with which ONNX Runtime fuses it.

    A shuffle moves values and changes none, so the result has the same bits. Returns whether there was one to move.
    """
    clip = next(node for node in graph.node if OUTPUT in node.output)
    shuffle = next((node for node in graph.node if clip.input[0] in node.output), None)
    if clip.op_type != "Clip" or shuffle is None or shuffle.op_type != "DepthToSpace":
        return False
    clip.input[0], clip.output[0] = shuffle.input[0], shuffle.output[0]
    shuffle.input[0], shuffle.output[0] = clip.output[0], OUTPUT
    nodes = [node for node in graph.node if node not in (clip, shuffle)]
    del graph.node[:]
    graph.node.extend([*nodes, clip, shuffle])
    del graph.value_info[:]  # the shapes between the two have changed
    return True


def quantize_qdq(
    model: onnx.ModelProto,
    calibration: CalibrationSet,
    *,
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
    float_layers: Collection[str] = (),
) -> tuple[onnx.ModelProto, Quantization]:
    """Static int8 by ONNX Runtime's quantizer, as QuantizeLinear / DequantizeLinear pairs.

    Weights are signed and symmetric per channel, activations unsigned (U8S8), both over the full range. Signed
    activations describe the same grid, but ONNX Runtime on x86 then leaves most convolutions in float, each between a
    DequantizeLinear and a QuantizeLinear (40 of 68 in the shipped network, which made int8 1.7x slower than fp32). ARM
    kernels compute both kinds exactly. On x86 without VNNI, ONNX Runtime adds products in 16 bits, which saturates (a
    3x3 convolution of 32 channels with large weights: up to 25 steps of 255 off); ``reduce_range`` avoids that at the
    price of a bit that phones can use, so it stays off and the read-back asks for exact arithmetic instead where it
    has to (``session.x64quantprecision``, ``sdk.runtimes.ort``). ``quant_pre_process`` is left out: the
    graph comes folded, and every figure with it and without it was the same (SSIM 0.9328 / 0.7993 both times).

    The ranges are ours (``converters.ranges``). The quantizer takes them as its calibration cache, the file it keeps
    for a second run, and never calibrates itself. It is helped in two places more:

    * image and picture have the grid of an 8-bit picture, scale 1/255 and zero point 0, so that the last clamp is
      done by saturation and no step is spent beyond [0, 1];
    * of a style's scaling only what can survive the shift and the ReLU6 after it gets steps (``product_limits``).

    The last convolution stays in float when it can be a transposed one (``transpose_tail``): 2 % of the shipped
    network's multiplications, but ONNX Runtime has no integer kernel that moves values as fast.

    Args:
        model: a float32 model with inputs ``image`` and, unless baked, ``style``; traced from an equalized graph.
        calibration: photos and styles.
        ranges: how ranges follow from what they give.
        float_layers: module paths whose nodes stay in float.
    """
    model = copy.deepcopy(model)
    excluded = nodes_of(model.graph, float_layers)
    if transpose_tail(model.graph):
        excluded, float_layers = [*excluded, _TAIL], {*float_layers, _TAIL_LAYER}
    picture = _drop_last_clip(model.graph, excluded)
    observed = observe(model, calibration)
    limits = product_limits(model, observed)
    borders = [INPUTS[0], *([picture] if picture else [])]
    grid = {
        "quant_type": ortq.QuantType.QUInt8,
        "scale": np.array(1 / 255, np.float32),
        "zero_point": np.array(0, np.uint8),
    }
    ends = {name: seen.range(ranges, limits=limits.get(name)) for name, seen in observed.items()}
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        source, target, cache = (Path(temporary, name) for name in ("float.onnx", "int8.onnx", "ranges.json"))
        onnx.save(model, source)
        save_tensors_data(
            TensorsData(
                ortq.CalibrationMethod.MinMax,
                {name: (np.float32(low), np.float32(high)) for name, (low, high) in ends.items()},
            ),
            cache,
        )
        ortq.quantize_static(
            source,
            target,
            None,
            quant_format=ortq.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=False,
            activation_type=ortq.QuantType.QUInt8,
            weight_type=ortq.QuantType.QInt8,
            calibrate_method=ortq.CalibrationMethod.MinMax,
            nodes_to_exclude=excluded,
            calibration_cache_path=cache,
            extra_options={"TensorQuantOverrides": {name: [dict(grid)] for name in borders}},
        )
        quantized = onnx.load(target)
    return quantized, Quantization(
        method=f"onnxruntime static QDQ, int8, {SCHEME}, {ranges}",
        calibration_sha256=calibration.sha256,
        calibration_images=len(calibration),
        float_layers=tuple(sorted(float_layers)),
    )


def nodes_of(graph: onnx.GraphProto, layers: Collection[str]) -> list[str]:
    """Names of the nodes that were traced from these modules or from parts of them.

    Args:
        graph: as ``trace`` made it: each node says which modules it is from.
        layers: module paths.

    Raises:
        ValueError: a layer without a node.
    """
    scopes = {
        node.name: ast.literal_eval(entry.value)
        for node in graph.node
        for entry in node.metadata_props
        if entry.key == _SCOPES
    }
    for layer in layers:
        if not any(layer in scope for scope in scopes.values()):
            raise ValueError(f"no node of the ONNX graph says that it is from the layer {layer!r}.")
    return [name for name, scope in scopes.items() if any(layer in scope for layer in layers)]


def observe(model: onnx.ModelProto, calibration: CalibrationSet) -> dict[str, Observed]:
    """Runs a float model on a calibration set and watches the inputs and every float tensor that is computed.

    Args:
        model: inputs ``image`` and, unless baked, ``style``.
        calibration: photos and styles.

    Returns:
        Tensor name to what it held.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    already = {info.name for info in model.graph.output}
    names = [
        name
        for node in model.graph.node
        for name in node.output
        if name in already or kinds.get(name) == onnx.TensorProto.FLOAT
    ]
    watched = copy.deepcopy(model)
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in already
    )
    session = _start(watched.SerializeToString())
    given = [info.name for info in model.graph.input]
    found = {name: Observed() for name in (*given, *names)}
    for tensors in calibration.tensors(baked=len(given) == 1):
        feed = dict(zip(given, (tensor.numpy() for tensor in tensors), strict=True))
        for name, values in zip(found, (*feed.values(), *session.run(names, feed)), strict=True):
            found[name].add(values)
    return found


def _drop_last_clip(graph: onnx.GraphProto, in_float: Collection[str] = ()) -> str | None:
    """Removes a clamp of the result to [0, 1]; returns the tensor before it whose 8-bit grid takes its place.

    ``None`` when the graph does not end in such a clamp, or the node that makes the picture is one of ``in_float``.
    """
    makers = {output: node for node in graph.node for output in node.output}
    clip = makers[OUTPUT]
    if clip.op_type != "Clip" or [float(_constant(graph, name)) for name in clip.input[1:]] != [0.0, 1.0]:
        return None
    last = makers[clip.input[0]]
    # A shuffle only moves values: the grid belongs to what it moves.
    shuffled = last.input[0] if last.op_type == "DepthToSpace" else None
    if makers[shuffled or clip.input[0]].name in in_float:
        return None
    graph.node.remove(clip)
    last.output[0] = OUTPUT
    return shuffled or OUTPUT


def product_limits(model: onnx.ModelProto, observed: Mapping[str, Observed]) -> dict[str, tuple[float, float]]:
    """What of ``x * scale`` makes a difference in ``ReLU6(x * scale + shift)``: name of the product to (low, high).

    Beyond [-max shift, 6 - min shift] the ReLU6 cuts off anyway. The shift depends on the style weights alone; a
    calibration set shows every style, and the shift of a mix of styles lies between those of its styles.

    Args:
        model: a float model.
        observed: what its tensors held in calibration.
    """
    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    of_style = {INPUTS[1], *(tensor.name for tensor in graph.initializer)}  # what no photo changes
    for node in graph.node:
        if of_style.issuperset(node.input):
            of_style.update(node.output)
        for name in node.input:
            readers.setdefault(name, []).append(node)
    limits: dict[str, tuple[float, float]] = {}
    for node in graph.node:
        add = _only(readers.get(node.output[0], ()), "Add") if node.op_type == "Mul" else None
        clip = _only(readers.get(add.output[0], ()), "Clip") if add is not None else None
        if add is None or clip is None:
            continue
        shift = next(name for name in add.input if name != node.output[0])
        if shift in observed and shift in of_style:
            low, high = (float(_constant(graph, name)) for name in clip.input[1:])
            limits[node.output[0]] = (low - observed[shift].high, high - observed[shift].low)
    return limits


def _only(readers: Sequence[onnx.NodeProto], op_type: str) -> onnx.NodeProto | None:
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


def _constant(graph: onnx.GraphProto, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == name)


# --- torch to ONNX ---------------------------------------------------------------------------------------------------


def trace(module: nn.Module, example: tuple[torch.Tensor, ...]) -> onnx.ModelProto:
    """A module in eval mode as an ONNX model of the example's shapes, with our names of inputs and output."""
    with torch.no_grad():
        program = torch.export.export(module, example, strict=False)
        converted = torch.onnx.export(
            program,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=list(INPUTS[: len(example)]),
            output_names=[OUTPUT],
            verbose=False,
        )
    assert converted is not None  # it is with dynamo=True
    return copy.deepcopy(converted.model_proto)


def _open_borders(model: onnx.ModelProto, *, batch: bool, size: bool = False) -> None:
    """Lets a model traced at one shape take any batch, or any batch and size.

    Tracing with symbolic extents takes four times as long for the same nodes: none of the operators of our networks
    has an extent in it. Whether that holds is looked up here, and proven by running (``prove_reference``).

    Raises:
        ValueError: when the graph holds an operator that may fix an extent.
    """
    fixing = sorted({node.op_type for node in model.graph.node} - SHAPE_FREE)
    scales = all(len(node.input) < 4 for node in model.graph.node if node.op_type == "Resize")
    if fixing or not scales:
        raise ValueError(f"the operators {fixing or ['Resize to a size']} may fix the shape: add a symbolic trace.")
    names = {0: "batch"} if batch else {}
    for tensor in (*model.graph.input, *model.graph.output):
        is_picture = tensor.name != INPUTS[1]
        for axis, name in {**names, **({2: "height", 3: "width"} if size and is_picture else {})}.items():
            tensor.type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]


def save(model: onnx.ModelProto, path: Path, described: Mapping[str, str]) -> None:
    """Writes the model without traces of the machine it was made on; the same network gives the same bytes."""
    graph = model.graph
    # torch writes stack traces with absolute paths, and its own signature, into these.
    holders = (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output)
    for holder in holders:
        del holder.metadata_props[:]
        holder.doc_string = ""
    del graph.value_info[:]  # a runtime infers them again
    graph.name = described["name"]
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "toonedge", ""
    onnx.helper.set_model_props(model, dict(sorted(described.items())))
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString(deterministic=True))


def _session(path: Path) -> ort.InferenceSession:
    return _start(str(path))


def _start(model: str | bytes, *, optimized: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantizer's advice to pre-process (see ``quantize_qdq``); errors pass."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
