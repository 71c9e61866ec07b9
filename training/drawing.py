"""What checkpoints and their teachers draw of held-out photos, to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdk.errors import UsageError
from sdk.imaging import read_photo, resize
from training.checkpoint import Checkpoint, NamedCheckpoint
from training.data.render import halve
from training.filters import FILTERS, render_all
from training.metrics.detail import Region
from training.metrics.faces import Face
from training.metrics.features import tensor_of
from training.metrics.flicker import MOTIONS, flicker

#: Faces with a shorter side, px at the working size, are too small to judge.
MIN_FACE = 16


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a photo of any size is scaled and cropped for teacher and network.

    Attributes:
        height, width: of the photo scaled for the teacher, px.
        top, left: where the crop starts in it.
        tall, wide: size of the crop; the network's input is half of it.
    """

    height: int
    width: int
    top: int
    left: int
    tall: int
    wide: int

    def region(self, face: Face) -> Region | None:
        """A face box in the network's input; ``None`` when less than ``MIN_FACE`` px of a side is left of it."""
        box = face.region(self.height, self.width)
        rows = [min(max((row - self.top) // 2, 0), self.tall // 2) for row in (box.top, box.bottom)]
        columns = [min(max((column - self.left) // 2, 0), self.wide // 2) for column in (box.left, box.right)]
        if min(rows[1] - rows[0], columns[1] - columns[0]) < MIN_FACE:
            return None
        return Region(top=rows[0], bottom=rows[1], left=columns[0], right=columns[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """One photo and its teachers' pictures, all ``H x W x 3`` uint8 RGB of one size: what every network is judged by.

    Attributes:
        name: file name of the photo.
        photo: the network's input.
        teachers: by style, of those that have one.
        faces: boxes in the pictures, and who each is.
    """

    name: str
    photo: np.ndarray
    teachers: dict[str, np.ndarray]
    faces: tuple[tuple[Region, str], ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Drawn(Scene):
    """A scene with a network's pictures, of the photo's size.

    Attributes:
        results: by style, of those that the network has.
        flicker: by style, mean over the motions; empty when it was not asked for.
    """

    results: dict[str, np.ndarray]
    flicker: dict[str, float] = field(default_factory=dict)


def frame(height: int, width: int, size: int) -> Framing:
    """The framing of a photo of ``height x width`` px; see ``working_pair``.

    Raises:
        UsageError: a side is shorter than 64 px.
    """
    scale = 2 * size / max(height, width)
    if scale < 1:
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
    tall, wide = height // 32 * 32, width // 32 * 32
    if min(tall, wide) < 64:
        raise UsageError(f"a photo of {width} x {height} px is too small to judge a style on: give at least 64 px.")
    return Framing(height=height, width=width, top=(height - tall) // 2, left=(width - wide) // 2, tall=tall, wide=wide)


def working_pair(rgb: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo as the teacher's input and as the network's.

    Args:
        rgb: ``H x W x 3`` uint8 RGB.
        size: longest side of the network's input, px; a smaller photo is not enlarged.

    Returns:
        ``2h x 2w x 3`` and ``h x w x 3`` uint8 RGB, h and w divisible by 16, the middle of the photo.

    Raises:
        UsageError: a side is shorter than 64 px.
    """
    framing = frame(rgb.shape[0], rgb.shape[1], size)
    if rgb.shape[:2] != (framing.height, framing.width):
        rgb = resize(rgb, framing.height, framing.width)
    rows = slice(framing.top, framing.top + framing.tall)
    columns = slice(framing.left, framing.left + framing.wide)
    double = np.ascontiguousarray(rgb[rows, columns])
    return double, halve(double)


def scene(path: Path, styles: Sequence[str], size: int, *, faces: Sequence[Face] = ()) -> Scene:
    """A photo file as networks get it, and what the teachers draw of it.

    Args:
        path: of the photo.
        styles: names; those without a classical teacher are passed over.
        size: longest side of the network's input, px.
        faces: boxes in the photo.

    Raises:
        UsageError: the photo is unreadable, or a side is shorter than 64 px.
    """
    rgb = read_photo(path).rgb
    double, photo = working_pair(rgb, size)
    framing = frame(rgb.shape[0], rgb.shape[1], size)
    boxes = [(framing.region(face), face.person or path.name) for face in faces]
    return Scene(
        name=path.name,
        photo=photo,
        teachers=render_all(double, [style for style in styles if style in FILTERS]),
        faces=tuple((region, person) for region, person in boxes if region is not None),
    )


def draw(
    checkpoint: Checkpoint | NamedCheckpoint, given: Scene, styles: Sequence[str], *, moving: bool = False
) -> Drawn:
    """A network's pictures of a scene.

    Args:
        checkpoint: the network and its styles.
        given: see ``scene``.
        styles: some of the checkpoint's.
        moving: draw the frames that flicker is measured on, too.
    """
    image = tensor_of(given.photo)
    rows = checkpoint.info.styles
    results, flickers = {}, {}
    with torch.inference_mode():
        for style in styles:
            weights = torch.zeros(1, len(rows))
            weights[0, rows.index(style)] = 1.0

            def stylize(picture: Tensor, weights: Tensor = weights) -> Tensor:
                return checkpoint.generator(picture, weights)

            values = stylize(image)[0].permute(1, 2, 0).numpy()
            results[style] = (values * 255 + 0.5).astype(np.uint8)
            if moving:
                flickers[style] = float(np.mean([flicker(stylize, image, motion) for motion in MOTIONS]))
    return Drawn(
        name=given.name,
        photo=given.photo,
        teachers=given.teachers,
        faces=given.faces,
        results=results,
        flicker=flickers,
    )
