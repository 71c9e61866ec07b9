"""Where an artifact's time goes: what each operator takes under a runtime's own profiler, on this host.

An artifact is timed twice in one process: bare, as ``sdk.bench`` does, and with the profiler on. The operators' times
come from the second, so what they leave of its wall-clock time is shown as the time outside operators, and what the
profiler itself costs as the difference of the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdk.bundle import Artifact, Bundle
from sdk.errors import UsageError
from sdk.files import disk_trouble
from sdk.host import Host, describe_host
from sdk.latency import Latency, check_counts, summarize
from sdk.runtimes import RUNTIMES, Runtime
from sdk.runtimes.base import ProfiledRuns, Profiler
from sdk.selection import select
from sdk.spec import Precision, Target
from sdk.trial import obstacle, pictures_for, style_for
from sdk.worker import TIME_LIMIT_S, Worker, WorkerError

#: Kind to the words by which its operators are known, in the runtimes' own spelling; the first row that fits counts,
#: so what has a word of another row in its name ("Convert") comes before that row.
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("quantize or dequantize", ("QuantizeLinear", "DequantizeLinear", "Convert", "QUANTIZE")),
    ("depthwise convolution", ("DWConv", "DepthwiseConv")),
    ("1x1 convolution or matrix product", ("Fully Connected", "MatMul", "Gemm", "Batch Matrix", "FULLY_CONNECTED")),
    ("convolution", ("Conv", "CONV")),
    ("upsampling", ("Resize", "Upsample", "RESIZE")),
    ("layout", (
        "Transpose", "Reorder", "DepthToSpace", "SpaceToDepth", "Depth To Space", "Reshape", "Unsqueeze", "Squeeze",
        "Concat", "Split", "Slice", "Pad", "Copy", "TRANSPOSE", "DEPTH_TO_SPACE", "RESHAPE",
    )),
    ("elementwise", (
        "Add", "Mul", "Sub", "Div", "Clip", "Clamp", "Relu", "Sigmoid", "HardSwish", "ADD", "MUL", "RELU",
    )),
)  # fmt: skip
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """One operator.

    Attributes:
        name: as the runtime calls it.
        kind: a row of ``KINDS``, or ``OTHER``.
        ms: median of the counted runs.
        share: of the profiled run's median, in [0, 1].
        delegate: the delegate it ran in; ``None`` for an operator of the runtime itself.
        output: extents of its first output, when the runtime says them.
    """

    name: str
    kind: str
    ms: float
    share: float
    delegate: str | None = None
    output: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class KindTime:
    """All operators of one kind: ``count`` of them, ``ms`` the sum of their medians, ``share`` as for an operator."""

    kind: str
    count: int
    ms: float
    share: float


@dataclass(frozen=True, kw_only=True)
class ArtifactProfile:
    """One artifact under one runtime.

    Without figures, and with the ``reason``, when the runtime is not here, has no profiler, or the artifact failed.

    Attributes:
        latency_ms: bare runs, without the profiler.
        profiled_ms: median wall-clock time of a run with the profiler on.
        operators_ms: median over the runs of the sum of all operators.
        outside_ms: median over the runs of what is left: copies at the border, the runtime's own bookkeeping.
        kinds: the dearest first.
        operators: in the order in which they run.
    """

    file: str
    target: Target
    precision: Precision
    style: str | None
    size: tuple[int, int]
    runtime: str
    reason: str = ""
    latency_ms: Latency | None = None
    profiled_ms: float | None = None
    operators_ms: float | None = None
    outside_ms: float | None = None
    kinds: tuple[KindTime, ...] = ()
    operators: tuple[OperatorTime, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProfileReport:
    """All profiles of one bundle on one host; ``runs`` counted runs of each after ``warm_up``."""

    model: str
    checkpoint_sha256: str
    host: Host
    runs: int
    warm_up: int
    profiles: tuple[ArtifactProfile, ...]


def profile(
    bundle: Bundle | str | Path,
    *,
    runtimes: Sequence[str] | None = None,
    artifacts: Sequence[str] | None = None,
    threads: int = 2,
    runs: int = 100,
    warm_up: int = 10,
    time_limit_s: float = TIME_LIMIT_S,
) -> ProfileReport:
    """Profiles every artifact under every runtime, one after the other, each in a process of its own.

    The picture is seeded noise and the style the first one, as for ``sdk.bench.bench``.

    Args:
        bundle: a bundle, or its folder.
        runtimes, artifacts, threads, time_limit_s: as for ``sdk.bench.bench``.
        runs, warm_up: counted runs of each, and runs before that do not count; so many bare, and as many again with
            the profiler on.

    Raises:
        UsageError: no bundle, an altered file, an unknown name, nothing to time, a count below 1.
        MissingRuntimeError: a runtime named in ``runtimes`` is missing.
        FileTroubleError: no room for a temporary picture.
    """
    check_counts(runs=runs, threads=threads)
    selection = select(bundle, runtimes=runtimes, artifacts=artifacts)
    selection.check_files()
    opened = selection.bundle
    with contextlib.ExitStack() as stack:
        with disk_trouble("keep a picture in", Path(tempfile.gettempdir())):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toonedge-profile-")))
        made = []
        for artifact, runtime in selection.pairs:
            worker = Worker(threads=threads, time_limit_s=time_limit_s)
            made.append(_profile(opened, artifact, runtime, worker, folder, runs=runs, warm_up=max(0, warm_up)))
    return ProfileReport(
        model=opened.manifest.model.name,
        checkpoint_sha256=opened.manifest.model.checkpoint_sha256,
        host=describe_host(threads),
        runs=runs,
        warm_up=max(0, warm_up),
        profiles=tuple(made),
    )


def _profile(
    bundle: Bundle, artifact: Artifact, runtime: Runtime, worker: Worker, folder: Path, *, runs: int, warm_up: int
) -> ArtifactProfile:
    described = ArtifactProfile(
        file=artifact.file,
        target=artifact.target,
        precision=artifact.precision,
        style=artifact.style,
        size=artifact.size,
        runtime=runtime.name,
        reason=obstacle(runtime) or _silence(runtime),
    )
    if described.reason:
        return described
    photos, weights = pictures_for(artifact, folder), style_for(bundle, artifact)
    name, path = RUNTIMES[runtime.name], bundle.path(artifact)
    try:
        with worker:
            worker.load(name, path, artifact.io)
            bare = worker.time(photos, weights, runs=warm_up + runs)[warm_up:]
            seen = worker.profile(name, path, artifact.io, photos, weights, runs=runs, warm_up=warm_up)
    except WorkerError as error:
        return dataclasses.replace(described, reason=str(error))
    return summarize_runs(described, seen, summarize(bare, threads=worker.threads))


def _silence(runtime: Runtime) -> str:
    """Why a runtime's operators cannot be timed although its runs can, or nothing."""
    if isinstance(runtime, Profiler):
        return ""
    return f"the runtime {runtime.name} tells nothing about its operators: only a whole run can be timed, with bench"


def summarize_runs(described: ArtifactProfile, seen: ProfiledRuns, latency: Latency) -> ArtifactProfile:
    """The figures of some profiled runs.

    Args:
        described: the artifact and runtime, without figures.
        seen: at least one run and one operator.
        latency: of bare runs.

    Raises:
        UsageError: when there is no operator, or one without a time for each run.
    """
    counts = {len(operator.runs_ms) for operator in seen.operators}
    if counts != {len(seen.run_ms)} or not seen.run_ms:
        raise UsageError(
            f"the profile of {described.file!r} has {len(seen.run_ms)} runs, but its operators were seen "
            f"{sorted(counts) or 'never'} times: profile it again."
        )
    whole = statistics.median(seen.run_ms)
    sums = [sum(times) for times in zip(*(operator.runs_ms for operator in seen.operators), strict=True)]
    operators = tuple(
        OperatorTime(
            name=operator.name,
            kind=kind_of(operator.name),
            ms=(ms := statistics.median(operator.runs_ms)),
            share=ms / whole,
            delegate=operator.delegate,
            output=operator.output,
        )
        for operator in seen.operators
    )
    return dataclasses.replace(
        described,
        latency_ms=latency,
        profiled_ms=whole,
        operators_ms=statistics.median(sums),
        outside_ms=statistics.median(run - part for run, part in zip(seen.run_ms, sums, strict=True)),
        kinds=group(operators),
        operators=operators,
    )


def kind_of(name: str) -> str:
    """The kind of an operator by its runtime's name for it: a row of ``KINDS``, or ``OTHER``.

    The last word says which one it is (``node_conv2d_59``, ``#4``) and not what it does.
    """
    operator = name.rpartition(" ")[0] or name
    return next((kind for kind, words in KINDS if any(word in operator for word in words)), OTHER)


def group(operators: Sequence[OperatorTime]) -> tuple[KindTime, ...]:
    """The operators by kind, the dearest first."""
    made = []
    for kind in dict.fromkeys(operator.kind for operator in operators):
        members = [operator for operator in operators if operator.kind == kind]
        ms, share = sum(one.ms for one in members), sum(one.share for one in members)
        made.append(KindTime(kind=kind, count=len(members), ms=ms, share=share))
    return tuple(sorted(made, key=lambda one: -one.ms))
