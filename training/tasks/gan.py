"""Learning a style from pictures that belong to no photo: a generator against discriminators.

After CartoonGAN (Chen, Lai and Liu 2018), AnimeGAN (Chen, Liu and Chen 2019) and White-box cartoonization (Wang and Yu
2020): the discriminators judge patches of the picture or of a representation of it (``discriminator.sees``),
edge-smoothed pictures of the style count as drawn (``loss.negatives``), and the keys of ``loss:`` that compare with the
photo (``content``, ``lab``, ``chroma``, ``edge``, ...) tie the result to it, in faces ``faces`` and ``face_tone``.
``gram`` and ``gram_squared`` take their style from the pictures, ``statistics`` and ``kid`` from the set as a whole.

Colours run away when nothing holds them (docs/training.md): the default discriminator sees texture alone.

Two more anchors, both towards the network as it was when the run began (``run.init``): ``loss.anchor`` holds the
learned style's own low frequencies, ``loss.keep`` the network's other styles, of which the pictures say nothing.
``start_style`` gives the new style another style's row to begin with.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from sdk.errors import unknown_name
from training.config import STRICT_KEYS, Fault, Recipe, Weight
from training.criterion import Criterion
from training.data.recipe import UnpairedRecipe
from training.tasks.adversarial import (
    AdversarialLossRecipe,
    DiscriminatorRecipe,
    Judges,
    ramp,
    recipe_checks,
)
from training.tasks.base import Report, adam
from training.tasks.rows import row_faults
from training.tasks.stylelosses import StyleLosses, StyleLossRecipe
from training.tasks.unpaired import UnpairedTask, anchor_distance, folder_faults


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class GanLossRecipe(StyleLossRecipe, AdversarialLossRecipe):
    """``loss:`` of ``task: gan``.

    Attributes:
        anchor: weight of the mean absolute difference of 4 x 4 means to what the network drew when the run began.
        keep: weight of the mean absolute difference of the other styles' pictures to what they were then; draws each
            batch a second time.
    """

    anchor: Weight = 0.0
    keep: Weight = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class GanRecipe(Recipe):
    """``task: gan``.

    Attributes:
        data: photos and pictures, see ``training.data.recipe.UnpairedRecipe``.
        discriminator: see ``DiscriminatorRecipe``.
        learn: the style that the pictures are of; needed when there are several.
        start_style: a style of ``run.init`` whose row the learned one begins with; its styles are else taken by name.
    """

    data: UnpairedRecipe = UnpairedRecipe()
    loss: GanLossRecipe = GanLossRecipe()
    discriminator: DiscriminatorRecipe = DiscriminatorRecipe()
    learn: str | None = None
    start_style: str | None = None

    @property
    def row(self) -> int:
        """Of the learned style."""
        return 0 if self.learn is None else self.styles.index(self.learn)

    @property
    def starts(self) -> Mapping[str, str]:
        """See ``Recipe``."""
        return {} if self.start_style is None else {self.styles[self.row]: self.start_style}

    def checks(self) -> list[Fault]:
        """See ``Recipe.checks``."""
        faults = [*super().checks(), *recipe_checks(self, self.loss, self.discriminator)]
        if self.learn is None and len(self.styles) > 1:
            text = f"learn: say which of the styles {', '.join(self.styles)} the pictures are of."
            faults.append(Fault(text, ("learn", "styles")))
        if self.learn is not None and self.learn not in self.styles:
            faults.append(Fault(f"learn: {unknown_name('style', self.learn, self.styles)}", ("learn", "styles")))
        if self.loss.keep and len(self.styles) == 1:
            faults.append(Fault("loss.keep: there is no other style to keep; leave it out.", ("loss.keep", "styles")))
        faults += self.loss.face_faults(self.data.faces)
        if self.architecture is not None and self.start_style is not None:
            text = f"start_style: {self.architecture} has no rows of styles; leave it out."
            faults.append(Fault(text, ("start_style", "architecture")))
        if self.run.init is None:
            for key, given in (("loss.anchor", self.loss.anchor), ("loss.keep", self.loss.keep)):
                if given:
                    faults.append(Fault(f"{key}: needs run.init, the network to stay near to.", (key, "run.init")))
            if self.start_style is not None:
                text = "start_style: needs run.init, a checkpoint that has this style."
                faults.append(Fault(text, ("start_style", "run.init")))
        return faults


class GanTask(UnpairedTask):
    """Trains ``generator`` on batches of ``training.data.unpaired.UnpairedDataset``.

    Args:
        recipe, report: see ``Task``.
    """

    recipe: GanRecipe
    learned = "trained against discriminators"

    def __init__(self, recipe: GanRecipe, report: Report | None = None) -> None:
        super().__init__(recipe, report)
        self.automatic_optimization = False
        self.judges = Judges(recipe.discriminator, recipe.loss)
        self.criterion = Criterion(recipe.loss)
        held = recipe.loss.anchor or recipe.loss.keep
        self.start = copy.deepcopy(self.generator).eval().requires_grad_(False) if held else None
        self.towards = StyleLosses(recipe.loss)
        self.sets.network = self.towards.network  # one is enough for losses and validation
        self._generator_parts: dict[str, Tensor] = {"loss": torch.zeros(())}

    def on_train_start(self) -> None:
        """See ``Task``; learns the style's statistics, in crops as they will be seen, and its set of features."""
        loader: Any = self.trainer.train_dataloader
        self.towards.learn(loader.dataset)
        super().on_train_start()

    @property
    def learned_style(self) -> int:
        """See ``UnpairedTask``."""
        return self.recipe.row

    def configure_optimizers(self) -> Any:
        """The generator's and the discriminators'."""
        settings = self.recipe.optimizer
        return [adam(self.generator, settings), adam(self.judges, settings, lr=self.recipe.discriminator.lr)]

    def peak(self, number: int) -> float:
        """See ``Task``."""
        return self.recipe.discriminator.lr if number else self.recipe.optimizer.lr

    def kept(self) -> dict[str, Any]:
        """The network that the run began with (``run.init`` may be another file by the time it is resumed), moments,
        and the features of the last pictures.
        """
        made: dict[str, Any] = {} if self.start is None else {"start": self.start.state_dict()}
        return made | self.towards.kept()

    def take(self, kept: dict[str, Any]) -> None:
        """See ``Task``."""
        if self.start is not None:
            self.start.load_state_dict(kept["start"])
        self.towards.take(kept)

    # ------------------------------------------------------------------------------------------------- training

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """The discriminators' update, and in every ``discriminator.updates``-th step the generator's."""
        photo, real = self.picture(batch[0]), batch[1].float() / 255.0
        smoothed = batch[2].float() / 255.0 if self.recipe.loss.negatives and self.recipe.data.smooth else None
        inside = self.towards.inside(batch)
        optimizers: Any = self.optimizers()
        generator, judges = optimizers
        style = self.weights_of(self.recipe.row, len(photo))
        moves = (self.steps_done + 1) % self.recipe.discriminator.updates == 0

        self.toggle_optimizer(judges)
        with torch.no_grad():
            drawn = self.draw(photo, style)
        with self.in_float32():
            parts = self.judges.discriminator_loss(real, drawn.float(), smoothed)
        self.descend(1, parts["discriminator"], batch_idx)
        self.untoggle_optimizer(judges)

        if moves:
            self.toggle_optimizer(generator)
            output = self.draw(photo, style)
            moving = self.temporal(photo, output, lambda frame: self.draw(frame, style))
            with self.in_float32():
                found = self._generator_losses(output.float(), photo, real, style, inside)
            if moving is not None:
                found |= {"loss": found["loss"] + self.recipe.loss.temporal * moving, "temporal": moving}
            if self.recipe.loss.keep:
                found["keep"] = self._kept_styles(photo)
                found["loss"] = found["loss"] + self.recipe.loss.keep * found["keep"]
            self.descend(0, found["loss"], batch_idx)
            self.untoggle_optimizer(generator)
            self._generator_parts = {name: part.detach() for name, part in found.items()}
        # Lines of the log are means over batches: one without an update of the generator repeats the last.
        self.tally({**self._generator_parts, **parts})

    def _generator_losses(
        self, output: Tensor, photo: Tensor, real: Tensor, style: Tensor, inside: Tensor | None
    ) -> dict[str, Tensor]:
        """``loss``, and what it is the weighted sum of, but ``keep``; ``inside`` is the mask of faces."""
        restyled = self.draw(real, style).float() if self.recipe.loss.identity > 0 else None
        parts = self.criterion(output, target=photo, photo=photo, style=real, restyled=restyled)
        total = self.criterion.total(parts) if parts else output.new_zeros(())
        weight = ramp(self.recipe, self.progress())
        parts["adversarial"] = self.judges.generator_loss(output)
        total = total + weight * parts["adversarial"]
        if self.start is not None and self.recipe.loss.anchor:
            with torch.no_grad():
                before = self.start(photo, style)
            parts["anchor"] = anchor_distance(output, before)
            total = total + self.recipe.loss.anchor * parts["anchor"]
        pulled, found = self.towards(output, photo, inside)
        return {"loss": total + pulled, **parts, **found}

    def _kept_styles(self, photo: Tensor) -> Tensor:
        """How far other styles, one by chance for each photo, have moved from where they were."""
        assert self.start is not None  # recipe.loss.keep makes it
        others = [row for row in range(len(self.recipe.styles)) if row != self.recipe.row]
        rows = torch.tensor(others, device=self.device)[torch.randint(len(others), (len(photo),), device=self.device)]
        weights = F.one_hot(rows, len(self.recipe.styles)).float()
        with torch.no_grad():
            before = self.start.raw(photo, weights)
        return (self.draw(photo, weights).float() - before).abs().mean()


def gan_faults(recipe: GanRecipe) -> list[Fault]:
    """What is wrong with a recipe's folders; see ``TaskKind.faults``."""
    return [*folder_faults(recipe), *row_faults(recipe, "start_style")]
