"""Arithmetic, comparison, logic and casts, element by element with numpy's broadcasting.

Integers are added and multiplied in 64 bits, so that a result beyond the declared type is seen instead of wrapped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdk.runtimes.mil.ops.table import Operator, kernel, row


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype.is_floating_point else x.to(torch.int64)


def _arithmetic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return kernel(lambda x, y: function(_wide(x), _wide(y)), "x", "y")


def cast(x: Tensor, dtype: str) -> Tensor:
    """To another type; the caller's rounding does the rest. A float becomes an integer by dropping its fraction."""
    if dtype == "bool":
        return x != 0
    to_integer = dtype.startswith(("int", "uint"))
    return torch.trunc(x) if to_integer and x.dtype.is_floating_point else x


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, alpha), beta)


def inverse(x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    return 1 / (x + epsilon)


def log(x: Tensor, epsilon: Tensor | float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    return 1 / torch.sqrt(x + epsilon)


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


def square(x: Tensor) -> Tensor:
    return _wide(x) * _wide(x)


TABLE: dict[str, Operator] = {
    # arithmetic
    "add": _arithmetic(torch.add),
    "floor_div": _arithmetic(torch.floor_divide),
    "maximum": _arithmetic(torch.maximum),
    "minimum": _arithmetic(torch.minimum),
    "mod": _arithmetic(torch.remainder),  # the sign of y, as numpy's %
    "mul": _arithmetic(torch.mul),
    "pow": _arithmetic(torch.pow),
    "real_div": _arithmetic(torch.true_divide),
    "sub": _arithmetic(torch.sub),
    # comparison and logic
    "equal": kernel(torch.eq, "x", "y", exact=True),
    "greater": kernel(torch.gt, "x", "y", exact=True),
    "greater_equal": kernel(torch.ge, "x", "y", exact=True),
    "less": kernel(torch.lt, "x", "y", exact=True),
    "less_equal": kernel(torch.le, "x", "y", exact=True),
    "logical_and": kernel(torch.logical_and, "x", "y", exact=True),
    "logical_not": kernel(torch.logical_not, "x", exact=True),
    "logical_or": kernel(torch.logical_or, "x", "y", exact=True),
    "logical_xor": kernel(torch.logical_xor, "x", "y", exact=True),
    "not_equal": kernel(torch.ne, "x", "y", exact=True),
    "select": row(select, exact=True),
    # one operand
    "abs": kernel(torch.abs, "x", exact=True),
    "acos": kernel(torch.acos, "x"),
    "asin": kernel(torch.asin, "x"),
    "atan": kernel(torch.atan, "x"),
    "atanh": kernel(torch.atanh, "x"),
    "cast": row(cast),
    "ceil": kernel(torch.ceil, "x"),
    "clip": row(clip, exact=True),
    "cos": kernel(torch.cos, "x"),
    "cosh": kernel(torch.cosh, "x"),
    "erf": kernel(torch.erf, "x"),
    "exp": kernel(torch.exp, "x"),
    "exp2": kernel(torch.exp2, "x"),
    "floor": kernel(torch.floor, "x"),
    "identity": kernel(lambda x: x, "x", exact=True),
    "inverse": row(inverse),
    "log": row(log),
    # Halves go to the even neighbour, as in coremltools' own evaluation. On devices it depends on the compute unit
    # (webmachinelearning/webnn issue 817: "implementation defined").
    "round": kernel(torch.round, "x"),
    "rsqrt": row(rsqrt),
    "sign": kernel(torch.sign, "x"),
    "sin": kernel(torch.sin, "x"),
    "sinh": kernel(torch.sinh, "x"),
    "sqrt": kernel(torch.sqrt, "x"),
    "square": row(square),
    "tan": kernel(torch.tan, "x"),
    "threshold": kernel(torch.maximum, "x", "alpha", exact=True),
}
