"""Attention and SFT, options of the generator: exported in float to every target, in one delegate where there are some;
the operators of attention in int8 as well. And why instance norms of other generators are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.registry import row_for
from converters.request import ExportOptions, ExportSpec
from sdk.runtimes import get_runtime
from sdk.spec import Backend, Precision, Target
from training.models.attention import PixelAttention
from training.models.generator import Generator, GeneratorConfig
from training.models.norm import SpatialFeatureTransform

pytestmark = pytest.mark.export

BORDERS = {
    Target.EXECUTORCH: (Backend.XNNPACK, "executorch"),
    Target.TFLITE: (Backend.LITERT, "litert"),
    Target.COREML: (Backend.MLPROGRAM, "mil"),
    Target.ONNX: (Backend.ORT, "onnxruntime"),
}


def optional_network(option: str) -> Generator:
    """A narrow generator with one of the options at work: as they start, both are the identity."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        styles=2, encoder_width=0.25, stem=8, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), expansions=(1, 1, 1, 1),
        **{option: True},  # type: ignore[arg-type]
    )  # fmt: skip
    network = Generator(config).eval()
    for module in network.modules():
        heads: list[nn.Conv2d] = []
        if isinstance(module, PixelAttention):
            heads = [module.project]
        elif isinstance(module, SpatialFeatureTransform):
            heads = [module.scale, module.shift]
        for head in heads:
            nn.init.normal_(head.weight, 0.0, 0.3)
    return network


@pytest.mark.parametrize("goal", BORDERS)
@pytest.mark.parametrize("option", ["attention", "sft"])
def test_an_option_of_the_generator_is_exported_in_float_to_every_target(
    option: str, goal: Target, tmp_path: Path
) -> None:
    from converters.graph import deployable

    backend, name = BORDERS[goal]
    row = row_for(goal, backend)
    try:
        row.require()
    except ImportError as error:
        pytest.skip(str(error))
    network = optional_network(option)
    spec = ExportSpec(
        name="tiny", version="1.0.0", author="somebody", licence="Apache-2.0", styles=("a", "b"), target=goal,
        backend=backend, precision=Precision.FP32, size=(32, 32),
    )  # fmt: skip
    artifact = row.load()(deployable(network), spec, ExportOptions(folder=tmp_path))
    photo = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32) / 255
    weights = np.array([0.25, 0.75], np.float32)
    with get_runtime(name).load(tmp_path / artifact.file, artifact.io) as session:
        have = session.stylize(photo, weights)
    image, style = torch.tensor(photo).permute(0, 3, 1, 2), torch.tensor(weights)[None]
    with torch.no_grad():
        want = network(image, style).permute(0, 2, 3, 1).numpy()
        setattr(network, option, None)
        without = network(image, style).permute(0, 2, 3, 1).numpy()
    step = 1 / 255 if goal is Target.COREML else 0  # an 8-bit picture comes out
    assert np.abs(have - want).max() <= 1e-4 + step
    assert np.abs(without - want).max() > 0.02
    if row.one_delegate:
        assert artifact.delegation is not None
        assert len(artifact.delegation.delegates) == 1
        assert artifact.delegation.operators_outside == ()


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.norm, self.after = nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.after(self.norm(self.before(image)))


def test_an_instance_norm_is_seen_to_leave_the_delegate(build_case: Callable[..., Any], tmp_path: Path) -> None:
    """The reason for which ``converters.graph.export_obstacle`` refuses generators that have them."""
    pytest.importorskip("executorch", reason="needs the extra export")
    from converters.to_executorch import lower, read_delegation

    case = build_case(_Normed())
    path = tmp_path / "split.pte"
    path.write_bytes(lower(case.module, case.inputs))
    delegation = read_delegation(path)
    assert len(delegation.delegates) > 1
    assert delegation.operators_outside
