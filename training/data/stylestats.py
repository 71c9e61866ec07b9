"""Measure how folders of pictures are drawn: ``python -m training.data.stylestats --pictures DIR [--pictures DIR]``.

The same figures of photos and of a style set say what would have to change in a photo for it to look drawn: fewer grey
values between flat areas, darker lines, more light, more colour.  All are taken at one size, for a line of two pixels
in a picture of 256 is one of ten in a picture of 1400.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from sdk.errors import ToonEdgeError, UsageError

#: Shorter side at which pictures are measured, pixels; of longer ones the middle square counts.
SIDE = 256
#: A pixel is flat where the luma's gradient (central difference, 0..255 a pixel) is below this: no grain, no shading.
FLAT_BELOW = 1.0
#: A pixel is shaded where the gradient lies between ``FLAT_BELOW`` and this; above it is an edge.
SHADED_BELOW = 10.0
#: Canny's thresholds, 0..255: those of the measure of kept detail.
CANNY = (100, 200)
#: A line is dark and thin: a closing by an ellipse of this diameter, pixels, fills it in ...
LINE_DIAMETER = 9
#: ... and lifts its luma by at least this, 0..255.
LINE_DEPTH = 40
#: Points of the quantile function of the gradient's magnitude.
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True, kw_only=True)
class StyleStats:
    """How pictures are drawn; means over pictures.

    Attributes:
        pictures: how many were measured.
        luma: 5 %, 50 % and 95 % quantiles of the luma, 0..255.
        flat: share of flat pixels, 0..1.
        shaded: share of softly changing pixels, 0..1.
        edges: share of Canny edge pixels, 0..1.
        lines: share of pixels in dark thin lines, 0..1.
        line_width: mean width of the lines, pixels of a picture of ``SIDE``; 0 without lines.
        line_luma: median luma of the lines' pixels, 0..255; 0 without lines.
        saturation: mean of HSV's S, 0..1.
        gradient: the gradient's magnitude, 0..255 a pixel, at ``QUANTILES``: a loss can match this function.
    """

    pictures: int
    luma: tuple[float, float, float]
    flat: float
    shaded: float
    edges: float
    lines: float
    line_width: float
    line_luma: float
    saturation: float
    gradient: tuple[float, ...]


def measure(pictures: Sequence[np.ndarray]) -> StyleStats:
    """Measure pictures, each for itself, and take the means (of the lines' width and luma: over pictures with lines).

    Args:
        pictures: each H x W x 3, RGB, uint8, all of about one size.

    Raises:
        UsageError: there are none.
    """
    if not pictures:
        raise UsageError("no pictures to measure: name a folder with PNG, JPEG or WebP files.")
    rows = [_measure_one(picture) for picture in pictures]
    means = np.mean([row for row, _ in rows], axis=0)
    lines = np.array([line for _, line in rows if line is not None]).reshape(-1, 2)
    width, luma = lines.mean(axis=0) if len(lines) else (0.0, 0.0)
    return StyleStats(
        pictures=len(pictures),
        luma=(float(means[0]), float(means[1]), float(means[2])),
        flat=float(means[3]),
        shaded=float(means[4]),
        edges=float(means[5]),
        lines=float(means[6]),
        saturation=float(means[7]),
        line_width=float(width),
        line_luma=float(luma),
        gradient=tuple(float(value) for value in means[8:]),
    )


def _measure_one(picture: np.ndarray) -> tuple[list[float], tuple[float, float] | None]:
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    dy, dx = np.gradient(luma.astype(np.float32))
    gradient = np.hypot(dx, dy)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (LINE_DIAMETER, LINE_DIAMETER))
    lines = cv2.morphologyEx(luma, cv2.MORPH_BLACKHAT, kernel) >= LINE_DEPTH
    saturation = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 1] / 255
    row = [
        *np.quantile(luma, (0.05, 0.5, 0.95)),
        np.mean(gradient < FLAT_BELOW),
        np.mean((gradient >= FLAT_BELOW) & (gradient < SHADED_BELOW)),
        np.mean(cv2.Canny(luma, *CANNY) > 0),
        lines.mean(),
        saturation.mean(),
        *np.quantile(gradient, QUANTILES),
    ]
    if not lines.any():
        return [float(value) for value in row], None
    return [float(value) for value in row], (_width(lines), float(np.median(luma[lines])))


def _width(lines: np.ndarray) -> float:
    """Mean width of lines, pixels: area over length, the length being half of the rim's.

    A stroke of w x l pixels has a rim of about 2 l pixel sides along it (its short ends are left out).
    """
    padded = np.pad(lines, 1).astype(np.int8)
    sides = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    return float(2 * lines.sum() / sides)


def read_pictures(folder: Path, most: int) -> list[np.ndarray]:
    """Up to ``most`` pictures below a folder, evenly spread over their names.

    Returns:
        The middle squares, each ``SIDE`` x ``SIDE`` x 3, RGB, uint8.

    Raises:
        UsageError: the folder holds no pictures, or one cannot be decoded.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UsageError(f"{folder} holds no PNG, JPEG or WebP pictures: name a folder that does.")
    chosen = [paths[int(at)] for at in np.linspace(0, len(paths) - 1, min(most, len(paths)))]
    pictures = []
    for path in chosen:
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot decode {path}: {error}; remove it.") from error
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        square = rgb.crop((left, top, left + side, top + side))
        pictures.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return pictures


app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    pictures: Annotated[list[Path], typer.Option(help="Folder to measure, its sub-folders included; repeatable.")],
    most: Annotated[int, typer.Option(min=1, help="Pictures measured of each folder.")] = 200,
) -> None:
    """Print how the pictures of each folder are drawn: luma, flatness, edges, lines, colour."""
    table = Table(title=f"at {SIDE} pixels")
    for heading in ("folder", "n", "luma 5/50/95 %", "flat", "shaded", "edges", "lines", "width", "line luma", "S"):
        table.add_column(heading, overflow="fold")
    table.add_column(f"gradient at {'/'.join(f'{100 * q:.0f}' for q in QUANTILES)} %")
    try:
        for folder in pictures:
            stats = measure(read_pictures(folder, most))
            table.add_row(
                folder.name,
                str(stats.pictures),
                "/".join(f"{value:.0f}" for value in stats.luma),
                f"{stats.flat:.2f}",
                f"{stats.shaded:.2f}",
                f"{stats.edges:.3f}",
                f"{stats.lines:.3f}",
                f"{stats.line_width:.1f}",
                f"{stats.line_luma:.0f}",
                f"{stats.saturation:.2f}",
                "/".join(f"{value:.1f}" for value in stats.gradient),
            )
    except ToonEdgeError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(int(error.exit_code)) from error
    Console(width=160).print(table)


if __name__ == "__main__":
    app()
