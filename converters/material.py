"""Photos for a network that learns from its parent: those it learns from, those that decide and those that only report.

The three sets share no photo. How near a network is to its parent is SSIM of its pictures to the parent's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from converters.calibration import DEFAULT_PHOTOS
from converters.prune_steps import Similarity
from sdk.errors import UsageError
from sdk.imaging import list_photos, read_photo
from sdk.metrics import ssim
from sdk.sheet import contact_sheet
from sdk.verify import load_photos
from training.checkpoint import Checkpoint
from training.data.pairs import Shard, ViewDataset, open_shards
from training.tasks.recover import photo_shard

#: Photos that report and decide nothing.
TEST_PHOTOS = DEFAULT_PHOTOS.parent / "test"
#: At most this many photos decide.
_DECIDING = 32


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where photos come from.

    Attributes:
        photos: folder of photos to learn from.
        pairs: folder of rendered pairs to learn from instead; its ``val`` then decides.
        validation: folder of photos that decide; ``None``: every fourth of ``photos`` is held out for it.
        test: folder of photos that only report; ``None``: none.
    """

    photos: Path = DEFAULT_PHOTOS
    pairs: Path | None = None
    validation: Path | None = None
    test: Path | None = TEST_PHOTOS


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Photos, and what the parent makes of them.

    Attributes:
        learnt: views to learn from.
        deciding, test: ``P x H x W x 3`` float32, RGB, [0, 1].
        wanted, test_wanted: the parent's pictures of them, ``S x P x H x W x 3`` float32, RGB, [0, 1].
    """

    learnt: list[Shard]
    deciding: np.ndarray
    wanted: np.ndarray
    test: np.ndarray | None
    test_wanted: np.ndarray | None

    def views(self) -> ViewDataset:
        """A few deciding photos with the parent's pictures, for the validations of a run."""
        eight_bit = [(stack * 255 + 0.5).astype(np.uint8) for stack in (self.deciding, *self.wanted)]
        return ViewDataset([Shard(eight_bit[0], tuple(eight_bit[1:]))], limit=8)


def read_material(parent: Checkpoint, sources: Sources, *, size: int, crop: int, seed: int) -> Material:
    """Reads photos and draws them with the parent.

    Args:
        parent: the network to learn from.
        sources: see ``Sources``.
        size: side of the square that photos are judged at, px.
        crop: side of a training crop, px.
        seed: of the views that are cut from photos.

    Raises:
        UsageError: folders without photos or pairs, photos that cannot be read.
    """
    judged = (size, size)
    styles = parent.info.styles
    deciding = None
    if sources.validation is not None:
        deciding = load_photos(_spread(list_photos(sources.validation, recursive=True)), judged)
    if sources.pairs is not None:
        learnt = open_shards(sources.pairs / "train", styles)
        if deciding is None:
            views = ViewDataset(open_shards(sources.pairs / "val", styles), limit=_DECIDING, size=size)
            stacked = [views[index][0].permute(1, 2, 0).numpy() for index in range(len(views))]
            deciding = np.stack(stacked).astype(np.float32) / np.float32(255)
    else:
        photos = list_photos(sources.photos, recursive=True)
        if deciding is None:
            if len(photos) < 2:
                raise UsageError(
                    f"photo folder {sources.photos} holds 1 photo, and some are held out to decide: put more into it, "
                    "or give --validation, another folder."
                )
            deciding = load_photos(_spread(photos[::4]), judged)
            photos = tuple(photo for index, photo in enumerate(photos) if index % 4)
        views_each = max(1, min(4, 800 // len(photos)))
        learnt = [
            photo_shard(
                (read_photo(photo).rgb for photo in photos),
                len(styles),
                size=max(size, crop),
                views=views_each,
                seed=seed,
            )
        ]
    tested = None if sources.test is None else load_photos(list_photos(sources.test, recursive=True), judged)
    network, rows = parent.generator, len(styles)
    return Material(
        learnt=learnt,
        deciding=deciding,
        wanted=draw(network, deciding, styles=rows),
        test=tested,
        test_wanted=None if tested is None else draw(network, tested, styles=rows),
    )


def draw(network: Callable[[Tensor, Tensor], Tensor], photos: np.ndarray, *, styles: int) -> np.ndarray:
    """A network's pictures in each of its ``styles``: ``P x H x W x 3`` to ``S x P x H x W x 3`` float32, [0, 1]."""
    images = torch.from_numpy(np.ascontiguousarray(photos.transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        return np.stack([
            np.stack([network(image[None], row[None])[0].permute(1, 2, 0).numpy() for image in images])
            for row in torch.eye(styles)
        ])  # fmt: skip


def side_by_side(
    photos: np.ndarray, parent: np.ndarray, pruned: np.ndarray, *, styles: Sequence[str], title: str, most: int = 6
) -> Image.Image:
    """A contact sheet: a row a photo; the photo, then each style as the parent and as its successor draw it.

    Args:
        photos: ``P x H x W x 3`` float32, RGB, [0, 1].
        parent, pruned: ``S x P x H x W x 3``, as ``draw`` gives them.
        styles: S names.
        title: one line above all.
        most: photos that are shown, evenly taken from all.
    """
    shown = np.unique(np.linspace(0, len(photos) - 1, min(most, len(photos))).round().astype(int))
    rows = [[photos[i], *(made[i] for pair in zip(parent, pruned, strict=True) for made in pair)] for i in shown]
    headings = [heading for style in styles for heading in (f"{style}: parent", f"{style}: pruned")]
    return contact_sheet(rows, columns=["photo", *headings], title=title, cell=160)


def similarity(network: Callable[[Tensor, Tensor], Tensor], photos: np.ndarray, wanted: np.ndarray) -> Similarity:
    """SSIM of a network's pictures to others; arguments as ``draw`` takes and gives them."""
    return compare(draw(network, photos, styles=len(wanted)), wanted)


def compare(drawn: np.ndarray, wanted: np.ndarray) -> Similarity:
    """SSIM of pictures to others, each ``S x P x H x W x 3`` in [0, 1]."""
    values = [ssim(*pair) for row in zip(drawn, wanted, strict=True) for pair in zip(*row, strict=True)]
    return Similarity(mean=float(np.mean(values)), worst=float(np.min(values)))


def _spread(photos: Sequence[Path]) -> list[Path]:
    """At most ``_DECIDING`` photos, evenly taken from all."""
    picked = np.unique(np.linspace(0, len(photos) - 1, min(_DECIDING, len(photos))).round().astype(int))
    return [photos[index] for index in picked]
