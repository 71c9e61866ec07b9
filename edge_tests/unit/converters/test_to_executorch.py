"""Lowering to XNNPACK: what the saved bytes say, the same bytes twice, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("executorch", reason="needs the extra export")

from converters.quantize import quantize_module
from converters.to_executorch import lower, read_delegation, read_metadata, read_nodes
from sdk.errors import UsageError

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, ...]:
    return (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 3, 1)).eval()


def _save(folder: Path, content: bytes) -> Path:
    path = folder / "module.pte"
    path.write_bytes(content)
    return path


def test_precision_of_every_node_is_read_from_the_file(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], tmp_path: Path
) -> None:
    floats = read_nodes(_save(tmp_path, lower(module, inputs)))
    assert {node.kind for node in floats if node.computes_in_float} >= {"XNNConv2d"}
    ints = read_nodes(_save(tmp_path, lower(quantize_module(module, [inputs]), inputs)))
    assert [node.kind for node in ints if node.computes_in_float] == []
    convolutions = [node for node in ints if node.kind == "XNNConv2d"]
    assert len(convolutions) == 2
    assert all(node.inputs == ("qcint8", "qint8") and node.pixels == 256 for node in convolutions)


def test_planted_float_island_is_seen(module: nn.Module, inputs: tuple[torch.Tensor, ...], tmp_path: Path) -> None:
    made = quantize_module(nn.Sequential(module, nn.Sigmoid(), nn.Conv2d(3, 3, 1)), [inputs])
    islands = [node.kind for node in read_nodes(_save(tmp_path, lower(made, inputs))) if node.computes_in_float]
    assert islands == ["XNNSigmoid"]


def test_description_is_in_the_file(module: nn.Module, inputs: tuple[torch.Tensor, ...], tmp_path: Path) -> None:
    described = {"name": "toon", "styles": "a,b"}
    path = _save(tmp_path, lower(module, inputs, described))
    assert read_metadata(path) == described
    assert len(read_delegation(path).delegates) == 1
    assert read_metadata(_save(tmp_path, lower(module, inputs))) == {}


def test_lowering_twice_gives_the_same_bytes(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    assert lower(module, inputs, {"name": "toon"}) == lower(module, inputs, {"name": "toon"})


def test_truncated_and_foreign_files_are_refused(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], tmp_path: Path
) -> None:
    whole = lower(module, inputs)
    for content in (whole[: len(whole) // 3], b"PK not a program", b""):
        with pytest.raises(UsageError, match="not a whole ExecuTorch program"):
            read_delegation(_save(tmp_path, content))
