"""The runtimes that can execute artifacts here: one table, nothing imported until it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from sdk.errors import unknown_name
from sdk.runtimes.base import Availability, Runtime, Session, require
from sdk.spec import Target

__all__ = ["RUNTIMES", "Availability", "Runtime", "Session", "get_runtime", "require", "runtimes_for"]

#: Name (as given to ``--runtimes``) to ``module:class``. The first that serves a target is the preferred one.
RUNTIMES: dict[str, str] = {
    "executorch": "sdk.runtimes.executorch_:ExecuTorchRuntime",
    "litert": "sdk.runtimes.litert:LiteRTRuntime",
    "onnxruntime": "sdk.runtimes.ort:OnnxRuntime",
    "coreml": "sdk.runtimes.coreml:CoreMLRuntime",
    "mil": "sdk.runtimes.mil:MILRuntime",
}


def get_runtime(name: str) -> Runtime:
    """The runtime of that name; its package is imported only when it loads a file.

    Raises:
        UsageError: for a name that is not in the table; the nearest is suggested.
    """
    if name not in RUNTIMES:
        raise unknown_name("runtime", name, RUNTIMES)
    return resolve(RUNTIMES[name])


def resolve(reference: str) -> Runtime:
    """The runtime behind ``module:class``."""
    module, _, attribute = reference.partition(":")
    runtime: Runtime = getattr(importlib.import_module(module), attribute)()
    return runtime


def runtimes_for(target: Target, only: Sequence[str] | None = None) -> tuple[Runtime, ...]:
    """Every runtime that executes artifacts of ``target``, available or not, in the table's order.

    Args:
        only: names to choose from; ``None`` is all of them.
    """
    chosen = [get_runtime(name) for name in (RUNTIMES if only is None else only)]
    return tuple(runtime for runtime in chosen if target in runtime.targets)
