"""How pictures are drawn, measured on pictures whose figures are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sdk.errors import UsageError
from training.data import stylestats
from training.data.stylestats import measure, read_pictures


def plain(value: int) -> np.ndarray:
    return np.full((64, 64, 3), value, np.uint8)


def test_a_plain_grey_picture_is_flat_and_has_neither_edges_nor_lines_nor_colour() -> None:
    stats = measure([plain(120)])
    assert stats.luma == (120, 120, 120)
    assert (stats.flat, stats.shaded, stats.edges, stats.lines, stats.saturation) == (1, 0, 0, 0, 0)
    assert (stats.line_width, stats.line_luma) == (0, 0)
    assert set(stats.gradient) == {0}


def test_a_ramp_is_shaded_with_its_own_slope() -> None:
    ramp = np.repeat(np.tile((3 * np.arange(64)).astype(np.uint8), (64, 1))[..., None], 3, axis=2)
    stats = measure([ramp])
    assert (stats.flat, stats.shaded, stats.lines) == (0, 1, 0)
    assert set(stats.gradient) == {3}


@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_drawn_line_has_its_area_its_width_and_its_luma(width: int) -> None:
    picture = plain(200)
    picture[:, 30 : 30 + width] = 20
    stats = measure([picture])
    assert stats.lines == pytest.approx(width / 64)
    assert stats.line_luma == 20
    # 64 x width pixels with 2 * 64 sides along the line and 2 * width at its ends
    assert stats.line_width == pytest.approx(2 * 64 * width / (2 * 64 + 2 * width))
    assert stats.edges > 0


def test_a_dark_area_and_a_bright_line_are_no_ink() -> None:
    area, bright = plain(200), plain(20)
    area[:, 20:50] = 20
    bright[:, 30:32] = 250
    assert measure([area, bright]).lines == 0


def test_figures_are_means_over_pictures_and_a_lines_over_those_that_have_some() -> None:
    inked = plain(200)
    inked[:, 30:33] = 20
    alone, both = measure([inked]), measure([inked, plain(100)])
    assert both.pictures == 2
    assert both.luma[1] == pytest.approx(150)
    assert both.lines == pytest.approx(alone.lines / 2)
    assert (both.line_width, both.line_luma) == (alone.line_width, alone.line_luma)


def test_full_colour_has_saturation_one() -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    assert measure([red]).saturation == pytest.approx(1)


def test_pictures_are_read_from_all_folders_below_as_middle_squares_of_one_size(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    wide = np.zeros((300, 900, 3), np.uint8)
    wide[:, 300:600] = 255
    Image.fromarray(wide).save(tmp_path / "deep" / "wide.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (read,) = read_pictures(tmp_path, 10)
    assert read.shape == (stylestats.SIDE, stylestats.SIDE, 3)
    assert read.min() > 200  # the white middle alone
    for index in range(4):
        Image.fromarray(plain(index)).save(tmp_path / f"{index}.png")
    assert len(read_pictures(tmp_path, 3)) == 3


def test_an_empty_folder_and_a_broken_picture_end_with_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(stylestats.app, ["--pictures", str(tmp_path)], terminal_width=400)
    assert result.exit_code == 2
    assert "holds no PNG, JPEG or WebP pictures" in " ".join(result.output.split())
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(UsageError, match=r"cannot decode .*broken\.png"):
        read_pictures(tmp_path, 5)
    with pytest.raises(UsageError, match="no pictures to measure"):
        measure([])


def test_the_command_prints_a_row_a_folder(tmp_path: Path) -> None:
    for name, value in (("dim", 40), ("pale", 220)):
        (tmp_path / name).mkdir()
        Image.fromarray(plain(value)).save(tmp_path / name / "a.png")
    result = CliRunner().invoke(
        stylestats.app, ["--pictures", str(tmp_path / "dim"), "--pictures", str(tmp_path / "pale")]
    )
    assert result.exit_code == 0
    assert "40/40/40" in result.output
    assert "220/220/220" in result.output
