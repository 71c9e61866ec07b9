"""The figures of a benchmark as one Markdown page and as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.table import Table

from converters.bars import judge
from converters.figures import NOT_A_PHONE, Figures, noise
from converters.growth import ms_per_megapixel
from converters.peers import BASELINE, Performance, Role
from sdk.host import Host
from sdk.report.markdown import escape


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table: a title, headings (those of ``right`` are numbers), rows of texts."""

    title: str
    columns: tuple[str, ...]
    right: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(figures: Figures) -> tuple[Grid, ...]:
    """All tables; one without rows is left out."""
    made = (_race(figures), _peaks(figures), _growth(figures), _memory(figures), _quality(figures))
    return tuple(grid for grid in made if grid.rows)


def page_text(figures: Figures, plots: Sequence[str] = ()) -> str:
    """The Markdown page.

    Args:
        plots: file names of pictures beside the page.
    """
    lines = [
        f"# {escape(figures.model)}: benchmark",
        "",
        f"<!-- Written by `python -m converters.benchmark {figures.command}`; do not edit. -->",
        "",
        f"**{NOT_A_PHONE}** {host_words(figures.host)}.",
        f"`python -m converters.benchmark {figures.command}`, {figures.created}, checkpoint "
        f"`{figures.checkpoint_sha256[:12]}`: {figures.params:,} weights, {figures.macs / 1e9:.3f} GMAC at "
        f"{_size(figures)}; {figures.rounds} rounds of at most {figures.runs} runs, everything in turns. How: "
        "`docs/benchmark.md`.",
        "",
        *([f"**{noise(figures)}**", ""] if noise(figures) else []),
        "## Bars",
        "",
        *(f"- {escape(judgement.text)}" for judgement in judge(figures)),
        "",
    ]
    for grid in grids(figures):
        lines += [f"## {grid.title}", "", *_markdown_table(grid), ""]
    lines += [f"![{escape(name.rsplit('.', 1)[0].replace('_', ' '))}]({name})" for name in plots]
    return "\n".join(lines).rstrip() + "\n"


def show(figures: Figures) -> Group:
    """The tables and bars for a terminal."""
    parts: list[Table | str] = []
    for grid in grids(figures):
        table = Table(title=grid.title, title_justify="left")
        for column in grid.columns:
            table.add_column(column, justify="right" if column in grid.right else "left")
        for row in grid.rows:
            table.add_row(*row)
        parts.append(table)
    return Group(*parts)


def print_figures(figures: Figures, console: Console) -> None:
    """The host, the tables and the bars."""
    console.print(f"{NOT_A_PHONE} {host_words(figures.host)}.", markup=False, highlight=False, soft_wrap=True)
    if noise(figures):
        console.print(noise(figures), style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(show(figures))
    for judgement in judge(figures):
        console.print(judgement.text, markup=False, highlight=False, soft_wrap=True)


def host_words(host: Host) -> str:
    """The host and the versions of the runtimes, in one line."""
    runtimes = ("onnxruntime", "ai-edge-litert", "executorch", "torch")
    versions = ", ".join(f"{name} {host.versions[name]}" for name in runtimes if name in host.versions)
    isa = f" ({', '.join(host.isa)})" if host.isa else ""
    return f"{host.cpu}{isa}, {host.os}, {host.cores} cores, {host.threads} threads; {versions}"


def _race(figures: Figures) -> Grid:
    rows = []
    for one in sorted(figures.race, key=lambda one: one.median_ms):
        if one.role is Role.GEMM:
            continue
        ratio, share = figures.times_faster(one, BASELINE), figures.share(one)
        rows.append((
            one.name,
            f"{one.runtime} {one.precision}",
            f"{one.median_ms:.2f}",
            _rounds(one),
            "" if ratio is None else _times(ratio.median),
            "" if ratio is None else f"{_times(ratio.min)} to {_times(ratio.max)}",
            f"{one.macs / 1e9:.2f}",
            f"{one.gmac_per_s:.1f}",
            "" if share is None else f"{share.median:.0%}",
            f"{one.bytes / 1e6:.2f}",
        ))  # fmt: skip
    columns = ("network", "runtime", "ms", "rounds", "times faster", "rounds ", "GMAC", "GMAC/s", "of peak", "MB")
    title = (
        f"Race at {_size(figures)}: median of the rounds' p50, least and largest; times faster than {BASELINE} in "
        "ONNX Runtime; share of the runtime's measured fp32 peak"
    )
    return Grid(title=title, columns=columns, right=columns[2:], rows=tuple(rows))


def _peaks(figures: Figures) -> Grid:
    shapes = dict.fromkeys(gemm.name for gemm in figures.having(Role.GEMM))
    rows = []
    for runtime, peak in figures.peaks().items():
        by_shape = {gemm.name: f"{gemm.gmac_per_s:.1f}" for gemm in figures.gemms(runtime)}
        rows.append((
            runtime,
            *(by_shape.get(shape, "") for shape in shapes),
            f"{peak.median:.1f}",
            f"{peak.min:.1f} to {peak.max:.1f}",
        ))  # fmt: skip
    columns = ("runtime", *shapes, "peak", "rounds")
    title = "fp32 peak: GMAC/s of matrix products (rows x inputs x outputs), in the same race"
    return Grid(title=title, columns=columns, right=columns[1:], rows=tuple(rows))


def _growth(figures: Figures) -> Grid:
    rows = []
    for runtime in dict.fromkeys(point.runtime for point in figures.growth):
        points = figures.growth_in(runtime)
        least = ms_per_megapixel(points[0])
        for point in points:
            per_megapixel = ms_per_megapixel(point)
            rows.append((
                f"{runtime} {point.precision}",
                "{}x{}".format(*point.size),
                f"{point.median_ms:.2f}",
                _rounds(point),
                f"{per_megapixel:.1f}",
                f"{per_megapixel / least:.2f}",
            ))  # fmt: skip
    columns = ("runtime", "size", "ms", "rounds", "ms a megapixel", "to the smallest")
    return Grid(title="Latency against size", columns=columns, right=columns[1:], rows=tuple(rows))


def _memory(figures: Figures) -> Grid:
    rows = []
    for one in figures.having(Role.ARTIFACT):
        above = figures.memory_bytes(one)
        if above is not None:
            own = one.peak_rss_bytes - above
            name = f"{one.runtime} {one.precision}"
            rows.append((name, f"{own / 1e6:.0f}", f"{one.peak_rss_bytes / 1e6:.0f}", f"{above / 1e6:.0f}"))
    columns = ("runtime", "the runtime's own MB", "with the artifact MB", "above MB")
    title = f"Peak memory of the process at {_size(figures)}"
    return Grid(title=title, columns=columns, right=columns[1:], rows=tuple(rows))


def _quality(figures: Figures) -> Grid:
    rows = tuple(
        (f"{one.backend} {one.precision}", f"{one.bytes / 1e6:.2f}", f"{one.ssim_mean:.4f}", f"{one.ssim_worst:.4f}")
        for one in figures.quality
    )
    columns = ("artifact", "MB", "SSIM mean", "SSIM worst photo and style")
    return Grid(title="SSIM to the float model against bytes", columns=columns, right=columns[1:], rows=rows)


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def _rounds(one: Performance) -> str:
    return f"{min(one.round_p50_ms):.2f} to {max(one.round_p50_ms):.2f}"


def _size(figures: Figures) -> str:
    return "{} x {}".format(*figures.size)


def _markdown_table(grid: Grid) -> list[str]:
    rules = ["--:" if column in grid.right else "---" for column in grid.columns]
    rows = [grid.columns, tuple(rules), *(tuple(escape(cell) for cell in row) for row in grid.rows)]
    return ["| " + " | ".join(row) + " |" for row in rows]
