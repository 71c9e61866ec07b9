"""Masks of what is known about a photo: where its faces are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from training.metrics.faces import Face

#: The part of a face box (as BlazeFace draws it) that is taken: shares of its width and height. Its rim is hair, ears
#: and what stands behind.
LEFT, RIGHT, TOP, BOTTOM = 0.05, 0.95, 0.08, 0.90


def face_mask(faces: Sequence[Face], height: int, width: int) -> np.ndarray:
    """The inner part of each face box of a photo of ``height`` x ``width`` px: ``1 x H x W`` uint8, 255 there or 0."""
    mask = np.zeros((1, height, width), np.uint8)
    for face in faces:
        inner = dataclasses.replace(
            face,
            x=face.x + LEFT * face.width,
            y=face.y + TOP * face.height,
            width=(RIGHT - LEFT) * face.width,
            height=(BOTTOM - TOP) * face.height,
        )
        mask[(slice(None), *inner.region(height, width).slices)] = 255
    return mask
