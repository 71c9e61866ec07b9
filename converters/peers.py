"""The race: a bundle's artifacts, the architectures users would otherwise take, anything else that is a file.

Every contestant has its own process and the same number of threads; all are alive and take turns
(``sdk.bench.race_runners``), so that a ratio compares neighbours in time, round by round. ``converters.benchmark`` is
the command.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import torch

from converters.to_onnx import OPSET
from sdk.bench import Runner, race_runners
from sdk.bundle import Bundle, size_of
from sdk.errors import UsageError
from sdk.latency import Latency
from sdk.runtimes import RUNTIMES
from sdk.selection import pair_with_runtimes
from sdk.spec import DType, IOSpec, Layout, Precision, image_spec
from sdk.trial import first_style, noise_file, obstacle
from sdk.worker import Worker
from training.models.baselines import count_baseline_macs, make_baseline

#: What the others are compared with, in ONNX Runtime.
BASELINE = "fast-neural-style-16"
#: A contestant makes as many runs in a round as fit into this, at least ``LEAST_RUNS``. Short turns and many rounds: a
#: shared machine has spells of some seconds in which memory is slow, and a ratio should lie within one.
TURN_MS = 150.0
LEAST_RUNS = 1


class Role(StrEnum):
    """What a contestant is there for."""

    ARTIFACT = "artifact"
    PARENT = "parent"
    BASELINE = "baseline"
    GEMM = "gemm"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A file that takes part.

    Attributes:
        name: of its network; the same network in another runtime has the same name.
        path, io: the file and its border.
        macs: multiply-accumulates of one run.
        weights: the style's, if it takes any.
    """

    name: str
    role: Role
    runtime: str
    precision: Precision
    path: Path
    io: IOSpec
    macs: int
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Performance:
    """How a contestant did.

    Attributes:
        size: (height, width) of its picture; (rows, inputs) of a GEMM's matrix.
        bytes: of the file.
        latency_ms: over all rounds.
        round_p50_ms: the p50 of each round, in order; ratios are taken between these.
        peak_rss_bytes: of the process, 0 where the system does not say.
    """

    name: str
    role: Role
    runtime: str
    precision: Precision
    size: tuple[int, int]
    bytes: int
    macs: int
    latency_ms: Latency
    round_p50_ms: tuple[float, ...]
    peak_rss_bytes: int

    @property
    def median_ms(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.round_p50_ms)

    @property
    def gmac_per_s(self) -> float:
        """Achieved multiply-accumulates, 1e9 a second, at the median."""
        return self.macs / self.median_ms / 1e6


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio formed in every round: the median, the least and the largest."""

    median: float
    min: float
    max: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.min:.3g}, {self.max:.3g}]"


def spread(ratios: Iterable[float]) -> Ratio:
    """Ratios of single rounds, at least one, put together."""
    values = list(ratios)
    return Ratio(median=statistics.median(values), min=min(values), max=max(values))


def time_ratio(slow: Performance, quick: Performance) -> Ratio:
    """How many times faster ``quick`` is than ``slow``, of the same race."""
    return spread(a / b for a, b in zip(slow.round_p50_ms, quick.round_p50_ms, strict=True))


def race(
    contestants: Sequence[Contestant], *, threads: int = 2, rounds: int = 15, runs: int = 15, turn_ms: float = TURN_MS
) -> tuple[Performance, ...]:
    """Times files against each other, interleaved; in the order given.

    Args:
        contestants: at least one; no two with the same name, runtime, precision and size.
        threads: worker threads of every runtime.
        rounds, runs: every round makes at most ``runs`` runs of each, after a warm-up of as many.
        turn_ms: what takes long makes fewer runs, as many as fit into this time and at least ``LEAST_RUNS``.

    Raises:
        UsageError: a count is below 1, or two contestants cannot be told apart.
        WorkerError: a file cannot be loaded or run.
    """
    by_name = {_key(contestant): contestant for contestant in contestants}
    if len(by_name) != len(contestants) or not contestants:
        raise UsageError(f"{len(contestants)} contestants have {len(by_name)} names: give each its own.")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toonedge-race-")))
        workers: dict[str, Worker] = {}
        runners: dict[str, Runner] = {}
        for name, contestant in by_name.items():
            workers[name] = worker = stack.enter_context(Worker(threads=threads))
            worker.load(RUNTIMES[contestant.runtime], contestant.path, contestant.io)
            runners[name] = _runner(worker, contestant, _inputs(contestant.io, folder), turn_ms)
        timings = race_runners(
            runners, baseline=next(iter(runners)), rounds=rounds, runs=runs, warm_up=runs, threads=threads
        )
        return tuple(
            Performance(
                name=contestant.name,
                role=contestant.role,
                runtime=contestant.runtime,
                precision=contestant.precision,
                size=_size(contestant.io),
                bytes=size_of(contestant.path),
                macs=contestant.macs,
                latency_ms=timing.latency_ms,
                round_p50_ms=timing.round_p50_ms,
                peak_rss_bytes=workers[timing.name].peak_rss_bytes(),
            )
            for timing, contestant in zip(timings, by_name.values(), strict=True)
        )


def artifact_contestants(bundle: Bundle, precisions: Sequence[Precision]) -> tuple[Contestant, ...]:
    """A bundle's multi-style artifacts of one size, under every timed runtime that is here.

    Raises:
        UsageError: when there is none, or a file is not the one the manifest describes.
    """
    artifacts = [a for a in bundle.artifacts if a.style is None and a.precision in precisions]
    pairs = [
        (artifact, runtime)
        for artifact, runtime in (pair_with_runtimes(bundle, artifacts, None)[0] if artifacts else [])
        if not obstacle(runtime)
    ]
    if not pairs:
        raise UsageError(
            f"{str(bundle.folder)!r} has no multi-style artifact in {', '.join(precisions)} that runs here: "
            "export one, or install its runtime."
        )
    model = bundle.manifest.model
    height, width = size = pairs[0][0].size
    weights = tuple(first_style(len(bundle.styles)))
    chosen = [(artifact, runtime) for artifact, runtime in pairs if artifact.size == size]
    for artifact, _ in chosen:
        bundle.check_file(artifact.file, artifact.sha256, artifact.bytes)
    return tuple(
        Contestant(
            name=model.name,
            role=Role.ARTIFACT,
            runtime=runtime.name,
            precision=artifact.precision,
            path=bundle.path(artifact),
            io=artifact.io,
            macs=model.macs * height * width // (model.macs_size[0] * model.macs_size[1]),
            weights=weights,
        )
        for artifact, runtime in chosen
    )


def baseline_contestant(name: str, folder: Path, size: tuple[int, int]) -> Contestant:
    """Writes a baseline as ONNX, float32, ``1 x 3 x H x W`` in and out, with random weights.

    Raises:
        UsageError: for an unknown name.
    """
    network = make_baseline(name)
    path = folder / f"{name}.onnx"
    program = torch.onnx.export(
        network, (torch.zeros(1, 3, *size),), dynamo=True, opset_version=OPSET, external_data=False, verbose=False,
        input_names=["image"], output_names=["cartoon"],
    )  # fmt: skip
    assert program is not None  # dynamo=True returns one
    program.save(path, external_data=False)
    border = partial(image_spec, layout=Layout.NCHW, dtype=DType.FLOAT32, height=size[0], width=size[1])
    return Contestant(
        name=name,
        role=Role.BASELINE,
        runtime="onnxruntime",
        precision=Precision.FP32,
        path=path,
        io=IOSpec(image=border("image"), output=border("cartoon")),
        macs=count_baseline_macs(network, *size),
    )


def _key(contestant: Contestant) -> str:
    height, width = _size(contestant.io)
    return f"{contestant.name} {height}x{width} ({contestant.runtime} {contestant.precision})"


def _size(io: IOSpec) -> tuple[int, int]:
    shape = io.image.shape
    first = {Layout.NCHW: 2, Layout.NS: 0}.get(io.image.layout, 1)
    height, width = shape[first : first + 2]
    assert height is not None  # files that take part have fixed sizes
    assert width is not None
    return height, width


def _inputs(io: IOSpec, folder: Path) -> Path:
    """Seeded noise: what is in a picture does not change the work."""
    height, width = _size(io)
    return noise_file(folder, (height, width) if io.image.layout is Layout.NS else (1, height, width, 3))


def _runner(worker: Worker, contestant: Contestant, inputs: Path, turn_ms: float) -> Runner:
    weights = None if contestant.weights is None else list(contestant.weights)
    taken_ms = min(worker.time(inputs, weights, runs=2))
    most = max(LEAST_RUNS, int(turn_ms / taken_ms))
    return lambda count: worker.time(inputs, weights, runs=min(count, most))
