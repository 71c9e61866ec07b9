"""Every operator of the MIL reference executor, one saved package each, in fp32 and fp16.

A case builds a one-operator program with coremltools' builder, saves it as an .mlpackage, loads that with our executor
and compares with an oracle that shares no code with it: coremltools' own constant evaluation of the same operator where
coremltools has one (``oracle=None``), else torch or numpy formulas written here.
"""

from __future__ import annotations

import gc
import math
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
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

from sdk.runtimes import mil  # noqa: E402

RNG = np.random.default_rng(7)
FP16_ULP = 2.0**-10


@dataclass(frozen=True)
class Case:
    """One program.

    ``build(c, *inputs)`` returns the operator's result; ``c`` makes a float constant of the program's precision.
    ``oracle(*inputs)`` gets float64 arrays; ``None`` takes coremltools' evaluation of the same ``build`` on constants.
    """

    operator: str
    build: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    oracle: Callable[..., Any] | None = None
    target: str = "iOS17"
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.operator}-{self.note}" if self.note else self.operator


@pytest.fixture(scope="module", autouse=True)
def _frozen_garbage() -> Iterator[None]:
    """ct.convert calls gc.collect(), which takes seconds beside torch unless everything older is set aside."""
    gc.freeze()
    yield
    gc.unfreeze()


def sparse_to_dense(pair: Any) -> Any:
    mask, values = pair
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


#: Whether the oracle's constants are rounded to fp16 as the program's are; set by ``expected``.
_HALF = {"on": False}


def half(values: Any) -> np.ndarray:
    """Constants as the program under test holds them."""
    array = np.asarray(values, dtype=np.float64)
    return array.astype(np.float16 if _HALF["on"] else np.float32).astype(np.float64)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1.5, shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.1, 3, shape).astype(np.float32)


def unit(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.9, 0.9, shape).astype(np.float32)


def whole(low: int, high: int, *shape: int) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(np.int32)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, dtype=np.float64))


X4 = normal(2, 6, 5, 7)
SQUARE = normal(1, 8, 6, 6)
W33, B8 = normal(8, 6, 3, 3) * 0.3, normal(8)
MEAN, VAR, GAMMA, BETA = normal(6), positive(6), normal(6), normal(6)
CHAN = positive(6)
UNSORTED = RNG.permutation(60).reshape(3, 4, 5).astype(np.float32)


def unary(operator: str, x: np.ndarray = X4, oracle: Callable[..., Any] | None = None) -> Case:
    return Case(operator, lambda c, x: getattr(mb, operator)(x=x), (x,), oracle)


def binary(operator: str, x: np.ndarray, y: np.ndarray) -> Case:
    return Case(operator, lambda c, x, y: getattr(mb, operator)(x=x, y=y), (x, y))


def reduction(operator: str, x: np.ndarray = X4) -> list[Case]:
    return [
        Case(operator, lambda c, x: getattr(mb, operator)(x=x, axes=[1, -1], keep_dims=True), (x,), note="two-axes"),
        Case(operator, lambda c, x: getattr(mb, operator)(x=x), (x,), note="all"),
    ]


def logical(operator: str) -> Case:
    x, y = whole(0, 2, 4, 5), whole(0, 2, 4, 5)
    return Case(
        operator,
        lambda c, x, y: getattr(mb, operator)(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool")),
        (x, y),
    )


def with_zero(
    build: Callable[[Any], Any], target: str, oracle: Callable[[], Any], operator: str, note: str = ""
) -> Case:
    """A constexpr operator, made part of a program by adding it to an input of zeros."""
    shape = np.asarray(oracle()).shape
    return Case(
        operator, lambda c, x: mb.add(x=x, y=build(c)), (np.zeros(shape, np.float32),), lambda x: oracle(), target, note
    )


def spread(parameter: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Each element over its block of ``shape`` (Kronecker product with ones)."""
    return np.kron(parameter, np.ones([extent // have for extent, have in zip(shape, parameter.shape, strict=True)]))


def lut_by_loops(indices: np.ndarray, lut: np.ndarray, axis: int | None) -> np.ndarray:
    vector = lut.shape[-1]
    shape = list(indices.shape)
    if axis is not None:
        shape[axis] *= vector
    out = np.zeros(shape)
    for place in np.ndindex(*indices.shape):
        group = tuple(p * g // e for p, g, e in zip(place, lut.shape[:-2], indices.shape, strict=True))
        for i in range(vector):
            target = list(place)
            if axis is not None:
                target[axis] = place[axis] * vector + i
            out[tuple(target)] = lut[(*group, indices[place], i)]
    return out


def linear_samples(x: np.ndarray, axis: int, positions: list[float]) -> np.ndarray:
    """Linear interpolation along one axis at the given places, with numpy's own interp."""
    grid = np.arange(x.shape[axis])
    return np.apply_along_axis(lambda line: np.interp(positions, grid, line), axis, x)


def resized(x: np.ndarray, height: int, width: int, places: Callable[[int, int, int], float]) -> np.ndarray:
    for axis, count in ((-2, height), (-1, width)):
        x = linear_samples(x, axis, [places(i, x.shape[axis], count) for i in range(count)])
    return x


PLACES: dict[str, Callable[[int, int, int], float]] = {  # the formulas of coremltools' resize_bilinear, term by term
    "STRICT_ALIGN_CORNERS": lambda i, n, m: i * ((n - 1) / (m - 1)),
    "ALIGN_CORNERS": lambda i, n, m: (n - 1) / 2 if m == 1 else i * ((n - 1) / (m - 1)),
    "DEFAULT": lambda i, n, m: i * ((n - n / m) / (m - 1)),
    "OFFSET_CORNERS": lambda i, n, m: 0.5 * max(1, n - 1) / m + i * (max(1, n - 1) / m),
    "UNALIGN_CORNERS": lambda i, n, m: i * (n / m) + 0.5 * (n / m) - 0.5,
}

SPARSE_MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], np.uint8)
SPARSE_DATA = np.array([10, 11, 3, 4, 5, 6, 7, 8, 9], np.int8)
LUT_INDICES = RNG.integers(0, 4, (4, 6)).astype(np.uint8)
LUT4 = normal(2, 3, 4, 1)
LUT_VECTOR = normal(2, 1, 4, 3)
QUANTIZED = RNG.integers(-128, 128, (4, 6)).astype(np.int8)
BITS = RNG.integers(0, 4, 15).astype(np.uint8)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    stream = ((values[:, None] >> np.arange(bits)) & 1).astype(np.uint8).reshape(-1)
    return np.packbits(stream, bitorder="little")


def uint(values: Any, bits: int) -> np.ndarray:
    return np.asarray(values).astype(types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}")))


def quantize_oracle(x: np.ndarray, scale: Any, zero: Any, low: int, high: int) -> np.ndarray:
    return np.clip(np.rint(x / scale) + zero, low, high)


def conv_same(x: np.ndarray, weight: np.ndarray, stride: tuple[int, int], *, lower: bool) -> np.ndarray:
    """TensorFlow's SAME by loops over output pixels."""
    n, _, h, w = x.shape
    out_h, out_w = math.ceil(h / stride[0]), math.ceil(w / stride[1])
    k = weight.shape[2:]
    total = [max(0, (o - 1) * s + e - i) for o, s, e, i in zip((out_h, out_w), stride, k, (h, w), strict=True)]
    first = [t - t // 2 if lower else t // 2 for t in total]
    padded = np.pad(x, [(0, 0), (0, 0), *[(f, t - f) for f, t in zip(first, total, strict=True)]])
    y = np.zeros((n, weight.shape[0], out_h, out_w))
    for i in range(out_h):
        for j in range(out_w):
            patch = padded[:, :, i * stride[0] : i * stride[0] + k[0], j * stride[1] : j * stride[1] + k[1]]
            y[:, :, i, j] = np.einsum("nchw,ochw->no", patch, weight)
    return y


CASES: list[Case] = [
    # activations
    unary("relu"),
    unary("relu6", X4 * 4),
    unary("sigmoid"),
    unary("softplus", X4 * 20),
    unary("softsign"),
    unary("tanh"),
    unary("silu", oracle=lambda x: x / (1 + np.exp(-x))),
    Case("leaky_relu", lambda c, x: mb.leaky_relu(x=x, alpha=c(0.125)), (X4,)),
    Case("elu", lambda c, x: mb.elu(x=x, alpha=c(0.75)), (X4,)),
    Case("clamped_relu", lambda c, x: mb.clamped_relu(x=x, alpha=c(0.25), beta=c(1.5)), (X4,)),
    Case("linear_activation", lambda c, x: mb.linear_activation(x=x, alpha=c(0.75), beta=c(-0.5)), (X4,)),
    Case("scaled_tanh", lambda c, x: mb.scaled_tanh(x=x, alpha=c(1.5), beta=c(0.75)), (X4,)),
    Case("sigmoid_hard", lambda c, x: mb.sigmoid_hard(x=x, alpha=c(0.25), beta=c(0.5)), (X4,)),
    Case(
        "thresholded_relu",
        lambda c, x: mb.thresholded_relu(x=x, alpha=c(0.5)),
        (X4,),
        lambda x: np.where(x >= 0.5, x, 0),
    ),
    Case("prelu", lambda c, x: mb.prelu(x=x, alpha=c(CHAN)), (X4,)),
    Case(
        "softplus_parametric",
        lambda c, x: mb.softplus_parametric(x=x, alpha=c(np.full(6, 0.5)), beta=c(np.full(6, 2.0))),
        (X4,),
    ),
    Case("softmax", lambda c, x: mb.softmax(x=x, axis=1), (X4,)),
    *(
        Case("gelu", lambda c, x, mode=mode: mb.gelu(x=x, mode=mode), (X4,), note=mode)
        for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
    ),
    # one operand
    *(
        unary(op)
        for op in ("abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "floor", "sign", "sin", "sinh", "square")
    ),
    *(unary(op, unit(3, 4)) for op in ("acos", "asin", "atanh", "tan")),
    unary("exp2", oracle=np.exp2),
    unary("sqrt", positive(3, 4)),
    unary("round", np.array([-2.5, -1.5, -0.5, 0.4, 0.5, 1.5, 2.5, 2.6], np.float32)),
    unary("identity"),
    Case("clip", lambda c, x: mb.clip(x=x, alpha=c(-0.5), beta=c(0.75)), (X4,)),
    Case("threshold", lambda c, x: mb.threshold(x=x, alpha=c(0.25)), (X4,)),
    Case("inverse", lambda c, x: mb.inverse(x=x, epsilon=c(0.0625)), (positive(3, 4),)),
    Case("log", lambda c, x: mb.log(x=x, epsilon=c(0.5)), (positive(3, 4),)),
    Case("rsqrt", lambda c, x: mb.rsqrt(x=x, epsilon=c(0.0625)), (positive(3, 4),)),
    Case("cast", lambda c, x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp32"), (X4 * 3,), np.trunc, note="int"),
    Case("cast", lambda c, x: mb.cast(x=x, dtype="bool"), (np.array([0, 0.5, -1, 0], np.float32),), note="bool"),
    Case("cast", lambda c, x: mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32"), (X4,), note="fp16"),
    # two operands, broadcast
    binary("add", X4, normal(6, 1, 7)),
    binary("sub", X4, normal(1)),
    binary("mul", X4, normal(2, 1, 5, 1)),
    binary("real_div", X4, positive(7)),
    binary("maximum", X4, normal(5, 1)),
    binary("minimum", X4, normal(5, 1)),
    binary("pow", positive(3, 4), normal(4)),
    binary("floor_div", X4 * 4, positive(7)),
    binary("mod", whole(-20, 20, 4, 5), whole(1, 7, 5)),
    *(
        binary(op, whole(0, 3, 4, 5).astype(np.float32), whole(0, 3, 5).astype(np.float32))
        for op in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
    ),
    *(logical(op) for op in ("logical_and", "logical_or", "logical_xor")),
    Case("logical_not", lambda c, x: mb.logical_not(x=mb.cast(x=x, dtype="bool")), (whole(0, 2, 4, 5),)),
    Case(
        "select",
        lambda c, x, y: mb.select(cond=mb.greater(x=x, y=y), a=x, b=y),
        (X4, normal(2, 6, 5, 7)),
        np.maximum,
    ),
    # matrices
    Case("linear", lambda c, x: mb.linear(x=x, weight=c(W33[:, :, 0, 0]), bias=c(B8)), (normal(3, 6),)),
    Case(
        "matmul",
        lambda c, x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
        (normal(2, 4, 3), normal(2, 5, 4)),
    ),
    Case(
        "einsum",
        lambda c, x, y: mb.einsum(values=(x, y), equation="nchw,nwhr->nchr"),
        (normal(1, 2, 3, 4), normal(1, 4, 3, 5)),
        lambda x, y: np.einsum("nchw,nwhr->nchr", x, y),
    ),
    # convolutions
    Case(
        "conv",
        lambda c, x: mb.conv(x=x, weight=c(W33), bias=c(B8), pad_type="custom", pad=[1, 1, 1, 1]),
        (X4,),
        lambda x: F.conv2d(tensor(x), tensor(half(W33)), tensor(half(B8)), padding=1),
        note="custom",
    ),
    Case(
        "conv",
        lambda c, x: mb.conv(x=x, weight=c(W33), pad_type="custom", pad=[2, 0, 1, 3], strides=[2, 1], dilations=[1, 2]),
        (X4,),
        lambda x: F.conv2d(F.pad(tensor(x), (1, 3, 2, 0)), tensor(half(W33)), stride=(2, 1), dilation=(1, 2)),
        note="uneven-strided-dilated",
    ),
    Case(
        "conv",
        lambda c, x: mb.conv(x=x, weight=c(W33[:6, :1]), pad_type="valid", groups=6),
        (X4,),
        lambda x: F.conv2d(tensor(x), tensor(half(W33[:6, :1])), groups=6),
        note="depthwise-valid",
    ),
    Case(
        "conv",
        lambda c, x: mb.conv(x=x, weight=c(W33), pad_type="same", strides=[2, 2]),
        (normal(1, 6, 8, 7),),
        lambda x: conv_same(x, half(W33), (2, 2), lower=False),
        note="same",
    ),
    Case(
        "conv",
        lambda c, x: mb.conv(x=x, weight=c(W33), pad_type="same_lower", strides=[2, 2]),
        (normal(1, 6, 8, 7),),
        lambda x: conv_same(x, half(W33), (2, 2), lower=True),
        note="same-lower",
    ),
    Case(
        "conv",
        lambda c, x: mb.conv(x=x, weight=c(W33[..., 0]), pad_type="valid"),
        (normal(2, 6, 9),),
        lambda x: F.conv1d(tensor(x), tensor(half(W33[..., 0]))),
        note="1d",
    ),
    Case(
        "conv_transpose",
        lambda c, x: mb.conv_transpose(
            x=x, weight=c(W33[:6]), bias=c(B8[:6]), pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 2]
        ),
        (X4,),
        lambda x: F.conv_transpose2d(tensor(x), tensor(half(W33[:6])), tensor(half(B8[:6])), stride=2, padding=1),
        note="custom",
    ),
    Case(
        "conv_transpose",
        lambda c, x: mb.conv_transpose(
            x=x,
            weight=c(W33[:6]),
            bias=c(B8[:6]),
            pad_type="custom",
            pad=[1, 1, 1, 1],
            strides=[2, 2],
            output_shape=[2, 6, 10, 14],
        ),
        (X4,),
        lambda x: F.conv_transpose2d(
            tensor(x), tensor(half(W33[:6])), tensor(half(B8[:6])), stride=2, padding=1, output_padding=1
        ),
        note="output-shape",
    ),
    Case(
        "conv_transpose",
        lambda c, x: mb.conv_transpose(x=x, weight=c(W33[:6, :2]), pad_type="valid", groups=3, dilations=[2, 1]),
        (X4,),
        lambda x: F.conv_transpose2d(tensor(x), tensor(half(W33[:6, :2])), groups=3, dilation=(2, 1)),
        note="grouped-dilated",
    ),
    # normalizations
    Case(
        "batch_norm",
        lambda c, x: mb.batch_norm(x=x, mean=c(MEAN), variance=c(VAR), gamma=c(GAMMA), beta=c(BETA), epsilon=c(0.0625)),
        (X4,),
        lambda x: F.batch_norm(
            tensor(x), tensor(half(MEAN)), tensor(half(VAR)), tensor(half(GAMMA)), tensor(half(BETA)), eps=0.0625
        ),
    ),
    Case(
        "instance_norm",
        lambda c, x: mb.instance_norm(x=x, gamma=c(GAMMA), beta=c(BETA), epsilon=c(0.0625)),
        (X4,),
        lambda x: F.instance_norm(tensor(x), weight=tensor(half(GAMMA)), bias=tensor(half(BETA)), eps=0.0625),
    ),
    Case(
        "layer_norm",
        lambda c, x: mb.layer_norm(x=x, axes=[1, 3], gamma=c(W33[:6, :, 0, 0].repeat(2, 1)[:, :7]), epsilon=c(0.0625)),
        (X4,),
        note="axes",
    ),
    Case("l2_norm", lambda c, x: mb.l2_norm(x=x, epsilon=c(0.0625)), (X4,)),
    Case(
        "local_response_norm",
        lambda c, x: mb.local_response_norm(x=x, size=3, alpha=c(0.5), beta=c(0.75), k=c(1.0)),
        (X4,),
        lambda x: (
            x
            / (1 + 0.5 / 3 * sum(np.pad(x**2, [(0, 0), (1, 1), (0, 0), (0, 0)])[:, i : i + 6] for i in range(3)))
            ** 0.75
        ),
    ),
    # pooling
    Case(
        "max_pool",
        lambda c, x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        (X4 - 5,),
        lambda x: F.max_pool2d(tensor(x), 3, 2, 1),
    ),
    Case(
        "max_pool",
        lambda c, x: mb.max_pool(
            x=x, kernel_sizes=[2, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True
        ),
        (X4,),
        lambda x: F.max_pool2d(tensor(x), (2, 3), 2, 1, ceil_mode=True),
        note="ceil",
    ),
    *(
        Case(
            "avg_pool",
            lambda c, x, ceil=ceil, exclude=exclude: mb.avg_pool(
                x=x,
                kernel_sizes=[3, 2],
                strides=[2, 2],
                pad_type="custom",
                pad=[1, 1, 1, 1],
                ceil_mode=ceil,
                exclude_padding_from_average=exclude,
            ),
            (X4,),
            lambda x, ceil=ceil, exclude=exclude: F.avg_pool2d(
                tensor(x), (3, 2), 2, 1, ceil_mode=ceil, count_include_pad=not exclude
            ),
            note=f"ceil-{ceil}-exclude-{exclude}",
        )
        for ceil in (False, True)
        for exclude in (False, True)
    ),
    Case(
        "l2_pool",
        lambda c, x: mb.l2_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"),
        (SQUARE,),
        lambda x: F.lp_pool2d(tensor(x), 2.0, 2, 2),
    ),
    # reductions
    *(
        case
        for op in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_l1_norm")
        for case in reduction(op)
    ),
    *(case for op in ("reduce_l2_norm", "reduce_sum_square", "reduce_log_sum_exp") for case in reduction(op)),
    *(case for op in ("reduce_log_sum", "reduce_prod") for case in reduction(op, positive(2, 3, 2))),
    Case("reduce_mean", lambda c, x: mb.reduce_mean(x=x, axes=[0]), (whole(-9, 9, 4, 5),), note="integers"),
    Case("reduce_argmax", lambda c, x: mb.reduce_argmax(x=x, axis=1, keep_dims=True), (UNSORTED,)),
    Case("reduce_argmin", lambda c, x: mb.reduce_argmin(x=x, axis=-1), (UNSORTED,)),
    # resampling
    *(
        Case(
            "resize_bilinear",
            lambda c, x, mode=mode, size=size: mb.resize_bilinear(
                x=x, target_size_height=size[0], target_size_width=size[1], sampling_mode=mode
            ),
            (SQUARE,),
            lambda x, mode=mode, size=size: resized(x, *size, PLACES[mode]),
            note=f"{mode}-{size[0]}x{size[1]}",
        )
        for mode in PLACES
        for size in ((12, 15), (4, 5))
    ),
    Case(
        "resize_bilinear",
        lambda c, x: mb.resize_bilinear(x=x, target_size_height=1, target_size_width=1, sampling_mode="ALIGN_CORNERS"),
        (SQUARE,),
        lambda x: x[..., 2:4, 2:4].mean((-1, -2), keepdims=True),
        note="to-one-pixel",
    ),
    *(
        Case(
            "upsample_bilinear",
            lambda c, x, aligned=aligned: mb.upsample_bilinear(
                x=x, scale_factor_height=np.float32(2.0), scale_factor_width=np.float32(3.0), align_corners=aligned
            ),
            (SQUARE,),
            lambda x, aligned=aligned: F.interpolate(
                tensor(x), scale_factor=(2, 3), mode="bilinear", align_corners=aligned
            ),
            note=f"align-{aligned}",
        )
        for aligned in (False, True)
    ),
    Case(
        "upsample_bilinear",
        lambda c, x: mb.upsample_bilinear(
            x=x,
            scale_factor_height=np.float32(2.5),
            scale_factor_width=np.float32(1.0),
            align_corners=False,
            half_pixel_centers=False,
        ),
        (SQUARE,),
        lambda x: resized(x, 15, 6, lambda i, n, m: i * n / m),
        note="neither",
    ),
    Case(
        "resize",
        lambda c, x: mb.resize(x=x, shape=[0, 9], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
        (SQUARE,),
        lambda x: F.interpolate(tensor(x), size=(6, 9), mode="bilinear", align_corners=False),
    ),
    Case(
        "resize",
        lambda c, x: mb.resize(x=x, shape=[12, 18], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
        (SQUARE,),
        lambda x: x.repeat(2, -2).repeat(3, -1),
        note="nearest",
    ),
    Case(
        "upsample_nearest_neighbor",
        lambda c, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        (SQUARE,),
        lambda x: x.repeat(2, -2).repeat(3, -1),
    ),
    Case(
        "resize_nearest_neighbor",
        lambda c, x: mb.resize_nearest_neighbor(x=x, target_size_height=4, target_size_width=9),
        (SQUARE,),
        lambda x: F.interpolate(tensor(x), size=(4, 9), mode="nearest-exact"),
    ),
    # layout
    Case("reshape", lambda c, x: mb.reshape(x=x, shape=[0, -1, 7, 3]), (X4,)),
    Case("transpose", lambda c, x: mb.transpose(x=x, perm=[0, 2, 3, 1]), (X4,)),
    Case("expand_dims", lambda c, x: mb.expand_dims(x=x, axes=[0, -1]), (normal(3, 4),)),
    Case("squeeze", lambda c, x: mb.squeeze(x=x, axes=[0, 2]), (normal(1, 3, 1, 1),)),
    Case("flatten2d", lambda c, x: mb.flatten2d(x=x, axis=2), (X4,)),
    Case("reverse", lambda c, x: mb.reverse(x=x, axes=[1, 3]), (X4,)),
    Case("tile", lambda c, x: mb.tile(x=x, reps=[1, 2, 1, 3]), (X4,)),
    Case(
        "concat",
        lambda c, x, y: mb.concat(values=(x, y), axis=1),
        (X4, normal(2, 3, 5, 7)),
        lambda x, y: np.concatenate([x, y], 1),
    ),
    Case(
        "concat",
        lambda c, x, y: mb.concat(values=(x, y), axis=0, interleave=True),
        (normal(3, 2), normal(3, 2)),
        lambda x, y: np.stack([x, y], 1).reshape(6, 2),
        note="interleave",
    ),
    Case("stack", lambda c, x, y: mb.stack(values=(x, y), axis=-1), (X4, X4 + 1), lambda x, y: np.stack([x, y], -1)),
    Case("split", lambda c, x: mb.split(x=x, split_sizes=[1, 4, 1], axis=1), (X4,)),
    Case("split", lambda c, x: mb.split(x=x, num_splits=3, axis=-3), (X4,), lambda x: np.split(x, 3, 1), note="even"),
    Case(
        "slice_by_index",
        lambda c, x: mb.slice_by_index(
            x=x,
            begin=[0, 1, 4, -1],
            end=[0, 6, 0, 0],
            stride=[1, 2, -2, 1],
            begin_mask=[True, False, False, False],
            end_mask=[True, False, False, False],
            squeeze_mask=[False, False, False, True],
        ),
        (X4,),
    ),
    Case("slice_by_size", lambda c, x: mb.slice_by_size(x=x, begin=[0, 1, -3, 2], size=[2, 3, 2, -1]), (X4,)),
    *(
        Case(
            "pad", lambda c, x, mode=mode: mb.pad(x=x, pad=[1, 0, 2, 3], mode=mode, constant_val=c(0)), (X4,), note=mode
        )
        for mode in ("constant", "reflect", "replicate")
    ),
    Case("pad", lambda c, x: mb.pad(x=x, pad=[0, 0, 1, 2, 0, 0, 1, 1], constant_val=c(0.5)), (X4,), note="channels"),
    Case("gather", lambda c, x: mb.gather(x=x, indices=[[3, 0], [1, 1]], axis=1), (X4,)),
    Case(
        "gather",
        lambda c, x: mb.gather(x=x, indices=np.array([[2, 0, 1], [0, 0, 4]], np.int32), axis=2, batch_dims=1),
        (normal(2, 3, 5),),
        lambda x: np.stack([x[0][:, [2, 0, 1]], x[1][:, [0, 0, 4]]]),
        note="batched",
    ),
    Case(
        "gather_along_axis",
        lambda c, x: mb.gather_along_axis(x=x, indices=np.array([[1, 0], [2, 2], [0, 1]], np.int32), axis=0),
        (normal(3, 2),),
        lambda x: np.take_along_axis(x, np.array([[1, 0], [2, 2], [0, 1]]), 0),
    ),
    Case(
        "pixel_shuffle",
        lambda c, x: mb.pixel_shuffle(x=x, upscale_factor=2),
        (SQUARE,),
        lambda x: x.reshape(1, 2, 2, 2, 6, 6).transpose(0, 1, 4, 2, 5, 3).reshape(1, 2, 12, 12),
    ),
    Case(
        "pixel_unshuffle",
        lambda c, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
        (SQUARE,),
        lambda x: x.reshape(1, 8, 3, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(1, 32, 3, 3),
    ),
    # The worked example of ReorganizeDataLayerParams in Core ML's NeuralNetwork.proto, in both directions.
    Case(
        "depth_to_space",
        lambda c, x: mb.depth_to_space(x=x, block_size=2),
        (np.arange(1, 17, dtype=np.float32).reshape(1, 8, 1, 2),),
        lambda x: np.array([[[[1, 5, 2, 6], [9, 13, 10, 14]], [[3, 7, 4, 8], [11, 15, 12, 16]]]]),
    ),
    Case(
        "space_to_depth",
        lambda c, x: mb.space_to_depth(x=x, block_size=2),
        (np.array([[[[1, 5, 2, 6], [9, 13, 10, 14]], [[3, 7, 4, 8], [11, 15, 12, 16]]]], np.float32),),
        lambda x: np.arange(1, 17).reshape(1, 8, 1, 2),
    ),
    Case("cumsum", lambda c, x: mb.cumsum(x=x, axis=1), (normal(3, 4),)),
    Case(
        "cumsum",
        lambda c, x: mb.cumsum(x=x, axis=1, exclusive=True, reverse=True),
        (np.array([[1, 2, 4]], np.float32),),
        lambda x: np.array([[6, 4, 0]]),
        note="exclusive-reverse",
    ),
    Case("shape", lambda c, x: mb.shape(x=x), (X4,), lambda x: np.array([2, 6, 5, 7])),
    Case("fill", lambda c, x: mb.mul(x=x, y=mb.fill(shape=[5, 7], value=c(0.25))), (X4,), lambda x: x / 4),
    Case(
        "range_1d",
        lambda c, x: mb.add(x=x, y=mb.range_1d(start=c(1.0), end=c(4.0), step=c(0.5))),
        (normal(2, 6),),
        lambda x: x + np.arange(1, 4, 0.5),
    ),
    # quantization
    Case(
        "quantize",
        lambda c, x: mb.quantize(input=x, scale=c(0.03125), zero_point=np.int8(-20), output_dtype="int8"),
        (X4 * 2,),
        lambda x: quantize_oracle(x, 0.03125, -20, -128, 127),
    ),
    Case(
        "quantize",
        lambda c, x: mb.quantize(
            input=x, scale=c(CHAN / 64), zero_point=np.arange(6, dtype=np.uint8) * 20, axis=1, output_dtype="uint8"
        ),
        (X4,),
        lambda x: quantize_oracle(
            x, half(CHAN / 64).reshape(1, 6, 1, 1), np.arange(6).reshape(1, 6, 1, 1) * 20, 0, 255
        ),
        note="per-channel",
    ),
    Case(
        "dequantize",
        lambda c, x: mb.dequantize(input=mb.cast(x=x, dtype="int8"), scale=c(0.03125), zero_point=np.int8(127)),
        (whole(-128, 128, 4, 5),),
        lambda x: 0.03125 * (x - 127),
    ),
    Case(
        "dequantize",
        lambda c, x: mb.dequantize(
            input=mb.cast(x=x, dtype="uint8"), scale=c(CHAN), zero_point=np.arange(6, dtype=np.uint8) * 20, axis=0
        ),
        (whole(0, 256, 6, 5),),
        lambda x: half(CHAN)[:, None] * (x - np.arange(6)[:, None] * 20),
        note="per-channel",
    ),
    with_zero(
        lambda c: mb.constexpr_affine_dequantize(
            quantized_data=QUANTIZED, zero_point=np.array([-128, 5, 0, 127], np.int8), scale=c(CHAN[:4]), axis=0
        ),
        "iOS16",
        lambda: half(CHAN[:4])[:, None] * (QUANTIZED.astype(float) - np.array([-128, 5, 0, 127])[:, None]),
        "constexpr_affine_dequantize",
    ),
    with_zero(
        lambda c: mb.constexpr_lut_to_dense(
            indices=packed(BITS, 2), lut=c(LUT4[0, 0, :, 0]), shape=np.array([3, 5], np.uint32)
        ),
        "iOS16",
        lambda: half(LUT4)[0, 0, BITS, 0].reshape(3, 5),
        "constexpr_lut_to_dense",
        "iOS16",
    ),
    with_zero(
        lambda c: mb.constexpr_sparse_to_dense(
            nonzero_data=c(SPARSE_DATA), mask=packed(SPARSE_MASK.reshape(-1), 1), shape=np.array([4, 4], np.uint32)
        ),
        "iOS16",
        lambda: np.array([[10, 11, 0, 0], [3, 4, 5, 0], [0, 0, 6, 7], [8, 9, 0, 0]]),
        "constexpr_sparse_to_dense",
        "iOS16",
    ),
    with_zero(
        lambda c: mb.constexpr_blockwise_shift_scale(
            data=QUANTIZED, scale=c(LUT4[:, :, 0, 0]), offset=np.array([[-128, 127, 3], [0, 1, -2]], np.int8)
        ),
        "iOS18",
        lambda: (
            spread(half(LUT4)[:, :, 0, 0], (4, 6))
            * (QUANTIZED.astype(float) - spread(np.array([[-128, 127, 3], [0, 1, -2]]), (4, 6)))
        ),
        "constexpr_blockwise_shift_scale",
    ),
    with_zero(
        lambda c: mb.constexpr_lut_to_dense(indices=uint(LUT_INDICES, 2), lut=c(LUT4)),
        "iOS18",
        lambda: lut_by_loops(LUT_INDICES, half(LUT4), None),
        "constexpr_lut_to_dense",
        "iOS18-groups",
    ),
    with_zero(
        lambda c: mb.constexpr_lut_to_dense(indices=uint(LUT_INDICES, 2), lut=c(LUT_VECTOR), vector_axis=0),
        "iOS18",
        lambda: lut_by_loops(LUT_INDICES, half(LUT_VECTOR), 0),
        "constexpr_lut_to_dense",
        "iOS18-vectors",
    ),
    with_zero(
        lambda c: mb.constexpr_sparse_to_dense(nonzero_data=c(SPARSE_DATA), mask=uint(SPARSE_MASK, 1)),
        "iOS18",
        lambda: np.array([[10, 11, 0, 0], [3, 4, 5, 0], [0, 0, 6, 7], [8, 9, 0, 0]]),
        "constexpr_sparse_to_dense",
        "iOS18",
    ),
    with_zero(
        lambda c: sparse_to_dense(
            mb.constexpr_sparse_blockwise_shift_scale(
                data_mask=uint(SPARSE_MASK, 1),
                nonzero_data=SPARSE_DATA,
                scale=c(np.array([[0.125, 0.25, 0.5, 1]])),
                offset=np.array([[1, 2, 3, 4]], np.int8),
            )
        ),
        "iOS18",
        lambda: np.array([[1.125, 2.25, 0, 0], [0.25, 0.5, 1, 0], [0, 0, 1.5, 3], [0.875, 1.75, 0, 0]]),
        "constexpr_sparse_blockwise_shift_scale",
    ),
    with_zero(
        lambda c: sparse_to_dense(
            mb.constexpr_lut_to_sparse(
                indices_mask=uint(SPARSE_MASK, 1),
                indices_nonzero_data=uint([0, 1, 1, 0, 1, 1, 0, 0, 1], 1),
                lut=c(np.array([2.0, 3.0]).reshape(1, 1, 2, 1)),
            )
        ),
        "iOS18",
        lambda: np.array([[2, 3, 0, 0], [3, 2, 3, 0], [0, 0, 3, 2], [2, 3, 0, 0]]),
        "constexpr_lut_to_sparse",
    ),
    with_zero(
        lambda c: sparse_to_dense(
            mb.constexpr_lut_to_sparse(
                indices_mask=uint([[1, 0], [0, 1]], 1),
                indices_nonzero_data=uint([0, 1], 1),
                lut=c(np.array([[2.0, 4.0], [3.0, 5.0]]).reshape(1, 1, 2, 2)),
                vector_axis=0,
            )
        ),
        "iOS18",
        lambda: np.array([[2, 0], [4, 0], [0, 3], [0, 5]]),
        "constexpr_lut_to_sparse",
        "vectors",
    ),
    Case(
        "constexpr_cast",
        lambda c, x: mb.add(
            x=mb.cast(x=x, dtype="fp32"), y=mb.constexpr_cast(source_val=X4.astype(np.float16), output_dtype="fp32")
        ),
        (np.zeros_like(X4),),
        lambda x: X4.astype(np.float16),
        "iOS16",
    ),
]


def expected(case: Case, fp16: bool) -> list[np.ndarray]:
    """The oracle's results in float64, before the last rounding."""
    _HALF["on"] = fp16
    inputs = [x if x.dtype == np.int32 else half(x) for x in case.inputs]
    if case.oracle is not None:
        result = case.oracle(*[x.astype(np.float64) for x in inputs])
    else:
        result = None

        def program() -> Any:
            nonlocal result
            constants = [mb.const(val=x if x.dtype == np.int32 else x.astype(np.float32)) for x in inputs]
            made = case.build(lambda value: half(value).astype(np.float32), *constants)
            result = [var.val for var in made] if isinstance(made, list | tuple) else made.val
            return mb.const(val=np.float32(0))

        mb.program(input_specs=[], opset_version=getattr(ct.target, case.target))(program)
        assert result is not None, "coremltools evaluates no such operator: give the case an oracle"
    return [np.asarray(one, dtype=np.float64) for one in (result if isinstance(result, list | tuple) else [result])]


def save(case: Case, fp16: bool, folder: Path) -> Path:
    """The case's program as a package; results that are no legal output of a package are cast to int32."""
    dtype = types.fp16 if fp16 else types.fp32
    specs = [mb.TensorSpec(x.shape, dtype=types.int32 if x.dtype == np.int32 else dtype) for x in case.inputs]

    def output(var: Any) -> Any:
        legal = (types.fp16, types.fp32, types.int32)
        return mb.identity(x=var) if var.dtype in legal else mb.cast(x=var, dtype="int32")

    def body(*inputs: Any) -> Any:
        made = case.build(lambda value: np.asarray(value).astype(np.float16 if fp16 else np.float32), *inputs)
        return tuple(output(var) for var in made) if isinstance(made, list | tuple) else output(made)

    # coremltools counts the parameters
    by_count = {1: lambda a: body(a), 2: lambda a, b: body(a, b)}  # noqa: PLW0108
    program = mb.program(input_specs=specs, opset_version=getattr(ct.target, case.target))(by_count[len(specs)])
    model = ct.convert(
        program,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=getattr(ct.target, case.target),
        pass_pipeline=ct.PassPipeline.EMPTY,
    )
    path = folder / "one.mlpackage"
    model.save(str(path))
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_operator_read_from_a_saved_package_agrees_with_an_independent_oracle(
    case: Case, precision: str, tmp_path: Path
) -> None:
    fp16 = precision == "fp16"
    model = mil.load(save(case, fp16, tmp_path))
    assert case.operator in model.operators

    results = model.predict(dict(zip([feature.name for feature in model.inputs], case.inputs, strict=True)))

    for feature, want in zip(model.outputs, expected(case, fp16), strict=True):
        have = results[feature.name].astype(np.float64)
        assert have.shape == want.shape
        if results[feature.name].dtype == np.int32:
            np.testing.assert_array_equal(have, want)
        elif results[feature.name].dtype == np.float16:
            # one unit in the last place: a float32 sum may fall on the other side of a tie
            np.testing.assert_allclose(have, want.astype(np.float16), rtol=FP16_ULP, atol=FP16_ULP * 2**-6)
        else:
            scale = max(1.0, float(np.abs(want).max(initial=0)))
            np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-6 * scale)


def test_every_operator_of_the_table_has_a_case() -> None:
    assert {case.operator for case in CASES} == set(mil.supported_operators())
