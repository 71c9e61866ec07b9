"""Which layers stay in float: a planted loss is found, and nothing is left in float without need."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("torchao", reason="needs the extra export")

from converters import sensitivity
from converters.calibration import CalibrationSet
from converters.graph import DeployGraph, deployable
from converters.sensitivity import (
    choose_float_layers,
    count_layer_macs,
    draw,
    measure_sensitivity,
    share_of_macs,
)
from sdk.errors import UsageError
from sdk.verify import Gate
from training.models.generator import Generator, count_macs
from training.models.norm import Statistics

pytestmark = pytest.mark.export

LAST = "network.stages.3.0"


@pytest.fixture(scope="module")
def spoilt(network: Generator) -> DeployGraph:
    """Draws as the network does, but one channel of its last sum, which nothing reads, is 500 in all places.

    In int8 that channel takes the whole range of the sum; in float it does nothing.
    """
    graph = deployable(network)
    with torch.no_grad():
        graph.get_parameter(f"{LAST}.project.conv.bias")[0] += 500
        graph.get_parameter("network.tail.weight")[:, 0] = 0
    return graph


@pytest.fixture
def unequalized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equalization would mend what is planted."""
    monkeypatch.setattr(sensitivity, "equalize", lambda graph, calibration: graph)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The sets of layers that were left in float on the way."""
    sets: list[tuple[str, ...]] = []
    honest = sensitivity.Simulation.keep_float

    def note(self: sensitivity.Simulation, layers: object) -> None:
        sets.append(tuple(layers))  # type: ignore[arg-type]
        honest(self, layers)  # type: ignore[arg-type]

    monkeypatch.setattr(sensitivity.Simulation, "keep_float", note)
    return sets


def test_a_graph_that_meets_its_gate_stays_int8_untried(network, calibration, judged, monkeypatch) -> None:
    monkeypatch.setattr(sensitivity._Judge, "sensitivities", lambda *_: pytest.fail("sensitivities were measured"))
    choice = choose_float_layers(deployable(network), calibration, Gate(ssim_mean=0.5, ssim_worst=0.5), photos=2)
    assert (choice.layers, choice.macs, choice.meets) == ((), 0.0, True)
    assert 0.5 < choice.worst <= choice.mean < 1
    assert judged == [()]


@pytest.mark.usefixtures("unequalized")
def test_a_planted_loss_is_ranked_first_and_chosen_with_its_reader(spoilt: DeployGraph, calibration) -> None:
    rows = measure_sensitivity(spoilt, calibration, photos=2)
    # The sum, and the convolution that reads it: each writes or reads the tensor that is spoilt.
    assert {rows[0].layer, rows[1].layer} <= {LAST, "network.tail", f"{LAST}.project"}
    assert rows[1].lost > 2 * next(row.lost for row in rows if row.layer == "network.bridge")
    gate = Gate(ssim_mean=0.9, ssim_worst=0.85)
    choice = choose_float_layers(spoilt, calibration, gate, budget=0.6, photos=2)
    assert set(choice.layers) == {LAST, "network.tail"}
    assert choice.meets
    assert choice.mean >= 0.9
    assert choice.worst >= 0.85
    assert choice.macs == pytest.approx(share_of_macs(count_layer_macs(spoilt, (32, 32)), choice.layers))
    assert 0 < choice.macs <= 0.6


@pytest.mark.usefixtures("unequalized")
def test_psnr_is_a_bar_like_ssim(spoilt: DeployGraph, calibration) -> None:
    alone = choose_float_layers(spoilt, calibration, Gate(max_abs=0.0), photos=2)  # not judged here
    assert alone.layers == ()
    assert alone.meets
    gate = Gate(psnr_mean=alone.psnr_db + 3)
    choice = choose_float_layers(spoilt, calibration, gate, budget=0.6, photos=2)
    assert choice.layers
    assert choice.meets
    assert choice.psnr_db >= alone.psnr_db + 3
    assert choice.margin == pytest.approx((choice.psnr_db - alone.psnr_db - 3) / 100)


@pytest.mark.usefixtures("unequalized")
def test_the_budget_is_kept_and_a_gate_that_cannot_be_met_is_said(spoilt: DeployGraph, calibration, judged) -> None:
    choice = choose_float_layers(spoilt, calibration, Gate(ssim_mean=0.9), budget=0.02, photos=1)
    assert not choice.meets
    macs = count_layer_macs(spoilt, (32, 32))
    assert all(share_of_macs(macs, layers) <= 0.02 for layers in judged)


def test_shares_of_macs_are_those_of_the_network(network: Generator) -> None:
    graph = deployable(network)
    macs = count_layer_macs(graph, (32, 32))
    lookups = sum(count for path, count in macs.items() if path.endswith((".scale", ".shift")))
    assert sum(macs.values()) - lookups == count_macs(network, 32, 32)
    assert share_of_macs(macs, ["network"]) == 1
    assert share_of_macs(macs, ["network.joins.1"]) == 0 or "network.joins.10" not in macs
    alone = share_of_macs(macs, ["network.joins.2"])
    assert alone == pytest.approx(
        share_of_macs(macs, ["network.joins.2.deep"]) + share_of_macs(macs, ["network.joins.2.skip"])
    )
    assert share_of_macs(macs, ["network.joins.2", "network.joins.2.skip"]) == alone  # counted once


def test_instance_statistics_are_refused(build_network, calibration: CalibrationSet) -> None:
    graph = deployable(build_network(Statistics.INSTANCE))
    with pytest.raises(UsageError, match="instance"):
        measure_sensitivity(graph, calibration)
    with pytest.raises(UsageError, match="instance"):
        choose_float_layers(graph, calibration, Gate(ssim_mean=0.9))


def test_pictures_are_drawn_as_they_are(network: Generator, calibration: CalibrationSet) -> None:
    given = next(calibration.tensors(baked=False))
    (picture,) = draw(deployable(network), [given])
    assert picture.shape == (32, 32, 3)
    with torch.no_grad():
        assert torch.equal(torch.from_numpy(picture).permute(2, 0, 1), deployable(network)(*given)[0])


def test_a_missing_checkpoint_is_one_sentence_and_exit_code_2(tmp_path) -> None:
    import typer

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(sensitivity.main)
    done = CliRunner().invoke(app, ["--checkpoint", str(tmp_path / "none.safetensors")])
    assert done.exit_code == 2
    assert done.output.count("\n") == 1
    assert "none.safetensors" in done.output
