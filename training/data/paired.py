"""Two folders of pictures that belong together by name: inputs and what a network shall make of them.

For pairs that are rendered by our own teachers see ``training.data.pairs``; this is for pairs somebody else made.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdk.errors import UsageError
from training.data.crops import Crop, check_crop
from training.data.folders import Skipped
from training.data.order import in_turn
from training.data.store import PictureStore


class PairedFolderDataset(Dataset[tuple[Tensor, Tensor]]):
    """The same crop of input and target ``(input, target)``, ``3 x C x C`` uint8 RGB each, by sample number.

    Two pictures belong together when their paths below their folders are the same but for the suffix, and have the same
    shape (they are scaled to the same short side; a pixel of rounding is forgiven). A sample is a function of
    (seed, number); all pairs come once before any comes again.

    Args:
        inputs, targets: see ``training.data.store``, of one short side.
        crop: where both are cut.
        seed: of all randomness.

    Attributes:
        pairs: index in ``inputs`` and in ``targets`` of each pair.
        unmatched: the pictures without a partner, and why.

    Raises:
        UsageError: no pair at all, two pictures of one name, a crop that does not fit.
    """

    def __init__(self, inputs: PictureStore, targets: PictureStore, *, crop: Crop, seed: int = 0) -> None:
        if inputs.side != targets.side:
            raise UsageError(
                f"inputs are scaled to {inputs.side} px and targets to {targets.side} px: open both with one side."
            )
        check_crop(crop, inputs)
        self.inputs, self.targets, self.crop, self.seed = inputs, targets, crop, seed
        of_input, of_target = _by_stem(inputs), _by_stem(targets)
        pairs: list[tuple[int, int]] = []
        unmatched = []
        for stem, index in of_input.items():
            other = of_target.get(stem)
            if other is None:
                unmatched.append(Skipped(path=inputs.files[index], reason=f"has no target in {targets.root}"))
            elif _shapes_differ(inputs.sizes[index], targets.sizes[other]):
                (height, width), (target_height, target_width) = inputs.sizes[index], targets.sizes[other]
                reason = f"is {width} x {height} px when scaled, its target {target_width} x {target_height}"
                unmatched.append(Skipped(path=inputs.files[index], reason=reason))
            else:
                pairs.append((index, other))
        for stem, index in of_target.items():
            if stem not in of_input:
                unmatched.append(Skipped(path=targets.files[index], reason=f"has no input in {inputs.root}"))
        self.pairs, self.unmatched = tuple(pairs), tuple(unmatched)
        if not pairs:
            first = "; ".join(f"{item.path.name} {item.reason}" for item in unmatched[:3])
            raise UsageError(
                f"no picture of {inputs.root} has a partner in {targets.root} ({first}): give both the same names, "
                "suffix aside, and the same shape."
            )

    def __len__(self) -> int:
        """Number of pairs; sample numbers may be larger, the run is endless."""
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, number])
        index, other = self.pairs[in_turn(number, len(self.pairs), seed=self.seed)]
        given, target = self.inputs.read(index), self.targets.read(other)
        height, width = np.minimum(given.shape[:2], target.shape[:2])
        window = self.crop.window(int(height), int(width), rng)
        cut_input, cut_target = (window.cut(picture.transpose(2, 0, 1)) for picture in (given, target))
        return torch.from_numpy(cut_input), torch.from_numpy(cut_target)


def _shapes_differ(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return any(abs(a - b) > 1 for a, b in zip(size, other, strict=True))


def _by_stem(store: PictureStore) -> dict[Path, int]:
    stems: dict[Path, int] = {}
    for index, file in enumerate(store.files):
        stem = file.relative_to(store.root).with_suffix("")
        if stem in stems:
            raise UsageError(
                f"{file} and {store.files[stems[stem]].name} have the same name but for the suffix: which of them "
                "belongs to the pair cannot be told; remove or rename one."
            )
        stems[stem] = index
    return stems
