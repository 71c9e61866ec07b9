"""ExecuTorch and LiteRT files of the shipped checkpoint, read back from disk: delegates, grids, metadata, pictures."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from converters.calibration import load_calibration
from converters.graph import deployable, prove_fold
from converters.request import ExportOptions, ExportSpec
from sdk.bundle import Artifact
from sdk.errors import UsageError
from sdk.imaging import centre_crop, list_photos, read_photo, resize
from sdk.metrics import max_abs, ssim
from sdk.spec import Backend, DType, Layout, Precision, Target, style_weights
from training.checkpoint import PRETRAINED, Checkpoint, load_checkpoint

pytestmark = [pytest.mark.export, pytest.mark.slow]

SIZE = (64, 80)
PHOTOS = Path(__file__).parents[1] / "photos" / "test"
TARGETS = [Target.EXECUTORCH, Target.TFLITE]
BACKENDS = {Target.EXECUTORCH: Backend.XNNPACK, Target.TFLITE: Backend.LITERT}


class Kind(NamedTuple):
    """What to convert; ``style`` is the baked one."""

    target: Target
    precision: Precision
    style: str | None = None


KINDS = [Kind(t, p, s) for t in TARGETS for p in (Precision.FP32, Precision.INT8) for s in (None, "pencil")]
Export = Callable[[Kind], tuple[Path, Artifact]]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(PRETRAINED)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Six test photos, ``H x W x 3`` float32 in [0, 1]."""
    height, width = SIZE
    shown = [read_photo(path).rgb for path in list_photos(PHOTOS)[::4]]
    return [resize(centre_crop(rgb, width / height), height, width) / np.float32(255) for rgb in shown]


@pytest.fixture(scope="module")
def export(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Converts once per kind and returns the file and its description."""
    folder = tmp_path_factory.mktemp("artifacts")
    made: dict[Kind, tuple[Path, Artifact]] = {}

    def convert(kind: Kind) -> tuple[Path, Artifact]:
        if kind not in made:
            made[kind] = _convert(checkpoint, folder, kind)
        return made[kind]

    return convert


def _convert(checkpoint: Checkpoint, folder: Path, kind: Kind) -> tuple[Path, Artifact]:
    from converters.to_executorch import to_executorch
    from converters.to_tflite import to_tflite

    info, (target, precision, style) = checkpoint.info, kind
    weights = None if style is None else style_weights(style, info.styles)
    graph = deployable(checkpoint.generator, style=weights)
    prove_fold(checkpoint.generator, graph, style=weights)
    calibration = None
    if precision is Precision.INT8:
        calibration = load_calibration(size=SIZE, styles=len(info.styles), style=weights, photos_per_style=16)
    spec = ExportSpec(
        name=info.name,
        version=info.version,
        author=info.author,
        licence=info.licence,
        styles=info.styles,
        target=target,
        backend=BACKENDS[target],
        precision=precision,
        size=SIZE,
        style=style,
    )
    function = to_executorch if target is Target.EXECUTORCH else to_tflite
    artifact = function(graph, spec, ExportOptions(folder=folder, calibration=calibration))
    return folder / artifact.file, artifact


def _float_picture(checkpoint: Checkpoint, photo: np.ndarray, style: str) -> np.ndarray:
    image = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)[None]))
    weights = torch.from_numpy(style_weights(style, checkpoint.info.styles)[None])
    with torch.no_grad():
        made: np.ndarray = checkpoint.generator(image, weights)[0].numpy().transpose(1, 2, 0)
    return made


def _pairs(
    checkpoint: Checkpoint, path: Path, artifact: Artifact, photos: list[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(the file's picture, the network's picture) for every photo and every style the file has."""
    from sdk.runtimes.executorch_ import ExecuTorchRuntime
    from sdk.runtimes.litert import LiteRTRuntime

    runtime = ExecuTorchRuntime() if artifact.target is Target.EXECUTORCH else LiteRTRuntime()
    with runtime.load(path, artifact.io, threads=1) as session:
        return [
            (
                session.stylize(photo[None], None if artifact.style else style_weights(style, checkpoint.info.styles))[
                    0
                ],
                _float_picture(checkpoint, photo, style),
            )
            for style in checkpoint.info.styles
            if artifact.style in (None, style)
            for photo in photos
        ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_file_has_one_delegate_and_draws_the_networks_pictures(
    export: Export, checkpoint: Checkpoint, photos: list[np.ndarray], kind: Kind
) -> None:
    path, artifact = export(kind)
    assert artifact.delegation is not None
    assert len(artifact.delegation.delegates) == 1
    assert artifact.delegation.operators_outside == ()
    assert artifact.bytes == path.stat().st_size
    assert (artifact.io.style is None) is (kind.style is not None)
    pairs = _pairs(checkpoint, path, artifact, photos)
    if kind.precision is Precision.FP32:
        assert max(max_abs(*pair) for pair in pairs) <= 1e-4
        assert artifact.quantization is None
    else:
        # Small pictures are mostly border and detail: the gates at 256 x 256 are in sdk.verify.
        values = [ssim(*pair) for pair in pairs]
        assert np.mean(values) >= 0.96
        assert min(values) >= 0.90
        assert artifact.quantization is not None
        assert artifact.quantization.calibration_images == 16 * (1 if kind.style else len(checkpoint.info.styles))


@pytest.mark.parametrize("target", TARGETS)
def test_int8_is_less_than_half_of_float(export: Export, target: Target) -> None:
    sizes = [export(Kind(target, precision, "pencil"))[1].bytes for precision in (Precision.INT8, Precision.FP32)]
    assert sizes[0] < 0.5 * sizes[1]


def test_executorch_int8_computes_in_8_bit_but_for_upsampling_and_the_shuffle(
    export: Export,
) -> None:
    from converters.to_executorch import read_nodes

    path, _ = export(Kind(Target.EXECUTORCH, Precision.INT8))
    nodes = read_nodes(path)
    kinds = Counter(node.kind for node in nodes)
    convolutions = sum(
        isinstance(m, torch.nn.Conv2d) for m in deployable(load_checkpoint(PRETRAINED).generator).modules()
    )
    assert kinds["XNNConv2d"] + kinds["XNNDepthwiseConv2d"] == convolutions  # none was left out
    floats = {node.kind for node in nodes if node.computes_in_float}
    assert floats == {"XNNStaticResizeBilinear2D", "XNNStaticReshape", "XNNStaticTranspose"}
    arithmetic = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNAdd", "XNNMultiply")
    assert all(node.outputs == ("qint8",) for node in nodes if node.kind in arithmetic)


def test_executorch_fp32_computes_in_float_alone(export: Export) -> None:
    from converters.to_executorch import read_nodes

    path, _ = export(Kind(Target.EXECUTORCH, Precision.FP32, "pencil"))
    assert {kind for node in read_nodes(path) for kind in (*node.inputs, *node.outputs)} == {"fp32"}


def test_tflite_int8_has_integer_borders_and_no_float_operator(export: Export) -> None:
    from ai_edge_litert import schema_py_generated as schema

    from converters.tflite_model import TFLiteModel

    path, artifact = export(Kind(Target.TFLITE, Precision.INT8))
    model = TFLiteModel(path.read_bytes())
    borders = [*model.graph.inputs, *model.graph.outputs]
    assert [model.graph.tensors[i].name for i in borders] == [b"image", b"style", b"cartoon"]
    for index in borders:
        grid = model.grid(index)
        assert grid is not None
        assert grid == (pytest.approx(1 / 255, abs=1e-9), -128)
    assert {"QUANTIZE", "DEQUANTIZE"}.isdisjoint(model.operators())
    assert all(tensor.type != schema.TensorType.FLOAT32 for tensor in model.graph.tensors)
    assert artifact.io.image.dtype is DType.INT8
    assert artifact.io.image.layout is Layout.NHWC


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_tflite_ends_in_one_depth_to_space_and_transposes_nothing(export: Export, precision: Precision) -> None:
    from converters.tflite_model import TFLiteModel

    model = TFLiteModel(export(Kind(Target.TFLITE, precision))[0].read_bytes())
    names = model.operators()
    assert names[-1] == "DEPTH_TO_SPACE"
    assert {"TRANSPOSE", "RELU_0_TO_1", "RESIZE_NEAREST_NEIGHBOR"}.isdisjoint(names)
    assert names.count("RESHAPE") == 1  # the style vector to a picture of one pixel


@pytest.mark.parametrize("target", TARGETS)
def test_file_describes_itself(export: Export, checkpoint: Checkpoint, target: Target) -> None:
    from converters.tflite_model import TFLiteModel
    from converters.to_executorch import read_metadata

    path, _ = export(Kind(target, Precision.INT8, "pencil"))
    found = read_metadata(path) if target is Target.EXECUTORCH else TFLiteModel(path.read_bytes()).description()
    info = checkpoint.info
    assert found == {
        "name": info.name,
        "version": info.version,
        "author": info.author,
        "licence": info.licence,
        "styles": ",".join(info.styles),
        "style": "pencil",
    }


def test_executorch_file_gives_its_description_through_the_runtime(export: Export, checkpoint: Checkpoint) -> None:
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    from converters.to_executorch import METADATA_METHOD

    path, _ = export(Kind(Target.EXECUTORCH, Precision.FP32, "pencil"))
    assert checkpoint.info.name in _load_for_executorch(str(path)).run_method(METADATA_METHOD, [])[0]


def test_no_path_of_the_exporting_machine_is_in_a_file(export: Export) -> None:
    here = str(Path(__file__).parents[2]).encode()
    for target in TARGETS:
        content = export(Kind(target, Precision.INT8, "pencil"))[0].read_bytes()
        assert here not in content
        assert b"site-packages" not in content
        assert b"converters." not in content


def test_damaged_files_are_refused_in_one_sentence(export: Export, tmp_path: Path) -> None:
    from converters import tflite_model, to_executorch

    for target, read in zip(TARGETS, (to_executorch.read_delegation, tflite_model.read_delegation), strict=True):
        path, _ = export(Kind(target, Precision.FP32, "pencil"))
        damaged = tmp_path / path.name
        shutil.copy(path, damaged)
        damaged.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UsageError, match="export it again"):
            read(damaged)


def test_other_precisions_and_missing_calibration_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from converters.to_executorch import to_executorch
    from converters.to_tflite import to_tflite

    graph = deployable(checkpoint.generator)
    for target, function in zip(TARGETS, (to_executorch, to_tflite), strict=True):
        for precision, sentence in ((Precision.FP16, "has no precision fp16"), (Precision.INT8, "calibration photos")):
            spec = ExportSpec(
                name="toon",
                version="1",
                author="a",
                licence="l",
                styles=checkpoint.info.styles,
                target=target,
                backend=BACKENDS[target],
                precision=precision,
                size=SIZE,
            )
            with pytest.raises(UsageError, match=sentence):
                function(graph, spec, ExportOptions(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []
