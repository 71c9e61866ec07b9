"""Core ML packages: what is in them, that nothing of the moment or the machine is, and what they compute."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools", reason="needs the extra export")

import torch

from converters.calibration import CalibrationSet
from converters.graph import DeployGraph, deployable
from converters.registry import row_for
from converters.request import ExportOptions, ExportSpec
from converters.to_coreml import import_coremltools, to_coreml
from sdk.bundle import Artifact, hash_path
from sdk.errors import UsageError
from sdk.runtimes import get_runtime
from sdk.spec import Backend, DType, Layout, Precision, Target
from training.models.generator import Generator

pytestmark = pytest.mark.export
NAMES = ("comic", "pencil", "anime")
SIZE = (32, 32)
ROOT = Path(__file__).parents[3]


def spec(precision: Precision, style: str | None = None) -> ExportSpec:
    return ExportSpec(
        name="tiny", version="1.2.3", author="somebody", licence="Apache-2.0", styles=NAMES, target=Target.COREML,
        backend=Backend.MLPROGRAM, precision=precision, size=SIZE, style=style,
    )  # fmt: skip


@pytest.fixture(scope="module")
def graph(network: Generator) -> DeployGraph:
    return deployable(network)


@pytest.fixture(scope="module")
def export(
    graph: DeployGraph, network: Generator, calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Artifact]]:
    """Path and description of a package, converted once for each kind."""
    made: dict[tuple[Precision, str | None], tuple[Path, Artifact]] = {}

    def get(precision: Precision, style: str | None = None) -> tuple[Path, Artifact]:
        if (precision, style) not in made:
            folder = tmp_path_factory.mktemp("coreml")
            row = None if style is None else np.eye(3, dtype=np.float32)[NAMES.index(style)]
            chosen = graph if row is None else deployable(network, style=row)
            artifact = to_coreml(chosen, spec(precision, style), ExportOptions(folder=folder, calibration=calibration))
            made[precision, style] = folder / artifact.file, artifact
        return made[precision, style]

    return get


def description(package: Path) -> Any:
    import_coremltools()
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    return model


def operators(package: Path) -> list[str]:
    functions = description(package).mlProgram.functions
    (block,) = functions["main"].block_specializations.values()
    return [operation.type for operation in block.operations]


#: iOS 16 is Core ML specification 7, iOS 17 is 8.
@pytest.mark.parametrize(
    ("precision", "version", "system"),
    [(Precision.FP16, 7, "iOS 16"), (Precision.FP32, 7, "iOS 16"), (Precision.INT8, 8, "iOS 17")],
)
def test_a_package_takes_and_gives_8_bit_images_and_says_which_system_it_needs(
    export, precision, version, system
) -> None:
    package, artifact = export(precision)
    assert artifact.file == f"tiny_32x32_multi_mlprogram_{precision}.mlpackage"
    assert artifact.sha256 == hash_path(package)
    model = description(package)
    assert model.specificationVersion == version
    assert artifact.min_os == system == row_for(Target.COREML, Backend.MLPROGRAM).min_os[precision]
    inputs = {feature.name: feature.type for feature in model.description.input}
    (output,) = model.description.output
    for image in (inputs["image"].imageType, output.type.imageType):
        assert (image.height, image.width) == SIZE
        assert image.ColorSpace.Name(image.colorSpace) == "RGB"
    assert output.name == "cartoon"
    style = inputs["style"].multiArrayType
    assert list(style.shape) == [1, 3]
    assert style.ArrayDataType.Name(style.dataType) == "FLOAT32"
    assert (artifact.io.image.layout, artifact.io.image.dtype) == (Layout.IMAGE, DType.UINT8)


def test_a_package_says_what_it_is(export) -> None:
    metadata = description(export(Precision.FP16)[0]).description.metadata
    assert (metadata.author, metadata.license, metadata.versionString) == ("somebody", "Apache-2.0", "1.2.3")
    assert metadata.shortDescription == "tiny: photo to cartoon in the styles comic, pencil, anime."
    assert metadata.userDefined["styles"] == "comic,pencil,anime"
    assert metadata.userDefined["name"] == "tiny"


def test_a_package_holds_no_date_no_random_identifier_and_no_path_of_the_machine(export) -> None:
    package, _ = export(Precision.INT8)
    files = sorted(path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())
    assert files == [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]
    manifest = json.loads((package / "Manifest.json").read_text())
    for identifier, entry in manifest["itemInfoEntries"].items():
        assert uuid.UUID(identifier) == uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    assert root["path"] == "com.apple.CoreML/model.mlmodel"
    assert "conversion_date" not in " ".join(description(package).description.metadata.userDefined)
    data = (package / files[0]).read_bytes()
    assert b".py" not in data
    assert str(ROOT).encode() not in data


def test_two_conversions_give_the_same_package_in_place_of_the_first(export, graph, tmp_path) -> None:
    _, first = export(Precision.FP16)
    package = tmp_path / first.file
    package.mkdir()
    (package / "leftover").write_text("of an earlier package")
    second = to_coreml(graph, spec(Precision.FP16), ExportOptions(folder=tmp_path))
    assert second.sha256 == first.sha256
    assert [path.name for path in tmp_path.iterdir()] == [first.file]


def test_only_the_border_of_an_fp16_package_is_in_float32(export) -> None:
    package, _ = export(Precision.FP16)
    functions = description(package).mlProgram.functions
    (block,) = functions["main"].block_specializations.values()
    computed = [operation for operation in block.operations if operation.type != "const"]
    float32 = 11
    kept = [op.type for op in computed if op.outputs[0].type.tensorType.dataType == float32]
    # The photo's scale; the cast of the result, and the sum that takes it back to [0, 255].
    assert kept == ["mul", "cast", "add"]
    assert computed[-1].outputs[0].name == "cartoon"
    assert "add" in {op.type for op in computed[:-1]}  # the network's own sums are in fp16


def test_int8_computes_on_8_bit_activations_and_8_bit_weights(export) -> None:
    package, artifact = export(Precision.INT8)
    kinds = operators(package)
    assert kinds.count("constexpr_affine_dequantize") >= kinds.count("conv") > 20
    assert kinds.count("quantize") > 20
    assert artifact.quantization is not None
    assert artifact.quantization.calibration_images == 48


def test_the_graph_is_stock_operators_and_one_shuffle(export) -> None:
    kinds = set(operators(export(Precision.FP16)[0])) - {"const", "cast"}
    assert kinds == {"conv", "clip", "add", "mul", "upsample_bilinear", "pixel_shuffle", "expand_dims"}


#: Half a step of rounding to 8 bits at the output, and what the arithmetic itself may add, in steps of 1/255.
@pytest.mark.parametrize(
    ("kind", "mean", "worst"),
    [
        ((Precision.FP32, None), 0.3, 0.51),
        ((Precision.FP16, None), 0.5, 4),
        ((Precision.FP16, "pencil"), 0.5, 4),
        ((Precision.INT8, None), 4, 60),
    ],
)
def test_a_package_read_back_by_the_reference_executor_draws_what_the_network_draws(
    export, network, pictures, *, kind, mean, worst
) -> None:
    package, artifact = export(*kind)
    style = kind[1]
    assert (artifact.io.style is None) is (style is not None)
    chosen = NAMES if style is None else (style,)
    with get_runtime("mil").load(package, artifact.io) as session:
        for name in chosen:
            row = np.eye(3, dtype=np.float32)[NAMES.index(name)]
            given = pictures[:3].astype(np.float32) / 255
            have = session.stylize(given, row if style is None else None)
            with torch.no_grad():
                image = torch.from_numpy(given.transpose(0, 3, 1, 2).copy())
                want = network(image, torch.from_numpy(row).expand(3, 3)).numpy().transpose(0, 2, 3, 1)
            steps = np.abs(have - want) * 255
            assert steps.mean() <= mean
            assert steps.max() <= worst


def test_int8_without_calibration_is_refused_and_leaves_nothing(graph, tmp_path) -> None:
    with pytest.raises(UsageError, match="int8 for coreml needs calibration photos"):
        to_coreml(graph, spec(Precision.INT8), ExportOptions(folder=tmp_path))
    assert not list(tmp_path.iterdir())


def test_importing_coremltools_says_nothing_about_versions_that_are_known_to_work() -> None:
    code = "from converters.to_coreml import import_coremltools; import_coremltools()"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stderr
    for phrase in ("has not been tested", "Failed to load", "is not supported. Minimum"):
        assert phrase not in said


def test_other_warnings_of_coremltools_are_still_heard(caplog) -> None:
    import_coremltools()
    import logging

    logging.getLogger("coremltools").warning("something new")
    logging.getLogger("coremltools").warning("Torch version 9 has not been tested with coremltools.")
    assert [record.getMessage() for record in caplog.records] == ["something new"]
