"""The engine's keys: killed runs, two processes, accumulation, precision, early stop, loggers, several optimizers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers.wandb as lightning_wandb
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from typer.testing import CliRunner

from sdk.errors import MissingRuntimeError, UsageError
from training.config import DistillRecipe, Recipe
from training.data.pairs import RunSampler
from training.tasks import TASKS
from training.tasks.base import Judgement, Task, TaskKind, adam, batch_seed
from training.tasks.distill import DistillTask, open_pairs, pair_faults
from training.train import app, fit, train

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[3]
#: Batches of other sizes give other statistics: what shall be equal trains on held ones.
HELD = {"optimizer__freeze_statistics": 0.0}


def log_of(recipe: Recipe) -> list[str]:
    return (recipe.folder / "log.txt").read_text().splitlines()


def losses(recipe: Recipe) -> list[float]:
    return [float(line.split(" loss ")[1].split()[0]) for line in log_of(recipe) if line.split()[1] == "step"]


def saved(recipe: Recipe, name: str = "last") -> dict[str, Tensor]:
    return load_file(recipe.folder / f"{name}.safetensors")


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def furthest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


#: ``python -m training.train`` with the task of this file, for processes that import no test.
WITH_TWO_SIDED = f"""
import importlib.util
from training.tasks import TASKS
from training.train import app
spec = importlib.util.spec_from_file_location("test_engine", {str(Path(__file__))!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
TASKS["two-sided"] = module.TWO_SIDED
app()
"""


def start(recipe: Recipe, *options: str) -> subprocess.Popen[str]:
    """``python -m training.train`` in a process of its own, one thread."""
    path = Path(recipe.run.out) / f"{recipe.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    script = path.with_suffix(".py")
    script.write_text(WITH_TWO_SIDED)
    program = [str(script)] if recipe.task == "two-sided" else ["-m", "training.train"]
    command = [sys.executable, *program, "--config", str(path), "--quiet", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


# ------------------------------------------------------------------------------------------------------------ resume


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_very_weights_of_one_that_was_not(tiny_recipe: Make) -> None:
    settings = {"run__steps": 60, "run__validate_every": 10, "run__log_every": 1, "loss__temporal": 0.5}
    killed = tiny_recipe(name="killed", **settings)
    process = start(killed)
    try:
        until = time.monotonic() + 120
        while not any(
            " step 14/60 " in line for line in (log_of(killed) if (killed.folder / "log.txt").exists() else [])
        ):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    last = max(int(line.split()[2].split("/")[0]) for line in log_of(killed) if line.split()[1] == "step")
    assert 14 <= last < 60
    rest = train(killed, resume=killed.folder / "last.ckpt", quiet=True)
    whole_recipe = tiny_recipe(name="whole", **settings)
    whole = train(whole_recipe, quiet=True)
    assert rest.steps_done == whole.steps_done == 60
    for name in ("last", "best"):
        assert same(saved(killed, name), saved(whole_recipe, name))
    assert same(rest.generator.state_dict(), whole.generator.state_dict())
    assert losses(killed)[-20:] == losses(whole_recipe)[-20:]


def test_a_checkpoint_is_written_whole_or_not_at_all(tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(run__steps=4)
    train(recipe, quiet=True)
    before = (recipe.folder / "last.ckpt").read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match=r"the disk is full"):
            train(tiny_recipe(run__steps=8), resume=recipe.folder / "last.ckpt", quiet=True)
    assert (recipe.folder / "last.ckpt").read_bytes() == before
    assert not list(recipe.folder.glob(".last*"))


def test_a_checkpoint_of_version_0_1_0_resumes(tiny_recipe: Make) -> None:
    whole = train(tiny_recipe(name="whole"), quiet=True)
    recipe = tiny_recipe(name="old")
    train(tiny_recipe(name="old", run__minutes=1e-6), quiet=True)
    path = recipe.folder / "last.ckpt"
    kept = torch.load(path, weights_only=True)
    own = kept.pop("toonedge")
    kept["distill"] = {"best": own["best"], "spent": own["spent"], "recipe": recipe.to_dict()}
    torch.save(kept, path)
    assert same(train(recipe, resume=path, quiet=True).average.state_dict(), whole.average.state_dict())


def test_the_seed_of_a_batch_depends_on_all_it_is_made_of() -> None:
    seeds = {batch_seed(*place) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]}
    assert len(seeds) == 5
    assert batch_seed(3, 4, 1) == batch_seed(3, 4, 1) < 2**63


# --------------------------------------------------------------------------------------- larger batches, by two ways


def test_accumulated_batches_equal_one_large_batch(tiny_recipe: Make) -> None:
    shared = {"run__steps": 8, "run__log_every": 1, **HELD}
    whole = tiny_recipe(name="whole", data__batch=4, **shared)
    parts = tiny_recipe(name="parts", data__batch=2, run__accumulate=2, **shared)
    other = tiny_recipe(name="other", data__batch=2, **shared)
    tasks = [train(recipe, quiet=True) for recipe in (whole, parts, other)]
    assert [task.steps_done for task in tasks] == [task.trainer.global_step for task in tasks] == [8, 8, 8]
    assert losses(parts) == pytest.approx(losses(whole), abs=2e-4)
    assert furthest(saved(parts), saved(whole)) < 1e-4
    assert furthest(saved(other), saved(whole)) > 1e-2
    assert "8 steps of 4 crops" in tasks[1].info().provenance[-2]


@pytest.mark.parametrize(("processes", "samples"), [(1, 6), (2, 6), (3, 6)])
def test_processes_take_turns_with_the_numbers_of_a_stretch(processes: int, samples: int) -> None:
    samplers = [RunSampler(samples, process=number, processes=processes) for number in range(processes)]
    for stretch in (0, 3):
        for sampler in samplers:
            sampler.set_epoch(stretch)
        drawn = [list(sampler) for sampler in samplers]
        assert [len(sampler) for sampler in samplers] == [samples // processes] * processes
        together = [number for turn in zip(*drawn, strict=True) for number in turn]
        assert together == list(range(stretch * samples, (stretch + 1) * samples))


@pytest.mark.slow
@pytest.mark.usefixtures("two_sided")
@pytest.mark.parametrize("task", ["distill", "two-sided"])
def test_two_processes_train_like_one_with_twice_the_batch(task: str, tiny_recipe: Make) -> None:
    one, two, output = in_one_and_in_two(tiny_recipe, task=task, run__steps=8, run__validate_every=4, **HELD)
    assert output.count("\nbest ") + output.startswith("best ") == 1  # the second process says nothing
    assert len(losses(two)) == 8
    assert losses(two) == pytest.approx(losses(one), abs=2e-4)
    assert furthest(saved(two), saved(one)) < 1e-4
    figures = [[line.split("val  step")[1] for line in log_of(recipe) if " val " in line] for recipe in (one, two)]
    assert figures[0] == figures[1]
    assert "2 processes" in log_of(two)[0]


@pytest.mark.slow
def test_two_processes_with_statistics_of_their_own_halves_stay_near(tiny_recipe: Make) -> None:
    """Until the statistics are held each process normalizes by those of its own two samples, not of all four."""
    one, two, _ = in_one_and_in_two(tiny_recipe, run__steps=24, run__validate_every=12, optimizer__freeze_statistics=1)
    assert losses(two) != losses(one)
    assert losses(two) == pytest.approx(losses(one), rel=0.15)
    gaps = [
        [float(line.split("gap closed ")[1].split()[0]) for line in log_of(recipe) if " val " in line]
        for recipe in (one, two)
    ]
    assert gaps[1] == pytest.approx(gaps[0], abs=0.05)  # drawn with the mean of both processes' statistics


def in_one_and_in_two(make: Make, **changes: Any) -> tuple[Recipe, Recipe, str]:
    """A recipe trained by one process with four samples a step and by two with two each; what the latter printed."""
    one, two = (make(name=n, data__batch=b, run__log_every=1, **changes) for n, b in (("one", 4), ("two", 2)))
    process = start(two, "--set", "run.devices=2")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "arning" not in output
    train(one, quiet=True)
    return one, two, output


# ----------------------------------------------------------------------------------------------- the keys of `run:`


def test_mixed_precision_trains_and_keeps_its_weights_and_scores_in_float32(tiny_recipe: Make) -> None:
    plain, mixed = (
        tiny_recipe(name=name, run__precision=precision, run__log_every=1)
        for name, precision in (("plain", "32-true"), ("mixed", "bf16-mixed"))
    )
    a, b = train(plain, quiet=True), train(mixed, quiet=True)
    assert losses(plain)[0] != losses(mixed)[0]  # it was not float32
    assert losses(mixed) == pytest.approx(losses(plain), rel=0.02)
    assert {value.dtype for value in b.average.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert b.scores["red"].photo_ssim == a.scores["red"].photo_ssim  # float32, whatever trains


def test_early_stopping_waits_for_its_patience_and_a_resumed_run_may_have_more(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.1, 0.9])
    monkeypatch.setattr(DistillTask, "judge", lambda self: Judgement(score=next(scores)))
    settings = {"run__steps": 24, "run__validate_every": 2}
    recipe = tiny_recipe(**settings, run__early_stop=2)
    assert train(recipe, quiet=True).steps_done == 8
    assert log_of(recipe)[-1].endswith("stopped early at step 8: no better validation in the last 2")
    longer = tiny_recipe(**settings, run__early_stop=3)
    task = train(longer, resume=recipe.folder / "last.ckpt", quiet=True)
    assert task.steps_done == 10  # one more that is no better makes three
    assert task.best == 0.3


def test_epochs_are_passes_over_the_samples(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__epochs=3, run__validate_every=2, data__batch=2, run__accumulate=2)
    assert recipe.for_samples(6).steps == 6  # 18 samples, 4 a step, and whole stretches of 2
    assert train(recipe, quiet=True).steps_done == 6


def test_the_log_and_the_curves_have_throughput_the_loaders_share_and_memory(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__accumulate=2, run__pictures=1)
    train(recipe, quiet=True)
    line = next(line for line in log_of(recipe) if line.split()[1] == "step")
    seconds = float(line.split(" s/step")[0].split()[-1])
    assert float(line.split(" images/s")[0].split()[-1]) == pytest.approx(8 / seconds, rel=0.05)
    assert 0 < float(line.split("loader ")[1].split("%")[0]) < 100
    assert 100 < float(line.split(" MB peak")[0].split()[-1]) < 20_000
    curves = EventAccumulator(str(recipe.folder), size_guidance={"images": 0}).Reload()
    for name in ("images_per_second", "loader_share", "peak_rss_mb", "loss", "lr"):
        assert [point.step for point in curves.Scalars(f"train/{name}")] == [2, 4, 6, 8]
    assert [point.step for point in curves.Scalars("val/gap")] == [4, 8]
    assert 0 < curves.Scalars("train/loader_share")[0].value < 1
    (title,) = curves.Tags()["images"]
    grid = curves.Images(title)[0]
    assert (grid.width, grid.height) == (5 * 66 + 2, 66 + 2)  # a photo, two teachers and two pictures of 64 px


def test_a_slow_loader_shows_in_its_share_and_a_validation_between_two_lines_does_not(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.data.pairs import PairDataset

    get, check = PairDataset.__getitem__, DistillTask.validation_step

    def slow(self: PairDataset, number: int) -> Any:
        time.sleep(0.05)
        return get(self, number)

    def slow_validation(self: DistillTask, batch: Any, batch_idx: int) -> None:
        time.sleep(4.0)
        check(self, batch, batch_idx)

    monkeypatch.setattr(PairDataset, "__getitem__", slow)
    monkeypatch.setattr(DistillTask, "validation_step", slow_validation)
    recipe = tiny_recipe(run__steps=8, run__validate_every=4, run__log_every=8)
    train(recipe, quiet=True)
    (line,) = (line for line in log_of(recipe) if line.split()[1] == "step")
    assert 50 < float(line.split("loader ")[1].split("%")[0]) < 100
    assert 0.2 <= float(line.split(" s/step")[0].split()[-1]) < 0.6  # four samples of 0.05 s; 0.7 with the validation


class FakeWandb(types.ModuleType):
    """As much of W&B as Lightning asks for; remembers what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.run: Any = None
        self.told: list[dict[str, Any]] = []
        self.started: dict[str, Any] = {}
        module = self

        class Run:
            name, id, dir, step = "run", "1", ".", 0
            config = types.SimpleNamespace(update=lambda *a, **k: None)

            def define_metric(self, *_: Any, **__: Any) -> None: ...

            def log(self, values: dict[str, Any], **_: Any) -> None:
                module.told.append(values)

        def init(**options: Any) -> Run:
            module.started = options
            return Run()

        self.init, self.Image = init, lambda picture, **_: ("picture", picture.shape)
        self.sdk = types.SimpleNamespace(
            wandb_run=types.SimpleNamespace(Run=Run), lib=types.SimpleNamespace(RunDisabled=type("RunDisabled", (), {}))
        )


@pytest.mark.parametrize("logger", ["wandb", "both"])
def test_wandb_gets_figures_and_pictures_when_asked(
    logger: str, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    for name, module in {"wandb": fake, "wandb.sdk": fake.sdk, "wandb.sdk.lib": fake.sdk.lib}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "wandb.wandb_run", fake.sdk.wandb_run)
    monkeypatch.setattr(lightning_wandb, "_WANDB_AVAILABLE", True)
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = tiny_recipe(run__logger=logger, run__steps=4)
    train(recipe, quiet=True)
    names = {name for values in fake.told for name in values}
    assert {"train/loss", "train/images_per_second", "val/gap"} <= names
    # two photos, two styles
    assert ("picture", (134, 332, 3)) in [x for values in fake.told for v in values.values() for x in _listed(v)]
    assert fake.started["config"]["run"]["steps"] == 4
    assert "mode" not in fake.started  # so the variable decides
    assert os.environ["WANDB_MODE"] == "offline"
    assert bool(list(recipe.folder.glob("events.*"))) == (logger == "both")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def test_wandb_that_is_not_installed_is_a_sentence_with_exit_code_3(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        def __bool__(self) -> bool:
            return False

    monkeypatch.setattr(lightning_wandb, "_WANDB_AVAILABLE", Absent())
    recipe = tiny_recipe(run__logger="wandb")
    with pytest.raises(MissingRuntimeError, match=r"needs the package 'wandb'.*pip install wandb"):
        train(recipe, quiet=True)
    assert not recipe.folder.exists()
    path = Path(recipe.run.out).parent / "w.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    result = CliRunner().invoke(app, ["--config", str(path), "--quiet"])
    assert result.exit_code == 3


# ------------------------------------------------------------------------------------------------ several optimizers


class TwoSided(Task):
    """The smallest task with two optimizers: a critic learns to tell the pictures from the teacher's."""

    recipe: DistillRecipe

    def __init__(self, recipe: DistillRecipe, report: Callable[[str], None] | None = None) -> None:
        super().__init__(recipe, report)
        self.critic = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 1, 1))
        self.automatic_optimization = False
        self.adversarial = 0.01
        self.clipped: list[float] = []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [adam(self.generator, self.recipe.optimizer), adam(self.critic, self.recipe.optimizer)]

    def peak(self, number: int) -> float:
        return self.recipe.optimizer.lr * (1, 4)[number]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        image, style, target = self.picture(batch[0]), batch[1], self.picture(batch[2])
        first, second = self.optimizers()
        self.toggle_optimizer(second)
        with torch.no_grad():
            drawn = self.draw(image, style)
        critic = self.critic(drawn).square().mean() + (self.critic(target) - 1).square().mean()
        self.descend(1, critic, batch_idx)
        self.untoggle_optimizer(second)
        self.toggle_optimizer(first)
        drawn = self.draw(image, style)
        loss = (drawn - target).abs().mean() + self.adversarial * (self.critic(drawn) - 1).square().mean()
        self.descend(0, loss, batch_idx)
        self.untoggle_optimizer(first)
        self.tally({"loss": loss, "critic": critic})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.clipped.append(float(torch.stack([g.norm() for g in grads]).norm()))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.show([self.picture(batch[0])[0]])

    def judge(self) -> Judgement:
        return Judgement(score=float(self.steps_done), figures={"val/steps": self.steps_done})


TWO_SIDED = TaskKind(recipe=DistillRecipe, make=TwoSided, samples=open_pairs, faults=pair_faults)


@pytest.fixture
def two_sided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "two-sided", TWO_SIDED)


@pytest.mark.usefixtures("two_sided")
def test_a_task_with_two_optimizers_trains_and_resumes(tiny_recipe: Make) -> None:
    settings = {"task": "two-sided", "run__log_every": 1, "optimizer__clip": 0.05}
    recipe = tiny_recipe(name="whole", **settings)
    whole = train(recipe, quiet=True)
    assert whole.steps_done == 8
    assert whole.trainer.global_step == 16  # both optimizers
    assert [line.split()[2] for line in log_of(recipe) if line.split()[1] == "step"] == [f"{n}/8" for n in range(1, 9)]
    assert losses(recipe)[-1] < losses(recipe)[0]
    assert max(whole.clipped) < 0.0501
    rates = [optimizer.param_groups[0]["lr"] for optimizer in whole.trainer.optimizers]
    assert rates[1] == pytest.approx(4 * rates[0])
    parts = tiny_recipe(name="parts", **settings)
    train(tiny_recipe(name="parts", **settings, run__minutes=1e-6), quiet=True)
    rest = train(parts, resume=parts.folder / "last.ckpt", quiet=True)
    assert same(rest.state_dict(), whole.state_dict())
    assert "trained for 8 steps of 4 crops" in whole.info().provenance[-1]


@pytest.mark.usefixtures("two_sided")
def test_each_of_two_optimizers_accumulates(tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # The critic moves before the generator's last batch: apart from each other they must equal the large batch.
    start = TwoSided.on_fit_start
    monkeypatch.setattr(TwoSided, "on_fit_start", lambda self: (setattr(self, "adversarial", 0.0), start(self)))
    shared = {"task": "two-sided", "run__log_every": 1, **HELD}
    whole = tiny_recipe(name="whole", data__batch=4, **shared)
    parts = tiny_recipe(name="parts", data__batch=2, run__accumulate=2, **shared)
    tasks = [train(recipe, quiet=True) for recipe in (whole, parts)]
    assert tasks[1].steps_done == 8
    assert losses(parts) == pytest.approx(losses(whole), abs=2e-4)
    assert furthest(tasks[0].generator.state_dict(), tasks[1].generator.state_dict()) < 1e-4
    assert furthest(tasks[0].critic.state_dict(), tasks[1].critic.state_dict()) < 1e-3


# ------------------------------------------------------------------------------------------------------- wrong configs


@pytest.mark.usefixtures("two_sided")
def test_wrong_keys_values_data_host_and_resume_come_at_once(tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe(run__steps=4)
    train(recipe, quiet=True)
    values = {**recipe.to_dict(), "generator": {**recipe.generator, "widths": [16, 8, 8, 8]}}
    values["loss"] = {"l1": -1, "gradeint": 1}
    values["data"] = {**values["data"], "crop": 128}
    values["run"] = {**values["run"], "precision": "16-mixed", "logger": "wnadb"}
    values["optimizer"] = {"lr": 0}
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(app, ["--config", str(path), "--resume", str(recipe.folder / "last.ckpt")])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert lines[0].endswith("has 7 mistakes:")
    for words in (
        "loss.l1: input should be greater than or equal to 0, not -1",
        "loss.gradeint: there is no such key; did you mean 'gradient'?",
        "optimizer.lr: input should be greater than 0",
        "run.logger: input should be 'tensorboard', 'wandb' or 'both'",
        "crop 128 is not usable: give a multiple of 16, at most the views' size of 64 px",
        "run.precision: 16-mixed needs a GPU",
        "the run to resume has other generator than the config",
    ):
        assert sum(words in line for line in lines) == 1, words
    assert "Traceback" not in result.output


def test_data_that_are_absent_come_with_the_other_mistakes(tiny_recipe: Make, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**tiny_recipe().to_dict(), "data": {"pairs": str(tmp_path)}, "nmae": 1}))
    output = CliRunner().invoke(app, ["--config", str(path)]).output
    assert "did you mean 'name'" in output
    assert output.count("holds no rendered pairs") == 2  # train and val


@pytest.mark.usefixtures("two_sided")
def test_a_run_of_another_task_is_not_resumed(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__steps=4)
    train(recipe, quiet=True)
    with pytest.raises(UsageError, match="has task 'distill', the config 'two-sided': resume it with its own config"):
        train(tiny_recipe(task="two-sided"), resume=recipe.folder / "last.ckpt", quiet=True)


def test_an_unknown_task_is_named_with_the_nearest_and_hides_no_other_mistake(tiny_recipe: Make) -> None:
    with pytest.raises(UsageError) as caught:
        tiny_recipe(task="distil", run__steps=0, loss__l1=1.0)
    text = str(caught.value)
    assert "unknown task 'distil': did you mean 'distill'?" in text
    assert "run.steps" in text
    assert "2 mistakes" in text


def test_too_few_views_for_the_processes_are_refused(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__devices=3)
    samples = open_pairs(recipe)
    with pytest.raises(UsageError, match=r"2 validation views are too few for run\.devices 3"):
        fit(recipe, samples.training, samples.validation, make_task=DistillTask, quiet=True)


def test_what_lightning_keeps_of_a_run_is_plain(tiny_recipe: Make) -> None:
    recipe = tiny_recipe(run__steps=4)
    train(recipe, quiet=True)
    kept = torch.load(recipe.folder / "last.ckpt", weights_only=True)["toonedge"]
    assert kept["architecture"] == json.loads(json.dumps(recipe.network()))
    assert kept["steps"] == 4
