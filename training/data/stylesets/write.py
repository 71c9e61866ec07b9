"""Write a set's folder: pictures, ``index.csv``, whole or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from sdk.errors import FileTroubleError, ToonEdgeError, UsageError
from training.data.sample import fetch, install_modules, is_near_duplicate, write_rows
from training.data.stylesets.catalogue import StyleSet
from training.data.stylesets.drawing import Drawing, compose, fingerprint

#: A style learned from fewer pictures learns the pictures.
FEWEST = 500


@dataclass(frozen=True)
class IndexRow:
    """One line of ``index.csv``; the field names are its header."""

    file: str
    set: str
    package: str
    source_file: str
    licence: str
    author: str
    skin: str
    hair: str


def different(drawings: list[Drawing]) -> list[Drawing]:
    """The drawings without those that look like one before them, in order."""
    kept: list[Drawing] = []
    seen: list[np.ndarray] = []
    for drawing in drawings:
        print_ = fingerprint(drawing)
        if not any(is_near_duplicate(print_, other) for other in seen):
            kept.append(drawing)
            seen.append(print_)
    return kept


def make_set(style_set: StyleSet, *, out: Path, count: int, seed: int, downloads: Path | None) -> list[IndexRow]:
    """Fetch a set's package, draw, frame and write ``count`` different pictures.

    The same set, count and seed give the same pictures.

    Args:
        style_set: a row of the table.
        out: the folder to write; one that this function wrote before is replaced, another is refused.
        count: how many pictures.
        seed: source of all chance.
        downloads: keeps the package for the next time; a temporary folder if none is given.

    Returns:
        The rows of ``index.csv``.

    Raises:
        UsageError: ``count`` is more than the set has, or ``out`` is somebody else's folder.
        MissingRuntimeError: the package or what draws it cannot be had.
        FileTroubleError: the disk said no.
    """
    if count < 1 or seed < 0:
        raise UsageError(f"--count {count} --seed {seed}: --count must be at least 1 and --seed at least 0.")
    if out.exists() and not (out / "index.csv").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} exists and was not written by this command (no index.csv in it): choose another --out."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            root = _package_root(style_set, downloads or Path(scratch) / "packages")
            fresh = Path(scratch) / "set"
            fresh.mkdir()
            rows = _write(style_set, root, fresh, count, seed)
            if out.exists():
                out.rename(Path(scratch) / "replaced")
            fresh.rename(out)
    except OSError as error:
        if isinstance(error, ToonEdgeError):
            raise
        said = error.strerror or error
        raise FileTroubleError(f"cannot write {out} ({said}): free the disk or choose another --out.") from error
    return rows


def _package_root(style_set: StyleSet, downloads: Path) -> Path:
    """The folder of the set's package; where nothing is fetched, the folder of downloads, which nobody looks into."""
    downloads.mkdir(parents=True, exist_ok=True)
    if not style_set.fetched:
        return downloads
    if style_set.needs_modules:
        return install_modules(style_set.package, downloads)
    return fetch(style_set.package, downloads) / "package"


def _write(style_set: StyleSet, root: Path, folder: Path, count: int, seed: int) -> list[IndexRow]:
    # A tenth more is drawn than asked for: near-duplicates are left out.
    drawings = different(list(style_set.draw(root, count + count // 10 + 8, np.random.default_rng([seed, 0]))))
    if len(drawings) < count:
        raise UsageError(
            f"the set {style_set.name} has {len(drawings)} different pictures, {count} were asked for: use --count"
            f" {len(drawings)}."
        )
    rows = []
    with Progress(transient=True) as progress:
        for index in progress.track(range(count), description=style_set.name):
            drawing, rng = drawings[index], np.random.default_rng([seed, 1, index])
            name = f"{style_set.name}_{index:04d}.png"
            compose(drawing, style_set.ground(root, style_set.side, rng), rng).save(folder / name, optimize=True)
            rows.append(
                IndexRow(
                    file=name,
                    set=style_set.name,
                    package=str(style_set.package),
                    source_file=drawing.source_file,
                    licence=style_set.licence,
                    author=style_set.author,
                    skin=drawing.skin,
                    hair=drawing.hair,
                )
            )
    write_rows(folder / "index.csv", IndexRow, rows)
    return rows
