"""Render training pairs: ``python -m training.data.render --content data/content --out data/pairs --variants 8``.

Every photo of ``CONTENT/train`` gives N square *views* (its own crop, scale, mirror, light, colour and blur), and every
view is drawn by all teachers at twice the working size: hue and light change what a teacher draws, so the teacher is
rendered from the view, never recoloured. Teachers are the filters of ``training.filters`` and, with ``--teacher``,
networks (``training.data.teachers``). ``CONTENT/val`` gives plain views, without augmentation.

What a teacher shall *not* follow (sensor noise, JPEG blocks) is not put in here: the loader adds it to the network's
input alone (``training.data.pairs``), new every time.

Layout, memory-mapped by the loader::

    OUT/train/v000/photos.npy     P x size x size x 3 uint8 RGB, the clean views
    OUT/train/v000/comic.npy      the same shape, one file a teacher
    OUT/train/v000/shard.json     what the views are and which teacher drew them; written last

One shard is one variant of all photos, so training can start when the first shard is there. A second call renders only
what is missing: new variants, new styles, or a style whose teacher draws differently by now. Variant 0 is the plain
middle of the photo at its largest scale; the others are drawn from (seed, file name, variant) alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sdk.errors import ToonEdgeError, UsageError
from sdk.files import disk_trouble, write_atomically
from sdk.imaging import list_photos, read_photo
from training.data.pool import worker_pool
from training.data.teachers import NetworkTeacher, check_names, parse_teacher
from training.filters import FILTERS, render_all, style_filter

Image8 = np.ndarray

FORMAT = 1
PHOTOS = "photos"
SPLITS = ("train", "val")
#: Share of the photo's short side that a view shows, and how often: mostly whole photos, which is what a user gives.
_FRAMINGS: tuple[tuple[float, float, float], ...] = ((0.5, 0.85, 1.0), (0.3, 0.5, 0.85), (0.2, 0.3, 0.55))
#: A view is not cut smaller than this share of the teacher's input size: enlarging more makes mush.
_LEAST_SOURCE = 0.65
#: Plain framings of ``val``: the whole, a middle, a detail.
_PLAIN_FRAMINGS = (1.0, 0.6, 0.4)


@dataclass(frozen=True, kw_only=True)
class Light:
    """A colour and light change of a view. The defaults change nothing.

    Attributes:
        hue: rotation, degrees.
        saturation: factor on HSV saturation.
        gamma: exponent on [0, 1] sRGB values.
        gain: white balance, a factor a channel (R, G, B).
        contrast: factor about mid-grey.
        brightness: offset in [0, 1] units.
        blur: Gaussian sigma in pixels of the teacher's input, 0 for none.
    """

    hue: float = 0.0
    saturation: float = 1.0
    gamma: float = 1.0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    brightness: float = 0.0
    blur: float = 0.0


@dataclass(frozen=True, kw_only=True)
class View:
    """A square part of a photo, as seen by the teachers.

    Attributes:
        side: of the square, as a share of the photo's short side.
        x, y: place of the square in [0, 1]: 0 is left / top, 1 right / bottom.
        mirror: left and right swapped.
        light: see ``Light``.
    """

    side: float
    x: float = 0.5
    y: float = 0.5
    mirror: bool = False
    light: Light = Light()


def draw_view(seed: int, name: str, variant: int, *, augment: bool) -> View:
    """The view number ``variant`` of the photo called ``name``; the same arguments give the same view."""
    if not augment:
        return View(side=_PLAIN_FRAMINGS[variant % len(_PLAIN_FRAMINGS)])
    if variant == 0:
        return View(side=1.0)
    rng = np.random.default_rng([seed, variant, zlib.crc32(name.encode())])
    framing = rng.choice(len(_FRAMINGS), p=[share for share, _, _ in _FRAMINGS])
    _, low, high = _FRAMINGS[framing]
    x, y, mirror = rng.random(), rng.random(), rng.random() < 0.5
    return View(
        side=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        x=float(x),
        y=float(y),
        mirror=bool(mirror),
        light=_draw_light(rng),
    )


def _draw_light(rng: np.random.Generator) -> Light:
    def maybe(chance: float, value: float, otherwise: float) -> float:
        return value if rng.random() < chance else otherwise

    # Half of the hue changes go all round: a green tree must stay green whatever the training photos showed.
    hue = maybe(0.35, rng.uniform(-180, 180), maybe(0.5, rng.uniform(-20, 20), 0.0))
    saturation = maybe(0.06, 0.0, maybe(0.6, rng.uniform(0.5, 1.6), 1.0))
    gamma = maybe(0.5, float(np.exp(rng.uniform(np.log(0.6), np.log(1.7)))), 1.0)
    temperature, tint = maybe(0.5, rng.normal(0, 0.12), 0.0), maybe(0.5, rng.normal(0, 0.05), 0.0)
    gain = (float(np.exp(temperature)), float(np.exp(tint)), float(np.exp(-temperature)))
    return Light(
        hue=float(hue),
        saturation=float(saturation),
        gamma=float(gamma),
        gain=gain,
        contrast=float(maybe(0.4, rng.uniform(0.65, 1.3), 1.0)),
        brightness=float(maybe(0.3, rng.uniform(-0.12, 0.12), 0.0)),
        blur=float(maybe(0.2, rng.uniform(0.6, 2.2), 0.0)),
    )


def relight(rgb: Image8, light: Light) -> Image8:
    """``H x W x 3`` uint8 RGB with another light; the same array when nothing changes."""
    if light == Light():
        return rgb
    image: np.ndarray = rgb.astype(np.float32) / np.float32(255)
    if light.blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), light.blur)
    image = image * np.asarray(light.gain, np.float32)
    image = np.clip(image, 0.0, 1.0) ** np.float32(light.gamma)
    image = np.clip((image - 0.5) * light.contrast + 0.5 + light.brightness, 0.0, 1.0).astype(np.float32)
    if light.hue or light.saturation != 1.0:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # H in degrees, S and V in [0, 1]
        hsv[..., 0] = np.mod(hsv[..., 0] + np.float32(light.hue), np.float32(360))
        hsv[..., 1] = np.clip(hsv[..., 1] * np.float32(light.saturation), 0, 1)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def cut_view(rgb: Image8, view: View, size: int) -> Image8:
    """The view in the teacher's input size.

    Args:
        rgb: the photo, ``H x W x 3`` uint8 RGB.
        view: what to cut.
        size: working size S in pixels.

    Returns:
        ``2S x 2S x 3`` uint8 RGB.
    """
    height, width = rgb.shape[:2]
    short = min(height, width)
    side = round(min(short, max(view.side * short, _LEAST_SOURCE * 2 * size)))
    top, left = round(view.y * (height - side)), round(view.x * (width - side))
    part = rgb[top : top + side, left : left + side]
    if view.mirror:
        part = part[:, ::-1]
    shrinks = side > 2 * size
    part = cv2.resize(
        np.ascontiguousarray(part), (2 * size, 2 * size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return relight(part, view.light)


def halve(rgb: Image8) -> Image8:
    """``2H x 2W x 3`` uint8 to ``H x W x 3``: the mean of 2 x 2 pixels, rounded, as teachers do."""
    return cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA)


@lru_cache
def teacher_fingerprint(style: str) -> str:
    """Hex digest of what a teacher draws on a made picture: changes when the teacher draws differently."""
    rng = np.random.default_rng(7)
    coarse = cv2.resize(rng.random((6, 6, 3)).astype(np.float32), (128, 128), interpolation=cv2.INTER_CUBIC)
    coarse[40:90, 40:44] = 0.05
    picture = (np.clip(coarse + rng.normal(0, 0.01, coarse.shape), 0, 1) * 255).astype(np.uint8)
    return hashlib.sha256(render_all(picture, [style])[style].tobytes()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One view to render, sent to a worker process."""

    path: str
    view: View
    size: int
    styles: tuple[str, ...]
    networks: tuple[NetworkTeacher, ...]


def _render(job: _Job) -> tuple[Image8, dict[str, Image8]]:
    double = cut_view(read_photo(job.path).rgb, job.view, job.size)
    drawn = render_all(double, job.styles)
    return halve(double), drawn | {teacher.name: teacher.draw(double) for teacher in job.networks}


def render_split(
    photos: Sequence[Path],
    out: Path,
    *,
    styles: Sequence[str],
    networks: Sequence[NetworkTeacher] = (),
    variants: int,
    size: int,
    seed: int = 0,
    augment: bool = True,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Renders the shards of one split, those that are missing or out of date.

    Args:
        photos: photo files, unique names.
        out: folder of the split; shards become ``out/v000``, ``out/v001``, ...
        styles: filters to draw.
        networks: networks to draw.
        variants: views a photo, one shard each.
        size: working size in pixels, divisible by 16.
        seed: of the augmentation.
        augment: False: plain views.
        workers: processes; 0 renders in this one.
        progress: called with the number of views that are done or need not be done.

    Returns:
        Number of views rendered.

    Raises:
        UsageError: unknown style, unreadable photo.
        FileTroubleError: the disk says no; a shard that is not whole has no ``shard.json`` and is made again.
    """
    for style in styles:
        style_filter(style)
    check_names([*styles, *(teacher.name for teacher in networks)])
    names = [path.name for path in photos]
    if len(set(names)) != len(names):
        raise UsageError("two photos have the same file name: give each its own.")
    advance = progress or (lambda _count: None)
    rendered = 0
    with worker_pool(workers) as run:
        for variant in range(variants):
            folder = out / f"v{variant:03d}"
            views = [draw_view(seed, name, variant, augment=augment) for name in names]
            plan = {
                "format": FORMAT,
                "size": size,
                "files": [[path.name, path.stat().st_size] for path in photos],
                "views": [asdict(view) for view in views],
            }
            plan = json.loads(json.dumps(plan))  # tuples become lists, as they are in the file
            wanted = {style: teacher_fingerprint(style) for style in styles}
            wanted |= {teacher.name: teacher.fingerprint() for teacher in networks}
            present = _present(folder, plan)
            missing = tuple(style for style in wanted if present.get(style) != wanted[style])
            if not missing:
                advance(len(photos))
                continue
            jobs = [
                _Job(
                    path=str(path),
                    view=view,
                    size=size,
                    styles=tuple(style for style in styles if style in missing),
                    networks=tuple(teacher for teacher in networks if teacher.name in missing),
                )
                for path, view in zip(photos, views, strict=True)
            ]
            with disk_trouble("write the pairs", folder):
                folder.mkdir(parents=True, exist_ok=True)
                shape = (len(jobs), size, size, 3)
                parts = _fill(folder, run(_render, jobs), shape=shape, styles=missing, advance=advance)
                if not present:  # of another plan, or none: its list must not outlive the arrays it describes
                    (folder / "shard.json").unlink(missing_ok=True)
                for name, part in parts.items():
                    os.replace(part, folder / f"{name}.npy")
            have = present | {style: wanted[style] for style in missing}
            write_atomically(folder / "shard.json", json.dumps({"plan": plan, "teachers": have}))
            rendered += len(jobs)
    return rendered


def _present(folder: Path, plan: dict[str, object]) -> dict[str, str]:
    """Style -> fingerprint of what this shard already holds of this very plan."""
    try:
        described = json.loads((folder / "shard.json").read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(described, dict) or described.get("plan") != plan:
        return {}
    teachers: dict[str, str] = described.get("teachers", {})
    return {style: print_ for style, print_ in teachers.items() if (folder / f"{style}.npy").is_file()}


def _fill(
    folder: Path,
    results: Iterator[tuple[Image8, dict[str, Image8]]],
    *,
    shape: tuple[int, int, int, int],
    styles: tuple[str, ...],
    advance: Callable[[int], None],
) -> dict[str, Path]:
    """Writes the rendered views into ``.NAME.part`` files; returns them by name."""
    parts = {name: folder / f".{name}.part" for name in (PHOTOS, *styles)}
    arrays = {
        name: np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape) for name, part in parts.items()
    }
    for row, (photo, drawn) in enumerate(results):
        for name, picture in {PHOTOS: photo, **drawn}.items():
            arrays[name][row] = picture
        advance(1)
    for array in arrays.values():
        array.flush()
    return parts


def render_pairs(
    content: Path,
    out: Path,
    *,
    styles: Sequence[str] = tuple(FILTERS),
    networks: Sequence[NetworkTeacher] = (),
    variants: int = 8,
    val_variants: int = 2,
    size: int = 320,
    seed: int = 0,
    workers: int = 2,
    splits: Sequence[str] = SPLITS,
    quiet: bool = False,
) -> None:
    """Renders ``content/train`` (augmented) and ``content/val`` (plain) into ``out/train`` and ``out/val``.

    Raises:
        UsageError: a folder without ``train`` or ``val``, an unknown style or split, a bad number, a broken photo.
        FileTroubleError: the disk says no.
    """
    if size < 32 or size % 16:
        raise UsageError(f"size {size} is not usable: give a multiple of 16, at least 32.")
    if variants < 1 or val_variants < 1 or workers < 0:
        raise UsageError(
            f"variants {variants}, val-variants {val_variants} and workers {workers}: give 1 or more views a photo "
            "and 0 or more workers."
        )
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise UsageError(f"unknown split {unknown[0]!r}: choose from {', '.join(SPLITS)}.")
    for style in styles:
        style_filter(style)
    check_names([*styles, *(teacher.name for teacher in networks)])
    absent = [split for split in splits if not (content / split).is_dir()]
    if absent:
        raise UsageError(
            f"{content} has no folder {absent[0]!r}: give the folder that holds train/ and val/, as "
            "`python -m training.data.sample` writes it, or ask for one of them with --split."
        )
    found = {split: list_photos(content / split, recursive=True) for split in splits}
    counts = {"train": variants, "val": val_variants}
    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        for split in splits:
            task = bar.add_task(f"render {split}", total=len(found[split]) * counts[split])
            render_split(
                found[split],
                out / split,
                styles=styles,
                networks=networks,
                variants=counts[split],
                size=size,
                seed=seed,
                augment=split == "train",
                workers=workers,
                progress=partial(bar.advance, task),
            )


app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    content: Annotated[Path, typer.Option(help="Folder with train/ and val/ photos.")] = Path("data/content"),
    out: Annotated[Path, typer.Option(help="Folder to write; what is there and still true is kept.")] = Path(
        "data/pairs"
    ),
    variants: Annotated[int, typer.Option(help="Augmented views a training photo.")] = 8,
    val_variants: Annotated[int, typer.Option(help="Plain views a validation photo (whole, middle, detail).")] = 2,
    size: Annotated[int, typer.Option(help="Working size of a view, px; teachers see twice that.")] = 320,
    styles: Annotated[str, typer.Option(help="Teachers, separated by commas.")] = ",".join(FILTERS),
    teacher: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FILE.onnx",
            help="A network that draws one more style; options after commas: range=unit|signed|bytes, scale=1|2, "
            "style=NAME. Repeatable.",
        ),
    ] = [],  # noqa: B006
    split: Annotated[list[str], typer.Option(help="Only this split; repeatable.")] = list(SPLITS),  # noqa: B006
    seed: Annotated[int, typer.Option(help="Of the augmentation.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes; 0: this one.")] = 2,
) -> None:
    """Render augmented photo views and their teachers into memory-mapped arrays; resumes where it stopped."""
    try:
        render_pairs(
            content,
            out,
            styles=[name.strip() for name in styles.split(",") if name.strip()],
            networks=[parse_teacher(text) for text in teacher],
            variants=variants,
            val_variants=val_variants,
            size=size,
            seed=seed,
            workers=workers,
            splits=split,
        )
    except ToonEdgeError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(int(error.exit_code)) from error


if __name__ == "__main__":
    app()
