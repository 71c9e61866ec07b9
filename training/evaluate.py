"""Figures of a checkpoint on held-out photos: ``python -m training.evaluate --checkpoint X --photos DIR``.

A photo is taken as the teacher's input at twice the working size; the network gets its 2 x 2 means, so both see the
same crop and their pictures have the same size. ``--metrics`` chooses what is measured (``training.metrics.METRICS``,
``docs/metrics.md``). For every style with a teacher, among others:

* ``ssim``: SSIM (``sdk.metrics.ssim``) of the network's picture to the teacher's, mean and worst photo;
* ``photo_ssim``: SSIM of the untouched photo to the teacher's: the distance there was;
* ``gap``: share of that distance that the network closed, ``1 - (1 - ssim) / (1 - photo_ssim)``, of the means;
* ``stlpips_ratio``: ST-LPIPS (AlexNet) of the network's picture to the teacher's over that of the photo, of the means:
  forgiving about places, strict about texture. Left out when ``stlpips-pytorch`` is not installed.

A style without a classical teacher was learned from pictures: ``--style-set NAME=DIR`` names them, and KID and the
palette are taken to them; what compares with a teacher is left out. Faces come from a list (``--faces``, or
``faces.csv`` beside the photos) or from a detector (``training.metrics.faces``).

``--sheet out.png`` writes photo, teacher and network side by side, ``--plot out.png`` the figures. ``--check`` exits
with 1 when one of the project's own bars (``training.metrics.bars``) is missed. ``--min-gap 0.6`` exits with 1 when a
smooth style falls short, and when a style that is not smooth has an ST-LPIPS ratio above ``--max-ratio``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

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
from sdk.metrics import psnr_db, ssim
from sdk.sheet import contact_sheet
from training.checkpoint import Checkpoint, load_checkpoint
from training.data.render import halve
from training.filters import FILTERS, render_all
from training.losses import Perceptual, gap_closed
from training.metrics import METRICS, Choice, chosen_metrics
from training.metrics.bars import bars_table, check_bars, judge
from training.metrics.colour import mean_chroma, palette_distance, skin_change, tone_shifts
from training.metrics.detail import Region, edge_recall, edges, edges_added, line_curvature
from training.metrics.faces import Face, find_faces, list_of_faces, read_faces
from training.metrics.features import EffLite0, pooled_features, relative_variance, tensor_of, texture_features
from training.metrics.figures import Appearance, Figures, StyleFigures, table
from training.metrics.flicker import MOTIONS, flicker
from training.metrics.hub import Fid, Lpips
from training.metrics.kernel import polynomial_mmd
from training.plots import write_plot

#: What ``evaluate`` measures when it is not told.
DEFAULT_METRICS = ("ssim", "stlpips")
#: Faces with a shorter side, px at the working size, are too small to judge.
MIN_FACE = 16


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a photo of any size is scaled and cropped for teacher and network.

    Attributes:
        height, width: of the photo scaled for the teacher, px.
        top, left: where the crop starts in it.
        tall, wide: size of the crop; the network's input is half of it.
    """

    height: int
    width: int
    top: int
    left: int
    tall: int
    wide: int

    def region(self, face: Face) -> Region | None:
        """A face box in the network's input; ``None`` when less than ``MIN_FACE`` px of a side is left of it."""
        box = face.region(self.height, self.width)
        rows = [min(max((row - self.top) // 2, 0), self.tall // 2) for row in (box.top, box.bottom)]
        columns = [min(max((column - self.left) // 2, 0), self.wide // 2) for column in (box.left, box.right)]
        if min(rows[1] - rows[0], columns[1] - columns[0]) < MIN_FACE:
            return None
        return Region(top=rows[0], bottom=rows[1], left=columns[0], right=columns[1])


@dataclass(frozen=True, eq=False)
class Drawn:
    """One photo with its teachers and the network's pictures, all ``H x W x 3`` uint8 RGB of one size.

    Attributes:
        name: file name of the photo.
        photo: the network's input.
        teachers: by style, of those that have one.
        results: by style.
        faces: boxes in the pictures, and who each is.
        flicker: by style, mean over the motions; empty when it was not asked for.
    """

    name: str
    photo: np.ndarray
    teachers: dict[str, np.ndarray]
    results: dict[str, np.ndarray]
    faces: tuple[tuple[Region, str], ...] = ()
    flicker: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Instruments:
    """The networks that metrics need; ``None`` where the metric is not measured."""

    perceptual: Perceptual | None = None
    features: EffLite0 | None = None
    lpips: Lpips | None = None
    fid: Fid | None = None


def frame(height: int, width: int, size: int) -> Framing:
    """The framing of a photo of ``height x width`` px; see ``working_pair``.

    Raises:
        UsageError: a side is shorter than 64 px.
    """
    scale = 2 * size / max(height, width)
    if scale < 1:
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
    tall, wide = height // 32 * 32, width // 32 * 32
    if min(tall, wide) < 64:
        raise UsageError(f"a photo of {width} x {height} px is too small to judge a style on: give at least 64 px.")
    return Framing(height=height, width=width, top=(height - tall) // 2, left=(width - wide) // 2, tall=tall, wide=wide)


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
    framing = frame(rgb.shape[0], rgb.shape[1], size)
    if rgb.shape[:2] != (framing.height, framing.width):
        rgb = resize(rgb, framing.height, framing.width)
    rows = slice(framing.top, framing.top + framing.tall)
    columns = slice(framing.left, framing.left + framing.wide)
    double = np.ascontiguousarray(rgb[rows, columns])
    return double, halve(double)


def draw(
    checkpoint: Checkpoint,
    path: Path,
    styles: Sequence[str],
    size: int,
    *,
    faces: Sequence[Face] = (),
    moving: bool = False,
) -> Drawn:
    """Teachers and network on one photo file.

    Args:
        checkpoint, styles, size: see ``evaluate``.
        path: of the photo.
        faces: boxes in the photo.
        moving: draw the frames that flicker is measured on, too.
    """
    rgb = read_photo(path).rgb
    double, photo = working_pair(rgb, size)
    framing = frame(rgb.shape[0], rgb.shape[1], size)
    image = tensor_of(photo)
    rows = checkpoint.info.styles
    results, flickers = {}, {}
    with torch.inference_mode():
        for style in styles:
            weights = torch.zeros(1, len(rows))
            weights[0, rows.index(style)] = 1.0

            def stylize(picture: Tensor, weights: Tensor = weights) -> Tensor:
                return checkpoint.generator(picture, weights)

            values = stylize(image)[0].permute(1, 2, 0).numpy()
            results[style] = (values * 255 + 0.5).astype(np.uint8)
            if moving:
                flickers[style] = float(np.mean([flicker(stylize, image, motion) for motion in MOTIONS]))
    boxes = [(framing.region(face), face.person or path.name) for face in faces]
    return Drawn(
        name=path.name,
        photo=photo,
        teachers=render_all(double, [style for style in styles if style in FILTERS]),
        results=results,
        faces=tuple((region, person) for region, person in boxes if region is not None),
        flicker=flickers,
    )


def prepare(
    choice: Choice,
    *,
    lpips_weights: Path | None = None,
    fid_weights: Path | None = None,
    note: Callable[[str], None],
) -> tuple[Instruments, tuple[str, ...]]:
    """Loads what the metrics need.

    Args:
        choice: what to measure.
        lpips_weights, fid_weights: see ``Lpips`` and ``Fid``.
        note: told what is left out, and why.

    Returns:
        The instruments, and the names that can be measured.

    Raises:
        MissingRuntimeError: a metric that was asked for by name cannot be measured here.
        UsageError: a file of weights that does not fit.
    """
    loaders: dict[str, tuple[tuple[str, ...], Callable[[], Any]]] = {
        "perceptual": (("stlpips",), lambda: Perceptual("alex")),
        "features": (("kid", "consistency"), EffLite0),
        "lpips": (("lpips",), lambda: Lpips(lpips_weights)),
        "fid": (("fid",), lambda: Fid(fid_weights)),
    }
    loaded: dict[str, Any] = {}
    absent: set[str] = set()
    for name, (metrics, load) in loaders.items():
        if not set(metrics) & set(choice.names):
            continue
        try:
            loaded[name] = load()
        except MissingRuntimeError as error:
            if set(metrics) & choice.asked:
                raise
            note(f"{', '.join(metrics)} left out: {error}")
            absent.update(metrics)
    return Instruments(**loaded), tuple(name for name in choice.names if name not in absent)


def evaluate(
    checkpoint: Checkpoint,
    photos: Sequence[Path],
    *,
    styles: Sequence[str] | None = None,
    size: int = 256,
    perceptual: bool = True,
    metrics: Sequence[str] = DEFAULT_METRICS,
    instruments: Instruments | None = None,
    faces: Mapping[Path, Sequence[Face]] | None = None,
    style_sets: Mapping[str, Sequence[Path]] | None = None,
    faces_from: str = "",
    quiet: bool = False,
) -> tuple[Figures, list[Drawn]]:
    """Judges a network on photos.

    Args:
        checkpoint: see ``training.checkpoint.load_checkpoint``.
        photos: photo files that were not trained on.
        styles: some of the checkpoint's styles; ``None``: all of them.
        size: longest side of the network's input, px.
        perceptual: ``False`` takes ST-LPIPS out of ``metrics``.
        metrics: names from ``METRICS``.
        instruments: see ``prepare``; ``None`` loads what ``metrics`` need.
        faces: the boxes of each photo; what looks at faces is left out without them.
        style_sets: pictures of a style, which KID and palette are taken to, instead of its teacher's.
        faces_from: where the boxes came from, for the record.
        quiet: no progress bar.

    Returns:
        The figures and, for a contact sheet, the pictures.

    Raises:
        UsageError: no photos, an unreadable one, or a style that the checkpoint does not have.
        MissingRuntimeError: a metric whose package is not installed.
    """
    if not photos:
        raise UsageError("there are no photos to evaluate on: give at least one.")
    if size < 32:
        raise UsageError(f"size {size} is too small to judge a style on: give at least 32 px.")
    names = checkpoint.info.styles if styles is None else tuple(styles)
    for style in (*names, *(style_sets or {})):
        if style not in checkpoint.info.styles:
            raise unknown_name("style", style, checkpoint.info.styles)
    wanted = tuple(name for name in METRICS if name in metrics and (perceptual or name != "stlpips"))
    if instruments is None:
        instruments, _ = prepare(Choice(names=wanted, asked=frozenset(wanted)), note=lambda _: None)
    console = Console(stderr=True, quiet=quiet)
    drawn = [
        draw(
            checkpoint, path, names, size, faces=() if faces is None else faces[path], moving="flicker" in wanted
        )
        for path in track(photos, "draw", console=console, disable=quiet)
    ]  # fmt: skip
    photo_pictures = [one.photo for one in drawn]
    judge_by = _Judge(wanted, instruments, drawn, size)
    figures = Figures(
        name=checkpoint.info.name,
        version=checkpoint.info.version,
        sha256=checkpoint.sha256,
        photos=len(drawn),
        size=size,
        photo_curvature=_mean([line_curvature(one) for one in photo_pictures]) if "lines" in wanted else None,
        faces=faces_from if faces is not None else "",
        styles=tuple(
            judge_by.style(style, (style_sets or {}).get(style))
            for style in track(names, "measure", console=console, disable=quiet)
        ),
    )
    return figures, drawn


class _Judge:
    """Measures styles on drawn photos; what depends on the photos alone is measured once."""

    def __init__(self, metrics: Sequence[str], instruments: Instruments, drawn: Sequence[Drawn], size: int) -> None:
        self.metrics, self.tools, self.drawn, self.size = frozenset(metrics), instruments, drawn, size
        self.photos = [one.photo for one in drawn]
        self.edges = [edges(photo) for photo in self.photos]
        # One photo has no distribution: neither a kernel distance nor a variance.
        several = len(drawn) > 1
        network = instruments.features if several else None
        self.kernel_network = network if "kid" in self.metrics else None
        self.texture_network = network if "consistency" in self.metrics else None
        self.photo_features = None if self.kernel_network is None else pooled_features(self.kernel_network, self.photos)
        self.photo_variance = self._variance(self.photos)

    def style(self, style: str, style_set: Sequence[Path] | None) -> StyleFigures:
        """All figures of one style; ``style_set``: its own pictures, instead of its teacher's."""
        results = [one.results[style] for one in self.drawn]
        taught = style in FILTERS
        teachers = [one.teachers[style] for one in self.drawn] if taught else None
        found: dict[str, Any] = {}
        if teachers is not None:
            found |= self._to_teacher(results, teachers)
        if {"kid", "palette", "skin"} & self.metrics:
            found |= self._to_pictures(results, teachers, style_set)
        own = {"detail", "skin", "lines", "consistency"} & self.metrics
        return StyleFigures(
            style=style,
            smooth=taught and FILTERS[style].smooth,
            taught=taught,
            flicker=_mean([one.flicker[style] for one in self.drawn]) if "flicker" in self.metrics else None,
            network=self._appearance(results) if own else None,
            teacher=self._appearance(teachers) if own and teachers is not None else None,
            **found,
        )

    def _to_teacher(self, results: list[np.ndarray], teachers: list[np.ndarray]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "ssim" in self.metrics:
            similarities = _each(_ssim, results, teachers)
            mean, photo = float(np.mean(similarities)), float(np.mean(_each(_ssim, self.photos, teachers)))
            worst = int(np.argmin(similarities))
            found = {
                "ssim": mean,
                "worst_ssim": similarities[worst],
                "worst_photo": self.drawn[worst].name,
                "photo_ssim": photo,
                "gap": gap_closed(mean, photo),
            }
        if "psnr" in self.metrics:
            found["psnr_db"] = float(
                np.mean(_each(lambda one, other: psnr_db(one / 255, other / 255), results, teachers))
            )
        if self.tools.perceptual is not None:
            network = self.tools.perceptual
            for name, pictures in (("stlpips", results), ("photo_stlpips", self.photos)):
                found[name] = float(np.mean(_each(lambda a, b: _distance(network, a, b), pictures, teachers)))
        if self.tools.lpips is not None:
            found["lpips"] = float(np.mean(self.tools.lpips.each(results, teachers)))
        if self.tools.fid is not None and len(results) > 1:
            found["fid"] = self.tools.fid.between(results, teachers)
        return found

    def _to_pictures(
        self, results: list[np.ndarray], teachers: list[np.ndarray] | None, style_set: Sequence[Path] | None
    ) -> dict[str, Any]:
        """KID and palette to the style's own pictures: those named, else its teacher's; nothing without either."""
        if style_set is not None:
            pictures = [_fitted(read_photo(path).rgb, self.size) for path in style_set]
        elif teachers is not None:
            pictures = teachers
        else:
            return {}
        found: dict[str, Any] = {
            "reference_pictures": len(pictures),
            "reference_chroma": float(np.mean([mean_chroma(picture) for picture in pictures])),
        }
        if self.kernel_network is not None and self.photo_features is not None:
            own, references = (pooled_features(self.kernel_network, group) for group in (results, pictures))
            paired = style_set is None  # a teacher drew the same photos
            found["kid"] = polynomial_mmd(own, references, paired=paired)
            found["photo_kid"] = polynomial_mmd(self.photo_features, references, paired=paired)
        if "palette" in self.metrics:
            found["palette"] = palette_distance(results, pictures)
            found["photo_palette"] = palette_distance(self.photos, pictures)
        return found

    def _appearance(self, pictures: list[np.ndarray]) -> Appearance:
        found: dict[str, Any] = {"faces": sum(len(one.faces) for one in self.drawn)}
        if "detail" in self.metrics:
            drawn_edges = [edges(picture) for picture in pictures]
            found["edge_recall"] = _mean(_each(edge_recall, self.edges, drawn_edges))
            found["edges_added"] = _mean(_each(edges_added, self.edges, drawn_edges))
            kept = {
                (one.name, index): edge_recall(photo, cartoon, region)
                for one, photo, cartoon in zip(self.drawn, self.edges, drawn_edges, strict=True)
                for index, (region, _) in enumerate(one.faces)
            }
            kept = {place: value for place, value in kept.items() if not np.isnan(value)}
            if kept:
                worst = min(kept, key=lambda place: kept[place])
                found |= {
                    "detail": _mean(list(kept.values())),
                    "worst_detail": kept[worst],
                    "worst_detail_photo": worst[0],
                }
        if "skin" in self.metrics:
            found["chroma"] = float(np.mean([mean_chroma(picture) for picture in pictures]))
            changes = [
                skin_change(one.photo, picture, region, name=one.name, person=person)
                for one, picture in zip(self.drawn, pictures, strict=True)
                for region, person in one.faces
            ]
            if changes:
                largest = max(changes, key=lambda change: change.distance)
                found |= {
                    "skin": float(np.mean([change.distance for change in changes])),
                    "worst_skin": largest.distance,
                    "worst_skin_photo": largest.name,
                }
            shifts = tone_shifts(changes)
            if shifts is not None:
                found["darker_shift"], found["lighter_shift"] = shifts
        if "lines" in self.metrics:
            found["curvature"] = _mean([line_curvature(picture) for picture in pictures])
        own = self._variance(pictures)
        if own is not None and self.photo_variance:
            found["consistency"] = own / self.photo_variance
        return Appearance(**found)

    def _variance(self, pictures: Sequence[np.ndarray]) -> float | None:
        if self.texture_network is None:
            return None
        return relative_variance(texture_features(self.texture_network, pictures))


def _each(measure: Callable[[Any, Any], float], ones: Sequence[Any], others: Sequence[Any]) -> list[float]:
    return [measure(one, other) for one, other in zip(ones, others, strict=True)]


def _mean(values: Sequence[float]) -> float | None:
    """The mean of the values that exist; ``None`` when none does."""
    there = [value for value in values if not np.isnan(value)]
    return float(np.mean(there)) if there else None


def _fitted(rgb: np.ndarray, size: int) -> np.ndarray:
    """A picture with its longest side at most ``size`` px."""
    height, width = rgb.shape[:2]
    scale = size / max(height, width)
    return rgb if scale >= 1 else resize(rgb, max(1, round(height * scale)), max(1, round(width * scale)))


def _ssim(picture: np.ndarray, reference: np.ndarray) -> float:
    return ssim(picture.astype(np.float64) / 255, reference.astype(np.float64) / 255)


def _distance(distance: Perceptual, picture: np.ndarray, reference: np.ndarray) -> float:
    with torch.inference_mode():
        return float(distance(tensor_of(picture), tensor_of(reference)))


def check_gates(figures: Figures, *, min_gap: float, max_ratio: float) -> None:
    """Holds smooth styles to ``min_gap`` and the others to ``max_ratio``; styles without a teacher have neither.

    Raises:
        GateError: one sentence with every style that falls short.
        UsageError: a style was measured without what it is judged by, or no style has a teacher.
    """
    if not any(row.taught for row in figures.styles):
        raise UsageError("--min-gap judges styles by their teacher, and none of these has one: use --check.")
    short = []
    for row in figures.styles:
        if not row.taught:
            continue
        if row.smooth:
            if row.gap is None:
                raise UsageError(
                    f"style {row.style!r} is judged by the gap, which was not measured: add ssim to --metrics."
                )
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
    """A contact sheet: photo, then teacher (where there is one) and network of each style."""
    columns, rows = ["photo"], [[one.photo] for one in drawn]
    for style in drawn[0].results:
        taught = style in drawn[0].teachers
        columns += [f"{style}: teacher", "network"] if taught else [f"{style}: network"]
        for row, one in zip(rows, drawn, strict=True):
            row.extend([one.teachers[style], one.results[style]] if taught else [one.results[style]])
    return contact_sheet(rows, columns=columns, rows=[one.name for one in drawn], title=title, cell=cell)


def faces_of(
    paths: Sequence[Path], folder: Path, named: Path | None, *, needed: bool, note: Callable[[str], None]
) -> tuple[dict[Path, tuple[Face, ...]] | None, str]:
    """The faces of photos: of the list that was named, of the one beside the photos, or of the detector.

    Args:
        paths: the photos.
        folder: where they are.
        named: a list.
        needed: a metric of faces was asked for by name.
        note: told what is left out, and why.

    Returns:
        Boxes by photo, ``None`` when there is no way to know them; and where they came from.

    Raises:
        UsageError: a list that was named does not fit.
        MissingRuntimeError: ``needed``, no list fits, and the detector is not installed.
    """
    if named is not None:
        return read_faces(named, paths), named.name
    beside = list_of_faces(folder)
    if beside is not None:
        try:
            return read_faces(beside, paths), beside.name
        except UsageError as error:
            note(f"{error} The detector is asked instead.")
    try:
        return find_faces(paths), "BlazeFace, full range"
    except MissingRuntimeError as error:
        if needed:
            raise
        note(f"figures of faces left out: {error}")
        return None, ""


def style_sets_of(texts: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """``STYLE=DIR`` texts to the picture files of each style.

    Raises:
        UsageError: a text without ``=``, a style named twice, or a folder without pictures.
    """
    sets: dict[str, tuple[Path, ...]] = {}
    for text in texts:
        style, sign, folder = text.partition("=")
        if not sign or not style or not folder:
            raise UsageError(f"style set {text!r} is not of the form STYLE=DIR: give e.g. fluent=data/styles/fluent.")
        if style in sets:
            raise UsageError(f"style set {text!r} is the second one of {style!r}: give one folder a style.")
        sets[style] = list_photos(folder)
        if len(sets[style]) < 2:
            raise UsageError(f"style set {text!r} holds one picture: give at least 2.")
    return sets


app = typer.Typer(add_completion=False)

_METRICS_HELP = (
    "What to measure, names between commas: "
    + "; ".join(f"{name} ({metric.what})" for name, metric in METRICS.items())
    + ". offline: all that need no hub; all: everything. One asked for by name must be measurable (else exit 3)."
)


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
    metrics: Annotated[str, typer.Option(help=_METRICS_HELP)] = "offline",
    style_set: Annotated[
        list[str] | None,
        typer.Option(help="STYLE=DIR: pictures of a style, which KID and palette are taken to; repeatable."),
    ] = None,
    faces: Annotated[
        Path | None, typer.Option(help="Face list of training.metrics.faces; by default faces.csv beside the photos.")
    ] = None,
    lpips_weights: Annotated[Path | None, typer.Option(help="torchvision's AlexNet, instead of its hub.")] = None,
    fid_weights: Annotated[Path | None, typer.Option(help="torch-fidelity's Inception, instead of its hub.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (.png or .jpg).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the figures as a picture (.png).")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file, too.")] = None,
    stlpips: Annotated[bool, typer.Option(help="Measure ST-LPIPS when it is installed.")] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 when one of the project's bars is missed.")
    ] = False,
    min_gap: Annotated[float | None, typer.Option(help="Exit with 1 when a smooth style closes less.")] = None,
    max_ratio: Annotated[float, typer.Option(help="With --min-gap: bar of the other styles.")] = 0.5,
) -> None:
    """Judge a checkpoint on held-out photos: against its teachers, its styles' pictures and the photos."""
    console = Console(stderr=True)

    def note(text: str) -> None:
        console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    try:
        choice = chosen_metrics(metrics)
        if not stlpips:
            choice = Choice(names=tuple(n for n in choice.names if n != "stlpips"), asked=choice.asked - {"stlpips"})
        if sheet is not None:
            check_save_path(sheet)
        if plot is not None and plot.suffix.lower() != ".png":
            raise UsageError(f"plot {plot} is no .png: give a name that ends in .png.")
        paths = list_photos(photos)[:limit]
        sets = style_sets_of(style_set or ())
        loaded = load_checkpoint(checkpoint)
        instruments, names = prepare(choice, lpips_weights=lpips_weights, fid_weights=fid_weights, note=note)
        boxes, source = None, ""
        if {"detail", "skin"} & set(names):
            boxes, source = faces_of(paths, photos, faces, needed="skin" in choice.asked, note=note)
        figures, drawn = evaluate(
            loaded, paths, styles=style, size=size, metrics=names, instruments=instruments, faces=boxes,
            faces_from=source, style_sets=sets,
        )  # fmt: skip
        for row in figures.styles:
            if not row.taught and row.style not in sets and {"kid", "palette"} & set(names):
                note(f"style {row.style!r} has no teacher: name its pictures with --style-set {row.style}=DIR for KID.")
        judgements = judge(figures)
        typer.echo(figures.to_json() if json_ else f"{table(figures)}\n\n{bars_table(judgements)}")
        if out is not None:
            write_atomically(out, figures.to_json() + "\n")
        if sheet is not None:
            save_picture(sheet_of(drawn, title=f"{figures.name}: photo | teacher | network"), sheet)
        if plot is not None:
            write_plot(figures, plot)
        if min_gap is not None:
            check_gates(figures, min_gap=min_gap, max_ratio=max_ratio)
        if check:
            check_bars(judgements)
    except ToonEdgeError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(int(error.exit_code)) from error


if __name__ == "__main__":
    app()
