"""What an evaluation found, as data and as tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

#: Mean chroma (LAB) of a style's own pictures from which on it is a colour style, whose skin tones are judged.
COLOUR_CHROMA = 8.0


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Cartoons of one hand (the network's or the teacher's), judged against the photos alone.

    ``None`` (NaN-free by construction) where it was not measured or there was nothing to measure.

    Attributes:
        faces: faces that were looked at.
        detail, worst_detail: share of the photo's edges kept in a face box, mean and least over the faces.
        worst_detail_photo: where the least was.
        edge_recall: the same for whole pictures, mean over the photos.
        edges_added: edge pixels of the cartoon per edge pixel of the photo, mean over the photos.
        skin, worst_skin: LAB distance of the faces' central patches, mean and largest over the faces.
        worst_skin_photo: where the largest was.
        darker_shift, lighter_shift: change of L in the darker and in the lighter half of the people.
        curvature: mean absolute curvature of the lines, 1/px, mean over the pictures.
        consistency: variance of texture statistics across pictures, over that of the photos.
        chroma: mean chroma of the pixels, LAB units.
    """

    faces: int = 0
    detail: float | None = None
    worst_detail: float | None = None
    worst_detail_photo: str = ""
    edge_recall: float | None = None
    edges_added: float | None = None
    skin: float | None = None
    worst_skin: float | None = None
    worst_skin_photo: str = ""
    darker_shift: float | None = None
    lighter_shift: float | None = None
    curvature: float | None = None
    consistency: float | None = None
    chroma: float | None = None

    @property
    def skin_bias(self) -> float | None:
        """By how many L units darker skin is lightened more than lighter skin; below 0: less."""
        if self.darker_shift is None or self.lighter_shift is None:
            return None
        return self.darker_shift - self.lighter_shift


@dataclass(frozen=True, kw_only=True)
class StyleFigures:
    """One style on all photos. ``None`` where a figure was not measured, or does not exist for want of a teacher.

    Attributes:
        style: its name.
        smooth: the teacher is a local filter, judged by ``gap``; else by ``stlpips_ratio``.
        taught: it has a classical teacher; else it was learned from pictures, and is judged by ``kid_ratio``.
        ssim, worst_ssim: to the teacher, mean and least over the photos.
        worst_photo: name of the photo with the least.
        photo_ssim: mean SSIM of photo and teacher: the distance there was.
        gap: share of that distance closed, ``1 - (1 - ssim) / (1 - photo_ssim)``, of the means; 1 is the teacher.
        psnr_db: to the teacher, mean over the photos.
        stlpips, photo_stlpips: mean ST-LPIPS (AlexNet) to the teacher, of network and of photo.
        lpips: mean LPIPS (AlexNet) to the teacher.
        fid: to the teacher's pictures.
        kid, photo_kid: KID-EffLite0 to the teacher's pictures or to the style set, of network and of photo.
        kid_vgg16, photo_kid_vgg16: KID-VGG16 to the style set, of network and of photo; of learned styles alone.
        palette, photo_palette: earth mover's distance of the palette to theirs, LAB units, of network and of photo.
        reference_pictures: how many they are.
        reference_chroma: their mean chroma, LAB units.
        flicker: mean over photos and motions.
        network, teacher: their pictures, judged against the photos alone.
    """

    style: str
    smooth: bool
    taught: bool = True
    ssim: float | None = None
    worst_ssim: float | None = None
    worst_photo: str = ""
    photo_ssim: float | None = None
    gap: float | None = None
    psnr_db: float | None = None
    stlpips: float | None = None
    photo_stlpips: float | None = None
    lpips: float | None = None
    fid: float | None = None
    kid: float | None = None
    photo_kid: float | None = None
    kid_vgg16: float | None = None
    photo_kid_vgg16: float | None = None
    palette: float | None = None
    photo_palette: float | None = None
    reference_pictures: int = 0
    reference_chroma: float | None = None
    flicker: float | None = None
    network: Appearance | None = None
    teacher: Appearance | None = None

    @property
    def stlpips_ratio(self) -> float | None:
        """Network's distance over the photo's; ``None`` where it was not measured."""
        return _ratio(self.stlpips, self.photo_stlpips)

    @property
    def kid_ratio(self) -> float | None:
        """Network's KID over the photo's; ``None`` where it was not measured or the photos are of the style already."""
        return _kid_ratio(self.kid, self.photo_kid)

    @property
    def kid_vgg16_ratio(self) -> float | None:
        """The same by the second judge."""
        return _kid_ratio(self.kid_vgg16, self.photo_kid_vgg16)

    @property
    def coloured(self) -> bool:
        """A colour style: its own pictures are not grey. Unknown counts as coloured, so that no bar is forgotten."""
        return self.reference_chroma is None or self.reference_chroma >= COLOUR_CHROMA


def _ratio(own: float | None, other: float | None) -> float | None:
    return None if own is None or other is None else own / max(other, 1e-9)


def _kid_ratio(own: float | None, photo: float | None) -> float | None:
    return None if photo is None or photo <= 0 else _ratio(own, photo)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What ``evaluate`` found.

    Attributes:
        name, version, sha256: of the checkpoint.
        photos: how many.
        size: longest side of the network's input, px.
        photo_curvature: mean absolute curvature of the photos' own lines, 1/px; ``None`` where not measured.
        faces: where boxes came from; empty when there were none.
        styles: one a style.
    """

    name: str
    version: str
    sha256: str
    photos: int
    size: int
    styles: tuple[StyleFigures, ...]
    photo_curvature: float | None = None
    faces: str = ""

    def to_json(self) -> str:
        """Stable, readable JSON, with what follows from the figures (ratios, the skin bias) written out."""
        return json.dumps(self.to_dict(), indent=2)

    def to_dict(self) -> dict[str, Any]:
        """What ``to_json`` writes."""
        described = dataclasses.asdict(self)
        for row, style in zip(described["styles"], self.styles, strict=True):
            row["stlpips_ratio"], row["kid_ratio"] = style.stlpips_ratio, style.kid_ratio
            row["kid_vgg16_ratio"] = style.kid_vgg16_ratio
            for name, hand in (("network", style.network), ("teacher", style.teacher)):
                if hand is not None:
                    row[name]["skin_bias"] = hand.skin_bias
        return described


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Checkpoints that were judged on the same photos; one alone is a comparison, too.

    Attributes:
        names: what tells the checkpoints apart, in the order they were given.
        figures: one a name.
    """

    names: tuple[str, ...]
    figures: tuple[Figures, ...]

    @classmethod
    def of(cls, figures: Figures | Comparison) -> Comparison:
        """Figures of one checkpoint as a comparison."""
        return figures if isinstance(figures, Comparison) else cls(names=(figures.name,), figures=(figures,))

    @property
    def title(self) -> str:
        """Names with their versions."""
        return ", ".join(f"{name} {one.version}" for name, one in zip(self.names, self.figures, strict=True))

    @property
    def lines(self) -> tuple[tuple[str, StyleFigures], ...]:
        """Every checkpoint's styles, those of one style beside each other; the name of a lone checkpoint is empty."""
        names = self.names if len(self.names) > 1 else ("",)
        rows = [(name, row) for name, one in zip(names, self.figures, strict=True) for row in one.styles]
        styles = list(dict.fromkeys(row.style for _, row in rows))
        return tuple(sorted(rows, key=lambda line: styles.index(line[1].style)))

    def to_json(self) -> str:
        """The object of a lone checkpoint (``Figures.to_json``), or a list of such, in the order they were given."""
        described = [one.to_dict() for one in self.figures]
        return json.dumps(described if len(described) > 1 else described[0], indent=2)


def table(figures: Figures | Comparison) -> str:
    """The figures, one line a style; a second part for what is judged against the photo alone, if that was measured.

    Several checkpoints have a line each in every style that they have, and say which is whose.
    """
    given = Comparison.of(figures)
    first, rows = given.figures[0], [row for _, row in given.lines]
    lines = [f"{given.title}, {first.photos} photos, working size {first.size} px"]
    if any(row.ssim is not None or row.stlpips is not None for row in rows):
        lines += _to_teacher(given.lines)
    own = [(row.network, row.kid, row.kid_vgg16, row.flicker) for row in rows]
    if any(figure is not None for figures in own for figure in figures):
        lines += ["", *_own(given)]
    return "\n".join(lines)


def name_column(heading: str, names: Sequence[str]) -> Callable[[str], str]:
    """What writes a name into a column that is left out when no name is given; the heading counts as one."""
    width = max((len(name) for name in (heading, *names)), default=0) if any(names) else 0
    return lambda name: f"{name:<{width}} " if width else ""


def _to_teacher(styles: Sequence[tuple[str, StyleFigures]]) -> list[str]:
    whose = name_column("checkpoint", [name for name, _ in styles])
    lines = [
        f"{'style':<12} {whose('checkpoint')}{'SSIM':>7} {'worst':>7} {'photo':>7} {'gap':>7} {'ST-LPIPS':>9} "
        f"{'photo':>7} {'ratio':>6} {'PSNR':>6} {'LPIPS':>7} {'FID':>6}  worst photo"
    ]
    for name, row in styles:
        if not row.taught:
            continue
        lines.append(
            f"{row.style:<12} {whose(name)}{_cell(row.ssim, 7, 4)} {_cell(row.worst_ssim, 7, 4)} "
            f"{_cell(row.photo_ssim, 7, 4)} {_cell(row.gap, 7, 1, percent=True)} {_cell(row.stlpips, 9, 4)} "
            f"{_cell(row.photo_stlpips, 7, 4)} {_cell(row.stlpips_ratio, 6, 2)} {_cell(row.psnr_db, 6, 2)} "
            f"{_cell(row.lpips, 7, 4)} {_cell(row.fid, 6, 1)}  {row.worst_photo}"
        )
    return lines


def _own(given: Comparison) -> list[str]:
    curvature, faces = given.figures[0].photo_curvature, given.figures[0].faces
    width = max([8, *(len(name) for name, _ in given.lines)])
    lines = [
        f"{'style':<12} {'of':<{width}} {'KID':>7} {'ratio':>6} {'VGG16':>6} {'palette':>7} {'detail':>7} {'worst':>6} "
        f"{'edges':>6} {'added':>6} {'skin':>6} {'worst':>6} {'L dark':>7} {'L light':>7} {'curve':>6} "
        f"{'consist':>7} {'flicker':>7}"
    ]
    for style, group in groupby(given.lines, key=lambda line: line[1].style):
        own = list(group)
        for index, (name, row) in enumerate(own):
            ratios = f"{_cell(row.kid_ratio, 6, 2)} {_cell(row.kid_vgg16_ratio, 6, 2)}"
            shares = f"{_cell(row.kid, 7, 3)} {ratios} {_cell(row.palette, 7, 2)}"
            heading = f"{style if index == 0 else '':<12} {name or 'network':<{width}}"
            lines.append(f"{heading} {shares} {_hand(row.network)} {_cell(row.flicker, 7, 2)}")
        row = own[0][1]  # teacher and photo are the same for all of them
        if row.teacher is not None:
            blank = " ".join(_cell(None, cells, 0) for cells in (7, 6, 6, 7))
            lines.append(f"{'':<12} {'teacher':<{width}} {blank} {_hand(row.teacher)} {_cell(None, 7, 0)}")
        if row.photo_kid is not None or row.photo_palette is not None:
            blank = f"{_cell(None, 6, 0)} {_cell(None, 6, 0)}"
            shares = f"{_cell(row.photo_kid, 7, 3)} {blank} {_cell(row.photo_palette, 7, 2)}"
            photo = Appearance(curvature=curvature)
            lines.append(f"{'':<12} {'photo':<{width}} {shares} {_hand(photo)} {_cell(None, 7, 0)}")
    if faces:
        lines.append(f"faces: {faces}")
    return lines


def _hand(hand: Appearance | None) -> str:
    hand = hand or Appearance()
    cells = (
        (hand.detail, 7, 3), (hand.worst_detail, 6, 3), (hand.edge_recall, 6, 3), (hand.edges_added, 6, 2),
        (hand.skin, 6, 2), (hand.worst_skin, 6, 2), (hand.darker_shift, 7, 2), (hand.lighter_shift, 7, 2),
        (hand.curvature, 6, 3), (hand.consistency, 7, 2),
    )  # fmt: skip
    return " ".join(_cell(value, width, digits) for value, width, digits in cells)


def _cell(value: float | None, width: int, digits: int, *, percent: bool = False) -> str:
    if value is None:
        return f"{'-':>{width}}"
    return f"{value:>{width}.{digits}%}" if percent else f"{value:>{width}.{digits}f}"
