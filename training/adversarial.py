"""Adversarial losses, and the penalties on a discriminator's gradient.

A loss has two sides. The discriminator's side takes its scores for real pictures (of the style), for fake ones (drawn
by the generator) and, when there are some, for *negatives*: real pictures of the style whose edges were smoothed, which
count as fake so that soft edges give a picture away (CartoonGAN, Chen, Lai and Liu 2018, eq. 3). The generator's side
takes the scores of fake pictures. Both are minimized.

Scores are maps without bounds, ``N x 1 x H x W`` or any other shape, or a sequence of them, one a scale; the losses of
the scales are averaged.

A new loss is one class and one row of ``ADVERSARIAL``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import UsageError

#: Scores of one scale, or of several.
Scores = Tensor | Sequence[Tensor]
Critic = Callable[[Tensor], Scores]


class AdversarialLoss(ABC):
    """A pair of losses on scores; see the module's docstring.

    Attributes:
        source: the paper.
        wants_penalty: whether the loss means nothing without a bound on the discriminator's gradient.
    """

    source: ClassVar[str]
    wants_penalty: ClassVar[bool] = False

    def discriminator(
        self, real: Scores, fake: Scores, negatives: Scores | None = None, *, negative_weight: float = 1.0
    ) -> Tensor:
        """What the discriminator minimizes, a scalar.

        Args:
            real, fake: scores of the style's pictures and of the generator's.
            negatives: scores of edge-smoothed pictures of the style; ``None`` for none.
            negative_weight: of the negatives' term; 1 is CartoonGAN's, AnimeGAN's is 0.1.

        Raises:
            UsageError: when the scores do not have the same number of scales.
        """
        sides = [_maps(real), _maps(fake), *([] if negatives is None else [_maps(negatives)])]
        if len({len(side) for side in sides}) > 1:
            raise UsageError(
                f"the scores have {', '.join(str(len(side)) for side in sides)} scales: judge all by one discriminator."
            )
        weight = 0.0 if negatives is None else negative_weight
        return _mean([
            self.judge(one, [(other, 1.0), *((edge, weight) for edge in rest)])
            for one, other, *rest in zip(*sides, strict=True)
        ])  # fmt: skip

    def generator(self, fake: Scores) -> Tensor:
        """What the generator minimizes, a scalar."""
        return _mean([self.fool(one) for one in _maps(fake)])

    def judge(self, real: Tensor, fakes: Sequence[tuple[Tensor, float]]) -> Tensor:
        """The discriminator's side at one scale; each kind of fake has a weight."""
        return self.accept(real) + sum((weight * self.reject(fake) for fake, weight in fakes), real.new_zeros(()))

    @abstractmethod
    def accept(self, real: Tensor) -> Tensor:
        """What real scores cost the discriminator."""

    @abstractmethod
    def reject(self, fake: Tensor) -> Tensor:
        """What fake scores cost the discriminator."""

    @abstractmethod
    def fool(self, fake: Tensor) -> Tensor:
        """What fake scores cost the generator."""


class NonSaturating(AdversarialLoss):
    """Binary cross-entropy of ``sigmoid(score)``; the generator maximizes ``log D``, not minimizes ``log(1 - D)``.

    Discriminator ``-E log s(real) - E log(1 - s(fake))``, generator ``-E log s(fake)``, with s the sigmoid.
    """

    source = "Goodfellow et al. 2014, arXiv:1406.2661, section 3"

    def accept(self, real: Tensor) -> Tensor:
        return F.softplus(-real).mean()

    def reject(self, fake: Tensor) -> Tensor:
        return F.softplus(fake).mean()

    def fool(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


class LeastSquares(AdversarialLoss):
    """LSGAN: discriminator ``E (real - 1)^2 / 2 + E fake^2 / 2``, generator ``E (fake - 1)^2 / 2``."""

    source = "Mao et al. 2017, arXiv:1611.04076, eq. 9"

    def accept(self, real: Tensor) -> Tensor:
        return 0.5 * (real - 1.0).square().mean()

    def reject(self, fake: Tensor) -> Tensor:
        return 0.5 * fake.square().mean()

    def fool(self, fake: Tensor) -> Tensor:
        return 0.5 * (fake - 1.0).square().mean()


class Hinge(AdversarialLoss):
    """Discriminator ``E max(0, 1 - real) + E max(0, 1 + fake)``, generator ``-E fake``."""

    source = "Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957, eq. 16 and 17"

    def accept(self, real: Tensor) -> Tensor:
        return F.relu(1.0 - real).mean()

    def reject(self, fake: Tensor) -> Tensor:
        return F.relu(1.0 + fake).mean()

    def fool(self, fake: Tensor) -> Tensor:
        return -fake.mean()


class Wasserstein(AdversarialLoss):
    """WGAN: discriminator ``E fake - E real``, generator ``-E fake``; with ``gradient_penalty`` it is WGAN-GP.

    Only differences of scores mean anything: negatives and fakes are averaged by their weights, not added, or the
    critic could lower its loss without end by lowering all scores.
    """

    source = "Arjovsky et al. 2017, arXiv:1701.07875; with the penalty Gulrajani et al. 2017, arXiv:1704.00028, eq. 3"
    wants_penalty = True

    def judge(self, real: Tensor, fakes: Sequence[tuple[Tensor, float]]) -> Tensor:
        total = sum(weight for _, weight in fakes)
        return super().judge(real, [(fake, weight / total) for fake, weight in fakes])

    def accept(self, real: Tensor) -> Tensor:
        return -real.mean()

    def reject(self, fake: Tensor) -> Tensor:
        return fake.mean()

    def fool(self, fake: Tensor) -> Tensor:
        return -fake.mean()


#: The adversarial losses a recipe can choose, by key.
ADVERSARIAL: dict[str, AdversarialLoss] = {
    "non-saturating": NonSaturating(),
    "lsgan": LeastSquares(),
    "hinge": Hinge(),
    "wgan": Wasserstein(),
}


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``E (|grad D(x)| - 1)^2`` at random places between real and fake pictures (Gulrajani et al. 2017, eq. 3).

    ``x = e * real + (1 - e) * fake`` with one e of U[0, 1] a picture; the norm is the Euclidean one over all values of
    a picture. The score of a picture is the mean of its map; each scale is a critic of its own, and the penalties are
    averaged. The gradient is that by the picture in [0, 1], whatever the critic scales it to inside. The paper weighs
    the penalty by 10.

    Args:
        critic: pictures to scores; without batch norm.
        real, fake: pictures of the same shape, ``N x C x H x W`` in [0, 1]; neither gets a gradient.
        generator: of the random places, on the CPU; ``None`` takes PyTorch's own.

    Returns:
        A scalar that the critic's weights have a gradient by.

    Raises:
        UsageError: pictures of different shapes, or a critic with batch norm.
    """
    if real.shape != fake.shape:
        raise UsageError(
            f"the gradient penalty was given pictures of shapes {tuple(real.shape)} and {tuple(fake.shape)}: "
            "give as many fake as real ones, of one size."
        )
    places = torch.rand(len(real), generator=generator).to(real).view(-1, *(1,) * (real.ndim - 1))
    between = torch.lerp(fake.detach(), real.detach(), places)
    return _mean([(norms - 1.0).square().mean() for norms in _gradient_norms(critic, between)])


def r1_penalty(critic: Critic, real: Tensor) -> Tensor:
    """``E |grad D(x)|^2 / 2`` at real pictures (Mescheder et al. 2018, arXiv:1801.04406, eq. 9, for gamma = 1).

    Scores, scales, the gradient's scale and errors as for ``gradient_penalty``.

    Args:
        critic: pictures to scores; without batch norm.
        real: ``N x C x H x W`` in [0, 1].
    """
    return _mean([0.5 * norms.square().mean() for norms in _gradient_norms(critic, real.detach())])


def _gradient_norms(critic: Critic, pictures: Tensor) -> list[Tensor]:
    """The Euclidean norm of each picture's gradient, ``N``, for each scale; it can be differentiated again."""
    layers = critic.modules() if isinstance(critic, nn.Module) else ()
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers):
        raise UsageError(
            "a penalty on the gradient was asked for with a discriminator that has batch norm, under which a picture's "
            "gradient depends on the other pictures: choose norm: instance or none."
        )
    pictures = pictures.clone().requires_grad_()
    norms = []
    for scores in _maps(critic(pictures)):
        # Scores of one picture do not depend on the others: the gradient of their sum holds each picture's own.
        means = scores.flatten(1).mean(1) if scores.ndim > 1 else scores
        (gradient,) = torch.autograd.grad(means.sum(), pictures, create_graph=True, retain_graph=True)
        norms.append(torch.linalg.vector_norm(gradient.flatten(1), dim=1))
    return norms


def _maps(scores: Scores) -> Sequence[Tensor]:
    return [scores] if isinstance(scores, Tensor) else scores


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
