"""Photos and a style's pictures that do not belong together: crops of both by sample number.

Every sample is a function of (seed, number): with any number of loader processes, and after a resume, the batches are
the same, bit for bit. ``open_unpaired`` makes the datasets of a recipe, ``make_loader`` their loader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdk.errors import UsageError
from training.data.conditions import condition, draw_conditions, edge_smoothed
from training.data.crops import Crop, MiddleCrop, RandomCrop, check_crop
from training.data.folders import PhotoFolder, Skipped, open_photos, open_pictures, skipped_summary
from training.data.masks import face_mask
from training.data.order import in_turn
from training.data.pairs import RunSampler
from training.data.pool import START_METHOD, start_worker
from training.data.recipe import UnpairedRecipe, checks
from training.data.store import PictureStore, open_store
from training.metrics.faces import Face, read_faces

#: Added to the seed of the pictures' order: photo and picture of a number must not go round in step.
_PICTURES = 0x5BD1E995


class UnpairedDataset(Dataset[tuple[Tensor, ...]]):
    """Crops ``(photo, picture[, smoothed][, condition maps ...][, faces])`` by sample number; ``parts`` names them.

    All are uint8, the task divides by 255: photo, picture and smoothed ``3 x C x C`` RGB, a condition's map
    ``planes x C x C`` (see ``training.data.conditions``) and the mask of faces ``2 x C x C`` (``training.data.masks``)
    of the same crop as the photo. ``smoothed`` is the same crop of the picture with its edges smoothed. All photos come
    once before any comes again, and all pictures by themselves.

    Args:
        photos, pictures: see ``training.data.store``.
        crop: where they are cut, each by itself.
        seed: of all randomness.
        smooth: adds ``smoothed``.
        conditions: names of ``CONDITIONS``.
        model: segmentation model for those that need one; ``None``: mediapipe's.
        faces: those of each photo, in the order of ``photos.files``; adds ``faces``.
        light: see ``UnpairedRecipe``.

    Raises:
        UsageError: a crop that does not fit, an unknown condition.
    """

    def __init__(
        self,
        photos: PictureStore,
        pictures: PictureStore,
        *,
        crop: Crop,
        seed: int = 0,
        smooth: bool = False,
        conditions: Sequence[str] = (),
        model: Path | None = None,
        faces: Sequence[Sequence[Face]] | None = None,
        light: float = 0.0,
    ) -> None:
        for store in (photos, pictures):
            check_crop(crop, store)
        for name in conditions:
            condition(name)
        self.photos, self.pictures, self.crop, self.seed = photos, pictures, crop, seed
        self.smooth, self.conditions, self.model, self.faces = smooth, tuple(conditions), model, faces
        self.light = light

    @property
    def parts(self) -> tuple[str, ...]:
        """What a sample holds, in order: ``("photo", "picture", "smoothed", "canny", "faces")``."""
        faces = [] if self.faces is None else ["faces"]
        return ("photo", "picture", *(["smoothed"] if self.smooth else []), *self.conditions, *faces)

    def __len__(self) -> int:
        """Number of photos; sample numbers may be larger, the run is endless."""
        return len(self.photos)

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.seed, number])
        which = in_turn(number, len(self.photos), seed=self.seed)
        photo = self.photos.read(which)
        picture = self.pictures.read(in_turn(number, len(self.pictures), seed=self.seed + _PICTURES))
        here, there = (self.crop.window(image.shape[0], image.shape[1], rng) for image in (photo, picture))
        if self.light:  # drawn after the windows: without it they are those there always were
            photo = _relit(photo, 2.0 ** rng.uniform(-self.light, self.light))
        parts = [here.cut(photo.transpose(2, 0, 1)), there.cut(picture.transpose(2, 0, 1))]
        if self.smooth:
            parts.append(there.cut(edge_smoothed(picture).transpose(2, 0, 1)))
        parts += [here.cut(drawn) for drawn in draw_conditions(photo, self.conditions, model=self.model)]
        if self.faces is not None:
            parts.append(here.cut(face_mask(self.faces[which], *photo.shape[:2])))
        return tuple(torch.from_numpy(part) for part in parts)


def _relit(photo: np.ndarray, power: float) -> np.ndarray:
    """``H x W x 3`` uint8 with every value, of [0, 1], raised to a power."""
    levels = np.linspace(0.0, 1.0, 256) ** power
    return np.asarray((levels * 255.0).round().astype(np.uint8)[photo])


@dataclass(frozen=True, kw_only=True, eq=False)
class UnpairedData:
    """The datasets of a recipe.

    Attributes:
        train: random crops of the split that is learned from.
        val: middle crops of the photos' validation split, without ``smoothed`` and ``faces``, with the pictures of
            ``train``; ``None`` when the folder has no such split.
        notes: what a user may want to know, one sentence each: few pictures, files left out, files that could not be
            read. A task reports them at its start and, what was skipped, at its end.
        skipped: every file that could not be read.
    """

    train: UnpairedDataset
    val: UnpairedDataset | None
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def open_unpaired(recipe: UnpairedRecipe, *, seed: int = 0, advance: Callable[[], None] | None = None) -> UnpairedData:
    """Opens the folders of a recipe and reads every picture once (a later call finds them in the cache).

    Args:
        recipe: see its class.
        seed: of all randomness.
        advance: called after each picture that had to be read.

    Raises:
        UsageError: everything that is wrong with the recipe, at once; or not one readable picture.
        FileTroubleError: the cache cannot be written.
    """
    faults = checks(recipe)
    if faults:
        many = f"{len(faults)} mistakes" if len(faults) > 1 else "a mistake"
        raise UsageError(f"the data's recipe has {many}:" + "".join(f"\n  - {fault}" for fault in faults))
    photos, pictures = open_photos(Path(recipe.photos)), open_pictures(Path(recipe.pictures))

    def store(folder: PhotoFolder, files: Sequence[Path], missing: Sequence[Skipped] = ()) -> PictureStore:
        return open_store(
            files,
            root=folder.root,
            side=recipe.resize,
            enlarge=recipe.enlarge,
            cache=Path(recipe.cache),
            cache_bytes=recipe.cache_mb * 10**6,
            workers=recipe.workers,
            skipped=missing,
            advance=advance,
        )

    style = store(pictures, pictures.files)
    learned = store(photos, photos.split(recipe.split), photos.skipped)
    known = None if recipe.faces is None else read_faces(Path(recipe.faces), learned.files)
    train = UnpairedDataset(
        learned,
        style,
        crop=RandomCrop(side=recipe.crop, flip=recipe.flip, zoom=recipe.zoom),
        seed=seed,
        smooth=recipe.smooth,
        conditions=recipe.conditions,
        model=recipe.model,
        faces=None if known is None else [known[file] for file in learned.files],
        light=recipe.light,
    )
    stores, val = [learned, style], None
    if recipe.val_split in photos.splits and recipe.val_split != recipe.split:
        held = store(photos, photos.splits[recipe.val_split])
        stores.append(held)
        val = UnpairedDataset(
            held,
            style,
            crop=MiddleCrop(side=recipe.resize // 16 * 16),
            seed=seed,
            conditions=recipe.conditions,
            model=recipe.model,
        )
    unread = [skipped_summary(opened.skipped, opened.total) for opened in stores if opened.skipped]
    return UnpairedData(
        train=train,
        val=val,
        notes=(*photos.warnings, *pictures.warnings, *unread),
        skipped=tuple(item for opened in stores for item in opened.skipped),
    )


def stack(samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Samples to a batch: each part ``N x ...``.

    By NumPy and not by ``torch.stack``, which splits even these few bytes among PyTorch's threads: where other
    processes want the cores, each waits for the slowest (2 cores under load: a whole batch took 4 to 10 times as long).
    """
    return tuple(torch.from_numpy(np.stack([part.numpy() for part in parts])) for parts in zip(*samples, strict=True))


def make_loader(
    dataset: Dataset[tuple[Tensor, ...]], *, batch: int, samples: int, workers: int = 0
) -> DataLoader[tuple[Tensor, ...]]:
    """The loader of one stretch of a run; ``loader.sampler.set_epoch`` (Lightning calls it) goes to the next.

    Args:
        dataset: gives a sample for any number.
        batch: samples a batch.
        samples: samples a stretch.
        workers: processes; 0 loads in this one. They are spawned. Whichever process loads has one OpenCV thread: the
            pictures are small.

    Returns:
        Batches are tuples of ``N x ...`` tensors in the order of the samples.
    """
    if workers == 0:
        start_worker()
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=RunSampler(samples),
        collate_fn=stack,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=START_METHOD if workers else None,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
    )
