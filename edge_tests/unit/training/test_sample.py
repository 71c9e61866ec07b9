"""The sample content: tiles without captions, splits that share nothing, and nothing of the test photos."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sdk.errors import FileTroubleError, MissingRuntimeError, UsageError
from training.data import sample
from training.data.sample import (
    HELD_OUT_LIST,
    NEAR_DUPLICATE_RMS,
    SOURCES,
    VAL_PICTURES_PER_SUBJECT,
    VAL_SUBJECTS,
    Client,
    HeldOut,
    Package,
    Picture,
    fetch,
    find_tiles,
    get_sample,
    is_near_duplicate,
    read_debian_licences,
    read_held_out,
    split_of,
    sub_crops,
    thumbnail,
    write_content,
)

PACKAGE = Package(Client.PIP, "made", "1.0")


def made_sheet(*, shirt: bool = False) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """A 2 x 3 sheet of framed colour tiles with a white caption under each, and the insides of its frames."""
    sheet = np.full((420, 640, 3), 128, np.uint8)
    insides = []
    for row in range(2):
        for column in range(3):
            x, y, w, h = 20 + 205 * column, 30 + 190 * row, 180, 140
            sheet[y : y + h, x : x + w] = 250
            sheet[y + 8 : y + h - 8, x + 8 : x + w - 8] = (90, 60 + 20 * row, 40 + 30 * column)
            if shirt:
                sheet[y + h - 38 : y + h - 8, x + 30 : x + w - 30] = 240
            sheet[y + h + 10 : y + h + 20, x + 60 : x + 110] = 255  # the caption
            insides.append((x + 8, y + 8, w - 16, h - 16))
    return sheet, insides


def made_photo(seed: int, size: tuple[int, int] = (400, 320)) -> Image.Image:
    """A smooth random picture: the same seed is the same picture at any size."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def made_root(folder: Path, names: dict[str, Image.Image]) -> Path:
    folder.mkdir()
    for name, image in names.items():
        image.save(folder / name, quality=95)
    return folder


def scene(file: str, subject: str | None = None) -> Picture:
    return Picture(file, subject or Path(file).stem, "scenes", "CC0-1.0", True)


@pytest.mark.parametrize("shirt", [False, True], ids=["plain", "white clothes at the lower edge"])
def test_tiles_lie_inside_their_frames_and_keep_nearly_all_of_the_picture(shirt: bool) -> None:
    sheet, insides = made_sheet(shirt=shirt)
    tiles = find_tiles(sheet)
    assert len(tiles) == len(insides)
    for (x, y, w, h), (ix, iy, iw, ih) in zip(tiles, insides, strict=True):
        assert ix <= x
        assert iy <= y
        assert x + w <= ix + iw
        assert y + h <= iy + ih
        assert w * h > 0.85 * iw * ih


def test_no_caption_or_frame_is_left_in_a_tile() -> None:
    sheet, _ = made_sheet()
    assert all(sheet[y : y + h, x : x + w].max() < 200 for x, y, w, h in find_tiles(sheet))


def test_a_picture_that_is_no_sheet_is_refused_with_its_size() -> None:
    with pytest.raises(UsageError, match="no grid of framed tiles in a 400x320 sheet"):
        find_tiles(np.asarray(made_photo(1)))


def test_a_scaled_and_recompressed_picture_is_a_near_duplicate_and_another_picture_is_not(tmp_path: Path) -> None:
    made_photo(1, (800, 640)).resize((333, 266)).save(tmp_path / "small.jpg", quality=60)
    with Image.open(tmp_path / "small.jpg") as small:
        copy = thumbnail(small)
    original, other = thumbnail(made_photo(1, (800, 640))), thumbnail(made_photo(2, (800, 640)))
    assert is_near_duplicate(original, copy)
    assert not is_near_duplicate(original, other)
    # A root mean square of exactly d comes from a shift by d everywhere.
    assert is_near_duplicate(original, original + NEAR_DUPLICATE_RMS - 0.1)
    assert not is_near_duplicate(original, original + NEAR_DUPLICATE_RMS + 0.1)


def test_sub_crops_lie_inside_the_picture_and_small_pictures_have_none() -> None:
    assert sub_crops(1400, 900) == []
    for x, y, w, h in sub_crops(4000, 2501):
        assert x >= 0
        assert y >= 0
        assert x + w <= 4000
        assert y + h <= 2501
        assert w == h == 1250


def test_licences_are_read_per_file_from_a_debian_copyright_file() -> None:
    text = (
        "Format: x\n\nFiles: 16.04/a.jpg\n 16.04/b.jpg\nCopyright: A\nLicense: CC-BY-4.0\n\n"
        "Files: debian/*\nCopyright: B\nLicense: Expat\n Permission is\n .\n granted\n"
    )
    licences = read_debian_licences(text)
    assert licences["a.jpg"] == licences["b.jpg"] == "CC-BY-4.0"
    assert licences["*"].startswith("Expat")


def test_no_person_or_file_of_the_test_photos_can_become_content(tmp_path: Path) -> None:
    root = made_root(tmp_path / "pkg", {"a.jpg": made_photo(1), "b.jpg": made_photo(2), "c.jpg": made_photo(3)})
    held = HeldOut(people=frozenset({"P002"}), files=frozenset({("made", "b.jpg")}))
    pictures = [Picture("a.jpg", "P002", "people", "MIT", True), scene("b.jpg"), scene("c.jpg")]
    (tmp_path / "out").mkdir()
    rows = write_content([(PACKAGE, root, pictures)], held, tmp_path / "out")
    assert [row.source_file for row in rows] == ["c.jpg"]


def test_the_same_picture_under_another_name_is_left_out(tmp_path: Path) -> None:
    small = made_photo(1, (800, 640)).resize((500, 400))
    root = made_root(tmp_path / "pkg", {"a.jpg": made_photo(1, (800, 640)), "copy.jpg": small, "d.jpg": made_photo(4)})
    photo = tmp_path / "test_photo.jpg"
    made_photo(4, (512, 400)).save(photo, quality=90)
    held = HeldOut(frozenset(), frozenset({("made", "a.jpg")}), (photo,))
    (tmp_path / "out").mkdir()
    assert write_content(
        [(PACKAGE, root, [scene(n) for n in ("copy.jpg", "d.jpg")])],
        HeldOut(frozenset(), frozenset()),
        tmp_path / "out",
    )  # without anything held out, both are written
    (tmp_path / "out2").mkdir()
    pictures = [scene(name) for name in ("a.jpg", "copy.jpg", "d.jpg")]
    assert write_content([(PACKAGE, root, pictures)], held, tmp_path / "out2") == []


def test_whole_subjects_go_to_one_split_and_val_is_not_one_person(tmp_path: Path) -> None:
    val_subject = min(VAL_SUBJECTS)
    count = VAL_PICTURES_PER_SUBJECT + 3
    names = {f"{i}.jpg": made_photo(i) for i in range(2 * count)}
    root = made_root(tmp_path / "pkg", names)
    pictures = [scene(name, val_subject if i < count else "somebody") for i, name in enumerate(names)]
    (tmp_path / "out").mkdir()
    rows = write_content([(PACKAGE, root, pictures)], HeldOut(frozenset(), frozenset()), tmp_path / "out")
    splits = {split: {row.subject for row in rows if row.split == split} for split in ("train", "val")}
    assert splits == {"train": {"somebody"}, "val": {val_subject}}
    assert sum(row.split == "val" for row in rows) == VAL_PICTURES_PER_SUBJECT
    with (tmp_path / "out" / "content.csv").open(newline="") as file:
        listed = {row["file"] for row in csv.DictReader(file)}
    assert listed == {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jpg")}


def test_validation_holds_nobody_from_the_test_photos() -> None:
    held = read_held_out(HELD_OUT_LIST)
    assert held.people == {"P002", "P005", "P006", "P009"}
    assert len(held.photos) == 24
    assert not VAL_SUBJECTS & held.people
    assert all(split_of(subject) == "val" for subject in VAL_SUBJECTS)
    assert split_of("P007") == "train"


def test_tiny_pictures_are_skipped_and_large_ones_scaled(tmp_path: Path) -> None:
    root = made_root(tmp_path / "pkg", {"tiny.jpg": made_photo(1, (128, 128)), "big.jpg": made_photo(2, (2800, 700))})
    (tmp_path / "out").mkdir()
    rows = write_content(
        [(PACKAGE, root, [scene("tiny.jpg"), scene("big.jpg")])], HeldOut(frozenset(), frozenset()), tmp_path / "out"
    )
    assert [(row.source_file, row.width, row.height) for row in rows] == [("big.jpg", 1400, 350)]


@pytest.mark.parametrize("text", ["", "split,person\ntest,P002\n", "split,person,package,source_file\ntrain,P1,x,y\n"])
def test_a_photo_list_without_usable_test_rows_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "photos.csv").write_text(text)
    with pytest.raises(UsageError, match="no usable test rows"):
        read_held_out(tmp_path / "photos.csv")


def test_a_missing_photo_list_stops_the_command_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        sample.app, ["--out", str(tmp_path / "content"), "--held-out", str(tmp_path / "none.csv")], terminal_width=400
    )
    assert result.exit_code == 2
    assert "cannot read the list of test photos" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "content").exists()


def test_a_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"no content\.csv in it"):
        get_sample(
            out=tmp_path / "content",
            held_out_list=HELD_OUT_LIST,
            clients=frozenset(Client),
            skip_missing=False,
            downloads=None,
        )
    assert (tmp_path / "content" / "thesis.txt").read_text() == "mine"


def fake_downloads(folder: Path) -> Path:
    """An unpacked package as ``fetch`` leaves it: one scene of tabler-ui."""
    photos = folder / "tabler-ui" / "package" / "dist" / "demo" / "photos"
    photos.mkdir(parents=True)
    made_photo(5).save(photos / "somebody-1-1500.jpg")
    return folder


def test_a_missing_client_is_named_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRuntimeError, match=r"npm is not installed.*--skip-missing") as caught:
        get_sample(
            out=tmp_path / "content",
            held_out_list=HELD_OUT_LIST,
            clients=frozenset({Client.NPM}),
            skip_missing=False,
            downloads=None,
        )
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_with_skip_missing_the_rest_is_written_and_the_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads = fake_downloads(tmp_path / "downloads")
    monkeypatch.setenv("PATH", str(tmp_path))
    get_sample(
        out=tmp_path / "content",
        held_out_list=HELD_OUT_LIST,
        clients=frozenset({Client.NPM}),
        skip_missing=True,
        downloads=downloads,
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "material-kit@2.0.4" in said
    assert "openpeople==0.1.2" in said
    assert [p.name for p in (tmp_path / "content").rglob("*.jpg")] == ["tabler-ui_somebody-1-1500.jpg"]


def test_a_second_run_replaces_the_first_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = fake_downloads(tmp_path / "downloads")
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "content"

    def run() -> list[str]:
        get_sample(
            out=out,
            held_out_list=HELD_OUT_LIST,
            clients=frozenset({Client.NPM}),
            skip_missing=True,
            downloads=downloads,
        )
        return sorted(path.name for path in out.rglob("*") if path.is_file())

    first = run()
    (out / "train" / "stale.jpg").touch()
    assert run() == first == ["content.csv", "tabler-ui_somebody-1-1500.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content", "downloads"]


def test_an_output_place_that_cannot_be_a_folder_is_disk_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileTroubleError, match="cannot write"):
        get_sample(
            out=tmp_path / "file" / "content",
            held_out_list=HELD_OUT_LIST,
            clients=frozenset({Client.NPM}),
            skip_missing=False,
            downloads=None,
        )


def test_a_client_that_fails_is_quoted_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'first line' >&2\necho 'E404 no such package' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(MissingRuntimeError, match=r"npm could not fetch made@1\.0 \(E404 no such package\)"):
        fetch(Package(Client.NPM, "made", "1.0"), tmp_path)


def test_a_broken_archive_is_reported_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho broken > made-1.0.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with pytest.raises(FileTroubleError, match="cannot unpack"):
        fetch(Package(Client.NPM, "made", "1.0"), downloads)
    assert list(downloads.iterdir()) == []


def test_pip_and_npm_sources_name_their_version() -> None:
    assert all(source.package.version for source in SOURCES if source.package.client is not Client.APT)
