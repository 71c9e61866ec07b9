"""The worker process: a crash, a hang or an exception in a runtime is a clause, and the caller lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sdk.bundle import Bundle
from sdk.errors import ExitCode
from sdk.runtimes import RUNTIMES
from sdk.worker import Worker, WorkerError, peak_rss_bytes

ROOT = Path(__file__).resolve().parents[3]

FAULTY = '''
import ctypes, os, signal, sys, time
import numpy as np
from sdk.runtimes.base import Availability, Session
from sdk.spec import Kind, Target

class Faulty(Session):
    """Copies the picture, or does what its fault says."""
    def __init__(self, io, fault):
        super().__init__(io)
        self.fault = fault
        self.runs = 0
    def _execute(self, image, style):
        self.runs += 1
        if self.fault == "segfault": ctypes.string_at(0)
        if self.fault == "abort": print("terminate called: bad kernel", file=sys.stderr, flush=True); os.abort()
        if self.fault == "exit": os._exit(7)
        if self.fault == "hang": time.sleep(600)
        if self.fault == "raise": raise RuntimeError("kernel says no\\nsecond line")
        if self.fault == "noisy": os.write(1, b"native library prints to stdout\\n")
        if self.fault == "nan": image = np.where(image > 0.5, np.nan, image)
        return image.astype(np.float32)

class Runtime:
    kind, targets, extra, fault = Kind.HOST, frozenset({Target.ONNX}), "onnx", ""
    def available(self): return Availability(ok=True)
    def load(self, path, io, *, threads=1):
        if self.fault == "load": raise ValueError("cannot load this")
        return Faulty(io, self.fault)

def __getattr__(name):
    return type(name, (Runtime,), {"name": name, "fault": name})
'''


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """``module:class`` of a runtime with a planted fault; the worker finds it on the caller's import path."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "faulty_runtime.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    return lambda fault: f"faulty_runtime:{fault}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3)) / 255
    np.save(tmp_path / "photos.npy", values.astype(np.float32))
    return tmp_path / "photos.npy"


@pytest.fixture
def baked(make_toy_bundle: Callable[..., Bundle]) -> Iterator[tuple[Bundle, Worker]]:
    bundle = make_toy_bundle(artifacts=(("pencil", (32, 48)),))
    with Worker(time_limit_s=60) as worker:
        yield bundle, worker


def test_a_worker_loads_draws_compares_and_times(baked: tuple[Bundle, Worker], photos: Path, tmp_path: Path) -> None:
    bundle, worker = baked
    artifact = bundle.artifacts[0]
    load_ms = worker.load(RUNTIMES["onnxruntime"], bundle.path(artifact), artifact.io)
    assert load_ms is not None
    assert 0 < load_ms < 60_000
    worker.produce(photos, None, tmp_path / "drawn.npy")
    np.testing.assert_allclose(np.load(tmp_path / "drawn.npy"), np.load(photos), atol=1e-6)
    darker = np.load(photos) * np.float32(0.5)
    np.save(tmp_path / "darker.npy", darker)
    figures = worker.compare(photos, None, tmp_path / "darker.npy")
    assert figures["max_abs"] == pytest.approx([float(picture.max()) for picture in darker], abs=1e-6)
    assert all(0 < value < 1 for value in figures["ssim"])
    assert len(figures["run_ms"]) == 3
    times = worker.time(photos, None, runs=7)
    assert len(times) == 7
    assert all(ms > 0 for ms in times)
    assert worker.peak_rss_bytes() > 10_000_000


def test_a_worker_holds_other_pools_to_one_thread_and_ignores_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Planted: a module in the user's folder that would shadow a real one.
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    with Worker(time_limit_s=60) as worker:
        assert worker.peak_rss_bytes() > 0
        assert worker._process is not None
        environment = Path(f"/proc/{worker._process.pid}/environ")
        if environment.exists():
            content = environment.read_text()
            assert "OMP_NUM_THREADS=1\0" in content
            assert "OPENBLAS_NUM_THREADS=1\0" in content


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("segfault", "crashed during 'produce' .signal SIGSEGV"),
        ("abort", "crashed during 'produce' .signal SIGABRT.*terminate called: bad kernel"),
        ("exit", "crashed during 'produce' .exit code 7"),
        ("raise", "RuntimeError: kernel says no"),
    ],
)
def test_a_fault_in_a_run_is_a_clause(  # noqa: PLR0917 - fixtures
    fault: str, words: str, faulty: Callable[[str], str], toy_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    io = toy_bundle.artifacts[0].io
    with Worker(time_limit_s=60) as worker:
        worker.load(faulty(fault), tmp_path, io)
        with pytest.raises(WorkerError, match=words):
            worker.produce(photos, [1, 0, 0], tmp_path / "out.npy")
        if fault == "raise":  # no crash: the worker is still there
            assert worker.peak_rss_bytes() > 0
        else:
            with pytest.raises(WorkerError, match="crashed"):
                worker.peak_rss_bytes()


def test_a_hang_ends_at_the_time_limit(
    faulty: Callable[[str], str], toy_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    with Worker(time_limit_s=60) as worker:
        worker.load(faulty("hang"), tmp_path, toy_bundle.artifacts[0].io)
        worker.time_limit_s = 0.5
        process = worker._process
        started = time.monotonic()
        with pytest.raises(WorkerError, match=r"no answer within 0\.5 s during 'produce': ended"):
            worker.produce(photos, [1, 0, 0], tmp_path / "out.npy")
        assert time.monotonic() - started < 300  # the hang itself lasts 600 s
        assert process is not None
        assert process.poll() is not None


def test_a_fault_in_loading_is_a_clause(faulty: Callable[[str], str], toy_bundle: Bundle, tmp_path: Path) -> None:
    with Worker(time_limit_s=60) as worker, pytest.raises(WorkerError, match="ValueError: cannot load this"):
        worker.load(faulty("load"), tmp_path, toy_bundle.artifacts[0].io)


def test_what_a_native_library_prints_does_not_garble_the_answers(
    faulty: Callable[[str], str], toy_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    with Worker(time_limit_s=60) as worker:
        worker.load(faulty("noisy"), tmp_path, toy_bundle.artifacts[0].io)
        worker.produce(photos, [1, 0, 0], tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.load(photos))


def test_values_that_are_not_finite_come_back_as_not_a_number(
    faulty: Callable[[str], str], toy_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    with Worker(time_limit_s=60) as worker:
        worker.load(faulty("nan"), tmp_path, toy_bundle.artifacts[0].io)
        figures = worker.compare(photos, [1, 0, 0], photos)
    for name in ("max_abs", "psnr_db", "ssim"):
        assert all(np.isnan(figures[name])), name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_in_the_worker_carries_the_systems_number(
    faulty: Callable[[str], str], toy_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.npy").symlink_to("/dev/full")
    with Worker(time_limit_s=60) as worker:
        worker.load(faulty("none"), tmp_path, toy_bundle.artifacts[0].io)
        with pytest.raises(WorkerError) as caught:
            worker.produce(photos, [1, 0, 0], tmp_path / "out.npy")
    assert caught.value.errno is not None


def test_a_command_before_any_artifact_and_to_a_closed_worker_are_refused(photos: Path, tmp_path: Path) -> None:
    with Worker(time_limit_s=60) as worker, pytest.raises(WorkerError, match="no artifact is loaded"):
        worker.produce(photos, None, tmp_path / "out.npy")
    with pytest.raises(WorkerError, match="not running"):
        worker.peak_rss_bytes()
    assert WorkerError("x").exit_code is ExitCode.USAGE


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_ends_when_its_caller_is_killed() -> None:
    script = (
        "import os, signal, sys\nfrom sdk.worker import Worker\n"
        "worker = Worker().__enter__()\nworker.peak_rss_bytes()\n"
        "print(worker._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    pid = int(shown.stdout)
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return  # ended; nobody has collected it yet
        time.sleep(0.1)
    pytest.fail("the worker outlived its caller by 20 s")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_is_this_process_and_not_the_parents() -> None:
    script = "from sdk.worker import peak_rss_bytes; print(peak_rss_bytes())"
    ballast = np.ones(60_000_000)  # 480 MB here, which a child's ru_maxrss would remember
    child = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert peak_rss_bytes() > ballast.nbytes
    assert int(child.stdout) < 200_000_000
