"""Latency figures: percentiles of single runs after a warm-up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdk.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Wall-clock time of single runs, in milliseconds.

    Attributes:
        p50, p90, min: percentiles by the nearest-rank rule (a time that was measured, never one between two).
        n: runs counted, warm-up excluded.
        threads: worker threads the runtime was given.
    """

    p50: float
    p90: float
    min: float
    n: int
    threads: int


def check_counts(**counts: int) -> None:
    """Refuses counts that measure nothing.

    Args:
        counts: by the name the caller knows them by, such as ``runs`` or ``threads``.

    Raises:
        UsageError: names the first below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{name} is {count}: give at least 1.")


def timed_runs(run: Callable[[], object], runs: int, *, warm_up: int = 0) -> list[float]:
    """Calls ``run`` ``warm_up + runs`` times; the wall-clock milliseconds of each of the last ``runs``."""
    taken = []
    for _ in range(warm_up + runs):
        started = time.perf_counter()
        run()
        taken.append((time.perf_counter() - started) * 1e3)
    return taken[warm_up:]


def summarize(runs_ms: Sequence[float], *, threads: int) -> Latency:
    """The figures of some runs.

    Raises:
        UsageError: when there are none.
    """
    if not runs_ms:
        raise UsageError("no run was timed: give at least 1 run after the warm-up.")
    return Latency(
        p50=percentile(runs_ms, 50), p90=percentile(runs_ms, 90), min=min(runs_ms), n=len(runs_ms), threads=threads
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value with at least ``percent`` % of all values at or below it.

    Args:
        values: at least one.
        percent: in (0, 100].
    """
    ordered = sorted(values)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]
