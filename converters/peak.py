"""How many multiply-accumulates a runtime can do in a second here: the best of a few large matrix products.

A processor's advertised peak says little on a shared virtual machine. A large GEMM in the same runtime, with the same
threads and in turns with the network, is what the runtime's own kernels can do at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from converters.peers import Contestant, Performance, Ratio, Role, spread
from converters.to_executorch import lower
from converters.to_onnx import save, trace
from converters.to_tflite import convert_as_is
from sdk.files import write_atomically
from sdk.spec import DType, IOSpec, Layout, Precision, TensorSpec

#: Rows x inputs x outputs of the products. Square, as is customary, and two with more work for every number that the
#: binding copies in and out.
SHAPES = ((1024, 1024, 1024), (512, 2048, 2048), (256, 2048, 4096))


def _write_onnx(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    save(trace(module, inputs), path, {"name": "gemm"})


def _write_tflite(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    write_atomically(path, convert_as_is(module, inputs))


def _write_pte(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    write_atomically(path, lower(module, inputs))


#: Runtime to the suffix of its files and what writes one: every runtime whose peak can be measured.
WRITERS: dict[str, tuple[str, Callable[[nn.Module, tuple[Tensor, ...], Path], None]]] = {
    "onnxruntime": ("onnx", _write_onnx),
    "litert": ("tflite", _write_tflite),
    "executorch": ("pte", _write_pte),
}


def gemm_contestant(runtime: str, shape: tuple[int, int, int], folder: Path) -> Contestant:
    """Writes the product of a ``rows x inputs`` matrix with a constant ``inputs x outputs`` one, float32.

    Args:
        runtime: a key of ``WRITERS``.
        shape: rows, inputs, outputs.
        folder: where the file goes.
    """
    rows, inputs, outputs = shape
    suffix, write = WRITERS[runtime]
    name = "x".join(map(str, shape))
    path = folder / f"gemm_{name}.{suffix}"
    module = nn.Linear(inputs, outputs, bias=False).eval().requires_grad_(False)
    write(module, (torch.zeros(rows, inputs),), path)
    return Contestant(
        name=name,
        role=Role.GEMM,
        runtime=runtime,
        precision=Precision.FP32,
        path=path,
        io=IOSpec(image=_matrix("image", rows, inputs), output=_matrix("cartoon", rows, outputs)),
        macs=rows * inputs * outputs,
    )


def peak_gmac_per_s(gemms: Sequence[Performance]) -> Ratio:
    """The peak of one runtime in 1e9 multiply-accumulates a second: in every round, the best of its products."""
    return spread(_best(gemms, turn) / 1e6 for turn in range(len(gemms[0].round_p50_ms)))


def peak_share(performance: Performance, gemms: Sequence[Performance]) -> Ratio:
    """The share of the peak that a network reaches, round by round: ``(macs / time) / max(macs / time of a product)``.

    Args:
        performance: of the network.
        gemms: of the products in the same runtime and race, at least one.
    """
    return spread(performance.macs / ms / _best(gemms, turn) for turn, ms in enumerate(performance.round_p50_ms))


def _best(gemms: Sequence[Performance], turn: int) -> float:
    """Multiply-accumulates a millisecond of the quickest product in one round."""
    return max(gemm.macs / gemm.round_p50_ms[turn] for gemm in gemms)


def _matrix(name: str, rows: int, columns: int) -> TensorSpec:
    return TensorSpec(name=name, layout=Layout.NS, dtype=DType.FLOAT32, shape=(rows, columns))
