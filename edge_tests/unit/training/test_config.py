"""Recipes: all mistakes at once, in words, and what is right arrives as given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.errors import UsageError
from training.config import Anneal, Recipe, load_recipe, make_recipe
from training.models.norm import Statistics

CONFIGS = sorted((Path(__file__).parents[3] / "training" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_right_and_survives_a_round_trip(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.styles
    assert make_recipe(recipe.to_dict()) == recipe


def test_there_is_a_shipped_recipe() -> None:
    assert "distill" in [path.stem for path in CONFIGS]


def test_all_mistakes_come_at_once_and_name_the_nearest_key() -> None:
    with pytest.raises(UsageError) as caught:
        make_recipe(
            {
                "name": "a/b",
                "styles": [],
                "data": {"corp": 160, "batch": 0},
                "optimizer": {"lr": "fast"},
                "generator": {"width": [1, 2, 3, 4], "depths": [1]},
                "rum": {},
            }
        )
    text = str(caught.value)
    for part in ("name:", "styles:", "did you mean 'crop'", "data.batch:", "optimizer.lr:", "'fast'"):
        assert part in text
    for part in ("did you mean 'widths'", "generator.depths", "rum: there is no such key; did you mean 'run'"):
        assert part in text
    assert "8 mistakes" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data__crop": 100}, "data.crop"),
        ({"styles": ["negative", "negative"]}, "named twice"),
        ({"run__anneal": "minutes"}, "needs run.minutes"),
        ({"loss": {"l1": 0, "gradient": 0, "ssim": 0}}, "every weight is 0"),
        ({"generator__encoder": "mobilenetv3_small_10"}, "did you mean 'mobilenetv3_small_100'"),
        ({"generator__styles": 3}, "leave this key out"),
        ({"data__style_weights": {"rad": 2.0}}, "'rad' is not one of the styles"),
        ({"loss__border": 10}, "leaves less than 32 px"),
        ({"generator__statistics": "batch"}, "generator.statistics"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(
    tiny_recipe: Callable[..., Recipe], change: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        tiny_recipe(**change)


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\nstyles: [x, y]\nrun: {steps: 10}\ngenerator:\n")
    recipe = load_recipe(
        path,
        ["run.steps=70", "optimizer.lr=1e-3", "generator.widths=[8, 8, 16, 16]", "generator.statistics=instance"],
    )
    assert (recipe.run.steps, recipe.optimizer.lr) == (70, 0.001)
    config = recipe.generator_config()
    assert (config.widths, config.styles, config.statistics) == ((8, 8, 16, 16), 2, Statistics.INSTANCE)
    assert recipe.run.anneal is Anneal.STEPS


@pytest.mark.parametrize("override", ["run.steps", "=3", "name.x=1", "run.steps=[1"])
def test_an_override_that_makes_no_sense_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\nstyles: [x]\n")
    with pytest.raises(UsageError, match="override"):
        load_recipe(path, [override])


@pytest.mark.parametrize(("text", "words"), [("a: [", "YAML"), ("- 1", "holds list"), ("", "holds NoneType")])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        load_recipe(path)
    with pytest.raises(UsageError, match="does not exist"):
        load_recipe(tmp_path / "absent.yaml")


def test_steps_are_rounded_up_to_whole_stretches(tiny_recipe: Callable[..., Recipe]) -> None:
    assert tiny_recipe(run__steps=9, run__validate_every=4).steps == 12
    short = tiny_recipe(run__steps=3, run__validate_every=4)
    assert (short.steps, short.validate_every) == (3, 3)


@pytest.mark.parametrize("name", ["gan", "cyclegan", "personalize"])
def test_the_recipes_of_tasks_that_learn_from_pictures_have_no_mistake(name: str) -> None:
    recipe = load_recipe(Path("training/configs") / f"{name}.yaml")
    assert recipe.task == name
    assert recipe.data.batch in range(1, 17)
