"""What every task shares: the engine's half of a LightningModule.

A task draws a batch, weighs its losses and judges the network; ``Task`` does the rest: learning rate, average (EMA),
held statistics, lines of the log, figures and pictures for the curves, the best and the last checkpoint, progress by
steps or by minutes, and that a resumed run goes on as if nothing had been.

A task with one optimizer returns its loss from ``training_step``, as in Lightning. One with several sets
``automatic_optimization = False`` and calls ``self.descend(number, loss, batch_idx)`` for each. One step of a run is
``run.accumulate`` batches in either case, whatever number of optimizers moves in it.

What a step draws at random is a function of the seed, the number of its batch and the process: ``torch``'s generator is
seeded before each batch. So is the data (``training.data.pairs``). Therefore nothing of either has to be stored.
"""

# ruff: noqa: ARG002  Lightning's hooks have fixed signatures
from __future__ import annotations

import copy
import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl
import numpy as np
import timm
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.data import DataLoader, Dataset
from torchvision.utils import make_grid

from sdk.errors import UsageError
from training.checkpoint import CheckpointInfo, load_any_checkpoint, save_checkpoint
from training.config import Anneal, Fault, OptimizerRecipe, Recipe, Schedule, make_recipe
from training.models.generator import Generator
from training.models.named import NamedGenerator, build_named
from training.models.norm import ConditionalNorm2d
from training.tasks.rows import place_rows
from training.temporal import inconsistency, next_frame, random_motion

#: Takes one line of text for the log.
Report = Callable[[str], None]
AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
#: Where a run keeps its own in Lightning's checkpoint.
KEPT = "toonedge"
#: Pictures of a grid are drawn with at most this side, px.
_TILE = 192


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a run learns from and is judged on.

    Attributes:
        training: a sample for every number from 0 on, without end; its length is one pass.
        validation: as many as it says.
        validation_batch: samples a batch of validation.
        notes: what people should know about them, a sentence each: the log has them.
    """

    training: Dataset[Any]
    validation: Dataset[Any]
    #: Views are large: a small batch keeps a validation of several styles in the cache.
    validation_batch: int = 2
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class TaskKind(Generic[AnyRecipe]):
    """A row of ``training.tasks.TASKS``.

    Attributes:
        recipe: the class of its recipes.
        make: the task, of a recipe and of what takes a line for the log.
        samples: opens the data; raises ``UsageError`` when it cannot.
        faults: all that is wrong with the data, without raising; asked before a run starts.
    """

    recipe: type[AnyRecipe]
    make: Callable[[AnyRecipe, Report], Task]
    samples: Callable[[AnyRecipe], Samples]
    faults: Callable[[AnyRecipe], Sequence[Fault]]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a validation found.

    Attributes:
        score: what decides which checkpoint is the best; higher is better.
        figures: for the curves, by name.
        details: for people, one line.
    """

    score: float
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    details: str = ""


class TimedLoader(DataLoader[Any]):
    """A loader that knows how long training waited for it: ``waited_s``, seconds so far."""

    waited_s = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # all that Lightning asks of it is to be iterated
        source = super().__iter__()
        while True:
            started = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            finally:
                self.waited_s += time.perf_counter() - started
            yield batch


class Task(pl.LightningModule):
    """Trains ``generator``; what is validated and saved is ``average``, the moving average of its weights.

    A task defines ``training_step``, ``validation_step`` and ``judge``, and what differs of the rest.

    Args:
        recipe: see ``training.config``.
        report: called with one line of text when there is something to tell.
    """

    #: How the network learned, as provenance tells it.
    learned = "trained"
    #: Name of what ``judge`` scores, for people and for the curves.
    metric, metric_key = "score", "val/score"
    #: Heading of the pictures in the curves.
    picture_title = "val/pictures"

    def __init__(self, recipe: Recipe, report: Report | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.report = report or (lambda _line: None)
        self.generator = self.make_generator()
        if recipe.run.channels_last:
            self.generator = self.generator.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # A bound function, not a module: the state dict stays that of the plain network.
        self.draw: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(self.generator.raw) if recipe.run.compile else self.generator.raw
        )
        self.best = -math.inf
        self.steps_done = 0
        self.pictures: list[Tensor] = []
        self.spent_before = 0.0  # seconds of earlier parts of this run
        self._started = self._line_time = time.monotonic()
        self._losses: dict[str, float] = {}
        self._line_batches = 0
        self._line_waited_s = 0.0
        self._validation_started = 0.0

    def make_generator(self) -> Generator | NamedGenerator:
        """The network at the start of the run; leaves ``torch``'s generator seeded for what a task adds to it."""
        return build_generator(self.recipe, self.report)

    # ------------------------------------------------------------------------------------------ what a task defines

    def judge(self) -> Judgement:
        """What the validation that just ended found; called once it saw all samples.

        Sums over samples are of this process alone: ``self.total`` adds them up.
        """
        raise NotImplementedError

    def table(self) -> str:
        """The last validation for the end of the command, some lines; empty for none."""
        return ""

    def judged(self) -> Sequence[str]:
        """Lines of provenance on the last validation."""
        return ()

    def kept(self) -> dict[str, Any]:
        """What else a resumed run needs, tensors and plain types: a pool of pictures, a counter."""
        return {}

    def take(self, kept: dict[str, Any]) -> None:
        """The inverse of ``kept``."""

    def peak(self, number: int) -> float:
        """Highest learning rate of an optimizer, by its place in ``configure_optimizers``."""
        return self.recipe.optimizer.lr

    def configure_optimizers(self) -> Any:
        """AdamW on the generator; weight decay on kernels alone."""
        return adam(self.generator, self.recipe.optimizer)

    # --------------------------------------------------------------------------------------------------- styles

    @property
    def rows(self) -> Sequence[int]:
        """The network's row of each of the recipe's styles."""
        return range(len(self.recipe.styles))

    def spread(self, weights: Tensor) -> Tensor:
        """Weights of the recipe's styles, ``N x len(recipe.styles)``, as weights of all the network's, ``N x S``."""
        rows = self.generator.config.styles
        if weights.shape[1] == rows:
            return weights
        made = weights.new_zeros(len(weights), rows)
        made[:, list(self.rows)] = weights
        return made

    def weights_of(self, style: int, count: int) -> Tensor:
        """``count x S`` weights of one style, by its place in the recipe."""
        made = torch.zeros(count, self.generator.config.styles, device=self.device)
        made[:, self.rows[style]] = 1.0
        return made

    # ------------------------------------------------------------------------------------------------- training

    @property
    def spent(self) -> float:
        """Seconds of training in this run, earlier parts included."""
        return self.spent_before + time.monotonic() - self._started

    @property
    def processes(self) -> int:
        """That train together."""
        return self.trainer.world_size if self._trainer is not None else 1

    def progress(self) -> float:
        """Share of the run that is done, [0, 1]; what the learning rate follows. The same in every process."""
        run = self.recipe.run
        by_steps = self.steps_done / self.recipe.steps
        if run.anneal is Anneal.MINUTES and run.minutes:
            spent = self.trainer.strategy.broadcast(self.spent) if self.processes > 1 else self.spent
            return min(1.0, max(by_steps, spent / (60 * run.minutes)))
        return min(1.0, by_steps)

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.processes == 1:
            return sums
        # A GPU's back end takes no tensors of the CPU; the reduction writes into what it is given.
        reduced: Tensor = self.trainer.strategy.reduce(sums.detach().clone().to(self.device), reduce_op="sum")
        return reduced.to(sums.device)

    def on_train_start(self) -> None:
        """The clocks start with the first step, not with the data's opening."""
        self._started = self._line_time = time.monotonic()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rates, holds the statistics when it is time, and seeds what the batch draws at random."""
        settings, run = self.recipe.optimizer, self.recipe.run
        progress = self.progress()
        for number, optimizer in enumerate(self.trainer.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = self.peak(number) * schedule(settings, progress)
        if progress >= settings.freeze_statistics < 1:
            hold_statistics(self.generator)
        place = self.steps_done * run.accumulate + batch_idx % run.accumulate
        torch.manual_seed(batch_seed(run.seed, place, self.global_rank))

    def descend(self, number: int, loss: Tensor, batch_idx: int) -> None:
        """One optimizer's part of a batch in manual optimization: adds gradients, and moves at the end of a step.

        Call it between ``self.toggle_optimizer(optimizer)`` and ``self.untoggle_optimizer(optimizer)`` of that
        optimizer, the drawing of what the loss is taken of included: else the other networks gather gradients too.
        Gradients are clipped by ``optimizer.clip``. With ``run.accumulate`` an optimizer gets the gradient of the whole
        step; but a network that another one learns from has moved before that one's last batch.

        Args:
            number: place in ``configure_optimizers``.
            loss: of the batch, a mean over its samples.
            batch_idx: as ``training_step`` got it.
        """
        optimizers = self.optimizers()
        optimizer: Any = optimizers[number] if isinstance(optimizers, list) else optimizers
        accumulate = self.recipe.run.accumulate
        if batch_idx % accumulate == 0:
            optimizer.zero_grad()
        self.manual_backward(loss / accumulate)
        if self.ends_step(batch_idx):
            optimizer.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips in manual optimization, where Lightning does not; gradients are unscaled by now."""
        clip = self.recipe.optimizer.clip
        if not self.automatic_optimization and clip:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)

    def ends_step(self, batch_idx: int) -> bool:
        """Whether a batch is the last of its optimizer step."""
        return (batch_idx + 1) % self.recipe.run.accumulate == 0

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """No mixed precision inside: losses and scores need every bit. Tensors from outside want a ``.float()``."""
        with torch.autocast(self.device.type, enabled=False):
            yield

    def temporal(self, image: Tensor, output: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The temporal loss of a batch, still without its weight; ``None`` when ``loss.temporal`` is 0.

        Args:
            image: photos ``N x 3 x H x W`` in [0, 1].
            output: what the network drew of them.
            draw: the network.
        """
        if not self.recipe.loss.temporal:
            return None
        motion = random_motion(len(image), device=image.device)
        later = draw(next_frame(image, motion))
        with self.in_float32():
            return inconsistency(later.float(), output.float(), motion)

    def tally(self, parts: Mapping[str, Tensor]) -> None:
        """Remembers the losses of a batch for the next line of the log.

        Args:
            parts: scalars by name, means over the samples; each batch has the same ones, ``loss`` is what is minimized.

        Raises:
            UsageError: one is not finite any more, in any process.
        """
        given = torch.stack([part.detach().float() for part in parts.values()])
        means = self.total(given) / self.processes
        for name, mean in zip(parts, means.tolist(), strict=True):
            if not math.isfinite(mean):
                raise UsageError(
                    f"the loss {name} became {mean} at step {self.steps_done}: lower optimizer.lr, which is "
                    f"{self.recipe.optimizer.lr}, or optimizer.clip, which is {self.recipe.optimizer.clip}."
                )
            self._losses[name] = self._losses.get(name, 0.0) + mean
        self._line_batches += 1

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves the average, and tells how it goes."""
        if not self.ends_step(batch_idx):
            return
        self.steps_done += 1
        if self.processes > 1:
            self._share_statistics()
        decay = self.recipe.optimizer.ema
        # A young average forgets faster: else the first thousand steps would show the random start.
        update_average(self.average, self.generator, min(decay, (1 + self.steps_done) / (10 + self.steps_done)))
        run = self.recipe.run
        if self._line_batches >= run.log_every * run.accumulate or self.steps_done >= self.recipe.steps:
            self._tell()

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Each process saw its own part of the batch: its norms take the mean of all processes' statistics."""
        kept = [b for norm in norms(self.generator) for b in norm.buffers(recurse=False) if b.is_floating_point()]
        if not kept or not any(norm.training for norm in norms(self.generator)):
            return
        means = self.total(torch.cat([buffer.flatten() for buffer in kept])) / self.processes
        for buffer, mean in zip(kept, means.split([buffer.numel() for buffer in kept]), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def _tell(self) -> None:
        recipe = self.recipe
        steps = self._line_batches / recipe.run.accumulate
        elapsed = time.monotonic() - self._line_time
        seconds = elapsed / steps
        means = {name: total / self._line_batches for name, total in self._losses.items()}
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        loader = self.trainer.train_dataloader
        waited = loader.waited_s if isinstance(loader, TimedLoader) else 0.0
        share, images = (waited - self._line_waited_s) / elapsed, recipe.step_crops / seconds
        figures = {
            **means, "lr": rate, "seconds_per_step": seconds, "images_per_second": images, "loader_share": share,
            "peak_rss_mb": peak_rss_bytes() / 1e6,
        }  # fmt: skip
        self._curve({f"train/{name}": value for name, value in figures.items()})
        self.log("loss", means["loss"], prog_bar=True, logger=False)
        left = (recipe.steps - self.steps_done) * seconds / 60
        parts = " ".join(f"{name} {mean:.4f}" for name, mean in means.items())
        self.report(
            f"step {self.steps_done}/{recipe.steps} {parts} lr {rate:.2e} {seconds:.3f} s/step, "
            f"{images:.1f} images/s, loader {share:.1%}, {peak_rss_bytes() / 1e6:.0f} MB peak, "
            f"{self.spent / 60:.1f} min spent, {left:.1f} min to go"
        )
        self._losses, self._line_batches, self._line_time, self._line_waited_s = {}, 0, time.monotonic(), waited

    def picture(self, stored: Tensor) -> Tensor:
        """``uint8`` to float32 in [0, 1], in the network's memory format."""
        picture = stored.float() / 255.0
        return picture.contiguous(memory_format=torch.channels_last) if self.recipe.run.channels_last else picture

    # ----------------------------------------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """Forgets the last pictures."""
        self.pictures = []
        self._validation_started = time.monotonic()

    def show(self, tiles: Sequence[Tensor]) -> None:
        """Takes one row of pictures for the curves, each ``3 x H x W`` in [0, 1], while ``run.pictures`` are wanted."""
        if len(self.pictures) < self.recipe.run.pictures:
            self.pictures.append(torch.stack([tile.detach().float().contiguous() for tile in tiles]))

    def on_validation_epoch_end(self) -> None:
        """Scores, pictures, and the checkpoint when it is the best yet."""
        if self.trainer.sanity_checking:
            return
        found = self.judge()
        self._curve({**found.figures, self.metric_key: found.score})
        # For the progress bar and the early stop. All processes found the same.
        self.log(self.metric_key, found.score, prog_bar=True, logger=False, sync_dist=True)
        self._draw_pictures()
        better = found.score > self.best
        if better:
            self.best = found.score
            self.save("best")
        self.save("last")
        self.report(
            f"val  step {self.steps_done}: {self.metric} {found.score:.4f}{' best' if better else ''} | {found.details}"
        )
        self._line_time += time.monotonic() - self._validation_started  # no time of training

    def _curve(self, figures: Mapping[str, float]) -> None:
        """Points of the curves, by our own count of steps: Lightning counts each optimizer's."""
        for logger in self.loggers:
            logger.log_metrics(dict(figures), step=self.steps_done)

    def _draw_pictures(self) -> None:
        if not self.pictures:
            return
        tiles = torch.cat(self.pictures)
        if max(tiles.shape[2:]) > _TILE:
            tiles = nn.functional.interpolate(tiles, size=(_TILE, _TILE), mode="bilinear", antialias=True)
        grid = make_grid(tiles.clamp(0, 1), nrow=len(self.pictures[0]), padding=2)
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(self.picture_title, grid, self.steps_done)
            elif isinstance(logger, WandbLogger):
                logger.log_image(self.picture_title, [grid.permute(1, 2, 0).cpu().numpy()], step=self.steps_done)

    # ----------------------------------------------------------------------------------------------- what is kept

    def info(self) -> CheckpointInfo:
        """What the saved network says of itself."""
        recipe = self.recipe
        return CheckpointInfo(
            name=recipe.name,
            version=recipe.version,
            styles=recipe.styles,
            provenance=(
                *recipe.provenance,
                *([f"started from the weights of {Path(recipe.run.init).name}"] if recipe.run.init else []),
                self.story(),
                *self.judged(),
            ),
        )

    def story(self) -> str:
        """How the network came to be, one line of provenance."""
        recipe = self.recipe
        return (
            f"{self.learned} for {self.steps_done} steps of {recipe.step_crops} crops of {recipe.data.crop} px, "
            f"seed {recipe.run.seed}"
        )

    def save(self, name: str) -> None:
        """Writes the averaged network as ``NAME.safetensors`` into the run's folder."""
        if self.global_rank:
            return
        network = self.average
        if self.recipe.run.channels_last:
            network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        save_checkpoint(self.recipe.folder / f"{name}.safetensors", network, self.info())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a resumed run needs besides weights and optimizers."""
        checkpoint[KEPT] = {
            "best": self.best,
            "spent": self.spent,
            "steps": self.steps_done,
            "architecture": self.recipe.network(),
            "task": self.kept(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse; ``training.train.resume_faults`` found it to fit."""
        kept = kept_of(checkpoint)
        assert kept is not None  # resume_faults found it
        self.best, self.spent_before, self.steps_done = kept["best"], kept["spent"], kept["steps"]
        self.take(kept["task"])


# ---------------------------------------------------------------------------------------------------------- helpers


def kept_of(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a task put into Lightning's checkpoint; ``None`` when no task did."""
    if KEPT in checkpoint:
        return dict(checkpoint[KEPT])
    if "distill" in checkpoint:  # written by version 0.1.0, which had this task alone
        old = checkpoint["distill"]
        return {
            "best": old["best"],
            "spent": old["spent"],
            "steps": checkpoint["global_step"],
            "architecture": make_recipe(old["recipe"]).network(),
            "task": {},
        }
    return None


def adam(network: nn.Module, settings: OptimizerRecipe, *, lr: float | None = None) -> torch.optim.AdamW:
    """AdamW on a network; weight decay on the kernels of its convolutions and linear layers alone."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    # A spectrally normalized weight is computed; what is learned is the one it is computed from.
    decayed = [_learned_weight(layer) for layer in layers]
    known = {id(parameter) for parameter in decayed}
    plain = [parameter for parameter in network.parameters() if id(parameter) not in known]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=settings.lr if lr is None else lr,
        betas=(settings.beta1, settings.beta2),
    )


def _learned_weight(layer: Any) -> Tensor:
    learned: Tensor = layer.parametrizations.weight.original if is_parametrized(layer, "weight") else layer.weight
    return learned


def schedule(settings: OptimizerRecipe, progress: float) -> float:
    """The learning rate as a share of its highest: linear warm-up, then the schedule; ``progress`` in [0, 1]."""
    if progress < settings.warmup:
        return max(progress / settings.warmup, 1e-3)
    if settings.schedule is Schedule.CONSTANT:
        return 1.0
    share = (progress - settings.warmup) / max(1.0 - settings.warmup, 1e-9)
    if settings.schedule is Schedule.LINEAR:
        height = min(1.0, 2.0 - 2.0 * share)
    else:
        height = 0.5 * (1 + math.cos(math.pi * share))
    return settings.final + (1 - settings.final) * height


def batch_seed(seed: int, batch: int, process: int) -> int:
    """The seed of what is drawn at random in a batch, a function of all three."""
    return int(np.random.SeedSequence([seed, batch, process]).generate_state(1, np.uint64)[0] >> 1)


def peak_rss_bytes() -> int:
    """Most memory that this process had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def build_generator(recipe: Recipe, report: Report = lambda _line: None) -> Generator | NamedGenerator:
    """A new network for a recipe, seeded, with the weights that ``run`` asks for.

    Args:
        recipe: what to build.
        report: is told what was taken from ``run.init``.

    Raises:
        UsageError: weights that do not exist or do not fit.
    """
    torch.manual_seed(recipe.run.seed)
    generator: Generator | NamedGenerator
    if recipe.architecture is not None:
        generator = build_named(recipe.architecture, len(recipe.styles))
    else:
        generator = Generator(recipe.generator_config())
        if recipe.run.encoder_weights == "imagenet":
            generator.encoder.load_imagenet()
        elif recipe.run.encoder_weights:
            _load_encoder(generator, Path(recipe.run.encoder_weights))
    if recipe.run.init:
        start = load_any_checkpoint(Path(recipe.run.init))
        taken = start_from(generator, start.generator)
        if taken.whole == 0:
            raise UsageError(
                f"run.init {recipe.run.init} has no tensor in common with `generator`: use a checkpoint of a network "
                "that is more like it, or none."
            )
        place_rows(generator, start, recipe.styles, recipe.starts)
        report(f"init {recipe.run.init}: {taken}")
    return generator


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a network took over from another: tensors as they are, cut to fit or widened, and those it does not have."""

    whole: int
    part: int
    new: int

    def __str__(self) -> str:
        return f"{self.whole} tensors taken over, {self.part} of them in part, {self.new} new"


@torch.no_grad()
def start_from(generator: nn.Module, other: nn.Module) -> Taken:
    """Copies the weights of a network of the same or another architecture, by name.

    Of a tensor with other extents the leading part that both have is taken, and the rest stays as it was initialized.
    Channels keep their places everywhere, so a narrower network starts as the wider one with its last channels cut off.
    """
    given = other.state_dict()
    whole = part = new = 0
    for name, own in generator.state_dict(keep_vars=True).items():
        theirs = given.get(name)
        if theirs is None or theirs.ndim != own.ndim:
            new += 1
            continue
        common = tuple(slice(min(pair)) for pair in zip(own.shape, theirs.shape, strict=True))
        own.data[common] = theirs[common]
        whole += 1
        part += own.shape != theirs.shape
    return Taken(whole=whole, part=part, new=new)


def _load_encoder(generator: Generator, path: Path) -> None:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"encoder weights {path} cannot be read ({error}): give a timm .safetensors file, or `imagenet`."
        ) from error
    expected = timm.get_pretrained_cfg(generator.encoder.name)
    if expected is None:
        raise UsageError(f"timm knows no input range for {generator.encoder.name}: train the encoder from scratch.")
    generator.encoder.load_weights(state, mean=expected.mean, std=expected.std)


def norms(network: nn.Module) -> list[nn.Module]:
    """The modules that keep population statistics."""
    return [m for m in network.modules() if isinstance(m, (nn.BatchNorm2d, ConditionalNorm2d))]


def hold_statistics(network: nn.Module) -> None:
    """Norms use their population statistics and no longer move them."""
    for norm in norms(network):
        norm.eval()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """``average = decay * average + (1 - decay) * network``, weights and floating-point buffers alike."""
    own, other = average.state_dict(keep_vars=True), network.state_dict(keep_vars=True)
    moving = [key for key, value in own.items() if value.is_floating_point()]
    torch._foreach_lerp_([own[k].data for k in moving], [other[k].data for k in moving], 1.0 - decay)
    for key, value in own.items():
        if not value.is_floating_point():  # how many batches a norm has seen
            value.data.copy_(other[key].data)
