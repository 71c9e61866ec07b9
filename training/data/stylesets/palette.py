"""Colours of people, clothes and grounds, spread evenly over what is seen in photos."""

from __future__ import annotations

import colorsys

import numpy as np

#: Skin from the lightest to the darkest, RGB 0..255, in about even steps of lightness.
SKIN = (
    (250, 224, 208),
    (241, 204, 178),
    (226, 178, 146),
    (205, 150, 115),
    (177, 120, 86),
    (145, 93, 64),
    (112, 70, 49),
    (82, 51, 38),
)
#: Hair as it grows, RGB 0..255: black, browns, chestnut, auburn, blonds, grey, white.
HAIR = (
    (26, 22, 21),
    (46, 32, 26),
    (70, 46, 32),
    (98, 64, 40),
    (122, 74, 44),
    (150, 82, 44),
    (196, 152, 92),
    (222, 192, 132),
    (148, 142, 138),
    (216, 212, 206),
)


def to_hex(colour: tuple[float, float, float]) -> str:
    """``#rrggbb`` of an RGB colour in 0..255; values outside are clipped."""
    r, g, b = (min(max(round(value), 0), 255) for value in colour)
    return f"#{r:02x}{g:02x}{b:02x}"


def skin_tone(share: float) -> str:
    """The skin colour at ``share`` of the way from the lightest (0) to the darkest (1), as ``#rrggbb``."""
    where = min(max(share, 0.0), 1.0) * (len(SKIN) - 1)
    low = min(int(where), len(SKIN) - 2)
    a, b = SKIN[low], SKIN[low + 1]
    r, g, bl = (x + (where - low) * (y - x) for x, y in zip(a, b, strict=True))
    return to_hex((r, g, bl))


def hair_colour(share: float) -> str:
    """The hair colour in whose equal part of 0..1 ``share`` lies, as ``#rrggbb``."""
    return to_hex(HAIR[min(int(max(share, 0.0) * len(HAIR)), len(HAIR) - 1)])


def cloth_colour(rng: np.random.Generator) -> str:
    """A dyed cloth: any hue, seldom garish, dark or light alike, as ``#rrggbb``."""
    return _hsv(rng.uniform(), rng.uniform(0.1, 0.75), rng.uniform(0.2, 0.95))


def ground_colour(rng: np.random.Generator, light: float) -> str:
    """A wall, a street, a room in shade: muted, as ``#rrggbb``.

    Args:
        rng: source of chance.
        light: 0 (night) to 1 (noon); the colours of one backdrop share it.
    """
    return _hsv(rng.uniform(), rng.uniform(0.05, 0.4), 0.15 + 0.75 * light + rng.uniform(-0.12, 0.1))


def near(rng: np.random.Generator, hue: float, spread: float, saturation: float, value: float) -> str:
    """A colour around a hue (0..1), saturation and value varied a little, as ``#rrggbb``."""
    return _hsv(
        (hue + rng.uniform(-spread, spread)) % 1.0,
        saturation + rng.uniform(-0.12, 0.12),
        value + rng.uniform(-0.08, 0.08),
    )


def shaded(colour: str, factor: float) -> str:
    """``#rrggbb`` multiplied by ``factor``: below 1 darker, above lighter."""
    r, g, b = (int(colour[at : at + 2], 16) * factor for at in (1, 3, 5))
    return to_hex((r, g, b))


def _hsv(hue: float, saturation: float, value: float) -> str:
    r, g, b = colorsys.hsv_to_rgb(hue, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return to_hex((255 * r, 255 * g, 255 * b))
