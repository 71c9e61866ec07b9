"""What the adversarial tasks share: the keys of their losses and discriminators, and both sides of the game."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from training.adversarial import ADVERSARIAL, AdversarialLoss, gradient_penalty, r1_penalty
from training.config import STRICT_KEYS, Count, Fault, LossRecipe, Positive, Recipe, Share, Weight
from training.models.discriminator import Discriminator, DiscriminatorConfig, DiscriminatorNorm
from training.representations import REPRESENTATIONS, texture, texture_weights

#: What a discriminator can be shown: the picture itself, or a representation of it.
VIEWS = ("colour", *REPRESENTATIONS)


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class AdversarialLossRecipe(LossRecipe):
    """``loss:`` of an adversarial task: the keys of ``LossRecipe``, taken between picture and photo, and these.

    Attributes:
        adversarial: a row of ``training.adversarial.ADVERSARIAL``: non-saturating, lsgan, hinge, wgan.
        adversarial_weight: of the generator's side.
        ramp: share of the run over which that weight rises from 0.
        negatives: weight of edge-smoothed pictures of the style, which count as drawn (CartoonGAN's is 1, AnimeGAN's
            0.1); 0 for none.
        gradient_penalty: weight of WGAN-GP's penalty (Gulrajani et al. 2017: 10); ``wgan`` needs one.
        r1: weight of the R1 penalty (Mescheder et al. 2018), divided by 2.
    """

    l1: Weight = 0.0
    gradient: Weight = 0.0
    ssim: Weight = 0.0
    adversarial: str = "hinge"
    adversarial_weight: Positive = 1.0
    ramp: Share = 0.2
    negatives: Weight = 0.0
    gradient_penalty: Weight = 0.0
    r1: Weight = 0.0

    def checks(self) -> list[Fault]:
        """See ``LossRecipe.checks``."""
        faults = super().checks()
        if self.adversarial not in ADVERSARIAL:
            text = f"loss.adversarial: there is no loss {self.adversarial!r}; choose from {', '.join(ADVERSARIAL)}."
            faults.append(Fault(text, ("loss.adversarial",)))
        elif ADVERSARIAL[self.adversarial].wants_penalty and self.gradient_penalty == 0:
            text = f"loss.gradient_penalty: {self.adversarial} needs one, 10 in its paper; it is 0."
            faults.append(Fault(text, ("loss.adversarial", "loss.gradient_penalty")))
        return faults


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class DiscriminatorRecipe:
    """``discriminator:``.

    Attributes:
        sees: one discriminator for each: ``colour`` (the picture), ``texture`` (grey, by random weights of the
            colours) or ``surface`` (White-box representations). Colours run away when a discriminator sees them and
            nothing else binds them.
        width, layers, norm, spectral, scales: see ``training.models.discriminator.DiscriminatorConfig``.
        updates: of the discriminators for one of the generator (WGAN: 5).
        lr: learning rate.
    """

    sees: Annotated[tuple[str, ...], Field(min_length=1)] = ("texture",)
    width: Count = 32
    layers: Count = 3
    norm: DiscriminatorNorm = DiscriminatorNorm.NONE
    spectral: bool = True
    scales: Count = 1
    updates: Count = 1
    lr: Positive = 2e-4

    def config(self, view: str) -> DiscriminatorConfig:
        """Of the discriminator that is shown ``view``."""
        return DiscriminatorConfig(
            channels=1 if view == "texture" else 3,
            width=self.width,
            layers=self.layers,
            norm=self.norm,
            spectral=self.spectral,
            scales=self.scales,
        )

    def checks(self, *, penalty: float, crop: int) -> list[Fault]:
        """Settings that do not go together.

        Args:
            penalty: weight of a penalty on the gradient.
            crop: side of the pictures, px.
        """
        faults = []
        for view in self.sees:
            if view not in VIEWS:
                text = f"discriminator.sees: there is no {view!r}; choose from {', '.join(VIEWS)}."
                faults.append(Fault(text, ("discriminator.sees",)))
        if len(set(self.sees)) < len(self.sees):
            faults.append(Fault("discriminator.sees: a view is named twice; name each once.", ("discriminator.sees",)))
        config = self.config("colour")
        keys = tuple(f"discriminator.{name}" for name in ("width", "layers", "norm", "scales"))
        faults += [Fault(f"discriminator.{text}", keys) for text in config.faults(gradient_penalty=penalty)]
        if crop < config.smallest:
            text = f"data.crop: {crop} px are too few for this discriminator, which needs {config.smallest}."
            faults.append(Fault(text, ("data.crop", *keys)))
        return faults


class Judges(nn.Module):
    """The discriminators of one style, each with its view, and both sides of their loss.

    Args:
        recipe: ``discriminator:``.
        loss: ``loss:``.
    """

    def __init__(self, recipe: DiscriminatorRecipe, loss: AdversarialLossRecipe) -> None:
        super().__init__()
        self.by_view = nn.ModuleDict({view: Discriminator(recipe.config(view)) for view in recipe.sees})
        self.loss = loss
        self.kind: AdversarialLoss = ADVERSARIAL[loss.adversarial]

    def discriminator_loss(self, real: Tensor, fake: Tensor, smoothed: Tensor | None) -> dict[str, Tensor]:
        """What the discriminators minimize: ``N x 3 x C x C`` pictures of the style, drawn ones, edge-smoothed ones.

        Returns:
            ``discriminator``, the sum, and what it is made of.
        """
        weights = texture_weights()
        main = penalty = real.new_zeros(())
        for view, judge in self.by_view.items():
            shown, drawn = _shown(view, real, weights), _shown(view, fake.detach(), weights)
            soft = None if smoothed is None else judge(_shown(view, smoothed, weights))
            main = main + self.kind.discriminator(judge(shown), judge(drawn), soft, negative_weight=self.loss.negatives)
            if self.loss.gradient_penalty:
                penalty = penalty + self.loss.gradient_penalty * gradient_penalty(judge, shown, drawn)
            if self.loss.r1:
                penalty = penalty + self.loss.r1 / 2 * r1_penalty(judge, shown)
        parts = {"discriminator": main + penalty}
        if self.loss.gradient_penalty or self.loss.r1:
            parts["penalty"] = penalty
        return parts

    def generator_loss(self, fake: Tensor) -> Tensor:
        """What the generator minimizes: the sum over the views."""
        weights = texture_weights()
        return torch.stack([self.kind.generator(j(_shown(v, fake, weights))) for v, j in self.by_view.items()]).sum()


def _shown(view: str, picture: Tensor, weights: Tensor) -> Tensor:
    if view == "colour":
        return picture
    return texture(picture, weights) if view == "texture" else REPRESENTATIONS[view](picture)


def ramp(recipe: Any, progress: float) -> float:
    """The adversarial weight at a point of the run, ``progress`` in [0, 1]."""
    loss: AdversarialLossRecipe = recipe.loss
    return float(loss.adversarial_weight) * (min(1.0, progress / loss.ramp) if loss.ramp else 1.0)


def recipe_checks(recipe: Recipe, loss: AdversarialLossRecipe, discriminator: DiscriminatorRecipe) -> list[Fault]:
    """What an adversarial recipe adds to ``Recipe.checks``."""
    penalty = loss.gradient_penalty + loss.r1
    return [*loss.checks(), *discriminator.checks(penalty=penalty, crop=recipe.data.crop)]
