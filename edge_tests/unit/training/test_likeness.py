"""Losses inside of faces: worked by hand."""

from __future__ import annotations

import pytest
import torch

from training.likeness import FACE_LOSSES, face_features, face_tone


def grey(level: float) -> torch.Tensor:
    return torch.full((1, 3, 48, 48), level)


def box() -> torch.Tensor:
    """A mask of 16 x 16 px in the middle."""
    mask = torch.zeros(1, 1, 48, 48)
    mask[..., 16:32, 16:32] = 1.0
    return mask


def test_the_tone_is_held_by_the_mean_of_the_box_alone() -> None:
    # L of sRGB 0.5 is 53.39 and of 0.8 is 82.05; a and b of greys are 0.
    wanted = 256 * (82.046 - 53.389) / 100 / (3 * 256 + 50)
    assert float(face_tone(grey(0.8), grey(0.5), box())) == pytest.approx(wanted, rel=1e-3)
    elsewhere = grey(0.5)
    elsewhere[..., :11, :] = 0.9  # more than 4 px away from the box
    assert float(face_tone(elsewhere, grey(0.5), box())) == pytest.approx(0.0, abs=1e-6)
    checker = grey(0.5)
    checker[..., ::2] += 0.05
    checker[..., 1::2] -= 0.05
    even = grey(0.55)
    assert float(face_tone(checker, grey(0.5), box())) < 0.2 * float(face_tone(even, grey(0.5), box()))


def test_a_feature_of_the_photo_must_stay_and_its_brightness_may_change() -> None:
    photo = grey(0.5)
    photo[..., 24, 24] = 0.0
    # One of 225 px lies 0.5 (1 - 1 / 225) below their mean; all others 0.5 / 225 above it, which is too faint.
    wanted = 0.5 * (1 - 1 / 225) / (1 + 50)
    assert float(face_features(grey(0.5), photo, box())) == pytest.approx(wanted, rel=1e-4)
    assert float(face_features(photo + 0.3, photo, box())) == pytest.approx(0.0, abs=1e-6)
    assert float(face_features(photo, grey(0.5), box())) == pytest.approx(0.0, abs=1e-6)  # a new mark is free
    faint = grey(0.5)
    faint[..., 24, 24] = 0.45  # 0.05 (1 - 1 / 225) below the mean: a weight of (that - 0.03) / 0.05
    depth = 0.05 * (1 - 1 / 225)
    weight = (depth - 0.03) / 0.05
    assert float(face_features(grey(0.5), faint, box())) == pytest.approx(weight * depth / (weight + 50), rel=1e-3)


@pytest.mark.parametrize("name", FACE_LOSSES)
def test_without_a_face_there_is_no_loss_and_with_one_there_is_a_gradient_inside(name: str) -> None:
    photo = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    output = grey(0.5).requires_grad_()
    assert float(FACE_LOSSES[name](output, photo, torch.zeros(1, 1, 48, 48)).detach()) == 0.0
    (gradient,) = torch.autograd.grad(FACE_LOSSES[name](output, photo, box()), output)
    assert float(gradient[..., 16:32, 16:32].abs().sum()) > 0
    assert float(gradient[..., :8, :].abs().max()) == 0.0
