"""Losses in faces and on skin: worked by hand."""

from __future__ import annotations

import pytest
import torch

from training.colour import rgb_to_lab
from training.likeness import (
    FACE_LOSSES,
    View,
    bare_skin,
    body_marks,
    face_features,
    face_tone,
    heads,
    skin,
    skin_marks,
    skin_steps,
    skin_tone,
)
from training.tasks.stylelosses import StyleLosses, StyleLossRecipe


def grey(level: float) -> torch.Tensor:
    return torch.full((1, 3, 48, 48), level)


def box() -> torch.Tensor:
    """A face of 16 x 16 px in the middle of a head of 24 x 24, and a body of 38 x 28 around the head."""
    mask = torch.zeros(1, 3, 48, 48)
    mask[:, 0, 16:32, 16:32] = 1.0
    mask[:, 1, 12:36, 12:36] = 1.0
    mask[:, 2, 10:48, 10:38] = 1.0
    return mask


def colour(*rgb: int) -> torch.Tensor:
    """One colour, of 255, all over."""
    return (torch.tensor(rgb).float() / 255.0).view(1, 3, 1, 1).expand(1, 3, 48, 48).clone()


#: Light and dark skin (Fitzpatrick I and VI by their usual swatches), and what is none.
LIGHT, DARK = (244, 208, 177), (96, 65, 52)
OTHERS = {"grey": (128, 128, 128), "sky": (120, 170, 230), "leaf": (80, 140, 60), "paint": (230, 60, 0)}


def test_the_tone_is_held_by_the_mean_of_the_box_alone() -> None:
    # L of sRGB 0.5 is 53.39 and of 0.8 is 82.05; a and b of greys are 0.
    wanted = 256 * (82.046 - 53.389) / 100 / (3 * 256 + 50)
    assert float(face_tone(View(grey(0.8), grey(0.5), box()))) == pytest.approx(wanted, rel=1e-3)
    elsewhere = grey(0.5)
    elsewhere[..., :11, :] = 0.9  # more than 4 px away from the box
    assert float(face_tone(View(elsewhere, grey(0.5), box()))) == pytest.approx(0.0, abs=1e-6)
    checker = grey(0.5)
    checker[..., ::2] += 0.05
    checker[..., 1::2] -= 0.05
    even = grey(0.55)
    assert float(face_tone(View(checker, grey(0.5), box()))) < 0.2 * float(face_tone(View(even, grey(0.5), box())))


def test_a_feature_of_the_photo_must_stay_and_its_brightness_may_change() -> None:
    photo = grey(0.5)
    photo[..., 24, 24] = 0.0
    # One of 225 px lies 0.5 (1 - 1 / 225) below their mean; all others 0.5 / 225 above it, which is too faint.
    wanted = 0.5 * (1 - 1 / 225) / (1 + 50)
    assert float(face_features(View(grey(0.5), photo, box()))) == pytest.approx(wanted, rel=1e-4)
    assert float(face_features(View(photo + 0.3, photo, box()))) == pytest.approx(0.0, abs=1e-6)
    assert float(face_features(View(photo, grey(0.5), box()))) == pytest.approx(0.0, abs=1e-6)  # a new mark is free
    faint = grey(0.5)
    faint[..., 24, 24] = 0.45  # 0.05 (1 - 1 / 225) below the mean: a weight of (that - 0.03) / 0.05
    depth = 0.05 * (1 - 1 / 225)
    weight = (depth - 0.03) / 0.05
    assert float(face_features(View(grey(0.5), faint, box()))) == pytest.approx(
        weight * depth / (weight + 50), rel=1e-3
    )


def test_light_and_dark_skin_count_alike_and_other_colours_do_not() -> None:
    light, dark = (float(skin(colour(*rgb)).mean()) for rgb in (LIGHT, DARK))
    assert min(light, dark) > 0.5  # more than half, whether pale or dark
    for name, rgb in OTHERS.items():
        assert float(skin(colour(*rgb)).max()) < 0.1, name


def test_the_tone_of_skin_is_held_in_the_whole_head_and_of_what_is_no_skin_nowhere() -> None:
    photo = colour(*LIGHT)
    output = photo.clone()
    output[..., 12:16, 12:36] -= 0.1  # a forehead: above the face's own box
    assert float(face_tone(View(output[..., :12], photo[..., :12], box()[..., :12]))) == 0.0
    weight = float(skin(photo)[0, 0, 24, 24])
    even = photo - 0.05
    difference = (rgb_to_lab(even) - rgb_to_lab(photo))[0, :, 24, 24].abs().sum()
    wanted = weight * 24**2 * float(difference) / 100 / (3 * weight * 24**2 + 50)
    assert float(skin_tone(View(even, photo, box()))) == pytest.approx(wanted, rel=1e-3)
    assert float(skin_tone(View(output, photo, box()))) > 0.0
    assert float(skin_tone(View(colour(0, 0, 0), colour(120, 170, 230), box()))) < 1e-3


@pytest.mark.parametrize("rgb", [LIGHT, DARK])
def test_a_new_mark_on_skin_costs_and_one_that_goes_is_free(rgb: tuple[int, int, int]) -> None:
    photo = colour(*rgb)
    marked = photo.clone()
    marked[..., 24, 24] = 0.0
    step = (rgb_to_lab(marked) - rgb_to_lab(photo))[0, :, 24, 24].abs()
    weight = float(skin(photo)[0, 0, 24, 24])
    # The pixel lies step (1 - 1 / 225) off the mean of its window, each of the 224 that see it step / 225.
    wanted = weight * float(step.sum()) * 2 * (1 - 1 / 225) / 100 / (3 * weight * 24**2 + 50)
    assert float(skin_marks(View(marked, photo, box()))) == pytest.approx(wanted, rel=2e-3)
    assert float(skin_marks(View(photo, marked, box()))) == pytest.approx(0.0, abs=1e-6)
    assert float(skin_marks(View(photo * 0.9, photo, box()))) == pytest.approx(0.0, abs=1e-6)  # a tone is no mark


@pytest.mark.parametrize("rgb", [LIGHT, DARK])
def test_light_on_skin_gets_no_edge_where_the_photo_has_a_soft_one(rgb: tuple[int, int, int]) -> None:
    lit = (torch.arange(48) >= 24).float()
    photo, edged = colour(*rgb), colour(*rgb) * (1 + 0.1 * lit)
    step = (rgb_to_lab(edged) - rgb_to_lab(photo))[0, :, 24, 40].abs().sum()
    weight = float(skin(photo)[0, 0, 24, 24])
    # 12 x 12 means of 2 x 2 px lie in the head; one step in each of their 12 rows.
    wanted = weight * 12 * float(step) / 100 / (6 * weight * 144 + 50)
    assert float(skin_steps(View(edged, photo, box()))) == pytest.approx(wanted, rel=2e-3)
    assert float(skin_steps(View(photo, edged, box()))) == pytest.approx(0.0, abs=1e-6)  # an edge may go
    assert float(skin_steps(View(photo * 0.9, photo, box()))) < 0.02 * wanted  # a tone is no edge
    soft = colour(*rgb) * (1 + 0.1 * ((torch.arange(48) - 15.0) / 18).clamp(0, 1))
    # The same light, gone over in 18 px: an edge in its place has all but one ninth of it too much.
    assert float(skin_steps(View(edged, soft, box()))) > 0.7 * float(skin_steps(View(edged, photo, box())))


@pytest.mark.parametrize(("rgb", "weight"), [(LIGHT, None), (DARK, None), ((20, 20, 22), 1.0), (OTHERS["grey"], 0.0)])
def test_skin_and_dark_hair_of_heads_are_drawn_as_in_another_picture(
    rgb: tuple[int, int, int], weight: float | None
) -> None:
    photo = colour(*rgb)
    if weight is None:
        weight = float(skin(photo)[0, 0, 24, 24])
    target, output = photo * 0.9, photo * 0.9 + 0.05
    output[:, :, :12] = 0.0  # above the head
    for picture, given in ((target, target), (photo, None)):
        step = (rgb_to_lab(output) - rgb_to_lab(picture))[0, :, 24, 24].abs().sum()
        wanted = weight * 24**2 * float(step) / 100 / (3 * weight * 24**2 + 50)
        assert float(heads(View(output, photo, box(), given))) == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    assert float(heads(View(target, photo, box(), target))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("rgb", [LIGHT, DARK])
def test_bare_skin_is_drawn_as_in_another_picture_wherever_the_body_is(rgb: tuple[int, int, int]) -> None:
    photo = colour(*rgb)
    photo[..., :16] = colour(20, 20, 22)[..., :16]  # dark cloth: free here, dark hair in ``heads``
    target, output = photo * 0.9, photo * 0.9 + 0.05
    output[:, :, :10] = 0.0  # above the body
    weight = float(skin(photo)[0, 0, 24, 30])
    within = weight * 38 * 21 + float(skin(photo)[0, 0, 24, 16]) * 38  # columns 17 to 37, and that between the colours
    step = (rgb_to_lab(output) - rgb_to_lab(target))[0, :, 24, 30].abs().sum()
    wanted = within * float(step) / 100 / (3 * within + 50)
    assert float(bare_skin(View(output, photo, box(), target))) == pytest.approx(wanted, rel=2e-3)
    assert float(bare_skin(View(target, photo, box(), target))) == pytest.approx(0.0, abs=1e-6)
    assert float(bare_skin(View(photo, photo, box()))) == pytest.approx(0.0, abs=1e-6)  # the photo itself by default


def test_clothes_get_no_strokes_that_neither_the_photo_nor_the_other_picture_has() -> None:
    photo, stroked = grey(0.5), grey(0.5)
    stroked[..., 40:42, 20:22] = 0.2  # one mean of 2 x 2, below the head
    depth = float((rgb_to_lab(photo) - rgb_to_lab(stroked))[0, 0, 40, 20])
    # Windows are cut at the picture's border: sums over what is inside of them, by hand as a mean of all of them.
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    near = (((rows - 20).abs() <= 3) & ((columns - 10).abs() <= 3)).float()
    counts = torch.stack([(i + 4).clamp(max=24) - (i - 3).clamp(min=0) for i in (rows, columns)]).prod(0)
    off = near / counts
    off[20, 10] = 1 - off[20, 10]
    inside = off[5:24, 5:19].sum()  # 19 x 14 means lie in the body
    wanted = depth * float(inside) / 100 / (3 * 266 + 50)
    assert float(body_marks(View(stroked, photo, box()))) == pytest.approx(wanted, rel=1e-2)
    assert float(body_marks(View(stroked, stroked, box(), photo))) == pytest.approx(0.0, abs=1e-6)  # the photo's stroke
    assert float(body_marks(View(stroked, photo, box(), stroked))) == pytest.approx(
        0.0, abs=1e-6
    )  # the other picture's
    assert float(body_marks(View(photo, stroked, box()))) == pytest.approx(0.0, abs=1e-6)  # one that goes
    grain, grainy = grey(0.5), grey(0.5)
    grain[..., ::2, ::2] += 0.3  # the mean of 2 x 2 has none of it: it forgives nothing
    grainy[..., ::2, ::2] += 0.3
    grainy[..., 40:42, 20:22] -= 0.3
    assert float(body_marks(View(grainy, grain, box()))) > 0.5 * wanted


@pytest.mark.parametrize("name", FACE_LOSSES)
def test_without_a_face_there_is_no_loss_and_with_one_there_is_a_gradient_inside(name: str) -> None:
    noise = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)) - 0.5
    photo = colour(200, 140, 110) + 0.05 * noise[:1]
    photo[..., 22:26, 22:26] = 0.0  # an eye
    output = (colour(200, 140, 110) + 0.2 * noise[1:]).requires_grad_()
    assert float(FACE_LOSSES[name](View(output, photo, torch.zeros(1, 3, 48, 48))).detach()) == 0.0
    (gradient,) = torch.autograd.grad(FACE_LOSSES[name](View(output, photo, box())), output)
    assert float(gradient[..., 16:32, 16:32].abs().sum()) > 0
    assert float(gradient[..., :4, :].abs().max()) == 0.0


@pytest.mark.parametrize("spare", [0.0, 0.3, 1.0])
def test_skin_of_heads_is_spared_its_share_of_the_pull_and_seen_all_the_same(spare: float) -> None:
    losses = StyleLosses(StyleLossRecipe(faces=1.0, spare=spare))
    losses.distance = lambda drawn: drawn.sum()  # type: ignore[assignment]  # a pull of 1 everywhere
    photo = colour(20, 20, 22)  # dark hair: it counts in full
    output = photo.clone().requires_grad_()
    _, found = losses(output, photo, box())
    assert float(found["kid"].detach()) == pytest.approx(float(photo.sum()), rel=1e-6)
    (pull,) = torch.autograd.grad(found["kid"], output)
    assert torch.allclose(pull, (1.0 - spare * box()[:, 1:2]).expand_as(pull))


def test_sparing_heads_asks_for_a_list_of_faces() -> None:
    (fault,) = StyleLossRecipe(kid=1.0, spare=0.5).face_faults(None)
    assert fault.text.startswith("loss.spare: needs data.faces")
    assert not StyleLossRecipe(kid=1.0, spare=0.5).face_faults("faces.csv")
