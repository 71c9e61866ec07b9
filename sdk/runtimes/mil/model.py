"""A loaded package: what it takes and gives, prediction, and where it overflows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sdk.errors import UsageError, unknown_name
from sdk.runtimes.mil.errors import UnsupportedOperatorError
from sdk.runtimes.mil.features import Feature, feature_of
from sdk.runtimes.mil.package import Package, import_runtime, open_package, operator_names, quiet, rebuild

if TYPE_CHECKING:
    from sdk.runtimes.mil.program import Observer, Program

Accumulator = Literal["float32", "float64"]


@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """An operator whose result holds infinities or NaN.

    Attributes:
        operator: its MIL name, e.g. ``conv``.
        name: the result's name in the package.
        declared: the result's MIL type, e.g. ``fp16``.
        infinite, nan: how many elements are +-inf and NaN.
        elements: how many there are.
    """

    operator: str
    name: str
    declared: str
    infinite: int
    nan: int
    elements: int


class MILModel:
    """A package ready to run; make one with ``load``.

    Attributes:
        path: the ``.mlpackage`` folder.
        inputs, outputs: what ``predict`` takes and gives, in the package's order.
        operators: MIL operator name to how many of them the program has (constants and ``constexpr_`` included).
        accumulator: in which type sums are taken.
    """

    def __init__(
        self,
        path: Path,
        program: Program,
        *,
        inputs: tuple[Feature, ...],
        outputs: tuple[Feature, ...],
        operators: Mapping[str, int],
        accumulator: Accumulator,
    ) -> None:
        self.path = path
        self.inputs = inputs
        self.outputs = outputs
        self.operators = operators
        self.accumulator = accumulator
        self._program = program

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Runs the program once.

        Args:
            inputs: every input by name. Images: ``1 x H x W x 3`` or ``H x W x 3`` uint8 RGB (grey: one channel) or a
                PIL image, of the package's size. Arrays: of the declared shape, converted to the declared type.

        Returns:
            Every output by name: images ``1 x H x W x 3`` uint8 RGB, arrays in the declared type.

        Raises:
            UsageError: for a missing, unknown or unfitting input.
            RangeError: when a result does not fit its declared integer type.
            ExecutionError: when an operator cannot be computed.
        """
        results = self._run(inputs)
        return {feature.name: feature.from_program(results[feature.name]) for feature in self.outputs}

    def predict_raw(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """As ``predict``, but image outputs as the program has them: ``1 x C x H x W`` floats, not made 8-bit."""
        return self._run(inputs)

    def find_non_finite(self, inputs: Mapping[str, Any]) -> tuple[NonFinite, ...]:
        """The operators whose result is infinite or NaN somewhere, in order: the first is where it began."""
        found: list[NonFinite] = []

        def look(step: Any, results: Any) -> None:
            for output, result in zip(step.outputs, results, strict=True):
                if not result.dtype.is_floating_point or bool(result.isfinite().all()):
                    continue
                found.append(
                    NonFinite(
                        operator=step.operator,
                        name=output.name,
                        declared=output.declared,
                        infinite=int(result.isinf().sum()),
                        nan=int(result.isnan().sum()),
                        elements=result.numel(),
                    )
                )

        self._run(inputs, look)
        return tuple(found)

    def trace(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Every intermediate result by its name in the package, to compare two models operator by operator."""
        results: dict[str, np.ndarray] = {}

        def keep(step: Any, tensors: Any) -> None:
            for output, tensor in zip(step.outputs, tensors, strict=True):
                results[output.name] = tensor.contiguous().numpy().copy()

        self._run(inputs, keep)
        return results

    def _run(self, inputs: Mapping[str, Any], observer: Observer | None = None) -> dict[str, np.ndarray]:
        names = [feature.name for feature in self.inputs]
        for name in inputs:
            if name not in names:
                raise unknown_name("input", name, names)
        missing = [name for name in names if name not in inputs]
        if missing:
            raise UsageError(f"the model needs the input {missing[0]!r}, which was not given: it takes {names}.")
        arrays = {feature.name: feature.to_program(inputs[feature.name]) for feature in self.inputs}
        return self._program.run(arrays, observer)


def load(path: str | PathLike[str], *, accumulator: Accumulator = "float32", function: str | None = None) -> MILModel:
    """Loads a saved ``.mlpackage`` (an ML program) for execution on this host.

    The rules of execution: operators run one by one, in the program's order, with torch's CPU kernels; inside an
    operator sums and products are taken in ``accumulator``; each result is then rounded to the MIL type declared for it
    (fp16: half to even, infinite beyond 65504; int8 and uint8: checked). Compressed weights are expanded once, here.

    Args:
        path: the package's folder.
        accumulator: ``"float32"`` or ``"float64"``.
        function: which function of a multi-function package; ``None`` is its default one.

    Raises:
        MissingRuntimeError: when torch or coremltools is not installed (extra ``mil``).
        UnsupportedOperatorError: when the program has operators the executor does not know; names all of them.
        UsageError: when there is no package, it is damaged, or it is not an ML program.
        FileTroubleError: when the disk refuses.
    """
    if accumulator not in ("float32", "float64"):
        raise unknown_name("accumulator", accumulator, ("float32", "float64"))
    import_runtime()
    import torch

    from sdk.runtimes.mil.ops import OPERATORS
    from sdk.runtimes.mil.program import compile_function

    package = open_package(Path(path))
    unknown = [name for name in operator_names(package.spec) if name not in OPERATORS and name != "const"]
    if unknown:
        raise UnsupportedOperatorError(unknown, str(package.path))
    functions = rebuild(package).functions
    name = function or package.spec.description.defaultFunctionName or "main"
    if name not in functions:
        raise unknown_name("function", name, functions)
    inputs, outputs = _features(package, name)
    with quiet():
        program = compile_function(functions[name], getattr(torch, accumulator), str(package.path))
    for feature, known in [*((f, program.inputs) for f in inputs), *((f, program.outputs) for f in outputs)]:
        if feature.name not in known:
            raise UsageError(
                f"{package.path} describes {feature.name!r}, which its program does not have: save the package again."
            )
    counts = Counter(op.op_type for op in functions[name].operations)
    return MILModel(
        package.path,
        program,
        inputs=inputs,
        outputs=outputs,
        operators=MappingProxyType(dict(counts)),
        accumulator=accumulator,
    )


def _features(package: Package, function: str) -> tuple[tuple[Feature, ...], tuple[Feature, ...]]:
    description = package.spec.description
    for one in description.functions:
        if one.name == function:
            description = one
    return tuple(feature_of(item) for item in description.input), tuple(feature_of(item) for item in description.output)


def supported_operators() -> tuple[str, ...]:
    """The MIL operators the executor knows, sorted (imports torch).

    Raises:
        MissingRuntimeError: when torch or coremltools is not installed.
    """
    import_runtime()
    from sdk.runtimes.mil.ops import OPERATORS

    return tuple(sorted(OPERATORS))
