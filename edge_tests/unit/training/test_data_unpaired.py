"""Unpaired and paired datasets: a sample is a function of (seed, number), its parts are of one crop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdk.errors import UsageError
from sdk.imaging import resize
from training.data.conditions import canny, edge_smoothed, lab
from training.data.crops import MiddleCrop, RandomCrop, Window
from training.data.folders import open_folder
from training.data.masks import BODY, FACE, HEAD, face_mask
from training.data.paired import PairedFolderDataset
from training.data.store import PictureStore, open_store
from training.data.unpaired import UnpairedDataset, make_loader
from training.metrics.faces import Face

SIDE, CROP = 48, 32


@pytest.fixture
def make_store(tmp_path: Path, made_photo: Callable[..., np.ndarray]) -> Callable[..., PictureStore]:
    """A store of made pictures of some shapes in the folder ``name``."""

    def make(name: str, *shapes: tuple[int, int], seed: int = 0, **changes: object) -> PictureStore:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for index, (height, width) in enumerate(shapes):
            Image.fromarray(made_photo(height, width, seed + index)).save(root / f"{index}.png")
        settings: dict[str, object] = {"root": root, "side": SIDE, "cache": tmp_path / "cache", "cache_bytes": 10**6}
        return open_store(open_folder(root).files, **settings | changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def unpaired(make_store: Callable[..., PictureStore]) -> UnpairedDataset:
    photos = make_store("photos", (48, 64), (60, 48), (96, 96), (50, 70), (48, 48))
    pictures = make_store("pictures", (48, 48), (48, 80), (70, 60), seed=50)
    return UnpairedDataset(
        photos, pictures, crop=RandomCrop(side=CROP), seed=7, smooth=True, conditions=("canny", "lab")
    )


def place(part: torch.Tensor, whole: np.ndarray) -> list[tuple[int, int, bool]]:
    """Where a crop was cut from ``H x W x C``: every (top, left, mirror) that gives it."""
    cut = part.numpy().transpose(1, 2, 0)
    side = cut.shape[0]
    return [
        (top, left, mirror)
        for mirror in (False, True)
        for top in range(whole.shape[0] - side + 1)
        for left in range(whole.shape[1] - side + 1)
        if np.array_equal(cut[:, ::-1] if mirror else cut, whole[top : top + side, left : left + side])
    ]


def test_parts_are_bytes_of_the_crops_size(unpaired: UnpairedDataset) -> None:
    assert unpaired.parts == ("photo", "picture", "smoothed", "canny", "lab")
    sample = unpaired[3]
    assert [tuple(part.shape) for part in sample] == [(n, CROP, CROP) for n in (3, 3, 3, 1, 3)]
    assert all(part.dtype == torch.uint8 and part.is_contiguous() for part in sample)


def test_maps_are_of_the_photos_own_crop_and_the_smoothed_twin_of_the_pictures(unpaired: UnpairedDataset) -> None:
    for number in range(12):
        photo, picture, smoothed, edges, colours = unpaired[number]
        found = [
            (index, spot) for index in range(len(unpaired.photos)) for spot in place(photo, unpaired.photos.read(index))
        ]
        assert len(found) == 1
        index, spot = found[0]
        whole = unpaired.photos.read(index)
        assert spot in place(edges, canny(whole).transpose(1, 2, 0))
        assert spot in place(colours, lab(whole).transpose(1, 2, 0))
        twins = [
            spot in place(smoothed, edge_smoothed(unpaired.pictures.read(index)))
            for index in range(len(unpaired.pictures))
            for spot in place(picture, unpaired.pictures.read(index))
        ]
        assert twins == [True]


def test_a_sample_is_a_function_of_seed_and_number(unpaired: UnpairedDataset) -> None:
    other = UnpairedDataset(unpaired.photos, unpaired.pictures, crop=RandomCrop(side=CROP), seed=8)
    again = UnpairedDataset(unpaired.photos, unpaired.pictures, crop=RandomCrop(side=CROP), seed=7)
    assert all(torch.equal(a, b) for a, b in zip(unpaired[11][:2], again[11], strict=True))
    differ = [not torch.equal(other[number][0], again[number][0]) for number in range(5)]
    assert sum(differ) >= 4


def test_all_photos_and_all_pictures_come_before_any_comes_again(unpaired: UnpairedDataset) -> None:
    def source(part: torch.Tensor, store: PictureStore) -> int:
        return next(index for index in range(len(store)) if place(part, store.read(index)))

    samples = [unpaired[number] for number in range(15)]
    photos = [source(sample[0], unpaired.photos) for sample in samples]
    pictures = [source(sample[1], unpaired.pictures) for sample in samples]
    for start in range(0, 15, 5):
        assert sorted(photos[start : start + 5]) == list(range(5))
    for start in range(0, 15, 3):
        assert sorted(pictures[start : start + 3]) == list(range(3))
    assert len(set(zip(photos, pictures, strict=True))) > 5  # not in step: other partners in other rounds


def test_half_of_the_crops_are_mirrored_and_places_are_uniform() -> None:
    rng = np.random.default_rng(0)
    windows = [RandomCrop(side=32).window(34, 48, rng) for _ in range(3000)]
    assert 0.46 < np.mean([window.mirror for window in windows]) < 0.54
    counts = np.bincount([window.top for window in windows], minlength=3)
    assert len(counts) == 3
    assert counts.min() > 900
    assert {window.left for window in windows} == set(range(17))
    assert not any(RandomCrop(side=32, flip=False).window(32, 32, rng).mirror for _ in range(20))


def test_without_a_zoom_windows_are_those_there_always_were() -> None:
    rng, by_hand = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(50):
        window = RandomCrop(side=32, zoom=1.0).window(48, 70, rng)
        top, left, mirror = int(by_hand.integers(0, 17)), int(by_hand.integers(0, 39)), bool(by_hand.random() < 0.5)
        assert window == Window(top=top, left=left, side=32, mirror=mirror, scaled=None)


def test_a_zoom_cuts_squares_of_any_size_and_scales_them() -> None:
    rng, planes = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (2, 48, 70), dtype=np.uint8)
    sides = []
    for _ in range(400):
        window = RandomCrop(side=32, zoom=0.5).window(48, 70, rng)
        sides.append(window.side)
        assert 0 <= window.top <= 48 - window.side
        assert 0 <= window.left <= 70 - window.side
        cut = window.cut(planes)
        part = planes[:, window.top : window.top + window.side, window.left : window.left + window.side]
        wanted = np.stack([resize(plane, 32, 32) for plane in part])
        assert np.array_equal(cut, wanted[..., ::-1] if window.mirror else wanted)
        assert cut.flags.c_contiguous
    assert set(sides) == set(range(24, 49))


def test_the_mask_of_a_face_is_inside_of_its_box_that_of_a_head_around_it_and_that_of_a_body_below() -> None:
    mask = face_mask([Face(x=0.25, y=0.375, width=0.5, height=0.25)], 100, 200)
    wanted = np.zeros((3, 100, 200), np.uint8)
    wanted[FACE, 40:60, 55:145] = 255  # 0.375 + 0.08 / 4 to 0.375 + 0.9 / 4 down, 0.25 + 0.05 / 2 to 0.25 + 0.95 / 2
    wanted[HEAD, 25:75, 25:175] = 255  # half the box's height above and below, a quarter of its width beside
    wanted[BODY, 25:] = 255 - wanted[HEAD, 25:]
    assert np.array_equal(mask, wanted)
    assert not face_mask([], 10, 20).any()
    body = face_mask([Face(x=0.4, y=0.1, width=0.1, height=0.05)], 100, 200)[BODY]
    wanted = np.zeros((100, 200), np.uint8)
    wanted[8:50, 40:140] = 255  # 0.1 - 0.05 / 2 to 0.1 + 8 x 0.05 down, two widths on either side
    wanted[8:18, 75:105] = 0  # the head
    assert np.array_equal(body, wanted)
    outside = face_mask([Face(x=-0.2, y=0.8, width=0.4, height=0.6), Face(x=1.0, y=0.0, width=0.1, height=0.1)], 50, 50)
    assert outside[0, 45:, :5].all()
    assert not outside[0, :40].any()


@pytest.mark.parametrize("zoom", [1.0, 0.7])
def test_the_mask_follows_crop_zoom_and_mirror(make_store: Callable[..., PictureStore], zoom: float) -> None:
    store = make_store("photos", (48, 64), (60, 48), (48, 48))
    boxes = [Face(x=0.1, y=0.2, width=0.6, height=0.5)], [Face(x=0.5, y=0.4, width=0.4, height=0.6)], []
    for file, faces, (height, width) in zip(store.files, boxes, store.sizes, strict=True):
        # Photos of the mask, a plane a colour: that of a sample must be what its own crop shows.
        Image.fromarray(np.ascontiguousarray(face_mask(faces, height, width).transpose(1, 2, 0))).save(file)
    painted = open_store(store.files, root=store.root, side=SIDE, cache=store.root.parent / "again", cache_bytes=10**6)
    dataset = UnpairedDataset(
        painted, painted, crop=RandomCrop(side=CROP, zoom=zoom), seed=3, conditions=("canny",), faces=boxes
    )
    assert dataset.parts == ("photo", "picture", "canny", "faces")
    shown = []
    for number in range(15):
        photo, *_, mask = dataset[number]
        assert mask.shape == (3, CROP, CROP)
        assert torch.equal(mask, photo)
        shown.append(int(mask.max()))
    assert sorted(set(shown)) == [0, 255]


def test_light_changes_the_photo_alone_and_where_nothing_else_does(make_store: Callable[..., PictureStore]) -> None:
    store = make_store("photos", (48, 64), (60, 48), (48, 48))
    plain, lit = (
        UnpairedDataset(store, store, crop=RandomCrop(side=CROP), seed=3, conditions=("canny",), light=light)
        for light in (0.0, 0.8)
    )
    powers = []
    for number in range(60):
        (photo, picture, _), (relit, same, edges) = plain[number], lit[number]
        assert torch.equal(picture, same)
        assert torch.equal(edges, lit[number][2])  # again the same light
        inner = (photo > 60) & (photo < 200)
        power = (relit[inner] / 255.0).log().sum() / (photo[inner] / 255.0).log().sum()
        assert float((relit - (photo / 255.0) ** power * 255.0).abs().max()) < 1.5
        powers.append(float(power.log2()))
    assert -0.83 < min(powers) < -0.6
    assert 0.6 < max(powers) < 0.83


def test_the_middle_is_the_middle() -> None:
    window = MiddleCrop(side=32).window(48, 65, np.random.default_rng(0))
    assert window == Window(top=8, left=16, side=32, mirror=False)


def test_a_window_copies_and_mirrors() -> None:
    planes = np.arange(2 * 4 * 5).reshape(2, 4, 5)
    cut = Window(top=1, left=2, side=3, mirror=True).cut(planes)
    assert cut[1].tolist() == [[29, 28, 27], [34, 33, 32], [39, 38, 37]]
    assert cut.flags.c_contiguous
    cut[:] = 0
    assert planes[1, 1, 2] == 27


def test_a_crop_larger_than_the_pictures_is_refused(make_store: Callable[..., PictureStore]) -> None:
    store = make_store("photos", (48, 48))
    with pytest.raises(UsageError, match=r"crop 64 is larger than the pictures of .*photos.* 48 px"):
        UnpairedDataset(store, store, crop=RandomCrop(side=64))
    with pytest.raises(UsageError, match="did you mean 'lab'"):
        UnpairedDataset(store, store, crop=RandomCrop(side=32), conditions=["labb"])


def batches(dataset: UnpairedDataset, workers: int, *, epochs: int = 2) -> list[tuple[torch.Tensor, ...]]:
    loader = make_loader(dataset, batch=3, samples=9, workers=workers)
    seen = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        seen += [tuple(part) for part in loader]
    return seen


@pytest.mark.slow  # each worker process imports PyTorch
def test_batches_are_the_same_bits_with_0_1_and_3_workers(unpaired: UnpairedDataset) -> None:
    expected = batches(unpaired, 0)
    assert len(expected) == 6
    assert not torch.equal(expected[0][0], expected[3][0])  # the second stretch goes on
    for workers in (1, 3):
        found = batches(unpaired, workers)
        assert len(found) == len(expected)
        for ours, theirs in zip(expected, found, strict=True):
            assert len(ours) == len(theirs) == 5
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_resumed_stretch_is_that_of_the_whole_run(unpaired: UnpairedDataset) -> None:
    whole = batches(unpaired, 0)
    loader = make_loader(unpaired, batch=3, samples=9)
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    for ours, theirs in zip(whole[3:], loader, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_batches_do_not_depend_on_what_is_kept(
    unpaired: UnpairedDataset, make_store: Callable[..., PictureStore]
) -> None:
    photos, pictures = (make_store(store.root.name, cache_bytes=0) for store in (unpaired.photos, unpaired.pictures))
    assert (photos.kept, unpaired.photos.kept) == (0, 5)
    decoding = UnpairedDataset(
        photos, pictures, crop=RandomCrop(side=CROP), seed=7, smooth=True, conditions=("canny", "lab")
    )
    for number in range(6):
        assert all(torch.equal(a, b) for a, b in zip(unpaired[number], decoding[number], strict=True))


# ------------------------------------------------------------------------------------------------------------ paired


def test_both_sides_of_a_pair_are_cut_alike(make_store: Callable[..., PictureStore]) -> None:
    inputs = make_store("inputs", (48, 64), (60, 48), (96, 96))
    for file in inputs.files:
        (inputs.root.parent / "targets").mkdir(exist_ok=True)
        negative = 255 - np.asarray(Image.open(file))
        Image.fromarray(negative).save(inputs.root.parent / "targets" / f"{file.stem}.bmp")
    targets = make_store("targets")
    # 96 x 96 is scaled on both sides; halves are rounded up there, so the sums may be one above.
    dataset = PairedFolderDataset(inputs, targets, crop=RandomCrop(side=CROP), seed=1)
    assert len(dataset) == 3
    assert dataset.unmatched == ()
    for number in range(9):
        given, target = dataset[number]
        assert given.shape == target.shape == (3, CROP, CROP)
        sums = given.int() + target.int()
        assert int(sums.min()) >= 254
        assert int(sums.max()) <= 256
    assert all(torch.equal(a, b) for a, b in zip(dataset[4], dataset[4], strict=True))


def test_pictures_without_a_partner_are_named(make_store: Callable[..., PictureStore]) -> None:
    inputs = make_store("inputs", (48, 64), (48, 60), (48, 48), (48, 97))
    targets = make_store("targets", (96, 128), (48, 48), (48, 48), seed=9)
    Image.new("RGB", (48, 48)).save(targets.root / "extra.png")
    Image.new("RGB", (97, 49)).save(targets.root / "3.png")
    targets = make_store("targets")
    dataset = PairedFolderDataset(inputs, targets, crop=RandomCrop(side=CROP))
    assert [(inputs.files[a].name, targets.files[b].name) for a, b in dataset.pairs] == [
        ("0.png", "0.png"),
        ("2.png", "2.png"),
    ]
    named = {item.path.name: item.reason for item in dataset.unmatched}
    assert set(named) == {"1.png", "3.png", "extra.png"}
    assert named["1.png"] == "is 60 x 48 px when scaled, its target 48 x 48"
    assert "has no input in" in named["extra.png"]


def test_folders_without_a_pair_are_refused(make_store: Callable[..., PictureStore]) -> None:
    inputs, targets = make_store("inputs", (48, 48)), make_store("targets", (48, 48), (48, 48))
    (targets.root / "0.png").unlink()
    targets = make_store("targets")
    with pytest.raises(UsageError, match=r"no picture of .*inputs has a partner in .*targets \(0\.png has no target"):
        PairedFolderDataset(inputs, targets, crop=RandomCrop(side=CROP))
    Image.new("RGB", (48, 48)).save(targets.root / "1.bmp")
    with pytest.raises(UsageError, match="have the same name but for the suffix"):
        PairedFolderDataset(make_store("targets"), targets, crop=RandomCrop(side=CROP))
