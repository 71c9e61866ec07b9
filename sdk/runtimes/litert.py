"""LiteRT (TensorFlow Lite) on the CPU, with its XNNPACK delegate."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sdk.errors import UsageError
from sdk.runtimes.base import Availability, ProfiledRuns, Session, first_line, installed, require
from sdk.spec import IOSpec, Kind, Target, TensorSpec

#: Import package to distribution, the maintained one first; and where its interpreter is.
_PACKAGES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime", "tensorflow": "tensorflow"}
_INTERPRETERS = {
    "ai_edge_litert": "ai_edge_litert.interpreter",
    "tflite_runtime": "tflite_runtime.interpreter",
    "tensorflow": "tensorflow.lite",
}


class LiteRTRuntime:
    """Executes ``.tflite`` files with ``ai-edge-litert``, or ``tflite-runtime`` or ``tensorflow`` when one of those is
    what the host has.
    """

    name: ClassVar[str] = "litert"
    kind: ClassVar[Kind] = Kind.HOST
    targets: ClassVar[frozenset[Target]] = frozenset({Target.TFLITE})
    extra: ClassVar[str] = "tflite"

    def available(self) -> Availability:
        """Whether one of the three packages is installed."""
        return installed(_PACKAGES)

    def load(self, path: Path, io: IOSpec, *, threads: int = 1) -> Session:
        """Loads a ``.tflite`` file; see ``Runtime.load``."""
        return _LiteRTSession(io, open_interpreter(path, threads=threads), path)

    def profile(
        self,
        path: Path,
        io: IOSpec,  # noqa: ARG002 - the file's inputs are told apart by their lengths
        image: np.ndarray,
        style: np.ndarray | None,
        *,
        threads: int,
        warm_up: int,
        runs: int,
    ) -> ProfiledRuns:
        """What each operator takes, inside XNNPACK too; see ``Profiler.profile``.

        It runs through LiteRT's ``CompiledModel`` and not through ``Interpreter``: the same kernels, and the one of the
        two whose profiler can be reached.
        """
        require(self)
        from sdk.runtimes.litert_c import profile_file

        inputs = [image] if style is None else [image, style]
        return profile_file(path, inputs, threads=threads, warm_up=warm_up, runs=runs)


def open_interpreter(path: Path, *, threads: int = 1, remedy: str = "export it again") -> Any:
    """The interpreter of a ``.tflite`` file, its tensors allocated: for files that no ``IOSpec`` describes.

    Args:
        path: the file.
        threads: worker threads, >= 1.
        remedy: what to do about a file that cannot be loaded.

    Raises:
        MissingRuntimeError: none of the packages is installed.
        UsageError: a file that cannot be loaded.
    """
    require(LiteRTRuntime())
    package = next(name for name in _PACKAGES if importlib.util.find_spec(name) is not None)
    module: Any = importlib.import_module(_INTERPRETERS[package])
    try:
        interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"LiteRT cannot load {str(path)!r} ({first_line(error)}): {remedy}.") from error
    return interpreter


class _LiteRTSession(Session):
    def __init__(self, io: IOSpec, interpreter: Any, path: Path) -> None:
        super().__init__(io)
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        wanted = 1 if io.style is None else 2
        if len(inputs) != wanted or len(outputs) != 1:
            raise UsageError(
                f"{str(path)!r} has {len(inputs)} inputs and {len(outputs)} outputs, but its manifest states "
                f"{wanted} and 1: export it again."
            )
        self._image = _match(io.image, inputs, path)
        self._style = None if io.style is None else _match(io.style, inputs, path)
        self._output = _match(io.output, outputs, path)

    def _execute(self, image: np.ndarray, style: np.ndarray | None) -> np.ndarray:
        self._interpreter.set_tensor(self._image, image)
        if self._style is not None and style is not None:
            self._interpreter.set_tensor(self._style, style)
        self._interpreter.invoke()
        result: np.ndarray = self._interpreter.get_tensor(self._output)  # a copy
        return result

    def close(self) -> None:
        self._interpreter = None


def _match(spec: TensorSpec, tensors: list[dict[str, Any]], path: Path) -> int:
    """The index of the tensor that ``spec`` describes: by name (converters decorate it: ``serving_default_image:0``),
    otherwise the only one of its shape and type; with the scale and zero point the manifest states.
    """
    named = [t for t in tensors if spec.name in (t["name"], t["name"].split(":")[0].removeprefix("serving_default_"))]
    fitting = [t for t in (named or tensors) if _fits(spec, t)]
    if len(fitting) != 1:
        has = ", ".join(f"{t['name']} {np.dtype(t['dtype'])} {tuple(map(int, t['shape']))}" for t in tensors)
        raise UsageError(
            f"{str(path)!r} has no tensor like {spec.name!r}, {spec.dtype} {spec.shape}, of its manifest "
            f"(it has {has}): export it again."
        )
    scale, zero_point = fitting[0]["quantization"]
    stated = (spec.scale or 0.0, spec.zero_point or 0)
    if spec.scale is not None and (abs(scale - stated[0]) > 1e-6 or zero_point != stated[1]):
        raise UsageError(
            f"{str(path)!r}: the tensor {spec.name!r} has scale {scale:.7g} and zero point {zero_point}, "
            f"but its manifest states {stated[0]:.7g} and {stated[1]}: export it again."
        )
    return int(fitting[0]["index"])


def _fits(spec: TensorSpec, tensor: dict[str, Any]) -> bool:
    signature = tensor.get("shape_signature", tensor["shape"])
    return (
        np.dtype(tensor["dtype"]) == np.dtype(spec.dtype.value)
        and len(signature) == len(spec.shape)
        and all(want is None or have in (want, -1) for want, have in zip(spec.shape, map(int, signature), strict=True))
    )
