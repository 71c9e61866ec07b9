"""``python -m converters.prune``: a whole run of a small network, and one sentence for every mistake."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch_pruning", reason="needs the extra export")

import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from converters.prune import INTERRUPTED, app
from converters.prune_steps import State
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.models.generator import Generator, GeneratorConfig
from training.tasks.recover import RecoverTask

pytestmark = pytest.mark.export
Prune = Callable[..., Result]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = GeneratorConfig(styles=2, encoder_width=0.5, stem=16, widths=(16, 8, 8, 16), depths=(1, 0, 0, 1))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, Generator(config).eval(), CheckpointInfo(name="tiny", version="1", styles=("a", "b")))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered pairs as ``training.data.render`` lays them out, 48 px: six views to learn from and three that decide.

    Style a's teacher draws the negative, b's the photo's red alone.
    """
    folder = tmp_path_factory.mktemp("pairs")
    for seed, (shard, views) in enumerate({"train/v000": 4, "train/v001": 2, "val/v000": 3}.items()):
        (folder / shard).mkdir(parents=True)
        noise = np.random.default_rng(seed).integers(0, 256, (views, 6, 6, 3), np.uint8)
        photos = noise.repeat(8, axis=1).repeat(8, axis=2)
        np.save(folder / shard / "photos.npy", photos)
        np.save(folder / shard / "a.npy", 255 - photos)
        np.save(folder / shard / "b.npy", photos * np.array([1, 0, 0], np.uint8))
        (folder / shard / "shard.json").write_text(json.dumps({"plan": {}, "teachers": {"a": "made", "b": "made"}}))
    return folder


@pytest.fixture
def prune(checkpoint: Path, photos: Path, tmp_path: Path) -> Prune:
    """Runs the command line; an option given again overrules."""

    def run(*arguments: object) -> Result:
        quick = {"recovery-steps": 2, "crop": 32, "batch": 2, "size": 32, "floor": -1, "steps": 1, "share": 0.4}
        common = {"checkpoint": checkpoint, "out": tmp_path / "run", "photos": photos, "test": photos} | quick
        given = [text for key, value in common.items() for text in (f"--{key}", str(value))]
        threads = torch.get_num_threads()
        try:
            return CliRunner().invoke(app, [*given, "--no-latency", "--quiet", *map(str, arguments)])
        finally:
            torch.set_num_threads(threads)

    return run


def test_a_run_writes_its_table_and_checkpoint_and_a_finished_one_can_be_timed_later(
    prune: Prune, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    done = prune()
    assert done.exit_code == 0, done.output
    assert "step 1: " in done.stdout
    assert load_checkpoint(tmp_path / "run" / "pruned.safetensors").generator.config.pruned is not None

    def latencies() -> list[str]:
        with (tmp_path / "run" / "table.csv").open() as file:
            return [row["latency ms"] for row in csv.DictReader(file)]

    assert latencies() == ["-", "-"]
    timed = prune("--resume", "--latency", "--threads", 1)
    assert timed.exit_code == 0, timed.output
    assert len(latencies()) == 2
    assert all(float(ms) > 0 for ms in latencies())


def test_a_run_on_rendered_pairs_learns_from_their_teachers_and_is_judged_on_their_val(
    prune: Prune, pairs: Path, tmp_path: Path
) -> None:
    learnt = {}
    for share in (0.0, 0.75):
        out = tmp_path / str(share)
        done = prune("--out", out, "--pairs", pairs, "--teacher-share", share, "--photos", "nowhere", "--lr", 0.01)
        assert done.exit_code == 0, done.output
        state, made = State.read(out), load_checkpoint(out / "pruned.safetensors")
        assert [step.kept for step in state.steps] == [True, True]
        assert state.steps[1].macs < state.steps[0].macs
        assert (state.settings["pairs"], state.settings["teacher_share"]) == (str(pairs), share)
        told = " ".join(made.info.provenance)
        assert "on 3 held-out photos x 2 styles" in told
        assert ("75% of the target the rendered teachers'" in told) is (share > 0)
        learnt[share] = made.generator.state_dict()
    cuts = [load_checkpoint(tmp_path / str(share) / "step-01" / "cut.safetensors").generator for share in learnt]
    same, other = (
        [torch.equal(one[name], two[name]) for name in one]
        for one, two in ((cuts[0].state_dict(), cuts[1].state_dict()), (learnt[0.0], learnt[0.75]))
    )
    assert all(same)  # what goes does not depend on the teachers, what is learnt afterwards does
    assert not all(other)
    refused = prune("--out", tmp_path / "0.75", "--pairs", pairs, "--teacher-share", 0.5, "--photos", "nowhere", "--lr",
                    0.01, "--resume")  # fmt: skip
    assert refused.exit_code == 2
    assert "has teacher-share 0.75, not 0.5" in refused.stderr


def test_pairs_without_one_of_the_styles_or_views_that_decide_are_refused(
    prune: Prune, pairs: Path, tmp_path: Path
) -> None:
    lacking = shutil.copytree(pairs, tmp_path / "pairs")
    (lacking / "train" / "v001" / "shard.json").write_text(json.dumps({"plan": {}, "teachers": {"a": "made"}}))
    assert "has no pairs of style 'b'" in prune("--pairs", lacking).stderr
    whole = shutil.copytree(pairs / "train", tmp_path / "whole" / "train")
    outcome = prune("--pairs", whole.parent)
    assert outcome.exit_code == 2
    assert f"{whole.parent / 'val'} holds no rendered pairs" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--checkpoint", "none.safetensors"), 2, "checkpoint none.safetensors does not exist"),
        (("--share", 0), 2, "share 0.0 is out of range"),
        (("--share", 1), 2, "share 1.0 is out of range"),
        (("--floor", 1.5), 2, "floor 1.5 is out of range"),
        (("--round-to", 12), 2, "round-to 12 is out of range: give a multiple of 8"),
        (("--until-macs", 1), 2, "until-macs 1.0 is out of range"),
        (("--steps", 0), 2, "steps 0 is out of range"),
        (("--minutes", 0), 2, "minutes 0.0 is out of range"),
        (("--size", 40), 2, "size 40 is out of range: give a multiple of 16"),
        (("--teacher-share", 0.5), 2, "teacher-share 0.5 needs teachers: give --pairs"),
        (("--pairs", "nowhere"), 2, "holds no rendered pairs"),
        (("--photos", "nowhere"), 2, "photo folder nowhere does not exist"),
        (("--round-to", 512), 2, "nothing is left to prune"),
        (("--resume",), 2, "holds no run to resume"),
        (("--floor", 1), 1, "below the floor of 1.0"),
    ],
)
def test_a_mistake_gets_one_sentence_and_its_exit_code(
    arguments: tuple[object, ...], code: int, words: str, prune: Prune
) -> None:
    outcome = prune(*arguments)
    assert outcome.exit_code == code, outcome.output
    line = outcome.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert words in line


def test_an_empty_photo_folder_and_one_photo_are_refused(prune: Prune, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    assert "holds no picture" in prune("--photos", tmp_path / "few").stderr
    (tmp_path / "few" / "0.png").write_bytes((photos / "0.png").read_bytes())
    assert "holds 1 photo" in prune("--photos", tmp_path / "few").stderr


def test_a_folder_in_use_is_refused(prune: Prune, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    outcome = prune()
    assert outcome.exit_code == 2
    assert "holds something already" in outcome.stderr
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_an_interrupt_says_how_to_go_on(prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RecoverTask, "training_step", interrupt)
    outcome = prune()
    assert outcome.exit_code == INTERRUPTED
    assert "with --resume goes on" in outcome.stderr
