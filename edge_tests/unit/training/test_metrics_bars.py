"""Bars: the limit itself, a step beyond it, what was not measured, and to which styles each applies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sdk.errors import GateError
from training.metrics.bars import Outcome, bars_table, check_bars, judge
from training.metrics.figures import Appearance, Figures, StyleFigures, table
from training.plots import write_plot

HAND = Appearance(faces=4, detail=0.7, skin=5.0, worst_skin=9.0, darker_shift=3.0, lighter_shift=1.0)
#: A smooth, a superpixel and a learned style that stand exactly at every bar.
SMOOTH = StyleFigures(
    style="comic", smooth=True, ssim=0.851, gap=0.70, psnr_db=25.1, lpips=0.199, fid=49.9, reference_chroma=20.0,
    network=HAND,
)  # fmt: skip
PATCHY = StyleFigures(
    style="mosaic", smooth=False, stlpips=0.04, photo_stlpips=0.1, reference_chroma=20.0, network=HAND
)
LEARNED = StyleFigures(style="clay", smooth=False, taught=False, kid=0.03, photo_kid=0.05, network=HAND)


def figures(*styles: StyleFigures) -> Figures:
    return Figures(name="made", version="1", sha256="00", photos=4, size=256, styles=styles)


def outcomes(style: StyleFigures) -> dict[str, Outcome]:
    return {one.bar: one.outcome for one in judge(figures(style))}


def test_a_style_at_its_bars_passes() -> None:
    judged = judge(figures(SMOOTH, PATCHY, LEARNED))
    assert {one.outcome for one in judged if one.ours} == {Outcome.PASS}
    check_bars(judged)
    assert set(outcomes(LEARNED)) == {
        "KID over the photos' own",
        "detail kept",
        "skin tone, mean",
        "skin tone, worst",
        "darker skin lightened more, L",
    }
    assert {"gap closed", "ST-LPIPS over the photo's"} & set(outcomes(SMOOTH)) == {"gap closed"}
    assert {"gap closed", "ST-LPIPS over the photo's"} & set(outcomes(PATCHY)) == {"ST-LPIPS over the photo's"}


@pytest.mark.parametrize(
    ("style", "change", "bar"),
    [
        (SMOOTH, {"gap": 0.6999}, "gap closed"),
        (SMOOTH, {"gap": float("nan")}, "gap closed"),
        (SMOOTH, {"style": "pencil", "gap": 0.7999}, "gap closed"),
        (PATCHY, {"stlpips": 0.0401}, "ST-LPIPS over the photo's"),
        (LEARNED, {"kid": 0.0301}, "KID over the photos' own"),
        (LEARNED, {"network": dataclasses.replace(HAND, detail=0.699)}, "detail kept"),
        (SMOOTH, {"network": dataclasses.replace(HAND, skin=5.01)}, "skin tone, mean"),
        (SMOOTH, {"network": dataclasses.replace(HAND, worst_skin=9.01)}, "skin tone, worst"),
        (SMOOTH, {"network": dataclasses.replace(HAND, darker_shift=3.1)}, "darker skin lightened more, L"),
        (LEARNED, {"network": dataclasses.replace(HAND, lighter_shift=-9.0)}, "darker skin lightened more, L"),
    ],
)
def test_a_step_beyond_a_bar_fails_it_alone(style: StyleFigures, change: dict[str, Any], bar: str) -> None:
    worse = dataclasses.replace(style, **change)
    assert [name for name, outcome in outcomes(worse).items() if outcome is Outcome.FAIL] == [bar]
    with pytest.raises(GateError, match=f"falls short of 1 bars: {worse.style}: {bar} is"):
        check_bars(judge(figures(worse)))


def test_a_style_that_is_its_limit_by_name_keeps_it() -> None:
    assert outcomes(dataclasses.replace(SMOOTH, style="pencil", gap=0.80))["gap closed"] is Outcome.PASS


@pytest.mark.parametrize(
    ("change", "bar"),
    [({"psnr_db": 25.0}, "PSNR, dB"), ({"ssim": 0.85}, "SSIM"), ({"lpips": 0.2}, "LPIPS"), ({"fid": 50.0}, "FID")],
)
def test_customary_thresholds_are_strict_and_hold_nobody_back(change: dict[str, float], bar: str) -> None:
    assert outcomes(SMOOTH)[bar] is Outcome.MET
    judged = judge(figures(dataclasses.replace(SMOOTH, **change)))
    assert {one.bar for one in judged if one.outcome is Outcome.NOT_MET} == {bar}
    check_bars(judged)


def test_what_was_not_measured_did_not_pass() -> None:
    with pytest.raises(GateError, match="comic: gap closed was not measured; comic: skin tone, mean was not measured"):
        check_bars(judge(figures(StyleFigures(style="comic", smooth=True))))
    # A photo set that is of the style already has no ratio.
    assert outcomes(dataclasses.replace(LEARNED, photo_kid=-0.001))["KID over the photos' own"] is Outcome.UNKNOWN


def test_grey_styles_have_no_skin_tone_and_an_unknown_palette_has() -> None:
    grey = dataclasses.replace(SMOOTH, reference_chroma=3.0, network=dataclasses.replace(HAND, skin=24.0))
    assert not any(name.startswith("skin") for name in outcomes(grey))
    assert outcomes(dataclasses.replace(grey, reference_chroma=None))["skin tone, mean"] is Outcome.FAIL


def test_the_tables_show_values_limits_and_what_is_missing() -> None:
    found = figures(SMOOTH, LEARNED)
    bars = bars_table(judge(found)).splitlines()
    assert bars[1].split() == ["comic", "gap", "closed", "0.700", ">=", "0.7", "pass"]
    assert any(line.split() == ["comic", "PSNR,", "dB", "25.10", ">", "25", "met", "(customary)"] for line in bars)
    rows = table(found).splitlines()
    comic = next(row for row in rows if row.startswith("comic"))
    assert comic.split()[:6] == ["comic", "0.8510", "-", "-", "70.0%", "-"]
    assert not any(row.startswith("clay") for row in rows[: rows.index("")])
    assert any(row.split()[:4] == ["clay", "network", "0.030", "0.60"] for row in rows)


def test_json_says_what_follows_from_the_figures() -> None:
    smooth, learned = json.loads(figures(SMOOTH, LEARNED).to_json())["styles"]
    assert learned["kid_ratio"] == pytest.approx(0.6)
    assert learned["stlpips_ratio"] is None
    assert smooth["network"]["skin_bias"] == 2.0
    assert smooth["teacher"] is None


def test_the_plot_is_the_same_file_for_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    for name, style in (("a", SMOOTH), ("b", SMOOTH), ("c", dataclasses.replace(SMOOTH, gap=0.2))):
        write_plot(figures(style, LEARNED), tmp_path / f"{name}.png")
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again
    assert first != other
