"""Iterative channel pruning with recovery: ``python -m converters.prune --out runs/pruned --minutes 20``.

A step takes the least important channels out (``converters.channels``), rebuilds an ordinary network of the widths
that are left, takes the norms' statistics anew, and lets it learn from the unpruned network again
(``training.tasks.recover``). It is kept when its pictures have at least ``--floor`` SSIM to the unpruned network's,
mean over photos and styles; the first step that falls below ends the run. The output, ``pruned.safetensors``, is the
last kept step: an ordinary checkpoint with its widths in the config, which everything here takes.

Three sets of photos that share none: those learnt from, those that decide (held out from the first), and those that
only report. A run that is interrupted goes on with ``--resume`` and the same options: within a recovery from its last
validation. ``--steps`` and ``--until-macs`` may then be others, to go further.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from converters.calibration import DEFAULT_PHOTOS
from converters.channels import Ranking, choose_by_damage, choose_channels, cut, read_groups, weigh_pieces
from converters.material import TEST_PHOTOS, Material, Sources, draw, read_material, side_by_side, similarity
from converters.prune_steps import COLUMNS, Similarity, State, Step, cells
from sdk.console import table as print_table
from sdk.errors import GateError, ToonEdgeError, UsageError, check_ranges
from sdk.files import disk_trouble
from sdk.imaging import save_picture
from sdk.spec import DType, IOSpec, Layout, image_spec, style_spec
from training.checkpoint import PRETRAINED, Checkpoint, load_checkpoint, save_checkpoint
from training.config import DistillRecipe
from training.data.pairs import PairDataset
from training.losses import ssim as similar
from training.models.generator import Generator, count_macs, count_params
from training.tasks.distill import training_samples
from training.tasks.recover import RecoverTask, recovery_recipe, reestimate_statistics
from training.train import INTERRUPTED, LAST, fit

#: The output, in the run's folder.
PRUNED = "pruned.safetensors"
#: Parent and output side by side, in the run's folder.
SHEET = "sheet.png"
#: Optimizer steps between validations of a recovery, which are the points it resumes from.
_STRETCH = 200
#: Batches the norms' statistics are taken from.
_STATISTICS_BATCHES = 32


@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """What the result depends on.

    Attributes:
        share: of channels a step, (0, 1).
        ranking: see ``converters.channels.Ranking``.
        round_to: widths become multiples of this, itself a multiple of 8.
        floor: least SSIM to the parent, mean over photos and styles, [-1, 1]; -1 keeps anything.
        photos: folder of photos to recover on.
        pairs: folder of rendered pairs to recover on instead; its ``val`` then decides.
        validation: folder of photos that decide; ``None``: every fourth of ``photos`` is held out for it.
        recovery_steps: optimizer steps of each recovery, rounded up to whole stretches between validations.
        minutes: of each recovery, instead of a number of steps.
        teacher_share: weight of the rendered teachers in what is learnt, [0, 1]; the rest is the parent's.
        crop, batch: of training, px and crops a step.
        lr: highest learning rate.
        size: side of the square that photos are judged at, px.
        seed: of crops, styles and noise.
        train_threads: of PyTorch; results depend on it in the last digits.
    """

    share: float = 0.2
    ranking: Ranking = Ranking.GLOBAL
    round_to: int = 8
    floor: float = 0.95
    photos: str = str(DEFAULT_PHOTOS)
    pairs: str | None = None
    validation: str | None = None
    recovery_steps: int = 2000
    minutes: float | None = None
    teacher_share: float = 0.0
    crop: int = 160
    batch: int = 8
    lr: float = 2e-3
    size: int = 256
    seed: int = 0
    train_threads: int = 1

    def check(self) -> None:
        """Refuses values that make no sense.

        Raises:
            UsageError: names the first.
        """
        ranges = {
            "share": (0 < self.share < 1, "a share of the channels above 0 and below 1, such as 0.2"),
            "floor": (-1 <= self.floor <= 1, "an SSIM, from -1 (any picture will do) to 1, such as 0.95"),
            "round_to": (self.round_to > 0 and self.round_to % 8 == 0, "a multiple of 8"),
            "teacher_share": (0 <= self.teacher_share <= 1, "a share from 0 to 1"),
            "minutes": (self.minutes is None or self.minutes > 0, "more than 0"),
            "recovery_steps": (self.recovery_steps >= 1, "at least 1"),
            "size": (self.size >= 32 and self.size % 16 == 0, "a multiple of 16, at least 32"),
        }
        check_ranges(self, ranges)
        if self.teacher_share and self.pairs is None:
            raise UsageError(
                f"teacher-share {self.teacher_share} needs teachers: give --pairs, a folder that "
                "`python -m training.data.render` made."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "ranking": str(self.ranking)}


def prune(
    checkpoint: Path = PRETRAINED,
    *,
    out: Path,
    settings: PruneSettings,
    steps: int = 3,
    until_macs: float | None = None,
    test: Path | None = TEST_PHOTOS,
    latency: bool = True,
    threads: int = 2,
    resume: bool = False,
    quiet: bool = False,
    report: Callable[[str], None] = lambda _line: None,
) -> State:
    """Prunes a checkpoint step by step; see the module.

    Args:
        checkpoint: the parent.
        out: the run's folder: ``pruned.safetensors``, ``state.json``, ``table.csv``, ``table.md``, a folder a step, and
            ``sheet.png``, parent and output side by side on test photos.
        settings: what the result depends on.
        steps: at most this many.
        until_macs: ends the run with the step that has at most this share of the parent's multiplications; of the last
            step no more is cut than that takes.
        test: folder of photos that only report; ``None``: none.
        latency: measure it at the end, all networks interleaved.
        threads: of ONNX Runtime, for the latency.
        resume: go on with the run in ``out``.
        quiet: no progress bar.
        report: is told one line at a time how it goes.

    Returns:
        The run, as it is written; ``best`` is the step that was put out.

    Raises:
        UsageError: settings out of range, an unusable checkpoint, folders without photos, another run in ``out``,
            nothing left to prune.
        GateError: not even the first step reached the floor; its files and the table are left.
        FileTroubleError: the disk says no.
    """
    settings.check()
    if steps < 1:
        raise UsageError(f"steps {steps} is out of range: give at least 1.")
    if until_macs is not None and not 0 < until_macs < 1:
        raise UsageError(f"until-macs {until_macs} is out of range: give a share above 0 and below 1, such as 0.6.")
    parent = load_checkpoint(checkpoint)
    state = _open_run(out, parent, settings, resume=resume)
    sources = Sources(
        photos=Path(settings.photos),
        pairs=None if settings.pairs is None else Path(settings.pairs),
        validation=None if settings.validation is None else Path(settings.validation),
        test=test,
    )
    material = read_material(parent, sources, size=settings.size, crop=settings.crop, seed=settings.seed)
    run = _Run(parent, settings, material, out=out, quiet=quiet, report=report)
    if not state.steps:
        state = dataclasses.replace(state, steps=(run.parent_step(),))
    state = _go_on(run, state, steps, until_macs)
    if latency:
        state = _timed(run, state, threads)
        state.write(out)
    if state.best.number == 0:
        raise GateError(
            f"step 1 has an SSIM of {state.steps[-1].ssim.mean:.4f} to the unpruned network, below the floor of "
            f"{settings.floor}: cut less (--share), recover longer (--minutes), or lower --floor."
        )
    run.show(state)
    return state


def _go_on(run: _Run, state: State, steps: int, until_macs: float | None) -> State:
    """Makes step after step, each written as soon as it is known."""
    while True:
        last = state.steps[-1]
        if not last.kept:
            end = f"step {last.number} fell below the floor of {run.settings.floor} and is not kept"
        elif until_macs is not None and last.macs <= until_macs * state.steps[0].macs:
            end = f"step {last.number} has at most {until_macs:.0%} of the multiplications"
        elif last.number >= steps:
            end = f"{last.number} steps are done"
        else:
            end = ""
            made = run.step(state, until_macs)
            if made is None:
                end = "nothing is left to prune: every group has its least width"
                if last.number == 0:
                    raise UsageError(
                        f"nothing is left to prune: every group of channels has {run.settings.round_to} or fewer, or "
                        f"loses none at a share of {run.settings.share}: raise --share or lower --round-to."
                    )
            else:
                state = dataclasses.replace(state, steps=(*state.steps, made), end="")
                state.write(run.out)
                run.report(
                    f"step {made.number}: SSIM {made.ssim.mean:.4f}, {made.macs / state.steps[0].macs:.1%} of MACs"
                )
        if end:
            state = dataclasses.replace(state, end=end)
            state.write(run.out)
            run.report(end)
            return state


class _Run:
    """What the steps of one run share."""

    def __init__(
        self,
        parent: Checkpoint,
        settings: PruneSettings,
        material: Material,
        *,
        out: Path,
        quiet: bool,
        report: Callable[[str], None],
    ) -> None:
        self.parent, self.settings, self.material = parent, settings, material
        self.out, self.quiet, self.report = out, quiet, report

    def folder(self, number: int) -> Path:
        """Of a step."""
        return self.out / f"step-{number:02d}"

    def load(self, number: int) -> Generator:
        """The network after a step; the parent is step 0."""
        return load_checkpoint(self.folder(number) / "last.safetensors").generator if number else self.parent.generator

    def show(self, state: State) -> None:
        """Writes the sheet of parent and output on photos that decided nothing, or on those that did."""
        material, best = self.material, state.best
        photos, wanted = material.test, material.test_wanted
        if photos is None or wanted is None:
            photos, wanted = material.deciding, material.wanted
        styles = self.parent.info.styles
        title = f"{self.parent.info.name}: step {best.number}, {best.macs / state.steps[0].macs:.1%} of the MACs"
        drawn = draw(self.load(best.number), photos, styles=len(styles))
        save_picture(side_by_side(photos, wanted, drawn, styles=styles, title=title), self.out / SHEET)

    def parent_step(self) -> Step:
        """The table's first row."""
        return self._described(0, self.parent.generator, cut_ssim=None)

    def step(self, state: State, until_macs: float | None) -> Step | None:
        """Cuts, recovers and judges; ``None`` when nothing is left to cut."""
        number = state.steps[-1].number + 1
        folder = self.folder(number)
        start = folder / "cut.safetensors"
        if not start.is_file():
            network = self._cut(self.load(number - 1), number, state.steps[0].macs, until_macs)
            if network is None:
                return None
            state.write(self.out)  # before the first file there is nothing to resume
            save_checkpoint(start, network, self.parent.info)
        network = load_checkpoint(start).generator
        before = similarity(network, self.material.deciding, self.material.wanted)
        self.report(
            f"step {number}: {count_params(network):,} parameters, {count_macs(network) / 1e6:.1f} MMAC; "
            f"SSIM {before.mean:.4f} before recovery"
        )
        started = time.monotonic()
        task = self._recover(network, start, number, state)
        minutes = (task.spent if isinstance(task, RecoverTask) else time.monotonic() - started) / 60
        made = self._described(number, self.load(number), cut_ssim=before)
        made = dataclasses.replace(made, recovery_steps=task.trainer.global_step, recovery_minutes=minutes)
        if made.kept:
            info = dataclasses.replace(
                task.info(),
                provenance=(
                    *task.info().provenance,
                    f"SSIM to the unpruned network on {len(self.material.deciding)} held-out photos x "
                    f"{self.parent.generator.config.styles} styles: mean {made.ssim.mean:.4f}, worst "
                    f"{made.ssim.worst:.4f}",
                ),
            )
            save_checkpoint(self.out / PRUNED, self.load(number), info)
        return made

    def _cut(self, network: Generator, number: int, parent_macs: int, until_macs: float | None) -> Generator | None:
        settings, size = self.settings, (self.settings.size, self.settings.size)
        # Toward --until-macs, the last step tries smaller shares first.
        parts = [1.0] if until_macs is None else [part / 10 for part in range(1, 11)]
        choose = self._choice(network, number)
        made: Generator | None = None
        for part in parts:
            channels = choose(part * settings.share)
            if not channels:
                continue
            made = cut(network, channels)
            if until_macs is not None and count_macs(made, *size) <= until_macs * parent_macs:
                break
        if made is not None:
            self._settle(made, number, _STATISTICS_BATCHES)
        return made

    def _choice(self, network: Generator, number: int) -> Callable[[float], dict[str, tuple[int, ...]]]:
        """What goes, by the share that shall go."""
        settings, size = self.settings, (self.settings.size, self.settings.size)
        groups = read_groups(network, size=size)
        if settings.ranking is Ranking.DAMAGE:
            self.report(f"step {number}: measuring what each of {len(groups)} groups of channels is worth")
            pieces = weigh_pieces(network, groups, round_to=settings.round_to, judge=self._judge(number))
            macs = count_macs(network, *size)
            return lambda share: choose_by_damage(groups, pieces, share * macs)
        # What each width would be by now if widths were not rounded.
        first = {group.name: group.width for group in read_groups(self.parent.generator, size=size)}
        exact = {name: width * (1 - settings.share) ** (number - 1) for name, width in first.items()}
        return partial(choose_channels, groups, ranking=settings.ranking, round_to=settings.round_to, before=exact)

    def _judge(self, number: int) -> Callable[[Generator], float]:
        """``1 - SSIM`` to the parent on crops to learn from."""
        crops = list(_batches(self._samples(number), self.settings.batch, 3))
        with torch.inference_mode():
            wanted = [self.parent.generator(*pair) for pair in crops]

        def judge(network: Generator) -> float:
            self._settle(network, number, 4)
            with torch.inference_mode():
                drawn = [network(*pair) for pair in crops]
            return 1.0 - float(np.mean([float(similar(*pair).mean()) for pair in zip(drawn, wanted, strict=True)]))

        return judge

    def _samples(self, number: int) -> PairDataset:
        return training_samples(self._recipe(self.parent.generator, None, number), self.material.learnt)

    def _settle(self, network: Generator, number: int, batches: int) -> None:
        reestimate_statistics(network, _batches(self._samples(number), self.settings.batch, batches))

    def _recover(self, network: Generator, start: Path, number: int, state: State) -> RecoverTask:
        recipe = self._recipe(network, start, number)
        macs = count_macs(network, self.settings.size, self.settings.size) / state.steps[0].macs
        settings = self.settings
        info = dataclasses.replace(
            self.parent.info,
            provenance=(
                *self.parent.info.provenance,
                f"pruned from the checkpoint with SHA-256 {self.parent.sha256} in {number} steps of "
                f"{settings.share:.0%} (L1, ranking {settings.ranking}, widths to multiples of {settings.round_to}): "
                f"{macs:.1%} of its multiplications",
                *(f"step {step.number} was recovered for {step.recovery_steps} steps" for step in state.steps[1:]),
            ),
        )
        last = recipe.folder / LAST
        return fit(
            recipe,
            training_samples(recipe, self.material.learnt),
            self.material.views(),
            make_task=partial(
                RecoverTask, parent=self.parent.generator, info=info, teacher_share=settings.teacher_share
            ),
            resume=last if last.is_file() else None,
            overwrite=True,
            quiet=self.quiet,
        )

    def _recipe(self, network: Generator, start: Path | None, number: int) -> DistillRecipe:
        settings = self.settings
        return recovery_recipe(
            f"step-{number:02d}",
            self.parent.info,
            network.config,
            out=str(self.out),
            crop=settings.crop,
            batch=settings.batch,
            steps=settings.recovery_steps,
            minutes=settings.minutes,
            validate_every=_STRETCH,
            seed=settings.seed + number,
            threads=settings.train_threads,
            optimizer={"lr": settings.lr, "ema": 0.995, "freeze_statistics": 0.1},
            init=start,
        )

    def _described(self, number: int, network: Generator, *, cut_ssim: Similarity | None) -> Step:
        material, side = self.material, self.settings.size
        found = similarity(network, material.deciding, material.wanted)
        test = None
        if material.test is not None and material.test_wanted is not None:
            test = similarity(network, material.test, material.test_wanted)
        return Step(
            number=number,
            kept=number == 0 or found.mean >= self.settings.floor,
            params=count_params(network),
            macs=count_macs(network, side, side),
            cut=cut_ssim,
            ssim=found,
            test=test,
        )


# --- samples ---------------------------------------------------------------------------------------------------------


def _batches(samples: Any, batch: int, count: int) -> Any:
    """The first ``count`` batches of training samples, as images in [0, 1] and style weights."""
    for number in range(count):
        images, weights, _ = zip(*(samples[number * batch + place] for place in range(batch)), strict=True)
        yield torch.stack(images).float() / 255.0, torch.stack(weights)


# --- the run's folder ------------------------------------------------------------------------------------------------


def _open_run(out: Path, parent: Checkpoint, settings: PruneSettings, *, resume: bool) -> State:
    fresh = State(parent_sha256=parent.sha256, settings=settings.to_dict())
    if not resume:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} holds something already: go on with --resume, or choose another --out.")
        with disk_trouble("make the run's folder", out):
            out.mkdir(parents=True, exist_ok=True)
        return fresh
    state = State.read(out)
    if state.parent_sha256 != parent.sha256:
        raise UsageError(
            f"the run in {out} prunes another checkpoint (SHA-256 {state.parent_sha256[:12]}..., not "
            f"{parent.sha256[:12]}...): resume it with its own, or choose another --out."
        )
    other = [name for name, value in fresh.settings.items() if state.settings.get(name) != value]
    if other:
        name = other[0]
        raise UsageError(
            f"the run in {out} has {name.replace('_', '-')} {state.settings.get(name)}, not {fresh.settings[name]}: "
            "resume it with its own options, or choose another --out."
        )
    return state


# --- latency ---------------------------------------------------------------------------------------------------------


def _timed(run: _Run, state: State, threads: int) -> State:
    """The same steps with latencies; nothing is measured again when all have one."""
    if all(step.latency_ms is not None for step in state.steps):
        return state
    side = run.settings.size
    networks = {str(step.number): run.load(step.number) for step in state.steps}
    found = time_networks(networks, size=(side, side), threads=threads)
    return dataclasses.replace(
        state, steps=tuple(dataclasses.replace(s, latency_ms=found[str(s.number)]) for s in state.steps)
    )


def time_networks(
    networks: Mapping[str, Generator], *, size: tuple[int, int], threads: int = 2, rounds: int = 5, runs: int = 15
) -> dict[str, float]:
    """p50 in milliseconds of each network as multi-style fp32 in ONNX Runtime on this host.

    Each has its own process, and all take turns (``sdk.bench.race_runners``).

    Args:
        networks: by name.
        size: (height, width), px.
        threads, rounds, runs: as for ``sdk.bench.bench``.

    Raises:
        MissingRuntimeError: ONNX Runtime is not installed.
    """
    from converters.graph import deployable, example_inputs
    from converters.request import INPUTS, OUTPUT
    from converters.to_onnx import arrange_tail, save, trace
    from sdk.bench import Runner, race_runners
    from sdk.runtimes import RUNTIMES, get_runtime, require
    from sdk.trial import first_style, noise_file
    from sdk.worker import Worker

    require(get_runtime("onnxruntime"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toonedge-prune-")))
        photos = noise_file(folder, (1, *size, 3))
        runners: dict[str, Runner] = {}

        def enter(name: str, network: Generator) -> None:
            graph = deployable(network)
            model = trace(graph, example_inputs(graph, size))
            arrange_tail(model.graph)
            path = folder / f"{name}.onnx"
            save(model, path, {"name": name})
            border = partial(image_spec, layout=Layout.NCHW, dtype=DType.FLOAT32, height=size[0], width=size[1])
            io = IOSpec(image=border(INPUTS[0]), output=border(OUTPUT), style=style_spec(INPUTS[1], graph.styles))
            worker = stack.enter_context(Worker(threads=threads))
            worker.load(RUNTIMES["onnxruntime"], path, io)
            weights = first_style(graph.styles)
            runners[name] = lambda count: worker.time(photos, weights, runs=count)

        for name, network in networks.items():
            enter(name, network)
        timings = race_runners(
            runners, baseline=next(iter(runners)), rounds=rounds, runs=runs, warm_up=runs, threads=threads
        )
    return {timing.name: timing.latency_ms.p50 for timing in timings}


# --- the command line ------------------------------------------------------------------------------------------------

_DEFAULT = PruneSettings()
app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/pruned"),
    checkpoint: Annotated[Path, typer.Option(help="The network to prune, a .safetensors file.")] = PRETRAINED,
    share: Annotated[float, typer.Option(help="Share of the channels that go in a step.")] = _DEFAULT.share,
    ranking: Annotated[Ranking, typer.Option(help="Over the whole network, or the same share of every layer.")] = (
        _DEFAULT.ranking
    ),
    round_to: Annotated[int, typer.Option(help="Widths become multiples of this.")] = _DEFAULT.round_to,
    steps: Annotated[int, typer.Option(help="At most this many steps.")] = 3,
    until_macs: Annotated[
        float | None, typer.Option(help="Stop at this share of the parent's multiplications, such as 0.6.")
    ] = None,
    floor: Annotated[float, typer.Option(help="Least mean SSIM to the unpruned network.")] = _DEFAULT.floor,
    photos: Annotated[Path, typer.Option(help="Folder of photos to recover on.")] = DEFAULT_PHOTOS,
    pairs: Annotated[Path | None, typer.Option(help="Recover on the photos of rendered pairs instead.")] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Folder of photos that decide.  [default: some of those above are held out]")
    ] = None,
    test: Annotated[Path, typer.Option(help="Folder of photos that only report.")] = TEST_PHOTOS,
    recovery_steps: Annotated[int, typer.Option(help="Optimizer steps of a recovery.")] = _DEFAULT.recovery_steps,
    minutes: Annotated[float | None, typer.Option(help="Minutes of a recovery, instead of steps.")] = None,
    teacher_share: Annotated[
        float, typer.Option(help="Weight of the rendered teachers in what is learnt; needs --pairs.")
    ] = _DEFAULT.teacher_share,
    crop: Annotated[int, typer.Option(help="Side of a training crop, px.")] = _DEFAULT.crop,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = _DEFAULT.batch,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = _DEFAULT.lr,
    size: Annotated[int, typer.Option(help="Side that photos are judged at, px.")] = _DEFAULT.size,
    seed: Annotated[int, typer.Option(help="Of crops, styles and noise.")] = _DEFAULT.seed,
    train_threads: Annotated[int, typer.Option(help="Of PyTorch.")] = _DEFAULT.train_threads,
    latency: Annotated[bool, typer.Option(help="Measure latency in ONNX Runtime at the end.")] = True,
    threads: Annotated[int, typer.Option(help="Of ONNX Runtime.")] = 2,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Prune channels step by step, and recover after each by distillation from the unpruned network."""
    console = Console(stderr=True)
    try:
        settings = PruneSettings(
            share=share,
            ranking=ranking,
            round_to=round_to,
            floor=floor,
            photos=str(photos),
            pairs=None if pairs is None else str(pairs),
            validation=None if validation is None else str(validation),
            recovery_steps=recovery_steps,
            minutes=minutes,
            teacher_share=teacher_share,
            crop=crop,
            batch=batch,
            lr=lr,
            size=size,
            seed=seed,
            train_threads=train_threads,
        )
        state = prune(
            checkpoint,
            out=out,
            settings=settings,
            steps=steps,
            until_macs=until_macs,
            test=test,
            latency=latency,
            threads=threads,
            resume=resume,
            quiet=quiet,
            report=partial(console.print, markup=False, highlight=False, soft_wrap=True),
        )
    except ToonEdgeError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(int(error.exit_code)) from error
    except KeyboardInterrupt as error:
        console.print(f"interrupted: the same command with --resume goes on ({out})", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from error
    print_table(COLUMNS, cells(state.steps), right=COLUMNS)
    typer.echo(f"step {state.best.number}: {out / PRUNED}")


if __name__ == "__main__":
    app()
