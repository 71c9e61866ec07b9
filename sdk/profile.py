"""Where an artifact's time goes: what each operator takes under a runtime's own profiler, on this host.

An artifact is timed twice in one process: bare, as ``sdk.bench`` does, and with the profiler on. The operators' times
come from the second, so what they leave of its wall-clock time is shown as the time outside operators, and what the
profiler itself costs as the difference of the two.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdk.bundle import Artifact, Bundle
from sdk.errors import UsageError
from sdk.files import disk_trouble
from sdk.host import Host, describe_host
from sdk.latency import Latency, summarize
from sdk.runtimes import RUNTIMES, Runtime, get_runtime, require
from sdk.runtimes.base import ProfiledRuns, Profiler
from sdk.spec import Precision, Target
from sdk.verify import pair_with_runtimes
from sdk.worker import TIME_LIMIT_S, TIMED_KINDS, Worker, WorkerError

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
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    for name, count in {"runs": runs, "threads": threads}.items():
        if count < 1:
            raise UsageError(f"{name} is {count}: give at least 1.")
    for name in runtimes or ():
        require(get_runtime(name))
    chosen = opened.artifacts if artifacts is None else tuple(opened.artifact(name) for name in artifacts)
    pairs, _ = pair_with_runtimes(opened, chosen, runtimes)
    for artifact in chosen:
        opened.check_file(artifact.file, artifact.sha256, artifact.bytes)
    with contextlib.ExitStack() as stack:
        with disk_trouble("keep a picture in", Path(tempfile.gettempdir())):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toonedge-profile-")))
        made = []
        for artifact, runtime in pairs:
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
    def described(reason: str) -> ArtifactProfile:
        return ArtifactProfile(
            file=artifact.file,
            target=artifact.target,
            precision=artifact.precision,
            style=artifact.style,
            size=artifact.size,
            runtime=runtime.name,
            reason=reason,
        )

    obstacle = _obstacle(runtime)
    if obstacle:
        return described(obstacle)
    photos = folder / f"{'x'.join(map(str, artifact.size))}.npy"
    if not photos.exists():
        shape = (artifact.io.image.shape[0] or 1, *artifact.size, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32) / np.float32(255)
        with disk_trouble("keep a picture in", folder):
            np.save(photos, noise)
    weights = None if artifact.style is not None else [float(row == 0) for row in range(len(bundle.styles))]
    name, path = RUNTIMES[runtime.name], bundle.path(artifact)
    try:
        with worker:
            worker.load(name, path, artifact.io)
            bare = worker.time(photos, weights, runs=warm_up + runs)[warm_up:]
            seen = worker.profile(name, path, artifact.io, photos, weights, runs=runs, warm_up=warm_up)
    except WorkerError as error:
        return described(str(error))
    return summarize_runs(described(""), seen, summarize(bare, threads=worker.threads))


def _obstacle(runtime: Runtime) -> str:
    """Why a runtime's operators cannot be timed here, or nothing."""
    availability = runtime.available()
    if not availability.ok:
        return availability.reason
    if runtime.kind not in TIMED_KINDS:
        return f"a {runtime.kind} runtime has no latency"
    if not isinstance(runtime, Profiler):
        return (
            f"the runtime {runtime.name} tells nothing about its operators: only a whole run can be timed, with bench"
        )
    return ""


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
    return ArtifactProfile(
        file=described.file,
        target=described.target,
        precision=described.precision,
        style=described.style,
        size=described.size,
        runtime=described.runtime,
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
