"""MIL's element types, and a result's way into the one that the program declares for it.

Floats of every type are carried in the accumulator's dtype (float32 or float64) and hold only values of their own type;
integers and booleans are carried in a torch dtype wide enough for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdk.runtimes.mil.errors import RangeError, UnsupportedOperatorError

_FLOATS = {"fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class _Integer:
    low: int
    high: int
    carrier: torch.dtype

    @property
    def fills_carrier(self) -> bool:
        info = torch.iinfo(self.carrier)
        return (self.low, self.high) == (info.min, info.max)


def _signed(bits: int, carrier: torch.dtype) -> _Integer:
    return _Integer(-(1 << (bits - 1)), (1 << (bits - 1)) - 1, carrier)


def _unsigned(bits: int, carrier: torch.dtype) -> _Integer:
    return _Integer(0, (1 << bits) - 1, carrier)


_INTEGERS = {
    "int4": _signed(4, torch.int8),
    "int8": _signed(8, torch.int8),
    "int16": _signed(16, torch.int16),
    "int32": _signed(32, torch.int32),
    "int64": _signed(64, torch.int64),
    **{f"uint{bits}": _unsigned(bits, torch.uint8) for bits in (1, 2, 3, 4, 6, 8)},
    "uint16": _unsigned(16, torch.int32),
    "uint32": _unsigned(32, torch.int64),
}


def round_to(value: Tensor, declared: str, accumulator: torch.dtype) -> Tensor:
    """A computed result as the declared type holds it.

    Floats are rounded half to even; what is beyond the type's range becomes infinite (fp16: beyond 65504, from 65520
    on). Integers must fit: a type that cannot hold the result would wrap or saturate in ways no one specifies.

    Args:
        declared: MIL type name, e.g. ``fp16`` or ``uint8``.
        accumulator: the dtype that carries floats.

    Raises:
        RangeError: when an integer type cannot hold a value.
        UnsupportedOperatorError: for a type that is not in the table.
    """
    if declared in _FLOATS:
        kept = _FLOATS[declared]
        return value.to(accumulator) if kept == accumulator else value.to(kept).to(accumulator)
    if declared == "bool":
        return value.to(torch.bool)
    if declared not in _INTEGERS:
        raise UnsupportedOperatorError([f"type {declared}"], "the program")
    integer = _INTEGERS[declared]
    if value.dtype == torch.bool or (value.dtype == integer.carrier and integer.fills_carrier):
        return value.to(integer.carrier)
    if value.numel():
        _check_range(value, integer, declared)
    return value.to(integer.carrier)


def _check_range(value: Tensor, integer: _Integer, declared: str) -> None:
    low, high = (bound.item() for bound in torch.aminmax(value))
    for bound in (low, high):
        if math.isnan(bound) or not integer.low <= bound <= integer.high:
            raise RangeError(f"the value {bound:g} does not fit {declared} ({integer.low} to {integer.high}).")
    if value.dtype.is_floating_point and bool((value != torch.trunc(value)).any()):
        fraction = value[value != torch.trunc(value)].reshape(-1)[0].item()
        raise RangeError(f"the value {fraction:g} is not a whole number, but {declared} is declared.")


def constant(value: Any, declared: str, accumulator: torch.dtype) -> Tensor | str:
    """A constant of the program (numpy array or scalar, or a string) as the executor carries it."""
    if isinstance(value, str | np.str_):
        return str(value)
    array = np.asarray(value)
    if declared in _FLOATS:
        return torch.from_numpy(np.array(array, dtype=np.float64)).to(accumulator)
    if declared == "bool":
        return torch.from_numpy(np.array(array, dtype=np.bool_))
    if declared not in _INTEGERS:
        raise UnsupportedOperatorError([f"type {declared}"], "the program")
    return torch.from_numpy(np.array(array, dtype=np.int64)).to(_INTEGERS[declared].carrier)
