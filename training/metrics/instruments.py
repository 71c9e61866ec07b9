"""The networks that metrics need, loaded once; and all metrics on the pictures of a style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdk.errors import MissingRuntimeError
from sdk.imaging import read_photo, resize
from sdk.metrics import psnr_db, ssim
from training.drawing import Drawn, Scene
from training.filters import FILTERS
from training.losses import Perceptual, gap_closed
from training.metrics import Choice
from training.metrics.colour import mean_chroma, palette_distance, skin_change, tone_shifts
from training.metrics.detail import edge_recall, edges, edges_added, line_curvature
from training.metrics.features import EffLite0, Vgg16, pooled_features, relative_variance, tensor_of, texture_features
from training.metrics.figures import Appearance, StyleFigures
from training.metrics.hub import Fid, Lpips
from training.metrics.kernel import polynomial_mmd


@dataclass(frozen=True, kw_only=True, eq=False)
class Instruments:
    """The networks that metrics need; ``None`` where the metric is not measured."""

    perceptual: Perceptual | None = None
    features: EffLite0 | None = None
    second: Vgg16 | None = None
    lpips: Lpips | None = None
    fid: Fid | None = None


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
        "second": (("kid-vgg16",), Vgg16),
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reference:
    """What a style is judged by, whichever network drew it.

    Attributes:
        teachers: the teacher's pictures of the photos; ``None`` for a style without one.
        pictures: what KID and palette are taken to; ``None`` when there are none, or neither is measured.
        paired: they are the teacher's, of the same photos.
        features: theirs, for KID.
        second: theirs, for KID-VGG16; of a style learned from pictures alone.
        figures: fields of ``StyleFigures`` that no network has a part in.
    """

    teachers: list[np.ndarray] | None
    pictures: list[np.ndarray] | None
    paired: bool
    features: np.ndarray | None
    second: np.ndarray | None
    figures: dict[str, Any]


class Judge:
    """Measures styles on drawn photos; what depends on photos and teachers alone is measured once.

    Args:
        metrics: names that can be measured.
        instruments: see ``prepare``.
        scenes: the photos and their teachers' pictures.
        size: longest side of a style set's pictures, px.
        style_sets: pictures of a style, instead of its teacher's.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        instruments: Instruments,
        scenes: Sequence[Scene],
        size: int,
        style_sets: Mapping[str, Sequence[Path]] | None = None,
    ) -> None:
        self.metrics, self.tools, self.scenes, self.size = frozenset(metrics), instruments, scenes, size
        self.style_sets = style_sets or {}
        self.photos = [one.photo for one in scenes]
        self.edges = [edges(photo) for photo in self.photos]
        self._references: dict[str, _Reference] = {}
        # One photo has no distribution: neither a kernel distance nor a variance.
        several = len(scenes) > 1
        network = instruments.features if several else None
        self.kernel_network = network if "kid" in self.metrics else None
        self.texture_network = network if "consistency" in self.metrics else None
        self.photo_features = None if self.kernel_network is None else pooled_features(self.kernel_network, self.photos)
        self.second_network = instruments.second if several and "kid-vgg16" in self.metrics else None
        self._photo_second: np.ndarray | None = None  # taken when a style asks for it
        self.photo_variance = self._variance(self.photos)

    def style(self, style: str, drawn: Sequence[Drawn]) -> StyleFigures:
        """All figures of one style of the network that drew ``drawn``, the scenes in their order."""
        if style not in self._references:
            self._references[style] = self._reference(style)
        reference = self._references[style]
        results = [one.results[style] for one in drawn]
        taught = reference.teachers is not None
        found = dict(reference.figures)
        if reference.teachers is not None:
            found |= self._to_teacher(results, reference.teachers)
        if "ssim" in found:
            found["gap"] = gap_closed(found["ssim"], found["photo_ssim"])
        if reference.features is not None and self.kernel_network is not None:
            own = pooled_features(self.kernel_network, results)
            found["kid"] = polynomial_mmd(own, reference.features, paired=reference.paired)
        if reference.second is not None and self.second_network is not None:
            found["kid_vgg16"] = polynomial_mmd(pooled_features(self.second_network, results), reference.second)
        if reference.pictures is not None and "palette" in self.metrics:
            found["palette"] = palette_distance(results, reference.pictures)
        return StyleFigures(
            style=style,
            smooth=taught and FILTERS[style].smooth,
            taught=taught,
            flicker=_mean([one.flicker[style] for one in drawn]) if "flicker" in self.metrics else None,
            network=self._appearance(results),
            **found,
        )

    def photo_curvature(self) -> float | None:
        """Mean curvature of the photos' own lines, 1/px; ``None`` where lines are not measured."""
        return _mean([line_curvature(photo) for photo in self.photos]) if "lines" in self.metrics else None

    def _to_teacher(self, results: list[np.ndarray], teachers: list[np.ndarray]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "ssim" in self.metrics:
            similarities = _each(_ssim, results, teachers)
            worst = int(np.argmin(similarities))
            found = {
                "ssim": float(np.mean(similarities)),
                "worst_ssim": similarities[worst],
                "worst_photo": self.scenes[worst].name,
            }
        if "psnr" in self.metrics:
            found["psnr_db"] = float(
                np.mean(_each(lambda one, other: psnr_db(one / 255, other / 255), results, teachers))
            )
        if self.tools.perceptual is not None:
            found["stlpips"] = _mean_distance(self.tools.perceptual, results, teachers)
        if self.tools.lpips is not None:
            found["lpips"] = float(np.mean(self.tools.lpips.each(results, teachers)))
        if self.tools.fid is not None and len(results) > 1:
            found["fid"] = self.tools.fid.between(results, teachers)
        return found

    def _reference(self, style: str) -> _Reference:
        """Pictures, features and figures of a style, without any network."""
        teachers = [one.teachers[style] for one in self.scenes] if style in FILTERS else None
        found: dict[str, Any] = {}
        if teachers is not None:
            found["teacher"] = self._appearance(teachers)
            if "ssim" in self.metrics:
                found["photo_ssim"] = float(np.mean(_each(_ssim, self.photos, teachers)))
            if self.tools.perceptual is not None:
                found["photo_stlpips"] = _mean_distance(self.tools.perceptual, self.photos, teachers)
        pictures, features, second = None, None, None
        paired = style not in self.style_sets  # a teacher drew the same photos
        if {"kid", "kid-vgg16", "palette", "skin"} & self.metrics:
            pictures = self._pictures(style, teachers)
        if pictures is not None:
            found["reference_pictures"] = len(pictures)
            found["reference_chroma"] = float(np.mean([mean_chroma(picture) for picture in pictures]))
            if self.kernel_network is not None and self.photo_features is not None:
                features = pooled_features(self.kernel_network, pictures)
                found["photo_kid"] = polynomial_mmd(self.photo_features, features, paired=paired)
            if self.second_network is not None and teachers is None:
                if self._photo_second is None:
                    self._photo_second = pooled_features(self.second_network, self.photos)
                second = pooled_features(self.second_network, pictures)
                found["photo_kid_vgg16"] = polynomial_mmd(self._photo_second, second)
            if "palette" in self.metrics:
                found["photo_palette"] = palette_distance(self.photos, pictures)
        return _Reference(
            teachers=teachers, pictures=pictures, paired=paired, features=features, second=second, figures=found
        )

    def _pictures(self, style: str, teachers: list[np.ndarray] | None) -> list[np.ndarray] | None:
        """The style's own pictures: those named, else its teacher's; ``None`` without either."""
        if style not in self.style_sets:
            return teachers
        return [_fitted(read_photo(path).rgb, self.size) for path in self.style_sets[style]]

    def _appearance(self, pictures: list[np.ndarray]) -> Appearance | None:
        """Pictures of the scenes, judged against the photos; ``None`` when nothing of that is measured."""
        if not {"detail", "skin", "lines", "consistency"} & self.metrics:
            return None
        found: dict[str, Any] = {"faces": sum(len(one.faces) for one in self.scenes)}
        if "detail" in self.metrics:
            drawn_edges = [edges(picture) for picture in pictures]
            found["edge_recall"] = _mean(_each(edge_recall, self.edges, drawn_edges))
            found["edges_added"] = _mean(_each(edges_added, self.edges, drawn_edges))
            kept = {
                (one.name, index): edge_recall(photo, cartoon, region)
                for one, photo, cartoon in zip(self.scenes, self.edges, drawn_edges, strict=True)
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
                for one, picture in zip(self.scenes, pictures, strict=True)
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


def _mean_distance(distance: Perceptual, pictures: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float:
    with torch.inference_mode():
        return float(np.mean(_each(lambda a, b: float(distance(tensor_of(a), tensor_of(b))), pictures, references)))
