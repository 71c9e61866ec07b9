"""Small networks with lively statistics, and calibration pictures, for the converters' tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from converters.calibration import CalibrationSet, build_calibration
from training.models.attention import PixelAttention
from training.models.generator import Generator, GeneratorConfig
from training.models.norm import ConditionalNorm2d, Statistics

STYLES = 3


def make_network(statistics: Statistics = Statistics.RUNNING, **options: object) -> Generator:
    """A narrow generator whose norms and style rows all differ from the identity, seeded."""
    torch.manual_seed(0)
    config: dict[str, object] = {
        "encoder_width": 0.5,
        "stem": 8,
        "widths": (8, 8, 16, 16),
        "depths": (1, 1, 1, 1),
        "expansions": (1, 1, 2, 2),
    }
    network = Generator(GeneratorConfig(styles=STYLES, statistics=statistics, **(config | options)))  # type: ignore[arg-type]
    spans = {"running_mean": (-0.25, 0.25), "running_var": (0.5, 1.5), "weight": (0.75, 1.25), "bias": (-0.25, 0.25)}
    spans |= {"gamma": (0.5, 1.5), "beta": (-0.5, 0.5)}
    for module in network.modules():
        if isinstance(module, PixelAttention):  # it would be the identity
            torch.nn.init.normal_(module.project.weight, 0.0, 0.2)
        if isinstance(module, torch.nn.BatchNorm2d | ConditionalNorm2d):
            for name, (low, high) in spans.items():
                values = getattr(module, name, None)
                if values is not None:
                    values.data.uniform_(low, high)
    return network.eval()


@pytest.fixture(scope="session")
def network() -> Generator:
    """The narrow generator on running statistics; no test may change it."""
    return make_network()


@pytest.fixture(scope="session")
def build_network() -> Callable[..., Generator]:
    """``make_network``."""
    return make_network


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """``16 x 32 x 32 x 3`` uint8: gradients with noise, seeded."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 32)
    made = [
        np.clip(np.add.outer(ramp * random.uniform(-1, 1), ramp * random.uniform(-1, 1))[..., None] * random.random(3)
                + 255 * random.random(3) + random.normal(0, 20, (32, 32, 3)), 0, 255)
        for _ in range(16)
    ]  # fmt: skip
    return np.stack(made).astype(np.uint8)


@pytest.fixture(scope="session")
def calibration(pictures: np.ndarray) -> CalibrationSet:
    """Every picture with every style."""
    return build_calibration(pictures, styles=STYLES)


@pytest.fixture(scope="session")
def baked_calibration(pictures: np.ndarray) -> CalibrationSet:
    """Every picture with the second style."""
    return build_calibration(pictures, styles=STYLES, style=np.eye(STYLES, dtype=np.float32)[1])
