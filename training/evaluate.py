"""Figures of a checkpoint on held-out photos: ``python -m training.evaluate --checkpoint X --photos DIR``.

A photo is taken as the teacher's input at twice the working size; the network gets its 2 x 2 means, so both see the
same crop and their pictures have the same size. For every style:

* ``ssim``: SSIM (``sdk.metrics.ssim``) of the network's picture to the teacher's, mean and worst photo;
* ``photo_ssim``: SSIM of the untouched photo to the teacher's: the distance there was;
* ``gap``: share of that distance that the network closed, ``1 - (1 - ssim) / (1 - photo_ssim)``, of the means;
* ``stlpips_ratio``: ST-LPIPS (AlexNet) of the network's picture to the teacher's over that of the photo, of the means:
  forgiving about places, strict about texture. Left out when ``stlpips-pytorch`` is not installed.

``--sheet out.png`` writes photo, teacher and network side by side. ``--min-gap 0.6`` exits with 1 when a smooth style
falls short, and when a style that is not smooth has an ST-LPIPS ratio above ``--max-ratio``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from sdk.errors import GateError, MissingRuntimeError, ToonEdgeError, UsageError, unknown_name
from sdk.files import write_atomically
from sdk.imaging import check_save_path, list_photos, read_photo, resize, save_picture
from sdk.metrics import ssim
from sdk.sheet import contact_sheet
from training.checkpoint import Checkpoint, load_checkpoint
from training.data.render import halve
from training.filters import render_all, style_filter
from training.losses import Perceptual, gap_closed


@dataclass(frozen=True, kw_only=True)
class StyleFigures:
    """One style on all photos; see the module for the formulas.

    Attributes:
        style: its name.
        smooth: the teacher is a local filter, judged by ``gap``; else by ``stlpips_ratio``.
        ssim, worst_ssim: mean and least over the photos.
        worst_photo: name of the photo with the least.
        photo_ssim: mean SSIM of photo and teacher.
        gap: share of the distance closed; 1 is the teacher.
        stlpips, photo_stlpips: mean ST-LPIPS (AlexNet) to the teacher; ``None`` where it was not measured.
    """

    style: str
    smooth: bool
    ssim: float
    worst_ssim: float
    worst_photo: str
    photo_ssim: float
    gap: float
    stlpips: float | None = None
    photo_stlpips: float | None = None

    @property
    def stlpips_ratio(self) -> float | None:
        """Network's distance over the photo's; ``None`` where it was not measured."""
        if self.stlpips is None or self.photo_stlpips is None:
            return None
        return self.stlpips / max(self.photo_stlpips, 1e-9)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What ``evaluate`` found."""

    name: str
    version: str
    sha256: str
    photos: int
    size: int
    styles: tuple[StyleFigures, ...]

    def to_json(self) -> str:
        """Stable, readable JSON."""
        described = dataclasses.asdict(self)
        for row, style in zip(described["styles"], self.styles, strict=True):
            row["stlpips_ratio"] = style.stlpips_ratio
        return json.dumps(described, indent=2)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One photo with its teachers and the network's pictures, all ``H x W x 3`` uint8 RGB of one size."""

    name: str
    photo: np.ndarray
    teachers: dict[str, np.ndarray]
    results: dict[str, np.ndarray]


def working_pair(rgb: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo as the teacher's input and as the network's.

    Args:
        rgb: ``H x W x 3`` uint8 RGB.
        size: longest side of the network's input, px; a smaller photo is not enlarged.

    Returns:
        ``2h x 2w x 3`` and ``h x w x 3`` uint8 RGB, h and w divisible by 16, the middle of the photo.

    Raises:
        UsageError: a side is shorter than 64 px.
    """
    height, width = rgb.shape[:2]
    scale = 2 * size / max(height, width)
    if scale < 1:
        rgb = resize(rgb, max(1, round(height * scale)), max(1, round(width * scale)))
        height, width = rgb.shape[:2]
    tall, wide = height // 32 * 32, width // 32 * 32
    if min(tall, wide) < 64:
        raise UsageError(f"a photo of {width} x {height} px is too small to judge a style on: give at least 64 px.")
    top, left = (height - tall) // 2, (width - wide) // 2
    double = np.ascontiguousarray(rgb[top : top + tall, left : left + wide])
    return double, halve(double)


def draw(checkpoint: Checkpoint, path: Path, styles: Sequence[str], size: int) -> Drawn:
    """Teachers and network on one photo file."""
    double, photo = working_pair(read_photo(path).rgb, size)
    image = _tensor(photo)
    rows = checkpoint.info.styles
    results = {}
    with torch.inference_mode():
        for style in styles:
            weights = torch.zeros(1, len(rows))
            weights[0, rows.index(style)] = 1.0
            values = checkpoint.generator(image, weights)[0].permute(1, 2, 0).numpy()
            results[style] = (values * 255 + 0.5).astype(np.uint8)
    return Drawn(path.name, photo, render_all(double, styles), results)


def evaluate(
    checkpoint: Checkpoint,
    photos: Sequence[Path],
    *,
    styles: Sequence[str] | None = None,
    size: int = 256,
    perceptual: bool = True,
    quiet: bool = False,
) -> tuple[Figures, list[Drawn]]:
    """Compares a network with its teachers on photos.

    Args:
        checkpoint: see ``training.checkpoint.load_checkpoint``.
        photos: photo files that were not trained on.
        styles: some of the checkpoint's styles; ``None``: all of them.
        size: longest side of the network's input, px.
        perceptual: measure ST-LPIPS too.
        quiet: no progress bar.

    Returns:
        The figures and, for a contact sheet, the pictures.

    Raises:
        UsageError: no photos, an unreadable one, or a style that the checkpoint or the filter table does not have.
        MissingRuntimeError: ``perceptual`` without the package ``stlpips-pytorch``.
    """
    if not photos:
        raise UsageError("there are no photos to evaluate on: give at least one.")
    if size < 32:
        raise UsageError(f"size {size} is too small to judge a style on: give at least 32 px.")
    names = checkpoint.info.styles if styles is None else tuple(styles)
    for style in names:
        if style not in checkpoint.info.styles:
            raise unknown_name("style", style, checkpoint.info.styles)
        style_filter(style)
    distance = Perceptual("alex") if perceptual else None
    drawn = [
        draw(checkpoint, path, names, size)
        for path in track(photos, "draw", console=Console(stderr=True, quiet=quiet), disable=quiet)
    ]
    figures = Figures(
        name=checkpoint.info.name,
        version=checkpoint.info.version,
        sha256=checkpoint.sha256,
        photos=len(drawn),
        size=size,
        styles=tuple(_figures(style, drawn, distance) for style in names),
    )
    return figures, drawn


def _figures(style: str, drawn: Sequence[Drawn], distance: Perceptual | None) -> StyleFigures:
    similarities = [_ssim(one.results[style], one.teachers[style]) for one in drawn]
    photo = float(np.mean([_ssim(one.photo, one.teachers[style]) for one in drawn]))
    worst = int(np.argmin(similarities))
    mean = float(np.mean(similarities))
    stlpips = photo_stlpips = None
    if distance is not None:
        stlpips = float(np.mean([_distance(distance, one.results[style], one.teachers[style]) for one in drawn]))
        photo_stlpips = float(np.mean([_distance(distance, one.photo, one.teachers[style]) for one in drawn]))
    return StyleFigures(
        style=style,
        smooth=style_filter(style).smooth,
        ssim=mean,
        worst_ssim=similarities[worst],
        worst_photo=drawn[worst].name,
        photo_ssim=photo,
        gap=gap_closed(mean, photo),
        stlpips=stlpips,
        photo_stlpips=photo_stlpips,
    )


def _ssim(picture: np.ndarray, reference: np.ndarray) -> float:
    return ssim(picture.astype(np.float64) / 255, reference.astype(np.float64) / 255)


def _distance(distance: Perceptual, picture: np.ndarray, reference: np.ndarray) -> float:
    with torch.inference_mode():
        return float(distance(_tensor(picture), _tensor(reference)))


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))[None]).float() / 255.0


def table(figures: Figures) -> str:
    """The figures, one line a style."""
    lines = [
        f"{figures.name} {figures.version}, {figures.photos} photos, working size {figures.size} px",
        f"{'style':<12} {'SSIM':>7} {'worst':>7} {'photo':>7} {'gap':>7} {'ST-LPIPS':>9} {'photo':>7} {'ratio':>6}  "
        "worst photo",
    ]
    for row in figures.styles:
        texture = f"{'-':>9} {'-':>7} {'-':>6}"
        if row.stlpips_ratio is not None:
            texture = f"{row.stlpips:>9.4f} {row.photo_stlpips:>7.4f} {row.stlpips_ratio:>6.2f}"
        lines.append(
            f"{row.style:<12} {row.ssim:>7.4f} {row.worst_ssim:>7.4f} {row.photo_ssim:>7.4f} {row.gap:>7.1%} "
            f"{texture}  {row.worst_photo}"
        )
    return "\n".join(lines)


def check_gates(figures: Figures, *, min_gap: float, max_ratio: float) -> None:
    """Holds smooth styles to ``min_gap`` and the others to ``max_ratio``.

    Raises:
        GateError: one sentence with every style that falls short.
        UsageError: a style that is not smooth was measured without ST-LPIPS.
    """
    short = []
    for row in figures.styles:
        if row.smooth:
            if not row.gap >= min_gap:
                short.append(f"{row.style} closes {row.gap:.1%} of the gap, not {min_gap:.0%}")
        elif row.stlpips_ratio is None:
            raise UsageError(
                f"style {row.style!r} is judged by ST-LPIPS, which was not measured: leave --no-stlpips out."
            )
        elif not row.stlpips_ratio <= max_ratio:
            short.append(f"{row.style} has an ST-LPIPS ratio of {row.stlpips_ratio:.2f}, above {max_ratio:.2f}")
    if short:
        raise GateError(f"the checkpoint falls short: {'; '.join(short)}: train longer or wider.")


def sheet_of(drawn: Sequence[Drawn], *, title: str = "", cell: int = 192) -> Image.Image:
    """A contact sheet: photo, then teacher and network of each style."""
    styles = list(drawn[0].teachers)
    columns = ["photo", *(heading for style in styles for heading in (f"{style}: teacher", "network"))]
    rows = [
        [one.photo, *(picture for style in styles for picture in (one.teachers[style], one.results[style]))]
        for one in drawn
    ]
    return contact_sheet(rows, columns=columns, rows=[one.name for one in drawn], title=title, cell=cell)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    checkpoint: Annotated[Path, typer.Option(help="A .safetensors checkpoint.")],
    photos: Annotated[Path, typer.Option(help="Folder of photos that were not trained on.")] = Path(
        "edge_tests/photos/test"
    ),
    style: Annotated[list[str] | None, typer.Option(help="Only this style; repeatable.")] = None,
    size: Annotated[int, typer.Option(help="Longest side of the network's input, px.")] = 256,
    limit: Annotated[int | None, typer.Option(help="Only the first photos.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (.png or .jpg).")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file, too.")] = None,
    stlpips: Annotated[bool, typer.Option(help="Measure ST-LPIPS when it is installed.")] = True,
    min_gap: Annotated[float | None, typer.Option(help="Exit with 1 when a smooth style closes less.")] = None,
    max_ratio: Annotated[float, typer.Option(help="With --min-gap: bar of the other styles.")] = 0.5,
) -> None:
    """Compare a checkpoint with its teachers on held-out photos."""
    console = Console(stderr=True)
    try:
        if sheet is not None:
            check_save_path(sheet)
        paths = list_photos(photos)[:limit]
        loaded = load_checkpoint(checkpoint)
        if stlpips:
            try:
                Perceptual("alex")
            except MissingRuntimeError as error:
                console.print(f"note: {error}", markup=False)
                stlpips = False
        figures, drawn = evaluate(loaded, paths, styles=style, size=size, perceptual=stlpips)
        typer.echo(figures.to_json() if json_ else table(figures))
        if out is not None:
            write_atomically(out, figures.to_json() + "\n")
        if sheet is not None:
            save_picture(sheet_of(drawn, title=f"{figures.name}: photo | teacher | network"), sheet)
        if min_gap is not None:
            check_gates(figures, min_gap=min_gap, max_ratio=max_ratio)
    except ToonEdgeError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(int(error.exit_code)) from error


if __name__ == "__main__":
    app()
