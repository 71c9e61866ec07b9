"""The photos that calibrate and verify must be legal to ship, complete in their list, and never in both splits."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from PIL import Image

PHOTOS = Path(__file__).resolve().parents[2] / "photos"

LICENCES = {"MIT", "CC0-1.0", "public-domain", "CC-BY-2.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0"}
VALUES = {
    "split": {"test", "calibration"},
    "kind": {"portrait", "selfie", "posture", "scene"},
    "skin": {"", "light", "medium", "dark"},
    "place": {"studio", "indoor", "outdoor", "object"},
    "light": {"bright", "mid", "dark"},
    "texture": {"flat", "mid", "busy"},
    "licence": LICENCES,
}


@dataclass(frozen=True)
class Row:
    file: str
    split: str
    kind: str
    person: str
    scene: str
    skin: str
    place: str
    light: str
    texture: str
    author: str
    package: str
    source_file: str
    crop_xywh: str
    licence: str
    note: str


def read_rows() -> list[Row]:
    with (PHOTOS / "photos.csv").open(newline="", encoding="utf-8") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def faults(rows: list[Row]) -> list[str]:
    """What is wrong with the list or the files it names; empty when all is well."""
    found = []
    on_disk = {path.relative_to(PHOTOS).as_posix() for path in PHOTOS.glob("*/*") if path.is_file()}
    listed = [row.file for row in rows]
    found += [f"{name} is not listed" for name in sorted(on_disk - set(listed))]
    found += [f"{name} is listed {count} times" for name, count in Counter(listed).items() if count > 1]
    for row in rows:
        for column, values in VALUES.items():
            if getattr(row, column) not in values:
                found.append(f"{row.file}: {column} {getattr(row, column)!r}")
        missing = [
            f.name for f in fields(row) if not getattr(row, f.name) and f.name not in {"person", "scene", "skin"}
        ]
        found += [f"{row.file}: no {name}" for name in missing]
        if row.kind != "scene" and not (row.person and row.skin):
            found.append(f"{row.file}: a {row.kind} without person or skin")
        if not row.scene and row.place != "studio":
            found.append(f"{row.file}: no scene")
        if not row.file.startswith(f"{row.split}/"):
            found.append(f"{row.file}: not in the folder of its split {row.split}")
        if row.file not in on_disk:
            found.append(f"{row.file} does not exist")
            continue
        with Image.open(PHOTOS / row.file) as image:
            image.load()
            if image.format != "JPEG" or image.mode != "RGB" or image.getexif().get(0x0112, 1) != 1:
                found.append(f"{row.file}: {image.format} {image.mode} is not an upright RGB JPEG")
            if max(image.size) > 512 or image.width % 16 or image.height % 16:
                found.append(f"{row.file}: size {image.size}")
    for noun in ("person", "scene", "source_file"):
        splits: dict[str, set[str]] = {}
        for row in rows:
            if value := getattr(row, noun):
                splits.setdefault(value, set()).add(row.split)
        found += [f"{noun} {value} is in both splits" for value, seen in splits.items() if len(seen) > 1]
    return found


def test_every_photo_is_listed_licensed_decodable_and_in_one_split() -> None:
    assert faults(read_rows()) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"licence": "all rights reserved"}, "licence"),
        ({"person": "P001"}, "person P001 is in both splits"),
        ({"scene": "p001-lawn"}, "scene p001-lawn is in both splits"),
        ({"author": ""}, "no author"),
        ({"file": "test/nowhere.jpg"}, "does not exist"),
        ({"split": "calibration"}, "not in the folder of its split"),
        ({"skin": ""}, "without person or skin"),
    ],
)
def test_a_fault_in_the_list_is_found(change: dict[str, str], complaint: str) -> None:
    first, *rest = read_rows()
    assert any(complaint in fault for fault in faults([replace(first, **change), *rest]))


def test_an_unlisted_photo_is_found() -> None:
    first, *rest = read_rows()
    assert f"{first.file} is not listed" in faults(rest)


def test_the_test_photos_are_diverse_enough_to_judge_by() -> None:
    rows = [row for row in read_rows() if row.split == "test"]
    skins = {row.person: row.skin for row in rows if row.person}
    assert len(rows) == 24
    assert sorted(Counter(skins.values()).items()) == [("dark", 2), ("light", 2)]
    assert len({row.scene for row in rows if row.scene}) >= 10
    assert len({row.scene for row in rows if row.kind == "scene"}) >= 10
    assert {row.light for row in rows} == VALUES["light"]
    assert {row.texture for row in rows} == VALUES["texture"]
    assert {"studio", "indoor", "outdoor"} <= {row.place for row in rows}


def test_there_are_enough_calibration_photos() -> None:
    assert sum(row.split == "calibration" for row in read_rows()) == 32


def test_the_folder_stays_small_and_carries_the_notice_of_its_mit_pictures() -> None:
    assert sum(path.stat().st_size for path in PHOTOS.rglob("*") if path.is_file()) < 5_000_000
    assert "Prompt Haus" in (PHOTOS / "LICENSE.openpeople").read_text(encoding="utf-8")
