"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593): the usual first baseline for unpaired pictures.

Two generators, photo -> style and style -> photo, each against its own discriminators, and a cycle: what was drawn must
lead back to what it was drawn from (equation 2). Discriminators are shown pictures from a pool of the last 50 drawn
ones (section 4). What is kept is the first generator alone; it is validated like ``task: gan``.
"""

# ruff: noqa: ARG002  Lightning's hooks have fixed signatures
from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from training.config import STRICT_KEYS, Fault, Recipe, Weight
from training.criterion import Criterion
from training.data.recipe import UnpairedRecipe
from training.losses import identity, l1
from training.tasks.adversarial import AdversarialLossRecipe, DiscriminatorRecipe, Judges, ramp, recipe_checks
from training.tasks.base import Report, adam
from training.tasks.unpaired import UnpairedTask


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class CycleLossRecipe(AdversarialLossRecipe):
    """``loss:`` of ``task: cyclegan``; the defaults are the paper's.

    Attributes:
        cycle: weight of both cycles' mean absolute differences.
        identity: weight of what each generator changes in a picture that is on its side already.
        pool: drawn pictures that discriminators are shown from; 0 shows those of the step.
    """

    adversarial: str = "lsgan"
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    cycle: Weight = 10.0
    identity: Weight = 5.0
    pool: Annotated[int, Field(ge=0, le=1000)] = 50


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class CycleRecipe(Recipe):
    """``task: cyclegan``; see ``training.tasks.gan.GanRecipe`` for the sections."""

    data: UnpairedRecipe = UnpairedRecipe(smooth=False)
    loss: CycleLossRecipe = CycleLossRecipe()
    discriminator: DiscriminatorRecipe = DiscriminatorRecipe(sees=("colour",), width=64)

    def checks(self) -> list[Fault]:
        """See ``Recipe.checks``."""
        faults = [*super().checks(), *recipe_checks(self, self.loss, self.discriminator)]
        if len(self.styles) > 1:
            text = f"styles: a cycle has one style, and {len(self.styles)} are named; train each in a run of its own."
            faults.append(Fault(text, ("styles",)))
        if self.loss.negatives:
            text = "loss.negatives: edge-smoothed negatives belong to task: gan; leave them out."
            faults.append(Fault(text, ("loss.negatives",)))
        return faults


class PicturePool(nn.Module):
    """The last pictures that were drawn: half of the time an older one is shown in the place of a new one.

    Shrivastava et al. 2017 (arXiv:1612.07828), as CycleGAN uses it.

    Args:
        size: pictures it holds.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.held: list[Tensor] = []

    def show(self, drawn: Tensor) -> Tensor:
        """Takes ``N x 3 x H x W`` new pictures and gives as many."""
        shown = []
        for picture in drawn.detach():
            if len(self.held) < self.size:
                self.held.append(picture)
                shown.append(picture)
            elif self.size and bool(torch.rand(()) < 0.5):
                place = int(torch.randint(self.size, ()))
                shown.append(self.held[place])
                self.held[place] = picture
            else:
                shown.append(picture)
        return torch.stack(shown)


class CycleGanTask(UnpairedTask):
    """Trains ``generator`` (photo to style) together with one that leads back.

    Args:
        recipe, report: see ``Task``.
    """

    recipe: CycleRecipe
    learned = "trained as one half of a CycleGAN"
    picture_title = "val/photo, picture, and back"

    def __init__(self, recipe: CycleRecipe, report: Report | None = None) -> None:
        super().__init__(recipe, report)
        self.automatic_optimization = False
        self.back = copy.deepcopy(self.generator)
        if recipe.run.init is None:  # another random start: two equal ones would begin as one
            for module in self.back.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    module.reset_parameters()
        self.style_judges = Judges(recipe.discriminator, recipe.loss)
        self.photo_judges = Judges(recipe.discriminator, recipe.loss)
        self.pools = nn.ModuleList([PicturePool(recipe.loss.pool), PicturePool(recipe.loss.pool)])
        self.criterion = Criterion(recipe.loss)

    def configure_optimizers(self) -> Any:
        """Both generators', and all discriminators'."""
        settings = self.recipe.optimizer
        return [
            adam(nn.ModuleList([self.generator, self.back]), settings),
            adam(nn.ModuleList([self.style_judges, self.photo_judges]), settings, lr=self.recipe.discriminator.lr),
        ]

    def peak(self, number: int) -> float:
        """See ``Task``."""
        return self.recipe.discriminator.lr if number else self.recipe.optimizer.lr

    def kept(self) -> dict[str, Any]:
        """What the pools hold."""
        return {"pools": [list(pool.held) for pool in self.pools]}  # type: ignore[union-attr, arg-type]

    def take(self, kept: dict[str, Any]) -> None:
        """See ``Task``."""
        for pool, held in zip(self.pools, kept["pools"], strict=True):
            pool.held = list(held)  # type: ignore[assignment]

    # ------------------------------------------------------------------------------------------------- training

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """The generators' update, then the discriminators' on what was drawn for it."""
        photo, real = self.picture(batch[0]), self.picture(batch[1])
        optimizers: Any = self.optimizers()
        generators, judges = optimizers
        style = torch.ones(len(photo), 1, device=self.device)

        self.toggle_optimizer(generators)
        drawn, rephotographed = self.draw(photo, style), self.back.raw(real, style)
        cycled = (self.back.raw(drawn, style), self.draw(rephotographed, style))
        with self.in_float32():
            parts = self._generator_losses((photo, real), (drawn.float(), rephotographed.float()), cycled, style)
        self.descend(0, parts["loss"], batch_idx)
        self.untoggle_optimizer(generators)

        self.toggle_optimizer(judges)
        of_style, of_photo = (
            pool(made.detach().float()) for pool, made in zip(self._shows(), (drawn, rephotographed), strict=True)
        )
        with self.in_float32():
            on_style = self.style_judges.discriminator_loss(real, of_style, None)
            on_photo = self.photo_judges.discriminator_loss(photo, of_photo, None)
            parts["discriminator"] = (on_style["discriminator"] + on_photo["discriminator"]) / 2
        self.descend(1, parts["discriminator"], batch_idx)
        self.untoggle_optimizer(judges)
        self.tally(parts)

    def _shows(self) -> list[Any]:
        return [pool.show for pool in self.pools]

    def _generator_losses(
        self, given: tuple[Tensor, Tensor], made: tuple[Tensor, Tensor], cycled: tuple[Tensor, Tensor], style: Tensor
    ) -> dict[str, Tensor]:
        """``loss``, and what it is the weighted sum of.

        Args:
            given: photos and pictures of the style.
            made: what became of them on the other side.
            cycled: what became of that, back on their own side.
            style: weights of the only style.
        """
        loss, (photo, real), (drawn, rephotographed) = self.recipe.loss, given, made
        parts = self.criterion(drawn, target=photo, photo=photo, style=real)
        total = self.criterion.total(parts) if parts else drawn.new_zeros(())
        parts["adversarial"] = self.style_judges.generator_loss(drawn) + self.photo_judges.generator_loss(
            rephotographed
        )
        parts["cycle"] = l1(cycled[0].float(), photo) + l1(cycled[1].float(), real)
        total = total + ramp(self.recipe, self.progress()) * parts["adversarial"] + loss.cycle * parts["cycle"]
        if loss.identity:
            same = identity(self.draw(real, style).float(), real) + identity(self.back.raw(photo, style).float(), photo)
            parts["identity"] = same
            total = total + loss.identity * same
        return {"loss": total, **parts}

    def also_shown(self, photo: Tensor, drawn: Tensor) -> list[Tensor]:
        """Where the drawn picture leads back to."""
        return [self.back(drawn, torch.ones(len(drawn), 1, device=self.device))]
