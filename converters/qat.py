"""Quantization-aware training, a recovery recipe for int8: ``python -m converters.qat --pairs data/pairs``.

The network goes on learning with the rounding of int8 in its graph, until its int8 pictures are nearer to the float
pictures it draws now. What is trained is the deployed graph: ``prepare_qat_pt2e`` with the annotations that ExecuTorch
and Core ML get rounds it (``converters.quantize.quantize_for_training``), and in each step its folded and equalized
weights are computed anew from the network's own (``converters.fold``), which gradients therefore reach. Population
statistics stay as they are. Between stretches of steps everything is quantized afresh, as an export would do it then.

The output is an ordinary checkpoint of the same architecture, in float, that every exporter quantizes as always. It is
written only when int8 came nearer to the parent's float pictures on photos that were not learnt from.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor, fx

from converters.calibration import DEFAULT_PHOTOS, CalibrationSet, load_calibration
from converters.equalize import equalize, equalizing_factors
from converters.fold import Fold
from converters.graph import deployable, require_int8
from converters.material import TEST_PHOTOS, Material, Sources, compare, draw, read_material
from converters.prune_steps import Similarity
from converters.quantize import quantize_for_training
from converters.ranges import RangeMethod
from converters.simulation import simulate
from sdk.console import table as print_table
from sdk.errors import GateError, ToonEdgeError, UsageError, check_ranges
from sdk.files import write_atomically
from training.checkpoint import PRETRAINED, Checkpoint, CheckpointInfo, load_checkpoint, save_checkpoint
from training.config import Anneal, DistillRecipe
from training.models.generator import Generator
from training.tasks.distill import training_samples
from training.tasks.recover import RecoverTask, recovery_recipe
from training.train import INTERRUPTED, fit

#: Headings of the table, in files and on screen; SSIM, mean and worst over photos and styles.
COLUMNS = ("photos", "pictures", "compared with", "mean before", "mean after", "worst before", "worst after")
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class QatSettings:
    """What the result depends on, besides the checkpoint and the photos.

    Attributes:
        steps: optimizer steps, rounded up to whole stretches.
        minutes: of training, instead of a number of steps.
        stretch: steps after which the network is quantized afresh.
        crop, batch: of training, px and crops a step.
        lr: highest learning rate.
        size: side of the square that ranges are taken and photos are judged at, px.
        ranges: see ``converters.ranges.RangeMethod``; what the export will use.
        seed: of crops, styles and noise.
        train_threads: of PyTorch; results depend on it in the last digits.
    """

    steps: int = 200
    minutes: float | None = None
    stretch: int = 100
    crop: int = 160
    batch: int = 8
    lr: float = 3e-4
    size: int = 256
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES
    seed: int = 0
    train_threads: int = 1

    def check(self) -> None:
        """Refuses values that make no sense.

        Raises:
            UsageError: names the first.
        """
        needs = {
            "steps": (self.steps >= 1, "at least 1"),
            "minutes": (self.minutes is None or self.minutes > 0, "more than 0"),
            "stretch": (self.stretch >= 1, "at least 1"),
            "lr": (self.lr > 0, "more than 0, such as 0.0003"),
            "size": (self.size >= 32 and self.size % 16 == 0, "a multiple of 16, at least 32"),
        }
        check_ranges(self, needs)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How a network draws a set of photos.

    Attributes:
        int8: its simulated int8 pictures, compared with the parent's in float: what training is for.
        floating: its float pictures, compared with the parent's in float: how far it drifted.
        own: its int8 pictures, compared with its own in float: what ``verify`` will judge.
    """

    int8: Similarity
    floating: Similarity
    own: Similarity


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A set of photos, before and after.

    Attributes:
        photos: ``deciding`` or ``test``.
        count: number of photos; each is drawn in every style.
    """

    photos: str
    count: int
    before: Quality
    after: Quality


@dataclass(frozen=True, kw_only=True)
class QatReport:
    """A run and what it came to.

    Attributes:
        parent_sha256: of the checkpoint it started from.
        settings: see ``QatSettings``.
        steps: optimizer steps that were made.
        minutes: what they took, on a machine that may have had other things to do.
        comparisons: photos that decide, then those that only report.
    """

    parent_sha256: str
    settings: QatSettings
    steps: int
    minutes: float
    comparisons: tuple[Comparison, ...]

    @property
    def better(self) -> bool:
        """Whether int8 came nearer to the parent on the deciding photos: the mean rose and the worst did not fall."""
        deciding = self.comparisons[0]
        before, after = deciding.before.int8, deciding.after.int8
        return after.mean > before.mean and after.worst >= before.worst

    def cells(self) -> list[list[str]]:
        """The table's rows, as texts in the order of ``COLUMNS``."""
        kinds = {
            "int8": ("int8", "the parent's float"),
            "floating": ("float", "the parent's float"),
            "own": ("int8", "its own float"),
        }
        rows = []
        for one in self.comparisons:
            for name, (pictures, other) in kinds.items():
                before, after = getattr(one.before, name), getattr(one.after, name)
                values = (before.mean, after.mean, before.worst, after.worst)
                rows.append([f"{one.count} {one.photos}", pictures, other, *(f"{value:.4f}" for value in values)])
        return rows

    def write(self, checkpoint: Path) -> None:
        """Writes ``NAME.json`` and ``NAME.md`` beside ``NAME.safetensors``; each whole or not at all.

        Raises:
            FileTroubleError: the disk says no.
        """
        described = {"schema": _SCHEMA, **dataclasses.asdict(self)}
        write_atomically(checkpoint.with_suffix(".json"), json.dumps(described, indent=2) + "\n")
        rules = ["---", "---", "---", "--:", "--:", "--:", "--:"]
        lines: list[Sequence[str]] = [COLUMNS, rules, *self.cells()]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        write_atomically(checkpoint.with_suffix(".md"), text)


class QatTask(RecoverTask):
    """Trains a network through its deployed graph in int8, towards its parent's float pictures.

    Args:
        recipe, report, parent, info: see ``RecoverTask``; ``recipe.run.init`` is the network that learns.
        calibration: multi-style; gives the ranges.
        ranges: how they are measured.
    """

    learned = "trained with int8 rounding in the graph, towards its own float pictures,"

    def __init__(
        self,
        recipe: DistillRecipe,
        report: Callable[[str], None] | None = None,
        *,
        parent: Generator,
        info: CheckpointInfo,
        calibration: CalibrationSet,
        ranges: RangeMethod = RangeMethod.LEAST_SQUARES,
    ) -> None:
        super().__init__(recipe, report, parent=parent, info=info)
        self.calibration, self.ranges = calibration, ranges
        self.draw = self._draw
        # In a tuple, so that it is no part of what a run saves, nor of what Lightning switches to training.
        self._quantized: tuple[fx.GraphModule, dict[str, Tensor]] | None = None
        self._fold = Fold(parent)

    def quantize(self) -> None:
        """Calibrates the int8 graph of the network as it is now; the next pictures are drawn by it."""
        network = copy.deepcopy(self.generator).to(memory_format=torch.contiguous_format)
        graph = deployable(network)
        self._fold.prove(network, graph)
        factors = equalizing_factors(graph, self.calibration)
        with torch.no_grad():
            for name, value in self._fold(network, factors).items():
                graph.get_parameter(name).copy_(value)
        module = quantize_for_training(graph, self.calibration.tensors(baked=False), ranges=self.ranges)
        self._quantized = (module, factors)

    def on_train_epoch_start(self) -> None:
        """A stretch begins: ranges and equalization follow the network."""
        self.quantize()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """As ever; and the clock is looked at in every step, for a stretch may be long."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.recipe.run.anneal is Anneal.MINUTES and self.progress() >= 1:
            self.trainer.should_stop = True

    def _draw(self, image: Tensor, style: Tensor) -> Tensor:
        """The int8 picture, ``N x 3 x H x W`` in [0, 1]; arguments as for ``Generator.raw``."""
        if self._quantized is None:
            self.quantize()
        assert self._quantized is not None  # quantize made it
        module, factors = self._quantized
        made: Tensor = torch.func.functional_call(module, self._fold(self.generator, factors), (image, style))
        return made


def train_int8(
    checkpoint: Path = PRETRAINED,
    *,
    out: Path,
    settings: QatSettings,
    sources: Sources,
    calibration: Path = DEFAULT_PHOTOS,
    quiet: bool = False,
    report: Callable[[str], None] = lambda _line: None,
) -> QatReport:
    """Fine-tunes a checkpoint for int8; see the module.

    Args:
        checkpoint: the parent.
        out: the result, a ``.safetensors`` file that is not there yet; the table goes beside it.
        settings: what the result depends on.
        sources: photos to learn from, to decide and to report on.
        calibration: folder of at least 16 photos; what the export will use.
        quiet: no progress bar.
        report: is told one line at a time how it goes.

    Returns:
        What it came to. ``better`` says whether ``out`` was written.

    Raises:
        UsageError: settings out of range, an unusable checkpoint, a network on instance statistics, folders without
            photos, an ``out`` that exists.
        FileTroubleError: the disk says no.
    """
    settings.check()
    if out.suffix != ".safetensors":
        raise UsageError(f"the output {out} is no checkpoint's name: give one that ends in .safetensors.")
    if taken := [path for path in (out, out.with_suffix(".json"), out.with_suffix(".md")) if path.exists()]:
        raise UsageError(f"{taken[0]} exists already: choose another --out.")
    parent = load_checkpoint(checkpoint)
    require_int8(deployable(parent.generator))
    shown = load_calibration(calibration, size=(settings.size, settings.size), styles=len(parent.info.styles))
    material = read_material(parent, sources, size=settings.size, crop=settings.crop, seed=settings.seed)
    before = _judge(parent.generator, material, shown, settings.ranges)
    report(
        f"before: int8 {before[0].int8.mean:.4f}, worst {before[0].int8.worst:.4f} on {len(material.deciding)} photos"
    )
    task, network = _trained(checkpoint, parent, material, shown, settings, quiet=quiet)
    after = _judge(network, material, shown, settings.ranges)
    counts = [("deciding", len(material.deciding)), ("test", 0 if material.test is None else len(material.test))]
    made = QatReport(
        parent_sha256=parent.sha256,
        settings=settings,
        steps=task.trainer.global_step,
        minutes=task.spent / 60,
        comparisons=tuple(
            Comparison(photos=name, count=count, before=old, after=new)
            for (name, count), old, new in zip(counts[: len(before)], before, after, strict=True)
        ),
    )
    if made.better:
        info = task.info()
        first = made.comparisons[0]
        line = (
            f"SSIM of simulated int8 to the parent's float pictures on {first.count} photos x {len(info.styles)} "
            f"styles: mean {first.before.int8.mean:.4f} before, {first.after.int8.mean:.4f} after"
        )
        save_checkpoint(out, network, dataclasses.replace(info, provenance=(*info.provenance, line)))
        made.write(out)
    return made


def _trained(
    checkpoint: Path,
    parent: Checkpoint,
    material: Material,
    calibration: CalibrationSet,
    settings: QatSettings,
    *,
    quiet: bool,
) -> tuple[QatTask, Generator]:
    """The task after training, and the averaged network."""
    info = dataclasses.replace(
        parent.info, provenance=(*parent.info.provenance, f"from the checkpoint with SHA-256 {parent.sha256}")
    )
    with tempfile.TemporaryDirectory(prefix="toonedge-qat-") as folder:
        recipe = recovery_recipe(
            "qat",
            parent.info,
            parent.generator.config,
            out=folder,
            crop=settings.crop,
            batch=settings.batch,
            steps=settings.steps,
            minutes=settings.minutes,
            validate_every=settings.stretch,
            seed=settings.seed,
            threads=settings.train_threads,
            optimizer={"lr": settings.lr, "ema": 0.99, "freeze_statistics": 0.0, "weight_decay": 0.0},
            init=checkpoint,
        )
        task = fit(
            recipe,
            training_samples(recipe, material.learnt),
            material.views(),
            make_task=partial(
                QatTask, parent=parent.generator, info=info, calibration=calibration, ranges=settings.ranges
            ),
            quiet=quiet,
        )
    return task, copy.deepcopy(task.average).to(memory_format=torch.contiguous_format).eval()


def _judge(network: Generator, material: Material, calibration: CalibrationSet, ranges: RangeMethod) -> list[Quality]:
    """On the photos that decide and, when there are any, on those that only report."""
    samples = list(calibration.tensors(baked=False))
    int8 = simulate(equalize(deployable(network), calibration), samples, ranges=ranges).module
    sets: list[tuple[np.ndarray, np.ndarray]] = [(material.deciding, material.wanted)]
    if material.test is not None and material.test_wanted is not None:
        sets.append((material.test, material.test_wanted))
    found = []
    for photos, wanted in sets:
        floating, rounded = (draw(each, photos, styles=len(wanted)) for each in (network, int8))
        found.append(
            Quality(int8=compare(rounded, wanted), floating=compare(floating, wanted), own=compare(rounded, floating))
        )
    return found


# --- the command line ------------------------------------------------------------------------------------------------

_DEFAULT = QatSettings()
app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    out: Annotated[Path, typer.Option(help="The result; its table goes beside it.")] = Path("runs/qat.safetensors"),
    checkpoint: Annotated[Path, typer.Option(help="The network to fine-tune, a .safetensors file.")] = PRETRAINED,
    photos: Annotated[Path, typer.Option(help="Folder of photos to learn from.")] = DEFAULT_PHOTOS,
    pairs: Annotated[Path | None, typer.Option(help="Learn from the photos of rendered pairs instead.")] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Folder of photos that decide.  [default: some of those above are held out]")
    ] = None,
    test: Annotated[Path, typer.Option(help="Folder of photos that only report.")] = TEST_PHOTOS,
    calibration: Annotated[Path, typer.Option(help="At least 16 photos, the export's own.")] = DEFAULT_PHOTOS,
    ranges: Annotated[RangeMethod, typer.Option(help="How ranges are measured, as in the export.")] = _DEFAULT.ranges,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = _DEFAULT.steps,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training, instead of steps.")] = None,
    stretch: Annotated[int, typer.Option(help="Steps until everything is quantized afresh.")] = _DEFAULT.stretch,
    crop: Annotated[int, typer.Option(help="Side of a training crop, px.")] = _DEFAULT.crop,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = _DEFAULT.batch,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = _DEFAULT.lr,
    size: Annotated[int, typer.Option(help="Side that photos are judged at, px.")] = _DEFAULT.size,
    seed: Annotated[int, typer.Option(help="Of crops, styles and noise.")] = _DEFAULT.seed,
    train_threads: Annotated[int, typer.Option(help="Of PyTorch.")] = _DEFAULT.train_threads,
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Fine-tune a checkpoint with int8 rounding in its graph, by distillation from its own float pictures."""
    console = Console(stderr=True)
    try:
        made = train_int8(
            checkpoint,
            out=out,
            settings=QatSettings(
                steps=steps,
                minutes=minutes,
                stretch=stretch,
                crop=crop,
                batch=batch,
                lr=lr,
                size=size,
                ranges=ranges,
                seed=seed,
                train_threads=train_threads,
            ),
            sources=Sources(photos=photos, pairs=pairs, validation=validation, test=test),
            calibration=calibration,
            quiet=quiet,
            report=partial(console.print, markup=False, highlight=False, soft_wrap=True),
        )
        print_table(COLUMNS, made.cells(), right=COLUMNS[3:])
        if not made.better:
            old, new = made.comparisons[0].before.int8, made.comparisons[0].after.int8
            raise GateError(
                f"int8 came no nearer to the float network in {made.steps} steps (SSIM mean {old.mean:.4f} to "
                f"{new.mean:.4f}, worst {old.worst:.4f} to {new.worst:.4f}), so nothing was written: train longer "
                "(--minutes), more gently (--lr) or on more photos (--pairs)."
            )
    except ToonEdgeError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(int(error.exit_code)) from error
    except KeyboardInterrupt as error:
        console.print("interrupted: nothing was written", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from error
    typer.echo(f"after {made.steps} steps: {out}")


if __name__ == "__main__":
    app()
