"""The benchmark's pictures: latency against size, SSIM against bytes, how many times faster than a baseline."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from converters.figures import NOT_A_PHONE, Figures
from converters.peers import BASELINE, Performance, Role
from sdk.errors import MissingRuntimeError
from sdk.files import disk_trouble

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that people with any colour vision can tell apart (Okabe and Ito 2008).
_COLOURS = {"onnxruntime": "#0072B2", "litert": "#D55E00", "executorch": "#009E73", "coreml": "#CC79A7"}
_GREY = "#8c8c8c"
_NAMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT", "executorch": "ExecuTorch", "coreml": "Core ML"}
_BACKENDS = {"ort": "onnxruntime", "xnnpack": "executorch", "litert": "litert", "mlprogram": "coreml"}
_DPI = 130


def write_plots(figures: Figures, folder: Path) -> tuple[str, ...]:
    """Draws what there are figures for, as PNG; returns the names of the files.

    Raises:
        MissingRuntimeError: matplotlib is not installed.
        FileTroubleError: when the disk says no.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingRuntimeError.for_extra("drawing the plots", "matplotlib", "report") from None
    drawings: tuple[tuple[str, bool, Callable[[Figure, Figures], None]], ...] = (
        ("latency_against_size.png", len(figures.growth) > 1, _draw_growth),
        ("ssim_against_bytes.png", bool(figures.quality), _draw_quality),
        ("times_faster.png", figures.baseline(BASELINE) is not None, _draw_ratios),
    )
    written = []
    for name, there, draw in drawings:
        if not there:
            continue
        figure = Figure(layout="constrained")
        draw(figure, figures)
        with disk_trouble("write", folder / name):
            folder.mkdir(parents=True, exist_ok=True)
            # Without the library's version in it, the same figures give the same bytes.
            figure.savefig(folder / name, dpi=_DPI, metadata={"Software": None})
        written.append(name)
    return tuple(written)


def _draw_growth(figure: Figure, figures: Figures) -> None:
    from matplotlib.ticker import LogFormatter

    figure.set_size_inches(7.5, 5.2)
    axes = figure.subplots()
    for runtime in dict.fromkeys(point.runtime for point in figures.growth):
        points = figures.growth_in(runtime)
        sides = [(p.size[0] * p.size[1]) ** 0.5 for p in points]
        low = [p.median_ms - min(p.round_p50_ms) for p in points]
        high = [max(p.round_p50_ms) - p.median_ms for p in points]
        colour = _COLOURS.get(runtime, _GREY)
        axes.errorbar(
            sides, [p.median_ms for p in points], yerr=[low, high], color=colour, marker="o", markersize=5, capsize=3,
            linewidth=1.5, label=f"{_NAMES.get(runtime, runtime)} fp32",
        )  # fmt: skip
        first = points[0]
        as_pixels = [first.median_ms * (p.size[0] * p.size[1]) / (first.size[0] * first.size[1]) for p in points]
        axes.plot(sides, as_pixels, color=colour, linestyle="--", linewidth=1, alpha=0.7)
        for side, point in zip(sides, points, strict=True):
            axes.annotate(
                f"{point.median_ms:.3g}", (side, point.median_ms), xytext=(6, -12), textcoords="offset points",
                color=colour, fontsize=9,
            )  # fmt: skip
    axes.plot([], [], color=_GREY, linestyle="--", linewidth=1, label="exactly as the pixels grow")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({(p.size[0] * p.size[1]) ** 0.5 for p in figures.growth})
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.set_xlabel("side of the square picture, pixels (logarithmic)")
    axes.set_ylabel("ms a picture (logarithmic)")
    axes.legend(loc="upper left", frameon=False)
    _finish(figure, axes, figures, "latency against size, all styles in one file")


def _draw_quality(figure: Figure, figures: Figures) -> None:
    figure.set_size_inches(7.5, 5.2)
    axes = figure.subplots()
    widest = max(one.bytes for one in figures.quality) / 1e6
    for one in sorted(figures.quality, key=lambda one: one.bytes):
        runtime = _BACKENDS.get(one.backend, one.backend)
        colour = _COLOURS.get(runtime, _GREY)
        megabytes = one.bytes / 1e6
        axes.plot([megabytes] * 2, [one.ssim_worst, one.ssim_mean], color=colour, linewidth=1.5, alpha=0.6)
        axes.plot(megabytes, one.ssim_mean, marker="o", color=colour)
        axes.plot(megabytes, one.ssim_worst, marker="v", color=colour, markerfacecolor="white")
    # Words would cover each other where files are about as large: a legend beside the points has room for all.
    for one in sorted(figures.quality, key=lambda one: (one.bytes, one.backend)):
        runtime = _BACKENDS.get(one.backend, one.backend)
        words = f"{one.bytes / 1e6:.2f} MB  {_NAMES.get(runtime, runtime)} {one.precision}: {one.ssim_mean:.4f}"
        axes.plot([], [], color=_COLOURS.get(runtime, _GREY), marker="o", linewidth=1.5, label=words)
    axes.plot([], [], color=_GREY, marker="v", markerfacecolor="white", linestyle="", label="worst photo and style")
    axes.set_xlim(0, widest * 1.08)
    axes.set_ylim(top=1.0 + 0.04 * (1.0 - min(one.ssim_worst for one in figures.quality)) + 1e-4)
    axes.set_xlabel("size of the file, MB (1e6 bytes)")
    axes.set_ylabel("SSIM to the float model")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _finish(figure, axes, figures, "SSIM against bytes, all styles in one file")


def _draw_ratios(figure: Figure, figures: Figures) -> None:
    ratios = [(figures.times_faster(one, BASELINE), one) for one in figures.race if one.role is not Role.GEMM]
    shown = sorted(((ratio, one) for ratio, one in ratios if ratio is not None), key=lambda pair: pair[0].median)
    figure.set_size_inches(8.5, 1.6 + 0.34 * len(shown))
    axes = figure.subplots()
    for row, (ratio, one) in enumerate(shown):
        colour = _GREY if one.role is Role.BASELINE else _COLOURS.get(one.runtime, _GREY)
        axes.barh(row, ratio.median, color=colour, alpha=0.5 if one.role is Role.PARENT else 1.0, height=0.68)
        axes.plot([ratio.min, ratio.max], [row, row], color="black", linewidth=1)
        words = f"{ratio.median:.3g}x   {one.median_ms:.3g} ms"
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # the line at 1x would cross the words
        axes.text(ratio.max * 1.15, row, words, va="center", fontsize=9, bbox=behind)
    axes.axvline(1, color="black", linewidth=0.8, zorder=0.9)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlim(min(0.5, *(ratio.min * 0.6 for ratio, _ in shown)), max(ratio.max for ratio, _ in shown) * 9)
    axes.set_yticks(range(len(shown)), [_label(one) for _, one in shown], fontsize=9)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel(f"times faster than {BASELINE} in ONNX Runtime\n(logarithmic; black line: least to largest round)")
    size = "{} x {}".format(*figures.size)
    _finish(figure, axes, figures, f"one picture of {size}", grid="x")


def _label(one: Performance) -> str:
    return f"{one.name}, {_NAMES.get(one.runtime, one.runtime)} {one.precision}"


def _finish(figure: Figure, axes: Axes, figures: Figures, what: str, grid: str = "both") -> None:
    host = figures.host
    place = f"{host.cpu}, {host.cores} cores, {host.threads} threads, {figures.created[:10]}"
    figure.suptitle(f"{figures.model}: {what}", fontsize=12, fontweight="bold", x=0.02, ha="left")
    lines = [*textwrap.wrap(place, 88), NOT_A_PHONE]
    axes.set_title("\n".join(lines), fontsize=9, color="#444444", loc="left")
    axes.grid(visible=True, axis=grid, color="#dddddd", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
