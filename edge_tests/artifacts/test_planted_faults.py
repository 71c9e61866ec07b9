"""Faults planted into real artifacts of the shipped checkpoint: ``sdk.verify`` finds each and passes the honest ones.

Network faults are planted before conversion, so that every converter and every runtime is on the way. The wrong zero
point is planted into the saved file where the format lets one be changed (Core ML, LiteRT, ONNX), and before lowering
for ExecuTorch, whose delegate's blob is closed. LiteRT and XNNPACK keep one zero point for who writes a tensor and who
reads it, so a wrong one there moves the range; in the other two it moves what is read.

A zero point that is a few steps off deep in the network changes the pictures less than int8 itself does, and
``sdk.verify`` passes it: that one is found by comparing the file with its own simulation (``converters.fidelity``).
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("executorch", reason="needs the extra export")
pytest.importorskip("coremltools", reason="needs the extra export")
pytest.importorskip("litert_torch", reason="needs the extra export")

import torch
from torch import nn

from converters.calibration import load_calibration
from converters.graph import DeployGraph, deployable
from converters.plan import _model_info
from converters.produce import Status, fidelity_faults
from converters.produce import judge as judge_export
from converters.registry import row_for
from converters.request import ExportOptions, ExportSpec
from converters.to_onnx import write_reference
from sdk.bundle import Artifact, Bundle, Manifest, Reference, hash_path, size_of
from sdk.imaging import list_photos
from sdk.spec import Backend, Precision, Target
from sdk.verify import Outcome, Verdict, verify
from training.checkpoint import PRETRAINED, Checkpoint, load_checkpoint
from training.models.generator import Generator
from training.models.norm import ConditionalNorm2d

pytestmark = [pytest.mark.export, pytest.mark.slow]

#: Large enough for the gates to mean what they mean at 256 x 256; small enough for thirty artifacts.
SIZE = (96, 96)
PHOTOS = list_photos(Path(__file__).parents[1] / "photos" / "test")[3::8]
BACKENDS = {
    Target.EXECUTORCH: Backend.XNNPACK,
    Target.COREML: Backend.MLPROGRAM,
    Target.TFLITE: Backend.LITERT,
    Target.ONNX: Backend.ORT,
}
#: What is exported without loss, or nearly: Core ML as apps get it by default, in fp16.
FLOAT = {target: Precision.FP16 if target is Target.COREML else Precision.FP32 for target in BACKENDS}


class Workbench(NamedTuple):
    """A folder with the float model of the shipped checkpoint, into which artifacts are converted."""

    folder: Path
    scratch: Path
    checkpoint: Checkpoint
    reference: Reference

    def convert(
        self, target: Target, precision: Precision, graph: DeployGraph | None = None, style: str | None = None
    ) -> Artifact:
        """Converts a graph, by default the checkpoint's own, with the converter that exports use."""
        info = self.checkpoint.info
        graph = deployable(self.checkpoint.generator) if graph is None else graph
        spec = ExportSpec(
            name=info.name, version=info.version, author=info.author, licence=info.licence, styles=info.styles,
            target=target, backend=BACKENDS[target], precision=precision, size=SIZE, style=style,
        )  # fmt: skip
        calibration = None
        if precision is Precision.INT8:
            calibration = load_calibration(size=SIZE, styles=len(info.styles), photos_per_style=16)
        options = ExportOptions(folder=self.folder, calibration=calibration, photos=tuple(PHOTOS))
        return row_for(target, BACKENDS[target]).load()(graph, spec, options)

    def judge(self, artifact: Artifact) -> Verdict:
        """The verdict of the saved file, with the manifest telling its true hash."""
        path = self.folder / artifact.file
        artifact = dataclasses.replace(artifact, sha256=hash_path(path), bytes=size_of(path))
        manifest = Manifest(
            model=_model_info(self.checkpoint), reference=self.reference, artifacts=(artifact,), toonedge="test"
        )
        (verdict,) = verify(Bundle(self.folder, manifest), images=PHOTOS, threads=1, scratch=self.scratch).results
        return verdict


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder, scratch = tmp_path_factory.mktemp("bundle"), tmp_path_factory.mktemp("scratch")
    checkpoint = load_checkpoint(PRETRAINED)
    return Workbench(folder, scratch, checkpoint, write_reference(checkpoint, folder))


# --- honest artifacts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def honest(bench: Workbench) -> Callable[[Target, Precision], Artifact]:
    """An artifact without a fault, converted once."""
    made: dict[tuple[Target, Precision], Artifact] = {}

    def convert(target: Target, precision: Precision) -> Artifact:
        if (target, precision) not in made:
            made[target, precision] = bench.convert(target, precision)
        return made[target, precision]

    return convert


@pytest.mark.parametrize("target", BACKENDS)
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_an_artifact_without_a_fault_passes(bench, honest, target, kind) -> None:
    artifact = honest(target, FLOAT[target] if kind == "float" else Precision.INT8)
    verdict = bench.judge(artifact)
    assert verdict.verdict is Outcome.PASS, verdict.reason
    assert verdict.images == len(PHOTOS)


# --- faults of the network -------------------------------------------------------------------------------------------


def swapped_channels(network: Generator) -> None:
    """Reads red as blue."""
    stem = network.encoder.features.conv_stem.weight
    stem.data = stem.data[:, [2, 1, 0]].contiguous()


def wrong_style_row(network: Generator) -> None:
    """Draws the first style where the third is asked for."""
    for norm in conditional_norms(network):
        for rows in (norm.gamma, norm.beta):
            rows.data[2] = rows.data[0]


def bad_norm_fold(network: Generator) -> None:
    """Forgets the population means of one norm."""
    list(conditional_norms(network))[-2].running_mean.zero_()


def another_checkpoint(network: Generator) -> None:
    """The same training, a little later."""
    torch.manual_seed(1)
    for values in network.parameters():
        values.data.mul_(1 + 0.02 * torch.randn_like(values))


def conditional_norms(network: Generator) -> Iterator[ConditionalNorm2d]:
    return (module for module in network.modules() if isinstance(module, ConditionalNorm2d))


@pytest.mark.parametrize("target", BACKENDS)
@pytest.mark.parametrize("plant", [swapped_channels, wrong_style_row, bad_norm_fold, another_checkpoint])
def test_a_fault_of_the_network_is_caught_on_every_target(bench, target, plant) -> None:
    network = copy.deepcopy(bench.checkpoint.generator)
    plant(network)
    verdict = bench.judge(bench.convert(target, FLOAT[target], deployable(network)))
    assert verdict.verdict is Outcome.FAIL
    assert "SSIM" in verdict.reason if target is Target.COREML else "max-abs" in verdict.reason
    if plant is wrong_style_row:  # the others are as they should be, and are not blamed
        worst = min(verdict.styles, key=lambda figures: figures.ssim.worst)
        assert worst.style == bench.checkpoint.info.styles[2]
        assert all(figures.ssim.worst > 0.999 for figures in verdict.styles if figures is not worst)


# --- an overflow in fp16 ---------------------------------------------------------------------------------------------


class Loud(nn.Module):
    """Multiplies by 2 ** 20 and back: exact in float32, infinite in between in float16."""

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """``N x C x H x W``, unchanged."""
        return x * 1024.0 * 1024.0 * (1 / 1024.0) * (1 / 1024.0)


def test_an_fp16_overflow_is_caught_and_is_none_in_fp32(bench) -> None:
    graph = deployable(bench.checkpoint.generator)
    graph.network.stages[-1].append(Loud())
    single = bench.judge(bench.convert(Target.COREML, Precision.FP32, graph))
    assert single.verdict is Outcome.PASS, single.reason
    half = bench.judge(bench.convert(Target.COREML, Precision.FP16, graph))
    assert half.verdict is Outcome.FAIL
    assert "SSIM" in half.reason


# --- one wrong zero point --------------------------------------------------------------------------------------------


def in_onnx(path: Path) -> None:
    """The last convolution reads its input 16 steps off."""
    import onnx

    model = onnx.load(path)
    makers = {output: node for node in model.graph.node for output in node.output}
    tail = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")][-1]
    reader = makers[tail.input[0]]
    assert reader.op_type == "DequantizeLinear"
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    zero_point = onnx.numpy_helper.to_array(stored[reader.input[2]])
    wrong = onnx.numpy_helper.from_array(np.array(zero_point + 16, zero_point.dtype), "wrong")
    model.graph.initializer.append(wrong)
    reader.input[2] = "wrong"
    onnx.save(model, path)


def mil_program(package: Path) -> tuple[Path, Any, Any]:
    """The model's file in a package, what is in it, and the operations of its only function."""
    from coremltools.proto import Model_pb2

    file = package / "Data/com.apple.CoreML/model.mlmodel"
    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    function = model.mlProgram.functions["main"]
    return file, model, function.block_specializations[function.opset].operations


def give_zero_point(dequantize: Any, value: int) -> None:
    """Gives an operation that has left its zero point out one of uint8."""
    from coremltools.proto import MIL_pb2

    absent = dequantize.inputs["zero_point"].arguments.add().value
    absent.type.tensorType.dataType = MIL_pb2.UINT8
    absent.immediateValue.tensor.bytes.values = bytes([value])


def after_relu6(dequantize: Any, makers: dict[str, Any]) -> bool:
    """Whether it reads a range that begins at 0: one of uint8, whose zero point coremltools leaves out.

    A range of int8 that happens to have its zero point at 0 is left without one as well.
    """
    from coremltools.proto import MIL_pb2

    (quantized,) = makers[dequantize.inputs["input"].arguments[0].name].outputs
    return "zero_point" not in dequantize.inputs and quantized.type.tensorType.dataType == MIL_pb2.UINT8


def in_coreml(path: Path) -> None:
    """The last convolution reads its input 16 steps off."""
    file, model, operations = mil_program(path)
    makers = {output.name: operation for operation in operations for output in operation.outputs}
    tail = [operation for operation in operations if operation.type == "conv"][-1]
    reader = makers[tail.inputs["x"].arguments[0].name]
    assert reader.type == "dequantize"
    if "zero_point" not in reader.inputs:  # coremltools leaves a zero out; after a ReLU6 it is that of uint8
        give_zero_point(reader, 16)
        file.write_bytes(model.SerializeToString())
        return
    holder = reader.inputs["zero_point"].arguments[0]
    value = holder.value if holder.WhichOneof("binding") == "value" else makers[holder.name].attributes["val"]
    shift(value)
    file.write_bytes(model.SerializeToString())


def shift(value: Any) -> None:
    """Adds 16 to an int8 scalar of a MIL program."""
    tensor = value.immediateValue.tensor
    assert tensor.WhichOneof("value") == "bytes", tensor
    (zero_point,) = np.frombuffer(tensor.bytes.values, np.int8)
    tensor.bytes.values = np.array([zero_point + 16], np.int8).tobytes()


def in_tflite(path: Path) -> None:
    """What the last convolution reads has its zero at the other end of its range."""
    from converters.tflite_model import TFLiteModel

    model = TFLiteModel(path.read_bytes())
    named = zip(model.operators(), model.graph.operators, strict=True)
    tail = [operator for name, operator in named if name == "CONV_2D"][-1]
    model.graph.tensors[tail.inputs[0]].quantization.zeroPoint = np.array([127])
    path.write_bytes(model.to_bytes())


@pytest.mark.parametrize(
    ("target", "plant"), [(Target.ONNX, in_onnx), (Target.COREML, in_coreml), (Target.TFLITE, in_tflite)]
)
def test_one_wrong_zero_point_in_the_saved_file_is_caught(bench, honest, target, plant) -> None:
    artifact = honest(target, Precision.INT8)
    good, bad = bench.folder / artifact.file, bench.folder / f"wrong_{artifact.file}"
    shutil.copytree(good, bad) if good.is_dir() else shutil.copy(good, bad)
    plant(bad)
    verdict = bench.judge(dataclasses.replace(artifact, file=bad.name))
    assert verdict.verdict is Outcome.FAIL
    assert "SSIM" in verdict.reason


def test_one_wrong_zero_point_in_executorchs_graph_is_caught(bench, monkeypatch) -> None:
    from converters import to_executorch

    honest = to_executorch.quantize

    def wrong(graph: DeployGraph, calibration: Any, **options: Any) -> Any:
        quantized = honest(graph, calibration, **options)
        nodes = list(quantized.module.graph.nodes)
        tail = [node for node in nodes if "conv2d" in str(node.target)][-1]
        reader = tail.args[0]
        assert "dequantize_per_tensor" in str(reader.target)
        for node in (reader, reader.args[0]):
            scale = node.args[1]
            node.args = (node.args[0], scale, 127, *node.args[3:])
        quantized.module.recompile()
        return quantized

    monkeypatch.setattr(to_executorch, "quantize", wrong)
    artifact = bench.convert(Target.EXECUTORCH, Precision.INT8)
    verdict = bench.judge(artifact)
    assert verdict.verdict is Outcome.FAIL
    assert "SSIM" in verdict.reason


# --- a zero point a few steps off, deep in the network ----------------------------------------------------------------

#: Steps that it is off by.
FEW = 4
#: Where, but for LiteRT: the decoder at an eighth of the photo's size, with two upsamplings and a dozen convolutions
#: after it.
DEPTH = 8


def test_an_artifact_without_a_fault_draws_what_its_quantized_graph_says(honest) -> None:
    for target in BACKENDS:
        artifact = honest(target, Precision.INT8)
        assert artifact.quantization.fidelity is not None
        assert artifact.quantization.fidelity.images == len(PHOTOS)
        assert fidelity_faults(artifact) == []
        assert honest(target, FLOAT[target]).quantization is None


def deep_in_onnx(path: Path) -> None:
    """A convolution deep in the decoder reads the ReLU6 before it a few steps off."""
    import onnx

    model = onnx.load(path)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    heights = {info.name: info.type.tensor_type.shape.dim[2].dim_value for info in inferred.value_info
               if len(info.type.tensor_type.shape.dim) == 4}  # fmt: skip
    makers = {output: node for node in model.graph.node for output in node.output}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers = [
        makers[node.input[0]]
        for node in model.graph.node
        if node.op_type == "Conv" and heights[node.input[0]] == SIZE[0] // DEPTH
    ]
    reader = [node for node in readers if node.op_type == "DequantizeLinear" and stored[node.input[2]] == 0][-1]
    wrong = np.array(FEW, stored[reader.input[2]].dtype)
    model.graph.initializer.append(onnx.numpy_helper.from_array(wrong, "wrong"))
    reader.input[2] = "wrong"
    onnx.save(model, path)


def deep_in_coreml(path: Path) -> None:
    """A convolution deep in the decoder reads the ReLU6 before it a few steps off."""
    file, model, operations = mil_program(path)
    makers = {output.name: operation for operation in operations for output in operation.outputs}
    readers = [makers[o.inputs["x"].arguments[0].name] for o in operations if o.type == "conv"]
    readers = [
        reader
        for reader in readers
        if reader.type == "dequantize"
        and after_relu6(reader, makers)
        and reader.outputs[0].type.tensorType.dimensions[2].constant.size == SIZE[0] // DEPTH
    ]
    give_zero_point(readers[-1], FEW)
    file.write_bytes(model.SerializeToString())


def deep_in_tflite(path: Path) -> None:
    """What the styles add in the last norm loses a few steps at the top of its range.

    Writer and reader have one zero point here, so that a wrong one moves the range and does no harm where nothing
    comes near its end (of an eighth of the photo's size, every one), and XNNPACK does not load a file in which the two
    sides of a resize or a padding differ. The rows of the styles use their range to the end.
    """
    from converters.tflite_model import TFLiteModel

    model = TFLiteModel(path.read_bytes())
    named = zip(model.operators(), model.graph.operators, strict=True)
    written = [model.graph.tensors[operator.outputs[0]] for name, operator in named if name == "CONV_2D"]
    rows = [tensor for tensor in written if list(tensor.shape[:3]) == [1, 1, 1]][-1]
    rows.quantization.zeroPoint = rows.quantization.zeroPoint + FEW
    path.write_bytes(model.to_bytes())


def deep_in_executorch(module: Any) -> Any:
    """The range of a ReLU6 deep in the decoder begins a few steps too low, in a copy that is lowered."""
    wrong = copy.deepcopy(module)
    read = [node.args[0] for node in wrong.graph.nodes if "conv2d" in str(node.target)]
    deep = [
        reader
        for reader in read
        if "dequantize_per_tensor" in str(reader.target)
        and reader.args[0].args[0].meta["val"].shape[2] == SIZE[0] // DEPTH  # of what is quantized
        and reader.args[2] == -128
    ][-1]
    for node in (deep, deep.args[0]):
        node.args = (*node.args[:2], -128 + FEW, *node.args[3:])
    wrong.recompile()
    return wrong


def plant_after(save: Callable[..., None], plant: Callable[[Path], None], at: int) -> Callable[..., None]:
    """What saves a file, and then plants a fault into it; ``at`` is the place of the path among its arguments."""

    def saving(*arguments: Any) -> None:
        save(*arguments)
        plant(arguments[at])

    return saving


@pytest.mark.parametrize("target", BACKENDS)
def test_a_deep_zero_point_a_few_steps_off_passes_for_int8_and_is_the_exports_fault(bench, monkeypatch, target) -> None:
    from converters import to_coreml, to_executorch, to_onnx, to_tflite

    if target is Target.EXECUTORCH:
        lower = to_executorch.lower
        monkeypatch.setattr(to_executorch, "lower", lambda module, *rest: lower(deep_in_executorch(module), *rest))
    else:
        module, name, plant, at = {
            Target.ONNX: (to_onnx, "save", deep_in_onnx, 1),
            Target.COREML: (to_coreml, "_save", deep_in_coreml, 1),
            Target.TFLITE: (to_tflite, "write_atomically", deep_in_tflite, 0),
        }[target]
        monkeypatch.setattr(module, name, plant_after(getattr(module, name), plant, at))
    artifact = bench.convert(target, Precision.INT8)
    verdict = bench.judge(artifact)
    assert verdict.verdict is Outcome.PASS, verdict.reason  # the float model's gates let it pass: it is not above int8
    result = judge_export(artifact, [verdict])
    assert result.status is Status.FAIL
    assert "draws something else than its own quantized graph" in result.reason
    assert "drift" in result.reason
    assert "the fault is the export's and not int8's" in result.reason
