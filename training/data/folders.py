"""Folders of photos and of style pictures as people have them: COCO, CelebA, or any tree.

======  =====================================================================  =================================
layout  what it looks like                                                     where the splits come from
======  =====================================================================  =================================
coco    ``train2017/``, ``val2017/`` ...; perhaps ``annotations/*.json``,      the annotation files' names; the
        whose ``images`` name the pictures                                     folders' names for what they leave
celeba  ``img_align_celeba/``; perhaps ``list_eval_partition.txt``             that list
folder  any tree of pictures                                                   folders called ``train``, ``val``,
                                                                               ``test``
======  =====================================================================  =================================

``open_photos`` recognises the layout, ``open_pictures`` opens a style's pictures. Only names are read here; whether a
file can be decoded shows when it is (``training.data.store``).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sdk.errors import UsageError
from sdk.files import disk_trouble
from sdk.imaging import list_photos

#: Below this many pictures a style's look and its subjects cannot be told apart by a discriminator: a warning.
FEW_PICTURES = 500
#: That many skipped files are named in one line; all of them are in the record.
NAMED = 10

CELEBA_PHOTOS = "img_align_celeba"
CELEBA_SPLITS = ("train", "val", "test")
_CELEBA_LISTS = ("list_eval_partition.txt", "list_eval_partition.csv")
_SPLIT_FOLDER = re.compile(r"(train|val|valid|validation|test)(\d{4})?", re.IGNORECASE)
_ANNOTATED_SPLIT = re.compile(r"(train|val|valid|validation|test)(\d{4})?$", re.IGNORECASE)


class Layout(StrEnum):
    """How a folder is arranged."""

    COCO = "coco"
    CELEBA = "celeba"
    FOLDER = "folder"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that is not used.

    Attributes:
        path: the file.
        reason: why, a clause that goes on after the name: ``"is truncated or broken (...): copy it again ..."``.
    """

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class PhotoFolder:
    """What a folder holds, by name.

    Attributes:
        root: the folder.
        layout: how it is arranged.
        files: all pictures, sorted by path.
        splits: split name to its pictures; empty when the folder says nothing of splits.
        skipped: what a list names and the folder lacks.
        warnings: one sentence each.
    """

    root: Path
    layout: Layout
    files: tuple[Path, ...]
    splits: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Path, ...]:
        """The pictures of a split; all of them when the folder has no splits.

        Raises:
            UsageError: the folder has splits, but not this one.
        """
        if not self.splits:
            return self.files
        if name not in self.splits:
            raise UsageError(f"photo folder {self.root} has no split {name!r}: choose from {', '.join(self.splits)}.")
        return self.splits[name]


def skipped_summary(skipped: Sequence[Skipped], total: int) -> str:
    """One line about skipped files: ``"3 of 512 pictures could not be read: a.jpg has zero bytes; ..."``.

    Args:
        skipped: the files; at most ``NAMED`` are named.
        total: how many pictures there were, these among them.
    """
    named = "; ".join(f"{item.path.name} {item.reason.rstrip('.')}" for item in skipped[:NAMED])
    more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    return f"{len(skipped)} of {total} pictures could not be read: {named}{more}."


def open_photos(path: Path) -> PhotoFolder:
    """Opens a photo folder of whichever layout it has.

    Raises:
        UsageError: not a folder, no picture in it, or a list of splits that cannot be read.
        FileTroubleError: the disk says no.
    """
    path = Path(path)
    if path.name == CELEBA_PHOTOS or (path / CELEBA_PHOTOS).is_dir():
        return open_celeba(path)
    if any((path / "annotations").glob("*.json")) or _has_coco_folders(path):
        return open_coco(path)
    return open_folder(path)


def open_folder(path: Path) -> PhotoFolder:
    """Opens any tree of photos; folders called ``train``, ``val`` or ``test`` are its splits.

    Raises:
        UsageError: not a folder, or no picture in it.
    """
    path = Path(path)
    files = list_photos(path, recursive=True)
    return PhotoFolder(root=path, layout=Layout.FOLDER, files=files, splits=_by_split(path, files))


def open_pictures(path: Path) -> PhotoFolder:
    """Opens a style's pictures: any tree; its folders' names mean nothing.

    Returns:
        The pictures, with a warning when there are fewer than ``FEW_PICTURES``.

    Raises:
        UsageError: not a folder, or no picture in it.
    """
    path = Path(path)
    files = list_photos(path, recursive=True, what="style folder")
    warnings: tuple[str, ...] = ()
    if len(files) < FEW_PICTURES:
        noun = "picture" if len(files) == 1 else "pictures"
        warnings = (
            f"style folder {path} holds {len(files)} {noun}, fewer than {FEW_PICTURES}: an adversarial task will "
            "learn the subjects with the style; add pictures, or use the task `personalize`.",
        )
    return PhotoFolder(root=path, layout=Layout.FOLDER, files=files, warnings=warnings)


def open_coco(path: Path) -> PhotoFolder:
    """Opens a tree of photos as COCO has it (Lin et al. 2014, arXiv:1405.0312, format of cocodataset.org).

    The files ``annotations/instances*.json`` (any other JSON file with ``images`` where there is none of that name) say
    which pictures belong to the split their name ends with; a picture of that split's folder that they do not name is
    left out. Pictures in folders of other splits are taken as they are. Without annotations the folders decide alone.

    Raises:
        UsageError: not a folder, no picture in it, or an annotation file that is not COCO's.
        FileTroubleError: the disk says no.
    """
    path = Path(path)
    found = list_photos(path, recursive=True)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in found:
        by_name[file.name].append(file)
    annotated: dict[Path, str] = {}
    named_splits, skipped = set(), []
    for annotation in _coco_annotations(path):
        match = _ANNOTATED_SPLIT.search(annotation.stem)
        split = _split_name(match.group(1)) if match else "train"
        named_splits.add(split)
        for name in _coco_names(annotation):
            fitting = [file for file in by_name.get(Path(name).name, ()) if file.as_posix().endswith(f"/{name}")]
            # val2017/1.jpg and train2017/1.jpg may both be there: the one in the split's own folder is meant.
            own = [file for file in fitting if _folder_split(path, file) == split] or fitting
            if not own:
                skipped.append(Skipped(path=path / name, reason=f"is named by {annotation.name} but is not there"))
            else:
                annotated.setdefault(own[0], split)
    files: list[Path] = []
    left_out: list[Path] = []
    for file in found:
        by_folder = _folder_split(path, file)
        wanted = file in annotated or not named_splits or (by_folder is not None and by_folder not in named_splits)
        (files if wanted else left_out).append(file)
    if not files:
        raise UsageError(
            f"photo folder {path} holds none of the {len(skipped)} pictures its annotations name: unpack the pictures "
            "beside annotations/, or remove that folder."
        )
    warnings = (
        (f"pictures of {path} that are left out because no annotation file names them: {len(left_out)}.",)
        if left_out
        else ()
    )
    return PhotoFolder(
        root=path,
        layout=Layout.COCO,
        files=tuple(files),
        splits=_by_split(path, files, annotated),
        skipped=tuple(skipped),
        warnings=warnings,
    )


def open_celeba(path: Path) -> PhotoFolder:
    """Opens CelebA's aligned photos (Liu et al. 2015, arXiv:1411.7766): ``img_align_celeba`` and its list of splits.

    Args:
        path: the folder that holds ``img_align_celeba``, or that folder itself. The list (``list_eval_partition.txt``,
            lines ``000001.jpg 0`` with 0 train, 1 val, 2 test; Kaggle's ``.csv`` of the same) is sought beside the
            photos and in ``Eval/``.

    Raises:
        UsageError: no picture, or a line of the list that cannot be read; names the line.
        FileTroubleError: the disk says no.
    """
    path = Path(path)
    root = path.parent if path.name == CELEBA_PHOTOS else path
    files = list_photos(root / CELEBA_PHOTOS, recursive=True)
    lists = [root / folder / name for folder in ("", "Eval") for name in _CELEBA_LISTS]
    listed = next((place for place in lists if place.is_file()), None)
    if listed is None:
        return PhotoFolder(root=root, layout=Layout.CELEBA, files=files)
    by_name = {file.name: file for file in files}
    splits: dict[str, list[Path]] = {name: [] for name in CELEBA_SPLITS}
    skipped = []
    for name, split in _celeba_rows(listed):
        if name in by_name:
            splits[split].append(by_name.pop(name))
        else:
            skipped.append(Skipped(path=root / CELEBA_PHOTOS / name, reason=f"is named by {listed.name} but missing"))
    kept = {name: tuple(sorted(members)) for name, members in splits.items() if members}
    if not kept:
        raise UsageError(f"{listed} names no picture of {root / CELEBA_PHOTOS}: take the list of this very set.")
    return PhotoFolder(
        root=root,
        layout=Layout.CELEBA,
        files=tuple(sorted(file for members in kept.values() for file in members)),
        splits=kept,
        skipped=tuple(skipped),
        warnings=(f"pictures of {root} that are left out because {listed.name} does not name them: {len(by_name)}.",)
        if by_name
        else (),
    )


def _has_coco_folders(root: Path) -> bool:
    """Whether there is a ``train2017`` or the like."""
    named = [_SPLIT_FOLDER.fullmatch(place.name) for level in (root, root / "images") for place in level.glob("*/")]
    return any(match is not None and match.group(2) is not None for match in named)


def _split_name(word: str) -> str:
    return "val" if word.lower().startswith("val") else word.lower()


def _folder_split(root: Path, file: Path) -> str | None:
    """The split that the first or second folder below ``root`` names (``val2017/``, ``images/train/``)."""
    for part in file.relative_to(root).parts[:-1][:2]:
        match = _SPLIT_FOLDER.fullmatch(part)
        if match:
            return _split_name(match.group(1))
    return None


def _by_split(
    root: Path, files: Iterable[Path], known: Mapping[Path, str] | None = None
) -> dict[str, tuple[Path, ...]]:
    """Files by the split that is known of them, else by that of their folder; those of neither are in no split."""
    splits: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        split = (known or {}).get(file) or _folder_split(root, file)
        if split is not None:
            splits[split].append(file)
    return {name: tuple(members) for name, members in splits.items()}


def _coco_annotations(root: Path) -> list[Path]:
    found = sorted((root / "annotations").glob("*.json"))
    return [file for file in found if file.name.startswith("instances")] or found


def _coco_names(annotation: Path) -> list[str]:
    """The ``file_name`` of each entry of ``images``, with forward slashes."""
    remedy = "give COCO's own file, or remove it: the folders' names tell the splits, too"
    try:
        with disk_trouble("read the annotations", annotation):
            parsed = json.loads(annotation.read_bytes())
        return [str(entry["file_name"]).replace("\\", "/") for entry in parsed["images"]]
    except (ValueError, RecursionError) as error:
        raise UsageError(f"annotation file {annotation} is not JSON ({error}): {remedy}.") from error
    except (KeyError, TypeError) as error:
        raise UsageError(f"annotation file {annotation} has no `images` with a `file_name` each: {remedy}.") from error


def _celeba_rows(listed: Path) -> list[tuple[str, str]]:
    """(file name, split) of each line; a heading is allowed."""
    with disk_trouble("read the list of splits", listed):
        lines = listed.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = re.split(r"[,\s]+", line.strip())
        if fields == [""] or (number == 1 and fields[-1] == "partition"):
            continue
        if len(fields) != 2 or fields[1] not in {"0", "1", "2"}:
            raise UsageError(
                f"{listed}, line {number} is {line.strip()!r}: give a file name and 0 (train), 1 (val) or 2 (test)."
            )
        rows.append((fields[0], CELEBA_SPLITS[int(fields[1])]))
    return rows
