"""Colour: how a face's skin changes, and how far two palettes are apart. All in CIE LAB (D65) from sRGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sdk.errors import UsageError
from training.metrics.detail import Region

#: The part of a face box (as BlazeFace draws it) that is cheeks, nose and brow: shares of its width and height.
PATCH_LEFT, PATCH_RIGHT, PATCH_TOP, PATCH_BOTTOM = 0.25, 0.75, 0.10, 0.60

#: Colours of a palette, and about how many pixels of a set of pictures it is found from.
PALETTE_COLOURS, PALETTE_PIXELS = 16, 50_000

_CODES = np.arange(256) / 255.0
#: sRGB codes to linear light.
_LINEAR = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4)
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
#: Linear sRGB to X / Xn, Y / Yn, Z / Zn; white is (1, 1, 1), so that greys have no colour at all.
_TO_XYZ_RATIOS = _TO_XYZ / _TO_XYZ.sum(1, keepdims=True)


def lab(rgb: np.ndarray) -> np.ndarray:
    """``H x W x 3`` uint8 sRGB to float32 CIE LAB under D65: L in [0, 100], a and b in about [-110, 110].

    IEC 61966-2-1 for sRGB, CIE 15 for LAB, written out: OpenCV's conversion interpolates in a table and is up to 0.2
    units off, which is too much where the bars are 2 and 5.
    """
    ratios = _LINEAR[rgb] @ _TO_XYZ_RATIOS.T
    curved = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(curved, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)


def mean_chroma(rgb: np.ndarray) -> float:
    """Mean ``sqrt(a^2 + b^2)`` of the pixels of ``H x W x 3`` uint8: 0 is grey."""
    return float(np.hypot(*np.moveaxis(lab(rgb)[..., 1:], -1, 0)).mean())


# ------------------------------------------------------------------------------------------------------------- skin


@dataclass(frozen=True, kw_only=True)
class SkinChange:
    """One face, photo to cartoon.

    Attributes:
        name: of the photo.
        person: who it is; faces of one person count as one in ``tone_shifts``.
        tone: L of the photo's patch, [0, 100].
        shift: L of the cartoon's patch minus ``tone``: above 0, lightened.
        distance: LAB distance of the mean colours.
    """

    name: str
    person: str
    tone: float
    shift: float
    distance: float


def face_patch(face: Region) -> Region:
    """The central patch of a face box: cheeks, nose and brow; at least one pixel."""
    height, width = face.bottom - face.top, face.right - face.left
    top, left = face.top + round(PATCH_TOP * height), face.left + round(PATCH_LEFT * width)
    return Region(
        top=top,
        left=left,
        bottom=max(top + 1, face.top + round(PATCH_BOTTOM * height)),
        right=max(left + 1, face.left + round(PATCH_RIGHT * width)),
    )


def skin_change(photo: np.ndarray, cartoon: np.ndarray, face: Region, *, name: str, person: str) -> SkinChange:
    """*Skin tone*: ``|mean LAB(cartoon patch) - mean LAB(photo patch)|`` (CIE76) of the face's central patch.

    The mean is taken in LAB, over the patch of ``face_patch``, eyes and brows included: they are the same share of it
    in both pictures.

    Args:
        photo, cartoon: ``H x W x 3`` uint8 sRGB of one size.
        face: the box in them.
        name, person: see ``SkinChange``.
    """
    part = face_patch(face).slices
    before, after = (lab(picture)[part].reshape(-1, 3).astype(np.float64).mean(0) for picture in (photo, cartoon))
    return SkinChange(
        name=name,
        person=person,
        tone=float(before[0]),
        shift=float(after[0] - before[0]),
        distance=float(np.linalg.norm(after - before)),
    )


def tone_shifts(changes: Sequence[SkinChange]) -> tuple[float, float] | None:
    """Mean L change of the darker and of the lighter half of the people.

    Each person's tone and shift are the means over their photos; people are sorted by tone; the darker half are the
    first ``n // 2`` and the lighter half the last ``n // 2``, so that the one in the middle of an odd number is in
    neither.

    Returns:
        Darker, lighter, in L units; ``None`` for fewer than two people.
    """
    people: dict[str, list[SkinChange]] = {}
    for change in changes:
        people.setdefault(change.person, []).append(change)
    means = sorted(
        (float(np.mean([one.tone for one in own])), float(np.mean([one.shift for one in own])))
        for own in people.values()
    )
    half = len(means) // 2
    if half == 0:
        return None
    return float(np.mean([shift for _, shift in means[:half]])), float(np.mean([shift for _, shift in means[-half:]]))


# ---------------------------------------------------------------------------------------------------------- palette


@dataclass(frozen=True, kw_only=True, eq=False)
class Palette:
    """Dominant colours of a set of pictures: ``K x 3`` LAB, and the share of pixels of each, ``K``, summing to 1."""

    colours: np.ndarray
    shares: np.ndarray


def palettes(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> tuple[Palette, Palette]:
    """The dominant colours of two sets of pictures, found together.

    K-means in LAB divides the pixels of both sets into ``PALETTE_COLOURS`` cells; each set's palette is the mean and
    the share of its own pixels in every cell that it has pixels in. Found apart, two palettes of the same pictures
    would differ by which local optimum k-means fell into (about 5 LAB units on our photos); found together they are
    the same.

    Each set gives about ``PALETTE_PIXELS`` pixels, the same number a picture, on an even grid; k-means++ starts from a
    fixed seed and keeps the best of three runs (Arthur and Vassilvitskii 2007): the same pictures, the same palettes.

    Args:
        ones, others: pictures, each ``H x W x 3`` uint8 sRGB.

    Raises:
        UsageError: a set without pictures.
    """
    first, second = _pixels(ones), _pixels(others)
    pixels = np.concatenate([first, second])
    cells = min(PALETTE_COLOURS, len(np.unique(pixels, axis=0)))
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 60, 0.05)
    start = np.zeros((len(pixels), 1), np.int32)
    _, labels, _ = cv2.kmeans(pixels, cells, start, stop, 3, cv2.KMEANS_PP_CENTERS)
    cell = np.ravel(labels)
    return _palette(first, cell[: len(first)]), _palette(second, cell[len(first) :])


def _pixels(pictures: Sequence[np.ndarray]) -> np.ndarray:
    if not pictures:
        raise UsageError("a palette of no pictures is not defined: give at least one.")
    each = max(1, PALETTE_PIXELS // len(pictures))
    samples = []
    for picture in pictures:
        flat = lab(picture).reshape(-1, 3)
        # A picture smaller than that gives some of its pixels twice: every picture has the same say.
        samples.append(flat[np.linspace(0, len(flat) - 1, each).round().astype(int)])
    return np.concatenate(samples).astype(np.float32)


def _palette(pixels: np.ndarray, cell: np.ndarray) -> Palette:
    there, index, counts = np.unique(cell, return_inverse=True, return_counts=True)
    sums = np.zeros((len(there), 3))
    np.add.at(sums, index, pixels)
    return Palette(colours=sums / counts[:, None], shares=counts / len(pixels))


def palette_distance(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Earth mover's distance of the palettes of two sets of pictures, LAB units: *colour harmony*, 0 for the same.

        min_F sum_ij F_ij |c_i - d_j|,  F >= 0,  sum_j F_ij = share of c_i,  sum_i F_ij = share of d_j

    the mean way that colour has to go (Rubner, Tomasi, Guibas, IJCV 40, 2000), solved exactly by OpenCV. See
    ``palettes``.
    """
    own, style = (
        np.column_stack([each.shares, each.colours]).astype(np.float32, order="C") for each in palettes(ones, others)
    )
    return float(cv2.EMD(own, style, cv2.DIST_L2)[0])
