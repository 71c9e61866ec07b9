"""Distillation: the network learns to draw what the teachers draw.

One LightningModule. What it validates and saves is the exponential moving average (EMA) of the weights. The norms'
population statistics are averaged along with the weights; from ``optimizer.freeze_statistics`` on they are held, and
network and average train on exactly the statistics that the deployed network folds away.
"""

# ruff: noqa: ARG002  Lightning's hooks have fixed signatures
from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import timm
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.utils import make_grid

from sdk.errors import UsageError
from training.checkpoint import CheckpointInfo, load_any_checkpoint, save_checkpoint
from training.config import Anneal, OptimizerRecipe, Recipe, make_recipe
from training.criterion import Criterion
from training.losses import gap_closed, ssim
from training.models.generator import Generator
from training.models.named import NamedGenerator, build_named
from training.models.norm import ConditionalNorm2d

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class StyleScore:
    """How near one style is to its teacher, mean over the validation views.

    Attributes:
        ssim: of the network's picture to the teacher.
        photo_ssim: of the photo to the teacher: the distance there was.
    """

    ssim: float
    photo_ssim: float

    @property
    def gap(self) -> float:
        """See ``training.losses.gap_closed``."""
        return gap_closed(self.ssim, self.photo_ssim)


class DistillTask(pl.LightningModule):
    """Trains ``generator`` on batches ``(image, style, target)`` of ``training.data.pairs.PairDataset``.

    Args:
        recipe: see ``training.config.Recipe``.
        report: called with one line of text when there is something to tell.
    """

    def __init__(self, recipe: Recipe, report: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.report = report or (lambda _line: None)
        self.generator = build_generator(recipe, self.report)
        if recipe.run.channels_last:
            self.generator = self.generator.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.criterion = Criterion(recipe.loss)
        # A bound function, not a module: the state dict stays that of the plain network.
        self.draw: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(self.generator.raw) if recipe.run.compile else self.generator.raw
        )
        self.best = -math.inf
        self.scores: dict[str, StyleScore] = {}
        self.spent_before = 0.0  # seconds of earlier parts of this run
        self._started = time.monotonic()
        self._losses: dict[str, float] = {}
        self._line_steps = 0
        self._line_time = time.monotonic()
        self._sums: Tensor | None = None
        self._photo_sums: Tensor | None = None
        self._views = 0
        self._pictures: list[Tensor] = []

    # ------------------------------------------------------------------------------------------------- training

    @property
    def spent(self) -> float:
        """Seconds of training in this run, earlier parts included."""
        return self.spent_before + time.monotonic() - self._started

    def progress(self) -> float:
        """Share of the run that is done, [0, 1]; what the learning rate follows."""
        run = self.recipe.run
        by_steps = self.global_step / self.recipe.steps
        if run.anneal is Anneal.MINUTES and run.minutes:
            return min(1.0, max(by_steps, self.spent / (60 * run.minutes)))
        return min(1.0, by_steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; weight decay on kernels alone."""
        settings = self.recipe.optimizer
        decayed = [m.weight for m in self.generator.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        known = {id(parameter) for parameter in decayed}
        plain = [parameter for parameter in self.generator.parameters() if id(parameter) not in known]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=(0.9, settings.beta2),
        )

    def on_train_start(self) -> None:
        """The clocks start with the first step, not with the data's opening."""
        self._started = self._line_time = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Sets the learning rate, and holds the statistics when it is time."""
        progress = self.progress()
        rate = learning_rate(self.recipe.optimizer, progress)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        if progress >= self.recipe.optimizer.freeze_statistics < 1:
            hold_statistics(self.generator)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the recipe's losses.

        Raises:
            UsageError: when the loss is not finite any more.
        """
        image, style, stored = batch
        image = self._picture(image)
        target = self.target(image, style, self._picture(stored))
        output = self.draw(image, style)
        restyled = self.draw(target, style) if self.recipe.loss.identity > 0 else None
        parts = self.criterion(output, target=target, photo=image, style=target, restyled=restyled)
        total = self.criterion.total(parts)
        value = float(total.detach())
        if not math.isfinite(value):
            raise UsageError(
                f"the loss became {value} at step {self.global_step}: lower optimizer.lr, which is "
                f"{self.recipe.optimizer.lr}, or optimizer.clip, which is {self.recipe.optimizer.clip}."
            )
        for name, part in {"loss": total, **parts}.items():
            self._losses[name] = self._losses.get(name, 0.0) + float(part.detach())
        self._line_steps += 1
        return total

    def target(self, image: Tensor, style: Tensor, teacher: Tensor) -> Tensor:
        """What the network's picture shall be, ``N x 3 x C x C`` in [0, 1]: here what the teacher drew."""
        return teacher

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Moves the average, and tells how it goes."""
        decay = self.recipe.optimizer.ema
        # A young average forgets faster: else the first thousand steps would show the random start.
        update_average(self.average, self.generator, min(decay, (1 + self.global_step) / (10 + self.global_step)))
        if self._line_steps >= self.recipe.run.log_every or self.global_step >= self.recipe.steps:
            self._tell()

    def _tell(self) -> None:
        seconds = (time.monotonic() - self._line_time) / self._line_steps
        means = {name: total / self._line_steps for name, total in self._losses.items()}
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        for name, mean in means.items():
            self.log(f"train/{name}", mean)
        self.log("train/lr", rate)
        self.log("train/seconds_per_step", seconds)
        left = (self.recipe.steps - self.global_step) * seconds / 60
        parts = " ".join(f"{name} {mean:.4f}" for name, mean in means.items())
        self.report(
            f"step {self.global_step}/{self.recipe.steps} {parts} lr {rate:.2e} "
            f"{seconds:.3f} s/step, {self.spent / 60:.1f} min spent, {left:.1f} min to go"
        )
        self._losses, self._line_steps, self._line_time = {}, 0, time.monotonic()

    def _picture(self, stored: Tensor) -> Tensor:
        """``uint8`` to float32 in [0, 1], in the network's memory format."""
        picture = stored.float() / 255.0
        return picture.contiguous(memory_format=torch.channels_last) if self.recipe.run.channels_last else picture

    # ----------------------------------------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """Empties the sums."""
        styles = len(self.recipe.styles)
        self._sums, self._views = torch.zeros(styles, dtype=torch.float64), 0
        self._pictures = []
        if not self.trainer.sanity_checking and self._photo_sums is None:
            self._photo_sums = torch.zeros(styles, dtype=torch.float64)
            self._photo_pending = True
        else:
            self._photo_pending = False

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Every style of a batch of views: ``N x 3 x S x S`` photos, ``N x T x 3 x S x S`` teachers, uint8."""
        photo, teachers = self._picture(batch[0]), batch[1].float() / 255.0
        assert self._sums is not None  # on_validation_epoch_start made them
        drawn = []
        for row in range(len(self.recipe.styles)):
            style = torch.zeros(len(photo), len(self.recipe.styles))
            style[:, row] = 1.0
            output = self.average(photo, style)
            self._sums[row] += ssim(output, teachers[:, row]).double().sum()
            if self._photo_pending and self._photo_sums is not None:
                self._photo_sums[row] += ssim(photo, teachers[:, row]).double().sum()
            drawn.append(output)
        for place in range(len(photo)):
            if len(self._pictures) < self.recipe.run.pictures:
                tiles = [photo[place]]
                for row, output in enumerate(drawn):
                    tiles += [teachers[place, row], output[place]]
                self._pictures.append(torch.stack([tile.contiguous() for tile in tiles]))
        self._views += len(photo)

    def on_validation_epoch_end(self) -> None:
        """Scores, pictures, and the checkpoint when it is the best yet."""
        if self.trainer.sanity_checking or self._sums is None or self._photo_sums is None:
            return
        means, photo_means = self._sums / self._views, self._photo_sums / self._views
        self.scores = {
            style: StyleScore(ssim=float(means[row]), photo_ssim=float(photo_means[row]))
            for row, style in enumerate(self.recipe.styles)
        }
        for style, score in self.scores.items():
            self.log(f"val/ssim/{style}", score.ssim)
            self.log(f"val/gap/{style}", score.gap)
        gap = sum(score.gap for score in self.scores.values()) / len(self.scores)
        self.log("val/gap", gap, prog_bar=True)
        self._show()
        better = gap > self.best
        if better:
            self.best = gap
            self.save("best")
        self.save("last")
        table = "  ".join(f"{s} {score.ssim:.4f} ({score.gap:.0%})" for s, score in self.scores.items())
        self.report(f"val  step {self.global_step}: gap closed {gap:.4f}{' best' if better else ''} | {table}")
        self._line_time = time.monotonic()

    def _show(self) -> None:
        if not self._pictures or not isinstance(self.logger, TensorBoardLogger):
            return
        # One row a photo: the photo, then teacher and network of each style.
        tiles = torch.cat(self._pictures)
        if max(tiles.shape[2:]) > 192:
            tiles = nn.functional.interpolate(tiles, size=(192, 192), mode="bilinear", antialias=True)
        grid = make_grid(tiles.clamp(0, 1), nrow=1 + 2 * len(self.recipe.styles), padding=2)
        self.logger.experiment.add_image("val/photo, then teacher and network by style", grid, self.global_step)

    # ----------------------------------------------------------------------------------------------- what is kept

    def info(self) -> CheckpointInfo:
        """What the saved network says of itself."""
        recipe = self.recipe
        figures = ", ".join(f"{style} {score.ssim:.4f}" for style, score in self.scores.items())
        return CheckpointInfo(
            name=recipe.name,
            version=recipe.version,
            styles=recipe.styles,
            provenance=(
                *recipe.provenance,
                *([f"started from the weights of {Path(recipe.run.init).name}"] if recipe.run.init else []),
                f"distilled for {self.global_step} steps of {recipe.data.batch} crops of {recipe.data.crop} px, "
                f"seed {recipe.run.seed}",
                f"validation SSIM to the teachers: {figures}",
            ),
        )

    def save(self, name: str) -> None:
        """Writes the averaged network as ``NAME.safetensors`` into the run's folder."""
        network = self.average
        if self.recipe.run.channels_last:
            network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        save_checkpoint(self.recipe.folder / f"{name}.safetensors", network, self.info())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a resumed run needs besides weights and optimizer."""
        checkpoint["distill"] = {"best": self.best, "spent": self.spent, "recipe": self.recipe.to_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse; refuses a run of another network.

        Raises:
            UsageError: other styles or another architecture than this recipe's.
        """
        kept = checkpoint.get("distill")
        if kept is None:
            raise UsageError("the file to resume from was not written by this task: give a last.ckpt of a run.")
        before = make_recipe(kept["recipe"])
        if _network_of(before) != _network_of(self.recipe):
            raise UsageError(
                "the run to resume has other styles or another network than the config: resume it with its own config, "
                "or start a new one from its weights with run.init."
            )
        self.best, self.spent_before = kept["best"], kept["spent"]


# ---------------------------------------------------------------------------------------------------------- helpers


def _network_of(recipe: Recipe) -> tuple[object, ...]:
    return recipe.styles, recipe.architecture, recipe.generator_config()


def build_generator(recipe: Recipe, report: Callable[[str], None] = lambda _line: None) -> Generator | NamedGenerator:
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
        start = load_any_checkpoint(Path(recipe.run.init)).generator
        taken = start_from(generator, start)
        if taken.whole == 0:
            raise UsageError(
                f"run.init {recipe.run.init} has no tensor in common with `generator`: use a checkpoint of a network "
                "that is more like it, or none."
            )
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


def learning_rate(settings: OptimizerRecipe, progress: float) -> float:
    """Linear warm-up, then half a cosine down to ``lr * final``; ``progress`` in [0, 1]."""
    if progress < settings.warmup:
        return settings.lr * max(progress / settings.warmup, 1e-3)
    share = (progress - settings.warmup) / max(1.0 - settings.warmup, 1e-9)
    return settings.lr * (settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * share)))


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
