"""Maps of a picture against values worked out by hand, scikit-image, and a made segmentation network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sdk.errors import MissingRuntimeError, UsageError
from training.data import conditions
from training.data.conditions import (
    CONDITIONS,
    Segmenter,
    canny,
    condition,
    draw_conditions,
    edge_smoothed,
    lab,
    lab_planes,
    packaged_model,
    segmenter,
    selfie,
    semantic,
)

COLOURS = np.array(
    [[[0] * 3, [255] * 3, [255, 0, 0], [0, 255, 0], [0, 0, 255], [128] * 3, [224, 172, 140], [90, 56, 37]]], np.uint8
)


def step(size: int = 16, *, left: int = 0, right: int = 200) -> np.ndarray:
    """Left half dark, right half light, ``size x size x 3``."""
    picture = np.full((size, size, 3), left, np.uint8)
    picture[:, size // 2 :] = right
    return picture


def test_canny_finds_a_step_one_pixel_wide_and_nothing_else() -> None:
    edges = canny(step())
    assert edges.shape == (1, 16, 16)
    assert set(np.unique(edges)) == {0, 255}
    columns = np.flatnonzero(edges[0].any(axis=0))
    assert len(columns) == 1
    assert columns[0] in {7, 8}  # both sides of the step have the same gradient
    assert (edges[0, 1:-1, columns[0]] == 255).all()


def test_cannys_thresholds_are_on_the_sobel_gradient() -> None:
    # Across a step of h grey levels the 3 x 3 Sobel gives 4 h. Above 200: an edge. Up to 200: at most a weak one.
    assert canny(step(left=100, right=151)).any()
    assert not canny(step(left=100, right=150)).any()
    assert not canny(step(left=77, right=77)).any()


def test_a_weak_edge_counts_where_it_touches_a_strong_one() -> None:
    picture = step(left=100, right=130)  # gradient 120: weak
    assert not canny(picture).any()
    picture[:8, 8:] = 200  # the upper half strong, the lower weak
    assert canny(picture)[0, 10:15].any()


def test_lab_is_that_of_scikit_image() -> None:
    colour = pytest.importorskip("skimage.color", reason="needs the extra dev")
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    colours = np.concatenate([COLOURS, cube], axis=1)
    expected = colour.rgb2lab(colours).transpose(2, 0, 1)
    planes = lab_planes(colours)
    assert planes.dtype == np.float32
    assert np.abs(planes - expected).max() < 0.45
    bytes_ = lab(colours).astype(float)
    assert lab(colours).dtype == np.uint8
    assert np.abs(bytes_[0] / 2.55 - expected[0]).max() < 0.45 + 0.2
    assert np.abs(bytes_[1:] - 128 - expected[1:]).max() < 0.45 + 0.5


def test_lab_by_hand() -> None:
    # Black and white are the ends of L without colour; of sRGB's red the CIE formulas give (53.24, 80.09, 67.20).
    assert lab(COLOURS)[:, 0, 0].tolist() == [0, 128, 128]
    assert lab(COLOURS)[:, 0, 1].tolist() == [255, 128, 128]
    assert lab_planes(COLOURS)[:, 0, 2] == pytest.approx([53.24, 80.09, 67.20], abs=0.3)


def test_a_step_is_smoothed_by_the_binomial_kernel_near_the_edge_alone() -> None:
    picture = step(16, left=0, right=160)
    smoothed = edge_smoothed(picture)
    # (1, 4, 6, 4, 1) / 16 over a step of 160 gives 10 and 50 before it, 110 and 150 after it. The edge is one of the
    # two columns at the step and widened by two on each side, so these four are always inside.
    assert smoothed[8, 6:10, 0].tolist() == [10, 50, 110, 150]
    assert np.array_equal(smoothed[:, :5], picture[:, :5])
    assert np.array_equal(smoothed[:, 11:], picture[:, 11:])


def test_a_picture_without_edges_stays_as_it_is() -> None:
    soft = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    assert np.array_equal(edge_smoothed(soft), soft)


def test_texture_below_the_threshold_is_kept_and_lines_are_not() -> None:
    rng = np.random.default_rng(0)
    picture = (rng.integers(0, 9, (64, 64, 1)) + np.array([120, 130, 140])).astype(np.uint8)
    picture[:, 30:33] = 0
    smoothed = edge_smoothed(picture)
    assert np.array_equal(smoothed[:, :24], picture[:, :24])
    assert np.array_equal(smoothed[:, 40:], picture[:, 40:])
    assert (smoothed[:, 31] > picture[:, 31]).all()


def test_every_row_gives_bytes_of_the_stated_planes(made_photo: Callable[..., np.ndarray]) -> None:
    photo = made_photo(40, 24, 3)
    plain = [name for name, row in CONDITIONS.items() if not row.segments]
    for name, drawn in zip(plain, draw_conditions(photo, plain), strict=True):
        assert drawn.shape == (CONDITIONS[name].planes, 40, 24)
        assert drawn.dtype == np.uint8


def test_an_unknown_condition_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown condition 'cany': did you mean 'canny'\?"):
        condition("cany")


# ------------------------------------------------------------------------------------------------------------- masks


@pytest.fixture(autouse=True)
def _fresh_segmenters() -> Iterator[None]:
    segmenter.cache_clear()
    yield
    segmenter.cache_clear()


def made_model(path: Path, classes: int, *, side: int = 8) -> Path:
    """A network ``1 x side x side x 3`` -> ``... x classes``: class k's score is the picture's channel k."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs the extra tflite")
    flatbuffers = pytest.importorskip("flatbuffers")
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    weights = np.eye(classes, 3, dtype=np.float32).reshape(classes, 1, 1, 3)
    model.buffers = [schema.BufferT() for _ in range(3)]
    model.buffers[1].data = np.frombuffer(weights.tobytes(), np.uint8)
    model.buffers[2].data = np.frombuffer(np.zeros(classes, np.float32).tobytes(), np.uint8)
    shapes = [(1, side, side, 3), (classes, 1, 1, 3), (classes,), (1, side, side, classes)]
    graph.tensors = []
    for name, shape, buffer in zip(("image", "weights", "bias", "scores"), shapes, (0, 1, 2, 0), strict=True):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name, list(shape), buffer, schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 1
    operator.inputs, operator.outputs, operator.opcodeIndex = [0, 1, 2], [3], 0
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT()
    operator.builtinOptions.strideH = operator.builtinOptions.strideW = 1
    operator.builtinOptions.dilationHFactor = operator.builtinOptions.dilationWFactor = 1
    model.operatorCodes, graph.operators, graph.inputs, graph.outputs = [code], [operator], [0], [3]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def test_one_output_plane_is_the_foreground(tmp_path: Path) -> None:
    model = made_model(tmp_path / "one.tflite", 1)  # gives the red channel
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, 12:, 0] = 255
    mask = selfie(picture, model=model)
    assert mask.shape == (1, 16, 24)
    assert mask.dtype == np.uint8
    assert (mask[0, :, :8] == 0).all()
    assert (mask[0, :, 16:] == 255).all()


def test_scores_of_classes_become_shares(tmp_path: Path) -> None:
    model = made_model(tmp_path / "three.tflite", 3)
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[..., :2] = 255  # scores (1, 1, 0), which are no shares: by softmax e / n, e / n, 1 / n with n = 2 e + 1
    drawn = semantic(picture, model=model)
    expected = np.array([np.e, np.e, 1]) / (2 * np.e + 1) * 255
    assert drawn.shape == (3, 8, 8)
    assert np.abs(drawn - expected.reshape(3, 1, 1)).max() <= 0.51
    assert np.abs(selfie(picture, model=model) - (255 - expected[0])).max() <= 0.51
    picture[..., 0] = 0  # (0, 1, 0): shares already
    assert (Segmenter(model).shares(picture) == np.array([0, 1, 0]).reshape(3, 1, 1)).all()


def test_a_file_that_is_no_segmentation_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.tflite does not exist"):
        Segmenter(tmp_path / "none.tflite")
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    (tmp_path / "text.tflite").write_text("no model")
    with pytest.raises(UsageError, match=r"cannot load .*text\.tflite.*give the \.tflite file of a segmentation"):
        Segmenter(tmp_path / "text.tflite")


def test_without_a_model_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_spec = importlib.util.find_spec
    without = {"mediapipe": lambda *_: None}
    monkeypatch.setattr(
        conditions.importlib.util, "find_spec", lambda name, *rest: without.get(name, find_spec)(name, *rest)
    )
    with pytest.raises(MissingRuntimeError, match=r"mediapipe's selfie_segmentation\.tflite is not installed: give"):
        selfie(np.zeros((8, 8, 3), np.uint8))


def test_mediapipes_model_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "mediapipe"
    place = package / "modules" / "selfie_segmentation" / "selfie_segmentation.tflite"
    place.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    place.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_model() == place
    place.unlink()
    with pytest.raises(MissingRuntimeError):
        packaged_model()


def test_without_litert_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "sdk.runtimes.base.importlib.util.find_spec", lambda *_: None
    )  # what `installed` asks about the packages
    (tmp_path / "m.tflite").touch()
    with pytest.raises(MissingRuntimeError, match=r"toonedge\[tflite\]"):
        selfie(np.zeros((8, 8, 3), np.uint8), model=tmp_path / "m.tflite")
