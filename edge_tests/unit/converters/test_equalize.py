"""Equalization changes no picture and makes channels that share a scale equally large."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters.calibration import CalibrationSet
from converters.equalize import equalize
from converters.graph import DeployGraph, deployable, prove_fold
from converters.quantize import quantize_module
from training.models.generator import Generator

MIX = np.array([0.2, 0.5, 0.3], dtype=np.float32)


@pytest.mark.parametrize("style", [None, MIX], ids=["multi", "baked"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sft": True},
        {"attention": True},
        {"fused": (True, True, False, False)},
        {"activation": "relu"},
        {"depths": (2, 2, 2, 2)},
    ],
    ids=["plain", "sft", "attention", "fused", "relu", "deep"],
)
def test_equalized_graph_draws_the_same_pictures(
    build_network: Callable[..., Generator],
    calibration: CalibrationSet,
    style: np.ndarray | None,
    options: dict[str, object],
) -> None:
    network = build_network(**options)
    graph = deployable(network, style=style)
    made = equalize(graph, calibration)
    assert prove_fold(network, made, style=style) <= 1e-5
    changed = [n for n, p in made.named_parameters() if not torch.equal(p, graph.get_parameter(n))]
    assert len(changed) > 10


def test_the_graph_itself_is_left_alone(network: Generator, calibration: CalibrationSet) -> None:
    graph = deployable(network)
    before = copy.deepcopy(graph.state_dict())
    equalize(graph, calibration)
    assert all(torch.equal(before[name], value) for name, value in graph.state_dict().items())


def _bridge_ranges(graph: DeployGraph, calibration: CalibrationSet) -> torch.Tensor:
    """Channel maxima of the bridge's output."""
    seen: list[torch.Tensor] = []
    hook = graph.network.bridge.register_forward_hook(lambda _m, _i, out: seen.append(out.abs().amax((0, 2, 3))))
    with torch.no_grad():
        for inputs in calibration.tensors(baked=graph.baked):
            graph(*inputs)
    hook.remove()
    return torch.stack(seen).amax(0)


def _unbalance(graph: DeployGraph, factor: float) -> None:
    """Makes one channel of the stride-16 stream ``factor`` times as large, without changing the function."""
    network = graph.network
    (block,) = network.stages[0]  # type: ignore[misc]
    with torch.no_grad():
        for conv in (network.bridge.conv, block.project.conv):
            conv.weight[0] *= factor  # type: ignore[operator, index]
            conv.bias[0] *= factor  # type: ignore[operator, index]
        for conv in (block.expand.conv, network.joins[0].deep.conv):  # type: ignore[union-attr]
            conv.weight[:, 0] /= factor


def test_channels_of_a_stream_become_equally_large(network: Generator, calibration: CalibrationSet) -> None:
    graph = deployable(network)
    _unbalance(graph, 30.0)
    before = _bridge_ranges(graph, calibration)
    after = _bridge_ranges(equalize(graph, calibration), calibration)
    assert prove_fold(network, graph) <= 1e-5  # the planted imbalance is no change of function
    assert before.max() / before.median() > 10
    assert after.max() / after.median() < 2


def test_planted_imbalance_spoils_int8_and_equalization_mends_it(
    network: Generator, calibration: CalibrationSet
) -> None:
    graph = deployable(network)
    _unbalance(graph, 60.0)
    inputs = list(calibration.tensors(baked=False))

    def error(candidate: DeployGraph) -> float:
        made = quantize_module(candidate, inputs)
        return float(np.mean([float(((made(*i) - graph(*i)) ** 2).mean()) for i in inputs[:12]]))

    assert error(equalize(graph, calibration)) < 0.5 * error(graph)


class LookAlike(nn.Module):
    """Has the form of a style's scale and shift, or nearly so, where no style is; stands in for a ``DeployGraph``."""

    baked = True

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.gate = nn.Conv2d(3, 1 if kind == "one channel" else 8, 1, bias=kind == "bias")
        self.last = nn.Conv2d(8, 3, 1)
        with torch.no_grad():
            self.first.weight[0] *= 30
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        first, second = self.first(image), self.second(image)
        squeezed = F.adaptive_avg_pool2d(image, 1)
        match self.kind:
            case "map":  # a residual sum after a product, neither of one pixel
                made = first * self.gate(image) + second
            case "read twice":
                gate = self.gate(squeezed)
                made = first * gate + second * gate
            case "shifted by its own scale":
                gate = self.gate(squeezed)
                made = first * gate + gate
            case "square":
                made = first * first + second
            case _:  # a photo's own gate: a squeeze-and-excitation with a residual sum after it
                made = first * self.gate(squeezed) + second
        drawn: Tensor = self.last(torch.relu(made))
        return drawn


@pytest.mark.parametrize(
    "kind", ["squeezed", "bias", "one channel", "map", "read twice", "shifted by its own scale", "square"]
)
def test_what_looks_like_a_styles_scale_and_is_none_still_draws_the_same(
    kind: str, baked_calibration: CalibrationSet
) -> None:
    graph = LookAlike(kind)
    made = equalize(graph, baked_calibration)  # type: ignore[arg-type]
    for (photo,) in list(baked_calibration.tensors(baked=True))[:4]:
        want = graph(photo)
        assert float((made(photo) - want).abs().max() / want.abs().max()) <= 1e-5
    changed = {name for name, values in made.named_parameters() if not torch.equal(values, graph.get_parameter(name))}
    # Where the gate can take it up, the stream before it is equalized; elsewhere it is left alone.
    assert ("first.weight" in changed) is (kind in {"squeezed"})
