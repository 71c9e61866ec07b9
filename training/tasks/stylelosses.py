"""Losses towards a style that is known by its pictures, and what holds faces against them.

``task: gan``, ``task: personalize`` and ``task: together`` share them. ``statistics`` and ``kid`` compare what is drawn
with the style's pictures as a set, of which no picture belongs to a photo; the others compare with the photo, where it
shows a face or its skin.
"""

from __future__ import annotations

from typing import Any

from pydantic.dataclasses import dataclass
from torch import Tensor

from training.config import STRICT_KEYS, Fault, Share, Weight
from training.data.unpaired import UnpairedDataset
from training.likeness import FACE_LOSSES, View
from training.metrics.features import EffLite0
from training.setdistance import SetDistance
from training.statistics import StyleStatistics
from training.tasks.unpaired import learn_set, learn_statistics


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class StyleLossRecipe:
    """What ``loss:`` has where a style is learned from pictures.

    Attributes:
        statistics: weight of the distance to the pictures' feature statistics (``training.statistics``).
        kid: weight of the kernel distance to the set of the pictures, what a validation measures
            (``training.setdistance``).
        faces: weight of ``training.likeness.face_features``: eyes, brows and mouths stay; needs ``data.faces``.
        face_tone: weight of ``training.likeness.face_tone``: faces keep their tone; needs ``data.faces``.
        skin_tone: weight of ``training.likeness.skin_tone``: foreheads, ears and throats, too; needs ``data.faces``.
        skin_marks: weight of ``training.likeness.skin_marks``: skin gets no new lines and patches; needs
            ``data.faces``.
        skin_steps: weight of ``training.likeness.skin_steps``: light on skin gets no new edges; needs ``data.faces``.
        heads: weight of ``training.likeness.heads``: skin and dark hair are drawn as in the photo, or in the picture
            that stands for it (``like`` of ``task: together``); needs ``data.faces``.
        bare_skin: weight of ``training.likeness.bare_skin``: the same for arms, hands and legs; needs ``data.faces``.
        body_marks: weight of ``training.likeness.body_marks``: clothes get no new strokes; needs ``data.faces``.
        spare: the share of the pull of ``statistics`` and ``kid`` that skin and dark hair of heads are spared, 0 to 1.
            They see the whole picture all the same, so that a set is compared with a set; needs ``data.faces``.
    """

    statistics: Weight = 0.0
    kid: Weight = 0.0
    faces: Weight = 0.0
    face_tone: Weight = 0.0
    skin_tone: Weight = 0.0
    skin_marks: Weight = 0.0
    skin_steps: Weight = 0.0
    heads: Weight = 0.0
    bare_skin: Weight = 0.0
    body_marks: Weight = 0.0
    spare: Share = 0.0

    def in_faces(self) -> dict[str, float]:
        """The losses in faces and on skin that count, with their weights."""
        return {name: getattr(self, name) for name in FACE_LOSSES if getattr(self, name) > 0}

    def asks_for_faces(self) -> list[str]:
        """The keys that count and look at the mask of faces, heads and bodies."""
        return [*self.in_faces(), *(["spare"] if self.spare else [])]

    def face_faults(self, faces: str | None) -> list[Fault]:
        """What is wrong when ``data.faces`` is this: losses in faces want a list of them."""
        if faces is not None:
            return []
        text = "needs data.faces; write the list with `python -m training.metrics.faces`."
        return [Fault(f"loss.{name}: {text}", (f"loss.{name}", "data.faces")) for name in self.asks_for_faces()]


class StyleLosses:
    """The losses, with what they remember of the style and of the last steps.

    Args:
        loss: their weights.
        network: EfficientNet-Lite0 when there is one already; ``None`` makes one where it is needed.

    Attributes:
        network: whose features they compare; ``None`` when neither ``statistics`` nor ``kid`` counts.

    Raises:
        MissingRuntimeError: when the package with the network's weights is needed and not installed.
    """

    def __init__(self, loss: StyleLossRecipe, network: EffLite0 | None = None) -> None:
        self._loss = loss
        self.network = (network or EffLite0()) if loss.statistics or loss.kid else None
        self.statistics = StyleStatistics(self.network) if loss.statistics else None
        self.distance = SetDistance(self.network) if loss.kid else None

    def learn(self, data: UnpairedDataset) -> None:
        """Looks at the style's pictures: crops as they will be seen, and the set as a validation sees it."""
        if self.statistics is not None:
            learn_statistics(self.statistics, data)
        if self.distance is not None:
            learn_set(self.distance, data)

    def inside(self, batch: Any) -> Tensor | None:
        """The mask of faces, heads and bodies of a batch, ``N x 3 x H x W`` in [0, 1], when a loss looks at it.

        It is the last part of a sample (``UnpairedDataset.parts``).
        """
        return batch[-1].float() / 255.0 if self._loss.asks_for_faces() else None

    def __call__(
        self, output: Tensor, photo: Tensor, inside: Tensor | None, like: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses that count, and each of them, not weighted, by name.

        Args:
            output, photo: ``N x 3 x H x W`` RGB, the photo in [0, 1].
            inside: see ``inside``.
            like: the picture, of the photo's shape, that heads and bodies are drawn like; the photo by default.
        """
        found: dict[str, Tensor] = {}
        pulled = output
        view = None if inside is None else View(output, photo, inside, like)
        if view is not None and self._loss.spare:
            spared = self._loss.spare * view.skin_and_hair
            pulled = spared * output.detach() + (1.0 - spared) * output
        if self.statistics is not None:
            found["statistics"] = self.statistics(pulled)
        if self.distance is not None:
            found["kid"] = self.distance(pulled)
        if view is not None:
            found |= {name: FACE_LOSSES[name](view) for name in self._loss.in_faces()}
        weighted = [getattr(self._loss, name) * part for name, part in found.items()]
        return sum(weighted, output.new_zeros(())), found

    def kept(self) -> dict[str, Any]:
        """Moments, and the features of the last pictures, for a run that is resumed."""
        return {name: measure.kept() for name, measure in self._measures().items()}

    def take(self, kept: dict[str, Any]) -> None:
        """The inverse of ``kept``."""
        for name, measure in self._measures().items():
            measure.take(kept[name])

    def _measures(self) -> dict[str, Any]:
        """What compares drawn pictures with the style's set and remembers those of earlier steps."""
        measures = {"statistics": self.statistics, "distance": self.distance}
        return {name: measure for name, measure in measures.items() if measure is not None}
