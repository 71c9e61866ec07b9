"""Generators by name are exported to ONNX in float, and refused elsewhere in one sentence."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnx", reason="needs the extra export")

import torch  # noqa: E402

from converters.export import export, result_line  # noqa: E402
from converters.graph import deployable, export_obstacle, int8_obstacle, prove_fold  # noqa: E402
from converters.job import Conversion, Job, run_job  # noqa: E402
from converters.produce import Result, Status  # noqa: E402
from converters.request import ExportOptions, ExportSpec  # noqa: E402
from converters.to_onnx import REFERENCE, prove_reference, to_onnx, write_reference  # noqa: E402
from sdk.bundle import Bundle  # noqa: E402
from sdk.errors import ExitCode, GateError, UsageError  # noqa: E402
from sdk.spec import Backend, Precision, Target  # noqa: E402
from sdk.verify import verify  # noqa: E402
from training.checkpoint import CheckpointInfo, NamedCheckpoint, save_checkpoint  # noqa: E402
from training.models import baselines  # noqa: E402
from training.models.baselines import BASELINES, ResNet9, TransformNet  # noqa: E402
from training.models.generator import Generator, GeneratorConfig  # noqa: E402
from training.models.named import GENERATORS, build_named  # noqa: E402

pytestmark = pytest.mark.export
PHOTOS = Path(__file__).parents[2] / "photos" / "test"


@pytest.fixture(params=list(GENERATORS))
def checkpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NamedCheckpoint:
    """A network of few channels, with random weights that make a difference."""
    monkeypatch.setitem(BASELINES, "plain-9x9", partial(TransformNet, 8, baselines._instance_norm))
    monkeypatch.setitem(BASELINES, "resnet-9", partial(ResNet9, 8, 2))
    torch.manual_seed(0)
    network = build_named(request.param, 1).eval()
    info = CheckpointInfo(name=request.param, version="1.0.0", styles=("comic",), size=(32, 32))
    return NamedCheckpoint(generator=network, info=info, sha256="0" * 64)


def test_the_reference_and_the_artifact_draw_what_the_network_draws(
    checkpoint: NamedCheckpoint, pictures: np.ndarray, tmp_path: Path
) -> None:
    write_reference(checkpoint, tmp_path)
    photos = [pictures[0], np.concatenate([pictures[1], pictures[2]], axis=1)]
    assert prove_reference(tmp_path / REFERENCE, checkpoint, photos) <= 1e-5
    graph = deployable(checkpoint.generator)
    prove_fold(checkpoint.generator, graph)
    spec = ExportSpec.of(
        checkpoint.info, target=Target.ONNX, backend=Backend.ORT, precision=Precision.FP32, size=(32, 32)
    )
    artifact = to_onnx(graph, spec, ExportOptions(folder=tmp_path))
    image = torch.tensor(pictures[3]).permute(2, 0, 1)[None] / 255.0
    session = ort.InferenceSession(str(tmp_path / artifact.file), providers=["CPUExecutionProvider"])
    (have,) = session.run(None, {"image": image.numpy(), "style": np.ones((1, 1), np.float32)})
    with torch.no_grad():
        want = checkpoint.generator(image, torch.ones(1, 1)).numpy()
    assert np.abs(have - want).max() < 1e-5
    assert want.std() > 1e-3


def test_a_reference_of_other_weights_is_caught(
    checkpoint: NamedCheckpoint, pictures: np.ndarray, tmp_path: Path
) -> None:
    write_reference(checkpoint, tmp_path)
    with torch.no_grad():
        next(checkpoint.generator.parameters())[0] *= 2
    with pytest.raises(GateError, match="differs from the checkpoint's network"):
        prove_reference(tmp_path / REFERENCE, checkpoint, [pictures[0]])


def test_a_baked_graph_takes_the_photo_alone(checkpoint: NamedCheckpoint) -> None:
    graph = deployable(checkpoint.generator, style=np.ones(1, np.float32))
    image = torch.rand(1, 3, 32, 32)
    assert graph.baked
    with torch.no_grad():
        assert torch.equal(graph(image), checkpoint.generator(image, torch.ones(1, 1)))
    prove_fold(checkpoint.generator, graph, style=np.ones(1, np.float32))


def test_every_other_target_and_precision_is_refused_with_the_reason(
    checkpoint: NamedCheckpoint, tmp_path: Path
) -> None:
    network = checkpoint.generator
    refused = [(t, p) for t in Target for p in Precision if export_obstacle(network, t, p)]
    assert len(refused) == len(Target) * len(Precision) - 1
    assert (Target.ONNX, Precision.FP32) not in refused
    assert "instance" in str(int8_obstacle(deployable(network)))
    ours = Generator(GeneratorConfig(styles=1))
    assert not any(export_obstacle(ours, t, p) for t in Target for p in Precision)
    path = tmp_path / "named.safetensors"
    save_checkpoint(path, network, checkpoint.info)
    with pytest.raises(UsageError, match=r"cannot be exported to tflite as fp32: its instance norms .* export onnx"):
        export(target="tflite", checkpoint=path, out=tmp_path / "dist")
    with pytest.raises(UsageError, match=r"cannot be exported to onnx as int8"):
        export(target="onnx", precision="int8", checkpoint=path, out=tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


# --- what `all` leaves out --------------------------------------------------------------------------------------------


class InThisProcess:
    """A job without a process of its own, which would know nothing of the narrow networks of these tests."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def conversions(self) -> Iterator[Conversion]:
        return run_job(self.job)


@pytest.fixture
def saved(checkpoint: NamedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("converters.produce.JobProcess", InThisProcess)
    path = tmp_path / "named.safetensors"
    save_checkpoint(path, checkpoint.generator, checkpoint.info)
    return path


@pytest.mark.parametrize(
    ("asked", "others"),
    [
        ({}, "xnnpack_fp32.pte mlprogram_fp16.mlpackage litert_fp32.tflite"),
        (
            {"precision": "all"},
            "xnnpack_fp32.pte xnnpack_int8.pte mlprogram_fp16.mlpackage mlprogram_fp32.mlpackage "
            "mlprogram_int8.mlpackage litert_fp32.tflite litert_int8.tflite ort_int8.onnx",
        ),
    ],
    ids=["default precisions", "all precisions"],
)
def test_all_exports_what_can_be_and_says_what_is_refused_and_why(
    asked: dict[str, str], others: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Result] = []
    # What is refused needs no tool.
    found = importlib.util.find_spec
    absent = ("litert_torch", "coremltools", "executorch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else found(name, *a))
    done = export(target="all", checkpoint=saved, out=tmp_path / "dist", progress=seen.append, **asked)
    assert (done.ok, done.exit_code) == (True, ExitCode.OK)
    first, *refused = done.results
    name = Bundle.open(tmp_path / "dist").manifest.model.name
    assert (first.file, first.status) == (f"{name}_32x32_multi_ort_fp32.onnx", Status.PASS)
    assert {result.status for result in refused} == {Status.REFUSED}
    assert [result.file.removeprefix(f"{name}_32x32_multi_") for result in refused] == others.split()
    for result in refused:
        assert "instance norms take statistics of the whole picture" in result.reason
        assert ("int8" in result.reason) is result.file.endswith(".onnx")
        assert result_line(result) == f"refused       {result.file}  ({result.reason})"
    assert sorted(result.file for result in seen) == sorted(result.file for result in done.results)
    assert f"1 pass, {len(refused)} refused; " in done.explain()
    bundle = Bundle.open(tmp_path / "dist")
    bundle.check()
    assert [artifact.file for artifact in bundle.artifacts] == [first.file]
    assert verify(tmp_path / "dist", images=sorted(PHOTOS.glob("*.jpg"))[:2]).ok


def test_one_target_in_all_precisions_leaves_out_int8(saved: Path, tmp_path: Path) -> None:
    done = export(target="onnx", precision="all", checkpoint=saved, out=tmp_path / "dist")
    assert [(result.status, result.file.rpartition("_")[2]) for result in done.results] == [
        (Status.PASS, "fp32.onnx"),
        (Status.REFUSED, "int8.onnx"),
    ]
    assert done.exit_code is ExitCode.OK


@pytest.mark.parametrize(
    ("asked", "pairs"),
    [
        ({"target": "tflite", "precision": "all"}, ["tflite as fp32", "tflite as int8"]),
        ({"target": ["onnx", "tflite"], "precision": "all"}, ["tflite as fp32", "tflite as int8"]),
        ({"target": ["all", "tflite"]}, ["tflite as fp32"]),
        ({"target": "all", "precision": "fp16"}, ["coreml as fp16"]),
        ({"target": "all", "precision": ["fp32", "fp16"]}, ["coreml as fp16"]),
        ({"target": ["onnx", "coreml"], "precision": "fp32"}, ["coreml as fp32"]),
        ({"target": "onnx", "precision": ["fp32", "int8"]}, ["onnx as int8"]),
    ],
)
def test_what_was_named_and_cannot_be_done_stays_an_error(
    asked: dict[str, Any], pairs: list[str], saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as told:
        export(**asked, checkpoint=saved, out=tmp_path / "dist")
    assert str(told.value).count("cannot be exported to") == len(pairs)
    for pair in pairs:
        assert f"cannot be exported to {pair}: its instance norms" in str(told.value)
    assert not (tmp_path / "dist").exists()
