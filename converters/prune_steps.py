"""What a pruning run has done so far: its steps, the file it resumes from, and the table for people."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import UsageError
from sdk.files import write_atomically

STATE = "state.json"
_SCHEMA = 1
#: Headings of the table, in files and on screen. SSIM is to the parent's pictures: "cut" before recovery, "test" on the
#: photos that decide nothing.
COLUMNS = (
    "step", "kept", "params", "MACs", "of parent", "latency ms", "cut SSIM", "SSIM", "worst", "test SSIM", "test worst",
    "recovery",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """SSIM (``sdk.metrics.ssim``) to the parent's pictures over photos and styles: the mean, and the worst picture."""

    mean: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a run; step 0 is the parent.

    Attributes:
        number: from 0.
        kept: whether it reached the floor.
        params, macs: of the network; multiply-accumulates of the run's size.
        cut: after cutting and taking the statistics anew, before recovery; ``None`` of step 0.
        ssim: on the photos that decide.
        test: on the photos that only report; ``None`` when there are none.
        recovery_steps: optimizer steps of the recovery.
        recovery_minutes: what they took, on a machine that may have had other things to do.
        latency_ms: p50 in ONNX Runtime, fp32, on this host; ``None`` when it was not measured.
    """

    number: int
    kept: bool
    params: int
    macs: int
    cut: Similarity | None
    ssim: Similarity
    test: Similarity | None
    recovery_steps: int = 0
    recovery_minutes: float = 0.0
    latency_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """All that a run needs to go on, besides the checkpoints in its folders.

    Attributes:
        parent_sha256: of the checkpoint that is pruned.
        settings: what the results depend on, plain JSON types.
        steps: finished ones, the parent first.
        end: why the run is over, for people; empty while it is not.
    """

    parent_sha256: str
    settings: Mapping[str, Any]
    steps: tuple[Step, ...] = ()
    end: str = ""

    @property
    def best(self) -> Step:
        """The last step that was kept; the parent when none was."""
        return [step for step in self.steps if step.kept][-1]

    def write(self, folder: Path) -> None:
        """Writes the state, then the table as ``table.csv`` and ``table.md``; each whole or not at all.

        Raises:
            FileTroubleError: the disk says no.
        """
        described = {"schema": _SCHEMA, **dataclasses.asdict(self)}
        write_atomically(folder / STATE, json.dumps(described, indent=2) + "\n")
        rows = cells(self.steps)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        write_atomically(folder / "table.csv", text.getvalue())
        lines = [COLUMNS, ["--:"] * len(COLUMNS), *rows]
        write_atomically(folder / "table.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))

    @classmethod
    def read(cls, folder: Path) -> State:
        """The inverse of ``write``.

        Raises:
            UsageError: there is none, or it is damaged or of another version.
        """
        path = folder / STATE
        if not path.is_file():
            raise UsageError(f"{folder} holds no run to resume: leave --resume out, or name the --out of a run.")
        try:
            values = json.loads(path.read_text())
            if values.pop("schema") != _SCHEMA:
                raise UsageError(f"{path} was written by another version: start anew in another --out.")
            return cls(**{**values, "steps": tuple(_step(step) for step in values["steps"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{path} cannot be read ({error}): start anew in another --out.") from error


def _step(values: dict[str, Any]) -> Step:
    parts = {key: Similarity(**values[key]) for key in ("cut", "ssim", "test") if values[key] is not None}
    return Step(**{**values, **parts})


def cells(steps: Sequence[Step]) -> list[list[str]]:
    """The table's rows, as texts in the order of ``COLUMNS``."""
    parent = steps[0].macs if steps else 1
    return [
        [
            str(step.number) if step.number else "parent",
            "yes" if step.kept else "no",
            f"{step.params:,}",
            f"{step.macs / 1e6:.1f} M",
            f"{step.macs / parent:.1%}",
            "-" if step.latency_ms is None else f"{step.latency_ms:.2f}",
            "-" if step.cut is None else f"{step.cut.mean:.4f}",
            f"{step.ssim.mean:.4f}",
            f"{step.ssim.worst:.4f}",
            "-" if step.test is None else f"{step.test.mean:.4f}",
            "-" if step.test is None else f"{step.test.worst:.4f}",
            f"{step.recovery_steps} steps, {step.recovery_minutes:.1f} min" if step.number else "-",
        ]
        for step in steps
    ]
