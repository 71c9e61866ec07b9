"""The deployed graph is the network: folds are exact, a wrong one is caught, borders are only rearranged."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from converters.graph import (
    ChannelsLast,
    DeployGraph,
    PictureOutput,
    ScaledPicture,
    StyleAffine,
    deployable,
    example_inputs,
    int8_obstacle,
    prove_fold,
    require_int8,
)
from sdk.errors import GateError, UsageError
from training.models.generator import Generator
from training.models.norm import ConditionalNorm2d, Statistics

MIX = np.array([0.2, 0.5, 0.3], dtype=np.float32)


def _count(module: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(m, kinds) for m in module.modules())


@pytest.mark.parametrize("statistics", list(Statistics))
@pytest.mark.parametrize("style", [None, MIX], ids=["multi", "baked"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder": "tf_mobilenetv3_large_minimal_100"},
        {"sft": True},
        {"attention": True},
        {"fused": (True, True, False, False)},
        {"plain": (True, True, False, False), "conditional": (False, False, True, True)},
        {"conditional": (False,) * 4, "conditional_joins": (True, True, True), "tail_kernel": 1, "tail_bias": 3},
    ],
    ids=["small", "large", "sft", "attention", "fused", "plain", "joins"],
)
def test_graph_equals_the_network_before_the_clamp(
    build_network: Callable[..., Generator],
    statistics: Statistics,
    style: np.ndarray | None,
    options: dict[str, object],
) -> None:
    network = build_network(statistics, **options)
    assert prove_fold(network, deployable(network, style=style), style=style) <= 1e-5


def test_every_norm_is_folded_and_no_activation_is_lost(network: Generator) -> None:
    conditional = _count(network, ConditionalNorm2d)
    multi, baked = deployable(network), deployable(network, style=MIX)
    for graph in (multi, baked):
        assert _count(graph, nn.BatchNorm2d, ConditionalNorm2d) == 0
        assert _count(graph, nn.ReLU6) == _count(network, nn.ReLU6)
    assert _count(multi, StyleAffine) == conditional
    assert _count(baked, StyleAffine) == 0


def test_baked_graph_takes_the_image_alone_and_clamps(network: Generator) -> None:
    graph = deployable(network, style=MIX)
    image = torch.rand(1, 3, 32, 48)
    made = graph(image)
    assert graph.baked
    assert made.shape == (1, 3, 32, 48)
    assert torch.equal(made, graph.raw(image).clamp(0, 1))
    assert made.min() >= 0
    assert made.max() <= 1


def test_mix_of_styles_is_the_mix_of_rows(network: Generator) -> None:
    image = torch.rand(1, 3, 32, 32)
    multi = deployable(network)(image, torch.from_numpy(MIX)[None])
    baked = deployable(network, style=MIX)(image)
    assert torch.allclose(multi, baked, atol=1e-5)


def test_the_network_itself_is_left_alone(network: Generator) -> None:
    before = copy.deepcopy(network.state_dict())
    deployable(network, style=MIX)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def _wrong_bias(graph: DeployGraph) -> None:
    graph.network.bridge.conv.bias += 1e-3  # type: ignore[operator, misc]


def _wrong_scale(graph: DeployGraph) -> None:
    graph.network.encoder.features.conv_stem.weight *= 1.001


def _lost_activation(graph: DeployGraph) -> None:
    graph.network.stages[3][0].spatial.act = nn.Identity()  # type: ignore[index, union-attr]


def _not_finite(graph: DeployGraph) -> None:
    graph.network.tail.bias[0] = torch.nan  # type: ignore[index]


@pytest.mark.parametrize("fault", [_wrong_bias, _wrong_scale, _lost_activation, _not_finite])
def test_planted_bad_fold_is_caught(network: Generator, fault: Callable[[DeployGraph], None]) -> None:
    graph = deployable(network)
    with torch.no_grad():
        fault(graph)
    with pytest.raises(GateError, match="folded graph differs"):
        prove_fold(network, graph)


def test_planted_wrong_style_row_is_caught(network: Generator) -> None:
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(GateError):
        prove_fold(network, deployable(network, style=rows[0]), style=rows[1])


def test_style_of_another_width_is_refused(network: Generator) -> None:
    with pytest.raises(UsageError, match="2 weights was given to a network of 3 styles"):
        deployable(network, style=np.array([0.5, 0.5]))


def test_norm_without_a_convolution_before_it_is_refused(build_network: Callable[..., Generator]) -> None:
    network = build_network()
    network.stages[0].insert(0, _Bare(16))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"stages\.0\.0\.norm has no convolution"):
        deployable(network)


class _Bare(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.relu(x))


def test_instance_statistics_are_refused_for_int8_with_the_reason(build_network: Callable[..., Generator]) -> None:
    graph = deployable(build_network(Statistics.INSTANCE))
    assert "instance" in str(int8_obstacle(graph))
    with pytest.raises(UsageError, match=r"per-image .instance. statistics.*statistics: running"):
        require_int8(graph)


def test_running_statistics_are_fit_for_int8(network: Generator) -> None:
    assert int8_obstacle(deployable(network)) is None


@pytest.mark.parametrize("style", [None, MIX], ids=["multi", "baked"])
def test_wrappers_only_rearrange_and_scale(network: Generator, style: np.ndarray | None) -> None:
    graph = deployable(network, style=style)
    image, *rest = example_inputs(graph, (32, 48))
    image = torch.rand_like(image)
    want = graph(image, *rest)
    assert torch.equal(ChannelsLast(graph)(image.permute(0, 2, 3, 1), *rest), want.permute(0, 2, 3, 1))
    assert torch.equal(PictureOutput(graph)(image, *rest), want * 255)
    scaled = ScaledPicture(graph)(image * (255 / 256), *rest)
    assert torch.allclose(scaled, want * 255, atol=1e-3)
    extreme = ScaledPicture(graph)
    with torch.no_grad():
        extreme.scaled.network.tail.bias += torch.tensor([1e4, -1e4, 0.0]).repeat_interleave(4)
    red, green, _ = extreme(image * (255 / 256), *rest).unbind(1)
    assert (red == 255).all()  # the clamp is at the ends of a picture, not around its middle
    assert (green == 0).all()
    assert torch.equal(graph(image, *rest), want)  # the graph itself is left alone


def test_example_inputs_fit_the_graph_and_sizes_are_checked(network: Generator) -> None:
    graph = deployable(network)
    image, style = example_inputs(graph, (48, 32), batch=2)
    assert image.shape == (2, 3, 48, 32)
    assert torch.allclose(style.sum(1), torch.ones(2))
    assert len(example_inputs(deployable(network, style=MIX), (32, 32))) == 1
    with pytest.raises(UsageError, match="not divisible by 16"):
        example_inputs(graph, (30, 32))
