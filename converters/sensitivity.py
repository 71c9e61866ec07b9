"""Which layers int8 costs most, and which stay in float: ``python -m converters.sensitivity``.

A layer's sensitivity is the SSIM that is lost when it alone is int8. It says where to look, and no more: a tensor
between two layers is spared its rounding only when both are in float, so what a set of layers is worth is measured for
the set. All is measured on calibration photos, in PyTorch (``converters.simulation``), and holds for every target.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from converters.calibration import DEFAULT_PHOTOS, MIN_PHOTOS, CalibrationSet, load_calibration
from converters.equalize import equalize
from converters.graph import DeployGraph, deployable, example_inputs, require_int8
from converters.ranges import RangeMethod
from converters.simulation import Simulation, simulate
from sdk.errors import ToonEdgeError
from sdk.metrics import psnr_db, ssim
from sdk.spec import parse_size, style_weights
from sdk.verify import Gate
from training.checkpoint import PRETRAINED, load_checkpoint

#: Most of the multiply-accumulates that may stay in float: beyond it, int8 is not worth its name.
BUDGET = 0.1
#: Photos that a set of layers is judged by, each in every style.
PHOTOS = 4
#: Layers that are tried in each round of a choice, the most sensitive first.
_TRIED = 12
#: Most layers that are left in float.
_MOST = 8


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One layer.

    Attributes:
        layer: module path in the deployed graph.
        lost: 1 - mean SSIM, when it alone is int8.
        macs: its share of all multiply-accumulates, [0, 1].
    """

    layer: str
    lost: float
    macs: float


@dataclass(frozen=True, kw_only=True)
class FloatChoice:
    """Layers to leave in float, and what int8 comes to with them on the photos it was judged by.

    Attributes:
        layers: module paths, sorted; empty when int8 meets the gate by itself.
        macs: their share of all multiply-accumulates, [0, 1].
        mean, worst: SSIM of the style that is nearest to its bar, or furthest below it.
        psnr_db: mean PSNR of that style.
        margin: how far that style is above its bars, the least of them, in SSIM; 1 dB counts as 0.01 of SSIM.
    """

    layers: tuple[str, ...]
    macs: float
    mean: float
    worst: float
    psnr_db: float
    margin: float

    @property
    def meets(self) -> bool:
        """Whether the gate is met."""
        return self.margin >= 0


class _Judge:
    """Compares a simulation with float pictures, photo by photo in every style."""

    def __init__(self, graph: DeployGraph, calibration: CalibrationSet, photos: int, ranges: RangeMethod) -> None:
        samples = list(calibration.tensors(baked=graph.baked))
        styles = max(1, graph.styles)
        # The pairs come with the styles taking turns, so the first ones show each style as often.
        self.simulation: Simulation = simulate(equalize(graph, calibration), samples, ranges=ranges)
        self._styles = styles
        self._inputs = samples[: photos * styles]
        self._wanted = draw(graph, self._inputs)

        self._macs = count_layer_macs(graph, calibration.size)

    def share(self, layers: Collection[str]) -> float:
        """The share of all multiply-accumulates that is in some layers, [0, 1]."""
        return share_of_macs(self._macs, layers)

    def ssim(self) -> np.ndarray:
        """SSIM as ``styles x photos``, with what is switched on."""
        return self._figures()[0]

    def _figures(self) -> np.ndarray:
        """SSIM and PSNR in dB as ``2 x styles x photos``, with what is switched on."""
        have = draw(self.simulation.module, self._inputs)
        values = [(ssim(*pair), psnr_db(*pair)) for pair in zip(have, self._wanted, strict=True)]
        return np.array(values).T.reshape(2, -1, self._styles).swapaxes(1, 2)

    def judge(self, layers: Collection[str], gate: Gate) -> FloatChoice:
        """int8 with some layers in float."""
        self.simulation.keep_float(layers)
        likeness, peaks = self._figures()
        means, worsts, levels = likeness.mean(1), likeness.min(1), peaks.mean(1)
        margins = [_margin(*figures, gate) for figures in zip(means, worsts, levels, strict=True)]
        nearest = int(np.argmin(margins))
        return FloatChoice(
            layers=tuple(sorted(layers)),
            macs=self.share(layers),
            mean=float(means[nearest]),
            worst=float(worsts[nearest]),
            psnr_db=float(levels[nearest]),
            margin=margins[nearest],
        )

    def sensitivities(self, layers: Sequence[str]) -> list[Sensitivity]:
        """Of some layers, the most sensitive first."""
        found = []
        for layer in layers:
            self.simulation.quantize_only([layer])
            found.append(Sensitivity(layer=layer, lost=1 - float(self.ssim().mean()), macs=self.share([layer])))
        return sorted(found, key=lambda one: -one.lost)


def measure_sensitivity(
    graph: DeployGraph,
    calibration: CalibrationSet,
    *,
    photos: int = PHOTOS,
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
) -> list[Sensitivity]:
    """Every layer's sensitivity, the highest first.

    Args:
        graph: from ``converters.graph.deployable``; running statistics.
        calibration: photos and styles.
        photos: how many of them SSIM is taken of, each in every style.
        ranges: as for ``converters.quantize.quantize``.

    Raises:
        UsageError: a network on instance statistics.
    """
    require_int8(graph)
    judge = _Judge(graph, calibration, photos, ranges)
    return judge.sensitivities(judge.simulation.layers)


def choose_float_layers(
    graph: DeployGraph,
    calibration: CalibrationSet,
    gate: Gate,
    *,
    budget: float = BUDGET,
    photos: int = PHOTOS,
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
) -> FloatChoice:
    """Few layers that, left in float, let int8 meet a gate; none when it meets the gate without.

    Greedy: of the most sensitive layers that the budget has room for, the one that brings the set nearest to the gate
    joins it, or the pair of neighbours when no single layer helps, until the gate is met; then whatever turned out not
    to be needed leaves it again. Sensitivities are measured only when int8 misses the gate by itself.

    Args:
        graph: from ``converters.graph.deployable``; running statistics.
        calibration: photos and styles.
        gate: bars on the SSIM and PSNR of each style; what it says of max-abs is not judged.
        budget: most of the multiply-accumulates that may be in float, [0, 1].
        photos: how many the sets are judged by, each in every style.
        ranges: as for ``converters.quantize.quantize``.

    Returns:
        The choice; when no set within the budget meets the gate, the one that comes nearest to it.

    Raises:
        UsageError: a network on instance statistics.
    """
    require_int8(graph)
    judge = _Judge(graph, calibration, photos, ranges)
    best = judge.judge((), gate)
    if best.meets:
        return best
    layers = judge.simulation.layers
    ranked = [one.layer for one in judge.sensitivities([layer for layer in layers if judge.share([layer]) <= budget])]
    while not best.meets and len(best.layers) < _MOST:
        better = _best_addition(judge, best, ranked, gate, budget)
        if better is None:
            break
        best = better
    for layer in best.layers:
        fewer = judge.judge([kept for kept in best.layers if kept != layer], gate)
        if fewer.meets or fewer.margin >= best.margin:
            best = fewer
    return best


def _best_addition(
    judge: _Judge, best: FloatChoice, ranked: Sequence[str], gate: Gate, budget: float
) -> FloatChoice | None:
    """The nearest to the gate with one layer more, or with two neighbours more; ``None`` when none is nearer."""
    unused = [layer for layer in ranked if layer not in best.layers]
    neighbours = [pair for pair in itertools.combinations(unused[:_TRIED], 2) if judge.simulation.touch(*pair)]
    for additions in ([(layer,) for layer in unused], neighbours):
        sets = [(*best.layers, *addition) for addition in additions]
        fitting = [layers for layers in sets if judge.share(layers) <= budget]
        tried = [judge.judge(layers, gate) for layers in fitting[:_TRIED]]
        better = max(tried, key=lambda choice: choice.margin, default=best)
        if better.margin > best.margin:
            return better
    return None


def count_layer_macs(graph: DeployGraph, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of every convolution of a graph, by module path, for one picture of (height, width)."""
    found: dict[str, int] = {}
    paths = {module: path for path, module in graph.named_modules() if isinstance(module, nn.Conv2d)}

    def add(module: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)  # hooks are registered on convolutions only
        found[paths[module]] = module.weight[0].numel() * output.numel()

    hooks = [module.register_forward_hook(add) for module in paths]
    try:
        with torch.no_grad():
            graph(*example_inputs(graph, size))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def share_of_macs(macs: Mapping[str, int], layers: Collection[str]) -> float:
    """The share, [0, 1], of multiply-accumulates (``count_layer_macs``) that is in some layers or in parts of them."""
    inside = sum(
        count for path, count in macs.items() if any(path == layer or path.startswith(f"{layer}.") for layer in layers)
    )
    return inside / sum(macs.values())


def _margin(mean: float, worst: float, psnr_db: float, gate: Gate) -> float:
    """See ``FloatChoice.margin``."""
    bars = ((mean, gate.ssim_mean, 1.0), (worst, gate.ssim_worst, 1.0), (psnr_db, gate.psnr_mean, 0.01))
    return min((float(value - bar) * unit for value, bar, unit in bars if bar is not None), default=0.0)


def draw(module: nn.Module, inputs: Sequence[tuple[Tensor, ...]]) -> list[np.ndarray]:
    """``H x W x 3`` pictures of a module that gives ``1 x 3 x H x W``."""
    with torch.no_grad():
        return [module(*given)[0].numpy().transpose(1, 2, 0) for given in inputs]


def main(
    *,
    checkpoint: Annotated[Path, typer.Option(help="A .safetensors file.")] = PRETRAINED,
    style: Annotated[str | None, typer.Option(help="Bake this style.  [default: every style in one graph]")] = None,
    calibration: Annotated[Path, typer.Option(help="At least 16 photos.")] = DEFAULT_PHOTOS,
    photos: Annotated[int, typer.Option(min=1, help="Photos that SSIM is taken of, each in every style.")] = PHOTOS,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
    mean: Annotated[float | None, typer.Option(help="A bar for every style's mean SSIM: choose float layers.")] = None,
    worst: Annotated[float | None, typer.Option(help="A bar for every style's worst SSIM.")] = None,
    size: Annotated[str, typer.Option(help="HxW.")] = "256x256",
) -> None:
    """What int8 costs layer by layer; with a bar, which layers stay in float to meet it."""
    try:
        loaded = load_checkpoint(checkpoint)
        weights = None if style is None else style_weights(style, loaded.info.styles)
        graph = deployable(loaded.generator, style=weights)
        shape, rows = parse_size(size), len(loaded.info.styles)
        pictures = load_calibration(calibration, size=shape, styles=rows, style=weights, photos_per_style=MIN_PHOTOS)
        if mean is not None or worst is not None:
            choice = choose_float_layers(graph, pictures, Gate(ssim_mean=mean, ssim_worst=worst), photos=photos)
            Console().print(
                f"{'met' if choice.meets else 'missed'} with {', '.join(choice.layers) or 'no layer'} in float "
                f"({choice.macs:.1%} of the multiply-accumulates): mean {choice.mean:.4f}, worst {choice.worst:.4f}",
                highlight=False,
            )
            return
        found = measure_sensitivity(graph, pictures, photos=photos)
    except ToonEdgeError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from None
    table = Table(
        title=f"SSIM lost when a layer alone is int8, {photos} photos x {max(1, graph.styles)} styles, {size}"
    )
    for column in ("layer", "SSIM lost", "MACs"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for row in itertools.islice(found, limit):
        table.add_row(row.layer, f"{row.lost:.5f}", f"{row.macs:.1%}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
