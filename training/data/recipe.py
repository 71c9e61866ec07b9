"""The keys of a recipe that say which unpaired pictures a task learns from, and everything wrong with them at once.

It is the ``data:`` of every task that learns from folders of pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass

from sdk.errors import ToonEdgeError
from training.config import STRICT_KEYS, SharedData
from training.data.conditions import CONDITIONS, condition, segmenter
from training.data.folders import open_photos, open_pictures
from training.data.store import ENLARGE, too_small
from training.metrics.faces import read_faces

#: So many files, evenly spread, are asked for their size before a run; opening the store looks at all of them.
_LOOKED_AT = 500


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class UnpairedRecipe(SharedData):
    """``data:`` of a task that learns from photos and pictures that do not belong together.

    Attributes:
        photos: folder of photos, of any layout ``training.data.folders`` knows.
        pictures: folder of a style's pictures, any tree.
        split: the photos' split that is learned from, where the folder has splits.
        val_split: the photos' split for validation, where the folder has it.
        resize: short side to which every picture is scaled once, px.
        crop: side of a random crop, px, divisible by 16.
        flip: half of the crops are mirrored.
        zoom: smallest share of a picture's short side that a crop may take, all of it at most, scaled to ``crop``; 1
            cuts ``crop`` pixels as they are.
        light: photos are lit anew: raised to a power (of [0, 1]) between ``2^-light`` and ``2^light``, even in the
            exponent; 0 leaves them as they are. A few people stand for lighter and darker skin.
        enlarge: most a picture is enlarged to reach ``resize``; smaller ones are named and skipped.
        smooth: adds the style picture's edge-smoothed twin (CartoonGAN's negatives).
        conditions: names of ``training.data.conditions.CONDITIONS``, drawn from the photo.
        segmentation: .tflite file for the conditions ``selfie`` and ``semantic``; ``None``: mediapipe's.
        faces: list of the faces of all photos of ``split`` (``python -m training.metrics.faces``), for losses that look
            at faces; ``None``: there is no such mask.
        batch: pairs of crops a step.
        workers: loader processes, for the first reading, too; 0 loads in the training process.
        cache: folder for the scaled pictures.
        cache_mb: most megabytes (10^6 bytes) of it that the photos, and that the pictures, may take; what does not fit
            is decoded whenever it is read.
    """

    photos: str = "data/content"
    pictures: str = "data/styles"
    split: str = "train"
    val_split: str = "val"
    resize: Annotated[int, Field(ge=32)] = 256
    crop: Annotated[int, Field(ge=32, multiple_of=16)] = 224
    flip: bool = True
    zoom: Annotated[float, Field(gt=0, le=1)] = 1.0
    light: Annotated[float, Field(ge=0, le=2)] = 0.0
    enlarge: Annotated[float, Field(ge=1)] = ENLARGE
    smooth: bool = True
    conditions: tuple[str, ...] = ()
    segmentation: str | None = None
    faces: str | None = None
    batch: Annotated[int, Field(ge=1)] = 8
    workers: Annotated[int, Field(ge=0)] = 0
    cache: str = "data/cache"
    cache_mb: Annotated[int, Field(ge=0)] = 2000

    @property
    def model(self) -> Path | None:
        """``segmentation`` as a path."""
        return None if self.segmentation is None else Path(self.segmentation)


def checks(recipe: UnpairedRecipe, *, prefix: str = "data.") -> list[str]:
    """Everything wrong with a recipe and the folders it names, one sentence each; empty when nothing is.

    Args:
        recipe: keys of the right types and ranges.
        prefix: stands before the keys' names.
    """
    faults = []
    if recipe.crop > recipe.resize:
        faults.append(
            f"{prefix}crop: {recipe.crop} is larger than the pictures, which are scaled to a short side of "
            f"{recipe.resize} px; give a crop of at most {recipe.resize // 16 * 16}, or a larger {prefix}resize."
        )
    for name in sorted({name for name in recipe.conditions if recipe.conditions.count(name) > 1}):
        faults.append(f"{prefix}conditions: {name!r} is named twice; name each once.")
    faults += _faults(f"{prefix}conditions", [partial(condition, name) for name in recipe.conditions])
    if recipe.segmentation is not None or any(
        CONDITIONS[name].segments for name in recipe.conditions if name in CONDITIONS
    ):
        faults += _faults(f"{prefix}segmentation", [lambda: segmenter(recipe.model)])
    opened: dict[str, tuple[Path, ...]] = {}

    def photos() -> None:
        opened["photos"] = open_photos(Path(recipe.photos)).split(recipe.split)

    def pictures() -> None:
        opened["pictures"] = open_pictures(Path(recipe.pictures)).files

    for key, open_folder in (("photos", photos), ("pictures", pictures)):
        faults += _faults(f"{prefix}{key}", [open_folder])
        if key in opened:
            faults += _size_faults(f"{prefix}{key}", opened[key], recipe)
    if recipe.faces is not None:
        faults += _faults(f"{prefix}faces", [partial(read_faces, Path(recipe.faces), opened.get("photos", ()))])
    return faults


def _faults(key: str, attempts: Sequence[Callable[[], object]]) -> list[str]:
    faults = []
    for attempt in attempts:
        try:
            attempt()
        except ToonEdgeError as error:
            faults.append(f"{key}: {error}")
    return faults


def _size_faults(key: str, files: Sequence[Path], recipe: UnpairedRecipe) -> list[str]:
    """A fault when none of the pictures is large enough; single small or broken ones are skipped when they are read."""
    picked = np.unique(np.linspace(0, len(files) - 1, min(len(files), _LOOKED_AT)).round().astype(int))
    largest: tuple[int, int] | None = None
    for index in picked:
        size = _size(files[index])
        if size is None:
            continue
        if too_small(*size, side=recipe.resize, enlarge=recipe.enlarge) is None:
            return []
        if largest is None or min(size) > min(largest):
            largest = size
    if largest is None:  # nothing that says its size: reading will name the reasons
        return []
    return [
        f"{key}: the pictures are too small for crops of {recipe.crop} px: the largest "
        f"{too_small(*largest, side=recipe.resize, enlarge=recipe.enlarge)}; give larger pictures, a smaller resize "
        "and crop, or a larger enlarge."
    ]


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width out of a file's head; ``None`` when it does not tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about large pictures and odd metadata
            with Image.open(path) as image:
                width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (height, width) if height and width else None
