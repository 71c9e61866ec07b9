"""Losses: worked by hand, and equal to the SDK's metric where they are the same thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdk.metrics
from training.losses import LOSSES, Perceptual, colour_l1, gap_closed, gradient_l1, l1, ssim, ssim_loss


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
    assert float(LOSSES[name](a, b)) > 0.01


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
