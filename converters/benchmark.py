"""How fast the bundle is, and how fast it could be: ``python -m converters.benchmark dist`` (``make bench``).

First everything is exported (baselines with random weights, matrix products, the checkpoint at several sizes), then it
is raced: the bundle's multi-style artifacts, the baselines and the matrix products in one race, the sizes in another.
What comes out is ``bench.json``, a Markdown page and plots, and one line a bar (``converters.bars``).
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from converters.bars import Standing, judge
from converters.figures import Figures, Floor, Quality, read_figures, read_quality, write_figures
from converters.growth import SIDES, network_contestant, timed_rows
from converters.page import page_text, print_figures
from converters.peak import SHAPES, WRITERS, gemm_contestant
from converters.peers import BASELINE, Contestant, Performance, Role, artifact_contestants, baseline_contestant, race
from converters.plots import write_plots
from converters.to_executorch import lower
from converters.to_onnx import save, trace
from converters.to_tflite import convert
from sdk.bundle import Bundle
from sdk.errors import ExitCode, ToonEdgeError, UsageError, unknown_name
from sdk.files import disk_trouble, write_atomically
from sdk.host import describe_host
from sdk.runtimes import get_runtime
from sdk.spec import DType, IOSpec, Layout, Precision, Target, check_size, image_spec
from training.checkpoint import PRETRAINED, Checkpoint, load_checkpoint
from training.models.baselines import BASELINES

#: Side of the picture of the trivial network that shows what a runtime needs for itself.
_TRIVIAL_SIDE = 16
#: Columns of the tables when they do not go to a terminal.
_LOG_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        baselines: names from ``training.models.baselines.BASELINES``.
        precisions: of the bundle's artifacts that take part.
        checkpoint: of the bundle, for other sizes.
        sides: of the square pictures, in pixels; fewer than two: no growth.
        growth_targets: whose runtimes the sizes are measured in.
        parent: the checkpoint of the network before pruning.
        threads, rounds, runs: as for ``converters.peers.race``.
    """

    baselines: tuple[str, ...] = tuple(BASELINES)
    precisions: tuple[Precision, ...] = (Precision.FP32, Precision.INT8)
    checkpoint: Path = PRETRAINED
    sides: tuple[int, ...] = SIDES
    growth_targets: tuple[Target, ...] = (Target.ONNX,)
    parent: Path | None = None
    threads: int = 2
    rounds: int = 15
    runs: int = 15


@dataclass(frozen=True, kw_only=True)
class Field:
    """Everything exported and ready to be timed: the race, the sizes, and the trivial networks."""

    race: tuple[Contestant, ...]
    growth: tuple[Contestant, ...] = ()
    floors: tuple[Contestant, ...] = field(default=())


def prepare(bundle: Bundle, plan: Plan, folder: Path, say: Callable[[str], None] = lambda _: None) -> Field:
    """Exports all that takes part into a folder.

    Args:
        say: told what comes next, in a few words.

    Raises:
        UsageError: an unknown baseline, no artifact that runs here, or a checkpoint that is not the bundle's.
        MissingRuntimeError: a converter's tool is missing.
    """
    for name in plan.baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    artifacts = artifact_contestants(bundle, plan.precisions)
    size = _picture_size(artifacts[0])
    checkpoint = _checkpoint_of(bundle, plan) if len(plan.sides) > 1 else None
    parent = load_checkpoint(plan.parent) if plan.parent is not None else None
    runtimes = tuple(dict.fromkeys(a.runtime for a in artifacts if a.runtime in WRITERS))
    contestants = list(artifacts)
    if parent is not None:
        for row, runtime in timed_rows():
            if runtime in runtimes:
                say(f"exporting the parent for {runtime}")
                place = folder / f"parent-{runtime}"
                place.mkdir()
                contestants.append(network_contestant(parent, row, runtime, size, place, role=Role.PARENT))
    baselines = []
    for name in plan.baselines:
        say(f"exporting {name}")
        baselines.append(baseline_contestant(name, folder, size))
    # What the bars hold against each other takes its turns next to each other, what takes long comes last.
    baselines.sort(key=lambda one: (one.name != BASELINE, one.macs))
    contestants += baselines[:1]
    for runtime in runtimes:
        say(f"exporting matrix products for {runtime}")
        contestants += [gemm_contestant(runtime, shape, folder) for shape in SHAPES]
    contestants += baselines[1:]
    growth = []
    for row, runtime in timed_rows():
        if checkpoint is not None and row.target in plan.growth_targets:
            for side in plan.sides:
                say(f"exporting {side} x {side} for {runtime}")
                growth.append(network_contestant(checkpoint, row, runtime, (side, side), folder, role=Role.ARTIFACT))
    floors = tuple(_trivial_contestant(runtime, folder) for runtime in runtimes)
    return Field(race=tuple(contestants), growth=tuple(growth), floors=floors)


def measure(
    bundle: Bundle,
    plan: Plan,
    entered: Field,
    *,
    quality: Sequence[Quality] = (),
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Figures:
    """Times everything that was prepared.

    Args:
        quality: SSIM of the bundle's artifacts (``converters.figures.read_quality``).
        command: the arguments of the command line, written down.

    Raises:
        WorkerError: a file cannot be loaded or run.
    """
    say(f"racing {len(entered.race)} contestants, {plan.rounds} rounds")
    raced = race(entered.race, threads=plan.threads, rounds=plan.rounds, runs=plan.runs)
    growth: tuple[Performance, ...] = ()
    if entered.growth:
        say(f"racing {len(entered.growth)} sizes, {plan.rounds} rounds")
        growth = race(entered.growth, threads=plan.threads, rounds=plan.rounds, runs=plan.runs)
    say("measuring what the runtimes need for themselves")
    floors = race(entered.floors, threads=plan.threads, rounds=1, runs=plan.runs) if entered.floors else ()
    model = bundle.manifest.model
    first = next(one for one in raced if one.role is Role.ARTIFACT)
    return Figures(
        model=model.name,
        checkpoint_sha256=model.checkpoint_sha256,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        params=model.params,
        macs=first.macs,
        size=first.size,
        rounds=plan.rounds,
        runs=plan.runs,
        host=describe_host(plan.threads),
        race=raced,
        growth=growth,
        floors=tuple(Floor(runtime=one.runtime, peak_rss_bytes=one.peak_rss_bytes) for one in floors),
        quality=tuple(quality),
    )


def write(figures: Figures, out: Path) -> tuple[Path, ...]:
    """Writes ``bench.json``, ``README.md`` and the plots into a folder; returns what was written.

    Raises:
        FileTroubleError: when the disk says no.
        MissingRuntimeError: matplotlib is not installed; JSON and page are written before that.
    """
    data, page = out / "bench.json", out / "README.md"
    write_figures(figures, data, [("bars", [{**vars(one)} for one in judge(figures)])])
    write_atomically(page, page_text(figures))
    plots = write_plots(figures, out)
    write_atomically(page, page_text(figures, plots))
    return (data, page, *(out / name for name in plots))


def _checkpoint_of(bundle: Bundle, plan: Plan) -> Checkpoint:
    checkpoint = load_checkpoint(plan.checkpoint)
    wanted = bundle.manifest.model.checkpoint_sha256
    if checkpoint.sha256 != wanted:
        raise UsageError(
            f"{str(bundle.folder)!r} was made from the checkpoint {wanted[:12]}, but {plan.checkpoint.name} is "
            f"{checkpoint.sha256[:12]}: give the bundle's own with --checkpoint, or --no-growth."
        )
    return checkpoint


def _picture_size(contestant: Contestant) -> tuple[int, int]:
    shape = contestant.io.image.shape
    height, width = shape[2:] if contestant.io.image.layout is Layout.NCHW else shape[1:3]
    assert height is not None  # artifacts have fixed sizes
    assert width is not None
    return height, width


class _Trivial(nn.Module):
    """One 1x1 convolution: a network that needs next to no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.mix(image)


def _trivial_contestant(runtime: str, folder: Path) -> Contestant:
    module = _Trivial().eval().requires_grad_(False)
    inputs = (torch.zeros(1, 3, _TRIVIAL_SIDE, _TRIVIAL_SIDE),)
    path = folder / f"trivial.{WRITERS[runtime][0]}"
    if runtime == "onnxruntime":
        save(trace(module, inputs), path, {"name": "trivial"})
    else:
        write_atomically(path, convert(module, inputs) if runtime == "litert" else lower(module, inputs))
    layout = Layout.NHWC if runtime == "litert" else Layout.NCHW
    image, output = (
        image_spec(name, layout, DType.FLOAT32, _TRIVIAL_SIDE, _TRIVIAL_SIDE) for name in ("image", "cartoon")
    )
    return Contestant(
        name="trivial",
        role=Role.BASELINE,
        runtime=get_runtime(runtime).name,
        precision=Precision.FP32,
        path=path,
        io=IOSpec(image=image, output=output),
        macs=9 * _TRIVIAL_SIDE**2,
    )


def main(  # noqa: PLR0917  the signature is the command line
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")] = Path("dist"),
    out: Annotated[Path, typer.Option(help="Folder for bench.json, README.md and plots.")] = Path("dist-report/bench"),
    report: Annotated[
        Path | None, typer.Option(help="A report of `sdk verify --json` on this bundle, for SSIM against bytes.")
    ] = None,
    checkpoint: Annotated[Path, typer.Option(help="The bundle's checkpoint, to export other sizes.")] = PRETRAINED,
    parent: Annotated[
        Path | None, typer.Option(help="Checkpoint before pruning: its share of the peak is measured too.")
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; all if none is given: {', '.join(BASELINES)}.")
    ] = None,
    precision: Annotated[
        list[Precision] | None, typer.Option(help="Repeatable; fp32 and int8 if none is given.")
    ] = None,
    side: Annotated[
        list[int] | None, typer.Option(help=f"Side of a picture, repeatable; {', '.join(map(str, SIDES))} if none.")
    ] = None,
    growth: Annotated[bool, typer.Option(help="Measure latency against size.")] = True,
    growth_target: Annotated[
        list[Target] | None, typer.Option(help="Where; repeatable; onnx if none is given.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Worker threads of every runtime.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 15,
    runs: Annotated[int, typer.Option(min=1, help="Most runs in a round.")] = 15,
    reuse: Annotated[
        Path | None, typer.Option(help="Measure nothing: page, plots and bars from the bench.json of an earlier run.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 unless every bar was measured and holds.")] = False,
) -> None:
    """Race the bundle against the architectures users would otherwise take and against the runtimes' own peak."""
    # A log is as wide as it has to be.
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    remarks = Console(stderr=True, soft_wrap=True)
    try:
        if reuse is not None:
            figures = read_figures(reuse)
        else:
            plan = Plan(
                baselines=tuple(baseline or BASELINES),
                precisions=tuple(precision or (Precision.FP32, Precision.INT8)),
                checkpoint=checkpoint,
                sides=tuple(check_size(length, length)[0] for length in side or SIDES) if growth else (),
                growth_targets=tuple(growth_target or (Target.ONNX,)),
                parent=parent,
                threads=threads,
                rounds=rounds,
                runs=runs,
            )
            figures = benchmark(bundle, plan, report, say=lambda words: remarks.print(words, style="dim"))
        print_figures(figures, console)
        for path in write(figures, out):
            console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)
    except ToonEdgeError as error:
        remarks.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from None
    if check and any(judgement.standing is not Standing.HOLDS for judgement in judge(figures)):
        raise typer.Exit(ExitCode.GATE_FAILED)


def benchmark(
    folder: Path, plan: Plan, report: Path | None = None, *, say: Callable[[str], None] = lambda _: None
) -> Figures:
    """Exports and measures everything.

    Args:
        folder: the bundle's.
        report: of ``sdk verify --json`` on this bundle.
        say: told what comes next, in a few words.

    Raises:
        ToonEdgeError: as ``prepare`` and ``measure``; ``UsageError`` for a report that is not the bundle's.
    """
    bundle = Bundle.open(folder)
    quality = read_quality(report, bundle) if report is not None else ()
    with disk_trouble("keep the exported networks in", Path(tempfile.gettempdir())):
        place = tempfile.TemporaryDirectory(prefix="toonedge-benchmark-")
    with place as scratch:
        entered = prepare(bundle, plan, Path(scratch), say)
        return measure(bundle, plan, entered, quality=quality, command=shlex.join(sys.argv[1:]), say=say)


if __name__ == "__main__":
    typer.run(main)
