"""A profile as JSON and as Markdown tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sdk.files import write_atomically
from sdk.profile import ArtifactProfile, OperatorTime, ProfileReport
from sdk.report.markdown import escape, host_line

SCHEMA = 1
#: How many operators of an artifact are shown; the JSON has all of them.
TOP = 10


def profile_text(report: ProfileReport) -> str:
    """A profile as JSON text: ``schema`` 1, the fields of ``ProfileReport``, sorted keys and a final newline."""
    content = {"schema": SCHEMA, **asdict(report)}
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def profile_markdown_text(report: ProfileReport) -> str:
    """One column an artifact and runtime, one row a kind, milliseconds; then the dearest operators of each."""
    shown = [profile for profile in report.profiles if profile.latency_ms is not None]
    lines = [
        f"# {escape(report.model)}: where the time goes on this host",
        "",
        f"Medians of {report.runs} runs after {report.warm_up} to warm up, in ms (share of the profiled run).",
        host_line(report.host),
        "",
    ]
    if shown:
        kinds = {kind.kind: 0.0 for profile in shown for kind in profile.kinds}
        for profile in shown:
            for kind in profile.kinds:
                kinds[kind.kind] += kind.share
        lines += [
            "| | " + " | ".join(f"{profile.runtime} {profile.precision}" for profile in shown) + " |",
            "| --- |" + " --: |" * len(shown),
            *(_row(kind, shown) for kind in sorted(kinds, key=lambda kind: -kinds[kind])),
            _figures("outside operators", [profile.outside_ms for profile in shown]),
            _figures("whole run, profiled", [profile.profiled_ms for profile in shown]),
            _figures("whole run, bare (p50)", [None if p.latency_ms is None else p.latency_ms.p50 for p in shown]),
        ]
    for profile in shown:
        lines += ["", f"`{profile.file}` ({profile.runtime}), the dearest operators:", ""]
        lines += ["| ms | Share | Operator | Output | Delegate |", "| --: | --: | --- | --- | --- |"]
        for one in dearest(profile):
            cells = [f"{one.ms:.3f}", f"{one.share:.1%}", escape(one.name), extents(one), one.delegate or ""]
            lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- `{p.file}` ({p.runtime}): {escape(p.reason)}" for p in report.profiles if p.reason]
    if notes:
        lines += ["", "Not profiled:", "", *notes]
    return "\n".join(lines) + "\n"


def dearest(profile: ArtifactProfile, count: int = TOP) -> list[OperatorTime]:
    """The operators that take most, the dearest first."""
    return sorted(profile.operators, key=lambda one: -one.ms)[:count]


def extents(operator: OperatorTime) -> str:
    """``"1x16x128x128"``; empty when the runtime does not say."""
    return "" if operator.output is None else "x".join(map(str, operator.output))


def write_profile_json(report: ProfileReport, path: Path) -> None:
    """Writes the JSON as a whole or not at all; ``FileTroubleError`` when the disk says no."""
    write_atomically(path, profile_text(report))


def _row(kind: str, profiles: list[ArtifactProfile]) -> str:
    cells = []
    for profile in profiles:
        found = next((one for one in profile.kinds if one.kind == kind), None)
        cells.append("" if found is None else f"{found.ms:.2f} ({found.share:.0%})")
    return "| " + " | ".join([kind, *cells]) + " |"


def _figures(name: str, values: list[float | None]) -> str:
    return "| " + " | ".join([name, *("" if ms is None else f"{ms:.2f}" for ms in values)]) + " |"
