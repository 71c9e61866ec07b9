"""Generators by name are exported to ONNX in float, and refused elsewhere in one sentence."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnx", reason="needs the extra export")

import torch  # noqa: E402

from converters.export import export  # noqa: E402
from converters.graph import deployable, export_obstacle, int8_obstacle, prove_fold  # noqa: E402
from converters.request import ExportOptions, ExportSpec  # noqa: E402
from converters.to_onnx import REFERENCE, prove_reference, to_onnx, write_reference  # noqa: E402
from sdk.errors import GateError, UsageError  # noqa: E402
from sdk.spec import Backend, Precision, Target  # noqa: E402
from training.checkpoint import CheckpointInfo, NamedCheckpoint, save_checkpoint  # noqa: E402
from training.models import baselines  # noqa: E402
from training.models.baselines import BASELINES, ResNet9, TransformNet  # noqa: E402
from training.models.generator import Generator, GeneratorConfig  # noqa: E402
from training.models.named import GENERATORS, build_named  # noqa: E402

pytestmark = pytest.mark.export


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
