"""Losses in faces and on skin: what makes a face that person's, while a style is free in the rest of the picture.

All take a ``View``, the network's picture beside the photo and where faces, heads and bodies are, and return a scalar,
0 where there is no face. In the formulas *face*, *head* and *body* are the mask's planes; o is the network's picture,
p the photo, t the picture that heads and bodies are drawn like.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from training.colour import luma, rgb_to_lab
from training.data.masks import BODY, FACE, HEAD
from training.losses import neighbour_steps
from training.representations import box_mean

#: Radius of the mean that features and marks are what lies above it (15 px a side), and of that which has a skin's
#: tone (9 px).
FEATURE_RADIUS, TONE_RADIUS = 7, 4
#: The same of marks on cloth, in means of 2 x 2 px (14 px a side).
CLOTH_RADIUS = 3
#: Strength of a feature of the photo, in luma, from which on it counts, and that at which it counts in full.
_FAINT, _STRONG = 0.03, 0.08
#: Skin of all tones shares its hue (radians of CIELAB's a, b) and differs in lightness; how far a hue may be off, and
#: the chroma between which a colour has a hue and is none of paint.
SKIN_HUE, SKIN_WIDTH = 0.87, 0.42
_GREY, _COLOURED, _VIVID, _PAINT = 6.0, 14.0, 38.0, 60.0
#: Pixels added to the number of those that count, so that a handful of them in a batch do not rule.
_FEW = 50.0
#: Lightness of CIELAB up to which hair is dark, and from which on it is none of that.
_BLACK, _BROWN = 20.0, 35.0


class View:
    """A batch as these losses look at it; what several of them need is computed once.

    Args:
        output: ``N x 3 x H x W`` RGB on the [0, 1] scale, the network's picture.
        photo: of the same shape, in [0, 1].
        where: ``N x 3 x H x W`` in [0, 1], where faces, heads and bodies are (``training.data.masks``).
        target: of the photo's shape: what another style makes of the photo; the photo itself by default.
    """

    def __init__(self, output: Tensor, photo: Tensor, where: Tensor, target: Tensor | None = None) -> None:
        self.output, self.photo, self.where, self._target = output, photo, where, target

    def plane(self, plane: int) -> Tensor:
        """One of the mask's, ``N x 1 x H x W``."""
        return self.where[:, plane : plane + 1]

    @cached_property
    def drawn(self) -> Tensor:
        """LAB(o)."""
        return rgb_to_lab(self.output)

    @cached_property
    def given(self) -> Tensor:
        """LAB(p)."""
        return rgb_to_lab(self.photo)

    @cached_property
    def wanted(self) -> Tensor:
        """LAB(t)."""
        return self.given if self._target is None else rgb_to_lab(self._target)

    @cached_property
    def skin(self) -> Tensor:
        """``skin`` of the photo."""
        return skin(self.photo)

    @cached_property
    def skin_and_hair(self) -> Tensor:
        """``w`` of ``heads``, ``N x 1 x H x W`` in [0, 1], without a gradient."""
        with torch.no_grad():
            dark = 1.0 - _ramp(box_mean(self.given[:, :1], 1), _BLACK, _BROWN)
            return self.plane(HEAD) * torch.maximum(self.skin, dark)

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """2 x 2 means of LAB(o) and of LAB(p): no grain of skin or cloth."""
        return F.avg_pool2d(self.drawn, 2), F.avg_pool2d(self.given, 2)

    @cached_property
    def shift(self) -> Tensor:
        """Mean over 9 x 9 px of LAB(o) - LAB(p)."""
        return box_mean(self.drawn - self.given, TONE_RADIUS)


def face_features(view: View) -> Tensor:
    """Eyes, brows and mouths stay: mean absolute difference of the high-passed lumas where the photo has a feature.

    ``h(x)`` is luma minus its mean over 15 x 15 px, the weight of a pixel ``w = face clamp((|h(p)| - 0.03) / 0.05)``,
    the second factor held to [0, 1]: ``sum w |h(o) - h(p)| / (sum w + 50)``.
    """
    have, want = _high_pass(luma(view.output)), _high_pass(luma(view.photo))
    weight = view.plane(FACE) * _ramp(want.abs(), _FAINT, _STRONG)
    return (weight * (have - want).abs()).sum() / (weight.sum() + _FEW)


def face_tone(view: View) -> Tensor:
    """Faces keep their tone: mean absolute difference in CIELAB of means over 9 x 9 px, divided by 100.

    ``sum face |mean(LAB(o) - LAB(p))| / 100 / (3 sum face + 50)`` over pixels and L, a, b.
    """
    return _mean(view.shift.abs(), view.plane(FACE))


def skin_tone(view: View) -> Tensor:
    """``face_tone`` where a head has the colour of skin (``skin``): foreheads, ears and throats, too."""
    return _mean(view.shift.abs(), view.plane(HEAD) * view.skin)


def skin_marks(view: View) -> Tensor:
    """Skin gets no lines, patches and blushes that the photo has not; those that it has may go.

    ``h(x)`` is LAB minus its mean over 15 x 15 px, ``w = head skin(p)``: ``sum w max(0, |h(o)| - |h(p)|) / 100 / (3 sum
    w + 50)`` over pixels and L, a, b.
    """
    excess = F.relu(_high_pass(view.drawn).abs() - _high_pass(view.given).abs())
    return _mean(excess, view.plane(HEAD) * view.skin)


def skin_steps(view: View) -> Tensor:
    """Light on skin goes over as softly as in the photo: no pale disk on a chin, no edge where a cheek's light ends.

    Of 2 x 2 means of LAB, horizontally and vertically: ``max(0, |d o| - |d p|)``, weighted by ``w = head skin(p)`` of
    the same means: ``sum w max(0, |d o| - |d p|) / 100 / (6 sum w + 50)`` over both directions and L, a, b. Means,
    because pores would forgive every edge; neighbours, because a patch that has the light's own height all over is
    wrong at its rim alone, which ``skin_marks`` does not see.
    """
    (have, want), weight = view.halves, F.avg_pool2d(view.plane(HEAD) * view.skin, 2)
    total = have.new_zeros(())
    for axis in (2, 3):
        made, given = neighbour_steps(have, axis), neighbour_steps(want, axis)
        first = weight.narrow(axis, 0, made.shape[axis])
        total = total + (first * F.relu(made.abs() - given.abs())).sum()
    return total / 100.0 / (6 * weight.sum() + _FEW)


def heads(view: View) -> Tensor:
    """Skin and dark hair are drawn as in t: mean absolute difference in CIELAB, divided by 100.

    ``w = head max(skin(p), dark(p))``, dark falling from 1 to 0 between a lightness of 20 and 35: ``sum w |LAB(o) -
    LAB(t)| / 100 / (3 sum w + 50)`` over pixels and L, a, b.
    """
    return _mean((view.drawn - view.wanted).abs(), view.skin_and_hair)


def bare_skin(view: View) -> Tensor:
    """Arms, hands and legs are drawn as in t: ``heads`` with ``w = body skin(p)``."""
    return _mean((view.drawn - view.wanted).abs(), view.plane(BODY) * view.skin)


def body_marks(view: View) -> Tensor:
    """Clothes get no strokes and patches that neither the photo nor t has.

    ``skin_marks`` of 2 x 2 means, less their mean over 7 x 7 of them (cloth has a grain, which would forgive strokes),
    whatever the colour: ``w = body``, ``sum w max(0, |h(o)| - max(|h(p)|, |h(t)|)) / 100 / (3 sum w + 50)``.
    """
    have, *others = (_high_pass(halved, CLOTH_RADIUS).abs() for halved in (*view.halves, F.avg_pool2d(view.wanted, 2)))
    return _mean(F.relu(have - torch.maximum(*others)), F.avg_pool2d(view.plane(BODY), 2))


def skin(picture: Tensor) -> Tensor:
    """How much a colour could be skin of any tone, ``N x 1 x H x W`` in [0, 1], without a gradient.

    ``exp(-((hue - 0.87) / 0.42)^2)``, falling to 0 for a chroma from 14 down to 6 (grey has no hue) and from 38 up to
    60; means of 3 x 3 px, so that a pore is no hole.
    """
    with torch.no_grad():
        a, b = box_mean(rgb_to_lab(picture), 1)[:, 1:].split(1, 1)
        chroma = torch.hypot(a, b)
        hue = torch.exp(-(((torch.atan2(b, a) - SKIN_HUE) / SKIN_WIDTH) ** 2))
        return hue * _ramp(chroma, _GREY, _COLOURED) * (1.0 - _ramp(chroma, _VIVID, _PAINT))


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """0 below ``low``, 1 above ``high``, a straight line between."""
    return ((x - low) / (high - low)).clamp(0, 1)


def _mean(lab: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of a difference in CIELAB, ``N x 3 x H x W``, divided by 100."""
    return (weight * lab).sum() / 100.0 / (3 * weight.sum() + _FEW)


def _high_pass(planes: Tensor, radius: int = FEATURE_RADIUS) -> Tensor:
    return planes - box_mean(planes, radius)


#: By key of ``loss:`` where a style is learned from pictures.
FACE_LOSSES: dict[str, Callable[[View], Tensor]] = {
    "faces": face_features,
    "face_tone": face_tone,
    "skin_tone": skin_tone,
    "skin_marks": skin_marks,
    "skin_steps": skin_steps,
    "heads": heads,
    "bare_skin": bare_skin,
    "body_marks": body_marks,
}
