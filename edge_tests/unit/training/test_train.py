"""The training engine: it learns, resumes as if nothing had been, and saves what it validated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sdk.errors import UsageError
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.config import OptimizerRecipe, Recipe
from training.data.pairs import ViewDataset, open_shards
from training.losses import ssim
from training.models.generator import Generator, GeneratorConfig
from training.models.norm import ConditionalNorm2d
from training.tasks.base import hold_statistics, norms, schedule, start_from, update_average
from training.tasks.distill import DistillTask
from training.train import app, train

Make = Callable[..., Recipe]


def weights(task: DistillTask) -> dict[str, torch.Tensor]:
    return {**task.generator.state_dict(prefix="generator."), **task.average.state_dict(prefix="average.")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_network_learns_its_teachers(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__steps=80, run__validate_every=40, run__log_every=10, optimizer__ema=0.9)
    task = train(recipe, quiet=True)
    losses = [float(line.split(" loss ")[1].split()[0]) for line in log_of(recipe) if line.split()[1] == "step"]
    assert len(losses) == 8
    assert losses[-1] < 0.5 * losses[0]
    gaps = [float(line.split("gap closed ")[1].split()[0]) for line in log_of(recipe) if " val " in line]
    assert gaps[1] > gaps[0] + 0.03
    assert task.scores["negative"].gap > 0.5


def log_of(recipe: Recipe) -> list[str]:
    return (recipe.folder / "log.txt").read_text().splitlines()


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(tiny_recipe: Make) -> None:
    whole = train(tiny_recipe(name="whole", run__steps=12), quiet=True)
    # Two parts: the clock stops the first one after its first stretch.
    recipe = tiny_recipe(name="parts", run__steps=12, run__minutes=1e-6)
    first = train(recipe, quiet=True)
    assert first.trainer.global_step == 4
    assert not same(weights(first), weights(whole))
    rest = train(tiny_recipe(name="parts", run__steps=12), resume=recipe.folder / "last.ckpt", quiet=True)
    assert rest.trainer.global_step == 12
    assert same(weights(rest), weights(whole))
    assert rest.best == pytest.approx(whole.best)
    assert [line.split()[2] for line in log_of(recipe) if line.split()[1] == "step"] == [
        f"{step}/12" for step in (2, 4, 6, 8, 10, 12)
    ]


def test_two_runs_of_one_recipe_are_equal_and_the_seed_matters(tiny_recipe: Make) -> None:
    first, again, other = (
        train(tiny_recipe(name=name, run__steps=4, run__seed=seed), quiet=True)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_saved_checkpoint_draws_what_was_validated(tiny_recipe: Make, channels_last: bool) -> None:
    recipe = tiny_recipe(run__channels_last=channels_last)
    task = train(recipe, quiet=True)
    loaded = load_checkpoint(recipe.folder / "last.safetensors")
    assert loaded.info.styles == recipe.styles
    assert any("distilled for 8 steps" in line for line in loaded.info.provenance)
    views = ViewDataset(open_shards(Path(recipe.data.pairs) / "val", recipe.styles), limit=9)
    for row, style in enumerate(recipe.styles):
        similarities, photo_similarities = [], []
        for photo, teachers in views:
            image, teacher = photo[None] / 255.0, teachers[row][None] / 255.0
            chosen = torch.eye(2)[row : row + 1]
            with torch.no_grad():
                output = loaded.generator(image, chosen)
                expected = task.average(image, chosen)
            assert float((output - expected).abs().max()) < 1e-5
            similarities.append(float(ssim(output, teacher)))
            photo_similarities.append(float(ssim(image, teacher)))
        score = task.scores[style]
        assert score.ssim == pytest.approx(sum(similarities) / len(similarities), abs=1e-5)
        assert score.photo_ssim == pytest.approx(sum(photo_similarities) / len(similarities), abs=1e-5)
        assert score.gap == pytest.approx(1 - (1 - score.ssim) / (1 - score.photo_ssim))


def test_best_is_the_best_validation_and_last_the_last(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__steps=24, optimizer__lr=0.02)
    task = train(recipe, quiet=True)
    gaps = [float(line.split("gap closed ")[1].split()[0]) for line in log_of(recipe) if " val " in line]
    assert len(gaps) == 6
    assert task.best == pytest.approx(max(gaps), abs=1e-4)
    best = load_checkpoint(recipe.folder / "best.safetensors").info.provenance
    assert any(f"distilled for {4 * (gaps.index(max(gaps)) + 1)} steps" in line for line in best)


def test_the_average_follows_weights_and_statistics() -> None:
    torch.manual_seed(0)
    config = GeneratorConfig(styles=2, encoder_width=0.25, stem=8, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1))
    network, average = Generator(config), Generator(config)
    network(torch.rand(2, 3, 32, 32), torch.eye(2))  # moves the statistics and counts a batch
    before = {key: value.clone() for key, value in average.state_dict().items()}
    update_average(average, network, 0.75)
    for key, value in average.state_dict().items():
        new = network.state_dict()[key]
        expected = 0.75 * before[key] + 0.25 * new if value.is_floating_point() else new
        assert torch.allclose(value, expected, atol=1e-6), key
    update_average(average, network, 0.0)
    assert same(dict(average.state_dict()), dict(network.state_dict()))


def test_held_statistics_do_not_move_and_the_rest_still_trains(tiny_recipe: Make) -> None:
    network = Generator(tiny_recipe().generator_config()).train()
    hold_statistics(network)
    assert norms(network)
    before = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    assert before
    network(torch.rand(2, 3, 32, 32), torch.eye(2)).sum().backward()
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert all(p.grad is not None for p in network.parameters())


def test_a_run_holds_the_statistics_from_the_asked_share_on(tiny_recipe: Make) -> None:
    early = train(tiny_recipe(name="early", optimizer__freeze_statistics=0.0), quiet=True)
    assert all(float(m.running_mean.abs().max()) == 0 for m in norms(early.generator))
    late = train(tiny_recipe(name="late", optimizer__freeze_statistics=0.5), quiet=True)
    never = train(tiny_recipe(name="never", optimizer__freeze_statistics=1.0), quiet=True)
    assert not any(m.training for m in norms(late.generator))
    assert all(m.training for m in norms(never.generator))


def test_the_learning_rate_warms_up_and_ends_low() -> None:
    settings = OptimizerRecipe(final=0.1, warmup=0.2)
    assert schedule(settings, 0.0) == pytest.approx(0.001)
    assert schedule(settings, 0.1) == pytest.approx(0.5)
    assert schedule(settings, 0.2) == pytest.approx(1.0)
    assert schedule(settings, 0.6) == pytest.approx(0.55)  # the middle of the cosine
    assert schedule(settings, 1.0) == pytest.approx(0.1)


def test_the_linear_schedule_falls_in_its_second_half_and_the_constant_one_never() -> None:
    linear = OptimizerRecipe(schedule="linear", final=0.2, warmup=0.0)
    assert [schedule(linear, share) for share in (0.0, 0.5, 0.75, 1.0)] == pytest.approx([1.0, 1.0, 0.6, 0.2])
    constant = OptimizerRecipe(schedule="constant", warmup=0.5)
    assert [schedule(constant, share) for share in (0.25, 0.5, 1.0)] == pytest.approx([0.5, 1.0, 1.0])


def test_annealing_by_minutes_ends_the_run_with_the_minutes(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__steps=100_000, run__minutes=0.02, run__anneal="minutes")
    task = train(recipe, quiet=True)
    assert 0 < task.trainer.global_step < 100_000
    assert task.progress() == 1.0
    assert task.trainer.optimizers[0].param_groups[0]["lr"] < 0.2 * recipe.optimizer.lr


def test_weight_decay_is_on_kernels_alone(tiny_recipe: Make) -> None:
    decayed, plain = DistillTask(tiny_recipe()).configure_optimizers().param_groups
    assert decayed["weight_decay"] > 0 == plain["weight_decay"]
    assert {p.ndim for p in decayed["params"]} == {4}
    assert {p.ndim for p in plain["params"]} <= {1, 2}  # norms and biases; style rows


def test_a_diverging_run_says_what_to_do(tiny_recipe: Make) -> None:
    with pytest.raises(UsageError, match=r"lower optimizer\.lr"):
        train(tiny_recipe(optimizer__lr=1e30, optimizer__clip=0, optimizer__warmup=0, run__steps=40), quiet=True)


def test_the_border_of_a_crop_has_no_say_when_asked(tiny_recipe: Make) -> None:
    task = DistillTask(tiny_recipe(loss__border=8, data__crop=64))
    image = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    target = image.clone()
    changed = target.clone()
    changed[..., :8], changed[..., :8, :] = 255, 255
    style = torch.eye(2)
    task.eval()
    with torch.no_grad():
        losses = [float(task.training_step((image, style, t), 0)) for t in (target, changed)]
        changed[..., 8:16] = 255
        losses.append(float(task.training_step((image, style, changed), 0)))
    assert losses[0] == losses[1] != losses[2]


# --------------------------------------------------------------------------------------------------- wrong use


def test_a_folder_that_holds_a_run_is_not_overwritten_unasked(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__steps=4)
    train(recipe, quiet=True)
    with pytest.raises(UsageError, match="holds a run already"):
        train(recipe, quiet=True)
    train(recipe, overwrite=True, quiet=True)
    assert sum("start tiny" in line for line in log_of(recipe)) == 1


def test_a_run_is_only_resumed_with_its_own_network(tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe(run__steps=4)
    train(recipe, quiet=True)
    last = recipe.folder / "last.ckpt"
    with pytest.raises(UsageError, match="another network"):
        train(tiny_recipe(name="wide", generator__widths=[16, 8, 8, 8]), resume=last, quiet=True)
    with pytest.raises(UsageError, match="there is no"):
        train(recipe, resume=tmp_path / "absent.ckpt", quiet=True)
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(UsageError, match="cannot be resumed from"):
        train(recipe, resume=broken, quiet=True)
    torch.save({"state_dict": {}}, broken)
    with pytest.raises(UsageError, match="not written by a run"):
        train(recipe, resume=broken, quiet=True)


def test_a_run_can_start_from_a_checkpoint_of_the_same_network(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__steps=4)
    first = train(recipe, quiet=True)
    start = str(recipe.folder / "last.safetensors")
    task = DistillTask(tiny_recipe(run__init=start))
    assert same(dict(task.generator.state_dict()), dict(first.average.state_dict()))
    with pytest.raises(UsageError, match="does not exist"):
        DistillTask(tiny_recipe(run__init="absent.safetensors"))
    with pytest.raises(UsageError, match="encoder weights"):
        DistillTask(tiny_recipe(run__encoder_weights="absent.safetensors"))


def test_styles_begin_with_rows_by_name_and_new_ones_as_told_or_at_the_mean(tiny_recipe: Make, tmp_path: Path) -> None:
    given = Generator(tiny_recipe().generator_config())
    for norm in given.modules():
        if isinstance(norm, ConditionalNorm2d):
            norm.gamma.data.uniform_(0.5, 1.5)
    start = tmp_path / "start.safetensors"
    save_checkpoint(start, given, CheckpointInfo(name="start", version="1", styles=("red", "negative")))
    styles = ["negative", "told", "red", "new"]
    recipe = tiny_recipe(styles=styles, start_styles={"told": "red"}, run__init=str(start))
    made, photo = DistillTask(recipe).generator.eval(), torch.rand(1, 3, 32, 32)
    for row, theirs in enumerate(([0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.5])):
        with torch.no_grad():
            drawn, wanted = made(photo, torch.eye(4)[[row]]), given.eval()(photo, torch.tensor([theirs]))
        torch.testing.assert_close(drawn, wanted, msg=styles[row])


def test_rows_that_cannot_be_had_are_named_with_the_other_mistakes(tiny_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"start_styles: 'blue' is not one(.|\n)*start_styles: needs run\.init"):
        tiny_recipe(start_styles={"blue": "red"})
    start = tmp_path / "start.safetensors"
    info = CheckpointInfo(name="start", version="1", styles=("red", "negative"))
    save_checkpoint(start, Generator(tiny_recipe().generator_config()), info)
    recipe = tiny_recipe(start_styles={"red": "negativ"}, run__init=str(start), data__crop=4096)
    with pytest.raises(UsageError, match="did you mean 'negative'") as caught:
        train(recipe, quiet=True)
    assert "4096" in str(caught.value)


def test_a_run_can_start_from_a_network_of_other_widths_and_depths(tiny_recipe: Make) -> None:
    first = train(tiny_recipe(run__steps=4), quiet=True)
    start = str(tiny_recipe().folder / "last.safetensors")
    said: list[str] = []
    own = first.average
    widths = own.config.widths
    wider = (widths[0] + 8, *widths[1:])
    depths = (own.config.depths[0] + 1, *own.config.depths[1:])
    recipe = tiny_recipe(run__init=start, generator__widths=list(wider), generator__depths=list(depths))
    task = DistillTask(recipe, said.append)
    made = task.generator
    assert torch.equal(made.encoder.features.conv_stem.weight, own.encoder.features.conv_stem.weight)
    assert torch.equal(made.tail.weight[:, : widths[0]], own.tail.weight)
    assert not torch.equal(made.tail.weight[:, widths[0] :], torch.zeros_like(made.tail.weight[:, widths[0] :]))
    (line,) = said
    assert line.startswith(f"init {start}: ")
    assert " in part, " in line
    assert not line.endswith(" 0 new")


def test_a_narrower_network_starts_as_the_wider_one_without_its_last_channels(tiny_recipe: Make) -> None:
    config = tiny_recipe().generator_config()
    wide, narrow = Generator(config), Generator(dataclasses.replace(config, widths=(4, *config.widths[1:])))
    taken = start_from(narrow, wide)
    assert (taken.new, taken.part) != (0, 0)
    with torch.no_grad():  # cut by hand: what the last channels would have given is nothing
        wide.tail.weight[:, 4:] = 0
        for block in wide.stages[3]:
            block.spatial.conv.weight[:, 4:] = 0
            block.project.conv.weight[:, 4:] = 0
    image, style = torch.rand(1, 3, 32, 32), torch.eye(config.styles)[:1]
    torch.testing.assert_close(narrow.eval()(image, style), wide.eval()(image, style))


def test_the_command_trains_and_resumes(tiny_recipe: Make, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe().to_dict()))
    arguments = ["--config", str(path), "--quiet", "--set", "run.steps=8"]
    first = CliRunner().invoke(app, [*arguments, "--minutes", "0.000001"])
    assert first.exit_code == 0, first.output
    rest = CliRunner().invoke(app, [*arguments, "--resume", "last"])
    assert rest.exit_code == 0, rest.output
    assert "best gap closed" in rest.output
    log = (tmp_path / "runs" / "tiny" / "log.txt").read_text()
    assert "stopped by the clock at step 4" in log
    assert "step 8/8" in log


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "run.stepz=8"], "did you mean 'steps'"),
        (["--set", "data.pairs=nowhere"], "holds no rendered pairs"),
        (["--resume", "last"], "there is no"),
        (["--set", "data.crop=128"], "crop 128"),
    ],
)
def test_the_command_refuses_in_words_with_exit_code_2(
    tiny_recipe: Make, tmp_path: Path, arguments: list[str], words: str
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe().to_dict()))
    result = CliRunner().invoke(app, ["--config", str(path), "--quiet", *arguments])
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_a_compiled_network_trains_like_the_plain_one(tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # The real compiler takes minutes on a busy machine; "eager" traces and guards all the same, and emits no C++.
    compiler = torch.compile
    asked = []
    monkeypatch.setattr(torch, "compile", lambda f: asked.append(f) or compiler(f, backend="eager"))
    plain, compiled = (train(tiny_recipe(name=n, run__compile=n == "compiled"), quiet=True) for n in ("a", "compiled"))
    assert len(asked) == 1
    assert same(weights(plain), weights(compiled))
