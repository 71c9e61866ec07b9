"""The figures of an evaluation as one picture: a panel a metric, a bar a style and checkpoint, the limits as lines."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.errors import MissingRuntimeError
from sdk.files import write_atomically
from training.metrics.bars import Judgement, Outcome, judge
from training.metrics.figures import Appearance, Comparison, Figures, StyleFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that people with any colour vision can tell apart (Okabe and Ito 2008): passes, falls short, has no bar.
_GOOD, _SHORT, _PLAIN, _INK = "#009E73", "#D55E00", "#0072B2", "#444444"
_DPI = 130
_COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A metric: title, the network's value of a style, the teacher's or the photo's beside it, names of its bars."""

    title: str
    value: Callable[[StyleFigures], float | None]
    beside: Callable[[StyleFigures], float | None] | None = None
    what: str = ""
    bars: tuple[str, ...] = ()


def _hand(name: str, pick: Callable[[Appearance], float | None]) -> Callable[[StyleFigures], float | None]:
    def value(row: StyleFigures) -> float | None:
        hand = getattr(row, name)
        return None if hand is None else pick(hand)

    return value


def _both(title: str, pick: Callable[[Appearance], float | None], *bars: str) -> _Panel:
    return _Panel(title=title, value=_hand("network", pick), beside=_hand("teacher", pick), what="teacher", bars=bars)


_PANELS: tuple[_Panel, ...] = (
    _Panel(title="gap closed (1 is best)", value=lambda row: row.gap, bars=("gap closed",)),
    _Panel(
        title="SSIM to the teacher", value=lambda row: row.ssim, beside=lambda row: row.photo_ssim, what="photo",
        bars=("SSIM",),
    ),
    _Panel(title="PSNR to the teacher, dB", value=lambda row: row.psnr_db, bars=("PSNR, dB",)),
    _Panel(
        title="ST-LPIPS to the teacher", value=lambda row: row.stlpips, beside=lambda row: row.photo_stlpips,
        what="photo",
    ),
    _Panel(title="LPIPS to the teacher", value=lambda row: row.lpips, bars=("LPIPS",)),
    _Panel(title="FID to the teacher's pictures", value=lambda row: row.fid, bars=("FID",)),
    _Panel(
        title="KID-EffLite0 to the style", value=lambda row: row.kid, beside=lambda row: row.photo_kid, what="photo"
    ),
    _Panel(
        title="palette to the style, LAB", value=lambda row: row.palette, beside=lambda row: row.photo_palette,
        what="photo",
    ),
    _both("detail kept in faces", lambda hand: hand.detail, "detail kept"),
    _both("skin tone, mean, LAB", lambda hand: hand.skin, "skin tone, mean"),
    _both("skin tone, worst, LAB", lambda hand: hand.worst_skin, "skin tone, worst"),
    _both(
        "darker skin lightened more, L", lambda hand: hand.skin_bias, "darker skin lightened more, L"
    ),
    _both("line curvature, 1/px", lambda hand: hand.curvature),
    _both("variance over photos'", lambda hand: hand.consistency),
    _Panel(title="flicker over the input's", value=lambda row: row.flicker),
)  # fmt: skip


def write_plot(figures: Figures | Comparison, path: Path) -> None:
    """Draws what was measured, as PNG; checkpoints that were compared are beside each other in every style.

    Raises:
        MissingRuntimeError: matplotlib is not installed.
        FileTroubleError: when the disk says no.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingRuntimeError.for_extra("drawing the plot", "matplotlib", "report") from None
    given = Comparison.of(figures)
    judged = {(one.checkpoint, one.style, one.bar): one for one in judge(given)}
    shown = [panel for panel in _PANELS if any(panel.value(row) is not None for _, row in given.lines)]
    columns = min(_COLUMNS, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(3.1 * columns, (0.9 + 0.3 * len(given.lines)) * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(shown):
            axes.set_visible(False)
            continue
        _draw(axes, shown[index], given.lines, judged)
    figure.suptitle(
        f"{given.title}: {given.figures[0].photos} held-out photos at {given.figures[0].size} px (dotted: a bar)",
        fontsize=12, fontweight="bold", x=0.02, ha="left",
    )  # fmt: skip
    buffer = io.BytesIO()
    # Without the library's version in it, the same figures give the same bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _draw(
    axes: Axes,
    panel: _Panel,
    lines: tuple[tuple[str, StyleFigures], ...],
    judged: dict[tuple[str, str, str], Judgement],
) -> None:
    for place, (name, row) in enumerate(lines):
        value = panel.value(row)
        if value is None:
            continue
        found = [judged[name, row.style, bar] for bar in panel.bars if (name, row.style, bar) in judged]
        short = any(one.outcome in (Outcome.FAIL, Outcome.NOT_MET) for one in found)
        axes.barh(place, value, height=0.62, color=_SHORT if short else _GOOD if found else _PLAIN)
        other = None if panel.beside is None else panel.beside(row)
        if other is not None:
            axes.plot([other, other], [place - 0.38, place + 0.38], color=_INK, linewidth=1.6)
        for one in found:
            axes.plot([one.limit, one.limit], [place - 0.48, place + 0.48], color="black", linewidth=1, linestyle=":")
        axes.annotate(
            f"{value:.3g}", (max(value, 0.0), place), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=7, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )  # fmt: skip
    axes.axvline(0, color=_INK, linewidth=0.6)
    labels = [f"{row.style}, {name}" if name else row.style for name, row in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=8)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.margins(x=0.18)
    axes.tick_params(axis="x", labelsize=7)
    note = f" (line: {panel.what})" if panel.what else ""
    axes.set_title(f"{panel.title}{note}", fontsize=7.5, loc="left")
    axes.grid(visible=True, axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
