"""The discriminator is the paper's, judges what it says it judges, and its spectral norm is numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sdk.errors import UsageError
from training.models.discriminator import Discriminator, DiscriminatorConfig, DiscriminatorNorm
from training.models.generator import count_params


def small(**changes: object) -> DiscriminatorConfig:
    return DiscriminatorConfig(**{"width": 4, "layers": 2, **changes})  # type: ignore[arg-type]


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_three_layers_are_the_papers_patchgan_of_70_pixels() -> None:
    config = DiscriminatorConfig(norm=DiscriminatorNorm.BATCH, spectral=False)
    network = Discriminator(config)
    assert config.receptive_field == 70
    layers = [(conv.in_channels, conv.out_channels, conv.stride[0]) for conv in convolutions(network)]
    assert layers == [(3, 64, 2), (64, 128, 2), (128, 256, 2), (256, 512, 1), (512, 1, 1)]
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert count_params(network) == kernels + (64 + 1) + 2 * (128 + 256 + 512)  # biases; scales and shifts of norms
    (scores,) = network(torch.rand(1, 3, 256, 256))
    assert scores.shape == (1, 1, 30, 30)


def test_the_receptive_field_is_what_a_gradient_reaches() -> None:
    torch.manual_seed(0)
    config = small(spectral=False)
    network = Discriminator(config)
    picture = torch.rand(1, 3, 96, 96).requires_grad_()
    (scores,) = network(picture)
    middle = scores.shape[-1] // 2
    (gradient,) = torch.autograd.grad(scores[0, 0, middle, middle], picture)
    reached = gradient[0].abs().sum(0) > 0
    assert int(reached.any(0).sum()) == int(reached.any(1).sum()) == config.receptive_field == 34


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", DiscriminatorNorm)
def test_every_scale_gives_a_map_of_half_the_size_down_to_the_smallest_picture(
    norm: DiscriminatorNorm, channels: int
) -> None:
    config = small(norm=norm, channels=channels, scales=3)
    network = Discriminator(config)
    maps = network(torch.rand(2, channels, 96, 96))
    assert [tuple(scores.shape) for scores in maps] == [(2, 1, 22, 22), (2, 1, 10, 10), (2, 1, 4, 4)]
    assert network(torch.rand(2, channels, config.smallest, config.smallest))[-1].shape == (2, 1, 1, 1)
    with pytest.raises(UsageError, match=f"at least {config.smallest}"):
        network(torch.rand(2, channels, config.smallest, config.smallest - 1))
    with pytest.raises(UsageError, match=f"N x {channels} x H x W"):
        network(torch.rand(2, 4 - channels, 96, 96))


def test_scales_share_no_weights_and_the_second_judges_the_pooled_picture() -> None:
    torch.manual_seed(0)
    both, one = Discriminator(small(scales=2)).eval(), Discriminator(small()).eval()
    one.scales[0].load_state_dict(both.scales[1].state_dict())
    picture = torch.rand(1, 3, 64, 64)
    pooled = nn.functional.avg_pool2d(picture, 3, 2, 1, count_include_pad=False)
    with torch.no_grad():
        assert torch.allclose(both(picture)[1], one(pooled)[0], atol=1e-6)
        assert not torch.allclose(both.scales[0](pooled), one.scales[0](pooled))


def test_pictures_are_scaled_to_minus_one_and_one_inside() -> None:
    torch.manual_seed(0)
    network = Discriminator(small(spectral=False))
    seen = []
    network.scales[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    network(torch.tensor([0.0, 0.25, 1.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    assert [float(v) for v in seen[0][0, :, 0, 0]] == [-1.0, -0.5, 1.0]


def test_spectral_norm_divides_by_the_largest_singular_value_that_numpy_finds() -> None:
    torch.manual_seed(0)
    network = Discriminator(small())
    picture = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for _ in range(200):  # each training step iterates once
            network(picture)
    network.eval()
    for conv in convolutions(network):
        original = conv.parametrizations.weight.original.detach().double().numpy()
        largest = np.linalg.svd(original.reshape(len(original), -1), compute_uv=False)[0]
        normalized = conv.weight.detach().numpy()
        assert np.abs(normalized - original / largest).max() < 1e-4 * np.abs(normalized).max()
        assert np.linalg.norm(normalized.reshape(len(normalized), -1), 2) == pytest.approx(1.0, abs=1e-4)
    assert not any(hasattr(c, "parametrizations") for c in convolutions(Discriminator(small(spectral=False))))


def test_all_faults_come_at_once() -> None:
    bad = DiscriminatorConfig(channels=2, width=0, layers=0, scales=0, norm="layer")  # type: ignore[arg-type]
    assert len(bad.faults()) == 5
    with pytest.raises(UsageError, match=r"channels is 2: .*width is 0: .*layers is 0: .*scales is 0: .*'layer'"):
        Discriminator(bad)
    assert DiscriminatorConfig().faults(gradient_penalty=10.0) == []


def test_batch_norm_is_refused_together_with_a_gradient_penalty() -> None:
    batch = small(norm=DiscriminatorNorm.BATCH)
    assert batch.faults() == []
    assert ["gradient penalty" in fault for fault in batch.faults(gradient_penalty=10.0)] == [True]
