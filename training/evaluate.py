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
from training.checkpoint import Checkpoint, load_checkpoint
from training.drawing import Drawn, draw
from training.metrics import METRICS, Choice, chosen_metrics
from training.metrics.bars import bars_table, check_bars, judge
from training.metrics.faces import Face, find_faces, list_of_faces, read_faces
from training.metrics.figures import Figures, table
from training.metrics.instruments import Instruments, Judge, prepare
from training.plots import write_plot

#: What ``evaluate`` measures when it is not told.
DEFAULT_METRICS = ("ssim", "stlpips")


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
    judge_by = Judge(wanted, instruments, drawn, size)
    figures = Figures(
        name=checkpoint.info.name,
        version=checkpoint.info.version,
        sha256=checkpoint.sha256,
        photos=len(drawn),
        size=size,
        photo_curvature=judge_by.photo_curvature(),
        faces=faces_from if faces is not None else "",
        styles=tuple(
            judge_by.style(style, (style_sets or {}).get(style))
            for style in track(names, "measure", console=console, disable=quiet)
        ),
    )
    return figures, drawn


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
