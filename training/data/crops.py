"""Where a picture is cut: at random, or in the middle for validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sdk.errors import UsageError
from sdk.imaging import resize
from training.data.store import PictureStore


@dataclass(frozen=True, kw_only=True)
class Window:
    """A square part of a picture.

    Attributes:
        top, left: its first row and column, px.
        side: of the square, px.
        mirror: left and right swapped.
        scaled: side that the part is scaled to, px; ``None`` leaves it as it is.
    """

    top: int
    left: int
    side: int
    mirror: bool = False
    scaled: int | None = None

    def cut(self, planes: np.ndarray) -> np.ndarray:
        """The part of ``C x H x W``, as ``C x S x S``, C-contiguous, never a view of the picture; S is ``scaled``."""
        part = planes[:, self.top : self.top + self.side, self.left : self.left + self.side]
        if self.scaled is not None and self.scaled != self.side:
            part = resize(part.transpose(1, 2, 0), self.scaled, self.scaled).transpose(2, 0, 1)
        return np.array(part[..., ::-1] if self.mirror else part, order="C")


class Crop(Protocol):
    """Chooses a window."""

    @property
    def side(self) -> int:
        """Of what every window gives, px."""

    def window(self, height: int, width: int, rng: np.random.Generator) -> Window:
        """A window inside of a picture of ``height`` x ``width`` px."""


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """The customary one: any place, mirrored half of the time.

    Attributes:
        side: of the square, px, at most the picture's short side.
        flip: whether it is mirrored by chance.
        zoom: below 1, the square is of any size from this share of the picture's short side to all of it, and is scaled
            to ``side``; 1 cuts ``side`` pixels as they are.
    """

    side: int = 224
    flip: bool = True
    zoom: float = 1.0

    def window(self, height: int, width: int, rng: np.random.Generator) -> Window:
        """See ``Crop``; draws three numbers from ``rng``, and with a zoom a fourth before them."""
        side, scaled = self.side, None
        if self.zoom < 1:
            short = min(height, width)
            side, scaled = int(rng.integers(max(1, round(self.zoom * short)), short + 1)), self.side
        top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        return Window(top=top, left=left, side=side, mirror=bool(rng.random() < 0.5) and self.flip, scaled=scaled)


@dataclass(frozen=True, kw_only=True)
class MiddleCrop:
    """The middle, never mirrored: the same each time.

    Attributes:
        side: of the square, px, at most the picture's short side.
    """

    side: int = 224

    def window(self, height: int, width: int, rng: np.random.Generator) -> Window:  # noqa: ARG002
        """See ``Crop``; draws nothing."""
        return Window(top=(height - self.side) // 2, left=(width - self.side) // 2, side=self.side)


def check_crop(crop: Crop, store: PictureStore) -> None:
    """Refuses a crop that is larger than a store's pictures.

    Raises:
        UsageError: names both sizes.
    """
    if crop.side > store.side:
        raise UsageError(
            f"crop {crop.side} is larger than the pictures of {store.root}, whose short side is scaled to {store.side} "
            f"px: give a crop of at most {store.side}, or scale them to {crop.side} px."
        )
