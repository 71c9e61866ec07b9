"""Fidelity: the figures of a difference worked by hand, and what is asked of the simulation and of the runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

import torch
from PIL import Image

import converters.quantize
from converters.fidelity import Expected, compare, expect, measured, of_module
from converters.registry import row_for
from converters.request import ExportOptions, ExportSpec
from converters.to_onnx import simulate_qdq
from sdk.bundle import Artifact, Quantization
from sdk.errors import GateError
from sdk.spec import Backend, DType, Layout, Precision, Target

SPEC = ExportSpec(
    name="m", version="1", author="a", licence="l", styles=("comic", "pencil"), target=Target.ONNX,
    backend=Backend.ORT, precision=Precision.INT8, size=(16, 32),
)  # fmt: skip


def figures(drawn: np.ndarray, wanted: np.ndarray) -> tuple[float, float, float]:
    found = compare(drawn, wanted, simulation="s", runtime="r")
    assert (found.simulation, found.runtime, found.images) == ("s", "r", wanted.shape[1])
    return found.max_abs_steps, found.mean_abs_steps, found.drift_steps


def test_the_figures_of_a_case_worked_by_hand() -> None:
    wanted = np.zeros((2, 1, 2, 2, 3), np.float32)
    drawn = wanted.copy()
    # Style 0: red is off by +3, -3, +3, -3, so by 3 in the mean of 4 of 12 values, and drifts nowhere.
    drawn[0, 0, ..., 0] = np.array([[3, -3], [3, -3]]) / 255
    # Style 1: green is off by +1 and -2 at two of four pixels: it drifts by -1/4.
    drawn[1, 0, 0, :, 1] = np.array([1, -2]) / 255
    assert figures(drawn, wanted) == (3.0, 1.0, 0.25)


def test_a_simulation_in_half_precision_rounds_every_result_to_fp16() -> None:
    class Third(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image / 3 * 3

    graph = torch.fx.symbolic_trace(Third())
    given = np.full((1, 3, 2, 2), 1.7, np.float32)
    (value,) = np.unique(of_module(graph, half=True)(given))
    assert value == np.float32(np.float16(np.float32(np.float16(np.float32(1.7) / 3)) * 3))
    assert value != np.unique(of_module(graph)(given))[0]


def test_a_simulation_in_half_precision_has_the_scales_of_its_grids_in_fp16() -> None:
    scale = 6 / 255
    quantize = converters.quantize._QUANTIZE  # which registers the operator

    class Grid(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return quantize(image, scale, -128, -128, 127, torch.int8)

    graph = torch.fx.symbolic_trace(Grid())
    stored = np.float32(np.float16(scale))
    assert stored < np.float32(scale)
    given = np.full((1, 3, 2, 2), (127 + 0.5) * stored * (1 + 1e-6), np.float32)  # over half a step of the stored grid
    assert np.unique(of_module(graph, half=True)(given)) == [0]
    assert np.unique(of_module(graph)(given)) == [-1]


def test_a_style_that_drifts_is_not_hidden_by_one_that_drifts_the_other_way() -> None:
    wanted = np.full((2, 2, 4, 4, 3), 0.5, np.float32)
    shift = np.array([2, -2], np.float32).reshape(2, 1, 1, 1, 1) / 255
    assert figures(wanted + shift, wanted) == (2.0, 2.0, 2.0)


def test_a_value_that_is_not_finite_is_as_far_off_as_a_picture_can_be() -> None:
    wanted = np.zeros((1, 1, 2, 2, 3), np.float32)
    drawn = wanted.copy()
    drawn[0, 0, 0, 0, 0] = np.nan
    assert figures(drawn, wanted) == (255.0, 255.0, 255.0)


class Stirred(torch.nn.Module):
    """Gives the photo times the weight of the second style."""

    def forward(self, image: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """``1 x 3 x H x W`` and ``1 x 2`` to ``1 x 3 x H x W``."""
        return image * style[:, 1].reshape(1, 1, 1, 1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    values = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    Image.fromarray(values).save(path)
    return path


def test_the_simulation_draws_every_photo_in_every_style(tmp_path, photo) -> None:
    options = ExportOptions(folder=tmp_path, photos=(photo,))
    expected = expect(of_module(Stirred()), SPEC, options, simulation="s")
    assert expected is not None
    assert expected.pictures.shape == (2, 1, 16, 32, 3)
    assert expected.weights == ([1.0, 0.0], [0.0, 1.0])
    assert np.abs(expected.pictures[0]).max() == 0
    assert np.array_equal(expected.pictures[1], expected.photos)


def test_without_photos_nothing_is_expected_and_the_artifact_comes_back_as_it_was(tmp_path) -> None:
    assert expect(of_module(Stirred()), SPEC, ExportOptions(folder=tmp_path), simulation="s") is None
    artifact = saved(tmp_path)
    assert measured(artifact, tmp_path, None) is artifact


def saved(folder: Path, gain: float = 1.0) -> Artifact:
    """An ONNX file that says it is int8: the photo times the second style's weight times ``gain``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = folder / "m.onnx"
    nodes = [
        helper.make_node("Gather", ["style", "second"], ["weight"], axis=1),
        helper.make_node("Mul", ["image", "weight"], ["stirred"]),
        helper.make_node("Mul", ["stirred", "gain"], ["cartoon"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(1, np.int64), "second"),
        numpy_helper.from_array(np.array(gain, np.float32), "gain"),
    ]
    graph = helper.make_graph(
        nodes, "m",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 32]),
            helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 2]),
        ],
        [helper.make_tensor_value_info("cartoon", TensorProto.FLOAT, [1, 3, 16, 32])],
        constants,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return row_for(Target.ONNX, Backend.ORT).artifact(
        SPEC, path, io=SPEC.io(Layout.NCHW, DType.FLOAT32), tools=("onnx",),
        quantization=Quantization(method="m", calibration_sha256="0" * 64, calibration_images=1),
    )  # fmt: skip


def expected_of(photo: Path, folder: Path) -> Expected:
    made = expect(of_module(Stirred()), SPEC, ExportOptions(folder=folder, photos=(photo,)), simulation="torch")
    assert made is not None
    return made


def test_the_saved_file_is_run_and_what_it_adds_is_found(tmp_path, photo) -> None:
    expected = expected_of(photo, tmp_path)
    same = measured(saved(tmp_path), tmp_path, expected).quantization
    assert same is not None
    assert same.fidelity is not None
    assert (same.fidelity.runtime, same.fidelity.simulation) == ("onnxruntime", "torch")
    assert (same.fidelity.max_abs_steps, same.fidelity.drift_steps) == (0.0, 0.0)
    darker = measured(saved(tmp_path, gain=0.9), tmp_path, expected).quantization
    assert darker is not None
    assert darker.fidelity is not None
    # A tenth of the photo is missing, in the colour that is brightest.
    wanted = 0.1 * 255 * expected.photos.mean((0, 1, 2)).max()
    assert darker.fidelity.drift_steps == pytest.approx(wanted, rel=1e-3)


def test_a_file_that_cannot_be_run_is_the_exports_fault(tmp_path, photo) -> None:
    artifact = saved(tmp_path)
    (tmp_path / artifact.file).write_bytes(b"nothing")
    with pytest.raises(GateError, match=r"m\.onnx does not run under onnxruntime .*the export is wrong"):
        measured(artifact, tmp_path, expected_of(photo, tmp_path))


def test_the_simulation_of_onnx_computes_in_float_between_the_grids(tmp_path) -> None:
    import onnx

    model = onnx.load(tmp_path / saved(tmp_path, gain=0.5).file)
    photo = np.random.default_rng(0).random((1, 3, 16, 32), np.float32)
    drawn = simulate_qdq(model)(photo, np.array([[0, 1]], np.float32))
    assert np.array_equal(drawn, photo * np.float32(0.5))


def test_an_image_output_is_compared_with_the_rounded_simulation(tmp_path, photo, monkeypatch) -> None:
    artifact = saved(tmp_path)
    output = dataclasses.replace(artifact.io.output, layout=Layout.IMAGE)
    artifact = dataclasses.replace(artifact, io=dataclasses.replace(artifact.io, output=output))
    expected = expected_of(photo, tmp_path)
    between = dataclasses.replace(expected, pictures=expected.pictures * np.float32(0.999) + np.float32(0.0004))

    class Rounded:
        def __init__(self, **_: object) -> None:
            self.drawn = iter(expected.pictures)

        def __enter__(self) -> Rounded:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def load(self, *_: object) -> None:
            pass

        def produce(self, _photos: Path, _style: object, out: Path) -> None:
            np.save(out, next(self.drawn))

    monkeypatch.setattr("converters.fidelity.Worker", Rounded)
    found = measured(artifact, tmp_path, between).quantization
    assert found is not None
    assert found.fidelity is not None
    assert found.fidelity.max_abs_steps == pytest.approx(0, abs=1e-3)
