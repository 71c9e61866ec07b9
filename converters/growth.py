"""How latency grows with the picture: the deployed graph of a checkpoint, exported at several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converters.graph import deployable
from converters.peers import Contestant, Performance, Role
from converters.registry import TARGETS, TargetRow
from converters.request import ExportOptions, ExportSpec
from sdk.runtimes import get_runtime
from sdk.spec import Precision
from sdk.trial import first_style, obstacle
from training.checkpoint import Checkpoint
from training.models.generator import count_macs

#: Sides of the square pictures, in pixels.
SIDES = (128, 256, 384, 512, 768, 1024)


def timed_rows() -> tuple[tuple[TargetRow, str], ...]:
    """The rows of the registry whose converter and own runtime are here, with the runtime's name."""
    found = []
    for row in TARGETS:
        runtime = get_runtime(row.runtimes[0])
        if not obstacle(runtime) and Precision.FP32 in row.precisions:
            found.append((row, runtime.name))
    return tuple(found)


def network_contestant(
    checkpoint: Checkpoint, row: TargetRow, runtime: str, size: tuple[int, int], folder: Path, *, role: Role
) -> Contestant:
    """Exports the multi-style graph of a checkpoint, fp32, as ``converters.export`` does.

    Args:
        row, runtime: from ``timed_rows``.
        size: (height, width).
        folder: where the file goes; it exists.
        role: ``ARTIFACT`` or ``PARENT``.

    Raises:
        MissingRuntimeError: a tool of the converter is missing.
    """
    info = checkpoint.info
    spec = ExportSpec.of(info, target=row.target, backend=row.backend, precision=Precision.FP32, size=size)
    artifact = row.load()(deployable(checkpoint.generator), spec, ExportOptions(folder=folder))
    return Contestant(
        name=info.name if role is Role.ARTIFACT else f"{info.name} ({role})",
        role=role,
        runtime=runtime,
        precision=artifact.precision,
        path=folder / artifact.file,
        io=artifact.io,
        macs=count_macs(checkpoint.generator, *size),
        weights=tuple(first_style(checkpoint.generator.config.styles)),
    )


def excess_growth(points: Sequence[Performance]) -> tuple[float, Performance]:
    """How much faster than the number of pixels latency grows, at worst: ``(t / t0) / (pixels / pixels0)``.

    Args:
        points: of one network in one runtime at two sizes or more; the smallest is what the others are held against.

    Returns:
        The largest of these over all larger sizes, 1 being exactly as fast as pixels, and where it is.
    """
    first, *rest = sorted(points, key=_pixels)
    return max(((_ms_per_pixel(point) / _ms_per_pixel(first), point) for point in rest), key=lambda pair: pair[0])


def ms_per_megapixel(point: Performance) -> float:
    """Milliseconds for 1e6 pixels."""
    return _ms_per_pixel(point) * 1e6


def _pixels(point: Performance) -> int:
    return point.size[0] * point.size[1]


def _ms_per_pixel(point: Performance) -> float:
    return point.median_ms / _pixels(point)
