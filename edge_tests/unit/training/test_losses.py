"""Losses: worked by hand, and equal to the SDK's metric where they are the same thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdk.metrics
from training.colour import rgb_to_lab
from training.losses import (
    LOSSES,
    PRIORS,
    Perceptual,
    chroma,
    colour_l1,
    contours,
    edge,
    gap_closed,
    gradient_l1,
    grid,
    identity,
    l1,
    lab,
    plain,
    smoothness,
    sobel,
    ssim,
    ssim_loss,
    surface_l1,
    texture_l1,
    tint,
    total_variation,
)


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_ssim_is_that_of_the_sdk() -> None:
    a = pictures(2, 40)
    b = (a + 0.2 * pictures(2, 40, seed=1)).clamp(0, 1)
    ours = ssim(a, b)
    for place in range(2):
        theirs = sdk.metrics.ssim(*(x[place].permute(1, 2, 0).double().numpy() for x in (a, b)))
        assert float(ours[place]) == pytest.approx(theirs, abs=1e-5)
    assert not np.allclose(ours.numpy(), 1.0, atol=0.01)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_0_for_equal_pictures_and_positive_otherwise(name: str) -> None:
    a, b = pictures(2, 32), pictures(2, 32, seed=1)
    assert float(LOSSES[name](a, a)) == pytest.approx(0.0, abs=1e-5)
    assert float(LOSSES[name](a, b)) > 5e-4


def test_l1_gradient_and_colour_by_hand() -> None:
    target = torch.zeros(1, 3, 16, 16)
    output = target.clone()
    output[..., 8:] = 0.5  # the right half; one step of 0.5 in each of 16 rows
    assert float(l1(output, target)) == pytest.approx(0.25)
    assert float(gradient_l1(output, target)) == pytest.approx(0.5 / 15)  # 1 of 15 neighbour pairs across, none down
    assert float(colour_l1(output, target)) == pytest.approx(0.25)
    checker = target.clone()
    checker[..., ::2] = 0.5
    assert float(colour_l1(checker, torch.full_like(checker, 0.25))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_survive_outside_the_range(name: str) -> None:
    output = (pictures(1, 32) + 1.5).requires_grad_()
    LOSSES[name](output, pictures(1, 32, seed=1)).backward()
    assert output.grad is not None
    assert float(output.grad.abs().sum()) > 0


def test_lab_is_that_of_scikit_image() -> None:
    color = pytest.importorskip("skimage.color", reason="needs the extra train")
    picture = pictures(2, 24).double()
    picture[0, :, :2] = 0.0
    picture[0, :, 2:4] = 1.0
    picture[0, :, 4] = 0.03  # the straight piece of sRGB's curve
    have = rgb_to_lab(picture).permute(0, 2, 3, 1).numpy()
    want = color.rgb2lab(picture.permute(0, 2, 3, 1).numpy())
    assert np.abs(have - want).max() < 1e-2
    assert np.abs(want).max() > 50


def test_the_gradient_of_lab_is_finite_and_numerically_right_everywhere() -> None:
    picture = pictures(1, 4).double()
    picture[..., 0] = 0.02
    assert torch.autograd.gradcheck(rgb_to_lab, (picture.requires_grad_(),))
    edge_cases = torch.tensor([0.0, 0.04045, 1.0, -0.2, 1.2]).view(1, 1, 1, 5).expand(1, 3, 1, 5).clone()
    (gradient,) = torch.autograd.grad(rgb_to_lab(edge_cases.requires_grad_()).sum(), edge_cases)
    assert torch.isfinite(gradient).all()


def test_lab_and_chroma_by_hand() -> None:
    grey = torch.full((1, 3, 8, 8), 0.5)
    light = torch.full((1, 3, 8, 8), 0.8)
    # L of sRGB 0.5 is 53.39 and of 0.8 is 82.05; a and b of greys are 0.
    assert float(lab(light, grey)) == pytest.approx((82.046 - 53.389) / 3 / 100, abs=1e-4)
    assert float(chroma(light, grey)) == pytest.approx(0.0, abs=1e-4)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    # Red has L 53.24, a 80.09 and b 67.20.
    assert float(chroma(red, grey)) == pytest.approx((80.09 + 67.20) / 2 / 100, abs=1e-3)
    assert float(lab(red, grey)) == pytest.approx((53.389 - 53.24 + 80.09 + 67.20) / 3 / 100, abs=1e-3)


def test_a_cloud_of_colour_costs_by_the_square_and_what_a_mean_does_not_show_nothing() -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    cloud = grey.clone()
    cloud[..., :8, :8] = red
    # Red has a 80.09 and b 67.20; the patch is one of four.
    assert float(tint(cloud, grey)) == pytest.approx((0.8009**2 + 0.6720**2) / 2 / 4, rel=1e-3)
    assert float(tint(torch.full_like(grey, 0.8), grey)) == pytest.approx(0.0, abs=1e-6)  # lightness is free
    thin = grey.clone()
    thin[..., :8, 0] = red[..., 0]  # one column of eight: an eighth of the mean, a sixty-fourth of the loss
    assert float(tint(thin, grey)) == pytest.approx(float(tint(cloud, grey)) / 64, rel=1e-3)


def test_edges_are_those_of_scikit_image() -> None:
    filters = pytest.importorskip("skimage.filters", reason="needs the extra train")
    plane = pictures(1, 24)[:, :1].double()
    want = filters.sobel(plane[0, 0].numpy())[1:-1, 1:-1]
    assert np.abs(sobel(plane)[0, 0].numpy() - want).max() < 1e-5
    assert want.max() > 0.2


def test_the_edge_loss_sees_a_missing_line_and_not_a_reversed_one() -> None:
    flat = torch.full((1, 3, 10, 10), 0.4)
    step = flat.clone()
    step[..., 5:] = 0.6
    # A step of 0.2 has |across| 0.2 (4 x 0.2 / 4) at 2 of 8 columns: 0.2 / sqrt(2) there.
    assert float(edge(step, flat)) == pytest.approx(0.25 * 0.2 / 2**0.5, abs=1e-5)
    assert float(edge(step, step.flip(-1))) == pytest.approx(0.0, abs=1e-6)
    flat.requires_grad_()
    (gradient,) = torch.autograd.grad(edge(flat, step), flat)  # magnitude 0, where a root has no slope
    assert torch.isfinite(gradient).all()


def test_total_variation_by_hand() -> None:
    assert set(PRIORS) == {"total_variation"}
    picture = torch.zeros(1, 1, 3, 4)
    picture[0, 0, 1] = torch.tensor([1.0, 3.0, 0.0, 0.0])
    # Across: 2 + 3 of 9 differences; down: twice 4 of 8.
    assert float(total_variation(picture)) == pytest.approx(5 / 9 + 8 / 8)
    assert float(total_variation(torch.full((2, 3, 5, 5), 0.7))) == 0.0


def test_identity_is_what_changes_in_a_picture_that_needed_no_change() -> None:
    given = pictures(1, 8)
    assert float(identity(given, given)) == 0.0
    assert float(identity(given - 0.25, given)) == pytest.approx(0.25)


def test_the_surface_loss_forgives_texture_and_the_texture_loss_colour() -> None:
    smooth = torch.linspace(0.2, 0.8, 32).expand(1, 3, 32, 32).clone()
    rough = smooth + 0.1 * (pictures(1, 32) - 0.5)
    tinted = smooth.clone()
    tinted[:, 0] += 0.1
    tinted[:, 2] -= 0.1
    assert float(surface_l1(rough, smooth)) < 0.5 * float(l1(rough, smooth))
    torch.manual_seed(0)
    assert float(texture_l1(tinted, smooth)) < 0.5 * float(l1(tinted, smooth))


def test_descending_on_the_ssim_loss_raises_ssim() -> None:
    target = pictures(1, 32)
    output = pictures(1, 32, seed=3).requires_grad_()
    before = float(ssim(output.detach(), target))
    optimizer = torch.optim.Adam([output], 0.02)
    for _ in range(20):
        optimizer.zero_grad()
        ssim_loss(output, target).backward()
        optimizer.step()
    assert float(ssim(output.detach(), target)) > before + 0.1


def test_gap_closed_by_hand() -> None:
    assert gap_closed(0.9, 0.8) == pytest.approx(0.5)
    assert gap_closed(1.0, 0.8) == 1.0
    assert gap_closed(0.8, 0.8) == pytest.approx(0.0)
    assert gap_closed(0.7, 0.8) == pytest.approx(-0.5)


def test_stlpips_forgives_one_pixel_of_shift_more_than_another_texture() -> None:
    pytest.importorskip("stlpips_pytorch", reason="needs the extra train")
    distance = Perceptual("alex")
    a = torch.nn.functional.interpolate(pictures(1, 16), size=(64, 64), mode="bicubic").clamp(0, 1)
    shifted, noisy = a.roll(1, -1), (a + 0.8 * (pictures(1, 64, seed=2) - 0.5)).clamp(0, 1)
    assert float(distance(a, a)) == pytest.approx(0.0, abs=1e-6)
    assert float(distance(shifted, a)) < 0.5 * float(distance(noisy, a))
    assert distance.train().training is False
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_smoothness_counts_what_changes_where_the_target_is_flat() -> None:
    flat, edge = torch.zeros(1, 3, 4, 6), torch.zeros(1, 3, 4, 6)
    edge[..., 3:] = 1.0  # one step of 1 in 5 horizontal neighbours
    assert float(smoothness(edge, flat)) == pytest.approx(1 / 5)
    assert float(smoothness(flat, edge)) == 0.0
    soft = 0.02 * edge  # a step at which a place is flat by 1/e
    wanted = (1 - 0.02) * np.exp(-1) / 5
    assert float(smoothness(edge.transpose(2, 3), soft.transpose(2, 3))) == pytest.approx(wanted, rel=1e-5)


def test_a_patch_on_a_plain_wall_costs_though_grain_forgives_its_pixels() -> None:
    level = torch.full((1, 3, 64, 64), 0.5)
    patch = level.clone()
    patch[..., 32:] -= 0.1  # the border of both kinds of cells
    # One of 15 horizontal neighbours of 4 x 4 means and one of 7 of 8 x 8 means differ by 0.1.
    assert float(plain(patch, level)) == pytest.approx(0.1 / 15 + 0.1 / 7, rel=1e-5)
    assert float(plain(level, patch)) == 0.0
    noise = 0.06 * (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5)
    ramp = level - 0.1 * ((torch.arange(64) - 20.0) / 24).clamp(0, 1)  # a soft rim, fainter a pixel than the grain
    assert float(smoothness(ramp, level + noise)) < 0.05 * float(smoothness(ramp, level))
    assert float(plain(ramp, level + noise)) > 0.5 * float(plain(ramp, level))


def test_contours_ask_for_the_targets_steps_and_forgive_what_is_added() -> None:
    def step(height: float) -> torch.Tensor:
        picture = torch.full((1, 3, 8, 8), 0.4)
        picture[..., 4:] += height  # of 4 x 4 means, 4 of 12 horizontal neighbours differ and none of the vertical ones
        return picture

    flat, strong = step(0.0), step(0.2)
    assert float(contours(flat, strong)) == pytest.approx(0.2 * 4 / 12, rel=1e-5)
    assert float(contours(flat, step(0.08))) == pytest.approx(0.5 * 0.08 * 4 / 12, rel=1e-4)  # half of the ramp
    assert float(contours(flat, step(0.04))) == pytest.approx(0.0, abs=1e-6)
    assert float(contours(step(-0.2), strong)) == pytest.approx(0.4 * 4 / 12, rel=1e-5)  # the other way: twice
    assert float(contours(step(0.5), strong)) == 0.0
    assert float(contours(strong, flat)) == 0.0
    down = contours(step(0.15).transpose(2, 3), strong.transpose(2, 3))
    assert float(down) == pytest.approx(0.05 * 4 / 12, rel=1e-4)


def test_a_grid_of_two_pixels_is_seen_and_edges_are_not() -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)
    mesh = flat.clone()
    mesh[..., ::2, ::2] += 0.04  # one place of four: it lies 0.03 above its block's mean, the others 0.01 below
    assert float(grid(mesh, flat)) == pytest.approx((0.03 + 3 * 0.01) / 4, rel=1e-5)
    assert float(grid(mesh, mesh)) == 0.0  # the target's own
    brighter = flat.clone()
    brighter[..., 4:] += 0.3
    assert float(grid(brighter, flat)) == pytest.approx(0.0, abs=1e-7)
    generator = torch.Generator().manual_seed(0)
    grain = flat + 0.02 * torch.randn(flat.shape, generator=generator)  # sigma of a mean of 16, less the block's mean
    assert float(grid(grain, flat)) < 0.3 * 0.02
