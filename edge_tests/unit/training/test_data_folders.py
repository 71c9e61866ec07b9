"""Folders as people have them: COCO, CelebA, any tree; what is missing is named, few pictures are warned about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sdk.errors import UsageError
from training.data.folders import (
    FEW_PICTURES,
    Layout,
    Skipped,
    open_celeba,
    open_photos,
    open_pictures,
    skipped_summary,
)


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


def names(files: tuple[Path, ...], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def annotate(root: Path, name: str, *files: str) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    images = [{"id": number, "file_name": file} for number, file in enumerate(files)]
    (root / "annotations" / name).write_text(json.dumps({"images": images, "annotations": []}))


def test_coco_annotations_choose_the_pictures_of_their_split(tmp_path: Path) -> None:
    put(tmp_path, "train2017/1.jpg", "train2017/2.jpg", "train2017/3.jpg", "val2017/1.jpg", "test2017/9.jpg")
    annotate(tmp_path, "instances_train2017.json", "2.jpg", "1.jpg", "7.jpg")
    annotate(tmp_path, "captions_val2017.json", "1.jpg")  # not looked at: there are instances
    folder = open_photos(tmp_path)
    assert folder.layout is Layout.COCO
    assert names(folder.split("train"), tmp_path) == ["train2017/1.jpg", "train2017/2.jpg"]
    assert names(folder.split("val"), tmp_path) == ["val2017/1.jpg"]
    assert names(folder.split("test"), tmp_path) == ["test2017/9.jpg"]
    assert len(folder.files) == 4
    assert [item.path.name for item in folder.skipped] == ["7.jpg"]
    assert "instances_train2017.json" in folder.skipped[0].reason
    assert len(folder.warnings) == 1
    assert folder.warnings[0].endswith("left out because no annotation file names them: 1.")


def test_a_name_of_two_splits_is_that_of_the_annotations_own_folder(tmp_path: Path) -> None:
    put(tmp_path, "images/train2017/1.jpg", "images/val2017/1.jpg")
    annotate(tmp_path, "instances_val2017.json", "1.jpg")
    folder = open_photos(tmp_path)
    assert names(folder.split("val"), tmp_path) == ["images/val2017/1.jpg"]
    assert names(folder.split("train"), tmp_path) == ["images/train2017/1.jpg"]


def test_coco_without_annotations_has_the_folders_splits(tmp_path: Path) -> None:
    put(tmp_path, "train2014/a.jpg", "val2014/b.jpg")
    folder = open_photos(tmp_path)
    assert folder.layout is Layout.COCO
    assert {name: names(files, tmp_path) for name, files in folder.splits.items()} == {
        "train": ["train2014/a.jpg"],
        "val": ["val2014/b.jpg"],
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [("{not json", "is not JSON"), ('{"pictures": []}', "no `images`"), ('{"images": [{"id": 1}]}', "no `images`")],
)
def test_an_annotation_file_that_is_none_is_named(tmp_path: Path, content: str, words: str) -> None:
    put(tmp_path, "train2017/1.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(UsageError, match=rf"instances_train2017\.json.*{words}"):
        open_photos(tmp_path)


def test_annotations_without_their_pictures_say_what_to_do(tmp_path: Path) -> None:
    put(tmp_path, "train2017/1.jpg")
    annotate(tmp_path, "instances_train2017.json", "8.jpg", "9.jpg")
    with pytest.raises(UsageError, match="none of the 2 pictures its annotations name"):
        open_photos(tmp_path)


def test_celeba_is_split_by_its_list(tmp_path: Path) -> None:
    put(tmp_path, *(f"img_align_celeba/00000{n}.jpg" for n in range(1, 6)))
    (tmp_path / "list_eval_partition.txt").write_text(
        "000001.jpg 0\n000002.jpg 2\n000003.jpg 1\n000004.jpg 0\n000099.jpg 0\n"
    )
    folder = open_photos(tmp_path)
    assert folder.layout is Layout.CELEBA
    root = tmp_path / "img_align_celeba"
    assert names(folder.split("train"), root) == ["000001.jpg", "000004.jpg"]
    assert names(folder.split("val"), root) == ["000003.jpg"]
    assert names(folder.split("test"), root) == ["000002.jpg"]
    assert [item.path.name for item in folder.skipped] == ["000099.jpg"]
    assert [line.split("that are ")[1] for line in folder.warnings] == [
        "left out because list_eval_partition.txt does not name them: 1."
    ]
    assert open_photos(root) == folder


def test_celeba_takes_kaggles_list_and_none(tmp_path: Path) -> None:
    put(tmp_path, "img_align_celeba/img_align_celeba/1.jpg", "img_align_celeba/img_align_celeba/2.jpg")
    assert open_photos(tmp_path).splits == {}
    assert len(open_photos(tmp_path).split("train")) == 2
    (tmp_path / "list_eval_partition.csv").write_text("image_id,partition\n1.jpg,1\n2.jpg,0\n")
    assert [file.name for file in open_photos(tmp_path).split("val")] == ["1.jpg"]


def test_a_line_of_the_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    put(tmp_path, "img_align_celeba/1.jpg")
    (tmp_path / "list_eval_partition.txt").write_text("1.jpg 0\n2.jpg 7\n")
    with pytest.raises(UsageError, match=r"line 2 is '2\.jpg 7'"):
        open_celeba(tmp_path)


def test_any_tree_is_split_by_folders_called_so(tmp_path: Path) -> None:
    put(tmp_path, "train/people/a.jpg", "validation/b.png", "train/.hidden.jpg", "readme/c.jpg")
    folder = open_photos(tmp_path)
    assert folder.layout is Layout.FOLDER
    assert names(folder.split("train"), tmp_path) == ["train/people/a.jpg"]
    assert names(folder.split("val"), tmp_path) == ["validation/b.png"]
    assert len(folder.files) == 3
    with pytest.raises(UsageError, match="no split 'test': choose from train, val"):
        folder.split("test")


def test_a_small_style_folder_is_warned_about_with_the_count(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "train/2.png")
    folder = open_pictures(tmp_path)
    assert len(folder.files) == 2
    assert folder.splits == {}
    assert len(folder.warnings) == 1
    assert "holds 2 pictures, fewer than 500" in folder.warnings[0]
    for number in range(FEW_PICTURES - 3):
        (tmp_path / f"{number}.jpg").touch()
    assert "holds 499 pictures" in open_pictures(tmp_path).warnings[0]
    (tmp_path / "last.jpg").touch()
    assert open_pictures(tmp_path).warnings == ()


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    for open_it, kind in ((open_pictures, "style folder"), (open_photos, "photo folder")):
        with pytest.raises(UsageError, match=f"{kind} {tmp_path} holds no picture"):
            open_it(tmp_path)
        with pytest.raises(UsageError, match=f"{kind} .*nowhere does not exist"):
            open_it(tmp_path / "nowhere")


def test_skipped_files_are_counted_and_the_first_named() -> None:
    skipped = [Skipped(path=Path(f"x/{n}.jpg"), reason="has zero bytes.") for n in range(12)]
    assert skipped_summary(skipped[:2], 512) == (
        "2 of 512 pictures could not be read: 0.jpg has zero bytes; 1.jpg has zero bytes."
    )
    assert skipped_summary(skipped, 512).endswith("9.jpg has zero bytes; and 2 more.")
