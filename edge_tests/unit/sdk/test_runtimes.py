"""Runtimes on tiny artifacts made here: right numbers, a strict border, and one sentence when something is amiss."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdk.errors import ExitCode, MissingRuntimeError, UsageError
from sdk.runtimes import RUNTIMES, Session, get_runtime, require, runtimes_for
from sdk.runtimes.base import checked_input, installed
from sdk.runtimes.coreml import CoreMLRuntime
from sdk.spec import DType, IOSpec, Kind, Layout, Target, image_spec, style_spec

ROOT = Path(__file__).resolve().parents[3]
HEIGHT, WIDTH = 16, 32
GAINS = np.array([[1.0, 0.5, 0.25], [0.0, 1.0, 0.5]], np.float32)  # S x 3


def io(layout: Layout, dtype: DType = DType.FLOAT32, *, styles: int = 0, batch: int | None = 1) -> IOSpec:
    return IOSpec(
        image=image_spec("image", layout, dtype, HEIGHT, WIDTH, batch=batch),
        output=image_spec("cartoon", layout, dtype, HEIGHT, WIDTH, batch=batch),
        style=style_spec("style", styles, dtype) if styles else None,
    )


def photos(count: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (count, HEIGHT, WIDTH, 3)) / 255).astype(np.float32)


# --- files made here -------------------------------------------------------------------------------------------------


def onnx_file(path: Path, *, styles: int = 2) -> Path:
    """``cartoon = image * (style @ GAINS)``, or ``image * GAINS[0]`` without styles."""
    onnx = pytest.importorskip("onnx")
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    kind = onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("image", kind, ["n", 3, HEIGHT, WIDTH])]
    if styles:
        inputs.append(helper.make_tensor_value_info("style", kind, [1, styles]))
        constants = [constant(GAINS, "gains"), constant(np.array([1, 3, 1, 1]), "grid")]
        nodes = [
            helper.make_node("MatMul", ["style", "gains"], ["row"]),
            helper.make_node("Reshape", ["row", "grid"], ["gain"]),
        ]
    else:
        constants, nodes = [constant(GAINS[0].reshape(1, 3, 1, 1), "gain")], []
    nodes.append(helper.make_node("Mul", ["image", "gain"], ["cartoon"]))
    outputs = [helper.make_tensor_value_info("cartoon", kind, ["n", 3, HEIGHT, WIDTH])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def saturating_onnx(path: Path) -> tuple[Path, np.ndarray, np.ndarray, float]:
    """A QDQ int8 convolution whose 16-bit partial sums overflow; with an input, the exact output, and its step."""
    onnx = pytest.importorskip("onnx")
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    channels, side = 32, 16
    rng = np.random.default_rng(0)
    sign = rng.choice(np.array([-1, 1], np.int8), (channels, 1))
    weights = (rng.integers(64, 128, (channels, channels)).astype(np.int8) * sign).reshape(channels, channels, 1, 1)
    step = np.float32(2 * channels / 255)
    constants = {
        "xs": np.float32(1 / 255), "xz": np.uint8(0), "w": weights, "ws": np.full(channels, 1 / 127, np.float32),
        "wz": np.zeros(channels, np.int8), "ys": step, "yz": np.uint8(128),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["cartoon"]),
    ]
    shape = [1, channels, side, side]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("cartoon", kind, shape)],
        [constant(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    image = rng.integers(200, 256, shape).astype(np.float32) / np.float32(255)
    sums = np.einsum("oc,nchw->nohw", weights[:, :, 0, 0].astype(np.int64), np.rint(image * 255).astype(np.int64))
    exact = np.clip(np.rint(sums / (255 * 127 * step)), -128, 127) * step
    return path, image, exact, float(step)


def tflite_file(path: Path, *, int8: bool = False, styles: int = 0) -> Path:
    """Float: like ``onnx_file``, NHWC. int8: ``cartoon = image * GAINS[0]``, integer in and out."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs the extra tflite")
    flatbuffers = pytest.importorskip("flatbuffers")
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs, model.operatorCodes = 3, [schema.BufferT()], [graph], []
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []

    def tensor(name: str, shape: tuple[int, ...], *, data: np.ndarray | None = None, scale: float = 0.0) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name, list(shape), 0
        made.type = schema.TensorType.INT8 if scale else schema.TensorType.FLOAT32
        if scale:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [0 if data is not None else -128]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(name: str, builtin: int, inputs: list[int], output: int) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 2 if int8 else 1
        model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(model.operatorCodes) - 1, inputs, [output]
        made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{name}Options")
        made.builtinOptions = getattr(schema, f"{name}OptionsT")()
        graph.operators.append(made)

    scale = 1 / 255 if int8 else 0.0
    image = tensor("serving_default_image:0", (1, HEIGHT, WIDTH, 3), scale=scale)
    graph.inputs = [image]
    if styles:
        style = tensor("args_1", (1, styles))
        gains = tensor("gains", (3, styles), data=np.ascontiguousarray(GAINS.T))
        gain = tensor("gain", (1, 3))
        graph.inputs = [image, style]
        operator("FullyConnected", schema.BuiltinOperator.FULLY_CONNECTED, [style, gains, -1], gain)
    else:
        row = np.rint(GAINS[0] * 127).astype(np.int8) if int8 else GAINS[0]
        gain = tensor("gain", (3,), data=row, scale=1 / 127 if int8 else 0.0)
    output = tensor("StatefulPartitionedCall:0", (1, HEIGHT, WIDTH, 3), scale=scale)
    operator("Mul", schema.BuiltinOperator.MUL, [image, gain], output)
    graph.outputs = [output]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.fixture(scope="module")
def pte_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like ``onnx_file``, lowered to XNNPACK."""
    torch = pytest.importorskip("torch", reason="needs the extra executorch")
    exir = pytest.importorskip("executorch.exir", reason="needs the extra executorch")
    partition = pytest.importorskip("executorch.backends.xnnpack.partition.xnnpack_partitioner")

    class Tiny(torch.nn.Module):
        def forward(self, image: Any, style: Any) -> Any:
            return image * (style @ torch.from_numpy(GAINS)).reshape(1, 3, 1, 1)

    example = (torch.rand(1, 3, HEIGHT, WIDTH), torch.tensor([[1.0, 0.0]]))
    program = exir.to_edge_transform_and_lower(
        torch.export.export(Tiny(), example), partitioner=[partition.XnnpackPartitioner()]
    ).to_executorch()
    path = tmp_path_factory.mktemp("pte") / "tiny.pte"
    path.write_bytes(program.buffer)
    return path


# --- the table -------------------------------------------------------------------------------------------------------


def test_importing_the_sdk_and_its_table_imports_no_runtime() -> None:
    heavy = ["torch", "onnxruntime", "ai_edge_litert", "executorch", "coremltools", "tensorflow", "onnx"]
    script = (
        "import sys, sdk, sdk.verify, sdk.bench, sdk.report, sdk.worker\n"
        "from sdk.runtimes import RUNTIMES, get_runtime\n"
        "names = [get_runtime(name).available() for name in RUNTIMES]\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_every_runtime_in_the_table_keeps_the_protocol() -> None:
    for name in RUNTIMES:
        runtime = get_runtime(name)
        assert runtime.name == name
        assert isinstance(runtime.kind, Kind)
        assert runtime.targets <= set(Target)
        assert runtime.extra
        assert runtime.available().ok is (runtime.available().reason == "")


def test_every_target_is_served_and_coreml_by_two() -> None:
    served = {target: [runtime.name for runtime in runtimes_for(target)] for target in Target}
    assert served == {
        Target.EXECUTORCH: ["executorch"],
        Target.COREML: ["coreml", "mil"],
        Target.TFLITE: ["litert"],
        Target.ONNX: ["onnxruntime"],
    }
    assert [runtime.name for runtime in runtimes_for(Target.COREML, ["mil", "litert"])] == ["mil"]
    assert get_runtime("mil").kind is Kind.REFERENCE


def test_an_unknown_runtime_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        get_runtime("onnxruntme")


@pytest.mark.parametrize(
    ("name", "packages", "extra"),
    [
        ("onnxruntime", ["onnxruntime"], "onnx"),
        ("litert", ["ai_edge_litert", "tflite_runtime", "tensorflow"], "tflite"),
        ("executorch", ["executorch"], "executorch"),
        ("executorch", ["torch"], "executorch"),
    ],
)
def test_a_missing_runtime_is_exit_3_and_names_the_extra(
    name: str, packages: list[str], extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda package, *rest: None if package in packages else find_spec(package, *rest)
    )
    runtime = get_runtime(name)
    assert not runtime.available().ok
    assert not runtime.available().by_host
    with pytest.raises(MissingRuntimeError, match=rf"toonedge\[{extra}\]") as caught:
        runtime.load(tmp_path / "none", io(Layout.NCHW))
    assert caught.value.exit_code is ExitCode.MISSING_RUNTIME


def test_core_ml_is_ruled_out_by_the_host_where_there_is_no_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.runtimes.coreml.platform.system", lambda: "Linux")
    availability = CoreMLRuntime().available()
    assert availability.by_host
    with pytest.raises(MissingRuntimeError, match="Core ML runs on macOS, this is Linux; use a host that has it"):
        require(CoreMLRuntime())


def test_the_first_installed_package_of_several_is_the_one_reported() -> None:
    found = installed({"no_such_package": "no-such", "numpy": "numpy"})
    assert (found.ok, found.version) == (True, np.__version__)
    assert installed({"pytest": "not-its-distribution"}).version is None


# --- the border ------------------------------------------------------------------------------------------------------


class RawMemory(Session):
    """Reads memory in order and ignores strides, as ExecuTorch does; returns what it read."""

    def _execute(self, image: np.ndarray, style: np.ndarray | None) -> np.ndarray:
        import ctypes

        raw = ctypes.string_at(image.ctypes.data, image.nbytes)
        return np.frombuffer(raw, image.dtype).reshape(image.shape).copy()


def test_a_runtime_that_ignores_strides_gets_the_right_picture_all_the_same() -> None:
    session = RawMemory(io(Layout.NCHW))
    picture = photos(1)
    strided = picture.transpose(0, 3, 1, 2)  # the trap: NCHW in shape, NHWC in memory
    assert not strided.flags.c_contiguous
    wrong = session._execute(strided, None)
    assert not np.array_equal(wrong, strided)  # the fault is real ...
    np.testing.assert_array_equal(session.run(strided), strided)  # ... and the border mends it
    np.testing.assert_array_equal(session.run(strided[:, ::-1]), strided[:, ::-1])
    np.testing.assert_array_equal(session.stylize(picture[:, ::-1, ::-1]), picture[:, ::-1, ::-1])


def test_a_contiguous_input_is_not_copied() -> None:
    values = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    assert checked_input(values, io(Layout.NCHW).image) is values


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((1, 3, HEIGHT, WIDTH + 1), np.float32),
        np.zeros((1, HEIGHT, WIDTH, 3), np.float32),
        np.zeros((3, HEIGHT, WIDTH), np.float32),
        np.zeros((1, 3, HEIGHT, WIDTH), np.float64),
        np.zeros((1, 3, HEIGHT, WIDTH), np.uint8),
    ],
)
def test_an_input_of_another_shape_or_type_is_refused_with_both(values: np.ndarray) -> None:
    with pytest.raises(UsageError, match=f"'image' was given as {values.dtype} .*states float32 1 x 3 x 16 x 32"):
        RawMemory(io(Layout.NCHW)).run(values)


def test_an_output_that_is_not_what_the_manifest_says_is_refused() -> None:
    class Liar(RawMemory):
        def _execute(self, image: np.ndarray, style: np.ndarray | None) -> np.ndarray:
            return image[:, :, ::2]

    with pytest.raises(UsageError, match="'cartoon' returned as float32 1 x 3 x 8 x 32"):
        Liar(io(Layout.NCHW)).stylize(photos(1))


def test_style_weights_are_wanted_exactly_when_no_style_is_baked() -> None:
    baked, multi = RawMemory(io(Layout.NCHW)), RawMemory(io(Layout.NCHW, styles=2))
    weights = np.array([1, 0], np.float32)
    for call in (lambda: baked.stylize(photos(1), weights), lambda: baked.run(photos(1), weights[None])):
        with pytest.raises(UsageError, match="one baked style"):
            call()
    with pytest.raises(UsageError, match="takes 2 of them"):
        multi.stylize(photos(1))
    with pytest.raises(UsageError, match="'style' was given as float32 1 x 3"):
        multi.stylize(photos(1), np.ones(3, np.float32))


def test_pictures_that_do_not_fit_are_refused() -> None:
    session = RawMemory(io(Layout.NCHW))
    with pytest.raises(UsageError, match="give N x H x W x 3"):
        session.stylize(photos(1)[0])
    with pytest.raises(UsageError, match="multiple of 2"):
        RawMemory(io(Layout.NCHW, batch=2)).stylize(photos(3))


def test_batches_are_filled_and_come_back_in_order() -> None:
    assert len(RawMemory(io(Layout.NCHW)).stylize(photos(0))) == 0
    for batch in (1, 2, None):
        session = RawMemory(io(Layout.NCHW, batch=batch))
        np.testing.assert_array_equal(session.stylize(photos(4)), photos(4))


def test_the_clock_gets_every_bare_run() -> None:
    ticks: list[int] = []

    def clock(run: Any) -> np.ndarray:
        ticks.append(1)
        return run()

    session = RawMemory(io(Layout.NCHW))
    np.testing.assert_array_equal(session.stylize(photos(3), clock=clock), photos(3))
    assert len(ticks) == 3


# --- ONNX Runtime ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
def test_onnx_runtime_draws_what_the_formula_says(mix: list[float], tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "tiny.onnx")
    with get_runtime("onnxruntime").load(path, io(Layout.NCHW, styles=2), threads=2) as session:
        drawn = session.stylize(photos(), np.array(mix, np.float32))
    np.testing.assert_allclose(drawn, photos() * (np.array(mix, np.float32) @ GAINS), atol=1e-6)


def test_onnx_runtime_int8_is_exact_where_the_host_would_saturate(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    path, image, exact, step = saturating_onnx(tmp_path / "s.onnx")
    spec = IOSpec(
        image=image_spec("image", Layout.NCHW, DType.FLOAT32, 16, 16),
        output=image_spec("cartoon", Layout.NCHW, DType.FLOAT32, 16, 16),
    )
    session = get_runtime("onnxruntime").load(path, spec)
    ours = session._execute(image, None)
    off = np.abs(ours - exact) / step
    assert off.max() < 1.01  # a sum half way between two steps may be rounded either way, ...
    assert (off > 0.01).mean() < 1e-3  # ... which few are
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if "avx2" in flags and not {"avx512_vnni", "avx_vnni"} & set(flags):
        plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
        assert np.abs(plain - exact).max() > 3 * step  # the trap is real on this host


def test_onnx_runtime_refuses_a_broken_file_and_other_tensor_names(tmp_path: Path) -> None:
    runtime = get_runtime("onnxruntime")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(UsageError, match=r"ONNX Runtime cannot load .*broken\.onnx"):
        runtime.load(tmp_path / "broken.onnx", io(Layout.NCHW))
    path = onnx_file(tmp_path / "tiny.onnx")
    with pytest.raises(UsageError, match="has the inputs image, style, but its manifest states image"):
        runtime.load(path, io(Layout.NCHW))


# --- LiteRT ----------------------------------------------------------------------------------------------------------


def test_litert_draws_what_the_formula_says_baked_and_multi_style(tmp_path: Path) -> None:
    runtime = get_runtime("litert")
    baked = runtime.load(tflite_file(tmp_path / "baked.tflite"), io(Layout.NHWC))
    np.testing.assert_allclose(baked.stylize(photos()), photos() * GAINS[0], atol=1e-6)
    multi = runtime.load(tflite_file(tmp_path / "multi.tflite", styles=2), io(Layout.NHWC, styles=2), threads=2)
    mix = np.array([0.25, 0.75], np.float32)
    np.testing.assert_allclose(multi.stylize(photos(), mix), photos() * (mix @ GAINS), atol=1e-6)


def test_litert_int8_is_fed_and_read_through_its_scale_and_zero_point(tmp_path: Path) -> None:
    path = tflite_file(tmp_path / "int8.tflite", int8=True)
    session = get_runtime("litert").load(path, io(Layout.NHWC, DType.INT8))
    exact = photos() * np.rint(GAINS[0] * 127) / 127
    np.testing.assert_allclose(session.stylize(photos()), exact, atol=0.51 / 255)


def test_litert_refuses_a_wrong_zero_point_in_the_manifest(tmp_path: Path) -> None:
    from dataclasses import replace

    path = tflite_file(tmp_path / "int8.tflite", int8=True)
    spec = io(Layout.NHWC, DType.INT8)
    wrong = replace(spec, image=replace(spec.image, zero_point=-127))
    with pytest.raises(UsageError, match=r"scale 0\.003921569 and zero point -128, but its .* and -127"):
        get_runtime("litert").load(path, wrong)


def test_litert_refuses_what_does_not_fit_the_manifest(tmp_path: Path) -> None:
    runtime = get_runtime("litert")
    (tmp_path / "broken.tflite").write_bytes(b"not a model")
    with pytest.raises(UsageError, match="LiteRT cannot load"):
        runtime.load(tmp_path / "broken.tflite", io(Layout.NHWC))
    path = tflite_file(tmp_path / "multi.tflite", styles=2)
    with pytest.raises(UsageError, match="has 2 inputs and 1 outputs, but its manifest states 1 and 1"):
        runtime.load(path, io(Layout.NHWC))
    with pytest.raises(UsageError, match="no tensor like 'style'"):
        runtime.load(path, io(Layout.NHWC, styles=3))
    with pytest.raises(UsageError, match="no tensor like 'image', int8"):
        runtime.load(path, io(Layout.NHWC, DType.INT8, styles=2))


def test_litert_falls_back_to_the_older_packages_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # tflite-runtime cannot be installed beside numpy 2: its interpreter, which has the same interface, stands in.
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs the extra tflite")
    import importlib.util

    path = tflite_file(tmp_path / "t.tflite")
    find_spec = importlib.util.find_spec
    stand_in = types.ModuleType("tflite_runtime.interpreter")
    used: list[int] = []

    class Interpreter(interpreter.Interpreter):  # type: ignore[misc,name-defined]
        def __init__(self, **options: Any) -> None:
            used.append(options["num_threads"])
            super().__init__(**options)

    stand_in.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", stand_in)

    def without_litert(package: str, *rest: Any) -> Any:
        if package == "ai_edge_litert":
            return None
        return object() if package == "tflite_runtime" else find_spec(package, *rest)

    monkeypatch.setattr("importlib.util.find_spec", without_litert)
    session = get_runtime("litert").load(path, io(Layout.NHWC), threads=2)
    np.testing.assert_allclose(session.stylize(photos()), photos() * GAINS[0], atol=1e-6)
    assert used == [2]


# --- ExecuTorch ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.export
def test_executorch_draws_what_the_formula_says_on_any_strides(pte_file: Path) -> None:
    session = get_runtime("executorch").load(pte_file, io(Layout.NCHW, styles=2), threads=2)
    for mix in ([1.0, 0.0], [0.25, 0.75]):
        weights = np.array(mix, np.float32)
        np.testing.assert_allclose(session.stylize(photos(), weights), photos() * (weights @ GAINS), atol=1e-6)
        flipped = photos()[:, ::-1, ::-1, ::-1]
        np.testing.assert_allclose(session.stylize(flipped, weights), flipped * (weights @ GAINS), atol=1e-6)
    strided = photos(1).transpose(0, 3, 1, 2)
    drawn = session.run(strided, np.array([[1.0, 0.0]], np.float32))
    np.testing.assert_allclose(drawn, strided * GAINS[0].reshape(1, 3, 1, 1), atol=1e-6)


@pytest.mark.slow
@pytest.mark.export
def test_executorch_keeps_an_output_when_it_runs_again(pte_file: Path) -> None:
    session = get_runtime("executorch").load(pte_file, io(Layout.NCHW, styles=2))
    weights = np.array([[1.0, 0.0]], np.float32)
    first = session.run(np.ones((1, 3, HEIGHT, WIDTH), np.float32), weights)
    kept = first.copy()
    session.run(np.zeros((1, 3, HEIGHT, WIDTH), np.float32), weights)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.slow
@pytest.mark.export
def test_executorch_takes_the_threads_it_is_given(pte_file: Path) -> None:
    binding = pytest.importorskip("executorch.extension.pybindings.portable_lib")
    for threads in (2, 1):
        get_runtime("executorch").load(pte_file, io(Layout.NCHW, styles=2), threads=threads)
        assert binding._threadpool_get_thread_count() == threads


@pytest.mark.slow
@pytest.mark.export
def test_executorch_refuses_a_broken_file_and_another_border(pte_file: Path, tmp_path: Path) -> None:
    runtime = get_runtime("executorch")
    (tmp_path / "broken.pte").write_bytes(b"not a program")
    with pytest.raises(UsageError, match="ExecuTorch cannot load"):
        runtime.load(tmp_path / "broken.pte", io(Layout.NCHW))
    (tmp_path / "cut.pte").write_bytes(pte_file.read_bytes()[:-200])
    with pytest.raises(UsageError, match="ExecuTorch cannot load"):
        runtime.load(tmp_path / "cut.pte", io(Layout.NCHW, styles=2))
    with pytest.raises(UsageError, match=r"has the inputs float32 \(1, 3, 16, 32\), float32 \(1, 2\)"):
        runtime.load(pte_file, io(Layout.NCHW, styles=3))


# --- Core ML, whose own code only runs on macOS ----------------------------------------------------------------------


class FakeModel:
    """Stands in for ``coremltools.models.MLModel``: checks what it is fed, and darkens the picture by half."""

    def __init__(self, path: str, compute_units: str) -> None:
        if "broken" in path:
            raise Exception("unable to load model")
        self.compute_units = compute_units

    def get_spec(self) -> Any:
        def named(*names: str) -> list[Any]:
            return [types.SimpleNamespace(name=name) for name in names]

        return types.SimpleNamespace(
            description=types.SimpleNamespace(input=named("image", "style"), output=named("cartoon"))
        )

    def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(feeds["image"], Image.Image)
        assert feeds["image"].mode == "RGB"
        assert feeds["style"].dtype == np.float32
        darker = np.asarray(feeds["image"]) // 2
        return {"cartoon": Image.fromarray(darker).convert("RGBA")}  # Core ML gives BGRA


@pytest.fixture
def fake_core_ml(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("coremltools")
    module.models = types.SimpleNamespace(MLModel=FakeModel)  # type: ignore[attr-defined]
    module.ComputeUnit = types.SimpleNamespace(ALL="all")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coremltools", module)
    monkeypatch.setattr("sdk.runtimes.coreml.platform.system", lambda: "Darwin")
    monkeypatch.setattr("sdk.runtimes.coreml.installed", lambda packages: installed({"numpy": "numpy"}))


@pytest.mark.usefixtures("fake_core_ml")
def test_core_ml_is_fed_pictures_and_gives_rgb() -> None:
    images = io(Layout.IMAGE, DType.UINT8)
    spec = IOSpec(image=images.image, output=images.output, style=style_spec("style", 2))
    session = CoreMLRuntime().load(Path("a.mlpackage"), spec)
    drawn = session.stylize(photos(), np.array([1, 0], np.float32))
    np.testing.assert_allclose(drawn * 255, np.rint(photos() * 255) // 2, atol=1e-4)


@pytest.mark.usefixtures("fake_core_ml")
def test_core_ml_refuses_a_broken_package_and_other_tensor_names() -> None:
    with pytest.raises(UsageError, match=r"Core ML cannot load 'broken\.mlpackage'"):
        CoreMLRuntime().load(Path("broken.mlpackage"), io(Layout.IMAGE, DType.UINT8))
    with pytest.raises(UsageError, match="its manifest states cartoon, image:"):
        CoreMLRuntime().load(Path("a.mlpackage"), io(Layout.IMAGE, DType.UINT8))
