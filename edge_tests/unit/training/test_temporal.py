"""Temporal consistency: 0 for a network whose picture moves with the photo, a known value for one that does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.config import Recipe
from training.temporal import (
    FAINT_NOISE,
    SHIFT,
    ZOOM,
    Motion,
    faint_noise,
    inconsistency,
    next_frame,
    noise_gain,
    random_motion,
)
from training.train import train


def motion(*shifts: tuple[float, float], zoom: float = 1.0) -> Motion:
    return Motion(shift=torch.tensor(shifts), zoom=torch.full((len(shifts),), zoom))


def photo(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_a_whole_shift_moves_every_pixel_and_knows_what_it_cannot_see() -> None:
    image = photo(1)
    moved, seen = motion((3, -2)).warp(image)
    torch.testing.assert_close(moved[..., :-2, 3:], image[..., 2:, :-3], atol=1e-5, rtol=0)
    expected = torch.zeros(1, 1, 32, 32)
    expected[..., :-2, 3:] = 1
    assert torch.equal(seen, expected)


def test_a_zoom_is_about_the_middle() -> None:
    ramp = torch.arange(33.0).expand(1, 1, 33, 33) - 16  # 0 in the middle
    moved, seen = motion((0, 0), zoom=2.0).warp(ramp)
    torch.testing.assert_close(moved, ramp / 2)
    assert seen.all()
    _, seen = motion((0, 0), zoom=0.5).warp(ramp)
    assert int(seen.sum()) == 17 * 17  # the sources -16, -14, ..., 16


def test_a_pointwise_network_is_consistent_under_whole_shifts() -> None:
    def draw(x: Tensor) -> Tensor:
        return 1 - x.square()

    image, moves = photo(), motion((3, -2), (-5, 0))
    frame = next_frame(image, moves, noise=0.0)
    assert float(inconsistency(draw(frame), draw(image), moves)) < 1e-5


def test_what_does_not_move_with_the_photo_is_measured() -> None:
    """A ramp of 0.01 a pixel that the network adds at a fixed place: 4 px to the right make a difference of 0.04."""
    ramp = 0.01 * torch.arange(32.0)
    image, moves = photo(), motion((4, 0), (4, 3))
    frame = next_frame(image, moves, noise=0.0)
    assert float(inconsistency(frame + ramp, image + ramp, moves)) == pytest.approx(0.04, abs=1e-6)


def test_noise_is_part_of_the_next_frame_and_ends_at_white() -> None:
    image, still = torch.full((64, 3, 32, 32), 0.5), motion(*[(0.0, 0.0)] * 64)
    torch.manual_seed(0)
    spread = (next_frame(image, still, noise=0.1) - image).std((1, 2, 3))
    assert float(spread.max()) < 0.105
    assert float(spread.mean()) == pytest.approx(0.05, abs=0.01)  # sigmas from 0 to 0.1
    assert float(next_frame(image * 2, still, noise=0.1).max()) == 1.0


def test_motions_are_random_within_their_bounds_and_every_other_is_whole() -> None:
    torch.manual_seed(1)
    made = random_motion(400)
    assert made.shift.abs().max() == SHIFT
    assert torch.equal(made.shift, made.shift.round())
    assert (made.zoom[::2] == 1).all()
    assert 0 < float((made.zoom[1::2] - 1).abs().min()) < float((made.zoom - 1).abs().max()) <= ZOOM
    torch.manual_seed(1)
    assert torch.equal(random_motion(400).zoom, made.zoom)


def test_steps_with_the_loss_make_the_network_more_consistent(tiny_recipe: Callable[..., Recipe]) -> None:
    shared = {"run__steps": 40, "run__validate_every": 20, "run__log_every": 10, "optimizer__freeze_statistics": 0.5}
    flickers = {}
    for weight in (0.0, 20.0):
        recipe = tiny_recipe(name=f"w{weight:.0f}", loss__temporal=weight, **shared)
        network = train(recipe, quiet=True).average
        torch.manual_seed(5)
        image, style = torch.rand(16, 3, 8, 8), torch.eye(2).repeat(8, 1)
        image = torch.nn.functional.interpolate(image, size=(64, 64), mode="bicubic").clamp(0, 1)
        with torch.no_grad():
            moves = random_motion(16)
            later = network(next_frame(image, moves), style)
            flickers[weight] = float(inconsistency(later, network(image, style), moves))
        log = (recipe.folder / "log.txt").read_text()
        assert (" temporal " in log) == (weight > 0)
    assert flickers[20.0] < 0.8 * flickers[0.0]


def test_the_gain_of_noise_is_the_square_of_a_factor_and_a_few_jumps_are_seen() -> None:
    torch.manual_seed(0)
    photo = torch.full((2, 3, 64, 64), 0.5)
    other = faint_noise(photo)
    noise = other - photo
    assert float(noise.std()) == pytest.approx(FAINT_NOISE, rel=0.02)
    assert float(noise_gain(2.0 * other, 2.0 * photo, noise)) == pytest.approx(4.0, rel=1e-4)
    assert float(noise_gain(photo, photo, noise)) == 0.0
    assert float(noise_gain(photo, photo, torch.zeros_like(noise))) == 0.0
    # One pixel of 4096 in all colours goes over a threshold of 40 steps.
    jump = torch.zeros_like(photo)
    jump[..., 10, 10] = 40.0 / 255.0
    assert float(noise_gain(photo + jump, photo, noise)) == pytest.approx(400.0 / 4096.0, rel=0.05)
