"""What the benchmark has to show: one table row a bar, and whether it holds on this host.

A new bar is one function ``(figures) -> Reading | None`` and one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from converters.figures import Figures
from converters.peers import BASELINE, Ratio, Role, time_ratio
from sdk.spec import Precision


class Bound(StrEnum):
    """Which side of the limit is good."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


class Standing(StrEnum):
    """Whether a bar holds."""

    HOLDS = "holds"
    SHORT = "falls short"
    UNKNOWN = "not measured"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The figure a bar is about, and what it was formed from, in words."""

    value: float
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row.

    Attributes:
        name: what it is about.
        bound, limit, unit: of the figure; the unit is written right after the number.
        read: takes the figure; ``None`` when the benchmark has not measured it.
        missing: what to do so that it is measured.
    """

    name: str
    bound: Bound
    limit: float
    unit: str
    read: Callable[[Figures], Reading | None]
    missing: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A bar and what became of it.

    Attributes:
        value: ``None`` when it was not measured.
        text: one line.
    """

    name: str
    bound: Bound
    limit: float
    value: float | None
    standing: Standing
    text: str


def judge(figures: Figures) -> tuple[Judgement, ...]:
    """Every bar of ``BARS``."""
    return tuple(judge_bar(bar, bar.read(figures)) for bar in BARS)


def judge_bar(bar: Bar, reading: Reading | None) -> Judgement:
    """Holds a figure against its limit; the limit itself is good enough.

    How far it falls short is relative to the limit: ``|value - limit| / limit``.
    """
    wanted = f"{bar.bound} {bar.limit:g}{bar.unit}"
    if reading is None:
        standing, words = Standing.UNKNOWN, f"{wanted} is wanted; {bar.missing}"
    else:
        good = reading.value >= bar.limit if bar.bound is Bound.AT_LEAST else reading.value <= bar.limit
        standing = Standing.HOLDS if good else Standing.SHORT
        missed = "" if good else f", {abs(reading.value - bar.limit) / bar.limit:.1%} off"
        words = f"{reading.value:.3g}{bar.unit} ({wanted}{missed})" + (f"; {reading.detail}" if reading.detail else "")
    return Judgement(
        name=bar.name,
        bound=bar.bound,
        limit=bar.limit,
        value=None if reading is None else reading.value,
        standing=standing,
        text=f"{standing}: {bar.name}: {words}",
    )


def _times_faster(runtime: str) -> Callable[[Figures], Reading | None]:
    def read(figures: Figures) -> Reading | None:
        ours = figures.artifact(runtime, Precision.FP32)
        ratio = figures.times_faster(ours, BASELINE) if ours is not None else None
        return None if ratio is None else Reading(value=ratio.median, detail=_range(ratio))

    return read


def _executorch_to_litert(figures: Figures) -> Reading | None:
    executorch, litert = (figures.artifact(runtime, Precision.FP32) for runtime in ("executorch", "litert"))
    if executorch is None or litert is None:
        return None
    ratio = time_ratio(executorch, litert)
    return Reading(value=ratio.median, detail=_range(ratio))


def _parent_share(figures: Figures) -> Reading | None:
    shares = {parent.runtime: figures.share(parent) for parent in figures.having(Role.PARENT)}
    known = {runtime: 100 * share.median for runtime, share in shares.items() if share is not None}
    return Reading(value=max(known.values()), detail=_each(known, "%")) if known else None


def _growth(figures: Figures) -> Reading | None:
    worst = figures.excess()
    if not worst:
        return None
    sides = {runtime: f"{value:.3g} at {at.size[0]}x{at.size[1]}" for runtime, (value, at) in worst.items()}
    detail = ", ".join(f"{runtime} {words}" for runtime, words in sides.items())
    return Reading(value=max(value for value, _ in worst.values()), detail=detail)


def _memory(figures: Figures) -> Reading | None:
    used = {f"{a.runtime} {a.precision}": figures.memory_bytes(a) for a in figures.having(Role.ARTIFACT)}
    known = {name: number / 1e6 for name, number in used.items() if number is not None}
    return Reading(value=max(known.values()), detail=_each(known, " MB")) if known else None


def _int8(figures: Figures) -> Reading | None:
    ratios = {}
    for int8 in figures.having(Role.ARTIFACT):
        fp32 = figures.artifact(int8.runtime, Precision.FP32)
        if int8.precision is Precision.INT8 and fp32 is not None:
            ratios[int8.runtime] = time_ratio(int8, fp32).median
    return Reading(value=max(ratios.values()), detail=_each(ratios, "x")) if ratios else None


def _range(ratio: Ratio) -> str:
    return f"rounds {ratio.min:.3g} to {ratio.max:.3g}"


def _each(values: Mapping[str, float], unit: str) -> str:
    return ", ".join(f"{name} {value:.3g}{unit}" for name, value in values.items())


_RACE = f"let {BASELINE} and the artifact take part"

BARS: tuple[Bar, ...] = (
    Bar(
        name=f"ONNX Runtime fp32 against {BASELINE} in ONNX Runtime",
        bound=Bound.AT_LEAST,
        limit=16,
        unit="x",
        read=_times_faster("onnxruntime"),
        missing=_RACE,
    ),
    Bar(
        name=f"LiteRT fp32 against {BASELINE} in ONNX Runtime",
        bound=Bound.AT_LEAST,
        limit=20,
        unit="x",
        read=_times_faster("litert"),
        missing=_RACE,
    ),
    Bar(
        name="time of ExecuTorch fp32 to LiteRT fp32",
        bound=Bound.AT_MOST,
        limit=1.25,
        unit="x",
        read=_executorch_to_litert,
        missing="export both",
    ),
    Bar(
        name="share of the measured fp32 peak of the unpruned parent in its best runtime",
        bound=Bound.AT_LEAST,
        limit=70,
        unit="%",
        read=_parent_share,
        missing="give its checkpoint with --parent",
    ),
    Bar(
        name="growth of latency to growth of pixels",
        bound=Bound.AT_MOST,
        limit=1,
        unit="x",
        read=_growth,
        missing="give two --side or more",
    ),
    Bar(
        name="peak memory above the runtime's own",
        bound=Bound.AT_MOST,
        limit=40,
        unit=" MB",
        read=_memory,
        missing="this system does not tell a process's peak memory",
    ),
    Bar(
        name="time of int8 to fp32 in the runtime where int8 is slowest",
        bound=Bound.AT_MOST,
        limit=1.10,
        unit="x",
        read=_int8,
        missing="export both precisions",
    ),
)
