"""Adversarial losses against scipy and by hand; penalties against closed forms and numeric gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdk.errors import UsageError
from training.adversarial import ADVERSARIAL, gradient_penalty, r1_penalty
from training.models.discriminator import Discriminator, DiscriminatorConfig, DiscriminatorNorm

special = pytest.importorskip("scipy.special", reason="needs the extra dev")

REAL, FAKE, EDGES = (np.random.default_rng(seed).normal(0.3, 2.0, (2, 1, 5, 5)) for seed in range(3))

#: What each loss costs the discriminator for real and for fake scores, and the generator: written down again in numpy.
WORKED: dict[str, tuple[Callable[..., float], Callable[..., float], Callable[..., float]]] = {
    "non-saturating": (
        lambda s: -special.log_expit(s).mean(),
        lambda s: -np.log1p(-special.expit(s)).mean(),
        lambda s: -special.log_expit(s).mean(),
    ),
    "lsgan": (
        lambda s: ((s - 1) ** 2).mean() / 2,
        lambda s: (s**2).mean() / 2,
        lambda s: ((s - 1) ** 2).mean() / 2,
    ),
    "hinge": (
        lambda s: np.clip(1 - s, 0, None).mean(),
        lambda s: np.clip(1 + s, 0, None).mean(),
        lambda s: -s.mean(),
    ),
    "wgan": (lambda s: -s.mean(), lambda s: s.mean(), lambda s: -s.mean()),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_both_sides_are_the_papers_formulas(name: str) -> None:
    accept, reject, fool = WORKED[name]
    loss, real, fake = ADVERSARIAL[name], torch.tensor(REAL), torch.tensor(FAKE)
    assert float(loss.discriminator(real, fake)) == pytest.approx(accept(REAL) + reject(FAKE))
    assert float(loss.generator(fake)) == pytest.approx(fool(FAKE))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_negatives_count_as_fake(name: str) -> None:
    accept, reject, _ = WORKED[name]
    real, fake, edges = (torch.tensor(scores) for scores in (REAL, FAKE, EDGES))
    share = 1.1 if name == "wgan" else 1.0  # a critic's scores are averaged over the fakes
    worked = accept(REAL) + (reject(FAKE) + 0.1 * reject(EDGES)) / share
    have = ADVERSARIAL[name].discriminator(real, fake, edges, negative_weight=0.1)
    assert float(have.detach()) == pytest.approx(worked)


def test_a_critic_gains_nothing_by_moving_all_scores() -> None:
    real, fake, edges = (torch.tensor(scores) for scores in (REAL, FAKE, EDGES))
    loss = ADVERSARIAL["wgan"]
    assert float(loss.discriminator(real - 9, fake - 9, edges - 9)) == pytest.approx(
        float(loss.discriminator(real, fake, edges))
    )


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_scales_are_averaged_and_must_be_as_many(name: str) -> None:
    loss, real, fake = ADVERSARIAL[name], torch.tensor(REAL), torch.tensor(FAKE)
    small = [real[..., :2, :2], fake[..., :2, :2]]
    halves = [loss.discriminator(real, fake), loss.discriminator(*small)]
    assert torch.allclose(loss.discriminator([real, small[0]], [fake, small[1]]), (halves[0] + halves[1]) / 2)
    assert torch.allclose(loss.generator([fake, small[1]]), (loss.generator(fake) + loss.generator(small[1])) / 2)
    with pytest.raises(UsageError, match="2, 1 scales"):
        loss.discriminator([real, real], fake)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_each_side_pulls_scores_its_way(name: str) -> None:
    loss = ADVERSARIAL[name]
    real, fake, edges = (torch.zeros(3, requires_grad=True) for _ in range(3))
    loss.discriminator(real, fake, edges).backward()
    drawn = torch.zeros(3, requires_grad=True)
    loss.generator(drawn).backward()
    assert all(t.grad is not None for t in (real, fake, edges, drawn))
    assert (real.grad < 0).all()  # type: ignore[operator]
    assert (drawn.grad < 0).all()  # type: ignore[operator]
    if name == "lsgan":  # its target for fakes is 0, where these are: nothing pulls
        assert (fake.grad == 0).all()  # type: ignore[attr-defined]
    else:
        assert (fake.grad > 0).all()  # type: ignore[operator]
        assert (edges.grad > 0).all()  # type: ignore[operator]


def pictures(seed: int) -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_penalties_of_a_linear_critic_are_their_closed_forms() -> None:
    weights = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def critic(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights

    norm = float(weights.norm())
    assert float(gradient_penalty(critic, pictures(0), pictures(1))) == pytest.approx((norm - 1) ** 2)
    assert float(r1_penalty(critic, pictures(0))) == pytest.approx(norm**2 / 2)


def test_the_penalty_of_a_quadratic_critic_is_taken_between_real_and_fake() -> None:
    """D(x) = |x|^2 / 2 has the gradient x itself: the penalty tells where x was."""

    def critic(x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(1) / 2

    real, fake = pictures(0), pictures(1)
    places = torch.rand(3, generator=torch.Generator().manual_seed(7)).double().view(3, 1, 1, 1)
    between = places * real + (1 - places) * fake
    worked = ((between.flatten(1).norm(dim=1) - 1) ** 2).mean()
    have = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(7))
    assert float(have.detach()) == pytest.approx(float(worked))
    elsewhere = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(8))
    assert float(elsewhere.detach()) != pytest.approx(float(worked))


def tiny(**changes: object) -> Discriminator:
    torch.manual_seed(0)
    config = DiscriminatorConfig(**{"width": 2, "layers": 1, "spectral": False, **changes})  # type: ignore[arg-type]
    network = Discriminator(config).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return network


def numeric_norms(network: Discriminator, at: Tensor, scale: int) -> np.ndarray:
    """The gradient of each picture's mean score by central differences, value by value."""
    norms = []
    with torch.no_grad():
        for picture in at:
            total = 0.0
            for place in np.ndindex(*picture.shape):
                steps = []
                for step in (1e-5, -1e-5):
                    moved = picture.clone()
                    moved[place] += step
                    steps.append(float(network(moved[None])[scale].mean()))
                total += ((steps[0] - steps[1]) / 2e-5) ** 2
            norms.append(total**0.5)
    return np.array(norms)


@pytest.mark.parametrize("norm", [DiscriminatorNorm.NONE, DiscriminatorNorm.INSTANCE])
def test_penalties_of_a_discriminator_are_those_of_numeric_gradients(norm: DiscriminatorNorm) -> None:
    network = tiny(norm=norm)
    at = pictures(0)[:2]
    norms = numeric_norms(network, at, 0)
    # Both ends the same: the place between them does not matter.
    assert float(gradient_penalty(network, at, at)) == pytest.approx(((norms - 1) ** 2).mean(), rel=1e-5)
    assert float(r1_penalty(network, at)) == pytest.approx((norms**2).mean() / 2, rel=1e-5)


def test_each_scale_is_penalized_by_itself() -> None:
    network = tiny(scales=2)
    at = torch.rand(1, 3, 12, 12, dtype=torch.float64)
    norms = [float(numeric_norms(network, at, scale)[0]) for scale in (0, 1)]
    worked = np.mean([(norm - 1) ** 2 for norm in norms])
    assert float(gradient_penalty(network, at, at)) == pytest.approx(worked, rel=1e-5)


def test_a_penalty_can_be_differentiated_by_the_critics_weights() -> None:
    at = pictures(0)[:1]
    kernel = (0.3 * torch.randn(1, 3, 4, 4, dtype=torch.float64)).requires_grad_()

    def penalty(weight: Tensor) -> Tensor:
        return gradient_penalty(lambda x: nn.functional.softplus(nn.functional.conv2d(x, weight)), at, at)

    assert torch.autograd.gradcheck(penalty, (kernel,))
    with_spectral_norm = Discriminator(DiscriminatorConfig(width=4, layers=1))
    picture = torch.rand(2, 3, 8, 8)
    gradient_penalty(with_spectral_norm, picture, picture).backward()
    gradients = [p.grad for name, p in with_spectral_norm.named_parameters() if "original" in name]
    assert all(g is not None and float(g.abs().sum()) > 0 for g in gradients)


def test_neither_real_nor_fake_pictures_get_a_gradient_from_a_penalty() -> None:
    real, fake = pictures(0).requires_grad_(), pictures(1).requires_grad_()
    gradient_penalty(tiny(), real, fake).backward()
    assert real.grad is None
    assert fake.grad is None


def test_a_penalty_refuses_batch_norm_and_pictures_of_two_shapes() -> None:
    with pytest.raises(UsageError, match="batch norm"):
        gradient_penalty(tiny(norm=DiscriminatorNorm.BATCH), pictures(0), pictures(1))
    with pytest.raises(UsageError, match="as many fake as real"):
        gradient_penalty(tiny(), pictures(0), pictures(1)[:2])
