"""Contact sheets: every picture is where its labels say."""

from __future__ import annotations

import numpy as np
import pytest

import sdk
from sdk.errors import UsageError
from sdk.sheet import contact_sheet, stylized_sheet

RED, GREEN, BLUE, OLIVE = (220, 30, 40), (20, 200, 60), (30, 50, 210), (110, 110, 20)


def flat(colour, height=40, width=40) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def boxes(sheet, colour) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what has that colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_pictures_lie_in_their_rows_and_columns():
    sheet = contact_sheet([[flat(RED), flat(GREEN)], [flat(BLUE), flat(OLIVE)]], columns=["a", "b"], cell=64)
    red, green, blue, olive = (boxes(sheet, c) for c in (RED, GREEN, BLUE, OLIVE))
    assert red[:2] == green[:2]
    assert blue[:2] == olive[:2]
    assert red[2:] == blue[2:]
    assert green[2:] == olive[2:]
    assert red[1] < blue[0]
    assert red[3] < green[2]
    for box in (red, green, blue, olive):
        assert (box[1] - box[0], box[3] - box[2]) == (64, 64)


def test_aspect_is_kept_and_a_row_is_as_high_as_its_highest_picture():
    sheet = contact_sheet([[flat(RED, 20, 40), flat(GREEN, 10, 40)]], columns=["a", "b"], cell=64)
    red, green = boxes(sheet, RED), boxes(sheet, GREEN)
    assert (red[1] - red[0], red[3] - red[2]) == (32, 64)
    assert (green[1] - green[0], green[3] - green[2]) == (16, 64)
    assert green[0] - red[0] == 8, "centred in the row"


def test_labels_and_title_take_room_and_leave_ink():
    bare = contact_sheet([[flat(RED)]], columns=[""], cell=64)
    labelled = contact_sheet([[flat(RED)]], columns=["comic"], rows=["photo.jpg"], title="Toy", cell=64)
    assert labelled.height > bare.height + 20
    above = np.asarray(labelled)[: boxes(labelled, RED)[0]]
    below = np.asarray(labelled)[boxes(labelled, RED)[1] :]
    assert (above.min(axis=2) < 128).sum() > 20
    assert (below.min(axis=2) < 128).sum() > 20
    assert (np.asarray(bare)[: boxes(bare, RED)[0]] == 255).all()


def test_long_labels_are_cut_at_their_cell():
    sheet = contact_sheet([[flat(RED), flat(GREEN)]], columns=["x" * 200, ""], cell=64)
    ink = np.asarray(sheet)[: boxes(sheet, RED)[0]].min(axis=2) < 128
    assert ink[:, :70].any()
    assert not ink[:, 72:].any()


@pytest.mark.parametrize(
    ("pictures", "options", "words"),
    [
        ([], {"columns": ["a"]}, "at least one"),
        ([[flat(RED)]], {"columns": []}, "at least one"),
        ([[flat(RED)], []], {"columns": ["a"]}, "every row"),
        ([[flat(RED)]], {"columns": ["a"], "rows": ["1", "2"]}, "row labels"),
        ([[flat(RED)]], {"columns": ["a"], "cell": 4}, "too small"),
    ],
)
def test_what_does_not_make_a_grid_is_refused(pictures, options, words):
    with pytest.raises(UsageError, match=words):
        contact_sheet(pictures, **options)


def test_a_sheet_of_a_bundle_shows_the_photo_and_every_style(toy_bundle):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    drawn = []
    photos = [flat((250, 130, 40), 32, 48), flat((10, 60, 200), 32, 48)]
    cartoonist = sdk.load(toy_bundle.folder)
    assert stylized_sheet(cartoonist, photos, cell=48, progress=lambda: drawn.append(1)).width > 4 * 48
    assert len(drawn) == 6
    sheet = stylized_sheet(cartoonist, photos, styles=["anime", "comic"], cell=48)
    for photo in photos:
        r, g, b = (int(v) for v in photo[0, 0])
        photo_box, comic_box = boxes(sheet, (r, g, b)), boxes(sheet, (255 - r, 255 - g, 255 - b))
        anime_box = boxes(sheet, (r, 0, 255))
        assert photo_box[3] < anime_box[2] < anime_box[3] < comic_box[2], "photo, then the styles in the order asked"


def test_an_unknown_style_is_refused_before_anything_is_drawn(toy_bundle):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    drawn = []
    with pytest.raises(UsageError, match="did you mean 'comic'"):
        stylized_sheet(
            sdk.load(toy_bundle.folder), [flat(RED)], styles=["pencil", "comik"], progress=lambda: drawn.append(1)
        )
    assert drawn == []
