"""What a converter is asked for: names, metadata, and int8 without photos."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.calibration import CalibrationSet
from converters.request import ExportOptions, ExportSpec
from sdk.errors import UsageError
from sdk.spec import Backend, Precision, Target


def _spec(style: str | None) -> ExportSpec:
    return ExportSpec(
        name="toonedge",
        version="1.2",
        author="somebody",
        licence="Apache-2.0",
        styles=("comic", "pencil"),
        target=Target.TFLITE,
        backend=Backend.LITERT,
        precision=Precision.INT8,
        size=(256, 192),
        style=style,
    )


def test_file_names_state_size_style_backend_and_precision() -> None:
    assert _spec(None).file_name("tflite") == "toonedge_256x192_multi_litert_int8.tflite"
    assert _spec("pencil").file_name("tflite") == "toonedge_256x192_pencil_litert_int8.tflite"


def test_description_holds_strings_only() -> None:
    described = _spec("pencil").description()
    assert described["styles"] == "comic,pencil"
    assert described["style"] == "pencil"
    assert _spec(None).description()["style"] == ""
    assert all(isinstance(value, str) for value in described.values())


def test_int8_without_photos_is_refused_and_with_them_is_not(calibration: CalibrationSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 for tflite needs calibration photos"):
        ExportOptions(folder=tmp_path).calibration_for(_spec(None))
    assert ExportOptions(folder=tmp_path, calibration=calibration).calibration_for(_spec(None)) is calibration
