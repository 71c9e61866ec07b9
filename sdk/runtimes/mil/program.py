"""A MIL function compiled into steps, and their execution.

Compiling resolves every operator to its table row, gives every value a slot, and computes once whatever depends on
constants only: dequantized weights, palettes, folded shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sdk.runtimes.mil.errors import ExecutionError, RangeError, UnsupportedOperatorError
from sdk.runtimes.mil.ops import OPERATORS, Operator
from sdk.runtimes.mil.ops.arguments import Value
from sdk.runtimes.mil.rounding import constant, round_to

#: Where an argument comes from: one slot, or several for a variadic input (``concat``).
Source: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class Output:
    """One result of an operator: its slot, its name in the package and the MIL type declared for it."""

    slot: int
    name: str
    declared: str


@dataclass(frozen=True)
class Step:
    """One operator of the program.

    Attributes:
        operator: its MIL name.
        row: how it is computed.
        arguments: input name to slots.
        outputs: its results.
        last_uses: slots that no later step reads.
    """

    operator: str
    row: Operator
    arguments: Mapping[str, Source]
    outputs: tuple[Output, ...]
    last_uses: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.outputs[0].name


#: Called after each step with its rounded results.
Observer: TypeAlias = Callable[[Step, Sequence[Tensor]], None]


@dataclass(frozen=True)
class Program:
    """A compiled function.

    Attributes:
        inputs: input name to (slot, declared type).
        outputs: output name to slot.
        steps: what is left to compute for each picture.
        values: one entry per slot; constants are there already.
        accumulator: the dtype that carries floats.
    """

    inputs: Mapping[str, tuple[int, str]]
    outputs: Mapping[str, int]
    steps: tuple[Step, ...]
    values: tuple[Value | None, ...]
    accumulator: torch.dtype

    def run(self, inputs: Mapping[str, np.ndarray], observer: Observer | None = None) -> dict[str, np.ndarray]:
        """Computes all outputs.

        Args:
            inputs: every input by name, in the program's layout.
            observer: called after each step.

        Raises:
            RangeError: when a result does not fit its declared integer type.
            ExecutionError: when an operator cannot be computed.
        """
        values = list(self.values)
        with torch.inference_mode():
            for name, (slot, declared) in self.inputs.items():
                values[slot] = round_to(torch.from_numpy(np.array(inputs[name])), declared, self.accumulator)
            for step in self.steps:
                results = _compute(step, values, self.accumulator)
                for output, result in zip(step.outputs, results, strict=True):
                    values[output.slot] = result
                if observer is not None:
                    observer(step, results)
                for slot in step.last_uses:
                    values[slot] = None
            return {name: _as_numpy(values[slot]) for name, slot in self.outputs.items()}


def _as_numpy(value: Value | None) -> np.ndarray:
    assert isinstance(value, Tensor)
    return np.array(value.numpy())  # a copy: a result may be a view of a constant


def _compute(step: Step, values: Sequence[Value | None], accumulator: torch.dtype) -> list[Tensor]:
    arguments = {
        name: tuple(values[slot] for slot in source) if isinstance(source, tuple) else values[source]
        for name, source in step.arguments.items()
    }
    try:
        results = step.row(**arguments)
        return [
            result if step.row.exact and result.dtype == accumulator else round_to(result, output.declared, accumulator)
            for output, result in zip(step.outputs, results, strict=True)
        ]
    except RangeError as error:
        raise RangeError(f"the operator {step.operator} ({step.name!r}) is out of range: {error}") from error
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExecutionError(
            f"the operator {step.operator} ({step.name!r}) cannot be computed: {first_line.rstrip('.')}."
        ) from error


def compile_function(function: Any, accumulator: torch.dtype, where: str) -> Program:
    """Compiles a coremltools ``Function``.

    Args:
        accumulator: ``torch.float32`` or ``torch.float64``.
        where: the file, for messages.

    Raises:
        UnsupportedOperatorError: for operators that are not in the table; names all of them.
        RangeError, ExecutionError: when a constant cannot be computed.
    """
    unknown = dict.fromkeys(name for op in function.operations if op.op_type != "const" for name in _unsupported(op))
    if unknown:
        raise UnsupportedOperatorError(list(unknown), where)
    slots: dict[int, int] = {}  # id(var) -> slot; the vars live as long as `function`
    values: list[Value | None] = []

    def new_slot(var: Any) -> int:
        slots[id(var)] = len(values)
        values.append(None)
        return slots[id(var)]

    inputs = {name: (new_slot(var), _type_name(var.dtype)) for name, var in function.inputs.items()}
    steps: list[Step] = []
    with torch.inference_mode():
        for op in function.operations:
            if op.op_type == "const":
                var = op.outputs[0]
                values[new_slot(var)] = constant(op.val.val, _type_name(var.dtype), accumulator)
                continue
            arguments = _arguments(op, slots)
            outputs = tuple(Output(new_slot(var), var.name, _type_name(var.dtype)) for var in op.outputs)
            step = Step(op.op_type, OPERATORS[op.op_type], arguments, outputs)
            if all(values[slot] is not None for slot in _slots(arguments)):
                for output, result in zip(outputs, _compute(step, values, accumulator), strict=True):
                    values[output.slot] = result.contiguous()
            else:
                steps.append(step)
    results = {var.name: slots[id(var)] for var in function.outputs}
    return _with_lifetimes(Program(inputs, results, tuple(steps), tuple(values), accumulator))


def _unsupported(op: Any) -> list[str]:
    if op.op_type not in OPERATORS:
        return [op.op_type]
    given = {name for name, value in op.inputs.items() if value is not None}
    return [f"{op.op_type}({name}=...)" for name in sorted(given - OPERATORS[op.op_type].inputs)]


def _type_name(dtype: Any) -> str:
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(dtype))


def _arguments(op: Any, slots: Mapping[int, int]) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for name, var in op.inputs.items():
        if isinstance(var, list | tuple):
            sources[name] = tuple(slots[id(one)] for one in var)
        elif var is not None:
            sources[name] = slots[id(var)]
    return sources


def _slots(arguments: Mapping[str, Source]) -> list[int]:
    flat: list[int] = []
    for source in arguments.values():
        flat.extend(source if isinstance(source, tuple) else (source,))
    return flat


def _with_lifetimes(program: Program) -> Program:
    """Drops constants that only other constants needed, and notes where each computed value is read last."""
    kept = set(program.outputs.values())
    live = set(kept)
    steps: list[Step] = []
    for step in reversed(program.steps):
        used = set(_slots(step.arguments))
        produced = {output.slot for output in step.outputs}
        # Constants stay for the next picture; values nobody reads (a second output) go at once.
        ends = tuple(sorted(slot for slot in (used | produced) - live if program.values[slot] is None))
        live |= used
        steps.append(Step(step.operator, step.row, step.arguments, step.outputs, ends))
    values = tuple(value if slot in live else None for slot, value in enumerate(program.values))
    return Program(program.inputs, program.outputs, tuple(reversed(steps)), values, program.accumulator)
