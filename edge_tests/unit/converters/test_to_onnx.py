"""``reference.onnx`` and its proof, and the artifacts for ONNX Runtime."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra export")
ort = pytest.importorskip("onnxruntime", reason="needs the extra export")

import torch  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from converters.calibration import CalibrationSet  # noqa: E402
from converters.graph import deployable, example_inputs  # noqa: E402
from converters.ranges import Observed, RangeMethod  # noqa: E402
from converters.request import ExportOptions, ExportSpec  # noqa: E402
from converters.to_onnx import (  # noqa: E402
    REFERENCE,
    clamp_before_shuffle,
    draw_reference,
    observe,
    product_limits,
    prove_reference,
    quantize_qdq,
    reference_io,
    to_onnx,
    trace,
    transpose_tail,
    write_reference,
)
from sdk.errors import ExitCode, GateError, UsageError  # noqa: E402
from sdk.spec import Backend, Precision, Target  # noqa: E402
from training.checkpoint import Checkpoint, CheckpointInfo  # noqa: E402
from training.models.generator import Generator  # noqa: E402
from training.models.norm import Statistics  # noqa: E402

pytestmark = pytest.mark.export
NAMES = ("comic", "pencil", "anime")
SIZE = (32, 32)
ARM_SAFE = "session.x64quantprecision"


def spec(precision: Precision = Precision.FP32, style: str | None = None) -> ExportSpec:
    return ExportSpec(
        name="tiny", version="1.2.3", author="somebody", licence="Apache-2.0", styles=NAMES, target=Target.ONNX,
        backend=Backend.ORT, precision=precision, size=SIZE, style=style,
    )  # fmt: skip


def run(path: Path, image: np.ndarray, style: np.ndarray | None = None, *, plain: bool = False) -> np.ndarray:
    """``plain``: the file's own arithmetic, every QuantizeLinear and DequantizeLinear by itself and float between."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(ARM_SAFE, "1")
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image} | ({} if style is None else {"style": style}))[0]


@pytest.fixture(scope="module")
def checkpoint(network: Generator) -> Checkpoint:
    info = CheckpointInfo(name="tiny", version="1.2.3", styles=NAMES, size=SIZE, author="somebody")
    return Checkpoint(generator=network, info=info, sha256="0" * 64)


@pytest.fixture(scope="module")
def photos(pictures: np.ndarray) -> list[np.ndarray]:
    """Two shapes, so that no extent can be fixed in the file."""
    return [pictures[0], np.concatenate([pictures[1], pictures[2]], axis=1)]


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    write_reference(checkpoint, folder)
    return folder / REFERENCE


@pytest.fixture
def alter(reference: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the reference with one initializer changed: ``alter(part of its name, function)``."""

    def made(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
        model = onnx.load(reference)
        tensor = next(tensor for tensor in model.graph.initializer if part in tensor.name)
        tensor.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), tensor.name)
        )
        onnx.save(model, tmp_path / REFERENCE)
        return tmp_path / REFERENCE

    return made


# --- the float model -------------------------------------------------------------------------------------------------


def test_the_reference_reproduces_the_network_on_every_style_size_and_batch(reference, checkpoint, photos) -> None:
    assert prove_reference(reference, checkpoint, photos) <= 1e-5


def test_the_reference_takes_any_batch_and_any_size_divisible_by_16(reference) -> None:
    for batch, height, width in ((1, 16, 16), (3, 32, 64), (2, 96, 48)):
        made = run(reference, np.zeros((batch, 3, height, width), np.float32), np.full((batch, 3), 1 / 3, np.float32))
        assert made.shape == (batch, 3, height, width)


def test_two_exports_of_the_reference_are_the_same_bytes_without_traces_of_the_machine(
    reference, checkpoint, tmp_path
) -> None:
    described = write_reference(checkpoint, tmp_path)
    data = (tmp_path / REFERENCE).read_bytes()
    assert data == reference.read_bytes()
    assert described.bytes == len(data)
    assert [path.name for path in tmp_path.iterdir()] == [REFERENCE]  # no sidecar with the weights
    for trace_of in (b"stack_trace", b".py", str(Path(__file__).parents[3]).encode()):
        assert trace_of not in data


def test_the_reference_says_what_it_is(reference) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(reference).metadata_props}
    assert properties == {
        "name": "tiny", "version": "1.2.3", "author": "somebody", "licence": "Apache-2.0",
        "styles": "comic,pencil,anime", "style": "",
    }  # fmt: skip


def test_the_reference_loads_in_an_onnx_runtime_of_2023(reference) -> None:
    model = onnx.load(reference)
    assert (model.ir_version, [(s.domain, s.version) for s in model.opset_import]) == (8, [("", 18)])
    assert "DepthToSpace" in {node.op_type for node in model.graph.node}


PLANTED = {
    "swapped channels": ("conv_stem.weight", lambda w: w[:, ::-1]),
    "wrong style row": ("norm.gamma", lambda rows: rows[[1, 0, 2]]),
    "a style row used twice": ("norm.beta", lambda rows: rows[[0, 1, 1]]),
    "one weight off": ("tail.weight", lambda w: w + 1e-3 * (np.arange(w.size) == 0).reshape(w.shape)),
    "not a number": ("tail.bias", lambda bias: bias * np.nan),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_in_the_reference_fails_its_proof(fault, alter, checkpoint, photos) -> None:
    part, change = PLANTED[fault]
    with pytest.raises(GateError, match=r"differs from the checkpoint's network by .* in style") as caught:
        prove_reference(alter(part, lambda values: change(values).astype(np.float32)), checkpoint, photos)
    assert caught.value.exit_code is ExitCode.GATE_FAILED


def test_the_proof_names_the_style_that_is_wrong(alter, checkpoint, photos) -> None:
    def spoil(rows: np.ndarray) -> np.ndarray:
        changed = rows.copy()
        changed[1] += 1
        return changed

    with pytest.raises(GateError, match="in style 'pencil'"):
        prove_reference(alter("norm.beta", spoil), checkpoint, photos)


def test_the_proof_needs_photos(reference, checkpoint) -> None:
    with pytest.raises(UsageError, match="cannot be proven without photos"):
        prove_reference(reference, checkpoint, [])


def test_the_reference_pictures_are_the_networks(reference, checkpoint, pictures) -> None:
    given = pictures[:2].astype(np.float32) / 255
    drawn = draw_reference(reference, given, len(NAMES))
    assert drawn.shape == (3, 2, *SIZE, 3)
    with torch.no_grad():
        image = torch.from_numpy(given[1:2].transpose(0, 3, 1, 2).copy())
        want = checkpoint.generator(image, torch.eye(3)[2:]).numpy()[0].transpose(1, 2, 0)
    assert np.abs(drawn[2, 1] - want).max() <= 1e-5


def test_the_border_of_the_reference_is_open() -> None:
    io = reference_io(3)
    assert io.image.shape == io.output.shape == (None, 3, None, None)
    assert io.style is not None
    assert io.style.shape == (None, 3)


# --- fp32 ------------------------------------------------------------------------------------------------------------


def test_an_fp32_artifact_reproduces_the_network_and_says_what_goes_in_and_out(network, pictures, tmp_path) -> None:
    artifact = to_onnx(deployable(network), spec(), ExportOptions(folder=tmp_path))
    assert artifact.file == "tiny_32x32_multi_ort_fp32.onnx"
    assert artifact.io.image.shape == (1, 3, 32, 32)
    assert (artifact.min_runtime, artifact.quantization) == ("onnxruntime 1.14", None)
    image = artifact.io.image.encode(pictures[:1].astype(np.float32) / 255)
    for row in np.eye(3, dtype=np.float32):
        with torch.no_grad():
            want = network(torch.from_numpy(image), torch.from_numpy(row[None])).numpy()
        assert np.abs(run(tmp_path / artifact.file, image, row[None]) - want).max() <= 1e-5
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        run(tmp_path / artifact.file, np.repeat(image, 2, 0), np.repeat(row[None], 2, 0))


def test_a_baked_artifact_takes_the_image_alone_and_any_batch_if_asked(network, pictures, tmp_path) -> None:
    row = np.eye(3, dtype=np.float32)[1]
    artifact = to_onnx(
        deployable(network, style=row), spec(style="pencil"), ExportOptions(folder=tmp_path, dynamic_batch=True)
    )
    assert artifact.io.style is None
    assert artifact.io.image.shape == (None, 3, 32, 32)
    image = artifact.io.image.encode(pictures[:3].astype(np.float32) / 255)
    with torch.no_grad():
        want = network(torch.from_numpy(image), torch.from_numpy(row).expand(3, 3)).numpy()
    assert np.abs(run(tmp_path / artifact.file, image) - want).max() <= 1e-5


def test_the_last_clamp_stands_where_onnx_runtime_fuses_it_and_changes_no_bit(network, pictures, tmp_path) -> None:
    graph = deployable(network)
    plain, moved = trace(graph, example_inputs(graph, SIZE)), trace(graph, example_inputs(graph, SIZE))
    assert clamp_before_shuffle(moved.graph)
    assert [node.op_type for node in moved.graph.node][-3:] == ["Conv", "Clip", "DepthToSpace"]
    assert not clamp_before_shuffle(moved.graph)
    for name, model in (("plain.onnx", plain), ("moved.onnx", moved)):
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, tmp_path / name)
    image = pictures[:1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    style = np.eye(len(NAMES), dtype=np.float32)[:1]
    have, want = (run(tmp_path / name, image, style) for name in ("moved.onnx", "plain.onnx"))
    np.testing.assert_array_equal(have, want)
    assert want.min() == 0  # the clamp had something to do


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("style", [None, np.eye(3, dtype=np.float32)[1]], ids=["multi", "baked"])
def test_a_1x1_tail_and_its_shuffle_become_one_transposed_convolution(style, build_network, pictures, tmp_path) -> None:
    network = build_network(tail_kernel=1, tail_bias=3)
    torch.nn.init.uniform_(network.tail.bias, 0.2, 0.8)
    network.tail.weight.data *= 3  # some values beyond [0, 1], for the clamp
    graph = deployable(network, style=style)
    artifact = to_onnx(graph, spec(style=None if style is None else "pencil"), ExportOptions(folder=tmp_path))
    made = ops(onnx.load(tmp_path / artifact.file))
    assert made[-2:] == ["ConvTranspose", "Clip"]
    assert "DepthToSpace" not in made
    image = artifact.io.image.encode(pictures[:1].astype(np.float32) / 255)
    row = np.eye(3, dtype=np.float32)[1:2]
    with torch.no_grad():
        want = network(torch.from_numpy(image), torch.from_numpy(row)).numpy()
    assert want.min() == 0
    assert want.max() == 1
    have = run(tmp_path / artifact.file, image, row if style is None else None)
    assert np.abs(have - want).max() <= 1e-5


@pytest.mark.parametrize("options", [{"tail_kernel": 1}, {"tail_bias": 3}], ids=["twelve biases", "3x3"])
def test_a_tail_that_is_no_transposed_convolution_keeps_its_shuffle(options, build_network) -> None:
    network = build_network(**options)
    torch.nn.init.uniform_(network.tail.bias, 0.2, 0.8)
    graph = deployable(network)
    model = trace(graph, example_inputs(graph, SIZE))
    before = model.SerializeToString()
    assert not transpose_tail(model.graph)
    assert model.SerializeToString() == before


def test_a_graph_with_an_operator_that_fixes_extents_is_not_opened(monkeypatch) -> None:
    class Flat(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.clamp(image.reshape(1, 3, 16, 64).relu(), 0, 1)

    from converters import to_onnx as module

    with pytest.raises(ValueError, match="may fix the shape"):
        module._open_borders(trace(Flat(), (torch.zeros(1, 3, 32, 32),)), batch=True)


# --- int8 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8(network: Generator, calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    artifact = to_onnx(deployable(network), spec(Precision.INT8), ExportOptions(folder=folder, calibration=calibration))
    assert artifact.quantization is not None
    assert artifact.quantization.calibration_sha256 == calibration.sha256
    assert artifact.quantization.calibration_images == len(calibration) == 48
    return folder / artifact.file


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_every_convolution_is_int8_with_a_scale_for_each_output_channel(int8, network) -> None:
    model = onnx.load(int8)
    values = constants(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    styled = [node for node in model.graph.node if node.op_type == "QLinearConv"]
    assert len(styled) == 4  # one a decoder block
    assert len(convolutions) + len(styled) == sum(isinstance(m, torch.nn.Conv2d) for m in network.modules())
    for node in convolutions:
        data, weight = (makers[name] for name in node.input[:2])
        assert (data.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert values[weight.input[1]].shape == (len(values[weight.input[0]]),)
    weights = [makers[node.input[1]].input[0] for node in convolutions] + [node.input[3] for node in styled]
    zero_points = [makers[node.input[1]].input[2] for node in convolutions] + [node.input[5] for node in styled]
    for kernel, zero_point in zip(weights, zero_points, strict=True):
        assert values[kernel].dtype == np.int8
        assert not values[zero_point].any()
        # All 8 bits: no reduced range.
        assert np.abs(values[kernel].reshape(len(values[kernel]), -1).astype(int)).max() == 127


def test_a_last_convolution_that_is_a_transposed_one_stays_in_float_and_the_manifest_says_so(
    build_network, calibration, tmp_path
) -> None:
    network = build_network(tail_kernel=1, tail_bias=3)
    for style in (None, "comic"):
        graph = deployable(network, style=None if style is None else np.eye(3, dtype=np.float32)[0])
        artifact = to_onnx(graph, spec(Precision.INT8, style), ExportOptions(folder=tmp_path, calibration=calibration))
        assert artifact.quantization is not None
        assert artifact.quantization.float_layers == ("network.tail",)
        model = onnx.load(tmp_path / artifact.file)
        makers = {output: node for node in model.graph.node for output in node.output}
        clip = makers["cartoon"]
        assert (clip.op_type, makers[clip.input[0]].op_type) == ("Clip", "ConvTranspose")
        assert "DepthToSpace" not in {node.op_type for node in model.graph.node}


def test_image_and_picture_have_the_grid_of_an_8_bit_picture(int8) -> None:
    model = onnx.load(int8)
    values = constants(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    (photo,) = (node for node in model.graph.node if "image" in node.input)
    picture = makers[makers["cartoon"].input[0]]  # what the shuffle moves
    assert (photo.op_type, picture.op_type) == ("QuantizeLinear", "DequantizeLinear")
    for scale, zero_point in ([values[name] for name in node.input[1:]] for node in (photo, picture)):
        assert (float(scale), int(zero_point)) == (pytest.approx(1 / 255), 0)


def test_with_any_batch_each_picture_has_its_own_style(network, calibration, pictures, tmp_path) -> None:
    options = ExportOptions(folder=tmp_path, calibration=calibration, dynamic_batch=True)
    path = tmp_path / to_onnx(deployable(network), spec(Precision.INT8), options).file
    image = (pictures[:3].astype(np.float32) / 255).transpose(0, 3, 1, 2).copy()
    rows = np.eye(3, dtype=np.float32)
    together = run(path, image, rows)
    alone = np.concatenate([run(path, image[[i]], rows[[i]]) for i in range(3)])
    assert np.abs(together - alone).max() <= 1e-6
    assert np.abs(run(path, image, rows[[1, 2, 0]]) - together).mean() > 0.01


@pytest.mark.parametrize("exact", ["0", "1"])
def test_onnx_runtime_leaves_no_convolution_in_float(int8, exact, tmp_path) -> None:
    """With int8 activations it did on x86: 40 of the shipped network's 68, which took twice the time of fp32."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(ARM_SAFE, exact)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(int8), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "QLinearConv" in kinds
    assert not {"Conv", "FusedConv", "QLinearMul"} & set(kinds)


def test_int8_is_near_the_network_and_its_border_is_float(int8, network, pictures) -> None:
    image = (pictures[:4].astype(np.float32) / 255).transpose(0, 3, 1, 2).copy()
    for row in np.eye(3, dtype=np.float32):
        with torch.no_grad():
            want = network(torch.from_numpy(image), torch.from_numpy(row).expand(4, 3)).numpy()
        have = np.concatenate([run(int8, picture[None], row[None]) for picture in image])
        assert have.dtype == np.float32
        assert np.abs(have - want).mean() <= 4 / 255
        assert have.min() >= 0
        assert have.max() <= 1 + 1e-6


def test_the_read_back_computes_what_the_file_says_whatever_the_hosts_instructions(int8, pictures) -> None:
    image = (pictures[:1].astype(np.float32) / 255).transpose(0, 3, 1, 2).copy()
    row = np.eye(3, dtype=np.float32)[:1]
    # Two steps: an integer sum and a float sum may round to neighbours in more than one layer.
    assert np.abs(run(int8, image, row) - run(int8, image, row, plain=True)).max() <= 2.01 / 255


@pytest.fixture(scope="module")
def traced(network: Generator) -> onnx.ModelProto:
    graph = deployable(network)
    return trace(graph, example_inputs(graph, SIZE))


def test_what_a_relu6_cuts_off_a_styles_product_changes_no_picture(traced, calibration, pictures, tmp_path) -> None:
    limits = product_limits(traced, observe(traced, calibration))
    assert len(limits) == 4  # one a decoder block
    limited = copy.deepcopy(traced)
    for name, ends in limits.items():
        (reader,) = (node for node in limited.graph.node if name in node.input)
        bounds = [f"{name}_low", f"{name}_high"]
        limited.graph.initializer.extend(
            numpy_helper.from_array(np.float32(end), bound) for end, bound in zip(ends, bounds, strict=True)
        )
        reader.input[list(reader.input).index(name)] = f"{name}_limited"
        place = list(limited.graph.node).index(reader)
        limited.graph.node.insert(place, onnx.helper.make_node("Clip", [name, *bounds], [f"{name}_limited"]))
    onnx.save(traced, tmp_path / "before.onnx")
    onnx.save(limited, tmp_path / "after.onnx")
    image = (pictures[:1].astype(np.float32) / 255).transpose(0, 3, 1, 2).copy()
    for row in (*np.eye(3, dtype=np.float32), np.array([0.5, 0.2, 0.3], np.float32)):
        before, after = (run(tmp_path / name, image, row[None]) for name in ("before.onnx", "after.onnx"))
        assert np.abs(before - after).max() <= 1e-6


class OnePixel(torch.nn.Module):
    """``relu6(photo * scale + shift)`` on a picture of one pixel; the shift is a style's, or a residual sum's."""

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.residual = residual
        self.picture, self.shift = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 4, 1, bias=False)
        self.scale = torch.nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, image: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        rows = style[:, :, None, None]
        product = self.picture(image) * self.scale(rows)
        return torch.nn.functional.relu6(product + self.shift(image if self.residual else rows))


@pytest.mark.parametrize("residual", [False, True])
def test_a_product_has_limits_only_where_its_shift_depends_on_the_style_alone(residual: bool) -> None:
    module = OnePixel(residual=residual).eval().requires_grad_(False)
    model = trace(module, (torch.rand(1, 3, 1, 1), torch.full((1, 3), 1 / 3)))
    seen = Observed()
    seen.add(np.array([-1.0, 2.0], np.float32))
    watched = {output: seen for node in model.graph.node for output in node.output}
    limits = list(product_limits(model, watched).values())
    assert limits == ([] if residual else [(-2.0, 7.0)])


def test_every_tensor_is_watched_and_holds_what_the_network_computes(traced, calibration) -> None:
    found = observe(traced, calibration)
    assert set(found) == {"image", "style", *(name for node in traced.graph.node for name in node.output)}
    assert (found["style"].low, found["style"].high) == (0.0, 1.0)
    assert found["image"].high == float(calibration.photos.max())
    drawn = [run_model(traced, inputs) for inputs in calibration.tensors(baked=False)]
    assert found["cartoon"].high == pytest.approx(max(float(picture.max()) for picture in drawn), abs=1e-6)
    assert found["cartoon"].low == pytest.approx(min(float(picture.min()) for picture in drawn), abs=1e-6)


def run_model(model: onnx.ModelProto, inputs: tuple[torch.Tensor, ...]) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(("image", "style"), (i.numpy() for i in inputs), strict=True)))[0]


@pytest.mark.parametrize("ranges", list(RangeMethod))
def test_the_saved_grids_are_those_of_the_chosen_ranges(traced, calibration, ranges) -> None:
    """A quantizer that calibrated by itself would be found out: it knows min-max only."""
    quantized, record = quantize_qdq(traced, calibration, ranges=ranges)
    assert record.method.endswith(ranges)
    observed, values = observe(traced, calibration), constants(quantized)
    clips = [node for node in traced.graph.node if node.op_type == "Clip" and "cartoon" not in node.output]
    assert len(clips) > 10
    for clip in clips:  # the quantizer writes the values after a ReLU6 in place of those before it
        low, high = observed[clip.output[0]].range(ranges)
        scale = float(values[f"{clip.output[0]}_scale"])
        assert scale == pytest.approx((high - low) / 255, rel=1e-5)


def test_two_int8_exports_are_the_same_bytes(int8, network, calibration, tmp_path) -> None:
    artifact = to_onnx(
        deployable(network), spec(Precision.INT8), ExportOptions(folder=tmp_path, calibration=calibration)
    )
    assert (tmp_path / artifact.file).read_bytes() == int8.read_bytes()
    assert b".py" not in int8.read_bytes()


def test_int8_without_calibration_or_on_instance_statistics_is_refused(build_network, calibration, tmp_path) -> None:
    with pytest.raises(UsageError, match="needs calibration photos"):
        to_onnx(deployable(build_network()), spec(Precision.INT8), ExportOptions(folder=tmp_path))
    instance = deployable(build_network(Statistics.INSTANCE))
    with pytest.raises(UsageError, match="cannot be exported as int8"):
        to_onnx(instance, spec(Precision.INT8), ExportOptions(folder=tmp_path, calibration=calibration))
    assert not list(tmp_path.iterdir())
