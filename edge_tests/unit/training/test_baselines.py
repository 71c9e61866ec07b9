"""The other architectures are those of their papers: sizes, weights, multiplications."""

from __future__ import annotations

import pytest
import torch

from sdk.errors import UsageError
from training.models.baselines import BASELINES, count_baseline_macs, make_baseline
from training.models.generator import count_params


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_gives_a_picture_of_its_inputs_size_that_depends_on_it(name: str) -> None:
    torch.manual_seed(0)
    network = make_baseline(name)
    with torch.no_grad():
        one, other = network(torch.rand(2, 3, 32, 48)).split(1)
    assert one.shape == (1, 3, 32, 48)
    assert torch.isfinite(one).all()
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("name", [name for name in BASELINES if name.endswith("-paper") or "-style" not in name])
def test_what_ends_in_a_tanh_stays_in_the_pictures_range(name: str) -> None:
    with torch.no_grad():
        picture = make_baseline(name)(torch.rand(1, 3, 32, 32) * 100)
    assert picture.min() >= 0
    assert picture.max() <= 1


@pytest.mark.parametrize(
    ("name", "weights_m", "gmac"),
    [
        # 1.68 M weights: 6.7 MB, the size of the models that PyTorch's fast-neural-style example publishes.
        ("fast-neural-style-32", 1.68, 10.08),
        ("fast-neural-style-16", 0.425, 2.77),
        ("fast-neural-style-8", 0.109, 0.82),
        ("fast-neural-style-32-paper", 1.68, 8.27),
        ("fast-neural-style-16-paper", 0.425, 2.32),
        ("fast-neural-style-8-paper", 0.109, 0.71),
        ("cartoongan", 11.13, 54.38),
        # 8.17 MB in units of 2^20 bytes, as AnimeGANv2's authors state, are 2.14 M float32 weights.
        ("animeganv2", 8.17 * 2**20 / 4 / 1e6, 26.28),
        ("plain-9x9", 6.68, 31.03),
        # 11.378 M is what CycleGAN's own program prints.
        ("resnet-9", 11.378, 49.55),
    ],
)
def test_weights_and_multiplications_are_those_stated(name: str, weights_m: float, gmac: float) -> None:
    network = make_baseline(name)
    assert count_params(network) / 1e6 == pytest.approx(weights_m, rel=0.005)
    assert count_baseline_macs(network) / 1e9 == pytest.approx(gmac, rel=0.005)


def test_the_papers_own_form_is_counted_as_worked_by_hand() -> None:
    """Johnson et al., Table 1, width 16 at 256 x 256: a transposed convolution multiplies once for each input pixel."""
    ends = 2 * (3 * 16 * 81 * 256**2)
    down = 16 * 32 * 9 * 128**2 + 32 * 64 * 9 * 64**2
    residuals = 10 * (64 * 64 * 9 * 64**2)
    up = 64 * 32 * 9 * 64**2 + 32 * 16 * 9 * 128**2
    assert count_baseline_macs(make_baseline("fast-neural-style-16-paper")) == ends + down + residuals + up


def test_cartoongans_residual_blocks_hold_most_of_its_weights() -> None:
    """Eight blocks of two 3x3 convolutions at 256 channels, each with a bias and an affine instance norm."""
    blocks = 8 * 2 * (256 * 256 * 9 + 256 + 2 * 256)
    assert count_params(make_baseline("cartoongan").residuals) == blocks


def test_both_forms_of_fast_neural_style_have_the_same_weights_and_other_norms() -> None:
    kinds = {
        name: {type(module).__name__ for module in make_baseline(name).modules()}
        for name in ("fast-neural-style-16", "fast-neural-style-16-paper")
    }
    assert {"InstanceNorm2d", "ReflectionPad2d"} <= kinds["fast-neural-style-16"]
    assert {"BatchNorm2d", "ConvTranspose2d"} <= kinds["fast-neural-style-16-paper"]
    assert "ConvTranspose2d" not in kinds["fast-neural-style-16"]


@pytest.mark.parametrize("name", ["fast-neural-style-8-paper", "cartoongan", "animeganv2", "resnet-9"])
def test_a_baseline_learns(name: str) -> None:
    torch.manual_seed(0)
    network = make_baseline(name).train()
    network(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert sum(float(p.grad.abs().sum()) for p in network.parameters()) > 0


def test_counting_leaves_the_network_where_it_is() -> None:
    network = make_baseline("fast-neural-style-8")
    count_baseline_macs(network, 64, 64)
    assert {p.device.type for p in network.parameters()} == {"cpu"}


def test_an_unknown_baseline_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'cartoongan'"):
        make_baseline("cartoon-gan")
