"""Temporal consistency on synthetic motion: what moves in the photo shall move in the picture, and nothing else.

From a photo x the next frame of a film is made by a known motion w and fresh noise. Then ``mean |f(w(x)) - w(f(x))|``
over the pixels that w has a source for is 0 for a network f whose picture moves with the photo (as in Lai et al. 2018,
arXiv:1808.00449, with the motion known instead of estimated). No film and no optical flow is needed.

``noise_gain`` looks at noise alone and at its worst places: where a style goes over a threshold, two roundings of one
sum come to two sides of it, and what int8 draws is not what the float model does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

#: Largest shift in px, largest zoom as a share, largest sigma of noise in [0, 1] units.
SHIFT, ZOOM, NOISE = 6, 0.04, 0.02
#: Sigma of the noise of ``noise_gain``, in [0, 1] units: two steps of 8 bits.
FAINT_NOISE = 2.0 / 255.0


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How a batch of pictures moves from one frame to the next.

    Attributes:
        shift: ``N x 2``, px to the right and down.
        zoom: ``N``, about the middle of the picture; 1 for none.
    """

    shift: Tensor
    zoom: Tensor

    def warp(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """The moved picture and where it has a source.

        Args:
            picture: ``N x C x H x W``.

        Returns:
            ``N x C x H x W``, bilinear, and ``N x 1 x H x W`` of ones, and zeros where the source is out of sight.
        """
        height, width = picture.shape[2:]
        inverse = 1.0 / self.zoom
        # F.affine_grid goes from the new frame to the old one, in units of half the picture.
        matrix = picture.new_zeros(len(picture), 2, 3)
        matrix[:, 0, 0] = matrix[:, 1, 1] = inverse
        matrix[:, 0, 2] = -2 * self.shift[:, 0] * inverse / width
        matrix[:, 1, 2] = -2 * self.shift[:, 1] * inverse / height
        grid = F.affine_grid(matrix, list(picture.shape), align_corners=False)
        moved = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
        # Beyond the middle of the outermost pixels there is nothing to interpolate with.
        edge = 1.0 - grid.new_tensor([1.0 / width, 1.0 / height]) + 1e-4 / max(height, width)
        return moved, (grid.abs() <= edge).all(3, keepdim=True).permute(0, 3, 1, 2).to(picture.dtype)


def random_motion(count: int, *, device: torch.device | str = "cpu") -> Motion:
    """A motion for each of ``count`` pictures, of ``torch``'s generator.

    Every other picture is shifted by whole pixels alone: interpolation blurs, and a network that was only ever compared
    with blurred pictures would learn to blur.
    """
    shift = torch.randint(-SHIFT, SHIFT + 1, (count, 2), device=device).float()
    zoom = 1.0 + ZOOM * (2 * torch.rand(count, device=device) - 1)
    zoom[::2] = 1.0
    return Motion(shift=shift, zoom=zoom)


def next_frame(image: Tensor, motion: Motion, *, noise: float = NOISE) -> Tensor:
    """The photo one frame later, ``N x 3 x H x W`` in [0, 1], with fresh noise of up to a sigma of ``noise``."""
    moved, _ = motion.warp(image)
    sigma = noise * torch.rand(len(image), 1, 1, 1, device=image.device)
    return (moved + sigma * torch.randn_like(moved)).clamp(0, 1)


def inconsistency(later: Tensor, output: Tensor, motion: Motion) -> Tensor:
    """``mean |later - w(output)|`` over the pixels that have a source; 0 when there are none.

    Args:
        later: what the network draws of the next frame, ``N x 3 x H x W``.
        output: what it draws of this one.
        motion: between them.
    """
    moved, seen = motion.warp(output)
    return ((later - moved).abs() * seen).sum() / (seen.sum() * later.shape[1]).clamp(min=1)


def faint_noise(image: Tensor) -> Tensor:
    """The same photo, taken a second time: ``N x 3 x H x W`` in [0, 1] with noise of a sigma of two steps of 8 bits."""
    return (image + FAINT_NOISE * torch.randn_like(image)).clamp(0, 1)


def noise_gain(again: Tensor, output: Tensor, noise: Tensor) -> Tensor:
    """``mean (again - output)^2 / mean noise^2``: 1 for a network that passes noise on, 0 for one that calms it.

    Squares, because a few pixels that jump are the fault and the mean of all others hardly moves.

    Args:
        again: what the network draws of the photo with noise, ``N x 3 x H x W``.
        output: what it draws of the photo.
        noise: the difference of the two photos, of the same shape.
    """
    return (again - output).square().mean() / noise.square().mean().clamp(min=1e-12)
