"""What can be exported: one table row a target and backend. Help texts, checks and ``docs/targets.md`` come from it.

A new target is one module with one function ``(graph, spec, options) -> Artifact`` and one row here.  Importing this
module imports no tool: a converter is looked up when it is called.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converters.problems import Problems
from sdk.bundle import Artifact, Delegation, Quantization, hash_path, size_of
from sdk.errors import MissingRuntimeError, UsageError, unknown_name
from sdk.files import write_atomically
from sdk.spec import Backend, IOSpec, Precision, Target

if TYPE_CHECKING:
    from converters.graph import DeployGraph
    from converters.request import ExportOptions, ExportSpec

    Converter = Callable[[DeployGraph, ExportSpec, ExportOptions], Artifact]

#: The word for "every one of them" on the command line.
ALL = "all"
#: The pip extra with every converter.
EXTRA = "export"
#: Precisions people ask for that would not do what they hope, and why.
REFUSED_PRECISIONS: dict[str, str] = {
    "dynamic": (
        "dynamic quantization leaves convolutions in float: torch's quantize_dynamic takes linear and recurrent layers "
        "only and passes over every Conv2d without a word, so the file would be a float network with another name; "
        "use int8, which is static and calibrated."
    ),
}


def missing_packages(packages: Mapping[str, str]) -> list[str]:
    """Pip names of the packages (import name -> pip name) that are not installed; imports none of them."""
    return [pip for name, pip in packages.items() if importlib.util.find_spec(name) is None]


@dataclass(frozen=True, kw_only=True)
class FidelityGate:
    """Most that an int8 artifact may differ from its own simulation; see ``sdk.bundle.Fidelity`` for the quantities.

    What correct artifacts differ by is rounding, and how much of it there is depends on what the runtime computes in:
    ONNX Runtime and XNNPACK round as the simulation does, LiteRT's file is simulated by other integer kernels, and Core
    ML computes what lies between the grids in fp16. ``docs/verification.md`` has what was measured.
    """

    max_abs_steps: float
    mean_abs_steps: float
    drift_steps: float


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """One way to export.

    Attributes:
        target, backend: what it is called.
        suffix: of the file (or package folder), without the dot.
        precisions: which it has, the default first.
        converter: ``module:function``.
        packages: import name -> pip name of the tools the converter needs.
        runtimes: names in ``sdk.runtimes.RUNTIMES`` that read an artifact back, the preferred first.
        runtime_extra: the pip extra that installs the preferred one.
        host: where the phone's own runtime runs besides the phone.
        min_runtime: the oldest runtime that loads the file, for the manifest's reader.
        min_os: precision -> the oldest system that runs it, where the runtime is a part of the system.
        dynamic_batch: whether ``--dynamic-batch`` is possible.
        one_delegate: a gate: exactly one delegate in the saved file and no operator outside of it.
        fidelity: a gate: how near an int8 file must come to its own simulation.
        io: the border in words.
    """

    target: Target
    backend: Backend
    suffix: str
    precisions: tuple[Precision, ...]
    converter: str
    packages: dict[str, str]
    runtimes: tuple[str, ...]
    runtime_extra: str
    host: str
    min_runtime: str
    fidelity: FidelityGate
    io: str
    min_os: dict[Precision, str] = field(default_factory=dict)
    dynamic_batch: bool = False
    one_delegate: bool = False

    @property
    def default_precision(self) -> Precision:
        """What is exported when no ``--precision`` is given."""
        return self.precisions[0]

    def require(self) -> None:
        """Looks for the converter's tools without importing them.

        Raises:
            MissingRuntimeError: names the first tool that is not installed, and the extra.
        """
        for package in missing_packages(self.packages):
            raise MissingRuntimeError.for_extra(f"exporting {self.target}", package, EXTRA)

    def load(self) -> Converter:
        """The converter itself.

        Raises:
            MissingRuntimeError: when a tool it needs is not installed.
        """
        self.require()
        module, _, function = self.converter.partition(":")
        converter: Converter = getattr(importlib.import_module(module), function)
        return converter

    def artifact(
        self,
        spec: ExportSpec,
        path: Path,
        *,
        io: IOSpec,
        tools: Sequence[str],
        quantization: Quantization | None = None,
        delegation: Delegation | None = None,
    ) -> Artifact:
        """What the manifest says of a file that was written.

        Args:
            spec: what was asked for.
            path: the file, or package folder.
            io: its border.
            tools: the packages whose versions made it.
            quantization: how it was quantized, if it was.
            delegation: what its delegate takes, where that can be read from the file.
        """
        return Artifact(
            file=path.name,
            target=spec.target,
            backend=spec.backend,
            precision=spec.precision,
            style=spec.style,
            size=spec.size,
            bytes=size_of(path),
            sha256=hash_path(path),
            io=io,
            quantization=quantization,
            delegation=delegation,
            min_runtime=self.min_runtime,
            min_os=self.min_os.get(spec.precision),
            tools={name: version(name) for name in tools},
        )


_TORCH = {"torch": "torch", "timm": "timm"}

TARGETS: tuple[TargetRow, ...] = (
    TargetRow(
        target=Target.EXECUTORCH,
        backend=Backend.XNNPACK,
        suffix="pte",
        precisions=(Precision.FP32, Precision.INT8),
        converter="converters.to_executorch:to_executorch",
        packages={**_TORCH, "executorch": "executorch", "torchao": "torchao"},
        runtimes=("executorch",),
        runtime_extra="executorch",
        host="Linux, macOS",
        min_runtime="executorch 1.5.1",
        fidelity=FidelityGate(max_abs_steps=24, mean_abs_steps=1.2, drift_steps=0.1),
        io="float32 NCHW in [0, 1], also for int8",
        one_delegate=True,
    ),
    TargetRow(
        target=Target.COREML,
        backend=Backend.MLPROGRAM,
        suffix="mlpackage",
        precisions=(Precision.FP16, Precision.FP32, Precision.INT8),
        converter="converters.to_coreml:to_coreml",
        packages={**_TORCH, "coremltools": "coremltools", "torchao": "torchao"},
        runtimes=("coreml", "mil"),
        runtime_extra="mil",
        host="macOS; elsewhere the MIL reference executor (numerics only)",
        min_runtime="Core ML of the system",
        fidelity=FidelityGate(max_abs_steps=24, mean_abs_steps=1.6, drift_steps=0.4),
        io="8-bit RGB image in and out",
        min_os={Precision.FP16: "iOS 16", Precision.FP32: "iOS 16", Precision.INT8: "iOS 17"},
    ),
    TargetRow(
        target=Target.TFLITE,
        backend=Backend.LITERT,
        suffix="tflite",
        precisions=(Precision.FP32, Precision.INT8),
        converter="converters.to_tflite:to_tflite",
        packages={
            **_TORCH,
            "litert_torch": "litert-torch",
            "ai_edge_quantizer": "ai-edge-quantizer",
            "ai_edge_litert": "ai-edge-litert",
        },
        runtimes=("litert",),
        runtime_extra="tflite",
        host="Linux, macOS, Windows",
        min_runtime="LiteRT 2.3.0",
        fidelity=FidelityGate(max_abs_steps=24, mean_abs_steps=1.4, drift_steps=0.6),
        io="float32 NHWC in [0, 1]; int8 NHWC (uint8 XOR 0x80) for int8",
    ),
    TargetRow(
        target=Target.ONNX,
        backend=Backend.ORT,
        suffix="onnx",
        precisions=(Precision.FP32, Precision.INT8),
        converter="converters.to_onnx:to_onnx",
        packages={**_TORCH, "onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
        runtimes=("onnxruntime",),
        runtime_extra="onnx",
        host="Linux, macOS, Windows",
        min_runtime="onnxruntime 1.14",
        fidelity=FidelityGate(max_abs_steps=24, mean_abs_steps=0.8, drift_steps=0.1),
        io="float32 NCHW in [0, 1], also for int8",
        dynamic_batch=True,
    ),
)

#: What writing and proving ``reference.onnx`` needs, whatever the target.
REFERENCE_PACKAGES: dict[str, str] = {
    **_TORCH,
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One row at one precision: what a request expands to."""

    row: TargetRow
    precision: Precision


def row_for(target: Target, backend: Backend) -> TargetRow:
    """The row of a target and backend.

    Raises:
        UsageError: when the target has no such backend.
    """
    for row in TARGETS:
        if (row.target, row.backend) == (target, backend):
            return row
    has = ", ".join(row.backend for row in TARGETS if row.target is target)
    raise UsageError(f"{target} has no backend {backend}: choose from {has}.")


def choose(
    targets: Sequence[str] = (ALL,),
    backend: str | None = None,
    precisions: Sequence[str] = (),
    *,
    problems: Problems | None = None,
) -> tuple[Choice, ...]:
    """Rows and precisions for what was asked by name.

    Args:
        targets: target names, or ``all``.
        backend: a backend name, where a target has several; ``None``: every target's first.
        precisions: precision names, or ``all``; empty: each row's default.
        problems: where unknown names and impossible combinations go, every one of them; ``None`` raises them.

    Raises:
        UsageError: what went wrong, unless ``problems`` takes it.
    """
    found = Problems()
    rows = _rows(targets or (ALL,), backend, found)
    wanted = _precisions(precisions, found)
    choices: list[Choice] = []
    for row in rows:
        asked = wanted if wanted is not None else (row.default_precision,)
        choices += [Choice(row=row, precision=p) for p in row.precisions if p in asked]
        # `all` on either side means "what there is"; a pair named in full must exist.
        missing = [p for p in asked if p not in row.precisions]
        if missing and ALL not in targets and ALL not in precisions:
            has = ", ".join(row.precisions)
            found.add(UsageError(f"{row.target} ({row.backend}) has no precision {missing[0]}: choose from {has}."))
    if problems is None:
        found.raise_any()
    else:
        for problem in found.found:
            problems.add(problem)
    return tuple(choices)


def _rows(targets: Sequence[str], backend: str | None, problems: Problems) -> list[TargetRow]:
    known = [*Target, ALL]
    for name in targets:
        if name not in known:
            problems.add(unknown_name("target", name, known))
    if backend is not None and backend not in list(Backend):
        problems.add(unknown_name("backend", backend, Backend))
        backend = None
    named = list(Target) if ALL in targets else [Target(name) for name in dict.fromkeys(targets) if name in known]
    rows: list[TargetRow] = []
    for target in named:
        of_target = [row for row in TARGETS if row.target is target]
        fitting = [row for row in of_target if backend in (None, row.backend)]
        rows += fitting[:1]
        if not fitting and ALL not in targets:
            has = ", ".join(row.backend for row in of_target)
            problems.add(UsageError(f"{target} has no backend {backend}: choose from {has}."))
    return rows


def _precisions(names: Sequence[str], problems: Problems) -> tuple[Precision, ...] | None:
    """``None`` for each row's default."""
    for name in names:
        if name in REFUSED_PRECISIONS:
            problems.add(UsageError(f"precision {name!r} is refused: {REFUSED_PRECISIONS[name]}"))
        elif name not in (*Precision, ALL):
            problems.add(unknown_name("precision", name, [*Precision, ALL]))
    if ALL in names:
        return tuple(Precision)
    return tuple(Precision(name) for name in dict.fromkeys(names) if name in list(Precision)) or None


# --- texts made from the table ---------------------------------------------------------------------------------------


def target_help() -> str:
    """The help text of ``--target``."""
    return f"What to export: {', '.join(Target)} or {ALL}. Repeatable."


def backend_help() -> str:
    """The help text of ``--backend``."""
    pairs = ", ".join(f"{row.backend} ({row.target})" for row in TARGETS)
    return f"What executes the graph, where a target has several: {pairs}."


def precision_help() -> str:
    """The help text of ``--precision``."""
    defaults = ", ".join(f"{row.target} {row.default_precision}" for row in TARGETS)
    return f"{', '.join(Precision)} or {ALL}. Repeatable. Default: {defaults}."


def targets_markdown() -> str:
    """``docs/targets.md``; a test keeps the file equal to this text."""
    lines = [
        "# Targets",
        "",
        "<!-- Made by `python -m converters.registry docs/targets.md` from the table in converters/registry.py. -->",
        "",
        "| `--target` | backend | file | precisions (default first) | border | oldest runtime or system "
        "| read back by | its own runtime runs on |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in TARGETS:
        systems = [f"{precision}: {system}" for precision, system in row.min_os.items()]
        cells = [
            f"`{row.target}`",
            row.backend,
            f"`.{row.suffix}`",
            ", ".join(row.precisions),
            row.io,
            "; ".join([row.min_runtime, *systems]),
            ", ".join(row.runtimes),
            row.host,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    dynamic = ", ".join(row.target for row in TARGETS if row.dynamic_batch)
    gated = ", ".join(f"{row.target} ({row.backend})" for row in TARGETS if row.one_delegate)
    lines += [
        "",
        f"* Every converter comes with the extra `{EXTRA}`: `pip install 'toonedge[{EXTRA}]'`. Running an artifact "
        "needs its runtime only:",
        *[f"  `{row.target}`: `pip install 'toonedge[{row.runtime_extra}]'`." for row in TARGETS],
        f"* `--dynamic-batch` (any batch size in one file): {dynamic}.",
        f"* Exactly one delegate and no operator outside of it is a gate for: {gated}.",
        *[f"* `--precision {name}` is refused: {reason}" for name, reason in REFUSED_PRECISIONS.items()],
        "",
    ]
    return "\n".join(lines)


def main(page: Annotated[Path, typer.Argument(help="The page to write: docs/targets.md.")]) -> None:
    """Write the page of targets from the table."""
    write_atomically(page, targets_markdown())


if __name__ == "__main__":
    typer.run(main)
