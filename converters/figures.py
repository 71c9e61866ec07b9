"""All that one benchmark measured, as frozen classes, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from converters.growth import excess_growth
from converters.peak import peak_gmac_per_s, peak_share
from converters.peers import Performance, Ratio, Role, time_ratio
from sdk.bundle import Bundle
from sdk.errors import UsageError
from sdk.files import write_atomically
from sdk.host import Host
from sdk.report.read import read_as, read_json
from sdk.spec import Precision
from sdk.verify import Report

SCHEMA = 1
#: What every output says of its figures.
NOT_A_PHONE = "Figures of the host named here, never a phone's."


@dataclass(frozen=True, kw_only=True)
class Quality:
    """SSIM of a multi-style artifact to the float model, from ``report.json``: mean, and the worst photo and style."""

    file: str
    backend: str
    precision: Precision
    bytes: int
    ssim_mean: float
    ssim_worst: float


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Peak memory of a process with a runtime and a network of one 1x1 convolution: the runtime's own."""

    runtime: str
    peak_rss_bytes: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One benchmark on one host.

    Attributes:
        created: UTC, ISO 8601.
        command: the arguments of the command that made it.
        params, macs: of the bundle's network; ``macs`` of a picture of ``size``.
        size: (height, width) of the race.
        race: artifacts, the unpruned parent, baselines and matrix products, interleaved.
        growth: the checkpoint's multi-style graph, fp32, at several sizes, interleaved.
        floors: one a runtime.
        quality: empty when no report was given.
    """

    model: str
    checkpoint_sha256: str
    created: str
    command: str
    params: int
    macs: int
    size: tuple[int, int]
    rounds: int
    runs: int
    host: Host
    race: tuple[Performance, ...]
    growth: tuple[Performance, ...] = ()
    floors: tuple[Floor, ...] = ()
    quality: tuple[Quality, ...] = ()

    def having(self, role: Role) -> tuple[Performance, ...]:
        """The contestants of one role, in the race's order."""
        return tuple(performance for performance in self.race if performance.role is role)

    def artifact(self, runtime: str, precision: Precision) -> Performance | None:
        """The bundle's artifact in one runtime, if it took part."""
        found = (a for a in self.having(Role.ARTIFACT) if (a.runtime, a.precision) == (runtime, precision))
        return next(found, None)

    def baseline(self, name: str) -> Performance | None:
        """A baseline by name, if it took part."""
        return next((baseline for baseline in self.having(Role.BASELINE) if baseline.name == name), None)

    def gemms(self, runtime: str) -> tuple[Performance, ...]:
        """The matrix products in one runtime."""
        return tuple(gemm for gemm in self.having(Role.GEMM) if gemm.runtime == runtime)

    def share(self, performance: Performance) -> Ratio | None:
        """A network's share of the measured fp32 peak of its runtime; ``None`` when that was not measured."""
        gemms = self.gemms(performance.runtime)
        return peak_share(performance, gemms) if gemms else None

    def peaks(self) -> dict[str, Ratio]:
        """Runtime to its measured fp32 peak, 1e9 multiply-accumulates a second."""
        runtimes = dict.fromkeys(gemm.runtime for gemm in self.having(Role.GEMM))
        return {runtime: peak_gmac_per_s(self.gemms(runtime)) for runtime in runtimes}

    def times_faster(self, performance: Performance, baseline: str) -> Ratio | None:
        """How many times faster than a baseline; ``None`` when that did not take part."""
        other = self.baseline(baseline)
        return time_ratio(other, performance) if other is not None else None

    def memory_bytes(self, performance: Performance) -> int | None:
        """Peak memory above the runtime's own; ``None`` where that is not known."""
        floor = next((floor for floor in self.floors if floor.runtime == performance.runtime), None)
        if floor is None or not floor.peak_rss_bytes or not performance.peak_rss_bytes:
            return None
        return performance.peak_rss_bytes - floor.peak_rss_bytes

    def growth_in(self, runtime: str) -> tuple[Performance, ...]:
        """The points of one runtime, the smallest picture first."""
        return tuple(sorted((p for p in self.growth if p.runtime == runtime), key=lambda p: p.size))

    def excess(self) -> dict[str, tuple[float, Performance]]:
        """Runtime to ``excess_growth``, where there are two sizes or more."""
        runtimes = dict.fromkeys(point.runtime for point in self.growth)
        points = {runtime: self.growth_in(runtime) for runtime in runtimes}
        return {runtime: excess_growth(of) for runtime, of in points.items() if len(of) > 1}


def noise(figures: Figures) -> str:
    """One sentence when the figures cannot all be true, which means that the host had other work; empty otherwise.

    No fp32 network is faster than its runtime's best matrix product.
    """
    for one in figures.race:
        share = figures.share(one) if one.precision is Precision.FP32 and one.role is not Role.GEMM else None
        if share is not None and share.median > 1:
            return (
                f"The host was not quiet: {one.name} in {one.runtime} seems to reach {share.median:.0%} of the "
                "measured peak. Stop what else is running and measure again."
            )
    return ""


def read_quality(path: Path, bundle: Bundle) -> tuple[Quality, ...]:
    """The multi-style artifacts of a report that ``sdk verify --json`` wrote, in its order; each file once.

    Raises:
        UsageError: it is no such report, is of another checkpoint, or has no such artifact.
    """
    report = read_json(path)
    if not isinstance(report, Report):
        raise UsageError(f"{str(path)!r} is a benchmark, not a report of verify: write one with verify --json.")
    checkpoint = bundle.manifest.model.checkpoint_sha256
    if report.checkpoint_sha256 != checkpoint:
        raise UsageError(
            f"{str(path)!r} is of the checkpoint {report.checkpoint_sha256[:12]}, the bundle of {checkpoint[:12]}: "
            "verify this bundle again."
        )
    found = {
        verdict.file: Quality(
            file=verdict.file,
            backend=verdict.backend,
            precision=verdict.precision,
            bytes=verdict.bytes,
            ssim_mean=verdict.ssim.mean,
            ssim_worst=verdict.ssim.worst,
        )
        for verdict in report.results
        if verdict.style is None and verdict.ssim is not None
    }
    if not found:
        raise UsageError(f"{str(path)!r} has no SSIM of a multi-style artifact: verify a bundle that has one.")
    return tuple(found.values())


def figures_text(figures: Figures, extra: Sequence[tuple[str, object]] = ()) -> str:
    """The figures as JSON text: ``schema`` 1, the fields of ``Figures``, a note, and what else is to be written."""
    content = {"schema": SCHEMA, "note": NOT_A_PHONE, **asdict(figures), **dict(extra)}
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_figures(figures: Figures, path: Path, extra: Sequence[tuple[str, object]] = ()) -> None:
    """Writes the JSON as a whole or not at all; ``FileTroubleError`` when the disk says no."""
    write_atomically(path, figures_text(figures, extra))


def read_figures(path: Path) -> Figures:
    """What ``write_figures`` wrote.

    Raises:
        UsageError: the file is missing, not JSON, of another schema, or lacks a field.
    """
    return read_as(Figures, path, schema=SCHEMA)
