"""The loader: image, style and target belong together, and a sample is a function of its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdk.errors import UsageError
from training.data.order import permute
from training.data.pairs import (
    Degradation,
    PairDataset,
    RunSampler,
    ViewDataset,
    degrade,
    open_shards,
)

STYLES = ("negative", "red")
CLEAN = Degradation(noise_chance=0, jpeg_chance=0)


def dataset(folder: Path, **changes: object) -> PairDataset:
    settings: dict[str, object] = {"crop": 32, "degradation": CLEAN, "mix_share": 0.0} | changes
    return PairDataset(open_shards(folder / "train", STYLES), **settings)  # type: ignore[arg-type]


def drawn(image: torch.Tensor, row: int) -> torch.Tensor:
    """The made teachers again, on a crop."""
    return 255 - image if row == 0 else image * torch.tensor([1, 0, 0], dtype=torch.uint8).view(3, 1, 1)


def test_image_style_and_target_are_of_one_crop(made_pairs: Path) -> None:
    samples = dataset(made_pairs)
    seen = set()
    for number in range(24):
        image, style, target = samples[number]
        assert image.shape == target.shape == (3, 32, 32)
        assert image.dtype == target.dtype == torch.uint8
        row = int(style.argmax())
        seen.add(row)
        assert torch.equal(target, drawn(image, row))
        assert float(style.sum()) == 1.0
    assert seen == {0, 1}


def test_a_mix_has_the_mix_of_both_teachers_as_target(made_pairs: Path) -> None:
    samples = dataset(made_pairs, mix_share=1.0)
    for number in range(8):
        image, style, target = samples[number]
        assert float(style.sum()) == pytest.approx(1.0)
        assert float(style.min()) >= 0.19
        expected = style[0] * drawn(image, 0).float() + style[1] * drawn(image, 1).float()
        assert float((expected - target.float()).abs().max()) <= 0.51


def test_about_the_asked_share_of_samples_is_a_mix(made_pairs: Path) -> None:
    samples = dataset(made_pairs, mix_share=0.25)
    mixes = sum(bool((samples[number][1] > 0).sum() == 2) for number in range(400))
    assert 70 <= mixes <= 130


def test_a_sample_is_a_function_of_seed_and_number(made_pairs: Path) -> None:
    dirty = {"degradation": Degradation(noise_chance=1, jpeg_chance=1)}
    first, again, other = (
        dataset(made_pairs, seed=3, **dirty),
        dataset(made_pairs, seed=3, **dirty),
        dataset(made_pairs, seed=4, **dirty),
    )
    assert all(torch.equal(a, b) for a, b in zip(first[17], again[17], strict=True))
    assert not torch.equal(first[17][0], other[17][0])
    assert not torch.equal(first[17][0], first[18][0])


def test_degradation_touches_the_input_alone(made_pairs: Path) -> None:
    clean = dataset(made_pairs)
    dirty = dataset(made_pairs, degradation=Degradation(noise_chance=1, noise=0.1, jpeg_chance=1))
    for number in range(6):
        (image, style, target), (worse, same_style, same_target) = clean[number], dirty[number]
        assert torch.equal(style, same_style)
        assert torch.equal(target, same_target)
        assert 0 < float((image.float() - worse.float()).abs().mean()) < 30


def test_styles_are_drawn_by_their_weights(made_pairs: Path) -> None:
    samples = dataset(made_pairs, style_weights=[3.0, 1.0])
    first = sum(int(samples[number][1].argmax()) == 0 for number in range(400))
    assert 270 <= first <= 330


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 100])
def test_the_order_of_views_is_a_permutation(count: int) -> None:
    first, second = ([permute(i, count, key=key) for i in range(count)] for key in (5, 6))
    assert sorted(first) == sorted(second) == list(range(count))
    if count > 7:
        assert first != second
        assert first != list(range(count))


def test_every_view_comes_once_before_any_comes_again(made_pairs: Path) -> None:
    samples = dataset(made_pairs)
    for turn in range(3):
        seen = set()
        for place in range(samples.views):
            shard, row = samples._view(turn * samples.views + place)
            seen.add((id(shard), row))
        assert len(seen) == samples.views == 6


def test_noise_has_the_asked_strength() -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    settings = Degradation(noise_chance=1, noise=0.05, jpeg_chance=0)
    spreads = [degrade(grey, settings, np.random.default_rng(seed)).std() / 255 for seed in range(100)]
    assert 0.045 < max(spreads) < 0.052
    assert np.mean(spreads) == pytest.approx(0.025, abs=0.004)
    assert degrade(grey, CLEAN, np.random.default_rng(0)) is grey


def test_the_sampler_goes_on_where_the_last_stretch_ended() -> None:
    sampler = RunSampler(6)
    assert list(sampler) == [0, 1, 2, 3, 4, 5]
    sampler.set_epoch(2)
    assert list(sampler) == [12, 13, 14, 15, 16, 17]
    assert len(sampler) == 6


def test_validation_views_are_whole_and_in_the_order_of_the_styles(made_pairs: Path) -> None:
    shards = open_shards(made_pairs / "val", ("red", "negative"))
    views = ViewDataset(shards, limit=9)
    assert len(views) == 2
    photo, teachers = views[1]
    assert photo.shape == (3, 64, 64)
    assert torch.equal(teachers[0], drawn(photo, 1))
    assert torch.equal(teachers[1], drawn(photo, 0))
    middle, _ = ViewDataset(shards, limit=1, size=32)[0]
    assert torch.equal(middle, views[0][0][:, 16:48, 16:48])


def test_pairs_that_are_not_there_are_named(made_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no rendered pairs.*training\.data\.render"):
        open_shards(tmp_path, STYLES)
    with pytest.raises(UsageError, match=r"no pairs of style 'nagative'.*did you mean 'negative'"):
        open_shards(made_pairs / "train", ("nagative",))
    with pytest.raises(UsageError, match="crop 80"):
        dataset(made_pairs, crop=80)
