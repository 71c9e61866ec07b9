"""Losses inside of faces: what makes a face that person's, while a style is free in the rest of the picture.

All take ``N x 3 x H x W`` RGB on the [0, 1] scale, the network's picture and the photo, and a mask ``N x 1 x H x W`` in
[0, 1] of where faces are (``training.data.masks``); they return a scalar, 0 where there is no face.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from training.colour import luma, rgb_to_lab
from training.representations import box_mean

#: Radius of the mean that features are what lies above it (15 px a side), and of that which has a skin's tone (9 px).
FEATURE_RADIUS, TONE_RADIUS = 7, 4
#: Strength of a feature of the photo, in luma, from which on it counts, and that at which it counts in full.
_FAINT, _STRONG = 0.03, 0.08
#: Pixels added to the number of those that count, so that a handful of them in a batch do not rule.
_FEW = 50.0


def face_features(output: Tensor, photo: Tensor, inside: Tensor) -> Tensor:
    """Eyes, brows and mouths stay: mean absolute difference of the high-passed lumas where the photo has a feature.

    ``h(x)`` is luma minus its mean over 15 x 15 px, the weight of a pixel ``w = inside clamp((|h(p)| - 0.03) / 0.05)``,
    held to [0, 1]: ``sum w |h(o) - h(p)| / (sum w + 50)``.
    """
    have, want = _high_pass(output), _high_pass(photo)
    weight = inside * ((want.abs() - _FAINT) / (_STRONG - _FAINT)).clamp(0, 1)
    return (weight * (have - want).abs()).sum() / (weight.sum() + _FEW)


def face_tone(output: Tensor, photo: Tensor, inside: Tensor) -> Tensor:
    """Skin keeps its tone: mean absolute difference in CIELAB of means over 9 x 9 px, divided by 100.

    ``sum inside |mean(LAB(o) - LAB(p))| / 100 / (3 sum inside + 50)`` over pixels and L, a, b.
    """
    difference = box_mean(rgb_to_lab(output) - rgb_to_lab(photo), TONE_RADIUS)
    return (inside * difference).abs().sum() / 100.0 / (3 * inside.sum() + _FEW)


def _high_pass(picture: Tensor) -> Tensor:
    grey = luma(picture)
    return grey - box_mean(grey, FEATURE_RADIUS)


#: By key of ``loss:`` in ``task: gan``.
FACE_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "faces": face_features,
    "face_tone": face_tone,
}
