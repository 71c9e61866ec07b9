"""Masks of what is known about a photo: where its faces are, and the heads around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from training.metrics.faces import Face

#: Planes of a mask.
FACE, HEAD = 0, 1
#: What of a face box (as BlazeFace draws it: brows to chin) belongs to a plane, in shares of its width and height:
#: left, right, top, bottom. The box's rim is hair, ears and what stands behind; a head has its forehead, ears and
#: throat outside of the box.
PARTS = {FACE: (0.05, 0.95, 0.08, 0.90), HEAD: (-0.25, 1.25, -0.50, 1.50)}


def face_mask(faces: Sequence[Face], height: int, width: int) -> np.ndarray:
    """Where faces and heads are in a photo of ``height`` x ``width`` px: ``2 x H x W`` uint8, 255 there or 0.

    Plane ``FACE`` is the inner part of each face box, plane ``HEAD`` a box around it.
    """
    mask = np.zeros((len(PARTS), height, width), np.uint8)
    for face in faces:
        for plane, (left, right, top, bottom) in PARTS.items():
            part = dataclasses.replace(
                face,
                x=face.x + left * face.width,
                y=face.y + top * face.height,
                width=(right - left) * face.width,
                height=(bottom - top) * face.height,
            )
            mask[(plane, *part.region(height, width).slices)] = 255
    return mask
