"""The pruning run: what it keeps, where it stops, what it writes, and that it goes on as if nothing had been."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch_pruning", reason="needs the extra export")

import torch
from PIL import Image
from torch import nn

from converters import prune as pruning
from converters.channels import Ranking
from converters.graph import deployable, example_inputs
from converters.material import draw, side_by_side, similarity
from converters.prune import PRUNED, PruneSettings, prune
from converters.prune_steps import COLUMNS, Similarity, State
from converters.to_onnx import save, trace
from sdk.errors import GateError, UsageError
from sdk.imaging import list_photos
from sdk.verify import load_photos
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.config import make_recipe
from training.data.pairs import PairDataset
from training.models.generator import Generator, count_macs
from training.models.norm import ConditionalNorm2d
from training.tasks.recover import RecoverTask, photo_shard, reestimate_statistics

STYLES = ("comic", "anime", "pencil")
#: Judged at 32 px, recovered for four steps of two crops: seconds, not quality.
QUICK: dict[str, object] = {"recovery_steps": 4, "crop": 32, "batch": 2, "size": 32, "floor": -1, "share": 0.3}
Prune = Callable[..., State]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(8):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, build_network: Callable[..., Generator]) -> Path:
    network = build_network(stem=16, widths=(16, 16, 16, 24), fused=(True, False, False, False))
    info = CheckpointInfo(name="tiny", version="1.0", styles=STYLES, size=(32, 32), provenance=("made for a test",))
    path = tmp_path_factory.mktemp("parent") / "tiny.safetensors"
    save_checkpoint(path, network, info)
    return path


@pytest.fixture(scope="module", autouse=True)
def _short_stretches() -> Iterator[None]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "_STRETCH", 2)
        patch.setattr(pruning, "_STATISTICS_BATCHES", 2)
        yield
    torch.set_num_threads(threads)


def start(out: Path, checkpoint: Path, photos: Path, **options: object) -> State:
    """``prune`` with quick settings; keywords that are settings go there."""
    names = {field.name for field in dataclasses.fields(PruneSettings)}
    settings = QUICK | {"photos": str(photos)} | {k: options.pop(k) for k in list(options) if k in names}
    common = {"steps": 2, "test": photos, "latency": False, "quiet": True} | options
    return prune(checkpoint, out=out, settings=PruneSettings(**settings), **common)  # type: ignore[arg-type]


@pytest.fixture
def run(parent: Path, photos: Path, tmp_path: Path) -> Prune:
    """``start`` into ``tmp_path / "run"``."""
    return lambda checkpoint=parent, **options: start(tmp_path / "run", checkpoint, photos, **options)


@pytest.fixture(scope="module")
def whole(parent: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two steps; no test may change it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    start(folder, parent, photos)
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    """The CSV's rows without what depends on the clock."""
    with (folder / "table.csv").open() as file:
        return [{k: v.split(",")[0] for k, v in row.items() if k != "latency ms"} for row in csv.DictReader(file)]


def test_every_step_is_narrower_and_the_output_is_an_ordinary_checkpoint_of_the_last(whole: Path, parent: Path) -> None:
    state = State.read(whole)
    unpruned, made = load_checkpoint(parent), load_checkpoint(whole / PRUNED)
    assert [step.number for step in state.steps] == [0, 1, 2]
    assert [step.kept for step in state.steps] == [True, True, True]
    macs = [step.macs for step in state.steps]
    assert macs[0] == count_macs(unpruned.generator, 32, 32) > macs[1] > macs[2] == count_macs(made.generator, 32, 32)
    assert state.steps[0].ssim == Similarity(mean=1.0, worst=1.0)
    assert all(step.recovery_steps == 4 for step in state.steps[1:])
    assert made.generator.config.pruned is not None
    assert (made.info.name, made.info.styles) == ("tiny", STYLES)
    told = " ".join(made.info.provenance)
    for words in (
        "made for a test",
        unpruned.sha256,
        "2 steps of 30%",
        "for 4 steps of 2 crops",
        "step 1 was recovered",
    ):
        assert words in told
    rows = table(whole)
    assert [row["step"] for row in rows] == ["parent", "1", "2"]
    assert rows[2]["SSIM"] == f"{state.steps[2].ssim.mean:.4f}"
    markdown = (whole / "table.md").read_text().splitlines()
    assert markdown[0] == f"| {' | '.join(COLUMNS)} |"
    assert len(markdown) == 5
    assert not list(whole.glob(".*"))


def test_parent_and_output_stand_side_by_side_on_a_sheet(whole: Path) -> None:
    styles = len(load_checkpoint(whole / PRUNED).info.styles)
    with Image.open(whole / "sheet.png") as sheet:
        assert sheet.width == 6 + (1 + 2 * styles) * (160 + 6)
    shades = np.linspace(0, 1, 10, dtype=np.float32)
    photos = np.broadcast_to(shades[:2, None, None, None], (2, 16, 16, 3))
    parent, pruned = (
        np.broadcast_to(some.reshape(2, 2, 1, 1, 1), (2, 2, 16, 16, 3)) for some in (shades[2:6], shades[6:])
    )
    made = np.asarray(side_by_side(photos, parent, pruned, styles=("a", "b"), title="two photos"))
    centres = [made[made.shape[0] // 4 :, 6 + 166 * place + 80, 0] for place in range(5)]
    seen = [[value for value in dict.fromkeys(centre.tolist()) if value not in (255, 40)] for centre in centres]
    wanted = [shades[:2], parent[0, :, 0, 0, 0], pruned[0, :, 0, 0, 0], parent[1, :, 0, 0, 0], pruned[1, :, 0, 0, 0]]
    assert seen == [[round(float(v) * 255) for v in row if v < 1] for row in wanted]


def test_the_figures_are_those_of_the_network_that_was_put_out(whole: Path, parent: Path, photos: Path) -> None:
    pictures = load_photos(list_photos(photos)[::4], (32, 32))
    wanted = draw(load_checkpoint(parent).generator, pictures, styles=len(STYLES))
    found = similarity(load_checkpoint(whole / PRUNED).generator, pictures, wanted)
    assert found == State.read(whole).steps[2].ssim
    assert found.worst <= found.mean < 1


def test_a_pruned_checkpoint_exports_and_its_onnx_file_draws_the_same(whole: Path, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    network = load_checkpoint(whole / PRUNED).generator
    graph = deployable(network)
    save(trace(graph, example_inputs(graph, (32, 48))), tmp_path / "pruned.onnx", {"name": "pruned"})
    image, style = torch.rand(1, 3, 32, 48), torch.tensor([[0.5, 0.0, 0.5]])
    session = ort.InferenceSession(str(tmp_path / "pruned.onnx"), providers=["CPUExecutionProvider"])
    drawn = session.run(None, {"image": image.numpy(), "style": style.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(drawn, network(image, style).numpy(), atol=1e-5)


def test_the_step_below_the_floor_ends_the_run_and_is_not_put_out(
    run: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = iter([1.0, 1.0, 0.3, 0.9, 0.9, 0.2, 0.7, 0.7])  # parent, test; then cut, recovered and test of each step
    monkeypatch.setattr(pruning, "similarity", lambda *_: Similarity(mean=next(judged), worst=0.0))
    state = run(steps=5, floor=0.8)
    assert [step.kept for step in state.steps] == [True, True, False]
    assert state.best.number == 1
    assert "below the floor of 0.8" in state.end
    made = load_checkpoint(tmp_path / "run" / PRUNED)
    assert count_macs(made.generator, 32, 32) == state.steps[1].macs
    assert [row["kept"] for row in table(tmp_path / "run")] == ["yes", "yes", "no"]


def test_a_first_step_below_the_floor_is_a_failed_gate_with_its_table_written(run: Prune, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"step 1 has an SSIM of 0\.\d+ .* below the floor of 1") as caught:
        run(floor=1.0)
    assert "\n" not in str(caught.value)
    assert [row["kept"] for row in table(tmp_path / "run")] == ["yes", "no"]
    assert not (tmp_path / "run" / PRUNED).exists()


def test_until_macs_ends_the_run_and_cuts_no_more_than_it_takes(run: Prune, whole: Path) -> None:
    free = State.read(whole)
    state = run(until_macs=0.9)
    shares = [step.macs / state.steps[0].macs for step in state.steps]
    assert free.steps[1].macs / free.steps[0].macs < shares[1] <= 0.9
    assert len(shares) == 2
    assert "90%" in state.end


@pytest.mark.parametrize("ranking", [Ranking.LAYER, Ranking.DAMAGE])
def test_the_other_rankings_prune_too(ranking: Ranking, run: Prune) -> None:
    state = run(ranking=ranking, steps=1, share=0.4, recovery_steps=2)
    assert state.steps[1].macs < 0.85 * state.steps[0].macs


def test_a_run_that_stopped_after_a_step_and_one_killed_in_a_recovery_go_on_to_the_same_table(
    run: Prune, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(steps=1)
    assert len(table(tmp_path / "run")) == 2
    step = RecoverTask.training_step
    seen: list[int] = []

    def killed(self: RecoverTask, batch: object, batch_idx: int) -> torch.Tensor:
        seen.append(self.global_step)
        if len(seen) == 4:  # the last batch of the second stretch
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(RecoverTask, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(resume=True)
    assert len(table(tmp_path / "run")) == 2
    run(resume=True)
    assert seen == [0, 1, 2, 3, 2, 3]
    assert table(tmp_path / "run") == table(whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "holds something already: go on with --resume"),
        ({"resume": True, "share": 0.2}, r"has share 0\.3, not 0\.2"),
        ({"resume": True, "checkpoint": True}, "prunes another checkpoint"),
    ],
)
def test_another_run_in_the_folder_is_left_alone(
    options: dict, words: str, whole: Path, parent: Path, photos: Path
) -> None:
    path = parent
    if options.get("checkpoint"):
        other, path = load_checkpoint(parent), parent.with_name("other.safetensors")
        other.generator.tail.bias.data += 1e-3
        save_checkpoint(path, other.generator, other.info)
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*")}
    with pytest.raises(UsageError, match=words) as caught:
        start(whole, path, photos, **{k: v for k, v in options.items() if k != "checkpoint"})
    assert "\n" not in str(caught.value)
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*")} == before


def test_resuming_without_a_run_gets_one_sentence(run: Prune) -> None:
    with pytest.raises(UsageError, match="holds no run to resume: leave --resume out"):
        run(resume=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "steps": [{}]}'])
def test_a_damaged_state_gets_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UsageError, match="start anew in another --out") as caught:
        State.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_network_at_its_least_widths_has_nothing_left_to_prune(run: Prune, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is left to prune: every group of channels has 512 or fewer"):
        run(round_to=512)
    assert not list((tmp_path / "run").iterdir())


def test_statistics_are_the_means_over_the_batches_and_nothing_else_changes(
    build_network: Callable[..., Generator],
) -> None:
    network = build_network()
    weights = {name: value.clone() for name, value in network.named_parameters()}
    momentum = [m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d | ConditionalNorm2d)]
    batches = [(torch.rand(2, 3, 32, 32), torch.eye(3)[:2]) for _ in range(3)]
    reestimate_statistics(network, batches)
    features = network.encoder.features
    with torch.no_grad():
        each = [features.conv_stem(image) for image, _ in batches]
    torch.testing.assert_close(features.bn1.running_mean, torch.stack([x.mean((0, 2, 3)) for x in each]).mean(0))
    torch.testing.assert_close(features.bn1.running_var, torch.stack([x.var((0, 2, 3)) for x in each]).mean(0))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | ConditionalNorm2d)]
    assert [m.momentum for m in norms] == momentum
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(value, weights[name]) for name, value in network.named_parameters())


def test_views_of_photos_are_squares_that_differ_and_stand_in_for_every_style() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    shard = photo_shard([photo, photo], 3, size=32, views=3, seed=1)
    assert shard.photos.shape == (6, 32, 32, 3)
    assert len(shard.teachers) == 3
    assert all(teacher is shard.photos for teacher in shard.teachers)
    assert np.array_equal(shard.photos[0], shard.photos[3])  # the middle of the same photo
    assert not np.array_equal(shard.photos[1], shard.photos[4])
    sample = PairDataset([shard], crop=16, mix_share=1.0)[0]
    assert sample[1].sum() == pytest.approx(1)


def test_the_parent_is_asked_for_the_very_crop_and_blended_with_the_teacher(parent: Path, tmp_path: Path) -> None:
    whole = load_checkpoint(parent)
    recipe = make_recipe(
        {
            "name": "a",
            "styles": list(STYLES),
            "generator": {k: v for k, v in whole.generator.config.to_dict().items() if k != "styles"},
        }
    )
    image, style = torch.rand(2, 3, 32, 32), torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0]])
    teacher = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        drawn = whole.generator(image, style)
    for share, wanted in ((0.0, drawn), (0.25, 0.75 * drawn + 0.25 * teacher), (1.0, teacher)):
        task = RecoverTask(recipe, parent=whole.generator, info=whole.info, teacher_share=share)
        torch.testing.assert_close(task.target(image, style, teacher), wanted)
    assert not any(name.startswith("_parent") for name in task.state_dict())


def test_networks_are_timed_in_onnx_runtime(parent: Path) -> None:
    pytest.importorskip("onnxruntime")
    network = load_checkpoint(parent).generator
    found = pruning.time_networks({"a": network, "b": network}, size=(32, 32), threads=1, rounds=1, runs=2)
    assert set(found) == {"a", "b"}
    assert all(0 < ms < 1000 for ms in found.values())
