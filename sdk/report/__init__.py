"""Verdicts, benchmarks and profiles as files: ``report.json`` (schema 1) and Markdown tables."""

from __future__ import annotations

from sdk.report.bench_ import bench_markdown_text, bench_text, write_bench_json, write_bench_markdown
from sdk.report.json_ import report_text, verdict_text, write_json
from sdk.report.markdown import gates_markdown_text, markdown_text, write_markdown
from sdk.report.profile_ import profile_markdown_text, profile_text, write_profile_json

__all__ = [
    "bench_markdown_text",
    "bench_text",
    "gates_markdown_text",
    "markdown_text",
    "profile_markdown_text",
    "profile_text",
    "report_text",
    "verdict_text",
    "write_bench_json",
    "write_bench_markdown",
    "write_json",
    "write_markdown",
    "write_profile_json",
]
