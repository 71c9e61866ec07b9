"""From a checkpoint to a proven bundle: the pipeline, and the command line ``python -m converters.export``.

1. Everything that was asked for is checked, and refused at once, before any work.
2. ``reference.onnx`` is written and proven against the checkpoint's own network.
3. Each target's artifacts are converted in a process of their own (``converters.job``), two at a time.
4. Each artifact is read back from disk and judged by ``sdk.verify``; what fails goes to ``rejected/``.
5. Manifest, model card and reference pictures are written, and the folder is swapped into place.

An error leaves the output folder as it was.
"""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.problems import Problems
from converters.registry import (
    ALL,
    EXTRA,
    REFERENCE_PACKAGES,
    Choice,
    TargetRow,
    backend_help,
    choose,
    missing_packages,
    precision_help,
    row_for,
    target_help,
)
from sdk import console
from sdk.bundle import (
    MANIFEST,
    Artifact,
    Bundle,
    BundleWriter,
    Manifest,
    ModelInfo,
    Reference,
    ReferencePicture,
    hash_path,
)
from sdk.errors import ExitCode, GateError, MissingRuntimeError, UsageError, unknown_name
from sdk.files import disk_trouble, write_atomically
from sdk.spec import Precision, parse_size

if TYPE_CHECKING:
    import numpy as np

    from converters.job import Conversion, Job, JobProcess
    from converters.request import ExportSpec
    from sdk.verify import Verdict
    from training.checkpoint import Checkpoint

#: Where an export goes unless told otherwise.
DEFAULT_OUT = Path("dist")
#: Converter processes at a time: each needs up to 2 GB.
DEFAULT_JOBS = 2
CARD = "README.md"
#: How many photos ``reference/`` holds.
_PICTURES = 3
#: A size no artifact has, with unequal sides, at which the float model is proven as well.
_ODD_SIZE = (96, 160)
#: Model and style names become parts of file names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class Status(StrEnum):
    """What became of an artifact."""

    PASS = "pass"
    FAIL = "fail"
    NOT_RUNNABLE = "not_runnable"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One artifact that was asked for.

    Attributes:
        file: its name; in ``rejected/`` when ``status`` is ``fail`` and it was converted at all.
        artifact: ``None`` when the conversion failed.
        status: see ``Status``.
        reason: why it did not pass; empty when it did.
        verdict: of the read-back; ``None`` when it was not converted or not verified.
        seconds: conversion and verification.
    """

    file: str
    artifact: Artifact | None
    status: Status
    reason: str = ""
    verdict: Verdict | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export did; true when every gate passed.

    Attributes:
        bundle: the folder as it is now.
        results: one an artifact that was asked for, in the order of the request.
        reference_max_abs: the float model's largest difference from the checkpoint's network.
        seconds: all of it.
    """

    bundle: Bundle
    results: tuple[Result, ...]
    reference_max_abs: float
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(result.status is not Status.FAIL for result in self.results)

    @property
    def exit_code(self) -> ExitCode:
        """1 when a gate failed, otherwise 0."""
        return ExitCode.OK if self.ok else ExitCode.GATE_FAILED

    def __bool__(self) -> bool:
        return self.ok

    def explain(self) -> str:
        """One sentence."""
        counts = {status: sum(result.status is status for result in self.results) for status in Status}
        said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        size = sum(artifact.bytes for artifact in self.bundle.artifacts) / 1e6
        return (
            f"{said}; {self.bundle.folder} holds {len(self.bundle.artifacts)} artifacts ({size:.1f} MB), "
            f"{self.seconds:.0f} s."
        )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A request that was found to be possible."""

    checkpoint_file: Path
    checkpoint: Checkpoint
    model: ModelInfo
    specs: tuple[ExportSpec, ...]
    photos: tuple[Path, ...]
    calibration: Path | None
    out: Path
    min_ssim: float | None
    verify: bool
    dynamic_batch: bool
    seed: int
    jobs: int


def export(
    *,
    target: str | Sequence[str] = ALL,
    backend: str | None = None,
    precision: str | Sequence[str] = (),
    checkpoint: str | Path | None = None,
    style: str | Sequence[str] = (),
    size: str | Sequence[str] = (),
    out: str | Path = DEFAULT_OUT,
    calibration: str | Path | None = None,
    min_ssim: float | None = None,
    verify: bool = True,
    dynamic_batch: bool = False,
    seed: int = 0,
    jobs: int = DEFAULT_JOBS,
    progress: Callable[[Result], None] | None = None,
) -> ExportResult:
    """Exports a checkpoint and proves every artifact; adds to the bundle in ``out`` when it is of the same checkpoint.

    Args:
        target: ``executorch``, ``coreml``, ``tflite``, ``onnx`` or ``all``; one or several.
        backend: where a target has several; by default its first.
        precision: ``fp32``, ``fp16``, ``int8`` or ``all``; by default each target's own default.
        checkpoint: a ``.safetensors`` file; by default the one that ships with the project.
        style: styles to bake, one artifact each; ``all`` is the artifact with every style, which is also the default.
        size: ``HxW`` in pixels, divisible by 16; by default what the network was trained for.
        out: the bundle's folder.
        calibration: a folder of at least 16 photos, for int8; by default the project's own.
        min_ssim: least SSIM that any photo in any style may have, on top of the gates of ``sdk.verify``.
        verify: read each artifact back and judge it. Without, nothing is known of what is in the bundle.
        dynamic_batch: any batch size, for the targets that can.
        seed: of the order of the calibration photos.
        jobs: converter processes at a time.
        progress: called with each result as it comes.

    Returns:
        What was done. A failed gate is a result, not an exception: look at ``ok``.

    Raises:
        UsageError: whatever is wrong with the request or the checkpoint, all at once.
        GateError: the float model does not reproduce the checkpoint's network.
        MissingRuntimeError: a tool is not installed; names the extra.
        FileTroubleError: the disk says no.
    """
    started = time.perf_counter()
    plan = _check(
        targets=_names(target),
        backend=backend,
        precisions=_names(precision),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        styles=_names(style),
        sizes=_names(size),
        out=Path(out),
        calibration=None if calibration is None else Path(calibration),
        min_ssim=min_ssim,
        verify=verify,
        dynamic_batch=dynamic_batch,
        seed=seed,
        jobs=jobs,
    )
    with BundleWriter(plan.out, plan.model) as writer:
        max_abs = _write_reference(plan, writer)
        results = _make_all(plan, writer, progress)
        for result in results:
            if result.artifact is not None and result.status is Status.FAIL:
                writer.reject(result.artifact, _verdict_text(result))
            elif result.artifact is not None:
                writer.add(result.artifact)
        _write_card(plan, writer, results)
        bundle = writer.commit()
    return ExportResult(
        bundle=bundle, results=results, reference_max_abs=max_abs, seconds=time.perf_counter() - started
    )


# --- 1. checking -----------------------------------------------------------------------------------------------------


def _check(
    *,
    targets: Sequence[str],
    backend: str | None,
    precisions: Sequence[str],
    checkpoint: Path | None,
    styles: Sequence[str],
    sizes: Sequence[str],
    out: Path,
    calibration: Path | None,
    min_ssim: float | None,
    verify: bool,
    dynamic_batch: bool,
    seed: int,
    jobs: int,
) -> _Plan:
    """Everything that can be refused is refused here, and all of it at once."""
    problems = Problems()
    choices = choose(targets, backend, precisions, problems=problems)
    parsed: list[tuple[int, int]] = []
    for text in dict.fromkeys(sizes):
        with problems.collect():
            parsed.append(parse_size(text))
    if min_ssim is not None and not 0 < min_ssim <= 1:
        problems.add(UsageError(f"--min-ssim is {min_ssim:g}: give a number above 0 and at most 1."))
    if jobs < 1:
        problems.add(UsageError(f"--jobs is {jobs}: give at least 1."))
    if dynamic_batch and choices and not any(choice.row.dynamic_batch for choice in choices):
        rows = ", ".join(dict.fromkeys(choice.row.target for choice in choices))
        problems.add(UsageError(f"--dynamic-batch is not possible for {rows}: leave it out, or export onnx."))
    with problems.collect():
        _check_writable(out)
    _check_tools(choices, problems)
    if any(isinstance(problem, MissingRuntimeError) for problem in problems.found):
        problems.raise_any()  # nothing further can be looked at without the tools
    loaded, file = _load_checkpoint(checkpoint, problems)
    baked: list[str | None] = [None]
    if loaded is not None:
        baked = _check_styles(styles, loaded.info.styles, problems)
        _check_names(loaded, problems)
        with problems.collect(), BundleWriter(out, _model_info(loaded)) as writer:
            writer.discard()  # only asked whether it could
    folder = calibration
    if any(choice.precision is Precision.INT8 for choice in choices):
        folder = _check_int8(loaded, calibration, parsed, problems)
    photos: tuple[Path, ...] = ()
    with problems.collect():
        photos = _find_photos(folder)
    problems.raise_any()
    assert loaded is not None
    return _Plan(
        checkpoint_file=file,
        checkpoint=loaded,
        model=_model_info(loaded),
        specs=tuple(_specs(loaded, choices, baked, parsed or [loaded.info.size])),
        photos=photos,
        calibration=folder,
        out=out,
        min_ssim=min_ssim,
        verify=verify,
        dynamic_batch=dynamic_batch,
        seed=seed,
        jobs=jobs,
    )


def _check_tools(choices: Iterable[Choice], problems: Problems) -> None:
    for package in missing_packages(REFERENCE_PACKAGES):
        problems.add(MissingRuntimeError.for_extra("exporting", package, EXTRA))
    for row in _rows(choice.row for choice in choices):
        with problems.collect():
            row.require()


def _load_checkpoint(path: Path | None, problems: Problems) -> tuple[Checkpoint | None, Path]:
    from training.checkpoint import PRETRAINED, load_checkpoint

    file = path or PRETRAINED
    with problems.collect():
        return load_checkpoint(file), file
    return None, file


def _check_styles(names: Sequence[str], known: tuple[str, ...], problems: Problems) -> list[str | None]:
    """Styles to bake; ``None`` is the artifact with all of them."""
    chosen: list[str | None] = []
    for name in dict.fromkeys(names or (ALL,)):
        if name == ALL:
            chosen.append(None)
        elif name in known:
            chosen.append(name)
        else:
            problems.add(unknown_name("style", name, [*known, ALL]))
    return chosen


def _check_names(checkpoint: Checkpoint, problems: Problems) -> None:
    for kind, name in [("model", checkpoint.info.name), *(("style", style) for style in checkpoint.info.styles)]:
        if not _NAME.fullmatch(name):
            problems.add(
                UsageError(
                    f"the checkpoint's {kind} name {name!r} cannot be a part of a file name: "
                    "use letters, digits, dots and hyphens."
                )
            )


def _check_int8(
    checkpoint: Checkpoint | None, folder: Path | None, sizes: Sequence[tuple[int, int]], problems: Problems
) -> Path:
    """The folder of calibration photos, all of which were read."""
    from converters.calibration import DEFAULT_PHOTOS, load_calibration
    from converters.graph import deployable, require_int8

    folder = folder or DEFAULT_PHOTOS
    if checkpoint is not None:
        with problems.collect():
            require_int8(deployable(checkpoint.generator))
    with problems.collect():
        load_calibration(folder, size=sizes[0] if sizes else (64, 64), styles=1)
    return folder


def _check_writable(out: Path) -> None:
    """Looks whether a folder can be made beside ``out``, which is where the work happens.

    Raises:
        FileTroubleError: when it cannot.
    """
    place = out.absolute().parent
    while not place.exists():
        place = place.parent
    with disk_trouble("write the bundle", out):
        Path(tempfile.mkdtemp(dir=place, prefix=f".{out.name}.probe-")).rmdir()


def _find_photos(calibration: Path | None) -> tuple[Path, ...]:
    """Photos to prove the float model with: the test photos of the repository, else the calibration photos."""
    from converters.calibration import DEFAULT_PHOTOS
    from sdk.imaging import list_photos

    test = DEFAULT_PHOTOS.parent / "test"
    for folder in (test, calibration):
        if folder is not None and folder.is_dir():
            photos = list_photos(folder)
            step = max(1, len(photos) // _PICTURES)
            return tuple(photos[step // 2 :: step][:_PICTURES])
    raise UsageError(
        f"there are no photos to prove the export with (no folder {test}): give a folder with --calibration."
    )


def _model_info(checkpoint: Checkpoint) -> ModelInfo:
    from training.models.generator import count_macs, count_params

    info = checkpoint.info
    return ModelInfo(
        name=info.name,
        version=info.version,
        checkpoint_sha256=checkpoint.sha256,
        styles=info.styles,
        params=count_params(checkpoint.generator),
        macs=count_macs(checkpoint.generator, *info.size),
        macs_size=info.size,
        licence=info.licence,
        author=info.author,
    )


def _specs(
    checkpoint: Checkpoint, choices: Sequence[Choice], styles: Sequence[str | None], sizes: Sequence[tuple[int, int]]
) -> Iterator[ExportSpec]:
    from converters.request import ExportSpec

    info = checkpoint.info
    # Precisions innermost: the artifacts of one graph and size come one after another and share its trace.
    for row in _rows(choice.row for choice in choices):
        for style in styles:
            for size in sizes:
                for choice in choices:
                    if choice.row is row:
                        yield ExportSpec(
                            name=info.name,
                            version=info.version,
                            author=info.author,
                            licence=info.licence,
                            styles=info.styles,
                            target=row.target,
                            backend=row.backend,
                            precision=choice.precision,
                            size=size,
                            style=style,
                        )


# --- 2. the float model ----------------------------------------------------------------------------------------------


def _write_reference(plan: _Plan, writer: BundleWriter) -> float:
    """Writes and proves ``reference.onnx`` and draws the reference pictures; returns the largest difference found."""
    from converters.to_onnx import draw_reference, prove_reference, write_reference
    from sdk.verify import load_photos

    earlier = writer.reference
    reference = write_reference(plan.checkpoint, writer.folder)
    sizes = tuple(dict.fromkeys(spec.size for spec in plan.specs))
    photos = {size: load_photos(plan.photos, size) for size in (*sizes, _ODD_SIZE)}
    as_bytes = [_to_bytes(photo) for size in photos for photo in photos[size]]
    path = writer.folder / reference.file
    max_abs = prove_reference(path, plan.checkpoint, as_bytes)
    pictures: list[ReferencePicture] = []
    for size in sizes:
        drawn = draw_reference(path, photos[size], len(plan.model.styles))
        pictures += _save_pictures(writer.folder, size, plan, photos[size], drawn)
    new = {picture.result for picture in pictures}
    kept = [p for p in (earlier.pictures if earlier else ()) if p.result not in new]
    writer.set_reference(dataclasses.replace(reference, pictures=(*kept, *pictures)))
    return max_abs


def _save_pictures(
    folder: Path, size: tuple[int, int], plan: _Plan, photos: np.ndarray, drawn: np.ndarray
) -> list[ReferencePicture]:
    """Writes ``photos`` (``P x H x W x 3``) and ``drawn`` (``S x P x H x W x 3``), both in [0, 1], as 8-bit PNGs."""
    from PIL import Image

    place = Path("reference", f"{size[0]}x{size[1]}")
    with disk_trouble("write the bundle", plan.out):
        (folder / place).mkdir(parents=True, exist_ok=True)
        made: list[ReferencePicture] = []
        for index, source in enumerate(plan.photos):
            photo = place / f"{source.stem}.png"
            Image.fromarray(_to_bytes(photos[index])).save(folder / photo)
            for row, style in enumerate(plan.model.styles):
                result = place / f"{source.stem}_{style}.png"
                Image.fromarray(_to_bytes(drawn[row, index])).save(folder / result)
                made.append(
                    ReferencePicture(
                        photo=photo.as_posix(),
                        photo_sha256=hash_path(folder / photo),
                        style=style,
                        result=result.as_posix(),
                        result_sha256=hash_path(folder / result),
                    )
                )
    return made


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    """``H x W x 3`` in [0, 1] to uint8, rounded half to even."""
    import numpy as np

    return np.rint(np.clip(picture, 0, 1) * np.float32(255)).astype(np.uint8)


# --- 3. and 4. converting and judging --------------------------------------------------------------------------------


def _make_all(plan: _Plan, writer: BundleWriter, progress: Callable[[Result], None] | None) -> tuple[Result, ...]:
    """Converts and verifies every spec; targets run side by side."""
    from converters.job import Job, JobProcess

    reference = writer.reference
    assert reference is not None
    jobs = []
    for row in _rows(row_for(spec.target, spec.backend) for spec in plan.specs):
        folder = writer.folder / f".{row.target}-{row.backend}"
        with disk_trouble("write the bundle", plan.out):
            folder.mkdir()
        jobs.append(
            Job(
                checkpoint=plan.checkpoint_file,
                specs=tuple(s for s in plan.specs if (s.target, s.backend) == (row.target, row.backend)),
                folder=folder,
                destination=plan.out,
                calibration=plan.calibration,
                dynamic_batch=plan.dynamic_batch,
                seed=plan.seed,
            )
        )
    jobs.sort(key=lambda job: -len(job.specs))  # the longest first, so that none is left over at the end
    shop = _Workshop(plan, writer.folder, reference, progress)
    results: dict[str, Result] = {}
    with ThreadPoolExecutor(max_workers=plan.jobs) as pool:
        running = [pool.submit(shop.make, job, JobProcess(job)) for job in jobs]
        try:
            for future in as_completed(running):
                for result in future.result():
                    results[result.file] = result
        except BaseException:
            shop.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(results[_file_of(spec)] for spec in plan.specs)


class _Workshop:
    """Makes the artifacts of one job after another; several threads may work in it at once."""

    def __init__(
        self, plan: _Plan, folder: Path, reference: Reference, progress: Callable[[Result], None] | None
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._reference = reference
        self._progress = progress
        self._lock = threading.Lock()
        self._running: set[JobProcess] = set()
        self._stopped = False

    def make(self, job: Job, process: JobProcess) -> list[Result]:
        """The results of one job, in its order."""
        with self._lock:
            if self._stopped:
                return []
            self._running.add(process)
        try:
            with process:
                conversions = [self._move(job, conversion) for conversion in process.conversions()]
        finally:
            with self._lock:
                self._running.discard(process)
        job.folder.rmdir()
        results = [
            Result(file=_file_of(c.spec), artifact=None, status=Status.FAIL, reason=c.failure, seconds=c.seconds)
            for c in conversions
            if c.artifact is None
        ]
        results += self._judge(conversions)
        if self._progress is not None:
            with self._lock:
                for result in results:
                    self._progress(result)
        return results

    def stop(self) -> None:
        """Ends every running conversion; their threads then end by themselves."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _move(self, job: Job, conversion: Conversion) -> Conversion:
        """Takes a finished artifact over into the bundle; what a failed conversion left is removed with the folder."""
        if conversion.error is not None and not isinstance(conversion.error, GateError):
            raise conversion.error
        if conversion.artifact is not None:
            (job.folder / conversion.artifact.file).rename(self._folder / conversion.artifact.file)
        for left in job.folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return conversion

    def _judge(self, conversions: Sequence[Conversion]) -> list[Result]:
        """Reads artifacts back and judges them."""
        from sdk.verify import verify

        artifacts = tuple(c.artifact for c in conversions if c.artifact is not None)
        seconds = {c.artifact.file: c.seconds for c in conversions if c.artifact is not None}
        if not artifacts:
            return []
        if not self._plan.verify:
            return [
                Result(file=a.file, artifact=a, status=Status.UNVERIFIED, seconds=seconds[a.file]) for a in artifacts
            ]
        manifest = Manifest(model=self._plan.model, reference=self._reference, artifacts=artifacts, toonedge="-")
        last = time.perf_counter()

        def heard(verdict: Verdict) -> None:
            nonlocal last
            now = time.perf_counter()
            seconds[verdict.file] += now - last
            last = now

        report = verify(Bundle(self._folder, manifest), threads=1, progress=heard)
        return [judge(a, report.verdicts(a.file), self._plan.min_ssim, seconds[a.file]) for a in artifacts]


def judge(artifact: Artifact, verdicts: Sequence[Verdict], min_ssim: float | None, seconds: float = 0.0) -> Result:
    """All gates together: ``sdk.verify``'s, the registry's delegate gate, and the caller's own.

    Args:
        artifact: what was exported.
        verdicts: of ``sdk.verify``, one a runtime.
        min_ssim: least SSIM of any photo in any style, or ``None``.
        seconds: for the result.
    """
    from sdk.verify import Outcome

    missed = [f"{verdict.runtime}: {verdict.reason}" for verdict in verdicts if verdict.verdict is Outcome.FAIL]
    missed += delegate_faults(artifact)
    for verdict in verdicts:
        if min_ssim is not None and verdict.ssim is not None and not verdict.ssim.worst >= min_ssim:
            missed.append(f"{verdict.runtime}: SSIM worst {verdict.ssim.worst:.4f} < {min_ssim:g} (--min-ssim)")
    ran = [verdict for verdict in verdicts if verdict.verdict is not Outcome.NOT_RUNNABLE]
    shown = next((verdict for verdict in ran if verdict.verdict is Outcome.FAIL), (ran or list(verdicts))[0])
    if missed:
        status, reason = Status.FAIL, "; ".join(missed)
        shown = dataclasses.replace(shown, verdict=Outcome.FAIL, reason=reason)
    elif ran:
        status, reason = Status.PASS, ""
    else:
        status, reason = Status.NOT_RUNNABLE, shown.reason
    return Result(file=artifact.file, artifact=artifact, status=status, reason=reason, verdict=shown, seconds=seconds)


def delegate_faults(artifact: Artifact) -> list[str]:
    """Why an artifact misses the gate "one delegate and no operator outside"; empty where there is no such gate.

    Copies between layouts at the border are no operators. What is in the file was read from the file by its converter.
    """
    if not row_for(artifact.target, artifact.backend).one_delegate:
        return []
    delegation = artifact.delegation
    if delegation is None:
        return ["its converter did not say what is delegated"]
    faults = []
    if len(delegation.delegates) != 1:
        faults.append(f"{len(delegation.delegates)} delegates instead of exactly 1")
    if delegation.operators_outside:
        faults.append(f"operators outside of the delegate: {', '.join(delegation.operators_outside)}")
    return faults


# --- 5. the bundle ---------------------------------------------------------------------------------------------------


def _verdict_text(result: Result) -> str:
    from sdk.report import verdict_text

    assert result.verdict is not None  # what was converted and failed was verified
    return verdict_text(result.verdict)


def _write_card(plan: _Plan, writer: BundleWriter, results: Sequence[Result]) -> None:
    from converters.card import model_card

    staged = writer.staged()
    artifacts = {a.file: a for a in (*_earlier_artifacts(plan.out), *staged.artifacts)}
    verdicts = {r.file: r.verdict for r in results if r.verdict is not None and r.status is not Status.FAIL}
    card = model_card(
        plan.model,
        staged.manifest.reference,
        list(artifacts.values()),
        verdicts,
        provenance=plan.checkpoint.info.provenance,
        credits=_credits(plan.photos),
    )
    write_atomically(writer.folder / CARD, card)


def _earlier_artifacts(out: Path) -> tuple[Artifact, ...]:
    return Bundle.open(out).artifacts if (out / MANIFEST).is_file() else ()


def _credits(photos: Sequence[Path]) -> list[str]:
    """Author and licence of photos that come from the repository's list, which their licences ask to be told."""
    lines = []
    for photo in photos:
        table = photo.parent.parent / "photos.csv"
        if table.is_file():
            with table.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    if row["file"] == f"{photo.parent.name}/{photo.name}":
                        lines.append(
                            f"`{photo.stem}`: by {row['author']}, from {row['package']}, licence {row['licence']}; "
                            "cropped and scaled."
                        )
    return lines


def _rows(rows: Iterable[TargetRow]) -> list[TargetRow]:
    """Each row once, in the order they come."""
    found: list[TargetRow] = []
    for row in rows:
        if row not in found:
            found.append(row)
    return found


def _file_of(spec: ExportSpec) -> str:
    return spec.file_name(row_for(spec.target, spec.backend).suffix)


def _names(values: str | Sequence[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


# --- command line ----------------------------------------------------------------------------------------------------

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def command(
    *,
    target: Annotated[list[str] | None, typer.Option(help=target_help())] = None,
    backend: Annotated[str | None, typer.Option(help=backend_help())] = None,
    precision: Annotated[list[str] | None, typer.Option(help=precision_help())] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A .safetensors checkpoint.  [default: the one that ships with the project]")
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(help=f"Bake this style in; repeatable. '{ALL}' is every style in one file.  [default: {ALL}]"),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(help="HxW in pixels, divisible by 16; repeatable.  [default: what the network was trained for]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The bundle's folder; one of the same checkpoint is added to.")] = (
        DEFAULT_OUT
    ),
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of at least 16 photos, for int8.  [default: the project's]")
    ] = None,
    min_ssim: Annotated[
        float | None, typer.Option(help="Least SSIM of any photo in any style, on top of the gates.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not read the artifacts back.")] = False,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Any batch size, for targets that can.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the calibration photos.")] = 0,
    jobs: Annotated[int, typer.Option(help="Converter processes at a time.")] = DEFAULT_JOBS,
) -> None:
    """Export a checkpoint to phone runtimes and prove each artifact; exit 1 when one fails its gate."""
    with console.progress(None, "exporting") as step:

        def show(result: Result) -> None:
            console.say(result_line(result))
            step()

        result = export(
            target=target or ALL,
            backend=backend,
            precision=precision or (),
            checkpoint=checkpoint,
            style=style or (),
            size=size or (),
            out=out,
            calibration=calibration,
            min_ssim=min_ssim,
            verify=not no_verify,
            dynamic_batch=dynamic_batch,
            seed=seed,
            jobs=jobs,
            progress=show,
        )
    console.say(result.explain())
    if no_verify:
        console.note("nothing was read back: run `python -m sdk verify` before anything is shipped.")
    raise typer.Exit(int(result.exit_code))


def result_line(result: Result) -> str:
    """One line: status, file, size, worst SSIM, largest difference, seconds, and the reason when there is one."""
    parts = [f"{result.status:<12}", result.file]
    if result.artifact is not None:
        parts.append(f"{result.artifact.bytes / 1e6:.2f} MB")
    verdict = result.verdict
    if verdict is not None and verdict.ssim is not None and verdict.max_abs is not None:
        parts.append(f"SSIM {verdict.ssim.mean:.4f} worst {verdict.ssim.worst:.4f}, max-abs {verdict.max_abs:.2g}")
    parts.append(f"{result.seconds:.1f} s")
    return "  ".join(parts) + (f"  ({result.reason})" if result.reason else "")


class _CallableModule(ModuleType):
    """Lets ``converters.export`` be the function as well as the module: a submodule hides any name of its package."""

    def __call__(self, **options: Any) -> ExportResult:
        return export(**options)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    console.run(app, prog_name="python -m converters.export")
