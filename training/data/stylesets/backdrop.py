"""Grounds drawn in the manner of a set: rooms, hills, streets and plain walls, with or without ink lines.

A figure on white teaches a network that half of every picture is white; a figure on a photo teaches that photo texture
is part of the style.  These grounds have the layout and the range of light of a photo and the drawing of the set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.data.stylesets.palette import cloth_colour, ground_colour, near, shaded


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a set draws.

    Attributes:
        line: width of the ink line, share of the frame's side; 0 for none.
        ink: colour of the line, ``#rrggbb``.
        soft: shapes are lit from above (a gradient in each) instead of flat.
    """

    line: float = 0.0
    ink: str = "#000000"
    soft: bool = False


class _Sheet:
    """SVG elements gathered on a frame of 100 x 100 units."""

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._defs: list[str] = []
        self._body: list[str] = []

    def add(self, element: str, fill: str) -> None:
        """Add an element such as ``rect x="1" ...`` (without brackets) in a colour, inked as the manner says."""
        if self._manner.soft:
            name = f"g{len(self._defs)}"
            self._defs.append(
                f'<linearGradient id="{name}" x1="0.2" y1="0" x2="0.6" y2="1"><stop offset="0"'
                f' stop-color="{shaded(fill, 1.12)}"/><stop offset="1" stop-color="{shaded(fill, 0.74)}"/>'
                "</linearGradient>"
            )
            fill = f"url(#{name})"
        line = self._manner.line * 100
        stroke = f' stroke="{self._manner.ink}" stroke-width="{line:.2f}" stroke-linejoin="round"' if line else ""
        self._body.append(f'<{element} fill="{fill}"{stroke}/>')

    def text(self) -> str:
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100" viewBox="0 0 100 100">'
            f"<defs>{''.join(self._defs)}</defs>{''.join(self._body)}</svg>"
        )


def draw_backdrop(rng: np.random.Generator, manner: Manner) -> str:
    """One ground as SVG text of 100 x 100 units; the same state of ``rng`` gives the same text."""
    sheet = _Sheet(manner)
    theme = _THEMES[int(rng.integers(len(_THEMES)))]
    theme(sheet, rng, float(rng.uniform(0.05, 1.0)))
    return sheet.text()


def _rect(x: float, y: float, w: float, h: float, r: float = 0.0) -> str:
    return f'rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{r:.1f}"'


def _oval(x: float, y: float, rx: float, ry: float) -> str:
    return f'ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{rx:.1f}" ry="{ry:.1f}"'


def _wall(sheet: _Sheet, rng: np.random.Generator, light: float) -> None:
    """A plain wall of one, two or a few broad stripes."""
    sheet.add(_rect(-5, -5, 110, 110), ground_colour(rng, light))
    stripes = int(rng.integers(0, 4))
    for stripe in range(stripes):
        x = -5 + 110 * (stripe + rng.uniform(0.1, 0.6)) / stripes
        sheet.add(_rect(x, -5, rng.uniform(6, 30), 110), ground_colour(rng, light))


def _room(sheet: _Sheet, rng: np.random.Generator, light: float) -> None:
    """A wall with a window, shelves with books, a picture, a plant or a lamp."""
    wall = ground_colour(rng, light)
    sheet.add(_rect(-5, -5, 110, 110), wall)
    for left in (rng.uniform(-8, 8), rng.uniform(62, 78)):
        kind = int(rng.integers(4))
        top, wide = rng.uniform(2, 22), rng.uniform(22, 34)
        if kind == 0:
            sheet.add(_rect(left, top, wide, 48, 1), shaded(wall, 1.25))
            for pane in range(2):
                x = left + 2 + pane * (wide / 2 - 1)
                sheet.add(_rect(x, top + 2, wide / 2 - 3, 44), near(rng, 0.56, 0.05, 0.35, 0.35 + 0.6 * light))
        elif kind == 1:
            for shelf in range(3):
                y = top + 24 * shelf
                x = left
                while x < left + wide - 3:
                    thick, tall = rng.uniform(2.5, 5), rng.uniform(11, 18)
                    sheet.add(_rect(x, y + 20 - tall, thick, tall), cloth_colour(rng))
                    x += thick
                sheet.add(_rect(left - 2, y + 20, wide + 4, 2.5), near(rng, 0.08, 0.02, 0.5, 0.2 + 0.5 * light))
        elif kind == 2:
            sheet.add(_rect(left, top, wide, 26), shaded(wall, 0.5))
            sheet.add(_rect(left + 3, top + 3, wide - 6, 20), ground_colour(rng, light))
            sheet.add(_oval(left + wide / 2, top + 15, 6, 6), cloth_colour(rng))
        else:
            for leaf in range(7):
                x, y = left + wide / 2 + rng.uniform(-11, 11), 50 - leaf * 5 + rng.uniform(-3, 3)
                sheet.add(
                    _oval(x, y, rng.uniform(4, 8), rng.uniform(5, 9)), near(rng, 0.32, 0.06, 0.5, 0.2 + 0.45 * light)
                )
            sheet.add(_rect(left + wide / 2 - 7, 52, 14, 16, 2), cloth_colour(rng))
    sheet.add(_rect(-5, rng.uniform(72, 86), 110, 40), ground_colour(rng, light * 0.8))


def _hills(sheet: _Sheet, rng: np.random.Generator, light: float) -> None:
    """Sky with clouds, rows of hills, trees."""
    sheet.add(_rect(-5, -5, 110, 110), near(rng, 0.57, 0.06, 0.4, 0.25 + 0.68 * light))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, 100), rng.uniform(4, 30)
        sheet.add(_oval(x, y, rng.uniform(9, 18), rng.uniform(3, 6)), near(rng, 0.6, 0.1, 0.1, 0.4 + 0.5 * light))
    for row in range(3):
        y = 34 + 16 * row + rng.uniform(-6, 6)
        a, b = rng.uniform(-16, 16), rng.uniform(-16, 16)
        green = near(rng, 0.28, 0.12, 0.42, (0.2 + 0.5 * light) * (1.1 - 0.15 * row))
        sheet.add(f'path d="M-5 {y:.1f} C 25 {y + a:.1f} 65 {y + b:.1f} 105 {y:.1f} V105 H-5 Z"', green)
        for _ in range(int(rng.integers(0, 4))):
            x, tall = rng.uniform(0, 100), rng.uniform(9, 20)
            sheet.add(_rect(x - 1, y - tall * 0.2, 2.4, tall * 0.5), near(rng, 0.07, 0.02, 0.5, 0.15 + 0.3 * light))
            leaves = near(rng, 0.3, 0.1, 0.5, 0.15 + 0.5 * light)
            if rng.random() < 0.5:
                sheet.add(_oval(x, y - tall * 0.5, tall * 0.32, tall * 0.45), leaves)
            else:
                sheet.add(
                    f'path d="M{x - tall * 0.3:.1f} {y:.1f} L{x:.1f} {y - tall:.1f} L{x + tall * 0.3:.1f} {y:.1f} Z"',
                    leaves,
                )


def _street(sheet: _Sheet, rng: np.random.Generator, light: float) -> None:
    """Houses with windows under a sky."""
    sheet.add(_rect(-5, -5, 110, 110), near(rng, 0.58, 0.08, 0.35, 0.2 + 0.72 * light))
    x = -4.0
    while x < 104:
        wide, top = rng.uniform(14, 28), rng.uniform(2, 45)
        front = ground_colour(rng, light)
        sheet.add(_rect(x, top, wide, 110), front)
        lit = near(rng, 0.13, 0.03, 0.4, 0.9) if light < 0.4 else shaded(front, 0.6)
        columns = int(rng.integers(2, 4))
        for row in range(int((78 - top) / 12)):
            for column in range(columns):
                side = wide / columns
                sheet.add(_rect(x + side * (column + 0.22), top + 5 + 12 * row, side * 0.56, 7), lit)
        x += wide
    sheet.add(_rect(-5, 84, 110, 30), ground_colour(rng, light * 0.7))


_THEMES: tuple[Callable[[_Sheet, np.random.Generator, float], None], ...] = (_wall, _room, _room, _hills, _street)
