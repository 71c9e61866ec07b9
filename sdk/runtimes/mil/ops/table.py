"""The shape of a table row."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Operator:
    """How one MIL operator is computed.

    Attributes:
        function: takes the operator's inputs by their MIL names; absent optional inputs are not passed. Gives one
            tensor, or a tuple when the operator has several outputs. Floats come and go in the accumulator's dtype
            (float32 or float64); the caller rounds.
        inputs: the MIL names of all inputs the function takes.
        exact: the result only selects, moves or negates values that are already rounded, so it needs no rounding.
    """

    function: Callable[..., Any]
    inputs: frozenset[str]
    exact: bool = False

    def __call__(self, **inputs: Any) -> tuple[Tensor, ...]:
        result = self.function(**inputs)
        return result if isinstance(result, tuple) else (result,)


def row(function: Callable[..., Any], *, exact: bool = False) -> Operator:
    """A row for a function whose parameters have the operator's MIL names."""
    return Operator(function, frozenset(inspect.signature(function).parameters), exact)


def kernel(function: Callable[..., Tensor], *names: str, exact: bool = False) -> Operator:
    """A row for a kernel that takes the operator's inputs ``names`` in this order."""
    return Operator(lambda **inputs: function(*(inputs[name] for name in names)), frozenset(names), exact)
