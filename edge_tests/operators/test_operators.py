"""House rule 7: only operators that stay in one delegate on every target enter the deployed graph. Shown here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.nn import functional as F

from sdk.spec import Precision

pytestmark = pytest.mark.export

#: Largest error in int8, in steps of the result's own grid. Every rounding on the way adds up to half a step of its own
#: tensor's grid; the style's affine has five (convolution, scale, product, shift, sum), some on wider grids.
INT8_STEPS = 6


def test_operator_stays_in_one_delegate_and_keeps_its_values(
    case: Any, run: Callable[..., Any], precision: Precision
) -> None:
    have, delegation = run(case, precision)
    want = case.wanted
    assert len(delegation.delegates) == 1
    assert delegation.operators_outside == ()
    assert have.shape == want.shape
    allowed = 1e-4 if precision is Precision.FP32 else INT8_STEPS * (want.max() - want.min()) / 255
    assert np.abs(have - want).max() <= allowed


class _Nearest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, image: Any) -> Any:
        return self.after(F.interpolate(self.before(image), scale_factor=2.0, mode="nearest"))


def test_nearest_upsampling_is_seen_to_split_an_executorch_graph(build_case: Callable[..., Any], tmp_path: Any) -> None:
    from converters.to_executorch import lower, read_delegation

    case = build_case(_Nearest())
    path = tmp_path / "split.pte"
    path.write_bytes(lower(case.module, case.inputs))
    delegation = read_delegation(path)
    assert len(delegation.delegates) == 2
    assert any("upsample_nearest2d" in name for name in delegation.operators_outside)


def test_an_operator_xnnpack_does_not_know_is_seen_outside_a_tflite_partition(
    build_case: Callable[..., Any], tmp_path: Any
) -> None:
    from converters.tflite_model import read_delegation
    from converters.to_tflite import convert

    # litert-torch writes a clamp as RELU_0_TO_1: the reason why the converter replaces it.
    case = build_case(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Hardtanh(0.0, 1.0), nn.Conv2d(8, 4, 1)))
    path = tmp_path / "split.tflite"
    path.write_bytes(convert(case.module, case.inputs))
    delegation = read_delegation(path)
    assert delegation.operators_outside == ("RELU_0_TO_1",)
    assert len(delegation.delegates) == 2
