"""Two well-known generators that a recipe can train instead of ours, by name, one style a network.

They are what a user would otherwise take, so that the comparison is not of latency alone: trained by the same tasks,
kept in the same checkpoints, drawn by the same commands. ``training.models.baselines`` has the layers, and further
architectures that are timed but not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sdk.errors import UsageError, unknown_name
from training.models.baselines import count_baseline_macs, make_baseline
from training.models.generator import Generator, check_input, count_macs
from training.models.norm import Statistics


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A row of ``GENERATORS``.

    Attributes:
        source: where it is from.
        loss: its customary losses, keys of a recipe's ``loss:`` (what is not named is 0); an adversarial and a cycle
            loss are the task's.
    """

    source: str
    loss: Mapping[str, float]


#: The generators that can be trained by name. A new one is a row here and one of the same name in ``BASELINES``.
GENERATORS: dict[str, Architecture] = {
    "plain-9x9": Architecture(
        source="the form of Johnson et al. 2016 (arXiv:1603.08155) with 64, 128 and 256 channels and instance norm",
        loss={"content": 0.5, "gram": 0.5},
    ),
    "resnet-9": Architecture(
        source="CycleGAN, Zhu et al. 2017 (arXiv:1703.10593)",
        # The paper's 0.5 times the weight of its cycle loss, 10.
        loss={"identity": 5.0},
    ),
}


@dataclass(frozen=True, kw_only=True)
class NamedConfig:
    """What of ``GeneratorConfig`` can be said of a named generator.

    Attributes:
        architecture: its name.
        styles: rows of style weights, always 1.
        statistics: of its norms.
    """

    architecture: str
    styles: int = 1
    statistics: Statistics = Statistics.INSTANCE


class NamedGenerator(nn.Module):
    """A generator by name, used as ours is: a photo and the weights of its single style to a cartoon.

    Args:
        architecture: a name of ``GENERATORS``.

    Raises:
        UsageError: for another name.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        if architecture not in GENERATORS:
            raise unknown_name("generator", architecture, GENERATORS)
        self.config = NamedConfig(architecture=architecture)
        self.network = make_baseline(architecture).train()

    def raw(self, image: Tensor, style: Tensor) -> Tensor:
        """As ``forward``: what ends in a tanh needs no clamp."""
        check_input(image, style, self.config.styles)
        return self.network(image)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        """``N x 3 x H x W`` in [0, 1] and ``N x 1`` weights, which change nothing, to ``N x 3 x H x W`` in [0, 1]."""
        return self.raw(image, style)


def build_named(architecture: str, styles: int) -> NamedGenerator:
    """A new network with random weights, started as both papers' programs do: kernels of N(0, 0.02).

    Raises:
        UsageError: an unknown name, or more than one style.
    """
    if styles != 1:
        raise UsageError(f"{architecture} draws one style and {styles} are named: name one, or train our generator.")
    made = NamedGenerator(architecture)
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return made


def network_macs(network: Generator | NamedGenerator, height: int = 256, width: int = 256) -> int:
    """Multiply-accumulates of all convolutions, transposed ones included, for one ``height x width`` picture."""
    if isinstance(network, NamedGenerator):
        return count_baseline_macs(network.network, height, width)
    return count_macs(network, height, width)
