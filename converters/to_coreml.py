"""Core ML: an ``mlprogram`` package, 8-bit image in and 8-bit image out, in fp16, fp32 or int8 (W8A8).

Converting works on Linux and macOS alike; Apple's own runtime is macOS and iOS only, elsewhere ``sdk.runtimes.mil``
reads the package back.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from converters.fidelity import TORCH, Expected, expect, measured, of_module
from converters.graph import DeployGraph, PictureOutput, ScaledPicture, example_inputs
from converters.quantize import quantize
from converters.registry import row_for
from converters.request import INPUTS, OUTPUT, ExportOptions, ExportSpec
from sdk.bundle import Artifact, Quantization
from sdk.spec import DType, Layout, Precision

if TYPE_CHECKING:
    from coremltools.models import MLModel

_MODEL_FILE = Path("Data", "com.apple.CoreML", "model.mlmodel")
#: coremltools stamps the moment of conversion into the metadata: two exports of one network would differ.
_DATED = "com.github.apple.coremltools.conversion_date"
#: What coremltools 9.0 says on import beside newer packages, and outside macOS. The pair is pinned and proven, and
#: its Objective-C++ bridge is not needed to convert.
_KNOWN_WARNINGS = re.compile(
    r"has not been tested with coremltools|is not supported\. Minimum required version|^Failed to load '?_ML"
)


def to_coreml(graph: DeployGraph, spec: ExportSpec, options: ExportOptions) -> Artifact:
    """Writes one ``.mlpackage``.

    Args:
        graph: the deployed graph (``converters.graph.deployable``).
        spec: what to write; fp16, fp32 or int8.
        options: the folder, and the calibration set for int8.

    Raises:
        UsageError: int8 without calibration, or of a graph that cannot hold in int8.
    """
    row = row_for(spec.target, spec.backend)
    record: Quantization | None = None
    expected: Expected | None = None
    network: nn.Module
    if spec.precision is Precision.INT8:
        quantized = quantize(
            graph, options.calibration_for(spec), ranges=options.ranges, float_layers=options.float_layers
        )
        expected = expect(of_module(quantized.module, half=True), spec, options, simulation=TORCH)
        network, record, scale = PictureOutput(quantized.module), quantized.record, 1 / 255
    else:
        network, scale = ScaledPicture(graph), ScaledPicture.INPUT_SCALE
    ct = import_coremltools()
    height, width = spec.size
    # The scale of an ImageType is one number for all channels, which is all we need.
    image = {"name": INPUTS[0], "shape": (1, 3, height, width), "scale": scale}
    inputs: list[Any] = [ct.ImageType(**image, color_layout=ct.colorlayout.RGB)]
    if not graph.baked:
        inputs.append(ct.TensorType(name=INPUTS[1], shape=(1, graph.styles), dtype=np.float32))
    model = convert(
        network,
        example_inputs(graph, spec.size),
        precision=spec.precision,
        inputs=inputs,
        output=ct.ImageType(name=OUTPUT, color_layout=ct.colorlayout.RGB),
    )
    path = options.folder / spec.file_name("mlpackage")
    _save(model, path, spec)
    artifact = row.artifact(
        spec,
        path,
        io=spec.io(Layout.IMAGE, DType.UINT8),
        quantization=record,
        tools=("coremltools", "torch", "torchao"),
    )
    return measured(artifact, options.folder, expected)


def convert(
    network: nn.Module, example: tuple[torch.Tensor, ...], *, precision: Precision, inputs: list[Any], output: Any
) -> MLModel:
    """Converts a module, quantized by PT2E for int8, to an ``mlprogram``.

    Args:
        network: in eval mode.
        example: its arguments.
        precision: int8 computes what is not quantized in fp16.
        inputs, output: coremltools' types of its border.
    """
    ct = import_coremltools()
    with torch.no_grad():
        program = torch.export.export(network, example).run_decompositions({})
    return ct.convert(
        program,
        convert_to="mlprogram",
        inputs=inputs,
        outputs=[output],
        compute_precision=ct.precision.FLOAT32
        if precision is Precision.FP32
        else ct.transform.FP16ComputePrecision(op_selector=_in_half),
        # Image output needs iOS 16, arithmetic on 8-bit activations iOS 17 (the registry's min_os says so to apps).
        minimum_deployment_target=ct.target.iOS17 if precision is Precision.INT8 else ct.target.iOS16,
        skip_model_load=True,
    )


def _in_half(operator: Any) -> bool:
    """Whether an operator computes in fp16: all but the sum that ends in the picture (``ScaledPicture.MIDDLE``)."""
    return not (operator.op_type == "add" and operator.outputs[0] in operator.enclosing_block.outputs)


def _save(model: MLModel, path: Path, spec: ExportSpec) -> None:
    """Writes the package whole or not at all, with our metadata and without dates and random identifiers."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlpackage-") as folder:
        package = Path(folder, path.name)
        model.save(str(package))
        # A by-product for ExecuTorch's debugger that is no part of a package.
        (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
        _describe(package / _MODEL_FILE, spec)
        _fix_identifiers(package / "Manifest.json")
        if path.exists():
            shutil.rmtree(path)
        os.rename(package, path)


def _describe(file: Path, spec: ExportSpec) -> None:
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    metadata = model.description.metadata
    described = spec.description()
    metadata.author, metadata.license = described["author"], described["licence"]
    metadata.versionString = described["version"]
    drawn = f"the style {spec.style}" if spec.style else f"the styles {', '.join(spec.styles)}"
    metadata.shortDescription = f"{spec.name}: photo to cartoon in {drawn}."
    metadata.userDefined.pop(_DATED, None)
    for key, value in described.items():
        metadata.userDefined[key] = value
    features = {feature.name: feature for feature in (*model.description.input, *model.description.output)}
    height, width = spec.size
    features[INPUTS[0]].shortDescription = f"RGB photo, {width} wide and {height} high"
    features[OUTPUT].shortDescription = f"RGB picture, {width} wide and {height} high"
    if INPUTS[1] in features:
        features[INPUTS[1]].shortDescription = f"weights that sum to 1, in the order: {', '.join(spec.styles)}"
    file.write_bytes(model.SerializeToString(deterministic=True))


def _fix_identifiers(file: Path) -> None:
    """Replaces the random UUIDs of a package's items by ones that follow from the items' paths."""
    manifest = json.loads(file.read_text(encoding="utf-8"))
    entries: dict[str, dict[str, str]] = manifest["itemInfoEntries"]
    renamed = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for old, entry in entries.items()}
    manifest["itemInfoEntries"] = {renamed[old]: entry for old, entry in entries.items()}
    manifest["rootModelIdentifier"] = renamed[manifest["rootModelIdentifier"]]
    file.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def import_coremltools() -> ModuleType:
    """coremltools, without its warnings about versions that are known to work and parts that converting needs not."""
    logger = logging.getLogger("coremltools")
    if not any(isinstance(known, _DropKnown) for known in logger.filters):
        logger.addFilter(_DropKnown())
    import coremltools

    return coremltools


class _DropKnown(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """False for the messages of ``_KNOWN_WARNINGS``."""
        return not _KNOWN_WARNINGS.search(record.getMessage())
