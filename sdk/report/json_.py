"""``report.json``, schema 1 (``docs/report.schema.json``)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdk.files import write_atomically
from sdk.verify import Report, Verdict

SCHEMA = 1


def report_text(report: Report) -> str:
    """A report as JSON text with sorted keys and a final newline.

    A figure that is not a number (an artifact gave values that are not finite) becomes ``null``; its verdict says so.
    """
    content = {"schema": SCHEMA, **asdict(report)}
    return json.dumps(_finite(content), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def verdict_text(verdict: Verdict) -> str:
    """One verdict as JSON text, as it lies beside a rejected artifact."""
    return json.dumps(_finite(asdict(verdict)), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(report: Report, path: Path) -> None:
    """Writes ``report.json`` as a whole or not at all.

    Raises:
        FileTroubleError: when the disk says no.
    """
    write_atomically(path, report_text(report))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
