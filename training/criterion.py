"""Everything a recipe's ``loss:`` weighs, computed and added up, whatever the task.

What a task trains by itself (adversarial losses, cycles) it adds to this.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from training.config import LossRecipe
from training.features import FEATURE_LOSSES, STYLE_MAPS, Features, content, gram_l1, gram_squared
from training.losses import LOSSES, PRIORS, Perceptual, identity, l1
from training.representations import structure


class Criterion(nn.Module):
    """The losses of a recipe.

    Args:
        recipe: ``loss:``.

    Attributes:
        weights: of the losses that count, by key.

    Raises:
        UsageError: VGG19 without its weights.
        MissingRuntimeError: a package that a loss needs is not installed.
    """

    def __init__(self, recipe: LossRecipe) -> None:
        super().__init__()
        self.weights = recipe.weights()
        self.border, self.layer = recipe.border, recipe.content_layer
        self.perceptual = Perceptual() if "perceptual" in self.weights else None
        weights = None if recipe.features_weights is None else Path(recipe.features_weights)
        wanted = any(name in self.weights for name in FEATURE_LOSSES)
        self.features = Features(recipe.features, weights) if wanted else None

    def forward(
        self,
        output: Tensor,
        *,
        target: Tensor,
        photo: Tensor,
        style: Tensor,
        restyled: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Each loss that counts, not weighted, a scalar by its key.

        All are ``N x 3 x H x W`` RGB on the [0, 1] scale; ``output``, ``target`` and ``photo`` of one size.

        Args:
            output: the network's picture.
            target: what it is compared with value by value: the teacher's picture; the photo when there is no teacher.
            photo: whose content it keeps.
            style: pictures whose Gram matrices it takes on: the teacher's, or as many of the style, or a single one.
            restyled: what the network makes of ``style``; the identity loss is left out without it.
        """
        if self.border:
            output, target, photo, style = (self._inside(x) for x in (output, target, photo, style))
            restyled = None if restyled is None else self._inside(restyled)
        parts = {name: LOSSES[name](output, target) for name in LOSSES if name in self.weights}
        parts |= {name: PRIORS[name](output) for name in PRIORS if name in self.weights}
        if "identity" in self.weights and restyled is not None:
            parts["identity"] = identity(restyled, style)
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(output, target)
        if self.features is not None:
            parts |= self._in_features(self.features, output, photo, style)
        return parts

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what ``forward`` returned, a scalar; there is at least one part."""
        first, *others = (self.weights[name] * part for name, part in parts.items())
        return sum(others, first)

    def _inside(self, x: Tensor) -> Tensor:
        return x[..., self.border : -self.border, self.border : -self.border]

    def _in_features(self, features: Features, output: Tensor, photo: Tensor, style: Tensor) -> dict[str, Tensor]:
        names = [name for name in FEATURE_LOSSES if name in self.weights]
        matched = [name for name in names if name.startswith("gram")]
        have = features(output, max(self.layer, STYLE_MAPS) if matched else self.layer)
        parts = {}
        if "content" in names:
            parts["content"] = content(have, features(photo.detach(), self.layer), self.layer)
        if matched:
            want = features(style.detach(), STYLE_MAPS)
            parts |= {name: {"gram": gram_l1, "gram_squared": gram_squared}[name](have, want) for name in matched}
        if "structure" in names:
            flat = features(structure(output), self.layer)
            parts["structure"] = l1(have[self.layer - 1], flat[self.layer - 1])
        return parts
