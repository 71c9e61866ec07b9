"""What can go wrong while a program is executed, beyond a file that cannot be read (``sdk.errors.UsageError``)."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.errors import GateError, MissingRuntimeError


class UnsupportedOperatorError(MissingRuntimeError):
    """The program uses operators (or a mode of one) that the executor does not have; ``verify`` says *not runnable*.

    Attributes:
        operators: their MIL names, each once, in order of appearance.
    """

    def __init__(self, operators: Sequence[str], where: str) -> None:
        self.operators = tuple(operators)
        names = ", ".join(self.operators)
        plural = "s" if len(self.operators) > 1 else ""
        super().__init__(
            f"{where} uses the operator{plural} {names}, which the MIL reference executor does not have: "
            "run it on macOS with the runtime 'coreml', or add a row to sdk.runtimes.mil.ops."
        )


class RangeError(GateError):
    """An operator's result does not fit the integer type the program declares for it."""


class ExecutionError(GateError):
    """An operator could not be computed on the values it was given: the program contradicts itself."""
