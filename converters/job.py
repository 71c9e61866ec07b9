"""The conversions of one target, in a process of their own.

A fresh interpreter for each target: the converters' tools patch torch, print as they please and bring their own copies
of the same native libraries, and a crash of one must not take the others along. The caller needs no
``if __name__ == "__main__"``, because nothing is forked. The two sides exchange pickles over a pipe that nobody else
can write to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar

from converters.ranges import RangeMethod
from sdk.bundle import Artifact, disk_error
from sdk.errors import ToonEdgeError, UsageError
from sdk.files import trouble
from sdk.spec import Precision

if TYPE_CHECKING:
    from converters.calibration import CalibrationSet
    from converters.graph import DeployGraph
    from converters.request import ExportSpec

#: Seconds one conversion may take.
TIME_LIMIT_S = 1200.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a converter process is told.

    Attributes:
        checkpoint: the file.
        checkpoint_sha256: what was planned with; a file that was replaced since is refused.
        specs: the artifacts, all of one target.
        folder: where the files go; it exists.
        destination: where they will end up, for messages.
        calibration: a folder of photos; ``None`` when no spec is int8.
        dynamic_batch: for the files that can have it.
        seed: of the order of the calibration photos.
        ranges: how int8 ranges follow from what calibration saw.
        float_layers: module paths that int8 leaves in float; ``None``: as few as the gate needs.
        min_ssim: the caller's own bar for the worst photo, which the choice of float layers heeds as well.
        photos: what int8 artifacts are compared with their simulations on; none: they are not.
    """

    checkpoint: Path
    checkpoint_sha256: str
    specs: tuple[ExportSpec, ...]
    folder: Path
    destination: Path
    calibration: Path | None = None
    dynamic_batch: bool = False
    seed: int = 0
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES
    float_layers: tuple[str, ...] | None = ()
    min_ssim: float | None = None
    photos: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What became of one spec: an artifact, or the reason why there is none.

    Attributes:
        spec: what was asked.
        artifact: what was written; ``None`` when the conversion failed.
        failure: a sentence; empty when it did not.
        error: the user's mistake, or the disk's trouble, that ended the conversion.
        seconds: what it took.
    """

    spec: ExportSpec
    artifact: Artifact | None
    failure: str = ""
    error: ToonEdgeError | None = None
    seconds: float = 0.0


def run_job(job: Job) -> Iterator[Conversion]:
    """Converts everything in a job, here and now; a failure of one spec does not keep the next from being tried."""
    from converters.calibration import load_calibration
    from converters.graph import deployable, prove_fold
    from converters.registry import row_for
    from converters.request import ExportOptions
    from sdk.spec import style_weights
    from training.checkpoint import load_any_checkpoint

    try:
        checkpoint = load_any_checkpoint(job.checkpoint)
        if checkpoint.sha256 != job.checkpoint_sha256:
            raise UsageError(f"checkpoint {job.checkpoint} was replaced while it was being exported: export again.")
    except ToonEdgeError as error:
        for spec in job.specs:
            yield Conversion(spec=spec, artifact=None, failure=str(error), error=error)
        return
    # One graph a style and one calibration set a style and size, whatever the number of precisions.
    graphs: dict[str | None, DeployGraph] = {}
    sets: dict[tuple[str | None, tuple[int, int]], CalibrationSet] = {}
    in_float: dict[tuple[str | None, tuple[int, int]], FloatLayers] = {}
    for spec in job.specs:
        started = time.perf_counter()
        artifact, failure, problem = None, "", None
        try:
            weights = None if spec.style is None else style_weights(spec.style, checkpoint.info.styles)
            if spec.style not in graphs:
                graph = deployable(checkpoint.generator, style=weights)
                prove_fold(checkpoint.generator, graph, style=weights)
                graphs[spec.style] = graph
            key = (spec.style, spec.size)
            if spec.precision is Precision.INT8 and key not in sets and job.calibration is not None:
                sets[key] = load_calibration(
                    job.calibration, size=spec.size, styles=len(spec.styles), style=weights, seed=job.seed
                )
            if key in sets and key not in in_float:
                in_float[key] = _float_layers(job, graphs[spec.style], sets[key], spec)
            row = row_for(spec.target, spec.backend)
            kept = in_float[key] if spec.precision is Precision.INT8 and key in in_float else FloatLayers()
            options = ExportOptions(
                folder=job.folder,
                calibration=sets.get(key) if spec.precision is Precision.INT8 else None,
                dynamic_batch=job.dynamic_batch and row.dynamic_batch,
                ranges=job.ranges,
                float_layers=kept.layers,
                photos=job.photos,
            )
            artifact = row.load()(graphs[spec.style], spec, options)
            if artifact.quantization is not None:
                quantization = dataclasses.replace(artifact.quantization, float_macs=kept.macs)
                artifact = dataclasses.replace(artifact, quantization=quantization)
        except ToonEdgeError as error:
            failure, problem = str(error), error
        except Exception as error:  # noqa: BLE001 - whatever a tool throws is this artifact's failure, and is said
            failure = f"the converter failed ({type(error).__name__}: {_first_line(error)})"
            disk = disk_error(error)
            problem = None if disk is None else trouble("write the bundle", job.destination, disk)
        yield Conversion(
            spec=spec, artifact=artifact, failure=failure, error=problem, seconds=time.perf_counter() - started
        )


@dataclass(frozen=True, kw_only=True)
class FloatLayers:
    """Layers that int8 leaves in float, and their share of the multiply-accumulates."""

    layers: tuple[str, ...] = ()
    macs: float = 0.0


def _float_layers(job: Job, graph: DeployGraph, calibration: CalibrationSet, spec: ExportSpec) -> FloatLayers:
    """What the job names, or what the gate of the artifact needs."""
    from converters.request import check_layers
    from converters.sensitivity import choose_float_layers, count_layer_macs, share_of_macs
    from sdk.verify import gate_for

    if job.float_layers is None:
        gate = gate_for(spec.precision, spec.style)
        if job.min_ssim is not None:
            gate = dataclasses.replace(gate, ssim_worst=max(gate.ssim_worst or 0.0, job.min_ssim))
        choice = choose_float_layers(graph, calibration, gate, ranges=job.ranges)
        return FloatLayers(layers=choice.layers, macs=choice.macs)
    layers = check_layers(graph, job.float_layers)
    macs = share_of_macs(count_layer_macs(graph, spec.size), layers) if layers else 0.0
    return FloatLayers(layers=layers, macs=macs)


class JobProcess:
    """A job in a process of its own. Use it as a context manager; leaving it ends the process."""

    #: What the interpreter runs.
    program: ClassVar[str] = "from converters.job import main; main()"

    def __init__(self, job: Job, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.job = job
        self.time_limit_s = time_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._answers: queue.Queue[Conversion | None] = queue.Queue()

    def __enter__(self) -> JobProcess:
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", self.program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(),
        )
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        if self._stderr is not None:
            self._stderr.close()

    def kill(self) -> None:
        """Ends the process at once; what it has not done comes as failures. Any thread may call this."""
        process = self._process
        if process is not None:
            process.kill()

    def conversions(self) -> Iterator[Conversion]:
        """Every spec of the job in order, as it is done; what a crash or a hang left undone comes as failures."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a process that died at once has an obituary below
            self._process.stdin.write(pickle.dumps(self.job))
            self._process.stdin.close()
        for index, _ in enumerate(self.job.specs):
            try:
                answer = self._answers.get(timeout=self.time_limit_s)
            except queue.Empty:
                self._process.kill()
                yield from self._undone(index, f"no result within {self.time_limit_s:g} s: ended")
                return
            if answer is None:
                yield from self._undone(index, self._obituary())
                return
            yield answer

    def _undone(self, start: int, failure: str) -> Iterator[Conversion]:
        for spec in self.job.specs[start:]:
            yield Conversion(spec=spec, artifact=None, failure=failure)

    def _listen(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                self._answers.put(pickle.load(stream))
        self._answers.put(None)

    def _obituary(self) -> str:
        assert self._process is not None
        assert self._stderr is not None
        code = self._process.wait()
        try:
            cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except ValueError:
            cause = f"signal {-code}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"the converter's process ended early ({cause})" + (f": {lines[-1].strip()[:300]}" if lines else "")


def _environment() -> dict[str, str]:
    """The caller's, with its import path; one thread, because several jobs share the processors."""
    environment: dict[str, str] = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return environment


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"


def main() -> None:
    """The process's own side: reads a job from standard input, answers with a pickle a spec."""
    # Tools print to standard output as they please: what they print goes to standard error from here on.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job: Job = pickle.load(sys.stdin.buffer)
    for conversion in run_job(job):
        pickle.dump(conversion, answers)
        answers.flush()
