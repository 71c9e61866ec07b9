"""Recovery: a network that lost channels learns to draw again what it drew when it was whole.

Distillation (``training.tasks.distill``) with another teacher: the parent network, asked for its picture of the very
crop that the pruned one sees, noise, mix of styles and all (Beyer et al. 2022, arXiv:2106.05237, "consistent"
teaching). So any photo will do; none has to be rendered.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sdk.imaging import resize
from training.checkpoint import CheckpointInfo
from training.config import DistillRecipe, make_recipe
from training.data.pairs import Shard
from training.models.generator import Generator, GeneratorConfig
from training.models.norm import ConditionalNorm2d
from training.tasks.base import Report, norms
from training.tasks.distill import DistillTask


class RecoverTask(DistillTask):
    """Trains a pruned network towards its parent.

    Args:
        recipe, report: see ``DistillTask``; ``recipe.run.init`` is the pruned network.
        parent: the network before pruning.
        info: what the saved network says of itself; a line on the recovery is added.
        teacher_share: weight of the rendered teacher's picture in the target, [0, 1]; the rest is the parent's.
    """

    #: A recipe of this task never has an ``architecture``.
    generator: Generator
    average: Generator
    learned = "recovered by distillation from the unpruned network"

    def __init__(
        self,
        recipe: DistillRecipe,
        report: Report | None = None,
        *,
        parent: Generator,
        info: CheckpointInfo,
        teacher_share: float = 0.0,
    ) -> None:
        super().__init__(recipe, report)
        whole = copy.deepcopy(parent).eval().requires_grad_(False)
        if recipe.run.channels_last:
            whole = whole.to(memory_format=torch.channels_last)
        self._parent = (whole,)  # in a tuple, so that it is no part of what a run saves
        self._info = info
        self.teacher_share = teacher_share

    def target(self, image: Tensor, style: Tensor, teacher: Tensor) -> Tensor:
        """The parent's picture, blended with the teacher's; see ``teacher_share``."""
        with torch.no_grad():
            drawn = self._parent[0].to(image.device)(image, style)
            return torch.lerp(drawn, teacher, self.teacher_share) if self.teacher_share else drawn

    def info(self) -> CheckpointInfo:
        """What the saved network says of itself."""
        line = self.story()
        if self.teacher_share:
            line += f", {self.teacher_share:.0%} of the target the rendered teachers'"
        return dataclasses.replace(self._info, provenance=(*self._info.provenance, line))


def recovery_recipe(
    name: str,
    info: CheckpointInfo,
    config: GeneratorConfig,
    *,
    out: str,
    crop: int,
    batch: int,
    steps: int,
    minutes: float | None,
    validate_every: int,
    seed: int,
    threads: int,
    optimizer: Mapping[str, float],
    init: Path | None,
) -> DistillRecipe:
    """The recipe of a network that learns from its parent, in styles and mixes of them.

    Args:
        name: of the run.
        info: version and styles.
        config: of the network that learns.
        out: folder of the run.
        crop, batch: px, and crops a step.
        steps: optimizer steps, when there are no ``minutes``.
        minutes: of training, or ``None``.
        validate_every: steps between validations.
        seed, threads: of the run.
        optimizer: its keys.
        init: checkpoint to start from; ``None``: random weights.
    """
    made = make_recipe({
        "name": name,
        "version": info.version,
        "styles": list(info.styles),
        "generator": {key: value for key, value in config.to_dict().items() if key != "styles"},
        "data": {"crop": crop, "batch": batch, "mix_share": 0.25},
        "loss": {"l1": 1.0, "gradient": 1.0, "ssim": 1.0},
        "optimizer": dict(optimizer),
        "run": {
            "out": out,
            "steps": steps if minutes is None else 10_000_000,
            "anneal": "steps" if minutes is None else "minutes",
            "validate_every": validate_every,
            "seed": seed,
            "threads": threads,
            "channels_last": True,
            **({} if minutes is None else {"minutes": minutes}),
            **({} if init is None else {"init": str(init)}),
        },
    })  # fmt: skip
    assert isinstance(made, DistillRecipe)  # the task of a recipe that names none
    return made


@torch.no_grad()
def reestimate_statistics(generator: Generator, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Takes the norms' population statistics anew, as plain means over batches.

    A cut changes what comes out of a convolution; the statistics of the whole network then shift every picture.

    Args:
        generator: is changed in place, and left in eval mode.
        batches: images ``N x 3 x H x W`` in [0, 1] and style weights ``N x S``.
    """
    kept = [(norm, norm.momentum) for norm in norms(generator) if isinstance(norm, nn.BatchNorm2d | ConditionalNorm2d)]
    generator.eval()
    for number, (image, style) in enumerate(batches, start=1):
        for norm, _ in kept:
            norm.train()
            norm.momentum = 1.0 / number  # the mean of all batches so far
        generator.raw(image, style)
    for norm, momentum in kept:
        norm.momentum = momentum  # type: ignore[assignment]  # each its own
    generator.eval()


def photo_shard(photos: Iterable[np.ndarray], styles: int, *, size: int, views: int = 4, seed: int = 0) -> Shard:
    """Views of photos, as rendered pairs without a teacher: the photo itself stands in for each style's picture.

    Args:
        photos: ``H x W x 3`` uint8 RGB.
        styles: S.
        size: side of a view, px.
        views: of each photo: its middle, and random squares of 40 to 100 % of its shorter side.
        seed: of the squares.
    """
    rng = np.random.default_rng(seed)
    made = []
    for photo in photos:
        shorter = min(photo.shape[:2])
        for number in range(views):
            side = shorter if number == 0 else int(rng.integers(max(1, shorter * 2 // 5), shorter + 1))
            room = [extent - side for extent in photo.shape[:2]]
            top, left = [extra // 2 for extra in room] if number == 0 else [int(rng.integers(0, e + 1)) for e in room]
            made.append(resize(np.ascontiguousarray(photo[top : top + side, left : left + side]), size, size))
    stacked = np.stack(made)
    return Shard(stacked, (stacked,) * styles)
