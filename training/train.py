"""Trains a recipe: ``python -m training.train --config training/configs/distill.yaml``.

The recipe's ``task`` says what is trained (``training.tasks.TASKS``). Everything of a run goes to ``run.out/name``:
``best.safetensors`` (best validation) and ``last.safetensors``, both the averaged weights that ``converters`` and
``sdk`` take; ``last.ckpt`` to resume from; ``log.txt``; ``recipe.yaml``; and TensorBoard's files
(``tensorboard --logdir runs``).

Any key can be overridden: ``--set name=wide --set generator.widths=[40,56,72,112] --set run.steps=3000``.
``--minutes 30`` stops after the validation that follows 30 minutes; ``--resume last`` goes on as if nothing had been,
after a crash too. With ``--set run.anneal=minutes`` the learning rate ends with the minutes, whatever the machine's
speed.
``--set run.devices=2`` trains with two processes.
"""

from __future__ import annotations

import io
import logging
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import lightning.pytorch as pl
import torch
import typer
import yaml
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch.utils.data import Dataset

from sdk.errors import MissingRuntimeError, ToonEdgeError, UsageError
from sdk.files import disk_trouble, write_atomically
from training.config import Anneal, Fault, Precision, Recipe, RunLogger, Strategy, load_recipe, mistakes
from training.data.pairs import RunSampler
from training.data.unpaired import stack
from training.models.generator import count_params
from training.models.named import network_macs
from training.tasks import TASKS
from training.tasks.base import AnyRecipe, Report, Task, TimedLoader, kept_of

AnyTask = TypeVar("AnyTask", bound=Task)
LAST = "last.ckpt"
#: Exit code after Ctrl-C, as shells have it: 128 + SIGINT.
INTERRUPTED = 130


class _Log:
    """``log.txt``: one line an event, with the time. Of several processes the first writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        if _is_first():
            with disk_trouble("write the log", self.path), self.path.open("a") as file:
                file.write(f"{time.strftime('%H:%M:%S')} {line}\n")


class _StopInTime(pl.Callback):
    """Stops after the validation at which the minutes are over; the run can be resumed from there."""

    def __init__(self, recipe: Recipe, log: _Log) -> None:
        # Not `log`: Lightning gives every callback a method of that name.
        self.recipe, self.report, self.start = recipe, log, time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = self.recipe.run
        if run.minutes is None or not isinstance(pl_module, Task):
            return
        by_schedule = run.anneal is Anneal.MINUTES and pl_module.progress() >= 1
        by_clock = run.anneal is Anneal.STEPS and time.monotonic() - self.start >= 60 * run.minutes
        if trainer.strategy.broadcast(by_schedule or by_clock):  # one clock for all processes
            trainer.should_stop = True
            self.report(f"stopped by the clock at step {pl_module.steps_done}")


class _StopEarly(EarlyStopping):
    """Stops when validations no longer get better."""

    def __init__(self, task: Task, log: _Log) -> None:
        patience = task.recipe.run.early_stop
        super().__init__(monitor=task.metric_key, mode="max", patience=patience, check_finite=False)
        self.report = log

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What was counted, with the patience of the recipe that is resumed now."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells."""
        super().on_train_end(trainer, pl_module)
        if self.stopped_epoch and isinstance(pl_module, Task):
            self.report(
                f"stopped early at step {pl_module.steps_done}: no better validation in the last {self.patience}"
            )


class _AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, whole or not at all: a process killed while it writes leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:  # noqa: ARG002
        """Writes to a neighbour of the file, which is then renamed; ``storage_options`` are for remote disks."""
        data = io.BytesIO()
        torch.save(checkpoint, data)
        write_atomically(Path(path), data.getvalue())


def train(recipe: Recipe, *, resume: Path | None = None, overwrite: bool = False, quiet: bool = False) -> Task:
    """Trains a recipe from the data it names.

    Args:
        recipe: see ``training.config``.
        resume: a ``last.ckpt`` to continue.
        overwrite: allows a run folder that holds a run already.
        quiet: no progress bar.

    Returns:
        The task after training: ``average`` is the network, ``table()`` its last figures.

    Raises:
        UsageError: data that are missing or do not fit, a run folder in use, a file that cannot be resumed.
        MissingRuntimeError: a logger that is not installed.
        FileTroubleError: the disk says no.
    """
    kind = TASKS[recipe.task]
    _raise(run_faults(recipe, resume=resume))
    samples = kind.samples(recipe)
    return fit(
        recipe,
        samples.training,
        samples.validation,
        make_task=kind.make,
        validation_batch=samples.validation_batch,
        notes=samples.notes,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )


def run_faults(recipe: Recipe, *, resume: Path | None = None) -> list[Fault]:
    """What keeps a recipe from running here: data, hardware, and the run that it shall go on with."""
    faults = [*TASKS[recipe.task].faults(recipe), *host_faults(recipe)]
    return faults if resume is None else [*faults, *resume_faults(recipe, resume)]


def host_faults(recipe: Recipe) -> list[Fault]:
    """What this host cannot do."""
    run, gpus = recipe.run, torch.cuda.device_count()
    faults = []
    if run.precision is Precision.FLOAT16 and not gpus:
        text = "run.precision: 16-mixed needs a GPU, and this host has none; take bf16-mixed or 32-true."
        faults.append(Fault(text, ("run.precision",)))
    if gpus and run.devices > gpus:
        faults.append(Fault(f"run.devices: {run.devices} are more than this host's {gpus} GPUs.", ("run.devices",)))
    return faults


def fit(
    recipe: AnyRecipe,
    training: Dataset[Any],
    validation: Dataset[Any],
    *,
    make_task: Callable[[AnyRecipe, Report], AnyTask],
    validation_batch: int = 2,
    notes: Sequence[str] = (),
    resume: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> AnyTask:
    """Trains on samples that are at hand; arguments, result and errors as for ``train``.

    Args:
        training, validation, validation_batch, notes: see ``training.tasks.base.Samples``; ``recipe.data`` only says
            how many samples make a batch.
        make_task: the task, of a recipe and of what takes a line for the log.
    """
    length, views = len(training), len(validation)  # type: ignore[arg-type]  # ours have one
    recipe = recipe.for_samples(length)
    data, run, folder = recipe.data, recipe.run, recipe.folder
    if resume is None and (folder / LAST).exists() and not overwrite:
        raise UsageError(
            f"{folder} holds a run already: go on with --resume last, choose another --set name=..., or --overwrite it."
        )
    _raise([*host_faults(recipe), *([] if resume is None else resume_faults(recipe, resume))])
    if views < run.devices:
        raise UsageError(f"{views} validation views are too few for run.devices {run.devices}: give each at least one.")
    loggers = make_loggers(recipe)
    if _is_first():
        with disk_trouble("make the run's folder", folder):
            folder.mkdir(parents=True, exist_ok=True)
            if resume is None:
                for old in [folder / "log.txt", *folder.glob("events.out.tfevents.*")]:
                    old.unlink(missing_ok=True)
        write_atomically(folder / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    if run.threads:
        torch.set_num_threads(run.threads)
    log = _Log(folder / "log.txt")
    task = make_task(recipe, log)
    log(
        f"{'resume' if resume else 'start'} {recipe.name}: {count_params(task.generator)} parameters, "
        f"{network_macs(task.generator) / 1e9:.3f} GMAC at 256x256, {length} views, {views} validation views, "
        f"{recipe.steps} steps, {torch.get_num_threads()} threads, {run.devices} processes"
    )
    for note in notes:
        log(f"data: {note}")
    callbacks: list[pl.Callback] = [
        ModelCheckpoint(
            dirpath=folder,
            filename=LAST.removesuffix(".ckpt"),
            monitor=None,
            save_top_k=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        _StopInTime(recipe, log),
    ]
    if run.early_stop:
        callbacks.append(_StopEarly(task, log))
    if not quiet:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    _silence_lightning()
    automatic = task.automatic_optimization
    trainer = pl.Trainer(
        accelerator="cpu" if not torch.cuda.is_available() else "auto",
        devices=run.devices,
        strategy=_strategy(recipe, unused=not automatic),
        precision=run.precision.value,
        plugins=[_AtomicCheckpoints()],
        use_distributed_sampler=False,  # ours know their part
        max_epochs=recipe.stretches,
        accumulate_grad_batches=run.accumulate if automatic else 1,
        gradient_clip_val=(recipe.optimizer.clip or None) if automatic else None,
        logger=loggers,
        callbacks=callbacks,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=not quiet,
        enable_model_summary=False,
    )
    part = {"process": trainer.global_rank, "processes": trainer.world_size}
    loader = TimedLoader(
        training,
        batch_size=data.batch,
        sampler=RunSampler(recipe.validate_every * recipe.step_crops, **part),
        num_workers=data.workers,
        collate_fn=stack,
        persistent_workers=data.workers > 0,
    )
    check_loader = TimedLoader(
        validation,
        batch_size=validation_batch,
        sampler=range(trainer.global_rank, views, trainer.world_size),
        num_workers=0,
    )
    try:
        trainer.fit(task, loader, check_loader, ckpt_path=resume, weights_only=True)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        line = f"interrupted at step {task.steps_done}: --resume last goes on from the last validation"
        log(line)
        raise KeyboardInterrupt(line) from error
    return task


def make_loggers(recipe: Recipe) -> list[Logger]:
    """The loggers that ``run.logger`` names.

    W&B keeps its files in the run's folder, and obeys its own environment variables: with ``WANDB_MODE=offline`` it
    sends nothing.

    Raises:
        MissingRuntimeError: W&B is not installed.
    """
    folder, wanted = recipe.folder, recipe.run.logger
    loggers: list[Logger] = []
    if wanted in {RunLogger.TENSORBOARD, RunLogger.BOTH}:
        loggers.append(TensorBoardLogger(folder.parent, name=folder.name, version=""))
    if wanted in {RunLogger.WANDB, RunLogger.BOTH}:
        try:
            made = WandbLogger(name=recipe.name, project="toonedge", save_dir=folder, config=recipe.to_dict())
        except ModuleNotFoundError as error:
            raise MissingRuntimeError(
                f"run.logger {wanted} needs the package 'wandb', which is not installed: run `pip install wandb`, or "
                "take run.logger=tensorboard."
            ) from error
        loggers.append(made)
    return loggers


def _strategy(recipe: Recipe, *, unused: bool) -> Any:
    if recipe.run.strategy is Strategy.AUTO and recipe.run.devices == 1:
        return "auto"
    return DDPStrategy(
        process_group_backend="nccl" if torch.cuda.is_available() else "gloo",
        find_unused_parameters=unused,  # several optimizers: each loss reaches some of the networks
        forward_sync_buffers=False,  # statistics are shared after each step: `Task` does it
    )


def _is_first() -> bool:
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _raise(faults: Sequence[Fault]) -> None:
    if len(faults) == 1:
        raise UsageError(faults[0].text)
    if faults:
        raise mistakes("of this run", [fault.text for fault in faults])


def resume_faults(recipe: Recipe, path: Path) -> list[Fault]:
    """Why a run cannot be resumed from a file; asked before anything is touched.

    Args:
        recipe: of the run that shall go on.
        path: a ``last.ckpt``, perhaps missing, damaged, or of another task or architecture.
    """
    if not path.is_file():
        return [Fault(f"there is no {path} to resume from: leave --resume out, or name a last.ckpt.")]
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [
            Fault(
                f"{path} cannot be resumed from ({reason}): it may be truncated; start anew with --overwrite, or from "
                "the weights of last.safetensors with --set run.init=..."
            )
        ]
    kept = kept_of(checkpoint) if isinstance(checkpoint, dict) else None
    if kept is None:
        return [Fault(f"{path} was not written by a run: name the last.ckpt of a run.")]
    before, now = kept["architecture"], recipe.network()
    if before["task"] != now["task"]:
        text = (
            f"the run to resume has task {before['task']!r}, the config {now['task']!r}: resume it with its own config."
        )
        return [Fault(text, ("task",))]
    other = [key for key in now if before.get(key) != now[key]]
    if other:
        text = (
            f"the run to resume has other {' and '.join(other)} than the config, so another network: resume it with "
            "its own config, or start a new one from its weights with run.init."
        )
        return [Fault(text, tuple(other))]
    return []


def _silence_lightning() -> None:
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the average, on purpose
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")


app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    config: Annotated[Path, typer.Option(help="The recipe, a YAML file.")],
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Overrides a key of the recipe; repeatable.")
    ] = [],  # noqa: B006  typer reads the default, nobody changes it
    resume: Annotated[str | None, typer.Option(help="`last`, or the path of a last.ckpt.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time (run.minutes).")] = None,
    overwrite: Annotated[bool, typer.Option(help="Start anew in a folder that holds a run.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Train a recipe."""
    console = Console(stderr=True)
    try:
        if minutes is not None:
            overrides = [*overrides, f"run.minutes={minutes}"]
        recipe = load_recipe(config, overrides, also=partial(_faults_of_command, resume=resume))
        task = train(recipe, resume=_source(recipe, resume), overwrite=overwrite, quiet=quiet)
    except ToonEdgeError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(int(error.exit_code)) from error
    except KeyboardInterrupt as error:
        console.print(str(error) or "interrupted", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from error
    if not _is_first():
        return
    if task.table():
        typer.echo(task.table())
    typer.echo(f"best {task.metric} {task.best:.4f}: {recipe.folder / 'best.safetensors'}")


def _source(recipe: Recipe, resume: str | None) -> Path | None:
    return None if resume is None else recipe.folder / LAST if resume == "last" else Path(resume)


def _faults_of_command(recipe: Recipe, *, resume: str | None) -> list[Fault]:
    return run_faults(recipe, resume=_source(recipe, resume))


if __name__ == "__main__":
    app()
