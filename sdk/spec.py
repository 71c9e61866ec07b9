"""What an artifact is and what goes in and out of it: the one place that defines these.

Nothing here imports a runtime.  Every name that appears in a file name, in ``manifest.json`` or on the command line is
spelled by one of the enumerations below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from sdk.errors import UsageError, unknown_name

#: Height and width of every image must be a multiple of this: the encoder's deepest features have stride 16.
SIZE_MULTIPLE = 16


class Target(StrEnum):
    """A phone runtime family, as given to ``--target``."""

    EXECUTORCH = "executorch"
    COREML = "coreml"
    TFLITE = "tflite"
    ONNX = "onnx"


class Backend(StrEnum):
    """What executes the graph inside a target."""

    XNNPACK = "xnnpack"
    MLPROGRAM = "mlprogram"
    LITERT = "litert"
    ORT = "ort"


class Precision(StrEnum):
    """Arithmetic of an artifact. Each backend says which of these it has."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Kind(StrEnum):
    """Where a figure comes from. Only ``device`` and ``host`` may carry a latency."""

    DEVICE = "device"
    HOST = "host"
    SIMULATOR = "simulator"
    EMULATED = "emulated"
    REFERENCE = "reference"


class Layout(StrEnum):
    """Order of a tensor's axes; ``IMAGE`` is an H x W x 3 8-bit picture object (Core ML's ImageType)."""

    NCHW = "NCHW"
    NHWC = "NHWC"
    IMAGE = "IMAGE"
    NS = "NS"  # batch x styles


class DType(StrEnum):
    """Element type at the artifact's border."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of an artifact.

    Attributes:
        name: the tensor's name in the file (``image``, ``style``, ``cartoon``).
        layout: order of axes.
        dtype: element type at the border.
        shape: extents in ``layout`` order, ``None`` where the file accepts any (NCHW: N, 3, H, W).
        low, high: real value range, [0, 1] for images and style weights.
        scale, zero_point: ``real = scale * (stored - zero_point)`` for integer dtypes; ``None`` for floats.
    """

    name: str
    layout: Layout
    dtype: DType
    shape: tuple[int | None, ...]
    low: float = 0.0
    high: float = 1.0
    scale: float | None = None
    zero_point: int | None = None

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Real values to what the artifact takes.

        Args:
            values: images ``N x H x W x 3`` or style weights ``N x S``, float32 in [low, high].

        Returns:
            A C-contiguous array in this tensor's layout and dtype (``IMAGE``: ``N x H x W x 3`` uint8). Contiguity is
            part of the contract: ExecuTorch ignores strides and would silently read another picture.
        """
        stored = self._store(np.asarray(values, dtype=np.float32))
        if self.layout is Layout.NCHW:
            stored = stored.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(stored)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """The inverse of ``encode``: the artifact's output to float32 ``N x H x W x 3`` (or ``N x S``) real values."""
        values = np.asarray(stored)
        if self.layout is Layout.NCHW:
            values = values.transpose(0, 2, 3, 1)
        if self.scale is not None:
            values = (values.astype(np.float32) - np.float32(self.zero_point or 0)) * np.float32(self.scale)
        return np.ascontiguousarray(values, dtype=np.float32)

    def _store(self, values: np.ndarray) -> np.ndarray:
        if self.scale is None:
            return values.astype(np.float32)
        info = np.iinfo(self.dtype.value)
        # numpy rounds half to even, as the converters do.
        steps = np.rint(values / np.float32(self.scale)) + (self.zero_point or 0)
        return np.clip(steps, info.min, info.max).astype(self.dtype.value)


@dataclass(frozen=True, kw_only=True)
class IOSpec:
    """All an app has to know to feed an artifact. ``style`` is ``None`` when one style is baked in."""

    image: TensorSpec
    output: TensorSpec
    style: TensorSpec | None = None


def image_spec(
    name: str, layout: Layout, dtype: DType, height: int | None, width: int | None, *, batch: int | None = 1
) -> TensorSpec:
    """The spec of an image tensor under the project's contract.

    float32 is [0, 1] as is; int8 has scale 1/255 and zero point -128 (so int8 = uint8 XOR 0x80); uint8 has scale 1/255.
    """
    shapes: dict[Layout, tuple[int | None, ...]] = {
        Layout.NCHW: (batch, 3, height, width),
        Layout.NHWC: (batch, height, width, 3),
        Layout.IMAGE: (batch, height, width, 3),
    }
    scale, zero_point = _quantization(dtype)
    return TensorSpec(name=name, layout=layout, dtype=dtype, shape=shapes[layout], scale=scale, zero_point=zero_point)


def style_spec(name: str, styles: int, dtype: DType = DType.FLOAT32, *, batch: int | None = 1) -> TensorSpec:
    """The spec of a style-weight vector, ``N x S``; the same quantization rule as an image."""
    scale, zero_point = _quantization(dtype)
    return TensorSpec(
        name=name, layout=Layout.NS, dtype=dtype, shape=(batch, styles), scale=scale, zero_point=zero_point
    )


def _quantization(dtype: DType) -> tuple[float | None, int | None]:
    return {DType.FLOAT32: (None, None), DType.INT8: (1 / 255, -128), DType.UINT8: (1 / 255, 0)}[dtype]


def check_size(height: int, width: int) -> tuple[int, int]:
    """Refuses sizes the network cannot take.

    Raises:
        UsageError: when a side is not a positive multiple of 16; names the nearest legal size.
    """
    if height <= 0 or width <= 0 or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
        near = [max(SIZE_MULTIPLE, round(side / SIZE_MULTIPLE) * SIZE_MULTIPLE) for side in (height, width)]
        raise UsageError(
            f"size {height}x{width} is not divisible by {SIZE_MULTIPLE}: use {near[0]}x{near[1]}, for example."
        )
    return height, width


def parse_size(text: str) -> tuple[int, int]:
    """``"256x192"`` (height x width) or ``"256"`` to ``(height, width)``, checked by ``check_size``."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"size {text!r} is not of the form HxW: write for example 256x256.")
    numbers = [int(part) for part in parts]
    return check_size(numbers[0], numbers[-1])


def style_weights(style: str | Mapping[str, float] | None, styles: tuple[str, ...]) -> np.ndarray:
    """A style by name, or a mix by name and share, as the vector the network takes.

    Args:
        style: a name, or ``{"comic": 0.7, "pencil": 0.3}`` (shares >= 0, scaled to sum to 1); ``None``: the first one.
        styles: the bundle's style names, in the order of the network's rows.

    Returns:
        ``S`` float32 weights that sum to 1.

    Raises:
        UsageError: for an unknown name (the nearest is suggested), a negative share, or shares that sum to 0.
    """
    mix = {styles[0]: 1.0} if style is None else {style: 1.0} if isinstance(style, str) else dict(style)
    weights = np.zeros(len(styles), dtype=np.float32)
    for name, share in mix.items():
        if name not in styles:
            raise unknown_name("style", name, styles)
        if not np.isfinite(share) or share < 0:
            raise UsageError(f"style {name!r} has the share {share}: shares must be finite and >= 0.")
        weights[styles.index(name)] = share
    total = float(weights.sum())
    if total <= 0:
        raise UsageError(f"the style mix {mix} sums to {total}: give at least one style a share above 0.")
    return weights / np.float32(total)
