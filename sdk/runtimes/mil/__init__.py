"""The MIL reference executor: runs a saved Core ML ``.mlpackage`` (an ML program) on any host, Linux included.

Core ML itself exists on Apple's systems only, so elsewhere nobody can tell whether a saved package still computes what
the network computed.  This package reads the program and its weights back from the file, executes it operator by
operator with torch's kernels and rounds **every operator's result to the type the program declares for it**, so that an
fp16 overflow, a wrong zero point or a corrupted weight shows in the output.

    >>> model = load("cartoon.mlpackage")
    >>> picture = model.predict({"image": photo, "style": weights})["cartoon"]

What it is not: it says nothing about speed, and it is *reference* numerics, never a device's.  Sums are taken in
float32 (or float64) and rounded once per operator; the Neural Engine, the GPU and the CPU each accumulate in their own
way and may fuse operators, which skips roundings.  ``load`` states the rules.

Modules: ``package`` opens the folder, ``program`` compiles and runs it, ``ops`` has one table row per MIL operator,
``rounding`` knows the types, ``features`` converts pictures and arrays at the border, ``runtime`` fits it all to
``sdk.runtimes.base``.  Importing this module imports neither torch nor coremltools; ``load`` does.
"""

from __future__ import annotations

from sdk.runtimes.mil.errors import ExecutionError, RangeError, UnsupportedOperatorError
from sdk.runtimes.mil.features import Color, Feature
from sdk.runtimes.mil.model import MILModel, NonFinite, load, supported_operators
from sdk.runtimes.mil.runtime import MILRuntime, MILSession

__all__ = [
    "Color",
    "ExecutionError",
    "Feature",
    "MILModel",
    "MILRuntime",
    "MILSession",
    "NonFinite",
    "RangeError",
    "UnsupportedOperatorError",
    "load",
    "supported_operators",
]
