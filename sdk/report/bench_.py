"""A benchmark as JSON and as a Markdown table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sdk.bench import BenchReport, Measurement
from sdk.files import write_atomically
from sdk.report.markdown import escape, host_line

SCHEMA = 1


def bench_text(report: BenchReport) -> str:
    """A benchmark as JSON text: ``schema`` 1, the fields of ``BenchReport``, sorted keys and a final newline."""
    content = {"schema": SCHEMA, **asdict(report)}
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def bench_markdown_text(report: BenchReport) -> str:
    """One row an artifact and runtime, the fastest first, and where it was measured."""
    lines = [
        f"# {escape(report.model)}: latency on this host",
        "",
        f"p50 of {report.rounds} rounds of {report.runs} runs after {report.warm_up} to warm up, interleaved.",
        host_line(report.host),
        "",
        "| File | Runtime | p50 ms | p90 ms | min ms | Load ms | Peak MB | Bytes |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    timed = [result for result in report.results if result.latency_ms is not None]
    lines += [_row(result) for result in sorted(timed, key=_p50)]
    notes = [f"- `{r.file}` ({r.runtime}): {escape(r.reason)}" for r in report.results if r.reason]
    if notes:
        lines += ["", "Not timed:", "", *notes]
    return "\n".join(lines) + "\n"


def write_bench_json(report: BenchReport, path: Path) -> None:
    """Writes the JSON as a whole or not at all; ``FileTroubleError`` when the disk says no."""
    write_atomically(path, bench_text(report))


def write_bench_markdown(report: BenchReport, path: Path) -> None:
    """Writes the table as a whole or not at all; ``FileTroubleError`` when the disk says no."""
    write_atomically(path, bench_markdown_text(report))


def _p50(result: Measurement) -> float:
    return result.latency_ms.p50 if result.latency_ms is not None else float("inf")


def _row(result: Measurement) -> str:
    latency = result.latency_ms
    times = ["", "", ""] if latency is None else [f"{ms:.1f}" for ms in (latency.p50, latency.p90, latency.min)]
    load = "" if result.load_ms is None else f"{result.load_ms:.0f}"
    peak = "" if result.peak_rss_bytes is None else f"{result.peak_rss_bytes / 1e6:.0f}"
    cells = [f"`{result.file}`", result.runtime, *times, load, peak, f"{result.bytes:,}"]
    return "| " + " | ".join(cells) + " |"
