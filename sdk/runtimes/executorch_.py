"""ExecuTorch on the CPU, with its XNNPACK delegate.

The Python binding of ExecuTorch is linked against libtorch and takes torch tensors; torch is therefore this runtime's
own dependency and appears nowhere else in the room. It only carries the bytes in and out: no torch operator is run.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sdk.errors import MissingRuntimeError, UsageError
from sdk.latency import timed_runs
from sdk.runtimes.base import Availability, OperatorRuns, ProfiledRuns, Session, first_line, installed, require
from sdk.spec import DType, IOSpec, Kind, Target, TensorSpec

_METHOD = "forward"
#: The event block of a run, and the events in it that hold others.
_EXECUTE = "Execute"
_HOLDERS = frozenset({"Method::execute", "DELEGATE_CALL", "OPERATOR_CALL"})
#: c10::ScalarType, as the method's metadata gives it.
_SCALAR_TYPES = {0: DType.UINT8, 1: DType.INT8, 6: DType.FLOAT32}


class ExecuTorchRuntime:
    """Executes ``.pte`` files.

    The thread count is the process's, not the session's: ExecuTorch has one pool, and loading a file with another count
    replaces it.  torch's own pool would spin beside it once some torch operator ran; ``sdk.worker`` holds it to one
    thread in the processes that verify and time.
    """

    name: ClassVar[str] = "executorch"
    kind: ClassVar[Kind] = Kind.HOST
    targets: ClassVar[frozenset[Target]] = frozenset({Target.EXECUTORCH})
    extra: ClassVar[str] = "executorch"

    def available(self) -> Availability:
        """Whether the packages ``executorch`` and ``torch`` are installed."""
        torch = installed({"torch": "torch"})
        return installed({"executorch": "executorch"}) if torch.ok else torch

    def load(self, path: Path, io: IOSpec, *, threads: int = 1) -> Session:
        """Loads a ``.pte`` file; see ``Runtime.load``."""
        require(self)
        program, method = _open(path, threads)
        return _ExecuTorchSession(io, program, method, path)

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
        """What each operator takes, by ExecuTorch's event trace (ETDump); see ``Profiler.profile``."""
        require(self)
        program, method = _open(path, threads, trace=True)
        if not program.has_etdump():
            raise MissingRuntimeError(
                "this build of executorch records no events, so operators cannot be timed: install the PyPI wheel."
            )
        session = _ExecuTorchSession(io, program, method, path)
        run_ms = timed_runs(lambda: session.run(image, style), runs, warm_up=warm_up)
        with tempfile.TemporaryDirectory(prefix="toonedge-profile-") as folder:
            dump = Path(folder, "runs.etdp")
            program.write_etdump_result_to_file(str(dump))
            operators = read_etdump(dump, runs=runs)
        return ProfiledRuns(run_ms=tuple(run_ms), operators=operators)


def read_etdump(path: Path, *, runs: int) -> tuple[OperatorRuns, ...]:
    """The operators of an event trace, without the events that merely hold others.

    Args:
        path: an ETDump file.
        runs: how many of the last runs count.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inspector: Any = importlib.import_module("executorch.devtools").Inspector(etdump_path=str(path))
    events = [event for block in inspector.event_blocks if block.name == _EXECUTE for event in block.events]
    return tuple(
        OperatorRuns(
            name=event.name,
            runs_ms=tuple(float(ms) for ms in event.perf_data.raw[-runs:]),  # the inspector's default unit
            delegate="XNNPACK" if event.is_delegated_op else None,
        )
        for event in events
        if event.perf_data is not None and event.name not in _HOLDERS
    )


def _open(path: Path, threads: int, *, trace: bool = False) -> tuple[Any, Any]:
    """The program of a file and its method, with or without a record of events.

    Raises:
        UsageError: when the file cannot be loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "This API is experimental", at every import
        binding: Any = importlib.import_module("executorch.extension.pybindings.portable_lib")
    if binding._threadpool_get_thread_count() != threads:
        binding._unsafe_reset_threadpool(threads)
    try:
        # Internal consistency: a truncated or altered file is refused here and does not crash later.
        program = binding._load_program(
            str(path), enable_etdump=trace, program_verification=binding.Verification.InternalConsistency
        )
        return program, program.load_method(_METHOD)
    except RuntimeError as error:
        raise UsageError(f"ExecuTorch cannot load {str(path)!r} ({first_line(error)}): export it again.") from error


class _ExecuTorchSession(Session):
    def __init__(self, io: IOSpec, program: Any, method: Any, path: Path) -> None:
        super().__init__(io)
        import torch

        self._torch = torch
        self._program = program  # the method points into it
        self._method = method
        meta = method.method_meta()
        inputs = [meta.input_tensor_meta(index) for index in range(meta.num_inputs())]
        outputs = [meta.output_tensor_meta(index) for index in range(meta.num_outputs())]
        _match([io.image] if io.style is None else [io.image, io.style], inputs, "input", path)
        _match([io.output], outputs, "output", path)

    def _execute(self, image: np.ndarray, style: np.ndarray | None) -> np.ndarray:
        arrays = [image] if style is None else [image, style]
        tensors = [self._torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays]
        # The outputs are cloned out of the program's own memory, which the next run overwrites.
        result: np.ndarray = self._method(tensors, clone_outputs=True)[0].numpy()
        return result

    def close(self) -> None:
        self._method = None
        self._program = None


def _match(specs: list[TensorSpec], found: list[Any], kind: str, path: Path) -> None:
    """ExecuTorch passes tensors by position: image, then style weights. Their shapes must be the manifest's."""
    have = [(_SCALAR_TYPES.get(int(tensor.dtype())), tuple(tensor.sizes())) for tensor in found]
    same = len(have) == len(specs) and all(
        dtype is spec.dtype
        and len(sizes) == len(spec.shape)
        and all(want is None or want == size for want, size in zip(spec.shape, sizes, strict=True))
        for spec, (dtype, sizes) in zip(specs, have, strict=True)
    )
    if not same:
        want = ", ".join(f"{spec.dtype} {spec.shape}" for spec in specs)
        has = ", ".join(f"{dtype or 'another type'} {sizes}" for dtype, sizes in have)
        raise UsageError(f"{str(path)!r} has the {kind}s {has}, but its manifest states {want}: export it again.")
