"""Distillation: the network learns to draw what the teachers draw.

What it validates and saves is the exponential moving average (EMA) of the weights. The norms' population statistics are
averaged along with the weights; from ``optimizer.freeze_statistics`` on they are held, and network and average train on
exactly the statistics that the deployed network folds away.
"""

# ruff: noqa: ARG002  Lightning's hooks have fixed signatures
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdk.errors import UsageError
from training.config import DistillRecipe, Fault
from training.criterion import Criterion
from training.data.pairs import Degradation, PairDataset, Shard, ViewDataset, open_shards
from training.losses import gap_closed, ssim
from training.tasks.base import Judgement, Report, Samples, Task
from training.tasks.rows import row_faults

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


class DistillTask(Task):
    """Trains ``generator`` on batches ``(image, style, target)`` of ``training.data.pairs.PairDataset``.

    Args:
        recipe, report: see ``Task``.
    """

    recipe: DistillRecipe
    learned = "distilled"
    metric, metric_key = "gap closed", "val/gap"
    picture_title = "val/photo, then teacher and network by style"

    def __init__(self, recipe: DistillRecipe, report: Report | None = None) -> None:
        super().__init__(recipe, report)
        self.criterion = Criterion(recipe.loss)
        self.scores: dict[str, StyleScore] = {}
        self._sums: Tensor | None = None
        self._photo_sums: Tensor | None = None
        self._views = 0

    # ------------------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the recipe's losses.

        Raises:
            UsageError: when the loss is not finite any more.
        """
        parts = self.losses(batch)
        self.tally(parts)
        return parts["loss"]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, the weighted sum, and what it is the sum of."""
        image, style, stored = batch
        image, style = self.picture(image), self.spread(style)
        target = self.target(image, style, self.picture(stored))
        output = self.draw(image, style)
        moving = self.temporal(image, output, lambda frame: self.draw(frame, style))
        restyled = self.draw(target, style) if self.recipe.loss.identity > 0 else None
        with self.in_float32():
            parts = self.criterion(
                output.float(),
                target=target.float(),
                photo=image,
                style=target.float(),
                restyled=None if restyled is None else restyled.float(),
            )
            total = self.criterion.total(parts)
        if moving is not None:
            parts["temporal"] = moving
            total = total + self.recipe.loss.temporal * moving
        return {"loss": total, **parts}

    def target(self, image: Tensor, style: Tensor, teacher: Tensor) -> Tensor:
        """What the network's picture shall be, ``N x 3 x C x C`` in [0, 1]: here what the teacher drew."""
        return teacher

    # ----------------------------------------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """Empties the sums."""
        super().on_validation_epoch_start()
        styles = len(self.recipe.taught)
        self._sums, self._views = torch.zeros(styles, dtype=torch.float64), 0
        # The photos' own distances do not change: the first validation takes them.
        self._photo_pending = self._photo_sums is None and not self.trainer.sanity_checking
        if self._photo_pending:
            self._photo_sums = torch.zeros(styles, dtype=torch.float64)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Every style of a batch of views: ``N x 3 x S x S`` photos, ``N x T x 3 x S x S`` teachers, uint8."""
        photo, teachers = self.picture(batch[0]), batch[1].float() / 255.0
        assert self._sums is not None  # on_validation_epoch_start made them
        drawn = []
        with self.in_float32():
            for number, style in enumerate(self.recipe.taught):
                output = self.average(photo, self.weights_of(self.recipe.styles.index(style), len(photo)))
                self._sums[number] += ssim(output, teachers[:, number]).double().sum().cpu()
                if self._photo_pending and self._photo_sums is not None:
                    self._photo_sums[number] += ssim(photo, teachers[:, number]).double().sum().cpu()
                drawn.append(output)
        for place in range(len(photo)):
            pairs = [tile for number, output in enumerate(drawn) for tile in (teachers[place, number], output[place])]
            self.show([photo[place], *pairs])
        self._views += len(photo)

    def judge(self) -> Judgement:
        """Share of the distance photo -> teacher that the network closed, mean over the styles."""
        assert self._sums is not None and self._photo_sums is not None  # noqa: PT018  on_validation_epoch_start
        own = torch.cat([self._sums, self._photo_sums, torch.tensor([self._views], dtype=torch.float64)])
        sums, photo_sums, views = self.total(own).split([len(self._sums), len(self._sums), 1])
        means, photo_means = sums / views, photo_sums / views
        self.scores = {
            style: StyleScore(ssim=float(means[number]), photo_ssim=float(photo_means[number]))
            for number, style in enumerate(self.recipe.taught)
        }
        figures = {f"val/ssim/{style}": score.ssim for style, score in self.scores.items()}
        figures |= {f"val/gap/{style}": score.gap for style, score in self.scores.items()}
        return Judgement(
            score=sum(score.gap for score in self.scores.values()) / len(self.scores),
            figures=figures,
            details="  ".join(f"{s} {score.ssim:.4f} ({score.gap:.0%})" for s, score in self.scores.items()),
        )

    def table(self) -> str:
        """The last validation, one line a style."""
        if not self.scores:
            return ""
        lines = [f"{'style':<12} {'SSIM':>7} {'photo':>7} {'gap closed':>11}"]
        lines += [f"{s:<12} {x.ssim:>7.4f} {x.photo_ssim:>7.4f} {x.gap:>11.1%}" for s, x in self.scores.items()]
        return "\n".join(lines)

    def judged(self) -> Sequence[str]:
        """See ``Task.judged``."""
        figures = ", ".join(f"{style} {score.ssim:.4f}" for style, score in self.scores.items())
        return (f"validation SSIM to the teachers: {figures}",)


# ------------------------------------------------------------------------------------------------------------- data


def training_samples(recipe: DistillRecipe, shards: Sequence[Shard]) -> PairDataset:
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
        style_weights=[data.style_weights.get(style, 1.0) for style in recipe.taught],
        degradation=Degradation(
            noise_chance=data.noise_chance,
            noise=data.noise,
            jpeg_chance=data.jpeg_chance,
            jpeg_quality=data.jpeg_quality,
        ),
    )


def open_pairs(recipe: DistillRecipe) -> Samples:
    """The rendered pairs of a recipe.

    Raises:
        UsageError: pairs that are missing or do not fit.
    """
    pairs, data = Path(recipe.data.pairs), recipe.data
    return Samples(
        training=training_samples(recipe, open_shards(pairs / "train", recipe.taught)),
        validation=ViewDataset(open_shards(pairs / "val", recipe.taught), limit=data.val_views, size=data.val_size),
    )


def pair_faults(recipe: DistillRecipe) -> list[Fault]:
    """What is wrong with the rendered pairs of a recipe; see ``TaskKind.faults``."""
    faults = []
    for split in ("train", "val"):
        try:
            shards = open_shards(Path(recipe.data.pairs) / split, recipe.taught)
            if split == "train":
                training_samples(recipe, shards)
        except UsageError as error:
            keys = ("data.pairs", "styles", "data.crop", "data.style_weights")
            faults.append(Fault(f"data: {error}", keys))
    return [*faults, *row_faults(recipe, "start_styles")]
