"""The classical teachers: photo filters that draw the cartoons the network learns to imitate.

Each style is one function and one row of ``FILTERS``. A filter sees the photo at twice the working size and returns
the working size: lines are drawn at 2x and averaged down, which keeps them crisp and keeps eyes and mouths.

Every filter here is *local*: no histogram, no mean of the picture, no superpixels, nothing tied to pixel coordinates.
A crop of the photo gives the crop of the teacher once the crop's own border (``MARGIN``) is left out, so a network with
a finite receptive field can learn it and tiles fit together. Steps are tanh ramps, lines are smooth ramps along the
edge's own direction: sensor noise and JPEG blocks do not flip them.

Sources: bilateral flattening, DoG ink and soft quantization follow Winnemoeller et al., "Real-time video abstraction"
(2006) and "XDoG" (2012); the line smoothing along the structure tensor Kang et al., "Coherent line drawing" (2007); the
watercolor pigment density Bousseau et al., "Interactive watercolor rendering" (2006); the sector filter Papari et al.,
"Artistic edge and corner enhancing smoothing" (2007), with soft weights over eight sectors.

OpenCV's thread pool deadlocks after ``fork``: call ``cv2.setNumThreads(1)`` in worker processes, or start them by
``spawn``.

``python -m training.filters --photos DIR --sheet out.png`` prints the figures and draws a contact sheet.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from sdk import imaging
from sdk.errors import GateError, ToonEdgeError, UsageError, unknown_name
from sdk.metrics import ssim

Image8 = NDArray[np.uint8]
Plane = NDArray[Any]  # H x W float32; OpenCV's own types do not say so
Planes = tuple[Plane, Plane, Plane]

MARGIN = 24
"""Working-size pixels from a crop's border beyond which the crop of a teacher is the teacher of the crop, within one
level of 255 (crops at even offsets)."""

MIN_SIZE = 32
"""Smallest photo side in pixels (at twice the working size)."""

MAX_SSIM_TO_PHOTO = 0.80
"""Gate: a style at least this far from the photo, on average."""

MAX_SSIM_BETWEEN = 0.85
"""Gate: any two styles at least this far from each other, on average."""

MIN_STABILITY = 0.93
"""Gate: a style must not change more than this under noise and JPEG, on average."""

MAX_GRAIN = 0.05
"""Gate: what a style changes under noise and JPEG, as a share of its distance to the photo: no network can learn it."""

_BORDER = cv2.BORDER_REFLECT_101


# ---------------------------------------------------------------------------------------------------- small tools


def _half(x: NDArray[Any]) -> NDArray[Any]:
    """Average 2 x 2 pixels."""
    return cv2.resize(x, (x.shape[1] // 2, x.shape[0] // 2), interpolation=cv2.INTER_AREA)


def _blur(x: NDArray[Any], sigma: float) -> NDArray[Any]:
    return cv2.GaussianBlur(x, (0, 0), sigma, borderType=_BORDER)


def _ramp(x: Plane, low: float, high: float) -> Plane:
    """Smoothstep: 0 below ``low``, 1 above ``high``."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _quantize(x: Plane, levels: int, sharpness: Plane) -> Plane:
    """Soft luminance quantization in [0, 1] (Winnemoeller 2006, eq. 9, made continuous between the steps).

    ``sharpness`` above 0 a pixel; at 1 and below the steps have all but gone.
    """
    v = x * levels
    step = np.round(v)
    return np.asarray((step + 0.5 * np.tanh(sharpness * (v - step)) / np.tanh(sharpness / 2.0)) / levels)


def _to_rgb8(rgb: NDArray[Any]) -> Image8:
    return (np.clip(rgb, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _lab_to_rgb(lightness: Plane, a: Plane, b: Plane) -> NDArray[np.float32]:
    """Lightness in [0, 1], a and b in CIE units; gives RGB in [0, 1], clipped to the gamut."""
    lab = cv2.merge([np.clip(lightness, 0.0, 1.0) * np.float32(100.0), a, b])
    return np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0.0, 1.0)


def _skin(a: Plane, b: Plane) -> Plane:
    """How much a colour could be skin of any tone, [0, 1]: hue near 50 degrees, chroma below 60.

    Skin of all tones shares its hue and differs in lightness, so a hue test treats dark and light skin alike.
    """
    hue = np.arctan2(b, a)
    return np.exp(-(((hue - 0.87) / 0.42) ** 2)) * (1.0 - _ramp(np.hypot(a, b), 38.0, 60.0))


def _coloured_skin(a: Plane, b: Plane) -> Plane:
    """``_skin`` where there is a colour at all: grey has no hue, what its noise looks like is no skin."""
    return _skin(a, b) * _ramp(np.hypot(a, b), 6.0, 14.0)


def _vivid(colour: Planes, gain: float, limit: float, skin_gain: float) -> tuple[Plane, Plane]:
    """Scale chroma by ``gain`` (``skin_gain`` on skin hues), bending softly to at most ``limit``.

    Near black the gain falls, so that the colour noise of night photos is not amplified.
    """
    lightness, a, b = colour
    chroma = np.hypot(a, b) + 1e-3
    wanted = (gain + (skin_gain - gain) * _skin(a, b)) * (0.5 + 0.5 * _ramp(lightness, 0.02, 0.22))
    scale = limit * np.tanh(wanted * chroma / limit) / chroma
    return a * scale, b * scale


def _hold_skin(tone: Plane, lightness: Plane, a: Plane, b: Plane, share: float) -> Plane:
    """Brings a style's lightness back to the photo's, by ``share``, where a colour could be skin.

    What comes back is the mean around a place (sigma 6 working-size pixels): bands and lines of the style stay. A
    style that lightens or darkens a scene so leaves people the skin they have.
    """
    skin = _blur(_coloured_skin(a, b), 2.0)
    return tone + share * skin * _blur(skin * (lightness - tone), 6.0) / (_blur(skin, 6.0) + np.float32(0.05))


def _sectors(x: NDArray[np.float32], radius: float, sharpness: float = 4.0) -> NDArray[np.float32]:
    """Soft eight-sector Kuwahara filter: paint patches with crisp borders. ``x`` is H x W x 3 float32.

    Each sector's mean counts by its inverse variance to the power ``sharpness`` / 2, so nothing flips under noise.
    """
    mean = _blur(x, radius * 0.5)
    variance = (_blur(x * x, radius * 0.5) - mean * mean).sum(-1)
    weight = (2e-4 + np.maximum(variance, 0.0)) ** np.float32(-sharpness / 2.0)
    h, w = variance.shape
    pad = int(radius) + 1
    sums = cv2.copyMakeBorder(mean * weight[..., None], pad, pad, pad, pad, _BORDER)
    weights = cv2.copyMakeBorder(weight, pad, pad, pad, pad, _BORDER)
    total = sums[pad : pad + h, pad : pad + w].copy()
    norm = weights[pad : pad + h, pad : pad + w].copy()
    for angle in np.arange(8) * (np.pi / 4.0):
        y = pad + round(radius * 0.8 * float(np.sin(angle)))
        x0 = pad + round(radius * 0.8 * float(np.cos(angle)))
        total += sums[y : y + h, x0 : x0 + w]
        norm += weights[y : y + h, x0 : x0 + w]
    return total / norm[..., None]


def _shadow_lift() -> Image8:
    """Look-up table for lightness: opens the deepest shadows (slope 1.8 at black), leaves everything above 0.45."""
    x = np.arange(256) / 255.0
    return np.clip((x + 0.8 * x * np.exp(-((x / 0.17) ** 2))) * 255.0 + 0.5, 0, 255).astype(np.uint8)


_SHADOW_LIFT = _shadow_lift()


# ------------------------------------------------------------------------------------------- work shared by styles


class Layers:
    """What several styles need from one photo, each computed once, when first asked for.

    Args:
        photo: 2H x 2W x 3 uint8 RGB.
    """

    def __init__(self, photo: Image8) -> None:
        self._photo = photo

    @cached_property
    def clean(self) -> Image8:
        """2H x 2W x 3 uint8 LAB: noise smoothed, edges kept, deepest shadows opened."""
        lab = cv2.cvtColor(self._photo, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.LUT(lab[..., 0], _SHADOW_LIFT)
        # uint8 on purpose: OpenCV's float bilateral filter scales its table by the picture's own range.
        for _ in range(2):
            lab = cv2.bilateralFilter(lab, 7, 20, 2.5, borderType=_BORDER)
        return np.asarray(lab, np.uint8)

    @cached_property
    def luma(self) -> Plane:
        """2H x 2W float32 lightness of ``clean`` in [0, 1]."""
        return self.clean[..., 0].astype(np.float32) / 255.0

    @cached_property
    def _flat_lab(self) -> NDArray[np.float32]:
        """H x W x 3 float32: lightness in [0, 1], a and b divided by 255; flattened."""
        lab: NDArray[Any] = self.clean
        for _ in range(2):
            lab = cv2.bilateralFilter(lab, 9, 15, 3.5, borderType=_BORDER)
        lab = cv2.bilateralFilter(_half(lab), 7, 13, 2.5, borderType=_BORDER).astype(np.float32)
        lab[..., 1:] -= 128.0
        lab *= np.float32(1.0 / 255.0)
        return lab

    @cached_property
    def flat(self) -> Planes:
        """Lightness [0, 1], a, b (CIE units), each H x W float32: flat regions with kept edges."""
        lab = self._flat_lab
        return lab[..., 0], lab[..., 1] * 255.0, lab[..., 2] * 255.0

    @cached_property
    def dodge(self) -> Plane:
        """H x W in (0, 1]: lightness over its surroundings, 1 where lighter; pupils, hair and creases come out dark."""
        luma = _half(self.luma)
        return np.clip((luma + 0.02) / (_blur(luma, 5.0) + 0.02), 0.0, 1.0)

    def painted(self, radius: float, detail: float = 0.5) -> Planes:
        """``flat`` turned into paint patches of about ``radius`` working-size pixels.

        A share ``detail`` of what the patches lose in lightness is given back: eyes and teeth stay readable.
        """
        lab = _sectors(self._flat_lab, radius)
        lab[..., 0] += detail * (self._flat_lab[..., 0] - lab[..., 0])
        return lab[..., 0], lab[..., 1] * 255.0, lab[..., 2] * 255.0

    @cached_property
    def _slopes(self) -> tuple[Plane, Plane]:
        """Derivatives of the luma across and down, 2H x 2W each, a pixel's worth."""
        luma = _blur(self.luma, 1.0)
        gx = cv2.Scharr(luma, cv2.CV_32F, 1, 0, scale=1 / 16, borderType=_BORDER)
        gy = cv2.Scharr(luma, cv2.CV_32F, 0, 1, scale=1 / 16, borderType=_BORDER)
        return gx, gy

    @cached_property
    def _tangent(self) -> tuple[Plane, Plane]:
        """Unit vector along the edges, 2H x 2W each, from the smoothed structure tensor."""
        gx, gy = self._slopes
        angle = 0.5 * np.arctan2(2.0 * _blur(gx * gy, 3.0), _blur(gx * gx, 3.0) - _blur(gy * gy, 3.0)) + np.pi / 2.0
        return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def _along_edges(self, x: Plane) -> Plane:
        """Average ``x`` along the edges (nine taps, sigma 3 pixels): broken lines join, specks fade."""
        tx, ty = self._tangent
        yy, xx = np.mgrid[0 : x.shape[0], 0 : x.shape[1]].astype(np.float32)
        total, norm = x.copy(), 1.0
        for step in (1.0, 2.0, 3.0, 4.5):
            weight = float(np.exp(-step * step / 18.0))
            for way in (step, -step):
                total += weight * cv2.remap(x, xx + way * tx, yy + way * ty, cv2.INTER_LINEAR, borderMode=_BORDER)
            norm += 2.0 * weight
        return total / norm

    def _edges(self, sigma: float) -> Plane:
        """Difference of Gaussians of the luma, negated: positive on the dark side of an edge."""
        return self._along_edges(_blur(self.luma, sigma * 1.6) - _blur(self.luma, sigma))

    @cached_property
    def _fine_edges(self) -> Plane:
        return self._edges(1.5)

    @cached_property
    def _bold_edges(self) -> Plane:
        return self._edges(2.3)

    @cached_property
    def _busy(self) -> Plane:
        """2H x 2W in [0, 1]: how much a place is texture (melange, foliage, fur), and neither outline nor face.

        Texture is dense in edges (their size counts up to a bound, so that one strong outline does not make its
        surroundings dense) that run in all directions (the coherence of the structure tensor, each edge counted by
        its direction alone); a face has such places too, so what could be skin and lies near it is left out.
        """
        dense = _ramp(_blur(np.minimum(np.abs(self._fine_edges), 0.012), 12.0) / np.float32(0.012), 0.32, 0.57)
        gx, gy = self._slopes
        square = gx * gx + gy * gy
        counts = np.sqrt(square / (square + np.float32(4e-4))) / (square + np.float32(1e-9))
        along = np.hypot(_blur(counts * (gx * gx - gy * gy), 12.0), _blur(counts * 2.0 * gx * gy, 12.0))
        coherence = along / (_blur(counts * square, 12.0) + np.float32(1e-3))
        _, a, b = self.flat
        skin = np.minimum(2.5 * _blur(_coloured_skin(a, b), 5.0), 1.0)
        far = cv2.resize(1.0 - skin, (dense.shape[1], dense.shape[0]), interpolation=cv2.INTER_LINEAR)
        return np.asarray(dense * (1.0 - _ramp(coherence, 0.30, 0.60)) * far)

    @cached_property
    def relief(self) -> Plane:
        """H x W in [0, 1]: 0 where the photo's light hardly changes (walls, skies), 1 where it does."""
        return _ramp(_half(_blur(np.hypot(*self._slopes), 4.0)), 0.002, 0.008)

    @cached_property
    def busy(self) -> Plane:
        """H x W in [0, 1]: how much a place is texture, and neither outline nor face."""
        return _half(self._busy)

    def calm_ink(self, fine: tuple[float, float], bold: tuple[float, float]) -> Plane:
        """H x W ink in [0, 1]: fine and bold lines, each a ramp (threshold, width); in texture only strong ones."""
        fine_ink = _ramp(self._fine_edges - 0.040 * self._busy, fine[0], sum(fine))
        bold_ink = _ramp(self._bold_edges - 0.008 * self._busy, bold[0], sum(bold))
        return np.maximum(_half(fine_ink), _half(bold_ink))

    def fine_ink(self, threshold: float, width: float) -> Plane:
        """H x W ink in [0, 1]: lines of about 1.5 working-size pixels; a ramp from ``threshold`` over ``width``."""
        return _half(_ramp(self._fine_edges, threshold, threshold + width))

    def fine_gap(self, threshold: float, width: float) -> Plane:
        """H x W in [0, 1]: like ``fine_ink``, on the light side of the edge."""
        return _half(_ramp(-self._fine_edges, threshold, threshold + width))

    def bold_ink(self, threshold: float, width: float) -> Plane:
        """H x W ink in [0, 1]: lines of about 2.5 working-size pixels."""
        return _half(_ramp(self._bold_edges, threshold, threshold + width))


# ------------------------------------------------------------------------------------------------------ the styles


def _comic(layers: Layers) -> Image8:
    # Paint, not the bilateral's flat colour: strong contrast would show every grain that the bilateral leaves, which
    # looks like scratches and is what a network cannot learn.
    lightness, a, b = layers.painted(2.0, 0.4)
    busy = layers.busy
    local = np.clip(lightness - _blur(lightness, 6.0), -0.16, 0.16)  # a gritty print has strong local contrast
    local = np.where(local > 0.0, 0.4 * local, local)  # in the light: a glow around hair
    # Steps where the light changes anyway, as Winnemoeller has them: on a wall they would be false contours.
    sharpness = 1.0 + 4.0 * layers.relief * (1.0 - busy)
    tone = _quantize(lightness + 0.7 * local * (1.0 - 0.6 * busy), 6, sharpness)
    tone = tone - 0.09 * np.sin(2.0 * np.pi * tone) * _ramp(tone, 0.08, 0.35)
    rgb = _lab_to_rgb(tone, *_vivid((lightness, a, b), 1.7, 85.0, 1.12))
    ink = layers.calm_ink(fine=(0.012, 0.022), bold=(0.016, 0.024))
    return _to_rgb8(rgb * (1.0 - 0.97 * ink)[..., None])


def _anime(layers: Layers) -> Image8:
    lightness, a, b = layers.painted(1.6)
    # About gamma 0.8 in the middle, but blacks and dark skin rise less than a gamma would lift them.
    tone = lightness + 0.78 * lightness * lightness * (1.0 - lightness)
    tone = tone + 0.10 * (1.0 - lightness) ** 3.5
    tone = tone + 0.05 * np.tanh((lightness - 0.5) / 0.06) * (1.0 - np.abs(2.0 * lightness - 1.0))
    glow = _blur(_ramp(tone, 0.6, 1.0), 4.0)
    tone = 1.0 - (1.0 - tone) * (1.0 - 0.30 * glow)
    tone = _hold_skin(tone, lightness, a, b, 0.75)
    cool = (1.0 - _ramp(lightness, 0.1, 0.65)) * (1.0 - 0.85 * _skin(a, b)) * 12.0 / (12.0 + np.hypot(a, b))
    a, b = _vivid((lightness, a, b), 1.65, 84.0, 1.1)
    rgb = _lab_to_rgb(tone, a + 5.0 * cool, b - 18.0 * cool)
    ink = layers.fine_ink(0.010, 0.030)[..., None]
    # A power darkens and saturates: the line takes a deep tint of what it borders on.
    return _to_rgb8(rgb ** (1.0 + 1.2 * ink) * (1.0 - 0.55 * ink))


def _cel(layers: Layers) -> Image8:
    lightness, a, b = layers.painted(2.4, 0.6)
    tone = 0.20 * lightness
    for edge, height in ((0.18, 0.26), (0.43, 0.30), (0.70, 0.28)):
        tone = tone + 0.80 * height / 0.84 * 0.5 * (1.0 + np.tanh((lightness - edge) / 0.035))
    tone = (0.02 + 0.96 * tone) * layers.dodge**0.4
    tone = _hold_skin(tone, lightness, a, b, 0.7)
    warm = (_ramp(tone, 0.3, 0.9) - 0.5) * (1.0 - 0.7 * _skin(a, b))
    chroma = np.hypot(a, b)
    coloured = chroma / (chroma + 10.0)
    a, b = _vivid((lightness, a, b), 1.9, 92.0, 1.12)
    rgb = _lab_to_rgb(tone, a + 4.0 * warm * coloured, b + 15.0 * warm * (0.15 + 0.85 * coloured))
    return _to_rgb8(rgb * (1.0 - layers.bold_ink(0.017, 0.022))[..., None])


def _pencil(layers: Layers) -> Image8:
    tone = 0.15 + 0.85 * _ramp(layers.flat[0], -0.11, 0.95)
    grey = tone * layers.dodge**1.2 * (1.0 - 0.85 * layers.fine_ink(0.006, 0.022))
    return _to_rgb8(grey[..., None] * np.array([0.990, 0.975, 0.940], np.float32))


def _watercolor(layers: Layers) -> Image8:
    lightness, a, b = layers.painted(3.2, 0.6)
    a, b = _blur(a, 1.5), _blur(b, 1.5)  # colour bleeds over the drawing
    tone = np.sqrt(lightness * lightness + 0.33**2) + 0.19 * _ramp(lightness, 0.40, 0.85)
    tone = 1.0 - np.log1p(np.exp((0.985 - tone) * 30.0)) / 30.0  # paper white, reached softly
    tone = _hold_skin(tone, lightness, a, b, 0.75)
    gx = cv2.Sobel(lightness, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8, borderType=_BORDER)
    gy = cv2.Sobel(lightness, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8, borderType=_BORDER)
    rim = np.tanh(_blur(np.hypot(gx, gy), 0.9) / 0.06)
    pool = np.clip(_blur(lightness, 6.0) - lightness, -0.09, 0.14)  # pigment runs to the darker side of an edge
    density = 1.3 * rim + 3.4 * pool + 0.6 * layers.fine_ink(0.010, 0.030)
    shade = (1.0 - _ramp(lightness, 0.0, 0.4)) * (1.0 - 0.8 * _skin(a, b)) * 8.0 / (8.0 + np.hypot(a, b))
    a, b = _vivid((lightness, a, b), 1.20, 48.0, 0.95)
    rgb = _lab_to_rgb(tone, a + 2.0 * shade, b - 7.0 * shade)
    rgb = rgb - (rgb - rgb * rgb) * density[..., None]
    rgb = rgb + (1.0 - rgb) * 0.7 * layers.fine_gap(0.010, 0.035)[..., None]
    return _to_rgb8(rgb * np.array([1.0, 0.993, 0.974], np.float32))


@dataclass(frozen=True)
class StyleFilter:
    """One teacher.

    Attributes:
        name: key of the style on command lines and in checkpoints.
        title: name for people.
        description: one sentence on the look.
        smooth: True for a local filter (no superpixels), which a small network can imitate pixel by pixel.
        render: from the shared layers of one photo (2H x 2W) to the H x W x 3 uint8 RGB teacher.
    """

    name: str
    title: str
    description: str
    smooth: bool
    render: Callable[[Layers], Image8]


FILTERS: dict[str, StyleFilter] = {
    row.name: row
    for row in (
        StyleFilter("comic", "Comic", "black ink lines, six soft tones, deep contrast, strong colour", True, _comic),
        StyleFilter("anime", "Anime", "bright and clean, tinted thin lines, cool blue shadows, glow", True, _anime),
        StyleFilter("cel", "Cel", "three hard-edged light bands, bold outline, warm light and cool shade", True, _cel),
        StyleFilter("pencil", "Pencil", "graphite lines and soft shading on warm paper", True, _pencil),
        StyleFilter("watercolor", "Watercolor", "pale washes, pigment pooled at edges, paper white", True, _watercolor),
    )
}


def style_filter(style: str) -> StyleFilter:
    """The table row of a style.

    Raises:
        UsageError: no such style; the message names the nearest.
    """
    if style not in FILTERS:
        raise unknown_name("style", style, FILTERS)
    return FILTERS[style]


def render_all(photo: Image8, styles: Iterable[str]) -> dict[str, Image8]:
    """Render several teachers of one photo; smoothing and edges are computed once.

    Args:
        photo: 2H x 2W x 3 uint8 RGB, at twice the working size, both sides even and at least ``MIN_SIZE``.
        styles: names from ``FILTERS``.

    Returns:
        Style name -> H x W x 3 uint8 RGB, in the order given.

    Raises:
        UsageError: unknown style, or a photo of another shape or type.
    """
    rows = [style_filter(style) for style in styles]
    _check(photo)
    layers = Layers(np.ascontiguousarray(photo))
    return {row.name: row.render(layers) for row in rows}


def render(style: str, photo: Image8) -> Image8:
    """Render one teacher; see ``render_all``."""
    return render_all(photo, [style])[style]


def _check(photo: Image8) -> None:
    shape, dtype = getattr(photo, "shape", None), getattr(photo, "dtype", None)
    if shape is None or dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
        seen = type(photo).__name__ if shape is None else f"{dtype} of shape {tuple(shape)}"
        raise UsageError(f"cannot render a teacher: the photo is {seen}; give H x W x 3 uint8 RGB.")
    if shape[0] % 2 or shape[1] % 2 or min(shape[:2]) < MIN_SIZE:
        raise UsageError(
            f"cannot render a teacher: the photo is {shape[1]} x {shape[0]} pixels; "
            f"give even sides of at least {MIN_SIZE} (twice the working size)."
        )


# ----------------------------------------------------------------------------------------------------- measurement


@dataclass(frozen=True)
class StyleFigures:
    """What ``measure`` found, over all photos.

    Attributes:
        styles: names, the order of every list below.
        photos: number of photos.
        to_photo: mean SSIM between the photo at the working size and each teacher (strength; gate <= 0.80).
        between: mean SSIM between any two teachers (distinctness; gate <= 0.85 off the diagonal).
        stability: mean SSIM between the teachers of the photo and of the photo with noise (sigma 4) and JPEG q70.
        render_ms: milliseconds a style, all rendered together.
    """

    styles: tuple[str, ...]
    photos: int
    to_photo: tuple[float, ...]
    between: tuple[tuple[float, ...], ...]
    stability: tuple[float, ...]
    render_ms: float

    @property
    def grain(self) -> tuple[float, ...]:
        """``(1 - stability) / (1 - to_photo)`` of each style: the share of a style that the photo's grain decides."""
        return tuple((1.0 - x) / max(1.0 - y, 1e-9) for x, y in zip(self.stability, self.to_photo, strict=True))


def disturb(photo: Image8, seed: int = 0) -> Image8:
    """The photo as a worse camera would give it: Gaussian noise of sigma 4 (of 255), then JPEG quality 70."""
    noise = np.random.default_rng(seed).normal(0.0, 4.0, photo.shape)
    noisy = np.clip(photo + noise, 0, 255).astype(np.uint8)
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(noisy, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 70])
    decoded = cv2.imdecode(np.asarray(coded), cv2.IMREAD_COLOR)
    if decoded is None:
        raise RuntimeError("OpenCV could not read back its own JPEG")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _ssim8(x: Image8, y: Image8) -> float:
    return ssim(x / np.float32(255.0), y / np.float32(255.0))


def measure(photos: Iterable[Image8], styles: Iterable[str]) -> StyleFigures:
    """Strength, distinctness, stability and speed of teachers.

    Args:
        photos: 2H x 2W x 3 uint8 RGB each, at twice the working size.
        styles: names from ``FILTERS``.
    """
    names = tuple(styles)
    to_photo, between, stability, seconds = [], [], [], 0.0
    for photo in photos:
        start = time.perf_counter()
        drawn = render_all(photo, names)
        seconds += time.perf_counter() - start
        again = render_all(disturb(photo), names)
        small = _half(photo)
        to_photo.append([_ssim8(small, drawn[s]) for s in names])
        pairs = np.eye(len(names))
        for i, j in itertools.combinations(range(len(names)), 2):
            pairs[i, j] = pairs[j, i] = _ssim8(drawn[names[i]], drawn[names[j]])
        between.append(pairs)
        stability.append([_ssim8(drawn[s], again[s]) for s in names])
    if not to_photo:
        raise UsageError("cannot measure the styles: 0 photos were given; give at least one.")
    return StyleFigures(
        styles=names,
        photos=len(to_photo),
        to_photo=tuple(np.mean(to_photo, 0).tolist()),
        between=tuple(tuple(row) for row in np.mean(between, 0).tolist()),
        stability=tuple(np.mean(stability, 0).tolist()),
        render_ms=1000.0 * seconds / len(to_photo) / len(names),
    )


def gate_failures(found: StyleFigures) -> tuple[str, ...]:
    """One sentence for each gate that the figures miss; empty when all pass."""
    failures = []
    for i, name in enumerate(found.styles):
        if found.to_photo[i] > MAX_SSIM_TO_PHOTO:
            failures.append(
                f"{name} is too weak: SSIM to the photo {found.to_photo[i]:.3f}, at most {MAX_SSIM_TO_PHOTO} allowed."
            )
        if found.stability[i] < MIN_STABILITY:
            failures.append(
                f"{name} is unstable: SSIM under noise {found.stability[i]:.3f}, at least {MIN_STABILITY} needed."
            )
        if found.grain[i] > MAX_GRAIN:
            failures.append(
                f"{name} draws grain: noise changes {found.grain[i]:.0%} of its distance to the photo, at most "
                f"{MAX_GRAIN:.0%} allowed."
            )
    for i, j in itertools.combinations(range(len(found.styles)), 2):
        if found.between[i][j] > MAX_SSIM_BETWEEN:
            failures.append(
                f"{found.styles[i]} and {found.styles[j]} are too alike: SSIM {found.between[i][j]:.3f}, "
                f"at most {MAX_SSIM_BETWEEN} allowed."
            )
    return tuple(failures)


def contact_sheet(photos: Iterable[Image8], styles: Iterable[str]) -> Image8:
    """One row a photo: the photo at the working size, then each style.

    Args:
        photos: 2H x 2W x 3 uint8 RGB each, all of one size.
        styles: names from ``FILTERS``.

    Returns:
        (photos * H) x ((1 + styles) * W) x 3 uint8 RGB.
    """
    names = list(styles)
    rows = [np.hstack([_half(p), *render_all(p, names).values()]) for p in photos]
    return np.vstack(rows)


def read_square(path: Path, size: int) -> Image8:
    """The middle square of a photo file, ``size`` x ``size`` x 3 uint8 RGB; errors as in ``sdk.imaging.read_photo``."""
    return imaging.resize(imaging.centre_crop(imaging.read_photo(path).rgb, 1.0), size, size)


def _main(
    photos: Annotated[Path, typer.Option(help="Folder of JPEG or PNG photos.")],
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet (PNG) to write.")] = None,
    style: Annotated[list[str] | None, typer.Option(help="Style; repeatable. Default: all.")] = None,
    size: Annotated[int, typer.Option(help="Working size in pixels.")] = 256,
) -> None:
    """Print strength, distinctness, stability and speed of the teachers; draw a contact sheet."""
    cv2.setNumThreads(1)
    try:
        names = [style_filter(s).name for s in style] if style else list(FILTERS)
        if sheet is not None:
            imaging.check_save_path(sheet)
        pictures = [read_square(path, 2 * size) for path in imaging.list_photos(photos)]
        found = measure(pictures, names)
        typer.echo(f"{found.photos} photos at {size} x {size}, {found.render_ms:.0f} ms a style (rendered together)\n")
        typer.echo(figures_table(found))
        if sheet is not None:
            imaging.save_picture(contact_sheet(pictures, names), sheet)
            typer.echo(f"\ncontact sheet: {sheet}")
        if failures := gate_failures(found):
            raise GateError(" ".join(failures))
    except ToonEdgeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(int(error.exit_code)) from error


def figures_table(found: StyleFigures) -> str:
    """The figures as a Markdown table."""
    head = ["style", "SSIM to the photo", "SSIM under noise", "grain", *(f"SSIM to {s}" for s in found.styles)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for i, name in enumerate(found.styles):
        between = ["-" if i == j else f"{v:.3f}" for j, v in enumerate(found.between[i])]
        cells = [name, f"{found.to_photo[i]:.3f}", f"{found.stability[i]:.3f}", f"{found.grain[i]:.1%}", *between]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(_main)
