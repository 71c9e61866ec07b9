"""One drawn figure, and how it is framed before its ground."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdk.errors import MissingRuntimeError, UsageError


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the face lies on a source's canvas, and how large it is to become.

    Attributes:
        centre_x, centre_y: middle of the face, shares of the canvas's width and height.
        face: height of the face from chin to hairline, share of the canvas's height.
        smallest, largest: height of the face in the finished picture, share of its side.
        grounded: the figure is cut off below (a bust), and the cut must not show above the frame's lower edge.
    """

    centre_x: float
    centre_y: float
    face: float
    smallest: float
    largest: float
    grounded: bool


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure on a transparent ground.

    Attributes:
        art: SVG text, or an RGBA picture.
        frame: where its face is.
        source_file: the file of the package, or the recipe that draws it again.
        skin: ``#rrggbb``, or the tone's name where the source has fixed ones.
        hair: ``#rrggbb``, or empty where the source gives it with the skin.
    """

    art: str | Image.Image
    frame: Frame
    source_file: str
    skin: str
    hair: str


def render_svg(text: str, height: int) -> Image.Image:
    """SVG text as an RGBA picture of a height, pixels.

    Raises:
        MissingRuntimeError: resvg-py is not installed.
        UsageError: the text is no SVG.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise MissingRuntimeError("drawing SVG needs resvg-py: install toonedge[styles].") from error
    try:
        data = resvg_py.svg_to_bytes(svg_string=text, height=height)
    except ValueError as error:
        raise UsageError(f"cannot draw an SVG of {len(text)} characters ({error}): fetch the package again.") from error
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def render(art: str | Image.Image, height: int) -> Image.Image:
    """A drawing as an RGBA picture of a height, pixels."""
    if isinstance(art, str):
        return render_svg(art, height)
    return art.resize((max(round(art.width * height / art.height), 1), height), Image.Resampling.LANCZOS)


def compose(drawing: Drawing, ground: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Frame a figure like a portrait before a ground.

    The face's size and its place are drawn by chance within the frame's bounds; half of the figures are mirrored, for
    many sources look one way only.

    Args:
        drawing: the figure.
        ground: square RGB picture; its side is the finished picture's.
        rng: source of chance.

    Returns:
        RGB, of the ground's size.
    """
    side, frame = ground.width, drawing.frame
    height = round(rng.uniform(frame.smallest, frame.largest) * side / frame.face)
    figure = render(drawing.art, height)
    centre_x = frame.centre_x
    if rng.random() < 0.5:
        figure, centre_x = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 1 - centre_x
    left = round(side * (0.5 + rng.uniform(-0.1, 0.1)) - centre_x * figure.width)
    top = round(side * (0.48 + rng.uniform(-0.06, 0.06)) - frame.centre_y * figure.height)
    if frame.grounded:
        solid = figure.getchannel("A").point(lambda alpha: 255 * (alpha > 250)).getbbox()
        top = max(top, side - (solid[3] if solid else figure.height))  # the canvas may end below the bust
    picture = ground.copy()
    picture.paste(figure, (left, top), figure)
    return picture


def fingerprint(drawing: Drawing) -> np.ndarray:
    """What tells two figures apart, without frame and ground: 32 x 32 x 3, RGB, 0..255, on grey."""
    figure = render(drawing.art, 128)
    plain = Image.new("RGB", figure.size, (128, 128, 128))
    plain.paste(figure, (0, 0), figure)
    return np.asarray(plain.resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
