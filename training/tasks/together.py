"""Styles of teachers and styles of pictures, learned together in one network.

``task: distill`` learns what teachers drew, ``task: gan`` one style from pictures that belong to no photo. A network
of both that is trained in turns forgets; one that imitates a network trained on pictures (a *specialist*,
docs/training.md) smooths away what the set of pictures is known by. ``task: together`` is distillation in which every
``every``-th batch also draws photos in one of the styles of ``pictures``, in turn, and adds that style's losses:
``kid`` and ``statistics`` towards its set, and whatever of ``LossRecipe`` and of ``faces``, ``face_tone`` holds the
photo. Validation has the gap that each teacher's style closes, and the share of the photos' KID that is gone for each
of the others; the score is the mean of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.utils.data import Dataset

from sdk.errors import unknown_name
from training.config import STRICT_KEYS, Count, DistillRecipe, Fault, LossRecipe, Positive, Weight
from training.criterion import Criterion
from training.data.recipe import UnpairedRecipe
from training.data.recipe import checks as unpaired_checks
from training.data.unpaired import UnpairedDataset, open_unpaired, stack
from training.metrics.features import EffLite0
from training.tasks.base import Judgement, Report, Samples
from training.tasks.distill import Batch, DistillTask, open_pairs, pair_faults
from training.tasks.stylelosses import StyleLosses, StyleLossRecipe
from training.tasks.unpaired import SetJudge, style_pictures
from training.temporal import faint_noise, noise_gain


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LearnedLossRecipe(StyleLossRecipe, LossRecipe):
    """``loss:`` of a style of ``pictures``; the keys of ``LossRecipe`` compare with the photo, or with ``like``.

    Attributes:
        steady: weight of ``training.temporal.noise_gain``: nothing jumps when the photo's noise is another; it draws
            the photo a second time.
    """

    l1: Weight = 0.0
    gradient: Weight = 0.0
    ssim: Weight = 0.0
    steady: Weight = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LearnedStyle:
    """A style of ``pictures``.

    Attributes:
        data: photos to draw and pictures of the style; ``batch`` is of each turn of the style, in each process.
        loss: see its class.
        like: a style with a teacher whose picture, as the averaged network draws it, stands for the photo in the keys
            of ``LossRecipe`` and in ``heads``: its colours, contours, skin and dark hair are held. A filter that is
            nearer to the set than the photo is leaves less to be moved. The other losses in faces compare with the
            photo all the same.
    """

    data: UnpairedRecipe = UnpairedRecipe(smooth=False)
    loss: LearnedLossRecipe = LearnedLossRecipe()
    like: str | None = None

    def faults(self, prefix: str) -> list[Fault]:
        """Settings that do not go together; ``prefix`` stands before the keys' names."""
        found = [*self.loss.checks(), *self.loss.face_faults(self.data.faces)]
        faults = [Fault(prefix + fault.text, tuple(prefix + key for key in fault.keys)) for fault in found]
        if not self.loss.kid and not self.loss.statistics:
            text = f"{prefix}loss: nothing pulls towards the pictures; give kid or statistics a weight."
            faults.append(Fault(text, (f"{prefix}loss",)))
        if self.loss.temporal:
            text = f"{prefix}loss.temporal: is one for the whole run; give loss.temporal."
            faults.append(Fault(text, (f"{prefix}loss.temporal",)))
        if self.data.workers or self.data.conditions or self.data.smooth:
            text = f"{prefix}data: this task reads photos, pictures and faces alone, in the training process; leave "
            faults.append(Fault(f"{text}workers and conditions out and give smooth: false.", (f"{prefix}data",)))
        return faults


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class TogetherRecipe(DistillRecipe):
    """``task: together``; the rest is that of ``task: distill``.

    Attributes:
        pictures: the styles that are learned from pictures; the others have a teacher's pairs.
        every: one batch of so many also learns one of these styles; they take turns.
        pull: weight of all their losses beside those of distillation.
    """

    pictures: Annotated[dict[str, LearnedStyle], Field(min_length=1)]
    every: Count = 2
    pull: Positive = 0.1

    @property
    def taught(self) -> tuple[str, ...]:
        """See ``DistillRecipe``."""
        return tuple(style for style in self.styles if style not in self.pictures)

    def checks(self) -> list[Fault]:
        """See ``Recipe.checks``."""
        faults = super().checks()
        for style, learned in self.pictures.items():
            if style not in self.styles:
                faults.append(Fault(f"pictures: {unknown_name('style', style, self.styles)}", ("pictures", "styles")))
            faults += learned.faults(f"pictures.{style}.")
            if learned.like is not None and learned.like not in self.taught:
                text = f"pictures.{style}.like: {unknown_name('style with a teacher', learned.like, self.taught)}"
                faults.append(Fault(text, (f"pictures.{style}.like", "styles")))
        if not self.taught:
            text = "pictures: no style is left that has a teacher; learn a single one by `task: gan`."
            faults.append(Fault(text, ("pictures", "styles")))
        return faults


class TogetherData(Dataset[Batch]):
    """Rendered pairs by sample number, and beside them the photos and pictures of each style of ``pictures``.

    Args:
        pairs: what the loader draws.
        learned: what ``TogetherTask`` draws itself, by style.
    """

    def __init__(self, pairs: Dataset[Batch], learned: dict[str, UnpairedDataset]) -> None:
        self.pairs, self.learned = pairs, learned

    def __len__(self) -> int:
        return len(self.pairs)  # type: ignore[arg-type]  # ours has one

    def __getitem__(self, number: int) -> Batch:
        return self.pairs[number]


class TogetherTask(DistillTask):
    """Trains ``generator`` on batches of pairs, and in turn on each style of ``pictures``.

    Args:
        recipe, report: see ``Task``.
    """

    recipe: TogetherRecipe
    learned = "distilled, with styles learned from pictures beside,"
    metric, metric_key = "distance gone", "val/gone"

    def __init__(self, recipe: TogetherRecipe, report: Report | None = None) -> None:
        super().__init__(recipe, report)
        network = EffLite0()  # one for all styles, losses and validation
        self.towards = {style: StyleLosses(one.loss, network) for style, one in recipe.pictures.items()}
        self.holding = {style: Criterion(one.loss) for style, one in recipe.pictures.items()}
        self.judges = {style: SetJudge() for style in recipe.pictures}
        for judge in self.judges.values():
            judge.network = network
        self._parts: dict[str, Tensor] = {f"{style}/loss": torch.zeros(()) for style in recipe.pictures}
        self.set_scores: dict[str, Judgement] = {}

    def kept(self) -> dict[str, Any]:
        """See ``StyleLosses``."""
        return {style: towards.kept() for style, towards in self.towards.items()}

    def take(self, kept: dict[str, Any]) -> None:
        """See ``Task``."""
        for style, towards in self.towards.items():
            towards.take(kept[style])

    def on_train_start(self) -> None:
        """See ``Task``; looks at the pictures of each style."""
        for style, towards in self.towards.items():
            towards.learn(self._data.learned[style])
        super().on_train_start()

    @property
    def _data(self) -> TogetherData:
        loader: Any = self.trainer.train_dataloader
        data: TogetherData = loader.dataset
        return data

    # ------------------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the recipe's losses."""
        image, weights, stored = batch
        taught = weights.new_zeros(len(weights), len(self.recipe.styles))
        taught[:, [self.recipe.styles.index(style) for style in self.recipe.taught]] = weights
        parts = self.losses((image, taught, stored))
        place = self.steps_done * self.recipe.run.accumulate + batch_idx % self.recipe.run.accumulate
        turn, rest = divmod(place, self.recipe.every)
        if not rest:
            lap, which = divmod(turn, len(self.recipe.pictures))
            style = list(self.recipe.pictures)[which]
            pulled, found = self._towards_pictures(style, lap)
            parts["loss"] = parts["loss"] + self.recipe.pull * pulled
            self._parts |= {f"{style}/{name}": part.detach() for name, part in found.items()}
            self._parts[f"{style}/loss"] = pulled.detach()
        # Lines of the log are means over batches: a style that has no turn repeats its last ones.
        self.tally(parts | self._parts)
        return parts["loss"]

    def _towards_pictures(self, style: str, lap: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of a style of ``pictures`` on its ``lap``-th batch: their weighted sum, and each by name."""
        data, one = self._data.learned[style], self.recipe.pictures[style]
        first = (lap * self.processes + self.global_rank) * one.data.batch
        batch = [part.to(self.device) for part in stack([data[first + number] for number in range(one.data.batch)])]
        photo, real = self.picture(batch[0]), batch[1].float() / 255.0
        weights = self.weights_of(self.recipe.styles.index(style), len(photo))
        drawn = self.draw(photo, weights)
        # In the precision of the first pass: else half precision's own rounding would count as a jump.
        other = faint_noise(photo) if one.loss.steady else None
        again = None if other is None else self.draw(other, weights)
        towards, holding = self.towards[style], self.holding[style]
        with self.in_float32():
            output = drawn.float()
            target = photo if one.like is None else self._like(one.like, photo)
            total, found = towards(output, photo, towards.inside(batch), target)
            held = holding(output, target=target, photo=photo, style=real)
            if held:
                total = total + holding.total(held)
            if other is not None and again is not None:
                held["steady"] = noise_gain(again.float(), output, other - photo)
                total = total + one.loss.steady * held["steady"]
        return total, {**found, **held}

    @torch.no_grad()
    def _like(self, style: str, photo: Tensor) -> Tensor:
        """What the averaged network draws in a style with a teacher, in [0, 1]."""
        drawn: Tensor = self.average(photo, self.weights_of(self.recipe.styles.index(style), len(photo)))
        return drawn.clamp(0, 1)

    # ----------------------------------------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """See ``DistillTask``; the first one looks at the styles' pictures."""
        super().on_validation_epoch_start()
        for style, judge in self.judges.items():
            judge.start()
            if not self.trainer.sanity_checking:
                judge.learn_style(partial(style_pictures, self._data.learned[style]))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """See ``DistillTask``; the views' photos are drawn in the styles of ``pictures``, too."""
        super().validation_step(batch, batch_idx)
        photo = self.picture(batch[0])
        with self.in_float32():
            for style, judge in self.judges.items():
                judge.add(photo, self.average(photo, self.weights_of(self.recipe.styles.index(style), len(photo))))

    def judge(self) -> Judgement:
        """Mean over the styles of the distance that is gone: to the teacher's picture, or of the set to the set."""
        taught = super().judge()
        self.set_scores = {style: judge.judge() for style, judge in self.judges.items()}
        scores = [*(score.gap for score in self.scores.values()), *(found.score for found in self.set_scores.values())]
        sets = {f"{key}/{style}": v for style, found in self.set_scores.items() for key, v in found.figures.items()}
        details = [f"{style} {found.details}" for style, found in self.set_scores.items()]
        return Judgement(
            score=sum(scores) / len(scores),
            figures={**taught.figures, **sets},
            details="  ".join([taught.details, *details]),
        )

    def table(self) -> str:
        """The last validation, one line a style."""
        lines = [f"{style:<12} {found.details}" for style, found in self.set_scores.items()]
        return "\n".join([super().table(), *lines]) if lines else ""

    def judged(self) -> Sequence[str]:
        """See ``Task.judged``."""
        figures = ", ".join(f"{style} {found.figures['val/kid_ratio']:.2f}" for style, found in self.set_scores.items())
        return (*super().judged(), f"validation KID-EffLite0 over the photos' own: {figures}")


# ------------------------------------------------------------------------------------------------------------- data


def open_together(recipe: TogetherRecipe) -> Samples:
    """The rendered pairs and the folders of a recipe.

    Raises:
        UsageError: data that are missing or do not fit.
    """
    pairs = open_pairs(recipe)
    opened = {style: open_unpaired(one.data, seed=recipe.run.seed) for style, one in recipe.pictures.items()}
    return dataclasses.replace(
        pairs,
        training=TogetherData(pairs.training, {style: data.train for style, data in opened.items()}),
        notes=[*pairs.notes, *(f"{style}: {note}" for style, data in opened.items() for note in data.notes)],
    )


def together_faults(recipe: TogetherRecipe) -> list[Fault]:
    """What is wrong with the data of a recipe; see ``TaskKind.faults``."""
    faults = pair_faults(recipe)
    for style, one in recipe.pictures.items():
        prefix = f"pictures.{style}.data."
        faults += [Fault(text, (f"pictures.{style}",)) for text in unpaired_checks(one.data, prefix=prefix)]
    return faults
