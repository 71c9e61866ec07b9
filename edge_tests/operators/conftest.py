"""One small module for each operator of the deployed graph, and how each target runs it.

A new target is one entry of ``RUNNERS``; a new operator one entry of ``OPERATORS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.bundle import Delegation
from sdk.spec import Precision

STYLES = 3
SIDE = 16


class Residual(nn.Module):
    """Adds two branches with scales of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.one(image) + self.two(image)


class Styled(nn.Module):
    """The style's scale and shift after a convolution, as the deployed graph has them."""

    def __init__(self) -> None:
        from converters.graph import StyleAffine

        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.affine = StyleAffine(torch.rand(STYLES, 8) + 0.5, torch.rand(STYLES, 8) - 0.5)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        return F.relu6(self.affine(self.conv(image), style[:, :, None, None]))


class Upsample(nn.Module):
    """Bilinear x2 between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.after(F.interpolate(self.before(image), scale_factor=2.0, mode="bilinear", align_corners=False))


class Shuffle(nn.Module):
    """A convolution to 12 channels and pixel shuffle, without the clamp."""

    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.tail(image), 2)


class Picture(nn.Module):
    """The last steps of every picture: convolution, pixel shuffle, clamp; about a third of the values is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Conv2d(3, 12, 3, padding=1)
        self.tail.weight.data *= 4

    def forward(self, image: Tensor) -> Tensor:
        return torch.clamp(F.pixel_shuffle(self.tail(image), 2), 0.0, 1.0)


class Attentive(nn.Module):
    """Pixel attention between two convolutions: a hard sigmoid, a product of two branches, a residual."""

    def __init__(self) -> None:
        from training.models.attention import PixelAttention

        super().__init__()
        self.before, self.attention, self.after = nn.Conv2d(3, 8, 1), PixelAttention(8, hidden=8), nn.Conv2d(8, 4, 1)
        nn.init.normal_(self.attention.project.weight, 0.0, 0.2)

    def forward(self, image: Tensor) -> Tensor:
        return self.after(self.attention(self.before(image)))


class Transformed(nn.Module):
    """An SFT: scales and shifts of every position, from another branch."""

    def __init__(self) -> None:
        from training.models.norm import SpatialFeatureTransform

        super().__init__()
        self.before, self.condition = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1)
        self.sft = SpatialFeatureTransform(8, 4, hidden=8)
        for head in (self.sft.scale, self.sft.shift):
            nn.init.normal_(head.weight, 0.0, 0.3)

    def forward(self, image: Tensor) -> Tensor:
        return self.sft(self.before(image), self.condition(image))


#: Operator -> a module around it. Inputs lie in [0, 1]: a picture and, for ``style``, weights that sum to 1.
OPERATORS: dict[str, Callable[[], nn.Module]] = {
    "conv3x3_stride2": lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1),
    "conv1x1": lambda: nn.Conv2d(3, 8, 1),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)),
    "depthwise_stride2": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)),
    "relu6": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6()),
    "add": Residual,
    "style_affine": Styled,
    "bilinear_x2": Upsample,
    "pixel_shuffle": Shuffle,
    "shuffle_and_clamp": Picture,
    "pixel_attention": Attentive,
    "sft": Transformed,
}


@dataclass(frozen=True)
class Case:
    """One operator at work: a module in eval mode, calibration inputs, and one input to compare on."""

    module: nn.Module
    samples: list[tuple[Tensor, ...]]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.samples[0]

    @property
    def wanted(self) -> np.ndarray:
        """``N x C x H x W`` float32."""
        with torch.no_grad():
            return self.module(*self.inputs).numpy()


#: (output ``N x C x H x W`` float32, delegation read from the saved file).
Result = tuple[np.ndarray, Delegation]


def run_executorch(case: Case, precision: Precision, folder: Path) -> Result:
    """Saves a ``.pte``, loads it again and runs it."""
    pytest.importorskip("executorch", reason="needs the extra export")
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    from converters.quantize import quantize_module
    from converters.to_executorch import lower, read_delegation

    module = quantize_module(case.module, case.samples) if precision is Precision.INT8 else case.module
    path = folder / "operator.pte"
    path.write_bytes(lower(module, case.inputs))
    made = _load_for_executorch(str(path)).forward(case.inputs)[0]
    return made.numpy().copy(), read_delegation(path)


def run_tflite(case: Case, precision: Precision, folder: Path) -> Result:
    """Saves a ``.tflite``, loads it again and runs it; integer borders are converted by the file's own grids."""
    pytest.importorskip("litert_torch", reason="needs the extra export")
    from ai_edge_litert.interpreter import Interpreter

    from converters.tflite_model import TFLiteModel, read_delegation
    from converters.to_tflite import convert, quantize

    names = ("image", "style")[: len(case.inputs)]
    model = TFLiteModel(convert(case.module, case.inputs))
    picture = isinstance(case.module, Picture)
    if picture:
        model.cut_shuffle()
    model.drop_unused()
    model.rename(names, "cartoon")
    feeds = [dict(zip(names, _nhwc(sample), strict=True)) for sample in case.samples]
    if precision is Precision.INT8:
        model = TFLiteModel(quantize(model, feeds, on_grid=(*names, "cartoon") if picture else names))
    if picture:
        model.append_shuffle()
    path = folder / "operator.tflite"
    path.write_bytes(model.to_bytes())
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], _encode(feeds[0][detail["name"].split(":")[0]], detail))
    interpreter.invoke()
    detail = interpreter.get_output_details()[0]
    made = interpreter.get_tensor(detail["index"])
    if precision is Precision.INT8:
        assert made.dtype == np.int8
        scale, zero_point = detail["quantization"]
        made = (made.astype(np.float32) - zero_point) * np.float32(scale)
    return made.transpose(0, 3, 1, 2), read_delegation(path)


RUNNERS: dict[str, Callable[[Case, Precision, Path], Result]] = {"executorch": run_executorch, "tflite": run_tflite}


def make_case(operator: str) -> Case:
    """A seeded module and eight seeded samples."""
    torch.manual_seed(0)
    module = OPERATORS[operator]().eval().requires_grad_(False)
    samples: list[tuple[Tensor, ...]] = []
    for k in range(8):
        image = torch.rand(1, 3, SIDE, SIDE)
        style = F.one_hot(torch.tensor([k % STYLES]), STYLES).float()
        samples.append((image, style) if operator == "style_affine" else (image,))
    return Case(module=module, samples=samples)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every operator, target and precision, for the tests that ask for them."""
    for name, values in (("operator", OPERATORS), ("target", RUNNERS), ("precision", (Precision.FP32, Precision.INT8))):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, list(values))


@pytest.fixture
def case(operator: str) -> Case:
    """The operator at work."""
    return make_case(operator)


@pytest.fixture
def run(target: str, tmp_path: Path) -> Callable[[Case, Precision], Result]:
    """Saves, reloads and runs a case on a target."""
    return lambda case, precision: RUNNERS[target](case, precision, tmp_path)


@pytest.fixture
def build_case() -> Callable[..., Case]:
    """A case of a module of one's own: ``build_case(module)``."""
    return lambda module: Case(module=module.eval(), samples=[(torch.rand(1, 3, SIDE, SIDE),) for _ in range(4)])


def _nhwc(sample: tuple[Tensor, ...]) -> list[np.ndarray]:
    return [np.ascontiguousarray(t.permute(0, 2, 3, 1).numpy()) if t.ndim == 4 else t.numpy() for t in sample]


def _encode(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    if detail["dtype"] == np.float32:
        return values
    scale, zero_point = detail["quantization"]
    return np.clip(np.rint(values / scale) + zero_point, -128, 127).astype(np.int8)
