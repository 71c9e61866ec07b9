"""Flicker: how much a style changes from frame to frame where nothing but a known motion happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training import temporal


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A motion between two frames.

    Attributes:
        name: what it is.
        right, down: shift, px.
        zoom: magnification about the middle; 1 keeps the size.
        noise: standard deviation of the next frame's sensor noise, on the [0, 1] scale.
    """

    name: str
    right: float = 0.0
    down: float = 0.0
    zoom: float = 1.0
    noise: float = 4.0 / 255.0


#: A hand that drifts by a part of a pixel, one that steps nearer, and one that holds still in poor light.
MOTIONS = (
    Motion(name="shift", right=2.5, down=1.5),
    Motion(name="zoom", zoom=1.03),
    Motion(name="noise"),
)
#: Pixels along the border that are not looked at: a network sees its padding there.
MARGIN = 16


def warp(pictures: Tensor, motion: Motion) -> Tensor:
    """Moves ``N x C x H x W`` pictures: shift and zoom, bilinear; what comes in from outside repeats the border.

    The value at (x, y) of the result is that at ``((x - cx - right) / zoom + cx, (y - cy - down) / zoom + cy)`` of the
    input, with the middle of the picture (cx, cy).
    """
    if motion.right == 0 and motion.down == 0 and motion.zoom == 1:
        return pictures
    shift = pictures.new_tensor([motion.right, motion.down]).expand(len(pictures), 2)
    moved, _ = temporal.Motion(shift=shift, zoom=pictures.new_full((len(pictures),), motion.zoom)).warp(pictures)
    return moved


def next_frame(frame: Tensor, motion: Motion, *, seed: int = 0) -> Tensor:
    """The frame after ``N x 3 x H x W`` RGB in [0, 1]: ``clip(warp(frame) + noise)``, the noise drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(frame.shape, generator=generator).to(frame) * motion.noise
    return (warp(frame, motion) + noise).clamp(0, 1)


def flicker(draw: Callable[[Tensor], Tensor], frame: Tensor, motion: Motion, *, seed: int = 0) -> float:
    """Warp error of a style over that of its input.

        mean |out(t+1) - warp(out(t))| / mean |in(t+1) - warp(in(t))|

    over the pixels at least ``MARGIN`` + the motion from the border, with ``in(t+1) = clip(warp(in(t)) + noise)``. The
    input's own error is the noise alone. 1: the style changes as much as the camera's noise; below, it calms; above, it
    flickers. Source: Lai et al., "Learning blind video temporal consistency", ECCV 2018 (warping error), with a motion
    that is known instead of estimated.

    Args:
        draw: the style, ``N x 3 x H x W`` to the same, [0, 1].
        frame: ``N x 3 x H x W`` RGB in [0, 1].
        motion: with noise above 0.
        seed: of the noise.
    """
    following = next_frame(frame, motion, seed=seed)
    height, width = frame.shape[-2:]
    grown = (abs(motion.zoom - 1) * max(height, width)) / 2
    margin = MARGIN + round(max(abs(motion.right), abs(motion.down)) + grown + 0.5)
    margin = min(margin, (min(height, width) - 1) // 2)
    inner = (..., slice(margin, height - margin), slice(margin, width - margin))

    def error(one: Tensor, other: Tensor) -> float:
        return float((one - other)[inner].abs().mean())

    own = error(following, warp(frame, motion))
    return error(draw(following), warp(draw(frame), motion)) / max(own, 1e-9)
