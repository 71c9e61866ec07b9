"""The study of int8: every way is tried, and each is measured for what it is."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("executorch", reason="needs the extra export")

from converters import ablation
from converters.graph import deployable


def test_every_way_is_measured_and_a_spoilt_one_shows(network, calibration, pictures, monkeypatch) -> None:
    def spoilt(graph, calibration):
        class Dark(type(graph)):
            def forward(self, image, style):
                return 0.5 * super().forward(image, style)

        made = deployable(network)
        made.__class__ = Dark
        return made

    ways = {name: ablation.WAYS[name] for name in ("ranges after the activation, min-max",)}
    monkeypatch.setattr(ablation, "WAYS", {**ways, "spoilt": spoilt, "float": lambda graph, calibration: graph})
    photos = pictures[:2].astype(np.float32) / 255
    rows = {row.name: row for row in ablation.compare_ways(deployable(network), calibration, photos)}
    assert list(rows) == [*ways, "spoilt", "float"]
    assert (rows["float"].mean, rows["float"].worst) == (1.0, 1.0)
    for name in ways:
        assert rows["spoilt"].mean < rows[name].worst <= rows[name].mean < 1
