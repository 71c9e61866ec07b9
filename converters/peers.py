"""How fast the bundle is beside the architectures users would otherwise take: ``python -m converters.peers dist``.

The baseline is built with random weights (``training.models.baselines``), exported to ONNX and timed under ONNX
Runtime; the bundle's artifacts run under their own runtimes. Everything has its own process and the same number of
threads, and takes turns (``sdk.bench.race_runners``), so that a ratio compares neighbours in time.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from converters.to_onnx import OPSET
from sdk.bench import Runner, Timing, race_runners
from sdk.bundle import Artifact, Bundle
from sdk.errors import ToonEdgeError, UsageError
from sdk.host import describe_host
from sdk.runtimes import RUNTIMES
from sdk.spec import DType, IOSpec, Layout, Precision, image_spec
from sdk.verify import pair_with_runtimes
from sdk.worker import TIMED_KINDS, Worker
from training.models.baselines import make_baseline

BASELINE = "fast-neural-style-16"


def race_peers(
    bundle: Bundle,
    *,
    baselines: Sequence[str] = (BASELINE,),
    precisions: Sequence[Precision] = (Precision.FP32,),
    threads: int = 2,
    rounds: int = 7,
    runs: int = 15,
) -> tuple[Timing, ...]:
    """Times multi-style artifacts of a bundle against baselines in ONNX Runtime fp32, interleaved.

    Args:
        bundle: its artifacts of one size take part, each under every timed runtime that is here.
        baselines: names from ``training.models.baselines.BASELINES``; ratios are to the first.
        precisions: of the artifacts that take part.
        threads, rounds, runs: as for ``sdk.bench.bench``.

    Raises:
        UsageError: when no artifact of the bundle can take part, or a baseline is unknown.
    """
    artifacts = [a for a in bundle.artifacts if a.style is None and a.precision in precisions]
    pairs = [
        (artifact, runtime)
        for artifact, runtime in pair_with_runtimes(bundle, artifacts, None)[0]
        if runtime.kind in TIMED_KINDS and runtime.available().ok
    ]
    if not pairs:
        raise UsageError(f"{bundle.folder} has no multi-style artifact in {', '.join(precisions)} that runs here.")
    size = pairs[0][0].size
    pairs = [(artifact, runtime) for artifact, runtime in pairs if artifact.size == size]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toonedge-peers-")))
        photos = folder / "noise.npy"
        np.save(photos, np.random.default_rng(0).random((1, *size, 3), dtype=np.float32))
        runners: dict[str, Runner] = {}

        def enter(name: str, runtime: str, path: Path, io: IOSpec, weights: list[float] | None) -> None:
            worker = stack.enter_context(Worker(threads=threads))
            worker.load(RUNTIMES[runtime], path, io)
            runners[name] = lambda count: worker.time(photos, weights, runs=count)

        for name in baselines:
            path = folder / f"{name}.onnx"
            enter(f"{name} (onnxruntime fp32)", "onnxruntime", path, export_baseline(name, path, size), None)
        for artifact, runtime in pairs:
            enter(_title(artifact, runtime.name), runtime.name, bundle.path(artifact), artifact.io, _weights(bundle))
        return race_runners(
            runners, baseline=next(iter(runners)), rounds=rounds, runs=runs, warm_up=runs, threads=threads
        )


def export_baseline(name: str, path: Path, size: tuple[int, int]) -> IOSpec:
    """Writes a baseline as ONNX, float32, ``1 x 3 x H x W`` in and out.

    Raises:
        UsageError: for an unknown name.
    """
    network = make_baseline(name)
    program = torch.onnx.export(
        network, (torch.zeros(1, 3, *size),), dynamo=True, opset_version=OPSET, external_data=False, verbose=False,
        input_names=["image"], output_names=["cartoon"],
    )  # fmt: skip
    assert program is not None  # dynamo=True returns one
    program.save(path, external_data=False)
    border = partial(image_spec, layout=Layout.NCHW, dtype=DType.FLOAT32, height=size[0], width=size[1])
    return IOSpec(image=border("image"), output=border("cartoon"))


def _weights(bundle: Bundle) -> list[float]:
    return [float(row == 0) for row in range(len(bundle.styles))]


def _title(artifact: Artifact, runtime: str) -> str:
    return f"toonedge ({runtime} {artifact.precision})"


def main(  # noqa: PLR0917  the signature is the command line
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")] = Path("dist"),
    baseline: Annotated[
        list[str] | None, typer.Option(help=f"Baseline by name; repeatable; {BASELINE} if none is given.")
    ] = None,
    precision: Annotated[
        list[Precision] | None, typer.Option(help="Repeatable; fp32 and int8 if none is given.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Worker threads of every runtime.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    runs: Annotated[int, typer.Option(min=1, help="Runs a round.")] = 15,
) -> None:
    """Times the bundle's multi-style artifacts against a peer's architecture, interleaved in one run."""
    try:
        timings = race_peers(
            Bundle.open(bundle),
            baselines=baseline or (BASELINE,),
            precisions=precision or (Precision.FP32, Precision.INT8),
            threads=threads,
            rounds=rounds,
            runs=runs,
        )
    except ToonEdgeError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from None
    host = describe_host(threads)
    table = Table(title=f"{host.cpu}, {threads} threads, ms; ratio to the first row, median [min, max] of rounds")
    for column in ("network", "p50", "p90", "min", "times faster"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for timing in timings:
        ms = timing.latency_ms
        spread = f"{timing.ratio:.1f} [{timing.ratio_min:.1f}, {timing.ratio_max:.1f}]"
        table.add_row(timing.name, f"{ms.p50:.2f}", f"{ms.p90:.2f}", f"{ms.min:.2f}", spread)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
