"""White-box representations against scipy, scikit-image and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.representations import (
    REPRESENTATIONS,
    box_mean,
    find_superpixels,
    flatten,
    guided_filter,
    structure,
    surface,
    texture,
    texture_weights,
)

ndimage = pytest.importorskip("scipy.ndimage", reason="needs the extra dev")


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scipy_mean(plane: np.ndarray, radius: int) -> np.ndarray:
    """A window cut off at the border: scipy's zeros outside, divided by how much of it lies inside."""
    side = 2 * radius + 1
    inside = ndimage.uniform_filter(np.ones_like(plane), side, mode="constant")
    return ndimage.uniform_filter(plane, side, mode="constant") / inside


def test_box_means_are_scipys() -> None:
    picture = pictures(1, 20)
    have = box_mean(picture, 3)[0].numpy()
    assert np.allclose(have, [scipy_mean(plane, 3) for plane in picture[0].numpy()], atol=1e-12)


def test_the_guided_filter_is_he_and_suns_written_with_scipy() -> None:
    guide, picture = pictures(1, 20), pictures(1, 20, seed=1)
    have = guided_filter(guide, picture, radius=4, epsilon=0.02)[0].numpy()
    for plane, other, made in zip(guide[0].numpy(), picture[0].numpy(), have, strict=True):
        mean, target = scipy_mean(plane, 4), scipy_mean(other, 4)
        slope = (scipy_mean(plane * other, 4) - mean * target) / (scipy_mean(plane**2, 4) - mean**2 + 0.02)
        offset = target - slope * mean
        assert np.allclose(made, scipy_mean(slope, 4) * plane + scipy_mean(offset, 4), atol=1e-10)


def test_the_guided_filter_has_the_gradient_of_its_values() -> None:
    assert torch.autograd.gradcheck(
        lambda x: guided_filter(x, x, radius=2, epsilon=0.05), (pictures(1, 6).requires_grad_(),)
    )


def test_surfaces_lose_texture_and_keep_large_edges() -> None:
    step = torch.zeros(1, 3, 48, 48, dtype=torch.float64)
    step[..., 24:] = 1.0
    rough = 0.5 * step + 0.1 * pictures(1, 48)
    made = surface(rough)
    assert float(made[..., 8:16].std()) < 0.4 * float(rough[..., 8:16].std())
    assert float(made[..., 36:].mean() - made[..., :12].mean()) == pytest.approx(0.5, abs=0.03)


def test_texture_weights_lie_around_luma_and_are_seeded() -> None:
    drawn = torch.stack([texture_weights(torch.Generator().manual_seed(seed)) for seed in range(200)])
    assert torch.allclose(drawn.sum(1), torch.ones(200))
    assert torch.equal(drawn[3], texture_weights(torch.Generator().manual_seed(3)))
    assert (drawn.mean(0) - torch.tensor([0.299, 0.587, 0.114])).abs().max() < 0.02
    assert float(drawn[:, 0].max()) > 0.36
    assert float(drawn[:, 2].min()) > 0.0


def test_a_texture_is_one_grey_plane_by_hand() -> None:
    picture = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    made = texture(picture, torch.tensor([0.5, 0.25, 0.25]))
    assert made.shape == (2, 1, 4, 4)
    assert torch.allclose(made, torch.full((2, 1, 4, 4), 0.4))
    torch.manual_seed(0)
    assert not torch.allclose(texture(picture), texture(picture))
    assert set(REPRESENTATIONS) == {"surface", "texture"}


def test_superpixels_get_mean_median_or_both_by_their_spread() -> None:
    labels = np.array([[0, 0, 0, 0], [5, 5, 5, 5], [9, 9, 9, 9]])
    rows = np.array([[0.50, 0.50, 0.50, 0.54], [0.2, 0.2, 0.2, 0.4], [0.1, 0.1, 0.1, 0.9]])
    assert rows[0].std() < 20 / 255 < rows[1].std() < 40 / 255 < rows[2].std()
    made = flatten(np.repeat(rows[..., None], 3, 2), labels)
    assert np.allclose(made[..., 0], np.array([[0.51], [0.225], [0.1]]))


def test_flat_superpixels_are_coloured_as_scikit_image_does() -> None:
    color = pytest.importorskip("skimage.color", reason="needs the extra train")
    # Soft colours: no superpixel spreads over 20/255.
    picture = 0.4 + 0.1 * pictures(1, 32)[0].permute(1, 2, 0).numpy()
    labels = find_superpixels(picture, 12)
    assert 6 <= len(np.unique(labels)) <= 20
    want = color.label2rgb(labels, picture, kind="avg", bg_label=-1)
    assert np.allclose(flatten(picture, labels), want, atol=1e-9)


def test_a_structure_is_flat_within_and_different_between_superpixels_and_passes_no_gradient() -> None:
    pytest.importorskip("skimage", reason="needs the extra train")
    blocks = torch.zeros(2, 3, 32, 32)
    blocks[0, :, :16, :16] = 0.9
    blocks[1, 0, 16:] = 0.7
    rough = (blocks + 0.02 * pictures(2, 32).float()).requires_grad_()
    made = structure(rough, segments=16)
    assert made.shape == rough.shape
    assert not made.requires_grad
    assert (made - blocks).abs().mean() < 0.03
    assert [len(torch.unique(one.flatten(1), dim=1)[0]) <= 24 for one in made] == [True, True]
