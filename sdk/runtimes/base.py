"""What every runtime looks like from outside: is it here, load a file, run it on pictures.

The border is strict on purpose. Some runtimes ignore strides and read another picture in silence (ExecuTorch), some
reinterpret a wrong element type: every input is made contiguous and compared with the artifact's ``IOSpec`` here, once,
for all of them.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from sdk.errors import MissingRuntimeError, UsageError
from sdk.spec import IOSpec, Kind, Target, TensorSpec


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a runtime can be used on this host.

    Attributes:
        ok: it can.
        reason: why not, one clause ("the package 'onnxruntime' is not installed"); empty when ``ok``.
        version: the installed version, e.g. ``"1.31.1"``; ``None`` when not installed.
        by_host: the operating system or processor rules it out, so installing nothing would help.
    """

    ok: bool
    reason: str = ""
    version: str | None = None
    by_host: bool = False


class Session(ABC):
    """One loaded artifact, ready to run.

    Attributes:
        io: the artifact's border, as its manifest states it.
    """

    def __init__(self, io: IOSpec) -> None:
        self.io = io

    @abstractmethod
    def _execute(self, image: np.ndarray, style: np.ndarray | None) -> np.ndarray:
        """Runs the artifact once on checked, C-contiguous arrays and returns its raw output, which the caller owns."""

    def close(self) -> None:  # noqa: B027 - most runtimes free their memory with the object
        """Gives the runtime's memory back. A closed session must not be run."""

    def run(self, image: np.ndarray, style: np.ndarray | None = None) -> np.ndarray:
        """Runs the artifact once on encoded arrays (what ``IOSpec``'s ``encode`` returns).

        Args:
            image: in the layout, dtype and shape of ``io.image``, any strides.
            style: in the dtype and shape of ``io.style``; ``None`` if and only if one style is baked in.

        Returns:
            The raw output in the layout and dtype of ``io.output``.

        Raises:
            UsageError: when an array does not fit the artifact, or its output is not what its ``IOSpec`` says.
        """
        if (style is None) is not (self.io.style is None):
            raise UsageError(
                "style weights were given to an artifact with one baked style: pass None."
                if self.io.style is None
                else f"no style weights were given to an artifact that takes {self.io.style.shape[-1]} of them."
            )
        checked_style = None if style is None or self.io.style is None else checked_input(style, self.io.style)
        output = self._execute(checked_input(image, self.io.image), checked_style)
        _check(output, self.io.output, "returned")
        return output

    def stylize(
        self,
        rgb: np.ndarray,
        style: np.ndarray | None = None,
        *,
        clock: Callable[[Callable[[], np.ndarray]], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Pictures in, pictures out: encodes, runs and decodes as the ``IOSpec`` says.

        Args:
            rgb: ``N x H x W x 3`` float32, RGB, [0, 1]; H x W as the artifact takes it. One run per picture, or per
                batch when the artifact has a fixed batch above 1.
            style: ``S`` weights that sum to 1; ``None`` if and only if one style is baked in.
            clock: called with each bare run (no encoding, no decoding) in place of running it, to take its time.

        Returns:
            ``N x H x W x 3`` float32, RGB, [0, 1] up to the artifact's own error (nothing is clipped).

        Raises:
            UsageError: when pictures or weights do not fit the artifact.
        """
        pictures = np.asarray(rgb, dtype=np.float32)
        if pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise UsageError(f"pictures have the shape {pictures.shape}: give N x H x W x 3 (RGB).")
        batch = self.io.image.shape[0] or 1
        if len(pictures) % batch:
            raise UsageError(f"{len(pictures)} pictures do not fill batches of {batch}: give a multiple of {batch}.")
        encoded_style: np.ndarray | None = None
        if style is not None and self.io.style is not None:
            weights = np.broadcast_to(np.asarray(style, dtype=np.float32), (batch, np.size(style)))
            encoded_style = self.io.style.encode(weights)
        elif style is not None:
            raise UsageError("style weights were given to an artifact with one baked style: pass None.")
        run = clock or _call
        decoded = []
        for start in range(0, len(pictures), batch):
            encoded = self.io.image.encode(pictures[start : start + batch])
            decoded.append(self.io.output.decode(run(lambda image=encoded: self.run(image, encoded_style))))  # type: ignore[misc]
        return np.concatenate(decoded) if decoded else np.empty_like(pictures)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(Protocol):
    """Something that executes artifacts of one or more targets.

    Importing the module of a runtime, and constructing it, imports no runtime package: that happens in ``load``.

    Attributes:
        name: as given to ``--runtimes``: ``executorch``, ``litert``, ``onnxruntime``, ``coreml``, ``mil``.
        kind: where its figures come from (``sdk.spec.Kind``).
        targets: the targets whose artifacts it executes.
        extra: the pip extra that installs it.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    targets: ClassVar[frozenset[Target]]
    extra: ClassVar[str]

    def available(self) -> Availability:
        """Looks without importing anything heavy; never raises."""

    def load(self, path: Path, io: IOSpec, *, threads: int = 1) -> Session:
        """Loads an artifact from disk.

        Args:
            path: the file, or the package folder.
            io: the artifact's border, from its manifest.
            threads: worker threads the runtime may use, >= 1.

        Raises:
            MissingRuntimeError: when the runtime is not available here; names the extra.
            UsageError: when the file cannot be loaded or does not have the inputs and outputs ``io`` states.
        """


@dataclass(frozen=True, kw_only=True)
class OperatorRuns:
    """One operator of a loaded artifact and what each run took.

    Attributes:
        name: as the runtime calls it, e.g. ``"Conv node_conv2d_59"``, ``"Fully Connected (NC, F32) GEMM #4"``.
        runs_ms: milliseconds, one for each counted run.
        delegate: the delegate it ran in (``"XNNPACK"``); ``None`` for an operator of the runtime itself.
        output: extents of its first output as the runtime lays them out; ``None`` when the runtime does not say.
    """

    name: str
    runs_ms: tuple[float, ...]
    delegate: str | None = None
    output: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ProfiledRuns:
    """What a runtime's own profiler saw in some runs.

    Attributes:
        run_ms: wall-clock time of each counted run with the profiler on, milliseconds.
        operators: in the order in which they run; all have one time for each run of ``run_ms``.
    """

    run_ms: tuple[float, ...]
    operators: tuple[OperatorRuns, ...]


@runtime_checkable
class Profiler(Protocol):
    """A runtime that can say what each operator takes, inside its delegate too."""

    def profile(
        self,
        path: Path,
        io: IOSpec,
        image: np.ndarray,
        style: np.ndarray | None,
        *,
        threads: int,
        warm_up: int,
        runs: int,
    ) -> ProfiledRuns:
        """Loads an artifact with the profiler on and runs it ``warm_up + runs`` times; the first do not count.

        Args:
            path, io, threads: as for ``Runtime.load``.
            image, style: encoded and contiguous, as ``Session.run`` takes them.

        Raises:
            MissingRuntimeError: when this build of the runtime has no profiler; names the build.
            UsageError: as ``Runtime.load``.
        """


def require(runtime: Runtime) -> Availability:
    """The availability of a runtime that is about to be used.

    Raises:
        MissingRuntimeError: when it is not available; one sentence with the reason and what to install.
    """
    availability = runtime.available()
    if not availability.ok:
        remedy = (
            "use a host that has it." if availability.by_host else f"run `pip install 'toonedge[{runtime.extra}]'`."
        )
        raise MissingRuntimeError(f"the runtime {runtime.name!r} is not available: {availability.reason}; {remedy}")
    return availability


def installed(packages: Mapping[str, str]) -> Availability:
    """Whether one of some packages can be imported; imports none.

    Args:
        packages: import name to distribution name, the preferred first.
    """
    for package, distribution in packages.items():
        if importlib.util.find_spec(package) is None:
            continue
        try:
            return Availability(ok=True, version=version(distribution))
        except PackageNotFoundError:  # e.g. a nightly build under another distribution name
            return Availability(ok=True)
    return Availability(ok=False, reason=f"the package {next(iter(packages.values()))!r} is not installed")


def first_line(error: BaseException) -> str:
    """What a native library says about its failure, cut to one line of at most 200 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def checked_input(values: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """``values`` as a C-contiguous array (copied only when it is not one) that fits ``spec``.

    Raises:
        UsageError: when dtype or shape differ from the spec.
    """
    _check(values, spec, "was given")
    contiguous = np.ascontiguousarray(values)
    if not contiguous.flags.c_contiguous:  # pragma: no cover - numpy's promise, and the one we cannot do without
        raise UsageError(f"the tensor {spec.name!r} could not be made contiguous.")
    return contiguous


def _check(values: np.ndarray, spec: TensorSpec, verb: str) -> None:
    fits = values.ndim == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, values.shape, strict=True)
    )
    if not fits or values.dtype != np.dtype(spec.dtype.value):
        want = " x ".join("any" if extent is None else str(extent) for extent in spec.shape)
        have = " x ".join(map(str, values.shape))
        raise UsageError(
            f"the tensor {spec.name!r} {verb} as {values.dtype} {have}, "
            f"but the artifact states {spec.dtype} {want} ({spec.layout})."
        )


def _call(run: Callable[[], np.ndarray]) -> np.ndarray:
    return run()
