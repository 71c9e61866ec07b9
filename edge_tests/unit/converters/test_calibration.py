"""Calibration sets are complete, ordered and named by their content; bad folders get one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.calibration import DEFAULT_PHOTOS, MIN_PHOTOS, build_calibration, load_calibration
from sdk.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixteen noise photos of 40 x 60 pixels."""
    random = np.random.default_rng(1)
    for index in range(MIN_PHOTOS):
        pixels = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photo{index:02}.png")
    return tmp_path


def _shown(pairs: tuple[tuple[int, np.ndarray], ...], row: int) -> list[int]:
    return sorted(photo for photo, style in pairs if style[row] == 1)


def test_every_photo_is_shown_with_every_style(folder: Path) -> None:
    made = load_calibration(folder, size=(32, 32), styles=3)
    assert len(made) == 3 * MIN_PHOTOS
    assert made.size == (32, 32)
    for row in range(3):
        assert _shown(made.pairs, row) == list(range(MIN_PHOTOS))


def test_baked_style_shows_every_photo_once_with_its_weights(folder: Path) -> None:
    weights = np.array([0.25, 0.75, 0.0], dtype=np.float32)
    made = load_calibration(folder, size=(32, 32), styles=3, style=weights)
    assert [photo for photo, _ in made.pairs] == list(range(MIN_PHOTOS))
    assert all(np.array_equal(style, weights) for _, style in made.pairs)


def test_fewer_photos_a_style_are_dealt_out_so_that_all_are_used(pictures: np.ndarray) -> None:
    many = np.concatenate([pictures, 255 - pictures])
    made = build_calibration(many, styles=3, photos_per_style=MIN_PHOTOS)
    assert len(made) == 3 * MIN_PHOTOS
    assert all(len(set(_shown(made.pairs, row))) == MIN_PHOTOS for row in range(3))
    assert {photo for photo, _ in made.pairs} == set(range(32))


def test_samples_are_contiguous_pictures_in_the_unit_range(folder: Path) -> None:
    made = load_calibration(folder, size=(32, 48), styles=2)
    image, style = next(iter(made.tensors(baked=False)))
    assert image.shape == (1, 3, 32, 48)
    assert image.is_contiguous()
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert style.shape == (1, 2)
    assert len(next(iter(made.tensors(baked=True)))) == 1
    photo, _ = next(iter(made.samples()))
    assert np.array_equal(photo[0].transpose(2, 0, 1), image[0].numpy())


def test_same_folder_gives_the_same_hash_and_anything_else_another(folder: Path) -> None:
    def digest(**options: object) -> str:
        arguments: dict[str, object] = {"size": (32, 32), "styles": 3} | options
        return load_calibration(folder, **arguments).sha256  # type: ignore[arg-type]

    first = digest()
    assert digest() == first
    others = {digest(size=(32, 48)), digest(styles=4), digest(seed=1), digest(style=np.array([0, 1, 0]))}
    path = folder / "photo00.png"
    pixels = np.array(Image.open(path))
    pixels[0:8, 10:20] ^= 255
    Image.fromarray(pixels).save(path)
    others.add(digest())
    assert len({first, *others}) == 6


def test_seed_decides_the_order_of_the_photos(folder: Path) -> None:
    one, other = (load_calibration(folder, size=(32, 32), styles=2, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.photos, other.photos)
    assert np.array_equal(np.sort(one.photos.sum((1, 2, 3))), np.sort(other.photos.sum((1, 2, 3))))


def test_shipped_photos_are_enough_for_every_style() -> None:
    made = load_calibration(DEFAULT_PHOTOS, size=(32, 32), styles=5)
    assert len(made.photos) >= MIN_PHOTOS
    assert made.photos.std() > 0.1


def test_all_broken_photos_are_named_in_one_sentence(folder: Path) -> None:
    (folder / "photo03.png").write_bytes(b"not a picture")
    whole = (folder / "photo05.png").read_bytes()
    (folder / "photo05.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError) as caught:
        load_calibration(folder, size=(32, 32), styles=3)
    message = str(caught.value)
    assert "2 of 16" in message
    assert "photo03.png, photo05.png" in message
    assert "\n" not in message


def test_missing_empty_and_small_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_calibration(tmp_path / "nowhere", size=(32, 32), styles=3)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="no picture"):
        load_calibration(empty, size=(32, 32), styles=3)
    (folder / "photo00.png").unlink()
    with pytest.raises(UsageError, match="holds 15 photos: give at least 16"):
        load_calibration(folder, size=(32, 32), styles=3)


def test_too_few_photos_a_style_and_bad_sizes_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="4 photos a style are too few"):
        load_calibration(folder, size=(32, 32), styles=3, photos_per_style=4)
    with pytest.raises(UsageError, match="not divisible by 16"):
        load_calibration(folder, size=(30, 32), styles=3)
