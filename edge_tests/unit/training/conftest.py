"""Made photos, made pairs and a tiny recipe, so that an engine test takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from training.checkpoint import load_checkpoint
from training.config import Recipe, make_recipe

#: The made teachers: the negative, and the photo with its red channel alone.
MADE_TEACHERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "negative": lambda photo: 255 - photo,
    "red": lambda photo: photo * np.array([1, 0, 0], np.uint8),
}


def made_photo(height: int, width: int, seed: int) -> np.ndarray:
    """Soft blobs of colour with a hard bar, ``H x W x 3`` uint8."""
    rng = np.random.default_rng(seed)
    blobs = cv2.resize(rng.random((5, 5, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    blobs[height // 4 : height // 2, width // 3 : width // 3 + 4] = 0.1
    return (np.clip(blobs, 0, 1) * 255).astype(np.uint8)


@pytest.fixture(name="made_photo", scope="session")
def _made_photo() -> Callable[..., np.ndarray]:
    """The function itself: test modules cannot import a conftest in importlib mode."""
    return made_photo


def write_shard(folder: Path, *, photos: int, size: int, seed: int) -> None:
    """A shard of made views with the made teachers, as ``training.data.render`` lays it out."""
    folder.mkdir(parents=True)
    views = np.stack([made_photo(size, size, seed + i) for i in range(photos)])
    np.save(folder / "photos.npy", views)
    for style, teacher in MADE_TEACHERS.items():
        np.save(folder / f"{style}.npy", teacher(views))
    (folder / "shard.json").write_text(json.dumps({"plan": {}, "teachers": dict.fromkeys(MADE_TEACHERS, "made")}))


@pytest.fixture(scope="session")
def made_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train/`` of two shards (3 + 3 views) and ``val/`` of one (2 views), 64 px."""
    folder = tmp_path_factory.mktemp("pairs")
    write_shard(folder / "train" / "v000", photos=3, size=64, seed=10)
    write_shard(folder / "train" / "v001", photos=3, size=64, seed=20)
    write_shard(folder / "val" / "v000", photos=2, size=64, seed=90)
    return folder


@pytest.fixture(name="folders", scope="session")
def _folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of soft noise in train and val; pictures of black and white stripes."""
    root, rng = tmp_path_factory.mktemp("gan"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        (root / "photos" / split).mkdir(parents=True)
        for number in range(count):
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((72, 72), Image.Resampling.BICUBIC).save(
                root / "photos" / split / f"{split}{number}.png"
            )
    (root / "style").mkdir()
    for number in range(8):
        stripes = np.zeros((72, 72, 3), np.uint8)
        stripes[:, (np.arange(72) // (2 + number % 3)) % 2 == 0] = 255
        Image.fromarray(stripes).save(root / "style" / f"s{number}.png")
    return root


@pytest.fixture
def tiny_recipe(made_pairs: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Makes recipes of a network of a few thousand weights; keywords are dotted keys with ``__`` for the dot."""

    def make(**changes: Any) -> Recipe:
        values: dict[str, Any] = {
            "name": "tiny",
            "styles": ["negative", "red"],
            "generator": {
                "encoder_width": 0.25,
                "stem": 8,
                "widths": [8, 8, 8, 8],
                "depths": [1, 1, 1, 1],
                "expansions": [1, 1, 1, 1],
            },
            "data": {"pairs": str(made_pairs), "crop": 32, "batch": 4, "val_size": 64},
            "optimizer": {"lr": 0.01, "ema": 0.9},
            "run": {"out": str(tmp_path / "runs"), "steps": 8, "validate_every": 4, "log_every": 2, "threads": 1},
        }
        for key, value in changes.items():
            *parents, last = key.split("__")
            level = values
            for parent in parents:
                level = level.setdefault(parent, {})
            level[last] = value
        return make_recipe(values)

    return make


@pytest.fixture
def exports(tmp_path: Path) -> Callable[[Path], float]:
    """``exports(checkpoint)``: largest difference of its exported reference to its network; skips without the extra."""
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    from converters.to_onnx import REFERENCE, prove_reference, write_reference

    def difference(path: Path) -> float:
        made = load_checkpoint(path)
        write_reference(made, tmp_path)
        photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        return prove_reference(tmp_path / REFERENCE, made, [photo])

    return difference
