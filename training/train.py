"""Trains a recipe: ``python -m training.train --config training/configs/distill.yaml``.

Everything of a run goes to ``run.out/name``: ``best.safetensors`` (best validation) and ``last.safetensors``, both the
averaged weights that ``converters`` and ``sdk`` take; ``last.ckpt`` to resume from; ``log.txt``; ``recipe.yaml``; and
TensorBoard's files (``tensorboard --logdir runs``).

Any key can be overridden: ``--set name=wide --set generator.widths=[40,56,72,112] --set run.steps=3000``.
``--minutes 30`` stops after the validation that follows 30 minutes; ``--resume last`` goes on as if nothing had been.
With ``--set run.anneal=minutes`` the learning rate ends with the minutes, whatever the machine's speed.
"""

from __future__ import annotations

import logging
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import lightning.pytorch as pl
import torch
import typer
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch.utils.data import DataLoader

from sdk.errors import ToonEdgeError, UsageError
from sdk.files import disk_trouble, write_atomically
from training.config import Anneal, Recipe, load_recipe
from training.data.pairs import Degradation, PairDataset, RunSampler, Shard, ViewDataset, open_shards
from training.models.generator import count_params
from training.models.named import network_macs
from training.tasks.distill import DistillTask, StyleScore

LAST = "last.ckpt"
#: Exit code after Ctrl-C, as shells have it: 128 + SIGINT.
INTERRUPTED = 130


class _Log:
    """``log.txt``: one line an event, with the time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        with disk_trouble("write the log", self.path), self.path.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")


class _StopInTime(pl.Callback):
    """Stops after the validation at which the minutes are over; the run can be resumed from there."""

    def __init__(self, recipe: Recipe, log: _Log) -> None:
        # Not `log`: Lightning gives every callback a method of that name.
        self.recipe, self.report, self.start = recipe, log, time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = self.recipe.run
        if run.minutes is None or not isinstance(pl_module, DistillTask):
            return
        by_schedule = run.anneal is Anneal.MINUTES and pl_module.progress() >= 1
        by_clock = run.anneal is Anneal.STEPS and time.monotonic() - self.start >= 60 * run.minutes
        if by_schedule or by_clock:
            trainer.should_stop = True
            self.report(f"stopped by the clock at step {trainer.global_step}")


def train(recipe: Recipe, *, resume: Path | None = None, overwrite: bool = False, quiet: bool = False) -> DistillTask:
    """Trains a recipe from its rendered pairs.

    Args:
        recipe: see ``training.config``.
        resume: a ``last.ckpt`` to continue.
        overwrite: allows a run folder that holds a run already.
        quiet: no progress bar.

    Returns:
        The task after training: ``average`` is the network, ``scores`` its last figures.

    Raises:
        UsageError: pairs that are missing or do not fit, a run folder in use, a file that cannot be resumed.
        FileTroubleError: the disk says no.
    """
    pairs, data = Path(recipe.data.pairs), recipe.data
    return fit(
        recipe,
        training_samples(recipe, open_shards(pairs / "train", recipe.styles)),
        ViewDataset(open_shards(pairs / "val", recipe.styles), limit=data.val_views, size=data.val_size),
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )


def training_samples(recipe: Recipe, shards: Sequence[Shard]) -> PairDataset:
    """What a recipe's ``data`` makes of rendered pairs.

    Raises:
        UsageError: a crop that does not fit.
    """
    data = recipe.data
    return PairDataset(
        shards,
        crop=data.crop,
        seed=recipe.run.seed,
        mix_share=data.mix_share,
        style_weights=[data.style_weights.get(style, 1.0) for style in recipe.styles],
        degradation=Degradation(
            noise_chance=data.noise_chance,
            noise=data.noise,
            jpeg_chance=data.jpeg_chance,
            jpeg_quality=data.jpeg_quality,
        ),
    )


def fit(
    recipe: Recipe,
    training: PairDataset,
    validation: ViewDataset,
    *,
    make_task: Callable[[Recipe, Callable[[str], None]], DistillTask] = DistillTask,
    resume: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> DistillTask:
    """Trains on samples that are at hand; arguments, result and errors as for ``train``.

    Args:
        training, validation: the samples; ``recipe.data`` only says how many make a batch.
        make_task: the task, of a recipe and of what takes a line for the log.
    """
    data, folder = recipe.data, recipe.folder
    if resume is None and (folder / LAST).exists() and not overwrite:
        raise UsageError(
            f"{folder} holds a run already: go on with --resume last, choose another --set name=..., or --overwrite it."
        )
    if resume is not None:
        _check_resume(resume)
    with disk_trouble("make the run's folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if resume is None:
            for old in [folder / "log.txt", *folder.glob("events.out.tfevents.*")]:
                old.unlink(missing_ok=True)
    write_atomically(folder / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    log = _Log(folder / "log.txt")
    task = make_task(recipe, log)
    log(
        f"{'resume' if resume else 'start'} {recipe.name}: {count_params(task.generator)} parameters, "
        f"{network_macs(task.generator) / 1e9:.3f} GMAC at 256x256, {training.views} views, "
        f"{len(validation)} validation views, {recipe.steps} steps, {torch.get_num_threads()} threads"
    )
    samples = recipe.validate_every * data.batch
    loader = DataLoader(
        training,
        batch_size=data.batch,
        sampler=RunSampler(samples),
        num_workers=data.workers,
        persistent_workers=data.workers > 0,
    )
    # Views are large: a small batch keeps a validation of several styles in the cache.
    check_loader = DataLoader(validation, batch_size=2, num_workers=0)
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
    if not quiet:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    _silence_lightning()
    trainer = pl.Trainer(
        accelerator="cpu" if not torch.cuda.is_available() else "auto",
        devices=1,
        max_epochs=recipe.stretches,
        logger=TensorBoardLogger(folder.parent, name=folder.name, version=""),
        callbacks=callbacks,
        gradient_clip_val=recipe.optimizer.clip or None,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=not quiet,
        enable_model_summary=False,
    )
    try:
        trainer.fit(task, loader, check_loader, ckpt_path=resume, weights_only=True)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        line = f"interrupted at step {trainer.global_step}: --resume last goes on from the last validation"
        log(line)
        raise KeyboardInterrupt(line) from error
    return task


def _check_resume(path: Path) -> None:
    """Refuses, before anything is touched, a file that no run can be resumed from.

    Raises:
        UsageError: missing, damaged, or not written by a run.
    """
    if not path.is_file():
        raise UsageError(f"there is no {path} to resume from: leave --resume out, or name a last.ckpt.")
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{path} cannot be resumed from ({reason}): it may be truncated; start anew with --overwrite, or from the "
            "weights of last.safetensors with --set run.init=..."
        ) from error
    if not isinstance(kept, dict) or "distill" not in kept:
        raise UsageError(f"{path} was not written by a run of this recipe's task: name the last.ckpt of a run.")


def _silence_lightning() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the average, on purpose
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")


def score_table(scores: dict[str, StyleScore]) -> str:
    """The last validation, one line a style."""
    lines = [f"{'style':<12} {'SSIM':>7} {'photo':>7} {'gap closed':>11}"]
    lines += [f"{s:<12} {x.ssim:>7.4f} {x.photo_ssim:>7.4f} {x.gap:>11.1%}" for s, x in scores.items()]
    return "\n".join(lines)


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
        recipe = load_recipe(config, overrides)
        source = None if resume is None else recipe.folder / LAST if resume == "last" else Path(resume)
        task = train(recipe, resume=source, overwrite=overwrite, quiet=quiet)
    except ToonEdgeError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(int(error.exit_code)) from error
    except KeyboardInterrupt as error:
        console.print(str(error) or "interrupted", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from error
    if task.scores:
        typer.echo(score_table(task.scores))
    typer.echo(f"best gap closed {task.best:.4f}: {recipe.folder / 'best.safetensors'}")


if __name__ == "__main__":
    app()
