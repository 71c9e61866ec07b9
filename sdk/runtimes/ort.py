"""ONNX Runtime on the CPU: the reference's runtime, and the one that executes ``onnx`` artifacts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sdk.errors import UsageError
from sdk.host import host_isa
from sdk.latency import timed_runs
from sdk.runtimes.base import Availability, OperatorRuns, ProfiledRuns, Session, first_line, installed, require
from sdk.spec import IOSpec, Kind, Target, TensorSpec

# On x86 without VNNI, ONNX Runtime multiplies uint8 by int8 with vpmaddubsw, whose 16-bit sums saturate; no phone does
# that. This setting multiplies uint8 by uint8 instead, which does not. Measured on AVX2, a 3x3 convolution of 32
# channels with large weights: up to 25 steps of 255 off without it, bit-exact with it. With VNNI nothing saturates, and
# the setting only keeps ONNX Runtime from using it (the shipped int8 artifact: 10.8 ms with it, 7.0 without).
_NO_SATURATION = "session.x64quantprecision"
_EXACT_ISA = frozenset({"avx512_vnni", "avx_vnni"})
_KERNEL = "_kernel_time"


class OnnxRuntime:
    """Executes ``.onnx`` files with ONNX Runtime's CPU provider, int8 without the host's saturation."""

    name: ClassVar[str] = "onnxruntime"
    kind: ClassVar[Kind] = Kind.HOST
    targets: ClassVar[frozenset[Target]] = frozenset({Target.ONNX})
    extra: ClassVar[str] = "onnx"

    def available(self) -> Availability:
        """Whether the package ``onnxruntime`` is installed."""
        return installed({"onnxruntime": "onnxruntime"})

    def load(self, path: Path, io: IOSpec, *, threads: int = 1) -> Session:
        """Loads a ``.onnx`` file; see ``Runtime.load``."""
        require(self)
        return _OrtSession(io, _open(path, threads), path)

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
        """What each node takes; see ``Profiler.profile``. The graph is the one ONNX Runtime has optimized."""
        require(self)
        with tempfile.TemporaryDirectory(prefix="toonedge-profile-") as folder:
            model = _open(path, threads, profile=Path(folder, "ort"))
            session = _OrtSession(io, model, path)
            run_ms = timed_runs(lambda: session.run(image, style), runs, warm_up=warm_up)
            trace = json.loads(Path(model.end_profiling()).read_text(encoding="utf-8"))
        return ProfiledRuns(run_ms=tuple(run_ms), operators=parse_trace(trace, runs=runs))


def parse_trace(trace: Sequence[Mapping[str, Any]], *, runs: int) -> tuple[OperatorRuns, ...]:
    """The nodes of ONNX Runtime's profile.

    Args:
        trace: the events of the JSON file: a node's kernel has the category ``Node``, a name that ends in
            ``_kernel_time``, its microseconds in ``dur`` and its operator in ``args``.
        runs: how many of the last runs count.
    """
    found: dict[str, list[float]] = {}
    about: dict[str, tuple[str, tuple[int, ...] | None]] = {}
    for event in trace:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_KERNEL):
            continue
        node, details = name.removesuffix(_KERNEL), event["args"]
        found.setdefault(node, []).append(float(event["dur"]) / 1e3)
        outputs = details.get("output_type_shape") or []
        shape = next(iter(outputs[0].values()), None) if outputs else None
        kind = "DepthwiseConv" if _is_depthwise(details) else details["op_name"]
        about[node] = (f"{kind} {node}", None if shape is None else tuple(shape))
    return tuple(
        OperatorRuns(name=about[node][0], runs_ms=tuple(times[-runs:]), output=about[node][1])
        for node, times in found.items()
    )


def _is_depthwise(details: Mapping[str, Any]) -> bool:
    """Whether a convolution has one input channel a group, by its weights (``C x 1 x K x K``) when they are shown."""
    shapes: list[list[int]] = [next(iter(entry.values()), []) for entry in details.get("input_type_shape") or []]
    weights = next((shape for shape in shapes[1:] if len(shape) == 4), None)
    return "Conv" in details["op_name"] and weights is not None and weights[1] == 1 and weights[0] > 1


def _open(path: Path, threads: int, *, profile: Path | None = None) -> Any:
    """An ``InferenceSession``; ``profile`` is the beginning of the name of the file its profiler writes.

    Raises:
        UsageError: when the file cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    if _EXACT_ISA.isdisjoint(host_isa()):
        options.add_session_config_entry(_NO_SATURATION, "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its C++ exceptions share no base but this
        raise UsageError(f"ONNX Runtime cannot load {str(path)!r} ({first_line(error)}): export it again.") from error


class _OrtSession(Session):
    def __init__(self, io: IOSpec, model: Any, path: Path) -> None:
        super().__init__(io)
        wanted = [io.image] if io.style is None else [io.image, io.style]
        _match(wanted, model.get_inputs(), "input", path)
        _match([io.output], model.get_outputs(), "output", path)
        self._model = model

    def _execute(self, image: np.ndarray, style: np.ndarray | None) -> np.ndarray:
        feeds = {self.io.image.name: image}
        if self.io.style is not None and style is not None:
            feeds[self.io.style.name] = style
        result: np.ndarray = self._model.run([self.io.output.name], feeds)[0]
        return result

    def close(self) -> None:
        self._model = None


def _match(wanted: list[TensorSpec], found: list[Any], kind: str, path: Path) -> None:
    """The file must have exactly the tensors the manifest states; shapes are compared when the data comes."""
    want, have = sorted(spec.name for spec in wanted), sorted(tensor.name for tensor in found)
    if want != have:
        raise UsageError(
            f"{str(path)!r} has the {kind}s {', '.join(have)}, but its manifest states {', '.join(want)}: "
            "export it again."
        )
