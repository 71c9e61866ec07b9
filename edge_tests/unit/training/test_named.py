"""Generators by name: trained by the same task, kept in the same checkpoints, refused where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sdk.errors import UsageError
from training.checkpoint import CheckpointInfo, NamedCheckpoint, load_any_checkpoint, load_checkpoint, save_checkpoint
from training.config import LossRecipe, Recipe, load_recipe, make_recipe
from training.models import baselines
from training.models.baselines import BASELINES, ResNet9, TransformNet
from training.models.generator import Generator, GeneratorConfig, count_params
from training.models.named import GENERATORS, NamedGenerator, build_named, network_macs
from training.train import train

Make = Callable[..., Recipe]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both networks with an eighth and less of their channels."""
    monkeypatch.setitem(BASELINES, "plain-9x9", partial(TransformNet, 8, baselines._instance_norm))
    monkeypatch.setitem(BASELINES, "resnet-9", partial(ResNet9, 8, 2))


def saved(folder: Path, name: str) -> tuple[Path, NamedGenerator]:
    torch.manual_seed(0)
    network, path = build_named(name, 1), folder / f"{name}.safetensors"
    save_checkpoint(path, network, CheckpointInfo(name=name, version="1.0.0", styles=("comic",)))
    return path, network


def test_every_named_generator_is_a_baseline_that_is_timed_and_its_losses_are_keys_of_a_recipe() -> None:
    assert set(GENERATORS) == {"plain-9x9", "resnet-9"} <= set(BASELINES)
    zero = dict.fromkeys(LossRecipe().weights(), 0.0)
    for row in GENERATORS.values():
        assert LossRecipe(**{**zero, **row.loss}).weights() == dict(row.loss)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_checkpoint_gives_back_the_network_and_names_the_architecture(
    name: str, narrow: None, tmp_path: Path
) -> None:
    path, network = saved(tmp_path, name)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["toonedge"])["architecture"] == name
    loaded = load_any_checkpoint(path)
    assert isinstance(loaded, NamedCheckpoint)
    assert loaded.info.styles == ("comic",)
    assert not loaded.generator.training
    image, style = torch.rand(2, 3, 32, 48), torch.ones(2, 1)
    with torch.no_grad():
        drawn = loaded.generator(image, style)
        assert torch.equal(drawn, network.eval()(image, style))
        assert torch.equal(drawn, loaded.generator.raw(image, style))
    assert 0 <= float(drawn.min()) < float(drawn.max()) <= 1


def test_a_checkpoint_of_another_kind_is_refused_in_a_sentence(narrow: None, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "resnet-9")
    with pytest.raises(UsageError, match=r"named generator 'resnet-9'.*our own generator"):
        load_checkpoint(path)
    ours = tmp_path / "ours.safetensors"
    save_checkpoint(ours, Generator(GeneratorConfig(styles=1)), CheckpointInfo(name="a", version="1", styles=("a",)))
    assert isinstance(load_any_checkpoint(ours).generator, Generator)
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["toonedge"])
    for change, sentence in (
        ({"architecture": "resnet-8"}, "did you mean 'resnet-9'"),
        ({"architecture": "plain-9x9"}, "is of another architecture"),
    ):
        other = tmp_path / "other.safetensors"
        save_file(load_file(path), other, metadata={"toonedge": json.dumps(described | change)})
        with pytest.raises(UsageError, match=sentence):
            load_any_checkpoint(other)


def test_a_named_generator_has_one_style_and_starts_as_its_paper_does() -> None:
    with pytest.raises(UsageError, match="resnet-9 draws one style and 2 are named"):
        build_named("resnet-9", 2)
    with pytest.raises(UsageError, match="unknown generator 'resnet9': did you mean 'resnet-9'"):
        NamedGenerator("resnet9")
    network = build_named("resnet-9", 1)
    kernels = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(kernels) == 1 + 2 + 18 + 2 + 1
    assert torch.cat([k.flatten() for k in kernels]).std().item() == pytest.approx(0.02, rel=0.01)
    with pytest.raises(UsageError, match="N x 1 weights"):
        network(torch.rand(1, 3, 32, 32), torch.ones(1, 2))


def test_multiplications_are_those_of_either_kind_of_network() -> None:
    ours = Generator(GeneratorConfig(styles=1, stem=8, widths=(8, 8, 8, 8)))
    assert network_macs(ours, 64, 64) == network_macs(ours, 32, 32) * 4
    # c7s1-64 and c7s1-3; d128 and d256 with their mirrors; nine residual blocks: worked out for 256 x 256.
    ends = 2 * (3 * 64 * 49 * 256**2)
    halves = 2 * (64 * 128 * 9 * 128**2) + 2 * (128 * 256 * 9 * 64**2)
    assert network_macs(NamedGenerator("resnet-9")) == ends + halves + 18 * (256 * 256 * 9 * 64**2)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_recipe_trains_it_saves_it_and_resumes_it(name: str, narrow: None, tiny_recipe: Make) -> None:
    changes: dict[str, Any] = {"architecture": name, "styles": ["negative"], "generator": {}, "optimizer__lr": 0.003}
    recipe = tiny_recipe(**changes, run__steps=24, run__validate_every=12)
    task = train(recipe, quiet=True)
    assert isinstance(task.generator, NamedGenerator)
    lines = (recipe.folder / "log.txt").read_text().splitlines()
    losses = [float(line.split(" loss ")[1].split()[0]) for line in lines if " loss " in line]
    assert losses[-1] < 0.8 * losses[0]
    loaded = load_any_checkpoint(recipe.folder / "last.safetensors").generator
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded(image, torch.ones(1, 1)), task.average(image, torch.ones(1, 1)), atol=1e-6)
    other = tiny_recipe(**{**changes, "architecture": next(one for one in GENERATORS if one != name)})
    with pytest.raises(UsageError, match="another network"):
        train(other, resume=recipe.folder / "last.ckpt", quiet=True)


def test_a_recipe_of_a_named_generator_tells_all_its_mistakes(tiny_recipe: Make) -> None:
    values = tiny_recipe().to_dict() | {"architecture": "resnet9"}
    values["run"]["encoder_weights"] = "imagenet"
    with pytest.raises(UsageError) as told:
        make_recipe(values)
    for part in ("did you mean 'resnet-9'", "draws one style", "leave them out", "no encoder of timm's"):
        assert part in str(told.value)


def test_the_shipped_recipe_of_the_plain_baseline_has_its_loss() -> None:
    recipe = load_recipe(Path(__file__).parents[3] / "training" / "configs" / "plain-9x9.yaml")
    assert recipe.architecture == "plain-9x9"
    assert recipe.loss.weights() == dict(GENERATORS["plain-9x9"].loss)


def test_the_plain_baselines_loss_is_half_content_and_half_gram(narrow: None, tiny_recipe: Make) -> None:
    pytest.importorskip("stlpips_pytorch", reason="needs the extra train")
    loss = {"l1": 0.0, "gradient": 0.0, "ssim": 0.0, **GENERATORS["plain-9x9"].loss, "features": "alex"}
    recipe = tiny_recipe(
        architecture="plain-9x9", styles=["negative"], generator={}, loss=loss, data__crop=64, data__batch=2,
        run__steps=2, run__validate_every=2,
    )  # fmt: skip
    task = train(recipe, quiet=True)
    assert task.criterion.weights == {"content": 0.5, "gram": 0.5}
    assert " content " in (recipe.folder / "log.txt").read_text()
    assert count_params(task.generator) == count_params(BASELINES["plain-9x9"]())
