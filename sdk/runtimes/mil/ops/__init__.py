"""Every MIL operator the executor knows: one table row each, grouped by what they do.

Semantics are those of coremltools' operator definitions (``coremltools.converters.mil.mil.ops.defs``, iOS 15 to
iOS 18), which is the only public specification of MIL; where they are silent, the function says what was
chosen and why.

To add an operator: write a function whose keyword arguments have the operator's MIL names, and add its row.
"""

from __future__ import annotations

from sdk.runtimes.mil.ops.activation import TABLE as ACTIVATION
from sdk.runtimes.mil.ops.convolution import TABLE as CONVOLUTION
from sdk.runtimes.mil.ops.elementwise import TABLE as ELEMENTWISE
from sdk.runtimes.mil.ops.layout import TABLE as LAYOUT
from sdk.runtimes.mil.ops.linear import TABLE as LINEAR
from sdk.runtimes.mil.ops.normalization import TABLE as NORMALIZATION
from sdk.runtimes.mil.ops.pooling import TABLE as POOLING
from sdk.runtimes.mil.ops.quantization import TABLE as QUANTIZATION
from sdk.runtimes.mil.ops.reduction import TABLE as REDUCTION
from sdk.runtimes.mil.ops.resize import TABLE as RESIZE
from sdk.runtimes.mil.ops.table import Operator

#: MIL operator name to its row. ``const`` is not computed: the executor reads its value from the program.
OPERATORS: dict[str, Operator] = {
    **ACTIVATION,
    **CONVOLUTION,
    **ELEMENTWISE,
    **LAYOUT,
    **LINEAR,
    **NORMALIZATION,
    **POOLING,
    **QUANTIZATION,
    **REDUCTION,
    **RESIZE,
}

__all__ = ["OPERATORS", "Operator"]
