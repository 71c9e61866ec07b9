"""What tasks share that learn a style from pictures which belong to no photo: their folders, and how they are judged.

There is nothing to compare a result with, pixel by pixel. Validation therefore compares *sets*: KID on
EfficientNet-Lite0 features (``training.metrics``) of the drawn photos to the style's pictures. Its score is the share
of the photos' own distance that is gone, ``1 - KID(drawn) / KID(photos)``.
"""

# ruff: noqa: ARG002  Lightning's hooks have fixed signatures
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from training.config import Fault
from training.data.recipe import checks as unpaired_checks
from training.data.store import PictureStore
from training.data.unpaired import UnpairedData, UnpairedDataset, open_unpaired
from training.metrics.features import EffLite0
from training.metrics.kernel import polynomial_mmd
from training.setdistance import SetDistance
from training.statistics import StyleStatistics
from training.tasks.base import Judgement, Report, Samples, Task

#: Side of the means that ``anchor_distance`` compares, px.
_ANCHOR_POOL = 4
#: Pictures of the style that a validation compares with.
STYLE_PICTURES = 256
#: Pictures of the style that ``loss.kid`` knows.
_LEARNED_PICTURES = 1024


class UnpairedTask(Task):
    """A task that learns one style from pictures; what is drawn is judged as a set.

    Args:
        recipe, report: see ``Task``.
    """

    metric, metric_key = "KID gone", "val/kid_gone"
    picture_title = "val/photo and picture"

    def __init__(self, recipe: Any, report: Report | None = None) -> None:
        super().__init__(recipe, report)
        self.sets = SetJudge()

    @property
    def learned_style(self) -> int:
        """Of the recipe's styles, the one that the pictures are of."""
        return 0

    def also_shown(self, photo: Tensor, drawn: Tensor) -> list[Tensor]:
        """What else stands beside a photo and its picture in the curves."""
        return []

    def on_validation_epoch_start(self) -> None:
        """See ``Task``; the first one looks at the style's pictures."""
        super().on_validation_epoch_start()
        self.sets.start()
        loader: Any = self.trainer.val_dataloaders
        self.sets.learn_style(loader.dataset.style_pictures)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """``N x 3 x S x S`` photos, uint8."""
        photo = self.picture(batch)
        with self.in_float32():
            drawn = self.average(photo, self.weights_of(self.learned_style, len(photo)))
            more = self.also_shown(photo, drawn)
        self.sets.add(photo, drawn)
        for row in zip(photo, drawn, *more, strict=True):
            self.show(row)

    def judge(self) -> Judgement:
        """See ``SetJudge``."""
        return self.sets.judge()


class SetJudge:
    """KID-EffLite0 of drawn photos to a style's pictures, held against that of the photos.

    Features of the style and of the photos are taken once.

    Attributes:
        network: whose features they are; made at their first use when the task has none for its losses.
    """

    def __init__(self) -> None:
        self.network: EffLite0 | None = None
        self._style: np.ndarray | None = None
        self._photos: list[np.ndarray] = []
        self._drawn: list[np.ndarray] = []
        self._photo_kid: float | None = None

    def learn_style(self, pictures: Callable[[], Sequence[Tensor]]) -> None:
        """Takes the style's features the first time; ``pictures`` gives ``3 x H x W`` uint8 ones."""
        if self._style is None:
            self._style = np.concatenate([self._features(one[None].float() / 255.0) for one in pictures()])

    def start(self) -> None:
        """A new validation."""
        self._drawn = []

    def add(self, photo: Tensor, drawn: Tensor) -> None:
        """Takes ``N x 3 x H x W`` photos and what was drawn of them, in [0, 1]."""
        if self._photo_kid is None:
            self._photos.append(self._features(photo))
        self._drawn.append(self._features(drawn))

    def judge(self, details: str = "") -> Judgement:
        """The share of the photos' distance to the style that is gone; 1 is the style itself, 0 the photos."""
        assert self._style is not None  # learn_style took it
        if self._photo_kid is None:
            self._photo_kid = polynomial_mmd(_everyones(self._photos), self._style)
            self._photos = []
        kid = polynomial_mmd(_everyones(self._drawn), self._style)
        ratio = kid / max(self._photo_kid, 1e-9)
        figures = {"val/kid": kid, "val/kid_ratio": ratio}
        text = f"KID-EffLite0 {kid:.4f}, {ratio:.0%} of the photos' {self._photo_kid:.4f}"
        return Judgement(score=1.0 - ratio, figures=figures, details=f"{text}{details}")

    @torch.no_grad()
    def _features(self, pictures: Tensor) -> np.ndarray:
        if self.network is None:
            self.network = EffLite0()
        taken: np.ndarray = self.network(pictures.clamp(0, 1)).double().cpu().numpy()
        return taken


def _everyones(features: list[np.ndarray]) -> np.ndarray:
    """The features of all processes that train together: a kernel distance is no sum over parts."""
    own = np.concatenate(features)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return np.concatenate(gathered)


class HeldOutPhotos(Dataset[Tensor]):
    """Photos for validation, ``3 x S x S`` uint8 each, and the pictures that their drawings are held against.

    Args:
        data: of a recipe. Without a validation split its training photos are drawn, cut in the middle.
        most: photos at most, evenly taken.
    """

    def __init__(self, data: UnpairedData, *, most: int = 64) -> None:
        self.data: UnpairedDataset = data.train if data.val is None else data.val
        count = len(self.data)
        self.numbers = [round(place) for place in torch.linspace(0, count - 1, min(most, count)).tolist()]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Tensor:
        return self.data[self.numbers[place]][0]

    def style_pictures(self) -> list[Tensor]:
        """At most ``STYLE_PICTURES`` of the style, each ``3 x H x W`` uint8, whole."""
        return style_pictures(self.data)


def style_pictures(data: UnpairedDataset) -> list[Tensor]:
    """What a validation knows of a style: at most ``STYLE_PICTURES``, each ``3 x H x W`` uint8, whole."""
    return list(whole_pictures(data.pictures, most=STYLE_PICTURES))


def whole_pictures(store: PictureStore, *, most: int) -> Iterator[Tensor]:
    """At most so many pictures, evenly taken, each ``3 x H x W`` uint8, whole."""
    for place in torch.linspace(0, len(store) - 1, min(most, len(store))).round().int().tolist():
        yield torch.from_numpy(store.read(place).transpose(2, 0, 1).copy())


def open_folders(recipe: Any) -> Samples:
    """The folders of a recipe with ``data: UnpairedRecipe``.

    Raises:
        UsageError: folders that are missing, empty or unreadable.
    """
    data = open_unpaired(recipe.data, seed=recipe.run.seed)
    return Samples(training=data.train, validation=HeldOutPhotos(data), notes=data.notes)


def anchor_distance(output: Tensor, before: Tensor) -> Tensor:
    """Mean absolute difference of the 4 x 4 means of two pictures, ``N x 3 x H x W``: ``loss.anchor``."""
    return (F.avg_pool2d(output, _ANCHOR_POOL) - F.avg_pool2d(before, _ANCHOR_POOL)).abs().mean()


def folder_faults(recipe: Any) -> list[Fault]:
    """What is wrong with a recipe's folders; see ``TaskKind.faults``."""
    keys = ("data.photos", "data.pictures", "data.crop", "data.resize", "data.faces")
    return [Fault(text, keys) for text in unpaired_checks(recipe.data)]


def learn_statistics(statistics: StyleStatistics, data: UnpairedDataset, *, crops: int = 240) -> None:
    """Shows the style's crops of a run's first samples, four at a time."""
    shown = [torch.stack([data[number + i][1] for i in range(4)]).float() / 255.0 for number in range(0, crops, 4)]
    statistics.learn(shown)


def learn_set(distance: SetDistance, data: UnpairedDataset) -> None:
    """Shows the style's pictures, whole, as a validation sees them."""
    shown = whole_pictures(data.pictures, most=_LEARNED_PICTURES)
    distance.learn(one[None].float() / 255.0 for one in shown)
