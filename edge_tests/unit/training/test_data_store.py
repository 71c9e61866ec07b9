"""Pictures at the working size: the same from the cache and from the file, the broken named, the cache bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdk.errors import FileTroubleError, UsageError
from sdk.imaging import resize
from training.data.folders import open_folder
from training.data.pool import worker_pool
from training.data.store import PictureStore, open_store, scaled_size

SIDE = 32


@pytest.fixture
def photos(tmp_path: Path, made_photo: Callable[..., np.ndarray]) -> Path:
    """Four readable pictures (one 16-bit grey, one with alpha, one CMYK) and four that are not."""
    root = tmp_path / "photos"
    root.mkdir()
    Image.fromarray(made_photo(40, 60, 0)).save(root / "a.png")
    Image.fromarray(np.full((32, 32), 257 * 90, np.uint16)).save(root / "b16.png")
    alpha = np.dstack([made_photo(64, 48, 1), np.zeros((64, 48), np.uint8)])
    Image.fromarray(alpha).save(root / "c-alpha.png")
    Image.fromarray(made_photo(96, 64, 2)).convert("CMYK").save(root / "d-cmyk.jpg")
    whole = (root / "a.png").read_bytes()
    (root / "e-cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "f-text.jpg").write_text("not a picture")
    (root / "g-empty.jpg").touch()
    Image.new("RGB", (80, 10)).save(root / "h-small.png")
    return root


def store(root: Path, tmp_path: Path, **changes: object) -> PictureStore:
    settings: dict[str, object] = {"root": root, "side": SIDE, "cache": tmp_path / "cache", "cache_bytes": 10**6}
    return open_store(open_folder(root).files, **settings | changes)  # type: ignore[arg-type]


def test_broken_files_are_named_with_their_reason(photos: Path, tmp_path: Path) -> None:
    opened = store(photos, tmp_path)
    assert [file.name for file in opened.files] == ["a.png", "b16.png", "c-alpha.png", "d-cmyk.jpg"]
    reasons = {item.path.name: item.reason for item in opened.skipped}
    assert list(reasons) == ["e-cut.png", "f-text.jpg", "g-empty.jpg", "h-small.png"]
    assert "truncated or broken" in reasons["e-cut.png"]
    assert "not an image" in reasons["f-text.jpg"]
    assert "zero bytes" in reasons["g-empty.jpg"]
    assert reasons["h-small.png"].startswith("is 80 x 10 px: too small, its short side would be enlarged 3.2 times")
    assert opened.total == 8


def test_pictures_are_scaled_by_the_projects_one_algorithm(photos: Path, tmp_path: Path) -> None:
    opened = store(photos, tmp_path)
    assert opened.sizes == ((32, 48), (32, 32), (43, 32), (48, 32))
    expected = resize(np.asarray(Image.open(photos / "a.png")), 32, 48)
    assert np.array_equal(opened.read(0), expected)
    assert (opened.read(1) == 90).all()
    assert (opened.read(2) == 255).all()  # transparent: white


def test_what_is_read_does_not_depend_on_the_cache(photos: Path, tmp_path: Path) -> None:
    whole = store(photos, tmp_path)
    half = store(photos, tmp_path, cache_bytes=32 * 48 * 3 + 32 * 32 * 3)
    none = store(photos, tmp_path, cache_bytes=0)
    assert [opened.kept for opened in (whole, half, none)] == [4, 2, 0]
    for index in range(4):
        assert np.array_equal(whole.read(index), half.read(index))
        assert np.array_equal(whole.read(index), none.read(index))


def test_the_cache_is_bounded_in_bytes(photos: Path, tmp_path: Path) -> None:
    budget = 9000
    opened = store(photos, tmp_path, cache_bytes=budget)
    assert opened.pixels is not None
    assert 0 < opened.pixels.stat().st_size <= budget
    assert opened.pixels.stat().st_size == sum(
        h * w * 3 for (h, w), start in zip(opened.sizes, opened.starts, strict=True) if start >= 0
    )


def test_a_second_opening_decodes_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store(photos, tmp_path)
    monkeypatch.setattr("training.data.store.read_photo", lambda path: pytest.fail(f"{path} was decoded"))
    again = store(photos, tmp_path)
    assert (again.files, again.sizes, again.skipped) == (first.files, first.sizes, first.skipped)
    assert np.array_equal(again.read(3), first.read(3))


def test_a_changed_picture_is_read_again(photos: Path, tmp_path: Path) -> None:
    before = store(photos, tmp_path).read(0)
    Image.new("RGB", (60, 40), (9, 9, 9)).save(photos / "a.png")
    after = store(photos, tmp_path).read(0)
    assert not np.array_equal(before, after)
    assert (after == 9).all()


def test_a_damaged_cache_is_made_again_and_a_cut_one_is_not_read(photos: Path, tmp_path: Path) -> None:
    opened = store(photos, tmp_path)
    whole = opened.read(3)
    assert opened.pixels is not None
    opened.pixels.write_bytes(opened.pixels.read_bytes()[:-10])
    with pytest.raises(FileTroubleError, match="is cut off"):
        opened.read(3)
    assert np.array_equal(store(photos, tmp_path).read(3), whole)
    index = opened.pixels.with_name("index.json")
    index.write_text(json.dumps({"pictures": []}))
    assert np.array_equal(store(photos, tmp_path).read(3), whole)


def test_a_picture_that_changes_under_the_run_is_noticed(photos: Path, tmp_path: Path) -> None:
    opened = store(photos, tmp_path, cache_bytes=0)
    Image.new("RGB", (90, 40)).save(photos / "a.png")
    with pytest.raises(UsageError, match=r"a\.png has changed since the run began"):
        opened.read(0)


def test_files_that_are_gone_are_skipped(photos: Path, tmp_path: Path) -> None:
    files = (*open_folder(photos).files, photos / "gone.jpg")
    opened = open_store(files, root=photos, side=SIDE, cache=tmp_path / "cache", cache_bytes=0)
    assert "gone.jpg" in [item.path.name for item in opened.skipped]
    assert len(opened) == 4


def test_no_readable_picture_is_an_error_with_reasons(tmp_path: Path) -> None:
    root = tmp_path / "bad"
    root.mkdir()
    (root / "x.jpg").touch()
    with pytest.raises(UsageError, match=r"none of the 1 pictures .*x\.jpg has zero bytes"):
        store(root, tmp_path)


def test_a_cache_that_cannot_be_written_says_so(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands here")
    with pytest.raises(FileTroubleError, match="could not write the picture cache"):
        store(photos, tmp_path)


def test_more_enlargement_takes_smaller_pictures(photos: Path, tmp_path: Path) -> None:
    names = [file.name for file in store(photos, tmp_path, enlarge=4.0).files]
    assert "h-small.png" in names


@pytest.mark.parametrize(
    ("size", "scaled"),
    [((218, 178), (314, 256)), ((256, 256), (256, 256)), ((480, 640), (256, 341)), ((99, 100), (256, 259))],
)
def test_the_short_side_is_exact(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    assert scaled_size(*size, 256) == scaled


def test_processes_that_open_the_same_pictures_at_once_do_no_harm(photos: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as executor:
        opened = [task.result() for task in [executor.submit(store, photos, tmp_path) for _ in range(4)]]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for other in opened[1:]:
        assert np.array_equal(other.read(3), opened[0].read(3))
        assert other.starts == opened[0].starts


def test_a_process_that_dies_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"one of 1 processes .* fewer workers"), worker_pool(1) as run:
        list(run(os._exit, [3]))


def test_worker_processes_make_the_same_cache(photos: Path, tmp_path: Path) -> None:
    here = store(photos, tmp_path)
    there = store(photos, tmp_path, cache=tmp_path / "other", workers=2)
    assert replace(here, pixels=None, skipped=()).sizes == there.sizes
    assert here.skipped == there.skipped
    assert here.pixels is not None
    assert there.pixels is not None
    assert here.pixels.read_bytes() == there.pixels.read_bytes()
