"""ONNX generators as teachers: what they draw is what the file computes, in its own range, layout and style."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

from onnx import helper, numpy_helper  # noqa: E402

from sdk.errors import UsageError  # noqa: E402
from training.data import render  # noqa: E402
from training.data.render import cut_view, draw_view, render_split  # noqa: E402
from training.data.teachers import NetworkTeacher, ValueRange, check_names, parse_teacher  # noqa: E402

SIZE = 48


def write(
    path: Path, *, middle: float, planar: bool = True, styles: tuple[str, ...] = (), shrinks: bool = False
) -> Path:
    """A generator that mirrors a picture's values about ``middle`` and, with styles, multiplies by style row + 1."""
    floats = onnx.TensorProto.FLOAT
    shape = ["n", 3, "h", "w"] if planar else ["n", "h", "w", 3]
    inputs = [helper.make_tensor_value_info("photo", floats, shape)]
    constants = {"twice": np.float32(2 * middle), "factors": np.arange(1, len(styles) + 1, dtype=np.float32)[:, None]}
    nodes = [helper.make_node("Sub", ["twice", "photo"], ["mirrored"])]
    last = "mirrored"
    if styles:
        inputs.append(helper.make_tensor_value_info("style", floats, [1, len(styles)]))
        constants["flat"] = np.array([1, 1, 1, 1], np.int64)
        nodes += [
            helper.make_node("MatMul", ["style", "factors"], ["factor"]),
            helper.make_node("Reshape", ["factor", "flat"], ["wide"]),
            helper.make_node("Mul", ["mirrored", "wide"], ["scaled"]),
        ]
        last = "scaled"
    if shrinks:
        nodes.append(helper.make_node("MaxPool", [last], ["small"], kernel_shape=[2, 2], strides=[2, 2]))
        last = "small"
    graph = helper.make_graph(
        nodes,
        "mirror",
        inputs,
        [helper.make_tensor_value_info(last, floats, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"styles": ",".join(styles)} if styles else {})
    onnx.save(model, path)
    return path


@pytest.fixture
def view() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "middle", "planar"), [("unit", 0.5, True), ("signed", 0.0, False), ("bytes", 127.5, True)]
)
def test_values_go_in_and_come_out_in_the_files_own_range_and_layout(kind, middle, planar, view, tmp_path) -> None:
    path = write(tmp_path / "mirror.onnx", middle=middle, planar=planar)
    teacher = parse_teacher(f"negative={path},range={kind},scale=2")
    assert (teacher.name, teacher.range, teacher.scale) == ("negative", ValueRange(kind), 2)
    drawn = teacher.draw(view)
    wanted = 255.0 - view.reshape(48, 2, 32, 2, 3).mean((1, 3))  # a negative of each pixel, then 2 x 2 means
    assert drawn.shape == (48, 32, 3)
    assert drawn.dtype == np.uint8
    assert np.abs(drawn - wanted).max() <= 1


def test_at_scale_1_it_sees_the_working_size_whatever_the_sides_are(tmp_path) -> None:
    view = np.random.default_rng(0).integers(0, 256, (100, 84, 3), dtype=np.uint8)  # 50 x 42: no multiple of 32
    drawn = parse_teacher(f"negative={write(tmp_path / 'mirror.onnx', middle=0.5)}").draw(view)
    assert np.abs(drawn - (255.0 - view.reshape(50, 2, 42, 2, 3).mean((1, 3)))).max() <= 1


@pytest.mark.parametrize(("told", "factor"), [("style=dim", 1), ("style=bright", 2), ("style=1", 2)])
def test_a_style_is_chosen_by_its_name_in_the_metadata_or_by_number(told, factor, view, tmp_path) -> None:
    path = write(tmp_path / "two.onnx", middle=0.5, styles=("dim", "bright"))
    drawn = parse_teacher(f"x={path},{told}").draw(view)
    wanted = np.clip(factor * (255.0 - view.reshape(48, 2, 32, 2, 3).mean((1, 3))), 0, 255)
    assert np.abs(drawn - wanted).max() <= 2


def test_a_network_with_a_style_input_for_one_style_needs_no_word(view, tmp_path) -> None:
    path = write(tmp_path / "one.onnx", middle=0.5, styles=("clay",))
    told, silent = (parse_teacher(f"x={path}{text}").draw(view) for text in (",style=clay", ""))
    assert np.array_equal(told, silent)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("clay", "not of the form NAME=FILE.onnx"),
        ("clay=absent.onnx", "there is no file"),
        ("clay={mirror},rang=unit", "unknown teacher option 'rang'.*range"),
        ("clay={mirror},range=sined", "unknown range of values 'sined'.*signed"),
        ("clay={mirror},scale=3", "scale '3': give 1 or 2"),
        ("clay={mirror},style=comic", "draws one style"),
        ("clay={two}", "draws 2 styles: say which"),
        ("clay={two},style=brigt", "unknown style 'brigt'.*bright"),
        ("clay={broken}", "cannot be loaded"),
    ],
)
def test_an_unusable_teacher_gets_one_sentence(text, sentence, tmp_path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    paths = {
        "mirror": write(tmp_path / "mirror.onnx", middle=0.5),
        "two": write(tmp_path / "two.onnx", middle=0.5, styles=("dim", "bright")),
        "broken": tmp_path / "broken.onnx",
    }
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_teacher(text.format(**paths))
    assert "\n" not in str(caught.value)


def test_a_network_that_changes_the_size_is_refused(view, tmp_path) -> None:
    teacher = parse_teacher(f"small={write(tmp_path / 'small.onnx', middle=0.5, shrinks=True)}")
    with pytest.raises(UsageError, match="keeps the size"):
        teacher.draw(view)


def test_two_teachers_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="'comic' has two teachers"):
        check_names(["comic", "pencil", "comic"])


def test_a_changed_file_or_option_is_another_teacher(tmp_path) -> None:
    path = write(tmp_path / "mirror.onnx", middle=0.5)
    first = NetworkTeacher(name="a", path=str(path)).fingerprint()
    assert NetworkTeacher(name="b", path=str(path)).fingerprint() == first
    assert NetworkTeacher(name="a", path=str(path), scale=2).fingerprint() != first
    write(path, middle=0.4)
    assert NetworkTeacher(name="a", path=str(path)).fingerprint() != first


def test_pairs_hold_what_the_network_drew_and_are_drawn_once(made_photo: Callable[..., np.ndarray], tmp_path) -> None:
    photo = tmp_path / "p.png"
    Image.fromarray(made_photo(160, 120, 0)).save(photo)
    teacher = parse_teacher(f"negative={write(tmp_path / 'mirror.onnx', middle=0.5)}")
    settings = {"styles": ["pencil"], "networks": [teacher], "variants": 1, "size": SIZE, "seed": 1}
    assert render_split([photo], tmp_path / "out", **settings) == 1
    assert render_split([photo], tmp_path / "out", **settings) == 0
    shard = tmp_path / "out" / "v000"
    double = cut_view(np.asarray(Image.open(photo)), draw_view(1, photo.name, 0, augment=True), SIZE)
    assert np.array_equal(np.load(shard / "negative.npy")[0], teacher.draw(double))
    assert np.array_equal(255 - np.load(shard / "negative.npy"), np.load(shard / "photos.npy"))


def test_the_command_takes_a_teacher(made_photo: Callable[..., np.ndarray], tmp_path) -> None:
    for split in ("train", "val"):
        (tmp_path / "content" / split).mkdir(parents=True)
        Image.fromarray(made_photo(160, 120, 0)).save(tmp_path / "content" / split / f"{split}.png")
    path = write(tmp_path / "mirror.onnx", middle=0.5)
    arguments = ["--content", str(tmp_path / "content"), "--out", str(tmp_path / "pairs"), "--size", str(SIZE)]
    arguments += ["--variants", "1", "--val-variants", "1", "--styles", "pencil", "--workers", "0"]
    result = CliRunner().invoke(render.app, [*arguments, "--teacher", f"negative={path}"])
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "pairs" / "val" / "v000").glob("*.npy")} == {
        "photos.npy", "pencil.npy", "negative.npy",
    }  # fmt: skip
    refused = CliRunner().invoke(render.app, [*arguments, "--teacher", f"pencil={path}"])
    assert refused.exit_code == 2
