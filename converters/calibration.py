"""Calibration: the photos and styles that give int8 its ranges.

The set is ordered and hashed, so that a bundle can say which pictures its ranges come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdk.errors import UsageError
from sdk.imaging import centre_crop, list_photos, read_photo, resize
from sdk.spec import check_size

#: The photos that ship with the repository (licences in the folder).
DEFAULT_PHOTOS = Path(__file__).parent.parent / "edge_tests" / "photos" / "calibration"
#: Fewer photos leave the ranges of a style to chance.
MIN_PHOTOS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationSet:
    """Photos and the style weights each is shown with, in a fixed order.

    Attributes:
        photos: ``P x H x W x 3`` float32, RGB, [0, 1].
        pairs: (photo index, style weights of S float32) in the order of calibration.
        sha256: over size, 8-bit pictures and style weights in order.
    """

    photos: np.ndarray
    pairs: tuple[tuple[int, np.ndarray], ...]
    sha256: str

    def __len__(self) -> int:
        """Photo x style pairs."""
        return len(self.pairs)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the photos in pixels."""
        return int(self.photos.shape[1]), int(self.photos.shape[2])

    def samples(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs in order: ``1 x H x W x 3`` float32 in [0, 1], ``1 x S`` float32."""
        for index, style in self.pairs:
            yield self.photos[index : index + 1], style[None]

    def tensors(self, *, baked: bool) -> Iterator[tuple[Tensor, ...]]:
        """Arguments of a ``DeployGraph``: contiguous ``1 x 3 x H x W`` and, unless ``baked``, ``1 x S``."""
        for photo, style in self.samples():
            image = torch.from_numpy(np.ascontiguousarray(photo.transpose(0, 3, 1, 2)))
            yield (image,) if baked else (image, torch.from_numpy(style.copy()))


def load_calibration(
    folder: Path = DEFAULT_PHOTOS,
    *,
    size: tuple[int, int],
    styles: int,
    style: np.ndarray | None = None,
    photos_per_style: int | None = None,
    seed: int = 0,
) -> CalibrationSet:
    """Reads a folder of photos (not its subfolders).

    Args:
        folder: at least 16 photos.
        size: (height, width) in pixels the graph is exported for; photos are cropped to its shape and resized.
        styles: S, rows of the network.
        style: the baked style's weights: every photo is shown once. ``None``: with every style.
        photos_per_style: at most this many photos a style (>= 16), dealt out in turn so that all photos are used;
            ``None``: every photo with every style.
        seed: of the order of the photos.

    Raises:
        UsageError: the folder is missing, holds fewer than 16 photos, or holds broken ones (all are named).
    """
    check_size(*size)
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(
            f"the calibration folder {folder} does not exist: give a folder of at least {MIN_PHOTOS} photos."
        )
    paths = list_photos(folder)
    if len(paths) < MIN_PHOTOS:
        raise UsageError(
            f"the calibration folder {folder} holds {len(paths)} photos: give at least {MIN_PHOTOS}, so that ranges "
            "are not left to chance."
        )
    if photos_per_style is not None and photos_per_style < MIN_PHOTOS:
        raise UsageError(f"{photos_per_style} photos a style are too few for calibration: give at least {MIN_PHOTOS}.")
    pictures, broken = [], []
    for path in paths:
        try:
            pictures.append(_read(path, size))
        except UsageError:  # what read_photo raises for a file that is no whole picture
            broken.append(path.name)
    if broken:
        raise UsageError(
            f"{len(broken)} of {len(paths)} calibration photos in {folder} cannot be read ({', '.join(broken)}): "
            "replace or remove them."
        )
    return build_calibration(
        np.stack(pictures), styles=styles, style=style, photos_per_style=photos_per_style, seed=seed
    )


def build_calibration(
    pictures: np.ndarray,
    *,
    styles: int,
    style: np.ndarray | None = None,
    photos_per_style: int | None = None,
    seed: int = 0,
) -> CalibrationSet:
    """The set of pictures already in memory, ``P x H x W x 3`` uint8 RGB; arguments as for ``load_calibration``."""
    order = np.random.default_rng(seed).permutation(len(pictures))
    pictures = np.ascontiguousarray(pictures[order])
    count = len(pictures)
    rows = np.eye(styles, dtype=np.float32) if style is None else np.asarray(style, dtype=np.float32).reshape(1, styles)
    each = min(count, photos_per_style or count)
    pairs = [
        ((turn * each + k) % count, row)
        for k in range(each)
        for turn, row in enumerate(rows)  # styles alternate, so that no observer sees one style for long
    ]
    digest = hashlib.sha256(repr(pictures.shape[1:]).encode())
    for index, row in pairs:
        digest.update(pictures[index].tobytes())
        digest.update(row.astype("<f4").tobytes())
    return CalibrationSet(
        photos=pictures.astype(np.float32) / np.float32(255), pairs=tuple(pairs), sha256=digest.hexdigest()
    )


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    """``H x W x 3`` uint8 RGB: the largest centred crop of the wanted shape, resized as everywhere in the project."""
    height, width = size
    return resize(centre_crop(read_photo(path).rgb, width / height), height, width)
