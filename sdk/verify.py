"""Every artifact, read back from disk and run on real photos, against the float model: the table of gates, verdicts.

The float model is ``reference.onnx`` under ONNX Runtime in float32. Its pictures of every photo in every style are made
once; then each artifact is loaded by each runtime that serves it, in a process of its own (``sdk.worker``), draws the
same photos and is compared. A style is judged by its own mean and its own worst photo, so that no good style hides a
bad one. An altered file is not loaded at all.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from sdk.bundle import Artifact, Bundle, Reference, check_path
from sdk.errors import ExitCode, UsageError
from sdk.files import disk_trouble, trouble
from sdk.host import Host, describe_host
from sdk.imaging import centre_crop, list_photos, read_photo, resize
from sdk.latency import Latency, check_counts, summarize
from sdk.runtimes import RUNTIMES, Runtime, get_runtime, require
from sdk.selection import Passed, select
from sdk.spec import Backend, Kind, Layout, Precision, Target
from sdk.worker import TIME_LIMIT_S, TIMED_KINDS, Worker, WorkerError

#: Runs at the start of a comparison that no latency counts.
_WARM_UP = 3

_PHOTOS = "photos.npy"


class Outcome(StrEnum):
    """What a verdict says. ``not_runnable``: no runtime for it on this host, which is nobody's failure."""

    PASS = "pass"
    FAIL = "fail"
    NOT_RUNNABLE = "not_runnable"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Thresholds; ``None`` where a quantity is not judged.

    Attributes:
        max_abs: most that any value of any photo may differ, [0, 1] scale.
        ssim_mean: least mean SSIM over the photos, for every style.
        ssim_worst: least SSIM of any photo, for every style.
        psnr_mean: least mean PSNR over the photos, for every style, in dB.
    """

    max_abs: float | None = None
    ssim_mean: float | None = None
    ssim_worst: float | None = None
    psnr_mean: float | None = None


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One row of the table: which artifacts it judges, and how. ``None`` is any; the first row that fits is taken."""

    precision: Precision
    baked: bool | None = None
    style: str | None = None
    image_output: bool | None = None
    gate: Gate


#: The gates. An 8-bit image output (Core ML) cannot be nearer than its own rounding: one level of 255, which covers
#: rounding and truncation alike, is added to what a float output is allowed.
GATES: tuple[GateRow, ...] = (
    GateRow(precision=Precision.FP32, image_output=True, gate=Gate(max_abs=1e-3 + 1 / 255)),
    GateRow(precision=Precision.FP32, gate=Gate(max_abs=1e-3)),
    GateRow(precision=Precision.FP16, gate=Gate(ssim_worst=0.999)),
    # Every style of a multi-style file shares its ranges, which cost it more than a file of its own.
    GateRow(precision=Precision.INT8, baked=True, gate=Gate(ssim_mean=0.99, ssim_worst=0.975, psnr_mean=36.0)),
    GateRow(precision=Precision.INT8, baked=False, gate=Gate(ssim_mean=0.98, ssim_worst=0.94, psnr_mean=36.0)),
)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over photos (and styles): the mean and the worst, which for PSNR and SSIM is the least."""

    mean: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class StyleFigures:
    """One style of one artifact: ``max_abs`` in [0, 1] units before any 8-bit conversion of ours; PSNR in dB.

    PSNR and SSIM of an 8-bit image output are against the float model's picture rounded to 8 bits; of any other output,
    against its floats. ``worst_photo`` names the photo with the least SSIM.
    """

    style: str
    images: int
    max_abs: float
    psnr_db: Spread
    ssim: Spread
    worst_photo: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One artifact under one runtime.

    ``max_abs``, ``psnr_db`` and ``ssim`` are over all photos and styles, and ``styles`` has them one by one; all are
    ``None`` or empty when nothing ran. ``latency_ms`` and ``load_ms`` are only there for the kinds ``device`` and
    ``host``. ``images`` counts photos. ``altered``: the file is not the one the manifest describes; it was not loaded.
    """

    file: str
    target: Target
    backend: Backend
    precision: Precision
    style: str | None
    runtime: str
    kind: Kind
    verdict: Outcome
    reason: str
    gates: Gate
    bytes: int
    images: int = 0
    max_abs: float | None = None
    psnr_db: Spread | None = None
    ssim: Spread | None = None
    latency_ms: Latency | None = None
    load_ms: float | None = None
    peak_rss_bytes: int | None = None
    styles: tuple[StyleFigures, ...] = ()
    altered: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """All verdicts on one bundle on one host. ``created`` is UTC, ISO 8601."""

    model: str
    checkpoint_sha256: str
    created: str
    toonedge: str
    photos: tuple[str, ...]
    host: Host
    results: tuple[Verdict, ...]
    left_out: tuple[Passed, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether something passed and nothing failed."""
        return self.exit_code is ExitCode.OK

    @property
    def exit_code(self) -> ExitCode:
        """2 when a file is not what the manifest says; 1 when a gate failed; 3 when nothing could run; otherwise 0."""
        if any(verdict.altered for verdict in self.results):
            return ExitCode.USAGE
        if any(verdict.verdict is Outcome.FAIL for verdict in self.results):
            return ExitCode.GATE_FAILED
        if not any(verdict.verdict is Outcome.PASS for verdict in self.results):
            return ExitCode.MISSING_RUNTIME
        return ExitCode.OK

    def verdicts(self, file: str) -> tuple[Verdict, ...]:
        """The verdicts on one artifact, one a runtime."""
        return tuple(verdict for verdict in self.results if verdict.file == file)

    def failed(self, file: str) -> bool:
        """Whether an artifact failed under any runtime."""
        return any(verdict.verdict is Outcome.FAIL for verdict in self.verdicts(file))


def verify(
    bundle: Bundle | str | Path,
    *,
    images: str | Path | Sequence[str | Path] | None = None,
    runtimes: Sequence[str] | None = None,
    artifacts: Sequence[str] | None = None,
    threads: int = 2,
    time_limit_s: float = TIME_LIMIT_S,
    scratch: str | Path | None = None,
    progress: Callable[[Verdict], None] | None = None,
) -> Report:
    """Proves every artifact of a bundle against its float model.

    Args:
        bundle: a bundle, or its folder; ``BundleWriter.staged()`` before it is committed.
        images: a folder of photos, or photo files; by default the test photos of the repository when run from one,
            otherwise the bundle's own reference photos. Each is cropped to the artifact's shape around its centre and
            resized (``sdk.imaging``).
        runtimes: names from ``sdk.runtimes.RUNTIMES``; by default every runtime that is here.
        artifacts: file names; by default all.
        threads: worker threads for each runtime, >= 1.
        time_limit_s: a single command to a worker (loading, or all photos in one style) that takes longer is a failure.
        scratch: a folder that keeps the float model's pictures for the next call with the same reference and photos
            (an exporter verifies piece by piece); by default they are temporary.
        progress: called with each verdict as it comes.

    Raises:
        UsageError: no bundle, no photos, an unreadable photo, an unknown runtime or artifact name, an altered
            reference, or nothing to verify.
        MissingRuntimeError: ONNX Runtime, which runs the float model, or a runtime named in ``runtimes`` is missing.
        FileTroubleError: no room for the temporary pictures.
    """
    check_counts(threads=threads)
    selection = select(bundle, runtimes=runtimes, artifacts=artifacts)
    require(get_runtime("onnxruntime"))
    opened = selection.bundle
    reference = opened.manifest.reference
    opened.check_file(reference.file, reference.sha256, reference.bytes)
    photos = _find_photos(opened, images)
    results = []
    with _temporary_folder() if scratch is None else contextlib.nullcontext(Path(scratch)) as folder:
        pictures = _ReferencePictures(opened, photos, folder, threads=threads, time_limit_s=time_limit_s)
        for artifact, runtime in selection.pairs:
            verdict = _verify_one(opened, artifact, runtime, pictures)
            results.append(verdict)
            if progress is not None:
                progress(verdict)
    return Report(
        model=opened.manifest.model.name,
        checkpoint_sha256=opened.manifest.model.checkpoint_sha256,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        toonedge=opened.manifest.toonedge,
        photos=tuple(photo.name for photo in photos),
        host=describe_host(threads),
        results=tuple(results),
        left_out=selection.left_out,
    )


def gate_of(artifact: Artifact) -> Gate:
    """The thresholds an artifact is judged by: the first row of ``GATES`` that fits.

    Raises:
        UsageError: when no row fits.
    """
    image_output = artifact.io.output.layout is Layout.IMAGE
    return gate_for(artifact.precision, artifact.style, image_output=image_output)


def gate_for(precision: Precision, style: str | None, *, image_output: bool = False) -> Gate:
    """The thresholds of a kind of artifact, before there is one.

    Args:
        precision: of the artifact.
        style: the baked style; ``None`` for every style in one file.
        image_output: whether its result is an 8-bit image.

    Raises:
        UsageError: when no row fits.
    """
    for row in GATES:
        if (
            row.precision is precision
            and row.baked in (None, style is not None)
            and row.style in (None, style)
            and row.image_output in (None, image_output)
        ):
            return row.gate
    raise UsageError(f"no gate is defined for the precision {precision}: add a row to sdk.verify.GATES.")


def shortfalls(gate: Gate, styles: Sequence[StyleFigures]) -> list[str]:
    """What misses the gate, one clause each; empty when all is well. Whatever is not a number misses."""
    found = []
    for figures in styles:
        if gate.max_abs is not None and not figures.max_abs <= gate.max_abs:
            found.append(f"{figures.style}: max-abs {figures.max_abs:.3g} > {gate.max_abs:.3g}")
        if gate.ssim_mean is not None and not figures.ssim.mean >= gate.ssim_mean:
            found.append(f"{figures.style}: SSIM mean {figures.ssim.mean:.4f} < {gate.ssim_mean:g}")
        if gate.ssim_worst is not None and not figures.ssim.worst >= gate.ssim_worst:
            found.append(
                f"{figures.style}: SSIM worst {figures.ssim.worst:.4f} < {gate.ssim_worst:g} ({figures.worst_photo})"
            )
        if gate.psnr_mean is not None and not figures.psnr_db.mean >= gate.psnr_mean:
            found.append(f"{figures.style}: PSNR mean {figures.psnr_db.mean:.2f} dB < {gate.psnr_mean:g} dB")
    return found


def load_photos(photos: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    """Photos as every artifact of a size gets them: cropped to its shape around the centre, resized, 8-bit values.

    Returns:
        ``N x H x W x 3`` float32, RGB, [0, 1], every value a multiple of 1/255.
    """
    height, width = size
    fitted = [resize(centre_crop(read_photo(photo).rgb, width / height), height, width) for photo in photos]
    return np.stack(fitted).astype(np.float32) / np.float32(255)


class _ReferencePictures:
    """The photos and the float model's pictures of them, made when first asked for and kept on disk.

    A folder's name is a hash of all that its pictures depend on, and every file is renamed into place when it is whole,
    so that a folder can outlive one call and be shared by calls that run side by side.
    """

    def __init__(
        self, bundle: Bundle, photos: Sequence[Path], folder: Path, *, threads: int, time_limit_s: float
    ) -> None:
        self._bundle = bundle
        self.photos = photos
        self._folder = folder
        self.threads = threads
        self.time_limit_s = time_limit_s
        self._folders: dict[tuple[int, int], Path] = {}

    def get(self, size: tuple[int, int], styles: Sequence[str]) -> tuple[Path, dict[str, Path]]:
        """The ``.npy`` of the photos, and of the reference's pictures of them by style."""
        if size not in self._folders:
            self._folders[size] = self._prepare(size)
        folder = self._folders[size]
        pictures = {style: folder / f"style{self._bundle.styles.index(style)}.npy" for style in styles}
        missing = [style for style in styles if not pictures[style].exists()]
        if missing:
            self._draw(size, folder, {style: pictures[style] for style in missing})
        return folder / _PHOTOS, pictures

    def _prepare(self, size: tuple[int, int]) -> Path:
        loaded = load_photos(self.photos, size)
        key = hashlib.sha256(f"{self._bundle.manifest.reference.sha256} {loaded.shape}".encode())
        key.update(loaded.tobytes())
        folder = self._folder / f"{size[0]}x{size[1]}-{key.hexdigest()[:16]}"
        with disk_trouble("keep pictures in", folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / _PHOTOS).exists():
                with _renamed_into_place(folder / _PHOTOS) as path:
                    np.save(path, loaded)
        return folder

    def _draw(self, size: tuple[int, int], folder: Path, pictures: dict[str, Path]) -> None:
        reference: Reference = self._bundle.manifest.reference
        try:
            with Worker(threads=self.threads, time_limit_s=self.time_limit_s) as worker:
                worker.load(RUNTIMES["onnxruntime"], self._bundle.path(reference), reference.io)
                for style, picture in pictures.items():
                    with disk_trouble("keep pictures in", folder), _renamed_into_place(picture) as path:
                        worker.produce(folder / _PHOTOS, _weights(self._bundle, style), path)
                        if not np.isfinite(np.load(path, mmap_mode="r")).all():
                            raise UsageError(
                                f"the float model {reference.file!r} gives values that are not finite in the style "
                                f"{style!r}: train or export it again."
                            )
        except WorkerError as error:
            if error.errno is not None:
                raise trouble("keep pictures in", folder, OSError(error.errno, str(error))) from error
            raise UsageError(
                f"the float model {reference.file!r} does not run at {size[0]}x{size[1]} ({error}): export it again."
            ) from error


@contextlib.contextmanager
def _renamed_into_place(path: Path) -> Iterator[Path]:
    """A temporary name ending in ``.npy`` beside ``path``, which it gets when all went well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".npy")
    os.close(handle)
    try:
        yield Path(name)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _verify_one(bundle: Bundle, artifact: Artifact, runtime: Runtime, pictures: _ReferencePictures) -> Verdict:
    verdict = _Draft(artifact, runtime)
    try:
        check_path(bundle.path(artifact), artifact.sha256, artifact.bytes)
    except UsageError as error:
        return verdict.end(Outcome.FAIL, str(error), altered=True)
    availability = runtime.available()
    if not availability.ok:
        return verdict.end(Outcome.NOT_RUNNABLE, availability.reason)
    styles = bundle.styles if artifact.style is None else (artifact.style,)
    photos, references = pictures.get(artifact.size, styles)
    names = [photo.name for photo in pictures.photos]
    figures: list[StyleFigures] = []
    runs_ms: list[float] = []
    try:
        # A reference executor is not timed. Its many small steps would each wait for a second thread, which on a busy
        # machine takes longer than the work (measured: 8 s instead of 0.15 s a picture).
        threads = pictures.threads if runtime.kind in TIMED_KINDS else 1
        with Worker(threads=threads, time_limit_s=pictures.time_limit_s) as worker:
            load_ms = worker.load(RUNTIMES[runtime.name], bundle.path(artifact), artifact.io)
            for style in styles:
                weights = None if artifact.style is not None else _weights(bundle, style)
                compared = worker.compare(photos, weights, references[style])
                figures.append(_figures(style, names, compared))
                runs_ms += compared["run_ms"]
            peak_rss_bytes = worker.peak_rss_bytes()
    except WorkerError as error:
        return verdict.end(Outcome.NOT_RUNNABLE if error.missing else Outcome.FAIL, str(error))
    missed = shortfalls(verdict.gate, figures)
    return verdict.end(
        Outcome.FAIL if missed else Outcome.PASS,
        "; ".join(missed),
        figures=figures,
        latency_ms=_latency(runtime, runs_ms, pictures.threads),
        load_ms=load_ms,
        peak_rss_bytes=peak_rss_bytes or None,
    )


class _Draft:
    """A verdict in the making: what is known of every pair, whatever comes."""

    def __init__(self, artifact: Artifact, runtime: Runtime) -> None:
        self.artifact = artifact
        self.runtime = runtime
        self.gate = gate_of(artifact)

    def end(
        self,
        outcome: Outcome,
        reason: str,
        *,
        figures: Sequence[StyleFigures] = (),
        latency_ms: Latency | None = None,
        load_ms: float | None = None,
        peak_rss_bytes: int | None = None,
        altered: bool = False,
    ) -> Verdict:
        artifact, runtime = self.artifact, self.runtime
        return Verdict(
            file=artifact.file,
            target=artifact.target,
            backend=artifact.backend,
            precision=artifact.precision,
            style=artifact.style,
            runtime=runtime.name,
            kind=runtime.kind,
            verdict=outcome,
            reason=reason,
            gates=self.gate,
            bytes=artifact.bytes,
            images=figures[0].images if figures else 0,
            max_abs=_worst([f.max_abs for f in figures], max) if figures else None,
            psnr_db=_spread([f.psnr_db for f in figures]) if figures else None,
            ssim=_spread([f.ssim for f in figures]) if figures else None,
            latency_ms=latency_ms,
            load_ms=load_ms,
            peak_rss_bytes=peak_rss_bytes,
            styles=tuple(figures),
            altered=altered,
        )


def _figures(style: str, photos: Sequence[str], compared: dict[str, list[float]]) -> StyleFigures:
    ssims = compared["ssim"]
    # A picture with values that are not finite is the worst there is.
    worst = min(range(len(ssims)), key=lambda index: -math.inf if math.isnan(ssims[index]) else ssims[index])
    return StyleFigures(
        style=style,
        images=len(ssims),
        max_abs=_worst(compared["max_abs"], max),
        psnr_db=Spread(mean=float(np.mean(compared["psnr_db"])), worst=_worst(compared["psnr_db"], min)),
        ssim=Spread(mean=float(np.mean(ssims)), worst=_worst(ssims, min)),
        worst_photo=photos[worst],
    )


def _spread(parts: Sequence[Spread]) -> Spread:
    return Spread(mean=float(np.mean([part.mean for part in parts])), worst=_worst([p.worst for p in parts], min))


def _worst(values: Sequence[float], pick: Callable[[Sequence[float]], float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else pick(values)


def _latency(runtime: Runtime, runs_ms: Sequence[float], threads: int) -> Latency | None:
    counted = runs_ms[_WARM_UP:]
    return summarize(counted, threads=threads) if counted and runtime.kind in TIMED_KINDS else None


def _weights(bundle: Bundle, style: str) -> list[float]:
    return [float(name == style) for name in bundle.styles]


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with disk_trouble("keep pictures in", Path(tempfile.gettempdir())):
        folder = tempfile.TemporaryDirectory(prefix="toonedge-verify-")
    with folder as name:
        yield Path(name)


def _find_photos(bundle: Bundle, images: str | Path | Sequence[str | Path] | None) -> list[Path]:
    if isinstance(images, str | Path):
        return list(list_photos(images))
    if images is not None:
        if not images:
            raise UsageError("no photos were given to verify with: name a folder of photos.")
        return [Path(image) for image in images]
    ours = Path(__file__).resolve().parents[1] / "edge_tests" / "photos" / "test"
    if ours.is_dir():
        return list(list_photos(ours))
    pictures = bundle.manifest.reference.pictures
    photos = {picture.photo: picture.photo_sha256 for picture in pictures}
    if not photos:
        raise UsageError(f"the bundle {str(bundle.folder)!r} holds no reference photos: name a folder with --images.")
    for photo, sha256 in photos.items():
        bundle.check_file(photo, sha256)
    return [bundle.path(photo) for photo in sorted(photos)]


__all__ = [
    "GATES",
    "Gate",
    "GateRow",
    "Outcome",
    "Passed",
    "Report",
    "Spread",
    "StyleFigures",
    "Verdict",
    "gate_for",
    "gate_of",
    "load_photos",
    "shortfalls",
    "verify",
]
