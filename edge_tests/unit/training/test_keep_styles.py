"""Fewer styles of a checkpoint: those that are kept draw as before, and mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import training.keep_styles as tool
from sdk.errors import UsageError
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.keep_styles import keep_styles
from training.models.generator import Generator, GeneratorConfig

STYLES = ("comic", "anime", "cel")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = GeneratorConfig(styles=3, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), expansions=(1, 1, 1, 1))
    network = Generator(config)
    for name, parameter in network.named_parameters():
        if name.endswith((".gamma", ".beta")):
            parameter.data += 0.3 * torch.randn_like(parameter)
    path = tmp_path / "three.safetensors"
    save_checkpoint(path, network, CheckpointInfo(name="three", version="1", styles=STYLES, size=(64, 64)))
    return path


def test_what_is_kept_draws_bit_for_bit_as_before(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "two.safetensors"
    app = typer.Typer()
    app.command()(tool._main)
    asked = ["--checkpoint", str(checkpoint), "--style", "cel", "--style", "comic", "--out", str(out)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(checkpoint), load_checkpoint(out)
    assert after.info.styles == ("cel", "comic")
    assert "anime were left out" in after.info.provenance[-1]
    assert after.info.name == "three"
    photo = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for row, style in enumerate(after.info.styles):
            drawn = after.generator(photo, torch.eye(2)[[row]])
            assert torch.equal(drawn, before.generator(photo, torch.eye(3)[[STYLES.index(style)]]))
    assert out.stat().st_size < checkpoint.stat().st_size


def test_a_row_takes_the_place_and_the_name_of_another(checkpoint: Path) -> None:
    before = load_checkpoint(checkpoint)
    network, info = keep_styles(before, ["comic", "cel=anime"])
    assert info.styles == ("comic", "anime")
    assert info.provenance[-2:] == ("the styles anime were left out", "cel was called anime")
    photo = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(photo, torch.eye(2)[[1]]), before.generator(photo, torch.eye(3)[[2]]))


@pytest.mark.parametrize(
    ("styles", "message"),
    [
        ((), "no style is named"),
        (("comc",), "did you mean 'comic'"),
        (("cel", "cel"), "'cel' is named twice"),
        (("cel", "comic=cel"), "two styles are to be called 'cel'"),
        (("cel=",), "gets an empty name"),
    ],
)
def test_mistakes_are_told(checkpoint: Path, styles: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        keep_styles(load_checkpoint(checkpoint), styles)
