"""ExecuTorch: one ``.pte`` file for the XNNPACK delegate, NCHW, float at the border in fp32 and in int8.

Everything that is said of a file (delegates, operators outside, the precision of each node) is read from the saved
bytes, not from the graph they were made of.
"""

from __future__ import annotations

import importlib.resources
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack import serialization
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.schema import DelegateCall, KernelCall, Program
from torch import Tensor, nn

from converters.fidelity import TORCH, expect, measured, of_module
from converters.graph import DeployGraph, example_inputs
from converters.quantize import quantize
from converters.registry import row_for
from converters.request import ExportOptions, ExportSpec
from sdk.bundle import Artifact, Delegation, Quantization
from sdk.errors import UsageError
from sdk.files import write_atomically
from sdk.spec import DType, Layout, Precision

#: The method of the file that returns the description as JSON (name, version, author, licence, styles, style).
METADATA_METHOD = "metadata"
_METHOD = "forward"
#: Operators that only change the order of axes at the border of a channels-last delegate.
_LAYOUT_COPIES = ("dim_order_ops::_clone_dim_order", "dim_order_ops::_to_dim_order_copy", "aten::clone")


def to_executorch(graph: DeployGraph, spec: ExportSpec, options: ExportOptions) -> Artifact:
    """Writes one ``.pte``.

    Args:
        graph: the deployed graph (``converters.graph.deployable``).
        spec: what to write; fp32 or int8.
        options: the folder, and the calibration set for int8.

    Raises:
        UsageError: another precision, int8 without calibration, or int8 of a graph that cannot hold in it.
        FileTroubleError: the file cannot be written.
    """
    row = row_for(spec.target, spec.backend)
    module: nn.Module = graph
    record: Quantization | None = None
    if spec.precision is Precision.INT8:
        quantized = quantize(
            graph, options.calibration_for(spec), ranges=options.ranges, float_layers=options.float_layers
        )
        module, record = quantized.module, quantized.record
    elif spec.precision is not Precision.FP32:
        raise UsageError(f"{spec.target} has no precision {spec.precision}: choose from {', '.join(row.precisions)}.")
    expected = None if record is None else expect(of_module(module), spec, options, simulation=TORCH)
    inputs = example_inputs(graph, spec.size)
    path = options.folder / spec.file_name(row.suffix)
    write_atomically(path, lower(module, inputs, spec.description()))
    artifact = row.artifact(
        spec,
        path,
        io=spec.io(Layout.NCHW, DType.FLOAT32),
        quantization=record,
        delegation=read_delegation(path),
        tools=("executorch", "torch", "torchao"),
    )
    return measured(artifact, options.folder, expected)


def lower(module: nn.Module, inputs: tuple[Tensor, ...], description: dict[str, str] | None = None) -> bytes:
    """The bytes of a ``.pte``: what XNNPACK takes is delegated, the rest calls portable kernels.

    Args:
        module: float, or from ``converters.quantize.quantize``.
        inputs: contiguous example inputs; their sizes become the file's.
        description: what the method ``metadata`` of the file returns, as JSON.
    """
    with _quiet():
        program = torch.export.export(module, inputs)
        for node in program.graph.nodes:
            # Where a node comes from: a growing history that each of the following passes would copy.
            for key in ("from_node", "stack_trace", "source_fn_stack", "nn_module_stack"):
                node.meta.pop(key, None)
        methods: dict[str, Any] = {}
        if description is not None:
            methods[METADATA_METHOD] = json.dumps(description, sort_keys=True)
        edge = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            constant_methods=methods,
            # Checking the graph after every pass takes a third of the time; the saved file is read back and compared.
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        return bytes(edge.to_executorch(ExecutorchBackendConfig()).buffer)


def read_delegation(path: Path) -> Delegation:
    """Delegates and operators of a saved ``.pte``, in the order they are called.

    Raises:
        UsageError: the file is not a whole ExecuTorch program.
    """
    program = _program(path)
    plan = next(plan for plan in program.execution_plan if plan.name == _METHOD)
    called: list[str] = []
    outside: list[str] = []
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if isinstance(call, DelegateCall):
                called.append(plan.delegates[call.delegate_index].id)
            elif isinstance(call, KernelCall):
                operator = plan.operators[call.op_index]
                outside.append(f"{operator.name}.{operator.overload}" if operator.overload else operator.name)
    copies = [name for name in outside if name.startswith(_LAYOUT_COPIES)]
    return Delegation(
        delegates=tuple(called),
        operators_outside=tuple(name for name in outside if name not in copies),
        layout_copies=len(copies),
    )


@dataclass(frozen=True, kw_only=True)
class DelegateNode:
    """One XNNPACK node of a saved file.

    Attributes:
        kind: XNNPACK's name, e.g. ``XNNConv2d``.
        inputs, outputs: data types of its activations, weights and results, e.g. ``qint8``, ``fp32``.
        pixels: rows x columns of the result, 1 for what is no picture.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pixels: int

    @property
    def computes_in_float(self) -> bool:
        """Whether it works on float32 values (what converts between int8 and float32 does not count)."""
        return self.kind != "XNNConvert" and "fp32" in self.outputs


def read_nodes(path: Path) -> tuple[DelegateNode, ...]:
    """The nodes inside the XNNPACK delegates of a saved ``.pte``: "all delegated" is not yet "all int8".

    In an int8 file of executorch 1.5.1 the bilinear upsamplings and the final pixel shuffle work on float32: its
    serializer describes their tensors so, although XNNPACK has 8-bit kernels for both. Making them 8-bit was tried and
    changed neither SSIM nor the host's latency (11.4 ms either way), so they stay.

    Raises:
        UsageError: the file is not a whole ExecuTorch program.
    """
    program = _program(path)
    nodes: list[DelegateNode] = []
    for plan in program.execution_plan:
        for delegate in plan.delegates:
            blob = program.backend_delegate_data[delegate.processed.index].data
            nodes += _xnnpack_nodes(bytes(blob))
    return tuple(nodes)


def read_metadata(path: Path) -> dict[str, str]:
    """The description that ``lower`` wrote into a saved ``.pte``; empty when it has none.

    Raises:
        UsageError: the file is not a whole ExecuTorch program.
    """
    for plan in _program(path).execution_plan:
        if plan.name == METADATA_METHOD:
            value: Any = plan.values[plan.outputs[0]].val
            described: dict[str, str] = json.loads(value.string_val)
            return described
    return {}


def _program(path: Path) -> Program:
    try:
        loaded: Any = deserialize_pte_binary(path.read_bytes())
    except Exception as error:  # the parser raises whatever the damaged bytes lead it to
        raise UsageError(f"{path} is not a whole ExecuTorch program ({error}): export it again.") from error
    program: Program = getattr(loaded, "program", loaded)
    return program


def _xnnpack_nodes(blob: bytes) -> Iterator[DelegateNode]:
    header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    with tempfile.TemporaryDirectory() as folder:
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(importlib.resources.files(serialization).joinpath("schema.fbs").read_bytes())
        binary.write_bytes(blob[start : start + header.flatbuffer_size])
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        text = Path(folder, "graph.json").read_text(encoding="utf-8")
    graph = json.loads(text.replace("-inf", '"-inf"').replace(": inf", ': "inf"'))
    values = {}
    for value in graph["xvalues"]:
        tensor = value["xvalue_union"]
        tensor = tensor.get("tensor_value", tensor)
        values[tensor["id_out"]] = tensor
    for entry in graph["xnodes"]:
        union = entry["xnode_union"]
        inputs = [union[key] for key in sorted(union) if key.startswith(("input", "filter")) and key.endswith("_id")]
        outputs = [union[key] for key in sorted(union) if key.startswith("output") and key.endswith("_id")]
        dims = values[outputs[0]].get("dims") or [1]
        yield DelegateNode(
            kind=entry["xnode_union_type"].lstrip("_"),
            inputs=tuple(_data_type(values[i]) for i in inputs),
            outputs=tuple(_data_type(values[i]) for i in outputs),
            pixels=int(dims[1] * dims[2]) if len(dims) == 4 else 1,
        )


def _data_type(tensor: dict[str, Any]) -> str:
    return str(tensor["datatype"]).removeprefix("xnn_datatype_")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the tools' remarks on their own deprecations; errors pass."""
    loggers = [logging.getLogger(name) for name in ("torch.utils._pytree", "executorch", "torchao")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
