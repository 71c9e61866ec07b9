"""Whole networks through the MIL reference executor: converted, saved, read back and compared with torch; and faults
planted in the saved package, which its output must show."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra mil")
ct = pytest.importorskip("coremltools", reason="needs the extra mil")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from coremltools.proto import Model_pb2  # noqa: E402
from torch import nn  # noqa: E402

from sdk.errors import UsageError  # noqa: E402
from sdk.runtimes import get_runtime, mil  # noqa: E402
from sdk.spec import DType, IOSpec, Kind, Layout, Target, image_spec, style_spec  # noqa: E402

pytestmark = pytest.mark.export
SIZE = 64
STYLES = 4


class Core(nn.Module):
    """The project's kind of network in small: image N x 3 x H x W in [0, 1], style N x S; gives [0, 1] up to clipping.

    No scalar constants: coremltools 9.0 folds a quantized scalar in 8-bit arithmetic and gets it wrong.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = self.block(12, 16, stride=2)
        self.depthwise = self.block(16, 16, groups=16)
        self.pointwise = self.block(16, 16, kernel=1)
        self.head = nn.Conv2d(16 + 12, 12, 3, padding=1)
        self.gains = nn.Parameter(torch.rand(STYLES, 16) + 0.5)

    @staticmethod
    def block(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, image: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        x = F.pixel_unshuffle(image, 2)
        y = self.stem(x)
        y = y + self.pointwise(self.depthwise(y))
        y = y * (style @ self.gains)[:, :, None, None]
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
        return F.pixel_shuffle(self.head(torch.cat([y, x], 1)), 2) + image


class Bordered(nn.Module):
    """Pictures in [0, 255] in and out, as Core ML takes and gives them."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, image: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        return torch.clamp(self.core(image * (1 / 255), style), 0, 1) * 255


@dataclass(frozen=True)
class Network:
    """A converted network: the package, what torch computes in [0, 1], and the plain float network's result."""

    path: Path
    torch_result: np.ndarray
    float_result: np.ndarray


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Smooth colours with edges, H x W x 3, 8-bit."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    channels = [128 + 120 * np.sin(rows / 9 + k) * np.cos(columns / (5 + k)) for k in range(3)]
    picture = np.stack(channels, -1)
    picture[20:40, 10:30] = (250, 20, 90)
    return picture.astype(np.uint8)


STYLE = np.array([[0.25, 0.5, 0.0, 0.25]], np.float32)


@pytest.fixture(scope="module", autouse=True)
def _frozen_garbage() -> Iterator[None]:
    """ct.convert calls gc.collect(), which takes seconds beside torch unless everything older is set aside."""
    gc.freeze()
    yield
    gc.unfreeze()


def convert(exported: Any, precision: str, path: Path, **options: Any) -> Path:
    inputs = [
        ct.ImageType(name="image", shape=(1, 3, SIZE, SIZE)),
        ct.TensorType(name="style", shape=(1, STYLES), dtype=np.float32),
    ]
    model = ct.convert(
        exported,
        **{
            "inputs": inputs,
            "outputs": [ct.ImageType(name="cartoon", color_layout=ct.colorlayout.RGB)],
            "compute_precision": getattr(ct.precision, precision),
            "minimum_deployment_target": ct.target.iOS17,
            "convert_to": "mlprogram",
            **options,
        },
    )
    model.save(str(path))
    return path


def as_tensor(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1)[None].float()


def export(model: nn.Module) -> Any:
    example = (torch.rand(1, 3, SIZE, SIZE) * 255, torch.from_numpy(STYLE))
    return torch.export.export(model, example).run_decompositions({})


@pytest.fixture(scope="module")
def core(photo: np.ndarray) -> Core:
    torch.manual_seed(3)
    network = Core().train()
    with torch.no_grad():
        for _ in range(20):  # running statistics worth folding
            network(torch.rand(2, 3, SIZE, SIZE), torch.from_numpy(STYLE))
    return network.eval()


@pytest.fixture(scope="module")
def networks(core: Core, photo: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Network]:
    """fp32 and fp16 of the float network; W8A8 of the PT2E graph, computed in fp32 and in fp16."""
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e", reason="needs the extra export")
    xnnpack = pytest.importorskip(
        "executorch.backends.xnnpack.quantizer.xnnpack_quantizer", reason="needs the extra export"
    )
    folder = tmp_path_factory.mktemp("networks")
    pictures = as_tensor(photo), torch.from_numpy(STYLE)
    example = (pictures[0] / 255, pictures[1])
    quantizer = xnnpack.XNNPACKQuantizer().set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))
    prepared = pt2e.prepare_pt2e(torch.export.export(core, example).module(), quantizer)
    with torch.no_grad():
        prepared(*example)
        quantized = Bordered(pt2e.convert_pt2e(prepared))
        whole = Bordered(core)
        float_result = whole(*pictures).numpy() / 255
        quantized_result = quantized(*pictures).numpy() / 255
    made = {}
    for name, model, precision, result in (
        ("fp32", whole, "FLOAT32", float_result),
        ("fp16", whole, "FLOAT16", float_result),
        ("w8a8", quantized, "FLOAT32", quantized_result),
        ("w8a8-fp16", quantized, "FLOAT16", quantized_result),
    ):
        path = convert(export(model), precision, folder / f"{name}.mlpackage")
        made[name] = Network(path, result, float_result)
    return made


def run(path: Path, photo: np.ndarray, **options: Any) -> np.ndarray:
    """The raw picture, 1 x 3 x H x W in [0, 1]."""
    return mil.load(path, **options).predict_raw({"image": photo, "style": STYLE})["cartoon"] / 255


def largest(difference: np.ndarray) -> float:
    return float(np.abs(difference).max())


# --- fidelity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulator", ["float32", "float64"])
def test_an_fp32_package_computes_what_torch_computed(
    networks: dict[str, Network], photo: np.ndarray, accumulator: str
) -> None:
    network = networks["fp32"]
    assert largest(run(network.path, photo, accumulator=accumulator) - network.torch_result) <= 1e-5


def test_an_fp16_package_is_near_torch_and_every_intermediate_result_is_an_fp16_number(
    networks: dict[str, Network], photo: np.ndarray
) -> None:
    network = networks["fp16"]
    error = largest(run(network.path, photo) - network.torch_result)
    assert 1e-5 < error <= 3e-3
    model = mil.load(network.path)
    results = model.trace({"image": photo, "style": STYLE})
    assert len(results) >= 15
    for name, values in results.items():
        np.testing.assert_array_equal(values, values.astype(np.float16).astype(values.dtype), err_msg=name)


def test_a_w8a8_package_computes_what_its_pt2e_graph_computes(networks: dict[str, Network], photo: np.ndarray) -> None:
    network = networks["w8a8"]
    operators = mil.load(network.path).operators
    assert operators["quantize"] >= 8
    assert operators["constexpr_affine_dequantize"] == 4
    result = run(network.path, photo)
    # Two roundings may fall apart by one step of 8 bits here and there; on the whole the graphs must be one.
    assert largest(result - network.torch_result) <= 0.02
    own = np.abs(result - network.torch_result).mean()
    quantization = np.abs(network.torch_result - network.float_result).mean()
    assert own <= 0.1 * quantization


def test_a_w8a8_package_computed_in_fp16_stays_near_its_pt2e_graph(
    networks: dict[str, Network], photo: np.ndarray
) -> None:
    network = networks["w8a8-fp16"]
    assert np.abs(run(network.path, photo) - network.torch_result).mean() <= 2e-3


@pytest.mark.parametrize("scheme", ["int8", "int4-blocks", "palette", "sparse"])
def test_a_weight_compressed_package_computes_what_coremltools_decompresses_it_to(
    core: Core, photo: np.ndarray, tmp_path: Path, scheme: str
) -> None:
    compress = ct.optimize.coreml
    target = {"int4-blocks": ct.target.iOS18}.get(scheme, ct.target.iOS17)
    plain = convert(export(Bordered(core)), "FLOAT32", tmp_path / "plain.mlpackage", minimum_deployment_target=target)
    model = ct.models.MLModel(str(plain), skip_model_load=True)
    if scheme == "palette":
        config = compress.OptimizationConfig(compress.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=64))
        small = compress.palettize_weights(model, config)
    elif scheme == "sparse":
        config = compress.OptimizationConfig(compress.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=64))
        small = compress.prune_weights(model, config)
    else:
        options = {"dtype": "int4", "granularity": "per_block", "block_size": 4} if scheme == "int4-blocks" else {}
        config = compress.OptimizationConfig(
            compress.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=64, **options)
        )
        small = compress.linear_quantize_weights(model, config)
    packed, unpacked = tmp_path / "small.mlpackage", tmp_path / "unpacked.mlpackage"
    small.save(str(packed))
    compress.decompress_weights(small).save(str(unpacked))
    assert any(name.startswith("constexpr_") for name in mil.load(packed).operators)
    assert not any(name.startswith("constexpr_") for name in mil.load(unpacked).operators)

    result = run(packed, photo)

    assert largest(result - run(unpacked, photo)) <= 1e-5
    assert largest(result - run(plain, photo)) > 1e-3


# --- the border -------------------------------------------------------------------------------------------------------


class Identity(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * 1.5 - 60.25


def convert_identity(path: Path, image: Any, output: Any, shape: tuple[int, ...] = (1, 3, 8, 6)) -> Path:
    exported = torch.export.export(Identity(), (torch.rand(shape),)).run_decompositions({})
    return convert(exported, "FLOAT32", path, inputs=[image], outputs=[output])


def test_the_scale_and_bias_of_an_image_input_are_in_the_program_and_are_applied(tmp_path: Path) -> None:
    image = ct.ImageType(name="image", shape=(1, 3, 8, 6), scale=1 / 127.5, bias=[-1.0, -0.5, 0.25])
    path = convert_identity(tmp_path / "scaled.mlpackage", image, ct.TensorType(name="out", dtype=np.float32))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    want = (pixels / 127.5 + np.array([-1.0, -0.5, 0.25])) * 1.5 - 60.25
    result = mil.load(path).predict({"image": pixels})["out"]
    np.testing.assert_allclose(result[0].transpose(1, 2, 0), want, atol=1e-4)


def test_an_image_output_is_clamped_and_rounded_to_the_nearest_integer_halves_up(tmp_path: Path) -> None:
    path = convert_identity(
        tmp_path / "picture.mlpackage", ct.ImageType(name="image", shape=(1, 3, 8, 6)), ct.ImageType(name="out")
    )
    pixels = np.arange(144, dtype=np.uint8).reshape(1, 8, 6, 3) + 70
    result = mil.load(path).predict({"image": pixels})["out"]
    want = np.floor(np.clip(pixels * 1.5 - 60.25, 0, 255) + 0.5).astype(np.uint8)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, want)
    assert result.max() == 255


def test_bgr_packages_swap_the_channels_at_the_border_and_grey_ones_have_one(tmp_path: Path) -> None:
    layout = ct.colorlayout
    pixels = np.random.default_rng(1).integers(60, 200, (8, 6, 3), dtype=np.uint8)
    exact = pixels * 1.5 - 60.25
    mixed = convert_identity(
        tmp_path / "bgr.mlpackage",
        ct.ImageType(name="image", shape=(1, 3, 8, 6), color_layout=layout.BGR),
        ct.TensorType(name="out", dtype=np.float32),
    )
    result = mil.load(mixed).predict({"image": pixels})["out"]
    np.testing.assert_allclose(result[0].transpose(1, 2, 0), exact[..., ::-1], atol=1e-4)
    both = convert_identity(
        tmp_path / "both.mlpackage",
        ct.ImageType(name="image", shape=(1, 3, 8, 6), color_layout=layout.RGB),
        ct.ImageType(name="out", color_layout=layout.BGR),
    )
    picture = mil.load(both).predict({"image": pixels})["out"][0]
    np.testing.assert_array_equal(picture, np.floor(np.clip(exact, 0, 255) + 0.5)[..., ::-1])
    grey = convert_identity(
        tmp_path / "grey.mlpackage",
        ct.ImageType(name="image", shape=(1, 1, 8, 6), color_layout=layout.GRAYSCALE),
        ct.ImageType(name="out", color_layout=layout.GRAYSCALE),
        (1, 1, 8, 6),
    )
    plane = mil.load(grey).predict({"image": pixels[..., 0]})["out"]
    np.testing.assert_array_equal(plane[0], np.floor(np.clip(exact[..., :1], 0, 255) + 0.5))


def test_a_package_of_flexible_size_takes_its_sizes_and_refuses_others(core: Core, tmp_path: Path) -> None:
    style = torch.from_numpy(STYLE)
    size = torch.export.Dim("size", min=2, max=16)
    exported = torch.export.export(
        Bordered(core),
        (torch.rand(1, 3, 64, 64), style),
        dynamic_shapes=({2: 4 * size, 3: 64}, None),
    ).run_decompositions({})
    shape = ct.Shape((1, 3, ct.RangeDim(8, 64, default=64), 64))
    inputs = [ct.ImageType(name="image", shape=shape), ct.TensorType(name="style", shape=(1, STYLES), dtype=np.float32)]
    model = mil.load(convert(exported, "FLOAT32", tmp_path / "range.mlpackage", inputs=inputs))
    assert model.inputs[0].ranges[1] == (8, 64)
    for height in (16, 48):
        pixels = np.random.default_rng(height).integers(0, 256, (height, 64, 3), dtype=np.uint8)
        with torch.no_grad():
            want = Bordered(core)(as_tensor(pixels), style).numpy()
        raw = model.predict_raw({"image": pixels, "style": STYLE})["cartoon"]
        assert largest(raw - want) <= 1e-3
    with pytest.raises(UsageError, match=r"shape 1 x 72 x 64 x 3: the model takes 1 x \[8\.\.64\] x 64 x 3"):
        model.predict({"image": np.zeros((72, 64, 3), np.uint8), "style": STYLE})


# --- planted faults ---------------------------------------------------------------------------------------------------


def operations(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def edit(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a package with ``change`` applied to its model description."""
    shutil.copytree(source, target)
    file = target / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    change(spec)
    file.write_bytes(spec.SerializeToString())
    return target


def constant_of(spec: Any, operator: str, argument: str, which: int) -> Any:
    """The value message of one argument of the n-th operator of a kind."""
    found = [op for op in operations(spec) if op.type == operator and argument in op.inputs]
    name = found[which].inputs[argument].arguments[0].name
    (const,) = [op for op in operations(spec) if op.type == "const" and op.outputs[0].name == name]
    return const.attributes["val"]


def weight_file(path: Path) -> Path:
    return path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def test_one_wrong_zero_point_in_the_saved_package_shows(
    networks: dict[str, Network], photo: np.ndarray, tmp_path: Path
) -> None:
    network = networks["w8a8"]

    def shift(spec: Any) -> None:
        tensor = constant_of(spec, "dequantize", "zero_point", 0).immediateValue.tensor
        tensor.bytes.values = bytes([(tensor.bytes.values[0] + 16) % 256])

    broken = run(edit(network.path, tmp_path / "broken.mlpackage", shift), photo)
    assert (
        np.abs(broken - network.torch_result).mean()
        > 20 * np.abs(run(network.path, photo) - network.torch_result).mean()
    )
    assert largest(broken - network.torch_result) > 8 / 255


def test_one_wrong_scale_in_the_saved_package_shows(
    networks: dict[str, Network], photo: np.ndarray, tmp_path: Path
) -> None:
    network = networks["w8a8"]

    def stretch(spec: Any) -> None:
        floats = constant_of(spec, "dequantize", "scale", 3).immediateValue.tensor.floats
        floats.values[0] *= 1.25

    broken = run(edit(network.path, tmp_path / "broken.mlpackage", stretch), photo)
    assert largest(broken - network.torch_result) > 8 / 255


def test_one_wrong_weight_in_the_weight_file_shows(
    networks: dict[str, Network], photo: np.ndarray, tmp_path: Path
) -> None:
    network = networks["fp32"]
    broken = tmp_path / "broken.mlpackage"
    shutil.copytree(network.path, broken)
    spec = Model_pb2.Model()
    spec.ParseFromString((broken / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    offset = constant_of(spec, "conv", "weight", 3).blobFileValue.offset
    blob = bytearray(weight_file(broken).read_bytes())
    start = int(np.frombuffer(blob, "<u8", 1, offset + 16)[0])  # the blob's header: sentinel, type, size, data offset
    blob[start : start + 4] = np.float32(2.0).tobytes()
    weight_file(broken).write_bytes(blob)
    assert largest(run(broken, photo) - network.torch_result) > 8 / 255


def test_channels_swapped_in_the_saved_weights_show(
    networks: dict[str, Network], photo: np.ndarray, tmp_path: Path
) -> None:
    network = networks["w8a8"]
    broken = tmp_path / "broken.mlpackage"
    shutil.copytree(network.path, broken)
    spec = Model_pb2.Model()
    spec.ParseFromString((broken / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    first = next(op for op in operations(spec) if op.type == "constexpr_affine_dequantize")
    value = (
        first.attributes["quantized_data"]
        if "quantized_data" in first.attributes
        else constant_of(spec, "constexpr_affine_dequantize", "quantized_data", 0)
    )
    blob = bytearray(weight_file(broken).read_bytes())
    start = int(np.frombuffer(blob, "<u8", 1, value.blobFileValue.offset + 16)[0])
    each = 12 * 9  # the first two of 16 filters of the stem, 12 x 3 x 3 int8 each
    a, b = blob[start : start + each], blob[start + each : start + 2 * each]
    blob[start : start + 2 * each] = b + a
    weight_file(broken).write_bytes(blob)
    assert largest(run(broken, photo) - network.torch_result) > 8 / 255


class Loud(nn.Module):
    """Beyond 65504 inside, back in range at the end: right in fp32, infinite in fp16."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
        with torch.no_grad():
            self.up.weight.fill_(150.0)
            self.down.weight.fill_(1e-3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.down(F.relu(self.up(image)))


def test_an_fp16_overflow_shows_and_is_traced_to_the_operator_where_it_began(photo: np.ndarray, tmp_path: Path) -> None:
    loud = Loud().eval()
    exported = torch.export.export(loud, (torch.rand(1, 3, SIZE, SIZE),)).run_decompositions({})
    image = ct.ImageType(name="image", shape=(1, 3, SIZE, SIZE))
    output = ct.TensorType(name="out", dtype=np.float32)
    with torch.no_grad():
        want = loud(as_tensor(photo)).numpy()
    fp32 = mil.load(convert(exported, "FLOAT32", tmp_path / "32.mlpackage", inputs=[image], outputs=[output]))
    fp16 = mil.load(convert(exported, "FLOAT16", tmp_path / "16.mlpackage", inputs=[image], outputs=[output]))

    np.testing.assert_allclose(fp32.predict({"image": photo})["out"], want, rtol=1e-5)
    assert fp32.find_non_finite({"image": photo}) == ()
    assert np.isinf(fp16.predict({"image": photo})["out"]).any()
    first = fp16.find_non_finite({"image": photo})[0]
    assert (first.operator, first.declared, first.nan) == ("conv", "fp16", 0)
    assert first.infinite == 4 * int((150.0 * photo.sum(-1).astype(float) >= 65520).sum())


# --- as one of the SDK's runtimes -------------------------------------------------------------------------------------


def border(size: int = SIZE) -> IOSpec:
    return IOSpec(
        image=image_spec("image", Layout.IMAGE, DType.UINT8, size, size),
        output=image_spec("cartoon", Layout.IMAGE, DType.UINT8, size, size),
        style=style_spec("style", STYLES),
    )


def test_the_runtime_serves_core_ml_as_a_reference_and_stylizes_within_one_step_of_8_bits(
    networks: dict[str, Network], photo: np.ndarray
) -> None:
    runtime = get_runtime("mil")
    assert (runtime.kind, runtime.targets) == (Kind.REFERENCE, {Target.COREML})
    assert runtime.available().ok
    network = networks["fp16"]
    with runtime.load(network.path, border()) as session:
        result = session.stylize(photo[None] / np.float32(255), STYLE[0])
    assert result.shape == (1, SIZE, SIZE, 3)
    assert largest(result - network.torch_result.transpose(0, 2, 3, 1)) <= 1 / 255


def test_the_runtime_refuses_a_package_whose_border_is_not_what_the_manifest_states(
    networks: dict[str, Network],
) -> None:
    with pytest.raises(UsageError, match=r"'image' as RGB uint8 \(1, 64, 64, 3\).*states IMAGE uint8 \(1, 32, 32, 3\)"):
        get_runtime("mil").load(networks["fp16"].path, border(32))
