"""Verdicts as a GitHub-flavoured Markdown table."""

from __future__ import annotations

import math
from pathlib import Path

from sdk.files import write_atomically
from sdk.host import Host
from sdk.verify import GATES, GateRow, Outcome, Report, Verdict

_COLUMNS = (
    ("File", "---"),
    ("Runtime", "---"),
    ("Kind", "---"),
    ("Verdict", "---"),
    ("SSIM mean", "--:"),
    ("SSIM worst", "--:"),
    ("PSNR dB", "--:"),
    ("Max-abs", "--:"),
    ("p50 ms", "--:"),
    ("Bytes", "--:"),
)


def markdown_text(report: Report) -> str:
    """One row an artifact and runtime, the reasons of what did not pass, and where it was measured."""
    lines = [
        f"# {escape(report.model)}: every artifact against the float model",
        "",
        f"{len(report.photos)} photos, each style by itself; checkpoint `{report.checkpoint_sha256[:12]}`; "
        f"{report.created}.",
        host_line(report.host),
        "",
        "| " + " | ".join(name for name, _ in _COLUMNS) + " |",
        "| " + " | ".join(rule for _, rule in _COLUMNS) + " |",
    ]
    lines += ["| " + " | ".join(_cells(verdict)) + " |" for verdict in report.results]
    counts = {outcome: sum(v.verdict is outcome for v in report.results) for outcome in Outcome}
    lines += ["", ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) + "."]
    notes = [f"- `{v.file}` ({v.runtime}): {v.verdict}: {escape(v.reason)}" for v in report.results if v.reason]
    notes += [f"- {p.runtime}: not on this host: {escape(p.reason)}; another runtime served." for p in report.left_out]
    if notes:
        lines += ["", *notes]
    return "\n".join(lines) + "\n"


def gates_markdown_text() -> str:
    """The table of gates, as ``docs/verification.md`` shows it."""
    lines = [
        "| Precision | Style | Max-abs, at most | SSIM mean, at least | SSIM worst, at least | PSNR in dB, at least |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for row in GATES:
        bars = (row.gate.max_abs, row.gate.ssim_mean, row.gate.ssim_worst, row.gate.psnr_mean)
        cells = [row.precision.value + (", image output" if row.image_output else ""), _styles(row)]
        lines.append("| " + " | ".join([*cells, *("" if bar is None else f"{bar:.3g}" for bar in bars)]) + " |")
    return "\n".join(lines) + "\n"


def _styles(row: GateRow) -> str:
    if row.style is not None:
        return f"{row.style}, baked"
    return {None: "any", True: "baked", False: "multi-style"}[row.baked]


def write_markdown(report: Report, path: Path) -> None:
    """Writes the table as a whole or not at all.

    Raises:
        FileTroubleError: when the disk says no.
    """
    write_atomically(path, markdown_text(report))


def _cells(verdict: Verdict) -> list[str]:
    word = {Outcome.PASS: "pass", Outcome.FAIL: "**fail**", Outcome.NOT_RUNNABLE: "not runnable"}[verdict.verdict]
    return [
        f"`{verdict.file}`",
        verdict.runtime,
        verdict.kind,
        word,
        _number(verdict.ssim.mean if verdict.ssim else None, "{:.4f}"),
        _number(verdict.ssim.worst if verdict.ssim else None, "{:.4f}"),
        _number(verdict.psnr_db.mean if verdict.psnr_db else None, "{:.1f}"),
        _number(verdict.max_abs, "{:.2g}"),
        _number(verdict.latency_ms.p50 if verdict.latency_ms else None, "{:.1f}"),
        f"{verdict.bytes:,}",
    ]


def _number(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return form.format(value) if math.isfinite(value) else "not finite"


def host_line(host: Host) -> str:
    """The machine, and what its figures are not."""
    return (
        f"{escape(host.cpu)} ({', '.join(host.isa) or 'no extensions known'}), {escape(host.os)}, "
        f"{host.threads} threads. Latency is this host's and never a phone's; a reference executor has none."
    )


def escape(text: str) -> str:
    """Text that cannot break a table."""
    return text.replace("|", "\\|").replace("\n", " ")
