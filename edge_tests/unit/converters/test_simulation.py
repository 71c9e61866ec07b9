"""int8 that can be switched: the same pictures as the quantized graph, whatever is left in float."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchao", reason="needs the extra export")

from converters.calibration import CalibrationSet
from converters.equalize import equalize
from converters.graph import DeployGraph, deployable
from converters.quantize import quantize_module
from converters.simulation import ActivationGrid, Simulation, WeightGrid, simulate
from sdk.errors import UsageError
from training.models.generator import Generator

pytestmark = pytest.mark.export

#: A whole block, single convolutions, what lies between neighbours, and what makes the picture.
SETS = [
    (),
    ("network.bridge",),
    ("network.joins.2",),
    ("network.stages.3.0.spatial",),
    ("network.joins.2", "network.stages.3.0", "network.tail"),
    ("network.encoder.features.conv_stem", "network.encoder.features.blocks.0"),
]


@pytest.fixture(scope="module")
def graph(network: Generator, calibration: CalibrationSet) -> DeployGraph:
    return equalize(deployable(network), calibration)


@pytest.fixture(scope="module")
def samples(calibration: CalibrationSet) -> list[tuple[torch.Tensor, ...]]:
    return list(calibration.tensors(baked=False))


@pytest.fixture(scope="module")
def simulation(graph: DeployGraph, samples: list[tuple[torch.Tensor, ...]]) -> Simulation:
    return simulate(graph, samples)


@pytest.mark.parametrize("layers", SETS)
def test_a_simulation_draws_what_the_quantized_graph_draws(simulation, graph, samples, layers) -> None:
    quantized = quantize_module(graph, samples, float_layers=layers)
    simulation.keep_float(layers)
    with torch.no_grad():
        for given in samples[:4]:
            want, have = quantized(*given), simulation.module(*given)
            assert want.std() > 0.01
            # The same grids; a sum in another order may round to a neighbour here and there.
            assert float((want - have).abs().mean()) <= 0.02 / 255


def test_with_nothing_quantized_it_is_the_float_graph(simulation, graph, samples) -> None:
    simulation.quantize_only([])
    with torch.no_grad():
        assert torch.allclose(simulation.module(*samples[0]), graph(*samples[0]), atol=1e-5)
        simulation.quantize_only(["network.tail"])
        assert float((simulation.module(*samples[0]) - graph(*samples[0])).abs().max()) > 0.5 / 255


def test_layers_are_modules_that_compute_each_set_of_operations_once(simulation) -> None:
    layers = simulation.layers
    assert {"network.tail", "network.bridge", "network.joins.2", "network.stages.3.0", "network.encoder"} <= set(layers)
    assert "" not in layers  # the whole graph
    assert "network.bridge.conv" not in layers  # the same operation as network.bridge
    inside = [frozenset(id(o) for o in simulation.operations if o.within([layer])) for layer in layers]
    assert len(set(inside)) == len(inside)


def test_neighbours_touch_and_strangers_do_not(simulation) -> None:
    assert simulation.touch("network.stages.3.0", "network.tail")
    assert not simulation.touch("network.bridge", "network.tail")


def test_grids_by_hand_and_their_gradients() -> None:
    values = torch.tensor([-1.0, 0.1, 0.26, 9.0], requires_grad=True)
    made = ActivationGrid(0.25, -128)(values)  # 0, 0.25, ..., 63.75
    assert made.tolist() == [0.0, 0.0, 0.25, 9.0]
    made.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0]  # nothing passes where a value is clipped
    weight = torch.tensor([[1.27, 0.014], [0.0, 0.0]]).view(2, 2, 1, 1)
    assert WeightGrid()(weight).flatten().tolist() == pytest.approx([1.27, 0.01, 0.0, 0.0])


def test_no_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="calibration samples"):
        simulate(torch.nn.Conv2d(1, 1, 1), [])
