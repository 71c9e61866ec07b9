"""Rendered pairs: what the teacher saw is what the network sees, and a second call does only what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sdk.errors import UsageError
from training.data import render
from training.data.render import Light, View, cut_view, draw_view, halve, relight, render_pairs, render_split
from training.filters import render_all

SIZE = 48


@pytest.fixture
def photos(tmp_path: Path, made_photo: Callable[..., np.ndarray]) -> list[Path]:
    paths = []
    for seed, (height, width) in enumerate([(160, 120), (120, 200)]):
        path = tmp_path / "content" / "train" / f"p{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made_photo(height, width, seed)).save(path)
        paths.append(path)
    return paths


def run(photos: list[Path], out: Path, **changes: object) -> int:
    settings: dict[str, object] = {"styles": ["pencil"], "variants": 2, "size": SIZE, "seed": 1} | changes
    return render_split(photos, out, **settings)  # type: ignore[arg-type]


def test_photo_and_teacher_of_a_row_belong_together(photos: list[Path], tmp_path: Path) -> None:
    assert run(photos, tmp_path / "out", styles=["pencil", "anime"]) == 4
    for variant in (0, 1):
        shard = tmp_path / "out" / f"v{variant:03d}"
        for row, path in enumerate(photos):
            view = draw_view(1, path.name, variant, augment=True)
            double = cut_view(np.asarray(Image.open(path)), view, SIZE)
            assert np.array_equal(np.load(shard / "photos.npy")[row], halve(double))
            for style, teacher in render_all(double, ["pencil", "anime"]).items():
                assert np.array_equal(np.load(shard / f"{style}.npy")[row], teacher)


def test_a_second_call_renders_nothing_and_a_larger_one_only_the_rest(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photos, out) == 4
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert run(photos, out) == 0
    assert run(photos, out, variants=3) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run(photos, out, styles=["pencil", "comic"], variants=1) == 2
    assert before[out / "v000" / "pencil.npy"] == (out / "v000" / "pencil.npy").stat().st_mtime_ns
    assert (out / "v000" / "comic.npy").is_file()


@pytest.mark.parametrize("damage", ["no list", "half a list", "no array"])
def test_a_shard_that_is_not_whole_is_made_again(photos: list[Path], tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    run(photos, out)
    right = np.load(out / "v001" / "pencil.npy")
    described = out / "v001" / "shard.json"
    if damage == "no list":
        described.unlink()
    elif damage == "half a list":
        described.write_text(described.read_text()[:40])
    else:
        (out / "v001" / "pencil.npy").unlink()
    assert run(photos, out) == 2
    assert np.array_equal(np.load(out / "v001" / "pencil.npy"), right)


def test_a_teacher_that_draws_differently_is_rendered_again(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(photos, out, styles=["pencil", "comic"])
    monkeypatch.setattr(render, "teacher_fingerprint", lambda style: "new" if style == "comic" else FINGERPRINT(style))
    untouched = (out / "v000" / "pencil.npy").stat().st_mtime_ns
    assert run(photos, out, styles=["pencil", "comic"]) == 4
    assert (out / "v000" / "pencil.npy").stat().st_mtime_ns == untouched


FINGERPRINT = render.teacher_fingerprint


def test_another_plan_replaces_the_shards(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, styles=["pencil", "comic"])
    assert run(photos[:1], out) == 2
    assert np.load(out / "v000" / "photos.npy").shape == (1, SIZE, SIZE, 3)
    assert list(json.loads((out / "v000" / "shard.json").read_text())["teachers"]) == ["pencil"]


def test_views_depend_on_seed_name_and_number_alone() -> None:
    views = [
        draw_view(seed, name, variant, augment=True)
        for seed, name, variant in [(0, "a.jpg", 1), (0, "a.jpg", 1), (1, "a.jpg", 1), (0, "b.jpg", 1), (0, "a.jpg", 2)]
    ]
    assert views[0] == views[1]
    assert len(set(map(str, views))) == 4


def test_the_first_view_and_validation_views_are_plain() -> None:
    assert draw_view(5, "a", 0, augment=True) == View(side=1.0)
    assert [draw_view(5, "a", v, augment=False).light for v in range(3)] == [Light()] * 3
    assert [draw_view(5, "a", v, augment=False).side for v in range(3)] == [1.0, 0.6, 0.4]


def test_augmentation_shows_many_scales_and_lights() -> None:
    views = [draw_view(0, f"{i}", 1, augment=True) for i in range(300)]
    sides = [view.side for view in views]
    assert min(sides) < 0.4
    assert max(sides) > 0.95
    assert 0.3 < np.mean([side > 0.85 for side in sides]) < 0.7
    assert 0.3 < np.mean([view.mirror for view in views]) < 0.7
    for part in ("hue", "saturation", "gamma", "contrast", "brightness", "blur", "gain"):
        changed = np.mean([getattr(view.light, part) != getattr(Light(), part) for view in views])
        assert 0.1 < changed < 0.9, part


def test_a_crop_is_never_enlarged_into_mush(made_photo: Callable[..., np.ndarray]) -> None:
    photo = made_photo(400, 600, 0)
    cut = cut_view(photo, View(side=0.1, x=0.0, y=0.0), 160)
    side = round(0.65 * 320)
    assert cut.shape == (320, 320, 3)
    assert np.abs(cut[-1, -1].astype(int) - photo[side - 1, side - 1]).max() < 12


def test_light_changes_by_hand() -> None:
    red = np.full((8, 8, 3), (200, 0, 0), np.uint8)
    assert relight(red, Light()) is red
    assert relight(red, Light(hue=120))[0, 0].tolist() == [0, 200, 0]
    assert relight(red, Light(saturation=0))[0, 0].tolist() == [200, 200, 200]
    assert relight(red, Light(gain=(0.5, 1, 1)))[0, 0].tolist() == [100, 0, 0]
    grey = np.full((8, 8, 3), 128, np.uint8)
    assert relight(grey, Light(gamma=2.0))[0, 0].tolist() == [64, 64, 64]
    assert relight(grey, Light(brightness=-0.2))[0, 0].tolist() == [77, 77, 77]
    step = np.zeros((16, 16, 3), np.uint8)
    step[:, 8:] = 255
    assert 0 < int(relight(step, Light(blur=1.5))[8, 8, 0]) < 255


@pytest.mark.slow
def test_processes_render_what_one_process_renders(photos: list[Path], tmp_path: Path) -> None:
    run(photos, tmp_path / "one")
    run(photos, tmp_path / "two", workers=2)
    for path in sorted((tmp_path / "one").rglob("*.npy")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_the_command_renders_both_splits(photos: list[Path], tmp_path: Path) -> None:
    content, out = tmp_path / "content", tmp_path / "pairs"
    (content / "val").mkdir()
    photos[0].rename(content / "val" / photos[0].name)
    arguments = ["--content", str(content), "--out", str(out), "--variants", "1", "--val-variants", "2", "--size", "48"]
    result = CliRunner().invoke(render.app, [*arguments, "--styles", "pencil, comic", "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("comic.npy")) == [
        "train/v000/comic.npy",
        "val/v000/comic.npy",
        "val/v001/comic.npy",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"styles": ["comik"]}, "did you mean 'comic'"),
        ({"size": 50}, "multiple of 16"),
        ({"variants": 0}, "variants 0"),
        ({"splits": ["test"]}, "unknown split 'test'"),
        ({"splits": ["val"]}, "no folder 'val'"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(
    photos: list[Path], tmp_path: Path, change: dict[str, object], words: str
) -> None:
    settings: dict[str, object] = {"splits": ["train"], "workers": 0, "quiet": True} | change
    with pytest.raises(UsageError, match=words):
        render_pairs(tmp_path / "content", tmp_path / "pairs", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "pairs").exists()


def test_a_broken_photo_is_named_and_no_shard_is_called_whole(photos: list[Path], tmp_path: Path) -> None:
    photos[1].write_bytes(photos[1].read_bytes()[:200])
    with pytest.raises(UsageError, match=r"p1\.png"):
        run(photos, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("shard.json"))


def test_the_folders_that_sample_writes_are_rendered(tmp_path: Path, made_photo: Callable[..., np.ndarray]) -> None:
    for split in ("train", "val"):
        for kind in ("people", "scenes"):
            path = tmp_path / "content" / split / kind / f"{kind}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(made_photo(120, 160, seed=len(kind))).save(path)
    render_pairs(
        tmp_path / "content", tmp_path / "pairs", styles=["pencil"], variants=1, val_variants=1, size=SIZE, workers=0,
        quiet=True,
    )  # fmt: skip
    for split in ("train", "val"):
        assert np.load(tmp_path / "pairs" / split / "v000" / "photos.npy").shape == (2, SIZE, SIZE, 3)
