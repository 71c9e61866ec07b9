"""Layers left in float: each target's saved file has them in float, and them alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("executorch", reason="needs the extra export")
pytest.importorskip("litert_torch", reason="needs the extra export")

import onnx

from converters import calibration as calibration_module
from converters import sensitivity
from converters.graph import deployable, example_inputs
from converters.job import Job, run_job
from converters.plan import AUTO, NONE, _check_float_layers
from converters.problems import Problems
from converters.registry import row_for
from converters.request import ExportOptions, ExportSpec
from converters.tflite_model import TFLiteModel
from converters.to_executorch import read_nodes
from converters.to_tflite import convert, tensors_of
from sdk.bundle import Artifact
from sdk.errors import UsageError
from sdk.runtimes import get_runtime
from sdk.spec import Backend, Precision, Target
from training.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, save_checkpoint
from training.models.generator import Generator

pytestmark = pytest.mark.export

BACKENDS = {Target.ONNX: Backend.ORT, Target.TFLITE: Backend.LITERT, Target.EXECUTORCH: Backend.XNNPACK}
RUNTIMES = {Target.ONNX: "onnxruntime", Target.TFLITE: "litert", Target.EXECUTORCH: "executorch"}
NAMES = ("comic", "pencil", "anime")
#: A join has two convolutions and a sum; the tail makes the picture, whose border stays what it is.
LAYERS = ("network.joins.2", "network.tail")


def make_spec(target: Target) -> ExportSpec:
    return ExportSpec(
        name="tiny", version="1", author="somebody", licence="Apache-2.0", styles=NAMES, target=target,
        backend=BACKENDS[target], precision=Precision.INT8, size=(32, 32),
    )  # fmt: skip


def float_convolutions(path: Path, target: Target) -> int:
    """Read from the saved file."""
    if target is Target.ONNX:
        graph = onnx.load(path).graph
        stored = {tensor.name for tensor in graph.initializer}
        return sum(node.op_type.startswith("Conv") and node.input[1] in stored for node in graph.node)
    if target is Target.TFLITE:
        model = TFLiteModel(path.read_bytes())
        named = zip(model.operators(), model.graph.operators, strict=True)
        written = [model.graph.tensors[op.outputs[0]] for name, op in named if name.endswith("CONV_2D")]
        return sum(tensor.type == 0 for tensor in written)
    return sum(
        "Conv" in node.kind and node.kind != "XNNConvert" and node.computes_in_float for node in read_nodes(path)
    )


@pytest.mark.parametrize("target", BACKENDS)
def test_the_named_layers_are_float_in_the_file_and_no_other(network, calibration, pictures, tmp_path, target) -> None:
    write = row_for(target, BACKENDS[target]).load()
    graph, spec = deployable(network), make_spec(target)
    made: dict[tuple[str, ...], Artifact] = {}
    counts = {}
    for layers in ((), LAYERS):
        folder = tmp_path / str(len(layers))
        folder.mkdir()
        options = ExportOptions(folder=folder, calibration=calibration, float_layers=layers)
        made[layers] = write(graph, spec, options)
        counts[layers] = float_convolutions(folder / made[layers].file, target)
        assert made[layers].quantization is not None
        assert made[layers].quantization.float_layers == tuple(sorted(layers))
        if made[layers].delegation is not None:
            assert len(made[layers].delegation.delegates) == 1
            assert made[layers].delegation.operators_outside == ()
    assert counts == {(): 0, LAYERS: 3}
    assert made[LAYERS].io == made[()].io
    session = get_runtime(RUNTIMES[target]).load(tmp_path / "2" / made[LAYERS].file, made[LAYERS].io, threads=1)
    photo, row = pictures[:1].astype(np.float32) / 255, np.eye(3, dtype=np.float32)[0]
    picture = session.stylize(photo, row)
    assert picture.min() >= 0
    assert picture.max() <= 1 + 1e-6
    assert picture.std() > 0.05


def test_a_tflite_whose_operators_are_not_the_graphs_gets_no_float_layers(network: Generator) -> None:
    """Planted: another order, other shapes, and two convolutions of one shape that changed places."""
    graph = deployable(network)
    example = example_inputs(graph, (32, 32))
    content = convert(graph, example)

    def found(model: TFLiteModel) -> list[str]:
        model.cut_shuffle()
        model.drop_unused()
        model.rename(("image", "style"), "cartoon")
        return tensors_of(model, graph, example, LAYERS)

    assert len(found(TFLiteModel(content))) == 5  # three convolutions, an upsampling and a sum
    swapped = TFLiteModel(content)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for name, op in zip(swapped.operators(), swapped.graph.operators, strict=True):
        if name == "CONV_2D":
            shapes.setdefault(tuple(swapped.graph.tensors[op.inputs[1]].shape), []).append(op.inputs[1])
    first, second = next(places for places in shapes.values() if len(places) > 1)[:2]
    tensors = swapped.graph.tensors
    tensors[first].buffer, tensors[second].buffer = tensors[second].buffer, tensors[first].buffer
    with pytest.raises(ValueError, match=r"has other weights where network\.[\w.]+\.weight is expected"):
        found(swapped)
    turned = TFLiteModel(content)
    (at, *_) = [place for place, name in enumerate(turned.operators()) if name == "ADD"]
    turned.graph.operators.insert(0, turned.graph.operators.pop(at))
    with pytest.raises(ValueError, match="computes in another order"):
        found(turned)
    other = TFLiteModel(convert(graph, example_inputs(graph, (32, 48))))
    with pytest.raises(ValueError, match="computes in another order"):
        found(other)


@pytest.mark.parametrize("target", BACKENDS)
def test_a_layer_that_is_not_there_is_refused(network, calibration, tmp_path, target) -> None:
    options = ExportOptions(folder=tmp_path, calibration=calibration, float_layers=("network.head",))
    with pytest.raises(UsageError, match=r"no layer 'network\.head'"):
        row_for(target, BACKENDS[target]).load()(deployable(network), make_spec(target), options)


@pytest.fixture
def checkpoint(network: Generator, tmp_path: Path) -> tuple[Checkpoint, Path]:
    """And the folder it is in."""
    info = CheckpointInfo(name="tiny", version="1", styles=NAMES, size=(32, 32))
    save_checkpoint(tmp_path / "tiny.safetensors", network, info)
    return load_checkpoint(tmp_path / "tiny.safetensors"), tmp_path


def test_words_and_layers_of_the_option(checkpoint) -> None:
    checkpoint, _ = checkpoint
    problems = Problems()
    assert _check_float_layers([AUTO], checkpoint, [None], problems) is None
    assert _check_float_layers([NONE], checkpoint, [None], problems) == ()
    assert _check_float_layers(LAYERS, checkpoint, [None, "comic"], problems) == LAYERS
    assert not problems
    _check_float_layers([AUTO, "network.tail"], checkpoint, [None], problems)
    _check_float_layers(["network.head"], checkpoint, ["comic"], problems)
    assert [str(problem).split(":")[0] for problem in problems.found] == [
        "--float-layers auto stands alone",
        "there is no layer 'network.head' to leave in float",
    ]


@pytest.mark.parametrize(("layers", "bar"), [(LAYERS, None), (None, 0.999)])
def test_the_manifest_says_what_stayed_in_float_and_its_share(
    checkpoint, calibration, monkeypatch, layers: tuple[str, ...] | None, bar: float | None
) -> None:
    """``None`` is auto: the bar is out of reach, so layers are looked for, and only within the budget."""
    checkpoint, folder = checkpoint
    monkeypatch.setattr(calibration_module, "load_calibration", lambda *_, **__: calibration)
    monkeypatch.setattr(sensitivity, "_TRIED", 2)
    monkeypatch.setattr(sensitivity, "_MOST", 1)
    job = Job(
        checkpoint=folder / "tiny.safetensors",
        checkpoint_sha256=checkpoint.sha256,
        specs=(make_spec(Target.ONNX),),
        folder=folder,
        destination=folder,
        calibration=folder,
        float_layers=layers,
        min_ssim=bar,
    )
    (done,) = run_job(job)
    assert done.artifact is not None, done.failure
    quantization = done.artifact.quantization
    assert quantization is not None
    if layers is None:
        assert len(quantization.float_layers) == 1
        assert 0 <= quantization.float_macs <= sensitivity.BUDGET
    else:
        assert quantization.float_layers == layers
        assert 0 < quantization.float_macs < 1
