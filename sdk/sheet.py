"""Contact sheets: one PNG with a row a photo and a column a style, so that eyes can judge what figures cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sdk.errors import UsageError, unknown_name
from sdk.imaging import PhotoLike, as_photo, resize
from sdk.stylize import Stylizer

_GAP = 6
_PAPER = (255, 255, 255)
_INK = (40, 40, 40)


def contact_sheet(
    pictures: Sequence[Sequence[PhotoLike]],
    *,
    columns: Sequence[str],
    rows: Sequence[str] = (),
    title: str = "",
    cell: int = 224,
) -> Image.Image:
    """Lays pictures out in a grid with labels.

    Args:
        pictures: rows of pictures, each a path, Pillow image or ``H x W x 3`` array (uint8, or floats in [0, 1]). They
            are scaled to fit a cell with their aspect kept; a row is as high as its highest picture.
        columns: a heading for each column.
        rows: a label for each row, written below it; none when empty.
        title: one line above all.
        cell: side of a cell, px, >= 16.

    Returns:
        The sheet, RGB.

    Raises:
        UsageError: no pictures, rows of different length, labels that do not match, or a cell below 16 px.
    """
    if not pictures or not columns:
        raise UsageError("a contact sheet needs at least one picture: give photos and styles.")
    if any(len(row) != len(columns) for row in pictures):
        raise UsageError(f"a contact sheet with {len(columns)} headings needs as many pictures in every row.")
    if rows and len(rows) != len(pictures):
        raise UsageError(f"a contact sheet of {len(pictures)} rows got {len(rows)} row labels: give one for each row.")
    if cell < 16:
        raise UsageError(f"a contact sheet's cell of {cell} px is too small: give at least 16.")
    font = ImageFont.load_default(max(10, cell / 14))
    line = int(font.getbbox("Ágy")[3]) + _GAP
    cells = [[_scaled(picture, cell) for picture in row] for row in pictures]
    heights = [max(picture.shape[0] for picture in row) for row in cells]
    top = _GAP + line * (1 + bool(title))
    height = top + sum(h + _GAP + line * bool(rows) for h in heights)
    width = _GAP + len(columns) * (cell + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_GAP, _GAP), _shortened(title, width - 2 * _GAP, font.getlength), _INK, font)
    for column, heading in enumerate(columns):
        left = _GAP + column * (cell + _GAP)
        draw.text((left, top - line), _shortened(heading, cell, font.getlength), _INK, font)
    for index, (row, row_height) in enumerate(zip(cells, heights, strict=True)):
        for column, picture in enumerate(row):
            left = _GAP + column * (cell + _GAP) + (cell - picture.shape[1]) // 2
            sheet.paste(Image.fromarray(picture), (left, top + (row_height - picture.shape[0]) // 2))
        top += row_height
        if rows:
            draw.text((_GAP, top + 1), _shortened(rows[index], width - 2 * _GAP, font.getlength), _INK, font)
            top += line
        top += _GAP
    return sheet


def stylized_sheet(
    stylizer: Stylizer,
    photos: Sequence[PhotoLike],
    *,
    styles: Sequence[str] | None = None,
    title: str = "",
    cell: int = 224,
    progress: Callable[[], None] | None = None,
) -> Image.Image:
    """A contact sheet of a bundle: each row a photo and the photo in every style.

    Args:
        photos: paths, Pillow images or arrays.
        styles: names, in the order of the columns; ``None`` is all of ``stylizer.styles``.
        progress: called after each picture drawn.

    Raises:
        UsageError: no photo, an unreadable photo, or an unknown style (the nearest is suggested).
    """
    chosen = stylizer.styles if styles is None else tuple(styles)
    for style in chosen:
        if style not in stylizer.styles:
            raise unknown_name("style", style, stylizer.styles)
    rows: list[list[PhotoLike]] = []
    for item in photos:
        photo = as_photo(item)
        row: list[PhotoLike] = [photo]
        for style in chosen:
            row.append(stylizer.stylize(photo, style))
            if progress is not None:
                progress()
        # The photo at a cell's size only: a sheet of large photos shall not hold them all.
        row[0] = _scaled(photo, cell)
        rows.append(row)
    return contact_sheet(rows, columns=("photo", *chosen), title=title, cell=cell)


def _scaled(picture: PhotoLike, cell: int) -> np.ndarray:
    """The picture, sides <= ``cell`` and the longer one equal to it; ``h x w x 3`` uint8."""
    rgb = as_photo(picture).rgb
    scale = cell / max(rgb.shape[:2])
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    return resize(rgb, height, width)


def _shortened(text: str, width: float, length: Callable[[str], float]) -> str:
    """The text, cut with an ellipsis where it would run past ``width`` px."""
    if length(text) <= width:
        return text
    while text and length(text + "…") > width:
        text = text[:-1]
    return text + "…"
