"""Masks of what is known about a photo: where its faces are, the heads around them and the bodies below."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from training.metrics.faces import Face

#: Planes of a mask.
FACE, HEAD, BODY = 0, 1, 2
#: What of a face box (as BlazeFace draws it: brows to chin) belongs to a plane, in shares of its width and height:
#: left, right, top, bottom. The box's rim is hair, ears and what stands behind; a head has its forehead, ears and
#: throat outside of the box; hanging arms, legs down to the knees and a hand raised beside the head are within two
#: widths on either side and eight heights.
PARTS = {FACE: (0.05, 0.95, 0.08, 0.90), HEAD: (-0.25, 1.25, -0.50, 1.50), BODY: (-2.0, 3.0, -0.50, 8.0)}


def face_mask(faces: Sequence[Face], height: int, width: int) -> np.ndarray:
    """Where faces, heads and bodies are in a photo of ``height`` x ``width`` px: ``3 x H x W`` uint8, 255 there or 0.

    Plane ``FACE`` is the inner part of each face box, plane ``HEAD`` a box around it, plane ``BODY`` what is no
    head of a larger one, in which the person is down to the knees, with what stands beside.
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
    mask[BODY] &= ~mask[HEAD]
    return mask
