"""One artifact in one process: a native crash or a hang becomes a sentence, not the end of the caller.

``Worker`` is the caller's side. The other side is this module run by a fresh interpreter, which reads one JSON command
a line from its standard input and answers with one JSON line; pictures travel as ``.npy`` files. A fresh interpreter
and not ``multiprocessing``: nothing is inherited (locks, thread pools, memory), and a caller's script needs no
``if __name__ == "__main__"``.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from sdk.bundle import io_from_json
from sdk.errors import MissingRuntimeError, ToonEdgeError, UsageError
from sdk.metrics import max_abs, psnr_db, ssim
from sdk.runtimes import resolve
from sdk.runtimes.base import OperatorRuns, ProfiledRuns, Profiler, Session
from sdk.spec import IOSpec, Kind, Layout

#: Seconds until a worker that does not answer is ended.
TIME_LIMIT_S = 300.0

#: Only these kinds of runtime may carry a latency.
TIMED_KINDS = frozenset({Kind.DEVICE, Kind.HOST})


class WorkerError(ToonEdgeError):
    """The worker crashed, hung, or its task failed; the message is a clause that says which.

    ``errno`` is the operating system's number when it was the disk that failed, 0 when the system gave none;
    ``missing`` says that nothing is wrong with the artifact: this host's runtime cannot run it (an unknown operator).
    """

    def __init__(self, message: str, *, errno: int | None = None, missing: bool = False) -> None:
        super().__init__(message)
        self.errno = errno
        self.missing = missing


class Worker:
    """A process that loads one artifact and runs it on request. Use it as a context manager.

    Args:
        threads: worker threads for the runtime.
        time_limit_s: a command that takes longer ends the process.
    """

    def __init__(self, *, threads: int = 1, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.threads = threads
        self.time_limit_s = time_limit_s
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._stderr: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # -P: the folder the user happens to stand in is no place to import from.
            [sys.executable, "-P", "-c", "from sdk.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(),
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, at once if it does not end by itself."""
        process = self._process
        if process is None:
            return
        self._process = None
        assert process.stdin is not None
        try:
            process.stdin.close()
            process.wait(timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        if self._stderr is not None:
            self._stderr.close()

    def load(self, runtime: str, path: Path, io: IOSpec) -> float | None:
        """Loads an artifact.

        Args:
            runtime: ``module:class``, a value of ``sdk.runtimes.RUNTIMES``.

        Returns:
            Milliseconds from the call of the runtime's ``load`` to a session that can run, without importing the
            runtime's package; ``None`` for a runtime whose figures are no latency (``sdk.spec.Kind``).
        """
        answer = self._call("load", runtime=runtime, path=str(path.absolute()), io=asdict(io), threads=self.threads)
        return None if answer["load_ms"] is None else float(answer["load_ms"])

    def produce(self, photos: Path, weights: list[float] | None, out: Path) -> None:
        """Draws every photo of an ``.npy`` file (``N x H x W x 3`` float32 in [0, 1]) into another."""
        self._call("produce", photos=str(photos), weights=weights, out=str(out))

    def compare(self, photos: Path, weights: list[float] | None, reference: Path) -> dict[str, list[float]]:
        """Draws every photo and compares it with the reference's picture of it.

        Returns:
            Lists, one entry a photo: ``max_abs`` (against the reference's floats), ``psnr_db`` and ``ssim`` (of an
            image output: against the reference's 8-bit picture), NaN when a value is not finite; and ``run_ms``, the
            bare run.
        """
        answer = self._call("compare", photos=str(photos), weights=weights, reference=str(reference))
        return {name: [float("nan") if v is None else float(v) for v in values] for name, values in answer.items()}

    def time(self, photos: Path, weights: list[float] | None, *, runs: int) -> list[float]:
        """Times ``runs`` bare runs (no encoding, no decoding), going round the photos; milliseconds each.

        Args:
            photos: ``.npy`` file of ``N x H x W x 3`` float32 in [0, 1]; for a file that takes a matrix (layout ``NS``:
                a matrix product, what a network is held against) the matrix itself.
            weights: the style's, if the artifact takes any.
        """
        answer = self._call("time", photos=str(photos), weights=weights, runs=runs)
        return [float(value) for value in answer["run_ms"]]

    def profile(
        self,
        runtime: str,
        path: Path,
        io: IOSpec,
        photos: Path,
        weights: list[float] | None,
        *,
        runs: int,
        warm_up: int,
    ) -> ProfiledRuns:
        """Loads the artifact once more, with the runtime's profiler on, and runs it on the first photos.

        Args:
            runtime: ``module:class`` of a ``sdk.runtimes.base.Profiler``.
        """
        answer = self._call(
            "profile", runtime=runtime, path=str(path.absolute()), io=asdict(io), threads=self.threads,
            photos=str(photos), weights=weights, runs=runs, warm_up=warm_up,
        )  # fmt: skip
        operators = tuple(
            OperatorRuns(
                name=one["name"],
                runs_ms=tuple(one["runs_ms"]),
                delegate=one["delegate"],
                output=None if one["output"] is None else tuple(one["output"]),
            )
            for one in answer["operators"]
        )
        return ProfiledRuns(run_ms=tuple(answer["run_ms"]), operators=operators)

    def peak_rss_bytes(self) -> int:
        """The largest resident memory of the process so far: interpreter, runtime, weights, activations, pictures."""
        return int(self._call("memory")["peak_rss_bytes"])

    def _call(self, command: str, **arguments: Any) -> dict[str, Any]:
        if self._process is None or self._process.stdin is None:
            raise WorkerError("the worker is not running")
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerError(self._obituary(command)) from None
        try:
            line = self._answers.get(timeout=self.time_limit_s)
        except queue.Empty:
            self._process.kill()
            self._process.wait()
            raise WorkerError(f"no answer within {self.time_limit_s:g} s during {command!r}: ended") from None
        if line is None:
            raise WorkerError(self._obituary(command))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"], errno=answer.get("errno"), missing=answer.get("missing", False))
        return answer

    def _listen(self, stream: IO[str]) -> None:
        for line in stream:
            self._answers.put(line)
        self._answers.put(None)

    def _obituary(self, command: str) -> str:
        assert self._process is not None
        code = self._process.wait()
        try:
            cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except ValueError:
            cause = f"signal {-code}"
        words = self._last_words()
        return f"the process crashed during {command!r} ({cause})" + (f": {words}" if words else "")

    def _last_words(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""


def _environment() -> dict[str, str]:
    """The caller's environment, with its import path, and numpy's and torch's pools held to one thread.

    The pools of OpenBLAS and OpenMP spin for a while after each use and take the cores from the runtime that is being
    timed: ExecuTorch looked 1.8x slower beside torch's.
    """
    environment = dict(os.environ)
    # This package's own folder last: the caller may have found it through the current folder, which is not passed on.
    paths = [*(path for path in sys.path if path), str(Path(__file__).resolve().parents[1])]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        environment[name] = "1"
    return environment


# --- the worker's own side -------------------------------------------------------------------------------------------


class _Task:
    """The commands, as methods; each takes its JSON arguments and returns its JSON answer."""

    def __init__(self) -> None:
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        if self._session is None:
            raise UsageError("no artifact is loaded yet")
        return self._session

    def load(self, runtime: str, path: str, io: dict[str, Any], threads: int) -> dict[str, Any]:
        executor = resolve(runtime)
        spec = io_from_json(io)
        if executor.kind in TIMED_KINDS:
            # The first load also imports the runtime's package, which is not what a load costs: the second is timed.
            executor.load(Path(path), spec, threads=threads).close()
        started = time.perf_counter()
        self._session = executor.load(Path(path), spec, threads=threads)
        load_ms = (time.perf_counter() - started) * 1e3
        return {"load_ms": load_ms if executor.kind in TIMED_KINDS else None}

    def produce(self, photos: str, weights: list[float] | None, out: str) -> dict[str, Any]:
        style = None if weights is None else np.asarray(weights, np.float32)
        np.save(out, self.session.stylize(np.load(photos, mmap_mode="r"), style))
        return {}

    def compare(self, photos: str, weights: list[float] | None, reference: str) -> dict[str, Any]:
        style = None if weights is None else np.asarray(weights, np.float32)
        inputs, wanted = np.load(photos, mmap_mode="r"), np.load(reference, mmap_mode="r")
        clock = _Clock()
        # All runs first and then all comparing, so that a run finds the cache as another run left it.
        outputs = self.session.stylize(inputs, style, clock=clock)
        figures: dict[str, Any] = {"max_abs": [], "psnr_db": [], "ssim": [], "run_ms": clock.runs_ms}
        for picture, target in zip(outputs, wanted, strict=True):
            # An 8-bit picture is compared with the 8-bit picture of the float model: against its floats, rounding alone
            # costs up to 0.001 of SSIM on a dark, flat photo, more than the whole gate of fp16.
            shown = _rounded_to_8_bit(target) if self.session.io.output.layout is Layout.IMAGE else target
            finite = bool(np.isfinite(picture).all())
            figures["max_abs"].append(max_abs(picture, target) if finite else None)
            figures["psnr_db"].append(psnr_db(picture, shown) if finite else None)
            figures["ssim"].append(ssim(picture, shown) if finite else None)
        return figures

    def time(self, photos: str, weights: list[float] | None, runs: int) -> dict[str, Any]:
        clock = _Clock()
        if self.session.io.image.layout is Layout.NS:
            matrix = np.load(photos)  # in memory: a mapped file is read-only, and ExecuTorch would copy it in every run
            for _ in range(runs):
                clock(lambda: self.session.run(matrix))
            return {"run_ms": clock.runs_ms}
        style = None if weights is None else np.asarray(weights, np.float32)
        inputs = np.load(photos, mmap_mode="r")
        batch = self.session.io.image.shape[0] or 1
        while len(clock.runs_ms) < runs:
            start = len(clock.runs_ms) * batch % (len(inputs) - len(inputs) % batch)
            self.session.stylize(inputs[start : start + batch], style, clock=clock)
        return {"run_ms": clock.runs_ms}

    def profile(
        self,
        *,
        runtime: str,
        path: str,
        io: dict[str, Any],
        threads: int,
        photos: str,
        weights: list[float] | None,
        runs: int,
        warm_up: int,
    ) -> dict[str, Any]:
        executor = resolve(runtime)
        if not isinstance(executor, Profiler):
            raise UsageError(f"the runtime {runtime!r} has no profiler")
        spec = io_from_json(io)
        batch = spec.image.shape[0] or 1
        image = np.ascontiguousarray(spec.image.encode(np.load(photos)[:batch]))
        style = None
        if weights is not None and spec.style is not None:
            rows = np.broadcast_to(np.asarray(weights, np.float32), (batch, len(weights)))
            style = np.ascontiguousarray(spec.style.encode(rows))
        seen = executor.profile(Path(path), spec, image, style, threads=threads, warm_up=warm_up, runs=runs)
        return asdict(seen)

    def memory(self) -> dict[str, Any]:
        return {"peak_rss_bytes": peak_rss_bytes()}


def _rounded_to_8_bit(picture: np.ndarray) -> np.ndarray:
    """[0, 1] to the nearest of 0/255 .. 255/255, halves up."""
    return np.floor(np.clip(np.asarray(picture, np.float64), 0, 1) * 255 + 0.5) / 255


class _Clock:
    """Runs a function and keeps its wall-clock time."""

    def __init__(self) -> None:
        self.runs_ms: list[float] = []

    def __call__(self, run: Callable[[], np.ndarray]) -> np.ndarray:
        started = time.perf_counter()
        result = run()
        self.runs_ms.append((time.perf_counter() - started) * 1e3)
        return result


def peak_rss_bytes(process: int | None = None) -> int:
    """The largest resident memory a process ever had, in bytes; 0 where the system does not say.

    Args:
        process: its number, that of a living process (Linux alone says it of others); ``None``: this one.
    """
    status = Path("/proc") / ("self" if process is None else str(process)) / "status"
    if status.is_file():  # ru_maxrss on Linux still remembers the parent that started us; this does not
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32" or process is not None:
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Reads commands until the caller closes the pipe."""
    # Native libraries print to standard output as they please: what they print goes to standard error from here on.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = _Task()
    for line in sys.stdin:
        arguments = json.loads(line)
        command = arguments.pop("command")
        try:
            answer = getattr(task, command)(**arguments)
        except ToonEdgeError as error:
            answer = {"error": str(error), "missing": isinstance(error, MissingRuntimeError)}
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}", "errno": error.errno or 0}
        except Exception as error:  # noqa: BLE001 - whatever a runtime throws is this artifact's verdict
            answer = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
