"""Converting and judging: every target in a process of its own, every artifact read back as soon as it is there."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from converters.job import Conversion, Job, JobProcess
from converters.plan import Plan, unique_rows
from converters.registry import row_for
from sdk.bundle import Artifact, Bundle, Manifest, Reference
from sdk.errors import GateError
from sdk.files import disk_trouble

if TYPE_CHECKING:
    from converters.request import ExportSpec
    from sdk.verify import Verdict


class Status(StrEnum):
    """What became of an artifact."""

    PASS = "pass"
    FAIL = "fail"
    NOT_RUNNABLE = "not_runnable"
    UNVERIFIED = "unverified"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One artifact that was asked for.

    Attributes:
        file: its name; in ``rejected/`` when ``status`` is ``fail`` and it was converted at all.
        artifact: ``None`` when the conversion failed or was refused.
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


def produce(
    plan: Plan, folder: Path, reference: Reference, progress: Callable[[Result], None] | None = None
) -> tuple[Result, ...]:
    """Converts and judges every spec of a plan; ``plan.jobs`` targets at a time.

    Args:
        plan: what to make.
        folder: where the artifacts go, beside the reference.
        reference: the float model they are judged by.
        progress: called with each result as it comes, from one thread at a time.

    Returns:
        One result a spec, in their order. The files of those that failed are there as well.

    Raises:
        UsageError, MissingRuntimeError, FileTroubleError: what ended a conversion and is not the artifact's fault.
    """
    jobs = []
    for row in unique_rows(row_for(spec.target, spec.backend) for spec in plan.specs):
        place = folder / f".{row.target}-{row.backend}"
        with disk_trouble("write the bundle", plan.out):
            place.mkdir()
        jobs.append(
            Job(
                checkpoint=plan.checkpoint_file,
                checkpoint_sha256=plan.checkpoint.sha256,
                specs=tuple(s for s in plan.specs if (s.target, s.backend) == (row.target, row.backend)),
                folder=place,
                destination=plan.out,
                calibration=plan.calibration,
                dynamic_batch=plan.dynamic_batch,
                seed=plan.seed,
                ranges=plan.ranges,
                float_layers=plan.float_layers,
                min_ssim=plan.min_ssim,
                photos=plan.photos if plan.verify else (),
            )
        )
    jobs.sort(key=lambda job: -len(job.specs))  # the longest first, so that none is left over at the end
    results: dict[str, Result] = {}
    with (
        tempfile.TemporaryDirectory(prefix="toonedge-export-") as scratch,
        ThreadPoolExecutor(max_workers=plan.jobs) as pool,
    ):
        workshop = _Workshop(plan, folder, reference, Path(scratch), progress)
        running = [pool.submit(workshop.make, job) for job in jobs]
        try:
            for future in as_completed(running):
                results |= {result.file: result for result in future.result()}
        except BaseException:
            workshop.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(results[file_of(spec)] for spec in plan.specs)


class _Workshop:
    """Makes one job after another; several threads may work in it at once."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        reference: Reference,
        scratch: Path,
        progress: Callable[[Result], None] | None,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._reference = reference
        self._scratch = scratch
        self._progress = progress
        self._lock = threading.Lock()
        self._running: set[JobProcess] = set()
        self._stopped = False

    def make(self, job: Job) -> list[Result]:
        """The results of one job, in its order."""
        process = JobProcess(job)
        with self._lock:
            if self._stopped:
                return []
            self._running.add(process)
        results = []
        try:
            with process:
                for conversion in process.conversions():
                    results.append(self._finish(job, conversion))
                    if self._progress is not None:
                        with self._lock:
                            self._progress(results[-1])
        finally:
            with self._lock:
                self._running.discard(process)
        shutil.rmtree(job.folder)  # with whatever a failed conversion left in it
        return results

    def stop(self) -> None:
        """Ends every running conversion; their threads then end by themselves."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _finish(self, job: Job, conversion: Conversion) -> Result:
        """Takes a converted artifact over, reads it back and judges it."""
        if conversion.error is not None and not isinstance(conversion.error, GateError):
            raise conversion.error
        artifact = conversion.artifact
        if artifact is None:
            return Result(
                file=file_of(conversion.spec),
                artifact=None,
                status=Status.FAIL,
                reason=conversion.failure,
                seconds=conversion.seconds,
            )
        with disk_trouble("write the bundle", self._plan.out):
            (job.folder / artifact.file).rename(self._folder / artifact.file)
        if not self._plan.verify:
            return Result(file=artifact.file, artifact=artifact, status=Status.UNVERIFIED, seconds=conversion.seconds)
        started = time.perf_counter()
        verdicts = self._read_back(artifact)
        seconds = conversion.seconds + time.perf_counter() - started
        return judge(artifact, verdicts, min_ssim=self._plan.min_ssim, seconds=seconds)

    def _read_back(self, artifact: Artifact) -> tuple[Verdict, ...]:
        from sdk.verify import verify

        manifest = Manifest(
            model=self._plan.model, reference=self._reference, artifacts=(artifact,), toonedge="not committed yet"
        )
        return verify(Bundle(self._folder, manifest), threads=1, scratch=self._scratch).results


def judge(
    artifact: Artifact, verdicts: Sequence[Verdict], *, min_ssim: float | None = None, seconds: float = 0.0
) -> Result:
    """All gates together: ``sdk.verify``'s, the registry's (one delegate, fidelity), and the caller's own.

    Args:
        artifact: what was exported.
        verdicts: of ``sdk.verify``, one a runtime.
        min_ssim: least SSIM of any photo in any style, or ``None``.
        seconds: for the result.
    """
    from sdk.verify import Outcome

    missed = [f"{verdict.runtime}: {verdict.reason}" for verdict in verdicts if verdict.verdict is Outcome.FAIL]
    missed += delegate_faults(artifact)
    missed += fidelity_faults(artifact)
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


def fidelity_faults(artifact: Artifact) -> list[str]:
    """Why an int8 artifact misses its target's gate, as one sentence; empty when it holds or was not compared."""
    fidelity = artifact.quantization.fidelity if artifact.quantization is not None else None
    if fidelity is None:
        return []
    gate = row_for(artifact.target, artifact.backend).fidelity
    missed = [
        f"{what} {value:.3g} > {limit:g}"
        for what, value, limit in (
            ("max-abs", fidelity.max_abs_steps, gate.max_abs_steps),
            ("mean-abs", fidelity.mean_abs_steps, gate.mean_abs_steps),
            ("drift", fidelity.drift_steps, gate.drift_steps),
        )
        if not value <= limit
    ]
    if not missed:
        return []
    return [
        f"under {fidelity.runtime} the saved file draws something else than its own quantized graph "
        f"({', '.join(missed)} steps of 1/255): the fault is the export's and not int8's"
    ]


def file_of(spec: ExportSpec) -> str:
    """The name of the file a spec asks for."""
    return spec.file_name(row_for(spec.target, spec.backend).suffix)
