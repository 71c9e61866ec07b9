"""Bias correction: a shift that int8 makes is measured and taken out, layer after layer."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchao", reason="needs the extra export")

from converters.bias import correct_bias
from converters.equalize import equalize
from converters.graph import deployable
from converters.quantize import quantize_module

pytestmark = pytest.mark.export


def _offset(module, graph, samples) -> torch.Tensor:
    """Mean difference a colour, over all samples."""
    with torch.no_grad():
        return torch.stack([(module(*given) - graph(*given)).mean((0, 2, 3)) for given in samples]).mean(0)


def test_a_planted_shift_of_rounding_is_taken_out(network, calibration) -> None:
    """The last convolution's weights all lie 0.49 steps above the grid: rounding takes the same from each."""
    graph = equalize(deployable(network), calibration)
    tail = graph.network.tail
    with torch.no_grad():
        step = 0.002
        tail.weight.copy_((tail.weight / step).round().clamp(-126, 126) * step + 0.49 * step)
        tail.weight[:, 0, 0, 0] = 127 * step  # fixes the scale of every output channel
        tail.bias.fill_(0.5)
    samples = list(calibration.tensors(baked=False))
    wanted = graph.raw(*samples[0])
    assert 0 < float(wanted.mean()) < 1
    corrected = correct_bias(graph, calibration)
    before = _offset(quantize_module(graph, samples), graph, samples)
    after = _offset(quantize_module(corrected, samples), graph, samples)
    assert float(before.abs().mean()) > 1 / 255
    # What the clamp of the picture cuts off, no bias brings back.
    assert float(after.abs().mean()) < 0.5 * float(before.abs().mean())


def test_only_biases_change_and_the_given_graph_does_not(network, calibration) -> None:
    graph = equalize(deployable(network), calibration)
    before = {name: values.clone() for name, values in graph.state_dict().items()}
    corrected = correct_bias(graph, calibration).state_dict()
    assert all(torch.equal(values, before[name]) for name, values in graph.state_dict().items())
    changed = {name for name in before if not torch.equal(before[name], corrected[name])}
    assert changed
    assert all(name.endswith("bias") for name in changed)
    assert {name for name in before if name.endswith("bias")} == changed
