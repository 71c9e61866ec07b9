"""Pictures at the loader's working size, read once: whatever cannot be read is known before the first step.

Opening a store decodes every file once, scales its short side to the working size, and keeps the pixels in one file on
disk as far as a budget allows. The loader then reads a few hundred kilobytes from there instead of decoding megapixels,
all its processes share the system's page cache, and no process holds pictures of its own: memory is bounded whatever
the size of the set. A second run with the same files finds the first one's work.

Every picture comes once a round, in a new order each time, so a cache that throws out the least recently used picture
would hold none of those that are wanted next: which pictures are kept is decided once (the first that fit), and the
share of reads that need not decode is the share that is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import FileTroubleError, ToonEdgeError, UsageError
from sdk.files import disk_trouble, umask
from sdk.imaging import read_photo, resize
from training.data.folders import Skipped
from training.data.pool import worker_pool

FORMAT = 1
#: Most a picture is enlarged: CelebA's 178 x 218 still become 256 (1.44 times), a thumbnail does not.
ENLARGE = 1.5
_INDEX, _PIXELS = "index.json", "pictures.u8"


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureStore:
    """Readable pictures of a folder at their working size; picklable, so every loader process has it.

    Attributes:
        root: the folder the pictures are of.
        side: their short side, px.
        files: the readable ones.
        sizes: height and width of each at working size, px.
        starts: byte of ``pixels`` at which each begins; -1: not kept, decoded when read.
        pixels: the file of kept pictures; ``None``: none is kept.
        skipped: the files that could not be read, and why.
    """

    root: Path
    side: int
    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    pixels: Path | None
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def kept(self) -> int:
        """Number of pictures that need not be decoded again."""
        return sum(start >= 0 for start in self.starts)

    @property
    def total(self) -> int:
        """Number of files that were tried."""
        return len(self.files) + len(self.skipped)

    def read(self, index: int) -> np.ndarray:
        """``H x W x 3`` uint8 RGB, the short side ``side`` px.

        Raises:
            ToonEdgeError: the file, or the cache, is not what it was when the store was opened.
        """
        height, width = self.sizes[index]
        if self.starts[index] < 0 or self.pixels is None:
            picture = read_scaled(self.files[index], side=self.side, enlarge=math.inf)
            if picture.shape != (height, width, 3):
                raise UsageError(f"photo {self.files[index]} has changed since the run began: start the run again.")
            return picture
        with disk_trouble("read the picture cache", self.pixels):
            flat = np.fromfile(self.pixels, np.uint8, height * width * 3, offset=self.starts[index])
        if flat.size != height * width * 3:
            raise FileTroubleError(f"the picture cache {self.pixels} is cut off: delete its folder and start again.")
        return flat.reshape(height, width, 3)


def scaled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with the short side ``side`` px and the same shape, to the nearest pixel."""
    short = min(height, width)
    scaled = [side if n == short else max(side, math.floor(n * side / short + 0.5)) for n in (height, width)]
    return scaled[0], scaled[1]


def too_small(height: int, width: int, *, side: int, enlarge: float) -> str | None:
    """Why a picture is too small for the working size, a clause; ``None`` when it is not."""
    factor = side / min(height, width)
    if factor <= max(enlarge, 1.0):
        return None
    return (
        f"is {width} x {height} px: too small, its short side would be enlarged {factor:.2g} times to {side} px, the "
        f"limit is {enlarge:g}"
    )


def read_scaled(path: Path, *, side: int, enlarge: float = ENLARGE) -> np.ndarray:
    """Decodes a picture (``sdk.imaging.read_photo``) and scales its short side.

    Args:
        path: the file.
        side: short side of the result, px.
        enlarge: most it is enlarged.

    Returns:
        ``H x W x 3`` uint8 RGB.

    Raises:
        UsageError: undecodable, truncated, or too small; and whatever else ``read_photo`` raises.
    """
    rgb = read_photo(path).rgb
    height, width = rgb.shape[:2]
    small = too_small(height, width, side=side, enlarge=enlarge)
    if small:
        raise UsageError(f"photo {path} {small}.")
    return resize(rgb, *scaled_size(height, width, side))


def open_store(
    files: Sequence[Path],
    *,
    root: Path,
    side: int,
    cache: Path,
    cache_bytes: int,
    enlarge: float = ENLARGE,
    workers: int = 0,
    skipped: Sequence[Skipped] = (),
    advance: Callable[[], None] | None = None,
) -> PictureStore:
    """Reads every picture once and keeps what the budget allows; a second call finds the first one's work.

    Args:
        files: the pictures, below ``root``.
        root: their folder.
        side: the working size of the short side, px.
        cache: folder of all caches; each set has a folder of its own in it, which may be deleted at any time but
            during a run. Processes that open the same set at once do the work twice and harm nothing.
        cache_bytes: most bytes of pixels kept; 0 keeps none, and every picture is decoded whenever it is read.
        enlarge: most a picture is enlarged; one that would need more is skipped.
        workers: processes that decode; 0: this one.
        skipped: files that are known not to be there; they are handed on.
        advance: called after each picture.

    Raises:
        UsageError: not one picture can be read; names the first reasons.
        FileTroubleError: the cache cannot be written.
    """
    present, states, missing = [], [], []
    for file in files:
        try:
            state = file.stat()
        except OSError as error:
            missing.append(Skipped(path=file, reason=f"could not be opened ({error.strerror})"))
            continue
        present.append(file)
        states.append([file.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns])
    plan = [FORMAT, side, enlarge, cache_bytes, str(root.resolve()), states]
    digest = hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]
    folder = cache / f"{root.name or 'pictures'}-{side}-{digest}"
    rows = _read_index(folder, count=len(present))
    if rows is None:
        with disk_trouble("write the picture cache", folder):
            rows = _fill(
                folder, present, side=side, enlarge=enlarge, budget=cache_bytes, workers=workers, advance=advance
            )
    readable = [(file, row) for file, row in zip(present, rows, strict=True) if "reason" not in row]
    broken = [
        Skipped(path=file, reason=row["reason"]) for file, row in zip(present, rows, strict=True) if "reason" in row
    ]
    unusable = (*skipped, *missing, *broken)
    if not readable:
        first = "; ".join(f"{item.path.name} {item.reason.rstrip('.')}" for item in unusable[:3])
        raise UsageError(f"none of the {len(unusable)} pictures of {root} can be used ({first}): give other pictures.")
    return PictureStore(
        root=root,
        side=side,
        files=tuple(file for file, _ in readable),
        sizes=tuple((row["height"], row["width"]) for _, row in readable),
        starts=tuple(row["start"] for _, row in readable),
        pixels=folder / _PIXELS if any(row["start"] >= 0 for _, row in readable) else None,
        skipped=unusable,
    )


def _fill(
    folder: Path,
    files: Sequence[Path],
    *,
    side: int,
    enlarge: float,
    budget: int,
    workers: int,
    advance: Callable[[], None] | None,
) -> list[dict[str, Any]]:
    """Decodes all files into a neighbour of ``folder`` that then takes its name; a row of the index for each file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        end, full = 0, False
        with (made / _PIXELS).open("wb") as pixels, worker_pool(workers) as run:
            for result in run(partial(_try, side=side, enlarge=enlarge, keep=budget > 0), files):
                row = result.row
                if result.picture is not None:
                    # The first that does not fit ends the keeping: what is kept does not depend on the sizes after it.
                    full = full or end + result.picture.size > budget
                    row["start"] = -1 if full else end
                    if not full:
                        end += pixels.write(result.picture.tobytes())
                rows.append(row)
                if advance:
                    advance()
        (made / _INDEX).write_text(json.dumps({"bytes": end, "pictures": rows}))
        made.chmod(0o777 & ~umask())
        try:
            made.rename(folder)
        except OSError:  # one is there: of a process that was faster, and equal; or the damaged one
            if _read_index(folder, count=len(files)) is None:
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return rows


def _read_index(folder: Path, *, count: int) -> list[dict[str, Any]] | None:
    """The rows of a whole cache; ``None`` when there is none, or it is damaged and must be made again."""
    try:
        index = json.loads((folder / _INDEX).read_text())
        rows: list[dict[str, Any]] = index["pictures"]
        whole = (folder / _PIXELS).stat().st_size == index["bytes"] and len(rows) == count
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows if whole else None


@dataclass(frozen=True)
class _Result:
    """What became of one file: its row of the index, and the pixels when they may be kept."""

    row: dict[str, Any]
    picture: np.ndarray | None


def _try(path: Path, *, side: int, enlarge: float, keep: bool) -> _Result:
    try:
        picture = read_scaled(path, side=side, enlarge=enlarge)
    except ToonEdgeError as error:  # whatever is wrong with one file is no reason to lose the others
        return _Result({"reason": str(error).removeprefix(f"photo {path} ")}, None)
    height, width = picture.shape[:2]
    return _Result({"height": height, "width": width, "start": -1}, picture if keep else None)
