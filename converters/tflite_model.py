"""Edits of a ``.tflite`` flatbuffer, and what it says of itself.

litert-torch writes a float NHWC graph; the edits here are what it leaves to be done:

* pixel shuffle comes out as six reshapes and transposes: one ``DEPTH_TO_SPACE`` replaces them, once the channels of the
  convolution before it are in TFLite's order;
* the clamp to [0, 1] comes out as ``RELU_0_TO_1``, which XNNPACK does not take and old runtimes do not know: a fused
  ReLU and a ``MINIMUM`` replace it;
* tensor names are Python module paths (a tenth of an int8 file): short ones replace them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from sdk.bundle import Delegation
from sdk.errors import UsageError

#: Name of the file's own description among its metadata, JSON.
METADATA_NAME = "toonedge"
#: Pixel shuffle block: the last convolution works at stride 2.
_BLOCK = 2
_Op = schema.BuiltinOperator
_SHUFFLE = {_Op.TRANSPOSE, _Op.RESHAPE, _Op.RELU_0_TO_1}


class TFLiteModel:
    """A ``.tflite`` with one subgraph, as objects that can be changed.

    Args:
        content: the file's bytes.
    """

    def __init__(self, content: bytes) -> None:
        self.model: schema.ModelT = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        for buffer in self.model.buffers:
            if buffer.data is not None:
                buffer.data = np.array(buffer.data, dtype=np.uint8)  # writable, and free of the file's bytes
        if len(self.model.subgraphs) != 1:
            raise ValueError(f"the model has {len(self.model.subgraphs)} subgraphs, not 1.")
        self.graph: schema.SubGraphT = self.model.subgraphs[0]

    def to_bytes(self) -> bytes:
        """The file."""
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))

    def operator(self, op: schema.OperatorT) -> int:
        """The ``BuiltinOperator`` of an operator."""
        return int(flatbuffer_utils.get_builtin_code_from_operator_code(self.model.operatorCodes[op.opcodeIndex]))

    def operators(self) -> list[str]:
        """Names of the operators in order, e.g. ``CONV_2D``."""
        names = {value: name for name, value in vars(_Op).items() if isinstance(value, int)}
        return [names[self.operator(op)] for op in self.graph.operators]

    def values(self, tensor: int) -> np.ndarray:
        """A constant float32 tensor, writable in place.

        Raises:
            ValueError: when the tensor is not a constant.
        """
        described = self.graph.tensors[tensor]
        data = self.model.buffers[described.buffer].data
        if data is None:
            raise ValueError(f"tensor {tensor} is not a constant.")
        values: np.ndarray = data.view(np.float32).reshape(list(described.shape))
        return values

    def own_values(self, tensor: int) -> np.ndarray:
        """Like ``values``, after giving the tensor a buffer that it shares with no other."""
        described = self.graph.tensors[tensor]
        shared = sum(other.buffer == described.buffer for other in self.graph.tensors) > 1
        if shared:
            fresh = schema.BufferT()
            fresh.data = self.model.buffers[described.buffer].data.copy()
            self.model.buffers.append(fresh)
            described.buffer = len(self.model.buffers) - 1
        return self.values(tensor)

    def cut_shuffle(self) -> None:
        """Ends the graph at its last convolution, whose channels are brought into ``DEPTH_TO_SPACE`` order.

        PyTorch's pixel shuffle reads channel ``c * 4 + row * 2 + column``, ``DEPTH_TO_SPACE`` ``(row * 2 + column) * 3
        + c``. The clamp to [0, 1] goes as well; ``append_shuffle`` puts both back.

        Raises:
            ValueError: when the graph does not end in a convolution and a pixel shuffle as litert-torch writes it.
        """
        ops = self.graph.operators
        last = max(i for i, op in enumerate(ops) if self.operator(op) == _Op.CONV_2D)
        rest = {self.operator(op) for op in ops[last + 1 :]}
        if not rest or not rest <= _SHUFFLE:
            raise ValueError("the graph does not end in a convolution and a pixel shuffle.")
        conv = ops[last]
        channels = self.graph.tensors[conv.outputs[0]].shape[-1]
        colours = channels // _BLOCK**2
        order = np.arange(channels).reshape(colours, _BLOCK, _BLOCK).transpose(1, 2, 0).reshape(-1)
        for tensor in conv.inputs[1:]:
            constant = self.own_values(tensor)
            constant[:] = constant[order]
        del ops[last + 1 :]
        self._set_output(conv.outputs[0])

    def append_shuffle(self) -> None:
        """Adds what ``cut_shuffle`` took: the clamp (float graphs only) and one ``DEPTH_TO_SPACE``.

        An int8 result needs no clamp: its grid ends at 0 and 1.
        """
        source = self.graph.outputs[0]
        if self.graph.tensors[source].type == schema.TensorType.FLOAT32:
            conv = next(op for op in self.graph.operators if source in op.outputs)
            conv.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
            ones = self._add_tensor(b"one", [1], schema.TensorType.FLOAT32, np.ones(1, np.float32))
            shape = list(self.graph.tensors[source].shape)
            clamped = self._add_tensor(b"clamped", shape, schema.TensorType.FLOAT32)
            self._add_operator(
                _Op.MINIMUM,
                [source, ones],
                clamped,
                schema.BuiltinOptions.MaximumMinimumOptions,
                schema.MaximumMinimumOptionsT(),
            )
            source = clamped
        described = self.graph.tensors[source]
        batch, height, width, channels = described.shape
        shape = [batch, height * _BLOCK, width * _BLOCK, channels // _BLOCK**2]
        result = self._add_tensor(b"cartoon", shape, described.type)
        self.graph.tensors[result].quantization = described.quantization
        options = schema.DepthToSpaceOptionsT()
        options.blockSize = _BLOCK
        self._add_operator(
            _Op.DEPTH_TO_SPACE, [source], result, schema.BuiltinOptions.DepthToSpaceOptions, options, version=1
        )
        self._set_output(result)

    def quantize_output(self, scale: float, zero_point: int) -> None:
        """Rounds a float result to an int8 grid; what lies beyond its ends is clipped to them.

        Args:
            scale, zero_point: of the grid.
        """
        source = self.graph.outputs[0]
        described = self.graph.tensors[source]
        name, described.name = described.name, b"unrounded"
        result = self._add_tensor(name, list(described.shape), schema.TensorType.INT8)
        grid = schema.QuantizationParametersT()
        grid.scale, grid.zeroPoint = np.array([scale], np.float32), np.array([zero_point], np.int64)
        self.graph.tensors[result].quantization = grid
        self._add_operator(
            _Op.QUANTIZE, [source], result, schema.BuiltinOptions.QuantizeOptions, schema.QuantizeOptionsT()
        )
        self._set_output(result)

    def product_limits(self) -> dict[str, tuple[float, float]]:
        """What of each style product can survive the shift and ReLU6 after it: tensor name to (low, high).

        In ``relu6(x * scale + shift)`` the product matters between ``-max shift`` and ``6 - min shift``. The shift is a
        1x1 convolution of the style weights, and these are a convex mix, so its extremes are those of the rows. No
        name is asked (litert-torch's tell classes and not modules): that the shift comes from the style input alone,
        and that nothing else reads the product, is what makes the limits hold.
        """
        makers = {op.outputs[0]: op for op in self.graph.operators}
        readers = Counter(int(index) for op in self.graph.operators for index in op.inputs)
        limits: dict[str, tuple[float, float]] = {}
        for add in self.graph.operators:
            if (
                self.operator(add) != _Op.ADD
                or add.builtinOptions.fusedActivationFunction != schema.ActivationFunctionType.RELU6
            ):
                continue
            product, shift = (makers.get(index) for index in add.inputs)
            if product is None or shift is None or self.operator(product) != _Op.MUL:
                continue
            if readers[product.outputs[0]] > 1 or product.outputs[0] in self.graph.outputs:
                continue
            if self.operator(shift) != _Op.CONV_2D or not self._is_style(shift.inputs[0], makers):
                continue
            rows, bias = self.values(shift.inputs[1]), self.values(shift.inputs[2])
            if bias.any() or shift.builtinOptions.fusedActivationFunction != schema.ActivationFunctionType.NONE:
                continue
            name = self.graph.tensors[product.outputs[0]].name.decode()
            limits[name] = (-float(rows.max()), 6.0 - float(rows.min()))
        return limits

    def _is_style(self, tensor: int, makers: Mapping[int, schema.OperatorT]) -> bool:
        """Whether a tensor is the input of style weights, ``N x S``, perhaps in another shape."""
        while tensor in makers and self.operator(makers[tensor]) == _Op.RESHAPE:
            tensor = makers[tensor].inputs[0]
        return tensor in self.graph.inputs and len(self.graph.tensors[tensor].shape) == 2

    def drop_unused(self) -> None:
        """Forgets tensors, buffers and operator codes that nothing refers to."""
        graph, model = self.graph, self.model
        used = {i for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0}
        used |= {*graph.inputs, *graph.outputs}
        tensors = {old: new for new, old in enumerate(sorted(used))}
        graph.tensors = [graph.tensors[i] for i in tensors]
        for op in graph.operators:
            op.inputs = [tensors.get(i, -1) for i in op.inputs]
            op.outputs = [tensors[i] for i in op.outputs]
        graph.inputs = [tensors[i] for i in graph.inputs]
        graph.outputs = [tensors[i] for i in graph.outputs]
        for signature in model.signatureDefs:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = tensors[entry.tensorIndex]
        codes = {old: new for new, old in enumerate(sorted({op.opcodeIndex for op in graph.operators}))}
        model.operatorCodes = [model.operatorCodes[i] for i in codes]
        for op in graph.operators:
            op.opcodeIndex = codes[op.opcodeIndex]
        kept = sorted({0, *(t.buffer for t in graph.tensors), *(m.buffer for m in model.metadata or [])})
        buffers = {old: new for new, old in enumerate(kept)}
        model.buffers = [model.buffers[i] for i in kept]
        for owner in (*graph.tensors, *(model.metadata or [])):
            owner.buffer = buffers[owner.buffer]

    def rename(self, inputs: tuple[str, ...], output: str) -> None:
        """Names inputs and output, also in the signature; the other tensors are numbered."""
        for index, tensor in enumerate(self.graph.tensors):
            tensor.name = f"t{index}".encode()
        names = dict(zip(self.graph.inputs, inputs, strict=True)) | {self.graph.outputs[0]: output}
        for index, name in names.items():
            self.graph.tensors[index].name = name.encode()
        for signature in self.model.signatureDefs:
            for entry in (*signature.inputs, *signature.outputs):
                entry.name = names[entry.tensorIndex].encode()

    def describe(self, description: dict[str, str]) -> None:
        """Writes the model's description and its metadata entry ``toonedge`` (JSON)."""
        self.model.description = f"{description['name']} {description['version']}".encode()
        buffer = schema.BufferT()
        text = json.dumps(description, sort_keys=True)
        buffer.data = np.frombuffer(text.encode(), dtype=np.uint8)
        self.model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name = METADATA_NAME.encode()
        entry.buffer = len(self.model.buffers) - 1
        self.model.metadata = [*(self.model.metadata or []), entry]

    def description(self) -> dict[str, str]:
        """What ``describe`` wrote; empty when there is nothing."""
        for entry in self.model.metadata or []:
            if entry.name == METADATA_NAME.encode():
                text = bytes(self.model.buffers[entry.buffer].data).decode()
                described: dict[str, str] = json.loads(text)
                return described
        return {}

    def grid(self, tensor: int) -> tuple[float, int] | None:
        """(scale, zero point) of a tensor with one scale, ``None`` for floats and per-channel scales."""
        quantization = self.graph.tensors[tensor].quantization
        if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
            return None
        return float(quantization.scale[0]), int(quantization.zeroPoint[0])

    def _set_output(self, tensor: int) -> None:
        previous = self.graph.outputs[0]
        self.graph.outputs = [tensor]
        for signature in self.model.signatureDefs:
            for entry in signature.outputs:
                if entry.tensorIndex == previous:
                    entry.tensorIndex = tensor

    def _add_tensor(self, name: bytes, shape: list[int], kind: int, constant: np.ndarray | None = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, 0
        if constant is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(constant.tobytes(), dtype=np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _add_operator(
        self, builtin: int, inputs: list[int], output: int, options_type: int, options: object, *, version: int = 1
    ) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
        self.model.operatorCodes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(self.model.operatorCodes) - 1, inputs, [output]
        op.builtinOptionsType, op.builtinOptions = options_type, options
        self.graph.operators.append(op)


def read_delegation(path: Path) -> Delegation:
    """What LiteRT's XNNPACK delegate takes of a saved ``.tflite`` on this host: partitions, and operators outside.

    Raises:
        UsageError: the file cannot be loaded.
    """
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"LiteRT cannot load {path} ({error}): export it again.") from error
    operators = [op for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]
    delegates = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    makers = {int(tensor): op for op in operators for tensor in op["outputs"]}
    inside: set[int] = set()
    for delegate in delegates:
        # The interpreter lists the replaced operators too: they are those between a delegate's outputs and its inputs.
        given = {int(tensor) for tensor in delegate["inputs"]}
        pending = [int(tensor) for tensor in delegate["outputs"]]
        while pending:
            tensor = pending.pop()
            if tensor in given or tensor not in makers or int(makers[tensor]["index"]) in inside:
                continue
            inside.add(int(makers[tensor]["index"]))
            pending += [int(i) for i in makers[tensor]["inputs"] if i >= 0]
    return Delegation(
        delegates=tuple("XNNPACK" for _ in delegates),
        operators_outside=tuple(str(op["op_name"]) for op in operators if int(op["index"]) not in inside),
    )
