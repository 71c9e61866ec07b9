"""Latency, load time and memory of artifacts on this host, and a fair race between anything that can be called.

Figures drift with heat and neighbours, so nothing is timed in one go: everything takes part in every round, the order
turns round from one to the next, and a ratio is formed within a round, between neighbours in time.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdk.bundle import Artifact, Bundle
from sdk.errors import unknown_name
from sdk.files import disk_trouble
from sdk.host import Host, describe_host
from sdk.latency import Latency, check_counts, summarize, timed_runs
from sdk.runtimes import RUNTIMES, Runtime
from sdk.selection import select
from sdk.spec import Backend, Kind, Precision, Target
from sdk.trial import obstacle, pictures_for, style_for
from sdk.worker import TIME_LIMIT_S, Worker, WorkerError

#: Takes a number of runs, makes that many, and returns the milliseconds of each.
Runner = Callable[[int], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One participant of a race.

    Attributes:
        name: as given.
        latency_ms: over all rounds.
        round_p50_ms: the p50 of each round, in order.
        ratio: the median over rounds of ``baseline's p50 / this one's p50``: above 1 is faster than the baseline.
        ratio_min, ratio_max: the spread of that ratio over the rounds.
    """

    name: str
    latency_ms: Latency
    round_p50_ms: tuple[float, ...]
    ratio: float
    ratio_min: float
    ratio_max: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One artifact under one runtime on this host.

    ``latency_ms``, ``load_ms`` and ``peak_rss_bytes`` (of a process with the runtime, the artifact and one picture) are
    ``None``, with the ``reason``, when it could not run, or when its kind has no latency.
    """

    file: str
    target: Target
    backend: Backend
    precision: Precision
    style: str | None
    size: tuple[int, int]
    bytes: int
    runtime: str
    kind: Kind
    reason: str = ""
    latency_ms: Latency | None = None
    load_ms: float | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """All measurements of one bundle on one host; ``runs`` a round, after ``warm_up`` runs of each."""

    model: str
    checkpoint_sha256: str
    host: Host
    rounds: int
    runs: int
    warm_up: int
    results: tuple[Measurement, ...]


def bench(
    bundle: Bundle | str | Path,
    *,
    runtimes: Sequence[str] | None = None,
    artifacts: Sequence[str] | None = None,
    threads: int = 2,
    rounds: int = 5,
    runs: int = 20,
    warm_up: int = 10,
    time_limit_s: float = TIME_LIMIT_S,
) -> BenchReport:
    """Times every artifact under every runtime that is here: one process each, all alive, taking turns.

    The picture is seeded noise (its content does not change the work) and the style the first one; only the bare run
    is timed. Files are compared with their hashes before they are loaded.

    Args:
        bundle: a bundle, or its folder.
        runtimes: names from ``sdk.runtimes.RUNTIMES``; by default every runtime that is here.
        artifacts: file names; by default all.
        threads: worker threads for each runtime, >= 1.
        rounds, runs, warm_up: every round makes ``runs`` runs of each; ``warm_up`` runs come once before and do not
            count.
        time_limit_s: a command to a worker that takes longer ends it; the artifact then has a reason and no figures.

    Raises:
        UsageError: no bundle, an altered file, an unknown name, nothing to time, a count below 1.
        MissingRuntimeError: a runtime named in ``runtimes`` is missing.
        FileTroubleError: no room for a temporary picture.
    """
    check_counts(rounds=rounds, runs=runs, threads=threads)
    selection = select(bundle, runtimes=runtimes, artifacts=artifacts)
    selection.check_files()
    opened = selection.bundle
    with contextlib.ExitStack() as stack:
        with disk_trouble("keep a picture in", Path(tempfile.gettempdir())):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toonedge-bench-")))
        entries = [_Entry(opened, artifact, runtime) for artifact, runtime in selection.pairs]
        for entry in entries:
            entry.start(stack, folder, threads, time_limit_s)
        for entry in entries:
            entry.time(warm_up, counted=False)
        for turn in range(rounds):
            for entry in entries if turn % 2 == 0 else entries[::-1]:
                entry.time(runs, counted=True)
        results = tuple(entry.measurement(threads) for entry in entries)
    return BenchReport(
        model=opened.manifest.model.name,
        checkpoint_sha256=opened.manifest.model.checkpoint_sha256,
        host=describe_host(threads),
        rounds=rounds,
        runs=runs,
        warm_up=warm_up,
        results=results,
    )


def race(
    participants: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    rounds: int = 7,
    runs: int = 10,
    warm_up: int = 5,
    threads: int = 1,
) -> tuple[Timing, ...]:
    """Times plain callables against each other, interleaved.

    Args:
        participants: by name; each call is one run.
        baseline: the participant that ratios are taken to.
        rounds, runs, warm_up: every round makes ``runs`` runs of each; ``warm_up`` runs of each come first, uncounted.
        threads: how many threads the participants use; only written down.

    Returns:
        In the order given.

    Raises:
        UsageError: when the baseline is not among them, or a count is below 1.
    """
    return race_runners(
        {name: _runner_of(run) for name, run in participants.items()},
        baseline=baseline,
        rounds=rounds,
        runs=runs,
        warm_up=warm_up,
        threads=threads,
    )


def race_runners(
    runners: Mapping[str, Runner], *, baseline: str, rounds: int, runs: int, warm_up: int, threads: int
) -> tuple[Timing, ...]:
    """``race`` for participants that take their own time, e.g. in another process (``sdk.worker.Worker.time``)."""
    check_counts(rounds=rounds, runs=runs, threads=threads)
    if baseline not in runners:
        raise unknown_name("baseline", baseline, runners)
    names = list(runners)
    if warm_up > 0:
        for name in names:
            runners[name](warm_up)
    taken: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            taken[name].append(list(runners[name](runs)))
    p50 = {name: [summarize(one, threads=threads).p50 for one in taken[name]] for name in names}
    timings = []
    for name in names:
        ratios = [base / own for base, own in zip(p50[baseline], p50[name], strict=True)]
        timings.append(
            Timing(
                name=name,
                latency_ms=summarize([ms for one in taken[name] for ms in one], threads=threads),
                round_p50_ms=tuple(p50[name]),
                ratio=statistics.median(ratios),
                ratio_min=min(ratios),
                ratio_max=max(ratios),
            )
        )
    return tuple(timings)


class _Entry:
    """An artifact under a runtime, its process, and what has been measured so far."""

    def __init__(self, bundle: Bundle, artifact: Artifact, runtime: Runtime) -> None:
        self._bundle = bundle
        self._artifact = artifact
        self._runtime = runtime
        self._worker: Worker | None = None
        self._photos = Path()
        self._reason = ""
        self._load_ms: float | None = None
        self._peak: int | None = None
        self._runs_ms: list[float] = []
        self._weights = style_for(bundle, artifact)

    def start(self, stack: contextlib.ExitStack, folder: Path, threads: int, time_limit_s: float) -> None:
        self._reason = obstacle(self._runtime)
        if self._reason:
            return
        self._photos = pictures_for(self._artifact, folder)
        worker = stack.enter_context(Worker(threads=threads, time_limit_s=time_limit_s))
        try:
            self._load_ms = worker.load(
                RUNTIMES[self._runtime.name], self._bundle.path(self._artifact), self._artifact.io
            )
            self._worker = worker
        except WorkerError as error:
            self._reason = str(error)

    def time(self, runs: int, *, counted: bool) -> None:
        if self._worker is None or runs < 1:
            return
        try:
            runs_ms = self._worker.time(self._photos, self._weights, runs=runs)
            self._peak = self._worker.peak_rss_bytes() or None
        except WorkerError as error:
            self._reason, self._worker, self._runs_ms = str(error), None, []
            self._load_ms = self._peak = None
            return
        if counted:
            self._runs_ms += runs_ms

    def measurement(self, threads: int) -> Measurement:
        artifact = self._artifact
        return Measurement(
            file=artifact.file,
            target=artifact.target,
            backend=artifact.backend,
            precision=artifact.precision,
            style=artifact.style,
            size=artifact.size,
            bytes=artifact.bytes,
            runtime=self._runtime.name,
            kind=self._runtime.kind,
            reason=self._reason,
            latency_ms=summarize(self._runs_ms, threads=threads) if self._runs_ms else None,
            load_ms=self._load_ms,
            peak_rss_bytes=self._peak,
        )


def _runner_of(run: Callable[[], object]) -> Runner:
    return lambda runs: timed_runs(run, runs)
