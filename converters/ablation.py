"""What each step of int8 is worth: ``python -m converters.ablation``, the table of ``docs/int8.md``.

Every row quantizes the same multi-style graph with the same calibration photos in its own way; its pictures, drawn by
the quantized graph in PyTorch, are compared with those of the float network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from converters.bias import correct_bias
from converters.calibration import DEFAULT_PHOTOS, CalibrationSet, load_calibration
from converters.equalize import equalize
from converters.graph import DeployGraph, deployable
from converters.quantize import quantize_module
from converters.ranges import RangeMethod
from sdk.errors import ToonEdgeError
from sdk.imaging import list_photos
from sdk.metrics import ssim
from sdk.spec import parse_size
from sdk.verify import load_photos
from training.checkpoint import PRETRAINED, load_checkpoint


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to quantize and what it gave: SSIM to the float network over all photos and styles."""

    name: str
    mean: float
    worst: float


def stock(graph: DeployGraph, calibration: CalibrationSet) -> nn.Module:
    """PT2E with ExecuTorch's own quantizer for XNNPACK: per channel, its default observers."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    samples = list(calibration.tensors(baked=graph.baked))
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(graph, samples[0]).module(), quantizer)
        for inputs in samples:
            prepared(*inputs)
        module: nn.Module = convert_pt2e(prepared)
    return module


def own(
    ranges: RangeMethod, *, equalized: bool, corrected: bool = False
) -> Callable[[DeployGraph, CalibrationSet], nn.Module]:
    """Our quantizer, with ranges taken after the activation; ``corrected``: biases as well (``converters.bias``)."""

    def quantize(graph: DeployGraph, calibration: CalibrationSet) -> nn.Module:
        prepared = equalize(graph, calibration) if equalized else graph
        prepared = correct_bias(prepared, calibration, ranges=ranges) if corrected else prepared
        return quantize_module(prepared, calibration.tensors(baked=graph.baked), ranges=ranges)

    return quantize


WAYS: dict[str, Callable[[DeployGraph, CalibrationSet], nn.Module]] = {
    "stock XNNPACKQuantizer, per channel": stock,
    "ranges after the activation, min-max": own(RangeMethod.MIN_MAX, equalized=False),
    "+ equalization, min-max": own(RangeMethod.MIN_MAX, equalized=True),
    "least squares without equalization": own(RangeMethod.LEAST_SQUARES, equalized=False),
    "equalization and least squares": own(RangeMethod.LEAST_SQUARES, equalized=True),
    "equalization and percentile": own(RangeMethod.PERCENTILE, equalized=True),
    "equalization, least squares, bias correction": own(RangeMethod.LEAST_SQUARES, equalized=True, corrected=True),
}


def compare_ways(graph: DeployGraph, calibration: CalibrationSet, photos: np.ndarray) -> list[Row]:
    """Quantizes in every way and compares.

    Args:
        graph: multi-style, from ``converters.graph.deployable``.
        calibration: photos with every style.
        photos: ``P x H x W x 3``, RGB, [0, 1], of the size of the calibration.
    """
    images = torch.from_numpy(np.ascontiguousarray(photos.transpose(0, 3, 1, 2)))
    inputs = [(images[i : i + 1], row[None]) for i in range(len(images)) for row in torch.eye(graph.styles)]
    want = _draw(graph, inputs)
    rows = []
    for name, quantize in WAYS.items():
        have = _draw(quantize(graph, calibration), inputs)
        values = [ssim(*pair) for pair in zip(have, want, strict=True)]
        rows.append(Row(name=name, mean=float(np.mean(values)), worst=min(values)))
    return rows


def _draw(module: nn.Module, inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[np.ndarray]:
    with torch.no_grad():
        return [module(*pair)[0].numpy().transpose(1, 2, 0) for pair in inputs]


def main(
    checkpoint: Annotated[Path, typer.Option(help="A .safetensors file.")] = PRETRAINED,
    photos: Annotated[Path, typer.Option(help="Photos to compare on.")] = DEFAULT_PHOTOS.parent / "test",
    limit: Annotated[int, typer.Option(min=1, help="At most this many photos, evenly spaced.")] = 8,
    calibration: Annotated[Path, typer.Option(help="At least 16 photos.")] = DEFAULT_PHOTOS,
    size: Annotated[str, typer.Option(help="HxW.")] = "256x256",
) -> None:
    """SSIM of int8 to the float network, quantized in several ways."""
    try:
        loaded = load_checkpoint(checkpoint)
        found = list_photos(photos)
        chosen = found[:: max(1, len(found) // limit)][:limit]
        shape = parse_size(size)
        graph = deployable(loaded.generator)
        rows = compare_ways(
            graph, load_calibration(calibration, size=shape, styles=graph.styles), load_photos(chosen, shape)
        )
    except ToonEdgeError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from None
    table = Table(title=f"SSIM to float, {len(chosen)} photos x {graph.styles} styles, {size}")
    for column in ("int8", "mean", "worst"):
        table.add_column(column, justify="left" if column == "int8" else "right")
    for row in rows:
        table.add_row(row.name, f"{row.mean:.4f}", f"{row.worst:.4f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
