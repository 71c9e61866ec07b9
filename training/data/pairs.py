"""Training pairs for the loader: random crops of rendered views, a style each, the input made a little dirty.

Every sample is a function of (seed, number of the sample in the run): a resumed run sees what the uninterrupted one
would have seen, with any number of loader processes.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sdk.errors import UsageError
from training.data.order import in_turn
from training.data.render import PHOTOS


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What the network's input suffers and the teacher did not see.

    Attributes:
        noise_chance: share of samples with sensor noise.
        noise: largest noise sigma, in units of [0, 1]; the half of the variance grows with brightness (photon noise).
        jpeg_chance: share of samples that go through JPEG.
        jpeg_quality: lowest quality, 1..100; drawn up to 95.
    """

    noise_chance: float = 0.4
    noise: float = 0.03
    jpeg_chance: float = 0.3
    jpeg_quality: int = 45


@dataclass(frozen=True)
class Shard:
    """One shard of rendered views: ``photos`` and ``teachers[style]``, each ``P x S x S x 3`` uint8, memory-mapped."""

    photos: np.ndarray
    teachers: tuple[np.ndarray, ...]


def open_shards(folder: Path, styles: Sequence[str]) -> list[Shard]:
    """Opens the shards of one split.

    Args:
        folder: ``data/pairs/train`` or ``data/pairs/val``.
        styles: the styles wanted, in the order of the network's rows.

    Raises:
        UsageError: no shard there, or one without a style that is wanted.
    """
    shards = []
    for described in sorted(folder.glob("v*/shard.json")):
        teachers = json.loads(described.read_text())["teachers"]
        lacking = [style for style in styles if style not in teachers]
        if lacking:
            near = difflib.get_close_matches(lacking[0], teachers, n=1)
            hint = f"did you mean {near[0]!r}? Else " if near else ""
            raise UsageError(
                f"{described.parent} has no pairs of style {lacking[0]!r}: {hint}run `python -m training.data.render` "
                f"with --styles {','.join(styles)}."
            )
        arrays = [np.load(described.parent / f"{name}.npy", mmap_mode="r") for name in (PHOTOS, *styles)]
        shards.append(Shard(arrays[0], tuple(arrays[1:])))
    if not shards:
        raise UsageError(
            f"{folder} holds no rendered pairs: run `python -m training.data.sample --out data/content` and "
            "`python -m training.data.render --content data/content --out data/pairs` first."
        )
    sizes = {shard.photos.shape[1] for shard in shards}
    if len(sizes) > 1:
        raise UsageError(f"{folder} mixes views of {sorted(sizes)} px: render all shards with one --size.")
    return shards


class PairDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Random crops ``(image, style, target)`` by sample number.

    Image and target are ``3 x C x C`` uint8 RGB (a quarter of the copying; the task divides by 255), the style is ``S``
    float32 weights that sum to 1. A mix (a, b, t) has the target ``t * A + (1 - t) * B``.

    Args:
        shards: see ``open_shards``.
        crop: C in pixels, divisible by 16, at most the views' size.
        seed: of all randomness.
        mix_share: share of samples that are a mix of two styles.
        style_weights: how often each style is drawn, relative; ``None``: equally.
        degradation: of the input.

    Raises:
        UsageError: a crop that does not fit.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        crop: int,
        seed: int = 0,
        mix_share: float = 0.1,
        style_weights: Sequence[float] | None = None,
        degradation: Degradation | None = None,
    ) -> None:
        size = shards[0].photos.shape[1]
        if crop % 16 or not 16 <= crop <= size:
            raise UsageError(f"crop {crop} is not usable: give a multiple of 16, at most the views' size of {size} px.")
        self.shards, self.crop, self.seed, self.mix_share = list(shards), crop, seed, mix_share
        self.styles = len(shards[0].teachers)
        weights = np.asarray(style_weights if style_weights is not None else [1.0] * self.styles, float)
        self.style_shares = weights / weights.sum()
        self.degradation = degradation or Degradation()
        self.ends = np.cumsum([len(shard.photos) for shard in self.shards])

    @property
    def views(self) -> int:
        """Number of rendered views."""
        return int(self.ends[-1])

    def __len__(self) -> int:
        """Number of views; sample numbers may be larger, the run is endless."""
        return self.views

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, number])
        shard, row = self._view(number)
        size = shard.photos.shape[1]
        top, left = rng.integers(0, size - self.crop + 1, 2)
        mirror = rng.random() < 0.5

        def cut(array: np.ndarray) -> np.ndarray:
            part = array[row, top : top + self.crop, left : left + self.crop]
            return part[:, ::-1] if mirror else part

        first = int(rng.choice(self.styles, p=self.style_shares))
        style = np.zeros(self.styles, np.float32)
        style[first] = 1.0
        target = cut(shard.teachers[first])
        if self.styles > 1 and rng.random() < self.mix_share:
            second = (first + int(rng.integers(1, self.styles))) % self.styles
            share = np.float32(rng.uniform(0.2, 0.8))
            style[first], style[second] = share, 1 - share
            blend = share * target.astype(np.float32) + (1 - share) * cut(shard.teachers[second])
            target = (blend + np.float32(0.5)).astype(np.uint8)
        image = degrade(cut(shard.photos), self.degradation, rng)
        return to_tensor(image), torch.from_numpy(style), to_tensor(target)

    def _view(self, number: int) -> tuple[Shard, int]:
        """Goes through all views once, in a new order, before any comes again."""
        index = in_turn(number, self.views, seed=self.seed)
        which = int(np.searchsorted(self.ends, index, side="right"))
        start = int(self.ends[which - 1]) if which else 0
        return self.shards[which], index - start


def degrade(rgb: np.ndarray, degradation: Degradation, rng: np.random.Generator) -> np.ndarray:
    """``H x W x 3`` uint8 RGB with noise and JPEG blocks, each by its chance."""
    out = rgb
    if rng.random() < degradation.noise_chance and degradation.noise > 0:
        values = out.astype(np.float32)
        sigma = np.float32(255 * degradation.noise * rng.random())
        noise = rng.standard_normal(values.shape, dtype=np.float32)
        if rng.random() < 0.5:  # cameras smooth their noise: grains of two pixels
            noise = cv2.GaussianBlur(noise, (3, 3), 0.8) * np.float32(2.57)  # of spread 1 again
        grain = np.sqrt(np.float32(0.5) + values / np.float32(255))
        out = np.clip(values + sigma * grain * noise + np.float32(0.5), 0, 255).astype(np.uint8)
    if rng.random() < degradation.jpeg_chance:
        quality = int(rng.integers(degradation.jpeg_quality, 96))
        bgr = np.ascontiguousarray(out[..., ::-1])
        _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        assert decoded is not None  # it was encoded the line before
        out = decoded[..., ::-1]
    return out


def to_tensor(image: np.ndarray) -> Tensor:
    """``H x W x C`` to ``C x H x W``, the same type, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class RunSampler(Sampler[int]):
    """Sample numbers of one stretch of the run (a Lightning epoch); ``set_epoch`` moves to the next stretch.

    Processes that train together take turns: process p of P has the numbers p, p + P, p + 2 P, ..., so that their
    batches of N are together the one batch of P N that a single process would have had.

    Args:
        samples: numbers a stretch, of all processes.
        process, processes: p and P.
    """

    def __init__(self, samples: int, *, process: int = 0, processes: int = 1) -> None:
        self.samples, self.epoch, self.process, self.processes = samples, 0, process, processes

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._numbers())

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers())

    def _numbers(self) -> range:
        start = self.epoch * self.samples
        return range(start + self.process, start + self.samples, self.processes)


class ViewDataset(Dataset[tuple[Tensor, Tensor]]):
    """Whole views for validation: ``(photo, teachers)``, ``3 x S x S`` and ``T x 3 x S x S`` uint8 RGB.

    Args:
        shards: see ``open_shards``.
        limit: at most this many views, evenly spread over all of them.
        size: the views' middle of this side is given; ``None``: all of it.
    """

    def __init__(self, shards: Sequence[Shard], *, limit: int, size: int | None = None) -> None:
        places = [(shard, row) for shard in shards for row in range(len(shard.photos))]
        picked = np.unique(np.linspace(0, len(places) - 1, min(limit, len(places))).round().astype(int))
        self.places = [places[i] for i in picked]
        whole = shards[0].photos.shape[1]
        side = whole if size is None else min(size, whole)
        self.window = slice((whole - side) // 2, (whole - side) // 2 + side)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shard, row = self.places[index]
        window = self.window
        photo = to_tensor(shard.photos[row, window, window])
        return photo, torch.stack([to_tensor(array[row, window, window]) for array in shard.teachers])
