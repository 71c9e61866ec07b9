"""The teachers: distinct, strong, local, stable under noise, fair to every skin, clear about bad input."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="needs the extra train")

from typer.testing import CliRunner  # noqa: E402

from sdk.errors import UsageError  # noqa: E402
from training import filters  # noqa: E402
from training.filters import FILTERS, MARGIN, StyleFilter, render, render_all  # noqa: E402

PHOTOS = Path(__file__).parents[2] / "photos" / "test"
STYLES = list(FILTERS)
LIGHT, DARK = "p002_portrait.jpg", "p009_portrait.jpg"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@functools.cache
def photo(name: str, size: int = 512) -> np.ndarray:
    return filters.read_square(PHOTOS / name, size)


def half(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


@functools.lru_cache(maxsize=16)
def _all_drawn(picture: bytes, height: int) -> dict[str, np.ndarray]:
    return render_all(np.frombuffer(picture, np.uint8).reshape(height, -1, 3), STYLES)


def drawn(style: str, picture: np.ndarray) -> np.ndarray:
    """``render``, with all styles of a picture drawn at once and remembered over the tests."""
    return _all_drawn(picture.tobytes(), picture.shape[0])[style]


def lab(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


@pytest.fixture(scope="module")
def figures() -> filters.StyleFigures:
    return filters.measure([photo(p.name) for p in sorted(PHOTOS.glob("*.jpg"))], STYLES)


# ------------------------------------------------------------------------------------------------------- contract


def test_the_five_styles_are_there_each_under_its_own_name() -> None:
    assert {"comic", "anime", "cel", "pencil", "watercolor"} <= set(FILTERS)
    assert all(name == row.name and row.title and row.description for name, row in FILTERS.items())


@pytest.mark.parametrize("style", STYLES)
def test_a_teacher_has_half_the_photo_size_and_is_8_bit_rgb(style: str) -> None:
    teacher = render(style, photo("coffee_cup.jpg", 160)[:, :96])
    assert teacher.shape == (80, 48, 3)
    assert teacher.dtype == np.uint8


def test_the_same_photo_gives_the_same_bytes_alone_or_together_in_any_order() -> None:
    picture = photo("raccoon.jpg", 192)
    together, reverse = render_all(picture, STYLES), render_all(picture, STYLES[::-1])
    assert list(together) == STYLES
    assert list(reverse) == STYLES[::-1]
    for style in STYLES:
        np.testing.assert_array_equal(together[style], reverse[style])
        np.testing.assert_array_equal(together[style], render(style, picture))


def test_rendering_leaves_the_photo_alone_and_takes_any_memory_layout() -> None:
    picture = photo("raccoon.jpg", 128)
    before = picture.copy()
    mirrored = render_all(picture[:, ::-1], STYLES)
    np.testing.assert_array_equal(picture, before)
    for style, teacher in render_all(np.ascontiguousarray(picture[:, ::-1]), STYLES).items():
        np.testing.assert_array_equal(teacher, mirrored[style])


def test_a_new_style_is_one_function_and_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def negative(layers: filters.Layers) -> np.ndarray:
        return (255 * (1 - np.repeat(layers.flat[0][..., None], 3, -1))).astype(np.uint8)

    monkeypatch.setitem(FILTERS, "negative", StyleFilter("negative", "Negative", "for a test", True, negative))
    assert render("negative", np.full((64, 64, 3), 255, np.uint8)).max() <= 1


def test_an_unknown_style_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'watercolor'"):
        render("watercolour", photo("raccoon.jpg", 64))


@pytest.mark.parametrize(
    ("bad", "seen"),
    [
        (np.zeros((64, 64), np.uint8), r"uint8 of shape \(64, 64\)"),
        (np.zeros((64, 64, 4), np.uint8), r"\(64, 64, 4\)"),
        (np.zeros((64, 64, 3), np.float32), "float32"),
        (np.zeros((64, 63, 3), np.uint8), "63 x 64"),
        (np.zeros((16, 64, 3), np.uint8), "64 x 16"),
        ([[0, 0, 0]], "list"),
    ],
)
def test_an_unusable_photo_gets_one_sentence_that_names_what_was_seen(bad: np.ndarray, seen: str) -> None:
    with pytest.raises(UsageError, match=seen) as caught:
        render("comic", bad)
    assert "\n" not in str(caught.value)
    assert "give" in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- gates


@pytest.mark.slow
def test_every_style_is_strong_distinct_and_stable_on_the_test_photos(figures: filters.StyleFigures) -> None:
    assert figures.photos >= 24
    assert filters.gate_failures(figures) == ()


@pytest.mark.slow
def test_measured_figures_are_symmetric_and_complete(figures: filters.StyleFigures) -> None:
    between = np.array(figures.between)
    assert figures.styles == tuple(STYLES)
    np.testing.assert_array_equal(between, between.T)
    np.testing.assert_array_equal(np.diag(between), 1.0)
    assert "| comic |" in filters.figures_table(figures)


def test_a_weak_style_and_a_copied_style_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def photo_itself(layers: filters.Layers) -> np.ndarray:
        return half(cv2.cvtColor(layers.clean, cv2.COLOR_LAB2RGB))

    monkeypatch.setitem(FILTERS, "weak", StyleFilter("weak", "Weak", "for a test", True, photo_itself))
    monkeypatch.setitem(FILTERS, "copy", dataclasses.replace(FILTERS["comic"], name="copy"))
    failures = filters.gate_failures(filters.measure([photo(DARK, 256)], ["comic", "weak", "copy"]))
    assert any(f.startswith("weak is too weak") for f in failures)
    assert any(f.startswith("comic and copy are too alike") for f in failures)


def test_a_style_that_flips_under_noise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def hard(layers: filters.Layers) -> np.ndarray:
        fine = half(layers._photo[..., 1]).astype(np.float32)
        edges = fine - cv2.GaussianBlur(fine, (0, 0), 1.0)
        return np.repeat(np.where(edges > 0, 255, 0).astype(np.uint8)[..., None], 3, -1)

    monkeypatch.setitem(FILTERS, "hard", StyleFilter("hard", "Hard", "for a test", True, hard))
    failures = filters.gate_failures(filters.measure([photo(DARK, 256)], ["hard"]))
    assert any(f.startswith("hard is unstable") for f in failures)


def test_a_style_that_shows_the_grain_of_a_photo_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def gritty(layers: filters.Layers) -> np.ndarray:
        """Strong local contrast over a bilateral's flat colour: what comic was."""
        lightness, a, b = layers.flat
        local = lightness - cv2.GaussianBlur(lightness, (0, 0), 6.0)
        rgb = cv2.cvtColor(cv2.merge([np.clip(lightness + 1.5 * local, 0, 1) * 100, a, b]), cv2.COLOR_LAB2RGB)
        return np.uint8(np.clip(rgb, 0, 1) * 255)

    monkeypatch.setitem(FILTERS, "gritty", StyleFilter("gritty", "Gritty", "for a test", True, gritty))
    found = filters.measure([photo("raccoon.jpg", 256)], ["gritty", "comic"])
    assert any(f.startswith("gritty draws grain") for f in filters.gate_failures(found))
    assert found.grain[1] == pytest.approx((1 - found.stability[1]) / (1 - found.to_photo[1]))
    assert not any(f.startswith("comic draws grain") for f in filters.gate_failures(found))


def crop_difference(style: str, name: str) -> int:
    """Largest difference (of 255) between the crop of the teacher and the teacher of the crop, ``MARGIN`` inside."""
    whole = photo(name, 384)
    y, x, n = 66, 38, 256
    inside = np.s_[MARGIN : n // 2 - MARGIN, MARGIN : n // 2 - MARGIN]
    of_whole = render(style, whole)[y // 2 : (y + n) // 2, x // 2 : (x + n) // 2]
    of_crop = render(style, whole[y : y + n, x : x + n])
    return int(np.abs(of_whole[inside].astype(int) - of_crop[inside]).max())


@pytest.mark.parametrize("name", ["stream.jpg", DARK])
@pytest.mark.parametrize("style", [s for s in STYLES if FILTERS[s].smooth])
def test_a_crop_of_the_photo_gives_the_crop_of_the_teacher(style: str, name: str) -> None:
    assert crop_difference(style, name) <= 1


def test_a_style_that_looks_at_the_whole_picture_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def stretched(layers: filters.Layers) -> np.ndarray:
        tone = layers.flat[0] - layers.flat[0].mean()
        return np.repeat(np.clip(255 * (tone + 0.5), 0, 255).astype(np.uint8)[..., None], 3, -1)

    monkeypatch.setitem(FILTERS, "stretched", StyleFilter("stretched", "Stretched", "for a test", True, stretched))
    assert crop_difference("stretched", "stream.jpg") > 1


@pytest.mark.parametrize("style", STYLES)
def test_flat_walls_and_skies_stay_clean_under_sensor_noise(style: str) -> None:
    random = np.random.default_rng(0)
    for colour in ((128, 128, 128), (120, 170, 225), (150, 105, 80), (70, 48, 38)):
        noisy = np.clip(np.array(colour) + random.normal(0, 4, (192, 192, 3)), 0, 255).astype(np.uint8)
        teacher = render(style, noisy)[16:-16, 16:-16].astype(float)
        assert teacher.std((0, 1)).max() <= 3.0, f"{style} draws dirt on a flat {colour}"


# ----------------------------------------------------------------------------------------------------------- faces


def darker(picture: np.ndarray) -> np.ndarray:
    """The same person with deeper skin: lightness times 0.75, hue and chroma kept."""
    colour = lab(picture)
    colour[..., 0] *= 0.75
    return (np.clip(cv2.cvtColor(colour, cv2.COLOR_LAB2RGB), 0, 1) * 255 + 0.5).astype(np.uint8)


def skin_of(picture: np.ndarray) -> np.ndarray:
    """Mask of the face's skin at the working size, found in the photo: middle third, skin hue, away from edges."""
    colour = lab(half(picture))
    hue = np.degrees(np.arctan2(colour[..., 2], colour[..., 1]))
    chroma = np.hypot(colour[..., 1], colour[..., 2])
    mask = (hue > 25) & (hue < 80) & (chroma > 9) & (colour[..., 0] > 12)
    h, w = mask.shape
    mask[: h // 6] = mask[3 * h // 5 :] = False
    mask[:, : w // 3] = mask[:, 2 * w // 3 :] = False
    eroded = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert eroded.sum() > 500
    return eroded


FACES = [
    pytest.param(photo_of, name, id=label)
    for photo_of, name, label in (
        (photo, LIGHT, "light"),
        (photo, DARK, "dark"),
        (photo, "p006_portrait.jpg", "dark-2"),
        (lambda name: darker(photo(name)), DARK, "very-dark"),
    )
]


def tone_curve(style: str, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lightness before and after, of plain cards in the hue of a LAB ``colour``: the style without any neighbours."""
    cards = []
    for lightness in range(4, 100, 4):
        chroma = colour[1:] * min(1.0, lightness / colour[0])
        card = cv2.cvtColor(np.array([[[lightness, *chroma]]], np.float32), cv2.COLOR_LAB2RGB)
        cards.append((np.clip(np.broadcast_to(card, (64, 64, 3)), 0, 1) * 255 + 0.5).astype(np.uint8))
    before = np.array([lab(card)[0, 0, 0] for card in cards])
    return before, np.array([lab(render(style, card))[16, 16, 0] for card in cards])


@pytest.mark.parametrize(("photo_of", "name"), FACES)
@pytest.mark.parametrize("style", STYLES)
def test_skin_is_lightened_no_more_than_the_tone_curve_alone_would(style: str, photo_of, name: str) -> None:
    picture = photo_of(name)
    mask = skin_of(picture)
    before, after = lab(half(picture))[mask], lab(drawn(style, picture))[mask]
    curve = np.interp(before[:, 0], *tone_curve(style, before.mean(0)))
    assert after[:, 0].mean() - curve.mean() <= 3.0
    assert curve.mean() - before[:, 0].mean() <= 20.0


@pytest.mark.parametrize(("photo_of", "name"), FACES)
@pytest.mark.parametrize("style", STYLES)
def test_faces_keep_their_modelling(style: str, photo_of, name: str) -> None:
    picture = photo_of(name)
    mask = skin_of(picture)
    before, after = lab(half(picture))[mask][:, 0], lab(drawn(style, picture))[mask][:, 0]
    assert after.std() >= 0.75 * before.std()
    assert np.corrcoef(before, after)[0, 1] >= 0.7


@pytest.mark.parametrize(("photo_of", "name"), FACES)
@pytest.mark.parametrize("style", [s for s in STYLES if s != "pencil"])
def test_faces_turn_neither_green_nor_red(style: str, photo_of, name: str) -> None:
    picture = photo_of(name)
    mask = skin_of(picture)
    hues = [np.degrees(np.arctan2(*lab(p)[mask].mean(0)[2:0:-1])) for p in (half(picture), drawn(style, picture))]
    assert abs(hues[1] - hues[0]) <= 8.0


@pytest.mark.parametrize("style", STYLES)
def test_dark_skin_stays_darker_than_light_skin(style: str) -> None:
    def lightness(picture: np.ndarray, seen: np.ndarray) -> float:
        return float(lab(seen)[skin_of(picture)][:, 0].mean())

    light, dark = photo(LIGHT), photo(DARK)
    gap = lightness(light, half(light)) - lightness(dark, half(dark))
    assert gap > 2
    assert lightness(light, drawn(style, light)) - lightness(dark, drawn(style, dark)) >= 0.6 * gap


@pytest.mark.parametrize("style", STYLES)
def test_dark_photos_stay_readable(style: str) -> None:
    for name in ("rocket_night.jpg", "dandelions.jpg"):
        picture = photo(name)
        before, after = lab(half(picture))[..., 0], lab(drawn(style, picture))[..., 0]
        assert after.mean() >= 0.85 * before.mean()  # black ink costs some light
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] >= 0.7


# ------------------------------------------------------------------------------------------------- speed and shell


def test_five_styles_of_a_512_photo_cost_at_most_150_ms_of_processor_time_each() -> None:
    picture = photo("stream.jpg")
    spent = []
    for _ in range(3):
        start = time.process_time()
        render_all(picture, STYLES)
        spent.append(time.process_time() - start)
    assert min(spent) / len(STYLES) <= 0.150


def run(*arguments: str):
    import typer

    app = typer.Typer()
    app.command()(filters._main)
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def two_photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("stream.jpg", "raccoon.jpg"):
        (folder / name).write_bytes((PHOTOS / name).read_bytes())
    return folder


def test_the_command_prints_the_table_and_writes_the_sheet(two_photos: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = run(
        "--photos", str(two_photos), "--sheet", str(sheet), "--size", "96", "--style", "comic", "--style", "pencil"
    )
    assert result.exit_code == 0, result.output
    assert "2 photos at 96 x 96" in result.output
    assert "| pencil |" in result.output
    assert cv2.imread(str(sheet)).shape == (2 * 96, 3 * 96, 3)


def test_the_command_fails_with_1_when_a_gate_is_missed(two_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILTERS, "copy", dataclasses.replace(FILTERS["comic"], name="copy"))
    result = run("--photos", str(two_photos), "--size", "64", "--style", "comic", "--style", "copy")
    assert result.exit_code == 1
    assert "too alike" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--style", "comik"], "did you mean 'comic'"),
        (["--photos", "nowhere"], "nowhere"),
        (["--sheet", "sheet.tiff"], "suffix"),
    ],
)
def test_wrong_use_ends_with_2_one_sentence_and_no_file(
    two_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--photos", str(two_photos), *arguments)
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_comic_paints_texture_and_inks_outlines() -> None:
    """Melange (noise of two pixels) gets no strokes, a hard edge beside it keeps its line, a face all of its own."""
    rng = np.random.default_rng(0)
    grain = cv2.resize(rng.normal(0, 60, (128, 128)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC)
    cloth = np.full((256, 256), 150, np.float32)
    cloth[:, 56:] += grain[:, 56:]  # texture
    cloth[:, :28] = 60  # and, apart from it, an outline
    layers = filters.Layers(np.repeat(np.clip(cloth, 0, 255).astype(np.uint8)[..., None], 3, 2))
    inked = np.maximum(layers.fine_ink(0.007, 0.018), layers.bold_ink(0.024, 0.026))
    calm = layers.calm_ink(fine=(0.007, 0.018), bold=(0.024, 0.026))
    inside = np.s_[24:-24, 52:-24]
    assert inked[inside].mean() > 0.2  # what is taken away
    assert calm[inside].mean() < 0.25 * inked[inside].mean()
    line = np.s_[24:-24, 10:18]
    assert calm[line].max(1).min() > 0.9
    face = filters.Layers(photo(DARK))
    assert face.busy[96:160, 96:160].max() < 0.3  # eyes, nose and mouth of the portrait


def test_comic_steps_in_shading_and_not_on_a_wall() -> None:
    """The same range of light, over the whole picture and over a tenth of it: the slow one stays a slow one."""

    def steepest(width: int) -> float:
        ramp = np.clip((np.arange(512) - 256) / width, -0.5, 0.5) * 70 + 140
        picture = np.repeat(np.tile(ramp, (512, 1)).astype(np.uint8)[..., None], 3, 2)
        light = lab(render("comic", picture))[128, 40:-40, 0]
        own = lab(half(picture))[128, 40:-40, 0]
        moving = np.convolve(own, [1, 0, -1], "valid") > 0.05
        slopes = np.convolve(cv2.blur(light[None], (5, 1))[0], [1, 0, -1], "valid")[moving]
        return float(slopes.max() / np.median(slopes))

    assert steepest(460) < 1.6
    assert steepest(60) > 2.0
