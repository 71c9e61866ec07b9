"""LiteRT's C interface, for the one thing that its Python classes do not offer: times of operators inside a delegate.

The wheel of ``ai-edge-litert`` carries the library (``libLiteRt``); it is called through ctypes. Names, the order of
arguments and the layout of an event are those of ``litert/c/litert_*.h`` in the sources of LiteRT 2.3. The header does
not promise that layout, so it is checked before a name is read: an event of an unknown type ends the profile with a
sentence and not with a crash.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from ctypes import byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import MissingRuntimeError, UsageError
from sdk.latency import timed_runs
from sdk.runtimes.base import OperatorRuns, ProfiledRuns

_PACKAGE = "ai_edge_litert"
_LIBRARIES = ("libLiteRt.so", "libLiteRt.dylib", "LiteRt.dll", "libLiteRt.dll")
_CPU = 1  # kLiteRtHwAcceleratorCpu
_WRITE = 1  # kLiteRtTensorBufferLockModeWrite
_SIGNATURE = c_size_t(0)
#: The event that spans a run; the operators of that run follow it.
_RUN = b"Invoke"
_DELEGATE = "XNNPACK"


class _EventType(IntFlag):
    """``LiteRtProfilerEventType``."""

    DEFAULT = 1
    OPERATOR = 1 << 1
    DELEGATE_OPERATOR = 1 << 2
    DELEGATE_PROFILED_OPERATOR = 1 << 3
    INSTRUMENTATION = 1 << 4
    TELEMETRY = 1 << 5
    TELEMETRY_SETTINGS = 1 << 6
    TELEMETRY_DELEGATE = 1 << 7
    TELEMETRY_DELEGATE_SETTINGS = 1 << 8


_IN_DELEGATE = _EventType.DELEGATE_OPERATOR | _EventType.DELEGATE_PROFILED_OPERATOR


class _Event(ctypes.Structure):
    """``ProfiledEventData``: times in microseconds, memory before and after in three figures each."""

    _fields_ = (
        ("tag", c_void_p),
        ("kind", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory", c_int64 * 6),
        ("metadata", c_uint64 * 2),
        ("source", c_int),
    )


class _Layout(ctypes.Structure):
    _fields_ = (("rank", c_uint32), ("extents", c_int32 * 8), ("strides", c_uint32 * 8))


class _TensorType(ctypes.Structure):
    _fields_ = (("element", c_int32), ("layout", _Layout))


def _keep(_payload: int) -> None:
    """LiteRT asks for a function that frees an option's text; the text belongs to Python."""


_KEEP = ctypes.CFUNCTYPE(None, c_void_p)(_keep)


class _Library:
    """The functions of the library; each call is checked."""

    def __init__(self) -> None:
        found = importlib.util.find_spec(_PACKAGE)
        folder = Path(found.origin).parent if found is not None and found.origin else Path()
        path = next((folder / name for name in _LIBRARIES if found is not None and (folder / name).is_file()), None)
        if path is None:
            raise MissingRuntimeError(
                "LiteRT times operators inside its delegate only through the C library of the package "
                "'ai-edge-litert', which is not here: "
                "run `pip install ai-edge-litert` on a platform whose wheel carries it."
            )
        self._functions = ctypes.CDLL(str(path))

    def __call__(self, name: str, *arguments: object) -> None:
        """Calls a function that returns a status.

        Raises:
            MissingRuntimeError: when this version has no such function.
            UsageError: when it says no.
        """
        try:
            function: Callable[..., int] = getattr(self._functions, name)
        except AttributeError:
            raise MissingRuntimeError(
                f"this version of ai-edge-litert has no {name}, so its operators cannot be timed: install 2.3."
            ) from None
        status = function(*arguments)
        if status:
            raise UsageError(
                f"LiteRT could not profile the artifact ({name} returned status {status}): export it again."
            )

    def made(self, name: str, *arguments: object) -> c_void_p:
        """Calls a function that puts a handle into its last argument; that handle."""
        handle = c_void_p()
        self(name, *arguments, byref(handle))
        return handle

    def destroy(self, name: str, handle: c_void_p) -> None:
        """Gives a handle back."""
        function = getattr(self._functions, name)
        function.restype = None
        function(handle)


def profile_file(path: Path, inputs: Sequence[np.ndarray], *, threads: int, warm_up: int, runs: int) -> ProfiledRuns:
    """Runs a ``.tflite`` file with LiteRT's profiler on.

    Args:
        path: the file.
        inputs: contiguous arrays, each as long as exactly one of the file's inputs takes.
        threads: of XNNPACK.
        warm_up, runs: the first do not count.

    Raises:
        MissingRuntimeError: the library is missing, or is one that this module does not know.
        UsageError: LiteRT refuses the file.
    """
    call = _Library()
    with contextlib.ExitStack() as stack:

        def make(name: str, *arguments: object, destroy: str) -> c_void_p:
            handle = call.made(name, *arguments)
            stack.callback(call.destroy, destroy, handle)
            return handle

        environment = make("LiteRtCreateEnvironment", c_int(0), None, destroy="LiteRtDestroyEnvironment")
        model = make("LiteRtCreateModelFromFile", environment, str(path).encode(), destroy="LiteRtDestroyModel")
        options = make("LiteRtCreateOptions", destroy="LiteRtDestroyOptions")
        call("LiteRtSetOptionsHardwareAccelerators", options, c_int(_CPU))
        texts = {b"runtime_options_string": "enable_profiling = true\n", b"xnnpack": f"num_threads = {threads}\n"}
        kept = [(c_char_p(name), ctypes.create_string_buffer(text.encode())) for name, text in texts.items()]
        for name, text in kept:
            option = call.made("LiteRtCreateOpaqueOptions", name, byref(text), _KEEP)
            call("LiteRtAddOpaqueOptions", options, option)  # which owns it from here on
        compiled = make("LiteRtCreateCompiledModel", environment, model, options, destroy="LiteRtDestroyCompiledModel")
        profiler = call.made("LiteRtCompiledModelGetProfiler", compiled)  # the compiled model owns it
        signature = call.made("LiteRtGetModelSignature", model, _SIGNATURE)

        def buffers(kind: str) -> list[c_void_p]:
            count = c_size_t()
            call(f"LiteRtGetNumSignature{kind}s", signature, byref(count))
            found = []
            for index in map(c_size_t, range(count.value)):
                tensor = call.made(f"LiteRtGetSignature{kind}TensorByIndex", signature, index)
                kind_of_tensor = _TensorType()
                call("LiteRtGetRankedTensorType", tensor, byref(kind_of_tensor))
                needs = call.made(f"LiteRtGetCompiledModel{kind}BufferRequirements", compiled, _SIGNATURE, index)
                found.append(
                    make(
                        "LiteRtCreateManagedTensorBufferFromRequirements", environment, byref(kind_of_tensor), needs,
                        destroy="LiteRtDestroyTensorBuffer",
                    )
                )  # fmt: skip
            return found

        given, wanted = buffers("Input"), buffers("Output")
        _fill(call, given, inputs)
        feed, result = ((c_void_p * len(some))(*[one.value for one in some]) for some in (given, wanted))

        def run() -> None:
            call(
                "LiteRtRunCompiledModel", compiled, _SIGNATURE,
                c_size_t(len(feed)), feed, c_size_t(len(result)), result,
            )  # fmt: skip

        timed_runs(run, warm_up)
        call("LiteRtResetProfiler", profiler)
        call("LiteRtStartProfiler", profiler)
        run_ms = timed_runs(run, runs)
        call("LiteRtStopProfiler", profiler)
        count = c_int()
        call("LiteRtGetNumProfilerEvents", profiler, byref(count))
        # Twice the room: should a later version write more for an event, nothing is overwritten and the check says so.
        events = (_Event * (2 * max(1, count.value)))()
        call("LiteRtGetProfilerEvents", profiler, count, events)
        return ProfiledRuns(run_ms=tuple(run_ms), operators=_operators(events[: count.value], runs))


def _fill(call: _Library, buffers: Sequence[c_void_p], inputs: Sequence[np.ndarray]) -> None:
    """Copies each array into the one buffer that has its length."""
    for buffer in buffers:
        size = c_size_t()
        call("LiteRtGetTensorBufferPackedSize", buffer, byref(size))
        fitting = [array for array in inputs if array.nbytes == size.value]
        if len(fitting) != 1:
            have = ", ".join(str(array.nbytes) for array in inputs)
            raise UsageError(f"an input of the artifact takes {size.value} bytes, given were {have}: export it again.")
        place = c_void_p()
        call("LiteRtLockTensorBuffer", buffer, byref(place), c_int(_WRITE))
        ctypes.memmove(place, fitting[0].tobytes(), size.value)
        call("LiteRtUnlockTensorBuffer", buffer)


def _operators(events: Sequence[Any], runs: int) -> tuple[OperatorRuns, ...]:
    """The operators in their order, from events of which each run has the same.

    Raises:
        MissingRuntimeError: for events of another layout than this module knows.
    """
    found: list[list[tuple[str, str | None, float]]] = []
    known = set(_EventType)
    for event in events:
        if event.kind not in known or not event.tag:
            raise _unknown()
        kind, tag = _EventType(event.kind), ctypes.string_at(event.tag)
        if kind is _EventType.DEFAULT and tag == _RUN:
            found.append([])
        elif kind & (_EventType.OPERATOR | _IN_DELEGATE) and found:
            delegate = _DELEGATE if kind & _IN_DELEGATE else None
            found[-1].append((tag.decode(errors="replace"), delegate, event.elapsed_us / 1e3))
    if len(found) != runs or any([row[:2] for row in one] != [row[:2] for row in found[0]] for one in found):
        raise _unknown()
    return tuple(
        OperatorRuns(name=f"{first[0]} #{index}", delegate=first[1], runs_ms=tuple(row[index][2] for row in found))
        for index, first in enumerate(found[0])
    )


def _unknown() -> MissingRuntimeError:
    return MissingRuntimeError(
        "this version of ai-edge-litert describes its events in a way that is not known here, so its operators cannot "
        "be timed: install the version that pyproject.toml names."
    )
