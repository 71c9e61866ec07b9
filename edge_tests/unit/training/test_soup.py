"""The mean of checkpoints: rows by name, everything else by its key, and mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import training.soup as tool
from sdk.errors import UsageError
from training.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, save_checkpoint
from training.models.generator import Generator, GeneratorConfig
from training.soup import soup


def made(folder: Path, name: str, styles: tuple[str, ...], seed: int, width: int = 8) -> Path:
    """A network of these styles, every tensor of it stirred."""
    torch.manual_seed(seed)
    config = GeneratorConfig(styles=len(styles), widths=(width, 8, 8, 8), depths=(1, 1, 1, 1), expansions=(1, 1, 1, 1))
    network = Generator(config)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, network, CheckpointInfo(name=name, version="1", styles=styles, size=(64, 64)))
    return path


@pytest.fixture
def three(tmp_path: Path) -> Checkpoint:
    return load_checkpoint(made(tmp_path, "three", ("comic", "anime", "cel"), 0))


@pytest.fixture
def two(tmp_path: Path) -> Checkpoint:
    return load_checkpoint(made(tmp_path, "two", ("cel", "comic"), 1))


def test_every_tensor_is_the_weighted_mean_and_rows_are_matched_by_name(three: Checkpoint, two: Checkpoint) -> None:
    network, info = soup([three, two], [3.0, 1.0])
    assert info.styles == three.info.styles
    assert info.name == "three"
    first, second, mean = (g.state_dict() for g in (three.generator, two.generator, network))
    seen = set()
    for key, value in mean.items():
        if key.endswith((".gamma", ".beta")) and value.shape != second[key].shape:
            seen.add("rows")
            for style in ("comic", "cel"):
                row, other = three.info.styles.index(style), two.info.styles.index(style)
                assert torch.allclose(value[row], 0.75 * first[key][row] + 0.25 * second[key][other])
            assert torch.equal(value[1], first[key][1])  # the other network has no anime
        elif value.is_floating_point():
            seen.add("rest")
            assert torch.allclose(value, 0.75 * first[key] + 0.25 * second[key])
    assert seen == {"rows", "rest"}


def test_with_itself_or_with_a_share_of_nothing_a_network_stays_bit_for_bit(three: Checkpoint, two: Checkpoint) -> None:
    for others, weights in (([three], [0.3, 0.7]), ([two], [1.0, 0.0])):
        network, _ = soup([three, *others], weights)
        for key, value in network.state_dict().items():
            assert torch.equal(value, three.generator.state_dict()[key]), key
    network, _ = soup([three, two], [0.0, 1.0])  # no share of the one network that has anime: its row all the same
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_the_command_writes_it_and_says_what_it_is(tmp_path: Path) -> None:
    files = [made(tmp_path, name, ("comic",), seed) for seed, name in enumerate(("a", "b"))]
    app, out = typer.Typer(), tmp_path / "mean.safetensors"
    app.command()(tool._main)
    asked = ["--checkpoint", f"{files[0]}=3", "--checkpoint", str(files[1]), "--out", str(out)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    hashes = [load_checkpoint(file).sha256[:12] for file in files]
    assert load_checkpoint(out).info.provenance[-1] == f"mean of weights: 0.75 of a {hashes[0]}, 0.25 of b {hashes[1]}"
    wrong = CliRunner().invoke(app, ["--checkpoint", f"{files[0]}=much", "--checkpoint", str(files[1]), "--out", "x"])
    assert wrong.exit_code == 2
    assert "write FILE=WEIGHT" in wrong.output


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, -1.0], "a weight of -1 is no share"), ([float("nan"), 1.0], "no share"), ([0.0, 0.0], "all weights are 0")],
)
def test_weights_that_are_none_are_refused(
    three: Checkpoint, two: Checkpoint, weights: list[float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        soup([three, two], weights)


def test_one_network_or_another_architecture_has_no_mean(three: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name two or more"):
        soup([three], [1.0])
    wide = load_checkpoint(made(tmp_path, "wide", ("comic",), 2, width=16))
    with pytest.raises(UsageError, match=r"checkpoint 2 \(wide\) is of another architecture"):
        soup([three, wide], [1.0, 1.0])
