"""Figures of checkpoints on held-out photos: ``python -m training.evaluate --checkpoint X --photos DIR``.

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

A checkpoint is ours or a named generator's (``training.models.named``); several of them are measured beside each other,
style by style.

``--sheet out.png`` writes photo, teacher and network side by side, ``--plot out.png`` the figures. ``--check`` exits
with 1 when one of the project's own bars (``training.metrics.bars``) is missed. ``--min-gap 0.6`` exits with 1 when a
smooth style falls short, and when a style that is not smooth has an ST-LPIPS ratio above ``--max-ratio``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from sdk.errors import GateError, MissingRuntimeError, ToonEdgeError, UsageError, unknown_name
from sdk.files import write_atomically
from sdk.imaging import check_save_path, list_photos, save_picture
from sdk.sheet import contact_sheet
from training.checkpoint import Checkpoint, NamedCheckpoint, load_any_checkpoint
from training.drawing import Drawn, draw, scene
from training.metrics import METRICS, Choice, chosen_metrics
from training.metrics.bars import bars_table, check_bars, judge
from training.metrics.faces import Face, find_faces, list_of_faces, read_faces
from training.metrics.figures import Comparison, Figures, StyleFigures, table
from training.metrics.instruments import Instruments, Judge, prepare
from training.plots import write_plot

#: What ``evaluate`` measures when it is not told.
DEFAULT_METRICS = ("ssim", "stlpips")


def evaluate(
    checkpoint: Checkpoint | NamedCheckpoint,
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
    """Judges one network on photos; arguments, figures, pictures and errors as ``compare`` has them."""
    comparison, drawn = compare(
        [checkpoint], photos, styles=styles, size=size, perceptual=perceptual, metrics=metrics,
        instruments=instruments, faces=faces, style_sets=style_sets, faces_from=faces_from, quiet=quiet,
    )  # fmt: skip
    return comparison.figures[0], drawn[0]


def compare(
    checkpoints: Sequence[Checkpoint | NamedCheckpoint],
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
) -> tuple[Comparison, list[list[Drawn]]]:
    """Judges networks on the same photos by the same teachers, which draw once.

    Args:
        checkpoints: see ``training.checkpoint.load_any_checkpoint``.
        photos: photo files that were not trained on.
        styles: some of the checkpoints' styles, each of which is measured where it is; ``None``: all of them.
        size: longest side of the networks' input, px.
        perceptual: ``False`` takes ST-LPIPS out of ``metrics``.
        metrics: names from ``METRICS``.
        instruments: see ``prepare``; ``None`` loads what ``metrics`` need.
        faces: the boxes of each photo; what looks at faces is left out without them.
        style_sets: pictures of a style, which KID and palette are taken to, instead of its teacher's.
        faces_from: where the boxes came from, for the record.
        quiet: no progress bar.

    Returns:
        The figures and, for a contact sheet, the pictures of each checkpoint.

    Raises:
        UsageError: no photos, an unreadable one, a style that no checkpoint has, a checkpoint that has none of the
            styles, or one that was given twice.
        MissingRuntimeError: a metric whose package is not installed.
    """
    if not photos:
        raise UsageError("there are no photos to evaluate on: give at least one.")
    if size < 32:
        raise UsageError(f"size {size} is too small to judge a style on: give at least 32 px.")
    names = names_of(checkpoints)
    wanted_styles = styles_of(checkpoints, names, styles, style_sets or {})
    wanted = tuple(name for name in METRICS if name in metrics and (perceptual or name != "stlpips"))
    if instruments is None:
        instruments, _ = prepare(Choice(names=wanted, asked=frozenset(wanted)), note=lambda _: None)
    console = Console(stderr=True, quiet=quiet)
    every_style = tuple(dict.fromkeys(style for own in wanted_styles for style in own))
    drawn: list[list[Drawn]] = [[] for _ in checkpoints]
    for path in track(photos, "draw", console=console, disable=quiet):
        given = scene(path, every_style, size, faces=() if faces is None else faces[path])
        for checkpoint, own, pictures in zip(checkpoints, wanted_styles, drawn, strict=True):
            pictures.append(draw(checkpoint, given, own, moving="flicker" in wanted))
    judge_by = Judge(wanted, instruments, drawn[0], size, style_sets)
    curvature = judge_by.photo_curvature()
    places = [(index, style) for index, own in enumerate(wanted_styles) for style in own]
    rows: list[list[StyleFigures]] = [[] for _ in checkpoints]
    for index, style in track(places, "measure", console=console, disable=quiet):
        rows[index].append(judge_by.style(style, drawn[index]))
    figures = [
        Figures(
            name=checkpoint.info.name,
            version=checkpoint.info.version,
            sha256=checkpoint.sha256,
            photos=len(photos),
            size=size,
            photo_curvature=curvature,
            faces=faces_from if faces is not None else "",
            styles=tuple(own),
        )
        for checkpoint, own in zip(checkpoints, rows, strict=True)
    ]
    return Comparison(names=names, figures=tuple(figures)), drawn


def load_all(paths: Sequence[Path], note: Callable[[str], None]) -> list[Checkpoint | NamedCheckpoint]:
    """Checkpoints of either kind; ``note`` is told which file is which when two have one name.

    Raises:
        UsageError: one that cannot be used, or the same one twice.
    """
    loaded = [load_any_checkpoint(path) for path in paths]
    for name, one, path in zip(names_of(loaded), loaded, paths, strict=True):
        if name != one.info.name:
            note(f"{one.info.name} is the name of several checkpoints: {name} is {path}.")
    return loaded


def names_of(checkpoints: Sequence[Checkpoint | NamedCheckpoint]) -> tuple[str, ...]:
    """What tells checkpoints apart: the name, and of those with the same name the start of the file's hash as well.

    Raises:
        UsageError: no checkpoint, or one that was given twice.
    """
    if not checkpoints:
        raise UsageError("there is no checkpoint to evaluate: give at least one.")
    found, hashes = [one.info.name for one in checkpoints], [one.sha256 for one in checkpoints]
    for index, one in enumerate(checkpoints):
        if one.sha256 in hashes[:index]:
            raise UsageError(
                f"the checkpoint {one.info.name} is given twice, as the same bytes: leave one of them out."
            )
    return tuple(
        name if found.count(name) == 1 else f"{name}@{sha256[:8]}" for name, sha256 in zip(found, hashes, strict=True)
    )


def styles_of(
    checkpoints: Sequence[Checkpoint | NamedCheckpoint],
    names: Sequence[str],
    styles: Sequence[str] | None,
    style_sets: Iterable[str],
) -> list[tuple[str, ...]]:
    """The styles to measure of each checkpoint: those asked for that it has, or all.

    Raises:
        UsageError: a style that no checkpoint has, or a checkpoint that has none of those asked for.
    """
    known = tuple(dict.fromkeys(style for one in checkpoints for style in one.info.styles))
    for style in (*(styles or ()), *style_sets):
        if style not in known:
            raise unknown_name("style", style, known)
    if styles is None:
        return [one.info.styles for one in checkpoints]
    found = [tuple(style for style in styles if style in one.info.styles) for one in checkpoints]
    for name, one, own in zip(names, checkpoints, found, strict=True):
        if not own:
            raise UsageError(
                f"checkpoint {name} has none of the styles asked for ({', '.join(styles)}), only "
                f"{', '.join(one.info.styles)}: leave it out, or ask for one of its styles as well."
            )
    return found


def check_gates(figures: Figures | Comparison, *, min_gap: float, max_ratio: float) -> None:
    """Holds smooth styles to ``min_gap`` and the others to ``max_ratio``; styles without a teacher have neither.

    Raises:
        GateError: one sentence with every style that falls short.
        UsageError: a style was measured without what it is judged by, or no style has a teacher.
    """
    lines = Comparison.of(figures).lines
    if not any(row.taught for _, row in lines):
        raise UsageError("--min-gap judges styles by their teacher, and none of these has one: use --check.")
    short = []
    for name, row in lines:
        if not row.taught:
            continue
        style = f"{row.style} of {name}" if name else row.style
        if row.smooth:
            if row.gap is None:
                raise UsageError(
                    f"style {row.style!r} is judged by the gap, which was not measured: add ssim to --metrics."
                )
            if not row.gap >= min_gap:
                short.append(f"{style} closes {row.gap:.1%} of the gap, not {min_gap:.0%}")
        elif row.stlpips_ratio is None:
            raise UsageError(
                f"style {row.style!r} is judged by ST-LPIPS, which was not measured: leave --no-stlpips out."
            )
        elif not row.stlpips_ratio <= max_ratio:
            short.append(f"{style} has an ST-LPIPS ratio of {row.stlpips_ratio:.2f}, above {max_ratio:.2f}")
    if short:
        who = "checkpoints fall" if any(name for name, _ in lines) else "checkpoint falls"
        raise GateError(f"the {who} short: {'; '.join(short)}: train longer or wider.")


def sheet_of(*drawn: Sequence[Drawn], names: Sequence[str] = (), title: str = "", cell: int = 192) -> Image.Image:
    """A contact sheet: photo, then each style's teacher (where there is one) and networks.

    Args:
        drawn: the pictures of each checkpoint, of the same photos.
        names: headings of the checkpoints; a lone one is called "network".
        title, cell: see ``sdk.sheet.contact_sheet``.
    """
    photos, headings = drawn[0], names if len(drawn) > 1 else ("network",)
    columns, rows = ["photo"], [[one.photo] for one in photos]
    for style in dict.fromkeys(style for own in drawn for style in own[0].results):
        having = [(name, own) for name, own in zip(headings, drawn, strict=True) if style in own[0].results]
        if style in photos[0].teachers:
            columns += [f"{style}: teacher", *(name for name, _ in having)]
        else:
            columns += [f"{style}: {name}" for name, _ in having]
        for index, (row, one) in enumerate(zip(rows, photos, strict=True)):
            row.extend([one.teachers[style]] if style in one.teachers else [])
            row.extend(own[index].results[style] for _, own in having)
    return contact_sheet(rows, columns=columns, rows=[one.name for one in photos], title=title, cell=cell)


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
    checkpoint: Annotated[
        list[Path],
        typer.Option(
            help="A .safetensors checkpoint, ours or a named generator's; repeatable: measured beside each other."
        ),
    ],
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
    """Judge checkpoints on held-out photos: against their teachers, their styles' pictures and the photos."""
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
        loaded = load_all(checkpoint, note)
        instruments, names = prepare(choice, lpips_weights=lpips_weights, fid_weights=fid_weights, note=note)
        boxes, source = None, ""
        if {"detail", "skin"} & set(names):
            boxes, source = faces_of(paths, photos, faces, needed="skin" in choice.asked, note=note)
        figures, drawn = compare(
            loaded, paths, styles=style, size=size, metrics=names, instruments=instruments, faces=boxes,
            faces_from=source, style_sets=sets,
        )  # fmt: skip
        untaught = dict.fromkeys(row.style for _, row in figures.lines if not row.taught and row.style not in sets)
        for name in untaught if {"kid", "kid-vgg16", "palette"} & set(names) else ():
            note(f"style {name!r} has no teacher: name its pictures with --style-set {name}=DIR for KID.")
        judgements = judge(figures)
        typer.echo(figures.to_json() if json_ else f"{table(figures)}\n\n{bars_table(judgements)}")
        if out is not None:
            write_atomically(out, figures.to_json() + "\n")
        if sheet is not None:
            title = f"{', '.join(figures.names)}: photo | teacher | network"
            save_picture(sheet_of(*drawn, names=figures.names, title=title), sheet)
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
