"""Fixtures for every room: a toy bundle whose pictures can be worked out by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdk.bundle import (
    Artifact,
    Bundle,
    BundleWriter,
    ModelInfo,
    Reference,
    ReferencePicture,
    artifact_name,
    hash_path,
    size_of,
)
from sdk.spec import Backend, DType, IOSpec, Layout, Precision, Target, image_spec, style_spec

#: Style name to (gain, bias) per channel: the toy network draws ``clip(gain * photo + bias, 0, 1)``.
TOY_STYLES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "comic": ((-1, -1, -1), (1, 1, 1)),  # the negative
    "pencil": ((1, 1, 1), (0, 0, 0)),  # the photo itself
    "anime": ((1, 0, 0), (0, 0, 1)),  # its red, and full blue
}
TOY_SIZE = (32, 48)


def toy_onnx(path: Path, *, size: tuple[int, int] | None, style: str | None) -> IOSpec:
    """Writes the toy network; ``size`` None takes any batch, height and width, ``style`` bakes one style in."""
    onnx = pytest.importorskip("onnx", reason="needs the extra dev")
    gains, biases = (np.array([row[i] for row in TOY_STYLES.values()], np.float32) for i in (0, 1))
    height, width = size or (None, None)
    batch = 1 if size else None
    image = image_spec("image", Layout.NCHW, DType.FLOAT32, height, width, batch=batch)
    output = image_spec("cartoon", Layout.NCHW, DType.FLOAT32, height, width, batch=batch)
    weights = style_spec("style", len(TOY_STYLES), batch=batch) if style is None else None
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    constants = {"gain_rows": gains, "bias_rows": biases, "grid": np.array([-1, 3, 1, 1]), "zero": np.float32(0)}
    constants["one"] = np.float32(1)
    nodes = []
    if style is None:
        for name in ("gain", "bias"):
            nodes.append(helper.make_node("MatMul", ["style", f"{name}_rows"], [f"{name}_row"]))
            nodes.append(helper.make_node("Reshape", [f"{name}_row", "grid"], [name]))
    else:
        row = list(TOY_STYLES).index(style)
        constants |= {"gain": gains[row].reshape(1, 3, 1, 1), "bias": biases[row].reshape(1, 3, 1, 1)}
    nodes += [
        helper.make_node("Mul", ["image", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "zero", "one"], ["cartoon"]),
    ]
    kind = onnx.TensorProto.FLOAT
    shape = [batch or "n", 3, height or "h", width or "w"]
    inputs = [helper.make_tensor_value_info("image", kind, shape)]
    if style is None:
        inputs.append(helper.make_tensor_value_info("style", kind, [batch or "n", len(TOY_STYLES)]))
    graph = helper.make_graph(
        nodes,
        "toy",
        inputs,
        [helper.make_tensor_value_info("cartoon", kind, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return IOSpec(image=image, output=output, style=weights)


def write_toy_bundle(
    folder: Path,
    *,
    artifacts: tuple[tuple[str | None, tuple[int, int]], ...] = ((None, TOY_SIZE),),
    photos: tuple[Path, ...] = (),
) -> Bundle:
    """A bundle with the toy network as its reference and one fp32 ``ort`` artifact for each (style, size).

    ``photos`` become its reference photos; what is listed as their "pencil" picture are the photos themselves.
    """
    model = ModelInfo(
        name="toy",
        version="1.0.0",
        checkpoint_sha256="0" * 64,
        styles=tuple(TOY_STYLES),
        params=18,
        macs=12_288,
        macs_size=(64, 64),
        licence="Apache-2.0",
        author="nobody",
    )
    with BundleWriter(folder, model, toonedge="0.1.0") as writer:
        path = writer.folder / "reference.onnx"
        io = toy_onnx(path, size=None, style=None)
        pictures = []
        for photo in photos:
            shutil.copy(photo, writer.folder)
            sha256 = hash_path(photo)
            pictures.append(
                ReferencePicture(
                    photo=photo.name, photo_sha256=sha256, style="pencil", result=photo.name, result_sha256=sha256
                )
            )
        writer.set_reference(
            Reference(file=path.name, sha256=hash_path(path), bytes=size_of(path), io=io, pictures=tuple(pictures))
        )
        for style, size in artifacts:
            name = artifact_name("toy", size, style, Backend.ORT, Precision.FP32, "onnx")
            path = writer.folder / name
            io = toy_onnx(path, size=size, style=style)
            writer.add(
                Artifact(
                    file=name,
                    target=Target.ONNX,
                    backend=Backend.ORT,
                    precision=Precision.FP32,
                    style=style,
                    size=size,
                    bytes=size_of(path),
                    sha256=hash_path(path),
                    io=io,
                    tools={"onnx": "1"},
                )
            )
    return Bundle.open(folder)


@pytest.fixture
def make_toy_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """``write_toy_bundle`` into ``tmp_path / "toy"``."""
    return lambda **options: write_toy_bundle(tmp_path / "toy", **options)


@pytest.fixture
def toy_bundle(make_toy_bundle: Callable[..., Bundle]) -> Bundle:
    """The toy bundle with one multi-style artifact of 32 x 48."""
    return make_toy_bundle()
