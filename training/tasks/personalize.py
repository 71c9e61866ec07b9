"""A new style in a network that is finished: only the new style's rows are learned, everything else stands still.

A style is a row of scales and a row of shifts in every conditional norm. ``task: personalize`` takes a checkpoint
(``run.init``), adds a row for each of the recipe's styles, and trains those rows alone. Weights, statistics and the
rows of existing styles are not touched, so **existing styles stay bit-identical**; that is checked whenever a
checkpoint is written. A few hundred numbers are learned; 8 to 40 pictures can teach them, in minutes on two cores. What
the frozen features cannot draw, rows cannot teach them: ``task: gan`` with ``loss.keep`` trains the whole network.

Two sources:

* ``task: personalize``: pictures of the style that belong to no photo. Their statistics in a fixed network's features
  are matched (``loss.statistics``), while the keys of ``loss:`` that compare with the photo hold colours and edges.
* ``task: personalize-pairs``: a teacher, rendered by ``training.data.render`` (any ONNX generator with ``--teacher``).
"""

# ruff: noqa: ARG002  Lightning's hooks have fixed signatures
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from sdk.errors import GateError, UsageError, unknown_name
from training.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint
from training.config import (
    STRICT_KEYS,
    DataRecipe,
    DistillRecipe,
    Fault,
    LossRecipe,
    OptimizerRecipe,
    Positive,
    Recipe,
    Share,
    Weight,
)
from training.criterion import Criterion
from training.data.recipe import UnpairedRecipe
from training.models.generator import Generator, GeneratorConfig
from training.models.norm import style_tables
from training.tasks.base import Report, Task, hold_statistics
from training.tasks.distill import DistillTask
from training.tasks.stylelosses import StyleLosses, StyleLossRecipe
from training.tasks.unpaired import UnpairedTask, anchor_distance


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class RowsOptimizerRecipe(OptimizerRecipe):
    """``optimizer:`` of rows in a network that stands still; plain Adam."""

    lr: Positive = 0.02
    weight_decay: Weight = 0.0
    freeze_statistics: Share = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class RowsRecipe(Recipe):
    """What both kinds of personalization share; see ``PicturesRecipe`` and ``TeacherRecipe``.

    ``styles`` are the new ones; ``generator`` stays empty, the architecture is that of ``run.init``.

    Attributes:
        start_style: a style of the checkpoint whose row the new ones begin with; ``None``: the mean of all.
    """

    optimizer: RowsOptimizerRecipe = RowsOptimizerRecipe()
    start_style: str | None = None

    @cached_property
    def parent(self) -> Checkpoint:
        """``run.init``.

        Raises:
            UsageError: it cannot be read.
        """
        assert self.run.init is not None  # `checks` asks for it
        return load_checkpoint(Path(self.run.init))

    def generator_config(self) -> GeneratorConfig:
        """The checkpoint's architecture with rows for the new styles."""
        if self.run.init is None or not Path(self.run.init).is_file():
            return super().generator_config()  # `checks` tells
        config = self.parent.generator.config
        return dataclasses.replace(config, styles=config.styles + len(self.styles))

    def checks(self) -> list[Fault]:
        """See ``Recipe.checks``."""
        faults = super().checks()
        if self.generator:
            text = "generator: a new style is learned in the network of run.init; leave this section out."
            faults.append(Fault(text, ("generator",)))
        if self.architecture is not None:
            text = "architecture: a new style is a row of our own generator; leave this key out."
            faults.append(Fault(text, ("architecture",)))
        if self.optimizer.freeze_statistics > 0:
            text = "optimizer.freeze_statistics: the network's statistics stand still here; leave it at 0."
            faults.append(Fault(text, ("optimizer.freeze_statistics",)))
        if self.run.init is None:
            faults.append(Fault("run.init: is missing; give the checkpoint that gets the new styles.", ("run.init",)))
            return faults
        try:
            names = self.parent.info.styles
        except UsageError as error:
            return [*faults, Fault(f"run.init: {error}", ("run.init",))]
        for style in self.styles:
            if style in names:
                text = f"styles: {style!r} is one of the checkpoint's already; give the new one another name."
                faults.append(Fault(text, ("styles", "run.init")))
        if self.start_style is not None and self.start_style not in names:
            text = f"start_style: {unknown_name('style', self.start_style, names)}"
            faults.append(Fault(text, ("start_style", "run.init")))
        return faults


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class PicturesLossRecipe(StyleLossRecipe, LossRecipe):
    """``loss:`` when the style is known by pictures; the keys of ``LossRecipe`` compare with the photo.

    Attributes:
        anchor: weight of the mean absolute difference of 4 x 4 means to what the row drew when the run began.
    """

    l1: Weight = 0.0
    gradient: Weight = 0.0
    ssim: Weight = 0.0
    chroma: Weight = 2.0
    statistics: Weight = 1.0
    anchor: Weight = 0.5


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class PicturesRecipe(RowsRecipe):
    """``task: personalize`` from pictures."""

    data: UnpairedRecipe = UnpairedRecipe(smooth=False)
    loss: PicturesLossRecipe = PicturesLossRecipe()

    def checks(self) -> list[Fault]:
        """See ``Recipe.checks``."""
        faults = [*super().checks(), *self.loss.checks(), *self.loss.face_faults(self.data.faces)]
        if len(self.styles) > 1:
            text = f"styles: pictures are of one style, and {len(self.styles)} are named; learn each in its own run."
            faults.append(Fault(text, ("styles",)))
        if not self.loss.statistics and not self.loss.kid and not self.loss.weights():
            faults.append(Fault("loss: every weight is 0; give at least one above 0.", ("loss.statistics",)))
        return faults


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class TeacherRecipe(RowsRecipe, DistillRecipe):
    """``task: personalize-pairs``: from pairs that a teacher drew."""

    data: DataRecipe = DataRecipe(mix_share=0.0)
    loss: LossRecipe = LossRecipe()

    def checks(self) -> list[Fault]:
        """See ``Recipe.checks``."""
        faults = super().checks()
        if self.start_styles:
            text = "start_styles: all new styles begin with one row here; use start_style."
            faults.append(Fault(text, ("start_styles", "start_style")))
        return faults


class NewRows(Task):
    """A task whose generator is the checkpoint's with new rows, and that trains those rows alone."""

    recipe: Any
    generator: Generator
    average: Generator

    @property
    def rows(self) -> Sequence[int]:
        """The new ones, after the checkpoint's."""
        known = len(self.recipe.parent.info.styles)
        return range(known, known + len(self.recipe.styles))

    def make_generator(self) -> Generator:
        """The checkpoint's network; new rows begin as ``start_style``, or as the mean of all styles."""
        parent: Checkpoint = self.recipe.parent
        torch.manual_seed(self.recipe.run.seed)
        generator = Generator(self.recipe.generator_config())
        extended = dict(generator.state_dict())
        given = parent.generator.state_dict()
        for name, value in given.items():
            if value.shape == extended[name].shape:
                extended[name] = value
                continue
            row = self.recipe.start_style
            first = value.mean(0) if row is None else value[parent.info.styles.index(row)]
            extended[name] = torch.cat([value, first.expand(len(self.recipe.styles), -1)])
        generator.load_state_dict(extended)
        generator.requires_grad_(False)
        known = len(parent.info.styles)
        for parameter in new_row_parameters(generator):
            parameter.requires_grad_(True)
            # The rows of existing styles get no gradient, so that Adam has nothing to move them by.
            parameter.register_hook(lambda gradient: F.pad(gradient[known:], (0, 0, known, 0)))
        return generator

    def configure_optimizers(self) -> Any:
        """Adam on style rows alone."""
        settings = self.recipe.optimizer
        return torch.optim.Adam(
            new_row_parameters(self.generator), lr=settings.lr, betas=(settings.beta1, settings.beta2)
        )

    def on_train_start(self) -> None:
        """See ``Task``; statistics stand still from the first batch on, whatever the schedule."""
        hold_statistics(self.generator)
        super().on_train_start()

    def info(self) -> CheckpointInfo:
        """The checkpoint's own description with the new styles."""
        parent, made = self.recipe.parent.info, super().info()
        return dataclasses.replace(
            parent,
            name=made.name,
            version=made.version,
            styles=(*parent.styles, *self.recipe.styles),
            provenance=(*parent.provenance, *made.provenance),
        )

    def save(self, name: str) -> None:
        """See ``Task``.

        Raises:
            GateError: something of the existing styles is not what it was.
        """
        changed = changed_tensors(self.average, self.recipe.parent.generator)
        if changed:
            raise GateError(
                f"{changed[0]} of the network is no longer what {self.recipe.run.init} has, and existing styles must "
                "stay as they are: nothing was written; report this."
            )
        super().save(name)


class PicturesTask(NewRows, UnpairedTask):
    """Learns a row from pictures.

    Args:
        recipe, report: see ``Task``.
    """

    recipe: PicturesRecipe
    learned = "its new style learned from pictures, in rows of a frozen network,"

    def __init__(self, recipe: PicturesRecipe, report: Report | None = None) -> None:
        super().__init__(recipe, report)
        self.criterion = Criterion(recipe.loss)
        self.towards = StyleLosses(recipe.loss)
        self.sets.network = self.towards.network

    def kept(self) -> dict[str, Any]:
        """See ``StyleLosses``."""
        return self.towards.kept()

    def take(self, kept: dict[str, Any]) -> None:
        """See ``Task``."""
        self.towards.take(kept)

    def on_train_start(self) -> None:
        """See ``Task``; looks at the style's pictures."""
        loader: Any = self.trainer.train_dataloader
        self.towards.learn(loader.dataset)
        super().on_train_start()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The weighted sum of the recipe's losses."""
        photo, real = self.picture(batch[0]), batch[1].float() / 255.0
        style = self.weights_of(0, len(photo))
        output = self.draw(photo, style)
        moving = self.temporal(photo, output, lambda frame: self.draw(frame, style))
        loss = self.recipe.loss
        with self.in_float32():
            drawn = output.float()
            parts = self.criterion(drawn, target=photo, photo=photo, style=real)
            total = self.criterion.total(parts) if parts else drawn.new_zeros(())
            pulled, found = self.towards(drawn, photo, self.towards.inside(batch))
            total, parts = total + pulled, parts | found
            if loss.anchor:
                parts["anchor"] = anchor_distance(drawn, self._before(photo))
                total = total + loss.anchor * parts["anchor"]
        if moving is not None:
            parts["temporal"] = moving
            total = total + loss.temporal * moving
        self.tally({"loss": total, **parts})
        return total

    @torch.no_grad()
    def _before(self, photo: Tensor) -> Tensor:
        parent: Generator = self.recipe.parent.generator.eval()
        known = self.recipe.parent.info.styles
        weights = torch.full((len(photo), len(known)), 1.0 / len(known))
        if self.recipe.start_style is not None:
            weights = F.one_hot(torch.tensor([known.index(self.recipe.start_style)]), len(known)).float()
        return parent.raw(photo, weights.expand(len(photo), -1))


class TeacherTask(NewRows, DistillTask):
    """Learns rows from pairs that a teacher drew."""

    recipe: TeacherRecipe
    learned = "its new styles distilled, in rows of a frozen network,"


def new_row_parameters(generator: Generator) -> list[torch.nn.Parameter]:
    """The tables of style rows, whole."""
    tables = style_tables(generator)
    return [parameter for name, parameter in generator.named_parameters() if name in tables]


def changed_tensors(generator: Generator, parent: Generator) -> list[str]:
    """Names of the parent's tensors that a network with further rows does not hold bit by bit."""
    own, given = generator.state_dict(), parent.state_dict()
    return [
        name
        for name, value in given.items()
        if name not in own or not torch.equal(own[name][: len(value)] if value.ndim else own[name], value)
    ]
