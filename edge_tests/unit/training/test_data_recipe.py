"""A recipe's data: everything wrong with it at once, in sentences; what it opens; how fast that loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from sdk.errors import UsageError
from training.data import throughput
from training.data.recipe import UnpairedRecipe, checks
from training.data.throughput import Throughput, describe, measure
from training.data.unpaired import open_unpaired


@pytest.fixture
def folders(tmp_path: Path, made_photo: Callable[..., np.ndarray]) -> Path:
    """``photos/{train,val}`` of 4 and 2 pictures, one of them broken, and ``pictures`` of 3."""
    for name, count in (("photos/train", 4), ("photos/val", 2), ("pictures", 3)):
        (tmp_path / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(made_photo(40, 56, index)).save(tmp_path / name / f"{index}.png")
    (tmp_path / "photos" / "train" / "broken.jpg").write_text("no picture")
    return tmp_path


def recipe(folders: Path, **changes: object) -> UnpairedRecipe:
    keys: dict[str, object] = {
        "photos": str(folders / "photos"),
        "pictures": str(folders / "pictures"),
        "resize": 40,
        "crop": 32,
        "cache": str(folders / "cache"),
        "cache_mb": 1,
    }
    return UnpairedRecipe(**keys | changes)  # type: ignore[arg-type]


def test_a_good_recipe_has_no_faults(folders: Path) -> None:
    assert checks(recipe(folders, conditions=("canny", "lab"))) == []


def test_all_faults_come_at_once(folders: Path) -> None:
    (folders / "empty").mkdir()
    bad = recipe(
        folders,
        photos=str(folders / "nowhere"),
        pictures=str(folders / "empty"),
        crop=48,
        conditions=("cany", "lab", "lab"),
        segmentation=str(folders / "none.tflite"),
    )
    faults = checks(bad)
    wanted = (
        "data.crop: 48 is larger than the pictures, which are scaled to a short side of 40 px; give a crop of at most",
        "data.conditions: 'lab' is named twice",
        "data.conditions: unknown condition 'cany': did you mean 'canny'?",
        "data.segmentation: segmentation model",
        f"data.photos: photo folder {folders / 'nowhere'} does not exist",
        f"data.pictures: style folder {folders / 'empty'} holds no picture",
    )
    assert len(faults) == len(wanted)
    for fault, words in zip(faults, wanted, strict=True):
        assert fault.startswith(words)
    with pytest.raises(UsageError, match="6 mistakes") as raised:
        open_unpaired(bad)
    assert all(fault in str(raised.value) for fault in faults)


def test_pictures_that_are_all_too_small_are_a_fault(folders: Path) -> None:
    faults = checks(recipe(folders, resize=64, crop=64))
    assert [fault.split(":")[0] for fault in faults] == ["data.photos", "data.pictures"]
    assert "too small for crops of 64 px: the largest is 56 x 40 px" in faults[0]
    assert checks(recipe(folders, resize=64, crop=64, enlarge=1.6)) == []
    Image.new("RGB", (70, 70)).save(folders / "pictures" / "large.png")
    assert len(checks(recipe(folders, resize=64, crop=64))) == 1  # one is enough: the others are skipped by name


def test_a_split_that_is_not_there_is_a_fault(folders: Path) -> None:
    faults = checks(recipe(folders, split="training"))
    assert faults == [
        f"data.photos: photo folder {folders / 'photos'} has no split 'training': choose from train, val."
    ]


def faces_of(folders: Path, *names: str) -> str:
    """A list in which the first photo has a face and the others have none."""
    first, *others = (f"photos/train/{name}" for name in names)
    rows = ["file,person,x,y,width,height,score", f"{first},,0.2,0.2,0.5,0.5,1", *(f"{name},,,,,," for name in others)]
    (folders / "faces.csv").write_text("\n".join(rows) + "\n")
    return str(folders / "faces.csv")


def test_a_list_of_faces_is_carried_to_the_photos_it_is_of(folders: Path) -> None:
    known = faces_of(folders, "0.png", "1.png", "2.png", "3.png", "broken.jpg")
    made = recipe(folders, faces=known, zoom=0.9, light=0.5)
    assert checks(made) == []
    data = open_unpaired(made)
    assert data.train.parts == ("photo", "picture", "smoothed", "faces")
    assert data.val is not None
    assert data.val.parts == ("photo", "picture")
    assert (data.train.light, data.val.light) == (0.5, 0.0)  # a validation judges photos as they are
    assert data.train.faces is not None
    assert [len(faces) for faces in data.train.faces] == [1, 0, 0, 0]
    assert sorted(int(data.train[number][-1].max()) for number in range(4)) == [0, 0, 0, 255]


def test_a_list_of_faces_that_does_not_fit_is_a_fault_among_others(folders: Path) -> None:
    short = checks(recipe(folders, faces=faces_of(folders, "0.png", "1.png", "3.png"), crop=48))
    assert [fault.split(":")[0] for fault in short] == ["data.crop", "data.faces"]
    assert "does not know 2 of 5 photos (first: 2.png)" in short[1]
    missing = checks(recipe(folders, faces=str(folders / "none.csv"), photos=str(folders / "nowhere")))
    assert [fault.split(":")[0] for fault in missing] == ["data.photos", "data.faces"]
    assert "none.csv does not exist: write one with" in missing[1]


def test_a_mask_without_a_model_is_a_fault(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.conditions._PACKAGED_MODEL", Path("nothing"))
    faults = checks(recipe(folders, conditions=("selfie",)), prefix="")
    assert len(faults) == 1
    assert faults[0].startswith("segmentation: a mask needs a segmentation model")


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": 40},
        {"batch": 0},
        {"cache_mb": -1},
        {"workers": -1},
        {"enlarge": 0.5},
        {"flipp": True},
        {"zoom": 0},
        {"zoom": 1.1},
        {"light": -0.1},
        {"light": 3},
    ],
)
def test_keys_and_ranges_are_checked(folders: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        recipe(folders, **changes)


def test_a_recipe_is_made_of_plain_yaml_values() -> None:
    plain = {"photos": "a", "pictures": "b", "conditions": ["canny"], "batch": 4}
    made = TypeAdapter(UnpairedRecipe).validate_python(plain)
    assert made == UnpairedRecipe(photos="a", pictures="b", conditions=("canny",), batch=4)
    assert (made.resize, made.crop, made.flip) == (256, 224, True)
    dumped = TypeAdapter(UnpairedRecipe).dump_python(made, mode="json")
    assert json.loads(json.dumps(dumped)) == dumped


def test_what_is_opened_is_what_the_recipe_says(folders: Path) -> None:
    data = open_unpaired(recipe(folders, conditions=("canny",)), seed=3)
    assert len(data.train) == 4
    assert data.train.parts == ("photo", "picture", "smoothed", "canny")
    assert data.val is not None
    assert data.val.parts == ("photo", "picture", "canny")
    assert len(data.val) == 2
    photo = data.val[0][0].numpy().transpose(1, 2, 0)
    middles = [data.val.photos.read(index)[4:36, 12:44] for index in range(2)]
    assert any(np.array_equal(photo, middle) for middle in middles)
    assert [item.path.name for item in data.skipped] == ["broken.jpg"]
    assert any("holds 3 pictures, fewer than 500" in line for line in data.notes)
    assert any(line.startswith("1 of 5 pictures could not be read: broken.jpg is not an image") for line in data.notes)


def test_without_a_validation_split_there_is_none(folders: Path) -> None:
    assert open_unpaired(recipe(folders, photos=str(folders / "pictures"))).val is None
    assert open_unpaired(recipe(folders, val_split="test")).val is None


# -------------------------------------------------------------------------------------------------------- throughput


def test_the_share_and_the_waiting_by_hand() -> None:
    made = {"samples": 100, "seconds": 20.0, "batch": 4, "peak_rss_bytes": (1,)}
    alone, beside = Throughput(workers=0, **made), Throughput(workers=2, **made)  # type: ignore[arg-type]
    assert alone.samples_per_second == 5
    assert alone.batch_seconds == pytest.approx(0.8)
    assert alone.share(2.0) == pytest.approx(0.4)
    assert alone.waiting(2.0) == pytest.approx(0.8 / 2.8)
    assert beside.waiting(2.0) == 0
    assert beside.waiting(0.2) == pytest.approx(0.6 / 0.8)


def test_measuring_counts_the_batches_asked_for(folders: Path) -> None:
    data = open_unpaired(recipe(folders))
    measured = measure(data, batch=3, workers=0, batches=4)
    assert measured.samples == 12
    assert 0 < measured.seconds < 10
    assert len(measured.peak_rss_bytes) == 1
    lines = describe(measured, data, step_seconds=0.5)
    assert lines[0] == "kept at 40 px: 4 of 4 photos, 3 of 3 pictures"
    assert f"{measured.samples_per_second:.1f} samples/s" in lines[1]
    assert f"{measured.share(0.5):.1%}" in lines[2]


def test_the_command_prints_speed_share_and_memory(folders: Path) -> None:
    asked = ["--photos", folders / "photos", "--pictures", folders / "pictures", "--resize", 40, "--crop", 32]
    asked += [
        "--batches",
        2,
        "--batch",
        2,
        "--cache",
        folders / "cache",
        "--step-seconds",
        0.5,
        "--conditions",
        "canny",
    ]
    result = CliRunner().invoke(throughput.app, [str(word) for word in asked])
    assert result.exit_code == 0
    assert "samples/s (photo, picture, smoothed, canny)" in result.output
    assert "of a step of 0.5 s" in result.output
    assert "peak memory:" in result.output
    assert "broken.jpg" in result.output


def test_the_commands_mistakes_are_sentences(folders: Path) -> None:
    asked = ["--photos", str(folders / "photos"), "--pictures", str(folders / "pictures"), "--crop", "50"]
    failed = CliRunner().invoke(throughput.app, asked)
    assert isinstance(failed.exception, UsageError)
    assert "crop is 50" in str(failed.exception)


@pytest.mark.slow  # the worker process imports PyTorch
def test_loader_processes_are_measured_too(folders: Path) -> None:
    measured = measure(open_unpaired(recipe(folders)), batch=2, workers=1, batches=3)
    assert measured.samples == 6
    assert len(measured.peak_rss_bytes) == 2
    assert all(peak > 10**7 for peak in measured.peak_rss_bytes)
