"""The benchmark: its arithmetic by hand, its verdicts on made-up figures, its files, its refusals, one small race."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("executorch", reason="needs the extra export")
pytest.importorskip("litert_torch", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("matplotlib", reason="needs the extra report")

from typer.testing import CliRunner

from converters import benchmark, peak, plots
from converters.bars import BARS, Bar, Bound, Reading, Standing, judge, judge_bar
from converters.figures import NOT_A_PHONE, Figures, Floor, Quality, figures_text, read_figures, read_quality
from converters.growth import excess_growth, ms_per_megapixel
from converters.page import page_text
from converters.peers import Contestant, Performance, Role, artifact_contestants, baseline_contestant, race, time_ratio
from converters.request import ExportOptions, ExportSpec
from converters.to_onnx import to_onnx, write_reference
from sdk.bundle import BundleWriter, ModelInfo
from sdk.errors import UsageError
from sdk.host import Host
from sdk.latency import summarize
from sdk.spec import Backend, Precision, Target
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.models.baselines import BASELINES
from training.models.generator import count_macs

HOST = Host(os="Linux", cpu="A processor", isa=("avx2",), cores=2, threads=2, versions={"onnxruntime": "1.0"})


def performed(
    name: str,
    *round_ms: float,
    role: Role = Role.ARTIFACT,
    runtime: str = "onnxruntime",
    precision: Precision = Precision.FP32,
    macs: int = 1_000_000,
    side: int = 256,
    peak: int = 100_000_000,
) -> Performance:
    return Performance(
        name=name,
        role=role,
        runtime=runtime,
        precision=precision,
        size=(side, side),
        bytes=1_000_000,
        macs=macs,
        latency_ms=summarize(round_ms, threads=2),
        round_p50_ms=round_ms,
        peak_rss_bytes=peak,
    )


def figures(*race: Performance, **more: object) -> Figures:
    return Figures(
        model="toonedge",
        checkpoint_sha256="0" * 64,
        created="2026-11-24T00:00:00+00:00",
        command="dist",
        params=256_388,
        macs=1_000_000,
        size=(256, 256),
        rounds=3,
        runs=15,
        host=HOST,
        race=race,
        **more,  # type: ignore[arg-type]
    )


BASELINE = performed("fast-neural-style-16", 40.0, 60.0, 44.0, role=Role.BASELINE, macs=20_000_000)

# A bundle that meets every bar exactly or better.
GOOD = figures(
    performed("toonedge", 2.5, 3.0, 2.75),
    performed("toonedge", 2.75, 3.3, 3.025, precision=Precision.INT8),
    performed("toonedge", 2.0, 2.5, 2.2, runtime="litert"),
    performed("toonedge", 2.5, 3.125, 2.75, runtime="executorch"),
    performed("toonedge (parent)", 10.0, 10.0, 10.0, role=Role.PARENT, macs=7_000_000),
    BASELINE,
    performed("1x1x1", 10.0, 10.0, 10.0, role=Role.GEMM, macs=10_000_000),
    growth=(performed("toonedge", 1.0, side=128), performed("toonedge", 64.0, side=1024)),
    floors=tuple(Floor(runtime=name, peak_rss_bytes=60_000_000) for name in ("onnxruntime", "litert", "executorch")),
    quality=(
        Quality(
            file="a.onnx", backend="ort", precision=Precision.FP32, bytes=1_000_000, ssim_mean=1.0, ssim_worst=0.999
        ),
    ),
)


# --- arithmetic


def test_a_ratio_is_formed_within_each_round_and_its_median_is_not_that_of_the_medians() -> None:
    ratio = time_ratio(BASELINE, performed("toonedge", 4.0, 3.0, 4.0))
    assert (ratio.min, ratio.median, ratio.max) == (10.0, 11.0, 20.0)  # 40/4, 44/4, 60/3


def test_the_share_of_the_peak_takes_the_best_product_of_each_round() -> None:
    """Round 1: 3 MMAC in 3 ms against max(8/4, 6/2) = 3 MMAC/ms: 1/3. Round 2: 3/2 against max(8/2, 6/3) = 4: 0.375."""
    gemms = (performed("a", 4.0, 2.0, macs=8_000_000), performed("b", 2.0, 3.0, macs=6_000_000))
    share = peak.peak_share(performed("net", 3.0, 2.0, macs=3_000_000), gemms)
    assert (share.min, share.max) == (pytest.approx(1 / 3), pytest.approx(0.375))
    assert share.median == pytest.approx((1 / 3 + 0.375) / 2)
    rate = peak.peak_gmac_per_s(gemms)
    assert (rate.min, rate.max) == (pytest.approx(3.0), pytest.approx(4.0))  # 3 and 4 MMAC/ms are 3 and 4 GMAC/s


def test_achieved_multiplications_a_second_are_worked_by_hand() -> None:
    assert performed("net", 4.0, 5.0, 9.0, macs=320_000_000).gmac_per_s == pytest.approx(64.0)


@pytest.mark.parametrize(
    ("times_ms", "excess", "side"),
    [
        ({128: 1.0, 256: 4.0, 1024: 64.0}, 1.0, 256),
        ({128: 1.0, 256: 3.0, 1024: 60.0}, 60 / 64, 1024),
        ({1024: 60.0, 128: 1.0, 256: 5.0}, 1.25, 256),  # a bulge in the middle counts, in whatever order they come
    ],
)
def test_growth_is_the_worst_of_all_sizes_against_the_smallest(
    times_ms: dict[int, float], excess: float, side: int
) -> None:
    value, where = excess_growth([performed("net", ms, side=side) for side, ms in times_ms.items()])
    assert value == pytest.approx(excess)
    assert where.size == (side, side)


def test_milliseconds_a_megapixel_are_worked_by_hand() -> None:
    assert ms_per_megapixel(performed("net", 50.0, side=1000)) == pytest.approx(50.0)


# --- bars


def standings(measured: Figures) -> dict[str, Standing]:
    return {judgement.name: judgement.standing for judgement in judge(measured)}


def test_a_bundle_at_the_limits_holds_every_bar() -> None:
    assert set(standings(GOOD).values()) == {Standing.HOLDS}
    values = [judgement.value for judgement in judge(GOOD)]
    assert values == [pytest.approx(v) for v in (16.0, 20.0, 1.25, 70.0, 1.0, 40.0, 1.1)]


def spoilt(index: int, **changes: object) -> Figures:
    race = list(GOOD.race)
    race[index] = dataclasses.replace(race[index], **changes)
    return dataclasses.replace(GOOD, race=tuple(race))


@pytest.mark.parametrize(
    ("measured", "short"),
    [
        (spoilt(0, round_p50_ms=(2.6, 3.1, 2.8)), {0}),
        (spoilt(1, round_p50_ms=(5.5, 6.6, 6.05)), {6}),
        (spoilt(2, round_p50_ms=(2.4, 3.0, 2.64)), {1}),
        (spoilt(3, round_p50_ms=(2.6, 3.2, 2.86)), {2}),
        (spoilt(4, macs=6_900_000), {3}),
        (spoilt(0, peak_rss_bytes=100_100_000), {5}),
        (
            dataclasses.replace(
                GOOD, growth=(*GOOD.growth[:1], dataclasses.replace(GOOD.growth[1], round_p50_ms=(65.0,)))
            ),
            {4},
        ),
    ],
)
def test_each_bar_falls_short_by_its_own_figure(measured: Figures, short: set[int]) -> None:
    expected = {bar.name: Standing.SHORT if row in short else Standing.HOLDS for row, bar in enumerate(BARS)}
    assert standings(measured) == expected


def test_what_was_not_measured_is_said_with_what_to_do_and_does_not_hold() -> None:
    found = judge(figures(performed("toonedge", 1.0, 1.0, 1.0)))
    assert {judgement.standing for judgement in found} == {Standing.UNKNOWN}
    assert any("--parent" in judgement.text for judgement in found)


def test_a_shortfall_is_relative_to_the_limit() -> None:
    bar = Bar(name="speed", bound=Bound.AT_LEAST, limit=16, unit="x", read=lambda _: None, missing="")
    assert judge_bar(bar, Reading(value=12)).text == "falls short: speed: 12x (at least 16x, 25.0% off)"
    bar = dataclasses.replace(bar, bound=Bound.AT_MOST, limit=40)
    assert judge_bar(bar, Reading(value=50)).text == "falls short: speed: 50x (at most 40x, 25.0% off)"
    assert judge_bar(bar, Reading(value=float("nan"))).standing is Standing.SHORT


# --- files


def test_the_json_comes_back_as_it_was_and_says_that_it_is_no_phones(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    benchmark.write(GOOD, tmp_path)
    assert read_figures(path) == GOOD
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    assert content["note"] == NOT_A_PHONE
    assert [bar["standing"] for bar in content["bars"]] == ["holds"] * len(BARS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(schema=2), "schema"),
        (lambda content: content["race"][0].pop("macs"), r"race\[0\].macs is missing"),
        (lambda content: content["race"][0].update(role="rival"), "role"),
    ],
)
def test_another_json_is_refused_in_one_sentence(tmp_path: Path, change: object, words: str) -> None:
    content = json.loads(figures_text(GOOD))
    change(content)  # type: ignore[operator]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=words):
        read_figures(path)


def test_the_page_names_the_host_and_the_command_and_shows_every_contestant() -> None:
    text = page_text(GOOD, ["times_faster.png"])
    assert NOT_A_PHONE in text
    assert "A processor" in text
    assert "`python -m converters.benchmark dist`, 2026-11-24" in text
    assert "| fast-neural-style-16 | onnxruntime fp32 | 44.00 | 40.00 to 60.00 | 1.0 |" in text
    assert "| toonedge | litert fp32 | 2.20 | 2.00 to 2.50 | 20.0 | 20.0 to 24.0 |" in text
    assert "| onnxruntime fp32 | 1024x1024 | 64.00 |" in text
    assert "![times faster](times_faster.png)" in text
    assert "- holds: growth of latency" in text


def test_a_noisy_host_is_said_so() -> None:
    impossible = spoilt(4, macs=12_000_000)  # more than the peak
    assert "not quiet" in page_text(impossible)
    assert "not quiet" not in page_text(GOOD)


def test_every_plot_is_drawn_and_none_without_its_figures(tmp_path: Path) -> None:
    names = plots.write_plots(GOOD, tmp_path)
    assert set(names) == {"latency_against_size.png", "ssim_against_bytes.png", "times_faster.png"}
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert plots.write_plots(figures(performed("toonedge", 1.0)), tmp_path / "none") == ()


# --- a small race


@pytest.fixture(scope="module")
def bundle(network, tmp_path_factory):
    """A bundle of a narrow network with one ONNX artifact, 32 x 32, and its checkpoint beside it."""
    from converters.graph import deployable

    folder = tmp_path_factory.mktemp("bench")
    styles = ("a", "b", "c")
    checkpoint_file = folder / "narrow.safetensors"
    save_checkpoint(checkpoint_file, network, CheckpointInfo(name="narrow", version="1", styles=styles))
    checkpoint = load_checkpoint(checkpoint_file)
    model = ModelInfo(
        name="narrow",
        version="1",
        checkpoint_sha256=checkpoint.sha256,
        styles=styles,
        params=1,
        macs=count_macs(network, 64, 64),
        macs_size=(64, 64),
        licence="Apache-2.0",
        author="nobody",
    )
    spec = ExportSpec(
        name="narrow",
        version="1",
        author="nobody",
        licence="Apache-2.0",
        styles=styles,
        target=Target.ONNX,
        backend=Backend.ORT,
        precision=Precision.FP32,
        size=(32, 32),
    )
    with BundleWriter(folder / "dist", model, toonedge="test") as writer:
        writer.set_reference(write_reference(checkpoint, writer.folder))
        writer.add(to_onnx(deployable(network), spec, ExportOptions(folder=writer.folder)))
        made = writer.commit()
    return made, checkpoint_file


def test_artifacts_enter_with_the_multiplications_of_their_own_size(bundle, network) -> None:
    (contestant,) = artifact_contestants(bundle[0], [Precision.FP32])
    assert contestant.runtime == "onnxruntime"
    assert contestant.macs == count_macs(network, 32, 32)
    assert contestant.weights == (1.0, 0.0, 0.0)
    with pytest.raises(UsageError, match="no multi-style artifact in int8"):
        artifact_contestants(bundle[0], [Precision.INT8])


def test_a_race_times_a_network_a_baseline_and_a_matrix_product(bundle, tmp_path: Path) -> None:
    contestants = (
        *artifact_contestants(bundle[0], [Precision.FP32]),
        baseline_contestant("fast-neural-style-8-paper", tmp_path, (64, 64)),
        peak.gemm_contestant("onnxruntime", (64, 32, 16), tmp_path),
    )
    # However slow the machine is, both runs fit into the turn.
    artifact, baseline, gemm = race(contestants, threads=1, rounds=2, runs=2, turn_ms=1e6)
    assert [one.role for one in (artifact, baseline, gemm)] == [Role.ARTIFACT, Role.BASELINE, Role.GEMM]
    assert [one.size for one in (artifact, baseline, gemm)] == [(32, 32), (64, 64), (64, 32)]
    assert gemm.macs == 64 * 32 * 16
    assert all(len(one.round_p50_ms) == 2 and one.latency_ms.n == 4 for one in (artifact, baseline, gemm))
    assert all(one.median_ms > 0 and one.bytes > 0 for one in (artifact, baseline, gemm))


def test_what_takes_long_makes_fewer_runs(bundle) -> None:
    (slow,) = race(artifact_contestants(bundle[0], [Precision.FP32]), threads=1, rounds=1, runs=9, turn_ms=0.0)
    assert slow.latency_ms.n == 1


def test_two_contestants_that_cannot_be_told_apart_are_refused(bundle) -> None:
    (contestant,) = artifact_contestants(bundle[0], [Precision.FP32])
    with pytest.raises(UsageError, match="2 contestants have 1 names"):
        race([contestant, contestant])


@pytest.mark.parametrize("runtime", peak.WRITERS)
def test_a_matrix_product_computes_the_product_in_every_runtime(runtime: str, tmp_path: Path) -> None:
    from sdk.runtimes import get_runtime

    torch.manual_seed(0)
    contestant: Contestant = peak.gemm_contestant(runtime, (4, 3, 2), tmp_path)
    torch.manual_seed(0)
    weight = torch.nn.Linear(3, 2, bias=False).weight.detach().numpy()
    rows = np.random.default_rng(1).random((4, 3), dtype=np.float32)
    with get_runtime(runtime).load(contestant.path, contestant.io) as session:
        np.testing.assert_allclose(session.run(rows), rows @ weight.T, rtol=1e-4, atol=1e-5)


def test_the_whole_benchmark_measures_sizes_and_memory(bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SHAPES", ((32, 32, 32),))
    made, checkpoint = bundle
    plan = benchmark.Plan(
        baselines=("fast-neural-style-8",),
        precisions=(Precision.FP32,),
        checkpoint=checkpoint,
        parent=checkpoint,
        sides=(32, 64),
        threads=1,
        rounds=1,
        runs=2,
    )
    said: list[str] = []
    measured = benchmark.benchmark(made.folder, plan, say=said.append)
    assert [(one.role, one.runtime) for one in measured.race] == [
        (Role.ARTIFACT, "onnxruntime"),
        (Role.PARENT, "onnxruntime"),
        (Role.BASELINE, "onnxruntime"),
        (Role.GEMM, "onnxruntime"),
    ]
    assert [one.size for one in measured.growth_in("onnxruntime")] == [(32, 32), (64, 64)]
    assert [floor.runtime for floor in measured.floors] == ["onnxruntime"]
    assert measured.macs == measured.race[0].macs
    assert measured.share(measured.race[1]) is not None
    assert any("fast-neural-style-8" in words for words in said)


# --- refusals


def test_a_checkpoint_that_is_not_the_bundles_is_refused(bundle, tmp_path: Path) -> None:
    plan = benchmark.Plan(baselines=(), precisions=(Precision.FP32,))  # the shipped checkpoint
    with pytest.raises(UsageError, match="give the bundle's own with --checkpoint"):
        benchmark.prepare(bundle[0], plan, tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    import typer

    app = typer.Typer()
    app.command()(benchmark.main)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_a_missing_bundle_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    code, output = run(tmp_path / "nothing", "--out", tmp_path / "out")
    assert code == 2
    assert output.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_an_unknown_baseline_suggests_the_nearest_before_anything_is_exported(bundle, tmp_path: Path) -> None:
    code, output = run(bundle[0].folder, "--baseline", "animeganv3", "--out", tmp_path / "out")
    assert code == 2
    assert "did you mean 'animeganv2'" in output
    assert "exporting" not in output


def test_a_report_of_another_bundle_is_refused(bundle, tmp_path: Path) -> None:
    from sdk.report import write_json
    from sdk.verify import Report

    path = tmp_path / "report.json"
    report = Report(model="x", checkpoint_sha256="f" * 64, created="", toonedge="", photos=(), host=HOST, results=())
    write_json(report, path)
    with pytest.raises(UsageError, match="verify this bundle again"):
        read_quality(path, bundle[0])


def test_check_exits_1_when_a_bar_falls_short_and_0_without_it(tmp_path: Path) -> None:
    short = spoilt(0, round_p50_ms=(5.0, 5.0, 5.0))
    benchmark.write(short, tmp_path / "earlier")
    again = ("--reuse", tmp_path / "earlier" / "bench.json", "--out", tmp_path / "again")
    code, output = run(*again)
    assert code == 0
    assert "falls short: ONNX Runtime fp32" in output
    assert NOT_A_PHONE in output
    assert run(*again, "--check")[0] == 1
    benchmark.write(GOOD, tmp_path / "good")
    assert run("--reuse", tmp_path / "good" / "bench.json", "--out", tmp_path / "again", "--check")[0] == 0


def test_all_baselines_race_by_default() -> None:
    assert benchmark.Plan().baselines == tuple(BASELINES)
