"""Training for int8: the graph that is trained is the one that is exported, and the result an ordinary network."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchao", reason="needs the extra export")

import torch
from PIL import Image
from typer.testing import CliRunner

from converters import qat
from converters.calibration import CalibrationSet
from converters.equalize import equalize, equalizing_factors
from converters.fold import Fold
from converters.graph import deployable, prove_fold
from converters.material import Sources
from converters.prune_steps import Similarity
from converters.qat import COLUMNS, Comparison, QatReport, QatSettings, Quality, train_int8
from converters.quantize import quantize_for_training, quantize_module
from sdk.errors import ExitCode, GateError, UsageError
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.models.generator import Generator
from training.models.norm import Statistics

STYLES = ("comic", "anime", "pencil")
#: Judged at 32 px, thirty steps in two stretches: seconds. The rate is high for so few.
QUICK = QatSettings(steps=30, stretch=15, crop=32, batch=4, size=32, lr=1e-3)

#: Networks whose folds differ: style rows at joins, plain blocks and a tail with three values of bias; an SFT layer.
NETWORKS: dict[str, dict[str, object]] = {
    "narrow": {},
    "plain": {
        "plain": (True, True, False, False),
        "conditional_joins": (True, False, True),
        "tail_kernel": 1,
        "tail_bias": 3,
    },
    "sft": {"sft": True, "fused": (True, False, False, False)},
    "attention": {"attention": True},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(16):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the photos, to report on."""
    folder = tmp_path_factory.mktemp("few")
    for path in sorted(photos.iterdir())[:2]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def lame(build_network: Callable[..., Generator]) -> Generator:
    """A network that int8 spoils: in the tail, weights of a channel that holds nothing set the grid of all others."""
    network = build_network(plain=(True, False, False, False))
    norm = network.stages[3][0].spatial.norm  # type: ignore[index]
    norm.gamma.data[:, 0] = norm.beta.data[:, 0] = 0
    network.tail.weight.data[:, 0] = 20
    return network


@pytest.fixture(scope="module")
def checkpoint(lame: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parent") / "tiny.safetensors"
    info = CheckpointInfo(name="tiny", version="1.0", styles=STYLES, size=(32, 32), provenance=("made for a test",))
    save_checkpoint(path, lame, info)
    return path


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(
    checkpoint: Path, photos: Path, few: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, QatReport]:
    out = tmp_path_factory.mktemp("qat") / "made.safetensors"
    sources = Sources(photos=photos, test=few)
    return out, train_int8(checkpoint, out=out, settings=QUICK, sources=sources, calibration=photos, quiet=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_fold_is_the_exports_and_gradients_reach_every_weight(
    name: str, build_network: Callable[..., Generator], calibration: CalibrationSet
) -> None:
    network = build_network(**NETWORKS[name])
    for parameter in network.parameters():
        if not parameter.any():  # an SFT layer starts as the identity, past which no gradient goes
            parameter.data.uniform_(-0.1, 0.1)
    graph = deployable(network)
    fold = Fold(network)
    fold.prove(network, graph)
    made = fold(network)
    assert made.keys() == dict(graph.named_parameters()).keys()
    samples = list(calibration.tensors(baked=False))[:12]
    module = quantize_for_training(graph, samples)
    images, styles = (torch.cat(parts) for parts in zip(*samples, strict=True))
    torch.func.functional_call(module, made, (images, styles)).square().mean().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_the_fold_equalizes_as_the_export_does(network: Generator, calibration: CalibrationSet) -> None:
    graph = deployable(network)
    made = Fold(network)(network, equalizing_factors(graph, calibration))
    wanted = dict(equalize(graph, calibration).named_parameters())
    assert any(not torch.equal(value, wanted[name]) for name, value in graph.named_parameters())
    for name, value in wanted.items():
        torch.testing.assert_close(made[name], value, rtol=1e-4, atol=1e-5)


def test_the_trained_graph_draws_what_the_exported_one_draws(network: Generator, calibration: CalibrationSet) -> None:
    graph = deployable(network)
    samples = list(calibration.tensors(baked=False))
    trained, exported = quantize_for_training(graph, samples), quantize_module(graph, samples)
    with torch.no_grad():
        for given in samples[:4]:
            want, have = exported(*given), trained(*given)
            assert want.std() > 0.01
            assert float((want - graph(*given)).abs().max()) > 0.5 / 255  # it does round
            assert float((want - have).abs().mean()) <= 0.02 / 255  # a sum may round to a neighbour here and there


def test_weight_grids_follow_the_weights_in_training(network: Generator, calibration: CalibrationSet) -> None:
    graph = deployable(network)
    sample = next(iter(calibration.tensors(baked=False)))
    module = quantize_for_training(graph, [sample])
    given = dict(graph.named_parameters())
    tail = "network.tail.weight"
    halved = {**given, tail: given[tail] / 2, "network.tail.bias": given["network.tail.bias"] / 2}
    with torch.no_grad():
        whole = torch.func.functional_call(module, given, sample)
        half = torch.func.functional_call(module, halved, sample)
        again = torch.func.functional_call(module, given, sample)
    assert torch.equal(whole, again)
    inside = (whole > 0.02) & (whole < 0.98)
    assert float((whole / 2 - half)[inside].abs().max()) <= 1.01 / 255  # a grid of the old weights would be coarser


def test_a_fold_that_is_not_the_exports_is_refused(network: Generator) -> None:
    graph = copy.deepcopy(deployable(network))
    graph.network.tail.weight.data[0] += 0.01
    with pytest.raises(GateError, match=r"network\.tail\.weight"):
        Fold(network).prove(network, graph)


def test_the_result_is_an_ordinary_checkpoint_and_better_in_int8(
    trained: tuple[Path, QatReport], lame: Generator
) -> None:
    out, report = trained
    assert report.better
    assert report.steps == QUICK.steps
    deciding, test = report.comparisons
    assert (deciding.photos, deciding.count, test.photos, test.count) == ("deciding", 4, "test", 2)
    assert deciding.after.int8.mean > deciding.before.int8.mean + 0.05
    assert test.after.int8.mean > test.before.int8.mean + 0.05
    assert deciding.before.floating == Similarity(mean=1.0, worst=1.0)
    assert 0.9 < deciding.after.floating.mean < 1.0  # it did move
    loaded = load_checkpoint(out)
    assert loaded.generator.config == lame.config
    assert loaded.info.styles == STYLES
    assert loaded.info.provenance[0] == "made for a test"
    assert "trained with int8 rounding in the graph" in " ".join(loaded.info.provenance)
    moved = {n for n, p in loaded.generator.named_parameters() if not torch.equal(p, lame.get_parameter(n))}
    assert moved == {n for n, _ in lame.named_parameters()}
    for name, buffer in loaded.generator.named_buffers():
        assert torch.equal(buffer, lame.get_buffer(name)), name  # population statistics are held
    prove_fold(loaded.generator, deployable(loaded.generator))


def test_the_saved_networks_ptq_is_what_the_table_says(
    trained: tuple[Path, QatReport], checkpoint: Path, photos: Path
) -> None:
    out, report = trained
    made, parent = load_checkpoint(out), load_checkpoint(checkpoint)
    shown = qat.load_calibration(photos, size=(32, 32), styles=len(STYLES))
    material = qat.read_material(parent, Sources(photos=photos, test=None), size=32, crop=32, seed=0)
    module = quantize_module(equalize(deployable(made.generator), shown), shown.tensors(baked=False))
    found = qat.compare(qat.draw(module, material.deciding, styles=len(STYLES)), material.wanted)
    claimed = report.comparisons[0]
    assert found.mean == pytest.approx(claimed.after.int8.mean, abs=2e-4)
    assert found.mean >= claimed.before.int8.mean


def test_the_table_stands_beside_the_checkpoint(trained: tuple[Path, QatReport]) -> None:
    out, report = trained
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["parent_sha256"] == report.parent_sha256
    assert told["settings"]["steps"] == QUICK.steps
    assert told["comparisons"][0]["after"]["int8"]["mean"] == report.comparisons[0].after.int8.mean
    lines = out.with_suffix(".md").read_text().splitlines()
    assert lines[0] == f"| {' | '.join(COLUMNS)} |"
    assert len(lines) == 2 + 2 * 3
    assert f"{report.comparisons[0].after.int8.mean:.4f}" in lines[2]
    assert {path.name for path in out.parent.iterdir()} == {"made.safetensors", "made.json", "made.md"}


def test_better_means_a_higher_mean_and_no_lower_worst() -> None:
    def report(mean: float, worst: float) -> QatReport:
        whole = Similarity(mean=1.0, worst=1.0)
        before, after = (
            Quality(int8=Similarity(mean=m, worst=w), floating=whole, own=whole) for m, w in ((0.9, 0.8), (mean, worst))
        )
        one = Comparison(photos="deciding", count=1, before=before, after=after)
        return QatReport(parent_sha256="", settings=QUICK, steps=1, minutes=0.0, comparisons=(one,))

    assert report(0.91, 0.8).better
    assert not report(0.9, 0.9).better
    assert not report(0.91, 0.79).better
    assert not report(float("nan"), 0.8).better


def test_the_command_writes_nothing_when_int8_got_no_better(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = Quality(
        int8=Similarity(mean=0.9, worst=0.8),
        floating=Similarity(mean=1.0, worst=1.0),
        own=Similarity(mean=0.9, worst=0.8),
    )
    monkeypatch.setattr(qat, "_judge", lambda *_: [same, same])
    given = {"steps": 1, "stretch": 1, "crop": 32, "batch": 2, "size": 32, "out": tmp_path / "no.safetensors"}
    given |= {"checkpoint": checkpoint, "photos": photos, "test": photos, "calibration": photos}
    arguments = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    result = CliRunner().invoke(qat.app, [*arguments, "--quiet"])
    assert result.exit_code == ExitCode.GATE_FAILED, result.output
    assert "nothing was written" in result.output
    assert "the parent's float" in result.output  # the table is shown all the same
    assert list(tmp_path.iterdir()) == []


def test_a_network_on_instance_statistics_is_refused(
    build_network: Callable[..., Generator], photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "instance.safetensors"
    save_checkpoint(
        path, build_network(statistics=Statistics.INSTANCE), CheckpointInfo(name="i", version="1", styles=STYLES)
    )
    with pytest.raises(UsageError, match=r"instance.*statistics: running"):
        train_int8(path, out=tmp_path / "no.safetensors", settings=QUICK, sources=Sources(photos=photos))
    assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps 0 is out of range"),
        ({"minutes": 0.0}, r"minutes 0\.0 is out of range"),
        ({"stretch": 0}, "stretch 0 is out of range"),
        ({"lr": 0.0}, r"lr 0\.0 is out of range"),
        ({"size": 100}, "size 100 is out of range"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        train_int8(out=tmp_path / "no.safetensors", settings=QatSettings(**options), sources=Sources())  # type: ignore[arg-type]


def test_an_output_that_is_there_or_no_checkpoints_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        train_int8(out=tmp_path / "made.pt", settings=QUICK, sources=Sources())
    (tmp_path / "made.md").write_text("mine")
    with pytest.raises(UsageError, match=r"made\.md exists already"):
        train_int8(out=tmp_path / "made.safetensors", settings=QUICK, sources=Sources())
    assert (tmp_path / "made.md").read_text() == "mine"
