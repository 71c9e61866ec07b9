"""What a cartoon is judged by, one noun a module; ``docs/metrics.md`` says what each is good for.

``python -m training.evaluate`` measures them. Every formula is in the docstring of its function, and tested against a
case worked out by hand. A new metric is one function here, a row of ``METRICS``, and a field of
``training.metrics.figures.StyleFigures``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdk.errors import UsageError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A row of ``METRICS``.

    Attributes:
        name: as ``--metrics`` takes it.
        what: a few words for help texts.
        teacher: it compares with the teacher's pictures; left out for styles that have none.
        faces: it looks at faces.
        hub: its weights come from a hub or from a file that the user names.
    """

    name: str
    what: str
    teacher: bool = False
    faces: bool = False
    hub: bool = False


#: By name, in the order of tables.
METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(name="ssim", what="SSIM to the teacher and the gap closed", teacher=True),
        Metric(name="psnr", what="PSNR to the teacher, dB", teacher=True),
        Metric(name="stlpips", what="ST-LPIPS (AlexNet) to the teacher", teacher=True),
        Metric(name="lpips", what="LPIPS (AlexNet) to the teacher", teacher=True, hub=True),
        Metric(name="fid", what="FID (Inception) to the teacher's pictures", teacher=True, hub=True),
        Metric(name="kid", what="KID-EffLite0 to the teacher's pictures or the style set"),
        Metric(name="kid-vgg16", what="the same on VGG16 features, for styles learned from pictures: a second judge"),
        Metric(name="detail", what="the photo's edges kept, in faces and in the whole picture"),
        Metric(name="skin", what="LAB distance of the face's mean colour to the photo's", faces=True),
        Metric(name="flicker", what="change under known motion over the input's own"),
        Metric(name="palette", what="LAB earth mover's distance of the palettes: colour harmony"),
        Metric(name="lines", what="mean curvature of the lines: line smoothness"),
        Metric(name="consistency", what="variance of texture statistics across photos over the photos' own"),
    )
}

#: What ``--metrics offline`` means: all that needs no hub.
OFFLINE = tuple(name for name, metric in METRICS.items() if not metric.hub)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a user wants measured.

    Attributes:
        names: in the order of ``METRICS``.
        asked: those of them that were asked for by name; one that cannot be measured is then an error, not a note.
    """

    names: tuple[str, ...]
    asked: frozenset[str]


def chosen_metrics(text: str) -> Choice:
    """A choice from a command line.

    Args:
        text: names between commas; ``offline`` stands for all that need no hub, ``all`` for all.

    Raises:
        UsageError: an unknown name (the nearest is suggested), or none.
    """
    groups = {"all": tuple(METRICS), "offline": OFFLINE}
    parts = [part for part in (part.strip() for part in text.split(",")) if part]
    for part in parts:
        if part not in METRICS and part not in groups:
            raise unknown_name("metric", part, (*METRICS, *groups))
    if not parts:
        raise UsageError(f"no metric was chosen by {text!r}: name some of {', '.join(METRICS)}, or offline, or all.")
    wanted = {name for part in parts for name in groups.get(part, (part,))}
    return Choice(names=tuple(name for name in METRICS if name in wanted), asked=frozenset(parts) & METRICS.keys())
